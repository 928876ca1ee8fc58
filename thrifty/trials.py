"""Runs trial functions on Ray Tune: retries, resumes, stops cleanly. The only module that imports ray.

A trial function is a plain function `(arguments, trial, report) -> None`. It resumes from the newest checkpoint in its own
trial folder, and writes `trial.result` last, atomically. So a retry is to call it again, and a study is restored by running
what has no result yet: Tune's own state is never read back.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import os
import shutil
import signal
import socket
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a trial with gpus_per_trial=0 sees no GPU
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune would swallow the first Ctrl-C even after its run has ended
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
for _variable, _value in QUIET.items():  # read by ray when it is imported
    os.environ.setdefault(_variable, _value)
if "RAY_ADDRESS" not in os.environ:  # a private cluster
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # otherwise Ray writes a readable token into the home folder
    # Whatever _node_ip_address says, Ray listens on every interface of a Linux machine, except with this.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

import ray  # noqa: E402
from ray import tune  # noqa: E402

from thrifty.config import Resources  # noqa: E402
from thrifty.console import METRICS, Board, board  # noqa: E402
from thrifty.errors import ThriftyError, one_line  # noqa: E402
from thrifty.manifest import Manifest, only_driver  # noqa: E402
from thrifty.results import Run, Trial, user_errors  # noqa: E402

Report = Callable[[dict[str, Any]], None]
Function = Callable[[dict[str, Any], Trial, Report], None]
LOGS: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
LOCAL: dict[str, Any] = {
    "include_dashboard": False,
    "object_store_memory": 100 * 2**20,  # trials share their data by memory map, so what passes through Ray is small
    "_node_ip_address": "127.0.0.1",
}
CONNECT_SECONDS = 10.0
EXCEPTIONS = 3  # retries of a trial whose function raises, if max_failures allows as many
PARTS = 2  # tasks for each place, when many items are to be done
GO_ON = "run the same command to go on"


@dataclass(frozen=True)
class Spec:
    """One trial: what to call its function with, where its files go, how many epochs it has (for the display)."""

    name: str
    trial: Trial
    arguments: dict[str, Any]
    epochs: int


def run_trials(stage: str, function: Function, specs: Sequence[Spec], resources: Resources, run: Run) -> None:
    """Runs every trial that has no result yet; trials whose worker dies are called again, others go on meanwhile.

    A worker's death is forgiven `max_failures` times for each trial, an exception of the function at most EXCEPTIONS times:
    it would mostly come again.

    Raises:
        ThriftyError: another process works on this run; more CPUs or GPUs are asked for than any machine has; trials failed
            (each named with its reason); the disk is full; the run was interrupted. All finished trials are kept.
    """
    with only_driver(run):
        _run_trials(stage, function, specs, resources, run)


def _run_trials(stage: str, function: Function, specs: Sequence[Spec], resources: Resources, run: Run) -> None:
    manifest = Manifest(run, stage, resources)
    for spec in specs:
        manifest.add(spec.name, spec.trial, spec.arguments, spec.epochs)
    manifest.write()
    todo = [spec for spec in specs if not spec.trial.done]
    if not todo:
        return
    connect()
    _check_resources(resources)
    epochs = {spec.name: spec.epochs for spec in todo}
    with board(stage, epochs, len(specs) - len(todo)) as shown, _stop_signals(shown) as stopped:
        watch = _Watch(stage, {spec.name: spec.trial for spec in todo}, manifest, shown, stopped)
        watch.hear(_fit, function, todo, resources, run, watch)
        watch.hear(watch.close)
    if watch.error is not None:
        raise watch.error
    if stopped.is_set():
        done = sum(spec.trial.done for spec in specs)
        raise ThriftyError(f"interrupted: {done} of {len(specs)} trials of {stage} are done; {GO_ON}")
    if watch.failed:
        raise ThriftyError(_failures(stage, watch.failed, len(specs)))


def map_batches(function: Callable[[dict[str, Any]], Any], items: Sequence[dict[str, Any]], resources: Resources) -> list[Any]:
    """`[function(item) for item in items]` on the workers, in order; items of a worker that died are done again.

    Several items make a task, so many that each place has PARTS tasks: few enough to cost little, and enough that no place
    waits long for the last one. What `function` keeps in its module, such as loaded weights, it finds again in the next task.
    After an error the few tasks in flight end by themselves: `ray.cancel` can abort the whole program (a race in Ray).

    Raises:
        ThriftyError: of the function, as it was raised there; or a worker died more often than `max_failures`.
    """
    if not items:
        return []
    connect()
    _check_resources(resources)
    places = min(_places(resources), resources.concurrent or len(items))
    needs: dict[str, Any] = {"num_cpus": resources.cpus_per_trial, "num_gpus": resources.gpus_per_trial}
    # max_calls: by default a worker with a GPU ends after one task, and with it all that it has loaded.
    remote = ray.remote(**needs, max_retries=resources.max_failures, max_calls=0)(_all)
    limit, refs, waiting = resources.concurrent or 2 * places, [], []
    try:
        for part in parts_of(items, PARTS * places):
            if len(waiting) >= limit:
                ready, waiting = ray.wait(waiting)
                ray.get(ready)
            refs.append(remote.remote(function, part))
            waiting.append(refs[-1])
        return [value for found in ray.get(refs) for value in found]
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ThriftyError):
            raise ThriftyError(str(error.cause)) from None
        raise
    except ray.exceptions.RayError as error:
        tried = f"and {resources.max_failures} retries did not help ({type(error).__name__})"
        raise ThriftyError(f"a worker died (killed, or out of memory), {tried}; {GO_ON}") from None


def _all(function: Callable[[dict[str, Any]], Any], items: Sequence[dict[str, Any]]) -> list[Any]:
    return [function(item) for item in items]


def parts_of(items: Sequence[Any], number: int) -> list[Sequence[Any]]:
    """`items` in order, cut into at most `number` parts whose lengths differ by at most one."""
    number = min(number, len(items))
    cuts = [len(items) * k // number for k in range(number + 1)] if number else [0]
    return [items[start:end] for start, end in pairwise(cuts)]


def connect() -> None:
    """Connects to the cluster at RAY_ADDRESS, or starts Ray on this machine, on loopback. A connection there is kept.

    Raises:
        ThriftyError: the cluster does not answer, or Ray cannot start.
    """
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS", "local")
    local = address == "local"
    options = LOGS | LOCAL | {"_temp_dir": str(_temporary_folder())} if local else LOGS
    if not local:
        _check_address(address)
    sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, ray.exceptions.RayError) as error:
        what = "Ray cannot start on this machine" if local else f"no Ray cluster answers at RAY_ADDRESS={address}"
        raise ThriftyError(f"{what}: {_last_line(error)}") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, sigterm)  # ray puts one of its own there


def _check_address(address: str) -> None:
    """Ray itself would knock at a closed door for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # 'auto' and the like, which Ray resolves
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ThriftyError(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({one_line(error)}); unset RAY_ADDRESS to run on this machine"
        ) from None


def machines() -> list[str]:
    """What each machine of the cluster offers."""
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sorted(f"{have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs" for have in found)


def _temporary_folder() -> Path:
    """A short path (sockets allow 107 characters), removed when this process ends: Ray itself never removes its files."""
    folder = Path(tempfile.mkdtemp(prefix="thrifty_", dir=os.environ.get("RAY_TMPDIR", "/tmp")))

    def clean() -> None:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(clean)
    return folder


def _check_resources(resources: Resources) -> None:
    """Ray would wait for ever for what no machine has."""
    cpus, gpus = resources.cpus_per_trial, resources.gpus_per_trial
    if gpus > 1 and gpus != int(gpus):
        raise ThriftyError(f"resources.gpus_per_trial is {gpus:g}: a share of one GPU (below 1) or a whole number is needed")
    offers = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(have.get("CPU", 0) >= cpus and have.get("GPU", 0) >= gpus for have in offers):
        return
    most = "; ".join(dict.fromkeys(machines()))
    raise ThriftyError(f"a trial needs {cpus} CPUs and {gpus:g} GPUs, the machines have {most}; lower resources.*_per_trial")


def _places(resources: Resources) -> int:
    """How many trials fit at once."""
    have = ray.cluster_resources()
    places = have.get("CPU", 0) // resources.cpus_per_trial
    if resources.gpus_per_trial:
        places = min(places, have.get("GPU", 0) // resources.gpus_per_trial)
    return max(1, int(places))


def _fit(function: Function, todo: Sequence[Spec], resources: Resources, run: Run, watch: _Watch) -> None:
    """One Tune trial for each spec. Tune's own tree is scratch: it lies in the run folder since all machines see that."""
    scratch = run.root / watch.stage / ".tune"
    shutil.rmtree(scratch, ignore_errors=True)
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with user_errors(run.root):
            scratch.mkdir(parents=True, exist_ok=True)
            _tuner(function, todo, resources, scratch, watch).fit()
    except (tune.TuneError, ray.exceptions.RayError, EOFError) as error:  # EOFError: Tune could not write out its own files
        raise ThriftyError(f"Ray stopped {watch.stage}: {_last_line(error)}; {GO_ON}") from None
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        shutil.rmtree(scratch, ignore_errors=True)


def _tuner(function: Function, todo: Sequence[Spec], resources: Resources, scratch: Path, watch: _Watch) -> tune.Tuner:
    retries = EXCEPTIONS if resources.max_failures < 0 else min(EXCEPTIONS, resources.max_failures)
    items = [
        {"name": s.name, "folder": str(s.trial.folder), "arguments": s.arguments, "retries": retries}
        | {"raised": str(scratch / f"raised_{place}")}
        for place, s in enumerate(todo)
    ]
    needs = {"cpu": resources.cpus_per_trial, "gpu": resources.gpus_per_trial}
    number = _number(watch)
    return tune.Tuner(
        tune.with_resources(_trainable(function), needs),
        param_space={"item": tune.grid_search(items)},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=resources.concurrent, reuse_actors=True, trial_dirname_creator=lambda trial: trial.trial_id
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(scratch),
            verbose=0,
            callbacks=[_Tell(number)],
            stop=_Stop(number),
            failure_config=tune.FailureConfig(max_failures=resources.max_failures),
        ),
    )


def _trainable(function: Function) -> Callable[[dict[str, Any]], None]:
    """What Tune runs on a worker. An error that is not to be tried again, such as a user's, is reported and not raised.

    A worker can have died between writing the result and Tune's learning of it: then there is nothing left to do.
    """

    def trainable(config: dict[str, Any]) -> None:
        item = config["item"]
        trial = Trial(Path(item["folder"]))
        try:
            with user_errors(trial.folder):
                trial.folder.mkdir(parents=True, exist_ok=True)
                for part in trial.folder.glob(".*.part"):  # left by a worker that was killed while it wrote
                    part.unlink(missing_ok=True)
                trial.error.unlink(missing_ok=True)
                if trial.done:
                    trial.checkpoint.unlink(missing_ok=True)
                else:
                    function(item["arguments"], trial, lambda row: tune.report(_plain(row)))
        except ThriftyError as error:
            tune.report({"refused": str(error)})
        except Exception as error:
            with contextlib.suppress(OSError):
                trial.error.write_text(traceback.format_exc(), encoding="utf-8")
            if _times(Path(item["raised"])) <= item["retries"]:
                raise
            tune.report({"refused": _last_line(traceback.format_exception_only(error)[-1])})

    return trainable


def _times(raised: Path) -> float:
    """How often a trial has raised in this run, this time included: the file has one byte for each."""
    try:
        with raised.open("ab") as file:
            file.write(b".")
        return raised.stat().st_size
    except OSError:
        return math.inf  # without an account it would be tried again for ever


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """The part of a record that the driver shows."""
    numbers = {key: row[key] for key in ("epoch", "seconds", *METRICS) if isinstance(row.get(key), (int, float))}
    return {**numbers, "guard": row["guard"]} if row.get("guard") else numbers


class _Watch:
    """Takes down what becomes of the trials: in the manifest and on the board."""

    def __init__(self, stage: str, trials: dict[str, Trial], manifest: Manifest, shown: Board, stopped: threading.Event) -> None:
        self.stage, self.trials, self.manifest, self.shown, self.stopped = stage, trials, manifest, shown, stopped
        self.failed: dict[str, str] = {}
        self.error: ThriftyError | None = None

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

    def result(self, name: str, row: dict[str, Any]) -> None:
        if "refused" in row:
            self.failed[name] = row["refused"]
        else:
            self.shown.progress(name, row)

    def retry(self, name: str) -> None:
        reason = _reason_in(self.trials[name])
        self.manifest.set(name, "waiting", reason)
        self.shown.retry(name, reason)

    def end(self, name: str) -> None:
        if not self.trials[name].done:
            self.fail(name, self.failed.get(name, "it ended without a result"))
            return
        self.manifest.set(name, "done")
        self.shown.finish(name, self.manifest.seconds(name))

    def lose(self, name: str) -> None:
        self.fail(name, _reason_in(self.trials[name]))

    def fail(self, name: str, reason: str) -> None:
        self.failed[name] = reason
        self.manifest.set(name, "failed", reason)
        self.shown.fail(name, reason)

    def tick(self) -> None:
        self.manifest.tick()

    def close(self) -> None:
        """What Tune left unfinished has been stopped, or has ended unseen in the last moment."""
        interrupted = self.over
        for name, trial in self.trials.items():
            if trial.done:
                self.manifest.set(name, "done")
            elif name not in self.failed:
                self.manifest.set(name, "interrupted" if interrupted else "failed", "stopped before it had a result")
                if not interrupted:
                    self.failed[name] = "stopped before it had a result"


class _Tell(tune.Callback):
    """Passes on what Tune sees. It holds its watch by number, since Tune pickles its callbacks."""

    def __init__(self, number: int) -> None:
        self.number = number

    def _tell(self, event: Callable[..., None], *arguments: Any) -> None:
        watch = _watches[self.number]
        watch.hear(event, watch, *arguments)

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._tell(_Watch.start, _name(trial))

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        self._tell(_Watch.result, _name(trial), result)

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._tell(_Watch.end, _name(trial))

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._tell(_Watch.retry, _name(trial))

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._tell(_Watch.lose, _name(trial))

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        self._tell(_Watch.tick)


class _Stop(tune.Stopper):
    """Ends Tune's run when its watch says so; asked after every step."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, trial_id: str, result: dict) -> bool:
        return False

    def stop_all(self) -> bool:
        return _watches[self.number].over


_watches: dict[int, _Watch] = {}


def _number(watch: _Watch) -> int:
    _watches.clear()
    _watches[id(watch)] = watch
    return id(watch)


def _name(trial: Any) -> str:
    return trial.config["item"]["name"]


def _reason_in(trial: Trial) -> str:
    """The last line of the exception that ended an attempt; a worker that was killed could leave none."""
    if not trial.error.is_file():
        return "its worker died (killed, or out of memory)"
    return _last_line(trial.error.read_text(encoding="utf-8"))


def _last_line(text: object) -> str:
    lines = [line for line in str(text).splitlines() if line.strip()]
    return one_line(lines[-1]) if lines else "no reason was given"


def _failures(stage: str, failed: dict[str, str], total: int) -> str:
    named = [f"{name}: {reason}" for name, reason in list(failed.items())[:5]]
    rest = [f"and {len(failed) - 5} more"] if len(failed) > 5 else []
    return f"{len(failed)} of {total} trials of {stage} failed: {'; '.join(named + rest)}; the others are kept, {GO_ON}"


@contextlib.contextmanager
def _stop_signals(shown: Board) -> Iterator[threading.Event]:
    """The first SIGINT or SIGTERM makes Tune stop after its current step, a second one ends the program at once."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # the last is one that Tune takes and does not give back
    before = {number: signal.getsignal(number) for number in numbers}

    def stop(number: int, frame: object) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()
        shown.say("stopping; finished trials and the newest checkpoints are kept")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
