from __future__ import annotations

import pytest
import torch

from thrifty.config import Guard
from thrifty.search.guard import Look, SearchGuard


def look(epoch: int, free: float = 0.2, idle: float = 0.4, curvature: float | None = None) -> Look:
    return Look(epoch, free, idle, curvature, {"alpha": torch.full((2,), float(epoch))})


def test_it_goes_back_to_the_last_epoch_with_ops_that_learn() -> None:
    guard = SearchGuard(Guard())
    assert [guard.look(look(e, free)) for e, free in enumerate((0.3, 0.5, 0.79))] == [None] * 3
    back_to = guard.look(look(3, 0.8))
    assert back_to is not None and back_to.architecture["alpha"].tolist() == [2, 2]
    assert guard.action is not None and (guard.action.epoch, guard.action.back_to) == (3, 2)
    assert guard.action.reason == "80% of the ops are parameter-free with 40% of the budget idle"


def test_parameter_free_ops_that_the_budget_forces_are_no_collapse() -> None:
    guard = SearchGuard(Guard())
    assert guard.look(look(0)) is None
    assert guard.look(look(1, free=1.0, idle=0.1)) is None
    assert guard.action is None


def test_a_search_that_was_never_good_has_nowhere_to_go_back_to() -> None:
    guard = SearchGuard(Guard())
    assert [guard.look(look(e, free=0.9)) for e in range(3)] == [None] * 3
    assert guard.action is None


def test_it_goes_back_before_the_eigenvalue_rose() -> None:
    """By hand: the mean of 1, 1, 1 over that of 1, 2, 3 is one half, that over 1, 1, 2 is three quarters."""
    guard = SearchGuard(Guard(curvature=0.75, window=3))
    assert [guard.look(look(e, curvature=c)) for e, c in enumerate((1.0, 1.0, 1.0, 1.0, 1.0, 1.9))] == [None] * 6
    guard = SearchGuard(Guard(curvature=0.75, window=3))
    for epoch, value in enumerate((1.0, 1.0, 1.0, 1.0, 2.0)):
        assert guard.look(look(epoch, curvature=value)) is None
    back_to = guard.look(look(5, curvature=3.0))
    assert back_to is not None and back_to.epoch == 2
    assert guard.action is not None and "has risen to 2 times" in guard.action.reason


@pytest.mark.parametrize("settings", [Guard(curvature=0), Guard(window=4)])
def test_eigenvalues_are_left_alone_when_switched_off_or_too_few(settings: Guard) -> None:
    guard = SearchGuard(settings)
    assert [guard.look(look(e, curvature=float(10**e))) for e in range(7)] == [None] * 7


def test_its_state_travels() -> None:
    first, second = SearchGuard(Guard()), SearchGuard(Guard())
    for epoch in range(4):
        first.look(look(epoch, curvature=1.0))
    second.load_state_dict(first.state_dict())
    for guard in (first, second):
        assert guard.look(look(4, free=0.9)).epoch == 3  # type: ignore[union-attr]
    assert first.action == second.action
    third = SearchGuard(Guard())
    third.load_state_dict(first.state_dict())
    assert third.action == first.action
