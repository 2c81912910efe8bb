"""OpenBSD's `netstat -rn`, `route -n get` and `ifconfig -a` as a Node.

    Internet:
    Destination        Gateway            Flags   Refs      Use   Mtu  Prio Iface
    192.168/16         2a0a:e5c1:100::1   UGS        0        0     -     8 tun0

       route to: 192.168.7.9
    destination: 192.168.0.0
           mask: 255.255.0.0
        gateway: 2a0a:e5c1:100::1
      interface: tun0
       priority: 8 (static)
          flags: <UP,GATEWAY,DONE,STATIC>

Told in Linux's words: what is for the node itself (flag `l`, `b`) stands in table local, all else in main; the rules
are those two tables in order; the priority is the metric. Flags are those of netstat(1). A host route to a link-layer
address (`L`) is an entry of the neighbour table. Whoever has `route get` answers alone has no whole table: it is then
named in `unread`. A line that is not understood is refused: a table with a hole is no table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

from via6.errors import Refusal
from via6.model import (
    IFF_LOOPBACK,
    IFF_LOWER_UP,
    IFF_UP,
    NH_DEAD,
    PARTS,
    PROTO_KERNEL,
    PROTO_STATIC,
    TABLE_LOCAL,
    TABLE_MAIN,
    InterfaceAddress,
    Link,
    Neighbour,
    NextHop,
    Route,
    RouteTable,
    Rule,
    Snapshot,
)
from via6.observe.node import OPENBSD, Node
from via6.prefix import AF_INET, AF_INET6, Address, Prefix, PrefixError, mask, parse_address, parse_scoped

_MAC: Final = re.compile(r"^[0-9a-f]{1,2}(:[0-9a-f]{1,2}){5}$", re.IGNORECASE)
_FIELD: Final = re.compile(r"^\s*([a-z][a-z ]*): +(\S.*)$")
_INTERFACE: Final = re.compile(r"^([\w.]+): flags=\w+<([^>]*)>.*?(?: mtu (\d+))?\s*$")
_HEADINGS: Final = {"Internet": AF_INET, "Internet6": AF_INET6}
_STATIC_PRIORITIES: Final = range(8, 64)
_ONLY_GET: Final = "only answers of `route get` are here; `netstat -rn` prints the whole table"
_PF: Final = "pf is not read"


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line of netstat, or an answer of `route get`."""

    prefix: Prefix
    gateway: str
    flags: str  # netstat's letters
    dev: str
    priority: int


@dataclass
class _Reading:
    """What was found so far; ifindexes are given in order where `ifconfig` does not tell them."""

    entries: list[_Entry] = field(default_factory=list)
    whole: set[int] = field(default_factory=set)
    links: dict[str, Link] = field(default_factory=dict)
    addresses: list[InterfaceAddress] = field(default_factory=list)
    ifconfig: bool = False

    def index(self, dev: str) -> int:
        """The ifindex of an interface, one that is known by its name alone included (its MTU is then 0)."""
        if dev not in self.links:
            taken = max((link.ifindex for link in self.links.values()), default=0)
            self.links[dev] = Link(taken + 1, dev, 0, IFF_LOOPBACK if dev.startswith("lo") else 0)
        return self.links[dev].ifindex


def from_text(text: str, name: str, sysctls: Mapping[str, int] | None = None) -> Node | None:
    """The node whose `netstat -rn`, `route -n get` and `ifconfig -a`, any of them, in any order, this is; None if it
    is none of it. Raises Refusal for a line that is not understood."""
    reading = _Reading()
    # `ifconfig` first: it knows the ifindexes.
    lines = text.splitlines()
    _ifconfig(lines, reading)
    try:
        reading.entries += _netstat(lines, reading)
        reading.entries += _gets(lines)
        return _node(reading, name, sysctls or {}) if reading.entries or reading.whole else None
    except PrefixError as error:
        raise Refusal(
            f"{name}: the text of OpenBSD is not understood: {error}", "take the whole output of `netstat -rn`"
        ) from None


# --- netstat -rn ---------------------------------------------------------------------------------------------------


def _netstat(lines: list[str], reading: _Reading) -> Iterator[_Entry]:
    family = 0
    columns: dict[str, int] = {}
    for line in lines:
        words = line.split()
        if len(words) == 1 and words[0].endswith(":"):
            family, columns = _HEADINGS.get(words[0][:-1], 0), {}
        elif not words:
            continue
        elif family and words[0] == "Destination":
            columns = {word.lower(): at for at, word in enumerate(words)}
            reading.whole.add(family)
        elif family and columns:
            if len(words) < min(6, len(columns)) or not re.fullmatch(r"[A-Za-z0-9]+", words[2]):
                family = 0  # what follows the table
                continue
            yield _line(words, columns, family)


def _line(words: list[str], columns: Mapping[str, int], family: int) -> _Entry:
    at = columns.get("iface", columns.get("netif", len(words)))
    if at >= len(words):
        raise PrefixError(f"{' '.join(words)!r} names no interface")
    priority = words[columns["prio"]] if "prio" in columns else "8"
    if not priority.isdecimal():
        raise PrefixError(f"{' '.join(words)!r} has no priority")
    return _Entry(_destination(words[0], family, words[2]), words[1], words[2], words[at], int(priority))


def _destination(text: str, family: int, flags: str) -> Prefix:
    """`default`, `10/8`, `10.1.2.3`, `fe80::%em0/64`."""
    size = 4 if family == AF_INET else 16
    if text == "default":
        return Prefix(bytes(size), 0)
    head, slash, tail = text.partition("/")
    head = head.partition("%")[0]
    if size == 4 and head.count(".") < 3:
        head += ".0" * (3 - head.count("."))
    packed = parse_address(head)
    if len(packed) != size:
        raise PrefixError(f"{text!r} is of another family than its table")
    if not slash and "H" not in flags:
        raise PrefixError(f"{text!r} has no length, and is no host")
    if slash and not (tail.isdecimal() and int(tail) <= size * 8):
        raise PrefixError(f"{text!r}: the length must be a number from 0 to {size * 8}")
    length = int(tail) if slash else size * 8
    return Prefix(mask(packed, length), length)


# --- route -n get --------------------------------------------------------------------------------------------------

_LETTERS: Final = {
    "UP": "U", "GATEWAY": "G", "HOST": "H", "STATIC": "S", "REJECT": "R", "BLACKHOLE": "B", "LLINFO": "L", "LOCAL": "l",
    "BROADCAST": "b", "CLONING": "C", "CLONED": "c", "CONNECTED": "n", "MPATH": "P", "MULTICAST": "m", "DYNAMIC": "D",
}  # fmt: skip


def _gets(lines: list[str]) -> Iterator[_Entry]:
    found: dict[str, str] = {}
    for line in [*lines, "route to: end"]:
        match = _FIELD.match(line) or re.match(r"^(route to): (end)$", line)
        if not match:
            continue
        key, value = match[1].strip(), match[2].strip()
        if key == "route to":
            if "destination" in found and "flags" in found:
                yield _answer(found)
            found = {}
        found.setdefault(key, value)


def _answer(found: Mapping[str, str]) -> _Entry:
    flags = "".join(_LETTERS.get(word, "") for word in found["flags"].strip("<>").split(","))
    of = parse_scoped(found["route to"])[0]
    family = AF_INET if len(of) == 4 else AF_INET6
    where = found["destination"]
    if where == "default" or "H" in flags:
        prefix = _destination(where, family, flags)
    else:
        length = _mask_length(found.get("mask", ""), len(of))
        prefix = Prefix(mask(parse_scoped(where)[0], length), length)
    digits = re.match(r"\d+", found.get("priority", "8"))
    return _Entry(
        prefix, found.get("gateway", ""), flags, found.get("interface", ""), int(digits[0]) if digits else 8
    )  # fmt: skip


def _mask_length(text: str, size: int) -> int:
    packed = bytes(size) if text == "default" else parse_address(text)
    bits = "".join(f"{octet:08b}" for octet in packed)
    if len(packed) != size or "01" in bits:
        raise PrefixError(f"{text!r} is no mask")
    return bits.count("1")


# --- ifconfig -a ---------------------------------------------------------------------------------------------------


def _ifconfig(lines: list[str], reading: _Reading) -> None:
    dev = ""
    for line in lines:
        head = _INTERFACE.match(line)
        if head:
            dev, reading.ifconfig = head[1], True
            words = head[2].split(",")
            flags = (IFF_UP if "UP" in words else 0) | (IFF_LOWER_UP if "RUNNING" in words else 0)
            flags |= IFF_LOOPBACK if "LOOPBACK" in words else 0
            kind = "wireguard" if dev.rstrip("0123456789") == "wg" else ""
            index = reading.index(dev)
            reading.links[dev] = Link(index, dev, int(head[3] or 0), flags, "UP" if flags & IFF_LOWER_UP else "DOWN",
                                      b"", kind)  # fmt: skip
        elif line[:1] not in (" ", "\t"):
            dev = ""
        elif dev:
            _property(line.split(), reading, dev)


def _property(words: list[str], reading: _Reading, dev: str) -> None:
    link = reading.links[dev]
    if words[:1] == ["lladdr"] and len(words) > 1 and _MAC.match(words[1]):
        reading.links[dev] = replace(link, lladdr=_mac(words[1]))
    elif words[:1] == ["index"] and words[1:2] and words[1].isdecimal():
        reading.links[dev] = replace(link, ifindex=int(words[1]))
    elif words[:2] == ["status:", "no"]:
        reading.links[dev] = replace(link, flags=link.flags & ~IFF_LOWER_UP, operstate="DOWN")
    elif words[:1] in (["inet"], ["inet6"]) and len(words) > 1:
        try:
            own = parse_scoped(words[1])[0]
            peer = parse_address(words[3]) if words[2:3] == ["-->"] else None
            pairs = dict(pairwise(words[2:]))
            if len(own) == 4:
                length = int(pairs.get("netmask", "0xffffffff"), 16).bit_count()
            else:
                length = int(pairs.get("prefixlen", "128"))
        except (PrefixError, ValueError):
            return
        reading.addresses.append(InterfaceAddress(link.ifindex, own, length, peer=peer))


def _mac(text: str) -> bytes:
    return bytes(int(part, 16) for part in text.split(":"))


# --- the node ------------------------------------------------------------------------------------------------------


def _node(reading: _Reading, name: str, sysctls: Mapping[str, int]) -> Node:
    routes: dict[tuple[object, ...], Route] = {}
    neighbours = []
    for entry in reading.entries:
        index = reading.index(entry.dev) if entry.dev else 0
        if "L" in entry.flags and "l" not in entry.flags:
            lladdr = _mac(entry.gateway) if _MAC.match(entry.gateway) else b""
            state = "REACHABLE" if lladdr else "INCOMPLETE"
            neighbours.append(Neighbour(index, entry.prefix.packed, lladdr, state))
            continue
        route = _route(entry, index)
        # Several of one priority are multipath, and say so (P); else they are of different links, as fe80::/64 is.
        key = route.prefix, route.table, route.metric, 0 if "P" in entry.flags else index
        if key in routes:
            known = routes[key]
            hops = tuple(dict.fromkeys((*known.next_hops, *route.next_hops)))
            route = replace(known, next_hops=hops)
        routes[key] = route
    if not reading.ifconfig:
        _assume(reading)
    families = (("routes4", AF_INET), ("routes6", AF_INET6))
    parts = {"rules", "nexthops", "neighbours"} | {part for part, family in families if family in reading.whole}
    parts |= {"links", "addresses"} if reading.ifconfig or reading.whole else set()
    unread = dict.fromkeys(PARTS - parts, _ONLY_GET)
    if "neighbours" in parts and not reading.whole:
        parts -= {"neighbours"}
        unread["neighbours"] = _ONLY_GET
    unread |= {"firewall": _PF, "babel": "OpenBSD's routing daemons are not asked", "wireguard": "wg(4) is not read"}
    if not sysctls:
        unread["sysctls"] = "the texts do not hold them"
    kernel = Snapshot(
        links=tuple(reading.links.values()),
        addresses=tuple(reading.addresses),
        routes=RouteTable.of(routes.values()),
        rules=tuple(
            Rule(family, priority, table)
            for family in (AF_INET, AF_INET6)
            for priority, table in ((0, TABLE_LOCAL), (32766, TABLE_MAIN))
        ),
        neighbours=tuple(neighbours),
        parts=frozenset(parts),
    )
    return Node(name, kernel, _linux_sysctls(sysctls, reading.links), unread=unread, system=OPENBSD)


def _route(entry: _Entry, index: int) -> Route:
    flags = entry.flags
    kind = "unicast"
    for letter, word in (("B", "blackhole"), ("R", "unreachable"), ("l", "local"), ("b", "broadcast")):
        if letter in flags:
            kind = word
            break
    via = None
    if "G" in flags and kind == "unicast":
        via = parse_scoped(entry.gateway)[0]
    hops = () if kind in ("blackhole", "unreachable") else (NextHop(via, index, 1, 0 if "U" in flags else NH_DEAD),)
    return Route(
        entry.prefix, hops, kind, TABLE_LOCAL if kind in ("local", "broadcast") else TABLE_MAIN, entry.priority,
        PROTO_STATIC if entry.priority in _STATIC_PRIORITIES else PROTO_KERNEL,
    )  # fmt: skip


def _assume(reading: _Reading) -> None:
    """What netstat alone says of interfaces and addresses: one with a route that is up is up; a local route is an
    address, as long as the connected network around it."""
    used = {e.dev for e in reading.entries if "U" in e.flags and e.dev}
    for dev in used:
        link = reading.links[dev]
        reading.links[dev] = replace(link, flags=link.flags | IFF_UP | IFF_LOWER_UP, operstate="UP")
    nets = [(e.prefix, e.dev) for e in reading.entries if "C" in e.flags]
    for entry in reading.entries:
        if "l" not in entry.flags or not entry.prefix.is_host:
            continue
        own: Address = entry.prefix.packed
        around = [p.length for p, dev in nets if dev == entry.dev and own in p]
        reading.addresses.append(
            InterfaceAddress(reading.links[entry.dev].ifindex, own, max(around, default=entry.prefix.length))
        )


def _linux_sysctls(found: Mapping[str, int], links: Mapping[str, Link]) -> dict[str, int]:
    """`net.inet.ip.forwarding` and that of IPv6 in Linux's names, on which observers look."""
    made: dict[str, int] = {}
    for name, family in (("net.inet.ip.forwarding", "ipv4"), ("net.inet6.ip6.forwarding", "ipv6")):
        if name in found:
            on = int(found[name] > 0)
            made |= {f"net/{family}/conf/{dev}/forwarding": on for dev in ("all", *links)}
            if family == "ipv4":
                made["net/ipv4/ip_forward"] = on
    return made
