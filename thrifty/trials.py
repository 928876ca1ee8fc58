"""Runs trial functions on Ray Tune: retries, resumes, stops cleanly. The parts that are no one else's are in `trials_*.py`.

A trial function is a plain function `(arguments, trial, report) -> None`. It resumes from the newest checkpoint in its own
trial folder, and writes `trial.result` last, atomically. So a retry is to call it again, and a study is restored by running
what has no result yet: Tune's own state is never read back. A trial with `pause` ends there, without a result.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from thrifty.config import Resources
from thrifty.console import board
from thrifty.copies import forgotten
from thrifty.environment import versions_that_must_agree
from thrifty.errors import ThriftyError, last_line
from thrifty.failures import bear
from thrifty.manifest import Manifest, only_driver
from thrifty.progress import best_before, budgets_of
from thrifty.results import Run, Trial, user_errors
from thrifty.trials_connect import connect, machines, ray, tune
from thrifty.trials_limits import GO_ON, Limits
from thrifty.trials_share import Share, share_of
from thrifty.trials_signals import stop_signals
from thrifty.trials_trackers import check_trackers, trackers_of
from thrifty.trials_watch import Stop, Tell, Watch, number_of
from thrifty.trials_worker import Function, check_versions, make_trainable

__all__ = ["Spec", "connect", "machines", "map_batches", "run_trials"]

EXCEPTIONS = 3  # retries of a trial whose function raises, if max_failures allows as many
WHOLE = ("retrain", "evaluate")  # stages that give all their trials at once
PARTS = 2  # tasks for each place, when many items are to be done


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
        ThriftyError: another process works on this run; more CPUs or GPUs are asked for than any machine has; more trials failed
            than `max_failed_trials` (each named with its reason); the disk is full; the hours of the study are used up; the run
            was interrupted. All finished trials are kept.
    """
    with only_driver(run):
        _run_trials(stage, function, specs, resources, run)


def _run_trials(stage: str, function: Function, specs: Sequence[Spec], resources: Resources, run: Run) -> None:
    manifest = Manifest(run, stage, resources)
    for spec in specs:
        manifest.add(spec.name, spec.trial, spec.arguments, spec.epochs)
    if stage in WHOLE:
        manifest.drop_failed_but({spec.name for spec in specs})
    manifest.write()
    todo = [spec for spec in specs if not spec.trial.settled]
    if not todo:
        return
    limits = Limits(run, resources, manifest)
    if exceeded := limits.exceeded():
        raise ThriftyError(exceeded)
    check_trackers(resources, run)
    connect()
    _check_resources(resources)
    epochs = {spec.name: spec.epochs for spec in todo}
    arguments = {spec.name: spec.arguments for spec in specs}
    budgets = budgets_of(run, arguments)
    shows = {"budgets": budgets, "earlier": best_before(((s.name, s.trial) for s in specs if s.trial.done), budgets)}
    with (
        board(stage, epochs, len(specs) - len(todo), **shows) as shown,
        trackers_of(run, stage, arguments, resources, shown.say) as trackers,
        stop_signals(shown) as stopped,
    ):
        watch = Watch({spec.name: spec.trial for spec in todo}, manifest, limits, shown, stopped, trackers)
        watch.hear(_fit, function, todo, resources, run, watch)
        watch.hear(watch.close)
    if watch.error is not None:
        raise watch.error
    if stopped.is_set():
        done = sum(spec.trial.settled for spec in specs)
        raise ThriftyError(f"interrupted: {done} of {len(specs)} trials of {stage} are done; {GO_ON}")
    if watch.failed:
        bear(stage, watch.failed, len(specs), resources, run)


def map_batches(function: Callable[[dict[str, Any]], Any], items: Sequence[dict[str, Any]], resources: Resources) -> list[Any]:
    """`[function(item) for item in items]` on the workers, in order; items of a worker that died are done again.

    Several items make a task, so many that each place has PARTS tasks: few enough to cost little, and enough that no place
    waits long for the last one. What `function` keeps in its module, such as loaded weights, it finds again in the next task.
    After an error the few tasks in flight end by themselves: `ray.cancel` can abort the whole program (a race in Ray).

    Raises:
        ThriftyError: of the function, as it was raised there; a worker has other versions than this driver; or workers died
            more often than `max_failures`.
    """
    if not items:
        return []
    connect()
    _check_resources(resources)
    places = min(_places(resources), resources.concurrent or len(items))
    needs: dict[str, Any] = {"num_cpus": resources.cpus_per_trial, "num_gpus": resources.gpus_per_trial}
    # max_calls: by default a worker with a GPU ends after one task, and with it all that it has loaded.
    remote = ray.remote(**needs, max_retries=resources.max_failures, max_calls=0)(_all)
    versions = versions_that_must_agree()
    share = share_of(Path(items[0]["run"])) if "run" in items[0] else None
    limit, refs, waiting = resources.concurrent or 2 * places, [], []
    try:
        for part in parts_of(items, PARTS * places):
            if len(waiting) >= limit:
                ready, waiting = ray.wait(waiting)
                ray.get(ready)
            refs.append(remote.remote(function, part, versions, share))
            waiting.append(refs[-1])
        return [value for found in ray.get(refs) for value in found]
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ThriftyError):
            raise ThriftyError(str(error.cause)) from None
        raise
    except ray.exceptions.RayError as error:
        tried = f"and {resources.max_failures} retries did not help ({type(error).__name__})"
        raise ThriftyError(f"a worker died (killed, or out of memory), {tried}; {GO_ON}") from None


def _all(
    function: Callable[[dict[str, Any]], Any], items: Sequence[dict[str, Any]], versions: dict[str, str], share: Share | None
) -> list[Any]:
    check_versions(versions)
    if share is None:
        return [function(item) for item in items]
    share.bring()
    return [function(share.moved(item)) for item in items]


def parts_of(items: Sequence[Any], number: int) -> list[Sequence[Any]]:
    """`items` in order, cut into at most `number` parts whose lengths differ by at most one."""
    number = min(number, len(items))
    cuts = [len(items) * k // number for k in range(number + 1)] if number else [0]
    return [items[start:end] for start, end in pairwise(cuts)]


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


def _fit(function: Function, todo: Sequence[Spec], resources: Resources, run: Run, watch: Watch) -> None:
    """One Tune trial for each spec. Tune's own tree is scratch: it lies in the run folder since all machines see that. Where they
    do not, Tune writes it here alone: workers need it for Tune's checkpoints, and trials have none of those."""
    scratch = run.root / watch.manifest.stage / ".tune"
    shutil.rmtree(scratch, ignore_errors=True)
    forgotten(scratch)
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with user_errors(run.root):
            scratch.mkdir(parents=True, exist_ok=True)
            _tuner(function, todo, resources, scratch, watch).fit()
    except (tune.TuneError, ray.exceptions.RayError, EOFError) as error:  # EOFError: Tune could not write out its own files
        raise ThriftyError(f"Ray stopped {watch.manifest.stage}: {last_line(error)}; {GO_ON}") from None
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        shutil.rmtree(scratch, ignore_errors=True)
        forgotten(scratch)


def _tuner(function: Function, todo: Sequence[Spec], resources: Resources, scratch: Path, watch: Watch) -> tune.Tuner:
    retries = EXCEPTIONS if resources.max_failures < 0 else min(EXCEPTIONS, resources.max_failures)
    shared = {"retries": retries, "keep": resources.keep, "versions": versions_that_must_agree()}
    shared |= {"tensorboard": resources.tensorboard}
    items = [
        {"name": s.name, "folder": str(s.trial.folder), "arguments": s.arguments, **shared}
        | {"raised": str(scratch / f"of_{place}" / "raised"), "overtime": str(scratch / f"of_{place}" / "overtime")}
        | {"trial_hours": resources.trial_hours, "seconds_left": _seconds_left(resources, watch.manifest.seconds(s.name))}
        for place, s in enumerate(todo)
    ]
    needs = {"cpu": resources.cpus_per_trial, "gpu": resources.gpus_per_trial}
    number = number_of(watch)
    trainable, share = make_trainable(function), share_of(watch.manifest.run.root, transfer=watch.manifest.stage == "evaluate")
    if share is not None:
        trainable = tune.with_parameters(trainable, share=share)
    return tune.Tuner(
        tune.with_resources(trainable, needs),
        param_space={"item": tune.grid_search(items)},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=resources.concurrent, reuse_actors=True, trial_dirname_creator=lambda trial: trial.trial_id
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(scratch),
            verbose=0,
            callbacks=[Tell(number)],
            stop=Stop(number),
            failure_config=tune.FailureConfig(max_failures=resources.max_failures),
        ),
    )


def _seconds_left(resources: Resources, used: float) -> float | None:
    return None if resources.trial_hours is None else 3600 * resources.trial_hours - used
