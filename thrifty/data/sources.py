"""Finds the pairs of image and mask of a data set, before anything is decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from thrifty.config import Data, data_folder
from thrifty.data.cases import SETS, Entry, Problems, Source, Unreadable, name_some
from thrifty.data.decode import ENDINGS, PICTURES, ending_of, stem_of
from thrifty.data.groups import Group, read_groups
from thrifty.data.labels import MOST_OVERLAPPING
from thrifty.data.masks import ignoring, of_folders, within
from thrifty.data.nnunet import labelling
from thrifty.data.pairs import entry
from thrifty.errors import ThriftyError
from thrifty.results import read_json

RGB = 3
ADVICE = "mend these files or take them out of the folder"
ROIS = "rois"
LAYOUTS = "images/ and masks/ with equal file names, or the nnU-Net v2 layout (dataset.json, imagesTr/, labelsTr/)"


def find_source(data: Data) -> Source:
    """The entries of `data.source`, limited to `data.max_cases` by whole patients, in the order of their names.

    Raises:
        ThriftyError: no such folder, no pairs in it, pairs that are not whole, groups.csv or dataset.json wrong, or
            fewer patients than the four sets need.
    """
    source = _whole_source(data)
    entries = _limited(source.entries, data.max_cases, source.where)
    patients = len({item.patient for item in entries})
    if patients < len(SETS):
        limited = len(entries) < len(source.entries)
        limit = f" within data.max_cases={data.max_cases}" if limited else ""
        advice = "raise data.max_cases" if limited else "give more cases, or a groups.csv if they come from more patients"
        raise ThriftyError(
            f"{source.where}: {patients} patients{limit} are fewer than the {len(SETS)} sets ({', '.join(SETS)}), "
            f"each of which needs a patient of its own; {advice}"
        )
    return replace(source, entries=entries)


def _whole_source(data: Data) -> Source:
    if data.source == "phantoms":
        from thrifty.data.phantoms import phantom_source

        return phantom_source(data.phantoms)
    folder = data_folder(data.source)
    if not folder.is_dir():
        raise ThriftyError(
            f"data.source is '{data.source}', but there is no folder {folder}; give an absolute path, "
            "one below THRIFTY_DATA, or 'phantoms' for the embedded data set"
        )
    try:
        if (folder / "dataset.json").is_file():
            return _nnunet(folder, data)
        if (folder / "images").is_dir() and (folder / "masks").is_dir():
            return _pair_of_folders(folder, data)
    except PermissionError as error:
        raise ThriftyError(f"{error.filename} cannot be read: no permission; make it readable for you") from None
    there = ", ".join(sorted(p.name for p in folder.iterdir())[:6]) or "nothing"
    raise ThriftyError(f"{folder} is no data set: it holds {there}; needed is {LAYOUTS}")


def _pair_of_folders(folder: Path, data: Data) -> Source:
    """Files in masks/, or a folder for each class in masks/, whose files may overlap."""
    problems = Problems()
    images = _by_stem(folder / "images", problems)
    classes = sorted(p.name for p in (folder / "masks").iterdir() if p.is_dir() and not p.name.startswith("."))
    if classes:
        return _class_folders(folder, data, images, classes, problems)
    masks = _by_stem(folder / "masks", problems)
    _check_pairs(images, masks, problems, folder)
    groups = read_groups(folder / "groups.csv", sorted(images))
    entries = _entries({name: (images[name],) for name in images}, masks, groups, data.slice_axis, folder)
    if data.ignore is not None:
        entries = tuple(ignoring(item, data.ignore) for item in entries)
    return Source(str(folder), _with_rois(folder, data, entries, masks, groups), None)


def _class_folders(folder: Path, data: Data, images: dict[str, Path], classes: Sequence[str], problems: Problems) -> Source:
    """masks/<class>/<case>: one mask for each class and case."""
    if len(classes) > MOST_OVERLAPPING:
        raise ThriftyError(f"{folder}/masks holds {len(classes)} folders, one for each class; at most {MOST_OVERLAPPING} may be")
    if stray := sorted(p.name for p in (folder / "masks").iterdir() if p.is_file() and ending_of(p.name)):
        raise ThriftyError(
            f"{folder}/masks holds folders ({name_some(list(classes))}) and files ({name_some(stray)}); give either one file for "
            "each case, or one folder for each class with a file for each case"
        )
    masks = {name: _by_stem(folder / "masks" / name, problems) for name in classes}
    for label, found in masks.items():
        _check_pairs(images, found, problems, folder / "masks" / label)
    groups = read_groups(folder / "groups.csv", sorted(images))
    entries = []
    for name in sorted(images):
        try:
            of_classes = [masks[label][name] for label in classes]
            entries.append(of_folders(name, groups[name], (images[name],), of_classes, data.slice_axis, data.ignore))
        except Unreadable as error:
            problems.add(error.kind, error.name)
    problems.raise_if_any(folder, ADVICE)
    entries = _with_rois(folder, data, tuple(entries), masks[classes[0]], groups)
    return Source(str(folder), entries, ("background", *classes), overlapping=True)


def _with_rois(
    folder: Path, data: Data, entries: tuple[Entry, ...], masks: Mapping[str, Path], groups: dict[str, Group]
) -> tuple[Entry, ...]:
    """The entries with their regions of interest, where the data set has any: a file for each case.

    Raises:
        ThriftyError: a folder that is not there, or that lacks a case or has more.
    """
    place = folder / (data.rois or ROIS)
    if not place.is_dir():
        if data.rois is None:
            return entries
        raise ThriftyError(f"data.rois is '{data.rois}', but {folder} has no such folder; it holds a region for each image")
    problems = Problems()
    rois = _by_stem(place, problems)
    for name in sorted(masks.keys() - rois.keys()):
        problems.add("images without region of interest", name)
    for name in sorted(rois.keys() - masks.keys()):
        problems.add("regions of interest without image", name)
    problems.raise_if_any(folder, ADVICE)
    return tuple(within(item, groups[item.name], masks[item.name], rois[item.name], data.slice_axis) for item in entries)


def _by_stem(folder: Path, problems: Problems) -> dict[str, Path]:
    """The files with pixels by the name without its ending; other files (Thumbs.db, notes) are passed over."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file() or ending_of(path.name) is None:
            continue
        stem = stem_of(path.name)
        if stem in found:
            problems.add("two files for one case", f"{folder.name}/{found[stem].name} and {path.name}")
        found.setdefault(stem, path)
    return found


def _check_pairs(images: Iterable[str], masks: Iterable[str], problems: Problems, folder: Path) -> None:
    images, masks = set(images), set(masks)
    for name in sorted(images - masks):
        problems.add("images without mask", name)
    for name in sorted(masks - images):
        problems.add("masks without image", name)
    problems.raise_if_any(folder, f"{ADVICE} (files with another ending than {', '.join(ENDINGS)} are passed over)")
    if not images:
        raise ThriftyError(f"{folder} holds no images; allowed are {', '.join(ENDINGS)}")


def _entries(
    images: dict[str, tuple[Path, ...]], masks: dict[str, Path], groups: dict[str, Group], slice_axis: int, folder: Path
) -> tuple[Entry, ...]:
    problems, entries = Problems(), []
    for name in sorted(images):
        try:
            entries.append(entry(name, groups[name], images[name], masks[name], slice_axis))
        except Unreadable as error:
            problems.add(error.kind, error.name)
    problems.raise_if_any(folder, ADVICE)
    return tuple(entries)


def _nnunet(folder: Path, data: Data) -> Source:
    """The nnU-Net v2 raw layout: imagesTr/<case>_<channel, 4 digits><ending>, labelsTr/<case><ending>."""
    path = folder / "dataset.json"
    description = read_json(path)
    found_labels = labelling(path, description)
    if data.ignore is not None:
        raise ThriftyError(f"data.ignore is {data.ignore}, but {path} says which label is ignored; leave data.ignore out")
    channels, ending = len(description["channel_names"]), str(description["file_ending"])
    for part in ("imagesTr", "labelsTr"):
        if not (folder / part).is_dir():
            raise ThriftyError(f"{folder} has a dataset.json but no folder {part}/, which the nnU-Net v2 layout needs")
    images, problems = _channel_files(folder / "imagesTr", ending), Problems()
    if channels == RGB and ending_of(ending) in PICTURES and all(set(found) == {0} for found in images.values()):
        channels = 1  # a colour picture is one file, whose channels dataset.json names
    masks = {p.name.removesuffix(ending): p for p in sorted((folder / "labelsTr").iterdir()) if _visible(p, ending)}
    for name, found in images.items():
        missing = sorted(set(range(channels)) - set(found))
        if name in masks and (missing or len(found) > channels):
            came = f"lacks channel {missing[0]:04d}" if missing else f"has {len(found)}, dataset.json names {channels}"
            problems.add("images whose channel files are not whole", f"{name} ({came})")
    _check_pairs(images, masks, problems, folder)
    groups = read_groups(folder / "groups.csv", sorted(images))
    files = {name: tuple(found[k] for k in sorted(found)) for name, found in images.items()}
    entries = _entries(files, masks, groups, data.slice_axis, folder)
    return found_labels.source(folder, _with_rois(folder, data, tuple(map(found_labels.entry, entries)), masks, groups))


def _visible(path: Path, ending: str) -> bool:
    return path.name.endswith(ending) and not path.name.startswith(".")


def _channel_files(folder: Path, ending: str) -> dict[str, dict[int, Path]]:
    """The files of each case by channel number."""
    found: dict[str, dict[int, Path]] = {}
    for path in sorted(folder.iterdir()):
        if not _visible(path, ending):
            continue
        name, _, number = path.name.removesuffix(ending).rpartition("_")
        if not name or len(number) != 4 or not number.isdecimal():
            raise ThriftyError(f"{path}: images of the nnU-Net v2 layout are named <case>_0000{ending} (0000 = the channel)")
        found.setdefault(name, {})[int(number)] = path
    return found


def _limited(entries: tuple[Entry, ...], limit: int | None, where: str) -> tuple[Entry, ...]:
    """Whole patients up to `limit` cases, in an order that depends on their names alone."""
    sizes: dict[str, int] = {}
    for item in entries:
        sizes[item.patient] = sizes.get(item.patient, 0) + item.cases
    if limit is None or sum(sizes.values()) <= limit:
        return entries
    taken, total = set(), 0
    for patient in sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if total + sizes[patient] <= limit:
            taken.add(patient)
            total += sizes[patient]
    if not taken:
        raise ThriftyError(f"{where}: data.max_cases={limit}, but the smallest patient has {min(sizes.values())} cases; raise it")
    return tuple(item for item in entries if item.patient in taken)
