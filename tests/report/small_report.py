"""A finished run, made by hand, whose summary has all sections, and names that would do harm if they were taken for markup."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from tests.report import test_stage as small
from thrifty.config import Study
from thrifty.report.facts import patient_scores
from thrifty.results import Run, write_json
from thrifty.statistics.luck import luck
from thrifty.statistics.paired import paired_tests
from thrifty.statistics.study import groups_of, seeds_row
from thrifty.statistics.variance import variance_rows

NASTY = "<script>alert(1)</script> ![x](http://127.0.0.1:9/x.png) *a* `b` | c"
LABELS = ("background", "left|right <script>alert(1)</script>", "![x](http://127.0.0.1:9/x.png) *a* [b](http://127.0.0.1:9)", "c")


def full_run(root: Path) -> tuple[Study, Run, dict[str, Any]]:
    study, run, summary = small.whole_run(root)
    for network in summary["networks"]:
        network["dice_per_class"] = dict(zip(LABELS[1:3], network["dice_per_class"].values(), strict=True))
        network["false_positives"] = false_positives()
    summary["data"] |= {"labels": list(LABELS), "overlapping": False}
    summary["notes"] = [f"class {LABELS[1]} is in no test case; no mean counts it"]
    summary["robustness"] = robustness()
    summary |= {"statistics": statistics(run, summary["networks"]), "stability": stability()}
    write_json(run.summary, summary)
    return study, run, summary


def robustness() -> dict[str, Any]:
    """Names of patients, cases, columns, values, classes and files are the user's; a class of nnU-Net is one of the table."""
    mean = {"mean": 0.5, "ci95": None}
    size = {"objects": 3, "found": 1.0, "sensitivity": 0.5, "patients": 3, "ci95": [0.25, 0.75]}
    sizes = dict.fromkeys(("small", "medium", "large", "all"), size)
    group = {"cases": 7, "patients": 7, "networks": {"found_9000": {"dice": 0.5, "ci95": None}}}
    gaps = {"found_9000": {"high": NASTY, "low": "__b__", "difference": 0.1}}
    values = [{"value": value, **group} for value in (NASTY, "__b__")]
    paired = {
        "found": "found_9000",
        "against": "nnunet",
        "patients": 3,
        "difference": 0.01,
        "ci95": None,
        "p": None,
        "p_holm": None,
    }
    worst = {"patients": [NASTY], "cases": ["__b__", NASTY], "dice": 0.1}
    scores = {"dice": {**mean, "sd_seeds": None}, "hd95": {"mean": 1.5, "unit": "px"}}
    return {
        "subgroups": [{"column": NASTY, "values": values, "gaps": gaps, "largest": "found_9000"}],
        "worst": {"share": 0.05, "networks": {"found_9000": worst}, "paired": []},
        "nnunet": {"source": NASTY, "unit": "case", "cases": 3, "missing": [], "dice": mean, "paired": [paired],
                   "dice_per_class": dict.fromkeys(LABELS[1:3], 0.6125)},
        "transfer": {"source": NASTY, "cases": 4, "patients": 3, "networks": {"found_9000": scores}, "paired": []},
        "objects": {"found_9000": {LABELS[1]: {**sizes, "bounds": [3, 9], "false": mean}}},
        "corruptions": None, "surfaces": None, "calibration": None,
    }  # fmt: skip


def false_positives() -> dict[str, Any]:
    none = {"empty_cases": 0, "claimed": None, "share": None, "pixels": None, "mm2": None}
    some = {"empty_cases": 7, "claimed": 3.5, "share": 0.5, "pixels": 12.25, "mm2": None}
    return {"per_class": {LABELS[1]: some, LABELS[2]: none}, "any": none}


def statistics(run: Run, networks: list[dict[str, Any]]) -> dict[str, Any]:
    with run.per_case.open(encoding="utf-8", newline="") as file:
        rows = [row | {"class": int(row["class"])} for row in csv.DictReader(file) if row["class"] != "3"]
    dice = {network["name"]: network["dice"] for network in networks}
    numbers = [{**row, "dice": float(row["dice"]), "seed": int(row["seed"])} for row in rows]
    chance = luck(dice["found_9000"]["per_seed"], [0.651, 0.664, 0.672, 0.668], 5)
    hours = {"search_hours": 0.25, "training_hours": 0.05, "unit": "CPU-hours"}
    return {
        "paired": paired_tests(patient_scores(rows)),
        "variance": variance_rows(numbers, groups_of(list(dice))),
        "luck": [{"found": "found_9000", **chance.as_json(), **hours}],
        "seeds": [seeds_row("found_9000", dice)],
    }


def stability() -> dict[str, Any]:
    """Of two searches that differ in most choices; the second collapsed."""
    chance = {"mean": 9.5, "low": 8.0, "high": 11.0, "p": 0.034}
    measures = {"op_entropy_bits": 0.75, "op_kappa": 0.23, "path_entropy_bits": 0.0, "path_kappa": None, "distance": 7.0}
    setting = {
        "budget": 9_000, "width": 8, "levels": 3, "epochs": 2, "seeds": [0, 1], "networks": 2,
        "agreement": {name: {"value": value, "chance": chance} for name, value in measures.items()},
        "consensus": None, "collapsed": ["b9000_w8_d3_s1"], "guarded": [],
        "last_epoch": {"dice": {"mean": 0.55, "low": 0.5, "high": 0.6}},
    }  # fmt: skip
    tau = {"budget": None, "against": "retraining", "networks": 2, "tau": None, "p": None}
    return {"settings": [setting], "rank_correlation": [tau]}
