"""Ray nodes of this machine, each a process with an address of its own on loopback, which can die like a machine.

`ray start` refuses to join a cluster on loopback, so the process makes a node as `ray.cluster_utils.Cluster` does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

TESTS = Path(__file__).resolve().parent
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
STARTS = 4
PROMPT = {"RAY_worker_niceness": "0"}  # Ray's workers otherwise wait for all else of a busy machine


class OneNode:
    """A node of one CPU. `address`: of the cluster that it joins, or "head", which starts one."""

    def __init__(self, address: str, ip: str, folder: Path, cpus: int = 1) -> None:
        paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        command = [sys.executable, __file__, address, ip, str(folder), str(cpus)]
        self.ip = ip
        self.process = subprocess.Popen(
            command,
            env=environment | LOOPBACK | PROMPT | {"PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def cluster(self) -> str:
        """The address of the cluster, as soon as the node has started."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def is_busy(self) -> bool:
        """Whether a trial is on it."""
        return any(process.name() == "ray::ImplicitFunc.train" for process in self._processes())

    def die(self) -> None:
        """SIGKILL to its raylet, to its workers and to all else of it, the raylet first."""
        processes = self._processes()
        for process in sorted(processes, key=lambda process: process.name() != "raylet"):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        psutil.wait_procs(processes, timeout=30)

    def _processes(self) -> list[psutil.Process]:
        if self.process.poll() is not None:
            return []
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.name()
                found.append(process)
        return found


@contextlib.contextmanager
def nodes_ended() -> Iterator[list[OneNode]]:
    """Whatever is put into the list has died at the end."""
    nodes: list[OneNode] = []
    try:
        yield nodes
    finally:
        for node in reversed(nodes):
            node.die()


def wait_for(condition: Callable[[], object], seconds: float = 300.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


def main(address: str, ip: str, folder: str, cpus: str) -> None:
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    head = address == "head"
    only: dict[str, object] = {"include_dashboard": False} if head else {"gcs_address": address, "include_log_monitor": False}
    sizes: dict[str, object] = {"num_cpus": int(cpus), "num_gpus": 0, "object_store_memory": 80 * 2**20}
    ports: dict[str, object] = {"min_worker_port": 0, "max_worker_port": 0, "node_manager_port": 0}
    for attempt in range(STARTS):
        parameters = RayParams(node_ip_address=ip, temp_dir=f"{folder}/{attempt}" if head else folder, **sizes, **ports, **only)
        if not head:
            parameters.dashboard_agent_listen_port = None  # any: the head's has the usual one
        try:
            print(Node(parameters, head=head, shutdown_at_exit=True, spawn_reaper=True).gcs_address, flush=True)
            break
        except Exception:  # Ray gives up after half a minute, which a busy machine can need
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
    else:
        sys.exit("Ray does not start")
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
