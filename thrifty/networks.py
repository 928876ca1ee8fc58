"""Which networks are retrained and compared: for every budget the found one, what each search decoded by itself (where the study
wants it), random ones and a scaled U-Net; U-Net, UNet++."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from thrifty.config import Study
from thrifty.errors import ThriftyError
from thrifty.nets.build import NetworkSpec, baseline_spec, genotype_spec
from thrifty.results import Run, read_json, write_json
from thrifty.search.setting import Setting, by_budget, settings_of
from thrifty.space.cost import Costs, count
from thrifty.space.genotype import Genotype, canonical, genotype_hash, load
from thrifty.space.sample import random_genotype
from thrifty.space.schema import run_space
from thrifty.start import read_start

if TYPE_CHECKING:
    from thrifty.data.store import Store

SCHEMA = 1
SEED = 0x7261_6E64  # of the random genotypes: 'rand', so that no other generator of a study starts alike
FILLS = 0.85  # share of its budget that a random genotype uses at least
REPEATS = 200  # draws in a row without a new genotype after which a space counts as exhausted
REFERENCES = ("unet", "unetpp")  # at their published size, whatever the budget
Key = tuple[str, int, int | None]
"""A trained network: its name, seed and fold (None without cross-validation)."""


def planned_networks(study: Study, run: Run, store: Store) -> list[NetworkSpec]:
    """The networks of a study in the order of the report.

    A run that fine-tunes a network needs no genotypes: without any, that network and the references are all.

    Raises:
        ThriftyError: a budget has no genotype yet, or one that does not fit budget or data; a budget that is too small.
    """
    channels, classes = store.channels, store.classes
    start = read_start(run, study.allow_code)
    specs = start.specs(channels, classes) if start else []
    if start is None or run.genotypes():
        specs += _of_budgets(study, run, store)
    return specs + [baseline_spec(name, channels, classes) for name in REFERENCES if name in study.retrain.baselines]


def _of_budgets(study: Study, run: Run, store: Store) -> list[NetworkSpec]:
    channels, classes = store.channels, store.classes
    space = run_space(study, run)
    specs: list[NetworkSpec] = []
    settings = settings_of(study, space, channels, classes)
    for budget, setting in by_budget(settings).items():
        found = found_genotype(study, run, store, budget)
        specs.append(genotype_spec(f"found_{budget}", found, budget))
        if study.retrain.decoded:
            specs += decoded_networks(study, run, [other for other in settings if other.budget == budget])
        costs = Costs(space, setting.width, setting.levels, channels, classes, depth=study.search.depth)
        for k, genotype in enumerate(random_genotypes(costs, found, room(setting, found), study.retrain.random)):
            specs.append(genotype_spec(f"random_{budget}_{k}", genotype, budget))
        if "scaled_unet" in study.retrain.baselines:
            specs.append(scaled_unet(setting, found))
    return specs


def decoded_networks(study: Study, run: Run, settings: Sequence[Setting]) -> list[NetworkSpec]:
    """What each search of these settings decoded, called after its trial; searches that are not done are left out."""
    trials = {setting.trial(seed): setting.budget for setting in settings for seed in study.search_seeds}
    return [
        genotype_spec(f"decoded_{name}", canonical(load(run.search_trial(name).genotype, study.allow_code)), budget)
        for name, budget in trials.items()
        if run.search_trial(name).done
    ]


def room(setting: Setting, found: Genotype) -> int:
    """The parameters that the rivals of a found network may have: the budget, or where none is set as many as it has itself."""
    return setting.budget if setting.bounded else count(found)


def scaled_unet(setting: Setting, found: Genotype) -> NetworkSpec:
    """The U-Net scaled in width to the budget of a setting, or to the size of the found network where there is none."""
    spec = baseline_spec("scaled_unet", found.channels, found.classes, room(setting, found))
    return replace(spec, name=f"scaled_unet_{setting.budget}", budget=setting.budget)


def found_genotype(study: Study, run: Run, store: Store, budget: int) -> Genotype:
    """The genotype chosen for a budget, or put there by hand.

    Raises:
        ThriftyError: there is none; it is over the budget; it is for other channels or classes than the data has.
    """
    path = run.genotype(budget)
    if not path.is_file():
        raise ThriftyError(f"no genotype for the budget {budget:,}: {path} is missing; `thrifty select STUDY.yaml` chooses one")
    genotype = load(path, study.allow_code)
    if count(genotype) > budget:
        size = count(genotype)
        raise ThriftyError(f"{path} has {size:,} parameters, more than the budget of {budget:,}; give a smaller one")
    if (genotype.channels, genotype.classes) != (store.channels, store.classes):
        raise ThriftyError(
            f"{path} is for {genotype.channels} channels and {genotype.classes} classes, the data has {store.channels} and "
            f"{store.classes}; give another genotype"
        )
    return genotype


def random_genotypes(costs: Costs, found: Genotype, budget: int, number: int) -> list[Genotype]:
    """`number` different random genotypes that use 85 to 100 % of the budget, at the width and levels of its searches.

    Where the depth is searched they have any of its numbers of levels, as `random_genotype` draws them. They differ from the
    found one and from each other as networks, not only in labels. Where the largest network of that width
    is smaller than the budget, its size takes the budget's place. Fewer come out where the space has no more.
    """
    setting = (costs.space, costs.width, costs.levels, costs.channels, costs.classes)
    low = math.ceil(FILLS * min(budget, costs.largest()))
    rng = np.random.default_rng([SEED, budget])
    seen = {genotype_hash(found)}
    drawn: list[Genotype] = []
    repeats = 0
    while len(drawn) < number and repeats < REPEATS:
        try:
            genotype = random_genotype(*setting, rng, low=low, high=budget, depth=costs.depth)
        except ThriftyError:  # so rare that none was met; the summary says that there are fewer
            break
        repeats += 1
        if (key := genotype_hash(genotype)) not in seen:
            seen.add(key)
            drawn.append(canonical(genotype))
            repeats = 0
    return drawn


def write_networks(run: Run, specs: list[NetworkSpec]) -> None:
    """Writes networks.json, the first file of the stage.

    Raises:
        ThriftyError: a network of that name but another structure has been trained already.
    """
    if run.networks.is_file():
        before = {value["name"]: value for value in read_json(run.networks)["networks"]}
        for spec in specs:
            folder = run.retrain / spec.name
            if before.get(spec.name, spec.as_json()) != spec.as_json() and folder.exists():
                raise ThriftyError(
                    f"{folder} was trained as another network than '{spec.name}' is now (its genotype has changed); "
                    "remove that folder to train it again"
                )
    write_json(run.networks, {"schema": SCHEMA, "networks": [spec.as_json() for spec in specs]})


def read_networks(run: Run, allow_code: bool = False) -> dict[str, NetworkSpec]:
    """The networks of networks.json by name, in its order.

    Raises:
        ThriftyError: no such file, or no description of networks in it.
    """
    value = read_json(run.networks)
    if not isinstance(value, dict) or value.get("schema") != SCHEMA or not isinstance(value.get("networks"), list):
        raise ThriftyError(f"{run.networks} is no list of networks of schema version {SCHEMA}")
    specs = [NetworkSpec.from_json(item, allow_code) for item in value["networks"]]
    return {spec.name: spec for spec in specs}


def trial_keys(study: Study, networks: Sequence[str]) -> list[Key]:
    """All trainings of the networks: first all with the first seed, so that each network soon has a result.

    The two large references come last: they take longer than all else together.
    """
    folds = [None] if study.retrain.folds == 1 else list(range(study.retrain.folds))
    keys = [(network, seed, fold) for seed in study.retrain_seeds for fold in folds for network in networks]
    return sorted(keys, key=lambda key: key[0] in REFERENCES)


def trial_name(run: Run, key: Key) -> str:
    return f"{key[0]}/{run.retrain_trial(*key).folder.name}"


def trial_arguments(study: Study, run: Run, key: Key) -> dict[str, Any]:
    """What a trial is told. The resources are those of now: in run.yaml may be those of an earlier machine."""
    network, seed, fold = key
    return {"run": str(run.root), "network": network, "seed": seed, "fold": fold, **study.resources.as_arguments()}
