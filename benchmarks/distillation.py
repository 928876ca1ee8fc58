"""Does a tiny network learn better with a teacher's soft labels beside the masks? On two real sets; resumable, without ray.

    python benchmarks/distillation.py run [--minutes 40] [--only PREFIX]
    python benchmarks/distillation.py report

Needs the run folders of the studies in tune_runs/dsb2018.yaml and tune_runs/hippocampus.yaml (THRIFTY_RESULTS), evaluated: their
splits, found genotypes and trained networks. Teachers: the study's U-Net (seed 0), and its found network, three seeds as one
ensemble. Students: the found genotype by the study's own recipe. The same without a teacher is what the study itself has trained,
seed by seed: its rows are taken over where the first epoch of a training here gives its loss again, digit for digit.

Weight and temperature are chosen on the selection cases of the cheaper set (one seed), then kept. The row of a training, in
benchmarks/results/distillation.jsonl, has its Dice on the selection cases and on the test cases; the choice reads the first.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from thrifty.config import results_folder  # noqa: E402

ROWS = HERE / "results" / "distillation.jsonl"
BUDGETS = {"hippocampus": 20_000, "dsb2018": 30_000}  # the cheaper set first
SEEDS = (0, 1, 2)
SWEEP_SEEDS = SEEDS[:1]
SWEEP = ((0.5, 3.0), (0.5, 1.0), (0.2, 1.0))  # weight, temperature
LOOKS = 6  # steps over which the seconds of a step and of its soft labels are looked at; the first one only warms up
Rows = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Job:
    """A training: of the found genotype of a study, with a seed and a teacher ('none', 'unet' or 'ensemble')."""

    study: str
    teacher: str
    seed: int
    weight: float = 0.0
    temperature: float = 1.0

    @property
    def name(self) -> str:
        return f"{self.study}/{self.teacher}/{self.weight:g}/{self.temperature:g}/{self.seed}"


@lru_cache(maxsize=2)
def opened(name: str) -> Any:
    """The study, run and data of a run folder.

    Raises:
        SystemExit: the splits in the folder are not those that the study gives, so that the teachers may have seen test cases.
    """
    from thrifty.data.prepare import open_prepared
    from thrifty.data.splits import make_splits
    from thrifty.results import read_run

    study, run = read_run(results_folder(name))
    prepared = open_prepared(run)
    again = make_splits(prepared.store, study.data)
    if any(getattr(again, part) != getattr(prepared.splits, part) for part in ("training", "selection", "test")):
        raise SystemExit(f"{run.splits} holds other splits than its study gives: its networks may have seen test cases")
    return study, run, prepared


def read_rows() -> Rows:
    lines = ROWS.read_text().splitlines() if ROWS.is_file() else []
    return {row["job"]: row for row in map(json.loads, lines)}


def mean_of(rows: Rows, jobs: list[Job], key: str) -> float:
    return float(np.mean([rows[job.name][key] for job in jobs]))


def sweep(weight: float, temperature: float) -> list[Job]:
    return [Job(next(iter(BUDGETS)), "ensemble", seed, weight, temperature) for seed in SWEEP_SEEDS]


def chosen(rows: Rows) -> tuple[float, float] | None:
    """Weight and temperature with the best mean Dice on the selection cases; None before the sweep is done."""
    if any(job.name not in rows for setting in SWEEP for job in sweep(*setting)):
        return None
    return max(SWEEP, key=lambda setting: mean_of(rows, sweep(*setting), "selection_dice"))


def jobs(rows: Rows) -> list[Job]:
    """What can be done now: the sweep, then the comparison, study by study, seed by seed, the U-Net as the teacher last."""
    planned = [job for setting in SWEEP for job in sweep(*setting)]
    if (setting := chosen(rows)) is not None:
        planned += [
            Job(study, teacher, seed, *setting) for teacher in ("ensemble", "unet") for study in BUDGETS for seed in SEEDS
        ]
    return [job for job in dict.fromkeys(planned) if job.name not in rows]


def compared(study: str, teacher: str, seed: int, setting: tuple[float, float]) -> Job:
    return Job(study, "none", seed) if teacher == "none" else Job(study, teacher, seed, *setting)


@dataclass(frozen=True)
class Teacher:
    """Trained networks that are taught from, in evaluation mode; `weight` is the share of their soft labels in the loss."""

    networks: tuple[Any, ...]
    weight: float
    temperature: float

    def soften(self, images: Any) -> Any:
        """Soft labels (B, classes, H, W) of images (B, C, H, W): the mean over the networks of softmax(logits / T)."""
        import torch

        from thrifty.inference import forward_padded

        with torch.no_grad():
            soft = [(forward_padded(network, images) / self.temperature).softmax(dim=1) for network in self.networks]
        return torch.stack(soft).mean(dim=0)

    def loss(self, logits: Any, soft: Any) -> Any:
        """T^2 KL(teacher || student) of distributions softened by T, in the mean over the pixels (Hinton 2015, sec. 2)."""
        from torch.nn import functional

        log_student = functional.log_softmax(logits / self.temperature, dim=1)
        pixels = soft.shape[0] * soft.shape[-2] * soft.shape[-1]
        return self.temperature**2 * functional.kl_div(log_student, soft, reduction="sum") / pixels


def taught(forward: Any, teacher: Teacher) -> Any:
    """`forward` of a training whose loss is (1 - weight) x its own + weight x the teacher's.

    The gradients are blended where the two losses meet, at the logits, so that the recipe itself knows nothing of teachers.
    """
    import torch

    def with_soft_labels(images: Any) -> Any:
        logits, soft = forward(images), teacher.soften(images)

        def blend(gradient: Any) -> Any:
            with torch.enable_grad():
                apart = logits.detach().requires_grad_()
                (soft_gradient,) = torch.autograd.grad(teacher.loss(apart, soft), apart)
            return (1 - teacher.weight) * gradient + teacher.weight * soft_gradient

        logits.register_hook(blend)
        return logits

    return with_soft_labels


def teacher_of(job: Job, normalisation: Any, device: Any) -> Teacher:
    """
    Raises:
        SystemExit: the teacher was trained under another normalisation than the student.
    """
    from thrifty.model import load_model

    run, networks = opened(job.study)[1], []
    trials = {"unet": [("unet", 0)], "ensemble": [(f"found_{BUDGETS[job.study]}", seed) for seed in range(3)]}[job.teacher]
    for key in trials:
        network, model = load_model(run.retrain_trial(*key), device)
        if model.normalisation != normalisation:
            raise SystemExit(f"{run.retrain_trial(*key).model} has another normalisation than a training has now")
        networks.append(network)
    return Teacher(tuple(networks), job.weight, job.temperature)


def new_trainee(job: Job, device: Any) -> Any:
    """A student before its first step, with its teacher."""
    from thrifty.nets.build import build_network, genotype_spec
    from thrifty.scratch import make_trainee
    from thrifty.space.genotype import load
    from thrifty.train import seed_everything

    study, run, prepared = opened(job.study)
    seed_everything(job.seed, threads=1)
    budget = BUDGETS[job.study]
    network = build_network(genotype_spec("student", load(run.genotype(budget)), budget)).to(device)
    trainee = make_trainee(network, study, prepared, prepared.splits, job.seed, device)
    if job.teacher != "none":
        trainee._forward = taught(trainee._forward, teacher_of(job, trainee.normalisation, device))
    return trainee


def train(job: Job, device: Any) -> dict[str, Any]:
    """One training; Dice of the weights that are best on the selection cases, there and on the test cases by patient."""
    study = opened(job.study)[0]
    start = time.process_time()
    trainee = new_trainee(job, device)
    dice = [trainee.epoch(index)["dice"] for index in range(study.retrain.epochs)]
    training = time.process_time() - start
    trainee.network.load_state_dict(trainee.best_weights)
    patients = by_patient(trainee.network, job.study, trainee.normalisation, device)
    return {
        "job": job.name,
        "parameters": sum(p.numel() for p in trainee.parameters),
        "steps": study.retrain.epochs * study.retrain.steps,
        "selection_dice": trainee.best_dice,
        "selection_curve": [round(value, 4) for value in dice if value is not None],
        "dice": float(np.mean(patients)),
        "patients": patients,
        "cpu_seconds": round(training, 1),
        "device": device.type,
    }


def adopt(name: str, device: Any) -> list[dict[str, Any]]:
    """The rows of the trainings without a teacher, which the study has done.

    Raises:
        SystemExit: the first epoch of such a training comes out otherwise here.
    """
    from thrifty.results import read_json, read_jsonl

    _, run, _ = opened(name)
    network, rows = f"found_{BUDGETS[name]}", []
    for seed in SEEDS:
        trial, job = run.retrain_trial(network, seed), Job(name, "none", seed)
        first, again = read_jsonl(trial.record)[0]["loss"], new_trainee(job, device).epoch(0)["loss"]
        if first != again:
            raise SystemExit(f"{trial.record}: a loss of {first} in the first epoch, here {again}; the networks cannot be paired")
        trained, measured = read_json(trial.result), read_json(run.evaluate_trial(network, seed).result)
        patients = patient_means((row["patient"], row["dice"]) for row in measured["cases"])
        kept = {key: trained[key] for key in ("parameters", "steps", "device")}
        outcome = {"selection_dice": trained["dice"], "dice": float(np.mean(patients)), "patients": patients}
        rows.append({"job": job.name, **kept, **outcome, "adopted": True})
    return rows


def patient_means(dice: Iterable[tuple[str, float]]) -> list[float]:
    """The Dice of each patient, cases (and classes) averaged, in the order of the patients' names."""
    found: dict[str, list[float]] = {}
    for patient, value in dice:
        found.setdefault(patient, []).append(value)
    return [round(float(np.mean(found[patient])), 4) for patient in sorted(found)]


def by_patient(network: Any, study_name: str, normalisation: Any, device: Any) -> list[float]:
    """The Dice of each patient of the test set, its cases averaged, in the order of the patients' names."""
    from thrifty.inference import predict_cases
    from thrifty.metrics import foreground_dice

    study, _, prepared = opened(study_name)
    store = prepared.store
    test = store.indices(prepared.splits.test)
    predictions = predict_cases(network, store, test, normalisation, study.evaluate, device)
    return patient_means(
        (store.cases[index].patient, foreground_dice(labels, store.mask(index), store.classes)) for index, labels in predictions
    )


def look_at_teachers(name: str, device: Any) -> dict[str, Any]:
    """The Dice of the teachers on the selection and test cases, and the seconds of soft labels beside those of a step."""
    import torch

    from thrifty.metrics import foreground_dice

    _, _, prepared = opened(name)
    store, row = prepared.store, {"job": f"{name}/teachers"}
    student = new_trainee(Job(name, "none", 0), device)
    teachers = {what: teacher_of(Job(name, what, 0), student.normalisation, device) for what in ("unet", "ensemble")}
    for what, teacher in teachers.items():
        for part in ("selection", "test"):
            dice = []
            for index in store.indices(getattr(prepared.splits, part)):
                image = torch.from_numpy(student.normalisation.apply(store.image(index)))[None].to(device)
                labels = teacher.soften(image)[0].argmax(dim=0).cpu().numpy()
                dice.append((store.cases[index].patient, foreground_dice(labels, store.mask(index), store.classes)))
            row[f"{what}_{part}_dice"] = float(np.mean(patient_means(dice)))
    student.network.train()
    seconds: dict[str, list[float]] = {what: [] for what in ("step", *teachers)}
    for step in range(LOOKS):
        images, _ = student.batches.draw(0, step)
        work = {"step": lambda step=step: student._step(0, step)}
        work |= {what: lambda teacher=teacher, images=images: teacher.soften(images) for what, teacher in teachers.items()}
        for what, do in work.items():
            start = time.process_time()
            do()
            seconds[what].append(time.process_time() - start)
    return row | {f"{what}_cpu_seconds": round(float(np.median(values[1:])), 4) for what, values in seconds.items()}


def run(minutes: float, only: str, device_name: str) -> None:
    import torch

    from thrifty.train import choose_device

    device, end = choose_device(device_name), time.monotonic() + 60 * minutes
    torch.set_num_threads(1)
    for name in BUDGETS:
        if f"{name}/teachers" not in read_rows():
            write(look_at_teachers(name, device))
        if Job(name, "none", SEEDS[-1]).name not in read_rows():
            for row in adopt(name, device):
                write(row)
    while todo := [job for job in jobs(read_rows()) if job.name.startswith(only)]:
        if time.monotonic() > end:
            print(f"time is up, {len(todo)} or more trainings are left; run it again to go on")
            return
        write(train(todo[0], device))


def write(row: dict[str, Any]) -> None:
    with ROWS.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps({key: value for key, value in row.items() if not isinstance(value, list)}), flush=True)


def report(rows: Rows) -> str:
    return "\n\n".join([teacher_lines(rows), sweep_table(rows), comparison_table(rows)])


def teacher_lines(rows: Rows) -> str:
    known = [row for name in BUDGETS if (row := rows.get(f"{name}/teachers"))]
    return "\n".join(", ".join(f"{key} {v if isinstance(v, str) else f'{v:.4f}'}" for key, v in row.items()) for row in known)


def sweep_table(rows: Rows) -> str:
    from evidence_report import table

    alone = [Job(next(iter(BUDGETS)), "none", seed) for seed in SWEEP_SEEDS]
    settings = [("none", "", alone)] + [(f"{w:g}", f"{t:g}", sweep(w, t)) for w, t in SWEEP]
    done = [(*setting, jobs) for *setting, jobs in settings if all(job.name in rows for job in jobs)]
    lines = [[weight, temperature, f"{mean_of(rows, jobs, 'selection_dice'):.4f}"] for weight, temperature, jobs in done]
    return table(["weight", "temperature", f"Dice on the selection cases, seeds {SWEEP_SEEDS}"], lines)


def comparison_table(rows: Rows) -> str:
    from evidence_report import over_patients, over_seeds, table, verdict
    from scipy import stats

    setting, lines = chosen(rows), []
    for name, teacher in [(n, t) for n in BUDGETS for t in ("ensemble", "unet")] if setting else ():
        seeds = [s for s in SEEDS if all(compared(name, t, s, setting).name in rows for t in ("none", teacher))]
        if not seeds:
            continue
        alone, with_one = (
            np.array([rows[compared(name, t, seed, setting).name]["patients"] for seed in seeds]) for t in ("none", teacher)
        )
        each = (with_one - alone).mean(axis=1)  # by seed
        dice = [over_seeds(values.mean(axis=1)) for values in (alone, with_one)]
        shown = [name, teacher, str(len(seeds)), *dice, f"{100 * each.mean():+.2f}"]
        patients = over_patients((with_one - alone).mean(axis=0))
        if len(seeds) > 1:
            interval = stats.ttest_1samp(each, 0).confidence_interval(0.95)
            over = [(float(interval.low), float(interval.high)), patients]
            lines.append([*shown, *(f"{100 * low:+.2f} to {100 * high:+.2f}" for low, high in over), verdict(over)])
        else:
            lines.append([*shown, "", f"{100 * patients[0]:+.2f} to {100 * patients[1]:+.2f}", "undecided"])
    head = ["set", "teacher", "seeds", "test Dice alone", "with the teacher", "difference, points", "95 % over seeds"]
    return f"weight and temperature {setting}\n\n" + table([*head, "95 % over patients", "with the teacher is"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["run", "report"])
    parser.add_argument("--minutes", type=float, default=600.0, help="no training begins after so long")
    parser.add_argument("--only", default="", help="jobs that begin with this")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    if given.verb == "run":
        run(given.minutes, given.only, given.device)
    else:
        print(report(read_rows()))


if __name__ == "__main__":
    main()
