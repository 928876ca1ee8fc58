"""The lattice and the cell path (method, section 2).

Node X(i, j): column i, row j, i + j <= levels - 1. Diagonal d: the nodes with i + j = d, i >= 1. A cell path (s_1, ...,
s_{levels-2}) keeps the s_d lowest nodes of diagonal d, X(1, d-1) .. X(s_d, d-s_d). The last diagonal is always whole.

With the depth searched the last diagonal is any L of 1 .. levels-1, and nothing beyond it exists: a network of L + 1 levels,
whose cell path has L - 1 entries.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Literal

from thrifty.errors import ThriftyError

Node = tuple[int, int]
Depth = Literal["fixed", "searched"]


def total_stride(levels: int) -> int:
    """Images need sizes that are multiples of this, pixels: the stem halves once, every down cell once."""
    return 2**levels


def searched_diagonals(levels: int) -> range:
    """Diagonals 1 .. levels-2: those that a cell path decides on."""
    return range(1, levels - 1)


def levels_of(path: Sequence[int]) -> int:
    """Levels of the networks that have this cell path."""
    return len(path) + 2


def check_path(path: Sequence[int], levels: int) -> tuple[int, ...]:
    """`path` as a tuple.

    Raises:
        ThriftyError: it has the wrong length, or a diagonal that keeps more nodes than it has.
    """
    diagonals = searched_diagonals(levels)
    if len(path) != len(diagonals):
        raise ThriftyError(
            f"the cell path {list(path)} has {len(path)} diagonals, {levels} levels have {len(diagonals)} to decide on"
        )
    for d, kept in zip(diagonals, path, strict=True):
        if isinstance(kept, bool) or not isinstance(kept, int) or not 0 <= kept <= d:
            raise ThriftyError(f"the cell path {list(path)} keeps {kept} nodes of diagonal {d}, which allows 0 to {d}")
    return tuple(path)


def all_paths(levels: int) -> Iterator[tuple[int, ...]]:
    """Every legal cell path, in canonical (lexicographic) order: 6, 24, 120 of them for 4, 5, 6 levels."""
    return itertools.product(*(range(d + 1) for d in searched_diagonals(levels)))


def plain_path(levels: int) -> tuple[int, ...]:
    """No searched node is kept: a U-Net."""
    return tuple(0 for _ in searched_diagonals(levels))


def full_path(levels: int) -> tuple[int, ...]:
    """All nodes are kept: a UNet++."""
    return tuple(searched_diagonals(levels))


def is_kept(path: Sequence[int], levels: int, i: int, j: int) -> bool:
    """Whether X(i, j) is in the network."""
    d = i + j
    return i == 0 or d == levels - 1 or i <= path[d - 1]


def up_nodes(levels: int) -> list[Node]:
    """All up nodes of the full lattice in an order in which each comes after what it reads."""
    return [(i, d - i) for d in range(1, levels) for i in range(1, d + 1)]


def kept_up_nodes(path: Sequence[int], levels: int) -> list[Node]:
    return [(i, j) for i, j in up_nodes(levels) if is_kept(path, levels, i, j)]


def row_neighbours(path: Sequence[int], levels: int, i: int, j: int) -> list[int]:
    """Columns of the kept nodes to the left of X(i, j) in its row; X(0, j) is always the first."""
    return [m for m in range(i) if is_kept(path, levels, m, j)]
