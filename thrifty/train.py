"""The one training loop: epochs of a trainee, recorded, checkpointed and resumed bit for bit.

Searches and retrainings differ only in their trainee: what one epoch does and what its state is.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch

from thrifty import checkpoint
from thrifty.config import Optimiser
from thrifty.results import Trial, write_json, write_jsonl
from thrifty.setbacks import Easing, NotFinite, eased
from thrifty.stopwatch import Stopwatch

Report = Callable[[dict[str, Any]], None]


class Trainee(Protocol):
    """Something that learns in epochs and whose whole state fits in a dictionary of tensors and plain values."""

    easing: Easing  # set before each epoch

    def epoch(self, index: int) -> dict[str, Any]:
        """Learns for one epoch; returns its record (plain numbers, strings and lists)."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def seed_everything(seed: int, threads: int) -> None:
    """Seeds every generator and pins the threads. Two threads give other sums than one, so their number is pinned."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.set_num_threads(threads)


def run_epochs(
    trainee: Trainee, epochs: int, trial: Trial, report: Report, stopwatch: Stopwatch | None = None
) -> list[dict[str, Any]]:
    """Trains up to `epochs`, from the trial's checkpoint if there is one; returns the record of all epochs.

    A run that was stopped at any moment and resumed ends bit for bit like one that was not (same device, same threads):
    the checkpoint holds the trainee's state and all random states, and each epoch draws its data by (seed, epoch).

    After a setback (out of memory, a loss that is not finite) the last good epoch is gone back to, and the training is eased:
    see `thrifty.setbacks`. A row then has `setbacks`, and from there on `pieces` or `rate_factor`. A damaged checkpoint
    is a setback too: the one before it is taken, or the training begins anew.

    Raises:
        ThriftyError: setbacks that nothing helps against.
    """
    part = stopwatch or Stopwatch()
    content, notes = checkpoint.newest(trial)
    record: list[dict[str, Any]] = []
    easing = Easing()
    if content is not None:
        record, easing = _restore(trainee, content), Easing(**content["easing"])
        trainee.easing = easing
        write_jsonl(trial.record, record)
    if notes:
        notes = [f"{'; '.join(notes)}; goes on after {len(record)} epochs"]
    good = checkpoint.encode(_state(trainee, record, easing))
    while len(record) < epochs:
        index, start, setback = len(record), time.perf_counter(), None
        trainee.easing = easing
        row: dict[str, Any] = {"epoch": index}
        try:
            row |= trainee.epoch(index)
        except (NotFinite, RuntimeError) as error:
            easing, setback = eased(easing, error, index)
        if setback is not None:  # outside of the handler, so that nothing holds the tensors of the step that failed
            notes.append(setback)
            _free_memory()
            _restore(trainee, checkpoint.decode(good))
            continue
        row |= easing.as_row() | ({"setbacks": notes} if notes else {})
        row["seconds"], notes = time.perf_counter() - start, []
        record.append(row)
        with part("checkpoint"):
            good = checkpoint.encode(_state(trainee, record, easing))
            checkpoint.save(trial, good, index)
            write_jsonl(trial.record, record)
        with part("report"):
            report(row)
    return record


def finish(
    trial: Trial, result: dict[str, Any], record: list[dict[str, Any]], arguments: dict[str, Any], device: torch.device
) -> None:
    """Writes the result of a trial, with what it cost; the last of its files. Its checkpoint is not needed any longer."""
    seconds = sum(row["seconds"] for row in record)
    cost = {"device": device.type, "seconds": seconds, "cpus": arguments["cpus"], "gpus": arguments["gpus"]}
    write_json(trial.result, {**result, **cost})
    trial.drop_checkpoints()


def _state(trainee: Trainee, record: list[dict[str, Any]], easing: Easing) -> dict[str, Any]:
    return {"trainee": trainee.state_dict(), "record": record, "random": _random_states(), "easing": vars(easing)}


def _free_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _restore(trainee: Trainee, content: dict[str, Any]) -> list[dict[str, Any]]:
    trainee.load_state_dict(content["trainee"])
    _restore_random_states(content["random"])
    return content["record"]


def _random_states() -> dict[str, Any]:
    """The states of all generators as tensors and plain lists, which need no pickle to be read back."""
    version, internal, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(internal), gauss],
        "numpy": [torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(cached)],
    }


def _restore_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached))


def make_optimiser(parameters: list[torch.nn.Parameter], settings: Optimiser) -> torch.optim.Optimizer:
    if settings.name == "sgd":
        return torch.optim.SGD(parameters, settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)
    # A supernet has some thousand small tensors: fused, a step takes a quarter of the time.
    return torch.optim.AdamW(parameters, settings.lr, weight_decay=settings.weight_decay, fused=True)


def cosine(index: int, total: int) -> float:
    """Factor of the learning rate at step `index` of `total`: from 1 down to 0 along half a cosine (SGDR, eq. 5)."""
    return float(0.5 * (1 + np.cos(np.pi * min(index, total) / total)))


def choose_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def threads_for(cpus: int) -> int:
    return max(1, min(cpus, os.cpu_count() or 1))
