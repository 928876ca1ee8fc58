"""Distillation: the loss against its formula, teachers that stay as they are, and trainings with one, resumed bit for bit."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import rel_entr, softmax

from tests.small_study import BUDGET, RECIPE, small_run, small_study
from thrifty import retrain
from thrifty.config import Retrain, Study
from thrifty.data.normalise import Normalisation
from thrifty.data.prepare import open_prepared, training_normalisation
from thrifty.distil import Teacher, check_teacher, load_teacher, soft_loss, trained_in
from thrifty.errors import ThriftyError
from thrifty.model import weights_hash
from thrifty.networks import read_networks, trial_arguments, trial_keys
from thrifty.results import Run, Trial, read_json, read_jsonl, write_json
from thrifty.scratch import ScratchTraining, make_trainee

FOUND, TAUGHT = f"found_{BUDGET}", f"distilled_{BUDGET}"
CPU = torch.device("cpu")
BY_FOUND = {"teacher": "found", "teacher_weight": 0.25, "teacher_temperature": 2.0}


def logits(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_soft_loss_is_the_squared_temperature_times_the_divergence_of_the_softened() -> None:
    student, teacher, temperature = logits(0, 2, 3, 4, 5), logits(1, 2, 3, 4, 5), 2.5
    p, q = (softmax(z.numpy().astype(np.float64) / temperature, axis=1) for z in (teacher, student))
    expected = temperature**2 * rel_entr(p, q).sum() / (2 * 4 * 5)
    found = soft_loss(student, (teacher / temperature).softmax(dim=1), temperature)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert float(soft_loss(teacher, (teacher / temperature).softmax(dim=1), temperature)) == pytest.approx(0, abs=1e-6)


def test_at_a_high_temperature_the_gradient_is_that_of_matching_logits() -> None:
    """Hinton 2015, eq. 4, with the factor T^2: (z - v) / classes, for logits whose mean is 0."""
    v, z = (x - x.mean(dim=1, keepdim=True) for x in (logits(2, 1, 4, 1, 1).double(), logits(3, 1, 4, 1, 1).double()))
    z.requires_grad_()
    soft_loss(z, (v / 1e4).softmax(dim=1), 1e4).backward()
    assert torch.allclose(z.grad, (z.detach() - v) / 4, atol=1e-3)


class Fixed(torch.nn.Module):
    """Gives the same logits for every image, and tells its mode."""

    stride = 1

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = torch.nn.Parameter(torch.tensor(values))
        self.modes: list[bool] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.modes.append(self.training)
        return self.values[None, :, None, None].expand(len(images), -1, *images.shape[-2:])


def test_several_networks_teach_the_mean_of_their_softened_probabilities() -> None:
    networks = (Fixed([0.0, 2.0]), Fixed([0.0, -6.0]))
    teacher = Teacher("two", networks, ("", ""), 0.25, 2.0)
    soft = teacher.soften(torch.zeros(3, 1, 4, 4))
    expected = (1 / (1 + np.exp(-1.0)) + 1 / (1 + np.exp(3.0))) / 2
    assert soft.shape == (3, 2, 4, 4) and not soft.requires_grad
    assert torch.allclose(soft[:, 1], torch.tensor(expected, dtype=torch.float32))
    assert [n.modes for n in networks] == [[False], [False]]
    student = logits(4, 3, 2, 4, 4)
    expected = 0.75 * 8.0 + 0.25 * float(soft_loss(student, soft, 2.0))
    assert float(teacher.blend(torch.tensor(8.0), student, torch.zeros(3, 1, 4, 4))) == pytest.approx(expected)


@pytest.fixture(scope="module")
def study() -> Study:
    return small_study(recipe=BY_FOUND)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, study: Study) -> Run:
    """The found network is trained with both seeds, the distilled one is still to come."""
    run = small_run(tmp_path_factory.mktemp("runs"), study)
    for seed in study.retrain_seeds:
        train(run, study, (FOUND, seed, None))
    return run


def train(run: Run, study: Study, key, report=lambda row: None) -> Trial:
    trial = run.retrain_trial(*key)
    retrain.retrain_trial(trial_arguments(study, run, key), trial, report)
    return trial


class Stopped(Exception):
    pass


def test_with_a_teacher_stopped_and_resumed_is_bit_for_bit_the_same_and_tells_its_teacher(run: Run, study: Study) -> None:
    key = (TAUGHT, 0, None)

    def stop(row: dict) -> None:
        if row["epoch"] == 1:
            raise Stopped

    trial = train(run, study, key)
    weights, losses, result = load_file(trial.weights), [row["loss"] for row in read_jsonl(trial.record)], read_json(trial.result)
    shutil.rmtree(trial.folder)
    with pytest.raises(Stopped):
        train(run, study, key, stop)
    train(run, study, key)
    again = load_file(trial.weights)
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    assert [row["loss"] for row in read_jsonl(trial.record)] == losses
    hashes = [weights_hash(run.retrain_trial(FOUND, seed)) for seed in (0, 1)]
    expected = {"name": "found", "weights_sha256": hashes, "weight": 0.25, "temperature": 2.0}
    assert result["teacher"] == read_json(trial.result)["teacher"] == expected
    plain = run.retrain_trial(FOUND, 0)
    assert read_json(plain.result)["teacher"] is None
    assert read_jsonl(plain.record)[0]["loss"] != losses[0]
    different = {"network"}
    ours, theirs = read_json(trial.model), read_json(plain.model)
    assert {k: v for k, v in ours.items() if k not in different} == {k: v for k, v in theirs.items() if k not in different}
    assert ours["network"] == theirs["network"] | {"name": TAUGHT}


def test_resumed_with_a_teacher_whose_weights_have_changed_is_refused(run: Run, study: Study, tmp_path: Path) -> None:
    other, key = Run(tmp_path / "run"), (TAUGHT, 1, None)
    shutil.copytree(run.root, other.root)

    def stop(row: dict) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        train(other, study, key, stop)
    shutil.copy(other.retrain_trial(FOUND, 1).weights, other.retrain_trial(FOUND, 0).weights)
    with pytest.raises(ThriftyError, match="the teacher is not the one that this training began with"):
        train(other, study, key)


def taught(run: Run, study: Study, weight: float, name: str = FOUND) -> ScratchTraining:
    prepared = open_prepared(run)
    from thrifty.nets.build import build_network

    recipe = Retrain.model_validate(RECIPE | BY_FOUND | {"teacher_weight": weight})
    normalisation = training_normalisation(study, prepared.store, prepared.splits)
    teacher = load_teacher("x", [run.retrain_trial(name, 0)], prepared, normalisation, recipe, CPU)
    torch.manual_seed(0)
    network = build_network(read_networks(run)[FOUND])
    return make_trainee(network, study, prepared, prepared.splits, 0, CPU, teacher)


def test_a_step_teaches_the_student_and_leaves_the_teacher_as_it_is(run: Run, study: Study) -> None:
    made = taught(run, study, 1.0)
    assert made.teacher is not None
    teacher = made.teacher.networks[0]
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    images, _ = made.batches.draw(0, 0)
    with torch.no_grad():
        expected = soft_loss(made.network(images), (teacher(images) / 2.0).softmax(dim=1), 2.0)
    assert float(made._step(0, 0)) == pytest.approx(float(expected), rel=1e-4)
    assert not teacher.training and all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert {id(p) for p in made.parameters}.isdisjoint(id(p) for p in teacher.parameters())


def test_stage_trains_the_teachers_before_what_they_teach(run: Run, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    from thrifty import trials

    waves: list[set[str]] = []
    monkeypatch.setattr(trials, "run_trials", lambda stage, function, specs, *rest: waves.append({s.name for s in specs}))
    retrain.run_stage(study, run)
    others = (FOUND, f"random_{BUDGET}_0", f"scaled_unet_{BUDGET}")
    assert waves == [{f"{n}/seed_{s}" for n in others for s in (0, 1)}, {f"{TAUGHT}/seed_{s}" for s in (0, 1)}]
    assert len(trial_keys(study, list(read_networks(run)))) == 8


def test_without_a_teacher_there_is_one_wave_and_no_distilled_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from thrifty import trials

    plain, waves = small_study(), []
    run = small_run(tmp_path, plain)
    monkeypatch.setattr(trials, "run_trials", lambda stage, function, specs, *rest: waves.append(len(specs)))
    retrain.run_stage(plain, run)
    assert waves == [6] and TAUGHT not in read_networks(run)


def test_unet_teaches_the_student_of_its_own_seed_and_fold(run: Run) -> None:
    from thrifty.distil import teacher_trials

    study = small_study(recipe={"teacher": "unet", "baselines": ["unet"], "folds": 2})
    assert teacher_trials(study, run, (TAUGHT, 1, 0), BUDGET) == [run.retrain_trial("unet", 1, 0)]
    found = small_study(recipe=BY_FOUND | {"folds": 2})
    assert teacher_trials(found, run, (TAUGHT, 1, 0), BUDGET) == [run.retrain_trial(FOUND, seed, 0) for seed in (0, 1)]


def test_folder_of_one_model_or_of_its_seeds(run: Run, tmp_path: Path) -> None:
    folder = run.retrain / FOUND
    assert trained_in(folder / "seed_1") == [Trial(folder / "seed_1")]
    assert trained_in(folder) == [Trial(folder / "seed_0"), Trial(folder / "seed_1")]
    with pytest.raises(ThriftyError, match=rf"no trained network in {re.escape(str(tmp_path))} .* or none, unet, found"):
        trained_in(tmp_path)


def outside(run: Run, tmp_path: Path) -> tuple[Study, Run, Path]:
    """A study whose teacher is a copy of a trained network of `run`, in a run folder of its own."""
    other = Run(tmp_path / "teachers")
    shutil.copytree(run.retrain / FOUND, other.retrain / FOUND)
    shutil.copy(run.splits, other.splits)
    return small_study(recipe={"teacher": str(other.retrain / FOUND)}), other, other.retrain_trial(FOUND, 0).model


def test_folder_as_teacher_is_taken_where_all_fits(run: Run, tmp_path: Path) -> None:
    study, _, _ = outside(run, tmp_path)
    check_teacher(study, open_prepared(run))


def test_teacher_that_was_trained_on_test_cases_is_refused(run: Run, tmp_path: Path) -> None:
    study, other, _ = outside(run, tmp_path)
    splits = read_json(other.splits)
    write_json(other.splits, splits | {"test": splits["weights"], "weights": splits["test"]})
    with pytest.raises(ThriftyError, match=rf"trained with {len(splits['test'])} of the test cases of this study"):
        check_teacher(study, open_prepared(run))


def test_teacher_of_other_classes_or_normalisation_is_refused_before_the_first_trial(run: Run, tmp_path: Path) -> None:
    study, _, model = outside(run, tmp_path)
    prepared, good = open_prepared(run), read_json(model)
    mean = [value + 1 for value in good["normalisation"]["mean"]]
    write_json(model, good | {"normalisation": good["normalisation"] | {"mean": mean}})
    with pytest.raises(ThriftyError, match="sees images normalised otherwise than this study"):
        retrain.run_stage(study, small_run(tmp_path, study))
    write_json(model, good | {"normalisation": Normalisation("case").as_json()})
    with pytest.raises(ThriftyError, match=r"\(case there, dataset here"):
        check_teacher(study, prepared)
    four = small_study(
        recipe=study.retrain.model_dump(), data={"patch": 32, "phantoms": {"cases": 12, "patients": 8, "size": 32, "classes": 2}}
    )
    with pytest.raises(ThriftyError, match="is for 1 channels and 3 classes, the data has 1 and 2"):
        check_teacher(four, open_prepared(small_run(tmp_path, four)))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"teacher": "unet"}, "retrain.teacher is unet, but retrain.baselines has no unet"),
        ({"teacher": "there", "folds": 2}, "may have seen the cases that the 2 folds hold out; allowed with folds are none"),
        ({"teacher": "found", "teacher_weight": 0.0}, "teacher_weight"),
        ({"teacher": "found", "teacher_temperature": 0.0}, "teacher_temperature"),
    ],
)
def test_settings_that_cannot_be_are_refused(recipe: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_study(recipe=recipe)
