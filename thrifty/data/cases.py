"""What a data set consists of: cases, and the entries of a source that become cases when they are decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from thrifty.errors import ThriftyError

SETS = ("weights", "architecture", "selection", "test")
NAMED = 5  # so many offenders are named in an error, the others are counted
MOST_CLASSES = 32  # ids above 31 are taken for a mistake: a grey picture, or a mask of another tool


@dataclass(frozen=True)
class Case:
    """One 2-D image and its mask. A slice of a volume keeps the volume's name."""

    name: str
    patient: str
    volume: str | None
    height: int
    width: int
    spacing_mm: tuple[float, float] | None  # of rows and columns
    subgroups: tuple[tuple[str, str], ...] = ()  # (column, value): further columns of groups.csv, as site, scanner, kind


@dataclass(frozen=True)
class Sample:
    """A decoded case: image (channels, height, width), mask (height, width) of non-negative whole numbers.

    `ignored` and `outside` (of the region of interest) are (height, width) boolean, None where no pixel is.
    """

    case: Case
    image: np.ndarray
    mask: np.ndarray
    ignored: np.ndarray | None = None
    outside: np.ndarray | None = None


@dataclass
class Problems:
    """Everything found wrong with a data set, by kind, so that one error tells all of it."""

    found: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, name: str) -> None:
        self.found.setdefault(kind, []).append(name)

    def raise_if_any(self, where: object, advice: str) -> None:
        """
        Raises:
            ThriftyError: one line with each kind, how often it came and the first names.
        """
        if self.found:
            kinds = "; ".join(f"{kind}: {name_some(names)}" for kind, names in self.found.items())
            raise ThriftyError(f"{where}: {kinds}; {advice}")


@dataclass(frozen=True)
class Entry:
    """A pair of files (or a phantom) before decoding; `cases` of it come out of `decode`.

    `decode` raises Unreadable with the kind of problem and what to name.
    """

    name: str
    patient: str
    cases: int
    decode: Callable[[], list[Sample]]


@dataclass(frozen=True)
class Source:
    """All entries of a data set. `labels` is None where the masks alone say which classes there are.

    Where classes overlap the masks of its samples are bit sets (`thrifty.data.labels`), and `region_values` are what the classes
    are written as in a label map, one after the other (nnU-Net's `regions_class_order`; empty where the data set has none).
    """

    where: str
    entries: tuple[Entry, ...]
    labels: tuple[str, ...] | None
    overlapping: bool = False
    region_values: tuple[int, ...] = ()


class Unreadable(Exception):
    """One entry cannot be used: which kind of problem it is, and what to name in the error."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind}: {name}")
        self.kind, self.name = kind, name


def name_some(names: list[str]) -> str:
    """The first names and how many more there are, as in 'a, b (+3 more)'."""
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" (+{rest} more)" if rest > 0 else "")
