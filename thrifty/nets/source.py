"""What the edges that leave one state of a cell share: its up-sampled or pooled copies, their moments, and what is made of them.

Batch norm of a copy, scaled by squeeze-excite or not, is an affine map of each of its channels, and the moments of the copy are
all that this map depends on. So free ops and squeeze-excite read the copy once, however many edges carry them, and store nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from thrifty.nets.layers import upsample


class Source:
    """A state (B, c, h, w) as the edges of its role read it; ops see the first 1/`partial` of its channels.

    All is computed when it is first asked for.
    """

    def __init__(self, x: Tensor, role: str, partial: int = 1) -> None:
        self.x, self.role, self.seen = x, role, x.shape[1] // partial
        self._kept: dict[str, Any] = {}

    def _once(self, key: str, make: Callable[[], Any]) -> Any:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def raw(self) -> Tensor:
        """At its own size."""
        return self._cut(self.x)

    def resized(self) -> Tensor:
        """At twice the size in the role 'up'."""
        return self._cut(self._doubled())

    def pooled(self, kind: str) -> Tensor:
        """At the size of the edge's output: `kind` 'avg' or 'max' pooling in the role 'down', the same for both otherwise."""
        if self.role != "down":
            return self.resized()
        return self._once(kind, lambda: pool(kind, self.raw()))

    def moments(self, kind: str) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of `pooled(kind)` over its pixels, (B, seen) each."""
        kind = kind if self.role == "down" else "same"
        return self._once("moments " + kind, lambda: _Moments.apply(self.pooled(kind)))

    def rest(self) -> Tensor:
        """The channels that pass by, at the size of the edge's output."""
        if self.role == "down":
            return self._once("rest", lambda: F.max_pool2d(self.x[:, self.seen :], 2, 2))
        return self._doubled()[:, self.seen :]

    def _doubled(self) -> Tensor:
        return self._once("doubled", lambda: upsample(self.x)) if self.role == "up" else self.x

    def _cut(self, x: Tensor) -> Tensor:
        return x if self.seen == x.shape[1] else x[:, : self.seen]


def pool(kind: str, x: Tensor) -> Tensor:
    """3x3 pooling with stride 2, 'avg' or 'max'."""
    if kind == "max":
        return F.max_pool2d(x, 3, 2, 1)
    return F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)


class _Moments(torch.autograd.Function):
    """Mean and biased variance over the pixels of (B, c, h, w); torch.var_mean is ten times slower in channels_last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = x.mean((2, 3))
        variance = (x - mean[:, :, None, None]).square_().mean((2, 3))
        ctx.save_for_backward(x, mean)
        return mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # pyrefly: ignore[bad-override]
        of_mean, of_variance = gradients
        x, mean = ctx.saved_tensors
        pixels = x.shape[2] * x.shape[3]
        slope = of_variance * (2 / pixels)
        offset = of_mean / pixels - slope * mean
        return torch.addcmul(offset[:, :, None, None], x, slope[:, :, None, None])
