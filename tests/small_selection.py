"""Finished searches made by hand: random distributions and untrained supernets, so that a selection can be tested in a second."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from random_distributions import random_distribution
from small_search import search_run

from thrifty import scoring
from thrifty.config import Study
from thrifty.nets.supernet import Supernet
from thrifty.nets.supernet_file import save_supernet
from thrifty.results import Run, write_json, write_jsonl
from thrifty.search.setting import settings_of
from thrifty.space.cost import Costs
from thrifty.space.decode import decode
from thrifty.space.genotype import genotype_hash, to_json
from thrifty.space.schema import pin_space

SELECT = {"samples": 4, "batch": 3, "recalibrate": 1, "finalists": 0}
BUDGETS = [{"parameters": 2400, "width": 8, "levels": 3}, {"parameters": 3000, "width": 8, "levels": 3}]


def searched_by_hand(root: Path, **select: Any) -> tuple[Study, Run]:
    """A run folder as `thrifty search` leaves it, but nothing was trained: two seeds at each of two budgets."""
    study, run, prepared = search_run(root, select=SELECT | select, budgets=BUDGETS)
    space, store = pin_space(study, run), prepared.store
    rows = []
    for setting in settings_of(study, space, store.channels, store.classes):
        for seed in study.search_seeds:
            name = setting.trial(seed)
            place = (setting.width, setting.levels, store.channels, store.classes)
            torch.manual_seed(seed)
            save_supernet(run.search_trial(name).weights, Supernet(space, *place), store.channels, store.classes)
            learnt = random_distribution(space, setting.levels, np.random.default_rng([seed, setting.budget]))
            write_json(run.search_trial(name).distribution, learnt.as_json())
            genotype = decode(learnt, Costs(space, *place), setting.budget).genotype
            row = {"trial": name, "seed": seed, "budget": setting.budget, "bounded": True, "width": setting.width}
            row |= {"levels": setting.levels, "genotype_hash": genotype_hash(genotype), "genotype": to_json(genotype)}
            rows.append(row)
    write_jsonl(run.candidates, rows)
    return study, run


def score_here(function: Any, items: Any, resources: Any) -> list[Any]:
    """`trials.map_batches` without Ray."""
    return [function(item) for item in items]


def score_slowly(function: Any, items: Any, resources: Any) -> list[Any]:
    """As `score_here`, with time to be killed in."""
    time.sleep(0.3)
    return score_here(function, items, resources)


def score_and_die_once(item: dict[str, Any]) -> scoring.Score:
    """`scoring.score` on a worker that is killed by SIGKILL when it comes to its third candidate, once for a run."""
    mark = Path(item["run"]) / "scored"
    with mark.open("ab") as file:
        file.write(b".")
    if mark.stat().st_size == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return scoring.score(item)
