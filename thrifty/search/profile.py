"""`thrifty search --profile`: where the time of the searches of this run went, part by part."""

from __future__ import annotations

from typing import Any

import torch

from thrifty.results import Run, Trial, read_json, read_jsonl, write_json
from thrifty.stopwatch import Stopwatch

SCHEMA = 1
STEP = ("data", "weight step", "architecture step")
PARTS = (*STEP, "validation", "decoding and guard", "checkpoint", "report")


def stopwatch(on: bool, device: torch.device) -> Stopwatch:
    """On a GPU it waits at every border, which a search that is not profiled never does."""
    return Stopwatch(on, torch.cuda.synchronize if device.type == "cuda" else lambda: None)


def write_profile(trial: Trial, watch: Stopwatch, epochs: int) -> None:
    """Writes profile.json of a trial: the seconds of each part, of the epochs that this process ran."""
    seconds = {part: watch.seconds.get(part, 0.0) for part in PARTS}
    step = sum(seconds[part] for part in STEP)
    waiting = seconds["data"] / step if step else None
    values: dict[str, Any] = {"schema": SCHEMA, "epochs": epochs, "steps": watch.times.get("weight step", 0)}
    write_json(trial.profile, {**values, "seconds": seconds, "share_of_step_waiting_for_data": waiting})


def profile_table(run: Run) -> str:
    """The profiles of the searches of a finished stage summed up, as a table for the terminal; says so where there is none."""
    trials = [run.search_trial(row["trial"]) for row in read_jsonl(run.candidates)]
    found = [read_json(trial.profile) for trial in trials if trial.profile.is_file()]
    if not found:
        return "no profile: the searches of this study were finished before, without --profile"
    seconds = {part: sum(profile["seconds"][part] for profile in found) for part in PARTS}
    total, steps = sum(seconds.values()), max(1, sum(profile["steps"] for profile in found))
    step = sum(seconds[part] for part in STEP) or 1.0
    rows = [f"  {part:<20}{value:>10.1f} s{100 * value / max(total, 1e-9):>8.1f} %" for part, value in seconds.items()]
    waiting = f"waiting for data: {100 * seconds['data'] / step:.1f} % of a step of {1000 * step / steps:.0f} ms"
    return "\n".join([f"time of {len(found)} searches, {steps} two-level steps:", *rows, f"  {waiting}"])
