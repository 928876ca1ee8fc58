"""Which networks are compared, by the statistics and by the report alike."""

from __future__ import annotations

from pathlib import Path

from tests.report.test_stage import whole_run
from thrifty.report import run_stage
from thrifty.report.facts import gather
from thrifty.results import write_json
from thrifty.statistics.blocks import Blocks, compared

SEARCH, RETRAIN = Blocks((0,), {1: "it was stopped"}), Blocks((0,), {1: "unet/seed_1 is not trained yet"})


def test_networks_without_a_seed_and_searches_left_out_are_not_compared() -> None:
    runs = [("found_9", 0), ("found_9", 1), ("unet", 1), ("decoded_b9_w8_d3_e5_s0", 0), ("decoded_b9_w8_d3_e5_s1", 0)]
    assert compared(runs, SEARCH, RETRAIN) == {"found_9", "decoded_b9_w8_d3_e5_s0"}
    assert Blocks.from_json(RETRAIN.as_json()) == RETRAIN


def test_the_report_compares_what_the_statistics_compare(tmp_path: Path) -> None:
    study, run, summary = whole_run(tmp_path)
    names = {network["name"] for network in summary["networks"]}
    assert gather(study, run).compared == names
    write_json(run.summary, summary | {"blocks": {"search": SEARCH.as_json(), "retrain": Blocks((7,), {}).as_json()}})
    assert gather(study, run).compared == frozenset()
    run_stage(study, run)
    assert "is evaluated yet" not in (text := run.report.read_text()) and "has no baseline to be compared with yet" in text
