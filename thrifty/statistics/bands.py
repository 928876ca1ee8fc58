"""One quantity over the epochs of several searches: mean, lowest and highest of the seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

CURVES = ("expected_parameters", "entropy_alpha", "entropy_beta", "entropy_gamma", "entropy_depth", "parameter_free", "dice")


def band(searches: Sequence[Sequence[Mapping[str, Any]]], key: str) -> dict[int, tuple[float, float, float]]:
    """(mean, lowest, highest) by epoch, of the epochs for which every search has a value."""
    values = [{int(row["epoch"]): row[key] for row in rows if row.get(key) is not None} for rows in searches]
    common = sorted(set(values[0]).intersection(*values[1:])) if values else []
    columns = {epoch: np.array([one[epoch] for one in values], dtype=np.float64) for epoch in common}
    return {epoch: (float(c.mean()), float(c.min()), float(c.max())) for epoch, c in columns.items()}
