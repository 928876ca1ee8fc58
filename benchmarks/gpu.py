"""What a GPU gains from precision, layout, compilation, and from several trials on it at once.

    python benchmarks/gpu.py [--size gpu|cpu|small] [--rounds 7] [--only NAME ...] [--settings NAME ...]
        [--packed 4] [--seconds 20] [--write]

Steps of each contender as they are (eager float32) and under each setting, in turn, as ratios to the former; then `--packed`
processes that train searches at once against one alone: steps a second of all together over that of one, which is what
packed trials gain over trials in turn. Prints Markdown; with --write into benchmarks/GPU.md.
Runs on a CPU too, to see that it runs, but compiling takes minutes there. A setting is kept only if Dice is equal:
`evidence.py` says so, not this.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from bench import machine, seconds_of
from steps import CONTENDERS, SIZES, STEPS_IN_ONE, Size, Step
from torch import nn

RESULTS = Path(__file__).with_name("GPU.md")
STEPPED = ("search", "search, mixture", "derived network", "U-Net 7.76 M")
SETTINGS = ("eager float32", "tf32", "bf16", "compiled", "bf16, compiled", "bf16, compiled, CUDA graphs")


def under(setting: str, name: str, size: Size, device: torch.device) -> Step:
    """A step of a contender under a setting. What is compiled is the forward pass of every network, with static shapes;
    a search of sampled networks has none, since every step runs another network."""
    kept = nn.Module.to
    if "compiled" in setting:
        mode = "reduce-overhead" if "CUDA graphs" in setting else "default"

        def compiled(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
            moved = kept(module, *args, **kwargs)
            moved.compile(mode=mode, dynamic=False)
            return moved

        nn.Module.to = compiled  # type: ignore[method-assign]
    try:
        step = CONTENDERS[name](size, device)
    finally:
        nn.Module.to = kept  # type: ignore[method-assign]

    def stepped() -> None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = setting != "eager float32"
        with torch.autocast(device.type, torch.bfloat16) if "bf16" in setting else nullcontext():
            step()

    return stepped


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def rows_of(name: str, size: Size, device: torch.device, rounds: int, settings: list[str]) -> list[str]:
    steps, refused = dict[str, Step](), list[str]()
    for setting in [SETTINGS[0], *(one for one in settings if one != SETTINGS[0])]:
        try:
            step = under(setting, name, size, device)
            step()  # compiles, so what cannot be compiled is told here and stops no other
            steps[setting] = step
        except (RuntimeError, AssertionError) as error:
            refused.append(f"| {name} | {setting} | – | {str(error).splitlines()[0][:80]} |")
    times = seconds_of(steps, device, rounds, time.perf_counter, first=2)
    base = times[SETTINGS[0]]
    rows = []
    for setting, found in times.items():
        gain = statistics.median(a / b for a, b in zip(base, found, strict=True))
        rows.append(f"| {name} | {setting} | {1000 * statistics.median(found):.1f} | {gain:.2f} |")
    return rows + refused


def steps_a_second(place: int, size: Size, seconds: float, ready: Any, found: Any) -> None:
    """Of one process with a search of its own; all begin together."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    torch.manual_seed(place)
    step = CONTENDERS["search"](size, device)
    for _ in range(2):
        step()
    _wait(device)
    ready.wait()
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        step()
        _wait(device)
        count += STEPS_IN_ONE
    found.put(count / (time.perf_counter() - start))


def packed(size: Size, number: int, seconds: float) -> float:
    """Steps a second of `number` searches at once, summed."""
    context = multiprocessing.get_context("spawn")
    ready, found = context.Barrier(number), context.Queue()
    workers = [context.Process(target=steps_a_second, args=(k, size, seconds, ready, found)) for k in range(number)]
    for worker in workers:
        worker.start()
    total = sum(found.get() for _ in workers)
    for worker in workers:
        worker.join()
    return total


def packing(size: Size, most: int, seconds: float) -> list[str]:
    alone = packed(size, 1, seconds)
    rows = [f"| 1 | {alone:.2f} | 1.00 |"]
    number = 2
    while number <= most:
        together = packed(size, number, seconds)
        rows.append(f"| {number} | {together:.2f} | {together / alone:.2f} |")
        number *= 2
    return ["| searches at once | steps a second, all together | times one alone |", "|---|---|---|", *rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="gpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="*", choices=STEPPED, default=list(STEPPED))
    parser.add_argument("--settings", nargs="*", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--packed", type=int, default=4, help="at most as many searches at once")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each number of searches at once")
    parser.add_argument("--write", action="store_true", help=f"into {RESULTS.name}")
    given = parser.parse_args()
    size, device = SIZES[given.size], torch.device("cuda" if torch.cuda.is_available() else "cpu")
    lines = [f"## {size.label}", "", machine(device, torch.get_num_threads()), ""]
    lines += ["| step | setting | ms, median | times as fast |", "|---|---|---|---|"]
    for name in given.only:
        lines += rows_of(name, size, device, given.rounds, given.settings)
    lines += ["", *packing(size, given.packed, given.seconds)]
    text = "\n".join(lines) + "\n"
    print(text)
    if given.write:
        RESULTS.write_text(f"# On a GPU\n\nWritten by `python benchmarks/gpu.py --write`.\n\n{text}")


if __name__ == "__main__":
    main()
