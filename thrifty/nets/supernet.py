"""The supernet: every network of a space at one width and number of levels, with shared weights.

Two ways to run it: `forward(images, relaxed)` mixes all branches by the weights of a relaxation; `hard(images, genotype)`
runs only the branches of one genotype (method, section 4, laws 1 and 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thrifty.errors import ThriftyError
from thrifty.nets.layers import CellOutput, DownInput, Stem, UpInput, classifier
from thrifty.nets.ops import FreeOp, SepFamily, SqueezeOp, build_op, is_resized, pooling
from thrifty.nets.source import Source
from thrifty.space import ops
from thrifty.space.cost import HEAD, Lattice
from thrifty.space.distribution import edge_index
from thrifty.space.genotype import CellType, Genotype, role_of
from thrifty.space.path import Node, kept_up_nodes, row_neighbours, total_stride
from thrifty.space.schema import Space


@dataclass(frozen=True)
class Relaxed:
    """The weights of all branches.

    alpha[cell type][edge]: (ops,), of the ops on an edge. edges[cell type][node]: (node + 2,), of the edges into an inner
    node. gates[(i, j)]: scalar, of node X(i, j) where its row reads it; nodes that are not named have 1. live[cell type][edge]:
    which ops run in a mixture; the others have weight 0 (None: all run). depth: (levels - 1,), of the ends X(L, 0) of the
    diagonals L = 1 .. levels-1 where the head reads them (None: the last one alone, with 1).
    """

    alpha: Mapping[CellType, Sequence[Tensor]]
    edges: Mapping[CellType, Sequence[Tensor]]
    gates: Mapping[Node, Tensor]
    live: Mapping[CellType, Sequence[tuple[bool, ...]]] | None = None
    depth: Tensor | None = None

    def of_edge(self, cell_type: CellType, node: int, source: int) -> tuple[Tensor, Tensor]:
        """The weights of the ops on an edge, and the weight of the edge."""
        return self.alpha[cell_type][edge_index(node, source)], self.edges[cell_type][node][source]

    def to(self, device: torch.device) -> Relaxed:
        """The same weights on another device, moved as one tensor: they are some hundred scalars and short vectors."""
        parts = [*(v for lists in (self.alpha, self.edges) for vs in lists.values() for v in vs), *self.gates.values()]
        parts += [] if self.depth is None else [self.depth]
        flat = torch.cat([part.reshape(-1) for part in parts]).to(device)
        moved = iter(flat.split([part.numel() for part in parts]))
        alpha = {t: [next(moved) for _ in vs] for t, vs in self.alpha.items()}
        edges = {t: [next(moved) for _ in vs] for t, vs in self.edges.items()}
        gates = {node: next(moved).reshape(()) for node in self.gates}
        return Relaxed(alpha, edges, gates, self.live, None if self.depth is None else next(moved))


class MixedEdge(nn.Module):
    """All ops of an edge. With `partial` p the ops see 1/p of the channels; the others pass by (PC-DARTS, Xu 2020)."""

    def __init__(self, names: Sequence[str], role: str, c_in: int, c_out: int, partial: int) -> None:
        super().__init__()
        self.names, self.role, self.partial = tuple(names), role, partial
        family = [n for n in names if ops.find(n).kind == "sep"]
        self.family_index = [self.names.index(n) for n in family]
        widths = (c_in // partial, c_out // partial)
        self.family = SepFamily([ops.find(n) for n in family], role, *widths) if family else None
        single = [n for n in names if n not in family and ops.find(n).kind != "none"]
        self.singles = nn.ModuleDict({_key(n): build_op(n, role, *widths) for n in single})
        self.single_names = single

    def forward(self, source: Source, alpha: Tensor, weight: Tensor, live: Sequence[bool] | None = None) -> Tensor:
        """`alpha` (ops,), `weight` a scalar, `live` (ops,)."""
        total = NodeSum(self.partial)
        self.add_to(total, source, alpha, weight, live)
        return total.value()

    def add_to(self, total: NodeSum, source: Source, alpha: Tensor, weight: Tensor, live: Sequence[bool] | None = None) -> None:
        """Adds the mixture to the sum of a node."""
        self._mix(total.seen, source, alpha, weight, live)
        if self.partial > 1:
            total.bypass.add_affine(source.rest(), weight[None], None)

    def _mix(self, total: Sum, source: Source, alpha: Tensor, weight: Tensor, live: Sequence[bool] | None) -> None:
        live = [True] * len(self.names) if live is None else live
        factors: dict[str, Tensor] = {}
        offset = None
        for name in self.single_names:
            index, single = self.names.index(name), self.singles[_key(name)]
            if not live[index]:
                continue
            scale = alpha[index] * weight
            if _is_affine(single):
                kind = pooling(ops.find(name))
                factor, more = single.affine(source, scale)  # pyrefly: ignore[not-callable]
                factors[kind] = factors[kind] + factor if kind in factors else factor
                offset = more if offset is None else offset + more
            else:
                total.add(single(source.resized() if is_resized(ops.find(name), self.role) else source.raw(), scale))
        members = [live[i] for i in self.family_index]
        if self.family is not None and any(members):
            seen = source.resized() if self.role == "up" else source.raw()
            total.add(self.family(seen, alpha[self.family_index], weight, members, offset), fresh=True)
            offset = None
        for kind, factor in factors.items():
            total.add_affine(source.pooled(kind), factor, offset)
            offset = None

    def hard(self, source: Source, name: str, alpha: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        """One op alone, times its entry of `alpha` and times `weight` (None: 1)."""
        resized = is_resized(ops.find(name), self.role)
        seen = source.resized() if resized else source.raw()
        scale = None if alpha is None or weight is None else alpha[self.names.index(name)] * weight
        if self.family is not None and ops.find(name).kind == "sep":
            value = self.family.hard(seen, name, scale)
        else:
            value = self.singles[_key(name)](seen, scale)
        if self.partial == 1:
            return value
        rest = source.rest()
        return shuffled(value, rest if weight is None else rest * weight, self.partial)


def _is_affine(op: nn.Module) -> bool:
    """Whether an op multiplies each channel of what it reads and adds to it: it has no convolution to another width."""
    return isinstance(op, (FreeOp, SqueezeOp)) and op.adapter is None


class Sum:
    """A sum of tensors (B, c, h, w), in place where that spoils nothing that a gradient needs."""

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._owned = False

    def add(self, value: Tensor, fresh: bool = False) -> None:
        """`fresh`: nobody else reads the tensor, nor does its own gradient."""
        if self._total is None:
            self._total, self._owned = value, fresh
        elif self._owned:
            self._total.add_(value)
        else:
            self._total, self._owned = self._total + value, True

    def add_affine(self, x: Tensor, factor: Tensor, offset: Tensor | None) -> None:
        """Adds x * factor + offset: x (B, c, h, w), factor (B, c) or (c,), offset (c,)."""
        wide = factor[..., None, None]
        if offset is not None:
            self.add(torch.addcmul(offset[:, None, None], x, wide), fresh=True)
        elif self._owned and self._total is not None:
            self._total.addcmul_(x, wide)
        else:
            self.add(x * wide, fresh=True)

    def value(self) -> Tensor:
        assert self._total is not None
        return self._total


class NodeSum:
    """What the edges into a node add up to: of the channels that their ops see, and of those that pass by."""

    def __init__(self, partial: int) -> None:
        self.partial, self.seen, self.bypass = partial, Sum(), Sum()

    def value(self) -> Tensor:
        """(B, c, h, w). The channels are joined here, once for all edges: sums of shuffled channels are shuffled sums."""
        return self.seen.value() if self.partial == 1 else shuffled(self.seen.value(), self.bypass.value(), self.partial)


def shuffled(seen: Tensor, bypass: Tensor, partial: int) -> Tensor:
    """(B, c / p, h, w) and (B, c - c / p, h, w) in turns as (B, c, h, w), channels_last.

    So the next op sees channels that passed by here.
    """
    seen, bypass = seen.permute(0, 2, 3, 1), bypass.permute(0, 2, 3, 1)
    groups = bypass.unflatten(3, (partial - 1, -1)).transpose(3, 4)
    return torch.cat([seen.unsqueeze(4), groups], 4).flatten(3).permute(0, 3, 1, 2)


def _key(name: str) -> str:
    """Module names may hold no dot."""
    return name.replace(".", "/")


class MixedCell(nn.Module):
    """A cell with all edges; (in0, in1) to (B, c, h, w), after ReLU."""

    def __init__(self, space: Space, lattice: Lattice, cell_type: CellType, row: int, partial: int) -> None:
        super().__init__()
        self.cell_type, self.inner, self.partial = cell_type, space.nodes, partial
        self.edges = nn.ModuleDict()
        for node in range(space.nodes):
            for source in range(node + 2):
                names, role = space.ops_of(cell_type, source), role_of(cell_type, source)
                widths = lattice.edge_widths(cell_type, source, row)
                self.edges[f"{node}_{source}"] = MixedEdge(names, role, *widths, partial)
        self.output = CellOutput(lattice, row)

    def forward(self, in0: Tensor, in1: Tensor, relaxed: Relaxed) -> Tensor:
        sources = [self._source(number, x) for number, x in enumerate((in0, in1))]
        for node in range(self.inner):
            total = NodeSum(self.partial)
            for number, source in enumerate(sources):
                scales = relaxed.of_edge(self.cell_type, node, number)
                live = None if relaxed.live is None else relaxed.live[self.cell_type][edge_index(node, number)]
                self._edge(node, number).add_to(total, source, *scales, live)
            sources.append(self._source(node + 2, torch.relu(total.value())))
        return self.output([source.x for source in sources[2:]])

    def hard(self, in0: Tensor, in1: Tensor, genotype: Genotype, relaxed: Relaxed | None = None) -> Tensor:
        sources = [self._source(number, x) for number, x in enumerate((in0, in1))]
        for node, pair in enumerate(genotype.cell(self.cell_type).nodes):
            values = []
            for edge in pair:
                scales = () if relaxed is None else relaxed.of_edge(self.cell_type, node, edge.source)
                values.append(self._edge(node, edge.source).hard(sources[edge.source], edge.op, *scales))
            sources.append(self._source(node + 2, torch.relu(values[0] + values[1])))
        return self.output([source.x for source in sources[2:]])

    def _edge(self, node: int, source: int) -> MixedEdge:
        edge = self.edges[f"{node}_{source}"]
        assert isinstance(edge, MixedEdge)
        return edge

    def _source(self, number: int, x: Tensor) -> Source:
        return Source(x, role_of(self.cell_type, number), self.partial)


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
        head = self.cells["head"](self.inputs["head"]([stem0], [0], [None]), self._end(x, relaxed), relaxed)
        return self.classifier(head)

    def _end(self, x: Mapping[Node, Tensor], relaxed: Relaxed) -> Tensor:
        """in1 of the head: the end of the last diagonal, or the mean of all ends by the probability that they are it."""
        if relaxed.depth is None:
            return x[self.levels - 1, 0]
        ends = [x[last, 0] * weight for last, weight in enumerate(relaxed.depth, start=1)]
        total = ends[0]
        for end in ends[1:]:
            total = total + end
        return total

    def hard(self, images: Tensor, genotype: Genotype, relaxed: Relaxed | None = None) -> Tensor:
        """The logits of one genotype with the supernet's weights; runs nothing else.

        A genotype of fewer levels ends at the diagonal that is its last, and needs images of multiples of its own stride only.
        With `relaxed` its branches are multiplied by their weights there: ones that carry a gradient make this the forward
        pass of a straight-through estimator.
        """
        stem0, first = self.stem(images)
        x, levels = {(0, 0): first}, genotype.levels
        for j in range(1, levels):
            in0 = self.inputs[f"down_{j}"](stem0 if j == 1 else x[0, j - 2])
            x[0, j] = self.cell(f"down_{j}").hard(in0, x[0, j - 1], genotype, relaxed)
        for i, j in kept_up_nodes(genotype.path, levels):
            kept = row_neighbours(genotype.path, levels, i, j)
            slots = [self.neighbours(i, j).index(m) for m in kept]
            gates = [None if relaxed is None else relaxed.gates.get((m, j)) for m in kept]
            left = self.inputs[f"up_{i}_{j}"]([x[m, j] for m in kept], slots, gates)
            x[i, j] = self.cell(f"up_{i}_{j}").hard(left, x[i - 1, j + 1], genotype, relaxed)
        end = x[levels - 1, 0]
        if relaxed is not None and relaxed.depth is not None:
            end = end * relaxed.depth[levels - 2]
        head = self.cell("head").hard(self.inputs["head"]([stem0], [0], [None]), end, genotype, relaxed)
        return self.classifier(head)


class HardNetwork(nn.Module):
    """A supernet with a genotype imposed, as an ordinary network. The genotype may have fewer levels than the supernet."""

    def __init__(self, supernet: Supernet, genotype: Genotype) -> None:
        super().__init__()
        supernet.space.check_genotype(genotype)
        nodes = kept_up_nodes(genotype.path, genotype.levels)
        if genotype.width != supernet.width or not set(nodes) <= set(supernet.up_nodes):
            raise ThriftyError(
                f"a genotype of width {genotype.width} and {genotype.levels} levels does not fit a supernet of width "
                f"{supernet.width} and {supernet.levels} levels"
            )
        self.supernet, self.genotype, self.stride = supernet, genotype, total_stride(genotype.levels)

    def forward(self, images: Tensor) -> Tensor:
        return self.supernet.hard(images, self.genotype)


def _check_partial(lattice: Lattice, partial: int) -> None:
    widths = lattice.frame.widths(lattice.width, lattice.levels)
    if not lattice.frame.fits_partial(lattice.width, lattice.levels, partial):
        raise ThriftyError(
            f"partial channels 1/{partial} need one width on all rows that is a multiple of {partial}; the widths are "
            f"{list(widths)}; set search.partial=1 or give another width"
        )
