"""What the browser tests share: a running `via6 web`, Debian's Chromium, and pages that must not complain.

def test_it(web, browser):
    server = web("--snapshots", folder)
    with browser.page(server, "/") as page:      # fails at the end if the page had an error or asked elsewhere
        page.click("text=Show the path")
        browser.keep(page, "path")               # .cache/screenshots/path.png
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import networkx
import pytest
from playwright.sync_api import Browser, Error, Page, Playwright

from support import ROOT, wait_until
from verify_support import RULES, UP, link_local
from via6.model import (
    IFF_LOOPBACK,
    PARTS,
    PROTO_KERNEL,
    InterfaceAddress,
    Link,
    NextHop,
    Route,
    RouteTable,
    Snapshot,
)
from via6.observe.node import Node
from via6.observe.snapshot import encode_all
from via6.prefix import Prefix

DESKTOP = (1440, 900)
PHONE = (390, 844)
SCREENSHOTS = Path(os.environ.get("VIA6_ARTEFACTS") or ROOT / ".cache/screenshots")
AXE = ROOT / ".cache/web/axe.min.js"


def missing(reason: str) -> None:
    """As root everything can be installed (scripts/test-tools), so what is missing is a fault."""
    if os.geteuid() == 0:
        pytest.fail(reason)
    pytest.skip(reason)


class Web:
    """`via6 web`, running."""

    def __init__(self, *words: object, port: int = 0) -> None:
        with socket.create_server(("127.0.0.1", port)) as probe:
            port = probe.getsockname()[1]
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        argv = [sys.executable, "-m", "via6", "web", "--listen", f"127.0.0.1:{port}", *map(str, words)]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        wait_until(self._answers, timeout=60, every=0.1, what="via6 web answers")

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()[0]
        try:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def api(self, path: str) -> Any:
        """JSON below /api."""
        with urllib.request.urlopen(f"{self.url}/api/{path}", timeout=30) as answer:
            return json.load(answer)

    def examined(self) -> Web:
        """Waits until the doctor has looked at all nodes."""
        wait_until(lambda: all(node["findings"] for node in self.api("network")["nodes"]), timeout=60, every=0.1)
        return self

    def close(self) -> str:
        """Ends it; what it said."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            said, _ = self.process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        return said


class Chromium:
    """One browser for all tests."""

    def __init__(self, playwright: Playwright) -> None:
        program = shutil.which("chromium")
        if program is None:
            missing("no chromium here; scripts/test-tools installs it")
        # Its own sandbox needs more than a container gives, and it sees pages of ours alone.
        self.browser: Browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])

    @contextlib.contextmanager
    def page(
        self, server: Web, path: str = "/", size: tuple[int, int] = DESKTOP, scheme: str = "light", **options: Any
    ) -> Iterator[Page]:
        """A page of the server. Fails at its end if it had an error, or asked any other machine."""
        if size[0] < 600:
            options |= {"is_mobile": True, "has_touch": True}
        viewport = {"width": size[0], "height": size[1]}
        context = self.browser.new_context(viewport=viewport, color_scheme=scheme, **options)
        context.set_default_timeout(15_000)
        page = context.new_page()
        complaints: list[str] = []
        loud = ("error", "warning")
        page.on("console", lambda said: said.type in loud and complaints.append(f"console: {said.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda asked: _is_ours(asked.url, server) or complaints.append(f"not ours: {asked.url}"))
        page.expected = []  # type: ignore[attr-defined]
        try:
            page.goto(server.url + path)
            yield page
            expected: list[str] = page.expected  # type: ignore[attr-defined]
            unexpected = [one for one in complaints if not any(word in one for word in expected)]
            assert not unexpected, unexpected
        finally:
            context.close()

    @staticmethod
    def keep(page: Page, name: str) -> None:
        """A screenshot, to be looked at."""
        picture = page.screenshot()
        with contextlib.suppress(OSError):  # a checkout that is not ours to write to
            SCREENSHOTS.mkdir(parents=True, exist_ok=True)
            (SCREENSHOTS / f"{name}.png").write_bytes(picture)


def _is_ours(url: str, server: Web) -> bool:
    return url.startswith((server.url, server.url.replace("http", "ws", 1), "data:", "blob:"))


def drawn(page: Page) -> None:
    """Waits until the picture is there."""
    page.wait_for_selector("#tools:not([hidden])")
    wait_until(lambda: page.evaluate("() => window.via6.picture.cy.nodes().length > 0"), timeout=15, what="the picture")


def lines(page: Page, selector: str) -> int:
    """How many elements of the picture are so (cytoscape's selectors)."""
    return int(page.evaluate("(one) => window.via6.picture.cy.elements(one).length", selector))


def until(page: Page, condition: Callable[[], Any], what: str = "", timeout: float = 15) -> Any:
    """Waits; on failure the error says what the page shows."""
    try:
        return wait_until(condition, timeout=timeout, every=0.03, what=what)
    except AssertionError as late:
        with contextlib.suppress(Error):
            late.add_note(page.inner_text("main")[:3000])
        raise


def fits(page: Page) -> bool:
    """Nothing is wider than the page."""
    return bool(page.evaluate("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


def faults_of_access(page: Page) -> list[str]:
    """What axe-core calls serious or critical."""
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(AXE.read_text())
    found = page.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{one['id']}: {one['help']}: {[node['target'] for node in one['nodes']][:5]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]


def big_network(numbers: networkx.Graph) -> Iterator[Node]:
    """Routers with an island each and no routes: something to draw."""
    ports: dict[int, list[tuple[int, int]]] = {number: [] for number in numbers}
    for at, (a, b) in enumerate(numbers.edges):
        ports[a].append((10 + 2 * at, 11 + 2 * at))
        ports[b].append((11 + 2 * at, 10 + 2 * at))
    for number, joined in ports.items():
        links = [Link(1, "lo", 65536, UP | IFF_LOOPBACK), Link(2, "lan", 1500, UP, "UP")]
        own = bytes((10, number // 200, number % 200))
        addresses = [InterfaceAddress(2, own + b"\x01", 24)]
        for at, (ifindex, peer) in enumerate(joined, 1):
            links.append(Link(ifindex, f"eth{at}", 1500, UP, "UP", kind="veth", peer=peer))
            addresses.append(InterfaceAddress(ifindex, link_local(number), 64, scope=253))
        routes = RouteTable.of([Route(Prefix(own + bytes(1), 24), (NextHop(None, 2),), protocol=PROTO_KERNEL)])
        sysctls = {f"net/ipv4/conf/{link.name}/forwarding": 1 for link in links}
        yield Node(f"r{number}", Snapshot(tuple(links), tuple(addresses), routes, RULES, parts=PARTS), sysctls)


def put(folder: Path, nodes: Iterable[Node]) -> Path:
    """Snapshots of nodes, in one file of a folder."""
    folder.mkdir(exist_ok=True)
    (folder / "network.json").write_bytes(encode_all(nodes))
    return folder
