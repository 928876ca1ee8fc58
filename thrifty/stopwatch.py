"""Where the time of a program goes: seconds of named parts, each without those of the parts within it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopwatch:
    """`with stopwatch("data"):` adds to the seconds of 'data'; one that is off measures nothing and costs next to nothing.

    `settle` is called at every border, so that what was only begun there is counted where it belongs (a GPU's work).
    """

    def __init__(
        self, on: bool = False, settle: Callable[[], None] = lambda: None, clock: Callable[[], float] = time.perf_counter
    ):
        self.on, self._settle, self._clock = on, settle, clock
        self.seconds: dict[str, float] = {}
        self.times: dict[str, int] = {}
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        if not self.on:
            yield
            return
        self._turn()
        self._open.append(part)
        self.times[part] = self.times.get(part, 0) + 1
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def _turn(self) -> None:
        """Gives the time since the last border to the innermost part that is open."""
        self._settle()
        now = self._clock()
        if self._open:
            self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now
