"""The exact expected size of a network under the architecture parameters (method, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from thrifty.search.relaxation import ArchitectureParameters, inclusion
from thrifty.space.cost import HEAD, Costs
from thrifty.space.distribution import edge_index
from thrifty.space.genotype import CELL_TYPES, CellType
from thrifty.space.path import kept_up_nodes
from thrifty.space.schema import Space, decodable


class ExpectedParameters:
    """E[count] under the distribution of the architecture parameters: exact, differentiable (method, section 4).

    Ops and pairs are independent of the path; the diagonals are independent chains; and an input convolution is linear in
    the number of its kept neighbours. So the expectation of every product below is the product of expectations.
    """

    def __init__(self, costs: Costs) -> None:
        self.costs = costs
        space, lattice = costs.space, costs.lattice
        self.edge_costs = {
            t: [torch.tensor(costs.edge_costs(t, s), dtype=torch.float64) for k in range(space.nodes) for s in range(k + 2)]
            for t in CELL_TYPES
        }
        self.allowed = {t: [_decodable_mask(space, t, s) for k in range(space.nodes) for s in range(k + 2)] for t in CELL_TYPES}
        widest = tuple(max(kept) for kept in zip(*space.paths(costs.levels), strict=True))
        self.up_nodes = kept_up_nodes(widest, costs.levels)
        self.fixed = lattice.base_params() + sum(lattice.down_params(row) for row in lattice.cell_rows("down"))
        self.fixed += lattice.up_params(HEAD) + lattice.neighbour_params(HEAD)
        self.up_params = [lattice.up_params(row) for row in lattice.cell_rows("up")]
        self.neighbour_params = [lattice.neighbour_params(row) for row in lattice.cell_rows("up")]

    def __call__(self, architecture: ArchitectureParameters) -> Tensor:
        """The expected number of parameters, a scalar in float64."""
        keep = architecture.keep_probabilities(torch.float64)
        one = torch.ones((), dtype=torch.float64)
        rows = [torch.zeros((), dtype=torch.float64) for _ in range(self.costs.levels)]
        rows[0] = one
        total = torch.tensor(float(self.fixed), dtype=torch.float64)
        for i, j in self.up_nodes:
            kept = keep.get((i, j), one)
            neighbours = one + sum(keep.get((m, j), one) for m in range(1, i) if (m, j) in self.up_nodes)
            rows[j + 1] = rows[j + 1] + kept
            total = total + kept * (self.up_params[j + 1] + neighbours * self.neighbour_params[j + 1])
        down = torch.ones(self.costs.levels - 1, dtype=torch.float64)
        return total + down @ self._cell(architecture, "down") + torch.stack(rows) @ self._cell(architecture, "up")

    def _cell(self, architecture: ArchitectureParameters, cell_type: CellType) -> Tensor:
        """Expected parameters of the edges of a cell, for each row it can stand in."""
        total: Tensor | float = 0.0
        alphas, betas = architecture.alphas(cell_type), architecture.betas(cell_type)
        for node, beta in enumerate(betas):
            included = inclusion(beta.double())
            for source in range(node + 2):
                index = edge_index(node, source)
                ops = torch.softmax(alphas[index].double() + self.allowed[cell_type][index], 0)
                total = total + included[source] * (ops @ self.edge_costs[cell_type][index])
        assert isinstance(total, Tensor)
        return total


def _decodable_mask(space: Space, cell_type: CellType, source: int) -> Tensor:
    """0 for the ops that a genotype may have, -inf for 'none'."""
    allowed = torch.tensor(decodable(space.ops_of(cell_type, source)))
    return torch.zeros(len(allowed), dtype=torch.float64).masked_fill(~allowed, -torch.inf)
