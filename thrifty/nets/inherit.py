"""The weights of a supernet, copied into the derived network of a genotype (full channels only)."""

from __future__ import annotations

import torch
from torch import nn

from thrifty.errors import ThriftyError
from thrifty.nets.derived import DerivedCell, DerivedNetwork
from thrifty.nets.layers import UpInput
from thrifty.nets.ops import SepFamily, SepOp
from thrifty.nets.supernet import MixedCell, MixedEdge, Supernet, _key
from thrifty.space.path import row_neighbours


@torch.no_grad()
def inherit(network: DerivedNetwork, supernet: Supernet) -> None:
    """Copies weights and running statistics, so that both compute the same function (method, section 4, law 1).

    Raises:
        ThriftyError: the supernet has partial channels, hence no weights of full width.
    """
    if supernet.partial != 1:
        raise ThriftyError("a supernet with partial channels has no full-width weights to copy; score it in hard mode")
    genotype = network.genotype
    network.stem.load_state_dict(supernet.stem.state_dict())
    network.classifier.load_state_dict(supernet.classifier.state_dict())
    for key, cell in network.cells.items():
        assert isinstance(cell, DerivedCell)
        _copy_cell(cell, supernet.cell(key))
        target, source = network.inputs[key], supernet.inputs[key]
        if key.startswith("up_"):
            i, j = (int(part) for part in key.split("_")[1:])
            kept = row_neighbours(genotype.path, genotype.levels, i, j)
            assert isinstance(target, UpInput) and isinstance(source, UpInput)
            _copy_row(target, source, [supernet.neighbours(i, j).index(m) for m in kept])
        else:
            target.load_state_dict(source.state_dict())


def _copy_cell(cell: DerivedCell, mixed: MixedCell) -> None:
    cell.output.load_state_dict(mixed.output.state_dict())
    for node, pair in enumerate(cell.nodes):
        for edge in pair:
            source = mixed.edges[f"{node}_{edge.source}"]
            assert isinstance(source, MixedEdge)
            _copy_op(cell.edges[f"{node}_{edge.source}"], source, edge.op)


def _copy_op(target: nn.Module, edge: MixedEdge, name: str) -> None:
    if isinstance(target, SepOp):
        family = edge.family
        assert isinstance(family, SepFamily)
        target.kernel.copy_(family.kernels[[op.name for op in family.members].index(name)])
        target.pointwise.load_state_dict(family.pointwise.state_dict())
        target.norm.load_state_dict(family.norm.state_dict())
    else:
        target.load_state_dict(edge.singles[_key(name)].state_dict())


def _copy_row(target: UpInput, source: UpInput, slots: list[int]) -> None:
    target.norm.load_state_dict(source.norm.state_dict())
    channels = source.conv.channels
    target.conv.weight.copy_(source.conv.weight.unflatten(1, (-1, channels))[:, slots].flatten(1, 2))
    if target.conv.depthwise is not None and source.conv.depthwise is not None:
        target.conv.depthwise.copy_(source.conv.depthwise.unflatten(0, (-1, channels))[slots].flatten(0, 1))
