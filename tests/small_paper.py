"""The shipped study `paper` cut down to seconds: phantoms, 4 channels, 4 levels, 3 epochs of one step."""

from __future__ import annotations

from pathlib import Path

import torch

from thrifty.config import Study, read_study
from thrifty.data.prepare import prepare
from thrifty.results import Run, open_run
from thrifty.search.setting import settings_of
from thrifty.search.trial import make_search
from thrifty.search.twolevel import DifferentiableSearch
from thrifty.shelf import find_study
from thrifty.space.schema import load_space

SMALLER = (
    "data.source=phantoms", "data.patch=32", "data.phantoms={cases: 16, patients: 12, size: 32}",
    "budgets=[{width: 4, levels: 4}]", "seeds=2",
    "search.epochs=3", "search.steps=1", "search.batch=2", "search.warmup=1",
    "select.recalibrate=1", "retrain.epochs=2", "retrain.steps=1", "retrain.batch=2",
)  # fmt: skip


def paper_study(*overrides: str) -> Study:
    return read_study(find_study("paper"), [*SMALLER, *overrides])


def paper_search(root: Path, *overrides: str) -> tuple[DifferentiableSearch, Study, Run]:
    """A search of the cut down study on its own data, not begun."""
    study = paper_study(*overrides)
    run = open_run(root / "run", study)
    prepared = prepare(study, run)
    space = load_space("paper")
    setting = settings_of(study, space, prepared.store.channels, prepared.store.classes)[0]
    torch.manual_seed(0)
    return make_search(study, space, prepared, setting, 0, torch.device("cpu")), study, run
