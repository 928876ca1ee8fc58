"""A network by its description: what `networks.json` and `model.json` hold, and how a trial builds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

from thrifty.errors import ThriftyError, one_line
from thrifty.nets.baselines import FILTERS, UNet, UNetPP, scaled_filters, unet_parameters, unetpp_parameters
from thrifty.space.cost import count
from thrifty.space.genotype import Genotype, from_json, to_json

Kind = Literal["genotype", "unet", "unetpp"]


@dataclass(frozen=True)
class NetworkSpec:
    """A network apart from its weights.

    `budget` (parameters) is None for networks that stand outside the budgets; `filters` per level belong to unet and
    unetpp, `genotype` to the kind of that name.
    """

    name: str
    kind: Kind
    channels: int
    classes: int
    budget: int | None
    parameters: int
    filters: tuple[int, ...] | None = None
    genotype: Genotype | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind,
            "channels": self.channels,
            "classes": self.classes,
            "budget": self.budget,
            "parameters": self.parameters,
            "filters": None if self.filters is None else list(self.filters),
            "genotype": None if self.genotype is None else to_json(self.genotype),
        }

    @classmethod
    def from_json(cls, value: Any, allow_code: bool = False) -> NetworkSpec:
        """The inverse of `as_json`. `allow_code` lets a genotype's ops of the form module:Class be imported.

        Raises:
            ThriftyError: a part is missing or illegal.
        """
        try:
            if value["kind"] not in get_args(Kind):
                raise ThriftyError(f"'{value['kind']}' is no kind of network; allowed are {', '.join(get_args(Kind))}")
            budget, filters, genotype = value["budget"], value["filters"], value["genotype"]
            return cls(
                name=str(value["name"]),
                kind=value["kind"],
                channels=int(value["channels"]),
                classes=int(value["classes"]),
                budget=None if budget is None else int(budget),
                parameters=int(value["parameters"]),
                filters=None if filters is None else tuple(int(f) for f in filters),
                genotype=None if genotype is None else from_json(genotype, allow_code),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ThriftyError(f"the description of a network is incomplete or malformed: {one_line(repr(error))}") from None


def genotype_spec(name: str, genotype: Genotype, budget: int | None) -> NetworkSpec:
    return NetworkSpec(name, "genotype", genotype.channels, genotype.classes, budget, count(genotype), genotype=genotype)


def baseline_spec(name: str, channels: int, classes: int, budget: int | None = None) -> NetworkSpec:
    """The baseline called 'unet', 'unetpp' or 'scaled_unet'; the last one needs a budget.

    Raises:
        ThriftyError: the budget is too small for a scaled U-Net.
    """
    if name == "unetpp":
        return NetworkSpec(name, "unetpp", channels, classes, None, unetpp_parameters(channels, classes), FILTERS)
    if name == "unet":
        return NetworkSpec(name, "unet", channels, classes, None, unet_parameters(channels, classes), FILTERS)
    if name != "scaled_unet" or budget is None:
        raise ThriftyError(f"'{name}' is no baseline; allowed are unet, unetpp and, with a budget, scaled_unet")
    filters = scaled_filters(budget, channels, classes)
    parameters = unet_parameters(channels, classes, filters)
    return NetworkSpec(f"{name}_{budget}", "unet", channels, classes, budget, parameters, filters)


def build_network(spec: NetworkSpec) -> nn.Module:
    """The network with fresh weights: images (B, channels, H, W) -> logits (B, classes, H, W), with the attribute `stride`.

    Raises:
        ThriftyError: its parameters are not those that the description states.
    """
    network = _build(spec)
    parameters = sum(p.numel() for p in network.parameters())
    if parameters != spec.parameters:
        raise ThriftyError(
            f"the network '{spec.name}' has {parameters:,} parameters, its description says {spec.parameters:,}; "
            "the file was changed by hand or written by another version"
        )
    return network


def _build(spec: NetworkSpec) -> nn.Module:
    if spec.kind == "genotype":
        if spec.genotype is None:
            raise ThriftyError(f"the description of '{spec.name}' has no genotype")
        from thrifty.nets.derived import DerivedNetwork

        network = DerivedNetwork(spec.genotype)
        # Measured on one CPU thread, 8x3x96x96: a step of a 30,000-parameter network takes 0.28 s instead of 0.49 s. U-Nets
        # (dense convolutions) gain nothing from it.
        network.to(memory_format=torch.channels_last)  # pyrefly: ignore[no-matching-overload]
        return network
    filters = spec.filters or FILTERS
    return (UNet if spec.kind == "unet" else UNetPP)(spec.channels, spec.classes, filters)
