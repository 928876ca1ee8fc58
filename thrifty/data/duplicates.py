"""Images of different patients that look the same: found by a perceptual hash, confirmed by their thumbnails."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thrifty.data.store import Store

SIDE = 32  # of a thumbnail, pixels
HASH = 8  # lowest frequencies along each axis that the hash looks at
MOST_BITS = 8  # hashes that differ in more bits are of different images
LEAST_CORRELATION = 0.95  # of two thumbnails, each less the mean thumbnail of the set
MOST_COMPARED = 50_000  # images: comparing each with each takes numpy some ten seconds
BLOCK = 1024  # rows of the table of distances in memory at a time


def thumbnail(image: np.ndarray) -> np.ndarray:
    """(SIDE, SIDE) float32: means over areas of the grey image of (channels, height, width); mean 0, standard deviation 1.

    A flat image becomes all zeros.
    """
    grey = image.mean(axis=0, dtype=np.float32)
    rows, columns = (_shares(size) for size in grey.shape)
    grey = rows @ grey @ columns.T
    grey -= grey.mean()
    sd = float(grey.std())
    return grey / sd if sd > 1e-6 * max(1.0, float(np.abs(image[:, ::16, ::16]).max())) else np.zeros_like(grey)


def _shares(size: int) -> np.ndarray:
    """(SIDE, size): how much of each line lies in each of SIDE equal parts of them, so that any size is averaged alike."""
    edges = np.linspace(0, size, SIDE + 1)
    lines = np.arange(size)
    overlap = np.minimum(edges[1:, None], lines + 1) - np.maximum(edges[:-1, None], lines)
    return (np.clip(overlap, 0, None) * SIDE / size).astype(np.float32)


def perceptual_hash(small: np.ndarray) -> np.uint64:
    """64 bits: which of the 8 x 8 lowest frequencies (DCT) of a thumbnail are above their median (Zauner 2010, section 3.2.1)."""
    from scipy.fft import dctn

    low = dctn(small, norm="ortho")[:HASH, :HASH].ravel()  # pyrefly: ignore[bad-index]
    return np.packbits(low > np.median(low[1:])).view(np.uint64)[0]


def near_duplicates(store: Store, equal: Sequence[Sequence[str]] = ()) -> tuple[tuple[str, str], ...]:
    """Pairs of cases of two patients whose images look the same (compressed, scaled, brighter, noisy), `equal` groups left out.

    Of more than MOST_COMPARED cases only so many, evenly picked, are compared. Shifts by some per cent, turns and mirror
    images are not found.
    """
    step = -(-len(store.cases) // MOST_COMPARED)
    indices = np.arange(0, len(store.cases), step)
    small = np.zeros((len(indices), SIDE * SIDE), np.float16)
    hashes = np.zeros(len(indices), np.uint64)
    for k, index in enumerate(indices):
        one = thumbnail(store.image(int(index)))
        small[k], hashes[k] = one.ravel(), perceptual_hash(one)
    shows = small.any(axis=1)  # flat images are alike without being copies
    small, hashes, indices = small[shows], hashes[shows], indices[shows]
    if len(indices) < 2:
        return ()
    mean = small.mean(axis=0, dtype=np.float32)  # framed alike, all images of a set share much
    patients = np.unique([store.cases[i].patient for i in indices], return_inverse=True)[1]
    told = {frozenset((a, b)) for group in equal for a in group for b in group}
    found = []
    for first, second in _close(hashes, patients):
        names = store.cases[indices[first]].name, store.cases[indices[second]].name
        if frozenset(names) not in told and _correlation(small[first] - mean, small[second] - mean) > LEAST_CORRELATION:
            found.append(names)
    return tuple(found)


def _close(hashes: np.ndarray, patients: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of places of different patients with hashes of at most MOST_BITS different bits."""
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(hashes), BLOCK):
        rows = slice(start, start + BLOCK)
        near = np.bitwise_count(hashes[rows, None] ^ hashes[None, start:]) <= MOST_BITS
        near &= patients[rows, None] != patients[None, start:]
        pairs += [(start + int(i), start + int(j)) for i, j in zip(*np.nonzero(near), strict=True) if i < j]
    return pairs


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    first, second = first - first.mean(), second - second.mean()
    size = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / size if size > 1e-3 else 0.0
