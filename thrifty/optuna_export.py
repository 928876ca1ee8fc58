"""Optuna's studies of a finished selection, for others' tools: kept in the run folder, exported to a storage in one go.

While `thrifty select` works its studies are in memory: a storage would cost some tenths of a second for each trial.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thrifty.errors import ThriftyError, one_line
from thrifty.results import Run, make_folder, read_jsonl, user_errors, write_jsonl

if TYPE_CHECKING:
    import optuna

DIRECTIONS = ("maximize", "minimize")
METRICS = ("score", "parameters")
KEPT = ("hash", "group", "dice", "spread", "by_supernet", "origin")  # of a candidate's row, as attributes of its trials


def keep_study(run: Run, key: str, study: optuna.Study, known: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes the trials of a study with objectives (score, parameters) to the run folder.

    Args:
        key: what the study is called in the run folder, such as its budget.
        study: each of its finished trials has the user attribute `labelled`.
        known: rows of select/evaluations.jsonl by `labelled`.
    """
    write_jsonl(run.asked(key), [_row(trial, known) for trial in study.get_trials(deepcopy=False)])


def _row(trial: optuna.trial.FrozenTrial, known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    from optuna.distributions import distribution_to_json

    row = known.get(trial.user_attrs.get("labelled", ""), {})
    return {
        "number": trial.number,
        "state": trial.state.name,
        "values": trial.values,
        "params": trial.params,
        "distributions": {name: json.loads(distribution_to_json(found)) for name, found in trial.distributions.items()},
        "constraints": dict(trial.constraints),
        "user_attrs": trial.user_attrs | {key: row[key] for key in KEPT if key in row},
        "seconds": row.get("seconds"),
    }


def export(run: Run, name: str, target: str) -> list[str]:
    """Copies the kept studies into an Optuna storage, each as `<name>/<key>`.

    Args:
        name: of thrifty's study.
        target: a database URL (with '://'), or the path of a new journal file.

    Returns:
        The names of the studies there.

    Raises:
        ThriftyError: nothing is kept; the storage has such a study already, cannot be opened or written. Then nothing is left
            there.
    """
    kept = run.all_asked()
    if not kept:
        raise ThriftyError(
            f"{run.root} keeps no studies of Optuna: it was selected by a version that did not; remove {run.pareto} and run "
            "`thrifty select` again, nothing is scored twice"
        )
    names = {f"{name}/{key}": path for key, path in kept.items()}
    with _storage(target) as storage:
        _copy_all(storage, names, target)
    return list(names)


@contextlib.contextmanager
def _storage(target: str) -> Iterator[optuna.storages.BaseStorage]:
    """The storage at `target`. A journal is written beside its place and gets its name when all is in it."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if "://" in target:
        yield _database(target)
        return
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path = Path(target).expanduser().absolute()
    if path.exists():
        raise ThriftyError(f"{path} exists; give the path of a new journal file, or a database URL such as sqlite:///study.db")
    with user_errors(path):
        make_folder(path.parent)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".part") as part:
            yield JournalStorage(JournalFileBackend(str(Path(part) / path.name)))
            os.replace(Path(part) / path.name, path)


def _database(url: str) -> optuna.storages.BaseStorage:
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return RDBStorage(url)
    except (SQLAlchemyError, ImportError, ValueError) as error:
        hint = "; install its driver" if isinstance(error, ImportError) else ""
        raise ThriftyError(
            f"{_without_password(url)} cannot be opened as an Optuna storage: {one_line(error)[:200]}{hint}"
        ) from None


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _copy_all(storage: optuna.storages.BaseStorage, names: Mapping[str, Path], target: str) -> None:
    """All of them or none."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    where = _without_password(target) if "://" in target else target
    there = set(optuna.get_all_study_names(storage)) & set(names)
    if there:
        raise ThriftyError(f"{where} has the study {sorted(there)[0]} already; give another storage, or remove it there")
    made: list[str] = []
    try:
        for name, path in names.items():
            study = optuna.create_study(storage=storage, study_name=name, directions=list(DIRECTIONS))
            made.append(name)
            _name_metrics(study)
            study.add_trials([_trial(row) for row in read_jsonl(path)])
    except BaseException as error:
        for name in made:
            with contextlib.suppress(Exception):
                optuna.delete_study(study_name=name, storage=storage)
        if isinstance(error, SQLAlchemyError):
            raise ThriftyError(f"{where} cannot be written: {one_line(error)[:200]}") from None
        raise


def _name_metrics(study: optuna.Study) -> None:
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ExperimentalWarning)  # experimental since Optuna 3.2
        study.set_metric_names(list(METRICS))


def _trial(row: Mapping[str, Any]) -> optuna.trial.FrozenTrial:
    import optuna
    from optuna.distributions import json_to_distribution

    return optuna.create_trial(
        state=optuna.trial.TrialState[row["state"]],
        values=row["values"],
        params=row["params"],
        distributions={name: json_to_distribution(json.dumps(found)) for name, found in row["distributions"].items()},
        constraints=row["constraints"],
        user_attrs={**row["user_attrs"], "seconds": row["seconds"], "constraints": row["constraints"]},  # see docs/selection.md
    )
