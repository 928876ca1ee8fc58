"""The genotype that most searches voted for: the mean of their one-hot distributions, decoded exactly under the budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thrifty.space.cost import Costs
from thrifty.space.decode import Decoded, decode
from thrifty.space.distribution import Distribution, edge_index, pairs_of
from thrifty.space.genotype import CELL_TYPES, CellType, Genotype, canonical
from thrifty.space.path import levels_of
from thrifty.space.schema import decodable

FLOOR = 1e-6
"""Votes of a choice that nobody made: legal choices stay possible, so that something fits every budget that has a network."""


def consensus(genotypes: Sequence[Genotype], costs: Costs, budget: int | None = None) -> Decoded:
    """
    Args:
        genotypes: at least one, of the space, width and levels of `costs`; their inner nodes are named canonically.
        budget: parameters; None for no limit.

    Raises:
        ThriftyError: the budget is below the smallest network.
    """
    return decode(mean_of_one_hot([canonical(genotype) for genotype in genotypes], costs), costs, budget)


def mean_of_one_hot(genotypes: Sequence[Genotype], costs: Costs) -> Distribution:
    """Shares of the genotypes for each pair, for each op of an edge among those that keep it, and for each gate."""
    space = costs.space
    ops, pairs = {}, {}
    for cell_type in CELL_TYPES:
        ops[cell_type] = _ops(genotypes, costs, cell_type)
        pairs[cell_type] = tuple(_pairs(genotypes, cell_type, node) for node in range(space.nodes))
    gates = tuple(_gate([g.path[d - 1] for g in genotypes if len(g.path) >= d], d) for d in range(1, costs.levels - 1))
    depth = None
    if costs.depth == "searched":
        depth = _log_shares([levels_of(g.path) - 2 for g in genotypes], np.ones(costs.levels - 1, dtype=bool))
    return Distribution(space, costs.levels, ops, pairs, gates if space.path == "searched" else (), depth)


def _pairs(genotypes: Sequence[Genotype], cell_type: CellType, node: int) -> np.ndarray:
    known = pairs_of(node)
    kept = (genotype.cell(cell_type).nodes[node] for genotype in genotypes)
    return _log_shares([known.index((a.source, b.source)) for a, b in kept], np.ones(len(known), dtype=bool))


def _ops(genotypes: Sequence[Genotype], costs: Costs, cell_type: CellType) -> tuple[np.ndarray, ...]:
    votes: dict[int, list[int]] = {}
    for genotype in genotypes:
        for node, edge in genotype.cell(cell_type).edges():
            place = costs.space.ops_of(cell_type, edge.source).index(edge.op)
            votes.setdefault(edge_index(node, edge.source), []).append(place)
    sources = [source for k in range(costs.space.nodes) for source in range(k + 2)]
    allowed = [np.array(decodable(costs.space.ops_of(cell_type, source))) for source in sources]
    return tuple(_log_shares(votes.get(edge, []), ok) for edge, ok in enumerate(allowed))


def _log_shares(votes: Sequence[int], allowed: np.ndarray) -> np.ndarray:
    counts = np.where(allowed, FLOOR, 0.0) + np.bincount(np.asarray(votes, dtype=np.int64), minlength=len(allowed))
    with np.errstate(divide="ignore"):
        return np.log(counts / counts.sum())


def _gate(kept: Sequence[int], diagonal: int) -> np.ndarray:
    """Logits: of those that keep the nodes below position k, how many keep it too."""
    counts = np.asarray(kept, dtype=np.int64)
    opened = np.array([(counts > k).sum() for k in range(diagonal)]) + FLOOR
    closed = np.array([(counts == k).sum() for k in range(diagonal)]) + FLOOR
    return np.log(opened / closed)
