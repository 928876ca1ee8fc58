"""Trials on a real Ray: retries, resumes, refusals, stops. The trial functions are in tests/toy_trials.py."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from toy_trials import count_trial, expected, square

from thrifty import manifest, trials, trials_connect
from thrifty.config import Resources
from thrifty.errors import ThriftyError
from thrifty.failures import failed_trials
from thrifty.results import Run, Trial, read_json, user_errors, write_json, write_jsonl
from thrifty.trials import Spec, map_batches, run_trials
from thrifty.trials_connect import tune

ONE = Resources(max_failures=2)


def make_spec(run: Run, name: str, **arguments: Any) -> Spec:
    values: dict[str, Any] = {"run": str(run.root), "seed": 3, "epochs": 4, **arguments}
    return Spec(name, Trial(run.root / "search" / name), values, values["epochs"])


def value_of(spec: Spec) -> int:
    return read_json(spec.trial.result)["value"]


def manifest_rows(run: Run, stage: str = "search") -> dict[str, dict]:
    return {row["name"]: row for row in read_json(run.root / stage / "trials.json")["trials"]}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


@pytest.mark.usefixtures("ray_local")
def test_a_killed_worker_is_retried_from_its_checkpoint_and_others_go_on(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    quiet, killed = make_spec(run, "quiet"), make_spec(run, "killed", die_at=2)
    run_trials("search", count_trial, [quiet, killed], ONE, run)
    assert value_of(quiet) == value_of(killed) == expected(3, 4)
    assert (killed.trial.folder / "log").read_text().split() == ["0", "1", "2", "3"]
    assert not list(killed.trial.folder.glob(".*.part"))
    rows = manifest_rows(run)
    assert rows["quiet"]["attempts"] == 1 and rows["killed"]["attempts"] == 2
    assert {row["status"] for row in rows.values()} == {"done"}
    assert rows["killed"]["seconds"] > 0 and rows["killed"]["arguments"]["die_at"] == 2
    assert rows["killed"]["cpu_hours"] == pytest.approx(rows["killed"]["seconds"] / 3600, abs=2e-6)
    assert not (run.search / ".tune").exists()
    printed = capsys.readouterr().out
    assert "search killed: is tried again: its worker died" in printed and "2 of 2 done" in printed


@pytest.mark.usefixtures("ray_local")
def test_a_trial_whose_worker_died_with_its_result_written_is_not_trained_again(run: Run) -> None:
    spec = make_spec(run, "late", die_after=True)
    run_trials("search", count_trial, [spec], ONE, run)
    assert value_of(spec) == expected(3, 4)
    assert (spec.trial.folder / "log").read_text().split() == ["0", "1", "2", "3"]
    assert (manifest_rows(run)["late"]["status"], manifest_rows(run)["late"]["attempts"]) == ("done", 2)


@pytest.mark.usefixtures("ray_local")
def test_finished_trials_are_not_called_again(run: Run) -> None:
    first, second = make_spec(run, "first"), make_spec(run, "second", seed=4)
    run_trials("search", count_trial, [first], ONE, run)
    run_trials("search", count_trial, [first, second], ONE, run)
    run_trials("search", count_trial, [first, second], ONE, run)
    assert value_of(second) == expected(4, 4)
    assert (first.trial.folder / "log").read_text().split() == ["0", "1", "2", "3"]
    assert [row["attempts"] for row in manifest_rows(run).values()] == [1, 1]


@pytest.mark.usefixtures("ray_local")
def test_failing_trials_are_named_with_their_reason_and_stop_no_other(run: Run) -> None:
    specs = [
        make_spec(run, "raises", raise_at=1),
        make_spec(run, "refuses", refuse_at=0),
        make_spec(run, "forgets", forget=True),
        make_spec(run, "fine"),
    ]
    with pytest.raises(ThriftyError) as caught:
        run_trials("search", count_trial, specs, Resources(max_failures=1), run)
    text = str(caught.value)
    assert "3 of 4 trials of search failed" in text and "run the same command to go on" in text and "\n" not in text
    assert "raises: the loss is not a number" in text
    assert "refuses: the budget of 10 parameters is below the smallest network; give at least 812" in text
    assert "forgets: it ended without a result" in text
    assert value_of(specs[3]) == expected(3, 4)
    rows = manifest_rows(run)
    assert (rows["raises"]["attempts"], rows["refuses"]["attempts"]) == (2, 1), "a user's error is not tried again"
    assert [row["status"] for row in rows.values()] == ["failed", "failed", "failed", "done"]
    assert "ValueError" in specs[0].trial.error.read_text()


@pytest.mark.usefixtures("ray_local")
def test_a_study_goes_on_without_as_many_failed_trials_as_it_bears(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    specs = [make_spec(run, "refuses", refuse_at=0), make_spec(run, "fine")]
    run_trials("search", count_trial, specs, Resources(max_failed_trials=1), run)
    assert value_of(specs[1]) == expected(3, 4) and manifest_rows(run)["refuses"]["status"] == "failed"
    said = capsys.readouterr().out
    assert "search: 1 of 2 trials of search failed: refuses: the budget of 10" in said
    assert "the study goes on without (--max-failures 1)" in said
    (failed,) = failed_trials(run)
    assert (failed["stage"], failed["trial"]) == ("search", "refuses") and failed["reason"].startswith("the budget of 10")
    with pytest.raises(ThriftyError, match=r"^1 of 2 trials of search failed: refuses"):
        run_trials("search", count_trial, specs, Resources(), run)
    with pytest.raises(ThriftyError, match=r"^1 of 1 trials of retrain failed \(1 more failed before\): refuses"):
        run_trials("retrain", count_trial, specs[:1], Resources(max_failed_trials=9), run)
    run_trials("retrain", count_trial, specs[1:], Resources(), run)
    row = manifest_rows(run, "retrain")["refuses"]
    assert (row["status"], row["error"]) == ("dropped", "no longer part of the study"), "it stands in nobody's way"
    assert [row["stage"] for row in failed_trials(run)] == ["search"]


@pytest.mark.usefixtures("ray_local")
def test_a_trial_ends_at_its_pause_and_goes_on_from_there(run: Run) -> None:
    """`count_trial` keeps no record of its epochs: here one is written for it."""
    whole = make_spec(run, "paused", epochs=4)
    write_jsonl(whole.trial.record, [{"epoch": 0}])
    paused = replace(whole, trial=replace(whole.trial, pause=2), arguments=whole.arguments | {"epochs": 2, "forget": True})
    with pytest.raises(ThriftyError, match="it ended without a result"):
        run_trials("search", count_trial, [paused], Resources(), run)
    write_jsonl(whole.trial.record, [{"epoch": 0}, {"epoch": 1}])
    run_trials("search", count_trial, [paused], Resources(), run)
    assert (manifest_rows(run)["paused"]["status"], manifest_rows(run)["paused"]["attempts"]) == ("paused", 1)
    run_trials("search", count_trial, [whole], Resources(), run)
    assert value_of(whole) == expected(3, 4) and manifest_rows(run)["paused"]["status"] == "done"
    assert (whole.trial.folder / "log").read_text().split() == ["0", "1", "2", "3"]


@pytest.mark.usefixtures("ray_local")
def test_exceptions_are_not_tried_again_for_ever_where_dead_workers_are(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trials.EXCEPTIONS == 3
    monkeypatch.setattr(trials, "EXCEPTIONS", 1)  # quicker
    raises, killed = make_spec(run, "raises", raise_at=2), make_spec(run, "killed", die_at=2)
    with pytest.raises(ThriftyError, match=r"^1 of 2 trials of search failed: raises: the loss is not a number;"):
        run_trials("search", count_trial, [raises, killed], Resources(max_failures=-1), run)
    rows = manifest_rows(run)
    assert (rows["raises"]["attempts"], rows["raises"]["status"]) == (2, "failed")
    assert (rows["killed"]["attempts"], rows["killed"]["status"]) == (2, "done")
    assert "ValueError" in raises.trial.error.read_text()


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("status", ["running", "done"])
def test_a_disk_that_fills_up_under_the_driver_is_one_line(run: Run, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = [make_spec(run, "first"), make_spec(run, "second")]
    full = []

    def write(path: Path, value: dict) -> None:
        full.extend(row["name"] for row in value["trials"] if row["status"] == status)
        if not full:
            write_json(path, value)
            return
        with user_errors(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(manifest, "write_json", write)
    with pytest.raises(ThriftyError) as caught:
        run_trials("search", count_trial, specs, Resources(concurrent=1), run)
    assert str(caught.value).startswith(f"{run.search / 'trials.json'} cannot be written: the disk is full")
    assert "\n" not in str(caught.value) and not specs[1].trial.done, "no further trial was begun"


@pytest.mark.usefixtures("ray_local")
def test_an_error_of_ray_tune_itself_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(self: object) -> None:
        raise tune.TuneError("Traceback (most recent call last):\n  File x\nOSError: [Errno 5] Input/output error\n")

    monkeypatch.setattr(tune.Tuner, "fit", fit)
    with pytest.raises(ThriftyError, match=r"^Ray stopped search: OSError: \[Errno 5\] Input/output error; run the same command"):
        run_trials("search", count_trial, [make_spec(run, "one")], ONE, run)


@pytest.mark.usefixtures("ray_local")
def test_a_share_of_a_gpu_is_what_tune_is_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no GPU here, so Tune is asked and does not answer."""
    asked = []

    class Tuner:
        def __init__(self, trainable: Any, **settings: Any) -> None:
            asked.append(trainable._resources.required_resources)

        def fit(self) -> None:
            raise tune.TuneError("no GPU")

    monkeypatch.setattr(tune, "Tuner", Tuner)
    monkeypatch.setattr(trials, "_check_resources", lambda resources: None)
    with pytest.raises(ThriftyError, match="no GPU"):
        run_trials("search", count_trial, [make_spec(run, "half")], Resources(cpus_per_trial=2, gpus_per_trial=0.5), run)
    assert asked == [{"CPU": 2, "GPU": 0.5}]


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_cleanly_and_the_same_call_goes_on(run: Run, number: int) -> None:
    spec = make_spec(run, "slow", sleep=0.3)
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]

    def interrupt() -> None:
        while not spec.trial.checkpoint.is_file():
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(ThriftyError, match="interrupted: 0 of 1 trials of search are done; run the same command to go on"):
        run_trials("search", count_trial, [spec], ONE, run)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == handlers
    assert manifest_rows(run)["slow"]["status"] == "interrupted"
    run_trials("search", count_trial, [spec], ONE, run)
    assert value_of(spec) == expected(3, 4)


@pytest.mark.usefixtures("ray_local")
def test_a_signal_counts_even_if_all_trials_are_done_by_then(run: Run) -> None:
    """Otherwise the next stage would start."""
    spec = make_spec(run, "late", linger=1.0)

    def interrupt() -> None:
        while not spec.trial.done:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(ThriftyError, match="interrupted: 1 of 1 trials of search are done; run the same command to go on"):
        run_trials("search", count_trial, [spec], ONE, run)
    assert manifest_rows(run)["late"]["status"] == "done"


@pytest.mark.usefixtures("ray_local")
def test_more_than_the_machine_has_is_refused_at_once(run: Run) -> None:
    with pytest.raises(ThriftyError, match=r"needs 64 CPUs and 0 GPUs, the machines have 2 CPUs and 0 GPUs"):
        run_trials("search", count_trial, [make_spec(run, "big")], Resources(cpus_per_trial=64), run)
    with pytest.raises(ThriftyError, match=r"gpus_per_trial is 1.5: a share of one GPU"):
        map_batches(square, [{"value": 1}], Resources(gpus_per_trial=1.5))
    with pytest.raises(ThriftyError, match=r"needs 1 CPUs and 0.5 GPUs"):
        map_batches(square, [{"value": 1}], Resources(gpus_per_trial=0.5))


@pytest.mark.usefixtures("ray_local")
def test_map_batches_keeps_order_and_redoes_the_items_of_a_killed_worker(tmp_path: Path) -> None:
    items = [{"value": value} for value in range(6)]
    items[2]["die"] = str(tmp_path / "died")
    assert map_batches(square, items, Resources(concurrent=2)) == [0, 1, 4, 9, 16, 25]
    assert (tmp_path / "died").exists()
    assert map_batches(square, [], ONE) == []


@pytest.mark.usefixtures("ray_local")
def test_map_batches_passes_on_a_users_error() -> None:
    with pytest.raises(ThriftyError, match=r"^no such candidate$"):
        map_batches(square, [{"value": 1}, {"value": 2, "refuse": True}], ONE)


@pytest.mark.usefixtures("ray_local")
def test_ray_listens_on_loopback_only() -> None:
    own = psutil.Process()
    sockets = []
    for process in [own, *own.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            sockets += [s for s in process.net_connections("tcp") if s.status == psutil.CONN_LISTEN]
    assert len(sockets) >= 3, "the head, the node and a worker"
    assert {s.laddr.ip.removeprefix("::ffff:") for s in sockets} <= {"127.0.0.1", "::1"}


def test_a_cluster_that_does_not_answer_is_told_at_once() -> None:
    """In a process of its own, since this one is connected. Port 1 is closed on any sane machine."""
    code = "from thrifty.trials import connect; connect()"
    started = time.monotonic()
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "ThriftyError: no Ray cluster answers at RAY_ADDRESS=127.0.0.1:1" in ran.stderr
    assert time.monotonic() - started < 60


def test_a_ray_that_starts_too_slowly_is_started_once_more_and_then_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises a bare Exception where a busy machine needs longer than its 30 s."""
    starts: list[str] = []

    def init(address: str, **options: Any) -> None:
        starts.append(options["_temp_dir"])
        if len(starts) != 2:
            raise Exception("The current node timed out during startup.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(trials_connect.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(trials_connect.ray, "init", init)
    trials_connect.connect()
    assert len(set(starts)) == 2
    with pytest.raises(ThriftyError, match=r"^Ray cannot start on this machine: .*The current node timed out during startup"):
        trials_connect.connect()
    assert len(starts) == 4


def test_a_signal_while_ray_starts_is_an_interruption() -> None:
    """In a process of its own, since this one may be connected: Ray ends itself by SIGTERM with a handler of its own."""
    code = "\n".join(
        [
            "import os, signal, sys",
            "from thrifty import trials_connect",
            "def init(address, **options):",
            "    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))",
            "    os.kill(os.getpid(), signal.SIGTERM)",
            "trials_connect.ray.init = init",
            "try:",
            "    trials_connect.connect()",
            "except KeyboardInterrupt:",
            "    print('interrupted')",
        ]
    )
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "interrupted\n"), ran.stderr


TAKEN_AWAY = """
import atexit, os, signal
from thrifty import ending
from thrifty.trials_connect import connect, lost

atexit.register(print, "as always")
connect()
signal.signal(signal.SIGTERM, lambda number, frame: ending.terminate())
print(lost(0.5))
ending.leave(2)
os.killpg(0, signal.SIGTERM)
"""


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ("ending.leave(2)", ""),
        pytest.param("import time; time.sleep(60)", "error: interrupted; what had finished is kept", marks=pytest.mark.faults),
    ],
)
def test_a_driver_whose_ray_is_ended_by_the_same_signal_does_not_wait_for_it(then: str, said: str) -> None:
    """As on a machine that is taken away. Ray itself may look for its dead processes for a minute and end with code 1."""
    with tempfile.TemporaryDirectory(prefix="t_", dir="/tmp") as folder:
        environment = {**os.environ, "RAY_TMPDIR": folder}
        command = [sys.executable, "-c", TAKEN_AWAY + then]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, start_new_session=True, timeout=110)
        assert ran.returncode == 2 and ran.stderr.startswith(said), ran.stderr
        # Ray may add the last words of a process that was ended.
        assert ran.stdout.startswith("False\n") and "as always" not in ran.stdout and not list(Path(folder).iterdir())


DRIVER = """
import sys
from pathlib import Path
from test_trials import make_specs
from toy_trials import count_trial
from thrifty.config import Resources
from thrifty.results import Run
from thrifty.trials import run_trials
run = Run(Path(sys.argv[1]))
run_trials("search", count_trial, make_specs(run, sleep=0.5), Resources(concurrent=1), run)
"""


def make_specs(run: Run, sleep: float) -> list[Spec]:
    return [make_spec(run, "quick", epochs=1), make_spec(run, "slow", epochs=6, sleep=sleep), make_spec(run, "last", epochs=2)]


@pytest.fixture
def ray_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that is killed outright leaves Ray's files behind: here they are removed. Sockets need the short path."""
    with tempfile.TemporaryDirectory(prefix="t_", dir="/tmp", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield


@pytest.mark.usefixtures("ray_local", "ray_folder")
def test_what_a_killed_driver_left_is_taken_up(run: Run) -> None:
    """The first driver has a Ray of its own and is killed with it; the second one, here, is refused before and finishes then."""
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    command = [sys.executable, "-W", "error", "-c", DRIVER, str(run.root)]
    first = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    log = run.search / "slow" / "log"
    limit = time.monotonic() + 120
    while not (log.is_file() and len(log.read_text().split()) >= 2):
        assert first.poll() is None and time.monotonic() < limit, first.communicate()[0]
        time.sleep(0.05)
    scratch = set((run.search / ".tune").rglob("*"))
    with pytest.raises(ThriftyError, match=rf"in use by process {first.pid} on {re.escape(socket.gethostname())}[;:]") as caught:
        run_trials("search", count_trial, make_specs(run, sleep=0.0), ONE, run)
    assert "\n" not in str(caught.value) and scratch and scratch <= set((run.search / ".tune").rglob("*"))
    first.kill()
    assert first.communicate()[0].decode().count("\n") == 3, "it says what starts and ends, and nothing else"
    assert Trial(run.search / "quick").done and not Trial(run.search / "slow").done
    time.sleep(1.0)  # its workers end within a second
    before = len(log.read_text().split())
    specs = make_specs(run, sleep=0.0)
    run_trials("search", count_trial, specs, ONE, run)
    assert (run.search / "quick" / "log").read_text().split() == ["0"]
    assert len(log.read_text().split()) - before < 6, "it went on from its checkpoint"
    assert [value_of(spec) for spec in specs] == [expected(3, 1), expected(3, 6), expected(3, 2)]
    assert manifest_rows(run)["slow"]["attempts"] == 2
