"""README.md of an export: a model card in the form of Hugging Face, of what the run folder knows and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import yaml

from thrifty import __version__
from thrifty.export.meaning import meaning
from thrifty.export.origin import Origin
from thrifty.export.quantise import Loss
from thrifty.model import Model
from thrifty.space.path import total_stride

MOST_LOSS = 0.5  # points of Dice that quantisation may cost without a warning


@dataclass(frozen=True)
class Told:
    """What only the user can say: licence identifier, modality, and what a busy core and GPU draw (watts)."""

    licence: str | None = None
    modality: str | None = None
    cpu_watts: float | None = None
    gpu_watts: float | None = None


@dataclass(frozen=True)
class Facts:
    """All that a card is written from. `files`: size in bytes by name."""

    model: Model
    origin: Origin | None
    told: Told
    files: Mapping[str, int]
    loss: Loss | None = None
    notes: Sequence[str] = ()


def model_card(facts: Facts) -> str:
    """Front matter and text."""
    front = yaml.safe_dump(front_matter(facts), sort_keys=False, allow_unicode=True)
    sections = (_head, _use, _limits, _data, _metrics, _files, _energy, _howto)
    return f"---\n{front}---\n\n" + "\n\n".join("\n".join(section(facts)) for section in sections) + "\n"


def data_name(facts: Facts) -> str:
    """The name of the data set: the last part of its folder, so that no path of a machine leaves it."""
    return PurePath(facts.origin.study.data.source).name if facts.origin else "unknown"


def front_matter(facts: Facts) -> dict[str, Any]:
    """The metadata of the card as huggingface_hub reads it."""
    name, data = facts.model.network.name, data_name(facts)
    front: dict[str, Any] = {
        "license": facts.told.licence or "unknown",
        "library_name": "pytorch",
        "pipeline_tag": "image-segmentation",
        "tags": ["medical-imaging", "image-segmentation", "neural-architecture-search", "thrifty", "onnx"],
        "metrics": ["dice"],
    }
    summary = facts.origin.summary() if facts.origin else None
    if facts.origin:
        front["datasets"] = [data]
    if summary:
        values = [{"type": "dice", "name": "Dice, mean over seeds (test cases)", "value": round(summary["dice"]["mean"], 4)}]
        task, dataset = {"type": "image-segmentation"}, {"type": data, "name": data, "split": "test"}
        front["model-index"] = [{"name": name, "results": [{"task": task, "dataset": dataset, "metrics": values}]}]
    return front


def _head(facts: Facts) -> list[str]:
    spec = facts.model.network
    made = {"genotype": "a genotype of a search space", "unet": "a U-Net", "unetpp": "a UNet++"}[spec.kind]
    made += f" (`{spec.genotype.space}`)" if spec.genotype else ""
    return [
        f"# {spec.name}",
        "",
        f"A network of {spec.parameters:,} parameters that segments 2-D medical images, {made}; made by thrifty {__version__}.",
        "",
        f"Input: {spec.channels} channel{'s' if spec.channels > 1 else ''} of raw pixels. Output: {meaning(facts.model)}.",
    ]


def _use(facts: Facts) -> list[str]:
    text = "Research and teaching. **This is not a medical device**: it must not be used for diagnosis or treatment of patients."
    return ["## Intended use", "", text]


def _limits(facts: Facts) -> list[str]:
    model, spec = facts.model, facts.model.network
    patch = " x ".join(map(str, model.patch))
    stride = total_stride(spec.genotype.levels) if spec.genotype else 2 ** (len(spec.filters or (0,) * 5) - 1)
    whole = "The exported files take an image whole. thrifty itself predicts images larger than its window in overlapping parts"
    if facts.origin:
        whole += f" (`evaluate.window`, {facts.origin.study.evaluate.window} pixels in this study)"
    lines = [
        "- 2-D only: a volume is predicted slice by slice, and nothing looks across slices.",
        f"- Modality: {facts.told.modality or 'not stated'}. Nothing is known about images of another kind, scanner or site.",
        f"- Trained on patches of {patch} pixels. Any size is taken (grown to multiples of {stride} by mirroring), but objects "
        "much larger or smaller than in training are likely to be missed. Images are not resampled to a spacing.",
        f"- {whole}, so that labels of such images can differ a little.",
        f"- {_classes(model)}",
    ]
    if model.postprocess.steps and not model.overlapping:
        lines.append(
            "- `thrifty predict` cleans the labels up afterwards, as chosen on the selection cases "
            f"({model.postprocess.name}). Connected components "
            "cannot be part of ONNX or torch.export: **the exported files give the labels before that step.**"
        )
    return ["## Limits", "", *lines]


def _classes(model: Model) -> str:
    if not model.overlapping:
        return f"The classes exclude each other: every pixel has one of {model.network.classes}."
    text = "The classes may overlap: each is claimed where its own probability, a sigmoid, is above 1/2."
    hidden = " The labels hide a class where a later one is claimed; the probabilities (`--probabilities`) show each."
    return text + (hidden if model.region_values else "")


def _data(facts: Facts) -> list[str]:
    if facts.origin is None:
        return ["## Data", "", "Unknown: the model was not exported from the run folder that trained it."]
    study, result, summary = facts.origin.study, facts.origin.result(), facts.origin.summary()
    lines = [f"- Data set: {data_name(facts)}" + (" (synthetic, drawn by thrifty)" if study.data.source == "phantoms" else "")]
    if summary and summary["data"]:
        data = summary["data"]
        sets = ", ".join(f"{name} {number}" for name, number in data.get("sets", {}).items())
        lines.append(f"- {data.get('cases')} cases of {data.get('patients')} patients; sets, split by patient: {sets}")
    lines += [
        "- Trained on `weights` and `architecture`; `selection` chose the epoch; `test` was read once, for the numbers below.",
        f"- Normalisation: z-scores by {study.data.normalisation}, intensities clipped between the percentiles 0.5 and 99.5.",
        "- Origin, consent and licence of the data: not known to thrifty; add them here.",
    ]
    if result:
        fold = "" if facts.origin.fold is None else f", fold {facts.origin.fold}"
        lines.append(
            f"- This file: seed {facts.origin.seed}{fold}, {result.get('steps')} steps, best of epoch {result.get('best_epoch')}"
        )
    return ["## Data", "", *lines]


def _metrics(facts: Facts) -> list[str]:
    summary = facts.origin.summary() if facts.origin else None
    if summary is None:
        return ["## Metrics", "", "Not measured: there is no evaluation on test cases beside this model."]
    dice = summary["dice"]
    spread = f"{dice['sd_seeds']:.3f}" if dice.get("sd_seeds") is not None else "one seed"
    interval = f"{dice['ci95'][0]:.3f} to {dice['ci95'][1]:.3f}" if dice.get("ci95") else "not measured"
    lines = [
        f"Test cases of {data_name(facts)}; means over {summary.get('seeds')} trainings, of which this file is one.",
        "",
        "| metric | mean | sd over seeds | 95 % interval over patients |",
        "|---|---|---|---|",
        f"| Dice | {dice['mean']:.3f} | {spread} | {interval} |",
    ]
    if iou := summary.get("iou"):
        lines.append(f"| IoU | {iou['mean']:.3f} | {_number(iou.get('sd_seeds'))} | |")
    if hd95 := summary.get("hd95"):
        lines.append(f"| HD95 ({hd95.get('unit', '')}) | {hd95['mean']:.2f} | | |")
    return ["## Metrics", "", *lines]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _files(facts: Facts) -> list[str]:
    lines = ["| file | bytes |", "|---|---|", *(f"| `{name}` | {size:,} |" for name, size in facts.files.items())]
    if facts.loss:
        loss = facts.loss
        lines += [
            "",
            f"int8: Dice {loss.after:.4f} against {loss.before:.4f} in float on {loss.cases} selection cases: "
            f"{loss.points:+.2f} points lost.",
        ]
        if loss.points > MOST_LOSS:
            lines.append(f"**Quantisation costs more than {MOST_LOSS} points here: prefer network.onnx.**")
    elif "network_int8.onnx" in facts.files:
        lines += ["", "int8: its loss in Dice was not measured, since no cases with masks were at hand."]
    return ["## Files", "", *lines, *(["", *(f"- {note}" for note in facts.notes)] if facts.notes else [])]


def _energy(facts: Facts) -> list[str]:
    hours = facts.origin.hours() if facts.origin else None
    if not hours:
        return ["## Energy", "", "Unknown: there is no record of hours beside this model."]
    lines = ["| what | CPU-hours | GPU-hours |", "|---|---|---|"]
    lines += [f"| {name} | {cost['cpu_hours']:.2f} | {cost['gpu_hours']:.2f} |" for name, cost in hours.items()]
    whole = {key: sum(cost[key] for name, cost in hours.items() if name != "this training") for key in ("cpu_hours", "gpu_hours")}
    return [
        "## Energy",
        "",
        "Hours of the whole run, in which this network was found, compared and measured:",
        "",
        *lines,
        "",
        energy(whole, facts.told),
    ]


def energy(hours: Mapping[str, float], told: Told) -> str:
    """Hours times watts, in words, with the assumption; unknown where a needed number of watts was not given."""
    needed = {"cpu_hours": told.cpu_watts, "gpu_hours": told.gpu_watts}
    missing = [key.replace("_hours", "") for key, watts in needed.items() if hours[key] > 0 and watts is None]
    if missing:
        options = " and ".join(f"--{key}-watts" for key in missing)
        return f"Energy: unknown, since the power of the machine was not given ({options})."
    kwh = sum(hours[key] * (watts or 0) for key, watts in needed.items()) / 1000
    parts = [
        f"{watts:g} W for each busy {key[:3].upper()}{' core' if key[:3] == 'cpu' else ''}"
        for key, watts in needed.items()
        if hours[key] > 0
    ]
    return f"Energy: about {kwh:.3g} kWh, assuming {' and '.join(parts)}, cooling and idle parts not counted."


def _howto(facts: Facts) -> list[str]:
    lines = ["## Use", ""]
    if "network.py" in facts.files:
        lines += [
            "```python",
            "import torch",
            "from network import load  # network.py: plain torch",
            "",
            'labels = load("weights.safetensors")(pixels)  # (B, C, H, W) float32 raw pixels -> (B, H, W) labels',
            "```",
            "",
        ]
    if "network.onnx" in facts.files:
        lines += [
            "```python",
            "import onnxruntime",
            "",
            'session = onnxruntime.InferenceSession("network.onnx")',
            'labels = session.run(["labels"], {"pixels": pixels})[0]  # numpy, float32, as above',
            "```",
        ]
    return lines if len(lines) > 2 else [*lines, "`thrifty.model.load_model` reads the weights with model.json."]
