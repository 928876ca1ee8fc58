"""What a study has cost: hours of every trial and stage, and what of them was lost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from thrifty.manifest import stored, stored_wall_seconds
from thrifty.results import Run, read_json

SCHEMA = 1
RESULTS = {  # where the trials of each stage leave their result.json
    "search": "search/*/result.json",
    "select": "select/**/result.json",  # the scoring, and each short training
    "retrain": "retrain/*/*/result.json",
    "evaluate": "evaluate/*/*/*/result.json",  # measured, measured for robustness, measured on a second data set
}
OF_DROPPED = {"trial", "seed", "budget", "width", "levels", "epochs", "reason", "seconds", "cpus", "gpus"}
Row = dict[str, Any]


def trial_results(run: Run, stage: str) -> list[dict[str, Any]]:
    """The result.json of all finished trials of a stage, in the order of their names."""
    results = (read_json(path) for path in sorted(run.root.glob(RESULTS[stage])))
    return [result for result in results if isinstance(result, dict) and "trial" in result]


def dropped_searches(run: Run) -> list[dict[str, Any]]:
    """The dropped.json of all searches that were stopped early and have not finished since."""
    paths = sorted(run.search.glob("*/dropped.json"))
    rows = [read_json(path) for path in paths if not path.with_name("result.json").is_file()]
    return [row for row in rows if isinstance(row, dict) and row.keys() >= OF_DROPPED]


def ledger(run: Run) -> dict[str, Any]:
    """ledger.json: the hours of every trial that has run (`trials`) and of every stage (`cost`).

    `seconds` and the hours are those of all attempts, lost ones and starts included, as the manifest of the stage has them;
    `useful_seconds` are those that led to the result, or to the decision to stop a search early. `faults` counts attempts that
    died; `lost_seconds` are what a trial with faults took beyond its useful ones, all of them where it was given up. `trials` of
    a stage counts the finished ones, and `wall_seconds` is how long its drivers have run.
    """
    trials = [row for stage in RESULTS for row in _stage_trials(run, stage)]
    return {
        "schema": SCHEMA,
        "trials": trials,
        "cost": {
            stage: _total(t for t in trials if t["stage"] == stage) | {"wall_seconds": stored_wall_seconds(run, stage)}
            for stage in RESULTS
        },
    }


def spent_hours(run: Run) -> tuple[float, float]:
    """CPU-hours and GPU-hours of all trials of a study so far."""
    cost = ledger(run)["cost"].values()
    return sum(stage["cpu_hours"] for stage in cost), sum(stage["gpu_hours"] for stage in cost)


def _stage_trials(run: Run, stage: str) -> list[Row]:
    results = {result["trial"]: result for result in trial_results(run, stage)}
    accounts = {row["name"]: row for row in stored(run, stage) if row["attempts"]}
    dropped = {row["trial"]: row for row in dropped_searches(run)} if stage == "search" else {}
    names = sorted({**results, **accounts, **dropped})
    return [_hours(stage, name, results.get(name), accounts.get(name), dropped.get(name)) for name in names]


def _hours(stage: str, name: str, result: Row | None, account: Row | None, dropped: Row | None) -> Row:
    """One trial; its result alone counts where there is no account of it, or only a part of one."""
    outcome = result or dropped
    useful = outcome["seconds"] if outcome else 0.0
    where = outcome or (account or {})["arguments"]
    row: Row = {"stage": stage, "trial": name, "finished": result is not None, "useful_seconds": useful}
    row |= {"cpus": where["cpus"], "gpus": where["gpus"], "attempts": account["attempts"] if account else None}
    row |= {"faults": account.get("faults", 0) if account else 0, "lost_seconds": 0.0}
    if account is not None and account["seconds"] >= useful:
        if row["faults"] and (outcome is not None or account.get("status") == "failed"):
            row["lost_seconds"] = account["seconds"] - useful
        return row | {key: account[key] for key in ("seconds", "cpu_hours", "gpu_hours")}
    hours = {"cpu_hours": useful * row["cpus"] / 3600, "gpu_hours": useful * row["gpus"] / 3600}
    return row | {"seconds": useful, **hours}


def _total(trials: Iterable[Row]) -> dict[str, Any]:
    listed = list(trials)
    summed = ("seconds", "useful_seconds", "cpu_hours", "gpu_hours", "faults", "lost_seconds")
    return {"trials": sum(t["finished"] for t in listed), **{name: sum(t[name] for t in listed) for name in summed}}
