"""label-me JSON: one file for each image, with polygons and other shapes that become a mask of classes."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from thrifty.data.cases import Unreadable
from thrifty.data.groups import read_groups
from thrifty.data.importing.coco import BAD, blank, check_bits, unique
from thrifty.data.importing.folders import patient_by_pattern
from thrifty.data.importing.items import Found, Item, Loaded, Wishes, inside
from thrifty.data.importing.paint import polygon
from thrifty.data.limits import check_picture
from thrifty.errors import ThriftyError

BACKGROUND = ("_background_", "background")  # what label-me calls it: such a shape wipes what was drawn before
CIRCLE = 72  # corners of a polygon that stands for a circle


def find_labelme(root: Path, files: Sequence[Path], wishes: Wishes) -> Found:
    """The images of the JSON `files`; their imagePath must lie below `root`.

    Raises:
        ThriftyError: no labels in any of them.
    """
    found = Found("label-me", bits=wishes.overlaps == "regions")
    groups = read_groups(root / "groups.csv", [path.stem for path in files]) if (root / "groups.csv").is_file() else {}
    read: list[tuple[Path, str, Path, list[dict[str, Any]]]] = []
    for path in files:
        shown = path.relative_to(root).as_posix()
        try:
            read.append((path, shown, *_read(root, path, shown)))
        except Unreadable as error:
            found.refuse(shown, error)
    labels = sorted({str(shape.get("label", "")) for *_, shapes in read for shape in shapes} - set(BACKGROUND))
    if not labels:
        raise ThriftyError(f"{root}: no label-me file with a shape of any class, {len(found.refused)} refused")
    found.labels = ("background", *unique(labels))
    check_bits(found)
    ids = {**dict.fromkeys(BACKGROUND, 0), **{label: k for k, label in enumerate(labels, start=1)}}
    for path, shown, image, shapes in read:
        group = groups.get(path.stem)
        patient = group.patient if group else patient_by_pattern(shown, shown, wishes) or shown
        load = partial(_load, image, shown, shapes, ids, found.bits)
        key = path.relative_to(root).with_suffix("").as_posix()
        found.items.append(Item(key, shown, patient, False, load, group.volume if group else None))
    if not groups and not wishes.patient:
        found.notes.append("no patients were given: every image is taken for a patient of its own")
    return found


def _read(root: Path, path: Path, shown: str) -> tuple[Path, list[dict[str, Any]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        shapes, name = content["shapes"], str(content["imagePath"]).replace("\\", "/")
        if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError):
        raise Unreadable("files that are no label-me JSON", shown) from None
    if Path(name).is_absolute():
        inside(root, name, shown)
    relative = Path(path.parent.resolve() / name).resolve()
    if not relative.is_relative_to(root.resolve()):
        inside(root, "../" + name, shown)
    return inside(root, relative.relative_to(root.resolve()).as_posix(), shown), shapes


def _load(file: Path, shown: str, shapes: Sequence[Mapping[str, Any]], ids: Mapping[str, int], bits: bool) -> Iterator[Loaded]:
    image, size, canvas = blank(file, shown, bits)
    for shape in shapes:
        canvas.paint(..., _drawn(shape, size, shown), ids[str(shape.get("label", ""))])
    notes = ["mask drawn from label-me shapes" if shapes else "no shapes: an empty mask"]
    yield Loaded(image.values, canvas.mask, None, (*image.notes, *notes), overlapping_pixels=canvas.overlapping_pixels)


def _drawn(shape: Mapping[str, Any], size: tuple[int, int], shown: str) -> np.ndarray:
    kind = shape.get("shape_type") or "polygon"
    try:
        points = [(float(x), float(y)) for x, y in shape["points"]]
        if not np.isfinite(points).all():
            raise ValueError
        if kind == "polygon" and len(points) >= 3:
            return polygon(points, size)
        if kind == "rectangle" and len(points) == 2:
            (x0, y0), (x1, y1) = points
            return polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], size)
        if kind == "circle" and len(points) == 2:
            (x, y), edge = points
            radius = math.dist((x, y), edge)
            angles = np.linspace(0, 2 * np.pi, CIRCLE, endpoint=False)
            return polygon([(x + radius * np.cos(a), y + radius * np.sin(a)) for a in angles], size)
        if kind == "mask" and len(points) == 2:
            return _bitmap(shape["mask"], points[0], size, shown)
    except (KeyError, TypeError, ValueError, OSError):
        raise Unreadable(BAD, f"{shown} (a {str(kind)[:20]} that is not as label-me has it)") from None
    raise Unreadable(BAD, f"{shown} (a {str(kind)[:20]} of {len(points)} points; areas are polygon, rectangle, circle, mask)")


def _bitmap(packed: str, corner: tuple[float, float], size: tuple[int, int], shown: str) -> np.ndarray:
    """A PNG in base64, whose first pixel lies at `corner` (x, y)."""
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(packed, validate=True)), formats=["PNG"]) as picture:
        check_picture(picture.height, picture.width, shown)
        marked = np.asarray(picture.convert("L")) > 0
    left, top = round(corner[0]), round(corner[1])
    where = np.zeros(size, bool)
    rows, columns = where[max(top, 0) : top + len(marked), max(left, 0) : left + marked.shape[1]].shape
    where[max(top, 0) : max(top, 0) + rows, max(left, 0) : max(left, 0) + columns] = marked[:rows, :columns]
    return where
