"""Results of nnU-Net v2 on the test cases, taken in from the summary.json that its evaluation writes. Nothing is trained here."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from thrifty.config import Study, data_folder
from thrifty.data.decode import stem_of
from thrifty.data.store import Store
from thrifty.errors import ThriftyError, one_line
from thrifty.metrics import dice_of
from thrifty.results import read_json
from thrifty.statistics.paired import FEWEST, differences, holm, wilcoxon_p
from thrifty.statistics.patients import by_patient, interval, patients_of

NAME = "nnunet"
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Taken:
    """Dice by case (the name of its prediction without folder and ending) and class; `source` as the study names it."""

    source: str
    dice: Mapping[str, Mapping[int, float]]


def read_nnunet(study: Study, store: Store) -> Taken | None:
    """The summary.json of `evaluate.nnunet`; None where the study names none.

    Dice is computed from `n_ref`, `n_pred` and `TP` where they are there, so that empty masks count as everywhere here; otherwise
    nnU-Net's own is taken, whose NaN stands for two empty masks and becomes 1.

    Raises:
        ThriftyError: no such file, no summary of nnU-Net v2, a class that it lacks, or classes that overlap (regions, whose
            order is not in that file).
    """
    source = study.evaluate.nnunet
    if source is None:
        return None
    path = data_folder(source)
    if store.overlapping:
        raise ThriftyError(f"{path}: regions of nnU-Net cannot be matched, its summary does not keep their order; leave it out")
    value = read_json(path)
    rows = value.get("metric_per_case") if isinstance(value, dict) else None
    if not isinstance(rows, list) or not rows:
        raise ThriftyError(f"{path} has no metric_per_case; a summary.json that nnUNetv2_evaluate_folder writes is needed")
    dice: dict[str, dict[int, float]] = {}
    try:
        for row in rows:
            name = stem_of(PurePath(row.get("reference_file") or row["prediction_file"]).name)
            if name in dice:
                raise ThriftyError(f"{path} has two results of the case {name}; one for each case is needed")
            dice[name] = {index: _dice(row["metrics"][str(index)]) for index in range(1, store.classes)}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        classes = ", ".join(str(index) for index in range(1, store.classes))
        raise ThriftyError(
            f"{path} is incomplete ({one_line(repr(error))}); each case needs reference_file or prediction_file, and in metrics "
            f"Dice of the classes {classes}"
        ) from None
    return Taken(source, dice)


def _dice(metrics: Mapping[str, Any]) -> float:
    if all(key in metrics for key in ("n_ref", "n_pred", "TP")):
        return dice_of(*(int(metrics[key]) for key in ("n_ref", "n_pred", "TP")))
    dice = float(metrics["Dice"])
    if not (math.isnan(dice) or 0 <= dice <= 1):
        raise ValueError(f"Dice is {dice}")
    return 1.0 if math.isnan(dice) else dice


def taken_in(
    taken: Taken, rows: Sequence[Row], volumes: Sequence[Row], compared: Collection[str] | None = None
) -> dict[str, Any]:
    """What the report shows of it.

    Cases are matched by name, or whole volumes where it is of volumes and cases are their slices; then found networks are
    compared by their Dice of volumes. Where it lacks any, `missing` names them and nothing else is said.

    Args:
        rows, volumes: of per_case.csv and per_volume.csv, of the classes that count.
        compared: networks that may be compared; None: all.
    """
    unit, table = _unit(taken, rows, volumes)
    wanted = list(dict.fromkeys(row[unit] for row in table))
    missing = [name for name in wanted if name not in taken.dice]
    found: dict[str, Any] = {"source": taken.source, "unit": unit, unit + "s": len(wanted), "missing": missing}
    if missing:
        return {**found, "dice": None, "dice_per_class": {}, "paired": []}
    first = next(iter(table))
    one_run = [row for row in table if all(row[key] == first[key] for key in ("network", "seed", "fold"))]
    own = [{**row, "seed": 0, "fold": None, "dice": taken.dice[row[unit]][row["class"]]} for row in one_run]
    patients = by_patient(own, "dice")[0]
    by_label = {label: [row for row in own if row["label"] == label] for label in dict.fromkeys(row["label"] for row in own)}
    return {
        **found,
        "patients": len(patients),
        "dice": {"mean": float(patients.mean()), "ci95": interval(patients)},
        "dice_per_class": {label: float(by_patient(mine, "dice").mean()) for label, mine in by_label.items()},
        "paired": _paired([row for row in table if compared is None or row["network"] in compared], _scores(own)),
    }


def _unit(taken: Taken, rows: Sequence[Row], volumes: Sequence[Row]) -> tuple[str, Sequence[Row]]:
    by_volume = volumes and not _known(taken, (row["case"] for row in rows))
    return ("volume", volumes) if by_volume and _known(taken, (row["volume"] for row in volumes)) else ("case", rows)


def _known(taken: Taken, names: Iterable[str]) -> bool:
    return any(name in taken.dice for name in names)


def _scores(rows: Sequence[Row]) -> dict[str, float]:
    return dict(zip(patients_of(rows), by_patient(rows, "dice").mean(axis=0).tolist(), strict=True))


def _paired(table: Sequence[Row], theirs: Mapping[str, float]) -> list[dict[str, Any]]:
    """Every found network against nnU-Net, paired by patient; Holm corrects for these comparisons alone."""
    result: list[dict[str, Any]] = []
    for name in (name for name in dict.fromkeys(row["network"] for row in table) if name.startswith("found_")):
        values = differences(_scores([row for row in table if row["network"] == name]), [theirs])
        row = {"found": name, "against": NAME, "patients": len(values), "difference": float(np.mean(values))}
        result.append({**row, "ci95": interval(values) if len(values) >= FEWEST else None, "p": wilcoxon_p(values)})
    corrected = iter(holm([row["p"] for row in result if row["p"] is not None]))
    return [{**row, "p_holm": None if row["p"] is None else next(corrected)} for row in result]
