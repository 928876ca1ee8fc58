"""How large a space is, and all of it where it is small enough."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from thrifty.space.genotype import Cell, CellType, Edge, Genotype
from thrifty.space.path import Depth, levels_of
from thrifty.space.schema import Space, decodable


def edge_options(space: Space, cell_type: CellType, source: int) -> list[Edge]:
    """The edges from a source that a genotype may have, in canonical order."""
    names = space.ops_of(cell_type, source)
    return [Edge(source, n) for n, ok in zip(names, decodable(names), strict=True) if ok]


def number_of_genotypes(space: Space, levels: int, depth: Depth = "fixed") -> int:
    """Labelled genotypes of one width: cells down * cells up * cell paths (of every depth, where that is searched)."""
    total = len(space.paths(levels, depth))
    for cell_type in ("down", "up"):
        for k in range(space.nodes):
            counts = [len(edge_options(space, cell_type, source)) for source in range(k + 2)]
            total *= sum(a * b for a, b in itertools.combinations(counts, 2))
    return total


def all_cells(space: Space, cell_type: CellType) -> list[Cell]:
    """Every cell of a type, in canonical order. Only for small spaces."""
    per_node = []
    for k in range(space.nodes):
        options = [edge_options(space, cell_type, source) for source in range(k + 2)]
        pairs = itertools.combinations(range(k + 2), 2)
        per_node.append([pair for a, b in pairs for pair in itertools.product(options[a], options[b])])
    return [Cell(nodes) for nodes in itertools.product(*per_node)]


def all_genotypes(
    space: Space, width: int, levels: int, channels: int, classes: int, depth: Depth = "fixed"
) -> Iterator[Genotype]:
    """Every labelled genotype of a space at one width, in canonical order. Only for small spaces."""
    for path in space.paths(levels, depth):
        for down in all_cells(space, "down"):
            for up in all_cells(space, "up"):
                yield Genotype(down, up, path, width, levels_of(path), channels, classes, space.name, space.frame)
