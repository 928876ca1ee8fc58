"""Objects painted into a mask: outlines, run lengths and frames, with one rule for those that overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class Canvas:
    """A mask in the making. Exclusive classes: the object that comes later wins. Sets of classes (bits): all are kept.

    `overlapping` marks the pixels that objects of different classes claimed.
    """

    def __init__(self, size: tuple[int, ...], bits: bool) -> None:
        self.mask = np.zeros(size, np.uint16 if bits else np.uint8)
        self.bits = bits
        self._overlapping = np.zeros(size, bool)

    def paint(self, where: Any, of: Any, number: int) -> None:
        """Class `number` at the pixels `of` (bool) of the part `where` (an index) of the mask; 0 wipes them."""
        part = self.mask[where]
        if number == 0:
            self.mask[where] = np.where(of, 0, part)
            return
        own = np.uint16(1 << (number - 1)) if self.bits else np.uint8(number)
        self._overlapping[where] |= of & (part != 0) & (part != own)
        self.mask[where] = np.where(of, part | own if self.bits else own, part)

    @property
    def overlapping_pixels(self) -> int:
        return int(self._overlapping.sum())


def polygon(points: Sequence[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
    """(rows, columns) bool: the pixels whose centre lies within the outline `points` (x, y).

    x and y count from the corner of the image, as in COCO and label-me: the centre of the first pixel is (0.5, 0.5).
    """
    from skimage.draw import polygon2mask

    outline = np.array([(y - 0.5, x - 0.5) for x, y in points], np.float64)
    return polygon2mask(size, outline)


def run_lengths(counts: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """(rows, columns) bool of COCO's runs: lengths of 0 and 1 in turn, column after column.

    Raises:
        ValueError: the lengths are not those of an image of this size.
    """
    lengths = np.array(counts, np.int64)
    if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != size[0] * size[1]:
        raise ValueError(f"run lengths of {int(lengths.sum())} pixels, the image has {size[0] * size[1]}")
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(size, order="F")


def packed_lengths(text: str) -> list[int]:
    """The run lengths of COCO's compressed form: base 32 in characters from '0', each from the third on less the one two before.

    Five bits a character, the sixth says that more follow, the sign is in the last one's fifth bit.

    Raises:
        ValueError: other characters, or an end in the midst of a number.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        digit = ord(character) - 48
        if not 0 <= digit < 64:
            raise ValueError("compressed run lengths with a strange character")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("compressed run lengths that break off")
    return counts
