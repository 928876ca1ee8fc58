"""Input, truth and prediction side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch

from thrifty.plots.figure import figure

CLASS_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00")
OPACITY = 0.55


@dataclass(frozen=True)
class Example:
    """One case: `title` says which, `image` is (channels, H, W), `truth` and `prediction` (H, W) of class ids."""

    title: str
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    aspect: float = 1.0  # height of a pixel over its width


def draw_cases(examples: Sequence[Example], labels: Sequence[str], path: Path) -> None:
    """A row for each example. The truth's outline is drawn white on the prediction, so that misses show without colour.

    Args:
        labels: names of the classes, the background first.
    """
    side = 2.5
    shapes = [e.truth.shape[0] * e.aspect / e.truth.shape[1] for e in examples]
    heights = [side * min(max(shape, 0.5), 1.6) + 0.1 for shape in shapes]
    with figure(path, 3 * side + 0.3, sum(heights) + 0.8, dpi=110) as drawing:
        grid = drawing.subplots(len(examples), 3, squeeze=False, gridspec_kw={"height_ratios": heights})
        for axes, example in zip(grid, examples, strict=True):
            _draw_row(axes, example)
        for axes, title in zip(grid[0], ("input", "truth", "prediction"), strict=True):
            axes.set_title(title, fontsize=10)
        handles = [Patch(facecolor=_colour(k), label=label) for k, label in enumerate(labels) if k > 0]
        handles.append(Patch(facecolor="none", edgecolor="#888888", label="outline of the truth"))
        drawing.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4), fontsize=9)


def _draw_row(row: Sequence[Axes], example: Example) -> None:
    picture = displayed(example.image)
    layers = (picture, overlay(picture, example.truth), overlay(picture, example.prediction))
    for axes, layer in zip(row, layers, strict=True):
        axes.imshow(layer, aspect=example.aspect, interpolation="nearest" if max(example.truth.shape) <= 256 else "auto")
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
    for k in np.unique(example.truth[example.truth > 0]):
        outline = np.pad((example.truth == k).astype(float), 1)
        rows, columns = (np.arange(-1, n + 1) for n in example.truth.shape)
        for colour, width in (("black", 1.9), ("white", 0.9)):  # seen on light and on dark images
            row[2].contour(columns, rows, outline, levels=[0.5], colors=colour, linewidths=width)
    row[2].set_xlim(-0.5, example.truth.shape[1] - 0.5)
    row[2].set_ylim(example.truth.shape[0] - 0.5, -0.5)
    row[0].set_ylabel(example.title, fontsize=9)


def displayed(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) in 0..1: three channels as RGB, otherwise the first one grey, stretched between its 0.5 and 99.5 percentiles."""
    shown = image if image.shape[0] == 3 else image[:1]
    values = np.nan_to_num(shown.astype(np.float64))
    low, high = (0.0, 255.0) if image.dtype == np.uint8 and image.shape[0] == 3 else np.percentile(values, (0.5, 99.5))
    scaled = np.clip((values - low) / max(high - low, 1e-12), 0, 1).transpose(1, 2, 0)
    return np.broadcast_to(scaled, (*scaled.shape[:2], 3)).copy()


def overlay(picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`picture` with every foreground class in its colour, half transparent."""
    result = picture.copy()
    for k in np.unique(labels[labels > 0]):
        mask = labels == k
        result[mask] = (1 - OPACITY) * result[mask] + OPACITY * np.array(to_rgb(_colour(int(k))))
    return result


def _colour(index: int) -> str:
    return CLASS_COLOURS[(index - 1) % len(CLASS_COLOURS)]
