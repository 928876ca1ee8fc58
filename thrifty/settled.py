"""Choices that stay when a study grows: a budget keeps its genotype, since retrainings of it may be there already.

Searches that were added later had no say in it. That is said in the summary, and a user can have it chosen again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thrifty.results import Run, read_json, read_jsonl

Row = dict[str, Any]


def settled(run: Run) -> dict[int, Row]:
    """The budgets that a genotype was chosen for, with what pareto.json says of each (`chosen`, and `finalists` if any)."""
    if not run.pareto.is_file():
        return {}
    outcome, there = read_json(run.pareto), run.genotypes()
    chosen, finalists = outcome.get("chosen", {}), outcome.get("finalists", {})
    rows = {int(budget): {"chosen": row, "finalists": finalists.get(budget)} for budget, row in chosen.items()}
    return {budget: row for budget, row in rows.items() if budget in there}


def in_order(kept: Mapping[int, Row], key: str, new: Mapping[int, Any]) -> dict[str, Any]:
    """`key` of the budgets that were chosen for before, and what is new, smallest budget first."""
    both = {budget: row[key] for budget, row in kept.items() if row[key] is not None} | dict(new)
    return {str(budget): both[budget] for budget in sorted(both)}


def later_searches(run: Run) -> dict[int, list[str]]:
    """By budget, the searches for it that had no say when its genotype was chosen, since they were added later."""
    heard: dict[str, set[str]] = {}
    for row in read_jsonl(run.evaluations):
        heard.setdefault(row["group"], set()).update(row["by_supernet"])
    later: dict[int, list[str]] = {}
    kept = settled(run)
    for row in read_jsonl(run.candidates):
        group = f"b{row['budget']}_w{row['width']}_d{row['levels']}"
        if row["budget"] in kept and row["trial"] not in heard.get(group, ()):
            later.setdefault(row["budget"], []).append(row["trial"])
    return later


def notes_on_later_searches(run: Run) -> list[str]:
    return [
        f"the genotype for {budget:,} parameters was chosen before these searches were added, so they had no say in it: "
        f"{', '.join(names)}; to have all genotypes chosen anew, remove select/pareto.json and retrain/"
        for budget, names in later_searches(run).items()
    ]
