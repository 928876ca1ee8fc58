"""A step of sampled networks: each has a part of the batch for itself, which costs what one network on the whole batch does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thrifty.losses import Loss
from thrifty.setbacks import backward
from thrifty.space.genotype import Genotype


@dataclass(frozen=True)
class Part:
    """A part of a batch, images (b, C, h, w) and masks (b, h, w), and the network that it goes through: None is the mixture."""

    images: Tensor
    masks: Tensor
    genotype: Genotype | None


Forward = Callable[[Tensor, Genotype | None], Tensor]
"""Images and a network to logits."""


def cut(images: Tensor, masks: Tensor, genotypes: Sequence[Genotype]) -> list[Part]:
    """A part for each genotype, the first ones an image larger where they cannot be equal; not more genotypes than images."""
    parts = zip(images.tensor_split(len(genotypes)), masks.tensor_split(len(genotypes)), genotypes, strict=True)
    return [Part(*part) for part in parts]


def backward_parts(
    network: nn.Module, parts: Sequence[Part], forward: Forward, loss_of: Loss, pieces: int, learnt: list[nn.Parameter] | None
) -> Tensor:
    """Adds the gradients of the mean over all images of the loss of their part to those of `learnt`; returns that mean.

    Args:
        learnt: the leaves that get gradients; all of them where it is None.
        pieces: in how many each part goes through its network (`thrifty.setbacks.backward`).

    Raises:
        OnePiece: the largest part has fewer images than pieces.
    """
    sizes = [len(part.images) for part in parts]
    total = torch.zeros((), device=parts[0].images.device)
    for part, size in zip(parts, sizes, strict=True):
        share = size / sum(sizes)
        total += backward(
            network,
            lambda images, part=part: forward(images, part.genotype),
            part.images,
            lambda logits, part=part, share=share: share * loss_of(logits, part.masks),
            min(pieces, size) if pieces <= max(sizes) else pieces,
            learnt,
        )
    return total


@contextmanager
def weights_fixed(supernet: nn.Module) -> Iterator[None]:
    """No gradients of the weights: naming the parameters that want one does not stop the kernel gradients of
    thrifty.nets.depthwise, since an autograd function in Python is not told what is wanted."""
    supernet.requires_grad_(False)
    try:
        yield
    finally:
        supernet.requires_grad_(True)
