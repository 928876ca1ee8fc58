"""One driver on one remote run folder: an object `driver.lock` with process, host and a beat that goes on while the driver lives.

What it guarantees: of two drivers that start at the same time one is refused, where the store knows conditional writes (S3,
GCS); a driver that lives and reaches the storage is not pushed aside. What it does not: one that has been cut off from the
storage for longer than WATCH_SECONDS can be taken for dead. When it is back it sees at its next beat that it has been replaced,
and stops before it writes again; until then its workers may still have written into the folders of their trials.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thrifty.errors import ThriftyError, one_line
from thrifty.storage import Storage

NAME = "driver.lock"
BEAT_SECONDS = 15.0
WATCH_SECONDS = 60.0  # without a beat, after which a driver counts as dead: beats are compared, not clocks
POLL_SECONDS = 1.0


class Lock:
    """The lock while it is held. `taken_by` is set when another driver has taken it over."""

    def __init__(self, url: str) -> None:
        self.storage = Storage(url)
        self.own: dict[str, Any] = {"process": os.getpid(), "host": socket.gethostname(), "machine": _machine()}
        self.own |= {"started": _started(os.getpid()), "token": secrets.token_hex(8), "beat": 0}
        self.taken_by: str | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def check(self) -> None:
        """
        Raises:
            ThriftyError: another driver works on this run by now.
        """
        if self.taken_by is not None:
            raise ThriftyError(f"{self.storage.url} has been taken over by {self.taken_by}; this driver stops")

    def take(self) -> None:
        """
        Raises:
            ThriftyError: another driver that lives holds it.
        """
        while not self.storage.create(NAME, self._body()):
            holder = self._holder()
            if holder is None:
                continue
            if holder.get("token") == self.own["token"]:  # written by a request whose answer was lost
                break
            if not _is_dead(holder) and self._lives(holder):
                raise ThriftyError(
                    f"{self.storage.url} is in use by {_named(holder)}: wait until it has ended, or give this study another name="
                )
            if self._holder() == holder:  # otherwise another driver has found it dead as well, and replaced it
                self.storage.delete(NAME)
        if (holder := self._holder()) is None or holder.get("token") != self.own["token"]:
            raise ThriftyError(f"{self.storage.url} is in use by {_named(holder or {})}, which began at the same time")
        self._thread.start()

    def release(self) -> None:
        """Leaves the lock alone where it is another's, or where the storage is away."""
        self._end.set()
        self._thread.join(timeout=POLL_SECONDS)
        self.storage.patience = 0.0
        with contextlib.suppress(ThriftyError):
            if (self._holder() or {}).get("token") == self.own["token"]:
                self.storage.delete(NAME)

    def _lives(self, holder: dict[str, Any]) -> bool:
        """Watches whether its beat goes on."""
        if _is_alive_here(holder):
            return True
        waiting = f"waiting up to {WATCH_SECONDS:g} seconds to see whether it lives"
        print(f"the run is held by {_named(holder)}: {waiting}", file=sys.stderr, flush=True)
        end = time.monotonic() + WATCH_SECONDS
        while time.monotonic() < end:
            time.sleep(POLL_SECONDS)
            now = self._holder()
            if now is None:
                return False
            if now != holder:
                return True
        return False

    def _beat(self) -> None:
        while not self._end.wait(BEAT_SECONDS):
            with contextlib.suppress(ThriftyError):  # away: the next beat may come through
                holder = self._holder()
                if holder is None or holder.get("token") != self.own["token"]:
                    self.taken_by = _named(holder or {})
                    return
                self.own["beat"] += 1
                if not self._end.is_set():
                    self.storage.write(NAME, self._body())

    def _body(self) -> bytes:
        return json.dumps(self.own).encode()

    def _holder(self) -> dict[str, Any] | None:
        data = self.storage.read(NAME)
        if data is None:
            return None
        try:
            value = json.loads(data)
        except ValueError:
            value = {}
        return value if isinstance(value, dict) else {}


@contextlib.contextmanager
def only_driver(url: str) -> Iterator[Lock]:
    """Holds the run folder at `url`.

    Raises:
        ThriftyError: another driver holds it.
    """
    lock = Lock(url)
    lock.take()
    try:
        yield lock
    finally:
        lock.release()


def driver_is_here(url: str) -> bool:
    """Whether a living process of this machine holds the run folder at `url`."""
    found = holder_of(url)
    return found is not None and found.alive is True


@dataclass(frozen=True)
class Holder:
    """`alive` is None where it is on another machine."""

    process: int
    host: str
    alive: bool | None


def holder_of(url: str) -> Holder | None:
    """Who holds the run folder at `url`, or died with it; None: nobody, or the object is no lock."""
    found = Lock(url)._holder() or {}
    if not isinstance(found.get("process"), int):
        return None
    return Holder(found["process"], one_line(str(found.get("host", "?"))), _is_alive_here(found) if _is_here(found) else None)


def _named(holder: dict[str, Any]) -> str:
    return one_line(f"process {holder.get('process', '?')} on {holder.get('host', '?')}")[:200]


def _machine() -> str:
    """This boot of this machine, and the numbering of its processes: only there does a process number mean the same."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _is_here(holder: dict[str, Any]) -> bool:
    return bool(holder.get("machine")) and holder["machine"] == _machine()


def _is_dead(holder: dict[str, Any]) -> bool:
    return _is_here(holder) and not _is_alive_here(holder)


def _is_alive_here(holder: dict[str, Any]) -> bool:
    return _is_here(holder) and _started(holder.get("process", 0)) == holder.get("started")


def _started(process: Any) -> float | None:
    """When a process of this machine began, which tells it from a later one of the same number; None: there is none."""
    import psutil

    try:
        found = psutil.Process(int(process))
        return None if found.status() == psutil.STATUS_ZOMBIE else round(found.create_time(), 1)
    except (psutil.Error, ValueError, TypeError):
        return None
