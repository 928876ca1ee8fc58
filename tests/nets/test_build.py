"""Descriptions of networks: there and back, and refused where they do not fit the network."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from thrifty.errors import ThriftyError
from thrifty.nets.build import NetworkSpec, baseline_spec, build_network, genotype_spec
from thrifty.space.sample import random_genotype
from thrifty.space.schema import load_space


def specs() -> list[NetworkSpec]:
    genotype = random_genotype(load_space("tiny"), 4, 4, 2, 3, np.random.default_rng(0))
    baselines = [baseline_spec("unet", 2, 3), baseline_spec("unetpp", 2, 3), baseline_spec("scaled_unet", 2, 3, 9_000)]
    return [genotype_spec("found_9000", genotype, 9_000), *baselines]


@pytest.mark.parametrize("spec", specs(), ids=lambda spec: spec.name)
def test_description_survives_json_and_builds_what_it_says(spec: NetworkSpec) -> None:
    again = NetworkSpec.from_json(json.loads(json.dumps(spec.as_json())))
    assert again == spec
    network = build_network(again)
    assert sum(p.numel() for p in network.parameters()) == spec.parameters
    side = network.stride
    with torch.no_grad():
        assert network.eval()(torch.zeros(1, 2, side, 2 * side)).shape == (1, 3, side, 2 * side)


def test_names() -> None:
    assert [spec.name for spec in specs()] == ["found_9000", "unet", "unetpp", "scaled_unet_9000"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("filters"), "incomplete.*filters"),
        (lambda v: v.update(kind="vnet"), "'vnet' is no kind.*unetpp"),
        (lambda v: v.update(channels="many"), "malformed.*many"),
    ],
)
def test_damaged_description_is_refused(change, message) -> None:
    value = baseline_spec("unet", 1, 2).as_json()
    change(value)
    with pytest.raises(ThriftyError, match=message):
        NetworkSpec.from_json(value)


def test_wrong_number_of_parameters_is_refused() -> None:
    spec = replace(baseline_spec("scaled_unet", 1, 2, 6_000), parameters=6_000)
    with pytest.raises(ThriftyError, match=r"has 5,\d+ parameters, its description says 6,000"):
        build_network(spec)


@pytest.mark.parametrize(("name", "budget"), [("vnet", None), ("scaled_unet", None)])
def test_unknown_baseline_is_refused(name, budget) -> None:
    with pytest.raises(ThriftyError, match="allowed are unet, unetpp"):
        baseline_spec(name, 1, 2, budget)
