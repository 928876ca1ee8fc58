"""report.md as one self-contained page: the same text, so that the two cannot disagree, with the pictures in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from thrifty.report.inline import inline_picture

if TYPE_CHECKING:
    from markdown_it.token import Token

MOST_BYTES = 4_500_000
"""Of pictures: with text and tables the page stays below 5 MB. What does not fit is named."""
SHORT = 28
"""Characters up to which a cell is not broken into lines."""
NUMERIC = re.compile(r"^(–|[<+-]?\s?\d.*)?$")


@dataclass(frozen=True)
class Section:
    """A heading of level 2 and what is below it, as HTML; of the beginning of the report `title` is that of the report."""

    anchor: str
    title: str
    html: str


def page(text: str, pictures: Iterable[str], folder: Path) -> str:
    """
    Args:
        text: of report.md; HTML in it is shown as text, and links are not followed.
        pictures: names of the files in `folder` that it may show.
        folder: where they are.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("thrifty.report", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    first, *sections = sections_of(text, _Pictures(frozenset(pictures), folder))
    return environment.get_template("page.html").render(title=first.title, verdict=first.html, sections=sections)


def sections_of(text: str, pictures: _Pictures) -> list[Section]:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.disable(["link", "autolink", "reference", "html_inline", "html_block", "entity"])
    groups: list[tuple[str, list[Token]]] = []
    tokens = iter(parser.parse(text))
    for token in tokens:
        if token.type == "heading_open" and token.tag in ("h1", "h2"):
            groups.append((_plain(next(tokens)), []))
            next(tokens)
        else:
            groups[-1][1].append(token)
    found = []
    for number, (title, body) in enumerate(groups):
        shown = _tables(_figures(body, pictures), title)
        found.append(Section(f"s{number}", title, parser.renderer.render(shown, parser.options, {})))
    return found


def _plain(inline: Token) -> str:
    return "".join(child.content for child in inline.children or [])


class _Pictures:
    """Pictures as HTML, as long as there is room."""

    def __init__(self, names: frozenset[str], folder: Path) -> None:
        self.names, self.folder, self.left = names, folder, MOST_BYTES

    def figure(self, name: str, caption: str) -> str:
        shown = inline_picture(self.folder / name, caption) if name in self.names else ""
        if not shown or len(shown) > self.left:
            shown = f"<p>Not in this page, to keep it small: <code>{escape(name)}</code> beside it.</p>" if shown else ""
        self.left -= len(shown)
        kind = "drawing" if name.endswith(".svg") else "photo"
        region = f'<div class="scroll {kind}" role="region" aria-label="{escape(caption)}" tabindex="0">{shown}</div>'
        return f"<figure>{region if shown else ''}<figcaption>{escape(caption)}</figcaption></figure>\n"


def _figures(tokens: Sequence[Token], pictures: _Pictures) -> list[Token]:
    """Paragraphs that are a picture become figures; the paragraph below it that says the same once more goes."""
    shown: list[Token] = []
    skip: str | None = None
    place = 0
    while place < len(tokens):
        token = tokens[place]
        inline = tokens[place + 1] if token.type == "paragraph_open" else None
        children = inline.children or [] if inline else []
        if len(children) == 1 and children[0].type == "image":
            caption = _plain(children[0])
            shown.append(_html(pictures.figure(unquote(str(children[0].attrs["src"])), caption)))
            skip, place = caption, place + 3
        elif inline and skip is not None and _plain(inline) == skip:
            skip, place = None, place + 3
        else:
            _without_images(token)
            shown.append(token)
            place += 1
    return shown


def _without_images(token: Token) -> None:
    """A picture within a line is no picture of ours: its text is shown."""
    for child in token.children or []:
        if child.type == "image":
            child.type, child.content, child.children = "text", _plain(child), None


def _html(content: str) -> Token:
    from markdown_it.token import Token

    return Token("html_block", "", 0, content=content)


def _tables(tokens: Sequence[Token], title: str) -> list[Token]:
    """Tables in boxes that scroll, with heads that say what they are heads of, and numbers to the right."""
    shown: list[Token] = []
    number = 0
    place = 0
    while place < len(tokens):
        if tokens[place].type != "table_open":
            shown.append(tokens[place])
            place += 1
            continue
        end = next(k for k in range(place, len(tokens)) if tokens[k].type == "table_close") + 1
        number += 1
        _mark_cells(tokens[place:end])
        label = escape(f"{title}, table {number}")
        shown.append(_html(f'<div class="scroll" role="region" aria-label="{label}" tabindex="0">\n'))
        shown += [*tokens[place:end], _html("</div>\n")]
        place = end
    return shown


def _kind(cells: Sequence[str]) -> str:
    if all(NUMERIC.match(cell) for cell in cells):
        return "number"
    return "short" if all(len(cell) <= SHORT for cell in cells) else ""


def _mark_cells(table: Sequence[Token]) -> None:
    rows: list[list[tuple[Token, Token, Token]]] = []
    for k, token in enumerate(table):
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("th_open", "td_open"):
            rows[-1].append((token, table[k + 1], table[k + 2]))
    for column in zip(*rows, strict=True):
        kind = _kind([_plain(inline) for _, inline, _ in column[1:]])
        for begin, _, _ in column:
            begin.attrs = {"class": kind} if kind else {}
            if begin.type == "th_open":
                begin.attrs["scope"] = "col"
    for begin, _, end in (row[0] for row in rows[1:]):
        begin.tag = end.tag = "th"
        begin.attrs["scope"] = "row"
