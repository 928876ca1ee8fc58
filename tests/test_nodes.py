"""Trials on several nodes: the quick cases; clusters whose nodes die and join are in tests/test_nodes_long.py."""

from __future__ import annotations

import socket
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from ray_nodes import OneNode, nodes_ended, wait_for
from test_trials import make_spec, manifest_rows, value_of
from toy_trials import count_and_tell_where, expected

from thrifty import trials_nodes
from thrifty.config import Resources
from thrifty.results import Run
from thrifty.trials import run_trials
from thrifty.trials_connect import ray
from thrifty.trials_nodes import Nodes


@pytest.mark.usefixtures("ray_local")
def test_a_node_that_dies_costs_its_trial_one_fault_and_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path / "run")
    specs = [make_spec(run, f"t{k}", seed=k, epochs=8, sleep=0.2) for k in range(4)]

    def places(k: int) -> list[str]:
        path = specs[k].trial.folder / "nodes"
        return path.read_text().split() if path.is_file() else []

    def kill() -> None:
        wait_for(lambda: any(places(k) == [node.ip] and specs[k].trial.checkpoint.is_file() for k in range(4)))
        node.die()

    with tempfile.TemporaryDirectory(prefix="t_", dir="/tmp", ignore_cleanup_errors=True) as folder, nodes_ended() as nodes:
        nodes.append(node := OneNode(ray.get_runtime_context().gcs_address, "127.0.0.2", Path(folder)))
        assert node.cluster()
        wait_for(lambda: ray.cluster_resources().get("CPU") == 3)
        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        run_trials("search", count_and_tell_where, specs, Resources(max_failures=1), run)
        killer.join()
    (hit,) = [k for k in range(4) if node.ip in places(k)]
    assert places(hit) == ["127.0.0.2", "127.0.0.1"] and all(places(k) == ["127.0.0.1"] for k in range(4) if k != hit)
    assert [value_of(spec) for spec in specs] == [expected(k, 8) for k in range(4)]
    epochs = [int(epoch) for epoch in (specs[hit].trial.folder / "log").read_text().split()]
    assert epochs == sorted(set(epochs)) and len(epochs) >= 7, "no epoch that was kept is done again; a kill can hide one note"
    rows = manifest_rows(run)
    assert {name: (row["status"], row["attempts"], row["faults"]) for name, row in rows.items()} == {
        f"t{k}": ("done", 2 if k == hit else 1, int(k == hit)) for k in range(4)
    }
    printed = capsys.readouterr().out
    assert printed.count("is tried again") == 1
    assert f"search t{hit}: is tried again: its node 127.0.0.2 is lost\n" in printed


def node_at(key: str, address: str, port: int, cpus: float = 4.0) -> dict[str, Any]:
    resources = {"CPU": cpus, "GPU": 1.0}
    return {"NodeID": key, "Alive": True, "NodeManagerAddress": address, "NodeManagerPort": port, "Resources": resources}


def test_why_a_worker_died_is_told_from_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray still says of all of these nodes that they live: whether a raylet listens decides."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        there, found = listening.getsockname()[1], list[dict[str, Any]]()
        monkeypatch.setattr(trials_nodes.ray, "nodes", lambda: found)
        found.append(node_at("a", "127.0.0.1", there))
        alone = Nodes()
        alone.place("t0", "a")
        assert alone.cause("t0") == alone.cause("never begun") == (trials_nodes.DIED, trials_nodes.DIED)
        found.append(node_at("b", "127.0.0.2", there))  # the same port of another address, where nothing listens
        several = Nodes()
        for trial, key in (("t0", "a"), ("t1", "b"), ("t2", "b"), ("t3", "gone before it was seen")):
            several.place(trial, key)
        several.place("t2", "a")
        causes = [several.cause(f"t{k}") for k in range(4)]
        assert [shown for _, shown in causes] == [
            "its worker on node 127.0.0.1 died (killed, or out of memory)",
            "its node 127.0.0.2 is lost",
            "its worker on node 127.0.0.1 died (killed, or out of memory)",
            "its worker died (killed, or out of memory)",
        ]
        died = "its worker died (killed, or out of memory)"
        assert [kept for kept, _ in causes] == [died, "its node is lost", died, died], "files say no address"
        found.append(node_at("c", "127.0.0.3", there))
        several.place("t4", "c")
        assert several.cause("t4")[1] == "its node 127.0.0.3 is lost", "also of a node that joined a moment ago"
        assert several.cause("t1")[1] == died, "its next attempt has not begun"


def test_lost_and_joined_nodes_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that comes back has its old address and a new id."""
    first, second, third = node_at("a", "10.0.0.1", 1), node_at("b", "10.0.0.2", 1), node_at("c", "10.0.0.2", 1, cpus=2.0)
    found = [[first, second], [first, second], [first, second | {"Alive": False}], [first, third], [first, third], [third]]
    answers = iter(found)
    monkeypatch.setattr(trials_nodes.ray, "nodes", lambda: next(answers))
    nodes = Nodes()
    assert [nodes.news() for _ in found[1:]] == [
        [], ["node 10.0.0.2 is lost (1 left)"], ["node 10.0.0.2 has joined: 2 CPUs and 1 GPUs"],
        [], ["node 10.0.0.1 is lost (1 left)"],
    ]  # fmt: skip
