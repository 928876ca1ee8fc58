"""Whether an exported file gives the labels of the trained network, on images made up for it, before it is left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from thrifty.config import Phantoms
from thrifty.data.labels import label_map
from thrifty.data.phantoms import phantom_source
from thrifty.errors import ThriftyError
from thrifty.inference import evaluating, forward_padded, labels_of, stride_of
from thrifty.model import Model

LEAST = 0.9999  # of the pixels have to be equal
LARGEST = 256  # pixels: sides of the images made up are no larger

Predict = Callable[[np.ndarray], np.ndarray]
"""Raw pixels (B, channels, H, W) float32 to labels (B, H, W), what `Predictor` gives without post-processing."""


@dataclass(frozen=True)
class Agreement:
    """How many pixels of how many have the label of the trained network."""

    pixels: int
    equal: int

    @property
    def share(self) -> float:
        return self.equal / self.pixels

    def require(self, what: str) -> Agreement:
        """
        Raises:
            ThriftyError: too few pixels are equal.
        """
        if self.share < LEAST:
            raise ThriftyError(
                f"{what} gives the labels of the trained network on only {100 * self.share:.3f} % of {self.pixels:,} pixels, "
                f"{100 * LEAST:g} % are needed; nothing was written, leave this format out with --formats"
            )
        return self


def reference(network: nn.Module, model: Model) -> Predict:
    """thrifty's own prediction of whole images, as `inference.predict_cases` makes it up to its window."""

    def predict(pixels: np.ndarray) -> np.ndarray:
        images = np.stack([model.normalisation.apply(image) for image in pixels])
        with evaluating(network):
            return as_labels(forward_padded(network, torch.from_numpy(images)), model)

    return predict


def as_labels(logits: Tensor, model: Model) -> np.ndarray:
    """(B, H, W) of logits (B, classes, H, W): class ids; where classes overlap a label map by their rule, or else bit sets."""
    found = labels_of(logits, model.overlapping).cpu().numpy()
    return label_map(found, model.region_values) if model.region_values else found


def agreement(predict: Predict, expected: Predict, images: Iterable[np.ndarray]) -> Agreement:
    """Of two predictions of batches (B, channels, H, W)."""
    pixels = equal = 0
    for batch in images:
        got, wanted = predict(batch), expected(batch)
        if got.shape != wanted.shape or got.dtype != wanted.dtype:
            raise ThriftyError(f"labels are {got.dtype} {got.shape} where {wanted.dtype} {wanted.shape} are expected")
        pixels, equal = pixels + wanted.size, equal + int((got == wanted).sum())
    return Agreement(pixels, equal)


def made_up_images(model: Model, stride: int, small: bool = True) -> list[np.ndarray]:
    """Phantoms with the grey values of the training data: batches (2, channels, H, W) of several sizes, some no multiple of the
    stride and, if `small`, some below it."""
    side = max(stride + 1, min(LARGEST, *model.patch))
    sizes = [(side, side), (side + 3, side + stride - 1), (stride + 1, side + stride // 2)]
    sizes += [(max(2, stride // 2 - 1), side), (2, stride)] if small else []
    largest = max(max(size) for size in sizes)
    settings = Phantoms(cases=8, patients=4, size=max(64, largest), classes=3, seed=1)
    grey = np.stack([np.asarray(entry.decode()[0].image[0], np.float32) for entry in phantom_source(settings).entries[:2]])
    grey = (grey - grey.min()) / max(float(np.ptp(grey)), 1e-6)
    pixels = _coloured(model, grey)
    return [np.ascontiguousarray(pixels[:, :, -rows:, -columns:]) for rows, columns in sizes]


def _coloured(model: Model, grey: np.ndarray) -> np.ndarray:
    """(2, channels, H, W) whole numbers between the limits of each channel, from grey values (2, H, W) of 0 to 1."""
    n, channels = model.normalisation, model.network.channels
    low = np.array(n.low or [0.0] * channels, np.float32)[:, None, None]
    high = np.array(n.high or [255.0] * channels, np.float32)[:, None, None]
    powers = np.linspace(0.7, 1.4, channels, dtype=np.float32)[:, None, None]
    values = low + (high - low) * grey[:, None] ** powers
    return (np.round(values) if (high - low).min() > 20 else values).astype(np.float32)


def smallest_side(network: nn.Module) -> int:
    """The least number of rows and of columns that a .pt2 takes: torch.export fixes sizes of one as constants."""
    return stride_of(network) + 1


def batches(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Images (channels, H, W) of any type as batches of one, float32."""
    return [image[None].astype(np.float32) for image in images]
