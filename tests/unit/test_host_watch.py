"""Which hosts answer, decided from notifications under a clock of our own; and which router a host uses."""

from __future__ import annotations

import struct
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from via6.config_babel import HostSpec
from via6.daemon.host import ALL_ROUTERS, DEFAULT4, DEFAULT6, HostRouter, Settings, decode_advertisement
from via6.daemon.hosts import ALL_NODES, ASK_S, Ask, HostWatch, encode_ask, link_local_of
from via6.model import (
    IFF_LOWER_UP,
    IFF_UP,
    PROTO_VIA6,
    Change,
    Link,
    Neighbour,
    NextHop,
    Route,
    RouteTable,
    Snapshot,
)
from via6.netlink.objects import decode_neighbour
from via6.netlink.wire import messages
from via6.prefix import Address, Prefix, parse_address, parse_prefix

MAC = bytes.fromhex("02005e0000aa")
A, B = parse_address("10.0.8.42"), parse_address("10.0.8.43")
LL, LL2 = parse_address("fe80::42"), parse_address("fe80::43")
STATES = ("NONE", "INCOMPLETE", "REACHABLE", "STALE", "DELAY", "PROBE", "FAILED", "NOARP", "PERMANENT")


def link(index: int = 2, name: str = "eth1", carrier: bool = True, flags: int = 0) -> Link:
    return Link(index, name, flags=flags | IFF_UP | (IFF_LOWER_UP if carrier else 0))


def node(*links: Link, neighbours: tuple[Neighbour, ...] = ()) -> Snapshot:
    return Snapshot(links=links or (link(),), neighbours=neighbours)


def says(state: str, address: Address = LL, mac: bytes = MAC, index: int = 2) -> Change:
    return Change(Neighbour(index, address, mac, state))


def by_address() -> HostWatch:
    return HostWatch([HostSpec((A,), "eth1", via=LL)], node(), 0.0)


def test_the_address_made_of_a_mac() -> None:
    assert link_local_of(bytes.fromhex("0012a4233417")) == parse_address("fe80::212:a4ff:fe23:3417")


def test_the_questions_are_what_the_kernel_reads() -> None:
    probe, use = messages(encode_ask(Ask(7, LL)))
    for message, state, flags in ((probe, "PROBE", 0), (use, "NONE", 1)):
        found, problem = decode_neighbour(message.payload)
        assert (found, problem) == (Neighbour(7, LL, b"", state, flags), "")


def test_a_host_is_asked_and_announced_when_it_answers() -> None:
    watch = by_address()
    assert watch.deadline() <= 0
    assert watch.tick(0) == [Ask(2, LL)]
    assert watch.tick(0.5) == []
    assert watch.alive() == frozenset()
    watch.observe([says("PROBE")], 0.1)
    assert watch.alive() == frozenset()  # it may be what is left of a host that went long ago
    watch.observe([says("REACHABLE")], 0.2)
    assert watch.alive() == {Prefix(A, 32)}
    (route,) = watch.routes()
    assert (route.to, route.vias[0].address, route.vias[0].dev) == (Prefix(A, 32), LL, "eth1")
    assert [event.kind for event in watch.events()] == ["host-up"]
    assert watch.events() == []
    assert watch.deadline() == pytest.approx(0.2 + ASK_S)


def test_it_is_withdrawn_when_the_kernel_has_tried_in_vain() -> None:
    watch = by_address()
    watch.tick(0)
    watch.observe([says("REACHABLE")], 0.1)
    assert watch.tick(2.1) == [Ask(2, LL)]
    watch.observe([says("PROBE")], 2.1)
    assert watch.alive()
    watch.observe([says("FAILED")], 5.2)
    assert not watch.alive()
    assert (LL in watch.silent(), [event.kind for event in watch.events()]) == (True, ["host-up", "host-down"])


def test_a_kernel_that_says_nothing_is_not_trusted_for_ever() -> None:
    watch = by_address()
    watch.tick(0)
    watch.observe([says("REACHABLE")], 0.1)
    watch.tick(2.1)
    assert watch.alive()
    watch.tick(2.1 + 4.0)
    assert not watch.alive()


def test_a_flush_is_no_death_unless_nothing_follows() -> None:
    watch = by_address()
    watch.observe([says("REACHABLE"), says("FAILED"), Change(Neighbour(2, LL, MAC, "FAILED"), gone=True)], 1.0)
    assert watch.alive()
    assert watch.tick(1.0) == [Ask(2, LL)]
    watch.observe([says("REACHABLE")], 1.1)
    watch.tick(3.0)
    assert watch.alive()
    watch.observe([Change(Neighbour(2, LL, MAC, "STALE"), gone=True)], 3.1)
    watch.tick(3.1)
    watch.tick(4.2)
    assert not watch.alive()


def test_a_link_without_carrier_takes_its_hosts_along() -> None:
    watch = by_address()
    watch.observe([says("REACHABLE")], 0.1)
    watch.observe([Change(link(carrier=False))], 1.0)
    assert (watch.alive(), watch.tick(9.0), watch.deadline()) == (frozenset(), [], inf)
    watch.observe([Change(link())], 10.0)
    assert watch.tick(10.0) == [Ask(2, LL)]
    # Another device of that name, and one that is renamed away.
    watch.observe([says("REACHABLE")], 10.1)
    watch.observe([Change(link(), gone=True), Change(link(9))], 11.0)
    assert watch.tick(11.0) == [Ask(9, LL)]
    watch.observe([says("REACHABLE", index=9), Change(link(9, "other"))], 12.0)
    assert (watch.alive(), watch.deadline()) == (frozenset(), inf)


def test_a_host_by_its_mac_is_found_under_another_address() -> None:
    watch = HostWatch([HostSpec((A, B), "eth1", mac=MAC)], node(), 0.0)
    guess = link_local_of(MAC)
    assert set(watch.tick(0)) == {Ask(2, guess), Ask(2, ALL_NODES)}
    # Its global address is no next hop; somebody else's is not looked at.
    watch.observe([says("STALE", parse_address("2001:db8::1")), says("REACHABLE", LL2, b"\2\0\0\0\0\1")], 0.2)
    assert watch.tick(0.3) == []
    watch.observe([says("STALE", LL)], 0.4)
    assert watch.tick(0.4) == [Ask(2, LL)]
    watch.observe([says("REACHABLE", LL)], 0.5)
    assert watch.alive() == {Prefix(A, 32), Prefix(B, 32)}
    assert {hop.address for hop in watch.hops().values()} == {LL}
    # The address in the hands of another machine is not this host.
    watch.observe([says("REACHABLE", LL, b"\2\0\0\0\0\1")], 1.0)
    assert not watch.alive()


def test_what_the_dump_says_counts() -> None:
    known = (Neighbour(2, LL, MAC, "REACHABLE"),)
    watch = HostWatch([HostSpec((A,), "eth1", mac=MAC)], node(neighbours=known), 0.0)
    assert watch.alive() == {Prefix(A, 32)}
    watch.synchronise(node(), 1.0)
    watch.tick(1.0)
    watch.tick(2.5)
    assert not watch.alive()


def test_an_entry_put_in_by_hand_and_a_tunnel_are_not_asked() -> None:
    watch = by_address()
    watch.observe([says("PERMANENT")], 0.0)
    assert (watch.alive(), watch.deadline()) == ({Prefix(A, 32)}, inf)
    watch = HostWatch([HostSpec((A,), "wg0", via=LL)], node(link(3, "wg0", flags=0x80)), 0.0)
    assert (watch.alive(), watch.deadline()) == ({Prefix(A, 32)}, inf)


def test_other_hosts_are_configured() -> None:
    first, second = HostSpec((A,), "eth1", via=LL), HostSpec((B,), "eth1", via=LL2)
    watch = HostWatch([first], node(), 0.0)
    watch.observe([says("REACHABLE")], 0.1)
    watch.events()
    watch.reload([HostSpec((A, parse_address("10.0.8.44")), "eth1", via=LL), second], 1.0)
    assert len(watch.alive()) == 2
    assert Ask(2, LL2) in watch.tick(1.0)
    watch.reload([second, HostSpec((A,), "eth1")], 2.0)
    assert watch.alive() == frozenset()  # one that speaks Babel is not asked
    assert watch.events() == []


def test_two_entries_with_one_address() -> None:
    """The first that answers carries it."""
    hosts = [HostSpec((A,), "eth1", via=LL), HostSpec((A,), "eth1", via=LL2)]
    watch = HostWatch(hosts, node(), 0.0)
    watch.observe([says("REACHABLE", LL2)], 0.1)
    assert watch.hops()[Prefix(A, 32)].address == LL2
    watch.observe([says("REACHABLE", LL)], 0.2)
    assert watch.hops()[Prefix(A, 32)].address == LL
    assert len(watch.routes()) == 1


def test_many_hosts_are_asked_less_often() -> None:
    hosts = [
        HostSpec((bytes([10, 1, n >> 8, n & 255]),), "eth1", via=LL[:14] + struct.pack("!H", n)) for n in range(2000)
    ]
    watch = HostWatch(hosts, node(), 0.0)
    watch.observe([says("REACHABLE", host.via or b"") for host in hosts], 0.0)
    asked = sum(len(watch.tick(now / 10)) for now in range(600))
    assert len(watch.alive()) <= 2000
    assert asked <= 60 * 200 + 2000


@given(st.lists(st.tuples(st.sampled_from(STATES), st.booleans(), st.sampled_from([LL, LL2, link_local_of(MAC)]),
                          st.sampled_from([MAC, b"", b"\2\0\0\0\0\1"]), st.floats(0, 3))))  # fmt: skip
def test_whatever_is_told_it_goes_on(told: list[tuple[str, bool, Address, bytes, float]]) -> None:
    """It always asks again, unless an entry was put in by hand; and silence is noticed."""
    watch = HostWatch([HostSpec((A,), "eth1", via=LL), HostSpec((B,), "eth1", mac=MAC)], node(), 0.0)
    now = 0.0
    for state, gone, address, mac, wait in told:
        now += wait
        watch.tick(now)
        watch.observe([Change(Neighbour(2, address, mac, state), gone)], now)
    if not any(state in ("NOARP", "PERMANENT") for state, *_ in told):
        assert watch.deadline() <= now + 5
        for _ in range(4):
            now = max(now, watch.deadline())
            watch.tick(now)
        for _ in range(20):
            now += 1
            watch.tick(now)
        assert watch.alive() == frozenset()


# --- the host's router ---------------------------------------------------------------------------------------------

AT = Settings("eth1", A)


def default6(via: Address, metric: int = 1024, pref: int = 0, index: int = 2, protocol: int = 9) -> Route:
    return Route(DEFAULT6, (NextHop(via, index),), metric=metric, pref=pref, protocol=protocol)


def host(*routes: Route, settings: Settings = AT, links: tuple[Link, ...] = (link(),)) -> HostRouter:
    return HostRouter(settings, Snapshot(links=links, routes=RouteTable.of(routes)), 0.0)


def advertisement(lifetime: int = 1800, flags: int = 0) -> bytes:
    return struct.pack("!BBHBBHII", 134, 0, 0, 64, flags, lifetime, 0, 0)


def test_the_kernels_router_is_taken() -> None:
    found = host(default6(LL))
    (route,) = found.routes()
    assert (route.to, route.src, route.metric) == (DEFAULT4, A, 0)
    assert (route.vias[0].address, route.vias[0].dev) == (LL, "eth1")
    assert ALL_ROUTERS not in [ask.address for ask in found.tick(0)]


@pytest.mark.parametrize(
    "route",
    [
        default6(LL, index=3),
        default6(parse_address("2001:db8::1")),
        default6(LL, protocol=PROTO_VIA6),
        Route(parse_prefix("2001:db8::/32"), (NextHop(LL, 2),)),
        Route(DEFAULT6, (), type="unreachable"),
    ],
    ids=["other link", "global next hop", "our own", "no default", "unreachable"],
)
def test_what_is_no_router(route: Route) -> None:
    found = host(route, links=(link(), link(3, "eth2")))
    assert (found.router, found.routes()) == (None, ())


def test_the_kernels_order_decides_and_the_silent_come_last() -> None:
    found = host(default6(LL, pref=3), default6(LL2, pref=1))
    assert found.router == LL2
    found = host(default6(LL, 200), default6(LL2, 100))
    assert found.router == LL2
    asked = {ask.address for ask in found.tick(0)}
    assert asked == {LL, LL2}
    found.observe([says("REACHABLE", LL), says("REACHABLE", LL2)], 0.1)
    found.tick(2.1)
    found.observe([says("FAILED", LL2)], 5.2)
    assert found.router == LL
    found.observe([says("REACHABLE", LL2)], 9.0)
    assert found.router == LL2


def test_the_only_router_stays_even_if_it_is_silent() -> None:
    found = host(default6(LL))
    found.tick(0)
    found.observe([says("FAILED", LL)], 3.0)
    assert found.router == LL
    assert "does not answer" in found.events()[-1].text
    assert ALL_ROUTERS in [ask.address for ask in found.tick(3.0)]  # another one may be there


def test_without_a_router_it_asks_less_and_less_often() -> None:
    found = host()
    times = []
    for now in range(400):
        if ALL_ROUTERS in [ask.address for ask in found.tick(now)]:
            times.append(now)
        assert found.deadline() > now
    assert times == [0, 4, 12, 28, 60, 124, 244, 364]
    found.observe([Change(link(carrier=False)), Change(link())], 400)
    assert found.deadline() <= 401


def test_advertisements_heard_and_over() -> None:
    found = host()
    heard = decode_advertisement(advertisement(10), LL, 255)
    assert heard is not None
    found.heard(3, LL2, heard, 0.0)
    assert found.router is None  # on another link
    found.heard(2, LL, heard, 0.0)
    assert (found.router, found.deadline() <= 10) == (LL, True)
    # What the kernel has comes first.
    found.observe([Change(default6(LL2))], 1.0)
    assert found.router == LL2
    found.observe([Change(default6(LL2), gone=True)], 2.0)
    assert found.router == LL
    found.tick(10.0)
    assert found.router is None
    found.heard(2, LL, heard, 11.0)
    over = decode_advertisement(advertisement(0), LL, 255)
    assert over is not None
    found.heard(2, LL, over, 12.0)
    assert found.router is None
    for n in range(100):
        found.heard(2, LL[:15] + bytes([n]), heard, 13.0)
    assert len(found._heard) == 8


@pytest.mark.parametrize(
    ("data", "source", "hops"),
    [
        (advertisement(), LL, 254),
        (advertisement(), parse_address("2001:db8::1"), 255),
        (advertisement()[:15], LL, 255),
        (b"\x85" + advertisement()[1:], LL, 255),
        (b"\x86\x01" + advertisement()[2:], LL, 255),
        (b"", LL, 255),
    ],
)
def test_what_is_no_advertisement(data: bytes, source: Address, hops: int) -> None:
    assert decode_advertisement(data, source, hops) is None


def test_preferences() -> None:
    """RFC 4191: 01 high, 00 medium, 11 low, 10 is read as medium."""
    flags = {0b01000: 1, 0b00000: 0, 0b11000: 3, 0b10000: 0}
    for bits, expected in flags.items():
        found = decode_advertisement(advertisement(flags=bits), LL, 255)
        assert found is not None
        assert found.preference == expected


def test_a_foreign_default_route_is_not_pushed_aside() -> None:
    foreign = Route(DEFAULT4, (NextHop(parse_address("192.0.2.1"), 2),), protocol=16, metric=100)
    found = host(default6(LL), foreign)
    assert (found.routes(), found.blocked) == ((), foreign)
    assert "default via 192.0.2.1 dev eth1 metric 100" in found.events()[-1].text
    found.observe([Change(foreign, gone=True)], 1.0)
    assert found.routes()
    assert host(default6(LL), foreign, settings=Settings("eth1", A, metric=101)).routes()
    ours = Route(DEFAULT4, (NextHop(LL, 2),), protocol=PROTO_VIA6)
    assert host(default6(LL), ours).blocked is None


def test_the_router_that_was_named() -> None:
    found = host(default6(LL), settings=Settings("eth1", A, router=LL2))
    assert found.router == LL2
    assert ALL_ROUTERS not in [ask.address for ask in found.tick(0)]


def test_a_link_that_is_not_there_yet() -> None:
    found = host(links=(link(3, "eth9"),))
    assert "there is no device 'eth1' yet" in found.events()[0].text
    assert (found.tick(0), found.deadline()) == ([], inf)
    found.observe([Change(link()), Change(default6(LL))], 1.0)
    assert found.router == LL
