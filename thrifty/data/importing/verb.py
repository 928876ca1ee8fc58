"""What the options of `thrifty data import` mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from thrifty.data.importing.discover import KINDS
from thrifty.data.importing.items import Wishes
from thrifty.data.voi import parse_window
from thrifty.errors import ThriftyError, nearest


def wishes_of(*, window: str, labels: list[str], salt: Path | None, **rest: Any) -> Wishes:
    """The options as they were typed, checked.

    Raises:
        ThriftyError: one that is none.
    """
    for key, allowed in {
        "source_kind": KINDS,
        "names": ("number", "keep", "hash"),
        "overlaps": ("later", "regions"),
        "unmasked": ("refuse", "empty"),
    }.items():
        if rest[key] not in allowed:
            name = {"source_kind": "from"}.get(key, key)
            raise ThriftyError(f"--{name} is '{rest[key]}'; allowed are {', '.join(allowed)}{nearest(str(rest[key]), allowed)}")
    secret = b""
    if salt is not None:
        if not salt.is_file():
            raise ThriftyError(f"--salt: there is no file {salt}; make one with: head -c 32 /dev/urandom > {salt}")
        secret = salt.read_bytes()
    return Wishes(window=parse_window(window), labels=_labels(labels), salt=secret, **rest)


def _labels(texts: list[str]) -> tuple[tuple[int, str], ...]:
    found: dict[int, str] = {}
    for text in texts:
        value, _, name = text.partition("=")
        if not value.strip().isdecimal() or not name.strip():
            raise ThriftyError(f"--label is '{text}'; it must be VALUE=NAME as in 1=liver")
        if int(value) in found or name.strip() in found.values() or name.strip() == "ignore":
            raise ThriftyError(f"--label {text}: each value and each name comes once, and 'ignore' is --ignore VALUE")
        found[int(value)] = name.strip()
    return tuple(found.items())
