"""The data of a run is prepared once and opened by every trial."""

import json
from pathlib import Path

import pytest

from thrifty.config import Data, Phantoms, Study
from thrifty.data.prepare import open_prepared, prepare
from thrifty.errors import ThriftyError
from thrifty.results import Run

SMALL = Phantoms(cases=8, patients=8, size=16)


def study(**data) -> Study:
    return Study(name="x", budgets=(1000,), data=Data(**{"phantoms": SMALL, **data}))


def test_prepared_once(tmp_path: Path) -> None:
    run = Run(tmp_path)
    first = prepare(study(), run)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    second, opened = prepare(study(), run), open_prepared(run)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times
    assert first.splits == second.splits == opened.splits
    assert first.store.fingerprint == opened.store.fingerprint == first.splits.fingerprint


def test_a_users_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {part: [f"phantom_00{k}_00"] for k, part in enumerate(("weights", "architecture", "selection", "test"))}
    (tmp_path / "own.json").write_text(json.dumps(own))
    monkeypatch.setenv("THRIFTY_DATA", str(tmp_path))
    prepared = prepare(study(splits="own.json"), Run(tmp_path / "run"))
    assert prepared.splits.test == ("phantom_003_00",)
    assert json.loads((tmp_path / "run" / "splits.json").read_text())["fingerprint"] == prepared.store.fingerprint


def test_a_users_bad_splits_leave_no_splits_json(tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text("{}")
    with pytest.raises(ThriftyError, match="'weights' is missing"):
        prepare(study(splits=str(tmp_path / "own.json")), Run(tmp_path / "run"))
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["data"]


def test_splits_of_other_data_are_refused(tmp_path: Path) -> None:
    prepare(study(), Run(tmp_path))
    content = json.loads((tmp_path / "splits.json").read_text())
    (tmp_path / "splits.json").write_text(json.dumps({**content, "fingerprint": "other"}))
    with pytest.raises(ThriftyError, match="made for other data"):
        open_prepared(Run(tmp_path))


def test_not_prepared_yet(tmp_path: Path) -> None:
    with pytest.raises(ThriftyError, match="has no data yet"):
        open_prepared(Run(tmp_path))
