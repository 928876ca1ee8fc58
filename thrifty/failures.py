"""Trials that were given up: how many a study bears (`--max-failures`), and which they are.

A trial counts as failed until it has a result: the same command tries it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thrifty.config import Resources
from thrifty.errors import ThriftyError
from thrifty.ledger import RESULTS
from thrifty.manifest import stored
from thrifty.results import Run
from thrifty.trials_limits import GO_ON

NAMED = 5


def failed_trials(run: Run) -> list[dict[str, Any]]:
    """`stage`, `trial` and `reason` of every trial of the study that was given up and has no result."""
    rows = [(stage, row) for stage in RESULTS for row in stored(run, stage) if row["status"] == "failed"]
    return [
        {"stage": stage, "trial": row["name"], "reason": row["error"]}
        for stage, row in rows
        if not (run.root / row["folder"] / "result.json").is_file()
    ]


def bear(stage: str, failed: Mapping[str, str], total: int, resources: Resources, run: Run) -> None:
    """Goes on without the failed trials of a stage, and says so, if the study bears as many.

    Raises:
        ThriftyError: all trials of the stage failed (of searches, which run in parts, the stage itself looks for that), or more
            of all stages than `max_failed_trials`.
    """
    others = len(failed_trials(run)) - len(failed)
    before = f" ({others} more failed before)" if others else ""
    text = f"{len(failed)} of {total} trials of {stage} failed{before}: {_named(failed)}"
    if (len(failed) == total and stage != "search") or len(failed) + others > resources.max_failed_trials:
        raise ThriftyError(f"{text}; the others are kept, {GO_ON}")
    print(f"{stage}: {text}; the study goes on without (--max-failures {resources.max_failed_trials})", flush=True)


def _named(failed: Mapping[str, str]) -> str:
    named = [f"{name}: {reason}" for name, reason in list(failed.items())[:NAMED]]
    rest = [f"and {len(failed) - NAMED} more"] if len(failed) > NAMED else []
    return "; ".join(named + rest)
