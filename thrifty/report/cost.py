"""The section of report.md on cost: the ledger, sizes and latencies, Dice for them, and random search at equal hours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from thrifty.report.elements import ABSENT, number, table

Row = Mapping[str, Any]
STAGE_COLUMNS = ("stage", "trials", "seconds", "CPU-hours", "GPU-hours")
HOURS_COLUMNS = ("what for", "trials", "CPU-hours", "GPU-hours")
SIZE_COLUMNS = (
    "network", "parameters", "weights, KiB", "MACs", "latency, ms", "q1 to q3", "Dice / million parameters", "Dice / hour"
)  # fmt: skip
RANDOM_COLUMNS = ("found network", "searching, selecting", "one training", "draws", "P(one as good)", "95 % interval")
HOURS_NOTE = "Hours of all attempts, those that died included. Hours of one machine are not those of another."
RATIO_NOTE = (
    "`Dice / hour` counts searching and selecting for the budget (an equal part of a selection for several) and one training "
    "for a found network, the search itself and one training for what a search decoded (`decoded_`), "
    "one training for all others. Both ratios reward whatever is small: half the parameters at a tenth less Dice look better and "
    "may be useless. They compare networks of this table only, not data sets, not machines."
)
RANDOM_NOTE = (
    "`draws`: random networks of the same budget that could be trained in the hours of searching and selecting; `P`: the "
    "probability that the best of them, known without error, is at least as good as the found one (docs/statistics.md)."
)


def cost_section(summary: Row | None, cost: Row) -> list[str]:
    """
    Args:
        summary: summary.json; None or of an older version: the ledger alone.
        cost: by stage, as in the ledger.
    """
    if not cost:
        return ["## Cost", "The ledger is not written yet."]
    lines = ["## Cost", table(STAGE_COLUMNS, [_stage_row(stage, spent) for stage, spent in cost.items()])]
    spent = (summary or {}).get("spending")
    if not spent:
        return lines
    networks = (summary or {})["networks"]
    lines += ["### Hours by purpose", table(HOURS_COLUMNS, map(_hours_row, spent["hours"])), HOURS_NOTE]
    by_name = {row["network"]: row for row in spent["per_network"]}
    rows = [_size_row(network, by_name.get(network["name"], {})) for network in networks]
    return [*lines, "### Size and speed", table(SIZE_COLUMNS, rows), _speed_note(networks), *_random(spent["random_search"])]


def _stage_row(stage: str, spent: Row) -> list[str]:
    hours = [f"{spent['cpu_hours']:.3f}", f"{spent['gpu_hours']:.3f}"]
    return [stage, f"{spent['trials']:,}", f"{spent['seconds']:.1f}", *hours]


def _hours_row(row: Row) -> list[str]:
    what = row["purpose"]
    if row["budget"] is not None:
        what = f"{what}, budget {row['budget']:,}"
    if row["network"] is not None:
        what = f"{what} {row['network']}"
    return [what, f"{row['trials']:,}", f"{row['cpu_hours']:.3f}", f"{row['gpu_hours']:.3f}"]


def _size_row(network: Row, ratios: Row) -> list[str]:
    latency, size = network.get("latency_ms"), network.get("weights_bytes")
    return [
        network["name"],
        f"{network['parameters']:,}",
        ABSENT if size is None else f"{size / 1024:,.1f}",
        f"{network['macs']:,}",
        ABSENT if latency is None else f"{latency['median']:.2f}",
        ABSENT if latency is None else f"{latency['q1']:.2f} to {latency['q3']:.2f}",
        number(ratios.get("dice_per_million_parameters"), 3),
        number(ratios.get("dice_per_hour"), 3),
    ]


def _speed_note(networks: Sequence[Row]) -> str:
    measured = [network["latency_ms"] for network in networks if network.get("latency_ms")]
    if not measured:
        return f"The latency was not measured. {RATIO_NOTE}"
    one = measured[0]
    image, threads = " x ".join(map(str, one["image"])), "one thread" if one["threads"] == 1 else f"{one['threads']} threads"
    return (
        f"Latency in PyTorch: one image of {image} pixels, batch 1, {threads} of {one['device']}, median and quartiles of "
        f"{one['rounds']} rounds in which all networks take turns. {RATIO_NOTE}"
    )


def _random(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    facts = [f"- `{row['found']}`: no probability, since {row['missing']}." for row in rows if row["missing"]]
    listed = ["\n".join(facts)] if facts else []
    return ["### Random search at equal hours", table(RANDOM_COLUMNS, map(_random_row, rows)), RANDOM_NOTE, *listed]


def _random_row(row: Row) -> list[str]:
    training, draws, interval = row["training_hours"], row["draws"], row["ci95"]
    return [
        row["found"],
        f"{row['search_hours']:.3f} {row['unit']}",
        ABSENT if training is None else f"{training:.3f}",
        ABSENT if draws is None else f"{draws:,}",
        number(row["probability"], 2),
        ABSENT if not interval else f"{interval[0]:.2f} to {interval[1]:.2f}",
    ]
