"""The dominant eigenvalue of the Hessian of the architecture loss, which rises before a search collapses (Zela 2020, sec. 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

STEP = 0.05
"""Length of the step of the finite differences, in logits over temperature."""


@dataclass(frozen=True)
class Curvature:
    """An estimate of the dominant eigenvalue, and the unit vector (n,) that it was taken along."""

    eigenvalue: float
    direction: Tensor


def dominant_eigenvalue(gradient: Callable[[Tensor], Tensor], direction: Tensor, iterations: int = 1) -> Curvature:
    """Power iteration with Hessian-vector products by central differences of gradients: two gradients an iteration.

    Begun from the direction of the epoch before, one iteration an epoch is a running estimate: the proxy of the guard.

    Args:
        gradient: of the loss at an offset (n,) from the present logits.
        direction: where to start, (n,), not zero.
    """
    eigenvalue, v = 0.0, direction / direction.norm()
    for _ in range(iterations):
        product = (gradient(STEP * v) - gradient(-STEP * v)) / (2 * STEP)
        eigenvalue = float(v @ product)
        if (norm := product.norm()) == 0:
            break
        v = product / norm
    return Curvature(eigenvalue, v)


def flat(values: list[Tensor]) -> Tensor:
    return torch.cat([value.reshape(-1) for value in values])
