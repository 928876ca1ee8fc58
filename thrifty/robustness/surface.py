"""Distances between the edges of masks: ASSD and NSD, in mm where the spacing is known, otherwise in pixels.

An edge is made of the pixels of a mask that touch its outside by a side. Where both masks are empty ASSD is 0 and NSD is 1; where
one of them is, ASSD is the diagonal of the image and NSD is 0 (as HD95 in `thrifty.metrics`). Source: monai.metrics.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from thrifty.data import labels

Spacing = tuple[float, float] | None


def surface_distances(prediction: np.ndarray, truth: np.ndarray, spacing_mm: Spacing, tolerance: float) -> tuple[float, float]:
    """ASSD and NSD of two (H, W) boolean masks.

    ASSD: mean distance of all pixels of both edges to the other edge. NSD: the share of them within `tolerance` of it.

    Args:
        spacing_mm: of rows and columns; None: distances and `tolerance` are in pixels.
    """
    spacing = spacing_mm or (1.0, 1.0)
    if not truth.any() or not prediction.any():
        both = not truth.any() and not prediction.any()
        return (0.0, 1.0) if both else (math.hypot(truth.shape[0] * spacing[0], truth.shape[1] * spacing[1]), 0.0)
    import torch
    from monai.metrics import compute_average_surface_distance, compute_surface_dice

    pair = [torch.from_numpy(np.ascontiguousarray(mask))[None, None] for mask in (prediction, truth)]
    shared: dict[str, Any] = {"include_background": True, "spacing": list(spacing)}
    with warnings.catch_warnings():  # monai 1.6 calls its own function with an argument that it has deprecated
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        assd = compute_average_surface_distance(*pair, symmetric=True, **shared)
        nsd = compute_surface_dice(*pair, class_thresholds=[tolerance], **shared)
    return float(assd), float(nsd)


def surface_rows(
    prediction: np.ndarray, truth: np.ndarray, classes: int, overlapping: bool, spacing_mm: Spacing, tolerance: float
) -> list[dict[str, Any]]:
    """For each foreground class of one case: class, assd, nsd, unit. Masks as for `thrifty.metrics.pixel_counts`."""
    kept = labels.counted(truth)
    rows = []
    for index in labels.foreground(classes, overlapping):
        found, there = (labels.pixels_of(mask, index, overlapping) & kept for mask in (prediction, truth))
        assd, nsd = surface_distances(found, there, spacing_mm, tolerance)
        rows.append({"class": index, "assd": assd, "nsd": nsd, "unit": "px" if spacing_mm is None else "mm"})
    return rows
