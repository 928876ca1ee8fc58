"""Parameters by formula against the built network, and laws 1 and 2 of the method, in every shipped space."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from thrifty.errors import ThriftyError
from thrifty.nets.derived import DerivedNetwork
from thrifty.nets.inherit import inherit
from thrifty.nets.layers import Norm
from thrifty.nets.supernet import HardNetwork, Relaxed, Supernet, shuffled
from thrifty.space.cost import Costs, count
from thrifty.space.genotype import CELL_TYPES, CellType, Genotype, role_of
from thrifty.space.path import Depth, kept_up_nodes, levels_of, row_neighbours
from thrifty.space.sample import random_genotype
from thrifty.space.schema import Space, load_space, shipped

SPACES = sorted(shipped("search_spaces"))
LAW_1 = [(name, levels, "fixed") for name in SPACES for levels in (3, 4)] + [
    (name, 4, "searched") for name in ("tiny", "thrifty")
]
LAW_2 = [(name, "fixed") for name in SPACES] + [(name, "searched") for name in ("tiny", "thrifty")]


def test_the_four_spaces_are_found() -> None:
    assert {"tiny", "thrifty", "paper", "nas_unet"} <= set(SPACES)


def hard_weights(space: Space, genotype: Genotype, levels: int, depth: Depth) -> Relaxed:
    """One-hot alpha, two-hot edges, 0/1 gates and one-hot depth, made by hand from the genotype."""
    alpha = {t: [] for t in CELL_TYPES}
    edges = {t: [] for t in CELL_TYPES}
    for t in CELL_TYPES:
        for k, pair in enumerate(genotype.cell(t).nodes):
            chosen = {edge.source: edge.op for edge in pair}
            edges[t].append(torch.tensor([1.0 if s in chosen else 0.0 for s in range(k + 2)], dtype=torch.float64))
            for s in range(k + 2):
                names = space.ops_of(t, s)
                # The op of an edge that is not kept must not matter.
                op = chosen.get(s, names[-1])
                alpha[t].append(torch.tensor([float(n == op) for n in names], dtype=torch.float64))
    gates = {}
    last = genotype.levels - 1
    for d in range(1, levels - 1):
        kept = genotype.path[d - 1] if d < last else d if d == last else 0
        for k in range(1, d + 1):
            gates[k, d - k] = torch.tensor(1.0 if k <= kept else 0.0, dtype=torch.float64)
    ends = torch.tensor([float(d == last) for d in range(1, levels)], dtype=torch.float64)
    return Relaxed(alpha, edges, gates, depth=ends if depth == "searched" else None)


def randomise(module: torch.nn.Module, generator: torch.Generator) -> None:
    """Random affine parameters and running statistics in every norm."""
    for norm in module.modules():
        if isinstance(norm, Norm):
            for name, low, high in (("weight", 0.5, 1.5), ("bias", -1, 1), ("running_mean", -1, 1), ("running_var", 0.5, 2)):
                getattr(norm, name).data.uniform_(low, high, generator=generator)


def make(space: Space, levels: int, partial: int = 1) -> tuple[Supernet, torch.Tensor]:
    torch.manual_seed(levels)
    supernet = Supernet(space, 4, levels, 2, 3, partial).double()
    randomise(supernet, torch.Generator().manual_seed(5))
    return supernet, torch.randn(3, 2, 2 * supernet.stride, supernet.stride, dtype=torch.float64)


def uses(genotype: Genotype) -> set[tuple[str, str, str]]:
    """The (cell type, role, op) that occur in a genotype."""
    return {(t, role_of(t, edge.source), edge.op) for t in CELL_TYPES for _, edge in genotype.cell(t).edges()}


def possible_uses(space: Space) -> set[tuple[str, str, str]]:
    """All that may occur: ops of the source's role, but not 'none'."""
    sources = {"down": (0, 2), "up": (0, 1, 2)}
    return {(t, role_of(t, s), op) for t in CELL_TYPES for s in sources[t] for op in space.ops_of(t, s) if op != "none"}


def covering(space: Space, levels: int, depth: Depth = "fixed") -> list[Genotype]:
    """Random genotypes that together have every cell path and, from 4 levels on, every op on every role it has."""
    rng, paths = np.random.default_rng(levels), space.paths(levels, depth)
    genotypes: list[Genotype] = []
    missing = possible_uses(space) if levels > 3 else set()
    while missing or len(genotypes) < len(paths):
        drawn = [random_genotype(space, 4, levels, 2, 3, rng) for _ in range(100 if missing else 1)]
        best = max(drawn, key=lambda genotype: len(uses(genotype) & missing))
        path = paths[len(genotypes) % len(paths)]
        genotypes.append(replace(best, path=path, levels=levels_of(path)))
        missing -= uses(best)
    assert {genotype.path for genotype in genotypes} == set(paths)
    assert levels == 3 or set().union(*(uses(genotype) for genotype in genotypes)) == possible_uses(space)
    return genotypes


@pytest.mark.parametrize("name", SPACES)
def test_formula_equals_the_built_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 random genotypes of each space, at several widths, levels, channels and classes."""
    for initialiser in ("kaiming_uniform_", "normal_"):  # only sizes matter here, and filling them takes most of the time
        monkeypatch.setattr(torch.nn.init, initialiser, lambda tensor, *_, **__: tensor)
    space, rng = load_space(name), np.random.default_rng(0)
    for number in range(1000):
        width, levels = int(rng.integers(1, 5)) * 2, int(rng.choice([2, 3, 4, 5], p=[0.65, 0.28, 0.05, 0.02]))
        genotype = random_genotype(space, width, levels, 1 + number % 3, 2 + number % 2, rng)
        assert count(genotype) == sum(p.numel() for p in DerivedNetwork(genotype).parameters())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "levels", "depth"), LAW_1)
def test_law_1_supernet_with_hard_weights_is_the_derived_network(name: str, levels: int, depth: Depth, training: bool) -> None:
    """On every cell path, of every depth; at 4 levels with every op on every role."""
    space = load_space(name)
    supernet, images = make(space, levels)
    supernet.train(training)
    for genotype in covering(space, levels, depth):
        network = DerivedNetwork(genotype).double().train(training)
        inherit(network, supernet)
        with torch.no_grad():
            expected = network(images)
            assert expected.std() > 1e-3
            mixture = supernet(images, hard_weights(space, genotype, levels, depth))
            torch.testing.assert_close(mixture, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("partial", [1, 4])
@pytest.mark.parametrize(("name", "depth"), LAW_2)
def test_law_2_hard_mode_runs_the_genotype_alone(name: str, depth: Depth, partial: int, training: bool) -> None:
    """With NaN in all weights that a genotype does not use the output is the same, and no statistics of theirs move."""
    space = load_space(name)
    supernet, images = make(space, 4, partial)
    supernet.train(training)
    before = {key: value.clone() for key, value in supernet.state_dict().items()}
    for genotype in covering(space, 4, depth):
        with torch.no_grad():
            expected = supernet(images, hard_weights(space, genotype, 4, depth))
            supernet.load_state_dict(before)
            poison_unused(supernet, genotype)
            unused = [key for key, value in supernet.state_dict().items() if value.isnan().any()]
            actual = HardNetwork(supernet, genotype)(images)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)
        after = supernet.state_dict()
        for key in before:
            if "running" in key:
                still = torch.equal(after[key], before[key])
                assert still == (not training or key.rpartition(".")[0] + ".weight" in unused), key
        supernet.load_state_dict(before)


def poison_unused(supernet: Supernet, genotype: Genotype) -> None:
    """NaN in all weights that the genotype does not use: of nodes and their inputs, of ops, of kernels in a family."""
    kept = kept_up_nodes(genotype.path, genotype.levels)
    dropped = [f"up_{i}_{j}" for i, j in supernet.up_nodes if (i, j) not in kept]
    dropped += [f"down_{j}" for j in range(genotype.levels, supernet.levels)]
    for key in dropped:
        fill_nan(supernet.cells[key])
        fill_nan(supernet.inputs[key])
    for i, j in kept:
        poison_slots(supernet, genotype, i, j)
    for key, cell in supernet.cells.items():
        if key not in dropped:
            poison_ops(cell, dict(edges_of(genotype, "down" if key.startswith("down") else "up")))


def edges_of(genotype: Genotype, cell_type: CellType) -> list[tuple[str, str]]:
    """(name of the edge in a cell, op)."""
    return [(f"{k}_{edge.source}", edge.op) for k, edge in genotype.cell(cell_type).edges()]


def poison_slots(supernet: Supernet, genotype: Genotype, i: int, j: int) -> None:
    """The blocks of an input convolution that belong to nodes which the cell path drops."""
    conv = supernet.inputs[f"up_{i}_{j}"].conv
    read = row_neighbours(genotype.path, genotype.levels, i, j)
    for slot, m in enumerate(supernet.neighbours(i, j)):
        if m not in read:
            block = slice(slot * conv.channels, (slot + 1) * conv.channels)
            conv.weight.data[:, block] = float("nan")
            if conv.depthwise is not None:
                conv.depthwise.data[block] = float("nan")


def poison_ops(cell: torch.nn.Module, kept: dict[str, str]) -> None:
    for name, edge in cell.edges.items():
        op = kept.get(name)
        for single, module in edge.singles.items():
            if single != op:
                fill_nan(module)
        if edge.family is None:
            continue
        members = [member.name for member in edge.family.members]
        if op not in members:
            fill_nan(edge.family)
        for member, kernel in zip(members, edge.family.kernels, strict=True):
            if member != op:
                kernel.data.fill_(float("nan"))


def fill_nan(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        parameter.data.fill_(float("nan"))


def test_row_widths_may_differ() -> None:
    """Law 1 and the formula where each row has its own width."""
    values = load_space("thrifty").model_dump(by_alias=True)
    values["fixed"]["row_factors"] = [0.5, 1, 1.5, 2]
    space = Space.model_validate(values)
    torch.manual_seed(0)
    supernet = Supernet(space, 8, 4, 1, 2).double().eval()
    genotype = random_genotype(space, 8, 4, 1, 2, np.random.default_rng(1))
    network = DerivedNetwork(genotype).double().eval()
    inherit(network, supernet)
    images = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    weights = hard_weights(space, genotype, 4, "fixed")
    torch.testing.assert_close(supernet(images, weights), network(images), rtol=0, atol=1e-9)
    assert count(genotype) == sum(p.numel() for p in network.parameters())
    costs = Costs(space, 8, 4, 1, 2)
    assert costs.smallest() <= count(genotype) <= costs.largest()


def test_full_size_output_for_any_legal_size() -> None:
    genotype = random_genotype(load_space("thrifty"), 4, 4, 1, 3, np.random.default_rng(0))
    network = DerivedNetwork(genotype)
    assert network.stride == 16
    assert network(torch.zeros(1, 1, 48, 16)).shape == (1, 3, 48, 16)


@pytest.mark.parametrize("name", ["thrifty", "paper"])
def test_every_legal_cell_path_builds_and_runs(name: str) -> None:
    space = load_space(name)
    genotype = random_genotype(space, 2, 5, 1, 2, np.random.default_rng(0))
    images = torch.randn(1, 1, 32, 32)
    for path in space.paths(5):
        network = DerivedNetwork(replace(genotype, path=path)).eval()
        assert network(images).shape == (1, 2, 32, 32)
        assert len(network.up_nodes) == 4 + sum(path)


def test_a_space_with_a_fixed_path_refuses_others() -> None:
    space = load_space("nas_unet")
    genotype = random_genotype(space, 4, 4, 1, 2, np.random.default_rng(0))
    space.check_genotype(genotype)
    with pytest.raises(ThriftyError, match=r"cell path \[1, 0\] is not in the space 'nas_unet'"):
        space.check_genotype(replace(genotype, path=(1, 0)))
    with pytest.raises(ThriftyError, match="does not fit a supernet of width 8"):
        HardNetwork(Supernet(space, 8, 4, 1, 2), genotype)
    with pytest.raises(ThriftyError, match="3 levels does not fit a supernet of width 4 and 4 levels"):
        HardNetwork(Supernet(space, 4, 4, 1, 2), random_genotype(space, 4, 3, 1, 2, np.random.default_rng(0)))


def test_a_shallower_genotype_needs_its_own_stride_only() -> None:
    """In hard mode it takes the images that its derived network takes, smaller than the supernet's stride."""
    space = load_space("thrifty")
    supernet, _ = make(space, 4)
    supernet.eval()
    for levels in (2, 3, 4):
        genotype = random_genotype(space, 4, levels, 2, 3, np.random.default_rng(levels))
        network = DerivedNetwork(genotype).double().eval()
        inherit(network, supernet)
        hard = HardNetwork(supernet, genotype)
        assert hard.stride == network.stride == 2**levels
        images = torch.randn(1, 2, hard.stride, 3 * hard.stride, dtype=torch.float64)
        torch.testing.assert_close(hard(images), network(images), rtol=0, atol=1e-9)
    deeper = random_genotype(space, 4, 5, 2, 3, np.random.default_rng(0))
    with pytest.raises(ThriftyError, match="5 levels does not fit a supernet of width 4 and 4 levels"):
        HardNetwork(supernet, deeper)


def test_channels_that_pass_by_are_shuffled_as_torch_shuffles_channels() -> None:
    seen, bypass = torch.randn(2, 3, 4, 5), torch.randn(2, 9, 4, 5)
    found = shuffled(seen, bypass, 4)
    assert torch.equal(found, torch.channel_shuffle(torch.cat([seen, bypass], 1), 4))
    assert found.is_contiguous(memory_format=torch.channels_last)
