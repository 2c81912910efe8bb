"""The codec against files of octets, in both directions, and against pyroute2.

`out-*.hex` is what we send: a value encodes to the file and the file decodes to the value again (in the form in which
the kernel gives it back). `in-*.hex` is what Linux 6.18 sent (taken by netns/test_codec_oracles.py). `UPDATE=1 pytest`
rewrites the files; review the difference.
"""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

import hexfile
from via6.model import NH_ONLINK, TABLE_MAIN, NextHop, NexthopObject, Route
from via6.netlink import burst, objects, wire
from via6.netlink.route import RTM_NEWROUTE, decode_route
from via6.prefix import AF_INET, Address, format_address, parse_address, parse_prefix

VIA = parse_address("2a0a:e5c1:137::22")
LL = parse_address("fe80::1")
V4 = parse_address("192.0.2.9")
TEN = parse_prefix("10.0.0.0/8")
DOC = parse_prefix("2001:db8:a::/48")

ROUTES: dict[str, tuple[str, Route]] = {
    "via": ("IPv4 route with an IPv6 next hop (RTA_VIA), by a command", Route(TEN, (NextHop(VIA, 7),), protocol=4)),
    "via-no-device": ("the same, device left to the kernel", Route(TEN, (NextHop(VIA),))),
    "via-onlink": ("a link-local next hop, onlink", Route(TEN, (NextHop(LL, 7, 1, NH_ONLINK),))),
    "default": ("the default route", Route(parse_prefix("0/0"), (NextHop(LL, 7),))),
    "gateway4": ("IPv4 route with an IPv4 gateway (RTA_GATEWAY)", Route(TEN, (NextHop(V4, 7),))),
    "gateway6": ("IPv6 route with a gateway (RTA_GATEWAY)", Route(DOC, (NextHop(LL, 7),), metric=1024, pref=1)),
    "device": ("no gateway: the destination is on the link", Route(TEN, (NextHop(None, 7),), scope=253)),
    "multipath": (
        "two IPv6 next hops and an IPv4 one (RTA_MULTIPATH with RTA_VIA inside)",
        Route(TEN, (NextHop(LL, 7), NextHop(VIA, 8, 5), NextHop(V4, 9, 256))),
    ),
    "multipath6": ("multipath of IPv6", Route(DOC, (NextHop(LL, 7, 2), NextHop(LL, 8)), metric=5)),
    "weighted-one": ("one next hop with a weight is multipath as well", Route(TEN, (NextHop(LL, 7, 3),))),
    "nhid": ("on a nexthop object (RTA_NH_ID): the 44 octets of a burst", Route(TEN, nhid=0x46000001)),
    "nhid6": ("an IPv6 route on a nexthop object", Route(DOC, nhid=1)),
    "everything": (
        "prefsrc, metrics, metric, a table above 255, tos",
        Route(
            TEN, (NextHop(VIA, 7),), table=1000, metric=77, src=parse_address("10.1.2.3"),
            metrics=((2, 1400), (8, 1360)), tos=4,
        ),
    ),
    "blackhole": ("no way", Route(TEN, type="blackhole")),
    "unreachable6": ("no way, said so", Route(DOC, type="unreachable", metric=4278198272)),
}  # fmt: skip

NEXTHOPS: dict[str, tuple[str, NexthopObject]] = {
    "nexthop": ("a nexthop object", NexthopObject(1, LL, 7)),
    "nexthop-onlink": ("onlink", NexthopObject(2, VIA, 7, flags=NH_ONLINK)),
    "nexthop4": ("of IPv4", NexthopObject(3, V4, 7, family=AF_INET)),
    "nexthop-group": ("a weighted group", NexthopObject(10, group=((1, 1), (2, 256), (3, 257)), family=0)),
    "nexthop-blackhole": ("a blackhole", NexthopObject(7, blackhole=True)),
}


def one_message(route: Route) -> bytes:
    head, tail = burst.split("add", route, 0)
    return burst.build(head, tail, [route.prefix.packed])


def nexthop_message(nexthop: NexthopObject) -> bytes:
    return wire.message(objects.RTM_NEWNEXTHOP, wire.NLM_F_REQUEST | wire.NLM_F_CREATE, objects.encode_nexthop(nexthop))


OUT: dict[str, tuple[str, Any, bytes]] = {
    **{name: (about, route, one_message(route)) for name, (about, route) in ROUTES.items()},
    **{name: (about, nexthop, nexthop_message(nexthop)) for name, (about, nexthop) in NEXTHOPS.items()},
}


@pytest.mark.parametrize("name", OUT)
def test_what_we_send(name: str) -> None:
    path = hexfile.FOLDER / f"out-{name}.hex"
    about, value, message = OUT[name]
    text = hexfile.to_text(about, value, message)
    if os.environ.get("UPDATE"):
        path.write_text(text)
    assert path.read_text() == text
    assert hexfile.read(path)[2] == message
    (decoded,) = wire.messages(message)
    assert decoded.payload == message[16:]
    if isinstance(value, NexthopObject):
        assert objects.decode_nexthop(decoded.payload) == (value, "")
    else:
        hops = value.next_hops
        flags = hops[0].flags if len(hops) == 1 and hops[0].weight == 1 else 0
        assert decode_route(decoded.payload) == (replace(value, flags=flags), "")


@pytest.mark.parametrize("name", ROUTES)
@pytest.mark.parametrize("op", ["add", "replace", "append", "delete"])
def test_a_burst_differs_in_its_destinations_alone(name: str, op: str) -> None:
    route = ROUTES[name][1]
    size = len(route.prefix.packed)
    destinations = [bytes([10, n]) + bytes(size - 2) for n in range(3)]
    head, tail = burst.split(op, route, 77)
    sent = list(wire.messages(burst.build(head, tail, destinations)))
    assert [m.seq for m in sent] == [77] * 3
    assert {m.type for m in sent} == {25 if op == "delete" else 24}
    assert [decode_route(m.payload)[0].prefix.packed for m in sent] == destinations  # type: ignore[union-attr]
    last = burst.with_flags(head, wire.NLM_F_ACK, 5) + destinations[0] + tail
    (acked,) = wire.messages(last)
    assert acked.flags == sent[0].flags | wire.NLM_F_ACK
    assert acked.seq == 5
    assert burst.destination_of(last) == destinations[0]


RECEIVED = sorted(hexfile.FOLDER.glob("in-*.hex"))


@pytest.mark.parametrize("path", RECEIVED, ids=lambda p: p.stem)
def test_what_the_kernel_sent(path: Path) -> None:
    about, value, message = hexfile.read(path)
    found = hexfile.value_of(message)
    if os.environ.get("UPDATE"):
        path.write_text(hexfile.to_text(about, found, message))
        return
    assert repr(found) == value


def test_there_is_a_message_of_each_kind() -> None:
    kinds = {struct.unpack_from("=H", hexfile.read(p)[2], 4)[0] for p in RECEIVED}
    assert kinds == {wire.NLMSG_ERROR, *hexfile.DECODERS}


# --- pyroute2 reads the same ----------------------------------------------------------------------------------------


def pyroute2_decodes(kind: type, message: bytes) -> Any:
    decoded = kind(message)
    decoded.decode()
    return decoded


def hop_of(source: Any, ifindex: int, weight: int = 1) -> tuple[str | None, int, int]:
    via = source.get_attr("RTA_VIA")
    return (via["addr"] if via else source.get_attr("RTA_GATEWAY"), ifindex, weight)


def as_pyroute2_sees(message: bytes) -> dict[str, Any]:
    """A route in plain values; pyroute2 0.9 does not know RTA_NH_ID."""
    m = pyroute2_decodes(rtmsg, message)
    multipath = m.get_attr("RTA_MULTIPATH")
    if multipath:
        hops = [hop_of(h, h["oif"], h["hops"] + 1) for h in multipath]
    else:
        hops = [hop_of(m, m.get_attr("RTA_OIF") or 0)]
    metrics = m.get_attr("RTA_METRICS")
    return {
        "dst": f"{m.get_attr('RTA_DST') or ('0.0.0.0' if m['family'] == AF_INET else '::')}/{m['dst_len']}",
        "hops": [h for h in hops if h[0] or h[1]],
        "table": m.get_attr("RTA_TABLE") or m["table"],
        "head": (m["type"], m["proto"], m["scope"], m["tos"]),
        "metric": m.get_attr("RTA_PRIORITY") or 0,
        "src": m.get_attr("RTA_PREFSRC"),
        "metrics": sorted(v for _, v in metrics["attrs"]) if metrics else [],
    }


def as_we_see(route: Route) -> dict[str, Any]:
    def text(address: Address | None) -> str | None:
        return format_address(address) if address else None

    types = {"unicast": 1, "local": 2, "broadcast": 3, "multicast": 5, "blackhole": 6, "unreachable": 7}
    return {
        "dst": str(route.prefix),
        "hops": [(text(h.via), h.ifindex, h.weight) for h in route.next_hops],
        "table": route.table or TABLE_MAIN,
        "head": (types[route.type], route.protocol, route.scope, route.tos),
        "metric": route.metric,
        "src": text(route.src),
        "metrics": sorted(v for _, v in route.metrics),
    }


@pytest.mark.parametrize("name", ROUTES)
def test_pyroute2_reads_our_routes(name: str) -> None:
    _about, route, message = OUT[name]
    assert as_pyroute2_sees(message) == as_we_see(route)


def of_kind(kind: int) -> list[Any]:
    return [
        pytest.param(message, id=p.stem)
        for p in RECEIVED
        if struct.unpack_from("=H", message := hexfile.read(p)[2], 4)[0] == kind
    ]


@pytest.mark.parametrize("message", of_kind(RTM_NEWROUTE))
def test_pyroute2_reads_the_same_routes(message: bytes) -> None:
    route = hexfile.value_of(message)
    assert isinstance(route, Route)
    assert as_pyroute2_sees(message) == as_we_see(route)


@pytest.mark.parametrize("message", of_kind(objects.RTM_NEWLINK))
def test_pyroute2_reads_the_same_links(message: bytes) -> None:
    m, link = pyroute2_decodes(ifinfmsg, message), objects.decode_link(message[16:])[0]
    assert link is not None
    info = m.get_attr("IFLA_LINKINFO")
    assert (link.ifindex, link.flags) == (m["index"], m["flags"])
    assert (link.name, link.mtu) == (m.get_attr("IFLA_IFNAME"), m.get_attr("IFLA_MTU"))
    assert (link.operstate, link.lladdr.hex(":")) == (m.get_attr("IFLA_OPERSTATE"), m.get_attr("IFLA_ADDRESS"))
    assert link.kind == (info.get_attr("IFLA_INFO_KIND") if info else "")
    assert link.peer == (m.get_attr("IFLA_LINK") or 0)


@pytest.mark.parametrize("message", of_kind(objects.RTM_NEWADDR))
def test_pyroute2_reads_the_same_addresses(message: bytes) -> None:
    m, address = pyroute2_decodes(ifaddrmsg, message), objects.decode_address(message[16:])[0]
    assert address is not None
    local, far = m.get_attr("IFA_LOCAL"), m.get_attr("IFA_ADDRESS")
    assert format_address(address.address) == (local or far)
    assert (format_address(address.peer) if address.peer else local or far) == far
    assert (address.ifindex, address.length, address.scope) == (m["index"], m["prefixlen"], m["scope"])
    assert address.flags == m.get_attr("IFA_FLAGS")


@pytest.mark.parametrize("message", of_kind(objects.RTM_NEWNEIGH))
def test_pyroute2_reads_the_same_neighbours(message: bytes) -> None:
    m, neighbour = pyroute2_decodes(ndmsg, message), objects.decode_neighbour(message[16:])[0]
    assert neighbour is not None
    assert (neighbour.ifindex, format_address(neighbour.address)) == (m["ifindex"], m.get_attr("NDA_DST"))
    assert neighbour.lladdr.hex(":") == (m.get_attr("NDA_LLADDR") or "")
    assert (neighbour.state, neighbour.flags) == (objects.STATES.get(m["state"], "NONE"), m["flags"])


@pytest.mark.parametrize("message", of_kind(objects.RTM_NEWRULE))
def test_pyroute2_reads_the_same_rules(message: bytes) -> None:
    m, rule = pyroute2_decodes(fibmsg, message), objects.decode_rule(message[16:])[0]
    assert rule is not None
    assert (rule.family, rule.priority) == (m["family"], m.get_attr("FRA_PRIORITY") or 0)
    assert rule.table == m.get_attr("FRA_TABLE", m["table"])
    assert objects.ACTIONS.get(m["action"]) == rule.action
    assert str(rule.source) == (f"{m.get_attr('FRA_SRC')}/{m['src_len']}" if m.get_attr("FRA_SRC") else "None")
    assert str(rule.destination) == (f"{m.get_attr('FRA_DST')}/{m['dst_len']}" if m.get_attr("FRA_DST") else "None")
    assert (rule.iif, rule.oif) == (m.get_attr("FRA_IIFNAME") or "", m.get_attr("FRA_OIFNAME") or "")
    assert (rule.fwmark, rule.fwmask) == (m.get_attr("FRA_FWMARK") or 0, m.get_attr("FRA_FWMASK") or 0)
    assert rule.invert == bool(m["flags"] & objects.FIB_RULE_INVERT)
