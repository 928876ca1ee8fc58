"""`thrifty status`: of runs that are written by hand or while it looks, of a driver that lives or was killed, of a job server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_study import BUDGET, small_study
from toy_trials import count_trial

from thrifty import cli, copies, storage_lock, submit
from thrifty.config import Resources
from thrifty.errors import ThriftyError
from thrifty.progress import Progress, driver_of, progress_of
from thrifty.results import Run, Trial, open_run, read_json, write_json, write_jsonl, write_text
from thrifty.status import job_status, job_text, place_of, run_status, text_of
from thrifty.trials import Spec, run_trials

HOLD = """
import sys, time; from pathlib import Path
from thrifty.manifest import only_driver; from thrifty.results import Run
with only_driver(Run(Path(sys.argv[1]))):
    print("held", flush=True); time.sleep(600 if sys.argv[2] == "held" else 0)
print("free", flush=True); time.sleep(600)
"""


@pytest.fixture
def run(results: Path) -> Run:
    return open_run(results / "small", small_study())


@pytest.fixture
def half(run: Run) -> Run:
    """A search that is done, one that runs, one that waits, one that failed; four epochs each of two seconds."""
    rows = []
    for name, status in (("done", "done"), ("runs", "running"), ("waits", "waiting"), ("bad", "failed")):
        trial = run.search_trial(name)
        epochs = {"done": 4, "runs": 1}.get(name, 0)
        write_jsonl(trial.record, [{"epoch": k, "dice": 0.9 - k / 10, "seconds": 2.0} for k in range(epochs)])
        setting = {"budget": 3000 if name == "done" else 9000, "width": 8, "levels": 3, "epochs": 4}
        told = {"setting": setting, "seed": 0, "cpus": 2, "gpus": 0}
        rows.append({"name": name, "folder": f"search/{name}", "status": status, "epochs": 4, "arguments": told, "attempts": 1})
        rows[-1] |= {"seconds": 3600.0, "cpu_hours": 2.0, "gpu_hours": 0.5, "faults": 0}
        rows[-1]["error"] = "loss is\nNaN" if status == "failed" else None
    write_json(run.search_trial("done").result, {"trial": "done", "dice": 0.8125, "seconds": 8.0, "cpus": 2, "gpus": 0})
    write_json(run.search / "trials.json", {"schema": 1, "stage": "search", "wall_seconds": 60.0, "trials": rows})
    return run


def lines(found: Progress) -> list[str]:
    return list(text_of(found))


@pytest.fixture
def holder(half: Run, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the run, or has held it and lives on."""
    command = [sys.executable, "-c", HOLD, str(half.root), request.param]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        while (line := process.stdout.readline().strip()) != request.param:
            assert line == "held"
        yield process
        process.kill()


@pytest.mark.parametrize("holder", ["held"], indirect=True)
def test_a_run_that_is_under_way(half: Run, holder: subprocess.Popen[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in half.root.rglob("*")}
    found = progress_of(half.root)
    assert lines(found)[0].startswith(f"study small: a driver runs trials (process {holder.pid}, last written ")
    assert lines(found)[1:] == [
        "search: running; 4 trials: 1 done, 1 running, 1 waiting, 1 failed; about 14 s left",
        "  best Dice so far by budget: 3,000: 0.812 (done), 9,000: 0.900 (runs)",
        "  runs: epoch 1/4, dice 0.900",
        "  bad: failed: loss is NaN",
        "select: not started",
        "retrain: not started",
        "evaluate: not started",
        "report: not started",
        "hours so far: 8.00 CPU-hours, 2.00 GPU-hours",
    ], "left: (4 - 1) + 4 epochs of two seconds, one trial at once"
    assert {path: path.stat().st_mtime_ns for path in half.root.rglob("*")} == before, "it writes nothing"
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    killed = progress_of(half.root)
    assert killed.driver.state == "gone" and lines(killed)[0].startswith("study small: no driver is alive, last written ")
    assert lines(killed)[1] == "search: unfinished; 4 trials: 1 done, 1 waiting, 1 interrupted, 1 failed"


@pytest.mark.parametrize("holder", ["free"], indirect=True)
def test_a_driver_between_two_stages_is_alive(half: Run, holder: subprocess.Popen[str]) -> None:
    state = driver_of(half)
    assert state.process == holder.pid and state.state == ("idle" if Path("/proc/locks").exists() else "running")


def test_a_stage_is_done_without_what_was_stopped_or_borne(half: Run) -> None:
    manifest = read_json(half.search / "trials.json")
    for row, status in zip(manifest["trials"], ("done", "dropped", "dropped", "failed"), strict=True):
        row["status"] = status
    write_json(half.search / "trials.json", manifest)
    assert progress_of(half.root).stages[0].state == "unfinished", "a failed search may still be tried again"
    write_jsonl(half.candidates, [{}])
    assert progress_of(half.root).stages[0].state == "done", "the study has gone on without"
    assert lines(progress_of(half.root))[1] == "search: done; 4 trials: 1 done, 2 dropped, 1 failed"


def test_drivers_of_other_machines_and_of_before(half: Run) -> None:
    assert driver_of(half).state == "none"
    write_text(half.root / "driver.lock", "process 1 on elsewhere.example\n")
    assert driver_of(half).state == "elsewhere" and driver_of(half).alive, "it has written a moment ago"
    assert "elsewhere.example" not in json.dumps(progress_of(half.root).as_json())
    os.utime(half.search / "trials.json", (time.time() - 3600,) * 2)
    assert not driver_of(half).alive
    write_text(half.root / "driver.lock", f"process {os.getpid()} on {socket.gethostname()}\n")
    os.utime(half.root / "driver.lock", (1e9, 1e9))
    assert driver_of(half).state == "gone", "this process began after that was written: another one had its number"


@pytest.mark.usefixtures("ray_local")
def test_a_study_is_watched_while_it_runs(run: Run) -> None:
    arguments = {"run": str(run.root), "seed": 3, "epochs": 4, "sleep": 0.2, "cpus": 1, "gpus": 0}
    specs = [Spec(name, Trial(run.search / name), arguments, 4) for name in ("a", "b", "c")]
    thread = threading.Thread(target=run_trials, args=("search", count_trial, specs, Resources(), run))
    thread.start()
    seen = []
    while thread.is_alive():
        found = progress_of(run.root)
        seen.append((found.driver.state, found.stages[0].state, found.stages[0].count("done")))
        time.sleep(0.2)
    thread.join()
    assert ("running", "running", 0) in seen and [one[2] for one in seen] == sorted(one[2] for one in seen)
    assert progress_of(run.root).stages[0].count("done") == 3


def test_a_finished_run(run: Run) -> None:
    for stage, trial in (("search", run.search_trial("a")), ("retrain", run.retrain_trial("unet", 0))):
        told = {"network": "unet", "cpus": 1, "gpus": 0}
        row = {"name": "a", "folder": str(trial.folder.relative_to(run.root)), "status": "running", "epochs": 3, "error": None}
        write_json(run.root / stage / "trials.json", {"schema": 1, "trials": [row | {"arguments": told, "attempts": 0}]})
        write_json(trial.result, {"trial": "a", "dice": 0.5, "seconds": 1.0, "cpus": 1, "gpus": 0})
    write_jsonl(run.candidates, [])
    found = progress_of(run.root)
    assert [stage.state for stage in found.stages[:3]] == ["done", "not started", "done"]
    assert "  best Dice so far by budget: unet: 0.500 (a)" in lines(found)


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = 0
    try:
        cli.main(["status", *arguments])
    except SystemExit as end:
        code = int(end.code or 0)
    return code, *capsys.readouterr()


def test_the_command(half: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, str(half.root), "--json")
    found = json.loads(out)
    assert code == 0 and found["stages"][0]["count"] == {
        **dict.fromkeys(("done", "waiting", "interrupted", "failed"), 1),
        **dict.fromkeys(("running", "paused", "dropped"), 0),
    }
    assert found["stages"][0]["best"][0] == {"budget": "3,000", "trial": "done", "dice": 0.8125}
    study = tmp_path / "small.yaml"
    study.write_text(f"name: small\nspace: tiny\nbudgets: [{BUDGET}]\n")
    assert place_of("small") == place_of(str(study)) == (half.root, None)
    (tmp_path / "empty").mkdir()
    (tmp_path / "new.yaml").write_text(f"name: new\nspace: tiny\nbudgets: [{BUDGET}]\n")
    for what, words in {
        str(tmp_path / "empty"): "is no run folder: it has no run.yaml",
        str(tmp_path / "new.yaml"): "the study new has not begun",
        "nothing": f"'nothing' is neither a run folder nor that of a run below {half.root.parent} (THRIFTY_RESULTS): there is",
    }.items():
        code, out, error = call(capsys, what)
        assert (code, out, error.count("\n")) == (2, "", 1) and words in error
    code, _, error = call(capsys)
    assert code == 2 and "give a run folder or a study" in error


def test_results_at_a_url(half: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    store = f"file://{tmp_path}/store"
    monkeypatch.setenv("THRIFTY_RESULTS", store)
    monkeypatch.setenv("THRIFTY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(copies, "_copies", {})
    copies.attach(half.root, f"{store}/small")
    for path in (path for path in half.root.rglob("*") if path.is_file()):
        copies.published(path)
    copies._copies.clear()
    (tmp_path / "small.yaml").write_text(f"name: small\nspace: tiny\nbudgets: [{BUDGET}]\n")
    (tmp_path / "new.yaml").write_text(f"name: new\nspace: tiny\nbudgets: [{BUDGET}]\n")
    answers = [call(capsys, what, "--json") for what in ("small", f"{store}/small", str(tmp_path / "small.yaml"))]
    for code, out, _ in answers:
        found = json.loads(out)
        assert code == 0 and found["stages"][0]["count"]["done"] == 1 and found["driver"]["state"] == "gone"
    for what, words in {
        f"{store}/other": f"{store}/other is no run folder: there is no run.yaml",
        str(tmp_path / "new.yaml"): f"the study new has not begun: there is no {store}/new; `thrifty run",
        "nothing": f"'nothing' is neither a run folder nor that of a run below {store} (THRIFTY_RESULTS): there is",
    }.items():
        code, out, error = call(capsys, what)
        assert (code, out, error.count("\n")) == (2, "", 1) and words in error
    lock = tmp_path / "store" / "small" / "driver.lock"
    with storage_lock.only_driver(f"{store}/small"):
        assert (run_status("small").driver.state, run_status("small").driver.process) == ("idle", os.getpid())
        held = json.loads(lock.read_text())
    lock.write_text(json.dumps(held | {"machine": "other", "host": "elsewhere"}))
    driver = run_status("small").driver
    assert (driver.state, driver.host, driver.alive) == ("elsewhere", "elsewhere", True), "its beat is fresh"
    for path in (tmp_path / "store").rglob("*"):
        os.utime(path, (time.time() - 3600,) * 2)
    driver = run_status("small").driver
    assert not driver.alive and driver.seconds == pytest.approx(3600, abs=60)
    lock.write_text(json.dumps(held | {"started": 1.0}))
    assert run_status("small").driver.state == "gone", "another process has its number"


def test_a_job_of_a_cluster(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    job = {"submission_id": "raysubmit_1", "job_id": None, "entrypoint": "python -m thrifty run demo", "message": "went well"}
    job |= {"status": "SUCCEEDED", "metadata": {"thrifty_study": "demo"}, "driver_exit_code": 0, "start_time": 1e12}
    other = job | {"submission_id": "other", "entrypoint": "sleep 1", "metadata": {}, "start_time": 1e12 + 1}

    class Client:
        def list_jobs(self) -> list[Any]:
            return [SimpleNamespace(**values, end_time=1e12 + 65_000) for values in (job, other)]

        def get_job_logs(self, number: str) -> str:
            assert number == "raysubmit_1"
            return "".join(f"search a: epoch {k}/20 at s3://key:secret@bucket\n\n" for k in range(20))

    monkeypatch.setattr(submit, "client_of", lambda place: Client())
    found = job_status("http://127.0.0.1:8265", "raysubmit_1")
    first, *log = job_text(found)
    assert first == "job raysubmit_1 (study demo): succeeded, exit code 0, 1 min 05 s"
    assert len(log) == 10 and log[-1] == "  search a: epoch 19/20 at s3://***@bucket"
    code, out, _ = call(capsys, "--address", "http://127.0.0.1:8265")
    assert code == 0 and out == first + "\n", "of all jobs those of thrifty"
    with pytest.raises(ThriftyError, match="knows no job 'x'; it has other, raysubmit_1"):
        job_status("http://127.0.0.1:8265", "x")
