"""Networks of several speakers, and what each of them says of its routes.

A network is a lab in a sandbox (via6.lab): nothing of it outlives the test. The costs of its links differ, so metrics
that add up are the sums of a shortest path and of no other; the Hellos are frequent, so a test lasts seconds.
"""

from __future__ import annotations

import contextlib
import functools
import json
import random
import re
import socket
import subprocess
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import networkx
import pytest

from via6.daemon import client
from via6.errors import Refusal
from via6.lab import labfile, speakers
from via6.lab.namespaces import Lab
from via6.lab.reach import measure
from via6.lab.routes import islands
from via6.lab.run import wait_links
from via6.lab.software import control_socket
from via6.lab.topology import Topology, with_software

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("via6", "babeld", "babeld-13", "bird", "bird3")
PEERS = KINDS[1:]
HELLO_MS = 300
PATIENCE_S = 80.0  # babeld may hold a seqno request back for 65 s, see docs/interoperability.md

Link = tuple[str, str]


@functools.cache
def fetched() -> str:
    """Makes sure that the other speakers are here; the reason if they cannot be had."""
    argv = ["sh", str(ROOT / "scripts/peers")]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return done.stderr.strip() or f"scripts/peers ended with {done.returncode}" if done.returncode else ""


def need_peers() -> None:
    """Fails, with the reason, where there is nobody to speak with."""
    if reason := fetched():
        pytest.fail(reason)


# --- topologies ----------------------------------------------------------------------------------------------------


def line(count: int) -> list[Link]:
    return [(f"r{at}", f"r{at + 1}") for at in range(1, count)]


def ring(count: int) -> list[Link]:
    return [*line(count), (f"r{count}", "r1")]


def grid(width: int) -> list[Link]:
    def name(row: int, column: int) -> str:
        return f"r{row * width + column + 1}"

    places = [(row, column) for row in range(width) for column in range(width)]
    right = [(name(r, c), name(r, c + 1)) for r, c in places if c + 1 < width]
    down = [(name(r, c), name(r + 1, c)) for r, c in places if r + 1 < width]
    return right + down


def network(links: list[Link], *, costs: bool = True, seed: int = 1, more: str = "", router: str = "") -> Topology:
    """A lab of these links: each router has an island and an address. `more` goes into [lab], `router` into the table
    of each router. With `costs` each link costs 1 to 3."""
    chance = random.Random(seed)
    names = sorted({end for link in links for end in link}, key=lambda name: int(name[1:]))
    parts = [f'[lab]\nname = "interop"\nhello_interval_ms = {HELLO_MS}\n{more}']
    for number, name in enumerate(names, 1):
        parts.append(f'[router.{name}]\nlan = "10.0.{number}.0/24"\naddress = "10.255.0.{number}"\n{router}')
    for a, b in links:
        parts.append(f'[[link]]\nends = ["{a}", "{b}"]\ncost = {chance.randint(1, 3) if costs else 1}')
    return labfile.parse("\n".join(parts).encode(), "interop", "interop")


def mixed(topology: Topology, kinds: Collection[str], seed: int) -> Topology:
    return with_software(topology, tuple(kinds), seed)


# --- what the routers say --------------------------------------------------------------------------------------------

Table = dict[str, int]
"""Metric of the selected route to each prefix, as the router's speaker gives it; its own are not in it."""


def metrics(lab: Lab, node: str) -> Table:
    """The routes that a router has selected from its neighbours."""
    kind = lab.topology.router[node].software
    if kind == "via6":
        return _of_via6(lab, node)
    return _of_bird(lab, node) if kind.startswith("bird") else _of_babeld(lab, node)


def _of_via6(lab: Lab, node: str) -> Table:
    """As `via6 show route state selected` has it, without the start of a program for each look."""
    try:
        with lab.inside(node):
            lines = [line for some in client.ask({"show": "route", "state": "selected"}) for line in some]
    except Refusal:  # it is just starting
        return {}
    routes = map(json.loads, lines)
    return {route["prefix"]: route["metric"] for route in routes if route["metric"] < 65535}


def babeld_says(lab: Lab, node: str, command: str) -> str:
    """babeld's answer to a word on its control socket."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(5)
        peer.connect(str(control_socket(lab.folder, node)))
        _until_ok(peer)
        peer.sendall(f"{command}\n".encode())
        return _until_ok(peer)


def _until_ok(peer: socket.socket) -> str:
    said = b""
    while not said.endswith((b"\nok\n", b"\nbad\n", b"\nno\n")) and said not in (b"ok\n", b"bad\n", b"no\n"):
        part = peer.recv(65536)
        if not part:
            break
        said += part
    return said.decode()


_BABELD_ROUTE = re.compile(
    r"^add route \S+ prefix (\S+) from \S+ installed yes .* metric (\d+) refmetric", re.MULTILINE
)


def _of_babeld(lab: Lab, node: str) -> Table:
    try:
        said = babeld_says(lab, node, "dump")
    except OSError:
        return {}
    return {prefix: int(metric) for prefix, metric in _BABELD_ROUTE.findall(said) if int(metric) < 65535}


_BIRD_ROUTE = re.compile(r"^(\S+)\s+unicast \[babel1 [^\]]*\] \* \(\d+/(\d+)\)", re.MULTILINE)


def _of_bird(lab: Lab, node: str) -> Table:
    birdc = speakers.control_program(speakers.program(lab.topology.router[node].software))
    done = subprocess.run(
        [birdc, "-s", str(control_socket(lab.folder, node)), "show", "route", "protocol", "babel1"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return {prefix: int(metric) for prefix, metric in _BIRD_ROUTE.findall(done.stdout)}


class Hop(NamedTuple):
    """The next hop of a route in the kernel; `protocol` is the number that says whose route it is."""

    family: str
    neighbour: str
    protocol: int


_PROTOCOL = {"via6": 46, "babeld": 42, "babeld-13": 42, "bird": 12, "bird3": 12}  # RTPROT_BABEL 42, RTPROT_BIRD 12


def fib(lab: Lab, node: str) -> dict[str, Hop]:
    """What the kernel of a router does with packets to each foreign prefix."""
    far = {device: port.router for device, port, _ in lab.topology.ports[node]}
    found: dict[str, Hop] = {}
    for route in json.loads(lab.exec(node, ["ip", "-4", "-N", "-j", "route"]).stdout or "[]"):
        if route.get("type", "1") not in ("1", "unicast") or ("via" not in route and "gateway" not in route):
            continue
        prefix = route["dst"] if "/" in route["dst"] else f"{route['dst']}/32"
        via = route.get("via") or {"family": "inet"}
        # `ip` prints the route with the lowest metric first, and that is the one that counts.
        hop = Hop(via["family"], far.get(route["dev"], route["dev"]), int(route["protocol"]))
        found.setdefault(prefix, hop)
    return found


# --- what is right ---------------------------------------------------------------------------------------------------


def shortest(
    topology: Topology, without: Collection[Link] = (), gone: Collection[str] = (), apart: Collection[str] = ()
) -> dict[str, Table]:
    """What `metrics` must say for each router, without some links and some routers (`gone`), and where some have no
    neighbour (`apart`)."""
    graph = networkx.Graph()
    graph.add_nodes_from(name for name in topology.router if name not in gone)
    for cable in topology.cables:
        ends = cable.a.router, cable.b.router
        if ends not in without and not {*ends} & {*gone, *apart}:
            graph.add_edge(*ends, cost=96 * cable.cost)
    found: dict[str, Table] = {}
    for name in graph:
        distances = networkx.single_source_dijkstra_path_length(graph, name, weight="cost")
        found[name] = {
            str(prefix): distance
            for other, distance in distances.items()
            if other != name
            for prefix in islands(topology.router[other])
        }
    return found


def settle(
    lab: Lab,
    what: str,
    *,
    without: Collection[Link] = (),
    gone: Collection[str] = (),
    apart: Collection[str] = (),
    patience_s: float = PATIENCE_S,
) -> float:
    """Waits until every speaker's metrics are those of the shortest paths and its kernel has those routes: its own,
    each with an IPv6 next hop that is the next router of a shortest path, so that there is no loop. Returns the seconds
    it took; fails with the first router that differs."""
    wanted = shortest(lab.topology, without, gone, apart)
    began = time.monotonic()
    while True:
        fault = next(filter(None, (_fault(lab, node, wanted) for node in wanted)), "")
        if not fault:
            return time.monotonic() - began
        if time.monotonic() > began + patience_s:
            raise AssertionError(f"{what}: not within {patience_s:g} s: {fault}; {lab.troubles()}")
        time.sleep(0.1)


def _fault(lab: Lab, node: str, tables: dict[str, Table]) -> str:
    router, wanted = lab.topology.router[node], tables[node]
    who = f"{node} ({router.software})"
    had = metrics(lab, node)
    if had != wanted:
        return f"{who} has {_difference(had, wanted)}"
    kernel = fib(lab, node)
    if kernel.keys() != wanted.keys():
        return f"the kernel of {who} has {sorted(kernel.keys() ^ wanted.keys())} too many or too few"
    costs = {port.router: 96 * cable.cost for _, port, cable in lab.topology.ports[node]}
    for prefix, hop in kernel.items():
        if (hop.family, hop.protocol) != ("inet6", _PROTOCOL[router.software]):
            return f"the kernel of {who} has {prefix} with {hop}"
        # From the neighbour it is what is left of the metric; nothing if the prefix is its own.
        if tables.get(hop.neighbour, {}).get(prefix, 0) != wanted[prefix] - costs.get(hop.neighbour, 0):
            return f"the kernel of {who} has {prefix} by {hop.neighbour}, where no shortest path leads"
    return ""


def _difference(had: Table, wanted: Table) -> str:
    keys = sorted(key for key in had.keys() | wanted.keys() if had.get(key) != wanted.get(key))
    return ", ".join(f"{key} at {had.get(key)} instead of {wanted.get(key)}" for key in keys[:4])


def all_pairs(lab: Lab) -> None:
    """Every host reaches every other, now."""
    found = measure(lab, 1)
    assert not found.missing, [str(missing) for missing in found.missing]


@contextlib.contextmanager
def running(topology: Topology) -> Iterator[Lab]:
    """A lab whose links are up, with its routers started."""
    lab = Lab(topology)
    try:
        lab.build()
        wait_links(lab)
        lab.start()
        yield lab
    finally:
        lab.down()


# --- what happens to it ----------------------------------------------------------------------------------------------


def ends_of(lab: Lab, link: Link) -> list[tuple[str, str]]:
    """(router, device) of both ends."""
    cable = next(c for c in lab.topology.cables if (c.a.router, c.b.router) == link)
    return [(cable.a.router, cable.a.device), (cable.b.router, cable.b.device)]


def take_down(lab: Lab, link: Link) -> None:
    """One end is set down: the other loses its carrier."""
    node, device = ends_of(lab, link)[0]
    lab.exec(node, ["ip", "link", "set", device, "down"])


def take_up(lab: Lab, link: Link) -> None:
    """The link works again. Linux took the link-local address away with it."""
    node, device = ends_of(lab, link)[0]
    lab.exec(node, ["ip", "link", "set", device, "up"])
    number = lab.topology.router[node].number
    lab.exec(node, ["ip", "address", "replace", f"fe80::{number:x}/64", "dev", device, "nodad"])


def silence(lab: Lab, link: Link) -> None:
    """All packets are lost in both directions, and nobody is told."""
    for node, device in ends_of(lab, link):
        hook = f"type filter hook ingress device {device} priority 0"
        rules = f"table netdev cut {{\n chain {device} {{\n {hook}\n drop\n }}\n}}\n"
        done = lab.exec(node, ["nft", "-f", "-"], text=rules)
        assert not done.returncode, done.stderr


def speak_again(lab: Lab, link: Link) -> None:
    for node, _ in ends_of(lab, link):
        lab.exec(node, ["nft", "delete", "table", "netdev", "cut"])
