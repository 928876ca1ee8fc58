"""What all pictures share: figures without a display, deterministic files, styles that differ without colour too."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from thrifty.errors import ThriftyError
from thrifty.results import write_file

# Okabe and Ito's palette, which readers with colour blindness can tell apart; black is kept for text.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 2)))
SUFFIXES = (".svg", ".png")
STYLE = {
    "svg.hashsalt": "thrifty",
    "svg.fonttype": "path",  # the same look on a machine without the font
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "text.parse_math": False,  # names of cases and classes may hold dollar signs
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "legend.frameon": False,
}


@contextmanager
def figure(path: Path, width: float, height: float, dpi: int = 130) -> Iterator[Figure]:
    """A figure of width x height inches, written to `path` when the block ends; the suffix chooses SVG or PNG.

    The same picture gives the same bytes: no date, and ids from a fixed salt.

    Raises:
        ThriftyError: the suffix is neither, or the file cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise ThriftyError(f"{path.name} is no picture that can be drawn; allowed suffixes are {', '.join(SUFFIXES)}")
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE, "backend": "agg"}):
        drawing = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
        FigureCanvasAgg(drawing)
        yield drawing
        content = io.BytesIO()
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        drawing.savefig(content, format=path.suffix[1:], metadata=metadata)
    write_file(path, lambda file: file.write(content.getvalue()))
