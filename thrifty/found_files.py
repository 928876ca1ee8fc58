"""Which things there are to predict among files and folders, and where the outcome of each goes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from thrifty.data.cases import name_some
from thrifty.data.decode import ENDINGS, VOLUMES, Unreadable, decode, ending_of, stem_of
from thrifty.data.dicom import ENDINGS as DICOM_ENDINGS
from thrifty.data.dicom import is_dicom
from thrifty.data.dicom_series import find_series
from thrifty.errors import ThriftyError
from thrifty.scans import Kind, kind_of

CHANNEL = re.compile(r"(.+)_(\d{4})")  # nnU-Net: <case>_<channel>


@dataclass(frozen=True)
class Item:
    """Something to predict: its files, and its name below the folder of the output, without an ending."""

    kind: Kind
    files: tuple[Path, ...]
    name: str
    ending: str  # of its files

    @property
    def shown(self) -> str:
        """As it is called in messages."""
        return str(self.files[0]) if len(self.files) == 1 else f"{self.files[0]} and {len(self.files) - 1} more"


def find_items(inputs: Sequence[Path], channels: int, output: Path) -> list[Item]:
    """Everything to predict in files and folders, folders with all below them, in the order of their names.

    What lies in `output` is left out, and so is whatever is no image by its name.

    Raises:
        ThriftyError: a path that is not there, nothing to predict, or two things that would have one output.
    """
    items: list[Item] = []
    for path in inputs:
        if not path.exists():
            raise ThriftyError(f"no such file or folder: {path}")
        items += _of_folder(path, channels, output) if path.is_dir() else _of_files([path], path.parent, channels)
    files = [item for item in items if item.files]
    if not files:
        raise ThriftyError(
            f"nothing to predict in {name_some([str(path) for path in inputs])}; allowed are {', '.join(ENDINGS)} and DICOM"
        )
    first: dict[str, Item] = {}
    for item in files:
        other = first.setdefault(item.name, item)
        if other is not item:
            raise ThriftyError(
                f"{other.shown} and {item.shown} would both be written as '{item.name}'; predict them into different folders"
            )
    return files


def _of_folder(folder: Path, channels: int, output: Path) -> list[Item]:
    inside = output.absolute()
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and inside not in path.absolute().parents]
    seen = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    return list(_of_files(seen, folder, channels))


def _of_files(paths: Sequence[Path], root: Path, channels: int) -> Iterator[Item]:
    pixels = [path for path in paths if ending_of(path.name) is not None]
    yield from _with_channels(pixels, root, channels)
    others = [path for path in paths if ending_of(path.name) is None]
    dicom = [path for path in others if is_dicom(path) or has_dicom_ending(path) or len(paths) == 1]
    for folder in dict.fromkeys(path.parent for path in dicom):  # without DICOM its libraries are not needed
        series = _series_of([path for path in dicom if path.parent == folder])
        for number, files in enumerate(series):
            yield Item("dicom", files, _series_name(files, folder, root, number, len(series)), ".dcm")


def _series_of(paths: Sequence[Path]) -> list[tuple[Path, ...]]:
    """The files of each series, and each broken file alone: it is refused, by name, when it is read."""
    broken: list[Path] = []
    series, _ = find_series(paths, str, lambda path, _: broken.append(path))
    return sorted([*(one.files for one in series), *((path,) for path in broken)])


def _series_name(files: Sequence[Path], folder: Path, root: Path, number: int, of: int) -> str:
    """A single file has its own name, a series that of its folder. No text of a header becomes a name."""
    if len(files) == 1:
        return (folder.relative_to(root) / _without_ending(files[0])).as_posix()
    name = folder.relative_to(root).as_posix() if folder != root else root.resolve().name
    return f"{name}_{number + 1}" if of > 1 else name


def _without_ending(path: Path) -> str:
    return path.stem if has_dicom_ending(path) else path.name


def has_dicom_ending(path: Path) -> bool:
    return path.suffix.lower() in DICOM_ENDINGS


def _with_channels(paths: Sequence[Path], root: Path, channels: int) -> Iterator[Item]:
    """Files of one channel each come together where the network takes several and all of them are there."""
    taken: set[Path] = set()
    for path in paths:
        if path in taken:
            continue
        ending = ending_of(path.name) or ""
        parts = _parts(path, channels)
        taken.update(parts)
        name = stem_of(path.name)
        if len(parts) > 1:
            name = name[:-5]
        yield Item(kind_of(path), tuple(parts), (path.parent.relative_to(root) / name).as_posix(), ending)


def _parts(path: Path, channels: int) -> list[Path]:
    """The files of all channels of which `path` is the first, or `path` alone."""
    found = CHANNEL.fullmatch(stem_of(path.name))
    if channels == 1 or found is None or int(found[2]) != 0:
        return [path]
    ending = path.name[len(stem_of(path.name)) :]
    parts = [path.with_name(f"{found[1]}_{number:04d}{ending}") for number in range(channels)]
    return parts if all(part.is_file() for part in parts) and _is_one_channel(path) else [path]


def _is_one_channel(path: Path) -> bool:
    """Frames in colour may be numbered as channels are; a file that cannot be read is told of later."""
    try:
        return ending_of(path.name) in VOLUMES or decode(path).values.shape[2] == 1
    except Unreadable:
        return True


def target_of(item: Item, output: Path, single: bool, dicom_ending: str) -> Path:
    """Where the label map of an item goes: `output` itself where that names a file, otherwise below it.

    Args:
        single: whether `output` is a file.
        dicom_ending: .dcm or .png.
    """
    ending = {"picture": ".png", "nifti": item.ending, "dicom": dicom_ending}[item.kind]
    if not single:
        return output / f"{item.name}{ending}"
    if not output.name.lower().endswith(ending) or (ending == ".nii" and output.name.lower().endswith(".nii.gz")):
        raise ThriftyError(f"{output}: what is predicted of {item.shown} is written as {ending}; give such a name, or a folder")
    return output
