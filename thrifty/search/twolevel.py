"""The two-level step (first order, DARTS, Liu 2019, sec. 2.3): architecture on its own cases, then weights on theirs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thrifty.config import Search
from thrifty.data.batches import Batches
from thrifty.errors import ThriftyError
from thrifty.inference import call_padded
from thrifty.losses import dice_ce
from thrifty.nets.supernet import Relaxed, Supernet
from thrifty.search.constraint import BudgetConstraint
from thrifty.search.expected import ExpectedParameters
from thrifty.search.relaxation import ArchitectureParameters, entropies
from thrifty.search.setting import Setting
from thrifty.space import ops
from thrifty.space.cost import Costs, lattice_of
from thrifty.space.decode import Decoded, decode
from thrifty.space.genotype import CELL_TYPES, Genotype, genotype_hash, to_json
from thrifty.train import cosine, make_optimiser

COLLAPSED = 0.8
"""A genotype of which so large a share of the edges is parameter-free counts as collapsed."""

DICE_BATCHES = 2
"""Batches of architecture cases on which the Dice of an epoch's record is taken."""


@dataclass(frozen=True)
class SearchData:
    """Batches of the two disjoint sets of cases."""

    weights: Batches
    architecture: Batches


class DifferentiableSearch:
    """One search as a trainee: a supernet, its architecture parameters, an optimiser for each, and the budget."""

    def __init__(self, costs: Costs, setting: Setting, settings: Search, data: SearchData, device: torch.device) -> None:
        self.costs, self.setting, self.settings, self.data, self.device = costs, setting, settings, data, device
        space, size = costs.space, (costs.width, costs.levels, costs.channels, costs.classes)
        # channels_last: measured 2.7x faster on CPU for depth-wise and point-wise convolutions.
        self.supernet = Supernet(space, *size, settings.partial).to(device)
        self.supernet.to(memory_format=torch.channels_last)  # pyrefly: ignore[no-matching-overload]
        # The architecture parameters stay on the CPU, beside the exact expected size; their weights travel each step.
        self.architecture = ArchitectureParameters(space, costs.levels, settings.edges)
        self.expected = ExpectedParameters(costs)
        self.constraint = BudgetConstraint(setting.budget, settings.penalty)
        self.weight_optimiser = make_optimiser(list(self.supernet.parameters()), settings.weights)
        adam = settings.architecture
        self.architecture_optimiser = torch.optim.Adam(
            list(self.architecture.parameters()), adam.lr, betas=adam.betas, weight_decay=adam.weight_decay
        )

    def epoch(self, index: int) -> dict[str, Any]:
        """`steps` two-level steps; during the warm-up only the weights learn."""
        self.supernet.train()
        weight_losses, architecture_losses = [], []
        for step in range(self.settings.steps):
            if index >= self.settings.warmup:
                architecture_losses.append(self.architecture_step(index, step))
            weight_losses.append(self.weight_step(index, step))
        return self._record(index, weight_losses, architecture_losses)

    def architecture_step(self, index: int, step: int) -> Tensor:
        """One step of alpha, beta and gamma on the architecture cases; returns the loss without the budget's term."""
        images, masks = self._batch(self.data.architecture, index, step)
        loss = dice_ce(self._logits(images, self.architecture.relaxed()), masks)
        total = loss + self.constraint.term(self.expected(self.architecture)).to(loss)
        parameters = list(self.architecture.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(total, parameters, allow_unused=True), strict=True):
            parameter.grad = gradient
        self.architecture_optimiser.step()
        return loss.detach()

    def weight_step(self, index: int, step: int) -> Tensor:
        """One step of the weights on the weight cases; returns the loss."""
        self._set_rate(index, step)
        images, masks = self._batch(self.data.weights, index, step)
        loss = dice_ce(self._logits(images, self._fixed()), masks)
        self.weight_optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self.settings.weights.clip:
            torch.nn.utils.clip_grad_norm_(self.supernet.parameters(), self.settings.weights.clip)
        self.weight_optimiser.step()
        return loss.detach()

    def decode(self) -> Decoded:
        """The most likely genotype within the budget."""
        return decode(self.architecture.distribution(), self.costs, self.setting.budget)

    def state_dict(self) -> dict[str, Any]:
        return {
            "supernet": self.supernet.state_dict(),
            "architecture": self.architecture.state_dict(),
            "weight_optimiser": self.weight_optimiser.state_dict(),
            "architecture_optimiser": self.architecture_optimiser.state_dict(),
            "multiplier": self.constraint.multiplier,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("supernet", "architecture", "weight_optimiser", "architecture_optimiser"):
            getattr(self, name).load_state_dict(state[name])
        self.constraint.multiplier = state["multiplier"]

    def _logits(self, images: Tensor, relaxed: Relaxed) -> Tensor:
        """Of patches of any size, padded to the stride on the way as in retraining."""
        relaxed = relaxed if self.device.type == "cpu" else relaxed.to(self.device)
        return call_padded(lambda padded: self.supernet(padded, relaxed), images, self.supernet.stride)

    def _batch(self, batches: Batches, index: int, step: int) -> tuple[Tensor, Tensor]:
        images, masks = batches.draw(index, step)
        return images.to(memory_format=torch.channels_last), masks

    def _fixed(self) -> Relaxed:
        with torch.no_grad():
            return self.architecture.relaxed()

    def _set_rate(self, index: int, step: int) -> None:
        done, total = index * self.settings.steps + step, self.setting.epochs * self.settings.steps
        for group in self.weight_optimiser.param_groups:
            group["lr"] = self.settings.weights.lr * cosine(done, total)

    def _record(self, index: int, weight_losses: list[Tensor], architecture_losses: list[Tensor]) -> dict[str, Any]:
        with torch.no_grad():
            expected = float(self.expected(self.architecture))
        if architecture_losses:
            self.constraint.update(expected)
        decoded = self.decode()
        return {
            "loss_weights": _mean(weight_losses, index),
            "loss_architecture": _mean(architecture_losses, index) if architecture_losses else None,
            "dice": self._dice(),
            **entropies(self.architecture),
            "expected_parameters": expected,
            "multiplier": self.constraint.multiplier,
            "parameters": decoded.parameters,
            "parameter_free": parameter_free_share(decoded.genotype),
            "hash": genotype_hash(decoded.genotype),
            "genotype": to_json(decoded.genotype),
        }

    def _dice(self) -> float:
        """Mean foreground Dice of the mixed supernet on a few batches of architecture cases."""
        self.supernet.eval()
        total = 0.0
        with torch.no_grad():
            for step in range(DICE_BATCHES):
                images, masks = self.data.architecture.plain(step)
                labels = self._logits(images.to(memory_format=torch.channels_last), self._fixed()).argmax(1)
                total += batch_dice(labels, masks, self.costs.classes)
        self.supernet.train()
        return total / DICE_BATCHES


def batch_dice(labels: Tensor, masks: Tensor, classes: int) -> float:
    """Mean over the foreground classes of the Dice over a whole batch, (B, h, w) class ids; a class absent from both is 1."""
    scores = []
    for c in range(1, classes):
        size = int((labels == c).sum() + (masks == c).sum())
        scores.append(2 * int(((labels == c) & (masks == c)).sum()) / size if size else 1.0)
    return sum(scores) / len(scores)


def parameter_free_share(genotype: Genotype) -> float:
    """Share of the kept edges, over all cells of the network, whose op is parameter-free."""
    free = total = 0
    for cell_type in CELL_TYPES:
        cells = int(lattice_of(genotype).cells_in_rows(cell_type, genotype.path).sum())
        for _, edge in genotype.cell(cell_type).edges():
            total += cells
            free += cells * ops.find(edge.op).parameter_free
    return free / total


def _mean(losses: list[Tensor], index: int) -> float:
    value = float(torch.stack(losses).mean())
    if not math.isfinite(value):
        raise ThriftyError(
            f"the loss of the search is not finite in epoch {index}; lower search.weights.lr or search.architecture.lr"
        )
    return value
