"""The plain functions for other programs. `import thrifty` gives them, and imports nothing heavy before one is used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from thrifty.config import Study
    from thrifty.space.genotype import Genotype

STAGES = ("search", "select", "retrain", "evaluate", "report")


def read_study(study: str | Path, overrides: Iterable[str] = ()) -> Study:
    """A study from a YAML file or by the name of a shipped one, with overrides such as "search.epochs=40".

    Raises:
        ThriftyError: no such study, or mistakes in it, all told at once.
    """
    from thrifty.shelf import resolve_study

    return resolve_study(str(study), overrides)


def check_study(study: Study, timing: bool = True) -> None:
    """Prints what a study would work on and cost. Writes nothing.

    Args:
        study: from `read_study`.
        timing: also time single steps to estimate the cost.

    Raises:
        ThriftyError: whatever would stop the study.
    """
    from thrifty.check import check_study as check

    check(study, timing)


def run_study(study: Study, stages: Sequence[str] = STAGES, start: str | Path | None = None) -> Path:
    """Runs stages of a study, skipping what is done, and returns the run folder, which holds all that comes out.

    Args:
        study: from `read_study`.
        stages: of search, select, retrain, evaluate and report, in this order.
        start: folder of a trained network that is fine-tuned beside the others (a run with the stage retrain).

    Raises:
        ThriftyError: bad data, a budget too small, trials that failed; what has finished is kept.
    """
    from thrifty.cli import run_resolved
    from thrifty.errors import ThriftyError

    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown or not stages:
        raise ThriftyError(f"stages are {list(stages)}; allowed are {', '.join(STAGES)}")
    return run_resolved(study, list(stages), None if start is None else Path(start))


def read_genotype(path: str | Path, allow_code: bool = False) -> Genotype:
    """The genotype in a file, such as genotype_30000.json of a run folder.

    Args:
        path: of the JSON file.
        allow_code: lets ops of the form module:Class be imported.

    Raises:
        ThriftyError: no such file, or no genotype in it.
    """
    from thrifty.space.genotype import load

    return load(Path(path), allow_code)


def build_network(genotype: Genotype) -> nn.Module:
    """The network of a genotype with fresh weights: (B, channels, H, W) -> logits (B, classes, H, W).

    H and W must be multiples of its attribute `stride`.
    """
    from thrifty.nets.build import build_network as build
    from thrifty.nets.build import genotype_spec

    return build(genotype_spec("network", genotype, None))
