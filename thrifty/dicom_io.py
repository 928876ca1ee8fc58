"""DICOM images in, DICOM segmentations out: files grouped into series, slices in their order, labels as DICOM-SEG."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thrifty import __version__
from thrifty.data.cases import Unreadable
from thrifty.data.decode import BROKEN
from thrifty.errors import ThriftyError, one_line
from thrifty.results import write_file

if TYPE_CHECKING:
    from pydicom import Dataset

ENDINGS = (".dcm", ".dicom")
NO_IMAGES = ("SEG", "SR", "PR", "KO", "RTSTRUCT", "RTPLAN", "RTDOSE", "REG")  # modalities without pixels to predict
NOT_ONE = "series that are no single stack of slices"
NO_SEG = "series that cannot have a DICOM-SEG (give --format png)"
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # from DICOM's patient axes (to the left and the back) to those of NIfTI
ALIKE = 1e-3  # difference of direction cosines that rounding leaves
TISSUE = ("85756007", "SCT", "Tissue")


@dataclass(frozen=True)
class DicomGeometry:
    """Where a series lies. `affine` (4, 4) takes (column, row, slice) to RAS mm; None where the headers do not tell."""

    files: tuple[Path, ...]
    affine: np.ndarray | None


def is_dicom(path: Path) -> bool:
    """By its ending, or the mark at byte 128 where it has none."""
    if path.suffix.lower() in ENDINGS:
        return True
    if path.suffix and not path.suffix[1:].isdecimal():
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def group_series(paths: Iterable[Path]) -> list[list[Path]]:
    """The files of each series (by SeriesInstanceUID). A broken file stays alone, one without an image is left out.

    Raises:
        ThriftyError: the libraries for DICOM are not installed.
    """
    try:
        from pydicom import dcmread
    except ImportError:
        raise ThriftyError("DICOM files need pydicom and highdicom; pip install 'thrifty[dicom]'") from None

    groups: dict[str, list[Path]] = {}
    for path in paths:
        try:
            header = dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID", "Modality", "Rows"])
        except Exception:
            groups[str(path)] = [path]  # it is refused, by name, when it is read
            continue
        if header.get("Modality") not in NO_IMAGES and "Rows" in header:
            groups.setdefault(str(header.get("SeriesInstanceUID", path)), []).append(path)
    return list(groups.values())


def read_dicom(path: Path | Sequence[Path]) -> tuple[np.ndarray, DicomGeometry]:
    """A file or the files of a series: values (slices, rows, columns, channels) and where they lie.

    Slices are ordered along the normal of their plane by ImagePositionPatient. Values are rescaled by slope and intercept;
    MONOCHROME1 is turned round, so that large is bright. Windows are not applied.

    Raises:
        Unreadable: no DICOM image, a compression without decoder, or slices that are no stack.
    """
    paths = [path] if isinstance(path, Path) else list(path)
    found = [_slice(one) for one in paths]
    headers = [header for header, _ in found]
    name = paths[0].name if len(paths) == 1 else f"{paths[0].parent.name}/ ({len(paths)} files)"
    if len({values.shape for _, values in found}) > 1:
        raise Unreadable(NOT_ONE, f"{name}: slices of different sizes")
    order = _order(headers, name) if len(paths) > 1 else [0]
    values = np.concatenate([found[k][1] for k in order])
    geometry = DicomGeometry(tuple(paths[k] for k in order), _affine([headers[k] for k in order]))
    return values, geometry


def _slice(path: Path) -> tuple[Dataset, np.ndarray]:
    """The header without pixels, and the values (frames, rows, columns, channels)."""
    from pydicom import dcmread
    from pydicom.pixels import apply_color_lut, convert_color_space

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a remark on a header is no reason to stop
            data = dcmread(path)
            values, kind = data.pixel_array, str(data.PhotometricInterpretation)
            if kind == "PALETTE COLOR":
                values = apply_color_lut(values, data)
            elif kind.startswith("YBR_FULL") and data.file_meta.TransferSyntaxUID.is_compressed is False:
                values = convert_color_space(values, kind, "RGB")
    except Exception as error:  # decoders raise every kind of exception on broken files
        # The kind of error alone: its text may quote the header, and with it the patient.
        raise Unreadable(BROKEN, f"{path.name} ({type(error).__name__})") from None
    colours = kind == "PALETTE COLOR" or int(data.SamplesPerPixel) > 1
    values = values if colours else values[..., None]
    values = values[None] if values.ndim == 3 else values
    if kind == "MONOCHROME1":
        top = 2 ** int(data.BitsStored) - 1
        values = (-1 if int(data.PixelRepresentation) else top) - values.astype(np.int32)
    slope, intercept = float(data.get("RescaleSlope", 1)), float(data.get("RescaleIntercept", 0))
    if (slope, intercept) != (1.0, 0.0):
        values = (values * slope + intercept).astype(np.float32)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise Unreadable(BROKEN, f"{path.name} (NaN or infinite values)")
    del data.PixelData
    return data, values


def _plane(header: Dataset) -> tuple[np.ndarray, np.ndarray] | None:
    """Direction cosines (2, 3) along a row and along a column, and the position (3,) of the first pixel, mm."""
    if not header.get("ImageOrientationPatient") or not header.get("ImagePositionPatient"):
        return None
    axes = np.array([float(v) for v in header.ImageOrientationPatient]).reshape(2, 3)
    return axes, np.array([float(v) for v in header.ImagePositionPatient])


def _order(headers: Sequence[Dataset], name: str) -> list[int]:
    """Along the normal of the slices; by InstanceNumber where no position is known."""
    planes = [_plane(header) for header in headers]
    known = [plane for plane in planes if plane is not None]
    if len(known) < len(planes):
        return sorted(range(len(headers)), key=lambda k: int(headers[k].get("InstanceNumber") or 0))
    axes = known[0][0]
    if any(np.abs(other - axes).max() > ALIKE for other, _ in known):
        raise Unreadable(NOT_ONE, f"{name}: slices of different orientations")
    heights = np.array([position @ np.cross(*axes) for _, position in known])
    order = [int(k) for k in np.argsort(heights, kind="stable")]
    if np.diff(heights[order]).min() < ALIKE:
        raise Unreadable(NOT_ONE, f"{name}: several slices at one position")
    return order


def _affine(headers: Sequence[Dataset]) -> np.ndarray | None:
    """DICOM PS3.3, C.7.6.2.1.1, with the step from slice to slice taken from the first and last position."""
    planes = [_plane(header) for header in headers]
    if any(plane is None for plane in planes) or not headers[0].get("PixelSpacing"):
        return None
    (axes, first), (_, last) = planes[0], planes[-1]  # type: ignore[misc]
    row_mm, column_mm = (float(v) for v in headers[0].PixelSpacing)
    thick = float(headers[0].get("SliceThickness") or 1.0)
    step = (last - first) / (len(headers) - 1) if len(headers) > 1 else np.cross(*axes) * thick
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2], affine[:3, 3] = axes[0] * column_mm, axes[1] * row_mm, step, first
    return RAS @ affine


def write_seg(path: Path, labels: np.ndarray, geometry: DicomGeometry, names: Sequence[str], weights_sha256: str) -> None:
    """A DICOM-SEG of class ids (slices, rows, columns): one binary segment for each class but the background, named `names`.

    It belongs to the patient and study of its source images, as the standard demands, and names the weights that made it.

    Raises:
        Unreadable: the source images lack what a segmentation must refer to.
        ThriftyError: the file cannot be written.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _segmentation(labels, geometry, names, weights_sha256)
    except Exception as error:
        reason = one_line(error)[:160] if isinstance(error, AttributeError) else type(error).__name__  # no value of a header
        raise Unreadable(NO_SEG, f"{geometry.files[0].name} ({reason})") from None
    write_file(path, lambda file: found.save_as(file))


def _segmentation(labels: np.ndarray, geometry: DicomGeometry, names: Sequence[str], weights_sha256: str) -> Any:
    import highdicom
    from highdicom.sr import CodedConcept
    from pydicom import dcmread

    sources = [dcmread(path, stop_before_pixels=True) for path in geometry.files]
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="thrifty", version=__version__, family=CodedConcept("123109", "DCM", "Artificial Intelligence")
    )
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name[:64],
            segmented_property_category=CodedConcept(*TISSUE),
            segmented_property_type=CodedConcept(*TISSUE),
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, name in enumerate(names[1:], start=1)
    ]
    return highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=labels,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=highdicom.UID(),
        series_number=int(sources[0].get("SeriesNumber") or 0) + 1000,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="thrifty",
        manufacturer_model_name="thrifty predict",
        software_versions=__version__,
        device_serial_number=weights_sha256[:16],
        content_description="research use only, not for diagnosis",
        omit_empty_frames=bool(labels.any()),
    )
