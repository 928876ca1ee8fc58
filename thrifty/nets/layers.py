"""The layers that derived networks and supernets share: norm, convolutions of the frame, stem, input convolution of a row.

Every node hands on its output after ReLU: all that read it (method, section 3) begin with one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thrifty.space.cost import HEAD, Lattice


class Norm(nn.Module):
    """Batch norm over (batch, channels, rows, columns) whose output can be scaled for free.

    `scale` is folded into weight and bias, and `offset` (channels,) into bias, so a mixture of normed branches needs no extra
    pass over the pixels. `momentum`
    is the share of a new batch in the running statistics.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.momentum = 0.1
        self.eps = 1e-5

    def forward(self, x: Tensor, scale: Tensor | None = None, offset: Tensor | None = None) -> Tensor:
        weight, bias = (self.weight, self.bias) if scale is None else (self.weight * scale, self.bias * scale)
        if offset is not None:
            bias = bias + offset
        return F.batch_norm(x, self.running_mean, self.running_var, weight, bias, self.training, self.momentum, self.eps)

    def coefficients(self, mean: Tensor, variance: Tensor, count: int, scale: Tensor) -> tuple[Tensor, Tensor]:
        """(factor, offset), (channels,) each, with which `forward` is x * factor + offset, for an x of these moments.

        Args:
            mean, variance: (channels,) over `count` values, the variance biased; in evaluation the running ones are taken.
        """
        if self.training:
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * (count / max(count - 1, 1)), self.momentum)
        else:
            mean, variance = self.running_mean, self.running_var
        factor = (self.weight * scale) * torch.rsqrt(variance + self.eps)
        return factor, torch.addcmul(self.bias * scale, mean, factor, value=-1)


class FrameConv(nn.Module):
    """A convolution of the frame: 'conv_1', 'conv_3' or 'sep_3'. (B, c_in, h, w) to (B, c_out, h, w), no bias."""

    def __init__(self, kind: str, c_in: int, c_out: int) -> None:
        super().__init__()
        if kind == "sep_3":
            self.body: nn.Module = nn.Sequential(_conv(c_in, c_in, 3, groups=c_in), _conv(c_in, c_out, 1))
        else:
            self.body = _conv(c_in, c_out, 1 if kind == "conv_1" else 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def _conv(c_in: int, c_out: int, kernel: int, groups: int = 1, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)


class RowConv(nn.Module):
    """The input convolution of an up cell: nodes to the left in its row, concatenated, to the width, without bias.

    It has `slots` blocks of weights, one for each node that may stand there. Given only some of the nodes it uses only
    their blocks, which is the same as zeros in the others' places, since no norm comes before it.
    """

    def __init__(self, kind: str, channels: int, slots: int) -> None:
        super().__init__()
        self.channels = channels
        self.slots = slots
        self.kernel = 3 if kind == "conv_3" else 1
        area = self.kernel**2
        self.depthwise = nn.Parameter(torch.empty(slots * channels, 1, 3, 3)) if kind == "sep_3" else None
        self.weight = nn.Parameter(torch.empty(channels, slots * channels, self.kernel, self.kernel))
        nn.init.normal_(self.weight, std=(2.0 / (slots * channels * area)) ** 0.5)
        if self.depthwise is not None:
            nn.init.normal_(self.depthwise, std=(2.0 / 9) ** 0.5)

    def forward(self, nodes: Sequence[Tensor], slots: Sequence[int], gates: Sequence[Tensor | None]) -> Tensor:
        """`nodes` (B, channels, h, w) in `slots`; a gate multiplies its node (None: 1)."""
        x = torch.cat(list(nodes), dim=1) if len(nodes) > 1 else nodes[0]
        weight = self._gated(slots, gates)
        if self.depthwise is not None:
            blocks = self.depthwise.unflatten(0, (self.slots, self.channels))
            kernel = torch.cat([blocks[s] for s in slots])
            x = F.conv2d(x, kernel, padding=1, groups=kernel.shape[0])
        return F.conv2d(x, weight, padding=self.kernel // 2)

    def _gated(self, slots: Sequence[int], gates: Sequence[Tensor | None]) -> Tensor:
        """The blocks of weights in use, each times its gate: a gate on the weights costs nothing per pixel."""
        blocks = self.weight.unflatten(1, (self.slots, self.channels))
        picked = [blocks[:, s] if gate is None else blocks[:, s] * gate for s, gate in zip(slots, gates, strict=True)]
        return torch.cat(picked, dim=1)


class Stem(nn.Module):
    """stem0: convolution at full resolution and norm. stem1: 3x3 max-pooling with stride 2 and a residual block: X(0, 0)."""

    def __init__(self, lattice: Lattice) -> None:
        super().__init__()
        full, first = lattice.row_width(HEAD), lattice.row_width(0)
        kind = lattice.frame.stem_block
        self.conv = _conv(lattice.channels, full, lattice.frame.stem_kernel)
        self.norm = Norm(full)
        self.block1, self.norm1 = FrameConv(kind, full, first), Norm(first)
        self.block2, self.norm2 = FrameConv(kind, first, first), Norm(first)
        self.skip = _conv(full, first, 1) if full != first else None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, channels, H, W) to stem0 (B, c, H, W) and X(0, 0) (B, c, H/2, W/2), both after ReLU."""
        stem0 = torch.relu(self.norm(self.conv(images)))
        pooled = F.max_pool2d(stem0, 3, 2, 1)
        block = self.norm2(self.block2(torch.relu(self.norm1(self.block1(pooled)))))
        return stem0, torch.relu(block + (pooled if self.skip is None else self.skip(pooled)))


class DownInput(nn.Module):
    """Brings in0 of a down cell to the size and width of in1: 3x3 average pooling with stride 2, then norm; a 1x1
    convolution with stride 2 where the width changes."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = _conv(c_in, c_out, 1, stride=2) if c_in != c_out else None
        self.norm = Norm(c_out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False) if self.conv is None else self.conv(x)
        return self.norm(x)


class UpInput(nn.Module):
    """in0 of an up cell: the input convolution of its row, then norm."""

    def __init__(self, lattice: Lattice, row: int, slots: int) -> None:
        super().__init__()
        self.conv = RowConv(lattice.frame.input_conv, lattice.row_width(row), slots)
        self.norm = Norm(lattice.row_width(row))

    def forward(self, nodes: Sequence[Tensor], slots: Sequence[int], gates: Sequence[Tensor | None]) -> Tensor:
        return self.norm(self.conv(nodes, slots, gates))


class CellOutput(nn.Module):
    """The inner nodes (B, c, h, w), concatenated, through the output convolution and norm, after ReLU."""

    def __init__(self, lattice: Lattice, row: int) -> None:
        super().__init__()
        width = lattice.row_width(row)
        self.conv = FrameConv(lattice.frame.output_conv, lattice.nodes * width, width)
        self.norm = Norm(width)

    def forward(self, nodes: Sequence[Tensor]) -> Tensor:
        return torch.relu(self.norm(self.conv(torch.cat(list(nodes), dim=1))))


def classifier(lattice: Lattice) -> nn.Conv2d:
    """The last convolution, to one logit for each class, its bias 0."""
    full, kernel = lattice.row_width(HEAD), lattice.frame.classifier_kernel
    if not lattice.frame.classifier_bias:
        return _conv(full, lattice.classes, kernel)
    convolution = nn.Conv2d(full, lattice.classes, kernel, padding=kernel // 2)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return convolution


def upsample(x: Tensor) -> Tensor:
    """To twice the size, bilinear."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
