"""What a data set is like, before anything is spent on it: the data part of `thrifty check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thrifty.config import Data
from thrifty.data.cases import NAMED, name_some
from thrifty.data.duplicates import MOST_COMPARED, near_duplicates
from thrifty.data.labels import IGNORED, pixels_of
from thrifty.data.splits import Splits, left_out, summary
from thrifty.data.store import Store

LEAST_PIXELS = 4  # a level that sees fewer rows or columns than this has little to convolve
SMALL_OBJECT = 16  # pixels
MOST_BRIGHT = 20  # times the median case
MOST_LOOKED_AT = 300  # cases whose objects are counted


@dataclass(frozen=True)
class ClassReport:
    label: str
    pixel_share: float
    cases: int  # that hold any of it
    empty_cases: int  # that hold none of it
    objects: int  # connected parts (8 neighbours) in the cases looked at
    small_objects: int  # of these, under SMALL_OBJECT pixels
    median_object_pixels: float | None


@dataclass(frozen=True)
class DataReport:
    source: str
    cases: int
    patients: int
    volumes: int
    channels: int
    dtype: str
    decoded_types: dict[str, int]
    heights: tuple[int, int, int]  # smallest, median, largest; pixels
    widths: tuple[int, int, int]
    spacing_mm: tuple[tuple[float, float], tuple[float, float]] | None  # smallest and largest, rows and columns
    cases_without_spacing: int
    classes: tuple[ClassReport, ...]
    empty_masks: int
    ignored: float  # share of the pixels that masks say nothing of, inside the regions of interest
    cases_with_ignored: int
    outside: float  # share of the pixels outside the regions of interest
    cases_with_roi: int
    uncounted: int  # cases without a single pixel that counts, which are left out
    overlap: float | None  # share of the foreground pixels that are of several classes; None where classes are exclusive
    looked_at: int
    sets: dict[str, tuple[int, int]]  # patients, cases
    left_out: int
    leaks: tuple[tuple[str, ...], ...]  # cases of several patients with the same image, pixel by pixel
    leaks_across_sets: int
    near_duplicates: tuple[tuple[str, str], ...]  # cases of two patients whose images look the same
    near_duplicates_across_sets: int
    sets_without_class: tuple[str, ...]
    patch: tuple[int, int]
    smaller_than_patch: int
    levels: int
    brightness: float  # of the brightest case, in times the median case
    normalisation: str

    def lines(self) -> list[str]:
        """What `thrifty check` prints."""
        volumes = f" in {self.volumes} volumes" if self.volumes else ""
        lines = [
            f"data: {self.source}, {self.cases} cases{volumes} of {self.patients} patients",
            f"pixels: {self.channels} channels, {self.dtype}",
            f"size: height {_range(self.heights)}, width {_range(self.widths)} pixels (smallest, median, largest)",
            f"spacing_mm: {self._spacing()}",
        ]
        for k, item in enumerate(self.classes):
            objects = f", {item.objects} objects, {item.small_objects} under {SMALL_OBJECT} pixels" if item.objects else ""
            empty = f", empty in {item.empty_cases}" if k else ""
            lines.append(f"class {k} ({item.label}): {item.pixel_share:.2%} of the pixels, in {item.cases} cases{empty}{objects}")
        lines.append(f"empty masks: {self.empty_masks} of {self.cases}")
        lines.extend(self._left_out_pixels())
        sets = ", ".join(f"{name} {patients} patients {cases} cases" for name, (patients, cases) in self.sets.items())
        lines.append(f"sets: {sets}" + (f", {self.left_out} cases in none" if self.left_out else ""))
        lines.append(f"levels: at most {self.levels} for patches of {self.patch[0]}x{self.patch[1]} pixels")
        return lines + [f"warning: {text}" for text in self.warnings()]

    def warnings(self) -> list[str]:
        """What a user should look at before a study is run."""
        found = []
        if self.near_duplicates:
            shown = name_some([" ~ ".join(names) for names in self.near_duplicates])
            found.append(
                f"images of different patients that look the same ({len(self.near_duplicates)} pairs, "
                f"{self.near_duplicates_across_sets} of them across sets): {shown}; look at them, and give those that are of "
                "one patient one name in groups.csv"
            )
        if self.cases > MOST_COMPARED:
            found.append(f"of {self.cases} cases {MOST_COMPARED} at most, evenly picked, were compared for looking the same")
        if len(self.decoded_types) > 1:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.decoded_types.items()))
            found.append(f"mixed types of pixels ({kinds}), values kept as they are; consider data.normalisation=case")
        for item in self.classes:
            if item.pixel_share == 0:
                found.append(f"class '{item.label}' is in no mask")
            elif item.objects and item.small_objects > item.objects / 2 and item.label != self.classes[0].label:
                found.append(
                    f"most objects of class '{item.label}' are under {SMALL_OBJECT} pixels: low levels will not see them"
                )
        found.extend(self.sets_without_class)
        if self.normalisation == "dataset" and self.brightness > MOST_BRIGHT:
            found.append(
                f"the brightest case is {self.brightness:.0f} times as bright as the median case, which a normalisation over "
                "the whole data set cannot mend; take data.normalisation=case"
            )
        if 0 < self.cases_without_spacing < self.cases:
            found.append(f"{self.cases_without_spacing} of {self.cases} cases have no spacing: distances are in pixels there")
        if self.smaller_than_patch:
            found.append(f"{self.smaller_than_patch} cases are smaller than the patch and will be padded by mirroring")
        return found

    def too_deep(self, levels: int) -> str | None:
        """Why `levels` are too many for the patch, or None where they are not."""
        if levels <= self.levels:
            return None
        side = min(self.patch)
        return (
            f"{levels} levels: the lowest would see {side / 2**levels:g} pixels of a patch of {side}, fewer than {LEAST_PIXELS}; "
            f"at most {self.levels} levels, or a patch of {LEAST_PIXELS * 2**levels}"
        )

    def _left_out_pixels(self) -> list[str]:
        """What counts neither in training nor in metrics, and how far classes overlap."""
        lines = []
        if self.overlap is not None:
            lines.append(f"overlapping classes: {self.overlap:.2%} of the foreground pixels are of more than one")
        if self.cases_with_ignored or self.uncounted:
            gone = f"; {self.uncounted} cases with nothing else are left out" if self.uncounted else ""
            lines.append(f"ignored: {self.ignored:.2%} of the pixels, in {self.cases_with_ignored} cases{gone}")
        if self.cases_with_roi:
            inside = 1 - self.outside
            lines.append(
                f"regions of interest: {inside:.2%} of the pixels are inside, {self.cases_with_roi} cases have pixels outside"
            )
        return lines

    def _spacing(self) -> str:
        if self.spacing_mm is None:
            return "unknown; distances will be in pixels"
        (row, column), (most_row, most_column) = self.spacing_mm
        if (row, column) == (most_row, most_column):
            return f"{row:g} x {column:g}"
        return f"{row:g} to {most_row:g} x {column:g} to {most_column:g}"


def describe(data: Data, store: Store, splits: Splits) -> DataReport:
    """The report on a prepared data set."""
    heights, widths = [case.height for case in store.cases], [case.width for case in store.cases]
    spacings = [case.spacing_mm for case in store.cases if case.spacing_mm is not None]
    leaks = find_leaks(store)
    near = near_duplicates(store, leaks)
    classes, looked_at = _classes(store)
    rows, columns = data.patch_size
    return DataReport(
        source=data.source,
        cases=len(store.cases),
        patients=len({case.patient for case in store.cases}),
        volumes=len({case.volume for case in store.cases if case.volume}),
        channels=store.channels,
        dtype=str(store.images.dtype),
        decoded_types=store.decoded_types,
        heights=_three(heights),
        widths=_three(widths),
        spacing_mm=_extremes(spacings) if spacings else None,
        cases_without_spacing=len(store.cases) - len(spacings),
        classes=classes,
        empty_masks=sum(not store.present(i) for i in range(len(store.cases))),
        **_ignored(store),
        overlap=_overlap(store) if store.overlapping else None,
        looked_at=looked_at,
        sets=summary(splits, store),
        left_out=left_out(splits, store),
        leaks=leaks,
        leaks_across_sets=_across_sets(leaks, splits),
        near_duplicates=near,
        near_duplicates_across_sets=_across_sets(near, splits),
        sets_without_class=_sets_without_class(store, splits),
        patch=data.patch_size,
        smaller_than_patch=sum(h < rows or w < columns for h, w in zip(heights, widths, strict=True)),
        levels=most_levels(data.patch_size),
        brightness=_brightness(store),
        normalisation=data.normalisation,
    )


def most_levels(patch: tuple[int, int]) -> int:
    """The most levels for a patch (rows, columns), at least 2: the lowest of D levels has 1 / 2^D of its resolution."""
    levels = 2
    while min(patch) >> (levels + 1) >= LEAST_PIXELS:
        levels += 1
    return levels


def _three(values: list[int]) -> tuple[int, int, int]:
    return min(values), int(np.median(values)), max(values)


def _range(values: tuple[int, int, int]) -> str:
    return "all " + str(values[0]) if values[0] == values[2] else ", ".join(map(str, values))


def _extremes(spacings: list[tuple[float, float]]) -> tuple[tuple[float, float], tuple[float, float]]:
    rows, columns = zip(*spacings, strict=True)
    return (min(rows), min(columns)), (max(rows), max(columns))


def _classes(store: Store) -> tuple[tuple[ClassReport, ...], int]:
    """By class: share, cases, and the objects in up to MOST_LOOKED_AT cases, evenly picked."""
    pixels = np.array([place.class_pixels for place in store.places])
    total = sum(store.counted_pixels(index) for index in range(len(store.cases)))
    step = -(-len(store.cases) // MOST_LOOKED_AT)
    looked_at = range(0, len(store.cases), step)
    sizes = _object_sizes(store, looked_at)
    reports = []
    for k, label in enumerate(store.labels):
        own = sizes[k]
        reports.append(
            ClassReport(
                label=label,
                pixel_share=float(pixels[:, k].sum() / total),
                cases=int((pixels[:, k] > 0).sum()),
                empty_cases=int((pixels[:, k] == 0).sum()),
                objects=len(own),
                small_objects=int((own < SMALL_OBJECT).sum()),
                median_object_pixels=float(np.median(own)) if len(own) else None,
            )
        )
    return tuple(reports), len(looked_at)


def _ignored(store: Store) -> dict[str, Any]:
    pixels = sum(case.height * case.width for case in store.cases)
    ignored, outside = ([getattr(place, what) for place in store.places] for what in ("ignored", "outside"))
    return {
        "ignored": sum(ignored) / pixels,
        "cases_with_ignored": sum(n > 0 for n in ignored),
        "outside": sum(outside) / pixels,
        "cases_with_roi": sum(n > 0 for n in outside),
        "uncounted": store.uncounted,
    }


def _overlap(store: Store) -> float:
    """Exact and cheap: masks are bytes."""
    kept = store.masks[store.masks != IGNORED]
    numbers = np.bincount(np.bitwise_count(kept), minlength=3)
    return float(numbers[2:].sum() / max(1, numbers[1:].sum()))


def _object_sizes(store: Store, indices: range) -> list[np.ndarray]:
    """The pixels of every connected object, by class; none for the background."""
    from scipy.ndimage import label

    found: list[list[np.ndarray]] = [[np.zeros(0, np.int64)] for _ in store.labels]
    for index in indices:
        mask = store.mask(index)
        for k in store.present(index):
            parts, _ = label(pixels_of(mask, k, store.overlapping), structure=np.ones((3, 3)))  # pyrefly: ignore[not-iterable]
            found[k].append(np.bincount(parts.ravel())[1:])
    return [np.concatenate(parts) for parts in found]


def _brightness(store: Store) -> float:
    """The mean absolute value of the brightest case against that of the median case."""
    means = [float(np.abs(store.image(i).astype(np.float32)).mean()) for i in range(len(store.cases))]
    middle = float(np.median(means))
    return max(means) / middle if middle > 0 else 1.0


def leak_error(store: Store) -> str | None:
    """Why the data set cannot be trusted: the same image under several patients, in training and test alike; else None."""
    leaks = find_leaks(store)
    if not leaks:
        return None
    shown = name_some([" = ".join(names[:NAMED]) for names in leaks])
    return (
        f"the same image under several patients ({len(leaks)} times): {shown}; give these cases one patient in groups.csv, "
        "or take out all but one"
    )


def find_leaks(store: Store) -> tuple[tuple[str, ...], ...]:
    """Groups of cases with equal images that belong to more than one patient; flat images do not count."""
    by_digest: dict[tuple[str, int, int], list[int]] = {}
    for index, (case, place) in enumerate(zip(store.cases, store.places, strict=True)):
        by_digest.setdefault((place.digest, case.height, case.width), []).append(index)
    groups = [g for g in by_digest.values() if len({store.cases[i].patient for i in g}) > 1]
    return tuple(tuple(store.cases[i].name for i in g) for g in groups if np.ptp(store.image(g[0])) > 0)


def _across_sets(leaks: Sequence[tuple[str, ...]], splits: Splits) -> int:
    set_of = {name: part for part, names in splits.sets().items() for name in names}
    return sum(len({set_of[name] for name in names if name in set_of}) > 1 for names in leaks)


def _sets_without_class(store: Store, splits: Splits) -> tuple[str, ...]:
    anywhere = {k for index in range(len(store.cases)) for k in store.present(index)}
    lines = []
    for part, names in splits.sets().items():
        counts = Counter(k for index in store.indices(names) for k in store.present(index))
        lines.extend(f"the set {part} has no case with class '{store.labels[k]}'" for k in sorted(anywhere - set(counts)))
    return tuple(lines)
