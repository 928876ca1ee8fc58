"""Trained-looking networks on disk, with random weights: as `thrifty retrain` leaves them, without any training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from thrifty.data.normalise import Normalisation
from thrifty.model import Model, save_model
from thrifty.nets.build import build_network, genotype_spec
from thrifty.results import Trial
from thrifty.space.genotype import Cell, Edge, Genotype
from thrifty.space.sample import random_genotype
from thrifty.space.schema import load_space


def smallest_genotype(channels: int = 1, classes: int = 3, width: int = 4) -> Genotype:
    """Two levels and one node in each cell, with every kind of op: what torch.export and ONNX take the least time for."""
    down, up = (Edge(0, "max_pool"), Edge(1, "sep_conv_3")), (Edge(0, "identity"), Edge(1, "up_sample"))
    frame = load_space("tiny").frame
    return Genotype(Cell((down,)), Cell((up,)), (), width, 2, channels, classes, "tiny", frame)


def small_model(
    folder: Path, seed: int = 0, channels: int = 1, classes: int = 3, genotype: Genotype | None = None, **values: Any
) -> Path:
    """A network of about a thousand parameters whose random weights give every class some pixels of a random image."""
    drawn = random_genotype(load_space("tiny"), 8, 2, channels, classes, np.random.default_rng(1))
    genotype = drawn if genotype is None else genotype
    spec = genotype_spec("small", genotype, None)
    images = torch.randn(4, channels, 32, 32, generator=torch.Generator().manual_seed(0))
    for attempt in range(100):
        torch.manual_seed(100 * seed + attempt)
        network = build_network(spec)
        for _ in range(20):  # moves the running statistics to where the images are
            network(images)
        with torch.no_grad():
            pixels = network.eval()(images).argmax(dim=1).flatten().bincount(minlength=classes)
        if pixels.min() > 100:
            break
    labels = ("background", *(f"organ {k}" for k in range(1, classes + values.get("overlapping", False))))
    normalisation = values.pop("normalisation", Normalisation("case"))
    save_model(Trial(folder), Model(spec, normalisation, labels, (32, 32), **values), network.state_dict())
    return folder
