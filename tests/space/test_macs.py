"""Multiply-accumulates by formula against those that torch counts in the built network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from thrifty.errors import ThriftyError
from thrifty.nets.derived import DerivedNetwork
from thrifty.nets.ops import build_op, is_resized
from thrifty.space import ops
from thrifty.space.cost import Costs, Patch, count, count_macs, has_macs
from thrifty.space.genotype import Cell, Edge, Genotype
from thrifty.space.sample import random_genotype
from thrifty.space.schema import Space, load_space, shipped

OWN_OPS = """
import torch

class Grouped(torch.nn.Module):
    # Half, twice or the same size, then a dense 3x3 convolution.
    def __init__(self, role, c_in, c_out):
        super().__init__()
        self.size = {"down": 0.5, "up": 2.0, "normal": 1.0}[role]
        self.conv = torch.nn.Conv2d(c_in, c_out, 3, padding=1)

    def forward(self, x):
        return self.conv(torch.nn.functional.interpolate(x, scale_factor=self.size))

    @staticmethod
    def params(role, c_in, c_out):
        return 9 * c_in * c_out + c_out

class Counted(Grouped):
    @staticmethod
    def macs(role, c_in, c_out, height, width):
        return 9 * c_in * c_out * height * width
"""


def counted(module: torch.nn.Module, *shape: int) -> int:
    """Half of the floating point operations that torch counts, for one input of `shape`."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.eval()(torch.zeros(*shape))
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


def counted_in_network(genotype: Genotype, patch: Patch) -> int:
    network = DerivedNetwork(genotype)
    return counted(network, 1, genotype.channels, *(size + -size % network.stride for size in patch))


def variant(name: str, **fixed: object) -> Space:
    values = load_space(name).model_dump(by_alias=True)
    values["fixed"].update(fixed)
    return Space.model_validate(values)


SPACES = {name: load_space(name) for name in sorted(shipped("search_spaces"))}
VARIANTS = {
    "rows differ": variant("paper", row_factors=[0.5, 1, 1.5, 1.5, 2]),
    "separable": variant("thrifty", input_conv="sep_3", output_conv="sep_3", stem_block="conv_3", row_factors=[0.5, 1, 2]),
    "mixed": variant("nas_unet", input_conv="sep_3", output_conv="conv_3", stem_block="conv_1", row_factors=[2, 1.5, 1]),
}


@pytest.mark.parametrize(("name", "number"), [*((name, 30) for name in SPACES), *((name, 10) for name in VARIANTS)])
def test_macs_equal_those_of_the_built_network(name: str, number: int) -> None:
    """Exactly, for random genotypes of random width, levels, channels, classes and patch."""
    space, rng = {**SPACES, **VARIANTS}[name], np.random.default_rng(0)
    for _ in range(number):
        width, levels, channels, classes = (int(rng.integers(*span)) for span in ((3, 40), (2, 6), (1, 4), (2, 5)))
        patch = (int(rng.integers(1, 40)), int(rng.integers(1, 40)))
        genotype = random_genotype(space, width, min(levels, space.levels), channels, classes, rng)
        assert count_macs(genotype, patch) == counted_in_network(genotype, patch)


@pytest.mark.parametrize(
    ("name", "role"), [(n, r) for r in ops.ROLES for n in ops.names(r) if ops.find(n).kind not in ("none", "own")]
)
@pytest.mark.parametrize("widths", [(5, 5), (6, 4), (20, 33)])
def test_macs_of_every_op_equal_those_of_the_built_one(name: str, role: str, widths: tuple[int, int]) -> None:
    op = ops.find(name)
    height, width = {"down": (16, 24), "normal": (8, 12), "up": (8, 12) if is_resized(op, role) else (4, 6)}[role]
    assert op.macs(role, *widths, 8, 12) == counted(build_op(name, role, *widths), 1, widths[0], height, width)


def test_macs_by_hand() -> None:
    """tiny, two levels, width c, n pixels: every op is parameter-free, so that only the frame multiplies."""
    space, c, n = load_space("tiny"), 10, 16 * 8
    cell_down, cell_up = (Cell((pair, pair)) for pair in FREE)
    genotype = Genotype(cell_down, cell_up, (), c, 2, 3, 4, "tiny", space.frame)
    full = 9 * 3 * c + 3 * c * c + c * 4  # stem0, the head's input and output convolutions, classifier
    first = 2 * (9 * c + c * c) + 3 * c * c  # stem1 and the one up cell in row 0
    last = 2 * c * c  # the down cell
    assert count_macs(genotype, (16, 8)) == n * full + n // 4 * first + n // 16 * last


FREE = ((Edge(0, "max_pool"), Edge(1, "max_pool")), (Edge(0, "identity"), Edge(1, "up_sample")))


def test_macs_are_those_of_the_patch_padded_to_the_stride() -> None:
    genotype = random_genotype(load_space("thrifty"), 8, 4, 1, 2, np.random.default_rng(0))
    assert count_macs(genotype, (31, 33)) == count_macs(genotype, (32, 48))
    assert count_macs(genotype, (33, 32)) == count_macs(genotype, (48, 32)) == count_macs(genotype, (32, 48))


def own_space(tmp_path: Path, name: str) -> Space:
    values = load_space("tiny").model_dump(mode="json", by_alias=True)
    values["ops"] = {"down": [name], "up": [name, "up_sample"], "normal": ["identity"]}
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(values))
    return load_space(str(path), allow_code=True)


def test_own_op_counts_its_macs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_macs.py").write_text(OWN_OPS)
    monkeypatch.syspath_prepend(str(tmp_path))
    space, rng = own_space(tmp_path, "own_macs:Counted"), np.random.default_rng(0)
    for _ in range(10):
        genotype = random_genotype(space, 4, 3, 1, 2, rng)
        assert has_macs(genotype)
        assert count_macs(genotype, (40, 16)) == counted_in_network(genotype, (40, 16))


def test_own_op_without_macs_is_refused_with_what_to_add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_no_macs.py").write_text(OWN_OPS)
    monkeypatch.syspath_prepend(str(tmp_path))
    space = own_space(tmp_path, "own_no_macs:Grouped")
    genotype = random_genotype(space, 4, 3, 1, 2, np.random.default_rng(0))
    costs = Costs(space, 4, 3, 1, 2)
    assert costs.smallest() <= count(genotype) <= costs.largest()
    assert not has_macs(genotype)
    for ask in (lambda: count_macs(genotype, (16, 16)), lambda: replace(costs, patch=(16, 16)).smallest()):
        with pytest.raises(ThriftyError, match=r"'own_no_macs:Grouped'.*static method macs\(role, c_in, c_out, height, width\)"):
            ask()
