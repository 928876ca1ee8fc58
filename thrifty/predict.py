"""`thrifty predict`: label maps of files, folders, volumes and series, in the geometry of what came in."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thrifty import __version__
from thrifty.data.cases import Unreadable
from thrifty.data.voi import Window, parse_window
from thrifty.errors import ThriftyError, one_line
from thrifty.found_files import Item, find_items, target_of
from thrifty.predictor import Predictor, load
from thrifty.results import read_json, user_errors, write_json
from thrifty.scans import map_path, read_scan, stack_path, write_label_map, write_map

SCHEMA = 1
MANIFEST = "predictions.json"
OUTPUT_ENDINGS = (".png", ".nii", ".nii.gz", ".dcm")
MAPS = ("probabilities", "uncertainty")


@dataclass(frozen=True)
class Wanted:
    """What is written. `format`: of DICOM, 'seg' or 'png'. `slice_axis`: instead of the one that the network was trained with.

    `window`: through which DICOM is seen.
    """

    flips: bool = False
    probabilities: bool = False
    uncertainty: bool = False
    visible: bool = False
    format: str = "seg"
    slice_axis: int | None = None
    window: Window = "none"


@dataclass(frozen=True)
class Predicted:
    """What became of the inputs: label maps written, label maps that were there, and what was wrong with the other inputs."""

    written: tuple[Path, ...]
    kept: tuple[Path, ...]
    failed: dict[str, str]


def predict_files(
    model: str | Path,
    inputs: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    flips: bool = False,
    probabilities: bool = False,
    uncertainty: bool = False,
    visible: bool = False,
    format: str = "seg",
    slice_axis: int | None = None,
    window: str = "none",
    overwrite: bool = False,
    device: str = "auto",
    allow_code: bool = False,
) -> Predicted:
    """Predicts files and writes label maps: PNG of class ids for pictures, NIfTI for NIfTI, DICOM-SEG for DICOM.

    An input that cannot be predicted is told in `failed` and on stderr, and the others go on. In a folder of outputs of the same
    networks and settings what is there already is kept, so that an interrupted prediction goes on.

    Args:
        model: folder of a trained network, or of several, which are an ensemble.
        inputs: files and folders, folders with all below them.
        output: a folder, or for a single input a file.
        flips: average over the four mirror images.
        probabilities: also write them.
        uncertainty: also write the predictive entropy (0 sure, 1 all classes equally likely).
        visible: PNG of grey values that are far apart instead of class ids.
        format: of DICOM inputs: 'seg' (DICOM-SEG) or 'png'.
        slice_axis: 0, 1 or 2 (of a volume turned closest to RAS); None: as the network was trained, otherwise 2.
        window: of DICOM inputs: 'none' (modality values), 'file' (each file's own) or centre and width as in '40,400'; the one
            that `thrifty data import` wrote the training images with.
        overwrite: also write what is there already; what other networks or settings wrote of these inputs is deleted first.
        device: auto, cpu or cuda.
        allow_code: lets ops of the form module:Class be imported.

    Raises:
        ThriftyError: no model, no inputs, outputs of other networks or settings in the way, a full disk.
    """
    if format not in ("seg", "png"):
        raise ThriftyError(f"format is '{format}'; allowed are seg (DICOM-SEG) and png")
    if slice_axis not in (None, 0, 1, 2):
        raise ThriftyError(f"slice_axis is {slice_axis}; allowed are 0, 1 and 2")
    seen_through = parse_window(window)
    predictor = load(model, device, allow_code)
    if predictor.model.overlapping and format == "seg":
        format = "png"  # a DICOM-SEG here has one segment for each pixel
    paths = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    wanted = Wanted(flips, probabilities, uncertainty, visible, format, slice_axis, seen_through)
    return _predict(predictor, [Path(p).expanduser() for p in paths], Path(output).expanduser(), wanted, overwrite)


def _predict(predictor: Predictor, inputs: Sequence[Path], output: Path, wanted: Wanted, overwrite: bool) -> Predicted:
    items = find_items(inputs, predictor.channels, output)
    single = output.name.lower().endswith(OUTPUT_ENDINGS) and not output.is_dir()
    if single and len(items) > 1:
        raise ThriftyError(f"{output} is one file, but there are {len(items)} things to predict; give a folder")
    targets = [target_of(item, output, single, ".dcm" if wanted.format == "seg" else ".png") for item in items]
    there = [is_there(target) for target in targets]
    if not overwrite:
        _check_output(predictor, output, wanted, single, [t for t, is_done in zip(targets, there, strict=True) if is_done])
    elif not single:
        _clear_output(predictor, output, wanted, items, targets)
    if not single:
        write_json(output / MANIFEST, manifest(predictor, wanted))
    kept = [target for target, is_done in zip(targets, there, strict=True) if is_done and not overwrite]
    todo = [(item, target) for item, target in zip(items, targets, strict=True) if target not in kept]
    written, failed = [], {}
    for item, target in _progress(todo):
        try:
            predict_item(predictor, item, target, wanted)
            written.append(target)
        except Unreadable as error:
            failed[item.shown] = f"{error.kind}: {error.name}"
            print(f"error: {item.shown}: {one_line(failed[item.shown])}", file=sys.stderr, flush=True)
    return Predicted(tuple(written), tuple(kept), failed)


def predict_item(predictor: Predictor, item: Item, target: Path, wanted: Wanted) -> None:
    """One label map; other maps come before it, so that a label map that is there says that all is done.

    Raises:
        Unreadable: the input cannot be read, or does not fit the network.
        ThriftyError: the output cannot be written.
    """
    axis = predictor.model.slice_axis if wanted.slice_axis is None else wanted.slice_axis
    scan = read_scan(item.kind, item.files, predictor.channels, axis, wanted.window)
    maps = predictor.maps(scan.slices, wanted.flips, wanted.probabilities, wanted.uncertainty)
    stem = _stem(target)
    with user_errors(target):
        for kind, values in (("probabilities", maps.probabilities), ("uncertainty", maps.uncertainty)):
            if values is not None:
                write_map(stem, kind, scan, values)
        hashes = predictor.members[0].weights_sha256
        largest = predictor.largest_label if wanted.visible else None
        write_label_map(target, scan, maps.labels, predictor.classes, largest, hashes)


def _stem(target: Path) -> Path:
    name = target.name.removesuffix(".gz")
    return target.with_name(name[: name.rindex(".")])


def is_there(target: Path) -> bool:
    """Whether a label map is written, as a file or as a stack of pictures."""
    return target.is_file() or (target.suffix == ".png" and stack_path(target).is_file())


def manifest(predictor: Predictor, wanted: Wanted) -> dict[str, Any]:
    """predictions.json: what the label maps of a folder are of."""
    return {
        "schema": SCHEMA,
        "thrifty": __version__,
        "networks": [{"name": m.model.network.name, "weights_sha256": m.weights_sha256} for m in predictor.members],
        "labels": list(predictor.classes),
        "postprocess": predictor.postprocess.name,
        "flips": wanted.flips,
        "visible": wanted.visible,
        "format": wanted.format,
        "slice_axis": predictor.model.slice_axis if wanted.slice_axis is None else wanted.slice_axis,
        "window": None if wanted.window == "none" else wanted.window if wanted.window == "file" else list(wanted.window),
        "maps": [kind for kind in MAPS if getattr(wanted, kind)],
    }


def _check_output(predictor: Predictor, output: Path, wanted: Wanted, single: bool, there: Sequence[Path]) -> None:
    """Refuses to mix the label maps of different networks or settings, and to take a file that is no label map for one."""
    if single:
        if there:
            raise ThriftyError(f"{output} is there already; give another name, or --overwrite")
        return
    path = output / MANIFEST
    if not path.is_file():
        if there:
            raise ThriftyError(f"{there[0]} is there already and not from `thrifty predict`; give another folder, or --overwrite")
        return
    different = _different(path, predictor, wanted)
    if different:
        raise ThriftyError(
            f"{output} holds predictions of another kind ({', '.join(different)} differ); give another folder, or --overwrite"
        )


def _different(path: Path, predictor: Predictor, wanted: Wanted) -> list[str]:
    """The keys in which the predictions.json at `path` is another one than would be written now."""
    before, now = read_json(path), manifest(predictor, wanted)
    return [key for key in now if key != "thrifty" and (not isinstance(before, dict) or before.get(key) != now[key])]


def _clear_output(predictor: Predictor, output: Path, wanted: Wanted, items: Sequence[Item], targets: Sequence[Path]) -> None:
    """Deletes what other networks or settings wrote of `items`, before a manifest says that all in `output` is of these.

    Raises:
        ThriftyError: label maps of another kind that would stay, or an input that would be overwritten.
    """
    inputs = {file.resolve() for item in items for file in item.files}
    for target in targets:
        if target.resolve() in inputs:
            raise ThriftyError(f"{target} is an input and would be overwritten by its own prediction; give another folder")
    path = output / MANIFEST
    if path.is_file():
        if not _different(path, predictor, wanted):
            return
        left = _left_over(output, targets, inputs)
        if left:
            raise ThriftyError(
                f"{left[0]} and perhaps others in {output} are predictions of another kind, of what is not predicted now; "
                "give another folder, or delete them"
            )
    with user_errors(output):
        for item, target in zip(items, targets, strict=True):
            # the label map first: where it is the others are
            for old in (target, stack_path(target), *(map_path(_stem(target), kind, item.kind) for kind in MAPS)):
                if old.is_file() and old.resolve() not in inputs:
                    old.unlink()


def _left_over(output: Path, targets: Sequence[Path], inputs: set[Path]) -> list[Path]:
    """Label maps in `output` that are none of `targets`, neither as files nor as stacks of pictures."""
    maps = tuple(f"_{kind}.nii.gz" for kind in MAPS)
    names = sorted(p for p in output.rglob("*") if p.name.lower().endswith(OUTPUT_ENDINGS) and not p.name.endswith(maps))
    own = {*targets, *(target.with_suffix("") for target in targets if target.suffix == ".png")}
    return [p for p in names if not {p, p.parent} & own and p.resolve() not in inputs]


def _progress(todo: Sequence[tuple[Item, Path]]) -> Iterable[tuple[Item, Path]]:
    """With a bar on stderr where that is a terminal."""
    if not sys.stderr.isatty() or len(todo) < 2:
        return todo
    from rich.console import Console
    from rich.progress import track

    return track(todo, description="predict", console=Console(stderr=True), transient=True)
