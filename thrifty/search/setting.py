"""The settings of the searches: a budget with its width, levels and epochs, derived where the user gives none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from thrifty.config import Budget, Study
from thrifty.data.report import most_levels
from thrifty.errors import ThriftyError
from thrifty.search.expected import ExpectedCost
from thrifty.search.relaxation import ArchitectureParameters
from thrifty.space.cost import Costs
from thrifty.space.path import Depth
from thrifty.space.schema import Space


@dataclass(frozen=True)
class Setting:
    """One budget setting. `budget` in parameters, `width` in channels.

    Without a limit (`bounded` False) the budget is the size of the largest network of that width and levels. Where the depth is
    searched `levels` is the most that a network may have.
    """

    budget: int
    width: int
    levels: int
    epochs: int
    bounded: bool = True

    @property
    def key(self) -> str:
        return f"b{self.budget}_w{self.width}_d{self.levels}_e{self.epochs}"

    def trial(self, seed: int) -> str:
        """The name of its search with a seed."""
        return f"{self.key}_s{seed}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def derive_levels(space: Space, patch: tuple[int, int]) -> int:
    """The most levels, up to the space's own, with which the lowest level still sees 4x4 pixels of a patch."""
    return min(space.levels, most_levels(patch))


def expected_at_uniform(costs: Costs) -> float:
    """E[parameters] when every op, pair, gate and depth is equally likely."""
    architecture = ArchitectureParameters(costs.space, costs.levels, depth=costs.depth)
    with torch.no_grad():
        for parameter in architecture.parameters():
            parameter.zero_()
        return float(ExpectedCost(costs)(architecture))


def derive_width(
    space: Space, levels: int, channels: int, classes: int, budget: int, partial: int = 1, depth: Depth = "fixed"
) -> int:
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
        costs = Costs(space, width, levels, channels, classes, depth=depth)
        if expected_at_uniform(costs) > budget:
            break
        fitting = width
    if fitting is None:
        fitting = choices[0]
        Costs(space, fitting, levels, channels, classes, depth=depth).check_budget(budget)
    return fitting


def settle(study: Study, space: Space, budget: Budget, channels: int, classes: int) -> Setting:
    """The complete setting of one entry of `budgets`."""
    levels = budget.levels or derive_levels(space, study.data.patch_size)
    if levels > space.levels:
        raise ThriftyError(f"a budget asks for {levels} levels, the space '{space.name}' has at most {space.levels}")
    partial, depth = study.search.partial, study.search.depth
    width = budget.width
    if width is None:
        assert budget.parameters is not None  # a budget has one of the two
        width = derive_width(space, levels, channels, classes, budget.parameters, partial, depth)
    if width % partial or not space.frame.fits_partial(width, levels, partial):
        raise ThriftyError(
            f"search.partial={partial} needs one width on all rows that is a multiple of {partial}; "
            f"{budget.label} has {list(space.frame.widths(width, levels))}; give another width, or set search.partial=1"
        )
    costs, epochs = Costs(space, width, levels, channels, classes, depth=depth), budget.epochs or study.search.epochs
    if budget.parameters is None:
        return Setting(costs.largest(), width, levels, epochs, bounded=False)
    costs.check_budget(budget.parameters)
    return Setting(budget.parameters, width, levels, epochs)


def settings_of(study: Study, space: Space, channels: int, classes: int) -> list[Setting]:
    """All settings of a study, in its order.

    Raises:
        ThriftyError: a budget below the smallest network, or the same setting twice.
    """
    settings = [settle(study, space, budget, channels, classes) for budget in study.budgets]
    if len({setting.key for setting in settings}) < len(settings):
        raise ThriftyError("two entries of 'budgets' come to the same setting; remove one or give it another width or levels")
    return settings


def by_budget(settings: Iterable[Setting]) -> dict[int, Setting]:
    """The first setting of every budget, the smallest budget first."""
    first: dict[int, Setting] = {}
    for setting in settings:
        first.setdefault(setting.budget, setting)
    return dict(sorted(first.items()))
