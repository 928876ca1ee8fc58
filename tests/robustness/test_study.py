"""Robustness in the stage `evaluate`: numbers that agree with others, nothing measured twice, and what may change."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage.io import imsave
from sklearn.metrics import f1_score

from tests.small_study import BUDGET, run_here, small_run, small_study
from thrifty import evaluate, report, retrain, trials
from thrifty.config import Study, parse
from thrifty.data.labels import IGNORED
from thrifty.data.prepare import open_prepared
from thrifty.errors import ThriftyError
from thrifty.networks import read_networks, trial_arguments, trial_keys
from thrifty.predictor import load
from thrifty.preflight import validate
from thrifty.results import Run, open_run, read_json, write_json
from thrifty.robustness.corruptions import CORRUPTIONS, worsened_image, worsened_mask
from thrifty.robustness.study import More
from thrifty.robustness.trial import some_cases
from thrifty.space.schema import load_space

RECIPE = {"epochs": 1, "steps": 20, "validate_every": 1, "random": 0, "optimiser": {"lr": 0.03}}
STUDY = small_study(RECIPE, evaluate={"corruption_cases": 2})
NAMES = [f"found_{BUDGET}", f"scaled_unet_{BUDGET}"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Two seeds of two networks, evaluated."""
    made = small_run(tmp_path_factory.mktemp("runs"), STUDY)
    for key in trial_keys(STUDY, list(read_networks(made))):
        retrain.retrain_trial(trial_arguments(STUDY, made, key), made.retrain_trial(*key), lambda row: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "run_trials", run_here)
        evaluate.run_stage(STUDY, made)
        yield made


def again(run: Run, **values: Any) -> dict[str, Any]:
    """The stage with other keys of `evaluate`; its summary of robustness."""
    changed = STUDY.evaluate.model_copy(update=values)
    evaluate.run_stage(STUDY.model_copy(update={"evaluate": changed}), run)
    return read_json(run.summary)["robustness"]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_undisturbed_dice_is_that_of_the_evaluation(run: Run) -> None:
    rows, plain = table(run.robustness_tables["corruptions"]), {}
    for row in table(run.per_case):
        plain[row["network"], row["seed"], row["case"], row["class"]] = float(row["dice"])
    undisturbed = [row for row in rows if row["corruption"] == "none"]
    assert {row["seed"] for row in rows} == {"0"}, "the first seed alone"
    assert len(undisturbed) == 2 * 2 * 2 and len(rows) == 31 * len(undisturbed), "networks, cases, classes"
    for row in undisturbed:
        assert float(row["dice"]) == plain[row["network"], "0", row["case"], row["class"]]


def test_worse_images_are_what_a_prediction_of_them_gives(run: Run) -> None:
    """By `thrifty predict`'s own path, and Dice by scikit-learn."""
    rows, store = table(run.robustness_tables["corruptions"]), open_prepared(run).store
    predictor, checked = load(run.retrain_trial(NAMES[0], 0).folder), 0
    case = rows[0]["case"]
    (index,) = store.indices([case])
    for corruption in CORRUPTIONS:
        strength = corruption.strengths[3]
        labels = predictor(worsened_image(corruption, store.image(index), strength, case)[0])
        truth = worsened_mask(corruption, store.mask(index), strength, case)
        kept = truth != IGNORED
        for row in rows:
            place = (row["network"], row["case"], row["corruption"], float(row["strength"]))
            if place == (NAMES[0], case, corruption.name, strength):
                pair = [mask[kept] == int(row["class"]) for mask in (truth, labels)]
                assert float(row["dice"]) == pytest.approx(f1_score(*pair, zero_division=1.0))
                checked += 1
    assert checked == 2 * len(CORRUPTIONS)


def test_summary_agrees_with_the_tables(run: Run) -> None:
    found, rows = read_json(run.summary)["robustness"], table(run.robustness_tables["corruptions"])
    for name in NAMES:
        mine = [row for row in rows if row["network"] == name]
        network = found["corruptions"]["networks"][name]
        worse = [float(row["dice"]) for row in mine if row["corruption"] != "none"]
        plain = [float(row["dice"]) for row in mine if row["corruption"] == "none"]
        assert found["corruptions"]["patients"] in (1, 2)
        assert network["mean"] == pytest.approx(np.mean(worse)) and network["undisturbed"] == pytest.approx(np.mean(plain))
        assert network["loss"] == (pytest.approx(1 - np.mean(worse) / np.mean(plain)) if any(plain) else None)
        blurred = [float(row["dice"]) for row in mine if (row["corruption"], row["strength"]) == ("blur", "3.0")]
        assert network["dice"]["blur"][-1] == pytest.approx(np.mean(blurred))
    assert found["corruptions"]["networks"][NAMES[0]]["undisturbed"] > 0.05, "a network that claims nothing shows nothing"
    (pair,) = found["corruptions"]["paired"]
    means = [found["corruptions"]["networks"][name]["mean"] for name in NAMES]
    assert (pair["found"], pair["against"], pair["difference"]) == (*NAMES, pytest.approx(means[0] - means[1]))
    surfaces = table(run.robustness_tables["surfaces"])
    assert {row["seed"] for row in surfaces} == {"0", "1"} and found["surfaces"]["unit"] == "px"
    store, prepared = open_prepared(run).store, open_prepared(run)
    pixels = sum(store.counted_pixels(i) for i in store.indices(prepared.splits.test))
    for name, values in found["calibration"].items():
        assert sum(one["pixels"] for one in values["curve"]) == pixels * 2 * 2, "two seeds, two classes"
        bins = [row for row in table(run.robustness_tables["calibration"]) if row["network"] == name]
        truth = sum(int(row["of_the_class"]) for row in bins)
        assert truth == 2 * sum(sum(store.places[i].class_pixels[1:]) for i in store.indices(prepared.splits.test))
    assert set(found["objects"]) == set(found["worst"]["networks"]) == set(NAMES) and found["subgroups"] == []


def test_worse_images_stay_where_the_first_seed_is_left_out(run: Run) -> None:
    keys = trial_keys(STUDY, NAMES)
    more = More(STUDY, run, open_prepared(run), keys).of([key for key in keys if key[1] == 1])
    rows = [row for key in more.keys for row in read_json(run.evaluate_trial(*key).result)["cases"]]
    found, whole = more.summary(rows, [], NAMES), read_json(run.summary)["robustness"]
    assert found["corruptions"] == whole["corruptions"] and found["calibration"] != whole["calibration"]
    alone = more.summary(rows, [], NAMES[:1])
    assert set(alone["worst"]["networks"]) == set(alone["corruptions"]["networks"]) == set(NAMES)
    assert alone["worst"]["paired"] == alone["corruptions"]["paired"] == [] and found["worst"]["paired"]


def test_nothing_is_measured_twice_and_what_changes_is_measured_anew(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {key: run.robustness_trial(*key).result for key in trial_keys(STUDY, NAMES)}
    before = {key: path.stat().st_mtime_ns for key, path in files.items()}
    with monkeypatch.context() as patch:
        patch.setattr("thrifty.robustness.trial.load_model", lambda *arguments: pytest.fail("a network was loaded"))
        again(run)
    assert {key: path.stat().st_mtime_ns for key, path in files.items()} == before
    first = (NAMES[0], 0, None)
    write_json(files[first], read_json(files[first]) | {"weights_sha256": "other"})
    stale = files[first].stat().st_mtime_ns
    again(run)
    after = {key: path.stat().st_mtime_ns for key, path in files.items()}
    assert after[first] != stale and all(after[key] == before[key] for key in files if key != first)
    again(run, corruption_cases=1)
    cheap = {key: path.stat().st_mtime_ns for key, path in files.items()}
    assert {key for key in files if cheap[key] != after[key]} == {(name, 0, None) for name in NAMES}, (
        "seed 1 sees no worse images"
    )
    again(run)


def test_switched_off_and_on(run: Run) -> None:
    found = again(run, robustness=False)
    assert (
        all(found[name] is None for name in ("corruptions", "objects", "surfaces", "calibration")) and found["worst"]["networks"]
    )
    assert not any(path.exists() for path in run.robustness_tables.values())
    assert again(run)["corruptions"] is not None and run.robustness_tables["objects"].is_file()


def test_keys_of_robustness_are_no_other_study_and_older_folders_are_read(run: Run, tmp_path: Path) -> None:
    import yaml

    values = yaml.safe_load(run.study.read_text())
    more = {"robustness": False, "transfer": "X", "nnunet": "y.json", "corruption_cases": 5, "surface_tolerance": 1.0}
    open_run(run.root, small_study(RECIPE, evaluate=more))
    with pytest.raises(ThriftyError, match=r"evaluate\.window was 512, now 64"):
        open_run(run.root, small_study(RECIPE, evaluate={"window": 64}))
    old = tmp_path / "run.yaml"
    for key in more:
        values["evaluate"].pop(key)
    old.write_text(yaml.safe_dump(values))
    open_run(tmp_path, STUDY)
    with pytest.raises(ThriftyError, match="surface_tolerance"):
        parse(Study, {"name": "a", "budgets": [1], "evaluate": {"surface_tolerance": 0}}, "test")


@pytest.fixture
def second(tmp_path: Path) -> Callable[..., Path]:
    """A folder of pictures like the phantoms: `channels` and `classes` with the background."""

    def write(channels: int = 1, classes: int = 3) -> Path:
        folder, random = tmp_path / f"set_{channels}_{classes}", np.random.default_rng(0)
        for name in ("images", "masks"):
            (folder / name).mkdir(parents=True)
        for k in range(5):
            mask = np.zeros((32, 40), np.uint8)
            for index in range(1, classes):
                mask[8 * index - 4 : 8 * index + 2, 4 : 30 - k] = index
            image = np.repeat((60 * mask + random.integers(0, 40, mask.shape))[..., None], channels, axis=2).astype(np.uint8)
            imsave(folder / "images" / f"c{k}.png", image.squeeze(), check_contrast=False)
            imsave(folder / "masks" / f"c{k}.png", mask, check_contrast=False)
        return folder

    return write


def test_a_second_data_set(run: Run, second: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = second()
    found = again(run, transfer=str(folder), robustness=False)["transfer"]
    assert (found["source"], found["cases"], found["patients"]) == (str(folder), 5, 5) and set(found["networks"]) == set(NAMES)
    assert [(row["found"], row["against"], row["patients"]) for row in found["paired"]] == [(*NAMES, 5)]
    from skimage.io import imread

    predictor, rows = load(run.retrain_trial(NAMES[0], 1).folder), table(run.robustness_tables["transfer"])
    mine = [row for row in rows if (row["network"], row["seed"], row["case"]) == (NAMES[0], "1", "c2")]
    labels, truth = predictor(imread(folder / "images" / "c2.png")), imread(folder / "masks" / "c2.png")
    for row in mine:
        pair = [mask.ravel() == int(row["class"]) for mask in (truth, labels)]
        assert float(row["dice"]) == pytest.approx(f1_score(*pair, zero_division=1.0))
    assert len(mine) == 2
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "evaluate_trial", lambda *arguments: pytest.fail("measured again"))
        again(run, transfer=str(folder), robustness=False)
    for channels, classes, words in ((3, 3, "3 channels, the networks were trained with 1"), (1, 4, "4 classes")):
        with pytest.raises(ThriftyError, match=words):
            again(run, transfer=str(second(channels, classes)), robustness=False)
    assert not run.transfer_data.exists()
    with pytest.raises(ThriftyError, match="nowhere"):
        again(run, transfer=str(folder / "nowhere"), robustness=False)
    elsewhere = small_study(RECIPE, evaluate={"transfer": str(folder / "nowhere")})
    with pytest.raises(ThriftyError, match=r"evaluate\.transfer: .*nowhere"):
        validate(elsewhere, open_prepared(run), load_space("tiny"))
    assert validate(small_study(RECIPE, evaluate={"transfer": str(folder)}), open_prepared(run), load_space("tiny"))


def test_results_of_nnunet_and_the_report(run: Run, tmp_path: Path) -> None:
    cases = [
        {"metrics": {str(k): {"Dice": 0.8 + 0.1 * (k == 2)} for k in (1, 2)}, "prediction_file": f"x/{name}.png"}
        for name in open_prepared(run).splits.test
    ]
    write_json(tmp_path / "summary.json", {"metric_per_case": cases})
    found = again(run, nnunet=str(tmp_path / "summary.json"))
    assert found["nnunet"]["dice"]["mean"] == pytest.approx(0.85) and found["nnunet"]["missing"] == []
    report.run_stage(STUDY, run)
    text = run.report.read_text(encoding="utf-8")
    assert "| nnU-Net (taken in, not trained here) | – | – | 0.8500 |" in text
    for heading in ("Worse images", "Worst patients", "Objects", "Surface distances", "Calibration", "nnU-Net"):
        assert f"\n### {heading}\n" in text
    for picture in ("robustness.svg", "reliability.svg"):
        assert f"]({picture})" in text and (run.report.parent / picture).is_file()
    assert "in pixels, as the spacing of the images is not known" in text
    write_json(tmp_path / "summary.json", {"metric_per_case": cases[1:]})
    assert again(run, nnunet=str(tmp_path / "summary.json"))["nnunet"]["missing"] == [open_prepared(run).splits.test[0]]


def test_the_chosen_cases_are_whole_patients_by_their_names_alone(run: Run) -> None:
    store = open_prepared(run).store
    every = list(range(len(store.cases)))
    for most in (1, 2, 4, 8):
        chosen = some_cases(store, every, most)
        assert len(chosen) <= most and chosen == sorted(some_cases(store, every[::-1], most)) if most > 1 else len(chosen) == 1
        patients = {store.cases[i].patient for i in chosen}
        whole = [i for i in every if store.cases[i].patient in patients]
        assert whole == chosen or len(whole) > most
    assert some_cases(store, every, 10**6) == every and some_cases(store, every, 0) == []


def test_kinds_of_real_ultrasound(real_data: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BUSI with its kinds (normal, benign, malignant) as a further column: each is a row of the report."""
    source, folder = real_data("BUSI"), tmp_path / "BUSI"
    folder.mkdir()
    for part in ("images", "masks"):
        (folder / part).symlink_to(source / part)
    owners = {row["case"]: row["patient"] for row in table(source / "groups.csv")}
    lines = [f"{case},{patient},{case.partition('_')[0]}" for case, patient in owners.items()]
    (folder / "groups.csv").write_text("\n".join(["case,patient,kind", *lines]))
    recipe = {"epochs": 1, "steps": 1, "validate_every": 1, "random": 0, "seeds": 1, "baselines": []}
    study = small_study(recipe, data={"source": str(folder), "patch": 32, "max_cases": 32}, evaluate={"robustness": False})
    made = small_run(tmp_path, study)
    key = (NAMES[0], 0, None)
    retrain.retrain_trial(trial_arguments(study, made, key), made.retrain_trial(*key), lambda row: None)
    monkeypatch.setattr(trials, "run_trials", run_here)
    evaluate.run_stage(study, made)
    (found,) = read_json(made.summary)["robustness"]["subgroups"]
    test, rows = set(open_prepared(made).splits.test), table(made.per_case)
    assert found["column"] == "kind" and sum(value["cases"] for value in found["values"]) == len(test)
    for value in found["values"]:
        mine = {row["patient"]: [] for row in rows if row["case"].startswith(value["value"])}
        for row in rows:
            if row["case"].startswith(value["value"]):
                mine[row["patient"]].append(float(row["dice"]))
        assert value["patients"] == len(mine)
        assert value["networks"][NAMES[0]]["dice"] == pytest.approx(np.mean([np.mean(dice) for dice in mine.values()]))
