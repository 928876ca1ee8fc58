"""DICOM files made for tests: images of every transfer syntax that can be encoded here, series, segmentations by highdicom."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    generate_uid,
)

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def dataset(pixels: np.ndarray, **tags: Any) -> Dataset:
    """An image (rows, columns[, 3]) with what a CT file needs; `tags` by keyword."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID = CTImageStorage
    header.SOPInstanceUID = generate_uid()
    header.StudyInstanceUID, header.SeriesInstanceUID = "1.2.3.4", "1.2.3.4.5"
    header.FrameOfReferenceUID = "1.2.3.4.9"
    header.Modality, header.PatientID, header.PatientName = "CT", "one", "One^Patient"
    header.PatientBirthDate, header.PatientSex, header.StudyDate, header.StudyTime = "", "O", "", ""
    header.StudyID, header.AccessionNumber, header.ReferringPhysicianName, header.PositionReferenceIndicator = "", "", "", ""
    header.SeriesNumber, header.InstanceNumber = 1, 1
    header.Rows, header.Columns = pixels.shape[:2]
    header.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    header.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        header.PlanarConfiguration = 0
    header.BitsAllocated = header.BitsStored = pixels.dtype.itemsize * 8
    header.HighBit = header.BitsStored - 1
    header.PixelRepresentation = int(pixels.dtype.kind == "i")
    header.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    for keyword, value in tags.items():
        setattr(header, keyword, value)
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    return header


def save(header: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    header.save_as(path, enforce_file_format=True)
    return path


def write(path: Path, pixels: np.ndarray, syntax: UID = ExplicitVRLittleEndian, **tags: Any) -> Path:
    """One image in a file, compressed by pydicom, Pillow or GDCM."""
    header = dataset(pixels, **tags)
    if syntax == JPEGLosslessSV1:
        return _by_gdcm(save(header, path))
    if syntax in (JPEGBaseline8Bit, JPEG2000Lossless):
        _by_pillow(header, pixels, syntax)
    elif syntax.is_compressed:
        header.compress(syntax)
    return save(header, path)


def _by_pillow(header: Dataset, pixels: np.ndarray, syntax: UID) -> None:
    stream, jpeg = io.BytesIO(), syntax == JPEGBaseline8Bit
    options: dict[str, Any] = {"quality": 95} if jpeg else {"irreversible": False, "no_jp2": True}
    Image.fromarray(pixels).save(stream, "JPEG" if jpeg else "JPEG2000", **options)
    header.PixelData = encapsulate([stream.getvalue()])
    header["PixelData"].is_undefined_length = True
    header.file_meta.TransferSyntaxUID = syntax
    if pixels.ndim == 3:
        header.PhotometricInterpretation = "YBR_FULL_422" if jpeg else "YBR_RCT"


def _by_gdcm(path: Path) -> Path:
    import gdcm

    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(path))
    assert writer.Write()
    return path


def series(
    folder: Path,
    slices: np.ndarray,
    cosines: tuple[float, ...] = AXIAL,
    spacing: tuple[float, float] = (1.0, 1.0),
    step: np.ndarray | float = 1.0,
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
    shuffle: bool = True,
    **tags: Any,
) -> list[Dataset]:
    """Writes (slices, rows, columns) as one file each, named in another order than that of their places; the headers by place."""
    row, column = np.array(cosines[:3]), np.array(cosines[3:])
    move = np.cross(row, column) * step if np.isscalar(step) else np.asarray(step)
    uid, headers = tags.pop("SeriesInstanceUID", generate_uid()), []
    for k, pixels in enumerate(slices):
        headers.append(
            dataset(
                pixels,
                SeriesInstanceUID=uid,
                ImageOrientationPatient=[float(f"{v:.9g}") for v in cosines],
                ImagePositionPatient=[float(f"{v:.9g}") for v in np.array(origin) + k * move],
                PixelSpacing=list(spacing),
                SliceThickness=float(f"{np.linalg.norm(move):.9g}"),
                InstanceNumber=k + 1,
                **tags,
            )
        )
    order = np.random.default_rng(0).permutation(len(slices)) if shuffle else range(len(slices))
    for name, k in enumerate(order):
        save(headers[k], folder / f"im{name:03d}.dcm")
    return headers


def enhanced(path: Path, stack: np.ndarray, order: tuple[int, ...], slopes: tuple[float, ...], **tags: Any) -> Path:
    """(slices, rows, columns) 3 mm apart as the frames of one file, in the order `order`, each slice with its own slope."""
    groups = []
    for k in order:
        frame, place, change = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [0, 0, 3.0 * k]
        change.RescaleSlope, change.RescaleIntercept, change.RescaleType = slopes[k], 0, "US"
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [place], [change]
        groups.append(frame)
    shared, direction, measures = Dataset(), Dataset(), Dataset()
    direction.ImageOrientationPatient, measures.PixelSpacing, measures.SliceThickness = list(AXIAL), [1, 1], 3
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [direction], [measures]
    tags |= {
        "NumberOfFrames": len(order),
        "PixelData": stack[list(order)].tobytes(),
        "PerFrameFunctionalGroupsSequence": groups,
        "SharedFunctionalGroupsSequence": [shared],
    }
    return write(path, stack[0], SOPClassUID=EnhancedCTImageStorage, **tags)


def segmentation(path: Path, images: list[Dataset], masks: np.ndarray, overlapping: bool = False, **options: Any) -> Path:
    """A DICOM-SEG by highdicom: `masks` (slices, rows, columns) of segment numbers, or (..., segments) of 0 and 1."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    words = (codes.SCT.Liver, codes.SCT.Kidney, codes.SCT.Spleen)
    count = masks.shape[3] if overlapping else int(masks.max())
    described = [
        hd.seg.SegmentDescription(
            segment_number=k + 1,
            segment_label=f"free text {k}",
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=words[k],
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for k in range(count)
    ]
    made = hd.seg.Segmentation(
        source_images=images,
        pixel_array=masks,
        segmentation_type=options.pop("kind", hd.seg.SegmentationTypeValues.BINARY),
        segment_descriptions=described,
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="m",
        software_versions="1",
        device_serial_number="1",
        **options,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path)
    return path


def read(path: Path) -> Dataset:
    return pydicom.dcmread(path)


def save_picture(values: np.ndarray, path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)
    return path
