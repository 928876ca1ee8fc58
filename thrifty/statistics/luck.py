"""How likely a random search of equal cost does at least as well as the found network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

RESAMPLES = 9999
EQUAL = 1e-12  # sd up to which values count as equal
FEWEST = 3  # random genotypes below which their spread says too little


@dataclass(frozen=True)
class Luck:
    """`draws`: random genotypes that the cost of the search would train. `p`: that one of them does at least as well, by the
    normal distribution of the random Dice; `p_empirical`: the share that did. `probability`: 1 - (1 - p)^draws."""

    random: int
    draws: int
    p: float | None
    p_empirical: float
    probability: float | None
    ci95: list[float] | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def luck(found: Sequence[float], random: Sequence[float], draws: int) -> Luck:
    """
    Args:
        found: Dice of the found network, one for each retraining seed; their mean is what has to be reached.
        random: mean Dice of each random genotype, at least one.
        draws: random genotypes that a random search of equal cost trains.

    The random genotypes are taken as independent draws from a normal distribution, and the best of them as known: a real
    random search has to choose by its selection cases and so does a little worse. The interval is the 2.5 to 97.5 % range over
    resamples of random genotypes and of the found network's seeds; none for fewer than 3 random genotypes.
    """
    mine, theirs = np.asarray(found, dtype=np.float64), np.asarray(random, dtype=np.float64)
    empirical = float((theirs >= mine.mean()).mean())
    if len(theirs) < FEWEST:
        return Luck(len(theirs), draws, None, empirical, None, None)
    p = float(_exceeds(mine.mean(), theirs))
    rng = np.random.default_rng(0)
    drawn = rng.choice(theirs, (RESAMPLES, len(theirs)))
    bars = rng.choice(mine, (RESAMPLES, len(mine))).mean(axis=1)
    low, high = np.quantile(at_least_one(_exceeds(bars, drawn), draws), [0.025, 0.975])
    return Luck(len(theirs), draws, p, empirical, float(at_least_one(p, draws)), [float(low), float(high)])


def at_least_one(p: Any, draws: int) -> Any:
    """1 - (1 - p)^draws: that at least one of independent draws does what each does with probability `p`."""
    return 1 - (1 - p) ** draws


def _exceeds(bar: Any, values: np.ndarray) -> Any:
    """P(a normal variable with mean and sd of `values`, along the last axis, is at least `bar`)."""
    from scipy.stats import norm

    mean, sd = values.mean(axis=-1), values.std(axis=-1, ddof=1)
    tail = norm.sf((bar - mean) / np.where(sd > EQUAL, sd, 1.0))
    return np.where(sd > EQUAL, tail, bar <= mean + EQUAL)  # where all are equal: all are at least as good, or none is


def draws_of_equal_cost(spent: float, training: float) -> int:
    """Random genotypes that can be trained for what searching and selecting have cost, at least one; both in the same unit."""
    return max(1, int(spent / training)) if training > 0 else 1
