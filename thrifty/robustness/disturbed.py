"""Dice of worse images: a table of all of it, and what it comes to for each network."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from thrifty.data.store import Store
from thrifty.robustness.corruptions import CORRUPTIONS
from thrifty.statistics.paired import paired_tests
from thrifty.statistics.patients import by_patient, interval, patients_of

UNDISTURBED = "none"
Row = dict[str, Any]


def disturbed_rows(result: Mapping[str, Any], store: Store) -> list[Row]:
    """The rows of robustness.csv of one training, from its result.json; nothing where it was shown no worse images."""
    found = result["corruptions"]
    if found is None:
        return []
    cases = {case.name: case for case in store.cases}
    identity = {name: result[name] for name in ("network", "seed", "fold")}
    settings = [(UNDISTURBED, 0.0, found["undisturbed"])]
    settings += [(c.name, s, dice) for c in CORRUPTIONS for s, dice in zip(c.strengths, found["dice"][c.name], strict=True)]
    return [
        {**identity, "case": name, "patient": cases[name].patient, "corruption": corruption, "strength": strength}
        | {"class": index, "label": store.labels[index], "dice": dice}
        for corruption, strength, by_case in settings
        for name, classes in zip(found["cases"], by_case, strict=True)
        for index, dice in enumerate(classes, start=1)
    ]


def disturbed(rows: Sequence[Row], compared: Collection[str] | None = None) -> dict[str, Any] | None:
    """Means over patients of every network, from the rows of the classes that count; None where there are none.

    Returns:
        `cases`, `patients`, `seed`; `corruptions`: by name `unit` and `strengths`; `networks`: by name
        `undisturbed`, `dice` (by corruption, one for each strength), `mean` over all corruptions and strengths with its `ci95`,
        `loss` (1 - mean / undisturbed) and `losses` (the same of each corruption); `paired`: the mean over all corruptions and
        strengths of found networks against their rivals (`thrifty.statistics.paired.paired_tests`), of those that are `compared`
        (None: all).
    """
    if not rows:
        return None
    tables: dict[str, dict[tuple[str, float], list[Row]]] = {}
    for row in rows:
        tables.setdefault(row["network"], {}).setdefault((row["corruption"], row["strength"]), []).append(row)
    networks, scores = {}, {}
    for name, table in tables.items():
        plain = by_patient(table.pop((UNDISTURBED, 0.0)), "dice")[0]
        worse = {setting: by_patient(mine, "dice")[0] for setting, mine in table.items()}
        patients = np.mean(list(worse.values()), axis=0)
        dice = {c.name: [float(worse[c.name, s].mean()) for s in c.strengths] for c in CORRUPTIONS}
        networks[name] = {
            "undisturbed": float(plain.mean()),
            "dice": dice,
            "mean": float(patients.mean()),
            "ci95": interval(patients),
            "loss": _loss(float(patients.mean()), float(plain.mean())),
            "losses": {corruption: _loss(float(np.mean(values)), float(plain.mean())) for corruption, values in dice.items()},
        }
        scores[name] = dict(zip(patients_of(next(iter(table.values()))), patients.tolist(), strict=True))
    return {
        "cases": len({row["case"] for row in rows}),
        "patients": len({row["patient"] for row in rows}),
        "seed": rows[0]["seed"],
        "corruptions": {c.name: {"unit": c.unit, "strengths": list(c.strengths)} for c in CORRUPTIONS},
        "networks": networks,
        "paired": paired_tests({name: own for name, own in scores.items() if compared is None or name in compared}),
    }


def _loss(worse: float, plain: float) -> float | None:
    return 1 - worse / plain if plain > 0 else None
