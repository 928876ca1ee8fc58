"""Complete blocks: the seeds that statistics over seeds may count, and why the others are left out.

A block is a search seed with all settings, or a retraining seed with all networks and folds. A seed that lacks one is left out
everywhere, not only where it lacks: else one setting or network would be measured on other, perhaps luckier, seeds than the next.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thrifty.config import Study
from thrifty.failures import failed_trials
from thrifty.ledger import dropped_searches, trial_results
from thrifty.results import Run

SETTING = ("budget", "width", "levels", "epochs")
OUTLIVED = "it outlived others that were stopped by their score, so it is no sample of a search"
Row = Mapping[str, Any]
Key = tuple[str, int, int | None]


@dataclass(frozen=True)
class Blocks:
    """`seeds` count; `left_out` says of each other seed why it does not."""

    seeds: tuple[int, ...]
    left_out: Mapping[int, str]

    def as_json(self) -> dict[str, Any]:
        return {"seeds": list(self.seeds), "left_out": [{"seed": s, "why": why} for s, why in self.left_out.items()]}

    @classmethod
    def from_json(cls, value: Row) -> Blocks:
        return cls(tuple(value["seeds"]), {row["seed"]: row["why"] for row in value["left_out"]})


def search_blocks(study: Study, run: Run) -> Blocks:
    """Of the search seeds that have finished, were stopped or failed anywhere.

    Where any search is stopped by its score, also while a study without halving takes it up again, those of the racing seeds that
    were not are left out too: they are the best of
    several. The reference seeds were chosen before anything was known of them.
    """
    results, dropped = trial_results(run, "search"), dropped_searches(run)
    failed = {row["trial"]: row["reason"] for row in failed_trials(run) if row["stage"] == "search"}
    finished = {(_setting(row), row["seed"]) for row in results}
    settings = {_setting(row) for row in [*results, *dropped]}
    stopped = {row["seed"]: f"{row['trial']} was {row['reason']}" for row in dropped}
    lost = {_seed_of(name): f"{name} failed: {reason}" for name, reason in failed.items()}
    seeds = sorted({seed for _, seed in finished} | stopped.keys() | lost.keys())
    left_out: dict[int, str] = {}
    for seed in seeds:
        if seed in stopped or seed in lost:
            left_out[seed] = stopped.get(seed) or lost[seed]
        elif any((setting, seed) not in finished for setting in settings):
            left_out[seed] = "it is not finished for every setting"
        elif dropped and seed in study.search_seeds[study.search.halving.reference :]:
            left_out[seed] = OUTLIVED
    return Blocks(tuple(seed for seed in seeds if seed not in left_out), left_out)


def retrain_blocks(keys: Sequence[Key], folds: Collection[int | None], missing: Mapping[str, str]) -> Blocks:
    """
    Args:
        keys: of the retrainings that are there.
        folds: that each has to have; {None} without cross-validation.
        missing: of the others, by name as in 'unet/seed_1', why they are not there.

    A network that has no seed with all folds is no part of the blocks, or there would be none.
    """
    having: dict[str, dict[int, set[int | None]]] = {}
    for network, seed, fold in keys:
        having.setdefault(network, {}).setdefault(seed, set()).add(fold)
    whole = {network: {seed for seed, there in seeds.items() if there >= set(folds)} for network, seeds in having.items()}
    counted = [seeds for seeds in whole.values() if seeds]
    common = set.intersection(*counted) if counted else set()
    lacking: dict[int, list[str]] = {}
    for name, why in missing.items():
        lacking.setdefault(_retrain_seed_of(name), []).append(f"{name} {why}")
    every = dict.fromkeys([*(seed for _, seed, _ in keys), *lacking])
    left_out = {seed: ", ".join(lacking.get(seed, ["not all folds of it are trained"])) for seed in every if seed not in common}
    return Blocks(tuple(seed for seed in every if seed in common), left_out)


def why_missing(run: Run, missing: Sequence[str]) -> dict[str, str]:
    """Of retrainings that are not there, by name, why."""
    failed = {row["trial"]: row["reason"] for row in failed_trials(run) if row["stage"] in ("retrain", "evaluate")}
    return {name: f"failed: {failed[name]}" if name in failed else "is not trained yet" for name in missing}


def notes_on_blocks(search: Blocks, retrain: Blocks) -> list[str]:
    """Sentences for the summary; none where every seed counts."""
    found = []
    for what, blocks, means in (
        ("search", search, "how far searches agree"),
        ("retraining", retrain, "means and statistics of the networks"),
    ):
        if not blocks.left_out:
            continue
        number, whole = len(blocks.left_out), len(blocks.left_out) + len(blocks.seeds)
        reasons = "; ".join(f"seed {seed}: {why}" for seed, why in blocks.left_out.items())
        found.append(f"{number} of {whole} {what} seeds are left out of {means} ({reasons})")
    return found


def of_left_out_search(network: str, search: Blocks) -> bool:
    """Whether a network is what a search decoded whose seed does not count."""
    return network.startswith("decoded_") and _seed_of(network) in search.left_out


def compared(runs: Iterable[tuple[str, int]], search: Blocks, retrain: Blocks) -> set[str]:
    """Of trained (network, seed) the networks that comparisons count: those with a seed that counts; what a search decoded whose
    own seed does not count is not among them."""
    return {network for network, seed in runs if seed in retrain.seeds and not of_left_out_search(network, search)}


def _retrain_seed_of(name: str) -> int:
    """Of a retraining, from its name: unet/seed_1 or unet/seed_1_fold_0."""
    return int(name.rpartition("/")[2].split("_")[1])


def _setting(row: Row) -> tuple[Any, ...]:
    return tuple(row[key] for key in SETTING)


def _seed_of(trial: str) -> int:
    """Of a search, from its name: b3000_w4_d3_e20_s1."""
    return int(trial.rpartition("_s")[2])
