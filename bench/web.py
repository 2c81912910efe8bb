"""What the live view takes on a lab of 200 nodes: the first paint, a change from the kernel to the page, an idle page.

    python bench/web.py [--rounds N] [--routers N] [--software static|via6] [--idle SECONDS]

A real lab: a grid of routers, each with an island and a host, in network namespaces of their own; `static` routes, or a
via6 daemon on every router. A real browser: Debian's Chromium without a window. `paint`: from asking for the page until
something is seen; `picture`: until the graph stands there. Each round is a browser with nothing in its cache.
`down`, `up`: from the ioctl that changes an interface in a namespace until the word in the page's table has changed.
`idle`: the processor time of the server for each second that one page is open and nothing happens.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from math import isqrt
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from common import ROOT
from via6.kernel.netns import enter
from via6.lab import state

LAB = f"bench-web-{os.getpid()}"
_REST_S = 240  # Babel keeps retracted routes for minutes, and then each daemon tells that they are gone
_QUIET_S = 33  # the doctor rests no longer
PAINT_S, CHANGE_S, IDLE = 1.0, 0.3, 0.01  # what is wanted
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1  # linux/sockios.h, linux/if.h

PAINTED = """() => new Promise((done) => {
  const look = () => {
    const paint = performance.getEntriesByName("first-contentful-paint")[0];
    if (paint && window.via6?.picture.cy.nodes().length) return done([paint.startTime, performance.now()]);
    requestAnimationFrame(look);
  };
  look();
})"""
WATCH = """(id) => {
  const row = document.querySelector(`#links tr[data-id="${id}"]`);
  const word = () => row.querySelector(".state").textContent.trim();
  window.benchLog = [];
  let last = word();
  new MutationObserver(() => {
    if (word() === last) return;
    last = word();
    window.benchLog.push([last, (performance.timeOrigin + performance.now()) / 1000]);
  }).observe(row, { subtree: true, childList: true, characterData: true });
}"""


def topology(routers: int, software: str) -> str:
    """A grid."""
    wide = isqrt(routers)
    lines = [f'[lab]\nname = "{LAB}"\nsoftware = "{software}"']
    lines += [f'[router.r{number}]\nlan = "10.{number >> 8}.{number & 255}.0/24"' for number in range(routers)]
    for number in range(routers):
        if (number + 1) % wide and number + 1 < routers:
            lines.append(f'[[link]]\nends = ["r{number}", "r{number + 1}"]')
        if number + wide < routers:
            lines.append(f'[[link]]\nends = ["r{number}", "r{number + wide}"]')
    return "\n".join(lines) + "\n"


def via6(*words: str) -> None:
    argv = [sys.executable, "-m", "via6", *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(done.stderr)


@contextmanager
def server() -> Iterator[tuple[int, str]]:
    """(pid, address) of a `via6 web` that shows the lab."""
    argv = [sys.executable, "-m", "via6", "web", "--lab", LAB, "--listen", "127.0.0.1:0"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("http"):
                raise SystemExit("bench: via6 web does not start")
            yield process.pid, line.split()[0]
        finally:
            process.send_signal(signal.SIGTERM)


def set_up(device: str, up: bool) -> float:
    """Sets a device of this thread's namespace up or down at once; when that was."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        name = device.encode().ljust(16, b"\0")
        flags = struct.unpack("16sh", fcntl.ioctl(sock, _SIOCGIFFLAGS, name + bytes(24))[:18])[1]
        flags = flags | _IFF_UP if up else flags & ~_IFF_UP
        now = time.time()
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh22x", name, flags))
        return now


def paints(browser: Browser, address: str, rounds: int) -> list[tuple[float, float]]:
    """(paint, picture) of each round, in seconds."""
    found = []
    for _ in range(rounds):
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        page = context.new_page()
        page.goto(address, wait_until="commit")
        paint, picture = page.evaluate(PAINTED)
        found.append((paint / 1000, picture / 1000))
        context.close()
    return found


def changes(page: Page, rounds: int) -> dict[str, list[float]]:
    """Seconds from the kernel to the page, by what the link became."""
    place = state.node_netns(f"{LAB}/r1") or ""
    page.evaluate(WATCH, "r0.eth1--r1.eth1")
    found: dict[str, list[float]] = {"down": [], "up": []}
    with ThreadPoolExecutor(1, initializer=enter, initargs=(place,)) as there:  # setns(2) moves this thread alone
        for number in range(2 * rounds):
            up = bool(number % 2)
            at = there.submit(set_up, "eth1", up).result()
            wait(page, lambda number=number: page.evaluate("() => window.benchLog.length") > number)  # type: ignore[misc]
            word, seen = page.evaluate("() => window.benchLog.at(-1)")
            found[word].append(seen - at)
            time.sleep(1.5)
    return found


def wait(page: Page, true: Callable[[], Any], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise SystemExit(f"bench: the page does not change: {page.evaluate('() => window.benchLog')}")
        page.wait_for_timeout(50)


def ticks(pid: int) -> float:
    """Seconds of processor time of a process and of the programs that it started and waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def rest(pid: int) -> None:
    """Waits until the server has read all nodes, and the doctor has looked at them; after a change he looks again, and
    not at once."""
    end = time.monotonic() + _REST_S
    while time.monotonic() < end:
        began = ticks(pid)
        time.sleep(_QUIET_S)
        if ticks(pid) - began < 0.02 * _QUIET_S:
            return
    print("bench: the server does not come to rest", file=sys.stderr)


def idle(page: Page, pid: int, seconds: float) -> float:
    rest(pid)
    began, at = ticks(pid), time.monotonic()
    page.wait_for_timeout(seconds * 1000)
    return (ticks(pid) - began) / (time.monotonic() - at)


def show(what: str, values: list[float], most: float = 0.0) -> None:
    middle = statistics.median(values)
    verdict = f"  MORE THAN {most:g} s" if 0 < most <= middle else ""
    print(f"{what:<10}median {middle * 1000:7.0f} ms   worst {max(values) * 1000:7.0f} ms   of {len(values)}{verdict}")


def measure(program: str, rounds: int, idle_s: float) -> None:
    with server() as (pid, address), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        rest(pid)
        paint, picture = zip(*paints(browser, address, rounds), strict=True)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(address)
        page.evaluate(PAINTED)
        found = changes(page, rounds)
        used = idle(page, pid, idle_s)
        browser.close()
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    show("paint", list(paint), PAINT_S)
    show("picture", list(picture))
    for word, values in found.items():
        show(word, values, CHANGE_S)
    print(f"{'idle':<10}{used * 100:.2f} % of a core{'' if used < IDLE else f'  MORE THAN {IDLE:.0%}'}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (the median counts)")
    parser.add_argument("--routers", type=int, default=100, help="with a host each")
    parser.add_argument("--software", default="static", choices=("static", "via6"))
    parser.add_argument("--idle", type=float, default=30, metavar="SECONDS")
    parser.add_argument("--quick", action="store_true", help="a short look")
    args = parser.parse_args()
    rounds, idle_s = (2, 10.0) if args.quick else (args.rounds, args.idle)
    program = shutil.which("chromium")
    if program is None or subprocess.run(["sh", str(ROOT / "web/build")], check=False).returncode:
        print("bench: web: needs chromium, and npm for the browser libraries; left out", file=sys.stderr)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "grid.toml"
        file.write_text(topology(args.routers, args.software))
        began = time.monotonic()
        via6("lab", "up", str(file))
        print(f"{2 * args.routers} nodes, {args.software}: up in {time.monotonic() - began:.1f} s")
        try:
            measure(program, rounds, idle_s)
        finally:
            via6("lab", "down", LAB)
    return 0


if __name__ == "__main__":
    sys.exit(main())
