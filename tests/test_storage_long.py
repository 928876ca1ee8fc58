"""Whole studies with results in an object store (`make test-faults`): equal to one in a folder, gone on with elsewhere, and with
all trials on a machine that sees nothing of the driver's disk.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from object_store import BUCKET, change, filesystem, flip, names, s3_server
from timeless import without_times

from thrifty.storage import Storage

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("faults")]
TESTS = Path(__file__).resolve().parent
STUDY: dict[str, Any] = {
    "name": "stored",
    "space": "tiny",
    "budgets": [3000],
    "seeds": 1,
    "data": {"patch": 32, "phantoms": {"cases": 16, "patients": 8, "size": 32}},
    "search": {"epochs": 8, "steps": 2, "warmup": 1, "batch": 2},
    "select": {"samples": 4, "recalibrate": 1, "finalists": 1},
    "retrain": {"epochs": 8, "steps": 2, "batch": 2, "seeds": 1, "random": 0, "baselines": []},
    "resources": {"concurrent": 2, "device": "cpu"},
}
OF_TIME = ("trials.json", "ledger.json", "why.md", "report.md", "index.html", "latency.json", "tfevents.thrifty", "env.json")
"""Hours, and what the machine is."""
OF_KILLS = ("setbacks",)  # what a killed training says of it


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    with s3_server() as variables:
        yield variables


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "stored.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    return path


def start(study: Path, results: str, cache: Path, **more: str) -> subprocess.Popen[str]:
    paths = {"PYTHONPATH": str(TESTS.parent)}
    environment = {**os.environ, **paths, "THRIFTY_RESULTS": results, "THRIFTY_CACHE": str(cache), "RAY_TMPDIR": "/tmp", **more}
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "thrifty", "run", str(study)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> str:
    out = process.communicate(timeout=1500)[0]
    assert process.returncode == 0, out
    return out


def content(name: str, data: bytes) -> Any:
    if name.endswith(OF_TIME):
        return None
    if name.endswith(".json"):
        return without_times(json.loads(data), OF_KILLS)
    if name.endswith(".jsonl"):
        return [without_times(json.loads(line), OF_KILLS) for line in data.splitlines()]
    return data


def of_folder(folder: Path) -> dict[str, Any]:
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    kept = {name: path for name, path in paths.items() if not name.startswith("data/") and name != "driver.lock"}
    return {name: content(name, path.read_bytes()) for name, path in kept.items()}


def of_store(url: str) -> dict[str, Any]:
    found = names(url)
    manifests = {name for name in found if name.endswith(".files.json")}
    return {name: content(name, filesystem().cat_file(f"{url}/{name}")) for name in found - manifests}


@pytest.fixture(scope="module")
def in_a_folder(study: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    results = tmp_path_factory.mktemp("results")
    finished(start(study, str(results), results / "no_cache"))
    assert not (results / "no_cache").exists()
    return of_folder(results / "stored")


@pytest.mark.usefixtures("server")
def test_a_study_killed_here_and_gone_on_with_elsewhere_leaves_in_the_store_what_a_folder_would_have(
    study: Path, tmp_path: Path, in_a_folder: dict[str, Any]
) -> None:
    """The driver dies in the search and in the retraining; the newest checkpoint is damaged meanwhile; caches are empty."""
    base = f"{BUCKET}/killed"
    url = f"{base}/stored"
    for place, pattern in enumerate((r"search/[^/]+/checkpoint_before\.pt", r"retrain/[^/]+/seed_0/checkpoint_before\.pt")):
        process = start(study, base, tmp_path / f"cache_{place}")
        while process.poll() is None and not any(re.fullmatch(pattern, name) for name in Storage(url).sizes()):
            time.sleep(0.1)
        assert process.poll() is None, process.communicate()[0]
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        time.sleep(3)  # the workers of a killed driver end within a second
        for name in Storage(url).sizes():
            if name.endswith("/checkpoint.pt"):
                change(f"{url}/{name}", flip)
    out = finished(start(study, base, tmp_path / "cache_last"))
    assert "Traceback" not in out
    assert of_store(url) == in_a_folder
    assert not [name for name in names(url) if name.endswith(".pt") or name == "driver.lock" or ".tune" in name]
    again = finished(start(study, base, tmp_path / "cache_again"))
    assert "starts" not in again and of_store(url) == in_a_folder


LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
NODE = """
import signal, sys
from ray._private.node import Node
from ray._private.parameter import RayParams
address, ip, folder, cpus = sys.argv[1:]
head = address == "head"
only = {"include_dashboard": False} if head else {"gcs_address": address, "include_log_monitor": False}
sizes = {"num_cpus": int(cpus), "num_gpus": 0, "object_store_memory": 80 * 2**20}
ports = {"min_worker_port": 0, "max_worker_port": 0, "node_manager_port": 0}
parameters = RayParams(node_ip_address=ip, temp_dir=folder, **sizes, **ports, **only)
if not head:
    parameters.dashboard_agent_listen_port = None
print(Node(parameters, head=head, shutdown_at_exit=True, spawn_reaper=True).gcs_address, flush=True)
signal.pause()
"""


def node(address: str, ip: str, folder: Path, cpus: int, hidden: Path | None = None, **variables: str) -> subprocess.Popen[str]:
    """A Ray node as a machine of its own: `hidden` is empty for it (a mount that others do not see)."""
    command = [sys.executable, "-c", NODE, address, ip, str(folder), str(cpus)]
    if hidden is not None:
        command = ["unshare", "-m", "bash", "-c", f'mount -t tmpfs none {hidden} && exec "$@"', "node", *command]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | LOOPBACK | variables
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def end(process: subprocess.Popen[str]) -> None:
    own = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for one in own:
        one.kill()
    process.communicate()
    psutil.wait_procs(own, timeout=30)


@pytest.mark.usefixtures("server")
def test_trials_on_a_machine_without_a_shared_disk(
    study: Path, tmp_path_factory: pytest.TempPathFactory, in_a_folder: dict[str, Any]
) -> None:
    """The head has no CPU for trials, and the other node sees an empty folder where the driver's working copy is."""
    if os.geteuid() or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("a machine without a shared disk is made by unshare -m, which needs root")
    base, ours, theirs = f"{BUCKET}/nodes", tmp_path_factory.mktemp("driver"), tmp_path_factory.mktemp("node")
    folders = [Path(f"/tmp/t_{os.getpid()}_{name}") for name in ("head", "node")]
    head = node("head", "127.0.0.1", folders[0], 0)
    assert head.stdout is not None
    address = head.stdout.readline().strip()
    other = node(address, "127.0.0.2", folders[1], 2, hidden=ours, THRIFTY_CACHE=str(theirs))
    try:
        assert other.stdout is not None and other.stdout.readline().strip() == address
        out = finished(start(study, base, ours, RAY_ADDRESS=address, **LOOPBACK))
    finally:
        end(other)
        end(head)
    assert of_store(f"{base}/stored") == in_a_folder, out
    (copy,) = theirs.glob("*/stored")
    assert (copy / "data" / "images.bin").read_bytes() == next(ours.glob("*/stored")).joinpath("data/images.bin").read_bytes()
    assert list(copy.glob("search/*/weights.safetensors")), "trials ran there"
    assert not list(ours.glob("*/stored/search/*/epochs.jsonl.part"))
