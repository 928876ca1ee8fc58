"""Finds the pairs of image and mask of a data set, before anything is decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from thrifty.config import Data, data_folder
from thrifty.data.cases import MOST_CLASSES, SETS, Entry, Problems, Source, Unreadable
from thrifty.data.decode import ENDINGS, PICTURES, ending_of, stem_of
from thrifty.data.groups import Group, read_groups
from thrifty.data.pairs import entry
from thrifty.errors import ThriftyError, one_line
from thrifty.results import read_json

ADVICE = "mend these files or take them out of the folder"
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
    return Source(source.where, entries, source.labels)


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
            return _nnunet(folder, data.slice_axis)
        if (folder / "images").is_dir() and (folder / "masks").is_dir():
            return _pair_of_folders(folder, data.slice_axis)
    except PermissionError as error:
        raise ThriftyError(f"{error.filename} cannot be read: no permission; make it readable for you") from None
    there = ", ".join(sorted(p.name for p in folder.iterdir())[:6]) or "nothing"
    raise ThriftyError(f"{folder} is no data set: it holds {there}; needed is {LAYOUTS}")


def _pair_of_folders(folder: Path, slice_axis: int) -> Source:
    problems = Problems()
    images, masks = (_by_stem(folder / part, problems) for part in ("images", "masks"))
    _check_pairs(images, masks, problems, folder)
    groups = read_groups(folder / "groups.csv", sorted(images))
    entries = _entries({name: (images[name],) for name in images}, masks, groups, slice_axis, folder)
    return Source(str(folder), entries, None)


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


def _nnunet(folder: Path, slice_axis: int) -> Source:
    """The nnU-Net v2 raw layout: imagesTr/<case>_<channel, 4 digits><ending>, labelsTr/<case><ending>."""
    path = folder / "dataset.json"
    description = read_json(path)
    labels = _labels(path, description)
    channels, ending = len(description["channel_names"]), str(description["file_ending"])
    for part in ("imagesTr", "labelsTr"):
        if not (folder / part).is_dir():
            raise ThriftyError(f"{folder} has a dataset.json but no folder {part}/, which the nnU-Net v2 layout needs")
    images, problems = _channel_files(folder / "imagesTr", ending), Problems()
    if ending_of(ending) in PICTURES and all(set(found) == {0} for found in images.values()):
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
    return Source(str(folder), _entries(files, masks, groups, slice_axis, folder), labels)


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


def _labels(path: Path, description: Any) -> tuple[str, ...]:
    """The names of the classes by id, from a dataset.json that is checked for all that is needed of it."""
    wanted = {"channel_names": dict, "labels": dict, "file_ending": str}
    if not isinstance(description, dict):
        raise ThriftyError(f"{path} holds no mapping; it needs channel_names, labels and file_ending as in nnU-Net v2")
    for key, kind in wanted.items():
        if not isinstance(description.get(key), kind) or not description[key]:
            old = "; it looks like the older 'modality' layout" if "modality" in description else ""
            raise ThriftyError(f"{path}: '{key}' is missing, empty or no {kind.__name__}{old}; the nnU-Net v2 layout is read")
    if ending_of(description["file_ending"]) != description["file_ending"].lower():
        raise ThriftyError(f"{path}: file_ending is '{description['file_ending']}'; allowed are {', '.join(ENDINGS)}")
    ids = description["labels"]
    shown = one_line(ids)[:120]
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in ids.values()):
        raise ThriftyError(f"{path}: labels are {shown}; each name needs one number (no regions, not number to name)")
    if "ignore" in ids:
        raise ThriftyError(f"{path}: the label 'ignore' is not supported; give those pixels a class")
    if sorted(ids.values()) != list(range(len(ids))) or not 2 <= len(ids) <= MOST_CLASSES:
        raise ThriftyError(f"{path}: labels are {shown}; their numbers must be 0 (background), 1, ... {MOST_CLASSES - 1} at most")
    return tuple(sorted(ids, key=lambda name: ids[name]))


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
