"""The whole export of a small model in a run folder: every form, what each computes, what is refused, nothing half-written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from export_models import DATASET, pixels, random_spec, save_random
from small_models import smallest_genotype
from small_study import small_run, small_study

from thrifty.cli import main
from thrifty.data.decode import decode
from thrifty.data.normalise import Normalisation
from thrifty.errors import ThriftyError
from thrifty.export import stage
from thrifty.export.card import Facts, Told, energy, model_card
from thrifty.export.check import Agreement, reference
from thrifty.export.graph import graph_labels, session
from thrifty.export.origin import find_origin
from thrifty.export.quantise import Loss
from thrifty.export.stage import FORMATS, INT8, export_model
from thrifty.model import load_model
from thrifty.nets.build import genotype_spec
from thrifty.postprocess import Postprocess
from thrifty.results import Trial, read_json, write_json
from thrifty.space.genotype import load

SUMMARY = {
    "data": {"cases": 12, "patients": 8, "sets": {"weights": 5, "test": 3}},
    "networks": [
        {
            "name": "found_3000",
            "seeds": 2,
            "dice": {"mean": 0.8123, "sd_seeds": 0.0123, "per_seed": [0.8, 0.82], "ci95": [0.79, 0.83]},
            "iou": {"mean": 0.7, "sd_seeds": 0.01},
            "hd95": {"mean": 3.5, "unit": "px"},
        }
    ],
}
LEDGER = {
    "trials": [{"stage": "retrain", "trial": "found_3000/seed_0", "cpu_hours": 0.25, "gpu_hours": 0.0}],
    "cost": {"search": {"cpu_hours": 1.5, "gpu_hours": 0.0}, "retrain": {"cpu_hours": 0.5, "gpu_hours": 0.0}},
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Everything at once: torch.export and ONNX take seconds."""
    root = tmp_path_factory.mktemp("export")
    run = small_run(root, small_study())
    spec = genotype_spec("found_1", smallest_genotype(), None)
    trial = run.retrain_trial("found_3000", 0)
    save_random(trial.folder, spec)
    write_json(run.summary, SUMMARY)
    write_json(run.ledger, LEDGER)
    folder = root / "out"
    export_model(
        trial.folder,
        folder,
        formats=[name for name in FORMATS if name != "monai"],
        told=Told(licence="cc0-1.0", cpu_watts=10),
        probabilities=True,
    )
    network, model = load_model(trial, torch.device("cpu"))
    return SimpleNamespace(folder=folder, trial=trial, run=run, model=model, expected=reference(network, model))


def test_weights_and_genotype_are_those_of_the_model(exported: SimpleNamespace) -> None:
    for name in ("weights.safetensors", "model.json"):
        assert (exported.folder / name).read_bytes() == (exported.trial.folder / name).read_bytes()
    assert load(exported.folder / "genotype.json") == exported.model.network.genotype


@pytest.mark.parametrize("size", [(1, 1, 32, 32), (3, 1, 37, 50), (2, 1, 5, 23), (1, 1, 3, 2)])
def test_onnx_takes_any_batch_and_size(exported: SimpleNamespace, size: tuple[int, ...]) -> None:
    images = pixels(*size)
    expected = exported.expected(images)
    labels, probabilities = session(exported.folder / "network.onnx").run(["labels", "probabilities"], {"pixels": images})
    assert labels.dtype == np.uint8 and (labels == expected).mean() >= 0.9999
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    assert (probabilities.argmax(1) == expected).mean() >= 0.9999
    if min(size[2:]) > 30:
        assert len(np.unique(labels)) > 1


def test_int8_holds_whole_numbers_and_stays_close(exported: SimpleNamespace) -> None:
    import onnx

    proto = onnx.load(exported.folder / INT8)
    weights = [t for t in proto.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4]
    assert len(weights) > 5
    scales = {node.input[0]: node.input[1] for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    sizes = {t.name: tuple(t.dims) for t in proto.graph.initializer}
    assert any(len(sizes[scales[t.name]]) == 1 and sizes[scales[t.name]][0] > 1 for t in weights if t.name in scales)
    images = pixels(2, 1, 40, 44)
    assert (graph_labels(exported.folder / INT8)(images) == exported.expected(images)).mean() > 0.9
    record = read_json(exported.folder / "export.json")
    assert record["int8"]["cases"] > 0 and 0 <= record["int8"]["dice_int8"] <= 1


def test_record_counts_what_was_compared(exported: SimpleNamespace) -> None:
    record = read_json(exported.folder / "export.json")
    assert set(record["checks"]) == {"network.py", "network.pt2", "network.onnx"}
    assert all(found["pixels"] > 1000 and found["equal"] >= 0.9999 * found["pixels"] for found in record["checks"].values())
    assert record["files"]["network.onnx"]["bytes"] == (exported.folder / "network.onnx").stat().st_size


def test_no_path_of_this_machine_leaves_it(exported: SimpleNamespace) -> None:
    here = [
        str(Path(stage.__file__).parents[2]).encode(),
        str(exported.run.root).encode(),
        str(Path(torch.__file__).parent).encode(),
    ]
    for path in exported.folder.rglob("*"):
        assert path.is_dir() or not any(text in path.read_bytes() for text in here), path


def test_card(exported: SimpleNamespace) -> None:
    text = (exported.folder / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    values = yaml.safe_load(front)
    assert values["license"] == "cc0-1.0" and values["datasets"] == ["phantoms"] and "tags" in values
    assert values["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.8123
    for needed in (
        "not a medical device",
        "| Dice | 0.812 | 0.012 | 0.790 to 0.830 |",
        "2-D only",
        "about 0.02 kWh",
        "10 W",
        "12 cases",
    ):
        assert needed in body, needed


def test_card_says_what_is_not_known(exported: SimpleNamespace) -> None:
    assert "before that step" not in (exported.folder / "README.md").read_text()
    cleaned = replace(exported.model, postprocess=Postprocess(largest=True))
    text = model_card(Facts(cleaned, None, Told(), {"network.onnx": 1}))
    for needed in ("license: unknown", "Not measured", "Energy\n\nUnknown", "before that step", "Modality: not stated"):
        assert needed in text, needed
    assert "model-index" not in text
    bad = model_card(Facts(exported.model, None, Told(), {INT8: 1}, loss=Loss(9, 0.8, 0.79)))
    assert "costs more than 0.5 points" in bad and "+1.00 points" in bad


def test_energy_names_its_assumption_or_is_unknown() -> None:
    hours = {"cpu_hours": 4.0, "gpu_hours": 2.0}
    assert "unknown" in energy(hours, Told(cpu_watts=10)) and "--gpu-watts" in energy(hours, Told(cpu_watts=10))
    assert "about 0.64 kWh" in energy(hours, Told(cpu_watts=10, gpu_watts=300))


def test_real_images(exported: SimpleNamespace, real_data: Callable[[str], Path]) -> None:
    """Slices of 24 to 59 pixels, hardly one a multiple of the stride."""
    paths = sorted((real_data("MSD_Hippocampus") / "images").iterdir())[::100]
    predict, pixels_, equal = graph_labels(exported.folder / "network.onnx"), 0, 0
    for path in paths:
        image = np.moveaxis(decode(path).values, 2, 0)[None].astype(np.float32)
        found, wanted = predict(image), exported.expected(image)
        pixels_, equal = pixels_ + found.size, equal + int((found == wanted).sum())
    assert len(paths) >= 5 and equal >= 0.9999 * pixels_


# -- refused --------------------------------------------------------------------------------------------------------------
@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    save_random(tmp_path / "model", random_spec("tiny", 1, levels=2), Normalisation("case"))
    return tmp_path / "model"


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as end:
        main(["export", *map(str, arguments)])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_bad_requests_leave_nothing(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "made" / "out"
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    assert "not empty" in refused(capsys, model_folder, tmp_path / "taken")
    assert "did you mean 'onnx'" in refused(capsys, model_folder, out, "--formats", "onx")
    assert "no such file" in refused(capsys, tmp_path / "none", out)
    assert "is no folder" in refused(capsys, model_folder, out, "--calibrate", tmp_path / "none")
    assert "no image" in refused(capsys, model_folder, out, "--calibrate", tmp_path / "taken")
    assert not out.exists() and not any(path.name.endswith(".part") for path in tmp_path.rglob("*"))


def test_missing_packages(model_folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """Asked for: one clear line. Not asked for: a note, and the rest is written."""
    monkeypatch.setattr(stage, "missing_packages", lambda: ["onnxruntime"])
    assert "thrifty[export]" in refused(capsys, model_folder, tmp_path / "out", "--formats", "onnx,card")
    monkeypatch.setattr(stage, "_write_programs", lambda *_: None)
    export_model(model_folder, tmp_path / "out")
    assert "onnxruntime" in (tmp_path / "out" / "README.md").read_text()
    assert (tmp_path / "out" / "network.py").is_file()


def test_a_form_that_disagrees_is_not_left_behind(model_folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(stage, "agreement", lambda *_: Agreement(100_000, 99_980))
    with pytest.raises(ThriftyError, match=r"network.py gives the labels .* only 99.980 % of 100,000 pixels"):
        export_model(model_folder, tmp_path / "out", ["safetensors", "network"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_int8_without_images_is_refused(exported: SimpleNamespace, model_folder: Path, tmp_path: Path) -> None:
    export = stage.Export(Trial(model_folder), torch.nn.Identity(), exported.model, None, Told(), tmp_path)
    with pytest.raises(ThriftyError, match="--calibrate FOLDER"):
        stage._write_quantised(export, exported.folder / "network.onnx", None)


def test_origin(exported: SimpleNamespace, model_folder: Path) -> None:
    origin = find_origin(exported.trial.folder)
    assert origin is not None and (origin.network, origin.seed, origin.fold) == ("found_3000", 0, None)
    assert origin.hours()["this training"] == {"cpu_hours": 0.25, "gpu_hours": 0.0}
    assert find_origin(model_folder) is None


def test_data_are_decoded_again_where_the_store_is_gone(exported: SimpleNamespace, tmp_path: Path) -> None:
    origin = find_origin(exported.trial.folder)
    before = origin.prepared(tmp_path)[0]
    kept = exported.run.data.rename(exported.run.root / "away")
    try:
        store, splits = origin.prepared(tmp_path)
        assert store.fingerprint == before.fingerprint and splits.training
        np.testing.assert_array_equal(store.image(3), before.image(3))
    finally:
        kept.rename(exported.run.data)
    assert DATASET.mean == exported.model.normalisation.mean
