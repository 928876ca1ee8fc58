"""What is added to a study that has been finished: what exists stays as it is, and what is new is done."""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from small_study import BUDGET, run_here, run_with_manifest, small_run, small_study

from thrifty import cli, retrain
from thrifty.config import Resources, Study
from thrifty.data.prepare import open_prepared
from thrifty.data.splits import read_splits
from thrifty.errors import ThriftyError
from thrifty.growth import added, differences
from thrifty.manifest import Manifest, only_driver, stored
from thrifty.nets.supernet import Supernet
from thrifty.nets.supernet_file import load_supernet, save_supernet
from thrifty.networks import read_networks
from thrifty.results import Run, Trial, open_run, read_json, read_jsonl, read_run, write_json
from thrifty.search import stage as search_stage
from thrifty.settled import later_searches, settled
from thrifty.shelf import opened
from thrifty.space.genotype import load
from thrifty.space.schema import load_space
from thrifty.statistics.blocks import OUTLIVED

STUDY: dict[str, Any] = {
    "name": "grows",
    "space": "tiny",
    "budgets": [3000],
    "seeds": 1,
    "data": {"patch": 32, "phantoms": {"cases": 8, "patients": 8, "size": 32}},
    "search": {"epochs": 2, "steps": 1, "warmup": 1, "batch": 2},
    "select": {"samples": 1, "recalibrate": 1, "finalists": 1},
    "retrain": {"epochs": 1, "steps": 1, "batch": 2, "seeds": 1, "random": 1, "baselines": []},
    "resources": {"device": "cpu"},
}


def study_of(**values: Any) -> Study:
    """STUDY with other values; retrain__seeds stands for retrain.seeds."""
    changed = copy.deepcopy(STUDY)
    for key, value in values.items():
        section, _, inner = key.partition("__")
        if inner:
            changed[section] = changed[section] | {inner: value}
        else:
            changed[section] = value
    return Study.model_validate(changed)


def compare(**values: Any) -> tuple[list[str], list[str]]:
    old, new = (s.model_dump(mode="json") for s in (study_of(seeds=[0, 3]), study_of(**{"seeds": [0, 3]} | values)))
    return differences(old, new), added(old, new)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"seeds": [3, 0, 7]}, ["seeds by 7"]),
        ({"seeds": 5}, ["seeds by 1, 2, 4"]),
        ({"budgets": [9000, 3000, {"width": 4, "levels": 3}]}, ["budgets by {parameters: 9000}, {width: 4, levels: 3}"]),
        ({"retrain__seeds": [0, 9], "retrain__random": 3}, ["retrain.seeds by 9", "retrain.random by 1, 2"]),
        ({"retrain__baselines": ["unet"]}, ["retrain.baselines by unet"]),
        ({"resources": {"max_failed_trials": 7}}, []),
        ({"resources": {"concurrent": 7}}, []),
        ({"seeds": [3, 0]}, []),
    ],
)
def test_what_may_grow(values: dict[str, Any], words: list[str]) -> None:
    assert compare(**values) == ([], words)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"seeds": [0]}, "seeds was [0, 3], now [0]; it may only grow (3 would be lost)"),
        ({"seeds": 3}, "seeds was [0, 3], now 3; it may only grow (3 would be lost)"),
        ({"budgets": [{"parameters": 3000, "width": 4}]}, "it may only grow ({parameters: 3000} would be lost)"),
        ({"retrain__random": 0}, "retrain.random was 1, now 0; it may only grow (0 would be lost)"),
        ({"retrain__epochs": 2}, "retrain.epochs was 1, now 2"),
        ({"retrain__folds": 2}, "retrain.folds was 1, now 2"),
        ({"search__steps": 2, "seeds": 4}, "search.steps was 1, now 2"),
        ({"select__seed": 1}, "select.seed was 0, now 1"),
    ],
)
def test_what_makes_another_study(values: dict[str, Any], words: str) -> None:
    (found,) = compare(**values)[0]
    assert words in found


def test_the_study_in_the_folder_grows_and_never_shrinks(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with opened(study_of()) as run:
        pass
    assert yaml.safe_load(run.study.read_text())["schema"] == 1 and read_run(run.root)[0] == study_of()
    more = study_of(seeds=2, resources={"concurrent": 1})
    with opened(more):
        assert read_run(run.root)[0] == more, "trials read it from there"
    assert capsys.readouterr().out == "the study grows: seeds by 1\n"
    with pytest.raises(ThriftyError, match=r"holds another study: seeds was 2, now 1; it may only grow"):
        open_run(run.root, study_of())
    before = run.study.read_bytes()
    with pytest.raises(ThriftyError, match="a budget too small"), opened(study_of(seeds=2, budgets=[3000, 5])):
        raise ThriftyError("a budget too small")
    assert run.study.read_bytes() == before, "the corrected study is accepted"
    with only_driver(run), pytest.raises(ThriftyError, match="in use by process"), opened(study_of(seeds=3)):
        pass
    assert run.study.read_bytes() == before


@pytest.mark.parametrize("schema", [0, 2, "x"])
def test_a_run_folder_of_another_version_is_refused_by_name(tmp_path: Path, schema: object) -> None:
    run = open_run(tmp_path / "run", study_of())
    values = yaml.safe_load(run.study.read_text())
    run.study.write_text(yaml.safe_dump(values | {"schema": schema}))
    for use in (lambda: open_run(run.root, study_of()), lambda: read_run(run.root)):
        with pytest.raises(ThriftyError, match=rf"run\.yaml has schema {schema!r}, this version reads 1"):
            use()
    values.pop("schema")
    run.study.write_text(yaml.safe_dump(values))  # as versions before it was written have left it
    assert read_run(run.root)[0] == study_of()


@pytest.fixture
def thrifty_run(tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """`thrifty run` of STUDY with other values, without Ray and without the report."""
    monkeypatch.setattr("thrifty.trials.run_trials", run_here)
    monkeypatch.setattr("thrifty.trials.map_batches", lambda function, items, resources: [function(item) for item in items])
    monkeypatch.setattr(cli, "STAGES", {name: module for name, module in cli.STAGES.items() if name != "report"})

    def run(**values: Any) -> Run:
        path = tmp_path / "grows.yaml"
        path.write_text(yaml.safe_dump(study_of(**values).model_dump(mode="json")))
        with pytest.raises(SystemExit) as ended:
            cli.main(["run", str(path)])
        assert ended.value.code in (0, None)
        return Run(results / "grows")

    return run


def outcomes(run: Run) -> dict[Path, tuple[int, bytes]]:
    """What must not be made again: when it was written, and what it says."""
    names = ("result.json", "weights.safetensors", "genotype*.json", "distribution.json")
    paths = [path for name in names for path in run.root.rglob(name) if path.parent.name != "select"]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def test_a_study_bears_as_many_failed_trials_as_it_is_told(
    tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One search and one of four retrainings fail: with 0 the first one stops it, with 1 the second, with 2 none. Seeds 2 and 3
    race beside the failing one: one of them is stopped at a rung."""
    real = {"search": search_stage.search_trial, "retrain": retrain.retrain_trial}

    def search(arguments: dict[str, Any], trial: Trial, report: Any) -> None:
        if arguments["seed"] == 1:
            raise ThriftyError("the loss is not finite")
        real["search"](arguments, trial, report)

    def train(arguments: dict[str, Any], trial: Trial, report: Any) -> None:
        if (arguments["network"], arguments["seed"]) == ("random_3000_0", 0):
            raise ThriftyError("no memory")
        real["retrain"](arguments, trial, report)

    monkeypatch.setattr("thrifty.trials.run_trials", run_with_manifest)
    monkeypatch.setattr("thrifty.trials.map_batches", lambda function, items, resources: [function(item) for item in items])
    monkeypatch.setattr(search_stage, "search_trial", search)
    monkeypatch.setattr(retrain, "retrain_trial", train)
    path = tmp_path / "grows.yaml"
    halving = STUDY["search"] | {"epochs": 3, "scheduler": "halving", "halving": {"reference": 2, "rungs": 1}}
    path.write_text(yaml.safe_dump(study_of(seeds=4, search=halving, retrain__seeds=2).model_dump(mode="json")))

    def thrifty(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["run", str(path), *arguments])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    code, out, err = thrifty()
    assert code == 2 and "1 of 3 trials of search failed: b3000" in err and "select (2 of 5)" not in out
    code, out, err = thrifty("--max-failures", "1")
    assert code == 2 and "1 of 4 trials of retrain failed (1 more failed before): random_3000_0/seed_0: no memory" in err
    assert "the study goes on without (--max-failures 1)" in out and "evaluate (4 of 5)" not in out
    code, out, err = thrifty("--max-failures", "2")
    run, failed = Run(results / "grows"), {"search": "the loss is not finite", "retrain": "no memory"}
    assert (code, err) == (0, ""), err
    summary = read_json(run.summary)
    (dropped,) = summary["dropped"]
    assert {row["seed"] for row in read_jsonl(run.candidates)} == {0, 5 - dropped["seed"]} and dropped["epochs_done"] == 2
    assert {row["stage"]: row["reason"] for row in summary["failed"]} == failed
    assert summary["failed"][1]["trial"] == "random_3000_0/seed_0" == summary["missing"][0]
    assert summary["blocks"]["search"]["seeds"] == [0] and summary["blocks"]["retrain"]["seeds"] == [1]
    table = list(csv.DictReader(run.per_case.read_text(encoding="utf-8").splitlines()))
    assert {(row["network"], row["seed"]) for row in table} == {("found_3000", s) for s in "01"} | {("random_3000_0", "1")}
    for network in summary["networks"]:
        patients: dict[str, list[float]] = {}
        for row in table:
            if (row["network"], row["seed"]) == (network["name"], "1"):
                patients.setdefault(row["patient"], []).append(float(row["dice"]))
        by_hand = np.mean([np.mean(values) for values in patients.values()])
        assert network["dice"]["per_seed"] == [pytest.approx(by_hand)] and network["seeds"] == 1
    report = run.report.read_text(encoding="utf-8")
    for reason in (
        "(the loss is not finite)",
        "retrain random_3000_0/seed_0 (no memory)",
        "1 of 2 retraining seeds are left out",
    ):
        assert reason in report
    assert f"- {dropped['trial']}: {dropped['reason']}." in report and "3 of 4 search seeds are left out" in report
    (setting,) = summary["stability"]["settings"]
    assert setting["seeds"] == [0] and setting["agreement"] is None
    monkeypatch.setattr(search_stage, "search_trial", real["search"])
    monkeypatch.setattr(retrain, "retrain_trial", real["retrain"])
    assert thrifty()[0] == 0, "the same command tries them again"
    summary = read_json(run.summary)
    assert (summary["failed"], summary["missing"]) == ([], [])
    assert summary["blocks"]["retrain"] == {"seeds": [0, 1], "left_out": []}
    left_out = {row["seed"]: row["why"] for row in summary["blocks"]["search"]["left_out"]}
    assert summary["blocks"]["search"]["seeds"] == [0, 1] == summary["stability"]["settings"][0]["seeds"]
    assert left_out == {dropped["seed"]: f"{dropped['trial']} was {dropped['reason']}", 5 - dropped["seed"]: OUTLIVED}


def test_a_finished_study_grows_without_redoing_anything(thrifty_run: Callable[..., Run]) -> None:
    run = thrifty_run()
    before, chosen = outcomes(run), read_json(run.pareto)["chosen"]
    summary = read_json(run.summary)
    assert [network["name"] for network in summary["networks"]] == ["found_3000", "random_3000_0"]
    assert later_searches(run) == {} and list(settled(run)) == [3000] and not any("had no say" in n for n in summary["notes"])
    more = {"seeds": 2, "budgets": [3000, 6000], "retrain__seeds": 2, "retrain__random": 2, "retrain__baselines": ["scaled_unet"]}
    thrifty_run(**more)
    after = outcomes(run)
    assert {path: after[path] for path in before} == before
    searches = {row["trial"]: row["budget"] for row in read_jsonl(run.candidates)}
    (later,) = [name for name, budget in searches.items() if budget == 3000 and name.endswith("_s1")]
    assert sorted(searches.values()) == [3000, 3000, 6000, 6000] and later_searches(run) == {3000: [later]}
    pareto = read_json(run.pareto)
    assert list(pareto["chosen"]) == ["3000", "6000"] and pareto["chosen"]["3000"] == chosen["3000"]
    of_6000 = {name for name, budget in searches.items() if budget == 6000}
    assert set(pareto["chosen"]["6000"]["searches"]) == of_6000 and later not in pareto["chosen"]["3000"]["searches"]
    scored = [row for row in read_jsonl(run.evaluations) if row["group"].startswith("b6000_")]
    assert scored and all(set(row["by_supernet"]) >= of_6000 for row in scored)
    summary = read_json(run.summary)
    names = [
        f"{kind}_{b}{k}"
        for b in (3000, 6000)
        for kind, k in (("found", ""), ("random", "_0"), ("random", "_1"), ("scaled_unet", ""))
    ]
    assert [network["name"] for network in summary["networks"]] == names and summary["missing"] == []
    assert all(len(network["dice"]["per_seed"]) == 2 for network in summary["networks"])
    (note,) = [note for note in summary["notes"] if "had no say" in note]
    assert f"3,000 parameters was chosen before these searches were added, so they had no say in it: {later};" in note
    thrifty_run(**more)
    assert outcomes(run) == after, "and it is finished again"


def test_files_of_another_version_are_refused_by_name(tmp_path: Path) -> None:
    study = small_study()
    run = small_run(tmp_path, study)
    prepared = open_prepared(run)
    Manifest(run, "search", Resources()).write()
    genotype = run.genotype(BUDGET)
    readers: dict[Path, Callable[[], object]] = {
        run.networks: lambda: read_networks(run),
        run.splits: lambda: read_splits(run.splits, prepared.store),
        run.search / "trials.json": lambda: stored(run, "search"),
        run.data / "index.json": lambda: open_prepared(run),
        genotype: lambda: load(genotype),
    }
    for path, reader in readers.items():
        reader()
        value = read_json(path)
        assert value["schema"] == 1, path
        write_json(path, value | {"schema": 7})
        with pytest.raises(ThriftyError, match="schema"):
            reader()
        write_json(path, value)
    space, file = load_space("tiny"), tmp_path / "supernet.safetensors"
    save_supernet(file, Supernet(space, 4, 3, 1, 2), 1, 2)
    load_supernet(file, space)
    file.write_bytes(file.read_bytes().replace(rb"\"schema\": 1", rb"\"schema\": 7"))
    with pytest.raises(ThriftyError, match="it has schema 7, this version reads 1"):
        load_supernet(file, space)
