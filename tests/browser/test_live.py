"""A lab that is up, seen in Chromium: a cut link turns red, the path that is shown moves, a repair shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from browser.pages import Chromium, Web, drawn, faults_of_access, lines, until
from support import PREFIX, leftover_namespaces, run, via6
from via6.lab import state

pytestmark = pytest.mark.root

Start = Callable[..., Web]

RING = """
[lab]
name = "NAME"
[router.r1]
lan = "10.1.0.0/24"
[router.r2]
[router.r3]
lan = "10.3.0.0/24"
[router.r4]
[host.h1]
router = "r1"
[host.h3]
router = "r3"
[[link]]
ends = ["r1", "r2"]
[[link]]
ends = ["r2", "r3"]
[[link]]
ends = ["r3", "r4"]
[[link]]
ends = ["r4", "r1"]
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    name = PREFIX + "web"
    file = tmp_path / "ring.toml"
    file.write_text(RING.replace("NAME", name))
    try:
        code, out, err = via6("lab", "up", file, timeout=120)
        assert code == 0, out + err
        yield name
    finally:
        with state.lock():
            for one in state.read_all():
                if one.name == name:
                    state.remove(one)
    assert not leftover_namespaces()


def test_a_cut_link_turns_red_and_the_path_moves(lab: str, web: Start, browser: Chromium) -> None:
    server = web("--lab", lab)
    with browser.page(server) as page:
        drawn(page)
        until(page, lambda: page.inner_text("#live") == "live", "the events")
        page.fill("#from", "h1")
        page.fill("#to", "h3")
        page.click("#path button.main")
        until(page, lambda: page.locator("#verdict.good").count(), "the path", timeout=60)
        nodes = [one.split()[-1] for one in page.locator("#answer .hops").first.locator(".hop a").all_inner_texts()]
        middle = "r2" if "r2" in nodes else "r4"
        other = "r4" if middle == "r2" else "r2"
        browser.keep(page, "live-before")

        device = _device(server, "r1", middle)
        there = state.read(lab)
        assert there is not None
        began = time.monotonic()
        run("ip", "-n", there.nodes["r1"], "link", "set", device, "down")
        until(page, lambda: lines(page, "edge.down"), "the red line")
        print(f"red {time.monotonic() - began:.2f} s after `ip link set down` began")
        until(page, lambda: lines(page, ".path.was"), "what the path was")
        until(page, lambda: page.locator("#links .state.down").count(), "the table's row")
        assert f"The link r1 to {middle} is down." in page.inner_text("#summary.bad")
        until(page, lambda: f"{other}" in page.locator("#answer .hops").first.inner_text(), "the new path", timeout=30)
        until(page, lambda: "down" in page.inner_text("#timeline"), "the timeline")
        until(page, lambda: "now goes" in page.inner_text("#timeline"), "the timeline's line about the path")
        until(page, lambda: "route" in page.inner_text("#timeline"), "the timeline's line about routes")
        assert page.locator("#timeline .kind", has_text="route").count() <= 3  # a burst has one line
        browser.keep(page, "live-cut")

        run("ip", "-n", there.nodes["r1"], "link", "set", device, "up")
        until(page, lambda: not lines(page, "edge.down"), "the repair", timeout=30)
        until(page, lambda: not lines(page, ".path.was"), "the end of what the path was")
        browser.keep(page, "live-mended")
    with browser.page(server, "/nodes/r1") as page:
        until(page, lambda: device in page.inner_text("#timeline"), "the node's timeline")


def test_the_server_goes_and_comes_back(lab: str, web: Start, browser: Chromium) -> None:
    server = web("--lab", lab)
    with browser.page(server) as page:
        page.expected = ["ERR_", "Failed to load"]  # type: ignore[attr-defined]  # what the browser says of a server that is gone
        until(page, lambda: page.inner_text("#live") == "live", "the events")
        server.close()
        until(page, lambda: "no connection" in page.inner_text("#live"), "the words")
        web("--lab", lab, port=server.port)
        until(page, lambda: page.inner_text("#live") == "live", "the events again", timeout=30)


def test_a_link_is_cut_and_mended_in_the_picture(
    lab: str, tmp_path: Path, web: Start, browser: Chromium
) -> None:  # fmt: skip
    token = tmp_path / "token"
    token.write_text("a-long-token-of-the-test")
    token.chmod(0o600)
    server = web("--lab", lab, "--allow-changes", "--token", token)
    with browser.page(server, f"/?token={token.read_text()}") as page:
        drawn(page)
        page.wait_for_selector("#deeds-link")
        link = page.evaluate("""() => {
          const line = window.via6.picture.cy.elements("edge.ipv6")[0];
          line.select();
          return line.data("link");
        }""")
        assert "up, IPv6 only" in page.inner_text("#about")
        assert page.locator("#about button").all_inner_texts() == ["What if it fails?", "Cut it"]
        assert faults_of_access(page) == []
        page.click("#about button >> text=Cut it")
        until(page, lambda: lines(page, "edge.down"), "the red line")
        until(page, lambda: "Mend it" in page.inner_text("#about"), "the other button")
        until(page, lambda: "is down" in page.inner_text("#finding-counts"), "what is wrong")
        browser.keep(page, "deeds-cut")
        page.click("#about button >> text=Mend it")
        until(page, lambda: not lines(page, "edge.down"), "the repair")
        until(page, lambda: "is down" not in page.inner_text("#finding-counts"), "that it is not wrong any more")
        page.click("#about button >> text=What if it fails?")
        until(page, lambda: "fails" in page.inner_text("#verdict"), "where the suggested packet would go")
        assert page.input_value("#fail") == link


def _device(server: Web, a: str, b: str) -> str:
    for link in server.api("network")["links"]:
        ends = {link["a"]["node"]: link["a"]["dev"], link["b"]["node"]: link["b"]["dev"]}
        if set(ends) == {a, b}:
            return str(ends[a])
    raise AssertionError(f"no link from {a} to {b}")
