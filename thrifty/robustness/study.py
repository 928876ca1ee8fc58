"""What `evaluate` measures beside Dice of the test cases: its trials, its tables, and `robustness` of summary.json."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thrifty.config import Study
from thrifty.data.prepare import Prepared
from thrifty.metrics import present_classes
from thrifty.networks import Key
from thrifty.results import Run, Trial, read_json
from thrifty.robustness.calibration import calibration
from thrifty.robustness.disturbed import disturbed, disturbed_rows
from thrifty.robustness.nnunet import read_nnunet, taken_in
from thrifty.robustness.objects import sensitivity, size_bounds
from thrifty.robustness.patients import subgroups, worst_patients
from thrifty.robustness.transfer import transfer_specs, transfer_store
from thrifty.robustness.trial import robustness_specs
from thrifty.statistics.paired import paired_tests
from thrifty.statistics.patients import by_patient, interval
from thrifty.statistics.study import patient_means
from thrifty.summary import scores

if TYPE_CHECKING:
    from thrifty.trials import Spec

Row = dict[str, Any]


class More:
    """What else a study measures of its trained networks (`keys`).

    Raises:
        ThriftyError: the second data set, or the results of nnU-Net, are not what is needed.
    """

    def __init__(self, study: Study, run: Run, prepared: Prepared, keys: Sequence[Key]) -> None:
        self.study, self.run, self.store, self.keys, self.every = study, run, prepared.store, keys, keys
        self.taken = read_nnunet(study, prepared.store)
        self.second = transfer_store(study, run, prepared.store)

    def of(self, keys: Sequence[Key]) -> More:
        """The same of these trainings alone; worse images, which only the first seed is shown, stay those of all."""
        other = copy.copy(self)
        other.keys = keys
        return other

    def specs(self) -> list[Spec]:
        """The trials; those that are done already among them."""
        specs = robustness_specs(self.study, self.run, self.keys) if self.study.evaluate.robustness else []
        return specs + (transfer_specs(self.study, self.run, self.keys, self.second) if self.second else [])

    def tables(self) -> dict[str, list[Row]]:
        """Rows by the names of `Run.robustness_tables`; only tables that have any. Of trials that have finished."""
        tables = {"transfer": [row for result in self._transferred() for row in result["cases"]]}
        results = self._looked()
        tables["corruptions"] = [row for result in results for row in disturbed_rows(result, self.store)]
        tables["surfaces"] = [row for result in results for row in self._named(result, "surfaces")]
        tables["objects"] = [_listed(row) for result in results for row in self._named(result, "objects")]
        tables["calibration"] = [row for result in results for row in _bins(result)]
        return {name: rows for name, rows in tables.items() if rows}

    def summary(self, rows: Sequence[Row], volumes: Sequence[Row], compared: Collection[str] | None = None) -> dict[str, Any]:
        """`robustness` of summary.json (docs/robustness.md), from the rows of per_case.csv and per_volume.csv.

        Networks that are not `compared` (None: all are) have their numbers, and are in no comparison.
        """
        present = present_classes(rows)
        counted, counted_volumes = ([row for row in table if row["class"] in present] for table in (rows, volumes))
        groups = {case.name: dict(case.subgroups) for case in self.store.cases}
        by_name = {name: [row for row in counted if row["network"] == name] for name in _networks(counted)}
        results, evaluate = self._looked(), self.study.evaluate
        compared = frozenset(name for name, _, _ in self.every) if compared is None else frozenset(compared)
        shown = [row for result in self._looked(self.every) for row in disturbed_rows(result, self.store)]
        return {
            "subgroups": subgroups(counted, groups),
            "worst": worst_patients({name: patient_means(mine) for name, mine in by_name.items()}, _cases(counted), compared),
            "nnunet": taken_in(self.taken, counted, counted_volumes, compared) if self.taken else None,
            "transfer": self._transfer(compared) if self._transferred() else None,
            "corruptions": disturbed([row for row in shown if row["class"] in present], compared),
            "surfaces": self._surfaces(results, present, evaluate.surface_tolerance) if results else None,
            "objects": self._objects(results, present) if results else None,
            "calibration": _calibrations(results) if results else None,
        }

    def _looked(self, keys: Sequence[Key] | None = None) -> list[Row]:
        return self._finished(self.run.robustness_trial, keys) if self.study.evaluate.robustness else []

    def _transferred(self) -> list[Row]:
        return self._finished(self.run.transfer_trial) if self.second else []

    def _finished(self, trial_of: Callable[..., Trial], keys: Sequence[Key] | None = None) -> list[Row]:
        """Trials that were given up are left out; summary.json names them under `failed`."""
        trials = [trial_of(*key) for key in (self.keys if keys is None else keys)]
        return [read_json(trial.result) for trial in trials if trial.done]

    def _named(self, result: Row, kind: str) -> Iterable[Row]:
        """The rows of a result with all that says what they are of."""
        patients = {case.name: case.patient for case in self.store.cases}
        for row in result[kind]:
            identity = {name: result[name] for name in ("network", "seed", "fold")}
            place = {"case": row["case"], "patient": patients[row["case"]], "class": row["class"]}
            yield {**identity, **place, "label": self.store.labels[row["class"]], **row}

    def _rows(self, results: Sequence[Row], kind: str, present: frozenset[int]) -> dict[str, list[Row]]:
        rows: dict[str, list[Row]] = {}
        for result in results:
            rows.setdefault(result["network"], []).extend(r for r in self._named(result, kind) if r["class"] in present)
        return rows

    def _surfaces(self, results: Sequence[Row], present: frozenset[int], tolerance: float) -> dict[str, Any]:
        by_name = self._rows(results, "surfaces", present)
        units = {row["unit"] for rows in by_name.values() for row in rows}
        networks = {name: {key: _mean(rows, key) for key in ("assd", "nsd")} for name, rows in by_name.items()}
        unit = units.pop() if len(units) == 1 else "mixed"
        if unit == "mixed":
            networks = {name: {**values, "assd": None} for name, values in networks.items()}
        return {"unit": unit, "tolerance": tolerance, "networks": networks}

    def _objects(self, results: Sequence[Row], present: frozenset[int]) -> dict[str, Any]:
        by_name = self._rows(results, "objects", present)
        found: dict[str, Any] = {name: {} for name in by_name}
        for index in sorted(present):
            of_class = {name: [row for row in rows if row["class"] == index] for name, rows in by_name.items()}
            one_run = next(iter(of_class.values()))
            bounds = size_bounds(
                [row for row in one_run if (row["seed"], row["fold"]) == (one_run[0]["seed"], one_run[0]["fold"])]
            )
            if bounds is not None:
                for name, rows in of_class.items():
                    found[name][self.store.labels[index]] = sensitivity(rows, bounds)
        return found

    def _transfer(self, compared: Collection[str]) -> dict[str, Any]:
        assert self.second is not None
        rows = [row for result in self._transferred() for row in result["cases"]]
        present = present_classes(rows)
        by_name = {name: [r for r in rows if r["network"] == name and r["class"] in present] for name in _networks(rows)}
        return {
            "source": self.study.evaluate.transfer,
            "cases": len(self.second.cases),
            "patients": len({case.patient for case in self.second.cases}),
            "networks": {name: scores(mine, []) for name, mine in by_name.items()},
            "paired": paired_tests({name: patient_means(mine) for name, mine in by_name.items() if name in compared}),
        }


def _networks(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["network"] for row in rows))


def _cases(rows: Sequence[Row]) -> dict[str, list[str]]:
    cases: dict[str, dict[str, None]] = {}
    for row in rows:
        cases.setdefault(row["patient"], {})[row["case"]] = None
    return {patient: list(names) for patient, names in cases.items()}


def _mean(rows: Sequence[Row], key: str) -> dict[str, Any]:
    patients = by_patient(rows, key).mean(axis=0)
    return {"mean": float(patients.mean()), "ci95": interval(patients)}


def _calibrations(results: Sequence[Row]) -> dict[str, Any]:
    runs: dict[str, list[np.ndarray]] = {}
    for result in results:
        runs.setdefault(result["network"], []).append(np.array(result["calibration"]))
    return {name: calibration(counts) for name, counts in runs.items()}


def _listed(row: Row) -> Row:
    """Of objects.csv: lists of numbers with blanks between them."""
    return {key: " ".join(map(str, value)) if isinstance(value, list) else value for key, value in row.items()}


def _bins(result: Row) -> Iterable[Row]:
    for number, (pixels, claimed, true) in enumerate(result["calibration"]):
        identity = {name: result[name] for name in ("network", "seed", "fold")}
        yield {**identity, "bin": number, "pixels": int(pixels), "probabilities": claimed, "of_the_class": int(true)}
