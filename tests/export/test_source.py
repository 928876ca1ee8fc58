"""network.py computes what the trained network computes, for the ops of every shipped space and for the baselines."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from export_models import DATASET, lively, random_spec, save_random

from thrifty.data.normalise import Normalisation
from thrifty.errors import ThriftyError
from thrifty.export.source import network_source
from thrifty.inference import call_padded
from thrifty.model import Model, load_model
from thrifty.nets.build import NetworkSpec, baseline_spec, build_network
from thrifty.results import Trial
from thrifty.space.genotype import CELL_TYPES, Edge

REPOSITORY = Path(__file__).resolve().parents[2]
SPACES = ("tiny", "thrifty", "paper", "nas_unet")


def model_of(spec: NetworkSpec, normalisation: Normalisation = DATASET) -> Model:
    return Model(spec, normalisation, tuple(f"class {k}" for k in range(spec.classes)), (32, 32))


def run_source(text: str) -> dict:
    names: dict = {"__name__": "network"}
    exec(compile(text, "network.py", "exec"), names)
    return names


def assert_equal_networks(spec: NetworkSpec) -> str:
    """The generated network takes the weights of the trained one, all of them, and gives the same logits."""
    trained, text = lively(build_network(spec)), network_source(model_of(spec), "0")
    made = run_source(text)["Network"]()
    made.load_state_dict(dict(trained.state_dict()))
    assert sum(p.numel() for p in made.parameters()) == spec.parameters
    images = torch.randn(2, spec.channels, 32, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(made.eval()(images), trained(images), rtol=0, atol=1e-6)
    return text


def test_these_are_all_shipped_spaces() -> None:
    assert {path.stem for path in (REPOSITORY / "search_spaces").glob("*.yaml")} == set(SPACES)


@pytest.mark.parametrize("space", SPACES)
def test_every_shipped_space(space: str) -> None:
    used: set[tuple[str, str]] = set()
    for seed in range(6):
        spec = random_spec(space, seed, levels=3 + seed % 2, channels=1 + 2 * (seed % 2))
        text = assert_equal_networks(spec)
        assert "thrifty" not in "\n".join(line for line in text.splitlines() if "import" in line and not line.startswith("Made"))
        used |= {(t, e.op) for t in CELL_TYPES for _, e in spec.genotype.cell(t).edges()}
    assert len(used) >= 4


def test_widths_that_change_from_row_to_row_and_separable_inputs() -> None:
    spec = random_spec("thrifty", 3)
    frame = replace(
        spec.genotype.frame, row_factors=(0.5, 1.0, 1.5), input_conv="sep_3", output_conv="conv_3", stem_block="conv_1"
    )
    from thrifty.nets.build import genotype_spec

    assert_equal_networks(genotype_spec("mixed", replace(spec.genotype, frame=frame), None))


@pytest.mark.parametrize("name", ["scaled_unet", "unetpp"])
def test_baselines(name: str) -> None:
    if name == "scaled_unet":
        assert_equal_networks(baseline_spec(name, 2, 3, 9_000))
    else:
        from thrifty.nets.baselines import unetpp_parameters

        filters = (2, 3, 4, 5, 6)
        assert_equal_networks(NetworkSpec("small", "unetpp", 2, 3, None, unetpp_parameters(2, 3, filters), filters))


def test_ops_of_the_user_are_refused() -> None:
    spec = random_spec("tiny", 0)
    (first, _), *rest = spec.genotype.down.nodes
    node = (first, Edge(1, "mine:Op"))
    genotype = replace(spec.genotype, down=replace(spec.genotype.down, nodes=(node, *rest)))
    with pytest.raises(ThriftyError, match=r"user's own \(mine:Op\).*--formats"):
        network_source(model_of(replace(spec, genotype=genotype)), "0")


CHILD = """
import sys
sys.modules["thrifty"] = None  # an import of it fails
sys.path.insert(0, ".")
import numpy, torch
import network
torch.set_num_threads(1)
pixels = torch.from_numpy(numpy.load("pixels.npy"))
with torch.no_grad():
    logits = network.load_network("weights.safetensors")(torch.from_numpy(numpy.load("images.npy")))
    labels, probabilities = network.load("weights.safetensors", probabilities=True)(pixels)
numpy.savez("out.npz", logits=logits, labels=labels, probabilities=probabilities)
"""


def test_alone_in_a_process_without_thrifty(tmp_path: Path) -> None:
    """From raw pixels of a size that is no multiple of the stride."""
    model = save_random(tmp_path, random_spec("thrifty", 5, width=8))
    (tmp_path / "network.py").write_text(network_source(model, "0"))
    rng = np.random.default_rng(0)
    pixels, images = rng.integers(0, 256, (2, 1, 37, 45)).astype(np.float32), rng.normal(size=(1, 1, 16, 24)).astype(np.float32)
    np.save(tmp_path / "pixels.npy", pixels)
    np.save(tmp_path / "images.npy", images)
    subprocess.run([sys.executable, "-I", "-c", CHILD], cwd=tmp_path, check=True, timeout=120)
    out = np.load(tmp_path / "out.npz")
    network, _ = load_model(Trial(tmp_path), torch.device("cpu"))
    with torch.no_grad():
        np.testing.assert_allclose(out["logits"], network(torch.from_numpy(images)).numpy(), rtol=0, atol=1e-6)
        normalised = torch.from_numpy(np.stack([DATASET.apply(image) for image in pixels]))
        logits = call_padded(network, normalised, network.stride)
    assert len(np.unique(out["labels"])) > 1 and out["labels"].dtype == np.uint8
    np.testing.assert_array_equal(out["labels"], logits.argmax(1).numpy())
    np.testing.assert_allclose(out["probabilities"], logits.softmax(1).numpy(), atol=1e-6)
