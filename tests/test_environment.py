"""env.json and doctor: what a machine has, nothing about who owns it."""

from __future__ import annotations

import getpass
import json
import platform
from importlib import metadata
from pathlib import Path

import pytest

from thrifty import environment
from thrifty.doctor import examine
from thrifty.results import Run, read_json


def test_environment_has_versions_and_machine_but_no_names(tmp_path: Path) -> None:
    run = Run(tmp_path)
    environment.write_environment(run)
    found = read_json(run.environment)
    assert found["versions"]["ray"] == metadata.version("ray") and found["versions"]["python"] == platform.python_version()
    assert found["cores"] >= 1 and found["memory_gib"] > 0 and isinstance(found["gpus"], list)
    text = json.dumps(found).lower()
    assert platform.node().lower() not in text and getpass.getuser().lower() not in text.replace('"', " ").split()


def test_a_run_that_goes_on_elsewhere_keeps_the_former_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)
    environment.write_environment(run)
    first = read_json(run.environment)
    environment.write_environment(run)
    assert read_json(run.environment) == first
    monkeypatch.setattr(environment, "usable_cores", lambda: 96)
    environment.write_environment(run)
    environment.write_environment(run)
    second = read_json(run.environment)
    assert second["cores"] == 96 and second["earlier"] == [first]


def test_doctor_says_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for parts in ("nuclei/images", "nuclei/masks", "other", "Dataset004"):
        (tmp_path / parts).mkdir(parents=True)
    (tmp_path / "Dataset004" / "dataset.json").write_text("{}")
    monkeypatch.setenv("THRIFTY_DATA", str(tmp_path))
    monkeypatch.setenv("THRIFTY_RESULTS", str(tmp_path / "deep" / "results"))
    text = "\n".join(examine())
    assert f"torch {metadata.version('torch')}" in text and f"optuna {metadata.version('optuna')}" in text
    assert f"data: {tmp_path}, data sets: Dataset004, nuclei" in text
    assert f"results: {tmp_path / 'deep' / 'results'}" in text and "GiB free" in text
    assert "cores" in text and "GPUs: " in text


def test_doctor_is_clear_about_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THRIFTY_DATA", str(tmp_path / "absent"))
    assert any(line.endswith("absent, which is no folder") for line in examine())
    monkeypatch.delenv("THRIFTY_DATA")
    assert any("THRIFTY_DATA is not set" in line for line in examine())


@pytest.mark.usefixtures("ray_local")
def test_doctor_tries_ray_where_asked() -> None:
    assert list(examine(try_ray=True))[-1] == "ray works: 2 CPUs and 0 GPUs"
