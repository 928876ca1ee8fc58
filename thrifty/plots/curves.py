"""How searches went: budget, entropies, Dice and parameter-free ops over the epochs of every seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from thrifty.plots.figure import COLOURS, DASHES, MARKERS, figure
from thrifty.statistics.bands import band

Rows = Sequence[Mapping[str, Any]]
BAND_FROM = 3  # searches
ENTROPIES = (
    ("entropy_alpha", "alpha (ops)"),
    ("entropy_beta", "beta (edges)"),
    ("entropy_gamma", "gamma (cell path)"),
    ("entropy_depth", "depth"),  # of searches of the depth
)


def draw_searches(searches: Mapping[str, Rows], budget: int, path: Path) -> None:
    """Four panels over epochs for the searches of one setting; from three seeds on with their band and mean.

    Args:
        searches: the epochs of every search by its label (the seed); a value that is missing leaves a gap.
        budget: parameters.
        path: .svg or .png.
    """
    with figure(path, 9.0, 6.6) as drawing:
        panels = drawing.subplots(2, 2, sharex=True)
        _panel(panels[0, 0], searches, "expected_parameters", f"expected parameters (dashed: the budget, {budget:,})")
        panels[0, 0].axhline(budget, color="#222222", linewidth=1, linestyle=(0, (6, 3)))
        panels[0, 0].yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        _entropies(panels[0, 1], searches)
        _panel(panels[1, 0], searches, "dice", "Dice of the supernet, architecture cases")
        _panel(panels[1, 1], searches, "parameter_free", "share of parameter-free ops")
        panels[1, 1].set_ylim(-0.03, 1.03)
        panels[1, 0].set_xlabel("epoch")
        panels[1, 1].set_xlabel("epoch")
        handles = [_line(k, label) for k, label in enumerate(searches)]
        drawing.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6))


def _panel(axes: Axes, searches: Mapping[str, Rows], key: str, title: str) -> None:
    _band(axes, searches, key)
    for k, rows in enumerate(searches.values()):
        epochs, values = series(rows, key)
        axes.plot(epochs, values, color=COLOURS[k % 7], marker=MARKERS[k % 7], markersize=4, linewidth=1.2)
    _finish(axes, title)


def _entropies(axes: Axes, searches: Mapping[str, Rows]) -> None:
    recorded = {key for rows in searches.values() for row in rows for key in row}
    shown = [(key, text, dash) for (key, text), dash in zip(ENTROPIES, DASHES, strict=False) if key in recorded]
    for key, _, _ in shown:
        _band(axes, searches, key)
    for k, rows in enumerate(searches.values()):
        for key, _, dash in shown:
            epochs, values = series(rows, key)
            axes.plot(epochs, values, color=COLOURS[k % 7], linestyle=dash, linewidth=1.3)
    handles = [Line2D([], [], color="#444444", linestyle=dash, label=text) for _, text, dash in shown]
    axes.legend(handles=handles, fontsize=8, loc="best")
    axes.set_ylim(-0.03, 1.03)
    _finish(axes, "entropy (1 undecided, 0 decided)")


def _band(axes: Axes, searches: Mapping[str, Rows], key: str) -> None:
    """From the lowest to the highest seed, and their mean as a thin black line; nothing for fewer than three searches."""
    found = band(list(searches.values()), key) if len(searches) >= BAND_FROM else {}
    if found:
        epochs = [epoch + 1 for epoch in found]
        mean, low, high = zip(*found.values(), strict=True)
        axes.fill_between(epochs, low, high, color="#BBBBBB", alpha=0.35, linewidth=0)
        axes.plot(epochs, mean, color="#222222", linewidth=0.8)


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid(axis="y", color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)


def _line(k: int, label: str) -> Line2D:
    return Line2D([], [], color=COLOURS[k % 7], marker=MARKERS[k % 7], markersize=4, linewidth=1.2, label=label)


def series(rows: Rows, key: str) -> tuple[list[float], list[float]]:
    """(epochs counted from 1, values) of one quantity; what is missing or None is NaN, a gap in the line."""
    values = [row.get(key) for row in rows]
    return [float(row["epoch"]) + 1 for row in rows], [math.nan if v is None else float(v) for v in values]
