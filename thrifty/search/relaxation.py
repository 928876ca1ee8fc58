"""The architecture parameters, and the weights they give to the branches of a supernet.

Formulas: method, section 4. The weight of an edge is the probability that it is one of its node's two (conditional
Bernoulli distribution), so the weights of a node sum to two; a gate is the probability that its node is kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from thrifty.nets.supernet import Relaxed
from thrifty.space.distribution import Distribution, from_logits
from thrifty.space.genotype import CELL_TYPES, CellType
from thrifty.space.path import searched_diagonals
from thrifty.space.schema import Space

INITIAL_SPREAD = 1e-3


class ArchitectureParameters(nn.Module):
    """alpha (ops), beta (edges) and gamma (cell path) as logits.

    alpha[cell type] and beta[cell type] are lists, one entry for each edge and each inner node; gamma has one entry of
    shape (d,) for each searched diagonal d, none where the space fixes the path.
    """

    def __init__(self, space: Space, levels: int, edges: str = "pairs") -> None:
        super().__init__()
        self.space, self.levels, self.edge_weights = space, levels, edges
        self.alpha, self.beta = nn.ModuleDict(), nn.ModuleDict()
        for t in CELL_TYPES:
            sizes = [len(space.ops_of(t, source)) for k in range(space.nodes) for source in range(k + 2)]
            self.alpha[t] = nn.ParameterList([_logits(n) for n in sizes])
            self.beta[t] = nn.ParameterList([_logits(k + 2) for k in range(space.nodes)])
        self.gamma = nn.ParameterList([_logits(d) for d in searched_diagonals(levels)] if space.path == "searched" else [])

    def alphas(self, cell_type: CellType) -> list[Tensor]:
        """Logits of the ops of every edge of a cell type, by `edge_index`."""
        return list(self.alpha[cell_type])  # type: ignore[arg-type]

    def betas(self, cell_type: CellType) -> list[Tensor]:
        """Logits of the edges into every inner node of a cell type."""
        return list(self.beta[cell_type])  # type: ignore[arg-type]

    def relaxed(self) -> Relaxed:
        """The weights of the branches, differentiable in the logits."""
        alpha = {t: [torch.softmax(a, 0) for a in self.alphas(t)] for t in CELL_TYPES}
        weigh = inclusion if self.edge_weights == "pairs" else softmax_edges
        edges = {t: [weigh(b) for b in self.betas(t)] for t in CELL_TYPES}
        return Relaxed(alpha, edges, self.keep_probabilities())

    def keep_probabilities(self, dtype: torch.dtype | None = None) -> dict[tuple[int, int], Tensor]:
        """P(X(i, j) is kept) of every searched node: prod(sigmoid(gamma(d, m)), m = 1..i), d = i + j."""
        kept = {}
        for d, gate in zip(searched_diagonals(self.levels), self.gamma, strict=False):
            chain = torch.cumprod(torch.sigmoid(gate.to(dtype)), 0)
            kept.update({(i, d - i): chain[i - 1] for i in range(1, d + 1)})
        return kept

    def distribution(self) -> Distribution:
        """The distribution over genotypes, detached, in float64."""
        alpha = {t: [_numpy(a) for a in self.alphas(t)] for t in CELL_TYPES}
        beta = {t: [_numpy(b) for b in self.betas(t)] for t in CELL_TYPES}
        return from_logits(self.space, self.levels, alpha, beta, [_numpy(g) for g in self.gamma])


def _logits(size: int) -> nn.Parameter:
    return nn.Parameter(INITIAL_SPREAD * torch.randn(size))


def _numpy(value: Tensor) -> np.ndarray:
    return value.detach().double().cpu().numpy()


def log_pairs(beta: Tensor) -> Tensor:
    """log P({e, f}) of all pairs of (n,) logits, in canonical order."""
    first, second = _pair_index(len(beta))
    return torch.log_softmax(beta[first] + beta[second], 0)


def inclusion(beta: Tensor) -> Tensor:
    """P(edge is one of the kept two), (n,): sums to two; computed in log space, so nothing is divided by zero."""
    pairs = log_pairs(beta).exp()
    first, second = _pair_index(len(beta))
    return torch.zeros_like(beta).index_add(0, first, pairs).index_add(0, second, pairs)


def softmax_edges(beta: Tensor) -> Tensor:
    """Plain softmax over the edges of a node, times two so that both relaxations have the same sum."""
    return 2 * torch.softmax(beta, 0)


def _pair_index(count: int) -> tuple[Tensor, Tensor]:
    pairs = torch.tensor(list(itertools.combinations(range(count), 2)))
    return pairs[:, 0], pairs[:, 1]


def entropy(log_p: Sequence[Tensor]) -> float:
    """Mean entropy of categorical distributions, each over the entropy of the uniform one: 1 undecided, 0 decided."""
    shares = [float(-(p.exp() * p).sum() / np.log(len(p))) for p in log_p if len(p) > 1]
    return float(np.mean(shares)) if shares else 0.0


def entropies(architecture: ArchitectureParameters) -> dict[str, float]:
    """Normalised entropies of alpha, beta (over pairs) and gamma (of each gate)."""
    with torch.no_grad():
        alpha = [torch.log_softmax(a, 0) for t in CELL_TYPES for a in architecture.alphas(t)]
        beta = [log_pairs(b) for t in CELL_TYPES for b in architecture.betas(t)]
        gates = [torch.nn.functional.logsigmoid(torch.stack([g, -g])) for gamma in architecture.gamma for g in gamma]
    return {"entropy_alpha": entropy(alpha), "entropy_beta": entropy(beta), "entropy_gamma": entropy(gates)}
