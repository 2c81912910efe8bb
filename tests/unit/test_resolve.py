"""Next hops: what is found, what is refused and with which words; and the view that follows the kernel."""

from __future__ import annotations

from dataclasses import replace

import pytest

from via6 import resolve as r
from via6.model import (
    IFF_LOWER_UP,
    IFF_UP,
    NH_DEAD,
    NH_ONLINK,
    PROTO_VIA6,
    TABLE_LOCAL,
    Change,
    InterfaceAddress,
    Link,
    NextHop,
    NexthopObject,
    Overrun,
    Route,
    RouteTable,
    Snapshot,
)
from via6.prefix import AF_INET, AF_INET6, parse_address, parse_prefix
from via6.view import View

LIT = IFF_UP | IFF_LOWER_UP
ETH0, ETH1, DOWN, DARK = 2, 3, 4, 5
LINKS = (
    Link(1, "lo", flags=LIT | 8),
    Link(ETH0, "eth0", flags=LIT),
    Link(ETH1, "eth1", flags=LIT),
    Link(DOWN, "down0", flags=0),
    Link(DARK, "dark0", flags=IFF_UP),
)
ADDRESSES = (
    InterfaceAddress(ETH0, parse_address("2001:db8:1::1"), 64),
    InterfaceAddress(ETH0, parse_address("fe80::1"), 64, 253),
    InterfaceAddress(1, parse_address("192.0.2.1"), 32),
)


def address(text: str) -> bytes:
    return parse_address(text)


def route(prefix: str, via: str = "", ifindex: int = ETH0, **attributes: object) -> Route:
    hop = NextHop(parse_address(via) if via else None, ifindex)
    return Route(parse_prefix(prefix), **{"next_hops": (hop,), "protocol": 3, "metric": 1024, **attributes})  # type: ignore[arg-type]


CONNECTED = (
    route("2001:db8:1::/64", metric=256),
    route("2001:db8:2::/64", ifindex=ETH1, metric=256),
    route("192.0.2.0/24", metric=0),
)


def view(*routes: Route, **parts: object) -> View:
    table = RouteTable.of([*CONNECTED, *routes])
    return View(Snapshot(**{"links": LINKS, "addresses": ADDRESSES, "routes": table, **parts}))  # type: ignore[arg-type]


def ask(node: View, via: str | None, device: str = "", **options: object) -> r.Resolved | r.Unresolved:
    return r.resolve(node, parse_address(via) if via else None, device, **options)  # type: ignore[arg-type]


def good(answer: r.Resolved | r.Unresolved) -> r.Resolved:
    assert isinstance(answer, r.Resolved), answer
    return answer


def bad(answer: r.Resolved | r.Unresolved) -> r.Unresolved:
    assert isinstance(answer, r.Unresolved), answer
    return answer


# --- what is found -------------------------------------------------------------------------------------------------


def test_on_link() -> None:
    answer = good(ask(view(), "2001:db8:1::22"))
    assert answer.next_hops == (NextHop(address("2001:db8:1::22"), ETH0),)
    assert [str(p) for p in answer.depends] == ["2001:db8:1::/64"]
    assert answer.on_link


def test_link_local_and_bare_device() -> None:
    assert good(ask(view(), "fe80::2", "eth1")).next_hops == (NextHop(address("fe80::2"), ETH1),)
    answer = good(ask(view(), None, "eth1", weight=7))
    assert (answer.next_hops, answer.trail, answer.on_link) == ((NextHop(None, ETH1, 7),), (), True)
    # fe80::1 is ours on eth0; on eth1 it is a neighbour's
    assert good(ask(view(), "fe80::1", "eth1")).next_hops[0].ifindex == ETH1


def test_ipv4_next_hop_of_an_ipv4_route() -> None:
    assert good(ask(view(), "192.0.2.9")).next_hops == (NextHop(address("192.0.2.9"), ETH0),)


def test_recursive_through_a_gateway() -> None:
    node = view(route("2001:db8:9::/48", "fe80::9", ETH1))
    answer = good(ask(node, "2001:db8:9::1"))
    assert answer.next_hops == (NextHop(address("fe80::9"), ETH1),)
    assert [str(p) for p in answer.depends] == ["2001:db8:9::/48"]
    assert not answer.on_link


def test_the_longest_prefix_then_the_lowest_metric_decides() -> None:
    node = view(
        route("::/0", "fe80::d"),
        route("2001:db8:9::/48", "fe80::a", metric=20),
        route("2001:db8:9::/48", "fe80::b", ETH1, metric=10),
    )
    assert good(ask(node, "2001:db8:9::1")).next_hops[0].via == address("fe80::b")
    assert good(ask(node, "2001:db8:8::1")).next_hops[0].via == address("fe80::d")


def test_a_named_device_chooses_among_routes() -> None:
    node = view(route("2001:db8:9::/48", "fe80::a", metric=10), route("2001:db8:9::/48", "fe80::b", ETH1, metric=20))
    assert good(ask(node, "2001:db8:9::1", "eth1")).next_hops[0].via == address("fe80::b")


def test_gateways_without_a_device_are_followed_further() -> None:
    node = view(
        route("2001:db8:9::/48", "2001:db8:8::1", 0),
        route("2001:db8:8::/48", "2001:db8:2::7", 0),
    )
    answer = good(ask(node, "2001:db8:9::1"))
    assert answer.next_hops == (NextHop(address("2001:db8:2::7"), ETH1),)
    assert [str(p) for p in answer.depends] == ["2001:db8:9::/48", "2001:db8:8::/48", "2001:db8:2::/64"]


def test_multipath_weights_are_multiplied() -> None:
    hops = (NextHop(address("fe80::a"), ETH0, 2), NextHop(address("fe80::b"), ETH1, 3))
    node = view(route("2001:db8:9::/48", next_hops=hops))
    answer = good(ask(node, "2001:db8:9::1", weight=4))
    assert [(h.ifindex, h.weight) for h in answer.next_hops] == [(ETH0, 8), (ETH1, 12)]
    answer = good(ask(node, "2001:db8:9::1", weight=256))
    assert [h.weight for h in answer.next_hops] == [170, 256]


def test_dead_hops_of_a_multipath_route_are_left_out() -> None:
    hops = (
        NextHop(address("fe80::a"), ETH0, 1, NH_DEAD),
        NextHop(address("fe80::b"), ETH1),
        NextHop(address("fe80::c"), DOWN),
    )
    answer = good(ask(view(route("2001:db8:9::/48", next_hops=hops)), "2001:db8:9::1"))
    assert answer.next_hops == (NextHop(address("fe80::b"), ETH1),)


def test_a_route_whose_device_is_down_gives_way_to_the_next() -> None:
    node = view(route("2001:db8:9::/48", "fe80::a", DOWN), route("::/0", "fe80::d"))
    assert good(ask(node, "2001:db8:9::1")).next_hops[0].via == address("fe80::d")


def test_onlink_is_kept() -> None:
    hops = (NextHop(address("2001:db8:77::1"), ETH1, 1, NH_ONLINK),)
    answer = good(ask(view(route("2001:db8:9::/48", next_hops=hops)), "2001:db8:9::1"))
    assert answer.next_hops == hops


def test_a_route_shown_by_its_nexthop_object_alone() -> None:
    objects = (
        NexthopObject(7, group=((8, 1), (9, 4))),
        NexthopObject(8, address("fe80::a"), ETH0),
        NexthopObject(9, address("fe80::b"), ETH1),
    )
    node = view(route("2001:db8:9::/48", next_hops=(), nhid=7), nexthops=objects)
    assert [(h.ifindex, h.weight) for h in good(ask(node, "2001:db8:9::1")).next_hops] == [(ETH0, 1), (ETH1, 4)]
    assert bad(ask(view(route("2001:db8:9::/48", next_hops=(), nhid=7)), "2001:db8:9::1")).kind == r.NO_ROUTE


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("via", "device", "kind", "text", "remedy"),
    [
        ("fe80::2", "eth9", r.UNKNOWN_DEVICE, "there is no device 'eth9'", "here: dark0, down0, eth0, eth1, lo"),
        ("fe80::2", "", r.NO_DEVICE, "link-local", "fe80::2%DEV"),
        ("::ffff:10.0.0.1", "", r.V4_MAPPED, "IPv4-mapped", "10.0.0.1 if you mean IPv4"),
        ("::", "", r.NOT_UNICAST, "unspecified", "one neighbour"),
        ("0.0.0.0", "", r.NOT_UNICAST, "unspecified", "one neighbour"),
        ("ff02::1", "eth0", r.NOT_UNICAST, "multicast", "one neighbour"),
        ("224.0.0.1", "", r.NOT_UNICAST, "multicast", "one neighbour"),
        ("255.255.255.255", "", r.NOT_UNICAST, "broadcast", "one neighbour"),
        ("2001:db8:1::1", "", r.ITSELF, "this node itself (on eth0)", "other end"),
        ("fe80::1", "eth0", r.ITSELF, "this node itself", "other end"),
        ("192.0.2.1", "", r.ITSELF, "this node itself (on lo)", "other end"),
        ("2001:db8:5::1", "", r.NO_ROUTE, "no route to the next hop 2001:db8:5::1", "ip -6 route add"),
        ("2001:db8:1::9", "eth1", r.NO_ROUTE, "on eth1", "ip -6 route add"),
        ("198.51.100.1", "", r.NO_ROUTE, "no route", "ip -4 route add"),
        ("fe80::2", "down0", r.DEVICE_DOWN, "down0 is down", "ip link set down0 up"),
        ("fe80::2", "dark0", r.NO_CARRIER, "dark0 has no carrier", "cable"),
    ],
)  # fmt: skip
def test_refusals(via: str, device: str, kind: str, text: str, remedy: str) -> None:
    answer = bad(ask(view(), via, device))
    assert answer.kind == kind
    assert text in answer.text
    assert remedy in answer.remedy


def test_an_ipv6_route_takes_no_ipv4_next_hop() -> None:
    assert bad(ask(view(), "192.0.2.9", family=AF_INET6)).kind == r.WRONG_FAMILY


def test_an_address_in_the_local_table_is_the_node_itself() -> None:
    node = view(route("2001:db8:1::/128", table=TABLE_LOCAL, type="local", metric=0))
    assert bad(ask(node, "2001:db8:1::")).kind == r.ITSELF


@pytest.mark.parametrize("kind", ["blackhole", "unreachable", "prohibit"])
def test_a_closed_way(kind: str) -> None:
    answer = bad(ask(view(route("2001:db8:9::/48", type=kind), route("::/0", "fe80::d")), "2001:db8:9::1"))
    assert answer.kind == r.DROPPED
    assert f"{kind} 2001:db8:9::/48" in answer.text
    assert [str(p.prefix) for p in answer.trail] == ["2001:db8:9::/48"]


def test_throw_ends_the_table() -> None:
    node = view(route("2001:db8:9::/48", type="throw", next_hops=()), route("::/0", "fe80::d"))
    assert bad(ask(node, "2001:db8:9::1")).kind == r.NO_ROUTE


def test_a_chain_that_returns() -> None:
    node = view(route("2001:db8:8::/48", "2001:db8:9::1", 0), route("2001:db8:9::/48", "2001:db8:8::1", 0))
    answer = bad(ask(node, "2001:db8:9::1"))
    assert answer.kind == r.LOOP
    assert "2001:db8:9::1 -> 2001:db8:8::1 -> 2001:db8:9::1" in answer.text


def test_a_gateway_that_is_its_own_way() -> None:
    assert bad(ask(view(route("2001:db8:9::/48", "2001:db8:9::1", 0)), "2001:db8:9::1")).kind == r.LOOP


def test_a_chain_without_end() -> None:
    chain = [route(f"2001:db8:{n:x}::/48", f"2001:db8:{n + 1:x}::1", 0) for n in range(0x100, 0x120)]
    answer = bad(ask(view(*chain), "2001:db8:100::1"))
    assert answer.kind == r.TOO_DEEP
    assert len(answer.trail) == r.MAX_DEPTH


def test_a_next_hop_inside_its_own_prefix() -> None:
    inside = parse_prefix("2001:db8::/32")
    node = view(route("::/0", "fe80::d"))
    assert bad(ask(node, "2001:db8:9::1", family=AF_INET6, inside=inside)).kind == r.LOOP
    # …but a longer prefix leads to it
    assert good(ask(node, "2001:db8:1::9", family=AF_INET6, inside=inside)).on_link


def test_what_via6_installed_does_not_carry_itself() -> None:
    node = view(
        route("198.51.100.0/24", "192.0.2.9", protocol=PROTO_VIA6, metric=0),
        route("2001:db8:9::/48", "fe80::9", protocol=PROTO_VIA6),
    )
    assert bad(ask(node, "198.51.100.1")).kind == r.NO_ROUTE
    assert bad(ask(node, "2001:db8:9::1", family=AF_INET6)).kind == r.NO_ROUTE
    assert good(ask(node, "2001:db8:9::1", family=AF_INET)).next_hops[0].via == address("fe80::9")


# --- what `via6 route add` asks ------------------------------------------------------------------------------------


def test_strict() -> None:
    node = view(route("2001:db8:9::/48", "fe80::9", ETH1))
    assert isinstance(r.on_link(node, address("2001:db8:1::9")), r.Resolved)
    assert isinstance(r.on_link(node, None, "eth0"), r.Resolved)
    assert isinstance(r.on_link(node, address("fe80::2"), "dark0"), r.Resolved)  # as `ip route add`
    answer = bad(r.on_link(node, address("2001:db8:9::1")))
    assert answer.kind == r.NOT_ON_LINK
    assert "2001:db8:9::/48 via fe80::9 dev eth1" in answer.text
    assert "via fe80::9 dev eth1" in answer.remedy
    assert "via6 run" in answer.remedy


def test_source_addresses() -> None:
    assert r.source_fault(view(), address("192.0.2.1")) is None
    fault = r.source_fault(view(), address("192.0.2.7"))
    assert fault is not None
    assert (fault.kind, "ip addr add 192.0.2.7/32 dev lo" in fault.remedy) == (r.NO_SOURCE, True)


# --- the view follows ----------------------------------------------------------------------------------------------


def test_routes_that_come_and_go() -> None:
    node = view()
    new = route("2001:db8:9::/48", "fe80::9", ETH1)
    assert node.observe(Change(new))
    assert not node.observe(Change(new))
    assert node.generation == 1
    assert good(ask(node, "2001:db8:9::1")).next_hops[0].ifindex == ETH1
    assert node.observe(Change(new, gone=True))
    assert not node.observe(Change(new, gone=True))
    assert bad(ask(node, "2001:db8:9::1")).kind == r.NO_ROUTE
    assert not node.observe(Change(route("198.51.100.0/24", protocol=PROTO_VIA6)))
    assert not node.observe(Change(route("2001:db8:9::/48", table=100)))
    assert not node.observe(Overrun())


def test_a_route_of_the_same_slot_takes_the_place() -> None:
    node = view(route("198.51.100.0/24", "192.0.2.8", metric=0))
    node.observe(Change(route("198.51.100.0/24", "192.0.2.9", metric=0)))
    assert good(ask(node, "198.51.100.1")).next_hops[0].via == address("192.0.2.9")


def test_links_that_go_take_routes_with_them() -> None:
    node = view(route("198.51.100.0/24", "192.0.2.8", metric=0))
    assert node.observe(Change(replace(LINKS[1], flags=IFF_UP)))
    assert bad(ask(node, "fe80::2", "eth0")).kind == r.NO_CARRIER
    assert node.observe(Change(LINKS[1]))
    assert good(ask(node, "198.51.100.1"))
    assert node.observe(Change(replace(LINKS[1], flags=0)))
    node.observe(Change(LINKS[1]))
    assert bad(ask(node, "198.51.100.1")).kind == r.NO_ROUTE  # Linux did not say so
    assert node.observe(Change(LINKS[1], gone=True))
    assert bad(ask(node, "fe80::2", "eth0")).kind == r.UNKNOWN_DEVICE
    assert node.dev(ETH0) == "if2"


def test_a_link_that_is_renamed() -> None:
    node = view()
    assert node.observe(Change(replace(LINKS[1], name="wan")))
    assert bad(ask(node, "fe80::2", "eth0")).kind == r.UNKNOWN_DEVICE
    assert good(ask(node, "fe80::2", "wan"))
    assert not node.observe(Change(replace(LINKS[1], name="wan", mtu=9000)))


def test_addresses_and_objects_that_come_and_go() -> None:
    node = view()
    new = InterfaceAddress(ETH1, address("2001:db8:2::1"), 64)
    assert node.observe(Change(new))
    assert bad(ask(node, "2001:db8:2::1")).kind == r.ITSELF
    assert node.observe(Change(new, gone=True))
    assert good(ask(node, "2001:db8:2::1"))
    theirs = NexthopObject(7, address("fe80::a"), ETH0, protocol=4)
    assert node.observe(Change(theirs))
    assert not node.observe(Change(theirs))
    assert node.observe(Change(theirs, gone=True))
    assert not node.observe(Change(replace(theirs, protocol=PROTO_VIA6)))
