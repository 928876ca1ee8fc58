"""`thrifty retrain`: every network of the comparison from scratch, by the same recipe, steps and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thrifty.config import Study
from thrifty.data.prepare import Prepared, open_prepared, prepare
from thrifty.inference import predict_cases
from thrifty.model import Model, save_model, weights_hash
from thrifty.nets.build import NetworkSpec, build_network
from thrifty.networks import planned_networks, read_networks, trial_arguments, trial_keys, trial_name, write_networks
from thrifty.postprocess import Postprocess, choose
from thrifty.prior import begin_at_frequencies
from thrifty.results import Run, Trial, read_run
from thrifty.scratch import ScratchTraining, make_trainee
from thrifty.start import FINETUNED, begin, read_start
from thrifty.train import Report, choose_device, finish, run_epochs, seed_everything, threads_for

if TYPE_CHECKING:
    from thrifty.data.splits import Splits
    from thrifty.data.store import Store
    from thrifty.trials import Spec

SCHEMA = 1
SETTLED = 0.005  # Dice: half a point


def run_stage(study: Study, run: Run) -> None:
    """Trains what is not trained yet: every network x seed x fold, as trials. Writes networks.json first.

    Raises:
        ThriftyError: no genotype for a budget, or trials that failed.
    """
    from thrifty.trials import run_trials

    prepared = prepare(study, run)
    write_networks(run, planned_networks(study, run, prepared.store))
    run_trials("retrain", retrain_trial, trial_specs(study, run), study.resources, run)


def trial_specs(study: Study, run: Run) -> list[Spec]:
    """One trial for each network, seed and fold."""
    from thrifty.trials import Spec

    return [
        Spec(trial_name(run, key), run.retrain_trial(*key), trial_arguments(study, run, key), study.retrain.epochs)
        for key in trial_keys(study, list(read_networks(run, study.allow_code)))
    ]


def retrain_trial(arguments: dict[str, Any], trial: Trial, report: Report) -> None:
    """One training from scratch or from the start of the run, resumed from its checkpoint where there is one.

    Trains on the weights and architecture cases, keeps the weights that are best on the selection cases, and never sees
    the test cases. Writes weights, model.json, epochs.jsonl and, last, result.json.

    Args:
        arguments: run (folder), network (name in networks.json), seed, fold (None without cross-validation), device, cpus, gpus.
        trial: where to write.
        report: is given each epoch's record.

    Raises:
        ThriftyError: the loss is no longer finite.
    """
    study, run = read_run(Path(arguments["run"]))
    key = (arguments["network"], arguments["seed"], arguments["fold"])
    spec = read_networks(run, study.allow_code)[key[0]]
    prepared = open_prepared(run)
    splits = splits_of_fold(study, prepared, arguments["fold"])
    device = choose_device(arguments["device"])
    seed_everything(arguments["seed"], threads_for(arguments["cpus"]))
    network = build_network(spec)
    begin_at_frequencies(network, study.loss, prepared.store, prepared.store.indices(splits.training))
    start = read_start(run, study.allow_code) if spec.name == FINETUNED else None
    begun = begin(network, start, prepared.store.overlapping) if start else None
    network.to(device)
    trainee = make_trainee(network, study, prepared, splits, arguments["seed"], device)
    record = run_epochs(trainee, study.retrain.epochs, trial, report)
    network.load_state_dict(trainee.best_weights)
    model = model_of(study, prepared, trainee, spec)
    save_model(trial, model, trainee.best_weights)
    result = {
        "schema": SCHEMA,
        "trial": trial_name(run, key),
        "network": spec.name,
        "kind": spec.kind,
        "budget": spec.budget,
        "parameters": spec.parameters,
        "seed": arguments["seed"],
        "fold": arguments["fold"],
        "epochs": study.retrain.epochs,
        "steps": study.retrain.epochs * study.retrain.steps,
        "dice": trainee.best_dice,
        "best_epoch": trainee.best_epoch,
        "postprocess": model.postprocess.as_json(),
        "start": begun,
        "weights_sha256": weights_hash(trial),
        "still_improving": still_improving(record),
    }
    finish(trial, result, record, arguments, device)


def model_of(study: Study, prepared: Prepared, trainee: ScratchTraining, spec: NetworkSpec) -> Model:
    """What is written beside the weights, which the network of `trainee` has by now."""
    store = prepared.store
    return Model(
        network=spec,
        normalisation=trainee.normalisation,
        labels=store.labels,
        patch=study.data.patch_size,
        slice_axis=study.data.slice_axis if store.sliced else None,
        window=study.evaluate.window,
        overlap=study.evaluate.overlap,
        postprocess=chosen_postprocess(study, store, trainee),
        overlapping=store.overlapping,
        region_values=store.region_values,
    )


def chosen_postprocess(study: Study, store: Store, trainee: ScratchTraining) -> Postprocess:
    """What is done after the network, decided on the selection cases; nothing where the study wants it so or classes overlap,
    since one pixel then has several labels."""
    if study.retrain.postprocess == "none" or store.overlapping:
        return Postprocess()
    indices, settings = trainee.selection, trainee.evaluate
    found = predict_cases(trainee.network, store, indices, trainee.normalisation, settings, trainee.device)
    return choose(((labels, store.mask(index)) for index, labels in found), store.classes)


def splits_of_fold(study: Study, prepared: Prepared, fold: int | None) -> Splits:
    """The sets of one fold; without cross-validation those of the study."""
    if fold is None:
        return prepared.splits
    from thrifty.data.splits import fold as fold_of

    return fold_of(prepared.splits, prepared.store, fold, study.retrain.folds, study.data.split_seed)


def still_improving(record: Sequence[dict[str, Any]]) -> bool:
    """Whether a network was still improving when its training ended.

    The rule: the best Dice on the selection cases in the last quarter of the epochs exceeds the best one before it by more than
    half a point (0.005). Where nothing was looked at before the last quarter, nothing shows that it had settled: True.
    """
    border = 0.75 * len(record)
    before = [row["dice"] for row in record if row["dice"] is not None and row["epoch"] < border]
    after = [row["dice"] for row in record if row["dice"] is not None and row["epoch"] >= border]
    return not before or max(after, default=0.0) > max(before) + SETTLED
