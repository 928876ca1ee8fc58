"""`thrifty search`: seeds x budget settings as trials, then their genotypes as the first candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from thrifty.config import Study
from thrifty.data.prepare import prepare
from thrifty.errors import ThriftyError
from thrifty.results import Run, read_json, write_jsonl
from thrifty.search.halving import decide_rung, take_back, write_dropped
from thrifty.search.setting import Setting, settings_of
from thrifty.search.trial import search_trial
from thrifty.space.schema import pin_space

if TYPE_CHECKING:
    from thrifty.trials import Spec

Names = dict[int, str]
"""Of the searches of a setting, by seed."""


def run_stage(study: Study, run: Run) -> None:
    """Runs the searches that are not done yet and writes candidates.jsonl.

    With search.scheduler=halving the racing seeds run rung by rung, and the worst are stopped. The reference seeds, and those
    that are left, then run to their end.

    Raises:
        ThriftyError: bad data, a budget too small, more trials that failed than the study bears, or a budget without any search.
    """
    prepared = prepare(study, run)
    space = pin_space(study, run)
    settings = settings_of(study, space, prepared.store.channels, prepared.store.classes)
    race = {setting: {seed: setting.trial(seed) for seed in study.racing_seeds} for setting in settings}
    left = _race(study, run, race) if study.racing_seeds else race
    steady = [seed for seed in study.search_seeds if seed not in study.racing_seeds]
    keys = [(setting, seed) for setting in settings for seed in study.search_seeds if seed in steady or seed in left[setting]]
    _run(study, run, [spec(study, run, *key) for key in keys])
    take_back(run, [setting.trial(seed) for setting, seed in keys])
    every = [(setting, setting.trial(seed)) for setting in settings for seed in study.search_seeds]
    done = [(setting, name) for setting, name in every if run.search_trial(name).done]
    _check_budgets(settings, [setting for setting, _ in done])
    write_jsonl(run.candidates, [candidate(run, name) for _, name in done])


def _race(study: Study, run: Run, race: dict[Setting, Names]) -> dict[Setting, Names]:
    """Runs the racing searches from rung to rung; returns those that have come through all of them."""
    for number in range(study.search.halving.rungs):
        rungs = {s: epochs[number] for s in race if len(epochs := study.search.rung_epochs(s.epochs)) > number}
        specs = [spec(study, run, setting, seed, epochs) for setting, epochs in rungs.items() for seed in race[setting]]
        _run(study, run, specs)
        for setting, epochs in rungs.items():
            rung = decide_rung(study, run, setting, race[setting], epochs)
            write_dropped(study, run, setting, race[setting], rung)
            scores = ", ".join(f"seed {seed} {score:.4f}" for seed, score in rung.scores.items())
            went = f"{rung.number} of {len(rung.scores)} go on ({scores})"
            print(f"search: {setting.key} after {epochs} epochs: {went}", flush=True)
            race = race | {setting: {seed: race[setting][seed] for seed in rung.kept}}
    return race


def _run(study: Study, run: Run, specs: Sequence[Spec]) -> None:
    from thrifty.trials import run_trials

    run_trials("search", search_trial, specs, study.resources, run)


def spec(study: Study, run: Run, setting: Setting, seed: int, until: int | None = None) -> Spec:
    """The trial of a search, all of it or up to `until` epochs."""
    from thrifty.trials import Spec

    name = setting.trial(seed)
    values = arguments(study, run, setting, seed) | ({} if until is None else {"until": until})
    return Spec(name, replace(run.search_trial(name), pause=until), values, until or setting.epochs)


def _check_budgets(settings: Sequence[Setting], found: Sequence[Setting]) -> None:
    """
    Raises:
        ThriftyError: all searches for a budget failed, so nothing could be chosen for it.
    """
    for budget in {setting.budget for setting in settings} - {setting.budget for setting in found}:
        raise ThriftyError(f"no search for the budget {budget:,} has finished; others are kept, run the same command to go on")


def arguments(study: Study, run: Run, setting: Setting, seed: int) -> dict[str, Any]:
    return {"run": str(run.root), "setting": setting.as_json(), "seed": seed, **study.resources.as_arguments()}


def candidate(run: Run, name: str) -> dict[str, Any]:
    """The genotype of a finished search, with where it came from."""
    trial = run.search_trial(name)
    result = read_json(trial.result)
    kept = ("trial", "seed", "budget", "bounded", "width", "levels", "parameters", "genotype_hash", "dice", "collapsed")
    return {**{key: result[key] for key in kept}, "genotype": read_json(trial.genotype)}
