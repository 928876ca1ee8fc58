"""What the test cases say beyond a mean: subgroups of them, and the patients that come off worst."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from thrifty.statistics.paired import FEWEST, rivals
from thrifty.statistics.patients import by_patient, interval, patients_of

WORST = 0.05  # share of the patients
FEWEST_WORST = 3  # of which a bootstrap may draw; the mean of one or two lowest is hardly ever that of other patients
RESAMPLES = 1999
Row = Mapping[str, Any]
Scores = Mapping[str, float]


def subgroups(rows: Sequence[Row], groups: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    """Dice of every network by the value of each further column of groups.csv.

    Args:
        rows: of per_case.csv, of the classes that count.
        groups: by case, (column: value) of those columns that are not empty there.

    Returns:
        By column: `values`, each with `value`, `cases`, `patients` and, by network, `dice` (mean over patients, seeds averaged)
        and `ci95` (None below FEWEST patients); `gaps`: by network the `high` and `low` value, and the `difference` of their
        Dice, among values with FEWEST patients; `largest`: the network with the largest of these, or None.
    """
    columns = dict.fromkeys(column for case in dict.fromkeys(row["case"] for row in rows) for column in groups.get(case, {}))
    return [_column(column, rows, groups) for column in columns]


def _column(column: str, rows: Sequence[Row], groups: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    by_value: dict[str, list[Row]] = {}
    for row in rows:
        if (value := groups.get(row["case"], {}).get(column)) is not None:
            by_value.setdefault(value, []).append(row)
    values = [_value(value, by_value[value]) for value in sorted(by_value)]
    enough = [value for value in values if value["patients"] >= FEWEST]
    gaps = {name: _gap(name, enough) for name in (enough[0]["networks"] if len(enough) > 1 else ())}
    largest = max(gaps, key=lambda name: gaps[name]["difference"], default=None)
    return {"column": column, "values": values, "gaps": gaps, "largest": largest}


def _value(value: str, rows: Sequence[Row]) -> dict[str, Any]:
    networks = {}
    for name in dict.fromkeys(row["network"] for row in rows):
        patients = by_patient([row for row in rows if row["network"] == name], "dice").mean(axis=0)
        networks[name] = {"dice": float(patients.mean()), "ci95": interval(patients) if len(patients) >= FEWEST else None}
    return {
        "value": value,
        "cases": len({row["case"] for row in rows}),
        "patients": len(patients_of(rows)),
        "networks": networks,
    }


def _gap(name: str, values: Sequence[Row]) -> dict[str, Any]:
    ordered = sorted(values, key=lambda value: value["networks"][name]["dice"])
    low, high = ordered[0], ordered[-1]
    difference = high["networks"][name]["dice"] - low["networks"][name]["dice"]
    return {"high": high["value"], "low": low["value"], "difference": difference}


def worst_patients(
    scores: Mapping[str, Scores], cases: Mapping[str, Sequence[str]], compared: Collection[str] | None = None
) -> dict[str, Any]:
    """The ceil(5 %) patients of lowest Dice of every network.

    Args:
        scores: Dice by network and patient, seeds averaged.
        cases: the test cases of each patient.
        compared: networks that may be compared; None: all.

    Returns:
        `networks`: by name, `patients` (worst first), their `cases`, `dice` (their mean). `paired`: of each found network and
        rival (of several networks the mean counts, patient by patient) the `difference` of these means, each over its own worst
        patients, and its `ci95`: percentile bootstrap over patients, None where fewer than FEWEST_WORST are the worst.
    """
    networks = {}
    for name, dice in scores.items():
        worst = sorted(dice, key=lambda patient: (dice[patient], patient))[: number_of_worst(len(dice))]
        listed = [case for patient in worst for case in cases[patient]]
        networks[name] = {"patients": worst, "cases": listed, "dice": float(np.mean([dice[patient] for patient in worst]))}
    paired = []
    names = [name for name in scores if compared is None or name in compared]
    for found in (name for name in names if name.startswith("found_")):
        for against, members in rivals(found, names):
            patients = sorted(set(scores[found]).intersection(*(scores[name] for name in members)))
            mine = np.array([scores[found][p] for p in patients])
            theirs = np.array([np.mean([scores[name][p] for name in members]) for p in patients])
            difference = float(tail_mean(mine) - tail_mean(theirs))
            paired.append({"found": found, "against": against, "patients": len(patients), "difference": difference}
                          | {"ci95": _tail_interval(mine, theirs)})  # fmt: skip
    return {"share": WORST, "networks": networks, "paired": paired}


def number_of_worst(patients: int) -> int:
    return max(1, math.ceil(round(WORST * patients, 9)))


def tail_mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean of the lowest `number_of_worst` values along an axis."""
    number = number_of_worst(values.shape[axis])
    return np.sort(values, axis=axis).take(range(number), axis=axis).mean(axis=axis)


def _tail_interval(mine: np.ndarray, theirs: np.ndarray) -> list[float] | None:
    from scipy.stats import bootstrap

    if number_of_worst(len(mine)) < FEWEST_WORST:
        return None

    def difference(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
        return tail_mean(first, axis) - tail_mean(second, axis)

    settings: dict[str, Any] = {"paired": True, "method": "percentile", "n_resamples": RESAMPLES, "vectorized": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of resamples that are all alike
        found = bootstrap((mine, theirs), difference, rng=np.random.default_rng(0), **settings).confidence_interval
    return [float(found.low), float(found.high)]
