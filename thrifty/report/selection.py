"""The section of report.md on the selection: what was scored, what decided, what was chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from thrifty.report.elements import ABSENT, images, number, table
from thrifty.report.facts import Row, Selection
from thrifty.report.pictures import Pictures

COLUMNS = ("budget", "parameters", "idle", "inherited Dice", "spread over supernets", "short Dice", "from search", "path")
FINALIST_COLUMNS = ("budget", "finalist", "parameters", "inherited score", "short Dice", "chosen")
NOTE = (
    "Inherited Dice is that on the selection cases with weights of the supernets, the mean over all that have the candidate's "
    "width and levels; `spread over supernets` is its standard deviation over them; `short Dice` is that after the short "
    "training, the mean over its seeds. `from search` names the search whose "
    "distribution the candidate was decoded from (`mean`: the mean of all), with the noise that was put on it; `idle` is the "
    "share of the budget that it leaves unused."
)
FEWEST = 5
"""Finalists below which no rank correlation is given: of four in one order or another, nothing follows."""


def selection_section(selection: Selection | None, pictures: Pictures) -> list[str]:
    if selection is None:
        return ["## Selection", "Nothing is selected yet; `thrifty select` scores candidates before this table."]
    text = f"{len(selection.candidates):,} candidates were scored, {selection.networks:,} of them different networks."
    if selection.seconds is not None and selection.cpu_hours is not None:
        text += f" That took {selection.seconds:.1f} seconds ({selection.cpu_hours:.3f} CPU-hours)."
    rows = (_chosen_row(budget, row) for budget, row in selection.chosen.items())
    chosen = [table(COLUMNS, rows), NOTE, *images(pictures)]
    return ["## Selection", text, _what_decided(selection), *chosen, *_finalists(selection)]


def _chosen_row(budget: int, row: Row) -> list[str]:
    origin, idle = row["origin"], f"{1 - row['parameters'] / budget:.1%}"
    source = origin["source"] + (f", noise {origin['stray']:.2f}" if origin.get("stray") else "")
    dice = [number(row["dice"]), number(row["spread"]), _mean(row.get("short_dice"))]
    return [f"{budget:,}", f"{row['parameters']:,}", idle, *dice, source, str(list(row["genotype"]["path"]))]


def _what_decided(selection: Selection) -> str:
    if selection.finalists is None:
        return (
            "**What decided:** the inherited score. pareto.json names no finalists and no short Dice: it is of a version that "
            "trained none of the candidates before the choice."
        )
    if selection.short is None:
        return "**What decided:** the inherited score alone; no finalist was trained, since `select.finalists` is below 2."
    short = selection.short
    seeds = "one seed" if short["seeds"] == 1 else f"the mean over {short['seeds']} seeds"
    epochs = "1 epoch" if short["epochs"] == 1 else f"{short['epochs']} epochs"
    text = (
        "**What decided:** for each budget, Dice on the selection cases at the end of a short training from scratch "
        f"({epochs} of {short['steps']} steps, {seeds}) of its finalists, the best by inherited score."
    )
    if len(selection.rounds) > 1:
        text += f" These were halved in {len(selection.rounds)} rounds: {_rounds(selection.rounds)}."
    if selection.short_trainings:
        text += (
            f" These {selection.short_trainings} trainings took {selection.short_seconds:.1f} seconds "
            f"({selection.short_cpu_hours:.3f} CPU-hours)."
        )
    return text


def _rounds(rounds: Sequence[Row]) -> str:
    """The finalists of each round, over all budgets, and for how long they were trained."""
    numbers = [len(one["dice"]) for one in rounds]
    return ", then ".join(f"{number} networks for {one['epochs']} epochs" for number, one in zip(numbers, rounds, strict=True))


def _finalists(selection: Selection) -> list[str]:
    if not selection.finalists:
        return []
    rows = [
        [
            f"{budget:,}",
            f"`{row['hash']}`",
            f"{row['parameters']:,}",
            number(row["score"]),
            _mean(row["short_dice"]),
            "yes" if place == 0 else "",
        ]
        for budget, found in selection.finalists.items()
        for place, row in enumerate(found)
    ]
    return ["### Finalists", table(FINALIST_COLUMNS, rows), agreement(_of_first_round(selection))]


def _of_first_round(selection: Selection) -> dict[int, list[Row]]:
    """The finalists with the Dice of the first round, in which all of them were trained for equally long."""
    found, first = selection.finalists or {}, selection.rounds[0]["dice"] if selection.rounds else {}
    return {
        budget: [{**row, "short_dice": first.get(row["hash"], row["short_dice"])} for row in rows]
        for budget, rows in found.items()
    }


def _mean(short_dice: Sequence[float] | None) -> str:
    return number(fmean(short_dice)) if short_dice else ABSENT


def agreement(finalists: Mapping[int, Sequence[Row]]) -> str:
    """Kendall's tau-b between inherited score and short Dice, budget by budget: larger networks are better in both."""
    clauses = [_clause(budget, found) for budget, found in finalists.items()]
    return (
        f"Kendall's tau between inherited score and short Dice (1: the same order, 0: unrelated, -1: the reverse): "
        f"{'; '.join(clauses)}. Finalists are the best by inherited score, so it says nothing about the order of the others."
    )


def _clause(budget: int, found: Sequence[Row]) -> str:
    from scipy.stats import kendalltau

    found = [row for row in found if row["short_dice"]]  # of those whose training failed there is none
    if len(found) < FEWEST:
        return f"not given for the budget {budget:,}, whose {len(found)} finalists are too few (fewer than {FEWEST})"
    tau = float(kendalltau([row["score"] for row in found], [fmean(row["short_dice"]) for row in found]).statistic)
    if math.isnan(tau):
        return f"none for the budget {budget:,}, all of whose {len(found)} finalists are equal in one of the two"
    return f"{tau:.2f} over the {len(found)} finalists of the budget {budget:,}"
