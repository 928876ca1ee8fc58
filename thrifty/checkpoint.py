"""Checkpoints of a trial: the newest one and the one before, each with its size and SHA-256 at its end.

A file is what `torch.save` writes, followed by one line `thrifty checkpoint 1 <bytes> <SHA-256>`; `torch.load` reads it as it is.
A file that was cut, changed or written by another version is not believed: the one before takes its place.
"""

from __future__ import annotations

import hashlib
import io
import re
from typing import Any

import torch

from thrifty.errors import ThriftyError, one_line
from thrifty.results import Trial, write_file

SCHEMA = 1
SEAL = re.compile(rb"\nthrifty checkpoint (\d+) (\d+) ([0-9a-f]{64})\n\Z")
LONGEST_SEAL = 128  # bytes


def encode(content: dict[str, Any]) -> bytes:
    """`content` (tensors, plain values, lists, dictionaries) as a checkpoint file."""
    file = io.BytesIO()
    torch.save(content, file)
    body = file.getvalue()
    return body + f"\nthrifty checkpoint {SCHEMA} {len(body)} {hashlib.sha256(body).hexdigest()}\n".encode()


def decode(data: bytes) -> dict[str, Any]:
    """
    Raises:
        ThriftyError: cut, changed, of another version, or with anything in it that `weights_only` refuses.
    """
    seal = SEAL.search(data, max(0, len(data) - LONGEST_SEAL))
    if seal is None:
        raise ThriftyError("it does not end as a checkpoint does: cut, or written by an older version")
    schema, size, digest = int(seal[1]), int(seal[2]), seal[3].decode()
    body = data[: seal.start()]
    if schema != SCHEMA:
        raise ThriftyError(f"it has schema {schema}, this version reads {SCHEMA}")
    if len(body) != size or hashlib.sha256(body).hexdigest() != digest:
        raise ThriftyError("its content is not what was written (size or SHA-256 differs)")
    try:
        content = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as error:  # what weights_only refuses comes in many ways
        raise ThriftyError(f"it cannot be read without running code in it ({type(error).__name__})") from None
    if not isinstance(content, dict):
        raise ThriftyError(f"it holds {type(content).__name__}, no mapping")
    return content


def save(trial: Trial, data: bytes, epoch: int) -> None:
    """Writes the newest checkpoint, after `epoch`; the former one is kept as the one before."""
    write_file(trial.checkpoint, lambda file: file.write(data), before=trial.checkpoint_before)
    if trial.keep == "all":
        write_file(trial.checkpoint_of(epoch), lambda file: file.write(data))


def newest(trial: Trial) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest whole checkpoint (None: there is none), and what is wrong with those that had to be passed over."""
    warnings = []
    for path in (trial.checkpoint, trial.checkpoint_before):
        if not path.is_file():
            continue
        try:
            return decode(path.read_bytes()), warnings
        except ThriftyError as error:
            warnings.append(f"{path.name} is damaged: {error}")
        except OSError as error:
            warnings.append(f"{path.name} cannot be read: {one_line(error)}")
    return None, warnings
