"""The expected size against enumeration, degenerate distributions, Monte Carlo and finite differences."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from thrifty.search.expected import ExpectedParameters
from thrifty.search.relaxation import ArchitectureParameters, entropies, inclusion, softmax_edges
from thrifty.space.cost import Costs, count
from thrifty.space.distribution import Distribution
from thrifty.space.genotype import CELL_TYPES, Cell, Edge, Genotype
from thrifty.space.sample import random_genotype
from thrifty.space.schema import load_space
from thrifty.space.size import all_cells, all_genotypes


def random_parameters(costs: Costs, seed: int, spread: float = 1.5) -> ArchitectureParameters:
    torch.manual_seed(seed)
    architecture = ArchitectureParameters(costs.space, costs.levels).double()
    for parameter in architecture.parameters():
        torch.nn.init.normal_(parameter, std=spread)
    return architecture


def test_inclusion_is_the_marginal_of_the_pairs() -> None:
    beta = torch.tensor([0.3, -1.0, 2.0, 0.0], dtype=torch.float64)
    weights = {pair: float(torch.exp(beta[list(pair)].sum())) for pair in itertools.combinations(range(4), 2)}
    total = sum(weights.values())
    expected = [sum(w for pair, w in weights.items() if e in pair) / total for e in range(4)]
    np.testing.assert_allclose(inclusion(beta).numpy(), expected, atol=1e-12)
    assert float(inclusion(beta).sum()) == pytest.approx(2, abs=1e-12)
    assert float(softmax_edges(beta).sum()) == pytest.approx(2, abs=1e-12)


def test_hard_beta_is_two_hot_without_division_by_zero() -> None:
    beta = torch.tensor([900.0, -900.0, 900.0], dtype=torch.float64, requires_grad=True)
    weights = inclusion(beta)
    assert weights.tolist() == [1.0, 0.0, 1.0]
    weights[0].backward()
    assert torch.isfinite(beta.grad).all()


@pytest.mark.parametrize("levels", [2, 3])
def test_expectation_equals_the_sum_over_all_genotypes(levels: int) -> None:
    """sum P(g) count(g) over all genotypes of tiny, for 200 random distributions in all, to 1e-9."""
    costs = Costs(load_space("tiny"), 6, levels, 1, 2)
    genotypes = list(all_genotypes(costs.space, 6, levels, 1, 2))
    sizes = np.array([count(g) for g in genotypes], dtype=np.float64)
    paths, downs, ups = costs.space.paths(levels), all_cells(costs.space, "down"), all_cells(costs.space, "up")
    assert [(g.path, g.down, g.up) for g in genotypes] == list(itertools.product(paths, downs, ups))
    expected = ExpectedParameters(costs)
    for seed in range(100):
        architecture = random_parameters(costs, seed)
        distribution = architecture.distribution()
        path = np.exp([distribution.log_path(p) for p in paths])
        empty = (0,) * (levels - 2)
        down = np.exp([log_cells(distribution, costs, c, ups[0], empty) for c in downs])
        up = np.exp([log_cells(distribution, costs, downs[0], c, empty) for c in ups])
        # Path and cells are independent: normalising each marginal leaves the distribution itself.
        p = (path[:, None, None] * (down / down.sum())[None, :, None] * (up / up.sum())[None, None, :]).ravel()
        with torch.no_grad():
            assert float(expected(architecture)) == pytest.approx(float(p @ sizes), rel=1e-9)


def log_cells(distribution: Distribution, costs: Costs, down: Cell, up: Cell, path: tuple[int, ...]) -> float:
    space = costs.space
    return distribution.log_prob(Genotype(down, up, path, costs.width, costs.levels, 1, 2, space.name, space.frame))


def degenerate(costs: Costs, genotype: Genotype) -> ArchitectureParameters:
    """Architecture parameters that leave no choice but `genotype`."""
    architecture = ArchitectureParameters(costs.space, costs.levels).double()
    big = 200.0
    with torch.no_grad():
        for t in CELL_TYPES:
            alphas, index = architecture.alphas(t), 0
            for k, pair in enumerate(genotype.cell(t).nodes):
                chosen = {edge.source: edge.op for edge in pair}
                architecture.betas(t)[k].copy_(torch.tensor([big if s in chosen else -big for s in range(k + 2)]))
                for s in range(k + 2):
                    names = costs.space.ops_of(t, s)
                    alphas[index].copy_(torch.tensor([big if n == chosen.get(s, names[0]) else -big for n in names]))
                    index += 1
        for d, gate in enumerate(architecture.gamma, start=1):
            gate.copy_(torch.tensor([big if k < genotype.path[d - 1] else -big for k in range(d)]))
    return architecture


@pytest.mark.parametrize(("name", "number"), [("thrifty", 1000), ("paper", 100), ("nas_unet", 100)])
def test_expectation_of_a_degenerate_distribution_is_the_count(name: str, number: int) -> None:
    costs = Costs(load_space(name), 8, 5, 1, 2)
    rng, expected = np.random.default_rng(0), ExpectedParameters(costs)
    for _ in range(number):
        genotype = random_genotype(costs.space, 8, 5, 1, 2, rng)
        with torch.no_grad():
            assert float(expected(degenerate(costs, genotype))) == pytest.approx(count(genotype), abs=1e-6)


def draws(architecture: ArchitectureParameters, costs: Costs, number: int) -> Iterator[Genotype]:
    """Independent sampling: ops and pairs by their probabilities, gates one after the other from the bottom up."""
    rng, distribution = np.random.default_rng(0), architecture.distribution()
    space = costs.space
    for _ in range(number):
        cells = {}
        for t in CELL_TYPES:
            nodes, index = [], 0
            for k in range(space.nodes):
                pairs = list(itertools.combinations(range(k + 2), 2))
                a, b = pairs[rng.choice(len(pairs), p=np.exp(distribution.pairs[t][k]))]
                ops = [rng.choice(space.ops_of(t, s), p=np.exp(distribution.ops[t][index + s])) for s in range(k + 2)]
                nodes.append((Edge(a, str(ops[a])), Edge(b, str(ops[b]))))
                index += k + 2
            cells[t] = Cell(tuple(nodes))
        path = []
        for gate in distribution.gates:
            kept = 0
            while kept < len(gate) and rng.random() < 1 / (1 + np.exp(-gate[kept])):
                kept += 1
            path.append(kept)
        yield Genotype(cells["down"], cells["up"], tuple(path), costs.width, costs.levels, 1, 2, space.name, space.frame)


def test_expectation_agrees_with_monte_carlo_on_thrifty() -> None:
    costs = Costs(load_space("thrifty"), 8, 5, 1, 2)
    architecture = random_parameters(costs, 3)
    sizes = np.array([count(g) for g in draws(architecture, costs, 4000)])
    error = sizes.std() / np.sqrt(len(sizes))
    with torch.no_grad():
        assert abs(float(ExpectedParameters(costs)(architecture)) - sizes.mean()) < 4 * error
    assert error / sizes.mean() < 0.01


def test_gradient_agrees_with_finite_differences() -> None:
    costs = Costs(load_space("tiny"), 6, 4, 1, 2)
    architecture = random_parameters(costs, 1)
    expected = ExpectedParameters(costs)
    parameters = list(architecture.parameters())
    gradients = torch.autograd.grad(expected(architecture), parameters)
    step = 1e-5
    for parameter, gradient in zip(parameters, gradients, strict=True):
        for place in range(parameter.numel()):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter[place] += sign * step
                    values.append(float(expected(architecture)))
                    parameter[place] -= sign * step
            assert float(gradient[place]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5, abs=1e-4)


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
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in [*architecture.alphas("up"), *architecture.gamma])


def test_a_fixed_path_has_no_gamma() -> None:
    architecture = ArchitectureParameters(load_space("nas_unet"), 5)
    assert len(architecture.gamma) == 0
    assert architecture.relaxed().gates == {}
