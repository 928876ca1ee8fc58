"""One trained network on the test cases, looked at more closely: probabilities, objects, surfaces, and worse images."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from thrifty.config import Study
from thrifty.data.labels import foreground
from thrifty.data.prepare import open_prepared
from thrifty.data.store import Store
from thrifty.inference import evaluating, image_batches, labels_of, predict_batches, predict_logits, probabilities_of
from thrifty.metrics import dice_of, pixel_counts
from thrifty.model import Model, load_model, weights_hash
from thrifty.networks import Key, trial_arguments, trial_name
from thrifty.results import Run, Trial, read_json, read_run, remove, write_json
from thrifty.robustness.calibration import BINS, case_counts
from thrifty.robustness.corruptions import CORRUPTIONS, Corruption, worsened_image, worsened_mask
from thrifty.robustness.objects import object_rows
from thrifty.robustness.surface import surface_rows
from thrifty.train import Report, choose_device, seed_everything, threads_for

if TYPE_CHECKING:
    from thrifty.trials import Spec

SCHEMA = 1
KIND = "robustness"
Row = dict[str, Any]


def robustness_specs(study: Study, run: Run, keys: Sequence[Key]) -> list[Spec]:
    """A trial for each trained network. Those of other weights or settings are removed: they are measured anew."""
    from thrifty.trials import Spec

    specs = []
    for key in keys:
        trial, settings = run.robustness_trial(*key), settings_of(study, key)
        weights = read_json(run.retrain_trial(*key).result).get("weights_sha256")
        if trial.done and not _is_of(read_json(trial.result), settings, weights):
            remove(trial.result)
        arguments = {**trial_arguments(study, run, key), "kind": KIND, "settings": settings}
        specs.append(Spec(f"{KIND}/{trial_name(run, key)}", trial, arguments, 1))
    return specs


def _is_of(result: Row, settings: Row, weights: str | None) -> bool:
    return (result.get("schema"), result.get("settings"), result.get("weights_sha256")) == (SCHEMA, settings, weights)


def settings_of(study: Study, key: Key) -> dict[str, Any]:
    """What a trial is to measure. Worse images are shown to the first seed (and fold) alone: they are what takes the time."""
    first = key[1] == study.retrain_seeds[0] and key[2] in (None, 0)
    cases = study.evaluate.corruption_cases if first else 0
    return {"corruption_cases": cases, "surface_tolerance": study.evaluate.surface_tolerance}


def robustness_trial(arguments: dict[str, Any], trial: Trial, report: Report) -> None:
    """Writes result.json: surfaces, objects and calibration of every test case, and Dice of worse images.

    Args:
        arguments: run (folder), network, seed, fold, settings (as of `settings_of`), device, cpus, gpus.
        trial: where to write.
        report: is given one record, when all is measured.
    """
    start = time.perf_counter()
    study, run = read_run(Path(arguments["run"]))
    key = (arguments["network"], arguments["seed"], arguments["fold"])
    device, settings = choose_device(arguments["device"]), arguments["settings"]
    seed_everything(arguments["seed"], threads_for(arguments["cpus"]))
    network, model = load_model(run.retrain_trial(*key), device, study.allow_code)
    prepared = open_prepared(run)
    test = prepared.store.indices(prepared.splits.test)
    look = Look(study, prepared.store, network, model, device)
    plain = look.plain(test, settings["surface_tolerance"])
    chosen = some_cases(prepared.store, test, settings["corruption_cases"])
    identity = {"network": key[0], "seed": key[1], "fold": key[2], "weights_sha256": weights_hash(run.retrain_trial(*key))}
    worse = look.worse(chosen, plain["dice"]) if chosen else None
    seconds = time.perf_counter() - start
    where = {"seconds": seconds, "cpus": arguments["cpus"], "gpus": arguments["gpus"]}
    found = {**{name: plain[name] for name in ("surfaces", "objects", "calibration")}, "corruptions": worse}
    name = f"{KIND}/{trial_name(run, key)}"
    write_json(trial.result, {"schema": SCHEMA, "trial": name, **identity, "settings": settings, **where, **found})
    report({"epoch": 0, "dice": _mean(plain["dice"].values()), "seconds": seconds})


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def some_cases(store: Store, indices: Sequence[int], most: int) -> list[int]:
    """Of the cases at `indices` at most `most`: whole patients, chosen by their names, or the first cases of a larger one."""
    by_patient: dict[str, list[int]] = {}
    for index in indices:
        by_patient.setdefault(store.cases[index].patient, []).append(index)
    chosen: list[int] = []
    for patient in sorted(by_patient, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if len(chosen) + len(by_patient[patient]) <= most:
            chosen += by_patient[patient]
        elif not chosen:
            chosen += by_patient[patient][:most]
    return sorted(chosen)


class Look:
    """A trained network and the cases that it is shown."""

    def __init__(self, study: Study, store: Store, network: nn.Module, model: Model, device: torch.device) -> None:
        self.settings, self.store, self.network, self.model, self.device = study.evaluate, store, network, model, device
        self.classes = foreground(store.classes, store.overlapping)

    def plain(self, indices: Sequence[int], tolerance: float) -> dict[str, Any]:
        """`surfaces` and `objects` (one row for each case and class), `calibration` (`bin_counts`), `dice` by case."""
        store, overlapping = self.store, self.store.overlapping
        surfaces, objects, counts, dice = {}, {}, np.zeros((BINS, 3)), {}
        batches = image_batches(store, indices, self.model.normalisation, self.settings, self.device)
        for batch in batches:
            with evaluating(self.network):
                logits = predict_logits(self.network, batch.images, self.settings)
                predicted = labels_of(logits, overlapping).cpu().numpy()
                probabilities = probabilities_of(logits, overlapping).cpu().numpy()
            for place, index in enumerate(batch.indices):
                labels, truth = self.model.postprocess.apply(predicted[place]), store.mask(index)
                case = {"case": store.cases[index].name}
                spacing = store.cases[index].spacing_mm
                pair = (labels, truth, store.classes, overlapping)
                surfaces[index] = [{**case, **row} for row in surface_rows(*pair, spacing, tolerance)]
                objects[index] = [{**case, **row} for row in object_rows(*pair)]
                counts += case_counts(probabilities[place], truth, overlapping)
                dice[index] = self._dice(labels, truth)
        rows = {
            name: [row for index in indices for row in found[index]]
            for name, found in (("surfaces", surfaces), ("objects", objects))
        }
        return {**rows, "calibration": counts.tolist(), "dice": dice}

    def worse(self, indices: Sequence[int], plain: dict[int, list[float]]) -> dict[str, Any]:
        """`cases`; `undisturbed` and, by corruption, `dice`: at each strength, for each case, of each foreground class."""
        dice = {c.name: [self._worse_at(c, strength, indices) for strength in c.strengths] for c in CORRUPTIONS}
        names = [self.store.cases[index].name for index in indices]
        return {"cases": names, "undisturbed": [plain[index] for index in indices], "dice": dice}

    def _worse_at(self, corruption: Corruption, strength: float, indices: Sequence[int]) -> list[list[float]]:
        store = self.store

        def shown(index: int) -> np.ndarray:
            case = store.cases[index]
            return worsened_image(corruption, store.image(index), strength, case.name, case.spacing_mm)

        batches = image_batches(store, indices, self.model.normalisation, self.settings, self.device, shown)
        dice = {}
        for index, labels in predict_batches(self.network, batches, self.settings, store.overlapping):
            case = store.cases[index]
            truth = worsened_mask(corruption, store.mask(index), strength, case.name, case.spacing_mm)
            dice[index] = self._dice(self.model.postprocess.apply(labels), truth)
        return [dice[index] for index in indices]

    def _dice(self, labels: np.ndarray, truth: np.ndarray) -> list[float]:
        counts = pixel_counts(labels, truth, self.store.classes, self.store.overlapping)
        return [dice_of(*map(int, counts[index])) for index in self.classes]
