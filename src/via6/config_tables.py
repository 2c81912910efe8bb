"""Reads `[node]`, `[babel]`, `[gateway]` and `[[host]]`: from tables of any shape to values, all mistakes at once.

A table is first brought to its shape (`config_shape`). What is left is judged by its meaning, and at the end the tables
against each other. `via6 up` makes such tables of its options and has them read here, so both ways of saying a thing
are one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from via6.config_babel import (
    ALGORITHMS,
    IPV4,
    KERNEL_METRIC,
    MAX_GLOBS,
    MAX_KEYS,
    WEAK_BELOW,
    BabelSpec,
    GatewaySpec,
    HostSpec,
    KeySpec,
    LinkSpec,
    NodeSpec,
    TraceSpec,
    is_martian,
    name_fault,
    secret_fault,
)
from via6.config_rules import explicit_default, rules
from via6.config_shape import (
    COST,
    HELLO_MS,
    KERNEL_METRICS,
    METRIC,
    UPDATE_MS,
    WANTED,
    BabelTable,
    GatewayTable,
    HostTable,
    InterfaceTable,
    KeyTable,
    NodeTable,
    Report,
    TraceTable,
    as_list,
    glob_fault,
    is_glob,
    number,
    shaped,
)  # fmt: skip
from via6.config_text import Lines, Problem, device_fault, noun
from via6.prefix import Address, Prefix, PrefixError, format_address, is_multicast, is_v4_mapped, parse_scoped

Defined = list[tuple[KeySpec, Report]]
"""Keys, and where they stand."""


@dataclass(frozen=True, slots=True)
class Tables:
    """What `read` found; of use if it told no error."""

    node: NodeSpec = NodeSpec()  # noqa: RUF009 - frozen
    babel: BabelSpec | None = None
    gateway: GatewaySpec | None = None
    hosts: tuple[HostSpec, ...] = ()
    trace: TraceSpec = TraceSpec()  # noqa: RUF009 - frozen


# --- addresses -----------------------------------------------------------------------------------------------------


def _ipv4(report: Report, at: str, text: str) -> Address | None:
    """One unicast IPv4 address; `/32` may stand behind it."""
    bare = text.removesuffix("/32")
    try:
        address, zone = parse_scoped(bare)
    except PrefixError as error:
        head, slash, _ = text.partition("/")
        remedy = f'it is one address: write "{head}"' if slash else 'write an IPv4 address: "10.0.8.42"'
        report(at, str(error).partition(": write ")[0], remedy)
        return None
    if zone or len(address) != 4:
        report(at, f"{text!r} is not an IPv4 address", "IPv6 addresses are not via6's: write an IPv4 address")
    elif is_martian(Prefix(address, 32)):
        report(at, f"{text!r} is an address that no other node can send to", 'write a unicast one: "10.0.8.42"')
    else:
        return address
    return None


def _mac(report: Report, text: str | None) -> bytes | None:
    if text is None:
        return None
    remedy = 'six octets: mac = "52:54:00:12:34:56"'
    if not re.fullmatch("[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}", text):
        report("mac", f"{text!r} is no link-layer address", remedy)
        return None
    octets = bytes.fromhex(re.sub("[:-]", "", text))
    if octets[0] & 1 or not any(octets):
        report("mac", f"{text!r} is not the address of one host", remedy)
        return None
    return octets


def _neighbour(report: Report, text: str | None) -> tuple[Address | None, str]:
    """(IPv6 address, device behind the percent sign)"""
    if text is None:
        return None, ""
    remedy = 'write the IPv6 address of the host on this link: via = "fe80::22"'
    try:
        address, zone = parse_scoped(text)
    except PrefixError as error:
        report("via", str(error), remedy)
        return None, ""
    shown = format_address(address)
    if len(address) == 4:
        report("via", f"{text!r} is an IPv4 address: the link has none", remedy)
    elif is_v4_mapped(address) or is_multicast(address) or address in (bytes(16), bytes(15) + b"\1"):
        report("via", f"{shown} is not the address of one neighbour", remedy)
    else:
        return address, zone
    return None, zone


# --- interfaces ----------------------------------------------------------------------------------------------------


def _interfaces(report: Report, given: str | list[str] | None) -> tuple[str, ...]:
    globs = as_list(given)
    remedy = 'name those to other routers: interfaces = ["eth1", "wg*"]'
    if given is None:
        report("", "has no `interfaces`", remedy)
    elif not any(not glob.startswith("!") for glob in globs):
        report("interfaces", "names no interface", remedy)
    if len(globs) > MAX_GLOBS:
        report("interfaces", f"{len(globs)} names", f"{MAX_GLOBS} at most: write patterns")
        return ()
    for index, glob in enumerate(globs):
        at = f"interfaces[{index}]" if isinstance(given, list) else "interfaces"
        fault = glob_fault(glob.removeprefix("!"))
        if fault:
            report(at, *fault)
        elif glob in globs[:index]:
            report(at, f"{glob!r} stands twice", "leave one of the two out", "warning")
        elif glob.startswith("!") and glob[1:] in globs:
            report(at, f"{glob[1:]!r} is named and excluded", "keep one of the two")
    return tuple(dict.fromkeys(globs))


def _link(report: Report, table: InterfaceTable, keys: Defined) -> LinkSpec:
    return LinkSpec(
        number(report, "cost", table.cost, COST),
        number(report, "hello_interval_ms", table.hello_interval_ms, HELLO_MS, 10),
        number(report, "update_interval_ms", table.update_interval_ms, UPDATE_MS, 10),
        table.split_horizon,
        _keys(report, table.key, keys),
        table.accept_all,
    )


# --- keys ----------------------------------------------------------------------------------------------------------


def _keys(report: Report, value: Any, defined: Defined) -> tuple[str, ...] | None:
    """Names and paths in order; tables among them are definitions and go to `defined`."""
    if value is None:
        return None
    found: list[str] = []
    elements = value if isinstance(value, list) else [value]
    for index, element in enumerate(elements):
        at = f"key[{index}]" if isinstance(value, list) else "key"
        if isinstance(element, dict):
            below = report.below(at, "key", index=index)
            spec = _key(below, element)
            if spec is not None:
                defined.append((spec, below))
                found.append(spec.name)
        elif isinstance(element, str):
            fault = "" if "/" in element and element.isprintable() else name_fault(element)
            if fault:
                report(at, fault, 'a path of a key file has a \'/\': "/etc/via6/babel.keys", "./babel.keys"')
            else:
                found.append(element)
        elif element is not None:
            report(at, f"is {noun(element)}", "wanted: the name of a key, a path with a '/', or [[babel.key]]")
    if len(found) > MAX_KEYS:
        report("key", f"{len(found)} keys: each signs every packet", f"use {MAX_KEYS} at most")
    return tuple(dict.fromkeys(found))


def _key(report: Report, raw: dict[str, Any]) -> KeySpec | None:
    before = len(report.into)
    table = shaped(KeyTable, raw, report)
    if table.name is None:
        if "name" not in raw:
            report("", "has no `name`", "wanted: " + WANTED["name"].replace("r1", "backbone"))
        return None
    fault = name_fault(table.name)
    if fault:
        report("name", fault, 'write a word: name = "backbone"')
    if table.algorithm is not None and table.algorithm not in ALGORITHMS:
        report("algorithm", f"unknown algorithm {table.algorithm[:80]!r}", "one of " + ", ".join(ALGORITHMS))
    if table.secret is not None and table.file is not None:
        report("file", "`secret` and `file` both say what the key is", "keep one of the two")
    elif table.secret is not None:
        algorithm = table.algorithm or next(iter(ALGORITHMS))
        fault = secret_fault(algorithm, table.secret)
        if fault:
            report("secret", fault, "`openssl rand -hex 32` makes a good one")
        elif len(table.secret) // 2 < WEAK_BELOW:
            octets = len(table.secret) // 2
            report(
                "secret", f"{octets} octets: it can be guessed", "`openssl rand -hex 32` makes a good one", "warning"
            )
    elif table.file is None and not raw.keys() & {"secret", "file"}:
        report("", "has neither `secret` nor `file`", 'write secret = "…": `openssl rand -hex 32` makes one')
    elif table.file is not None and ("\0" in table.file or not table.file):
        report("file", f"{table.file!r} is no path", "wanted: " + WANTED["file"])
    if any(problem.severity == "error" for problem in report.into[before:]):
        return KeySpec(table.name) if not name_fault(table.name) else None
    algorithm = table.algorithm or ("" if table.file else next(iter(ALGORITHMS)))
    return KeySpec(table.name, algorithm, bytes.fromhex(table.secret or ""), table.file or "")


def _key_faults(spec: BabelSpec, reports: Iterable[tuple[Report, LinkSpec]], defined: Defined) -> None:
    names: set[str] = set()
    signed = any(link.keys for link in (spec.common, *(s for _, s in spec.interface)))
    for key, where in defined:
        if key.name in names:
            where("name", f"the key {key.name!r} is defined twice", "give one of them another name")
        names.add(key.name)
    for where, link in reports:
        for name in link.keys or ():
            if "/" not in name and name not in names:
                known = ", ".join(sorted(names)[:20]) or "none"
                where("key", f"there is no key {name!r}: those defined are {known}",
                      'define it: [[babel.key]] name = …, or write the path of a key file with a "/"')  # fmt: skip
        if link.accept_all and not signed:
            where("accept_all", "accept_all takes what other keys have signed, and there is no key",
                  "add a key, or leave accept_all out: without a key all is taken anyway")  # fmt: skip


# --- [babel] -------------------------------------------------------------------------------------------------------


def _families(report: Report, given: str | list[str] | None) -> frozenset[int]:
    sizes = {"ipv4": 4, "ipv6": 16}
    found = set()
    for word in as_list(given):
        if word in sizes:
            found.add(sizes[word])
        else:
            report("families", f"unknown family {word!r}", 'one or both of ["ipv4", "ipv6"]')
    if given == []:
        report("families", "is an empty list: nothing would be carried", 'write families = ["ipv4"]')
    return frozenset(found) or IPV4


def _babel(report: Report, raw: dict[str, Any], *, whole: bool) -> BabelSpec:
    """Not `whole`: part of it has syntax errors, so what is missing is not told."""
    table = shaped(BabelTable, raw, report)
    defined: Defined = []
    families = _families(report, table.families)
    good = table.interfaces is not None or "interfaces" not in raw  # else it was told that its form is wrong
    globs = _interfaces(report, table.interfaces) if good and (whole or table.interfaces) else ()
    common = _link(report, table, defined)
    reports = [(report, common)]
    links = []
    if table.interface and len(table.interface) > MAX_GLOBS:
        report("interface", f"{len(table.interface)} tables", f"{MAX_GLOBS} at most: write patterns")
        table.interface = None
    for glob, inner in (table.interface or {}).items():
        below = report.below(f'interface."{glob}"', "interface", glob)
        fault = glob_fault(glob)
        if fault:
            below("", *fault)
        link = _link(below, shaped(InterfaceTable, inner, below), defined)
        links.append((glob, link))
        reports.append((below, link))
    metric = number(report, "kernel_metric", table.kernel_metric, KERNEL_METRICS)
    spec = BabelSpec(
        globs,
        rules(report, "export", table.export, families) or (),
        rules(report, "import", table.import_, families),
        families,
        KERNEL_METRIC if metric is None else metric,
        common,
        tuple(links),
        tuple(key for key, _ in defined),
    )
    if whole:
        _key_faults(spec, reports, defined)
    for glob, _ in links:
        if globs and not is_glob(glob) and not glob_fault(glob) and not spec.speaks_on(glob):
            report.below(f'interface."{glob}"', "interface", glob)(
                "", f"Babel is not spoken on {glob}: none of `interfaces` fits", f'add "{glob}" to interfaces'
            )
    return spec


# --- [gateway] and [[host]] ----------------------------------------------------------------------------------------


def _gateway(report: Report, raw: dict[str, Any], babel: BabelSpec | None) -> GatewaySpec:
    table = shaped(GatewayTable, raw, report)
    if table.uplink is not None:
        fault = glob_fault(table.uplink)
        if fault:
            report("uplink", *fault)
    metric = number(report, "metric", table.metric, METRIC)
    if babel is not None and 4 not in babel.families:
        report("", "offers an IPv4 default route, and IPv4 is not carried", 'write families = ["ipv4", "ipv6"]')
    if babel is not None and explicit_default(babel.exports):
        message = "announces the default route, and so does export: this table decides"
        report("", message, 'leave "default" out of export', "warning")
    return GatewaySpec(table.masquerade, table.uplink or "", metric or 0)


def _host(report: Report, raw: dict[str, Any], babel: BabelSpec | None, name: str) -> HostSpec | None:
    before = len(report.into)
    table = shaped(HostTable, raw, report)
    if (not table.address and "address" not in raw) or table.address == []:
        report("address", "has no `address`", "wanted: " + WANTED["address"].replace("10.0.0.1", "10.0.8.42"))
    found = []
    for index, text in enumerate(as_list(table.address)):
        address = _ipv4(report, f"address[{index}]" if isinstance(table.address, list) else "address", text)
        if address is not None:
            found.append(address)
    mac = _mac(report, table.mac)
    via, zone = _neighbour(report, table.via)
    if table.mac is not None and table.via is not None:
        report("via", "`mac` and `via` both say who the neighbour is", "keep one of the two")
    device = table.interface if table.interface is not None else zone
    if not device and "interface" not in raw:
        report("", "has no `interface`", 'name the link to the host: interface = "lan0"')
    elif device and (is_glob(device) or device_fault(device)):
        report("interface" if table.interface is not None else "via",
               device_fault(device) or f"{device!r} may be several interfaces",
               'a host is on one link: interface = "lan0"')  # fmt: skip
    elif table.interface is not None and zone and zone != table.interface:
        report("via", f"{table.via!r} says device {zone!r}, interface says {table.interface!r}", "keep one of the two")
    elif not raw.keys() & {"mac", "via"} and babel is not None and device and not babel.speaks_on(device):
        report("", f"has neither `mac` nor `via`, so it must speak Babel itself, which is not spoken on {device}",
               f'add mac = or via =, or add "{device}" to interfaces')  # fmt: skip
    if any(problem.severity == "error" for problem in report.into[before:]):
        return None
    line = report.lines.find(report.parts, report.index)
    place = f"{name}:{line}: {report.where}" if line else f"{name}: {report.where}"
    return HostSpec(tuple(dict.fromkeys(found)), device or "", mac, via, place)


def _hosts(raw: Any, lines: Lines, problems: list[Problem], babel: BabelSpec | None, name: str) -> tuple[HostSpec, ...]:
    if not isinstance(raw, list):
        remedy = "write [[host]] with two brackets: there may be several"
        problems.append(Problem("host", f"is {noun(raw)}, not a list of tables", remedy, lines.top("host")))
        return ()
    found: list[HostSpec] = []
    owner: dict[Address, HostSpec] = {}
    for index, table in enumerate(raw):
        report = Report(f"host[{index}]", ("host",), index, lines, problems)
        if table is None:
            continue
        if not isinstance(table, dict):
            report("", f"is {noun(table)}, not a table", "write [[host]]")
            continue
        host = _host(report, table, babel, name)
        if host is None:
            continue
        found.append(host)
        for address in host.addresses:
            first = owner.setdefault(address, host)
            if first is not host:
                report("address", f"{format_address(address)} is that of {first.place} as well",
                       "an address belongs to one host")  # fmt: skip
    return tuple(found)


def _node(report: Report, raw: dict[str, Any]) -> NodeSpec:
    table = shaped(NodeTable, raw, report)
    name = table.name
    if name is not None and (not name or len(name) > 64 or not name.isprintable() or any(c.isspace() for c in name)):
        report("name", f"{name[:80]!r} is no name of a node", "1 to 64 characters without blanks")
    address = _ipv4(report, "address", table.address) if table.address is not None else None
    return NodeSpec(name or "", address)


def _trace(report: Report, raw: dict[str, Any]) -> TraceSpec:
    table = shaped(TraceTable, raw, report)
    return TraceSpec(table.answer, _interfaces(report, table.interfaces) if table.interfaces is not None else ())


def _conflicts(found: Tables, reports: Mapping[str, Report]) -> None:
    address = found.node.address
    if address is None:
        return
    text = format_address(address)
    for index, host in enumerate(found.hosts):
        if address in host.addresses:
            reports["node"]("address", f"{text} is that of host[{index}] as well", "an address belongs to one node")
    if found.babel is None or 4 not in found.babel.families:
        return
    own = Prefix(address, 32)
    if not any(
        not rule.deny and ((rule.source == "connected" and rule.fits(own)) or any(p.covers(own) for p in rule.prefixes))
        for rule in found.babel.exports
    ):
        reports["node"]("address", f"{text} is not exported: others cannot answer to it",
                        f'add "{own}" or "connected" to export', "warning")  # fmt: skip


def read(
    tables: Mapping[str, Any], lines: Lines, name: str, spoiled: frozenset[tuple[str, ...]] = frozenset()
) -> tuple[Tables, list[Problem]]:
    """The values of these tables, and every mistake. `spoiled` headers have syntax errors behind them: what is missing
    there is not told, and nothing is judged against it. Never raises."""
    problems: list[Problem] = []
    reports = {key: Report(key, (key,), 0, lines, problems) for key in ("node", "babel", "gateway", "trace")}
    raws: dict[str, dict[str, Any]] = {}
    for key, report in reports.items():
        if isinstance(tables.get(key), dict):
            raws[key] = tables[key]
        elif key in tables:
            remedy = f"write [{key}] with single brackets, and its keys below"
            report("", f"is {noun(tables[key])}, not a table", remedy)
    whole = all(parts[0] != "babel" for parts in spoiled)
    babel = _babel(reports["babel"], raws["babel"], whole=whole) if "babel" in raws else None
    known = babel if whole else None
    found = Tables(
        _node(reports["node"], raws["node"]) if "node" in raws else NodeSpec(),
        babel,
        _gateway(reports["gateway"], raws["gateway"], known) if "gateway" in raws else None,
        _hosts(tables["host"], lines, problems, known, name) if "host" in tables else (),
        _trace(reports["trace"], raws["trace"]) if "trace" in raws else TraceSpec(),
    )
    if "babel" not in tables and whole:
        for key in ("gateway", "host"):
            if key in tables:
                remedy = 'add [babel] with interfaces = ["eth1"]'
                problems.append(Problem(key, "nobody would hear of it: Babel is not spoken", remedy, lines.top(key)))
    _conflicts(replace(found, babel=known), reports)
    return found, problems
