"""Routes: struct rtmsg and its attributes (linux/rtnetlink.h).

An IPv4 route with an IPv6 next hop carries RTA_VIA {u16 AF_INET6, 16 octets} where another carries RTA_GATEWAY; in
a multipath route each struct rtnexthop holds its own. A route on a nexthop object carries RTA_NH_ID and, when we
write it, nothing of RTA_VIA, RTA_OIF or RTA_MULTIPATH; when the kernel shows it, both.
"""

from __future__ import annotations

import struct
from typing import Final

from via6.model import TABLE_MAIN, NextHop, Route
from via6.netlink.wire import (
    ATTR,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    U16,
    U32,
    align,
    attribute,
    attribute_u32,
    attributes,
    u32,
)
from via6.prefix import AF_INET, AF_INET6, Address, Prefix

RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_GETROUTE: Final = 26

RTA_DST: Final = 1
RTA_SRC: Final = 2
RTA_IIF: Final = 3
RTA_OIF: Final = 4
RTA_GATEWAY: Final = 5
RTA_PRIORITY: Final = 6
RTA_PREFSRC: Final = 7
RTA_METRICS: Final = 8
RTA_MULTIPATH: Final = 9
RTA_CACHEINFO: Final = 12
RTA_TABLE: Final = 15
RTA_MARK: Final = 16
RTA_VIA: Final = 18
RTA_PREF: Final = 20
RTA_EXPIRES: Final = 23
RTA_IP_PROTO: Final = 27
RTA_SPORT: Final = 28
RTA_DPORT: Final = 29
RTA_NH_ID: Final = 30

RTM_F_LOOKUP_TABLE: Final = 0x1000
RTM_F_FIB_MATCH: Final = 0x2000

RTMSG: Final = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
RTNEXTHOP: Final = struct.Struct("=HBBi")  # length, flags, hops (weight - 1), ifindex

TYPES: Final = (
    "unspec", "unicast", "local", "broadcast", "anycast", "multicast",
    "blackhole", "unreachable", "prohibit", "throw", "nat", "xresolve",
)  # fmt: skip
TYPE_NUMBERS: Final = {name: number for number, name in enumerate(TYPES)}

SCOPE_LINK: Final = 253
SCOPE_HOST: Final = 254
SCOPE_NOWHERE: Final = 255

FLAGS: Final = {
    "add": NLM_F_CREATE | NLM_F_EXCL,
    "replace": NLM_F_CREATE | NLM_F_REPLACE,
    "append": NLM_F_CREATE,
    "delete": 0,
}


def _gateway(via: Address, family: int) -> bytes:
    if len(via) == (4 if family == AF_INET else 16):
        return attribute(RTA_GATEWAY, via)
    return attribute(RTA_VIA, U16.pack(AF_INET if len(via) == 4 else AF_INET6) + via)


def _next_hops(route: Route) -> bytes:
    if route.nhid:
        return attribute_u32(RTA_NH_ID, route.nhid)
    if len(route.next_hops) == 1 and route.next_hops[0].weight == 1:
        hop = route.next_hops[0]
        out = _gateway(hop.via, route.family) if hop.via else b""
        return out + (attribute_u32(RTA_OIF, hop.ifindex) if hop.ifindex else b"")
    out = b""
    for hop in route.next_hops:
        gateway = _gateway(hop.via, route.family) if hop.via else b""
        out += RTNEXTHOP.pack(8 + len(gateway), hop.flags & 0xFF, hop.weight - 1, hop.ifindex) + gateway
    return attribute(RTA_MULTIPATH, out) if out else b""


def encode_route(route: Route) -> bytes:
    """The payload of RTM_NEWROUTE or RTM_DELROUTE. RTA_DST stands first, so that a burst can vary it
    (`burst.split`)."""
    table = route.table if route.table < 256 else 0
    flags = route.next_hops[0].flags & 0xFF if len(route.next_hops) == 1 and not route.nhid else 0
    out = [
        RTMSG.pack(
            route.family, route.prefix.length, 0, route.tos, table,
            route.protocol, route.scope, TYPE_NUMBERS[route.type], flags,
        ),
        attribute(RTA_DST, route.prefix.packed),
    ]  # fmt: skip
    if route.table > 255:
        out.append(attribute_u32(RTA_TABLE, route.table))
    if route.metric:
        out.append(attribute_u32(RTA_PRIORITY, route.metric))
    if route.src:
        out.append(attribute(RTA_PREFSRC, route.src))
    if route.metrics:
        out.append(attribute(RTA_METRICS, b"".join(attribute_u32(k, v) for k, v in route.metrics)))
    if route.pref:
        out.append(attribute(RTA_PREF, bytes([route.pref])))
    out.append(_next_hops(route))
    return b"".join(out)


def _decode_via(attrs: dict[int, bytes], family: int) -> Address | None:
    gateway = attrs.get(RTA_GATEWAY)
    if gateway is not None and len(gateway) == (4 if family == AF_INET else 16):
        return gateway
    via = attrs.get(RTA_VIA, b"")
    if len(via) in (6, 18) and U16.unpack_from(via)[0] == (AF_INET if len(via) == 6 else AF_INET6):
        return via[2:]
    return None


def _decode_multipath(data: bytes, family: int) -> tuple[NextHop, ...]:
    hops = []
    offset = 0
    while offset + 8 <= len(data):
        length, flags, weight, ifindex = RTNEXTHOP.unpack_from(data, offset)
        if length < 8 or offset + length > len(data):
            break
        via = _decode_via(attributes(data[offset + 8 : offset + length]), family)
        hops.append(NextHop(via, ifindex, weight + 1, flags))
        offset += align(length)
    return tuple(hops)


def _decode_metrics(data: bytes) -> tuple[tuple[int, int], ...]:
    found = attributes(data)
    return tuple(sorted((k, int(U32.unpack(v)[0])) for k, v in found.items() if len(v) == 4))


_CACHEINFO: Final = struct.Struct("=IIiIIIII")  # …, expires in ticks of USER_HZ, …
_USER_HZ: Final = 100


def _expires(attrs: dict[int, bytes]) -> int:
    """Seconds until the route goes, 0 if it stays. A dump tells it in struct rta_cacheinfo."""
    info = attrs.get(RTA_CACHEINFO, b"")
    ticks = _CACHEINFO.unpack_from(info)[2] if len(info) >= _CACHEINFO.size else 0
    return u32(attrs, RTA_EXPIRES) or max(0, ticks // _USER_HZ)


def decode_route(payload: bytes) -> tuple[Route | None, str]:
    """A route and "", or None and what is wrong with the octets. Only AF_INET and AF_INET6 are routes to us."""
    if len(payload) < 12:
        return None, "route message shorter than struct rtmsg"
    family, dst_len, _src_len, tos, table, protocol, scope, kind, flags = RTMSG.unpack_from(payload)
    if family not in (AF_INET, AF_INET6):
        return None, f"route of address family {family}"
    size = 4 if family == AF_INET else 16
    attrs = attributes(payload, 12)
    packed = attrs.get(RTA_DST, bytes(size))
    if len(packed) != size or dst_len > size * 8 or kind >= len(TYPES):
        return None, "route with a destination, length or type out of range"
    src = attrs.get(RTA_PREFSRC)
    if RTA_MULTIPATH in attrs:
        hops = _decode_multipath(attrs[RTA_MULTIPATH], family)
    else:
        via, ifindex = _decode_via(attrs, family), u32(attrs, RTA_OIF)
        hops = (NextHop(via, ifindex, 1, flags & 0xFF),) if via or ifindex else ()
    pref = attrs.get(RTA_PREF, b"")
    return Route(
        prefix=Prefix(packed, dst_len),
        next_hops=hops,
        type=TYPES[kind],
        table=u32(attrs, RTA_TABLE, table or TABLE_MAIN),
        metric=u32(attrs, RTA_PRIORITY),
        protocol=protocol,
        scope=scope,
        src=src if src is not None and len(src) == size else None,
        nhid=u32(attrs, RTA_NH_ID),
        metrics=_decode_metrics(attrs.get(RTA_METRICS, b"")),
        tos=tos,
        flags=flags,
        pref=pref[0] if pref else 0,
        expires=_expires(attrs),
    ), ""


def encode_lookup(
    destination: Address,
    source: Address | None = None,
    iif: int = 0,
    oif: int = 0,
    mark: int = 0,
    fib_match: bool = False,
) -> bytes:
    """The payload of RTM_GETROUTE: what would the kernel do with a packet to `destination`? With `fib_match` the
    answer is the FIB entry (from 4.19 for IPv4, 4.20 for IPv6), without it the resolved route."""
    family = AF_INET if len(destination) == 4 else AF_INET6
    bits = len(destination) * 8
    # IPv6 tells the table anyway and refuses the flag that asks for it.
    flags = (RTM_F_LOOKUP_TABLE if family == AF_INET else 0) | (RTM_F_FIB_MATCH if fib_match else 0)
    out = RTMSG.pack(family, bits, bits if source else 0, 0, 0, 0, 0, 0, flags) + attribute(RTA_DST, destination)
    if source:
        out += attribute(RTA_SRC, source)
    for kind, value in ((RTA_IIF, iif), (RTA_OIF, oif), (RTA_MARK, mark)):
        if value:
            out += attribute_u32(kind, value)
    return out


def encode_dump_filter(family: int, table: int = 0, protocol: int = 0) -> bytes:
    """The payload of a route dump. With NETLINK_GET_STRICT_CHK the kernel itself leaves other tables and
    protocols out."""
    out = RTMSG.pack(family, 0, 0, 0, 0, protocol, 0, 0, 0)
    return out + (attribute_u32(RTA_TABLE, table) if table else b"")


DESTINATION_AT: Final = 16 + 12 + ATTR.size
"""Offset of the destination's octets in a message of ours, whose first attribute is RTA_DST."""
