"""The sections of a report on robustness: tables of the numbers under `robustness` in summary.json, and their pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thrifty.report.elements import ABSENT, images, number, plain_text, table
from thrifty.report.pictures import Pictures
from thrifty.report.statistics import probability

Row = Mapping[str, Any]
PAIRED_COLUMNS = ("found network", "against", "difference, points", "95 % interval, points", "p (Holm)", "patients")
INTERVALS = "Intervals (95 %) are over patients, seeds averaged within a patient; with few patients there is none."
WORSE_NOTE = (
    "Test images made worse in six ways at five strengths each (docs/robustness.md lists them), the same for all networks. "
    "`worse`: mean Dice over all of these, `loss`: 1 - worse / undisturbed, then the same of each corruption."
)
OBJECTS_NOTE = (
    "Objects are connected parts (8 neighbours) of a class in the truth. One is found where at least half of its pixels are "
    "claimed; small, medium and large are a third of the objects each. A false object is a connected part of a prediction "
    "without a single pixel of the class. Sensitivity and false objects are means over patients."
)
CALIBRATION_NOTE = (
    "Of the probabilities of all foreground classes, those that no test case holds too, before post-processing, in ten bins over "
    "all pixels. ECE: |mean probability - share of pixels that are of the class|, weighted by pixels; `ECE above 0.1`: "
    "without the first bin, in which nearly all of the background is; MCE: the largest of a single bin."
)


def robustness_section(found: Row | None, pictures: Pictures) -> list[str]:
    """Nothing where the summary is of a version without it."""
    if not found:
        return []
    parts = [
        *_worse(found["corruptions"], pictures),
        *_worst(found["worst"]),
        *_subgroups(found["subgroups"]),
        *_objects(found["objects"]),
        *_surfaces(found["surfaces"]),
        *_calibration(found["calibration"], pictures),
        *_transfer(found["transfer"]),
        *_nnunet(found["nnunet"]),
    ]
    return ["## Robustness", INTERVALS, *parts]


def taken_in_row(found: Row | None, columns: Sequence[str]) -> list[list[str]]:
    """The row of the table of networks for results of nnU-Net, where they cover the test cases: what is not known is absent."""
    taken = (found or {}).get("nnunet")
    if not taken or taken["dice"] is None:
        return []
    of_volumes = taken["unit"] == "volume"
    known = {
        "network": "nnU-Net (taken in, not trained here)",
        "Dice of volumes" if of_volumes else "Dice": number(taken["dice"]["mean"]),
        "95 % interval": ABSENT if of_volumes else _span(taken["dice"]["ci95"]),
        **({} if of_volumes else {f"Dice {plain_text(label)}": number(dice) for label, dice in taken["dice_per_class"].items()}),
    }
    return [[known.get(column, ABSENT) for column in columns]]


def robustness_pictures(found: Row | None, folder: Path) -> Pictures:
    """Curves of Dice over the strength of each corruption, and of reliability; what there is of it."""
    from thrifty.plots.robustness import draw_corruptions, draw_reliability

    drawn: Pictures = []
    if found and found["corruptions"]:
        draw_corruptions(found["corruptions"], folder / "robustness.svg")
        drawn.append(("robustness.svg", "Dice of worse test images by corruption and strength; at none the images as they are"))
    if found and found["calibration"]:
        curves = {name: values["curve"] for name, values in found["calibration"].items()}
        draw_reliability(curves, folder / "reliability.svg")
        caption = "share of pixels that are of a class against the probability given to it; dashed: as it should be"
        drawn.append(("reliability.svg", caption))
    return drawn


def _span(interval: Sequence[float] | None, digits: int = 4) -> str:
    return ABSENT if not interval else f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}"


def _points(difference: float | None) -> str:
    return ABSENT if difference is None else f"{100 * difference + 0.0:+.2f}"


def _paired(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    cells = []
    untested = [PAIRED_COLUMNS.index("p (Holm)")] if "p_holm" not in rows[0] else []
    for row in rows:
        span = " to ".join(_points(value) for value in row["ci95"]) if row["ci95"] else ABSENT
        p = probability(row.get("p_holm"))
        cells.append([row["found"], row["against"], _points(row["difference"]), span, p, str(row["patients"])])
    kept = [place for place in range(len(PAIRED_COLUMNS)) if place not in untested]
    return [table([PAIRED_COLUMNS[place] for place in kept], [[line[place] for place in kept] for line in cells])]


def _share(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.1%}"


def _worse(found: Row | None, pictures: Pictures) -> list[str]:
    if not found:
        return []
    names = list(found["corruptions"])
    columns = ("network", "undisturbed", "worse", "95 % interval", "loss", *(name.replace("_", " ") for name in names))
    rows = [
        [name, number(one["undisturbed"]), number(one["mean"]), _span(one["ci95"]), _share(one["loss"])]
        + [_share(one["losses"][corruption]) for corruption in names]
        for name, one in found["networks"].items()
    ]
    of = f"{found['cases']:,} test cases of {found['patients']:,} patients, trainings of seed {found['seed']} alone."
    return ["### Worse images", table(columns, rows), f"{WORSE_NOTE} {of}", *_paired(found["paired"]),
            *images([one for one in pictures if one[0].startswith("robustness")])]  # fmt: skip


def _worst(found: Row) -> list[str]:
    if not found["networks"]:
        return []
    rows = [
        [name, number(one["dice"]), str(len(one["patients"])), _some(one["patients"]), _some(one["cases"])]
        for name, one in found["networks"].items()
    ]
    columns = ("network", "Dice", "number", "patients", "cases")
    note = (
        f"Mean Dice of the {found['share']:.0%} of the patients (rounded up) in which a network is worst, and who they are, "
        "worst first. The differences are between these means, each over the network's own worst patients (percentile bootstrap)."
    )
    return ["### Worst patients", table(columns, rows), note, *_paired(found["paired"])]


def _some(names: Sequence[str], most: int = 6) -> str:
    rest = len(names) - most
    return ", ".join(map(plain_text, names[:most])) + (f" (+{rest} more)" if rest > 0 else "")


def _subgroups(columns: Sequence[Row]) -> list[str]:
    lines = []
    for found in columns:
        networks = list(dict.fromkeys(name for value in found["values"] for name in value["networks"]))
        rows = [
            [plain_text(value["value"]), str(value["patients"]), str(value["cases"]), *(_group(value, name) for name in networks)]
            for value in found["values"]
        ]
        column = plain_text(found["column"])
        few = [
            plain_text(value["value"])
            for value in found["values"]
            if any(one["ci95"] is None for one in value["networks"].values())
        ]
        lines += [f"### By {column}", table((column, "patients", "cases", *networks), rows)]
        told = [f"Too few patients for an interval: {', '.join(few)}."] if few else []
        if found["largest"] is not None:
            gap = found["gaps"][found["largest"]]
            pair = f"{plain_text(gap['high'])} above {plain_text(gap['low'])} by {100 * gap['difference']:.2f} points"
            told.append(f"Largest gap among the others: `{found['largest']}`, {pair}.")
        lines += [" ".join(told)] if told else []
    return lines


def _group(value: Row, name: str) -> str:
    one = value["networks"][name]
    return number(one["dice"]) + (f" ({_span(one['ci95'])})" if one["ci95"] else "")


def _objects(found: Row | None) -> list[str]:
    rows = []
    for name, classes in (found or {}).items():
        for label, one in classes.items():
            sizes = [_sensitivity(one[size]) for size in ("small", "medium", "large", "all")]
            rows.append([name, plain_text(label), str(one["all"]["objects"]), *sizes, f"{one['false']['mean']:.2f}"])
    if not rows:
        return []
    bounds = dict.fromkeys((label, *one["bounds"]) for classes in (found or {}).values() for label, one in classes.items())
    sizes = "; ".join(
        f"{plain_text(label)}: small up to {small:g} pixels, medium up to {medium:g}" for label, small, medium in bounds
    )
    columns = ("network", "class", "objects", "small found", "medium found", "large found", "all found", "false objects a case")
    return ["### Objects", table(columns, rows), f"{OBJECTS_NOTE} {sizes}."]


def _sensitivity(one: Row) -> str:
    if one["sensitivity"] is None:
        return ABSENT
    span = f" ({one['ci95'][0]:.0%} to {one['ci95'][1]:.0%})" if one["ci95"] else ""
    return f"{one['sensitivity']:.1%}{span}"


def _surfaces(found: Row | None) -> list[str]:
    if not found:
        return []
    unit, tolerance = found["unit"], f"{found['tolerance']:g}"
    rows = []
    for name, one in found["networks"].items():
        assd, nsd = one["assd"] or {"mean": None, "ci95": None}, one["nsd"]
        rows.append([name, number(assd["mean"], 2), _span(assd["ci95"], 2), number(nsd["mean"]), _span(nsd["ci95"])])
    words = {
        "mm": f"Distances are in mm, as the spacing of the images is known; NSD allows {tolerance} mm.",
        "px": f"Distances are in pixels, as the spacing of the images is not known; NSD allows {tolerance} pixels.",
        "mixed": f"Some cases have a spacing and others have none, so there is no mean; NSD allows {tolerance} mm or pixels.",
    }
    columns = ("network", f"ASSD, {unit}", "95 % interval", "NSD", "95 % interval")
    note = "ASSD: mean distance between the edges, both ways. NSD: share of both edges that is near enough to the other. "
    return ["### Surface distances", table(columns, rows), note + words[unit]]


def _calibration(found: Row | None, pictures: Pictures) -> list[str]:
    if not found:
        return []
    rows = [[name, number(one["ece"]), number(one["foreground_ece"]), number(one["mce"])] for name, one in found.items()]
    return ["### Calibration", table(("network", "ECE", "ECE above 0.1", "MCE"), rows), CALIBRATION_NOTE,
            *images([one for one in pictures if one[0].startswith("reliability")])]  # fmt: skip


def _transfer(found: Row | None) -> list[str]:
    if not found:
        return []
    rows = []
    for name, one in found["networks"].items():
        dice, hd95 = one["dice"], one["hd95"]
        distance = ABSENT if hd95["mean"] is None else f"{hd95['mean']:.2f} {hd95['unit']}"
        rows.append([name, number(dice["mean"]), number(dice["sd_seeds"]), _span(dice["ci95"]), distance])
    source, patients = plain_text(found["source"]), f"{found['patients']:,} patients"
    text = f"All {found['cases']:,} cases of {source} ({patients}); nothing was trained on them."
    columns = ("network", "Dice", "sd over seeds", "95 % interval", "HD95")
    return ["### Another data set", table(columns, rows), text, *_paired(found["paired"])]


def _nnunet(found: Row | None) -> list[str]:
    if not found:
        return []
    number_of, source = found[found["unit"] + "s"], plain_text(found["source"])
    if found["missing"]:
        lacks = f"lacks {len(found['missing'])} of the {number_of} test {found['unit']}s ({_some(found['missing'])})"
        return ["### nnU-Net", f"{source} {lacks}, so it is not compared."]
    text = (
        f"Taken in from {source}, not trained here: {number_of} test {found['unit']}s, matched by name; Dice "
        f"{found['dice']['mean']:.4f} ({_span(found['dice']['ci95'])}). How it was trained, and on what, is not known here."
    )
    return ["### nnU-Net", text, *_paired(found["paired"])]
