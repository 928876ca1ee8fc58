"""Signals that stop a driver: the first one cleanly, the second one at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from thrifty.console import Board
from thrifty.ending import terminate


@contextlib.contextmanager
def stop_signals(shown: Board) -> Iterator[threading.Event]:
    """The first SIGINT or SIGTERM makes Tune stop after its current step, a second one ends the program at once."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # the last is one that Tune takes and does not give back
    before = {number: signal.getsignal(number) for number in numbers}

    def stop(number: int, frame: object) -> None:
        if number == signal.SIGTERM:
            terminate()
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
