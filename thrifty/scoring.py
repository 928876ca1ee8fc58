"""The value of a candidate: Dice on the selection cases with the weights it inherits, in the supernet's hard mode.

Plain functions of files, without optuna or ray: `score` runs on any worker. A worker prepares the cases once for a run and loads
each supernet once; a further candidate reads no file and builds no network.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thrifty.config import Study
from thrifty.data.batches import Batches
from thrifty.data.normalise import Normalisation
from thrifty.data.prepare import open_prepared, training_normalisation
from thrifty.data.store import Store
from thrifty.inference import ImageBatch, batches_dice, image_batches, renew_statistics
from thrifty.nets.supernet import HardNetwork, Supernet
from thrifty.nets.supernet_file import load_supernet
from thrifty.results import read_run
from thrifty.space.genotype import Genotype, from_json
from thrifty.space.schema import run_space
from thrifty.train import choose_device, seed_everything, threads_for

SEED = 20_011  # of the training batches that renew the statistics: the same for all candidates
KEPT_BYTES = 2**29  # of normalised selection cases that a worker keeps; larger sets are read from the memory map each time


@dataclass(frozen=True)
class Score:
    """Dice of one genotype with each supernet, and the seconds it took."""

    dice: tuple[float, ...]
    seconds: float


def score(item: dict[str, Any]) -> Score:
    """Dice of a genotype with each search's supernet, statistics of normalisation recalibrated on training images.

    Args:
        item: run (folder), trials (names of searches), genotype (JSON), cpus, device.

    Returns:
        One Dice for each trial; it does not depend on what the worker has scored before.
    """
    device = choose_device(item["device"])
    seed_everything(SEED, threads_for(item["cpus"]))
    start = time.perf_counter()
    cases = open_cases(item["run"], device)
    genotype = from_json(item["genotype"], cases.study.allow_code)
    dice = tuple(cases.dice(open_supernet(item["run"], name, device), genotype) for name in item["trials"])
    return Score(dice, time.perf_counter() - start)


@dataclass(frozen=True)
class Cases:
    """The selection cases, and training images for the statistics. `kept` is empty where the cases are too large to keep."""

    study: Study
    store: Store
    indices: tuple[int, ...]
    normalisation: Normalisation
    device: torch.device
    training: tuple[Tensor, ...]
    kept: tuple[ImageBatch, ...] = ()

    def batches(self) -> Iterator[ImageBatch]:
        return image_batches(self.store, self.indices, self.normalisation, self.study.evaluate, self.device)

    def dice(self, supernet: Supernet, genotype: Genotype) -> float:
        hard = HardNetwork(supernet, genotype)
        renew_statistics(hard, self.training)
        return batches_dice(hard, self.kept or self.batches(), self.store, self.study.evaluate)


@lru_cache(maxsize=1)
def open_cases(root: str, device: torch.device) -> Cases:
    """Kept by the worker."""
    study, run = read_run(Path(root))
    prepared = open_prepared(run)
    store, splits = prepared.store, prepared.splits
    normalisation = training_normalisation(study, store, splits)
    batches = Batches(store, tuple(store.indices(splits.training)), normalisation, study.data, study.search.batch, SEED, device)
    training = tuple(batches.plain(step)[0] for step in range(study.select.recalibrate))
    cases = Cases(study, store, tuple(store.indices(splits.selection)), normalisation, device, training)
    pixels = sum(store.cases[index].height * store.cases[index].width for index in cases.indices)
    fits = 4 * pixels * store.channels <= KEPT_BYTES
    return replace(cases, kept=tuple(cases.batches())) if fits else cases


@lru_cache(maxsize=64)
def open_supernet(root: str, name: str, device: torch.device) -> Supernet:
    """Kept by the worker."""
    study, run = read_run(Path(root))
    supernet = load_supernet(run.search_trial(name).weights, run_space(study, run))
    supernet.to(memory_format=torch.channels_last)  # pyrefly: ignore[no-matching-overload]
    return supernet.to(device)
