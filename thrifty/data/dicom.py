"""DICOM files and series as arrays with their geometry. What the header says of a person is never passed on, in errors neither.

Needs the extra `dicom`. Of a file's pixels come modality values (rescaled, e.g. Hounsfield units), or 8 bits through a window.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thrifty.data.cases import Unreadable
from thrifty.data.limits import check_values
from thrifty.data.voi import Window, inverted, smallest_type, window_of, windowed
from thrifty.errors import ThriftyError

if TYPE_CHECKING:
    from pydicom import Dataset

BROKEN = "DICOM files that cannot be read"
SYNTAX = "DICOM files of a transfer syntax that cannot be decoded"
NO_IMAGE = "DICOM files that hold no image"
STACK = "DICOM series that are no volume"

STANDARD_UIDS = "1.2.840.10008.1.2."  # the root of the standard's own transfer syntaxes: their numbers name nobody
MODALITIES = frozenset(
    ("CT", "MR", "PT", "NM", "US", "CR", "DX", "MG", "XA", "RF", "OP", "OPT", "SM", "ES", "GM", "XC", "IO", "PX", "DG", "BMD")
)
SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # Segmentation, Label Map Segmentation

ENDINGS = (".dcm", ".dicom", ".ima")  # of files that are DICOM even without the magic word
NO_WINDOW = "no window in the file, values kept"


@dataclass(frozen=True)
class DicomImage:
    """Decoded pixels and where they are.

    values    (slices, rows, columns, channels), channels 1 or 3 (RGB)
    affine    4 x 4, of the indices (column, row, slice) to mm in RAS, the convention of NIfTI; None where the header has no
              position or (for a picture) makes no sense in space. `volume()` has the matching order of axes
    spacing_mm  of rows and columns; None where unknown
    files     the file of each slice; a multi-frame file comes once for each of its frames
    frames    the frame within its file of each slice, from 0
    uids      the SOPInstanceUID of each slice: to match masks and to write DICOM-SEG, for no output of ours
    origins   of each slice in RAS mm, (slices, 3); None as for the affine
    directions  of growing column and row index, (2, 3), RAS; None as for the affine
    numbers   the InstanceNumber of each slice, or None
    modality  as in the standard (CT, MR, ...), or '' where the header says something else
    notes     what was done with the values, for a report; free of identifiers
    """

    values: np.ndarray
    affine: np.ndarray | None
    spacing_mm: tuple[float, float] | None
    files: tuple[Path, ...]
    frames: tuple[int, ...]
    uids: tuple[str, ...]
    origins: np.ndarray | None
    directions: np.ndarray | None
    numbers: tuple[int | None, ...]
    modality: str
    notes: tuple[str, ...]

    def volume(self) -> np.ndarray:
        """(columns, rows, slices, channels): the axes that `affine` is meant for."""
        return self.values.transpose(2, 1, 0, 3)


@contextlib.contextmanager
def quiet_pydicom() -> Iterator[Any]:
    """The module pydicom, without the remarks in which it and its decoders quote headers.

    Raises:
        ThriftyError: the extra is not installed.
    """
    try:
        import pydicom
        from pydicom import config
    except ModuleNotFoundError:
        raise ThriftyError("DICOM needs the packages of the extra 'dicom'; pip install 'thrifty[dicom]'") from None
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    _quiet_gdcm()
    before = config.settings.reading_validation_mode
    config.settings.reading_validation_mode = config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield pydicom
    finally:
        config.settings.reading_validation_mode = before


def _quiet_gdcm() -> None:
    with contextlib.suppress(ModuleNotFoundError):
        import gdcm

        gdcm.Trace.SetWarning(False)
        gdcm.Trace.SetError(False)


@contextlib.contextmanager
def header_errors(name: str) -> Iterator[None]:
    """Header values are converted when they are looked at: what goes wrong then is told without quoting them.

    Raises:
        Unreadable: instead of whatever a broken header raises.
    """
    try:
        yield
    except (Unreadable, ThriftyError, MemoryError):
        raise
    except Exception as error:
        raise Unreadable(BROKEN, f"{name} (its header: {type(error).__name__})") from None


def is_dicom(path: Path) -> bool:
    """By the magic word after the preamble; files without one count by their ending."""
    try:
        with open(path, "rb") as file:
            start = file.read(132)
    except OSError:
        return False
    return start[128:] == b"DICM" or (path.suffix.lower() in ENDINGS and len(start) > 8)


def read_header(path: Path, name: str) -> Dataset:
    """Everything but the pixels. `name` is what an error calls the file.

    Raises:
        Unreadable: no DICOM.
        ThriftyError: the extra is not installed.
    """
    return _read(path, name, stop_before_pixels=True)


def read_whole(path: Path, name: str) -> Dataset:
    """Header and (still encoded) pixels.

    Raises:
        Unreadable, ThriftyError: as `read_header`.
    """
    return _read(path, name)


def _read(path: Path, name: str, **options: Any) -> Dataset:
    with quiet_pydicom() as pydicom:
        try:
            header = pydicom.dcmread(path, force=True, **options)
            syntax = header.file_meta.get("TransferSyntaxUID") if hasattr(header, "file_meta") else None
            if "SOPClassUID" not in header:
                raise Unreadable(BROKEN, f"{name} (no DICOM, or its header is broken)")
            if syntax is None:
                header.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian  # the default of the standard
            return header
        except (Unreadable, MemoryError):
            raise
        except Exception as error:  # every kind comes of broken files; their texts may quote the header
            raise Unreadable(BROKEN, f"{name} ({type(error).__name__})") from None


def is_image(header: Dataset) -> bool:
    return "Rows" in header and "Columns" in header and header.get("SOPClassUID") not in SEGMENTATIONS


def is_segmentation(header: Dataset) -> bool:
    return header.get("SOPClassUID") in SEGMENTATIONS


def frames_of(header: Dataset) -> int:
    return int(header.get("NumberOfFrames") or 1)


def syntax_name(header: Dataset) -> str:
    """The transfer syntax by its name in the standard."""
    uid = header.file_meta.TransferSyntaxUID
    if not str(uid).startswith(STANDARD_UIDS) and str(uid) != STANDARD_UIDS.rstrip("."):
        return "a private transfer syntax"
    return f"{uid.name} ({uid})" if uid.name != str(uid) else str(uid)


def read_file(path: Path, name: str = "the file", window: Window = "none") -> DicomImage:
    """One file; the frames of a multi-frame file are slices.

    Raises:
        Unreadable: no DICOM, no image in it, a transfer syntax that cannot be decoded, damaged, too large.
        ThriftyError: the extra is not installed.
    """
    return read_series([path], name, window)


def read_series(
    files: Sequence[Path],
    name: str = "the series",
    window: Window = "none",
    as_volume: bool = True,
    call: Callable[[Path], str] | None = None,
) -> DicomImage:
    """The files of one series (any order) as one image, slices in the order of their positions along the normal.

    Without `as_volume` the slices need not make a volume: there is no affine, and any distances between them are fine.
    `name` is what an error calls the series, `call(file)` (if it is given) one of its files.

    Raises:
        Unreadable: as `read_file`; slices of several sizes or directions, two in one place, or uneven distances between them.
        ThriftyError: the extra is not installed.
    """
    from thrifty.data.dicom_geometry import affine_of, directions_of, order_of, origins_of, planes_of

    parts: list[np.ndarray] = []
    planes, owners, uids, notes, modality = [], [], [], [], ""
    for path in files:
        own_name = name if call is None else call(path)
        header = _read(path, own_name)
        values, said = _pixels(header, own_name, window)
        with header_errors(own_name):
            own = planes_of(header, len(values))
            uid = str(header.get("SOPInstanceUID", ""))
            modality = modality_of(header)
        if parts and values.shape[1:] != parts[0].shape[1:]:
            raise Unreadable(STACK, f"{name} (slices of several sizes)")
        parts.append(values)
        planes.extend(own)
        owners.extend((path, k) for k in range(len(values)))
        uids.extend([uid] * len(values))
        notes.extend(note for note in said if note not in notes)
    order = order_of(planes, name)
    values = np.concatenate(parts).astype(smallest_type(parts), copy=False)[order]
    planes = [planes[k] for k in order]
    affine, remarks = affine_of(planes, name) if as_volume else (None, [])
    spacing = planes[0].spacing_mm
    return DicomImage(
        values=values,
        affine=affine,
        spacing_mm=spacing,
        files=tuple(owners[k][0] for k in order),
        frames=tuple(owners[k][1] for k in order),
        uids=tuple(uids[k] for k in order),
        origins=origins_of(planes),
        directions=directions_of(planes),
        numbers=tuple(plane.number for plane in planes),
        modality=modality,
        notes=(*notes, *remarks),
    )


def modality_of(header: Dataset) -> str:
    found = str(header.get("Modality", ""))
    return found if found in MODALITIES else ""


def _pixels(header: Dataset, name: str, window: Window) -> tuple[np.ndarray, list[str]]:
    """(frames, rows, columns, channels) and what was done."""
    with header_errors(name):
        if "PixelData" not in header and "FloatPixelData" not in header and "DoubleFloatPixelData" not in header:
            raise Unreadable(NO_IMAGE, name)
        size = int(header.Rows) * int(header.Columns) * int(header.get("SamplesPerPixel") or 1)
        check_values(frames_of(header) * size, name)
        kind = str(header.get("PhotometricInterpretation", "MONOCHROME2"))
        if kind not in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB") and not kind.startswith("YBR_"):
            raise Unreadable(BROKEN, f"{name} (a photometric interpretation that is not read)")
        raw = decoded_frames(header, name)
        if kind == "PALETTE COLOR":
            return _palette(header, raw)
        if raw.ndim == 4:
            to_rgb = ["YBR became RGB"] if kind.startswith("YBR") else []
            return (raw, to_rgb) if raw.dtype == np.uint8 else (raw.astype(np.uint16), to_rgb)
        return _grey(header, raw, kind, window)


def decoded_frames(header: Dataset, name: str) -> np.ndarray:
    """Stored values (frames, rows, columns) or, in colour, (frames, rows, columns, 3) as RGB.

    Raises:
        Unreadable: the transfer syntax cannot be decoded, or the pixels are damaged.
    """
    syntax = syntax_name(header)
    with quiet_pydicom():
        try:
            values = header.pixel_array
        except MemoryError:
            raise
        except NotImplementedError:
            raise Unreadable(SYNTAX, f"{name} ({syntax})") from None
        except Exception as error:
            able = _has_decoder(header)
            reason = type(error).__name__
            found = Unreadable(BROKEN, f"{name} (its pixels, {syntax}, are damaged: {reason})")
            raise (found if able else Unreadable(SYNTAX, f"{name} ({syntax})")) from None
    samples, frames = int(header.get("SamplesPerPixel") or 1), frames_of(header)
    shape = (frames, int(header.Rows), int(header.Columns), *([samples] if samples > 1 else []))
    if values.size != np.prod(shape):
        raise Unreadable(BROKEN, f"{name} (its pixels are fewer or more than its header says)")
    return values.reshape(shape)


def _has_decoder(header: Dataset) -> bool:
    from pydicom.pixels import get_decoder

    syntax = header.file_meta.TransferSyntaxUID
    if not syntax.is_compressed:
        return True
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def _palette(header: Dataset, raw: np.ndarray) -> tuple[np.ndarray, list[str]]:
    from pydicom.pixels import apply_color_lut

    colours = np.stack([apply_color_lut(frame, header) for frame in raw])[..., :3]
    if colours.dtype != np.uint8:
        colours = (colours >> 8).astype(np.uint8)  # 16 bit palettes are scaled to their full range (PS3.3 C.7.6.3.1.5)
    return colours, ["PALETTE COLOR became RGB, 8 bits"]


def _grey(header: Dataset, raw: np.ndarray, kind: str, window: Window) -> tuple[np.ndarray, list[str]]:
    from pydicom.pixels import apply_modality_lut

    notes = []
    transforms = [_transform(header, k) for k in range(len(raw))]
    if any(map(_changes_values, transforms)):
        frames = [apply_modality_lut(frame, t) for frame, t in zip(raw, transforms, strict=True)]
        values = np.stack(frames)
        notes.append("rescaled by slope and intercept, or the modality table")
    else:
        values = raw
    negative = kind == "MONOCHROME1"
    if window != "none":
        functions = [window_of(header, k) if window == "file" else ("LINEAR", *window) for k in range(len(raw))]
        if all(f is not None for f in functions):
            values = np.stack([windowed(v, f) for v, f in zip(values, functions, strict=True) if f is not None])
            values = 255 - values if negative else values
            notes.append(
                "window of the file, to 8 bits" if window == "file" else f"window {window[0]:g}, {window[1]:g} to 8 bits"
            )
        else:
            window = "none"
            notes.append(NO_WINDOW)
    if window == "none" and negative:
        values = inverted(values, header, transforms[0])
    if negative:
        notes.append("MONOCHROME1 inverted: larger is brighter")
    return values[..., None].astype(smallest_type([values]), copy=False), notes


def _changes_values(transform: Dataset) -> bool:
    slope, intercept = transform.get("RescaleSlope"), transform.get("RescaleIntercept")
    linear = (slope is not None and slope != 1) or (intercept is not None and intercept != 0)
    return linear or bool(transform.get("ModalityLUTSequence"))


def _transform(header: Dataset, frame: int) -> Dataset:
    """Where rescale slope and intercept of a frame are: the functional groups of enhanced files, or the header itself."""
    from thrifty.data.dicom_geometry import functional

    found = functional(header, "PixelValueTransformationSequence", frame)
    return header if found is None else found
