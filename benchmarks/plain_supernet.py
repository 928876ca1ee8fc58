"""The supernet written out plainly: what the fast one is measured against. Frozen; change thrifty.nets.supernet instead.

Every op of every edge is a branch of its own, with its own up-sampling, over all channels; each branch and each gated node is
multiplied by its weight over all its pixels. Nothing is shared, folded or skipped. What surrounds the edges (stem, input and
output convolutions, classifier) is built of the layers of the derived network, since that is the same mathematics.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thrifty.nets.layers import CellOutput, DownInput, Stem, UpInput, classifier
from thrifty.nets.ops import build_op, is_resized
from thrifty.nets.supernet import Relaxed
from thrifty.space import ops
from thrifty.space.cost import HEAD, Lattice
from thrifty.space.genotype import CellType, role_of
from thrifty.space.path import Node, kept_up_nodes, row_neighbours, total_stride
from thrifty.space.schema import Space


class PlainEdge(nn.Module):
    """The weighted sum of all ops of an edge (DARTS, Liu 2019, eq. 2)."""

    def __init__(self, names: tuple[str, ...], role: str, c_in: int, c_out: int) -> None:
        super().__init__()
        self.names, self.role = [n for n in names if ops.find(n).kind != "none"], role
        self.order = [names.index(n) for n in self.names]
        self.branches = nn.ModuleList(build_op(n, role, c_in, c_out) for n in self.names)

    def forward(self, x: Tensor, alpha: Tensor, weight: Tensor) -> Tensor:
        total = torch.zeros((), device=x.device)
        for name, place, branch in zip(self.names, self.order, self.branches, strict=True):
            source = x
            if is_resized(ops.find(name), self.role):
                source = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            total = total + branch(source) * alpha[place]
        return total * weight


class PlainCell(nn.Module):
    def __init__(self, space: Space, lattice: Lattice, cell_type: CellType, row: int) -> None:
        super().__init__()
        self.cell_type, self.inner = cell_type, space.nodes
        self.edges = nn.ModuleDict()
        for node in range(space.nodes):
            for source in range(node + 2):
                widths = lattice.edge_widths(cell_type, source, row)
                names, role = space.ops_of(cell_type, source), role_of(cell_type, source)
                self.edges[f"{node}_{source}"] = PlainEdge(names, role, *widths)
        self.output = CellOutput(lattice, row)

    def forward(self, in0: Tensor, in1: Tensor, relaxed: Relaxed) -> Tensor:
        states = [in0, in1]
        for node in range(self.inner):
            edges = [(s, self.edges[f"{node}_{s}"]) for s in range(node + 2)]
            values = [edge(states[s], *relaxed.of_edge(self.cell_type, node, s)) for s, edge in edges]
            states.append(torch.relu(sum(values[1:], start=values[0])))
        return self.output(states[2:])


class PlainSupernet(nn.Module):
    """Images (B, channels, H, W) to logits (B, classes, H, W)."""

    def __init__(self, space: Space, width: int, levels: int, channels: int, classes: int) -> None:
        super().__init__()
        self.levels, self.stride = levels, total_stride(levels)
        lattice = Lattice(space.frame, space.nodes, width, levels, channels, classes)
        self.widest = tuple(max(kept) for kept in zip(*space.paths(levels), strict=True))
        self.up_nodes = kept_up_nodes(self.widest, levels)
        self.stem = Stem(lattice)
        self.inputs, self.cells = nn.ModuleDict(), nn.ModuleDict()
        for j in range(1, levels):
            self.inputs[f"down_{j}"] = DownInput(lattice.row_width(j - 2), lattice.row_width(j - 1))
            self.cells[f"down_{j}"] = PlainCell(space, lattice, "down", j)
        for i, j in self.up_nodes:
            self.inputs[f"up_{i}_{j}"] = UpInput(lattice, j, len(self.neighbours(i, j)))
            self.cells[f"up_{i}_{j}"] = PlainCell(space, lattice, "up", j)
        self.inputs["head"] = UpInput(lattice, HEAD, 1)
        self.cells["head"] = PlainCell(space, lattice, "up", HEAD)
        self.classifier = classifier(lattice)

    def neighbours(self, i: int, j: int) -> list[int]:
        return row_neighbours(self.widest, self.levels, i, j)

    def forward(self, images: Tensor, relaxed: Relaxed) -> Tensor:
        stem0, first = self.stem(images)
        x = {(0, 0): first}
        for j in range(1, self.levels):
            in0 = self.inputs[f"down_{j}"](stem0 if j == 1 else x[0, j - 2])
            x[0, j] = self.cells[f"down_{j}"](in0, x[0, j - 1], relaxed)
        for i, j in self.up_nodes:
            columns = self.neighbours(i, j)
            nodes = [_gated(x, (m, j), relaxed.gates) for m in columns]
            left = self.inputs[f"up_{i}_{j}"](nodes, range(len(columns)), [None] * len(columns))
            x[i, j] = self.cells[f"up_{i}_{j}"](left, x[i - 1, j + 1], relaxed)
        head = self.cells["head"](self.inputs["head"]([stem0], [0], [None]), x[self.levels - 1, 0], relaxed)
        return self.classifier(head)


def _gated(x: Mapping[Node, Tensor], node: Node, gates: Mapping[Node, Tensor]) -> Tensor:
    return x[node] * gates[node] if node in gates else x[node]


def copy_weights(fast: nn.Module, plain: nn.Module) -> None:
    """Gives a plain supernet the weights of a fast one; every separable branch gets the point-wise part of its family."""
    theirs = dict(fast.state_dict())
    for name, value in plain.state_dict().items():
        value.copy_(theirs[name] if name in theirs else theirs[_place_in_fast(name, plain)])


def _place_in_fast(name: str, plain: nn.Module) -> str:
    """The name in the fast supernet of a weight of a plain branch: '...edges.K.branches.N.rest'."""
    edge_name, _, rest = name.partition(".branches.")
    number, _, rest = rest.partition(".")
    edge = plain.get_submodule(edge_name)
    assert isinstance(edge, PlainEdge)
    op = edge.names[int(number)]
    if ops.find(op).kind != "sep":
        return f"{edge_name}.singles.{op}.{rest}"
    if rest != "kernel":
        return f"{edge_name}.family.{rest}"
    family = [n for n in edge.names if ops.find(n).kind == "sep"]
    return f"{edge_name}.family.kernels.{family.index(op)}"
