"""Dice + cross-entropy against both formulas written out."""

from __future__ import annotations

import torch

from thrifty.losses import dice_ce


def by_hand(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    share = logits.softmax(dim=1)
    dice = []
    for index in range(1, logits.shape[1]):
        truth = (masks == index).double()
        dice.append(2 * (share[:, index] * truth).sum() / (share[:, index].sum() + truth.sum()))
    likelihood = share.gather(1, masks.unsqueeze(1)).log().mean()
    return 1 - torch.stack(dice).mean() - likelihood


def test_loss_is_one_minus_batch_foreground_dice_plus_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    for classes in (2, 4):
        logits = torch.randn(3, classes, 7, 5, generator=generator, dtype=torch.float64)
        masks = torch.randint(classes, (3, 7, 5), generator=generator)
        torch.testing.assert_close(dice_ce(logits, masks), by_hand(logits, masks), rtol=1e-5, atol=1e-5)


def test_perfect_logits_cost_nothing_and_gradients_are_finite_without_foreground() -> None:
    masks = torch.randint(3, (2, 8, 8), generator=torch.Generator().manual_seed(1))
    perfect = 100.0 * torch.nn.functional.one_hot(masks, 3).permute(0, 3, 1, 2).float()
    assert dice_ce(perfect, masks).item() < 1e-4
    logits = torch.zeros(2, 3, 8, 8, requires_grad=True)
    dice_ce(logits, torch.zeros(2, 8, 8, dtype=torch.int64)).backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
