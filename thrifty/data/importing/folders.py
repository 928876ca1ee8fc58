"""Folders of images and masks with equal names, an nnU-Net folder, or a CSV list of both."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path

from thrifty.data.cases import Unreadable
from thrifty.data.decode import ending_of
from thrifty.data.groups import Group, read_groups
from thrifty.data.importing.grids import holds_volume
from thrifty.data.importing.items import NO_MASK, Found, Item, Wishes, existing_folder, inside, listing
from thrifty.data.importing.pairing import load_pair
from thrifty.errors import ThriftyError, one_line

IMAGES = ("images", "imagesTr", "image", "imgs")
MASKS = ("masks", "labelsTr", "labels", "mask", "segmentations")
COLUMNS = ("image", "mask", "patient", "volume")


def find_folders(root: Path, wishes: Wishes) -> Found:
    """
    Raises:
        ThriftyError: no folder of images or of masks, or no image in it.
    """
    found = Found("folders of images and masks")
    if wishes.mask_suffix:
        images_root = existing_folder(root, wishes.images, "--images") if wishes.images else root
        masks_root = images_root
    else:
        images_root = existing_folder(root, wishes.images, "--images") if wishes.images else _first(root, IMAGES, "images")
        masks_root = existing_folder(root, wishes.masks, "--masks") if wishes.masks else _first(root, MASKS, "masks")
    files = {_stem(path, images_root): path for path in _pixels(images_root)}
    masks = {_stem(path, masks_root): path for path in _pixels(masks_root)}
    if wishes.mask_suffix:
        masks = {stem.removesuffix(wishes.mask_suffix): path for stem, path in files.items() if stem.endswith(wishes.mask_suffix)}
        files = {stem: path for stem, path in files.items() if not stem.endswith(wishes.mask_suffix)}
    images = _by_channels(files) if (root / "dataset.json").is_file() else {stem: (path,) for stem, path in files.items()}
    if not images:
        raise ThriftyError(f"{images_root} holds no images that can be read")
    groups = read_groups(root / "groups.csv", [Path(stem).name for stem in images]) if (root / "groups.csv").is_file() else {}
    for stem, paths in images.items():
        patient, volume = _patient(stem, paths[0], root, groups, wishes)
        _item(found, stem, stem, paths, masks.get(stem), patient, volume, wishes)
    for stem in sorted(set(masks) - set(images)):
        found.refused.append((stem, "a mask without image"))
    if not groups and not wishes.patient:
        found.notes.append("no patients were given: every image is taken for a patient of its own")
    return found


def _first(root: Path, names: Sequence[str], what: str) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise ThriftyError(f"{root} has no folder of {what} ({', '.join(names)}); name it with --{what}, or give a CSV list")


def _pixels(folder: Path) -> list[Path]:
    return [path for path in listing(folder) if ending_of(path.name) and not path.name.startswith(".")]


def _stem(path: Path, root: Path) -> str:
    name = path.relative_to(root).as_posix()
    return name[: -len(ending_of(path.name) or "")]


def _by_channels(files: Mapping[str, Path]) -> dict[str, tuple[Path, ...]]:
    """nnU-Net's <case>_<channel, 4 digits>."""
    found: dict[str, list[Path]] = {}
    for stem, path in sorted(files.items()):
        found.setdefault(re.sub(r"_\d{4}$", "", stem), []).append(path)
    return {stem: tuple(paths) for stem, paths in found.items()}


def _patient(stem: str, path: Path, root: Path, groups: Mapping[str, Group], wishes: Wishes) -> tuple[Hashable, Hashable | None]:
    group = groups.get(Path(stem).name)
    if group is not None:
        return group.patient, group.volume
    name = path.relative_to(root).as_posix()
    return patient_by_pattern(name, name, wishes) or stem, None


def patient_by_pattern(name: str, shown: str, wishes: Wishes) -> str | None:
    """The patient in the path `name` of an image, which errors call `shown`.

    Raises:
        ThriftyError: the pattern is none, has no group, or does not fit.
    """
    if not wishes.patient:
        return None
    try:
        match = re.search(wishes.patient, name)
        if match is not None:
            return match.group(1)
    except (re.error, IndexError) as error:
        raise ThriftyError(f"--patient '{wishes.patient}' is no regular expression with one group: {one_line(error)}") from None
    raise ThriftyError(
        f"--patient '{wishes.patient}' does not fit the path of '{shown}'; it must find the patient in the path of every image"
    )


def _item(
    found: Found,
    key: str,
    shown: str,
    images: tuple[Path, ...],
    mask: Path | None,
    patient: Hashable,
    volume: Hashable | None,
    wishes: Wishes,
) -> None:
    if mask is None and wishes.unmasked == "refuse":
        found.refuse(shown, Unreadable(NO_MASK, shown))
        return
    is_volume = holds_volume(images[0])
    own = key if is_volume and wishes.slices else volume
    load = partial(load_pair, images, mask, shown, wishes)
    found.items.append(Item(key, shown, patient, is_volume and not wishes.slices, load, own))


def find_csv(path: Path, wishes: Wishes) -> Found:
    """A list with the columns image and mask, and perhaps patient and volume. Its paths are relative to its folder.

    `image` may name several files, one for each channel, parted by ';', or a DICOM file, or a folder with one DICOM series.

    Raises:
        ThriftyError: no such columns, or nothing listed.
    """
    from thrifty.data.dicom import is_dicom
    from thrifty.data.importing.dicom_items import listed_dicom
    from thrifty.data.importing.segmentation import class_names

    rows, root, kinds = _rows(path), path.parent, {}
    # before any line is refused: what is said of it hangs on this
    found = Found("a CSV list", private=any(_is_private(root, name) for row in rows for name in _names(row)))
    for line, row in enumerate(rows, start=2):
        shown = f"line {line}"
        try:
            names = _split(row["image"])
            if not names:
                raise Unreadable("lines without image", shown)
            folder = (root / names[0]).resolve()
            if len(names) == 1 and folder.is_dir() and folder.is_relative_to(root.resolve()):
                images = tuple(file for file in listing(folder) if is_dicom(file))
            else:
                images = tuple(inside(root, name, shown) for name in names)
            mask = inside(root, row["mask"], shown) if row["mask"] else None
            patient = row.get("patient") or patient_by_pattern(names[0], shown, wishes) or None
            if images and is_dicom(images[0]):
                listed_dicom(found, shown, images, mask, (patient, row.get("volume") or None), kinds, wishes)
            elif not images or any(ending_of(file.name) is None for file in (*images, *([mask] if mask else []))):
                raise Unreadable("files of an unknown kind", shown)
            else:
                _item(found, names[0], shown, images, mask, patient or names[0], row.get("volume") or None, wishes)
        except Unreadable as error:
            found.refuse(shown, error)
    if kinds:
        found.labels = class_names(kinds, wishes.segment_labels)[0]
    if not any(row.get("patient") for row in rows) and not wishes.patient:
        found.notes.append("no patients were given: every image (or what a DICOM header says) is taken for a patient of its own")
    return found


def _split(cell: str) -> list[str]:
    return [name.strip() for name in cell.split(";") if name.strip()]


def _names(row: Mapping[str, str]) -> list[str]:
    """All files that a line names."""
    return [*_split(row["image"]), *([row["mask"]] if row["mask"] else [])]


def _is_private(root: Path, name: str) -> bool:
    """Whether a list names DICOM: by the ending, which a file that is not there has too, or by what is in a file or folder."""
    from thrifty.data.dicom import ENDINGS, is_dicom

    path = (root / name.replace("\\", "/")).resolve()
    if path.suffix.lower() in ENDINGS:
        return True
    if not path.is_relative_to(root.resolve()):
        return False
    return any(map(is_dicom, listing(path))) if path.is_dir() else is_dicom(path)


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ThriftyError(f"{path} cannot be read: {one_line(error)}; save it as UTF-8 text") from None
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    columns = [(name or "").strip().lower() for name in reader.fieldnames or ()]
    if not {"image", "mask"} <= set(columns) or set(columns) - set(COLUMNS) or len(set(columns)) != len(columns):
        raise ThriftyError(f"{path}: its first line must name the columns image,mask and may name patient,volume (with commas)")
    reader.fieldnames = columns
    rows = [{key: (value or "").strip() for key, value in row.items() if isinstance(key, str)} for row in reader]
    if not rows:
        raise ThriftyError(f"{path} lists nothing")
    return rows
