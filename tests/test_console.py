"""What the driver shows: plain lines that do not flood, a table with times left that can be worked out by hand."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from thrifty.console import Best, Board, board, format_metrics, format_seconds


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make_board(**epochs: int) -> tuple[Board, Clock, io.StringIO]:
    clock, file = Clock(), io.StringIO()
    return Board("search", epochs, 0, file, clock), clock, file


def test_plain_lines_come_at_most_every_ten_seconds() -> None:
    shown, clock, file = make_board(a=100)
    shown.start("a")
    for epoch in range(100):
        clock.now += 1
        shown.progress("a", {"epoch": epoch, "seconds": 1.0, "dice": 0.5})
    shown.finish("a", 100.0)
    lines = file.getvalue().splitlines()
    assert lines[0] == "search a: starts"
    assert lines[-1] == "search a: done after 1 min 40 s dice 0.500 (1 of 1 done)"
    assert lines[1] == "search a: epoch 10/100 dice 0.500 about 1 min 30 s left"
    assert len(lines) == 12


def test_what_the_guard_did_is_said_at_once() -> None:
    shown, clock, file = make_board(a=10)
    shown.start("a")
    shown.progress("a", {"epoch": 0, "dice": 0.5})
    clock.now = 1.0
    shown.progress("a", {"epoch": 1, "dice": 0.5, "guard": "back to the architecture of epoch 0, which stays: why"})
    assert file.getvalue().splitlines()[-1] == "search: a: epoch 2: back to the architecture of epoch 0, which stays: why"


def test_time_left_is_work_left_over_trials_at_once() -> None:
    shown, clock, _ = make_board(a=10, b=10, c=10)
    assert shown.eta() is None
    shown.start("a")
    shown.start("b")
    clock.now = 2.0
    shown.progress("a", {"epoch": 0, "seconds": 2.0})
    shown.progress("b", {"epoch": 0, "seconds": 2.0})
    assert shown.eta() == pytest.approx((9 + 9 + 10) * 2.0 / 2)
    shown.finish("a", 20.0)
    shown.fail("b", "no")
    clock.now = 60.0
    assert shown.eta() == pytest.approx(20.0), "only c is left, at the mean pace of the others"
    shown.finish("c", 20.0)
    assert shown.eta() == 0.0


def test_a_resumed_trial_is_timed_by_its_own_attempt() -> None:
    shown, clock, file = make_board(a=10)
    shown.start("a")
    clock.now = 1.0
    shown.progress("a", {"epoch": 0, "seconds": 1.0})
    shown.retry("a", "its worker died")
    clock.now = 100.0
    shown.start("a")
    clock.now = 103.0
    shown.progress("a", {"epoch": 5, "seconds": 1.0})
    assert shown.lines["a"].pace == pytest.approx(1.0)
    assert "search a: goes on" in file.getvalue() and "is tried again: its worker died" in file.getvalue()


def test_a_terminal_gets_a_table_and_nothing_of_a_trial_is_read_as_markup() -> None:
    shown, clock, _ = make_board(**{"b[red]30000": 4, "waits": 4})
    shown.start("b[red]30000")
    clock.now = 3.0
    shown.progress("b[red]30000", {"epoch": 0, "seconds": 3.0, "dice": 0.81234, "parameters": 29500})
    out = io.StringIO()
    Console(file=out, width=120).print(shown)
    text = out.getvalue()
    assert "search: 0 of 2 done, about 21 s left" in text
    assert "b[red]30000" in text and "1/4" in text and "dice 0.812  parameters 29,500" in text and "waiting" in text


def test_a_live_table_shows_failures_above_it() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    with board("retrain", {"unet/seed_0": 1}, done=2, file=out) as shown:
        shown.start("unet/seed_0")
        shown.fail("unet/seed_0", "the loss is [not] finite")
    assert "unet/seed_0: failed: the loss is [not] finite" in out.getvalue()
    assert "2 of 3 done" in out.getvalue()


def test_a_long_list_shows_what_runs_rather_than_what_waits() -> None:
    shown, _, _ = make_board(**{f"t{i}": 1 for i in range(100)})
    shown.start("t90")
    shown.fail("t95", "no")
    names = [line.name for line in shown._worth_showing(10)]
    assert len(names) == 10 and {"t90", "t95"} <= set(names) and names == sorted(names, key=lambda name: int(name[1:]))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3600, "1 h 00 min"),
        (7620, "2 h 07 min"),
        (-3, "0 s"),
    ],
)
def test_seconds_are_readable(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_the_best_dice_by_budget_is_shown_in_a_log_once_a_minute() -> None:
    clock, file = Clock(), io.StringIO()
    budgets = {"a": "10,000", "b": "10,000", "u": "unet"}
    earlier = [Best("10,000", "before", 0.7), Best("30,000", "large", 0.8)]
    shown = Board("retrain", {"a": 100, "b": 100, "u": 100}, 2, file, clock, budgets, earlier)
    for name in ("a", "u"):
        shown.start(name)
    for epoch in range(70):
        clock.now += 1
        shown.progress("a", {"epoch": epoch, "seconds": 1.0, "dice": 0.75 if epoch == 10 else 0.5})
        shown.progress("u", {"epoch": epoch, "seconds": 1.0, "dice": None})
    (line,) = [line for line in file.getvalue().splitlines() if line.startswith("retrain: ")]
    assert line == (
        "retrain: 2 of 5 done, 2 running; best Dice so far by budget: 10,000: 0.750 (a), 30,000: 0.800 (large); "
        "about 1 min 40 s left"
    ), "after a minute: the third one has 100 epochs of a second to go, more than half of what all have"
    shown.finish("a", 100.0, 0.72)
    assert shown.best()[0] == Best("10,000", "a", 0.72), "its result takes the place of its epochs"
    shown.finish("a", 100.0, 0.6)
    assert shown.best()[0] == Best("10,000", "before", 0.7)
    out = io.StringIO()
    Console(file=out, width=120).print(shown)
    assert "best Dice so far by budget: 10,000: 0.700 (before)" in out.getvalue() and "━" in out.getvalue()


def test_only_known_metrics_are_shown() -> None:
    assert (
        format_metrics({"loss": 1.0, "dice": None, "parameters": 1200.4, "other": 5, "flag": True})
        == "parameters 1,200  loss 1.000"
    )
