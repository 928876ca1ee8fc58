"""One pair of image and mask, decoded and checked: a picture is one case, a volume gives one for each slice."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from thrifty.data.cases import Case, Entry, Sample, Unreadable
from thrifty.data.decode import Pixels, decode, is_volume, times, volume_size
from thrifty.data.groups import Group

AXES = "xyz"

SIZES = "sizes that differ between image and mask"
CHANNELS = "channel files that do not fit together"
TURNED = "image and mask that are turned differently"
COLOURS = "masks in colour (a mask holds one number for each pixel)"
FRACTIONS = "masks with values that are no whole numbers from 0"


def entry(name: str, group: Group, images: tuple[Path, ...], mask: Path, slice_axis: int) -> Entry:
    """The entry of a pair; `images` are the files of its channels.

    Raises:
        Unreadable: the header of a volume is broken.
    """
    cases = volume_size(mask)[slice_axis] if is_volume(mask) else 1
    return Entry(name, group.patient, cases, partial(decode_pair, name, group, images, mask, slice_axis))


def decode_pair(name: str, group: Group, images: tuple[Path, ...], mask: Path, slice_axis: int) -> list[Sample]:
    """The cases of a pair.

    Raises:
        Unreadable: a file is broken, or image and mask do not belong together.
    """
    parts, truth = [decode(path) for path in images], decode(mask, indexed=True)
    _check_together(name, parts, truth, slices=is_volume(mask))
    if is_volume(mask):
        return _slices(name, group, parts, truth, slice_axis)
    image = np.concatenate([part.values for part in parts], axis=2)
    height, width = truth.values.shape[:2]
    case = Case(name, group.patient, group.volume, height, width, None, group.subgroups)
    return [Sample(case, np.moveaxis(image, 2, 0), _class_ids(name, _one_channel(name, truth.values)))]


def _check_together(name: str, parts: list[Pixels], truth: Pixels, slices: bool) -> None:
    ndim = 3 if slices else 2
    sizes = {part.values.shape[:ndim] for part in parts}
    if len(sizes) > 1:
        raise Unreadable(CHANNELS, f"{name} ({' and '.join(sorted(map(times, sizes)))})")
    size = sizes.pop()
    if any((part.orientation is None) == slices for part in parts):
        raise Unreadable(CHANNELS, f"{name} (a picture beside a volume)")
    if any(part.orientation != truth.orientation for part in parts):
        raise Unreadable(TURNED, name)
    if size != truth.values.shape[:ndim]:
        raise Unreadable(SIZES, f"{name} (image {times(size)}, mask {times(truth.values.shape[:ndim])})")


def _slices(name: str, group: Group, parts: list[Pixels], truth: Pixels, axis: int) -> list[Sample]:
    """The slices across `axis`; rows and columns are the other two axes, in their order."""
    image = np.moveaxis(np.stack([part.values for part in parts]), axis + 1, 0)
    mask = np.moveaxis(_class_ids(name, truth.values), axis, 0)
    assert truth.spacing_mm is not None
    row_mm, column_mm = (mm for i, mm in enumerate(truth.spacing_mm) if i != axis)
    digits = max(3, len(str(len(mask) - 1)))
    count, height, width = mask.shape
    names = [f"{name}_{AXES[axis]}{k:0{digits}d}" for k in range(count)]
    place = (height, width, (row_mm, column_mm), group.subgroups)
    cases = [Case(slice_name, group.patient, name, *place) for slice_name in names]
    return [Sample(case, image[k], mask[k]) for k, case in enumerate(cases)]


def _class_ids(name: str, values: np.ndarray) -> np.ndarray:
    if (values.dtype == np.float32 and (values != np.rint(values)).any()) or values.min() < 0:
        raise Unreadable(FRACTIONS, name)
    return values


def _one_channel(name: str, values: np.ndarray) -> np.ndarray:
    """A picture's mask (height, width, channels) as (height, width); equal channels count as one."""
    if (values != values[:, :, :1]).any():
        raise Unreadable(COLOURS, name)
    return values[:, :, 0]
