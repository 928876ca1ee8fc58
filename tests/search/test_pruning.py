from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from small_search import SETTING, search_run, small_search

from thrifty.nets.supernet import Relaxed, Supernet
from thrifty.search.pruning import Pruning
from thrifty.search.relaxation import ArchitectureParameters
from thrifty.space.cost import Costs
from thrifty.space.decode import decode
from thrifty.space.genotype import CELL_TYPES
from thrifty.space.schema import load_space

COSTS = Costs(load_space("thrifty"), 4, 3, 1, 2)


def ranked() -> ArchitectureParameters:
    """On every edge the ops rank as they stand in the space file, the first one last."""
    architecture = ArchitectureParameters(COSTS.space, 3)
    with torch.no_grad():
        for t in CELL_TYPES:
            for logits in architecture.alpha[t]:
                logits.copy_(torch.arange(len(logits)).float())
    return architecture


def test_the_last_op_goes_when_the_order_has_stayed() -> None:
    architecture, pruning = ranked(), Pruning(2, COSTS)
    assert [pruning.look(architecture) for _ in range(2)] == [0, 0]
    edges = sum(len(architecture.alpha[t]) for t in CELL_TYPES)
    assert pruning.look(architecture) == edges
    # Normal edges rank identity (the cheapest, which stays), squeeze, ...: squeeze goes first.
    names, live = COSTS.space.ops_of("up", 0), architecture.live_ops("up")[0]
    assert [n for n, alive in zip(names, live, strict=True) if not alive] == ["squeeze"]
    down = [n for n, alive in zip(COSTS.space.ops_of("down", 0), architecture.live_ops("down")[0], strict=True) if not alive]
    assert down == ["max_pool"]  # avg_pool is as cheap and comes first


def test_a_change_of_order_starts_the_count_anew() -> None:
    architecture, pruning = ranked(), Pruning(1, COSTS)
    assert pruning.look(architecture) == 0
    with torch.no_grad():
        architecture.alpha["up"][0].copy_(-torch.arange(5).float())
    edges = sum(len(architecture.alpha[t]) for t in CELL_TYPES)
    assert pruning.look(architecture) == edges - 1
    assert architecture.live_ops("up")[0] == (True,) * 5


def test_in_the_end_the_best_and_the_cheapest_are_left_and_every_budget_is_within_reach() -> None:
    architecture, pruning = ranked(), Pruning(1, COSTS)
    for _ in range(20):
        pruning.look(architecture)
    for t in CELL_TYPES:
        for source, live in zip((0, 1, 0, 1, 2), architecture.live_ops(t)[:5], strict=True):
            names = COSTS.space.ops_of(t, source)
            assert [n for n, alive in zip(names, live, strict=True) if alive] == [names[0], names[-1]]
    assert decode(architecture.distribution(), COSTS, COSTS.smallest()).parameters == COSTS.smallest()


def test_nothing_is_pruned_by_default() -> None:
    architecture, pruning = ranked(), Pruning(0, COSTS)
    assert [pruning.look(architecture) for _ in range(9)] == [0] * 9


@pytest.mark.parametrize("name", ["thrifty", "paper"])
def test_a_mixture_without_the_pruned_ops_is_the_mixture_with_weight_zero_on_them(name: str) -> None:
    """The short cut, which also crops mixed kernels, against all branches run with weight 0."""
    torch.manual_seed(0)
    space = load_space(name)
    architecture = ArchitectureParameters(space, 3).double()
    for t in CELL_TYPES:
        for index, logits in enumerate(architecture.alpha[t]):
            for op in torch.randperm(len(logits))[:3].tolist():
                architecture.prune(t, index, op)
    supernet, images = Supernet(space, 4, 3, 1, 2).double(), torch.randn(2, 1, 16, 16).double()
    short = architecture.relaxed()
    assert all(float(a.detach().sum()) == pytest.approx(1) for a in short.alpha["up"])
    whole = Relaxed(short.alpha, short.edges, short.gates)
    torch.testing.assert_close(supernet(images, short), supernet(images, whole), rtol=1e-10, atol=1e-10)


def test_a_search_that_prunes_computes_less_and_goes_on_after_a_stop(tmp_path: Path) -> None:
    keys = {
        "epochs": 5,
        "steps": 1,
        "warmup": 0,
        "batch": 2,
        "prune": 1,
        "guard": {"curvature": 0},
        "architecture": {"lr": 0.001},
    }
    study, _, prepared = search_run(tmp_path, space="thrifty", search=keys)
    setting = SETTING.__class__(3000, 4, 2, 5)
    search = small_search(study, prepared, setting)
    rows = [search.epoch(index) for index in range(3)]
    assert rows[0]["pruned"] == 0 and sum(row["pruned"] for row in rows) > 0
    again = small_search(study, prepared, setting)
    again.load_state_dict(deepcopy(search.state_dict()))
    assert again.architecture.live_ops("up") == search.architecture.live_ops("up")
    assert again.epoch(3)["pruned"] == search.epoch(3)["pruned"]
