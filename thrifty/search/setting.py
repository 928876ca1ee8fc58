"""The settings of the searches: a budget with its width, levels and epochs, derived where the user gives none."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from thrifty.config import Budget, Study
from thrifty.data.report import most_levels
from thrifty.errors import ThriftyError
from thrifty.search.expected import ExpectedParameters
from thrifty.search.relaxation import ArchitectureParameters
from thrifty.space.cost import Costs
from thrifty.space.schema import Space


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
    return min(space.levels, most_levels(patch))


def expected_at_uniform(costs: Costs) -> float:
    """E[parameters] when every op, pair and gate is equally likely."""
    architecture = ArchitectureParameters(costs.space, costs.levels)
    with torch.no_grad():
        for parameter in architecture.parameters():
            parameter.zero_()
        return float(ExpectedParameters(costs)(architecture))


def derive_width(space: Space, levels: int, channels: int, classes: int, budget: int, partial: int = 1) -> int:
    """The largest width of the space at which an undecided search expects at most the budget; a multiple of `partial`.

    So the budget lies in the middle of what that width can build, and a search can trade ops and nodes in both directions.

    Raises:
        ThriftyError: not even the smallest width has a network within the budget; names that size.
    """
    fitting = None
    choices = [width for width in space.width_choices() if width % partial == 0]
    if not choices:
        raise ThriftyError(f"no width of the space '{space.name}' is a multiple of search.partial={partial}; set it to 1")
    for width in choices:
        costs = Costs(space, width, levels, channels, classes)
        if expected_at_uniform(costs) > budget:
            break
        fitting = width
    if fitting is None:
        fitting = choices[0]
        Costs(space, fitting, levels, channels, classes).check_budget(budget)
    return fitting


def settle(study: Study, space: Space, budget: Budget, channels: int, classes: int) -> Setting:
    """The complete setting of one entry of `budgets`."""
    levels = budget.levels or derive_levels(space, study.data.patch_size)
    if levels > space.levels:
        raise ThriftyError(f"a budget asks for {levels} levels, the space '{space.name}' has at most {space.levels}")
    partial = study.search.partial
    width = budget.width or derive_width(space, levels, channels, classes, budget.parameters, partial)
    if partial > 1 and (width % partial or len(set(space.frame.widths(width, levels))) > 1):
        raise ThriftyError(
            f"search.partial={partial} needs one width on all rows that is a multiple of {partial}; the budget of "
            f"{budget.parameters:,} has {list(space.frame.widths(width, levels))}; give another width, or set search.partial=1"
        )
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
