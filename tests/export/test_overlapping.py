"""Networks of overlapping classes exported: their labels are those of `Predictor`, a label map by its rule or bit sets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_models import small_model, smallest_genotype

from thrifty.data.labels import IGNORED, label_map
from thrifty.export.bundle import write_bundle
from thrifty.export.card import Facts, Told, model_card
from thrifty.export.check import as_labels, reference
from thrifty.export.graph import session
from thrifty.export.pipeline import labels_of
from thrifty.export.quantise import label_dice
from thrifty.export.source import network_source
from thrifty.export.stage import export_model
from thrifty.predictor import load
from thrifty.results import read_json

RULES = {"regions": (3, 1), "wide": (7, 300), "sets": ()}


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).normal(100, 40, size=(21, 30)).astype(np.float32)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    root = tmp_path_factory.mktemp("regions")
    values = {"overlapping": True, "region_values": RULES["regions"]}
    model = small_model(root / "model", classes=2, genotype=smallest_genotype(classes=2), **values)
    export_model(model, root / "out", ["network", "pt2", "onnx"], probabilities=True)
    return SimpleNamespace(folder=root / "out", predictor=load(model, "cpu"))


def assert_as_predicted(predictor, image: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> None:
    expected = predictor(image)
    assert set(np.unique(expected)) >= {0, 1, 3} and labels.dtype == np.uint8
    np.testing.assert_array_equal(labels[0], expected)
    np.testing.assert_allclose(probabilities[0], predictor.probabilities(image), atol=1e-5)


def test_onnx(exported: SimpleNamespace, image: np.ndarray) -> None:
    running = session(exported.folder / "network.onnx")
    found = running.run(["labels", "probabilities"], {"pixels": image[None, None]})
    assert_as_predicted(exported.predictor, image, *found)
    assert "1 organ 2" in running.get_modelmeta().custom_metadata_map["meaning"]


def test_pt2_and_all_other_forms_were_compared_with_what_is_predicted(exported: SimpleNamespace, image: np.ndarray) -> None:
    """The export itself has run each form; here, that it compared them with the labels of `Predictor`."""
    (member,) = exported.predictor.members
    np.testing.assert_array_equal(reference(member.network, member.model)(image[None, None])[0], exported.predictor(image))
    checks = read_json(exported.folder / "export.json")["checks"]
    assert set(checks) == {"network.py", "network.pt2", "network.onnx"}
    assert all(found["pixels"] > 1000 and found["equal"] >= 0.9999 * found["pixels"] for found in checks.values())


@pytest.mark.parametrize("rule", RULES)
def test_network_py(tmp_path: Path, image: np.ndarray, rule: str) -> None:
    values = RULES[rule]
    predictor = load(small_model(tmp_path, classes=2, overlapping=True, region_values=values), "cpu")
    text = network_source(predictor.model, "0")
    names: dict = {"__name__": "network"}
    exec(compile(text, "network.py", "exec"), names)
    with torch.no_grad():
        labels, probabilities = names["load"](str(tmp_path / "weights.safetensors"), True)(torch.from_numpy(image[None, None]))
    expected = predictor(image)
    numbers = set(np.unique(expected))
    assert numbers == ({0, *values} if values else {0, 1, 2, 3}) and labels.numpy().dtype == expected.dtype
    np.testing.assert_array_equal(labels[0].numpy(), expected)
    np.testing.assert_allclose(probabilities[0].numpy(), predictor.probabilities(image), atol=1e-5)
    said = {"regions": "3 organ 1, 1 organ 2", "wide": "7 organ 1, 300 organ 2", "sets": "1 organ 1, 2 organ 2"}[rule]
    assert said in text and ("bit sets" in text.split("from __future__")[0]) == (rule == "sets")


def test_labels_by_hand() -> None:
    """Four pixels: no class, the first, the second, both; a logit of 0 claims nothing."""
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0], [0.0, -1.0, 1.0, 2.0]])[None, :, None]
    assert labels_of(logits, True).tolist() == [[[0, 1, 2, 3]]]
    assert labels_of(logits, True, (5, 4)).tolist() == [[[0, 5, 4, 4]]]
    assert labels_of(logits, True, (5, 300)).tolist() == [[[0, 5, 300, 300]]]


def test_dice_of_labels_by_hand(exported: SimpleNamespace) -> None:
    """Mask: none, first, second, both, ignored; as a label map 0, 3, 1, 1. Of two ones predicted one is right."""
    mask, model = np.array([[0, 1, 2, 3, IGNORED]], np.uint8), exported.predictor.model
    assert label_dice(label_map(mask, (3, 1)), mask, model) == 1
    assert label_dice(np.array([[1, 3, 1, 0, 3]]), mask, model) == pytest.approx((1 + 2 * 1 / (2 + 2)) / 2)
    sets = replace(model, region_values=())
    assert label_dice(np.array([[0, 1, 2, 1, 3]]), mask, sets) == pytest.approx((1 + 2 * 1 / (1 + 2)) / 2)
    logits = torch.tensor([[-1.0, 1.0, -1.0, 1.0], [-1.0, -1.0, 1.0, 1.0]])[None, :, None]
    assert as_labels(logits, sets).tolist() == [[[0, 1, 2, 3]]] and as_labels(logits, model).tolist() == [[[0, 3, 1, 1]]]


def test_card_and_bundle_say_what_the_numbers_mean(exported: SimpleNamespace, tmp_path: Path) -> None:
    model, network = exported.predictor.model, exported.predictor.members[0].network
    text = model_card(Facts(model, None, Told(), {}))
    assert "0 background, 3 organ 1, 1 organ 2" in text and "may overlap" in text and "exclude each other" not in text
    write_bundle(tmp_path, model, network, "", {"copyright": "", "data_source": "", "description": ""})
    form = json.loads((tmp_path / "configs" / "metadata.json").read_text())
    output = form["network_data_format"]["outputs"]["pred"]
    assert output["channel_def"] == {"0": "organ 1", "1": "organ 2"} and output["num_channels"] == 2
    assert "3 organ 1" in form["pred_classes"]
