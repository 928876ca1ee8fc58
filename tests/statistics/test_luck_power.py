"""Luck against simulation, power against Cohen's tables and simulated t tests."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ttest_ind

from thrifty.statistics.luck import at_least_one, draws_of_equal_cost, luck
from thrifty.statistics.power import detectable, power, seeds_needed


def test_luck_is_what_a_simulated_random_search_does() -> None:
    random = [0.80, 0.81, 0.82, 0.83, 0.84]
    found = luck([0.835, 0.845], random, draws=6)
    rng = np.random.default_rng(0)
    best = rng.normal(np.mean(random), np.std(random, ddof=1), (100_000, 6)).max(axis=1)
    assert found.probability == pytest.approx((best >= 0.84).mean(), abs=0.006)
    assert found.p_empirical == 0.2 and found.random == 5 and found.draws == 6
    assert found.ci95 is not None and found.ci95[0] < found.probability < found.ci95[1]
    assert luck([0.835, 0.845], random, draws=6) == found, "the same numbers each time"


def test_closed_formula() -> None:
    assert at_least_one(0.5, 1) == 0.5 and at_least_one(0.1, 3) == pytest.approx(1 - 0.9**3)
    assert luck([0.82], [0.80, 0.82, 0.84], 1).p == pytest.approx(0.5), "the found one is as good as their mean"


def test_luck_where_there_is_no_spread_or_too_few() -> None:
    assert luck([0.9], [0.8, 0.8, 0.8], 5).probability == 0.0
    even = luck([0.8], [0.8, 0.8, 0.8], 5)
    assert even.probability == 1.0 and even.ci95 == [1.0, 1.0]
    few = luck([0.8], [0.7, 0.9], 5)
    assert (few.probability, few.ci95, few.p_empirical) == (None, None, 0.5)


def test_equal_cost() -> None:
    assert draws_of_equal_cost(100.0, 30.0) == 3
    assert draws_of_equal_cost(10.0, 30.0) == 1 and draws_of_equal_cost(10.0, 0.0) == 1


@pytest.mark.parametrize(("effect", "seeds"), [(0.2, 394), (0.5, 64), (0.8, 26), (1.0, 17), (1.4, 10)])
def test_seeds_are_those_of_cohens_table(effect: float, seeds: int) -> None:
    """Cohen 1988, table 2.4.1 (two-sided 0.05, power 0.80), there rounded, here always up (393.4, 63.8, 25.5, 16.7, 9.1)."""
    assert seeds_needed(effect * 0.01, 0.01) == seeds


def test_power_is_the_share_of_significant_t_tests() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (20_000, 4)), rng.normal(1.8, 1, (20_000, 4))
    assert power(1.8, 1.0, 4) == pytest.approx((ttest_ind(a, b, axis=1).pvalue < 0.05).mean(), abs=0.015)
    assert power(0.0, 1.0, 4) == pytest.approx(0.05)


def test_detectable_difference_is_the_inverse() -> None:
    for seeds in (2, 3, 10, 200):
        least = detectable(0.02, seeds)
        assert least is not None and power(least, 0.02, seeds) == pytest.approx(0.8, abs=1e-6)
        assert seeds_needed(least * 1.001, 0.02) == seeds
    assert detectable(0.02, 1) is None and detectable(0.0, 3) == 0.0


def test_power_at_the_ends() -> None:
    assert power(1.0, 1e-6, 2) == 1.0 and not math.isnan(power(0.29, 0.01, 2))
    assert seeds_needed(1e-6, 0.1) is None and seeds_needed(0.01, 0.0) == 2
