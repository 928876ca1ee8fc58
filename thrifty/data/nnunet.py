"""The labels of a dataset.json (nnU-Net v2): exclusive classes, or regions that overlap; and maybe an ignored one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thrifty.data.cases import MOST_CLASSES, Entry, Source
from thrifty.data.decode import ENDINGS, ending_of
from thrifty.data.labels import MOST_OVERLAPPING
from thrifty.data.masks import by_regions, ignoring
from thrifty.errors import ThriftyError, one_line

MOST_VALUE = 255
"""Of a pixel in a label map: it is written as a byte."""


@dataclass(frozen=True)
class Labelling:
    """`names` by class, the background first. `regions`: the mask values of each region (empty: exclusive classes, whose value is
    their id). `order`: `regions_class_order`. `ignore`: the value that is ignored, or None."""

    names: tuple[str, ...]
    regions: tuple[tuple[int, ...], ...]
    order: tuple[int, ...]
    ignore: int | None

    def entry(self, item: Entry) -> Entry:
        """The entry of a label map as these labels want it."""
        item = item if self.ignore is None else ignoring(item, self.ignore)
        return by_regions(item, self.regions) if self.regions else item

    def source(self, folder: Path, entries: tuple[Entry, ...]) -> Source:
        return Source(str(folder), entries, self.names, bool(self.regions), self.order)


def labelling(path: Path, description: Any) -> Labelling:
    """From a dataset.json that is checked for all that is needed of it.

    Raises:
        ThriftyError: a key is missing or of another kind, labels that are not as nnU-Net v2 wants them.
    """
    wanted = {"channel_names": dict, "labels": dict, "file_ending": str}
    if not isinstance(description, dict):
        raise ThriftyError(f"{path} holds no mapping; it needs channel_names, labels and file_ending as in nnU-Net v2")
    for key, kind in wanted.items():
        if not isinstance(description.get(key), kind) or not description[key]:
            old = "; it looks like the older 'modality' layout" if "modality" in description else ""
            raise ThriftyError(f"{path}: '{key}' is missing, empty or no {kind.__name__}{old}; the nnU-Net v2 layout is read")
    if ending_of(description["file_ending"]) != description["file_ending"].lower():
        raise ThriftyError(f"{path}: file_ending is '{description['file_ending']}'; allowed are {', '.join(ENDINGS)}")
    labels = description["labels"]
    shown = one_line(labels)[:120]
    if not all(_is_id(value) or _is_region(value) for value in labels.values()):
        raise ThriftyError(f"{path}: labels are {shown}; each name needs one number, or a list of them (not number to name)")
    others = {name: value for name, value in labels.items() if name != "ignore"}
    ignore = _ignored(path, labels.get("ignore"), others, shown)
    if any(isinstance(value, list) and name != "background" for name, value in others.items()):
        return _regions(path, description, others, ignore, shown)
    if "regions_class_order" in description:
        raise ThriftyError(f"{path}: regions_class_order is given, but no label is a list of numbers; leave it out")
    ids = {name: value for name, value in others.items() if isinstance(value, int)}
    if sorted(ids.values()) != list(range(len(others))) or not 2 <= len(ids) <= MOST_CLASSES:
        raise ThriftyError(f"{path}: labels are {shown}; their numbers must be 0 (background), 1, ... {MOST_CLASSES - 1} at most")
    return Labelling(tuple(sorted(ids, key=lambda name: ids[name])), (), (), ignore)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_region(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_id, value))


def _values(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, list) else (value,)


def _ignored(path: Path, value: Any, others: dict[str, Any], shown: str) -> int | None:
    """nnU-Net v2 wants the ignore label to be one number, above all others."""
    if value is None:
        return None
    if not _is_id(value) or value <= max((v for other in others.values() for v in _values(other)), default=0):
        raise ThriftyError(f"{path}: labels are {shown}; 'ignore' must be one number, and the highest of all")
    return value


def _regions(path: Path, description: dict[str, Any], labels: dict[str, Any], ignore: int | None, shown: str) -> Labelling:
    """Names in the order of the file, which is that of `regions_class_order` too."""
    if _values(labels.get("background")) != (0,):
        raise ThriftyError(f"{path}: labels are {shown}; 'background' must be 0")
    regions = {name: _values(value) for name, value in labels.items() if name != "background"}
    if any(value < 1 for values in regions.values() for value in values) or len(regions) > MOST_OVERLAPPING:
        raise ThriftyError(
            f"{path}: labels are {shown}; regions need numbers from 1, and there may be {MOST_OVERLAPPING} of them"
        )
    order = description.get("regions_class_order")
    if not isinstance(order, list) or not all(_is_id(value) and value > 0 for value in order) or len(order) != len(regions):
        raise ThriftyError(
            f"{path}: regions_class_order is {one_line(order)[:80]}; regions need a list of {len(regions)} numbers there, what "
            "each of them is written as in a label map, one over the other"
        )
    if max(order) > MOST_VALUE:
        raise ThriftyError(
            f"{path}: regions_class_order is {one_line(order)[:80]}; its numbers must be from 1 to {MOST_VALUE}, as label maps "
            "have 8 bits"
        )
    return Labelling(("background", *regions), tuple(regions.values()), tuple(order), ignore)
