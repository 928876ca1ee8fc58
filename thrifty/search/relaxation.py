"""The architecture parameters, and the weights they give to the branches of a supernet.

Formulas: method, section 4. The weight of an edge is the probability that it is one of its node's two (conditional
Bernoulli distribution), so the weights of a node sum to two; a gate is the probability that its node is kept. Where the
depth is searched the head reads the ends of all diagonals, each weighed by the probability that its diagonal is the last.
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
from thrifty.space.path import Depth, Node, searched_diagonals
from thrifty.space.schema import Space

INITIAL_SPREAD = 1e-3
LEAST_PROBABILITY = 1e-6


class ArchitectureParameters(nn.Module):
    """alpha (ops), beta (edges), gamma (cell path) and, where it is searched, the depth as logits.

    alpha[cell type] and beta[cell type] are lists, one entry for each edge and each inner node; gamma has one entry of
    shape (d,) for each searched diagonal d, or (d, 2) of (on, off) for `gates` 'two_logits', none where the space fixes the
    path. depth has shape (levels - 1,), one for each diagonal that may be the last, or is None. All that is computed from them
    uses the logits over `temperature`: as it falls, the mixture and the distribution close in on one genotype.
    """

    def __init__(self, space: Space, levels: int, edges: str = "pairs", gates: str = "chain", depth: Depth = "fixed") -> None:
        super().__init__()
        self.space, self.levels, self.edge_weights = space, levels, edges
        self.temperature = 1.0
        self.alpha, self.beta = nn.ModuleDict(), nn.ModuleDict()
        for t in CELL_TYPES:
            sizes = [len(space.ops_of(t, source)) for k in range(space.nodes) for source in range(k + 2)]
            self.alpha[t] = nn.ParameterList([_logits(n) for n in sizes])
            for index, n in enumerate(sizes):
                self.register_buffer(f"live_{t}_{index}", torch.ones(n, dtype=torch.bool))
            self.beta[t] = nn.ParameterList([_logits(k + 2) for k in range(space.nodes)])
        width = () if gates == "chain" else (2,)
        diagonals = searched_diagonals(levels) if space.path == "searched" else ()
        self.gamma = nn.ParameterList([_logits(d, *width) for d in diagonals])
        self.depth = _logits(levels - 1) if depth == "searched" else None

    def alphas(self, cell_type: CellType) -> list[Tensor]:
        """Logits of the ops of every edge of a cell type, by `edge_index`; -inf for those that are pruned."""
        masks = [self._live(cell_type, index) for index in range(len(self.alpha[cell_type]))]  # pyrefly: ignore
        logits = [a / self.temperature for a in self.alpha[cell_type]]  # type: ignore[operator]
        return [a if bool(live.all()) else a.masked_fill(~live, -torch.inf) for a, live in zip(logits, masks, strict=True)]

    def _live(self, cell_type: CellType, index: int) -> Tensor:
        return self.get_buffer(f"live_{cell_type}_{index}")

    def live_ops(self, cell_type: CellType) -> list[tuple[bool, ...]]:
        """Which ops of every edge are not pruned."""
        return [tuple(self._live(cell_type, index).tolist()) for index in range(len(self.alpha[cell_type]))]  # pyrefly: ignore

    def prune(self, cell_type: CellType, index: int, op: int) -> None:
        """Takes an op out of an edge for good."""
        self._live(cell_type, index)[op] = False

    def betas(self, cell_type: CellType) -> list[Tensor]:
        """Logits of the edges into every inner node of a cell type."""
        return [b / self.temperature for b in self.beta[cell_type]]  # type: ignore[operator]

    def gammas(self) -> list[Tensor]:
        """Logits of the gates of every searched diagonal; of two logits their difference, as softmax over them needs."""
        return [(g if g.dim() == 1 else g[:, 0] - g[:, 1]) / self.temperature for g in self.gamma]

    def depth_logits(self) -> Tensor | None:
        """Logits of the diagonals 1 .. levels-1 as the last one; None where the depth is fixed."""
        return None if self.depth is None else self.depth / self.temperature

    def relaxed(self) -> Relaxed:
        """The weights of the branches, differentiable in the logits."""
        alpha = {t: [torch.softmax(a, 0) for a in self.alphas(t)] for t in CELL_TYPES}
        weigh = inclusion if self.edge_weights == "pairs" else softmax_edges
        edges = {t: [weigh(b) for b in self.betas(t)] for t in CELL_TYPES}
        live = {t: self.live_ops(t) for t in CELL_TYPES}
        return Relaxed(alpha, edges, self.gates(), live, self.depth_probabilities())

    def straight_through(self) -> Relaxed:
        """Weights of value 1 whose gradient is that of log P of what they choose.

        For a genotype drawn from the distribution this makes the expected gradient sum over its choices of dL/dw * dP, each
        at the network in which the choice was made, while only that network is run (straight-through estimator, Bengio 2013;
        sampled by the Gumbel-max trick as in GDAS, Dong 2019).
        """
        soft = self.relaxed()
        alpha = {t: [_one(a) for a in soft.alpha[t]] for t in CELL_TYPES}
        edges = {t: [_one(e) for e in soft.edges[t]] for t in CELL_TYPES}
        gates = {node: _one(gate) for node, gate in soft.gates.items()}
        return Relaxed(alpha, edges, gates, depth=None if soft.depth is None else _one(soft.depth))

    def depth_probabilities(self, dtype: torch.dtype | None = None) -> Tensor | None:
        """P(L) of the last diagonals L = 1 .. levels-1, (levels - 1,); None where the depth is fixed."""
        logits = self.depth_logits()
        return None if logits is None else torch.softmax(logits.to(dtype), 0)

    def gates(self) -> dict[Node, Tensor]:
        """P(X(i, j) is in the network) of every searched node: P(L = d) + P(L > d) p(d, i), d = i + j (method, section 4)."""
        kept, depth = self.keep_probabilities(), self.depth_probabilities()
        if depth is None:
            return kept
        return {(i, j): depth[i + j - 1] + depth[i + j :].sum() * p for (i, j), p in kept.items()}

    def keep_probabilities(self, dtype: torch.dtype | None = None) -> dict[Node, Tensor]:
        """p(d, i), P(X(i, j) is kept) of every searched node where its diagonal d = i + j is not the last:
        prod(sigmoid(gamma(d, m)), m = 1..i).

        With two logits as well: each node's own softmax says whether it is on, independently of the others, but what stands on
        a node that is off has no input. Its own softmax alone as gate would feed rows from nodes that decoding removes.
        """
        kept = {}
        for d, gate in zip(searched_diagonals(self.levels), self.gammas(), strict=False):
            chain = torch.cumprod(torch.sigmoid(gate.to(dtype)), 0)
            kept.update({(i, d - i): chain[i - 1] for i in range(1, d + 1)})
        return kept

    def beta_loss(self) -> Tensor:
        """The regulariser of beta-DARTS (Ye 2022): the mean over the edges of log(sum(exp(alpha))), which keeps the logits of
        an edge from growing apart."""
        return torch.stack([torch.logsumexp(a, 0) for t in CELL_TYPES for a in self.alphas(t)]).mean()

    def distribution(self) -> Distribution:
        """The distribution over genotypes, detached, in float64."""
        alpha = {t: [_numpy(a) for a in self.alphas(t)] for t in CELL_TYPES}
        beta = {t: [_numpy(b) for b in self.betas(t)] for t in CELL_TYPES}
        depth = self.depth_logits()
        gamma = [_numpy(g) for g in self.gammas()]
        return from_logits(self.space, self.levels, alpha, beta, gamma, None if depth is None else _numpy(depth))


def _logits(*size: int) -> nn.Parameter:
    return nn.Parameter(INITIAL_SPREAD * torch.randn(size))


def _one(weight: Tensor) -> Tensor:
    """1, with the gradient of log `weight`; no weight is small enough to make that infinite."""
    log = weight.clamp_min(LEAST_PROBABILITY).log()
    return 1 + log - log.detach()


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
    """Plain softmax over the edges of a node, as PC-DARTS (Xu 2020, eq. 5) normalises them: they sum to one."""
    return torch.softmax(beta, 0)


def _pair_index(count: int) -> tuple[Tensor, Tensor]:
    pairs = torch.tensor(list(itertools.combinations(range(count), 2)))
    return pairs[:, 0], pairs[:, 1]


def entropy(log_p: Sequence[Tensor]) -> float:
    """Mean entropy of categorical distributions, each over the entropy of the uniform one: 1 undecided, 0 decided."""
    shares = [float(torch.special.entr(p.exp()).sum() / np.log(len(p))) for p in log_p if len(p) > 1]
    return float(np.mean(shares)) if shares else 0.0


def entropies(architecture: ArchitectureParameters) -> dict[str, float]:
    """Normalised entropies of alpha, beta (over pairs), gamma (of each gate) and the depth, where it is searched."""
    with torch.no_grad():
        alpha = [torch.log_softmax(a, 0) for t in CELL_TYPES for a in architecture.alphas(t)]
        beta = [log_pairs(b) for t in CELL_TYPES for b in architecture.betas(t)]
        gates = [torch.nn.functional.logsigmoid(torch.stack([g, -g])) for gamma in architecture.gammas() for g in gamma]
        depth = architecture.depth_logits()
    found = {"entropy_alpha": entropy(alpha), "entropy_beta": entropy(beta), "entropy_gamma": entropy(gates)}
    return found if depth is None else {**found, "entropy_depth": entropy([torch.log_softmax(depth, 0)])}
