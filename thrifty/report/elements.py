"""Elements of a report's markdown: tables, numbers, pictures, and text that comes from the user."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from thrifty.report.pictures import Pictures

ABSENT = "–"
MARKS = re.compile(r"[\\`*\[\]<>&~]|(?<![^\W_])_|_(?![^\W_])|^(?=[#+-])")
ORDERED = re.compile(r"^(\d+)(?=[.)](\s|$))")


def plain_text(text: str) -> str:
    """`text` such that markdown shows it as it is, on one line: names of classes, cases and networks are the user's."""
    return ORDERED.sub(r"\1\\", MARKS.sub(r"\\\g<0>", " ".join(text.split())))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table: the first column left, the others right."""
    lines = [columns, [":--", *["--:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def number(value: float | None, digits: int = 4) -> str:
    return ABSENT if value is None else f"{value:.{digits}f}"


def images(pictures: Pictures) -> list[str]:
    """Each picture with its caption, which is also the text for those who do not see it."""
    return [f"![{plain_text(caption)}]({name})\n\n*{plain_text(caption)}*" for name, caption in pictures]


def code(text: str, language: str) -> str:
    """A block of code; its fence is longer than any that `text` holds."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
