"""Objects below a URL: s3://, gs://, or whatever else fsspec knows. The only module that imports fsspec.

Credentials come from the surroundings (variables, files, the role of the machine), never from the URL. One object is replaced as
a whole or not at all, as in every object store; what is more than one object is the business of `thrifty.copies`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from thrifty.errors import CREDENTIALS, ThriftyError, mask, one_line

URL = re.compile(r"([a-z][a-z0-9+.-]*):/+(.*)", re.DOTALL)  # one slash: what a path makes of a URL
PATIENCE_SECONDS, FIRST_PAUSE, LONGEST_PAUSE = 300.0, 0.5, 30.0
TRANSIENT = frozenset(
    {errno.EIO, errno.ETIMEDOUT, errno.EAGAIN, errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED, errno.EPIPE}
    | {errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ESTALE, errno.ENOTCONN}
)
AWAY = re.compile(r"Timeout|ConnectionError|ConnectionClosed|HTTPClient|ServerDisconnected|ClientPayload|Incomplete")
NO_CREDENTIALS = re.compile(r"Credential|TokenRetrieval|RefreshError|SSOToken|ProfileNotFound")
T = TypeVar("T")


def is_url(place: str | Path) -> bool:
    """Whether it names a place in an object store; a path that exists here is one, whatever it looks like."""
    return URL.fullmatch(str(place)) is not None and not Path(place).exists()


def clean_url(place: str | Path) -> str:
    """
    Raises:
        ThriftyError: credentials or options in the URL, or nothing behind the protocol.
    """
    found = URL.fullmatch(str(place))
    if found is None:
        raise ThriftyError(f"'{place}' is no URL; give one like s3://bucket/prefix")
    protocol, rest = found[1], found[2].rstrip("/")
    url = f"{protocol}://{'/' if protocol in ('file', 'local') else ''}{rest}"
    if CREDENTIALS.search(url) or "@" in rest.split("/")[0]:
        raise ThriftyError(f"{mask(url)} has a user name or password in it; give credentials by variables or the machine's role")
    if not rest or "?" in rest or "#" in rest:
        raise ThriftyError(
            f"'{url}' is no place for results; give one like s3://bucket/prefix, and what else the store needs by variables, as "
            "AWS_ENDPOINT_URL"
        )
    if any(part in (".", "..") for part in rest.split("/")):
        raise ThriftyError(f"'{url}' has a part '.' or '..'; write it out")
    return url


def working_copy(url: str) -> Path:
    """Where this machine keeps its copy of the run folder at `url`: below THRIFTY_CACHE, by default ~/.cache/thrifty."""
    cache = Path(os.environ.get("THRIFTY_CACHE", "~/.cache/thrifty")).expanduser().absolute()
    return cache / hashlib.sha256(url.encode()).hexdigest()[:12] / url.rpartition("/")[2]


class Storage:
    """The objects below one URL, by their names relative to it. Waits for storage that is away, PATIENCE_SECONDS at most.

    Raises, from every method:
        ThriftyError: no such bucket, no permission, no credentials, storage full or still away; a package is missing.
    """

    def __init__(self, url: str, patience: float | None = None) -> None:
        self.url, self.patience = clean_url(url), patience
        self._fs, self._root = _open(self.url)

    def sizes(self, below: str = "") -> dict[str, int]:
        """The names and sizes (bytes) of all objects, or of those below a folder."""
        found = self._do(lambda: self._fs.find(self._at(below).rstrip("/"), detail=True))
        return {name[len(self._root) :].lstrip("/"): int(info["size"]) for name, info in found.items()}

    def read(self, name: str) -> bytes | None:
        """None: there is no such object."""
        return self._do(lambda: _or_none(self._fs.cat_file, self._at(name)))

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        """Those that are there, several at a time."""
        where = {self._at(name): name for name in names}
        if not where:
            return {}
        found = self._do(lambda: _raised(self._fs.cat(list(where), on_error="return")))
        return {where[at]: data for at, data in found.items() if isinstance(data, bytes)}

    def write(self, name: str, data: bytes) -> None:
        self._do(lambda: self._fs.pipe_file(self._at(name), data))

    def create(self, name: str, data: bytes) -> bool:
        """Writes an object that is not there yet; False if it is. Of several at the same time one wins, where the store knows
        conditional writes (S3, GCS)."""
        try:
            self._do(lambda: self._fs.pipe_file(self._at(name), data, mode="create"))
        except FileExistsError:
            return False
        return True

    def age_seconds(self, name: str) -> float | None:
        """Since an object was written, by the clocks of the store and of this machine; None: there is no such object."""
        written = self._do(lambda: _or_none(self._fs.modified, self._at(name)))
        return None if written is None else max(0.0, time.time() - written.timestamp())

    def copy(self, source: str, target: str) -> bool:
        """Within the store; False: there is no `source`."""
        return self._do(lambda: _or_none(self._copied, self._at(source), self._at(target))) is not None

    def _copied(self, source: str, target: str) -> bool:
        self._fs.cp_file(source, target)
        return True

    def delete(self, name: str) -> None:
        """Nothing happens where it is not there."""
        self._do(lambda: _or_none(self._fs.rm_file, self._at(name)))

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _do(self, action: Callable[[], T]) -> T:
        return patiently(action, self.url, PATIENCE_SECONDS if self.patience is None else self.patience)


def _open(url: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError:
        raise ThriftyError(f"{url} needs fsspec: pip install 'thrifty[storage]'") from None
    options = {"auto_mkdir": True} if url.startswith(("file:", "local:")) else {"use_listings_cache": False}
    try:
        system, root = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        raise ThriftyError(f"{url}: {one_line(error)} (S3: pip install 'thrifty[storage]', GCS: pip install gcsfs)") from None
    except ValueError as error:
        raise ThriftyError(f"{url}: {one_line(error)}; give s3://bucket/prefix or gs://bucket/prefix") from None
    return system, root.rstrip("/")


def _or_none(action: Callable[..., T], *arguments: Any) -> T | None:
    try:
        return action(*arguments)
    except FileNotFoundError:
        return None


def _raised(found: dict[str, Any]) -> dict[str, Any]:
    """What is not there is left out by the caller, every other error is one."""
    for value in found.values():
        if isinstance(value, Exception) and not isinstance(value, FileNotFoundError):
            raise value
    return found


def patiently(action: Callable[[], T], url: str, seconds: float, clock: Callable[[], float] = time.monotonic) -> T:
    """`action()`, tried again with growing pauses as long as the storage is away; that is said once, on one line.

    Raises:
        ThriftyError: it fails in another way, or still after so many seconds.
        FileExistsError: of `action`.
    """
    end, pause = clock() + seconds, FIRST_PAUSE
    while True:
        try:
            value = action()
            _said.discard(url)
            return value
        except FileExistsError:
            raise
        except Exception as error:
            if _status(error) == 412:
                raise FileExistsError(errno.EEXIST, "the object is there already", url) from None
            if not is_away(error):
                raise ThriftyError(_explained(error, url)) from None
            if clock() + pause > end:
                reason = f"it has not answered for {seconds / 60:g} minutes ({_named(error)})"
                raise ThriftyError(f"{url}: {reason}; see that it is there, then run the same command to go on") from None
            if url not in _said:
                _said.add(url)
                wait = f"trying again for up to {seconds / 60:g} minutes"
                print(f"{mask(url)} does not answer ({_named(error)}); {wait}", file=sys.stderr, flush=True)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


_said: set[str] = set()  # URLs that are away, of which it has been said


def is_away(error: BaseException) -> bool:
    """Whether it may pass: no connection, a time-out, or an answer such as 500, 503 or 429."""
    status = _status(error)
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    if status is not None:
        return (status >= 500 and status != 507) or status in (408, 409, 429)
    if isinstance(error, OSError):
        return error.errno in TRANSIENT
    return any(AWAY.search(kind.__name__) for kind in type(error).__mro__)


def _status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error, if it has one: s3fs keeps botocore's error as the cause, gcsfs has `code`."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return status if isinstance(status, int) else None
        code = getattr(error, "code", None)
        if isinstance(code, int) and 400 <= code < 600:
            return code
        error = error.__cause__
    return None


def _explained(error: Exception, url: str) -> str:
    go_on = "then run the same command to go on"
    if isinstance(error, FileNotFoundError):
        return f"{url}: {_named(error)}; make that bucket, or set THRIFTY_RESULTS to another"
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or _status(error) == 507 or re.search(r"quota|storage.*full|no space", str(error), re.IGNORECASE):
        return f"{url} is full ({_named(error)}): free some space, {go_on}"
    if isinstance(error, PermissionError) or _status(error) in (401, 403):
        return f"{url}: no permission ({_named(error)}); give these credentials the right to list, read, write and delete there"
    if any(NO_CREDENTIALS.search(kind.__name__) for kind in type(error).__mro__):
        variables = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for S3"
        return f"{url}: no credentials ({_named(error)}); give them by variables ({variables}) or by the role of the machine"
    return f"{url}: {_named(error)}; see docs/cluster.md on storage, {go_on}"


def _named(error: Exception) -> str:
    text = one_line(error)[:160]
    return text if len(text) > 12 else f"{type(error).__name__} {text}".strip()
