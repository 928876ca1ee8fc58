"""The report of an import: what came in, what was converted how, what was refused and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thrifty.data.decode import times
from thrifty.data.importing.classes import Classes
from thrifty.data.importing.items import Found
from thrifty.data.importing.write import Written
from thrifty.results import write_json, write_text

SCHEMA = 1


def write_report(folder: Path, found: Found, written: Sequence[Written], classes: Classes, notes: Sequence[str]) -> None:
    """report.json and report.md in `folder`."""
    facts = _facts(found, written, classes, notes)
    write_json(folder / "report.json", facts)
    write_text(folder / "report.md", "\n".join(_markdown(facts)) + "\n")


def _facts(found: Found, written: Sequence[Written], classes: Classes, notes: Sequence[str]) -> dict[str, Any]:
    conversions = Counter(note for row in written for note in row.notes)
    total = sum(sum(row.values.values()) for row in written)
    pixels: Counter[int] = Counter()
    for row in written:
        pixels.update(row.values)
    overlapping = sum(row.overlapping_pixels for row in written)
    return {
        "schema": SCHEMA,
        "source": found.kind,
        "cases": len(written),
        "patients": len({row.patient for row in written}),
        "volumes": len({row.volume for row in written if row.volume}),
        "refused": [{"what": what, "why": why} for what, why in found.refused],
        "notes": list(dict.fromkeys(notes)),
        "converted": dict(conversions.most_common()),
        "overlapping_pixels": overlapping,
        "sizes": _spread([row.size for row in written]),
        "spacing_mm": _spread([row.spacing_mm for row in written if row.spacing_mm]),
        "types": dict(Counter(row.dtype for row in written)),
        "intensities": {
            "lowest": min(row.low for row in written),
            "highest": max(row.high for row in written),
            "median_of_means": float(np.median([row.mean for row in written])),
        },
        "classes": [
            {
                "name": name,
                "ids": members,
                "pixel_share": sum(pixels[k] for k in members) / total,
                "cases": sum(any(row.values.get(k) for k in members) for row in written),
            }
            for name, members in ((name, ids if isinstance(ids, list) else [ids]) for name, ids in classes.labels.items())
        ],
        "rows": [
            {
                "case": row.name,
                "patient": row.patient,
                "volume": row.volume or None,
                "size": list(row.size),
                "spacing_mm": None if row.spacing_mm is None else [round(v, 6) for v in row.spacing_mm],
                "type": row.dtype,
                "lowest": row.low,
                "highest": row.high,
                "mean": round(row.mean, 6),
                "class_pixels": {str(k): n for k, n in sorted(row.values.items())},
                "overlapping_pixels": row.overlapping_pixels,
                "converted": list(row.notes),
            }
            for row in written
        ],
    }


def _spread(values: Sequence[tuple[float, ...]]) -> dict[str, list[float]] | None:
    """Smallest, median and largest along each axis; None where there are none, or axes differ in number."""
    if not values or len({len(v) for v in values}) > 1:
        return None
    table = np.array(values, np.float64)
    found = {"smallest": table.min(axis=0), "median": np.median(table, axis=0), "largest": table.max(axis=0)}
    return {key: [round(float(v), 6) for v in row] for key, row in found.items()}


def _markdown(facts: dict[str, Any]) -> list[str]:
    volumes = f" in {facts['volumes']} volumes" if facts["volumes"] else ""
    text = ["# Import", "", f"{facts['cases']} cases{volumes} of {facts['patients']} patients from {facts['source']}.", ""]
    for key, unit in (("sizes", "pixels"), ("spacing_mm", "mm")):
        if facts[key]:
            shown = ", ".join(f"{name} {times(tuple(f'{v:g}' for v in row))}" for name, row in facts[key].items())  # type: ignore[arg-type]
            text.append(f"- {key.removesuffix('_mm')} ({unit}): {shown}")
    seen = facts["intensities"]
    text.append(f"- intensities: {seen['lowest']:g} to {seen['highest']:g}, median of the means {seen['median_of_means']:g}")
    text.append("- types: " + ", ".join(f"{count} {kind}" for kind, count in facts["types"].items()))
    if facts["overlapping_pixels"]:
        text.append(f"- pixels under more than one object of different classes: {facts['overlapping_pixels']}")
    text += [f"- {note}" for note in facts["notes"]]
    text += ["", "| class | ids | share of the pixels | cases |", "|---|---|---|---|"]
    for row in facts["classes"]:
        text.append(f"| {_cell(row['name'])} | {', '.join(map(str, row['ids']))} | {row['pixel_share']:.3%} | {row['cases']} |")
    if facts["converted"]:
        text += ["", "## Converted", "", "| what | cases |", "|---|---|"]
        text += [f"| {_cell(note)} | {count} |" for note, count in facts["converted"].items()]
    text += ["", "## Refused", ""]
    text += [f"- {_cell(row['what'])}: {_cell(row['why'])}" for row in facts["refused"]] or ["Nothing."]
    return text


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
