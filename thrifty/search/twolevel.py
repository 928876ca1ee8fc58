"""The two-level step (first order, DARTS, Liu 2019, sec. 2.3): architecture on its own cases, then weights on theirs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thrifty.config import Search
from thrifty.data.batches import Batches
from thrifty.inference import call_padded, labels_of
from thrifty.nets.recalibrate import batch_statistics
from thrifty.nets.supernet import Relaxed, Supernet
from thrifty.search.constraint import BudgetConstraint
from thrifty.search.curvature import Curvature, dominant_eigenvalue, flat
from thrifty.search.expected import ExpectedCost
from thrifty.search.guard import Look, SearchGuard
from thrifty.search.measures import SearchData, batch_dice, parameter_free_share
from thrifty.search.parts import Forward, Part, backward_parts, cut, weights_fixed
from thrifty.search.pruning import Pruning
from thrifty.search.relaxation import ArchitectureParameters, entropies
from thrifty.search.setting import Setting
from thrifty.search.source_decoding import decode_source
from thrifty.setbacks import Easing, NotFinite, check_finite
from thrifty.space.cost import Costs
from thrifty.space.decode import Decoded, decode
from thrifty.space.genotype import Genotype, genotype_hash, to_json
from thrifty.space.path import total_stride
from thrifty.space.sample import draw
from thrifty.stopwatch import Stopwatch
from thrifty.train import cosine, make_optimiser

DICE_BATCHES = 2
"""Batches of architecture cases on which the Dice of an epoch's record is taken."""

FIRST_ITERATIONS = 8
"""Of the power iteration for the dominant eigenvalue, when it is first looked at."""

ADVICE = "lower search.weights.lr or search.architecture.lr"
WEIGHTS, ARCHITECTURE = 0, 1
"""Which of a step's two passes draws a genotype: each has its own stream of draws."""


class DifferentiableSearch:
    """One search as a trainee: a supernet, its architecture parameters, an optimiser for each, the budget and the guard."""

    def __init__(
        self, costs: Costs, setting: Setting, settings: Search, data: SearchData, device: torch.device, seed: int
    ) -> None:
        self.costs, self.setting, self.settings, self.data = costs, setting, settings, data
        self.device, self.seed = device, seed
        self.easing, self.stopwatch = Easing(), Stopwatch()
        space, size = costs.space, (costs.width, costs.levels, costs.channels, costs.classes)
        # channels_last: measured 2.7x faster on CPU for depth-wise and point-wise convolutions.
        self.supernet = Supernet(space, *size, settings.partial).to(device)
        self.supernet.to(memory_format=torch.channels_last)  # pyrefly: ignore[no-matching-overload]
        # The architecture parameters stay on the CPU, beside the exact expected size; their weights travel each step.
        self.architecture = ArchitectureParameters(space, costs.levels, settings.edges, settings.gates, costs.depth)
        self.expected = ExpectedCost(costs)
        least = settings.fill * min(setting.budget, costs.largest()) if setting.bounded else 0.0
        self.constraint = BudgetConstraint(setting.budget, settings.penalty, least)
        self.guard = SearchGuard(settings.guard)
        self.pruning = Pruning(settings.prune, costs)
        self.direction = torch.ones(sum(p.numel() for p in self.architecture.parameters()))
        self.weight_optimiser = make_optimiser(list(self.supernet.parameters()), settings.weights)
        adam = settings.architecture
        self.architecture_optimiser = torch.optim.Adam(
            list(self.architecture.parameters()), adam.lr, betas=adam.betas, weight_decay=adam.weight_decay
        )

    def epoch(self, index: int) -> dict[str, Any]:
        """`steps` two-level steps; during the warm-up, and after the guard has acted, only the weights learn."""
        self.supernet.train()
        self.architecture.temperature = temperature_at(self._progress(index), self.settings.temperature)
        learns = index >= self.settings.warmup and self.guard.action is None
        weight_losses, architecture_losses = [], []
        for step in range(self.settings.steps):
            if learns:
                with self.stopwatch("architecture step"):
                    architecture_losses.append(self.architecture_step(index, step))
            with self.stopwatch("weight step"):
                weight_losses.append(self.weight_step(index, step))
        losses = _mean(weight_losses, index), _mean(architecture_losses, index) if learns else None
        learnt = [*self.supernet.parameters(), *self.architecture.parameters()]
        check_finite(learnt, f"a weight of the search is not finite after epoch {index}; {ADVICE}")
        with self.stopwatch("decoding and guard"):
            return self._record(index, *losses)

    def architecture_step(self, index: int, step: int) -> Tensor:
        """One step of alpha, beta and gamma on the architecture cases; returns the loss without the terms added to it."""
        images, masks = self._batch(self.data.architecture, index, step)
        learnt = list(self.architecture.parameters())

        def forward(part: Tensor, drawn: Genotype | None) -> Tensor:
            soft = self.architecture.relaxed() if drawn is None else self.architecture.straight_through()
            return self._logits(part, soft, drawn)

        self.architecture_optimiser.zero_grad(set_to_none=True)
        with weights_fixed(self.supernet):
            loss = self._backward(self._parts(images, masks, index, step, ARCHITECTURE), forward, learnt)
        if (terms := self._terms(index)).requires_grad:  # without a budget there is none
            terms.backward(inputs=learnt)
        self.architecture_optimiser.step()
        return loss

    def weight_step(self, index: int, step: int) -> Tensor:
        """One step of the weights on the weight cases, of the mixture or of sampled networks; returns the loss."""
        self._set_rate(index, step)
        images, masks = self._batch(self.data.weights, index, step)
        parts = self._parts(images, masks, index, step, WEIGHTS)
        relaxed = self._fixed() if parts[0].genotype is None else None
        self.weight_optimiser.zero_grad(set_to_none=True)
        loss = self._backward(parts, lambda images, drawn: self._logits(images, relaxed, drawn))
        if self.settings.weights.clip:
            torch.nn.utils.clip_grad_norm_(self.supernet.parameters(), self.settings.weights.clip)
        self.weight_optimiser.step()
        return loss

    def _parts(self, images: Tensor, masks: Tensor, index: int, step: int, which: int) -> list[Part]:
        """The batch whole for the mixture, or cut into `search.samples` parts, each for a sampled network of its own."""
        if which == ARCHITECTURE:
            hard = self.settings.relaxation == "gumbel"
        else:
            hard = _is_hard(index * self.settings.steps + step, self.settings.hard)
        if not hard:
            return [Part(images, masks, None)]
        count = min(self.settings.samples, len(images))
        return cut(images, masks, [self._draw(index, step, which, number) for number in range(count)])

    def _backward(self, parts: list[Part], forward: Forward, learnt: list[nn.Parameter] | None = None) -> Tensor:
        return backward_parts(self.supernet, parts, forward, self.data.loss, self.easing.pieces, learnt)

    def _terms(self, index: int) -> Tensor:
        """What the loss of the architecture has beside that of the networks: the budget, and the regulariser."""
        terms = self.constraint.term(self.expected(self.architecture))
        if self.settings.beta_decay:
            terms = terms + self.settings.beta_decay * self._progress(index) * self.architecture.beta_loss().to(terms)
        return terms

    def curvature(self, iterations: int = 1) -> Curvature:
        """Dominant eigenvalue of the Hessian of the loss of the mixture on one fixed batch of architecture cases, with
        respect to the logits over temperature, from `direction` on."""
        images, masks = self._plain(0)
        parameters, temperature = list(self.architecture.parameters()), self.architecture.temperature

        def gradient(offset: Tensor) -> Tensor:
            self._shift(offset * temperature)
            loss = self.data.loss(self._logits(images, self.architecture.relaxed()), masks)
            gradients = torch.autograd.grad(loss, parameters)
            self._shift(-offset * temperature)
            return flat(list(gradients)) * temperature

        kept = [p.detach().clone() for p in parameters]
        with batch_statistics(self.supernet):
            found = dominant_eigenvalue(gradient, self.direction, iterations)
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)  # adding and taking away again is not exact
        return found

    def decode(self) -> Decoded:
        """The most likely genotype within the budget; what the source's rule gives, where that is asked for and no budget is."""
        if self.settings.decoding == "source" and not self.setting.bounded:
            return decode_source(self.architecture, self.costs)
        return decode(self.architecture.distribution(), self.costs, self.setting.budget)

    def state_dict(self) -> dict[str, Any]:
        return {
            "supernet": self.supernet.state_dict(),
            "architecture": self.architecture.state_dict(),
            "temperature": self.architecture.temperature,
            "weight_optimiser": self.weight_optimiser.state_dict(),
            "architecture_optimiser": self.architecture_optimiser.state_dict(),
            "constraint": self.constraint.state_dict(),
            "guard": self.guard.state_dict(),
            "pruning": self.pruning.state_dict(),
            "direction": self.direction,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("supernet", "architecture", "weight_optimiser", "architecture_optimiser", "constraint", "guard", "pruning"):
            getattr(self, name).load_state_dict(state[name])
        self.architecture.temperature, self.direction = state["temperature"], state["direction"]

    def _progress(self, index: int) -> float:
        """How far the search of the architecture has come at an epoch: 0 up to the end of the warm-up, 1 in the last epoch."""
        last = self.setting.epochs - 1 - self.settings.warmup
        return min(1.0, max(0, index - self.settings.warmup) / last) if last > 0 else 1.0

    def _logits(self, images: Tensor, relaxed: Relaxed | None, genotype: Genotype | None = None) -> Tensor:
        """Of patches of any size, padded to the stride on the way as in retraining; of the mixture if no genotype is given."""
        if relaxed is not None and self.device.type != "cpu":
            relaxed = relaxed.to(self.device)

        def forward(padded: Tensor) -> Tensor:
            if genotype is not None:
                return self.supernet.hard(padded, genotype, relaxed)
            assert relaxed is not None
            return self.supernet(padded, relaxed)

        return call_padded(forward, images, self.supernet.stride if genotype is None else total_stride(genotype.levels))

    def _batch(self, batches: Batches, index: int, step: int) -> tuple[Tensor, Tensor]:
        with self.stopwatch("data"):
            images, masks = batches.draw(index, step)
            return images.to(memory_format=torch.channels_last), masks

    def _plain(self, step: int) -> tuple[Tensor, Tensor]:
        """The same architecture cases in every epoch, not augmented."""
        images, masks = self.data.architecture.plain(step)
        return images.to(memory_format=torch.channels_last), masks

    def _draw(self, index: int, step: int, which: int, number: int = 0) -> Genotype:
        """A genotype drawn from the distribution; a function of seed, epoch, step and number, as the batches are."""
        rng = np.random.default_rng([self.seed, index, step, which, *([number] if number else [])])
        return draw(self.architecture.distribution(), self.costs, rng)

    def _fixed(self) -> Relaxed:
        with torch.no_grad():
            return self.architecture.relaxed()

    def _shift(self, offset: Tensor) -> None:
        parameters = list(self.architecture.parameters())
        with torch.no_grad():
            for parameter, part in zip(parameters, offset.split([p.numel() for p in parameters]), strict=True):
                parameter.add_(part.view_as(parameter))

    def _set_rate(self, index: int, step: int) -> None:
        done, total = index * self.settings.steps + step, self.setting.epochs * self.settings.steps
        for group in self.weight_optimiser.param_groups:
            group["lr"] = self.settings.weights.lr * cosine(done, total) * self.easing.rate_factor
        for group in self.architecture_optimiser.param_groups:
            group["lr"] = self.settings.architecture.lr * self.easing.rate_factor

    def _record(self, index: int, loss_weights: float, loss_architecture: float | None) -> dict[str, Any]:
        curvature, pruned = None, 0
        if loss_architecture is not None:
            self.constraint.update(self._expected())
            curvature = self._watch(index)
            pruned = self.pruning.look(self.architecture)
        decoded = self.decode()
        return {
            "loss_weights": loss_weights,
            "loss_architecture": loss_architecture,
            **self._dice(decoded.genotype),
            **entropies(self.architecture),
            "temperature": self.architecture.temperature,
            "expected_parameters": self._expected(),
            "multiplier_above": self.constraint.above.multiplier,
            "multiplier_below": self.constraint.below.multiplier,
            "parameters": decoded.parameters,
            "parameter_free": parameter_free_share(decoded.genotype),
            "curvature": curvature,
            "guard": self._guard_line(index),
            "pruned": pruned,
            "hash": genotype_hash(decoded.genotype),
            "genotype": to_json(decoded.genotype),
        }

    def _expected(self) -> float:
        with torch.no_grad():
            return float(self.expected(self.architecture))

    def _watch(self, index: int) -> float | None:
        """Shows the epoch to the guard and goes back if it says so; returns the eigenvalue, if it is measured."""
        eigenvalue = None
        if self.settings.guard.curvature:
            # One iteration an epoch follows a direction that was found before; the first look has to find it.
            found = self.curvature(1 if self.guard.looks else FIRST_ITERATIONS)
            self.direction, eigenvalue = found.direction, abs(found.eigenvalue)
        decoded = self.decode()
        architecture = {name: value.clone() for name, value in self.architecture.state_dict().items()}
        free, idle = parameter_free_share(decoded.genotype), 1 - decoded.parameters / self.setting.budget
        back_to = self.guard.look(Look(index, free, idle, eigenvalue, architecture))
        if back_to is not None:
            self.architecture.load_state_dict(back_to.architecture)
        return eigenvalue

    def _guard_line(self, index: int) -> str | None:
        action = self.guard.action
        if action is None or action.epoch != index:
            return None
        return f"back to the architecture of epoch {action.back_to}, which stays: {action.reason}"

    def _dice(self, genotype: Genotype) -> dict[str, float]:
        """Mean foreground Dice of the mixture and of the decoded network, by the statistics of each batch.

        A search that trains sampled networks alone has no mixture to look at: its Dice is that of the decoded network.
        """
        overlapping = self.data.architecture.store.overlapping
        fixed = None if self.settings.samples_alone else self._fixed()
        totals: dict[str, float] = {}
        with self.stopwatch("validation"), torch.no_grad(), batch_statistics(self.supernet):
            for step in range(DICE_BATCHES):
                images, masks = self._plain(step)
                logits = {"dice_decoded": self._logits(images, None, genotype)}
                if fixed is not None:
                    logits["dice"] = self._logits(images, fixed)
                for key, values in logits.items():
                    labels = labels_of(values, overlapping)
                    dice = batch_dice(labels, masks, self.costs.classes, overlapping)
                    totals[key] = totals.get(key, 0.0) + dice / DICE_BATCHES
        return {"dice": totals["dice_decoded"], **totals}


def temperature_at(progress: float, end: float) -> float:
    """Falls geometrically from 1 to `end` as the search of the architecture goes from 0 to 1."""
    return float(end**progress)


def _is_hard(step: int, share: float) -> bool:
    """Spreads a share of the steps evenly over all of them."""
    return math.floor((step + 1) * share) > math.floor(step * share)


def _mean(losses: list[Tensor], index: int) -> float:
    value = float(torch.stack(losses).mean())
    if not math.isfinite(value):
        raise NotFinite(f"the loss of the search is not finite in epoch {index}; {ADVICE}")
    return value
