"""From chosen values to genotypes, and the whole study of one budget with look-ups as scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from random_distributions import random_distribution

from thrifty.config import Select
from thrifty.pool import Origin, Pooled
from thrifty.proposals import FREE, FRONT, MEAN, POOL, SCORES, Chosen, Group, History, flatten, propose
from thrifty.selection import Asked, search_budget, starts
from thrifty.space.cost import Costs, count, count_macs
from thrifty.space.decode import decode
from thrifty.space.distribution import uniform
from thrifty.space.genotype import canonical_json, genotype_hash
from thrifty.space.limits import Limits
from thrifty.space.sample import random_genotype
from thrifty.space.schema import load_space
from thrifty.space.size import all_genotypes
from thrifty.surrogate import Terms

TINY = load_space("tiny")
PATCH = (48, 48)


def group_of(budget: int, width: int = 8, levels: int = 3, searches: int = 2, limits: Limits | None = None) -> Group:
    costs = Costs(TINY, width, levels, 3, 2)
    learnt = {f"s{k}": random_distribution(TINY, levels, np.random.default_rng([width, k])) for k in range(searches)}
    genotypes = {
        g: None for k in range(5) for g in [random_genotype(TINY, width, levels, 3, 2, np.random.default_rng([width, k]))]
    }
    pool = [Pooled(g, genotype_hash(g), count(g), (Origin("s0", budget, (9 - k,), k),)) for k, g in enumerate(genotypes)]
    return Group(budget, costs, learnt, {}, tuple(sorted(pool, key=Pooled.rank)), limits)


def by_size(asked: Sequence[Asked]) -> list[float]:
    """A score that is quick: the more parameters the better, but for a part that the hash decides."""
    return [1 - 1000 / count(one.genotype) + int(genotype_hash(one.genotype)[:4], 16) / 2**20 for one in asked]


def run(settings: Select, groups: Sequence[Group], score: Callable[[Sequence[Asked]], list[float]] = by_size) -> list[Asked]:
    every: list[Asked] = []

    def scored(asked: Sequence[Asked]) -> list[float]:
        every.extend(asked)
        return score(asked)

    search_budget(settings, groups, scored)
    return every


@pytest.mark.parametrize("source", ["s0", MEAN, SCORES, FRONT, POOL])
def test_every_source_keeps_all_limits(source: str) -> None:
    macs = Costs(TINY, 8, 3, 3, 2, PATCH)
    limits = Limits(3000, (macs.smallest() + macs.largest()) // 3, PATCH)
    group, history = group_of(3000, limits=limits), History()
    for k, g in enumerate(all_genotypes(TINY, 8, 3, 3, 2)):
        if k % 400 == 0:
            history.add(group.shape, g, k / 5000)  # also what is above the limits; the front must not start from it unchanged
    rng = np.random.default_rng(0)
    for _ in range(6):
        size, stray = float(rng.random()), float(rng.random())
        path = [FREE, *group.paths()][int(rng.integers(1 + len(group.paths())))]
        genotype = propose(group, Chosen(group.shape, source, size, stray, path), history, rng)
        assert count(genotype) <= 3000 and count_macs(genotype, PATCH) <= limits.macs
        if source != POOL and path != FREE:
            assert genotype.path == group.paths()[path]


def test_size_is_the_share_of_the_way_from_the_smallest_to_the_budget() -> None:
    group = group_of(4000)
    least = group.costs.smallest()
    for size in (0.0, 0.3, 1.0):
        genotype = propose(group, Chosen(group.shape, "s0", size, 0.0, FREE), History(), np.random.default_rng(0))
        room = least + int(size * (4000 - least))
        assert genotype == decode(group.distributions["s0"], group.costs, room).genotype


def test_proposals_are_new_ones() -> None:
    """Straying little from a search that is sure of itself gives the same genotype again and again; known ones are left out."""
    group, history = group_of(3500), History()
    sure = replace(group, distributions={"s0": flatten(group.distributions["s0"], 0.01)})
    chosen = Chosen(group.shape, "s0", 1.0, 0.02, FREE)
    found = [propose(sure, chosen, history, np.random.default_rng(k)) for k in range(15)]
    assert len({genotype_hash(g) for g in found}) >= 14


def test_flattened_distributions_have_the_entropy_that_was_asked_for() -> None:
    for spread in (0.1, 2.0, 50.0):
        learnt = random_distribution(TINY, 4, np.random.default_rng(1), spread)
        for entropy in (0.05, 0.5, 0.95):
            flat = flatten(learnt, entropy)
            found = []
            for t in ("down", "up"):
                for edge in flat.ops[t]:
                    p = np.exp(edge - np.logaddexp.reduce(edge))
                    found.append(-(p * np.log(np.maximum(p, 1e-300))).sum() / np.log(len(p)))
            assert np.mean(found) == pytest.approx(entropy, abs=1e-3)
            assert [int(e.argmax()) for e in flat.ops["up"]] == [int(e.argmax()) for e in learnt.ops["up"]]
    assert flatten(uniform(TINY, 3), 0.2).ops["up"][0].tolist() == uniform(TINY, 3).ops["up"][0].tolist()


def test_the_study_starts_from_the_decodings_then_from_the_pool() -> None:
    group = group_of(4500)
    asked = run(Select(samples=0, pool=3), [group])
    assert len(asked) == len(list(starts([group], 3))) == 2 + 1 + 3 + 3
    for one, name in zip(asked, ("s0", "s1"), strict=False):
        assert one.genotype == decode(group.distributions[name], group.costs, 4500).genotype
        assert one.chosen == Chosen(group.shape, name, 1.0, 0.0, FREE)
    before = {genotype_hash(one.genotype) for one in asked[:6]}
    left = [entry.genotype for entry in group.pool if entry.hash not in before and count(entry.genotype) <= 4500]
    assert [one.genotype for one in asked[6:]] == left[:3]
    assert [one.chosen.source for one in asked[6:]] == [POOL] * 3


def test_the_budget_leaves_out_what_is_too_large_in_the_pool() -> None:
    budget = sorted({entry.parameters for entry in group_of(5000).pool})[-2]
    group = group_of(budget)
    fitting = [entry for entry in group.pool if entry.parameters <= budget]
    assert 0 < len(fitting) < len(group.pool)
    assert len(list(starts([group], 5))) == 2 + 1 + 3 + len(fitting)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_the_same_seed_gives_the_same_candidates_and_another_gives_others(sampler: str) -> None:
    def found(seed: int) -> list[str]:
        settings = Select.model_validate({"samples": 14, "seed": seed, "sampler": sampler})
        return [canonical_json(one.genotype) for one in run(settings, [group_of(3500)])]

    assert found(0) == found(0) != found(1)


def test_shapes_of_one_budget_are_one_study() -> None:
    """Widths 6 and 8 and another depth: each is asked for, with its own searches, and nothing is above the budget."""
    groups = [group_of(3000, 6), group_of(3000, 8), group_of(3000, 8, levels=4, searches=3)]
    asked = run(Select(samples=24, pool=4), groups)
    for one in asked:
        genotype, costs = one.genotype, one.group.costs
        assert count(genotype) <= 3000
        assert (genotype.width, genotype.levels) == (costs.width, costs.levels)
        assert one.chosen.shape == one.group.shape
        assert one.chosen.source in (*one.group.trials, MEAN, SCORES, FRONT, POOL)
        assert one.chosen.path in (FREE, *one.group.paths())
    sampled = asked[-24:]
    assert {one.group.shape for one in sampled} == {"w6_d3", "w8_d3", "w8_d4"}
    assert any(one.chosen.path != FREE for one in sampled if one.group.shape == "w8_d4")
    assert [one.number for one in asked] == list(range(len(asked)))


# -- truth: a space that is listed -------------------------------------------------------------------------------------------


class Table:
    """A value of every genotype of `tiny` at width 4: terms of its choices, and of pairs of them, so that no additive model is
    right. The searches know the terms, roughly."""

    def __init__(self) -> None:
        self.costs = Costs(TINY, 4, 3, 1, 2)
        self.genotypes = list(all_genotypes(TINY, 4, 3, 1, 2))
        terms, rng = Terms(self.costs), np.random.default_rng(7)
        features = np.stack([terms.of(g) for g in self.genotypes])
        plain, pairs = rng.normal(size=len(terms)), rng.normal(size=(len(terms), len(terms))) * 0.3
        values = features @ plain + np.einsum("ij,jk,ik->i", features, pairs, features)
        self.values = (values - values.min()) / np.ptp(values)
        self.sizes = np.array([count(g) for g in self.genotypes])
        self.places = {canonical_json(g): k for k, g in enumerate(self.genotypes)}
        learnt = {f"s{k}": terms.distribution(plain + rng.normal(size=len(terms))) for k in range(2)}
        self.group = Group(int(np.median(self.sizes)), self.costs, learnt)

    def hypervolume(self, places: Sequence[int]) -> float:
        area, best, budget = 0.0, 0.0, self.group.budget
        for place in sorted(places, key=lambda k: (self.sizes[k], -self.values[k])):
            if self.sizes[place] <= budget and self.values[place] > best:
                area += (budget - self.sizes[place]) * (self.values[place] - best)
                best = self.values[place]
        return area


def test_the_selection_finds_more_of_the_front_than_chance() -> None:
    """40 of 4,608 genotypes: over the seeds the selection has nearly all of the hypervolume, random genotypes never have."""
    table, number = Table(), 40
    feasible = np.flatnonzero(table.sizes <= table.group.budget)
    whole = table.hypervolume(list(feasible))
    for seed in range(2):
        asked = run(
            Select(samples=number - 6, pool=0, seed=seed),
            [table.group],
            lambda asked: [float(table.values[table.places[canonical_json(one.genotype)]]) for one in asked],
        )
        chosen = [table.places[canonical_json(one.genotype)] for one in asked]
        assert len(asked) == number
        chance = [table.hypervolume(np.random.default_rng([seed, k]).choice(feasible, number, replace=False)) for k in range(20)]
        assert table.hypervolume(chosen) > max(chance)
        assert table.hypervolume(chosen) >= 0.95 * whole
