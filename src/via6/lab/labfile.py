"""A lab written by hand, in TOML.

    [lab]
    name = "triangle"               # else the file's name
    software = "via6"               # of all routers that say nothing else
    key = "hmac-sha256 0123…"       # of all routers that say nothing else: it signs their Babel packets
    hello_interval_ms = 500         # of all routers that speak Babel; 0: as their software does by itself

    [router.r1]
    lan = "10.1.0.0/24"             # the IPv4 island behind it; its first address is the router's
    address = "10.255.0.1"          # optional: an IPv4 /32 on lo, the source of its ICMP
    software = "static"
    key = "none"

    [host.h1]                       # optional: a router with a lan and no host gets one, named r1-h
    router = "r1"
    address = "10.1.0.10/24"        # else .10, .11 …
    gateway = "10.1.0.1"            # else the router's address in the lan
    desktop = "vnc"                 # optional: a screen to look at across the network; "rdp": also with RDP

    [[link]]
    ends = ["r1", "r2"]
    cost = 10                       # else 1
    mtu = 1400                      # else 1500

All mistakes are found in one reading and told with their place. The reading goes through three gates, and a mistake at
one of them leaves the following closed only for the entry it is in: the shape (msgspec: types, unknown keys), the
values (names, prefixes, addresses), the whole (names that are used, islands that overlap).
"""

from __future__ import annotations

import tomllib
from dataclasses import replace
from typing import Annotated, Any, Final, TypeVar

from msgspec import Meta, Struct, ValidationError, convert

from via6.config_babel import ALGORITHMS, secret_fault
from via6.errors import Refusal
from via6.lab.graphml import host_behind
from via6.lab.topology import (
    DEFAULT_SOFTWARE,
    DESKTOPS,
    MAX_DESKTOPS,
    MAX_NAME,
    MAX_ROUTERS,
    NAME,
    SOFTWARE,
    Host,
    Router,
    Topology,
    cable_up,
    nth,
)
from via6.prefix import Address, Prefix, PrefixError, is_link_local, is_multicast, mask, parse_address, parse_prefix

S = TypeVar("S", bound=Struct)
_MOST_FAULTS: Final = 50
_FIRST_HOST: Final = 10
_SHORTEST_MS: Final = 50
_NO_KEY: Final = "none"


class _LabTable(Struct, forbid_unknown_fields=True):
    name: str = ""
    software: str = DEFAULT_SOFTWARE
    key: str = ""
    hello_interval_ms: Annotated[int, Meta(ge=0, le=60_000)] = 0


class _RouterTable(Struct, forbid_unknown_fields=True):
    lan: str = ""
    address: str = ""
    software: str = ""
    key: str = ""


class _HostTable(Struct, forbid_unknown_fields=True):
    router: str
    address: str = ""
    gateway: str = ""
    desktop: str = ""


class _LinkTable(Struct, forbid_unknown_fields=True):
    ends: tuple[str, str]
    cost: Annotated[int, Meta(ge=1, le=65535)] = 1
    mtu: Annotated[int, Meta(ge=1280, le=65535)] = 1500  # IPv6 needs 1280


class _Faults(list[str]):
    """The mistakes found so far."""

    def at(self, place: str, what: str) -> None:
        self.append(f"{place}: {what}")

    def shape(self, kind: type[S], value: object, place: str) -> S | None:
        """The value as a table of this kind; None, with a fault, if it is none."""
        try:
            return convert(value, kind)
        except ValidationError as error:
            what, _, path = str(error).partition(" - at `$")
            self.at(place + path.rstrip("`"), what[:1].lower() + what[1:])
            return None


def parse(data: bytes, where: str, name: str) -> Topology:
    """The lab of a TOML file's octets; `name` is taken if the file gives none. Raises Refusal with all mistakes."""
    try:
        tables = tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise Refusal(f"{where}: not UTF-8 at octet {error.start}") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise Refusal(f"{where}: not TOML: {error or 'nested too deep'}") from None
    faults = _Faults()
    topology = _Builder(faults, tables).build(name)
    if faults:
        more = [f"and {len(faults) - _MOST_FAULTS} more"] if len(faults) > _MOST_FAULTS else []
        raise Refusal(
            "\n".join([f"{where}: {fault}" for fault in faults[:_MOST_FAULTS]] + more), "`via6 lab -h` shows the keys"
        )
    return topology


class _Builder:
    """One reading of a file."""

    def __init__(self, faults: _Faults, tables: dict[str, Any]) -> None:
        self.faults = faults
        self.tables = tables
        self.names: set[str] = set()
        self.routers: list[Router] = []
        self.hosts: list[Host] = []
        self.bad: set[str] = set()  # routers that are named but faulty: not to be called unknown

    def build(self, name: str) -> Topology:
        for key in self.tables.keys() - {"lab", "router", "host", "link"}:
            self.faults.at(key, "unknown key; a lab has lab, router, host and link")
        lab = self.faults.shape(_LabTable, self.tables.get("lab", {}), "lab") or _LabTable()
        if lab.name:
            name = lab.name
            self._check_name("lab.name", name)
        self._check_software("lab.software", lab.software)
        self._check_key("lab.key", lab.key)
        if 0 < lab.hello_interval_ms < _SHORTEST_MS:
            self.faults.at("lab.hello_interval_ms", f"{_SHORTEST_MS} or more; 0 is: as each software does by itself")
        self._read_routers(lab)
        for host, value in self._tables_of("host"):
            self._read_host(host, value)
        links = self._read_links()
        self._check_islands()
        populated = {host.router for host in self.hosts}
        if not self.faults:
            for router in self.routers:
                if router.lan and router.name not in populated:
                    self.hosts.append(host_behind(router, self.names))
        topology = Topology(name, tuple(self.routers), tuple(self.hosts), cable_up(links))
        if not self.faults:
            self._check_desktops(topology)
        return topology

    def _tables_of(self, kind: str) -> list[tuple[str, object]]:
        found = self.tables.get(kind, {})
        if isinstance(found, dict):
            return list(found.items())
        self.faults.at(kind, f"write [{kind}.NAME], a table for each")
        return []

    def _check_name(self, place: str, name: str) -> bool:
        if len(name) <= MAX_NAME and NAME.fullmatch(name):
            return True
        self.faults.at(
            place, f"the name {name[:60]!r} must be 1 to {MAX_NAME} of A-Z a-z 0-9 - _, a letter or digit first"
        )
        return False

    def _check_software(self, place: str, software: str) -> None:
        if software not in SOFTWARE:
            self.faults.at(place, f"unknown software {software!r}; there is {', '.join(SOFTWARE)}")

    def _check_key(self, place: str, key: str) -> None:
        algorithm, _, secret = key.partition(" ")
        if key and algorithm not in ALGORITHMS:
            self.faults.at(place, f"a key is ALGORITHM SECRET; algorithms are {', '.join(ALGORITHMS)}")
        elif key and (fault := secret_fault(algorithm, secret.strip())):
            self.faults.at(place, fault)

    # --- routers ---------------------------------------------------------------------------------------------------

    def _read_routers(self, lab: _LabTable) -> None:
        entries = self._tables_of("router")
        if not entries:
            self.faults.at("router", "no router in this lab")
        if len(entries) > MAX_ROUTERS:
            self.faults.at("router", f"{len(entries)} routers; at most {MAX_ROUTERS}")
        for number, (name, value) in enumerate(entries[:MAX_ROUTERS], start=1):
            before = len(self.faults)
            place = f"router.{name}"
            self._check_name(place, name)
            table = self.faults.shape(_RouterTable, value, place) or _RouterTable()
            if table.software:
                self._check_software(f"{place}.software", table.software)
            if table.key != _NO_KEY:
                self._check_key(f"{place}.key", table.key)
            lan = self._lan(f"{place}.lan", table.lan) if table.lan else None
            router = Router(
                name, number, name, table.software or lab.software, lan, nth(lan, 1) if lan else None,
                self._host_address(f"{place}.address", table.address) if table.address else None,
                "" if table.key == _NO_KEY else table.key or lab.key, lab.hello_interval_ms,
            )  # fmt: skip
            self.names.add(name)
            if len(self.faults) == before:
                self.routers.append(router)
            else:
                self.bad.add(name)

    def _lan(self, place: str, text: str) -> Prefix | None:
        try:
            lan = parse_prefix(text)
        except PrefixError as error:
            self.faults.at(place, str(error))
            return None
        if len(lan.packed) != 4 or not 8 <= lan.length <= 30:
            self.faults.at(place, f"{lan} is no IPv4 network of /8 to /30")
            return None
        return lan if self._ordinary(place, lan.packed) else None

    def _host_address(self, place: str, text: str) -> Address | None:
        try:
            address = parse_address(text.removesuffix("/32"))
        except PrefixError as error:
            self.faults.at(place, str(error))
            return None
        if len(address) != 4:
            self.faults.at(place, f"{text} is not an IPv4 address")
            return None
        return address if self._ordinary(place, address) else None

    def _ordinary(self, place: str, address: Address) -> bool:
        if is_multicast(address) or is_link_local(address) or address[0] in (0, 127) or address[0] >= 240:
            self.faults.at(place, "not a unicast IPv4 address that can be routed")
            return False
        return True

    # --- hosts -----------------------------------------------------------------------------------------------------

    def _read_host(self, name: str, value: object) -> None:
        place = f"host.{name}"
        if name in self.names:
            self.faults.at(place, f"a router is named {name}, too")
        self.names.add(name)
        named = self._check_name(place, name)
        table = self.faults.shape(_HostTable, value, place)
        if table is None or not named:
            return
        router = next((router for router in self.routers if router.name == table.router), None)
        if router is None:
            if table.router not in self.bad:
                self.faults.at(f"{place}.router", f"there is no router {table.router!r}")
        elif router.lan is None or router.gateway is None:
            self.faults.at(f"{place}.router", f"router {router.name} has no lan")
        else:
            self._place_host(place, name, table, router, router.lan)

    def _place_host(self, place: str, name: str, table: _HostTable, router: Router, lan: Prefix) -> None:
        taken = {host.address for host in self.hosts} | {router.gateway}
        if table.gateway:
            gateway = self._host_address(f"{place}.gateway", table.gateway)
            if gateway and gateway != router.gateway:
                others = [host for host in self.hosts if host.router == router.name]
                if gateway not in lan or others:
                    self.faults.at(
                        f"{place}.gateway", f"the gateway in {lan} is the router's, the same for all its hosts"
                    )
                    return
                router = replace(router, gateway=gateway)
                self.routers[[r.name for r in self.routers].index(router.name)] = router
                taken = {gateway}
        address = self._address_in(f"{place}.address", table.address, lan, taken)
        if table.desktop and table.desktop not in DESKTOPS:
            self.faults.at(
                f"{place}.desktop", f"unknown desktop {table.desktop[:40]!r}; there is {', '.join(DESKTOPS)}"
            )
        if address and router.gateway:
            self.hosts.append(Host(name, router.name, address, lan.length, router.gateway, table.desktop))

    def _address_in(self, place: str, text: str, lan: Prefix, taken: set[Address | None]) -> Address | None:
        last = (1 << (32 - lan.length)) - 2
        if not text:
            for number in [*range(_FIRST_HOST, last + 1), *range(1, min(_FIRST_HOST, last + 1))]:
                if (address := nth(lan, number)) not in taken:
                    return address
            self.faults.at(place, f"no address is left in {lan}")
            return None
        head, slash, length = text.partition("/")
        address = self._host_address(place, head) or b""
        if not address:
            return None
        if mask(address, lan.length) != lan.packed or address in (lan.packed, nth(lan, last + 1)):
            self.faults.at(place, f"{head} is no address for a host in {lan}")
        elif slash and length != str(lan.length):
            self.faults.at(place, f"the length of the lan is /{lan.length}")
        elif address in taken:
            self.faults.at(place, f"{head} is taken")
        else:
            return address
        return None

    # --- links and the whole -----------------------------------------------------------------------------------------

    def _read_links(self) -> list[tuple[str, str, int, int]]:
        entries = self.tables.get("link", [])
        if not isinstance(entries, list):
            self.faults.at("link", "write [[link]], with two pairs of brackets")
            return []
        found: list[tuple[str, str, int, int]] = []
        routers = {router.name for router in self.routers}
        for index, value in enumerate(entries):
            place = f"link[{index}]"
            table = self.faults.shape(_LinkTable, value, place)
            if table is None:
                continue
            a, b = table.ends
            unknown = [end for end in table.ends if end not in routers and end not in self.bad]
            for end in unknown:
                host = any(host.name == end for host in self.hosts)
                what = f"{end} is a host; it is linked by its key `router`" if host else f"there is no router {end!r}"
                self.faults.at(f"{place}.ends", what)
            if a == b:
                self.faults.at(f"{place}.ends", f"from {a} to itself")
            elif a in routers and b in routers:
                found.append((a, b, table.cost, table.mtu))
        return found

    def _check_desktops(self, topology: Topology) -> None:
        if len(topology.desktops) > MAX_DESKTOPS:
            self.faults.at("host", f"{len(topology.desktops)} desktops; at most {MAX_DESKTOPS}")
        for host in topology.desktops:
            if topology.viewer(host) is None:
                what = "nobody can look at it: there is no host behind another router with a way to it"
                self.faults.at(f"host.{host.name}.desktop", what)

    def _check_islands(self) -> None:
        lans = [(f"router.{router.name}.lan", router.lan) for router in self.routers if router.lan]
        own = [
            (f"router.{router.name}.address", Prefix(router.address, 32)) for router in self.routers if router.address
        ]
        # Sorted by address, a network that overlaps another follows one that covers it.
        cover: tuple[str, Prefix] | None = None
        for place, prefix in sorted(lans + own, key=lambda entry: entry[1]):
            if cover and cover[1].covers(prefix):
                self.faults.at(place, f"{prefix} overlaps {cover[0]} ({cover[1]})")
            else:
                cover = place, prefix
