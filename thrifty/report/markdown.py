"""The text of report.md, which index.html shows too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from thrifty.report.elements import ABSENT, code, images, number, plain_text, table
from thrifty.report.facts import Facts, Row
from thrifty.report.false_positives import false_positive_section
from thrifty.report.pictures import Pictures
from thrifty.report.repeat import repeat_section
from thrifty.report.robustness import robustness_section, taken_in_row
from thrifty.report.selection import selection_section
from thrifty.report.sentences import three_sentences
from thrifty.report.statistics import stability_section, statistics_section
from thrifty.report.verdict import Comparison, budget_sentences, interval_text, signed_points
from thrifty.space.cost import count
from thrifty.space.genotype import genotype_hash

RESEARCH_ONLY = "**Research use only. Not a medical device.**"
COMMON_COLUMNS = ("network", "parameters", "MACs", "Dice", "sd over seeds", "95 % interval", "IoU", "HD95")
LAST_COLUMNS = ("Dice of volumes", "seeds", "still improving", "training, s")
SEARCH_COLUMNS = ("seed", "budget", "width", "levels", "epochs", "parameters", "idle", "Dice", "collapsed", "seconds")
NETWORKS_NOTE = (
    "Dice, IoU and HD95 are means over the patients of the test set, seeds averaged. The 95 % interval (BCa bootstrap) is over "
    "patients: it says nothing about other seeds, whose spread is the sd beside it. MACs are those of one training patch. "
    "`still improving` counts the seeds that were still getting better when training ended."
)
COMPARISON_NOTE = (
    "Differences are paired by patient (seeds averaged within a patient first); 1 point is 0.01 Dice. `better` and `worse` "
    "where the 95 % interval of the mean difference excludes 0, `no worse by more than 0.5 points` where it lies above -0.5, "
    "otherwise `undecided`. The interval is over patients only and not corrected for the number of comparisons; `error over "
    "seeds` is the standard error of the difference over seeds, and `seeds may explain it` stands where twice that error would "
    "undo the verdict. Random networks count by their mean, and their spread takes the place of that over seeds."
)


def report_text(facts: Facts, comparisons: Sequence[Comparison], pictures: Mapping[str, Pictures]) -> str:
    """The whole report; `pictures` by section: pareto, searches, selection, genotypes, cases.

    A section is a list of blocks of markdown that begins with a heading of level 2.
    """
    summary = facts.summary or {}
    statistics, stability = summary.get("statistics"), summary.get("stability")
    parts = [
        f"# {plain_text(facts.study.name)}: report",
        *three_sentences(facts.networks, comparisons, statistics, stability),
        RESEARCH_ONLY,
        *_networks(facts, pictures["pareto"]),
        *_comparisons(facts, comparisons),
        *statistics_section(statistics),
        *false_positive_section(facts.networks),
        *_genotypes(facts, pictures["genotypes"]),
        *stability_section(stability),
        *_searches(facts, pictures["searches"]),
        *selection_section(facts.selection, pictures["selection"]),
        *_cases(facts, pictures["cases"]),
        *robustness_section(summary.get("robustness"), pictures["robustness"]),
        *_cost(facts.cost),
        *_data(facts),
        *_settings(facts),
        *repeat_section(facts),
    ]
    return "\n\n".join(parts) + "\n"


def _networks(facts: Facts, pictures: Pictures) -> list[str]:
    if not facts.networks:
        return ["## Networks", "No network is evaluated yet; `thrifty retrain` and `thrifty evaluate` come before this table."]
    labels = list(dict.fromkeys(label for network in facts.networks for label in network["dice_per_class"]))
    columns = [*COMMON_COLUMNS, *(f"Dice {plain_text(label)}" for label in labels), *LAST_COLUMNS]
    rows = [_network_row(network, labels) for network in facts.networks]
    rows += taken_in_row((facts.summary or {}).get("robustness"), columns)
    return ["## Networks", *images(pictures), table(columns, rows), NETWORKS_NOTE, *_still_missing(facts)]


def _network_row(network: Row, labels: Sequence[str]) -> list[str]:
    dice, hd95 = network["dice"], network["hd95"]
    interval = ABSENT if not dice["ci95"] else f"{dice['ci95'][0]:.4f} to {dice['ci95'][1]:.4f}"
    return [
        network["name"],
        f"{network['parameters']:,}",
        f"{network['macs']:,}",
        number(dice["mean"]),
        number(dice["sd_seeds"]),
        interval,
        number(network["iou"]["mean"]),
        ABSENT if hd95["mean"] is None else f"{hd95['mean']:.2f} {hd95['unit']}",
        *(number(network["dice_per_class"].get(label)) for label in labels),
        number(network["dice_volume"]),
        str(network["seeds"]),
        str(network["still_improving"]),
        f"{network['seconds']:.1f}",
    ]


def _still_missing(facts: Facts) -> list[str]:
    lines = []
    names = {network["name"] for network in facts.networks}
    absent = [name for name in ("unet", "unetpp") if name in facts.study.retrain.baselines and name not in names]
    if absent:
        lines.append(f"Not trained yet: {', '.join(absent)}.")
    missing = (facts.summary or {}).get("missing", [])
    if missing:
        lines.append(f"Trainings that had not finished and are not in the table: {plain_text(', '.join(missing))}.")
    failed = [f"{row['stage']} {row['trial']} ({row['reason']})" for row in (facts.summary or {}).get("failed", [])]
    if failed:
        lines.append(f"Trials that failed: {plain_text('; '.join(failed))}.")
    noted = (facts.summary or {}).get("notes", [])
    return [*lines, *(["\n".join(f"- {plain_text(note)}." for note in noted)] if noted else [])]


def _comparisons(facts: Facts, comparisons: Sequence[Comparison]) -> list[str]:
    if not comparisons:
        return ["## Comparisons", "There is nothing to compare yet."]
    columns = (
        "found network",
        "against",
        "difference, points",
        "95 % interval, points",
        "patients",
        "error over seeds",
        "verdict",
    )
    rows = []
    for c in comparisons:
        interval = " to ".join(signed_points(v) for v in c.interval) if c.interval else ABSENT
        error = ABSENT if c.seed_error is None else f"{100 * c.seed_error:.2f}"
        luck = " (seeds may explain it)" if c.beyond_seeds is False else ""
        rows.append([c.found, _against(c), signed_points(c.difference), interval, str(c.patients), error, c.verdict + luck])
    few = sorted({interval_text(c) for c in comparisons if c.interval is None})
    note = " ".join([COMPARISON_NOTE, *(f"{text}.".capitalize() for text in few)])
    return [
        "## Comparisons",
        table(columns, rows),
        note,
        "\n".join(f"- {s}" for s in budget_sentences(facts.networks, comparisons)),
    ]


def _against(comparison: Comparison) -> str:
    if comparison.above is None:
        return comparison.against
    return f"{comparison.against} (above {comparison.above[0]} of {comparison.above[1]})"


def _searches(facts: Facts, pictures: Pictures) -> list[str]:
    lines = ["## Searches"]
    if facts.searches:
        lines.append(table(SEARCH_COLUMNS, (_search_row(row) for row in facts.searches)))
        lines.append(
            "`parameters` are those of the decoded genotype, `idle` is the share of the budget that it leaves unused, `Dice` "
            "is its Dice on the architecture cases with the weights of its supernet."
        )
    else:
        lines.append("No search has finished yet; `thrifty search` comes before this table.")
    if facts.dropped:
        lines.append("\n".join(["Stopped early:\n", *(f"- {row['trial']}: {row['reason']}." for row in facts.dropped)]))
    if facts.running:
        lines.append(f"Searches that have started and not finished: {facts.running}.")
    return [*lines, *(images(pictures) or ["There are no records of epochs to draw."])]


def _search_row(row: Row) -> list[str]:
    whole = [f"{row[key]:,}" for key in ("seed", "budget", "width", "levels", "epochs", "parameters")]
    collapsed = "yes" if row.get("collapsed") else "no"
    return [*whole, f"{1 - row['parameters'] / row['budget']:.1%}", number(row["dice"]), collapsed, f"{row['seconds']:.1f}"]


def _genotypes(facts: Facts, pictures: Pictures) -> list[str]:
    lines = []
    for budget, genotype in facts.genotypes.items():
        size = f"{count(genotype):,} parameters, width {genotype.width}, {genotype.levels} levels"
        lines.append(f"- budget {budget:,}: {size}, cell path {list(genotype.path)}, hash `{genotype_hash(genotype)}`")
    text = "\n".join(lines) or "No genotype is chosen yet; `thrifty select` chooses them."
    return ["## Found genotypes", text, *images(pictures)]


def _cases(facts: Facts, pictures: Pictures) -> list[str]:
    lines = ["## Test cases"]
    if not pictures:
        return [*lines, "There are no example predictions yet; `thrifty evaluate` writes them."]
    listed = {row["network"] for row in facts.examples}
    networks = [network["name"] for network in facts.networks if network["name"] in listed]
    networks.sort(key=lambda name: not name.startswith("found_"))  # the first found network chose the cases
    shown = [{(row["case"], row["rank"]) for row in facts.examples if row["network"] == network} for network in networks]
    if len(networks) > 1 and all(cases == shown[0] for cases in shown):
        lines.append(f"All networks are shown on the same cases: the worst, median and best of `{networks[0]}`.")
    return [*lines, *images(pictures)]


def _cost(cost: Mapping[str, Any]) -> list[str]:
    if not cost:
        return ["## Cost", "The ledger is not written yet."]
    rows = []
    for stage, spent in cost.items():
        hours = [f"{spent['cpu_hours']:.3f}", f"{spent['gpu_hours']:.3f}"]
        rows.append([stage, f"{spent['trials']:,}", f"{spent['seconds']:.1f}", *hours])
    return ["## Cost", table(("stage", "trials", "seconds", "CPU-hours", "GPU-hours"), rows)]


def _data(facts: Facts) -> list[str]:
    if not facts.summary:
        return []
    data = facts.summary["data"]
    kind = "overlapping classes" if data.get("overlapping") else "classes"
    sets = ", ".join(f"{number:,} {name}" for name, number in data["sets"].items())
    line = (
        f"{plain_text(data['source'])}: {data['cases']:,} cases of {data['patients']:,} patients, {data['channels']} channels, "
        f"{data['classes']} {kind} ({plain_text(', '.join(data['labels']))}). Cases by set: {sets}."
    )
    return ["## Data", line]


def _settings(facts: Facts) -> list[str]:
    lines = ["## Settings and versions"]
    if facts.environment:
        lines.append(table(("what", "value"), flat({k: v for k, v in facts.environment.items() if k != "schema"})))
    else:
        lines.append("The versions were not recorded.")
    if not facts.run.study.is_file():
        return lines
    return [*lines, code(facts.run.study.read_text(encoding="utf-8"), "yaml")]


def flat(value: Mapping[str, Any], prefix: str = "") -> list[list[str]]:
    """Nested mappings and lists as rows of a dotted key and a value."""
    rows = []
    for key, inner in value.items():
        if isinstance(inner, list):
            inner = {str(number): entry for number, entry in enumerate(inner, start=1)} or "none"
        rows += flat(inner, f"{prefix}{key}.") if isinstance(inner, dict) else [[f"{prefix}{key}", plain_text(str(inner))]]
    return rows
