"""Successive halving of the searches of a budget setting: at a rung the worst of its racing seeds are stopped.

Source: Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization" (AISTATS 2016). A rung is
decided when all have reached it, by what their records say and nothing else: so neither the number of workers nor an interruption
changes it, and it can be decided again from the files at any time. docs/halving.md says what it is for and what it is not for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thrifty.config import Study
from thrifty.manifest import Manifest, only_driver
from thrifty.results import Run, Trial, read_json, read_jsonl, remove, write_json
from thrifty.search.setting import Setting

SCHEMA = 1
SCORE = "dice_decoded"  # of a record: Dice of the decoded network on architecture cases, with the weights of the supernet


@dataclass(frozen=True)
class Rung:
    """The outcome of a rung of one setting: `scores` by seed of all that came to it, best first, and how many of them go on."""

    epochs: int
    scores: dict[int, float]
    number: int

    @property
    def kept(self) -> list[int]:
        return list(self.scores)[: self.number]

    @property
    def stopped(self) -> list[int]:
        return list(self.scores)[self.number :]


def decide(epochs: int, scores: Mapping[int, float], eta: int, order: Sequence[int]) -> Rung:
    """The best ceil(n / eta) of n go on.

    Args:
        epochs: after which this is decided.
        scores: by seed, of all that came to the rung.
        order: of the seeds in the study; of equal scores the earlier seed is the better one.
    """
    ranked = sorted(scores, key=lambda seed: (-scores[seed], order.index(seed)))
    return Rung(epochs, {seed: scores[seed] for seed in ranked}, math.ceil(len(ranked) / eta))


def epochs_spent(study: Study, epochs: int) -> list[int]:
    """Epochs of each search of a setting of `epochs`, if none fails: those that are never stopped first."""
    racing = len(study.racing_seeds)
    spent = [epochs] * (len(study.search_seeds) - racing)
    for rung in study.search.rung_epochs(epochs) if racing else ():
        left = math.ceil(racing / study.search.halving.eta)
        spent += [rung] * (racing - left)
        racing = left
    return spent + [epochs] * racing


def score_of(trial: Trial, epochs: int) -> float | None:
    """What a search had come to after `epochs`; None where it has not come as far. A record without a score is the worst."""
    record = read_jsonl(trial.record)
    if len(record) < epochs:
        return None
    return float(record[epochs - 1].get(SCORE, -math.inf))


def decide_rung(study: Study, run: Run, setting: Setting, names: Mapping[int, str], epochs: int) -> Rung:
    """Decides a rung of a setting from the records of its searches; those that failed before it are not among them.

    Args:
        names: of the searches that are in the race, by seed.
    """
    found = {seed: score_of(run.search_trial(name), epochs) for seed, name in names.items()}
    scores = {seed: score for seed, score in found.items() if score is not None}
    return decide(epochs, scores, study.search.halving.eta, study.search_seeds)


def write_dropped(study: Study, run: Run, setting: Setting, names: Mapping[int, str], rung: Rung) -> None:
    """Takes down which searches a rung has stopped: dropped.json of each, and its state in trials.json.

    A search that had finished before, when there were other seeds in the race, stays finished.
    """
    stopped = {seed: run.search_trial(names[seed]) for seed in rung.stopped}
    with only_driver(run):
        manifest = Manifest(run, "search", study.resources)
        for seed, trial in stopped.items():
            if trial.done:
                continue
            content = _dropped(study, setting, names[seed], seed, rung, trial)
            if not trial.dropped.is_file() or read_json(trial.dropped) != content:
                write_json(trial.dropped, content)
            if names[seed] in manifest.rows:
                manifest.rows[names[seed]] |= {"status": "dropped", "error": content["reason"]}
        manifest.write()


def _dropped(study: Study, setting: Setting, name: str, seed: int, rung: Rung, trial: Trial) -> dict[str, Any]:
    record, place = read_jsonl(trial.record), list(rung.scores).index(seed) + 1
    resources = study.resources
    reason = (
        f"stopped after {rung.epochs} of {setting.epochs} epochs: place {place} of {len(rung.scores)} by Dice of the decoded "
        f"network ({rung.scores[seed]:.4f}), of which {rung.number} go on"
    )
    return {
        "schema": SCHEMA,
        "trial": name,
        "seed": seed,
        **setting.as_json(),
        "epochs_done": len(record),
        "rung": rung.epochs,
        "score": rung.scores[seed],
        "place": place,
        "of": len(rung.scores),
        "kept": rung.kept,
        "reason": reason,
        "seconds": sum(row["seconds"] for row in record),
        "cpus": resources.cpus_per_trial,
        "gpus": resources.gpus_per_trial,
    }


def take_back(run: Run, names: Sequence[str]) -> None:
    """Of these searches those that have finished, whatever was decided before. Until then they count as stopped, so that no
    statistics take the others for a sample meanwhile."""
    for name in names:
        if run.search_trial(name).done:
            remove(run.search_trial(name).dropped)
