"""How the ops compute. Each is built for a role and maps (B, c_in, h, w) to (B, c_out, h', w'), h' = h/2, 2h or h.

`forward(x, scale)`: `scale` multiplies the output (the weight of a branch in a supernet). Ops with `resized` True take, in
the role 'up', an input that is already at twice the size: a cell up-samples it once for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thrifty.nets.layers import Norm
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
    if role != "down":
        return x
    if op.name == "max_pool":
        return F.max_pool2d(x, 3, 2, 1)
    return F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)


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


class Squeeze(nn.Module):
    """Squeeze-excite (Hu 2018) without bias: the factor (B, c, 1, 1) of each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, squeeze_hidden(channels), bias=False)
        self.expand = nn.Linear(squeeze_hidden(channels), channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.expand(torch.relu(self.reduce(x.mean((2, 3))))))[:, :, None, None]


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
        return self.norm(self.pointwise(depthwise(x, self.kernel, self.op, self.stride)), scale)


def depthwise_kernel(op: Op, channels: int) -> Tensor:
    """A fresh depth-wise kernel (channels, 1, k, k), He-initialised."""
    return torch.randn(channels, 1, op.kernel, op.kernel) * (2.0 / op.kernel**2) ** 0.5


def depthwise(x: Tensor, kernel: Tensor, op: Op, stride: int) -> Tensor:
    return F.conv2d(x, kernel, None, stride, op.dilation * (op.kernel - 1) // 2, op.dilation, kernel.shape[0])


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

    def forward(self, x: Tensor, weights: Tensor, scale: Tensor, live: Sequence[bool] | None = None) -> Tensor:
        """`weights` (members): of the ops within the edge; `scale`: of the edge; `live` (members): those that are not 0."""
        taps = torch.cat([k.flatten(1) * w for k, w in zip(self.kernels, weights.unbind(), strict=True)], dim=1)
        kernel = (taps @ self.embedding.to(taps.dtype)).view(-1, 1, self.reach, self.reach)
        reach = self.reach if live is None else max(r for r, alive in zip(self.reaches, live, strict=True) if alive)
        border = (self.reach - reach) // 2  # holds only zeros
        kernel = kernel[:, :, border : self.reach - border, border : self.reach - border]
        x = F.conv2d(x, kernel, None, self.stride, reach // 2, 1, kernel.shape[0])
        return self.norm(self.pointwise(x), scale * weights.sum())

    def hard(self, x: Tensor, name: str, scale: Tensor | None = None) -> Tensor:
        """One member alone."""
        index = [op.name for op in self.members].index(name)
        return self.norm(self.pointwise(depthwise(x, self.kernels[index], self.members[index], self.stride)), scale)


class OwnOp(nn.Module):
    """The user's own op; its output is scaled from outside."""

    def __init__(self, op: Op, role: str, c_in: int, c_out: int) -> None:
        super().__init__()
        self.body = ops.own_class(op.name)(role, c_in, c_out)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        x = self.body(x)
        return x if scale is None else x * scale
