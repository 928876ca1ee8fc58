"""Working copies: a run folder that lives in an object store, and the local folder in which this machine works on it.

The store is the truth, the local folder a cache of it. Every finished file is published when it is written, and what is fetched
is checked by size and SHA-256 against `.files.json`, which each folder in the store has and one process at a time writes.

`.files.json` is written BEFORE the object and lists the new version and the one it replaces. So at every moment the object
of a name is one of those listed, or cut, damaged or foreign and not believed; there is no moment without a whole version.

Modules below `results` do not know of this, and modules above it read and write local files. Without a URL nothing here does
anything.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from thrifty.errors import ThriftyError, mask
from thrifty.storage import Storage, clean_url, working_copy
from thrifty.storage_lock import Lock, driver_is_here, only_driver

FILES = ".files.json"
SCHEMA = 1
OWN = ("data", "evaluate/transfer_data", "driver.lock")  # of this machine alone: never published as files of the run
SCRATCH = ".tune"  # likewise, in the folder of a stage
STUDY = "run.yaml"
GIVEN = "genotype_*.json"  # what a user may put into a new run folder
CHECKPOINTS = re.compile(r"checkpoint[^/]*\.pt")
Skip = Callable[[str], bool]


@dataclass(frozen=True)
class Version:
    """Of the content of a file."""

    size: int  # bytes
    sha256: str

    @staticmethod
    def of(data: bytes) -> Version:
        return Version(len(data), hashlib.sha256(data).hexdigest())


Files = dict[str, list[Version]]
"""Of one folder: by file name the versions that the object of that name can have, the newest first."""


class Copy:
    """The run folder at a URL and its working copy `root`. `lock` is that of the driver; workers have none."""

    def __init__(self, root: Path, url: str, lock: Lock | None = None) -> None:
        self.root, self.lock, self.storage = root, lock, Storage(url)
        self._known: dict[str, Files] = {}

    def publish(self, path: Path, before: Path | None = None) -> None:
        """Copies a finished file into the store; the object that had its name is then called `before`, where that is given."""
        folder, name = self._place(path)
        data, files = path.read_bytes(), self._files(folder)
        new, old = Version.of(data), files.get(name, [])
        if old == [new] and before is None:
            return
        if before is not None and old:
            files[before.name] = [*old, *files.get(before.name, [])]
        files[name] = [new, *(version for version in old if version != new)]
        self._write_files(folder)
        if before is not None and old:
            self.storage.copy(_join(folder, name), _join(folder, before.name))
            files[before.name] = old
        self.storage.write(_join(folder, name), data)
        files[name] = [new]  # now it is sure; a writer that is killed before leaves all that the object can be

    def remove(self, path: Path) -> None:
        """Takes a file out of the store."""
        folder, name = self._place(path)
        files = self._files(folder)
        if name in files:
            del files[name]
            self._write_files(folder)
            self.storage.delete(_join(folder, name))

    def remove_all(self, folder: Path) -> None:
        """Takes a folder out of the store."""
        below = self._name(folder)
        for name in self.storage.sizes(below):
            self.storage.delete(name)
        self._forget(below)

    def sync(self, below: Path | None = None, skip: Skip = lambda name: False, tidy: bool = True) -> None:
        """Makes the working copy, or a folder of it, equal to the store, but for what is this machine's own.

        Args:
            skip: files (names relative to the run folder) that are not fetched now.
            tidy: also remove what the store has not, and mend objects that are cut or missing where this copy is whole.
        """
        start = "" if below is None else self._name(below)
        sizes = self.storage.sizes(start)
        self._forget(start)
        manifests = self.storage.read_all(name for name in sizes if name.rpartition("/")[2] == FILES)
        there: set[str] = set()
        wanted: dict[str, list[Version]] = {}
        for manifest, data in manifests.items():
            folder = manifest.rpartition("/")[0]
            self._known[folder] = _parsed(data, f"{self.storage.url}/{manifest}")
            for name, versions in self._known[folder].items():
                whole = _join(folder, name)
                if tidy and sizes.get(whole) != versions[0].size and self._has(whole, versions):
                    self.storage.write(whole, (self.root / whole).read_bytes())
                    there.add(whole)
                elif whole in sizes and not self._is_own(whole):
                    there.add(whole)
                    if not skip(whole):
                        wanted[whole] = versions
        there -= self._bring(wanted)
        if tidy:
            self._tidy(start, there)
        for name in sizes.keys() - there if self.lock is not None else ():
            if CHECKPOINTS.fullmatch(name.rpartition("/")[2]):  # left by a writer that was killed while it removed it
                self.storage.delete(name)

    def look(self, skip: Skip) -> None:
        """Brings the working copy up to date to be read, unless a driver works on it here: then it is."""
        at_work = driver_is_here(self.storage.url)
        self.sync(skip=lambda name: skip(name) or (at_work and (self.root / name).is_file()), tidy=False)

    def fetch(self, *paths: Path) -> None:
        """Makes files equal to those of the store; they go where the store has none."""
        for folder in {self._place(path)[0] for path in paths}:
            self._files(folder, anew=True)
        listed = {_join(*self._place(path)): self._files(self._place(path)[0]).get(self._place(path)[1]) for path in paths}
        wanted = {name: versions for name, versions in listed.items() if versions is not None}
        for name in listed.keys() - (wanted.keys() - self._bring(wanted)):
            (self.root / name).unlink(missing_ok=True)

    def _bring(self, wanted: dict[str, list[Version]]) -> set[str]:
        """Fetches what the working copy has not, or has in another version; returns the names that cannot be believed."""
        lacking = {name: versions for name, versions in wanted.items() if not self._has(name, versions)}
        bad: set[str] = set()
        names = list(lacking)
        for start in range(0, len(names), 256):  # in memory at one time
            found = self.storage.read_all(names[start : start + 256])
            for name in names[start : start + 256]:
                if not self._believed(name, lacking[name], found.get(name)):
                    bad.add(name)
        return bad

    def _has(self, name: str, versions: list[Version]) -> bool:
        path = self.root / name
        return len(versions) == 1 and path.is_file() and Version.of(path.read_bytes()) == versions[0]

    def _believed(self, name: str, versions: list[Version], data: bytes | None) -> bool:
        """Places a fetched file. A damaged checkpoint is placed as well: its own seal shows it, and it is told of there."""
        folder, _, short = name.rpartition("/")
        if data is None:
            return False
        version = Version.of(data)
        self._known.setdefault(folder, {})[short] = [version] if version in versions else []
        if version in versions or CHECKPOINTS.fullmatch(short):
            _place(self.root / name, data)
            return True
        print(
            mask(f"{self.storage.url}/{name} is not what was written there (cut or changed), and is passed over"),
            file=sys.stderr,
            flush=True,
        )
        return False

    def _tidy(self, start: str, there: set[str]) -> None:
        """Removes files that the store does not have, and folders that are empty then. A run that begins keeps no file of this
        machine's own from one that was here before; genotypes can have been put there for it."""
        top = self.root / start
        is_new = start == "" and STUDY not in there
        for path in sorted(top.rglob("*"), reverse=True):
            name = path.relative_to(self.root).as_posix()
            if (path.match(GIVEN) and path.parent == self.root) if is_new else self._is_own(name):
                continue
            if path.is_dir() and not path.is_symlink():
                with contextlib.suppress(OSError):
                    path.rmdir()
            elif name not in there and (is_new or not (path.name.startswith(".") and path.name.endswith(".part"))):
                path.unlink(missing_ok=True)

    def _files(self, folder: str, anew: bool = False) -> Files:
        """Of a folder in the store, as this process knows it."""
        if anew or folder not in self._known:
            data = self.storage.read(_join(folder, FILES))
            self._known[folder] = {} if data is None else _parsed(data, f"{self.storage.url}/{_join(folder, FILES)}")
        return self._known[folder]

    def _write_files(self, folder: str) -> None:
        if self.lock is not None:
            self.lock.check()
        files = self._known[folder]
        if not files:
            self.storage.delete(_join(folder, FILES))
            return
        rows = {
            name: [{"bytes": v.size, "sha256": v.sha256} for v in versions]
            for name, versions in sorted(files.items())
            if versions
        }
        self.storage.write(_join(folder, FILES), json.dumps({"schema": SCHEMA, "files": rows}, indent=1).encode())

    def _forget(self, below: str) -> None:
        for folder in [f for f in self._known if not below or f == below or f.startswith(below + "/")]:
            del self._known[folder]

    def _is_own(self, name: str) -> bool:
        return SCRATCH in name.split("/") or any(name == own or name.startswith(f"{own}/") for own in OWN)

    def _place(self, path: Path) -> tuple[str, str]:
        folder, _, name = self._name(path).rpartition("/")
        return folder, name

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


_copies: dict[Path, Copy] = {}


def attach(root: Path, url: str, lock: Lock | None = None) -> Copy:
    """From now on what this process writes below `root` is published at `url`."""
    found = _copies.get(root)
    if found is None or found.storage.url != url or lock is not None:
        _copies[root] = found = Copy(root, url, lock)
    return found


def copy_of(path: Path) -> Copy | None:
    """The working copy that a path lies in; None for all others."""
    return next((copy for root, copy in _copies.items() if path.is_relative_to(root)), None)


def shown(root: Path) -> str:
    """What a run folder is called: the URL of a working copy, which is nobody's folder."""
    copy = copy_of(root)
    return str(root) if copy is None else copy.storage.url


def published(path: Path, before: Path | None = None) -> None:
    if (copy := copy_of(path)) is not None:
        copy.publish(path, before)


def removed(path: Path) -> None:
    if (copy := copy_of(path)) is not None:
        copy.remove(path)


def here(path: Path) -> Path:
    """`path`, fetched if it lies in a working copy that lacks it or has it in another version."""
    if (copy := copy_of(path)) is not None:
        copy.fetch(path)
    return path


def refreshed(folder: Path) -> None:
    """What a trial elsewhere has written into its folder, weights and checkpoints apart."""
    if (copy := copy_of(folder)) is not None:
        copy.sync(folder, is_heavy)


def forgotten(folder: Path) -> None:
    """Takes a whole folder out of the store."""
    if (copy := copy_of(folder)) is not None:
        copy.remove_all(folder)


def is_heavy(name: str) -> bool:
    """Files that are fetched only where they are needed."""
    return name.endswith((".safetensors", ".pt"))


@contextlib.contextmanager
def driving(root: Path, url: str | None) -> Iterator[None]:
    """Works on a run folder as its only driver; where it has a URL its working copy is brought up to date first.

    Raises:
        ThriftyError: another driver works on it; the storage cannot be used.
    """
    if url is None:
        yield
        return
    if url.startswith("memory:"):
        raise ThriftyError(f"{url}: memory of one process, which trials do not see; set THRIFTY_RESULTS to a folder or s3://...")
    with only_driver(url) as lock:
        copy = attach(root, url, lock)
        try:
            copy.sync(skip=is_heavy)
            yield
        finally:
            _copies.pop(root, None)


@contextlib.contextmanager
def reading(root: Path, url: str | None) -> Iterator[bool]:
    """Looks at a run folder that may be in a store, without its lock. False where the store has no run there: what the working
    copy holds is then of one that was removed."""
    if url is None:
        yield True
        return
    copy = attach(root, url)
    try:
        copy.look(is_heavy)
        yield has_run(url)
    finally:
        _copies.pop(root, None)


def brought(place: str | Path) -> Path:
    """A folder or file of a run in a store, by its URL: fetched, with the small files of its run; returns the local path.

    Raises:
        ThriftyError: it lies in no run folder.
    """
    url = clean_url(place)
    parts = url.split("/")
    for length in range(len(parts), 3, -1):
        root = "/".join(parts[:length])
        if has_run(root):
            copy = Copy(working_copy(root), root)
            inside = "/".join(parts[length:])
            copy.look(partial(_is_beside, inside))
            return copy.root / inside
    raise ThriftyError(f"{url} lies in no run folder: there is no {STUDY} at or above it; see that it is there")


def _is_beside(inside: str, name: str) -> bool:
    """Whether a file is not needed to use what lies in `inside`."""
    return name.endswith(".pt") or (is_heavy(name) and not name.startswith(inside))


def has_run(url: str) -> bool:
    data = Storage(url).read(FILES)
    return data is not None and STUDY in _parsed(data, f"{url}/{FILES}")


def _parsed(data: bytes, where: str) -> Files:
    """
    Raises:
        ThriftyError: damaged, or of another version.
    """
    try:
        value = json.loads(data)
        if value["schema"] != SCHEMA:
            raise ThriftyError(f"{where} has schema {value['schema']}, this version reads {SCHEMA}")
        return {
            _plain(name): [Version(int(row["bytes"]), str(row["sha256"])) for row in rows]
            for name, rows in value["files"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ThriftyError(f"{where} is damaged; remove it and the files beside it to have them made again") from None


def _plain(name: str) -> str:
    if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise ValueError(name)
    return name


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _place(path: Path, data: bytes) -> None:
    """Whole or not at all, as `results.write_file`, and unpublished."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(part).unlink(missing_ok=True)
        raise
