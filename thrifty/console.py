"""What the driver shows of a stage while it runs: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

QUIET_SECONDS = 10.0  # between two plain lines of one trial
METRICS = ("dice", "parameters", "loss")  # shown where a record has them, in this order
Clock = Callable[[], float]


@dataclass
class Line:
    """What is known of one trial."""

    name: str
    epochs: int
    state: str = "waiting"
    done: int = 0  # epochs
    metrics: str = ""
    started: float | None = None  # when the first epoch of this attempt began
    resumed_at: int = 0  # epochs that were done before this attempt
    shown: float = float("-inf")  # when its last plain line was printed

    pace: float | None = None  # mean seconds of an epoch in this attempt, None before its first one has ended


class Board:
    """The trials of one stage and how far they are. It shows; it decides nothing."""

    def __init__(self, stage: str, trials: Mapping[str, int], done: int, file: TextIO | None, clock: Clock) -> None:
        self.stage, self.before, self.clock = stage, done, clock
        self.file = sys.stdout if file is None else file
        self.lines = {name: Line(name, epochs) for name, epochs in trials.items()}
        self.live: Live | None = None

    def start(self, name: str) -> None:
        line = self.lines[name]
        again = line.state != "waiting"
        line.state, line.started, line.pace = "running", None, None
        self._say(line, "goes on" if again else "starts")

    def progress(self, name: str, row: Mapping[str, Any]) -> None:
        """`row` is the record of one epoch, as a trial reports it; what its guard did, and setbacks, are always said."""
        line, now = self.lines[name], self.clock()
        epoch = row.get("epoch")
        line.done = epoch + 1 if isinstance(epoch, int) else line.done + 1
        if line.started is None:  # starting the worker and loading the data are no part of an epoch
            line.started, line.resumed_at = now - float(row.get("seconds") or 0.0), line.done - 1
        line.pace = (now - line.started) / (line.done - line.resumed_at)
        line.metrics = format_metrics(row)
        for text in [row["guard"]] if isinstance(row.get("guard"), str) else []:
            self.say(f"{name}: epoch {line.done}: {text}")
        for text in row.get("setbacks", ()):
            self.say(f"{name}: {text}")
        if now - line.shown >= QUIET_SECONDS:
            self._say(line, f"epoch {line.done}/{line.epochs}  {line.metrics}  {self._remaining(line)}".rstrip())
        self._refresh()

    def finish(self, name: str, seconds: float) -> None:
        line = self.lines[name]
        line.state, line.done = "done", line.epochs
        self._say(line, f"done after {format_seconds(seconds)}  {line.metrics}  ({self._count()})")

    def retry(self, name: str, reason: str) -> None:
        line = self.lines[name]
        line.state = "retry"
        self._say(line, f"is tried again: {reason}")

    def fail(self, name: str, reason: str) -> None:
        line = self.lines[name]
        line.state = "failed"
        self._say(line, f"failed: {reason}")

    def say(self, text: str) -> None:
        """A line of the stage as a whole."""
        if self.live is not None:
            self.live.console.print(text, highlight=False, markup=False)
        else:
            print(f"{self.stage}: {text}", file=self.file, flush=True)

    def eta(self) -> float | None:
        """Seconds until all trials have finished, from the mean epoch so far; None before there is one."""
        known = [line.pace for line in self.lines.values() if line.pace is not None]
        if not known:
            return None
        mean, open_lines = sum(known) / len(known), [line for line in self.lines.values() if line.state not in ("done", "failed")]
        running = max(1, sum(line.state == "running" for line in open_lines))
        left = [(line.epochs - line.done) * (line.pace or mean) for line in open_lines]
        return max([sum(left) / running, *left], default=0.0)

    def table(self) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        eta = self.eta()
        left = "" if eta is None else f", about {format_seconds(eta)} left"
        table = Table(title=f"{self.stage}: {self._count()}{left}", title_justify="left")
        for column in ("trial", "epoch", "metrics", "state", "left"):
            table.add_column(column, justify="right" if column in ("epoch", "left") else "left", no_wrap=column == "trial")
        for line in self._worth_showing():
            table.add_row(Text(line.name), f"{line.done}/{line.epochs}", line.metrics, line.state, self._remaining(line, ""))
        return table

    def __rich__(self) -> RenderableType:
        return self.table()

    def _worth_showing(self, limit: int = 24) -> list[Line]:
        """All lines, or the most telling ones where there are more than fit on a screen."""
        order = {"running": 0, "retry": 1, "failed": 2, "waiting": 3, "done": 4}
        chosen = sorted(self.lines.values(), key=lambda line: order[line.state])[:limit]
        return [line for line in self.lines.values() if line in chosen]

    def _count(self) -> str:
        done = self.before + sum(line.state == "done" for line in self.lines.values())
        return f"{done} of {self.before + len(self.lines)} done"

    def _remaining(self, line: Line, words: str = "about {} left") -> str:
        if line.state != "running" or line.pace is None or line.done >= line.epochs:
            return ""
        text = format_seconds(line.pace * (line.epochs - line.done))
        return words.format(text) if words else text

    def _say(self, line: Line, text: str) -> None:
        line.shown = self.clock()
        if self.live is None:
            print(f"{self.stage} {line.name}: {' '.join(text.split())}", file=self.file, flush=True)
        elif line.state in ("failed", "retry"):
            self.live.console.print(f"{line.name}: {text}", highlight=False, markup=False)
        self._refresh()

    def _refresh(self) -> None:
        if self.live is not None:
            self.live.update(self)


@contextmanager
def board(
    stage: str, trials: Mapping[str, int], done: int = 0, file: TextIO | None = None, clock: Clock = time.monotonic
) -> Iterator[Board]:
    """Shows `trials` (name -> epochs) of `stage` until the block ends; `done` others had finished before."""
    shown = Board(stage, trials, done, file, clock)
    if not shown.file.isatty():
        yield shown
        return
    from rich.console import Console
    from rich.live import Live

    with Live(shown, console=Console(file=shown.file), refresh_per_second=2, transient=False) as live:
        shown.live = live
        yield shown


def format_metrics(row: Mapping[str, Any]) -> str:
    parts = []
    for key in METRICS:
        value = row.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            parts.append(f"{key} {value:,}")
        elif isinstance(value, float):
            parts.append(f"{key} {value:.3f}" if key != "parameters" else f"{key} {value:,.0f}")
    return "  ".join(parts)


def format_seconds(seconds: float) -> str:
    """ "42 s", "3 min 05 s" or "2 h 07 min"."""
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
