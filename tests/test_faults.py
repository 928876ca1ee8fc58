"""Faults, each with what exactly is to be left: the quick ones. The long ones are in tests/test_faults_long.py."""

from __future__ import annotations

import ast
import errno
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_trials import make_spec, manifest_rows, value_of
from toy_trials import count_trial, expected, slow_square

import thrifty
from thrifty import manifest as manifest_module
from thrifty import results, trials
from thrifty.config import Resources
from thrifty.errors import ThriftyError
from thrifty.ledger import ledger
from thrifty.manifest import Manifest
from thrifty.results import Run, Trial, patiently, read_json, write_file, write_json
from thrifty.trials import map_batches, run_trials
from thrifty.trials_limits import Limits


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


# workers


@pytest.mark.usefixtures("ray_local")
def test_a_preempted_worker_and_one_that_hangs_stop_no_other(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGTERM, as a spot machine sends it, is a death like others; what hangs is ended when its time is over, and named."""
    specs = [
        make_spec(run, "term", die_at=2, die_by=int(signal.SIGTERM), cpus=1, gpus=0),
        make_spec(run, "hangs", hang_at=1, cpus=1, gpus=0),
        make_spec(run, "fine", cpus=1, gpus=0),
    ]
    with pytest.raises(ThriftyError) as caught:
        run_trials("search", count_trial, specs, Resources(max_failures=2, trial_hours=0.001), run)
    text = str(caught.value)
    assert text.startswith("1 of 3 trials of search failed: hangs: it has run for 0.001 hours; raise resources.trial_hours")
    assert value_of(specs[0]) == value_of(specs[2]) == expected(3, 4)
    assert (specs[0].trial.folder / "log").read_text().split() == ["0", "1", "2", "3"], "no epoch is done twice"
    rows = manifest_rows(run)
    assert {name: (row["status"], row["faults"]) for name, row in rows.items()} == {
        "term": ("done", 1), "hangs": ("failed", 2), "fine": ("done", 0)
    }  # fmt: skip
    assert read_json(specs[1].trial.checkpoint)["epoch"] == 1, "it can go on when it is given more time"
    with pytest.raises(ThriftyError, match=r"1 of 3 trials of search failed: hangs: it has run for 0\.001 hours"):
        run_trials("search", count_trial, specs, Resources(trial_hours=0.001), run)
    for spec in specs:
        if spec.trial.done:
            write_json(spec.trial.result, {"trial": spec.name, "seconds": 0.04, "cpus": 1, "gpus": 0})
    trials_of = {row["trial"]: row for row in ledger(run)["trials"]}
    assert trials_of["fine"]["lost_seconds"] == 0
    assert trials_of["term"]["lost_seconds"] == pytest.approx(rows["term"]["seconds"] - 0.04)
    assert ledger(run)["cost"]["search"]["wall_seconds"] >= max(row["seconds"] for row in rows.values())


@pytest.mark.usefixtures("ray_local")
def test_a_worker_of_other_versions_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    here = trials.versions_that_must_agree()
    assert list(here) == ["Python", "torch", "thrifty"] and "+" not in here["torch"]
    monkeypatch.setattr(trials, "versions_that_must_agree", lambda: {**here, "torch": "1.0", "thrifty": "9"})
    with pytest.raises(ThriftyError) as caught:
        run_trials("search", count_trial, [make_spec(run, "one")], Resources(), run)
    said = f"one: this worker has torch {here['torch']} (driver: 1.0), thrifty {here['thrifty']} (driver: 9); give all machines"
    assert said in str(caught.value) and manifest_rows(run)["one"]["attempts"] == 1
    assert not (run.search / "one" / "log").exists(), "nothing was begun"


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize(("name", "version"), [("Python", "3.12.0"), ("torch", "1.0"), ("thrifty", "9")])
def test_a_batch_is_refused_on_a_worker_of_another_version(
    tmp_path: Path, name: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = trials.versions_that_must_agree()
    monkeypatch.setattr(trials, "versions_that_must_agree", lambda: {**here, name: version})
    items = [{"value": 1, "folder": str(tmp_path), "sleep": 0}]
    with pytest.raises(ThriftyError) as caught:
        map_batches(slow_square, items, Resources())
    assert str(caught.value) == f"this worker has {name} {here[name]} (driver: {version}); give all machines the same versions"
    assert not list(tmp_path.iterdir()), "nothing was begun"
    monkeypatch.undo()
    assert map_batches(slow_square, items, Resources()) == [1]


@pytest.mark.usefixtures("ray_local")
def test_hours_that_are_used_up_stop_the_study_and_more_of_them_let_it_go_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_module, "WRITE_SECONDS", 0.1)
    write_json(run.retrain_trial("unet", 0).result, {"trial": "unet/seed_0", "seconds": 3600, "cpus": 1, "gpus": 0})
    specs = [make_spec(run, "slow", epochs=20, sleep=0.3, cpus=1, gpus=0), make_spec(run, "next", cpus=1, gpus=0)]
    with pytest.raises(ThriftyError) as caught:
        run_trials("search", count_trial, specs, Resources(concurrent=1, max_cpu_hours=1 + 1.5 / 3600), run)
    assert re.fullmatch(
        r"resources.max_cpu_hours=1.00042 is used up \(1 CPU-hours of all stages so far\): stopped; 0 of 2 trials of search are "
        r"done, missing are slow, next and the stages after it; raise it and run the same command to go on",
        str(caught.value),
    )
    rows = manifest_rows(run)
    assert (rows["slow"]["status"], rows["slow"]["faults"], rows["next"]["attempts"]) == ("interrupted", 0, 0)
    assert rows["slow"]["seconds"] >= 1.5 and specs[0].trial.checkpoint.is_file()
    with pytest.raises(ThriftyError, match="is used up"):
        run_trials("search", count_trial, specs, Resources(max_cpu_hours=1), run)
    assert manifest_rows(run)["slow"]["attempts"] == 1, "nothing was begun"
    run_trials("search", count_trial, specs, Resources(max_cpu_hours=2, max_gpu_hours=1), run)
    assert [value_of(spec) for spec in specs] == [expected(3, 20), expected(3, 4)]


def test_stragglers_are_named_once(run: Run) -> None:
    now = [0.0]
    book = Manifest(run, "search", Resources(), clock=lambda: now[0])
    for name in ("a", "b", "c", "late", "new"):
        book.add(name, Trial(run.search / name), {"cpus": 1, "gpus": 0}, 4)
    limits = Limits(run, Resources(), book)
    for name in ("a", "b", "c", "late"):
        book.start(name)
    for name, end in (("a", 90.0), ("b", 100.0), ("c", 110.0)):
        now[0] = end
        assert limits.stragglers() == []
        book.set(name, "done")
    book.start("new")
    for moment, said in ((299.0, 0), (306.0, 1), (312.0, 0)):
        now[0] = moment
        assert book.tick() and len(lines := limits.stragglers()) == said
        assert lines in ([], ["straggler: late has run for 5 min 06 s, the 3 finished trials took 1 min 40 s (median)"])
    assert limits.exceeded() is None


@pytest.mark.parametrize(("seconds", "trials"), [(0.01, 40), (0.4, 40)])
def test_writing_a_long_list_takes_a_small_share_of_the_time(
    run: Run, monkeypatch: pytest.MonkeyPatch, seconds: float, trials: int
) -> None:
    """Each change writes the whole list, unless that takes so long that a driver of thousands of trials would do little else."""
    now, writings = [0.0], list[float]()
    plain = manifest_module.write_json

    def slow(*given: Any) -> None:
        now[0] += seconds
        writings.append(now[0])
        plain(*given)

    monkeypatch.setattr(manifest_module, "write_json", slow)
    book = Manifest(run, "search", Resources(), clock=lambda: now[0])
    for k in range(trials):
        book.add(f"t{k}", Trial(run.search / f"t{k}"), {}, 1)
    for k in range(trials):
        book.start(f"t{k}")
        now[0] += 2.0
        book.set(f"t{k}", "done")
        book.tick()
    if seconds < 0.02:
        assert len(writings) >= 2 * trials
    else:
        assert len(writings) * seconds <= 0.025 * now[0]
        now[0] += 1 + seconds / 0.02
        assert book.tick()
    rows = read_json(run.search / "trials.json")["trials"]
    assert [row["status"] for row in rows] == ["done"] * trials and all(row["seconds"] >= 2.0 for row in rows)


# storage and clocks


class Storage:
    """`os.fsync` fails `times` times; time passes only in pauses."""

    def __init__(self, times: float, number: int, patch: pytest.MonkeyPatch) -> None:
        self.left, self.number, self.now, self.pauses = times, number, 0.0, list[float]()
        patch.setattr(results.os, "fsync", self.fsync)
        patch.setattr(results.time, "sleep", self.sleep)

    def fsync(self, handle: int) -> None:
        self.left -= 1
        if self.left >= 0:
            raise OSError(self.number, os.strerror(self.number))

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def test_storage_that_is_away_for_a_while_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(5, errno.EIO, monkeypatch)
    write_file(tmp_path / "file", lambda file: file.write(b"whole"))
    assert (tmp_path / "file").read_bytes() == b"whole" and list(tmp_path.iterdir()) == [tmp_path / "file"]
    assert storage.pauses == [0.5, 1, 2, 4, 8]


@pytest.mark.parametrize(
    ("number", "pauses"), [(errno.ENOSPC, 0), (errno.EACCES, 0), (errno.EIO, 11), (errno.ESTALE, 11), (errno.ETIMEDOUT, 11)]
)
def test_it_is_waited_for_two_minutes_where_that_helps(number: int, pauses: int, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(float("inf"), number, monkeypatch)
    with pytest.raises(OSError) as caught:
        patiently(lambda: os.fsync(0), clock=lambda: storage.now)
    assert caught.value.errno == number and len(storage.pauses) == pauses and storage.now <= results.PATIENCE_SECONDS == 120
    assert storage.now == (105.5 if pauses else 0)


def test_storage_that_stays_away_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "PATIENCE_SECONDS", 0.0)
    Storage(float("inf"), errno.EIO, monkeypatch)
    with pytest.raises(ThriftyError, match=r"file cannot be written: the storage does not answer: see that it is there"):
        write_file(tmp_path / "file", lambda file: file.write(b"whole"))
    assert list(tmp_path.iterdir()) == []


def test_no_duration_is_taken_by_a_clock_that_can_jump() -> None:
    """What asks for the time of day is for people to read; durations are of monotonic clocks, so no jump can reach them."""
    shown = {
        "events.py time.time": "when the curves of TensorBoard begin",
        "storage.py time.time": "how long ago an object was written, by the clock of its store",
        "status.py time.time": "for how long a job has run, by the clock of its cluster",
        "progress.py time.time": "how long ago a run was written to, by the times of its files",
    }
    asked = []
    for path in sorted(Path(thrifty.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                name = f"{node.value.id}.{node.attr}"
                if name in ("time.time", "time.time_ns", "time.localtime", "datetime.now", "datetime.utcnow", "date.today"):
                    asked.append(f"{path.name} {name}")
            if isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
                asked.append(f"{path.name}:{node.lineno} from {node.module}")
    assert set(asked) <= shown.keys()


def test_a_clock_that_jumps_changes_no_account(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    book = Manifest(run, "search", Resources())
    book.add("a", Trial(run.search / "a"), {}, 4)
    book.start("a")
    real: Callable[[], float] = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 1e9)
    monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * (real() + 1e9)))
    book.set("a", "done")
    written: dict[str, Any] = read_json(run.search / "trials.json")
    assert 0 <= written["trials"][0]["seconds"] < 60 and 0 <= written["wall_seconds"] < 60
