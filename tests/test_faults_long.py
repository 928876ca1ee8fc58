"""Faults that take minutes (`make test-faults`): workers killed all the time, drivers killed in every stage of a real study."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import psutil
import pytest
import yaml
from small_study import small_run, small_study
from test_trials import make_spec, manifest_rows, value_of
from timeless import without_times
from toy_trials import count_trial, expected, faulty_retraining

from thrifty.config import Resources, read_study
from thrifty.errors import ThriftyError
from thrifty.networks import read_networks, trial_arguments, trial_keys, trial_name
from thrifty.results import Run, open_run, read_json, read_jsonl
from thrifty.trials import Spec, run_trials

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("faults")]
KILLS = 20
PATIENCE_SECONDS = 1800  # for a study of a minute, on a machine that others use too


class Killer(threading.Thread):
    """Kills the worker of a trial in its midst, any of them, at random moments, KILLS times."""

    def __init__(self, specs: list[Spec]) -> None:
        super().__init__(daemon=True)
        self.specs, self.random, self.killed, self.over = specs, random.Random(0), list[str](), False

    def run(self) -> None:
        while len(self.killed) < KILLS and not self.over:
            time.sleep(self.random.uniform(0.2, 1.0))
            for spec in self.random.sample(self.specs, len(self.specs)):
                if self._kill(spec):
                    self.killed.append(spec.name)
                    break

    def _kill(self, spec: Spec) -> bool:
        """Not in the first or the last epochs, so that each kill hits one attempt of one trial."""
        pids, log = spec.trial.folder / "pids", spec.trial.folder / "log"
        if spec.trial.done or not log.is_file() or len(log.read_text().split()) > spec.epochs - 3:
            return False
        number = pids.read_text().split()
        begun = len(log.read_text().split())
        time.sleep(0.05)
        if not psutil.pid_exists(int(number[-1])) or len(number) != self.killed.count(spec.name) + 1 or begun == 0:
            return False
        os.kill(int(number[-1]), signal.SIGKILL)
        return True


@pytest.mark.usefixtures("ray_local")
def test_workers_killed_at_twenty_random_moments(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    specs = [make_spec(run, f"t{k}", seed=k, epochs=25, sleep=0.2) for k in range(8)]
    killer = Killer(specs)
    killer.start()
    run_trials("search", count_trial, specs, Resources(max_failures=-1), run)
    killer.over = True
    killer.join()
    assert len(killer.killed) == KILLS and len(set(killer.killed)) >= 3
    assert [value_of(spec) for spec in specs] == [expected(k, 25) for k in range(8)]
    rows = manifest_rows(run)
    for spec in specs:
        row, kills = rows[spec.name], killer.killed.count(spec.name)
        assert (row["status"], row["attempts"], row["faults"]) == ("done", kills + 1, kills), spec.name
        done = [int(epoch) for epoch in (spec.trial.folder / "log").read_text().split()]
        assert done == sorted(set(done)) and len(done) >= 25 - kills, (
            "no epoch that was kept is done again; a kill can hide its note"
        )
        assert not list(spec.trial.folder.glob(".*.part"))


@pytest.mark.usefixtures("ray_local")
def test_storage_away_for_a_minute(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    spec = make_spec(run, "away", away=60.0)
    start = time.monotonic()
    run_trials("search", count_trial, [spec], Resources(max_failures=0), run)
    assert value_of(spec) == expected(3, 4) and time.monotonic() - start > 60
    row = manifest_rows(run)["away"]
    assert (row["status"], row["attempts"], row["faults"]) == ("done", 1, 0)


@pytest.mark.usefixtures("ray_local")
def test_memory_rates_and_disks_in_real_trainings(tmp_path: Path) -> None:
    """Too little memory and a rate that is too high are got over; a loss that stays nan and a full disk are told, and the same
    call goes on once that is mended, as if nothing had been."""
    study = small_study()
    run, other = small_run(tmp_path, study), small_run(tmp_path, study)
    keys = trial_keys(study, list(read_networks(run)))
    faults = dict(zip(sorted(keys), ("memory", "rate", "never", "disk", "", ""), strict=True))

    def specs(of: Run, faulty: bool) -> list[Spec]:
        found = [Spec(trial_name(of, key), of.retrain_trial(*key), trial_arguments(study, of, key), 3) for key in keys]
        if not faulty:
            return found
        return [replace(one, arguments=one.arguments | {"fault": faults[key]}) for key, one in zip(keys, found, strict=True)]

    with pytest.raises(ThriftyError, match="2 of 6 trials of retrain failed") as caught:
        run_trials("retrain", faulty_retraining, specs(run, True), Resources(), run)
    told = str(caught.value)
    assert "learning rates down to 1/8 from the last good epoch did not help" in told and "the disk is full: free some" in told
    run_trials("retrain", faulty_retraining, specs(other, False), Resources(), other)
    names = {fault: key for key, fault in faults.items() if fault}
    rows = {fault: read_jsonl(run.retrain_trial(*key).record) for fault, key in names.items()}
    assert [row["pieces"] for row in rows["memory"]] == [2, 2, 2]
    assert [row.get("rate_factor") for row in rows["rate"]] == [None, 0.5, 0.5]
    assert len(rows["never"]) == len(rows["disk"]) == 1, "what was good is kept"
    run_trials("retrain", faulty_retraining, specs(run, False), Resources(), run)
    for key in keys:
        one, same = run.retrain_trial(*key), other.retrain_trial(*key)
        equal = one.weights.read_bytes() == same.weights.read_bytes()
        assert one.done and equal == (faults[key] not in ("memory", "rate")), key
        assert not list(one.folder.glob(".*.part")) and not one.checkpoint.exists()


# drivers

STAGES = ("search", "select", "retrain", "evaluate", "report")
STUDY: dict[str, Any] = {
    "name": "faults",
    "space": "tiny",
    "budgets": [3000],
    "seeds": 2,
    "data": {"patch": 32, "phantoms": {"cases": 16, "patients": 8, "size": 32}},
    "search": {"epochs": 6, "steps": 2, "warmup": 1, "batch": 2},
    "select": {"samples": 4, "recalibrate": 1, "finalists": 2},
    "retrain": {"epochs": 6, "steps": 2, "batch": 2, "seeds": 2, "random": 1, "baselines": ["scaled_unet"]},
    "resources": {"concurrent": 2, "device": "cpu"},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "faults.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    return path


STRICT = ("-W", "error", "-W", "default::ResourceWarning")
"""Ray lets go of its programs when it is ended while it starts; an error in what collects them would be a traceback of no one."""


@contextlib.contextmanager
def started(study: Path, results: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`thrifty run` in a group of processes of its own; nothing of it stays where a test fails."""
    environment = {**os.environ, "THRIFTY_RESULTS": str(results), "RAY_TMPDIR": "/tmp"}
    with subprocess.Popen(
        [sys.executable, "-u", *STRICT, "-m", "thrifty", "run", str(study), *options],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield process
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise


def lines_of(process: subprocess.Popen[str]) -> IO[str]:
    """The pipe itself: a generator around it would close it where a caller breaks off, and the program would have no stdout."""
    assert process.stdout is not None
    return process.stdout


def outcome(results: Path) -> dict[str, Any]:
    """Everything that a study is for: what was found, chosen, trained and measured."""
    run = Run(results / "faults")
    paths = sorted(p for p in run.root.rglob("*") if p.name in ("weights.safetensors", "genotype.json", "per_case.csv"))
    rows = [*read_jsonl(run.candidates), *read_jsonl(run.evaluations)]
    records = {str(p.relative_to(run.root)): without_times(read_jsonl(p)) for p in sorted(run.root.rglob("epochs.jsonl"))}
    return {
        "summary": without_times(read_json(run.summary)),
        "pareto": without_times(read_json(run.pareto)),
        "rows": without_times(rows),
        "records": records,
        "files": {str(path.relative_to(run.root)): path.read_bytes() for path in paths},
    }


@pytest.fixture(scope="module")
def undisturbed(study: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    results = tmp_path_factory.mktemp("undisturbed")
    with started(study, results) as process:
        out = process.communicate(timeout=PATIENCE_SECONDS)[0]
    assert process.returncode == 0, out
    return outcome(results)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_driver_stopped_in_each_stage_and_started_again(
    study: Path, tmp_path: Path, undisturbed: dict[str, Any], number: signal.Signals
) -> None:
    """SIGINT and SIGTERM go to the whole group of processes, as from a terminal and from a machine that is taken away: the
    program checkpoints and ends by itself within the two minutes that such a machine gives."""
    rng = random.Random(int(number))
    for place, stage in enumerate(STAGES, start=1):
        with started(study, tmp_path) as process:
            out = []
            for line in lines_of(process):
                out.append(line)
                if line.startswith(f"{stage} ({place} of 5)"):
                    break
            assert process.poll() is None, "".join(out)
            time.sleep(rng.uniform(0, 8 if stage in ("search", "retrain") else 2))
            if number == signal.SIGKILL:
                process.kill()
            else:
                os.killpg(process.pid, number)
            rest = process.communicate(timeout=120)[0]
        if process.returncode == 0:
            continue  # it was done before
        assert process.returncode == (-9 if number == signal.SIGKILL else 2), rest
        if number != signal.SIGKILL:
            assert "run the same command to go on" in rest and "Traceback" not in rest
        time.sleep(2)  # the workers of a killed driver end within a second
    with started(study, tmp_path) as process:
        out_of_last = process.communicate(timeout=PATIENCE_SECONDS)[0]
    assert process.returncode == 0, out_of_last
    assert outcome(tmp_path) == undisturbed
    run = Run(tmp_path / "faults")
    for stage in ("search", "retrain", "evaluate"):
        rows = read_json(run.root / stage / "trials.json")["trials"]
        assert all(row["status"] == "done" and row["attempts"] >= 1 for row in rows)
    assert not list(run.root.rglob("*.part")) and not list(run.root.rglob("checkpoint*"))


def test_a_study_goes_on_without_a_search_that_fails_if_it_bears_one(study: Path, tmp_path: Path) -> None:
    """A file stands where the folder of a search is to be."""
    run = open_run(tmp_path / "faults", read_study(study))
    in_the_way = run.search / "b3000_w6_d3_e6_s1"
    in_the_way.parent.mkdir()
    in_the_way.touch()
    for options, code in (((), 2), (("--max-failures", "1"), 0)):
        with started(study, tmp_path, *options) as process:
            out = process.communicate(timeout=PATIENCE_SECONDS)[0]
        assert process.returncode == code and "1 of 2 trials of search failed: b3000_w6_d3_e6_s1: FileExistsError" in out, out
    summary = read_json(run.summary)
    (failed,) = summary["failed"]
    assert (failed["stage"], failed["trial"]) == ("search", in_the_way.name) and failed["reason"].startswith("FileExistsError")
    assert summary["blocks"]["search"]["seeds"] == [0] and summary["blocks"]["retrain"] == {"seeds": [0, 1], "left_out": []}
    assert f"search {in_the_way.name} (FileExistsError" in run.report.read_text(encoding="utf-8")
    in_the_way.unlink()
    with started(study, tmp_path) as process:
        out = process.communicate(timeout=PATIENCE_SECONDS)[0]
    assert process.returncode == 0 and read_json(run.summary)["blocks"]["search"] == {"seeds": [0, 1], "left_out": []}, out
