"""The end of the program by SIGTERM, which a machine that is taken away sends to all its processes: to its Ray as well.

Without its processes Ray waits a minute for them, longer than some machines give, and then ends the program with an exit code of
its own. There is nothing to wait for: its workers are gone, and what they kept is on disk.
"""

from __future__ import annotations

import os
import sys
import threading
import time

from thrifty.errors import USER_ERROR

INTERRUPTED = "interrupted; what had finished is kept, run the same command to go on"
PATIENCE_SECONDS = 5.0  # for Ray to die of the same signal
GRACE_SECONDS = 10.0  # for the program to end by itself then

_terminated = threading.Event()


def terminate() -> None:
    """To be called when SIGTERM comes."""
    if not _terminated.is_set():
        _terminated.set()
        threading.Thread(target=_end_without_ray, daemon=True).start()


def leave(code: int) -> None:
    """Ends this process at once if SIGTERM has ended its Ray too; otherwise returns."""
    if _terminated.is_set() and _ray_is_lost():
        _end(code)


def _end_without_ray() -> None:
    """Ends the program where it does not come to its end."""
    if _ray_is_lost():
        time.sleep(GRACE_SECONDS)
        print(f"error: {INTERRUPTED}", file=sys.stderr)
        _end(USER_ERROR)


def _ray_is_lost() -> bool:
    connection = sys.modules.get("thrifty.trials_connect")  # not imported: it is there if Ray was started
    return connection is not None and connection.lost(PATIENCE_SECONDS)


def _end(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
