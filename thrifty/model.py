"""A trained network on disk: weights.safetensors and model.json, which is all that a prediction needs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from thrifty import __version__
from thrifty.config import Evaluate
from thrifty.copies import here
from thrifty.data.normalise import Normalisation
from thrifty.errors import ThriftyError, one_line
from thrifty.nets.build import NetworkSpec, build_network
from thrifty.postprocess import Postprocess
from thrifty.results import Trial, read_json, write_file, write_json

SCHEMA = 1


@dataclass(frozen=True)
class Model:
    """What a network was trained for. `labels` are the names of the classes, `patch` its training patch (rows, columns).

    `slice_axis`: the axis (of a volume turned closest to RAS) across which volumes became its training images; None where it
    was trained on pictures. `window` (pixels) and `overlap` are those of the sliding window that it was evaluated with.
    `labels[0]` is the background. Where classes are `overlapping` the network has an output for each of the others (sigmoid,
    claimed above 1/2), otherwise one for each label (softmax). `region_values`: see `thrifty.data.labels.label_map`.
    """

    network: NetworkSpec
    normalisation: Normalisation
    labels: tuple[str, ...]
    patch: tuple[int, int]
    slice_axis: int | None = None
    window: int = Evaluate().window
    overlap: float = Evaluate().overlap
    postprocess: Postprocess = field(default_factory=Postprocess)
    overlapping: bool = False
    region_values: tuple[int, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "thrifty": __version__,
            "network": self.network.as_json(),
            "normalisation": self.normalisation.as_json(),
            "labels": list(self.labels),
            "patch": list(self.patch),
            "slice_axis": self.slice_axis,
            "window": self.window,
            "overlap": self.overlap,
            "postprocess": self.postprocess.as_json(),
            "overlapping": self.overlapping,
            "region_values": list(self.region_values),
        }


def save_model(trial: Trial, model: Model, weights: dict[str, Tensor]) -> None:
    """Writes the two files of a trained network; `weights` is its state_dict, running statistics included."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_file(trial.weights, lambda file: file.write(save(plain)))
    write_json(trial.model, model.as_json())


def weights_hash(trial: Trial) -> str:
    """SHA-256 of the weights on disk: tells whether an evaluation is of these weights."""
    return hashlib.sha256(here(trial.weights).read_bytes()).hexdigest()


def load_model(trial: Trial, device: torch.device, allow_code: bool = False) -> tuple[nn.Module, Model]:
    """The trained network, in evaluation mode, and what it was trained for.

    Raises:
        ThriftyError: a file is missing or damaged, or the weights are not this network's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    value = read_json(here(trial.model))
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise ThriftyError(f"{trial.model} is no model of schema version {SCHEMA}")
    try:
        model = _model(value, allow_code)
        network = build_network(model.network)
    except (KeyError, TypeError, ValueError) as error:
        raise ThriftyError(f"{trial.model} is incomplete or malformed: {one_line(repr(error))}") from None
    except ThriftyError as error:
        raise ThriftyError(f"{trial.model}: {error}") from None
    try:
        network.load_state_dict(load_file(here(trial.weights)))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ThriftyError(
            f"{trial.weights} does not hold the weights of '{model.network.name}': {one_line(error)[:200]}"
        ) from None
    return network.to(device).eval(), model


def _model(value: dict[str, Any], allow_code: bool) -> Model:
    """From model.json; files of older versions lack the keys from `slice_axis` on."""
    rows, columns = (int(size) for size in value["patch"])
    axis, before = value.get("slice_axis"), Evaluate()
    settings = Evaluate(window=value.get("window", before.window), overlap=value.get("overlap", before.overlap))
    if axis not in (None, 0, 1, 2):
        raise ValueError(f"slice_axis is {axis}, allowed are 0, 1, 2 and null")
    return Model(
        network=NetworkSpec.from_json(value["network"], allow_code),
        normalisation=Normalisation.from_json(value["normalisation"]),
        labels=tuple(str(label) for label in value["labels"]),
        patch=(rows, columns),
        slice_axis=axis,
        window=settings.window,
        overlap=settings.overlap,
        postprocess=Postprocess.from_json(value["postprocess"]) if "postprocess" in value else Postprocess(),
        overlapping=bool(value.get("overlapping", False)),
        region_values=tuple(int(v) for v in value.get("region_values", ())),
    )
