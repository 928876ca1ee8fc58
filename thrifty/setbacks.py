"""What a training does about a setback: too little memory, or a loss that is no longer finite.

The training goes back to its last good epoch and is eased from there on: batches go through the network in smaller pieces, or
the learning rates are halved. Both are functions of what happened alone, are kept in the checkpoint and recorded, so that a
training that was stopped in between ends as one that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from thrifty.errors import ThriftyError
from thrifty.nets.recalibrate import batch_statistics

LOWEST_RATE = 1 / 8  # of the learning rates asked for: a loss that still is not finite then will not become so
MOST_PIECES = 1024


class NotFinite(ThriftyError):
    """The loss or a weight is NaN or infinite; the text says where, and what to do if nothing else helped."""


class OnePiece(ThriftyError):
    """A batch cannot be cut into as many pieces as memory would need."""


@dataclass(frozen=True)
class Easing:
    """`pieces`: in how many a batch goes through the network; `rate_factor`: of all learning rates."""

    pieces: int = 1
    rate_factor: float = 1.0

    def as_row(self) -> dict[str, float]:
        """What differs from a training without setbacks, for the record."""
        return {key: value for key, value in vars(self).items() if value != 1}


def eased(easing: Easing, error: Exception, epoch: int) -> tuple[Easing, str]:
    """The easing after a setback, and the line that says so.

    Raises:
        ThriftyError: nothing more can be done about it.
        Exception: `error` itself, which is no setback.
    """
    if isinstance(error, NotFinite):
        if easing.rate_factor <= LOWEST_RATE:
            raise ThriftyError(f"{error} (learning rates down to 1/{1 / LOWEST_RATE:g} from the last good epoch did not help)")
        after = replace(easing, rate_factor=easing.rate_factor / 2)
        return (
            after,
            f"the loss was not finite in epoch {epoch}: back to the last good epoch, learning rates times {after.rate_factor:g}",
        )
    if is_out_of_memory(error) and easing.pieces < MOST_PIECES:
        after = replace(easing, pieces=2 * easing.pieces)
        return (
            after,
            f"out of memory in epoch {epoch}: back to the last good epoch, batches in {after.pieces} pieces, gradients added up",
        )
    raise error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory for tensors ran out, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))


def check_finite(parameters: Iterable[Tensor], text: str) -> None:
    """
    Raises:
        NotFinite: with that text; a last step can spoil weights whose loss was still finite.
    """
    if not all(bool(torch.isfinite(parameter).all()) for parameter in parameters):
        raise NotFinite(text)


def backward(
    network: nn.Module,
    forward: Callable[[Tensor], Tensor],
    images: Tensor,
    loss_of: Callable[[Tensor], Tensor],
    pieces: int = 1,
    parameters: Sequence[Tensor] | None = None,
) -> Tensor:
    """Adds the gradients of `loss_of(forward(images))` to those of the parameters; returns the loss, detached.

    In several pieces the logits of all of them are computed first, without a graph; the loss of the whole batch gives the
    gradient with respect to the logits, and each piece then passes its part on (GradCache, Gao 2021, sec. 3). So the loss may be
    any function of the batch, such as Dice over all of its images, and the effective batch stays: loss and gradients are those
    of the whole batch but for batch normalisation, which sees the statistics of a piece. It costs one forward pass more.

    Args:
        network: whose running statistics the first pass leaves alone.
        forward: images (B, C, H, W) to logits (B, classes, H, W).
        parameters: the leaves that get gradients; all of them where it is None.

    Raises:
        OnePiece: the batch has fewer images than pieces.
    """
    if pieces == 1:
        loss = loss_of(forward(images))
        loss.backward(inputs=parameters)
        return loss.detach()
    if pieces > len(images):
        raise OnePiece(
            f"memory does not suffice even for one image at a time (batch of {len(images)}); lower data.patch, give a smaller "
            "budget, or a machine with more memory"
        )
    parts = images.tensor_split(pieces)
    with torch.no_grad(), batch_statistics(network):
        logits = torch.cat([forward(part) for part in parts])
    logits.requires_grad_()
    loss = loss_of(logits)
    loss.backward(inputs=[logits, *(parameters or network.parameters())])  # the loss may depend on parameters directly as well
    assert logits.grad is not None
    for part, gradient in zip(parts, logits.grad.tensor_split(pieces), strict=True):
        forward(part).backward(gradient, inputs=parameters)
    return loss.detach()
