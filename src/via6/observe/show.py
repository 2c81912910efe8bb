"""Routes as text and as JSON values, as `ip route` shows them, IPv6 next hops always as IPv6.

Text: one route, one line, and the line pastes back behind `ip route add`. That is why three things differ from `ip`:
a multipath route stays on its line; the nexthop object's number is left out (whoever adds a route names either the
object or the next hop, not both), and the next hop is filled in from the object when the kernel shows the number
alone (nexthop_compat_mode=0); and an IPv4 default route with an IPv6 next hop is written 0.0.0.0/0, because `ip`
reads `default via inet6 …` as an IPv6 route.

JSON: the keys of `ip -j route`, with `family`, `type`, `table`, `protocol` and `scope` always there.

A table has up to a million lines that differ in their destination only: what stands around it is made once per block.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from via6.model import PROTO_BOOT, TABLE_MAIN, NextHop, NexthopObject, Route, RouteBlock, Snapshot
from via6.observe.names import METRICS, PREFS, RTAX_LOCK, SCOPES, Names
from via6.prefix import AF_INET, AF_INET6, Address, Prefix, format_address, mask

FLAGS: Final = (
    (0x01, "dead"), (0x04, "onlink"), (0x02, "pervasive"), (0x08, "offload"), (0x40, "trap"), (0x100, "notify"),
    (0x10, "linkdown"), (0x20, "unresolved"), (0x4000, "rt_offload"), (0x8000, "rt_trap"),
    (0x20000000, "rt_offload_failed"),
)  # fmt: skip
"""RTNH_F_* and RTM_F_* (linux/rtnetlink.h) in the order in which `ip` prints them."""

RTM_F_CLONED: Final = 0x200  # a cached route, no entry of the table
NH_FLAGS: Final = 0xFF

Dev = Callable[[int], str]
Colour = Callable[[str, str], str]
"""(kind, text) -> text; kinds: inet, inet6, dev, bad."""

Json = dict[str, Any]


def plain(_kind: str, text: str) -> str:
    """The Colour that leaves everything as it is."""
    return text


# --- which routes --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Filter:
    """What `show` is to show. `how` says what `prefix` means: `longest` (the longest matches of this address), `exact`,
    `root` (it and all inside), `match` (all that cover it); `default` without a prefix are the default routes of both
    families. Zero, None and "" restrict nothing; table 0 is all."""

    family: int = 0
    prefix: Prefix | None = None
    how: str = "exact"
    table: int = TABLE_MAIN
    ifindex: int = 0
    protocol: int | None = None
    type: str = ""

    def admits(self, template: Route) -> bool:
        """True if routes of this template may be shown, whatever their destination."""
        return (
            not template.flags & RTM_F_CLONED
            and self.family in (0, template.family)
            and (self.prefix is None or self.prefix.family == template.family)
            and (self.how != "default" or template.prefix.length == 0)
            and self.table in (0, template.table)
            and (not self.ifindex or any(h.ifindex == self.ifindex for h in template.next_hops))
            and self.protocol in (None, template.protocol)
            and self.type in ("", template.type)
        )


def _narrow(block: RouteBlock, prefix: Prefix, how: str) -> RouteBlock:
    """The destinations of a block that stand in the relation `how` to the prefix."""
    length = block.template.prefix.length
    if how == "root":
        inside = length >= prefix.length
        found = [d for d in block.destinations if inside and mask(d, prefix.length) == prefix.packed]
    elif length > prefix.length or (how == "exact" and length != prefix.length):
        found = []
    else:
        wanted = mask(prefix.packed, length)
        found = [d for d in block.destinations if d == wanted]
    return RouteBlock(block.template, found)


def select(snapshot: Snapshot, wanted: Filter) -> tuple[RouteBlock, ...]:
    """The blocks to show, next hops of nexthop objects filled in."""
    objects = {o.nhid: o for o in snapshot.nexthops}
    blocks = [RouteBlock(resolved(b.template, objects), b.destinations) for b in snapshot.routes.blocks]
    blocks = [b for b in blocks if wanted.admits(b.template)]
    if wanted.prefix is not None:
        blocks = [_narrow(b, wanted.prefix, wanted.how) for b in blocks]
    blocks = [b for b in blocks if len(b)]
    if wanted.how == "longest" and blocks:
        longest = max(b.template.prefix.length for b in blocks)
        blocks = [b for b in blocks if b.template.prefix.length == longest]
    return tuple(blocks)


def resolved(route: Route, objects: Mapping[int, NexthopObject]) -> Route:
    """A route whose nexthop object the kernel shows as a number alone, with the next hops that it stands for."""
    if not route.nhid or route.next_hops:
        return route
    top = objects.get(route.nhid)
    members = top.group if top and top.group else ((route.nhid, 1),)
    hops = tuple(
        NextHop(objects[nhid].via, objects[nhid].ifindex, weight, objects[nhid].flags & NH_FLAGS)
        for nhid, weight in members
        if nhid in objects and not objects[nhid].blackhole
    )
    black = top is not None and top.blackhole
    return replace(route, next_hops=hops, type="blackhole" if black else route.type)


def ordered(blocks: Iterable[RouteBlock]) -> Iterator[tuple[Address, RouteBlock]]:
    """(destination, its block) in the order of `ip route`: IPv4 first, by address, the longer prefix first, then by
    metric. Streams: every block is sorted by itself (octets sort fast) and the blocks are merged."""

    def rows(number: int, block: RouteBlock) -> Iterator[tuple[int, Address, int, int, int]]:
        template = block.template
        size, length, metric = len(template.prefix.packed), -template.prefix.length, template.metric
        return ((size, d, length, metric, number) for d in sorted(block.destinations))

    found = list(blocks)
    if len(found) == 1:
        return ((d, found[0]) for d in sorted(found[0].destinations))
    return ((row[1], found[row[4]]) for row in heapq.merge(*(rows(n, b) for n, b in enumerate(found))))


def meant(there: Iterable[Route], said: Route, op: str) -> Route | None:
    """Which of the routes of one prefix and table the kernel would replace or delete: the first that what was said
    does not rule out (net/ipv4/fib_trie.c: fib_table_insert, fib_table_delete; net/ipv6/route.c: ip6_route_del)."""

    def fits(route: Route) -> bool:
        if route.tos != said.tos:
            return False
        if op == "replace":
            return route.metric == (said.metric or (1024 if said.family == AF_INET6 else 0))
        ways = {(h.via, h.ifindex) for h in route.next_hops}
        return (
            said.metric in (0, route.metric)
            and said.protocol in (0, route.protocol)
            and said.type in ("unspec", route.type)
            and (said.src is None or said.src == route.src)
            and all(any(h.via in (None, via) and h.ifindex in (0, dev) for via, dev in ways) for h in said.next_hops)
        )

    return next((r for r in sorted(there, key=lambda r: r.metric) if fits(r)), None)


# --- text ----------------------------------------------------------------------------------------------------------


def via_text(via: Address, family: int) -> str:
    """`192.0.2.1`, or `inet6 fe80::1` where the family is not the route's."""
    if (len(via) == 4) == (family == AF_INET):
        return format_address(via)
    return f"{'inet' if len(via) == 4 else 'inet6'} {format_address(via)}"


def _kind(address: Address) -> str:
    return "inet" if len(address) == 4 else "inet6"


def _hop_text(hop: NextHop, family: int, dev: Dev, colour: Colour) -> str:
    out = f"via {colour(_kind(hop.via), via_text(hop.via, family))} " if hop.via is not None else ""
    return out + (f"dev {colour('dev', dev(hop.ifindex))} " if hop.ifindex else "")


def flag_names(flags: int) -> list[str]:
    """Names of the flags, as `ip` has them."""
    return [name for bit, name in FLAGS if flags & bit]


def _flags_text(flags: int, colour: Colour) -> str:
    return "".join(f"{colour('bad', n) if n in ('dead', 'linkdown') else n} " for n in flag_names(flags))


def _metrics_text(route: Route) -> str:
    locked = dict(route.metrics).get(RTAX_LOCK, 0)
    return "".join(
        f"{METRICS[n]} {'lock ' if locked >> n & 1 else ''}{value} " for n, value in route.metrics if n in METRICS
    )


def tail_text(route: Route, names: Names, dev: Dev, table: int = TABLE_MAIN, colour: Colour = plain) -> str:
    """Everything of a route's line behind its destination. The table is named where it is not `table`."""
    one = len(route.next_hops) == 1
    out = f"tos 0x{route.tos:02x} " if route.tos else ""
    out += _hop_text(route.next_hops[0], route.family, dev, colour) if one else ""
    out += f"table {names.table(route.table)} " if route.table != table else ""
    out += f"proto {names.protocol(route.protocol)} " if route.protocol != PROTO_BOOT else ""
    out += f"scope {SCOPES.get(route.scope, route.scope)} " if route.scope else ""
    out += f"src {colour(_kind(route.src), format_address(route.src))} " if route.src else ""
    out += f"metric {route.metric} " if route.metric else ""
    out += _flags_text(route.flags | (route.next_hops[0].flags if one else 0), colour)
    out += _metrics_text(route)
    out += f"expires {route.expires}sec " if route.expires else ""
    out += f"pref {PREFS.get(route.pref, route.pref)} " if route.family == AF_INET6 else ""
    if not one:
        for hop in route.next_hops:
            out += f"nexthop {_hop_text(hop, route.family, dev, colour)}weight {hop.weight} "
            out += _flags_text(hop.flags, colour)
    return out.rstrip()


def head_text(route: Route) -> str:
    """The type, where it is said."""
    return "" if route.type == "unicast" else f"{route.type} "


def destination_text(destination: Address, length: int, foreign: bool = False) -> str:
    """`default`, an address, or a prefix. `foreign`: the next hop is of another family (see the module's text)."""
    if length == 0 and not foreign:
        return "default"
    if len(destination) == 4:
        text = "%d.%d.%d.%d" % tuple(destination)
        return text if length == 32 else f"{text}/{length}"
    return format_address(destination) if length == 128 else f"{format_address(destination)}/{length}"


def is_foreign(route: Route) -> bool:
    """True for an IPv4 route with an IPv6 next hop."""
    return route.family == AF_INET and any(h.via is not None and len(h.via) == 16 for h in route.next_hops)


def line(route: Route, names: Names, dev: Dev, table: int = TABLE_MAIN) -> str:
    """One route as one line."""
    where = destination_text(route.prefix.packed, route.prefix.length, is_foreign(route))
    return f"{head_text(route)}{where} {tail_text(route, names, dev, table)}".rstrip()


def _around(
    blocks: Iterable[RouteBlock], make: Callable[[Route], tuple[str, str]]
) -> Iterator[tuple[Address, int, bool, str, str]]:
    """(destination, length, foreign, text before, text behind) in order; `make` is asked once per block."""
    made: dict[int, tuple[int, bool, str, str]] = {}
    for destination, block in ordered(blocks):
        found = made.get(id(block))
        if found is None:
            template = block.template
            found = made[id(block)] = (template.prefix.length, is_foreign(template), *make(template))
        yield destination, *found


def lines(
    blocks: Iterable[RouteBlock], names: Names, dev: Dev, table: int = TABLE_MAIN, colour: Colour = plain
) -> Iterator[str]:
    """Lines of text. `table`: the one that needs no name."""

    def make(template: Route) -> tuple[str, str]:
        return head_text(template), " " + tail_text(template, names, dev, table, colour)

    for destination, length, foreign, before, behind in _around(blocks, make):
        text = destination_text(destination, length, foreign)
        yield f"{before}{text if colour is plain else colour(_kind(destination), text)}{behind}"


def brief_lines(blocks: Iterable[RouteBlock], dev: Dev, colour: Colour = plain) -> Iterator[str]:
    """`PREFIX  NEXTHOP  DEV`, a dash where there is none, commas between several."""

    def make(template: Route) -> tuple[str, str]:
        hops = template.next_hops
        via = ",".join(dict.fromkeys(format_address(h.via) if h.via else "-" for h in hops)) or "-"
        out = ",".join(dict.fromkeys(dev(h.ifindex) for h in hops if h.ifindex)) or "-"
        if template.type != "unicast":
            via = template.type
        wide = f"{via:<24}"
        return "", f" {colour('inet6' if ':' in via else 'inet', wide)} {colour('dev', out)}"

    for destination, length, _foreign, _before, behind in _around(blocks, make):
        text = f"{destination_text(destination, length):<18}"
        yield f"{text if colour is plain else colour(_kind(destination), text)}{behind}"


# --- JSON ----------------------------------------------------------------------------------------------------------


def _hop_json(hop: NextHop, family: int, dev: Dev) -> Json:
    out: Json = {}
    if hop.via is not None:
        if (len(hop.via) == 4) == (family == AF_INET):
            out["gateway"] = format_address(hop.via)
        else:
            out["via"] = {"family": "inet6" if len(hop.via) == 16 else "inet", "host": format_address(hop.via)}
    if hop.ifindex:
        out["dev"] = dev(hop.ifindex)
    return out


def as_json(route: Route, names: Names, dev: Dev) -> Json:
    """A route as a JSON object with the keys of `ip -j route`."""
    one = len(route.next_hops) == 1
    out: Json = {
        "family": "inet" if route.family == AF_INET else "inet6",
        "type": route.type,
        "dst": destination_text(route.prefix.packed, route.prefix.length),
    }
    if route.nhid:
        out["nhid"] = route.nhid
    if route.tos:
        out["tos"] = f"0x{route.tos:02x}"
    if one:
        out |= _hop_json(route.next_hops[0], route.family, dev)
    out["table"] = names.table(route.table)
    out["protocol"] = names.protocol(route.protocol)
    out["scope"] = SCOPES.get(route.scope, str(route.scope))
    if route.src:
        out["prefsrc"] = format_address(route.src)
    if route.metric:
        out["metric"] = route.metric
    out["flags"] = flag_names(route.flags | (route.next_hops[0].flags if one else 0))
    values = {METRICS[n]: v for n, v in route.metrics if n in METRICS}
    if values:
        out["metrics"] = [values]
    locked = dict(route.metrics).get(RTAX_LOCK, 0)
    if locked:
        out["lock"] = [name for n, name in METRICS.items() if locked >> n & 1]
    if route.expires:
        out["expires"] = route.expires
    if route.family == AF_INET6:
        out["pref"] = PREFS.get(route.pref, str(route.pref))
    if len(route.next_hops) > 1:
        out["nexthops"] = [
            _hop_json(h, route.family, dev) | {"weight": h.weight, "flags": flag_names(h.flags)}
            for h in route.next_hops
        ]
    return out


def json_lines(blocks: Iterable[RouteBlock], names: Names, dev: Dev, dumps: Callable[[object], str]) -> Iterator[str]:
    """A JSON array in lines: `[`, one object on each line with a comma behind all but the last, `]`."""
    mark = "\0"  # no name can hold it, so the text of a template is cut at the destination's place

    def make(template: Route) -> tuple[str, str]:
        before, _, behind = dumps(as_json(template, names, dev) | {"dst": mark}).partition(dumps(mark))
        return before, behind

    line = "["
    for destination, length, _foreign, before, behind in _around(blocks, make):
        yield line if line == "[" else f"{line},"
        line = f'{before}"{destination_text(destination, length)}"{behind}'
    yield "[]" if line == "[" else f"{line}\n]"
