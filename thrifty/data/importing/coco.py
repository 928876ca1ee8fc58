"""COCO JSON: polygons and run lengths of objects become masks of classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from thrifty.data.cases import Unreadable
from thrifty.data.decode import stem_of, times
from thrifty.data.groups import read_groups
from thrifty.data.importing.folders import patient_by_pattern
from thrifty.data.importing.grids import Grid
from thrifty.data.importing.items import Found, Item, Loaded, Wishes, existing_folder, inside
from thrifty.data.importing.paint import Canvas, packed_lengths, polygon, run_lengths
from thrifty.data.importing.pairing import read_image
from thrifty.data.labels import MOST_OVERLAPPING
from thrifty.data.pairs import SIZES
from thrifty.errors import ThriftyError

BAD = "objects that cannot be drawn"


def find_coco(path: Path, description: Any, wishes: Wishes) -> Found:
    """
    Raises:
        ThriftyError: no COCO, or no images in it.
    """
    images, objects, categories = (_rows(path, description, key) for key in ("images", "annotations", "categories"))
    numbers = sorted({row["id"] for row in categories if isinstance(row.get("id"), int)})
    names = {row.get("id"): str(row.get("name") or "") for row in categories}
    ids = {number: k for k, number in enumerate(numbers, start=1)}
    if not ids:
        raise ThriftyError(f"{path} lists no categories with a number as id")
    found = Found("COCO", bits=wishes.overlaps == "regions")
    found.labels = ("background", *unique([names[number] or f"class {ids[number]}" for number in numbers]))
    check_bits(found)
    by_image: dict[Any, list[Mapping[str, Any]]] = {}
    for row in objects:
        by_image.setdefault(row.get("image_id"), []).append(row)
    root = existing_folder(path.parent, wishes.images, "--images") if wishes.images else path.parent
    stems = [stem_of(Path(str(row.get("file_name"))).name) for row in images]
    groups = read_groups(path.parent / "groups.csv", stems) if (path.parent / "groups.csv").is_file() else {}
    for row, stem in zip(images, stems, strict=True):
        shown = str(row.get("file_name"))
        try:
            file = inside(root, shown, shown)
        except Unreadable as error:
            found.refuse(shown, error)
            continue
        group = groups.get(stem)
        patient = group.patient if group else patient_by_pattern(shown, shown, wishes) or shown
        load = partial(_load, file, shown, by_image.pop(row.get("id"), []), ids, found.bits)
        found.items.append(Item(str(Path(shown).with_suffix("")), shown, patient, False, load, group.volume if group else None))
    known = {row.get("id") for row in images}
    lost = sum(len(rows) for image, rows in by_image.items() if image not in known)
    if lost:
        found.notes.append(f"{lost} objects are of images that the list does not have, and were passed over")
    if not groups and not wishes.patient:
        found.notes.append("no patients were given: every image is taken for a patient of its own")
    return found


def _rows(path: Path, description: Any, key: str) -> list[dict[str, Any]]:
    rows = description.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows) or (key == "images" and not rows):
        raise ThriftyError(f"{path}: '{key}' is missing, empty or no list of mappings, as COCO has it")
    return rows


def unique(names: Sequence[str]) -> list[str]:
    """`names` with a number added to those that came before, or that nnU-Net has its own use for."""
    found: list[str] = []
    for name in names:
        taken = name in found or name in ("background", "ignore")
        found.append(f"{name} {len(found) + 1}" if taken else name)
    return found


def check_bits(found: Found) -> None:
    """
    Raises:
        ThriftyError: more classes than can overlap.
    """
    if found.bits and found.labels is not None and len(found.labels) - 1 > MOST_OVERLAPPING:
        raise ThriftyError(f"{len(found.labels) - 1} classes; at most {MOST_OVERLAPPING} can overlap, so take --overlaps later")


def blank(file: Path, shown: str, bits: bool) -> tuple[Grid, tuple[int, int], Canvas]:
    """A picture, its size (rows, columns), and an empty mask of that size.

    Raises:
        Unreadable: no picture; or a volume, whose objects would need a slice.
    """
    image = read_image([file], shown)
    if image.affine is not None:
        raise Unreadable("volumes in a list of pictures", shown)
    height, width = image.size
    return image, (height, width), Canvas((height, width), bits)


def _load(file: Path, shown: str, objects: Sequence[Mapping[str, Any]], ids: Mapping[int, int], bits: bool) -> Iterator[Loaded]:
    image, size, canvas = blank(file, shown, bits)
    for row in objects:
        if row.get("category_id") not in ids:
            raise Unreadable(BAD, f"{shown} (a category that is not listed)")
        canvas.paint(..., _drawn(row.get("segmentation"), size, shown), ids[row["category_id"]])
    notes = ["mask drawn from COCO objects" if objects else "no objects: an empty mask"]
    yield Loaded(image.values, canvas.mask, None, (*image.notes, *notes), overlapping_pixels=canvas.overlapping_pixels)


def _drawn(shape: Any, size: tuple[int, int], shown: str) -> np.ndarray:
    try:
        if isinstance(shape, list) and shape:
            where = np.zeros(size, bool)
            for points in shape:
                pairs = np.array(points, np.float64).reshape(-1, 2)
                if len(pairs) < 3 or not np.isfinite(pairs).all():
                    raise ValueError("an outline of fewer than three points")
                where |= polygon(pairs.tolist(), size)
            return where
        if isinstance(shape, dict):
            own = tuple(int(n) for n in shape["size"])
            if own != size:
                raise Unreadable(SIZES, f"{shown} (image {times(size)}, run lengths {times(own)})")
            counts = shape["counts"]
            return run_lengths(packed_lengths(counts) if isinstance(counts, str) else counts, size)
        raise ValueError("a box without outline")
    except (KeyError, TypeError, ValueError) as error:
        reason = error if isinstance(error, ValueError) else "not as COCO has it"
        raise Unreadable(BAD, f"{shown} ({reason})") from None
