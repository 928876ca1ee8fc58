"""Check numbers of the method, and costs against enumeration. (Formula against built networks: tests/nets/test_laws.py.)"""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from thrifty.errors import ThriftyError
from thrifty.space.cost import Costs, count, count_macs
from thrifty.space.genotype import Cell, Edge, Genotype
from thrifty.space.path import all_paths, plain_path
from thrifty.space.schema import load_space
from thrifty.space.size import all_genotypes, number_of_genotypes


def paper_cell(nodes: int, cell_type: str, ops: dict[str, str]) -> Cell:
    """Every inner node reads in0 and in1."""
    roles = ("down", "down") if cell_type == "down" else ("normal", "up")
    return Cell(tuple((Edge(0, ops[roles[0]]), Edge(1, ops[roles[1]])) for _ in range(nodes)))


FREE = {"down": "avg_pool", "up": "up_sample", "normal": "identity"}


def paper(nodes: int, width: int, path: tuple[int, ...], ops: dict[str, str]) -> Genotype:
    frame = load_space("paper").frame
    return Genotype(paper_cell(nodes, "down", ops), paper_cell(nodes, "up", ops), path, width, 5, 1, 2, "paper", frame)


@pytest.mark.parametrize("width", [8, 16, 32, 33])
def test_paper_check_number(width: int) -> None:
    """Two inner nodes, plain U, parameter-free ops: 225 c^2 + 181 c."""
    assert count(paper(2, width, plain_path(5), FREE)) == 225 * width**2 + 181 * width


def test_paper_at_width_32() -> None:
    assert count(paper(2, 32, plain_path(5), FREE)) == 236_192


@pytest.mark.parametrize(
    ("op", "low", "high"),
    [(None, 0.32e6, 0.64e6), ("dep_sep_conv_3", 0.40e6, 0.76e6), ("dil2_conv_5", 1.70e6, 2.94e6)],
)
def test_paper_ranges_over_the_24_paths(op: str | None, low: float, high: float) -> None:
    """The method gives them to two decimals of a million (0.3946 M stands there as 0.40)."""
    ops = FREE if op is None else dict.fromkeys(FREE, op)
    sizes = [count(paper(3, 32, path, ops)) for path in all_paths(5)]
    assert len(sizes) == 24
    assert min(sizes) == pytest.approx(low, abs=0.006e6)
    assert max(sizes) == pytest.approx(high, abs=0.005e6)


def test_size_of_tiny_by_enumeration() -> None:
    space = load_space("tiny")
    for levels in (3, 4):
        everything = list(all_genotypes(space, 6, levels, 2, 3))
        assert len(everything) == len(set(everything)) == number_of_genotypes(space, levels)


@pytest.mark.parametrize(("levels", "patch"), [(3, None), (4, None), (3, (20, 9))])
def test_extremes_of_tiny_by_enumeration(levels: int, patch: tuple[int, int] | None) -> None:
    space = load_space("tiny")
    everything = list(all_genotypes(space, 6, levels, 2, 3))
    sizes = [count(g) if patch is None else count_macs(g, patch) for g in everything]
    costs = Costs(space, 6, levels, 2, 3, patch)
    assert (costs.smallest(), costs.largest()) == (min(sizes), max(sizes))
    by_path = {path: min(s for g, s in zip(everything, sizes, strict=True) if g.path == path) for path in space.paths(levels)}
    assert {path: costs.smallest_of_path(path) for path in by_path} == by_path


def test_number_of_genotypes_by_hand() -> None:
    """thrifty: 6 down, 5 up, 5 normal ops. Node 0: 36; node 1: 36 + 30 + 30; node 2: 36 + 4 * 30 + 25."""
    down = 36 * (36 + 2 * 30) * (36 + 4 * 30 + 25)
    up = 25 * (3 * 25) * (6 * 25)
    assert number_of_genotypes(load_space("thrifty"), 5) == down * up * 24


def test_budget_below_the_smallest_names_it() -> None:
    costs = Costs(load_space("thrifty"), 16, 5, 1, 2)
    with pytest.raises(ThriftyError, match=f"parameters is below .*{costs.smallest():,}"):
        costs.check_budget(costs.smallest() - 1)
    costs.check_budget(costs.smallest())
    of_macs = replace(costs, patch=(64, 64))
    with pytest.raises(ThriftyError, match=f"MACs is below .*{of_macs.smallest():,}"):
        of_macs.check_budget(of_macs.smallest() - 1)


def test_a_node_more_costs_what_it_adds() -> None:
    """By hand, thrifty at width c: an up cell of parameter-free ops has 6 norms of edges, 2 norms, 3c^2 output, k c^2 input."""
    space, c = load_space("thrifty"), 8
    cell_up = Cell((*[(Edge(0, "identity"), Edge(1, "up_sample"))] * 3,))
    cell_down = Cell((*[(Edge(0, "avg_pool"), Edge(1, "avg_pool"))] * 3,))
    base = Genotype(cell_down, cell_up, (0, 0), c, 4, 1, 2, "thrifty", space.frame)
    one_cell = 6 * 2 * c + 2 * 2 * c + 3 * c * c
    # X(1, 0) is added with one neighbour, and X(3, 0) of the last diagonal gets one neighbour more.
    assert count(replace(base, path=(1, 0))) - count(base) == one_cell + c * c + c * c


def test_counting_is_linear_in_cells_of_a_row() -> None:
    space = load_space("thrifty")
    costs = Costs(space, 10, 5, 1, 2)
    for path in itertools.islice(all_paths(5), 24):
        assert costs.lattice.up_cells(path).sum() == 5 + sum(path)
