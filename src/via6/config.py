"""What a configuration declares: routes, as values that plan, apply, run and render share, and the Babel speaker.

`[node]`, `[babel]`, `[gateway]` and `[[host]]` are the speaker's (`config_babel` has the values, `config_tables` reads
them). A `[[route]]` table has the keys

    to      a prefix or a list of prefixes; "default" is 0.0.0.0/0, the IPv6 default is "::/0"; "10/8" is short for
            10.0.0.0/8 and a bare address means that one host
    via     a next hop of either family ("2001:db8::1", "fe80::1%eth1"), or a list of next hops, each such a text or
            a table {via=, dev=, weight=}; several make the route multipath
    dev     the device, for all next hops that name none; without `via` the destination is on that link itself
    src     the source address that packets of this node take
    metric  the smaller wins; table: a number, or "main" or "default"
    type    unicast, or without any next hop blackhole, unreachable, prohibit
    mtu     of this path, in octets

`parse` tells every mistake at once. It knows the file alone: whether a device exists or a next hop is on link only
the node can tell (plan, apply, run).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from via6.babel.model import LinkSettings
from via6.config_babel import BabelSpec, GatewaySpec, HostSpec, KeySpec, LinkSpec, NodeSpec, Rule, TraceSpec
from via6.config_tables import read as read_tables
from via6.config_text import HopTable, Lines, Problem, RawRoute, device_fault, read, short
from via6.model import TABLE_DEFAULT, TABLE_MAIN
from via6.prefix import (
    AF_INET6,
    Address,
    Prefix,
    PrefixError,
    PrefixMap,
    format_address,
    is_link_local,
    is_multicast,
    is_v4_mapped,
    parse_prefix,
    parse_scoped,
)

__all__ = [
    "BabelSpec", "Config", "GatewaySpec", "HostSpec", "KeySpec", "LinkSpec", "NodeSpec", "Problem", "RouteSpec", "Rule",
    "TraceSpec", "ViaSpec", "declared", "parse",
]  # fmt: skip

TYPES: Final = ("unicast", "blackhole", "unreachable", "prohibit")
_TABLES: Final = {"main": TABLE_MAIN, "default": TABLE_DEFAULT}
_U32: Final = 2**32 - 1
_NO_NODE: Final = NodeSpec()
_TRACE: Final = TraceSpec()


@dataclass(frozen=True, slots=True)
class ViaSpec:
    """One next hop as declared: `address` None means on the link `dev` itself, `dev` '' that the kernel shall find
    it; `weight` 1 to 256."""

    address: Address | None = None
    dev: str = ""
    weight: int = 1

    def __str__(self) -> str:
        """`fe80::1 dev eth1`"""
        words = [format_address(self.address)] if self.address else []
        return " ".join(words + (["dev", self.dev] if self.dev else []))


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """One declared route. `metric` 0 and `mtu` 0 mean none was given; `place` is file, line and path, for messages."""

    to: Prefix
    vias: tuple[ViaSpec, ...] = ()
    type: str = "unicast"
    src: Address | None = None
    metric: int = 0
    table: int = TABLE_MAIN
    mtu: int = 0
    place: str = ""

    @property
    def slot(self) -> tuple[Address, int, int, int]:
        """What the kernel tells routes apart by: octets, length, table, metric (IPv6 makes 1024 of none)."""
        metric = self.metric or (1024 if self.to.family == AF_INET6 else 0)
        return self.to.packed, self.to.length, self.table, metric


@dataclass(frozen=True, slots=True)
class Config:
    """A file without errors, in the order of the file.

    `babel` None: no Babel is spoken. `gateway` None: this node does not offer its IPv4 default route to the others.
    Neither `gateway` nor `hosts` stand without `babel`. What is announced and what is taken, `policy` says.
    """

    routes: tuple[RouteSpec, ...] = ()
    node: NodeSpec = _NO_NODE
    babel: BabelSpec | None = None
    gateway: GatewaySpec | None = None
    hosts: tuple[HostSpec, ...] = ()
    trace: TraceSpec = _TRACE

    def link(self, name: str) -> LinkSettings | None:
        """How Babel is spoken on the interface of this name; None: not at all. Where hosts are declared, only the
        addresses of those that speak Babel themselves are taken from neighbours."""
        settings = self.babel.link(name) if self.babel is not None else None
        hosts = [host for host in self.hosts if host.interface == name]
        if settings is None or not hosts:
            return settings
        allowed = tuple(Prefix(address, 32) for host in hosts if host.speaks for address in host.addresses)
        return replace(settings, allowed=allowed)


class _Report:
    """Collects problems of one route; the line is looked up only for a problem."""

    def __init__(self, raw: RawRoute, lines: Lines, into: list[Problem]) -> None:
        self.raw = raw
        self._lines = lines
        self._into = into

    def __call__(self, at: str, message: str, remedy: str, severity: str = "error") -> None:
        """`at` is the path below the route: `via[1].weight`, or '' for the route itself."""
        key = at.partition(".")[0].partition("[")[0]
        line = self._lines.key(self.raw.index, key) if key else self._lines.header(self.raw.index)
        place = f"route[{self.raw.index}]" + (f".{at}" if at else "")
        self._into.append(Problem(place, message, remedy, line, severity))


# --- one value -----------------------------------------------------------------------------------------------------


def _split(error: PrefixError, remedy: str) -> tuple[str, str]:
    """Message and remedy of a PrefixError, which carries both where it knows better than `remedy`."""
    message, found, better = str(error).partition(": write ")
    return message, f"write {better}" if found else remedy


def _destinations(report: _Report, to: str | list[str]) -> Iterator[tuple[str, Prefix]]:
    """(path, prefix) for each good destination."""
    if to == [] and "to" not in report.raw.bad:
        report("to", "is an empty list", 'name a prefix: to = "10.0.0.0/8"')
    for at, text in [("to", to)] if isinstance(to, str) else [(f"to[{i}]", t) for i, t in enumerate(to)]:
        try:
            prefix = parse_prefix(text)
        except PrefixError as error:
            report(at, *_split(error, 'write a prefix such as "10.0.0.0/8", "2001:db8::/32" or "default"'))
            continue
        if prefix.length >= 96 and is_v4_mapped(prefix.packed):
            plain = Prefix(prefix.packed[12:], prefix.length - 96)
            report(at, f"{text!r} is IPv4-mapped: no packet has such a destination", f"write {plain}")
            continue
        yield at, prefix


# A large file has few neighbours and devices and names them again and again.
_scoped = lru_cache(4096)(parse_scoped)


def _device(report: _Report, at: str, name: str) -> str:
    """`name` if it can be one, else ''."""
    fault = device_fault(name)
    if fault:
        report(at, fault, "`ip -br link` lists the devices of a node")
        return ""
    return name


def _next_hop_fault(address: Address, device: str) -> tuple[str, str] | None:
    text = format_address(address)
    if is_v4_mapped(address):
        plain = format_address(address[12:])
        return f"{text} is an IPv4-mapped address, never a neighbour", f"write via = {plain!r}, or a real IPv6 address"
    if not any(address):
        return f"{text} is the unspecified address", "leave `via` out for a destination on the link itself"
    if is_multicast(address):
        return f"{text} is a multicast address", "a next hop is one router: write its own address"
    if address == b"\0" * 15 + b"\x01" or (address[:1] == b"\x7f" and len(address) == 4):
        return f"{text} is this node itself", "write the address of the neighbour"
    if len(address) == 16 and is_link_local(address) and not device:
        return f"{text} is link-local: it means nothing without a device", f'write via = "{text}%eth1" or add dev ='
    return None


def _via(report: _Report, at: str, hop: str | HopTable, default: str) -> ViaSpec | None:
    """One next hop; `default` is the device of the route."""
    table = HopTable(via=hop) if isinstance(hop, str) else hop
    inner = f"{at}." if not isinstance(hop, str) else ""
    device = default if table.dev is None else _device(report, f"{at}.dev", table.dev)
    if not 1 <= table.weight <= 256:
        report(f"{inner}weight", f"weight {short(table.weight)} is out of range", "a weight is a number from 1 to 256")
        return None
    if table.via is None:
        if not device and table.dev is None and "dev" not in report.raw.bad:
            report(at, "has neither `via` nor `dev`", 'write {via = "fe80::1", dev = "eth1"}')
        return ViaSpec(None, device, table.weight) if device else None
    at = f"{inner}via" if inner else at
    try:
        address, zone = _scoped(table.via)
    except PrefixError as error:
        bare, slash, _ = table.via.partition("/")
        remedy = f'a next hop has no length: write "{bare}"' if slash else 'write an address: "fe80::1%eth1"'
        report(at, *_split(error, remedy))
        return None
    if zone and _device(report, at, zone):
        if device and device != zone:
            report(at, f"{table.via!r} says device {zone!r}, dev says {device!r}", "keep one of the two")
            return None
        device = zone
    elif zone:
        return None
    # A device that was given but is unusable was told already; it shall not be called missing.
    fault = _next_hop_fault(address, device or ("?" if "dev" in report.raw.bad or table.dev is not None else ""))
    if fault:
        report(at, *fault)
        return None
    return ViaSpec(address, device, table.weight)


def _number(report: _Report, key: str, value: int | None, low: int, high: int, remedy: str) -> int:
    """`value` if it is in range, else 0."""
    if value is None or low <= value <= high:
        return value or 0
    report(key, f"{key} {short(value)} is out of range", f"{remedy} from {low} to {high}")
    return 0


# --- one route -----------------------------------------------------------------------------------------------------


def _vias(report: _Report) -> tuple[ViaSpec, ...]:
    raw = report.raw.table
    device = "" if raw.dev is None else _device(report, "dev", raw.dev)
    if raw.dev is not None and not device:
        report.raw = replace(report.raw, bad=report.raw.bad | {"dev"})
    if raw.via is None:
        if not raw.dev and not report.raw.bad & {"via", "dev"}:
            report("", "has neither `via` nor `dev`", 'add via = "fe80::1%eth1", or type = "blackhole"')
        return (ViaSpec(None, device),) if device and "via" not in report.raw.bad else ()
    if not isinstance(raw.via, list):
        one = _via(report, "via", raw.via, device)
        return (one,) if one else ()
    if not raw.via:
        report("via", "is an empty list", 'name a next hop: via = "fe80::1%eth1"')
    found: dict[tuple[Address | None, str], ViaSpec] = {}
    for index, hop in enumerate(raw.via):
        spec = _via(report, f"via[{index}]", hop, device) if hop is not None else None
        if not spec:
            continue
        if (spec.address, spec.dev) in found:
            report(f"via[{index}]", f"the next hop {spec} stands twice", "give it a weight = instead")
        found[spec.address, spec.dev] = spec
    return tuple(found.values())


def _way(report: _Report) -> tuple[ViaSpec, ...]:
    """The next hops, if the type may have any."""
    raw = report.raw.table
    if raw.type not in TYPES:
        report("type", f"unknown type {raw.type!r}", "one of " + ", ".join(TYPES))
        return ()
    if raw.type == "unicast":
        return _vias(report)
    for key in ("via", "dev", "src", "mtu"):
        if getattr(raw, key) is not None:
            report(key, f"a {raw.type} route drops its packets: it has no {key}", f"leave out {key} or type")
    return ()


def _source(report: _Report, text: str | None, families: set[int]) -> Address | None:
    if text is None:
        return None
    try:
        address, zone = _scoped(text)
    except PrefixError as error:
        bare, slash, _ = text.partition("/")
        remedy = f'an address has no length: write "{bare}"' if slash else "write an address of this node"
        report("src", *_split(error, remedy))
        return None
    remedy = "write an address that this node has"
    if zone:
        report("src", f"{text!r}: a source address has no device", f'write "{format_address(address)}"')
    elif not any(address) or is_multicast(address) or is_v4_mapped(address):
        report("src", f"{text!r} cannot be the source of a packet", remedy)
    elif families - {2 if len(address) == 4 else AF_INET6}:
        other = "IPv4" if len(address) == 16 else "IPv6"
        report("src", f"{text!r} is of the other family than the packets of this route", f"write an {other} address")
    else:
        return address
    return None


def _table(report: _Report, value: int | str | None) -> int:
    if isinstance(value, str):
        if value in _TABLES:
            return _TABLES[value]
        report("table", f"unknown table {value!r}", 'write its number (/etc/iproute2/rt_tables), "main" or "default"')
        return TABLE_MAIN
    remedy = "leave it out for the main table, or write a number"
    return _number(report, "table", value, 1, _U32, remedy) or TABLE_MAIN


def _family_faults(report: _Report, at: str, prefix: Prefix, vias: tuple[ViaSpec, ...]) -> None:
    if prefix.family != AF_INET6:
        return
    for via in vias:
        if via.address is None and len(vias) > 1:
            report("via", f"{prefix} ({at}) has a next hop without address: the kernel allows that for IPv4 alone",
                   "give each of several next hops its via =")  # fmt: skip
        elif via.address is not None and len(via.address) == 4:
            text = format_address(via.address)
            report("via", f"{prefix} ({at}) cannot go via {text}: an IPv6 route needs an IPv6 next hop",
                   "write the neighbour's IPv6 address")  # fmt: skip
        elif via.address is not None and prefix.is_host and prefix.packed == via.address:
            report("via", f"the next hop {via} is the destination itself: the way to it leads through it",
                   "leave `via` out and name its `dev`, or take another next hop")  # fmt: skip


def _route(raw: RawRoute, lines: Lines, problems: list[Problem], name: str) -> list[tuple[RouteSpec, str]]:
    """(route, path of its destination) for each destination; the specs of a route with errors are of no use."""
    report = _Report(raw, lines, problems)
    table = raw.table
    destinations = list(_destinations(report, table.to))
    vias = _way(report)
    families = {prefix.family for _, prefix in destinations}
    src = _source(report, table.src, families) if table.type == "unicast" else None
    metric = _number(report, "metric", table.metric, 0, _U32, "a number")
    number = _table(report, table.table)
    low = 1280 if AF_INET6 in families else 68
    mtu = _number(report, "mtu", table.mtu, low, 65535, "a number of octets") if table.type == "unicast" else 0
    line = lines.header(raw.index)
    where = f"{name}:{line}: route[{raw.index}]" if line else f"{name}: route[{raw.index}]"
    found = []
    for at, prefix in destinations:
        _family_faults(report, at, prefix, vias)
        place = where if at == "to" else f"{where}.{at}"
        found.append((RouteSpec(prefix, vias, table.type, src, metric, number, mtu, place), at))
    return found


# --- all of them ---------------------------------------------------------------------------------------------------


def _conflicts(found: list[tuple[RouteSpec, str, _Report]]) -> list[RouteSpec]:
    """Reports routes that want one slot; returns the routes without the repetitions."""
    slots: dict[tuple[Address, int, int, int], RouteSpec] = {}
    for spec, at, report in found:
        first = slots.setdefault(spec.slot, spec)
        if first is spec:
            continue
        if replace(first, place="") == replace(spec, place=""):
            report(at, f"{spec.to} stands already, the same, at {first.place}", "leave one of the two out", "warning")
        else:
            report(at, f"{spec.to} contradicts {first.place}: same destination, table and metric, another way",
                   "give one of them another metric, or put both next hops into one: via = [..., ...]")  # fmt: skip
    return list(slots.values())


def _beside_babel(found: list[tuple[RouteSpec, str, _Report]], babel: BabelSpec | None) -> None:
    """Reports routes in the three slots that Babel's routes, their backups and its unreachable routes stand in."""
    if babel is None:
        return
    first = babel.kernel_metric
    for spec, at, report in found:
        if spec.table == TABLE_MAIN and first <= spec.slot[3] < first + 3 and len(spec.to.packed) in babel.families:
            report(
                "metric" if spec.metric else at,
                f"metric {spec.slot[3]} is Babel's: its routes have {first} to {first + 2}",
                "take a smaller one to be preferred to Babel, a larger one to be its last resort",
            )


def _inside_itself(found: list[tuple[RouteSpec, str, _Report]]) -> None:
    """Warns of a next hop that its own route would be the way to. It may be right, if the link has a longer prefix;
    that is for the node to know, so no device, no other declared route and no default route may explain it."""
    declared: PrefixMap[bool] | None = None
    for spec, _, report in found:
        if not spec.to.length:
            continue
        for via in spec.vias:
            if via.address is None or via.dev or via.address not in spec.to or len(via.address) == 4:
                continue
            if declared is None:
                declared = PrefixMap({other.to: True for other, _, _ in found})
            best = declared.lookup(via.address)
            if best and best[0] == spec.to and not spec.to.is_host:
                report("via", f"the next hop {via} lies inside {spec.to}, which leads through it",
                       "name its `dev`, or declare the longer prefix it is in", "warning")  # fmt: skip


def declared(tables: Mapping[str, Any], name: str) -> tuple[Config | None, list[Problem]]:
    """The same from tables that did not come from a file: `node`, `babel`, `gateway` and `host`. Never raises."""
    found, problems = read_tables(tables, Lines(""), name)
    problems = [replace(p, file=name) for p in problems]
    if any(p.severity == "error" for p in problems):
        return None, problems
    return Config((), found.node, found.babel, found.gateway, found.hosts, found.trace), problems


def parse(data: bytes, name: str) -> tuple[Config | None, list[Problem]]:
    """What a TOML text declares, and every mistake in the order of lines.

    `name` stands in the places. Config is None if there is an error; warnings alone leave it usable. Never raises.
    """
    document = read(data)
    problems = list(document.problems)
    found: list[tuple[RouteSpec, str, _Report]] = []
    for raw in document.routes:
        before = len(problems)
        specs = _route(raw, document.lines, problems, name)
        if not raw.bad and len(problems) == before:
            report = _Report(raw, document.lines, problems)
            found += [(spec, at, report) for spec, at in specs]
    routes = _conflicts(found)
    _inside_itself(found)
    tables, faults = read_tables(document.tables, document.lines, name, document.spoiled)
    problems += faults
    _beside_babel(found, tables.babel)
    if not document.routes and tables.babel is None and not problems:
        remedy = 'declare one: [[route]] to = "10.0.0.0/8" via = "fe80::1%eth1"; or speak Babel: [babel]'
        problems.append(Problem("", "declares no routes", remedy, 0, "warning"))
    problems = [replace(p, file=name) for p in sorted(problems, key=lambda p: p.line)]
    if any(p.severity == "error" for p in problems):
        return None, problems
    return Config(tuple(routes), tables.node, tables.babel, tables.gateway, tables.hosts, tables.trace), problems
