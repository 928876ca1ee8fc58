"""Does the selection find the front of a space that can be enumerated? Resumable, without ray.

    python benchmarks/truth.py table [--minutes 8]
    python benchmarks/truth.py compare [--seeds 20] [--uninformed]

`table` searches the space `tiny` twice on real images (DSB2018, patches of 48 pixels, width 8, three levels), then scores all of
its 4,608 labelled genotypes with the weights that they inherit of the first supernet, on one patch of each of 24 selection cases,
normalised by the statistics of that batch: benchmarks/results/truth.jsonl. Needs THRIFTY_DATA. `compare` needs that table only:
the selection, with look-ups as scores, against random genotypes, each with the same number of different genotypes scored;
hypervolume of the front (Dice against parameters, under a budget), interval over seeds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from thrifty.proposals import Group

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from experiments import HALF  # noqa: E402

TABLE = HERE / "results" / "truth.jsonl"
SEARCHES = HERE / "results" / "truth_searches.json"
WIDTH, LEVELS, BLOCK = 8, 3, 64
KEYS = (
    "name=truth",
    "space=tiny",
    "seeds=2",
    f"budgets=[{{parameters: 2600, width: {WIDTH}, levels: {LEVELS}}}]",
    "data.patch=48",
    "data.max_cases=160",
    "search.epochs=20",
    "search.steps=12",
    "search.warmup=5",
    *HALF,  # as the searches were made
    "select.recalibrate=2",
)


def make_table(minutes: float) -> None:
    """The searches, then all genotypes, block after block, until the time is up; run it again to go on."""
    import torch

    from thrifty.config import read_study, results_folder
    from thrifty.data.prepare import prepare
    from thrifty.nets.supernet import HardNetwork
    from thrifty.nets.supernet_file import load_supernet
    from thrifty.results import open_run
    from thrifty.search.setting import settings_of
    from thrifty.search.stage import arguments
    from thrifty.search.trial import search_trial
    from thrifty.space.schema import pin_space
    from thrifty.space.size import all_genotypes
    from thrifty.train import seed_everything

    start = time.perf_counter()
    study = read_study(HERE.parent / "tune_runs" / "dsb2018.yaml", KEYS)
    run = open_run(results_folder(study.name), study)
    prepared, space = prepare(study, run), pin_space(study, run)
    store = prepared.store
    (setting,) = settings_of(study, space, store.channels, store.classes)
    names = [setting.trial(seed) for seed in study.search_seeds]
    for name, seed in zip(names, study.search_seeds, strict=True):
        if not run.search_trial(name).done:
            search_trial(arguments(study, run, setting, seed), run.search_trial(name), lambda row: None)
            print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    write_searches(study, run, names, setting, store)
    from thrifty.data.batches import Batches
    from thrifty.data.prepare import training_normalisation
    from thrifty.nets.recalibrate import batch_statistics
    from thrifty.search.measures import batch_dice

    seed_everything(0, 1)
    normalisation = training_normalisation(study, store, prepared.splits)
    cases = tuple(store.indices(prepared.splits.selection))
    images, masks = Batches(store, cases, normalisation, study.data, len(cases), 1, torch.device("cpu")).plain(0)
    images = images.to(memory_format=torch.channels_last)
    supernet = load_supernet(run.search_trial(names[0]).weights, space)
    supernet.to(memory_format=torch.channels_last)

    def dice(genotype: Any) -> float:
        with torch.no_grad(), batch_statistics(supernet):
            return round(batch_dice(HardNetwork(supernet, genotype)(images).argmax(1), masks, store.classes), 5)

    genotypes = list(all_genotypes(space, WIDTH, LEVELS, store.channels, store.classes))
    done = {row["start"] for row in read_lines()}
    for first in range(0, len(genotypes), BLOCK):
        if first in done:
            continue
        if time.perf_counter() - start > 60 * minutes:
            print(f"{len(read_lines())} blocks of {BLOCK} are there; run it again to go on")
            return
        block = {"start": first, "dice": [dice(genotype) for genotype in genotypes[first : first + BLOCK]]}
        with TABLE.open("a") as file:
            file.write(json.dumps(block) + "\n")
    print(f"the table is complete: {len(genotypes)} genotypes, {len(cases)} selection cases")


def read_lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in TABLE.read_text().splitlines()] if TABLE.is_file() else []


def write_searches(study: Any, run: Any, names: list[str], setting: Any, store: Any) -> None:
    """What the selection needs of the searches: distributions, and the genotype decoded in every epoch."""
    from thrifty.results import read_json, read_jsonl, write_json

    searches = {
        name: {
            "distribution": read_json(run.search_trial(name).distribution),
            "decoded": [row["genotype"] for row in read_jsonl(run.search_trial(name).record)],
        }
        for name in names
    }
    shape = {"channels": store.channels, "classes": store.classes, "budget": setting.budget, "warmup": study.search.warmup}
    write_json(SEARCHES, {**shape, "searches": searches})


class Truth:
    """The table, and what the searches have learnt."""

    def __init__(self, uninformed: bool = False) -> None:
        from thrifty.space.cost import count
        from thrifty.space.genotype import canonical_json
        from thrifty.space.schema import load_space
        from thrifty.space.size import all_genotypes

        self.searches, self.uninformed = json.loads(SEARCHES.read_text()), uninformed
        self.space = load_space("tiny")
        shape = (WIDTH, LEVELS, self.searches["channels"], self.searches["classes"])
        self.genotypes = list(all_genotypes(self.space, *shape))
        blocks = {row["start"]: row["dice"] for row in read_lines()}
        dice = [value for start in sorted(blocks) for value in blocks[start]]
        if len(dice) != len(self.genotypes):
            sys.exit(f"{len(dice)} of {len(self.genotypes)} genotypes are scored; run `python benchmarks/truth.py table` first")
        self.dice, self.parameters = np.array(dice), np.array([count(g) for g in self.genotypes])
        self.index = {canonical_json(g): k for k, g in enumerate(self.genotypes)}

    def group(self, budget: int) -> Group:
        """The searches as the selection sees them."""
        from thrifty.pool import Origin, Pooled
        from thrifty.proposals import Group
        from thrifty.space.cost import Costs, count
        from thrifty.space.distribution import Distribution, uniform
        from thrifty.space.genotype import from_json, genotype_hash

        costs = Costs(self.space, WIDTH, LEVELS, self.searches["channels"], self.searches["classes"])
        if self.uninformed:
            return Group(budget, costs, {"uniform": uniform(self.space, LEVELS)})
        found = self.searches["searches"].items()
        distributions = {name: Distribution.from_json(self.space, one["distribution"]) for name, one in found}
        seen: dict[str, list[Any]] = {}
        for name, one in found:
            for epoch, value in enumerate(one["decoded"]):
                if epoch >= self.searches["warmup"]:
                    genotype = from_json(value)
                    seen.setdefault(genotype_hash(genotype), [genotype]).append((name, epoch, len(one["decoded"]) - 1 - epoch))
        pool = [
            Pooled(g, key, count(g), tuple(Origin(name, 2600, (epoch,), left) for name, epoch, left in origins))
            for key, (g, *origins) in seen.items()
        ]
        return Group(budget, costs, distributions, {}, tuple(sorted(pool, key=Pooled.rank)))

    def select(self, budget: int, number: int, seed: int) -> list[int]:
        """The first `number` different genotypes that a selection scores, as places in the table."""
        from thrifty.config import Select
        from thrifty.selection import Asked, search_budget
        from thrifty.space.genotype import canonical_json

        order: dict[int, None] = {}

        def score(asked: Sequence[Asked]) -> list[float]:
            places = [self.index[canonical_json(one.genotype)] for one in asked]
            order.update(dict.fromkeys(places))
            if len(order) >= number:
                raise StopIteration
            return [float(self.dice[place]) for place in places]

        with contextlib.suppress(StopIteration):
            search_budget(Select(samples=8 * number, seed=seed), [self.group(budget)], score)
        return list(order)[:number]

    def hypervolume(self, places: Sequence[int], budget: int) -> float:
        """Area that the front dominates, from the budget and the worst Dice of the table on."""
        kept = [place for place in places if self.parameters[place] <= budget]
        area, best = 0.0, float(self.dice.min())
        for place in sorted(kept, key=lambda place: (self.parameters[place], -self.dice[place])):
            if self.dice[place] > best:
                area += (budget - self.parameters[place]) * (self.dice[place] - best)
                best = self.dice[place]
        return area


def compare(seeds: int, uninformed: bool, shares: Sequence[float], fractions: Sequence[float]) -> None:
    from scipy import stats

    truth = Truth(uninformed)
    low, high = int(truth.parameters.min()), int(truth.parameters.max())
    print(f"{len(truth.genotypes)} genotypes, {low} to {high} parameters, Dice {truth.dice.min():.3f} to {truth.dice.max():.3f}")
    print("| budget | feasible | scored | selection | random | difference, 95 % over seeds | best Dice: selection, random, any |")
    print("|---|---|---|---|---|---|---|")
    for share in shares:
        budget = low + round(share * (high - low))
        feasible = np.flatnonzero(truth.parameters <= budget)
        whole = truth.hypervolume(feasible, budget)
        most = int(max(fractions) * len(feasible))
        chosen = [truth.select(budget, most, seed) for seed in range(seeds)]
        drawn = [np.random.default_rng(seed).permutation(feasible)[:most] for seed in range(seeds)]
        for fraction in fractions:
            number = int(fraction * len(feasible))
            ours, chance = ([truth.hypervolume(p[:number], budget) / whole for p in places] for places in (chosen, drawn))
            apart = np.array(ours) - np.array(chance)
            half = stats.t.ppf(0.975, seeds - 1) * stats.sem(apart)
            best = [np.mean([truth.dice[p[:number]].max() for p in places]) for places in (chosen, drawn)]
            print(
                f"| {budget:,} | {len(feasible):,} | {number} ({fraction:.1%}) | {np.mean(ours):.4f} | {np.mean(chance):.4f} | "
                f"{apart.mean() - half:+.4f} to {apart.mean() + half:+.4f} | "
                f"{best[0]:.4f}, {best[1]:.4f}, {truth.dice[feasible].max():.4f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("table", "compare"))
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--uninformed", action="store_true", help="the selection without what the searches learnt")
    given = parser.parse_args()
    if given.verb == "table":
        make_table(given.minutes)
    else:
        compare(given.seeds, given.uninformed, (0.4,), (0.005, 0.01, 0.02))


if __name__ == "__main__":
    main()
