"""The way from raw pixels to labels in plain torch, with tensors and sizes alone, so that torch.export and ONNX can follow it.

It is the same as `thrifty.data.normalise` and `thrifty.inference` up to rounding. Nothing of thrifty is imported here: the text
of this file also goes into every exported network.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def place(size: int, stride: int) -> tuple[int, int]:
    """`size` grown to a multiple of `stride`, and how many lines come before the first."""
    grown = (size + stride - 1) // stride * stride
    return grown, (grown - size) // 2


def mirrored(size: int, stride: int, device: torch.device) -> Tensor:
    """Which of `size` lines stands at each place of the grown image: mirrored without repeating the border, again and again."""
    grown, before = place(size, stride)
    turn = (torch.arange(1, device=device) + 2 * (size - 1)).clamp(min=1)  # a tensor, since ONNX takes no size as a divisor
    there = torch.remainder(torch.arange(grown, device=device) - before, turn)
    return (size - 1) - (there - (size - 1)).abs()


def pad_to_stride(images: Tensor, stride: int) -> Tensor:
    """(B, C, H, W) grown on all sides so that both sizes are multiples of `stride`."""
    rows, columns = (mirrored(size, stride, images.device) for size in images.shape[-2:])
    return images.index_select(2, rows).index_select(3, columns)


def cut_back(values: Tensor, height: int, width: int, stride: int) -> Tensor:
    """The middle (B, C, height, width) of what a network made of a grown image."""
    rows, columns = (torch.arange(size, device=values.device) + place(size, stride)[1] for size in (height, width))
    return values.index_select(2, rows).index_select(3, columns)


def labels_of(logits: Tensor, overlapping: bool = False, region_values: tuple[int, ...] = ()) -> Tensor:
    """Labels (B, H, W) of logits (B, classes, H, W), uint8 (int64 only for region values above 255).

    Of exclusive classes the id of the most likely one, of equal logits the first. Overlapping classes are claimed where their
    logits are above 0: class after class writes its `region_values` over those before it; without these, labels are bit sets (1
    for the first class, 2 for the second, 4 for the third, ..., their sum for several).
    """
    if not overlapping:
        return logits.argmax(dim=1).to(torch.uint8)
    labels = torch.zeros_like(logits[:, 0], dtype=torch.int64)
    for k in range(logits.shape[1]):
        claimed = logits[:, k] > 0
        labels = labels.masked_fill(claimed, region_values[k]) if region_values else labels + claimed.long() * 2**k
    return labels if max(region_values, default=0) > 255 else labels.to(torch.uint8)


def probabilities_of(logits: Tensor, overlapping: bool = False) -> Tensor:
    """(B, classes, H, W), adding up to 1 over the classes; where these overlap each has its own."""
    return torch.sigmoid(logits) if overlapping else torch.softmax(logits, dim=1)


class DatasetNormalisation(nn.Module):
    """Clips to [low, high], subtracts the mean, divides by the standard deviation; each of one value for a channel."""

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, mean: list[float], std: list[float], low: list[float], high: list[float]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std), ("low", low), ("high", high)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32)[:, None, None], persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return (torch.minimum(torch.maximum(pixels, self.low), self.high) - self.mean) / self.std


class CaseNormalisation(nn.Module):
    """The same with the values of each image and channel: the percentiles 0.5 and 99.5, mean and deviation between them."""

    def forward(self, pixels: Tensor) -> Tensor:
        flat = pixels.flatten(2)
        ordered = flat.sort(dim=2).values
        low, high = percentile(ordered, 5), percentile(ordered, 995)
        kept = torch.minimum(torch.maximum(flat, low), high).double()
        mean = kept.mean(dim=2, keepdim=True)
        std = ((kept - mean) ** 2).mean(dim=2, keepdim=True).sqrt()
        std = torch.where(std <= 1e-6 * mean.abs().clamp(min=1.0), torch.ones_like(std), std)  # a constant channel
        low, high, mean, std = (value.float()[..., None] for value in (low, high, mean, std))
        return (torch.minimum(torch.maximum(pixels, low), high) - mean) / std


def percentile(ordered: Tensor, per_mille: int) -> Tensor:
    """(B, C, 1) of sorted values (B, C, pixels), between two neighbours in a straight line."""
    steps = (ordered.shape[2] - 1) * per_mille
    zero = torch.arange(1, device=ordered.device)  # a size becomes a tensor by being added to it
    lower = zero + steps // 1000
    upper = torch.minimum(lower + 1, zero + (ordered.shape[2] - 1))
    share = (zero + steps % 1000).double() / 1000
    below, above = ordered.index_select(2, lower).double(), ordered.index_select(2, upper).double()
    return (below + (above - below) * share).float()


class Pipeline(nn.Module):
    """Raw pixels (B, channels, H, W) float32 of any size to labels (B, H, W) as of `labels_of`, on request also probabilities.

    Pixels are as the files hold them (0 to 255 in 8 bit), neither scaled nor normalised. `network` takes sizes that are multiples
    of `stride`. The image goes through it whole: no sliding window.
    """

    def __init__(
        self,
        network: nn.Module,
        stride: int,
        normalise: nn.Module,
        probabilities: bool = False,
        overlapping: bool = False,
        region_values: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.network, self.stride, self.normalise = network, stride, normalise
        self.probabilities, self.overlapping, self.region_values = probabilities, overlapping, region_values

    def forward(self, pixels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        height, width = pixels.shape[-2:]
        logits = self.network(pad_to_stride(self.normalise(pixels), self.stride))
        logits = cut_back(logits, height, width, self.stride)
        labels = labels_of(logits, self.overlapping, self.region_values)
        return (labels, probabilities_of(logits, self.overlapping)) if self.probabilities else labels
