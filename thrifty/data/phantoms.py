"""The embedded data set: synthetic organs drawn with scikit-image, the same for the same seed everywhere.

A phantom is a body (ellipse) with organs in it, every second one with a lobed outline. What makes it hard is what makes
real images hard: grey values that overlap, a bias field, speckle, noise, texture, and spots that are no organ. The cases
of a patient share anatomy, grey values and bias field, and so look alike: a split that mixes them is too good to be true.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from thrifty.config import Phantoms
from thrifty.data.cases import Case, Entry, Sample, Source
from thrifty.errors import ThriftyError

BODY = 0.35  # grey value of the body
RING = 0.22  # distance of the organs from the middle, in sizes


@dataclass(frozen=True)
class Organ:
    """The anatomy of one organ; lengths and places in shares of the image's size."""

    row: float
    column: float
    radius: float
    stretch: float
    turn: float
    lobes: int
    depth: float
    grey: float


def phantom_source(settings: Phantoms) -> Source:
    """
    Raises:
        ThriftyError: more patients than cases.
    """
    if settings.patients > settings.cases:
        raise ThriftyError(
            f"data.phantoms.patients is {settings.patients}, but data.phantoms.cases is {settings.cases}; "
            "each patient needs a case at least"
        )
    labels = ("background", *(f"organ {k}" for k in range(1, settings.classes)))
    entries = []
    for number in range(settings.cases):
        repeat, patient = divmod(number, settings.patients)
        name = f"phantom_{patient:03d}_{repeat:02d}"
        entries.append(Entry(name, f"phantom_{patient:03d}", 1, partial(_draw, settings, patient, repeat, name)))
    return Source("phantoms", tuple(sorted(entries, key=lambda item: item.name)), labels)


def _draw(settings: Phantoms, patient: int, number: int, name: str) -> list[Sample]:
    """One case: the patient's anatomy, moved a little, seen through noise of its own."""
    anatomy = np.random.default_rng([settings.seed & 0xFFFFFFFF, patient])
    own = np.random.default_rng([settings.seed & 0xFFFFFFFF, patient, number + 1])
    size = settings.size
    radius, stretch = anatomy.uniform(0.40, 0.46), anatomy.uniform(0.85, 1.0)
    body = Organ(0.5, 0.5, radius, stretch, anatomy.uniform(-0.3, 0.3), 0, 0.0, BODY)
    turn = anatomy.uniform(-0.3, 0.3)
    organs = [_organ(anatomy, k, settings.classes - 1, turn) for k in range(settings.classes - 1)]
    bias = _bias(anatomy, size)
    mask, image = np.zeros((size, size), np.uint8), np.full((size, size), 0.05)
    image[_outline(body, own, size)] = BODY
    for _ in range(3):  # bright and dark spots that are no organ
        row, column = own.uniform(0.2, 0.8, 2)
        image[_outline(Organ(row, column, own.uniform(0.02, 0.04), 1.0, 0.0, 0, 0.0, 0.0), own, size)] = own.choice((0.2, 0.75))
    for k, organ in enumerate(organs, start=1):
        place = _outline(organ, own, size)
        image[place], mask[place] = organ.grey, k
    pixels = _seen(image, bias, own)
    return [Sample(Case(name, f"phantom_{patient:03d}", None, size, size, None), pixels[None], mask)]


def _organ(rng: np.random.Generator, index: int, organs: int, turn: float) -> Organ:
    angle = 2 * np.pi * index / max(organs, 2) + turn + rng.uniform(-0.25, 0.25)
    distance = RING * rng.uniform(0.75, 1.1)
    radius = rng.uniform(0.09, 0.13) * (1.0 if organs <= 3 else 0.8)
    lobed = index % 2 == 1
    grey = BODY + (0.16 + 0.26 * index / max(organs - 1, 1)) * (1 if index % 3 != 2 else -0.7) + rng.normal(0, 0.025)
    return Organ(
        row=0.5 + distance * np.sin(angle),
        column=0.5 + distance * np.cos(angle),
        radius=radius,
        stretch=rng.uniform(0.7, 1.0),
        turn=rng.uniform(0, np.pi),
        lobes=int(rng.integers(2, 4)) if lobed else 0,
        depth=rng.uniform(0.18, 0.3) if lobed else 0.0,
        grey=float(grey),
    )


def _outline(organ: Organ, own: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the organ's pixels, moved and scaled a little from case to case."""
    from skimage.draw import ellipse, polygon

    row, column = (np.array([organ.row, organ.column]) + own.normal(0, 0.008, 2)) * size
    radius = max(organ.radius * size * own.normal(1, 0.03), 1.0)
    if not organ.lobes:
        place = ellipse(row, column, radius, radius * organ.stretch, shape=(size, size), rotation=organ.turn)
        return place[0], place[1]
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    reach = radius * (1 + organ.depth * np.cos(organ.lobes * angle))
    along, across = reach * np.cos(angle), reach * np.sin(angle) * organ.stretch
    rows = row + along * np.cos(organ.turn) - across * np.sin(organ.turn)
    columns = column + along * np.sin(organ.turn) + across * np.cos(organ.turn)
    place = polygon(rows, columns, shape=(size, size))
    return place[0], place[1]


def _bias(rng: np.random.Generator, size: int) -> np.ndarray:
    """A smooth factor around 1, quadratic over the image, as the coils of a scanner give it."""
    y, x = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size), indexing="ij")
    a, b, c, d, e = rng.uniform(-0.18, 0.18, 5)
    return np.exp(a * x + b * y + c * x * y + d * x**2 + e * y**2)


def _seen(image: np.ndarray, bias: np.ndarray, own: np.random.Generator) -> np.ndarray:
    """As a scanner gives it: blurred, with texture, bias field, speckle (multiplied) and noise (added), in 8 bits."""
    from scipy.ndimage import gaussian_filter

    texture = gaussian_filter(own.normal(0, 1, image.shape), 2.0)
    speckle = gaussian_filter(own.gamma(16.0, 1 / 16.0, image.shape), 0.6)
    seen = (gaussian_filter(image, 0.6) + 0.15 * texture) * bias * speckle + own.normal(0, 0.03, image.shape)
    return np.round(np.clip(seen, 0, 1) * 255).astype(np.uint8)
