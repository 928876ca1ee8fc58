"""A study so small that a network of it trains in a second, with phantoms and a genotype for each budget."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from thrifty.config import Study
from thrifty.data.prepare import prepare
from thrifty.errors import ThriftyError
from thrifty.failures import bear
from thrifty.manifest import Manifest
from thrifty.networks import planned_networks, write_networks
from thrifty.results import Run, open_run
from thrifty.space.genotype import save
from thrifty.space.sample import random_genotype
from thrifty.space.schema import load_space

BUDGET = 3000
DATA = {"patch": 32, "phantoms": {"cases": 12, "patients": 8, "size": 32}}
RECIPE = {"epochs": 3, "steps": 2, "batch": 4, "validate_every": 2, "seeds": 2, "random": 1, "baselines": ["scaled_unet"]}


def small_study(recipe: dict[str, Any] | None = None, **values: Any) -> Study:
    return Study.model_validate(
        {"name": "small", "space": "tiny", "budgets": [BUDGET], "data": DATA, "retrain": RECIPE | (recipe or {}), **values}
    )


def small_run(root: Path, study: Study) -> Run:
    """A run with data, a genotype and networks.json: all that a retraining needs."""
    run = open_run(Path(tempfile.mkdtemp(dir=root)) / "run", study)
    store = prepare(study, run).store
    rng = np.random.default_rng(0)
    save(run.genotype(BUDGET), random_genotype(load_space("tiny"), 8, 3, store.channels, store.classes, rng, 2000, BUDGET))
    write_networks(run, planned_networks(study, run, store))
    return run


def run_here(stage: str, function: Any, specs: Any, resources: Any, run: Run) -> None:
    """`trials.run_trials` without Ray: one after the other, in this process."""
    for spec in specs:
        if not spec.trial.done:
            function(spec.arguments, spec.trial, lambda row: None)


def run_with_manifest(stage: str, function: Any, specs: Any, resources: Any, run: Run) -> None:
    """`run_here` as the real one does it: with the manifest of the stage, rungs, and trials that fail."""
    manifest, failed = Manifest(run, stage, resources), {}
    for spec in specs:
        manifest.add(spec.name, spec.trial, spec.arguments, spec.epochs)
    for spec in specs:
        if spec.trial.settled:
            continue
        manifest.start(spec.name)
        try:
            function(spec.arguments, spec.trial, lambda row: None)
            manifest.set(spec.name, spec.trial.state)
        except ThriftyError as error:
            failed[spec.name] = str(error)
            manifest.set(spec.name, "failed", str(error))
    manifest.write()
    if failed:
        bear(stage, failed, len(specs), resources, run)
