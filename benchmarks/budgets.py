"""Does a search end where its budget is? Five budgets spread over what the space `thrifty` builds; resumable, without ray.

    python benchmarks/budgets.py

Each search is short and on small patches (DSB2018 at 48x48 pixels), since only the budget is looked at. One row a search in
benchmarks/results/budgets.jsonl: what the space can build at the derived width, the expected size at the end, the decoded size,
how far the two are apart, and the share of the budget that is left idle. Needs THRIFTY_DATA.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

BUDGETS = (3_000, 10_000, 30_000, 100_000, 300_000)
SEEDS = (0, 1)
KEYS = (
    "name=evidence_budgets",
    f"budgets={list(BUDGETS)}",
    "data.patch=48",
    "search.epochs=30",
    "search.steps=4",
    "search.batch=4",
    "search.warmup=5",
)
ROWS = HERE / "results" / "budgets.jsonl"


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    import torch

    from thrifty.config import read_study, results_folder
    from thrifty.data.prepare import prepare
    from thrifty.results import open_run
    from thrifty.search.setting import settings_of
    from thrifty.search.trial import make_search
    from thrifty.space.schema import load_space
    from thrifty.train import choose_device, seed_everything

    study = read_study(HERE.parent / "tune_runs" / "dsb2018.yaml", KEYS)
    prepared = prepare(study, open_run(results_folder(study.name), study))
    space = load_space(study.space)
    done = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.is_file() else []
    settings = settings_of(study, space, prepared.store.channels, prepared.store.classes)
    for seed in SEEDS:
        for setting in settings:
            if any((row["budget"], row["seed"]) == (setting.budget, seed) for row in done):
                continue
            seed_everything(seed, torch.get_num_threads())
            search = make_search(study, space, prepared, setting, seed, choose_device("auto"))
            start = time.perf_counter()
            record = [search.epoch(index) for index in range(setting.epochs)]
            last, costs = record[-1], search.costs
            row = {
                "budget": setting.budget,
                "seed": seed,
                "width": setting.width,
                "levels": setting.levels,
                "smallest": costs.smallest(),
                "largest": costs.largest(),
                "expected": round(last["expected_parameters"]),
                "decoded": last["parameters"],
                "apart": abs(last["parameters"] - last["expected_parameters"]) / setting.budget,
                "idle": 1 - last["parameters"] / setting.budget,
                **{key: last[key] for key in ("entropy_alpha", "entropy_beta", "entropy_gamma", "dice", "dice_decoded")},
                "expected_by_epoch": [round(r["expected_parameters"]) for r in record],
                "decoded_by_epoch": [r["parameters"] for r in record],
                "seconds": round(time.perf_counter() - start, 1),
            }
            with ROWS.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print({key: value for key, value in row.items() if not key.endswith("_by_epoch")}, flush=True)


if __name__ == "__main__":
    main()
