"""Dice, IoU and HD95 of a prediction, and what they are where a mask is empty.

The policy for empty masks, for each case and class:

- both truth and prediction are empty: nothing was there and nothing was claimed, Dice = IoU = 1 and HD95 = 0;
- exactly one of them is empty: Dice = IoU = 0, and HD95 is the diagonal of the image, which no distance inside it exceeds.

Pixels that the truth ignores count nowhere, whatever is predicted there: for HD95 they belong to neither mask.

So every case and class has a finite value. A class that no test case holds says little about a network (its value is 1 where
nothing is claimed), so means over classes leave it out (`present_classes`). Dice and IoU come from pixel counts, so that they
add up over the slices of a volume; HD95 is the larger of the two directed 95th percentiles of the distances between the edges
of the masks (monai), in mm where the spacing is known, otherwise in pixels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from thrifty.data import labels


@dataclass(frozen=True)
class ClassMetrics:
    """How well one class of one case was found. `hd95` is in `unit`: mm or px."""

    index: int
    dice: float
    iou: float
    hd95: float
    unit: str
    truth_pixels: int
    predicted_pixels: int
    shared_pixels: int


def dice_of(truth: int, predicted: int, shared: int) -> float:
    """Dice from numbers of pixels: 2 |A and B| / (|A| + |B|), and 1 where both are empty."""
    return 2 * shared / (truth + predicted) if truth + predicted else 1.0


def iou_of(truth: int, predicted: int, shared: int) -> float:
    """Intersection over union from numbers of pixels, and 1 where both are empty."""
    union = truth + predicted - shared
    return shared / union if union else 1.0


def pixel_counts(prediction: np.ndarray, truth: np.ndarray, classes: int, overlapping: bool = False) -> np.ndarray:
    """Pixels of each class in the truth, in the prediction and in both, ignored ones left out.

    Args:
        prediction, truth: (H, W) class ids, or bit sets where classes are overlapping (`thrifty.data.labels`).
        classes: outputs of a network: with the background, or without it where classes are overlapping.

    Returns:
        (classes, 3) int64, or (classes + 1, 3) where they are overlapping: row k is class k, row 0 the background (no class).
    """
    kept = labels.counted(truth)
    prediction, truth = prediction[kept], truth[kept]
    if overlapping:
        pairs = [(prediction == 0, truth == 0)]
        pairs += [(labels.pixels_of(prediction, k, True), labels.pixels_of(truth, k, True)) for k in range(1, classes + 1)]
        return np.array([[there.sum(), found.sum(), (there & found).sum()] for found, there in pairs], np.int64)
    table = np.bincount(truth.astype(np.int64) * classes + prediction, minlength=classes**2)
    table = table.reshape(classes, classes)
    return np.stack([table.sum(axis=1), table.sum(axis=0), np.diagonal(table)], axis=1)


def foreground_dice(
    prediction: np.ndarray,
    truth: np.ndarray,
    classes: int,
    counted: Collection[int] | None = None,
    overlapping: bool = False,
) -> float:
    """Mean Dice of one case over the classes `counted` (None: all but the background), empty masks as in the policy above."""
    counts = pixel_counts(prediction, truth, classes, overlapping)
    chosen = counted or labels.foreground(classes, overlapping)
    return float(np.mean([dice_of(*map(int, counts[index])) for index in chosen]))


def mean_case_dice(counts: np.ndarray) -> float:
    """Mean over cases of their mean foreground Dice, from pixel counts (cases, classes, 3) as `pixel_counts` gives them.

    A class that at least one case holds counts in every case, empty masks as in the policy of this module. A class that none
    holds counts only in the cases that claim it, as 0. A case in which nothing counts has 1: nothing was there and nothing was
    claimed. So a false claim never raises the mean, and a class that is nowhere does not flatter everyone.
    """
    truth, predicted, shared = np.moveaxis(counts[:, 1:].astype(np.float64), 2, 0)
    total = truth + predicted
    dice = np.where(total > 0, 2 * shared / np.maximum(total, 1), 1.0)
    counted = truth.any(axis=0) | (predicted > 0)
    number = counted.sum(axis=1)
    means = np.where(number > 0, (dice * counted).sum(axis=1) / np.maximum(number, 1), 1.0)
    return float(means.mean())


def present_classes(rows: Iterable[Mapping[str, Any]]) -> frozenset[int]:
    """The foreground classes that at least one case holds: those that a mean over classes is taken of.

    Where no case holds any, all classes are given, so that a mean still says whether anything was claimed.

    Args:
        rows: of all test cases, with the keys class and truth_pixels, as numbers or as they are read from per_case.csv.
    """
    pixels: dict[int, int] = {}
    for row in rows:
        index = int(row["class"])
        pixels[index] = pixels.get(index, 0) + int(row["truth_pixels"])
    return frozenset(index for index, number in pixels.items() if number) or frozenset(pixels)


def hd95_of(prediction: np.ndarray, truth: np.ndarray, spacing_mm: tuple[float, float] | None) -> float:
    """HD95 of two (H, W) boolean masks: mm where `spacing_mm` (rows, columns) is known, otherwise pixels."""
    spacing = spacing_mm or (1.0, 1.0)
    if not truth.any() or not prediction.any():
        if not truth.any() and not prediction.any():
            return 0.0
        return math.hypot(truth.shape[0] * spacing[0], truth.shape[1] * spacing[1])
    import torch
    from monai.metrics import compute_hausdorff_distance

    pair = [torch.from_numpy(np.ascontiguousarray(mask))[None, None] for mask in (prediction, truth)]
    with warnings.catch_warnings():  # monai 1.6 calls its own function with an argument that it has deprecated
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        return float(compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=list(spacing)))


def case_metrics(
    prediction: np.ndarray,
    truth: np.ndarray,
    classes: int,
    spacing_mm: tuple[float, float] | None = None,
    overlapping: bool = False,
) -> tuple[ClassMetrics, ...]:
    """Dice, IoU and HD95 of every foreground class of one case.

    Args:
        prediction, truth, classes, overlapping: as for `pixel_counts`.
        spacing_mm: size of a pixel (rows, columns), or None where unknown: then HD95 is in pixels.
    """
    unit = "px" if spacing_mm is None else "mm"
    result = []
    kept = labels.counted(truth)
    for index, row in enumerate(pixel_counts(prediction, truth, classes, overlapping)[1:], start=1):
        counts = tuple(map(int, row))
        found, there = (labels.pixels_of(mask, index, overlapping) & kept for mask in (prediction, truth))
        distance = hd95_of(found, there, spacing_mm)
        result.append(ClassMetrics(index, dice_of(*counts), iou_of(*counts), distance, unit, *counts))
    return tuple(result)
