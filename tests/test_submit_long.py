"""A real Ray cluster of `ray start --head` on loopback: `ray job submit` as typed, `thrifty submit`, `ray job stop`, again.

It costs more than a minute, so `make test-faults` runs it. The cluster's processes are those of this test, and are ended by id.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import psutil
import pytest
import yaml
from small_study import BUDGET

from thrifty.results import read_json, read_jsonl

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("faults")]
REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPTS = Path(sys.executable).parent
STUDY = {
    "name": "job",
    "space": "tiny",
    "budgets": [BUDGET],
    "seeds": 1,
    "data": {"patch": 32, "phantoms": {"cases": 8, "patients": 8, "size": 32}},
    "search": {"epochs": 2, "steps": 1, "warmup": 1, "batch": 2},
    "select": {"samples": 1, "recalibrate": 1, "finalists": 1},
    "retrain": {"epochs": 2, "steps": 1, "batch": 2, "seeds": 1, "random": 0, "baselines": []},
}
Program = Callable[..., "subprocess.Popen[str]"]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_for(condition: Callable[[], object], seconds: float = 300.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.1)


def answers(address: str) -> bool:
    try:
        return urlopen(f"{address}/api/version", timeout=5).status == 200
    except (URLError, OSError):
        return False


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The job server of a cluster without token, with THRIFTY_RESULTS set for its jobs."""
    ports = [free_port() for _ in range(4)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_") and name != "PYTHONPATH"}
    environment |= {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    environment |= {"THRIFTY_RESULTS": str(tmp_path_factory.mktemp("results")), "PATH": f"{SCRIPTS}:{os.environ['PATH']}"}
    with tempfile.TemporaryDirectory(prefix="t_", dir="/tmp", ignore_cleanup_errors=True) as folder:
        command = [
            str(SCRIPTS / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={ports[0]}",
            "--dashboard-host=127.0.0.1", f"--dashboard-port={ports[1]}", f"--ray-client-server-port={ports[2]}",
            f"--dashboard-agent-listen-port={ports[3]}",  # that of jobs: another Ray of this machine has the usual one
            "--num-cpus=2", "--num-gpus=0", "--object-store-memory=100000000", f"--temp-dir={folder}/ray",
        ]  # fmt: skip
        head = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: answers(f"http://127.0.0.1:{ports[1]}") or head.poll() is not None)
        os.environ["JOB_RESULTS"] = environment["THRIFTY_RESULTS"]
        try:
            yield f"http://127.0.0.1:{ports[1]}"
        finally:
            own = [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]
            for process in own:
                process.kill()
            head.wait()
            psutil.wait_procs(own, timeout=30)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of what of this repository a job needs, with much that it does not."""
    for name in ("thrifty", "search_spaces"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".gitignore", ".rayignore"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    (tmp_path / "tune_runs").mkdir()
    (tmp_path / "tune_runs" / "job.yaml").write_text(yaml.safe_dump(STUDY))
    for name in ("data", "results", ".venv", ".git"):
        (tmp_path / name).mkdir()
        with (tmp_path / name / "large").open("wb") as file:
            file.truncate(101 * 2**20)
    return tmp_path


@pytest.fixture
def program(folder: Path, address: str) -> Program:
    def start(*command: str) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {"RAY_API_SERVER_ADDRESS": address, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(folder)}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)

    return start


def status(program: Program, address: str, *job: str) -> dict[str, Any]:
    """What `thrifty status` tells of a job of the cluster, or of all."""
    out, err = program(sys.executable, "-m", "thrifty", "status", *job, "--address", address, "--json").communicate(timeout=120)
    return json.loads(out) if out else {"error": err}


def test_a_study_is_submitted_stopped_submitted_again_and_ends_as_the_job_does(program: Program, address: str) -> None:
    submit = [sys.executable, "-m", "thrifty", "submit", "tune_runs/job.yaml", "search.epochs=40"]
    run = Path(os.environ["JOB_RESULTS"]) / "job"
    first = program(*submit)
    wait_for(lambda: any(len(read_jsonl(path)) >= 2 for path in run.glob("search/*/epochs.jsonl")) or first.poll() is not None)
    assert first.poll() is None, first.communicate()
    job = next(line for line in first.stdout or [] if line.startswith("job raysubmit_")).split()[1]
    seen = status(program, address, job)
    assert (seen["state"], seen["study"], seen["exit_code"]) == ("running", "job", None)
    assert any(line.startswith("search ") for line in seen["log"])
    stop = program(str(SCRIPTS / "ray"), "job", "stop", job)
    assert stop.communicate(timeout=120) and stop.returncode == 0
    out, err = first.communicate(timeout=120)
    assert first.returncode == 2 and f"the job {job} was stopped" in err and "Traceback" not in out + err
    assert status(program, address, job)["state"] == "stopped"
    (records,) = run.glob("search/*/epochs.jsonl")
    before = read_jsonl(records)
    assert 2 <= len(before) < 40 and not list(run.rglob("*.part"))

    again = program(
        str(SCRIPTS / "ray"), "job", "submit", "--working-dir", ".", "--", "python", "-m", "thrifty", "run", *submit[4:]
    )
    out, err = again.communicate(timeout=900)
    assert again.returncode == 0 and "succeeded" in out + err, out + err
    assert read_jsonl(records)[: len(before)] == before, "nothing was done again"
    assert read_json(run / "summary.json") and (run / "report" / "report.md").is_file()
    log = [line for line in out.splitlines() if line.startswith(("search ", "retrain ", "evaluate "))]
    assert len(log) >= 6 and "\x1b" not in "".join(log) and "\r" not in "".join(log)

    refused = program(*submit[:-1], "search.epochs=41")
    out, err = refused.communicate(timeout=300)
    assert refused.returncode == 2 and "holds another study: search.epochs was 40, now 41" in out
    assert "exit code 2" in err and "Traceback" not in out + err
    listed = status(program, address)["jobs"]
    assert [one["state"] for one in listed] == ["failed", "succeeded", "stopped"]
    assert [one["exit_code"] for one in listed[:2]] == [2, 0]
    assert listed[2]["job"] == job
