from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from thrifty.errors import ThriftyError
from thrifty.space import genotype as genotypes
from thrifty.space.genotype import Cell, Edge, Genotype
from thrifty.space.sample import random_genotype
from thrifty.space.schema import load_space


def pair(a: int, op_a: str, b: int, op_b: str) -> tuple[Edge, Edge]:
    return Edge(a, op_a), Edge(b, op_b)


def example() -> Genotype:
    down = Cell((pair(0, "avg_pool", 1, "sep_conv_3"), pair(0, "max_pool", 1, "squeeze"), pair(2, "identity", 3, "sep_conv_5")))
    up = Cell((pair(0, "identity", 1, "up_sample"), pair(1, "sep_conv_3", 2, "squeeze"), pair(0, "sep_conv_5", 3, "identity")))
    space = load_space("thrifty")
    return Genotype(down, up, (1, 0), 8, 4, 1, 2, "thrifty", space.frame)


def test_json_there_and_back(tmp_path: Path) -> None:
    genotype = example()
    genotypes.save(tmp_path / "g.json", genotype)
    assert genotypes.load(tmp_path / "g.json") == genotype
    assert json.loads((tmp_path / "g.json").read_text())["schema"] == 1


def test_isomorphic_cells_are_one_network() -> None:
    """Nodes 0 and 1 of the down cell exchanged by hand, and node 2 reading them accordingly."""
    genotype = example()
    swapped = Cell(
        (pair(0, "max_pool", 1, "squeeze"), pair(0, "avg_pool", 1, "sep_conv_3"), pair(2, "sep_conv_5", 3, "identity"))
    )
    other = dataclasses.replace(genotype, down=swapped)
    assert genotypes.canonical_json(other) != genotypes.canonical_json(genotype)
    assert genotypes.canonical(other) == genotypes.canonical(genotype)
    assert genotypes.genotype_hash(other) == genotypes.genotype_hash(genotype)


def test_different_networks_have_different_hashes() -> None:
    """Exchanging the ops of node 2 without exchanging its sources is another network."""
    genotype = example()
    nodes = (*genotype.down.nodes[:2], pair(2, "sep_conv_5", 3, "identity"))
    changes: list[dict] = [{"down": Cell(nodes)}, {"path": (0, 0)}, {"width": 10}, {"classes": 3}, {"channels": 3}]
    hashes = {genotypes.genotype_hash(dataclasses.replace(genotype, **change)) for change in changes}
    assert len({genotypes.genotype_hash(genotype), *hashes}) == 1 + len(changes)


def test_dependent_nodes_cannot_be_exchanged() -> None:
    """Node 1 of the up cell reads node 0, so no other order of the two is legal; the cell has few relabelled forms."""
    for seed in range(50):
        g = random_genotype(load_space("thrifty"), 4, 4, 1, 2, np.random.default_rng(seed))
        assert genotypes.canonical(genotypes.canonical(g)) == genotypes.canonical(g)
        genotypes.check(genotypes.canonical(g))


def test_hash_is_stable_over_processes() -> None:
    code = "\n".join(
        (
            "import sys; sys.path.insert(0, sys.argv[1])",
            "from test_genotype import example",
            "from thrifty.space.genotype import genotype_hash",
            "print(genotype_hash(example()))",
        )
    )
    out = subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent)], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == genotypes.genotype_hash(example())


def test_hash_is_the_written_one() -> None:
    """Files of candidates refer to genotypes by hash: a change of the canonical form must not go unseen. A genotype of before
    classifiers could have a bias keeps its hash, and its file is read."""
    assert genotypes.genotype_hash(example()) == "d22cae9f04fc27d6"
    older = dataclasses.replace(example(), frame=dataclasses.replace(example().frame, classifier_bias=False))
    assert genotypes.genotype_hash(older) == "7aebf9134e44f106"
    assert "classifier_bias" not in genotypes.to_json(older)["frame"]
    assert genotypes.from_json(genotypes.to_json(older)) == older


def broken(**changes: object) -> dict:
    return {**genotypes.to_json(example()), **changes}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "no genotype"),
        (broken(schema=2), "schema version 2, this thrifty reads version 1"),
        (broken(path=[2, 0]), "keeps 2 nodes of diagonal 1"),
        (broken(width="wide"), "malformed"),
        (broken(width=0), "width 0, it must be at least 1"),
        (broken(classes=0), "classes 0, it must be at least 1"),
        (broken(down=[[[0, "avg_pool"], [0, "avg_pool"]]] * 3), "two different ones"),
        (broken(down=[[[0, "avg_pool"], [2, "identity"]]] * 3), "allowed are 0 to 1"),
        (broken(down=[[[0, "up_sample"], [1, "avg_pool"]]] * 3), "'up_sample' on a down edge"),
        (broken(up=[[[0, "none"], [1, "up_sample"]]] * 3), "'none' on a normal edge"),
        (broken(up=[[[0, "sep_conv3"], [1, "up_sample"]]] * 3), "did you mean 'sep_conv_3'"),
        (broken(down=[]), "same number of inner nodes"),
        ({"schema": 1}, "incomplete"),
    ],
)
def test_illegal_genotypes_are_refused(value: object, words: str) -> None:
    with pytest.raises(ThriftyError, match=words):
        genotypes.from_json(value)


def test_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "g.json").write_text("{]")
    with pytest.raises(ThriftyError, match=r"g\.json"):
        genotypes.load(tmp_path / "g.json")
