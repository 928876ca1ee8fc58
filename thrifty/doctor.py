"""`thrifty doctor`: what this machine has, in plain lines, and what to do about what is missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from thrifty.config import data_folder, results_folder, results_url
from thrifty.environment import gpus, usable_cores, versions
from thrifty.errors import ThriftyError
from thrifty.storage import Storage, clean_url, working_copy

LITTLE_GIB = 2.0


def examine(try_ray: bool = False) -> Iterator[str]:
    """One line after the other, the quick ones first."""
    yield "versions: " + ", ".join(f"{name} {version}" for name, version in versions().items())
    yield _processor()
    yield _graphics()
    yield _disk(results_folder(".")) if results_url("x") is None else _store()
    yield _data(data_folder("."))
    address = os.environ.get("RAY_ADDRESS")
    yield f"ray: {f'the cluster at {address} (RAY_ADDRESS)' if address else 'started on this machine, on loopback, when needed'}"
    if try_ray:
        yield _ray()


def _processor() -> str:
    import psutil

    memory = psutil.virtual_memory()
    return (
        f"machine: {usable_cores()} cores, memory {memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB of it free"
    )


def _graphics() -> str:
    import torch

    if found := gpus():
        names = ", ".join(f"{gpu['name']} ({gpu['memory_gib']:g} GiB)" for gpu in found)
        return f"GPUs: {names}; give trials a share of one with resources.gpus_per_trial=0.5"
    if torch.version.cuda is None:
        return "GPUs: none that torch can use, this torch is built for CPUs only"
    return f"GPUs: none that torch sees (built for CUDA {torch.version.cuda}); is there a driver?"


def free_gib(folder: Path) -> tuple[Path, float]:
    """The folder, or the nearest one above it that exists, and the free space there in GiB."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    return existing, shutil.disk_usage(existing).free / 2**30


def _disk(folder: Path) -> str:
    existing, free = free_gib(folder)
    notes = [] if os.access(existing, os.W_OK) else ["no permission to write there"]
    notes += ["that is little"] if free < LITTLE_GIB else []
    hint = f" ({', '.join(notes)}; set THRIFTY_RESULTS to another folder)" if notes else ""
    return f"results: {folder.parent if folder.name == '.' else folder}, {free:.1f} GiB free{hint}"


def _store() -> str:
    """Whether THRIFTY_RESULTS, a URL, answers; one try."""
    place = clean_url(os.environ["THRIFTY_RESULTS"])
    existing, free = free_gib(working_copy(f"{place}/x").parents[1])
    try:
        Storage(place, patience=0.0).sizes("nothing")
    except ThriftyError as error:
        return f"results: {error}"
    return f"results: {place}, which answers; working copies in {existing}, {free:.1f} GiB free"


def _data(folder: Path) -> str:
    if "THRIFTY_DATA" not in os.environ:
        return "data: THRIFTY_DATA is not set; data.source is then taken from the current folder"
    if not folder.is_dir():
        return f"data: THRIFTY_DATA is {folder}, which is no folder"
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_dir() and _is_data_set(path))
    except PermissionError:
        return f"data: no permission to read {folder}"
    return f"data: {folder}, data sets: {', '.join(names) if names else 'none (images/ + masks/, or an nnU-Net folder)'}"


def _is_data_set(folder: Path) -> bool:
    return (folder / "dataset.json").is_file() or ((folder / "images").is_dir() and (folder / "masks").is_dir())


def _ray() -> str:
    from thrifty.trials import connect, machines

    try:
        connect()
    except ThriftyError as error:
        return f"ray does not work: {error}"
    return f"ray works: {'; '.join(machines())}"
