"""Which way out a gateway has, and the rule that translates there."""

from __future__ import annotations

from via6.daemon.gateway import DEFAULT, Gateway, ruleset, uplink
from via6.model import (
    IFF_LOOPBACK,
    IFF_LOWER_UP,
    IFF_UP,
    NH_LINKDOWN,
    PROTO_VIA6,
    Change,
    InterfaceAddress,
    Link,
    NextHop,
    Route,
    RouteTable,
    Snapshot,
)
from via6.prefix import PrefixMap, parse_address
from via6.view import View

GATE = parse_address("192.0.2.1")
OWN = parse_address("192.0.2.2")
LINKS = (
    Link(1, "lo", flags=IFF_UP | IFF_LOWER_UP | IFF_LOOPBACK),
    Link(2, "up0", flags=IFF_UP | IFF_LOWER_UP),
    Link(3, "up1", flags=IFF_UP | IFF_LOWER_UP),
    Link(4, "dead0", flags=IFF_UP),
)


def default(index: int = 2, metric: int = 0, protocol: int = 16, flags: int = 0, nhid: int = 0) -> Route:
    return Route(DEFAULT, (NextHop(GATE, index, 1, flags),), metric=metric, protocol=protocol, nhid=nhid)


def node(*routes: Route) -> View:
    return View(Snapshot(links=LINKS, routes=RouteTable.of(routes)))


def test_the_best_route_that_works() -> None:
    found = uplink(node(default(3, 200), default(2, 100)))
    assert found is not None
    assert (found.devices, str(found)) == (("up0",), "default via 192.0.2.1 dev up0")
    found = uplink(node(default(3, 200), default(4, 100)))
    assert found is not None
    assert found.devices == ("up1",)


def test_what_is_no_way_out() -> None:
    assert uplink(node()) is None
    assert uplink(node(default(1))) is None
    assert uplink(node(default(4))) is None
    assert uplink(node(default(2, flags=NH_LINKDOWN))) is None
    assert uplink(node(default(2, protocol=PROTO_VIA6))) is None
    # What drops, and comes first, hides what is behind it.
    assert uplink(node(default(2, 100), Route(DEFAULT, (), type="unreachable", protocol=4))) is None


def test_only_by_the_devices_that_are_named() -> None:
    routes = default(2, 100), default(3, 200)
    found = uplink(node(*routes), "*1")
    assert found is not None
    assert found.devices == ("up1",)
    assert uplink(node(*routes), "wan*") is None


def test_all_devices_of_a_multipath_route() -> None:
    route = Route(DEFAULT, (NextHop(GATE, 2), NextHop(GATE, 3), NextHop(GATE, 4)), protocol=4)
    found = uplink(node(route))
    assert found is not None
    assert found.devices == ("up0", "up1")


def test_a_declared_default_route_counts() -> None:
    statics = PrefixMap({DEFAULT: default(3, 50, PROTO_VIA6)})
    found = uplink(node(default(2, 100)), statics=statics)
    assert found is not None
    assert found.devices == ("up1",)


def test_the_rule() -> None:
    text = ruleset(["up1", "up0"])
    assert text.startswith("add table ip via6\ndelete table ip via6\ntable ip via6 {\n")
    assert 'oifname { "up0", "up1" } fib saddr . oif type != local masquerade' in text
    assert ruleset([]) == "add table ip via6\ndelete table ip via6\n"


def test_without_a_gateway_there_is_nothing() -> None:
    gateway = Gateway(None)
    assert (gateway.settle(node(default())), gateway.devices(), gateway.events()) == (False, frozenset(), [])
    gateway.close()


def test_what_undermines_the_uplink() -> None:
    from via6.config_babel import GatewaySpec

    gateway = Gateway(GatewaySpec())
    view = node(default(nhid=7))
    lost = Change(Link(2, "up0", flags=IFF_UP))
    assert not gateway.undermined(lost, view)  # nothing to lose yet
    assert gateway.settle(view)
    assert gateway.undermined(lost, view)
    assert gateway.undermined(Change(InterfaceAddress(2, OWN, 24), gone=True), view)
    assert not gateway.undermined(Change(InterfaceAddress(2, OWN, 24)), view)
    assert not gateway.undermined(Change(InterfaceAddress(3, OWN, 24), gone=True), view)
    assert not gateway.undermined(Change(Link(3, "up1", flags=IFF_UP)), view)
    assert [event.kind for event in gateway.events()] == ["gateway-up"]
    assert not gateway.settle(node())
    assert [event.kind for event in gateway.events()] == ["gateway-down"]
