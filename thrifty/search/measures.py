"""What is recorded of a search beside its losses."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from thrifty.data.batches import Batches
from thrifty.data.labels import counted, foreground, pixels_of
from thrifty.losses import Loss, dice_ce
from thrifty.space import ops
from thrifty.space.cost import lattice_of
from thrifty.space.genotype import CELL_TYPES, Genotype

COLLAPSED = 0.8
"""A genotype of which so large a share of the edges is parameter-free counts as collapsed."""


@dataclass(frozen=True)
class SearchData:
    """Batches of the two disjoint sets of cases, and the loss on them."""

    weights: Batches
    architecture: Batches
    loss: Loss = dice_ce


def batch_dice(labels: Tensor, masks: Tensor, classes: int, overlapping: bool = False) -> float:
    """Mean over the foreground classes of the Dice over a whole batch, (B, h, w) as in `thrifty.data.labels`.

    A class absent from both is 1; ignored pixels do not count.
    """
    scores = []
    kept = counted(masks)
    for c in foreground(classes, overlapping):
        found, there = (pixels_of(part, c, overlapping) & kept for part in (labels, masks))
        size = int(found.sum() + there.sum())
        scores.append(2 * int((found & there).sum()) / size if size else 1.0)
    return sum(scores) / len(scores)


def parameter_free_share(genotype: Genotype) -> float:
    """Share of the kept edges, over all cells of the network, whose op is parameter-free."""
    free = total = 0
    for cell_type in CELL_TYPES:
        cells = int(lattice_of(genotype).cells_in_rows(cell_type, genotype.path).sum())
        for _, edge in genotype.cell(cell_type).edges():
            total += cells
            free += cells * ops.find(edge.op).parameter_free
    return free / total
