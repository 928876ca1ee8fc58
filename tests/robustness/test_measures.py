"""Surfaces against distances of all pairs of pixels, objects and calibration against cases counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from thrifty.data.labels import IGNORED
from thrifty.robustness.calibration import BINS, bin_counts, calibration, case_counts, errors
from thrifty.robustness.objects import object_rows, objects_of, sensitivity, size_bounds, size_of
from thrifty.robustness.surface import surface_distances, surface_rows


def edge(mask: np.ndarray) -> list[tuple[int, int]]:
    """Pixels of a mask with a side towards what is not of it, or towards the outside of the image."""
    padded = np.pad(mask, 1)
    whole = [padded[1 + i : 1 + i + mask.shape[0], 1 + j : 1 + j + mask.shape[1]] for i, j in ((0, 1), (0, -1), (1, 0), (-1, 0))]
    return list(zip(*np.nonzero(mask & ~np.logical_and.reduce(whole)), strict=True))


def all_pairs(prediction: np.ndarray, truth: np.ndarray, spacing: tuple[float, float], tolerance: float) -> tuple[float, float]:
    edges = edge(prediction), edge(truth)
    distances = [
        min(math.hypot((a - c) * spacing[0], (b - d) * spacing[1]) for c, d in edges[1 - which])
        for which in (0, 1)
        for a, b in edges[which]
    ]
    return float(np.mean(distances)), float(np.mean([d <= tolerance for d in distances]))


@pytest.mark.parametrize("spacing", [None, (1.5, 0.7)])
@pytest.mark.parametrize("seed", range(3))
def test_surfaces_are_those_of_all_pairs_of_pixels(seed: int, spacing: tuple[float, float] | None) -> None:
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(seed)
    prediction, truth = (gaussian_filter(random.normal(size=(17, 14)), 2) > 0.05 for _ in range(2))
    assert prediction.any() and truth.any()
    for tolerance in (1.0, 2.2):
        expected = all_pairs(prediction, truth, spacing or (1.0, 1.0), tolerance)
        assert surface_distances(prediction, truth, spacing, tolerance) == pytest.approx(expected, abs=1e-5)


def test_surfaces_of_empty_masks_and_their_unit() -> None:
    none, some = np.zeros((6, 8), bool), np.eye(6, 8, dtype=bool)
    assert surface_distances(none, none, None, 1) == (0.0, 1.0)
    assert (
        surface_distances(some, none, (3.0, 4.0), 1) == surface_distances(none, some, (3.0, 4.0), 1) == (math.hypot(18, 32), 0.0)
    )
    truth = np.where(some, 2, 0).astype(np.uint8)
    first, second = surface_rows(truth, truth, 3, False, None, 1.0)
    assert (first["class"], first["assd"], first["unit"]) == (1, 0.0, "px") and (second["class"], second["nsd"]) == (2, 1.0)
    assert surface_rows(truth, truth, 3, False, (1.0, 1.0), 1.0)[0]["unit"] == "mm"
    ignored = np.where(np.arange(8) < 4, IGNORED, truth).astype(np.uint8)
    assert surface_rows(np.zeros_like(truth), ignored, 3, False, None, 1.0)[1]["nsd"] == 0.0
    assert surface_rows(np.where(np.arange(8) < 4, 2, truth).astype(np.uint8), ignored, 3, False, None, 1.0)[1]["assd"] == 0.0


TRUTH = np.array(
    [
        [1, 1, 0, 0, 0, 1],
        [1, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],
    ],
    bool,
)
CLAIM = np.array(
    [
        [1, 1, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 1, 1],
    ],
    bool,
)


def test_objects_by_hand() -> None:
    """Three objects: a square half covered, a diagonal that is one by its corners, a pixel; three claims touch none of them."""
    found = objects_of(CLAIM, TRUTH)
    assert found == {"pixels": [4, 2, 1], "covered": [2, 0, 0], "claimed": 4, "false": 3}
    assert objects_of(TRUTH & False, TRUTH) == {"pixels": [4, 2, 1], "covered": [0, 0, 0], "claimed": 0, "false": 0}
    assert objects_of(CLAIM, TRUTH & False) == {"pixels": [], "covered": [], "claimed": 4, "false": 4}
    truth = np.where(TRUTH, 2, 0).astype(np.uint8)
    truth[0, 0] = IGNORED  # then the square has three pixels, one of which is claimed
    nothing, row = object_rows(np.where(CLAIM, 2, 0).astype(np.uint8), truth, 3, False)
    assert nothing["pixels"] == [] and (row["class"], row["pixels"], row["covered"]) == (2, [3, 2, 1], [1, 0, 0])


def test_sensitivity_by_size_over_patients() -> None:
    def row(seed: int, patient: str, pixels: list[int], covered: list[int], false: int) -> dict:
        return {"seed": seed, "fold": None, "patient": patient, "pixels": pixels, "covered": covered, "false": false}

    rows = [
        row(0, "p", [4, 10, 30], [2, 4, 15], 2),
        row(0, "p", [5], [5], 0),
        row(0, "q", [6, 40], [0, 40], 5),
        row(0, "r", [], [], 0),
    ]
    other = [
        row(1, "p", [4, 10, 30], [0, 5, 0], 0),
        row(1, "p", [5], [0], 0),
        row(1, "q", [6, 40], [6, 40], 1),
        row(1, "r", [], [], 3),
    ]
    bounds = size_bounds(rows)
    assert bounds == [5, 10] and [size_of(n, bounds) for n in (5, 6, 10, 11)] == ["small", "medium", "medium", "large"]
    found = sensitivity([*rows, *other], bounds)
    assert (found["small"]["objects"], found["medium"]["objects"], found["large"]["objects"]) == (2, 2, 2)
    assert found["small"]["sensitivity"] == pytest.approx(0.5) and found["small"]["patients"] == 1, "two of two, then none"
    assert found["medium"]["sensitivity"] == pytest.approx((0.5 + 0.5) / 2), "p: 0 then 1; q: 0 then 1"
    assert found["large"]["sensitivity"] == pytest.approx((0.5 + 1) / 2) and found["large"]["found"] == pytest.approx(1.5)
    assert found["all"]["objects"] == 6 and found["all"]["sensitivity"] == pytest.approx((0.5 * (3 / 4 + 1 / 4) + 0.75) / 2)
    assert found["false"]["mean"] == pytest.approx((0.5 + 3 + 1.5) / 3)
    assert size_bounds([row(0, "r", [], [], 0)]) is None


def test_bins_by_hand() -> None:
    probabilities = np.array([0.0, 0.05, 0.1, 0.95, 1.0, 0.999])
    counts = bin_counts(probabilities, np.array([0, 1, 0, 1, 1, 0], bool))
    assert counts[0].tolist() == [2, 0.05, 1] and counts[1].tolist() == [1, 0.1, 0]
    assert counts[-1] == pytest.approx([3, 2.949, 2]) and counts[2:-1].sum() == 0
    gaps = [abs(0.05 - 1) / 2, 0.1, abs(2.949 - 2) / 3]
    assert errors(counts) == pytest.approx(((2 * gaps[0] + gaps[1] + 3 * gaps[2]) / 6, max(gaps)))
    found = calibration([counts, counts])
    assert found["ece"] == pytest.approx(errors(counts)[0])
    assert found["foreground_ece"] == pytest.approx((gaps[1] + 3 * gaps[2]) / 4)
    assert found["curve"][0] == {"low": 0.0, "high": 0.1, "pixels": 4, "probability": 0.025, "share": 0.5}
    assert found["curve"][5]["probability"] is None


def test_a_perfectly_calibrated_network_has_no_error() -> None:
    """Of the pixels given k/20 exactly k in 20 are of the class; shifted claims are wrong by the shift."""
    probabilities = np.repeat(np.arange(1, 20) / 20, 20)
    there = np.concatenate([np.arange(20) < k for k in range(1, 20)])
    assert errors(bin_counts(probabilities, there)) == pytest.approx((0, 0), abs=1e-12)
    random = np.random.default_rng(0)
    drawn = random.uniform(size=200_000)
    assert errors(bin_counts(drawn, random.uniform(size=drawn.size) < drawn))[0] < 0.005
    assert errors(bin_counts(np.full(100, 0.9), np.arange(100) < 60)) == pytest.approx((0.3, 0.3))


def test_classes_are_pooled_and_ignored_pixels_left_out() -> None:
    truth = np.array([[0, 1], [2, IGNORED]], np.uint8)
    exclusive = np.array([[[0.9, 0.1], [0.0, 0.3]], [[0.05, 0.9], [0.0, 0.3]], [[0.05, 0.0], [1.0, 0.4]]])
    counts = case_counts(exclusive, truth, overlapping=False)
    assert counts[:, 0].sum() == 6 and counts[:, 2].sum() == 2 and counts[-1].tolist() == pytest.approx([2, 1.9, 2])
    bits = np.array([[0b00, 0b01], [0b11, IGNORED]], np.uint8)
    counts = case_counts(exclusive[1:], bits, overlapping=True)
    assert counts[:, 0].sum() == 6 and counts[:, 2].sum() == 3
    assert len(counts) == BINS
