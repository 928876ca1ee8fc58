"""Fine-tuning: a trained network as the start of another training, beside the same network from scratch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thrifty.errors import ThriftyError
from thrifty.model import Model, load_model, save_model, weights_hash
from thrifty.nets.baselines import unet_parameters, unetpp_parameters
from thrifty.nets.build import NetworkSpec, genotype_spec
from thrifty.results import Run, Trial

FINETUNED = "finetuned"
FROM_SCRATCH = "from_scratch"
CLASSIFIERS = ("classifier.", "head.")  # the last layer in derived networks and in the baselines


@dataclass(frozen=True)
class Start:
    """The network that a run starts from, kept in the run folder so that every machine and every resume finds it."""

    model: Model
    weights: dict[str, Tensor]
    weights_sha256: str

    def specs(self, channels: int, classes: int) -> list[NetworkSpec]:
        """The fine-tuned network for data of so many channels and classes, and the same one from scratch."""
        return [adapted(self.model.network, name, channels, classes) for name in (FINETUNED, FROM_SCRATCH)]


def keep_start(run: Run, folder: Path, allow_code: bool = False) -> None:
    """Copies the trained network in `folder` into the run folder.

    Raises:
        ThriftyError: no trained network there, or the run has been fine-tuned from other weights.
    """
    trial = Trial(folder.expanduser())
    if not trial.model.is_file():
        raise ThriftyError(
            f"--from {folder}: there is no model.json; give the folder of one trained network, as seed_0 of a retraining"
        )
    network, model = load_model(trial, torch.device("cpu"), allow_code)
    tuned = run.retrain / FINETUNED
    if run.start.model.is_file() and tuned.exists() and weights_hash(run.start) != weights_hash(trial):
        raise ThriftyError(f"{tuned} was started from other weights than {folder}; remove that folder to start it again")
    save_model(run.start, model, network.state_dict())


def read_start(run: Run, allow_code: bool = False) -> Start | None:
    """The start of a run, None where it has none."""
    if not run.start.model.is_file():
        return None
    network, model = load_model(run.start, torch.device("cpu"), allow_code)
    return Start(model, network.state_dict(), weights_hash(run.start))


def adapted(spec: NetworkSpec, name: str, channels: int, classes: int) -> NetworkSpec:
    """The same structure for other channels and classes; it stands outside the budgets."""
    if spec.genotype is not None:
        return genotype_spec(name, replace(spec.genotype, channels=channels, classes=classes), None)
    size = unet_parameters if spec.kind == "unet" else unetpp_parameters
    parameters = size(channels, classes, spec.filters) if spec.filters else size(channels, classes)
    return replace(spec, name=name, channels=channels, classes=classes, budget=None, parameters=parameters)


def begin(network: nn.Module, start: Start, overlapping: bool = False) -> dict[str, Any]:
    """Copies the weights and running statistics of `start` into `network`, where they fit; what result.json says of it.

    Only the first convolution and the classifier have other shapes, where the data has other channels or classes: those stay
    fresh, and are named under `fresh`. The classifier stays fresh too where classes overlap in one of the two data sets only:
    its outputs then mean something else.
    """
    own = network.state_dict()
    fresh = [name for name, value in own.items() if start.weights[name].shape != value.shape]
    if overlapping != start.model.overlapping:
        fresh += [name for name in own if name.startswith(CLASSIFIERS) and name not in fresh]
    network.load_state_dict({name: own[name] if name in fresh else start.weights[name] for name in own})
    return {"network": start.model.network.name, "weights_sha256": start.weights_sha256, "fresh": fresh}
