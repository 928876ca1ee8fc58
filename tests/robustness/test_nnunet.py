"""Results of nnU-Net from a summary.json made by hand, as version 2 writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.small_study import small_study
from thrifty.data.cases import Case
from thrifty.data.store import Store
from thrifty.errors import ThriftyError
from thrifty.report.robustness import robustness_section, taken_in_row
from thrifty.robustness.nnunet import Taken, read_nnunet, taken_in

LABELS = ("background", "a", "b")


def store(overlapping: bool = False) -> Store:
    import numpy as np

    none: Any = np.zeros(0)
    return Store((Case("c", "p", None, 1, 1, None),), 1, 3, LABELS, "f", (), {}, none, none, overlapping)


def metrics(truth: int, predicted: int, shared: int, dice: float | None = None) -> dict[str, Any]:
    found = 2 * shared / (truth + predicted) if truth + predicted else float("nan")
    counts = {"FN": truth - shared, "FP": predicted - shared, "TP": shared, "TN": 9, "n_pred": predicted, "n_ref": truth}
    return {"Dice": found if dice is None else dice, "IoU": 0.5, **counts}


def write(path: Path, cases: dict[str, dict[str, Any]], **other: Any) -> Path:
    listed = [
        {"metrics": m, "prediction_file": f"/x/pred/{name}.nii.gz", "reference_file": f"/x/ref/{name}.nii.gz"}
        for name, m in cases.items()
    ]
    path.write_text(json.dumps({"foreground_mean": {"Dice": 0.1}, "mean": {}, "metric_per_case": listed, **other}))
    return path


def read(path: Path, overlapping: bool = False) -> Taken:
    taken = read_nnunet(small_study(evaluate={"nnunet": str(path)}), store(overlapping))
    assert taken is not None
    return taken


def test_dice_by_case_and_class_with_the_policy_for_empty_masks(tmp_path: Path) -> None:
    own = {"Dice": 0.25, "IoU": 0.1}
    path = write(tmp_path / "summary.json", {
        "c1": {"1": metrics(10, 30, 10), "2": metrics(0, 0, 0)},
        "c2": {"1": own, "2": {"Dice": float("nan")}},
        "c3": {"1": metrics(0, 5, 0), "2": metrics(4, 4, 4)},
    })  # fmt: skip
    taken = read(path)
    assert taken.dice == {"c1": {1: 0.5, 2: 1.0}, "c2": {1: 0.25, 2: 1.0}, "c3": {1: 0.0, 2: 1.0}}
    assert read_nnunet(small_study(), store()) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "no metric_per_case"),
        ('{"metric_per_case": []}', "no metric_per_case"),
        ('{"metric_per_case": [{"metrics": {"1": {"Dice": 1}}, "prediction_file": "c"}]}', "is incomplete .*classes 1, 2"),
        ('{"metric_per_case": [{"metrics": {}}]}', "is incomplete"),
        ('{"metric_per_case": [{"metrics": {"1": {"Dice": 7}, "2": {"Dice": 1}}, "prediction_file": "c"}]}', "Dice is 7"),
        ("{", "cannot be read as JSON"),
    ],
)
def test_other_files_are_refused_on_one_line(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(ThriftyError, match=words) as error:
        read(tmp_path / "s.json")
    assert "\n" not in str(error.value)


def test_regions_a_case_twice_and_no_file_are_refused(tmp_path: Path) -> None:
    one = {"1": metrics(1, 1, 1), "2": metrics(1, 1, 1)}
    path = write(tmp_path / "s.json", {"c": one})
    with pytest.raises(ThriftyError, match="regions of nnU-Net cannot be matched"):
        read(path, overlapping=True)
    value = json.loads(path.read_text())
    path.write_text(json.dumps({"metric_per_case": 2 * value["metric_per_case"]}))
    with pytest.raises(ThriftyError, match="two results of the case c"):
        read(path)
    with pytest.raises(ThriftyError, match="no such file"):
        read(tmp_path / "other.json")


def table(unit: str = "case") -> list[dict[str, Any]]:
    """Eight patients with two cases each; a found network over two seeds, which is always at 0.6 +- 0.1, and another."""
    return [
        {"network": network, "seed": seed, "fold": None, unit: f"c{k}", "patient": f"p{k // 2}", "class": index}
        | {"label": LABELS[index], "dice": 0.5 + 0.2 * seed}
        for network in ("found_9", "unet")
        for seed in (0, 1)
        for k in range(16)
        for index in (1, 2)
    ]


DICE = {f"c{k}": {1: 0.4 + 0.01 * k, 2: 0.5} for k in range(16)}


def test_compared_by_patient_where_it_covers_the_test_cases() -> None:
    found = taken_in(Taken("s.json", {**DICE, "further": {1: 0.0, 2: 0.0}}), table(), [])
    mean = (0.4 + 0.01 * 7.5 + 0.5) / 2
    assert (found["unit"], found["cases"], found["patients"], found["missing"]) == ("case", 16, 8, [])
    assert found["dice"]["mean"] == pytest.approx(mean) and found["dice_per_class"] == pytest.approx({"a": 0.475, "b": 0.5})
    (row,) = found["paired"]
    assert (row["found"], row["against"], row["patients"]) == ("found_9", "nnunet", 8)
    assert row["difference"] == pytest.approx(0.6 - mean) and row["ci95"][0] < row["difference"] < row["ci95"][1]
    assert row["p"] == row["p_holm"] == pytest.approx(2 / 2**8)
    columns = ("network", "parameters", "Dice", "95 % interval", "Dice a", "Dice of volumes")
    (cells,) = taken_in_row({"nnunet": found}, columns)
    assert cells[:3] == ["nnU-Net (taken in, not trained here)", "–", f"{mean:.4f}"] and cells[4:] == ["0.4750", "–"]


def test_whole_volumes_are_matched_where_cases_are_slices() -> None:
    slices = [{**row, "case": row["case"] + "_z0", "volume": row["case"]} for row in table()]
    found = taken_in(Taken("s.json", DICE), slices, table("volume"))
    assert (found["unit"], found["volumes"], found["missing"]) == ("volume", 16, [])
    assert found["paired"][0]["patients"] == 8
    (cells,) = taken_in_row({"nnunet": found}, ("Dice", "Dice of volumes"))
    assert cells == ["–", f"{found['dice']['mean']:.4f}"]


def test_missing_cases_are_named_and_nothing_is_compared() -> None:
    few = {name: dice for name, dice in DICE.items() if name not in ("c3", "c5")}
    found = taken_in(Taken("s.json", few), table(), [])
    assert found["missing"] == ["c3", "c5"] and found["dice"] is None and found["paired"] == []
    assert taken_in_row({"nnunet": found}, ("network",)) == [] == taken_in_row(None, ("network",))
    nothing = dict.fromkeys(("transfer", "corruptions", "surfaces", "objects", "calibration"))
    text = "\n".join(robustness_section({"subgroups": [], "worst": {"networks": {}}, "nnunet": found, **nothing}, []))
    assert "s.json lacks 2 of the 16 test cases (c3, c5), so it is not compared." in text
