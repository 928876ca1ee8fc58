"""`thrifty status`: how far a run or a job of a cluster is. It reads and writes nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thrifty.config import results_folder, results_url
from thrifty.console import format_best, format_seconds
from thrifty.copies import has_run, reading
from thrifty.errors import ThriftyError, mask, one_line
from thrifty.progress import STATES, Driver, Progress, StageProgress, progress_of
from thrifty.storage import clean_url, is_url, working_copy

LISTED = 8  # running trials, failures, jobs
LOG_LINES = 10


def run_status(what: str) -> Progress:
    """Of a run folder or its URL, or of a study by its name or file.

    Raises:
        ThriftyError: no such folder, or it is no run folder.
    """
    root, url = place_of(what)
    with reading(root, url) as begun:
        if not begun:
            raise ThriftyError(
                f"{url} is no run folder: there is no run.yaml; give the URL of a run, as s3://bucket/prefix/STUDY"
            )
        return progress_of(root)


def place_of(what: str) -> tuple[Path, str | None]:
    """The run folder, and its URL where it has one.

    Raises:
        ThriftyError: neither a folder nor a study that has begun.
    """
    if is_url(what):
        url = clean_url(what)
        return working_copy(url), url
    path = Path(what).expanduser()
    if path.is_dir():
        return path, None
    from thrifty.shelf import find_study, resolve_study

    if path.name == what and _has_begun(what):
        return results_folder(what), results_url(what)
    try:
        study = resolve_study(str(find_study(what)), ())
    except ThriftyError as error:
        given = os.environ.get("THRIFTY_RESULTS", "")
        below = clean_url(given) if is_url(given) else results_folder(".")
        raise ThriftyError(
            f"'{what}' is neither a run folder nor that of a run below {below} (THRIFTY_RESULTS): {error}"
        ) from None
    root, url = results_folder(study.name), results_url(study.name)
    if not _has_begun(study.name):
        raise ThriftyError(f"the study {study.name} has not begun: there is no {url or root}; `thrifty run {what}` begins it")
    return root, url


def _has_begun(study: str) -> bool:
    url = results_url(study)
    return results_folder(study).is_dir() if url is None else has_run(url)


def text_of(found: Progress) -> Iterator[str]:
    over = all(stage.state == "done" for stage in found.stages)
    yield f"study {found.study}: {'finished' if over and not found.driver.alive else _driver(found.driver)}"
    for stage in found.stages:
        yield from _stage(stage)
    yield f"hours so far: {found.cpu_hours:.2f} CPU-hours, {found.gpu_hours:.2f} GPU-hours"


def _driver(driver: Driver) -> str:
    ago = "" if driver.seconds is None else f", last written {format_seconds(driver.seconds)} ago"
    if driver.state == "running":
        return f"a driver runs trials (process {driver.process}{ago})"
    if driver.state == "idle":
        return f"its driver is alive (process {driver.process}{ago}) and runs no trials at the moment"
    if driver.state == "elsewhere":
        return f"its driver was process {driver.process} on {driver.host}, which cannot be seen from here{ago}"
    if driver.state == "none":
        return "no driver has run trials yet"
    return f"no driver is alive{ago}; `thrifty run` with the same study goes on where it stopped, if anything is left"


def _stage(stage: StageProgress) -> Iterator[str]:
    counts = [f"{number} {state}" for state in STATES if (number := stage.count(state))]
    scored = [f"{stage.scored} candidates scored"] if stage.scored else []
    total = [f"{len(stage.trials)} trials: {', '.join(counts)}"] if stage.trials else []
    eta = [f"about {format_seconds(stage.eta_seconds)} left"] if stage.eta_seconds is not None else []
    yield f"{stage.stage}: " + "; ".join([stage.state, *scored, *total, *eta])
    if best := format_best(stage.best):
        yield f"  {best}"
    running = [trial for trial in stage.trials if trial.status == "running"]
    for trial in running[:LISTED]:
        dice = "" if trial.dice is None else f", dice {trial.dice:.3f}"
        yield f"  {trial.name}: epoch {trial.done}/{trial.epochs}{dice}"
    failed = [trial for trial in stage.trials if trial.status == "failed"]
    for trial in failed[:LISTED]:
        yield f"  {trial.name}: failed: {one_line(trial.error)}"
    if (more := max(0, len(running) - LISTED) + max(0, len(failed) - LISTED)) > 0:
        yield f"  and {more} more"


def job_status(address: str | None, number: str | None) -> dict[str, Any]:
    """Of a job of a cluster, or without its number of all jobs that thrifty has submitted there, the newest first.

    Raises:
        ThriftyError: no job server answers, or it knows no such job.
    """
    from thrifty.submit import address_of, client_of, told

    place = address_of(address)
    client = client_of(place)
    with told(place):
        jobs = sorted(client.list_jobs(), key=lambda job: job.start_time or 0, reverse=True)
        if number is None:
            ours = [job for job in jobs if "thrifty" in (job.entrypoint or "")]
            return {"address": mask(place), "jobs": [_job(job) for job in ours[:LISTED]]}
        found = [job for job in jobs if number in (job.submission_id, job.job_id)]
        if not found:
            known = ", ".join(str(job.submission_id) for job in jobs[:LISTED]) or "none"
            raise ThriftyError(f"the job server at {place} knows no job '{number}'; it has {known}")
        log = client.get_job_logs(found[0].submission_id) if found[0].submission_id else ""
    lines = [mask(line) for line in log.splitlines() if line.strip()]
    return {"address": mask(place), **_job(found[0]), "log": lines[-LOG_LINES:]}


def _job(job: Any) -> dict[str, Any]:
    return {
        "job": job.submission_id or job.job_id,
        "study": (job.metadata or {}).get("thrifty_study"),
        "state": str(getattr(job.status, "value", job.status)).lower(),
        "exit_code": job.driver_exit_code,
        "seconds": None if not job.start_time else (job.end_time or 1e3 * time.time()) / 1e3 - job.start_time / 1e3,
        "message": mask(job.message or ""),
    }


def job_text(found: dict[str, Any]) -> Iterator[str]:
    if "jobs" in found:
        yield from map(_job_line, found["jobs"]) if found["jobs"] else ["no job of thrifty's is known there"]
        return
    yield _job_line(found)
    yield from (f"  {line}" for line in found["log"])


def _job_line(job: dict[str, Any]) -> str:
    study = f" (study {job['study']})" if job["study"] else ""
    code = "" if job["exit_code"] is None else f", exit code {job['exit_code']}"
    since = "" if job["seconds"] is None else f", {format_seconds(job['seconds'])}"
    return f"job {job['job']}{study}: {job['state']}{code}{since}"
