"""How many retraining seeds it takes to tell two networks apart: the power of the two-sample t test (noncentral t).

Source: Cohen, "Statistical Power Analysis for the Behavioral Sciences", 2nd ed. (1988), chapter 2.
"""

from __future__ import annotations

import math
from typing import Any

ALPHA = 0.05
POWER = 0.8
PRIOR_SD = 0.01  # over seeds: the root mean square of the searched and random networks of tune_runs/results/dsb2018
MOST = 100_000
FAR = 5.0  # noncentrality from which the other tail has less than 1e-6, and scipy no value at times
SURE = 30.0  # noncentrality from which the power is 1 to all digits


def power(difference: float, sd: float, seeds: int, alpha: float = ALPHA) -> float:
    """P(a two-sided test at `alpha` tells two networks apart whose Dice differ by `difference`).

    Args:
        difference: of the true means, in Dice.
        sd: over seeds, of either network, in Dice; above 0.
        seeds: of each of the two, at least 2.
    """
    from scipy.stats import nct, t

    shift = abs(difference) / sd * math.sqrt(seeds / 2)
    if shift >= SURE:
        return 1.0
    freedom = 2 * seeds - 2
    critical = t.isf(alpha / 2, freedom)
    lower = nct.cdf(-critical, freedom, shift) if shift < FAR else 0.0
    return float(nct.sf(critical, freedom, shift) + lower)


def seeds_needed(difference: float, sd: float, wanted: float = POWER) -> int | None:
    """The fewest seeds of each network with at least the power `wanted`, at least 2; None for more than 100,000."""
    if sd <= 0:
        return 2
    high = 2
    while power(difference, sd, high) < wanted:
        high *= 2
        if high > MOST:
            return None
    low = high // 2  # too few, or 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(difference, sd, middle) >= wanted else (middle, high)
    return high


def detectable(sd: float, seeds: int, wanted: float = POWER) -> float | None:
    """The smallest difference in Dice that `seeds` of each network tell with the power `wanted`; None for one seed."""
    from scipy.optimize import brentq

    if seeds < 2:
        return None
    if sd <= 0:
        return 0.0
    ratio: Any = brentq(lambda ratio: power(ratio, 1.0, seeds) - wanted, 1e-6, SURE * math.sqrt(2 / seeds))
    return sd * float(ratio)
