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

from thrifty import copies, trials_share
from thrifty.config import Study
from thrifty.copies import attach
from thrifty.data.prepare import open_prepared, prepare
from thrifty.networks import planned_networks, write_networks
from thrifty.results import Run, Trial, open_run, read_json, read_jsonl
from thrifty.retrain import retrain_trial
from thrifty.space.genotype import save
from thrifty.space.sample import random_genotype
from thrifty.space.schema import load_space, pin_space
from thrifty.storage import working_copy
from thrifty.trials_share import Share, bring_data, put_data

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


@pytest.mark.usefixtures("ray_local")
def test_the_data_reach_another_folder_by_the_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials_share, "PIECE_BYTES", 1000)
    run, other = begin(tmp_path / "driver" / "run"), Run(tmp_path / "node" / "hash" / "run")
    data = put_data(run.data)
    assert {file.name: len(file.refs) > 1 for file in data} == {"images.bin": True, "index.json": True, "masks.bin": True}
    assert put_data(run.data) is data, "once"
    other.root.mkdir(parents=True)
    bring_data(data, other.data)
    other.splits.write_bytes(run.splits.read_bytes())
    ours, theirs = open_prepared(run).store, open_prepared(other).store
    assert theirs.fingerprint == ours.fingerprint and np.array_equal(theirs.images, ours.images)
    before = (other.data / "images.bin").stat().st_mtime_ns
    bring_data(data, other.data)
    assert (other.data / "images.bin").stat().st_mtime_ns == before, "a machine writes it once"
    (other.data / "index.json").write_text("{}")
    bring_data(data, other.data)
    assert open_prepared(other).store.fingerprint == ours.fingerprint
    assert {path.name for path in other.root.parent.iterdir()} == {"run", "data.lock"}
