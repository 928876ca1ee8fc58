"""A trained network on disk: there and back, and refused where the files do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from thrifty.data.normalise import Normalisation
from thrifty.errors import ThriftyError
from thrifty.model import Model, load_model, save_model, weights_hash
from thrifty.nets.build import baseline_spec, build_network
from thrifty.postprocess import Postprocess
from thrifty.results import Trial, read_json, write_json

CPU = torch.device("cpu")


def saved(folder: Path) -> tuple[Trial, Model, torch.nn.Module]:
    torch.manual_seed(0)
    spec = baseline_spec("scaled_unet", 1, 3, 5_000)
    network = build_network(spec)
    network(torch.randn(2, 1, 32, 32))  # moves the running statistics
    model = Model(spec, Normalisation("dataset", (1.0,), (2.0,), (-3.0,), (4.0,)), ("background", "a", "b"), (32, 48))
    save_model(Trial(folder), model, network.state_dict())
    return Trial(folder), model, network


def test_network_and_its_surroundings_come_back(tmp_path: Path) -> None:
    trial, model, network = saved(tmp_path)
    again, read = load_model(trial, CPU)
    assert read == model and not again.training
    images = torch.randn(1, 1, 16, 16)
    assert torch.equal(again(images), network.eval()(images))


def test_what_a_prediction_needs_comes_back_and_older_files_have_defaults(tmp_path: Path) -> None:
    trial, model, network = saved(tmp_path)
    full = replace(model, slice_axis=1, window=96, overlap=0.25, postprocess=Postprocess(largest=True, dice={"none": 0.5}))
    save_model(trial, full, network.state_dict())
    assert load_model(trial, CPU)[1] == full
    value = read_json(trial.model)
    for key in ("slice_axis", "window", "overlap", "postprocess"):
        del value[key]
    write_json(trial.model, value)
    assert load_model(trial, CPU)[1] == model


@pytest.mark.parametrize(("key", "wrong"), [("slice_axis", 3), ("overlap", 1.5), ("postprocess", {"largest": "yes"})])
def test_malformed_additions_are_refused(tmp_path: Path, key: str, wrong: object) -> None:
    trial, _, _ = saved(tmp_path)
    write_json(trial.model, read_json(trial.model) | {key: wrong})
    with pytest.raises(ThriftyError, match=r"model\.json"):
        load_model(trial, CPU)


def test_hash_follows_the_weights(tmp_path: Path) -> None:
    trial, model, network = saved(tmp_path)
    before = weights_hash(trial)
    save_model(trial, model, network.state_dict())
    assert weights_hash(trial) == before
    save_model(trial, model, {name: value + 1 for name, value in network.state_dict().items()})
    assert weights_hash(trial) != before


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:100])])
def test_missing_or_damaged_weights_are_refused(tmp_path: Path, damage) -> None:
    trial, _, _ = saved(tmp_path)
    damage(trial.weights)
    with pytest.raises(ThriftyError, match=r"weights.safetensors does not hold the weights of 'scaled_unet_5000'"):
        load_model(trial, CPU)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    trial, model, _ = saved(tmp_path)
    save_model(trial, model, build_network(baseline_spec("scaled_unet", 1, 3, 6_000)).state_dict())
    with pytest.raises(ThriftyError, match="does not hold the weights"):
        load_model(trial, CPU)


def test_other_schema_is_refused(tmp_path: Path) -> None:
    trial, _, _ = saved(tmp_path)
    trial.model.write_text('{"schema": 9}')
    with pytest.raises(ThriftyError, match="no model of schema version 1"):
        load_model(trial, CPU)
