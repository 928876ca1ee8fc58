"""An image and its mask, read and brought together: the common end of folders and CSV lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from thrifty.data.cases import Unreadable
from thrifty.data.decode import is_volume, times
from thrifty.data.importing.grids import Grid, onto, read_grid
from thrifty.data.importing.items import NO_MASK, Loaded, Wishes
from thrifty.data.pairs import CHANNELS


def read_image(paths: Sequence[Path], shown: str) -> Grid:
    """The files of the channels of one image as one grid.

    Raises:
        Unreadable: as `read_grid`; files that do not fit together.
    """
    parts = [read_grid(path, shown) for path in paths]
    first = parts[0]
    for part in parts[1:]:
        apart = (part.affine is None) != (first.affine is None)
        both = part.affine is not None and first.affine is not None
        elsewhere = both and not np.allclose(np.asarray(part.affine), np.asarray(first.affine), atol=1e-3)
        if part.size != first.size or apart or elsewhere:
            raise Unreadable(CHANNELS, f"{shown} ({times(first.size)} and {times(part.size)}, or another place)")
    values = np.concatenate([part.values for part in parts], axis=-1)
    return Grid(values, first.affine, tuple(dict.fromkeys(note for part in parts for note in part.notes)))


def with_mask(image: Grid, mask: Path | None, shown: str, wishes: Wishes, part: str = "") -> Loaded:
    """The image with the mask of a file, on one grid.

    Raises:
        Unreadable: no mask where one is needed, or as `onto`.
    """
    if mask is None:
        if wishes.unmasked == "refuse":
            raise Unreadable(NO_MASK, shown)
        ids, notes = np.zeros(image.size, np.uint8), ["no mask: taken as empty"]
    else:
        ids, notes = onto(image, read_grid(mask, shown, indexed=True), shown)
    return Loaded(image.values, ids, image.affine, (*image.notes, *notes), part)


def as_wished(loaded: Loaded, wishes: Wishes, nifti: bool = False) -> Iterator[Loaded]:
    """The case as it is, or with `slices` one picture for each slice of a volume, lying as `thrifty predict` has it.

    Pages and DICOM slices lie as they are shown: rows are y, columns x. NIfTI is turned closest to RAS: rows are x, columns y.
    """
    if loaded.affine is None or not wishes.slices:
        yield loaded
        return
    if nifti:
        from nibabel.orientations import apply_orientation, io_orientation

        ornt = io_orientation(loaded.affine)
        loaded = replace(loaded, image=apply_orientation(loaded.image, ornt), mask=apply_orientation(loaded.mask, ornt))
    else:
        loaded = replace(loaded, image=loaded.image.swapaxes(0, 1), mask=loaded.mask.swapaxes(0, 1))
    digits = max(3, len(str(loaded.mask.shape[2] - 1)))
    for k in range(loaded.mask.shape[2]):
        image, mask = (np.ascontiguousarray(values[:, :, k]) for values in (loaded.image, loaded.mask))
        yield Loaded(image, mask, None, (*loaded.notes, "slices of a volume became pictures"), f"{loaded.part}_z{k:0{digits}d}")


def load_pair(images: Sequence[Path], mask: Path | None, shown: str, wishes: Wishes) -> Iterator[Loaded]:
    yield from as_wished(with_mask(read_image(images, shown), mask, shown, wishes), wishes, nifti=is_volume(images[0]))
