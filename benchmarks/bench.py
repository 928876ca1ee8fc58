"""Ratios of what steps cost, every pair measured alternately in one run; peak memory of each in a process of its own.

    python benchmarks/bench.py [--size cpu|gpu|small] [--rounds 7] [--threads N] [--only NAME ...]

Prints a table in Markdown, and with --write keeps it in benchmarks/RESULTS.md, in the place of the one of the same size: so does
`make bench`. Medians.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path

import torch
from steps import CONTENDERS, SIZES, STEPS_IN_ONE, Size, Step

REFERENCE = "search"
RESULTS = Path(__file__).with_name("RESULTS.md")
TITLE = "# What a step costs\n\nWritten by `python benchmarks/bench.py --write` (`make bench`).\n"


def seconds_of(
    steps: Mapping[str, Step], device: torch.device, rounds: int, clock: Callable[[], float], first: int = 1
) -> dict[str, list[float]]:
    """Seconds of one step, `rounds` times each after `first` that warm up, all in turn: what slows the machine slows them all."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(first + rounds):
        for name, step in steps.items():
            start = clock()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number >= first:
                times[name].append((clock() - start) / STEPS_IN_ONE)
    return times


def memory_of(name: str, size_name: str, threads: int) -> float:
    """Peak memory (MiB) that the steps of a contender add to a process that has made it; on a GPU what torch has allocated."""
    command = [sys.executable, __file__, "--memory", name, "--size", size_name, "--threads", str(threads)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def measure_memory(name: str, size: Size, device: torch.device) -> float:
    CONTENDERS[name](SIZES["small"], device)()  # imports what a step imports
    step = CONTENDERS[name](size, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() / 2**20
    return peak_of(step)


def peak_of(work: Callable[[], object]) -> float:
    """Peak memory (MiB) that a piece of work adds to this process."""
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew: that of the imports is no one's
    work()
    return (resident("VmHWM") - before) / 1024


def resident(key: str) -> int:
    """Memory of this process, KiB: 'VmRSS' now, 'VmHWM' at its peak (proc(5))."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def machine(device: torch.device, threads: int) -> str:
    what = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()}, {os.cpu_count()} cores"
    return f"{date.today()}, {what}, {threads} threads, torch {torch.__version__}, Python {platform.python_version()}"


def table(times: dict[str, list[float]], memory: dict[str, float]) -> str:
    """Each contender against the search: ratios of rounds, so that a slow moment of the machine cancels."""
    lines = ["| step | ms, median | times that of the search, median (range) | peak memory, MiB | times |"]
    lines.append("|---|---|---|---|---|")
    for name, found in times.items():
        ratios = [a / b for a, b in zip(found, times[REFERENCE], strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        share = memory[name] / memory[REFERENCE]
        lines.append(f"| {name} | {1000 * statistics.median(found):.0f} | {spread} | {memory[name]:.0f} | {share:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", nargs="*", choices=sorted(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument(
        "--cpu-time", action="store_true", help="of this process, in place of wall time: where others compute too"
    )
    parser.add_argument("--no-memory", action="store_true", help="times alone")
    parser.add_argument("--write", action="store_true", help=f"into {RESULTS.name}")
    parser.add_argument("--memory", choices=sorted(CONTENDERS), help="only the peak memory of one contender")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    size, device = SIZES[given.size], torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if given.memory:
        print(measure_memory(given.memory, size, device))
        return
    names = [REFERENCE, *(name for name in given.only if name != REFERENCE)]
    memory = {name: math.nan if given.no_memory else memory_of(name, given.size, given.threads) for name in names}
    steps = {name: CONTENDERS[name](size, device) for name in names}
    times = seconds_of(steps, device, given.rounds, time.process_time if given.cpu_time else time.perf_counter)
    clock = "CPU time" if given.cpu_time else "wall time"
    about = f"{machine(device, given.threads)}; {clock}, {given.rounds} rounds of {STEPS_IN_ONE} steps"
    text = f"## {given.size}: {size.label}\n\n{about}\n\n{table(times, memory)}\n"
    print(text)
    if given.write:
        keep(given.size, text)


def keep(name: str, text: str) -> None:
    """Puts the section of a size into the results; the others stay."""
    before = RESULTS.read_text() if RESULTS.is_file() else TITLE
    sections = [part for part in before.split("\n## ")[1:] if not part.startswith(f"{name}: ")]
    parts = [part.rstrip() for part in (*sections, text.removeprefix("## "))]
    RESULTS.write_text("\n## ".join([TITLE, *(f"{part}\n" for part in parts)]))


if __name__ == "__main__":
    main()
