"""`thrifty check`: what a study would work on and cost, before anything is spent. Writes nothing into the results folder."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from thrifty.config import Retrain, Study, results_folder, results_url
from thrifty.console import format_seconds
from thrifty.copies import brought, reading
from thrifty.doctor import LITTLE_GIB, free_gib
from thrifty.environment import gpus, usable_cores
from thrifty.errors import ThriftyError
from thrifty.preflight import gpu_is_elsewhere, validate
from thrifty.results import Run, check_run, read_json
from thrifty.space.cost import Costs
from thrifty.space.schema import Space, load_space
from thrifty.space.size import number_of_genotypes
from thrifty.storage import clean_url, is_url

if TYPE_CHECKING:
    from thrifty.data.prepare import Prepared
    from thrifty.nets.build import NetworkSpec
    from thrifty.search.setting import Setting


@dataclass(frozen=True)
class Estimate:
    """A kind of trial: how many there are, and about how many seconds one takes on this machine."""

    stage: str
    what: str
    trials: int
    seconds: float

    @property
    def total(self) -> float:
        return self.trials * self.seconds


@dataclass(frozen=True)
class Pace:
    """Seconds of one training step of a network, and of one look at all selection cases."""

    step: float
    look: float

    def seconds(self, recipe: Retrain) -> float:
        """Of a whole training."""
        from thrifty.scratch import is_validated

        looks = sum(is_validated(epoch, recipe) for epoch in range(recipe.epochs))
        return self.step * recipe.steps * recipe.epochs + self.look * looks


def check_study(study: Study, timing: bool = True, earlier: Path | None = None) -> None:
    """Prints the report line by line. The data set is decoded into a temporary folder, which is removed.

    Args:
        earlier: a run folder, or its URL, whose spread over seeds is the one to expect.

    Raises:
        ThriftyError: whatever would stop the study: its data, space, budgets, or a results folder of another study; or `earlier`
            has no spread over seeds.
    """
    from thrifty.submit import upload_lines

    for line in chain(examine(study, timing, earlier), upload_lines(Path("."))):
        print(line, flush=True)


def examine(study: Study, timing: bool, earlier: Path | None = None) -> Iterator[str]:
    from thrifty.data.prepare import prepare
    from thrifty.data.report import describe

    earlier_sd = None if earlier is None else spread_of(earlier)
    shown = clean_url(earlier) if earlier is not None and is_url(earlier) else earlier
    space = load_space(study.space, study.allow_code)
    root = results_folder(study.name)
    with reading(root, results_url(study.name)) as begun:
        if begun:
            check_run(root, study)
    with tempfile.TemporaryDirectory(prefix="thrifty_check_") as folder:
        prepared = prepare(study, Run(Path(folder)))
        data = describe(study.data, prepared.store, prepared.splits)
        yield from data.lines()
        settings = validate(study, prepared, space)
        for setting in settings:
            yield describe_setting(study, space, setting, prepared)
            if setting.bounded and study.search.decoding == "source":
                yield "note: search.decoding=source knows no budget, so the exact decoder decides under this one"
            if (deep := data.too_deep(setting.levels)) is not None:
                yield f"warning: {deep}"
        specs = networks(study, space, settings, prepared)
        yield trials_line(study, settings, len(specs))
        yield seeds_line(study, Run(root)) if earlier_sd is None else power_line(study, earlier_sd, f"of {shown}")
        if timing and gpu_is_elsewhere(study):
            yield "cost: not timed, the trials need a GPU and this machine has none"
        elif timing:
            yield from cost_lines(study, estimates(study, settings, specs, prepared))
    yield from machine_warnings(study, root)


def describe_setting(study: Study, space: Space, setting: Setting, prepared: Prepared) -> str:
    store = prepared.store
    costs = Costs(space, setting.width, setting.levels, store.channels, store.classes, depth=study.search.depth)
    number = number_of_genotypes(space, setting.levels, costs.depth)
    count = f"{number:,}" if number < 10**9 else f"about 10^{math.log10(number):.1f}"
    limit = "" if setting.bounded else " (none is set; the largest network of this width)"
    shape = f"width {setting.width}, {costs.levels_text}, {setting.epochs} epochs"
    return (
        f"budget {setting.budget:,} parameters{limit}: {shape}; space '{space.name}' has {count} genotypes there, from "
        f"{costs.smallest():,} to {costs.largest():,} parameters"
    )


def networks(study: Study, space: Space, settings: Sequence[Setting], prepared: Prepared) -> list[NetworkSpec]:
    """What would be retrained; what an undecided search decodes to stands for the genotypes."""
    from thrifty.nets.build import baseline_spec, genotype_spec
    from thrifty.networks import scaled_unet
    from thrifty.search.setting import by_budget
    from thrifty.space.decode import decode
    from thrifty.space.distribution import uniform

    channels, classes = prepared.store.channels, prepared.store.classes
    specs: list[NetworkSpec] = []
    for budget, setting in by_budget(settings).items():
        costs = Costs(space, setting.width, setting.levels, channels, classes, depth=study.search.depth)
        genotype = decode(uniform(space, setting.levels, costs.depth), costs, budget).genotype
        searches = len(study.search_seeds) * sum(other.budget == budget for other in settings)
        alike = 1 + study.retrain.random + (searches if study.retrain.decoded else 0)
        specs += [genotype_spec(f"found_{budget}", genotype, budget)] * alike
        if "scaled_unet" in study.retrain.baselines:
            specs.append(scaled_unet(setting, genotype))
    return specs + [baseline_spec(name, channels, classes) for name in ("unet", "unetpp") if name in study.retrain.baselines]


def trials_line(study: Study, settings: Sequence[Setting], networks: int) -> str:
    seeds, repeats, folds = len(study.search_seeds), len(study.retrain_seeds), study.retrain.folds
    by_fold = f" x {folds} folds" if folds > 1 else ""
    racing = f", {len(study.racing_seeds)} of them can be stopped early" if study.racing_seeds else ""
    searches = f"{seeds * len(settings)} searches ({seeds} seeds{racing} x {len(settings)} settings)"
    return (
        f"trials: {searches}, {_short_trainings(study, settings)}"
        f"{networks * repeats * folds} retrainings ({networks} networks x {repeats} seeds{by_fold})"
    )


def seeds_line(study: Study, run: Run) -> str:
    """Retraining seeds that tell a difference of Dice, from the spread in what the run folder holds, or else from a prior one."""
    from thrifty.statistics.power import PRIOR_SD

    found = sd_of(run) if run.summary.is_file() else None
    return power_line(study, *((PRIOR_SD, "a prior one") if found is None else (found, "of the results that are there")))


def spread_of(folder: Path) -> float:
    """The standard deviation of Dice over the retraining seeds of another run, within its found and random networks.

    Raises:
        ThriftyError: it is no run folder with an evaluation, or its networks have one seed each.
    """
    run = Run(brought(folder) if is_url(folder) else folder)
    if not run.summary.is_file():
        raise ThriftyError(f"{folder} has no summary.json; --earlier wants a run folder that `thrifty evaluate` has written to")
    if (found := sd_of(run)) is None:
        raise ThriftyError(
            f"{run.summary} has no spread over seeds: no found or random network has two retraining seeds; give another run, or "
            "none for the prior spread"
        )
    return found


def sd_of(run: Run) -> float | None:
    """The pooled standard deviation of the networks in summary.json; None where each has one seed.

    Raises:
        ThriftyError: the file is no summary.
    """
    from thrifty.statistics.study import pooled_sd

    try:
        listed = [(network["name"], network["dice"]) for network in read_json(run.summary)["networks"]]
        return pooled_sd([dice for name, dice in listed if name.startswith(("found_", "decoded_", "random_"))])
    except (KeyError, TypeError, AttributeError):
        raise ThriftyError(f"{run.summary} is no summary of networks; `thrifty evaluate STUDY.yaml` writes one") from None


def power_line(study: Study, sd: float, source: str) -> str:
    from thrifty.statistics.power import detectable, seeds_needed
    from thrifty.statistics.study import POINTS

    needed = ", ".join(f"{seeds_needed(points / 100, sd) or 'too many'} for {points:g}" for points in POINTS)
    number = len(study.retrain_seeds)
    least = detectable(sd, number)
    now = "one alone tells nothing" if least is None else f"the {number} of this study tell {100 * least:.2f}"
    return (
        f"seeds: to tell a difference of Dice, in points, with power 0.8 takes retrainings of each network: {needed}; {now} "
        f"(sd over seeds {100 * sd:.2f} points, {source})"
    )


def _short_trainings(study: Study, settings: Sequence[Setting]) -> str:
    """Fewer where budgets share finalists."""
    rounds, seeds = study.short_rounds, study.select.short_seeds
    budgets = len({setting.budget for setting in settings})
    if not rounds:
        return ""
    finalists = " + ".join(str(one.finalists) for one in rounds)
    number = sum(one.finalists for one in rounds) * budgets * seeds
    several = f"({finalists})" if len(rounds) > 1 else finalists
    return f"up to {number} short trainings ({several} finalists x {budgets} budgets x {seeds} seeds), "


def estimates(study: Study, settings: Sequence[Setting], specs: Sequence[NetworkSpec], prepared: Prepared) -> Iterator[Estimate]:
    """From single steps that are taken now, one kind of trial after the other."""
    from thrifty.search.halving import epochs_spent
    from thrifty.search.trial import time_search_step
    from thrifty.short import shortened
    from thrifty.train import seed_everything, threads_for

    seed_everything(0, threads_for(study.resources.cpus_per_trial))
    for setting in settings:
        epochs = fmean(epochs_spent(study, setting.epochs))
        seconds = time_search_step(study, prepared, setting) * study.search.steps * epochs
        yield Estimate("search", setting.key, len(study.search_seeds), seconds)
    repeats = len(study.retrain_seeds) * study.retrain.folds
    for name in dict.fromkeys(spec.name for spec in specs):
        same = [spec for spec in specs if spec.name == name]
        what = f"{name} and random genotypes" if len(same) > 1 else name
        pace = time_training(study, prepared, same[0])
        for place, one in enumerate(study.short_rounds if same[0].kind == "genotype" else ()):
            what_round = f" in round {place + 1}" if place else ""
            seconds = pace.seconds(shortened(study, place).retrain)
            yield Estimate("select", f"short trainings for {name}{what_round}", one.finalists * study.select.short_seeds, seconds)
        yield Estimate("retrain", what, len(same) * repeats, pace.seconds(study.retrain))


def time_training(study: Study, prepared: Prepared, spec: NetworkSpec) -> Pace:
    """One step and one look at a selection case, taken after one of each to warm up."""
    from thrifty.inference import mean_dice
    from thrifty.nets.build import build_network
    from thrifty.scratch import make_trainee
    from thrifty.train import choose_device

    recipe, device = study.retrain, choose_device(study.resources.device)
    one = study.model_copy(update={"retrain": recipe.model_copy(update={"steps": 1, "epochs": 4, "validate_every": 4})})
    trainee = make_trainee(build_network(spec).to(device), one, prepared, prepared.splits, 0, device)
    trainee.epoch(0)
    start = time.perf_counter()
    trainee.epoch(1)
    step = time.perf_counter() - start
    case = prepared.store.indices(prepared.splits.selection[:1])
    start = time.perf_counter()
    mean_dice(trainee.network, prepared.store, case, trainee.normalisation, study.evaluate, device)
    look = (time.perf_counter() - start) * len(prepared.splits.selection)
    return Pace(step, look)


def cost_lines(study: Study, kinds: Iterator[Estimate]) -> Iterator[str]:
    total = 0.0
    for item in kinds:
        total += item.total
        yield f"cost of {item.stage} {item.what}: {item.trials} x about {format_seconds(item.seconds)}"
    at_once = max(1, usable_cores() // study.resources.cpus_per_trial)
    at_once = min(at_once, study.resources.concurrent or at_once)
    yield (
        f"cost: about {format_seconds(total)} of trials, {format_seconds(total / at_once)} with {at_once} at once here "
        "(searches and trainings, from single steps timed now; the scores of the selection and evaluation come on top)"
    )


def machine_warnings(study: Study, root: Path) -> Iterator[str]:
    existing, free = free_gib(root)
    if free < LITTLE_GIB:
        yield f"warning: only {free:.1f} GiB free in {existing}; set THRIFTY_RESULTS to another folder"
    if gpus() and study.resources.gpus_per_trial == 0:
        yield "warning: this machine has a GPU and trials would not use it; give resources.gpus_per_trial=0.5, or 1"
