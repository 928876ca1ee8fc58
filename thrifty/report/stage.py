"""The stage: reads the run folder, draws the pictures, then writes report.md and the page."""

from __future__ import annotations

from thrifty.config import Study
from thrifty.report import pictures
from thrifty.report.facts import gather
from thrifty.report.markdown import report_text
from thrifty.report.page import page
from thrifty.report.robustness import robustness_pictures
from thrifty.report.verdict import compare
from thrifty.results import Run, write_text


def run_stage(study: Study, run: Run) -> None:
    """Writes report/report.md, its pictures and index.html anew from what the run folder holds; works after any stage.

    Raises:
        ThriftyError: a file of the run is not what its stage writes, or the report cannot be written.
    """
    facts = gather(study, run)
    folder = run.report.parent
    drawn = {
        "pareto": pictures.pareto(facts, folder),
        "searches": pictures.searches(facts, folder),
        "selection": pictures.selection(facts, folder),
        "genotypes": pictures.genotypes(facts, folder),
        "cases": pictures.cases(facts, folder),
        "robustness": robustness_pictures((facts.summary or {}).get("robustness"), folder),
    }
    compared = [network for network in facts.networks if network["name"] in facts.compared]
    text = report_text(facts, compare(compared, facts.scores), drawn)
    whole = page(text, [name for found in drawn.values() for name, _ in found], folder)
    write_text(run.report, text)
    write_text(run.page, whole)
