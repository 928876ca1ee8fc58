"""The sections of report.md on statistics and stability: short tables of the numbers in summary.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thrifty.report.elements import ABSENT, number, table

Row = Mapping[str, Any]
TEST_COLUMNS = ("found network", "against", "difference, points", "p (Wilcoxon)", "p (Holm)", "patients")
TEST_NOTE = (
    "Two-sided Wilcoxon signed-rank tests of Dice paired by patient, seeds averaged; `p (Holm)` allows for all comparisons "
    "of the table. They ask whether these trained networks differ on other patients, not whether other seeds would differ too."
)


def statistics_section(found: Row | None) -> list[str]:
    """Nothing where the summary is of a version without statistics."""
    if not found:
        return []
    lines = ["## Statistics"]
    if found["paired"]:
        lines += [table(TEST_COLUMNS, [_test_row(row) for row in found["paired"]]), TEST_NOTE]
    facts = [
        *map(_searches, found.get("searches", ())),
        *map(_luck, found["luck"]),
        *map(_seeds, found["seeds"]),
        *map(_variance, found["variance"]),
    ]
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


def _searches(row: Row) -> str:
    decoded, random = row["decoded"], row["random"]
    alone = "" if decoded["sd"] is None else f", sd over search seeds {100 * decoded['sd']:.2f} points"
    setting = f" ({row['setting']})" if "setting" in row else ""
    head = f"budget {row['budget']:,}{setting}: what {decoded['number']} searches decoded by themselves has a Dice of "
    head += f"{decoded['mean']:.4f}{alone} ({decoded['low']:.4f} to {decoded['high']:.4f}); "
    head += f"the chosen network is above {row['below_found']} of them"
    if row["difference"] is None:
        return f"{head}; there is no random genotype to compare with."
    against = f"{100 * row['difference'] + 0.0:+.2f} points against {random['number']} random genotypes"
    if row["ci95"] is None:
        return f"{head}; {against}, too few to say more."
    low, high = (f"{100 * value + 0.0:+.2f}" for value in row["ci95"])
    return f"{head}; {against} (95 % interval over networks {low} to {high}, p {probability(row['p'])})."


def _luck(row: Row) -> str:
    cost = f"{row['search_hours']:.3f} {row['unit']}"
    head = f"`{row['found']}`: for what its search and selection cost ({cost}) a random search trains {row['draws']} genotypes"
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
    return ", ".join(f"{count} {name.replace('_', ' ')}s" for name, count in levels.items())


STABILITY_COLUMNS = (
    "budget",
    "searches",
    "networks",
    "kappa of ops",
    "kappa of paths",
    "distance",
    "by chance",
    "p",
    "collapsed",
)
STABILITY_NOTE = (
    "Of the searches of a setting: how many different networks they decoded; Fleiss' kappa over edges and over diagonals (1: all "
    "agree, 0: as much as the shares of the categories alone); the mean number of choices in which two of them differ. `by "
    "chance`: that distance between random genotypes of the same size, with its 95 % range; p: how often these are as near."
)


def stability_section(found: Row | None) -> list[str]:
    """Nothing where the summary is of a version without it, or where there are no searches."""
    if not found or not found["settings"]:
        return []
    lines = ["## Stability", table(STABILITY_COLUMNS, [_setting_row(row) for row in found["settings"]]), STABILITY_NOTE]
    known = [row for row in found["rank_correlation"] if row["tau"] is not None]
    facts = [_consensus(row) for row in found["settings"] if row["consensus"]] + [_tau(row) for row in known]
    return [*lines, "\n".join(f"- {fact}" for fact in facts)] if facts else lines


def _setting_row(row: Row) -> list[str]:
    head = [f"{row['budget']:,}", str(len(row["seeds"])), str(row["networks"])]
    collapsed = str(len(row["collapsed"]))
    if not row["agreement"]:
        return [*head, *[ABSENT] * 5, collapsed]
    ops, paths, apart = (row["agreement"][name] for name in ("op_kappa", "path_kappa", "distance"))
    chance = apart["chance"]
    span = ABSENT if chance["mean"] is None else f"{chance['mean']:.1f} ({chance['low']:.1f} to {chance['high']:.1f})"
    kappas = [number(one["value"], 2) for one in (ops, paths)]
    return [*head, *kappas, number(apart["value"], 1), span, number(chance["p"], 3), collapsed]


def _consensus(row: Row) -> str:
    found = row["consensus"]
    by = f"found by {', '.join(found['trials'])}" if found["trials"] else "found by no search as it is"
    shape = f"width {row['width']}, {row['levels']} levels"
    return f"budget {row['budget']:,} ({shape}): consensus genotype `{found['hash']}`, {found['parameters']:,} parameters, {by}."


def _tau(row: Row) -> str:
    where = "all budgets together" if row["budget"] is None else f"budget {row['budget']:,}"
    ranks = f"Kendall's tau of inherited scores with Dice after {row['against']}"
    return f"{where}: {ranks} {row['tau']:.2f} (p {row['p']:.3f}, {row['networks']} networks)."
