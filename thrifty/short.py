"""Short trainings of the selection: the finalists from scratch, by the recipe of `retrain` with fewer epochs.

Each network is trained once, whatever the number of budgets that it is a finalist of. Its canonical genotype is trained, so that
the outcome does not depend on which of its equivalent forms was scored best.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thrifty.config import Study
from thrifty.data.prepare import open_prepared
from thrifty.nets.build import build_network, genotype_spec
from thrifty.results import Run, Trial, read_json, read_run
from thrifty.scratch import make_trainee
from thrifty.space.genotype import canonical, from_json, load, save
from thrifty.train import Report, choose_device, finish, run_epochs, seed_everything, threads_for

if TYPE_CHECKING:
    from thrifty.trials import Spec

SCHEMA = 1
SEED = 0x7368_6F72  # the first one: 'shor', so that no retraining begins with the weights and batches that decided


def train_finalists(study: Study, run: Run, finalists: Iterable[dict[str, Any]]) -> dict[str, list[float]]:
    """Trains what is not trained yet, as trials of the stage `select`.

    Args:
        finalists: rows with hash and genotype; a network that comes more than once is trained once.

    Returns:
        By hash, the Dice on the selection cases at the end of the training with each seed.

    Raises:
        ThriftyError: trials that failed, or an interruption; what has finished is kept.
    """
    from thrifty.trials import run_trials

    genotypes = {row["hash"]: row["genotype"] for row in finalists}
    for network, genotype in genotypes.items():
        if not run.short_genotype(network).is_file():
            save(run.short_genotype(network), canonical(from_json(genotype, study.allow_code)))
    seeds = range(study.select.short_seeds)
    specs = [_spec(study, run, network, seed) for seed in seeds for network in genotypes]
    run_trials("select", short_trial, specs, study.resources, run)
    return {network: [read_json(run.short_trial(network, seed).result)["dice"] for seed in seeds] for network in genotypes}


def _spec(study: Study, run: Run, network: str, seed: int) -> Spec:
    from thrifty.trials import Spec

    arguments = {"run": str(run.root), "network": network, "seed": seed, **study.resources.as_arguments()}
    return Spec(trial_name(network, seed), run.short_trial(network, seed), arguments, study.short_epochs)


def trial_name(network: str, seed: int) -> str:
    return f"short/{network}/seed_{seed}"


def shortened(study: Study) -> Study:
    """The study with the recipe of the short trainings: the same but for the epochs, and the only look is after the last one."""
    epochs = study.short_epochs
    recipe = study.retrain.model_copy(update={"epochs": epochs, "validate_every": epochs})
    return study.model_copy(update={"retrain": recipe})


def short_trial(arguments: dict[str, Any], trial: Trial, report: Report) -> None:
    """One short training from scratch, resumed from its checkpoint where there is one.

    Trains on the weights and architecture cases; its Dice is that on the selection cases at the end, no earlier epoch counts.
    Writes epochs.jsonl and, last, result.json.

    Args:
        arguments: run (folder), network (hash of its genotype), seed (from 0), device, cpus, gpus.
        trial: where to write.
        report: is given each epoch's record.

    Raises:
        ThriftyError: the loss is no longer finite.
    """
    study, run = read_run(Path(arguments["run"]))
    short, prepared = shortened(study), open_prepared(run)
    spec = genotype_spec(arguments["network"], load(run.short_genotype(arguments["network"]), study.allow_code), None)
    device = choose_device(arguments["device"])
    seed = SEED + arguments["seed"]
    seed_everything(seed, threads_for(arguments["cpus"]))
    trainee = make_trainee(build_network(spec).to(device), short, prepared, prepared.splits, seed, device)
    record = run_epochs(trainee, short.retrain.epochs, trial, report)
    result = {
        "schema": SCHEMA,
        "trial": trial_name(arguments["network"], arguments["seed"]),
        "hash": arguments["network"],
        "parameters": spec.parameters,
        "seed": arguments["seed"],
        "epochs": short.retrain.epochs,
        "steps": short.retrain.epochs * short.retrain.steps,
        "dice": record[-1]["dice"],
    }
    finish(trial, result, record, arguments, device)
