from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from random_distributions import random_distribution

from thrifty.errors import ThriftyError
from thrifty.space.cost import Costs, count
from thrifty.space.decode import decode
from thrifty.space.distribution import Distribution, from_logits, uniform
from thrifty.space.genotype import CELL_TYPES, Cell, CellType, Genotype, check
from thrifty.space.schema import load_space
from thrifty.space.size import all_cells, all_genotypes

TINY = Costs(load_space("tiny"), 6, 3, 1, 2)


@functools.cache
def everything() -> tuple[tuple[Genotype, ...], np.ndarray]:
    """All genotypes of tiny at three levels, in canonical order, and their sizes."""
    found = tuple(all_genotypes(TINY.space, TINY.width, TINY.levels, TINY.channels, TINY.classes))
    return found, np.array([count(g) for g in found])


def log_probs(distribution: Distribution) -> np.ndarray:
    """log P of every genotype, in canonical order, straight from the definition: path, then down cell, then up cell."""
    paths = np.array([distribution.log_path(path) for path in TINY.space.paths(3)])
    cells = [np.array([log_cell(distribution, t, cell) for cell in all_cells(TINY.space, t)]) for t in CELL_TYPES]
    return (paths[:, None, None] + cells[0][None, :, None] + cells[1][None, None, :]).ravel()


def log_cell(distribution: Distribution, cell_type: CellType, cell: Cell) -> float:
    total, first_edge = 0.0, 0
    for k, (a, b) in enumerate(cell.nodes):
        pairs = list(itertools.combinations(range(k + 2), 2))
        total += distribution.pairs[cell_type][k][pairs.index((a.source, b.source))]
        for edge in (a, b):
            op = TINY.space.ops_of(cell_type, edge.source).index(edge.op)
            total += distribution.ops[cell_type][first_edge + edge.source][op]
        first_edge += k + 2
    return float(total)


def test_log_prob_is_the_sum_of_its_parts() -> None:
    distribution = random_distribution(TINY.space, 3, np.random.default_rng(4))
    values = log_probs(distribution)
    for place in range(0, len(values), 97):
        assert distribution.log_prob(everything()[0][place]) == pytest.approx(values[place], abs=1e-12)


def test_probabilities_sum_to_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(3):
        assert np.exp(log_probs(random_distribution(TINY.space, 3, rng))).sum() == pytest.approx(1, abs=1e-9)


def test_pairs_are_the_conditional_bernoulli_distribution() -> None:
    """Independent inclusion with odds exp(b), conditioned on exactly two, by enumerating all subsets."""
    from thrifty.space.distribution import log_pairs, pairs_of

    beta = np.random.default_rng(0).normal(size=4)
    p = 1 / (1 + np.exp(-beta))
    subsets = {pair: np.prod([p[i] if i in pair else 1 - p[i] for i in range(4)]) for pair in pairs_of(2)}
    expected = np.array(list(subsets.values())) / sum(subsets.values())
    np.testing.assert_allclose(np.exp(log_pairs(beta)), expected, atol=1e-12)


def test_decoding_is_exact_on_tiny() -> None:
    """Against brute force over all 4,608 genotypes, for 200 random distributions and budgets."""
    genotypes, sizes = everything()
    rng = np.random.default_rng(1)
    index = {g: i for i, g in enumerate(genotypes)}
    for _ in range(200):
        distribution = random_distribution(TINY.space, 3, rng)
        values = log_probs(distribution)
        budget = int(rng.integers(sizes.min(), sizes.max() + 1))
        found = decode(distribution, TINY, budget)
        best = np.where(sizes <= budget, values, -np.inf).max()
        assert found.log_p == pytest.approx(best, abs=1e-9)
        assert values[index[found.genotype]] == pytest.approx(best, abs=1e-9)
        assert found.parameters == count(found.genotype) <= budget
        assert decode(distribution, TINY).log_p == pytest.approx(values.max(), abs=1e-9)


def test_ties_go_to_the_smaller_then_to_canonical_order() -> None:
    """All genotypes equally likely, with gates half open: of the most likely ones the smallest, of those the first."""
    genotypes, sizes = everything()
    distribution = uniform(TINY.space, 3)
    values = np.round(log_probs(distribution), 9)
    top = np.flatnonzero(values == values.max())
    smallest = top[sizes[top] == sizes[top].min()]
    assert len(smallest) > 1
    assert decode(distribution, TINY).genotype == genotypes[smallest[0]]


def test_ties_are_resolved_as_brute_force_does() -> None:
    """Logits of 0 and 1 only, so that many genotypes are equally likely: log P, then size, then canonical order."""
    genotypes, sizes = everything()
    rng = np.random.default_rng(6)
    for _ in range(100):
        sources = [s for k in range(2) for s in range(k + 2)]
        alpha = {t: [rng.integers(0, 2, 2).astype(float) for _ in sources] for t in CELL_TYPES}
        beta = {t: [rng.integers(0, 2, k + 2).astype(float) for k in range(2)] for t in CELL_TYPES}
        distribution = from_logits(TINY.space, 3, alpha, beta, [np.zeros(1)])
        values, budget = np.round(log_probs(distribution), 9), int(rng.integers(sizes.min(), sizes.max() + 1))
        fits = np.flatnonzero(sizes <= budget)
        best = fits[np.lexsort((fits, sizes[fits], -values[fits]))[0]]
        assert decode(distribution, TINY, budget).genotype == genotypes[best]


def test_only_the_paths_asked_for() -> None:
    distribution = random_distribution(TINY.space, 4, np.random.default_rng(3))
    costs = Costs(TINY.space, 6, 4, 1, 2)
    for path in TINY.space.paths(4):
        assert decode(distribution, costs, None, [path]).genotype.path == path


@pytest.mark.parametrize("name", ["thrifty", "paper", "nas_unet"])
def test_large_spaces_stay_within_the_budget(name: str) -> None:
    """Every budget from the smallest network up; with more room the best gets no less likely; no 'none' (check refuses it)."""
    space, rng = load_space(name), np.random.default_rng(2)
    costs = Costs(space, 8, 5, 1, 2)
    low, high = costs.smallest(), costs.largest()
    for _ in range(5):
        distribution = random_distribution(space, 5, rng)
        before = -np.inf
        for budget in np.linspace(low, high, 7).astype(int):
            found = decode(distribution, costs, int(budget))
            assert found.parameters == count(check(found.genotype)) <= budget
            assert found.log_p == pytest.approx(distribution.log_prob(found.genotype), abs=1e-9)
            assert found.log_p >= before
            before = found.log_p


def test_a_budget_below_the_smallest_network_names_that_size() -> None:
    with pytest.raises(ThriftyError, match=f"{TINY.smallest():,}"):
        decode(uniform(TINY.space, 3), TINY, TINY.smallest() - 1)
    assert decode(uniform(TINY.space, 3), TINY, TINY.smallest()).parameters == TINY.smallest()


def test_file_there_and_back() -> None:
    """'none' has no probability, and stays without."""
    space = load_space("paper")
    distribution = random_distribution(space, 4, np.random.default_rng(5))
    again = Distribution.from_json(space, distribution.as_json())
    costs = Costs(space, 8, 4, 1, 2)
    assert decode(again, costs, 40_000) == decode(distribution, costs, 40_000)
