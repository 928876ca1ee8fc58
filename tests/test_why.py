"""select/why.md, by hand: from rows to the sentences and the table."""

from __future__ import annotations

import re
from typing import Any

from small_study import small_study

from thrifty.why import why_text

STUDY = small_study(budgets=[2000, 3000], select={"finalists": 3, "risk": 0.5}, resources={"cpus_per_trial": 2})


def row(name: str, parameters: int, score: float, **origin: Any) -> dict[str, Any]:
    place = {"width": 8, "levels": 3, "path": [1]}
    shared = {"group": "b3000_w8_d3", "dice": score + 0.01, "spread": 0.02, "by_supernet": {"s0": 1.0, "s1": 1.0}, "seconds": 9.0}
    given = {"source": "mean", "size": 1.0, "stray": 0.0, "path": "free"} | origin
    return {"hash": name, "parameters": parameters, "score": score, "origin": given, "genotype": place, **shared}


ROWS = [
    row("aaaa", 2900, 0.61, source="search_s1", stray=0.756, size=0.9, path="1"),
    row("aaaa", 2900, 0.50),  # another labelled form
    row("bbbb", 2700, 0.60),
    row("cccc", 1800, 0.40, source="pool"),
    row("dddd", 2950, 0.10, source="search_s0"),
    row("eeee", 3500, 0.90),  # of another budget
]
SEARCHED = [
    {"trial": "search_s0", "budget": 3000, "genotype_hash": "dddd"},
    {"trial": "search_s1", "budget": 3000, "genotype_hash": "aaaa"},
    {"trial": "search_s2", "budget": 3000, "genotype_hash": "aaaa"},
    {"trial": "search_s3", "budget": 2000, "genotype_hash": "cccc"},
]


def kept(name: str, dice: list[float] | None, epochs: int | None) -> dict[str, Any]:
    return next(r for r in ROWS if r["hash"] == name) | {"short_dice": dice, "short_epochs": epochs}


def outcome(rounds: list[dict[str, Any]], **finalists: list[dict[str, Any]]) -> dict[str, Any]:
    chosen = {"2000": kept("cccc", None, None), "3000": (finalists.get("b3000") or [kept("aaaa", None, None)])[0]}
    listed = {key.removeprefix("b"): found for key, found in finalists.items()}
    return {"evaluated": 6, "networks": 5, "rounds": rounds, "chosen": chosen, "finalists": listed, "front": []}


def page(*rounds: dict[str, Any], **finalists: list[dict[str, Any]]) -> tuple[str, dict[str, list[dict[str, str]]]]:
    """The text, and by budget its table."""
    text = why_text(STUDY, outcome(list(rounds), **finalists), ROWS, SEARCHED)
    tables = {}
    for part in text.split("\n## Budget ")[1:]:
        lines = [[c.strip() for c in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("|")]
        tables[part.splitlines()[0]] = [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
    return text, tables


def test_without_short_trainings_the_score_decides() -> None:
    text, tables = page()
    assert "6 candidates, 5 of them different networks, were scored" in text and "the supernets of 4 searches" in text
    assert "less 0.5 times its spread. That took 54.0 seconds (0.030 CPU-hours)." in text
    assert "the score alone decided" in text and "4 scored networks keep this budget" in text
    assert "The score decided: 0.6100 against 0.6000 of `bbbb`." in text
    assert [r["network"] for r in tables["3,000"]] == ["`aaaa`", "`bbbb`", "`cccc`", "`dddd`"]
    assert [r["network"] for r in tables["2,000"]] == ["`cccc`"] and "There was no other finalist." in text
    assert tables["3,000"][0] == {
        "network": "`aaaa`", "parameters": "2,900", "of the budget": "96.7%", "inherited score": "0.6100", "short Dice": "–",
        "epochs": "–", "proposed by": "the search search_s1", "decoded by": "search_s1, search_s2", "": "chosen",
    }  # fmt: skip


def test_where_the_chosen_comes_from() -> None:
    text, _ = page()
    assert "`aaaa` with 2,900 parameters, 96.7% of the budget: width 8, 3 levels, cell path [1]." in text
    given = "by the search search_s1, with noise 0.76, with size 0.90 of the room up to the budget, with the cell path 1 given."
    assert given in text and "It is what search_s1 and search_s2 decoded to." in text
    assert "Its inherited Dice is 0.6200, with a spread of 0.0200 over 2 supernets." in text
    assert "proposed by the pool of what searches decoded along the way, undisturbed." in text


def test_what_it_was_chosen_against() -> None:
    first = {"epochs": 1, "steps": 5, "seeds": 2, "seconds": 30.0, "dice": {"aaaa": [], "bbbb": [], "cccc": []}}
    second = first | {"epochs": 2, "seconds": 40.0, "dice": {"bbbb": [], "aaaa": []}}
    found = [kept("bbbb", [0.7, 0.8], 2), kept("aaaa", [0.6, 0.7], 2), kept("cccc", [0.5, 0.5], 1)]
    text, tables = page(first, second, b3000=found)
    assert "Round 1: 3 networks, each trained from scratch for 1 epoch of 5 steps with 2 seeds, 30.0 seconds in all." in text
    assert "Round 2: 2 networks, each trained from scratch for 2 epochs of 5 steps" in text
    assert "The short training decided: Dice 0.7500 after 2 epochs, against 0.6500 of `aaaa`." in text
    rows = tables["3,000"]
    assert [r["network"] for r in rows] == ["`bbbb`", "`aaaa`", "`cccc`", "`dddd`"], "each search's decoding is there"
    assert [(r["short Dice"], r["epochs"]) for r in rows] == [("0.7500", "2"), ("0.6500", "2"), ("0.5000", "1"), ("–", "–")]
    assert [r[""] for r in rows] == ["chosen", "", "", ""] and "No search for this budget decoded to it at its end." in text
    assert not re.search(r"eeee", text), "it is over the budget"


def test_finalists_whose_training_failed() -> None:
    one = {"epochs": 1, "steps": 5, "seeds": 2, "seconds": 30.0, "dice": {"bbbb": [], "aaaa": []}}
    text, tables = page(one, b3000=[kept("bbbb", [0.7, 0.8], 1), kept("aaaa", None, None)])
    assert "The training of the others failed." in text and tables["3,000"][1]["short Dice"] == "–"


def test_what_searches_passed_is_told() -> None:
    pool = [{"hash": "aaaa", "times": 3, "origins": [{"trial": "search_s1"}, {"trial": "search_s3"}]}]
    text = why_text(STUDY, outcome([]), ROWS, SEARCHED, pool)
    assert text.count("Along the way it was decoded in 3 epochs of search_s1 and search_s3.") == 1
