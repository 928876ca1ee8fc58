"""Short trainings of the selection: the finalists from scratch, by the recipe of `retrain` with fewer epochs.

Each network is trained once in a round, whatever the number of budgets that it is a finalist of. Its canonical genotype is
trained, so that the outcome does not depend on which of its equivalent forms was scored best.

A longer round begins anew, with other initial weights and batches. The learning rate of every training falls to zero along its
own cosine, so an end that is continued would need a learning rate that no retraining has at that place; and luck with the first
seed is not carried into the round that decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thrifty.config import Study
from thrifty.copies import here
from thrifty.data.prepare import open_prepared
from thrifty.nets.build import build_network, genotype_spec
from thrifty.prior import begin_at_frequencies
from thrifty.results import Run, Trial, read_json, read_run
from thrifty.scratch import make_trainee
from thrifty.space.genotype import canonical, from_json, load, save
from thrifty.train import Report, choose_device, finish, run_epochs, seed_everything, threads_for

if TYPE_CHECKING:
    from thrifty.trials import Spec

SCHEMA = 1
SEED = 0x7368_6F72  # the first one: 'shor', so that no retraining begins with the weights and batches that decided
NEXT_ROUND = 1 << 20


@dataclass(frozen=True)
class Trained:
    """What a network came to in a round: Dice on the selection cases after the training with each seed, seconds of them all."""

    dice: tuple[float, ...]
    seconds: float


def train_finalists(study: Study, run: Run, finalists: Iterable[dict[str, Any]], number: int = 0) -> dict[str, Trained]:
    """Trains for the round `number` (from 0) what is not trained yet, as trials of the stage `select`.

    Args:
        finalists: rows with hash and genotype; a network that comes more than once is trained once.

    Returns:
        By hash; without networks of which a training failed, where the study bears that.

    Raises:
        ThriftyError: more trials failed than the study bears, or an interruption; what has finished is kept.
    """
    from thrifty.trials import run_trials

    genotypes = {row["hash"]: row["genotype"] for row in finalists}
    for network, genotype in genotypes.items():
        if not run.short_genotype(network).is_file():
            save(run.short_genotype(network), canonical(from_json(genotype, study.allow_code)))
    seeds = range(study.select.short_seeds)
    specs = [_spec(study, run, network, seed, number) for seed in seeds for network in genotypes]
    run_trials("select", short_trial, specs, study.resources, run)
    done = [network for network in genotypes if all(run.short_trial(network, seed, number).done for seed in seeds)]
    return {network: _trained(run, network, seeds, number) for network in done}


def _spec(study: Study, run: Run, network: str, seed: int, number: int) -> Spec:
    from thrifty.trials import Spec

    arguments = {"run": str(run.root), "network": network, "seed": seed, "round": number, **study.resources.as_arguments()}
    trial = run.short_trial(network, seed, number)
    return Spec(trial_name(run, trial), trial, arguments, study.short_rounds[number].epochs)


def _trained(run: Run, network: str, seeds: Iterable[int], number: int) -> Trained:
    results = [read_json(run.short_trial(network, seed, number).result) for seed in seeds]
    return Trained(tuple(result["dice"] for result in results), sum(result["seconds"] for result in results))


def trial_name(run: Run, trial: Trial) -> str:
    """As short/<hash>/seed_0."""
    return str(trial.folder.relative_to(run.short.parent))


def shortened(study: Study, number: int = 0) -> Study:
    """The study with the recipe of the short trainings of a round: the same but for the epochs, and the only look is after the
    last one."""
    epochs = study.short_rounds[number].epochs if study.short_rounds else study.short_epochs
    recipe = study.retrain.model_copy(update={"epochs": epochs, "validate_every": epochs})
    return study.model_copy(update={"retrain": recipe})


def short_trial(arguments: dict[str, Any], trial: Trial, report: Report) -> None:
    """One short training from scratch, resumed from its checkpoint where there is one.

    Trains on the weights and architecture cases; its Dice is that on the selection cases at the end, no earlier epoch counts.
    Writes epochs.jsonl and, last, result.json.

    Args:
        arguments: run (folder), network (hash of its genotype), seed (from 0), round (from 0), device, cpus, gpus.
        trial: where to write.
        report: is given each epoch's record.

    Raises:
        ThriftyError: the loss is no longer finite.
    """
    study, run = read_run(Path(arguments["run"]))
    short, prepared = shortened(study, arguments["round"]), open_prepared(run)
    spec = genotype_spec(arguments["network"], load(here(run.short_genotype(arguments["network"])), study.allow_code), None)
    device = choose_device(arguments["device"])
    seed = SEED + arguments["seed"] + NEXT_ROUND * arguments["round"]
    seed_everything(seed, threads_for(arguments["cpus"]))
    network, store = build_network(spec), prepared.store
    begin_at_frequencies(network, study.loss, store, store.indices(prepared.splits.training))
    trainee = make_trainee(network.to(device), short, prepared, prepared.splits, seed, device)
    record = run_epochs(trainee, short.retrain.epochs, trial, report)
    result = {
        "schema": SCHEMA,
        "trial": trial_name(run, trial),
        "hash": arguments["network"],
        "parameters": spec.parameters,
        "seed": arguments["seed"],
        "round": arguments["round"],
        "epochs": short.retrain.epochs,
        "steps": short.retrain.epochs * short.retrain.steps,
        "dice": record[-1]["dice"],
    }
    finish(trial, result, record, arguments, device)
