"""Random distributions over the genotypes of a space."""

from __future__ import annotations

import numpy as np

from thrifty.space.distribution import Distribution, from_logits
from thrifty.space.genotype import CELL_TYPES
from thrifty.space.path import Depth
from thrifty.space.schema import Space


def random_distribution(
    space: Space, levels: int, rng: np.random.Generator, spread: float = 2.0, depth: Depth = "fixed"
) -> Distribution:
    """Normal logits; every tenth distribution or so is nearly decided."""
    spread *= 10 if rng.random() < 0.1 else 1
    sources = [source for k in range(space.nodes) for source in range(k + 2)]
    alpha = {t: [spread * rng.normal(size=len(space.ops_of(t, s))) for s in sources] for t in CELL_TYPES}
    beta = {t: [spread * rng.normal(size=k + 2) for k in range(space.nodes)] for t in CELL_TYPES}
    gamma = [spread * rng.normal(size=d) for d in range(1, levels - 1)] if space.path == "searched" else []
    last = spread * rng.normal(size=levels - 1) if depth == "searched" else None
    return from_logits(space, levels, alpha, beta, gamma, last)
