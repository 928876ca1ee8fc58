"""Fine-tuning: it begins as the trained network, where that fits, and gets somewhere sooner than from scratch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.small_models import small_model
from tests.small_study import DATA, run_here, small_study
from thrifty import evaluate, retrain, trials
from thrifty.cli import main
from thrifty.data.prepare import open_prepared, prepare
from thrifty.errors import ThriftyError
from thrifty.inference import predict_cases
from thrifty.model import load_model, weights_hash
from thrifty.nets.build import build_network
from thrifty.networks import planned_networks, trial_arguments, write_networks
from thrifty.results import Run, Trial, open_run, read_json
from thrifty.start import adapted, begin, keep_start, read_start

CPU = torch.device("cpu")
LONG = {"epochs": 6, "steps": 15, "batch": 4, "validate_every": 1, "seeds": 1, "random": 0, "baselines": []}
LONG |= {"optimiser": {"lr": 0.03}}
SHORT = LONG | {"epochs": 1, "steps": 4, "optimiser": {"lr": 0.003}}
PLAIN = {"patch": 32, "foreground": 1.0, "augment": {"flip": 0, "affine": 0, "intensity": 0, "noise": 0}}
SEEN, NEW = (PLAIN | {"phantoms": {"cases": 16, "patients": 16, "size": 32, "classes": 2, "seed": k}} for k in (1, 2))


def started(folder: Path, start: Path, **values) -> tuple[object, Run]:
    study = small_study(**values)
    run = open_run(folder, study)
    prepare(study, run)
    keep_start(run, start)
    return study, run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that has learnt phantoms."""
    folder = tmp_path_factory.mktemp("trained")
    study, run = started(folder / "run", small_model(folder / "random", classes=2), recipe=LONG, data=SEEN)
    write_networks(run, planned_networks(study, run, open_prepared(run).store))
    key = ("from_scratch", 0, None)
    retrain.retrain_trial(trial_arguments(study, run, key), run.retrain_trial(*key), lambda row: None)
    return run.retrain_trial(*key).folder


def test_before_its_first_step_it_predicts_what_the_trained_network_predicts(trained: Path, tmp_path: Path) -> None:
    study, run = started(tmp_path / "run", trained, recipe=SHORT, data=SEEN)
    prepared = open_prepared(run)
    write_networks(run, planned_networks(study, run, prepared.store))
    start = read_start(run)
    network = build_network(start.specs(1, 2)[0])
    told = begin(network, start)
    assert told == {"network": "from_scratch", "weights_sha256": weights_hash(Trial(trained)), "fresh": []}
    before, model = load_model(Trial(trained), CPU)
    indices = prepared.store.indices(prepared.splits.test)
    pair = [predict_cases(n, prepared.store, indices, model.normalisation, study.evaluate, CPU) for n in (before, network)]
    for (one, labels), (other, again) in zip(*pair, strict=True):
        assert one == other
        np.testing.assert_array_equal(labels, again)
    images = torch.randn(1, 1, 32, 32)
    assert torch.equal(before.eval()(images), network.eval()(images))


def test_after_few_steps_on_new_phantoms_it_is_ahead_of_the_same_network_from_scratch(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, run = started(tmp_path / "run", trained, recipe=SHORT, data=NEW)
    monkeypatch.setattr(trials, "run_trials", run_here)
    retrain.run_stage(study, run)
    evaluate.run_stage(study, run)
    tuned, scratch = read_json(run.summary)["networks"]
    assert (tuned["name"], scratch["name"]) == ("finetuned", "from_scratch")
    assert tuned["parameters"] == scratch["parameters"] and tuned["budget"] is None
    assert tuned["dice"]["mean"] > scratch["dice"]["mean"] + 0.1
    results = [read_json(run.retrain_trial(name, 0).result) for name in ("finetuned", "from_scratch")]
    assert results[0]["steps"] == results[1]["steps"] == 4
    assert results[0]["start"]["weights_sha256"] == weights_hash(Trial(trained)) and results[1]["start"] is None
    before = run.retrain_trial("finetuned", 0).result.read_bytes()
    keep_start(run, trained)
    retrain.run_stage(study, run)
    assert run.retrain_trial("finetuned", 0).result.read_bytes() == before
    with pytest.raises(ThriftyError, match="started from other weights"):
        keep_start(run, small_model(tmp_path / "other", classes=2))


@pytest.mark.parametrize("kind", ["genotype", "unet"])
def test_other_channels_and_classes_begin_afresh_and_only_those(tmp_path: Path, kind: str) -> None:
    from thrifty.nets.build import baseline_spec
    from thrifty.start import Start

    folder = small_model(tmp_path / "m")
    network, model = load_model(Trial(folder), CPU)
    if kind == "unet":
        from dataclasses import replace

        model = replace(model, network=baseline_spec("scaled_unet", 1, 3, 5_000))
        network = build_network(model.network)
    start = Start(model, network.state_dict(), "0")
    names = list(network.state_dict())
    for channels, classes, fresh in (
        (1, 3, set()),
        (3, 3, {names[0]}),
        (1, 5, {n for n in names if "classifier" in n or "head." in n}),
    ):
        other = build_network(adapted(model.network, "finetuned", channels, classes))
        fresh = {n for n in fresh if not n.startswith("cells.") and not n.startswith("inputs.")}
        assert set(begin(other, start)["fresh"]) == fresh
        kept = [n for n in names if n not in fresh]
        assert all(torch.equal(other.state_dict()[n], network.state_dict()[n]) for n in kept)
        assert other(torch.zeros(2, channels, 32, 32)).shape[1] == classes


def test_no_trained_network_is_one_line_and_leaves_nothing(
    tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump({"name": "a", "space": "tiny", "budgets": 6000, "data": DATA}))
    with pytest.raises(SystemExit) as ended:
        main(["retrain", str(file), "retrain.baselines=[]", "--from", str(tmp_path)])
    assert ended.value.code == 2 and "there is no model.json" in capsys.readouterr().err
    assert not results.exists()
