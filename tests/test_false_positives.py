"""Claims on empty masks: a hand-made table, and its way into the report."""

from __future__ import annotations

import pytest

from thrifty.false_positives import false_positives
from thrifty.report.false_positives import false_positive_section

NONE = {"empty_cases": 0, "claimed": None, "share": None, "pixels": None, "mm2": None}


def rows(table: dict[str, list[tuple[int, int]]], seed: int = 0, fold: int | None = None) -> list[dict]:
    """By case, for each class (pixels in the truth, pixels in the prediction)."""
    return [
        {"seed": seed, "fold": fold, "case": case, "label": "ab"[k], "truth_pixels": truth, "predicted_pixels": predicted}
        for case, classes in table.items()
        for k, (truth, predicted) in enumerate(classes)
    ]


TWO_SEEDS = [
    *rows({"x": [(0, 0), (0, 6)], "y": [(5, 9), (0, 0)], "z": [(0, 4), (0, 0)], "w": [(0, 0), (3, 1)]}),
    *rows({"x": [(0, 0), (0, 0)], "y": [(5, 5), (0, 2)], "z": [(0, 2), (0, 4)], "w": [(0, 3), (3, 3)]}, seed=1),
]
SPACING = dict.fromkeys("xyzw", (0.5, 2.0)) | {"z": (3.0, 1.0)}


def test_by_class_and_over_all_classes() -> None:
    """Class a is missing in x, z, w; class b in x, y, z; both in x and z."""
    found = false_positives(TWO_SEEDS, SPACING)
    a, b = found["per_class"]["a"], found["per_class"]["b"]
    assert (a["empty_cases"], a["claimed"], a["share"]) == (3, 1.5, pytest.approx(0.5))
    assert a["pixels"] == pytest.approx((4 + 2 + 3) / 6) and a["mm2"] == pytest.approx((4 * 3 + 2 * 3 + 3 * 1) / 6)
    assert (b["empty_cases"], b["claimed"]) == (3, 1.5) and b["pixels"] == pytest.approx((6 + 2 + 4) / 6)
    both = found["any"]
    assert (both["empty_cases"], both["claimed"], both["share"]) == (2, 1.5, 0.75)
    assert both["pixels"] == pytest.approx((6 + 4 + 0 + 6) / 4) and both["mm2"] == pytest.approx((6 + 12 + 0 + 18) / 4)


def test_no_area_in_mm_where_a_spacing_is_missing_and_nothing_without_empty_cases() -> None:
    found = false_positives(TWO_SEEDS, SPACING | {"w": None})
    assert found["per_class"]["a"]["mm2"] is None and found["per_class"]["b"]["mm2"] is not None
    full = false_positives(rows({"x": [(1, 0), (2, 0)]}), SPACING)
    assert full == {"per_class": {"a": NONE, "b": NONE}, "any": NONE}
    assert false_positives([], SPACING) == {"per_class": {}, "any": NONE}


def test_report_shows_what_is_empty_somewhere() -> None:
    network = {"name": "unet", "false_positives": false_positives(TWO_SEEDS, SPACING)}
    heading, text, _ = false_positive_section([network])
    assert heading == "## False positives on empty masks"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    assert cells[0] == ["unet", "a", "3", "1.5", "50.0%", "1.5", "3.5"]
    assert [row[1] for row in cells] == ["a", "b", "any"]
    assert false_positive_section([{"name": "unet"}]) == [], "a summary of an older version"
    full = false_positives(rows({"x": [(1, 0), (2, 0)]}), SPACING)
    assert false_positive_section([{"name": "unet", "false_positives": full}]) == []
