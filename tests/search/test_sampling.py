"""Sampled networks: what is drawn, how it is run, and what gradient comes back."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from small_search import search_run, small_search

from thrifty.config import Guard, Search
from thrifty.nets import depthwise as depthwise_module
from thrifty.nets.layers import Norm
from thrifty.nets.recalibrate import batch_statistics
from thrifty.nets.supernet import Relaxed, Supernet
from thrifty.search.measures import batch_dice
from thrifty.search.relaxation import ArchitectureParameters
from thrifty.search.twolevel import ARCHITECTURE, WEIGHTS, _is_hard, temperature_at
from thrifty.space.cost import Costs
from thrifty.space.distribution import Distribution, edge_index, pairs_of
from thrifty.space.genotype import CELL_TYPES, Genotype
from thrifty.space.path import Depth, searched_diagonals
from thrifty.space.sample import draw
from thrifty.space.schema import load_space


def architecture_of(name: str, levels: int, depth: Depth = "fixed") -> ArchitectureParameters:
    torch.manual_seed(0)
    architecture = ArchitectureParameters(load_space(name), levels, depth=depth).double()
    for parameter in architecture.parameters():
        torch.nn.init.normal_(parameter)
    return architecture


@pytest.mark.parametrize("depth", ["fixed", "searched"])
def test_draws_follow_the_distribution(depth: Depth) -> None:
    """Frequencies of cell paths, pairs and ops in 3,000 draws, within four standard errors of their probabilities."""
    architecture = architecture_of("tiny", 4, depth)
    costs, distribution = Costs(load_space("tiny"), 4, 4, 1, 2, depth=depth), architecture.distribution()
    number, rng = 3000, np.random.default_rng(1)
    drawn = [draw(distribution, costs, rng) for _ in range(number)]

    def agrees(count: int, p: float, among: int = number) -> None:
        assert abs(count / among - p) < 4 * np.sqrt(p * (1 - p) / among) + 1e-9

    paths = Counter(g.path for g in drawn)
    for path in costs.space.paths(4, depth):
        agrees(paths[path], float(np.exp(distribution.log_path(path))))
    assert all(g.levels == len(g.path) + 2 for g in drawn)
    for index, pair in enumerate(pairs_of(1)):
        chosen = [g for g in drawn if tuple(e.source for e in g.up.nodes[1]) == pair]
        agrees(len(chosen), float(np.exp(distribution.pairs["up"][1][index])))
        first = costs.space.ops_of("up", pair[0])[0]
        p = float(np.exp(distribution.ops["up"][edge_index(1, pair[0])][0]))
        agrees(sum(g.up.nodes[1][0].op == first for g in chosen), p, len(chosen))


def test_none_is_never_drawn_and_a_fixed_path_is_kept() -> None:
    for name in ("paper", "nas_unet"):
        costs = Costs(load_space(name), 4, 5, 1, 2)
        distribution, rng = ArchitectureParameters(costs.space, 5).distribution(), np.random.default_rng(0)
        for _ in range(20):
            costs.space.check_genotype(draw(distribution, costs, rng))


def test_temperature_divides_the_logits() -> None:
    architecture = architecture_of("tiny", 4, "searched")
    architecture.temperature = 0.5
    sharp = architecture.distribution()
    with torch.no_grad():
        for parameter in architecture.parameters():
            parameter.mul_(2)
    architecture.temperature = 1.0
    doubled: Distribution = architecture.distribution()
    for t in CELL_TYPES:
        for a, b in zip([*sharp.ops[t], *sharp.pairs[t]], [*doubled.ops[t], *doubled.pairs[t]], strict=True):
            np.testing.assert_allclose(a, b)
    for a, b in zip([*sharp.gates, sharp.depth], [*doubled.gates, doubled.depth], strict=True):
        np.testing.assert_allclose(a, b)


def test_temperature_falls_geometrically() -> None:
    assert [temperature_at(p, 0.25) for p in (0.0, 0.5, 1.0)] == pytest.approx([1, 0.5, 0.25])
    assert temperature_at(0.7, 1.0) == 1


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.25, 25), (0.5, 50), (1.0, 100)])
def test_hard_steps_are_spread_evenly(share: float, expected: int) -> None:
    hard = [_is_hard(step, share) for step in range(100)]
    assert sum(hard) == expected
    assert all(sum(hard[i : i + 20]) == expected / 5 for i in range(0, 100, 20))


def one_hot(architecture: ArchitectureParameters, genotype: Genotype, depth: Depth) -> Relaxed:
    """The mixture that is the network of `genotype`, each weight a leaf of its own."""
    space, alpha, edges = architecture.space, {}, {}
    for t in CELL_TYPES:
        chosen = {(k, e.source): e.op for k, e in genotype.cell(t).edges()}
        sources = [(k, s) for k in range(space.nodes) for s in range(k + 2)]
        alpha[t] = [torch.tensor([float(n == chosen.get(at)) for n in space.ops_of(t, at[1])]) for at in sources]
        edges[t] = [torch.tensor([float((k, s) in chosen) for s in range(k + 2)]) for k in range(space.nodes)]
    last, levels = genotype.levels - 1, architecture.levels
    kept = [*genotype.path, last, *[0] * levels]  # of each diagonal: the last one is whole, and none is beyond it
    gates = {(i, d - i): torch.tensor(float(i <= kept[d - 1])) for d in searched_diagonals(levels) for i in range(1, d + 1)}
    ends = torch.tensor([float(d == last) for d in range(1, levels)], dtype=torch.float64, requires_grad=True)
    leaves = lambda values: [v.double().requires_grad_() for v in values]  # noqa: E731
    return Relaxed(
        {t: leaves(v) for t, v in alpha.items()},
        {t: leaves(v) for t, v in edges.items()},
        dict(zip(gates, leaves(gates.values()), strict=True)),
        depth=ends if depth == "searched" else None,
    )


@pytest.mark.parametrize(
    ("name", "levels", "depth"), [("tiny", 3, "fixed"), ("thrifty", 3, "fixed"), ("paper", 3, "fixed"), ("tiny", 4, "searched")]
)
def test_straight_through_gradient_is_that_of_the_mixture_at_the_drawn_network(name: str, levels: int, depth: Depth) -> None:
    """dL/dw at the one-hot mixture, which runs every branch, times the gradient of log P: by the chain rule, by hand."""
    architecture = architecture_of(name, levels, depth)
    costs, rng = Costs(architecture.space, 4, levels, 1, 2, depth=depth), np.random.default_rng(2)
    genotype = next(g for g in (draw(architecture.distribution(), costs, rng) for _ in range(100)) if g.levels == 3)
    torch.manual_seed(1)
    supernet = Supernet(costs.space, 4, levels, 1, 2).double()
    for module in supernet.modules():
        if isinstance(module, Norm):
            module.eps = 1e-14  # the mixture also mixes kernels; a norm without epsilon takes no notice of their length
    images, target = torch.randn(2, 1, 16, 16).double(), torch.randn(2, 2, 16, 16).double()

    hard = supernet.hard(images, genotype, architecture.straight_through())
    torch.testing.assert_close(hard, supernet.hard(images, genotype), rtol=1e-12, atol=1e-12)
    parameters = list(architecture.parameters())
    found = torch.autograd.grad(((hard - target) ** 2).mean(), parameters, allow_unused=True)

    weights = one_hot(architecture, genotype, depth)
    ((supernet(images, weights) - target) ** 2).mean().backward()
    soft, expected = architecture.relaxed(), torch.zeros(())
    for t in CELL_TYPES:
        kept = {(k, e.source) for k, e in genotype.cell(t).edges()}
        for k in range(costs.space.nodes):
            for s in range(k + 2):
                if (k, s) in kept:
                    index = edge_index(k, s)
                    slope = weights.alpha[t][index].grad * weights.alpha[t][index].detach()
                    expected = expected + (slope * soft.alpha[t][index].log()).sum()
                    expected = expected + weights.edges[t][k].grad[s] * soft.edges[t][k][s].log()
    for node, gate in weights.gates.items():
        if float(gate.detach()) == 1:
            expected = expected + gate.grad * soft.gates[node].log()
    if weights.depth is not None:
        expected = expected + (weights.depth.grad * weights.depth.detach() * soft.depth.log()).sum()
    wanted = torch.autograd.grad(expected, parameters, allow_unused=True)
    for a, b in zip(found, wanted, strict=True):
        a, b = (torch.zeros(1) if v is None else v.float() for v in (a, b))
        # the mixture also mixes kernels, which the norm behind them undoes up to its epsilon
        torch.testing.assert_close(a.expand_as(b), b, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("samples", [1, 2])
def test_a_hard_step_moves_only_the_weights_of_the_drawn_networks(tmp_path: Path, samples: int) -> None:
    keys = {"epochs": 3, "steps": 2, "warmup": 1, "batch": 2, "hard": 1.0, "samples": samples}
    study, _, prepared = search_run(tmp_path, search=keys)
    search = small_search(study, prepared)
    drawn = [search._draw(0, 1, WEIGHTS, number) for number in range(samples)]
    before = {name: p.detach().clone() for name, p in search.supernet.named_parameters()}
    search.weight_step(0, 1)
    moved = {name for name, p in search.supernet.named_parameters() if not torch.equal(p, before[name])}
    edges = {tuple(name.split(".")[1:4:2]) for name in moved if ".edges." in name}
    down = {(f"down_{j}", f"{k}_{e.source}") for g in drawn for j in (1, 2) for k, e in g.down.edges()}
    assert {edge for edge in edges if edge[0].startswith("down")} == down
    assert {edge[1] for edge in edges if edge[0] == "head"} == {f"{k}_{e.source}" for g in drawn for k, e in g.up.edges()}


def test_a_step_of_two_networks_has_the_mean_gradient_of_both_parts(tmp_path: Path) -> None:
    """By hand: three images, two for the first network and one for the second; the loss is the mean over the images."""
    keys = {"epochs": 3, "steps": 2, "warmup": 1, "batch": 3, "samples": 2, "weights": {"clip": 0}}
    study, _, prepared = search_run(tmp_path, search=keys)
    search, losses = small_search(study, prepared), []
    images, masks = search.data.weights.draw(0, 1)
    wanted = {name: torch.zeros_like(p) for name, p in search.supernet.named_parameters()}
    search.supernet.train()
    for number, part in enumerate((slice(0, 2), slice(2, 3))):
        logits = search.supernet.hard(images[part], search._draw(0, 1, WEIGHTS, number))
        losses.append(search.data.loss(logits, masks[part]))
        found = torch.autograd.grad(losses[-1], list(search.supernet.parameters()), allow_unused=True)
        for target, gradient in zip(wanted.values(), found, strict=True):
            target += 0 if gradient is None else gradient * (2, 1)[number] / 3
    loss = search.weight_step(0, 1)
    assert float(loss) == pytest.approx(float((2 * losses[0] + losses[1]).detach()) / 3, rel=1e-5)
    for name, p in search.supernet.named_parameters():
        torch.testing.assert_close(torch.zeros_like(p) if p.grad is None else p.grad, wanted[name], rtol=1e-4, atol=1e-6)


def test_draws_are_a_function_of_seed_epoch_and_step(tmp_path: Path) -> None:
    study, _, prepared = search_run(tmp_path)
    first, second, other = (small_search(study, prepared, seed=s) for s in (0, 0, 1))
    places = [(0, 0, WEIGHTS), (0, 1, WEIGHTS), (1, 0, WEIGHTS), (2, 1, WEIGHTS), (2, 1, WEIGHTS, 1), (2, 1, ARCHITECTURE)]
    drawn = [[s._draw(*place) for place in places] for s in (first, second, other)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) > 1


def test_the_gumbel_relaxation_learns_architecture_on_sampled_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And never runs the mixture, which would cost many times as much."""
    monkeypatch.delattr(Supernet, "forward")
    keys = {"epochs": 3, "steps": 4, "warmup": 1, "batch": 2, "relaxation": "gumbel", "hard": 1.0}
    study, _, prepared = search_run(tmp_path, search=keys)
    search = small_search(study, prepared)
    before = [p.detach().clone() for p in search.architecture.parameters()]
    rows = [search.epoch(index) for index in range(3)]
    assert rows[0]["loss_architecture"] is None and rows[2]["loss_architecture"] > 0
    assert rows[2]["curvature"] is None
    assert [row["dice"] for row in rows] == [row["dice_decoded"] for row in rows]
    assert sum(not torch.equal(p, old) for p, old in zip(search.architecture.parameters(), before, strict=True)) > len(before) / 2


def test_an_architecture_step_on_a_sampled_network_computes_no_gradients_of_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Naming the parameters that want a gradient does not stop an autograd function in Python from computing the others'."""
    keys = {"epochs": 3, "steps": 2, "warmup": 1, "batch": 2, "relaxation": "gumbel", "hard": 1.0}
    study, _, prepared = search_run(tmp_path, space="thrifty", search=keys)
    search, wanted = small_search(study, prepared), []
    plain = depthwise_module._gradients
    monkeypatch.setattr(depthwise_module, "LEAST_PIXELS", 0)
    monkeypatch.setattr(depthwise_module, "_gradients", lambda *given: (wanted.append(tuple(given[-1])), plain(*given))[1])
    search.architecture_step(1, 0)
    assert not wanted  # where only the input wants a gradient torch's own convolution serves
    search.weight_step(1, 0)
    assert (False, True, False) in wanted
    assert all(p.requires_grad for p in search.supernet.parameters())


@pytest.mark.parametrize(("relaxation", "hard"), [("softmax", 0.5), ("softmax", 1.0), ("gumbel", 0.0)])
def test_dice_of_the_mixture_is_recorded_where_one_is_learnt(tmp_path: Path, relaxation: str, hard: float) -> None:
    keys = {"epochs": 3, "steps": 2, "warmup": 0, "batch": 2, "relaxation": relaxation, "hard": hard}
    study, _, prepared = search_run(tmp_path, search=keys)
    search = small_search(study, prepared)
    row = search.epoch(0)
    images, masks = zip(*(search._plain(step) for step in range(2)), strict=True)
    with torch.no_grad(), batch_statistics(search.supernet):
        logits = [search.supernet(batch, search.architecture.relaxed()) for batch in images]
    found = [batch_dice(values.argmax(1), mask, search.costs.classes) for values, mask in zip(logits, masks, strict=True)]
    assert row["dice"] == pytest.approx(np.mean(found), abs=1e-6)


def test_curvature_is_refused_where_no_mixture_is_learnt() -> None:
    with pytest.raises(ValueError, match=r"give guard\.curvature=0 or relaxation=softmax"):
        Search(relaxation="gumbel", guard=Guard(curvature=0.5))


def test_beta_loss_by_hand() -> None:
    architecture = ArchitectureParameters(load_space("tiny"), 3).double()
    with torch.no_grad():
        for t in CELL_TYPES:
            for logits in architecture.alpha[t]:
                logits.copy_(torch.tensor([1.0, 3.0]))
    assert float(architecture.beta_loss().detach()) == pytest.approx(np.log(np.exp(1) + np.exp(3)))


def test_the_guard_goes_back_and_the_architecture_stays(tmp_path: Path) -> None:
    """A share of parameter-free ops that every genotype reaches, from the second look on."""
    keys = {"epochs": 5, "steps": 2, "warmup": 1, "batch": 2, "guard": {"parameter_free": 0.0, "curvature": 0.0}}
    study, _, prepared = search_run(tmp_path, search=keys)
    search = small_search(study, prepared)
    search.epoch(0)
    search.guard.look(_good(search))
    good = [p.detach().clone() for p in search.architecture.parameters()]
    search.setting = search.setting.__class__(30_000, 8, 3, 5)  # most of it idle
    row = search.epoch(1)
    assert row["guard"].startswith("back to the architecture of epoch 0, which stays: ")
    for index in (2, 3):
        row = search.epoch(index)
        assert row["loss_architecture"] is None and row["guard"] is None
    assert all(torch.equal(p, old) for p, old in zip(search.architecture.parameters(), good, strict=True))


def _good(search):  # type: ignore[no-untyped-def]
    from thrifty.search.guard import Look

    architecture = {name: value.clone() for name, value in search.architecture.state_dict().items()}
    return Look(0, -1.0, 0.0, None, architecture)
