"""What a prediction is made of: a picture, a NIfTI volume or a DICOM series as slices, and the way back to its geometry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from thrifty.data.cases import Unreadable
from thrifty.data.decode import decode, is_volume, times
from thrifty.data.dicom import NO_WINDOW, DicomImage, read_series
from thrifty.data.segmentation_out import write_seg
from thrifty.data.voi import Window
from thrifty.results import write_file

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

Kind = Literal["picture", "nifti", "dicom"]
AXIS = 2  # of a volume, for networks that were trained on pictures
PARTS = "channel files that do not fit together"
WINDOWLESS = "DICOM files without a window of their own (give --window CENTRE,WIDTH)"


@dataclass(frozen=True)
class Scan:
    """One thing to predict.

    `slices` (N, channels, H, W) are what a network gets. `back` brings maps (N, ..., H, W) of them to the layout of the file:
    of a picture (..., H, W), of a volume (x, y, z, ...) in the order of its own axes, of a series (slices, ..., rows, columns).
    """

    kind: Kind
    slices: np.ndarray
    back: Callable[[np.ndarray], np.ndarray]
    image: Nifti1Image | None = None
    dicom: DicomImage | None = None


def read_scan(kind: Kind, files: Sequence[Path], channels: int, slice_axis: int | None, window: Window = "none") -> Scan:
    """
    Args:
        kind: of the files.
        files: one for each channel, or of a series one for each slice.
        channels: of the network.
        slice_axis: across which volumes (turned closest to RAS) became training images; None for a network of pictures, which
            gets a volume across its last axis and DICOM slices as they are shown.
        window: through which grey values of DICOM become 8 bits, as `thrifty data import` has it.

    Raises:
        Unreadable: a file is broken, or what is in it does not fit the network.
    """
    if kind == "dicom":
        scan = _dicom(files, slice_axis, window)
    else:
        scan = _nifti(files, slice_axis) if kind == "nifti" else _picture(files)
    return replace(scan, slices=_fitting(scan.slices, channels, files[0].name))


def _fitting(slices: np.ndarray, channels: int, name: str) -> np.ndarray:
    """Grey pictures that were saved in colour are grey: equal channels count as one."""
    if channels == 1 and slices.shape[1] > 1 and (slices == slices[:, :1]).all():
        slices = slices[:, :1]
    if slices.shape[1] != channels:
        many = ", or one file for each (<case>_0000, <case>_0001, ...)" if channels > 1 else ""
        raise Unreadable("files with other channels than the network", f"{name} ({slices.shape[1]}, needed: {channels}{many})")
    return slices


def _picture(files: Sequence[Path]) -> Scan:
    parts = [decode(path).values for path in files]
    if len({part.shape[:2] for part in parts}) > 1:
        raise Unreadable(PARTS, f"{files[0].name} and the others ({' and '.join(times(part.shape[:2]) for part in parts)})")
    return Scan("picture", np.moveaxis(np.concatenate(parts, axis=2), 2, 0)[None], lambda maps: maps[0])


def _nifti(files: Sequence[Path], slice_axis: int | None) -> Scan:
    import nibabel

    parts = [decode(path) for path in files]
    images: list[Any] = [nibabel.load(path) for path in files]
    first = images[0]
    for image in images[1:]:
        if image.shape != first.shape or not np.allclose(image.affine, first.affine, atol=1e-3):
            raise Unreadable(PARTS, f"{files[0].name} and the others (shapes or affines differ)")
    axis = AXIS if slice_axis is None else slice_axis
    slices = np.moveaxis(np.stack([part.values for part in parts]), axis + 1, 0)

    def back(maps: np.ndarray) -> np.ndarray:
        volume = _turned_back(_as_volume(maps, axis), first.affine)
        return volume.reshape(*first.shape, *volume.shape[3:])

    return Scan("nifti", slices, back, image=first)


def _dicom(files: Sequence[Path], slice_axis: int | None, window: Window) -> Scan:
    name = files[0].name if len(files) == 1 else f"{files[0].parent.name}/ ({len(files)} files)"
    source = read_series(files, name, window, as_volume=slice_axis is not None, call=lambda path: path.name)
    if NO_WINDOW in source.notes:
        raise Unreadable(WINDOWLESS, name)
    affine = source.affine
    if slice_axis is None or affine is None:
        return Scan("dicom", np.moveaxis(source.values, 3, 1), lambda maps: maps, dicom=source)
    from nibabel.orientations import apply_orientation, io_orientation

    volume = apply_orientation(source.volume(), io_orientation(affine))  # (x, y, z, channels), closest to RAS
    slices = np.moveaxis(np.moveaxis(volume, 3, 0), slice_axis + 1, 0)

    def back(maps: np.ndarray) -> np.ndarray:
        file_order = _turned_back(_as_volume(maps, slice_axis), affine)  # (column, row, slice, ...)
        return np.moveaxis(file_order, (2, 1, 0), (0, -2, -1))

    return Scan("dicom", slices, back, dicom=source)


def _as_volume(maps: np.ndarray, axis: int) -> np.ndarray:
    """(N, ..., H, W) with N across `axis` as (x, y, z, ...)."""
    return np.moveaxis(np.moveaxis(maps, (-2, -1), (1, 2)), 0, axis)


def _turned_back(volume: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """From closest to RAS to the order and direction of axes that `affine` has."""
    from nibabel.orientations import apply_orientation, io_orientation, ornt_transform

    ras = np.array([[0, 1], [1, 1], [2, 1]])
    return apply_orientation(volume, ornt_transform(ras, io_orientation(affine)))


def kind_of(path: Path) -> Kind:
    """Of a picture or a volume, by its name."""
    return "nifti" if is_volume(path) else "picture"


def write_label_map(
    path: Path, scan: Scan, labels: np.ndarray, names: Sequence[str], largest: int | None, weights_sha256: str
) -> None:
    """Class ids (N, H, W) uint8 of a scan, in the geometry of its file and in the format that the ending of `path` says.

    Args:
        names: of the classes.
        largest: of a PNG: grey values that are far apart instead of class ids, for looking at, by the largest id; None: ids.
        weights_sha256: for DICOM-SEG, which names the device that made it.
    """
    found = scan.back(labels)
    if scan.kind == "nifti":
        write_nifti(path, scan, found)
    elif path.suffix == ".dcm":
        assert scan.dicom is not None
        write_seg(path, found, scan.dicom, names, weights_sha256)
    else:
        shown = found if largest is None else found * (255 // max(1, largest))
        write_png(path, shown)


def write_png(path: Path, values: np.ndarray) -> None:
    """(H, W) uint8; a stack (N, H, W) becomes the files 0000.png, ... in the folder that `path` names without its ending.

    The first one is written last: where it is the others are.
    """
    from PIL import Image

    if values.ndim == 2:
        write_file(path, lambda file: Image.fromarray(values).save(file, format="png"))
        return
    if len(values) == 1:
        write_png(path, values[0])
        return
    for number in reversed(range(len(values))):
        write_png(stack_path(path, number), values[number])


def stack_path(path: Path, number: int = 0) -> Path:
    return path.with_suffix("") / f"{number:04d}.png"


def write_nifti(path: Path, scan: Scan, values: np.ndarray) -> None:
    """Values in the layout of the scan's volume, with its affine, zooms and codes, without the texts of its header."""
    source: Any = scan.image
    header = source.header.copy()
    header.set_data_dtype(values.dtype)
    header.set_slope_inter(1, 0)
    header.extensions.clear()
    for key in ("descrip", "aux_file", "db_name", "intent_name"):
        if key in header:  # NIfTI-2 has fewer
            header[key] = b""
    header["cal_min"] = header["cal_max"] = 0
    zooms = header.get_zooms()
    image = type(source)(values, source.affine, header)
    image.header.set_zooms((*zooms[: values.ndim], *(1.0,) * (values.ndim - len(zooms))))
    content = image.to_bytes()
    if path.name.lower().endswith(".gz"):
        content = _gzipped(content)
    write_file(path, lambda file: file.write(content))


def _gzipped(content: bytes) -> bytes:
    import gzip

    return gzip.compress(content, compresslevel=6, mtime=0)


def write_map(stem: Path, kind: str, scan: Scan, maps: np.ndarray) -> None:
    """A float32 map beside the labels: `<stem>_<kind>`, NIfTI of a volume (classes as the fourth axis), otherwise npz."""
    found = scan.back(maps)
    if scan.kind == "nifti":
        write_nifti(map_path(stem, kind, "nifti"), scan, found)
        return
    write_file(map_path(stem, kind, scan.kind), lambda file: np.savez_compressed(file, allow_pickle=False, **{kind: found}))


def map_path(stem: Path, kind: str, scan_kind: Kind) -> Path:
    return stem.with_name(f"{stem.name}_{kind}{'.nii.gz' if scan_kind == 'nifti' else '.npz'}")
