"""The study: one typed, closed, frozen configuration, read from YAML plus `key=value` overrides.

Every key has a default except `name` and `budgets`, so a study file shows only what is particular to it. All mistakes of a
file are reported at once, each with the nearest allowed name.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WrapValidator,
    field_validator,
    model_validator,
)

from thrifty.errors import ThriftyError, mask, nearest, one_line
from thrifty.storage import clean_url, is_url, working_copy

SCHEMA = 1  # of run.yaml, and with it of all files of a run folder that have no version of their own
LARGEST_SEED = 2**32 - 1  # of numpy, scikit-learn and Optuna
PositiveInt = Annotated[int, Field(gt=0, strict=True)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED, strict=True)]
Share = Annotated[float, Field(ge=0, le=1)]
Keep = Literal["best", "last", "all"]
T = TypeVar("T", bound=BaseModel)


def say(allowed: str) -> WrapValidator:
    """For a key of several types: one message of what is allowed, instead of one for each type."""

    def validate(value: Any, inner: Callable[[Any], Any]) -> Any:
        try:
            return inner(value)
        except ValidationError:
            raise ValueError(allowed) from None

    return WrapValidator(validate)


def distinct(values: Any) -> Any:
    if isinstance(values, tuple) and len(set(values)) < len(values):
        raise ValueError("it has the same entry twice")
    return values


def seeds_of(value: int | tuple[int, ...]) -> tuple[int, ...]:
    """A number n of seeds stands for 0 .. n-1."""
    return tuple(range(value)) if isinstance(value, int) else value


Seeds = Annotated[
    PositiveInt | Annotated[tuple[Seed, ...], Field(min_length=1)],
    say(f"give a number of seeds, at least 1, or a list of at least one seed, each from 0 to {LARGEST_SEED}"),
]
Patch = Annotated[
    PositiveInt | tuple[PositiveInt, PositiveInt], say("give one number of pixels, at least 1, or two as [rows, columns]")
]

ClassWeights = Annotated[
    Literal["balanced"] | Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)],
    say("give 'balanced', or a list of numbers above 0, one for each output of the network, as in [1, 4]"),
]


class Section(BaseModel):
    """A part of a study: unknown keys are errors, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Phantoms(Section):
    """The embedded data set: synthetic organs drawn with scikit-image from a seed."""

    cases: Annotated[int, Field(ge=8)] = 64
    patients: Annotated[int, Field(ge=4)] = 32
    size: Annotated[int, Field(ge=16)] = 64
    classes: Annotated[int, Field(ge=2, le=6)] = 3
    seed: Seed = 0


class Augment(Section):
    """Augmentation of training batches; a probability or a range of 0 switches a part off."""

    flip: Share = 0.5
    rotate_degrees: Annotated[float, Field(ge=0, le=180)] = 20.0
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.15
    affine: Share = 0.5
    intensity: Annotated[float, Field(ge=0, lt=1)] = 0.2
    noise: Annotated[float, Field(ge=0)] = 0.05


class Fractions(Section):
    """Shares of the patients in the four disjoint sets."""

    weights: Share = 0.4
    architecture: Share = 0.2
    selection: Share = 0.15
    test: Share = 0.25

    @model_validator(mode="after")
    def _sum(self) -> Fractions:
        total = self.weights + self.architecture + self.selection + self.test
        if abs(total - 1) > 1e-6 or min(self.weights, self.architecture, self.selection, self.test) <= 0:
            raise ValueError(f"the four shares must each be above 0 and sum to 1, they sum to {total:g}")
        return self


class Data(Section):
    """Where the images are and how they are cut, split and normalised."""

    source: str = "phantoms"  # 'phantoms', or a folder: absolute, or relative to THRIFTY_DATA
    patch: Patch = 64  # rows, columns of a training patch, pixels
    foreground: Share = 0.33  # share of the patches centred on a foreground pixel
    slice_axis: Literal[0, 1, 2] = 2  # NIfTI volumes become slices across this axis
    normalisation: Literal["dataset", "case"] = "dataset"  # z-score by training cases, or by each case itself
    foreground_of: Literal["case", "set"] = "case"  # such a patch shows a class of its case, or any class, maybe of another case
    ignore: Annotated[int, Field(ge=1, le=65535, strict=True)] | None = None  # value in masks/ of pixels that count nowhere
    rois: str | None = None  # folder of regions of interest beside the images; None: rois/, if there is one
    splits: str | None = None  # the user's own splits.json
    fractions: Fractions = Fractions()
    split_seed: Seed = 0
    max_cases: PositiveInt | None = None  # for a first try: only so many cases, whole patients
    augment: Augment = Augment()
    phantoms: Phantoms = Phantoms()

    @property
    def patch_size(self) -> tuple[int, int]:
        return (self.patch, self.patch) if isinstance(self.patch, int) else self.patch


class Loss(Section):
    """The loss of searches, short trainings and retrainings. See docs/labels.md for the formulas."""

    name: Literal["dice_ce", "dice", "ce", "focal", "dice_focal", "tversky"] = "dice_ce"
    class_weights: ClassWeights | None = None  # one for each output of the network, or 'balanced' by the training pixels
    gamma: Annotated[float, Field(ge=0)] = 2.0  # focal and dice_focal: how much less easy pixels count
    alpha: Annotated[float, Field(gt=0)] = 0.3  # tversky: weight of false positives
    beta: Annotated[float, Field(gt=0)] = 0.7  # tversky: weight of false negatives


class Optimiser(Section):
    name: Literal["sgd", "adamw"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 3e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # sgd only
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    clip: Annotated[float, Field(ge=0)] = 5.0  # largest gradient norm; 0: no clipping


class Architecture(Section):
    """Adam on the architecture parameters (alpha, beta, gamma, depth)."""

    lr: Annotated[float, Field(gt=0)] = 1e-2
    betas: tuple[Share, Share] = (0.5, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 1e-3


class Guard(Section):
    """Against collapse: what makes a search go back to its last good architecture and keep it."""

    parameter_free: Share = 0.8  # acts at this share of parameter-free ops, if the budget would allow others
    curvature: Annotated[float, Field(ge=0, lt=1)] = 0.0  # acts when the dominant eigenvalue was below this times today's; 0: off
    window: PositiveInt = 3  # epochs over which eigenvalues are averaged, and after which they are compared


class Halving(Section):
    """Successive halving of the searches of a budget setting over its seeds: docs/halving.md."""

    reference: Annotated[int, Field(ge=0, strict=True)] = 3  # the first so many seeds are never stopped: statistics are theirs
    eta: Annotated[int, Field(ge=2, strict=True)] = 3  # at a rung the best 1/eta of the other seeds go on
    rungs: PositiveInt = 2  # the last one after 1/eta of the epochs that follow the warm-up, the one before after 1/eta^2, ...


class Search(Section):
    """One differentiable search. An epoch is `steps` two-level steps."""

    epochs: PositiveInt = 20
    steps: PositiveInt = 20
    batch: PositiveInt = 8
    warmup: Annotated[int, Field(ge=0)] = 5  # epochs in which only the weights learn
    weights: Optimiser = Optimiser()
    architecture: Architecture = Architecture()
    relaxation: Literal["softmax", "gumbel"] = "gumbel"  # architecture steps on the mixture, or on sampled networks
    hard: Share = 1.0  # share of the weight steps that train sampled networks instead of the mixture; softmax wants 0.5
    samples: PositiveInt = 1  # networks that are sampled for a step, each for its part of the batch
    temperature: Annotated[float, Field(gt=0, le=1)] = 0.05  # the logits are divided by it; falls from 1 to this
    beta_decay: Annotated[float, Field(ge=0)] = 0.0  # weight of the regulariser of beta-DARTS at the end; 0: none
    guard: Guard = Guard()
    prune: Annotated[int, Field(ge=0)] = 0  # epochs after which an op that stays last on its edge is dropped; 0: never
    partial: Literal[1, 2, 4, 8] = 1  # partial channels: an op sees 1/partial of them (PC-DARTS)
    edges: Literal["pairs", "softmax"] = "pairs"  # edge weights: inclusion in the kept pair, or DARTS' plain softmax
    gates: Literal["chain", "two_logits"] = "chain"  # gamma of a node: one logit, or two (on, off) as in the source
    depth: Literal["fixed", "searched"] = "fixed"  # searched: a network may have fewer levels than its budget setting
    decoding: Literal["exact", "source"] = "exact"  # 'source' knows no budget: exact where a budget gives parameters
    penalty: Annotated[float, Field(ge=0)] = 1.0  # rho of the augmented Lagrangian on the budget
    fill: Share = 0.9  # share of the budget that the expected size is kept above; 0: none
    scheduler: Literal["none", "halving"] = "none"  # halving: searches that do badly are stopped early; not to measure robustness
    halving: Halving = Halving()

    def rung_epochs(self, epochs: int) -> tuple[int, ...]:
        """After how many epochs of a search of `epochs` its rungs are, in order.

        None in the warm-up, in which nothing of the architecture is learnt, and none at the end.
        """
        searched, eta = epochs - self.warmup, self.halving.eta
        found = {self.warmup + math.ceil(searched / eta**k) for k in range(self.halving.rungs, 0, -1)}
        return tuple(sorted(found - {epochs}))

    @property
    def samples_alone(self) -> bool:
        """Whether every step runs sampled networks, and none the mixture."""
        return self.relaxation == "gumbel" and self.hard == 1

    @model_validator(mode="after")
    def _curvature_of_a_mixture(self) -> Search:
        if self.guard.curvature and self.relaxation == "gumbel":
            raise ValueError(
                "guard.curvature is of the loss of the mixture, which relaxation=gumbel does not learn from; "
                "give guard.curvature=0 or relaxation=softmax"
            )
        return self

    @model_validator(mode="after")
    def _decodes_depth(self) -> Search:
        if self.depth == "searched" and self.decoding == "source":
            raise ValueError("decoding=source has no rule for a searched depth; give depth=fixed or decoding=exact")
        return self


class Select(Section):
    """Optuna over all searches together."""

    samples: Annotated[int, Field(ge=0)] = 24  # what Optuna samples for each budget, beside the decoded genotypes
    batch: PositiveInt = 8  # asked and told together: the choice depends on it, not on the number of workers
    sampler: Literal["tpe", "nsga2", "random"] = "tpe"
    pool: Annotated[int, Field(ge=0)] = 6  # for each budget, of what searches decoded along the way: the most frequent are scored
    macs: PositiveInt | None = None  # most multiply-adds of one training patch that a candidate may have
    latency_ms: Annotated[float, Field(gt=0)] | None = None  # and most milliseconds for it, measured on one CPU thread
    recalibrate: PositiveInt = 4  # training batches that renew the statistics of normalisation
    risk: Annotated[float, Field(ge=0)] = 0.0  # times the spread over the supernets, subtracted from the mean Dice
    seed: Seed = 0
    finalists: Annotated[int, Field(ge=0)] = 6  # for each budget: the best by inherited Dice are trained; 0 or 1: none is
    short_epochs: PositiveInt | None = None  # of these trainings; None: a quarter of retrain.epochs
    short_seeds: PositiveInt = 1  # trainings of each finalist; the mean of their Dice decides
    rounds: PositiveInt = 1  # of short trainings: each further one keeps 1/eta of the finalists and trains them eta times as long
    eta: Annotated[int, Field(ge=2, strict=True)] = 2


class ShortRound(NamedTuple):
    """One round of short trainings: how many finalists of each budget come into it, and the epochs of their trainings."""

    finalists: int
    epochs: int


class Retrain(Section):
    """From scratch: the same recipe, steps and seeds for every network."""

    epochs: PositiveInt = 30
    steps: PositiveInt = 20
    batch: PositiveInt = 8
    optimiser: Optimiser = Optimiser()
    validate_every: PositiveInt = 5  # epochs between two looks at the selection cases
    seeds: Seeds = 3
    random: Annotated[int, Field(ge=0)] = 3  # random genotypes for each budget
    decoded: bool = False  # what every search decoded by itself too: shows how much hangs on the search seed
    baselines: tuple[Literal["unet", "unetpp", "scaled_unet"], ...] = ("scaled_unet", "unet", "unetpp")
    folds: PositiveInt = 1  # 1: the split as it is; k: cross-validation outside the test set
    postprocess: Literal["auto", "none"] = "auto"  # auto: largest part, holes filled, where the selection cases gain by it

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: Any) -> Any:
        return distinct(value)


class Evaluate(Section):
    window: PositiveInt = 512  # images larger than this are predicted by a sliding window of this size, pixels
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5
    batch: PositiveInt = 8
    robustness: bool = True  # objects, surfaces and calibration of every training, and worse images for the first seed
    corruption_cases: PositiveInt = 100  # test cases that are made worse at most: whole patients
    surface_tolerance: Annotated[float, Field(gt=0)] = 2.0  # of NSD: mm where the spacing is known, otherwise pixels
    transfer: str | None = None  # a second data set, named as data.source: all of its cases are test cases
    nnunet: str | None = None  # summary.json of nnU-Net on the test cases, absolute or below THRIFTY_DATA


class Resources(Section):
    """What the machine gives; it may change between two runs of the same study."""

    cpus_per_trial: PositiveInt = 1
    gpus_per_trial: Annotated[float, Field(ge=0)] = 0.0
    concurrent: PositiveInt | None = None  # trials at once; None: as many as fit
    max_failures: Annotated[int, Field(ge=-1)] = 3  # retries of a trial whose worker died; -1: no end
    max_failed_trials: Annotated[int, Field(ge=0, strict=True)] = 0  # with more given up the study stops: `--max-failures`
    device: Literal["auto", "cpu", "cuda"] = "auto"
    keep: Keep = "best"  # of a finished trial: the best weights alone, or its last checkpoint too, or that of every epoch
    tensorboard: bool = True  # the curves of every trial also as a file of TensorBoard's, in its folder
    trackers: Annotated[tuple[Literal["mlflow", "wandb"], ...], say("give a list of mlflow and wandb, as in [mlflow]")] = ()
    trial_hours: Annotated[float, Field(gt=0)] | None = None  # a trial that has run for longer is given up
    max_cpu_hours: Annotated[float, Field(gt=0)] | None = None  # of all trials of the study; then it stops cleanly
    max_gpu_hours: Annotated[float, Field(gt=0)] | None = None
    profile: bool = False  # searches measure where their time goes

    def as_arguments(self) -> dict[str, Any]:
        """What a trial function is told of its share of the machine."""
        found: dict[str, Any] = {"device": self.device, "cpus": self.cpus_per_trial, "gpus": self.gpus_per_trial}
        return found | ({"profile": True} if self.profile else {})


class Budget(Section):
    """One budget setting of the searches. Width and levels are derived from the budget where they are not given.

    Without `parameters` nothing limits the networks of that width.
    """

    parameters: PositiveInt | None = None
    width: PositiveInt | None = None
    levels: Annotated[int, Field(ge=2, le=8)] | None = None
    epochs: PositiveInt | None = None

    @model_validator(mode="after")
    def _parameters_or_width(self) -> Budget:
        if self.parameters is None and self.width is None:
            raise ValueError("give parameters, or a width for a search without a limit, as in {width: 32, levels: 5}")
        return self

    @property
    def label(self) -> str:
        """As it is called in messages."""
        return f"width {self.width} without a limit" if self.parameters is None else f"the budget of {self.parameters:,}"


class Study(Section):
    """What is run. See tune_runs/ for examples."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)]
    budgets: tuple[Budget, ...]
    space: str = "thrifty"  # a name in search_spaces/, or a path to a YAML file
    seeds: Seeds = 3  # of the searches: a number of them, or a list
    allow_code: bool = False  # ops given as module:Class run code of the user's own
    data: Data = Data()
    loss: Loss = Loss()
    search: Search = Field(Search(), validate_default=True)
    select: Select = Select()
    retrain: Retrain = Field(Retrain(), validate_default=True)
    evaluate: Evaluate = Evaluate()
    resources: Resources = Resources()

    @field_validator("budgets", mode="before")
    @classmethod
    def _plain_numbers(cls, value: Any) -> Any:
        values = value if isinstance(value, (list, tuple)) else [value]
        if not values:
            raise ValueError("give at least one budget, as in budgets=[30000]")
        return tuple(v if isinstance(v, (Mapping, Budget)) else {"parameters": v} for v in values)

    @field_validator("budgets", "seeds")
    @classmethod
    def _distinct(cls, value: Any) -> Any:
        return distinct(value)

    @field_validator("search")
    @classmethod
    def _something_is_searched(cls, value: Search, info: ValidationInfo) -> Search:
        for budget in info.data.get("budgets", ()):
            epochs = budget.epochs or value.epochs
            if value.warmup >= epochs:
                raise ValueError(
                    f"search.warmup is {value.warmup}, but the search for {budget.label} has only {epochs} "
                    f"epochs; nothing would be searched, give more epochs or a search.warmup below {epochs}"
                )
        return value

    @field_validator("search")
    @classmethod
    def _something_can_be_stopped(cls, value: Search, info: ValidationInfo) -> Search:
        if value.scheduler == "none" or "seeds" not in info.data:
            return value
        number, reference = len(seeds_of(info.data["seeds"])), value.halving.reference
        if number < reference + 2:
            raise ValueError(
                f"scheduler=halving needs at least two seeds beside the {reference} of search.halving.reference, the study has "
                f"{number} in all; give seeds={reference + 2} or more, or scheduler=none"
            )
        for budget in info.data.get("budgets", ()):
            if not value.rung_epochs(budget.epochs or value.epochs):
                raise ValueError(
                    f"scheduler=halving has no rung before the end of the search for {budget.label}, which has "
                    f"{budget.epochs or value.epochs} epochs, {value.warmup} of them warm-up; give more epochs, or scheduler=none"
                )
        return value

    @field_validator("retrain")
    @classmethod
    def _short_trainings_are_no_longer(cls, value: Retrain, info: ValidationInfo) -> Retrain:
        short = info.data["select"].short_epochs if "select" in info.data else None
        if short is not None and short > value.epochs:
            raise ValueError(
                f"retrain.epochs is {value.epochs}, but select.short_epochs is {short}: the short trainings that choose among "
                f"finalists would be longer than a retraining, give a select.short_epochs of at most {value.epochs}"
            )
        return value

    @property
    def search_seeds(self) -> tuple[int, ...]:
        return seeds_of(self.seeds)

    @property
    def racing_seeds(self) -> tuple[int, ...]:
        """The search seeds that can be stopped early; none without a scheduler."""
        return self.search_seeds[self.search.halving.reference :] if self.search.scheduler == "halving" else ()

    @property
    def short_epochs(self) -> int:
        """Epochs of the first round of short trainings among which the selection decides."""
        return self.select.short_epochs or math.ceil(self.retrain.epochs / 4)

    @property
    def short_rounds(self) -> tuple[ShortRound, ...]:
        """The rounds of short trainings, none where fewer than two finalists are wanted.

        No training is longer than a retraining, no round has fewer than two finalists or repeats the length of the one before.
        """
        found: list[ShortRound] = []
        for k in range(self.select.rounds):
            factor = self.select.eta**k
            finalists, epochs = math.ceil(self.select.finalists / factor), min(self.short_epochs * factor, self.retrain.epochs)
            if finalists < 2 or (found and epochs == found[-1].epochs):
                break
            found.append(ShortRound(finalists, epochs))
        return tuple(found)

    @property
    def retrain_seeds(self) -> tuple[int, ...]:
        return seeds_of(self.retrain.seeds)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The distinct parameter budgets that are given, smallest first; `thrifty.search.setting` has those of all settings."""
        return tuple(sorted({b.parameters for b in self.budgets if b.parameters is not None}))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ThriftyError: no such file, no permission, not YAML, or not a mapping.
    """
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ThriftyError(f"no such file: {path}; `thrifty ls` lists what is shipped") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ThriftyError(f"{path} cannot be read: {one_line(error)}") from None
    except yaml.YAMLError as error:
        raise ThriftyError(f"{path} is not valid YAML: {one_line(error)}") from None
    if not isinstance(value, dict):
        raise ThriftyError(f"{path} holds {type(value).__name__}, a mapping of keys to values is needed")
    return value


def read_values(path: Path) -> dict[str, Any]:
    """The keys of a study in a YAML file; run.yaml also has a schema version, which is checked and taken out.

    Raises:
        ThriftyError: as `read_yaml`; or another version wrote it.
    """
    values = read_yaml(path)
    if (schema := values.pop("schema", SCHEMA)) != SCHEMA:
        raise ThriftyError(
            f"{path} has schema {schema!r}, this version reads {SCHEMA}; use the version that wrote it, or another name="
        )
    return values


def apply_overrides(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """`values` with `a.b=value` overrides put in; the value is read as YAML.

    Raises:
        ThriftyError: an override without '=', or one that reaches into a plain value.
    """
    result = yaml.safe_load(yaml.safe_dump(dict(values)))
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ThriftyError(f"'{text}' is no override; write key=value, as in search.epochs=40")
        *parents, last = key.split(".")
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ThriftyError(f"override '{text}': '{parent}' is a plain value and has no keys below it")
        try:
            place[last] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ThriftyError(f"override '{text}' is not valid YAML: {one_line(error)}") from None
    return result


def read_study(path: Path, overrides: Iterable[str] = ()) -> Study:
    """The study in a YAML file, with overrides.

    Raises:
        ThriftyError: every mistake of the file at once, on one line.
    """
    values = apply_overrides(read_values(path), overrides)
    _refuse_credentials(values, path)
    return parse(Study, values, str(path))


def _refuse_credentials(values: Any, path: Path, where: str = "") -> None:
    """They would come into run.yaml, which people show to others."""
    if isinstance(values, (Mapping, list, tuple)):
        for key, value in values.items() if isinstance(values, Mapping) else enumerate(values):
            _refuse_credentials(value, path, f"{where}.{key}".removeprefix("."))
    elif isinstance(values, str) and mask(values) != values:
        raise ThriftyError(f"{path}: '{where}' has a user name or password in its URL ({values}); give it by the environment")


def parse(model: type[T], values: Mapping[str, Any], origin: str) -> T:
    """`values` as `model`; `origin` names the file in the error."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [_explain(model, dict(item)) for item in error.errors()]
        count = f"{len(lines)} mistakes: " if len(lines) > 1 else ""
        raise ThriftyError(f"{origin}: {count}" + "; ".join(dict.fromkeys(lines))) from None


def _explain(model: type[BaseModel], item: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"unknown key '{where}'" + nearest(str(item["loc"][-1]), _keys_beside(model, item["loc"]))
    if item["type"] == "missing":
        return f"'{where}' is missing"
    message = one_line(item["msg"]).removeprefix("Value error, ")
    if not where or message.startswith(where):
        return message
    came = one_line(repr(item["input"]))
    came = came if len(came) <= 60 else came[:57] + "..."
    if item["type"] == "literal_error":
        expected = item["ctx"]["expected"]
        message = f"allowed is {expected}" + nearest(str(item["input"]), re.findall("'([^']*)'", expected))
    elif item["type"] == "model_type":
        message = f"a mapping of keys to values is needed; keys are {', '.join(_keys_beside(model, (*item['loc'], '')))}"
    return f"'{where}' is {came}: {message}"


def _keys_beside(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """The allowed keys of the section that `location` points into."""
    here: Any = model
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        field = here.model_fields.get(part) if hasattr(here, "model_fields") else None
        here = _section(field.annotation) if field else None
    fields = getattr(here, "model_fields", {})
    return [field.alias or name for name, field in fields.items()]


def _section(annotation: Any) -> Any:
    """The section class inside an annotation such as tuple[Budget, ...]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if (found := _section(inner)) is not None:
            return found
    return None


def data_folder(source: str) -> Path:
    """Where `data.source` is: as it stands if absolute, otherwise below THRIFTY_DATA (the current folder by default)."""
    return Path(os.environ.get("THRIFTY_DATA", "."), source).expanduser().absolute()


def results_folder(name: str) -> Path:
    """The run folder of a study, below THRIFTY_RESULTS (./results by default; ~/thrifty_results in a Ray job, whose working
    folder is a copy that Ray removes). Where that is a URL it is this machine's working copy."""
    if (url := results_url(name)) is not None:
        return working_copy(url)
    default = "~/thrifty_results" if "working_dir_files" in Path.cwd().parts else "results"
    return Path(os.environ.get("THRIFTY_RESULTS", default), name).expanduser().absolute()


def results_url(name: str) -> str | None:
    """The URL of a study's run folder where THRIFTY_RESULTS is one, as s3://bucket/prefix; None where it is a folder.

    Raises:
        ThriftyError: credentials in it, or no place for results.
    """
    place = os.environ.get("THRIFTY_RESULTS", "")
    return clean_url(f"{clean_url(place)}/{name}") if is_url(place) else None
