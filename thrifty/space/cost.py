"""Exact parameters of genotypes by closed formula, without building anything (method, section 4).

The count is linear: each cell of a type and row costs the same, and the input convolution of an up cell costs the same for
each kept neighbour in its row. So count = fixed + sum over rows of (cells in that row) * (cost of such a cell).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from thrifty.errors import ThriftyError
from thrifty.space import ops
from thrifty.space.frame import Frame, conv_params
from thrifty.space.genotype import CELL_TYPES, CellType, Genotype, role_of
from thrifty.space.path import kept_up_nodes, row_neighbours
from thrifty.space.schema import Space, decodable

HEAD = -1
"""The row of the head: full resolution."""


@dataclass(frozen=True)
class Lattice:
    """What the costs of the fixed parts depend on."""

    frame: Frame
    nodes: int
    width: int
    levels: int
    channels: int
    classes: int

    def row_width(self, row: int) -> int:
        """Channels of a row; row -1 is the full resolution."""
        return self.frame.widths(self.width, self.levels)[row + 1]

    def cell_rows(self, cell_type: CellType) -> range:
        """The rows in which cells of a type stand; -1 is the head."""
        return range(1, self.levels) if cell_type == "down" else range(HEAD, self.levels - 1)

    def edge_widths(self, cell_type: CellType, source: int, row: int) -> tuple[int, int]:
        """Channels in and out of an edge of a cell in `row`."""
        here = self.row_width(row)
        role = role_of(cell_type, source)
        if role == "down":
            return self.row_width(row - 1), here
        return (self.row_width(row + 1), here) if role == "up" else (here, here)

    def edge_params(self, cell_type: CellType, source: int, op: str, row: int) -> int:
        return ops.find(op).params(role_of(cell_type, source), *self.edge_widths(cell_type, source, row))

    def base_params(self) -> int:
        """Stem and classifier."""
        full, first = self.row_width(HEAD), self.row_width(0)
        frame = self.frame
        stem0 = frame.stem_kernel**2 * self.channels * full + 2 * full
        block = conv_params(frame.stem_block, full, first) + conv_params(frame.stem_block, first, first) + 4 * first
        skip = 0 if full == first else full * first
        return stem0 + block + skip + frame.classifier_kernel**2 * full * self.classes

    def down_params(self, row: int) -> int:
        """A down cell apart from its edges: bringing in0 to in1, and the output convolution."""
        before, above = self.row_width(row - 2), self.row_width(row - 1)
        in0 = 2 * above + (0 if before == above else before * above)
        return in0 + self._output(row)

    def up_params(self, row: int) -> int:
        """An up cell apart from its edges and its input convolution."""
        return 2 * self.row_width(row) + self._output(row)

    def neighbour_params(self, row: int) -> int:
        """The share of an up cell's input convolution that one node to the left has."""
        return conv_params(self.frame.input_conv, self.row_width(row), self.row_width(row))

    def _output(self, row: int) -> int:
        here = self.row_width(row)
        if self.frame.output_conv == "sep_3":
            return 9 * self.nodes * here + self.nodes * here * here + 2 * here
        return conv_params(self.frame.output_conv, self.nodes * here, here) + 2 * here

    def up_cells(self, path: Sequence[int]) -> np.ndarray:
        """Number of up cells in each row of `cell_rows('up')`, the head included."""
        counts = np.zeros(self.levels, dtype=np.int64)
        for _, j in kept_up_nodes(path, self.levels):
            counts[j + 1] += 1
        counts[0] += 1
        return counts

    def path_params(self, path: Sequence[int]) -> int:
        """All that a cell path costs apart from edges."""
        total = self.base_params() + sum(self.down_params(row) for row in self.cell_rows("down"))
        for i, j in kept_up_nodes(path, self.levels):
            total += self.up_params(j) + len(row_neighbours(path, self.levels, i, j)) * self.neighbour_params(j)
        return total + self.up_params(HEAD) + self.neighbour_params(HEAD)

    def cells_in_rows(self, cell_type: CellType, path: Sequence[int]) -> np.ndarray:
        if cell_type == "down":
            return np.ones(self.levels - 1, dtype=np.int64)
        return self.up_cells(path)


def lattice_of(genotype: Genotype) -> Lattice:
    g = genotype
    return Lattice(g.frame, g.nodes, g.width, g.levels, g.channels, g.classes)


@lru_cache(maxsize=64)
def _edge_table(lattice: Lattice, cell_type: CellType, source: int, op: str) -> np.ndarray:
    rows = lattice.cell_rows(cell_type)
    return np.array([lattice.edge_params(cell_type, source, op, row) for row in rows], dtype=np.int64)


@lru_cache(maxsize=1024)
def _path_costs(lattice: Lattice, path: tuple[int, ...]) -> tuple[int, dict[CellType, np.ndarray]]:
    return lattice.path_params(path), {t: lattice.cells_in_rows(t, path) for t in CELL_TYPES}


def count(genotype: Genotype) -> int:
    """Trainable parameters of the genotype's network; equal to sum(p.numel()) of the built one."""
    lattice = lattice_of(genotype)
    total, cells = _path_costs(lattice, genotype.path)
    for cell_type in CELL_TYPES:
        for _, edge in genotype.cell(cell_type).edges():
            total += int(cells[cell_type] @ _edge_table(lattice, cell_type, min(edge.source, 2), edge.op))
    return total


@dataclass(frozen=True)
class Costs:
    """Costs of a space at one width and number of levels."""

    space: Space
    width: int
    levels: int
    channels: int
    classes: int

    @property
    def lattice(self) -> Lattice:
        return Lattice(self.space.frame, self.space.nodes, self.width, self.levels, self.channels, self.classes)

    def edge_costs(self, cell_type: CellType, source: int) -> np.ndarray:
        """Parameters of every op of an edge in every row: (ops, rows), int64."""
        names = self.space.ops_of(cell_type, source)
        return np.stack([_edge_table(self.lattice, cell_type, min(source, 2), name) for name in names])

    def smallest(self) -> int:
        """Parameters of the smallest network."""
        return min(self.smallest_of_path(path) for path in self.space.paths(self.levels))

    def largest(self) -> int:
        """Parameters of the largest network."""
        return max(-self._least(path, sign=-1) for path in self.space.paths(self.levels))

    def smallest_of_path(self, path: tuple[int, ...]) -> int:
        """Parameters of the smallest network with a cell path."""
        return self._least(path, sign=1)

    def _least(self, path: tuple[int, ...], sign: int) -> int:
        """The least of sign * parameters: at every inner node the two least edges, each with its least op."""
        total = sign * self.lattice.path_params(path)
        for cell_type in CELL_TYPES:
            cells = sign * self.lattice.cells_in_rows(cell_type, path)
            for k in range(self.space.nodes):
                edges = [self._least_op(cell_type, source, cells) for source in range(k + 2)]
                total += sum(sorted(edges)[:2])
        return total

    def _least_op(self, cell_type: CellType, source: int, cells: np.ndarray) -> int:
        allowed = decodable(self.space.ops_of(cell_type, source))
        return int((self.edge_costs(cell_type, source) @ cells)[allowed].min())

    def check_budget(self, budget: int) -> None:
        """
        Raises:
            ThriftyError: no network of this width and these levels is that small; names the smallest size.
        """
        if budget < (smallest := self.smallest()):
            raise ThriftyError(
                f"the budget of {budget:,} parameters is below the smallest network of the space '{self.space.name}' at width "
                f"{self.width} with {self.levels} levels, which has {smallest:,}; give a larger budget or a smaller width"
            )
