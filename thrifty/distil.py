"""Distillation: a trained network, or several as an ensemble, gives the network that is trained soft labels beside the masks.

`retrain.teacher` names it. Each found network is then trained a second time, as distilled_BUDGET beside found_BUDGET, by the same
recipe, steps and seeds; nothing else has a teacher, so that all other comparisons stay what they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from thrifty.config import OWN_TEACHERS, Retrain, Study, results_folder
from thrifty.data.normalise import Normalisation
from thrifty.data.prepare import Prepared, training_normalisation
from thrifty.errors import ThriftyError
from thrifty.inference import evaluating, forward_padded
from thrifty.model import load_model, weights_hash
from thrifty.networks import DISTILLED, Key
from thrifty.results import Run, Trial, read_json

if TYPE_CHECKING:
    from thrifty.data.splits import Splits


@dataclass(frozen=True, eq=False)
class Teacher:
    """Trained networks that are taught from, in evaluation mode and without gradients.

    `weight` is the share of the soft labels in the loss, `temperature` divides the logits of teacher and student alike,
    `hashes` are the SHA-256 of the weights.
    """

    name: str
    networks: tuple[nn.Module, ...]
    hashes: tuple[str, ...]
    weight: float
    temperature: float

    def as_json(self) -> dict[str, Any]:
        setting = {"weight": self.weight, "temperature": self.temperature}
        return {"name": self.name, "weights_sha256": list(self.hashes), **setting}

    def soften(self, images: Tensor) -> Tensor:
        """Soft labels (B, classes, H, W) of images (B, C, H, W): the mean over the networks of their softened softmax."""
        total: Tensor | float = 0.0
        for network in self.networks:
            with evaluating(network):
                total = total + (forward_padded(network, images) / self.temperature).softmax(dim=1)
        return torch.as_tensor(total) / len(self.networks)

    def blend(self, hard: Tensor, logits: Tensor, images: Tensor) -> Tensor:
        """(1 - weight) x the loss on the masks + weight x that on the soft labels."""
        return (1 - self.weight) * hard + self.weight * soft_loss(logits, self.soften(images), self.temperature)


def soft_loss(logits: Tensor, soft: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of distributions softened by T, in the mean over the pixels (Hinton 2015, sec. 2).

    With the factor T^2 the gradients keep their size when T changes, relative to those of the loss on the masks.

    Args:
        logits: (B, classes, H, W) of the student.
        soft: (B, classes, H, W) probabilities of the teacher, softened by T already.
        temperature: T.
    """
    log_student = functional.log_softmax(logits / temperature, dim=1)
    pixels = soft.shape[0] * soft.shape[-2] * soft.shape[-1]
    return temperature**2 * functional.kl_div(log_student, soft, reduction="sum") / pixels


def load_teacher(
    name: str,
    trials: Sequence[Trial],
    prepared: Prepared,
    normalisation: Normalisation,
    recipe: Retrain,
    device: torch.device,
    allow_code: bool = False,
) -> Teacher:
    """The networks of `trials` as one teacher, for students that see images under `normalisation`.

    Raises:
        ThriftyError: a file is missing or damaged; other channels, classes or normalisation than the data's; its run has trained
            on cases that are test cases here.
    """
    store, networks = prepared.store, []
    for trial in trials:
        network, model = load_model(trial, device, allow_code)
        theirs, ours = (model.network.channels, model.network.classes), (store.channels, store.classes)
        if theirs != ours:
            raise ThriftyError(
                f"the teacher {trial.folder} is for {theirs[0]} channels and {theirs[1]} classes, the data has {ours[0]} and "
                f"{ours[1]}; give another retrain.teacher"
            )
        if model.normalisation != normalisation:
            raise ThriftyError(
                f"the teacher {trial.folder} sees images normalised otherwise than this study ({model.normalisation.kind} there, "
                f"{normalisation.kind} here, or learnt on other cases); give one that was trained on the same cases"
            )
        _refuse_leak(trial, prepared)
        networks.append(network.requires_grad_(False))
    hashes = tuple(weights_hash(trial) for trial in trials)
    return Teacher(name, tuple(networks), hashes, recipe.teacher_weight, recipe.teacher_temperature)


def _refuse_leak(trial: Trial, prepared: Prepared) -> None:
    """A model in the run folder of a study of the same data tells by its splits.json what it was trained on; others do not."""
    path = Run(trial.folder.parent.parent.parent).splits
    theirs = read_json(path) if path.is_file() else {}
    if theirs.get("fingerprint") != prepared.store.fingerprint:
        return
    seen = {name for part in ("weights", "architecture", "selection") for name in theirs[part]} & set(prepared.splits.test)
    if seen:
        raise ThriftyError(
            f"the teacher {trial.folder} was trained with {len(seen)} of the test cases of this study ({min(seen)} among them); "
            "give one that was trained with the same split"
        )


def teacher_of(
    study: Study, run: Run, prepared: Prepared, splits: Splits, key: Key, budget: int | None, device: torch.device
) -> Teacher | None:
    """The teacher of a network of the study; None for all but the distilled ones.

    Raises:
        ThriftyError: as `load_teacher` and `teacher_trials`.
    """
    if not key[0].startswith(DISTILLED):
        return None
    normalisation = training_normalisation(study, prepared.store, splits)
    trials, recipe = teacher_trials(study, run, key, budget), study.retrain
    return load_teacher(recipe.teacher, trials, prepared, normalisation, recipe, device, study.allow_code)


def teacher_trials(study: Study, run: Run, key: Key, budget: int | None) -> list[Trial]:
    """The trained networks that teach a student.

    'unet': the U-Net of the student's own seed and fold, so that the spread over seeds holds the luck of the teacher too.
    'found': the found network of the budget with every seed, of the student's fold: one alone knows no more than the student.

    Raises:
        ThriftyError: no trained network in the folder that `retrain.teacher` names.
    """
    teacher, (_, seed, fold) = study.retrain.teacher, key
    if teacher == "unet":
        return [run.retrain_trial("unet", seed, fold)]
    if teacher == "found":
        return [run.retrain_trial(f"found_{budget}", each, fold) for each in study.retrain_seeds]
    return trained_in(results_folder(teacher))


def trained_in(folder: Path) -> list[Trial]:
    """The model in a folder, or those in its seed_ folders.

    Raises:
        ThriftyError: there is none.
    """
    trials = [trial for trial in map(Trial, [folder, *sorted(folder.glob("seed_*"))]) if trial.weights.is_file()]
    if not trials:
        raise ThriftyError(
            f"no trained network in {folder} (weights.safetensors and model.json), nor in seed_ folders below it; give "
            f"retrain.teacher the folder of one, or {', '.join(OWN_TEACHERS)}"
        )
    return trials[:1] if trials[0].folder == folder else trials


def check_teacher(study: Study, prepared: Prepared) -> None:
    """A teacher from outside the study, looked at before the first trial.

    Raises:
        ThriftyError: as `load_teacher` and `trained_in`.
    """
    if study.retrain.teacher in OWN_TEACHERS:
        return
    normalisation = training_normalisation(study, prepared.store, prepared.splits)
    trials, recipe = trained_in(results_folder(study.retrain.teacher)), study.retrain
    load_teacher(recipe.teacher, trials, prepared, normalisation, recipe, torch.device("cpu"), study.allow_code)
