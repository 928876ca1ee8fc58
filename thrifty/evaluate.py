"""`thrifty evaluate`: every trained network on the test cases, which nothing else reads.

Trials predict and measure; this stage then gathers their rows into per_case.csv, per_volume.csv, a few example predictions,
ledger.json and summary.json.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thrifty.config import Study
from thrifty.data.prepare import Prepared, open_prepared
from thrifty.data.store import Store, open_store
from thrifty.errors import ThriftyError
from thrifty.inference import predict_cases
from thrifty.latency import keep_latencies
from thrifty.ledger import ledger
from thrifty.metrics import case_metrics, dice_of, iou_of, present_classes
from thrifty.model import load_model, weights_hash
from thrifty.networks import Key, read_networks, trial_arguments, trial_keys, trial_name
from thrifty.results import Run, Trial, read_json, read_run, remove, write_file, write_json, write_text
from thrifty.robustness.study import More
from thrifty.robustness.transfer import KIND as TRANSFER
from thrifty.robustness.trial import KIND as ROBUSTNESS
from thrifty.robustness.trial import robustness_trial
from thrifty.summary import count_seeds, rows_of, summarise
from thrifty.train import Report, choose_device, seed_everything, threads_for

if TYPE_CHECKING:
    from thrifty.trials import Spec

SCHEMA = 1
RUN_COLUMNS = ("network", "seed", "fold")
CASE_COLUMNS = (*RUN_COLUMNS, "case", "patient", "volume", "class", "label", "dice", "iou", "hd95", "unit")
PIXEL_COLUMNS = ("truth_pixels", "predicted_pixels", "shared_pixels")
VOLUME_COLUMNS = (*RUN_COLUMNS, "volume", "patient", "slices", "class", "label", "dice", "iou", *PIXEL_COLUMNS)
Row = dict[str, Any]


def run_stage(study: Study, run: Run) -> None:
    """Measures every finished retraining on the test cases, then writes tables, examples, ledger and summary.

    Retrainings that failed or are still to come are named in the summary under `missing`, and measured when the stage runs again.

    Raises:
        ThriftyError: nothing is retrained yet, or more trials failed than the study bears.
    """
    from thrifty.trials import run_trials

    specs = read_networks(run, study.allow_code)
    keys, missing = finished(study, run, list(specs))
    if not keys:
        raise ThriftyError(f"no network in {run.retrain} is trained yet; `thrifty retrain STUDY.yaml` trains them")
    forget_stale(run, keys)
    prepared = open_prepared(run)
    more = More(study, run, prepared, keys)
    run_trials("evaluate", measure, [*trial_specs(study, run, keys), *more.specs()], study.resources, run)
    missing += [trial_name(run, key) for key in keys if not run.evaluate_trial(*key).done]
    keys = [key for key in keys if run.evaluate_trial(*key).done]
    results = [read_json(run.evaluate_trial(*key).result) for key in keys]
    rows = [row for result in results for row in result["cases"]]
    volumes = per_volume(rows)
    write_csv(run.per_case, (*CASE_COLUMNS, *PIXEL_COLUMNS), rows)
    write_csv(run.per_volume, VOLUME_COLUMNS, volumes)
    write_examples(study, run, prepared, keys, rows)
    keep_latencies(study, run, {network: specs[network] for network, _, _ in keys})
    write_json(run.ledger, ledger(run))
    counted = count_seeds(study, run, keys, missing)
    summary = summarise(study, run, prepared, counted, missing, rows, volumes)
    _write_tables(run, more)
    by_case, by_volume = (rows_of(counted.keys, table) for table in (rows, volumes))
    robustness = more.of(counted.keys).summary(by_case, by_volume, counted.compared)
    write_json(run.summary, {**summary, "robustness": robustness})


def _write_tables(run: Run, more: More) -> None:
    """Tables of what is no longer measured are removed."""
    tables = more.tables()
    for name, path in run.robustness_tables.items():
        if name in tables:
            write_csv(path, list(tables[name][0]), tables[name])
        else:
            remove(path)


def finished(study: Study, run: Run, networks: Sequence[str]) -> tuple[list[Key], list[str]]:
    """The trained (network, seed, fold), and the names of the retrainings that are still to come."""
    keys = trial_keys(study, networks)
    done = [key for key in keys if run.retrain_trial(*key).done]
    return done, [trial_name(run, key) for key in keys if key not in done]


def forget_stale(run: Run, keys: Sequence[Key]) -> None:
    """Removes measurements of weights that have been trained anew since."""
    for key in keys:
        measured = run.evaluate_trial(*key)
        weights = read_json(run.retrain_trial(*key).result).get("weights_sha256")
        if measured.done and read_json(measured.result).get("weights_sha256") != weights:
            remove(measured.result)


def trial_specs(study: Study, run: Run, keys: Sequence[Key]) -> list[Spec]:
    from thrifty.trials import Spec

    return [Spec(trial_name(run, key), run.evaluate_trial(*key), trial_arguments(study, run, key), 1) for key in keys]


def measure(arguments: dict[str, Any], trial: Trial, report: Report) -> None:
    """A trial of this stage, whichever kind it is."""
    (robustness_trial if arguments.get("kind") == ROBUSTNESS else evaluate_trial)(arguments, trial, report)


def evaluate_trial(arguments: dict[str, Any], trial: Trial, report: Report) -> None:
    """One trained network on all test cases; writes result.json with one row for each case and class.

    Args:
        arguments: run (folder), network, seed, fold (None without cross-validation), device, cpus, gpus; `kind` is transfer
            where all cases of the second data set are the test cases.
        trial: where to write.
        report: is given one record, when all is measured.
    """
    start = time.perf_counter()
    study, run = read_run(Path(arguments["run"]))
    key = (arguments["network"], arguments["seed"], arguments["fold"])
    device = choose_device(arguments["device"])
    seed_everything(arguments["seed"], threads_for(arguments["cpus"]))
    network, model = load_model(run.retrain_trial(*key), device, study.allow_code)
    transfer = arguments.get("kind") == TRANSFER
    store, test = _test_cases(run, transfer)
    measured: dict[int, list[Row]] = {}
    for index, labels in predict_cases(network, store, test, model.normalisation, study.evaluate, device):
        measured[index] = case_rows(key, store, index, model.postprocess.apply(labels))
    rows = [row for index in test for row in measured[index]]
    seconds = time.perf_counter() - start
    counted = present_classes(rows)
    dice = float(np.mean([row["dice"] for row in rows if row["class"] in counted]))
    where = {"seconds": seconds, "cpus": arguments["cpus"], "gpus": arguments["gpus"]}
    identity = dict(zip(RUN_COLUMNS, key, strict=True))
    identity |= {"weights_sha256": weights_hash(run.retrain_trial(*key)), "fingerprint": store.fingerprint}
    name = f"{TRANSFER}/{trial_name(run, key)}" if transfer else trial_name(run, key)
    write_json(trial.result, {"schema": SCHEMA, "trial": name, **identity, "dice": dice, **where, "cases": rows})
    report({"epoch": 0, "dice": dice, "seconds": seconds})


def _test_cases(run: Run, transfer: bool) -> tuple[Store, list[int]]:
    if transfer:
        store = open_store(run.transfer_data)
        return store, list(range(len(store.cases)))
    prepared = open_prepared(run)
    return prepared.store, prepared.store.indices(prepared.splits.test)


def case_rows(key: Key, store: Store, index: int, labels: np.ndarray) -> list[Row]:
    """The rows of per_case.csv of one case: one for each foreground class."""
    case = store.cases[index]
    rows = []
    for found in case_metrics(labels, store.mask(index), store.classes, case.spacing_mm, store.overlapping):
        rows.append(
            {
                **dict(zip(RUN_COLUMNS, key, strict=True)),
                "case": case.name,
                "patient": case.patient,
                "volume": case.volume,
                "class": found.index,
                "label": store.labels[found.index],
                "dice": found.dice,
                "iou": found.iou,
                "hd95": found.hd95,
                "unit": found.unit,
                "truth_pixels": found.truth_pixels,
                "predicted_pixels": found.predicted_pixels,
                "shared_pixels": found.shared_pixels,
            }
        )
    return rows


def per_volume(rows: Sequence[Row]) -> list[Row]:
    """Dice and IoU of whole volumes, from the pixels of their slices added up; empty where no case is a slice."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row["volume"] is not None:
            groups.setdefault((*(row[name] for name in RUN_COLUMNS), row["volume"], row["class"]), []).append(row)
    result = []
    for group in groups.values():
        counts = {name: sum(row[name] for row in group) for name in PIXEL_COLUMNS}
        scores = {"dice": dice_of(*counts.values()), "iou": iou_of(*counts.values())}
        values = {**group[0], "slices": len(group), **scores, **counts}
        result.append({name: values[name] for name in VOLUME_COLUMNS})
    return result


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """A table with a header line; None becomes an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def example_cases(rows: Sequence[Row]) -> list[tuple[str, str, float]]:
    """(case, rank, Dice) of the worst, the median and the best test case of the first run in `rows`."""
    first = tuple(rows[0][name] for name in RUN_COLUMNS)
    counted = present_classes(rows)
    scores: dict[str, list[float]] = {}
    for row in rows:
        if tuple(row[name] for name in RUN_COLUMNS) == first and row["class"] in counted:
            scores.setdefault(row["case"], []).append(row["dice"])
    ordered = sorted((float(np.mean(values)), case) for case, values in scores.items())
    picked = {"worst": 0, "median": (len(ordered) - 1) // 2, "best": len(ordered) - 1}
    chosen: dict[str, tuple[str, str, float]] = {}
    for rank, place in picked.items():
        dice, case = ordered[place]
        chosen.setdefault(case, (case, rank, dice))
    return list(chosen.values())


def write_examples(study: Study, run: Run, prepared: Prepared, keys: Sequence[Key], rows: Sequence[Row]) -> None:
    """Label maps (PNG, see `thrifty.data.labels`) of worst, median and best test case by the found network, for every network.

    The found network's first run chooses the cases, each network's first run predicts them. A picture stays only where
    examples.json says that it is of the same run and weights; others are drawn anew, and what is not listed is removed.
    """
    chosen = example_cases([row for row in rows if row["network"].startswith("found_")] or rows)
    first = {key[0]: key for key in reversed(keys)}
    listed = [_example_row(run, key, *example) for key in first.values() for example in chosen]
    before = read_json(run.examples) if run.examples.is_file() else []
    lacking = [row for row in listed if not _is_drawn(run, row, before)]
    if lacking:
        remove(run.examples)  # from here on it might name pictures of other weights
    for key in first.values():
        cases = [row["case"] for row in lacking if row["network"] == key[0]]
        if cases:
            _draw_examples(study, run, prepared, key, cases)
    files = {row["file"] for row in listed}
    for picture in run.example("any", "any").parents[1].glob("*/*.png"):
        if picture.relative_to(run.root).as_posix() not in files:
            remove(picture)
    write_json(run.examples, listed)


def _example_row(run: Run, key: Key, case: str, rank: str, dice: float) -> Row:
    """`dice` is that of the network that chose the case; `weights_sha256` says which weights the picture is of."""
    file = run.example(key[0], case).relative_to(run.root).as_posix()
    weights = read_json(run.retrain_trial(*key).result).get("weights_sha256")
    identity = dict(zip(RUN_COLUMNS, key, strict=True))
    return {"case": case, "rank": rank, "dice": dice, **identity, "weights_sha256": weights, "file": file}


def _is_drawn(run: Run, row: Row, before: Sequence[Row]) -> bool:
    names = (*RUN_COLUMNS, "case", "weights_sha256", "file")
    same = any(all(name in old and old[name] == row[name] for name in names) for old in before)
    return same and (run.root / row["file"]).is_file()


def _draw_examples(study: Study, run: Run, prepared: Prepared, key: Key, cases: Sequence[str]) -> None:
    store, device = prepared.store, choose_device(study.resources.device)
    network, model = load_model(run.retrain_trial(*key), device, study.allow_code)
    for index, labels in predict_cases(network, store, store.indices(cases), model.normalisation, study.evaluate, device):
        write_labels(run.example(key[0], store.cases[index].name), model.postprocess.apply(labels))


def write_labels(path: Path, labels: np.ndarray) -> None:
    """A PNG of (H, W) uint8, whole or absent."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(labels).save(content, "PNG")
    write_file(path, lambda file: file.write(content.getvalue()))
