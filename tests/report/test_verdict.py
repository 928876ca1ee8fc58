"""Verdicts on constructed differences whose answer is known, and the paired interval against scipy and a closed case."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import bootstrap

from thrifty.errors import ThriftyError
from thrifty.report.facts import patient_scores
from thrifty.report.verdict import FEWEST, Comparison, budget_sentences, compare, paired_interval, signed_points

RNG = np.random.default_rng(5)
BASE = {f"p{k:02d}": float(v) for k, v in enumerate(RNG.uniform(0.5, 0.9, 40))}


def network(name: str, dice: float, budget: int | None = 30_000, parameters: int = 29_000, improving: int = 0) -> dict[str, Any]:
    return {
        "name": name,
        "budget": budget,
        "parameters": parameters,
        "dice": {"mean": dice, "per_seed": [dice] * 3},
        "still_improving": improving,
    }


def shifted(by: float, noise: float = 0.0) -> dict[str, float]:
    rng = np.random.default_rng(3)
    jitter = rng.normal(0, 1, len(BASE))
    jitter -= jitter.mean()
    return {p: v + by + noise * j for (p, v), j in zip(BASE.items(), jitter, strict=True)}


@pytest.mark.parametrize(
    ("by", "noise", "expected"),
    [
        (0.02, 0.0, "better"),
        (0.02, 0.01, "better"),
        (0.0, 0.0, "no worse by more than 0.5 points"),
        (0.0, 0.005, "no worse by more than 0.5 points"),
        (0.0, 0.1, "undecided"),
        (-0.003, 0.001, "worse, but by no more than 0.5 points"),
        (-0.02, 0.01, "worse"),
        (-0.004, 0.02, "undecided"),
    ],
)
def test_verdict_of_known_differences(by: float, noise: float, expected: str) -> None:
    networks = [network("found_30000", 0.8), network("scaled_unet_30000", 0.8)]
    (result,) = compare(networks, {"found_30000": shifted(by, noise), "scaled_unet_30000": BASE})
    assert result.verdict == expected and result.patients == 40
    assert result.difference == pytest.approx(by, abs=1e-9)


def test_interval_is_scipy_s_bca() -> None:
    differences = np.random.default_rng(1).normal(0.01, 0.05, 25)
    expected = bootstrap(
        (differences,), np.mean, method="BCa", n_resamples=9999, rng=np.random.default_rng(99)
    ).confidence_interval
    low, high = paired_interval(differences) or (0.0, 0.0)
    assert [low, high] == pytest.approx([expected.low, expected.high], abs=0.002)
    assert low < differences.mean() < high


def test_pairing_takes_the_spread_between_patients_out() -> None:
    """Patients differ by 0.4, the two networks by 0.01 in each: unpaired intervals would overlap wholly."""
    low, high = paired_interval(np.array(list(shifted(0.01, 0.001).values())) - np.array(list(BASE.values()))) or (0.0, 0.0)
    assert 0.009 < low < high < 0.011


def test_few_patients_decide_nothing() -> None:
    few = dict(list(BASE.items())[: FEWEST - 1])
    better = {p: v + 0.1 for p, v in few.items()}
    networks = [network("found_30000", 0.9), network("unet", 0.8, None, 7_760_097)]
    (result,) = compare(networks, {"found_30000": better, "unet": few})
    assert result.interval is None and result.verdict == "undecided"
    assert "5 patients are too few for an interval" in " ".join(budget_sentences(networks, [result]))


def test_random_networks_count_by_their_mean() -> None:
    scores = {"found_30000": shifted(0.01), "random_30000_0": shifted(0.03), "random_30000_1": shifted(-0.03)}
    networks = [network("found_30000", 0.81), network("random_30000_0", 0.83), network("random_30000_1", 0.77)]
    (result,) = compare([*networks, network("random_60000_0", 0.5, 60_000)], {**scores, "random_60000_0": BASE})
    assert result.against == "random_30000" and result.above == (1, 2)
    assert result.difference == pytest.approx(0.01) and result.verdict == "better"


def test_only_common_patients_are_compared() -> None:
    mine = shifted(0.02)
    del mine["p00"], mine["p01"]
    (result,) = compare([network("found_30000", 0.8), network("unet", 0.8, None)], {"found_30000": mine, "unet": BASE})
    assert result.patients == 38


def test_each_budget_has_its_own_rivals() -> None:
    names = ["found_30000", "scaled_unet_30000", "found_60000", "scaled_unet_60000", "unet", "unetpp"]
    budgets = [30_000, 30_000, 60_000, 60_000, None, None]
    networks = [network(n, 0.8, b) for n, b in zip(names, budgets, strict=True)]
    pairs = [(c.found, c.against) for c in compare(networks, dict.fromkeys(names, BASE))]
    assert pairs == [(f"found_{b}", rival) for b in (30_000, 60_000) for rival in (f"scaled_unet_{b}", "unet", "unetpp")]


def test_sentences() -> None:
    networks = [
        network("found_30000", 0.8123),
        network("scaled_unet_30000", 0.8, improving=2),
        network("unet", 0.82, None, 7_760_097),
    ]
    comparisons = [
        Comparison(30_000, "found_30000", "scaled_unet_30000", 40, 0.0123, (0.004, 0.02), seed_error=0.001),
        Comparison(30_000, "found_30000", "unet", 40, -0.01, (-0.03, 0.01)),
    ]
    assert " ".join(budget_sentences(networks, comparisons)) == (
        "**Budget 30,000:** the found network (29,000 parameters, Dice 0.8123) is better than the U-Net scaled to the same "
        "budget (+1.23 points, 95 % interval +0.40 to +2.00, 40 patients), and is undecided against U-Net with 7,760,097 "
        "parameters (-1.00 points, 95 % interval -3.00 to +1.00, 40 patients). Some networks were still improving when training "
        "ended (scaled_unet_30000), so longer training may change the order."
    )
    margin = Comparison(30_000, "found_30000", "unet", 40, 0.0, (-0.004, 0.004))
    assert "40 patients; the luck of a single seed is not known)" in " ".join(budget_sentences(networks, [margin]))
    assert "is no worse by more than 0.5 points than U-Net with" in " ".join(budget_sentences(networks, [margin]))
    assert "nothing to be compared with yet" in " ".join(budget_sentences(networks, []))


def with_seeds(name: str, values: list[float]) -> dict[str, Any]:
    return network(name, float(np.mean(values)), None if name == "unet" else 30_000) | {
        "dice": {"mean": float(np.mean(values)), "per_seed": values}
    }


@pytest.mark.parametrize(
    ("by", "noise", "beyond"),
    [
        (0.02, 0.001, True),
        (0.02, 0.05, False),
        (0.0, 0.0001, True),
        (0.0, 0.01, False),
        (-0.02, 0.05, False),
        (-0.02, 0.001, True),
    ],
)
def test_the_luck_of_the_seeds_is_told(by: float, noise: float, beyond: bool) -> None:
    """Equal differences in all patients, so the interval has no width, but seeds that differ by `noise`."""
    mine, theirs = with_seeds("found_30000", [0.8, 0.8 + noise]), with_seeds("unet", [0.8, 0.8 - noise])
    (result,) = compare([mine, theirs], {"found_30000": shifted(by), "unet": BASE})
    assert result.seed_error == pytest.approx(noise / np.sqrt(2)), "each mean has the error noise / sqrt(2) / sqrt(2)"
    assert result.beyond_seeds is beyond
    assert ("the luck of the seeds may explain it" in " ".join(budget_sentences([mine, theirs], [result]))) is not beyond


def test_random_networks_are_their_own_sample() -> None:
    means = [0.70, 0.74, 0.78]
    networks = [with_seeds("found_30000", [0.8, 0.8]), *(with_seeds(f"random_30000_{k}", [m, m]) for k, m in enumerate(means))]
    (result,) = compare(networks, {n["name"]: BASE for n in networks})
    assert result.seed_error == pytest.approx(0.04 / np.sqrt(3)) and result.above == (3, 3)


def test_points_have_a_sign() -> None:
    assert [signed_points(v) for v in (0.0123, -0.005, 0.0)] == ["+1.23", "-0.50", "+0.00"]


def test_patient_scores_average_classes_and_cases_then_seeds() -> None:
    """Seed 0 has two cases of two classes, seed 1 has one: each seed counts once. Class 3 is in no case and does not count."""
    values = [
        ("0", "a", "1", "0.2"),
        ("0", "a", "2", "0.4"),
        ("0", "b", "1", "0.6"),
        ("0", "b", "2", "0.8"),
        ("1", "a", "1", "0.9"),
    ]
    absent = [(seed, case, "3", "1.0") for seed, case in (("0", "a"), ("0", "b"), ("1", "a"))]
    common = {"network": "n", "fold": "", "patient": "p"}
    rows = [
        {**common, "seed": seed, "case": case, "class": number, "dice": dice, "truth_pixels": "0" if number == "3" else "5"}
        for seed, case, number, dice in values + absent
    ]
    assert patient_scores(rows) == {"n": {"p": pytest.approx((0.5 + 0.9) / 2)}}
    with pytest.raises(ThriftyError, match="numbers as class and truth_pixels"):
        patient_scores([{**common, "seed": "0", "class": "1", "dice": "1.0"}])
