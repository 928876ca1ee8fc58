"""The pool: every genotype that a search has decoded along the way, with where it came from and how often.

A search decodes once an epoch, so its record (epochs.jsonl) has the genotypes that it passed; what it decodes at its end is the
last of them. Those of the warm-up say nothing and are left out. Two genotypes that build the same network are one entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from thrifty.config import Study
from thrifty.results import Run, read_jsonl, write_jsonl
from thrifty.space.cost import count
from thrifty.space.genotype import Genotype, canonical_json, from_json, genotype_hash, to_json


@dataclass(frozen=True)
class Origin:
    """Where a genotype was decoded: the search, its budget setting (parameters), and the epochs in which that was so.

    `left` is the number of epochs that the search still had to go after the last of them: 0 is what it ended with.
    """

    trial: str
    budget: int
    epochs: tuple[int, ...]
    left: int


@dataclass(frozen=True)
class Pooled:
    """One network of the pool. Of its labelled forms `genotype` is the one decoded most often, of equals the most recent."""

    genotype: Genotype
    hash: str
    parameters: int
    origins: tuple[Origin, ...]

    @property
    def times(self) -> int:
        """Epochs, over all searches, that decoded it."""
        return sum(len(origin.epochs) for origin in self.origins)

    @property
    def left(self) -> int:
        """Of its most recent origin."""
        return min(origin.left for origin in self.origins)

    def rank(self) -> tuple[int, int, int, str]:
        """The key by which the pool is sorted: the most frequent first, of equals the most recent, then the smaller."""
        return -self.times, self.left, self.parameters, self.hash

    def as_json(self) -> dict[str, Any]:
        shape = {"width": self.genotype.width, "levels": self.genotype.levels}
        counts = {"hash": self.hash, "parameters": self.parameters, **shape, "times": self.times, "left": self.left}
        return {**counts, "origins": [asdict(origin) for origin in self.origins], "genotype": to_json(self.genotype)}


@dataclass
class _Entry:
    """What is gathered of one network."""

    forms: dict[str, list[int]] = field(default_factory=dict)  # by labelled genotype, the epochs left at each decoding
    genotypes: dict[str, Genotype] = field(default_factory=dict)
    epochs: dict[str, list[tuple[int, int]]] = field(default_factory=dict)  # by trial, (epoch, epochs left)

    def add(self, genotype: Genotype, trial: str, epoch: int, left: int) -> None:
        key = canonical_json(genotype)
        self.genotypes[key] = genotype
        self.forms.setdefault(key, []).append(left)
        self.epochs.setdefault(trial, []).append((epoch, left))

    def best_form(self) -> Genotype:
        return self.genotypes[min(self.forms, key=lambda key: (-len(self.forms[key]), min(self.forms[key]), key))]


def gather_pool(study: Study, run: Run) -> list[Pooled]:
    """The pool of all finished searches, in its order.

    Raises:
        ThriftyError: a file of a search that cannot be read.
    """
    entries: dict[str, _Entry] = {}
    budgets: dict[str, int] = {}
    for row in read_jsonl(run.candidates):
        budgets[row["trial"]] = row["budget"]
        for genotype, epoch, left in _decoded(study, run, row):
            entries.setdefault(genotype_hash(genotype), _Entry()).add(genotype, row["trial"], epoch, left)
    pool = [_pooled(name, entry, budgets) for name, entry in entries.items()]
    return sorted(pool, key=Pooled.rank)


def write_pool(run: Run, pool: Sequence[Pooled]) -> None:
    write_jsonl(run.pool, [entry.as_json() for entry in pool])


def _decoded(study: Study, run: Run, candidate: dict[str, Any]) -> list[tuple[Genotype, int, int]]:
    """(genotype, epoch, epochs left) of each epoch after the warm-up; only the outcome where the record has no genotypes."""
    record = read_jsonl(run.search_trial(candidate["trial"]).record)
    last = max(len(record) - 1, 0)
    known = {k: row["genotype"] for k, row in enumerate(record) if k >= study.search.warmup and "genotype" in row}
    known[last] = candidate["genotype"]
    return [(from_json(value, study.allow_code), epoch, last - epoch) for epoch, value in sorted(known.items())]


def _pooled(name: str, entry: _Entry, budgets: dict[str, int]) -> Pooled:
    genotype = entry.best_form()
    origins = tuple(
        Origin(trial, budgets[trial], tuple(epoch for epoch, _ in seen), min(left for _, left in seen))
        for trial, seen in sorted(entry.epochs.items())
    )
    return Pooled(genotype, name, count(genotype), origins)
