"""What other programs use: a short list of names that the documentation agrees with, quick to import, with clear errors."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import thrifty
from tests.small_models import small_model
from thrifty.space.genotype import to_json
from thrifty.space.sample import random_genotype
from thrifty.space.schema import load_space

REPOSITORY = Path(__file__).resolve().parent.parent


def test_at_most_twelve_names_and_list_documentation_and_stub_agree() -> None:
    names = thrifty.__all__
    assert len(names) <= 12 and names == sorted(names)
    rows = re.findall(r"^\| `(\w+)", (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8"), flags=re.M)
    assert sorted(rows) == names
    stub = ast.parse((REPOSITORY / "thrifty" / "__init__.pyi").read_text(encoding="utf-8"))
    assert sorted(node.names[0].asname for node in stub.body if isinstance(node, ast.ImportFrom)) == names
    assert (REPOSITORY / "thrifty" / "py.typed").is_file() and set(names) <= set(dir(thrifty))


@pytest.mark.parametrize("name", thrifty.__all__)
def test_every_name_is_documented_and_typed(name: str) -> None:
    value = getattr(thrifty, name)
    assert inspect.getdoc(value)
    if inspect.isfunction(value):
        signature = inspect.signature(value)
        assert signature.return_annotation is not inspect.Signature.empty
        assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())


def test_parameters_are_those_that_the_documentation_shows() -> None:
    text = (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")
    for name, shown in re.findall(r"^\| `(\w+)\(([^`]*)\)`", text, flags=re.M):
        known = list(inspect.signature(getattr(thrifty, name)).parameters)
        wanted = [part.split("=")[0].strip() for part in shown.split(",") if part.strip() != "..."]
        assert set(wanted) <= set(known) and wanted[0] == known[0], name


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        thrifty.nonsense  # noqa: B018


def test_import_of_the_package_imports_nothing_but_itself() -> None:
    own = "{name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)"
    code = f"import sys; before = {own}; import thrifty; print(sorted({own} - before))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "['thrifty']"


def test_two_lines_for_an_image_a_stack_and_colour(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (3, 21, 34), dtype=np.uint8)
    grey = thrifty.load(small_model(tmp_path / "grey"))
    labels = grey(image[0])
    assert labels.shape == (21, 34) and labels.dtype == np.uint8
    assert np.array_equal(grey(image), np.stack([grey(one) for one in image]))
    assert np.array_equal(grey(image[0].astype(np.float64)), labels) and np.array_equal(grey(image[0].tolist()), labels)
    assert grey.probabilities(image).shape == (3, 3, 21, 34) and grey.uncertainty(image[0]).shape == (21, 34)
    np.testing.assert_allclose(grey.probabilities(image[0]).sum(axis=0), 1, atol=1e-5)
    assert grey.classes == ("background", "organ 1", "organ 2") and grey.channels == 1 and "small" in repr(grey)
    colour = thrifty.load(small_model(tmp_path / "colour", channels=3))
    stack = rng.integers(0, 255, (2, 21, 34, 3), dtype=np.uint8)
    assert np.array_equal(colour(stack), np.stack([colour(one) for one in stack]))


@pytest.mark.parametrize(
    ("channels", "image", "words"),
    [
        (1, np.zeros(5), r"shape \(5,\) came; a network for 1 channel takes \(H, W\)"),
        (1, np.zeros((9, 9, 3)), "looks like channels at the end"),
        (1, np.zeros((0, 9)), "shape"),
        (3, np.zeros((9, 9)), r"takes \(H, W, 3\)"),
        (3, np.zeros((9, 9, 4)), "for 3 channels"),
        (1, np.full((9, 9), np.nan), "NaN"),
        (1, np.array([["a", "b"]]), "plain numbers are needed"),
    ],
)
def test_images_that_do_not_fit_are_told(tmp_path: Path, channels: int, image: np.ndarray, words: str) -> None:
    predictor = thrifty.load(small_model(tmp_path, channels=channels))
    with pytest.raises(thrifty.ThriftyError, match=words):
        predictor(image)


def test_studies_and_genotypes_without_the_command_line(tmp_path: Path) -> None:
    import torch

    study = thrifty.read_study("demo", ["search.epochs=7"])
    assert isinstance(study, thrifty.Study) and study.search.epochs == 7
    with pytest.raises(thrifty.ThriftyError, match="allowed are search, select"):
        thrifty.run_study(study, stages=["serch"])
    genotype = random_genotype(load_space("tiny"), 4, 2, 1, 2, np.random.default_rng(0))
    (tmp_path / "g.json").write_text(json.dumps(to_json(genotype)))
    network = thrifty.build_network(thrifty.read_genotype(tmp_path / "g.json"))
    assert network(torch.zeros(1, 1, 4 * network.stride, 4 * network.stride)).shape[1] == 2
