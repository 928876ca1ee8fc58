"""Distillation: a trained network, or several as an ensemble, gives the network that is trained soft labels beside the masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from thrifty.data.normalise import Normalisation
from thrifty.errors import ThriftyError
from thrifty.inference import evaluating, forward_padded
from thrifty.model import load_model, weights_hash
from thrifty.results import Trial


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
    classes: int,
    normalisation: Normalisation,
    weight: float,
    temperature: float,
    device: torch.device,
) -> Teacher:
    """The networks of `trials` as one teacher for students that see images under `normalisation`.

    Raises:
        ThriftyError: a file is missing or damaged; other channels, classes or normalisation than the student's.
    """
    networks = []
    for trial in trials:
        network, model = load_model(trial, device)
        if len(model.labels) != classes:
            raise ThriftyError(f"the teacher {trial.folder} has {len(model.labels)} classes, the data has {classes}")
        if model.normalisation != normalisation:
            raise ThriftyError(f"the teacher {trial.folder} was trained under another normalisation than the data has")
        networks.append(network.requires_grad_(False))
    return Teacher(name, tuple(networks), tuple(weights_hash(trial) for trial in trials), weight, temperature)
