"""A genotype as a drawing in words: its lattice as nodes and edges, and DOT text of the two cells and the lattice.

Graphviz is not needed here; `dot -Tsvg` turns the text into a picture where it is installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from thrifty.space.genotype import CELL_TYPES, CellType, Genotype
from thrifty.space.path import Node, is_kept, kept_up_nodes, row_neighbours

Kind = Literal["down", "up", "row", "size"]


@dataclass(frozen=True)
class LatticeNode:
    """A node of the lattice. `row` is -1 for stem0 and the head (full resolution), otherwise j of X(i, j)."""

    name: str
    column: int
    row: int
    kept: bool
    searched: bool


@dataclass(frozen=True)
class LatticeEdge:
    """What a cell reads. `kind`: in1 of a down cell (down), in1 or in0 of an up cell (up, row), in0 of a down cell (size)."""

    source: str
    target: str
    kind: Kind


def node_name(node: Node) -> str:
    return f"X({node[0]},{node[1]})"


def lattice_nodes(genotype: Genotype) -> list[LatticeNode]:
    """All nodes of the lattice, kept or not: stem0, X(i, j) diagonal by diagonal, head."""
    levels = genotype.levels
    nodes = [LatticeNode("stem0", 0, -1, True, False)]
    for d in range(levels):
        for i in range(d + 1):
            kept = is_kept(genotype.path, levels, i, d - i)
            nodes.append(LatticeNode(node_name((i, d - i)), i, d - i, kept, i > 0 and d < levels - 1))
    return [*nodes, LatticeNode("head", levels, -1, True, False)]


def lattice_edges(genotype: Genotype) -> list[LatticeEdge]:
    """What every kept node reads (method, section 2)."""
    path, levels = genotype.path, genotype.levels
    edges = [LatticeEdge("stem0", "X(0,0)", "down")]
    for j in range(1, levels):
        edges.append(LatticeEdge("stem0" if j == 1 else node_name((0, j - 2)), node_name((0, j)), "size"))
        edges.append(LatticeEdge(node_name((0, j - 1)), node_name((0, j)), "down"))
    for i, j in kept_up_nodes(path, levels):
        edges += [LatticeEdge(node_name((m, j)), node_name((i, j)), "row") for m in row_neighbours(path, levels, i, j)]
        edges.append(LatticeEdge(node_name((i - 1, j + 1)), node_name((i, j)), "up"))
    return [*edges, LatticeEdge("stem0", "head", "row"), LatticeEdge(node_name((levels - 1, 0)), "head", "up")]


def source_name(source: int) -> str:
    """The name of an edge's source inside a cell: in0, in1, or the number of an inner node."""
    return f"in{source}" if source < 2 else str(source - 2)


def dot(genotype: Genotype) -> str:
    """DOT text: three clusters, the down cell, the up cell and the lattice with its cell path."""
    lines = ["digraph genotype {", "  rankdir=LR;", '  node [shape=box, style=rounded, fontname="Helvetica"];']
    lines.append('  edge [fontname="Helvetica", fontsize=10];')
    for cell_type in CELL_TYPES:
        lines += _cell_lines(genotype, cell_type)
    return "\n".join([*lines, *_lattice_lines(genotype), "}"]) + "\n"


def _cell_lines(genotype: Genotype, cell_type: CellType) -> list[str]:
    def node(name: str) -> str:
        return _quoted(f"{cell_type} {name}")

    names = ["in0", "in1", *(str(k) for k in range(genotype.nodes)), "out"]
    lines = [f"  subgraph cluster_{cell_type} {{", f"    label={_quoted(f'{cell_type} cell')};"]
    lines += [f"    {node(name)} [label={_quoted(name)}];" for name in names]
    for k, edge in genotype.cell(cell_type).edges():
        lines.append(f"    {node(source_name(edge.source))} -> {node(str(k))} [label={_quoted(edge.op)}];")
    lines += [f"    {node(str(k))} -> {node('out')} [style=dotted];" for k in range(genotype.nodes)]
    return [*lines, "  }"]


def _lattice_lines(genotype: Genotype) -> list[str]:
    label = f"lattice, cell path {list(genotype.path)}, width {genotype.width}"
    lines = ["  subgraph cluster_lattice {", f"    label={_quoted(label)};"]
    for node in lattice_nodes(genotype):
        lines.append(f"    {_quoted(node.name)}{'' if node.kept else ' [style=dotted, fontcolor=gray, color=gray]'};")
    for edge in lattice_edges(genotype):
        style = {"row": " [style=dashed]", "size": " [style=dotted]"}.get(edge.kind, f" [label={_quoted(edge.kind)}]")
        lines.append(f"    {_quoted(edge.source)} -> {_quoted(edge.target)}{style};")
    return [*lines, "  }"]


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
