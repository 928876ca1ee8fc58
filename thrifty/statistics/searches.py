"""Is what a search decodes better than a random genotype, whatever its seed? Over searches, not over patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

FEWEST = 2  # networks on either side below which there is no spread


def decoded_of(budget: int | str, names: Sequence[str]) -> list[str]:
    """The networks among `names` that searches for a budget decoded by themselves."""
    return [name for name in names if name.startswith(f"decoded_b{budget}_")]


def setting_of(name: str) -> str:
    """The setting whose search decoded a network: its name without the seed."""
    return name.rpartition("_s")[0]


def search_rows(means: Mapping[str, float]) -> list[dict[str, Any]]:
    """One row for each budget and setting whose decoded networks are trained: those of a setting differ by their seed alone.

    Args:
        means: Dice of every network, mean over its retraining seeds.

    `ci95` and `p` are Welch's t interval and test of the difference between decoded and random networks (Welch 1947), each
    network being one observation: they speak of other search seeds and other random genotypes, on these patients.
    """
    rows = []
    for found in (name for name in means if name.startswith("found_")):
        budget, by_setting = found.removeprefix("found_"), {}
        for name in decoded_of(budget, list(means)):
            by_setting.setdefault(setting_of(name), []).append(name)
        rows += [_row(budget, setting, names, found, means) for setting, names in by_setting.items()]
    return rows


def _row(budget: str, setting: str, names: list[str], found: str, means: Mapping[str, float]) -> dict[str, Any]:
    decoded = np.array([means[name] for name in names])
    random = np.array([value for name, value in means.items() if name.startswith(f"random_{budget}_")])
    return {
        "budget": int(budget),
        "setting": setting.removeprefix("decoded_"),
        "networks": names,
        "decoded": _sample(decoded),
        "random": _sample(random) if len(random) else None,
        **_welch(decoded, random),
        "found": means[found],
        "below_found": int((decoded < means[found]).sum()),
    }


def _sample(values: np.ndarray) -> dict[str, Any]:
    sd = float(values.std(ddof=1)) if len(values) > 1 else None
    return {
        "number": len(values),
        "mean": float(values.mean()),
        "sd": sd,
        "low": float(values.min()),
        "high": float(values.max()),
    }


def _welch(decoded: np.ndarray, random: np.ndarray) -> dict[str, Any]:
    """None where a side is missing, or has too few or only equal networks to have a spread."""
    from scipy.stats import ttest_ind

    difference = float(decoded.mean() - random.mean()) if len(random) else None
    if min(len(decoded), len(random)) < FEWEST or np.ptp(decoded) + np.ptp(random) < 1e-12:
        return {"difference": difference, "ci95": None, "p": None}
    test = ttest_ind(decoded, random, equal_var=False)
    low, high = test.confidence_interval(0.95)
    return {"difference": difference, "ci95": [float(low), float(high)], "p": float(test.pvalue)}
