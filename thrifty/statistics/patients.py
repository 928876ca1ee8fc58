"""Tables of one value by run and patient, and what is sure about their mean."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

RESAMPLES = 9999
Row = Mapping[str, Any]


def by_patient(rows: Sequence[Row], value: str) -> np.ndarray:
    """Mean of `value` over a patient's cases and classes: (runs, patients), runs being (seed, fold) in the order of `rows`."""
    runs, patients = runs_of(rows), patients_of(rows)
    total, number = np.zeros((2, len(runs), len(patients)))
    run_of, patient_of = ({key: place for place, key in enumerate(keys)} for keys in (runs, patients))
    for row in rows:
        place = run_of[row["seed"], row["fold"]], patient_of[row["patient"]]
        total[place] += row[value]
        number[place] += 1
    return total / number


def runs_of(rows: Sequence[Row]) -> list[tuple[int, int | None]]:
    """(seed, fold) of the trainings that `rows` measure, in their order."""
    return list(dict.fromkeys((row["seed"], row["fold"]) for row in rows))


def patients_of(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["patient"] for row in rows))


def interval(patients: np.ndarray) -> list[float] | None:
    """95 % confidence interval of the mean over patients (BCa bootstrap), their seeds averaged before.

    None for fewer than three patients. Where all are equal the interval has no width. Source: Efron, "Better bootstrap
    confidence intervals", JASA 82 (1987).
    """
    if len(patients) < 3:
        return None
    if np.ptp(patients) < 1e-12:
        return [float(patients[0])] * 2
    for method in ("BCa", "percentile"):  # BCa has no value where resamples are too alike, the percentiles always have
        low, high = _bootstrap(patients, method)
        if np.isfinite([low, high]).all():
            break
    return [low, high]


def _bootstrap(patients: np.ndarray, method: Any) -> tuple[float, float]:
    from scipy.stats import bootstrap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of degenerate resamples; the caller looks at the outcome
        rng = np.random.default_rng(0)
        found = bootstrap((patients,), np.mean, n_resamples=RESAMPLES, method=method, rng=rng).confidence_interval
    return float(found.low), float(found.high)
