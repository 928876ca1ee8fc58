"""Where the slices of DICOM files are: planes in the patient's space, their order, and the affine of a stack in RAS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from thrifty.data.cases import Unreadable

if TYPE_CHECKING:
    from pydicom import Dataset

STACK = "DICOM series that are no volume"
UNEVEN = 0.02  # of the distance between slices: what rounding in headers amounts to
TILTED = 0.01  # sine of the angle between the stack and the normal of its slices
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Plane:
    """One slice in LPS mm: the centre of its first pixel, the directions of growing column and row index, pixel spacing."""

    origin: np.ndarray | None
    along_row: np.ndarray | None
    along_column: np.ndarray | None
    spacing_mm: tuple[float, float] | None  # between rows, between columns
    thickness_mm: float | None
    number: int | None  # InstanceNumber

    @property
    def placed(self) -> bool:
        return self.origin is not None and self.along_row is not None and self.spacing_mm is not None

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.along_row, self.along_column)  # type: ignore[arg-type]


def functional(header: Dataset, sequence: str, frame: int) -> Dataset | None:
    """The macro `sequence` of a frame in the functional groups of an enhanced file: its own, or the shared one."""
    per_frame = header.get("PerFrameFunctionalGroupsSequence")
    shared = header.get("SharedFunctionalGroupsSequence")
    for groups, index in ((per_frame, frame), (shared, 0)):
        if groups and index < len(groups) and groups[index].get(sequence):
            return groups[index].get(sequence)[0]
    return None


def planes_of(header: Dataset, frames: int) -> list[Plane]:
    return [_plane(header, k, frames) for k in range(frames)]


def _plane(header: Dataset, frame: int, frames: int) -> Plane:
    position = functional(header, "PlanePositionSequence", frame) or (header if frames == 1 else None)
    orientation = functional(header, "PlaneOrientationSequence", frame) or header
    measures = functional(header, "PixelMeasuresSequence", frame) or header
    origin = _numbers(position, "ImagePositionPatient", 3)
    cosines = _numbers(orientation, "ImageOrientationPatient", 6)
    spacing = _numbers(measures, "PixelSpacing", 2)
    if spacing is not None and not (spacing > 0).all():
        spacing = None
    flat = cosines is None or abs(np.linalg.norm(np.cross(cosines[:3], cosines[3:])) - 1) > 0.01
    thickness = _numbers(measures, "SpacingBetweenSlices", 1)
    thickness = _numbers(measures, "SliceThickness", 1) if thickness is None else thickness
    return Plane(
        origin=origin,
        along_row=None if flat or cosines is None else cosines[:3],
        along_column=None if flat or cosines is None else cosines[3:],
        spacing_mm=None if spacing is None else (float(spacing[0]), float(spacing[1])),
        thickness_mm=None if thickness is None or thickness[0] == 0 else abs(float(thickness[0])),
        number=_whole(header.get("InstanceNumber")) if frames == 1 else frame,
    )


def _numbers(where: Dataset | None, key: str, count: int) -> np.ndarray | None:
    value = None if where is None else where.get(key)
    if value is None or value == "":
        return None
    try:
        numbers = np.atleast_1d(np.array(value, np.float64))
    except (TypeError, ValueError):
        return None
    return numbers if numbers.shape == (count,) and np.isfinite(numbers).all() else None


def _whole(value: object) -> int | None:
    try:
        return int(str(value))
    except ValueError:
        return None


def order_of(planes: Sequence[Plane], name: str) -> list[int]:
    """The order of slices: along the normal where their places are known, otherwise by their numbers.

    Raises:
        Unreadable: several directions or pixel spacings.
    """
    if len(planes) == 1:
        return [0]
    if all(plane.placed for plane in planes):
        first = planes[0]
        for plane in planes[1:]:
            if not _same_directions(plane, first):
                raise Unreadable(STACK, f"{name} (slices of several directions or pixel spacings)")
        heights = [float(plane.origin @ first.normal) for plane in planes]  # type: ignore[operator]
        return [int(k) for k in np.argsort(heights, kind="stable")]
    numbers = [plane.number for plane in planes]
    if None in numbers or len(set(numbers)) != len(numbers):
        raise Unreadable(STACK, f"{name} (its slices have neither places nor distinct numbers)")
    return sorted(range(len(planes)), key=lambda k: numbers[k])  # type: ignore[arg-type, return-value]


def _same_directions(plane: Plane, first: Plane) -> bool:
    """Of two planes with a place: equal directions and pixel spacing, up to the rounding of headers."""
    pairs = (
        (plane.along_row, first.along_row, 1e-3, 0.0),
        (plane.along_column, first.along_column, 1e-3, 0.0),
        (plane.spacing_mm, first.spacing_mm, 0.0, 1e-3),
    )
    return all(np.allclose(np.asarray(a), np.asarray(b), atol=atol, rtol=rtol) for a, b, atol, rtol in pairs)


def origins_of(planes: Sequence[Plane]) -> np.ndarray | None:
    """(slices, 3): the centre of the first pixel of each, RAS mm; None where one is unknown."""
    if not all(plane.placed for plane in planes):
        return None
    return np.stack([plane.origin for plane in planes]) * np.diag(LPS_TO_RAS)[:3]  # type: ignore[misc]


def directions_of(planes: Sequence[Plane]) -> np.ndarray | None:
    """(2, 3): the directions of growing column and row index, which all planes share, in RAS; None where they are unknown."""
    if not planes[0].placed:
        return None
    return np.stack([planes[0].along_row, planes[0].along_column]) * np.diag(LPS_TO_RAS)[:3]  # type: ignore[list-item]


def affine_of(planes: Sequence[Plane], name: str) -> tuple[np.ndarray | None, list[str]]:
    """The affine of (column, row, slice) to mm in RAS for ordered planes, and remarks; None without places.

    DICOM PS3.3 C.7.6.2.1.1 (equation C.7.6.2.1-1) gives the plane in LPS; the step between slices is that of their origins, so
    a tilted gantry becomes a shear.

    Raises:
        Unreadable: two slices in one place, or uneven distances.
    """
    first = planes[0]
    if not all(plane.placed for plane in planes):
        return None, ["no position in the header: the volume has no affine of its own"] if len(planes) > 1 else []
    assert first.origin is not None and first.spacing_mm is not None
    assert first.along_row is not None and first.along_column is not None
    remarks = []
    if len(planes) == 1:
        step = first.normal * (first.thickness_mm or 1.0)
    else:
        origins = np.stack([plane.origin for plane in planes])  # type: ignore[misc]
        steps = np.diff(origins, axis=0)
        step = (origins[-1] - origins[0]) / (len(planes) - 1)
        length = float(np.linalg.norm(step))
        gaps = np.linalg.norm(steps, axis=1)
        if length < 1e-6 or gaps.min() < 1e-3 * length:
            raise Unreadable(STACK, f"{name} (two slices in the same place: several echoes, times or phases)")
        if float(np.abs(steps - step).max()) > UNEVEN * length + 1e-3:
            raise Unreadable(STACK, f"{name} (uneven distances between slices, {gaps.min():.3g} to {gaps.max():.3g} mm)")
        if float(np.linalg.norm(np.cross(step / length, first.normal))) > TILTED:
            remarks.append("slices are shifted against their normal (tilted gantry): kept as a shear of the affine")
    lps = np.eye(4)
    lps[:3, 0] = first.along_row * first.spacing_mm[1]
    lps[:3, 1] = first.along_column * first.spacing_mm[0]
    lps[:3, 2], lps[:3, 3] = step, first.origin
    return LPS_TO_RAS @ lps, remarks
