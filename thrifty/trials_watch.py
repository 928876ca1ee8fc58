"""Takes down what becomes of the trials while Ray Tune runs them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from thrifty.console import Board
from thrifty.copies import refreshed
from thrifty.errors import ThriftyError, last_line
from thrifty.manifest import Manifest
from thrifty.progress import dice_of
from thrifty.results import Trial
from thrifty.trials_connect import tune
from thrifty.trials_limits import Limits
from thrifty.trials_nodes import Nodes
from thrifty.trials_trackers import Trackers
from thrifty.trials_worker import NODE


class Watch:
    """Takes down what becomes of the trials: in the manifest and on the board."""

    def __init__(
        self,
        trials: dict[str, Trial],
        manifest: Manifest,
        limits: Limits,
        shown: Board,
        stop: threading.Event,
        trackers: Trackers,
    ) -> None:
        self.trials, self.manifest, self.limits, self.shown, self.stopped = trials, manifest, limits, shown, stop
        self.trackers = trackers
        self.failed: dict[str, str] = {}
        self.error: ThriftyError | None = None
        self.nodes = Nodes()

    def hear(self, event: Callable[..., None], *arguments: Any) -> None:
        """Keeps the first error, and Tune is asked to stop: Tune would take what is raised for an error of a trial."""
        try:
            event(*arguments)
        except ThriftyError as error:
            self.error = self.error or error

    @property
    def over(self) -> bool:
        """Whether Tune is to stop what still runs."""
        return self.stopped.is_set() or self.error is not None

    def start(self, name: str) -> None:
        self.manifest.start(name)
        self.shown.start(name)
        self.trackers.start(name)

    def result(self, name: str, row: dict[str, Any]) -> None:
        if NODE in row:
            self.nodes.place(name, row[NODE])
        elif "refused" in row:
            self.failed[name] = row["refused"]
        else:
            self.shown.progress(name, row)
            self.trackers.result(name, row)

    def retry(self, name: str) -> None:
        refreshed(self.trials[name].folder)
        reason, shown = self._reason(name)
        self.manifest.set(name, "waiting", reason)
        self.shown.retry(name, shown)

    def end(self, name: str) -> None:
        refreshed(self.trials[name].folder)
        if not self.trials[name].settled:
            self.fail(name, self.failed.get(name, "it ended without a result"))
            return
        state = self.trials[name].state
        self.manifest.set(name, state)
        self.shown.finish(name, self.manifest.seconds(name), dice_of(self.trials[name]), state)
        self.trackers.end(name, failed=False)

    def lose(self, name: str) -> None:
        refreshed(self.trials[name].folder)
        self.fail(name, *self._reason(name))

    def fail(self, name: str, reason: str, shown: str | None = None) -> None:
        """`shown`: the reason as the terminal shows it, where that is another."""
        self.failed[name] = reason
        self.manifest.set(name, "failed", reason)
        self.shown.fail(name, shown or reason)
        self.trackers.end(name, failed=True)

    def tick(self) -> None:
        """
        Raises:
            ThriftyError: the hours of the study are used up.
        """
        if not self.manifest.tick():
            return
        for line in [*self.nodes.news(), *self.limits.stragglers()]:
            self.shown.say(line)
        if exceeded := self.limits.exceeded():
            raise ThriftyError(exceeded)

    def _reason(self, name: str) -> tuple[str, str]:
        """The last line of the exception that ended an attempt, for files and for the terminal; a worker that was killed could
        leave none."""
        error = self.trials[name].error
        if not error.is_file():
            return self.nodes.cause(name)
        reason = last_line(error.read_text(encoding="utf-8"))
        return reason, reason

    def close(self) -> None:
        """What Tune left unfinished has been stopped, or has ended unseen in the last moment."""
        for line in self.nodes.news():
            self.shown.say(line)
        interrupted = self.over
        for name, trial in self.trials.items():
            if not trial.settled and name not in self.failed:
                refreshed(trial.folder)
            if trial.settled:
                if self.manifest.rows[name]["status"] != trial.state:  # each change writes the whole list
                    self.manifest.set(name, trial.state)
            elif name not in self.failed:
                self.manifest.set(name, "interrupted" if interrupted else "failed", "stopped before it had a result")
                if not interrupted:
                    self.failed[name] = "stopped before it had a result"
        self.manifest.write()


class Tell(tune.Callback):
    """Passes on what Tune sees. It holds its watch by number, since Tune pickles its callbacks."""

    def __init__(self, number: int) -> None:
        self.number = number

    def _tell(self, event: Callable[..., None], *arguments: Any) -> None:
        watch = _watches[self.number]
        watch.hear(event, watch, *arguments)

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._tell(Watch.start, _name(trial))

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        self._tell(Watch.result, _name(trial), result)

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._tell(Watch.end, _name(trial))

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._tell(Watch.retry, _name(trial))

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._tell(Watch.lose, _name(trial))

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        self._tell(Watch.tick)


class Stop(tune.Stopper):
    """Ends Tune's run when its watch says so; asked after every step."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, trial_id: str, result: dict) -> bool:
        return False

    def stop_all(self) -> bool:
        return _watches[self.number].over


_watches: dict[int, Watch] = {}


def number_of(watch: Watch) -> int:
    _watches.clear()
    _watches[id(watch)] = watch
    return id(watch)


def _name(trial: Any) -> str:
    return trial.config["item"]["name"]
