"""What the selection scored: inherited Dice against parameters, with the front and the chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from thrifty.plots.figure import COLOURS, MARKERS, figure
from thrifty.plots.pareto import short

Rows = Sequence[Mapping[str, Any]]
INK = "#222222"


def draw_selection(candidates: Rows, front: Rows, chosen: Mapping[int, Mapping[str, Any]], path: Path) -> None:
    """Every candidate once, by the searches that scored it; the front as steps, the chosen with a ring and their budget.

    Args:
        candidates, front: with group, parameters and dice; `front` smallest first.
        chosen: by budget, one of the candidates each.
        path: .svg or .png.
    """
    with figure(path, 7.2, 4.2) as drawing:
        axes = drawing.subplots()
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for row in sorted(candidates, key=lambda row: row["parameters"]):
            groups.setdefault(row["group"], []).append(row)
        for k, (group, rows) in enumerate(groups.items()):
            look = {"s": 26, "marker": MARKERS[k % 7], "facecolors": "white", "edgecolors": COLOURS[k % 7], "linewidths": 1.1}
            axes.scatter(*_places(rows), zorder=2, label=f"scored by the searches {group}", **look)
        across, up = _places(front)
        axes.plot(across, up, drawstyle="steps-post", color=INK, linewidth=1.1, zorder=1, label="front")
        _draw_chosen(axes, chosen)
        axes.set_xlabel("parameters")
        axes.set_ylabel("inherited Dice, selection cases")
        sizes = [*chosen, *(row["parameters"] for row in candidates)]
        if max(sizes) > 30 * min(sizes):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_xlim(0, 1.06 * max(sizes))
            axes.xaxis.set_major_locator(MaxNLocator(7))
        axes.xaxis.set_major_formatter(lambda value, _: short(value))
        axes.grid(color="#E5E5E5", linewidth=0.8)
        axes.set_axisbelow(True)
        drawing.legend(loc="outside lower center", ncols=2, fontsize=9)


def _draw_chosen(axes: Axes, chosen: Mapping[int, Mapping[str, Any]]) -> None:
    rows = list(chosen.values())
    ring = {"s": 150, "marker": "o", "facecolors": "none", "edgecolors": INK, "linewidths": 1.6}
    axes.scatter(*_places(rows), zorder=3, label="chosen", **ring)
    for number, budget in enumerate(chosen):
        axes.axvline(budget, color=INK, linewidth=1, linestyle=(0, (6, 3)), zorder=0, label=None if number else "budget")


def _places(rows: Rows) -> tuple[list[int], list[float]]:
    return [row["parameters"] for row in rows], [row["dice"] for row in rows]
