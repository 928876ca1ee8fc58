from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from thrifty.config import Study
from thrifty.errors import ThriftyError
from thrifty.results import open_run
from thrifty.space.cost import count
from thrifty.space.sample import random_genotype
from thrifty.space.schema import load_space, pin_space, run_space, shipped

OWN_OP = """
import torch
class Half(torch.nn.Module):
    def __init__(self, role, c_in, c_out):
        super().__init__()
        self.conv = torch.nn.Conv2d(c_in, c_out, 1, bias=True)
        self.role = role
    def forward(self, x):
        x = self.conv(x)
        if self.role == "down":
            return x[:, :, ::2, ::2]
        return torch.nn.functional.interpolate(x, scale_factor=2.0) if self.role == "up" else x
    @staticmethod
    def params(role, c_in, c_out):
        return c_in * c_out + c_out
"""


def tiny_values() -> dict:
    return yaml.safe_load(shipped("search_spaces")["tiny"].read_text())


def write(folder: Path, **changes: object) -> str:
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump({**tiny_values(), **changes}))
    return str(path)


def test_unknown_space_names_the_nearest() -> None:
    with pytest.raises(ThriftyError, match="did you mean 'thrifty'"):
        load_space("thirfty")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ops": {"down": ["max_pol"], "up": ["up_sample"], "normal": ["identity"]}}, "did you mean 'max_pool'"),
        ({"ops": {"down": ["up_sample"], "up": ["up_sample"], "normal": ["identity"]}}, "'up_sample' is no down op"),
        ({"ops": {"down": ["max_pool"], "up": ["up_sample"], "normal": ["none"]}}, "only 'none'"),
        ({"ops": {"down": ["max_pool", "max_pool"], "up": ["up_sample"], "normal": ["identity"]}}, "twice"),
        ({"fixed": {"input_conv": "conv_9"}}, "'fixed.input_conv' is 'conv_9': allowed is 'conv_1', 'conv_3' or 'sep_3'"),
        ({"fixed": {"stem_kernel": 4}}, "'fixed.stem_kernel' is 4: allowed is 1, 3, 5 or 7"),
        ({"node": 3}, "unknown key 'node'; did you mean 'nodes'"),
        ({"nodes": "two"}, "'nodes' is 'two'"),
        ({"schema": 2}, "schema"),
        ({"path": [0]}, "4 levels have 2"),
        ({"path": "serched"}, "'path' is 'serched': give searched, plain or full"),
        ({"widths": {"smallest": 9, "largest": 3}}, "widths.smallest is 9, above widths.largest"),
        ({"ops": {"down": [], "up": ["up_sample"], "normal": ["identity"]}}, "'ops.down' is"),
    ],
)
def test_mistakes_of_a_space_are_named_with_the_file(tmp_path: Path, changes: dict, words: str) -> None:
    with pytest.raises(ThriftyError, match=words) as caught:
        load_space(write(tmp_path, **changes))
    assert "space.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_mistake_of_a_space_is_told_at_once(tmp_path: Path) -> None:
    wrong = {"down": ["max_pol", "up_sample"], "up": ["up_sampl", "up_sampl"], "normal": ["identty", "none"]}
    fixed = {"stem_kernel": 4, "input_conv": "conv_11", "row_factors": [1, 0]}
    widths = {"smallest": 9, "largest": 3}
    with pytest.raises(ThriftyError) as caught:
        load_space(write(tmp_path, ops=wrong, fixed=fixed, widths=widths, path=[0], node=3, about=None))
    message = str(caught.value)
    assert "\n" not in message and "10 mistakes: " in message
    for words in (
        "'max_pol' is no down op; did you mean 'max_pool'?",
        "'up_sample' is no down op",
        "'up_sampl' is no up op; did you mean 'up_sample'?",
        "an op is named twice",
        "'identty' is no normal op; did you mean 'identity'?",
        "'fixed.stem_kernel' is 4",
        "'fixed.input_conv' is 'conv_11': allowed is 'conv_1', 'conv_3' or 'sep_3'; did you mean 'conv_1'?",
        "'fixed.row_factors.1' is 0",
        "widths.smallest is 9, above widths.largest",
        "4 levels have 2 to decide on",
        "unknown key 'node'; did you mean 'nodes'?",
        "'about' is None",
    ):
        assert words in message, words


def test_every_own_op_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, ops={"down": ["no_module:A"], "up": ["no_module:B"], "normal": ["identity"]})
    with pytest.raises(ThriftyError, match=r"space.yaml: .*'no_module:A' cannot be imported.*'no_module:B' cannot be imported"):
        load_space(path, allow_code=True)


def test_own_op_runs_only_when_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from thrifty.nets.derived import DerivedNetwork

    (tmp_path / "own_ops.py").write_text(OWN_OP)
    monkeypatch.syspath_prepend(str(tmp_path))
    name = "own_ops:Half"
    path = write(tmp_path, ops={"down": [name], "up": [name], "normal": [name]})
    with pytest.raises(ThriftyError, match="allow_code: true"):
        load_space(path)
    space = load_space(path, allow_code=True)
    genotype = random_genotype(space, 4, 3, 1, 2, np.random.default_rng(0))
    network = DerivedNetwork(genotype)
    assert count(genotype) == sum(p.numel() for p in network.parameters())
    assert network(torch.zeros(1, 1, 16, 16)).shape == (1, 2, 16, 16)


@pytest.mark.parametrize("missing", ["no_such_module:Op", "math:Op", "math:pi"])
def test_own_op_that_is_none_is_refused(tmp_path: Path, missing: str) -> None:
    path = write(tmp_path, ops={"down": [missing], "up": ["up_sample"], "normal": ["identity"]})
    with pytest.raises(ThriftyError, match=missing):
        load_space(path, allow_code=True)


def test_random_genotypes_keep_to_the_range_and_are_varied() -> None:
    space, rng = load_space("thrifty"), np.random.default_rng(0)
    found = [random_genotype(space, 16, 4, 1, 2, rng, 20_000, 24_000) for _ in range(20)]
    assert all(20_000 <= count(g) <= 24_000 for g in found)
    assert len(set(found)) == 20
    with pytest.raises(ThriftyError, match="no network"):
        random_genotype(load_space("tiny"), 4, 3, 1, 2, rng, 10**6)


def test_a_run_keeps_its_space_and_refuses_a_changed_one(tmp_path: Path) -> None:
    study = Study.model_validate({"name": "s", "budgets": [3000], "space": write(tmp_path)})
    run = open_run(tmp_path / "run", study)
    before = pin_space(study, run)
    assert pin_space(study, run) == before == run_space(study, run) == load_space("tiny")
    write(tmp_path, nodes=3)
    assert run_space(study, run) == before
    with pytest.raises(ThriftyError, match=r"space\.yaml' has changed since .* began"):
        pin_space(study, run)


@pytest.mark.parametrize("name", sorted(shipped("search_spaces")))
def test_every_shipped_space_survives_the_run_folder(tmp_path: Path, name: str) -> None:
    study = Study.model_validate({"name": "s", "budgets": [3000], "space": name})
    run = open_run(tmp_path / "run", study)
    assert pin_space(study, run) == pin_space(study, run) == load_space(name)
