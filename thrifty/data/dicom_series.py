"""Which DICOM files belong together: the series of a folder, from headers alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from thrifty.data.cases import Unreadable
from thrifty.data.dicom import (
    frames_of,
    header_errors,
    is_image,
    is_segmentation,
    modality_of,
    quiet_pydicom,
    read_header,
)

if TYPE_CHECKING:
    from pydicom import Dataset

# What sets stacks of one series apart where several slices lie in one place, tried in this order.
REPEATS = ("EchoNumbers", "TemporalPositionIdentifier", "DiffusionBValue", "AcquisitionNumber", "ImageType", "TriggerTime")


@dataclass(frozen=True)
class Series:
    """The files of one stack of slices, in the order of their paths. `patient` and the UIDs are for matching, for no output."""

    files: tuple[Path, ...]
    uids: tuple[str, ...]  # SOPInstanceUID of each file
    patient: tuple[str, ...]
    has_patient: bool  # otherwise the study stands for the patient
    modality: str
    slices: int


@dataclass(frozen=True)
class Segmentation:
    """A DICOM-SEG file, and the SOPInstanceUIDs of the images that it says it belongs to."""

    path: Path
    uids: frozenset[str]


@dataclass(frozen=True)
class _Slice:
    path: Path
    uid: str
    frames: int
    place: tuple[object, ...]
    repeats: tuple[str, ...]
    group: tuple[object, ...]
    patient: tuple[str, ...]
    modality: str


@quiet_pydicom()
def find_series(
    files: Iterable[Path], call: Callable[[Path], str], refuse: Callable[[Path, Unreadable], None] | None = None
) -> tuple[list[Series], list[Segmentation]]:
    """The series and the segmentations among DICOM files.

    `call` is what an error calls a file, `refuse` takes what cannot be read.

    Raises:
        Unreadable: a file that cannot be read, where there is no `refuse`.
        ThriftyError: the extra is not installed.
    """
    groups: dict[tuple[object, ...], list[_Slice]] = {}
    masks = []
    for path in sorted(files):
        try:
            with header_errors(call(path)):
                header = read_header(path, call(path))
                if is_segmentation(header):
                    masks.append(Segmentation(path, _referenced(header)))
                elif is_image(header):
                    found = _slice(path, header)
                    groups.setdefault(found.group, []).append(found)
        except Unreadable as error:
            if refuse is None:
                raise
            refuse(path, error)
    stacks = [stack for group in groups.values() for stack in _stacks(group)]
    return sorted(map(_series, stacks), key=lambda series: series.files), masks


def _slice(path: Path, header: Dataset) -> _Slice:
    direction = tuple(round(float(v), 2) + 0.0 for v in header.get("ImageOrientationPatient") or ())
    place = tuple(round(float(v), 2) for v in header.get("ImagePositionPatient") or ())
    sizes = (int(header.Rows), int(header.Columns), int(header.get("SamplesPerPixel") or 1))
    frames = frames_of(header)
    uid = str(header.get("SOPInstanceUID", ""))
    # A multi-frame file is a stack by itself, and so is a file that names no series.
    series = str(header.get("SeriesInstanceUID", "")) or str(path)
    alone = str(path) if frames > 1 else ""
    return _Slice(
        path=path,
        uid=uid,
        frames=frames,
        place=place or (str(header.get("InstanceNumber", "")), str(path)),
        repeats=tuple(str(header.get(key, "")) for key in REPEATS),
        group=(str(header.get("StudyInstanceUID", "")), series, sizes, direction, alone),
        patient=patient_of(header),
        modality=modality_of(header),
    )


def patient_of(header: Dataset) -> tuple[str, ...]:
    """What tells one patient from another: the ID and who issued it, else the name and birth date, else the study."""
    number, name = str(header.get("PatientID") or "").strip(), str(header.get("PatientName") or "").strip()
    if number:
        return ("id", number, str(header.get("IssuerOfPatientID") or ""))
    if name:
        return ("name", name, str(header.get("PatientBirthDate") or ""))
    return ("study", str(header.get("StudyInstanceUID") or header.get("SOPInstanceUID") or ""))


def _stacks(group: list[_Slice]) -> list[list[_Slice]]:
    """A group as it is, or parted by the first header value after which no stack has two slices in one place."""
    if len({one.place for one in group}) == len(group):
        return [group]
    for k in range(len(REPEATS)):
        parts: dict[str, list[_Slice]] = {}
        for one in group:
            parts.setdefault(one.repeats[k], []).append(one)
        if len(parts) > 1 and all(len({one.place for one in part}) == len(part) for part in parts.values()):
            return list(parts.values())
    return [group]


def _series(stack: list[_Slice]) -> Series:
    return Series(
        files=tuple(one.path for one in stack),
        uids=tuple(one.uid for one in stack),
        patient=stack[0].patient,
        has_patient=stack[0].patient[0] != "study",
        modality=stack[0].modality,
        slices=sum(one.frames for one in stack),
    )


def _referenced(header: Dataset) -> frozenset[str]:
    """All image UIDs that a segmentation names, for the series as a whole or frame by frame."""
    found: set[str] = set()
    for series in header.get("ReferencedSeriesSequence") or ():
        found.update(str(item.get("ReferencedSOPInstanceUID", "")) for item in series.get("ReferencedInstanceSequence") or ())
    for frame in header.get("PerFrameFunctionalGroupsSequence") or ():
        for derived in frame.get("DerivationImageSequence") or ():
            found.update(str(item.get("ReferencedSOPInstanceUID", "")) for item in derived.get("SourceImageSequence") or ())
    return frozenset(found - {""})
