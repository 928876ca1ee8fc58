"""What trials need on machines that do not see the driver's run folder: its URL, and the decoded data by Ray's object store.

Files of the run come from the store at the URL (`thrifty.copies`). A data set is in no store: the driver puts it into
Ray's object store in pieces, once, and the first trial on a machine writes it into the working copy there, from where all trials
of the machine map it into memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thrifty.copies import attach, copy_of
from thrifty.errors import ThriftyError
from thrifty.results import Run, make_folder
from thrifty.storage import working_copy
from thrifty.trials_connect import ray

PIECE_BYTES = 16 * 2**20
INDEX = "index.json"


@dataclass(frozen=True)
class Pieces:
    """A file in Ray's object store."""

    name: str
    sha256: str
    refs: tuple[Any, ...]


@dataclass(frozen=True)
class Share:
    """`url` of the run folder, `root` of it on the driver's machine, and its data set (empty where there is no other machine);
    `transfer` is the second data set, which the trials of an evaluation alone need."""

    url: str
    root: str
    data: tuple[Pieces, ...]
    transfer: tuple[Pieces, ...] = ()

    def moved(self, value: Any) -> Any:
        """A trial's settings with all paths in the driver's run folder turned into those of this machine's working copy."""
        if isinstance(value, dict):
            return {key: self.moved(inner) for key, inner in value.items()}
        if isinstance(value, str) and (value == self.root or value.startswith(self.root + os.sep)):
            return str(working_copy(self.url)) + value[len(self.root) :]
        return value

    def bring(self, trial: Path | None = None, *marks: Path) -> None:
        """Makes the working copy of this machine ready: the data, what all trials read, and the folder of this one.

        Args:
            trial: its folder, here.
            marks: further files, here.

        Raises:
            ThriftyError: the storage cannot be used, or the data did not arrive as it was sent.
        """
        run = Run(working_copy(self.url))
        copy = attach(run.root, self.url)
        for data, folder in ((self.data, run.data), (self.transfer, run.transfer_data)):
            if data:
                bring_data(data, folder, run.root.parent)
        copy.fetch(run.study, run.space, run.splits, run.networks, run.start.model, run.start.weights, *marks)
        if trial is not None:
            copy.sync(trial, skip=lambda name: name.endswith(".safetensors") or "/checkpoints/" in name)


def share_of(root: Path, transfer: bool = False) -> Share | None:
    """None where the run folder is a plain folder, which all machines have to see.

    Args:
        transfer: also the second data set, if there is one.
    """
    copy = copy_of(root)
    if copy is None:
        return None
    if not has_other_machines():
        return Share(copy.storage.url, str(root), ())
    run = Run(root)
    return Share(copy.storage.url, str(root), put_data(run.data), put_data(run.transfer_data) if transfer else ())


def has_other_machines() -> bool:
    """Now, or perhaps later: machines join a cluster as they are needed."""
    return os.environ.get("RAY_ADDRESS", "local") != "local" or sum(node["Alive"] for node in ray.nodes()) > 1


def put_data(folder: Path) -> tuple[Pieces, ...]:
    """The files of a decoded data set in Ray's object store, put there once for each connection to Ray."""
    if not (folder / INDEX).is_file():
        return ()
    key = (ray.get_runtime_context().get_job_id(), str(folder), _digest(folder / INDEX))
    if key not in _put:
        for old in [old for old in _put if old[0] != key[0] or old[1] == key[1]]:
            del _put[old]
        _put[key] = tuple(_put_file(path) for path in sorted(folder.iterdir()) if path.is_file())
    return _put[key]


_put: dict[tuple[Any, ...], tuple[Pieces, ...]] = {}


def _put_file(path: Path) -> Pieces:
    refs, digest = [], hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
            refs.append(ray.put(piece))
    return Pieces(path.name, digest.hexdigest(), tuple(refs))


def bring_data(data: tuple[Pieces, ...], folder: Path, scratch: Path) -> None:
    """Writes a data set into `folder`, unless it is there; of the processes of a machine one does, the others wait. `scratch`, a
    folder on the same disk outside of the run folder, has the lock and what is not whole yet."""
    index = next(file.sha256 for file in data if file.name == INDEX)
    if _digest(folder / INDEX) == index:
        return
    make_folder(folder.parent)
    with _locked(scratch / "data.lock"):
        if _digest(folder / INDEX) == index:
            return
        part = Path(tempfile.mkdtemp(dir=scratch, prefix=".data.", suffix=".part"))
        try:
            for file in data:
                _write(part / file.name, file)
            shutil.rmtree(folder, ignore_errors=True)
            os.rename(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _write(path: Path, file: Pieces) -> None:
    digest = hashlib.sha256()
    with path.open("wb") as out:
        for ref in file.refs:
            piece = ray.get(ref)
            digest.update(piece)
            out.write(piece)
        out.flush()
        os.fsync(out.fileno())
    if digest.hexdigest() != file.sha256:
        raise ThriftyError(f"{path.name} of the data set did not arrive as it was sent; run the same command to go on")


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        with contextlib.suppress(OSError):  # some network file systems know no locks: then several write, and one wins
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
