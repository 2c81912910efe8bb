"""The pages of `via6 web` in Chromium, on snapshots: picture, path, failures, a node, the looking glass; without
scripts, with the keyboard, on a phone, in the dark, with hostile names, and with 500 nodes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx
import pytest

import verify_support
from browser.pages import DESKTOP, PHONE, Chromium, Web, big_network, drawn, faults_of_access, fits, lines, put, until

Start = Callable[..., Web]

RING = [("r1", "r2"), ("r2", "r3"), ("r3", "r4"), ("r4", "r1")]
HOSTILE = (
    '"><script>alert(1)</script>',
    "r'2\" onmouseover=alert(2)",
    "\u202eevil \u05e9\u05dc\u05d5\u05dd",
    "x" * 300,
)


@pytest.fixture
def ring(tmp_path: Path, web: Start) -> Web:
    """Four routers in a ring, each with an island; r2 does not forward on eth1, and the doctor knows."""
    nodes = verify_support.network(RING, babel=True)
    nodes["r2"] = verify_support.set_sysctl(nodes["r2"], eth1__forwarding=0)
    return web("--snapshots", put(tmp_path / "ring", nodes.values()))


def ask(page: Any, start: str, end: str) -> None:
    page.fill("#from", start)
    page.fill("#to", end)
    page.click("#path button.main")
    page.wait_for_selector("#verdict:not([hidden])")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_network(ring: Web, browser: Chromium, size: tuple[int, int], scheme: str) -> None:
    name = f"{'desktop' if size == DESKTOP else 'phone'}-{scheme}"
    with browser.page(ring, "/", size, scheme) as page:
        drawn(page)
        assert lines(page, ".router, .unknown-kind") == 4
        assert lines(page, ".island") == 4
        assert lines(page, ".ipv6") == 4
        browser.keep(page, f"network-{name}")
        ask(page, "r3", "10.4.0.1")
        assert lines(page, ".path.there") >= 1
        assert lines(page, ".path.back") >= 1
        assert page.locator("#answer .hops").first.inner_text().count("10.4.0") >= 1
        until(page, lambda: page.locator("#finding-counts details").count(), "the doctor's findings")
        assert fits(page)
        page.evaluate("() => scrollTo(0, 0)")
        browser.keep(page, f"path-{name}")
        assert faults_of_access(page) == []
        page.evaluate("() => document.getElementById('nodes-title').scrollIntoView()")
        browser.keep(page, f"tables-{name}")


def test_a_failure_shows_where_the_packet_goes_then(ring: Web, browser: Chromium) -> None:
    with browser.page(ring) as page:
        drawn(page)
        ask(page, "r3", "10.4.0.1")
        link = next(
            one["id"] for one in ring.api("network")["links"] if {one["a"]["node"], one["b"]["node"]} == {"r3", "r4"}
        )
        page.select_option("#fail", link)
        until(page, lambda: "fails" in page.inner_text("#verdict"), "the verdict after a failure")
        assert lines(page, ".fails") >= 1
        # By the slider, with the keyboard, back to nothing.
        page.focus("#fail-slider")
        page.keyboard.press("Home")
        until(page, lambda: "fails" not in page.inner_text("#verdict"), "the verdict without a failure")
        assert page.input_value("#fail") == ""
        assert lines(page, ".fails") == 0


def test_problems_and_their_remedies(ring: Web, browser: Chromium) -> None:
    with browser.page(ring) as page:
        drawn(page)
        finding = page.locator("#finding-counts details", has_text="forward").first
        finding.locator("summary").click()
        assert "forwarding" in finding.locator(".remedy").inner_text()
        page.click("#verify")
        page.wait_for_selector("#verify-answer .problems li")
        problem = page.locator("#verify-answer .problems li").first
        problem.locator("button").click()
        until(page, lambda: page.locator("#verdict.bad").count(), "the packet of the problem")
        browser.keep(page, "problem")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_node(ring: Web, browser: Chromium, size: tuple[int, int]) -> None:
    with browser.page(ring, "/nodes/r2", size) as page:
        assert "forwarding" in page.locator(".finding .remedy").first.inner_text()
        page.fill("#match", "10.4.0.77")
        until(page, lambda: "10.4.0.0/24" in page.inner_text("#longest"), "the longest match")
        assert page.locator("#routes tr.chosen").count() >= 1
        page.fill("#match", "10.4.0.777")
        page.expected = ["400"]  # type: ignore[attr-defined]  # the browser's console tells of the refusal
        page.press("#match", "Enter")
        page.wait_for_selector("#route-error .notice")
        page.fill("#match", "fe80::1")
        until(page, lambda: page.input_value("#family") == "6", "the IPv6 table")
        assert fits(page)
        assert faults_of_access(page) == []
        page.evaluate("() => scrollTo(0, 0)")
        browser.keep(page, f"node-{'desktop' if size == DESKTOP else 'phone'}")


def test_without_scripts(ring: Web, browser: Chromium) -> None:
    with browser.page(ring.examined(), "/?from=r3&to=10.4.0.1", java_script_enabled=False) as page:
        assert page.locator("#nodes tbody tr").count() == 4
        assert page.locator("#links tbody tr").count() == 4
        assert page.locator("#islands tbody tr").count() == 4
        assert page.locator("#answer .hops li").count() >= 2
        browser.keep(page, "without-scripts")
        page.click("#nodes a >> text=r2")
        assert "forwarding" in page.inner_text("#findings")
        page.fill("#match", "10.4.0.77")
        page.press("#match", "Enter")
        assert "10.4.0.0/24" in page.inner_text("#longest")
        page.goto(ring.url + "/glass?node=r3&match=10.4.0.77")
        assert "10.4.0.0/24" in page.inner_text("main")


def test_with_the_keyboard_alone(ring: Web, browser: Chromium) -> None:
    with browser.page(ring) as page:
        drawn(page)
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("() => document.activeElement.id") == "picture":
                break
        else:
            pytest.fail("Tab does not reach the picture")
        page.keyboard.press("ArrowRight")
        first = page.inner_text("#about a")
        page.fill("#from", "")
        page.fill("#to", "")
        page.focus("#picture")
        page.keyboard.press("f")
        assert page.input_value("#from") == first
        page.focus("#picture")
        for key in ("ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp"):
            page.keyboard.press(key)
            if page.inner_text("#about a") != first:
                break
        assert page.inner_text("#about a") != first
        page.keyboard.press("t")
        page.wait_for_selector("#verdict:not([hidden])")
        page.focus("#picture")
        with page.expect_navigation():
            page.keyboard.press("Enter")
        assert "/nodes/" in page.url


def test_the_looking_glass(ring: Web, browser: Chromium) -> None:
    with browser.page(ring, "/glass") as page:
        drawn(page)
        page.select_option("#lookup select", "r3")
        page.fill("#lookup input", "10.4.0.77")
        page.press("#lookup input", "Enter")
        until(page, lambda: "10.4.0.0/24" in page.inner_text("main"), "the route")
        drawn(page)
        assert faults_of_access(page) == []
        browser.keep(page, "glass")


def test_hostile_names(tmp_path: Path, web: Start, browser: Chromium) -> None:
    nodes = verify_support.network(RING, babel=True)
    named = [replace(node, name=name) for node, name in zip(nodes.values(), HOSTILE, strict=True)]
    named[1] = verify_support.set_sysctl(named[1], eth1__forwarding=0)
    server = web("--snapshots", put(tmp_path / "hostile", named))
    ids = [node["id"] for node in server.api("network")["nodes"]]
    with browser.page(server, "/", PHONE) as page:
        drawn(page)
        assert page.locator("main script").count() == 0
        assert fits(page)
        ask(page, HOSTILE[2], "10.4.0.1")
        assert page.locator("main script, [onmouseover]").count() == 0
        assert fits(page)
        browser.keep(page, "hostile-phone")
        for one in ids:
            page.goto(f"{server.url}/nodes/{one}")
            page.wait_for_selector("#routes tbody tr")
            assert page.locator("main script, [onmouseover]").count() == 0
            assert fits(page)
    with browser.page(server) as page:
        drawn(page)
        browser.keep(page, "hostile-desktop")


def test_500_nodes(tmp_path: Path, web: Start, browser: Chromium) -> None:
    grid = networkx.convert_node_labels_to_integers(networkx.grid_2d_graph(20, 25), first_label=1)
    server = web("--snapshots", put(tmp_path / "big", big_network(grid)))
    began = time.monotonic()
    with browser.page(server) as page:
        drawn(page)
        browser.keep(page, "500-nodes")
        assert lines(page, ".router, .unknown-kind") == 500
        assert time.monotonic() - began < 60
        page.fill("#find", "r333")
        until(page, lambda: "r333" in page.inner_text("#about"), "the node that was looked for")
        page.click("#zoom-in")
        assert fits(page)
