"""How step time and memory of a search grow with width, levels, nodes, ops, image size and batch; and what a study stores.

    python benchmarks/growth.py [--base cpu|small] [--rounds 3] [--threads 1]

Each row is a process of its own that steps the changed search and the base in turn: the ratio is the median over rounds of CPU
time. Prints Markdown. About five minutes on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench import measure_memory
from steps import SIZES, Size, space_of, thrifty_search

from thrifty.config import Resources
from thrifty.manifest import Manifest
from thrifty.results import Run

CHANGES: dict[str, list[dict[str, Any]]] = {
    "small": [{}, {"width": 8}, {"nodes": 2}],
    "cpu": [
        {},
        *({"width": width} for width in (8, 32)),
        *({"levels": levels} for levels in (3, 4)),
        *({"nodes": nodes} for nodes in (2, 4)),
        *({"ops": ops} for ops in (2, 3)),
        *({"side": side} for side in (64, 256)),
        *({"batch": batch} for batch in (3, 12)),
    ],
}


def measure(base: Size, change: dict[str, Any], rounds: int) -> dict[str, float]:
    """Peak memory (MiB) of the changed search, and how many times the CPU time of the base its step takes."""
    device = torch.device("cpu")
    changed = replace(base, **change)
    memory = measure_memory("search", changed, device)
    steps = [thrifty_search(size, device) for size in (base, changed)]
    ratios = []
    for number in range(rounds + 1):
        seconds = []
        for step in steps:
            start = time.process_time()
            step()
            seconds.append(time.process_time() - start)
        if number:
            ratios.append(seconds[1] / seconds[0])
    return {"memory": memory, "ratio": statistics.median(ratios)}


def order_milliseconds(cases: int) -> float:
    """Of finding the case at one place of a batch: a permutation of all of them."""
    start = time.perf_counter()
    for number in range(20):
        np.random.default_rng([1, 0, number, 0]).permutation(cases)
    return 1000 * (time.perf_counter() - start) / 20


def checkpoint_bytes(size: Size) -> int:
    """Of a search at its start of training: weights, momentum, architecture; sealed as it is written."""
    from thrifty import checkpoint
    from thrifty.nets.supernet import Supernet

    supernet = Supernet(space_of(size), size.width, size.levels, size.channels, size.classes)
    momentum = {name: torch.zeros_like(value) for name, value in supernet.named_parameters()}
    return len(checkpoint.encode({"supernet": supernet.state_dict(), "momentum": momentum}))


def manifest_row(trials: int) -> str:
    """What the driver writes whenever a trial begins or ends: the whole list of trials."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        manifest = Manifest(run, "search", Resources())
        for k in range(trials):
            arguments = {"setting": dict.fromkeys(("budget", "width", "levels", "epochs"), 1000), "seed": k, "cpus": 1, "gpus": 1}
            manifest.add(f"p100000_w16_s{k}", run.search_trial(f"p100000_w16_s{k}"), arguments, 100)
        start = time.perf_counter()
        for _ in range(5):
            manifest.write()
        milliseconds = 1000 * (time.perf_counter() - start) / 5
        return f"| {trials:,} | {manifest.path.stat().st_size / 1e6:.2f} | {milliseconds:.1f} |"


def print_storage() -> None:
    print("| width | checkpoint of a search, MB |\n|---|---|")
    for width in (16, 32, 64):
        print(f"| {width} | {checkpoint_bytes(replace(SIZES['cpu'], width=width)) / 1e6:.1f} |")
    print("\n| trials | list of trials, MB | one writing, ms |\n|---|---|---|")
    print("\n".join(manifest_row(trials) for trials in (100, 1000, 10_000)))
    print("\n| cases | finding one of a batch, ms |\n|---|---|")
    for cases in (100, 1000, 10_000, 100_000):
        print(f"| {cases:,} | {order_milliseconds(cases):.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=sorted(CHANGES), default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--storage", action="store_true", help="only what a study stores and its driver writes")
    parser.add_argument("--change", type=json.loads, help="only this one, as JSON; prints JSON")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    base = SIZES[given.base]
    if given.storage:
        print_storage()
        return
    if given.change is not None:
        print(json.dumps(measure(base, given.change, given.rounds)))
        return
    print(f"base: {base.label}\n\n| change | step, times the base | peak memory, MiB |\n|---|---|---|")
    for change in CHANGES[given.base]:
        command = [sys.executable, str(Path(__file__)), "--base", given.base, "--rounds", str(given.rounds)]
        command += ["--threads", str(given.threads), "--change", json.dumps(change)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        name = ", ".join(f"{key} {value}" for key, value in change.items()) or "none"
        print(f"| {name} | {found['ratio']:.2f} | {found['memory']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
