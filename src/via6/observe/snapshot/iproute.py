"""What `ip -j -d` of iproute2 prints, as the objects that netlink tells, part by part.

`ip` names what the kernel numbers: devices, tables, protocols, scopes, flags. Names of tables, protocols and TOS are
those of the machine where `ip` ran (`Names`); devices those of its links. It leaves out what netlink has: locks of
metrics, the family of a nexthop object without gateway, before 6.2 the protocol of an address.

A reader raises Odd when it does not understand an answer: the part is then unread, never half read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec

from via6.model import (
    BLANK,
    TABLE_MAIN,
    InterfaceAddress,
    Link,
    Neighbour,
    NextHop,
    NexthopObject,
    Route,
    RouteBlock,
    Rule,
)
from via6.netlink.objects import action_with
from via6.netlink.route import TYPES
from via6.observe.names import METRICS, PREFS, PROTOCOLS, SCOPES, TABLES, number_of
from via6.prefix import AF_INET, AF_INET6, Address, Prefix, PrefixError, mask, parse_address

Json = dict[str, Any]
T = TypeVar("T")

_IFF: Final = {
    "UP": 1, "BROADCAST": 2, "DEBUG": 4, "LOOPBACK": 8, "POINTOPOINT": 0x10, "NOTRAILERS": 0x20, "NOARP": 0x80,
    "PROMISC": 0x100, "ALLMULTI": 0x200, "MASTER": 0x400, "SLAVE": 0x800, "MULTICAST": 0x1000, "PORTSEL": 0x2000,
    "AUTOMEDIA": 0x4000, "DYNAMIC": 0x8000, "LOWER_UP": 0x10000, "DORMANT": 0x20000, "ECHO": 0x40000,
}  # fmt: skip
_IFF_RUNNING: Final = 0x40
_IFA: Final = {
    "secondary": 1, "temporary": 1, "nodad": 2, "optimistic": 4, "dadfailed": 8, "home": 0x10, "deprecated": 0x20,
    "tentative": 0x40, "mngtmpaddr": 0x100, "noprefixroute": 0x200, "autojoin": 0x400, "stable-privacy": 0x800,
}  # fmt: skip
_IFA_PERMANENT: Final = 0x80
_IFA_PROTOCOLS: Final = {0: "unspec", 1: "kernel_lo", 2: "kernel_ra", 3: "kernel_ll"}
_RTNH: Final = {
    "dead": 1, "pervasive": 2, "onlink": 4, "offload": 8, "linkdown": 0x10, "unresolved": 0x20, "trap": 0x40,
    "notify": 0x100, "cloned": 0x200, "rt_offload": 0x4000, "rt_trap": 0x8000, "rt_offload_failed": 0x20000000,
}  # fmt: skip
_NTF: Final = {
    "use": 1, "self": 2, "master": 4, "proxy": 8, "extern_learn": 0x10, "offload": 0x20, "sticky": 0x40, "router": 0x80,
}  # fmt: skip
_RTAX: Final = {name: number for number, name in METRICS.items()}
_PREFS: Final = {name: number for number, name in PREFS.items()}
_TIMES: Final = {"rtt": 8, "rttvar": 4}  # `ip` shows milliseconds, the kernel holds eighths and quarters (RFC 6298)


class Odd(ValueError):  # noqa: N818 - told as the reason why a part is unread
    """An answer that is not understood; the text says which and why."""


@dataclass(frozen=True)
class Names:
    """Names of the machine where `ip` ran, by number; `devices` are its ifindexes by name."""

    tables: Mapping[int, str] = field(default_factory=lambda: TABLES)
    protocols: Mapping[int, str] = field(default_factory=lambda: PROTOCOLS)
    tos: Mapping[int, str] = field(default_factory=dict)
    devices: Mapping[str, int] = field(default_factory=dict)

    def dev(self, name: str) -> int:
        """`if7` is how `ip` names one that has gone."""
        if name in self.devices:
            return self.devices[name]
        if name[:2] == "if" and name[2:].isdecimal():
            return int(name[2:])
        raise Odd(f"there is no device {name!r} among the links")


def _number(text: Any, most: int, names: Mapping[int, str], what: str) -> int:
    number = text if isinstance(text, int) else number_of(str(text), most, names)
    if number is None or not 0 <= number <= most:
        raise Odd(f"{what} {text!r} has no number")
    return number


def _flags(words: list[str], known: Mapping[str, int]) -> int:
    made = 0
    for word in words:
        if word in known:
            made |= known[word]
        elif word[:2] == "0x":
            made |= int(word, 16)
    return made


def rows(data: bytes) -> list[Json]:
    """The objects of an answer; `ip -j` prints nothing at all for some empty tables, and `{}` for what has gone."""
    if not data.strip():
        return []
    try:
        found = _decoded(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Odd(f"it is no JSON: {error}") from None
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise Odd("it is no list of objects")
    return [row for row in found if row]


_CONTROL: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_NO_UTF8: Final = re.compile("[\udc80-\udcff]")


def _decoded(data: bytes) -> Any:
    """`ip` prints names of devices as they are, which is no JSON where one has odd octets. Those that are no UTF-8
    become `\\xff`, as in `answers.readable`."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        plain = _CONTROL.sub(lambda found: b"\\u%04x" % found[0][0], data).decode(errors="surrogateescape")
        return msgspec.json.decode(_NO_UTF8.sub(lambda found: f"\\\\x{ord(found[0]) - 0xDC00:02x}", plain))


def _each(data: bytes, make: Callable[[Json], T]) -> tuple[T, ...]:
    made = []
    for row in rows(data):
        try:
            made.append(make(row))
        except Odd:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            said = f"{type(error).__name__} {error}"
            raise Odd(f"{msgspec.json.encode(row)[:200].decode()}: {said}") from None
    return tuple(made)


def _octets(text: str) -> bytes:
    """A link-layer address; of a tunnel `ip` prints it as the IP address that it is."""
    if not text:
        return b""
    try:
        return bytes.fromhex(text.replace(":", "")) if "." not in text and "::" not in text else parse_address(text)
    except ValueError:
        return parse_address(text)


# --- links and addresses -------------------------------------------------------------------------------------------


def links(data: bytes) -> tuple[Link, ...]:
    """`ip -j -d link`."""
    indexes = {row.get("ifname"): row.get("ifindex", 0) for row in rows(data)}

    def make(row: Json) -> Link:
        flags = _flags(row.get("flags", ()), _IFF)
        if flags & 1 and "NO-CARRIER" not in row.get("flags", ()):
            flags |= _IFF_RUNNING
        below = row.get("link")
        if not (isinstance(row["ifindex"], int) and isinstance(row["ifname"], str) and isinstance(row["mtu"], int)):
            raise Odd(f"a link is not told as it should be: {msgspec.json.encode(row)[:200].decode()}")
        return Link(
            ifindex=row["ifindex"],
            name=row["ifname"],
            mtu=row["mtu"],
            flags=flags,
            operstate=row.get("operstate", "UNKNOWN"),
            lladdr=_octets(row.get("address") or ""),
            kind=(row.get("linkinfo") or {}).get("info_kind", ""),
            master=indexes.get(row.get("master"), 0),
            peer=row.get("link_index") or (indexes.get(below, 0) if below else 0),
        )

    found = _each(data, make)
    if not found:
        raise Odd("it named no link, and there is no machine without")
    return found


def addresses(data: bytes) -> tuple[InterfaceAddress, ...]:
    """`ip -j -d addr`."""
    made: list[InterfaceAddress] = []

    def collect(row: Json) -> None:
        made.extend(_interface_address(info, row["ifindex"]) for info in row.get("addr_info", ()) if info)

    _each(data, collect)
    return tuple(made)


def _interface_address(info: Json, ifindex: int) -> InterfaceAddress:
    own = parse_address(info["local"])
    far = parse_address(info["address"]) if info.get("address") else own
    flags = sum(bit for name, bit in _IFA.items() if info.get(name))
    flags |= 0 if info.get("dynamic") else _IFA_PERMANENT
    flags |= int(info["ifa_flags"], 16) if "ifa_flags" in info else 0
    protocol = info.get("protocol", info.get("proto", 0))
    return InterfaceAddress(
        ifindex, own, info["prefixlen"], _number(info.get("scope", 0), 255, SCOPES, "scope"), flags,
        far if far != own else None, _number(protocol, 255, _IFA_PROTOCOLS, "address protocol"),
    )  # fmt: skip


# --- routes --------------------------------------------------------------------------------------------------------


def routes(data: bytes, family: int, names: Names) -> tuple[RouteBlock, ...]:
    """`ip -j -d -4|-6 route show table all`. Routes that differ in `dst` alone are decoded once."""
    templates: dict[tuple[bytes, int], list[Address]] = {}
    blocks: list[RouteBlock] = []
    size = 4 if family == AF_INET else 16

    def make(row: Json) -> None:
        packed, length = _destination(row.pop("dst"), size)
        key = msgspec.json.encode(row), length
        if key not in templates:
            templates[key] = []
            blocks.append(RouteBlock(_template(row, Prefix(BLANK[family], length), names), templates[key]))
        templates[key].append(packed)

    _each(data, make)
    return tuple(blocks)


def _destination(text: str, size: int) -> tuple[Address, int]:
    if text in ("default", "all"):
        return bytes(size), 0
    head, slash, tail = text.partition("/")
    if size == 4 and slash and head.count(".") < 3:
        head += ".0" * (3 - head.count("."))
    packed = parse_address(head)
    length = int(tail) if slash else size * 8
    if len(packed) != size or not 0 <= length <= size * 8:
        raise PrefixError(f"{text!r} is of another family")
    return mask(packed, length), length


def _template(row: Json, prefix: Prefix, names: Names) -> Route:
    kind = row.get("type", "unicast")
    if kind not in TYPES:
        raise Odd(f"route type {kind!r} is not known")
    flags = _flags(row.get("flags", ()), _RTNH)
    if row.get("nexthops"):
        hops = tuple(_hop(hop, names) for hop in row["nexthops"])
    else:
        via, ifindex = _via(row), names.dev(row["dev"]) if row.get("dev") else 0
        hops = (NextHop(via, ifindex, 1, flags & 0xFF),) if via or ifindex else ()
    return Route(
        prefix=prefix,
        next_hops=hops,
        type=kind,
        table=_number(row.get("table", TABLE_MAIN), 0xFFFFFFFF, names.tables, "table"),
        metric=row.get("metric", 0),
        protocol=_number(row.get("protocol", 3), 255, names.protocols, "protocol"),
        scope=_number(row.get("scope", 0), 255, SCOPES, "scope"),
        src=parse_address(row["prefsrc"]) if row.get("prefsrc") else None,
        nhid=row.get("nhid", 0),
        metrics=_metrics(row.get("metrics", ())),
        tos=_number(row.get("tos", 0), 255, names.tos, "tos"),
        flags=flags,
        pref=_PREFS[row.get("pref", "medium")],
        expires=row.get("expires", 0),
    )


def _via(row: Json) -> Address | None:
    if row.get("via"):
        return parse_address(row["via"]["host"])
    return parse_address(row["gateway"]) if row.get("gateway") else None


def _hop(row: Json, names: Names) -> NextHop:
    return NextHop(
        _via(row), names.dev(row["dev"]) if row.get("dev") else 0, row.get("weight", 1),
        _flags(row.get("flags", ()), _RTNH) & 0xFF,
    )  # fmt: skip


def _metrics(found: list[Json]) -> tuple[tuple[int, int], ...]:
    pairs = [(name, value) for row in found for name, value in row.items()]
    return tuple(
        sorted((_RTAX[name], value * _TIMES.get(name, 1)) for name, value in pairs
               if name in _RTAX and isinstance(value, int))
    )  # fmt: skip


# --- the rest ------------------------------------------------------------------------------------------------------

_RULE_KEYS: Final = frozenset({
    "priority", "src", "srclen", "dst", "dstlen", "fwmark", "fwmask", "iif", "oif", "table", "protocol", "not",
    "l3mdev", "action", "nop", "goto", "iif_detached", "oif_detached", "flow_from", "flow_to", "to_tbl",
})  # fmt: skip
_RULE_WORDS: Final = {
    "sport_start": "sport", "sport_end": "sport", "dport_start": "dport", "dport_end": "dport", "uid_start": "uidrange",
    "uid_end": "uidrange", "sup_prefixlen": "suppress_prefixlength", "suppress_prefixlen": "suppress_prefixlength",
    "suppress_ifgroup": "suppress_ifgroup",
}  # fmt: skip


def rules(data: bytes, family: int, names: Names) -> tuple[Rule, ...]:
    """`ip -j -d -4|-6 rule`."""
    size = 4 if family == AF_INET else 16

    def prefix(row: Json, key: str) -> Prefix | None:
        text = row.get(key, "all")
        if text == "all":
            return None
        return Prefix(*_destination(f"{text}/{row[f'{key}len']}" if f"{key}len" in row else text, size))

    def make(row: Json) -> Rule:
        mark = int(str(row.get("fwmark", 0)), 0)
        whole = 0xFFFFFFFF if "fwmark" in row else 0
        action = "nop" if "nop" in row else row.get("action", "to_tbl")
        if "goto" in row:
            action = f"goto {row['goto']}"
        more = {_RULE_WORDS.get(key, key) for key in row.keys() - _RULE_KEYS}
        return Rule(
            family=family,
            priority=row["priority"],
            table=_number(row.get("table", 0), 0xFFFFFFFF, names.tables, "table"),
            action=action_with(action, more),
            source=prefix(row, "src"),
            destination=prefix(row, "dst"),
            iif=row.get("iif", ""),
            oif=row.get("oif", ""),
            fwmark=mark,
            fwmask=int(str(row.get("fwmask", whole)), 0),
            l3mdev="l3mdev" in row,
            invert="not" in row,
        )

    return _each(data, make)


def nexthops(data: bytes, names: Names) -> tuple[NexthopObject, ...]:
    """`ip -j -d nexthop`."""

    def make(row: Json) -> NexthopObject:
        via = _via(row)
        group = tuple((member["id"], member.get("weight", 1)) for member in row.get("group", ()))
        family = AF_INET6 if via and len(via) == 16 else AF_INET
        return NexthopObject(
            nhid=row["id"],
            via=via,
            ifindex=names.dev(row["dev"]) if row.get("dev") else 0,
            group=group,
            blackhole="blackhole" in row,
            protocol=_number(row.get("protocol", 0), 255, names.protocols, "protocol"),
            flags=_flags(row.get("flags", ()), _RTNH),
            family=0 if group else family,
        )

    return _each(data, make)


def neighbours(data: bytes, names: Names) -> tuple[Neighbour, ...]:
    """`ip -j -d neigh show nud all`."""

    def make(row: Json) -> Neighbour:
        state = row.get("state") or ["NONE"]
        flags = sum(bit for name, bit in _NTF.items() if name in row)
        return Neighbour(
            names.dev(row["dev"]), parse_address(row["dst"]), _octets(row.get("lladdr") or ""), state[0], flags
        )  # fmt: skip

    return _each(data, make)
