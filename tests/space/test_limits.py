"""Decoding under limits on parameters, MACs and latency, against an enumeration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from random_distributions import random_distribution

from thrifty.space.cost import Costs, count, count_macs
from thrifty.space.genotype import Genotype
from thrifty.space.limits import Limits, decode_within, smallest_within
from thrifty.space.schema import load_space
from thrifty.space.size import all_genotypes

PATCH = (32, 48)
COSTS = Costs(load_space("tiny"), 4, 3, 1, 2)


@pytest.fixture(scope="module")
def genotypes() -> list[Genotype]:
    return list(all_genotypes(COSTS.space, COSTS.width, COSTS.levels, COSTS.channels, COSTS.classes))


@pytest.fixture(scope="module")
def sizes(genotypes: Sequence[Genotype]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([count(g) for g in genotypes]), np.array([count_macs(g, PATCH) for g in genotypes])


def test_a_price_adds_the_parameters_to_the_macs(genotypes: Sequence[Genotype]) -> None:
    priced = replace(COSTS, patch=PATCH, price=7)
    assert priced.smallest() == min(count_macs(g, PATCH) + 7 * count(g) for g in genotypes)
    assert priced.largest() == max(count_macs(g, PATCH) + 7 * count(g) for g in genotypes)


def test_decoding_keeps_both_limits_and_is_nearly_the_most_likely(
    genotypes: Sequence[Genotype], sizes: tuple[np.ndarray, np.ndarray]
) -> None:
    """Exact for most pairs of limits; where it is not, among the most likely 2 % of what keeps both."""
    parameters, macs = sizes
    rng, exact, tried, share = np.random.default_rng(0), 0, 0, []
    for low, high in ((0.1, 0.5), (0.5, 0.1), (0.3, 0.3), (0.05, 0.05), (0.9, 0.2), (0.02, 1.0)):
        for _ in range(2):
            learnt = random_distribution(COSTS.space, 3, rng)
            limits = Limits(int(np.quantile(parameters, low)), int(np.quantile(macs, high)), PATCH)
            fits = np.flatnonzero((parameters <= limits.parameters) & (macs <= limits.macs))
            log_p = np.array([learnt.log_prob(genotypes[k]) for k in fits])
            found = decode_within(learnt, COSTS, limits, COSTS.paths(), genotypes[fits[0]])
            assert count(found) <= limits.parameters and count_macs(found, PATCH) <= limits.macs
            tried, exact = tried + 1, exact + (learnt.log_prob(found) >= log_p.max() - 1e-9)
            share.append(float((log_p > learnt.log_prob(found) + 1e-9).mean()))
    assert exact >= 0.6 * tried
    assert max(share) <= 0.02


def test_both_limits_bind_somewhere(genotypes: Sequence[Genotype], sizes: tuple[np.ndarray, np.ndarray]) -> None:
    """The test above is not one of a single limit: with these limits neither decoding alone keeps the other one."""
    parameters, macs = sizes
    assert abs(np.corrcoef(parameters, macs)[0, 1]) < 0.97
    limits = Limits(int(np.quantile(parameters, 0.3)), int(np.quantile(macs, 0.3)), PATCH)
    assert ((parameters <= limits.parameters) & (macs > limits.macs)).any()
    assert ((parameters > limits.parameters) & (macs <= limits.macs)).any()


@pytest.mark.parametrize("quantile", [0.0, 0.01, 0.1])
def test_paths_that_fit_have_a_network_that_does(
    quantile: float, genotypes: Sequence[Genotype], sizes: tuple[np.ndarray, np.ndarray]
) -> None:
    parameters, macs = sizes
    limits = Limits(int(np.quantile(parameters, quantile)), int(np.quantile(macs, quantile)), PATCH)
    for path in COSTS.paths():
        mine = np.array([g.path == path for g in genotypes])
        found = smallest_within(COSTS, limits, path)
        possible = (mine & (parameters <= limits.parameters) & (macs <= limits.macs)).any()
        assert (found is not None) == possible
        if found is not None:
            assert found.path == path and limits.allow(found)


def test_a_limit_on_parameters_alone_is_the_exact_decoding(
    genotypes: Sequence[Genotype], sizes: tuple[np.ndarray, np.ndarray]
) -> None:
    parameters, _ = sizes
    learnt = random_distribution(COSTS.space, 3, np.random.default_rng(5))
    budget = int(np.quantile(parameters, 0.2))
    best = max((g for g, n in zip(genotypes, parameters, strict=True) if n <= budget), key=learnt.log_prob)
    found = decode_within(learnt, COSTS, Limits(budget), COSTS.paths(), genotypes[0])
    assert learnt.log_prob(found) == pytest.approx(learnt.log_prob(best), abs=1e-9)


def test_what_is_too_slow_is_decoded_again_under_fewer_macs(
    genotypes: Sequence[Genotype], sizes: tuple[np.ndarray, np.ndarray]
) -> None:
    """A machine on which a network takes a millisecond and one for every 10,000 MACs."""
    _, macs = sizes
    measured: list[Genotype] = []

    def measure(genotype: Genotype) -> float:
        measured.append(genotype)
        return 1.0 + count_macs(genotype, PATCH) / 10_000

    limit = 1.0 + float(np.quantile(macs, 0.2)) / 10_000
    limits = Limits(10_000, None, PATCH, limit, measure)
    slow = 0
    for seed in range(6):
        learnt = random_distribution(COSTS.space, 3, np.random.default_rng(seed))
        fallback = genotypes[int(macs.argmin())]
        measured.clear()
        found = decode_within(learnt, COSTS, limits, COSTS.paths(), fallback)
        assert 1.0 + count_macs(found, PATCH) / 10_000 <= limit
        assert found != fallback
        slow += measured[0] != found
    assert slow >= 3
    assert limits.excess(fallback) == {"parameters": count(fallback) - 10_000, "latency_ms": measure(fallback) - limit}


def test_where_all_is_too_slow_the_fallback_is_taken(genotypes: Sequence[Genotype]) -> None:
    limits = Limits(10_000, None, PATCH, 1.0, lambda genotype: 0.5 if genotype == genotypes[3] else 50.0)
    learnt = random_distribution(COSTS.space, 3, np.random.default_rng(0))
    assert decode_within(learnt, COSTS, limits, COSTS.paths(), genotypes[3]) == genotypes[3]
    assert not limits.keep(genotypes[4]) and limits.keep(genotypes[3])
