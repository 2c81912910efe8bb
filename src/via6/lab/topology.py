"""What a lab is made of, whatever file it came from. Values only.

A router has interfaces `eth1`, `eth2` … in the order in which the file names its links, and `lan` towards its hosts. On
every `eth…` it has the link-local address fe80::NUMBER, where NUMBER counts the routers of the lab from 1: a next hop
`fe80::3%eth2` reads as "router 3, out of eth2". No link between routers ever gets an IPv4 address. Hosts are the
ordinary IPv4 islands behind a router: one /24 or so, with the router as gateway. Pairs are ordered pairs of hosts.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import permutations
from pathlib import Path
from typing import Final

from via6.errors import USAGE, Refusal
from via6.prefix import Address, Prefix

LAN: Final = "lan"  # the host-facing interface of a router
HOST_DEVICE: Final = "eth0"
MAX_ROUTERS: Final = 1024
MAX_FILE_OCTETS: Final = 16 << 20
MAX_NAME: Final = 40
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
DEFAULT_SOFTWARE: Final = "via6"
SOFTWARE: Final = {
    "via6": "finds its routes by Babel: `via6 up` on the router's links",
    "babeld": "babeld of this machine",
    "babeld-13": "babeld of Debian 13, fetched by scripts/peers",
    "bird": "BIRD of this machine if it is 2.13 or newer, else of Debian 13",
    "bird3": "BIRD 3 of Debian 13, fetched by scripts/peers",
    "via6-static": "`via6 run` with the lab's shortest paths as its static routes",
    "static": "the same routes put in by `ip`, and no program",
    "none": "forwards, but has no route that the lab made",
}
SPEAKERS: Final = frozenset({"via6", "babeld", "babeld-13", "bird", "bird3"})
"""Those that find their routes by Babel."""
DESKTOPS: Final = {
    "vnc": "TigerVNC, a small window manager and a terminal",
    "rdp": "the same, and xrdp before it",
}
MAX_DESKTOPS: Final = 16
# Letters that have no decomposition into an ASCII letter and a mark.
_LETTERS: Final = str.maketrans(
    {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "d", "ł": "l", "þ": "th", "ı": "i"}
)


@dataclass(frozen=True, slots=True)
class Router:
    """`number` (from 1) makes its link-local address; `lan` is the island behind it, `gateway` the router's own
    address there; `address` is an IPv4 /32 of its own on lo, so that its ICMP has a source (RFC 7600, section 4.8 of
    the v4-via-v6 draft). `label` is the name the file gave it. `key` is `ALGORITHM SECRET` for the Babel packets on all
    its links (RFC 8967), the secret in hexadecimal; empty for none. `hello_interval_ms` is how often it says Hello; 0:
    as its software does by itself."""

    name: str
    number: int
    label: str = ""
    software: str = DEFAULT_SOFTWARE
    lan: Prefix | None = None
    gateway: Address | None = None
    address: Address | None = None
    key: str = ""
    hello_interval_ms: int = 0

    @property
    def link_local(self) -> Address:
        """fe80::NUMBER, the same on each of its links."""
        return b"\xfe\x80" + bytes(10) + self.number.to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class Host:
    """An IPv4 host in the island of a router; `desktop` is a key of DESKTOPS, or empty."""

    name: str
    router: str
    address: Address
    length: int
    gateway: Address
    desktop: str = ""


@dataclass(frozen=True, slots=True)
class Port:
    """One end of a cable."""

    router: str
    device: str


@dataclass(frozen=True, slots=True)
class Cable:
    """A link between two routers; `cost` counts in shortest paths."""

    a: Port
    b: Port
    cost: int = 1
    mtu: int = 1500


@dataclass(frozen=True)
class Topology:
    """A whole lab. `notes` say what of the file was left out. `trace_on_lans`: routers tell their hosts, too, where a
    packet goes."""

    name: str
    routers: tuple[Router, ...]
    hosts: tuple[Host, ...]
    cables: tuple[Cable, ...]
    notes: tuple[str, ...] = ()
    trace_on_lans: bool = True

    @property
    def start_s(self) -> float:
        """Seconds that the programs of the routers may take to start, one after the other."""
        return 0.5 * len(self.routers)

    @cached_property
    def router(self) -> dict[str, Router]:
        """Routers by name."""
        return {router.name: router for router in self.routers}

    @cached_property
    def host(self) -> dict[str, Host]:
        """Hosts by name."""
        return {host.name: host for host in self.hosts}

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """Names of all nodes, routers first."""
        return (*self.router, *self.host)

    @cached_property
    def ports(self) -> dict[str, list[tuple[str, Port, Cable]]]:
        """Per router: (device, the port at the far end, the cable), in order of the devices."""
        found: dict[str, list[tuple[str, Port, Cable]]] = {router.name: [] for router in self.routers}
        for cable in self.cables:
            found[cable.a.router].append((cable.a.device, cable.b, cable))
            found[cable.b.router].append((cable.b.device, cable.a, cable))
        return found

    def hosts_of(self, router: str) -> list[Host]:
        """The hosts behind one router."""
        return [host for host in self.hosts if host.router == router]

    @property
    def desktops(self) -> list[Host]:
        """The hosts that have a desktop."""
        return [host for host in self.hosts if host.desktop]

    def viewer(self, host: Host) -> Host | None:
        """The host from which a desktop is looked at: the first one behind another router that has a way to it, so
        that every pixel crosses the routers. One without a desktop of its own is preferred."""
        part = self.component[host.router]
        others = [h for h in self.hosts if h.router != host.router and self.component[h.router] == part]
        return min(others, key=lambda other: bool(other.desktop), default=None)

    def pairs(self) -> Iterator[tuple[Host, Host]]:
        """Every (source, destination) of two hosts."""
        return permutations(self.hosts, 2)

    @cached_property
    def component(self) -> dict[str, int]:
        """Which connected part of the network a router is in."""
        found: dict[str, int] = {}
        for start in self.router:
            stack = [] if start in found else [start]
            while stack:
                name = stack.pop()
                if name not in found:
                    found[name] = found.get(start, len(set(found.values())))
                    stack += [far.router for _, far, _ in self.ports[name]]
        return found


def with_software(topology: Topology, kinds: Sequence[str], seed: int = 0) -> Topology:
    """The same lab with these kinds of software dealt out over the routers, as one deals cards: shuffled, and none gets
    one more before all have one; so every kind is used if there are enough routers. The same seed deals the same.

    Raises Refusal if there is no software of such a name."""
    for kind in kinds:
        if kind not in SOFTWARE:
            raise Refusal(f"unknown software {kind!r}", f"there is {', '.join(SOFTWARE)}", USAGE)
    chance = random.Random(seed)
    order = list(range(len(topology.routers)))
    chance.shuffle(order)
    cards = list(kinds)
    chance.shuffle(cards)
    dealt = {place: cards[turn % len(cards)] for turn, place in enumerate(order)}
    routers = (replace(router, software=dealt[place]) for place, router in enumerate(topology.routers))
    return replace(topology, routers=tuple(routers))


def slug(text: str) -> str:
    """ASCII name for any label: `Zürich (ETH)` -> `zurich-eth`; empty if nothing of it is left."""
    plain = unicodedata.normalize("NFKD", text.lower().translate(_LETTERS)).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[: MAX_NAME - 8].strip("-")


def unique(wanted: str, taken: set[str]) -> str:
    """`wanted`, or `wanted-2`, `wanted-3` … if that is taken; the answer counts as taken from now on."""
    name, count = wanted, 1
    while name in taken:
        count += 1
        name = f"{wanted}-{count}"
    taken.add(name)
    return name


def cable_up(links: Iterable[tuple[str, str, int, int]]) -> tuple[Cable, ...]:
    """Cables from (router, router, cost, mtu), with interfaces named in this order."""
    used: dict[str, int] = {}

    def port(router: str) -> Port:
        used[router] = used.get(router, 0) + 1
        return Port(router, f"eth{used[router]}")

    return tuple(Cable(port(a), port(b), cost, mtu) for a, b, cost, mtu in links)


def nth(prefix: Prefix, number: int) -> Address:
    """The address `number` places after the first of a prefix."""
    return (int.from_bytes(prefix.packed, "big") + number).to_bytes(len(prefix.packed), "big")


def load(path: str) -> Topology:
    """Reads a lab file, TOML or GraphML by its suffix. Raises Refusal that names the place of every mistake."""
    file = Path(path)
    try:
        if file.stat().st_size > MAX_FILE_OCTETS:
            raise Refusal(f"{path}: larger than {MAX_FILE_OCTETS >> 20} MB, no lab is that large")
        data = file.read_bytes()
    except OSError as error:
        raise Refusal(f"{path}: {error.strerror}", "`via6 lab -h` shows what a lab file looks like") from None
    if file.suffix == ".graphml":
        from via6.lab.graphml import parse
    elif file.suffix == ".toml":
        from via6.lab.labfile import parse
    else:
        raise Refusal(f"{path}: a lab file ends in .toml or .graphml")
    return parse(data, path, slug(file.stem) or "lab")
