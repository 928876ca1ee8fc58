"""What Ray Tune runs on a worker: a trial function, with the errors that are not to be tried again taken out."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from thrifty.console import METRICS
from thrifty.copies import published
from thrifty.environment import versions_that_must_agree
from thrifty.errors import ThriftyError, last_line, mask
from thrifty.events import Events
from thrifty.results import Trial, make_folder, remove, user_errors
from thrifty.trials_connect import ray, tune
from thrifty.trials_share import Share

NODE = "node_id"  # what the first report of an attempt holds
Report = Callable[[dict[str, Any]], None]
Function = Callable[[dict[str, Any], Trial, Report], None]


def make_trainable(function: Function) -> Callable[[dict[str, Any]], None]:
    """What Tune runs on a worker. An error that is not to be tried again, such as a user's, is reported and not raised.

    A worker can have died between writing the result and Tune's learning of it: then there is nothing left to do.
    """

    def trainable(config: dict[str, Any], share: Share | None = None) -> None:
        item = config["item"] if share is None else share.moved(config["item"])
        trial = Trial(Path(item["folder"]), item["keep"])
        try:
            _tell_node()
            with user_errors(trial.folder):
                if share is not None:
                    share.bring(trial.folder, Path(item["raised"]), Path(item["overtime"]))
                trial.folder.mkdir(parents=True, exist_ok=True)
                for part in trial.folder.glob(".*.part"):  # left by a worker that was killed while it wrote
                    part.unlink(missing_ok=True)
                check_versions(item["versions"])
                remove(trial.error)
                if trial.done:
                    trial.drop_checkpoints()
                else:
                    with _limited(item, trial):
                        function(item["arguments"], trial, _reporter(item, trial))
        except ThriftyError as error:
            tune.report({"refused": str(error)})
        except Exception as error:
            with contextlib.suppress(OSError, ThriftyError):
                trial.error.write_text(mask(traceback.format_exc()), encoding="utf-8")
                published(trial.error)
            if _times(Path(item["raised"])) <= item["retries"]:
                raise
            tune.report({"refused": last_line(traceback.format_exception_only(error)[-1])})

    return trainable


def _reporter(item: dict[str, Any], trial: Trial) -> Report:
    if not item.get("tensorboard"):
        return lambda row: tune.report(_plain(row))
    events = Events(trial)

    def report(row: dict[str, Any]) -> None:
        events.add(row)
        tune.report(_plain(row))

    return report


def _tell_node() -> None:
    tune.report({NODE: ray.get_runtime_context().get_node_id()})


def check_versions(driver: dict[str, str]) -> None:
    """
    Raises:
        ThriftyError: this process has other ones than the driver.
    """
    here = versions_that_must_agree()
    if differing := [f"{name} {here[name]} (driver: {version})" for name, version in driver.items() if here[name] != version]:
        raise ThriftyError(f"this worker has {', '.join(differing)}; give all machines the same versions")


@contextlib.contextmanager
def _limited(item: dict[str, Any], trial: Trial) -> Iterator[None]:
    """Ends this worker's process when the trial's time is over, also where it hangs; called again, the trial is refused then.

    Raises:
        ThriftyError: its time was over before.
    """
    if item["seconds_left"] is None:
        yield
        return
    marker, text = Path(item["overtime"]), f"it has run for {item['trial_hours']:g} hours; raise resources.trial_hours to go on"
    if marker.exists() or item["seconds_left"] <= 0:
        raise ThriftyError(text)

    def end() -> None:
        try:
            make_folder(marker.parent)
            marker.touch()
            trial.error.write_text(text, encoding="utf-8")
            published(marker)
            published(trial.error)
        finally:
            os._exit(1)

    timer = threading.Timer(item["seconds_left"], end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _times(raised: Path) -> float:
    """How often a trial has raised in this run, this time included: the file has one byte for each."""
    try:
        make_folder(raised.parent)
        with raised.open("ab") as file:
            file.write(b".")
        published(raised)
        return raised.stat().st_size
    except (OSError, ThriftyError):
        return math.inf  # without an account it would be tried again for ever


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """The part of a record that the driver shows."""
    numbers = {key: row[key] for key in ("epoch", "seconds", *METRICS) if isinstance(row.get(key), (int, float))}
    return numbers | {key: row[key] for key in ("guard", "setbacks") if row.get(key)}
