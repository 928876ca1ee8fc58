"""The distribution over the labelled genotypes of a space, in plain numpy.

P(genotype) = P(cell path) * product over both cells of P(pair of each inner node) * P(op of each kept edge).
- ops: softmax of alpha over the ops a genotype may have;
- pairs: P({e, f}) = exp(b_e + b_f) / Z over all pairs of a node (conditional Bernoulli distribution);
- path: diagonal d keeps its nodes from the bottom up while the gate sigmoid(gamma(d, k)) says so;
- depth, where it is searched: the last diagonal L is drawn first, and only the diagonals before it decide on nodes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thrifty.space.genotype import CELL_TYPES, CellType, Genotype
from thrifty.space.path import Depth, levels_of
from thrifty.space.schema import Space, decodable


def edge_index(node: int, source: int) -> int:
    """Position of the edge (inner node, source) in the list of all edges of a cell."""
    return node * (node + 3) // 2 + source


def pairs_of(node: int) -> list[tuple[int, int]]:
    """All pairs of sources of an inner node, in canonical order."""
    return list(itertools.combinations(range(node + 2), 2))


@dataclass(frozen=True)
class Distribution:
    """Log-probabilities. `ops[cell type][edge]` has one for each op of the edge (-inf for 'none'), `pairs[cell type][node]`
    one for each pair, `gates[d - 1]` the logits gamma(d, 1..d) of diagonal d (empty where the path is fixed), `depth[L - 1]`
    log P(last diagonal is L), None where the depth is fixed."""

    space: Space
    levels: int
    ops: Mapping[CellType, tuple[np.ndarray, ...]]
    pairs: Mapping[CellType, tuple[np.ndarray, ...]]
    gates: tuple[np.ndarray, ...]
    depth: np.ndarray | None = None

    def as_json(self) -> dict[str, Any]:
        """Normalised logits, from which `from_json` makes the same distribution again ('none' has no entry of its own)."""
        ops = {t: [[None if np.isinf(v) else float(v) for v in edge] for edge in self.ops[t]] for t in CELL_TYPES}
        pairs = {t: [node.tolist() for node in self.pairs[t]] for t in CELL_TYPES}
        depth = None if self.depth is None else self.depth.tolist()
        return {"levels": self.levels, "ops": ops, "pairs": pairs, "gates": [g.tolist() for g in self.gates], "depth": depth}

    @staticmethod
    def from_json(space: Space, value: Mapping[str, Any]) -> Distribution:
        ops = {t: tuple(np.array([-np.inf if v is None else v for v in e]) for e in value["ops"][t]) for t in CELL_TYPES}
        pairs = {t: tuple(np.array(node) for node in value["pairs"][t]) for t in CELL_TYPES}
        depth = None if value.get("depth") is None else np.array(value["depth"])
        return Distribution(space, value["levels"], ops, pairs, tuple(np.array(gate) for gate in value["gates"]), depth)

    def log_path(self, path: Sequence[int]) -> float:
        """Natural logarithm of P(cell path); with the depth searched its length says which diagonal is the last."""
        gates = self.gates if self.depth is None else self.gates[: len(path)]
        kept = sum(_log_kept(gate, kept) for gate, kept in zip(gates, path, strict=bool(gates)))
        return float(kept if self.depth is None else kept + self.depth[levels_of(path) - 2])

    def log_prob(self, genotype: Genotype) -> float:
        """Natural logarithm of P(labelled genotype)."""
        total = self.log_path(genotype.path)
        for cell_type in CELL_TYPES:
            for k, (first, second) in enumerate(genotype.cell(cell_type).nodes):
                total += self.pairs[cell_type][k][pairs_of(k).index((first.source, second.source))]
                for edge in (first, second):
                    names = self.space.ops_of(cell_type, edge.source)
                    total += self.ops[cell_type][edge_index(k, edge.source)][names.index(edge.op)]
        return float(total)


def from_logits(
    space: Space,
    levels: int,
    alpha: Mapping[CellType, Sequence[np.ndarray]],
    beta: Mapping[CellType, Sequence[np.ndarray]],
    gamma: Sequence[np.ndarray],
    depth: np.ndarray | None = None,
) -> Distribution:
    """The distribution of logits: alpha per edge, beta per inner node (one for each source), gamma per searched diagonal, and
    one for each last diagonal where the depth is searched."""
    ops: dict[CellType, tuple[np.ndarray, ...]] = {}
    for cell_type in CELL_TYPES:
        sources = [source for k in range(space.nodes) for source in range(k + 2)]
        allowed = [np.array(decodable(space.ops_of(cell_type, s))) for s in sources]
        ops[cell_type] = tuple(_log_softmax(np.where(ok, a, -np.inf)) for a, ok in zip(alpha[cell_type], allowed, strict=True))
    pairs = {t: tuple(log_pairs(np.asarray(b)) for b in beta[t]) for t in CELL_TYPES}
    gates = tuple(np.asarray(g, dtype=np.float64) for g in gamma)
    return Distribution(space, levels, ops, pairs, gates, None if depth is None else _log_softmax(depth))


def uniform(space: Space, levels: int, depth: Depth = "fixed") -> Distribution:
    """Equal ops and pairs, gates that are open half of the time, and equal last diagonals where the depth is searched."""
    sources = [source for k in range(space.nodes) for source in range(k + 2)]
    alpha = {t: [np.zeros(len(space.ops_of(t, s))) for s in sources] for t in CELL_TYPES}
    beta = {t: [np.zeros(k + 2) for k in range(space.nodes)] for t in CELL_TYPES}
    gamma = [np.zeros(d) for d in range(1, levels - 1)] if space.path == "searched" else []
    return from_logits(space, levels, alpha, beta, gamma, np.zeros(levels - 1) if depth == "searched" else None)


def log_pairs(beta: np.ndarray) -> np.ndarray:
    """log P of every pair of sources, in the order of `pairs_of`."""
    pairs = pairs_of(len(beta) - 2)
    return _log_softmax(np.array([beta[a] + beta[b] for a, b in pairs], dtype=np.float64))


def _log_softmax(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    shifted = values - values.max()
    return shifted - np.log(np.exp(shifted).sum())


def _log_sigmoid(value: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0.0, -value)


def _log_kept(gate: np.ndarray, kept: int) -> float:
    """log P(a diagonal keeps exactly its `kept` lowest nodes): that many gates open, then one closed."""
    closed = _log_sigmoid(-gate[kept]) if kept < len(gate) else 0.0
    return float(_log_sigmoid(gate[:kept]).sum() + closed)
