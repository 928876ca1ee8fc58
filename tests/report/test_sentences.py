"""The three sentences on constructed numbers: each says what its intervals allow and no more."""

from __future__ import annotations

from typing import Any

import pytest

from thrifty.report.sentences import three_sentences
from thrifty.report.verdict import Comparison

BETTER, CLOSE, OPEN, WORSE = (0.01, 0.02), (-0.004, 0.01), (-0.02, 0.02), (-0.03, -0.02)


def network(name: str, dice: list[float], parameters: int = 29_000, improving: int = 0) -> dict[str, Any]:
    mean = sum(dice) / len(dice)
    sd = (sum((value - mean) ** 2 for value in dice) / (len(dice) - 1)) ** 0.5 if len(dice) > 1 else None
    return {
        "name": name, "parameters": parameters, "still_improving": improving,
        "dice": {"mean": mean, "per_seed": dice, "sd_seeds": sd},
    }  # fmt: skip


def against(
    name: str, interval: tuple[float, float] | None, error: float | None = 0.001, above: tuple[int, int] | None = None
) -> Comparison:
    middle = sum(interval) / 2 if interval else 0.0
    return Comparison(30_000, "found_30000", name, 40, middle, interval, above, error)


def chance(probability: float | None, ci95: list[float] | None, random: int = 5) -> dict[str, Any]:
    return {"luck": [{"found": "found_30000", "random": random, "probability": probability, "ci95": ci95}]}


FOUND = network("found_30000", [0.81, 0.83])


def test_verdicts_are_grouped_and_doubts_are_told() -> None:
    compared = [
        against("scaled_unet_30000", BETTER),
        against("random_30000", WORSE, above=(0, 3)),
        against("unet", CLOSE, error=0.05),
        against("unetpp", OPEN),
    ]
    good = three_sentences([FOUND, network("unet", [0.8], improving=1)], compared, None, None)[0]
    assert good == (
        "**Is it good?** The found network of 29,000 parameters (Dice 0.8200) is better than the U-Net scaled to its budget, no "
        "worse by more than 0.5 points than U-Net (other seeds may undo that) and undecided against UNet++; 1 of 2 networks were "
        "still improving when training ended, and longer training may change this."
    )


def test_equal_verdicts_are_said_once_and_single_seeds_are_named() -> None:
    compared = [against("unet", WORSE, error=None), against("unetpp", WORSE, error=None)]
    good = three_sentences([FOUND], compared, None, None)[0]
    assert good.endswith("is worse than U-Net and UNet++ (as far as single seeds tell).")
    close = three_sentences([FOUND], [against("unet", (-0.004, -0.001), error=1e-4)], None, None)[0]
    assert close.endswith("is worse than U-Net, but by no more than 0.5 points.")


def test_too_few_patients_decide_nothing() -> None:
    good = three_sentences([FOUND], [against("unet", None)], None, None)[0]
    assert good.endswith("is undecided against U-Net.")
    assert three_sentences([FOUND], [], None, None)[0].endswith("has no baseline to be compared with yet.")


def setting(budget: int, p: float | None, searches: int = 3, collapsed: int = 0) -> dict[str, Any]:
    agreement = {"distance": {"value": 1.0, "chance": {"p": p}}} if searches > 1 else None
    names = [f"s{number}" for number in range(collapsed)]
    return {"budget": budget, "seeds": list(range(searches)), "collapsed": names, "agreement": agreement}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (setting(9_000, 0.049), "agree more than random genotypes do (p 0.049, 3 for the budget 9,000)."),
        (setting(9_000, 0.05), "are not shown to agree more than random genotypes do (p 0.050, 3 for the budget 9,000)."),
        (setting(9_000, None, 1, 1), "cannot be compared with chance (1 for the budget 9,000, of which 1 collapsed)."),
    ],
)  # fmt: skip
def test_agreement_of_searches_against_chance(row: dict[str, Any], expected: str) -> None:
    stable = three_sentences([FOUND], [], None, {"settings": [row]})[1]
    assert stable == (
        "**Is it stable?** Over retraining seeds the Dice of the found network varies (sd) by 1.41 points at 29,000 parameters "
        f"(2 seeds); the searches {expected}"
    )


def test_one_seed_is_no_spread() -> None:
    stable = three_sentences([network("found_30000", [0.8])], [], None, None)[1]
    assert stable.startswith(
        "**Is it stable?** One seed at 29,000 parameters says nothing about others; the summary says nothing"
    )


@pytest.mark.parametrize(
    ("probability", "ci95", "expected"),
    [
        (0.01, [0.0, 0.04], "it is unlikely that a random search of equal cost does at least as well (0.01, "
                           "95 % interval 0.00 to 0.04)."),
        (0.9, [0.6, 1.0], "it is more likely than not that a random search of equal cost does at least as well (0.90, "
                          "95 % interval 0.60 to 1.00)."),
        (0.3, [0.01, 0.9], "it is not ruled out that a random search of equal cost does at least as well (0.30, "
                           "95 % interval 0.01 to 0.90)."),
        (None, None, "5 are too few to say how likely a random search of equal cost does as well."),
    ],
)  # fmt: skip
def test_luck(probability: float | None, ci95: list[float] | None, expected: str) -> None:
    text = three_sentences([FOUND], [against("random_30000", OPEN, above=(2, 5))], chance(probability, ci95), None)[2]
    head = (
        "The found network of 29,000 parameters is undecided against the mean of 5 random genotypes of its size, above 2 of them"
    )
    assert text == f"**Was it luck?** {head}; {expected}"


def searched(ci95: list[float] | None) -> dict[str, Any]:
    decoded = {"number": 5, "sd": 0.0123}
    row = {"budget": 30_000, "decoded": decoded, "difference": 0.004, "ci95": ci95}
    return {"luck": [], "searches": [row]}


@pytest.mark.parametrize(
    ("ci95", "expected"),
    [
        ([0.001, 0.007], "better than random genotypes (+0.40 points, 95 % interval +0.10 to +0.70)."),
        ([-0.001, 0.009], "undecided against random genotypes (+0.40 points, 95 % interval -0.10 to +0.90)."),
        ([-0.007, -0.001], "worse than random genotypes (+0.40 points, 95 % interval -0.70 to -0.10)."),
    ],
)
def test_search_seeds_have_their_say(ci95: list[float], expected: str) -> None:
    compared = [against("random_30000", OPEN, above=(2, 5)), against("decoded_30000", BETTER, above=(5, 5))]
    good, stable, luck = three_sentences([FOUND], compared, searched(ci95), None)
    assert luck.endswith(f"above 2 of them; what 5 searches decoded by themselves is {expected}")
    assert "; over search seeds that of what each search decoded varies by 1.23 points for the budget 30,000 (5 seeds)" in stable
    assert "no baseline" in good, "what searches decoded is no baseline"
    assert "searches decoded" not in three_sentences([FOUND], compared, searched(None), None)[2]


def test_without_random_genotypes_or_statistics_luck_cannot_be_judged() -> None:
    assert three_sentences([FOUND], [], None, None)[2].endswith("beside it, so luck cannot be judged.")
    one = three_sentences([FOUND], [against("random_30000", OPEN, above=(0, 1))], None, None)[2]
    assert one.endswith("against the one random genotype of its size; the summary has no statistics that say more.")
    few = three_sentences([FOUND], [against("random_30000", OPEN, above=(0, 1))], chance(None, None, 1), None)[2]
    assert few.endswith("genotype of its size; one is too few to say how likely a random search of equal cost does as well.")


def test_nothing_evaluated_is_no_verdict() -> None:
    assert [text.split("** ")[1] for text in three_sentences([], [], None, None)] == [
        "No network is evaluated yet, so there is no verdict: `thrifty evaluate` comes before it.",
        "No network is evaluated yet, so there is no verdict.",
        "No network is evaluated yet, so there is no verdict.",
    ]
    assert "No found network is evaluated yet" in three_sentences([network("unet", [0.8])], [], None, None)[0]


def test_every_budget_has_its_clause() -> None:
    second = network("found_60000", [0.9, 0.9], 58_000)
    good, stable, luck = three_sentences([FOUND, second], [against("unet", OPEN)], None, None)
    assert "; that of 58,000 parameters (Dice 0.9000) has no baseline" in good
    assert "1.41 points at 29,000 parameters (2 seeds) and 0.00 points at 58,000 parameters (2 seeds)" in stable
    assert luck.count("so luck cannot be judged") == 2
