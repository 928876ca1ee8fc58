"""Trackers: what they are told and what not, one that is away or hangs, MLflow on a real SQLite store, wandb by a stand-in."""

from __future__ import annotations

import importlib.util
import io
import socket
import sys
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from thrifty import copies, trials_trackers
from thrifty.config import Resources
from thrifty.console import Board
from thrifty.errors import ThriftyError
from thrifty.manifest import Manifest
from thrifty.results import Run, Trial, write_json
from thrifty.trials_limits import Limits
from thrifty.trials_trackers import MAKERS, SILENT, check_trackers, trackers_of
from thrifty.trials_watch import Watch

SECRET = "s3://key:hidden@bucket/images"
ARGUMENTS: dict[str, dict[str, Any]] = {
    "b3000_s0": {"run": "/home/someone/results", "setting": {"budget": 3000, "width": 8}, "seed": 0, "device": "cuda", "cpus": 2},
    "unet/seed_1": {"run": SECRET, "network": "unet", "seed": 1, "fold": None, "cpus": 2},
}
TOLD = {
    "b3000_s0": {"study": "study", "stage": "search", "trial": "b3000_s0", "seed": 0, "cpus": 2, "budget": 3000, "width": 8},
    "unet/seed_1": {"study": "study", "stage": "search", "trial": "unet/seed_1", "network": "unet", "seed": 1, "cpus": 2},
}
Heard = list[tuple[Any, ...]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    root = tmp_path / "study"
    root.mkdir()
    return Run(root)


def study(run: Run, said: list[str], *names: Any) -> None:
    """Two trials of three epochs, the first with an attempt that died after two; the second one is stopped before its end."""
    with trackers_of(run, "search", ARGUMENTS, Resources(trackers=names), said.append) as trackers:
        for name, epochs in (("b3000_s0", [0, 1]), ("unet/seed_1", [0, 1, 2]), ("b3000_s0", [2])):
            trackers.start(name)
            for epoch in epochs:
                by_tune = {"hostname": socket.gethostname(), "node_ip": "10.0.0.1", "config": {"item": SECRET}, "pid": 7}
                trackers.result(name, {"epoch": epoch, "dice": epoch / 4, "guard": "back", **by_tune})
        trackers.end("b3000_s0", failed=False)


class Fake:
    """A callback of Ray's that writes down what it hears."""

    def __init__(self, heard: Heard, fails_at: str | None = None, hang: threading.Event | None = None) -> None:
        self.heard, self.fails_at, self.hang = heard, fails_at, hang

    def __getattr__(self, event: str) -> Any:
        def hear(*arguments: Any) -> None:
            if event == self.fails_at:
                raise ConnectionError("no route\nto https://me:hidden@server")
            if self.hang:
                self.hang.wait(20)
            self.heard.append((event, *arguments))

        return hear


def test_trackers_hear_names_settings_and_numbers_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: Heard = []
    monkeypatch.setitem(MAKERS, "mlflow", lambda run, stage: Fake(heard))
    said: list[str] = []
    study(run, said, "mlflow")
    assert said == [] and [event for event, *_ in heard] == [
        "setup", "log_trial_start", *["log_trial_result"] * 2, "log_trial_start", *["log_trial_result"] * 3,
        "log_trial_start", "log_trial_result", "log_trial_end", "log_trial_end", "on_experiment_end",
    ]  # fmt: skip
    starts = [one[1] for one in heard if one[0] == "log_trial_start"]
    assert starts[0] is starts[2], "a trial that begins again goes on in its run"
    assert {str(trial): trial.config for trial in starts} == TOLD
    results = [one[1:] for one in heard if one[0] == "log_trial_result" and one[2] is starts[0]]
    assert results == [(k + 1, starts[0], {"dice": k / 4, "training_iteration": k + 1}) for k in range(3)]
    assert [one[1:] for one in heard if one[0] == "log_trial_end"] == [(starts[0], False), (starts[1], True)]
    assert "hidden" not in str([(vars(trial), str(trial)) for trial in starts]) and starts[0].local_path == "."


@pytest.mark.usefixtures("ray_local")  # the watch asks for its nodes
def test_they_are_told_by_what_watches_the_trials(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: Heard = []
    monkeypatch.setitem(MAKERS, "wandb", lambda run, stage: Fake(heard))
    resources, trials = Resources(trackers=("wandb",)), {name: Trial(run.search / name) for name in ("a", "b")}
    manifest = Manifest(run, "search", resources)
    for name, trial in trials.items():
        manifest.add(name, trial, {"cpus": 1, "gpus": 0}, 2)
    write_json(trials["a"].result, {"dice": 0.5})
    with trackers_of(run, "search", {"a": {}, "b": {}}, resources, print) as trackers:
        shown = Board("search", {"a": 2, "b": 2}, 0, io.StringIO(), time.monotonic)
        watch = Watch(trials, manifest, Limits(run, resources, manifest), shown, threading.Event(), trackers)
        for name in trials:
            watch.start(name)
            watch.result(name, {"epoch": 0, "dice": 0.25})
            watch.end(name)
    told = [(event, str(arguments[-2 if event != "log_trial_start" else -1])) for event, *arguments in heard[1:-1]]
    steps = ["log_trial_start", "log_trial_result", "log_trial_end"]
    assert told == [(step, name) for name in ("a", "b") for step in steps]
    assert [one[2] for one in heard if one[0] == "log_trial_end"] == [False, True], "b has no result"
    assert shown.best()[0].dice == 0.5, "of the result, not of the epoch"


@pytest.mark.parametrize("event", ["setup", "log_trial_result", "on_experiment_end"])
def test_a_tracker_that_is_away_is_one_warning_and_others_go_on(run: Run, event: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: Heard = []
    monkeypatch.setitem(MAKERS, "mlflow", lambda run, stage: Fake([], fails_at=event))
    monkeypatch.setitem(MAKERS, "wandb", lambda run, stage: Fake(heard))
    said: list[str] = []
    study(run, said, "mlflow", "wandb")
    assert said == ["warning: mlflow takes nothing more of this stage (to https://***@server); the study goes on without it"]
    assert len(heard) == 13


def test_a_tracker_that_hangs_holds_nothing_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    hang = threading.Event()
    monkeypatch.setitem(MAKERS, "mlflow", lambda run, stage: Fake([], hang=hang))
    monkeypatch.setattr(trials_trackers, "CLOSE_SECONDS", 0.1)
    said: list[str] = []
    study(run, said, "mlflow")
    hang.set()
    assert said == ["warning: mlflow has not taken everything within 0.1 seconds; the rest is left out there"]


def test_none_is_the_default_and_one_that_is_not_installed_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    study(run, [])
    check_trackers(Resources(), run)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ThriftyError, match=r"^resources.trackers has wandb, which is not installed: pip install 'thrifty\[wandb\]'"
    ):
        check_trackers(Resources(trackers=("wandb",)), run)


def test_files_in_a_working_copy_are_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    both = Resources(trackers=("mlflow", "wandb"))
    check_trackers(both, run)
    monkeypatch.setattr(copies, "_copies", {})
    copies.attach(run.root, f"file://{run.root.parent}/store/study")
    with pytest.raises(ThriftyError, match=r"has mlflow, .* are at file:.*/store/study; set MLFLOW_TRACKING_URI to a server"):
        check_trackers(both, run)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    with pytest.raises(ThriftyError, match=r"has wandb, .*; unset WANDB_MODE"):
        check_trackers(both, run)
    monkeypatch.delenv("WANDB_MODE")
    check_trackers(both, run)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")  # MLflow of SQLAlchemy 2.1
def test_mlflow_keeps_params_and_curves_in_a_store_of_its_own(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.setattr(trials_trackers, "CLOSE_SECONDS", 300.0)
    monkeypatch.chdir(run.root.parent)
    said: list[str] = []
    study(run, said, "mlflow")
    assert said == []
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{run.root / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("study").experiment_id])
    runs = {one.info.run_name: one for one in found}
    assert {name: one.data.params for name, one in runs.items()} == {
        name: {key: str(value) for key, value in told.items()} for name, told in TOLD.items()
    }
    assert {name: one.info.status for name, one in runs.items()} == {"b3000_s0": "FINISHED", "unet/seed_1": "FAILED"}
    curve = client.get_metric_history(runs["b3000_s0"].info.run_id, "dice")
    assert [(point.step, point.value) for point in curve] == [(1, 0.0), (2, 0.25), (3, 0.5)]
    told = str([one.to_dictionary()["data"] for one in found])
    assert socket.gethostname() not in told and "hidden" not in told and "10.0.0.1" not in told and "/home" not in told
    assert not (run.root.parent / "mlruns").exists()


def test_wandb_is_asked_for_runs_without_machine_and_folder(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """wandb is a stand-in that has the names Ray imports; what Ray's callback would hand to its actors is caught before Ray."""
    fake = ModuleType("wandb")
    fake.__dict__.update(Artifact=object, Audio=object, Image=object, Video=object, ensure_configured=lambda: None)
    fake.__dict__.update(api=SimpleNamespace(api_key="known"))
    modules = {"wandb": fake}
    base = "wandb.sdk.data_types"
    for place, name in ((f"{base}.base_types.wb_value", "WBValue"), (f"{base}.image", "Image"), (f"{base}.video", "Video")):
        modules[place] = ModuleType(place)
        modules[place].__dict__[name] = type(name, (), {})
    for place, name in (("wandb.util", "json_dumps_safer"), ("wandb.wandb_run", "Run")):
        modules[place] = ModuleType(place)
        modules[place].__dict__[name] = str
    for place in ("wandb.sdk", base, f"{base}.base_types"):
        modules[place] = ModuleType(place)
    monkeypatch.setitem(sys.modules, "ray.air.integrations.wandb", ModuleType("so that the test ends without it"))
    del sys.modules["ray.air.integrations.wandb"]
    for place, module in modules.items():
        monkeypatch.setitem(sys.modules, place, module)
    integration = importlib.import_module("ray.air.integrations.wandb")  # the package may still hold an older one

    begun: list[tuple[Any, dict[str, Any]]] = []
    sent: Heard = []

    def start(self: Any, trial: Any, exclude_results: list[str], **init: Any) -> None:
        begun.append((trial, init))
        self._trial_queues[trial] = SimpleNamespace(put=lambda item: sent.append((str(trial), *item)))
        self._trial_logging_actors[trial] = None

    monkeypatch.setattr(integration.WandbLoggerCallback, "_start_logging_actor", start)
    for method in ("_cleanup_logging_actors", "__del__"):
        monkeypatch.setattr(integration.WandbLoggerCallback, method, lambda *a, **k: None)
    said: list[str] = []
    study(run, said, "wandb")
    assert said == []
    _, init = begun[0]
    assert (init["name"], init["project"], init["group"]) == ("b3000_s0", "study", "study search")
    assert init["config"] == TOLD["b3000_s0"] and init["settings"] == SILENT and init["dir"] == str(run.root)
    results = [item[2] for item in sent if item[0] == "b3000_s0" and isinstance(item[2], dict)]
    assert results == [{"dice": k / 4, "training_iteration": k + 1} for k in range(3)]
    assert "hidden" not in str(begun) + str(sent)
