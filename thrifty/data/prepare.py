"""The data of a run: decoded once, split once, opened by every trial."""

from __future__ import annotations

from dataclasses import dataclass, replace

from thrifty.config import Study, data_folder
from thrifty.data.normalise import Normalisation, learn
from thrifty.data.splits import Splits, make_splits, read_splits, write_splits
from thrifty.data.store import Store, build_store, open_store
from thrifty.errors import ThriftyError
from thrifty.results import Run


@dataclass(frozen=True)
class Prepared:
    store: Store
    splits: Splits


def prepare(study: Study, run: Run) -> Prepared:
    """Builds or opens the store of the run, then writes or reads its splits.json.

    Raises:
        ThriftyError: as `build_store`, `make_splits` and `read_splits`.
    """
    store = build_store(study.data, run.data)
    if not run.splits.is_file():
        own = study.data.splits
        splits = read_splits(data_folder(own), store) if own else make_splits(store, study.data)
        write_splits(run.splits, replace(splits, fingerprint=store.fingerprint))
    return open_prepared(run)


def training_normalisation(study: Study, store: Store, splits: Splits) -> Normalisation:
    """Learnt on the training cases (weights and architecture) alone; searches, selection and retraining use the same."""
    return learn(store, store.indices(splits.training), study.data.normalisation)


def open_prepared(run: Run) -> Prepared:
    """What a trial opens.

    Raises:
        ThriftyError: not prepared yet, or splits that were made for other data.
    """
    if not (run.data / "index.json").is_file() or not run.splits.is_file():
        raise ThriftyError(f"{run.root} has no data yet; `thrifty run STUDY.yaml` prepares it")
    store = open_store(run.data)
    splits = read_splits(run.splits, store)
    if splits.fingerprint != store.fingerprint:
        raise ThriftyError(f"{run.splits} was made for other data than {run.data} holds; remove both to prepare them again")
    return Prepared(store, splits)
