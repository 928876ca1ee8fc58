"""Subgroups and worst patients on tables made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from thrifty.report.robustness import robustness_section
from thrifty.robustness.patients import number_of_worst, subgroups, tail_mean, worst_patients


def rows_of(network: str, dice: dict[str, float], seed: int = 0) -> list[dict]:
    """A case for each patient, of the same name in small letters."""
    return [
        {"network": network, "seed": seed, "fold": None, "case": patient.lower(), "patient": patient, "dice": value}
        for patient, value in dice.items()
    ]


SITES = {f"P{k}": 0.5 + 0.01 * k for k in range(6)} | {f"Q{k}": 0.9 - 0.02 * k for k in range(7)} | {"R0": 0.1}
GROUPS = {patient.lower(): {"site": patient[0], **({"kind": "rare"} if patient == "P3" else {})} for patient in SITES}


def test_subgroups_by_hand() -> None:
    rows = rows_of("found_9", SITES) + rows_of("found_9", {p: d - 0.1 for p, d in SITES.items()}, seed=1)
    rows += rows_of("unet", dict.fromkeys(SITES, 0.7))
    site, kind = subgroups(rows, GROUPS)
    assert (site["column"], kind["column"]) == ("site", "kind")
    p, q, r = site["values"]
    assert [(v["value"], v["patients"], v["cases"]) for v in (p, q, r)] == [("P", 6, 6), ("Q", 7, 7), ("R", 1, 1)]
    assert p["networks"]["found_9"]["dice"] == pytest.approx(0.525 - 0.05) and r["networks"]["found_9"]["ci95"] is None
    low, high = q["networks"]["found_9"]["ci95"]
    assert low < q["networks"]["found_9"]["dice"] < high and q["networks"]["found_9"]["dice"] == pytest.approx(0.84 - 0.05)
    gap = {"high": "Q", "low": "P", "difference": pytest.approx(0.84 - 0.525)}
    assert site["largest"] == "found_9" and site["gaps"]["found_9"] == gap, "R has too few patients to count"
    assert site["gaps"]["unet"]["difference"] == pytest.approx(0)
    assert kind["gaps"] == {} and kind["largest"] is None and [v["value"] for v in kind["values"]] == ["rare"]
    assert subgroups(rows, {}) == []


def test_a_patient_may_have_cases_in_several_subgroups() -> None:
    rows = [{**row, "case": row["case"] + end} for row in rows_of("unet", SITES) for end in "xy"]
    (phase,) = subgroups(rows, {row["case"]: {"phase": row["case"][-1]} for row in rows})
    assert [(v["patients"], v["cases"]) for v in phase["values"]] == [(14, 14), (14, 14)]


def test_worst_patients_by_hand() -> None:
    scores = {f"p{k:02d}": k / 100 for k in range(41)}
    other = {patient: 0.4 - value for patient, value in scores.items()}
    found = worst_patients({"found_9": scores, "unet": other}, {p: [p + "a", p + "b"] for p in scores})
    mine = found["networks"]["found_9"]
    assert mine["patients"] == ["p00", "p01", "p02"] and mine["cases"] == ["p00a", "p00b", "p01a", "p01b", "p02a", "p02b"]
    assert mine["dice"] == pytest.approx(0.01) and found["networks"]["unet"]["patients"] == ["p40", "p39", "p38"]
    (row,) = found["paired"]
    assert (row["found"], row["against"], row["patients"]) == ("found_9", "unet", 41) and row["difference"] == pytest.approx(0)
    low, high = row["ci95"]
    assert low < 0 < high
    forty = {name: {p: value for p, value in own.items() if p != "p40"} for name, own in (("found_9", scores), ("unet", other))}
    (row,) = worst_patients(forty, {p: [p] for p in scores})["paired"]
    assert row["patients"] == 40 and row["ci95"] is None, "5 % are two patients"
    assert worst_patients(forty, {p: [p] for p in scores}, {"found_9"})["paired"] == [], "the other may not be compared"
    few = {f"p{k}": 0.1 * k for k in range(5)}
    found = worst_patients({"found_9": few, "unet": {p: v + 0.3 for p, v in few.items()}}, {p: [p] for p in few})
    assert found["paired"][0]["ci95"] is None and found["paired"][0]["difference"] == pytest.approx(-0.3)


def test_random_networks_are_one_rival_by_their_mean() -> None:
    names = [f"p{k}" for k in range(41)]
    scores = {
        "found_9": dict.fromkeys(names, 0.5),
        "random_9_0": dict.fromkeys(names, 0.2),
        "random_9_1": dict.fromkeys(names, 0.4),
    }
    (row,) = worst_patients(scores, {p: [p] for p in names})["paired"]
    assert row["against"] == "random_9" and row["difference"] == pytest.approx(0.2) and row["ci95"] == pytest.approx([0.2, 0.2])


@pytest.mark.parametrize(("patients", "number"), [(1, 1), (20, 1), (21, 2), (40, 2), (41, 3), (100, 5)])
def test_five_percent_rounded_up(patients: int, number: int) -> None:
    assert number_of_worst(patients) == number
    values = np.random.default_rng(patients).permutation(patients).astype(float)
    assert tail_mean(values) == pytest.approx((number - 1) / 2)


def test_report_names_the_largest_gap_and_who_is_too_few() -> None:
    rows = rows_of("found_9", SITES)
    nothing = dict.fromkeys(("nnunet", "transfer", "corruptions", "surfaces", "objects", "calibration"))
    found = {
        "subgroups": subgroups(rows, GROUPS),
        "worst": worst_patients({"found_9": SITES}, {p: [p] for p in SITES}),
        **nothing,
    }
    text = "\n".join(robustness_section(found, []))
    assert "Too few patients for an interval: R. Largest gap among the others: `found_9`, Q above P by 31.50 points." in text
    assert "| found_9 | 0.1000 | 1 | R0 | R0 |" in text
    assert robustness_section(None, []) == []
