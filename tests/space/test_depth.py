"""Spaces whose depth is searched: distribution, decoding, sizes and random genotypes over networks of 2 to 4 levels."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from random_distributions import random_distribution

from thrifty.errors import ThriftyError
from thrifty.space.cost import Costs, count
from thrifty.space.decode import decode
from thrifty.space.distribution import Distribution, from_logits, uniform
from thrifty.space.genotype import CELL_TYPES, Genotype, check
from thrifty.space.path import levels_of
from thrifty.space.sample import random_genotype
from thrifty.space.schema import load_space
from thrifty.space.size import all_cells, all_genotypes, number_of_genotypes

TINY = Costs(load_space("tiny"), 6, 4, 1, 2, depth="searched")
PATHS = [(), (0,), (1,), (0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


@functools.cache
def everything() -> tuple[tuple[Genotype, ...], np.ndarray]:
    """All genotypes of every depth, in canonical order, and their sizes."""
    found = tuple(all_genotypes(TINY.space, 6, 4, 1, 2, "searched"))
    return found, np.array([count(g) for g in found])


def log_path(distribution: Distribution, path: tuple[int, ...]) -> float:
    """By hand: the last diagonal, then of every diagonal before it the gates that are open and the one that is closed."""
    total = distribution.depth[len(path)]
    for gate, kept in zip(distribution.gates, path, strict=False):
        p = 1 / (1 + np.exp(-gate))
        total += np.log(p[:kept]).sum() + (np.log(1 - p[kept]) if kept < len(gate) else 0)
    return float(total)


def log_probs(distribution: Distribution) -> np.ndarray:
    """log P of every genotype, in canonical order."""
    paths = np.array([log_path(distribution, path) for path in PATHS])
    cells = {t: all_cells(TINY.space, t) for t in CELL_TYPES}
    shape = (6, 2, 1, 2, "tiny", TINY.space.frame)
    both = np.array([[distribution.log_prob(Genotype(d, u, (), *shape)) for u in cells["up"]] for d in cells["down"]])
    return (paths[:, None, None] + both - log_path(distribution, ())).ravel()


def test_all_genotypes_of_every_depth() -> None:
    genotypes, sizes = everything()
    assert list(dict.fromkeys(g.path for g in genotypes)) == PATHS == TINY.paths()
    assert len(set(genotypes)) == len(genotypes) == number_of_genotypes(TINY.space, 4, "searched")
    assert {g.levels for g in genotypes} == {2, 3, 4} and all(check(g).levels == levels_of(g.path) for g in genotypes)
    assert (TINY.smallest(), TINY.largest()) == (sizes.min(), sizes.max())
    for path in PATHS:
        assert TINY.smallest_of_path(path) == min(s for g, s in zip(genotypes, sizes, strict=True) if g.path == path)


def test_log_prob_is_that_of_the_definition_and_sums_to_one() -> None:
    distribution = random_distribution(TINY.space, 4, np.random.default_rng(4), depth="searched")
    values = log_probs(distribution)
    assert np.exp(values).sum() == pytest.approx(1, abs=1e-9)
    for place in range(0, len(values), 997):
        assert distribution.log_prob(everything()[0][place]) == pytest.approx(values[place], abs=1e-12)


def test_decoding_is_exact_over_all_depths() -> None:
    """Against brute force over all 20,736 genotypes, for 40 random distributions and budgets."""
    genotypes, sizes = everything()
    index, rng, levels = {g: i for i, g in enumerate(genotypes)}, np.random.default_rng(1), set()
    for _ in range(40):
        distribution = random_distribution(TINY.space, 4, rng, depth="searched")
        values, budget = log_probs(distribution), int(rng.integers(sizes.min(), sizes.max() + 1))
        found = decode(distribution, TINY, budget)
        best = np.where(sizes <= budget, values, -np.inf).max()
        assert found.log_p == pytest.approx(best, abs=1e-9)
        assert values[index[found.genotype]] == pytest.approx(best, abs=1e-9)
        assert found.parameters == count(found.genotype) <= budget
        levels.add(found.genotype.levels)
    assert levels == {2, 3, 4}


def test_ties_are_resolved_as_brute_force_does() -> None:
    """Logits of 0 and 1 only, and depths that make up for the cost in likelihood of a longer path: log P, size, order."""
    genotypes, sizes = everything()
    rng = np.random.default_rng(6)
    for _ in range(20):
        sources = [s for k in range(2) for s in range(k + 2)]
        alpha = {t: [rng.integers(0, 2, 2).astype(float) for _ in sources] for t in CELL_TYPES}
        beta = {t: [rng.integers(0, 2, k + 2).astype(float) for k in range(2)] for t in CELL_TYPES}
        depth = np.log([1, 2, 4])  # with gates half open every path of 0 and (1,) is as likely as any other of them
        distribution = from_logits(TINY.space, 4, alpha, beta, [np.zeros(1), np.zeros(2)], depth)
        values, budget = np.round(log_probs(distribution), 9), int(rng.integers(sizes.min(), sizes.max() + 1))
        fits = np.flatnonzero(sizes <= budget)
        best = fits[np.lexsort((fits, sizes[fits], -values[fits]))[0]]
        assert decode(distribution, TINY, budget).genotype == genotypes[best]


@pytest.mark.parametrize("name", ["thrifty", "paper"])
def test_large_spaces_stay_within_the_budget(name: str) -> None:
    costs, rng = Costs(load_space(name), 8, 5, 1, 2, depth="searched"), np.random.default_rng(2)
    distribution = random_distribution(costs.space, 5, rng, depth="searched")
    before = -np.inf
    for budget in np.linspace(costs.smallest(), costs.largest(), 5).astype(int):
        found = decode(distribution, costs, int(budget))
        assert found.parameters == count(check(found.genotype)) <= budget
        assert found.log_p == pytest.approx(distribution.log_prob(found.genotype), abs=1e-9)
        assert found.log_p >= before
        before = found.log_p


def test_a_budget_below_the_smallest_network_of_any_depth_names_its_size() -> None:
    distribution = uniform(TINY.space, 4, "searched")
    with pytest.raises(ThriftyError, match=f"with 2 to 4 levels, which has {TINY.smallest():,}"):
        decode(distribution, TINY, TINY.smallest() - 1)
    with pytest.raises(ThriftyError, match=f"with 2 to 4 levels, which has {TINY.smallest():,}"):
        TINY.check_budget(TINY.smallest() - 1)
    assert decode(distribution, TINY, TINY.smallest()).genotype.levels == 2
    assert TINY.smallest() < replace(TINY, depth="fixed").smallest()


def test_file_there_and_back() -> None:
    distribution = random_distribution(TINY.space, 4, np.random.default_rng(5), depth="searched")
    again = Distribution.from_json(TINY.space, distribution.as_json())
    assert decode(again, TINY, 3000) == decode(distribution, TINY, 3000)
    np.testing.assert_array_equal(again.depth, distribution.depth)
    old = {key: value for key, value in uniform(TINY.space, 4).as_json().items() if key != "depth"}
    assert Distribution.from_json(TINY.space, old).depth is None


def test_random_genotypes_have_every_path_equally_often() -> None:
    """So every labelled genotype is as likely as any other, whatever its depth."""
    rng, number = np.random.default_rng(0), 1800
    drawn = [check(random_genotype(TINY.space, 6, 4, 1, 2, rng, depth="searched")) for _ in range(number)]
    paths = Counter(g.path for g in drawn)
    p = 1 / len(PATHS)
    for path in PATHS:
        assert abs(paths[path] / number - p) < 4 * np.sqrt(p * (1 - p) / number)


def test_random_genotypes_of_a_range_are_met_at_every_depth() -> None:
    low, high = 1500, 1800
    rng = np.random.default_rng(0)
    drawn = [random_genotype(TINY.space, 6, 4, 1, 2, rng, low, high, "searched") for _ in range(60)]
    assert all(low <= count(g) <= high for g in drawn)
    assert {g.levels for g in drawn} == {2, 3, 4}


def test_number_of_genotypes_by_hand() -> None:
    """As in test_cost.py: cells down * cells up * 33 cell paths."""
    down, up = 36 * (36 + 2 * 30) * (36 + 4 * 30 + 25), 25 * (3 * 25) * (6 * 25)
    assert number_of_genotypes(load_space("thrifty"), 5, "searched") == down * up * 33
