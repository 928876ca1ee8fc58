"""DICOM-SEG: whose segments they are, and their frames on the slices of an image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from thrifty.data.cases import Unreadable
from thrifty.data.dicom import (
    BROKEN,
    DicomImage,
    decoded_frames,
    frames_of,
    header_errors,
    quiet_pydicom,
    read_header,
    read_whole,
)
from thrifty.data.dicom_geometry import LPS_TO_RAS, functional, planes_of
from thrifty.data.importing.paint import Canvas

if TYPE_CHECKING:
    from pydicom import Dataset

ELSEWHERE = "segmentations that do not lie on their images"
SAME_PLACE_MM = 0.05
Kind = tuple[str, str, str]  # coding scheme, code value, label: segments of one kind are one class


@quiet_pydicom()
def kinds_of(path: Path, shown: str) -> dict[int, Kind]:
    """What each segment number of a file stands for.

    Raises:
        Unreadable: no segments.
    """
    with header_errors(shown):
        return _kinds(read_header(path, shown), shown)


def _kinds(header: Dataset, shown: str) -> dict[int, Kind]:
    found = {}
    for segment in header.get("SegmentSequence") or ():
        codes = segment.get("SegmentedPropertyTypeCodeSequence") or ()
        code = codes[0] if codes else {}
        scheme, value = str(code.get("CodingSchemeDesignator", "")), str(code.get("CodeValue", ""))
        if segment.get("SegmentNumber"):
            found[int(segment.SegmentNumber)] = (scheme, value, str(segment.get("SegmentLabel", "")).strip().lower())
    if not found:
        raise Unreadable("segmentations without segments", shown)
    return found


def class_names(kinds: Iterable[Kind], free_text: bool) -> tuple[tuple[str, ...], dict[Kind, int]]:
    """Names of the classes (background first) and the id of each kind.

    A name is the standard's own word for the code; the label in the file is free text and taken only if that was asked for.
    """
    names, ids = ["background"], {}
    for kind in dict.fromkeys(kinds):
        name = kind[2] if free_text and kind[2] else _standard_word(kind)
        number = len(names)
        ids[kind] = number
        name = name or f"class {number}"
        names.append(name if name not in (*names, "ignore") else f"{name} {number}")
    return tuple(names), ids


def _standard_word(kind: Kind) -> str:
    """The meaning of a code in pydicom's dictionary of the standard; nothing of the file's own text."""
    with quiet_pydicom():
        from pydicom.sr.codedict import Collection

        try:
            words = [str(code.meaning) for code in Collection(kind[0]).concepts.values() if code.value == kind[1]]
            return min(words, key=len, default="")
        except (AttributeError, KeyError, ValueError):
            return ""


@quiet_pydicom()
def lay_on(path: Path, shown: str, image: DicomImage, ids: Mapping[Kind, int], canvas: Canvas) -> int:
    """Paints the segments of a file onto `canvas` (slices, rows, columns); returns how many frames fell on this image.

    A frame belongs to the slice that it names as its source, else to the one in its place.

    Raises:
        Unreadable: another size or direction than the image, no matching slice, damaged.
    """
    header = read_whole(path, shown)
    with header_errors(shown):
        return _lay(header, shown, image, ids, canvas)


def _lay(header: Dataset, shown: str, image: DicomImage, ids: Mapping[Kind, int], canvas: Canvas) -> int:
    kinds = _kinds(header, shown)
    frames = decoded_frames(header, shown)
    if frames.shape[1:] != canvas.mask.shape[1:]:
        raise Unreadable(ELSEWHERE, f"{shown} (another size of pictures)")
    kind = str(header.get("SegmentationType", "BINARY"))
    least = 0.5 * float(header.get("MaximumFractionalValue") or 255) if kind == "FRACTIONAL" else 0
    places = {(uid, number): k for k, (uid, number) in enumerate(zip(image.uids, image.frames, strict=True))}
    planes = planes_of(header, frames_of(header))
    laid = 0
    # Segment by segment in the order of their numbers, so that the rule for overlaps does not hang on the order of frames.
    numbers = [_segment(header, k) for k in range(len(frames))]
    for k in sorted(range(len(frames)), key=lambda k: numbers[k] or 0):
        where = _slice_of(header, k, planes[k].origin, image, places)
        if where is None:
            continue
        if not _same_plane(planes[k], image, where):
            raise Unreadable(ELSEWHERE, f"{shown} (turned or shifted against its images)")
        laid += 1
        found = [numbers[k]] if kind != "LABELMAP" else [int(v) for v in np.unique(frames[k]) if v]
        for number in found:
            if number not in kinds:
                raise Unreadable(BROKEN, f"{shown} (a frame of a segment that is not listed)")
            marked = frames[k] == number if kind == "LABELMAP" else frames[k] > least
            canvas.paint(where, marked, ids[kinds[number]])
    return laid


def _segment(header: Dataset, frame: int) -> int | None:
    named = functional(header, "SegmentIdentificationSequence", frame)
    return None if named is None else int(named.ReferencedSegmentNumber)


def _slice_of(
    header: Dataset, frame: int, origin: np.ndarray | None, image: DicomImage, places: Mapping[tuple[str, int], int]
) -> int | None:
    derived = functional(header, "DerivationImageSequence", frame)
    sources = (derived.get("SourceImageSequence") if derived is not None else None) or ()
    for source in sources:
        numbers = source.get("ReferencedFrameNumber")
        numbers = [numbers] if isinstance(numbers, int) else list(numbers or [1])
        for number in numbers:
            found = places.get((str(source.get("ReferencedSOPInstanceUID", "")), int(number) - 1))
            if found is not None:
                return found
    if sources or origin is None or image.origins is None:
        if not sources and image.values.shape[0] == 1:
            return 0
        return None
    away = np.linalg.norm(image.origins - origin * np.diag(LPS_TO_RAS)[:3], axis=1)
    nearest = int(away.argmin())
    return nearest if away[nearest] < SAME_PLACE_MM else None


def _same_plane(plane: object, image: DicomImage, where: int) -> bool:
    from thrifty.data.dicom_geometry import Plane

    assert isinstance(plane, Plane)
    if plane.origin is None or image.origins is None:
        return True
    pixel = min(image.spacing_mm or (1.0, 1.0))
    near = np.linalg.norm(image.origins[where] - plane.origin * np.diag(LPS_TO_RAS)[:3]) < 0.5 * pixel
    if plane.along_row is None or image.directions is None or plane.along_column is None:
        return bool(near)
    ours = np.stack([plane.along_row, plane.along_column]) * np.diag(LPS_TO_RAS)[:3]
    return bool(near and np.allclose(ours, image.directions, atol=0.01))
