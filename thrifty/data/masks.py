"""What masks say beyond one class id for each pixel: ignored pixels, regions of interest, classes that overlap.

Each function gives an entry whose `decode` does more than that of the entry it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from thrifty.data.cases import Entry, Sample, Unreadable
from thrifty.data.classes import OUTSIDE
from thrifty.data.groups import Group
from thrifty.data.labels import bits_of_masks, bits_of_regions
from thrifty.data.pairs import decode_pair, entry

TWO_VALUES = "masks of one class with more than 0 and one other value"


def ignoring(item: Entry, value: int) -> Entry:
    """Pixels whose mask has `value` are ignored."""

    def decode() -> list[Sample]:
        return [replace(sample, ignored=sample.mask == value) for sample in item.decode()]

    return replace(item, decode=decode)


def within(item: Entry, group: Group, mask: Path, roi: Path, slice_axis: int) -> Entry:
    """What is 0 in the file `roi`, which is as large as the file `mask`, is outside of the region of interest."""

    def decode() -> list[Sample]:
        try:  # the mask in the place of the image: that they fit together is checked, no image is decoded twice
            rois = decode_pair(item.name, group, (mask,), roi, slice_axis)
        except Unreadable as error:
            raise Unreadable(f"regions of interest, {error.kind}", error.name) from None
        return [replace(sample, outside=found.mask == 0) for sample, found in zip(item.decode(), rois, strict=True)]

    return replace(item, decode=decode)


def by_regions(item: Entry, regions: Sequence[tuple[int, ...]]) -> Entry:
    """The label map becomes bit sets: bit k is set where its value is in `regions[k]`; 0 is the background."""
    allowed = sorted({0}.union(*regions))

    def decode() -> list[Sample]:
        return [_as_bits(sample) for sample in item.decode()]

    def _as_bits(sample: Sample) -> Sample:
        kept = sample.mask if sample.ignored is None else sample.mask[~sample.ignored]
        strange = sorted(set(np.unique(kept).tolist()) - set(allowed))
        if strange:
            shown = ", ".join(f"{value:g}" for value in strange[:6])
            raise Unreadable(f"{OUTSIDE} (allowed: {', '.join(map(str, allowed))})", f"{sample.case.name} has {shown}")
        return replace(sample, mask=bits_of_regions(sample.mask, regions))

    return replace(item, decode=decode)


def of_folders(
    name: str, group: Group, images: tuple[Path, ...], masks: Sequence[Path], slice_axis: int, ignore: int | None
) -> Entry:
    """An entry with one mask file for each class; what is not 0 (and not `ignore`) belongs to the class.

    Raises:
        Unreadable: the header of a volume is broken.
    """
    first = entry(name, group, images, masks[0], slice_axis)
    others = [partial(decode_pair, name, group, (masks[0],), mask, slice_axis) for mask in masks[1:]]
    labels = [mask.parent.name for mask in masks]

    def decode() -> list[Sample]:
        by_class = [first.decode(), *(other() for other in others)]
        return [_joined(samples, labels, ignore) for samples in zip(*by_class, strict=True)]

    return replace(first, decode=decode)


def _joined(samples: tuple[Sample, ...], labels: Sequence[str], ignore: int | None) -> Sample:
    """The masks of one case, class by class, as one sample; a pixel that one of them ignores is ignored."""
    masks = [sample.mask for sample in samples]
    ignored = np.any([mask == ignore for mask in masks], axis=0) if ignore is not None else None
    for label, mask in zip(labels, masks, strict=True):
        values = set(np.unique(mask).tolist()) - {0, ignore}
        if len(values) > 1:
            raise Unreadable(TWO_VALUES, f"{samples[0].case.name} ({label})")
    held = [(mask != 0) if ignored is None else (mask != 0) & ~ignored for mask in masks]
    return replace(samples[0], mask=bits_of_masks(held), ignored=ignored)
