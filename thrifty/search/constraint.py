"""The budget as a constraint of the search: an augmented Lagrangian (Nocedal & Wright, Numerical Optimization, eq. 17.65).

A linear pull on the size would push towards parameter-free ops for ever, the same way as skip collapse does. The multiplier
instead grows only while the expected size is above the budget, and gives way when it is below.
"""

from __future__ import annotations

import torch
from torch import Tensor


class BudgetConstraint:
    """Keeps E[parameters] <= budget. With g = E / budget - 1 the term is (max(0, m + rho g)^2 - m^2) / (2 rho)."""

    def __init__(self, budget: int, rho: float) -> None:
        self.budget, self.rho, self.multiplier = budget, rho, 0.0

    def term(self, expected: Tensor) -> Tensor:
        """What is added to the architecture loss, a scalar; 0 for rho = 0 (no constraint)."""
        if self.rho == 0:
            return expected.new_zeros(())
        excess = expected / self.budget - 1
        return (torch.clamp(self.multiplier + self.rho * excess, min=0) ** 2 - self.multiplier**2) / (2 * self.rho)

    def update(self, expected: float) -> None:
        """Moves the multiplier, after each epoch."""
        self.multiplier = max(0.0, self.multiplier + self.rho * (expected / self.budget - 1))
