"""The tables of docs/LOG.md, from the rows of an experiment: Dice with intervals, comparisons, rank correlations, budgets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from experiments import EXPERIMENTS, Experiment
from scipy import stats

MARGIN = 0.005  # half a Dice point
Rows = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Trained:
    """All trainings of one kind of network. `dice` (runs,) on the test cases; `units` the mean of each genotype, or the
    runs of the only one; `seeds` of the runs; `patients` (patients,) the mean over runs."""

    parameters: str
    dice: np.ndarray
    units: np.ndarray
    seeds: tuple[int, ...]
    patients: np.ndarray
    improving: int


def trained(rows: Rows, prefix: str) -> Trained | None:
    """The trainings of the networks called `prefix` or `prefix`_number."""
    found: list[tuple[str, int, dict[str, Any]]] = []
    for job, row in rows.items():
        kind, network, seed = job.split("/")
        if kind == "train" and prefix in (network, network.rpartition("_")[0]):
            found.append((network, int(seed), row))
    if not found:
        return None
    sizes = [row["parameters"] for _, _, row in found]
    parameters = f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,}"
    names = sorted({network for network, _, _ in found})
    # What varies is the genotype, so that its seeds are averaged first; of one network it is the seed.
    by_name = [[row["dice"] for network, _, row in found if network == name] for name in names]
    units = [float(np.mean(values)) for values in by_name] if len(names) > 1 else by_name[0]
    dice = np.array([row["dice"] for _, _, row in found])
    patients = np.mean([row["patients"] for _, _, row in found], axis=0)
    improving = sum(row["still_improving"] for _, _, row in found)
    return Trained(parameters, dice, np.array(units), tuple(seed for _, seed, _ in found), patients, improving)


def over_seeds(values: np.ndarray) -> str:
    """Mean and the half width of the t interval of 95 %."""
    if len(values) < 2:
        return f"{values.mean():.3f}"
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{values.mean():.3f} ± {half:.3f}"


def over_patients(values: np.ndarray) -> tuple[float, float]:
    """The BCa bootstrap interval of 95 % of a mean over patients."""
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    found = stats.bootstrap((values,), np.mean, n_resamples=2000, method="BCa", rng=np.random.default_rng(0))
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def difference_over_seeds(found: Trained, other: Trained) -> tuple[float, float]:
    """95 % interval of found - other: paired where both have the same seeds, otherwise Welch's, a genotype as the unit."""
    if found.seeds and sorted(found.seeds) == sorted(other.seeds):
        a, b = (np.array([d for _, d in sorted(zip(t.seeds, t.dice, strict=True))]) for t in (found, other))
        interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    else:
        interval = stats.ttest_ind(found.units, other.units, equal_var=False).confidence_interval(0.95)
    return float(interval.low), float(interval.high)


def verdict(intervals: Sequence[tuple[float, float]]) -> str:
    """What both intervals, over seeds and over patients, allow to say."""
    low, high = min(i[0] for i in intervals), max(i[1] for i in intervals)
    if low > 0:
        return "better"
    if high < 0:
        return "worse"
    return "no worse by more than 0.5 points" if low > -MARGIN else "undecided"


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *lines))


def searched(e: Experiment) -> list[str]:
    """What the trainings of searched networks are called: decoded ones by their variant, and selected ones."""
    return [f"{kind}{variant}" for variant in e.variants for kind in ("", "selected-")]


def best_of_random(name: str, rows: Rows, number: int = 6) -> str:
    """What a selection without a search gets: the test Dice of the best of `number` random genotypes by a short training, in the
    mean over all subsets of the random genotypes at hand."""
    e = EXPERIMENTS[name]
    kept = [i for i in range(e.randoms) if f"short/random_{i}/100" in rows and f"train/random_{i}/{e.random_seeds[-1]}" in rows]
    if len(kept) <= number:
        return ""
    truth = [float(np.mean([rows[f"train/random_{i}/{s}"]["dice"] for s in e.random_seeds])) for i in kept]
    score = [rows[f"short/random_{i}/100"]["selection_dice"] for i in kept]
    order = sorted(range(len(kept)), key=lambda i: -score[i])
    # Of all subsets, those whose best one has rank r are the ones that take the others from the ranks behind it.
    chances = [math.comb(len(kept) - 1 - rank, number - 1) / math.comb(len(kept), number) for rank in range(len(kept))]
    mean = sum(chance * truth[i] for chance, i in zip(chances, order, strict=True))
    return f"The best of {number} random genotypes by a short training: test Dice {mean:.4f} (all of them: {np.mean(truth):.4f})."


def dice_table(name: str, rows: Rows) -> str:
    e = EXPERIMENTS[name]
    lines = []
    for prefix in (*searched(e), "random", *(f"w{width}-random" for width in e.widths), *e.baselines):
        if (t := trained(rows, prefix)) is not None:
            low, high = over_patients(t.patients)
            shown = f"{low:.3f} to {high:.3f}"
            lines.append([prefix, t.parameters, str(len(t.dice)), over_seeds(t.units), shown, f"{t.improving} of {len(t.dice)}"])
    head = [
        "network",
        "parameters",
        "trainings",
        "test Dice, 95 % over seeds or genotypes",
        "95 % over patients",
        "still improving",
    ]
    return table(head, lines)


def comparison_table(name: str, rows: Rows) -> str:
    e, lines = EXPERIMENTS[name], []
    for variant in searched(e):
        found = trained(rows, variant)
        for prefix in ("random", *e.baselines):
            other = trained(rows, prefix)
            if found is None or other is None or len(found.units) < 2:
                continue
            seeds = difference_over_seeds(found, other) if len(other.dice) > 1 else (-1.0, 1.0)
            patients = over_patients(found.patients - other.patients)
            shown = [f"{100 * low:+.1f} to {100 * high:+.1f}" for low, high in (seeds, patients)]
            lines.append([f"{variant} - {prefix}", *shown, verdict((seeds, patients))])
    return table(["difference, Dice points", "95 % over seeds", "95 % over patients", "verdict"], lines)


def ranking_table(name: str, rows: Rows) -> str:
    """Kendall's tau between the test Dice of the random genotypes, retrained, and what could have told it before."""
    e = EXPERIMENTS[name]
    truth, kept = [], []
    for i in range(e.randoms):
        dice = [rows[job]["dice"] for s in e.random_seeds if (job := f"train/random_{i}/{s}") in rows]
        if len(dice) == len(e.random_seeds):
            truth.append(np.mean(dice))
            kept.append(i)
    if len(kept) < 3:
        return "too few random genotypes are trained yet"
    predictors: dict[str, list[float]] = {
        "parameters": [rows[f"train/random_{i}/{e.random_seeds[0]}"]["parameters"] for i in kept]
    }
    if all(f"short/random_{i}/100" in rows for i in kept):
        predictors["short training, selection cases"] = [rows[f"short/random_{i}/100"]["selection_dice"] for i in kept]
    if len(e.random_seeds) > 1:
        first, second = ([rows[f"train/random_{i}/{s}"]["dice"] for i in kept] for s in e.random_seeds[:2])
        lines = [["one seed against another", f"{stats.kendalltau(first, second).statistic:+.2f}", "", str(len(kept))]]
    else:
        lines = []
    for variant in e.variants:
        found = [rows[job]["inherited_random"] for s in e.seeds if (job := f"search/{variant}/{s}") in rows]
        if found:
            predictors[f"inherited, {variant}, mean of {len(found)} supernets"] = list(np.mean(found, axis=0)[kept])
    for what, values in predictors.items():
        result = stats.kendalltau(values, truth)
        lines.append([what, f"{result.statistic:+.2f}", f"{result.pvalue:.3f}", str(len(kept))])
    return table(["predictor of the retrained Dice", "Kendall's tau", "p", "genotypes"], lines)


def search_table(name: str, rows: Rows) -> str:
    e, lines = EXPERIMENTS[name], []
    for variant in e.variants:
        found = [rows[job] for s in e.seeds if (job := f"search/{variant}/{s}") in rows]
        if not found:
            continue
        off = [abs(row["decoded"] - row["expected_parameters"]) / row["budget"] for row in found]
        idle = [1 - row["decoded"] / row["budget"] for row in found]
        values = (
            [f"{max(off):.0%}", f"{max(row['decoded'] / row['budget'] for row in found):.0%}", f"{np.mean(idle):.0%}"],
            [f"{np.mean([row[key] for row in found]):.2f}" for key in ("entropy_alpha", "entropy_beta", "dice", "inherited")],
            [str(sum(row["guard"] is not None for row in found)), f"{np.mean([row['searching'] for row in found]):.0f}"],
        )
        lines.append([variant, str(len(found)), *(v for part in values for v in part)])
    head = ["search", "seeds", "largest difference of decoded and E", "largest decoded", "idle", "entropy of ops", "of pairs"]
    return table([*head, "Dice of the mixture", "of the decoded, inherited", "guard acted", "seconds"], lines)


def report(name: str, rows: Rows) -> str:
    e = EXPERIMENTS[name]
    parts = [f"**{name}** ({e.study} at {e.budget:,} parameters; {len(rows)} jobs done)"]
    parts += [dice_table(name, rows), best_of_random(name, rows), comparison_table(name, rows)]
    parts += [ranking_table(name, rows), search_table(name, rows)]
    return "\n\n".join(parts)
