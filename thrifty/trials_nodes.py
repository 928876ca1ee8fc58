"""The nodes of the cluster while trials run: where a trial was whose worker died, and a line when a node is lost or joins."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from thrifty.trials_connect import offer, ray

KNOCK_SECONDS = 2.0
DIED = "its worker died (killed, or out of memory)"


class Nodes:
    """`ray.nodes()` compared with what it was before. Nodes are told apart by Ray's id and named by their address."""

    def __init__(self) -> None:
        self._living = _living()
        self._known = dict(self._living)
        self._where: dict[str, str] = {}

    def place(self, trial: str, node: str) -> None:
        """The trial has begun on the node of that id."""
        self._where[trial] = node
        if node not in self._known:  # it has joined since the last news
            self._known |= _living()

    def cause(self, trial: str) -> tuple[str, str]:
        """Of the death of a trial's worker: as files have it, and as the terminal shows it, with the address of its node where
        the cluster has several. Files are passed on, and an address is nobody's business there."""
        node = self._known.get(self._where.pop(trial, ""))
        if node is None or len(self._known) == 1:
            return DIED, DIED
        name = node["NodeManagerAddress"]
        if _answers(node):
            return DIED, DIED.replace("worker", f"worker on node {name}")
        return "its node is lost", f"its node {name} is lost"

    def news(self) -> list[str]:
        """A line for each node that was lost or has joined since the last call."""
        before, self._living = self._living, _living()
        self._known |= self._living
        lost, joined = before.keys() - self._living.keys(), self._living.keys() - before.keys()
        lines = [f"node {before[key]['NodeManagerAddress']} is lost ({len(self._living)} left)" for key in lost]
        lines += [
            f"node {self._known[key]['NodeManagerAddress']} has joined: {offer(self._known[key]['Resources'])}" for key in joined
        ]
        return sorted(lines)


def _living() -> dict[str, dict[str, Any]]:
    return {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}


def _answers(node: dict[str, Any]) -> bool:
    """Whether its raylet does: Ray counts a node among the living for some fifteen seconds after its raylet was killed."""
    with contextlib.suppress(OSError):
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=KNOCK_SECONDS).close()
        return True
    return False
