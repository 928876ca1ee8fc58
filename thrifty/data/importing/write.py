"""The nnU-Net v2 raw layout, written case by case: only the case in hand is in memory."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from thrifty.data.cases import Unreadable

PNG, TIF, NIFTI = ".png", ".tif", ".nii.gz"
SAME = "the same pixels under two patients"
MOST_VALUES = 64  # distinct numbers in one mask: more are a grey picture, or a mask that was saved as JPEG


@dataclass(frozen=True)
class Written:
    """One case in the target."""

    name: str
    patient: str
    volume: str
    shown: str
    size: tuple[int, ...]
    channels: int
    dtype: str
    ending: str
    spacing_mm: tuple[float, ...] | None
    values: Mapping[int, int]  # pixels of each value of the mask
    low: float
    high: float
    mean: float
    notes: tuple[str, ...]
    overlapping_pixels: int


class Target:
    """The folder being filled. `add` writes a case, `unify` makes one data set of what was written."""

    def __init__(self, folder: Path) -> None:
        self.images, self.masks = folder / "imagesTr", folder / "labelsTr"
        self.images.mkdir()
        self.masks.mkdir()
        self.written: list[Written] = []
        self._seen: dict[bytes, Written] = {}

    def add(
        self, image: np.ndarray, mask: np.ndarray, affine: np.ndarray | None, facts: Mapping[str, object], name: Callable[[], str]
    ) -> None:
        """Writes one case; its name is asked for when nothing is wrong with it.

        Raises:
            Unreadable: another patient has the same pixels, or the mask is no mask.
        """
        values, counts = np.unique(mask, return_counts=True)
        if len(values) > MOST_VALUES:
            raise Unreadable(
                "masks with too many values", f"{facts['shown']} ({len(values)} values; a mask holds a few class ids)"
            )
        flat = image.min() == image.max()
        digest = hashlib.blake2b(
            repr((image.shape, image.dtype)).encode() + np.ascontiguousarray(image).tobytes(), digest_size=16
        )
        twin = None if flat else self._seen.get(digest.digest())
        if twin is not None and twin.patient != facts["patient"]:
            raise Unreadable(SAME, f"{facts['shown']} ({twin.name} of {twin.patient})")
        ending = NIFTI if affine is not None else PNG if _fits_png(image) else TIF
        row = Written(
            name=name(),
            size=image.shape[:-1],
            channels=image.shape[-1],
            dtype=image.dtype.name,
            ending=ending,
            spacing_mm=None if affine is None else tuple(float(v) for v in np.linalg.norm(affine[:3, :3], axis=0)),
            values={int(v): int(n) for v, n in zip(values, counts, strict=True)},
            low=float(image.min()),
            high=float(image.max()),
            mean=float(image.mean(dtype=np.float64)),
            **facts,  # type: ignore[arg-type]
        )
        for path, part in _channel_files(self.images, row, image, affine):
            write_pixels(path, part, affine)
        write_pixels(self.masks / f"{row.name}{ending}", mask, affine)
        self._seen.setdefault(digest.digest(), row)
        self.written.append(row)

    def drop(self, row: Written) -> None:
        """Takes a written case away again."""
        for path in [*self.images.glob(f"{row.name}_[0-9][0-9][0-9][0-9]{row.ending}"), self.masks / f"{row.name}{row.ending}"]:
            path.unlink()
        self.written.remove(row)

    def unify(self, ids: Mapping[int, int]) -> tuple[str, int, list[str]]:
        """One ending, one number of channels, class ids 0, 1, ... for all; each file that changes is read and written alone.

        Returns the ending, the number of channels, and what was done.
        """
        notes = []
        endings = {row.ending for row in self.written}
        ending = TIF if endings == {PNG, TIF} else endings.pop()
        for k, row in enumerate(self.written):
            mask = self.masks / f"{row.name}{row.ending}"
            if row.ending != ending:
                picture = self.images / f"{row.name}_0000{row.ending}"
                _rewrite(picture, self.images / f"{row.name}_0000{ending}", lambda v: v)
            if row.ending != ending or any(ids[v] != v for v in row.values):
                _rewrite(mask, self.masks / f"{row.name}{ending}", lambda v: _mapped(v, ids))
            counts: Counter[int] = Counter()
            for value, pixels in row.values.items():
                counts[ids[value]] += pixels
            self.written[k] = replace(row, ending=ending, values=dict(counts))
        if len(endings) > 0 and ending == TIF:
            notes.append("some pictures do not fit into PNG: all are written as TIFF")
        channels, grey = self._one_number_of_channels(ending)
        return ending, channels, [*notes, *grey]

    def _one_number_of_channels(self, ending: str) -> tuple[int, list[str]]:
        """Grey cases among cases of three channels get three equal ones."""
        numbers = Counter(row.channels for row in self.written)
        if len(numbers) == 1:
            return next(iter(numbers)), []
        for k, row in enumerate(self.written):
            if row.channels == 1:
                first = self.images / f"{row.name}_0000{ending}"
                if ending == NIFTI:
                    for number in (1, 2):
                        (self.images / f"{row.name}_{number:04d}{ending}").write_bytes(first.read_bytes())
                else:
                    _rewrite(first, first, lambda v: np.stack([v] * 3, axis=2))
                self.written[k] = replace(row, channels=3, notes=(*row.notes, "grey became three equal channels"))
        return 3, [f"{numbers[1]} grey cases among {numbers[3]} in colour became three equal channels"]


def _fits_png(image: np.ndarray) -> bool:
    return image.dtype == np.uint8 or (image.dtype == np.uint16 and image.shape[-1] == 1)


def _channel_files(folder: Path, row: Written, image: np.ndarray, affine: np.ndarray | None) -> list[tuple[Path, np.ndarray]]:
    """A picture is one file with all its channels, as nnU-Net has RGB; a volume is one file for each."""
    if affine is None:
        return [(folder / f"{row.name}_0000{row.ending}", image)]
    return [(folder / f"{row.name}_{k:04d}{row.ending}", image[..., k]) for k in range(row.channels)]


def write_pixels(path: Path, values: np.ndarray, affine: np.ndarray | None) -> None:
    """Pixels and nothing else: no header of the source, no name, no date goes along."""
    if values.ndim == 3 and values.shape[2] == 1 and affine is None:
        values = values[..., 0]
    if affine is not None:
        import nibabel

        image = nibabel.Nifti1Image(values, affine)
        image.header.set_xyzt_units("mm")
        image.set_qform(affine, code=1, strip_shears=True)
        image.set_sform(affine, code=1)
        nibabel.save(image, path)
    elif path.suffix == PNG:
        from PIL import Image

        Image.fromarray(np.ascontiguousarray(values)).save(path, compress_level=4)
    else:
        import tifffile

        kind = "rgb" if values.ndim == 3 and values.shape[2] == 3 else "minisblack"
        tifffile.imwrite(path, values, photometric=kind, compression="zlib", metadata=None, software=False)


def _rewrite(old: Path, new: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Reads one of our own files, changes its values and writes it under its new name."""
    affine = None
    if old.name.endswith(NIFTI):
        import nibabel

        image = nibabel.load(old)
        values, affine = np.asanyarray(image.dataobj), image.affine  # pyrefly: ignore[missing-attribute]
    elif old.suffix == PNG:
        from PIL import Image

        with Image.open(old) as picture:
            values = np.asarray(picture)
    else:
        import tifffile

        values = tifffile.imread(old)
    values = change(values)
    if old != new:
        old.unlink()
    write_pixels(new, values, affine)


def _mapped(values: np.ndarray, ids: Mapping[int, int]) -> np.ndarray:
    table = np.zeros(max(ids) + 1, np.uint8)
    table[list(ids)] = list(ids.values())
    return table[values]
