"""What is claimed where nothing is: false positives on the test cases that a class, or every class, is absent from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]
Spacings = Mapping[str, tuple[float, float] | None]


def false_positives(rows: Sequence[Row], spacing_mm: Spacings) -> dict[str, Any]:
    """Of one network, from its rows of per_case.csv and the spacing (rows, columns) of each case.

    Returns:
        `per_class`: by label, of the cases that do not hold it; `any`: of the cases that hold no class at all, the pixels of all
        classes added up. Each has `empty_cases`, `claimed` (how many of them have any predicted pixel), `share` (of them),
        `pixels` and `mm2` (predicted area of an empty case, mean over all of them). `claimed` and the areas are means over seeds
        and folds. None where there is no empty case, and for mm2 also where the spacing of one of them is not known.
    """
    runs: dict[tuple[Any, Any], list[Row]] = {}
    for row in rows:
        runs.setdefault((row["seed"], row["fold"]), []).append(row)
    labels = dict.fromkeys(row["label"] for row in rows)
    per_class = {}
    for label in labels:
        own = [[_counts(row) for row in found if row["label"] == label] for found in runs.values()]
        per_class[label] = _on_empty(own, spacing_mm)
    return {"per_class": per_class, "any": _on_empty([_by_case(found) for found in runs.values()], spacing_mm)}


def _counts(row: Row) -> tuple[str, int, int]:
    return row["case"], row["truth_pixels"], row["predicted_pixels"]


def _by_case(rows: Iterable[Row]) -> list[tuple[str, int, int]]:
    """Pixels in the truth and in the prediction of each case, all classes added up."""
    total: dict[str, tuple[int, int]] = {}
    for row in rows:
        truth, predicted = total.get(row["case"], (0, 0))
        total[row["case"]] = truth + row["truth_pixels"], predicted + row["predicted_pixels"]
    return [(case, *pixels) for case, pixels in total.items()]


def _on_empty(runs: Sequence[Sequence[tuple[str, int, int]]], spacing_mm: Spacings) -> Row:
    """`runs`: for each seed and fold (case, pixels in the truth, pixels in the prediction)."""
    empty = [[(case, predicted) for case, truth, predicted in run if truth == 0] for run in runs]
    number = len(empty[0]) if empty else 0
    if not number:
        return {"empty_cases": 0, "claimed": None, "share": None, "pixels": None, "mm2": None}
    claimed = float(np.mean([sum(predicted > 0 for _, predicted in run) for run in empty]))
    pixels = float(np.mean([predicted for run in empty for _, predicted in run]))
    return {
        "empty_cases": number,
        "claimed": claimed,
        "share": claimed / number,
        "pixels": pixels,
        "mm2": _mm2(empty, spacing_mm),
    }


def _mm2(empty: Sequence[Sequence[tuple[str, int]]], spacing_mm: Spacings) -> float | None:
    areas = []
    for case, predicted in (pair for run in empty for pair in run):
        spacing = spacing_mm[case]
        if spacing is None:
            return None
        areas.append(predicted * spacing[0] * spacing[1])
    return float(np.mean(areas))
