"""The whole way from a YAML file to report.md on a real Ray, through the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from thrifty.cli import main
from thrifty.config import results_folder
from thrifty.results import Run, read_json
from thrifty.space.cost import count
from thrifty.space.genotype import load

BUDGET = 3000
STUDY = {
    "name": "pipeline",
    "space": "tiny",
    "budgets": [BUDGET],
    "seeds": 1,
    "data": {"patch": 32, "phantoms": {"cases": 8, "patients": 8, "size": 32}},
    "search": {"epochs": 2, "steps": 1, "warmup": 1, "batch": 2},
    "select": {"samples": 1, "recalibrate": 1, "finalists": 2},
    "retrain": {"epochs": 2, "steps": 1, "batch": 2, "seeds": 1, "random": 1, "baselines": ["scaled_unet"]},
}
NAMES = [f"found_{BUDGET}", f"random_{BUDGET}_0", f"scaled_unet_{BUDGET}"]
STAGES = {"search": 1, "retrain": 3, "evaluate": 3}


def thrifty(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code in (0, None)


def trials_of(run: Run, stage: str) -> list[dict]:
    return read_json(run.root / stage / "trials.json")["trials"]


def by_score(finalists: list[dict]) -> list[dict]:
    """In the order in which they are trained."""
    return sorted(finalists, key=lambda row: (-row["score"], row["parameters"], row["hash"]))


def outcomes(run: Run) -> dict[Path, int]:
    """When what must not be made again was written."""
    paths = [path for name in ("result.json", "weights.safetensors", "genotype*.json") for path in run.root.rglob(name)]
    return {path: path.stat().st_mtime_ns for path in paths}


@pytest.mark.usefixtures("ray_local")
def test_from_yaml_to_report_and_once_more(tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text(yaml.safe_dump(STUDY))
    thrifty("run", str(file))
    run = Run(results_folder("pipeline"))
    assert run.root.parent == results
    for stage, number in STAGES.items():
        rows = trials_of(run, stage)
        assert [(row["status"], row["attempts"]) for row in rows] == [("done", 1)] * number, "Ray ran each once"
    assert count(load(run.genotype(BUDGET))) <= BUDGET
    summary = read_json(run.summary)
    assert [network["name"] for network in summary["networks"]] == NAMES and summary["missing"] == []
    finalists = read_json(run.pareto)["finalists"][str(BUDGET)]
    assert [row["name"] for row in trials_of(run, "select")] == [f"short/{row['hash']}/seed_0" for row in by_score(finalists)]
    assert {stage: spent["trials"] for stage, spent in summary["cost"].items()} == STAGES | {"select": 1 + len(finalists)}
    report = run.report.read_text(encoding="utf-8")
    assert "# pipeline: report" in report and all(f"| {name} |" in report for name in NAMES)
    assert (run.report.parent / "selection.svg").is_file() and (run.report.parent / f"cases_{NAMES[0]}.png").is_file()
    assert "report: " in capsys.readouterr().out

    before = outcomes(run)
    assert len(before) >= 12
    thrifty("run", str(file))
    assert outcomes(run) == before
    assert all(row["attempts"] == 1 for stage in STAGES for row in trials_of(run, stage))
    assert run.report.read_text(encoding="utf-8") == report
