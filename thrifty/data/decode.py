"""Decodes one file of pixels: png, tif, jpg and bmp pictures, NIfTI volumes."""

from __future__ import annotations

import logging
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thrifty.data.cases import Unreadable
from thrifty.errors import one_line

if TYPE_CHECKING:
    from PIL import ImageFile

PICTURES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
VOLUMES = (".nii", ".nii.gz")
ENDINGS = (*PICTURES, *VOLUMES)

BROKEN = "files that cannot be read"
TOO_LARGE = "files with more pixels than are read (a decompression bomb, or to be cut into tiles)"
MOST_PIXELS = 89_478_485  # of a picture: where Pillow warns
MOST_VOXELS = 2**30
NOT_FINITE = "files with NaN or infinite pixels"


@dataclass(frozen=True)
class Pixels:
    """A decoded file. Pictures: values (height, width, channels). Volumes: values (x, y, z), closest to RAS."""

    values: np.ndarray
    spacing_mm: tuple[float, ...] | None
    orientation: tuple[str, ...] | None


def ending_of(name: str) -> str | None:
    """The known ending of a file name in small letters ('.nii.gz' is one ending), or None."""
    small = name.lower()
    return next((ending for ending in sorted(ENDINGS, key=len, reverse=True) if small.endswith(ending)), None)


def stem_of(name: str) -> str:
    ending = ending_of(name)
    return name[: -len(ending)] if ending else name


def is_volume(path: Path) -> bool:
    return ending_of(path.name) in VOLUMES


def decode(path: Path, indexed: bool = False) -> Pixels:
    """The pixels of a file in one of the stored types (uint8, int16, uint16, float32).

    `indexed`: a picture with a palette is a mask, whose numbers are wanted and not its colours.

    Raises:
        Unreadable: empty, truncated or of another format, or NaN in it.
    """
    try:
        if path.stat().st_size == 0:
            raise ValueError("zero bytes")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a decoder's remark on a header is no reason to stop
            pixels = _volume(path) if is_volume(path) else _picture(path, indexed)
        if pixels.values.size == 0:
            raise ValueError("no pixels in it")
        values = _stored_type(pixels.values)
    except (MemoryError, Unreadable):
        raise
    except Exception as error:  # decoders raise every kind of exception on broken files (struct.error, zlib.error, EOFError)
        reason = one_line(error).replace(str(path), "").strip(" :") or type(error).__name__
        raise Unreadable(BROKEN, f"{path.name} ({reason[:120]})") from None
    if values.dtype == np.float32 and not np.isfinite(values).all():
        raise Unreadable(NOT_FINITE, path.name)
    return Pixels(values, pixels.spacing_mm, pixels.orientation)


def volume_size(path: Path) -> tuple[int, int, int]:
    """The size of a volume from its header alone, as `decode` would give it (x, y, z).

    Raises:
        Unreadable: as `decode`.
    """
    import nibabel

    try:
        image = nibabel.load(path)
        shape, axes = _three(image.shape), nibabel.io_orientation(image.affine)[:, 0]  # pyrefly: ignore[missing-attribute]
        x, y, z = (shape[int(np.flatnonzero(axes == axis)[0])] for axis in range(3))
        return x, y, z
    except Exception as error:
        reason = "zero bytes" if path.is_file() and path.stat().st_size == 0 else one_line(error)
        raise Unreadable(BROKEN, f"{path.name} ({reason.replace(str(path), '').strip(' :')[:120]})") from None


def joined_type(types: set[np.dtype[Any]]) -> np.dtype[Any]:
    """The one stored type that holds the values of all of `types` unchanged."""
    joined = np.result_type(*types)
    return joined if joined.name in ("uint8", "int16", "uint16") else np.dtype(np.float32)


def times(size: tuple[int, ...]) -> str:
    """A size as people write it, 40x52."""
    return "x".join(map(str, size))


def _stored_type(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "biuf":
        raise ValueError(f"pixels of type {values.dtype}, plain numbers are needed")
    small = {"bool": "uint8", "int8": "int16"}.get(values.dtype.name, values.dtype.name)
    kept = small if small in ("uint8", "int16", "uint16") else "float32"
    with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite and is refused with the infinite ones
        return values.astype(kept)


def _picture(path: Path, indexed: bool) -> Pixels:
    tif = ending_of(path.name) in (".tif", ".tiff")
    values = _tif(path, indexed) if tif else _pillow(path, indexed)
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or values.shape[2] not in (1, 2, 3, 4):
        raise ValueError(f"its size is {times(values.shape)}; one page of rows, columns and 1 to 4 channels is needed")
    alpha = values.shape[2] in (2, 4)
    return Pixels(values[:, :, :-1] if alpha else values, None, None)


def _check_size(path: Path, shape: tuple[int, ...], most: int) -> None:
    """By the header, before memory is taken."""
    if math.prod(shape) > most:
        raise Unreadable(TOO_LARGE, f"{path.name} ({times(shape)}, at most {most:,})")


def _open_picture(path: Path) -> ImageFile.ImageFile:
    """
    Raises:
        Unreadable: Pillow refuses its size, or we do, which is before Pillow would warn.
    """
    from PIL import Image

    try:
        image = Image.open(path)
    except Image.DecompressionBombError as error:
        raise Unreadable(TOO_LARGE, f"{path.name} ({one_line(error)})") from None
    try:
        _check_size(path, (image.height, image.width), MOST_PIXELS)
    except Unreadable:
        image.close()
        raise
    return image


def _pillow(path: Path, indexed: bool) -> np.ndarray:
    with _open_picture(path) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise ValueError(f"{image.n_frames} pages, one is needed")  # pyrefly: ignore[missing-attribute]
        if "RGB" in image.mode and ";16" in str(image.tile):
            raise ValueError("16 bit colour PNG cannot be decoded without loss; save it as TIFF")
        image.load()
        if image.mode == "P":
            return np.asarray(image) if indexed else np.asarray(image.convert("RGB"))
        if image.mode in ("PA", "RGBa", "CMYK", "YCbCr", "LAB", "HSV"):
            image = image.convert("RGB")
        return np.asarray(image)


def _tif(path: Path, indexed: bool) -> np.ndarray:
    """TIFF through tifffile, which knows 16 bit colour and floats; through Pillow where the compression needs it."""
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it logs what it also raises
    with tifffile.TiffFile(path) as file:
        if len(file.series) != 1:
            raise ValueError(f"{len(file.series)} images in one file, one is needed")
        series = file.series[0]
        _check_size(path, series.shape, MOST_PIXELS * 4)
        try:
            values, axes = series.asarray(), series.axes
        except Exception as error:
            if "imagecodecs" in str(error):
                return _pillow(path, indexed)
            raise
        if series.keyframe.photometric == tifffile.PHOTOMETRIC.MINISWHITE and values.dtype.kind in "bu":
            values = ~values  # white was stored as zero
    keep = tuple(slice(None) if n > 1 or a in "YX" else 0 for n, a in zip(values.shape, axes, strict=True))
    values, axes = values[keep], "".join(a for n, a in zip(values.shape, axes, strict=True) if n > 1 or a in "YX")
    if axes in ("SYX", "CYX"):
        return np.moveaxis(values, 0, 2)
    if axes not in ("YX", "YXS", "YXC"):
        raise ValueError(f"its size is {times(values.shape)} (axes {axes}); one page is needed")
    return values


def _volume(path: Path) -> Pixels:
    import nibabel

    image = nibabel.load(path)
    _check_size(path, image.shape, MOST_VOXELS)  # pyrefly: ignore[missing-attribute]
    orientation = tuple(str(code) for code in nibabel.aff2axcodes(image.affine))  # pyrefly: ignore[missing-attribute]
    image = nibabel.as_closest_canonical(image)  # pyrefly: ignore[bad-argument-type]
    shape = _three(image.shape)
    spacing = tuple(round(float(z), 6) for z in (*image.header.get_zooms()[:3], 1.0, 1.0)[:3])
    values = np.asanyarray(image.dataobj).reshape(shape)
    return Pixels(values, spacing, orientation)


def _three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    if any(n != 1 for n in shape[3:]) or len(shape) < 2:
        raise ValueError(f"its size is {times(shape)}; three dimensions are needed, and one file for each channel")
    x, y, z = (*shape[:3], 1)[:3]
    return x, y, z
