"""Every loss against its formula written out, or monai's whole loss; ignored pixels; batches without a class."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from thrifty.config import Data, Loss
from thrifty.data.batches import Batches
from thrifty.data.labels import IGNORED
from thrifty.data.normalise import Normalisation
from thrifty.data.store import build_store
from thrifty.errors import ThriftyError
from thrifty.losses import class_weights, dice_ce, make_loss

NAMES = ("dice_ce", "dice", "ce", "focal", "dice_focal", "tversky")
KINDS = [(name, overlapping) for name in NAMES for overlapping in (False, True)]


def by_hand(logits: Tensor, masks: Tensor) -> Tensor:
    share = logits.softmax(dim=1)
    dice = []
    for index in range(1, logits.shape[1]):
        truth = (masks == index).double()
        dice.append(2 * (share[:, index] * truth).sum() / (share[:, index].sum() + truth.sum()))
    likelihood = share.gather(1, masks.unsqueeze(1)).log().mean()
    return 1 - torch.stack(dice).mean() - likelihood


def batch(classes: int, overlapping: bool = False, seed: int = 0, size: tuple[int, ...] = (3, 7, 5)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size[0], classes, *size[1:], generator=generator, dtype=torch.float64)
    return logits, torch.randint(2**classes if overlapping else classes, size, generator=generator)


def loss_of(name: str, overlapping: bool = False, weights: tuple[float, ...] | None = None, **values: Any):
    return make_loss(Loss.model_validate({"name": name, **values}), overlapping, weights)


def planes(masks: Tensor, classes: int, overlapping: bool) -> Tensor:
    """(B, classes, H, W) of 0 and 1, written another way than in the losses."""
    if overlapping:
        return torch.stack([(masks // 2**k) % 2 for k in range(classes)], dim=1).double()
    return torch.nn.functional.one_hot(masks, classes).movedim(-1, 1).double()


def test_loss_is_one_minus_batch_foreground_dice_plus_cross_entropy() -> None:
    for classes in (2, 4):
        logits, masks = batch(classes)
        torch.testing.assert_close(dice_ce(logits, masks), by_hand(logits, masks), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_default_is_bit_for_bit_what_it_was(classes: int) -> None:
    """Studies with an outcome were trained by monai's DiceCELoss."""
    from monai.losses import DiceCELoss

    former = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    pairs = []
    logits, masks = batch(classes)
    for loss in (lambda x: make_loss(Loss())(x, masks), lambda x: former(x, masks.unsqueeze(1))):
        leaf = logits.float().requires_grad_()
        value = loss(leaf)
        value.backward()
        pairs.append((value, leaf.grad))
    assert torch.equal(pairs[0][0], pairs[1][0]) and torch.equal(pairs[0][1], pairs[1][1])


@pytest.mark.parametrize(("name", "overlapping"), KINDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_every_loss_is_its_formula(name: str, overlapping: bool, weighted: bool) -> None:
    classes, gamma, alpha, beta = 3, 1.5, 0.2, 0.6
    weights = (0.5, 2.0, 3.5) if weighted else None
    logits, masks = batch(classes, overlapping)
    truth = planes(masks, classes, overlapping)
    p = logits.sigmoid() if overlapping else logits.softmax(1)
    own = torch.tensor(weights or (1.0, 1.0, 1.0), dtype=torch.float64).view(1, -1, 1, 1)

    expected = torch.zeros((), dtype=torch.float64)
    if name != "ce" and name != "focal":
        first = 0 if overlapping else 1
        by_class = []
        for k in range(first, classes):
            both, false_positive, false_negative = (
                (p[:, k] * truth[:, k]).sum(),
                (p[:, k] * (1 - truth[:, k])).sum(),
                ((1 - p[:, k]) * truth[:, k]).sum(),
            )
            a, b = (alpha, beta) if name == "tversky" else (0.5, 0.5)
            by_class.append(1 - both / (both + a * false_positive + b * false_negative))
        scale = own.flatten()[first:] / own.flatten()[first:].mean()
        expected = expected + (scale * torch.stack(by_class)).mean()
    if name not in ("dice", "tversky"):
        true_p = torch.where(truth > 0, p, 1 - p) if overlapping else (p * truth).sum(1, keepdim=True)
        share = torch.where(truth > 0, own, 1.0) if overlapping else (truth * own).sum(1, keepdim=True)
        values = -true_p.log() * ((1 - true_p) ** gamma if "focal" in name else 1)
        expected = expected + (share * values).sum() / share.sum()
    found = loss_of(name, overlapping, weights, gamma=gamma, alpha=alpha, beta=beta)(logits, masks)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_perfect_logits_cost_nothing_and_gradients_are_finite_without_foreground() -> None:
    masks = torch.randint(3, (2, 8, 8), generator=torch.Generator().manual_seed(1))
    perfect = 100.0 * torch.nn.functional.one_hot(masks, 3).permute(0, 3, 1, 2).float()
    assert dice_ce(perfect, masks).item() < 1e-4
    logits = torch.zeros(2, 3, 8, 8, requires_grad=True)
    dice_ce(logits, torch.zeros(2, 8, 8, dtype=torch.int64)).backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize(("name", "overlapping"), KINDS)
def test_ignored_pixels_change_nothing_and_get_no_gradient(name: str, overlapping: bool) -> None:
    weights = (1.0, 2.0, 5.0)
    loss = loss_of(name, overlapping, weights)
    logits, masks = batch(3, overlapping)
    away = torch.rand(masks.shape, generator=torch.Generator().manual_seed(5)) < 0.4
    holed = torch.where(away, IGNORED, masks)
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, holed)
    value.backward()
    assert leaf.grad is not None
    by_pixel = leaf.grad.abs().amax(1)
    assert (by_pixel[away] == 0).all() and (by_pixel[~away] > 0).all()
    other = torch.where(away.unsqueeze(1), 1e3 * torch.randn_like(logits), logits)
    torch.testing.assert_close(loss(other, holed), value, rtol=0, atol=0)
    alone = loss(logits.movedim(1, -1)[~away].T[None, :, None], masks[~away][None, None])
    torch.testing.assert_close(value, alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "overlapping"), KINDS)
def test_a_batch_of_which_nothing_counts_costs_nothing(name: str, overlapping: bool) -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    value = loss_of(name, overlapping, (1.0, 2.0, 5.0))(logits, torch.full((2, 4, 4), IGNORED))
    value.backward()
    assert value.item() == 0 and logits.grad is not None and (logits.grad == 0).all()


@pytest.mark.parametrize(("name", "overlapping"), KINDS)
def test_a_batch_without_foreground_pushes_every_class_down(name: str, overlapping: bool) -> None:
    """A step against the gradient makes each foreground class less likely everywhere, and is no vanishing one."""
    logits, _ = batch(3, overlapping, size=(2, 32, 32))
    leaf = logits.float().requires_grad_()
    loss = loss_of(name, overlapping)
    value = loss(leaf, torch.zeros(2, 32, 32, dtype=torch.int64))
    value.backward()
    assert value.isfinite() and leaf.grad is not None and leaf.grad.isfinite().all()
    with torch.no_grad():
        stepped = leaf - 100 * leaf.grad
        before, after = ((x.sigmoid() if overlapping else x.softmax(1)[:, 1:].sum(1)) for x in (leaf, stepped))
    assert (after < before).all()
    assert float(leaf.grad.abs().sum()) > 0.01
    nothing = torch.full((2, 3, 32, 32), -30.0)
    if not overlapping:
        nothing[:, 0] = 30.0
    assert loss(nothing, torch.zeros(2, 32, 32, dtype=torch.int64)).item() < 1e-4


def store_of(pixels: list[tuple[int, ...]], overlapping: bool = False, total: int = 100) -> Any:
    places = [SimpleNamespace(class_pixels=row) for row in pixels]
    labels = ("background", "a", "b")
    return SimpleNamespace(
        places=places, overlapping=overlapping, labels=labels, classes=3 - overlapping, counted_pixels=lambda index: total
    )


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    import numpy as np
    from sklearn.utils.class_weight import compute_class_weight

    pixels = [(90, 8, 2), (80, 20, 0), (0, 0, 100)]
    balanced = Loss(class_weights="balanced")
    ids = np.repeat([0, 1, 2], np.sum(pixels[:2], axis=0))
    wanted = compute_class_weight("balanced", classes=np.arange(3), y=ids)
    assert class_weights(balanced, store_of(pixels), [0, 1]) == pytest.approx(tuple(wanted))
    assert class_weights(balanced, store_of([(90, 10, 0)]), [0])[2] == 1.0, "a class that no training case holds"
    assert class_weights(balanced, store_of([(60, 40, 10), (90, 10, 0)], True), [0, 1]) == pytest.approx((150 / 50, 190 / 10))
    assert class_weights(Loss(), store_of(pixels), [0]) is None


def test_a_list_of_weights_needs_one_for_each_output() -> None:
    assert class_weights(Loss(class_weights=(1, 2, 3)), store_of([(1, 1, 1)]), [0]) == (1, 2, 3)
    assert class_weights(Loss(class_weights=(2, 3)), store_of([(1, 1, 1)], True), [0]) == (2, 3)
    with pytest.raises(ThriftyError, match="has 2 numbers, the data needs 3: one for each of background, a, b"):
        class_weights(Loss(class_weights=(1, 2)), store_of([(1, 1, 1)]), [0])
    with pytest.raises(ThriftyError, match="has 3 numbers, the data needs 2: one for each of a, b"):
        class_weights(Loss(class_weights=(1, 2, 3)), store_of([(1, 1, 1)], True), [0])


def test_a_batch_of_normal_cases_of_busi(real_data: Any, tmp_path: Any) -> None:
    """Ultrasound without a lesion: every loss is finite and steps towards claiming less, on real images and masks."""
    store = build_store(Data(source=str(real_data("BUSI")), max_cases=60), tmp_path / "data")
    normal = tuple(index for index in range(len(store.cases)) if not store.present(index))
    assert 3 <= len(normal) <= 20
    stream = Batches(store, normal, Normalisation("case"), Data(patch=64), 4, 0, torch.device("cpu"))
    images, masks = stream.draw(0, 0)
    assert not masks.any()
    for name in NAMES:
        torch.manual_seed(0)
        network = torch.nn.Conv2d(1, 2, 3, padding=1)
        loss = loss_of(name)
        before = loss(network(images), masks)
        before.backward()
        claimed = network(images).softmax(1)[:, 1].mean()
        with torch.no_grad():
            for parameter in network.parameters():
                assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 1e-4
                parameter -= 0.1 * parameter.grad
            assert before.isfinite() and network(images).softmax(1)[:, 1].mean() < claimed
