"""What the numbers in a stored mask or a prediction mean: class ids, or bit sets where classes overlap, and ignored pixels.

Exclusive classes: (H, W) of class ids 0 .. classes - 1, 0 being the background; a network has `classes` outputs (softmax).
Overlapping classes (regions): (H, W) of bit sets, bit k - 1 for class k = 1 .. classes; a network has `classes` outputs (one
sigmoid each) and none for the background. In both, IGNORED marks pixels of a mask that nothing may be learnt from or
measured on; a prediction never holds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = 254
"""In stored masks. Neither a class id nor a bit set, and not 255, which is foreground in masks that are 0/255."""
MOST_OVERLAPPING = 7
"""Classes that may overlap: their bits leave room for IGNORED in a byte."""

Mask = TypeVar("Mask", np.ndarray, "Tensor")


def foreground(classes: int, overlapping: bool) -> range:
    """The foreground classes of a network with `classes` outputs."""
    return range(1, classes + overlapping)


def pixels_of(mask: Mask, index: int, overlapping: bool) -> Mask:
    """Which pixels of a mask or a prediction are of the foreground class `index`: the same shape, boolean."""
    if not overlapping:
        return mask == index
    return (((mask >> (index - 1)) & 1) == 1) & (mask != IGNORED)


def counted(mask: Mask) -> Mask:
    """Which pixels are not ignored: the same shape, boolean."""
    return mask != IGNORED


def without_ignored(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`values` (a prediction, or the mask itself) with the background where `mask` is ignored."""
    return np.where(counted(mask), values, 0).astype(np.uint8)


def label_map(bits: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """One number for each pixel of bit sets (H, W), by the rule of nnU-Net's `regions_class_order`.

    Class after class writes its value over those before it: `values[k - 1]` is written wherever class k is claimed
    (nnU-Net v2, LabelManager.convert_logits_to_segmentation), so the innermost region comes last.
    """
    result = np.zeros(bits.shape, np.int64)
    for index, value in enumerate(values, start=1):
        result[pixels_of(bits, index, overlapping=True)] = value
    return result.astype(np.uint8 if max(values, default=0) < 256 else np.int64)


def bits_of_regions(mask: np.ndarray, regions: Sequence[Iterable[int]]) -> np.ndarray:
    """Bit sets (H, W) uint8 of a label map: bit k is set where the value is in `regions[k]`."""
    bits = np.zeros(mask.shape, np.uint8)
    for k, values in enumerate(regions):
        bits |= np.isin(mask, list(values)).astype(np.uint8) << k
    return bits


def bits_of_masks(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Bit sets (H, W) uint8 of one boolean mask for each class."""
    bits = np.zeros(masks[0].shape, np.uint8)
    for k, mask in enumerate(masks):
        bits |= mask.astype(np.uint8) << k
    return bits
