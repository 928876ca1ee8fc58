"""Dice of worse images against the strength of each corruption, and reliability curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thrifty.plots.figure import COLOURS, DASHES, MARKERS, figure

Row = Mapping[str, Any]
INK = "#222222"


def look(place: int) -> dict[str, Any]:
    """Colour, marker and dashes of a network; the first 49 differ without colour too."""
    turn = place // len(MARKERS)
    dash = DASHES[(place + turn) % len(DASHES)]
    return {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)], "linestyle": dash}


def draw_corruptions(found: Row, path: Path) -> None:
    """A panel for each corruption, a line for each network, the undisturbed images at the left.

    Args:
        found: `corruptions` of summary.json.
        path: .svg or .png.
    """
    names, rows = list(found["corruptions"]), 1 + len(found["networks"]) // 4
    with figure(path, 9.0, 5.8 + 0.25 * rows) as drawing:
        panels = drawing.subplots(2, 3, sharey=True)
        for axes, corruption in zip(panels.flat, names, strict=True):
            about = found["corruptions"][corruption]
            for place, (name, network) in enumerate(found["networks"].items()):
                dice = [network["undisturbed"], *network["dice"][corruption]]
                label = name if corruption == names[0] else None
                axes.plot(range(len(dice)), dice, markersize=4, linewidth=1.2, label=label, **look(place))
            axes.set_xticks(range(1 + len(about["strengths"])), ["none", *(f"{strength:g}" for strength in about["strengths"])])
            axes.set_title(corruption.replace("_", " "), loc="left", fontsize=10)
            axes.set_xlabel(about["unit"], fontsize=9)
            axes.grid(axis="y", color="#E5E5E5", linewidth=0.8)
            axes.set_axisbelow(True)
        for axes in panels[:, 0]:
            axes.set_ylabel("Dice")
        drawing.legend(loc="outside lower center", ncols=4, fontsize=9)


def draw_reliability(curves: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Share of the pixels that are of a class against their mean probability, by network; bins without pixels are passed over.

    Args:
        curves: by network its bins, with probability and share (None where a bin is empty).
        path: .svg or .png.
    """
    with figure(path, 5.6, 5.2 + 0.25 * (1 + len(curves) // 3)) as drawing:
        axes = drawing.subplots()
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (6, 3)))
        for place, (name, bins) in enumerate(curves.items()):
            filled = [one for one in bins if one["probability"] is not None]
            points = [one["probability"] for one in filled], [one["share"] for one in filled]
            axes.plot(*points, markersize=4, linewidth=1.2, label=name, **look(place))
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_aspect("equal")
        axes.set_xlabel("mean probability of a foreground class")
        axes.set_ylabel("share of the pixels that are of it")
        axes.grid(color="#E5E5E5", linewidth=0.8)
        axes.set_axisbelow(True)
        drawing.legend(loc="outside lower center", ncols=3, fontsize=9)
