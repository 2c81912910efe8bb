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
        assert "The doctor finds" in page.inner_text("#summary.bad")
        assert fits(page)
        page.evaluate("() => scrollTo(0, 0)")
        browser.keep(page, f"path-{name}")
        assert faults_of_access(page) == []
        page.evaluate("() => document.getElementById('nodes-title').scrollIntoView()")
        browser.keep(page, f"tables-{name}")


def test_a_failure_shows_where_the_packet_goes_then(ring: Web, browser: Chromium) -> None:
    with browser.page(ring) as page:
        drawn(page)
        ask(page, "10.3.0.1", "10.4.0.1")
        hops = page.locator("#answer .hops").first.locator("li")
        assert hops.locator(".hop a").all_inner_texts() == ["r3", "r4"]
        assert hops.first.locator(".via code").inner_text().startswith("fe80::")
        assert "10.4.0.0/24 via inet6 fe80::" in hops.first.locator(".route").inner_text()
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


def test_a_path_in_the_address_is_asked_for_once(ring: Web, browser: Chromium) -> None:
    """The events begin with the whole network, which is what the page has already."""
    ring.examined()
    with browser.page(ring) as page:
        asked: list[str] = []
        page.on("request", lambda one: "/api/trace" in one.url and asked.append(one.url))
        with page.expect_request("**/api/events"):
            page.goto(f"{ring.url}/?from=r3&to=10.4.0.1")
        page.wait_for_selector("#verdict:not([hidden])")
        until(page, lambda: not page.evaluate("() => window.via6.picture.flight.canvas"), "the end of the packet")
        assert len(asked) == 1


def test_each_failure_of_a_path(ring: Web, browser: Chromium) -> None:
    with browser.page(ring) as page:
        drawn(page)
        ask(page, "r3", "10.1.0.1")  # through r4; r2 drops what comes from r3
        nodes = page.locator("#answer .hops").first.locator(".hop a").all_inner_texts()
        page.click("#each-begin")
        until(page, lambda: page.locator("#each-answer .fate").count(), "all of them")
        rows = page.locator("#each-answer li")
        assert rows.count() == 2 * len(nodes) - 3  # its links, and the nodes between its ends
        assert (
            page.locator("#each-answer li.good").count() + page.locator("#each-answer li.bad").count() == rows.count()
        )
        assert page.inner_text("#each-answer .fate").startswith("It does not work now.")  # the answer is lost at r2
        browser.keep(page, "each-failure")
        rows.first.locator("button").click()
        until(page, lambda: "fails" in page.inner_text("#verdict"), "the path after the first of them")
        assert page.input_value("#fail") != ""
        assert lines(page, ".fails") >= 1
        assert lines(page, ".path.was") >= 1  # what it was without the failure
        assert rows.count() == 2 * len(nodes) - 3
        page.click("#fail-back")
        page.click("#clear")
        assert not page.is_visible("#each")
        assert lines(page, ".path") == 0


def test_words_do_not_lie_over_each_other(tmp_path: Path, web: Start, browser: Chromium) -> None:
    """Forty routers: all of them have their names on a large screen, and no name hides another."""
    graph = networkx.convert_node_labels_to_integers(networkx.circular_ladder_graph(20), first_label=1)
    server = web("--snapshots", put(tmp_path / "forty", big_network(graph)))
    placed = """() => window.via6.picture.labels.placed.map(({ box, label }) =>
      [label.lines[0].text, label.rank, box.x1, box.y1, box.x2, box.y2])"""
    for size in (DESKTOP, PHONE):
        with browser.page(server, "/", size) as page:
            drawn(page)
            until(page, lambda page=page: page.evaluate(placed), "the words")
            words = page.evaluate(placed)
            names = {one[0] for one in words}
            if size == DESKTOP:
                assert names >= {f"r{n}" for n in range(1, 41)}
            quiet = [one for one in words if one[1] > 2]  # what is wrong is written in any case
            for n, (text, _, x1, y1, x2, y2) in enumerate(quiet):
                for other, _, u1, v1, u2, v2 in quiet[n + 1 :]:
                    assert not (x1 < u2 and u1 < x2 and y1 < v2 and v1 < y2), (text, other)
            browser.keep(page, f"forty-{'desktop' if size == DESKTOP else 'phone'}")


# Networks by chance (the same ones every time): loops of a node with itself, parts, shared links, islands of anybody.
PLACES = """async () => {
  const { arrange } = await import("/static/js/layout.js");
  const { sceneOf } = await import("/static/js/scene.js");
  let seed = 6;
  const chance = () => (seed = (seed * 1103515245 + 12345) & 0x7fffffff) / 0x7fffffff;
  const upTo = (most) => Math.floor(chance() * most);
  const faults = [];
  for (let round = 0; round < 300; round++) {
    const nodes = Array.from({ length: 1 + upTo(14) }, (_, n) => {
      const software = chance() < 0.05 ? "link" : "";
      const kind = software ? "unknown" : ["router", "host", "unknown"][upTo(2.3)];
      return { id: `n${n}`, name: `n${n}`, kind, software };
    });
    const any = () => nodes[upTo(nodes.length)];
    const links = Array.from({ length: upTo(20) }, (_, n) => ({
      id: `l${n}`, a: { node: any().id, dev: "" }, b: { node: any().id, dev: "" }, ipv4: chance() < 0.3,
    }));
    const islands = Array.from({ length: upTo(5) }, (_, n) => ({
      id: `i${n}`, prefix: "", nodes: [...new Set([any(), any()].filter((one) => !one.software).map((one) => one.id))],
    }));
    const scene = sceneOf({ nodes, links, islands });
    const ids = scene.elements.filter((one) => one.group === "nodes").map((one) => one.data.id);
    const lines = scene.elements.filter((one) => one.group === "edges").map((one) => one.data);
    const edges = lines.map((one) => [one.source, one.target]);
    const places = [...arrange(ids, edges, chance() < 0.5 ? 1.5 : 0.5, scene.minor).values()];
    const bad = places.some(({ x, y }, n) => !Number.isFinite(x + y)
      || places.slice(n + 1).some((other) => Math.hypot(x - other.x, y - other.y) < 8));
    if (bad || places.length !== ids.length) faults.push({ round, nodes, links, islands });
  }
  return faults;
}"""


def test_any_network_has_places_for_all(ring: Web, browser: Chromium) -> None:
    with browser.page(ring) as page:
        assert page.evaluate(PLACES) == []


def test_a_packet_flies_unless_motion_is_not_wanted(ring: Web, browser: Chromium) -> None:
    flying = "() => window.via6.picture.flight.canvas !== null"
    for motion in ("no-preference", "reduce"):
        with browser.page(ring, reduced_motion=motion) as page:
            drawn(page)
            page.fill("#from", "r3")
            page.fill("#to", "10.4.0.1")
            page.click("#path button.main")
            if motion == "reduce":
                until(page, lambda page=page: lines(page, ".path"), "the path")
                assert not page.evaluate(flying)
            else:
                until(page, lambda page=page: page.evaluate(flying), "the packet")
                until(page, lambda page=page: not page.evaluate(flying), "its end")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_no_page_keeps_anybody_out(ring: Web, browser: Chromium, size: tuple[int, int]) -> None:
    """What axe-core says of each page in both schemes; the network's own, with a path, and a desktop have theirs."""
    name = "desktop" if size == DESKTOP else "phone"
    ring.examined()
    kinds = ("node", "glass", "refusal")
    pages = ("/nodes/r2?match=10.4.0.77", "/glass?node=r3&match=10.4.0.77", "/nodes/none")
    with browser.page(ring, pages[0], size) as page:
        page.expected = ["404"]  # type: ignore[attr-defined]
        for n, path in enumerate(pages):
            page.goto(ring.url + path)
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                assert faults_of_access(page) == [], (path, scheme)
                assert fits(page), path
                browser.keep(page, f"{kinds[n]}-{name}-{scheme}")


def test_who_has_no_token_is_asked_for_it(tmp_path: Path, web: Start, browser: Chromium) -> None:
    token = tmp_path / "token"
    token.write_text("a-long-token-of-the-test\n")
    token.chmod(0o600)
    server = web("--token", token, "--snapshots", put(tmp_path / "ring", verify_support.network(RING).values()))
    with browser.page(server, "/nodes/r2", PHONE) as page:
        page.expected = ["401"]  # type: ignore[attr-defined]
        assert page.evaluate("() => document.styleSheets.length") == 1  # it looks like a page of ours
        assert "ring" not in page.inner_text("body")
        assert "r2" not in page.inner_text("body")
        assert faults_of_access(page) == []
        browser.keep(page, "token-phone")
        page.fill("input[name=token]", "wrong")
        page.press("input[name=token]", "Enter")
        page.wait_for_selector("text=this is not the token")
        page.fill("input[name=token]", "a-long-token-of-the-test")
        page.click("button[type=submit]")
        page.wait_for_selector("#routes tbody tr")
        assert page.url == f"{server.url}/nodes/r2"


def test_fingers_find_what_they_touch(ring: Web, browser: Chromium) -> None:
    """On a phone no button or field is lower than 40 pixels, and a node that is touched says what it is."""
    small = """() => [...document.querySelectorAll("button, input:not([type=range], [type=checkbox]), select, .top a")]
      .filter((one) => one.checkVisibility() && one.getBoundingClientRect().height < 40).map((one) => one.outerHTML)"""
    with browser.page(ring, "/", PHONE) as page:
        drawn(page)
        ask(page, "r3", "10.4.0.1")
        at = page.evaluate("""() => {
          const place = document.getElementById("picture");
          place.scrollIntoView();
          const { x, y } = window.via6.picture.cy.getElementById("n r3").renderedPosition();
          const box = place.getBoundingClientRect();
          return [box.x + x, box.y + y];
        }""")
        page.touchscreen.tap(*at)
        until(page, lambda: "r3" in page.inner_text("#about"), "the node that was touched")
        assert page.evaluate(small) == []
        page.goto(f"{ring.url}/nodes/r2")
        assert page.evaluate(small) == []


def test_problems_and_their_remedies(ring: Web, browser: Chromium) -> None:
    with browser.page(ring.examined()) as page:
        drawn(page)
        # What the server says of the whole is what the scripts say.
        served = page.evaluate("""async () => {
          const text = await (await fetch("/", { headers: { Accept: "text/html" } })).text();
          return new DOMParser().parseFromString(text, "text/html").getElementById("summary").textContent;
        }""")
        assert " ".join(served.split()) == " ".join(page.inner_text("#summary").split())
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
        assert "Follows from: eth1 does not forward IPv4" in page.inner_text("#findings")
        assert page.locator("#neighbours tbody a").all_inner_texts() == ["r1", "r3"]
        assert page.locator("#interfaces tbody a").all_inner_texts() == ["r1", "r3"]
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
        browser.keep(page, f"search-{'desktop' if size == DESKTOP else 'phone'}")


def test_without_scripts(ring: Web, browser: Chromium) -> None:
    with browser.page(ring.examined(), "/?from=r3&to=10.4.0.1", java_script_enabled=False) as page:
        assert page.locator("#nodes tbody tr").count() == 4
        assert page.locator("#links tbody tr").count() == 4
        assert page.locator("#islands tbody tr").count() == 4
        assert page.locator("#answer .hops li").count() >= 2
        assert "The doctor finds" in page.inner_text("#summary")
        assert "only with scripts" in page.inner_text("#live") or "not live" in page.inner_text("#live")
        browser.keep(page, "without-scripts")
        page.click("#nodes a >> text=r2")
        assert "forwarding" in page.inner_text("#findings")
        page.fill("#match", "10.4.0.77")
        page.press("#match", "Enter")
        assert "10.4.0.0/24" in page.inner_text("#longest")
        page.goto(ring.url + "/?from=r3&to=r4")
        assert page.locator("#answer .hops li").count() >= 2
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
