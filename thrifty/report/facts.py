"""What a report is made of, read from the run folder. What is not there yet is None or empty."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thrifty.config import Study
from thrifty.errors import ThriftyError, one_line
from thrifty.ledger import dropped_searches
from thrifty.metrics import present_classes
from thrifty.results import Run, Trial, read_json, read_jsonl
from thrifty.space.genotype import Genotype, load
from thrifty.statistics.blocks import Blocks, compared, search_blocks

NETWORK_KEYS = (
    "name", "kind", "budget", "parameters", "macs", "seeds", "dice", "iou", "hd95", "dice_per_class", "dice_volume",
    "still_improving", "seconds",
)  # fmt: skip
SEARCH_KEYS = ("trial", "seed", "budget", "width", "levels", "epochs", "parameters", "dice", "seconds")
CANDIDATE_KEYS = ("group", "parameters", "dice", "spread", "score", "origin", "genotype")
FINALIST_KEYS = ("hash", "parameters", "score", "short_dice")
Row = Mapping[str, Any]
Setting = tuple[int, int, int, int]


@dataclass(frozen=True)
class Selection:
    """What the selection scored (`candidates`), the front of it, and the chosen ones by budget.

    `networks` is how many different networks the candidates are; `seconds` and `cpu_hours` are None where not recorded.
    `finalists` by budget, best first: None where pareto.json has none since its version trained none, empty where the study
    wanted none. `short` holds epochs, steps and seeds of the short trainings that decided, `rounds` those of each round with its
    finalists by budget and Dice by hash (empty in files of versions that had one round); `short_trainings` says how many have
    finished.
    """

    candidates: tuple[Row, ...]
    networks: int
    front: tuple[Row, ...]
    chosen: Mapping[int, Row]
    seconds: float | None
    cpu_hours: float | None
    finalists: Mapping[int, Sequence[Row]] | None = None
    short: Row | None = None
    rounds: Sequence[Row] = ()
    short_trainings: int = 0
    short_seconds: float = 0.0
    short_cpu_hours: float = 0.0


@dataclass(frozen=True)
class Facts:
    """`scores`: Dice of every network by patient, `compared`: those whose seeds count. `epochs`: for
    (budget, width, levels, epochs) the epochs of every seed that counts. `running`: searches that have begun
    and are neither finished nor stopped early; those that were are `dropped`.
    `counted`: the classes that means are taken of, None where nothing is evaluated yet.
    """

    study: Study
    run: Run
    summary: dict[str, Any] | None
    searches: tuple[Row, ...]
    running: int
    dropped: tuple[Row, ...]
    epochs: Mapping[Setting, Mapping[str, list[dict[str, Any]]]]
    selection: Selection | None
    genotypes: Mapping[int, Genotype]
    counted: frozenset[int] | None
    scores: Mapping[str, Mapping[str, float]]
    compared: frozenset[str]
    examples: tuple[Row, ...]
    environment: dict[str, Any] | None
    cost: Mapping[str, Any]

    @property
    def networks(self) -> list[dict[str, Any]]:
        return self.summary["networks"] if self.summary else []


def gather(study: Study, run: Run) -> Facts:
    """
    Raises:
        ThriftyError: a file of the run is there but is not what its stage writes.
    """
    summary = _summary(run)
    trials = [Trial(folder) for folder in sorted(run.search.glob("*"))]
    finished = [trial for trial in trials if trial.done]
    results = [read_json(trial.result) for trial in finished]
    for trial, row in zip(finished, results, strict=True):
        _need(row, SEARCH_KEYS, str(trial.result))
    counted = search_blocks(study, run).seeds
    epochs: dict[Setting, dict[str, list[dict[str, Any]]]] = {}
    for trial, row in zip(finished, results, strict=True):
        if row["seed"] not in counted:
            continue
        setting = (row["budget"], row["width"], row["levels"], row["epochs"])
        epochs.setdefault(setting, {})[f"seed {row['seed']}"] = read_jsonl(trial.record)
    rows = _per_case(run)
    return Facts(
        study=study,
        run=run,
        summary=summary,
        searches=tuple(summary["searches"] if summary else results),
        running=sum(trial.record.is_file() and trial.state not in ("done", "dropped") for trial in trials),
        dropped=tuple(dropped_searches(run)),
        epochs={setting: epochs[setting] for setting in sorted(epochs)},
        selection=_selection(run),
        genotypes={budget: load(path, study.allow_code) for budget, path in run.genotypes().items()},
        counted=_counted(rows) if rows else None,
        scores=patient_scores(_of_blocks(rows, summary)),
        compared=_compared(rows, summary),
        examples=tuple(_examples(run)),
        environment=read_json(run.environment) if run.environment.is_file() else None,
        cost=summary["cost"] if summary else (read_json(run.ledger).get("cost", {}) if run.ledger.is_file() else {}),
    )


def _summary(run: Run) -> dict[str, Any] | None:
    if not run.summary.is_file():
        return None
    summary = read_json(run.summary)
    if not isinstance(summary, dict) or summary.get("schema") != 1:
        raise ThriftyError(f"{run.summary} is no summary of schema version 1; `thrifty evaluate STUDY.yaml` writes one")
    _need(summary, ("data", "networks", "searches", "cost"), str(run.summary))
    for network in summary["networks"]:
        _need(network, NETWORK_KEYS, f"{run.summary}, networks")
    for row in summary["searches"]:
        _need(row, SEARCH_KEYS, f"{run.summary}, searches")
    return summary


def _need(value: Any, keys: Sequence[str], where: str) -> None:
    missing = [key for key in keys if not isinstance(value, dict) or key not in value]
    if missing:
        raise ThriftyError(f"{where}: {', '.join(missing)} missing; remove that file and run its stage again")


def _selection(run: Run) -> Selection | None:
    if not run.pareto.is_file():
        return None
    outcome, candidates = read_json(run.pareto), read_jsonl(run.evaluations)
    _need(outcome, ("networks", "chosen", "front"), str(run.pareto))
    for row in [*outcome["front"], *outcome["chosen"].values(), *candidates]:
        _need(row, CANDIDATE_KEYS, str(run.pareto.parent))
    finalists, short = outcome.get("finalists"), outcome.get("short")
    for row in (row for found in (finalists or {}).values() for row in found):
        _need(row, FINALIST_KEYS, f"{run.pareto}, finalists")
    if short is not None:
        _need(short, ("epochs", "steps", "seeds"), f"{run.pareto}, short")
    for row in outcome.get("rounds", ()):
        _need(row, ("epochs", "steps", "seeds", "finalists", "dice"), f"{run.pareto}, rounds")
    spent = read_json(run.select_result) if run.select_result.is_file() else None
    trained = [read_json(path) for path in sorted(run.short.glob("*/*/result.json"))]
    for row in trained:
        _need(row, ("seconds", "cpus"), f"{run.short}, a result.json")
    return Selection(
        candidates=tuple(candidates),
        networks=outcome["networks"],
        front=tuple(outcome["front"]),
        chosen={int(budget): row for budget, row in outcome["chosen"].items()},
        seconds=spent["seconds"] if spent else None,
        cpu_hours=spent["seconds"] * spent["cpus"] / 3600 if spent else None,
        finalists=None if finalists is None else {int(budget): found for budget, found in finalists.items()},
        short=short,
        rounds=outcome.get("rounds", ()),
        short_trainings=len(trained),
        short_seconds=sum(row["seconds"] for row in trained),
        short_cpu_hours=sum(row["seconds"] * row["cpus"] for row in trained) / 3600,
    )


def _examples(run: Run) -> Sequence[Row]:
    if not run.examples.is_file():
        return []
    rows = read_json(run.examples)
    if not isinstance(rows, list):
        raise ThriftyError(f"{run.examples} holds no list of examples; remove it and run `thrifty evaluate` again")
    for row in rows:
        _need(row, ("case", "rank", "network", "seed", "file"), str(run.examples))
    return rows


def _per_case(run: Run) -> list[dict[str, str]]:
    if not run.per_case.is_file():
        return []
    with run.per_case.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _counted(rows: Sequence[Row]) -> frozenset[int]:
    try:
        return present_classes(rows)
    except (KeyError, TypeError, ValueError) as error:
        raise ThriftyError(f"per_case.csv needs numbers as class and truth_pixels: {one_line(repr(error))}") from None


def _of_blocks(rows: list[dict[str, str]], summary: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """Of each network the rows of the seeds that count, as the summary has them; all rows of one that has none of them."""
    if not summary or "blocks" not in summary:
        return rows
    seeds = {str(seed) for seed in summary["blocks"]["retrain"]["seeds"]}
    having = {row.get("network") for row in rows if row.get("seed") in seeds}
    return [row for row in rows if row.get("seed") in seeds or row.get("network") not in having]


def _compared(rows: Sequence[Row], summary: Mapping[str, Any] | None) -> frozenset[str]:
    """The networks that the statistics of the summary compare too."""
    try:
        runs = {(row["network"], int(row["seed"])) for row in rows}
    except ValueError as error:
        raise ThriftyError(f"per_case.csv needs a whole number as seed: {one_line(repr(error))}") from None
    if not summary or "blocks" not in summary:
        return frozenset(network for network, _ in runs)
    return frozenset(compared(runs, *(Blocks.from_json(summary["blocks"][name]) for name in ("search", "retrain"))))


def patient_scores(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Dice by network and patient: the mean over the rows (cases and classes) of each seed and fold, then over these.

    A class that no case holds is not counted, as in the summary.

    Args:
        rows: of per_case.csv, one for each network, seed, fold, case and class.

    Raises:
        ThriftyError: a column is missing or holds no number.
    """
    sums: dict[tuple[str, str], dict[tuple[str, str], list[float]]] = {}
    counted = _counted(rows)
    try:
        for row in rows:
            if int(row["class"]) not in counted:
                continue
            runs = sums.setdefault((row["network"], row["patient"]), {})
            runs.setdefault((row["seed"], row.get("fold") or ""), []).append(float(row["dice"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ThriftyError(f"per_case.csv needs network, seed, patient and a number as dice: {one_line(repr(error))}") from None
    scores: dict[str, dict[str, float]] = {}
    for (network, patient), runs in sums.items():
        means = [sum(values) / len(values) for values in runs.values()]
        scores.setdefault(network, {})[patient] = sum(means) / len(means)
    return scores
