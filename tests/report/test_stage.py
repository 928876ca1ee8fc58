"""The stage on constructed run folders: complete, empty and half done; the tables are parsed back."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thrifty.config import Data, Study, parse
from thrifty.errors import ThriftyError
from thrifty.report import run_stage
from thrifty.results import Run, open_run, write_json, write_jsonl
from thrifty.space.frame import Frame
from thrifty.space.genotype import Cell, Edge, Genotype, genotype_hash, save

DOWN = Cell(((Edge(0, "avg_pool"), Edge(1, "dep_sep_conv_3")),))
UP = Cell(((Edge(0, "identity"), Edge(1, "up_sample")),))
LABELS = ("background", "left|right", "nuclei", "in no case")
PATIENTS = 12
NETWORKS: dict[str, tuple[str, int | None, int, float]] = {
    "found_9000": ("genotype", 9_000, 8_765, 0.02),
    "random_9000_0": ("genotype", 9_000, 8_000, 0.0),
    "random_9000_1": ("genotype", 9_000, 8_500, 0.03),
    "scaled_unet_9000": ("unet", 9_000, 8_900, 0.0),
    "unet": ("unet", None, 7_760_097, 0.1),
}


def make_study(**values: Any) -> Study:
    return parse(Study, {"name": "small", "budgets": [9_000], "space": "tiny", **values}, "test")


def case_rows() -> list[dict[str, Any]]:
    base = np.random.default_rng(0).uniform(0.5, 0.8, PATIENTS)
    return [
        {"network": name, "seed": seed, "fold": "", "case": f"c{p}", "patient": f"p{p}", "class": k, "label": LABELS[k]}
        | {"dice": 1.0 if k == 3 else base[p] + shift + 0.01 * seed, "iou": 0.5, "truth_pixels": 0 if k == 3 else 9}
        for name, (_, _, _, shift) in NETWORKS.items()
        for seed in (0, 1)
        for p in range(PATIENTS)
        for k in (1, 2, 3)
    ]


def make_summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    networks = []
    rows = [row for row in rows if row["class"] != 3]
    for number, (name, (kind, budget, parameters, _)) in enumerate(NETWORKS.items()):
        per_seed = [float(np.mean([r["dice"] for r in rows if r["network"] == name and r["seed"] == s])) for s in (0, 1)]
        mean = float(np.mean(per_seed))
        networks.append(
            {
                "name": name, "kind": kind, "budget": budget, "parameters": parameters, "macs": 1_234_567 + number, "seeds": 2,
                "dice": {"mean": mean, "sd_seeds": None if number == 1 else 0.007 + number / 1e4, "per_seed": per_seed,
                         "ci95": None if number == 2 else [mean - 0.03, mean + 0.031]},
                "iou": {"mean": 0.51 + number / 100, "sd_seeds": 0.01}, "hd95": {"mean": 3.25 + number, "unit": "mm"},
                "dice_per_class": {LABELS[1]: mean - 0.01, LABELS[2]: mean + 0.01},
                "dice_volume": None if number else 0.7654, "still_improving": number % 2, "seconds": 12.5 + number,
                "selection_dice": mean + 0.01,
            }
        )  # fmt: skip
    sets = {"weights": 20, "architecture": 9, "selection": 7, "test": PATIENTS}
    data = {"source": "SET", "cases": 48, "patients": 48, "channels": 1, "classes": 4, "labels": list(LABELS), "sets": sets}
    cost = {"search": {"trials": 2, "seconds": 65.2, "cpu_hours": 0.0181, "gpu_hours": 0.0}}
    return {"schema": 1, "study": "small", "thrifty": "0.1.0", "data": data, "networks": networks, "missing": ["unetpp/seed_0"],
            "notes": ["class in no case is in no test case; no mean counts it"],
            "searches": [search_row(0), search_row(1)], "cost": cost}  # fmt: skip


def search_row(seed: int) -> dict[str, Any]:
    return {
        "trial": f"b9000_w8_d3_s{seed}", "seed": seed, "budget": 9_000, "width": 8, "levels": 3, "epochs": 2,
        "parameters": 8_100 + seed, "genotype_hash": "x", "dice": 0.5 + 0.1 * seed, "seconds": 31.5, "cpus": 1, "gpus": 0,
        "collapsed": seed == 1,
    }  # fmt: skip


def write_searches(run: Run) -> None:
    for seed in (0, 1):
        row = search_row(seed)
        trial = run.search_trial(row["trial"])
        epochs = [
            {"epoch": e, "dice": 0.1 * e, "expected_parameters": 9e3, "entropy_alpha": None, "parameter_free": 0.5}
            for e in (0, 1)
        ]
        write_jsonl(trial.record, epochs)
        write_json(trial.result, row)


def write_evaluation(run: Run) -> dict[str, Any]:
    rows = case_rows()
    run.per_case.parent.mkdir(parents=True)
    with run.per_case.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    summary = make_summary(rows)
    write_json(run.summary, summary)
    return summary


def write_data(folder: Path) -> Data:
    from skimage.io import imsave

    rng = np.random.default_rng(1)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for k in range(4):
        mask = np.zeros((20, 24), np.uint8)
        mask[3 : 8 + k, 4:12], mask[12:18, 4:20] = 1, 2
        imsave(
            folder / "images" / f"c{k}.png", (60 * mask + rng.integers(0, 60, mask.shape)).astype(np.uint8), check_contrast=False
        )
        imsave(folder / "masks" / f"c{k}.png", mask, check_contrast=False)
    return Data(source=str(folder))


def write_examples(run: Run, folder: Path) -> None:
    from skimage.io import imsave

    from thrifty.data.store import build_store

    store = build_store(write_data(folder), run.data)
    listed = []
    for network in ("random_9000_0", "found_9000"):
        for k, rank in enumerate(("worst", "median", "best")):
            prediction = store.mask(store.indices([f"c{k}"])[0]).copy()
            prediction[: 4 + k] = 0
            file = run.example(network, f"c{k}")
            file.parent.mkdir(parents=True, exist_ok=True)
            imsave(file, prediction, check_contrast=False)
            listed.append(
                {"case": f"c{k}", "rank": rank, "dice": 0.5, "network": network, "seed": 4, "fold": None}
                | {"weights_sha256": "x", "file": file.relative_to(run.root).as_posix()}
            )
    write_json(run.examples, listed)


def candidate(number: int, parameters: int, dice: float, **origin: Any) -> dict[str, Any]:
    return {"group": "b9000_w8_d3", "number": number, "parameters": parameters, "dice": dice, "spread": 0.03, "score": dice,
            "by_supernet": {}, "origin": {"stray": 0.0, **origin}, "genotype": {"path": [1]}}  # fmt: skip


def finalist(name: str, score: float, *short_dice: float) -> dict[str, Any]:
    return {"group": "b", "hash": name, "parameters": 8_100, "dice": score, "score": score, "short_dice": list(short_dice)}


# Of 15 pairs by score, 9 are in the same order by short Dice and 6 in the other.
FINALISTS = [finalist("beef", 0.52, 0.8, 0.9), finalist("a", 0.55, 0.8, 0.8), finalist("b", 0.53, 0.7, 0.7),
             finalist("c", 0.51, 0.6, 0.6), finalist("d", 0.50, 0.5, 0.5), finalist("e", 0.54, 0.4, 0.4)]  # fmt: skip


def write_selection(run: Run, **outcome: Any) -> None:
    """Three candidates of two networks; the middle one is beaten in both. `outcome` is added to pareto.json."""
    small, beaten = candidate(0, 6_000, 0.4, source="mean"), candidate(1, 7_000, 0.3, source="mean")
    best = candidate(2, 8_100, 0.55, source="b9000_w8_d3_s1", stray=1.256)
    write_jsonl(run.evaluations, [small, beaten, best])
    write_json(run.select_result, {"trial": "select", "seconds": 90.0, "cpus": 2, "gpus": 0})
    written = {"evaluated": 3, "networks": 2, "chosen": {"9000": best}, "front": [small, best]}
    write_json(run.pareto, {"schema": 1, **written, **outcome})


def write_short_trainings(run: Run) -> None:
    for number, row in enumerate(FINALISTS):
        for seed in (0, 1):
            write_json(run.short_trial(row["hash"], seed).result, {"seconds": 10.0 + number, "cpus": 2, "gpus": 0})


def whole_run(root: Path) -> tuple[Study, Run, dict[str, Any]]:
    study = make_study()
    run = open_run(root / "run", study)
    write_json(run.environment, {"thrifty": "0.1.0", "packages": {"torch": "2.13.0"}, "gpus": [], "earlier": [{"cores": 2}]})
    write_searches(run)
    best = candidate(2, 8_100, 0.55, source="b9000_w8_d3_s1", stray=1.256) | {"short_dice": [0.8, 0.9]}
    short = {"epochs": 3, "steps": 20, "seeds": 2}
    write_selection(run, chosen={"9000": best}, finalists={"9000": FINALISTS}, short=short)
    write_short_trainings(run)
    save(run.genotype(9_000), GENOTYPE)
    summary = write_evaluation(run)
    write_examples(run, root / "set")
    return study, run, summary


GENOTYPE = Genotype(DOWN, UP, (1,), 8, 3, 1, 4, "tiny", Frame())


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def read_table(text: str) -> list[dict[str, str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[c.strip().replace("\\|", "|") for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert len({len(row) for row in cells}) == 1
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def number(cell: str) -> float | None:
    return None if cell == "–" else float(cell.replace(",", "").split()[0])


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, Any], str]:
    study, run, summary = whole_run(tmp_path_factory.mktemp("report"))
    run_stage(study, run)
    return run, summary, run.report.read_text(encoding="utf-8")


def test_numbers_of_the_table_are_those_of_the_summary(complete: tuple[Run, dict[str, Any], str]) -> None:
    _, summary, text = complete
    rows = read_table(section(text, "Networks"))
    assert [row["network"] for row in rows] == list(NETWORKS)
    for row, network in zip(rows, summary["networks"], strict=True):
        exact = {"parameters": "parameters", "MACs": "macs", "seeds": "seeds", "still improving": "still_improving"}
        for column, key in exact.items():
            assert number(row[column]) == network[key]
        rounded = {
            "Dice": network["dice"]["mean"],
            "sd over seeds": network["dice"]["sd_seeds"],
            "IoU": network["iou"]["mean"],
            "Dice of volumes": network["dice_volume"],
            "Dice left|right": network["dice_per_class"]["left|right"],
            "Dice nuclei": network["dice_per_class"]["nuclei"],
        }
        for column, value in rounded.items():
            assert number(row[column]) == (None if value is None else pytest.approx(value, abs=5.1e-5)), column
        assert row["HD95"] == f"{network['hd95']['mean']:.2f} mm"
        assert number(row["training, s"]) == pytest.approx(network["seconds"], abs=0.051)
        interval = network["dice"]["ci95"]
        found = None if row["95 % interval"] == "–" else [float(v) for v in row["95 % interval"].split(" to ")]
        assert found == (None if interval is None else pytest.approx(interval, abs=5.1e-5))


def test_first_paragraph_is_the_verdict(complete: tuple[Run, dict[str, Any], str]) -> None:
    """Shifts by network are constant over patients, so the answers are known."""
    text = complete[2]
    title, *verdict, research = text.split("\n\n")[:5]
    assert title == "# small: report" and research == "**Research use only. Not a medical device.**"
    assert [sentence.split("** ")[0] for sentence in verdict] == ["**Is it good?", "**Is it stable?", "**Was it luck?"]
    assert "is better than the U-Net scaled to its budget and worse than U-Net" in verdict[0]
    details = section(text, "Comparisons")
    assert (
        "is better than the U-Net scaled to the same budget (+2.00 points, 95 % interval +2.00 to +2.00, 12 patients)" in details
    )
    assert "is better than the 2 random networks of the same budget (it is above 1 of them) (+0.50 points" in details
    assert "is worse than U-Net with 7,760,097 parameters (-8.00 points" in details
    rows = read_table(section(text, "Comparisons"))
    assert [row["verdict"] for row in rows] == ["better", "better (seeds may explain it)", "worse"]
    assert [row["error over seeds"] for row in rows] == ["0.71", "1.58", "0.71"]
    assert [float(row["difference, points"]) for row in rows] == [2.0, 0.5, -8.0]


def test_searches_genotypes_cost_and_settings(complete: tuple[Run, dict[str, Any], str]) -> None:
    run, summary, text = complete
    rows = read_table(section(text, "Searches"))
    for row, search in zip(rows, summary["searches"], strict=True):
        assert number(row["parameters"]) == search["parameters"] and number(row["Dice"]) == search["dice"]
        assert float(row["idle"].rstrip("%")) == pytest.approx(100 * (1 - search["parameters"] / 9_000), abs=0.051)
        assert row["collapsed"] == ("yes" if search["collapsed"] else "no")
    assert genotype_hash(GENOTYPE) in section(text, "Found genotypes")
    (cost,) = read_table(section(text, "Cost"))  # a summary of an older version
    assert float(cost["CPU-hours"]) == 0.018 and cost["stage"] == "search" and cost["trials"] == "2"
    settings = section(text, "Settings and versions")
    assert {"| packages.torch | 2.13.0 |", "| gpus | none |", "| earlier.1.cores | 2 |"} <= set(settings.splitlines())
    assert run.study.read_text().strip() in settings
    assert "Not trained yet: unetpp." in text and "unetpp/seed_0" in text
    assert "48 cases of 48 patients" in section(text, "Data") and "20 weights" in section(text, "Data")


def test_selection_says_what_was_scored_and_chosen(complete: tuple[Run, dict[str, Any], str]) -> None:
    text = section(complete[2], "Selection")
    assert "3 candidates were scored, 2 of them different networks. That took 90.0 seconds (0.050 CPU-hours)." in text
    (row,) = read_table(text.split("### Finalists")[0])
    assert row == {
        "budget": "9,000",
        "parameters": "8,100",
        "idle": "10.0%",
        "inherited Dice": "0.5500",
        "spread over supernets": "0.0300",
        "short Dice": "0.8500",
        "from search": "b9000_w8_d3_s1, noise 1.26",
        "path": "[1]",
    }


def test_selection_says_what_decided(complete: tuple[Run, dict[str, Any], str]) -> None:
    text = section(complete[2], "Selection")
    decided = "short training from scratch (3 epochs of 20 steps, the mean over 2 seeds) of its finalists"
    assert f"**What decided:** for each budget, Dice on the selection cases at the end of a {decided}" in text
    assert "These 12 trainings took 150.0 seconds (0.083 CPU-hours)." in text, "2 x (10 + 11 + ... + 15) seconds on 2 CPUs"
    rows = read_table(text.split("### Finalists")[1])
    assert [row["finalist"].strip("`") for row in rows] == [row["hash"] for row in FINALISTS]
    assert [row["chosen"] for row in rows] == ["yes", "", "", "", "", ""]
    for row, found in zip(rows, FINALISTS, strict=True):
        assert number(row["inherited score"]) == found["score"] and row["budget"] == "9,000"
        assert number(row["short Dice"]) == pytest.approx(np.mean(found["short_dice"]), abs=5.1e-5)
    assert concordance(FINALISTS) == pytest.approx(3 / 15)
    assert "(1: the same order, 0: unrelated, -1: the reverse): 0.20 over the 6 finalists of the budget 9,000." in text


def concordance(found: list[dict[str, Any]]) -> float:
    """Kendall's tau as it is defined: pairs in the same order less pairs in the other, by the number of pairs."""
    pairs = [(a, b) for k, a in enumerate(found) for b in found[:k]]
    signs = [np.sign(a["score"] - b["score"]) * np.sign(sum(a["short_dice"]) - sum(b["short_dice"])) for a, b in pairs]
    return float(sum(signs)) / len(pairs)


def selection_text(root: Path, **outcome: Any) -> str:
    study = make_study()
    run = open_run(root / "run", study)
    write_selection(run, **outcome)
    run_stage(study, run)
    return section(run.report.read_text(encoding="utf-8"), "Selection")


def test_a_selection_of_a_version_without_short_trainings_says_so(tmp_path: Path) -> None:
    text = selection_text(tmp_path)
    assert "**What decided:** the inherited score. pareto.json names no finalists and no short Dice" in text
    assert read_table(text)[0]["short Dice"] == "–" and "Finalists" not in text and "Kendall" not in text


def test_a_selection_that_wants_no_short_trainings_says_so(tmp_path: Path) -> None:
    text = selection_text(tmp_path, finalists={}, short=None)
    assert "the inherited score alone; no finalist was trained, since `select.finalists` is below 2." in text
    assert "### Finalists" not in text


def test_rounds_are_told_and_tau_is_of_the_first(tmp_path: Path) -> None:
    """In the second round the order is another one, and the two best have a Dice of a longer training."""
    first = {row["hash"]: row["short_dice"] for row in FINALISTS}
    rounds = [
        {"epochs": 2, "steps": 5, "seeds": 1, "finalists": {"9000": [*first]}, "dice": first},
        {"epochs": 4, "steps": 5, "seeds": 1, "finalists": {"9000": ["a", "beef"]}, "dice": {"a": [0.99], "beef": [0.9]}},
    ]
    longer = [{**FINALISTS[1], "short_dice": [0.99]}, {**FINALISTS[0], "short_dice": [0.1]}, *FINALISTS[2:]]
    assert concordance(longer) != concordance(FINALISTS)
    short = {"epochs": 4, "steps": 5, "seeds": 1}
    text = selection_text(tmp_path, finalists={"9000": longer}, short=short, rounds=rounds)
    assert "These were halved in 2 rounds: 6 networks for 2 epochs, then 2 networks for 4 epochs." in text
    assert f"{concordance(FINALISTS):.2f} over the 6 finalists of the budget 9,000." in text
    assert read_table(text.split("### Finalists")[1])[0]["short Dice"] == "0.9900"


def test_tau_needs_five_finalists_that_differ(tmp_path: Path) -> None:
    equal = [{**row, "short_dice": [0.5]} for row in FINALISTS]
    finalists = {"9000": FINALISTS[:4], "12000": FINALISTS[:5], "15000": equal}
    text = selection_text(tmp_path, finalists=finalists, short={"epochs": 1, "steps": 5, "seeds": 1})
    assert "(1 epoch of 5 steps, one seed)" in text
    assert "not given for the budget 9,000, whose 4 finalists are too few (fewer than 5)" in text
    assert f"{concordance(FINALISTS[:5]):.2f} over the 5 finalists of the budget 12,000" in text
    assert "none for the budget 15,000, all of whose 6 finalists are equal in one of the two" in text


def test_half_a_list_of_finalists_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ThriftyError, match=r"pareto\.json, finalists: short_dice missing"):
        selection_text(tmp_path, finalists={"9000": [{"hash": "a", "parameters": 1, "score": 0.5}]}, short=None)


def test_a_class_in_no_test_case_is_named_and_not_compared(complete: tuple[Run, dict[str, Any], str]) -> None:
    text = complete[2]
    assert "- class in no case is in no test case; no mean counts it." in section(text, "Networks")
    assert "Dice in no case" not in text
    assert read_table(section(text, "Comparisons"))[0]["difference, points"] == "+2.00", "two thirds of it if it were counted"


def test_every_picture_is_there_and_used(complete: tuple[Run, dict[str, Any], str]) -> None:
    run, _, text = complete
    linked = set(re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text))
    there = {path.name for path in run.report.parent.iterdir()} - {"report.md", "index.html"}
    names = {"dice_parameters.svg", "search_b9000_w8_d3_e2.svg", "selection.svg", "genotype_9000.svg", "cases_found_9000.png"}
    assert linked == there == names
    assert "test cases by found_9000, seed 4: worst c0 Dice 0." in text
    assert "All networks are shown on the same cases: the worst, median and best of `found_9000`." in text


def test_the_report_names_no_place_of_this_machine(complete: tuple[Run, dict[str, Any], str]) -> None:
    run, _, text = complete
    assert str(run.root) not in text + run.page.read_text(encoding="utf-8")


def test_again_gives_the_same_files(complete: tuple[Run, dict[str, Any], str]) -> None:
    from thrifty.results import read_run

    run = complete[0]
    before = {path.name: path.read_bytes() for path in run.report.parent.iterdir()}
    run_stage(*read_run(run.root))
    assert {path.name: path.read_bytes() for path in run.report.parent.iterdir()} == before


def test_report_of_an_empty_run_says_what_is_missing(tmp_path: Path) -> None:
    study = make_study()
    run = open_run(tmp_path / "run", study)
    run_stage(study, run)
    text = run.report.read_text()
    for line in ("there is no verdict", "No network is evaluated yet", "No search has finished yet",
                 "Nothing is selected yet", "No genotype is chosen yet",
                 "no example predictions yet", "ledger is not written yet", "Research use only"):  # fmt: skip
        assert line in text
    assert sorted(path.name for path in run.report.parent.iterdir()) == ["index.html", "report.md"]


def test_report_after_the_search_stage(tmp_path: Path) -> None:
    study = make_study()
    run = open_run(tmp_path / "run", study)
    write_searches(run)
    write_jsonl(run.search_trial("b9000_w8_d3_s2").record, [{"epoch": 0, "dice": 0.1}])
    run_stage(study, run)
    text = run.report.read_text()
    assert len(read_table(section(text, "Searches"))) == 2 and "started and not finished: 1." in text
    assert (run.report.parent / "search_b9000_w8_d3_e2.svg").is_file()


@pytest.mark.parametrize(
    "broken", ["[]", '{"schema": 2}', '{"schema": 1, "data": {}, "networks": [{}], "searches": [], "cost": {}}', "{"]
)
def test_malformed_summary_is_one_clear_line(tmp_path: Path, broken: str) -> None:
    study = make_study()
    run = open_run(tmp_path / "run", study)
    run.summary.write_text(broken)
    with pytest.raises(ThriftyError, match=r"summary\.json") as raised:
        run_stage(study, run)
    assert "\n" not in str(raised.value) and not run.report.exists()


def test_examples_that_are_no_list_are_refused(tmp_path: Path) -> None:
    study = make_study()
    run = open_run(tmp_path / "run", study)
    write_json(run.examples, {"examples": []})
    with pytest.raises(ThriftyError, match=r"examples\.json holds no list of examples"):
        run_stage(study, run)


def test_half_a_selection_is_one_clear_line(tmp_path: Path) -> None:
    study = make_study()
    run = open_run(tmp_path / "run", study)
    write_json(run.pareto, {"schema": 1, "networks": 1, "front": [{}], "chosen": {}})
    with pytest.raises(ThriftyError, match=r"group, parameters, dice, spread, score, origin, genotype missing"):
        run_stage(study, run)


def test_prediction_of_another_size_is_refused(tmp_path: Path) -> None:
    from skimage.io import imsave

    study = make_study()
    run = open_run(tmp_path / "run", study)
    write_examples(run, tmp_path / "set")
    imsave(run.example("found_9000", "c0"), np.zeros((5, 5), np.uint8), check_contrast=False)
    with pytest.raises(ThriftyError, match=r"c0\.png has the size \(5, 5\), its case \(20, 24\)"):
        run_stage(study, run)
    assert not run.report.exists()
