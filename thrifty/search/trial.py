"""One search as a plain function of files and settings; what a trial of the study runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from thrifty.config import Study
from thrifty.data.batches import Batches
from thrifty.data.prepare import Prepared, open_prepared, training_normalisation
from thrifty.inference import inherited_dice
from thrifty.losses import loss_for
from thrifty.nets.supernet import HardNetwork
from thrifty.nets.supernet_file import save_supernet
from thrifty.prior import begin_at_frequencies
from thrifty.results import Trial, read_run, write_json
from thrifty.search.measures import COLLAPSED, SearchData, parameter_free_share
from thrifty.search.profile import stopwatch, write_profile
from thrifty.search.setting import Setting
from thrifty.search.twolevel import DifferentiableSearch
from thrifty.space import genotype as genotypes
from thrifty.space.cost import Costs
from thrifty.space.decode import Decoded
from thrifty.space.schema import Space, load_space, run_space
from thrifty.train import Report, choose_device, finish, run_epochs, seed_everything, threads_for

SCHEMA = 1


def search_trial(arguments: dict[str, Any], trial: Trial, report: Report) -> None:
    """One differentiable search, resumed from its checkpoint where there is one. It sees neither selection nor test cases.

    Writes the supernet's weights, the learnt distribution, the decoded genotype, epochs.jsonl and, last, result.json. Up to a
    rung (`until`) it writes checkpoint and epochs.jsonl only; called again it goes on as if it had never stopped.

    Args:
        arguments: run (folder), setting (of thrifty.search.setting), seed, cpus, gpus, device, and maybe until (epochs).
        trial: where to write.
        report: is given each epoch's record.
    """
    study, run = read_run(Path(arguments["run"]))
    prepared, setting = open_prepared(run), Setting(**arguments["setting"])
    space = run_space(study, run)
    device = choose_device(arguments["device"])
    seed_everything(arguments["seed"], threads_for(arguments["cpus"]))
    search = make_search(study, space, prepared, setting, arguments["seed"], device)
    search.stopwatch = stopwatch(arguments.get("profile", False), device)
    record = run_epochs(search, arguments.get("until", setting.epochs), trial, report, search.stopwatch)
    if len(record) < setting.epochs:
        return
    if search.stopwatch.on:
        write_profile(trial, search.stopwatch, search.stopwatch.times.get("report", 0))
    decoded = search.decode()
    dice = architecture_dice(study, prepared, search, decoded)
    store = prepared.store
    save_supernet(trial.weights, search.supernet, store.channels, store.classes)
    write_json(trial.distribution, search.architecture.distribution().as_json())
    genotypes.save(trial.genotype, decoded.genotype)
    free = parameter_free_share(decoded.genotype)
    result = {
        "schema": SCHEMA,
        "trial": trial.folder.name,
        "seed": arguments["seed"],
        **setting.as_json(),
        "parameters": decoded.parameters,
        "expected_parameters": record[-1]["expected_parameters"],
        "idle": 1 - decoded.parameters / setting.budget,
        "genotype_hash": genotypes.genotype_hash(decoded.genotype),
        "dice": dice,
        "parameter_free": free,
        "collapsed": free >= COLLAPSED,
        "guard": None if search.guard.action is None else search.guard.action.as_json(),
    }
    finish(trial, result, record, arguments, device)


def make_search(
    study: Study, space: Space, prepared: Prepared, setting: Setting, seed: int, device: torch.device
) -> DifferentiableSearch:
    """A search with its two streams of batches; the normalisation is learnt on the training cases."""
    store, splits = prepared.store, prepared.splits
    normalisation = training_normalisation(study, store, splits)
    shared = (normalisation, study.data, study.search.batch)
    data = SearchData(
        Batches(store, tuple(store.indices(splits.weights)), *shared, 2 * seed, device),
        Batches(store, tuple(store.indices(splits.architecture)), *shared, 2 * seed + 1, device),
        loss_for(study.loss, store, store.indices(splits.training)),
    )
    costs = Costs(space, setting.width, setting.levels, store.channels, store.classes, depth=study.search.depth)
    search = DifferentiableSearch(costs, setting, study.search, data, device, seed)
    begin_at_frequencies(search.supernet, study.loss, store, store.indices(splits.training))
    return search


def architecture_dice(study: Study, prepared: Prepared, search: DifferentiableSearch, decoded: Decoded) -> float:
    """Dice of the decoded genotype on the architecture cases with the supernet's weights, statistics recalibrated."""
    network = HardNetwork(search.supernet, decoded.genotype)
    images = [search.data.weights.plain(step)[0] for step in range(study.select.recalibrate)]
    indices = prepared.store.indices(prepared.splits.architecture)
    normalisation = search.data.weights.normalisation
    return inherited_dice(network, images, prepared.store, indices, normalisation, study.evaluate, search.device)


def time_search_step(study: Study, prepared: Prepared, setting: Setting) -> float:
    """Seconds of one two-level step of a setting on this machine: one step to warm up, then the mean of six, since sampled
    networks differ in size."""
    seed_everything(0, threads_for(study.resources.cpus_per_trial))
    space, device = load_space(study.space, study.allow_code), choose_device(study.resources.device)
    search = make_search(study, space, prepared, setting, 0, device)
    search.architecture_step(0, 0)
    search.weight_step(0, 0)
    start = time.perf_counter()
    for step in range(1, 7):
        search.architecture_step(0, step)
        search.weight_step(0, step)
    return (time.perf_counter() - start) / 6
