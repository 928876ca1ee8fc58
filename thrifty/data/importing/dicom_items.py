"""DICOM series as items, with masks from DICOM-SEG or from pictures and NIfTI files. Files are called by their numbers only."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from thrifty.data.cases import Unreadable
from thrifty.data.decode import ending_of, is_volume, stem_of
from thrifty.data.dicom import DicomImage, is_dicom, read_series
from thrifty.data.dicom_series import Segmentation, Series, find_series
from thrifty.data.importing.folders import MASKS, patient_by_pattern
from thrifty.data.importing.grids import Grid, class_values, onto, read_grid
from thrifty.data.importing.items import NO_MASK, Found, Item, Loaded, Wishes, existing_folder, listing
from thrifty.data.importing.paint import Canvas
from thrifty.data.importing.pairing import as_wished
from thrifty.data.importing.segmentation import Kind, class_names, kinds_of, lay_on
from thrifty.data.labels import MOST_OVERLAPPING
from thrifty.data.pairs import SIZES
from thrifty.errors import ThriftyError


@dataclass(frozen=True)
class Masks:
    """Where the masks of DICOM images are. `call` names a file for errors: by its number."""

    call: Callable[[Path], str]
    segmentations: Mapping[str, tuple[Segmentation, ...]]  # by the UID of an image
    ids: Mapping[Kind, int]
    files: Mapping[str, Path]  # by name without ending, with and without folders
    names: frozenset[str]  # every part of these names
    bits: bool


def find_dicom(root: Path, wishes: Wishes) -> Found:
    """All series below `root`. The masks: DICOM-SEG files; else files with the name of the image, of its SOPInstanceUID,
    or of the series' folder; for a slice of a series also <folder of the series>/<InstanceNumber>.

    Raises:
        ThriftyError: no image among the files, or the extra is not installed.
    """
    found = Found("DICOM", private=True)
    files = listing(root)
    numbers = {path: k for k, path in enumerate(files, start=1)}

    def call(path: Path) -> str:
        return f"file {numbers[path]}"

    dicoms = [path for path in files if is_dicom(path)]
    series, segmentations = find_series(dicoms, call, lambda path, error: found.refuse(call(path), error))
    unreadable = len(found.refused)
    if not series:
        raise ThriftyError(f"no DICOM image among the {len(files)} files of the source; {len(found.refused)} could not be read")
    masks = _masks(root, files, segmentations, call, found, wishes)
    folders = _own_folders(series)
    for one in series:
        key = (folders.get(one) or one.files[0]).relative_to(root).as_posix()
        more = f" and {len(one.files) - 1} more" if len(one.files) > 1 else ""
        shown = f"{call(one.files[0])}{more}"
        patient = patient_by_pattern(key, shown, wishes) or one.patient
        _add(found, key, shown, one, folders.get(one), patient, masks, wishes)
    used = sum(len(one.files) for one in series) + len(segmentations) + unreadable
    _remarks(found, series, segmentations, call, len(dicoms) - used, wishes)
    return found


def _masks(
    root: Path,
    files: Sequence[Path],
    segmentations: Sequence[Segmentation],
    call: Callable[[Path], str],
    found: Found,
    wishes: Wishes,
) -> Masks:
    kinds, by_uid = [], {}
    for one in segmentations:
        try:
            kinds.extend(kind for _, kind in sorted(kinds_of(one.path, call(one.path)).items()))
        except Unreadable as error:
            found.refuse(call(one.path), error)
            continue
        for uid in one.uids:
            by_uid.setdefault(uid, []).append(one)
    ids: dict[Kind, int] = {}
    if kinds:
        found.labels, ids = class_names(kinds, wishes.segment_labels)
        found.bits = wishes.overlaps == "regions"
        if found.bits and len(ids) > MOST_OVERLAPPING:
            raise ThriftyError(f"{len(ids)} classes; at most {MOST_OVERLAPPING} can overlap, so take --overlaps later")
    place = existing_folder(root, wishes.masks, "--masks") if wishes.masks else None
    place = place or next((root / name for name in MASKS if (root / name).is_dir()), root)
    named = _by_name(
        [path for path in files if path.is_relative_to(place) and ending_of(path.name) and not is_dicom(path)], place
    )
    parts = frozenset(part for name in named for part in name.split("/"))
    return Masks(call, {uid: tuple(ones) for uid, ones in by_uid.items()}, ids, named, parts, found.bits)


def _by_name(files: Sequence[Path], root: Path) -> dict[str, Path]:
    """Files by their path without ending, and by their bare name where only one has it."""
    bare: dict[str, list[Path]] = {}
    found = {}
    for path in files:
        found[(path.parent / stem_of(path.name)).relative_to(root).as_posix()] = path
        bare.setdefault(stem_of(path.name), []).append(path)
    return {**{name: paths[0] for name, paths in bare.items() if len(paths) == 1}, **found}


def _own_folders(series: Sequence[Series]) -> dict[Series, Path]:
    """The folder of each series that has one for itself."""
    owners: dict[Path, set[int]] = {}
    for k, one in enumerate(series):
        for path in one.files:
            owners.setdefault(path.parent, set()).add(k)
    return {
        one: one.files[0].parent
        for k, one in enumerate(series)
        if len(one.files) > 1 and all(owners[path.parent] == {k} and path.parent == one.files[0].parent for path in one.files)
    }


def _add(
    found: Found, key: str, shown: str, one: Series, folder: Path | None, patient: Hashable, masks: Masks, wishes: Wishes
) -> None:
    if wishes.unmasked == "refuse" and not _may_have_mask(one, folder, masks):
        found.refuse(shown, Unreadable(NO_MASK, shown))
        return
    stack = one.slices > 1
    load = partial(_load, one, folder, shown, masks, wishes, found)
    volume = one.files if stack and wishes.slices else None
    found.items.append(Item(key, shown, patient, stack and not wishes.slices, load, volume, one.slices))


def _may_have_mask(one: Series, folder: Path | None, masks: Masks) -> bool:
    """Whether anything is named after a series or its files (the numbers of slices are known when they are read)."""
    if any(uid in masks.segmentations for uid in one.uids):
        return True
    names = {*(path.stem for path in one.files), *one.uids, *([folder.name] if folder else [])}
    return bool(names & masks.names)


def _remarks(
    found: Found,
    series: Sequence[Series],
    segmentations: Sequence[Segmentation],
    call: Callable[[Path], str],
    rest: int,
    wishes: Wishes,
) -> None:
    known = {uid for one in series for uid in one.uids}
    for one in segmentations:
        if not one.uids & known:
            found.refused.append((call(one.path), "a segmentation of images that are not in the source"))
    if rest:
        found.notes.append(f"{rest} DICOM files hold no image (reports, plans, directories) and were passed over")
    unknown = sum(not one.has_patient for one in series)
    if unknown and not wishes.patient:
        found.notes.append(f"{unknown} series name no patient: their study was taken for the patient")
    if segmentations:
        found.notes.append("there are DICOM-SEG files, so other masks are used only where an image has none of them")
    modalities = {one.modality for one in series}
    if len(modalities) == 1 and wishes.window == "none":
        found.channels = (modalities.pop() or "image",)
    if wishes.patient == "":
        found.notes.append("patients are those of the headers")


def _load(one: Series, folder: Path | None, shown: str, masks: Masks, wishes: Wishes, found: Found) -> Iterator[Loaded]:
    image = _read_readable(one, shown, masks, wishes, found)
    mask, overlapping, notes = _mask(image, one, folder, shown, masks, wishes)
    notes = (*image.notes, *notes)
    if len(image.values) > 1 and not wishes.slices:
        affine = image.affine
        if affine is None:
            affine = np.diag([*reversed(image.spacing_mm or (1.0, 1.0)), 1.0, 1.0])
        yield Loaded(image.volume(), mask.transpose(2, 1, 0), affine, notes, overlapping_pixels=overlapping)
        return
    digits = max(3, len(str(len(mask) - 1)))
    for k, picture in enumerate(image.values):
        part = f"_z{k:0{digits}d}" if len(mask) > 1 else ""
        yield Loaded(picture, mask[k], None, notes, part, overlapping if k == 0 else 0)


def _read_readable(one: Series, shown: str, masks: Masks, wishes: Wishes, found: Found) -> DicomImage:
    """A series as a whole; where its slices are to be pictures, files that cannot be read are refused and the others kept."""
    try:
        return read_series(one.files, shown, wishes.window, as_volume=not wishes.slices)
    except Unreadable:
        if not wishes.slices or len(one.files) == 1:
            raise
    good = []
    for path in one.files:
        try:
            read_series([path], masks.call(path), wishes.window, as_volume=False)
            good.append(path)
        except Unreadable as error:
            found.refuse(masks.call(path), error)
    if not good:
        raise Unreadable("DICOM series without a file that can be read", shown)
    return read_series(good, shown, wishes.window, as_volume=False)


def _mask(
    image: DicomImage, one: Series, folder: Path | None, shown: str, masks: Masks, wishes: Wishes
) -> tuple[np.ndarray, int, list[str]]:
    """(slices, rows, columns), overlapping pixels, notes."""
    own = {found.path: found for uid in one.uids for found in masks.segmentations.get(uid, ())}
    if own:
        canvas = Canvas(image.values.shape[:3], masks.bits)
        laid = sum(lay_on(path, masks.call(path), image, masks.ids, canvas) for path in sorted(own))
        if not laid:
            raise Unreadable("segmentations without a frame on their images", shown)
        return canvas.mask, canvas.overlapping_pixels, ["mask from DICOM-SEG"]
    whole = _file_of([folder.name] if folder else [], [f.stem for f in one.files] if len(one.files) == 1 else [], one, masks)
    if whole is not None and (len(image.values) == 1 or is_volume(whole) or ending_of(whole.name) in (".tif", ".tiff")):
        return _from_file(image, whole, shown), 0, ["mask from a file of the same name"]
    slices = [_slice_file(image, k, folder, masks) for k in range(len(image.values))]
    missing = sum(path is None for path in slices)
    if missing and (missing == len(slices) or wishes.unmasked == "refuse"):
        if missing == len(slices) and wishes.unmasked == "empty":
            return np.zeros(image.values.shape[:3], np.uint8), 0, ["no mask: taken as empty"]
        raise Unreadable(NO_MASK if missing == len(slices) else f"{missing} of {len(slices)} slices without mask", shown)
    mask = np.stack([_picture(path, image.values.shape[1:3], shown) for path in slices])
    return mask, 0, ["mask from a picture for each slice"]


def _file_of(folders: Sequence[str], stems: Sequence[str], one: Series, masks: Masks) -> Path | None:
    names = [*folders, *stems, *(one.uids if len(one.uids) == 1 else ())]
    return next((masks.files[name] for name in names if name in masks.files), None)


def _slice_file(image: DicomImage, k: int, folder: Path | None, masks: Masks) -> Path | None:
    """The mask of one slice: by the name of its file, its SOPInstanceUID, or its InstanceNumber within the series' folder."""
    path, number = image.files[k], image.numbers[k]
    names = [f"{path.parent.name}/{path.stem}", path.stem, image.uids[k]]
    if folder is not None and number is not None:
        names += [f"{folder.name}/{number:0{width}d}" for width in range(1, 6)]
    return next((masks.files[name] for name in names if name in masks.files), None)


def _picture(path: Path | None, size: tuple[int, ...], shown: str) -> np.ndarray:
    if path is None:
        return np.zeros(size, np.uint8)
    ids = class_values(read_grid(path, shown, indexed=True).values, shown)
    if ids.shape != size:
        raise Unreadable(SIZES, shown)
    return ids


def _from_file(image: DicomImage, path: Path, shown: str) -> np.ndarray:
    """The mask of a whole series, (slices, rows, columns)."""
    mask = read_grid(path, shown, indexed=True)
    if len(image.values) == 1 and mask.affine is None:
        return onto(Grid(image.values[0], None), mask, shown)[0][None]
    if mask.affine is None or image.affine is None or not is_volume(path):
        ids = class_values(mask.values, shown)  # a TIFF stack has no place: its pages are the slices in their order
        if ids.shape != image.volume().shape[:3]:
            raise Unreadable(SIZES, shown)
        return ids.transpose(2, 1, 0)
    ids, _ = onto(Grid(image.volume(), image.affine), mask, shown)
    return ids.transpose(2, 1, 0)


def listed_dicom(
    found: Found,
    shown: str,
    images: Sequence[Path],
    mask: Path | None,
    group: tuple[str | None, str | None],
    kinds: dict[Kind, int],
    wishes: Wishes,
) -> None:
    """One line of a CSV list whose image is a DICOM file or the folder of one series; `kinds` grows by those of its DICOM-SEG.

    Raises:
        Unreadable: several series, or as `read_series`.
    """
    series, _ = find_series(images, lambda _: shown)
    if len(series) != 1:
        raise Unreadable("folders with other than one DICOM series", f"{shown} ({len(series)} of them)")
    one = series[0]
    if mask is None and wishes.unmasked == "refuse":
        raise Unreadable(NO_MASK, shown)
    if mask is not None and is_dicom(mask):
        for _, kind in sorted(kinds_of(mask, shown).items()):
            kinds.setdefault(kind, len(kinds) + 1)
    stack, (patient, volume) = one.slices > 1, group
    load = partial(_load_listed, one, mask, shown, kinds, wishes)
    own = volume or (one.files if stack and wishes.slices else None)
    found.items.append(Item(images[0].name, shown, patient or one.patient, stack and not wishes.slices, load, own, one.slices))


def _load_listed(one: Series, mask: Path | None, shown: str, kinds: Mapping[Kind, int], wishes: Wishes) -> Iterator[Loaded]:
    image = read_series(one.files, shown, wishes.window)
    if mask is None:
        ids, notes = np.zeros(image.values.shape[:3], np.uint8), ("no mask: taken as empty",)
    elif is_dicom(mask):
        canvas = Canvas(image.values.shape[:3], False)
        if not lay_on(mask, shown, image, kinds, canvas):
            raise Unreadable("segmentations without a frame on their images", shown)
        ids, notes = canvas.mask, ("mask from DICOM-SEG",)
    else:
        ids, notes = _from_file(image, mask, shown), ()
    if len(image.values) == 1:
        yield Loaded(image.values[0], ids[0], None, (*image.notes, *notes))
        return
    affine = np.diag([*reversed(image.spacing_mm or (1.0, 1.0)), 1.0, 1.0]) if image.affine is None else image.affine
    yield from as_wished(Loaded(image.volume(), ids.transpose(2, 1, 0), affine, (*image.notes, *notes)), wishes)
