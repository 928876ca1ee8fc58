"""`thrifty check`: sizes that can be enumerated, counts that can be worked out, nothing written."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from thrifty import copies
from thrifty.check import Pace, check_study, examine, seeds_line, spread_of
from thrifty.config import Retrain, Study
from thrifty.errors import ThriftyError
from thrifty.results import Run, open_run, write_json
from thrifty.space.cost import Costs, count
from thrifty.space.schema import load_space
from thrifty.space.size import all_genotypes

VALUES = {
    "name": "looked_at",
    "space": "tiny",
    "budgets": [{"parameters": 6000, "width": 8, "levels": 3}, {"parameters": 9000, "width": 12, "levels": 3}],
    "seeds": 2,
    "data": {"patch": 32, "phantoms": {"cases": 16, "patients": 8, "size": 32, "classes": 2}},
    "search": {"epochs": 3, "steps": 2, "batch": 2, "warmup": 1},
    "select": {"finalists": 3, "short_seeds": 2},
    "retrain": {"epochs": 2, "steps": 2, "batch": 2, "seeds": 3, "random": 2, "baselines": ["scaled_unet"], "folds": 2},
}


def make_study(**changes: object) -> Study:
    return Study.model_validate({**VALUES, **changes})


def test_sizes_and_numbers_are_true(results: Path) -> None:
    lines = list(examine(make_study(), timing=False))
    sizes = [count(genotype) for genotype in all_genotypes(load_space("tiny"), 8, 3, 1, 2)]
    expected = f"has {len(sizes):,} genotypes there, from {min(sizes):,} to {max(sizes):,} parameters"
    assert any(
        line.startswith("budget 6,000 parameters: width 8, 3 levels, 3 epochs") and line.endswith(expected) for line in lines
    )
    short = "up to 12 short trainings (3 finalists x 2 budgets x 2 seeds), "
    trials = "trials: 4 searches (2 seeds x 2 settings), {}48 retrainings (8 networks x 3 seeds x 2 folds)"
    assert trials.format(short) in lines
    assert trials.format("") in list(examine(make_study(select={"finalists": 1}), timing=False))
    assert any(line.startswith("data: phantoms, 16 cases of 8 patients") for line in lines)
    assert not results.exists()


def test_a_searched_depth_is_said_and_counted(results: Path) -> None:
    lines = list(examine(make_study(search={**VALUES["search"], "depth": "searched"}), timing=False))
    sizes = [count(genotype) for genotype in all_genotypes(load_space("tiny"), 8, 3, 1, 2, "searched")]
    expected = f"has {len(sizes):,} genotypes there, from {min(sizes):,} to {max(sizes):,} parameters"
    found = [line for line in lines if line.startswith("budget 6,000 parameters: width 8, 2 to 3 levels, 3 epochs")]
    assert len(found) == 1 and found[0].endswith(expected)


def test_the_cost_is_timed_here_for_every_kind_of_trial(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_study(make_study())
    printed = capsys.readouterr().out
    assert printed.count("cost of search") == 2 and printed.count("cost of retrain") == 4
    assert "cost of select short trainings for found_9000: 6 x about" in printed and printed.count("cost of select") == 2
    assert "cost of retrain found_6000 and random genotypes: 18 x about" in printed
    assert "cost: about" in printed and not results.exists()


def test_seeds_for_a_difference_come_from_a_prior_spread_or_from_results(tmp_path: Path) -> None:
    """Effects of 0.5, 1 and 2 sd: 64, 17 and 6 seeds in Cohen's table 2.4.1."""
    prior = seeds_line(make_study(), Run(tmp_path))
    assert "64 for 0.5, 17 for 1, 6 for 2;" in prior and prior.endswith("(sd over seeds 1.00 points, a prior one)")
    dice = {"sd_seeds": 0.02, "per_seed": [0.5, 0.6, 0.7]}
    networks = [{"name": "found_6000", "dice": dice}, {"name": "unet", "dice": {**dice, "sd_seeds": 0.9}}]
    write_json(Run(tmp_path).summary, {"networks": networks})
    later = seeds_line(make_study(), Run(tmp_path))
    assert "64 for 1, 17 for 2;" in later and later.endswith("(sd over seeds 2.00 points, of the results that are there)")
    assert "one alone tells nothing" in seeds_line(make_study(retrain={"seeds": 1}), Run(tmp_path))


def test_seeds_for_a_difference_come_from_an_earlier_run(tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of the variances 0.0004 (2 degrees of freedom) and 0.0025 (1) is that of an sd of 0.0332."""
    networks = [
        {"name": "found_9", "dice": {"sd_seeds": 0.02, "per_seed": [0.5, 0.6, 0.7]}},
        {"name": "random_9_0", "dice": {"sd_seeds": 0.05, "per_seed": [0.5, 0.6]}},
        {"name": "random_9_1", "dice": {"sd_seeds": None, "per_seed": [0.5]}},
        {"name": "unet", "dice": {"sd_seeds": 0.9, "per_seed": [0.1, 0.9]}},
    ]
    earlier = Run(tmp_path / "earlier")
    write_json(earlier.summary, {"schema": 1, "networks": networks})
    lines = list(examine(make_study(), timing=False, earlier=earlier.root))
    (line,) = [line for line in lines if line.startswith("seeds:")]
    assert line.endswith(f"(sd over seeds 3.32 points, of {earlier.root})") and not results.exists()
    assert spread_of(earlier.root) == pytest.approx(((2 * 0.0004 + 0.0025) / 3) ** 0.5)
    url = f"file://{tmp_path}/store/run"
    copies.attach(earlier.root, url)
    for path in (earlier.study, earlier.summary):
        write_json(path, {"networks": networks})
    copies._copies.clear()
    with monkeypatch.context() as patch:
        patch.setenv("THRIFTY_CACHE", str(tmp_path / "cache"))
        lines = list(examine(make_study(), timing=False, earlier=Path(url)))
    assert any(line.endswith(f"(sd over seeds 3.32 points, of {url})") for line in lines)
    write_json(earlier.summary, {"networks": networks[2:]})
    with pytest.raises(ThriftyError, match=r"summary\.json has no spread over seeds: no found or random network has two"):
        spread_of(earlier.root)
    for content in ([], {}, {"networks": [{"name": "found_9"}]}, {"networks": [{"name": "found_9", "dice": 0.5}]}):
        write_json(earlier.summary, content)
        with pytest.raises(ThriftyError, match=r"summary\.json is no summary of networks; `thrifty evaluate STUDY.yaml` writes"):
            spread_of(earlier.root)
    with pytest.raises(ThriftyError, match=r"nowhere has no summary\.json; --earlier wants a run folder"):
        next(examine(make_study(), timing=False, earlier=tmp_path / "nowhere"))


def test_halving_is_counted_in_trials(results: Path) -> None:
    search = {"epochs": 10, "steps": 2, "batch": 2, "warmup": 1, "scheduler": "halving", "halving": {"reference": 2}}
    lines = list(examine(make_study(seeds=7, search=search), timing=False))
    assert any(line.startswith("trials: 14 searches (7 seeds, 5 of them can be stopped early x 2 settings)") for line in lines)


def test_a_training_costs_its_steps_and_its_looks() -> None:
    """5 epochs of 7 steps; looks after epochs 2, 4 and the last one."""
    assert Pace(step=2.0, look=10.0).seconds(Retrain(epochs=5, steps=7, validate_every=2)) == 5 * 7 * 2 + 3 * 10


def test_a_budget_below_the_smallest_network_names_that_size(results: Path) -> None:
    smallest = min(count(genotype) for genotype in all_genotypes(load_space("tiny"), 8, 3, 1, 2))
    budgets = [{"parameters": smallest - 1, "width": 8, "levels": 3}]
    with pytest.raises(ThriftyError, match=f"below the smallest network.*{smallest:,}"):
        list(examine(make_study(budgets=budgets), timing=False))
    budgets[0]["parameters"] = smallest
    assert list(examine(make_study(budgets=budgets), timing=False))


@pytest.mark.parametrize("extra", [0, 1, 300])
def test_a_budget_just_above_the_smallest_network_is_looked_at_quickly(results: Path, extra: int) -> None:
    """Of the random networks of this space hardly one is so small."""
    costs = Costs(load_space("thrifty"), 8, 4, 1, 2)
    budgets = [{"parameters": costs.smallest() + extra, "width": 8, "levels": 4}]
    start = time.perf_counter()
    lines = list(examine(make_study(space="thrifty", budgets=budgets), timing=False))
    assert any("(4 networks x 3 seeds x 2 folds)" in line for line in lines) and time.perf_counter() - start < 10


def test_a_study_that_needs_the_gpu_of_a_cluster_is_not_timed_here(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "cluster:6379")
    monkeypatch.setattr("thrifty.preflight.gpus", list)
    lines = list(examine(make_study(resources={"device": "cuda", "gpus_per_trial": 1}), timing=True))
    assert "cost: not timed, the trials need a GPU and this machine has none" in lines


def test_a_file_in_place_of_the_run_folder_is_told(results: Path) -> None:
    results.mkdir()
    (results / "looked_at").touch()
    with pytest.raises(ThriftyError, match="looked_at is a file, where the run folder should be"):
        list(examine(make_study(), timing=False))


def test_too_many_levels_and_an_idle_gpu_are_warned_about(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thrifty.check.gpus", lambda: [{"name": "one"}])
    lines = list(examine(make_study(budgets=[{"parameters": 9000, "levels": 4, "width": 8}]), timing=False))
    assert any(line.startswith("warning: 4 levels: the lowest would see 2 pixels of a patch of 32") for line in lines)
    assert any("has a GPU and trials would not use it" in line for line in lines)


def test_a_results_folder_of_another_study_is_told_before_anything_is_spent(results: Path) -> None:
    open_run(results / "looked_at", make_study(seeds=5))
    before = sorted(results.rglob("*"))
    with pytest.raises(ThriftyError, match="holds another study: seeds was 5, now 2"):
        list(examine(make_study(), timing=False))
    assert list(examine(make_study(seeds=5, resources={"concurrent": 1}), timing=False))
    assert sorted(results.rglob("*")) == before
