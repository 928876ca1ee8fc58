"""Label maps as DICOM segmentations (DICOM-SEG) of the images that they were made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thrifty import __version__
from thrifty.data.cases import Unreadable
from thrifty.data.dicom import DicomImage, quiet_pydicom, read_header
from thrifty.errors import ThriftyError
from thrifty.results import write_file

NO_SEG = "series that cannot have a DICOM-SEG (give --format png)"
TISSUE = ("85756007", "SCT", "Tissue")


def write_seg(path: Path, labels: np.ndarray, source: DicomImage, names: Sequence[str], weights_sha256: str) -> None:
    """A DICOM-SEG of class ids (slices, rows, columns): one binary segment for each class but the background, named `names`.

    It belongs to the patient and study of its source images, as the standard demands, and names the weights that made it.

    Raises:
        Unreadable: the source images lack what a segmentation must refer to.
        ThriftyError: the file cannot be written, or the extra `dicom` is not installed.
    """
    try:
        with quiet_pydicom():
            found = _segmentation(labels, source, names, weights_sha256)
    except ModuleNotFoundError:
        raise ThriftyError("DICOM-SEG needs highdicom; pip install 'thrifty[dicom]', or give --format png") from None
    except (Unreadable, ThriftyError, MemoryError):
        raise
    except Exception as error:
        raise Unreadable(NO_SEG, f"{source.files[0].name} ({_reason(error)})") from None
    write_file(path, lambda file: found.save_as(file))


def _reason(error: Exception) -> str:
    """The header's key that is missing, or the kind of error: its text may quote the header, and with it the patient."""
    from pydicom.datadict import tag_for_keyword

    key = error.name if isinstance(error, AttributeError) else None
    return f"no {key} in its header" if key and tag_for_keyword(key) is not None else type(error).__name__


def _segmentation(labels: np.ndarray, source: DicomImage, names: Sequence[str], weights_sha256: str) -> Any:
    import highdicom
    from highdicom.sr import CodedConcept

    files = list(dict.fromkeys(source.files))
    if len(files) == 1:  # highdicom takes the frames of a file in their order there
        labels = labels[np.argsort(source.frames)]
    headers = [read_header(file, file.name) for file in files]
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
        source_images=headers,
        pixel_array=labels,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=highdicom.UID(),
        series_number=int(headers[0].get("SeriesNumber") or 0) + 1000,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="thrifty",
        manufacturer_model_name="thrifty predict",
        software_versions=__version__,
        device_serial_number=weights_sha256[:16],
        content_description="research use only, not for diagnosis",
        omit_empty_frames=bool(labels.any()),
    )
