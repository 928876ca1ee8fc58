"""The value of a candidate: Dice on the selection cases with the weights it inherits, in the supernet's hard mode.

Plain functions of files, without optuna or ray: `score` runs on any worker.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from thrifty.config import Study
from thrifty.data.batches import Batches
from thrifty.data.prepare import Prepared, open_prepared, training_normalisation
from thrifty.inference import inherited_dice
from thrifty.nets.supernet import HardNetwork, Supernet
from thrifty.nets.supernet_file import load_supernet
from thrifty.results import read_run
from thrifty.space.genotype import Genotype, from_json
from thrifty.space.schema import run_space
from thrifty.train import choose_device, seed_everything, threads_for

SEED = 20_011  # of the training batches that renew the statistics: the same for all candidates


@dataclass(frozen=True)
class Score:
    """Dice of one genotype with each supernet, and the seconds it took."""

    dice: tuple[float, ...]
    seconds: float


def score(item: dict[str, Any]) -> list[Score]:
    """Dice of each genotype with each search's supernet, statistics of normalisation recalibrated on training images.

    Args:
        item: run (folder), trials (names of searches), genotypes (JSON), cpus, device.

    Returns:
        For each genotype its score, with one Dice for each trial; it does not depend on what it is scored together with.
    """
    study, run = read_run(Path(item["run"]))
    device = choose_device(item["device"])
    seed_everything(SEED, threads_for(item["cpus"]))
    cases = _Cases(study, open_prepared(run), device)
    supernets = [_supernet(str(run.root), name).to(device) for name in item["trials"]]
    scores = []
    for value in item["genotypes"]:
        start, genotype = time.perf_counter(), from_json(value, study.allow_code)
        dice = tuple(cases.dice(supernet, genotype) for supernet in supernets)
        scores.append(Score(dice, time.perf_counter() - start))
    return scores


@lru_cache(maxsize=8)
def _supernet(root: str, name: str) -> Supernet:
    """Kept by the worker: the next batch of candidates finds it loaded."""
    study, run = read_run(Path(root))
    supernet = load_supernet(run.search_trial(name).weights, run_space(study, run))
    supernet.to(memory_format=torch.channels_last)  # pyrefly: ignore[no-matching-overload]
    return supernet


class _Cases:
    """The selection cases, and training images for the statistics."""

    def __init__(self, study: Study, prepared: Prepared, device: torch.device) -> None:
        self.study, self.store, self.device = study, prepared.store, device
        training = self.store.indices(prepared.splits.training)
        self.normalisation = training_normalisation(study, self.store, prepared.splits)
        batches = Batches(self.store, tuple(training), self.normalisation, study.data, study.search.batch, SEED, device)
        self.images = [batches.plain(step)[0] for step in range(study.select.recalibrate)]
        self.selection = self.store.indices(prepared.splits.selection)

    def dice(self, supernet: Supernet, genotype: Genotype) -> float:
        network = HardNetwork(supernet, genotype)
        settings = self.study.evaluate
        return inherited_dice(network, self.images, self.store, self.selection, self.normalisation, settings, self.device)
