"""An additive model of the scores so far, which the exact decoder can maximise.

Score = constant + one term for each choice of a genotype: the op of an edge, the pair of a node, the nodes that a diagonal keeps,
the last diagonal. Bayesian ridge regression (MacKay 1992; of scikit-learn) fits it and says how sure it is; terms drawn from the
posterior, decoded exactly, are Thompson sampling over all genotypes within a limit (Russo 2018, sec. 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thrifty.space.cost import Costs
from thrifty.space.distribution import Distribution, edge_index, pairs_of
from thrifty.space.genotype import CELL_TYPES, CellType, Genotype
from thrifty.space.path import levels_of
from thrifty.space.schema import decodable


@dataclass(frozen=True)
class Terms:
    """Where each choice stands in a vector of terms; the networks of one width and at most so many levels."""

    costs: Costs

    def __len__(self) -> int:
        return sum(len(values) for values in self._split_sizes())

    def of(self, genotype: Genotype) -> np.ndarray:
        """1 for every choice that the genotype has taken, else 0: the path first, then ops and pairs of both cells."""
        parts = [np.zeros(len(size)) for size in self._split_sizes()]
        levels, nodes = self.costs.levels, self.costs.space.nodes
        parts[0][levels_of(genotype.path) - 2] = 1
        for part, kept in zip(parts[1:], genotype.path, strict=False):
            part[kept] = 1
        start = levels - 1
        edges = edge_index(nodes - 1, nodes) + 1
        for cell_type in CELL_TYPES:
            for k, (first, second) in enumerate(genotype.cell(cell_type).nodes):
                for edge in (first, second):
                    names = self.costs.space.ops_of(cell_type, edge.source)
                    parts[start + edge_index(k, edge.source)][names.index(edge.op)] = 1
                parts[start + edges + k][pairs_of(k).index((first.source, second.source))] = 1
            start += edges + nodes
        return np.concatenate(parts)

    def distribution(self, terms: np.ndarray) -> Distribution:
        """The distribution whose log-probability is the sum of the terms, up to a constant."""
        parts = np.split(terms, np.cumsum([len(size) for size in self._split_sizes()])[:-1])
        space, levels, nodes = self.costs.space, self.costs.levels, self.costs.space.nodes
        depth, diagonals, start = parts[0], parts[1 : levels - 1], levels - 1
        edges = edge_index(nodes - 1, nodes) + 1
        ops: dict[CellType, tuple[np.ndarray, ...]] = {}
        pairs: dict[CellType, tuple[np.ndarray, ...]] = {}
        for t in CELL_TYPES:
            allowed = [np.array(decodable(space.ops_of(t, s))) for k in range(nodes) for s in range(k + 2)]
            ops[t] = tuple(np.where(ok, part, -np.inf) for ok, part in zip(allowed, parts[start:], strict=False))
            pairs[t] = tuple(parts[start + edges : start + edges + nodes])
            start += edges + nodes
        gates = tuple(_gates(diagonal) for diagonal in diagonals) if space.path == "searched" else ()
        if self.costs.depth == "fixed":
            return Distribution(space, levels, ops, pairs, gates)
        # The gates of a diagonal make probabilities of its terms; the depth gives back what that takes away.
        lost = np.cumsum([0.0, *(np.logaddexp.reduce(diagonal) for diagonal in diagonals)])
        return Distribution(space, levels, ops, pairs, gates, depth + lost)

    def _split_sizes(self) -> list[range]:
        space, levels, nodes = self.costs.space, self.costs.levels, self.costs.space.nodes
        cells = []
        for t in CELL_TYPES:
            cells += [range(len(space.ops_of(t, s))) for k in range(nodes) for s in range(k + 2)]
            cells += [range(len(pairs_of(k))) for k in range(nodes)]
        return [range(levels - 1), *(range(d + 1) for d in range(1, levels - 1)), *cells]


def _gates(terms: np.ndarray) -> np.ndarray:
    """Logits of a chain of gates with P(kept = k) proportional to exp(terms[k])."""
    return np.array([np.logaddexp.reduce(terms[k + 1 :]) - terms[k] for k in range(len(terms) - 1)])


@dataclass(frozen=True)
class Surrogate:
    """Terms with their uncertainty: mean, and a matrix whose product with normal numbers has the posterior's covariance."""

    terms: Terms
    mean: np.ndarray
    root: np.ndarray

    def draw(self, stray: float, rng: np.random.Generator) -> Distribution:
        """The terms plus `stray` times their uncertainty: 0 the best guess, 1 a draw from the posterior."""
        return self.terms.distribution(self.mean + stray * (self.root @ rng.normal(size=len(self.mean))))


def fit(terms: Terms, genotypes: Sequence[Genotype], scores: Sequence[float]) -> Surrogate:
    """At least two genotypes, with their scores."""
    from sklearn.linear_model import BayesianRidge

    spread = float(np.std(scores)) or 1.0
    model = BayesianRidge().fit(np.stack([terms.of(g) for g in genotypes]), np.asarray(scores) / spread)
    values, vectors = np.linalg.eigh(model.sigma_)
    return Surrogate(terms, model.coef_, vectors * np.sqrt(np.maximum(values, 0.0)))
