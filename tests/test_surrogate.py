"""The additive model of scores, and what the exact decoder makes of it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from thrifty.space.cost import Costs, count
from thrifty.space.decode import decode
from thrifty.space.genotype import Genotype
from thrifty.space.path import Depth
from thrifty.space.schema import load_space
from thrifty.space.size import all_genotypes
from thrifty.surrogate import Terms, fit


def some_genotypes(costs: Costs, every: int) -> list[Genotype]:
    c = costs
    found = all_genotypes(c.space, c.width, c.levels, c.channels, c.classes, c.depth)
    return list(itertools.islice(found, 0, None, every))


@pytest.mark.parametrize(("levels", "depth"), [(3, "fixed"), (4, "searched")])
def test_the_decoder_maximises_the_sum_of_the_terms(levels: int, depth: Depth) -> None:
    """Against the largest sum over an enumeration, under a budget; terms of paths of every depth count too."""
    costs = Costs(load_space("tiny"), 4, levels, 1, 2, depth=depth)
    terms, rng = Terms(costs), np.random.default_rng(0)
    genotypes = some_genotypes(costs, 1 if levels == 3 else 7)
    features, sizes = np.stack([terms.of(g) for g in genotypes]), np.array([count(g) for g in genotypes])
    for budget in np.quantile(sizes, [0.1, 0.4, 1.0]).astype(int):
        value = rng.normal(size=len(terms))
        found = decode(terms.distribution(value), costs, int(budget)).genotype
        best = (features @ value)[sizes <= budget].max()
        assert count(found) <= budget
        assert terms.of(found) @ value >= best - 1e-6
        if levels == 3:  # all of them were listed
            assert terms.of(found) @ value == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("depth", ["fixed", "searched"])
def test_log_probability_is_the_sum_of_the_terms_up_to_a_constant(depth: Depth) -> None:
    costs = Costs(load_space("tiny"), 4, 4, 1, 2, depth=depth)
    terms = Terms(costs)
    value = np.random.default_rng(1).normal(size=len(terms))
    learnt = terms.distribution(value)
    apart = [learnt.log_prob(g) - terms.of(g) @ value for g in some_genotypes(costs, 211)]
    if depth == "fixed":
        np.testing.assert_allclose(apart, apart[0], atol=1e-9)
    else:
        np.testing.assert_allclose(apart, 0.0, atol=1e-9)


def test_choices_that_are_worth_something_are_found_from_few_scores() -> None:
    costs = Costs(load_space("tiny"), 4, 3, 1, 2)
    terms, rng = Terms(costs), np.random.default_rng(2)
    genotypes = some_genotypes(costs, 1)
    truth = np.stack([terms.of(g) for g in genotypes]) @ rng.normal(size=len(terms))
    seen = rng.choice(len(genotypes), 40, replace=False)
    model = fit(terms, [genotypes[k] for k in seen], [float(truth[k]) for k in seen])
    best = decode(model.draw(0.0, rng), costs).genotype
    assert truth[genotypes.index(best)] >= np.quantile(truth, 0.999)


def test_fewer_scores_leave_more_doubt() -> None:
    costs = Costs(load_space("tiny"), 4, 3, 1, 2)
    terms, rng = Terms(costs), np.random.default_rng(3)
    genotypes = some_genotypes(costs, 37)
    scores = [5 * float(terms.of(g)[-1]) + float(rng.normal()) for g in genotypes]
    few, many = (fit(terms, genotypes[:number], scores[:number]) for number in (10, 100))
    assert np.trace(few.root @ few.root.T) > np.trace(many.root @ many.root.T)
    first, second = (many.draw(0.0, np.random.default_rng(seed)).ops["down"][0] for seed in (1, 2))
    np.testing.assert_array_equal(first, second)
    first, second = (many.draw(1.0, np.random.default_rng(seed)).ops["down"][0] for seed in (1, 2))
    assert (first != second).all()


def test_scores_that_are_all_equal_are_no_error() -> None:
    costs = Costs(load_space("tiny"), 4, 3, 1, 2)
    genotypes = some_genotypes(costs, 500)
    model = fit(Terms(costs), genotypes, [0.5] * len(genotypes))
    assert np.isfinite(model.mean).all() and np.isfinite(model.root).all()
    decode(model.draw(1.0, np.random.default_rng(0)), costs)
