"""The budget as constraints of the search: an augmented Lagrangian (Nocedal & Wright, Numerical Optimization, eq. 17.65).

A linear pull on the size would push towards parameter-free ops for ever, the same way as skip collapse does. A multiplier
instead grows only while its constraint is broken, and gives way when it holds. There are two: the expected size is not above
the budget, and not below a share of it. The second is there because few steps cannot show what parameters are good for: left
alone, searches drift to ops that learn fast and leave a third of the budget idle, which costs Dice after retraining.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Inequality:
    """g <= 0, by the term (max(0, m + rho g)^2 - m^2) / (2 rho) with the multiplier m."""

    def __init__(self, rho: float) -> None:
        self.rho, self.multiplier = rho, 0.0

    def term(self, g: Tensor) -> Tensor:
        """What is added to the loss, a scalar; 0 for rho = 0 (no constraint)."""
        if self.rho == 0:
            return g.new_zeros(())
        return (torch.clamp(self.multiplier + self.rho * g, min=0) ** 2 - self.multiplier**2) / (2 * self.rho)

    def update(self, g: float) -> None:
        """Moves the multiplier, after each epoch."""
        self.multiplier = max(0.0, self.multiplier + self.rho * g)


class BudgetConstraint:
    """Keeps E[parameters] between `least` and `budget`."""

    def __init__(self, budget: int, rho: float, least: float = 0.0) -> None:
        self.budget, self.least = budget, least
        self.above, self.below = Inequality(rho), Inequality(rho)

    def term(self, expected: Tensor) -> Tensor:
        """What is added to the architecture loss, a scalar."""
        share = expected / self.budget
        return self.above.term(share - 1) + self.below.term(self.least / self.budget - share)

    def update(self, expected: float) -> None:
        share = expected / self.budget
        self.above.update(share - 1)
        self.below.update(self.least / self.budget - share)

    def state_dict(self) -> dict[str, float]:
        return {"above": self.above.multiplier, "below": self.below.multiplier}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.above.multiplier, self.below.multiplier = state["above"], state["below"]
