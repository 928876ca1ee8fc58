"""Searches stopped at rungs: which exactly, by hand and by brute force; that nothing else decides it; what counts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from small_search import search_study
from small_study import run_with_manifest

from thrifty.config import Study
from thrifty.errors import ThriftyError
from thrifty.ledger import dropped_searches, ledger
from thrifty.manifest import stored
from thrifty.results import Run, Trial, open_run, read_json, read_jsonl, write_json, write_jsonl
from thrifty.search import stage
from thrifty.search.halving import decide, epochs_spent
from thrifty.search.trial import search_trial
from thrifty.space.genotype import load, save
from thrifty.space.sample import random_genotype
from thrifty.space.schema import load_space
from thrifty.statistics.agreement import distance
from thrifty.statistics.blocks import OUTLIVED, Blocks, of_left_out_search, retrain_blocks, search_blocks
from thrifty.statistics.stability import stability
from thrifty.statistics.study import cost_of

HALVING = {"epochs": 10, "steps": 1, "warmup": 1, "batch": 2, "scheduler": "halving", "halving": {"reference": 2}}
SETTING = {"parameters": 3000, "width": 8, "levels": 3}
NAME = "b3000_w8_d3_e10_s"
# After 2 epochs, and after 4: of five racing seeds 4, 6, 3, 2, 5 the best two go on, 6 and 3, and of these one.
SCORES = {2: {4: 0.1, 6: 0.7, 3: 0.5, 2: 0.5, 5: 0.2}, 4: {6: 0.3, 3: 0.9}}


def test_the_best_go_on_whatever_the_order() -> None:
    """Against all sets of that size: the one in which each beats each that is out of it, of equals the earlier one."""
    rng = np.random.default_rng(0)
    for number, eta in itertools.product(range(1, 7), (2, 3, 4)):
        seeds = [int(s) for s in rng.permutation(20)[:number]]
        scores = {seed: float(rng.integers(3)) for seed in seeds}
        places = {seed: place for place, seed in enumerate(seeds)}
        (expected,) = (
            set(some)
            for some in itertools.combinations(seeds, math.ceil(number / eta))
            if all((scores[a], -places[a]) > (scores[b], -places[b]) for a in some for b in set(seeds) - set(some))
        )
        for shuffled in itertools.islice(itertools.permutations(seeds), 24):
            found = decide(3, {seed: scores[seed] for seed in shuffled}, eta, seeds)
            assert set(found.kept) == expected and set(found.stopped) == set(seeds) - expected


def test_rungs_by_hand() -> None:
    study = search_study(seeds=9, search={"epochs": 20, "warmup": 5, "scheduler": "halving"})
    assert study.search.rung_epochs(20) == (7, 10) and study.racing_seeds == (3, 4, 5, 6, 7, 8)
    assert epochs_spent(study, 20) == [20] * 3 + [7] * 4 + [10] + [20]
    none = search_study(seeds=9, search={"epochs": 20, "warmup": 5})
    assert none.search.scheduler == "none" and none.racing_seeds == () and epochs_spent(none, 20) == [20] * 9
    deep = study.search.model_copy(update={"halving": study.search.halving.model_copy(update={"rungs": 9})})
    assert deep.rung_epochs(20) == (6, 7, 10), "none in the warm-up, none twice"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"seeds": 4},
            "at least two seeds beside the 3 of search.halving.reference, the study has 4 in all; give seeds=5 or more",
        ),
        ({"search": {"epochs": 3, "warmup": 2}}, "no rung before the end of the search for the budget of 3,000"),
        ({"search": {"halving": {"eta": 1}}}, "greater than or equal to 2"),
    ],
)
def test_halving_that_could_stop_nothing_is_refused(values: dict[str, Any], words: str) -> None:
    search = {"epochs": 20, "warmup": 5, "scheduler": "halving"} | values.get("search", {})
    with pytest.raises(ValidationError, match=words):
        search_study(**{"seeds": 9} | values | {"search": search})


class Toy:
    """Searches without a supernet, with the scores of SCORES; `asked` is every epoch that was done, in order."""

    def __init__(self, patch: pytest.MonkeyPatch, order: Callable[[Sequence[Any]], Sequence[Any]] = list, dies: int = -1) -> None:
        self.asked: list[tuple[str, int]] = []
        self.order, self.dies, self.space = order, dies, load_space("tiny")
        patch.setattr("thrifty.trials.run_trials", self.run)
        patch.setattr(stage, "search_trial", self.search)

    def run(self, name: str, function: Any, specs: Sequence[Any], resources: Any, run: Run) -> None:
        run_with_manifest(name, function, self.order(specs), resources, run)

    def search(self, arguments: dict[str, Any], trial: Trial, report: Any) -> None:
        seed, setting = arguments["seed"], arguments["setting"]
        record = read_jsonl(trial.record)
        for epoch in range(len(record), arguments.get("until", setting["epochs"])):
            if len(self.asked) == self.dies:
                raise KeyboardInterrupt
            self.asked.append((trial.folder.name, epoch))
            score = SCORES.get(epoch + 1, {}).get(seed, 0.0)
            record.append({"epoch": epoch, "dice_decoded": score, "dice": score, "seconds": 2.0})
            write_jsonl(trial.record, record)
        if len(record) < setting["epochs"]:
            return
        rng = np.random.default_rng(seed)
        save(trial.genotype, random_genotype(self.space, 8, 3, 1, 3, rng))
        shape = {"trial": trial.folder.name, "seed": seed, **setting, "parameters": 1, "genotype_hash": "x", "dice": 0.5}
        write_json(trial.result, shape | {"collapsed": False, "seconds": 20.0, "cpus": 1, "gpus": 0})


def toy_study(**values: Any) -> Study:
    return search_study(**{"budgets": [SETTING], "seeds": [0, 1, 4, 6, 3, 2, 5], "search": HALVING} | values)


def outcome(run: Run) -> dict[str, Any]:
    rows = {row["name"]: row["status"] for row in stored(run, "search")}
    return {"dropped": dropped_searches(run), "candidates": read_jsonl(run.candidates), "states": rows}


@pytest.fixture
def halved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Study, Run, Toy]:
    study, toy = toy_study(), Toy(monkeypatch)
    run = open_run(tmp_path / "run", study)
    stage.run_stage(study, run)
    return study, run, toy


def test_exactly_the_worst_are_stopped_and_taken_down(halved: tuple[Study, Run, Toy]) -> None:
    _, run, toy = halved
    dropped = {row["seed"]: row for row in dropped_searches(run)}
    assert {seed: (row["epochs_done"], row["rung"], row["place"], row["of"]) for seed, row in dropped.items()} == {
        2: (2, 2, 3, 5), 5: (2, 2, 4, 5), 4: (2, 2, 5, 5), 6: (4, 4, 2, 2)
    }  # fmt: skip
    assert (dropped[2]["kept"], dropped[2]["score"]) == ([6, 3], 0.5)
    assert (dropped[6]["kept"], dropped[6]["seconds"]) == ([3], 8)
    assert dropped[2]["reason"] == (
        "stopped after 2 of 10 epochs: place 3 of 5 by Dice of the decoded network (0.5000), of which 2 go on"
    )
    assert [row["trial"] for row in read_jsonl(run.candidates)] == [f"{NAME}{seed}" for seed in (0, 1, 3)]
    states = {row["name"]: row["status"] for row in stored(run, "search")}
    assert states == {f"{NAME}{s}": "done" if s in (0, 1, 3) else "dropped" for s in (0, 1, 4, 6, 3, 2, 5)}
    assert len(toy.asked) == len(set(toy.asked)) == 3 * 10 + 3 * 2 + 4, "no epoch twice, none that was not needed"
    costs = {row["trial"]: row for row in ledger(run)["trials"]}
    assert [costs[f"{NAME}6"][key] for key in ("useful_seconds", "finished", "lost_seconds")] == [8, False, 0]
    assert cost_of(run, 3000, [])[0] == pytest.approx((3 * 20 + 3 * 4 + 8) / 3600), "stopped searches are a cost of the search"


@pytest.mark.parametrize("dies", [-1, 0, 5, 11, 13, 17, 30])
def test_neither_order_nor_a_kill_changes_the_outcome(
    halved: tuple[Study, Run, Toy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: int
) -> None:
    """Trials finish the other way round; the driver is killed after so many epochs and started again."""
    study, run, _ = halved
    other = open_run(tmp_path / "other", study)
    toy = Toy(monkeypatch, lambda specs: list(reversed(specs)), dies)
    if dies >= 0:
        with pytest.raises(KeyboardInterrupt):
            stage.run_stage(study, other)
        toy.dies = -1
    stage.run_stage(study, other)
    assert outcome(other) == outcome(run) and len(toy.asked) == len(set(toy.asked)) == 40
    times = {path: path.stat().st_mtime_ns for path in other.search.glob("*/*.json")}
    stage.run_stage(study, other)
    assert len(toy.asked) == 40 and times == {path: path.stat().st_mtime_ns for path in times}, "it was finished"


def test_statistics_are_those_of_the_reference_seeds(halved: tuple[Study, Run, Toy]) -> None:
    study, run, _ = halved
    blocks = search_blocks(study, run)
    assert blocks.seeds == (0, 1) and set(blocks.left_out) == {2, 3, 4, 5, 6} and blocks.left_out[3] == OUTLIVED
    assert blocks.left_out[6].startswith(f"{NAME}6 was stopped after 4 of 10 epochs")
    (found,) = stability(study, run, blocks, Blocks((), {}))["settings"]
    genotypes = [load(run.search_trial(f"{NAME}{seed}").genotype) for seed in (0, 1)]
    assert found["seeds"] == [0, 1] and found["agreement"]["distance"]["value"] == distance(*genotypes)
    assert of_left_out_search(f"decoded_{NAME}3", blocks) and not of_left_out_search(f"decoded_{NAME}1", blocks)
    assert not of_left_out_search("found_3000", blocks)


def test_without_a_scheduler_the_stopped_ones_go_on_where_they_were(halved: tuple[Study, Run, Toy]) -> None:
    study, run, toy = halved
    before, done = len(toy.asked), {path: path.stat().st_mtime_ns for path in run.search.glob("*/result.json")}
    grown = toy_study(search=HALVING | {"scheduler": "none"})
    run = open_run(run.root, grown)
    toy.dies = before + 9
    with pytest.raises(KeyboardInterrupt):
        stage.run_stage(grown, run)
    assert search_blocks(grown, run).seeds == (0, 1), "seed 3 has outlived others, until these have finished as well"
    toy.dies = -1
    stage.run_stage(grown, run)
    assert len(toy.asked) == len(set(toy.asked)) == 70 and toy.asked[before:][0][1] in (2, 4)
    assert dropped_searches(run) == [] and not list(run.search.glob("*/dropped.json"))
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert search_blocks(grown, run) == Blocks((0, 1, 2, 3, 4, 5, 6), {})
    assert {row["status"] for row in stored(run, "search")} == {"done"}
    with pytest.raises(ThriftyError, match=r"search\.scheduler was 'none', now 'halving'"):
        open_run(run.root, study)


def test_more_reference_seeds_and_more_seeds(halved: tuple[Study, Run, Toy]) -> None:
    """The race is decided again: of 6, 3, 2, 5, 7, 8 the best two are 6 and 3 as before, and 4 is no longer in it."""
    _, run, toy = halved
    grown = toy_study(seeds=[0, 1, 4, 6, 3, 2, 5, 7, 8], search=HALVING | {"halving": {"reference": 3}})
    stage.run_stage(grown, open_run(run.root, grown))
    assert len(toy.asked) == len(set(toy.asked)) == 40 + 8 + 2 * 2, "seed 4 to its end, 7 and 8 to the first rung"
    assert [row["seed"] for row in dropped_searches(run)] == [2, 5, 6, 7, 8]
    assert search_blocks(grown, run).seeds == (0, 1, 4)


def test_a_search_that_fails_is_out_of_the_race_and_out_of_the_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds 0 (reference) and 6 fail: of 3, 2, 5, 4 the best two go on."""
    toy = Toy(monkeypatch)
    whole = toy.search

    def fails(arguments: dict[str, Any], trial: Trial, report: Any) -> None:
        if arguments["seed"] in (0, 6):
            raise ThriftyError("the loss is not finite")
        whole(arguments, trial, report)

    monkeypatch.setattr(stage, "search_trial", fails)
    study = toy_study(resources={"max_failed_trials": 1})
    run = open_run(tmp_path / "run", study)
    with pytest.raises(ThriftyError, match=rf"1 of 3 trials of search failed \(1 more failed before\): {NAME}0: the loss"):
        stage.run_stage(study, run)
    study = toy_study(resources={"max_failed_trials": 2})
    stage.run_stage(study, run)
    assert [row["trial"] for row in read_jsonl(run.candidates)] == [f"{NAME}1", f"{NAME}3"]
    assert [row["seed"] for row in dropped_searches(run)] == [2, 4, 5]
    blocks = search_blocks(study, run)
    assert blocks.seeds == (1,) and blocks.left_out[0] == f"{NAME}0 failed: the loss is not finite"
    assert len(toy.asked) == len(set(toy.asked)), "the second run did nothing again"


def test_a_rung_in_which_all_fail_stops_no_study_that_bears_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All five racing searches fail in the first rung; the reference seeds go on."""
    toy = Toy(monkeypatch)
    whole = toy.search

    def fails(arguments: dict[str, Any], trial: Trial, report: Any) -> None:
        if arguments["seed"] not in (0, 1):
            raise ThriftyError("the loss is not finite")
        whole(arguments, trial, report)

    monkeypatch.setattr(stage, "search_trial", fails)
    study = toy_study(resources={"max_failed_trials": 5})
    run = open_run(tmp_path / "run", study)
    stage.run_stage(study, run)
    assert [row["trial"] for row in read_jsonl(run.candidates)] == [f"{NAME}0", f"{NAME}1"]


def test_a_seed_without_one_setting_counts_nowhere(tmp_path: Path) -> None:
    run, study = Run(tmp_path), search_study(seeds=3)
    for budget, seeds in ((3000, (0, 1, 2)), (6000, (0, 2))):
        for seed in seeds:
            row = {"trial": f"b{budget}_s{seed}", "seed": seed, "budget": budget, "width": 8, "levels": 3, "epochs": 2}
            write_json(run.search_trial(row["trial"]).result, row)
    assert search_blocks(study, run) == Blocks((0, 2), {1: "it is not finished for every setting"})


def test_blocks_of_retrainings() -> None:
    keys = [("a", 0, None), ("b", 0, None), ("a", 1, None), ("b", 2, None), ("a", 2, None)]
    missing = {"b/seed_1": "failed: no memory", "c/seed_0": "is not trained yet", "c/seed_1": "is not trained yet"}
    assert retrain_blocks(keys, [None], missing) == Blocks((0, 2), {1: "b/seed_1 failed: no memory, c/seed_1 is not trained yet"})
    folds = [("a", 0, 0), ("a", 0, 1), ("a", 1, 0)]
    assert retrain_blocks(folds, [0, 1], {"a/seed_1_fold_1": "is not trained yet"}).seeds == (0,)
    assert retrain_blocks([("a", 0, None), ("b", 1, None)], [None], {}).seeds == ()


def test_a_real_study_in_which_a_rung_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search that goes on after a rung ends as one that never stopped; the stopped one has its checkpoint."""
    monkeypatch.setattr("thrifty.trials.run_trials", run_with_manifest)
    search = {"epochs": 3, "steps": 1, "warmup": 1, "batch": 2, "scheduler": "halving", "halving": {"reference": 0, "rungs": 1}}
    study = search_study(seeds=2, search=search, resources={"device": "cpu"})
    run = open_run(tmp_path / "run", study)
    stage.run_stage(study, run)
    (dropped,), (left,) = dropped_searches(run), read_jsonl(run.candidates)
    scores = [read_jsonl(trial.record)[1]["dice_decoded"] for trial in map(Trial, sorted(run.search.glob("b*")))]
    assert dropped["seed"] == (1 if scores[0] >= scores[1] else 0) == 1 - left["seed"]
    stopped, went = run.search_trial(dropped["trial"]), run.search_trial(left["trial"])
    assert len(read_jsonl(stopped.record)) == 2 and stopped.checkpoint.is_file() and not stopped.result.exists()
    assert not went.checkpoint.exists() and search_blocks(study, run).seeds == ()
    other = Trial(tmp_path / "other" / left["trial"])
    (row,) = (row for row in stored(run, "search") if row["name"] == left["trial"])
    search_trial({"run": str(run.root), **row["arguments"]}, other, lambda row: None)
    assert other.weights.read_bytes() == went.weights.read_bytes() and read_json(other.genotype) == read_json(went.genotype)
    records = [[{**line, "seconds": 0} for line in read_jsonl(trial.record)] for trial in (other, went)]
    assert records[0] == records[1] and len(records[0]) == 3
