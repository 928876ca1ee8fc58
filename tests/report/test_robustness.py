"""The sections on robustness show the user's names as they are; how to repeat the study names what they need."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.small_report import LABELS, NASTY, full_run, robustness
from tests.report.test_page import Shown, html_of
from thrifty.report.facts import gather
from thrifty.report.markdown import _networks
from thrifty.report.repeat import repeat_section
from thrifty.report.robustness import robustness_section


@pytest.mark.parametrize("missing", [[], [NASTY]])
def test_names_are_no_markup(missing: list[str]) -> None:
    found = robustness()
    found["nnunet"]["missing"] = missing
    text = "\n\n".join(robustness_section(found, []))
    shown = Shown(html_of(text))
    assert not {"script", "img", "em", "strong", "del"} & {tag for tag, _ in shown.tags}
    cells, paragraphs = shown.of("td") + shown.of("th"), " ".join(shown.of("p"))
    assert cells.count(NASTY) >= 3 and "__b__" in cells and f"__b__, {NASTY}" in cells and LABELS[1] in cells
    assert shown.of("h3").count(f"By {NASTY}") == 1 and f"{NASTY} above __b__ by 10.00 points" in "".join(shown.cells)
    assert f"cases of {NASTY} (3 patients)" in paragraphs and f"{LABELS[1]}: small up to 3" in paragraphs
    assert (f"{NASTY} lacks 1 of the 3 test cases ({NASTY})" if missing else f"Taken in from {NASTY}, not") in paragraphs


def test_dice_of_nnunet_stands_below_the_class_of_the_user(tmp_path: Path) -> None:
    study, run, _ = full_run(tmp_path)
    assert "\n".join(_networks(gather(study, run), [])).count("0.6125") == 2


def test_what_evaluate_needs_is_told(tmp_path: Path) -> None:
    study, run, _ = full_run(tmp_path)
    before = "\n".join(repeat_section(gather(study, run)))
    assert "evaluate." not in before
    evaluate = study.evaluate.model_copy(update={"transfer": "Second set", "nnunet": "n.json", "surface_tolerance": 1.0})
    text = "\n".join(repeat_section(gather(study.model_copy(update={"evaluate": evaluate}), run)))
    assert "the second data set Second set there too" in text and "results of nnU-Net n.json" in text
    changed = """evaluate.surface_tolerance=1.0 'evaluate.transfer="Second set"' 'evaluate.nnunet="n.json"'"""
    assert f"thrifty evaluate small.yaml {changed}" in text and "export THRIFTY_DATA" in text
