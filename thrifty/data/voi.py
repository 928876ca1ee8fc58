"""What is shown of modality values: the windows of DICOM, and the smallest type that keeps numbers as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from thrifty.errors import ThriftyError

if TYPE_CHECKING:
    from pydicom import Dataset

Window = Literal["none", "file"] | tuple[float, float]  # modality values, the file's own window, or centre and width
Function = tuple[str, float, float]  # LINEAR, LINEAR_EXACT or SIGMOID; centre; width


def parse_window(text: str) -> Window:
    """`text` as it is typed: none, file, or centre,width as in 40,400.

    Raises:
        ThriftyError: none of these, or a width below 1.
    """
    if text in ("none", "file"):
        return text  # type: ignore[return-value]
    try:
        centre, width = (float(part) for part in text.split(","))
        if not (np.isfinite((centre, width)).all() and width >= 1):
            raise ValueError
        return centre, width
    except ValueError:
        raise ThriftyError(f"--window is '{text}'; allowed are none, file, or centre,width as in 40,400") from None


def window_of(header: Dataset, frame: int) -> Function | None:
    """The first window of a frame, in the units of its modality values; None where there is none that makes sense."""
    from thrifty.data.dicom_geometry import functional

    where = functional(header, "FrameVOILUTSequence", frame)
    where = header if where is None else where
    centre, width = _first(where.get("WindowCenter")), _first(where.get("WindowWidth"))
    function = str(where.get("VOILUTFunction") or "LINEAR")
    if centre is None or width is None or width < (1 if function == "LINEAR" else 1e-12):
        return None
    return function, centre, width


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    return float(value[0]) if isinstance(value, Sequence) and not isinstance(value, str) else float(value)


def windowed(values: np.ndarray, function: Function) -> np.ndarray:
    """`values` seen through a window, as uint8 0..255. Formulas: DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    kind, centre, width = function
    x = values.astype(np.float64)
    if kind == "SIGMOID":
        y = 1 / (1 + np.exp(np.clip(-4 * (x - centre) / width, -700, 700)))
    elif kind == "LINEAR_EXACT":
        y = (x - centre) / width + 0.5
    elif width <= 1:
        y = (x > centre - 0.5).astype(np.float64)
    else:
        y = (x - (centre - 0.5)) / (width - 1) + 0.5
    return np.rint(np.clip(y, 0, 1) * 255).astype(np.uint8)


def inverted(values: np.ndarray, header: Dataset, transform: Dataset) -> np.ndarray:
    """`values` mirrored within the range that the stored bits allow, so that all files of a kind are mirrored alike."""
    bits = int(header.get("BitsStored") or 16)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if header.get("PixelRepresentation") else (0, 2**bits - 1)
    slope, intercept = float(transform.get("RescaleSlope") or 1), float(transform.get("RescaleIntercept") or 0)
    return (low + high) * slope + 2 * intercept - values.astype(np.float64)


def smallest_type(parts: Sequence[np.ndarray]) -> np.dtype[Any]:
    """uint8, int16 or uint16 if all values are whole and fit; otherwise float32. 8 bits only where all parts have them."""
    if all(part.dtype == np.uint8 for part in parts):
        return np.dtype(np.uint8)
    if not all(part.dtype.kind in "biu" or bool((part == np.rint(part)).all()) for part in parts):
        return np.dtype(np.float32)
    low, high = min(float(part.min()) for part in parts), max(float(part.max()) for part in parts)
    unsigned = all(part.dtype.kind == "u" for part in parts)  # rescaled values are signed for all files of a set, or for none
    for kind in (np.uint16, np.int16) if unsigned else (np.int16, np.uint16):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return np.dtype(kind)
    return np.dtype(np.float32)
