"""Trials whose run folder is in an object store: damaged checkpoints, another machine, what a machine is brought."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from object_store import BUCKET, change, cut, flip, names, s3_server
from small_study import BUDGET, small_study
from toy_trials import count_trial

from thrifty import copies, trials, trials_share
from thrifty.config import Resources, Study
from thrifty.copies import attach
from thrifty.data.prepare import open_prepared, prepare
from thrifty.data.store import build_store, open_store
from thrifty.errors import ThriftyError
from thrifty.model import weights_hash
from thrifty.networks import planned_networks, write_networks
from thrifty.results import Run, Trial, open_run, read_json, read_jsonl, write_text
from thrifty.retrain import retrain_trial, trial_specs
from thrifty.space.genotype import save
from thrifty.space.sample import random_genotype
from thrifty.space.schema import load_space, pin_space
from thrifty.storage import working_copy
from thrifty.summary import weights_bytes
from thrifty.trials import Spec, run_trials
from thrifty.trials_share import Share, bring_data, put_data, share_of

STUDY = small_study({"epochs": 5})


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with s3_server():
        yield


@pytest.fixture(autouse=True)
def _no_copies() -> Iterator[None]:
    yield
    copies._copies.clear()


def begin(root: Path, study: Study = STUDY) -> Run:
    """All that a retraining needs."""
    run = open_run(root, study)
    store = prepare(study, run).store
    pin_space(study, run)
    rng = np.random.default_rng(0)
    save(run.genotype(BUDGET), random_genotype(load_space("tiny"), 8, 3, store.channels, store.classes, rng, 2000, BUDGET))
    write_networks(run, planned_networks(study, run, store))
    return run


def train(run: Run, stop_after: int | None = None) -> Trial:
    """The retraining of the found network; `stop_after` an epoch as if its worker had been killed."""
    trial = run.retrain_trial(f"found_{BUDGET}", 0)
    arguments = {
        "run": str(run.root),
        "network": f"found_{BUDGET}",
        "seed": 0,
        "fold": None,
        "device": "cpu",
        "cpus": 1,
        "gpus": 0,
    }

    def report(row: dict[str, Any]) -> None:
        if row["epoch"] == stop_after:
            raise Stopped

    if stop_after is None:
        retrain_trial(arguments, trial, report)
    else:
        with pytest.raises(Stopped):
            retrain_trial(arguments, trial, report)
    return trial


def outcome(trial: Trial) -> tuple[Any, ...]:
    """All of it but times and what is said of setbacks."""
    told = re.compile("seconds|setbacks")
    rows = [{key: value for key, value in row.items() if not told.search(key)} for row in read_jsonl(trial.record)]
    result = {key: value for key, value in read_json(trial.result).items() if not told.search(key)}
    return rows, result, trial.weights.read_bytes(), read_json(trial.model)


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("damage", [cut, flip], ids=["cut", "flipped"])
def test_a_training_goes_on_elsewhere_from_the_checkpoint_before_a_damaged_one_and_ends_bit_for_bit_the_same(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    undisturbed = outcome(train(begin(tmp_path / "plain" / "run")))
    url = f"{BUDGET}_{damage.__name__}/run"
    url = f"{BUCKET}/{url}"
    attach(tmp_path / "first" / "run", url)
    folder = train(begin(tmp_path / "first" / "run"), stop_after=3).folder.relative_to(tmp_path / "first" / "run").as_posix()
    change(f"{url}/{folder}/checkpoint.pt", damage)
    copies._copies.clear()

    attach(tmp_path / "second" / "run", url).sync()
    run = Run(tmp_path / "second" / "run")
    prepare(STUDY, run)
    trial = train(run)
    assert outcome(trial) == undisturbed
    (notes,) = [row["setbacks"] for row in read_jsonl(trial.record) if "setbacks" in row]
    assert len(notes) == 1 and notes[0].startswith("checkpoint.pt is damaged") and notes[0].endswith("goes on after 3 epochs")
    left = {name.removeprefix(folder + "/") for name in names(url) if name.startswith(folder)}
    assert left == {".files.json", "epochs.jsonl", "model.json", "result.json", "weights.safetensors"}, "no checkpoint objects"


@pytest.mark.usefixtures("server")
def test_a_machine_is_brought_what_a_trial_reads_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{BUCKET}/brought/run"
    attach(tmp_path / "driver" / "run", url)
    run = begin(tmp_path / "driver" / "run")
    train(run, stop_after=1)
    copies._copies.clear()
    monkeypatch.setenv("THRIFTY_CACHE", str(tmp_path / "worker"))
    share = Share(url, str(run.root), ())
    here = Run(working_copy(url))
    item = share.moved({"folder": str(run.retrain_trial("a", 0).folder), "arguments": {"run": str(run.root), "network": "a"}})
    assert item == {"folder": str(here.retrain_trial("a", 0).folder), "arguments": {"run": str(here.root), "network": "a"}}
    trial = here.retrain_trial(f"found_{BUDGET}", 0)
    share.bring(trial.folder)
    found = {path.relative_to(here.root).as_posix() for path in here.root.rglob("*") if path.is_file()}
    own = {f"retrain/found_{BUDGET}/seed_0/{name}" for name in ("checkpoint.pt", "checkpoint_before.pt", "epochs.jsonl")}
    assert found == {"run.yaml", "space.yaml", "splits.json", "retrain/networks.json", *own}
    prepare(STUDY, here)
    assert outcome(train(here)) == outcome(train(begin(tmp_path / "plain" / "run")))


def test_the_size_of_weights_that_are_in_the_store_alone(tmp_path: Path) -> None:
    url, key = f"file://{tmp_path}/store/run", ("unet", 0, None)
    first, second = (Run(tmp_path / name / "run") for name in ("first", "second"))
    attach(first.root, url)
    write_text(first.retrain_trial(*key).weights, "12345")
    attach(second.root, url)
    assert weights_bytes(second, [("unet", 1, None), key], "unet") == 5
    assert weights_bytes(second, [key], "unetpp") is None


@pytest.mark.usefixtures("ray_local")
def test_the_data_reach_another_folder_by_the_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials_share, "PIECE_BYTES", 1000)
    run, other = begin(tmp_path / "driver" / "run"), Run(tmp_path / "node" / "hash" / "run")
    data = put_data(run.data)
    assert {file.name: len(file.refs) > 1 for file in data} == {"images.bin": True, "index.json": True, "masks.bin": True}
    assert put_data(run.data) is data, "once"
    other.root.mkdir(parents=True)
    bring_data(data, other.data, other.root.parent)
    other.splits.write_bytes(run.splits.read_bytes())
    ours, theirs = open_prepared(run).store, open_prepared(other).store
    assert theirs.fingerprint == ours.fingerprint and np.array_equal(theirs.images, ours.images)
    before = (other.data / "images.bin").stat().st_mtime_ns
    bring_data(data, other.data, other.root.parent)
    assert (other.data / "images.bin").stat().st_mtime_ns == before, "a machine writes it once"
    (other.data / "index.json").write_text("{}")
    bring_data(data, other.data, other.root.parent)
    assert open_prepared(other).store.fingerprint == ours.fingerprint
    assert {path.name for path in other.root.parent.iterdir()} == {"run", "data.lock"}


@pytest.mark.usefixtures("ray_local")
def test_the_second_data_set_reaches_the_trials_of_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials_share, "has_other_machines", lambda: True)
    monkeypatch.setenv("THRIFTY_CACHE", str(tmp_path / "node"))
    url = f"file://{tmp_path}/store/run"
    copy = attach(tmp_path / "driver" / "run", url)
    run, other = begin(copy.root), Run(working_copy(url))
    data = small_study(data={"patch": 32, "phantoms": {"cases": 10, "patients": 5, "size": 32}}).data
    second = build_store(data, run.transfer_data)
    share = share_of(run.root, transfer=True)
    assert share is not None and share == share_of(run.root, transfer=True), "both are put once"
    only_first = share_of(run.root)
    assert only_first is not None and (only_first.data, only_first.transfer) == (share.data, ())
    share.bring()
    found = open_store(other.transfer_data)
    assert found.fingerprint == second.fingerprint != open_store(other.data).fingerprint
    assert {path.name for path in other.root.parent.iterdir()} == {"run", "data.lock"}


@pytest.fixture
def run_elsewhere(ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A run at a URL whose trials see another THRIFTY_CACHE than this driver, and so nothing of its folder."""
    monkeypatch.setenv("THRIFTY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(trials_share, "has_other_machines", lambda: True)
    url = f"file://{tmp_path}/store/run"
    attach(working_copy(url), url)
    yield Run(working_copy(url))


def test_a_trial_works_in_a_copy_of_its_own_and_the_driver_finds_its_outcome(run_elsewhere: Run, tmp_path: Path) -> None:
    study = small_study({"epochs": 5, "seeds": 1, "random": 0, "baselines": []})
    run = begin(run_elsewhere.root, study)
    run_trials("retrain", retrain_trial, trial_specs(study, run), study.resources, run)
    trial = run.retrain_trial(f"found_{BUDGET}", 0)
    assert trial.done and len(read_jsonl(trial.record)) == 5
    assert not trial.weights.exists() and not trial.checkpoint.exists(), "nothing heavy comes here before it is needed"
    assert weights_hash(trial) == read_json(trial.result)["weights_sha256"] and trial.weights.is_file()
    assert {row["status"] for row in read_json(run.retrain / "trials.json")["trials"]} == {"done"}
    stored = {
        path.relative_to(tmp_path / "store" / "run").as_posix() for path in (tmp_path / "store").rglob("*") if path.is_file()
    }
    assert not [name for name in stored if name.endswith(".pt") or ".tune" in name or name.startswith("data")]
    plain = Run(tmp_path / "plain" / "run")
    begin(plain.root, study)
    assert outcome(train(plain))[2:] == outcome(trial)[2:]


def test_exceptions_are_counted_and_their_reasons_found_across_machines(
    run_elsewhere: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "EXCEPTIONS", 1)
    arguments = {"run": str(run_elsewhere.root), "seed": 3, "epochs": 4, "raise_at": 2}
    spec = Spec("raises", Trial(run_elsewhere.root / "search" / "raises"), arguments, 4)
    with pytest.raises(ThriftyError, match=r"^1 of 1 trials of search failed: raises: the loss is not a number;"):
        run_trials("search", count_trial, [spec], Resources(max_failures=-1), run_elsewhere)
    assert [row["attempts"] for row in read_json(run_elsewhere.search / "trials.json")["trials"]] == [2]
    assert "ValueError" in spec.trial.error.read_text()
