"""The MONAI bundle: MONAI's own tools verify it, run it and load it, where thrifty cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from export_models import pixels, random_spec, save_random
from PIL import Image

from thrifty.export.check import reference
from thrifty.export.stage import export_model
from thrifty.model import load_model
from thrifty.results import Trial

BUNDLE = """
import sys, os
sys.modules["thrifty"] = None
sys.path.insert(0, "bundle")
import monai.bundle
common = {"meta_file": "bundle/configs/metadata.json", "config_file": "bundle/configs/inference.json"}
monai.bundle.verify_net_in_out("network_def", n=2, device="cpu", **common)
monai.bundle.run(bundle_root="bundle", dataset_dir="images", output_dir="labels", workflow_type="infer", **common)
import torch
network = monai.bundle.load("bundle", bundle_dir=".", workflow_type="inference", device="cpu", load_ts_module=False)
torch.save(network.eval()(torch.ones(1, 1, 8, 8)).detach(), "logits.pt")
"""


def test_monai_alone(tmp_path: Path) -> None:
    save_random(tmp_path / "model", random_spec("tiny", 1, levels=2))
    export_model(tmp_path / "model", tmp_path / "out", ["monai"])
    network, model = load_model(Trial(tmp_path / "model"), torch.device("cpu"))
    expected = reference(network, model)
    (tmp_path / "images").mkdir()
    (tmp_path / "out" / "bundle").rename(tmp_path / "bundle")
    images = {"wide": pixels(1, 1, 37, 50), "high": pixels(1, 1, 51, 22)}
    for name, image in images.items():
        Image.fromarray(image[0, 0].astype(np.uint8)).save(tmp_path / "images" / f"{name}.png")
    done = subprocess.run([sys.executable, "-I", "-c", BUNDLE], cwd=tmp_path, timeout=240, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "required properties" not in done.stderr + done.stdout
    for name, image in images.items():
        labels = np.asarray(Image.open(tmp_path / "labels" / f"{name}_labels.png"))
        np.testing.assert_array_equal(labels, expected(image)[0])
    with torch.no_grad():
        torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), network(torch.ones(1, 1, 8, 8)), rtol=0, atol=1e-6)
    check_metadata(json.loads((tmp_path / "bundle" / "configs" / "metadata.json").read_text()))


def check_metadata(meta: dict) -> None:
    """What MONAI's schema of metadata.json (meta_schema_20240725) requires."""
    texts = (
        "schema",
        "version",
        "monai_version",
        "pytorch_version",
        "numpy_version",
        "task",
        "description",
        "authors",
        "copyright",
    )
    assert all(isinstance(meta[key], str) for key in texts) and isinstance(meta["required_packages_version"], dict)
    tensors = [*meta["network_data_format"]["inputs"].values(), *meta["network_data_format"]["outputs"].values()]
    for tensor in tensors:
        assert {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range"} <= set(tensor)
