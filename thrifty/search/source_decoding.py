"""The decoding rule of the source (method, section 3), which knows no budget; `thrifty.space.decode` is the exact one.

Every inner node takes its two best edges by beta * alpha of the edge's best op ('none' is never chosen, but has its share of
the softmax); the lower half of the gammas is off; a node is kept only with all nodes below it on its diagonal (closure).
"""

from __future__ import annotations

import torch
from torch import Tensor

from thrifty.search.relaxation import ArchitectureParameters
from thrifty.space.cost import Costs, count
from thrifty.space.decode import Decoded
from thrifty.space.distribution import edge_index
from thrifty.space.genotype import Cell, CellType, Edge, Genotype
from thrifty.space.schema import decodable


def decode_source(architecture: ArchitectureParameters, costs: Costs) -> Decoded:
    """The genotype that the source's rule makes of alpha, beta and gamma; its size is what it comes to.

    Edges are weighed by the softmax over beta, whatever `search.edges` is. Ties: the earlier edge, the first op, the node that
    is first by diagonal and height.
    """
    with torch.no_grad():
        down, up = (_cell(architecture, cell_type) for cell_type in ("down", "up"))
        path = _path(architecture.gammas()) if len(architecture.gamma) else costs.space.paths(costs.levels)[0]
    shape = (costs.width, costs.levels, costs.channels, costs.classes)
    genotype = Genotype(down, up, path, *shape, costs.space.name, costs.space.frame)
    return Decoded(genotype, architecture.distribution().log_prob(genotype), count(genotype))


def _cell(architecture: ArchitectureParameters, cell_type: CellType) -> Cell:
    return Cell(tuple(_node(architecture, cell_type, node, beta) for node, beta in enumerate(architecture.betas(cell_type))))


def _node(architecture: ArchitectureParameters, cell_type: CellType, node: int, beta: Tensor) -> tuple[Edge, Edge]:
    """The two edges of an inner node, by source."""
    weights, alphas = torch.softmax(beta, 0), architecture.alphas(cell_type)
    best = []
    for source in range(node + 2):
        names = architecture.space.ops_of(cell_type, source)
        alpha = torch.softmax(alphas[edge_index(node, source)], 0)
        allowed = alpha.masked_fill(~torch.tensor(decodable(names)), -1)
        best.append((float(weights[source] * allowed.max()), Edge(source, names[int(allowed.argmax())])))
    ranked = sorted(best, key=lambda scored: -scored[0])
    first, second = sorted((edge for _, edge in ranked[:2]), key=lambda edge: edge.source)
    return first, second


def _path(gammas: list[Tensor]) -> tuple[int, ...]:
    """The cell path: of all searched nodes together the lower half by P(on), rounded down, is off; then closure."""
    places = [(d, k) for d, gate in enumerate(gammas) for k in range(len(gate))]
    ranked = sorted(places, key=lambda place: -float(gammas[place[0]][place[1]]))
    on = set(ranked[: len(places) - len(places) // 2])
    kept = [[(d, k) in on for k in range(len(gate))] for d, gate in enumerate(gammas)]
    return tuple([*diagonal, False].index(False) for diagonal in kept)
