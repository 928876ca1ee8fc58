"""The most likely genotype under a budget, exactly (method, section 4).

For each cell path, log P and the count are both sums over the edges, so the Pareto front (parameters, log P) of a cell is
merged node by node, and that of the network from the two cells. Log-probabilities are whole numbers of 2^-40 in here: sums
are then exact in any order, and ties are real ties. Ties: the smaller, then canonical order.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from thrifty.errors import ThriftyError
from thrifty.space.cost import Costs
from thrifty.space.distribution import Distribution, edge_index, pairs_of
from thrifty.space.genotype import Cell, CellType, Edge, Genotype
from thrifty.space.path import levels_of

SCALE = 2.0**40


@dataclass(frozen=True)
class Decoded:
    genotype: Genotype
    log_p: float
    parameters: int


@dataclass(frozen=True)
class _Front:
    """Undominated choices, cheapest first: cost (parameters), log P (in 2^-40), and for each the option taken at every node."""

    cost: np.ndarray
    log_p: np.ndarray
    options: np.ndarray


def decode(
    distribution: Distribution, costs: Costs, budget: int | None = None, paths: list[tuple[int, ...]] | None = None
) -> Decoded:
    """The most likely labelled genotype with parameters <= budget, over `paths` (all that `costs` know of if None).

    `costs` are those of parameters. A path may be of fewer levels than they are; its length says of how many.

    Raises:
        ThriftyError: the budget is below the smallest network of these paths; names that size.
    """
    best: tuple[int, int, tuple[int, ...], np.ndarray, np.ndarray] | None = None
    fronts = _CellFronts(distribution, costs)
    smallest: int | None = None
    for path in costs.paths() if paths is None else paths:
        fixed = costs.of_path(path).lattice.path_cost(path)
        down, up = fronts.of("down", path), fronts.of("up", path)
        low = fixed + int(down.cost[0] + up.cost[0])
        smallest = low if smallest is None else min(smallest, low)
        if budget is not None and low > budget:
            continue
        i, j = _best_pair(down, up, None if budget is None else budget - fixed)
        log_p = int(down.log_p[i] + up.log_p[j]) + _whole(distribution.log_path(path))
        cost = fixed + int(down.cost[i] + up.cost[j])
        if best is None or (-log_p, cost) < (-best[0], best[1]):
            best = (log_p, cost, path, down.options[i], up.options[j])
    if best is None:
        raise ThriftyError(
            f"the budget of {budget or 0:,} parameters is below the smallest network at width {costs.width} with "
            f"{costs.levels_text}, which has {smallest or 0:,}; give a larger budget or a smaller width"
        )
    log_p, cost, path, down_options, up_options = best
    down_cell, up_cell = _cell(costs, "down", down_options), _cell(costs, "up", up_options)
    frame, name = costs.space.frame, costs.space.name
    shape = (costs.width, levels_of(path), costs.channels, costs.classes)
    genotype = Genotype(down_cell, up_cell, path, *shape, name, frame)
    return Decoded(genotype, log_p / SCALE, cost)


def _whole(log_p: float) -> int:
    return round(max(log_p, -1e5) * SCALE)


def _best_pair(down: _Front, up: _Front, room: int | None) -> tuple[int, int]:
    """Positions in both fronts of the most likely choice that costs at most `room`."""
    if room is None:
        return len(down.cost) - 1, len(up.cost) - 1
    # Both fronts rise in cost and log P, so the best partner of each choice is the dearest that still fits.
    partner = np.searchsorted(up.cost, room - down.cost, side="right") - 1
    fits = np.flatnonzero(partner >= 0)
    log_p = down.log_p[fits] + up.log_p[partner[fits]]
    cost = down.cost[fits] + up.cost[partner[fits]]
    tied = fits[(log_p == log_p.max()) & (cost == cost[log_p == log_p.max()].min())]
    first = min(tied, key=lambda i: (tuple(down.options[i]), tuple(up.options[partner[i]])))
    return int(first), int(partner[first])


class _CellFronts:
    """The front of a cell type for a cell path; paths with the same costs share one."""

    def __init__(self, distribution: Distribution, costs: Costs) -> None:
        self.distribution = distribution
        self.costs = costs
        self.known: dict[tuple[CellType, bytes], _Front] = {}

    def of(self, cell_type: CellType, path: tuple[int, ...]) -> _Front:
        costs = self.costs.of_path(path)
        cells = costs.lattice.cells_in_rows(cell_type, path)
        by_source = [costs.edge_costs(cell_type, source) @ cells for source in range(costs.space.nodes + 1)]
        key = (cell_type, b"".join(c.tobytes() for c in by_source))
        if key not in self.known:
            front = self._node(cell_type, 0, by_source)
            for node in range(1, self.costs.space.nodes):
                front = _merge(front, self._node(cell_type, node, by_source))
            self.known[key] = front
        return self.known[key]

    def _node(self, cell_type: CellType, node: int, by_source: list[np.ndarray]) -> _Front:
        """All choices of one inner node: pairs of sources, and an op for each of the two."""
        cost, log_p = [], []
        for index, (a, b) in enumerate(pairs_of(node)):
            ops_a, ops_b = (self.distribution.ops[cell_type][edge_index(node, s)] for s in (a, b))
            log_p.append((self.distribution.pairs[cell_type][node][index] + ops_a[:, None] + ops_b[None, :]).ravel())
            cost.append((by_source[a][:, None] + by_source[b][None, :]).ravel())
        flat = np.concatenate(log_p)
        known = np.flatnonzero(np.isfinite(flat))
        whole = np.round(np.maximum(flat[known], -1e5) * SCALE).astype(np.int64)
        return _undominated(np.concatenate(cost)[known], whole, known[:, None])


def _merge(front: _Front, node: _Front) -> _Front:
    cost = (front.cost[:, None] + node.cost[None, :]).ravel()
    log_p = (front.log_p[:, None] + node.log_p[None, :]).ravel()
    i, j = np.divmod(np.arange(cost.size), node.cost.size)
    return _undominated(cost, log_p, np.concatenate([front.options[i], node.options[j]], axis=1))


def _undominated(cost: np.ndarray, log_p: np.ndarray, options: np.ndarray) -> _Front:
    """Of equal cost and log P the one first in canonical order (lexicographic in the options) stays."""
    order = np.lexsort((*options.T[::-1], -log_p, cost))
    cost, log_p, options = cost[order], log_p[order], options[order]
    best_before = np.concatenate([[np.iinfo(np.int64).min], np.maximum.accumulate(log_p)[:-1]])
    keep = log_p > best_before
    return _Front(cost[keep], log_p[keep], options[keep])


def _cell(costs: Costs, cell_type: CellType, options: np.ndarray) -> Cell:
    return Cell(tuple(_options(costs, cell_type, node)[int(option)] for node, option in enumerate(options)))


@lru_cache(maxsize=256)
def _options_of(space_ops: tuple[tuple[str, ...], ...], node: int) -> list[tuple[Edge, Edge]]:
    pairs = pairs_of(node)
    return [(Edge(a, x), Edge(b, y)) for a, b in pairs for x, y in itertools.product(space_ops[min(a, 2)], space_ops[min(b, 2)])]


def _options(costs: Costs, cell_type: CellType, node: int) -> list[tuple[Edge, Edge]]:
    """The choices of an inner node in the order in which `_CellFronts._node` numbers them."""
    return _options_of(tuple(costs.space.ops_of(cell_type, source) for source in range(3)), node)
