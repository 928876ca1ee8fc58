"""TensorBoard's files, read back by the format's own description: frames, checksums, events; and what a resumed trial writes."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from thrifty.events import Events
from thrifty.results import Trial, write_jsonl

ROWS: list[dict[str, Any]] = [
    {"epoch": k, "dice": None if k == 0 else k / 10, "loss": 2.0 - k, "parameters": 1000 + k, "seconds": 2.0}
    | {"hash": "abc", "genotype": {"width": 8}, "settled": True}
    for k in range(6)
]


def crc32c(data: bytes) -> int:
    """Castagnoli's polynomial, bit by bit (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF)


def read_events(path: Path) -> list[Event]:
    content, events = path.read_bytes(), []
    while content:
        length = content[:8]
        (size,) = struct.unpack("<Q", length)
        data, check, end = content[12 : 12 + size], content[8:12], content[12 + size : 16 + size]
        assert check == masked(length) and end == masked(data) and len(data) == size
        events.append(Event.FromString(data))
        content = content[16 + size :]
    return events


def train(trial: Trial, begin: int, end: int) -> None:
    """An attempt: epochs as `run_epochs` keeps and then reports them."""
    events = Events(trial)
    for epoch in range(begin, end):
        write_jsonl(trial.record, ROWS[: epoch + 1])
        events.add(ROWS[epoch])


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(tmp_path / "trial")


def test_every_number_of_every_epoch_is_there_once(trial: Trial) -> None:
    assert crc32c(b"123456789") == 0xE3069283
    train(trial, 0, 6)
    first, *events = read_events(trial.events)
    assert first.file_version == "brain.Event:2" and [event.step for event in events] == list(range(6))
    for event, row in zip(events, ROWS, strict=True):
        found = {value.tag: value.simple_value for value in event.summary.value}
        assert found == pytest.approx(
            {key: row[key] for key in ("dice", "loss", "parameters", "seconds") if row[key] is not None}
        )
        assert event.wall_time - first.wall_time == pytest.approx(2.0 * (event.step + 1))
    assert socket.gethostname() not in trial.events.name and not list(trial.folder.glob("*.part"))


@pytest.mark.parametrize("lost", [0, 1, 40, 10_000])
def test_a_resumed_trial_writes_nothing_twice(trial: Trial, tmp_path: Path, lost: int) -> None:
    """Killed after the third epoch was kept; of the file the last bytes are lost, or all of it."""
    train(trial, 0, 3)
    content = trial.events.read_bytes()
    trial.events.write_bytes(content[: max(0, len(content) - lost)])
    train(trial, 3, 6)
    assert [event.step for event in read_events(trial.events)[1:]] == list(range(6))
    if lost < 10_000:
        assert trial.events.read_bytes().startswith(content), "the clock goes on from where it began"


def test_a_trial_that_went_back_an_epoch_has_it_once(trial: Trial) -> None:
    train(trial, 0, 4)
    train(trial, 2, 6)
    assert [event.step for event in read_events(trial.events)[1:]] == list(range(6))


def test_files_that_are_none_and_storage_that_fails(trial: Trial) -> None:
    Events(trial).add(ROWS[0])
    assert not trial.events.exists(), "a trial without a record"
    trial.folder.mkdir()
    trial.events.write_bytes(b"\x05\0\0\0\0\0\0\0nothing of the kind")
    train(trial, 0, 2)
    assert len(read_events(trial.events)) == 3
    trial.events.unlink()
    trial.events.mkdir()
    train(trial, 2, 4)


@pytest.mark.parametrize("wanted", [True, False])
def test_a_worker_writes_them_unless_they_are_switched_off(trial: Trial, wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from thrifty import trials_worker
    from thrifty.environment import versions_that_must_agree

    def learn(arguments: dict[str, Any], trial: Trial, report: Any) -> None:
        for epoch in range(3):
            write_jsonl(trial.record, ROWS[: epoch + 1])
            report(ROWS[epoch])

    reported: list[dict[str, Any]] = []
    monkeypatch.setattr(trials_worker.tune, "report", reported.append)
    monkeypatch.setattr(trials_worker, "_tell_node", lambda: reported.append({trials_worker.NODE: "here"}))
    item = {"folder": str(trial.folder), "arguments": {}, "keep": "best", "versions": versions_that_must_agree()}
    item |= {"seconds_left": None, "retries": 0, "raised": str(trial.folder / "raised"), "tensorboard": wanted}
    trials_worker.make_trainable(learn)({"item": item})
    first, *epochs = reported
    assert list(first) == [trials_worker.NODE] and [row["epoch"] for row in epochs] == [0, 1, 2] and "hash" not in epochs[0]
    assert trial.events.is_file() == wanted
    assert not wanted or [event.step for event in read_events(trial.events)[1:]] == [0, 1, 2]
