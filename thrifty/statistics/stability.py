"""The stability of what was found, as summary.json has it: for each setting how well its searches agree, and what collapsed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from thrifty.config import Study
from thrifty.errors import ThriftyError
from thrifty.ledger import trial_results
from thrifty.results import Run, read_json, read_jsonl
from thrifty.space.cost import Costs, count
from thrifty.space.genotype import Genotype, from_json, genotype_hash, load, to_json
from thrifty.space.sample import random_genotype
from thrifty.space.schema import run_space
from thrifty.statistics.agreement import MEASURES, against_chance, agreement, by_chance
from thrifty.statistics.bands import CURVES, band
from thrifty.statistics.blocks import SETTING, Blocks
from thrifty.statistics.consensus import consensus

FILLS = 0.85  # random genotypes are as large as the found ones, or smaller by up to this factor
POOL = 60  # random genotypes that the sets are drawn from
Row = Mapping[str, Any]


def stability(study: Study, run: Run, search: Blocks, retrain: Blocks) -> dict[str, Any]:
    """
    Args:
        search, retrain: the seeds that count (`thrifty.statistics.blocks`).
    """
    there = [row for row in trial_results(run, "search") if run.search_trial(row["trial"]).genotype.is_file()]
    results = [row for row in there if row["seed"] in search.seeds]
    settings = sorted({tuple(row[key] for key in SETTING) for row in results})
    groups = [[row for row in results if tuple(row[key] for key in SETTING) == setting] for setting in settings]
    return {
        "settings": [_setting(study, run, rows) for rows in groups],
        "rank_correlation": rank_correlations(run, retrain, study.allow_code),
    }


def _setting(study: Study, run: Run, rows: Sequence[Row]) -> dict[str, Any]:
    genotypes = [load(run.search_trial(row["trial"]).genotype, study.allow_code) for row in rows]
    records = [read_jsonl(run.search_trial(row["trial"]).record) for row in rows]
    bands = {key: band(records, key) for key in CURVES}
    last = {key: dict(zip(("mean", "low", "high"), found[max(found)], strict=True)) for key, found in bands.items() if found}
    several = len(rows) > 1
    return {
        **{key: rows[0][key] for key in SETTING},
        "seeds": [row["seed"] for row in rows],
        "networks": len({genotype_hash(genotype) for genotype in genotypes}),
        "agreement": _agreement(study, run, rows[0], genotypes) if several else None,
        "consensus": _consensus(study, run, rows, genotypes) if several else None,
        "collapsed": [row["trial"] for row in rows if row.get("collapsed")],
        "guarded": [row["trial"] for row in rows if row.get("guard")],
        "last_epoch": last,
    }


def _costs(study: Study, run: Run, row: Row, like: Genotype) -> Costs:
    space = run_space(study, run)
    return Costs(space, row["width"], row["levels"], like.channels, like.classes, depth=study.search.depth)


def _agreement(study: Study, run: Run, row: Row, genotypes: Sequence[Genotype]) -> dict[str, Any]:
    """MEASURES, each with what random genotypes of the same size come to."""
    found = agreement(genotypes)
    pool = _pool(_costs(study, run, row, genotypes[0]), genotypes)
    random = by_chance(len(genotypes), pool) if len(pool) >= len(genotypes) else {name: [] for name in MEASURES}
    return {name: {"value": found[name], "chance": against_chance(name, found[name], random[name])} for name in MEASURES}


def _pool(costs: Costs, genotypes: Sequence[Genotype]) -> list[Genotype]:
    """Random genotypes of the size of the found ones; fewer where the space hardly has any."""
    sizes = [count(genotype) for genotype in genotypes]
    shape = (costs.space, costs.width, costs.levels, costs.channels, costs.classes)
    rng, low, high = np.random.default_rng(0), int(FILLS * min(sizes)), max(sizes)
    pool: list[Genotype] = []
    try:
        for _ in range(max(POOL, 2 * len(genotypes))):
            pool.append(random_genotype(*shape, rng, low, high, costs.depth))
    except ThriftyError:  # none met in many draws: what is there has to do
        pass
    return pool


def _consensus(study: Study, run: Run, rows: Sequence[Row], genotypes: Sequence[Genotype]) -> dict[str, Any]:
    found = consensus(genotypes, _costs(study, run, rows[0], genotypes[0]), rows[0]["budget"])
    own = genotype_hash(found.genotype)
    by = [row["trial"] for row, genotype in zip(rows, genotypes, strict=True) if genotype_hash(genotype) == own]
    return {"parameters": found.parameters, "hash": own, "trials": by, "genotype": to_json(found.genotype)}


def rank_correlations(run: Run, blocks: Blocks, allow_code: bool = False) -> list[dict[str, Any]]:
    """Kendall's tau between what supernets and trainings said of the same networks.

    For each budget: inherited scores of the finalists against their Dice after a short training. Over all budgets: inherited
    scores of retrained networks that were candidates against their Dice on the selection cases, over the seeds that count. Both
    need three networks.
    """
    pareto = read_json(run.pareto) if run.pareto.is_file() else {}
    rows = []
    for budget, finalists in (pareto.get("finalists") or {}).items():
        pairs = [(row["score"], fmean(row["short_dice"])) for row in finalists if row.get("short_dice")]
        rows.append({"budget": int(budget), "against": "short training", **tau(pairs)})
    if run.networks.is_file():
        rows.append({"budget": None, "against": "retraining", **tau(_retrained(run, blocks, allow_code))})
    return rows


def _retrained(run: Run, blocks: Blocks, allow_code: bool) -> list[tuple[float, float]]:
    scores: dict[str, float] = {}
    for row in read_jsonl(run.evaluations):
        scores[row["hash"]] = max(row["score"], scores.get(row["hash"], -np.inf))
    dice: dict[str, list[float]] = {}
    for row in trial_results(run, "retrain"):
        if row["seed"] in blocks.seeds:
            dice.setdefault(row["network"], []).append(row["dice"])
    listed = (one for one in read_json(run.networks)["networks"] if one["genotype"] is not None)
    hashes = {one["name"]: genotype_hash(from_json(one["genotype"], allow_code)) for one in listed}
    return [(scores[hashes[name]], fmean(values)) for name, values in dice.items() if hashes.get(name) in scores]


def tau(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Kendall's tau-b and its two-sided p; None below three pairs, or where one side is all ties."""
    from scipy.stats import kendalltau

    if len(pairs) < 3 or any(len(set(side)) < 2 for side in zip(*pairs, strict=True)):
        return {"networks": len(pairs), "tau": None, "p": None}
    found = kendalltau(*zip(*pairs, strict=True))
    return {"networks": len(pairs), "tau": float(found.statistic), "p": float(found.pvalue)}
