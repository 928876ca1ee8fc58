"""Images made worse on purpose: six corruptions at five strengths each, the same ones for every network.

What is random in them is drawn from the name of the case and the corruption, so all networks see the same image, and at every
strength of one corruption the same noise, field or direction. Images are worsened as they are stored, before the normalisation
of the network. Intensities are measured in `range`: of a channel of the image, what lies between its percentiles 0.5 and 99.5.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from thrifty.data.labels import IGNORED
from thrifty.data.normalise import HIGH, LOW

SEED = 0x726F_6275  # 'robu', so that no other generator of a study starts alike
DEGREE = 3  # of the polynomial of a bias field, as in monai's RandBiasField
Spacing = tuple[float, float] | None
Worsen = Callable[[np.ndarray, float, np.random.Generator, Spacing], np.ndarray]


@dataclass(frozen=True)
class Corruption:
    """`worsen` takes an image (channels, H, W) float32, a strength, a generator and the spacing (rows, columns)."""

    name: str
    unit: str
    strengths: tuple[float, ...]
    worsen: Worsen

    @property
    def number(self) -> int:
        return zlib.crc32(self.name.encode())


def noise(image: np.ndarray, strength: float, random: np.random.Generator, spacing_mm: Spacing = None) -> np.ndarray:
    """Gaussian noise of a standard deviation of `strength` ranges, in every pixel and channel for itself."""
    low, high = percentiles(image)
    return image + strength * (high - low) * random.standard_normal(image.shape, np.float32)


def blur(image: np.ndarray, strength: float, random: np.random.Generator, spacing_mm: Spacing = None) -> np.ndarray:
    """A Gaussian of a standard deviation of `strength` pixels, mirrored at the edges."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(image, (0, strength, strength), mode="mirror")


def contrast(image: np.ndarray, strength: float, random: np.random.Generator, spacing_mm: Spacing = None) -> np.ndarray:
    """Every channel brought towards its mean: differences from it times 1 - `strength`."""
    mean = image.mean(axis=(1, 2), keepdims=True)
    return mean + (1 - strength) * (image - mean)


def bias_field(image: np.ndarray, strength: float, random: np.random.Generator, spacing_mm: Spacing = None) -> np.ndarray:
    """Intensities above percentile 0.5 times exp(`strength` f), f a smooth random polynomial whose largest value is 1 or -1.

    f is a sum of products of Legendre polynomials over rows and columns, of degree 3 together, without the constant.
    """
    from numpy.polynomial.legendre import leggrid2d

    orders = np.add.outer(np.arange(DEGREE + 1), np.arange(DEGREE + 1))
    weights = np.where((orders > 0) & (orders <= DEGREE), random.standard_normal(orders.shape), 0.0)
    field = leggrid2d(np.linspace(-1, 1, image.shape[1]), np.linspace(-1, 1, image.shape[2]), weights)
    low, _ = percentiles(image)
    factor = np.exp(strength * field / np.abs(field).max()).astype(np.float32)
    return low + (image - low) * factor


def resolution(image: np.ndarray, strength: float, random: np.random.Generator, spacing_mm: Spacing = None) -> np.ndarray:
    """Pixels `strength` times as large (anti-aliased), brought back to the old size; both bilinear."""
    import torch
    from torch.nn.functional import interpolate

    full = image.shape[1:]
    coarse = [max(1, round(size / strength)) for size in full]
    pixels = torch.from_numpy(np.ascontiguousarray(image))[None]
    smaller = interpolate(pixels, size=coarse, mode="bilinear", antialias=True)
    return interpolate(smaller, size=list(full), mode="bilinear", align_corners=False)[0].numpy()


def rotation(image: np.ndarray, strength: float, random: np.random.Generator, spacing_mm: Spacing = None) -> np.ndarray:
    """Turned about the centre by `strength` degrees to a random side, bilinear; beyond the edges the image is mirrored."""
    degrees = strength * _side(random)
    return np.stack([_turned(channel, degrees, spacing_mm, order=1, mode="mirror") for channel in image])


def _side(random: np.random.Generator) -> int:
    return 1 if random.integers(2) else -1


def _turned(values: np.ndarray, degrees: float, spacing_mm: Spacing, order: int, mode: str, cval: float = 0) -> np.ndarray:
    """(H, W) turned in mm where the spacing is known, so that a pixel that is no square does not shear what is turned."""
    from scipy.ndimage import affine_transform

    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    scale = np.diag(spacing_mm or (1.0, 1.0))
    matrix = np.linalg.inv(scale) @ turn @ scale
    centre = (np.array(values.shape) - 1) / 2
    return affine_transform(values, matrix, centre - matrix @ centre, order=order, mode=mode, cval=cval)


CORRUPTIONS = (
    Corruption("noise", "standard deviation, ranges", (0.05, 0.1, 0.15, 0.2, 0.3), noise),
    Corruption("blur", "standard deviation, pixels", (0.5, 1.0, 1.5, 2.0, 3.0), blur),
    Corruption("contrast", "share lost", (0.1, 0.25, 0.4, 0.55, 0.7), contrast),
    Corruption("bias_field", "largest logarithm of the factor", (0.1, 0.2, 0.4, 0.6, 0.8), bias_field),
    Corruption("resolution", "size of a pixel, times", (1.25, 1.5, 2.0, 3.0, 4.0), resolution),
    Corruption("rotation", "degrees", (5.0, 10.0, 20.0, 30.0, 45.0), rotation),
)


def percentiles(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Percentiles 0.5 and 99.5 of each channel of (channels, H, W), each (channels, 1, 1) float32."""
    low, high = np.percentile(image, (LOW, HIGH), axis=(1, 2), keepdims=True)
    return low.astype(np.float32), high.astype(np.float32)


def generator(corruption: Corruption, case: str) -> np.random.Generator:
    return np.random.default_rng([SEED, corruption.number, zlib.crc32(case.encode())])


def worsened_image(
    corruption: Corruption, image: np.ndarray, strength: float, case: str, spacing_mm: Spacing = None
) -> np.ndarray:
    """The image (channels, H, W) of a case as float32, worsened; the same for the same name of the case."""
    values = image.astype(np.float32)
    return corruption.worsen(values, strength, generator(corruption, case), spacing_mm).astype(np.float32)


def worsened_mask(corruption: Corruption, mask: np.ndarray, strength: float, case: str, spacing_mm: Spacing = None) -> np.ndarray:
    """The mask (H, W) uint8 that belongs to `worsened_image`: turned with it (nearest neighbour), otherwise as it is.

    What a turn brings in from beyond the edges is ignored: it was never in the picture.
    """
    if corruption.name != "rotation":
        return mask
    degrees = strength * _side(generator(corruption, case))
    return _turned(mask, degrees, spacing_mm, order=0, mode="constant", cval=IGNORED)
