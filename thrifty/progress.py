"""How far a run is, read from its folder while it is being written: nothing here writes, locks or starts anything."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thrifty.console import Best, best_by_budget, remaining_seconds
from thrifty.copies import copy_of
from thrifty.errors import ThriftyError
from thrifty.ledger import RESULTS, spent_hours
from thrifty.manifest import stored, stored_wall_seconds
from thrifty.results import Run, Trial, read_json, read_jsonl, read_run
from thrifty.storage_lock import NAME, holder_of

SCHEMA = 1
STATES = ("done", "running", "waiting", "paused", "interrupted", "dropped", "failed")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class TrialProgress:
    """`done` of `epochs`; `dice`: of the result, of a trial without one the best of its epochs; `pace`: seconds of an epoch."""

    name: str
    status: str
    done: int
    epochs: int
    budget: str
    dice: float | None
    pace: float | None
    error: str | None


@dataclass(frozen=True)
class StageProgress:
    """`state`: not started, running, unfinished or done. `scored`: candidates of the selection. `eta_seconds`: of the trials that
    are known, None where no epoch has ended yet or no driver is there to end them."""

    stage: str
    state: str
    trials: tuple[TrialProgress, ...]
    best: tuple[Best, ...]
    scored: int | None
    wall_seconds: float
    eta_seconds: float | None

    def count(self, status: str) -> int:
        return sum(trial.status == status for trial in self.trials)


@dataclass(frozen=True)
class Driver:
    """Who runs trials on the folder. `state`: running (holds the lock), idle (alive between two sets of trials), gone, elsewhere
    (on another machine: not to be seen from here), none (there never was one). `seconds`: since the run last wrote; at a URL the
    beat of the driver counts as well."""

    state: str
    process: int | None
    host: str | None
    seconds: float | None

    @property
    def alive(self) -> bool:
        return self.state in ("running", "idle") or (self.state == "elsewhere" and (self.seconds or 0.0) < 60.0)


@dataclass(frozen=True)
class Progress:
    study: str
    driver: Driver
    cpu_hours: float
    gpu_hours: float
    stages: tuple[StageProgress, ...]

    def as_json(self) -> dict[str, Any]:
        """Without the host: it is shown to who can read the folder, and not passed on."""
        driver = {key: value for key, value in asdict(self.driver).items() if key != "host"}
        stages = [asdict(stage) | {"count": {state: stage.count(state) for state in STATES}} for stage in self.stages]
        hours = {"cpu_hours": self.cpu_hours, "gpu_hours": self.gpu_hours}
        return {"schema": SCHEMA, "study": self.study, "driver": driver, **hours, "stages": stages}


def progress_of(root: Path) -> Progress:
    """
    Raises:
        ThriftyError: `root` is no run folder; or a file of it is damaged.
    """
    study, run = read_run(root)
    for attempt in range(3):
        try:
            return _progress(study.name, run)
        except ThriftyError:  # a result was taken back while it was read
            if attempt == 2:
                raise
            time.sleep(0.2)
    raise AssertionError


def _progress(name: str, run: Run) -> Progress:
    driver = driver_of(run)
    cpu, gpu = spent_hours(run)
    stages = [_stage(run, stage, driver) for stage in RESULTS]
    report = "done" if run.report.is_file() else "not started"
    stages.append(StageProgress("report", report, (), (), None, 0.0, None))
    return Progress(name, driver, cpu, gpu, tuple(stages))


def _stage(run: Run, stage: str, driver: Driver) -> StageProgress:
    rows = stored(run, stage)
    budgets = budgets_of(run, {row["name"]: row["arguments"] for row in rows})
    trials = tuple(_trial(run, row, budgets[row["name"]], driver) for row in rows)
    scored = _lines(run.evaluations) if stage == "select" else None
    state = _state(run, stage, trials, scored, driver)
    eta = None
    if state == "running":
        waiting = [t for t in trials if t.status not in ("done", "dropped", "failed")]
        left = [(t.epochs - t.done, t.pace) for t in waiting]
        eta = remaining_seconds(left, [t.pace for t in trials], sum(t.status == "running" for t in waiting))
    best = best_by_budget((t.budget, t.name, t.dice) for t in trials)
    return StageProgress(stage, state, trials, tuple(best), scored, stored_wall_seconds(run, stage), eta)


def _state(run: Run, stage: str, trials: Sequence[TrialProgress], scored: int | None, driver: Driver) -> str:
    if not trials and not scored:
        return "not started"
    ends = {"search": run.candidates, "select": run.pareto, "evaluate": run.summary}
    ended = stage not in ends or ends[stage].is_file()
    borne = ("failed",) if ends.get(stage, run.summary).is_file() else ()  # the study went on without (--max-failures)
    if ended and all(trial.status in ("done", "dropped", *borne) for trial in trials):
        return "done"
    return "running" if driver.alive else "unfinished"


def _trial(run: Run, row: Row, budget: str, driver: Driver) -> TrialProgress:
    trial = Trial(run.root / row["folder"])
    record = read_jsonl(trial.record)
    status = "done" if trial.done else row["status"]
    if status == "running" and not driver.alive:
        status = "interrupted"
    done = row["epochs"] if status == "done" else len(record)
    seconds = [epoch["seconds"] for epoch in record if isinstance(epoch.get("seconds"), (int, float))]
    pace = sum(seconds) / len(seconds) if seconds else None
    return TrialProgress(row["name"], status, done, row["epochs"], budget, dice_of(trial, record), pace, row["error"])


def dice_of(trial: Trial, record: Sequence[Row] | None = None) -> float | None:
    """Of its result; of a trial without one the best of its epochs."""
    if trial.done:
        value = read_json(trial.result)
        found = [value.get("dice")] if isinstance(value, dict) else []
    else:
        found = [row.get("dice") for row in (read_jsonl(trial.record) if record is None else record)]
    return max((float(dice) for dice in found if isinstance(dice, (int, float))), default=None)


def budgets_of(run: Run, arguments: Mapping[str, Row]) -> dict[str, str]:
    """Under what budget the Dice of each trial is shown, by its arguments: '30,000', or the name of a network that has none."""
    known: dict[str, Any] = {}
    if run.networks.is_file():
        known = {network["name"]: network["budget"] for network in read_json(run.networks)["networks"]}
    if any("network" in told and told["network"] not in known for told in arguments.values()) and run.evaluations.is_file():
        known = _groups(run.evaluations) | known
    return {name: _budget(told, known) for name, told in arguments.items()}


def _budget(told: Row, known: Mapping[str, int | None]) -> str:
    setting, network = told.get("setting"), told.get("network")
    found = setting.get("budget") if isinstance(setting, Mapping) else known.get(str(network))
    return f"{found:,}" if found is not None else str(network or "all")


def _groups(evaluations: Path) -> dict[str, int]:
    """Budget of each scored network by its hash: the group of a candidate is named b<budget>_w<width>_d<levels>."""
    try:
        rows = read_jsonl(evaluations)
    except ThriftyError:  # the last line is being written
        return {}
    matched = ((row.get("hash"), re.match(r"b(\d+)_", str(row.get("group")))) for row in rows)
    return {name: int(found[1]) for name, found in matched if name and found}


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def driver_of(run: Run) -> Driver:
    """By what the last driver wrote into its lock, by whether that process lives, and by whether it holds the lock (which Linux
    tells). The lock itself is left alone: to try it would turn away a driver that begins in that moment."""
    path = run.root / "driver.lock"
    seconds = _since_written(run)
    if (copy := copy_of(run.root)) is not None:
        return _driver_at(copy.storage.url, path, seconds)
    try:
        text, stat = path.read_text(encoding="utf-8"), path.stat()
    except OSError:
        return Driver("none", None, None, seconds)
    matched = re.fullmatch(r"process (\d+) on (\S+)\s*", text)
    if not matched:
        return Driver("gone", None, None, seconds)
    process, host = int(matched[1]), matched[2]
    if host != socket.gethostname():
        return Driver("elsewhere", process, host, seconds)
    if not _lives(process, stat.st_mtime):
        return Driver("gone", process, host, seconds)
    holds = _holds_lock(process, stat.st_ino)
    return Driver("idle" if holds is False else "running", process, host, seconds)


def _driver_at(url: str, path: Path, seconds: float | None) -> Driver:
    """By the lock object at a URL, and where its driver is on this machine also by the lock in the working copy."""
    holder = holder_of(url)
    if holder is None:
        return Driver("none" if seconds is None else "gone", None, None, seconds)
    state = {None: "elsewhere", True: "idle", False: "gone"}[holder.alive]
    if holder.alive and path.is_file() and _holds_lock(holder.process, path.stat().st_ino) is not False:
        state = "running"
    return Driver(state, holder.process, holder.host, seconds)


def _lives(process: int, written: float) -> bool:
    """Whether the process that wrote the lock at that time lives; another one may have its number by now."""
    import psutil

    try:
        found = psutil.Process(process)
        return found.status() != psutil.STATUS_ZOMBIE and found.create_time() <= written + 1.0
    except psutil.Error:
        return False


def _holds_lock(process: int, inode: int) -> bool | None:
    """By /proc/locks; None where there is no such file."""
    try:
        lines = Path("/proc/locks").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    held = (line.split() for line in lines)
    return any(f[1] == "FLOCK" and f[4] == str(process) and f[5].endswith(f":{inode}") for f in held if len(f) > 5)


def _since_written(run: Run) -> float | None:
    written = [run.evaluations, *(run.root / stage / "trials.json" for stage in RESULTS)]
    if (copy := copy_of(run.root)) is not None:
        names = [path.relative_to(run.root).as_posix() for path in written]
        return min((age for name in (*names, NAME) if (age := copy.storage.age_seconds(name)) is not None), default=None)
    times = [_mtime(path) for path in written]
    newest = max((time for time in times if time is not None), default=None)
    return None if newest is None else max(0.0, time.time() - newest)


def _mtime(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def best_before(trials: Iterable[tuple[str, Trial]], budgets: Mapping[str, str]) -> list[Best]:
    """Of what is there before a driver goes on."""
    return best_by_budget((budgets[name], name, dice_of(trial)) for name, trial in trials)
