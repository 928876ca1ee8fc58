"""What the spread of Dice comes from: variance components of a balanced, fully crossed random-effects model.

y = mean + sum of one random effect for every non-empty set S of factors. Method of moments (analysis of variance): E[MS_S] = sum
over all T that contain S of sigma2_T * (product of the levels of the factors outside T), solved for sigma2_S by inclusion
and exclusion. Where none comes out negative they are also the REML estimates. Source: Searle, Casella, McCulloch, "Variance
Components" (1992), chapter 4.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from thrifty.statistics.patients import by_patient, patients_of, runs_of

Row = Mapping[str, Any]
FACTORS = ("retrain_seed", "split", "patient")


def components(table: np.ndarray, factors: Sequence[str]) -> dict[str, float]:
    """Variance by set of factors, named 'a', 'b', 'a x b'. That of all factors together also holds what is left over (noise).

    Args:
        table: one value for each combination; axis i is factor i. A factor of one level is left out.
        factors: their names.

    An estimate can be negative where a true component is near zero: it is given as it comes out.
    """
    kept = [axis for axis, levels in enumerate(table.shape) if levels > 1]
    table = table.reshape([table.shape[axis] for axis in kept])
    names = [factors[axis] for axis in kept]
    squares = {subset: _mean_square(table, subset) for subset in _subsets(range(table.ndim))}
    found = {}
    for subset in squares:
        others = math.prod(table.shape[axis] for axis in range(table.ndim) if axis not in subset)
        above = (t for t in squares if set(subset) <= set(t))
        total = sum((-1) ** (len(t) - len(subset)) * squares[t] for t in above)
        found[" x ".join(names[axis] for axis in subset)] = total / others
    return found


def _subsets(axes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return itertools.chain.from_iterable(itertools.combinations(axes, size) for size in range(1, len(axes) + 1))


def _mean_square(table: np.ndarray, subset: tuple[int, ...]) -> float:
    """Of the effect of `subset`: means over the other axes, less all effects of smaller sets."""
    effect = np.zeros([table.shape[axis] if axis in subset else 1 for axis in range(table.ndim)])
    for size in range(len(subset) + 1):
        for inner in itertools.combinations(subset, size):
            outside = tuple(axis for axis in range(table.ndim) if axis not in inner)
            effect = effect + (-1) ** (len(subset) - size) * table.mean(axis=outside, keepdims=True)
    repeats = table.size / effect.size
    return float(repeats * (effect**2).sum() / math.prod(table.shape[axis] - 1 for axis in subset))


def shares(found: Mapping[str, float]) -> dict[str, float]:
    """Of the sum of all components; negative ones count as zero."""
    kept = {name: max(value, 0.0) for name, value in found.items()}
    total = sum(kept.values())
    return {name: value / total if total else 0.0 for name, value in kept.items()}


def variance_rows(rows: Sequence[Row], groups: Mapping[str, Mapping[str, Sequence[str]]]) -> list[dict[str, Any]]:
    """The components of each group of networks for which something varies besides the patients.

    Args:
        rows: of per_case.csv, of the classes that count.
        groups: name of a group -> {name of what its networks differ in: names of the networks}.
    """
    found = []
    for group, members in groups.items():
        ((first, networks),) = members.items()
        table = crossed([[row for row in rows if row["network"] == name] for name in networks])
        if table is None or math.prod(table.shape[:-1]) < 2 or table.shape[-1] < 2:
            continue
        factors = (first, *FACTORS)
        values = components(table, factors)
        levels = {name: n for name, n in zip(factors, table.shape, strict=True) if n > 1}
        found.append({"group": group, "levels": levels, "variance": values, "share": shares(values)})
    return found


def crossed(tables: Sequence[Sequence[Row]]) -> np.ndarray | None:
    """Dice by (network, seed, fold, patient): of the seeds, folds and patients that every network has; None where there are none.

    A seed counts only with all folds, so that the table has no holes.
    """
    runs, patients = [runs_of(rows) for rows in tables], [patients_of(rows) for rows in tables]
    if not tables or not all(tables):
        return None
    folds = list(dict.fromkeys(fold for keys in runs for _, fold in keys))
    seeds = [s for s in dict.fromkeys(s for s, _ in runs[0]) if all((s, fold) in keys for keys in runs for fold in folds)]
    common = [p for p in patients[0] if all(p in names for names in patients)]
    if not seeds or not common:
        return None
    values = np.empty((len(tables), len(seeds), len(folds), len(common)))
    for i, rows in enumerate(tables):
        dice = by_patient(rows, "dice")
        columns = [patients[i].index(p) for p in common]
        for (j, seed), (k, fold) in itertools.product(enumerate(seeds), enumerate(folds)):
            values[i, j, k] = dice[runs[i].index((seed, fold)), columns]
    return values
