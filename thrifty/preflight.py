"""Mistakes of a study that its data bring to light: told together, before the first trial."""

from __future__ import annotations

import os
from collections.abc import Iterator

from thrifty.config import Study
from thrifty.data.prepare import Prepared
from thrifty.data.report import leak_error
from thrifty.data.sources import find_source
from thrifty.environment import gpus
from thrifty.errors import ThriftyError
from thrifty.losses import class_weights
from thrifty.nets.baselines import FILTERS, scaled_filters
from thrifty.robustness.transfer import second_data
from thrifty.search.setting import Setting, settings_of
from thrifty.space.cost import Costs
from thrifty.space.schema import Space

UNET_STRIDE = 2 ** (len(FILTERS) - 1)


def validate(study: Study, prepared: Prepared, space: Space) -> list[Setting]:
    """The settings of the searches, once nothing is left that would stop the study after hours of them.

    Raises:
        ThriftyError: every mistake found, on one line: budgets below the smallest network or the smallest scaled U-Net, more
            folds than patients, batches too small for batch normalisation, a device that is not there, one image of two
            patients.
    """
    channels, classes = prepared.store.channels, prepared.store.classes
    settings: list[Setting] = []
    problems: list[str] = []
    try:
        settings = settings_of(study, space, channels, classes)
    except ThriftyError as error:
        problems.append(str(error))
    problems += _baselines(study, settings, space, channels, classes)
    problems += _folds(study, prepared)
    problems += _batches(study, settings)
    problems += _loss(study, prepared)
    problems += _device(study)
    problems += filter(None, [leak_error(prepared.store), _second_data_set(study)])
    if problems:
        count = f"{len(problems)} mistakes: " if len(problems) > 1 else ""
        raise ThriftyError(f"study '{study.name}': {count}{'; '.join(problems)}")
    return settings


def _second_data_set(study: Study) -> str | None:
    """Whether it is there and has its pairs; that it has the same channels and classes is known when it is decoded."""
    if study.evaluate.transfer is None:
        return None
    try:
        find_source(second_data(study.data, study.evaluate.transfer))
    except ThriftyError as error:
        return f"evaluate.transfer: {error}"
    return None


def gpu_is_elsewhere(study: Study) -> bool:
    """Whether the trials need a GPU that this machine has not, but a cluster may have."""
    return study.resources.device == "cuda" and not gpus() and "RAY_ADDRESS" in os.environ


def _baselines(study: Study, settings: list[Setting], space: Space, channels: int, classes: int) -> Iterator[str]:
    """Where no budget is set the U-Net is scaled to the found network, which may be as small as the smallest one."""
    depth = study.search.depth
    free = [Costs(space, s.width, s.levels, channels, classes, depth=depth).smallest() for s in settings if not s.bounded]
    for budget in sorted({*study.sizes, *free}) if "scaled_unet" in study.retrain.baselines else ():
        try:
            scaled_filters(budget, channels, classes)
        except ThriftyError as error:
            yield str(error)


def _folds(study: Study, prepared: Prepared) -> Iterator[str]:
    splits, folds = prepared.splits, study.retrain.folds
    patient_of = {case.name: case.patient for case in prepared.store.cases}
    patients = len({patient_of[name] for name in splits.training + splits.selection})
    if folds > patients:
        yield f"retrain.folds is {folds}, but there are only {patients} patients outside the test set; give at most {patients}"


def _loss(study: Study, prepared: Prepared) -> Iterator[str]:
    try:
        class_weights(study.loss, prepared.store, prepared.store.indices(prepared.splits.training))
    except ThriftyError as error:
        yield str(error)


def _batches(study: Study, settings: list[Setting]) -> Iterator[str]:
    """Batch normalisation learns from at least two values a channel, at the lowest level too."""
    rows, columns = study.data.patch_size
    searched = max((2**setting.levels for setting in settings), default=1)
    retrained = max(searched, UNET_STRIDE) if study.retrain.baselines else searched
    for stage, batch, stride in (("search", study.search.batch, searched), ("retrain", study.retrain.batch, retrained)):
        if batch * -(-rows // stride) * -(-columns // stride) < 2:
            yield (
                f"{stage}.batch is {batch}, and of a patch of {rows}x{columns} pixels the lowest level (1/{stride} of the size) "
                f"sees one, too few for batch normalisation; give a {stage}.batch of at least 2, or a larger data.patch"
            )


def _device(study: Study) -> Iterator[str]:
    resources = study.resources
    if resources.device != "cuda":
        return
    if not gpus() and not gpu_is_elsewhere(study):
        yield "resources.device is cuda, but torch sees no GPU here (see `thrifty doctor`); give resources.device=auto or cpu"
    elif resources.gpus_per_trial == 0:
        yield "resources.device is cuda, but resources.gpus_per_trial is 0, so trials have none of their own; give 1, or 0.5"
