"""Trial functions without a network: the tests of thrifty.trials run them on real workers, which import this module."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from thrifty.errors import ThriftyError
from thrifty.results import Trial, read_json, write_json


def count_trial(arguments: dict[str, Any], trial: Trial, report: Any) -> None:
    """Adds up epochs from its own checkpoint; its result depends on every epoch having been done exactly once, in order.

    `die_at` and `raise_at` (epochs) happen before that epoch is kept; `die_at` only as long as the file `spared` is absent.
    `die_by` says by which signal. `die_after` dies with the result written and the checkpoint gone, each time; `linger` (seconds)
    ends that much later; `hang_at` never ends that epoch; `away` (seconds) is how long storage fails from the second epoch on.
    """
    _note(trial.folder / "pids", f"{os.getpid()}")
    state = read_json(trial.checkpoint) if trial.checkpoint.is_file() else {"epoch": 0, "value": arguments["seed"]}
    for epoch in range(state["epoch"], arguments["epochs"]):
        if epoch == arguments.get("raise_at"):
            raise ValueError("first line\nthe loss is not a number")
        if epoch == arguments.get("refuse_at"):
            raise ThriftyError("the budget of 10 parameters is below the smallest network; give at least 812")
        _die(arguments, epoch, trial.folder / "spared")
        time.sleep(1000 if epoch == arguments.get("hang_at") else 0)
        if epoch == 1 and "away" in arguments:
            _take_storage_away(arguments["away"])
        state = {"epoch": epoch + 1, "value": (state["value"] * 31 + epoch) % 1_000_003}
        time.sleep(arguments.get("sleep", 0.0))
        write_json(trial.checkpoint, state)
        _note(trial.folder / "log", f"{epoch}")
        report({"epoch": epoch, "dice": epoch / 10, "seconds": 0.01, "genotype": {"not": "a number"}})
    if not arguments.get("forget"):
        write_json(trial.result, {"value": state["value"]})
    if arguments.get("die_after"):
        trial.checkpoint.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(arguments.get("linger", 0.0))


def expected(seed: int, epochs: int) -> int:
    value = seed
    for epoch in range(epochs):
        value = (value * 31 + epoch) % 1_000_003
    return value


def square(item: dict[str, Any]) -> int:
    """Dies once for the item that names a file, the first time."""
    if "die" in item and not Path(item["die"]).exists():
        Path(item["die"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if item.get("refuse"):
        raise ThriftyError("no such candidate")
    return item["value"] ** 2


def _die(arguments: dict[str, Any], epoch: int, spared: Path) -> None:
    if epoch == arguments.get("die_at") and not spared.exists():
        spared.touch()
        (spared.parent / ".checkpoint.pt.abc.part").write_text("half written")
        os.kill(os.getpid(), arguments.get("die_by", signal.SIGKILL))
        time.sleep(30)  # a signal that can be handled takes its time


def _take_storage_away(seconds: float) -> None:
    """Every fsync of this process fails until the time is over, as on a network file system that does not answer."""
    back, fsync = time.monotonic() + seconds, os.fsync

    def away(handle: int) -> None:
        if time.monotonic() < back:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(handle)

    os.fsync = away  # pyrefly: ignore


def faulty_retraining(arguments: dict[str, Any], trial: Trial, report: Any) -> None:
    """A retraining to which happens what `fault` says; a worker is used again, so nothing of that stays."""
    from thrifty.retrain import retrain_trial

    faults = {"memory": _little_memory, "rate": _not_finite, "never": lambda: _not_finite(0.0), "disk": _full_disk}
    with faults.get(arguments.get("fault", ""), contextlib.nullcontext)():
        retrain_trial(arguments, trial, report)


def _little_memory() -> Any:
    """Two images at once, and no more, go through a found network in training."""
    import torch

    from thrifty.nets.derived import DerivedNetwork

    forward = DerivedNetwork.forward

    def limited(self: Any, images: Any) -> Any:
        if self.training and len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, images)

    return patch.object(DerivedNetwork, "forward", limited)


def _not_finite(fine: float = 0.5) -> Any:
    """In the second epoch, unless the rates have come down to `fine` of what they were."""
    from thrifty.scratch import ScratchTraining
    from thrifty.setbacks import NotFinite

    whole = ScratchTraining._step

    def spoilt(self: Any, epoch: int, step: int) -> Any:
        if epoch == 1 and self.easing.rate_factor > fine:
            raise NotFinite("the loss became nan in epoch 1, step 0; lower retrain.optimiser.lr")
        return whole(self, epoch, step)

    return patch.object(ScratchTraining, "_step", spoilt)


def _full_disk() -> Any:
    """From the second epoch on: an epoch writes a checkpoint and its record."""
    fsync, times = os.fsync, []

    def full(handle: int) -> None:
        times.append(handle)
        if len(times) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    return patch.object(os, "fsync", full)


def _note(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line + "\n")
