"""Pixels of pictures, TIFF stacks and NIfTI files on their grids; masks are brought onto the grid of their image or refused."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thrifty.data.cases import Unreadable
from thrifty.data.decode import BROKEN, NOT_FINITE, decode, ending_of, is_volume, stored_type, times
from thrifty.data.limits import check_picture, check_values
from thrifty.data.pairs import COLOURS, FRACTIONS, SIZES
from thrifty.errors import one_line

MOST_CHANNELS = 8
SAME_PLACE = 0.05  # voxels: grids closer than this are one
TIF = (".tif", ".tiff")


@dataclass(frozen=True)
class Grid:
    """Pictures: values (rows, columns, channels), affine None. Volumes: (x, y, z, channels) and the affine to RAS mm."""

    values: np.ndarray
    affine: np.ndarray | None
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, ...]:
        return self.values.shape[:-1]


def holds_volume(path: Path) -> bool:
    """From the header alone: NIfTI with more than one slice, or a TIFF of several pages. Broken files count as pictures."""
    if is_volume(path):
        return True
    return ending_of(path.name) in TIF and _pages(path) > 1


def read_grid(path: Path, shown: str, indexed: bool = False) -> Grid:
    """One file. `indexed`: a picture with a palette is a mask, whose numbers are wanted. `shown` is what errors call the file.

    Raises:
        Unreadable: broken, too large, see-through, NaN in it, or more dimensions than make sense.
    """
    try:
        if is_volume(path):
            return _nifti(path, shown)
        if holds_volume(path):
            return _stack(path, shown)
        _check_turned(path)
        return Grid(decode(path, indexed).values, None, ("palette became RGB",) if not indexed and _has_palette(path) else ())
    except Unreadable as error:
        raise Unreadable(error.kind, f"{shown}{error.name.removeprefix(path.name).removeprefix(shown)}") from None
    except MemoryError:
        raise
    except Exception as error:  # decoders raise every kind of exception on broken files
        raise Unreadable(BROKEN, f"{shown} ({_plain(error, path)})") from None


def _plain(error: Exception, path: Path) -> str:
    text = one_line(error).replace(str(path), "").replace(path.name, "").strip(" :'\"")
    return text[:120] or type(error).__name__


def _check_turned(path: Path) -> None:
    from PIL import ExifTags, Image

    if ending_of(path.name) in (".jpg", ".jpeg"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                turn = image.getexif().get(ExifTags.Base.Orientation, 1)
        if turn != 1:
            raise ValueError(f"its EXIF header turns it (orientation {turn}); save it as it shall be seen")


def _has_palette(path: Path) -> bool:
    from PIL import Image

    if ending_of(path.name) not in (".png", ".bmp"):
        return False
    with Image.open(path) as image:
        return image.mode == "P"


def _pages(path: Path) -> int:
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            axes = "".join(a for n, a in zip(series.shape, series.axes, strict=True) if n > 1 or a in "YX")
            return len(file.pages) if len(axes.replace("S", "").replace("C", "")) > 2 else 1
    except Exception:
        return 1


def _stack(path: Path, shown: str) -> Grid:
    """A TIFF whose pages are slices. Its spacing is that of ImageJ where it says one in mm or micrometres, otherwise 1 mm."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        if len(file.series) != 1:
            raise ValueError("pages of several sizes")
        series = file.series[0]
        page = series.keyframe
        check_picture(int(page.imagelength), int(page.imagewidth), shown)
        check_values(int(np.prod(series.shape)), shown)
        values, axes = series.asarray(), series.axes
        spacing, note = _tif_spacing(file)
        if series.keyframe.photometric == tifffile.PHOTOMETRIC.MINISWHITE and values.dtype.kind in "bu":
            values = ~values
    values = values.reshape([n for n, a in zip(values.shape, axes, strict=True) if n > 1 or a in "YX"])
    axes = "".join(a for n, a in zip(series.shape, axes, strict=True) if n > 1 or a in "YX")
    flat = axes.replace("C", "S")
    places = [flat.find(a) for a in "XY"] + [k for k, a in enumerate(flat) if a not in "XYS"]
    if len(places) != 3:
        raise ValueError(f"its axes are {axes}; pages, rows and columns are needed")
    channels = [flat.index("S")] if "S" in flat else []
    values = np.transpose(values, places + channels)
    values = values if channels else values[..., None]
    if values.shape[3] in (2, 4):
        values = _opaque(values, shown)
    affine = np.diag([*spacing, 1.0])
    return Grid(_checked(stored_type(values), shown), affine, (f"TIFF of {values.shape[2]} pages became a volume, {note}",))


def _opaque(values: np.ndarray, shown: str) -> np.ndarray:
    from thrifty.data.decode import without_alpha

    return without_alpha(values, shown)


def _tif_spacing(file: Any) -> tuple[tuple[float, float, float], str]:
    described = file.imagej_metadata or {}
    factor = {"mm": 1.0, "um": 1e-3, "µm": 1e-3, "micron": 1e-3, "\\u00B5m": 1e-3}.get(str(described.get("unit", "")))
    resolution = [file.pages[0].tags.get(tag) for tag in ("XResolution", "YResolution")]
    if factor is None or None in resolution:
        return (1.0, 1.0, 1.0), "its spacing unknown and set to 1 mm"
    x, y = (tag.value[1] / tag.value[0] * factor for tag in resolution)
    return (x, y, float(described.get("spacing", 1.0 / factor)) * factor), "its spacing as ImageJ wrote it"


def _nifti(path: Path, shown: str) -> Grid:
    import nibabel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image: Any = nibabel.load(path)
        shape = tuple(image.shape)
        check_values(int(np.prod(shape, dtype=object)), shown)
        values = np.asanyarray(image.dataobj)
    if values.dtype.names:  # RGB and RGBA of NIfTI
        values = np.stack([values[name] for name in values.dtype.names], axis=-1)
    extra = [n for n in values.shape[3:] if n != 1]
    if values.ndim < 2 or len(extra) > 1 or (extra and extra[0] > MOST_CHANNELS):
        raise ValueError(f"its size is {times(shape)}; three dimensions (and up to {MOST_CHANNELS} channels) are needed")
    values = values.reshape(*(*values.shape[:3], 1)[:3], *(extra or [1]))
    if image.affine is None or abs(np.linalg.det(image.affine[:3, :3])) < 1e-9:
        raise ValueError("its affine cannot be inverted")
    return Grid(_checked(stored_type(values), shown), np.asarray(image.affine, np.float64))


def _checked(values: np.ndarray, shown: str) -> np.ndarray:
    if values.size == 0:
        raise ValueError("no pixels in it")
    if values.dtype == np.float32 and not np.isfinite(values).all():
        raise Unreadable(NOT_FINITE, shown)
    return values


def class_values(values: np.ndarray, shown: str) -> np.ndarray:
    """A mask's numbers (..., channels) without channels, as uint8 or uint16; equal channels count as one.

    Raises:
        Unreadable: colours, fractions, negative or huge numbers.
    """
    if (values != values[..., :1]).any():
        raise Unreadable(COLOURS, shown)
    values = values[..., 0]
    fractions = values.dtype.kind == "f" and bool((values != np.rint(values)).any())
    if fractions or values.min() < 0 or values.max() > 65535:
        raise Unreadable(FRACTIONS, shown)
    return values.astype(np.uint8 if values.max() < 256 else np.uint16)


def onto(image: Grid, mask: Grid, shown: str) -> tuple[np.ndarray, list[str]]:
    """The mask's class values on the grid of its image, and what had to be done for it.

    Axes may be swapped and flipped, which moves no voxel; nothing is ever resampled.

    Raises:
        Unreadable: another size or another place.
    """
    ids = class_values(mask.values, shown)
    if image.affine is None or mask.affine is None:
        if ids.ndim == len(image.size) + 1 and ids.shape[2] == 1:
            ids = ids[..., 0].T  # one slice of a volume beside a picture: (x, y) are columns and rows
        if ids.shape != image.size:
            raise Unreadable(SIZES, f"{shown} (image {times(image.size)}, mask {times(ids.shape)})")
        return ids, []
    ids, affine, turned = reoriented(ids, mask.affine, image.affine)
    if ids.shape != image.size:
        raise Unreadable(SIZES, f"{shown} (image {times(image.size)}, mask {times(ids.shape)})")
    away = _most_apart(affine, image.affine, image.size)
    if away > SAME_PLACE:
        raise Unreadable(
            "masks on another grid than their image", f"{shown} (up to {away:.2g} voxels apart; nothing is resampled)"
        )
    return ids, ["mask turned onto the axes of its image"] if turned else []


def reoriented(values: np.ndarray, affine: np.ndarray, like: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """`values` (x, y, z) and their affine with axes swapped and flipped as those of `like` lie; and whether they were."""
    from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform

    change = ornt_transform(io_orientation(affine), io_orientation(like))
    if np.array_equal(change, [[0, 1], [1, 1], [2, 1]]):
        return values, affine, False
    return apply_orientation(values, change), affine @ inv_ornt_aff(change, values.shape), True


def _most_apart(first: np.ndarray, second: np.ndarray, size: tuple[int, ...]) -> float:
    """The largest distance of a corner of the volume under two affines, in voxels of the second."""
    corners = np.array([(x, y, z, 1) for x in (0, size[0] - 1) for y in (0, size[1] - 1) for z in (0, size[2] - 1)], float)
    moved = corners @ (np.linalg.inv(second) @ first).T
    return float(np.abs(moved - corners).max())
