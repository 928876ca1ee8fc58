"""A second data set on which the trained networks are measured: all of its cases are test cases."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from thrifty.config import Data, Study
from thrifty.data.store import Store, build_store
from thrifty.errors import ThriftyError
from thrifty.networks import Key, trial_arguments, trial_name
from thrifty.results import Run, read_json, remove

if TYPE_CHECKING:
    from thrifty.trials import Spec

KIND = "transfer"


def transfer_store(study: Study, run: Run, trained: Store) -> Store | None:
    """The data set of `evaluate.transfer`, decoded once; None where the study names none.

    It is cut and read by the keys of `data`, but for those that choose among cases.

    Raises:
        ThriftyError: anything wrong with it; other channels or classes than the networks were trained for.
    """
    source = study.evaluate.transfer
    if source is None:
        return None
    index = run.transfer_data / "index.json"
    if index.is_file() and read_json(index).get("made_from", {}).get("source") != source:
        shutil.rmtree(run.transfer_data)
    store = build_store(second_data(study.data, source), run.transfer_data)
    if wrong := _differences(store, trained):
        shutil.rmtree(run.transfer_data)
        raise ThriftyError(
            f"evaluate.transfer: {source} has {'; '.join(wrong)}; give a data set of the same channels and classes, or none"
        )
    return store


def second_data(data: Data, source: str) -> Data:
    """Read by the keys of the first data set, but for those that choose among its cases."""
    return data.model_copy(update={"source": source, "max_cases": None, "rois": None})


def _differences(store: Store, trained: Store) -> list[str]:
    pairs = {
        "channels": (store.channels, trained.channels),
        "classes with the background": (len(store.labels), len(trained.labels)),
        "overlapping classes (0 no, 1 yes)": (int(store.overlapping), int(trained.overlapping)),
    }
    return [f"{found} {what}, the networks were trained with {known}" for what, (found, known) in pairs.items() if found != known]


def transfer_specs(study: Study, run: Run, keys: Sequence[Key], store: Store) -> list[Spec]:
    """A trial for each trained network. Those of other weights or other data are removed: they are measured anew."""
    from thrifty.trials import Spec

    specs = []
    for key in keys:
        trial = run.transfer_trial(*key)
        weights = read_json(run.retrain_trial(*key).result).get("weights_sha256")
        if trial.done and not _is_of(read_json(trial.result), store, weights):
            remove(trial.result)
        specs.append(Spec(f"{KIND}/{trial_name(run, key)}", trial, {**trial_arguments(study, run, key), "kind": KIND}, 1))
    return specs


def _is_of(result: dict[str, Any], store: Store, weights: str | None) -> bool:
    return (result.get("fingerprint"), result.get("weights_sha256")) == (store.fingerprint, weights)
