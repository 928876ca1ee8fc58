"""One Optuna parameter for each choice, or a few that an exact decoder completes? On a real space, under a hard budget.

    python benchmarks/blind.py scores [--minutes 8]
    python benchmarks/blind.py compare [--trials 500] [--seeds 3] [--budgets 30000 14000]

On the space `thrifty`, width 16, four levels, under a budget that most random genotypes keep and one that few do. `scores`
searches briefly on real images (DSB2018, patches of 48), then scores random genotypes with the weights that they inherit:
benchmarks/results/blind.jsonl; needs THRIFTY_DATA. `compare` needs those rows only: a forest that is fitted to them (and so
knows of combinations, which the model inside the proposals does not) is the value of any genotype. What is above the budget has
no value; it is told as infeasible, and is free, since counting costs nothing: they are compared after as many scored genotypes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from experiments import HALF  # noqa: E402

SCORES = HERE / "results" / "blind.jsonl"
SEARCH = HERE / "results" / "blind_search.json"
BUDGET, WIDTH, LEVELS, NUMBER = 30_000, 16, 4, 240
TIGHT = 14_000  # the smallest network has some 10,000
KEYS = (
    "name=blind",
    "seeds=1",
    f"budgets=[{{parameters: {BUDGET}, width: {WIDTH}, levels: {LEVELS}}}]",
    "data.patch=48",
    "data.max_cases=160",
    "search.epochs=10",
    "search.steps=6",
    "search.warmup=3",
    *HALF,  # as the searches were made
    "search.batch=4",
)


def make_scores(minutes: float) -> None:
    """One search, then random genotypes of any size until there are enough or the time is up; run it again to go on."""
    import torch

    from thrifty.config import read_study, results_folder
    from thrifty.data.batches import Batches
    from thrifty.data.prepare import prepare, training_normalisation
    from thrifty.nets.recalibrate import batch_statistics
    from thrifty.nets.supernet import HardNetwork
    from thrifty.nets.supernet_file import load_supernet
    from thrifty.results import open_run, read_json, write_json
    from thrifty.search.measures import batch_dice
    from thrifty.search.setting import settings_of
    from thrifty.search.stage import arguments
    from thrifty.search.trial import search_trial
    from thrifty.space.genotype import to_json
    from thrifty.space.sample import random_genotype
    from thrifty.space.schema import pin_space
    from thrifty.train import seed_everything

    start = time.perf_counter()
    study = read_study(HERE.parent / "tune_runs" / "dsb2018.yaml", KEYS)
    run = open_run(results_folder(study.name), study)
    prepared, space = prepare(study, run), pin_space(study, run)
    store = prepared.store
    (setting,) = settings_of(study, space, store.channels, store.classes)
    trial = run.search_trial(setting.trial(0))
    if not trial.done:
        search_trial(arguments(study, run, setting, 0), trial, lambda row: None)
        print(f"search: {time.perf_counter() - start:.0f} s", flush=True)
    shape = {"channels": store.channels, "classes": store.classes}
    write_json(SEARCH, {**shape, "distribution": read_json(trial.distribution)})
    seed_everything(0, 1)
    supernet = load_supernet(trial.weights, space)
    supernet.to(memory_format=torch.channels_last)
    cases = tuple(store.indices(prepared.splits.selection))[:16]
    normalisation = training_normalisation(study, store, prepared.splits)
    images, masks = Batches(store, cases, normalisation, study.data, len(cases), 1, torch.device("cpu")).plain(0)
    images = images.to(memory_format=torch.channels_last)
    for number in range(len(read_scores()), NUMBER):
        if time.perf_counter() - start > 60 * minutes:
            break
        genotype = random_genotype(space, WIDTH, LEVELS, store.channels, store.classes, np.random.default_rng(number))
        with torch.no_grad(), batch_statistics(supernet):
            dice = batch_dice(HardNetwork(supernet, genotype)(images).argmax(1), masks, store.classes)
        with SCORES.open("a") as file:
            kept = {key: value for key, value in to_json(genotype).items() if key in ("path", "down", "up")}
            file.write(json.dumps({"dice": round(dice, 5), **kept}) + "\n")
    print(f"{len(read_scores())} of {NUMBER} genotypes are scored")


def read_scores() -> list[dict[str, Any]]:
    return [json.loads(line) for line in SCORES.read_text().splitlines()] if SCORES.is_file() else []


class Problem:
    """The space, the learnt distribution, and a value of every genotype."""

    def __init__(self, budget: int) -> None:
        from sklearn.ensemble import RandomForestRegressor
        from sklearn.model_selection import cross_val_predict

        from thrifty.proposals import Group
        from thrifty.space.cost import Costs
        from thrifty.space.distribution import Distribution
        from thrifty.space.genotype import from_json, to_json
        from thrifty.space.sample import random_genotype
        from thrifty.space.schema import load_space
        from thrifty.surrogate import Terms

        search, space = json.loads(SEARCH.read_text()), load_space("thrifty")
        self.budget, self.space, shape = budget, space, (search["channels"], search["classes"])
        self.shape = shape
        self.costs = Costs(space, WIDTH, LEVELS, *shape)
        self.terms = Terms(self.costs)
        self.group = Group(budget, self.costs, {"search": Distribution.from_json(space, search["distribution"])})
        whole = to_json(random_genotype(space, WIDTH, LEVELS, *shape, np.random.default_rng(0)))
        rows = read_scores()
        features = np.stack([self.terms.of(from_json({**whole, **{k: r[k] for k in ("path", "down", "up")}})) for r in rows])
        dice = np.array([row["dice"] for row in rows])
        self.forest = RandomForestRegressor(60, min_samples_leaf=2, random_state=0)
        guessed = cross_val_predict(self.forest, features, dice, cv=8)
        self.forest.fit(features, dice)
        print(
            f"{len(rows)} scored genotypes, Dice {dice.min():.3f} to {dice.max():.3f}; the forest's correlation with Dice in "
            f"cross-validation is {np.corrcoef(guessed, dice)[0, 1]:.2f}"
        )

    def value(self, genotype: Any) -> float:
        return float(self.forest.predict(self.terms.of(genotype)[None])[0])


def plain_parameters(problem: Problem, sampler: Any, trials: int) -> list[float]:
    """One parameter for the path, each node's pair and each edge's op: the values of what was feasible."""
    import optuna

    from thrifty.space.cost import count

    study, values = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler), []
    for _ in range(trials):
        trial = study.ask()
        genotype = suggested(problem, trial)
        size = count(genotype)
        trial.set_constraint("parameters", size - problem.budget)
        value = problem.value(genotype) if size <= problem.budget else 0.0
        study.tell(trial, [value, size])
        if size <= problem.budget:
            values.append(value)
    return values


def suggested(problem: Problem, trial: Any) -> Any:
    from thrifty.space.distribution import pairs_of
    from thrifty.space.genotype import Cell, Edge, Genotype
    from thrifty.space.size import edge_options

    space, costs = problem.space, problem.costs
    paths = {"-".join(map(str, path)): path for path in costs.paths()}
    path = paths[trial.suggest_categorical("path", list(paths))]
    cells = []
    for t in ("down", "up"):
        nodes = []
        for k in range(space.nodes):
            pairs = {f"{a},{b}": (a, b) for a, b in pairs_of(k)}
            pair = pairs[trial.suggest_categorical(f"{t}_{k}_pair", list(pairs))]
            names = {s: [edge.op for edge in edge_options(space, t, s)] for s in range(k + 2)}
            ops = {s: trial.suggest_categorical(f"{t}_{k}_{s}", names[s]) for s in range(k + 2)}
            nodes.append((Edge(pair[0], ops[pair[0]]), Edge(pair[1], ops[pair[1]])))
        cells.append(Cell(tuple(nodes)))
    return Genotype(*cells, path, WIDTH, LEVELS, costs.channels, costs.classes, space.name, space.frame)


def with_decoder(problem: Problem, sampler: str, seed: int, trials: int) -> list[float]:
    """The proposals of `thrifty select`."""
    from thrifty.config import Select
    from thrifty.selection import Asked, search_budget

    values: list[float] = []

    def score(asked: Sequence[Asked]) -> list[float]:
        values.extend(found := [problem.value(one.genotype) for one in asked])
        return found

    settings = Select.model_validate({"sampler": sampler, "seed": seed, "samples": trials, "pool": 0})
    search_budget(settings, [problem.group], score)
    return values[:trials]


AFTER = (20, 50, 100, 200)


def compare(trials: int, seeds: int, budget: int) -> None:
    import optuna

    from thrifty.config import Select
    from thrifty.selection import make_sampler
    from thrifty.space.cost import count
    from thrifty.space.decode import decode
    from thrifty.space.sample import random_genotype

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    problem = Problem(budget)
    rng = np.random.default_rng(0)
    drawn = [random_genotype(problem.space, WIDTH, LEVELS, *problem.shape, rng) for _ in range(1000)]
    kept = np.mean([count(genotype) <= budget for genotype in drawn])
    decoded = decode(problem.group.distributions["search"], problem.costs, budget).genotype
    print(
        f"budget {budget:,}: {kept:.1%} of 1,000 random genotypes keep it; the search decodes to {problem.value(decoded):.4f}\n"
    )
    methods: dict[str, Callable[[int], list[float]]] = {}
    for name in ("random", "tpe", "nsga2"):

        def blind(seed: int, name: str = name) -> list[float]:
            return plain_parameters(problem, make_sampler(Select.model_validate({"sampler": name, "seed": seed})), trials)

        methods[f"one parameter for each choice, {name}"] = blind
    for name in ("random", "tpe"):

        def few(seed: int, name: str = name) -> list[float]:
            return with_decoder(problem, name, seed, max(AFTER))

        methods[f"few parameters and the decoder, {name}"] = few
    head = [f"best of the first {number} scored" for number in AFTER]
    print("| method | scored | " + " | ".join(head) + " |\n" + "|---" * (2 + len(AFTER)) + "|")
    for name, method in methods.items():
        runs = [method(seed) for seed in range(seeds)]
        cells = []
        for number in AFTER:
            best = np.array([max(values[:number], default=0.0) for values in runs])
            cells.append(f"{best.mean():.4f} ± {best.std(ddof=1):.4f}" if min(map(len, runs)) >= number else "")
        print(f"| {name} | {np.mean([len(values) for values in runs]):.0f} | " + " | ".join(cells) + " |", flush=True)
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("scores", "compare"))
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--trials", type=int, default=500, help="of one parameter for each choice")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budgets", type=int, nargs="*", default=[BUDGET, TIGHT])
    given = parser.parse_args()
    if given.verb == "scores":
        make_scores(given.minutes)
        return
    for budget in given.budgets:
        compare(given.trials, given.seeds, budget)


if __name__ == "__main__":
    main()
