"""Dice, IoU and HD95 against scikit-learn, scipy and hand-made cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree

from thrifty.data.labels import IGNORED
from thrifty.metrics import case_metrics, dice_of, foreground_dice, iou_of, mean_case_dice, pixel_counts, present_classes


def blobs(seed: int, classes: int = 3, shape: tuple[int, int] = (23, 31)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, np.uint8)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    for index in range(1, classes):
        centre, radius = rng.uniform(2, shape), rng.uniform(3, 9)
        mask[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2] = index
    return mask


def hd95_by_trees(a: np.ndarray, b: np.ndarray, spacing: tuple[float, float]) -> float:
    """The larger of the two 95th percentiles of the distances from each edge pixel to the nearest one of the other edge."""
    edges = [np.argwhere(mask & ~binary_erosion(mask)) * np.array(spacing) for mask in (a, b)]
    there, back = cKDTree(edges[1]).query(edges[0])[0], cKDTree(edges[0]).query(edges[1])[0]
    return max(np.percentile(there, 95), np.percentile(back, 95))


@pytest.mark.parametrize("seed", range(6))
def test_dice_and_iou_are_f1_and_jaccard(seed: int) -> None:
    from sklearn.metrics import f1_score, jaccard_score

    truth, found = blobs(seed), blobs(seed + 100)
    rows = case_metrics(found, truth, 3)
    labels = {"labels": [1, 2], "average": None, "zero_division": 1.0}
    np.testing.assert_allclose([r.dice for r in rows], f1_score(truth.ravel(), found.ravel(), **labels))
    np.testing.assert_allclose([r.iou for r in rows], jaccard_score(truth.ravel(), found.ravel(), **labels))
    assert foreground_dice(found, truth, 3) == pytest.approx(np.mean([r.dice for r in rows]))
    assert [r.truth_pixels for r in rows] == [(truth == 1).sum(), (truth == 2).sum()]
    assert [r.predicted_pixels for r in rows] == [(found == 1).sum(), (found == 2).sum()]
    assert [r.shared_pixels for r in rows] == [((truth == i) & (found == i)).sum() for i in (1, 2)]


@pytest.mark.parametrize("spacing", [None, (1.0, 1.0), (0.5, 2.25)])
@pytest.mark.parametrize("seed", range(4))
def test_hd95_is_that_of_nearest_neighbours_between_edges(seed: int, spacing: tuple[float, float] | None) -> None:
    truth, found = blobs(seed), blobs(seed + 50)
    for row in case_metrics(found, truth, 3, spacing):
        pair = found == row.index, truth == row.index
        if pair[0].any() and pair[1].any():
            assert row.hd95 == pytest.approx(hd95_by_trees(*pair, spacing or (1.0, 1.0)), rel=1e-5)
        assert row.unit == ("px" if spacing is None else "mm")


def test_shifted_square_has_a_known_distance() -> None:
    truth, found = np.zeros((2, 40, 40), np.uint8)
    truth[5:15, 5:15] = 1
    found[5:15, 9:19] = 1
    assert case_metrics(found, truth, 2)[0].hd95 == pytest.approx(4.0)
    assert case_metrics(found, truth, 2, (1.0, 2.5))[0].hd95 == pytest.approx(10.0)
    assert case_metrics(found, truth, 2, (2.5, 1.0))[0].hd95 == pytest.approx(4.0)


def test_mask_at_the_border_has_an_edge_there() -> None:
    truth, found = np.zeros((2, 12, 12), np.uint8)
    truth[:, :] = 1
    found[:, :6] = 1
    expected = hd95_by_trees(found == 1, truth == 1, (1.0, 1.0))
    assert case_metrics(found, truth, 2)[0].hd95 == pytest.approx(expected)


@pytest.mark.parametrize(("spacing", "diagonal"), [(None, 5.0), ((2.0, 1.0), math.hypot(6, 4))])
def test_policy_for_empty_masks(spacing: tuple[float, float] | None, diagonal: float) -> None:
    """Both empty: right. One empty: wrong altogether, and as far away as the image is large."""
    empty, one = np.zeros((3, 4), np.uint8), np.zeros((3, 4), np.uint8)
    one[1, 1] = 1
    (both,) = case_metrics(empty, empty, 2, spacing)
    assert (both.dice, both.iou, both.hd95) == (1.0, 1.0, 0.0)
    for found, truth in ((empty, one), (one, empty)):
        (row,) = case_metrics(found, truth, 2, spacing)
        assert (row.dice, row.iou) == (0.0, 0.0)
        assert row.hd95 == pytest.approx(diagonal)
    assert foreground_dice(empty, empty, 2) == 1.0
    assert foreground_dice(one, empty, 2) == 0.0


def test_a_class_that_no_case_holds_is_not_counted() -> None:
    """Of three classes only the first occurs, in the second case alone: also where another was claimed."""
    rows = [{"class": k, "truth_pixels": n, "predicted_pixels": 7} for k, n in ((1, 0), (2, 0), (3, 0), (1, 4), (2, 0), (3, 0))]
    assert present_classes(rows) == {1}
    as_read = [{key: str(value) for key, value in row.items()} for row in rows]
    assert present_classes(as_read) == {1}
    assert present_classes(rows[:3]) == {1, 2, 3}, "with no class at all every claim is wrong, so all count"
    truth = np.array([[0, 1]])
    assert foreground_dice(np.zeros_like(truth), truth, 4) == pytest.approx(2 / 3)
    assert foreground_dice(np.zeros_like(truth), truth, 4, {1}) == 0.0


FOUND = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [1, 1, 0, 0], [3, 1, 1, 2]], np.uint8)
TRUTH = np.array([[0, 1, 1, 3], [3, 3, 1, 0], [IGNORED, IGNORED, 0, 0], [IGNORED, 1, 0, 2]], np.uint8)


@pytest.mark.parametrize("overlapping", [False, True])
def test_counts_of_a_hand_made_case_with_ignored_pixels(overlapping: bool) -> None:
    """As class ids 1, 2, 3, and as bit sets, where 3 is both of two classes."""
    counts = pixel_counts(FOUND, TRUTH, 2 if overlapping else 4, overlapping)
    if overlapping:
        np.testing.assert_array_equal(counts, [[5, 4, 4], [7, 6, 5], [4, 5, 4]])
    else:
        np.testing.assert_array_equal(counts, [[5, 4, 4], [4, 4, 3], [1, 3, 1], [3, 2, 2]])


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_predicted_on_ignored_pixels_changes_nothing(overlapping: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, found = (blobs(seed + k) for k in (0, 200))
    away = rng.random(truth.shape) < 0.3
    holed = np.where(away, IGNORED, truth).astype(np.uint8)
    other = np.where(away, rng.integers(0, 3, truth.shape), found).astype(np.uint8)
    settings = (2 if overlapping else 3, (0.5, 2.0), overlapping)
    rows = case_metrics(found, holed, *settings)
    assert rows == case_metrics(other, holed, *settings) and len(rows) == 2
    assert rows != case_metrics(found, truth, *settings)
    dice = foreground_dice(found, holed, settings[0], None, overlapping)
    assert dice == foreground_dice(other, holed, settings[0], None, overlapping) == pytest.approx(np.mean([r.dice for r in rows]))
    for row in rows:  # the pixels that count, as numbers and as places
        there, claimed = ((mask >> row.index - 1 & 1 == 1) if overlapping else mask == row.index for mask in (truth, found))
        assert row.truth_pixels == there[~away].sum() and row.shared_pixels == (there & claimed)[~away].sum()
        assert row.hd95 == pytest.approx(hd95_by_trees(there & ~away, claimed & ~away, (0.5, 2.0)), rel=1e-5)


def test_overlapping_classes_are_binary_problems(seed: int = 3) -> None:
    """Each class of bit sets is measured as if it were alone."""
    truth, found = (np.random.default_rng(k).integers(0, 8, (9, 11)).astype(np.uint8) for k in (seed, seed + 1))
    rows = case_metrics(found, truth, 3, None, True)
    for row in rows:
        (alone,) = case_metrics(found // 2 ** (row.index - 1) % 2, truth // 2 ** (row.index - 1) % 2, 2)
        assert (row.dice, row.iou, row.hd95) == (alone.dice, alone.iou, alone.hd95)


def test_counts_add_up_over_slices() -> None:
    """The Dice of a volume is that of its slices laid side by side, not the mean of their values."""
    truth, found = [blobs(s) for s in (1, 2, 3)], [blobs(s) for s in (4, 5, 6)]
    counts = sum(pixel_counts(f, t, 3) for f, t in zip(found, truth, strict=True))
    whole = case_metrics(np.hstack(found), np.hstack(truth), 3)
    for row in whole:
        assert dice_of(*map(int, counts[row.index])) == pytest.approx(row.dice)
        assert iou_of(*map(int, counts[row.index])) == pytest.approx(row.iou)


def counts_of(*pairs: tuple[list[int], list[int]], classes: int = 3) -> np.ndarray:
    """The pixel counts of cases given as (prediction, truth), each a row of pixels."""
    return np.stack([pixel_counts(np.array([found]), np.array([truth]), classes) for found, truth in pairs])


def test_a_class_that_no_case_holds_raises_no_mean() -> None:
    """Class 2 is nowhere: before, it counted as 1 in every case, and a network that found nothing had a Dice of 0.5."""
    half = ([1, 0, 0, 0], [1, 1, 1, 0])  # Dice of class 1: 2 * 1 / (1 + 3)
    nothing = ([0, 0, 0, 0], [1, 1, 0, 0])
    assert mean_case_dice(counts_of(half)) == pytest.approx(0.5)
    assert mean_case_dice(counts_of(nothing)) == 0.0
    assert mean_case_dice(counts_of(half, nothing)) == pytest.approx(0.25)


def test_a_claim_of_a_class_that_no_case_holds_counts_against_its_case() -> None:
    """As zero in the case that claims it, and nowhere else: in the other cases as one it would raise the mean."""
    good, claims = ([1, 1, 0, 0], [1, 1, 0, 0]), ([1, 1, 0, 2], [1, 1, 0, 0])
    assert mean_case_dice(counts_of(claims)) == pytest.approx((1 + 0) / 2)
    assert mean_case_dice(counts_of(good, claims, good)) == pytest.approx((1 + 0.5 + 1) / 3)


def test_a_class_that_some_case_holds_counts_in_every_case() -> None:
    """As in the evaluation: 1 where a case neither holds nor claims it."""
    first, second = ([1, 1, 2, 2], [1, 1, 2, 2]), ([0, 0, 0, 0], [1, 1, 0, 0])
    assert mean_case_dice(counts_of(first, second)) == pytest.approx((1 + (0 + 1) / 2) / 2)


def test_where_no_case_holds_anything_claims_are_what_counts() -> None:
    assert mean_case_dice(counts_of(([0, 0], [0, 0]), ([0, 0], [0, 0]))) == 1.0
    assert mean_case_dice(counts_of(([0, 0], [0, 0]), ([0, 2], [0, 0]))) == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_the_mean_over_cases_is_that_of_foreground_dice_where_all_classes_are_held(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found, truth = rng.integers(4, size=(2, 6, 9, 7))
    counts = np.stack([pixel_counts(f, t, 4) for f, t in zip(found, truth, strict=True)])
    assert mean_case_dice(counts) == pytest.approx(np.mean([foreground_dice(f, t, 4) for f, t in zip(found, truth, strict=True)]))
