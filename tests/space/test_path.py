from __future__ import annotations

import itertools
import math

import pytest

from thrifty.errors import ThriftyError
from thrifty.space import path as paths
from thrifty.space.schema import load_space


@pytest.mark.parametrize(("levels", "number"), [(4, 6), (5, 24), (6, 120)])
def test_number_of_paths_as_in_the_method(levels: int, number: int) -> None:
    assert len(set(paths.all_paths(levels))) == len(list(paths.all_paths(levels))) == number


@pytest.mark.parametrize(("levels", "number"), [(4, 9), (5, 33), (6, 153)])
def test_number_of_paths_of_every_depth_as_in_the_method(levels: int, number: int) -> None:
    found = load_space("thrifty").paths(levels, "searched")
    assert len(set(found)) == len(found) == number
    assert all(paths.check_path(path, paths.levels_of(path)) == path for path in found)
    assert found == sorted(found, key=lambda path: (len(path), path)), "canonical order: the shallowest first"
    depths = [paths.levels_of(path) - 1 for path in found]
    assert {d: depths.count(d) for d in depths} == {d: math.factorial(d) for d in range(1, levels)}


def test_a_fixed_path_has_no_depth_to_search() -> None:
    with pytest.raises(ThriftyError, match=r"search\.depth=searched needs a space .* that of 'nas_unet'"):
        load_space("nas_unet").paths(4, "searched")


def test_plain_is_a_unet_and_full_a_unetpp() -> None:
    assert paths.kept_up_nodes(paths.plain_path(5), 5) == [(1, 3), (2, 2), (3, 1), (4, 0)]
    assert len(paths.kept_up_nodes(paths.full_path(5), 5)) == 10
    assert paths.row_neighbours(paths.full_path(5), 5, 4, 0) == [0, 1, 2, 3]


def test_every_path_is_closed() -> None:
    """By hand: a kept node has the node below it (its input), and a diagonal keeps exactly s_d nodes."""
    for path in paths.all_paths(5):
        kept = set(paths.kept_up_nodes(path, 5))
        assert all(i == 1 or (i - 1, j + 1) in kept for i, j in kept)
        for d in (1, 2, 3):
            assert sum(i + j == d for i, j in kept) == path[d - 1]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ([0, 0], "2 diagonals, 5 levels have 3"),
        ([0, 3, 0], "keeps 3 nodes of diagonal 2, which allows 0 to 2"),
        ([0, -1, 0], "keeps -1"),
        ([0, 0, True], "keeps True"),
    ],
)
def test_illegal_paths_are_refused_by_name(path: list[int], words: str) -> None:
    with pytest.raises(ThriftyError, match=words):
        paths.check_path(path, 5)


def test_legal_is_exactly_what_is_enumerated() -> None:
    legal = set(paths.all_paths(4))
    for path in itertools.product(range(-1, 4), repeat=2):
        if path in legal:
            assert paths.check_path(path, 4) == path
        else:
            with pytest.raises(ThriftyError):
                paths.check_path(path, 4)
