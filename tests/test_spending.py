"""Hours by purpose, Dice per parameter and per hour, random search at equal hours: hand-made runs, numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from thrifty.ledger import ledger
from thrifty.report.cost import cost_section
from thrifty.results import Run, write_json
from thrifty.spending import spending
from thrifty.statistics.study import luck_row

DICE = {"found_100": 0.8, "random_100_0": 0.7, "random_100_1": 0.74, "random_100_2": 0.78, "unet": 0.9}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Two searches of an hour for 100, one for 200, a scoring and a short training of half an hour, all on two CPUs; trainings of
    a quarter of an hour, of the U-Net of five hours."""
    run, where = Run(tmp_path), {"cpus": 2, "gpus": 0}
    for name, budget in (("a", 100), ("b", 100), ("c", 200)):
        write_json(run.search_trial(name).result, {"trial": name, "budget": budget, "seconds": 3600} | where)
    write_json(run.select_result, {"trial": "select", "seconds": 1800} | where)
    write_json(run.short_trial("x", 0).result, {"trial": "short/x/seed_0", "seconds": 1800} | where)
    for name in DICE:
        for seed in (0, 1):
            result = {"trial": f"{name}/seed_{seed}", "network": name, "seconds": 18000 if name == "unet" else 900}
            write_json(run.retrain_trial(name, seed).result, result | where)
    return run


def networks(names: Any = DICE) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "budget": None if name == "unet" else 100,
            "parameters": 1_000_000 if name == "unet" else 50_000,
            "macs": 7,
        }
        | {"dice": {"mean": DICE[name], "sd_seeds": None, "per_seed": [DICE[name]]}}
        for name in names
    ]


def chance(run: Run, listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [luck_row(run, "found_100", {network["name"]: network["dice"] for network in listed})]


def test_hours_by_purpose_add_up_to_the_ledger(run: Run) -> None:
    found = spending(run, networks(), [])
    hours = {(row["purpose"], row["budget"] or row["network"]): row["cpu_hours"] for row in found["hours"]}
    assert hours == pytest.approx(
        {("searching", 100): 4, ("searching", 200): 2, ("selecting: scoring", None): 1, ("selecting: short trainings", None): 1}
        | {("retraining", name): 20 if name == "unet" else 1 for name in DICE}
    )
    assert sum(hours.values()) == pytest.approx(sum(stage["cpu_hours"] for stage in ledger(run)["cost"].values()))
    assert found["unit"] == "CPU-hours"


def test_dice_per_parameter_and_per_hour(run: Run) -> None:
    rows = {row["network"]: row for row in spending(run, networks(), [])["per_network"]}
    assert (rows["found_100"]["search_hours"], rows["found_100"]["training_hours"]) == (5.0, 0.5), "2 x 2 hours and half of 2"
    assert rows["found_100"]["dice_per_hour"] == pytest.approx(0.8 / 5.5)
    assert rows["found_100"]["dice_per_million_parameters"] == pytest.approx(0.8 / 0.05)
    assert rows["unet"]["dice_per_hour"] == pytest.approx(0.9 / 10)
    assert rows["unet"]["dice_per_million_parameters"] == pytest.approx(0.9)


def test_random_search_at_equal_hours_or_why_there_is_none(run: Run) -> None:
    listed = networks()
    (row,) = spending(run, listed, chance(run, listed))["random_search"]
    assert (row["search_hours"], row["training_hours"], row["draws"], row["random"]) == (5.0, 0.5, 10, 3)
    assert row["random_mean"] == pytest.approx(0.74) and row["random_best"] == 0.78 and row["missing"] is None
    assert row["probability"] == pytest.approx(1 - (1 - 0.0668072) ** 10, abs=1e-5), "1.5 sd above the mean, ten draws"
    few = networks(["found_100", "random_100_0", "unet"])
    (row,) = spending(run, few, chance(run, few))["random_search"]
    assert row["probability"] is None and row["draws"] == 10
    assert row["missing"].startswith("only 1 random networks of its budget")
    (row,) = spending(run, networks(["found_100", "unet"]), [])["random_search"]
    assert (row["draws"], row["training_hours"], row["random_best"]) == (None, None, None) and row["missing"].startswith(
        "only 0 "
    )


def test_what_a_search_decoded_costs_that_search(run: Run) -> None:
    listed = networks()
    listed.append(listed[-1] | {"name": "decoded_a", "parameters": 50_000, "dice": {"mean": 0.8, "per_seed": [0.8]}})
    row = spending(run, listed, [])["per_network"][-1]
    assert (row["network"], row["search_hours"], row["training_hours"]) == ("decoded_a", 2.0, 0.0)


def test_stopped_searches_belong_to_their_budget(run: Run) -> None:
    row = {"trial": "d", "budget": 100, "seconds": 1800, "cpus": 2, "gpus": 0, "reason": "stopped"}
    write_json(run.search_trial("d").folder / "dropped.json", row | dict.fromkeys(("seed", "width", "levels", "epochs"), 1))
    hours = {(row["purpose"], row["budget"]): row for row in spending(run, networks(), [])["hours"]}
    assert hours["searching", 100]["cpu_hours"] == 5 and ("searching, unfinished", None) not in hours


def test_random_search_is_of_the_networks_of_the_statistics(run: Run) -> None:
    kept = [name for name in DICE if name != "random_100_2"]
    (row,) = spending(run, networks(), chance(run, networks(kept)), kept)["random_search"]
    assert row["random"] == 2 and row["random_best"] == 0.74 and row["missing"].startswith("only 2 random networks")
    (row,) = spending(run, networks(), [])["random_search"]
    assert row["probability"] is None and "left out of the statistics" in row["missing"]


def test_hours_of_two_units_are_not_added(run: Run) -> None:
    """Only the U-Net was trained on a GPU, so all hours are of GPUs, of which the search had none."""
    result = {"trial": "unet/seed_0", "network": "unet", "seconds": 3600, "cpus": 2, "gpus": 1}
    write_json(run.retrain_trial("unet", 0).result, result)
    row = spending(run, networks(), [])["per_network"][0]
    assert (row["search_hours"], row["training_hours"], row["dice_per_hour"]) == (0.0, 0.0, None)


def test_gpus_are_counted_where_there_are_some(run: Run) -> None:
    write_json(run.search_trial("a").result, {"trial": "a", "budget": 100, "seconds": 3600, "cpus": 2, "gpus": 0.5})
    found = spending(run, networks(), [])
    assert found["unit"] == "GPU-hours" and found["hours"][0]["gpu_hours"] == 0.5


def test_the_section_has_every_number(run: Run) -> None:
    listed = networks()
    listed[0] |= {"weights_bytes": 2048, "latency_ms": {"median": 3.21, "q1": 3.0, "q3": 4.0, "rounds": 15}}
    listed[0]["latency_ms"] |= {"image": [96, 64], "threads": 1, "device": "A CPU"}
    summary = {"networks": listed, "spending": spending(run, listed, chance(run, listed))}
    text = "\n\n".join(cost_section(summary, ledger(run)["cost"]))
    assert "| found_100 | 50,000 | 2.0 | 7 | 3.21 | 3.00 to 4.00 | 16.000 | 0.145 |" in text
    assert "| unet | 1,000,000 | – | 7 | – | – | 0.900 | 0.090 |" in text
    assert "| searching, budget 100 | 2 | 4.000 | 0.000 |" in text and "| retraining unet | 2 | 20.000 | 0.000 |" in text
    assert "| found_100 | 5.000 CPU-hours | 0.500 | 10 | 0.50 |" in text
    assert "one image of 96 x 64 pixels, batch 1, one thread of A CPU" in text
    listed[0]["latency_ms"] = None
    few = {"networks": listed, "spending": spending(run, networks(["found_100"]), [])}
    text = "\n\n".join(cost_section(few, ledger(run)["cost"]))
    assert "The latency was not measured." in text and "no probability, since only 0 random networks" in text
    assert cost_section(None, {}) == ["## Cost", "The ledger is not written yet."]
    assert len(cost_section({"networks": []}, ledger(run)["cost"])) == 2, "a summary of an older version"
