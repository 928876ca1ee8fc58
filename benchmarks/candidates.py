"""Candidates a minute: a supernet in hard mode against building each network, and what keeping the cases is worth.

    python benchmarks/candidates.py [--candidates 8] [--rounds 2]

Three ways to the same number, Dice on the selection cases of DSB2018_96 with inherited weights and renewed statistics; the ways
take turns on each candidate, so that whatever else the machine does meets all of them:

- kept: as `thrifty select` does it: supernet and cases are kept by the worker, nothing is built or read;
- built: the cases are kept too, but the derived network is built, given the weights (`nets.inherit`) and run;
- read: hard mode, but cases and images for the statistics are prepared again for each candidate, as it was before.

The supernet has the width and levels of the study's budget of 0.03 M and untrained weights, which cost as much time as trained
ones. One row for each way, to stdout. Needs THRIFTY_DATA; writes a run folder below THRIFTY_RESULTS.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from thrifty.results import Run
    from thrifty.space.genotype import Genotype

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

BUDGET = 30_000
KEYS = ("name=bench_candidates", f"budgets=[{BUDGET}]")
SUPERNET = "untrained"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    wanted = parser.parse_args()
    run, genotypes = made(wanted.candidates)
    ways = {"kept": kept(run), "built": built(run), "read": read(run)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, list[float]] = {name: [] for name in ways}
    ways["kept"](genotypes[0])  # loads the supernet and the cases
    for k in range(wanted.rounds):
        for place, genotype in enumerate(genotypes):
            names = list(ways)
            first = (k + place) % len(names)
            for name in names[first:] + names[:first]:
                start = time.process_time()
                found[name].append(ways[name](genotype))
                seconds[name].append(time.process_time() - start)
    base = np.array(seconds["kept"])
    for name, taken in seconds.items():
        apart = np.abs(np.array(found[name]) - np.array(found["kept"])).max()
        ratio = np.median(np.array(taken) / base)
        print(f"{name:6} {60 / np.mean(taken):6.1f} candidates a minute, {ratio:.2f} times kept (median), Dice apart {apart:.1e}")


def made(number: int) -> tuple[Run, list[Genotype]]:
    """A run folder with data and a supernet, and random genotypes that fill the budget."""
    import torch

    from thrifty.config import read_study, results_folder
    from thrifty.data.prepare import prepare
    from thrifty.nets.supernet import Supernet
    from thrifty.nets.supernet_file import save_supernet
    from thrifty.results import open_run
    from thrifty.search.setting import settings_of
    from thrifty.space.sample import random_genotype
    from thrifty.space.schema import load_space

    study = read_study(HERE.parent / "tune_runs" / "dsb2018.yaml", KEYS)
    run = open_run(results_folder(study.name), study)
    store, space = prepare(study, run).store, load_space(study.space)
    (setting,) = settings_of(study, space, store.channels, store.classes)
    place = (setting.width, setting.levels, store.channels, store.classes)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    save_supernet(run.search_trial(SUPERNET).weights, Supernet(space, *place), store.channels, store.classes)
    rng = np.random.default_rng(0)
    return run, [random_genotype(space, *place, rng, int(0.85 * BUDGET), BUDGET) for _ in range(number)]


def kept(run: Run) -> Callable[[Genotype], float]:
    from thrifty.scoring import score
    from thrifty.space.genotype import to_json

    shared = {"run": str(run.root), "trials": [SUPERNET], "cpus": 1, "device": "cpu"}
    return lambda genotype: score({**shared, "genotype": to_json(genotype)}).dice[0]


def built(run: Run) -> Callable[[Genotype], float]:
    import torch

    from thrifty.inference import batches_dice
    from thrifty.nets.derived import DerivedNetwork
    from thrifty.nets.inherit import inherit
    from thrifty.nets.recalibrate import recalibrate
    from thrifty.scoring import open_cases, open_supernet

    cpu = torch.device("cpu")

    def dice(genotype: Genotype) -> float:
        cases, supernet = open_cases(str(run.root), cpu), open_supernet(str(run.root), SUPERNET, cpu)
        network = DerivedNetwork(genotype)
        inherit(network, supernet)
        network.to(memory_format=torch.channels_last)
        recalibrate(network, cases.training)
        return batches_dice(network, cases.kept, cases.store, cases.study.evaluate)

    return dice


def read(run: Run) -> Callable[[Genotype], float]:
    import torch

    from thrifty.scoring import open_cases, open_supernet

    cpu = torch.device("cpu")
    prepare_again = open_cases.__wrapped__

    def dice(genotype: Genotype) -> float:
        return prepare_again(str(run.root), cpu).dice(open_supernet(str(run.root), SUPERNET, cpu), genotype)

    return dice


if __name__ == "__main__":
    main()
