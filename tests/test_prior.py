"""Where a training begins: without features a network says how frequent the classes are, counted here from the masks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_study import BUDGET, small_run, small_study
from torch import nn

from thrifty.config import Loss
from thrifty.data.prepare import open_prepared
from thrifty.nets.build import baseline_spec, build_network
from thrifty.nets.derived import DerivedNetwork
from thrifty.nets.supernet import Supernet
from thrifty.prior import RAREST, begin_at_frequencies, first_logits
from thrifty.retrain import retrain_trial
from thrifty.search.setting import Setting
from thrifty.search.trial import make_search
from thrifty.space.cost import count
from thrifty.space.sample import random_genotype
from thrifty.space.schema import load_space

THRIFTY = load_space("thrifty")


def store_of(pixels: list[tuple[int, ...]], overlapping: bool = False, size: int = 100) -> SimpleNamespace:
    """Cases of so many pixels of each class; `size` pixels count in each."""
    places = [SimpleNamespace(class_pixels=one) for one in pixels]
    return SimpleNamespace(places=places, overlapping=overlapping, classes=len(pixels[0]), counted_pixels=lambda index: size)


def said(network: nn.Module, channels: int) -> list[float]:
    """The probabilities of a network whose last layer sees nothing."""
    last = network.classifier if hasattr(network, "classifier") else network.head
    nn.init.zeros_(last.weight)
    network.eval()
    with torch.no_grad():
        return network(torch.zeros(1, channels, 32, 32)).softmax(1).mean((0, 2, 3)).tolist()


def test_networks_begin_at_the_frequencies_of_the_training_cases(tmp_path: Path) -> None:
    prepared = open_prepared(small_run(tmp_path, small_study()))
    store = prepared.store
    training = store.indices(prepared.splits.training)
    ids = np.concatenate([store.mask(index).ravel() for index in training])
    wanted = np.bincount(ids, minlength=store.classes) / len(ids)
    assert wanted.min() > RAREST, "no floor here"
    genotype = random_genotype(THRIFTY, 8, 3, store.channels, store.classes, np.random.default_rng(0))
    specs = [baseline_spec(name, store.channels, store.classes, 9000) for name in ("unet", "unetpp", "scaled_unet")]
    for network in (DerivedNetwork(genotype), *map(build_network, specs)):
        begin_at_frequencies(network, Loss(), store, training)
        assert said(network, store.channels) == pytest.approx(wanted, abs=1e-6)
    everything = list(range(len(store.cases)))
    assert first_logits(Loss(), store, everything) != first_logits(Loss(), store, training), "only training cases count"


def test_rare_and_absent_classes_begin_at_the_floor() -> None:
    logits = np.exp(first_logits(Loss(), store_of([(9_990, 10, 0), (9_990, 10, 0)]), [0, 1]))
    assert logits.sum() == pytest.approx(1) and logits[1:] == pytest.approx(RAREST / (0.999 + 2 * RAREST))


def test_overlapping_classes_begin_at_their_own_share() -> None:
    store = store_of([(20, 40, 70), (0, 40, 60), (0, 0, 0)], overlapping=True)
    shares = 1 / (1 + np.exp(-np.array(first_logits(Loss(), store, [0, 1]))))
    assert shares == pytest.approx([80 / 200, 130 / 200])
    assert first_logits(Loss(), store, [2]) == pytest.approx([np.log(RAREST / (1 - RAREST))] * 2)


def test_class_weights_count_as_in_the_loss() -> None:
    pixels = [(70, 20, 10), (50, 40, 10)]
    assert first_logits(Loss(class_weights="balanced"), store_of(pixels), [0, 1]) == pytest.approx([np.log(1 / 3)] * 3)
    weighted = np.exp(first_logits(Loss(class_weights=(1, 2, 4)), store_of(pixels), [0, 1]))
    assert weighted == pytest.approx(np.array([120, 120, 80]) / 320)
    both = store_of([(0, 40, 70)], overlapping=True)
    assert first_logits(Loss(class_weights="balanced"), both, [0]) == pytest.approx([0, 0])


def test_a_last_layer_without_bias_stays_as_it_is() -> None:
    genotype = random_genotype(load_space("tiny"), 8, 3, 1, 3, np.random.default_rng(0))
    network = DerivedNetwork(genotype)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    begin_at_frequencies(network, Loss(), store_of([(70, 20, 10)]), [0])
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert "classifier.bias" not in before


def test_bias_of_the_classifier_is_counted_and_built() -> None:
    genotype = random_genotype(THRIFTY, 8, 3, 1, 5, np.random.default_rng(0))
    network = DerivedNetwork(genotype)
    assert network.classifier.bias is not None and network.classifier.bias.tolist() == [0] * 5
    assert count(genotype) == sum(p.numel() for p in network.parameters())
    assert Supernet(THRIFTY, 8, 3, 1, 5).classifier.bias is not None


def test_searches_and_retrainings_begin_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = small_study({"epochs": 1, "optimiser": {"lr": 1e-12}})
    run = small_run(tmp_path, study)
    prepared = open_prepared(run)
    store = prepared.store
    wanted = first_logits(study.loss, store, store.indices(prepared.splits.training))
    search = make_search(study, THRIFTY, prepared, Setting(9000, 8, 3, 1), 0, torch.device("cpu"))
    assert search.supernet.classifier.bias.tolist() == pytest.approx(wanted)
    key = {"network": f"scaled_unet_{BUDGET}", "seed": 0, "fold": None}
    arguments = {"run": str(run.root), **key, **study.resources.as_arguments()}
    trial = run.retrain_trial(*key.values())
    retrain_trial(arguments, trial, lambda row: None)
    from safetensors.torch import load_file

    assert load_file(trial.weights)["head.bias"].tolist() == pytest.approx(wanted, abs=1e-6)
