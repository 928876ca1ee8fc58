"""Random genotypes: uniform ones, the baseline that a search has to beat, and draws from a learnt distribution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thrifty.errors import ThriftyError
from thrifty.space.cost import Costs, count
from thrifty.space.distribution import Distribution, edge_index, pairs_of
from thrifty.space.genotype import Cell, CellType, Edge, Genotype
from thrifty.space.path import Depth, levels_of
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
    depth: Depth


def random_genotype(
    space: Space,
    width: int,
    levels: int,
    channels: int,
    classes: int,
    rng: np.random.Generator,
    low: int = 0,
    high: int | None = None,
    depth: Depth = "fixed",
) -> Genotype:
    """A genotype drawn uniformly (pairs, ops and cell path) among those with `low` <= parameters <= `high`, by rejection.

    With `depth` searched it has 2 .. `levels` levels, each as often as its share of all cell paths, hence of all genotypes.

    Raises:
        ThriftyError: the range is out of this width's reach, or none was met in 50,000 draws.
    """
    place = _Place(space, width, levels, channels, classes, depth)
    costs = Costs(space, width, levels, channels, classes, depth=depth)
    out_of_reach = (low > 0 and low > costs.largest()) or (high is not None and high < costs.smallest())
    for _ in range(0 if out_of_reach else TRIES):
        genotype = _draw(place, rng)
        if low <= count(genotype) and (high is None or count(genotype) <= high):
            return genotype
    raise ThriftyError(
        f"no network of the space '{space.name}' at width {width} with {costs.levels_text} was met between {low:,} and "
        f"{high if high is None else format(high, ',')} parameters (it builds {costs.smallest():,} to {costs.largest():,}); "
        "give another width or budget"
    )


def _draw(place: _Place, rng: np.random.Generator) -> Genotype:
    paths = place.space.paths(place.levels, place.depth)
    path = paths[int(rng.integers(len(paths)))]
    down, up = (_draw_cell(place.space, t, rng) for t in ("down", "up"))
    shape = (place.width, levels_of(path), place.channels, place.classes)
    return Genotype(down, up, path, *shape, place.space.name, place.space.frame)


def _draw_cell(space: Space, cell_type: CellType, rng: np.random.Generator) -> Cell:
    nodes = []
    for k in range(space.nodes):
        a, b = sorted(int(s) for s in rng.choice(k + 2, size=2, replace=False))
        first, second = (edge_options(space, cell_type, source) for source in (a, b))
        nodes.append((first[int(rng.integers(len(first)))], second[int(rng.integers(len(second)))]))
    return Cell(tuple(nodes))


def draw(distribution: Distribution, costs: Costs, rng: np.random.Generator) -> Genotype:
    """A genotype drawn from `distribution`, whatever its size."""
    down, up = (_draw_learnt(distribution, costs.space, t, rng) for t in ("down", "up"))
    path = _draw_path(distribution, rng) if distribution.gates else costs.space.paths(costs.levels)[0]
    shape = (costs.width, levels_of(path), costs.channels, costs.classes)
    return Genotype(down, up, path, *shape, costs.space.name, costs.space.frame)


def _draw_path(distribution: Distribution, rng: np.random.Generator) -> tuple[int, ...]:
    last = distribution.levels - 1 if distribution.depth is None else 1 + _categorical(distribution.depth, rng)
    return tuple(_kept(gate, rng) for gate in distribution.gates[: last - 1])


def _draw_learnt(distribution: Distribution, space: Space, cell_type: CellType, rng: np.random.Generator) -> Cell:
    nodes = []
    for k in range(space.nodes):
        pair = pairs_of(k)[_categorical(distribution.pairs[cell_type][k], rng)]
        names = [space.ops_of(cell_type, s)[_categorical(distribution.ops[cell_type][edge_index(k, s)], rng)] for s in pair]
        nodes.append((Edge(pair[0], names[0]), Edge(pair[1], names[1])))
    return Cell(tuple(nodes))


def _categorical(log_p: np.ndarray, rng: np.random.Generator) -> int:
    """An index drawn by the Gumbel-max trick, which needs no normalised probabilities."""
    return int(np.argmax(log_p + rng.gumbel(size=log_p.shape)))


def _kept(gate: np.ndarray, rng: np.random.Generator) -> int:
    """Nodes that a diagonal keeps: its gates, from the bottom up, until one is closed. P(open) = sigmoid(logit)."""
    closed = np.flatnonzero(gate + rng.logistic(size=gate.shape) <= 0)
    return int(closed[0]) if closed.size else len(gate)
