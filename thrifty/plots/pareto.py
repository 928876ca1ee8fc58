"""Dice against parameters of all networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation

from thrifty.plots.figure import COLOURS, MARKERS, figure

KINDS = ("found", "decoded", "random", "scaled U-Net", "U-Net", "UNet++")
SHIFT = 0.1


@dataclass(frozen=True)
class Point:
    """One network: its kind (one of KINDS), parameters, mean Dice, its 95 % interval over patients."""

    kind: str
    parameters: int
    dice: float
    low: float | None = None
    high: float | None = None
    group: int | None = None  # the budget


def draw_pareto(points: Sequence[Point], path: Path) -> None:
    """Dice against parameters on a log axis, with error bars; kinds differ by marker as well as by colour.

    Networks of one budget are moved apart by a few points of the page, so that their bars do not cover each other.
    """
    with figure(path, 7.2, 4.4) as drawing:
        axes = drawing.subplots()
        axes.set_xscale("log")
        for kind in [*KINDS, *sorted({p.kind for p in points} - set(KINDS))]:
            chosen = [point for point in points if point.kind == kind]
            if chosen:
                _draw_kind(axes, kind, chosen)
        axes.set_xlabel("parameters (networks of one budget are moved apart a little)")
        axes.set_ylabel("Dice on the test cases")
        low, high = min(p.parameters for p in points), max(p.parameters for p in points)
        axes.set_xlim(low / 1.6, high * 1.6)
        axes.set_ylim(*_dice_limits(points))
        subs = (1.0, 2.0, 5.0) if high / low < 3000 else (1.0,)
        axes.xaxis.set_major_locator(LogLocator(subs=subs))
        axes.xaxis.set_major_formatter(lambda value, _: short(value))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(color="#E5E5E5", linewidth=0.8)
        axes.set_axisbelow(True)
        drawing.legend(loc="outside lower center", ncols=5)


def _draw_kind(axes: Axes, kind: str, points: Sequence[Point]) -> None:
    index = KINDS.index(kind) if kind in KINDS else len(KINDS)
    found = kind == "found"
    for number, point in enumerate(points):
        low = point.dice if point.low is None else point.low
        high = point.dice if point.high is None else point.high
        axes.errorbar(
            [point.parameters],
            [point.dice],
            yerr=[[max(0.0, point.dice - low)], [max(0.0, high - point.dice)]],
            fmt=MARKERS[index],
            color=COLOURS[index],
            markerfacecolor=COLOURS[index] if found else "white",
            markeredgewidth=1.4,
            markersize=8 if found else 6,
            elinewidth=1,
            capsize=2,
            zorder=3 if found else 2,
            label=kind if number == 0 else None,
            transform=axes.transData + ScaledTranslation(_shift(kind, points, number), 0, axes.figure.dpi_scale_trans),
        )


def _dice_limits(points: Sequence[Point]) -> tuple[float, float]:
    """Set by hand: matplotlib does not see points that are moved."""
    low = min(p.dice if p.low is None else p.low for p in points)
    high = max(p.dice if p.high is None else p.high for p in points)
    margin = 0.06 * (high - low) or 0.01
    return low - margin, high + margin


def _shift(kind: str, points: Sequence[Point], number: int) -> float:
    """Inches to the right: random networks left of the found one of their budget, decoded ones and the scaled U-Net right."""
    if kind == "scaled U-Net":
        return SHIFT
    if kind not in ("random", "decoded"):
        return 0.0
    earlier = sum(p.group == points[number].group for p in points[:number])
    return (-SHIFT if kind == "random" else SHIFT) * (1 + 0.6 * earlier)


def short(value: float) -> str:
    """30000 -> '30 k', 7760000 -> '7.76 M'."""
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
