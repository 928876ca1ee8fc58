"""Evaluation: every test case measured once for every trained network, tables that agree, examples that can be opened."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from skimage.io import imread
from sklearn.metrics import f1_score

from tests.small_study import BUDGET, run_here, small_run, small_study
from tests.summary_table import schema
from thrifty import evaluate, retrain, trials
from thrifty.data.prepare import open_prepared
from thrifty.errors import ThriftyError
from thrifty.inference import predict_cases
from thrifty.metrics import case_metrics
from thrifty.model import load_model, weights_hash
from thrifty.networks import read_networks, trial_arguments, trial_keys
from thrifty.results import Run, read_json, write_json
from thrifty.summary import count_seeds, summarise

STUDY = small_study(recipe={"epochs": 1, "steps": 1, "validate_every": 1})
NAMES = [f"found_{BUDGET}", f"random_{BUDGET}_0", f"scaled_unet_{BUDGET}"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two seeds of three networks; the second seed of the scaled U-Net is still to come."""
    run = small_run(tmp_path_factory.mktemp("runs"), STUDY)
    for key in trial_keys(STUDY, list(read_networks(run)))[:-1]:
        retrain.retrain_trial(trial_arguments(STUDY, run, key), run.retrain_trial(*key), lambda row: None)
    return run


@pytest.fixture(scope="module")
def evaluated(trained: Run) -> Iterator[Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "run_trials", run_here)
        evaluate.run_stage(STUDY, trained)
    yield trained


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def pictures_of(run: Run) -> list[Path]:
    return sorted(run.example("any", "any").parents[1].glob("*/*"))


def test_every_test_case_is_measured_once_for_each_run_and_class(evaluated: Run) -> None:
    rows, prepared = table(evaluated.per_case), open_prepared(evaluated)
    runs = [(name, seed) for seed in "01" for name in NAMES][:-1]
    labels = prepared.store.labels[1:]
    expected = {(*one, case, label) for one in runs for case in prepared.splits.test for label in labels}
    found = [(row["network"], row["seed"], row["case"], row["label"]) for row in rows]
    assert len(found) == len(set(found)) and set(found) == expected
    assert list(rows[0]) == list(evaluate.CASE_COLUMNS + evaluate.PIXEL_COLUMNS)
    assert {row["unit"] for row in rows} == {"px"} and {row["fold"] for row in rows} == {""}
    for row in rows:
        truth, predicted, shared = (int(row[name]) for name in evaluate.PIXEL_COLUMNS)
        dice = 2 * shared / (truth + predicted) if truth + predicted else 1.0
        assert float(row["dice"]) == pytest.approx(dice) and float(row["hd95"]) >= 0


def test_summary_agrees_with_the_table(evaluated: Run) -> None:
    summary, rows = read_json(evaluated.summary), table(evaluated.per_case)
    assert [network["name"] for network in summary["networks"]] == NAMES
    assert [network["seeds"] for network in summary["networks"]] == [1, 1, 1]
    assert summary["missing"] == [f"scaled_unet_{BUDGET}/seed_1"]
    why = f"scaled_unet_{BUDGET}/seed_1 is not trained yet"
    assert summary["blocks"]["retrain"] == {"seeds": [0], "left_out": [{"seed": 1, "why": why}]}
    left_out = f"1 of 2 retraining seeds are left out of means and statistics of the networks (seed 1: {why})"
    assert left_out in summary["notes"] and {row["seed"] for row in rows} == {"0", "1"}
    for network in summary["networks"]:
        mine = [row for row in rows if row["network"] == network["name"] and row["seed"] == "0"]
        means = []
        for seed in sorted({row["seed"] for row in mine}):
            patients: dict[str, list[float]] = {}
            for row in mine:
                if row["seed"] == seed:
                    patients.setdefault(row["patient"], []).append(float(row["dice"]))
            means.append(np.mean([np.mean(values) for values in patients.values()]))
        assert network["dice"]["per_seed"] == pytest.approx(means)
        assert network["dice"]["mean"] == pytest.approx(np.mean(means))
        assert network["macs"] > 0 and network["parameters"] <= BUDGET
        assert 0 <= network["still_improving"] <= network["seeds"]
        assert network["latency_ms"]["median"] > 0 and network["latency_ms"]["image"] == [32, 32]
        assert network["weights_bytes"] == evaluated.retrain_trial(network["name"], 0).weights.stat().st_size
    data = summary["data"]
    assert (data["cases"], data["patients"], data["classes"], data["source"]) == (12, 8, 3, "phantoms")
    assert sum(data["sets"].values()) == 12
    assert summary["cost"] == read_json(evaluated.ledger)["cost"]
    assert (summary["cost"]["retrain"]["trials"], summary["cost"]["evaluate"]["trials"]) == (5, 10)


def test_the_summary_is_of_the_published_schema(evaluated: Run) -> None:
    jsonschema.validate(read_json(evaluated.summary), schema())


def test_examples_are_the_predictions_of_the_first_seed(evaluated: Run) -> None:
    listed, store = read_json(evaluated.examples), open_prepared(evaluated).store
    assert {entry["network"] for entry in listed} == set(NAMES)
    assert {(entry["seed"], entry["fold"]) for entry in listed} == {(0, None)}
    assert all(entry["weights_sha256"] == weights_hash(evaluated.retrain_trial(entry["network"], 0)) for entry in listed)
    assert {path.relative_to(evaluated.root).as_posix() for path in pictures_of(evaluated)} == {e["file"] for e in listed}
    rows = [row for row in table(evaluated.per_case) if row["seed"] == "0"]
    for entry in listed:
        labels = imread(evaluated.root / entry["file"])
        index = store.indices([entry["case"]])[0]
        assert labels.dtype == np.uint8 and labels.shape == store.mask(index).shape
        for found in case_metrics(labels, store.mask(index), store.classes):
            (row,) = [
                r for r in rows if (r["network"], r["case"], r["class"]) == (entry["network"], entry["case"], str(found.index))
            ]
            assert float(row["dice"]) == pytest.approx(found.dice)


def test_what_is_measured_is_after_the_post_processing_that_predict_does(evaluated: Run, tmp_path: Path) -> None:
    from thrifty.predictor import load
    from thrifty.results import Trial

    key = (NAMES[1], 1, None)
    trial, prepared = evaluated.retrain_trial(*key), open_prepared(evaluated)
    before = trial.model.read_bytes()
    try:
        write_json(trial.model, read_json(trial.model) | {"postprocess": {"fill_holes": True, "largest": True, "dice": {}}})
        evaluate.evaluate_trial(trial_arguments(STUDY, evaluated, key), Trial(tmp_path), lambda row: None)
        predictor = load(trial.folder)
    finally:
        trial.model.write_bytes(before)
    rows = iter(read_json(tmp_path / "result.json")["cases"])
    plain, changed = load(trial.folder), False
    for index in prepared.store.indices(prepared.splits.test):
        image, truth = prepared.store.image(index)[0], prepared.store.mask(index)
        changed |= bool((predictor(image) != plain(image)).any())
        for number in (1, 2):
            row = next(rows)
            assert row["predicted_pixels"] == int((predictor(image) == number).sum())
            assert row["shared_pixels"] == int(((predictor(image) == number) & (truth == number)).sum())
    assert changed, "a post-processing that changes nothing shows nothing"


def test_examples_are_worst_median_and_best_by_the_first_run() -> None:
    def row(seed: int, case: str, dice: float, number: int = 1) -> dict[str, Any]:
        shared = {"class": number, "truth_pixels": 0 if number == 2 else 5}
        return {"network": "found_1", "seed": seed, "fold": None, "case": case, "dice": dice, **shared}

    first = [row(0, case, dice) for case, dice in (("a", 0.5), ("b", 0.1), ("c", 0.9), ("d", 0.7), ("e", 0.2))]
    second = [row(1, case, 0.0) for case in "abcde"]
    assert evaluate.example_cases(first + second) == [("b", "worst", 0.1), ("a", "median", 0.5), ("c", "best", 0.9)]
    assert evaluate.example_cases(first[:1]) == [("a", "worst", 0.5)]
    absent = [row(0, "b", 1.0, 2), row(0, "a", 0.0, 2)]
    assert evaluate.example_cases(first[:2] + absent) == [("b", "worst", 0.1), ("a", "best", 0.5)]


def test_stage_again_does_nothing_anew(evaluated: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in (evaluated.per_case, evaluated.summary, evaluated.examples)}
    monkeypatch.setattr(trials, "run_trials", run_here)
    monkeypatch.setattr(evaluate, "load_model", lambda *arguments: pytest.fail("a network was loaded"))
    evaluate.run_stage(STUDY, evaluated)
    assert {path: path.read_bytes() for path in before} == before


def test_network_that_was_trained_anew_is_measured_anew(evaluated: Run) -> None:
    key = (NAMES[0], 0, None)
    result = read_json(evaluated.retrain_trial(*key).result)
    evaluate.forget_stale(evaluated, [key])
    assert evaluated.evaluate_trial(*key).done
    measured = evaluated.evaluate_trial(*key).result.read_bytes()
    try:
        write_json(evaluated.retrain_trial(*key).result, result | {"weights_sha256": "other"})
        evaluate.forget_stale(evaluated, [key])
        assert not evaluated.evaluate_trial(*key).done
    finally:
        write_json(evaluated.retrain_trial(*key).result, result)
        evaluated.evaluate_trial(*key).result.write_bytes(measured)


@pytest.mark.parametrize("change", [{"seed": 1}, {"fold": 0}, {"weights_sha256": "other"}])
def test_pictures_of_another_run_are_drawn_anew(evaluated: Run, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]) -> None:
    """As where seed 1 was the first to finish: its pictures have the names that those of seed 0 get later."""
    before = {path: path.read_bytes() for path in pictures_of(evaluated)}
    listed = read_json(evaluated.examples)
    write_json(evaluated.examples, [row | change if row["network"] == NAMES[0] else row for row in listed])
    for path in before:
        path.write_bytes(b"another run's")
    left = evaluated.example(NAMES[0], "no_longer_listed")
    left.touch()
    monkeypatch.setattr(trials, "run_trials", run_here)
    try:
        evaluate.run_stage(STUDY, evaluated)
        assert read_json(evaluated.examples) == listed and not left.exists()
        for path, picture in before.items():
            assert path.read_bytes() == (picture if path.parent.name == NAMES[0] else b"another run's")
    finally:
        for path, picture in before.items():
            path.write_bytes(picture)
        write_json(evaluated.examples, listed)


def test_interrupted_drawing_leaves_no_list_of_wrong_pictures(evaluated: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = read_json(evaluated.examples)
    write_json(evaluated.examples, [row | {"seed": 1} for row in listed])
    monkeypatch.setattr(trials, "run_trials", run_here)
    monkeypatch.setattr(evaluate, "write_labels", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        evaluate.run_stage(STUDY, evaluated)
    assert not evaluated.examples.exists()
    monkeypatch.undo()
    monkeypatch.setattr(trials, "run_trials", run_here)
    evaluate.run_stage(STUDY, evaluated)
    assert read_json(evaluated.examples) == listed


def test_a_class_that_no_test_case_holds_does_not_raise_the_mean(evaluated: Run) -> None:
    """Of three classes only the first is in the test set, and all networks miss it: Dice is 0, not 2/3."""
    keys = [(NAMES[0], seed, None) for seed in (0, 1)]
    rows = []
    for key in keys:
        for case in open_prepared(evaluated).splits.test:
            for number, (dice, pixels) in enumerate([(0.0, 9), (1.0, 0), (1.0, 0)], start=1):
                identity = dict(zip(evaluate.RUN_COLUMNS, key, strict=True))
                place = {"case": case, "patient": case, "volume": "v", "class": number, "label": f"organ {number}", "unit": "px"}
                scores = {"dice": dice, "iou": dice, "hd95": 10.0 * (1 - dice)}
                counts = {"truth_pixels": pixels, "predicted_pixels": 0, "shared_pixels": 0}
                rows.append({**identity, **place, **scores, **counts})
    volumes, counted = evaluate.per_volume(rows), count_seeds(STUDY, evaluated, keys, [])
    summary = summarise(STUDY, evaluated, open_prepared(evaluated), counted, [], rows, volumes)
    (network,) = summary["networks"]
    assert network["dice"]["mean"] == network["iou"]["mean"] == network["dice_volume"] == 0.0
    assert network["hd95"]["mean"] == 10.0 and network["dice_per_class"] == {"organ 1": 0.0}
    notes = [note for note in summary["notes"] if note.startswith("class")]
    assert notes == [f"class organ {n} is in no test case; no mean counts it" for n in (2, 3)]
    empty = [row | {"truth_pixels": 0, "dice": 1.0} for row in rows]
    summary = summarise(STUDY, evaluated, open_prepared(evaluated), counted, [], empty, [])
    assert summary["networks"][0]["dice"]["mean"] == 1.0
    assert summary["notes"][0] == "no test case holds any class but the background: Dice says only whether anything was claimed"


def test_volumes_pool_the_pixels_of_their_slices() -> None:
    def row(volume: str | None, truth: int, predicted: int, shared: int, number: int = 1) -> dict[str, Any]:
        named = {"network": "n", "seed": 0, "fold": None, "case": "c", "patient": "p", "label": "a", "unit": "px"}
        pixels = {"truth_pixels": truth, "predicted_pixels": predicted, "shared_pixels": shared}
        return {**named, "volume": volume, "class": number, "dice": 0.0, "iou": 0.0, "hd95": 0.0, **pixels}

    rows = [row("v", 10, 0, 0), row("v", 30, 40, 20), row("w", 0, 0, 0), row(None, 5, 5, 5), row("v", 7, 7, 7, number=2)]
    found = evaluate.per_volume(rows)
    assert [(r["volume"], r["class"], r["slices"]) for r in found] == [("v", 1, 2), ("w", 1, 1), ("v", 2, 1)]
    assert [r["dice"] for r in found] == pytest.approx([40 / 80, 1.0, 1.0])
    assert [r["iou"] for r in found] == pytest.approx([20 / 60, 1.0, 1.0])
    assert set(found[0]) == set(evaluate.VOLUME_COLUMNS)


def test_per_volume_is_a_header_alone_where_no_case_is_a_slice(evaluated: Run) -> None:
    assert evaluated.per_volume.read_text() == ",".join(evaluate.VOLUME_COLUMNS) + "\n"


def test_cross_validation_measures_every_fold_on_the_same_test_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = small_study({"epochs": 1, "steps": 1, "seeds": 2, "folds": 2, "random": 0, "baselines": []})
    run = small_run(tmp_path, study)
    monkeypatch.setattr(trials, "run_trials", run_here)
    retrain.run_stage(study, run)
    evaluate.run_stage(study, run)
    rows = table(run.per_case)
    cases = {(row["seed"], row["fold"]): [] for row in rows}
    for row in rows:
        cases[row["seed"], row["fold"]].append(row["case"])
    assert set(cases) == {("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")}
    assert all(set(names) == set(open_prepared(run).splits.test) for names in cases.values())
    (network,) = read_json(run.summary)["networks"]
    assert network["seeds"] == len(network["dice"]["per_seed"]) == 2


def test_real_volumes_are_measured_whole_and_in_mm(real_data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of hippocampus volumes: the Dice of a volume is that of its voxels."""
    source = str(real_data("Dataset004_Hippocampus"))
    recipe = {"epochs": 1, "steps": 1, "seeds": 1, "random": 0, "baselines": []}
    study = small_study(recipe, data={"source": source, "patch": 32, "max_cases": 200})
    run = small_run(tmp_path, study)
    monkeypatch.setattr(trials, "run_trials", run_here)
    retrain.run_stage(study, run)
    evaluate.run_stage(study, run)
    prepared = open_prepared(run)
    store = prepared.store
    test = store.indices(prepared.splits.test)
    network, model = load_model(run.retrain_trial(NAMES[0], 0), torch.device("cpu"))
    labels = dict(predict_cases(network, store, test, model.normalisation, study.evaluate, torch.device("cpu")))
    rows = table(run.per_volume)
    assert {row["volume"] for row in rows} == {store.cases[i].volume for i in test} and len(rows) >= 2
    for row in rows:
        slices = [i for i in test if store.cases[i].volume == row["volume"]]
        pairs = [(store.mask(i), labels[i]) for i in slices]
        truth, found = (np.concatenate([a.ravel() for a in part]) for part in zip(*pairs, strict=True))
        expected = f1_score(truth == int(row["class"]), found == int(row["class"]), zero_division=1.0)
        assert float(row["dice"]) == pytest.approx(expected)
        assert int(row["slices"]) == len(slices)
    summary = read_json(run.summary)["networks"][0]
    assert summary["hd95"]["unit"] == "mm" and 0 <= summary["dice_volume"] <= 1


def test_nothing_trained_says_what_to_do(tmp_path: Path) -> None:
    run = small_run(tmp_path, STUDY)
    with pytest.raises(ThriftyError, match=r"`thrifty retrain STUDY.yaml` trains them"):
        evaluate.run_stage(STUDY, run)
    assert not run.summary.exists()


def test_the_summary_is_what_its_schema_says(evaluated: Run) -> None:
    import jsonschema

    from tests.summary_table import schema

    summary = read_json(evaluated.summary)
    jsonschema.validate(summary, schema())
    assert set(summary) >= {"networks", "statistics", "stability", "cost"} and len(summary["networks"]) == len(NAMES)
