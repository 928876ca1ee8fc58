"""Overlapping classes, ignored pixels and regions of interest through every stage, on a data set of two nested discs."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from small_search import SETTING, arguments

from tests.small_study import BUDGET, run_here, small_run, small_study
from thrifty import evaluate, preflight, report, retrain, trials
from thrifty.config import Study
from thrifty.data.labels import IGNORED
from thrifty.data.normalise import Normalisation
from thrifty.data.prepare import open_prepared
from thrifty.errors import ThriftyError
from thrifty.inference import labels_of, mean_dice, predict_cases
from thrifty.losses import loss_for
from thrifty.model import load_model, save_model
from thrifty.nets.build import build_network
from thrifty.networks import read_networks, trial_arguments, trial_keys
from thrifty.results import Run, open_run, read_json, read_jsonl, read_run
from thrifty.scoring import score
from thrifty.scratch import make_trainee
from thrifty.search.trial import make_search, search_trial
from thrifty.space.schema import load_space

RECIPE = {"epochs": 1, "steps": 1, "validate_every": 1, "seeds": 1, "random": 0, "baselines": ["scaled_unet"]}
SEARCH = {"epochs": 2, "steps": 1, "warmup": 1, "batch": 2}
SIZE = 32


def write_discs(folder: Path, secret: int = 0) -> Path:
    """Twelve cases; a third has no cup. Outside of the region of interest the masks say `secret`."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for part in ("images", "masks/cup", "masks/disc", "rois"):
        (folder / part).mkdir(parents=True)
    for k in range(12):
        rng = np.random.default_rng(k)
        distance = np.hypot(rows - rng.uniform(12, 20), columns - rng.uniform(12, 20))
        disc, cup = distance < 9, (distance < 5) & (k % 3 > 0)
        roi = columns < SIZE - 4
        image = 60 + 60 * disc + 60 * cup + rng.normal(0, 10, disc.shape)
        values = {"images": image, "masks/cup": np.where(roi, cup, secret), "masks/disc": np.where(roi, disc, secret)}
        for part, array in (values | {"rois": 255 * roi}).items():
            Image.fromarray(array.astype(np.uint8)).save(folder / part / f"case{k:02d}.png")
    return folder


def study_of(folder: Path, **values) -> Study:
    settings = {"data": {"source": str(folder), "patch": SIZE}, "recipe": RECIPE, "search": SEARCH}
    return small_study(**(settings | values))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Search, retraining, evaluation and report of one study."""
    folder = tmp_path_factory.mktemp("discs")
    study = study_of(write_discs(folder / "set"))
    run = small_run(folder, study)
    search_trial(arguments(run), run.search_trial("s"), lambda row: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "run_trials", run_here)
        for key in trial_keys(study, list(read_networks(run))):
            retrain.retrain_trial(trial_arguments(study, run, key), run.retrain_trial(*key), lambda row: None)
        evaluate.run_stage(study, run)
    report.run_stage(study, run)
    return run


def test_search_has_an_output_for_each_class_and_none_for_the_background(run: Run) -> None:
    found = read_json(run.search_trial("s").genotype)
    assert found["classes"] == 2
    record = read_jsonl(run.search_trial("s").record)
    assert all(0 <= row["dice_decoded"] <= 1 for row in record) and record[-1]["loss_architecture"] > 0
    item = {"run": str(run.root), "trials": ["s"], "genotype": found, "cpus": 1, "device": "cpu"}
    (value,) = score(item).dice
    assert 0 <= value <= 1


def test_trained_network_is_measured_class_by_class(run: Run) -> None:
    network, model = load_model(run.retrain_trial(f"found_{BUDGET}", 0), torch.device("cpu"))
    assert model.overlapping and model.labels == ("background", "cup", "disc") and model.network.classes == 2
    store, test = open_prepared(run).store, open_prepared(run).splits.test
    study = study_of(run.root)
    predicted = dict(predict_cases(network, store, store.indices(test), model.normalisation, study.evaluate, torch.device("cpu")))
    with run.per_case.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["network"] == f"found_{BUDGET}"]
    assert len(rows) == 2 * len(test)
    for row in rows:
        index = store.indices([row["case"]])[0]
        bit, mask = {"cup": 1, "disc": 2}[row["label"]], store.mask(index)
        kept = mask != IGNORED
        assert kept.sum() == SIZE * (SIZE - 4)
        assert int(row["truth_pixels"]) == ((mask & bit) > 0)[kept].sum()
        assert int(row["predicted_pixels"]) == ((predicted[index] & bit) > 0)[kept].sum()


def test_summary_and_report_say_that_classes_overlap(run: Run) -> None:
    summary = read_json(run.summary)
    assert summary["data"]["overlapping"] is True and summary["data"]["classes"] == 2
    text = run.report.read_text(encoding="utf-8")
    assert "2 overlapping classes (background, cup, disc)" in text
    empty = {net["name"]: net["false_positives"]["per_class"]["cup"] for net in summary["networks"]}
    store, test = open_prepared(run).store, open_prepared(run).splits.test
    without = sum(1 not in store.present(index) for index in store.indices(test))
    assert {value["empty_cases"] for value in empty.values()} == {without}
    assert ("## False positives on empty masks" in text) == (without > 0)
    assert (run.report.parent / f"cases_found_{BUDGET}.png").is_file()


def test_masks_outside_of_the_region_of_interest_reach_no_stage(run: Run, tmp_path: Path) -> None:
    """With other masks there the store is the same byte for byte, so that all that is made of it is too."""
    other = study_of(write_discs(tmp_path / "set", secret=1))
    twin = open_prepared(small_run(tmp_path, other)).store
    store = open_prepared(run).store
    assert twin.fingerprint == store.fingerprint and twin.masks.tobytes() == store.masks.tobytes()
    assert twin.places == store.places


class Claims(torch.nn.Module):
    """The same random logits for every image; those of the last four columns, which are outside, come from another seed."""

    stride = 1

    def __init__(self, outside: int) -> None:
        super().__init__()
        parts = [torch.Generator().manual_seed(seed) for seed in (1, outside)]
        inside, beyond = (torch.randn(1, 2, SIZE, SIZE, generator=part) for part in parts)
        self.logits = torch.cat([inside[..., : SIZE - 4], beyond[..., SIZE - 4 :]], dim=-1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(images), -1, -1, -1)


def test_claims_outside_of_the_region_of_interest_change_no_dice(run: Run) -> None:
    """What validation, selection and the end of a search go by."""
    store, settings, same = open_prepared(run).store, study_of(run.root).evaluate, Normalisation("case")
    arguments = (store, range(len(store.cases)), same, settings, torch.device("cpu"))
    first, second = (mean_dice(Claims(seed), *arguments) for seed in (2, 3))
    assert first == second and 0 < first < 1
    expected = []
    claimed = (Claims(2).logits[0, :, :, : SIZE - 4] > 0).numpy()
    for index in range(len(store.cases)):
        for k in (0, 1):
            truth = store.mask(index)[:, : SIZE - 4] // (k + 1) % 2
            total = truth.sum() + claimed[k].sum()
            expected.append(2 * (truth * claimed[k]).sum() / total)
    assert first == pytest.approx(np.mean(expected))


def test_labels_of_logits() -> None:
    logits = torch.tensor([[-1.0, 2.0], [3.0, -0.5], [0.1, 4.0]]).T.reshape(1, 2, 3, 1)
    assert labels_of(logits, overlapping=True).flatten().tolist() == [2, 1, 3]
    assert labels_of(logits).flatten().tolist() == [1, 0, 1] and labels_of(logits).dtype == torch.uint8
    assert labels_of(torch.tensor([-1.0, 1.0]).reshape(1, 1, 2, 1), overlapping=True).flatten().tolist() == [0, 1]


def test_model_remembers_regions_and_older_files_are_read(run: Run, tmp_path: Path) -> None:
    trial = run.retrain_trial(f"found_{BUDGET}", 0)
    network, model = load_model(trial, torch.device("cpu"))
    copy = Run(tmp_path).retrain_trial("copy", 0)
    changed = replace(model, overlapping=True, region_values=(3, 1))
    save_model(copy, changed, network.state_dict())
    assert load_model(copy, torch.device("cpu"))[1] == changed
    value = json.loads(copy.model.read_text())
    del value["overlapping"], value["region_values"]
    copy.model.write_text(json.dumps(value))
    old = load_model(copy, torch.device("cpu"))[1]
    assert (old.overlapping, old.region_values, old.labels) == (False, (), model.labels)


def test_one_region_is_trained_too(tmp_path: Path) -> None:
    folder = write_discs(tmp_path / "set")
    for path in sorted((folder / "masks" / "cup").iterdir()):
        path.unlink()
    (folder / "masks" / "cup").rmdir()
    study = study_of(folder, loss={"name": "tversky", "class_weights": [2]})
    run = small_run(tmp_path, study)
    spec = read_networks(run)[f"found_{BUDGET}"]
    assert spec.classes == 1 and build_network(spec)(torch.zeros(2, 1, 32, 32)).shape == (2, 1, 32, 32)
    key = (f"found_{BUDGET}", 0, None)
    retrain.retrain_trial(trial_arguments(study, run, key), run.retrain_trial(*key), lambda row: None)
    assert read_json(run.retrain_trial(*key).result)["dice"] >= 0


def test_searches_and_trainings_have_the_loss_of_the_study(run: Run) -> None:
    """And the balanced weights of the training cases alone."""
    prepared, cpu = open_prepared(run), torch.device("cpu")
    study = study_of(run.root, loss={"name": "focal", "class_weights": "balanced"})
    wanted = loss_for(study.loss, prepared.store, prepared.store.indices(prepared.splits.training))
    assert wanted is not loss_for(study.loss, prepared.store, prepared.store.indices(prepared.splits.test))
    search = make_search(study, load_space("tiny"), prepared, SETTING, 0, cpu)
    network = build_network(read_networks(run)[f"found_{BUDGET}"])
    assert search.data.loss is wanted and make_trainee(network, study, prepared, prepared.splits, 0, cpu).loss is wanted
    before = [parameter.detach().clone() for parameter in search.architecture.parameters()]
    assert search.weight_step(0, 0).isfinite() and search.architecture_step(0, 0).isfinite()
    assert any(not torch.equal(old, new) for old, new in zip(before, search.architecture.parameters(), strict=True))


def test_a_run_folder_of_an_older_version_goes_on(run: Run, tmp_path: Path) -> None:
    """Its run.yaml lacks the new keys, whose defaults are what it was run with; any other value is refused by name."""
    study = study_of(run.root)
    values = study.model_dump(mode="json")
    del values["loss"]
    for key in ("foreground_of", "ignore", "rois"):
        del values["data"][key]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    assert read_run(tmp_path)[0] == study and open_run(tmp_path, study).root == tmp_path
    with pytest.raises(ThriftyError, match=r"loss\.name was 'dice_ce', now 'ce'"):
        open_run(tmp_path, study_of(run.root, loss={"name": "ce"}))


def test_class_weights_are_looked_at_before_the_first_trial(run: Run) -> None:
    study = study_of(run.root, loss={"class_weights": [1, 2, 3]})
    with pytest.raises(ThriftyError, match="has 3 numbers, the data needs 2: one for each of cup, disc"):
        preflight.validate(study, open_prepared(run), load_space("tiny"))
