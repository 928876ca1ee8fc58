"""The tutorial as it stands in docs/, on a real Ray: the whole way from a YAML file to report.md, predictions and fine-tuning."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from thrifty.cli import main
from thrifty.config import results_folder
from thrifty.results import Run, read_json
from thrifty.space.cost import count
from thrifty.space.genotype import load

TUTORIAL = Path(__file__).resolve().parent.parent / "docs" / "tutorial.md"
BUDGET = 3000
NAMES = [f"found_{BUDGET}", f"random_{BUDGET}_0", f"scaled_unet_{BUDGET}"]
STAGES = {"search": 1, "retrain": 3, "evaluate": 6}  # each network is measured, and looked at on worse images


@dataclass(frozen=True)
class Done:
    """What a reader of the tutorial has in front of them: the folder that they worked in and what was printed."""

    folder: Path
    printed: str

    def run(self, name: str) -> Run:
        return Run(self.folder / "results" / name)


@pytest.fixture(scope="module")
def tutorial(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """All blocks of the tutorial, one after the other, in an empty folder; the tests of this module stay in it."""
    folder = tmp_path_factory.mktemp("tutorial")
    blocks = re.findall(r"^```(yaml|sh|python)\n(.*?)^```", TUTORIAL.read_text(encoding="utf-8"), flags=re.M | re.S)
    assert [kind for kind, _ in blocks].count("yaml") == 1 and len(blocks) >= 7
    variables: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.chdir(folder)
        patch.delenv("THRIFTY_RESULTS", raising=False)
        for kind, text in blocks:
            if kind == "yaml":
                Path("first.yaml").write_text(text)
            elif kind == "python":
                exec(compile(text, str(TUTORIAL), "exec"), variables)
            else:
                for line in text.splitlines():
                    thrifty(*shlex.split(line.removeprefix("thrifty ")))
        yield Done(folder, out.getvalue())


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


def test_from_yaml_to_report_and_once_more(tutorial: Done) -> None:
    run = tutorial.run("first")
    assert run.root == results_folder("first")
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
    assert "# first: report" in report and all(f"| {name} |" in report for name in NAMES)
    assert (run.report.parent / "selection.svg").is_file() and (run.report.parent / f"cases_{NAMES[0]}.png").is_file()
    assert f"report: {run.report}" in tutorial.printed

    before = outcomes(run)
    assert len(before) >= 12
    thrifty("run", "first.yaml")
    assert outcomes(run) == before
    assert all(row["attempts"] == 1 for stage in STAGES for row in trials_of(run, stage))
    assert run.report.read_text(encoding="utf-8") == report


def test_predictions_of_the_tutorial_are_written(tutorial: Done) -> None:
    assert sorted(path.name for path in (tutorial.folder / "labels").iterdir()) == ["a.png", "b.png", "predictions.json"]
    assert (tutorial.folder / "a_labels.png").is_file()
    assert "2 written, 0 failed: labels" in tutorial.printed


@pytest.mark.faults
def test_fine_tuning_goes_on_ray_beside_the_same_network_from_scratch(tutorial: Done) -> None:
    first, second = tutorial.run("first"), tutorial.run("second")
    assert [network["name"] for network in read_json(second.summary)["networks"]] == ["finetuned", "from_scratch"]
    assert {row["status"] for row in trials_of(second, "retrain")} == {"done"}
    begun = read_json(second.retrain_trial("finetuned", 0).result)["start"]
    trained = read_json(first.retrain_trial(NAMES[0], 0).result)
    assert begun == {"network": NAMES[0], "weights_sha256": trained["weights_sha256"], "fresh": []}
    assert read_json(second.retrain_trial("from_scratch", 0).result)["start"] is None
