"""Means over patients, seeds and folds against hand-made tables; sizes, multiply-adds and hours against formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.small_study import small_study
from thrifty.ledger import ledger
from thrifty.nets.baselines import FILTERS
from thrifty.nets.build import baseline_spec
from thrifty.results import Run, write_json
from thrifty.summary import by_patient, interval, macs, notes, scores, seed_means, spread


def row(
    seed: int, patient: str, dice: float, fold: int | None = None, label: str = "a", unit: str = "px", hd95: float = 1.0
) -> dict:
    return {
        "seed": seed,
        "fold": fold,
        "patient": patient,
        "label": label,
        "dice": dice,
        "iou": dice / 2,
        "hd95": hd95,
        "unit": unit,
    }


def test_patient_with_many_cases_counts_once() -> None:
    rows = [row(0, "p", 1.0), row(0, "p", 0.5), row(0, "p", 0.0), row(0, "q", 1.0)]
    found = scores(rows, [])
    assert found["dice"]["mean"] == pytest.approx((0.5 + 1.0) / 2)
    assert found["iou"]["mean"] == pytest.approx((0.25 + 0.5) / 2)
    assert found["dice"]["sd_seeds"] is None and found["dice_volume"] is None


def test_classes_are_averaged_within_a_patient() -> None:
    rows = [row(0, "p", 0.2, label="a"), row(0, "p", 0.8, label="b"), row(0, "q", 0.4, label="a"), row(0, "q", 1.0, label="b")]
    found = scores(rows, [])
    assert found["dice"]["mean"] == pytest.approx(0.6)
    assert found["dice_per_class"] == {"a": pytest.approx(0.3), "b": pytest.approx(0.9)}


def test_seeds_and_their_spread() -> None:
    rows = [row(4, "p", 0.6), row(4, "q", 0.8), row(9, "p", 0.5), row(9, "q", 0.7)]
    found = scores(rows, [])["dice"]
    assert found["per_seed"] == pytest.approx([0.7, 0.6])
    assert found["mean"] == pytest.approx(0.65)
    assert found["sd_seeds"] == pytest.approx(np.std([0.7, 0.6], ddof=1))


def test_interval_is_over_patients_with_their_seeds_averaged_first() -> None:
    values = np.random.default_rng(0).uniform(size=(2, 9))
    rows = [row(seed, f"p{patient}", values[seed, patient]) for seed in range(2) for patient in range(9)]
    assert scores(rows, [])["dice"]["ci95"] == pytest.approx(interval(values.mean(axis=0)))


def test_folds_are_averaged_within_a_seed() -> None:
    rows = [row(0, "p", 0.6, fold=0), row(0, "p", 0.8, fold=1), row(1, "p", 0.1, fold=0), row(1, "p", 0.3, fold=1)]
    table = by_patient(rows, "dice")
    assert table.shape == (4, 1)
    assert seed_means(rows, table) == pytest.approx([0.7, 0.2])


def test_distances_in_two_units_have_no_mean() -> None:
    assert scores([row(0, "p", 1.0, unit="px")], [])["hd95"] == {"mean": 1.0, "unit": "px"}
    mixed = scores([row(0, "p", 1.0, unit="px"), row(0, "q", 1.0, unit="mm")], [])["hd95"]
    assert mixed == {"mean": None, "unit": "mixed"}


def test_volume_dice_is_the_mean_of_the_volumes() -> None:
    volumes = [row(0, "p", 0.4), row(0, "q", 0.6)]
    assert scores([row(0, "p", 1.0), row(0, "q", 1.0)], volumes)["dice_volume"] == pytest.approx(0.5)


def test_interval_is_near_that_of_the_t_distribution() -> None:
    """For many nearly normal values both are the same."""
    from scipy.stats import t

    values = np.random.default_rng(1).normal(0.8, 0.05, size=200)
    low, high = interval(values)
    half = t.ppf(0.975, 199) * values.std(ddof=1) / 200**0.5
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    assert interval(values) == [low, high]


def test_interval_of_few_or_equal_values() -> None:
    assert interval(np.array([0.5, 0.6])) is None
    assert interval(np.full(7, 0.4)) == [0.4, 0.4]
    low, high = interval(np.array([0.0, 0.0, 1.0]))
    assert 0 <= low < high <= 1


def test_spread_of_one_value_is_unknown() -> None:
    assert spread([0.4]) is None
    assert spread([0.4, 0.6]) == pytest.approx(0.1414213562)


def unet_macs(channels: int, classes: int, rows: int, columns: int) -> int:
    total, source = 0, channels
    for level, width in enumerate(FILTERS):
        pixels = (rows >> level) * (columns >> level)
        total += 9 * pixels * width * (source + width)
        source = width
        if level + 1 < len(FILTERS):
            total += 9 * pixels * width * 3 * width + pixels * width * FILTERS[level + 1]
    return total + rows * columns * FILTERS[0] * classes


def test_macs_are_those_of_the_formula_at_the_padded_patch() -> None:
    spec = baseline_spec("unet", 3, 2)
    assert macs(spec, (32, 48)) == unet_macs(3, 2, 32, 48)
    assert macs(spec, (31, 33)) == macs(spec, (32, 48))


def test_ledger_adds_up_hours_by_stage(tmp_path: Path) -> None:
    run = Run(tmp_path)
    write_json(run.search_trial("s0").result, {"trial": "s0", "seconds": 3600, "cpus": 2, "gpus": 0.5})
    write_json(run.search_trial("s1").result, {"trial": "s1", "seconds": 1800, "cpus": 2, "gpus": 0})
    write_json(run.retrain_trial("unet", 0).result, {"trial": "unet/seed_0", "seconds": 7200, "cpus": 1, "gpus": 1})
    write_json(run.evaluate_trial("unet", 0).result, {"trial": "unet/seed_0", "seconds": 36, "cpus": 1, "gpus": 0})
    found = ledger(run)
    none = {"faults": 0, "lost_seconds": 0.0, "wall_seconds": 0.0}
    assert found["cost"]["search"] == {
        "trials": 2, "seconds": 5400, "useful_seconds": 5400, "cpu_hours": 3.0, "gpu_hours": 0.5, **none
    }  # fmt: skip
    assert found["cost"]["retrain"] == {
        "trials": 1, "seconds": 7200, "useful_seconds": 7200, "cpu_hours": 2.0, "gpu_hours": 2.0, **none
    }  # fmt: skip
    assert found["cost"]["evaluate"]["cpu_hours"] == pytest.approx(0.01)
    assert [(t["stage"], t["trial"]) for t in found["trials"]] == [
        ("search", "s0"),
        ("search", "s1"),
        ("retrain", "unet/seed_0"),
        ("evaluate", "unet/seed_0"),
    ]


def manifest_row(name: str, seconds: float, attempts: int, cpus: int = 2, gpus: float = 0.5) -> dict:
    hours = {"cpu_hours": round(seconds * cpus / 3600, 6), "gpu_hours": round(seconds * gpus / 3600, 6)}
    return {"name": name, "attempts": attempts, "seconds": seconds, **hours, "arguments": {"cpus": cpus, "gpus": gpus}}


def test_ledger_counts_what_faults_and_starts_have_cost(tmp_path: Path) -> None:
    """s0 was tried three times, s1 has failed; s2 has only its result, s3 an account that began after it; s4 never ran."""
    run = Run(tmp_path)
    for name, seconds in (("s0", 3600), ("s2", 1800), ("s3", 900)):
        write_json(run.search_trial(name).result, {"trial": name, "seconds": seconds, "cpus": 2, "gpus": 0.5})
    rows = [manifest_row("s0", 5400, 3), manifest_row("s1", 720, 4), manifest_row("s3", 0.0, 0), manifest_row("s4", 0.0, 0)]
    rows[0] |= {"faults": 2, "status": "done"}
    rows[1] |= {"faults": 4, "status": "failed"}
    write_json(run.search / "trials.json", {"schema": 1, "stage": "search", "wall_seconds": 3000.0, "trials": rows})
    write_json(run.select_result, {"trial": "select", "seconds": 360, "cpus": 1, "gpus": 0})
    found = ledger(run)
    trials = {t["trial"]: t for t in found["trials"]}
    assert list(trials) == ["s0", "s1", "s2", "s3", "select"]
    assert {t: row["seconds"] for t, row in trials.items()} == {"s0": 5400, "s1": 720, "s2": 1800, "s3": 900, "select": 360}
    assert {t: row["useful_seconds"] for t, row in trials.items()} == {
        "s0": 3600, "s1": 0, "s2": 1800, "s3": 900, "select": 360
    }  # fmt: skip
    assert {t: row["attempts"] for t, row in trials.items()} == {"s0": 3, "s1": 4, "s2": None, "s3": None, "select": None}
    cost = found["cost"]["search"]
    assert (cost["trials"], cost["seconds"], cost["useful_seconds"]) == (3, 8820, 6300), "three have finished"
    assert {t: row["lost_seconds"] for t, row in trials.items() if row["faults"]} == {"s0": 1800, "s1": 720}
    assert (cost["faults"], cost["lost_seconds"], cost["wall_seconds"]) == (6, 2520, 3000)
    assert (cost["cpu_hours"], cost["gpu_hours"]) == pytest.approx((2 * 8820 / 3600, 0.5 * 8820 / 3600))
    assert found["cost"]["select"]["trials"] == 1 and found["cost"]["select"]["useful_seconds"] == 360


def test_lacking_random_genotypes_are_noted() -> None:
    study = small_study(recipe={"random": 2})
    assert notes(study, ["random_3000_0", "random_3000_1"]) == []
    assert notes(study, ["random_3000_0"])[0].startswith("only 1 of 2 random genotypes for the budget 3,000")
