"""The exact expected parameters or MACs of a network under the architecture parameters (method, section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from thrifty.search.relaxation import ArchitectureParameters, inclusion
from thrifty.space.cost import HEAD, Costs
from thrifty.space.distribution import edge_index
from thrifty.space.genotype import CELL_TYPES, CellType
from thrifty.space.path import Node, kept_up_nodes
from thrifty.space.schema import Space, decodable


class ExpectedCost:
    """E[cost] under the distribution of the architecture parameters: exact, differentiable (method, section 4).

    `costs` say of what: of the parameters, or of the MACs of one image of their patch. Where the depth is searched the
    expectation is that over the last diagonals, sum P(L) E[cost | L].
    """

    def __init__(self, costs: Costs) -> None:
        self.costs = costs
        space = costs.space
        self.allowed = {t: [_decodable_mask(space, t, s) for k in range(space.nodes) for s in range(k + 2)] for t in CELL_TYPES}
        levels = range(2, costs.levels + 1) if costs.depth == "searched" else [costs.levels]
        self.by_depth = [_DepthCost(replace(costs, levels=n, depth="fixed")) for n in levels]

    def __call__(self, architecture: ArchitectureParameters) -> Tensor:
        """The expected cost, a scalar in float64."""
        keep, depth = architecture.keep_probabilities(torch.float64), architecture.depth_probabilities(torch.float64)
        shares = {t: self._shares(architecture, t) for t in CELL_TYPES}
        found = torch.stack([of_depth(keep, shares) for of_depth in self.by_depth])
        return found[0] if depth is None else depth @ found

    def _shares(self, architecture: ArchitectureParameters, cell_type: CellType) -> list[tuple[Tensor, Tensor]]:
        """For every edge, by `edge_index`: P(edge is kept), and P(op) of each of its ops if it is, (ops,)."""
        shares = []
        alphas, betas = architecture.alphas(cell_type), architecture.betas(cell_type)
        for node, beta in enumerate(betas):
            included = inclusion(beta.double())
            for source in range(node + 2):
                index = edge_index(node, source)
                ops = torch.softmax(alphas[index].double() + self.allowed[cell_type][index], 0)
                shares.append((included[source], ops))
        return shares


class _DepthCost:
    """E[cost] of the networks of one number of levels.

    Ops and pairs are independent of the path; the diagonals are independent chains; and an input convolution is linear in
    the number of its kept neighbours. So the expectation of every product below is the product of expectations.
    """

    def __init__(self, costs: Costs) -> None:
        self.levels = costs.levels
        space, lattice = costs.space, costs.lattice
        self.edge_costs = {
            t: [torch.tensor(costs.edge_costs(t, s), dtype=torch.float64) for k in range(space.nodes) for s in range(k + 2)]
            for t in CELL_TYPES
        }
        widest = tuple(max(kept) for kept in zip(*space.paths(costs.levels), strict=True))
        self.up_nodes = kept_up_nodes(widest, costs.levels)
        self.fixed = lattice.base_cost() + sum(lattice.down_cost(row) for row in lattice.cell_rows("down"))
        self.fixed += lattice.up_cost(HEAD) + lattice.neighbour_cost(HEAD)
        self.up_costs = [lattice.up_cost(row) for row in lattice.cell_rows("up")]
        self.neighbour_costs = [lattice.neighbour_cost(row) for row in lattice.cell_rows("up")]

    def __call__(self, keep: Mapping[Node, Tensor], shares: Mapping[CellType, list[tuple[Tensor, Tensor]]]) -> Tensor:
        one = torch.ones((), dtype=torch.float64)
        keep = {(i, j): p for (i, j), p in keep.items() if i + j < self.levels - 1}  # the last diagonal is whole
        rows = [torch.zeros((), dtype=torch.float64) for _ in range(self.levels)]
        rows[0] = one
        total = torch.tensor(float(self.fixed), dtype=torch.float64)
        for i, j in self.up_nodes:
            kept = keep.get((i, j), one)
            neighbours = one + sum(keep.get((m, j), one) for m in range(1, i) if (m, j) in self.up_nodes)
            rows[j + 1] = rows[j + 1] + kept
            total = total + kept * (self.up_costs[j + 1] + neighbours * self.neighbour_costs[j + 1])
        down = torch.ones(self.levels - 1, dtype=torch.float64)
        return total + down @ self._cell("down", shares["down"]) + torch.stack(rows) @ self._cell("up", shares["up"])

    def _cell(self, cell_type: CellType, shares: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Expected cost of the edges of a cell, for each row it can stand in."""
        total: Tensor | float = 0.0
        for (kept, ops), costs in zip(shares, self.edge_costs[cell_type], strict=True):
            total = total + kept * (ops @ costs)
        assert isinstance(total, Tensor)
        return total


def _decodable_mask(space: Space, cell_type: CellType, source: int) -> Tensor:
    """0 for the ops that a genotype may have, -inf for 'none'."""
    allowed = torch.tensor(decodable(space.ops_of(cell_type, source)))
    return torch.zeros(len(allowed), dtype=torch.float64).masked_fill(~allowed, -torch.inf)
