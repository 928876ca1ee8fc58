"""The list of networks of a study: what is in it, that it never changes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from thrifty.config import Study
from thrifty.errors import ThriftyError
from thrifty.networks import planned_networks, random_genotypes, read_networks, trial_keys, write_networks
from thrifty.results import Run, write_json
from thrifty.search.setting import settings_of
from thrifty.space.cost import Costs, count
from thrifty.space.genotype import canonical, genotype_hash, save
from thrifty.space.sample import random_genotype
from thrifty.space.schema import load_space

SPACE = load_space("tiny")
STORE = SimpleNamespace(channels=1, classes=3)


def study(**values) -> Study:
    return Study.model_validate({"name": "s", "space": "tiny", "budgets": [3000, 6000], **values})


def run_with_genotypes(root: Path, budgets: tuple[int, ...] = (3000, 6000), width: int = 8) -> Run:
    run = Run(root)
    for budget in budgets:
        rng = np.random.default_rng(budget)
        save(run.genotype(budget), random_genotype(SPACE, width, 4, 1, 3, rng, low=budget // 2, high=budget))
    return run


def test_all_networks_are_listed_within_their_budgets(tmp_path: Path) -> None:
    run = run_with_genotypes(tmp_path)
    specs = {spec.name: spec for spec in planned_networks(study(), run, STORE)}
    kinds = ("found_{}", "random_{}_0", "random_{}_1", "random_{}_2", "scaled_unet_{}")
    assert list(specs) == [*(k.format(b) for b in (3000, 6000) for k in kinds), "unet", "unetpp"]
    for spec in specs.values():
        if spec.budget is not None:
            assert spec.parameters <= spec.budget
        if spec.name.startswith("scaled_unet"):
            assert spec.parameters >= 0.95 * spec.budget


def test_what_finished_searches_decoded_is_listed_where_it_is_wanted(tmp_path: Path) -> None:
    """Canonical, under the name of its search; one that is not done is left out, as is one of another budget."""
    run = run_with_genotypes(tmp_path)
    wanted = study(budgets=[3000, {"parameters": 6000, "width": 8}], seeds=[0, 4], retrain={"decoded": True, "baselines": []})
    names = [setting.trial(seed) for setting in settings_of(wanted, SPACE, 1, 3) for seed in (0, 4)]
    genotypes = {}
    for k, name in enumerate(names):
        trial = run.search_trial(name)
        genotypes[name] = random_genotype(SPACE, 8, 4, 1, 3, np.random.default_rng(k), high=3000)
        save(trial.genotype, genotypes[name])
        if k != 1:
            write_json(trial.result, {})
    specs = [spec for spec in planned_networks(wanted, run, STORE) if spec.name.startswith("decoded_")]
    assert [spec.name for spec in specs] == [f"decoded_{names[k]}" for k in (0, 2, 3)]
    assert [spec.budget for spec in specs] == [3000, 6000, 6000]
    assert all(spec.genotype == canonical(genotypes[spec.name.removeprefix("decoded_")]) for spec in specs)
    plain = study(budgets=[3000, {"parameters": 6000, "width": 8}], seeds=[0, 4], retrain={"baselines": []})
    assert not any(spec.name.startswith("decoded_") for spec in planned_networks(plain, run, STORE))


def test_baselines_can_be_left_out(tmp_path: Path) -> None:
    run = run_with_genotypes(tmp_path)
    less = study(retrain={"baselines": ["unet"], "random": 0})
    assert [spec.name for spec in planned_networks(less, run, STORE)] == ["found_3000", "found_6000", "unet"]


def test_random_genotypes_fill_85_percent_are_distinct_and_stay_the_same() -> None:
    found = random_genotype(SPACE, 8, 4, 1, 3, np.random.default_rng(0), high=4000)
    costs = Costs(SPACE, 8, 4, 1, 3)
    drawn = random_genotypes(costs, found, 4000, 12)
    assert len(drawn) == 12
    assert all(0.85 * 4000 <= count(g) <= 4000 for g in drawn)
    assert all((g.width, g.levels, g.channels, g.classes) == (8, 4, 1, 3) for g in drawn)
    assert len({genotype_hash(g) for g in [found, *drawn]}) == 13
    assert random_genotypes(costs, found, 4000, 12) == drawn
    assert random_genotypes(costs, found, 4000, 5) == drawn[:5]
    assert random_genotypes(costs, found, 4001, 5) != drawn[:5]


def test_random_genotypes_have_any_depth_where_that_is_searched(tmp_path: Path) -> None:
    searched = study(budgets=[3000], search={"depth": "searched"}, retrain={"random": 12})
    drawn = [s for s in planned_networks(searched, run_with_genotypes(tmp_path), STORE) if s.name.startswith("random")]
    assert len(drawn) == 12 and all(0.85 * 3000 <= s.parameters <= 3000 for s in drawn)
    assert len({s.genotype.levels for s in drawn}) > 1


def test_random_genotypes_keep_the_width_of_the_searches_where_the_found_one_is_narrower(tmp_path: Path) -> None:
    """Otherwise they could not fill the budget, and would be no fair comparison."""
    run = run_with_genotypes(tmp_path, width=6)
    drawn = [s for s in planned_networks(study(), run, STORE) if s.name.startswith("random_6000")]
    assert len(drawn) == 3
    assert all(5100 <= s.parameters <= 6000 and s.genotype.width > 6 for s in drawn)


def test_large_references_are_trained_last() -> None:
    keys = trial_keys(study(retrain={"seeds": 2}), ["found_3000", "unet", "unetpp", "random_3000_0"])
    assert [key[0] for key in keys[-4:]] == ["unet", "unetpp", "unet", "unetpp"]
    assert [key[1] for key in keys] == [0, 0, 1, 1, 0, 0, 1, 1]


def test_found_one_is_not_drawn_again() -> None:
    costs = Costs(SPACE, 8, 4, 1, 3)
    before = random_genotypes(costs, random_genotype(SPACE, 8, 4, 1, 3, np.random.default_rng(0)), 4000, 3)
    after = random_genotypes(costs, before[0], 4000, 3)
    assert genotype_hash(before[0]) not in {genotype_hash(g) for g in after}


def test_budget_beyond_the_largest_network_is_measured_by_that() -> None:
    found = random_genotype(SPACE, 2, 3, 1, 3, np.random.default_rng(0))
    costs = Costs(SPACE, 2, 3, 1, 3)
    largest = costs.largest()
    assert all(0.85 * largest <= count(g) <= largest for g in random_genotypes(costs, found, 10 * largest, 3))


def test_exhausted_space_gives_fewer() -> None:
    narrow = SPACE.model_copy(update={"nodes": 1, "path": "plain"})
    found = random_genotype(narrow, 2, 3, 1, 3, np.random.default_rng(0))
    costs = Costs(narrow, 2, 3, 1, 3)
    drawn = random_genotypes(costs, found, costs.largest(), 5_000)
    assert 0 < len(drawn) < 5_000


def test_list_survives_the_file(tmp_path: Path) -> None:
    run = run_with_genotypes(tmp_path)
    specs = planned_networks(study(), run, STORE)
    write_networks(run, specs)
    assert list(read_networks(run).values()) == specs


def test_missing_genotype_says_what_to_do(tmp_path: Path) -> None:
    run = run_with_genotypes(tmp_path, budgets=(3000,))
    with pytest.raises(ThriftyError, match=r"budget 6,000.*genotype_6000.json is missing.*thrifty select"):
        planned_networks(study(), run, STORE)


def test_genotype_over_its_budget_is_refused(tmp_path: Path) -> None:
    run = run_with_genotypes(tmp_path)
    run.genotype(6000).replace(run.genotype(3000))
    with pytest.raises(ThriftyError, match="more than the budget of 3,000"):
        planned_networks(study(budgets=[3000]), run, STORE)


def test_genotype_for_other_data_is_refused(tmp_path: Path) -> None:
    run = run_with_genotypes(tmp_path)
    with pytest.raises(ThriftyError, match="for 1 channels and 3 classes, the data has 3 and 2"):
        planned_networks(study(), run, SimpleNamespace(channels=3, classes=2))


def test_another_genotype_than_the_trained_one_is_refused(tmp_path: Path) -> None:
    run = run_with_genotypes(tmp_path)
    write_networks(run, planned_networks(study(), run, STORE))
    save(run.genotype(3000), random_genotype(SPACE, 8, 4, 1, 3, np.random.default_rng(7), high=3000))
    changed = planned_networks(study(), run, STORE)
    write_networks(run, changed)  # nothing was trained yet
    (run.retrain / "found_3000").mkdir()
    before = run.networks.read_bytes()
    save(run.genotype(3000), random_genotype(SPACE, 8, 4, 1, 3, np.random.default_rng(8), high=3000))
    with pytest.raises(ThriftyError, match=r"found_3000 was trained as another network.*remove that folder"):
        write_networks(run, planned_networks(study(), run, STORE))
    assert run.networks.read_bytes() == before


def test_damaged_list_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.networks.parent.mkdir()
    run.networks.write_text("[]")
    with pytest.raises(ThriftyError, match="no list of networks"):
        read_networks(run)


def test_trials_are_networks_x_seeds_x_folds() -> None:
    assert trial_keys(study(retrain={"seeds": [5, 7]}), ["a", "b"]) == [
        ("a", 5, None),
        ("b", 5, None),
        ("a", 7, None),
        ("b", 7, None),
    ]
    crossed = trial_keys(study(retrain={"seeds": 1, "folds": 3}), ["a"])
    assert crossed == [("a", 0, 0), ("a", 0, 1), ("a", 0, 2)]
