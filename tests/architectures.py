"""Architecture parameters for tests: random ones, and such that leave no choice."""

from __future__ import annotations

import torch

from thrifty.search.relaxation import ArchitectureParameters
from thrifty.space.cost import Costs
from thrifty.space.genotype import CELL_TYPES, Genotype


def random_parameters(costs: Costs, seed: int, spread: float = 1.5) -> ArchitectureParameters:
    torch.manual_seed(seed)
    architecture = ArchitectureParameters(costs.space, costs.levels, depth=costs.depth).double()
    for parameter in architecture.parameters():
        torch.nn.init.normal_(parameter, std=spread)
    return architecture


def degenerate(costs: Costs, genotype: Genotype) -> ArchitectureParameters:
    """Architecture parameters that leave no choice but `genotype`."""
    architecture = ArchitectureParameters(costs.space, costs.levels, depth=costs.depth).double()
    big = 200.0
    with torch.no_grad():
        for t in CELL_TYPES:
            alphas, index = architecture.alpha[t], 0
            for k, pair in enumerate(genotype.cell(t).nodes):
                chosen = {edge.source: edge.op for edge in pair}
                architecture.beta[t][k].copy_(torch.tensor([big if s in chosen else -big for s in range(k + 2)]))
                for s in range(k + 2):
                    names = costs.space.ops_of(t, s)
                    alphas[index].copy_(torch.tensor([big if n == chosen.get(s, names[0]) else -big for n in names]))
                    index += 1
        for gate, kept in zip(architecture.gamma, genotype.path, strict=False):  # what is beyond its last diagonal is left open
            gate.copy_(torch.tensor([big if k < kept else -big for k in range(len(gate))]))
        if architecture.depth is not None:
            last = genotype.levels - 1
            architecture.depth.copy_(torch.tensor([big if d == last else -big for d in range(1, costs.levels)]))
    return architecture
