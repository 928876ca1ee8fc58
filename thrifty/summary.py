"""What an evaluation comes to: means over patients with their spread, sizes, multiply-adds and hours of every network.

Within a patient, classes and cases are averaged first, then patients, so that a patient with many slices counts once. A class
that no test case holds is left out and named in the notes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from thrifty import __version__
from thrifty.config import Study
from thrifty.copies import here
from thrifty.failures import failed_trials
from thrifty.false_positives import false_positives
from thrifty.inference import stride_of
from thrifty.latency import kept_latencies
from thrifty.ledger import dropped_searches, ledger, trial_results
from thrifty.metrics import present_classes
from thrifty.nets.build import NetworkSpec, build_network
from thrifty.networks import Key, read_networks, trial_name
from thrifty.postprocess import Postprocess
from thrifty.results import Run, read_json
from thrifty.settled import notes_on_later_searches
from thrifty.spending import spending
from thrifty.start import FINETUNED
from thrifty.statistics.blocks import (
    Blocks,
    compared,
    notes_on_blocks,
    retrain_blocks,
    search_blocks,
    why_missing,
)
from thrifty.statistics.patients import by_patient, interval
from thrifty.statistics.stability import stability
from thrifty.statistics.study import statistics

if TYPE_CHECKING:
    from thrifty.data.prepare import Prepared

SCHEMA = 1
Row = dict[str, Any]


@dataclass(frozen=True)
class Counted:
    """Of the measured trainings those that means count: `keys`, by the seeds of the blocks (of a network without any such seed
    all of its own); `compared`: the networks that statistics may set against each other."""

    search: Blocks
    retrain: Blocks
    keys: list[Key]
    compared: set[str]


def count_seeds(study: Study, run: Run, keys: Sequence[Key], missing: Sequence[str]) -> Counted:
    """
    Args:
        keys: the measured trainings.
        missing: names of those that are not there.
    """
    folds: list[int | None] = [None] if study.retrain.folds == 1 else list(range(study.retrain.folds))
    search, retrain = search_blocks(study, run), retrain_blocks(keys, folds, why_missing(run, missing))
    own = {name: _seeds_of(name, keys, retrain) for name in dict.fromkeys(network for network, _, _ in keys)}
    counted = [key for key in keys if key[1] in own[key[0]]]
    return Counted(search, retrain, counted, compared((key[:2] for key in counted), search, retrain))


def summarise(
    study: Study,
    run: Run,
    prepared: Prepared,
    counted: Counted,
    missing: Sequence[str],
    rows: Sequence[Row],
    volumes: Sequence[Row],
) -> dict[str, Any]:
    """summary.json: the data, every network that is measured, the searches, and the cost of every stage.

    Only seeds that have all networks count (`thrifty.statistics.blocks`); while there is none, each network has what is there.
    """
    specs, keys, kept = read_networks(run, study.allow_code), counted.keys, counted.compared
    present = present_classes(rows)
    rows, volumes = (rows_of(keys, table) for table in (rows, volumes))
    of_classes, of_volumes = ([row for row in table if row["class"] in present] for table in (rows, volumes))
    networks = _networks(study, run, prepared, keys, specs, (rows, of_classes, of_volumes))
    own = [network for network in networks if network["name"] in kept]
    found = statistics(run, own, [row for row in of_classes if row["network"] in kept])
    return {
        "schema": SCHEMA,
        "study": study.name,
        "thrifty": __version__,
        "data": _data(study, prepared),
        "networks": networks,
        "missing": list(missing),
        "failed": failed_trials(run),
        "blocks": {"search": counted.search.as_json(), "retrain": counted.retrain.as_json()},
        "notes": [
            *notes(study, list(specs)),
            *notes_on_blocks(counted.search, counted.retrain),
            *notes_on_later_searches(run),
            *class_notes(rows),
            *postprocess_notes(run, keys),
        ],
        "searches": trial_results(run, "search"),
        "dropped": dropped_searches(run),
        "statistics": found,
        "stability": stability(study, run, counted.search, counted.retrain),
        "cost": ledger(run)["cost"],
        "spending": spending(run, networks, found["luck"], kept),
    }


def _data(study: Study, prepared: Prepared) -> dict[str, Any]:
    store, splits = prepared.store, prepared.splits
    return {
        "source": study.data.source,
        "cases": len(store.cases),
        "patients": len({case.patient for case in store.cases}),
        "channels": store.channels,
        "classes": store.classes,
        "labels": list(store.labels),
        "overlapping": store.overlapping,
        "sets": {name: len(getattr(splits, name)) for name in ("weights", "architecture", "selection", "test")},
    }


def _networks(
    study: Study,
    run: Run,
    prepared: Prepared,
    keys: Sequence[Key],
    specs: Mapping[str, NetworkSpec],
    tables: tuple[Sequence[Row], Sequence[Row], Sequence[Row]],
) -> list[dict[str, Any]]:
    """`tables`: rows of all classes; those of the classes that count, by case and by volume."""
    spacing_mm = {case.name: case.spacing_mm for case in prepared.store.cases}
    networks, latencies = [], kept_latencies(run)
    for name in dict.fromkeys(network for network, _, _ in keys):
        trained = [read_json(run.retrain_trial(*key).result) for key in keys if key[0] == name]
        every, *mine = ([row for row in table if row["network"] == name] for table in tables)
        size = {"latency_ms": latencies.get(name), "weights_bytes": weights_bytes(run, keys, name)}
        described = {**describe(specs[name], study.data.patch_size), **size, **training(trained)}
        networks.append({**described, **scores(*mine), "false_positives": false_positives(every, spacing_mm)})
    return networks


def rows_of(keys: Sequence[Key], rows: Sequence[Row]) -> list[Row]:
    """Of a table those of these trainings."""
    wanted = {key[:2] for key in keys}
    return [row for row in rows if (row["network"], row["seed"]) in wanted]


def _seeds_of(network: str, keys: Sequence[Key], blocks: Blocks) -> set[int]:
    """Of the trainings of a network, the seeds that count; all of them where none does."""
    own = {seed for name, seed, _ in keys if name == network}
    return own & set(blocks.seeds) or own


def notes(study: Study, names: Sequence[str]) -> list[str]:
    """What a reader has to know about the list of networks."""
    found = []
    for budget in sorted({*study.sizes, *(int(name.removeprefix("found_")) for name in names if name.startswith("found_"))}):
        if FINETUNED in names and f"found_{budget}" not in names:
            continue  # a run that fine-tunes a network needs no genotypes
        if budget not in study.sizes:
            found.append(
                f"no budget is set for found_{budget}: {budget:,} parameters are the most that its width can have; the random "
                "genotypes and the scaled U-Net are compared at the size of the found network"
            )
        number = sum(name.startswith(f"random_{budget}_") for name in names)
        if number < study.retrain.random:
            found.append(
                f"only {number} of {study.retrain.random} random genotypes for the budget {budget:,}: the space has no more "
                "that use 85 to 100 % of it at the found one's width and levels, or hardly any"
            )
    return found


def class_notes(rows: Sequence[Row]) -> list[str]:
    """Which classes no mean counts, since no test case holds them."""
    if not any(row["truth_pixels"] for row in rows):
        return ["no test case holds any class but the background: Dice says only whether anything was claimed"]
    present = present_classes(rows)
    absent = dict.fromkeys(row["label"] for row in rows if row["class"] not in present)
    return [f"class {label} is in no test case; no mean counts it" for label in absent]


def postprocess_notes(run: Run, keys: Sequence[Key]) -> list[str]:
    """What is done after the networks, as each training decided on the selection cases; nothing is said where nothing is done."""
    taken: dict[str, list[str]] = {}
    for key in keys:
        choice = read_json(run.retrain_trial(*key).result).get("postprocess")
        if choice and (choice["fill_holes"] or choice["largest"]):
            taken.setdefault(Postprocess.from_json(choice).name, []).append(trial_name(run, key))
    return [
        f"measured after post-processing ({name}), which was worth it on the selection cases: {', '.join(trainings)}"
        for name, trainings in taken.items()
    ]


def describe(spec: NetworkSpec, patch: tuple[int, int]) -> dict[str, Any]:
    return {
        "name": spec.name,
        "kind": spec.kind,
        "budget": spec.budget,
        "parameters": spec.parameters,
        "macs": macs(spec, patch),
    }


def weights_bytes(run: Run, keys: Sequence[Key], name: str) -> int | None:
    """Size of the file of the trained weights of a network, the same for each of its trainings; None where it is not there."""
    files = (run.retrain_trial(*key).weights for key in keys if key[0] == name)
    return next((file.stat().st_size for file in files if here(file).is_file()), None)


def macs(spec: NetworkSpec, patch: tuple[int, int]) -> int:
    """Multiply-adds of one training patch (padded to the stride): half of torch's floating point operations.

    Counted on the meta device, so nothing is computed.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        network = build_network(spec).eval()
        rows, columns = (size + -size % stride_of(network) for size in patch)
        images = torch.empty(1, spec.channels, rows, columns)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(images)
    return counter.get_total_flops() // 2


def training(trained: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """From the result.json of every retraining of one network. `seconds`: mean over them."""
    return {
        "seeds": len({result["seed"] for result in trained}),
        "still_improving": sum(result["still_improving"] for result in trained),
        "seconds": float(np.mean([result["seconds"] for result in trained])),
        "selection_dice": float(np.mean([result["dice"] for result in trained])),
    }


def scores(rows: Sequence[Row], volumes: Sequence[Row]) -> dict[str, Any]:
    """The measured values of one network, from its rows of per_case.csv and per_volume.csv."""
    units = {row["unit"] for row in rows}
    unit = units.pop() if len(units) == 1 else "mixed"
    dice, iou, hd95 = (by_patient(rows, value) for value in ("dice", "iou", "hd95"))
    per_seed = seed_means(rows, dice)
    labels = dict.fromkeys(row["label"] for row in rows)
    return {
        "dice": {
            "mean": float(np.mean(per_seed)),
            "sd_seeds": spread(per_seed),
            "per_seed": per_seed,
            "ci95": interval(dice.mean(axis=0)),
        },
        "iou": {"mean": float(np.mean(seed_means(rows, iou))), "sd_seeds": spread(seed_means(rows, iou))},
        "hd95": {"mean": None if unit == "mixed" else float(np.mean(seed_means(rows, hd95))), "unit": unit},
        "dice_per_class": {
            label: float(by_patient([row for row in rows if row["label"] == label], "dice").mean()) for label in labels
        },
        "dice_volume": float(by_patient(volumes, "dice").mean()) if volumes else None,
    }


def seed_means(rows: Sequence[Row], table: np.ndarray) -> list[float]:
    """The mean over patients for each seed, folds averaged; `table` is what `by_patient` made of `rows`."""
    seeds = [seed for seed, _ in dict.fromkeys((row["seed"], row["fold"]) for row in rows)]
    means = table.mean(axis=1)
    return [float(np.mean([m for m, s in zip(means, seeds, strict=True) if s == seed])) for seed in dict.fromkeys(seeds)]


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation of a sample (n - 1); None for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
