"""What one training step costs, by contender: each is made once and then stepped, so that pairs can be timed alternately.

All see the same batch of random images and masks and use the same loss; drawing data is not part of a step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from thrifty.config import Architecture, Optimiser, Search
from thrifty.losses import dice_ce
from thrifty.space.cost import Costs
from thrifty.space.decode import decode
from thrifty.space.distribution import uniform
from thrifty.space.schema import Space, load_space
from thrifty.train import make_optimiser

Step = Callable[[], None]


@dataclass(frozen=True)
class Size:
    """A batch (images of `side` x `side` pixels) and a supernet."""

    batch: int
    side: int
    width: int
    channels: int = 1
    classes: int = 2
    levels: int = 5
    space: str = "thrifty"
    nodes: int | None = None  # None: as the space has it
    ops: int | None = None  # the first so many of each role

    @property
    def label(self) -> str:
        return f"batch {self.batch}, {self.channels}x{self.side}x{self.side}, width {self.width}, {self.levels} levels"


SIZES = {"cpu": Size(6, 128, 16), "gpu": Size(16, 256, 32), "small": Size(2, 32, 4, levels=3)}


def make_batch(size: Size, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size.batch, size.channels, size.side, size.side, generator=generator)
    masks = torch.randint(size.classes, (size.batch, size.side, size.side), generator=generator)
    return images.to(device), masks.to(device)


def space_of(size: Size) -> Space:
    values = load_space(size.space).model_dump(by_alias=True)
    values["nodes"] = size.nodes or values["nodes"]
    values["levels"] = max(values["levels"], size.levels)
    values["ops"] = {role: names[: size.ops] for role, names in values["ops"].items()}
    return Space.model_validate(values)


def costs_of(size: Size) -> Costs:
    return Costs(space_of(size), size.width, size.levels, size.channels, size.classes)


def thrifty_search(size: Size, device: torch.device, **settings: Any) -> Step:
    """The two-level step of the project, constraint on the budget included. With `hard` 0.5 every second weight step trains one
    sampled network, and sampled networks differ in size, so a step here is several two-level steps: see `STEPS_IN_ONE`."""
    from thrifty.search.setting import Setting
    from thrifty.search.twolevel import DifferentiableSearch

    images, masks = make_batch(size, device)
    images = images.to(memory_format=torch.channels_last)
    batches: Any = SimpleNamespace(draw=lambda epoch, step: (images, masks))
    costs = costs_of(size)
    budget = (costs.smallest() + costs.largest()) // 2
    data: Any = SimpleNamespace(weights=batches, architecture=batches, loss=dice_ce)
    search = DifferentiableSearch(costs, Setting(budget, size.width, size.levels, 10), Search(**settings), data, device, 0)
    search.supernet.train()
    numbers = itertools.count()

    def step() -> None:
        for number in itertools.islice(numbers, STEPS_IN_ONE):
            search.architecture_step(0, number)
            search.weight_step(0, number)

    return step


STEPS_IN_ONE = 4


def plain_search(size: Size, device: torch.device) -> Step:
    """The two-level step of the frozen plain supernet: the same mixture, losses and optimisers, without the budget."""
    from plain_supernet import PlainSupernet

    from thrifty.search.relaxation import ArchitectureParameters

    space = space_of(size)
    supernet = PlainSupernet(space, size.width, size.levels, size.channels, size.classes).to(device).train()
    architecture = ArchitectureParameters(space, size.levels)
    relaxed = (lambda: architecture.relaxed()) if device.type == "cpu" else (lambda: architecture.relaxed().to(device))
    learnt = list(supernet.parameters()), list(architecture.parameters())
    return two_passes(lambda images: supernet(images, relaxed()), *learnt, size, device)


def dints_search(size: Size, device: torch.device) -> Step:
    """MONAI's DiNTS in 2-D (He 2021): channel_mul 0.25, 12 blocks, 4 depths; two passes."""
    from monai.networks.nets import DiNTS, TopologySearch

    topology = TopologySearch(0.25, num_blocks=12, num_depths=4, spatial_dims=2, device=device.type)
    network = DiNTS(topology, size.channels, size.classes, spatial_dims=2).to(device).train()
    architecture = [topology.log_alpha_a, topology.log_alpha_c]
    return two_passes(network, list(network.weight_parameters()), architecture, size, device)


def two_passes(
    forward: Callable[[Tensor], Tensor], weights: list[nn.Parameter], architecture: list[Any], size: Size, device: torch.device
) -> Step:
    """The first-order two-level step (DARTS, Liu 2019, sec. 2.3) of any supernet."""
    images, masks = make_batch(size, device)
    weight_optimiser = make_optimiser(weights, Optimiser())
    settings = Architecture()
    adam = torch.optim.Adam(architecture, settings.lr, betas=settings.betas, weight_decay=settings.weight_decay)

    def step() -> None:
        for _ in range(STEPS_IN_ONE):
            loss = dice_ce(forward(images), masks)
            for parameter, gradient in zip(architecture, torch.autograd.grad(loss, architecture, allow_unused=True), strict=True):
                parameter.grad = gradient
            adam.step()
            loss = dice_ce(forward(images), masks)
            weight_optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(weights, Optimiser().clip)
            weight_optimiser.step()

    return step


def training(network: nn.Module, size: Size, device: torch.device) -> Step:
    """One step from scratch by the recipe of `retrain`."""
    network = network.to(device).train()
    images, masks = make_batch(size, device)
    parameters = list(network.parameters())
    optimiser = make_optimiser(parameters, Optimiser())

    def step() -> None:
        for _ in range(STEPS_IN_ONE):
            loss = dice_ce(network(images), masks)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, Optimiser().clip)
            optimiser.step()

    return step


def derived_training(size: Size, device: torch.device) -> Step:
    """Of a network that is decoded from an undecided distribution at the middle of what the width can build."""
    from thrifty.nets.build import build_network, genotype_spec

    costs = costs_of(size)
    budget = (costs.smallest() + costs.largest()) // 2
    genotype = decode(uniform(costs.space, size.levels), costs, budget).genotype
    return training(build_network(genotype_spec("derived", genotype, budget)), size, device)


def unet_training(size: Size, device: torch.device) -> Step:
    from thrifty.nets.build import baseline_spec, build_network

    return training(build_network(baseline_spec("unet", size.channels, size.classes)), size, device)


CONTENDERS: dict[str, Callable[[Size, torch.device], Step]] = {
    "search": thrifty_search,
    "search, 2 networks a step": lambda size, device: thrifty_search(size, device, samples=2),
    "search, mixture half": lambda size, device: thrifty_search(size, device, relaxation="softmax", hard=0.5),
    "search, mixture": lambda size, device: thrifty_search(size, device, relaxation="softmax", hard=0.0),
    "search, mixture, partial 4": lambda size, device: thrifty_search(size, device, relaxation="softmax", hard=0.0, partial=4),
    "plain supernet": plain_search,
    "DiNTS of MONAI": dints_search,
    "derived network": derived_training,
    "U-Net 7.76 M": unet_training,
}
