"""What the driver shows of a stage while it runs: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

QUIET_SECONDS = 10.0  # between two plain lines of one trial
OVERVIEW_SECONDS = 60.0  # between two plain lines of the stage as a whole
BAR_WIDTH = 12
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
    dice: float | None = None  # the best so far; of a finished trial that of its result


@dataclass(frozen=True)
class Best:
    """The best Dice so far of the trials of a budget (or of a network that has none)."""

    budget: str
    trial: str
    dice: float


class Board:
    """The trials of one stage and how far they are. It shows; it decides nothing."""

    def __init__(
        self,
        stage: str,
        trials: Mapping[str, int],
        done: int,
        file: TextIO | None,
        clock: Clock,
        budgets: Mapping[str, str] | None = None,
        earlier: Sequence[Best] = (),
    ) -> None:
        self.stage, self.before, self.clock = stage, done, clock
        self.budgets, self.earlier, self.overview_shown = budgets or {}, earlier, clock()
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
        if isinstance(row.get("dice"), (int, float)):
            line.dice = max(float(row["dice"]), line.dice if line.dice is not None else float("-inf"))
        for text in [row["guard"]] if isinstance(row.get("guard"), str) else []:
            self.say(f"{name}: epoch {line.done}: {text}")
        for text in row.get("setbacks", ()):
            self.say(f"{name}: {text}")
        if now - line.shown >= QUIET_SECONDS:
            self._say(line, f"epoch {line.done}/{line.epochs}  {line.metrics}  {self._remaining(line)}".rstrip())
        if self.live is None and self.before + len(self.lines) > 1 and now - self.overview_shown >= OVERVIEW_SECONDS:
            self.overview_shown = now
            self.say(self.overview())
        self._refresh()

    def finish(self, name: str, seconds: float, dice: float | None = None, state: str = "done") -> None:
        """`dice`: of the trial's result, where it has one; it takes the place of what its epochs had. `state`: paused, where it
        waits for a decision."""
        line = self.lines[name]
        line.state, line.done = "done", line.epochs
        line.dice = line.dice if dice is None else dice
        self._say(line, f"{state} after {format_seconds(seconds)}  {line.metrics}  ({self._count()})")

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
        lines = self.lines.values()
        waiting = [line for line in lines if line.state not in ("done", "failed")]
        left = [(line.epochs - line.done, line.pace) for line in waiting]
        return remaining_seconds(left, [line.pace for line in lines], sum(line.state == "running" for line in waiting))

    def best(self) -> list[Best]:
        """By budget, in the order of the trials, those that had finished before included."""
        found = [(line.budget, line.trial, line.dice) for line in self.earlier]
        return best_by_budget([*found, *((self._budget(line), line.name, line.dice) for line in self.lines.values())])

    def _budget(self, line: Line) -> str:
        return self.budgets.get(line.name, "all")

    def overview(self) -> str:
        """Of the stage as a whole, on one line."""
        counts = {state: sum(line.state == state for line in self.lines.values()) for state in ("running", "failed")}
        parts = [", ".join([self._count(), *(f"{count} {state}" for state, count in counts.items() if count)])]
        if best := format_best(self.best()):
            parts.append(best)
        if (eta := self.eta()) is not None:
            parts.append(f"about {format_seconds(eta)} left")
        return "; ".join(parts)

    def table(self) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        eta = self.eta()
        left = "" if eta is None else f", about {format_seconds(eta)} left"
        best = Text(format_best(self.best())) if self.best() else None
        table = Table(title=f"{self.stage}: {self._count()}{left}", title_justify="left", caption=best, caption_justify="left")
        for column in ("trial", "", "epoch", "metrics", "state", "left"):
            table.add_column(column, justify="right" if column in ("epoch", "left") else "left", no_wrap=column == "trial")
        for line in self._worth_showing():
            bar = ProgressBar(total=max(1, line.epochs), completed=line.done, width=BAR_WIDTH)
            cells = (f"{line.done}/{line.epochs}", line.metrics, line.state, self._remaining(line, ""))
            table.add_row(Text(line.name), bar, *cells)
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
    stage: str,
    trials: Mapping[str, int],
    done: int = 0,
    file: TextIO | None = None,
    clock: Clock = time.monotonic,
    budgets: Mapping[str, str] | None = None,
    earlier: Sequence[Best] = (),
) -> Iterator[Board]:
    """Shows `trials` (name -> epochs) of `stage` until the block ends; `done` others had finished before.

    `budgets`: under what the Dice of a trial is shown, by its name; `earlier`: the best of before.
    """
    shown = Board(stage, trials, done, file, clock, budgets, earlier)
    if not shown.file.isatty():
        yield shown
        return
    from rich.console import Console
    from rich.live import Live

    with Live(shown, console=Console(file=shown.file), refresh_per_second=2, transient=False) as live:
        shown.live = live
        yield shown


def remaining_seconds(left: Sequence[tuple[int, float | None]], paces: Iterable[float | None], running: int) -> float | None:
    """Until all trials have finished, `running` of them at once; None before an epoch has ended.

    Args:
        left: of each trial that has not finished: epochs to go, and its seconds for one; None: the mean of `paces` is taken.
        paces: seconds of an epoch of every trial of the stage.
    """
    known = [pace for pace in paces if pace is not None]
    if not known:
        return None
    mean = sum(known) / len(known)
    seconds = [epochs * (mean if pace is None else pace) for epochs, pace in left]
    return max([sum(seconds) / max(1, running), *seconds], default=0.0)


def best_by_budget(found: Iterable[tuple[str, str, float | None]]) -> list[Best]:
    """The best (budget, trial, Dice) of each budget, in the order in which budgets come."""
    best: dict[str, Best] = {}
    for budget, trial, dice in found:
        if dice is not None and (budget not in best or dice > best[budget].dice):
            best[budget] = Best(budget, trial, dice)
    return list(best.values())


def format_best(best: Sequence[Best]) -> str:
    """ "best Dice so far by budget: 10,000: 0.812 (trial), 30,000: 0.845 (trial)"; nothing where there is none."""
    listed = ", ".join(f"{one.budget}: {one.dice:.3f} ({one.trial})" for one in best)
    return f"best Dice so far by budget: {listed}" if listed else ""


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
