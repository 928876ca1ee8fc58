"""Elements of a report's markdown: tables, numbers, pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from thrifty.report.pictures import Pictures

ABSENT = "–"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table: the first column left, the others right."""
    lines = [columns, [":--", *["--:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def number(value: float | None, digits: int = 4) -> str:
    return ABSENT if value is None else f"{value:.{digits}f}"


def images(pictures: Pictures) -> list[str]:
    return [f"![{caption}]({name})\n\n*{caption}*" for name, caption in pictures]
