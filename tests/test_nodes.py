"""Trials on several nodes: one dies, one joins. The quick case; the others are in tests/test_nodes_long.py."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import pytest
from ray_nodes import OneNode, nodes_ended, wait_for
from test_trials import make_spec, manifest_rows, value_of
from toy_trials import count_and_tell_where, expected

from thrifty.config import Resources
from thrifty.results import Run
from thrifty.trials import run_trials
from thrifty.trials_connect import ray


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
