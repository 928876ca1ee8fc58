"""Clusters of several nodes on this machine, which see one disk (`make test-faults`): nodes that die and nodes that join."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray_nodes import LOOPBACK, PROMPT, TESTS, OneNode, nodes_ended, wait_for
from test_faults_long import STRICT, lines_of, outcome
from test_trials import make_spec, manifest_rows, value_of
from toy_trials import count_and_tell_where, expected, slow_square

from thrifty.config import Resources
from thrifty.results import Run, read_json
from thrifty.trials import map_batches, run_trials
from thrifty.trials_connect import ray

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("faults")]
Join = Callable[..., OneNode]


@pytest.fixture
def join(ray_local: None) -> Iterator[Join]:
    """`join(ip)` adds a node of one CPU to the two CPUs of the session, and waits until it is there."""
    with tempfile.TemporaryDirectory(prefix="t_", dir="/tmp", ignore_cleanup_errors=True) as folder, nodes_ended() as nodes:

        def add(ip: str) -> OneNode:
            nodes.append(OneNode(ray.get_runtime_context().gcs_address, ip, Path(folder)))
            assert nodes[-1].cluster()
            wait_for(lambda: any(n["Alive"] and n["NodeManagerAddress"] == ip for n in ray.nodes()))
            return nodes[-1]

        yield add
    wait_for(lambda: sum(node["Alive"] for node in ray.nodes()) == 1)


def in_background(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def places(spec: Any) -> list[str]:
    path = spec.trial.folder / "nodes"
    return path.read_text().split() if path.is_file() else []


def test_trials_spread_survive_a_node_that_dies_and_use_one_that_joins(
    join: Join, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path / "run")
    gate = tmp_path / "gate"
    more = {"epochs": 16, "sleep": 0.3, "gate": str(gate), "ahead": "127.0.0.2"}
    specs = [make_spec(run, f"t{k}", seed=k, **more) for k in range(8)]
    first, second = join("127.0.0.2"), join("127.0.0.3")
    hit: list[str] = []

    def disturb() -> None:
        wait_for(lambda: any(places(s) == [first.ip] and 2 <= len(read_log(s)) < 14 for s in specs))
        hit.extend(s.name for s in specs if places(s) == [first.ip] and not s.trial.done)
        first.die()
        join("127.0.0.4")
        wait_for(lambda: any(places(spec)[-1:] == ["127.0.0.4"] for spec in specs))
        gate.touch()

    thread = in_background(disturb)
    run_trials("search", count_and_tell_where, specs, Resources(max_failures=1), run)
    thread.join()
    assert len(hit) == 1
    where = {spec.name: places(spec) for spec in specs}
    assert where[hit[0]][0] == first.ip and len(where[hit[0]]) == 2 and where[hit[0]][1] != first.ip
    assert all(len(ips) == 1 for name, ips in where.items() if name != hit[0])
    assert {ips[-1] for ips in where.values()} >= {"127.0.0.1", second.ip, "127.0.0.4"}
    assert [value_of(spec) for spec in specs] == [expected(k, 16) for k in range(8)]
    for spec in specs:
        done = read_log(spec)
        assert done == sorted(set(done)) and len(done) >= 16 - (spec.name in hit), "nothing that was kept is done again"
    rows = manifest_rows(run)
    assert {n: (r["status"], r["attempts"], r["faults"]) for n, r in rows.items()} == {
        spec.name: ("done", 1 + (spec.name in hit), int(spec.name in hit)) for spec in specs
    }
    printed = capsys.readouterr().out
    assert printed.count("is tried again") == 1 and f"search {hit[0]}: is tried again: its node 127.0.0.2 is lost\n" in printed
    assert re.search(r"^search: node 127\.0\.0\.2 is lost \([23] left\)$", printed, flags=re.M)
    assert "search: node 127.0.0.4 has joined: 1 CPUs and 0 GPUs" in printed


def read_log(spec: Any) -> list[int]:
    path = spec.trial.folder / "log"
    return [int(epoch) for epoch in path.read_text().split()] if path.is_file() else []


def test_a_batch_survives_all_nodes_but_one(join: Join, tmp_path: Path) -> None:
    """The items of the nodes that died are done again, in the order of the items."""
    nodes = [join("127.0.0.5"), join("127.0.0.6")]
    items = [{"value": value, "folder": str(tmp_path), "sleep": 0.5} for value in range(24)]

    def begun(node: OneNode) -> list[Path]:
        return list(tmp_path.glob(f"*_{node.ip}"))

    def kill() -> None:
        for node in nodes:
            wait_for(lambda node=node: begun(node))
            node.die()

    thread = in_background(kill)
    assert map_batches(slow_square, items, Resources(max_failures=2)) == [value**2 for value in range(24)]
    thread.join()
    counts = [len(list(tmp_path.glob(f"{value}_*"))) for value in range(24)]
    assert min(counts) == 1 and all(begun(node) for node in nodes)
    lost = {path.name.split("_")[0] for node in nodes for path in begun(node)}
    assert all((tmp_path / f"{value}_127.0.0.1").exists() for value in range(24) if str(value) not in lost)
    assert max(counts) >= 2, "what was under way on a node that died is done again"


# a real study

STUDY: dict[str, Any] = {
    "name": "faults",
    "space": "tiny",
    "budgets": [2500, 3000],
    "seeds": 4,
    "data": {"patch": 32, "phantoms": {"cases": 8, "patients": 8, "size": 32}},
    "search": {"epochs": 5, "steps": 1, "warmup": 1, "batch": 2},
    "select": {"samples": 2, "recalibrate": 1, "finalists": 1},
    "retrain": {"epochs": 4, "steps": 1, "batch": 2, "seeds": 2, "random": 0, "baselines": []},
    "resources": {"device": "cpu", "max_failures": 2},
}


def thrifty(study: Path, results: Path, address: str | None) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"THRIFTY_RESULTS": str(results), "RAY_TMPDIR": "/tmp", **PROMPT}
    if address is not None:
        environment |= {"RAY_ADDRESS": address, **LOOPBACK}
    return subprocess.Popen(
        [sys.executable, "-u", *STRICT, "-m", "thrifty", "run", str(study)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=TESTS.parent,
    )  # fmt: skip


def test_a_study_on_nodes_that_come_and_go_ends_as_one_that_nothing_disturbed(tmp_path: Path) -> None:
    """Eight searches and all stages after them, on three nodes of one CPU: one dies in the searches, one joins then, and one dies
    in the retraining. The head stays. The undisturbed run has a Ray of its own and goes on at the same time."""
    study = tmp_path / "faults.yaml"
    study.write_text(yaml.safe_dump(STUDY))
    quiet = thrifty(study, tmp_path / "quiet", None)
    with tempfile.TemporaryDirectory(prefix="t_", dir="/tmp", ignore_cleanup_errors=True) as folder, nodes_ended() as nodes:
        nodes.append(OneNode("head", "127.0.0.1", Path(folder)))
        address = nodes[0].cluster()
        assert address
        nodes += [OneNode(address, ip, Path(folder)) for ip in ("127.0.0.2", "127.0.0.3")]
        assert all(node.cluster() for node in nodes[1:])
        printed, losses = list[str](), {"search": nodes[1], "retrain": nodes[2]}
        with thrifty(study, tmp_path / "disturbed", address) as process:
            for line in lines_of(process):
                printed.append(line)
                stage = line.partition(" ")[0]
                if stage in losses and line.endswith(": starts\n"):
                    if stage == "search":
                        nodes.append(OneNode(address, "127.0.0.4", Path(folder)))
                    node = losses.pop(stage)
                    wait_for(lambda node=node: node.is_busy() or process.poll() is not None)
                    node.die()
        assert process.returncode == 0, "".join(printed)
    out = quiet.communicate(timeout=1200)[0]
    assert quiet.returncode == 0, out
    said, run = "".join(printed), Run(tmp_path / "disturbed" / "faults")
    assert outcome(tmp_path / "disturbed") == outcome(tmp_path / "quiet"), said
    faults = 0
    for stage in ("search", "retrain", "evaluate"):
        rows = read_json(run.root / stage / "trials.json")["trials"]
        assert all(row["status"] == "done" and row["attempts"] == row["faults"] + 1 for row in rows), said
        faults += sum(row["faults"] for row in rows)
    again = re.findall(r"^(?:search|retrain) .+: is tried again: its node 127\.0\.0\.[23] is lost$", said, flags=re.M)
    assert len(again) == said.count("is tried again") == faults and 1 <= faults <= 2, said
    assert re.search(r"^search: node 127\.0\.0\.4 has joined: 1 CPUs and 0 GPUs$", said, flags=re.M), said
