"""Normalisation: z-scores, learnt from training cases only; a small record that travels with the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from thrifty.data.store import Store
from thrifty.errors import ThriftyError, one_line

LOW, HIGH = 0.5, 99.5  # percentiles between which intensities are kept
MOST_PIXELS = 10_000_000  # more are thinned evenly: percentiles of ten million pixels are those of all

Statistics = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Normalisation:
    """'dataset': clip to [low, high], subtract mean, divide by std, each by channel. 'case': the same with the case's own values.

    For 'case' the tuples are empty: nothing is learnt.
    """

    kind: Literal["dataset", "case"]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def statistics(self, image: np.ndarray) -> Statistics:
        """mean, std, low and high for a whole image (channels, height, width), each (channels, 1, 1)."""
        if self.kind == "case":
            return _statistics(image.reshape(len(image), -1))
        if len(image) != len(self.mean):
            raise ThriftyError(f"an image has {len(image)} channels, the normalisation was learnt with {len(self.mean)}")
        mean, std, low, high = (np.array(v, np.float32)[:, None, None] for v in (self.mean, self.std, self.low, self.high))
        return mean, std, low, high

    def apply(self, image: np.ndarray, statistics: Statistics | None = None) -> np.ndarray:
        """`image` (channels, height, width) of any type as float32; a part of an image needs the `statistics` of the whole.

        Raises:
            ThriftyError: another number of channels than was learnt.
        """
        mean, std, low, high = self.statistics(image) if statistics is None else statistics
        return (np.clip(image.astype(np.float32), low, high) - mean) / std

    def as_json(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @staticmethod
    def from_json(value: dict[str, Any]) -> Normalisation:
        """
        Raises:
            ThriftyError: not what `as_json` writes.
        """
        try:
            numbers = [tuple(float(v) for v in value[key]) for key in ("mean", "std", "low", "high")]
            good = value["kind"] in ("dataset", "case") and len({len(n) for n in numbers}) == 1 and all(s > 0 for s in numbers[1])
            if not good or bool(numbers[0]) != (value["kind"] == "dataset"):
                raise ValueError("kind or numbers do not fit")
            return Normalisation(value["kind"], *numbers)
        except (KeyError, TypeError, ValueError) as error:
            raise ThriftyError(f"this is no normalisation ({one_line(error)}): {one_line(value)[:80]}") from None


def learn(store: Store, indices: Sequence[int], kind: Literal["dataset", "case"]) -> Normalisation:
    """The normalisation of the cases at `indices`, which must be training cases; no other case is looked at.

    Raises:
        ThriftyError: no cases.
    """
    if not indices:
        raise ThriftyError("normalisation needs at least one training case")
    if kind == "case":
        return Normalisation("case")
    pixels = sum(store.cases[i].height * store.cases[i].width for i in indices)
    thin = max(1, -(-pixels // MOST_PIXELS))
    values = np.concatenate([store.image(i).reshape(store.channels, -1)[:, ::thin] for i in indices], axis=1)
    mean, std, low, high = (tuple(float(v) for v in part.ravel()) for part in _statistics(values))
    return Normalisation("dataset", mean, std, low, high)


def _statistics(values: np.ndarray) -> Statistics:
    """mean, std, low and high of (channels, pixels), each (channels, 1, 1); a constant channel has std 1."""
    parts = []
    for channel in values:
        low, high = np.percentile(channel, (LOW, HIGH))
        kept = np.clip(channel.astype(np.float32), low, high)
        mean, std = kept.mean(dtype=np.float64), kept.std(dtype=np.float64)
        flat = std <= 1e-6 * max(1.0, abs(mean))  # rounding alone can leave a little
        parts.append((mean, 1.0 if flat else std, low, high))
    mean, std, low, high = (np.array(column, np.float32)[:, None, None] for column in zip(*parts, strict=True))
    return mean, std, low, high
