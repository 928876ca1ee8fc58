"""What became of every trial of a stage, and for how long it held its resources: `<stage>/trials.json`, written as it changes.

It is there to be read; which trial has finished is decided by its own result file alone. One driver writes it at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from thrifty.config import Resources
from thrifty.errors import ThriftyError, one_line
from thrifty.results import Run, Trial, read_json, user_errors, write_json

SCHEMA = 1
WRITE_SECONDS = 5.0  # between two writes that only move the clocks
WRITING_SHARE = 0.02  # of the driver's time that writing may take: the list is written whole, so that of a long study takes long
SHORTEST_PAUSE = 1.0  # seconds; a list that is written in a fiftieth of them is written at every change
Clock = Callable[[], float]


class Manifest:
    """The trials of one stage: settings, status, attempts, seconds, CPU- and GPU-hours over all attempts."""

    def __init__(self, run: Run, stage: str, resources: Resources, clock: Clock = time.monotonic) -> None:
        self.run, self.stage, self.resources, self.clock = run, stage, resources, clock
        self.path = _path(run, stage)
        self.rows: dict[str, dict[str, Any]] = {row["name"]: row for row in stored(run, stage)}
        self._since: dict[str, float] = {}
        self._wall, self._begun = stored_wall_seconds(run, stage), clock()
        self._written, self._due = float("-inf"), float("-inf")

    def add(self, name: str, trial: Trial, arguments: Mapping[str, Any], epochs: int) -> None:
        """A trial of the stage; what it cost before stays on its account."""
        settings = json.loads(json.dumps({key: value for key, value in arguments.items() if key != "run"}))
        status = trial.state
        cost = {"attempts": 0, "faults": 0, "seconds": 0.0, "cpu_hours": 0.0, "gpu_hours": 0.0}
        if self.rows.get(name, {}).get("status") == "running":  # the driver that started it has died
            self.rows[name]["faults"] = self.rows[name].get("faults", 0) + 1
        row = cost | self.rows.get(name, {}) | {"status": status, "error": None, "epochs": epochs, "arguments": settings}
        self.rows[name] = {"name": name, "folder": _relative(trial.folder, self.run.root)} | row

    def drop_failed_but(self, names: Collection[str]) -> None:
        """Failed trials of other names are no part of the study any more, and no failures of it; what they cost stays."""
        for name, row in self.rows.items():
            if row["status"] == "failed" and name not in names:
                row |= {"status": "dropped", "error": "no longer part of the study"}

    def start(self, name: str) -> None:
        """An attempt begins."""
        self._since[name] = self.clock()
        self.rows[name]["attempts"] += 1
        self.set(name, "running")

    def set(self, name: str, status: str, error: str | None = None) -> None:
        """A new status; a trial that no longer runs holds no resources. An attempt that is made again, or failed, is a fault."""
        self._count(name)
        if name in self._since and status in ("waiting", "failed"):
            self.rows[name]["faults"] += 1
        if status != "running":
            self._since.pop(name, None)
        self.rows[name].update(status=status, error=error)
        if self.clock() >= self._due:
            self.write()

    def tick(self) -> bool:
        """Brings the clocks up to date now and then (whether it did), so that a killed driver loses seconds of the account.

        And with them what changed when it was too early for another write.
        """
        if self.clock() < max(self._written + WRITE_SECONDS, self._due):
            return False
        for name in list(self._since):
            self._count(name)
        self.write()
        return True

    def seconds(self, name: str) -> float:
        return self.rows[name]["seconds"]

    def write(self) -> None:
        begun = self.clock()
        wall = round(self._wall + begun - self._begun, 3)
        write_json(self.path, {"schema": SCHEMA, "stage": self.stage, "wall_seconds": wall, "trials": list(self.rows.values())})
        self._written = self.clock()
        pause = (self._written - begun) / WRITING_SHARE
        self._due = self._written + (pause if pause > SHORTEST_PAUSE else 0.0)

    def _count(self, name: str) -> None:
        if name not in self._since:
            return
        now, row = self.clock(), self.rows[name]
        passed = now - self._since[name]
        row["seconds"] = round(row["seconds"] + passed, 3)
        row["cpu_hours"] = round(row["cpu_hours"] + passed * self.resources.cpus_per_trial / 3600, 6)
        row["gpu_hours"] = round(row["gpu_hours"] + passed * self.resources.gpus_per_trial / 3600, 6)
        self._since[name] = now


@contextlib.contextmanager
def only_driver(run: Run) -> Iterator[None]:
    """Holds the run folder for this process, by a lock that ends with it however it ends.

    Raises:
        ThriftyError: another process holds it.
    """
    path = run.root / "driver.lock"
    with user_errors(path):
        run.root.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    with file:
        _lock(file, run)
        with user_errors(path):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        yield


def _lock(file: IO[str], run: Run) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = one_line(file.read()) or "another process"
        raise ThriftyError(
            f"{run.root} is in use by {holder}: wait until it has ended, or give this study another name="
        ) from None
    except OSError:
        pass  # some network file systems know no locks; there a run goes on without


def stored(run: Run, stage: str) -> list[dict[str, Any]]:
    """The trials of a stage as they were last written; none where the stage keeps no manifest.

    Raises:
        ThriftyError: the file is no manifest.
    """
    return _stored(run, stage)["trials"]


def stored_wall_seconds(run: Run, stage: str) -> float:
    """How long the drivers of a stage have run, as it was last written."""
    return _stored(run, stage).get("wall_seconds", 0.0)


def _stored(run: Run, stage: str) -> dict[str, Any]:
    path = _path(run, stage)
    if not path.is_file():
        return {"trials": []}
    value = read_json(path)
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise ThriftyError(f"{path} has no schema {SCHEMA}; remove it, trials that have a result stay done")
    return value


def _path(run: Run, stage: str) -> Path:
    return run.root / stage / "trials.json"


def _relative(folder: Path, root: Path) -> str:
    return str(folder.relative_to(root)) if folder.is_relative_to(root) else str(folder)
