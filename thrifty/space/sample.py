"""Random genotypes: the baseline that a search has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thrifty.errors import ThriftyError
from thrifty.space.cost import Costs, count
from thrifty.space.genotype import Cell, CellType, Genotype
from thrifty.space.schema import Space
from thrifty.space.size import edge_options

TRIES = 50_000


@dataclass(frozen=True)
class _Place:
    space: Space
    width: int
    levels: int
    channels: int
    classes: int


def random_genotype(
    space: Space,
    width: int,
    levels: int,
    channels: int,
    classes: int,
    rng: np.random.Generator,
    low: int = 0,
    high: int | None = None,
) -> Genotype:
    """A genotype drawn uniformly (pairs, ops and cell path) among those with `low` <= parameters <= `high`, by rejection.

    Raises:
        ThriftyError: the range is out of this width's reach, or none was met in 50,000 draws.
    """
    place, costs = _Place(space, width, levels, channels, classes), Costs(space, width, levels, channels, classes)
    out_of_reach = (low > 0 and low > costs.largest()) or (high is not None and high < costs.smallest())
    for _ in range(0 if out_of_reach else TRIES):
        genotype = _draw(place, rng)
        if low <= count(genotype) and (high is None or count(genotype) <= high):
            return genotype
    raise ThriftyError(
        f"no network of the space '{space.name}' at width {width} with {levels} levels was met between {low:,} and "
        f"{high if high is None else format(high, ',')} parameters (it builds {costs.smallest():,} to {costs.largest():,}); "
        "give another width or budget"
    )


def _draw(place: _Place, rng: np.random.Generator) -> Genotype:
    paths = place.space.paths(place.levels)
    path = paths[int(rng.integers(len(paths)))]
    down, up = (_draw_cell(place.space, t, rng) for t in ("down", "up"))
    return Genotype(down, up, path, place.width, place.levels, place.channels, place.classes, place.space.name, place.space.frame)


def _draw_cell(space: Space, cell_type: CellType, rng: np.random.Generator) -> Cell:
    nodes = []
    for k in range(space.nodes):
        a, b = sorted(int(s) for s in rng.choice(k + 2, size=2, replace=False))
        first, second = (edge_options(space, cell_type, source) for source in (a, b))
        nodes.append((first[int(rng.integers(len(first)))], second[int(rng.integers(len(second)))]))
    return Cell(tuple(nodes))
