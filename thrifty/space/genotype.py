"""Genotypes: frozen, canonical JSON, stable hash. A genotype carries all that its network needs, apart from weights."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from thrifty.errors import ThriftyError, one_line
from thrifty.results import read_json, write_text
from thrifty.space import ops
from thrifty.space.frame import Frame
from thrifty.space.path import check_path

SCHEMA = 1
CellType = Literal["down", "up"]
CELL_TYPES: tuple[CellType, CellType] = ("down", "up")


@dataclass(frozen=True, order=True)
class Edge:
    """An edge into an inner node. Source 0 is in0, 1 is in1, 2 + k is inner node k."""

    source: int
    op: str


@dataclass(frozen=True, order=True)
class Cell:
    """For each inner node its two edges, by source."""

    nodes: tuple[tuple[Edge, Edge], ...]

    def edges(self) -> Iterator[tuple[int, Edge]]:
        """(inner node, edge) for all edges."""
        return ((k, edge) for k, pair in enumerate(self.nodes) for edge in pair)


@dataclass(frozen=True)
class Genotype:
    """A network of a space. `path[d - 1]` is s_d, the number of kept nodes of diagonal d = 1 .. levels - 2."""

    down: Cell
    up: Cell
    path: tuple[int, ...]
    width: int
    levels: int
    channels: int
    classes: int
    space: str
    frame: Frame

    def cell(self, cell_type: CellType) -> Cell:
        return self.down if cell_type == "down" else self.up

    @property
    def nodes(self) -> int:
        """Inner nodes of a cell."""
        return len(self.down.nodes)


def role_of(cell_type: CellType, source: int) -> str:
    """The role of an edge: in a down cell both inputs are halved, in an up cell in1 is doubled; the rest keeps its size."""
    if cell_type == "down":
        return "down" if source < 2 else "normal"
    return "up" if source == 1 else "normal"


def check(genotype: Genotype) -> Genotype:
    """`genotype` itself, if it is legal.

    Raises:
        ThriftyError: what is illegal in it.
    """
    for name, low in (("width", 1), ("levels", 2), ("channels", 1), ("classes", 1)):
        if getattr(genotype, name) < low:
            raise ThriftyError(f"the genotype has {name} {getattr(genotype, name)}, it must be at least {low}")
    check_path(genotype.path, genotype.levels)
    if len(genotype.down.nodes) != len(genotype.up.nodes) or not genotype.down.nodes:
        raise ThriftyError("the two cells of a genotype need the same number of inner nodes, at least one")
    for cell_type in CELL_TYPES:
        for k, pair in enumerate(genotype.cell(cell_type).nodes):
            _check_pair(cell_type, k, pair)
    return genotype


def _check_pair(cell_type: CellType, k: int, pair: tuple[Edge, Edge]) -> None:
    where = f"inner node {k} of the {cell_type} cell"
    sources = [edge.source for edge in pair]
    if len(pair) != 2 or sources != sorted(set(sources)):
        raise ThriftyError(f"{where} reads the sources {sources}; it needs two different ones, the lower first")
    if not all(0 <= s < k + 2 for s in sources):
        raise ThriftyError(f"{where} reads the sources {sources}; allowed are 0 to {k + 1}")
    for edge in pair:
        op, role = ops.find(edge.op), role_of(cell_type, edge.source)
        if role not in op.roles or op.kind == "none":
            allowed = [n for n in ops.names(role) if n != "none"]
            raise ThriftyError(f"{where} has the op '{edge.op}' on a {role} edge; allowed are {', '.join(allowed)}")


def to_json(genotype: Genotype) -> dict[str, Any]:
    """Plain values in a fixed order."""
    cells = {t: [[[e.source, e.op] for e in pair] for pair in genotype.cell(t).nodes] for t in CELL_TYPES}
    return {
        "schema": SCHEMA,
        "space": genotype.space,
        "channels": genotype.channels,
        "classes": genotype.classes,
        "levels": genotype.levels,
        "width": genotype.width,
        "path": list(genotype.path),
        **cells,
        "frame": genotype.frame.as_json(),
    }


def from_json(value: Any, allow_code: bool = False) -> Genotype:
    """The inverse of `to_json`. `allow_code` lets ops of the form module:Class be imported.

    Raises:
        ThriftyError: not a genotype, another schema version, or an illegal genotype.
    """
    if not isinstance(value, dict) or "schema" not in value:
        raise ThriftyError("this is no genotype: a JSON object with the key 'schema' is needed")
    if value["schema"] != SCHEMA:
        raise ThriftyError(f"the genotype has schema version {value['schema']!r}, this thrifty reads version {SCHEMA}")
    try:
        genotype = Genotype(
            down=_cell_from_json(value["down"]),
            up=_cell_from_json(value["up"]),
            path=tuple(value["path"]),
            width=int(value["width"]),
            levels=int(value["levels"]),
            channels=int(value["channels"]),
            classes=int(value["classes"]),
            space=str(value["space"]),
            frame=Frame.from_json(value["frame"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ThriftyError(f"the genotype is incomplete or malformed: {one_line(repr(error))}") from None
    if allow_code:
        for cell in (genotype.down, genotype.up):
            for _, edge in cell.edges():
                if ":" in edge.op:
                    ops.register_own(edge.op)
    return check(genotype)


def _cell_from_json(value: Any) -> Cell:
    return Cell(tuple(cast("tuple[Edge, Edge]", tuple(Edge(int(s), str(op)) for s, op in pair)) for pair in value))


def load(path: Path, allow_code: bool = False) -> Genotype:
    """
    Raises:
        ThriftyError: no such file, or no legal genotype in it; the file is named.
    """
    value = read_json(path)
    try:
        return from_json(value, allow_code)
    except ThriftyError as error:
        raise ThriftyError(f"{path}: {error}") from None


def save(path: Path, genotype: Genotype) -> None:
    write_text(path, json.dumps(to_json(genotype), indent=1) + "\n")


def canonical_json(genotype: Genotype) -> str:
    """One line of JSON that is equal exactly for equal labelled genotypes."""
    return json.dumps(to_json(genotype), sort_keys=True, separators=(",", ":"))


def canonical(genotype: Genotype) -> Genotype:
    """The canonical one of all genotypes that build the same network.

    Inner nodes may be renamed as long as each still reads only earlier ones: their outputs are concatenated and the
    convolution behind does not care for the order. Of all such names the lexicographically smallest cell is taken.
    """
    return replace(genotype, down=canonical_cell(genotype.down), up=canonical_cell(genotype.up))


def canonical_cell(cell: Cell) -> Cell:
    return min(relabelled(cell))


def relabelled(cell: Cell) -> Iterator[Cell]:
    """The cell under every naming of its inner nodes in which each still reads only earlier ones."""
    count = len(cell.nodes)
    for order in itertools.permutations(range(count)):  # order[new] = old
        new_of = {0: 0, 1: 1, **{old + 2: new + 2 for new, old in enumerate(order)}}
        nodes = []
        for new, old in enumerate(order):
            first, second = sorted(Edge(new_of[e.source], e.op) for e in cell.nodes[old])
            if second.source >= new + 2:
                break
            nodes.append((first, second))
        if len(nodes) == count:
            yield Cell(tuple(nodes))


def genotype_hash(genotype: Genotype) -> str:
    """Sixteen hexadecimal digits, equal for genotypes that build the same network, stable over versions of Python."""
    return hashlib.sha256(canonical_json(canonical(genotype)).encode()).hexdigest()[:16]
