"""Intervals and paired tests against hand-made cases, another computation of BCa, and values of statsmodels 0.15."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import norm

from thrifty.statistics.paired import holm, paired_tests, rivals, wilcoxon_p
from thrifty.statistics.patients import interval


def bca(values: np.ndarray) -> tuple[float, float]:
    """Efron 1987, written out: bias from the share of resamples below the mean, acceleration from the skewness."""
    rng = np.random.default_rng(12)
    means = np.sort(rng.choice(values, (40_000, len(values))).mean(axis=1))
    bias = norm.ppf((means < values.mean()).mean())
    centred = values - values.mean()
    acceleration = (centred**3).sum() / (6 * (centred**2).sum() ** 1.5)
    levels = [bias + norm.ppf(level) for level in (0.025, 0.975)]
    low, high = np.quantile(means, [norm.cdf(bias + z / (1 - acceleration * z)) for z in levels])
    return float(low), float(high)


def test_interval_is_bca_also_for_skewed_values() -> None:
    values = np.random.default_rng(3).exponential(size=40)
    found, expected = interval(values), bca(values)
    assert found == pytest.approx(expected, abs=0.01)
    percentile = np.quantile(np.random.default_rng(1).choice(values, (40_000, 40)).mean(axis=1), [0.025, 0.975])
    assert abs(percentile[1] - expected[1]) > 0.02, "a percentile interval would be another one here"


def test_interval_without_a_spread_or_without_patients() -> None:
    assert interval(np.array([0.7])) is None and interval(np.array([])) is None
    assert interval(np.full(5, 0.7)) == [0.7, 0.7]


def test_wilcoxon_is_exact_for_few_patients() -> None:
    """All sign patterns are equally likely if there is no difference: the rank sum of each is enumerated."""
    values = np.array([0.03, -0.01, 0.05, 0.02, 0.07, 0.11, 0.04])
    ranks = np.argsort(np.argsort(abs(values))) + 1
    seen = min(ranks[values > 0].sum(), ranks[values < 0].sum())
    sums = [sum(itertools.compress(ranks, signs)) for signs in itertools.product((0, 1), repeat=7)]
    assert wilcoxon_p(values) == pytest.approx(2 * np.mean([total <= seen for total in sums]))


def test_wilcoxon_of_nothing_or_of_too_few() -> None:
    assert wilcoxon_p(np.zeros(8)) == 1.0
    assert wilcoxon_p(np.arange(1.0, 6.0)) is None
    assert wilcoxon_p(np.array([0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.0, 0.0])) == wilcoxon_p(np.full(6, 0.1))


def test_holm_by_hand() -> None:
    """0.01 x 4, then 0.02 x 3 raised to nothing lower than that, 0.03 x 2, 0.04 (not below the one before)."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2] and holm([]) == []


def test_holm_has_the_values_of_statsmodels() -> None:
    """statsmodels.stats.multitest.multipletests(p, method='holm')."""
    p = [0.001, 0.2, 0.03, 0.03, 0.012, 0.8]
    assert holm(p) == pytest.approx(HOLM_OF_STATSMODELS)


HOLM_OF_STATSMODELS = [0.006, 0.4, 0.12, 0.12, 0.06, 0.8]


def scores(values: np.ndarray) -> dict[str, float]:
    return {f"p{k}": float(value) for k, value in enumerate(values)}


def test_found_networks_are_tested_against_every_baseline_and_the_mean_of_the_random_ones() -> None:
    base = np.random.default_rng(0).uniform(0.4, 0.8, 12)
    table = {
        "found_100": scores(base + 0.05),
        "random_100_0": scores(base),
        "random_100_1": scores(base + 0.02 + 0.001 * np.arange(12)),
        "random_200_0": scores(base + 0.5),
        "scaled_unet_100": scores(base + 0.05),
        "unet": scores(base + 0.06 - 0.001 * np.arange(12)) | {"stranger": 0.1},
    }
    rows = {row["against"]: row for row in paired_tests(table)}
    assert list(rows) == ["scaled_unet_100", "random_100", "unet"]
    assert rows["random_100"]["difference"] == pytest.approx(0.05 - (0.02 + 0.0055) / 2)
    assert rows["scaled_unet_100"]["p"] == rows["scaled_unet_100"]["p_holm"] == 1.0
    assert rows["random_100"]["p"] == pytest.approx(2 / 2**12) and rows["random_100"]["p_holm"] == pytest.approx(6 / 2**12)
    assert rows["unet"]["patients"] == 12 and rows["unet"]["ci95"][0] < rows["unet"]["difference"] < rows["unet"]["ci95"][1]


def test_no_baseline_or_no_common_patient_breaks_nothing() -> None:
    assert paired_tests({"found_5": {"p": 0.5}}) == [] and paired_tests({"unet": {"p": 0.5}}) == []
    (row,) = paired_tests({"found_5": {"p": 0.5}, "unet": {"q": 0.5}})
    assert row["difference"] is None and row["p"] is None and row["p_holm"] is None
    assert rivals("found_5", ["random_50_0", "random_5_1", "other"]) == [("random_5", ["random_5_1"])]
