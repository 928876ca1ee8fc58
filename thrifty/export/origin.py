"""Where a model came from: the run folder it lies in, as far as there is one, and what that knows of data, metrics and cost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thrifty.config import Study, data_folder
from thrifty.data.cases import Unreadable
from thrifty.data.decode import decode, ending_of, is_volume
from thrifty.data.prepare import open_prepared
from thrifty.data.splits import Splits, fold, read_splits
from thrifty.data.store import Store, build_store
from thrifty.errors import ThriftyError
from thrifty.results import Run, read_json, read_run

MOST_CALIBRATED = 64  # images; more change the ranges little
MOST_MEASURED = 200  # cases on which the loss of int8 is measured


@dataclass(frozen=True)
class Origin:
    """A model in the folder of its retraining: RUN/retrain/<network>/seed_<s>[_fold_<f>]."""

    study: Study
    run: Run
    network: str
    seed: int
    fold: int | None

    def summary(self) -> dict[str, Any] | None:
        """What summary.json says of this network, with the data of the study; None where nothing was evaluated."""
        if not self.run.summary.is_file():
            return None
        value = read_json(self.run.summary)
        rows = [row for row in value.get("networks", []) if row.get("name") == self.network]
        return {"data": value.get("data", {}), **rows[0]} if rows and rows[0].get("dice") else None

    def result(self) -> dict[str, Any]:
        """How it was trained."""
        path = self.run.retrain_trial(self.network, self.seed, self.fold).result
        return read_json(path) if path.is_file() else {}

    def hours(self) -> dict[str, dict[str, float]] | None:
        """CPU- and GPU-hours of the run by stage, and under 'this training' those of this model; None without a ledger."""
        if not self.run.ledger.is_file():
            return None
        ledger = read_json(self.run.ledger)
        kept = ("cpu_hours", "gpu_hours")
        found = {stage: {key: cost[key] for key in kept} for stage, cost in ledger["cost"].items()}
        folder = self.run.retrain_trial(self.network, self.seed, self.fold).folder.name
        own = [t for t in ledger["trials"] if t["stage"] == "retrain" and t["trial"] == f"{self.network}/{folder}"]
        return found | {"this training": {key: own[0][key] for key in kept}} if own else found

    def prepared(self, scratch: Path) -> tuple[Store, Splits]:
        """The data of the run: its store, or the data set decoded again below `scratch`.

        Raises:
            ThriftyError: neither is there, or the data set is another than it was.
        """
        if (self.run.data / "index.json").is_file():
            opened = open_prepared(self.run)
            store, splits = opened.store, opened.splits
        else:
            store = build_store(self.study.data, scratch / "data")
            splits = read_splits(self.run.splits, store)
        if self.fold is None:
            return store, splits
        return store, fold(splits, store, self.fold, self.study.retrain.folds, self.study.data.split_seed)

    @property
    def has_data(self) -> bool:
        """Whether `prepared` can find the cases."""
        source = self.study.data.source
        again = self.run.splits.is_file() and (source == "phantoms" or data_folder(source).is_dir())
        return again or (self.run.data / "index.json").is_file()


def find_origin(model: Path) -> Origin | None:
    """The run that a folder of a model lies in; None where it lies elsewhere.

    Raises:
        ThriftyError: the run's study cannot be read by this version.
    """
    folder = model.resolve()
    match = re.fullmatch(r"seed_(\d+)(?:_fold_(\d+))?", folder.name)
    if match is None or len(folder.parents) < 3 or folder.parents[1].name != "retrain":
        return None
    root = folder.parents[2]
    if not Run(root).study.is_file():
        return None
    study, run = read_run(root)
    return Origin(study, run, folder.parent.name, int(match[1]), None if match[2] is None else int(match[2]))


def evenly(indices: Sequence[int], most: int) -> list[int]:
    """At most `most` of them, spread over all."""
    if len(indices) <= most:
        return list(indices)
    return [indices[k] for k in np.linspace(0, len(indices) - 1, most).astype(int)]


def images_of_folder(folder: Path, channels: int) -> list[np.ndarray]:
    """Up to MOST_CALIBRATED images (channels, H, W) of the pictures, and of slices of the volumes, in a folder.

    Raises:
        ThriftyError: no such folder, no image in it, a broken one, or one with another number of channels.
    """
    if not folder.is_dir():
        raise ThriftyError(f"--calibrate {folder} is no folder; give one with training images")
    paths = sorted(path for path in folder.iterdir() if ending_of(path.name))
    images: list[np.ndarray] = []
    for path in paths:
        try:
            images += _images(path)
        except Unreadable as error:
            raise ThriftyError(f"{folder}: {error}; leave that file out") from None
    wrong = [image for image in images if len(image) != channels]
    if not images or wrong:
        found = f"images of {len(wrong[0])} channels" if wrong else "no image"
        raise ThriftyError(
            f"--calibrate {folder} holds {found}; images of {channels} channels are needed (png, tif, jpg, bmp, NIfTI)"
        )
    return [images[k] for k in evenly(range(len(images)), MOST_CALIBRATED)]


def _images(path: Path) -> list[np.ndarray]:
    """Of a picture one, of a volume its slices along the third axis, as `thrifty.data` cuts them."""
    values = decode(path).values
    if is_volume(path):
        return [np.moveaxis(values, 2, 0)[k][None] for k in range(values.shape[2])]
    return [np.moveaxis(values, 2, 0)]
