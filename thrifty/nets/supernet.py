"""The supernet: every network of a space at one width and number of levels, with shared weights.

Two ways to run it: `forward(images, relaxed)` mixes all branches by the weights of a relaxation; `hard(images, genotype)`
runs only the branches of one genotype (method, section 4, laws 1 and 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thrifty.errors import ThriftyError
from thrifty.nets.layers import CellOutput, DownInput, Stem, UpInput, classifier, total_stride, upsample
from thrifty.nets.ops import SepFamily, build_op, is_resized
from thrifty.space import ops
from thrifty.space.cost import HEAD, Lattice
from thrifty.space.distribution import edge_index
from thrifty.space.genotype import CellType, Genotype, role_of
from thrifty.space.path import kept_up_nodes, row_neighbours
from thrifty.space.schema import Space


@dataclass(frozen=True)
class Relaxed:
    """The weights of all branches.

    alpha[cell type][edge]: (ops,), of the ops on an edge. edges[cell type][node]: (node + 2,), of the edges into an inner
    node. gates[(i, j)]: scalar, of node X(i, j) where its row reads it; nodes that are not named have 1.
    """

    alpha: Mapping[CellType, Sequence[Tensor]]
    edges: Mapping[CellType, Sequence[Tensor]]
    gates: Mapping[tuple[int, int], Tensor]

    def to(self, device: torch.device) -> Relaxed:
        """The same weights on another device, moved as one tensor: they are some hundred scalars and short vectors."""
        parts = [*(v for lists in (self.alpha, self.edges) for vs in lists.values() for v in vs), *self.gates.values()]
        flat = torch.cat([part.reshape(-1) for part in parts]).to(device)
        moved = iter(flat.split([part.numel() for part in parts]))
        alpha = {t: [next(moved) for _ in vs] for t, vs in self.alpha.items()}
        edges = {t: [next(moved) for _ in vs] for t, vs in self.edges.items()}
        return Relaxed(alpha, edges, {node: next(moved).reshape(()) for node in self.gates})


class MixedEdge(nn.Module):
    """All ops of an edge. With `partial` p the ops see 1/p of the channels; the others pass by (PC-DARTS, Xu 2020)."""

    def __init__(self, names: Sequence[str], role: str, c_in: int, c_out: int, partial: int) -> None:
        super().__init__()
        self.names, self.role, self.partial = tuple(names), role, partial
        self.seen = c_in // partial
        family = [n for n in names if ops.find(n).kind == "sep"]
        self.family_index = [self.names.index(n) for n in family]
        widths = (self.seen, c_out // partial)
        self.family = SepFamily([ops.find(n) for n in family], role, *widths) if family else None
        single = [n for n in names if n not in family and ops.find(n).kind != "none"]
        self.singles = nn.ModuleDict({_key(n): build_op(n, role, *widths) for n in single})
        self.single_names = single

    def forward(self, x: Tensor, doubled: Tensor, alpha: Tensor, weight: Tensor) -> Tensor:
        """`x` the source, `doubled` the same up-sampled (role 'up'); `alpha` (ops,), `weight` a scalar."""
        seen, seen_doubled = x[:, : self.seen], doubled[:, : self.seen]
        terms = []
        if self.family is not None:
            source = seen_doubled if self.role == "up" else seen
            terms.append(self.family(source, alpha[self.family_index], weight))
        for name in self.single_names:
            source = seen_doubled if is_resized(ops.find(name), self.role) else seen
            terms.append(self.singles[_key(name)](source, alpha[self.names.index(name)] * weight))
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return self._with_bypass(total, x, doubled, weight)

    def hard(self, x: Tensor, doubled: Tensor, name: str) -> Tensor:
        """One op alone, with weight 1."""
        resized = is_resized(ops.find(name), self.role)
        source = (doubled if resized else x)[:, : self.seen]
        if self.family is not None and ops.find(name).kind == "sep":
            value = self.family.hard(source, name)
        else:
            value = self.singles[_key(name)](source)
        return self._with_bypass(value, x, doubled, None)

    def _with_bypass(self, value: Tensor, x: Tensor, doubled: Tensor, weight: Tensor | None) -> Tensor:
        if self.partial == 1:
            return value
        if self.role == "down":
            rest = F.max_pool2d(x[:, self.seen :], 2, 2)
        else:
            rest = (doubled if self.role == "up" else x)[:, self.seen :]
        joined = torch.cat([value, rest if weight is None else rest * weight], dim=1)
        # Shuffled, so that the next op sees channels that passed by here.
        return joined.unflatten(1, (self.partial, -1)).transpose(1, 2).flatten(1, 2)


def _key(name: str) -> str:
    """Module names may hold no dot."""
    return name.replace(".", "/")


class MixedCell(nn.Module):
    """A cell with all edges; (in0, in1) to (B, c, h, w), after ReLU."""

    def __init__(self, space: Space, lattice: Lattice, cell_type: CellType, row: int, partial: int) -> None:
        super().__init__()
        self.cell_type, self.inner = cell_type, space.nodes
        self.edges = nn.ModuleDict()
        for node in range(space.nodes):
            for source in range(node + 2):
                names, role = space.ops_of(cell_type, source), role_of(cell_type, source)
                widths = lattice.edge_widths(cell_type, source, row)
                self.edges[f"{node}_{source}"] = MixedEdge(names, role, *widths, partial)
        self.output = CellOutput(lattice, row)

    def forward(self, in0: Tensor, in1: Tensor, relaxed: Relaxed) -> Tensor:
        states, doubled = [in0, in1], self._doubled(in1)
        for node in range(self.inner):
            weights = relaxed.edges[self.cell_type][node]
            total = None
            for source in range(node + 2):
                alpha = relaxed.alpha[self.cell_type][edge_index(node, source)]
                twice = doubled if source == 1 else states[source]
                value = self.edges[f"{node}_{source}"](states[source], twice, alpha, weights[source])
                total = value if total is None else total + value
            assert total is not None
            states.append(torch.relu(total))
        return self.output(states[2:])

    def hard(self, in0: Tensor, in1: Tensor, genotype: Genotype) -> Tensor:
        states, doubled = [in0, in1], self._doubled(in1)
        for node, pair in enumerate(genotype.cell(self.cell_type).nodes):
            values = []
            for edge in pair:
                twice = doubled if edge.source == 1 else states[edge.source]
                mixed = self.edges[f"{node}_{edge.source}"]
                assert isinstance(mixed, MixedEdge)
                values.append(mixed.hard(states[edge.source], twice, edge.op))
            states.append(torch.relu(values[0] + values[1]))
        return self.output(states[2:])

    def _doubled(self, in1: Tensor) -> Tensor:
        return upsample(in1) if self.cell_type == "up" else in1


class Supernet(nn.Module):
    """All networks of `space` at one width and number of levels: images (B, channels, H, W) to logits (B, classes, H, W)."""

    def __init__(self, space: Space, width: int, levels: int, channels: int, classes: int, partial: int = 1) -> None:
        super().__init__()
        self.space, self.width, self.levels, self.partial = space, width, levels, partial
        self.stride = total_stride(levels)
        lattice = Lattice(space.frame, space.nodes, width, levels, channels, classes)
        _check_partial(lattice, partial)
        paths = space.paths(levels)
        self.widest = tuple(max(kept) for kept in zip(*paths, strict=True))
        self.up_nodes = kept_up_nodes(self.widest, levels)
        self.stem = Stem(lattice)
        self.inputs, self.cells = nn.ModuleDict(), nn.ModuleDict()
        for j in range(1, levels):
            self.inputs[f"down_{j}"] = DownInput(lattice.row_width(j - 2), lattice.row_width(j - 1))
            self.cells[f"down_{j}"] = MixedCell(space, lattice, "down", j, partial)
        for i, j in self.up_nodes:
            self.inputs[f"up_{i}_{j}"] = UpInput(lattice, j, len(self.neighbours(i, j)))
            self.cells[f"up_{i}_{j}"] = MixedCell(space, lattice, "up", j, partial)
        self.inputs["head"] = UpInput(lattice, HEAD, 1)
        self.cells["head"] = MixedCell(space, lattice, "up", HEAD, partial)
        self.classifier = classifier(lattice)

    def cell(self, key: str) -> MixedCell:
        """The cell 'down_j', 'up_i_j' or 'head'."""
        cell = self.cells[key]
        assert isinstance(cell, MixedCell)
        return cell

    def neighbours(self, i: int, j: int) -> list[int]:
        """Columns of the nodes that the row of X(i, j) may read, one for each slot of its input convolution."""
        return row_neighbours(self.widest, self.levels, i, j)

    def forward(self, images: Tensor, relaxed: Relaxed) -> Tensor:
        stem0, first = self.stem(images)
        x = {(0, 0): first}
        for j in range(1, self.levels):
            in0 = self.inputs[f"down_{j}"](stem0 if j == 1 else x[0, j - 2])
            x[0, j] = self.cells[f"down_{j}"](in0, x[0, j - 1], relaxed)
        for i, j in self.up_nodes:
            columns = self.neighbours(i, j)
            gates = [relaxed.gates.get((m, j)) for m in columns]
            left = self.inputs[f"up_{i}_{j}"]([x[m, j] for m in columns], range(len(columns)), gates)
            x[i, j] = self.cells[f"up_{i}_{j}"](left, x[i - 1, j + 1], relaxed)
        head = self.cells["head"](self.inputs["head"]([stem0], [0], [None]), x[self.levels - 1, 0], relaxed)
        return self.classifier(head)

    def hard(self, images: Tensor, genotype: Genotype) -> Tensor:
        """The logits of one genotype with the supernet's weights; runs nothing else."""
        stem0, first = self.stem(images)
        x = {(0, 0): first}
        for j in range(1, self.levels):
            in0 = self.inputs[f"down_{j}"](stem0 if j == 1 else x[0, j - 2])
            x[0, j] = self.cell(f"down_{j}").hard(in0, x[0, j - 1], genotype)
        for i, j in kept_up_nodes(genotype.path, self.levels):
            kept = row_neighbours(genotype.path, self.levels, i, j)
            slots = [self.neighbours(i, j).index(m) for m in kept]
            left = self.inputs[f"up_{i}_{j}"]([x[m, j] for m in kept], slots, [None] * len(kept))
            x[i, j] = self.cell(f"up_{i}_{j}").hard(left, x[i - 1, j + 1], genotype)
        head = self.cell("head").hard(self.inputs["head"]([stem0], [0], [None]), x[self.levels - 1, 0], genotype)
        return self.classifier(head)


class HardNetwork(nn.Module):
    """A supernet with a genotype imposed, as an ordinary network."""

    def __init__(self, supernet: Supernet, genotype: Genotype) -> None:
        super().__init__()
        supernet.space.check_genotype(genotype)
        if (genotype.width, genotype.levels) != (supernet.width, supernet.levels):
            raise ThriftyError(
                f"a genotype of width {genotype.width} and {genotype.levels} levels does not fit a supernet of width "
                f"{supernet.width} and {supernet.levels} levels"
            )
        self.supernet, self.genotype, self.stride = supernet, genotype, supernet.stride

    def forward(self, images: Tensor) -> Tensor:
        return self.supernet.hard(images, self.genotype)


def _check_partial(lattice: Lattice, partial: int) -> None:
    widths = lattice.frame.widths(lattice.width, lattice.levels)
    if partial > 1 and (len(set(widths)) > 1 or widths[0] % partial):
        raise ThriftyError(
            f"partial channels 1/{partial} need one width on all rows that is a multiple of {partial}; the widths are "
            f"{list(widths)}; set search.partial=1 or give another width"
        )
