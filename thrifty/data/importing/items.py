"""What an import works on: items found in a source, what comes out of one when it is read, and how it is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from thrifty.data.cases import Unreadable
from thrifty.data.dicom import BROKEN, STACK, SYNTAX
from thrifty.data.importing.segmentation import ELSEWHERE
from thrifty.data.voi import Window
from thrifty.errors import ThriftyError

NO_MASK = "images without mask"
OUTSIDE = "paths that leave the data folder"
OWN_WORDS = (BROKEN, SYNTAX, STACK, ELSEWHERE)
"""Kinds of errors of DICOM whose details are words of thrifty and numbers: they may be told of a private source."""


@dataclass(frozen=True)
class Wishes:
    """The options of an import, as docs/data.md has them."""

    source_kind: Literal["auto", "dicom", "folders", "coco", "labelme", "csv"] = "auto"
    window: Window = "none"  # DICOM: modality values, the file's window, or (centre, width)
    slices: bool = False  # volumes become pictures, one for each slice
    names: Literal["number", "keep", "hash"] = "number"  # of cases and patients
    salt: bytes = b""  # for names="hash"
    labels: tuple[tuple[int, str], ...] = ()  # mask value and name of each class; empty: found out
    ignore: int | None = None  # the mask value of pixels that count for nothing
    overlaps: Literal["later", "regions"] = "later"
    unmasked: Literal["refuse", "empty"] = "refuse"
    patient: str = ""  # regular expression with one group, on the path of an image below the source
    masks: str = ""  # folder of the masks, relative to the source
    images: str = ""  # folder of the images, relative to the source (COCO: to the JSON)
    mask_suffix: str = ""  # x.png with x<suffix>.png beside it
    segment_labels: bool = False  # DICOM-SEG: class names from the free text of the header


@dataclass(frozen=True)
class Loaded:
    """One case, read. Pictures: image (rows, columns, channels); volumes: (x, y, z, channels) with an affine to RAS mm.

    mask: the size of the image without channels; whole numbers from 0. `part` tells cases of one item apart.
    """

    image: np.ndarray
    mask: np.ndarray
    affine: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    part: str = ""
    overlapping_pixels: int = 0


@dataclass(frozen=True)
class Item:
    """Something that becomes one case or (slices) several. `key` and `patient` may be identifiers, `shown` is none."""

    key: str
    shown: str
    patient: Hashable
    is_volume: bool
    load: Callable[[], Iterator[Loaded]]
    volume: Hashable | None = None
    slices: int = 1


@dataclass
class Found:
    """What a source holds. `labels` is None where the masks' own values say which classes there are."""

    kind: str
    items: list[Item] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)  # what, why
    labels: tuple[str, ...] | None = None
    bits: bool = False  # mask values are sets of classes: bit k - 1 for class k
    private: bool = False  # names of files may be those of patients: none is shown or kept
    channels: tuple[str, ...] = ("image",)
    notes: list[str] = field(default_factory=list)

    def refuse(self, shown: str, error: Unreadable) -> None:
        """Notes why an item is left out: of a private source without details, as these may hold the name of a file."""
        detail = error.name.removeprefix(shown).strip(" ()")
        if self.private and error.kind not in OWN_WORDS:
            detail = ""
        reason = f"{error.kind}: {detail}" if detail else error.kind
        self.refused.append((shown, reason))


def listing(root: Path) -> list[Path]:
    """All files below `root` in the order of `find | LC_ALL=C sort`: the numbers by which files without a name are called."""
    found = [Path(folder) / name for folder, _, names in os.walk(root) for name in names]
    return sorted((path for path in found if path.is_file()), key=lambda path: os.fsencode(path))


def inside(root: Path, name: str, shown: str) -> Path:
    """The file that a manifest calls `name`, which must lie below `root` (links resolved). Errors call it `shown`.

    Raises:
        Unreadable: outside, absolute, or not there.
    """
    given = Path(name.replace("\\", "/"))
    path = (root / given).resolve()
    if given.is_absolute() or ":" in given.parts[:1] or not path.is_relative_to(root.resolve()):
        raise Unreadable(OUTSIDE, f"{shown} (only relative paths below the folder of the list are read)")
    if not path.is_file():
        raise Unreadable("files that are not there", shown)
    return path


def existing_folder(root: Path, name: str, option: str) -> Path:
    """
    Raises:
        ThriftyError: no such folder.
    """
    folder = root / name
    if not folder.is_dir():
        raise ThriftyError(f"{option} is '{name}', but {folder} is no folder; give one relative to the source")
    return folder
