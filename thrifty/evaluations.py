"""select/evaluations.jsonl: what each candidate has scored, and the scoring of those that have no score yet.

A candidate is known by its labelled genotype, not by its canonical hash: forms of one network that differ in the names of their
inner nodes take their weights from different edges of the supernet, so they score differently (of equivalent ones the best
counts, `finalists.best_by_network`). Asking for the same labelled form again costs nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from thrifty.config import Study
from thrifty.results import Run, append_jsonl, drop_torn_line, read_jsonl
from thrifty.space.cost import count
from thrifty.space.genotype import Genotype, canonical_json, genotype_hash, to_json

if TYPE_CHECKING:
    from thrifty.scoring import Score


@dataclass(frozen=True)
class Candidate:
    """A genotype that is to have a score: the key of its group, its number there, the searches whose supernets score it (names
    of trials), and where it came from."""

    group: str
    number: int
    supernets: tuple[str, ...]
    origin: dict[str, Any]
    genotype: Genotype


class Record:
    """The scored candidates, each labelled genotype once: of several lines the last, which more supernets have scored. It grows
    by whole lines: what a killed driver left half written is dropped when the record is opened, and scored again."""

    def __init__(self, run: Run) -> None:
        self.path = run.evaluations
        drop_torn_line(self.path)
        self.known = {row["labelled"]: row for row in read_jsonl(self.path)}

    @property
    def rows(self) -> list[dict[str, Any]]:
        return list(self.known.values())

    def find(self, candidate: Candidate) -> dict[str, Any] | None:
        """Its row, if all the supernets that are to score it have done so: searches can have been added since."""
        row = self.known.get(labelled_key(candidate.genotype))
        return row if row is not None and set(candidate.supernets) <= row["by_supernet"].keys() else None

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        append_jsonl(self.path, rows)
        for row in rows:
            self.known[row["labelled"]] = row


def labelled_key(genotype: Genotype) -> str:
    """A short name of a labelled genotype."""
    return hashlib.sha256(canonical_json(genotype).encode()).hexdigest()[:16]


def score_missing(study: Study, run: Run, record: Record, candidates: Sequence[Candidate]) -> None:
    """Scores what has no score yet, in parallel, and adds it to the record in the order of `candidates`.

    Raises:
        ThriftyError: as `thrifty.trials.map_batches`.
    """
    from thrifty.scoring import score
    from thrifty.trials import map_batches

    todo: dict[str, Candidate] = {}
    for candidate in candidates:
        if record.find(candidate) is None:
            todo.setdefault(labelled_key(candidate.genotype), candidate)
    if not todo:
        return
    resources = study.resources
    shared = {"run": str(run.root), "cpus": resources.cpus_per_trial, "device": resources.device}
    items = [{**shared, "trials": list(c.supernets), "genotype": to_json(c.genotype)} for c in todo.values()]
    scores = map_batches(score, items, resources)
    record.add([_row(study, candidate, found) for candidate, found in zip(todo.values(), scores, strict=True)])


def _row(study: Study, candidate: Candidate, found: Score) -> dict[str, Any]:
    mean, spread = float(np.mean(found.dice)), float(np.std(found.dice))
    return {
        "group": candidate.group,
        "number": candidate.number,
        "labelled": labelled_key(candidate.genotype),
        "hash": genotype_hash(candidate.genotype),
        "parameters": count(candidate.genotype),
        "dice": mean,
        "spread": spread,
        "score": mean - study.select.risk * spread,
        "by_supernet": dict(zip(candidate.supernets, found.dice, strict=True)),
        "seconds": found.seconds,
        "origin": candidate.origin,
        "genotype": to_json(candidate.genotype),
    }
