"""A headless Chromium that may ask nobody for anything. `THRIFTY_CHROMIUM` names its program, otherwise it is looked for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--no-first-run", "--disable-quic")  # fmt: skip
PATIENCE_MS = 120_000  # for machines that do other things meanwhile


def program() -> str:
    """The test skips where there is none, unless THRIFTY_NEEDS_CHROMIUM is set, as .ci/run does."""
    found = os.environ.get("THRIFTY_CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None and os.environ.get("THRIFTY_NEEDS_CHROMIUM"):
        pytest.fail("THRIFTY_NEEDS_CHROMIUM is set and there is no Chromium: apt-get install chromium")
    if found is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium, or set THRIFTY_CHROMIUM to its program")
    return found


@dataclass
class Opened:
    """A page with what it said on the console and what it asked for beside itself."""

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@contextmanager
def chromium() -> Iterator[Any]:
    where = program()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=where, args=list(QUIET), timeout=PATIENCE_MS)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, path: Path, width: int = 1200, height: int = 900, **context: Any) -> Iterator[Opened]:
    """The file in a window of `width` x `height` CSS pixels. Requests to a network are recorded and refused."""
    surroundings = browser.new_context(viewport={"width": width, "height": height}, **context)
    surroundings.set_default_timeout(PATIENCE_MS)
    page = surroundings.new_page()
    found = Opened(page)
    page.on("console", lambda message: found.said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: found.said.append(str(error)))
    url = path.as_uri()
    page.on("request", lambda request: None if request.url.startswith(("data:", url)) else found.asked.append(request.url))
    page.route("http*://**/*", lambda route: route.abort())
    page.goto(url)
    yield found
    surroundings.close()
