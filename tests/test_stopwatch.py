from __future__ import annotations

import pytest

from thrifty.stopwatch import Stopwatch


def test_a_part_does_not_count_the_parts_within_it() -> None:
    ticks = iter([0.0, 1.0, 4.0, 6.0, 100.0, 101.5])
    settled = []
    stopwatch = Stopwatch(True, lambda: settled.append(None), lambda: next(ticks))
    with stopwatch("step"), stopwatch("data"):  # step from 0, data from 1 to 4, step again to 6
        pass
    with pytest.raises(ValueError, match="stopped"), stopwatch("data"):
        raise ValueError("stopped")
    assert stopwatch.seconds == {"step": 3.0, "data": 4.5}
    assert stopwatch.times == {"step": 1, "data": 2}
    assert len(settled) == 6


def test_one_that_is_off_looks_at_no_clock() -> None:
    stopwatch = Stopwatch(clock=lambda: pytest.fail("asked"))
    with stopwatch("step"):
        pass
    assert stopwatch.seconds == {}
