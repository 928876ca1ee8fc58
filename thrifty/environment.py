"""What a run ran on: versions and machine. No names of hosts or users, no variables of the surroundings."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from typing import Any

import thrifty
from thrifty.errors import mask
from thrifty.results import Run, read_json, write_json

SCHEMA = 1
PACKAGES = ("torch", "ray", "optuna", "numpy", "scipy", "scikit-image", "scikit-learn", "kornia", "monai", "nibabel", "pydantic")


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"thrifty": thrifty.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def versions_that_must_agree() -> dict[str, str]:
    """Of driver and workers; whether torch is built for a GPU may differ."""
    found = versions()
    return {"Python": found["python"], "torch": found["torch"].partition("+")[0], "thrifty": found["thrifty"]}


def usable_cores() -> int:
    """Cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[dict[str, Any]]:
    """Every GPU that torch sees: its name and memory."""
    import torch

    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [{"name": gpu.name, "memory_gib": round(gpu.total_memory / 2**30, 1)} for gpu in found]


def environment() -> dict[str, Any]:
    import psutil

    return {
        "schema": SCHEMA,
        "versions": versions(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": usable_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": gpus(),
    }


def write_environment(run: Run) -> None:
    """Writes env.json. A run that goes on in other surroundings keeps the former ones under `earlier`."""
    now = json.loads(mask(json.dumps(environment())))
    before = read_json(run.environment) if run.environment.is_file() else None
    if not isinstance(before, dict):
        write_json(run.environment, now)
        return
    earlier = before.pop("earlier", [])
    if before != now:
        write_json(run.environment, {**now, "earlier": [*earlier, before]})
