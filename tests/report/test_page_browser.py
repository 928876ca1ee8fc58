"""The page in a real browser: what it shows are the numbers of summary.json; silent, alone, legible, narrow, dark, printed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import chromium, opened
from tests.report.small_report import LABELS, full_run
from tests.report.test_stage import read_table
from thrifty.report import run_stage
from thrifty.results import Run

pytestmark = pytest.mark.xdist_group("browser")  # one browser, one report

TABLES = """() => [...document.querySelectorAll('table')].map(table => ({
  section: table.closest('section').querySelector('h2').textContent,
  rows: [...table.rows].map(row => [...row.cells].map(cell => cell.textContent)),
  columns: [...table.querySelectorAll('thead th')].every(cell => cell.scope === 'col'),
  heads: [...table.querySelectorAll('tbody tr')].every(row => row.cells[0].scope === 'row'),
}))"""
# WCAG 2.2: relative luminance and contrast ratio of each text with what lies behind it.
CONTRAST = """() => {
  const rgba = text => text.match(/[\\d.]+/g).map(Number);
  const linear = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = element => {
    for (; element; element = element.parentElement) {
      const colour = rgba(getComputedStyle(element).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = {least: 99, most: 0, paper: luminance(behind(document.body)), texts: 0};
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.textContent.trim() || element.closest('svg')) continue;
    const pair = [luminance(rgba(getComputedStyle(element).color)), luminance(behind(element))];
    const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    found.least = Math.min(found.least, ratio);
    found.texts += 1;
  }
  return found;
}"""


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, Any]]:
    study, run, summary = full_run(tmp_path_factory.mktemp("page"))
    run_stage(study, run)
    return run, summary


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def desktop(reported: tuple[Run, dict[str, Any]], browser: Any) -> Iterator[Any]:
    with opened(browser, reported[0].page) as found:
        yield found


@pytest.fixture(scope="module")
def tables(desktop: Any) -> dict[str, list[list[list[str]]]]:
    found: dict[str, list[list[list[str]]]] = {}
    for table in desktop.page.evaluate(TABLES):
        assert table["columns"] and table["heads"]
        found.setdefault(table["section"], []).append(table["rows"])
    return found


def points(value: float) -> str:
    return f"{100 * value:+.2f}"


def test_networks(reported: tuple[Run, dict[str, Any]], tables: dict[str, Any]) -> None:
    (head, *rows) = tables["Networks"][0]
    assert head[8:10] == [f"Dice {label}" for label in LABELS[1:3]], "names of the user's are shown as they are"
    expected = [
        [
            n["name"], f"{n['parameters']:,}", f"{n['macs']:,}", f"{n['dice']['mean']:.4f}",
            f"{n['dice']['sd_seeds']:.4f}" if n["dice"]["sd_seeds"] is not None else "–",
            "{:.4f} to {:.4f}".format(*n["dice"]["ci95"]) if n["dice"]["ci95"] else "–",
            f"{n['iou']['mean']:.4f}", f"{n['hd95']['mean']:.2f} mm",
            *(f"{value:.4f}" for value in n["dice_per_class"].values()),
            f"{n['dice_volume']:.4f}" if n["dice_volume"] is not None else "–",
            str(n["seeds"]), str(n["still_improving"]), f"{n['seconds']:.1f}",
        ]
        for n in reported[1]["networks"]
    ]  # fmt: skip
    assert rows[:-1] == expected and len(expected) == 5
    assert rows[-1][8:10] == ["0.6125", "0.6125"], "results of nnU-Net stand below the classes, whatever their names"


def test_comparisons_and_statistics(reported: tuple[Run, dict[str, Any]], tables: dict[str, Any]) -> None:
    paired = reported[1]["statistics"]["paired"]
    expected = [[p["found"], p["against"], points(p["difference"])] for p in paired]
    (_, *compared), (_, *tested) = tables["Comparisons"][0], tables["Statistics"][0]
    assert [[row[0], row[1].split(" (")[0], row[2]] for row in compared] == expected
    assert [row[3] for row in compared] == [" to ".join(map(points, p["ci95"])) for p in paired]
    assert [row[:3] for row in tested] == expected
    for row, p in zip(tested, paired, strict=True):
        assert row[3:] == [*("< 0.0001" if v < 1e-4 else f"{v:.4f}" for v in (p["p"], p["p_holm"])), str(p["patients"])]


def test_stability_searches_and_cost(reported: tuple[Run, dict[str, Any]], tables: dict[str, Any]) -> None:
    summary = reported[1]
    (setting,) = summary["stability"]["settings"]
    agreement = setting["agreement"]
    apart = agreement["distance"]["chance"]
    assert tables["Stability"][0][1:] == [
        [
            f"{setting['budget']:,}", str(len(setting["seeds"])), str(setting["networks"]),
            f"{agreement['op_kappa']['value']:.2f}", "–", f"{agreement['distance']['value']:.1f}",
            f"{apart['mean']:.1f} ({apart['low']:.1f} to {apart['high']:.1f})", f"{apart['p']:.3f}",
            str(len(setting["collapsed"])),
        ]
    ]  # fmt: skip
    for row, search in zip(tables["Searches"][0][1:], summary["searches"], strict=True):
        whole = [f"{search[key]:,}" for key in ("seed", "budget", "width", "levels", "epochs", "parameters")]
        assert row[:6] == whole and row[7] == f"{search['dice']:.4f}" and row[9] == f"{search['seconds']:.1f}"
        assert row[6] == f"{100 * (1 - search['parameters'] / search['budget']):.1f}%"
    shown = {row[0]: row for row in tables["Cost"][0][1:]}
    for stage, cost in summary["cost"].items():
        for value in (f"{cost['trials']:,}", f"{cost['cpu_hours']:.3f}", f"{cost['gpu_hours']:.3f}"):
            assert value in shown[stage]


def test_the_verdict_comes_first_and_has_the_numbers(reported: tuple[Run, dict[str, Any]], desktop: Any) -> None:
    summary = reported[1]
    found, luck = summary["networks"][0], summary["statistics"]["luck"][0]
    good, stable, chance, research = desktop.page.locator("header .verdict p").all_text_contents()
    assert good.startswith("Is it good? The found network of 8,765 parameters") and f"Dice {found['dice']['mean']:.4f}" in good
    assert stable.startswith("Is it stable?") and f"{100 * found['dice']['sd_seeds']:.2f} points" in stable
    assert chance.startswith("Was it luck?") and f"({luck['probability']:.2f}, 95 % interval" in chance
    assert "{:.2f} to {:.2f})".format(*luck["ci95"]) in chance and research.startswith("Research use only")


def test_every_table_is_that_of_report_md(reported: tuple[Run, dict[str, Any]], tables: dict[str, Any]) -> None:
    lines = reported[0].report.read_text(encoding="utf-8").replace("\n\n", "\n \n").splitlines()
    blocks = "\n".join(line if line.startswith("|") else "" for line in lines).split("\n\n")
    written = [read_table(block) for block in blocks if block.strip()]
    shown = [[dict(zip(rows[0], row, strict=True)) for row in rows[1:]] for found in tables.values() for rows in found]
    bare = [[{_bare(key): _bare(value) for key, value in row.items()} for row in rows] for rows in written]
    assert shown == bare and len(shown) > 8


def _bare(text: str) -> str:
    """What markdown shows of a cell."""
    return re.sub(r"\\([\\`*\[\]<>&~_|])", r"\1", text.strip("`"))


def test_silent_alone_small_and_well_formed(reported: tuple[Run, dict[str, Any]], desktop: Any) -> None:
    assert desktop.said == [] and desktop.asked == []
    assert reported[0].page.stat().st_size < 5_000_000
    page = desktop.page
    assert page.evaluate("document.querySelectorAll('script, link[rel=stylesheet], iframe, object').length") == 0
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(element => element.id)")
    assert len(ids) == len(set(ids)) > 100, "each drawing has its own"
    lost = """() => [...document.querySelectorAll('svg *')].flatMap(element => [...element.attributes])
      .flatMap(a => a.name === 'href' ? [a.value.slice(1)] : [...a.value.matchAll(/url\\("?#([^")]+)/g)].map(m => m[1]))
      .filter(id => !document.getElementById(id))"""
    assert page.evaluate(lost) == [], "references within drawings"
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(element => Number(element.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert page.get_attribute("html", "lang") == "en"
    titles = page.evaluate("[...document.querySelectorAll('svg')].map(s => s.querySelector('title')?.textContent)")
    texts = page.evaluate("[...document.querySelectorAll('img')].map(image => image.alt)")
    widths = page.evaluate("[...document.querySelectorAll('img')].map(image => image.naturalWidth)")
    assert len(titles) == 4 and all(titles) and len(texts) == 1 and all(texts) and all(widths)


def test_names_are_text(desktop: Any) -> None:
    shown = desktop.page.inner_text("body")
    assert "<script>alert(1)</script>" in LABELS[1] and LABELS[1] in shown and LABELS[2] in shown
    assert desktop.page.evaluate("document.querySelectorAll('main a, main b, main script').length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(reported: tuple[Run, dict[str, Any]], browser: Any, scheme: Any) -> None:
    with opened(browser, reported[0].page, color_scheme=scheme) as found:
        contrast = found.page.evaluate(CONTRAST)
        assert contrast["least"] >= 4.5 and contrast["texts"] > 100
        assert (contrast["paper"] > 0.9) if scheme == "light" else (contrast["paper"] < 0.02)


def test_on_a_phone_only_tables_and_pictures_scroll(reported: tuple[Run, dict[str, Any]], browser: Any) -> None:
    with opened(browser, reported[0].page, width=360, height=740, is_mobile=True) as found:
        assert found.page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [360, 360]
        boxes = found.page.evaluate("[...document.querySelectorAll('.scroll')].map(e => [e.clientWidth, e.scrollWidth])")
        assert max(width for width, _ in boxes) <= 360 and any(inner > 500 for _, inner in boxes)
        focusable = "[...document.querySelectorAll('.scroll')].every(e => e.tabIndex === 0 && e.getAttribute('aria-label'))"
        assert found.page.evaluate(focusable)


def test_it_prints(desktop: Any, tmp_path: Path) -> None:
    content = desktop.page.pdf(format="A4", print_background=True)
    assert content.startswith(b"%PDF") and content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") > 2
    desktop.page.emulate_media(media="print", color_scheme="dark")
    assert desktop.page.evaluate(CONTRAST)["paper"] == 1 and not desktop.page.locator("nav").is_visible()
    desktop.page.emulate_media(media="screen", color_scheme="light")
