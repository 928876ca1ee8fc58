"""U-Net and UNet++ as the UNet++ paper sizes them, and a U-Net scaled in width to a parameter budget.

Both have five levels, two biased 3x3 convolutions a level, 2x2 max-pooling down, 2x2 transposed convolutions up and a 1x1 head.
What is trained has batch normalisation after each 3x3 convolution; `norm=False` gives the sizes that the paper prints.
Sources: U-Net (Ronneberger 2015), UNet++ without deep supervision (Zhou 2018).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from thrifty.errors import ThriftyError

FILTERS = (32, 64, 128, 256, 512)
FILLS = 0.95  # share of its budget that a scaled U-Net uses at least


def block(inputs: int, outputs: int, norm: bool) -> nn.Sequential:
    """Two 3x3 convolutions, each followed by batch normalisation (where asked for) and ReLU."""
    layers: list[nn.Module] = []
    for source in (inputs, outputs):
        layers.append(nn.Conv2d(source, outputs, 3, padding=1))
        layers += [nn.BatchNorm2d(outputs)] if norm else []
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """U-Net. Images (B, channels, H, W) -> logits (B, classes, H, W); H and W must be multiples of `stride`."""

    def __init__(self, channels: int, classes: int, filters: tuple[int, ...] = FILTERS, norm: bool = True) -> None:
        super().__init__()
        self.stride = 2 ** (len(filters) - 1)
        self.pool = nn.MaxPool2d(2)
        self.down = nn.ModuleList(block(a, b, norm) for a, b in pairwise((channels, *filters)))
        self.raise_ = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(filters))
        self.up = nn.ModuleList(block(2 * a, a, norm) for a in filters[:-1])
        self.head = nn.Conv2d(filters[0], classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        rows = [self.down[0](images)]
        for level in self.down[1:]:
            rows.append(level(self.pool(rows[-1])))
        x = rows[-1]
        for row in reversed(range(len(self.up))):
            x = self.up[row](torch.cat([rows[row], self.raise_[row](x)], dim=1))
        return self.head(x)


class UNetPP(nn.Module):
    """UNet++ without deep supervision: node X(i, j) reads all of its row to the left and X(i - 1, j + 1), raised.

    Columns i and rows j as in the lattice of a space. Images (B, channels, H, W) -> logits (B, classes, H, W); H and W must
    be multiples of `stride`.
    """

    def __init__(self, channels: int, classes: int, filters: tuple[int, ...] = FILTERS, norm: bool = True) -> None:
        super().__init__()
        self.stride = 2 ** (len(filters) - 1)
        self.pool = nn.MaxPool2d(2)
        self.down = nn.ModuleList(block(a, b, norm) for a, b in pairwise((channels, *filters)))
        self.raise_ = nn.ModuleDict()
        self.up = nn.ModuleDict()
        for row, column in inner_nodes(len(filters)):
            width, below = filters[row], filters[row + 1]
            self.raise_[f"{column}_{row}"] = nn.ConvTranspose2d(below, width, 2, stride=2)
            self.up[f"{column}_{row}"] = block((column + 1) * width, width, norm)
        self.head = nn.Conv2d(filters[0], classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        nodes = {(0, 0): self.down[0](images)}
        for row in range(1, len(self.down)):
            nodes[0, row] = self.down[row](self.pool(nodes[0, row - 1]))
        for row, column in inner_nodes(len(self.down)):
            key = f"{column}_{row}"
            kept = [nodes[left, row] for left in range(column)]
            nodes[column, row] = self.up[key](torch.cat([*kept, self.raise_[key](nodes[column - 1, row + 1])], dim=1))
        return self.head(nodes[len(self.down) - 1, 0])


def inner_nodes(levels: int) -> list[tuple[int, int]]:
    """(row, column) of the nodes of a UNet++ that are not in its encoder, each after those it reads."""
    return [(row, column) for column in range(1, levels) for row in range(levels - column)]


def _block_parameters(inputs: int, outputs: int, norm: bool) -> int:
    return 9 * outputs * (inputs + outputs) + (6 if norm else 2) * outputs


def _encoder_and_head(channels: int, classes: int, filters: tuple[int, ...], norm: bool) -> int:
    encoder = sum(_block_parameters(a, b, norm) for a, b in pairwise((channels, *filters)))
    return encoder + (filters[0] + 1) * classes


def unet_parameters(channels: int, classes: int, filters: tuple[int, ...] = FILTERS, norm: bool = True) -> int:
    """Number of parameters of `UNet` with these arguments, by formula."""
    decoder = sum(4 * a * b + a + _block_parameters(2 * a, a, norm) for a, b in pairwise(filters))
    return _encoder_and_head(channels, classes, filters, norm) + decoder


def unetpp_parameters(channels: int, classes: int, filters: tuple[int, ...] = FILTERS, norm: bool = True) -> int:
    """Number of parameters of `UNetPP` with these arguments, by formula."""
    total = _encoder_and_head(channels, classes, filters, norm)
    for row, column in inner_nodes(len(filters)):
        width, below = filters[row], filters[row + 1]
        total += 4 * below * width + width + _block_parameters((column + 1) * width, width, norm)
    return total


def scale(steps: int) -> tuple[int, ...]:
    """Filters round(32 * 2^k * s) with s = steps / 1024, at least 1. Halves round up.

    All values of s at which some level's rounding changes are odd multiples of powers of two from 1/1024 up, so whole
    `steps` reach every network of this family.
    """
    return tuple(max(1, (steps * 2**k + 16) // 32) for k in range(len(FILTERS)))


def scaled_filters(budget: int, channels: int, classes: int) -> tuple[int, ...]:
    """Filters of the widest scaled U-Net (with batch normalisation) within `budget` parameters.

    The largest s is found exactly, by bisection: the count never falls as s grows. In a small network one step of s can
    be more than 5 % of the budget; there, levels take one more filter where that fits, the coarsest first.

    Raises:
        ThriftyError: not even one filter a level fits.
    """

    def count(filters: tuple[int, ...]) -> int:
        return unet_parameters(channels, classes, filters)

    low, high = 1, 2
    if count(scale(low)) > budget:
        raise ThriftyError(
            f"a budget of {budget:,} parameters is too small for a scaled U-Net: the smallest for {channels} channels and "
            f"{classes} classes has {count(scale(low)):,}; raise the budget, or leave scaled_unet out of retrain.baselines"
        )
    while count(scale(high)) <= budget:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(scale(middle)) <= budget else (low, middle)
    filters = scale(low)
    if count(filters) < FILLS * budget:
        for level in reversed(range(len(filters))):
            wider = (*filters[:level], filters[level] + 1, *filters[level + 1 :])
            filters = wider if count(wider) <= budget else filters
    return filters
