"""Where a training begins: the bias of the last layer says how frequent the classes are.

A network of a few thousand parameters that begins with equal probabilities spends its training on learning that most pixels are
background, and may end there. Source: Lin 2017, "Focal loss for dense object detection", section 4.1, which begins at 0.01 for
rare classes. Numbers: docs/LOG.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from thrifty.config import Loss
from thrifty.losses import class_pixels, class_weights

if TYPE_CHECKING:
    from thrifty.data.store import Store

RAREST = 0.01
"""The least probability that a class begins with (Lin 2017)."""


def begin_at_frequencies(network: nn.Module, loss: Loss, store: Store, training: Sequence[int]) -> None:
    """Sets the bias of the last layer to the logits of the classes' shares of the pixels that count in the training cases.

    With features of zero the network then says these shares: log p_k for exclusive classes (softmax), log p_k / (1 - p_k) for
    overlapping ones (sigmoid). A pixel counts by its class weight, as in the loss. A network without such a bias stays as it is.

    Args:
        network: whose last layer is `classifier` (lattice) or `head` (baselines).
        training: places in the store.
    """
    last = getattr(network, "classifier", None) or getattr(network, "head", None)
    if not isinstance(last, nn.Conv2d) or last.bias is None:
        return
    with torch.no_grad():
        last.bias.copy_(torch.tensor(first_logits(loss, store, training)))


def first_logits(loss: Loss, store: Store, training: Sequence[int]) -> list[float]:
    """One for each output of a network."""
    total, pixels = class_pixels(store, training)
    weights = np.array(class_weights(loss, store, training) or np.ones(len(pixels)))
    if store.overlapping:
        shares = np.clip(weights * pixels / np.maximum(weights * pixels + total - pixels, 1), RAREST, 1 - RAREST)
        return (np.log(shares) - np.log1p(-shares)).tolist()
    shares = np.maximum(weights * pixels / max((weights * pixels).sum(), 1), RAREST)
    return np.log(shares / shares.sum()).tolist()
