"""The guard against collapse: it looks at every epoch, and says when to go back to which architecture, and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from thrifty.config import Guard as Settings

FULL = 0.15
"""A genotype that leaves less of its budget idle has its parameter-free ops because of the budget: that is no collapse."""


@dataclass(frozen=True)
class Look:
    """What the guard sees of an epoch: shares of parameter-free ops and of idle budget, the dominant eigenvalue (None: not
    measured), and the architecture parameters."""

    epoch: int
    parameter_free: float
    idle: float
    curvature: float | None
    architecture: dict[str, Tensor]


@dataclass(frozen=True)
class Action:
    """What the guard did: at the end of `epoch` it went back to the architecture of the epoch `back_to`."""

    epoch: int
    back_to: int
    reason: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class SearchGuard:
    """Remembers the last epochs of a search and acts once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.looks: list[Look] = []
        self.action: Action | None = None

    def look(self, look: Look) -> Look | None:
        """The epoch to go back to, if this one shows a collapse; `action` then says why."""
        good = [past for past in self.looks if not self._is_free(past)]
        self.looks = [*self.looks, look][-2 * self.settings.window :]
        if self._is_free(look):
            share = f"{look.parameter_free:.0%} of the ops are parameter-free with {look.idle:.0%} of the budget idle"
            return self._act(look, good[-1], share) if good else None
        if (ratio := self._ratio()) is not None and ratio < self.settings.curvature:
            before = self.looks[self.settings.window - 1]
            return self._act(
                look, before, f"the dominant eigenvalue of the Hessian has risen to {1 / max(ratio, 1e-9):.2g} times"
            )
        return None

    def _is_free(self, look: Look) -> bool:
        return look.parameter_free >= self.settings.parameter_free and look.idle > FULL

    def _ratio(self) -> float | None:
        """Mean eigenvalue of the window before the last one over that of the last one (Zela 2020, sec. 4.3)."""
        window = self.settings.window
        values = [look.curvature for look in self.looks]
        if not self.settings.curvature or len(values) < 2 * window or any(v is None for v in values):
            return None
        before, now = sum(values[:window]), sum(values[window:])  # type: ignore[arg-type]
        return before / now if now > 0 else None

    def _act(self, look: Look, back_to: Look, reason: str) -> Look:
        self.action = Action(look.epoch, back_to.epoch, reason)
        return back_to

    def state_dict(self) -> dict[str, Any]:
        looks = [vars(look) for look in self.looks]
        return {"looks": looks, "action": None if self.action is None else self.action.as_json()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.looks = [Look(**look) for look in state["looks"]]
        self.action = None if state["action"] is None else Action(**state["action"])
