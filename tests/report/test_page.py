"""The page without a browser: text stays text, pictures are those of the report, drawings do not touch each other."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.report.test_stage import make_study, write_searches
from thrifty.plots.pareto import Point, draw_pareto
from thrifty.report import run_stage
from thrifty.report.elements import code, images, plain_text, table
from thrifty.report.inline import inline_picture
from thrifty.report.page import page
from thrifty.results import open_run

HEAD = "# small: report\n\nverdict\n\n"
NASTY = (
    "<script>alert(1)</script>", "![x](http://127.0.0.1:9/x.png)", "[x](http://127.0.0.1:9)", "<http://127.0.0.1:9>",
    "a_b __c__ _d_",    "*a* **b**", "`a` ``b``", "a | b", "&lt;b&gt; &copy;", "\\*a\\*", "~~a~~",
    "<!-- a", "# a", "- a", "1. a", "> a", "a\\",
    "== a",
)  # fmt: skip


class Shown(HTMLParser):
    """All tags in order, and for each the text that follows it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = [("", {})]
        self.cells: list[str] = [""]
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[Any]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self.handle_starttag("", [])

    def handle_data(self, data: str) -> None:
        self.cells[-1] += data

    def of(self, name: str) -> list[str]:
        return [text for (tag, _), text in zip(self.tags, self.cells, strict=True) if tag == name]


def html_of(text: str, pictures: list[str] | None = None, folder: Path = Path()) -> str:
    return page(HEAD + text, pictures or [], folder)


@pytest.mark.parametrize("name", NASTY)
def test_names_are_shown_as_they_are(name: str, tmp_path: Path) -> None:
    """In a paragraph, a cell, a list and a caption."""
    escaped = plain_text(name)
    text = "\n\n".join(["## A", escaped, table(["a", "b"], [["x", escaped]]), f"- {escaped}", f"{escaped} and more"])
    shown = Shown(html_of(text))
    (cell,), (item,) = shown.of("td"), shown.of("li")[1:]
    assert cell == name and item.strip() == name and name in shown.of("p")
    assert not {"script", "img", "em", "strong", "del", "b", "code"} & {tag for tag, _ in shown.tags}
    assert all(attrs["href"] in ("#s1", "data:,") for tag, attrs in shown.tags if "href" in attrs)


def test_html_and_links_of_the_text_are_not_followed() -> None:
    """Even where nothing was escaped."""
    raw = "## A\n\n<b>bold</b> [x](http://127.0.0.1:9) <http://127.0.0.1:9> ![y](http://127.0.0.1:9/y.png)\n\n<script>1</script>\n\n![z](z.png)"
    shown = Shown(html_of(raw))
    assert not {"b", "img", "script"} & {tag for tag, _ in shown.tags}
    assert "<b>bold</b> [x](http://127.0.0.1:9) <http://127.0.0.1:9> y" in shown.of("p")


def test_a_fence_is_longer_than_any_within() -> None:
    text = "a: |\n  ```\n  ## B\n  ````\n"
    shown = Shown(html_of("## A\n\n" + code(text, "yaml")))
    assert [cell for cell in shown.of("code") if cell.strip()] == [text] and shown.of("h2") == ["A"]


def drawn(folder: Path, name: str, dice: float) -> str:
    draw_pareto([Point("found", 9_000, dice, dice - 0.1, dice + 0.1), Point("U-Net", 7_000_000, 0.8)], folder / name)
    return name


def test_drawings_have_their_own_ids_and_no_style_of_the_page(tmp_path: Path) -> None:
    shown = [inline_picture(tmp_path / drawn(tmp_path, f"{name}.svg", 0.7), name) for name in ("a", "b")]
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in shown]
    assert ids[0] and not ids[0] & ids[1] and {t[2:] for t in ids[0]} == {t[2:] for t in ids[1]}
    for text, own in zip(shown, ids, strict=True):
        used = set(re.findall(r'href="#([^"]+)"', text)) | set(re.findall(r"url\(#([^)]+)\)", text))
        assert used and used <= own
        assert "<style" not in text and "<metadata" not in text and "http://www.w3.org/1999/xlink" not in text


def test_a_picture_is_a_figure_with_its_caption_once(tmp_path: Path) -> None:
    name = drawn(tmp_path, "a.svg", 0.7)
    text = "\n\n".join(["## A", *images([(name, "a <b> & *c*")]), "after"])
    shown = Shown(html_of(text, [name], tmp_path))
    assert shown.of("figcaption") == ["a <b> & *c*"] and shown.of("title") == ["small: report", "a <b> & *c*"]
    assert shown.of("p") == ["verdict", "after"] and ("svg", "img") in [(tag, attrs.get("role")) for tag, attrs in shown.tags]


def test_pictures_stop_before_the_page_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [drawn(tmp_path, f"{k}.svg", 0.7) for k in range(3)]
    monkeypatch.setattr("thrifty.report.page.MOST_BYTES", int(2.5 * len(inline_picture(tmp_path / "0.svg", "x"))))
    text = html_of("\n\n".join(["## A", *images([(name, "x") for name in names])]), names, tmp_path)
    assert text.count("<svg") == 2 and "<code>2.svg</code> beside it" in text and "<code>1.svg" not in text


def test_only_numbers_stand_to_the_right() -> None:
    rows = [["x", "1.5", "-0.1 to +2.0", "b10_w8, noise 1.25", "–"], ["y", "–", "< 0.0001", "mean", "12 px"]]
    shown = Shown(html_of("## A\n\n" + table(["a", "b", "c", "d", "e"], rows)))
    heads = [attrs for tag, attrs in shown.tags if tag == "th" and attrs["scope"] == "col"]
    assert [attrs.get("class") for attrs in heads] == ["short", "number", "number", "short", "number"]


@pytest.mark.parametrize("searched", [False, True])
def test_a_run_that_has_only_begun_has_a_page_too(tmp_path: Path, searched: bool) -> None:
    study = make_study()
    run = open_run(tmp_path / "run", study)
    if searched:
        write_searches(run)
    run_stage(study, run)
    shown = Shown(run.page.read_text(encoding="utf-8"))
    assert any("so there is no verdict" in text for text in shown.cells)
    assert len(shown.of("svg")) == (1 if searched else 0) and len(shown.of("figure")) == len(shown.of("svg"))
    assert shown.of("h2")[-1] == "How to repeat it" and any("thrifty run small.yaml" in text for text in shown.of("code"))
