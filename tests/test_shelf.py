"""Shipped spaces and studies, genotype files, and the wheel that carries them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder

from thrifty import shelf
from thrifty.config import read_study
from thrifty.errors import ThriftyError
from thrifty.nets.build import build_network, genotype_spec
from thrifty.space.genotype import save
from thrifty.space.sample import random_genotype
from thrifty.space.schema import load_space, shipped
from thrifty.summary import macs

REPOSITORY = Path(__file__).resolve().parent.parent


def test_every_shipped_file_is_listed_with_what_it_is_about_and_reads() -> None:
    text = shelf.listing()
    spaces, studies = shipped("search_spaces"), shipped("tune_runs")
    assert len(spaces) >= 4 and {"tiny", "thrifty", "paper", "nas_unet"} <= set(spaces)
    for name in spaces:
        load_space(name)
    for path in studies.values():
        load_space(read_study(path).space)
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.startswith("  ")]
    assert sorted(line[0] for line in lines) == sorted([*spaces, *studies])
    assert all(len(line) == 2 for line in lines), "each says what it is about"


def test_copy_gives_the_same_file_and_never_overwrites(tmp_path: Path) -> None:
    path = shelf.copy("tiny", tmp_path)
    assert path == tmp_path / "tiny.yaml" and path.read_text() == shelf.text_of("tiny")
    assert yaml.safe_load(path.read_text())["name"] == "tiny"
    with pytest.raises(ThriftyError, match="exists already and is not overwritten"):
        shelf.copy("tiny", path)
    assert shelf.copy("search_spaces/tiny", tmp_path / "mine.yaml").read_text() == path.read_text()


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(ThriftyError, match=r"nothing shipped is called 'tinny'; did you mean 'tiny'\?"):
        shelf.find("tinny")
    with pytest.raises(ThriftyError, match="there is no study 'nosuch'"):
        shelf.find_study("nosuch")


def test_a_space_and_a_study_of_one_name_are_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {kind: {"paper": tmp_path / kind / "paper.yaml"} for kind in shelf.KINDS}
    monkeypatch.setattr("thrifty.space.schema.shipped", lambda kind: files[kind])
    with pytest.raises(ThriftyError, match="say which: tune_runs/paper or search_spaces/paper"):
        shelf.find("paper")
    assert shelf.find("tune_runs/paper") == files["tune_runs"]["paper"]
    assert shelf.find_study("paper") == files["tune_runs"]["paper"]


def test_a_genotype_is_shown_with_its_true_size_and_drawn(tmp_path: Path) -> None:
    genotype = random_genotype(load_space("thrifty"), 8, 4, 1, 3, np.random.default_rng(5))
    path, svg = tmp_path / "genotype.json", tmp_path / "drawing.svg"
    save(path, genotype)
    text = shelf.show_genotype(path, svg, 32)
    network = build_network(genotype_spec("x", genotype, None))
    assert f"parameters {sum(p.numel() for p in network.parameters()):,}" in text
    assert f"cell path {list(genotype.path)}" in text and "digraph" in text
    assert f"MACs {macs(genotype_spec('x', genotype, None), (32, 32)):,} (one image of 32 x 32 pixels)" in text
    for cell in (genotype.down, genotype.up):
        for pair in cell.nodes:
            assert all(f"{edge.op} from " in text for edge in pair)
    assert svg.read_text().lstrip().startswith("<?xml") and "<svg" in svg.read_text()


def test_the_wheel_carries_spaces_and_studies_inside_the_package(tmp_path: Path) -> None:
    wheel = next(WheelBuilder(str(REPOSITORY)).build(directory=str(tmp_path), versions=["standard"]))
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"thrifty", next(top for top in tops if top.endswith(".dist-info"))}
    for kind in shelf.KINDS:
        inside = {Path(name).stem for name in names if name.startswith(f"thrifty/shipped/{kind}/") and name.endswith(".yaml")}
        assert inside == set(shipped(kind))
    assert not any("__pycache__" in name or "/tests/" in name for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_macs_of_an_op_without_a_formula_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genotype = random_genotype(load_space("thrifty"), 8, 4, 1, 3, np.random.default_rng(5))
    save(tmp_path / "genotype.json", genotype)
    by_formula = shelf.show_genotype(tmp_path / "genotype.json", None, 32)
    monkeypatch.setattr("thrifty.space.cost.has_macs", lambda genotype: False)
    assert shelf.show_genotype(tmp_path / "genotype.json", None, 32) == by_formula
