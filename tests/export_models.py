"""Trained-looking models for the tests of the export: random weights, running statistics that are not the initial ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from thrifty.data.normalise import Normalisation
from thrifty.model import Model, save_model
from thrifty.nets.build import NetworkSpec, build_network, genotype_spec
from thrifty.results import Trial
from thrifty.space.sample import random_genotype
from thrifty.space.schema import load_space

DATASET = Normalisation("dataset", (90.0,), (60.0,), (5.0,), (250.0,))


def random_spec(space: str, seed: int, width: int = 4, levels: int = 3, channels: int = 1, classes: int = 3) -> NetworkSpec:
    genotype = random_genotype(load_space(space), width, levels, channels, classes, np.random.default_rng(seed))
    return genotype_spec(f"found_{seed}", genotype, None)


def lively(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random affine parameters and running statistics in every norm, so that a mistaken one shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if "norm" in name and tensor.is_floating_point():
                low = 0.5 if name.endswith(("running_var", "weight")) else -0.5
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + low)
    return network.eval()


def save_random(folder: Path, spec: NetworkSpec, normalisation: Normalisation = DATASET) -> Model:
    """The first of some random networks that gives more than one class to the images of `pixels`."""
    labels = ("background", *(f"organ {k}" for k in range(1, spec.classes)))
    model = Model(spec, normalisation, labels, (32, 32))
    images = torch.from_numpy(np.stack([normalisation.apply(image) for image in pixels(2, spec.channels, 32, 32)]))
    for seed in range(50):
        torch.manual_seed(seed)
        network = lively(build_network(spec))
        with torch.no_grad():
            found = network(images).argmax(dim=1).flatten().bincount(minlength=spec.classes)
        if found.max() < 0.9 * found.sum():
            break
    save_model(Trial(folder), model, network.state_dict())
    return model


def pixels(*size: int) -> np.ndarray:
    """(batch, channels, height, width) of blocks of grey values, so that labels are areas and not noise."""
    rng = np.random.default_rng(3)
    batch, channels, height, width = size
    coarse = rng.integers(0, 256, (batch, channels, height // 4 + 1, width // 4 + 1)).repeat(4, 2).repeat(4, 3)
    return coarse[:, :, :height, :width].astype(np.float32)
