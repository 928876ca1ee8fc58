"""`thrifty export MODEL OUTPUT`: writes forms of a network into a new folder, checks each, leaves nothing where one fails."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from thrifty import __version__
from thrifty.errors import ThriftyError, nearest
from thrifty.export.card import Facts, Told, data_name, model_card
from thrifty.export.check import Agreement, Predict, agreement, batches, made_up_images, reference
from thrifty.export.origin import MOST_CALIBRATED, MOST_MEASURED, Origin, evenly, find_origin, images_of_folder
from thrifty.export.quantise import Loss, as_json, dice_loss, save_quantised
from thrifty.export.source import network_source
from thrifty.inference import stride_of
from thrifty.model import Model, load_model
from thrifty.results import Trial, make_folder, umask, user_errors, write_json, write_text
from thrifty.space.genotype import save

SCHEMA = 1
FORMATS = ("safetensors", "network", "pt2", "onnx", "int8", "monai", "card")
EXTRA = ("onnx", "onnxscript", "onnxruntime")  # packages of the extra 'export'
INT8 = "network_int8.onnx"


@dataclass
class Export:
    """One export under way: what goes in, where it is written, what was found out on the way."""

    trial: Trial
    network: nn.Module
    model: Model
    origin: Origin | None
    told: Told
    folder: Path
    probabilities: bool = False
    checks: dict[str, Agreement] = field(default_factory=dict)
    loss: Loss | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def expected(self) -> Predict:
        return reference(self.network, self.model)

    def note(self, text: str) -> None:
        print(text, flush=True)
        self.notes.append(text)


def export_model(
    folder: Path,
    output: Path,
    formats: Sequence[str] | None = None,
    told: Told | None = None,
    calibrate: Path | None = None,
    probabilities: bool = False,
    allow_code: bool = False,
) -> None:
    """Exports the trained network in `folder` (weights.safetensors, model.json) into `output`, a new or empty folder.

    Args:
        formats: some of FORMATS; None for all that this model and machine can have, with a note on what is left out.
        calibrate: images for int8; without it the training cases of the run that `folder` lies in.
        probabilities: .pt2 and ONNX have a second output, the probability of each class.

    Raises:
        ThriftyError: no model, an unknown format, a missing package, an output that is not empty, no images for int8, or a form
            that does not give the labels of the trained network.
    """
    check_output(output)
    wanted = check_formats(formats)
    trial = Trial(folder)
    network, model = load_model(trial, torch.device("cpu"), allow_code)
    images = None if calibrate is None else images_of_folder(calibrate, model.network.channels)
    with user_errors(output), new_folder(output) as part:
        export = Export(trial, network, model, find_origin(folder), told or Told(), part, probabilities)
        if formats is None:
            wanted = _possible(export, images is not None)
        write_all(export, wanted, images)
        _tell(export, output)


def check_output(output: Path) -> None:
    """
    Raises:
        ThriftyError: something is there already.
    """
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise ThriftyError(f"{output} is there already and not empty; give a new folder, or remove it first")


def check_formats(formats: Sequence[str] | None) -> tuple[str, ...]:
    """The formats asked for, in the order of FORMATS.

    Raises:
        ThriftyError: an unknown one, or one whose packages are missing.
    """
    for name in formats or ():
        if name not in FORMATS:
            raise ThriftyError(f"unknown format '{name}'{nearest(name, FORMATS)} (known: {', '.join(FORMATS)})")
    if formats is not None and not formats:
        raise ThriftyError(f"no format was asked for; known are {', '.join(FORMATS)}")
    wanted = tuple(name for name in FORMATS if formats is None or name in formats)
    if formats is not None and {"onnx", "int8"} & set(wanted) and (missing := missing_packages()):
        raise ThriftyError(
            f"onnx and int8 need {', '.join(missing)}: install thrifty with its extra 'export' (pip install 'thrifty[export]'), "
            "or leave them out of --formats"
        )
    return wanted


def missing_packages() -> list[str]:
    return [name for name in EXTRA if importlib.util.find_spec(name) is None]


def _possible(export: Export, calibrated: bool) -> tuple[str, ...]:
    """All formats but those that this model or machine cannot have, each with a note."""
    left: set[str] = set()
    if missing := missing_packages():
        left |= {"onnx", "int8"}
        export.note(f"left out: onnx and int8, which need {', '.join(missing)} (pip install 'thrifty[export]')")
    elif not calibrated and not (export.origin and export.origin.has_data):
        left.add("int8")
        export.note("left out: int8, since no training cases are at hand (--calibrate FOLDER gives images)")
    try:
        network_source(export.model, __version__)
    except ThriftyError:
        left |= {"network", "monai"}
        export.note("left out: network and monai, which cannot hold ops of the user's own")
    return tuple(name for name in FORMATS if name not in left)


def write_all(export: Export, wanted: Sequence[str], images: Sequence[np.ndarray] | None) -> None:
    """Every form into the folder of the export, and export.json last."""
    if "safetensors" in wanted:
        _copy_weights(export)
    if {"network", "monai"} & set(wanted):
        _write_sources(export, wanted)
    if {"pt2", "onnx", "int8"} & set(wanted):
        _write_programs(export, wanted, images)
    if "card" in wanted:
        write_text(export.folder / "README.md", model_card(_facts(export)))
    write_json(export.folder / "export.json", _record(export))


def _copy_weights(export: Export) -> None:
    shutil.copyfile(export.trial.weights, export.folder / export.trial.weights.name)
    shutil.copyfile(export.trial.model, export.folder / export.trial.model.name)
    if export.model.network.genotype is not None:
        save(export.folder / "genotype.json", export.model.network.genotype)


def _write_sources(export: Export, wanted: Sequence[str]) -> None:
    """network.py and the bundle, which holds it too."""
    from thrifty.export.bundle import write_bundle

    text = network_source(export.model, __version__)
    export.checks["network.py"] = _checked_source(export, text)
    if "network" in wanted:
        write_text(export.folder / "network.py", text)
    if "monai" in wanted:
        facts = _facts(export)
        told = {
            "copyright": f"licence: {export.told.licence or 'not stated'}",
            "data_source": data_name(facts),
            "description": f"A network of {export.model.network.parameters:,} parameters, made by thrifty {__version__}.",
        }
        write_bundle(export.folder / "bundle", export.model, export.network, text, told)


def _checked_source(export: Export, text: str) -> Agreement:
    """Runs network.py with the trained weights."""
    names: dict[str, Any] = {"__name__": "network"}
    exec(compile(text, "network.py", "exec"), names)
    network = names["Network"]()
    network.load_state_dict(dict(export.network.state_dict()))
    pipeline = names["pipeline_of"](network)

    def predict(pixels: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return pipeline(torch.from_numpy(pixels)).numpy()

    images = made_up_images(export.model, stride_of(export.network))
    return agreement(predict, export.expected, images).require("network.py")


def _write_programs(export: Export, wanted: Sequence[str], images: Sequence[np.ndarray] | None) -> None:
    """.pt2, ONNX and int8, which are made of each other."""
    from thrifty.export.program import pipeline_of, program_labels, save_program, traced

    stride = stride_of(export.network)
    print("tracing the network", flush=True)
    pipeline = pipeline_of(export.network, export.model, export.probabilities)
    program = traced(pipeline, export.model.network.channels)
    if "pt2" in wanted:
        path = export.folder / "network.pt2"
        save_program(program, path, export.model)
        large = made_up_images(export.model, stride, small=False)
        export.checks[path.name] = agreement(program_labels(path), export.expected, large).require(path.name)
    if {"onnx", "int8"} & set(wanted):
        from thrifty.export.graph import graph_labels, save_graph

        print("writing ONNX", flush=True)
        path = export.folder / "network.onnx"
        save_graph(program, path, export.model, export.probabilities)
        export.checks[path.name] = agreement(graph_labels(path), export.expected, made_up_images(export.model, stride)).require(
            path.name
        )
        if "int8" in wanted:
            _write_quantised(export, path, images)
        if "onnx" not in wanted:
            path.unlink()


def _write_quantised(export: Export, graph: Path, images: Sequence[np.ndarray] | None) -> None:
    from thrifty.export.graph import graph_labels

    path, origin = export.folder / INT8, export.origin
    cases: list[tuple[np.ndarray, np.ndarray]] = []
    if origin is not None and origin.has_data:
        store, splits = origin.prepared(export.folder / ".scratch")
        if images is None:
            images = [store.image(k) for k in evenly(store.indices(splits.training), MOST_CALIBRATED)]
        cases = [(store.image(k), store.mask(k)) for k in evenly(store.indices(splits.selection), MOST_MEASURED)]
    if not images:
        raise ThriftyError(
            "int8 needs training images to calibrate on, and the model lies in no run folder with its data; "
            "give some by --calibrate FOLDER, or leave int8 out of --formats"
        )
    print(f"quantising, calibrated on {len(images)} images", flush=True)
    save_quantised(graph, path, batches(images))
    if cases:
        export.loss = dice_loss(graph_labels(graph), graph_labels(path), cases, export.model)
    shutil.rmtree(export.folder / ".scratch", ignore_errors=True)


def _facts(export: Export) -> Facts:
    return Facts(export.model, export.origin, export.told, _sizes(export.folder), export.loss, export.notes)


def _sizes(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}


def _record(export: Export) -> dict[str, Any]:
    names = [name for name in _sizes(export.folder) if name != "README.md"]
    return {
        "schema": SCHEMA,
        "thrifty": __version__,
        "torch": torch.__version__,
        "network": export.model.network.name,
        "files": {name: _digest(export.folder / name) for name in names},
        "checks": {name: {"pixels": found.pixels, "equal": found.equal} for name, found in export.checks.items()},
        "int8": None if export.loss is None else as_json(export.loss),
        "notes": export.notes,
    }


def _digest(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _tell(export: Export, output: Path) -> None:
    """What was written and how well it agrees, on the console."""
    for name, size in _sizes(export.folder).items():
        found = export.checks.get(name)
        agrees = f", labels equal on {100 * found.share:.3f} % of {found.pixels:,} pixels" if found else ""
        print(f"  {name}: {size:,} bytes{agrees}")
    if export.loss is not None:
        print(f"int8 loses {export.loss.points:+.2f} points of Dice on {export.loss.cases} selection cases")
    print(f"exported to {output}; research use only, not a medical device")


@contextlib.contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """A folder beside `output` that takes its name at the end, and is gone where anything fails."""
    make_folder(output.absolute().parent)
    part = Path(tempfile.mkdtemp(dir=output.absolute().parent, prefix=f".{output.name}.", suffix=".part"))
    try:
        part.chmod(0o777 & ~umask())
        yield part
        os.replace(part, output)  # an empty folder may stand there
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
