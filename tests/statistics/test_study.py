"""The statistics of a run: what its trials cost, and one entry for each found network; less where there is less."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from thrifty.report.statistics import statistics_section
from thrifty.results import Run, write_json
from thrifty.statistics.power import seeds_needed
from thrifty.statistics.study import cost_of, groups_of, pooled_sd, statistics
from thrifty.summary import scores

BASE = np.linspace(0.5, 0.7, 8)
SHIFTS = {"found_100": 0.03, "random_100_0": 0.0, "random_100_1": 0.01, "random_100_2": 0.02, "unet": 0.05}


def rows(names: list[str], seeds: int = 2) -> list[dict]:
    return [
        {"network": name, "seed": s, "fold": None, "patient": f"p{k}", "label": "a", "unit": "px", "iou": 0.5, "hd95": 1.0}
        | {"dice": base + SHIFTS[name] + 0.02 * s}
        for name, s, (k, base) in itertools.product(names, range(seeds), enumerate(BASE))
    ]


def networks(table: list[dict]) -> list[dict]:
    names = dict.fromkeys(row["network"] for row in table)
    return [{"name": name, **scores([row for row in table if row["network"] == name], [])} for name in names]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Searches of two budgets, a selection of one hour for both, retrainings of a quarter of an hour; on two CPUs."""
    run, where = Run(tmp_path), {"cpus": 2, "gpus": 0}
    for budget, seed in itertools.product((100, 200), range(2)):
        write_json(
            run.search_trial(f"b{budget}_s{seed}").result,
            {"trial": f"b{budget}_s{seed}", "budget": budget, "seconds": 3600} | where,
        )
    write_json(run.select_result, {"trial": "select", "seconds": 1800} | where)
    write_json(run.short_trial("x", 0).result, {"trial": "x/seed_0", "seconds": 1800} | where)
    for name, seed in itertools.product(SHIFTS, range(2)):
        result = {"trial": f"{name}/seed_{seed}", "network": name, "seconds": 9000 if name == "unet" else 900}
        write_json(run.retrain_trial(name, seed).result, result | where)
    return run


def test_cost_of_a_search_and_of_a_training(run: Run) -> None:
    assert cost_of(run, 100, ["random_100_0", "random_100_1"]) == (5.0, 0.5, "CPU-hours"), "2 x 2 hours and half of 2"
    write_json(run.search_trial("b100_s0").result, {"trial": "b100_s0", "budget": 100, "seconds": 3600, "cpus": 2, "gpus": 0.5})
    assert cost_of(run, 100, []) == (0.5, 0.0, "GPU-hours")


def test_a_whole_study(run: Run) -> None:
    table = rows(list(SHIFTS))
    found = statistics(run, networks(table), table)
    assert [(row["against"], round(row["difference"], 9)) for row in found["paired"]] == [("random_100", 0.02), ("unet", -0.02)]
    assert [row["group"] for row in found["variance"]] == ["found_100", "random_100", "unet"]
    random = found["variance"][1]
    assert random["levels"] == {"genotype": 3, "retrain_seed": 2, "patient": 8}
    assert random["variance"]["genotype"] == pytest.approx(1e-4) and random["variance"]["retrain_seed"] == pytest.approx(2e-4)
    assert random["variance"]["patient"] == pytest.approx(np.var(BASE, ddof=1))
    (chance,) = found["luck"]
    assert chance["draws"] == 10 and chance["p"] == pytest.approx(0.0227501, abs=1e-6), "two sd above the mean"
    assert chance["probability"] == pytest.approx(1 - (1 - 0.0227501) ** 10, abs=1e-5)
    (seeds,) = found["seeds"]
    assert seeds["sd"] == pytest.approx(0.02 / 2**0.5) and seeds["needed"][1]["seeds"] == seeds_needed(0.01, seeds["sd"])
    text = "\n\n".join(statistics_section(found))
    assert "| found_100 | unet | -2.00 | 0.0078 | 0.0156 | 8 |" in text
    assert "a random search trains 10 genotypes; the best of them is at least as good with probability 0.21" in text


def test_one_seed_and_no_baselines(run: Run) -> None:
    table = rows(["found_100"], seeds=1)
    found = statistics(run, networks(table), table)
    assert found == {"paired": [], "searches": [], "variance": [], "luck": [], "seeds": []}
    assert statistics_section(found) == ["## Statistics", "There is nothing to compare yet."]
    table = rows(["found_100", "random_100_0"], seeds=1)
    few = statistics(run, networks(table), table)
    assert few["luck"][0]["probability"] is None and few["seeds"] == []
    assert "too few to say" in "".join(statistics_section(few))
    assert statistics(run, [], []) == found and statistics_section(None) == []


def test_groups_and_pooled_spread() -> None:
    groups = groups_of(["found_9", "random_9_0", "random_9_1", "unet"])
    assert groups["random_9"] == {"genotype": ["random_9_0", "random_9_1"]} and groups["found_9"] == {"genotype": ["found_9"]}
    dice = [{"sd_seeds": 1.0, "per_seed": [0, 0]}, {"sd_seeds": 2.0, "per_seed": [0] * 4}, {"sd_seeds": None, "per_seed": [0]}]
    assert pooled_sd(dice) == pytest.approx(((1 * 1 + 3 * 4) / 4) ** 0.5)
