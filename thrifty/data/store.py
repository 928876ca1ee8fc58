"""The decoded data set: two flat files, memory-mapped by all trials of a machine, and an index.

    images.bin   every image (channels, height, width) of one type, one after the other
    masks.bin    every mask (height, width), uint8 class ids or bit sets, and IGNORED (see thrifty.data.labels)
    index.json   where each case lies, its class pixels, the names of the classes, the fingerprint

It is built in a neighbouring folder that then takes the name, so a store that exists is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from thrifty.config import Data
from thrifty.data.cases import Case, Problems, Sample, Source, Unreadable, name_some
from thrifty.data.classes import check_foreground, check_values, map_classes
from thrifty.data.decode import joined_type
from thrifty.data.labels import IGNORED
from thrifty.data.sources import ADVICE, find_source
from thrifty.errors import ThriftyError, nearest, one_line
from thrifty.results import make_folder, read_json, umask, user_errors

SCHEMA = 1


@dataclass(frozen=True)
class Place:
    """Where a case lies in the two files (in elements) and what is known of it."""

    image: int
    mask: int
    class_pixels: tuple[int, ...]  # by class id; ignored pixels are in none, those of overlapping classes in several
    digest: str  # of the image's values: equal images have equal digests
    ignored: int = 0  # pixels that the mask says nothing of, inside the region of interest
    outside: int = 0  # pixels outside the region of interest


@dataclass(frozen=True, eq=False)
class Store:
    """A data set, decoded. Cheap to open in many processes: they share the pages of the memory maps.

    `classes` are the outputs of a network: with the background where classes are exclusive, without it where they overlap.
    """

    cases: tuple[Case, ...]
    channels: int
    classes: int
    labels: tuple[str, ...]  # labels[0] is the background
    fingerprint: str
    places: tuple[Place, ...]
    decoded_types: dict[str, int]  # entries by type before they were brought to one
    images: np.ndarray
    masks: np.ndarray
    overlapping: bool = False
    region_values: tuple[int, ...] = ()  # what overlapping classes are written as in a label map; empty: no rule is given
    uncounted: int = 0  # cases without a single pixel that counts, which are not in the store

    @property
    def sliced(self) -> bool:
        """Whether the cases are slices of volumes, which alone have both a volume and a spacing."""
        return any(case.volume is not None and case.spacing_mm is not None for case in self.cases)

    def image(self, index: int) -> np.ndarray:
        """(channels, height, width), read-only, of the type the files have."""
        case, start = self.cases[index], self.places[index].image
        size = self.channels * case.height * case.width
        return self.images[start : start + size].reshape(self.channels, case.height, case.width)

    def mask(self, index: int) -> np.ndarray:
        """(height, width) class ids or bit sets, and IGNORED, uint8, read-only."""
        case, start = self.cases[index], self.places[index].mask
        return self.masks[start : start + case.height * case.width].reshape(case.height, case.width)

    def counted_pixels(self, index: int) -> int:
        """The pixels of a case that are not ignored."""
        case, place = self.cases[index], self.places[index]
        return case.height * case.width - place.ignored - place.outside

    def indices(self, names: Iterable[str]) -> list[int]:
        """
        Raises:
            ThriftyError: a name that no case has.
        """
        known = {case.name: i for i, case in enumerate(self.cases)}
        names = list(names)
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ThriftyError(f"the data set has no case named {name_some(unknown)}{nearest(unknown[0], known)}")
        return [known[name] for name in names]

    def present(self, index: int) -> tuple[int, ...]:
        """The classes that the case's mask holds, background left out."""
        return tuple(k for k, pixels in enumerate(self.places[index].class_pixels) if k and pixels)


def build_store(data: Data, folder: Path) -> Store:
    """The store of `data.source` in `folder`: opened if it is there, otherwise everything is decoded and checked.

    Raises:
        ThriftyError: anything wrong with the data set, all of it in one line; the store in `folder` holds other data; the
            folder cannot be written.
    """
    if (folder / "index.json").is_file():
        _check_same(_read_index(folder), data, folder)
        return open_store(folder)
    source = find_source(data)
    with user_errors(folder), beside(folder) as part:
        index = _fill(source, part)
        index["made_from"] = _made_from(data)
        _write_synced(part / "index.json", json.dumps(index, indent=1).encode())
        try:
            os.rename(part, folder)
        except OSError:
            if not (folder / "index.json").is_file():  # it is there when another process was faster
                raise
    return open_store(folder)


def open_store(folder: Path) -> Store:
    """
    Raises:
        ThriftyError: no store there, one of another version, or files that are missing, damaged or do not belong together.
    """
    index = _read_index(folder)
    try:
        store = Store(
            cases=tuple(_case(row) for row in index["cases"]),
            channels=index["channels"],
            classes=len(index["labels"]) - index.get("overlapping", False),
            labels=tuple(index["labels"]),
            fingerprint=index["fingerprint"],
            places=tuple(map(_place, index["cases"])),
            decoded_types=index["decoded_types"],
            images=_mapped(folder / "images.bin", np.dtype(index["dtype"])),
            masks=_mapped(folder / "masks.bin", np.dtype(np.uint8)),
            overlapping=index.get("overlapping", False),
            region_values=tuple(index.get("region_values", ())),
            uncounted=index.get("uncounted", 0),
        )
        sizes = index["pixels"] * store.channels, index["pixels"]
    except (KeyError, TypeError, ValueError) as error:
        raise ThriftyError(f"{folder / 'index.json'} is damaged ({one_line(repr(error))}); {_again(folder)}") from None
    if (len(store.images), len(store.masks)) != sizes:
        raise ThriftyError(f"{folder}: the files have another size than index.json says; {_again(folder)}")
    return store


def _again(folder: Path) -> str:
    return f"remove {folder} to decode the data again"


def _read_index(folder: Path) -> dict[str, Any]:
    index = read_json(folder / "index.json")
    found = index.get("schema") if isinstance(index, dict) else None
    if found != SCHEMA:
        raise ThriftyError(f"{folder / 'index.json'} has schema {found}, this version reads {SCHEMA}; {_again(folder)}")
    return index


def _mapped(path: Path, dtype: np.dtype[Any]) -> np.ndarray:
    try:
        return np.memmap(path, dtype, mode="r").view(np.ndarray)
    except (OSError, ValueError) as error:  # ValueError: an empty file, or half a number at its end
        reason = error.strerror if isinstance(error, OSError) else one_line(error)
        raise ThriftyError(f"{path} cannot be read ({reason}); {_again(path.parent)}") from None


def _case(row: dict[str, Any]) -> Case:
    spacing = row["spacing_mm"]
    place = row["height"], row["width"], tuple(spacing) if spacing else None
    subgroups = tuple((column, value) for column, value in row.get("subgroups", ()))  # indices of older versions have none
    return Case(row["name"], row["patient"], row["volume"], *place, subgroups)


def _place(row: dict[str, Any]) -> Place:
    """Indices of older versions know of no ignored pixels."""
    pixels = tuple(row["class_pixels"])
    return Place(row["image"], row["mask"], pixels, row["digest"], row.get("ignored", 0), row.get("outside", 0))


@contextlib.contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`, gone afterwards unless it was renamed; parents made for it go too if all fails."""
    made = [parent for parent in (folder.parent, *folder.parent.parents) if not parent.exists()]
    make_folder(folder.parent)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part"))
    try:
        part.chmod(0o777 & ~umask())
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty: someone else uses it
            for parent in made:
                parent.rmdir()
        raise
    shutil.rmtree(part, ignore_errors=True)


def _fill(source: Source, part: Path) -> dict[str, Any]:
    """Decodes everything into `part`; returns the index."""
    with open(part / "images.raw", "w+b") as images, open(part / "masks.bin", "w+b") as masks:
        rows, uncounted = _decode_all(source, images, masks)
        dtype = joined_type({np.dtype(row["dtype"]) for row in rows})
        labels = map_classes(source, rows, masks)
        check_foreground(source, rows, labels)
        fingerprint = _join_images(rows, dtype, images, part / "images.bin")
        _hash_rest(fingerprint, source, rows, labels, masks)
        os.fsync(masks.fileno())
    (part / "images.raw").unlink()
    types: dict[str, int] = {}
    for row in rows:
        types[row["dtype"]] = types.get(row["dtype"], 0) + 1
    cases = [{k: v for k, v in row.items() if k not in ("dtype", "values", "channels")} for row in rows]
    return {
        "schema": SCHEMA,
        "dtype": dtype.name,
        "channels": rows[0]["channels"],
        "pixels": sum(row["height"] * row["width"] for row in rows),
        "labels": labels,
        "fingerprint": fingerprint.hexdigest(),
        "decoded_types": types,
        "overlapping": source.overlapping,
        "region_values": list(source.region_values),
        "uncounted": uncounted,
        "cases": cases,
    }


def _decode_all(source: Source, images: IO[bytes], masks: IO[bytes]) -> tuple[list[dict[str, Any]], int]:
    """Writes every image in its own type and every mask; what is wrong with any of them is told at once.

    A case of which every pixel is ignored teaches and measures nothing; these are left out and counted.
    """
    problems, rows, uncounted = Problems(), [], 0
    for entry in source.entries:
        try:
            for sample in entry.decode():
                row = _row(sample, images.tell(), masks.tell())
                if not row["values"]:
                    uncounted += 1
                    continue
                rows.append(row)
                images.write(np.ascontiguousarray(sample.image).data)
                mask = np.where(_dropped(sample), IGNORED, np.minimum(sample.mask, 255))
                masks.write(np.ascontiguousarray(mask, dtype=np.uint8).data)
        except Unreadable as error:
            problems.add(error.kind, error.name)
    if not rows and not problems.found:
        raise ThriftyError(f"{source.where}: every pixel of all {uncounted} masks is ignored; nothing is left to learn from")
    check_values(rows, source, problems)
    channels = {row["channels"] for row in rows}
    if len(channels) > 1:
        common = max(channels, key=lambda c: sum(row["channels"] == c for row in rows))
        for row in rows:
            if row["channels"] != common:
                problems.add(f"cases with another number of channels than {common}", f"{row['name']} ({row['channels']})")
    problems.raise_if_any(source.where, ADVICE)
    return rows, uncounted


def _dropped(sample: Sample) -> np.ndarray:
    """The pixels that count nowhere."""
    dropped = np.zeros(sample.mask.shape, bool)
    for part in (sample.ignored, sample.outside):
        if part is not None:
            dropped |= part
    return dropped


def _row(sample: Sample, image: int, mask: int) -> dict[str, Any]:
    dropped = _dropped(sample)
    outside = 0 if sample.outside is None else int(sample.outside.sum())
    values, counts = np.unique(sample.mask[~dropped], return_counts=True)
    return {
        **asdict(sample.case),
        "image": image,
        "mask": mask,
        "channels": len(sample.image),
        "dtype": sample.image.dtype.name,
        "ignored": int(dropped.sum()) - outside,
        "outside": outside,
        "values": {int(v): int(n) for v, n in zip(values, counts, strict=True)},
    }


def _join_images(rows: list[dict[str, Any]], dtype: np.dtype[Any], raw: IO[bytes], path: Path) -> Any:
    """Copies the images into `path`, all of one type, and hashes them; offsets become those of the new file, in elements."""
    fingerprint, position = hashlib.sha256(), 0
    with open(path, "wb") as joined:
        for row in rows:
            raw.seek(row["image"])
            count = row["channels"] * row["height"] * row["width"]
            own = np.dtype(row["dtype"])
            values = np.frombuffer(raw.read(count * own.itemsize), own).astype(dtype)
            row["digest"] = hashlib.blake2b(values.data, digest_size=16).hexdigest()
            row["image"], position = position, position + count
            fingerprint.update(row["digest"].encode())
            joined.write(values.data)
        joined.flush()
        os.fsync(joined.fileno())
    return fingerprint


def _hash_rest(fingerprint: Any, source: Source, rows: list[dict[str, Any]], labels: list[str], masks: IO[bytes]) -> None:
    """What else makes a data set this one: masks, names, patients, sizes, spacing."""
    masks.seek(0)
    while block := masks.read(1 << 22):
        fingerprint.update(block)
    kept = [[row[k] for k in ("name", "patient", "volume", "height", "width", "spacing_mm")] for row in rows]
    fingerprint.update(json.dumps([labels, kept]).encode())
    if source.overlapping:
        fingerprint.update(json.dumps(source.region_values).encode())


def _write_synced(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _made_from(data: Data) -> dict[str, Any]:
    """The settings that the content of a store depends on."""
    made: dict[str, Any] = {"source": data.source, "slice_axis": data.slice_axis, "max_cases": data.max_cases}
    made |= {"ignore": data.ignore, "rois": data.rois}
    return {**made, "phantoms": data.phantoms.model_dump(mode="json") if data.source == "phantoms" else None}


def _check_same(index: Any, data: Data, folder: Path) -> None:
    now, then = _made_from(data), index.get("made_from", {})
    different = [f"{key} was {then.get(key)!r}, now {value!r}" for key, value in now.items() if then.get(key) != value]
    if different:
        raise ThriftyError(f"{folder} holds other data: {'; '.join(different)}; use another run folder, or remove this one")
