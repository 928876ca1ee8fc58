"""How large a file may be once it is decoded: small files that grow without end are refused before they do."""

from __future__ import annotations

from thrifty.data.cases import Unreadable

MOST_VALUES = 2**31  # of a volume: 2048 slices of 1024 x 1024
TOO_LARGE = "files too large to be decoded"


def most_pixels() -> int:
    """Of one picture: the limit of Pillow, beyond which it warns of a decompression bomb (about 89 million)."""
    from PIL import Image

    return Image.MAX_IMAGE_PIXELS or 2**27


def check_picture(height: int, width: int, name: str) -> None:
    """
    Raises:
        Unreadable: more pixels than Pillow's limit.
    """
    if height * width > most_pixels():
        raise Unreadable(TOO_LARGE, f"{name} ({height * width:,} pixels; at most {most_pixels():,}, cut it into tiles)")


def check_values(count: int, name: str) -> None:
    """
    Raises:
        Unreadable: more values than a volume may have.
    """
    if count > MOST_VALUES:
        raise Unreadable(TOO_LARGE, f"{name} ({count:,} values; at most {MOST_VALUES:,})")
