"""The record of the selection: exact whatever is killed; and what a worker keeps between two candidates."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_selection import score_and_die_once, score_here, searched_by_hand

from thrifty import scoring, selection
from thrifty.config import Resources, Study
from thrifty.errors import ThriftyError
from thrifty.evaluations import Candidate, Record, labelled_key
from thrifty.manifest import only_driver
from thrifty.nets.derived import DerivedNetwork
from thrifty.nets.supernet import Supernet
from thrifty.results import Run, append_jsonl, drop_torn_line, read_json, read_jsonl
from thrifty.space.genotype import from_json
from thrifty.trials import map_batches, parts_of


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path, list[dict[str, Any]]]:
    """The study, a run folder with its searches, and the rows of an undisturbed selection elsewhere."""
    study, run = searched_by_hand(tmp_path_factory.mktemp("made"))
    undisturbed = Run(shutil.copytree(run.root, tmp_path_factory.mktemp("undisturbed") / "run"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("thrifty.trials.map_batches", score_here)
        selection.run_stage(study, undisturbed)
    return study, run.root, rows_of(undisturbed)


@pytest.fixture
def run(made: tuple[Study, Path, list[dict[str, Any]]], tmp_path: Path) -> Run:
    return Run(shutil.copytree(made[1], tmp_path / "run"))


def rows_of(run: Run) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_jsonl(run.evaluations)]


# -- the file ---------------------------------------------------------------------------------------------------------------


def test_appended_lines_add_up(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "rows.jsonl"
    append_jsonl(path, [{"a": 1}, {"a": 2}])
    append_jsonl(path, [])
    append_jsonl(path, [{"a": 3}])
    assert [row["a"] for row in read_jsonl(path)] == [1, 2, 3]


@pytest.mark.parametrize("torn", [b'{"a": 4', b'{"a": 4}', b"{", b"\xc3"])
def test_a_torn_line_is_dropped_and_nothing_else(tmp_path: Path, torn: bytes) -> None:
    """Also one that only lacks its end: it was never told of."""
    path = tmp_path / "rows.jsonl"
    append_jsonl(path, [{"a": 1}, {"a": "é"}])
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    drop_torn_line(path)
    assert path.read_bytes() == whole
    path.write_bytes(torn)
    drop_torn_line(path)
    assert path.read_bytes() == b""
    drop_torn_line(tmp_path / "absent")


def test_a_record_cut_anywhere_goes_on_to_the_same_end(made: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the power had failed within the fourth line."""
    study, _, undisturbed = made
    monkeypatch.setattr("thrifty.trials.map_batches", score_here)
    selection.run_stage(study, run)
    content, choice = run.evaluations.read_bytes(), run.genotype(3000).read_bytes()
    ends = [k for k, byte in enumerate(content) if byte == ord("\n")]
    run.evaluations.write_bytes(content[: ends[2] + 40])
    run.pareto.unlink()
    selection.run_stage(study, run)
    assert rows_of(run) == undisturbed and run.genotype(3000).read_bytes() == choice


def test_the_record_knows_labelled_forms(made: Any, run: Run) -> None:
    row = made[2][0]
    asked = Candidate(row["group"], 0, tuple(row["by_supernet"]), {}, from_json(row["genotype"]))
    record = Record(run)
    assert record.find(asked) is None
    record.add([row])
    assert record.find(asked) == row == Record(run).find(asked)
    assert row["labelled"] == labelled_key(asked.genotype)


def test_a_search_that_was_added_scores_what_the_others_have_scored(made: Any, run: Run) -> None:
    """Scores of different supernets cannot be compared: a row counts for those that it holds, and the last one is the one."""
    row = made[2][0]
    record = Record(run)
    record.add([row])
    more = Candidate(row["group"], 0, (*row["by_supernet"], "added"), {}, from_json(row["genotype"]))
    assert record.find(more) is None
    again = row | {"by_supernet": {**row["by_supernet"], "added": 0.5}, "score": 0.5}
    record.add([again])
    assert record.rows == [again] == Record(run).rows and record.find(more) == again


# -- kill -9 ----------------------------------------------------------------------------------------------------------------


DRIVER = """
import sys
from pathlib import Path
from small_selection import score_slowly
import thrifty.trials
from thrifty import selection
from thrifty.results import read_run
thrifty.trials.map_batches = score_slowly
study, run = read_run(Path(sys.argv[1]))
selection.run_stage(study, run)
"""


def test_a_killed_driver_leaves_a_record_that_is_taken_up(made: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL to the driver between two batches; while it runs a second one is refused."""
    study, _, undisturbed = made
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(run.root)], env={**os.environ, "PYTHONPATH": paths})
    limit = time.monotonic() + 120
    while len(read_lines(run)) < 4:
        assert driver.poll() is None and time.monotonic() < limit
        time.sleep(0.02)
    with pytest.raises(ThriftyError, match="in use by process"), only_driver(run):
        pass
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    before = rows_of(run)
    assert 4 <= len(before) < len(undisturbed) and before == undisturbed[: len(before)] and not run.pareto.exists()
    scored: list[str] = []

    def here(function: Any, items: Any, resources: Any) -> list[Any]:
        scored.extend(labelled_key(from_json(item["genotype"])) for item in items)
        return score_here(function, items, resources)

    monkeypatch.setattr("thrifty.trials.map_batches", here)
    selection.run_stage(study, run)
    assert rows_of(run) == undisturbed
    assert scored == [row["labelled"] for row in undisturbed[len(before) :]], "nothing is scored twice"
    assert read_json(run.pareto)["evaluated"] == len(undisturbed)


def read_lines(run: Run) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return run.evaluations.read_text().splitlines()
    return []


@pytest.mark.usefixtures("ray_local")
def test_a_killed_workers_candidates_are_scored_again(made: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL to a worker of Ray at its third candidate: the record is that of an undisturbed selection."""
    study, _, undisturbed = made
    monkeypatch.setattr(scoring, "score", score_and_die_once)
    selection.run_stage(study.model_copy(update={"resources": Resources(concurrent=1, device="cpu")}), run)
    assert rows_of(run) == undisturbed
    assert (run.root / "scored").stat().st_size > len(undisturbed), "one of them was begun twice"


# -- what is shared -----------------------------------------------------------------------------------------------------------


def test_a_further_candidate_reads_nothing_and_builds_nothing(made: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = made[2]
    items = [{"run": str(run.root), "trials": list(rows[0]["by_supernet"]), "cpus": 1, "device": "cpu"} for _ in rows]
    items = [{**item, "genotype": row["genotype"]} for item, row in zip(items, rows, strict=True)]
    first = scoring.score(items[0])

    def refuse(*arguments: Any, **keys: Any) -> None:
        raise AssertionError("read or built again")

    for name in ("read_run", "open_prepared", "load_supernet", "training_normalisation", "image_batches"):
        monkeypatch.setattr(scoring, name, refuse)
    for network in (Supernet, DerivedNetwork):
        monkeypatch.setattr(network, "__init__", refuse)
    shutil.rmtree(run.search)
    found = [scoring.score(item).dice for item in items]
    assert found[0] == first.dice
    assert [list(row["by_supernet"].values()) for row in rows] == [list(dice) for dice in found]


def test_cases_too_large_to_keep_are_read_each_time_and_score_the_same(
    made: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = made[2][0]
    monkeypatch.setattr(scoring, "KEPT_BYTES", 1000)
    cases = scoring.open_cases(str(run.root), torch.device("cpu"))
    assert not cases.kept
    item = {"run": str(run.root), "trials": list(row["by_supernet"]), "genotype": row["genotype"], "cpus": 1, "device": "cpu"}
    assert list(scoring.score(item).dice) == list(row["by_supernet"].values())


@pytest.mark.parametrize(("items", "number", "lengths"), [(8, 4, [2] * 4), (5, 4, [1, 1, 1, 2]), (3, 4, [1] * 3), (0, 4, [])])
def test_parts_are_even_and_in_order(items: int, number: int, lengths: list[int]) -> None:
    parts = parts_of(list(range(items)), number)
    assert [len(part) for part in parts] == lengths
    assert [item for part in parts for item in part] == list(range(items))


def process_of(item: dict[str, Any]) -> int:
    time.sleep(0.05)
    return os.getpid()


@pytest.mark.usefixtures("ray_local")
def test_workers_are_kept_from_one_batch_to_the_next() -> None:
    """So that a supernet is loaded once."""
    resources = Resources(concurrent=1)
    seen = {pid for _ in range(3) for pid in map_batches(process_of, [{}] * 4, resources)}
    assert len(seen) <= 2, "one for each of the two CPUs"
