"""The run folder: every file name, atomic writes, and what is done already.

Stages meet in these files and nowhere else. A file that exists is whole: everything is written beside its place and renamed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from thrifty.config import Study, read_study, read_yaml
from thrifty.errors import ThriftyError, one_line

# Keys that may change between two runs of one study: they change where it runs, not what comes out.
FREE_KEYS = frozenset({"resources"})


@dataclass(frozen=True)
class Run:
    """The run folder of one study. Every path below it is named here."""

    root: Path

    # -- written first --------------------------------------------------------------------------------------------------
    @property
    def study(self) -> Path:
        """The resolved study, first file of a run."""
        return self.root / "run.yaml"

    @property
    def space(self) -> Path:
        """The space as it was when the run began."""
        return self.root / "space.yaml"

    @property
    def environment(self) -> Path:
        return self.root / "env.json"

    @property
    def splits(self) -> Path:
        return self.root / "splits.json"

    @property
    def data(self) -> Path:
        """The decoded data set, memory-mapped by every trial."""
        return self.root / "data"

    # -- stages ---------------------------------------------------------------------------------------------------------
    @property
    def search(self) -> Path:
        return self.root / "search"

    def search_trial(self, name: str) -> Trial:
        return Trial(self.search / name)

    @property
    def candidates(self) -> Path:
        return self.root / "candidates.jsonl"

    @property
    def evaluations(self) -> Path:
        return self.root / "select" / "evaluations.jsonl"

    @property
    def pool(self) -> Path:
        """Every genotype that the searches decoded along the way."""
        return self.root / "select" / "pool.jsonl"

    @property
    def latencies(self) -> Path:
        """Measured latencies of networks, by hash."""
        return self.root / "select" / "latency.jsonl"

    @property
    def select_result(self) -> Path:
        """What scoring the candidates cost."""
        return self.root / "select" / "result.json"

    @property
    def pareto(self) -> Path:
        return self.root / "select" / "pareto.json"

    @property
    def short(self) -> Path:
        """The short trainings of the selection, one folder for each network."""
        return self.root / "select" / "short"

    def short_genotype(self, network: str) -> Path:
        """The genotype that is trained for a short while, in its canonical form; `network` is its hash."""
        return self.short / network / "genotype.json"

    def short_trial(self, network: str, seed: int) -> Trial:
        return Trial(self.short / network / f"seed_{seed}")

    def genotype(self, budget: int) -> Path:
        """The chosen genotype for a budget (parameters)."""
        return self.root / f"genotype_{budget}.json"

    def genotypes(self) -> dict[int, Path]:
        """The genotypes that are there, by budget, the smallest first."""
        budgets = [path.stem.removeprefix("genotype_") for path in self.root.glob("genotype_*.json")]
        return {budget: self.genotype(budget) for budget in sorted(int(text) for text in budgets if text.isdecimal())}

    @property
    def retrain(self) -> Path:
        return self.root / "retrain"

    def retrain_trial(self, network: str, seed: int, fold: int | None = None) -> Trial:
        name = f"seed_{seed}" if fold is None else f"seed_{seed}_fold_{fold}"
        return Trial(self.retrain / network / name)

    @property
    def networks(self) -> Path:
        """The list of networks that `retrain` trains: names, kinds, budgets, genotypes, parameters."""
        return self.retrain / "networks.json"

    def evaluate_trial(self, network: str, seed: int, fold: int | None = None) -> Trial:
        """Beside the retraining of the same name: its predictions of the test cases, measured."""
        return Trial(self.root / "evaluate" / "trials" / network / self.retrain_trial(network, seed, fold).folder.name)

    @property
    def examples(self) -> Path:
        """A list of {case, rank, dice, network, seed, file}: predicted label maps for the report, `file` below the run folder."""
        return self.root / "evaluate" / "examples.json"

    def example(self, network: str, case: str) -> Path:
        return self.root / "evaluate" / "examples" / network / f"{case}.png"

    @property
    def per_case(self) -> Path:
        return self.root / "evaluate" / "per_case.csv"

    @property
    def per_volume(self) -> Path:
        return self.root / "evaluate" / "per_volume.csv"

    @property
    def summary(self) -> Path:
        return self.root / "summary.json"

    @property
    def report(self) -> Path:
        return self.root / "report" / "report.md"

    @property
    def ledger(self) -> Path:
        """Hours of every trial, by stage."""
        return self.root / "ledger.json"


@dataclass(frozen=True)
class Trial:
    """The folder of one trial: of a search, a short training, a retraining or an evaluation."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        """Everything needed to go on; removed when the trial has finished."""
        return self.folder / "checkpoint.pt"

    @property
    def record(self) -> Path:
        """One line for each epoch."""
        return self.folder / "epochs.jsonl"

    @property
    def result(self) -> Path:
        """The outcome; it exists exactly when the trial has finished."""
        return self.folder / "result.json"

    @property
    def error(self) -> Path:
        """The traceback that ended the last attempt, if one did."""
        return self.folder / "error.txt"

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    @property
    def genotype(self) -> Path:
        return self.folder / "genotype.json"

    @property
    def distribution(self) -> Path:
        """The distribution over genotypes that a search has learnt."""
        return self.folder / "distribution.json"

    @property
    def model(self) -> Path:
        """What `predict` needs beside the weights: network, normalisation, classes."""
        return self.folder / "model.json"

    @property
    def done(self) -> bool:
        return self.result.is_file()


def open_run(root: Path, study: Study) -> Run:
    """The run folder of `study`: made if new, taken up again if it holds the same study.

    Raises:
        ThriftyError: as `check_run`; or the folder cannot be written.
    """
    check_run(root, study)
    run = Run(root)
    if not run.study.is_file():
        write_text(run.study, yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))
    return run


def check_run(root: Path, study: Study) -> None:
    """Whether `root` can be the run folder of `study`. Genotypes that a user put into a new folder may be there already.

    Raises:
        ThriftyError: it holds another study (the first keys that differ are named) or other files, or is itself a file.
    """
    run = Run(root)
    if run.study.is_file():
        differences = _differences(read_yaml(run.study), study.model_dump(mode="json"))
        if differences:
            raise ThriftyError(
                f"{root} holds another study: {'; '.join(differences[:4])}; give this study another name=, "
                "or remove that folder to start over"
            )
    elif root.is_dir() and any(not path.match("genotype_*.json") for path in root.iterdir()):
        raise ThriftyError(f"{root} is not empty and holds no run.yaml, so it is no run folder; give the study another name=")
    elif root.exists() and not root.is_dir():
        raise ThriftyError(f"{root} is a file, where the run folder should be; move it away, or give the study another name=")


def read_run(root: Path) -> tuple[Study, Run]:
    """The study and run of an existing run folder: how a trial, which may be on another machine, finds its settings."""
    run = Run(root)
    if not run.study.is_file():
        raise ThriftyError(f"{root} is no run folder: it has no run.yaml; `thrifty run STUDY.yaml` makes one")
    return read_study(run.study), run


def _differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Readable differences of two resolved studies, apart from the free keys."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [k for k in {**old, **new} if prefix or k not in FREE_KEYS]
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{prefix}{k}.")]
    return [] if old == new else [f"{prefix.rstrip('.')} was {old!r}, now {new!r}"]


@contextlib.contextmanager
def user_errors(path: Path | None = None) -> Iterator[None]:
    """Turns the system errors that a user can mend (disk full, no permission) into one clear line.

    `path` is what was being written; without it the error's own file is named.
    """
    try:
        yield
    except OSError as error:
        hints = {
            errno.ENOSPC: "the disk is full: free some space, then run the same command to go on",
            errno.EDQUOT: "the disk quota is used up: free some space, then run the same command to go on",
            errno.EACCES: "no permission to write there: set THRIFTY_RESULTS to a folder of yours",
            errno.EROFS: "that disk is read-only: set THRIFTY_RESULTS to a folder of yours",
            errno.ENOTDIR: "a file stands where a folder is needed: set THRIFTY_RESULTS to another folder",
        }
        if error.errno in hints:
            raise ThriftyError(f"{path or error.filename or 'a file'} cannot be written: {hints[error.errno]}") from None
        raise


def write_file(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    """Writes a file so that it is either whole or absent: `fill` writes a neighbour, which then takes the name."""
    with user_errors(path):
        make_folder(path.parent)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o666 & ~umask())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def make_folder(path: Path) -> None:
    """
    Raises:
        OSError: as `user_errors` knows it, a file in the way included.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, "a file, not a folder", str(path)) from None


def umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value


def write_text(path: Path, text: str) -> None:
    write_file(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Readable JSON; NaN is refused, since it is no JSON: use None."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, sort_keys=False) + "\n")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    """
    Raises:
        ThriftyError: no such file, or no JSON in it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ThriftyError(f"no such file: {path}") from None
    except (ValueError, OSError) as error:
        raise ThriftyError(f"{path} cannot be read as JSON: {error}") from None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The mappings in a file, one a line; none where there is no file.

    Raises:
        ThriftyError: a line that is no JSON mapping.
    """
    if not path.is_file():
        return []
    rows = []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if line:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"line {number} holds {type(row).__name__}, a mapping is needed")
                rows.append(row)
    except (ValueError, OSError) as error:
        raise ThriftyError(f"{path} cannot be read as lines of JSON: {one_line(error)}") from None
    return rows
