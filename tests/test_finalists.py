"""The last round of a selection: who comes into it, what is trained how and how often, and who is chosen."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from small_study import run_here, small_study

from thrifty import scratch, short, trials
from thrifty.config import Resources, Study
from thrifty.data.prepare import open_prepared, prepare
from thrifty.errors import ThriftyError
from thrifty.finalists import best_by_network, decide, finalists_of, pareto_front, write_outcome
from thrifty.ledger import ledger
from thrifty.manifest import stored
from thrifty.results import Run, open_run, read_json, read_jsonl, write_jsonl
from thrifty.space.cost import count
from thrifty.space.genotype import CELL_TYPES, Cell, Genotype, canonical, from_json, genotype_hash, load, save, to_json
from thrifty.space.sample import random_genotype
from thrifty.space.schema import load_space
from thrifty.train import cosine

BUDGETS = (2400, 3000)
STUDY = small_study(budgets=list(BUDGETS), select={"finalists": 3, "short_epochs": 2})


def row(name: str, parameters: int, score: float) -> dict[str, Any]:
    return {"hash": name, "parameters": parameters, "score": score}


def names(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(r["hash"] for r in rows)


ROWS = [row("a", 100, 0.5), row("b", 200, 0.4), row("c", 200, 0.7), row("d", 300, 0.7), row("e", 400, 0.9), row("a", 100, 0.6)]


def test_front_by_hand() -> None:
    assert [(r["hash"], r["score"]) for r in pareto_front(ROWS)] == [("a", 0.6), ("c", 0.7), ("e", 0.9)]
    assert {r["hash"]: r["score"] for r in best_by_network(ROWS)} == {"a": 0.6, "b": 0.4, "c": 0.7, "d": 0.7, "e": 0.9}


@pytest.mark.parametrize("number", [0, 1])
def test_without_a_last_round_the_best_score_within_the_budget_is_taken(number: int) -> None:
    assert [names(finalists_of(ROWS, b, number, {"b"})) for b in (100, 199, 200, 300, 399, 400)] == list("aaccce")
    with pytest.raises(ThriftyError, match=r"at most 99 parameters; add that budget"):
        finalists_of(ROWS, 99, number)


def test_finalists_are_the_best_different_networks_within_the_budget() -> None:
    assert [names(finalists_of(ROWS, b, 3)) for b in (100, 200, 399, 400)] == ["a", "cab", "cda", "ecd"]


def test_ties_in_score_go_to_the_smaller_then_by_hash() -> None:
    rows = [row("z", 100, 0.5), row("y", 100, 0.5), row("x", 120, 0.5), row("w", 90, 0.4)]
    assert names(finalists_of(rows, 200, 4)) == "yzxw" == names(finalists_of(rows[::-1], 200, 4))


def test_the_best_decoding_of_the_searches_has_a_place() -> None:
    assert names(finalists_of(ROWS, 400, 3, {"a", "b"})) == "eca", "of the two decodings the better one"
    assert names(finalists_of(ROWS, 400, 3, {"d", "b"})) == "ecd", "one is there anyway"
    assert names(finalists_of(ROWS, 200, 2, {"e"})) == "ca", "none is within the budget"


def test_the_mean_short_dice_decides_then_the_smaller_then_the_hash() -> None:
    found = [row("a", 300, 0.9), row("b", 200, 0.8), row("c", 250, 0.7), row("d", 200, 0.6), row("e", 100, 0.5)]
    table = {"a": [0.4, 0.2], "b": [0.3, 0.5], "c": [0.5, 0.3], "d": [0.4, 0.4], "e": [0.9, -0.4]}
    assert names(decide(found, table)) == "bdcae" == names(decide(found[::-1], table))
    assert decide(found, {}) == found


# -- on a run folder, without searches ------------------------------------------------------------------------------------


def draw(run: Run, seed: int, low: int, high: int) -> Genotype:
    store = open_prepared(run).store
    return random_genotype(load_space("tiny"), 8, 3, store.channels, store.classes, np.random.default_rng(seed), low, high)


def scored(genotype: Genotype, score: float) -> dict[str, Any]:
    shared = {"group": "b", "dice": score, "spread": 0.0, "score": score, "by_supernet": {}, "seconds": 1.0}
    known = {"hash": genotype_hash(genotype), "parameters": count(genotype), "genotype": to_json(genotype)}
    return shared | known | {"origin": {"source": "mean", "size": 0.9, "stray": 1.0, "path": "free"}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """A run folder with data, and candidates for two budgets: s0 to s4 fit both, l0 and l1 the larger one; the letters are
    in the order of their scores, and the searches have decoded to s4 and l1."""
    run = open_run(tmp_path_factory.mktemp("made") / "run", STUDY)
    prepare(STUDY, run)
    places = [("s", seed, 2000, 2400) for seed in range(5)] + [("l", seed, 2500, 3000) for seed in range(2)]
    scores = {"l0": 0.6, "s0": 0.5, "s1": 0.4, "s2": 0.3, "s3": 0.2, "s4": 0.1, "l1": 0.05}
    rows = {f"{k}{seed}": scored(draw(run, seed, *sizes), scores[f"{k}{seed}"]) for k, seed, *sizes in places}
    assert len({row["hash"] for row in rows.values()}) == 7
    searches = [(2400, "s4"), (3000, "l1")]
    write_jsonl(run.candidates, [{"trial": f"t{b}", "budget": b, "genotype_hash": rows[name]["hash"]} for b, name in searches])
    return run.root, rows


@pytest.fixture
def run(made: tuple[Path, dict[str, dict[str, Any]]], tmp_path: Path) -> Run:
    shutil.copytree(made[0], tmp_path / "run")
    return Run(tmp_path / "run")


@pytest.fixture
def rows(made: tuple[Path, dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    return made[1]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trains in this process, and keeps what was trained."""
    done: list[str] = []

    def here(stage: str, function: Any, specs: Any, resources: Resources, run: Run) -> None:
        assert stage == "select"
        done.extend(spec.name for spec in specs if not spec.trial.done)
        run_here(stage, function, specs, resources, run)

    monkeypatch.setattr("thrifty.trials.run_trials", here)
    return done


def who(found: Sequence[Mapping[str, Any]], rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    by_hash = {row["hash"]: name for name, row in rows.items()}
    return [by_hash[row["hash"]] for row in found]


def without_seconds(run: Run) -> dict[str, Any]:
    outcome = read_json(run.pareto)
    assert all(one.pop("seconds") > 0 for one in outcome["rounds"])
    return outcome


def test_the_choice_follows_the_short_dice_of_a_table(run: Run, rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """s4 has the worst inherited score of all that are trained."""
    table = {"s0": [0.5, 0.6], "s1": [0.9, 0.1], "s4": [0.5, 0.7], "l0": [0.3, 0.3]}
    asked: list[str] = []

    def train(study: Study, run: Run, found: Any, number: int) -> dict[str, short.Trained]:
        assert number == 0
        asked.extend(who(list(found), rows))
        return {rows[name]["hash"]: short.Trained(tuple(dice), 5.0) for name, dice in table.items()}

    monkeypatch.setattr(short, "train_finalists", train)
    write_outcome(STUDY, run, list(rows.values()))
    assert set(asked) == set(table)
    outcome = read_json(run.pareto)
    assert {b: who(found, rows) for b, found in outcome["finalists"].items()} == {
        "2400": ["s4", "s0", "s1"],
        "3000": ["s4", "s0", "l0"],
    }
    for budget in BUDGETS:
        assert genotype_hash(load(run.genotype(budget))) == rows["s4"]["hash"]
        chosen = outcome["chosen"][str(budget)]
        assert (chosen["hash"], chosen["short_dice"], chosen["score"]) == (rows["s4"]["hash"], [0.5, 0.7], 0.1)
        for found in outcome["finalists"][str(budget)]:
            (name,) = who([found], rows)
            assert found["short_dice"] == table[name] and found["score"] == rows[name]["score"]
            assert found["parameters"] == rows[name]["parameters"] <= budget
    assert outcome["short"] == {"epochs": 2, "steps": 2, "seeds": 1}
    assert who(outcome["front"], rows)[-1] == "l0"


def test_a_network_that_two_budgets_share_is_trained_once(run: Run, rows: Any, trained: list[str]) -> None:
    study = STUDY.model_copy(update={"select": STUDY.select.model_copy(update={"short_seeds": 2})})
    write_outcome(study, run, list(rows.values()))
    wanted = {f"short/{rows[name]['hash']}/seed_{seed}" for name in ("s0", "s1", "s4", "l0") for seed in (0, 1)}
    assert len(trained) == 8 and set(trained) == wanted
    assert [name.rsplit("_")[-1] for name in trained] == ["0"] * 4 + ["1"] * 4, "each network soon has a result"
    outcome = read_json(run.pareto)
    for found in outcome["finalists"].values():
        for one in found:
            assert one["short_dice"] == [read_json(run.short_trial(one["hash"], seed).result)["dice"] for seed in (0, 1)]
        means = [np.mean(one["short_dice"]) for one in found]
        assert means == sorted(means, reverse=True)
    (first, again) = ({one["hash"]: one["short_dice"] for one in found} for found in outcome["finalists"].values())
    shared = {rows[name]["hash"] for name in ("s0", "s4")}
    assert {key: first[key] for key in shared} == {key: again[key] for key in shared}
    assert any(dice[0] != dice[1] for dice in first.values()), "another seed, another training"


@pytest.mark.parametrize("number", [0, 1])
def test_one_finalist_or_none_is_no_training(run: Run, rows: Any, trained: list[str], number: int) -> None:
    study = STUDY.model_copy(update={"select": STUDY.select.model_copy(update={"finalists": number})})
    write_outcome(study, run, list(rows.values()))
    outcome = read_json(run.pareto)
    assert not trained and not run.short.exists()
    assert who(list(outcome["chosen"].values()), rows) == ["s0", "l0"]
    assert outcome["finalists"] == {} and outcome["short"] is None
    assert all(chosen["short_dice"] is None for chosen in outcome["chosen"].values())


def other_form(genotype: Genotype) -> Genotype | None:
    """The same network under another name: the two inner nodes of a cell exchanged, where both read the inputs alone."""
    for cell_type in CELL_TYPES:
        first, second = genotype.cell(cell_type).nodes
        if first != second and [edge.source for edge in second] == [0, 1]:
            return dataclasses.replace(genotype, **{cell_type: Cell((second, first))})
    return None


def test_of_equivalent_forms_the_canonical_one_is_trained(run: Run, trained: list[str]) -> None:
    """Whichever of two forms scores better, the same training decides."""
    drawn = ((g, other_form(g)) for g in (draw(run, seed, 2000, 2400) for seed in range(99)))
    form, other = next((g, o) for g, o in drawn if o is not None)
    assert form != other and genotype_hash(form) == genotype_hash(other)
    found = []
    for genotype in (form, other):
        shutil.rmtree(run.short, ignore_errors=True)
        write_outcome(STUDY, run, [scored(genotype, 0.9)])
        assert load(run.short_genotype(genotype_hash(form))) == canonical(form)
        found.append(read_json(run.short_trial(genotype_hash(form), 0).result)["dice"])
    assert found[0] == found[1] and len(trained) == 2


def arguments(run: Run, row: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
    save(run.short_genotype(row["hash"]), from_json(row["genotype"]))
    return {"run": str(run.root), "network": row["hash"], "seed": seed, "round": 0, "cpus": 1, "gpus": 0.0, "device": "cpu"}


def test_the_recipe_is_that_of_retrain_but_for_the_epochs(run: Run, rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its learning rate falls to zero over the short epochs, and the selection cases are looked at once, at the end."""
    made: list[scratch.ScratchTraining] = []
    looks: list[float] = []
    make, look = short.make_trainee, scratch.mean_dice
    monkeypatch.setattr(short, "make_trainee", lambda *arguments: made.append(make(*arguments)) or made[-1])
    monkeypatch.setattr(scratch, "mean_dice", lambda *arguments: looks.append(look(*arguments)) or looks[-1])
    trial = run.short_trial(rows["s0"]["hash"], 0)
    short.short_trial(arguments(run, rows["s0"]), trial, lambda row: None)
    (trainee,), prepared = made, open_prepared(run)
    assert trainee.recipe == STUDY.retrain.model_copy(update={"epochs": 2, "validate_every": 2})
    splits, indices = prepared.splits, prepared.store.indices
    assert set(trainee.batches.indices) == set(indices(splits.weights)) | set(indices(splits.architecture))
    assert set(trainee.selection) == set(indices(splits.selection))
    assert trainee.batches.seed not in STUDY.retrain_seeds, "the choice must not know how a retraining begins"
    record, result = read_jsonl(trial.record), read_json(trial.result)
    last = [STUDY.retrain.optimiser.lr * cosine(epoch * 2 + 1, 4) for epoch in range(2)]
    assert [row["lr"] for row in record] == pytest.approx(last)
    assert [row["dice"] for row in record] == [None, looks[0]] and len(looks) == 1
    assert (result["dice"], result["epochs"], result["steps"]) == (looks[0], 2, 4)
    assert (result["hash"], result["parameters"], result["seed"]) == (rows["s0"]["hash"], rows["s0"]["parameters"], 0)
    assert sorted(path.name for path in trial.folder.iterdir()) == ["epochs.jsonl", "result.json"]


class Stopped(Exception):
    pass


def test_an_interrupted_last_round_goes_on(run: Run, rows: Any, trained: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped within the third training, then run again: nothing is repeated, and the outcome is that of an undisturbed one."""
    other = Run(run.root.parent / "other")
    shutil.copytree(run.root, other.root)
    write_outcome(STUDY, other, list(rows.values()))
    names, here = list(trained), trials.run_trials

    def dies(stage: str, function: Any, specs: Any, resources: Resources, run: Run) -> None:
        def report(row: Mapping[str, Any]) -> None:
            raise Stopped

        here(stage, function, specs[:2], resources, run)
        function(specs[2].arguments, specs[2].trial, report)

    trained.clear()
    monkeypatch.setattr(trials, "run_trials", dies)
    with pytest.raises(Stopped):
        write_outcome(STUDY, run, list(rows.values()))
    assert trained == names[:2] and not run.pareto.exists() and not run.genotype(3000).exists()
    before = {path: path.stat().st_mtime_ns for path in run.short.rglob("result.json")}
    assert len(before) == 2
    trained.clear()
    monkeypatch.setattr(trials, "run_trials", here)
    write_outcome(STUDY, run, list(rows.values()))
    assert trained == names[2:]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert without_seconds(run) == without_seconds(other)
    assert run.genotype(3000).read_bytes() == other.genotype(3000).read_bytes()


@pytest.mark.faults
def test_the_choice_is_the_same_on_one_worker_and_on_two(run: Run, rows: Any, ray_local: None) -> None:
    other = Run(run.root.parent / "other")
    shutil.copytree(run.root, other.root)
    for here, concurrent in ((run, 1), (other, 2)):
        study = STUDY.model_copy(update={"resources": Resources(concurrent=concurrent, device="cpu")})
        write_outcome(study, here, list(rows.values()))
        assert [(row["status"], row["attempts"]) for row in stored(here, "select")] == [("done", 1)] * 4
    assert without_seconds(run) == without_seconds(other)
    cost = ledger(run)["cost"]["select"]
    seconds = sum(read_json(path)["seconds"] for path in run.short.rglob("result.json"))
    assert cost["trials"] == 5 and cost["useful_seconds"] == pytest.approx(7 + seconds), "seven scores of one second each"


# -- several rounds ---------------------------------------------------------------------------------------------------------


def rounds_of(**select: Any) -> list[tuple[int, int]]:
    epochs = select.pop("epochs", 30)
    return [tuple(one) for one in small_study({"epochs": epochs}, select={"finalists": 6, **select}).short_rounds]


def test_rounds_by_hand() -> None:
    assert rounds_of() == [(6, 8)] == rounds_of(eta=3)
    assert rounds_of(rounds=2) == [(6, 8), (3, 16)]
    assert rounds_of(rounds=2, eta=3) == [(6, 8), (2, 24)]
    assert rounds_of(rounds=9) == [(6, 8), (3, 16), (2, 30)], "no longer than a retraining, no round of the same length"
    assert rounds_of(rounds=9, epochs=1000, short_epochs=1) == [
        (6, 1),
        (3, 2),
        (2, 4),
    ], "not fewer than two"
    assert rounds_of(rounds=3, finalists=1) == rounds_of(rounds=3, finalists=0) == []


HALVING = {"finalists": 5, "short_epochs": 1, "rounds": 2}
"""Five finalists for an epoch, then three for two epochs."""


def test_the_best_of_a_round_are_trained_longer_and_that_decides(run: Run, rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """s0 leads after the first round, s4 after the second; s1 is best of all where it is not looked at any more."""
    study = STUDY.model_copy(update={"select": STUDY.select.model_copy(update=HALVING)})
    first = {"s0": 0.9, "s1": 0.2, "s2": 0.5, "s3": 0.3, "s4": 0.6, "l0": 0.7, "l1": 0.1}
    second = {"s0": 0.6, "s1": 0.99, "s2": 0.5, "s4": 0.8, "l0": 0.7}
    asked: list[list[str]] = []

    def train(study: Study, run: Run, found: Any, number: int) -> dict[str, short.Trained]:
        asked.append(sorted(set(who(list(found), rows))))
        dice = (first, second)[number]
        return {rows[name]["hash"]: short.Trained((dice[name],), 5.0) for name in asked[-1]}

    monkeypatch.setattr(short, "train_finalists", train)
    write_outcome(study, run, list(rows.values()))
    assert asked == [["l0", "s0", "s1", "s2", "s3", "s4"], ["l0", "s0", "s2", "s4"]]
    outcome = read_json(run.pareto)
    assert who(outcome["finalists"]["2400"], rows) == ["s4", "s0", "s2", "s3", "s1"]
    assert who(outcome["finalists"]["3000"], rows) == ["s4", "l0", "s0", "s2", "s1"], "s3 has given its place to a decoding"
    assert [tuple(one[key] for key in ("epochs", "steps", "seeds", "seconds")) for one in outcome["rounds"]] == [
        (1, 2, 1, 30.0),
        (2, 2, 1, 20.0),
    ]
    assert [len(found) for one in outcome["rounds"] for found in one["finalists"].values()] == [5, 5, 3, 3]
    by_name = dict(zip(["s4", "s0", "s2", "s3", "s1"], outcome["finalists"]["2400"], strict=True))
    assert [(row["short_dice"], row["short_epochs"]) for row in by_name.values()] == [
        ([0.8], 2), ([0.6], 2), ([0.5], 2), ([0.3], 1), ([0.2], 1),
    ]  # fmt: skip
    assert genotype_hash(load(run.genotype(2400))) == rows["s4"]["hash"]


def test_a_later_round_trains_anew_and_longer_and_goes_on_after_an_end(run: Run, rows: Any, trained: list[str]) -> None:
    study = STUDY.model_copy(update={"select": STUDY.select.model_copy(update=HALVING | {"finalists": 3})})
    run.study.write_text(yaml.safe_dump(study.model_dump(mode="json")))
    write_outcome(study, run, list(rows.values()))
    first = [name for name in trained if name.endswith("/seed_0")]
    second = [name for name in trained if name.endswith("/round_1_seed_0")]
    assert len(first) == 4 and trained == first + second and 2 <= len(second) <= 4
    for name in second:
        before, after = (read_json(run.short.parent / n / "result.json") for n in (name.replace("round_1_", ""), name))
        assert (before["epochs"], after["epochs"], before["round"], after["round"]) == (1, 2, 0, 1)
        losses = [read_jsonl(run.short.parent / n / "epochs.jsonl")[0]["loss"] for n in (name.replace("round_1_", ""), name)]
        assert losses[0] != losses[1], "it begins with other weights and batches"
    before, choice = without_seconds(run), run.genotype(2400).read_bytes()
    trained.clear()
    shutil.rmtree(run.short_trial(second[0].split("/")[1], 0, 1).folder)
    write_outcome(study, run, list(rows.values()))
    assert trained == [second[0]], "only what is missing"
    assert without_seconds(run) == before and run.genotype(2400).read_bytes() == choice
