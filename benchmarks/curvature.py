"""Is the guard's running estimate of the dominant eigenvalue close to the eigenvalue? One search on DSB2018 at 48x48 pixels.

    python benchmarks/curvature.py

After each epoch it takes the estimate as a search does (one step of power iteration from the direction of the epoch before) and
the eigenvalue after 30 steps; prints both with their rank correlation. Needs THRIFTY_DATA.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from experiments import HALF  # noqa: E402

KEYS = (
    "name=evidence_curvature",
    "budgets=[10000]",
    "data.patch=48",
    "search.epochs=20",
    "search.steps=8",
    "search.warmup=4",
    *HALF,
)
STEPS = 30


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    from scipy import stats

    from thrifty.config import read_study, results_folder
    from thrifty.data.prepare import prepare
    from thrifty.results import open_run
    from thrifty.search.setting import settings_of
    from thrifty.search.trial import make_search
    from thrifty.space.schema import load_space
    from thrifty.train import choose_device, seed_everything

    study = read_study(HERE.parent / "tune_runs" / "dsb2018.yaml", KEYS)
    prepared = prepare(study, open_run(results_folder(study.name), study))
    setting = settings_of(study, load_space(study.space), prepared.store.channels, prepared.store.classes)[0]
    seed_everything(0, threads=1)
    search = make_search(study, load_space(study.space), prepared, setting, 0, choose_device("auto"))
    pairs = []
    for index in range(setting.epochs):
        row = search.epoch(index)
        if index < study.search.warmup:
            continue
        estimate = search.curvature(1 if pairs else 8)
        search.direction = estimate.direction
        settled = abs(search.curvature(STEPS).eigenvalue)
        pairs.append((abs(estimate.eigenvalue), settled))
        print(
            f"epoch {index}: estimate {pairs[-1][0]:.5f}, after {STEPS} steps {settled:.5f}, Dice {row['dice']:.3f}", flush=True
        )
    estimates, settled = zip(*pairs, strict=True)
    print(f"Spearman's rho {stats.spearmanr(estimates, settled).statistic:+.2f} over {len(pairs)} epochs")


if __name__ == "__main__":
    main()
