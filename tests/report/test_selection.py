"""The section on the selection where short trainings have failed."""

from __future__ import annotations

from thrifty.report.selection import agreement


def test_finalists_whose_training_failed_are_no_part_of_tau() -> None:
    found = [{"score": 0.1 * k, "short_dice": [0.1 * k]} for k in range(5)]
    assert agreement({9: [*found, {"score": 0.9, "short_dice": None}]}) == agreement({9: found})
    assert "whose 4 finalists are too few" in agreement({9: [*found[:4], {"score": 0.9, "short_dice": None}]})
