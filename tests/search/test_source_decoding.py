"""The source's decoding rule by hand and against brute force; gates of two logits; what happens without a budget."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from architectures import random_parameters
from small_search import SEARCH, SETTING, search_run, search_study, small_search

from thrifty.errors import ThriftyError
from thrifty.search.relaxation import ArchitectureParameters, softmax_edges
from thrifty.search.setting import Setting, by_budget, settings_of
from thrifty.search.source_decoding import decode_source
from thrifty.space.cost import Costs, count
from thrifty.space.decode import decode
from thrifty.space.genotype import CELL_TYPES, CellType, Edge
from thrifty.space.path import kept_up_nodes
from thrifty.space.schema import Space, load_space

PAPER = Costs(load_space("paper"), 4, 5, 1, 2)


def two_logits(space: Space, levels: int) -> ArchitectureParameters:
    architecture = ArchitectureParameters(space, levels, gates="two_logits").double()
    with torch.no_grad():
        for parameter in architecture.parameters():
            parameter.zero_()
    return architecture


def test_by_hand() -> None:
    """Logits are logarithms of shares, so the scores can be worked out on paper."""
    architecture = two_logits(PAPER.space, 5)
    names = PAPER.space.ops_of("up", 0)
    assert names[:3] == ("identity", "none", "dil3_conv_5")
    with torch.no_grad():
        # Node 1 of the up cell: edges from in0, in1 and node 0 with beta 0.5, 0.3, 0.2.
        architecture.beta["up"][1].copy_(torch.log(torch.tensor([0.5, 0.3, 0.2])))
        # in0: 'none' has 0.9 of alpha, so its best op (dil3_conv_5) has 0.06: 0.5 * 0.06 = 0.03.
        architecture.alpha["up"][2].copy_(torch.log(torch.tensor([0.01, 0.9, 0.06, 0.01, 0.01, 0.01])))
        # in1: all six alike, the first one counts: 0.3 / 6 = 0.05. Node 0: 0.2 * 0.4 = 0.08.
        architecture.alpha["up"][4].copy_(torch.log(torch.tensor([0.1, 0.2, 0.1, 0.1, 0.1, 0.4])))
        # P(on) of X(1,0); X(1,1), X(2,0); X(1,2), X(2,1), X(3,0). Three of six are off: 0.2, 0.3, 0.4.
        for gamma, on in zip(architecture.gamma, ([0.2], [0.9, 0.3], [0.4, 0.8, 0.7]), strict=True):
            gamma.copy_(torch.log(torch.tensor([[p, 1 - p] for p in on])))
    found = decode_source(architecture, PAPER)
    assert found.genotype.up.nodes[1] == (Edge(1, "up_sample"), Edge(2, "dep_sep_conv_5"))
    assert found.genotype.up.nodes[0] == (Edge(0, "identity"), Edge(1, "up_sample")), "ties: the first edges and ops"
    # On are X(1,1), X(2,1) and X(3,0); the last two stand on X(1,2), which is off.
    assert found.genotype.path == (0, 1, 0)
    assert found.parameters == count(found.genotype)


@pytest.mark.parametrize("gates", ["two_logits", "chain"])
def test_against_brute_force(gates: str) -> None:
    """Of all pairs and ops the largest sum of scores; of all sets of three gates the largest sum of P(on), then closure."""
    for seed in range(25):
        torch.manual_seed(seed)
        architecture = ArchitectureParameters(PAPER.space, 5, "softmax", gates).double()
        for parameter in architecture.parameters():
            torch.nn.init.normal_(parameter, std=1.5)
        genotype = decode_source(architecture, PAPER).genotype
        for t in CELL_TYPES:
            for node, pair in enumerate(genotype.cell(t).nodes):
                assert pair == best_pair(architecture, t, node)
        nodes = {(i, d - i): p for d, gate in enumerate(p_on(architecture, gates), 1) for i, p in enumerate(gate, 1)}
        on = set(max(itertools.combinations(nodes, 3), key=lambda chosen: sum(nodes[place] for place in chosen)))
        closed = {(i, j) for i, j in on if all((m, i + j - m) in on for m in range(1, i))}
        assert {place for place in kept_up_nodes(genotype.path, 5) if sum(place) < 4} == closed


def best_pair(architecture: ArchitectureParameters, cell_type: CellType, node: int) -> tuple[Edge, Edge]:
    space, beta = architecture.space, np.exp(architecture.beta[cell_type][node].detach().numpy())
    first = sum(k + 2 for k in range(node))
    scores: dict[Edge, float] = {}
    for source in range(node + 2):
        alpha = np.exp(architecture.alpha[cell_type][first + source].detach().numpy())
        for name, share in zip(space.ops_of(cell_type, source), alpha / alpha.sum(), strict=True):
            if name != "none":
                scores[Edge(source, name)] = beta[source] / beta.sum() * share
    pairs = [(a, b) for a, b in itertools.combinations(scores, 2) if a.source < b.source]
    return max(pairs, key=lambda pair: scores[pair[0]] + scores[pair[1]])


def p_on(architecture: ArchitectureParameters, gates: str) -> list[list[float]]:
    if gates == "chain":
        return [[1 / (1 + np.exp(-v)) for v in gate.tolist()] for gate in architecture.gamma]
    return [[float(np.exp(on) / (np.exp(on) + np.exp(off))) for on, off in gate.tolist()] for gate in architecture.gamma]


@pytest.mark.parametrize(("levels", "off"), [(3, 0), (4, 1), (5, 3)])
def test_the_lower_half_is_rounded_down(levels: int, off: int) -> None:
    """One, three and six nodes; the higher on its diagonal, the less likely, so that closure removes nothing."""
    architecture = two_logits(PAPER.space, levels)
    with torch.no_grad():
        for gamma in architecture.gamma:
            gamma[:, 0] = -torch.arange(len(gamma), dtype=torch.float64)
    path = decode_source(architecture, replace(PAPER, levels=levels)).genotype.path
    assert sum(path) == sum(range(1, levels - 1)) - off


def test_a_fixed_path_stays() -> None:
    costs = Costs(load_space("nas_unet"), 4, 4, 1, 2)
    assert decode_source(random_parameters(costs, 0), costs).genotype.path == (0, 0)


def test_two_logits_are_a_softmax_for_each_node_and_closed_on_its_diagonal() -> None:
    architecture = two_logits(PAPER.space, 5)
    assert [tuple(gamma.shape) for gamma in architecture.gamma] == [(1, 2), (2, 2), (3, 2)]
    torch.manual_seed(0)
    for gamma in architecture.gamma:
        torch.nn.init.normal_(gamma)
    own, gates = p_on(architecture, "two_logits"), architecture.relaxed().gates
    for (i, j), gate in gates.items():
        assert float(gate.detach()) == pytest.approx(np.prod(own[i + j - 1][:i]), abs=1e-12)
    assert len(gates) == 6
    # The distribution over paths: diagonal by diagonal the nodes below the first one that is off.
    for path in PAPER.space.paths(5):
        p = 1.0
        for gate, kept in zip(own, path, strict=True):
            p *= np.prod(gate[:kept]) * (1 - gate[kept] if kept < len(gate) else 1)
        assert np.exp(architecture.distribution().log_path(path)) == pytest.approx(p, abs=1e-12)


def test_both_logits_learn() -> None:
    architecture = two_logits(PAPER.space, 4)
    sum(architecture.relaxed().gates.values()).backward()
    for gamma in architecture.gamma:
        assert (gamma.grad[:, 0] > 0).all() and torch.equal(gamma.grad[:, 0], -gamma.grad[:, 1])


def test_edge_weights_are_the_plain_softmax() -> None:
    beta = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    expected = np.exp(beta.numpy()) / np.exp(beta.numpy()).sum()
    np.testing.assert_allclose(softmax_edges(beta).numpy(), expected, atol=1e-12)


def test_without_a_budget_nothing_binds(tmp_path: Path) -> None:
    study = search_study(budgets=[{"width": 8, "levels": 3}, 3000], search=SEARCH | {"decoding": "source"})
    free, bound = settings_of(study, load_space("tiny"), 1, 3)
    costs = Costs(load_space("tiny"), 8, 3, 1, 3)
    assert free == Setting(costs.largest(), 8, 3, 3, bounded=False) and bound.bounded
    assert list(by_budget([free, bound])) == sorted([3000, costs.largest()])
    twice = search_study(budgets=[{"width": 8, "levels": 3}, {"parameters": costs.largest(), "width": 8, "levels": 3}])
    with pytest.raises(ThriftyError, match="come to the same setting"):
        settings_of(twice, load_space("tiny"), 1, 3)


def test_partial_channels_name_the_width_without_a_budget() -> None:
    study = search_study(space="thrifty", budgets=[{"width": 26}], search=SEARCH | {"partial": 4})
    with pytest.raises(ThriftyError, match=r"multiple of 4; width 26 without a limit has \[26, 26"):
        settings_of(study, load_space("thrifty"), 1, 2)


@pytest.mark.parametrize(
    ("decoding", "bounded", "by_rule"), [("source", False, True), ("source", True, False), ("exact", False, False)]
)
def test_the_rule_decides_only_where_it_is_asked_for_and_no_budget_is_set(
    tmp_path: Path, decoding: str, bounded: bool, by_rule: bool
) -> None:
    study, _, prepared = search_run(tmp_path, search=SEARCH | {"decoding": decoding, "gates": "two_logits"})
    search = small_search(study, prepared, replace(SETTING, budget=10**6, bounded=bounded))
    with torch.no_grad():
        for seed in range(100):  # until the two rules differ
            torch.manual_seed(seed)
            for parameter in search.architecture.parameters():
                parameter.normal_()
            source = decode_source(search.architecture, search.costs)
            exact = decode(search.architecture.distribution(), search.costs)
            if source.genotype != exact.genotype:
                break
    assert source.genotype != exact.genotype and source.log_p < exact.log_p
    assert source.log_p == pytest.approx(search.architecture.distribution().log_prob(source.genotype))
    assert search.decode().genotype == (source if by_rule else exact).genotype
