"""How well genotypes of several searches agree: entropy, Fleiss' kappa, distance; and how well random ones would."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import combinations, zip_longest

import numpy as np

from thrifty.space.genotype import CELL_TYPES, Cell, Genotype, canonical, relabelled

ABSENT = "absent"
SETS = 500  # of random genotypes, that agreement is compared with
MEASURES = ("op_entropy_bits", "op_kappa", "path_entropy_bits", "path_kappa", "distance")


def fleiss_kappa(ratings: Sequence[Sequence[Hashable]]) -> float | None:
    """Agreement beyond chance of n raters: (P - Pe) / (1 - Pe); None where all ratings are the same or there is one rater.

    Args:
        ratings: for each item the category that each rater gave it; equally many raters for each.

    Source: Fleiss, "Measuring nominal scale agreement among many raters", Psychological Bulletin 76 (1971), equations 1 to 7.
    """
    counts = [Counter(item) for item in ratings]
    n = len(ratings[0]) if ratings else 0
    if n < 2:
        return None
    agreeing = np.mean([(sum(c * c for c in item.values()) - n) / (n * (n - 1)) for item in counts])
    total = sum(counts, Counter())
    expected = sum((c / (n * len(counts))) ** 2 for c in total.values())
    return None if expected >= 1 else float((agreeing - expected) / (1 - expected))


def entropy_bits(values: Sequence[Hashable]) -> float:
    """Of the empirical distribution: 0 where all are equal, log2(n) where none are."""
    shares = np.array(list(Counter(values).values())) / len(values)
    return float(abs((shares * np.log2(shares)).sum()))


def edge_choices(genotype: Genotype) -> list[str]:
    """For every edge that the cells could have, in a fixed order, its op or 'absent'; inner nodes as in the canonical form."""
    named = canonical(genotype)
    found = []
    for cell_type in CELL_TYPES:
        ops = {(node, edge.source): edge.op for node, edge in named.cell(cell_type).edges()}
        found += [ops.get((node, source), ABSENT) for node in range(named.nodes) for source in range(node + 2)]
    return found


def distance(a: Genotype, b: Genotype) -> int:
    """Choices in which two genotypes differ: edges (source and op) of `a` that `b` lacks, and diagonals with other counts.

    Inner nodes are named so that the cells differ least, so the distance is 0 exactly where the cells and paths are the same.
    """
    cells = sum(_cell_distance(_forms(a.cell(t)), _forms(b.cell(t))) for t in CELL_TYPES)
    return cells + sum(x != y for x, y in zip_longest(a.path, b.path))


def _forms(cell: Cell) -> set[frozenset]:
    return {frozenset((node, edge.source, edge.op) for node, edge in form.edges()) for form in relabelled(cell)}


def _cell_distance(a: set[frozenset], b: set[frozenset]) -> int:
    return min(len(x - y) for x in a for y in b)


def agreement(genotypes: Sequence[Genotype]) -> dict[str, float | None]:
    """MEASURES of at least two genotypes of one space and width: means over edges, over diagonals, and over pairs."""
    edges = list(zip(*map(edge_choices, genotypes), strict=True))
    diagonals = list(zip_longest(*(genotype.path for genotype in genotypes), fillvalue=ABSENT))
    return {
        "op_entropy_bits": float(np.mean([entropy_bits(edge) for edge in edges])),
        "op_kappa": fleiss_kappa(edges),
        "path_entropy_bits": entropy_bits([genotype.path for genotype in genotypes]),
        "path_kappa": fleiss_kappa(diagonals),
        "distance": float(np.mean([distance(a, b) for a, b in combinations(genotypes, 2)])),
    }


def by_chance(number: int, pool: Sequence[Genotype]) -> dict[str, list[float]]:
    """MEASURES of 500 sets of `number` genotypes drawn from `pool`; what is not defined is left out."""
    rng = np.random.default_rng(0)
    choices = [edge_choices(genotype) for genotype in pool]
    apart: dict[tuple[int, int], int] = {}
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    for _ in range(SETS):
        chosen = sorted(int(k) for k in rng.choice(len(pool), number, replace=False))
        for a, b in combinations(chosen, 2):
            if (a, b) not in apart:
                apart[a, b] = distance(pool[a], pool[b])
        edges = list(zip(*(choices[k] for k in chosen), strict=True))
        paths = [pool[k].path for k in chosen]
        values = (
            float(np.mean([entropy_bits(edge) for edge in edges])),
            fleiss_kappa(edges),
            entropy_bits(paths),
            fleiss_kappa(list(zip_longest(*paths, fillvalue=ABSENT))),
            float(np.mean([apart[pair] for pair in combinations(chosen, 2)])),
        )
        for name, value in zip(MEASURES, values, strict=True):
            if value is not None:
                found[name].append(value)
    return found


def against_chance(name: str, value: float | None, random: Sequence[float]) -> dict[str, float | None]:
    """Mean and 95 % range over the random sets, and p: (1 + sets that agree at least as well) / (1 + sets)."""
    if not random:
        return {"mean": None, "low": None, "high": None, "p": None}
    drawn = np.asarray(random)
    low, high = np.quantile(drawn, [0.025, 0.975])
    p = None
    if value is not None:
        better = drawn >= value - 1e-9 if name.endswith("kappa") else drawn <= value + 1e-9
        p = float((1 + better.sum()) / (1 + len(drawn)))
    return {"mean": float(drawn.mean()), "low": float(low), "high": float(high), "p": p}
