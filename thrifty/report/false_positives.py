"""The table of what networks claim on test cases without a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from thrifty.report.elements import ABSENT, plain_text, table
from thrifty.report.facts import Row

COLUMNS = ("network", "class", "empty cases", "with a claim", "share", "claimed area, pixels", "claimed area, mm²")
NOTE = (
    "Test cases whose mask does not hold the class: in how many of them a network claims it all the same (`with a claim`), and "
    "how large what it claims there is, as a mean over all empty cases. Means over seeds. Dice of such a case is 1 where nothing "
    "is claimed and 0 otherwise, however small the claim; the area says how small. `any`: cases that hold no class at all."
)


def false_positive_section(networks: Sequence[Row]) -> list[str]:
    """Nothing where no test case lacks a class, or the summary is of a version that did not count it."""
    rows = []
    for network in networks:
        found = network.get("false_positives") or {"per_class": {}, "any": {"empty_cases": 0}}
        by_class: Mapping[str, Row] = found["per_class"]
        lines = [*by_class.items(), *([("any", found["any"])] if len(by_class) > 1 else [])]
        rows += [_row(network["name"], label, values) for label, values in lines if values["empty_cases"]]
    return ["## False positives on empty masks", table(COLUMNS, rows), NOTE] if rows else []


def _row(name: str, label: str, values: Row) -> list[str]:
    area = ABSENT if values["mm2"] is None else f"{values['mm2']:.1f}"
    claimed = f"{values['claimed']:.1f}"
    return [
        name,
        plain_text(label),
        f"{values['empty_cases']:,}",
        claimed,
        f"{values['share']:.1%}",
        f"{values['pixels']:.1f}",
        area,
    ]
