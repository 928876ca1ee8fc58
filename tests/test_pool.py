"""The pool of what searches decoded along the way: hand-made cells, records written by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_search import search_study

from thrifty.config import Study
from thrifty.pool import Origin, gather_pool, write_pool
from thrifty.results import Run, read_jsonl, write_jsonl
from thrifty.space.cost import count
from thrifty.space.genotype import Cell, Edge, Genotype, canonical, from_json, genotype_hash, to_json
from thrifty.space.schema import load_space

UP = Cell(((Edge(0, "identity"), Edge(1, "up_sample")), (Edge(0, "sep_conv_3"), Edge(1, "sep_conv_3"))))


def genotype(down: Cell, path: tuple[int, ...] = (0,), width: int = 8) -> Genotype:
    return Genotype(down, UP, path, width, 3, 1, 3, "tiny", load_space("tiny").frame)


def cell(first: tuple[str, str], second: tuple[str, str]) -> Cell:
    """Two inner nodes that both read in0 and in1."""
    return Cell(tuple((Edge(0, a), Edge(1, b)) for a, b in (first, second)))


POOL, SEP = "max_pool", "sep_conv_3"
ONE = genotype(cell((POOL, SEP), (SEP, SEP)))
TWIN = genotype(cell((SEP, SEP), (POOL, SEP)))  # its inner nodes have changed names: the same network
OTHER = genotype(cell((SEP, POOL), (SEP, SEP)))  # the inputs are not the same: another network
CHAIN = genotype(Cell(((Edge(0, POOL), Edge(1, SEP)), (Edge(0, POOL), Edge(2, "identity")))))  # no other order is possible
DEEPER = genotype(ONE.down, path=(1,))


@pytest.fixture
def study() -> Study:
    return search_study(search={"epochs": 9, "steps": 1, "warmup": 2, "batch": 2})


def searched(root: Path, records: dict[str, tuple[int, list[Genotype]]]) -> Run:
    """A run whose searches decoded these genotypes, epoch after epoch; by trial, with its budget."""
    run = Run(root)
    rows: list[dict[str, Any]] = []
    for trial, (budget, genotypes) in records.items():
        write_jsonl(run.search_trial(trial).record, [{"genotype": to_json(g)} for g in genotypes])
        rows.append({"trial": trial, "budget": budget, "genotype": to_json(genotypes[-1])})
    write_jsonl(run.candidates, rows)
    return run


def test_isomorphic_cells_are_one_entry_and_others_are_not(tmp_path: Path, study: Study) -> None:
    run = searched(tmp_path, {"a": (3000, [OTHER, OTHER, ONE, TWIN, CHAIN, OTHER, DEEPER])})
    pool = gather_pool(study, run)
    assert {(entry.hash, entry.times) for entry in pool} == {
        (genotype_hash(ONE), 2),  # TWIN is one with it
        (genotype_hash(CHAIN), 1),
        (genotype_hash(OTHER), 1),  # twice more in the warm-up, which does not count
        (genotype_hash(DEEPER), 1),
    }
    assert genotype_hash(ONE) == genotype_hash(TWIN) and canonical(ONE) == canonical(TWIN)
    assert all(entry.parameters == count(entry.genotype) for entry in pool)


def test_each_entry_says_where_it_came_from(tmp_path: Path, study: Study) -> None:
    run = searched(tmp_path, {"b": (2400, [OTHER, OTHER, ONE, OTHER, TWIN]), "a": (3000, [ONE, ONE, TWIN, TWIN])})
    first, second = gather_pool(study, run)
    assert first.hash == genotype_hash(ONE) and second.hash == genotype_hash(OTHER)
    assert first.origins == (Origin("a", 3000, (2, 3), 0), Origin("b", 2400, (2, 4), 0))
    assert second.origins == (Origin("b", 2400, (3,), 1),)
    assert (first.times, first.left, second.times, second.left) == (4, 0, 1, 1)


def test_of_labelled_forms_the_most_frequent_then_the_most_recent_is_kept(tmp_path: Path, study: Study) -> None:
    """They inherit other weights of a supernet, and only one of them is scored."""
    often = gather_pool(study, searched(tmp_path / "often", {"a": (3000, [ONE, ONE, TWIN, TWIN, ONE])}))
    assert [entry.genotype for entry in often] == [TWIN]
    late = gather_pool(study, searched(tmp_path / "late", {"a": (3000, [ONE, ONE, TWIN, ONE])}))
    assert [entry.genotype for entry in late] == [ONE]


def test_the_most_frequent_come_first_then_the_most_recent_then_the_smaller(tmp_path: Path, study: Study) -> None:
    decoded = [ONE, ONE, OTHER, OTHER, CHAIN, ONE, DEEPER]
    pool = gather_pool(study, searched(tmp_path, {"a": (3000, decoded), "b": (3000, [*decoded[:2], DEEPER, ONE])}))
    assert [entry.hash for entry in pool] == [genotype_hash(g) for g in (ONE, DEEPER, OTHER, CHAIN)]
    assert [(entry.times, entry.left) for entry in pool] == [(2, 0), (2, 0), (2, 3), (1, 2)]
    assert pool[0].parameters < pool[1].parameters


def test_another_width_is_another_network(tmp_path: Path, study: Study) -> None:
    wide = replace(ONE, width=10)
    pool = gather_pool(study, searched(tmp_path, {"a": (3000, [ONE] * 3), "b": (3000, [wide] * 3)}))
    assert [(entry.genotype.width, entry.origins[0].trial) for entry in pool] == [(8, "a"), (10, "b")]


def test_a_record_without_genotypes_still_gives_the_outcome(tmp_path: Path, study: Study) -> None:
    run = searched(tmp_path, {"a": (3000, [ONE, ONE, OTHER, CHAIN])})
    write_jsonl(run.search_trial("a").record, [{"epoch": k} for k in range(4)])
    assert [(entry.genotype, entry.origins) for entry in gather_pool(study, run)] == [(CHAIN, (Origin("a", 3000, (3,), 0),))]


def test_the_file_of_the_pool(tmp_path: Path, study: Study) -> None:
    run = searched(tmp_path, {"a": (3000, [ONE, ONE, TWIN, OTHER, OTHER])})
    write_pool(run, gather_pool(study, run))
    rows = read_jsonl(run.pool)
    assert [from_json(row.pop("genotype")) for row in rows] == [OTHER, TWIN]
    assert rows[1] == {
        "hash": genotype_hash(ONE),
        "parameters": count(ONE),
        "width": 8,
        "levels": 3,
        "times": 1,
        "left": 2,
        "origins": [{"trial": "a", "budget": 3000, "epochs": [2], "left": 2}],
    }
