"""MLflow and Weights & Biases, by Ray's own callbacks, told of trials as thrifty knows them.

Ray's callbacks would send what Tune holds of a trial, folders and hosts with it. So they are given a stand-in for each trial:
its name, its settings and the numbers that the driver shows. Each tracker has a thread and a queue of its own: one that does not
answer holds nothing up, and is left after its first error.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import queue
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from thrifty.config import Resources
from thrifty.copies import copy_of
from thrifty.errors import ThriftyError, last_line
from thrifty.results import Run

CLOSE_SECONDS = 60.0  # that a tracker has at the end of a stage to send what it still holds
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_DISABLE_TELEMETRY": "true"}
SILENT = {  # what wandb would note down by itself: host, user, folder, command line, repository, what is printed
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_machine_info": True,
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
    "console": "off",
    "host": "not told",
    "silent": True,
}
OFFLINE = ("offline", "dryrun")  # of WANDB_MODE: files alone
Say = Callable[[str], None]


class StandIn:
    """What Ray's callbacks read of a trial."""

    local_path = "."  # wandb's actor goes there and notes it down

    def __init__(self, group: str, name: str, config: Mapping[str, Any]) -> None:
        self.name, self.config, self.experiment_dir_name = name, dict(config), group
        self.trial_id = uuid.uuid4().hex[:12]

    def __str__(self) -> str:
        return self.name


class Tracker:
    """One of Ray's callbacks, called in a thread of its own, in order."""

    def __init__(self, name: str, make: Callable[[], Any], say: Say) -> None:
        self.name, self.make, self.say = name, make, say
        self.events: queue.SimpleQueue[tuple[str, tuple[Any, ...]] | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self.thread.start()

    def tell(self, event: str, *arguments: Any) -> None:
        if self.thread.is_alive():
            self.events.put((event, arguments))

    def close(self, seconds: float) -> None:
        self.events.put(None)
        self.thread.join(seconds)
        if self.thread.is_alive():
            self.say(f"warning: {self.name} has not taken everything within {seconds:g} seconds; the rest is left out there")

    def _work(self) -> None:
        try:
            callback = self.make()
            callback.setup()
            while (item := self.events.get()) is not None:
                getattr(callback, item[0])(*item[1])
            callback.on_experiment_end([])
        except Exception as error:
            self.say(f"warning: {self.name} takes nothing more of this stage ({last_line(error)}); the study goes on without it")


class Trackers:
    """All trackers of a stage. Trials are told of by name; one that begins again goes on in its run."""

    def __init__(self, trackers: list[Tracker], group: str, settings: Mapping[str, Mapping[str, Any]]) -> None:
        self.trackers = trackers
        self.trials = {name: StandIn(group, name, config) for name, config in settings.items()} if trackers else {}
        self.open: dict[str, StandIn] = {}

    def start(self, name: str) -> None:
        if self.trackers:
            self.open[name] = self.trials[name]
            self._tell("log_trial_start", self.trials[name])

    def result(self, name: str, row: Mapping[str, Any]) -> None:
        """`row`: what a trial reports of an epoch; Tune has added a host and more, so only its numbers go on."""
        step = row["epoch"] + 1 if isinstance(row.get("epoch"), int) else 1
        numbers = {key: row[key] for key in ("dice", "loss", "parameters", "seconds") if isinstance(row.get(key), (int, float))}
        if name in self.open:
            self._tell("log_trial_result", step, self.open[name], numbers | {"training_iteration": step})

    def end(self, name: str, failed: bool) -> None:
        if name in self.open:
            self._tell("log_trial_end", self.open.pop(name), failed)

    def close(self) -> None:
        for name in list(self.open):
            self.end(name, True)
        for tracker in self.trackers:
            tracker.close(CLOSE_SECONDS)

    def _tell(self, event: str, *arguments: Any) -> None:
        for tracker in self.trackers:
            tracker.tell(event, *arguments)


@contextmanager
def trackers_of(
    run: Run, stage: str, arguments: Mapping[str, Mapping[str, Any]], resources: Resources, say: Say
) -> Iterator[Trackers]:
    """
    Args:
        arguments: of every trial, by its name.
        say: shows a line to the user.
    """
    settings = {name: settings_of(run, stage, name, told) for name, told in arguments.items()}
    shown = [Tracker(name, lambda name=name: MAKERS[name](run, stage), say) for name in resources.trackers]
    trackers = Trackers(shown, f"{run.root.name} {stage}", settings)
    try:
        yield trackers
    finally:
        trackers.close()


def check_trackers(resources: Resources, run: Run) -> None:
    """
    Raises:
        ThriftyError: the package of a tracker is not installed; or it would keep its files in a working copy, where nothing stays
            that the store does not have.
    """
    for name in resources.trackers:
        if importlib.util.find_spec(name) is None:
            raise ThriftyError(f"resources.trackers has {name}, which is not installed: pip install 'thrifty[{name}]'")
    if (copy := copy_of(run.root)) is None:
        return
    start = f"resources.trackers has %s, which would keep its files here, and the results are at {copy.storage.url}"
    if "mlflow" in resources.trackers and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise ThriftyError(f"{start % 'mlflow'}; set MLFLOW_TRACKING_URI to a server, or take mlflow out of resources.trackers")
    if "wandb" in resources.trackers and os.environ.get("WANDB_MODE") in OFFLINE:
        raise ThriftyError(f"{start % 'wandb'}; unset WANDB_MODE to send them, or take wandb out of resources.trackers")


def settings_of(run: Run, stage: str, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of a trial: the study, numbers of its settings, the name of its network. No folder, no machine."""
    flat = {key: value for key, value in arguments.items() if key != "setting"} | dict(arguments.get("setting", {}))
    plain = {key: value for key, value in flat.items() if isinstance(value, (int, float)) or key == "network"}
    return {"study": run.root.name, "stage": stage, "trial": name, **plain}


def _mlflow(run: Run, stage: str) -> Any:
    """The server of MLFLOW_TRACKING_URI; without it a SQLite file in the run folder, since MLflow only maintains plain files."""
    for variable, value in PATIENCE.items():
        os.environ.setdefault(variable, value)
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    importlib.import_module("mlflow")  # which sets the level of its messages
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.root / 'mlflow.db'}"
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or run.root.name
    return MLflowLoggerCallback(tracking_uri=place, experiment_name=experiment, tags={"stage": stage})


def _wandb(run: Run, stage: str) -> Any:
    """The account of WANDB_API_KEY; with WANDB_MODE=offline files in the run folder alone (refused in a working copy)."""
    from ray.air.integrations.wandb import WandbLoggerCallback

    project = os.environ.get("WANDB_PROJECT") or run.root.name
    folder = run.root if copy_of(run.root) is None else run.root.parent  # beside a working copy: only logs for debugging
    where = {"dir": str(folder), "settings": SILENT, "job_type": stage}
    return WandbLoggerCallback(project, f"{run.root.name} {stage}", upload_timeout=int(CLOSE_SECONDS) // 2, **where)


MAKERS: dict[str, Callable[[Run, str], Any]] = {"mlflow": _mlflow, "wandb": _wandb}
