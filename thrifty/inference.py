"""Prediction at full size: padded to the network's stride, never stretched, and by a sliding window where images are large.

What logits mean is decided in `probabilities_of`, `logits_of` and `labels_of` and nowhere else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from thrifty.config import Evaluate
from thrifty.metrics import mean_case_dice, pixel_counts
from thrifty.nets.recalibrate import recalibrate

if TYPE_CHECKING:
    from thrifty.data.normalise import Normalisation
    from thrifty.data.store import Store
    from thrifty.nets.supernet import HardNetwork


FLIPS = ((), (-1,), (-2,), (-2, -1))  # axes (rows -2, columns -1) of the four views of an image that test-time flips give
SHARPNESS = 8  # a window's weights fall off with a standard deviation of its size divided by this (nnU-Net, Isensee 2021)
LEAST_WEIGHT = 1e-3  # at the corners of a window, so that nothing is divided by almost zero


def probabilities_of(logits: Tensor, overlapping: bool = False) -> Tensor:
    """Probabilities (B, classes, H, W) of logits (B, classes, H, W): the softmax, or each one's sigmoid where classes overlap."""
    return logits.sigmoid() if overlapping else logits.softmax(dim=1)


def logits_of(probabilities: Tensor, overlapping: bool = False) -> Tensor:
    """Logits whose `probabilities_of` are these (B, classes, H, W)."""
    if overlapping:
        return torch.logit(probabilities)
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def labels_of(logits: Tensor, overlapping: bool = False) -> Tensor:
    """What logits (B, classes, H, W) claim: (B, H, W) uint8 of class ids, or bit sets where classes overlap.

    Of exclusive classes the most likely one; of overlapping ones each whose probability is above 1/2.
    """
    if not overlapping:
        return logits.argmax(dim=1).to(torch.uint8)
    bits = 1 << torch.arange(logits.shape[1], device=logits.device)
    return ((logits > 0) * bits[:, None, None]).sum(dim=1).to(torch.uint8)


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module is in the mode it was in before."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def pad_to_stride(images: Tensor, stride: int) -> tuple[Tensor, int, int]:
    """(B, C, H, W) grown so that both sizes are multiples of `stride`, and how many rows above and columns left were added.

    Half on each side, by mirroring, which is how training grows images smaller than its patch. Mirroring goes on where
    the image itself is smaller than what is missing.
    """
    (rows, top), (columns, left) = (_mirrored(size, stride) for size in images.shape[-2:])
    if len(rows) == images.shape[-2] and len(columns) == images.shape[-1]:
        return images, 0, 0
    return images[..., torch.from_numpy(rows)[:, None], torch.from_numpy(columns)], top, left


def _mirrored(size: int, stride: int) -> tuple[np.ndarray, int]:
    """Which of `size` lines stands at each place of the padded image, and how many come before the first."""
    missing = -size % stride
    before = missing // 2
    return np.pad(np.arange(size), (before, missing - before), mode="reflect"), before


def forward_padded(network: nn.Module, images: Tensor) -> Tensor:
    """Logits (B, classes, H, W) of images (B, C, H, W) of any size, padded to the network's stride on the way."""
    return call_padded(network, images, stride_of(network))


def call_padded(forward: Callable[[Tensor], Tensor], images: Tensor, stride: int) -> Tensor:
    """`forward` of images (B, C, H, W), padded to multiples of `stride` on the way; the result is cut back to (H, W)."""
    height, width = images.shape[-2:]
    padded, top, left = pad_to_stride(images, stride)
    return forward(padded)[..., top : top + height, left : left + width]


def stride_of(network: nn.Module) -> int:
    """The sizes that the network takes are the multiples of this."""
    return int(network.stride)  # type: ignore[arg-type]


def predict_logits(network: nn.Module, images: Tensor, settings: Evaluate) -> Tensor:
    """Logits (B, classes, H, W) of normalised images (B, C, H, W) of any size.

    Images larger than `settings.window` (rounded down to the stride) are predicted window by window and blended by Gaussian
    weights. The caller sets the mode of the network and switches gradients off.
    """
    stride = stride_of(network)
    largest = max(stride, settings.window // stride * stride)
    if max(images.shape[-2:]) <= largest:
        return forward_padded(network, images)
    return call_padded(lambda padded: _blended(network, padded, largest, settings), images, stride)


def _blended(network: nn.Module, images: Tensor, largest: int, settings: Evaluate) -> Tensor:
    """The mean of the logits of overlapping windows, weighted by a Gaussian about the centre of each.

    monai's `sliding_window_inference` computes the same (the tests compare them), but importing it takes seconds and brings
    in optuna, which a prediction must not need.
    """
    window = [min(size, largest) for size in images.shape[-2:]]
    corners = _corners(images.shape[-2:], window, settings.overlap)
    places = [(image, row, column) for image in range(len(images)) for row in corners[0] for column in corners[1]]
    weight = _gaussian(window).to(images)
    total, norm = None, torch.zeros(images.shape[-2:], dtype=images.dtype, device=images.device)
    for start in range(0, len(places), settings.batch):
        part = places[start : start + settings.batch]
        cuts = [(image, ..., slice(row, row + window[0]), slice(column, column + window[1])) for image, row, column in part]
        logits = network(torch.stack([images[cut] for cut in cuts]))
        if total is None:
            total = logits.new_zeros(len(images), logits.shape[1], *images.shape[-2:])
        for cut, found in zip(cuts, logits, strict=True):
            total[cut] += found * weight
            if cut[0] == 0:
                norm[cut[2:]] += weight
    assert total is not None
    return total / norm


def _corners(size: Sequence[int], window: Sequence[int], overlap: float) -> list[list[int]]:
    """Where windows begin along rows and columns: evenly, overlapping by at least about `overlap`, the last one at the end."""
    result = []
    for have, want in zip(size, window, strict=True):
        step = max(1, int(want * (1 - overlap)))
        count = -(-(have - want) // step) + 1
        result.append([min(place * step, have - want) for place in range(count)])
    return result


def _gaussian(window: Sequence[int]) -> Tensor:
    """Weights (rows, columns) of a window, 1 at its centre."""
    lines = []
    for size in window:
        place = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
        lines.append(torch.exp(-0.5 * (place * SHARPNESS / size) ** 2))
    return torch.outer(*lines).clamp_min(LEAST_WEIGHT)


def predict_flipped(network: nn.Module, images: Tensor, settings: Evaluate, overlapping: bool = False) -> Tensor:
    """Probabilities (B, classes, H, W): the mean over an image and its three mirror images, each turned back."""
    views = [probabilities_of(predict_logits(network, images.flip(axes), settings), overlapping).flip(axes) for axes in FLIPS]
    return torch.stack(views).mean(dim=0)


@dataclass(frozen=True)
class ImageBatch:
    """Cases of equal size: their indices in the store, and (B, C, H, W) normalised images on the device."""

    indices: tuple[int, ...]
    images: Tensor


def image_batches(
    store: Store,
    indices: Iterable[int],
    normalisation: Normalisation,
    settings: Evaluate,
    device: torch.device,
    image: Callable[[int], np.ndarray] | None = None,
) -> Iterator[ImageBatch]:
    """The cases at `indices`, those of equal size `settings.batch` at a time: grouped by size, within a size in their order.

    `image(index)`: what is shown in place of the stored image, (channels, H, W) of the same size.
    """
    image = image or store.image
    sizes: dict[tuple[int, int], list[int]] = {}
    for index in indices:
        case = store.cases[index]
        sizes.setdefault((case.height, case.width), []).append(index)
    for group in sizes.values():
        for start in range(0, len(group), settings.batch):
            part = tuple(group[start : start + settings.batch])
            images = np.stack([normalisation.apply(image(index)) for index in part])
            yield ImageBatch(part, torch.from_numpy(images).to(device))


def predict_batches(
    network: nn.Module, batches: Iterable[ImageBatch], settings: Evaluate, overlapping: bool = False
) -> Iterator[tuple[int, np.ndarray]]:
    """Predicted class ids of cases, or bit sets where classes overlap: pairs (index, (H, W) uint8), in the order of `batches`."""
    for batch in batches:
        with evaluating(network):
            labels = _labels(network, batch, settings, overlapping)
        yield from zip(batch.indices, labels, strict=True)


def _labels(network: nn.Module, batch: ImageBatch, settings: Evaluate, overlapping: bool) -> np.ndarray:
    """(B, H, W) uint8 as of `labels_of`; the network is in evaluation mode."""
    return labels_of(predict_logits(network, batch.images, settings), overlapping).cpu().numpy()


def predict_cases(
    network: nn.Module,
    store: Store,
    indices: Iterable[int],
    normalisation: Normalisation,
    settings: Evaluate,
    device: torch.device,
) -> Iterator[tuple[int, np.ndarray]]:
    """`predict_batches` of the cases at `indices`: they come grouped by size, in the order of `indices` within a size."""
    batches = image_batches(store, indices, normalisation, settings, device)
    return predict_batches(network, batches, settings, store.overlapping)


def batches_dice(network: nn.Module, batches: Iterable[ImageBatch], store: Store, settings: Evaluate) -> float:
    """Mean over the cases of their mean foreground Dice, at full size; which classes count says `metrics.mean_case_dice`.

    This is what validation and selection go by.
    """
    counts = []
    with evaluating(network):  # once: to walk over the modules of a supernet for each batch would cost as much as running it
        for batch in batches:
            found = zip(batch.indices, _labels(network, batch, settings, store.overlapping), strict=True)
            counts += [pixel_counts(labels, store.mask(index), store.classes, store.overlapping) for index, labels in found]
    return mean_case_dice(np.stack(counts))


def mean_dice(
    network: nn.Module,
    store: Store,
    indices: Iterable[int],
    normalisation: Normalisation,
    settings: Evaluate,
    device: torch.device,
) -> float:
    """`batches_dice` of the cases at `indices`."""
    return batches_dice(network, image_batches(store, indices, normalisation, settings, device), store, settings)


def renew_statistics(hard: HardNetwork, images: Iterable[Tensor]) -> None:
    """Recalibrates the norms of a genotype's branches on `images` (B, C, H, W), padded to its stride where needed."""
    recalibrate(hard, [pad_to_stride(batch, hard.stride)[0] for batch in images])


def inherited_dice(
    hard: HardNetwork,
    images: Iterable[Tensor],
    store: Store,
    indices: Iterable[int],
    normalisation: Normalisation,
    settings: Evaluate,
    device: torch.device,
) -> float:
    """`mean_dice` of a genotype with its supernet's weights, statistics first renewed on `images` (B, C, H, W)."""
    renew_statistics(hard, images)
    return mean_dice(hard, store, indices, normalisation, settings, device)
