"""The baselines against the sizes that the UNet++ paper prints, their formulas against the built networks."""

from __future__ import annotations

import random

import pytest
import torch

from thrifty.errors import ThriftyError
from thrifty.nets.baselines import (
    FILTERS,
    UNet,
    UNetPP,
    scale,
    scaled_filters,
    unet_parameters,
    unetpp_parameters,
)

SMALL = (3, 5, 6, 9, 11)
BOTH = pytest.mark.parametrize(("build", "formula"), [(UNet, unet_parameters), (UNetPP, unetpp_parameters)])


def size(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("build", "channels", "parameters"),
    [(UNet, 1, 7_759_521), (UNet, 3, 7_760_097), (UNetPP, 1, 9_041_601), (UNetPP, 3, 9_042_177)],
)
def test_sizes_are_those_of_the_unetpp_paper(build: type, channels: int, parameters: int) -> None:
    with torch.device("meta"):
        assert size(build(channels, 1, norm=False)) == parameters


@BOTH
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize(("channels", "classes", "filters"), [(1, 2, FILTERS), (3, 4, SMALL), (4, 3, (2, 2, 7))])
def test_formula_counts_the_built_network(build, formula, norm, channels, classes, filters) -> None:
    with torch.device("meta"):
        assert formula(channels, classes, filters, norm) == size(build(channels, classes, filters, norm))


@BOTH
def test_output_has_the_size_of_the_input_and_all_parameters_learn(build, formula) -> None:
    network = build(2, 3, SMALL)
    assert network.stride == 16
    logits = network(torch.randn(2, 2, 32, 48))
    assert logits.shape == (2, 3, 32, 48)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    heads = [p for name, p in network.named_parameters() if name.startswith("head")]
    assert all(p.grad.abs().sum() > 0 for p in heads)


def test_unetpp_node_reads_its_whole_row() -> None:
    """Silencing X(1, 0) alone must change the output: a plain U-Net has no such node."""
    torch.manual_seed(0)
    network = UNetPP(1, 2, SMALL)
    images = torch.randn(2, 1, 32, 32)
    before = network(images)
    network.up["1_0"].register_forward_hook(lambda module, inputs, output: output * 0)
    assert not torch.equal(before, network(images))


@pytest.mark.parametrize(("channels", "classes"), [(1, 2), (3, 4)])
def test_scaled_unet_fits_its_budget_and_fills_95_percent(channels: int, classes: int) -> None:
    rng = random.Random(0)
    budgets = [*range(5_000, 40_000, 7), 100_000, 1_000_000, 7_000_000, *(rng.randint(40_000, 7_000_000) for _ in range(500))]
    for budget in budgets:
        parameters = unet_parameters(channels, classes, scaled_filters(budget, channels, classes))
        assert 0.95 * budget <= parameters <= budget, (budget, parameters)


@pytest.mark.parametrize("budget", [5_000, 31_702, 60_001, 610_000, 3_000_000])
def test_scaled_unet_has_the_largest_s(budget: int) -> None:
    """Against a brute-force scan over s in steps finer than any change of rounding."""
    fits = [steps for steps in range(1, 1100) if unet_parameters(1, 2, scale(steps)) <= budget]
    best, filters = scale(max(fits)), scaled_filters(budget, 1, 2)
    if unet_parameters(1, 2, best) >= 0.95 * budget:
        assert filters == best
    else:
        assert all(0 <= wide - plain <= 1 for wide, plain in zip(filters, best, strict=True))
    assert best == tuple(max(1, int(32 * 2**k * max(fits) / 1024 + 0.5)) for k in range(5))


def test_scale_of_one_is_the_full_unet() -> None:
    assert scale(1024) == FILTERS
    assert scaled_filters(unet_parameters(1, 2), 1, 2) == FILTERS


def test_budget_below_the_smallest_scaled_unet_names_its_size() -> None:
    smallest = unet_parameters(1, 2, (1, 1, 1, 1, 1))
    assert unet_parameters(1, 2, scaled_filters(smallest, 1, 2)) == smallest
    with pytest.raises(ThriftyError, match=rf"too small.*\b{smallest:,}"):
        scaled_filters(smallest - 1, 1, 2)
