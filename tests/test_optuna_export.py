"""The exported studies, read back with nothing but Optuna."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from small_selection import score_here, searched_by_hand

from thrifty import optuna_export, selection
from thrifty.cli import main
from thrifty.config import Study
from thrifty.errors import USER_ERROR, ThriftyError
from thrifty.optuna_export import export
from thrifty.results import Run, read_jsonl
from thrifty.space.genotype import from_json, genotype_hash


@pytest.fixture(scope="module")
def selected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Run, list[optuna.Study]]:
    """A finished selection, and its studies as they were in memory."""
    made: list[optuna.Study] = []
    create = optuna.create_study
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optuna, "create_study", lambda **keys: made.append(create(**keys)) or made[-1])
        patch.setattr("thrifty.trials.map_batches", score_here)
        study, run = searched_by_hand(tmp_path_factory.mktemp("selected"))
        selection.run_stage(study, run)
    return study, run, made


def read_back(target: str) -> optuna.storages.BaseStorage:
    if "://" in target:
        return optuna.storages.RDBStorage(target)
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(target))


TARGETS: list[Callable[[Path], str]] = [lambda path: str(path / "new" / "study.log"), lambda path: f"sqlite:///{path}/study.db"]


@pytest.mark.parametrize("place", TARGETS, ids=["journal", "sqlite"])
def test_a_storage_gives_back_what_was_in_memory(selected: Any, tmp_path: Path, place: Callable[[Path], str]) -> None:
    study, run, made = selected
    target = place(tmp_path)
    names = export(run, study.name, target)
    assert len(names) == len(made) > 0 and all(name.startswith("small/") for name in names)
    storage = read_back(target)
    assert sorted(optuna.get_all_study_names(storage)) == sorted(names)
    rows = {row["labelled"]: row for row in read_jsonl(run.evaluations)}
    for opt in made:
        (found,) = [s for s in (optuna.load_study(study_name=n, storage=storage) for n in names) if same(s, opt)]
        assert found.directions == opt.directions and found.metric_names == ["score", "parameters"]
        assert [t.number for t in found.best_trials] == [t.number for t in opt.best_trials] != []
        for trial, original in zip(found.trials, opt.trials, strict=True):
            assert trial.state == original.state == optuna.trial.TrialState.COMPLETE
            assert trial.params == original.params and trial.distributions == original.distributions
            assert trial.constraints == original.constraints == trial.user_attrs["constraints"] != {}
            row = rows[trial.user_attrs["labelled"]]
            assert trial.values == original.values == [row["score"], row["parameters"]]
            assert trial.user_attrs["hash"] == row["hash"] == genotype_hash(from_json(row["genotype"]))
            assert trial.user_attrs["origin"] == row["origin"] and trial.user_attrs["by_supernet"] == row["by_supernet"]
    assert not list(tmp_path.rglob("*.part"))


def same(one: optuna.Study, other: optuna.Study) -> bool:
    return [(t.params, t.values, t.constraints) for t in one.trials] == [
        (t.params, t.values, t.constraints) for t in other.trials
    ]


def test_nothing_is_overwritten_and_nothing_half_written(selected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, run, _ = selected
    taken = tmp_path / "taken.log"
    taken.write_text("mine")
    with pytest.raises(ThriftyError, match="exists; give the path of a new journal file"):
        export(run, study.name, str(taken))
    assert taken.read_text() == "mine"
    url = f"sqlite:///{tmp_path}/study.db"
    export(run, study.name, url)
    with pytest.raises(ThriftyError, match=r"has the study small/.* already; give another storage"):
        export(run, study.name, url)
    before = {s.study_name: s.n_trials for s in optuna.get_all_study_summaries(url)}

    make = optuna_export._trial
    for target in (url, str(tmp_path / "cut.log")):
        left = iter(range(9))  # trials until the power goes

        def stop(row: Any, left: Any = left) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return make(row)

        monkeypatch.setattr(optuna_export, "_trial", stop)
        with pytest.raises(KeyboardInterrupt):
            export(run, "other", target)
    assert {s.study_name: s.n_trials for s in optuna.get_all_study_summaries(url)} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.db", "taken.log"]


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("nonsense://x", "nonsense://x cannot be opened as an Optuna storage"),
        ("sqlite:////nowhere/at/all/x.db", "cannot be opened as an Optuna storage"),
        (
            "postgresql+psycopg://me:secret@localhost/db",
            r"postgresql\+psycopg://localhost/db cannot be opened.*install its driver",
        ),
    ],
)
def test_a_storage_that_cannot_be_opened_is_one_line(selected: Any, target: str, text: str) -> None:
    study, run, _ = selected
    with pytest.raises(ThriftyError, match=text) as caught:
        export(run, study.name, target)
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_a_run_without_studies_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ThriftyError, match=r"keeps no studies of Optuna.*run `thrifty select` again, nothing is scored twice"):
        export(Run(tmp_path), "small", str(tmp_path / "x.log"))


def test_the_verb_exports_what_is_selected(
    selected: Any, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a selection that is finished nothing else is done; a second export into the same file is refused."""
    study, run, made = selected
    shutil.copytree(run.root, results / study.name)
    target = tmp_path / "studies.log"
    for code in (0, USER_ERROR):
        with pytest.raises(SystemExit) as ended:
            main(["select", str(run.study), "--export-optuna", str(target)])
        assert (ended.value.code or 0) == code
    told = capsys.readouterr()
    assert "Optuna's studies small/" in told.out and told.err.startswith(f"error: {target} exists") and told.err.count("\n") == 1
    assert len(optuna.get_all_study_names(read_back(str(target)))) == len(made)
