"""Pruning of ops whose ranking has settled: what is last on its edge and stays last is not computed any longer.

The idea is that of IAC-LTH (2026): a ranking that no longer changes will not, so the losers only cost time. The op with the
fewest parameters on an edge always stays, so that every budget stays within reach.
"""

from __future__ import annotations

from typing import Any

from thrifty.search.relaxation import ArchitectureParameters
from thrifty.space.cost import Costs
from thrifty.space.distribution import edge_index
from thrifty.space.genotype import CELL_TYPES, CellType


class Pruning:
    """Looks at every epoch. `patience`: epochs for which the order of the ops on an edge has to stay; 0 prunes nothing."""

    def __init__(self, patience: int, costs: Costs) -> None:
        self.patience = patience
        self.cheapest = {t: _cheapest(costs, t) for t in CELL_TYPES}
        self.orders: dict[str, list[int]] = {}
        self.unchanged: dict[str, int] = {}

    def look(self, architecture: ArchitectureParameters) -> int:
        """Prunes at most one op of every edge; returns how many."""
        if not self.patience:
            return 0
        return sum(self._edge(architecture, t, index) for t in CELL_TYPES for index in range(len(self.cheapest[t])))

    def _edge(self, architecture: ArchitectureParameters, cell_type: CellType, index: int) -> bool:
        key, live = f"{cell_type}_{index}", architecture.live_ops(cell_type)[index]
        logits = architecture.alpha[cell_type][index].tolist()  # pyrefly: ignore
        order = sorted((i for i, alive in enumerate(live) if alive), key=lambda i: logits[i])
        self.unchanged[key] = self.unchanged.get(key, 0) + 1 if order == self.orders.get(key) else 0
        self.orders[key] = order
        losers = [i for i in order[:-1] if i != self.cheapest[cell_type][index]]
        if self.unchanged[key] < self.patience or not losers:
            return False
        architecture.prune(cell_type, index, losers[0])
        self.orders[key] = [i for i in order if i != losers[0]]
        self.unchanged[key] = 0
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"orders": self.orders, "unchanged": self.unchanged}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.orders, self.unchanged = dict(state["orders"]), dict(state["unchanged"])


def _cheapest(costs: Costs, cell_type: CellType) -> list[int]:
    """For every edge the op with the fewest parameters, over all rows that its cell can stand in; 'none' does not count."""
    found: dict[int, int] = {}
    for node in range(costs.space.nodes):
        for source in range(node + 2):
            total = costs.edge_costs(cell_type, source).sum(axis=1)
            names = costs.space.ops_of(cell_type, source)
            found[edge_index(node, source)] = min((t, i) for i, t in enumerate(total) if names[i] != "none")[1]
    return [found[index] for index in range(len(found))]
