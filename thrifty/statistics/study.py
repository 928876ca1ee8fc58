"""The statistics of a study as summary.json has them, from its measured rows and what its trials cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from thrifty.ledger import dropped_searches, trial_results
from thrifty.results import Run
from thrifty.statistics.luck import draws_of_equal_cost, luck
from thrifty.statistics.paired import paired_tests
from thrifty.statistics.patients import by_patient, patients_of
from thrifty.statistics.power import detectable, seeds_needed
from thrifty.statistics.searches import decoded_of, search_rows, setting_of
from thrifty.statistics.variance import variance_rows

Row = Mapping[str, Any]
POINTS = (0.5, 1.0, 2.0)
"""Differences of Dice, in hundredths, for which the seeds that they need are listed."""


def statistics(run: Run, networks: Sequence[Row], rows: Sequence[Row]) -> dict[str, Any]:
    """
    Args:
        run: whose trials say what searching, selecting and training have cost.
        networks: entries of summary.json: name, dice.
        rows: of per_case.csv, of the classes that count.
    """
    names = [network["name"] for network in networks]
    by_name = {name: [row for row in rows if row["network"] == name] for name in names}
    scores = {name: patient_means(mine) for name, mine in by_name.items() if mine}
    dice = {network["name"]: network["dice"] for network in networks}
    return {
        "paired": paired_tests(scores),
        "searches": search_rows({name: row["mean"] for name, row in dice.items()}),
        "variance": variance_rows(rows, groups_of(names)),
        "luck": [luck_row(run, name, dice) for name in names if name.startswith("found_") and _random_of(name, names)],
        "seeds": [row for name in names if name.startswith("found_") and (row := seeds_row(name, dice))],
    }


def patient_means(rows: Sequence[Row]) -> dict[str, float]:
    """Dice by patient, cases and classes averaged first, then seeds and folds."""
    return dict(zip(patients_of(rows), by_patient(rows, "dice").mean(axis=0).tolist(), strict=True))


def groups_of(names: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Networks that are one sample: what the searches of a setting decoded differs by their seed, the random ones of a budget in
    their genotype; each other network stands alone."""
    groups: dict[str, dict[str, list[str]]] = {}
    for name in names:
        if name.startswith("random_"):
            groups.setdefault(name.rpartition("_")[0], {}).setdefault("genotype", []).append(name)
        elif name.startswith("decoded_"):
            groups.setdefault(setting_of(name), {}).setdefault("search_seed", []).append(name)
        else:
            groups[name] = {"genotype": [name]}
    return groups


def _random_of(found: str, names: Sequence[str]) -> list[str]:
    return [name for name in names if name.startswith(f"random_{found.removeprefix('found_')}_")]


def luck_row(run: Run, found: str, dice: Mapping[str, Row]) -> dict[str, Any]:
    """Against the random genotypes of the same budget, as many as the cost of search and selection would have trained."""
    random = _random_of(found, list(dice))
    spent, training, unit = cost_of(run, int(found.removeprefix("found_")), random)
    outcome = luck(dice[found]["per_seed"], [dice[name]["mean"] for name in random], draws_of_equal_cost(spent, training))
    return {"found": found, **outcome.as_json(), "search_hours": spent, "training_hours": training, "unit": unit}


def cost_of(run: Run, budget: int, random: Sequence[str], key: str | None = None) -> tuple[float, float, str]:
    """(hours of searching and selecting for a budget, hours to train one random genotype once, CPU or GPU).

    The selection works for all budgets together: each is charged an equal part. Hours are those that led to results, and those of
    searches that were stopped early. They are of `key` (cpus, gpus); without it of GPUs where a search or training had one.
    """
    searches, selection = [*trial_results(run, "search"), *dropped_searches(run)], trial_results(run, "select")
    trainings = [row for row in trial_results(run, "retrain") if row.get("network") in random]
    key = key or ("gpus" if any(row.get("gpus") for row in [*searches, *trainings]) else "cpus")
    budgets = len({row.get("budget") for row in searches}) or 1
    spent = _hours([row for row in searches if row.get("budget") == budget], key) + _hours(selection, key) / budgets
    return spent, _hours(trainings, key) / (len(trainings) or 1), f"{key[:-1].upper()}-hours"


def _hours(results: Sequence[Row], key: str) -> float:
    return sum(row["seconds"] * row[key] for row in results) / 3600


def seeds_row(found: str, dice: Mapping[str, Row]) -> dict[str, Any] | None:
    """Seeds that a difference needs, from the spread over seeds of the found, decoded and random networks of a budget, pooled."""
    alike = [*decoded_of(found.removeprefix("found_"), list(dice)), *_random_of(found, list(dice))]
    pooled = pooled_sd([dice[name] for name in (found, *alike)])
    if pooled is None:
        return None
    number = len(dice[found]["per_seed"])
    least = detectable(pooled, number)
    return {
        "found": found,
        "sd": pooled,
        "seeds": number,
        "needed": [{"points": points, "seeds": seeds_needed(points / 100, pooled)} for points in POINTS],
        "detectable_points": None if least is None else 100 * least,
    }


def pooled_sd(dice: Sequence[Row]) -> float | None:
    """Standard deviation over seeds within networks: the root of their variances' mean, weighted by degrees of freedom."""
    known = [(row["sd_seeds"] ** 2, len(row["per_seed"]) - 1) for row in dice if row.get("sd_seeds") is not None]
    if not known:
        return None
    variances, weights = zip(*known, strict=True)
    return float(np.sqrt(np.average(variances, weights=weights)))
