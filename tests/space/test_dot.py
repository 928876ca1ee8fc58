"""The drawing in words: the edges of the lattice by hand, and DOT text that a small reader of DOT takes apart again."""

from __future__ import annotations

import re

import pytest

from thrifty.space.dot import dot, lattice_edges, lattice_nodes
from thrifty.space.frame import Frame
from thrifty.space.genotype import Cell, Edge, Genotype
from thrifty.space.path import all_paths

DOWN = Cell(((Edge(0, "avg_pool"), Edge(1, "dep_sep_conv_3")), (Edge(1, "dep_sep_conv_5"), Edge(2, "identity"))))
UP = Cell(((Edge(0, "identity"), Edge(1, "up_sample")), (Edge(0, "dep_sep_conv_3"), Edge(2, "identity"))))


def genotype(path: tuple[int, ...], levels: int) -> Genotype:
    return Genotype(DOWN, UP, path, 8, levels, 1, 2, "tiny", Frame())


def test_lattice_edges_of_four_levels_by_hand() -> None:
    """Path (1, 1): X(1,0), X(1,1) are kept, X(2,0) is not."""
    edges = {(e.source, e.target, e.kind) for e in lattice_edges(genotype((1, 1), 4))}
    assert edges == {
        ("stem0", "X(0,0)", "down"),
        ("X(0,0)", "X(0,1)", "down"), ("stem0", "X(0,1)", "size"),
        ("X(0,1)", "X(0,2)", "down"), ("X(0,0)", "X(0,2)", "size"),
        ("X(0,2)", "X(0,3)", "down"), ("X(0,1)", "X(0,3)", "size"),
        ("X(0,1)", "X(1,0)", "up"), ("X(0,0)", "X(1,0)", "row"),
        ("X(0,2)", "X(1,1)", "up"), ("X(0,1)", "X(1,1)", "row"),
        ("X(0,3)", "X(1,2)", "up"), ("X(0,2)", "X(1,2)", "row"),
        ("X(1,2)", "X(2,1)", "up"), ("X(0,1)", "X(2,1)", "row"), ("X(1,1)", "X(2,1)", "row"),
        ("X(2,1)", "X(3,0)", "up"), ("X(0,0)", "X(3,0)", "row"), ("X(1,0)", "X(3,0)", "row"),
        ("X(3,0)", "head", "up"), ("stem0", "head", "row"),
    }  # fmt: skip


@pytest.mark.parametrize("levels", [2, 3, 4, 5])
def test_only_kept_nodes_read_and_are_read(levels: int) -> None:
    for path in all_paths(levels):
        nodes = {node.name: node for node in lattice_nodes(genotype(path, levels))}
        edges = lattice_edges(genotype(path, levels))
        assert {e.source for e in edges} | {e.target for e in edges} == {name for name, node in nodes.items() if node.kept}
        assert len(nodes) == levels * (levels + 1) // 2 + 2
        assert sum(node.searched and node.kept for node in nodes.values()) == sum(path)
        assert len(set(edges)) == len(edges)


def test_dot_text_holds_every_op_edge_and_node() -> None:
    text = dot(genotype((1, 1), 4))
    assert text.count("{") == text.count("}") and text.startswith("digraph genotype {") and text.endswith("}\n")
    arrows = re.findall(r'"([^"]+)" -> "([^"]+)"(?: \[label="([^"]+)"\])?', text)
    assert ("down in0", "down 0", "avg_pool") in arrows
    assert ("down 0", "down 1", "identity") in arrows
    assert ("up in1", "up 0", "up_sample") in arrows
    assert ("X(2,1)", "X(3,0)", "up") in arrows
    ops = [label for source, _, label in arrows if source.startswith(("down ", "up ")) and label]
    assert sorted(ops) == sorted(edge.op for cell in (DOWN, UP) for _, edge in cell.edges())
    lattice = [(a, b) for a, b, _ in arrows if not a.startswith(("down ", "up "))]
    assert len(lattice) == len(lattice_edges(genotype((1, 1), 4)))
    declared = set(re.findall(r'^ +"([^"]+)"(?: \[.*\])?;$', text, re.M))
    assert {name for arrow in arrows for name in arrow[:2]} <= declared
    assert '"X(2,0)" [style=dotted' in text and '"X(1,0)" [style=dotted' not in text


def test_dot_is_the_same_each_time_and_quotes_names() -> None:
    assert dot(genotype((0,), 3)) == dot(genotype((0,), 3))
    odd = Cell(((Edge(0, 'my "own":Op'), Edge(1, "identity")),))
    assert r"my \"own\":Op" in dot(Genotype(odd, odd, (0,), 8, 3, 1, 2, "tiny", Frame()))
