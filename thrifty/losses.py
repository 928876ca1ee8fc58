"""The loss of every training: Dice + cross-entropy."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from monai.losses import DiceCELoss


@cache
def _loss() -> DiceCELoss:
    """monai's loss, made once: importing monai takes seconds.

    The Dice part sees the foreground classes only, as the Dice that is reported: the background is most of an image and would
    hide them. It is taken over the batch and not image by image, since a patch without a class would otherwise count as
    a full error at the first wrong pixel. The cross-entropy sees all classes.
    """
    from monai.losses import DiceCELoss

    return DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)


def dice_ce(logits: Tensor, masks: Tensor) -> Tensor:
    """Dice + cross-entropy, equal parts.

    Args:
        logits: (B, classes, H, W), at least two classes, class 0 being the background.
        masks: (B, H, W) class ids.

    Returns:
        A scalar: 1 - mean foreground Dice of the softmax over the batch, plus the mean cross-entropy over the pixels.
    """
    return _loss()(logits, masks.unsqueeze(1))
