"""The words of a route, as `ip route` spells them, in both directions. One grammar for the command line and for the
lines of a batch file.

    [TYPE] PREFIX { via [inet|inet6] ADDRESS[%DEV] [dev DEV] [weight N] [onlink] }… [src A] [metric N] [table T]
                  [proto P] [scope S] [tos N] [mtu [lock] N] [advmss N] …

It differs from `ip` where `ip` wants ceremony: `inet6` may be left out, a device may stand behind `%`, and a second
`via` (or `nexthop via`) makes the route multipath. What it cannot carry it refuses by name; nothing is dropped.

`default` is the one word with a trap. `ip route add default via inet6 X` quietly makes an *IPv6* route, because `ip`
takes the family of a bare `default` from the next hop. Here `via inet6` says that the family differs from the
route's, so it is an IPv4 route, as `ip -4 route show` prints it; and a bare `default via fe80::1` is refused as
ambiguous unless -4, -6 or `src` decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from via6.errors import USAGE, Refusal
from via6.model import NH_ONLINK, PROTO_STATIC, TABLE_LOCAL, TABLE_MAIN, Link, NextHop, Route
from via6.observe.names import METRICS, PREFS, RTAX_LOCK, SCOPES, Names, number_of
from via6.observe.show import via_text
from via6.prefix import (
    AF_INET,
    AF_INET6,
    Address,
    Prefix,
    PrefixError,
    format_address,
    is_link_local,
    is_multicast,
    is_v4_mapped,
    parse_prefix,
    parse_scoped,
)

OPS: Final = {"add": "add", "replace": "replace", "del": "delete", "delete": "delete"}

TYPES: Final = (
    "unicast", "local", "broadcast", "anycast", "multicast", "blackhole", "unreachable", "prohibit", "throw",
)  # fmt: skip
HOPLESS: Final = frozenset({"blackhole", "unreachable", "prohibit", "throw"})

_SCOPE_LINK, _SCOPE_HOST, _SCOPE_NOWHERE = 253, 254, 255
_RTAX: Final = {name: number for number, name in METRICS.items()}
_TIMES: Final = {"rtt": 8, "rttvar": 4, "rto_min": 1}  # what the kernel counts a millisecond as (RFC 6298's A and B)
_ALIASES: Final = {
    "priority": "metric", "preference": "metric", "oif": "dev", "protocol": "proto", "dsfield": "tos", "gw": "via",
    "gateway": "via",
}  # fmt: skip
_AS_SHOWN: Final = frozenset({"linkdown", "dead", "offload", "trap", "pervasive"})
"""Flags that `ip route show` prints and nobody can set: a pasted line may carry them."""


def _wrong(message: str, remedy: str = "") -> Refusal:
    return Refusal(message, remedy, USAGE)


class Devices:
    """The devices of a namespace, by name."""

    def __init__(self, links: Mapping[str, Link]) -> None:
        self._links = links

    def index(self, name: str) -> int:
        """Interface index; an unknown name is answered with the names that are near (Refusal)."""
        link = self._links.get(name)
        if link is not None:
            return link.ifindex
        from difflib import get_close_matches

        near = get_close_matches(name, self._links, 3, 0.5) or self.candidates()
        raise Refusal(f"there is no device {name!r} here", f"devices: {', '.join(near)}" if near else "")

    def candidates(self, most: int = 8) -> list[str]:
        """Those that a neighbour may be behind: up and no loopback; all but the loopback when none is up."""
        other = sorted(name for name, link in self._links.items() if not link.loopback)
        return ([name for name in other if self._links[name].up] or other)[:most]


@dataclass(slots=True)
class _Hop:
    via: Address | None = None
    inet6: bool = False  # the word itself was written
    dev: int = 0
    weight: int = 1
    onlink: bool = False

    def value(self) -> NextHop:
        return NextHop(self.via, self.dev, self.weight, NH_ONLINK if self.onlink else 0)


class _Reader:
    """Reads one route off a list of words. The state between two words is what has been said so far."""

    def __init__(self, words: Sequence[str], names: Names, devices: Devices) -> None:
        self.words = words
        self.at = 0
        self.names = names
        self.devices = devices
        self.prefix = ""
        self.kind = ""
        self.hops: list[_Hop] = []
        self.src: Address | None = None
        self.numbers: dict[str, int] = {}
        self.metrics: dict[int, int] = {}
        self.pref = 0

    def next(self, what: str) -> str:
        """The value that belongs to the word just read."""
        if self.at >= len(self.words):
            raise _wrong(f"{what!r} lacks its value")
        self.at += 1
        return self.words[self.at - 1]

    def number(self, what: str, most: int, least: int = 0, names: Mapping[int, str] | None = None) -> int:
        text = self.next(what)
        number = number_of(text, most, names or {})
        if number is None or number < least:
            raise _wrong(f"{what} {text!r}: a number from {least} to {most} is wanted")
        return number

    def address(self, what: str) -> tuple[Address, str]:
        text = self.next(what)
        try:
            return parse_scoped(text)
        except PrefixError as error:
            raise _wrong(f"{what}: {error}") from None

    def hop(self) -> _Hop:
        """The next hop that is being spoken of."""
        if not self.hops:
            self.hops.append(_Hop())
        return self.hops[-1]

    def once(self, what: str, value: int) -> None:
        if what in self.numbers:
            raise _wrong(f"{what!r} is said twice")
        self.numbers[what] = value

    def read(self) -> None:
        while self.at < len(self.words):
            word = self.next("")
            word = _ALIASES.get(word, word)
            if word in _KEYWORDS:
                getattr(self, f"_{word}")()
            elif word in _RTAX:
                self._rtax(word)
            elif word in TYPES and not self.kind:
                self.kind = word
            elif word in _AS_SHOWN:
                continue
            elif word in _FOREIGN:
                raise _wrong(f"via6 route does not know {word!r}", "use `ip route` for this one")
            elif not self.prefix:
                self.prefix = word
            else:
                raise _wrong(f"{word!r} is not understood here", "`via6 route -h` shows the words of a route")

    def _to(self) -> None:
        word = self.next("to")
        if word in TYPES and not self.kind:
            self.kind = word
            word = self.next(word)
        self.prefix = word

    def _via(self) -> None:
        if self.hop().via is not None:
            self.hops.append(_Hop())
        hop = self.hop()
        if self.at < len(self.words) and self.words[self.at] in ("inet", "inet6"):
            family = self.next("via")
            hop.inet6 = family == "inet6"
            hop.via, zone = self.address(f"via {family}")
            if (len(hop.via) == 16) != hop.inet6:
                raise _wrong(f"via {family}: {format_address(hop.via)} is of the other family")
        else:
            hop.via, zone = self.address("via")
        if zone:
            self._set_device(hop, zone)

    def _set_device(self, hop: _Hop, name: str) -> None:
        index = self.devices.index(name)
        if hop.dev not in (0, index):
            raise _wrong(f"two devices for one next hop, the second is {name!r}")
        hop.dev = index

    def _dev(self) -> None:
        self._set_device(self.hop(), self.next("dev"))

    def _nexthop(self) -> None:
        # What was said of the first next hop without this word stands; an empty one is not begun twice.
        if self.hop() != _Hop():
            self.hops.append(_Hop())

    def _weight(self) -> None:
        self.hop().weight = self.number("weight", 256, 1)

    def _onlink(self) -> None:
        self.hop().onlink = True

    def _src(self) -> None:
        if self.src is not None:
            raise _wrong("'src' is said twice")
        self.src, zone = self.address("src")
        if zone:
            raise _wrong("src takes an address without a device")

    def _metric(self) -> None:
        self.once("metric", self.number("metric", 0xFFFFFFFF))

    def _tos(self) -> None:
        self.once("tos", self.number("tos", 255))

    def _nhid(self) -> None:
        self.once("nhid", self.number("nhid", 0xFFFFFFFF, 1))

    def _scope(self) -> None:
        self.once("scope", self.number("scope", 255, names=SCOPES))

    def _pref(self) -> None:
        self.pref = self.number("pref", 3, names=PREFS)

    def _table(self) -> None:
        text = self.next("table")
        number = self.names.table_number(text)
        if number is None:
            raise _wrong(f"there is no table {text!r}", "write its number, or name it in /etc/iproute2/rt_tables")
        self.once("table", number)

    def _proto(self) -> None:
        text = self.next("proto")
        number = self.names.protocol_number(text)
        if number is None:
            raise _wrong(f"there is no protocol {text!r}", "write its number, or name it in /etc/iproute2/rt_protos")
        self.once("proto", number)

    def _rtax(self, word: str) -> None:
        number = _RTAX[word]
        if self.at < len(self.words) and self.words[self.at] == "lock":
            self.at += 1
            self.metrics[RTAX_LOCK] = self.metrics.get(RTAX_LOCK, 0) | 1 << number
        text = self.next(word)
        digits, unit = text, 1
        if text.endswith("ms") and word in _TIMES:
            digits, unit = text[:-2], _TIMES[word]
        value = number_of(digits, 0xFFFFFFFF, {})
        if value is None:
            raise _wrong(f"{word} {text!r}: a number is wanted")
        self.metrics[number] = value * unit


_KEYWORDS: Final = frozenset({
    "to", "via", "dev", "nexthop", "weight", "onlink", "src",
    "metric", "tos", "nhid", "scope", "pref", "table", "proto",
})  # fmt: skip
_FOREIGN: Final = frozenset({
    "encap", "vrf", "realms", "realm", "as", "from", "ttl-propagate", "expires", "congctl", "help", "append", "cache",
})  # fmt: skip


def _family(reader: _Reader, family: int) -> int:
    """The family of a route whose destination may be a bare `default`."""
    if family:
        return family
    if reader.src is not None:
        return AF_INET if len(reader.src) == 4 else AF_INET6
    hops = [h for h in reader.hops if h.via is not None]
    if any(h.via is not None and len(h.via) == 4 for h in hops) or any(h.inet6 for h in hops):
        return AF_INET
    if hops and reader.prefix in ("default", "any", "all"):
        raise _wrong(
            "'default' with an IPv6 next hop may mean either family",
            "write 0/0 for the IPv4 default route, ::/0 for the IPv6 one",
        )
    return AF_INET


def _scope(op: str, kind: str, route: Route) -> int:
    """The scope that `ip` fills in (iproute2, ip/iproute.c: iproute_modify)."""
    if route.family == AF_INET6:
        return 0
    if kind in ("local", "nat"):
        return _SCOPE_HOST
    if kind in ("broadcast", "multicast", "anycast"):
        return _SCOPE_LINK
    if kind in ("unicast", ""):
        if op == "delete":
            return _SCOPE_NOWHERE
        if not route.nhid and all(h.via is None for h in route.next_hops):
            return _SCOPE_LINK
    return 0


def parse_route(op: str, words: Sequence[str], names: Names, devices: Devices, family: int = 0) -> Route:
    """The route that the words behind `add`, `replace` or `del` describe. `family`: AF_INET, AF_INET6 or 0, unsaid.

    A route to add has protocol static unless `proto` says otherwise; one to delete has protocol 0, type `unspec` and
    scope `nowhere` where nothing is said: to the kernel these mean "any". Raises Refusal.
    """
    reader = _Reader(words, names, devices)
    reader.read()
    if not reader.prefix:
        raise _wrong("no destination", f"via6 route {op} PREFIX via ADDRESS [dev DEV]")
    try:
        prefix = parse_prefix(reader.prefix, _family(reader, family))
    except PrefixError as error:
        raise _wrong(str(error)) from None
    if family and prefix.family != family:
        raise _wrong(f"{prefix} is no IPv{4 if family == AF_INET else 6} prefix")
    kind = reader.kind or ("unspec" if op == "delete" else "unicast")
    numbers = reader.numbers
    at_home = kind in ("local", "broadcast", "nat", "anycast") and prefix.family == AF_INET
    route = Route(
        prefix=prefix,
        next_hops=tuple(hop.value() for hop in reader.hops if hop != _Hop()),
        type=kind,
        table=numbers.get("table", TABLE_LOCAL if at_home else TABLE_MAIN),
        metric=numbers.get("metric", 0),
        protocol=numbers.get("proto", 0 if op == "delete" else PROTO_STATIC),
        src=reader.src,
        nhid=numbers.get("nhid", 0),
        metrics=tuple(sorted(reader.metrics.items())),
        tos=numbers.get("tos", 0),
        pref=reader.pref,
    )
    _refuse_shape(op, route, devices)
    return replace(route, scope=numbers.get("scope", _scope(op, reader.kind, route)))


def _refuse_shape(op: str, route: Route, devices: Devices) -> None:
    """What is wrong whatever the machine looks like."""
    if route.src is not None and len(route.src) != len(route.prefix.packed):
        raise _wrong(f"src {format_address(route.src)} is of another family than {route.prefix}")
    if route.type in HOPLESS and route.next_hops and any(h.via for h in route.next_hops):
        raise _wrong(f"a {route.type} route has no next hop")
    if op != "delete" and route.type not in HOPLESS and not route.next_hops and not route.nhid:
        raise _wrong(f"{route.prefix} needs a next hop", "via ADDRESS, of either family, or dev DEV")
    if route.nhid and route.next_hops:
        raise _wrong("nhid and via exclude each other", "the nexthop object says where it goes")
    for hop in route.next_hops:
        _refuse_hop(hop, route.prefix)
        if op != "delete":
            _refuse_nowhere(hop, devices)


def _refuse_hop(hop: NextHop, prefix: Prefix) -> None:
    via = hop.via
    if via is None:
        return
    text = format_address(via)
    if is_v4_mapped(via):
        raise _wrong(
            f"next hop {text} is an IPv4-mapped address: no machine has it",
            f"write {format_address(via[12:])}, or the IPv6 address of the neighbour",
        )
    if prefix.family == AF_INET6 and len(via) == 4:
        raise _wrong(
            f"next hop {text}: an IPv6 route cannot have an IPv4 next hop", "name an IPv6 address of the neighbour"
        )
    if is_multicast(via) or not any(via):
        raise _wrong(f"next hop {text} is not the address of one machine")


def _refuse_nowhere(hop: NextHop, devices: Devices) -> None:
    """A link-local next hop without a device."""
    via = hop.via
    if via is None or len(via) == 4 or not is_link_local(via) or hop.ifindex:
        return
    text, known = format_address(via), devices.candidates()
    which = f"via {text} dev {known[0]}" if known else f"via {text} dev DEV"
    if known[1:]:
        which += "   (or " + ", ".join(f"dev {name}" for name in known[1:]) + ")"
    raise _wrong(f"next hop {text} is link-local, and every link has such addresses", f"say which: {which}")


def _hop_words(hop: NextHop, family: int, dev: Callable[[int], str], multipath: bool) -> str:
    out = "nexthop " if multipath else ""
    if hop.via is not None:
        out += f"via {via_text(hop.via, family)} "
    if hop.ifindex:
        out += f"dev {dev(hop.ifindex)} "
    if multipath:
        out += f"weight {hop.weight} "
    return out + ("onlink " if hop.flags & NH_ONLINK else "")


def ip_command(op: str, route: Route, names: Names, dev: Callable[[int], str]) -> str:
    """The `ip` command that does the same, in words that iproute2 6.1 understands.

    The family is said before `route`: without it 6.1 reads `via inet6 X src 10.1.0.2` of a default route as IPv6.
    """
    out = f"ip -{4 if route.family == AF_INET else 6} route {'del' if op == 'delete' else op} "
    out += "" if route.type in ("unicast", "unspec") else f"{route.type} "
    out += f"{route.prefix} "
    out += f"tos 0x{route.tos:02x} " if route.tos else ""
    out += f"nhid {route.nhid} " if route.nhid else ""
    multipath = len(route.next_hops) > 1 or any(h.weight != 1 for h in route.next_hops)
    hops = "".join(_hop_words(h, route.family, dev, multipath) for h in route.next_hops)
    out += "" if multipath else hops
    out += f"proto {names.protocol(route.protocol)} " if route.protocol else ""
    if route.scope not in (_scope(op, "" if route.type in ("unicast", "unspec") else route.type, route),):
        out += f"scope {SCOPES.get(route.scope, str(route.scope))} "
    out += f"src {format_address(route.src)} " if route.src else ""
    out += f"metric {route.metric} " if route.metric else ""
    out += f"table {names.table(route.table)} " if route.table != TABLE_MAIN else ""
    locked = dict(route.metrics).get(RTAX_LOCK, 0)
    for number, value in route.metrics:
        if number != RTAX_LOCK:
            out += f"{METRICS.get(number, number)} {'lock ' if locked >> number & 1 else ''}{value} "
    out += f"pref {PREFS[route.pref]} " if route.pref else ""
    return (out + (hops if multipath else "")).rstrip()
