"""Choices that stay when a study grows: a budget keeps its genotype, since retrainings of it may be there already.

Searches that were added later had no say in it. That is said in the summary, and a user can have it chosen again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from thrifty.results import Run, read_json, read_jsonl

Row = dict[str, Any]


def settled(run: Run) -> dict[int, Row]:
    """The budgets that a genotype was chosen for, with what pareto.json says of each (`chosen`, and `finalists` if any)."""
    if not run.pareto.is_file():
        return {}
    outcome, there = read_json(run.pareto), run.genotypes()
    chosen, finalists = outcome.get("chosen", {}), outcome.get("finalists", {})
    epochs = (outcome.get("short") or {}).get("epochs")
    rows = {
        int(budget): {
            "chosen": _complete(row, epochs),
            "finalists": [_complete(found, epochs) for found in finalists[budget]] if budget in finalists else None,
        }
        for budget, row in chosen.items()
    }
    return {budget: row for budget, row in rows.items() if budget in there}


def _complete(row: Row, epochs: int | None) -> Row:
    """Outcomes of older versions, which had one round only, do not say for how long each network was trained."""
    if "short_epochs" in row:
        return row
    return row | {"short_epochs": epochs if row.get("short_dice") else None}


def joined_rounds(run: Run, budgets: Iterable[int], new: Sequence[Row]) -> list[Row]:
    """The rounds of pareto.json: those in which these budgets, which stay as they are, were chosen for, with the new ones."""
    kept = {str(budget) for budget in budgets}
    old = read_json(run.pareto).get("rounds", []) if kept and run.pareto.is_file() else []
    joined = []
    for before, after in itertools.zip_longest(old, new):
        finalists = {b: found for b, found in (before or {}).get("finalists", {}).items() if b in kept}
        if not finalists:
            joined += [after] if after else []
            continue
        of_kept = {name for found in finalists.values() for name in found}
        dice = {name: found for name, found in before["dice"].items() if name in of_kept}
        both = after or {**before, "finalists": {}, "dice": {}, "seconds": 0.0}
        together = {**finalists, **both["finalists"]}
        joined.append(
            both
            | {
                "finalists": {b: together[b] for b in sorted(together, key=int)},
                "dice": dice | both["dice"],
                "seconds": before["seconds"] + both["seconds"],
            }
        )
    return joined


def in_order(kept: Mapping[int, Row], key: str, new: Mapping[int, Any]) -> dict[str, Any]:
    """`key` of the budgets that were chosen for before, and what is new, smallest budget first."""
    both = {budget: row[key] for budget, row in kept.items() if row[key] is not None} | dict(new)
    return {str(budget): both[budget] for budget in sorted(both)}


def later_searches(run: Run) -> dict[int, list[str]]:
    """By budget, the searches for it that had no say when its genotype was chosen, since they were added later."""
    later: dict[int, list[str]] = {}
    kept = settled(run)
    for row in read_jsonl(run.candidates):
        heard = kept[row["budget"]]["chosen"].get("searches") if row["budget"] in kept else None
        if heard is not None and row["trial"] not in heard:
            later.setdefault(row["budget"], []).append(row["trial"])
    return later


def notes_on_later_searches(run: Run) -> list[str]:
    return [
        f"the genotype for {budget:,} parameters was chosen before these searches were added, so they had no say in it: "
        f"{', '.join(names)}; to have all genotypes chosen anew, remove select/pareto.json and retrain/"
        for budget, names in later_searches(run).items()
    ]
