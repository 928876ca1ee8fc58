"""The network of a genotype."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from thrifty.nets.layers import CellOutput, DownInput, Stem, UpInput, classifier, upsample
from thrifty.nets.ops import build_op, is_resized
from thrifty.space import ops
from thrifty.space.cost import HEAD, Lattice, lattice_of
from thrifty.space.genotype import CellType, Genotype, role_of
from thrifty.space.path import kept_up_nodes, row_neighbours, total_stride


class DerivedCell(nn.Module):
    """A cell with its two edges for each inner node; (in0, in1) to (B, c, h, w), after ReLU."""

    def __init__(self, genotype: Genotype, lattice: Lattice, cell_type: CellType, row: int) -> None:
        super().__init__()
        self.nodes = genotype.cell(cell_type).nodes
        self.cell_type = cell_type
        self.edges = nn.ModuleDict()
        for node, edge in genotype.cell(cell_type).edges():
            widths = lattice.edge_widths(cell_type, edge.source, row)
            self.edges[f"{node}_{edge.source}"] = build_op(edge.op, role_of(cell_type, edge.source), *widths)
        resized = [is_resized(ops.find(e.op), role_of(cell_type, e.source)) for pair in self.nodes for e in pair]
        self.needs_upsampling = any(resized)
        self.output = CellOutput(lattice, row)

    def forward(self, in0: Tensor, in1: Tensor) -> Tensor:
        doubled = upsample(in1) if self.needs_upsampling else in1
        states = [in0, in1]
        for node, pair in enumerate(self.nodes):
            total = None
            for edge in pair:
                resized = is_resized(ops.find(edge.op), role_of(self.cell_type, edge.source))
                value = self.edges[f"{node}_{edge.source}"](doubled if resized else states[edge.source])
                total = value if total is None else total + value
            assert total is not None
            states.append(torch.relu(total))
        return self.output(states[2:])


class DerivedNetwork(nn.Module):
    """The network of `genotype`: images (B, channels, H, W) to logits (B, classes, H, W); H and W multiples of `stride`."""

    def __init__(self, genotype: Genotype) -> None:
        super().__init__()
        self.genotype = genotype
        self.stride = total_stride(genotype.levels)
        lattice = lattice_of(genotype)
        levels = genotype.levels
        self.stem = Stem(lattice)
        self.inputs, self.cells = nn.ModuleDict(), nn.ModuleDict()
        for j in range(1, levels):
            self.inputs[f"down_{j}"] = DownInput(lattice.row_width(j - 2), lattice.row_width(j - 1))
            self.cells[f"down_{j}"] = DerivedCell(genotype, lattice, "down", j)
        self.up_nodes = kept_up_nodes(genotype.path, levels)
        for i, j in self.up_nodes:
            self.inputs[f"up_{i}_{j}"] = UpInput(lattice, j, len(self._neighbours(i, j)))
            self.cells[f"up_{i}_{j}"] = DerivedCell(genotype, lattice, "up", j)
        self.inputs["head"] = UpInput(lattice, HEAD, 1)
        self.cells["head"] = DerivedCell(genotype, lattice, "up", HEAD)
        self.classifier = classifier(lattice)

    def _neighbours(self, i: int, j: int) -> list[int]:
        return row_neighbours(self.genotype.path, self.genotype.levels, i, j)

    def _row(self, key: str, nodes: Sequence[Tensor]) -> Tensor:
        return self.inputs[key](nodes, range(len(nodes)), [None] * len(nodes))

    def forward(self, images: Tensor) -> Tensor:
        stem0, first = self.stem(images)
        x = {(0, 0): first}
        for j in range(1, self.genotype.levels):
            in0 = stem0 if j == 1 else x[0, j - 2]
            x[0, j] = self.cells[f"down_{j}"](self.inputs[f"down_{j}"](in0), x[0, j - 1])
        for i, j in self.up_nodes:
            left = self._row(f"up_{i}_{j}", [x[m, j] for m in self._neighbours(i, j)])
            x[i, j] = self.cells[f"up_{i}_{j}"](left, x[i - 1, j + 1])
        head = self.cells["head"](self._row("head", [stem0]), x[self.genotype.levels - 1, 0])
        return self.classifier(head)
