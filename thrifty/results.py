"""The run folder: every file name, atomic writes, and what is done already.

Stages meet in these files and nowhere else. A file that exists is whole: everything is written beside its place and renamed.
The record of the selection alone grows line by line. Where results are kept at a URL every finished file is published there
(`thrifty.copies`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import yaml

from thrifty import copies, growth
from thrifty.config import SCHEMA, Keep, Study, read_study, read_values
from thrifty.errors import ThriftyError, one_line

BEFORE = (("retrain", "postprocess", "none"),)  # keys that run.yaml of older versions lack, with what was done then
TRANSIENT = frozenset(  # storage over a network that is away for a while
    {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ENOTCONN, errno.ECONNRESET, errno.ECONNABORTED}
    | {errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH}
)
PATIENCE_SECONDS, FIRST_PAUSE, LONGEST_PAUSE = 120.0, 0.5, 15.0
T = TypeVar("T")


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
        return Trial(self.search / plain(name))

    @property
    def candidates(self) -> Path:
        return self.root / "candidates.jsonl"

    @property
    def evaluations(self) -> Path:
        return self.root / "select" / "evaluations.jsonl"

    def asked(self, key: str) -> Path:
        """All trials of one of Optuna's studies, in its order: what was asked and what was told."""
        return self.root / "select" / "optuna" / f"{key}.jsonl"

    def all_asked(self) -> dict[str, Path]:
        """Those that are there, by key."""
        return {path.stem: path for path in sorted((self.root / "select" / "optuna").glob("*.jsonl"))}

    @property
    def why(self) -> Path:
        """What was chosen for each budget, from where and against what, to be read."""
        return self.root / "select" / "why.md"

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
        return self.short / plain(network) / "genotype.json"

    def short_trial(self, network: str, seed: int, number: int = 0) -> Trial:
        """Of the round `number`, from 0."""
        return Trial(self.short / plain(network) / (f"round_{number}_seed_{seed}" if number else f"seed_{seed}"))

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
        return Trial(self.retrain / plain(network) / name)

    @property
    def networks(self) -> Path:
        """The list of networks that `retrain` trains: names, kinds, budgets, genotypes, parameters."""
        return self.retrain / "networks.json"

    @property
    def start(self) -> Trial:
        """The trained network that is fine-tuned: model.json and weights, copied."""
        return Trial(self.retrain / "start")

    def evaluate_trial(self, network: str, seed: int, fold: int | None = None) -> Trial:
        """Beside the retraining of the same name: its predictions of the test cases, measured."""
        return Trial(self.root / "evaluate" / "trials" / plain(network) / self.retrain_trial(network, seed, fold).folder.name)

    def robustness_trial(self, network: str, seed: int, fold: int | None = None) -> Trial:
        """Beside `evaluate_trial`: objects, surfaces, calibration and Dice of worse images."""
        return Trial(self.root / "evaluate" / "robustness" / plain(network) / self.retrain_trial(network, seed, fold).folder.name)

    def transfer_trial(self, network: str, seed: int, fold: int | None = None) -> Trial:
        """Beside `evaluate_trial`: the same of a second data set."""
        return Trial(self.root / "evaluate" / "transfer" / plain(network) / self.retrain_trial(network, seed, fold).folder.name)

    @property
    def transfer_data(self) -> Path:
        """The second data set, decoded."""
        return self.root / "evaluate" / "transfer_data"

    @property
    def robustness_tables(self) -> dict[str, Path]:
        """Tables of `evaluate`, by what is in them."""
        names = {"corruptions": "robustness", **{name: name for name in ("objects", "surfaces", "calibration", "transfer")}}
        return {name: self.root / "evaluate" / f"{file}.csv" for name, file in names.items()}

    @property
    def network_latencies(self) -> Path:
        """Measured latencies of the trained networks, and under what conditions."""
        return self.root / "evaluate" / "latency.json"

    @property
    def examples(self) -> Path:
        """A list of {case, rank, dice, network, seed, file}: predicted label maps for the report, `file` below the run folder."""
        return self.root / "evaluate" / "examples.json"

    def example(self, network: str, case: str) -> Path:
        return self.root / "evaluate" / "examples" / plain(network) / f"{plain(case)}.png"

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
    def page(self) -> Path:
        """The same as one self-contained page."""
        return self.root / "report" / "index.html"

    @property
    def ledger(self) -> Path:
        """Hours of every trial, by stage."""
        return self.root / "ledger.json"


@dataclass(frozen=True)
class Trial:
    """The folder of one trial: of a search, a short training, a retraining or an evaluation."""

    folder: Path
    keep: Keep = "best"  # which checkpoints stay when it has finished
    pause: int | None = None  # epochs after which it is to wait for a decision; None: it runs to its end

    @property
    def checkpoint(self) -> Path:
        """Everything needed to go on; removed when the trial has finished, unless `keep` says otherwise."""
        return self.folder / "checkpoint.pt"

    @property
    def checkpoint_before(self) -> Path:
        """The one before the newest, in case that is damaged."""
        return self.folder / "checkpoint_before.pt"

    def checkpoint_of(self, epoch: int) -> Path:
        """With `keep` = all, one for each epoch."""
        return self.folder / "checkpoints" / f"epoch_{epoch:04d}.pt"

    @property
    def record(self) -> Path:
        """One line for each epoch."""
        return self.folder / "epochs.jsonl"

    @property
    def events(self) -> Path:
        """The record as TensorBoard reads it."""
        return self.folder / "events.out.tfevents.thrifty"

    @property
    def result(self) -> Path:
        """The outcome; it exists exactly when the trial has finished."""
        return self.folder / "result.json"

    @property
    def dropped(self) -> Path:
        """Why it was stopped before its end, and after how many epochs; its checkpoint stays. See docs/halving.md."""
        return self.folder / "dropped.json"

    @property
    def error(self) -> Path:
        """The traceback that ended the last attempt, if one did."""
        return self.folder / "error.txt"

    @property
    def profile(self) -> Path:
        """Where the time of a search went, if it was profiled."""
        return self.folder / "profile.json"

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

    @property
    def settled(self) -> bool:
        """Whether there is nothing to do for it now: it is done, or has come as far as it is to go for a decision."""
        return self.done or (self.pause is not None and len(read_jsonl(self.record)) >= self.pause)

    @property
    def state(self) -> str:
        """What files say of it while it does not run: done, dropped, paused or waiting."""
        if self.done:
            return "done"
        return "dropped" if self.dropped.is_file() else "paused" if self.settled else "waiting"

    def drop_checkpoints(self) -> None:
        """Removes what a finished trial is not to keep."""
        remove(self.checkpoint_before)
        if self.keep == "best":
            remove(self.checkpoint)


def plain(name: str) -> str:
    """`name`, once it is clear that as a part of a path it leads nowhere else: names come from files that anyone can write.

    Raises:
        ThriftyError: it has a separator in it, or is '.', '..' or empty.
    """
    if name in ("", ".", "..") or any(sign in name for sign in "/\\\0"):
        raise ThriftyError(f"{name!r} cannot be the name of a file or folder; remove the file that it comes from")
    return name


def open_run(root: Path, study: Study) -> Run:
    """The run folder of `study`: made if new, taken up again if it holds the same study, or a part of it that may grow.

    Raises:
        ThriftyError: as `check_run`; or the folder cannot be written.
    """
    check_run(root, study)
    run = Run(root)
    if not run.study.is_file():
        for path in run.genotypes().values():  # put there by hand
            copies.published(path)
    if not run.study.is_file() or growth_of(root, study):
        resolved = _as_begun(run.study, study.model_dump(mode="json"))
        write_text(run.study, yaml.safe_dump({"schema": SCHEMA, **resolved}, sort_keys=False))
    return run


def _stored(path: Path) -> Study:
    """The study in run.yaml. Keys that the version which wrote it did not know have their defaults, but for those whose default
    changes what trials do: a run that began without them goes on without them, or its networks could not be compared."""
    older = [f"{section}.{key}={value}" for section, key, value in _unknown_then(path)]
    return read_study(path, older)


def _as_begun(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """The keys of a study as `_stored` has those of the run that it is to go on with."""
    for section, key, value in _unknown_then(path):
        values[section][key] = value
    return values


def _unknown_then(path: Path) -> list[tuple[str, str, str]]:
    values = read_values(path) if path.is_file() else {}
    return [one for one in BEFORE if values and one[1] not in values.get(one[0], {})]


def growth_of(root: Path, study: Study) -> list[str]:
    """What `study` adds to the one that the folder holds, in words; nothing where there is none yet."""
    path = Run(root).study
    if not path.is_file():
        return []
    return growth.added(_stored(path).model_dump(mode="json"), _as_begun(path, study.model_dump(mode="json")))


def check_run(root: Path, study: Study) -> None:
    """Whether `root` can be the run folder of `study`. Genotypes that a user put into a new folder may be there already.

    Raises:
        ThriftyError: it holds another study (the first keys that differ are named) or other files, or is itself a file.
    """
    run, place = Run(root), copies.shown(root)
    if run.study.is_file():
        now = _as_begun(run.study, study.model_dump(mode="json"))
        differences = growth.differences(_stored(run.study).model_dump(mode="json"), now)
        if differences:
            raise ThriftyError(
                f"{place} holds another study: {'; '.join(differences[:4])}; give this study another name=, "
                "or remove that folder to start over"
            )
    elif root.is_dir() and any(not path.match("genotype_*.json") for path in root.iterdir()):
        raise ThriftyError(f"{place} is not empty and holds no run.yaml, so it is no run folder; give the study another name=")
    elif root.exists() and not root.is_dir():
        raise ThriftyError(f"{place} is a file, where the run folder should be; move it away, or give the study another name=")


def read_run(root: Path) -> tuple[Study, Run]:
    """The study and run of an existing run folder: how a trial, which may be on another machine, finds its settings."""
    run = Run(root)
    if not run.study.is_file():
        raise ThriftyError(f"{root} is no run folder: it has no run.yaml; `thrifty run STUDY.yaml` makes one")
    return _stored(run.study), run


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
            **dict.fromkeys(TRANSIENT, "the storage does not answer: see that it is there, then run the same command to go on"),
            errno.ENOTDIR: "a file stands where a folder is needed: set THRIFTY_RESULTS to another folder",
        }
        if error.errno in hints:
            raise ThriftyError(f"{path or error.filename or 'a file'} cannot be written: {hints[error.errno]}") from None
        raise


def write_file(path: Path, fill: Callable[[IO[bytes]], object], before: Path | None = None) -> None:
    """Writes a file so that it is either whole or absent: `fill` writes a neighbour, which then takes the name.

    The file that had the name is then called `before`, where that is given. Storage that is away is waited for,
    PATIENCE_SECONDS in all.
    """
    with user_errors(path):
        patiently(lambda: _write_once(path, fill, before))
    copies.published(path, before)


def patiently(action: Callable[[], T], clock: Callable[[], float] = time.monotonic) -> T:
    """`action()`, tried again with growing pauses as long as it fails in a way that passes (TRANSIENT).

    Raises:
        OSError: of another kind at once; a transient one after PATIENCE_SECONDS.
    """
    end, pause = clock() + PATIENCE_SECONDS, FIRST_PAUSE
    while True:
        try:
            return action()
        except OSError as error:
            if error.errno not in TRANSIENT or clock() + pause > end:
                raise
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _write_once(path: Path, fill: Callable[[IO[bytes]], object], before: Path | None) -> None:
    make_folder(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~umask())
        if before is not None and path.is_file():
            os.replace(path, before)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
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


def append_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Adds lines to a file and waits until they are on the disk. A kill can leave the last of them torn: see `drop_torn_line`."""
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    with user_errors(path):
        make_folder(path.parent)
        with path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    copies.published(path)


def remove(path: Path) -> None:
    """Removes a file of a run folder, if it is there, in the store too where the folder has one."""
    path.unlink(missing_ok=True)
    copies.removed(path)


def drop_torn_line(path: Path) -> None:
    """Cuts off what stands behind the last end of a line of a file that `append_jsonl` writes."""
    if not path.is_file():
        return
    with user_errors(path), path.open("rb+") as file:
        whole = file.read().rpartition(b"\n")
        file.truncate(len(whole[0]) + len(whole[1]))


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
