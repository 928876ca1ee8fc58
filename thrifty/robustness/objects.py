"""Objects, as lesions or nuclei: which of them are found, by their size, and how many are claimed where none is.

An object is a connected part (8 neighbours) of the truth of one class. It is found where at least half of its pixels are claimed
for the class. A false object is a connected part of the prediction of which not a single pixel is of the class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from thrifty.data import labels
from thrifty.statistics.patients import by_patient, interval, patients_of, runs_of

SHARE = 0.5  # of an object's pixels that have to be claimed
SIZES = ("small", "medium", "large")
Row = Mapping[str, Any]


def objects_of(prediction: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Of two (H, W) boolean masks: `pixels` of each object, how many of them are `covered`, `claimed` and `false` objects."""
    parts, _ = _labelled(truth)
    claims, claimed = _labelled(prediction)
    right = np.unique(claims[truth & prediction])
    return {
        "pixels": np.bincount(parts.ravel())[1:].tolist(),
        "covered": np.bincount(parts.ravel(), prediction.ravel(), parts.max() + 1)[1:].astype(int).tolist(),
        "claimed": claimed,
        "false": claimed - len(right),
    }


def _labelled(mask: np.ndarray) -> tuple[np.ndarray, int]:
    from scipy.ndimage import label

    parts, number = label(mask, structure=np.ones((3, 3)))  # pyrefly: ignore[not-iterable]
    return parts, int(number)


def object_rows(prediction: np.ndarray, truth: np.ndarray, classes: int, overlapping: bool) -> list[dict[str, Any]]:
    """`objects_of` for each foreground class of one case. Masks as for `thrifty.metrics.pixel_counts`."""
    kept = labels.counted(truth)
    rows = []
    for index in labels.foreground(classes, overlapping):
        pair = (labels.pixels_of(mask, index, overlapping) & kept for mask in (prediction, truth))
        rows.append({"class": index, **objects_of(*pair)})
    return rows


def size_bounds(rows: Sequence[Row]) -> list[float] | None:
    """Pixels up to which an object is small, and medium: a third of the objects each. None where there are no objects.

    Args:
        rows: of one run (network, seed, fold) and class.
    """
    pixels = [size for row in rows for size in row["pixels"]]
    return np.quantile(pixels, [1 / 3, 2 / 3], method="inverted_cdf").tolist() if pixels else None


def sensitivity(rows: Sequence[Row], bounds: Sequence[float]) -> dict[str, Any]:
    """Of one network and class: by size (`small`, `medium`, `large`, `all`) and false objects for each case.

    By size: `objects`; `found` of them, a mean over seeds and folds; `sensitivity`, the share that is found within a patient
    (seeds averaged), as a mean over the `patients` that have such objects, with its `ci95`.
    `false`: false objects of a case, mean within a patient, then over patients, with `ci95`.

    Args:
        rows: with seed, fold, patient and what `objects_of` gives.
        bounds: as of `size_bounds`.
    """
    single = [
        {"seed": row["seed"], "fold": row["fold"], "patient": row["patient"], "size": size_of(pixels, bounds)}
        | {"found": float(covered >= SHARE * pixels)}
        for row in rows
        for pixels, covered in zip(row["pixels"], row["covered"], strict=True)
    ]
    by_size = {size: _share([row for row in single if row["size"] == size]) for size in SIZES}
    false = by_patient(rows, "false").mean(axis=0)
    claims = {"mean": float(false.mean()), "ci95": interval(false)}
    return {"bounds": list(bounds), **by_size, "all": _share(single), "false": claims}


def size_of(pixels: float, bounds: Sequence[float]) -> str:
    return SIZES[int(np.searchsorted(bounds, pixels, side="left"))]


def _share(single: Sequence[Row]) -> dict[str, Any]:
    if not single:
        return {"objects": 0, "found": 0.0, "patients": 0, "sensitivity": None, "ci95": None}
    runs = len(runs_of(single))
    patients = by_patient(single, "found").mean(axis=0)
    return {
        "objects": len(single) // runs,
        "found": sum(row["found"] for row in single) / runs,
        "patients": len(patients_of(single)),
        "sensitivity": float(patients.mean()),
        "ci95": interval(patients),
    }
