"""A search so small that an epoch takes a fraction of a second, on phantoms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from small_study import DATA

from thrifty.config import Study
from thrifty.data.prepare import Prepared, prepare
from thrifty.results import Run, open_run
from thrifty.search.setting import Setting
from thrifty.search.trial import make_search
from thrifty.search.twolevel import DifferentiableSearch
from thrifty.space.schema import load_space

SETTING = Setting(3000, 8, 3, 3)
SEARCH = {"epochs": 3, "steps": 2, "warmup": 1, "batch": 2}


def search_study(**values: Any) -> Study:
    base = {"name": "small", "space": "tiny", "budgets": [3000], "seeds": 2, "data": DATA, "search": SEARCH}
    return Study.model_validate({**base, **values})


def search_run(root: Path, **values: Any) -> tuple[Study, Run, Prepared]:
    study = search_study(**values)
    run = open_run(root / "run", study)
    return study, run, prepare(study, run)


def small_search(study: Study, prepared: Prepared, setting: Setting = SETTING, seed: int = 0) -> DifferentiableSearch:
    torch.manual_seed(seed)
    return make_search(study, load_space(study.space), prepared, setting, seed, torch.device("cpu"))


def arguments(run: Run, seed: int = 0, setting: Setting = SETTING) -> dict[str, Any]:
    return {"run": str(run.root), "setting": setting.as_json(), "seed": seed, "cpus": 1, "gpus": 0, "device": "cpu"}
