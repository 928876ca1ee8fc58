"""Renews the running statistics of a network's norms, after its weights were trained in another mixture of branches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from thrifty.nets.layers import Norm


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Sets the running statistics of every norm that runs to the plain mean over `batches` of images (B, C, H, W).

    Leaves the network in evaluation mode.
    """
    norms = _norms(network)
    before = [norm.momentum for norm in norms]
    network.train()
    for count, images in enumerate(batches, start=1):
        for norm in norms:
            norm.momentum = 1.0 / count
        network(images)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum  # pyrefly: ignore[bad-assignment]
    network.eval()


@contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """Inside, every norm goes by the batch that it sees and keeps its running statistics as they are."""
    norms, training = _norms(network), network.training
    before = [norm.momentum for norm in norms]
    network.train()
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum  # pyrefly: ignore[bad-assignment]
        network.train(training)


def _norms(network: nn.Module) -> list[Norm | _BatchNorm]:
    return [module for module in network.modules() if isinstance(module, (Norm, _BatchNorm))]  # the latter in ops of users
