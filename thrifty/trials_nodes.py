"""The nodes of the cluster while trials run: which trial is on which, and a line when one is lost or joins."""

from __future__ import annotations

from collections import defaultdict

from thrifty.trials_connect import offer, ray

NAMED = 5


class Nodes:
    """`ray.nodes()` compared with what it was before. Nodes are told apart by Ray's id and named by their address."""

    def __init__(self) -> None:
        self._living = _living()
        self._names = {key: node["NodeManagerAddress"] for key, node in self._living.items()}
        self._where: dict[str, str] = {}
        self._died: defaultdict[str, list[str]] = defaultdict(list)

    def place(self, trial: str, node: str) -> None:
        """The trial has begun on the node of that id."""
        self._where[trial] = node

    def take_away(self, trial: str) -> str:
        """The worker of a trial has died: where that was, as a part of a sentence; empty where there is one node only.

        Ray says that a worker has died some seconds before it says that the whole node has.
        """
        node = self._where.pop(trial, None)
        if node is None:
            return ""
        self._died[node].append(trial)
        return f" on node {self._name(node)}" if len(self._names) > 1 else ""

    def news(self) -> list[str]:
        """A line for each node that was lost, with the trials that ran there, or has joined since the last call."""
        before, self._living = self._living, _living()
        self._names |= {key: node["NodeManagerAddress"] for key, node in self._living.items()}
        lost, joined = before.keys() - self._living.keys(), self._living.keys() - before.keys()
        return sorted(map(self._lost, lost)) + sorted(map(self._joined, joined))

    def _lost(self, node: str) -> str:
        trials = sorted(self._died.pop(node, []))
        more = f" (+{len(trials) - NAMED} more)" if len(trials) > NAMED else ""
        ran = f"; trials that ran there: {', '.join(trials[:NAMED])}{more}" if trials else ""
        return f"node {self._name(node)} is lost ({len(self._living)} left){ran}"

    def _joined(self, node: str) -> str:
        return f"node {self._name(node)} has joined: {offer(self._living[node]['Resources'])}"

    def _name(self, node: str) -> str:
        return self._names.get(node, node[:8])


def _living() -> dict[str, dict]:
    return {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
