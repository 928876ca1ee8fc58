"""The end of the program by SIGTERM, which a machine that is taken away sends to all its processes: to its Ray as well."""

from __future__ import annotations

import os
import sys
import threading

terminated = threading.Event()
"""Set once SIGTERM has come."""

PATIENCE_SECONDS = 5.0


def leave(code: int) -> None:
    """Ends this process at once if SIGTERM has ended its Ray too; otherwise returns.

    Ray would look for its dead processes for a minute, longer than some machines give, and then end with an exit code of its own.
    """
    connection = sys.modules.get("thrifty.trials_connect")  # not imported: it is there if Ray was started
    if terminated.is_set() and connection is not None and connection.lost(PATIENCE_SECONDS):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
