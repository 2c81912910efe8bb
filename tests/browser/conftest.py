"""Fixtures of the browser tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import sync_playwright

from browser.pages import Chromium, Web, missing
from support import ROOT, run


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    """Debian's Chromium, and the libraries of the pages. One for each file: while it is there Playwright keeps a loop
    running in this thread, and other tests want to start their own."""
    built = run("sh", ROOT / "web/build", check=False, timeout=240)
    if built.returncode:
        missing(built.stderr)
    with sync_playwright() as playwright:
        chromium = Chromium(playwright)
        yield chromium
        chromium.browser.close()


@pytest.fixture
def web() -> Iterator[Callable[..., Web]]:
    """Starts `via6 web` with these words; ends it, and looks at what it said."""
    running: list[Web] = []

    def start(*words: object, port: int = 0) -> Web:
        running.append(Web(*words, port=port))
        return running[-1]

    yield start
    said = "".join(one.close() for one in running)
    assert "Traceback" not in said, said
