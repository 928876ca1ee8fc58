"""Trial functions without a network: the tests of thrifty.trials run them on real workers, which import this module."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from thrifty.errors import ThriftyError
from thrifty.results import Trial, read_json, write_json


def count_trial(arguments: dict[str, Any], trial: Trial, report: Any) -> None:
    """Adds up epochs from its own checkpoint; its result depends on every epoch having been done exactly once, in order.

    `die_at` and `raise_at` (epochs) happen before that epoch is kept; `die_at` only as long as the file `spared` is absent.
    `die_after` dies with the result written and the checkpoint gone, each time; `linger` (seconds) ends that much later.
    """
    state = read_json(trial.checkpoint) if trial.checkpoint.is_file() else {"epoch": 0, "value": arguments["seed"]}
    for epoch in range(state["epoch"], arguments["epochs"]):
        if epoch == arguments.get("raise_at"):
            raise ValueError("first line\nthe loss is not a number")
        if epoch == arguments.get("refuse_at"):
            raise ThriftyError("the budget of 10 parameters is below the smallest network; give at least 812")
        _die(arguments, epoch, trial.folder / "spared")
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
        os.kill(os.getpid(), signal.SIGKILL)


def _note(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line + "\n")
