"""TensorBoard's curves of a trial: `events.out.tfevents.thrifty` in its folder, from the record of its epochs.

The file is a function of the record and of the moment it began. So a trial that is resumed writes the same bytes again and none
twice: what is missing is appended, and where the trial went back an epoch the file is written anew. tensorboardX' own writer puts
the host into the name of a new file for each attempt, and loses what its thread has not written when a worker is killed.
"""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Iterable, Mapping
from typing import Any

from thrifty.copies import published
from thrifty.errors import ThriftyError
from thrifty.results import Trial, read_jsonl, write_file

VERSION = "brain.Event:2"  # TensorBoard's name of the format
HEADER = struct.Struct("<QI")  # length of an event, and the masked CRC-32C of these eight bytes
Row = Mapping[str, Any]


class Events:
    """Adds an epoch to the file of a trial whenever one is reported. No trial ends for it: storage that fails is passed over."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.clock: float | None = None  # of the last event; None before the first epoch of this attempt

    def add(self, row: Row) -> None:
        """`row`: an epoch that stands last in the trial's record by now. A trial without a record has no curves."""
        with contextlib.suppress(OSError, ThriftyError):
            if self.clock is None:
                self._take_up()
            else:
                self.clock += _seconds(row)
                with self.trial.events.open("ab") as file:
                    file.write(_epoch(row, self.clock))
                published(self.trial.events)

    def _take_up(self) -> None:
        rows = read_jsonl(self.trial.record)
        if not rows:
            return
        path = self.trial.events
        there = path.read_bytes() if path.is_file() else b""
        origin = begin_of(there)
        content, end = encoded(rows, time.time() if origin is None else origin)
        if there and content.startswith(there):  # the last event may be torn
            with path.open("ab") as file:
                file.write(content[len(there) :])
            published(path)
        else:
            write_file(path, lambda file: file.write(content))
        self.clock = end


def encoded(rows: Iterable[Row], origin: float) -> tuple[bytes, float]:
    """The whole file, and the time of its last event: `origin` (seconds since 1970) and the seconds of all epochs, pauses left
    out."""
    from tensorboardX.proto.event_pb2 import Event  # pyrefly: ignore[missing-module-attribute]

    parts, clock = [_framed(Event(wall_time=origin, file_version=VERSION).SerializeToString())], origin
    for row in rows:
        clock += _seconds(row)
        parts.append(_epoch(row, clock))
    return b"".join(parts), clock


def begin_of(content: bytes) -> float | None:
    """The time of the first event of a file; None where there is none that is whole."""
    from google.protobuf.message import DecodeError
    from tensorboardX.proto.event_pb2 import Event  # pyrefly: ignore[missing-module-attribute]

    if len(content) < HEADER.size:
        return None
    length, _ = HEADER.unpack_from(content)
    if len(content) < HEADER.size + length + 4:
        return None
    try:
        return Event.FromString(content[HEADER.size : HEADER.size + length]).wall_time
    except DecodeError:
        return None


def _epoch(row: Row, clock: float) -> bytes:
    """One event with every number of an epoch's record, at the step of that epoch."""
    from tensorboardX.proto.event_pb2 import Event  # pyrefly: ignore[missing-module-attribute]
    from tensorboardX.proto.summary_pb2 import Summary  # pyrefly: ignore[missing-module-attribute]

    values = [Summary.Value(tag=key, simple_value=float(value)) for key, value in row.items() if _is_curve(key, value)]
    return _framed(Event(wall_time=clock, step=row["epoch"], summary=Summary(value=values)).SerializeToString())


def _is_curve(key: str, value: Any) -> bool:
    return key != "epoch" and isinstance(value, (int, float)) and not isinstance(value, bool)


def _seconds(row: Row) -> float:
    return float(row.get("seconds") or 0.0)


def _framed(event: bytes) -> bytes:
    """A record of a TFRecord file: length, its checksum, the event, its checksum."""
    from tensorboardX.record_writer import masked_crc32c

    length = struct.pack("<Q", len(event))
    return HEADER.pack(len(event), masked_crc32c(length)) + event + struct.pack("<I", masked_crc32c(event))
