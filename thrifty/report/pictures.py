"""The pictures beside report.md: each function draws what there is and returns (file name, caption)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from thrifty.data.labels import pixels_of, without_ignored
from thrifty.errors import ThriftyError
from thrifty.report.facts import Facts, Row

if TYPE_CHECKING:
    from thrifty.data.store import Store
    from thrifty.plots.cases import Example

Pictures = list[tuple[str, str]]
TITLE_LENGTH = 30


def pareto(facts: Facts, folder: Path) -> Pictures:
    from thrifty.plots.pareto import Point, draw_pareto

    points = []
    for network in facts.networks:
        low, high = network["dice"]["ci95"] or (None, None)
        kind = kind_of(network["name"])
        points.append(Point(kind, network["parameters"], network["dice"]["mean"], low, high, network["budget"]))
    if not points:
        return []
    draw_pareto(points, folder / "dice_parameters.svg")
    return [("dice_parameters.svg", "Dice on the test cases against parameters; bars: 95 % interval over patients")]


def kind_of(name: str) -> str:
    """The kind of a network as pictures name it, from its name in networks.json."""
    if name.startswith(("found_", "decoded_", "random_")):
        return name.partition("_")[0]
    if name.startswith("scaled_unet"):
        return "scaled U-Net"
    return {"unet": "U-Net", "unetpp": "UNet++"}.get(name, name)


def searches(facts: Facts, folder: Path) -> Pictures:
    from thrifty.plots.curves import draw_searches

    drawn = []
    for (budget, width, levels, epochs), rows in facts.epochs.items():
        present = {label: epochs_of for label, epochs_of in rows.items() if epochs_of}
        if not present:
            continue
        name = f"search_b{budget}_w{width}_d{levels}_e{epochs}.svg"
        draw_searches(present, budget, folder / name)
        drawn.append((name, f"searches with budget {budget:,}, width {width}, {levels} levels, {epochs} epochs"))
    return drawn


def selection(facts: Facts, folder: Path) -> Pictures:
    from thrifty.plots.pareto import Point
    from thrifty.plots.selection import draw_selection

    found = facts.selection
    if found is None or not found.candidates:
        return []
    trained = [row for rows in (found.finalists or {}).values() for row in rows if row["short_dice"]]
    points = {row["hash"]: Point("finalist", row["parameters"], fmean(row["short_dice"])) for row in trained}
    retrained = [
        Point(kind_of(row["name"]), row["parameters"], row["selection_dice"]) for row in facts.networks if "selection_dice" in row
    ]
    draw_selection(found.candidates, found.front, found.chosen, [*points.values(), *retrained], folder / "selection.svg")
    risk = facts.study.select.risk
    by = "of Dice" if risk == 0 else f"of Dice minus {risk:g} times its spread"
    caption = f"candidates of the selection: inherited Dice against parameters, the front {by}, the chosen and their budgets"
    if points or retrained:
        caption += "; beside them Dice on the same cases of what was trained: finalists for a short while, the others in full"
    return [("selection.svg", caption)]


def genotypes(facts: Facts, folder: Path) -> Pictures:
    from thrifty.plots.lattice import draw_genotype

    drawn = []
    for budget, genotype in facts.genotypes.items():
        draw_genotype(genotype, folder / f"genotype_{budget}.svg")
        drawn.append((f"genotype_{budget}.svg", f"the genotype found for a budget of {budget:,} parameters"))
    return drawn


def cases(facts: Facts, folder: Path) -> Pictures:
    """Worst, median and best test case of the found networks and of U-Net."""
    chosen = [row for row in facts.examples if row["network"] == "unet" or row["network"].startswith("found_")]
    chosen.sort(key=lambda row: row["network"] == "unet")
    present = [row for row in chosen if (facts.run.root / row["file"]).is_file()]
    if not present or not facts.run.data.is_dir():
        return []
    from thrifty.data.store import open_store
    from thrifty.plots.cases import draw_cases

    store = open_store(facts.run.data)
    drawn = []
    for network in dict.fromkeys(row["network"] for row in present):
        examples = [_example(facts, store, row) for row in present if row["network"] == network]
        draw_cases(examples, store.labels, folder / f"cases_{network}.png")
        told = "; ".join(" ".join(example.title.split("\n")) for example in examples)
        drawn.append((f"cases_{network}.png", f"test cases by {network}, {_run_of(present, network)}: {told}"))
    return drawn


def _run_of(rows: Sequence[Row], network: str) -> str:
    row = next(row for row in rows if row["network"] == network)
    fold = row.get("fold")
    return f"seed {row['seed']}" + (f", fold {fold}" if fold is not None else "")


def _example(facts: Facts, store: Store, row: Row) -> Example:
    from skimage.io import imread

    from thrifty.metrics import foreground_dice
    from thrifty.plots.cases import Example

    index = store.indices([row["case"]])[0]
    truth = store.mask(index)
    prediction = imread(facts.run.root / row["file"])
    if prediction.shape != truth.shape:
        raise ThriftyError(f"{row['file']} has the size {prediction.shape}, its case {truth.shape}; remove it and evaluate again")
    spacing = store.cases[index].spacing_mm
    name = row["case"] if len(row["case"]) <= TITLE_LENGTH else f"{row['case'][:12]}…{row['case'][-16:]}"
    dice = foreground_dice(prediction, truth, store.classes, facts.counted, store.overlapping)
    title = f"{row['rank']}\n{name}\nDice {dice:.3f}"
    there, found = (_drawable(store, without_ignored(mask, truth)) for mask in (truth, prediction))
    return Example(title, store.image(index), there, found, spacing[0] / spacing[1] if spacing else 1.0)


def _drawable(store: Store, mask: np.ndarray) -> np.ndarray:
    """One class id for each pixel: of overlapping classes the one that is smallest in the whole data set."""
    if not store.overlapping:
        return mask
    sizes = np.sum([place.class_pixels for place in store.places], axis=0)
    drawn = np.zeros_like(mask)
    for index in sorted(range(1, len(store.labels)), key=lambda k: -sizes[k]):
        drawn[pixels_of(mask, index, overlapping=True)] = index
    return drawn
