"""Decoding under several limits at once: parameters, MACs of one image, measured latency.

Decoding is exact under one additive cost (thrifty.space.decode). Under two, every price turns both into one: whatever keeps both
limits also keeps MACs + price * parameters <= limit + price * room (surrogate constraint, Glover 1968), so a decoding under the
sum that keeps both is the most likely of all that do. Where no price gives one, the sum is lowered until both are kept. A
network that turns out too slow is decoded again under fewer MACs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from thrifty.errors import ThriftyError
from thrifty.space.cost import Costs, Patch, count, count_macs
from thrifty.space.decode import decode
from thrifty.space.distribution import Distribution, uniform
from thrifty.space.genotype import Genotype

PRICES = 8  # bisection steps over the price
SHRINKS = 5  # bisection steps over the sum, from half of it, which keeps both limits if anything does
MEASURED = 4  # networks that are measured before the fallback is taken
SPARE = 0.95  # MACs are not quite proportional to the latency


@dataclass(frozen=True)
class Limits:
    """What a candidate may have at most: parameters; MACs of one image of `patch` pixels; milliseconds, which `measure` gives.

    None is no limit; `patch` is needed for the other two.
    """

    parameters: int
    macs: int | None = None
    patch: Patch | None = None
    latency_ms: float | None = None
    measure: Callable[[Genotype], float] | None = None

    def allow(self, genotype: Genotype) -> bool:
        """By formula, without measuring anything."""
        return count(genotype) <= self.parameters and (self.macs is None or self._macs(genotype) <= self.macs)

    def keep(self, genotype: Genotype) -> bool:
        """Whether the genotype keeps all limits; measures it if the formulas allow it."""
        return self.allow(genotype) and self.excess_ms(genotype) <= 0

    def excess_ms(self, genotype: Genotype) -> float:
        """Milliseconds above the limit; negative where there is none."""
        if self.latency_ms is None:
            return -1.0
        assert self.measure is not None
        return self.measure(genotype) - self.latency_ms

    def excess(self, genotype: Genotype) -> dict[str, float]:
        """By limit, what a genotype has above it: at most 0 where it is kept."""
        found: dict[str, float] = {"parameters": count(genotype) - self.parameters}
        if self.macs is not None:
            found["macs"] = self._macs(genotype) - self.macs
        if self.latency_ms is not None:
            found["latency_ms"] = self.excess_ms(genotype)
        return found

    def slower(self, genotype: Genotype) -> Limits:
        """The limits under which to decode again what was measured too slow: so many MACs fewer."""
        assert self.latency_ms is not None
        share = self.latency_ms / (self.latency_ms + self.excess_ms(genotype))
        return replace(self, macs=int(SPARE * share * self._macs(genotype)))

    def _macs(self, genotype: Genotype) -> int:
        assert self.patch is not None
        return count_macs(genotype, self.patch)


def smallest_within(costs: Costs, limits: Limits, path: tuple[int, ...]) -> Genotype | None:
    """A small network with a cell path that keeps the limits: the least in parameters, in MACs or in their balanced sum.

    Where parameters alone are limited there is one exactly if any network of that path keeps the limit. Otherwise a path is
    given up as well if only networks between those three do.
    """
    units = [costs]
    if limits.patch is not None and (limits.macs is not None or limits.latency_ms is not None):
        units += [_priced(costs, limits, 0), _priced(costs, limits, _balance(limits))]
    for unit in units:
        any_op = uniform(costs.space, costs.levels, costs.depth)
        least = decode(any_op, unit, unit.smallest_of_path(path), [path]).genotype
        if limits.keep(least):
            return least
    return None


def decode_within(
    distribution: Distribution, costs: Costs, limits: Limits, paths: Sequence[tuple[int, ...]], fallback: Genotype
) -> Genotype:
    """The most likely genotype that keeps the limits, over `paths`; where several limits bind, one that is nearly so.

    Args:
        costs: of parameters.
        fallback: keeps the limits; taken if nothing else is found.
    """
    now = limits
    for _ in range(MEASURED):
        found = _decoded(distribution, costs, now, list(paths))
        if found is None:
            return fallback
        if limits.keep(found):
            return found
        now = now.slower(found)
    return fallback


def _decoded(distribution: Distribution, costs: Costs, limits: Limits, paths: list[tuple[int, ...]]) -> Genotype | None:
    attempts = _attempts(distribution, costs, limits, paths)
    return next((found for found in attempts if limits.allow(found)), None)


def _attempts(distribution: Distribution, costs: Costs, limits: Limits, paths: list[tuple[int, ...]]) -> Iterator[Genotype]:
    yield from _decoding(distribution, costs, limits.parameters, paths)
    if limits.macs is None:
        return
    yield from _decoding(distribution, _priced(costs, limits, 0), limits.macs, paths)
    balance = _balance(limits)
    low, high = 0.0, 16.0 * balance
    for _ in range(PRICES):
        price = round((low + high) / 2)
        found = list(_decoding(distribution, _priced(costs, limits, price), limits.macs + price * limits.parameters, paths))
        yield from found
        low, high = (price, high) if found and count(found[0]) > limits.parameters else (low, price)
    yield from _shrunk(distribution, costs, limits, paths)


def _shrunk(distribution: Distribution, costs: Costs, limits: Limits, paths: list[tuple[int, ...]]) -> Iterator[Genotype]:
    """The most likely found under a part of both limits together, as large a part as keeps them; at most one genotype."""
    assert limits.macs is not None
    priced = _priced(costs, limits, _balance(limits))
    total = limits.macs + _balance(limits) * limits.parameters
    low, high, best = 0.5, 1.0, None
    for _ in range(SHRINKS):
        share = (low + high) / 2
        found = next(_decoding(distribution, priced, int(share * total), paths), None)
        if found is not None and not limits.allow(found):
            high = share
        else:
            low, best = share, found or best
    yield from _decoding(distribution, priced, int(total / 2), paths) if best is None else (best,)


def _decoding(distribution: Distribution, costs: Costs, limit: int, paths: list[tuple[int, ...]]) -> Iterator[Genotype]:
    """The decoding under one limit, if any network keeps it."""
    with contextlib.suppress(ThriftyError):
        yield decode(distribution, costs, limit, paths).genotype


def _priced(costs: Costs, limits: Limits, price: int) -> Costs:
    return replace(costs, patch=limits.patch, price=price)


def _balance(limits: Limits) -> int:
    """The price at which both limits weigh the same; without one on MACs, that of a parameter used at every pixel."""
    assert limits.patch is not None
    macs = limits.macs if limits.macs is not None else limits.patch[0] * limits.patch[1] * limits.parameters
    return max(1, round(macs / limits.parameters))
