"""Four disjoint sets of cases, grouped by patient: weights, architecture, selection, test.

Shares are shares of the patients. Which classes a patient shows is balanced over the sets where there are enough patients.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thrifty.config import Data
from thrifty.data.cases import SETS, Problems
from thrifty.data.store import Store
from thrifty.errors import ThriftyError, nearest
from thrifty.results import read_json, write_json

SCHEMA = 1


@dataclass(frozen=True)
class Splits:
    """The names of the cases in each set, in the order of the store."""

    weights: tuple[str, ...]
    architecture: tuple[str, ...]
    selection: tuple[str, ...]
    test: tuple[str, ...]
    seed: int | None = None  # None: the user's own file
    fingerprint: str | None = None  # of the store they were made for

    @property
    def training(self) -> tuple[str, ...]:
        """What retraining learns from."""
        return self.weights + self.architecture

    def sets(self) -> dict[str, tuple[str, ...]]:
        return {name: getattr(self, name) for name in SETS}


def make_splits(store: Store, data: Data) -> Splits:
    """Splits by `data.fractions`; the same for the same store and `data.split_seed`.

    Raises:
        ThriftyError: fewer patients than sets.
    """
    patients = sorted({case.patient for case in store.cases})
    if len(patients) < len(SETS):
        raise ThriftyError(f"{len(patients)} patients are fewer than the {len(SETS)} sets ({', '.join(SETS)}); give more cases")
    shares = data.fractions
    counts = _counts(len(patients), [getattr(shares, name) for name in SETS])
    classes = _classes_of_patients(store)
    parts: dict[str, list[str]] = {}
    left = patients
    for name in ("test", "selection", "architecture"):
        left, parts[name] = _take(left, counts[SETS.index(name)], classes, data.split_seed)
    parts["weights"] = left
    return _by_patients(store, parts, data.split_seed)


def fold(splits: Splits, store: Store, number: int, folds: int, seed: int) -> Splits:
    """Fold `number` of `folds`: its patients become the selection set, the test set stays locked.

    Former selection cases that are not held out join `weights`.

    Raises:
        ThriftyError: fewer patients outside the test set than folds, or no such fold.
    """
    from sklearn.model_selection import StratifiedKFold

    if folds < 2 or not 0 <= number < folds:
        raise ThriftyError(f"there is no fold {number} of {folds}; folds are 0..k-1 of k, with at least 2")
    patient_of = {case.name: case.patient for case in store.cases}
    patients = sorted({patient_of[name] for name in splits.training + splits.selection})
    if len(patients) < folds:
        raise ThriftyError(f"retrain.folds is {folds}, but there are only {len(patients)} patients outside the test set")
    kinds = _common_kinds(patients, _classes_of_patients(store), folds)
    cut = StratifiedKFold(folds, shuffle=True, random_state=_seed(seed)).split(patients, kinds)
    held = {patients[i] for i in list(cut)[number][1]}
    architecture = {patient_of[name] for name in splits.architecture} - held
    parts = {
        "weights": [p for p in patients if p not in held and p not in architecture],
        "architecture": sorted(architecture),
        "selection": sorted(held),
        "test": sorted({patient_of[name] for name in splits.test}),
    }
    kept = set(splits.training + splits.selection + splits.test)  # a user's file may leave cases out
    return _by_patients(store, parts, splits.seed, kept)


def write_splits(path: Path, splits: Splits) -> None:
    write_json(path, {"schema": SCHEMA, **asdict(splits)})


def read_splits(path: Path, store: Store) -> Splits:
    """Splits from a file: thrifty's own, or a user's mapping of the four sets to names of cases (or of whole volumes).

    Cases in none of the sets are allowed; the fingerprint is read, but a file of other data with the same cases will do.

    Raises:
        ThriftyError: everything wrong with it at once: a set that is missing or empty, an unknown case, a case listed twice,
            a patient in two sets.
    """
    value = read_json(path)
    _check_form(path, value)
    problems = Problems()
    volumes: dict[str, list[str]] = {}
    for case in store.cases:
        volumes.setdefault(case.volume or case.name, []).append(case.name)
    names = {part: _expand(value[part], volumes, store, problems) for part in SETS}
    _check_disjoint(names, store, problems)
    problems.raise_if_any(path, f"it must map {', '.join(SETS)} to names of cases, no patient in two of them")
    order = {case.name: i for i, case in enumerate(store.cases)}
    ordered = {part: tuple(sorted(names[part], key=order.__getitem__)) for part in SETS}
    return Splits(**ordered, seed=value.get("seed"), fingerprint=value.get("fingerprint"))


def left_out(splits: Splits, store: Store) -> int:
    """How many cases are in none of the sets."""
    return len(store.cases) - sum(len(names) for names in splits.sets().values())


def _check_form(path: Path, value: Any) -> None:
    if not isinstance(value, dict):
        raise ThriftyError(f"{path} holds no mapping; it must map {', '.join(SETS)} to lists of cases")
    allowed = (*SETS, "schema", "seed", "fingerprint")
    for key in value:
        if key not in allowed:
            raise ThriftyError(f"{path}: unknown key '{key}'{nearest(key, allowed)}; allowed are {', '.join(allowed)}")
    for part in SETS:
        names = value.get(part)
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            came = "is missing" if names is None else "is empty" if names == [] else "is no list of names"
            raise ThriftyError(f"{path}: the set '{part}' {came}; each of {', '.join(SETS)} needs a list of at least one case")
    if value.get("schema", SCHEMA) != SCHEMA:
        raise ThriftyError(f"{path} has schema {value['schema']!r}, this version reads {SCHEMA}")
    if not isinstance(value.get("seed"), int | None) or not isinstance(value.get("fingerprint"), str | None):
        raise ThriftyError(f"{path}: seed must be a whole number and fingerprint a text; both may be left out")


def _expand(listed: Iterable[str], volumes: Mapping[str, list[str]], store: Store, problems: Problems) -> list[str]:
    """`listed` with the names of volumes replaced by those of their slices."""
    known, names = {case.name for case in store.cases}, []
    for name in listed:
        if name not in known and name not in volumes:
            problems.add("unknown cases", name + nearest(name, known))
        names.extend([name] if name in known else volumes.get(name, []))
    return names


def _check_disjoint(names: Mapping[str, list[str]], store: Store, problems: Problems) -> None:
    for name, times in Counter(name for part in SETS for name in names[part]).items():
        if times > 1:
            problems.add("cases listed twice", name)
    patient_of, sets_of = {case.name: case.patient for case in store.cases}, dict[str, list[str]]()
    for part in SETS:
        for patient in dict.fromkeys(patient_of[name] for name in names[part]):
            sets_of.setdefault(patient, []).append(part)
    for patient, parts in sets_of.items():
        if len(parts) > 1:
            problems.add("patients in two sets", f"{patient} ({' and '.join(parts)})")


def _counts(patients: int, shares: list[float]) -> list[int]:
    """Patients of each set: at least one, otherwise by largest remainder, so that they sum to all."""
    exact = [share * patients for share in shares]
    counts = [max(1, int(value)) for value in exact]
    while sum(counts) != patients:
        short = sum(counts) < patients
        gaps = [value - count for value, count in zip(exact, counts, strict=True)]
        if short:
            counts[int(np.argmax(gaps))] += 1
        else:
            counts[int(np.argmin([gap if count > 1 else np.inf for gap, count in zip(gaps, counts, strict=True)]))] -= 1
    return counts


def _classes_of_patients(store: Store) -> dict[str, tuple[int, ...]]:
    """The classes that each patient's masks hold."""
    found: dict[str, set[int]] = {}
    for index, case in enumerate(store.cases):
        found.setdefault(case.patient, set()).update(store.present(index))
    return {patient: tuple(sorted(classes)) for patient, classes in found.items()}


def _common_kinds(patients: list[str], classes: Mapping[str, tuple[int, ...]], least: int) -> list[int]:
    """A number for each patient by the classes it shows; kinds with fewer than `least` patients join the most common."""
    counts = Counter(classes[p] for p in patients)
    ranked = [kind for kind, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    number = {kind: rank if counts[kind] >= least else 0 for rank, kind in enumerate(ranked)}
    return [number[classes[p]] for p in patients]


def _take(patients: list[str], count: int, classes: Mapping[str, tuple[int, ...]], seed: int) -> tuple[list[str], list[str]]:
    """`patients` without and with the `count` that are drawn, balanced by classes where both parts have room for each kind."""
    from sklearn.model_selection import train_test_split

    kinds = _common_kinds(patients, classes, least=2)
    room = min(count, len(patients) - count) >= len(set(kinds)) > 1
    rest, drawn = train_test_split(patients, test_size=count, random_state=_seed(seed), stratify=kinds if room else None)
    return sorted(rest), sorted(drawn)


def _seed(seed: int) -> int:
    return seed & 0xFFFFFFFF


def _by_patients(store: Store, parts: Mapping[str, list[str]], seed: int | None, kept: set[str] | None = None) -> Splits:
    part_of = {patient: part for part, patients in parts.items() for patient in patients}
    names: dict[str, list[str]] = {part: [] for part in SETS}
    for case in store.cases:
        if case.patient in part_of and (kept is None or case.name in kept):
            names[part_of[case.patient]].append(case.name)
    return Splits(**{part: tuple(found) for part, found in names.items()}, seed=seed, fingerprint=store.fingerprint)


def summary(splits: Splits, store: Store) -> dict[str, tuple[int, int]]:
    """Patients and cases of each set."""
    patient_of = {case.name: case.patient for case in store.cases}
    return {part: (len({patient_of[n] for n in names}), len(names)) for part, names in splits.sets().items()}
