"""The profile `paper` against section 3 of the method: its numbers, what is built of them, and the whole way without a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_paper import paper_search, paper_study
from small_study import run_here, small_study

from thrifty import selection
from thrifty.check import examine
from thrifty.config import Resources, Study, read_study
from thrifty.data.prepare import open_prepared, prepare
from thrifty.errors import ThriftyError
from thrifty.nets.derived import DerivedNetwork
from thrifty.nets.source import Source
from thrifty.nets.supernet import MixedEdge
from thrifty.networks import planned_networks
from thrifty.preflight import validate
from thrifty.report.facts import gather
from thrifty.results import Run, open_run, read_json, read_jsonl
from thrifty.search import stage
from thrifty.search.setting import settings_of
from thrifty.shelf import find_study
from thrifty.space.cost import Costs, count
from thrifty.space.genotype import from_json, genotype_hash, load
from thrifty.space.schema import load_space
from thrifty.summary import notes
from thrifty.train import make_optimiser

OPS = {
    "down": ("avg_pool", "se_conv_3", "dil3_conv_5", "dil2_conv_5", "dep_sep_conv_3", "dep_sep_conv_5"),
    "up": ("up_sample", "se_conv_3", "dil3_conv_5", "dil2_conv_5", "dep_sep_conv_3", "dep_sep_conv_5"),
    "normal": ("identity", "none", "dil3_conv_5", "dil2_conv_5", "dep_sep_conv_3", "dep_sep_conv_5"),
}


def profile() -> Study:
    return read_study(find_study("paper"))


def test_the_numbers_are_those_of_the_method() -> None:
    study = profile()
    search, retrain = study.search, study.retrain
    assert search.weights.model_dump() == {
        "name": "sgd", "lr": 0.025, "momentum": 0.9, "weight_decay": 3e-4, "clip": 5
    }  # fmt: skip
    assert search.architecture.model_dump() == {"lr": 1e-4, "betas": (0.5, 0.999), "weight_decay": 1e-3}
    assert (search.warmup, search.partial, search.batch, study.data.patch_size) == (15, 4, 8, (256, 256))
    assert (search.edges, search.gates, search.decoding) == ("softmax", "two_logits", "source")
    own = (search.hard, search.temperature, search.beta_decay, search.guard.curvature, search.prune, search.penalty)
    assert own == (0, 1, 0, 0, 0, 0), "nothing of thrifty's own"
    assert (search.relaxation, search.depth, search.guard.parameter_free) == ("softmax", "fixed", 1)
    assert retrain.batch == 12
    assert retrain.optimiser.model_dump() == {
        "name": "sgd", "lr": 6e-3, "momentum": 0.9, "weight_decay": 5e-4, "clip": 0
    }  # fmt: skip
    shares = study.data.fractions
    assert shares.weights == shares.architecture and shares.weights + shares.architecture == 1 - shares.selection - shares.test
    (budget,) = study.budgets
    assert (budget.parameters, budget.width, budget.levels) == (None, 32, 5)
    assert len(study.search_seeds) >= 3 and len(study.retrain_seeds) >= 3


def test_the_space_is_that_of_the_method() -> None:
    space = load_space(profile().space)
    assert (space.nodes, space.levels, space.path) == (3, 5, "searched")
    assert {role: set(getattr(space.ops, role)) for role in OPS} == {role: set(names) for role, names in OPS.items()}
    frame = space.frame
    convs = (frame.stem_kernel, frame.stem_block, frame.input_conv, frame.output_conv, frame.classifier_kernel)
    assert convs == (7, "conv_3", "conv_3", "conv_3", 3) and len(set(frame.widths(32, 5))) == 1


def test_the_optimisers_that_are_built(tmp_path: Path) -> None:
    search, study, _ = paper_search(tmp_path)
    weights, architecture = search.weight_optimiser, search.architecture_optimiser
    assert isinstance(weights, torch.optim.SGD) and isinstance(architecture, torch.optim.Adam)
    assert not isinstance(architecture, torch.optim.AdamW)
    assert {k: weights.defaults[k] for k in ("lr", "momentum", "weight_decay", "nesterov")} == {
        "lr": 0.025, "momentum": 0.9, "weight_decay": 3e-4, "nesterov": False
    }  # fmt: skip
    assert {k: architecture.defaults[k] for k in ("lr", "betas", "weight_decay")} == {
        "lr": 1e-4, "betas": (0.5, 0.999), "weight_decay": 1e-3
    }  # fmt: skip
    retrain = make_optimiser([torch.nn.Parameter(torch.zeros(1))], study.retrain.optimiser)
    assert isinstance(retrain, torch.optim.SGD) and retrain.defaults["lr"] == 6e-3
    assert search.supernet.partial == 4
    genotype = search.decode().genotype
    assert DerivedNetwork(genotype).cells["down_1"].edges[f"0_{genotype.down.nodes[0][0].source}"].norm.weight.numel() == 4


def test_the_rate_of_the_weights_is_a_cosine_over_all_epochs(tmp_path: Path) -> None:
    search, _, _ = paper_search(tmp_path, "search.epochs=20", "search.steps=2", "search.warmup=15")
    rates = []
    for step in range(40):
        search._set_rate(*divmod(step, 2))
        rates.append(search.weight_optimiser.param_groups[0]["lr"])
    expected = 0.0125 * (1 + torch.cos(torch.pi * torch.arange(40, dtype=torch.float64) / 40))
    assert rates == pytest.approx(expected.tolist()) and rates[0] == 0.025 and rates[20] == pytest.approx(0.0125)


def test_alpha_beta_and_gamma_learn_from_epoch_15(tmp_path: Path) -> None:
    search, _, _ = paper_search(tmp_path, "search.epochs=17", "search.warmup=15")
    before = [p.detach().clone() for p in search.architecture.parameters()]
    assert search.epoch(14)["loss_architecture"] is None
    assert all(torch.equal(p, old) for p, old in zip(search.architecture.parameters(), before, strict=True))
    assert search.epoch(15)["loss_architecture"] > 0
    moved = [(p.detach() - old).abs().max() for p, old in zip(search.architecture.parameters(), before, strict=True)]
    assert all(0 < float(step) < 1.01e-4 for step in moved), "the first step of Adam is as long as its rate"


@pytest.mark.parametrize("partial", [1, 4])
@pytest.mark.parametrize("training", [True, False])
def test_none_has_its_share_of_alpha_and_gives_zero(partial: int, training: bool) -> None:
    """The mixture is linear in alpha: the sum of the ops alone by their shares, and 'none' alone is nothing."""
    torch.manual_seed(0)
    names = OPS["normal"]
    edge = MixedEdge(names, "normal", 4, 4, partial).double().train(training)
    x, weight = torch.randn(2, 4, 8, 8, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    alpha, one_hot = torch.softmax(torch.randn(6, dtype=torch.float64), 0), torch.eye(6, dtype=torch.float64)
    with torch.no_grad():
        alone = [edge(Source(x, "normal", partial), row, weight) for row in one_hot]
        nothing = alone[names.index("none")]
        seen = nothing.unflatten(1, (-1, partial))[:, :, 0]  # channels come back shuffled, first those that ops have seen
        assert torch.equal(seen, torch.zeros_like(seen))
        assert partial > 1 or torch.equal(nothing, torch.zeros_like(x))
        by_hand = sum(share * (value - nothing) for share, value in zip(alpha, alone, strict=True)) + nothing
        torch.testing.assert_close(edge(Source(x, "normal", partial), alpha, weight), by_hand, rtol=0, atol=1e-12)


BOTH = "budgets=[{width: 4, levels: 3}, {parameters: 6000, width: 4, levels: 3}]"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Run]:
    """Searched and selected in this process: one setting without a budget and one with."""

    def here(function: Any, items: Any, resources: Resources) -> list[Any]:
        return [function(item) for item in items]

    study = paper_study(BOTH, "search.epochs=2", "seeds=1")
    run = open_run(tmp_path_factory.mktemp("paper") / "run", study)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("thrifty.trials.run_trials", run_here)
        patch.setattr("thrifty.trials.map_batches", here)
        stage.run_stage(study, run)
        selection.run_stage(study, run)
    return study, run


def largest(study: Study, run: Run) -> int:
    store = open_prepared(run).store
    return Costs(load_space("paper"), 4, 3, store.channels, store.classes).largest()


def test_without_a_budget_the_searches_own_genotypes_are_the_candidates(done: tuple[Study, Run]) -> None:
    study, run = done
    free, bound = ([r for r in read_jsonl(run.candidates) if r["bounded"] is kind] for kind in (False, True))
    assert {r["budget"] for r in free} == {largest(study, run)} and {r["budget"] for r in bound} == {6000}
    assert all(r["parameters"] <= 6000 for r in bound)
    scored = read_jsonl(run.evaluations)
    here = {r["hash"] for r in scored if r["group"].startswith(f"b{largest(study, run)}_")}
    assert here <= {r["genotype_hash"] for r in free}, "no mean of the searches, nothing sampled"
    assert {r["genotype_hash"] for r in free} <= {r["hash"] for r in scored}
    assert all(r["parameters"] <= 6000 for r in scored if r["group"].startswith("b6000_"))


def test_files_are_called_by_the_largest_network(done: tuple[Study, Run]) -> None:
    study, run = done
    assert set(run.genotypes()) == {6000, largest(study, run)} == {int(b) for b in read_json(run.pareto)["chosen"]}
    assert set(gather(study, run).genotypes) == {6000, largest(study, run)}
    scored = {r["hash"]: from_json(r["genotype"]) for r in read_jsonl(run.evaluations)}
    assert genotype_hash(load(run.genotype(largest(study, run)))) in scored
    stamp = run.pareto.stat().st_mtime_ns
    selection.run_stage(study, run)
    assert run.pareto.stat().st_mtime_ns == stamp, "finished, so nothing is done again"


def test_rivals_have_the_size_of_the_found_network(done: tuple[Study, Run]) -> None:
    study, run = done
    budget, store = largest(study, run), open_prepared(run).store
    specs = {spec.name: spec for spec in planned_networks(study, run, store)}
    size = count(load(run.genotype(budget)))
    assert specs[f"found_{budget}"].parameters == size < budget
    rivals = [spec for name, spec in specs.items() if name.startswith(f"random_{budget}_")]
    assert rivals and all(0.85 * size <= spec.parameters <= size for spec in rivals)
    assert 0.95 * size <= specs[f"scaled_unet_{budget}"].parameters <= size
    assert 0.95 * 6000 <= specs["scaled_unet_6000"].parameters <= 6000
    said = notes(study, list(specs))
    assert sum(text.startswith(f"no budget is set for found_{budget}") for text in said) == 1
    assert not any("found_6000" in text for text in said)


def test_check_says_that_there_is_no_budget(results: Path) -> None:
    study = paper_study(BOTH)
    lines = list(examine(study, timing=False))
    (setting, _) = settings_of(study, load_space("paper"), 1, 3)
    assert any(line.startswith(f"budget {setting.budget:,} parameters (none is set; the largest network") for line in lines)
    assert sum(line.startswith("note: search.decoding=source knows no budget") for line in lines) == 1
    assert any("up to 6 short trainings (3 finalists x 2 budgets x 1 seeds)" in line for line in lines)
    assert not results.exists()


def test_a_found_network_too_small_for_any_scaled_unet_is_told_before_the_searches(tmp_path: Path) -> None:
    study = small_study(budgets=[{"width": 2, "levels": 3}])
    prepared, space = prepare(study, Run(tmp_path)), load_space("tiny")
    smallest = Costs(space, 2, 3, prepared.store.channels, prepared.store.classes).smallest()
    with pytest.raises(ThriftyError, match=f"{smallest:,} .*too small for a scaled U-Net"):
        validate(study, prepared, space)
    assert not validate(small_study({"baselines": []}, budgets=study.budgets), prepared, space)[0].bounded
