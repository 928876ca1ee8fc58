"""The experiments behind docs/LOG.md: a shipped study at one budget, what is searched how, and what it is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field

SOFTMAX = "search.relaxation=softmax"
HALF = (SOFTMAX, "search.hard=0.5")
VARIANTS: dict[str, tuple[str, ...]] = {
    "default": HALF,
    "one_sided_0.2": (*HALF, "search.temperature=0.2", "search.fill=0", "search.guard.curvature=0.75"),
    "mixture": (SOFTMAX, "search.hard=0", "search.temperature=1"),
    "hard": (SOFTMAX, "search.hard=1"),
    "gumbel": ("search.relaxation=gumbel", "search.hard=1"),
    "one_shot": (SOFTMAX, "search.hard=1", "search.temperature=1"),
    "beta_decay": (*HALF, "search.beta_decay=0.5"),
    "partial": (*HALF, "search.partial=4"),
}
"""Settings of the search by name, as overrides of a study. "default" is what was the default when its rows were made; today's is
"gumbel"."""


@dataclass(frozen=True)
class Experiment:
    """A study at one budget (parameters). `randoms` genotypes that use 85-100 % of it are trained with each of `random_seeds`;
    each variant is searched with each of `seeds`, and what it decodes is trained with the same seed."""

    study: str
    budget: int
    variants: tuple[str, ...] = ("default",)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    randoms: int = 16
    random_seeds: tuple[int, ...] = (0, 1)
    widths: tuple[int, ...] = ()  # other widths than the derived one, each with three random genotypes that fill the budget
    baselines: tuple[str, ...] = ("scaled_unet", "unet", "unetpp")
    overrides: tuple[str, ...] = field(default=())


DSB2018, HIPPOCAMPUS = ("search.steps=10",), ("search.steps=16",)
EXPERIMENTS = {
    "dsb2018_30000": Experiment(
        "dsb2018", 30_000, ("default", "one_sided_0.2"), random_seeds=(0,), widths=(12, 20, 24), overrides=DSB2018
    ),
    "dsb2018_100000": Experiment("dsb2018", 100_000, randoms=5, random_seeds=(0,), widths=(42, 50), overrides=DSB2018),
    "hippocampus_5000": Experiment("hippocampus", 5_000, tuple(VARIANTS), overrides=HIPPOCAMPUS),
    "hippocampus_20000": Experiment("hippocampus", 20_000, tuple(VARIANTS), overrides=HIPPOCAMPUS),
}
