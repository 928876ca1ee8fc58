"""Training batches: random patches, foreground oversampled, augmented. A batch depends on (seed, epoch, step) alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from thrifty.config import Data
from thrifty.data.augment import augment
from thrifty.data.labels import pixels_of
from thrifty.data.normalise import Normalisation, Statistics
from thrifty.data.store import Store
from thrifty.errors import ThriftyError

# What a stream of random numbers is for; part of its seed, so that streams do not repeat one another.
ORDER, PATCH, AUGMENT, PLAIN = range(4)


@dataclass(frozen=True, eq=False)
class Batches:
    """An endless stream of training batches from the cases at `indices`, without any state."""

    store: Store
    indices: tuple[int, ...]
    normalisation: Normalisation
    data: Data
    batch: int
    seed: int
    device: torch.device
    _of_case: dict[int, Statistics] = field(default_factory=dict, repr=False)
    _holding: dict[int, list[int]] = field(default_factory=dict, repr=False)  # by foreground class, the cases that hold it

    def __post_init__(self) -> None:
        if not self.indices:
            raise ThriftyError("training batches need at least one case; this set is empty")
        for index in self.indices:
            for k in self.store.present(index):
                self._holding.setdefault(k, []).append(index)

    def draw(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Augmented images (batch, channels, h, w) float32 and masks (batch, h, w) int64 on the device.

        Within an epoch no case comes a second time before every case has come once; but with data.foreground_of=set a patch
        on the foreground may be of another case.
        """
        images, masks = self._patches(epoch, step, PATCH)
        generator = torch.Generator().manual_seed(int(self._random(AUGMENT, epoch, step).integers(2**62)))
        return augment(images, masks, self.data.augment, generator)

    def plain(self, step: int) -> tuple[Tensor, Tensor]:
        """As `draw`, without augmentation: to renew the statistics of normalisation layers."""
        return self._patches(0, step, PLAIN)

    def _random(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed & 0xFFFFFFFF, *stream])

    def _order(self, epoch: int, position: int, kind: int) -> int:
        """The index of the case at `position` of an epoch: one permutation of the cases after another."""
        around, place = divmod(position, len(self.indices))
        return self.indices[int(self._random(ORDER, kind, epoch, around).permutation(len(self.indices))[place])]

    def _patches(self, epoch: int, step: int, kind: int) -> tuple[Tensor, Tensor]:
        random = self._random(kind, epoch, step)
        images, masks = [], []
        for position in range(step * self.batch, (step + 1) * self.batch):
            image, mask = self._patch(self._order(epoch, position, kind), random)
            images.append(image)
            masks.append(mask)
        joined = torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(masks).astype(np.int64))
        return joined[0].to(self.device), joined[1].to(self.device)

    def _patch(self, index: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        index, wanted = self._foreground(index, random)
        mask, size = self.store.mask(index), self.data.patch_size
        if wanted is not None:
            top, left = _around_foreground(pixels_of(mask, wanted, self.store.overlapping), size, random)
        else:
            top, left = (int(random.integers(max(have - want, 0) + 1)) for have, want in zip(mask.shape, size, strict=True))
        cut = slice(top, top + size[0]), slice(left, left + size[1])
        image = self.normalisation.apply(self.store.image(index)[:, *cut], self._statistics(index))
        return _padded(image, size, random, mask[cut])

    def _foreground(self, index: int, random: np.random.Generator) -> tuple[int, int | None]:
        """The case of a patch and the class that it is centred on, None for a patch anywhere.

        The class is drawn first, so that small classes come as often as large ones: of the case's own classes, which leaves
        a class that few cases hold as rare as these are; or, with data.foreground_of=set, of all and then a case that holds it.
        """
        present = self.store.present(index)
        if random.random() >= self.data.foreground:
            return index, None
        if self.data.foreground_of == "set" and self._holding:
            wanted = sorted(self._holding)[int(random.integers(len(self._holding)))]
            holding = self._holding[wanted]
            return holding[int(random.integers(len(holding)))], wanted
        return index, present[int(random.integers(len(present)))] if present else None

    def _statistics(self, index: int) -> Statistics:
        """Those of the whole case, which a patch of it is normalised with."""
        if index not in self._of_case:
            self._of_case[index] = self.normalisation.statistics(self.store.image(index))
        return self._of_case[index]


def _around_foreground(there: np.ndarray, size: tuple[int, int], random: np.random.Generator) -> tuple[int, int]:
    """The corner of a patch centred on a random pixel of those that are `there`, as far as the image's border allows."""
    pixels = np.flatnonzero(there)
    centre = np.unravel_index(int(pixels[random.integers(len(pixels))]), there.shape)
    corner = [
        int(np.clip(at - want // 2, 0, max(have - want, 0))) for at, have, want in zip(centre, there.shape, size, strict=True)
    ]
    return corner[0], corner[1]


def _padded(
    image: np.ndarray, size: tuple[int, int], random: np.random.Generator, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask grown to `size` at random sides by mirroring both; nothing is ever stretched.

    The mask is mirrored with its image: a mirrored organ called background would contradict the organ beside it.
    """
    missing = [max(want - have, 0) for want, have in zip(size, mask.shape, strict=True)]
    if not any(missing):
        return image, mask
    before = [int(random.integers(gap + 1)) for gap in missing]
    widths = [(first, gap - first) for first, gap in zip(before, missing, strict=True)]
    return np.pad(image, [(0, 0), *widths], mode="reflect"), np.pad(mask, widths, mode="reflect")
