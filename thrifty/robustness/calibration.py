"""Whether probabilities are what they claim: of the pixels given a class with probability p, a share p should be of it.

Counted are the probabilities of the foreground classes, each class for itself and before any post-processing, over all pixels
that are not ignored: of one class it is the foreground probability. Ten bins of equal width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from thrifty.data import labels

BINS = 10


def bin_counts(probabilities: np.ndarray, there: np.ndarray) -> np.ndarray:
    """(BINS, 3) float64: for each bin the pixels, the sum of their probabilities, and how many of them are of the class.

    A probability on the border of two bins is in the upper one, 1 is in the last.

    Args:
        probabilities, there: of any equal shape; `there` is boolean.
    """
    values = probabilities.astype(np.float64).ravel()
    place = np.minimum((values * BINS).astype(np.int64), BINS - 1)
    parts = [np.bincount(place, weights, BINS) for weights in (None, values, there.ravel().astype(np.float64))]
    return np.stack(parts, axis=1).astype(np.float64)


def case_counts(probabilities: np.ndarray, truth: np.ndarray, overlapping: bool) -> np.ndarray:
    """`bin_counts` of one case, its foreground classes added up.

    Args:
        probabilities: (outputs of the network, H, W).
        truth: (H, W), as it is stored.
    """
    kept = labels.counted(truth)
    total = np.zeros((BINS, 3))
    for index in labels.foreground(len(probabilities), overlapping):
        of_class = probabilities[index - 1 if overlapping else index]
        total += bin_counts(of_class[kept], labels.pixels_of(truth, index, overlapping)[kept])
    return total


def errors(counts: np.ndarray) -> tuple[float, float]:
    """ECE and its largest single bin (MCE) of `bin_counts`: |mean probability - share of the class|.

    ECE weighs the bins by their pixels. Source: Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning",
    AAAI 2015.
    """
    pixels, claimed, true = counts.T
    filled = pixels > 0
    gaps = np.abs(claimed[filled] - true[filled]) / pixels[filled]
    return float(np.average(gaps, weights=pixels[filled])), float(gaps.max())


def calibration(runs: Sequence[np.ndarray]) -> dict[str, Any]:
    """Of one network from the `bin_counts` of its seeds and folds: errors as means over them, the curve from their sums.

    `foreground_ece` leaves out the first bin, where nearly all of the background is, and which decides the ECE by its size.
    """
    found = [errors(counts) for counts in runs]
    upper = [errors(counts[1:])[0] for counts in runs if counts[1:, 0].any()]
    total = np.sum(runs, axis=0)
    curve = [
        {"low": k / BINS, "high": (k + 1) / BINS, "pixels": int(pixels)}
        | {"probability": claimed / pixels if pixels else None, "share": true / pixels if pixels else None}
        for k, (pixels, claimed, true) in enumerate(total.tolist())
    ]
    ece, mce = np.mean(found, axis=0).tolist()
    return {"ece": ece, "mce": mce, "foreground_ece": float(np.mean(upper)) if upper else None, "curve": curve}
