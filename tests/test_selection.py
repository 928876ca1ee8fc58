from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_distributions import random_distribution
from small_search import SEARCH, search_run, search_study
from small_study import run_here

from thrifty import scoring, selection
from thrifty.config import Resources, Study
from thrifty.data.batches import Batches
from thrifty.data.normalise import learn
from thrifty.data.prepare import open_prepared
from thrifty.errors import ThriftyError
from thrifty.inference import mean_dice
from thrifty.nets.derived import DerivedNetwork
from thrifty.nets.inherit import inherit
from thrifty.nets.recalibrate import recalibrate
from thrifty.nets.supernet_file import load_supernet
from thrifty.networks import planned_networks
from thrifty.proposals import FREE, Group, mean_distribution, perturb
from thrifty.results import Run, open_run, read_json, read_jsonl, write_jsonl
from thrifty.search import stage
from thrifty.space.cost import Costs, count, count_macs
from thrifty.space.decode import decode
from thrifty.space.genotype import Genotype, canonical_json, from_json, load
from thrifty.space.sample import random_genotype
from thrifty.space.schema import load_space

SELECT = {"samples": 5, "batch": 3, "recalibrate": 2, "finalists": 0}  # those are in test_finalists.py
BUDGETS = [{"parameters": 2400, "width": 8}, {"parameters": 3000, "width": 8}]
DEEP = [{"parameters": 2400, "width": 8, "levels": 4}]
SEARCH_DEPTH = SEARCH | {"depth": "searched"}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with two searches at each of two budgets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("thrifty.trials.run_trials", run_here)
        study, run, _ = search_run(tmp_path_factory.mktemp("searched"), select=SELECT, budgets=BUDGETS)
        stage.run_stage(study, run)
    return run.root


@pytest.fixture
def run(searched: Path, tmp_path: Path) -> Run:
    shutil.copytree(searched, tmp_path / "run")
    return Run(tmp_path / "run")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Scores in this process, and keeps what was asked for."""
    made: list[dict[str, Any]] = []

    def here(function: Any, items: Any, resources: Resources) -> list[Any]:
        made.extend(items)
        return [function(item) for item in items]

    monkeypatch.setattr("thrifty.trials.map_batches", here)
    return made


def study_of(**select: Any) -> Study:
    return search_study(select=SELECT | select, budgets=BUDGETS)


def rows_of(run: Run) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_jsonl(run.evaluations)]


def test_candidates_name_every_search(searched: Path) -> None:
    rows = read_jsonl(Run(searched).candidates)
    assert [(row["budget"], row["seed"]) for row in rows] == [(2400, 0), (2400, 1), (3000, 0), (3000, 1)]
    assert all(row["parameters"] == count(from_json(row["genotype"])) <= row["budget"] for row in rows)


def test_a_genotype_for_every_budget_and_nothing_infeasible_is_scored(run: Run, calls: list[dict[str, Any]]) -> None:
    selection.run_stage(study_of(), run)
    rows = rows_of(run)
    assert len(rows) == len(calls) >= 8
    for row in rows:
        assert row["parameters"] == count(from_json(row["genotype"])) <= int(row["group"].split("_")[0][1:])
    for budget in (2400, 3000):
        chosen = load(run.genotype(budget))
        fitting = [row for row in rows if row["parameters"] <= budget]
        best = [canonical_json(from_json(r["genotype"])) for r in fitting if r["score"] == max_score(fitting)]
        assert count(chosen) <= budget
        assert canonical_json(chosen) in best
    outcome = read_json(run.pareto)
    assert outcome["finalists"] == {} and outcome["short"] is None and not run.short.exists()
    assert outcome["evaluated"] == len(rows)
    assert read_json(run.select_result)["seconds"] > 0


def max_score(rows: list[dict[str, Any]]) -> float:
    return max(row["score"] for row in rows)


def test_the_budget_is_a_constraint_of_the_optuna_study(
    run: Run, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import optuna

    made: list[optuna.Study] = []
    create = optuna.create_study
    monkeypatch.setattr(optuna, "create_study", lambda **keys: made.append(create(**keys)) or made[-1])
    selection.run_stage(study_of(), run)
    for budget, opt in zip((2400, 3000), made, strict=True):
        for trial in opt.trials:
            assert trial.constraints == {"parameters": trial.values[1] - budget}
            assert trial.constraints["parameters"] <= 0


def test_searches_of_one_width_score_each_other_whatever_their_budget(run: Run) -> None:
    """Four searches at width 8; then one of them is said to be of width 6, and stands alone."""
    groups = selection.read_groups(study_of(), run, open_prepared(run))
    assert [(group.budget, len(group.trials)) for group in groups] == [(2400, 4), (3000, 4)]
    rows = read_jsonl(run.candidates)
    write_jsonl(run.candidates, [rows[0] | {"width": 6}, *rows[1:]])
    groups = selection.read_groups(study_of(), run, open_prepared(run))
    assert [(g.budget, g.costs.width, len(g.trials)) for g in groups] == [(2400, 6, 1), (2400, 8, 3), (3000, 8, 3)]


def test_the_decodings_of_the_searches_are_among_the_candidates(run: Run, calls: list[dict[str, Any]]) -> None:
    selection.run_stage(study_of(samples=0), run)
    scored = {canonical_json(from_json(row["genotype"])) for row in rows_of(run)}
    assert {canonical_json(from_json(row["genotype"])) for row in read_jsonl(run.candidates)} <= scored
    assert len(calls) == len(scored) <= 2 * (4 + 1 + 3 + 6)  # four searches, their mean, it at three sizes, the pool; two budgets


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_interrupted_selection_goes_on_where_it_stopped(
    run: Run, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    """Stopped after the second batch, then run again: the same record as undisturbed, and nothing is scored twice."""
    other = Run(run.root.parent / "other")
    shutil.copytree(run.root, other.root)
    study = study_of(sampler=sampler)
    selection.run_stage(study, other)
    undisturbed = len(calls)
    calls.clear()
    from thrifty import trials

    score_here, batches = trials.map_batches, iter(range(2))

    def dies(function: Any, items: Any, resources: Resources) -> list[Any]:
        if next(batches, None) is None:
            raise KeyboardInterrupt
        return score_here(function, items, resources)

    monkeypatch.setattr("thrifty.trials.map_batches", dies)
    with pytest.raises(KeyboardInterrupt):
        selection.run_stage(study, run)
    assert not run.pareto.exists()
    assert not run.genotype(3000).exists()
    assert 0 < len(rows_of(run)) < undisturbed
    monkeypatch.setattr("thrifty.trials.map_batches", score_here)
    selection.run_stage(study, run)
    assert rows_of(run) == rows_of(other)
    assert len(calls) == undisturbed
    assert run.genotype(3000).read_bytes() == other.genotype(3000).read_bytes()


def test_finished_selection_is_skipped(run: Run, calls: list[dict[str, Any]]) -> None:
    selection.run_stage(study_of(samples=0), run)
    calls.clear()
    before = run.pareto.stat().st_mtime_ns
    selection.run_stage(study_of(samples=0), run)
    assert not calls
    assert run.pareto.stat().st_mtime_ns == before


def test_the_value_is_the_dice_of_the_derived_network_with_inherited_weights(run: Run) -> None:
    """Another way to the same number: the weights copied into the built network, its statistics renewed, then validated."""
    row = read_jsonl(run.candidates)[0]
    trials = ["b3000_w8_d3_e3_s0", "b3000_w8_d3_e3_s1"]
    candidate = read_jsonl(run.candidates)[2]
    assert row["trial"] not in trials
    item = {"run": str(run.root), "trials": trials, "genotype": candidate["genotype"], "cpus": 1, "device": "cpu"}
    found = scoring.score(item).dice
    expected = derived_dice(study_of(), run, from_json(candidate["genotype"]), trials)
    assert found == pytest.approx(expected, abs=5e-3)
    assert min(found) > 0


def derived_dice(study: Study, run: Run, genotype: Genotype, trials: Iterable[str]) -> list[float]:
    prepared = open_prepared(run)
    store, splits = prepared.store, prepared.splits
    training = store.indices(splits.training)
    normalisation = learn(store, training, "dataset")
    batches = Batches(store, tuple(training), normalisation, study.data, study.search.batch, scoring.SEED, torch.device("cpu"))
    found = []
    for trial in trials:
        network = DerivedNetwork(genotype)
        inherit(network, load_supernet(run.search_trial(trial).weights, load_space("tiny")))
        recalibrate(network, [batches.plain(step)[0] for step in range(2)])
        cases = store.indices(splits.selection)
        found.append(mean_dice(network, store, cases, normalisation, study.evaluate, torch.device("cpu")))
    return found


def test_recalibration_sets_the_mean_of_the_batches() -> None:
    from thrifty.nets.layers import Norm

    norm = Norm(2)
    norm.running_mean.fill_(77)
    batches = [torch.randn(5, 2, 4, 4) * (1 + k) + k for k in range(3)]
    recalibrate(norm, batches)
    np.testing.assert_allclose(norm.running_mean, torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0), atol=1e-5)
    np.testing.assert_allclose(norm.running_var, torch.stack([b.var((0, 2, 3)) for b in batches]).mean(0), rtol=1e-4)
    assert norm.momentum == 0.1 and not norm.training


def test_risk_subtracts_the_spread(run: Run, calls: list[dict[str, Any]]) -> None:
    selection.run_stage(study_of(samples=0, risk=2.0), run)
    for r in rows_of(run):
        dice = list(r["by_supernet"].values())
        assert len(dice) == 4
        assert r["score"] == pytest.approx(np.mean(dice) - 2 * np.std(dice))


@pytest.fixture(scope="module")
def searched_depth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with two searches of the depth, under a budget that few networks of four levels keep."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("thrifty.trials.run_trials", run_here)
        study, run, _ = search_run(tmp_path_factory.mktemp("depth"), select=SELECT, budgets=DEEP, search=SEARCH_DEPTH)
        stage.run_stage(study, run)
    return run.root


def test_selection_over_the_depth(searched_depth: Path, tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    run = Run(shutil.copytree(searched_depth, tmp_path / "run"))
    study = search_study(select=SELECT | {"samples": 9}, budgets=DEEP, search=SEARCH_DEPTH)
    selection.run_stage(study, run)
    rows = read_jsonl(run.evaluations)
    found = [from_json(row["genotype"]) for row in rows]
    assert all(count(g) <= 2400 for g in found) and count(load(run.genotype(2400))) <= 2400
    assert len({g.levels for g in found}) > 1
    for row, genotype in zip(rows, found, strict=True):
        if (path := row["origin"]["path"]) != FREE:
            assert path == "-".join([f"d{genotype.levels}", *map(str, genotype.path)])
    # Another way to the score of one with fewer levels than the supernets: weights copied into the built network.
    row, genotype = next((r, g) for r, g in zip(rows, found, strict=True) if g.levels < 4)
    assert list(row["by_supernet"].values()) == pytest.approx(derived_dice(study, run, genotype, row["by_supernet"]), abs=5e-3)
    assert genotype.levels < load_supernet(run.search_trial(next(iter(row["by_supernet"]))).weights, load_space("tiny")).levels


def test_paths_of_every_depth_have_a_name_and_fit_the_budget() -> None:
    costs = Costs(load_space("tiny"), 8, 4, 1, 3, depth="searched")
    names = Group(2400, costs, {}).paths()
    assert list(names.values()) == [path for path in costs.paths() if costs.smallest_of_path(path) <= 2400]
    assert {"d2": (), "d3-1": (1,), "d4-0-0": (0, 0)}.items() <= names.items() and "d4-1-2" not in names


def test_mean_and_noise_reach_the_depth() -> None:
    rng = np.random.default_rng(0)
    learnt = [random_distribution(load_space("tiny"), 4, rng, depth="searched") for _ in range(3)]
    mean = mean_distribution(learnt)
    np.testing.assert_allclose(mean.depth, (learnt[0].depth + learnt[1].depth + learnt[2].depth) / 3)
    assert (perturb(mean, 1.0, rng).depth != mean.depth).all()
    np.testing.assert_array_equal(perturb(mean, 0.0, rng).depth, mean.depth)


def test_straying_by_nothing_is_the_decoding_and_by_much_is_not() -> None:
    costs = Costs(load_space("thrifty"), 8, 4, 1, 2)
    learnt = random_distribution(costs.space, 4, np.random.default_rng(0))
    best = decode(learnt, costs, 9000)
    assert decode(perturb(learnt, 0.0, np.random.default_rng(1)), costs, 9000) == best
    others = {decode(perturb(learnt, 2.0, np.random.default_rng(k)), costs, 9000).genotype for k in range(20)}
    assert len(others) > 15


def test_perturbed_decoding_is_a_sample_of_the_distribution() -> None:
    """Gumbel-max: without a budget, an op is decoded as often as its probability says."""
    costs = Costs(load_space("tiny"), 8, 3, 1, 2)
    learnt = random_distribution(costs.space, 3, np.random.default_rng(0), spread=0.7)
    genotypes = [decode(perturb(learnt, 1.0, np.random.default_rng(k)), costs).genotype for k in range(600)]
    share = np.mean([g.down.nodes[0][0].op == "sep_conv_3" for g in genotypes])
    expected = float(np.exp(learnt.ops["down"][0][1]))
    assert share == pytest.approx(expected, abs=4 * np.sqrt(0.25 / 600))


def test_one_budget_with_two_widths_is_one_study(
    tmp_path: Path, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same parameters, two widths: searches, candidates, choice and the networks that are retrained."""
    monkeypatch.setattr("thrifty.trials.run_trials", run_here)
    budgets = [{"parameters": 2400, "width": 8}, {"parameters": 2400, "width": 6}]
    search = SEARCH | {"epochs": 2, "steps": 1}
    retrain = {"random": 1, "baselines": []}
    study, run, prepared = search_run(tmp_path, seeds=1, select=SELECT, budgets=budgets, search=search, retrain=retrain)
    stage.run_stage(study, run)
    assert [row["trial"] for row in read_jsonl(run.candidates)] == ["b2400_w8_d3_e2_s0", "b2400_w6_d3_e2_s0"]
    selection.run_stage(study, run)
    rows = rows_of(run)
    assert {row["group"] for row in rows} == {"b2400_w6_d3", "b2400_w8_d3"}
    assert len({(row["number"]) for row in rows}) == len(rows), "numbered in one study"
    for row in rows:
        genotype = from_json(row["genotype"])
        assert count(genotype) <= 2400
        assert list(row["by_supernet"]) == [f"b2400_w{genotype.width}_d3_e2_s0"], "scored by supernets of its own width"
    assert list(run.genotypes()) == [2400]
    names = [spec.name for spec in planned_networks(study, run, prepared.store)]
    assert names[:2] == ["found_2400", "random_2400_0"] and len(set(names)) == len(names)


def test_limits_on_macs_and_latency_hold_for_whatever_is_scored(
    run: Run, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Latency on a machine that takes a millisecond for 10,000 MACs, so that the limit is known."""
    from thrifty import latency

    patch = (32, 32)
    unlimited = [count_macs(from_json(row["genotype"]), patch) for row in read_jsonl(run.candidates)]
    costs = Costs(load_space("tiny"), 8, 3, 1, 3, patch)
    most = (2 * costs.smallest() + costs.largest()) // 3
    assert max(unlimited) > most
    measured: list[Genotype] = []

    def fake(genotype: Genotype, size: tuple[int, int]) -> float:
        assert size == patch
        measured.append(genotype)
        return count_macs(genotype, patch) / 10_000

    monkeypatch.setattr(latency, "latency_ms", fake)
    fastest = (costs.smallest() + most) / 2 / 10_000
    study = study_of(macs=most, latency_ms=fastest, samples=3)
    selection.run_stage(study, run)
    macs = [count_macs(from_json(item["genotype"]), patch) for item in calls]
    assert macs and max(macs) <= min(most, 10_000 * fastest)
    assert all(count_macs(load(path), patch) <= most for path in run.genotypes().values())
    assert {row["hash"] for row in read_jsonl(run.latencies)} >= {row["hash"] for row in rows_of(run)}
    before = len(measured)
    selection.read_groups(study, run, open_prepared(run))
    assert len(measured) == before, "measured once: a selection that goes on finds the same numbers"


def test_limits_that_nothing_keeps_are_one_line(run: Run) -> None:
    with pytest.raises(
        ThriftyError, match=r"no network was found that has at most 2,400 parameters and keeps select\.macs=1,000;"
    ):
        selection.run_stage(study_of(macs=1000), run)


def test_latency_is_that_of_the_built_network_on_one_thread() -> None:
    from thrifty.latency import latency_ms

    space, rng = load_space("tiny"), np.random.default_rng(0)
    small, large = random_genotype(space, 4, 2, 1, 2, rng), random_genotype(space, 32, 4, 1, 2, rng)
    threads = torch.get_num_threads()
    assert 0 < latency_ms(small, (20, 28), runs=3) < latency_ms(large, (96, 96), runs=3)
    assert torch.get_num_threads() == threads


def test_the_pool_is_written_and_scored(run: Run, calls: list[dict[str, Any]]) -> None:
    selection.run_stage(study_of(samples=0, pool=2), run)
    pool, rows = read_jsonl(run.pool), rows_of(run)
    assert sum(row["times"] for row in pool) == 4 * (SEARCH["epochs"] - SEARCH["warmup"])
    decoded = {row["genotype_hash"] for row in read_jsonl(run.candidates)}
    assert decoded <= {row["hash"] for row in pool}
    from_pool = [row for row in rows if row["origin"]["source"] == "pool" and row["hash"] in {row["hash"] for row in pool}]
    assert len(from_pool) <= 2 * 2


def test_selection_before_the_searches_says_so(tmp_path: Path) -> None:
    study = study_of()
    with pytest.raises(ThriftyError, match="run `thrifty search`"):
        selection.run_stage(study, open_run(tmp_path / "run", study))


def test_the_choice_is_the_same_on_one_worker_and_on_two(run: Run, ray_local: None) -> None:
    other = Run(run.root.parent / "other")
    shutil.copytree(run.root, other.root)
    for here, concurrent in ((run, 1), (other, 2)):
        study = study_of(samples=2).model_copy(update={"resources": Resources(concurrent=concurrent, device="cpu")})
        selection.run_stage(study, here)
    assert rows_of(run) == rows_of(other)


def test_candidates_without_a_key_are_one_line(run: Run) -> None:
    write_jsonl(run.candidates, [{"trial": "x", "budget": 3000}])
    with pytest.raises(ThriftyError, match=r"candidates\.jsonl has rows without genotype_hash, levels, width"):
        selection.run_stage(study_of(), run)


def test_norms_inside_a_users_op_are_recalibrated_too() -> None:
    norm = torch.nn.BatchNorm2d(2)
    recalibrate(norm, [torch.full((2, 2, 3, 3), 5.0), torch.full((2, 2, 3, 3), 7.0)])
    assert norm.running_mean is not None
    assert norm.running_mean.tolist() == pytest.approx([6.0, 6.0])
    assert norm.momentum == 0.1
