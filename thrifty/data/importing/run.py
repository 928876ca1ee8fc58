"""One import: every item is read, checked, written and forgotten; what cannot be used is named and the others go on."""

from __future__ import annotations

import csv
import errno
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thrifty.data.cases import Unreadable, name_some
from thrifty.data.importing.classes import Classes, classes_of, undeclared
from thrifty.data.importing.discover import find
from thrifty.data.importing.items import Found, Item, Loaded, Wishes
from thrifty.data.importing.names import Names
from thrifty.data.importing.report import write_report
from thrifty.data.importing.write import NIFTI, Target, Written
from thrifty.data.store import beside
from thrifty.errors import ThriftyError
from thrifty.results import user_errors, write_file, write_json, write_text

Say = Callable[[str], None]
SOME_REFUSED = 3  # exit code


@dataclass(frozen=True)
class Outcome:
    cases: int
    patients: int
    refused: tuple[tuple[str, str], ...]

    @property
    def exit_code(self) -> int:
        return SOME_REFUSED if self.refused else 0


def import_data(
    source: Path, target: Path, wishes: Wishes, key: Path | None = None, say: Say = print, warn: Say = print
) -> Outcome:
    """Imports `source` into a new folder `target`. `key`: a file for the table that leads back from names to the source.

    Raises:
        ThriftyError: the target exists, wishes that do not fit the source, nothing that could be imported.
    """
    _check_places(source, target, key)
    found = find(source, wishes)
    for what, why in found.refused:
        warn(f"refused: {what}: {why}")
    names = Names(wishes, found.private)
    _keep_one_kind(found, warn)
    with user_errors(target), beside(target) as part:
        out, table = Target(part), []
        for count, item in enumerate(found.items, start=1):
            _import_item(item, found, wishes, names, out, table, warn)
            if count % 100 == 0:
                say(f"{count} of {len(found.items)} read, {len(out.written)} cases written")
        _keep_fitting_channels(out, found, warn)
        if not out.written:
            first = f"; first: {found.refused[0][0]}: {found.refused[0][1]}" if found.refused else ""
            raise ThriftyError(f"nothing could be imported, {len(found.refused)} refused{first}")
        classes = classes_of((v for row in out.written for v in row.values), wishes, found.labels, found.bits)
        ending, channels, notes = out.unify(classes.ids)
        _describe(part, out.written, classes, _channel_names(found, channels), ending)
        write_report(part, found, out.written, classes, [*found.notes, *notes, *classes.notes])
        try:
            os.rename(part, target)
        except OSError:
            raise ThriftyError(f"{target} came into being meanwhile; choose another target") from None
    if key is not None:
        _write_key(key, table)
    return Outcome(len(out.written), len({row.patient for row in out.written}), tuple(found.refused))


def _check_places(source: Path, target: Path, key: Path | None) -> None:
    if not source.exists():
        raise ThriftyError(f"there is no {source}; SOURCE is a folder of images, a COCO or label-me JSON, or a CSV list")
    if target.exists() or target.is_symlink():
        raise ThriftyError(f"{target} exists already; nothing is written into it, so choose a new folder")
    if source.is_dir() and target.resolve().is_relative_to(source.resolve()):
        raise ThriftyError(f"{target} lies within the source; choose a folder beside it")
    if key is not None and (key.exists() or key.resolve().is_relative_to(target.resolve())):
        raise ThriftyError(f"the key {key} must be a new file outside of the target: it leads back to patients")


def _keep_one_kind(found: Found, warn: Say) -> None:
    """A data set is of pictures or of volumes: of what has more slices. The others are refused."""
    volumes = [item for item in found.items if item.is_volume]
    pictures = [item for item in found.items if not item.is_volume]
    if volumes and pictures:
        more = sum(item.slices for item in volumes) >= len(pictures)
        found.items, others = (volumes, pictures) if more else (pictures, volumes)
        kept, left = ("volumes", "picture") if found.items is volumes else ("pictures", "volume")
        why = f"a {left} among {kept}: one data set holds one kind, so import them on their own (or with --slices)"
        for item in others:
            _refuse(found, item.shown, why, warn)


def _refuse(found: Found, what: str, why: str, warn: Say) -> None:
    found.refused.append((what, why))
    warn(f"refused: {what}: {why}")


def _import_item(
    item: Item, found: Found, wishes: Wishes, names: Names, out: Target, table: list[tuple[str, ...]], warn: Say
) -> None:
    before = len(found.refused)
    try:
        for loaded in item.load():
            _add(item, loaded, found, wishes, names, out)
            source_patient = " ".join(map(str, item.patient)) if isinstance(item.patient, tuple) else str(item.patient)
            table.append((out.written[-1].name, out.written[-1].patient, item.key + loaded.part, source_patient))
    except Unreadable as error:
        found.refuse(item.shown, error)
    except MemoryError:
        found.refused.append((item.shown, "more memory is needed than there is"))
    except ThriftyError:
        raise
    except Exception as error:  # a fault of ours or of a library: its text may quote what must not be quoted
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        found.refused.append((item.shown, f"it cannot be read ({type(error).__name__})"))
    for what, why in found.refused[before:]:
        warn(f"refused: {what}: {why}")


def _add(item: Item, loaded: Loaded, found: Found, wishes: Wishes, names: Names, out: Target) -> None:
    image, notes = loaded.image, list(loaded.notes)
    if image.shape[-1] == 3 and (image == image[..., :1]).all():
        image = np.ascontiguousarray(image[..., :1])
        notes.append("three equal channels became one")
    if loaded.affine is None and image.shape[-1] not in (1, 3):
        raise Unreadable("pictures of other than 1 or 3 channels", f"{item.shown} ({image.shape[-1]})")
    strange = undeclared(np.unique(loaded.mask).tolist(), wishes) if found.labels is None else []
    if strange:
        raise Unreadable("mask values that --label does not name", f"{item.shown} ({name_some(list(map(str, strange)))})")
    facts = {
        "shown": item.shown,
        "patient": names.patient(item.patient),
        "volume": names.volume(item.volume),
        "notes": tuple(notes),
        "overlapping_pixels": loaded.overlapping_pixels,
    }
    out.add(image, loaded.mask, loaded.affine, facts, lambda: names.case(item, loaded))


def _keep_fitting_channels(out: Target, found: Found, warn: Say) -> None:
    numbers = Counter(row.channels for row in out.written)
    if set(numbers) <= {1, 3}:
        return
    most = numbers.most_common(1)[0][0]
    for row in [row for row in out.written if row.channels != most]:
        out.drop(row)
        _refuse(found, row.shown, f"{row.channels} channels, where most cases have {most}", warn)


def _channel_names(found: Found, channels: int) -> list[str]:
    if len(found.channels) == channels:
        return list(found.channels)
    return ["R", "G", "B"] if channels == 3 else [f"channel {k}" for k in range(channels)]


def _describe(part: Path, written: list[Written], classes: Classes, channels: list[str], ending: str) -> None:
    description = {
        "channel_names": {str(k): name for k, name in enumerate(channels)},
        "labels": classes.labels,
        **({"regions_class_order": list(classes.order)} if classes.order else {}),
        "numTraining": len(written),
        "file_ending": ending,
    }
    write_json(part / "dataset.json", description)
    volumes = ending != NIFTI and any(row.volume for row in written)
    columns = ["case", "patient", *(["volume"] if volumes else [])]
    write_text(
        part / "groups.csv", _csv([columns, *([getattr(row, c if c != "case" else "name") for c in columns] for row in written)])
    )


def _csv(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _write_key(path: Path, table: list[tuple[str, ...]]) -> None:
    rows = [["case", "patient", "source", "source_patient"], *map(list, table)]
    write_file(path, lambda file: file.write(_csv(rows).encode()))
    path.chmod(0o600)


def lines(outcome: Outcome, target: Path) -> Iterator[str]:
    """What the console says at the end."""
    yield f"{outcome.cases} cases of {outcome.patients} patients in {target}, {len(outcome.refused)} refused"
    yield f"report: {target / 'report.md'}"
