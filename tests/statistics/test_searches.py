"""What single searches decoded against random genotypes: by hand, by the t distribution written out, and as a sentence."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t

from tests.report.test_sentences import FOUND
from thrifty.report.sentences import three_sentences
from thrifty.report.statistics import statistics_section
from thrifty.statistics.paired import rivals
from thrifty.statistics.searches import search_rows
from thrifty.statistics.study import groups_of

MEANS = {
    "found_900": 0.80,
    "decoded_b900_w8_d3_e5_s0": 0.78,
    "decoded_b900_w8_d3_e5_s1": 0.81,
    "decoded_b900_w8_d3_e5_s4": 0.75,
    "random_900_0": 0.70,
    "random_900_1": 0.74,
    "found_90": 0.6,
    "decoded_b90_w8_d3_e5_s0": 0.5,
    "unet": 0.9,
}


def test_difference_and_welch_interval_by_hand() -> None:
    (row, single) = search_rows(MEANS)
    decoded, random = [0.78, 0.81, 0.75], [0.70, 0.74]
    errors = [np.var(values, ddof=1) / len(values) for values in (decoded, random)]
    freedom = sum(errors) ** 2 / (errors[0] ** 2 / 2 + errors[1] ** 2 / 1)
    half = t.ppf(0.975, freedom) * math.sqrt(sum(errors))
    assert row["budget"] == 900 and row["networks"] == [name for name in MEANS if name.startswith("decoded_b900")]
    assert row["difference"] == pytest.approx(0.06)
    assert row["ci95"] == pytest.approx([0.06 - half, 0.06 + half])
    assert row["p"] == pytest.approx(2 * t.sf(0.06 / math.sqrt(sum(errors)), freedom))
    assert row["decoded"] == {"number": 3, "mean": pytest.approx(0.78), "sd": pytest.approx(0.03), "low": 0.75, "high": 0.81}
    assert row["found"] == 0.80 and row["below_found"] == 2
    assert single["random"] is None and single["difference"] is None and single["decoded"]["sd"] is None


def test_settings_of_a_budget_are_samples_of_their_own() -> None:
    other = {f"decoded_b900_w12_d3_e5_s{seed}": 0.3 + seed / 50 for seed in (0, 1)}
    rows = {row["setting"]: row for row in search_rows({**MEANS, **other})}
    assert list(rows) == ["b900_w8_d3_e5", "b900_w12_d3_e5", "b90_w8_d3_e5"]
    assert rows["b900_w8_d3_e5"] == search_rows(MEANS)[0] and rows["b900_w12_d3_e5"]["networks"] == list(other)
    stable = three_sentences([FOUND], [], {"searches": list(rows.values())}, None)[1]
    assert "3.00 points for the budget 900, setting b900_w8_d3_e5 (3 seeds)" in stable


def test_nothing_is_claimed_without_a_spread() -> None:
    equal = {"found_9": 0.5, "decoded_b9_w8_s0": 0.5, "decoded_b9_w8_s1": 0.5, "random_9_0": 0.4, "random_9_1": 0.4}
    (row,) = search_rows(equal)
    assert row["difference"] == pytest.approx(0.1) and row["ci95"] is None and row["p"] is None
    (row,) = search_rows({name: value for name, value in MEANS.items() if name != "random_900_1" and "_90_" not in name})[:1]
    assert row["difference"] == pytest.approx(0.08) and row["ci95"] is None
    assert search_rows({"found_9": 0.5, "random_9_0": 0.4}) == []


def test_searches_of_a_setting_are_one_group_and_one_rival() -> None:
    names = [*MEANS, "decoded_b900_w12_d3_e5_s0"]
    groups = groups_of(names)
    assert groups["decoded_b900_w8_d3_e5"] == {"search_seed": [f"decoded_b900_w8_d3_e5_s{s}" for s in (0, 1, 4)]}
    assert groups["decoded_b900_w12_d3_e5"] == {"search_seed": ["decoded_b900_w12_d3_e5_s0"]}
    of_budget = dict(rivals("found_900", names))
    assert len(of_budget["decoded_900"]) == 4 and dict(rivals("found_90", names))["decoded_90"] == ["decoded_b90_w8_d3_e5_s0"]


def test_the_sentence_says_over_what_the_interval_is() -> None:
    found = {"paired": [], "searches": search_rows(MEANS), "luck": [], "seeds": [], "variance": []}
    text = "\n\n".join(statistics_section(found))
    assert (
        "what 3 searches decoded by themselves has a Dice of 0.7800, sd over search seeds 3.00 points (0.7500 to 0.8100)" in text
    )
    assert "the chosen network is above 2 of them; +6.00 points against 2 random genotypes (95 % interval over networks" in text
    assert "is above 1 of them; there is no random genotype to compare with." in text
