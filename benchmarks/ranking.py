"""Do inherited weights rank networks as retraining does? Kendall's tau, for the supernets of one or more runs. Without ray.

    python benchmarks/ranking.py FINISHED [SEARCHED ...] --budget 30000

FINISHED is a run folder whose networks have been retrained and evaluated. Each of those of the budget (found, decoded, random) is
scored with the weights that it inherits of every supernet of that width and budget in SEARCHED (by default FINISHED), as a
selection does, on the same selection cases; its truth is the mean Dice of its seeds on the test cases. Runs that are given
together need the same data and splits. Prints Markdown. Needs THRIFTY_DATA.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]


def genotypes_of(run: Any, budget: int) -> dict[str, Any]:
    """The genotypes of the networks of a budget, by name; equal ones once."""
    from thrifty.networks import read_networks
    from thrifty.space.genotype import genotype_hash

    specs = [spec for spec in read_networks(run).values() if spec.genotype is not None and spec.budget == budget]
    return {spec.name: spec.genotype for spec in {genotype_hash(spec.genotype): spec for spec in reversed(specs)}.values()}


def scores_of(run: Any, budget: int, genotypes: dict[str, Any]) -> dict[str, list[float]]:
    """Inherited Dice of each genotype, in order, by search."""
    import torch

    from thrifty.config import read_study
    from thrifty.data.batches import Batches
    from thrifty.data.prepare import prepare, training_normalisation
    from thrifty.inference import inherited_dice
    from thrifty.nets.supernet import HardNetwork
    from thrifty.nets.supernet_file import load_supernet
    from thrifty.results import read_jsonl
    from thrifty.space.schema import pin_space
    from thrifty.train import seed_everything

    seed_everything(0, threads=1)
    study = read_study(run.study, ())
    prepared, space, device = prepare(study, run), pin_space(study, run), torch.device("cpu")
    store, normalisation = prepared.store, training_normalisation(study, prepared.store, prepared.splits)
    weights = tuple(store.indices(prepared.splits.weights))
    batches = Batches(store, weights, normalisation, study.data, study.search.batch, 0, device)
    images = [batches.plain(step)[0] for step in range(study.select.recalibrate)]
    shared = (images, store, store.indices(prepared.splits.selection), normalisation, study.evaluate, device)
    found = {}
    for row in read_jsonl(run.candidates):
        if row["budget"] == budget:
            supernet = load_supernet(run.search_trial(row["trial"]).weights, space)
            found[row["trial"]] = [inherited_dice(HardNetwork(supernet, g), *shared) for g in genotypes.values()]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("finished", type=Path)
    parser.add_argument("searched", type=Path, nargs="*")
    parser.add_argument("--budget", type=int, required=True)
    given = parser.parse_args()
    from scipy.stats import kendalltau

    from thrifty.results import Run, read_json

    run = Run(given.finished)
    genotypes = genotypes_of(run, given.budget)
    truth = {network["name"]: network["dice"]["mean"] for network in read_json(run.summary)["networks"]}
    retrained = [truth[name] for name in genotypes]
    print("| run | supernets | networks | inherited Dice, range | tau of each | tau of their mean (p) |\n" + "|---" * 6 + "|")
    for folder in given.searched or [given.finished]:
        scores = np.array(list(scores_of(Run(folder), given.budget, genotypes).values()))
        each = [kendalltau(one, retrained).statistic for one in scores]
        mean = kendalltau(scores.mean(0), retrained)
        span = f"{scores.mean(0).min():.3f} to {scores.mean(0).max():.3f}"
        shown = f"{', '.join(f'{value:+.2f}' for value in each)} | {mean.statistic:+.2f} ({mean.pvalue:.2f})"
        print(f"| {folder.name} | {len(scores)} | {len(retrained)} | {span} | {shown} |")
    print("\n| network | test Dice |\n|---|---|")
    for name in sorted(genotypes, key=lambda name: -truth[name]):
        print(f"| {name} | {truth[name]:.4f} |")


if __name__ == "__main__":
    main()
