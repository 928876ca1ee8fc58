"""What there is around the trials: trials that sleep on a real Ray, reports with checkpoints, and the start of the program.

    python benchmarks/overhead.py [--sleep 2] [--slots 2] [--trials 16] [--checkpoint-mb 3]

Prints Markdown. On two quiet cores about five minutes: trials that only sleep, so that any number of slots can be asked for, and
beside them as many real searches of the demo, which share cores and caches.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from thrifty import checkpoint
from thrifty.config import Resources
from thrifty.results import Run, Trial, write_json, write_jsonl

EPOCH = 30.0  # seconds, of which report and checkpoint may take 2 %


def sleeping_trial(arguments: dict[str, Any], trial: Trial, report: Any) -> None:
    """Sleeps for as long as `arguments` say in each epoch, then writes and reports as a search does."""
    import torch

    record, seconds = [], []
    for epoch in range(arguments["epochs"]):
        time.sleep(arguments["sleep"])
        start = time.perf_counter()
        content = {"trainee": {"weights": torch.zeros(arguments["checkpoint_bytes"] // 4)}, "record": record}
        checkpoint.save(trial, checkpoint.encode(content), epoch)
        record.append({"epoch": epoch, "dice": 0.5, "seconds": arguments["sleep"]})
        write_jsonl(trial.record, record)
        report(record[-1])
        seconds.append(time.perf_counter() - start)
    write_json(trial.result, {"value": 0, "around": seconds})


def wall(trials: int, sleep: float, size: int, epochs: int = 1) -> tuple[float, list[float]]:
    """Seconds of a stage of equal trials, and the seconds of every report and checkpoint within it."""
    from thrifty.trials import Spec, run_trials

    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "run")
        arguments = {"run": str(run.root), "epochs": epochs, "sleep": sleep, "checkpoint_bytes": size}
        specs = [Spec(f"t{k}", Trial(run.root / "search" / f"t{k}"), arguments, epochs) for k in range(trials)]
        start = time.perf_counter()
        run_trials("search", sleeping_trial, specs, Resources(), run)
        seconds = time.perf_counter() - start
        from thrifty.results import read_json

        return seconds, [value for spec in specs for value in read_json(spec.trial.result)["around"]]


def wall_of_searches(seeds: int) -> float:
    """Seconds of the searches of the demo at its smaller budget, data and workers ready."""
    from thrifty.config import read_study
    from thrifty.data.prepare import prepare
    from thrifty.results import open_run
    from thrifty.search.stage import run_stage

    demo = Path(__file__).resolve().parent.parent / "tune_runs" / "demo.yaml"
    study = read_study(demo, (f"seeds={seeds}", "budgets=[6000]"))
    with tempfile.TemporaryDirectory() as folder:
        run = open_run(Path(folder) / "run", study)
        prepare(study, run)
        start = time.perf_counter()
        run_stage(study, run)
        return time.perf_counter() - start


def program_rows() -> list[str]:
    """Median of five starts of the program, in a process each."""
    commands = {
        "python alone": [sys.executable, "-c", "pass"],
        "import thrifty": [sys.executable, "-c", "import thrifty"],
        "thrifty --help": [sys.executable, "-m", "thrifty", "--help"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(5):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - start)
    return [f"| {name} | {statistics.median(values):.2f} s |" for name, values in seconds.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sleep", type=float, default=2.0, help="seconds of a trial")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--checkpoint-mb", type=float, default=3.0)
    given = parser.parse_args()
    rows = program_rows()
    from thrifty.trials_connect import LOCAL, LOGS, ray

    size = int(given.checkpoint_mb * 1e6)
    ray.init("local", num_cpus=given.slots, num_gpus=0, **LOGS, **LOCAL)
    first, _ = wall(given.slots, given.sleep, size)  # starts the workers, which import torch
    one, _ = wall(1, given.sleep, size)
    all_, _ = wall(given.trials, given.sleep, size)
    rounds = -(-given.trials // given.slots)
    again = (all_ - one) / max(1, rounds - 1) - given.sleep
    _, around = wall(1, 0.0, size, epochs=20)
    one_real, all_real = wall_of_searches(1), wall_of_searches(given.trials)
    ray.shutdown()
    share = 100 * statistics.median(around) / EPOCH
    print("\n| what | measured |\n|---|---|")
    print("\n".join(rows))
    print(f"| first stage ({given.slots} trials of {given.sleep:g} s, import of torch included) | {first:.1f} s |")
    print(f"| one trial of {given.sleep:g} s, workers there | {one:.2f} s |")
    print(f"| {given.trials} trials on {given.slots} slots | {all_:.1f} s, {all_ / (rounds * one):.2f} of {rounds} times one |")
    real = f"{all_real:.1f} s, {all_real / (rounds * one_real):.2f} of {rounds} times one ({one_real:.1f} s)"
    print(f"| {given.trials} real searches on {given.slots} slots | {real} |")
    print(f"| overhead of a trial after the first | {again:.2f} s |")
    reported = f"{1000 * statistics.median(around):.0f} ms, {share:.2f} % of 30 s"
    print(f"| report and checkpoint of {given.checkpoint_mb:g} MB | {reported} |")


if __name__ == "__main__":
    main()
