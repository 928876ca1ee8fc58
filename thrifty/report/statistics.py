"""The sections of report.md on statistics and stability: short tables of the numbers in summary.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thrifty.report.elements import ABSENT, table

Row = Mapping[str, Any]
TEST_COLUMNS = ("found network", "against", "difference, points", "p (Wilcoxon)", "p (Holm)", "patients")
TEST_NOTE = (
    "Two-sided Wilcoxon signed-rank tests of Dice paired by patient, seeds averaged; `p (Holm)` allows for all the comparisons of "
    "the table. They ask whether these trained networks differ on other patients, not whether other seeds would differ too."
)


def statistics_section(found: Row | None) -> list[str]:
    """Nothing where the summary is of a version without statistics."""
    if not found:
        return []
    lines = ["## Statistics"]
    if found["paired"]:
        lines += [table(TEST_COLUMNS, [_test_row(row) for row in found["paired"]]), TEST_NOTE]
    facts = [*map(_luck, found["luck"]), *map(_seeds, found["seeds"]), *map(_variance, found["variance"])]
    if facts:
        lines.append("\n".join(f"- {fact}" for fact in facts))
    return lines if len(lines) > 1 else [*lines, "There is nothing to compare yet."]


def _test_row(row: Row) -> list[str]:
    difference = ABSENT if row["difference"] is None else f"{100 * row['difference'] + 0.0:+.2f}"
    return [row["found"], row["against"], difference, probability(row["p"]), probability(row["p_holm"]), str(row["patients"])]


def probability(value: float | None) -> str:
    if value is None:
        return ABSENT
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _luck(row: Row) -> str:
    head = f"`{row['found']}`: for what its search and selection cost ({row['search_hours']:.3f} {row['unit']}) a random search trains"
    head = f"{head} {row['draws']} genotypes"
    if row["probability"] is None:
        return f"{head}; {row['random']} random genotypes are too few to say how likely the best of them is at least as good."
    low, high = row["ci95"]
    return (
        f"{head}; the best of them is at least as good with probability {row['probability']:.2f} (95 % interval {low:.2f} to "
        f"{high:.2f}, from {row['random']} random genotypes; {row['p_empirical']:.0%} of these are at least as good)."
    )


def _seeds(row: Row) -> str:
    needed = ", ".join(f"{_seeds_text(one['seeds'])} for {one['points']:g}" for one in row["needed"])
    least = row["detectable_points"]
    now = "" if least is None else f" The {row['seeds']} that there are tell {least:.2f} points."
    return (
        f"`{row['found']}`: with an sd over seeds of {100 * row['sd']:.2f} points, retraining seeds of each network that tell a "
        f"difference, in points, with power 0.8: {needed}.{now}"
    )


def _seeds_text(seeds: int | None) -> str:
    return "more than 100,000" if seeds is None else f"{seeds:,}"


def _variance(row: Row) -> str:
    parts = ", ".join(f"{name.replace('_', ' ')} {share:.1%}" for name, share in row["share"].items() if share >= 5e-4)
    return f"`{row['group']}`: variance of Dice over {_levels(row['levels'])}: {parts or 'none'}."


def _levels(levels: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name.replace('_', ' ')}s" for name, number in levels.items())
