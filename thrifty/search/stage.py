"""`thrifty search`: seeds x budget settings as trials, then their genotypes as the first candidates."""

from __future__ import annotations

from typing import Any

from thrifty.config import Study
from thrifty.data.prepare import prepare
from thrifty.results import Run, read_json, write_jsonl
from thrifty.search.setting import Setting, settings_of
from thrifty.search.trial import search_trial
from thrifty.space.schema import pin_space


def run_stage(study: Study, run: Run) -> None:
    """Runs the searches that are not done yet and writes candidates.jsonl.

    Raises:
        ThriftyError: bad data, a budget too small, or trials that failed.
    """
    from thrifty.trials import Spec, run_trials

    prepared = prepare(study, run)
    space = pin_space(study, run)
    settings = settings_of(study, space, prepared.store.channels, prepared.store.classes)
    keys = [(setting, seed) for setting in settings for seed in study.search_seeds]
    specs = [Spec(s.trial(seed), run.search_trial(s.trial(seed)), arguments(study, run, s, seed), s.epochs) for s, seed in keys]
    run_trials("search", search_trial, specs, study.resources, run)
    write_jsonl(run.candidates, [candidate(run, spec.name) for spec in specs])


def arguments(study: Study, run: Run, setting: Setting, seed: int) -> dict[str, Any]:
    return {"run": str(run.root), "setting": setting.as_json(), "seed": seed, **study.resources.as_arguments()}


def candidate(run: Run, name: str) -> dict[str, Any]:
    """The genotype of a finished search, with where it came from."""
    trial = run.search_trial(name)
    result = read_json(trial.result)
    kept = ("trial", "seed", "budget", "bounded", "width", "levels", "parameters", "genotype_hash", "dice", "collapsed")
    return {**{key: result[key] for key in kept}, "genotype": read_json(trial.genotype)}
