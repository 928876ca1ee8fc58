"""The loss of every training: a part that compares regions (Dice, Tversky), a part that looks at pixels, or both.

All parts see a batch as one set of pixels, from which ignored ones are taken out before anything is computed: they change no
value and get no gradient. Where classes overlap each has a sigmoid of its own and its background is all else; otherwise
softmax, and the region part leaves the background out, as the Dice that is reported: it is most of an image and would hide the
others. Formulas, class weights and what an empty mask costs: docs/labels.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from thrifty.config import Loss as Settings
from thrifty.data import labels
from thrifty.errors import ThriftyError

if TYPE_CHECKING:
    from thrifty.data.store import Store

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of logits (B, classes, H, W) and masks (B, H, W) int64 as in `thrifty.data.labels`: a scalar."""
Weights = tuple[float, ...]

REGION = {"dice_ce": "dice", "dice": "dice", "dice_focal": "dice", "tversky": "tversky"}
PIXEL = {"dice_ce": "ce", "ce": "ce", "dice_focal": "focal", "focal": "focal"}
"""The two parts of each loss, by `loss.name`."""


def loss_for(settings: Settings, store: Store, training: Sequence[int]) -> Loss:
    """The loss of a study on a data set; balanced class weights are those of the cases at `training`."""
    return make_loss(settings, store.overlapping, class_weights(settings, store, training))


@cache
def make_loss(settings: Settings, overlapping: bool = False, weights: Weights | None = None) -> Loss:
    """The loss of `settings`, for exclusive or overlapping classes; `weights` has one number for each output of a network.

    A batch without a single pixel that counts costs 0, with gradient 0.
    """
    region = _region_part(settings, overlapping, weights) if settings.name in REGION else None
    pixel = _pixel_part(settings, overlapping, weights) if settings.name in PIXEL else None

    def loss(logits: Tensor, masks: Tensor) -> Tensor:
        logits, masks = _counted(logits, masks)
        if not masks.numel():
            return logits.sum()
        targets = _multi_hot(masks, logits) if overlapping else masks
        if region is None:
            assert pixel is not None
            return pixel(logits, targets)
        return region(logits, targets) if pixel is None else region(logits, targets) + pixel(logits, targets)

    return loss


def dice_ce(logits: Tensor, masks: Tensor) -> Tensor:
    """Dice + cross-entropy, equal parts: the loss where a study says nothing else, for exclusive classes.

    Args:
        logits: (B, classes, H, W), at least two classes, class 0 being the background.
        masks: (B, H, W) class ids, and IGNORED.

    Returns:
        A scalar: 1 - mean foreground Dice of the softmax over the batch, plus the mean cross-entropy over the pixels.
    """
    return make_loss(Settings())(logits, masks)


def class_weights(settings: Settings, store: Store, training: Sequence[int]) -> Weights | None:
    """One weight for each output of a network, or None where all count alike.

    'balanced' goes by n_k, the pixels of class k in the training cases, of N that count. Exclusive classes: w_k = N / (K n_k)
    for K classes with the background (King & Zeng 2001; scikit-learn's `class_weight='balanced'`). Overlapping classes: the
    pixels of a class weigh w_k = (N - n_k) / n_k, all others 1. A class that no training case holds has the weight 1.

    Raises:
        ThriftyError: a list with another length than there are outputs.
    """
    given = settings.class_weights
    if given is None:
        return None
    if given != "balanced":
        if len(given) != store.classes:
            raise ThriftyError(
                f"loss.class_weights has {len(given)} numbers, the data needs {store.classes}: one for each of "
                f"{', '.join(store.labels[store.overlapping :])}"
            )
        return tuple(given)
    total, pixels = class_pixels(store, training)
    if store.overlapping:
        return tuple((total - n) / n if 0 < n < total else 1.0 for n in pixels.tolist())
    return tuple(total / (len(pixels) * n) if n else 1.0 for n in pixels.tolist())


def class_pixels(store: Store, training: Sequence[int]) -> tuple[float, np.ndarray]:
    """The pixels of the training cases that count, and those of the class of each output of a network (float64)."""
    pixels = np.array([store.places[index].class_pixels for index in training], np.float64).sum(axis=0)
    if store.overlapping:
        return float(sum(store.counted_pixels(index) for index in training)), pixels[1:]
    return float(pixels.sum()), pixels


def _counted(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """The same where nothing is ignored, otherwise (1, classes, pixels) and (1, pixels) of the pixels that count."""
    kept = labels.counted(masks)
    if bool(kept.all()):
        return logits, masks
    return logits.movedim(1, -1)[kept].T.unsqueeze(0), masks[kept].unsqueeze(0)


def _multi_hot(bits: Tensor, logits: Tensor) -> Tensor:
    """(B, ...) bit sets as (B, classes, ...) of 0 and 1."""
    planes = [labels.pixels_of(bits, k, overlapping=True) for k in range(1, logits.shape[1] + 1)]
    return torch.stack(planes, dim=1).to(logits.dtype)


def _region_part(settings: Settings, overlapping: bool, weights: Weights | None) -> Loss:
    """1 - Dice (or the Tversky index) of each class over the whole batch, then the mean, weighted where weights are given.

    Over the batch and not image by image, since a patch without a class would otherwise count as a full error at the first wrong
    pixel. The same holds for a batch without a class, and the gradient there all but vanishes: where no pixel part takes
    care of it, such a class costs its mean probability instead, which is 0 where nothing is claimed.
    """
    from monai.losses import DiceLoss, TverskyLoss

    shared: dict[str, Any] = {"include_background": overlapping, "to_onehot_y": not overlapping, "reduction": "none"}
    shared |= {"sigmoid": overlapping, "softmax": not overlapping, "batch": True}
    tversky = REGION[settings.name] == "tversky"
    by_class = TverskyLoss(**shared, alpha=settings.alpha, beta=settings.beta) if tversky else DiceLoss(**shared)
    alone = settings.name not in PIXEL
    scale = None if weights is None else _of_mean_one(weights if overlapping else weights[1:])

    def part(logits: Tensor, targets: Tensor) -> Tensor:
        costs = by_class(logits, targets if overlapping else targets.unsqueeze(1)).flatten()
        if alone:
            present, claimed = _presence(logits, targets, overlapping)
            costs = torch.where(present, costs, claimed)
        return costs.mean() if scale is None else (costs * costs.new_tensor(scale)).mean()

    return part


def _presence(logits: Tensor, targets: Tensor, overlapping: bool) -> tuple[Tensor, Tensor]:
    """Of each foreground class: whether the batch holds it, and its mean probability."""
    across = [0, *range(2, logits.ndim)]
    if overlapping:
        return targets.sum(across) > 0, logits.sigmoid().mean(across)
    present = torch.bincount(targets.flatten(), minlength=logits.shape[1])[1:] > 0
    return present, logits.softmax(1)[:, 1:].mean(across)


def _of_mean_one(weights: Weights) -> list[float]:
    """So that weights move the region part between classes and not against the pixel part."""
    return (np.array(weights) / np.mean(weights)).tolist()


def _pixel_part(settings: Settings, overlapping: bool, weights: Weights | None) -> Loss:
    """Mean over the pixels, weighted by the class that each is of; over the classes too where they overlap."""
    if PIXEL[settings.name] == "ce":
        if not overlapping:
            return lambda logits, masks: F.cross_entropy(logits, masks, None if weights is None else logits.new_tensor(weights))
        values: Loss = lambda logits, targets: F.binary_cross_entropy_with_logits(logits, targets, reduction="none")  # noqa: E731
    else:
        values = _focal(settings.gamma, overlapping)

    def part(logits: Tensor, targets: Tensor) -> Tensor:
        found = values(logits, targets)
        if weights is None:
            return found.mean()
        own = logits.new_tensor(weights)
        by_class = own.view(-1, *[1] * (logits.ndim - 2))
        share = torch.where(targets > 0, by_class, 1.0) if overlapping else own[targets]
        return (share * found).sum() / share.sum()

    return part


def _focal(gamma: float, overlapping: bool) -> Loss:
    """-(1 - p)^gamma log p, p being the probability of what is true (Lin 2017, eq. 4): of each pixel (and class)."""
    from monai.losses import FocalLoss

    focal = FocalLoss(gamma=gamma, use_softmax=not overlapping, to_onehot_y=not overlapping, reduction="none")
    if overlapping:
        return focal
    return lambda logits, masks: focal(logits, masks.unsqueeze(1)).sum(1)  # it is 0 for all classes but the true one
