"""`thrifty retrain`: every network of the comparison from scratch, by the same recipe, steps and seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from thrifty.config import Retrain, Study
from thrifty.data.normalise import Normalisation
from thrifty.data.prepare import Prepared, open_prepared, prepare, training_normalisation
from thrifty.errors import ThriftyError
from thrifty.inference import forward_padded, mean_dice
from thrifty.losses import dice_ce
from thrifty.model import Model, save_model, weights_hash
from thrifty.nets.build import build_network
from thrifty.networks import planned_networks, read_networks, trial_arguments, trial_keys, trial_name, write_networks
from thrifty.results import Run, Trial, read_run, write_json
from thrifty.train import Report, choose_device, cosine, make_optimiser, run_epochs, seed_everything, threads_for

if TYPE_CHECKING:
    from thrifty.data.batches import Batches
    from thrifty.data.splits import Splits
    from thrifty.trials import Spec

SCHEMA = 1
SETTLED = 0.005  # Dice: half a point


def run_stage(study: Study, run: Run) -> None:
    """Trains what is not trained yet: every network x seed x fold, as trials. Writes networks.json first.

    Raises:
        ThriftyError: no genotype for a budget, or trials that failed.
    """
    from thrifty.trials import run_trials

    prepared = prepare(study, run)
    write_networks(run, planned_networks(study, run, prepared.store))
    run_trials("retrain", retrain_trial, trial_specs(study, run), study.resources, run)


def trial_specs(study: Study, run: Run) -> list[Spec]:
    """One trial for each network, seed and fold."""
    from thrifty.trials import Spec

    return [
        Spec(trial_name(run, key), run.retrain_trial(*key), trial_arguments(study, run, key), study.retrain.epochs)
        for key in trial_keys(study, list(read_networks(run, study.allow_code)))
    ]


def retrain_trial(arguments: dict[str, Any], trial: Trial, report: Report) -> None:
    """One training from scratch, resumed from its checkpoint where there is one.

    Trains on the weights and architecture cases, keeps the weights that are best on the selection cases, and never sees
    the test cases. Writes weights, model.json, epochs.jsonl and, last, result.json.

    Args:
        arguments: run (folder), network (name in networks.json), seed, fold (None without cross-validation), device, cpus, gpus.
        trial: where to write.
        report: is given each epoch's record.

    Raises:
        ThriftyError: the loss is no longer finite.
    """
    study, run = read_run(Path(arguments["run"]))
    key = (arguments["network"], arguments["seed"], arguments["fold"])
    spec = read_networks(run, study.allow_code)[key[0]]
    prepared = open_prepared(run)
    splits = splits_of_fold(study, prepared, arguments["fold"])
    device = choose_device(arguments["device"])
    seed_everything(arguments["seed"], threads_for(arguments["cpus"]))
    network = build_network(spec).to(device)
    trainee = make_trainee(network, study, prepared, splits, arguments["seed"], device)
    record = run_epochs(trainee, study.retrain.epochs, trial, report)
    patch = study.data.patch_size
    save_model(trial, Model(spec, trainee.normalisation, prepared.store.labels, patch), trainee.best_weights)
    result = {
        "schema": SCHEMA,
        "trial": trial_name(run, key),
        "network": spec.name,
        "kind": spec.kind,
        "budget": spec.budget,
        "parameters": spec.parameters,
        "seed": arguments["seed"],
        "fold": arguments["fold"],
        "epochs": study.retrain.epochs,
        "steps": study.retrain.epochs * study.retrain.steps,
        "dice": trainee.best_dice,
        "best_epoch": trainee.best_epoch,
        "weights_sha256": weights_hash(trial),
        "still_improving": still_improving(record),
        "device": device.type,
        "seconds": sum(row["seconds"] for row in record),
        "cpus": arguments["cpus"],
        "gpus": arguments["gpus"],
    }
    write_json(trial.result, result)
    trial.checkpoint.unlink(missing_ok=True)


def splits_of_fold(study: Study, prepared: Prepared, fold: int | None) -> Splits:
    """The sets of one fold; without cross-validation those of the study."""
    if fold is None:
        return prepared.splits
    from thrifty.data.splits import fold as fold_of

    return fold_of(prepared.splits, prepared.store, fold, study.retrain.folds, study.data.split_seed)


def make_trainee(
    network: nn.Module, study: Study, prepared: Prepared, splits: Splits, seed: int, device: torch.device
) -> Retraining:
    """A network with its training batches, its selection cases and the normalisation learnt on the training cases."""
    from thrifty.data.batches import Batches

    store = prepared.store
    training = store.indices(splits.training)
    normalisation = training_normalisation(study, store, splits)
    batches = Batches(store, tuple(training), normalisation, study.data, study.retrain.batch, seed, device)
    return Retraining(network, batches, store.indices(splits.selection), normalisation, study, device)


class Retraining:
    """The trainee: an epoch of Dice + cross-entropy with a cosine learning rate, then maybe a look at the selection cases."""

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
        self.parameters = list(network.parameters())
        self.optimiser = make_optimiser(self.parameters, study.retrain.optimiser)
        self.best_dice, self.best_epoch = -1.0, -1
        self.best_weights: dict[str, Tensor] = {}

    @property
    def recipe(self) -> Retrain:
        return self.study.retrain

    def epoch(self, index: int) -> dict[str, Any]:
        self.network.train()
        total = torch.zeros((), device=self.device)
        for step in range(self.recipe.steps):
            total += self._step(index, step)
        row: dict[str, Any] = {"loss": float(total) / self.recipe.steps, "lr": self.optimiser.param_groups[0]["lr"], "dice": None}
        if is_validated(index, self.recipe):
            row["dice"] = self._validate(index)
        return row

    def _step(self, epoch: int, step: int) -> Tensor:
        position = epoch * self.recipe.steps + step
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.optimiser.lr * cosine(position, self.recipe.epochs * self.recipe.steps)
        images, masks = self.batches.draw(epoch, step)
        loss = dice_ce(self._forward(images), masks)
        if not math.isfinite(loss.item()):
            raise ThriftyError(
                f"the loss became {loss.item()} in epoch {epoch}, step {step}; lower retrain.optimiser.lr "
                f"(now {self.recipe.optimiser.lr:g}) or set retrain.optimiser.clip, and run it again under another name="
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.optimiser.clip:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.optimiser.clip)
        self.optimiser.step()
        return loss.detach()

    def _forward(self, images: Tensor) -> Tensor:
        try:
            return forward_padded(self.network, images)
        except ValueError as error:  # torch's, of batch normalisation
            if "more than 1 value per channel" not in str(error):
                raise
            rows, columns = images.shape[-2:]
            raise ThriftyError(
                f"a batch of {len(images)} patches of {rows}x{columns} leaves one value per channel at the lowest level, too few "
                "for batch normalisation; raise retrain.batch or data.patch"
            ) from None

    def _validate(self, index: int) -> float:
        """The mean Dice on the selection cases; of equally good epochs the first one is kept."""
        store, settings = self.batches.store, self.study.evaluate
        dice = mean_dice(self.network, store, self.selection, self.normalisation, settings, self.device)
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


def still_improving(record: Sequence[dict[str, Any]]) -> bool:
    """Whether a network was still improving when its training ended.

    The rule: the best Dice on the selection cases in the last quarter of the epochs exceeds the best one before it by more than
    half a point (0.005). Where nothing was looked at before the last quarter, nothing shows that it had settled: True.
    """
    border = 0.75 * len(record)
    before = [row["dice"] for row in record if row["dice"] is not None and row["epoch"] < border]
    after = [row["dice"] for row in record if row["dice"] is not None and row["epoch"] >= border]
    return not before or max(after, default=0.0) > max(before) + SETTLED
