"""The settings of the searches: a budget with its width, levels and epochs, derived where the user gives none."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from thrifty.config import Budget, Study
from thrifty.errors import ThriftyError
from thrifty.search.relaxation import ArchitectureParameters, ExpectedParameters
from thrifty.space.cost import Costs
from thrifty.space.schema import Space

SMALLEST_GRID = 4
"""The lowest level of a network should see at least so many pixels a side of a training patch."""


@dataclass(frozen=True)
class Setting:
    """One budget setting. `budget` in parameters, `width` in channels."""

    budget: int
    width: int
    levels: int
    epochs: int

    @property
    def key(self) -> str:
        return f"b{self.budget}_w{self.width}_d{self.levels}_e{self.epochs}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def derive_levels(space: Space, patch: tuple[int, int]) -> int:
    """The most levels, up to the space's own, with which the lowest level still sees 4x4 pixels of a patch."""
    levels = space.levels
    while levels > 2 and min(patch) // 2**levels < SMALLEST_GRID:
        levels -= 1
    return levels


def expected_at_uniform(costs: Costs) -> float:
    """E[parameters] when every op, pair and gate is equally likely."""
    architecture = ArchitectureParameters(costs.space, costs.levels)
    with torch.no_grad():
        for parameter in architecture.parameters():
            parameter.zero_()
        return float(ExpectedParameters(costs)(architecture))


def derive_width(space: Space, levels: int, channels: int, classes: int, budget: int) -> int:
    """The largest width of the space at which an undecided search expects at most the budget.

    So the budget lies in the middle of what that width can build, and a search can trade ops and nodes in both directions.

    Raises:
        ThriftyError: not even the smallest width has a network within the budget; names that size.
    """
    fitting = None
    for width in space.width_choices():
        costs = Costs(space, width, levels, channels, classes)
        if expected_at_uniform(costs) > budget:
            break
        fitting = width
    if fitting is None:
        fitting = space.widths.smallest
        Costs(space, fitting, levels, channels, classes).check_budget(budget)
    return fitting


def settle(study: Study, space: Space, budget: Budget, channels: int, classes: int) -> Setting:
    """The complete setting of one entry of `budgets`."""
    levels = budget.levels or derive_levels(space, study.data.patch_size)
    if levels > space.levels:
        raise ThriftyError(f"a budget asks for {levels} levels, the space '{space.name}' has at most {space.levels}")
    width = budget.width or derive_width(space, levels, channels, classes, budget.parameters)
    Costs(space, width, levels, channels, classes).check_budget(budget.parameters)
    return Setting(budget.parameters, width, levels, budget.epochs or study.search.epochs)


def settings_of(study: Study, space: Space, channels: int, classes: int) -> list[Setting]:
    """All settings of a study, in its order.

    Raises:
        ThriftyError: a budget below the smallest network, or the same setting twice.
    """
    settings = [settle(study, space, budget, channels, classes) for budget in study.budgets]
    if len(set(settings)) < len(settings):
        raise ThriftyError("two entries of 'budgets' come to the same setting; remove one or give it another width or levels")
    return settings
