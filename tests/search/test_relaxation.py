"""The weights of the branches under the architecture parameters. (Expected sizes: tests/search/test_expected.py.)"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from architectures import degenerate, random_parameters

from thrifty.search.relaxation import ArchitectureParameters, entropies, inclusion, softmax_edges
from thrifty.space.cost import Costs
from thrifty.space.genotype import CELL_TYPES
from thrifty.space.sample import random_genotype
from thrifty.space.schema import load_space


def test_inclusion_is_the_marginal_of_the_pairs() -> None:
    beta = torch.tensor([0.3, -1.0, 2.0, 0.0], dtype=torch.float64)
    weights = {pair: float(torch.exp(beta[list(pair)].sum())) for pair in itertools.combinations(range(4), 2)}
    total = sum(weights.values())
    expected = [sum(w for pair, w in weights.items() if e in pair) / total for e in range(4)]
    np.testing.assert_allclose(inclusion(beta).numpy(), expected, atol=1e-12)
    assert float(inclusion(beta).sum()) == pytest.approx(2, abs=1e-12)
    assert float(softmax_edges(beta).sum()) == pytest.approx(1, abs=1e-12)


def test_hard_beta_is_two_hot_without_division_by_zero() -> None:
    beta = torch.tensor([900.0, -900.0, 900.0], dtype=torch.float64, requires_grad=True)
    weights = inclusion(beta)
    assert weights.tolist() == [1.0, 0.0, 1.0]
    weights[0].backward()
    assert torch.isfinite(beta.grad).all()


def test_entropy_is_one_undecided_and_zero_decided() -> None:
    costs = Costs(load_space("tiny"), 6, 4, 1, 2)
    architecture = ArchitectureParameters(costs.space, 4)
    with torch.no_grad():
        for parameter in architecture.parameters():
            parameter.zero_()
    assert entropies(architecture) == pytest.approx({"entropy_alpha": 1, "entropy_beta": 1, "entropy_gamma": 1}, abs=1e-6)
    genotype = random_genotype(costs.space, 6, 4, 1, 2, np.random.default_rng(0))
    decided = entropies(degenerate(costs, genotype))
    assert decided == pytest.approx({"entropy_alpha": 0, "entropy_beta": 0, "entropy_gamma": 0}, abs=1e-6)


def test_weights_that_travel_are_the_same_and_keep_their_gradient() -> None:
    costs = Costs(load_space("thrifty"), 8, 4, 1, 2)
    architecture = random_parameters(costs, 2)
    here = architecture.relaxed()
    there = here.to(torch.device("cpu"))
    for t in CELL_TYPES:
        for a, b in zip([*here.alpha[t], *here.edges[t]], [*there.alpha[t], *there.edges[t]], strict=True):
            assert torch.equal(a, b)
    assert {k: float(v.detach()) for k, v in here.gates.items()} == {k: float(v.detach()) for k, v in there.gates.items()}
    sum(v.square().sum() for v in [*there.alpha["up"], *there.edges["down"], *there.gates.values()]).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in [*architecture.alpha["up"], *architecture.gamma])


def test_a_fixed_path_has_no_gamma() -> None:
    architecture = ArchitectureParameters(load_space("nas_unet"), 5)
    assert len(architecture.gamma) == 0
    assert architecture.relaxed().gates == {}
