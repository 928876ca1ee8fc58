"""How the ops compute. Each is built for a role and maps (B, c_in, h, w) to (B, c_out, h', w'), h' = h/2, 2h or h.

`forward(x, scale)`: `scale` multiplies the output (the weight of a branch in a supernet). Ops with `resized` True take, in
the role 'up', an input that is already at twice the size: a cell up-samples it once for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thrifty.nets.depthwise import depthwise, pointwise
from thrifty.nets.layers import Norm
from thrifty.nets.source import Source, pool
from thrifty.space import ops
from thrifty.space.ops import Op, squeeze_hidden


def is_resized(op: Op, role: str) -> bool:
    """Whether the op wants its input already up-sampled."""
    return role == "up" and op.kind in ("free", "squeeze", "sep")


def build_op(name: str, role: str, c_in: int, c_out: int) -> nn.Module:
    """The module of an op. `none` has none: whoever builds leaves it out."""
    op = ops.find(name)
    if op.kind == "free":
        return FreeOp(op, role, c_in, c_out)
    if op.kind == "squeeze":
        return SqueezeOp(op, role, c_in, c_out)
    if op.kind in ("conv", "squeeze_conv"):
        return ConvOp(op, role, c_in, c_out)
    if op.kind == "dep_sep":
        return DepSepOp(op, role, c_in, c_out)
    if op.kind == "sep":
        return SepOp(op, role, c_in, c_out)
    return OwnOp(op, role, c_in, c_out)


def _adapter(c_in: int, c_out: int) -> nn.Conv2d | None:
    return None if c_in == c_out else nn.Conv2d(c_in, c_out, 1, bias=False)


def _pool(op: Op, role: str, x: Tensor) -> Tensor:
    """The parameter-free part of an op: pooling down, nothing otherwise (an up input is resized already)."""
    return pool(pooling(op), x) if role == "down" else x


def pooling(op: Op) -> str:
    """How an op without a convolution pools in the role 'down'."""
    return "max" if op.name == "max_pool" else "avg"


class FreeOp(nn.Module):
    """Pooling, up-sampling or identity, then norm."""

    def __init__(self, op: Op, role: str, c_in: int, c_out: int) -> None:
        super().__init__()
        self.op, self.role = op, role
        self.adapter = _adapter(c_in, c_out)
        self.norm = Norm(c_out)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        x = _pool(self.op, self.role, x)
        return self.norm(x if self.adapter is None else self.adapter(x), scale)

    def affine(self, source: Source, scale: Tensor) -> tuple[Tensor, Tensor]:
        """(factor, offset), (c,) each, with which the op is `source.pooled()` * factor + offset; not with an adapter."""
        mean, variance = source.moments(pooling(self.op))
        return self.norm.coefficients(*_over_batch(mean, variance), _count(source.pooled(pooling(self.op))), scale)


class Squeeze(nn.Module):
    """Squeeze-excite (Hu 2018) without bias: the factor (B, c, 1, 1) of each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, squeeze_hidden(channels), bias=False)
        self.expand = nn.Linear(squeeze_hidden(channels), channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.factor(x.mean((2, 3)))[:, :, None, None]

    def factor(self, mean: Tensor) -> Tensor:
        """(B, c) from the mean over the pixels, (B, c)."""
        return torch.sigmoid(self.expand(torch.relu(self.reduce(mean))))


class SqueezeOp(nn.Module):
    """Pooling as of the role, squeeze-excite, norm."""

    def __init__(self, op: Op, role: str, c_in: int, c_out: int) -> None:
        super().__init__()
        self.op, self.role = op, role
        self.adapter = _adapter(c_in, c_out)
        self.squeeze = Squeeze(c_out)
        self.norm = Norm(c_out)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        x = _pool(self.op, self.role, x)
        x = x if self.adapter is None else self.adapter(x)
        return self.norm(x * self.squeeze(x), scale)

    def affine(self, source: Source, scale: Tensor) -> tuple[Tensor, Tensor]:
        """As of `FreeOp`, the factor (B, c)."""
        mean, variance = source.moments(pooling(self.op))
        squeeze = self.squeeze.factor(mean)
        moments = _over_batch(mean * squeeze, variance * squeeze.square())
        factor, offset = self.norm.coefficients(*moments, _count(source.pooled(pooling(self.op))), scale)
        return squeeze * factor, offset


def _over_batch(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Moments (c,) of a batch from those of its images, (B, c): the law of total variance, without cancellation."""
    return mean.mean(0), variance.mean(0) + mean.var(0, correction=0)


def _count(x: Tensor) -> int:
    return x.shape[0] * x.shape[2] * x.shape[3]


def _strided(op: Op, role: str, c_in: int, c_out: int, groups: int = 1) -> nn.Module:
    """The k x k convolution of a role: stride 2 down, transposed with stride 2 up, stride 1 otherwise."""
    padding = op.dilation * (op.kernel - 1) // 2
    if role == "up":
        return nn.ConvTranspose2d(
            c_in, c_out, op.kernel, 2, padding, output_padding=1, groups=groups, bias=False, dilation=op.dilation
        )
    return nn.Conv2d(c_in, c_out, op.kernel, 2 if role == "down" else 1, padding, op.dilation, groups, bias=False)


class ConvOp(nn.Module):
    """Dense k x k, norm, and for 'squeeze_conv' squeeze-excite behind it."""

    def __init__(self, op: Op, role: str, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = _strided(op, role, c_in, c_out)
        self.norm = Norm(c_out)
        self.squeeze = Squeeze(c_out) if op.kind == "squeeze_conv" else None

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        x = self.conv(x)
        if self.squeeze is None:
            return self.norm(x, scale)
        x = self.norm(x)
        factor = self.squeeze(x)
        return x * (factor if scale is None else factor * scale)


class DepSepOp(nn.Module):
    """Depth-wise k x k, norm, ReLU, point-wise, norm."""

    def __init__(self, op: Op, role: str, c_in: int, c_out: int) -> None:
        super().__init__()
        self.depthwise = _strided(op, role, c_in, c_in, groups=c_in)
        self.norm1 = Norm(c_in)
        self.pointwise = nn.Conv2d(c_in, c_out, 1, bias=False)
        self.norm = Norm(c_out)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        return self.norm(self.pointwise(torch.relu(self.norm1(self.depthwise(x)))), scale)


class SepOp(nn.Module):
    """Depth-wise k x k, point-wise, norm: linear up to the norm, so that kernels can be mixed in weight space."""

    def __init__(self, op: Op, role: str, c_in: int, c_out: int) -> None:
        super().__init__()
        self.op, self.stride = op, 2 if role == "down" else 1
        self.kernel = nn.Parameter(depthwise_kernel(op, c_in))
        self.pointwise = nn.Conv2d(c_in, c_out, 1, bias=False)
        self.norm = Norm(c_out)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        return self.norm(pointwise(depthwise(x, self.kernel, self.stride, self.op.dilation), self.pointwise.weight), scale)


def depthwise_kernel(op: Op, channels: int) -> Tensor:
    """A fresh depth-wise kernel (channels, 1, k, k), He-initialised."""
    return torch.randn(channels, 1, op.kernel, op.kernel) * (2.0 / op.kernel**2) ** 0.5


class SepFamily(nn.Module):
    """All 'sep' ops of an edge as one: their depth-wise kernels are mixed in weight space before one shared point-wise
    convolution and norm (Single-Path NAS, Stamoulis 2019, eq. 4). With one-hot weights it is that op, exactly."""

    embedding: Tensor

    def __init__(self, members: Sequence[Op], role: str, c_in: int, c_out: int) -> None:
        super().__init__()
        self.members, self.stride = tuple(members), 2 if role == "down" else 1
        self.kernels = nn.ParameterList([depthwise_kernel(op, c_in) for op in members])
        self.pointwise = nn.Conv2d(c_in, c_out, 1, bias=False)
        self.norm = Norm(c_out)
        self.reaches = [op.dilation * (op.kernel - 1) + 1 for op in members]
        self.reach = max(self.reaches)
        self.register_buffer("embedding", torch.cat([self._embed(op) for op in members]), persistent=False)

    def _embed(self, op: Op) -> Tensor:
        """(k*k, reach*reach): where the taps of a kernel lie in the common one."""
        places = torch.arange(op.kernel) * op.dilation + (self.reach - 1 - op.dilation * (op.kernel - 1)) // 2
        flat = (places[:, None] * self.reach + places[None, :]).flatten()
        return F.one_hot(flat, self.reach**2).float()

    def forward(
        self, x: Tensor, weights: Tensor, scale: Tensor, live: Sequence[bool] | None = None, offset: Tensor | None = None
    ) -> Tensor:
        """`weights` (members): of the ops within the edge; `scale`: of the edge; `live` (members): those that are not 0;
        `offset` (c_out,) is added."""
        taps = torch.cat([k.flatten(1) * w for k, w in zip(self.kernels, weights.unbind(), strict=True)], dim=1)
        kernel = (taps @ self.embedding.to(taps.dtype)).view(-1, 1, self.reach, self.reach)
        reach = self.reach if live is None else max(r for r, alive in zip(self.reaches, live, strict=True) if alive)
        border = (self.reach - reach) // 2  # holds only zeros
        kernel = kernel[:, :, border : self.reach - border, border : self.reach - border]
        return self.norm(pointwise(depthwise(x, kernel, self.stride), self.pointwise.weight), scale * weights.sum(), offset)

    def hard(self, x: Tensor, name: str, scale: Tensor | None = None) -> Tensor:
        """One member alone."""
        index = [op.name for op in self.members].index(name)
        x = depthwise(x, self.kernels[index], self.stride, self.members[index].dilation)
        return self.norm(pointwise(x, self.pointwise.weight), scale)


class OwnOp(nn.Module):
    """The user's own op; its output is scaled from outside."""

    def __init__(self, op: Op, role: str, c_in: int, c_out: int) -> None:
        super().__init__()
        self.body = ops.own_class(op.name)(role, c_in, c_out)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        x = self.body(x)
        return x if scale is None else x * scale
