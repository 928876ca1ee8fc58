"""The last part of the selection: which candidates are trained for a short while, and which of them are chosen.

Scores with inherited weights rank poorly, so they only say who comes into it. Candidates are rows of select/evaluations.jsonl.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from thrifty.config import Study
from thrifty.errors import ThriftyError
from thrifty.results import Run, read_jsonl, write_json, write_text
from thrifty.settled import in_order, joined_rounds
from thrifty.space.genotype import from_json, save
from thrifty.why import why_text

if TYPE_CHECKING:
    from thrifty.short import Trained

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


@dataclass(frozen=True)
class Round:
    """A round of short trainings: its finalists by budget, and what the trained networks came to, by hash."""

    epochs: int
    finalists: Mapping[int, Sequence[Row]]
    trained: Mapping[str, Trained]

    def ranked(self, budget: int) -> list[Row]:
        """The finalists of a budget, best first; none where it was decided before. Without those of which a training failed.

        Raises:
            ThriftyError: all of them failed.
        """
        inside = self.finalists.get(budget, ())
        found = [row for row in inside if row["hash"] in self.trained]
        if inside and not found:
            raise ThriftyError(f"all short trainings for the budget {budget:,} failed; run the same command to go on")
        return decide(found, {network: one.dice for network, one in self.trained.items()})


def halve(study: Study, run: Run, finalists: Mapping[int, Sequence[Row]]) -> list[Round]:
    """Successive halving (Jamieson and Talwalkar 2016): the finalists of each budget are trained, and the best of them longer.

    Which come into a further round depends on the one before alone. None is trained where the study wants no short trainings.

    Raises:
        ThriftyError: short trainings failed.
    """
    from thrifty.short import train_finalists

    rounds: list[Round] = []
    for number, (wanted, epochs) in enumerate(study.short_rounds):
        inside = {budget: rounds[-1].ranked(budget)[:wanted] for budget in finalists} if rounds else dict(finalists)
        if number:
            inside = {budget: found for budget, found in inside.items() if len(found) > 1}
        if not any(inside.values()):
            break
        trained = train_finalists(study, run, [row for found in inside.values() for row in found], number)
        rounds.append(Round(epochs, inside, trained))
    return rounds


def rank(finalists: Sequence[Row], rounds: Sequence[Round], budget: int) -> list[Row]:
    """The finalists of a budget, best first: who came further is better, then by the Dice of the last round both were in."""
    order = list(finalists)
    for one in rounds:
        first = one.ranked(budget)
        inside = {row["hash"] for row in first}
        order = first + [row for row in order if row["hash"] not in inside]
    return order


def write_outcome(study: Study, run: Run, rows: Sequence[Row], kept: Mapping[int, Row] | None = None) -> None:
    """Trains the finalists of all budgets, lets that decide, and writes a genotype for each, why.md and, last, pareto.json.

    Args:
        kept: budgets that were chosen for before, which stay as they are (`thrifty.settled`).

    Raises:
        ThriftyError: no candidate is within a budget, or short trainings failed.
    """
    searched = read_jsonl(run.candidates)
    decoded = {row["genotype_hash"] for row in searched}
    kept = kept or {}
    budgets = sorted({row["budget"] for row in searched} - kept.keys())
    unbounded = {row["budget"] for row in searched if not row.get("bounded", True)}
    finalists = {
        budget: finalists_of(_own(rows, budget) if budget in unbounded else rows, budget, study.select.finalists, decoded)
        for budget in budgets
    }
    rounds = halve(study, run, finalists)
    ranked = {budget: rank(found, rounds, budget) for budget, found in finalists.items()}
    for budget, found in ranked.items():
        save(run.genotype(budget), from_json(found[0]["genotype"], study.allow_code))
    outcome = {
        "schema": SCHEMA,
        "evaluated": len(rows),
        "networks": len(best_by_network(rows)),
        "short": _recipe(study, rounds[-1]) if rounds else None,
        "rounds": joined_rounds(run, kept, [_round(study, one) for one in rounds]),
        "chosen": in_order(
            kept,
            "chosen",
            {
                b: _kept(found[0], KEPT, rounds, b) | {"searches": [row["trial"] for row in searched if row["budget"] == b]}
                for b, found in ranked.items()
            },
        ),
        "finalists": in_order(
            kept,
            "finalists",
            {b: [_kept(row, OF_FINALISTS, rounds, b) for row in found] for b, found in ranked.items() if rounds},
        ),
        "front": [{key: row[key] for key in KEPT} for row in pareto_front(rows)],
    }
    resources = study.resources
    hours = {"cpus": resources.cpus_per_trial, "gpus": resources.gpus_per_trial}
    write_json(run.select_result, {"trial": "select", "seconds": sum(row["seconds"] for row in rows), **hours})
    write_text(run.why, why_text(study, outcome, rows, searched, read_jsonl(run.pool)))
    write_json(run.pareto, outcome)


def _own(rows: Sequence[Row], budget: int) -> list[Row]:
    """The candidates of a setting itself: without a limit on parameters it stands for its searches, not for what others found."""
    return [row for row in rows if row["group"].startswith(f"b{budget}_")]


def _recipe(study: Study, one: Round) -> Row:
    return {"epochs": one.epochs, "steps": study.retrain.steps, "seeds": study.select.short_seeds}


def _round(study: Study, one: Round) -> Row:
    """`finalists`: by budget, hashes in the order of their Dice; `dice`: by hash, for each seed; `seconds`: of all trainings."""
    return _recipe(study, one) | {
        "finalists": {str(budget): [row["hash"] for row in one.ranked(budget)] for budget in one.finalists},
        "dice": {network: list(found.dice) for network, found in one.trained.items()},
        "seconds": sum(found.seconds for found in one.trained.values()),
    }


def _kept(row: Row, keys: Sequence[str], rounds: Sequence[Round], budget: int) -> Row:
    """With the Dice and the epochs of the last round that the network was in for this budget; None where it was not trained."""
    inside = [one for one in rounds if any(row["hash"] == other["hash"] for other in one.finalists.get(budget, ()))]
    last = next((one for one in reversed(inside) if row["hash"] in one.trained), None)
    if last is None:
        return {key: row[key] for key in keys} | {"short_dice": None, "short_epochs": None}
    return {key: row[key] for key in keys} | {"short_dice": list(last.trained[row["hash"]].dice), "short_epochs": last.epochs}
