"""What the numbers allow to say: paired differences over patients, and the sentences that follow from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thrifty.statistics.paired import FEWEST, differences, rivals
from thrifty.statistics.patients import interval

MARGIN = 0.005
"""Half a point of Dice: less than this counts as no worse."""

Scores = Mapping[str, float]
Network = Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """The found network of a budget against another: mean of the paired differences of Dice, and its 95 % interval."""

    budget: int
    found: str
    against: str
    patients: int
    difference: float
    interval: tuple[float, float] | None
    above: tuple[int, int] | None = None  # (how many of the random networks are below the found one, of how many)
    seed_error: float | None = None  # standard error of the difference over seeds; None where there is one seed only

    @property
    def verdict(self) -> str:
        if self.interval is None:
            return "undecided"
        low, high = self.interval
        if low > 0:
            return "better"
        if high < 0:
            return "worse, but by no more than 0.5 points" if low >= -MARGIN else "worse"
        return "no worse by more than 0.5 points" if low >= -MARGIN else "undecided"

    @property
    def beyond_seeds(self) -> bool | None:
        """Whether the verdict would stand against two standard errors over seeds, of which the interval knows nothing."""
        if self.seed_error is None or self.verdict == "undecided":
            return None
        room = []
        if self.verdict.startswith(("better", "worse")):
            room.append(abs(self.difference))
        if self.verdict.endswith("0.5 points"):
            room.append(self.difference + MARGIN)
        return min(room) >= 2 * self.seed_error


def paired_interval(values: np.ndarray) -> tuple[float, float] | None:
    """95 % BCa bootstrap interval of the mean of differences, one for each patient; None below FEWEST patients."""
    found = interval(values) if len(values) >= FEWEST else None
    return None if found is None else (found[0], found[1])


def compare(networks: Sequence[Network], scores: Mapping[str, Scores]) -> list[Comparison]:
    """The found network of every budget against the scaled U-Net, the random ones of its budget, U-Net and UNet++."""
    known = {network["name"]: network for network in networks if network["name"] in scores}
    return [
        _paired(found, against, [known[name] for name in members], scores)
        for found in known.values()
        if found["name"].startswith("found_")
        for against, members in rivals(found["name"], list(known))
    ]


def _paired(found: Network, against: str, others: Sequence[Network], scores: Mapping[str, Scores]) -> Comparison:
    """Of several other networks the mean counts, patient by patient. Only patients that all of them have are compared."""
    values = differences(scores[found["name"]], [scores[other["name"]] for other in others])
    below = sum(found["dice"]["mean"] > other["dice"]["mean"] for other in others)
    return Comparison(
        budget=found["budget"],
        found=found["name"],
        against=against,
        patients=len(values),
        difference=float(values.mean()) if len(values) else float("nan"),
        interval=paired_interval(values),
        above=(below, len(others)) if against.startswith(("random_", "decoded_")) else None,
        seed_error=_seed_error(found, others),
    )


def _seed_error(found: Network, others: Sequence[Network]) -> float | None:
    """Standard error of the difference of two means over seeds; several other networks are a sample themselves."""
    errors = [_error_of_mean(found["dice"]["per_seed"])]
    values = [other["dice"]["mean"] for other in others] if len(others) > 1 else others[0]["dice"]["per_seed"]
    errors.append(_error_of_mean(values))
    known = [error for error in errors if error is not None]
    return math.hypot(*known) if len(known) == 2 else None


def _error_of_mean(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None


def budget_sentences(networks: Sequence[Network], comparisons: Sequence[Comparison]) -> list[str]:
    """For each found network what its comparisons come to, with their numbers; then which networks wanted more training."""
    by_name = {network["name"]: network for network in networks}
    found = [network for network in networks if network["name"].startswith("found_")]
    return [*(_budget_sentence(by_name, network, comparisons) for network in found), *_improving(networks)]


def _budget_sentence(by_name: Mapping[str, Network], found: Network, comparisons: Sequence[Comparison]) -> str:
    mine = [c for c in comparisons if c.found == found["name"]]
    size = f"{found['parameters']:,} parameters, Dice {found['dice']['mean']:.4f}"
    head = f"**Budget {found['budget']:,}:** the found network ({size})"
    if not mine:
        return f"{head} has nothing to be compared with yet."
    clauses = [_clause(c, _rival(c, by_name)) for c in mine]
    text = clauses[0] if len(clauses) == 1 else ", ".join(clauses[:-1]) + ", and " + clauses[-1]
    return f"{head} {text}."


def _rival(comparison: Comparison, by_name: Mapping[str, Network]) -> str:
    name = comparison.against
    if name.startswith("scaled_unet_"):
        return "the U-Net scaled to the same budget"
    if comparison.above is not None:
        below, number = comparison.above
        networks = "random networks of the same budget" if name.startswith("random_") else "networks that single searches decoded"
        return f"the {number} {networks} (it is above {below} of them)"
    title = {"unet": "U-Net", "unetpp": "UNet++"}[name]
    return f"{title} with {by_name[name]['parameters']:,} parameters"


def _clause(comparison: Comparison, rival: str) -> str:
    span = f"({signed_points(comparison.difference)} points, {interval_text(comparison)}{_luck(comparison)})"
    verdict = comparison.verdict
    if verdict == "undecided":
        return f"is undecided against {rival} {span}"
    word, _, rest = verdict.partition(", ")
    return f"is {word} than {rival}{', ' + rest if rest else ''} {span}"


def _luck(comparison: Comparison) -> str:
    if comparison.verdict == "undecided" or comparison.beyond_seeds:
        return ""
    return (
        "; the luck of a single seed is not known" if comparison.seed_error is None else "; the luck of the seeds may explain it"
    )


def interval_text(comparison: Comparison) -> str:
    if comparison.interval is None:
        return f"{comparison.patients} patients are too few for an interval"
    low, high = (signed_points(value) for value in comparison.interval)
    return f"95 % interval {low} to {high}, {comparison.patients} patients"


def signed_points(difference: float) -> str:
    """A difference of Dice in points (hundredths): '+1.23'."""
    return f"{100 * difference + 0.0:+.2f}"


def _improving(networks: Sequence[Network]) -> list[str]:
    names = [network["name"] for network in networks if network["still_improving"]]
    if not names:
        return []
    improving = f"Some networks were still improving when training ended ({', '.join(names)})"
    return [f"{improving}, so longer training may change the order."]
