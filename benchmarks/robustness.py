"""Robustness of the trained networks of a finished run folder, without Ray, one network and seed after the other.

    python benchmarks/robustness.py RUN_FOLDER [--networks NAME ...] [--seeds 0] [--cases 100]

Writes below RUN_FOLDER what `thrifty evaluate` would (evaluate/robustness/...), and prints the tables of a report on these
networks. What is there already is not measured again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from thrifty.data.prepare import open_prepared
from thrifty.evaluate import measure
from thrifty.networks import read_networks, trial_keys
from thrifty.report.robustness import robustness_section
from thrifty.results import read_json, read_run
from thrifty.robustness.study import More


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--networks", nargs="+")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--cases", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(1)
    study, run = read_run(given.run)
    evaluate = study.evaluate.model_copy(update={"corruption_cases": given.cases})
    study = study.model_copy(update={"evaluate": evaluate})
    names = given.networks or list(read_networks(run))
    done = [key for key in trial_keys(study, names) if key[1] in given.seeds and run.retrain_trial(*key).done]
    more = More(study, run, open_prepared(run), done)
    for spec in more.specs():
        if not spec.trial.done:
            measure(spec.arguments, spec.trial, lambda row: None)
            print(f"{spec.name}: {read_json(spec.trial.result)['seconds']:.0f} s", flush=True)
    rows = [row for key in done for row in read_json(run.evaluate_trial(*key).result)["cases"]]
    print("\n\n".join(robustness_section(more.summary(rows, []), [])))


if __name__ == "__main__":
    main()
