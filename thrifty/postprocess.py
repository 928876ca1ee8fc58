"""What is done to a label map after the network: the largest part of a class alone is kept, holes are filled.

Neither is done unless it was worth it on the selection cases. It is done to 2-D label maps, as it was chosen and is evaluated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

import numpy as np

from thrifty.errors import ThriftyError, one_line
from thrifty.metrics import foreground_dice

GAIN = 0.001  # mean Dice on the selection cases (a tenth of a point) that a step must be worth


@dataclass(frozen=True)
class Postprocess:
    """The steps that are taken. `dice`: the mean Dice on the selection cases of every choice that was tried, by its name."""

    fill_holes: bool = False
    largest: bool = False
    dice: dict[str, float] = field(default_factory=dict, hash=False)

    @property
    def steps(self) -> int:
        return self.fill_holes + self.largest

    @property
    def name(self) -> str:
        steps = [step for step, taken in (("fill_holes", self.fill_holes), ("largest", self.largest)) if taken]
        return "+".join(steps) or "none"

    def same_steps(self, other: Postprocess) -> bool:
        return (self.fill_holes, self.largest) == (other.fill_holes, other.largest)

    def apply(self, labels: np.ndarray) -> np.ndarray:
        """(H, W) uint8 class ids after the steps; a new array, or the same one where there are none."""
        if self.fill_holes:
            labels = fill_holes(labels)
        return keep_largest(labels) if self.largest else labels

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(value: Any) -> Postprocess:
        """
        Raises:
            ThriftyError: not what `as_json` writes.
        """
        try:
            steps, dice = (value["fill_holes"], value["largest"]), value["dice"]
            if not all(isinstance(step, bool) for step in steps):
                raise ValueError("steps are true or false")
            return Postprocess(*steps, {str(name): float(number) for name, number in dice.items()})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ThriftyError(f"this is no post-processing ({one_line(error)}): {one_line(value)[:80]}") from None


CHOICES = (Postprocess(), Postprocess(fill_holes=True), Postprocess(largest=True), Postprocess(fill_holes=True, largest=True))


def fill_holes(labels: np.ndarray) -> np.ndarray:
    """(H, W) class ids with the background that a class encloses given to that class; other classes inside stay."""
    from scipy.ndimage import binary_fill_holes

    filled = labels.copy()
    for index in _present(labels):
        whole = binary_fill_holes(labels == index)
        filled[whole & (labels == 0)] = index
    return filled


def keep_largest(labels: np.ndarray) -> np.ndarray:
    """(H, W) class ids with only the largest connected part (8 neighbours) of each foreground class; of equal ones the first."""
    from scipy.ndimage import label

    kept = labels.copy()
    for index in _present(labels):
        parts, number = label(labels == index, structure=np.ones((3, 3)))  # pyrefly: ignore[not-iterable]
        if number > 1:
            sizes = np.bincount(parts.ravel())
            sizes[0] = 0
            kept[(parts > 0) & (parts != sizes.argmax())] = 0
    return kept


def _present(labels: np.ndarray) -> list[int]:
    return [int(index) for index in np.unique(labels) if index]


def choose(pairs: Iterable[tuple[np.ndarray, np.ndarray]], classes: int) -> Postprocess:
    """The steps that are worth it on selection cases: given (prediction, truth), each (H, W) of class ids.

    The choice with the fewest steps whose mean Dice is at most GAIN below that of the best of the four.
    """
    scores: dict[str, list[float]] = {choice.name: [] for choice in CHOICES}
    for labels, truth in pairs:
        for choice in CHOICES:
            scores[choice.name].append(foreground_dice(choice.apply(labels), truth, classes))
    dice = {name: fmean(values) for name, values in scores.items()}
    good = [choice for choice in CHOICES if dice[choice.name] >= max(dice.values()) - GAIN]
    chosen = max(good, key=lambda choice: (-choice.steps, dice[choice.name]))
    return Postprocess(chosen.fill_holes, chosen.largest, dice)


def common(choices: Sequence[Postprocess]) -> Postprocess:
    """That of an ensemble: what all of its members chose, otherwise nothing."""
    first = choices[0]
    return first if all(choice.same_steps(first) for choice in choices) else Postprocess()
