"""Retraining: resumed bit for bit, the best epoch kept, the same recipe for all, and stopped where the loss is no number."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.small_study import BUDGET, DATA, run_here, small_run, small_study
from thrifty import retrain, scratch
from thrifty.data.prepare import open_prepared
from thrifty.data.splits import fold
from thrifty.errors import ThriftyError
from thrifty.inference import mean_dice, predict_cases
from thrifty.model import load_model
from thrifty.nets.build import build_network
from thrifty.networks import read_networks, trial_arguments, trial_name
from thrifty.postprocess import Postprocess
from thrifty.results import Run, Trial, read_json, read_jsonl, write_text
from thrifty.train import cosine

FOUND = f"found_{BUDGET}"
KEY = (FOUND, 0, None)
CPU = torch.device("cpu")


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return small_run(tmp_path_factory.mktemp("runs"), small_study())


@pytest.fixture(autouse=True)
def _no_trials_left(run: Run) -> Iterator[None]:
    yield
    for name in read_networks(run):
        shutil.rmtree(run.retrain / name, ignore_errors=True)


def train(run: Run, key=KEY, study=None, report=lambda row: None) -> Trial:
    trial = run.retrain_trial(*key)
    retrain.retrain_trial(trial_arguments(study or small_study(), run, key), trial, report)
    return trial


def outcome(trial: Trial) -> tuple[dict, list, dict]:
    """Weights, record and result apart from the clock."""
    record = [{k: v for k, v in row.items() if k != "seconds"} for row in read_jsonl(trial.record)]
    result = {k: v for k, v in read_json(trial.result).items() if k != "seconds"}
    return load_file(trial.weights), record, result


@pytest.mark.parametrize(("network", "stops"), [(FOUND, range(3)), (f"scaled_unet_{BUDGET}", [1])])
def test_stopped_after_any_epoch_and_resumed_is_bit_for_bit_the_same(run: Run, network: str, stops) -> None:
    key = (network, 1, None)
    weights, record, result = outcome(train(run, key))
    assert len(record) == 3
    for last in stops:
        shutil.rmtree(run.retrain_trial(*key).folder)

        def stop(row: dict, last: int = last) -> None:
            if row["epoch"] == last:
                raise Stopped

        with pytest.raises(Stopped):
            train(run, key, report=stop)
        assert not run.retrain_trial(*key).done
        again = outcome(train(run, key))
        assert again[0].keys() == weights.keys()
        assert all(torch.equal(again[0][name], weights[name]) for name in weights)
        assert again[1:] == (record, result)


def test_seeds_give_different_networks_and_the_same_seed_the_same(run: Run) -> None:
    first, second = (load_file(train(run, (FOUND, seed, None)).weights) for seed in (0, 1))
    shutil.rmtree(run.retrain_trial(FOUND, 0).folder)
    again = load_file(train(run).weights)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_result_tells_what_was_trained(run: Run) -> None:
    trial = train(run)
    result, spec = read_json(trial.result), read_networks(run)[FOUND]
    assert result["trial"] == trial_name(run, KEY) == f"{FOUND}/seed_0"
    assert (result["network"], result["kind"], result["budget"]) == (FOUND, "genotype", BUDGET)
    assert result["parameters"] == spec.parameters <= BUDGET
    assert (result["seed"], result["fold"], result["epochs"], result["steps"]) == (0, None, 3, 6)
    assert (result["cpus"], result["gpus"]) == (1, 0.0)
    assert result["seconds"] == pytest.approx(sum(row["seconds"] for row in read_jsonl(trial.record)))
    assert not trial.checkpoint.exists()


def test_selection_cases_are_looked_at_every_second_epoch_and_at_the_end(run: Run) -> None:
    record = read_jsonl(train(run).record)
    assert [row["dice"] is not None for row in record] == [False, True, True]
    assert all(row["loss"] > 0 for row in record)


def test_kept_weights_are_those_of_the_best_epoch(run: Run) -> None:
    trial = train(run)
    result, record = read_json(trial.result), read_jsonl(trial.record)
    best = max((row for row in record if row["dice"] is not None), key=lambda row: row["dice"])
    assert (result["dice"], result["best_epoch"]) == (best["dice"], best["epoch"])
    network, model = load_model(trial, CPU)
    prepared = open_prepared(run)
    selection = prepared.store.indices(prepared.splits.selection)
    dice = mean_dice(network, prepared.store, selection, model.normalisation, small_study().evaluate, CPU)
    assert dice == pytest.approx(best["dice"], abs=1e-12)
    assert model.labels == prepared.store.labels and model.patch == (32, 32)


def test_post_processing_is_decided_on_the_selection_cases_by_the_kept_weights(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def choose(pairs, classes: int) -> Postprocess:
        seen.extend(pairs)
        return Postprocess(largest=True, dice={"none": 0.25, "largest": 0.5})

    monkeypatch.setattr(retrain, "choose", choose)
    trial = train(run)
    network, model = load_model(trial, CPU)
    assert model.postprocess.name == "largest" and read_json(trial.result)["postprocess"] == model.postprocess.as_json()
    prepared = open_prepared(run)
    indices = prepared.store.indices(prepared.splits.selection)
    found = dict(predict_cases(network, prepared.store, indices, model.normalisation, small_study().evaluate, CPU))
    assert len(seen) == len(indices)
    for (index, labels), (given, truth) in zip(found.items(), seen, strict=True):
        assert (given == labels).all() and (truth == prepared.store.mask(index)).all()


def test_of_equally_good_epochs_the_first_is_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "mean_dice", lambda *arguments: 0.5)
    assert read_json(train(run).result)["best_epoch"] == 1


def test_best_weights_survive_a_resume(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(row: dict) -> None:
        if row["epoch"] == 1:
            raise Stopped

    monkeypatch.setattr(scratch, "mean_dice", lambda *arguments: 0.9)
    with pytest.raises(Stopped):
        train(run, report=stop)
    best = torch.load(run.retrain_trial(*KEY).checkpoint, weights_only=True)["trainee"]["best"]["weights"]
    monkeypatch.setattr(scratch, "mean_dice", lambda *arguments: 0.1)
    weights, _, result = outcome(train(run))
    assert (result["dice"], result["best_epoch"]) == (0.9, 1)
    assert all(torch.equal(weights[name], best[name]) for name in weights)


def test_learning_rate_is_a_cosine_over_all_steps(run: Run) -> None:
    record, settings = read_jsonl(train(run).record), small_study().retrain
    expected = [settings.optimiser.lr * cosine(epoch * 2 + 1, 6) for epoch in range(3)]
    assert [row["lr"] for row in record] == pytest.approx(expected)


def trainee(run: Run, study=None, key=KEY) -> scratch.ScratchTraining:
    study = study or small_study()
    prepared = open_prepared(run)
    torch.manual_seed(0)
    network = build_network(read_networks(run)[key[0]])
    return scratch.make_trainee(network, study, prepared, retrain.splits_of_fold(study, prepared, key[2]), 0, CPU)


def test_training_sees_weights_and_architecture_cases_and_never_the_test(run: Run) -> None:
    made, prepared = trainee(run), open_prepared(run)
    splits, indices = prepared.splits, prepared.store.indices
    assert set(made.batches.indices) == set(indices(splits.weights)) | set(indices(splits.architecture))
    assert set(made.selection) == set(indices(splits.selection))
    assert not set(indices(splits.test)) & (set(made.batches.indices) | set(made.selection))


def test_all_networks_see_the_same_batches(run: Run) -> None:
    one, other = trainee(run), trainee(run, key=(f"scaled_unet_{BUDGET}", 0, None))
    for a, b in zip(one.batches.draw(2, 1), other.batches.draw(2, 1), strict=True):
        assert torch.equal(a, b)


def test_every_parameter_is_trained_and_gradients_are_clipped(run: Run) -> None:
    made = trainee(
        run, small_study(recipe={"optimiser": {"name": "sgd", "lr": 1.0, "momentum": 0, "weight_decay": 0, "clip": 0.01}})
    )
    owned = {id(p) for group in made.optimiser.param_groups for p in group["params"]}
    assert owned == {id(p) for p in made.network.parameters()}
    before = [p.detach().clone() for p in made.network.parameters()]
    made._step(0, 0)
    moved = [(p.detach() - q).norm() for p, q in zip(made.network.parameters(), before, strict=True)]
    assert float(torch.stack(moved).norm()) == pytest.approx(0.01, rel=1e-3)


def test_loss_that_is_no_number_stops_with_epoch_and_step(run: Run) -> None:
    made = trainee(run)
    with torch.no_grad():
        next(made.network.parameters()).fill_(float("nan"))
    with pytest.raises(ThriftyError, match=r"loss became nan in epoch 4, step 0; lower retrain.optimiser.lr \(now 0.003\)"):
        made.epoch(4)


def test_patch_that_is_no_multiple_of_the_stride_is_padded(run: Run) -> None:
    """The scaled U-Net takes multiples of 16 only."""
    made = trainee(run, small_study(data=DATA | {"patch": [20, 36]}), (f"scaled_unet_{BUDGET}", 0, None))
    assert made.batches.draw(0, 0)[0].shape[-2:] == (20, 36)
    assert made.epoch(0)["loss"] > 0


def test_batch_too_small_for_its_normalisation_is_refused(run: Run) -> None:
    study = small_study(recipe={"batch": 1}, data=DATA | {"patch": 16})
    made = trainee(run, study, (f"scaled_unet_{BUDGET}", 0, None))
    with pytest.raises(ThriftyError, match=r"a batch of 1 patches of 16x16 .* raise retrain.batch or data.patch"):
        made.epoch(0)


def test_folds_hold_out_other_patients_and_lock_the_test_set(run: Run) -> None:
    study, prepared = small_study(recipe={"folds": 3}), open_prepared(run)
    held = []
    for number in range(3):
        made = trainee(run, study, (FOUND, 0, number))
        expected = fold(prepared.splits, prepared.store, number, 3, study.data.split_seed)
        assert made.selection == prepared.store.indices(expected.selection)
        assert not set(made.selection) & set(made.batches.indices)
        held += made.selection
    test = set(prepared.store.indices(prepared.splits.test))
    assert sorted(held) == sorted(set(range(len(prepared.store.cases))) - test)


def test_stage_trains_all_networks_and_skips_what_is_done(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from thrifty import trials

    monkeypatch.setattr(trials, "run_trials", run_here)
    study = small_study(recipe={"epochs": 1, "steps": 1, "seeds": [3]})
    other = Run(run.root.parent / "stage")
    shutil.copytree(run.root, other.root)
    other.study.unlink()
    from thrifty.results import open_run

    shutil.rmtree(other.root / "retrain")
    write_text(other.study, json.dumps(study.model_dump(mode="json")))
    assert open_run(other.root, study) == other
    retrain.run_stage(study, other)
    names = [f"found_{BUDGET}", f"random_{BUDGET}_0", f"scaled_unet_{BUDGET}"]
    assert list(read_networks(other)) == names
    times = {name: other.retrain_trial(name, 3).result.stat().st_mtime_ns for name in names}
    retrain.run_stage(study, other)
    assert {name: other.retrain_trial(name, 3).result.stat().st_mtime_ns for name in names} == times


def test_stage_without_genotype_says_what_to_do(tmp_path: Path) -> None:
    study = small_study()
    run = small_run(tmp_path, study)
    run.genotype(BUDGET).unlink()
    run.networks.unlink()
    with pytest.raises(ThriftyError, match=r"`thrifty select STUDY.yaml` chooses one"):
        retrain.run_stage(study, run)
    assert not run.networks.exists()


def rows(*dice: float | None) -> list[dict]:
    return [{"epoch": epoch, "dice": value} for epoch, value in enumerate(dice)]


@pytest.mark.parametrize(
    ("record", "improving"),
    [
        (rows(0.5, 0.6, 0.7, 0.706), True),
        (rows(0.5, 0.6, 0.7, 0.705), False),
        (rows(0.5, 0.9, 0.7, 0.8), False),
        (rows(None, 0.5, None, None, None, None, 0.506, 0.3), True),
        (rows(None, 0.5, None, None, None, 0.6, None, 0.602), False),
        (rows(None, None, None, 0.8), True),
    ],
)
def test_still_improving_rule(record: list[dict], improving: bool) -> None:
    assert retrain.still_improving(record) is improving
