"""Agreement against a published example and hand-made cells, the consensus against enumeration, whole settings from files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.small_study import small_study
from thrifty.report.statistics import stability_section
from thrifty.results import Run, write_json, write_jsonl
from thrifty.space.cost import Costs, count
from thrifty.space.genotype import Cell, Edge, Genotype, canonical, genotype_hash, save
from thrifty.space.sample import random_genotype
from thrifty.space.schema import load_space
from thrifty.space.size import all_genotypes
from thrifty.statistics.agreement import against_chance, agreement, by_chance, distance, entropy_bits, fleiss_kappa
from thrifty.statistics.bands import band
from thrifty.statistics.blocks import Blocks
from thrifty.statistics.consensus import consensus, mean_of_one_hot
from thrifty.statistics.stability import stability, tau

SPACE = load_space("thrifty")
TINY = load_space("tiny")
# Ten subjects, fourteen raters, five categories: kappa 0.210 (Joseph L. Fleiss' method, a much copied example).
COUNTS = """0 0 0 0 14|0 2 6 4 2|0 0 3 5 6|0 3 9 2 0|2 2 8 1 1|7 7 0 0 0|3 2 6 3 0|2 5 3 2 2|6 5 2 1 0|0 2 2 3 7"""


def test_kappa_of_the_worked_example() -> None:
    items = [[k for k, n in enumerate(line.split()) for _ in range(int(n))] for line in COUNTS.split("|")]
    assert fleiss_kappa(items) == pytest.approx(0.20993, abs=5e-6)


def test_kappa_at_its_ends() -> None:
    assert fleiss_kappa([["a", "a"], ["b", "b"]]) == 1.0
    assert fleiss_kappa([["a", "b"], ["b", "a"]]) == -1.0
    assert fleiss_kappa([["a", "a"], ["a", "a"]]) is None and fleiss_kappa([["a"], ["b"]]) is None and fleiss_kappa([]) is None
    assert entropy_bits("aaaa") == 0.0 and entropy_bits("aabb") == 1.0 and entropy_bits("abcd") == 2.0


def drawn(number: int, seed: int = 0) -> list[Genotype]:
    rng = np.random.default_rng(seed)
    return [random_genotype(SPACE, 8, 4, 1, 2, rng) for _ in range(number)]


def test_distance_does_not_see_the_names_of_inner_nodes() -> None:
    one = drawn(1)[0]
    a, b, c = (
        (Edge(0, "sep_conv_3"), Edge(1, "max_pool")),
        (Edge(0, "sep_conv_5"), Edge(1, "max_pool")),
        (Edge(0, "squeeze"), Edge(1, "max_pool")),
    )
    left, right = replace(one, down=Cell((a, b, c))), replace(one, down=Cell((c, a, b)))
    assert distance(left, right) == 0 and genotype_hash(left) == genotype_hash(right)
    changed = replace(
        right, down=Cell((c, a, (Edge(0, "sep_conv_5"), Edge(1, "avg_pool")))), path=(1 - right.path[0], *right.path[1:])
    )
    assert distance(left, changed) == distance(changed, left) == 2


def test_distance_is_zero_exactly_for_equal_networks() -> None:
    some = drawn(6)
    for a in some:
        for b in some:
            assert (distance(a, b) == 0) == (genotype_hash(a) == genotype_hash(b)) and distance(a, b) == distance(b, a)
    assert distance(some[0], some[1]) <= 2 * 2 * SPACE.nodes + 2


def test_agreement_of_equal_and_of_random_genotypes() -> None:
    one, pool = drawn(1)[0], drawn(40, seed=1)
    same = agreement([one] * 3)
    assert (same["op_entropy_bits"], same["path_entropy_bits"], same["distance"], same["op_kappa"]) == (0.0, 0.0, 0.0, 1.0)
    random = by_chance(3, pool)
    found = against_chance("distance", same["distance"], random["distance"])
    assert found["p"] == pytest.approx(1 / 501) and found["low"] > 0
    assert against_chance("op_kappa", 1.0, random["op_kappa"])["p"] == pytest.approx(1 / 501)
    assert against_chance("op_kappa", -2.0, random["op_kappa"])["p"] == 1.0
    assert against_chance("op_kappa", 0.5, []) == {"mean": None, "low": None, "high": None, "p": None}
    two = by_chance(2, pool[:2])
    assert set(two["distance"]) == {float(distance(*pool[:2]))} == {agreement(pool[:2])["distance"]}


def test_consensus_is_the_majority_and_the_most_likely_of_all_that_fit() -> None:
    costs = Costs(TINY, 8, 3, 1, 2)
    rng = np.random.default_rng(5)
    votes = [random_genotype(TINY, 8, 3, 1, 2, rng) for _ in range(3)]
    assert consensus([votes[0], votes[1], votes[0]], costs).genotype == consensus([votes[0]], costs).genotype
    assert genotype_hash(consensus([votes[0]], costs).genotype) == genotype_hash(votes[0])
    distribution = mean_of_one_hot([canonical(vote) for vote in votes], costs)
    every = list(all_genotypes(TINY, 8, 3, 1, 2))
    budget = sorted(count(g) for g in every)[len(every) // 2]
    best = max(distribution.log_prob(g) for g in every if count(g) <= budget)
    found = consensus(votes, costs, budget)
    assert found.parameters <= budget and distribution.log_prob(found.genotype) == pytest.approx(best, abs=1e-6)


def test_tau_by_hand() -> None:
    assert tau([(1, 5), (2, 6), (3, 4)])["tau"] == pytest.approx(-1 / 3)
    assert tau([(1, 5), (2, 6)])["tau"] is None and tau([(1, 5), (1, 6), (1, 7)])["tau"] is None


def test_band_is_over_epochs_that_all_searches_have() -> None:
    searches = [[{"epoch": 0, "x": 1.0}, {"epoch": 1, "x": 3.0}, {"epoch": 2, "x": 9.0}], [{"epoch": 0}, {"epoch": 1, "x": 5.0}]]
    assert band(searches, "x") == {1: (4.0, 3.0, 5.0)} and band(searches, "y") == {} and band([], "x") == {}


def test_a_run_of_searches(tmp_path: Path) -> None:
    run, study = Run(tmp_path), small_study()
    rng = np.random.default_rng(1)
    genotypes = [random_genotype(TINY, 8, 3, 1, 2, rng) for _ in range(2)]
    for budget, seeds in ((20_000, (0, 1, 2)), (30_000, (0,))):
        for seed in seeds:
            name = f"b{budget}_s{seed}"
            row = {"trial": name, "seed": seed, "budget": budget, "width": 8, "levels": 3, "epochs": 2, "seconds": 1.0}
            write_json(run.search_trial(name).result, {**row, "collapsed": seed == 1, "guard": None})
            save(run.search_trial(name).genotype, genotypes[seed % 2])
            write_jsonl(run.search_trial(name).record, [{"epoch": 1, "parameter_free": 0.1 * seed}])
    every = Blocks((0, 1, 2), {})
    found = stability(study, run, every, every)
    first, second = found["settings"]
    assert first["seeds"] == [0, 1, 2] and first["networks"] == 2 and first["collapsed"] == ["b20000_s1"]
    assert first["consensus"]["trials"] == ["b20000_s0", "b20000_s2"] and first["consensus"]["hash"] == genotype_hash(
        genotypes[0]
    )
    assert first["agreement"]["distance"]["value"] == pytest.approx(2 / 3 * distance(*genotypes))
    assert first["last_epoch"] == {"parameter_free": {"mean": pytest.approx(0.1), "low": 0.0, "high": pytest.approx(0.2)}}
    assert second["agreement"] is None and second["consensus"] is None and found["rank_correlation"] == []
    two = stability(study, run, Blocks((0, 2), {1: "it failed"}), every)["settings"][0]
    assert (two["seeds"], two["networks"], two["collapsed"]) == ([0, 2], 1, []) and two["agreement"]["distance"]["value"] == 0
    assert stability(study, run, Blocks((), {}), every)["settings"] == []
    text = "\n".join(stability_section(found))
    assert "| 30,000 | 1 | 1 | – | – | – | – | – | 0 |" in text and first["consensus"]["hash"] in text
    assert stability_section(stability(study, Run(tmp_path / "empty"), every, every)) == [] == stability_section(None)
