"""From a few chosen values to a genotype within the limits: what Optuna chooses, and what the exact decoder makes of it.

Chosen are the shape (width and levels), whom to trust (a search, their mean, a model of the scores so far, the best of the scores
so far, the pool), how much of the budget to use, how far to stray from what was learnt, and the cell path. So whatever is
proposed keeps the limits, and what the searches have learnt is used; the measurements are in docs/LOG.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from thrifty.pool import Pooled
from thrifty.space.cost import Costs, count
from thrifty.space.distribution import Distribution
from thrifty.space.genotype import CELL_TYPES, Genotype, genotype_hash
from thrifty.space.limits import Limits, decode_within, smallest_within
from thrifty.space.path import levels_of
from thrifty.surrogate import Surrogate, Terms, fit

MEAN = "mean"  # the source that averages all searches
SCORES = "scores"  # the model of the scores so far
FRONT = "front"  # one of the best scored so far
POOL = "pool"  # what searches decoded along the way
FREE = "free"  # the path is left to the decoder
TRIES = 8  # decodings until one is new
ENOUGH = 6  # scores before they are modelled
BEST = 3  # of the scored within the room that `front` starts from


@dataclass(frozen=True)
class Chosen:
    """What is chosen for one candidate.

    `size`: share of the way from the smallest network to the budget. `stray`: from 0, the most likely genotype, to 1, any: the
    normalised entropy of the distribution that is drawn from; for `scores` how much of the uncertainty counts.
    """

    shape: str
    source: str
    size: float
    stray: float
    path: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Group:
    """One budget and shape, with all searches of that shape, whatever their budget: each can score any candidate."""

    budget: int
    costs: Costs
    distributions: dict[str, Distribution]  # by trial
    by_rule: dict[str, Genotype] = field(default_factory=dict)  # by trial, what the source's rule decoded without a limit
    pool: Sequence[Pooled] = ()
    limits: Limits | None = None  # None: the budget alone

    @property
    def key(self) -> str:
        return f"b{self.budget}_{self.shape}"

    @property
    def shape(self) -> str:
        return f"w{self.costs.width}_d{self.costs.levels}"

    @property
    def within(self) -> Limits:
        return self.limits or Limits(self.budget)

    @property
    def trials(self) -> list[str]:
        return sorted(self.distributions)

    @cached_property
    def mean(self) -> Distribution:
        return mean_distribution([self.distributions[t] for t in self.trials])

    @cached_property
    def smallest(self) -> dict[tuple[int, ...], Genotype]:
        """The cell paths that fit the limits, each with a small network that does."""
        found = {path: smallest_within(self.costs, self.within, path) for path in self.costs.paths()}
        return {path: genotype for path, genotype in found.items() if genotype is not None}

    def paths(self) -> dict[str, tuple[int, ...]]:
        """The cell paths that fit the limits, by the name they have in Optuna."""
        return {self._name(path): path for path in self.smallest}

    def _name(self, path: tuple[int, ...]) -> str:
        """'1-0'; where the depth is searched 'd4-1-0', with the levels in front."""
        levels = [] if self.costs.depth == "fixed" else [f"d{levels_of(path)}"]
        return "-".join([*levels, *map(str, path)])


class History:
    """What has been proposed and scored for one budget so far, in the order of the study."""

    def __init__(self) -> None:
        self.proposed: set[str] = set()  # hashes
        self.scored: dict[str, dict[str, tuple[Genotype, float]]] = {}  # by shape and hash, the best score of its forms
        self._fitted: dict[str, tuple[int, Surrogate]] = {}

    def add(self, shape: str, genotype: Genotype, score: float) -> None:
        scored, name = self.scored.setdefault(shape, {}), genotype_hash(genotype)
        if name not in scored or score > scored[name][1]:
            scored[name] = (genotype, score)

    def best(self, shape: str, limits: Limits, number: int) -> list[Genotype]:
        """The best scored within limits."""
        fitting = [entry for entry in self.scored.get(shape, {}).values() if limits.allow(entry[0])]
        return [genotype for genotype, _ in sorted(fitting, key=lambda entry: (-entry[1], count(entry[0])))[:number]]

    def surrogate(self, shape: str, costs: Costs) -> Surrogate | None:
        """Fitted to all scores of a shape; None while they are too few."""
        scored = list(self.scored.get(shape, {}).values())
        if len(scored) < ENOUGH:
            return None
        if shape not in self._fitted or self._fitted[shape][0] != len(scored):
            self._fitted[shape] = (len(scored), fit(Terms(costs), [g for g, _ in scored], [score for _, score in scored]))
        return self._fitted[shape][1]


def propose(group: Group, chosen: Chosen, history: History, rng: np.random.Generator) -> Genotype:
    """A genotype within the limits; a new one where that is found in a few tries, each straying further.

    With `stray` 0 the one decoding that is meant is given, also where it is known.
    """
    tries = TRIES if chosen.stray else 1
    for k in range(tries):
        genotype = _decoded(group, replace(chosen, stray=chosen.stray + (1 - chosen.stray) * k / tries), history, rng)
        if genotype_hash(genotype) not in history.proposed:
            break
    history.proposed.add(genotype_hash(genotype))
    return genotype


def _decoded(group: Group, chosen: Chosen, history: History, rng: np.random.Generator) -> Genotype:
    paths, within = group.paths(), group.within
    by_rule = group.by_rule.get(chosen.source) if (chosen.size, chosen.stray, chosen.path) == (1.0, 0.0, FREE) else None
    if by_rule is not None and within.keep(by_rule):
        return by_rule
    allowed = [paths[chosen.path]] if chosen.path in paths else list(paths.values())
    fallback = min((group.smallest[path] for path in allowed), key=count)
    least = count(fallback)
    room = replace(within, parameters=least + int(chosen.size * (within.parameters - least)))
    if chosen.source == POOL and (pooled := _from_pool(group, room, history)) is not None:
        return pooled
    learnt = _drawn_from(group, chosen, room, history, rng)
    return decode_within(learnt, group.costs, room, allowed, fallback)


def _from_pool(group: Group, room: Limits, history: History) -> Genotype | None:
    """The next of the pool that was not proposed yet."""
    left = (entry.genotype for entry in group.pool if entry.hash not in history.proposed and room.keep(entry.genotype))
    return next(left, None)


def _drawn_from(group: Group, chosen: Chosen, room: Limits, history: History, rng: np.random.Generator) -> Distribution:
    """The log-probabilities that are decoded, with their noise."""
    if chosen.source == SCORES and (surrogate := history.surrogate(group.shape, group.costs)) is not None:
        return surrogate.draw(chosen.stray, rng)
    learnt = group.distributions.get(chosen.source, group.mean)
    if chosen.source == FRONT and (best := history.best(group.shape, room, BEST)):
        terms = Terms(group.costs)
        learnt = terms.distribution(CERTAIN * terms.of(best[int(rng.integers(len(best)))]))
    return perturb(flatten(learnt, chosen.stray), 1.0, rng) if chosen.stray else learnt


CERTAIN = 1000.0  # difference of the logits where there is no doubt
HALVINGS = 24


def flatten(distribution: Distribution, entropy: float) -> Distribution:
    """The distribution at the temperature at which the mean normalised entropy of its ops is `entropy`, from 0 to 1.

    One that is flatter than that is sharpened.
    """
    rows = [edge[np.isfinite(edge)] for t in CELL_TYPES for edge in distribution.ops[t]]
    rows = [row - row.max() for row in rows if len(row) > 1 and np.ptp(row) > 0]
    low, high = -12.0, 12.0  # of the natural logarithm of the temperature
    for _ in range(HALVINGS if rows else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if _mean_entropy(rows, np.exp(middle)) < entropy else (low, middle)
    factor = float(np.exp(-low)) if rows else 1.0
    ops = {t: tuple(edge * factor for edge in distribution.ops[t]) for t in CELL_TYPES}
    pairs = {t: tuple(node * factor for node in distribution.pairs[t]) for t in CELL_TYPES}
    depth = None if distribution.depth is None else distribution.depth * factor
    return replace(distribution, ops=ops, pairs=pairs, gates=tuple(gate * factor for gate in distribution.gates), depth=depth)


def _mean_entropy(rows: Sequence[np.ndarray], temperature: float) -> float:
    """Entropy over its largest value, mean over edges. A row has its maximum at 0."""
    entropies = []
    for row in rows:
        weights = np.exp(row / temperature)
        p = weights / weights.sum()
        entropies.append(-float(p @ np.log(np.maximum(p, 1e-300))) / np.log(len(row)))
    return float(np.mean(entropies))


def mean_distribution(distributions: Sequence[Distribution]) -> Distribution:
    """The mean of the log-probabilities (a product of experts); decoding does not need it normalised."""
    first = distributions[0]
    ops = {
        t: tuple(np.mean(np.stack(edge), axis=0) for edge in zip(*(d.ops[t] for d in distributions), strict=True))
        for t in CELL_TYPES
    }
    pairs = {
        t: tuple(np.mean(np.stack(node), axis=0) for node in zip(*(d.pairs[t] for d in distributions), strict=True))
        for t in CELL_TYPES
    }
    gates = tuple(np.mean(np.stack(gate), axis=0) for gate in zip(*(d.gates for d in distributions), strict=True))
    depths = [d.depth for d in distributions if d.depth is not None]
    return replace(first, ops=ops, pairs=pairs, gates=gates, depth=np.mean(np.stack(depths), axis=0) if depths else None)


def perturb(distribution: Distribution, stray: float, rng: np.random.Generator) -> Distribution:
    """Gumbel noise of scale `stray` on every choice: the decoding then is a sample around what was learnt
    (perturb-and-MAP, Papandreou 2011, sec. 3); with 0 it is the most likely genotype itself."""
    ops = {t: tuple(edge + stray * rng.gumbel(size=edge.shape) for edge in distribution.ops[t]) for t in CELL_TYPES}
    pairs = {t: tuple(node + stray * rng.gumbel(size=node.shape) for node in distribution.pairs[t]) for t in CELL_TYPES}
    gates = tuple(gate + stray * rng.logistic(size=gate.shape) for gate in distribution.gates)
    depth = distribution.depth
    if depth is not None:
        depth = depth + stray * rng.gumbel(size=depth.shape)
    return replace(distribution, ops=ops, pairs=pairs, gates=gates, depth=depth)
