"""Training from scratch by the one recipe of a study: what retrainings and the short trainings of the selection share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from thrifty.config import Evaluate, Retrain, Study
from thrifty.data.normalise import Normalisation
from thrifty.data.prepare import Prepared, training_normalisation
from thrifty.errors import ThriftyError
from thrifty.inference import forward_padded, mean_dice
from thrifty.losses import loss_for
from thrifty.setbacks import Easing, NotFinite, backward, check_finite
from thrifty.train import cosine, make_optimiser

if TYPE_CHECKING:
    from thrifty.data.batches import Batches
    from thrifty.data.splits import Splits


def make_trainee(
    network: nn.Module, study: Study, prepared: Prepared, splits: Splits, seed: int, device: torch.device
) -> ScratchTraining:
    """A network with its training batches, its selection cases and the normalisation learnt on the training cases."""
    from thrifty.data.batches import Batches

    store = prepared.store
    training = store.indices(splits.training)
    normalisation = training_normalisation(study, store, splits)
    batches = Batches(store, tuple(training), normalisation, study.data, study.retrain.batch, seed, device)
    return ScratchTraining(network, batches, store.indices(splits.selection), normalisation, study, device)


class ScratchTraining:
    """The trainee: an epoch by the loss of the study with a cosine learning rate, then maybe a look at the selection cases."""

    def __init__(
        self,
        network: nn.Module,
        batches: Batches,
        selection: Sequence[int],
        normalisation: Normalisation,
        study: Study,
        device: torch.device,
    ) -> None:
        self.network, self.batches, self.selection = network, batches, selection
        self.normalisation, self.study, self.device = normalisation, study, device
        self.loss = loss_for(study.loss, batches.store, batches.indices)
        self.parameters = list(network.parameters())
        self.optimiser = make_optimiser(self.parameters, study.retrain.optimiser)
        self.best_dice, self.best_epoch = -1.0, -1
        self.best_weights: dict[str, Tensor] = {}
        self.easing = Easing()

    @property
    def recipe(self) -> Retrain:
        return self.study.retrain

    def epoch(self, index: int) -> dict[str, Any]:
        self.network.train()
        total = torch.zeros((), device=self.device)
        for step in range(self.recipe.steps):
            total += self._step(index, step)
        check_finite(self.parameters, f"a weight is not finite after epoch {index}; {self._advice()}")
        row: dict[str, Any] = {"loss": float(total) / self.recipe.steps, "lr": self.optimiser.param_groups[0]["lr"], "dice": None}
        if is_validated(index, self.recipe):
            row["dice"] = self._validate(index)
        return row

    def _step(self, epoch: int, step: int) -> Tensor:
        position = epoch * self.recipe.steps + step
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.optimiser.lr * cosine(position, self.recipe.epochs * self.recipe.steps)
            group["lr"] *= self.easing.rate_factor
        images, masks = self.batches.draw(epoch, step)
        self.optimiser.zero_grad(set_to_none=True)
        loss = backward(self.network, self._forward, images, lambda logits: self.loss(logits, masks), self.easing.pieces)
        if not math.isfinite(loss.item()):
            raise NotFinite(f"the loss became {loss.item()} in epoch {epoch}, step {step}; {self._advice()}")
        if self.recipe.optimiser.clip:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.optimiser.clip)
        self.optimiser.step()
        return loss

    def _advice(self) -> str:
        return (
            f"lower retrain.optimiser.lr (now {self.recipe.optimiser.lr:g}) or set retrain.optimiser.clip, "
            "and run it again under another name="
        )

    def _forward(self, images: Tensor) -> Tensor:
        try:
            return forward_padded(self.network, images)
        except ValueError as error:  # torch's, of batch normalisation
            if "more than 1 value per channel" not in str(error):
                raise
            rows, columns = images.shape[-2:]
            pieces = " (memory does not suffice for more at once)" if self.easing.pieces > 1 else ""
            raise ThriftyError(
                f"a batch of {len(images)} patches of {rows}x{columns}{pieces} leaves one value per channel at the lowest "
                "level, too few for batch normalisation; raise retrain.batch or data.patch"
            ) from None

    @property
    def evaluate(self) -> Evaluate:
        """The settings of predictions, with as much smaller batches as memory has asked for in training."""
        settings = self.study.evaluate
        return settings.model_copy(update={"batch": max(1, settings.batch // self.easing.pieces)})

    def _validate(self, index: int) -> float:
        """The mean Dice on the selection cases; of equally good epochs the first one is kept."""
        dice = mean_dice(self.network, self.batches.store, self.selection, self.normalisation, self.evaluate, self.device)
        if dice > self.best_dice:
            self.best_dice, self.best_epoch = dice, index
            self.best_weights = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
        return dice

    def state_dict(self) -> dict[str, Any]:
        best = {"dice": self.best_dice, "epoch": self.best_epoch, "weights": self.best_weights}
        return {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict(), "best": best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        best = state["best"]
        self.best_dice, self.best_epoch, self.best_weights = best["dice"], best["epoch"], dict(best["weights"])


def is_validated(epoch: int, recipe: Retrain) -> bool:
    """Whether the selection cases are looked at after `epoch`: every `validate_every` epochs, and after the last one."""
    return (epoch + 1) % recipe.validate_every == 0 or epoch + 1 == recipe.epochs
