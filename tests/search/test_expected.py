"""The expected parameters and MACs against enumeration, degenerate distributions, Monte Carlo and finite differences."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from architectures import degenerate, random_parameters

from thrifty.search.expected import ExpectedCost
from thrifty.search.relaxation import ArchitectureParameters
from thrifty.space.cost import Costs, Patch, count, count_macs
from thrifty.space.distribution import Distribution
from thrifty.space.genotype import CELL_TYPES, Cell, Edge, Genotype
from thrifty.space.path import Depth
from thrifty.space.sample import random_genotype
from thrifty.space.schema import load_space
from thrifty.space.size import all_cells, all_genotypes

BOTH = pytest.mark.parametrize("patch", [None, (40, 33)], ids=["parameters", "macs"])


def cost(genotype: Genotype, patch: Patch | None) -> int:
    return count(genotype) if patch is None else count_macs(genotype, patch)


@BOTH
@pytest.mark.parametrize(("levels", "depth"), [(2, "fixed"), (3, "fixed"), (4, "searched")])
def test_expectation_equals_the_sum_over_all_genotypes(levels: int, depth: Depth, patch: Patch | None) -> None:
    """sum P(g) cost(g) over all genotypes of tiny, for 300 random distributions in all, to 1e-9."""
    costs = Costs(load_space("tiny"), 6, levels, 1, 2, patch, depth)
    genotypes = list(all_genotypes(costs.space, 6, levels, 1, 2, depth))
    sizes = np.array([cost(g, patch) for g in genotypes], dtype=np.float64)
    paths, downs, ups = costs.space.paths(levels, depth), all_cells(costs.space, "down"), all_cells(costs.space, "up")
    assert [(g.path, g.down, g.up) for g in genotypes] == list(itertools.product(paths, downs, ups))
    expected = ExpectedCost(costs)
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


@pytest.mark.parametrize(
    ("name", "number", "depth"),
    [("thrifty", 1000, "fixed"), ("paper", 100, "fixed"), ("nas_unet", 100, "fixed"), ("thrifty", 100, "searched")],
)
def test_expectation_of_a_degenerate_distribution_is_the_cost(name: str, number: int, depth: Depth) -> None:
    patch = (40, 33)
    parameters, macs = (Costs(load_space(name), 8, 5, 1, 2, p, depth) for p in (None, patch))
    expected_parameters, expected_macs = ExpectedCost(parameters), ExpectedCost(macs)
    rng = np.random.default_rng(0)
    for _ in range(number):
        genotype = random_genotype(parameters.space, 8, 5, 1, 2, rng, depth=depth)
        decided = degenerate(parameters, genotype)
        with torch.no_grad():
            assert float(expected_parameters(decided)) == pytest.approx(count(genotype), rel=0, abs=1e-6)
            assert float(expected_macs(decided)) == pytest.approx(count_macs(genotype, patch), rel=0, abs=1e-6)


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
    costs = {patch: Costs(load_space("thrifty"), 8, 5, 1, 2, patch) for patch in (None, (40, 33))}
    architecture = random_parameters(costs[None], 3)
    drawn = list(draws(architecture, costs[None], 4000))
    for patch, of_patch in costs.items():
        sizes = np.array([cost(g, patch) for g in drawn])
        error = sizes.std() / np.sqrt(len(sizes))
        with torch.no_grad():
            assert abs(float(ExpectedCost(of_patch)(architecture)) - sizes.mean()) < 4 * error
        assert error / sizes.mean() < 0.01


@BOTH
@pytest.mark.parametrize("depth", ["fixed", "searched"])
def test_gradient_agrees_with_finite_differences(depth: Depth, patch: Patch | None) -> None:
    costs = Costs(load_space("tiny"), 6, 4, 1, 2, patch, depth)
    architecture = random_parameters(costs, 1)
    expected = ExpectedCost(costs)
    parameters = list(architecture.parameters())
    value = expected(architecture)
    gradients = torch.autograd.grad(value, parameters)
    step, least = 1e-5, 1e-8 * float(value.detach())
    for parameter, gradient in zip(parameters, gradients, strict=True):
        for place in range(parameter.numel()):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter[place] += sign * step
                    values.append(float(expected(architecture)))
                    parameter[place] -= sign * step
            assert float(gradient[place]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5, abs=least)
