"""Searches of the depth: gates and entropies, the settings, and a whole search that stops, goes on and decodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from architectures import degenerate, random_parameters
from small_search import SEARCH, arguments, search_run, search_study, small_search

from thrifty.errors import ThriftyError
from thrifty.nets.supernet import HardNetwork
from thrifty.nets.supernet_file import load_supernet
from thrifty.results import Trial, read_json, read_jsonl
from thrifty.search.relaxation import ArchitectureParameters, entropies
from thrifty.search.setting import Setting, derive_width, settings_of
from thrifty.search.trial import search_trial
from thrifty.space.cost import Costs, count
from thrifty.space.decode import decode
from thrifty.space.distribution import Distribution
from thrifty.space.genotype import load
from thrifty.space.path import kept_up_nodes, levels_of
from thrifty.space.sample import random_genotype
from thrifty.space.schema import load_space

COSTS = Costs(load_space("tiny"), 8, 4, 1, 3, depth="searched")
SETTING = Setting(2000, 8, 4, 3)  # below the smallest network of four levels, which has 2,240


def test_gates_by_hand() -> None:
    """P(L = d) + P(L > d) p(d, k)."""
    architecture = ArchitectureParameters(load_space("thrifty"), 5, depth="searched").double()
    share = lambda *p: torch.tensor([np.log(v / (1 - v)) for v in p])  # noqa: E731
    with torch.no_grad():
        architecture.depth.copy_(torch.log(torch.tensor([0.1, 0.2, 0.3, 0.4])))
        for gamma, p in zip(architecture.gamma, ([0.5], [0.8, 0.25], [0.5, 0.5, 0.1]), strict=True):
            gamma.copy_(share(*p))
    expected = {
        (1, 0): 0.1 + 0.9 * 0.5,
        (1, 1): 0.2 + 0.7 * 0.8,
        (2, 0): 0.2 + 0.7 * 0.8 * 0.25,
        (1, 2): 0.3 + 0.4 * 0.5,
        (2, 1): 0.3 + 0.4 * 0.25,
        (3, 0): 0.3 + 0.4 * 0.025,
    }
    relaxed = architecture.relaxed()
    assert {node: float(gate.detach()) for node, gate in relaxed.gates.items()} == pytest.approx(expected, abs=1e-7)
    np.testing.assert_allclose(relaxed.depth.detach(), [0.1, 0.2, 0.3, 0.4], atol=1e-7)


def test_gates_are_the_probability_that_a_node_is_in_the_network() -> None:
    for seed in range(5):
        architecture = random_parameters(COSTS, seed)
        distribution = architecture.distribution()
        p = {path: float(np.exp(distribution.log_path(path))) for path in COSTS.paths()}
        assert sum(p.values()) == pytest.approx(1, abs=1e-12)
        for node, gate in architecture.relaxed().gates.items():
            expected = sum(p[path] for path in p if node in kept_up_nodes(path, levels_of(path)))
            assert float(gate.detach()) == pytest.approx(expected, abs=1e-12)


def test_entropy_of_the_depth() -> None:
    architecture = ArchitectureParameters(COSTS.space, 4, depth="searched")
    with torch.no_grad():
        architecture.depth.zero_()
    assert entropies(architecture)["entropy_depth"] == pytest.approx(1, abs=1e-6)
    with torch.no_grad():
        architecture.depth.copy_(torch.log(torch.tensor([0.5, 0.25, 0.25])))
    assert entropies(architecture)["entropy_depth"] == pytest.approx(1.5 * np.log(2) / np.log(3), abs=1e-6)
    genotype = random_genotype(COSTS.space, 8, 4, 1, 3, np.random.default_rng(0), depth="searched")
    assert entropies(degenerate(COSTS, genotype))["entropy_depth"] == pytest.approx(0, abs=1e-6)
    assert "entropy_depth" not in entropies(ArchitectureParameters(COSTS.space, 4))


def test_the_weights_of_the_depth_travel_too() -> None:
    architecture = random_parameters(COSTS, 2)
    here, there = architecture.relaxed(), architecture.relaxed().to(torch.device("cpu"))
    assert torch.equal(here.depth, there.depth)
    assert {k: float(v.detach()) for k, v in here.gates.items()} == {k: float(v.detach()) for k, v in there.gates.items()}


def test_the_rule_of_the_source_is_refused() -> None:
    with pytest.raises(ValueError, match="decoding=source has no rule for a searched depth"):
        search_study(search=SEARCH | {"depth": "searched", "decoding": "source"})


def test_settings_know_of_the_shallower_networks() -> None:
    """A budget that no network of four levels fits is legal, and the width of an undecided search is larger."""
    budgets = [{"parameters": 2000, "width": 8, "levels": 4}, {"width": 8, "levels": 4}]
    study = search_study(search=SEARCH | {"depth": "searched"}, budgets=budgets)
    bound, free = settings_of(study, COSTS.space, 1, 3)
    assert bound == SETTING and COSTS.smallest() < 2000
    assert free == Setting(COSTS.largest(), 8, 4, 3, bounded=False)
    widths = [derive_width(COSTS.space, 4, 1, 3, 8000, depth=depth) for depth in ("fixed", "searched")]
    assert widths[0] < widths[1]


def test_a_space_that_fixes_the_path_is_refused() -> None:
    for budget in ({"parameters": 50_000}, {"width": 8}):
        study = search_study(space="nas_unet", search=SEARCH | {"depth": "searched"}, budgets=[budget])
        with pytest.raises(ThriftyError, match=r"search\.depth=searched needs .* that of 'nas_unet' is fixed"):
            settings_of(study, load_space("nas_unet"), 1, 3)


def comparable(trial: Trial) -> tuple[dict, list[dict], dict, bytes]:
    result, record = read_json(trial.result), read_jsonl(trial.record)
    result.pop("seconds"), result.pop("trial")
    for row in record:
        row.pop("seconds")
    return result, record, read_json(trial.distribution), trial.weights.read_bytes()


class Stopped(Exception):
    pass


@pytest.mark.parametrize("relaxation", ["softmax", "gumbel"])
def test_a_search_of_the_depth_stops_goes_on_and_decodes_within_its_budget(tmp_path: Path, relaxation: str) -> None:
    _, run, _ = search_run(tmp_path, search=SEARCH | {"depth": "searched", "relaxation": relaxation})
    whole, stopped = run.search_trial("whole"), run.search_trial("stopped")
    search_trial(arguments(run, 0, SETTING), whole, lambda row: None)

    def stop(row: dict) -> None:
        if row["epoch"] == 1:
            raise Stopped

    with pytest.raises(Stopped):
        search_trial(arguments(run, 0, SETTING), stopped, stop)
    torch.manual_seed(99)  # whatever ran in this process in between
    search_trial(arguments(run, 0, SETTING), stopped, lambda row: None)
    assert comparable(stopped) == comparable(whole)

    genotype, result = load(whole.genotype), read_json(whole.result)
    assert result["parameters"] == count(genotype) <= SETTING.budget
    assert genotype.levels in (2, 3) and result["levels"] == 4
    distribution = Distribution.from_json(COSTS.space, read_json(whole.distribution))
    assert decode(distribution, COSTS, SETTING.budget).genotype == genotype
    assert np.exp(distribution.depth).sum() == pytest.approx(1)
    assert {0 < row["entropy_depth"] <= 1 for row in read_jsonl(whole.record)} == {True}
    HardNetwork(load_supernet(whole.weights, COSTS.space), genotype)


def test_a_sampled_network_is_padded_to_its_own_stride(tmp_path: Path) -> None:
    """As its derived network is: 20 pixels are a multiple of 4, the stride of two levels, but not of the supernet's 16."""
    study, _, prepared = search_run(tmp_path, search=SEARCH | {"depth": "searched"})
    search = small_search(study, prepared, SETTING)
    search.supernet.eval()
    genotype = random_genotype(COSTS.space, 8, 2, 1, 3, np.random.default_rng(0))
    images = torch.randn(2, prepared.store.channels, 20, 20)
    with torch.no_grad():
        found = search._logits(images, None, genotype)
        torch.testing.assert_close(found, HardNetwork(search.supernet, genotype)(images))


@pytest.mark.parametrize("relaxation", ["softmax", "gumbel"])
def test_the_depth_learns(tmp_path: Path, relaxation: str) -> None:
    """Also under a budget that all depths keep: the loss alone moves it, in the mixture and on sampled networks."""
    study, _, prepared = search_run(tmp_path, search=SEARCH | {"depth": "searched", "relaxation": relaxation, "steps": 4})
    search = small_search(study, prepared, Setting(10_000, 8, 4, 3))
    before = search.architecture.depth.detach().clone()
    search.epoch(1)
    assert (search.architecture.depth != before).all()
