"""A desktop behind IPv6-only routers, in Chromium: its picture is there, a key that is typed arrives, and when the
connection breaks the page says so and comes back."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from browser.pages import PHONE, Chromium, Web, faults_of_access, fits, until
from support import PREFIX, run, via6
from via6.lab import state

pytestmark = pytest.mark.root

Start = Callable[..., Web]

LAB = """
[lab]
name = "NAME"
[router.r1]
lan = "10.1.0.0/24"
[router.r2]
[router.r3]
lan = "10.3.0.0/24"
[host.h1]
router = "r1"
[host.h3]
router = "r3"
desktop = "vnc"
[[link]]
ends = ["r1", "r2"]
[[link]]
ends = ["r2", "r3"]
"""

# How many different colours are on the screen, and how much of it is white.
COLOURS = """() => {
  const canvas = document.querySelector("#screen canvas");
  if (!canvas || !canvas.width) return [0, 0];
  const copy = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
  const context = copy.getContext("2d", { willReadFrequently: true });
  context.drawImage(canvas, 0, 0);
  const data = context.getImageData(0, 0, copy.width, copy.height).data;
  const seen = new Set();
  let white = 0;
  for (let at = 0; at < data.length; at += 4) {
    const colour = (data[at] << 16) | (data[at + 1] << 8) | data[at + 2];
    seen.add(colour);
    white += colour === 0xffffff;
  }
  return [seen.size, white / (data.length / 4)];
}"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[state.LabState]:
    name = PREFIX + "screen"
    file = tmp_path / "screen.toml"
    file.write_text(LAB.replace("NAME", name))
    try:
        code, out, err = via6("lab", "up", file, timeout=120)
        assert code == 0, out + err
        found = state.read(name)
        assert found is not None
        yield found
    finally:
        via6("lab", "down", name)


def home(node: str) -> Path:
    """The home directory that the desktop of a node sees."""
    for pid in run("ip", "netns", "pids", node).stdout.split():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text() in ("Xvnc\n", "Xtigervnc\n"):
                return Path(f"/proc/{pid}/root/tmp/home")
    raise AssertionError(f"no Xvnc in {node}")


def terminal(page: Any) -> bool:
    colours, white = page.evaluate(COLOURS)
    return colours > 8 and white > 0.1


def test_a_desktop(lab: state.LabState, web: Start, browser: Chromium) -> None:
    server = web("--lab", lab.name)
    assert [one["name"] for one in server.api("desktops")] == ["h3"], json.dumps(server.api("desktops"))
    with browser.page(server) as page:
        page.click("nav >> text=Desktop h3")
        until(page, lambda: page.inner_text("#connection") == "connected", "the connection")
        until(page, lambda: terminal(page), "a picture with a terminal")
        page.click("#screen canvas")
        page.keyboard.type("echo 'seen & done' >typed\n")
        typed = home(lab.nodes["h3"]) / "typed"
        until(page, lambda: typed.exists() and typed.read_text() == "seen & done\n", "what was typed")
        browser.keep(page, "desktop")
        assert faults_of_access(page) == []
        # The keyboard comes back to the page.
        page.keyboard.press("Control+Alt+Shift+a")
        assert page.evaluate("() => document.activeElement.id") == "fullscreen"
        page.uncheck("#scale")
        assert fits(page)
    with browser.page(server, "/desktops/h3", PHONE) as page:
        until(page, lambda: terminal(page), "a picture with a terminal")
        assert fits(page)
        browser.keep(page, "desktop-phone")
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert faults_of_access(page) == []


def test_a_connection_that_breaks(lab: state.LabState, web: Start, browser: Chromium) -> None:
    server = web("--lab", lab.name)
    with browser.page(server, "/desktops/h3") as page:
        until(page, lambda: page.inner_text("#connection") == "connected", "the connection")
        page.expected = ["WebSocket", "ERR_", "Connection closed"]  # type: ignore[attr-defined]  # what the browser and noVNC say
        server.close()
        until(page, lambda: "again in" in page.inner_text("#connection"), "the words")
        assert page.is_disabled("#cad")
        web("--lab", lab.name, port=server.port)
        until(page, lambda: page.inner_text("#connection") == "connected", "the connection again", timeout=40)
        until(page, lambda: terminal(page), "the picture again")
