"""Trained networks as one function of numpy images: a single network, or an ensemble of several seeds or folds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from thrifty.config import Evaluate
from thrifty.data.labels import label_map
from thrifty.errors import ThriftyError
from thrifty.inference import evaluating, labels_of, logits_of, predict_flipped, predict_logits, probabilities_of
from thrifty.model import Model, load_model, weights_hash
from thrifty.postprocess import common
from thrifty.results import Trial
from thrifty.train import choose_device

BATCH = 8  # slices that go through a network together


@dataclass(frozen=True)
class Maps:
    """What is predicted of a stack of slices: `labels` (N, H, W) uint8 class ids and, where asked for, float32 maps.

    Where classes overlap `labels` is a label map by the region rule of the data set the network was trained on, or, where that
    gives none, holds bit sets (`thrifty.data.labels`).

    `probabilities` (N, classes, H, W) are those before post-processing, `uncertainty` (N, H, W) is 0 where a network is sure and
    1 where all classes are equally likely (each is 1/2 where they overlap).
    """

    labels: np.ndarray
    probabilities: np.ndarray | None
    uncertainty: np.ndarray | None


@dataclass(frozen=True)
class Member:
    network: nn.Module
    model: Model
    weights_sha256: str


class Predictor:
    """One trained network or an ensemble. Call it with an image: `predictor(image)` gives its class ids.

    An image of a network with one channel is (H, W), a stack of slices (D, H, W); with several channels it is (H, W, C) or
    (D, H, W, C). Values are those of the files that the network was trained on: they are normalised here.
    """

    def __init__(self, members: Sequence[Member], device: torch.device) -> None:
        if not members:
            raise ThriftyError("an ensemble needs at least one trained network")
        self.members, self.device = tuple(members), device
        self.model = members[0].model
        self.postprocess = common([member.model.postprocess for member in members])
        self.settings = Evaluate(window=self.model.window, overlap=self.model.overlap, batch=BATCH)

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.model.network.channels

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; the place is the id, 0 being the background."""
        return self.model.labels

    @property
    def largest_label(self) -> int:
        """The largest value that labels may have."""
        if not self.model.overlapping:
            return len(self.classes) - 1
        return max(self.model.region_values, default=2 ** (len(self.classes) - 1) - 1)

    def __repr__(self) -> str:
        networks = f"{len(self.members)} networks" if len(self.members) > 1 else "1 network"
        return f"Predictor({networks} '{self.model.network.name}', {self.channels} channels, classes {list(self.classes)})"

    def __call__(self, image: np.ndarray, flips: bool = False) -> np.ndarray:
        """Class ids (H, W) or (D, H, W), uint8; where classes overlap what `Maps` says.

        Args:
            image: as the class says; any size, any plain type of numbers.
            flips: whether to average over the mirrored images.

        Raises:
            ThriftyError: another number of axes or channels, no plain numbers, NaN or infinite values, no pixels.
        """
        slices = self._slices(image)
        return self._like(image, self.maps(slices, flips).labels)

    def probabilities(self, image: np.ndarray, flips: bool = False) -> np.ndarray:
        """Probabilities (classes, H, W) or (D, classes, H, W), float32, the mean over members. Errors as of a call."""
        found = self.maps(self._slices(image), flips, probabilities=True).probabilities
        assert found is not None
        return self._like(image, found)

    def uncertainty(self, image: np.ndarray, flips: bool = False) -> np.ndarray:
        """Predictive entropy (H, W) or (D, H, W), float32 in 0..1, as `entropy` has it. Errors as of a call."""
        found = self.maps(self._slices(image), flips, uncertainty=True).uncertainty
        assert found is not None
        return self._like(image, found)

    def maps(self, slices: np.ndarray, flips: bool = False, probabilities: bool = False, uncertainty: bool = False) -> Maps:
        """All that is wanted of slices (N, channels, H, W), by the same steps as the evaluation of a study.

        Raises:
            ThriftyError: another number of channels.
        """
        if slices.shape[1] != self.channels:
            raise ThriftyError(f"it has {slices.shape[1]} channels, the network was trained with {self.channels}")
        labels, means, unsure = [], [], []  # of a volume only what is wanted is kept: probabilities are large
        for start in range(0, len(slices), BATCH):
            for found, mean in self._batch(slices[start : start + BATCH], flips):
                labels.append(self._finished(found))
                if probabilities:
                    means.append(mean)
                if uncertainty:
                    unsure.append(entropy(mean, self.model.overlapping))
        return Maps(np.stack(labels), np.stack(means) if probabilities else None, np.stack(unsure) if uncertainty else None)

    def _finished(self, labels: np.ndarray) -> np.ndarray:
        values = self.model.region_values
        if not self.model.overlapping:
            return self.postprocess.apply(labels)
        return label_map(labels, values) if values else labels

    def _batch(self, slices: np.ndarray, flips: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(labels (H, W), probabilities (classes, H, W)) of each slice."""
        overlapping = self.model.overlapping
        if len(self.members) == 1 and not flips:
            logits = self._logits(self.members[0], slices)
            means = probabilities_of(logits, overlapping)
        else:
            means = torch.stack([self._probabilities(member, slices, flips) for member in self.members]).mean(dim=0)
            logits = logits_of(means, overlapping)
        yield from zip(labels_of(logits, overlapping).cpu().numpy(), means.cpu().numpy(), strict=True)

    def _logits(self, member: Member, slices: np.ndarray) -> Tensor:
        with evaluating(member.network):
            return predict_logits(member.network, self._normalised(member, slices), self.settings)

    def _probabilities(self, member: Member, slices: np.ndarray, flips: bool) -> Tensor:
        if not flips:
            return probabilities_of(self._logits(member, slices), self.model.overlapping)
        with evaluating(member.network):
            images = self._normalised(member, slices)
            return predict_flipped(member.network, images, self.settings, self.model.overlapping)

    def _normalised(self, member: Member, slices: np.ndarray) -> Tensor:
        images = np.stack([member.model.normalisation.apply(image) for image in slices])
        return torch.from_numpy(images).to(self.device)

    def _slices(self, image: np.ndarray) -> np.ndarray:
        """`image` as slices (N, channels, H, W)."""
        image = np.asarray(image)
        shape, wanted = image.shape, "(H, W) or (D, H, W)" if self.channels == 1 else f"(H, W, {self.channels}) or (D, H, W, ...)"
        last = f"a network for {self.channels} channel{'s' if self.channels > 1 else ''} takes {wanted}"
        if image.dtype.kind not in "biuf":
            raise ThriftyError(f"an image of type {image.dtype} came; plain numbers are needed")
        if not image.size or len(shape) not in ((2, 3) if self.channels == 1 else (3, 4)):
            raise ThriftyError(f"an image of shape {shape} came; {last}")
        if self.channels == 1:
            if len(shape) == 3 and shape[-1] in (1, 3, 4):
                raise ThriftyError(f"an image of shape {shape} came, which looks like channels at the end; {last}")
            image = image[..., None]
        if image.shape[-1] != self.channels:
            raise ThriftyError(f"an image of shape {shape} came; {last}")
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            raise ThriftyError("an image with NaN or infinite values came; replace them first")
        stack = image if image.ndim == 4 else image[None]
        return np.moveaxis(stack, 3, 1)

    def _like(self, image: np.ndarray, maps: np.ndarray) -> np.ndarray:
        is_stack = np.ndim(image) == (3 if self.channels == 1 else 4)
        return maps if is_stack else maps[0]


def entropy(probabilities: np.ndarray, overlapping: bool = False) -> np.ndarray:
    """Predictive entropy (H, W) float32 of mean probabilities (classes, H, W), divided by that of equal chances: 0 to 1.

    -sum p log p / log(classes), p being the mean over the members of an ensemble (Lakshminarayanan 2017, section 2.4; Gal
    2016, section 3.3.1). Where classes overlap: the mean of that of each class, which has two outcomes.
    """
    if overlapping:
        return np.stack([entropy(np.stack([p, 1 - p])) for p in probabilities]).mean(axis=0)
    sure = np.clip(probabilities.astype(np.float64), 1e-12, 1.0)
    return (-(sure * np.log(sure)).sum(axis=0) / np.log(len(probabilities))).clip(0, 1).astype(np.float32)


def load(folder: str | Path, device: str = "auto", allow_code: bool = False) -> Predictor:
    """The trained network in `folder`, or all those in its folders as an ensemble.

    Args:
        folder: as `thrifty retrain` leaves it: `retrain/<network>/seed_<s>` for one network, `retrain/<network>` for all seeds.
        device: auto, cpu or cuda.
        allow_code: lets ops of the form module:Class be imported.

    Raises:
        ThriftyError: no trained network there, a damaged one, or networks that do not belong together.
    """
    folder = Path(folder).expanduser()
    trials = _trials(folder)
    if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        here = "" if torch.cuda.is_available() else "; this machine has no GPU that torch sees"
        raise ThriftyError(f"device is '{device}'; allowed are auto, cpu and cuda{here}")
    where = choose_device(device)
    members = [Member(*load_model(trial, where, allow_code), weights_hash(trial)) for trial in trials]
    first = members[0].model
    for trial, member in zip(trials, members, strict=True):
        if _kind(member.model) != _kind(first):
            raise ThriftyError(
                f"{trial.folder} and {trials[0].folder} are no ensemble: channels, classes or the axis of slices differ; "
                "give the folder of one of them"
            )
    return Predictor(members, where)


def _kind(model: Model) -> tuple[object, ...]:
    """What the members of an ensemble must agree in."""
    return model.network.channels, model.labels, model.slice_axis, model.overlapping, model.region_values


def _trials(folder: Path) -> list[Trial]:
    if Trial(folder).model.is_file():
        return [Trial(folder)]
    if not folder.is_dir():
        raise ThriftyError(f"there is no folder {folder}; a model is a folder with model.json and weights.safetensors")
    found = [Trial(path) for path in sorted(folder.iterdir()) if Trial(path).model.is_file()]
    if found:
        return found
    inside = sorted({path.parent.parent for path in folder.glob("**/seed_*/model.json")})[:3]
    hint = f"; trained networks are in {', '.join(map(str, inside))}" if inside else ""
    raise ThriftyError(f"{folder} holds no trained network (model.json and weights.safetensors){hint}")
