"""What the selection scored: inherited Dice against parameters, with the front and the chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from thrifty.plots.figure import COLOURS, DASHES, MARKERS, figure
from thrifty.plots.pareto import KINDS, Point, short

Rows = Sequence[Mapping[str, Any]]
INK = "#222222"
FAR = 10  # times the largest candidate or budget: beyond it a point would squeeze all others together
TRAINED = {"finalist": "finalists, short training"}
LOOKS = {"finalist": ("*", INK), **{kind: (MARKERS[k], COLOURS[k]) for k, kind in enumerate(KINDS)}}


def draw_selection(
    candidates: Rows, front: Rows, chosen: Mapping[int, Mapping[str, Any]], trained: Sequence[Point], path: Path
) -> None:
    """Every candidate once, by the searches that scored it; the front as steps, the chosen with a ring and their budget.

    All candidates are within their budget: nothing else is ever scored.

    Args:
        candidates, front: with group, parameters and dice; `front` smallest first.
        chosen: by budget, one of the candidates each.
        trained: networks with Dice on the same cases after a training of their own, filled: finalists, and what was retrained;
            those far larger than all candidates as lines across.
        path: .svg or .png.
    """
    with figure(path, 7.2, 4.6 if trained else 4.2) as drawing:
        axes = drawing.subplots()
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for row in sorted(candidates, key=lambda row: row["parameters"]):
            groups.setdefault(row["group"], []).append(row)
        for k, (group, rows) in enumerate(groups.items()):
            look = {"s": 26, "marker": MARKERS[k % 7], "facecolors": "white", "edgecolors": COLOURS[k % 7], "linewidths": 1.1}
            axes.scatter(*_places(rows), zorder=2, label=f"inherited, by the searches {group}", **look)
        across, up = _places(front)
        axes.plot(across, up, drawstyle="steps-post", color=INK, linewidth=1.1, zorder=1, label="front")
        _draw_chosen(axes, chosen)
        within = [*chosen, *(row["parameters"] for row in candidates)]
        _draw_trained(axes, [point for point in trained if point.parameters <= FAR * max(within)])
        _draw_far(axes, [point for point in trained if point.parameters > FAR * max(within)])
        axes.set_xlabel("parameters")
        axes.set_ylabel("Dice, selection cases" if trained else "inherited Dice, selection cases")
        sizes = [*within, *(point.parameters for point in trained if point.parameters <= FAR * max(within))]
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


def _draw_trained(axes: Axes, trained: Sequence[Point]) -> None:
    kinds = [kind for kind in (*TRAINED, *KINDS) if any(point.kind == kind for point in trained)]
    for kind in [*kinds, *sorted({point.kind for point in trained} - set(kinds))]:
        look = LOOKS.get(kind, ("X", COLOURS[6]))
        places = [(p.parameters, p.dice) for p in trained if p.kind == kind]
        label = TRAINED.get(kind, f"{kind}, retrained")
        axes.scatter(*zip(*places, strict=True), s=34, marker=look[0], color=look[1], zorder=4, label=label)


def _draw_far(axes: Axes, trained: Sequence[Point]) -> None:
    for k, point in enumerate(trained):
        label = f"{point.kind} ({short(point.parameters)}), retrained"
        axes.axhline(
            point.dice, color=LOOKS.get(point.kind, ("", INK))[1], linewidth=1.3, linestyle=DASHES[1 + k % 6], label=label
        )


def _places(rows: Rows) -> tuple[list[int], list[float]]:
    return [row["parameters"] for row in rows], [row["dice"] for row in rows]
