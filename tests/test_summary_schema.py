"""docs/summary.schema.json fits real summaries, refuses wrong ones, and is what docs/summary.md says."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.report.small_report import full_run
from tests.summary_table import PAGE, rows, schema, table
from thrifty.results import read_json

KEPT = sorted((Path(__file__).resolve().parent.parent / "tune_runs" / "results").glob("*/summary.json"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return full_run(tmp_path_factory.mktemp("summary"))[2]


def test_kept_summaries_fit() -> None:
    assert len(KEPT) >= 2
    for path in KEPT:
        jsonschema.validate(read_json(path), schema())


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


def test_the_page_is_what_the_schema_says() -> None:
    assert f"\n{table()}\n" in PAGE.read_text(encoding="utf-8"), "python tests/summary_table.py writes it"
    names = [key for key, _, _ in rows(schema())]
    assert len(names) == len(set(names)) > 150 and {"networks[].dice.ci95", "cost.NAME.gpu_hours", "schema"} <= set(names)


def test_every_key_is_described() -> None:
    assert all(len(what) > 3 for _, _, what in rows(schema()))


def test_a_summary_made_by_hand_fits(small: dict[str, Any]) -> None:
    jsonschema.validate(small, schema())


def set_in(*path: str | int, value: Any) -> Callable[[Any], None]:
    def change(summary: Any) -> None:
        for key in path[:-1]:
            summary = summary[key]
        summary[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        set_in("schema", value=2),
        set_in("another", value=1),
        set_in("networks", 0, "another", value=1),
        set_in("networks", 0, "parameters", value="9,000"),
        set_in("networks", 0, "dice", "mean", value=1.5),
        set_in("networks", 0, "dice", "ci95", value=[0.1]),
        set_in("networks", 0, "hd95", "unit", value="cm"),
        set_in("statistics", "luck", 0, "unit", value="hours"),
        set_in("stability", "settings", 0, "agreement", "distance", value=3.0),
        set_in("cost", "search", value={}),
        lambda summary: summary.pop("searches"),
        lambda summary: summary["networks"][0].pop("macs"),
    ],
)
def test_what_does_not_fit_is_refused(small: dict[str, Any], change: Callable[[Any], Any]) -> None:
    wrong = copy.deepcopy(small)
    change(wrong)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema())
