"""Found networks against every baseline, paired by patient: Wilcoxon's signed-rank test, corrected by Holm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from thrifty.statistics.patients import interval
from thrifty.statistics.searches import decoded_of

FEWEST = 6
"""Patients below which nothing is decided: even if all of five agreed, a sign test would not be significant (2 / 2^5 > 0.05)."""

Scores = Mapping[str, float]


def paired_tests(scores: Mapping[str, Scores]) -> list[dict[str, Any]]:
    """One row for each found network and rival; the family that Holm corrects for is all of them.

    Args:
        scores: Dice by network and patient, seeds averaged within a patient.
    """
    rows: list[dict[str, Any]] = []
    for found in (name for name in scores if name.startswith("found_")):
        for against, members in rivals(found, list(scores)):
            values = differences(scores[found], [scores[name] for name in members])
            rows.append(
                {
                    "found": found,
                    "against": against,
                    "patients": len(values),
                    "difference": float(values.mean()) if len(values) else None,
                    "ci95": interval(values) if len(values) >= FEWEST else None,
                    "p": wilcoxon_p(values),
                }
            )
    corrected = iter(holm([row["p"] for row in rows if row["p"] is not None]))
    return [{**row, "p_holm": None if row["p"] is None else next(corrected)} for row in rows]


def rivals(found: str, names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """(name of the rival, its networks): of the same budget the scaled U-Net, and, each as one rival, random networks and
    what the searches decoded by themselves; U-Net, UNet++."""
    budget = found.removeprefix("found_")
    random = [name for name in names if name.startswith(f"random_{budget}_")]
    listed = [(name, [name]) for name in names if name == f"scaled_unet_{budget}"]
    listed += [(f"random_{budget}", random)] if random else []
    listed += [(f"decoded_{budget}", decoded)] if (decoded := decoded_of(budget, names)) else []
    return listed + [(name, [name]) for name in names if name in ("unet", "unetpp")]


def differences(mine: Scores, theirs: Sequence[Scores]) -> np.ndarray:
    """Of each patient that all networks have, by name: `mine` minus the mean of `theirs`."""
    patients = sorted(set(mine).intersection(*theirs))
    return np.array([mine[p] - float(np.mean([other[p] for other in theirs])) for p in patients])


def wilcoxon_p(values: np.ndarray) -> float | None:
    """Two-sided p of Wilcoxon's signed-rank test, differences of zero left out; None below FEWEST patients.

    Differences are rounded to 1e-12 first, so that equal ones are ties in spite of rounding errors.
    """
    from scipy.stats import wilcoxon

    if len(values) < FEWEST:
        return None
    kept = np.round(values, 12)
    kept = kept[kept != 0]
    return float(wilcoxon(kept).pvalue) if len(kept) else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """p values that control the family-wise error: the i-th smallest of m times m - i + 1, never falling, at most 1.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979).
    """
    raw = np.asarray(values, dtype=np.float64)
    order = np.argsort(raw, kind="stable")
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1)))
    return adjusted.tolist()
