"""Is a search better than chance? Searches, retrains and compares on real images; resumable, without ray.

    python benchmarks/evidence.py run EXPERIMENT [--workers 2] [--only PREFIX]
    python benchmarks/evidence.py report EXPERIMENT
    python benchmarks/evidence.py adopt EXPERIMENT --study FOLDER

`run` does the jobs that benchmarks/results/EXPERIMENT.jsonl has no row of yet, each in a process of its own, and adds a row
for each. Jobs: train/NETWORK/SEED (from scratch, Dice on the test cases), short/NETWORK/SEED (a quarter of the epochs, Dice on
the selection cases), search/VARIANT/SEED. A search ends with the selection of a study in small: samples around what was
learnt are scored with inherited weights, the best get a short training, and the best of those is "selected". What it decoded
and what was selected are both trained with the seed of the search. `adopt` takes over the baselines that a study with the same
data and recipe has trained and evaluated, from its run folder. Needs THRIFTY_DATA.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from experiments import EXPERIMENTS, VARIANTS, Experiment  # noqa: E402

from thrifty.config import Study, read_study, results_folder  # noqa: E402

CURVES = ("expected_parameters", "parameters", "curvature", "parameter_free", "dice_decoded")
AT_OTHER_WIDTHS = 3  # random genotypes
CANDIDATES = 11  # samples around what a search learnt
SHORT_SEED = 1000  # of the short trainings of a selection: none of those of the trainings that are compared


@dataclass(frozen=True)
class Context:
    """An experiment with its data at hand."""

    experiment: Experiment
    study: Study
    prepared: Any
    space: Any
    setting: Any


@lru_cache(maxsize=4)
def context(name: str, variant: str = "default") -> Context:
    from thrifty.data.prepare import prepare
    from thrifty.results import open_run
    from thrifty.search.setting import settle
    from thrifty.space.schema import load_space

    experiment = EXPERIMENTS[name]
    base = (f"name=evidence_{name}", f"budgets=[{experiment.budget}]", *experiment.overrides)
    path = HERE.parent / "tune_runs" / f"{experiment.study}.yaml"
    plain = read_study(path, base)
    prepared = prepare(plain, open_run(results_folder(plain.name), plain))
    study = read_study(path, (*base, *VARIANTS[variant]))
    space = load_space(study.space)
    setting = settle(study, space, study.budgets[0], prepared.store.channels, prepared.store.classes)
    return Context(experiment, study, prepared, space, setting)


def rows_path(name: str) -> Path:
    return HERE / "results" / f"{name}.jsonl"


def read_rows(name: str) -> dict[str, dict[str, Any]]:
    path = rows_path(name)
    lines = path.read_text().splitlines() if path.is_file() else []
    return {row["job"]: row for row in map(json.loads, lines)}


def random_genotypes(here: Context, width: int | None = None) -> list[Any]:
    """Different ones that use 85 to 100 % of the budget, at the width of the searches or at another one."""
    from thrifty.networks import random_genotypes as different
    from thrifty.space.cost import Costs
    from thrifty.space.decode import decode
    from thrifty.space.distribution import uniform

    setting, store = here.setting, here.prepared.store
    costs = Costs(here.space, width or setting.width, setting.levels, store.channels, store.classes)
    smallest = decode(uniform(here.space, setting.levels), costs, costs.smallest()).genotype  # other than all of them
    return different(costs, smallest, setting.budget, here.experiment.randoms if width is None else AT_OTHER_WIDTHS)


def jobs(name: str, done: dict[str, dict[str, Any]]) -> list[str]:
    """What can be done now, in a sensible order; trainings of decoded genotypes come up when their search is done."""
    e = EXPERIMENTS[name]
    found = [f"search/{v}/{s}" for v in e.variants for s in e.seeds]
    ready = [(v, s) for v in e.variants for s in e.seeds if f"search/{v}/{s}" in done]
    decoded = [f"train/{kind}{v}_{s}/{s}" for v, s in ready for kind in ("", "selected-")]
    random = [f"train/random_{i}/{s}" for s in e.random_seeds for i in range(e.randoms)]
    widths = [f"train/w{width}-random_{i}/{e.random_seeds[0]}" for i in range(AT_OTHER_WIDTHS) for width in e.widths]
    short = [f"short/random_{i}/100" for i in range(e.randoms)]
    baselines = [f"train/{b}/{s}" for b in e.baselines for s in e.seeds]
    return [job for job in (*found, *decoded, *random, *short, *widths, *baselines) if job not in done]


def run(name: str, workers: int, only: str, device: str) -> None:
    context(name)  # decodes the data before the workers need it
    while todo := [job for job in jobs(name, read_rows(name)) if job.startswith(only)]:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
            futures = [pool.submit(do, name, job, device) for job in todo]
            for future in as_completed(futures):
                row = future.result()
                with rows_path(name).open("a") as file:
                    file.write(json.dumps(row) + "\n")
                shown = {k: v for k, v in row.items() if isinstance(v, (int, float, str)) and k != "genotype"}
                print(json.dumps(shown), flush=True)


def do(name: str, job: str, device_name: str) -> dict[str, Any]:
    """One job, in a worker; returns its row."""
    from thrifty.train import choose_device, seed_everything

    kind, what, seed = job.split("/")
    seed_everything(int(seed), threads=1)
    start, device = time.perf_counter(), choose_device(device_name)
    work = {"search": search, "train": train, "short": short}[kind]
    row = work(name, what, int(seed), device)
    return {"job": job, **row, "seconds": round(time.perf_counter() - start, 1), "device": device.type}


def search(name: str, variant: str, seed: int, device: Any) -> dict[str, Any]:
    """One search; the Dice of its decoded genotype and of the random ones with inherited weights."""
    from thrifty.inference import inherited_dice
    from thrifty.nets.supernet import HardNetwork
    from thrifty.search.trial import make_search
    from thrifty.space.genotype import to_json

    here = context(name, variant)
    found = make_search(here.study, here.space, here.prepared, here.setting, seed, device)
    start = time.perf_counter()
    record = [found.epoch(index) for index in range(here.setting.epochs)]
    searching = time.perf_counter() - start
    decoded = found.decode()
    images = [found.data.weights.plain(step)[0] for step in range(here.study.select.recalibrate)]
    indices = here.prepared.store.indices(here.prepared.splits.selection)
    shared = (images, here.prepared.store, indices, found.data.weights.normalisation, here.study.evaluate, device)
    scores = [inherited_dice(HardNetwork(found.supernet, g), *shared) for g in (decoded.genotype, *random_genotypes(here))]
    selected = select(here, found, decoded.genotype, scores[0], shared, seed)
    last = {k: v for k, v in record[-1].items() if k not in ("genotype", "hash")}
    curves = {
        k: [row[k] for row in record]
        for k in ("expected_parameters", "parameters", "curvature", "parameter_free", "dice_decoded")
    }
    action = found.guard.action
    return {
        **last,
        "decoded": decoded.parameters,
        "budget": here.setting.budget,
        "width": here.setting.width,
        "inherited": scores[0],
        "inherited_random": scores[1:],
        "guard": None if action is None else action.as_json(),
        "searching": round(searching, 1),
        "curves": curves,
        "genotype": to_json(decoded.genotype),
        **selected,
    }


def select(here: Context, found: Any, decoded: Any, score: float, shared: tuple[Any, ...], seed: int) -> dict[str, Any]:
    """The selection of a study in small, with the supernet of one search: its candidates, finalists and choice."""
    from thrifty.inference import inherited_dice
    from thrifty.nets.build import genotype_spec
    from thrifty.nets.supernet import HardNetwork
    from thrifty.selection import perturb
    from thrifty.space.decode import decode
    from thrifty.space.genotype import genotype_hash, to_json

    start, rng = time.perf_counter(), np.random.default_rng([seed, 1])
    known = {genotype_hash(decoded): (score, decoded)}
    for stray in np.linspace(0.25, 2.0, CANDIDATES):
        genotype = decode(perturb(found.architecture.distribution(), stray, rng), found.costs, here.setting.budget).genotype
        if (key := genotype_hash(genotype)) not in known:
            known[key] = (inherited_dice(HardNetwork(found.supernet, genotype), *shared), genotype)
    best = sorted(known.values(), key=lambda item: -item[0])[: here.study.select.finalists]
    finalists = best if any(g is decoded for _, g in best) else [*best[:-1], (score, decoded)]
    specs = [genotype_spec("finalist", genotype, here.setting.budget) for _, genotype in finalists]
    dice = [train_spec(here, spec, SHORT_SEED + seed, shared[-1], short=True)["selection_dice"] for spec in specs]
    chosen = finalists[int(np.argmax(dice))][1]
    return {
        "finalists": [[round(s, 4), round(d, 4)] for (s, _), d in zip(finalists, dice, strict=True)],
        "selected_is_decoded": chosen is decoded,
        "selecting": round(time.perf_counter() - start, 1),
        "selected": to_json(chosen),
    }


def spec_of(name: str, network: str) -> Any:
    from thrifty.nets.build import baseline_spec, genotype_spec
    from thrifty.space.genotype import from_json

    here = context(name)
    store = here.prepared.store
    if network in ("unet", "unetpp", "scaled_unet"):
        return baseline_spec(network, store.channels, store.classes, here.experiment.budget)
    variant, _, number = network.rpartition("_")
    if variant == "random":
        return genotype_spec(network, random_genotypes(here)[int(number)], here.experiment.budget)
    if variant.endswith("-random"):
        width = int(variant.removeprefix("w").removesuffix("-random"))
        return genotype_spec(network, random_genotypes(here, width)[int(number)], here.experiment.budget)
    kind, _, searched = variant.rpartition("-")
    row = read_rows(name)[f"search/{searched}/{number}"]
    return genotype_spec(network, from_json(row[kind or "genotype"]), here.experiment.budget)


def train(name: str, network: str, seed: int, device: Any) -> dict[str, Any]:
    return train_spec(context(name), spec_of(name, network), seed, device)


def train_spec(here: Context, spec: Any, seed: int, device: Any, short: bool = False) -> dict[str, Any]:
    """A training from scratch; Dice on the test cases of the weights that are best on the selection cases, by patient.

    With `short` it is that of a selection's finalist, which is looked at on the selection cases only, at its end.
    """
    from thrifty.train import seed_everything

    seed_everything(seed, threads=1)
    from thrifty.inference import predict_cases
    from thrifty.nets.build import build_network
    from thrifty.retrain import still_improving
    from thrifty.scratch import make_trainee
    from thrifty.short import shortened

    study = shortened(here.study) if short else here.study
    built = build_network(spec).to(device)
    trainee = make_trainee(built, study, here.prepared, here.prepared.splits, seed, device)
    record = [{"epoch": index, **trainee.epoch(index)} for index in range(study.retrain.epochs)]
    row = {
        "parameters": spec.parameters,
        "steps": study.retrain.epochs * study.retrain.steps,
        "selection_dice": record[-1]["dice"],
    }
    if short:
        return row
    built.load_state_dict(trainee.best_weights)
    store = here.prepared.store
    test = store.indices(here.prepared.splits.test)
    by_patient: dict[str, list[float]] = {}
    from thrifty.metrics import foreground_dice

    for index, labels in predict_cases(built, store, test, trainee.normalisation, study.evaluate, device):
        by_patient.setdefault(store.cases[index].patient, []).append(foreground_dice(labels, store.mask(index), store.classes))
    patients = [round(float(np.mean(by_patient[p])), 4) for p in sorted(by_patient)]
    improving = still_improving(record)
    return {**row, "dice": float(np.mean(patients)), "still_improving": improving, "patients": patients}


def short(name: str, network: str, seed: int, device: Any) -> dict[str, Any]:
    here = context(name)
    return train_spec(here, spec_of(name, network), seed, device, short=True)


def adopt(name: str, folder: Path) -> None:
    """
    Raises:
        SystemExit: the study has other data or another recipe than the experiment.
    """
    import yaml

    here, done = context(name), read_rows(name)
    old, new = yaml.safe_load((folder / "run.yaml").read_text()), here.study.model_dump(mode="json")
    for part, keys in (("data", list(old["data"])), ("retrain", ["epochs", "steps", "batch", "optimiser", "validate_every"])):
        if any(old[part][key] != new[part][key] for key in keys):
            raise SystemExit(f"{folder} has another {part} than the experiment {name}: nothing is taken over")
    for path in sorted(folder.glob("evaluate/trials/*/seed_*/result.json")):
        measured, trained = json.loads(path.read_text()), json.loads((folder / "retrain" / Path(*path.parts[-3:])).read_text())
        network = measured["network"].removesuffix(f"_{here.experiment.budget}")
        job = f"train/{network}/{measured['seed']}"
        if network not in here.experiment.baselines or job in done:
            continue
        by_patient: dict[str, list[float]] = {}
        for row in measured["cases"]:
            by_patient.setdefault(row["patient"], []).append(row["dice"])
        patients = [round(float(np.mean(by_patient[p])), 4) for p in sorted(by_patient)]
        kept = {key: trained[key] for key in ("parameters", "steps", "still_improving", "device", "seconds")}
        row = {"job": job, **kept, "selection_dice": trained["dice"], "dice": float(np.mean(patients)), "patients": patients}
        with rows_path(name).open("a") as file:
            file.write(json.dumps({**row, "adopted": True}) + "\n")
        print(job)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["run", "report", "adopt"])
    parser.add_argument("experiment", choices=sorted(EXPERIMENTS))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="jobs that begin with this")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--study", type=Path, help="run folder of a study, for adopt")
    given = parser.parse_args()
    if given.verb == "run":
        run(given.experiment, given.workers, given.only, given.device)
    elif given.verb == "adopt":
        adopt(given.experiment, given.study)
    else:
        from evidence_report import report

        print(report(given.experiment, read_rows(given.experiment)))


if __name__ == "__main__":
    main()
