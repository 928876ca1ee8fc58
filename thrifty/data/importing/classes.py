"""From the values of masks to class ids 0, 1, 2, ... and the `labels` of dataset.json."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from thrifty.data.cases import MOST_CLASSES
from thrifty.data.importing.items import Wishes
from thrifty.errors import ThriftyError


@dataclass(frozen=True)
class Classes:
    """`ids`: class id of each value of the masks. `labels`: as dataset.json has them. `order`: regions_class_order or None."""

    ids: dict[int, int]
    labels: dict[str, Any]
    order: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()


def classes_of(seen: Iterable[int], wishes: Wishes, labels: Sequence[str] | None, bits: bool) -> Classes:
    """What the values `seen` in all masks mean.

    `labels`: the names of the ids, where the source itself names classes. `bits`: values are sets of classes.

    Raises:
        ThriftyError: more classes than a mask may have, or no class at all.
    """
    values = sorted(set(seen) | {0})
    if bits:
        return _regions(values, labels or ())
    kept = [v for v in values if v != wishes.ignore]
    names, ids, notes = _named(kept, wishes, labels)
    if len(names) > MOST_CLASSES:
        raise ThriftyError(
            f"{len(names)} classes in the masks; at most {MOST_CLASSES}, so name with --label those that are meant"
        )
    if len(names) < 2:
        raise ThriftyError("only background in all masks; a mask marks what is wanted with 255, or with class ids from 1")
    table: dict[str, Any] = {name: k for k, name in enumerate(names)}
    if wishes.ignore is not None:
        table["ignore"] = ids[wishes.ignore] = len(names)  # nnU-Net: the highest number
    return Classes(ids, table, None, tuple(notes))


def _named(values: list[int], wishes: Wishes, labels: Sequence[str] | None) -> tuple[list[str], dict[int, int], list[str]]:
    if labels is not None:
        given = dict(wishes.labels)
        return [given.get(k, name) for k, name in enumerate(labels)], {v: v for v in values}, []
    if wishes.labels:
        given = dict(wishes.labels)
        background = given.pop(0, "background")
        ids = {0: 0, **{value: k for k, value in enumerate(given, start=1)}}
        return [background, *given.values()], ids, []
    top = values[-1]
    if top < MOST_CLASSES:
        found = ["foreground"] if top == 1 else [f"class {k}" for k in range(1, top + 1)]
        return ["background", *found], {v: v for v in values}, []
    ids = {value: k for k, value in enumerate(values)}
    names = ["foreground"] if len(values) == 2 else [f"class {k}" for k in range(1, len(values))]
    shown = ", ".join(f"{value} became {k}" for value, k in ids.items() if value)
    return ["background", *names], ids, [f"mask values: {shown}"]


def _regions(values: list[int], labels: Sequence[str]) -> Classes:
    """Overlapping classes as nnU-Net has them: one id for each combination that occurs, a region lists those it is part of."""
    ids = {value: k for k, value in enumerate(values)}
    if len(ids) > 256:
        raise ThriftyError(f"{len(ids) - 1} combinations of overlapping classes; at most 255 fit, so take --overlaps later")
    table: dict[str, Any] = {labels[0]: 0}
    for k, name in enumerate(labels[1:]):
        members = [ids[value] for value in values if value >> k & 1]
        if members:
            table[name] = members
    if len(table) < 2:
        raise ThriftyError("no class in any mask")
    return Classes(ids, table, tuple(range(1, len(table))), ("overlapping classes: each combination has an id of its own",))


def undeclared(values: Iterable[int], wishes: Wishes) -> list[int]:
    """The values of a mask that --label does not name; none where nothing was named."""
    known = {0, *(value for value, _ in wishes.labels)} | ({wishes.ignore} if wishes.ignore is not None else set())
    return sorted(set(values) - known) if wishes.labels else []
