"""Damaged files and studies that cannot work: one clear line each, which names the file or the key."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_study import small_study

from thrifty.config import Study
from thrifty.data.normalise import Normalisation
from thrifty.data.prepare import Prepared, prepare
from thrifty.data.store import open_store
from thrifty.errors import ThriftyError
from thrifty.model import Model, load_model, save_model
from thrifty.nets.baselines import scaled_filters, unet_parameters
from thrifty.nets.build import baseline_spec, build_network
from thrifty.preflight import validate
from thrifty.results import Run, Trial, open_run, read_jsonl, read_run
from thrifty.space.schema import load_space


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(small_study(), Run(tmp_path_factory.mktemp("prepared")))


def fails(study: Study, prepared: Prepared) -> str:
    with pytest.raises(ThriftyError) as caught:
        validate(study, prepared, load_space(study.space))
    assert "\n" not in str(caught.value) and "study 'small'" in str(caught.value)
    return str(caught.value)


def outside_the_test_set(prepared: Prepared) -> int:
    return len({case.patient for case in prepared.store.cases if case.name not in prepared.splits.test})


def test_a_study_without_mistakes_gets_its_settings(prepared: Prepared) -> None:
    (setting,) = validate(small_study(), prepared, load_space("tiny"))
    assert setting.budget == 3000


def test_more_folds_than_patients_are_told(prepared: Prepared) -> None:
    patients = outside_the_test_set(prepared)
    assert validate(small_study({"folds": patients}), prepared, load_space("tiny"))
    text = fails(small_study({"folds": patients + 1}), prepared)
    assert f"retrain.folds is {patients + 1}, but there are only {patients} patients outside the test set" in text


def test_a_budget_below_the_smallest_scaled_unet_is_told(prepared: Prepared) -> None:
    store = prepared.store
    smallest = unet_parameters(store.channels, store.classes, (1, 1, 1, 1, 1))
    budgets = [{"parameters": smallest - 1, "width": 4, "levels": 2}]
    text = fails(small_study(budgets=budgets), prepared)
    assert "too small for a scaled U-Net" in text and f"{smallest:,}" in text
    with pytest.raises(ThriftyError):
        scaled_filters(smallest - 1, store.channels, store.classes)
    assert "scaled U-Net" not in fails(small_study({"baselines": [], "folds": 99}, budgets=budgets), prepared)


def test_a_gpu_that_is_not_there_is_told(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    study = small_study(resources={"device": "cuda", "gpus_per_trial": 1})
    monkeypatch.setattr("thrifty.preflight.gpus", list)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert "resources.device is cuda, but torch sees no GPU here" in fails(study, prepared)
    monkeypatch.setenv("RAY_ADDRESS", "cluster:6379")
    assert validate(study, prepared, load_space("tiny"))
    assert "gpus_per_trial is 0" in fails(small_study(resources={"device": "cuda"}), prepared)


@pytest.mark.parametrize(
    ("patch", "batch", "baselines", "told"),
    [
        (4, 1, [], ["search", "retrain"]),
        (4, 2, [], []),
        (5, 1, [], []),
        (5, 1, ["unet"], ["retrain"]),
        (16, 1, ["unet"], ["retrain"]),
        (17, 1, ["unet"], []),
        ([3, 17], 1, ["unet"], []),
    ],
)
def test_batches_too_small_for_batch_normalisation_are_told(
    prepared: Prepared, patch: object, batch: int, baselines: list[str], told: list[str]
) -> None:
    """What is told is what torch refuses: a channel with one value."""
    recipe, budgets = {"batch": batch, "baselines": baselines}, [{"parameters": 3000, "levels": 2}]
    study = small_study(recipe, budgets=budgets, data={"patch": patch}, search={"batch": batch})
    if told:
        text = fails(study, prepared)
        assert [stage for stage in ("search", "retrain") if f"{stage}.batch is 1" in text] == told
    else:
        assert validate(study, prepared, load_space("tiny"))
    rows, columns = study.data.patch_size
    padded = [-(-size // 16) * 16 for size in (rows, columns)]
    if "unet" in baselines:
        network, images = build_network(baseline_spec("scaled_unet", 1, 2, 3000)), torch.randn(batch, 1, *padded)
        if "retrain" in told:
            with pytest.raises(ValueError, match="more than 1 value per channel"):
                network(images)
        else:
            network(images)


def test_several_mistakes_are_told_at_once(prepared: Prepared) -> None:
    text = fails(small_study({"folds": 99}, budgets=[40]), prepared)
    assert "3 mistakes" in text and "folds" in text and "smallest network" in text and "scaled U-Net" in text


@pytest.mark.parametrize("text", ["a: [\n", "- a\n", "\x00"])
def test_a_damaged_run_yaml_is_one_line(tmp_path: Path, text: str) -> None:
    study = small_study()
    run = open_run(tmp_path / "run", study)
    run.study.write_text(text)
    for use in (lambda: open_run(run.root, study), lambda: read_run(run.root)):
        with pytest.raises(ThriftyError, match=r"run\.yaml") as caught:
            use()
        assert "\n" not in str(caught.value)


def test_a_file_in_place_of_the_run_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(ThriftyError, match="run is a file, where the run folder should be"):
        open_run(tmp_path / "run", small_study())


def test_only_genotypes_may_lie_in_a_new_run_folder(tmp_path: Path) -> None:
    (tmp_path / "genotype_3000.json").write_text("{}")
    open_run(tmp_path, small_study())
    (tmp_path / "run.yaml").unlink()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ThriftyError, match=r"not empty and holds no run\.yaml"):
        open_run(tmp_path, small_study())


@pytest.mark.parametrize("text", ['{"a": 1}\n{"a": \n', '{"a": 1}\n[1]\n', "\xff"])
def test_damaged_lines_of_json_are_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ThriftyError, match=r"rows\.jsonl cannot be read as lines of JSON") as caught:
        read_jsonl(path)
    assert "\n" not in str(caught.value)
    path.write_text('{"a": 1}\n\n{"a": 2}\n')
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}] and read_jsonl(tmp_path / "absent.jsonl") == []


@pytest.mark.parametrize("key", ["network", "normalisation", "labels", "patch"])
def test_a_model_json_without_a_key_is_one_line(tmp_path: Path, key: str) -> None:
    spec, trial = baseline_spec("scaled_unet", 1, 2, 5000), Trial(tmp_path)
    save_model(trial, Model(spec, Normalisation("case"), ("background", "a"), (32, 32)), build_network(spec).state_dict())
    whole = json.loads(trial.model.read_text())
    for value in ({k: v for k, v in whole.items() if k != key}, {**whole, key: 7}, {**whole, key: None}):
        trial.model.write_text(json.dumps(value))
        with pytest.raises(ThriftyError, match=r"model\.json") as caught:
            load_model(trial, torch.device("cpu"))
        assert "\n" not in str(caught.value)


def change(path: Path, key: str) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), key: None}))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda store: (store / "images.bin").unlink(), "images.bin"),
        (lambda store: (store / "masks.bin").write_bytes(b""), "masks.bin"),
        (lambda store: (store / "images.bin").write_bytes(b"abc"), "data"),
        (lambda store: change(store / "index.json", "cases"), "index.json"),
        (lambda store: change(store / "index.json", "schema"), "index.json"),
        (lambda store: (store / "index.json").write_text("[]"), "index.json"),
        (lambda store: (store / "index.json").write_text("{"), "index.json"),
    ],
)
def test_a_store_with_a_damaged_part_is_one_line(damage: Callable[[Path], object], named: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        prepare(small_study(), run)
        damage(run.data)
        for use in (lambda: open_store(run.data), lambda: prepare(small_study(), run)):
            with pytest.raises(ThriftyError, match=named) as caught:
                use()
            assert "\n" not in str(caught.value)
