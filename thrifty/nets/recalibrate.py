"""Renews the running statistics of a network's norms, after its weights were trained in another mixture of branches."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from thrifty.nets.layers import Norm


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Sets the running statistics of every norm that runs to the plain mean over `batches` of images (B, C, H, W).

    Leaves the network in evaluation mode.
    """
    norms = [module for module in network.modules() if isinstance(module, (Norm, _BatchNorm))]  # the latter in ops of users
    before = [norm.momentum for norm in norms]
    network.train()
    for count, images in enumerate(batches, start=1):
        for norm in norms:
            norm.momentum = 1.0 / count
        network(images)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum  # pyrefly: ignore[bad-assignment]
    network.eval()
