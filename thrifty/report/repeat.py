"""How to repeat a study: the commands, as they are typed."""

from __future__ import annotations

import json
import shlex

from thrifty.report.elements import code, plain_text
from thrifty.report.facts import Facts
from thrifty.results import read_run

NOT_INDEXED = ("python", "thrifty")
"""Of the versions in env.json, those that are no packages of an index."""
STAGES = ("search", "select", "retrain", "evaluate", "report")
SAME = (
    "All random numbers come from the seeds in the settings. Another device, another number of threads or other versions change "
    "the last digits of sums, and training carries that further: expect the same within the spread over seeds, not to the digit."
)


def repeat_section(facts: Facts) -> list[str]:
    if not facts.run.study.is_file():
        return []
    name, source = f"{facts.study.name}.yaml", facts.study.data.source
    need = [f"Save the settings above as `{name}` (they are `run.yaml` of the run folder)"]
    if facts.study.space.endswith((".yaml", ".yml")):
        need.append(f"put `space.yaml` of the run folder where they look for it, at {plain_text(facts.study.space)}")
    if source != "phantoms":
        need.append(f"put the data set {plain_text(source)} into the folder that THRIFTY_DATA names")
    evaluate = facts.study.evaluate
    if evaluate.transfer not in (None, "phantoms"):
        need.append(f"put the second data set {plain_text(evaluate.transfer)} there too (`evaluate.transfer`)")
    if evaluate.nnunet is not None:
        need.append(f"put the results of nnU-Net {plain_text(evaluate.nnunet)} there too (`evaluate.nnunet`)")
    text = f"{'; '.join(need)}. Then, with thrifty {_version(facts, 'thrifty')} and Python {_version(facts, 'python')}:"
    return ["## How to repeat it", text, code("\n".join(_commands(facts, name)), "sh"), SAME]


def _version(facts: Facts, name: str) -> str:
    return str(((facts.environment or {}).get("versions") or {}).get(name, "of a version that was not recorded"))


def _commands(facts: Facts, study: str) -> list[str]:
    versions = (facts.environment or {}).get("versions") or {}
    pins = [f"{name}=={str(text).partition('+')[0]}" for name, text in versions.items() if name not in NOT_INDEXED]
    lines = [f"python -m pip install {' '.join(pins)}"] if pins else []
    evaluate, more = facts.study.evaluate, _changed(facts)
    needs_data = {facts.study.data.source, evaluate.transfer, evaluate.nnunet} - {"phantoms", None}
    lines += ["export THRIFTY_DATA=/folder/of/data/sets"] if needs_data else []
    lines += ["export THRIFTY_RESULTS=/folder/for/results", f"thrifty check {study}"]
    if facts.run.start.model.is_file():
        ends = {"retrain": " --from MODEL", "evaluate": more, "report": more}
        return [*lines, *(f"thrifty {stage} {study}{ends.get(stage, '')}" for stage in STAGES)]
    again = [f"thrifty {stage} {study}{more}" for stage in ("evaluate", "report")] if more else []
    return [*lines, f"thrifty run {study}", *again, f"# the same, one stage after the other: thrifty {'|'.join(STAGES)} {study}"]


def _changed(facts: Facts) -> str:
    """The keys of `evaluate` that are not as run.yaml has them, as overrides: they may change in a finished run folder."""
    before = read_run(facts.run.root)[0].evaluate.model_dump(mode="json")
    now = facts.study.evaluate.model_dump(mode="json")
    changed = [shlex.quote(f"evaluate.{key}={json.dumps(value)}") for key, value in now.items() if value != before[key]]
    return "".join(f" {text}" for text in changed)
