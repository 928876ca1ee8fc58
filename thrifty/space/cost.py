"""Exact parameters and multiply-accumulates (MACs) of genotypes by closed formula, without building anything (method, section 4).

Both are linear: each cell of a type and row costs the same, and the input convolution of an up cell costs the same for each
kept neighbour in its row. So cost = fixed + sum over rows of (cells in that row) * (cost of such a cell).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from thrifty.errors import ThriftyError
from thrifty.space import ops
from thrifty.space.frame import Frame, conv_params
from thrifty.space.genotype import CELL_TYPES, CellType, Genotype, role_of
from thrifty.space.ops import Weights
from thrifty.space.path import Depth, kept_up_nodes, levels_of, row_neighbours, total_stride
from thrifty.space.schema import Space, decodable

HEAD = -1
"""The row of the head: full resolution."""

Patch = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True)
class Lattice:
    """What the costs of the fixed parts depend on.

    `patch` says what a cost is: None for parameters, a size for the MACs of one image of that size, padded to the stride. With a
    `price` a parameter counts as so many MACs: the sum of both, by which two limits are weighed against each other.
    """

    frame: Frame
    nodes: int
    width: int
    levels: int
    channels: int
    classes: int
    patch: Patch | None = None
    price: int = 0

    def row_width(self, row: int) -> int:
        """Channels of a row; row -1 is the full resolution."""
        return self.frame.widths(self.width, self.levels)[row + 1]

    def row_size(self, row: int) -> Patch:
        """(height, width) in pixels of a row, where costs are MACs."""
        assert self.patch is not None
        stride = total_stride(self.levels)
        height, width = ((size + -size % stride) >> (row + 1) for size in self.patch)
        return height, width

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

    def edge_cost(self, cell_type: CellType, source: int, op: str, row: int) -> int:
        """
        Raises:
            ThriftyError: MACs of a user's own op that has no formula for them.
        """
        role, widths = role_of(cell_type, source), self.edge_widths(cell_type, source, row)
        if self.patch is None:
            return ops.find(op).params(role, *widths)
        priced = self.price * ops.find(op).params(role, *widths) if self.price else 0
        return ops.find(op).macs(role, *widths, *self.row_size(row)) + priced

    def base_cost(self) -> int:
        """Stem and classifier."""
        full, first = self.row_width(HEAD), self.row_width(0)
        frame = self.frame
        stem0 = Weights(frame.stem_kernel**2 * self.channels * full, norm=2 * full)
        block = conv_params(frame.stem_block, full, first) + conv_params(frame.stem_block, first, first)
        skip = 0 if full == first else full * first
        bias = self.classes if frame.classifier_bias else 0
        classifier = Weights(frame.classifier_kernel**2 * full * self.classes, added=bias)
        return self._cost(stem0, HEAD) + self._cost(Weights(block + skip, norm=4 * first), 0) + self._cost(classifier, HEAD)

    def down_cost(self, row: int) -> int:
        """A down cell apart from its edges: bringing in0 to in1, and the output convolution."""
        before, above = self.row_width(row - 2), self.row_width(row - 1)
        in0 = Weights(0 if before == above else before * above, norm=2 * above)
        return self._cost(in0, row - 1) + self._cost(self._output(row), row)

    def up_cost(self, row: int) -> int:
        """An up cell apart from its edges and its input convolution."""
        return self._cost(Weights(norm=2 * self.row_width(row)), row) + self._cost(self._output(row), row)

    def neighbour_cost(self, row: int) -> int:
        """The share of an up cell's input convolution that one node to the left has."""
        return self._cost(Weights(conv_params(self.frame.input_conv, self.row_width(row), self.row_width(row))), row)

    def _output(self, row: int) -> Weights:
        here = self.row_width(row)
        return Weights(conv_params(self.frame.output_conv, self.nodes * here, here), norm=2 * here)

    def _cost(self, weights: Weights, row: int) -> int:
        """Of weights whose output has the size of a row."""
        return weights.params() if self.patch is None else weights.macs(*self.row_size(row)) + self.price * weights.params()

    def up_cells(self, path: Sequence[int]) -> np.ndarray:
        """Number of up cells in each row of `cell_rows('up')`, the head included."""
        counts = np.zeros(self.levels, dtype=np.int64)
        for _, j in kept_up_nodes(path, self.levels):
            counts[j + 1] += 1
        counts[0] += 1
        return counts

    def path_cost(self, path: Sequence[int]) -> int:
        """All that a cell path costs apart from edges."""
        total = self.base_cost() + sum(self.down_cost(row) for row in self.cell_rows("down"))
        for i, j in kept_up_nodes(path, self.levels):
            total += self.up_cost(j) + len(row_neighbours(path, self.levels, i, j)) * self.neighbour_cost(j)
        return total + self.up_cost(HEAD) + self.neighbour_cost(HEAD)

    def cells_in_rows(self, cell_type: CellType, path: Sequence[int]) -> np.ndarray:
        if cell_type == "down":
            return np.ones(self.levels - 1, dtype=np.int64)
        return self.up_cells(path)


def lattice_of(genotype: Genotype, patch: Patch | None = None) -> Lattice:
    g = genotype
    return Lattice(g.frame, g.nodes, g.width, g.levels, g.channels, g.classes, patch)


@lru_cache(maxsize=256)
def _edge_table(lattice: Lattice, cell_type: CellType, source: int, op: str) -> np.ndarray:
    rows = lattice.cell_rows(cell_type)
    return np.array([lattice.edge_cost(cell_type, source, op, row) for row in rows], dtype=np.int64)


@dataclass(frozen=True)
class _PathCosts:
    """What networks of one cell path cost: `fixed` apart from edges, and what each edge has cost that was asked for."""

    lattice: Lattice
    fixed: int
    cells: dict[CellType, np.ndarray]
    edges: dict[tuple[CellType, int, str], int]

    def of(self, genotype: Genotype) -> int:
        total, edges = self.fixed, self.edges
        for cell_type in CELL_TYPES:
            for pair in genotype.cell(cell_type).nodes:
                for edge in pair:
                    key = (cell_type, min(edge.source, 2), edge.op)
                    if key not in edges:
                        edges[key] = int(self.cells[cell_type] @ _edge_table(self.lattice, *key))
                    total += edges[key]
        return total


@lru_cache(maxsize=1024)
def _path_costs(lattice: Lattice, path: tuple[int, ...]) -> _PathCosts:
    cells = {t: lattice.cells_in_rows(t, path) for t in CELL_TYPES}
    return _PathCosts(lattice, lattice.path_cost(path), cells, {})


def count(genotype: Genotype) -> int:
    """Trainable parameters of the genotype's network; equal to sum(p.numel()) of the built one."""
    return _path_costs(lattice_of(genotype), genotype.path).of(genotype)


def count_macs(genotype: Genotype, patch: Patch) -> int:
    """Multiply-accumulates of one image of (height, width) pixels, padded to the stride of the genotype's network.

    Equal to half of what torch.utils.flop_counter counts in the built one: convolutions and matrix products only.

    Raises:
        ThriftyError: a user's own op has no formula for them.
    """
    return _path_costs(lattice_of(genotype, patch), genotype.path).of(genotype)


def has_macs(genotype: Genotype) -> bool:
    """Whether `count_macs` has a formula for every op of the genotype: a user's own may lack one."""
    return all(ops.find(edge.op).has_macs for t in CELL_TYPES for _, edge in genotype.cell(t).edges())


@dataclass(frozen=True)
class Costs:
    """Costs of a space at one width and number of levels: parameters, or MACs of one image where `patch` gives its size (with
    `price` times the parameters added).

    With `depth` searched `levels` is the most that a network may have; `of_path` then has the costs of one with fewer.
    """

    space: Space
    width: int
    levels: int
    channels: int
    classes: int
    patch: Patch | None = None
    depth: Depth = "fixed"
    price: int = 0

    @property
    def lattice(self) -> Lattice:
        frame, nodes = self.space.frame, self.space.nodes
        return Lattice(frame, nodes, self.width, self.levels, self.channels, self.classes, self.patch, self.price)

    @property
    def unit(self) -> str:
        """What a cost counts."""
        return "parameters" if self.patch is None else "MACs"

    @property
    def levels_text(self) -> str:
        return f"{self.levels} levels" if self.depth == "fixed" else f"2 to {self.levels} levels"

    def paths(self) -> list[tuple[int, ...]]:
        """The cell paths that may be chosen, in canonical order."""
        return self.space.paths(self.levels, self.depth)

    def of_path(self, path: Sequence[int]) -> Costs:
        """The costs at the levels of a cell path."""
        return replace(self, levels=levels_of(path), depth="fixed")

    def edge_costs(self, cell_type: CellType, source: int) -> np.ndarray:
        """Cost of every op of an edge in every row: (ops, rows), int64."""
        names = self.space.ops_of(cell_type, source)
        return np.stack([_edge_table(self.lattice, cell_type, min(source, 2), name) for name in names])

    def smallest(self) -> int:
        """Cost of the smallest network."""
        return min(self.smallest_of_path(path) for path in self.paths())

    def largest(self) -> int:
        """Cost of the largest network."""
        return max(-self.of_path(path)._least(path, sign=-1) for path in self.paths())

    def smallest_of_path(self, path: tuple[int, ...]) -> int:
        """Cost of the smallest network with a cell path."""
        return self.of_path(path)._least(path, sign=1)

    def _least(self, path: tuple[int, ...], sign: int) -> int:
        """The least of sign * cost: at every inner node the two least edges, each with its least op."""
        total = sign * self.lattice.path_cost(path)
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
                f"the budget of {budget:,} {self.unit} is below the smallest network of the space '{self.space.name}' at width "
                f"{self.width} with {self.levels_text}, which has {smallest:,}; give a larger budget or a smaller width"
            )
