"""Which classes the masks of a data set hold: checked, 0/255 brought to 0/1, named and counted.

A row is what `store` keeps of a case while it is built; its "values" count the pixels of each value of its mask.
"""

from __future__ import annotations

from typing import IO, Any

import numpy as np

from thrifty.data.cases import MOST_CLASSES, Problems, Source
from thrifty.errors import ThriftyError

OUTSIDE = "mask values outside the classes"
BLOCK = 1 << 24  # bytes of masks in memory at a time


def check_values(rows: list[dict[str, Any]], source: Source, problems: Problems) -> None:
    """Values beyond the classes, apart from masks that are 0/255 all through, and bit sets, which have been checked."""
    labels = source.labels
    if source.overlapping or (labels is None and _binary(rows)):
        return
    classes = MOST_CLASSES if labels is None else len(labels)
    seen: dict[str, set[int]] = {}
    for row in rows:
        outside = {v for v in row["values"] if v >= classes}
        if outside:
            seen.setdefault(row["volume"] or row["name"], set()).update(outside)
    for name, outside in seen.items():
        listed = sorted(outside)
        allowed = f"0..{classes - 1}" + ("" if labels else ", or 0/255 in all masks")
        shown = ", ".join(map(str, listed[:6])) + (", ..." if len(listed) > 6 else "")
        problems.add(f"{OUTSIDE} (allowed: {allowed})", f"{name} has {shown}")


def _binary(rows: list[dict[str, Any]]) -> bool:
    return set().union(*(row["values"] for row in rows)) in ({0, 255}, {255})


def map_classes(source: Source, rows: list[dict[str, Any]], masks: IO[bytes]) -> list[str]:
    """Brings 0/255 masks to 0/1; the names of the classes. Fills in the pixels of each class."""
    if source.labels is None and _binary(rows):
        masks.flush()
        stored = np.memmap(masks.name, np.uint8, mode="r+")
        for start in range(0, len(stored), BLOCK):  # the masks of a large set do not fit into memory together
            block = stored[start : start + BLOCK]
            block[block == 255] = 1
        stored.flush()
        for row in rows:
            row["values"] = {min(v, 1): n for v, n in row["values"].items()}
    if source.overlapping:
        assert source.labels is not None
        for row in rows:
            row["class_pixels"] = _pixels_of_bits(row["values"], len(source.labels))
        return list(source.labels)
    top = max(v for row in rows for v in row["values"])
    found = ["foreground"] if top <= 1 else [f"class {k}" for k in range(1, top + 1)]
    names = source.labels or ["background", *found]
    for row in rows:
        row["class_pixels"] = [row["values"].get(k, 0) for k in range(len(names))]
    return list(names)


def _pixels_of_bits(values: dict[int, int], labels: int) -> list[int]:
    """Pixels by class; those of the background are the ones without any bit."""
    return [values.get(0, 0), *(sum(n for v, n in values.items() if v >> k & 1) for k in range(labels - 1))]


def check_foreground(source: Source, rows: list[dict[str, Any]], labels: list[str]) -> None:
    if not any(sum(row["class_pixels"][1:]) for row in rows):
        raise ThriftyError(
            f"{source.where}: only background in all {len(rows)} masks; "
            "a mask marks what is wanted with 255, or with class ids from 1"
        )
