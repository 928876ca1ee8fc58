"""`thrifty submit`: a study as a job of a Ray cluster, by the cluster's job server.

What is sent is the working folder, without what Ray leaves out by itself (.git, .venv, what .gitignore and .rayignore name) and
without EXCLUDES. Data and results stay where they are on the cluster.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import thrifty.surroundings  # noqa: F401  before ray
from thrifty.config import read_study
from thrifty.errors import CREDENTIALS, ThriftyError, last_line, mask, one_line
from thrifty.shelf import find_study
from thrifty.storage import is_url

EXCLUDES = ["/data", "/results", "*.egg-info", ".pytest_cache", ".ruff_cache", ".ipynb_checkpoints", "node_modules"]
LIMIT_BYTES = 100 * 2**20  # of the job server: a larger request is answered by HTTP 413
MANY_FILES = 20_000  # no further look at a folder that is surely not meant
ADDRESS = "http://127.0.0.1:8265"
CONNECT_SECONDS = 10.0
POLL_SECONDS = 1.0
NO_AGENT = "No available agent"  # as Ray says it
AGENT_SECONDS = 60.0  # for which a cluster that has just started answers, but takes no jobs yet


@dataclass(frozen=True)
class Upload:
    """The files of a working folder that a job gets, with their sizes in bytes. Ray packs them without compression."""

    folder: Path
    files: dict[Path, int]  # relative to the folder
    whole: bool  # False: there are more than MANY_FILES

    @property
    def size_bytes(self) -> int:
        return sum(self.files.values())

    @property
    def fits(self) -> bool:
        return self.whole and self.size_bytes <= LIMIT_BYTES

    def line(self) -> str:
        count = f"{len(self.files):,} files" if self.whole else f"more than {MANY_FILES:,} files"
        return f"{_mib(self.size_bytes)} in {count} of {self.folder}"

    def largest(self, number: int = 3) -> str:
        """The files and folders of the first level that weigh most."""
        weights: Counter[str] = Counter()
        for path, size in self.files.items():
            weights[path.parts[0]] += size
        return ", ".join(f"{name} ({_mib(size)})" for name, size in weights.most_common(number))


def upload_of(folder: Path, excludes: Iterable[str] | None = None) -> Upload:
    """What a job with this working folder gets, by Ray's own rules.

    Raises:
        ThriftyError: the folder cannot be read.
    """
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    root = folder.absolute()
    patterns = get_runtime_env_default_excludes() + list(_excludes(root) if excludes is None else excludes)
    files: dict[Path, int] = {}

    def take(path: Path) -> None:
        if len(files) >= MANY_FILES:
            raise OverflowError
        if path.is_file():
            files[path.relative_to(root)] = path.stat().st_size

    silent = logging.Logger("silent", logging.CRITICAL + 1)
    try:
        _dir_travel(root, [_get_excludes(root, patterns)], take, include_gitignore=True, logger=silent)
    except OverflowError:
        return Upload(root, files, whole=False)
    except OSError as error:
        raise ThriftyError(f"the working folder {root} cannot be read: {one_line(error)}; submit from another folder") from None
    return Upload(root, files, whole=True)


def upload_lines(folder: Path) -> Iterator[str]:
    """For `thrifty check`."""
    try:
        sent, by_ray = upload_of(folder), upload_of(folder, [])
    except ThriftyError as error:
        yield f"note: {error}"
        return
    yield f"upload: {sent.line()}, if it is submitted to a cluster from here (at most {_mib(LIMIT_BYTES)})"
    if not sent.fits:
        yield f"note: that is too large to submit ({sent.largest()}); name in .rayignore what a job does not need"
    elif not by_ray.fits:
        yield (
            f"note: `ray job submit --working-dir .` would send too much ({by_ray.largest()}); name in .rayignore what a job "
            "does not need, or use `thrifty submit`"
        )


def _excludes(root: Path) -> list[str]:
    """EXCLUDES, and the folders of data and results of this machine where they lie in the working folder under other names."""
    found = list(EXCLUDES)
    for variable in ("THRIFTY_DATA", "THRIFTY_RESULTS"):
        if is_url(os.environ.get(variable, "")):
            continue
        place = Path(os.environ.get(variable, root)).expanduser().absolute()
        if place != root and place.is_relative_to(root):
            found.append("/" + re.sub(r"([\\*?!#\[\] ])", r"\\\1", place.relative_to(root).as_posix()))
    return found


def _mib(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"


@dataclass(frozen=True)
class Job:
    """What is asked of a job server."""

    entrypoint: str
    runtime_env: dict[str, Any]
    metadata: dict[str, str]


def job_of(
    study: str, overrides: Iterable[str] = (), data: str | None = None, results: str | None = None, folder: Path = Path(".")
) -> Job:
    """The job that runs a study, once everything is looked at that can be without its data.

    Args:
        study: name of a shipped study, or a file in `folder`.
        data, results: THRIFTY_DATA and THRIFTY_RESULTS as they are on the cluster; None leaves what is set there.
        folder: the working folder.

    Raises:
        ThriftyError: mistakes in the study, a study that would not be sent, an upload that is too large, a URL with a password.
    """
    overrides, root = list(overrides), folder.absolute()
    path = find_study(study)
    read = read_study(path, overrides)
    upload = upload_of(root)
    if not upload.fits:
        raise ThriftyError(
            f"the upload is too large: {upload.line()}, and the job server takes {_mib(LIMIT_BYTES)}; the largest are "
            f"{upload.largest()}: name in .rayignore what a job does not need"
        )
    argument = _sent(path, upload) if path == Path(study).expanduser() else study
    if read.space.endswith((".yaml", ".yml")) and not Path(read.space).is_absolute():
        _sent(Path(read.space), upload)
    variables = {name: value for name, value in (("THRIFTY_DATA", data), ("THRIFTY_RESULTS", results)) if value is not None}
    for variable, value in variables.items():
        if CREDENTIALS.search(value):
            raise ThriftyError(f"{variable} has a user name or password in its URL; give it by the environment of the cluster")
    environment = {"working_dir": str(root), "excludes": _excludes(root), "env_vars": variables}
    entrypoint = shlex.join(["python", "-m", "thrifty", "run", argument, *overrides])
    return Job(entrypoint, environment, {"thrifty_study": read.name})


def _sent(path: Path, upload: Upload) -> str:
    """A file of a study as the job finds it. What git ignores Ray leaves out without a word."""
    whole = path.absolute()
    if not whole.is_relative_to(upload.folder):
        raise ThriftyError(f"{path} lies outside the working folder {upload.folder}, and a job gets that; submit from its folder")
    inside = Path(os.path.normpath(whole)).relative_to(upload.folder)
    if inside not in upload.files:
        raise ThriftyError(f"{path} would not be sent: .gitignore or .rayignore names it, or its folder is left out")
    return inside.as_posix()


def submit(job: Job, address: str | None = None, follow: bool = True) -> int:
    """Sends a job and follows its log, if wanted, to its end.

    Returns:
        The exit code of the study; 0 when it is not followed.

    Raises:
        ThriftyError: ray[default] is missing; no job server answers; it refused; the job was stopped, or never began.
    """
    place = address_of(address)
    client = client_of(place)
    with told(place):
        number = _handed_over(client, job)
    hint = f"`ray job logs {number}`, `ray job stop {number}`"
    print(mask(f"job {number} at {place} ({hint} with RAY_API_SERVER_ADDRESS={place})"), flush=True)
    if not follow:
        return 0
    try:
        with told(place):
            return _outcome(client, number)
    except KeyboardInterrupt:
        raise ThriftyError(f"no longer followed, the job {number} goes on: {hint}") from None


def _handed_over(client: Any, job: Job) -> str:
    """The number of the job."""
    end = time.monotonic() + AGENT_SECONDS
    while True:
        try:
            return client.submit_job(entrypoint=job.entrypoint, runtime_env=job.runtime_env, metadata=job.metadata)
        except RuntimeError as error:
            if NO_AGENT not in str(error) or time.monotonic() > end:
                raise
        time.sleep(POLL_SECONDS)


def address_of(address: str | None) -> str:
    """The job server's address: as given, or by Ray's variables, or on this machine.

    Raises:
        ThriftyError: an address of something else.
    """
    cluster = os.environ.get("RAY_ADDRESS", "")
    found = address or os.environ.get("RAY_API_SERVER_ADDRESS") or (cluster if cluster.startswith("http") else ADDRESS)
    try:
        parts = urlsplit(found)
        if parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port):
            return found.rstrip("/")
    except ValueError:  # a port that is no number
        pass
    raise ThriftyError(f"'{found}' is no address of a job server; give one like {ADDRESS}, which `ray start --head` prints")


def client_of(place: str) -> Any:
    """Ray's JobSubmissionClient of a job server.

    Raises:
        ThriftyError: ray[default] is missing, or the server does not answer.
    """
    parts = urlsplit(place)
    try:  # Ray itself would knock at a closed door for minutes
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise ThriftyError(
            f"no job server answers at {place} ({one_line(error)}); give --address, and see that the cluster runs and a tunnel "
            "leads to it (docs/cluster.md)"
        ) from None
    try:
        import aiohttp  # noqa: F401
        from ray.job_submission import JobSubmissionClient
    except ImportError:
        raise ThriftyError("submitting needs Ray's job client: pip install 'thrifty[cluster]', which is ray[default]") from None
    logging.getLogger("ray._private.runtime_env.working_dir").setLevel(logging.ERROR)  # what is left out by default
    for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private.runtime_env.packaging"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ["RAY_API_SERVER_ADDRESS"] = place  # which Ray puts above its argument
    with told(place):
        return JobSubmissionClient(place)


@contextmanager
def told(place: str) -> Iterator[None]:
    """What Ray raises, as one line."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        hint = "set RAY_AUTH_MODE=token and the cluster's token (RAY_AUTH_TOKEN_PATH)"
        raise ThriftyError(f"the job server at {place} wants a token: {one_line(error)[:120]}; {hint}") from None
    except (ConnectionError, requests.exceptions.RequestException) as error:
        raise ThriftyError(f"the job server at {place} no longer answers: {last_line(error)}") from None
    except RuntimeError as error:
        if "413" in str(error):
            advice = "name in .rayignore what a job does not need"
            raise ThriftyError(f"the upload is too large for the job server at {place}; {advice}") from None
        if NO_AGENT in str(error):
            raise ThriftyError(
                f"the cluster at {place} has had no available agent to start a job for {AGENT_SECONDS:.0f} s; where another "
                "Ray runs on its head too, start this one with --dashboard-agent-listen-port=PORT, a free one"
            ) from None
        raise ThriftyError(f"the job server at {place} refused: {one_line(error)[:300]}") from None


def _outcome(client: Any, number: str) -> int:
    import aiohttp

    try:
        asyncio.run(_follow(client, number))
    except (RuntimeError, aiohttp.ClientError) as error:
        print(f"the log of {number} broke off ({last_line(error)}); waiting for its end", file=sys.stderr, flush=True)
    while not (info := client.get_job_info(number)).status.is_terminal():
        time.sleep(POLL_SECONDS)
    if info.status == "STOPPED":
        raise ThriftyError(f"the job {number} was stopped; what had finished is kept, submit again to go on")
    if info.driver_exit_code is None and info.status == "FAILED":
        raise ThriftyError(f"the job {number} ended before thrifty could: {one_line(info.message)[:300]}")
    code = info.driver_exit_code or 0
    print(f"job {number}: exit code {code}", file=sys.stderr if code else sys.stdout, flush=True)
    return code if code >= 0 else 128 - code


async def _follow(client: Any, number: str) -> None:
    async for text in client.tail_job_logs(number):
        print(mask(text), end="", flush=True)
