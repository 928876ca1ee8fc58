"""select/why.md: for each budget what was chosen, from where and against what, in plain sentences and one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from thrifty.config import Study

COLUMNS = ("network", "parameters", "of the budget", "inherited score", "short Dice", "epochs", "proposed by", "decoded by", "")
SOURCES = {
    "mean": "the mean of the searches",
    "pool": "the pool of what searches decoded along the way",
    "scores": "a model of the scores so far",
    "front": "one of the best scored so far",
}
SHOWN = 6  # networks in the table where no finalist was trained
NOTE = (
    "All Dice here are on the selection cases, which decided; so those of the chosen ones are flattered. What a network is worth "
    "on cases that nothing has seen says `thrifty evaluate`."
)
Row = Mapping[str, Any]


def why_text(study: Study, outcome: Row, rows: Sequence[Row], searched: Sequence[Row], pool: Sequence[Row] = ()) -> str:
    """The whole page.

    Args:
        outcome: what pareto.json holds.
        rows: of select/evaluations.jsonl.
        searched: rows of candidates.jsonl.
        pool: what searches decoded along the way: hash, times (epochs, over all searches) and origins (each with trial).
    """
    passed = {row["hash"]: row for row in pool}
    parts = ["# Why these networks", _scored(study, outcome, rows, searched), _trained(outcome), NOTE]
    for budget in outcome["chosen"]:
        parts += _budget(int(budget), outcome, rows, searched, passed)
    return "\n\n".join(part for part in parts if part) + "\n"


def _scored(study: Study, outcome: Row, rows: Sequence[Row], searched: Sequence[Row]) -> str:
    seconds, cpus = sum(row["seconds"] for row in rows), study.resources.cpus_per_trial
    risk = study.select.risk
    score = "the mean Dice over the supernets" + (f" less {risk:g} times its spread" if risk else "")
    return (
        f"Study {study.name}: {outcome['evaluated']:,} candidates, {outcome['networks']:,} of them different networks, were "
        f"scored with weights that they inherit from the supernets of {len(searched)} searches. The score is {score}. "
        f"That took {seconds:,.1f} seconds ({seconds * cpus / 3600:.3f} CPU-hours)."
    )


def _trained(outcome: Row) -> str:
    if not outcome["rounds"]:
        return "No finalist was trained (`select.finalists` is below 2): the score alone decided."
    lines = []
    for number, one in enumerate(outcome["rounds"], start=1):
        lines.append(
            f"Round {number}: {len(one['dice'])} networks, each trained from scratch for {plural(one['epochs'], 'epoch')} of "
            f"{plural(one['steps'], 'step')} with {plural(one['seeds'], 'seed')}, {one['seconds']:,.1f} seconds in all."
        )
    return " ".join(["The best of each budget by score were trained for a short while, and that decided.", *lines])


def _budget(budget: int, outcome: Row, rows: Sequence[Row], searched: Sequence[Row], passed: Mapping[str, Row]) -> list[str]:
    chosen = outcome["chosen"][str(budget)]
    best = _best_forms(row for row in rows if row["parameters"] <= budget)
    ranked = list(outcome["finalists"].get(str(budget), ())) or list(best.values())[:SHOWN]
    decoded = _decoded(budget, searched)
    shown = ranked + [best[name] for name in decoded if name in best and name not in {row["hash"] for row in ranked}]
    genotype = chosen["genotype"]
    text = (
        f"Chosen is `{chosen['hash']}` with {chosen['parameters']:,} parameters, {chosen['parameters'] / budget:.1%} of the "
        f"budget: width {genotype['width']}, {genotype['levels']} levels, cell path {list(genotype['path'])}. "
        f"{_from(chosen['origin'])} {_same_as(chosen['hash'], decoded, passed)} {_inherited(chosen)}"
    )
    table = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    table += [f"| {' | '.join(_cells(row, budget, chosen, best, decoded))} |" for row in shown]
    against = f"{len(best):,} scored networks keep this budget. {_decided(ranked)}"
    return [f"## Budget {budget:,}", text, against, "\n".join(table)]


def _best_forms(rows: Any) -> dict[str, Row]:
    """By hash, the best-scored form of each network, best first; of equal ones the smaller."""
    best: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: (-row["score"], row["parameters"], row["hash"])):
        best.setdefault(row["hash"], row)
    return best


def _decoded(budget: int, searched: Sequence[Row]) -> dict[str, list[str]]:
    """By hash, the searches for this budget that decoded to it."""
    found: dict[str, list[str]] = {}
    for row in searched:
        if row["budget"] == budget:
            found.setdefault(row["genotype_hash"], []).append(row["trial"])
    return found


def _from(origin: Row) -> str:
    stray, size, path = (origin.get(key) for key in ("stray", "size", "path"))
    details = []
    if stray:
        details.append(f"with noise {stray:.2f}")
    if size is not None and size < 1:
        details.append(f"with size {size:.2f} of the room up to the budget")
    if path not in (None, "free"):
        details.append(f"with the cell path {path} given")
    return f"It was proposed by {_source(origin)}, {', '.join(details) or 'undisturbed'}."


def _source(origin: Row) -> str:
    return SOURCES.get(origin["source"], f"the search {origin['source']}")


def _same_as(name: str, decoded: Mapping[str, Sequence[str]], passed: Mapping[str, Row]) -> str:
    along = ""
    if name in passed:
        trials = " and ".join(origin["trial"] for origin in passed[name]["origins"])
        along = f" Along the way it was decoded in {plural(passed[name]['times'], 'epoch')} of {trials}."
    if name not in decoded:
        return f"No search for this budget decoded to it at its end.{along}"
    return f"It is what {' and '.join(decoded[name])} decoded to.{along}"


def _inherited(row: Row) -> str:
    supernets = plural(len(row["by_supernet"]), "supernet")
    return f"Its inherited Dice is {row['dice']:.4f}, with a spread of {row['spread']:.4f} over {supernets}."


def plural(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def _decided(ranked: Sequence[Row]) -> str:
    """What the first one has before the second."""
    if len(ranked) < 2:
        return "There was no other finalist."
    first, second = ranked[:2]
    if not first.get("short_dice"):
        return f"The score decided: {first['score']:.4f} against {second['score']:.4f} of `{second['hash']}`."
    if not second.get("short_dice"):
        return "The training of the others failed."
    if first["short_epochs"] != second["short_epochs"]:
        return f"It alone was left after {plural(second['short_epochs'], 'epoch')}."
    return (
        f"The short training decided: Dice {fmean(first['short_dice']):.4f} after {plural(first['short_epochs'], 'epoch')}, "
        f"against {fmean(second['short_dice']):.4f} of `{second['hash']}`."
    )


def _cells(row: Row, budget: int, chosen: Row, best: Mapping[str, Row], decoded: Mapping[str, Sequence[str]]) -> list[str]:
    short = row.get("short_dice")
    return [
        f"`{row['hash']}`",
        f"{row['parameters']:,}",
        f"{row['parameters'] / budget:.1%}",
        f"{row['score']:.4f}",
        f"{fmean(short):.4f}" if short else "–",
        str(row["short_epochs"]) if short else "–",
        _source(best[row["hash"]]["origin"]),
        ", ".join(decoded.get(row["hash"], ())) or "–",
        "chosen" if row["hash"] == chosen["hash"] else "",
    ]
