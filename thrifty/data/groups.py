"""groups.csv: which case belongs to which patient, and maybe to which volume and to which subgroups (site, scanner, kind)."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from thrifty.data.cases import Problems
from thrifty.errors import ThriftyError, nearest, one_line

COLUMNS = ("case", "patient", "volume")


@dataclass(frozen=True)
class Group:
    """`subgroups`: (column, value) of each further column; empty fields are left out."""

    patient: str
    volume: str | None
    subgroups: tuple[tuple[str, str], ...] = ()


def read_groups(path: Path, cases: Collection[str]) -> dict[str, Group]:
    """The patient and volume of each case; without the file, each case is a patient of its own.

    Raises:
        ThriftyError: not readable, wrong columns, an empty field, a case that is listed twice, unknown or left out.
    """
    if not path.is_file():
        return {name: Group(name, None) for name in cases}
    problems = Problems()
    groups: dict[str, Group] = {}
    for line, row in enumerate(_rows(path), start=2):
        case, patient = (row.get("case") or "").strip(), (row.get("patient") or "").strip()
        if not case or not patient or None in row:
            problems.add("lines that are not case,patient[,volume][,more columns]", f"line {line}")
        elif case in groups:
            problems.add("cases listed twice", case)
        else:
            groups[case] = Group(patient, (row.get("volume") or "").strip() or None, _subgroups(row))
    known = set(cases)
    for case in groups:
        if case not in known:
            problems.add("cases that have no image", case + nearest(case, known))
    for case in cases:
        if case not in groups:
            problems.add("cases with an image that it leaves out", case)
    problems.raise_if_any(path, "it needs one line for each image: case (the file name without its ending), patient")
    return groups


def _subgroups(row: dict[str | None, str]) -> tuple[tuple[str, str], ...]:
    further = ((name, (value or "").strip()) for name, value in row.items() if name is not None and name not in COLUMNS)
    return tuple((name, value) for name, value in further if value)


def _rows(path: Path) -> list[dict[str | None, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ThriftyError(f"{path} cannot be read: {one_line(error)}; save it as UTF-8 text") from None
    reader = csv.DictReader(io.StringIO(text))
    columns = [(name or "").strip() for name in reader.fieldnames or ()]
    if "case" not in columns or "patient" not in columns or "" in columns or len(set(columns)) != len(columns):
        first = ",".join(columns) or "nothing"
        raise ThriftyError(
            f"{path}: its first line is '{first}'; it must be case,patient or case,patient,volume, and then maybe columns of "
            "your own (with commas)"
        )
    for name in set(columns) - set(COLUMNS):
        if difflib.get_close_matches(name.lower(), COLUMNS, cutoff=0.8):  # a slip of the pen would quietly become a subgroup
            raise ThriftyError(f"{path}: column '{name}' is nearly one of {', '.join(COLUMNS)}; name it so, or quite otherwise")
    reader.fieldnames = columns
    try:
        return list(reader)  # pyrefly: ignore[bad-return]
    except csv.Error as error:
        raise ThriftyError(f"{path} is no table of commas: {one_line(error)}") from None
