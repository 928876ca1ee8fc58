"""Drawings of a genotype: its two cells and the lattice with the cell path."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

from thrifty.plots.figure import COLOURS, figure
from thrifty.space.cost import count
from thrifty.space.dot import Kind, LatticeNode, lattice_edges, lattice_nodes, source_name
from thrifty.space.genotype import CELL_TYPES, CellType, Genotype

INK, PALE = "#222222", "#B5B5B5"
RADIUS = 0.42
COLUMN = 3.1
"""Width of an inner node's column in a cell: the op's name has to fit."""
FALL = 1.4
"""Distance of two rows of the lattice."""
UNIT = 0.58
"""Inches of one unit of the drawing."""
LEGEND = (
    "dashed arrows: a node reads all kept nodes to its left in its row\n"
    "dotted arrows: in0 of a down cell; dotted circles: not in the network"
)


def draw_genotype(genotype: Genotype, path: Path) -> None:
    """Draws the two cells and the lattice to `path` (.svg or .png).

    In a cell every source is a horizontal line; an op hangs below the line it reads (the dot), and the two ops of a column
    flow into the sum of their inner node, which starts a line of its own. So no label can cover another.

    Raises:
        ThriftyError: another suffix, or the file cannot be written.
    """
    nodes, levels = genotype.nodes, genotype.levels
    across = max(COLUMN * nodes + 3.2, 2 * levels + 3.2, 9.5)
    heights = [1.15 * (nodes + 1) + 1.0] * 2 + [FALL * levels + 2.2]
    titles = 0.45 * 3
    with figure(path, UNIT * across, UNIT * sum(heights) + titles) as drawing:
        axes = drawing.subplots(3, 1, gridspec_kw={"height_ratios": heights})
        for cell_type, place in zip(CELL_TYPES, axes, strict=False):
            _draw_cell(place, genotype, cell_type)
            _frame(place, f"{cell_type} cell", (-0.9, across - 0.9), (0.45 - heights[0], 0.45))
        _draw_lattice(axes[2], genotype)
        title = f"lattice: cell path {list(genotype.path)}, width {genotype.width}, {count(genotype):,} parameters"
        _frame(axes[2], title, (-1.6, across - 1.6), (FALL + 0.6 - heights[2], FALL + 0.6))


def _draw_cell(axes: Axes, genotype: Genotype, cell_type: CellType) -> None:
    nodes = genotype.nodes
    rows = {source: -1.15 * source for source in range(nodes + 2)}
    ends = dict.fromkeys(rows, 0.0)
    for k, edge in genotype.cell(cell_type).edges():
        ends[edge.source] = max(ends[edge.source], COLUMN * k + 0.75)
        _draw_op(axes, (COLUMN * k + 0.75, rows[edge.source]), rows[k + 2], edge.op)
    out = COLUMN * nodes + 0.9
    for source, y in rows.items():
        inner = source >= 2
        start = COLUMN * (source - 1) - 0.15 if inner else 0.0
        axes.plot([start, out if inner else ends[source]], [y, y], color=INK, linewidth=1.3, zorder=1, solid_capstyle="butt")
        _label_source(axes, (start, y), source_name(source), inner)
    top, bottom = rows[2] + 0.3, rows[nodes + 1] - 0.3
    axes.plot([out, out], [top, bottom], color=INK, linewidth=5, solid_capstyle="butt", zorder=2)
    axes.add_patch(_arrow((out, (top + bottom) / 2), (out + 0.5, (top + bottom) / 2)))
    axes.text(out + 0.6, (top + bottom) / 2, "out", ha="left", va="center", fontweight="bold")


def _draw_op(axes: Axes, tap: tuple[float, float], target: float, op: str) -> None:
    """The op's box below its source's line, and the line from it to the sum at the right of its column."""
    x, y = tap
    width, height, drop = 2.0, 0.46, 0.55
    left = x - 0.35
    axes.plot([x], [y], marker="o", markersize=5, color=INK, zorder=3)
    axes.add_patch(_arrow((x, y), (x, y - drop + height / 2)))
    pad = {"boxstyle": "round,pad=0,rounding_size=0.08"}
    box = FancyBboxPatch((left, y - drop - height / 2), width, height, facecolor="white", edgecolor=COLOURS[0], zorder=4, **pad)
    axes.add_patch(box)
    name = op.rpartition(":")[2]
    size = 9.0 if len(name) <= 16 else max(5.0, 9.0 * 16 / len(name))
    axes.text(left + width / 2, y - drop, name, ha="center", va="center", fontsize=size, zorder=5)
    total = x - 0.75 + COLUMN - 0.15
    axes.plot([left + width, total], [y - drop, y - drop], color=COLOURS[0], linewidth=1.3, zorder=2)
    axes.add_patch(_arrow((total, y - drop), (total, target + 0.2), COLOURS[0]))


def _label_source(axes: Axes, place: tuple[float, float], name: str, inner: bool) -> None:
    if not inner:
        axes.text(place[0] - 0.1, place[1], name, ha="right", va="center", fontweight="bold")
        return
    axes.add_patch(Circle(place, 0.2, facecolor="white", edgecolor=INK, linewidth=1.3, zorder=6))
    axes.text(*place, name, ha="center", va="center", fontsize=9, fontweight="bold", zorder=7)


def _draw_lattice(axes: Axes, genotype: Genotype) -> None:
    nodes = {node.name: node for node in lattice_nodes(genotype)}
    for edge in lattice_edges(genotype):
        axes.add_patch(_lattice_arrow(nodes[edge.source], nodes[edge.target], edge.kind))
    for node in nodes.values():
        _draw_node(axes, node)
    for row in range(-1, genotype.levels):
        text = "full size" if row < 0 else f"1/{2 ** (row + 1)}"
        axes.text(2 * genotype.levels - 0.1, -FALL * row, text, ha="left", va="center", color="#555555", fontsize=9)
    axes.text(-0.5, FALL * (0.35 - genotype.levels), LEGEND, ha="left", va="top", fontsize=8.5, color="#444444")


def _lattice_arrow(source: LatticeNode, target: LatticeNode, kind: Kind) -> FancyArrowPatch:
    start, end = _place(source), _place(target)
    span = target.column - source.column
    if kind == "size":  # around the node in between, on the outer side
        return _arrow((start[0] - 0.35, start[1] - 0.25), (end[0] - RADIUS, end[1] + 0.08), "#888888", ":", 0.16)
    if kind == "row" and span > 1 and source.row >= 0:
        bend = -(0.36 + 0.1 * span) / span
        return _arrow((start[0] + 0.24, start[1] + 0.36), (end[0] - 0.26, end[1] + 0.35), COLOURS[0], "--", bend)
    share = RADIUS / ((end[0] - start[0]) ** 2 + (end[1] - start[1]) ** 2) ** 0.5
    dx, dy = share * (end[0] - start[0]), share * (end[1] - start[1])
    colour, style = (COLOURS[0], "--") if kind == "row" else (INK, "-")
    return _arrow((start[0] + dx, start[1] + dy), (end[0] - dx, end[1] - dy), colour, style)


def _place(node: LatticeNode) -> tuple[float, float]:
    """A V: the encoder falls to the right, each diagonal climbs from it."""
    return 2.0 * node.column + node.row, -FALL * node.row


def _draw_node(axes: Axes, node: LatticeNode) -> None:
    place = _place(node)
    fill = "white" if not node.kept else ("#DCEBF5" if node.searched else "#EFEFEF")
    style, colour = ("-", INK) if node.kept else (":", PALE)
    axes.add_patch(Circle(place, RADIUS, facecolor=fill, edgecolor=colour, linestyle=style, linewidth=1.2, zorder=5))
    text = node.name.removeprefix("X(").removesuffix(")")
    axes.text(*place, text, ha="center", va="center", fontsize=8.5, color=colour, zorder=6)


def _arrow(
    start: tuple[float, float], end: tuple[float, float], colour: str = INK, style: str = "-", bend: float = 0.0
) -> FancyArrowPatch:
    curve = f"arc3,rad={bend}"
    look = {"color": colour, "linestyle": style, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0, "zorder": 2}
    return FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, connectionstyle=curve, **look)


def _frame(axes: Axes, title: str, across: tuple[float, float], up: tuple[float, float]) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlim(*across)
    axes.set_ylim(*up)
    axes.set_aspect("equal", anchor="NW")
    axes.axis("off")
