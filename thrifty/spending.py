"""What the networks of a study have cost, and what they give for it: hours by purpose, Dice per parameter and per hour, and
what a random search would train for the same hours. docs/cost.md says what these numbers do not mean."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from thrifty.ledger import dropped_searches, ledger, trial_results
from thrifty.results import Run
from thrifty.statistics.luck import FEWEST
from thrifty.statistics.study import cost_of

Row = Mapping[str, Any]


def spending(run: Run, networks: Sequence[Row], luck: Sequence[Row], compared: Collection[str] | None = None) -> dict[str, Any]:
    """summary["spending"].

    `hours` count all attempts of all trials, lost ones included, as the ledger does; `per_network` and `random_search` count only
    what led to results, so that they do not depend on which workers died.

    Args:
        run: whose trials are counted.
        networks: entries of summary.json: name, budget, parameters, dice.
        luck: of the statistics of the same networks.
        compared: those that the statistics count; None: all.
    """
    trials = ledger(run)["trials"]
    unit = "GPU-hours" if any(trial["gpus"] for trial in trials) else "CPU-hours"
    return {
        "unit": unit,
        "hours": [row for row in _hours(run, trials) if row["trials"]],
        "per_network": [_per_network(run, network, networks, unit) for network in networks],
        "random_search": [_random_search(run, row, networks, luck, compared) for row in networks if _is_found(row)],
    }


def _hours(run: Run, trials: Sequence[Row]) -> Iterable[dict[str, Any]]:
    """One row for each purpose: searching for a budget, scoring, short trainings, (re)training a network, evaluating."""
    budgets = {row["trial"]: row.get("budget") for row in [*trial_results(run, "search"), *dropped_searches(run)]}
    searches = [trial for trial in trials if trial["stage"] == "search"]
    for budget in sorted({budget for budget in budgets.values() if budget is not None}):
        yield _sum("searching", [t for t in searches if budgets.get(t["trial"]) == budget], budget=budget)
    yield _sum("searching, unfinished", [t for t in searches if budgets.get(t["trial"]) is None])
    selecting = [trial for trial in trials if trial["stage"] == "select"]
    yield _sum("selecting: scoring", [t for t in selecting if t["trial"] == "select"])
    yield _sum("selecting: short trainings", [t for t in selecting if t["trial"] != "select"])
    trained = [trial for trial in trials if trial["stage"] == "retrain"]
    for network in dict.fromkeys(_network_of(trial) for trial in trained):
        yield _sum("retraining", [t for t in trained if _network_of(t) == network], network=network)
    yield _sum("evaluating", [trial for trial in trials if trial["stage"] == "evaluate"])


def _network_of(trial: Row) -> str:
    return trial["trial"].rpartition("/")[0]


def _sum(purpose: str, trials: Sequence[Row], budget: int | None = None, network: str | None = None) -> dict[str, Any]:
    hours = {key: sum(trial[key] for trial in trials) for key in ("cpu_hours", "gpu_hours", "lost_seconds")}
    return {"purpose": purpose, "budget": budget, "network": network, "trials": len(trials), **hours}


def _per_network(run: Run, network: Row, networks: Sequence[Row], unit: str) -> dict[str, Any]:
    """`search_hours`: of searching and selecting for the network's budget, where it was found so, or of the one search that
    decoded it; `training_hours`: of one training, the mean over them."""
    key = "gpus" if unit == "GPU-hours" else "cpus"
    own = [row for row in trial_results(run, "search") if f"decoded_{row['trial']}" == network["name"]]
    search = sum(row["seconds"] * row[key] for row in own) / 3600
    if _is_found(network):
        search = cost_of(run, network["budget"], _random_of(network, networks), key)[0]
    trained = [row for row in trial_results(run, "retrain") if row["trial"].rpartition("/")[0] == network["name"]]
    training = sum(row["seconds"] * row[key] for row in trained) / 3600 / (len(trained) or 1)
    dice, hours = network["dice"]["mean"], search + training
    return {
        "network": network["name"],
        "search_hours": search,
        "training_hours": training,
        "dice_per_million_parameters": dice / (network["parameters"] / 1e6),
        "dice_per_hour": dice / hours if hours else None,
    }


def _random_search(
    run: Run, found: Row, networks: Sequence[Row], luck: Sequence[Row], compared: Collection[str] | None
) -> dict[str, Any]:
    """What random networks do for the hours of a found one; `missing` says why there is no probability."""
    random = [name for name in _random_of(found, networks) if compared is None or name in compared]
    spent, training, unit = cost_of(run, found["budget"], random)
    known = next((row for row in luck if row["found"] == found["name"]), None)
    dice = [row["dice"]["mean"] for row in networks if row["name"] in random]
    return {
        "found": found["name"],
        "unit": unit,
        "search_hours": spent,
        "training_hours": training if random else None,
        "draws": known["draws"] if known else None,
        "random": known["random"] if known else len(random),
        "random_mean": sum(dice) / len(dice) if dice else None,
        "random_best": max(dice, default=None),
        "probability": known["probability"] if known else None,
        "ci95": known["ci95"] if known else None,
        "missing": _why_none(known["random"] if known else len(random), known),
    }


def _why_none(random: int, known: Row | None) -> str | None:
    if random >= FEWEST:
        return None if known else "the seeds of the found network are left out of the statistics"
    return f"only {random} random networks of its budget were trained, a probability needs {FEWEST}: raise retrain.random"


def _is_found(network: Row) -> bool:
    return network["name"].startswith("found_") and network["budget"] is not None


def _random_of(found: Row, networks: Sequence[Row]) -> list[str]:
    return [row["name"] for row in networks if row["name"].startswith(f"random_{found['budget']}_")]
