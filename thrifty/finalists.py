"""The last round of the selection: which candidates are trained for a short while, and which of them are chosen.

Scores with inherited weights rank poorly, so they only say who comes into it. Candidates are rows of select/evaluations.jsonl.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from statistics import fmean
from typing import Any

from thrifty.config import Study
from thrifty.errors import ThriftyError
from thrifty.results import Run, read_jsonl, write_json
from thrifty.settled import in_order
from thrifty.space.genotype import from_json, save

SCHEMA = 1
KEPT = ("group", "hash", "parameters", "dice", "spread", "score", "by_supernet", "origin", "genotype")
OF_FINALISTS = ("group", "hash", "parameters", "dice", "score")
Row = dict[str, Any]


def best_by_network(rows: Sequence[Row]) -> list[Row]:
    """One row for each network: of equivalent labelled forms the best score counts."""
    best: dict[str, Row] = {}
    for row in rows:
        if row["hash"] not in best or row["score"] > best[row["hash"]]["score"]:
            best[row["hash"]] = row
    return list(best.values())


def pareto_front(rows: Sequence[Row]) -> list[Row]:
    """The candidates that no other beats in both parameters and score, smallest first."""
    front: list[Row] = []
    for row in sorted(best_by_network(rows), key=lambda r: (r["parameters"], -r["score"], r["hash"])):
        if not front or row["score"] > front[-1]["score"]:
            front.append(row)
    return front


def finalists_of(rows: Sequence[Row], budget: int, number: int, decoded: Collection[str] = ()) -> list[Row]:
    """The `number` (at least one) best networks within a budget by inherited score, best first; of equal ones the smaller.

    Candidates of every width and number of levels count. Where there are several places, the last one goes to the best of the
    networks that the searches themselves decoded to, unless one of them is among the finalists anyway: scores with inherited
    weights rank poorly, and it is the only candidate that a search stands for undisturbed.

    Args:
        decoded: hashes of the genotypes that the searches decoded to.

    Raises:
        ThriftyError: none is within the budget.
    """
    fitting = [row for row in best_by_network(rows) if row["parameters"] <= budget]
    if not fitting:
        raise ThriftyError(f"no scored candidate has at most {budget:,} parameters; add that budget to the searches")
    ranked = sorted(fitting, key=lambda row: (-row["score"], row["parameters"], row["hash"]))
    first, rest = ranked[: max(1, number)], ranked[max(1, number) :]
    if len(first) > 1 and not any(row["hash"] in decoded for row in first):
        first[-1] = next((row for row in rest if row["hash"] in decoded), first[-1])
    return first


def decide(finalists: Sequence[Row], short_dice: Mapping[str, Sequence[float]]) -> list[Row]:
    """The finalists, best first: by Dice after the short trainings, mean over seeds; of equal ones the smaller, then by hash.

    Args:
        short_dice: by hash, one Dice for each seed; empty where nothing was trained, then the order stays as it is.
    """
    if not short_dice:
        return list(finalists)
    return sorted(finalists, key=lambda row: (-fmean(short_dice[row["hash"]]), row["parameters"], row["hash"]))


def write_outcome(study: Study, run: Run, rows: Sequence[Row], kept: Mapping[int, Row] | None = None) -> None:
    """Trains the finalists of all budgets, lets that decide, and writes a genotype for every budget and, last, pareto.json.

    Args:
        kept: budgets that were chosen for before, which stay as they are (`thrifty.settled`).

    Raises:
        ThriftyError: no candidate is within a budget, or short trainings failed.
    """
    searched = read_jsonl(run.candidates)
    decoded = {row["genotype_hash"] for row in searched}
    kept = kept or {}
    budgets = sorted({row["budget"] for row in searched} - kept.keys())
    finalists = {budget: finalists_of(rows, budget, study.select.finalists, decoded) for budget in budgets}
    dice = _short_dice(study, run, finalists)
    ranked = {budget: decide(found, dice) for budget, found in finalists.items()}
    for budget, found in ranked.items():
        save(run.genotype(budget), from_json(found[0]["genotype"], study.allow_code))
    outcome = {
        "schema": SCHEMA,
        "evaluated": len(rows),
        "networks": len(best_by_network(rows)),
        "short": {"epochs": study.short_epochs, "steps": study.retrain.steps, "seeds": study.select.short_seeds},
        "chosen": in_order(kept, "chosen", {budget: _kept(found[0], KEPT, dice) for budget, found in ranked.items()}),
        "finalists": in_order(
            kept, "finalists", {budget: [_kept(row, OF_FINALISTS, dice) for row in found] for budget, found in ranked.items()}
        ),
        "front": [{key: row[key] for key in KEPT} for row in pareto_front(rows)],
    }
    resources = study.resources
    hours = {"cpus": resources.cpus_per_trial, "gpus": resources.gpus_per_trial}
    write_json(run.select_result, {"trial": "select", "seconds": sum(row["seconds"] for row in rows), **hours})
    write_json(run.pareto, outcome if dice else outcome | {"short": None, "finalists": {}})


def _short_dice(study: Study, run: Run, finalists: Mapping[int, Sequence[Row]]) -> dict[str, list[float]]:
    """Dice of the short trainings by hash and seed; empty where the study wants none."""
    if study.select.finalists < 2:
        return {}
    from thrifty.short import train_finalists

    return train_finalists(study, run, [row for found in finalists.values() for row in found])


def _kept(row: Row, keys: Sequence[str], short_dice: Mapping[str, Sequence[float]]) -> Row:
    """`short_dice` is None where nothing was trained."""
    return {key: row[key] for key in keys} | {"short_dice": short_dice.get(row["hash"])}
