"""Holes and largest parts: against scikit-image and hand-made maps, and chosen where the selection cases gain by it."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.measure import label as parts_of

from thrifty.errors import ThriftyError
from thrifty.postprocess import CHOICES, Postprocess, choose, common, fill_holes, keep_largest


def drawn(*rows: str) -> np.ndarray:
    return np.array([[int(c) for c in row.replace(".", "0")] for row in rows], np.uint8)


def test_the_largest_part_of_each_class_is_kept_and_corners_connect() -> None:
    labels = drawn("1...22", ".1..22", "......", "1..2..", "....22")
    assert (keep_largest(labels) == drawn("1...22", ".1..22", "......", "......", "......")).all()


def test_largest_parts_are_those_of_scikit_image() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        labels = rng.choice(3, size=(17, 23), p=(0.7, 0.2, 0.1)).astype(np.uint8)
        kept = keep_largest(labels)
        for index in (1, 2):
            parts = parts_of(labels == index, connectivity=2)
            sizes = np.bincount(parts.ravel())[1:]
            assert (kept == index).sum() == sizes.max()
            assert len(np.unique(parts[kept == index])) == 1


def test_only_enclosed_background_is_filled() -> None:
    labels = drawn("1111..", "1..1.2", "1.21..", "1111..")
    assert (fill_holes(labels) == drawn("1111..", "1111.2", "1121..", "1111..")).all()
    one = (np.random.default_rng(1).random((20, 20)) < 0.7).astype(np.uint8)
    outside = parts_of(1 - one, connectivity=1)
    border = np.concatenate([outside[0], outside[-1], outside[:, 0], outside[:, -1]])
    assert (fill_holes(one) == ~np.isin(outside, border[border > 0])).all()


def test_nothing_is_done_to_an_empty_map_and_the_input_stays_as_it_was() -> None:
    empty, labels = np.zeros((4, 4), np.uint8), drawn("1.1", "...", "111")
    before = labels.copy()
    for choice in CHOICES:
        assert not choice.apply(empty).any() and choice.apply(labels).dtype == np.uint8
    assert (labels == before).all()


def test_what_is_worth_it_is_chosen_and_ties_take_fewer_steps() -> None:
    whole = np.zeros((16, 16), np.uint8)
    whole[2:9, 2:9] = 1
    hollow, spotted = whole.copy(), whole.copy()
    hollow[5, 5] = 0
    spotted[13, 13] = 1
    both = np.where(hollow == 0, spotted * (whole == 0), hollow).astype(np.uint8)
    chosen = {name: choose([(found, whole)] * 3, 2) for name, found in zip("whsb", (whole, hollow, spotted, both), strict=True)}
    assert {name: choice.name for name, choice in chosen.items()} == {
        "w": "none",
        "h": "fill_holes",
        "s": "largest",
        "b": "fill_holes+largest",
    }
    assert chosen["h"].dice["none"] == pytest.approx(2 * 48 / 97) and chosen["h"].dice["fill_holes"] == 1.0


def test_two_lesions_are_not_thrown_away_and_a_tiny_gain_is_none() -> None:
    two = drawn("11.....", "11.....", ".....11")
    assert choose([(two, two)], 2).name == "none"
    large = np.ones((60, 60), np.uint8)
    holed = large.copy()
    holed[30, 30] = 0  # 1.4e-4 of Dice
    assert choose([(holed, large)], 2).name == "none"


def test_an_ensemble_does_what_all_members_chose() -> None:
    largest = Postprocess(largest=True, dice={"none": 0.1})
    assert common([largest, Postprocess(largest=True)]).name == "largest"
    assert common([largest, Postprocess()]).name == "none"


def test_there_and_back_and_nonsense_is_refused() -> None:
    choice = Postprocess(True, False, {"none": 0.5})
    assert Postprocess.from_json(choice.as_json()) == choice
    for wrong in (None, {}, {"fill_holes": 1, "largest": False, "dice": {}}, {"fill_holes": True, "largest": True, "dice": 3}):
        with pytest.raises(ThriftyError, match="no post-processing"):
            Postprocess.from_json(wrong)
