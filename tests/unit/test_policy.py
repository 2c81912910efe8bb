"""What is announced and what is taken, in nodes of every kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from via6.config import Config, declared
from via6.model import (
    IFA_F_DADFAILED,
    IFA_F_TENTATIVE,
    IFF_LOOPBACK,
    IFF_LOWER_UP,
    IFF_UP,
    PROTO_BOOT,
    PROTO_KERNEL,
    PROTO_STATIC,
    PROTO_VIA6,
    Change,
    InterfaceAddress,
    Link,
    NextHop,
    NexthopObject,
    Route,
    RouteTable,
    Snapshot,
)
from via6.policy import Import, Standing, announced, has_default, imported, source
from via6.prefix import AF_INET, Prefix, PrefixMap, mask, parse_address, parse_prefix
from via6.view import View

WORKS = IFF_UP | IFF_LOWER_UP
LO, ETH0, ETH1, ETH2 = 1, 2, 3, 4
PROTO_BGP = 186
NOPREFIXROUTE = 0x200

P = parse_prefix
A = parse_address


def net(address: str, ifindex: int, **more: Any) -> InterfaceAddress:
    prefix, length = address.split("/")
    return InterfaceAddress(ifindex, A(prefix), int(length), **more)


def route(to: str, dev: int = ETH0, *, protocol: int = PROTO_STATIC, via: str | None = "fe80::1", **more: Any) -> Route:
    hops = (NextHop(A(via) if via else None, dev),) if dev else ()
    return Route(P(to), hops, protocol=protocol, **more)


def local(address: str, dev: int = LO) -> Route:
    return Route(P(address), (NextHop(None, dev),), type="local", table=255, protocol=PROTO_KERNEL)


def links(**flags: int) -> tuple[Link, ...]:
    """lo and three interfaces that work, but for what is said."""
    names = {"lo": LO, "eth0": ETH0, "eth1": ETH1, "eth2": ETH2}
    given = {"lo": WORKS | IFF_LOOPBACK, **flags}
    return tuple(Link(index, name, flags=given.get(name, WORKS)) for name, index in names.items())


def view(*things: InterfaceAddress | Route | NexthopObject, devices: tuple[Link, ...] = ()) -> View:
    """A node with these; the kernel's own routes for its addresses come by themselves."""
    routes = [thing for thing in things if isinstance(thing, Route)]
    addresses = [thing for thing in things if isinstance(thing, InterfaceAddress)]
    for own in addresses:
        bits = len(own.address) * 8
        routes.append(
            Route(Prefix(own.address, bits), (NextHop(None, own.ifindex),), "local", 255, protocol=PROTO_KERNEL)
        )
        if own.ifindex != LO and not own.flags & NOPREFIXROUTE:
            prefix = Prefix(mask(own.peer or own.address, own.length), own.length)
            routes.append(Route(prefix, (NextHop(None, own.ifindex),), protocol=PROTO_KERNEL))
    objects = tuple(thing for thing in things if isinstance(thing, NexthopObject))
    return View(Snapshot(devices or links(), tuple(addresses), RouteTable.of(routes), nexthops=objects))


def config(*exports: Any, imports: list[Any] | None = None, six: bool = False, **tables: Any) -> Config:
    babel: dict[str, Any] = {"interfaces": ["eth0"], "export": list(exports)}
    if imports is not None:
        babel["import"] = imports
    if six:
        babel["families"] = ["ipv4", "ipv6"]
    made, problems = declared({"babel": babel, **tables}, "t")
    assert made is not None, list(map(str, problems))
    return made


def out(node: View, *exports: Any, statics: PrefixMap[Route] | None = None, **more: Any) -> dict[str, int]:
    found = announced(node, config(*exports, **more), statics=statics or PrefixMap())
    return {str(prefix): metric for prefix, metric in found.items()}


def map_of(*routes: Route) -> PrefixMap[Route]:
    return PrefixMap({r.prefix: r for r in routes})


# --- export --------------------------------------------------------------------------------------------------------


def test_nothing_by_default() -> None:
    node = view(net("10.0.0.1/32", LO), net("10.1.0.1/24", ETH1), route("10.2/16"), route("0/0"))
    assert out(node) == {}
    assert announced(node, Config()) == {}


def test_connected() -> None:
    node = view(
        net("10.0.0.1/32", LO), net("127.0.0.1/8", LO), net("10.9.0.1/24", LO), net("10.1.0.1/24", ETH1),
        net("10.1.0.2/24", ETH1), net("169.254.7.7/16", ETH1), net("192.0.0.8/32", LO), net("2001:db8::1/64", ETH1),
    )  # fmt: skip
    assert out(node, "connected") == {"10.0.0.1/32": 0, "10.1.0.0/24": 0, "10.9.0.1/32": 0}


def test_connected_of_both_families() -> None:
    node = view(
        net("10.1.0.1/24", ETH1), net("2001:db8:1::1/64", ETH1), net("fe80::5/64", ETH1), net("::1/128", LO),
        net("2001:db8::5/128", LO), net("2001:db8:3::1/64", ETH1, flags=IFA_F_TENTATIVE),
        net("2001:db8:4::1/64", ETH1, flags=IFA_F_DADFAILED),
    )  # fmt: skip
    assert out(node, "connected", six=True) == {"10.1.0.0/24": 0, "2001:db8::5/128": 0, "2001:db8:1::/64": 0}


@pytest.mark.parametrize("flags", [0, IFF_UP])
def test_a_link_that_does_not_work_has_no_connected_prefix(flags: int) -> None:
    node = view(net("10.1.0.1/24", ETH1), devices=links(eth1=flags))
    assert out(node, "connected") == {}
    assert out(node, "10.1.0.0/24") == {}


def test_the_carrier_comes_and_goes() -> None:
    node = view(net("10.1.0.1/24", ETH1))
    up = node.links[ETH1]
    node.observe(Change(replace(up, flags=IFF_UP)))
    assert out(node, "connected", "10.1.0.0/24") == {}
    node.observe(Change(up))
    assert out(node, "connected") == {"10.1.0.0/24": 0}


def test_odd_addresses() -> None:
    node = view(
        net("10.1.0.1/24", ETH1, peer=A("10.7.0.2")), net("10.2.0.1/24", ETH1, flags=NOPREFIXROUTE),
        net("10.3.0.1/32", ETH1, peer=A("10.3.0.1")),
    )  # fmt: skip
    assert out(node, "connected").keys() == {"10.1.0.1/32", "10.7.0.0/24", "10.2.0.1/32", "10.3.0.1/32"}


def test_an_interface_of_a_vrf_is_in_another_world() -> None:
    vrf = Link(9, "blue", flags=WORKS, kind="vrf")
    bridge = Link(10, "br0", flags=WORKS, kind="bridge")
    devices = (*links()[:2], replace(links()[2], master=9), replace(links()[3], master=10), vrf, bridge)
    node = view(net("10.1.0.1/24", ETH1), net("10.2.0.1/24", ETH2), devices=devices)
    assert out(node, "connected") == {"10.2.0.0/24": 0}


def test_static() -> None:
    node = view(
        route("10.1/16"), route("10.2/16", protocol=PROTO_BOOT), route("10.3/16", protocol=PROTO_BGP),
        route("10.4/16", dev=0, type="blackhole"), route("0/0"), route("10.5/16", table=100), route("240/8"),
        route("2001:db8:1::/48"), net("10.6.0.1/24", ETH1),
    )  # fmt: skip
    assert out(node, "static") == {"10.1.0.0/16": 0, "10.2.0.0/16": 0}
    assert out(node, "static", six=True).keys() == {"10.1.0.0/16", "10.2.0.0/16", "2001:db8:1::/48"}
    node.observe(Change(route("10.1/16"), gone=True))
    node.observe(Change(route("10.7/16")))
    assert out(node, "static").keys() == {"10.2.0.0/16", "10.7.0.0/16"}


def test_static_routes_of_this_configuration() -> None:
    mine = map_of(route("10.1/16", protocol=PROTO_VIA6), route("10.2/16", dev=0, type="unreachable"))
    assert out(view(), "static", statics=mine) == {"10.1.0.0/16": 0}
    assert out(view(), "10.1.2.0/24", "10.2/16", statics=mine) == {"10.1.2.0/24": 0}
    # What Babel put into the main table is nobody's static route.
    learnt = view(route("2001:db8:1::/48", protocol=PROTO_VIA6))
    assert out(learnt, "static", "2001:db8:1::/48", six=True) == {}
    mine = map_of(route("2001:db8:1::/48", protocol=PROTO_VIA6))
    assert out(learnt, "static", six=True, statics=mine) == {"2001:db8:1::/48": 0}


def test_a_static_route_by_a_link_without_carrier() -> None:
    node = view(route("10.1/16", dev=ETH1), route("10.2/16", dev=LO), devices=links(eth1=IFF_UP))
    assert out(node, "static", "10.1/16", "10.2/16") == {}


def test_a_route_on_a_nexthop_object() -> None:
    node = view(Route(P("10.1/16"), protocol=PROTO_BGP, nhid=7), NexthopObject(7, A("fe80::1"), ETH1))
    assert out(node, "10.1/16") == {"10.1.0.0/16": 0}
    assert out(view(Route(P("10.1/16"), protocol=PROTO_BGP, nhid=7)), "10.1/16") == {}


REACHED = [
    (net("10.1.2.3/24", ETH1), "10.1.2.3/32"),  # own address
    (net("10.1.2.3/24", ETH1), "10.1.2.0/24"),  # connected
    (net("10.1.2.3/24", ETH1), "10.1.2.128/25"),  # part of it
    (net("10.1.2.3/32", LO), "10.1.2.3/32"),
    (local("10.1.0.0/16"), "10.1.2.0/24"),  # AnyIP
    (route("10.1/16"), "10.1/16"),
    (route("10.1/16"), "10.1.2.0/24"),
    (route("10.1/16", protocol=PROTO_BGP), "10.1/16"),  # foreign
    (route("0/0"), "0/0"),
    (route("0/0", protocol=PROTO_BOOT), "default"),
]
NOT_REACHED = [
    (net("10.1.2.3/24", ETH1), "10.1.0.0/16"),  # only a part of it
    (net("10.1.2.3/24", ETH1), "10.1.3.0/24"),
    (route("10.1/16"), "10/8"),
    (route("0/0"), "10/8"),  # else every prefix would be reachable always
    (route("10.1/16", table=100), "10.1/16"),
    (route("10.1/16", dev=0, type="unreachable"), "10.1/16"),  # nothing in it
    (route("10.1/16", dev=0, type="throw"), "10.1/16"),
    (route("0/0", dev=0, type="unreachable"), "0/0"),
    (route("0/0", dev=LO), "default"),
]


@pytest.mark.parametrize(("thing", "prefix"), REACHED)
def test_a_prefix_that_is_reached(thing: Any, prefix: str) -> None:
    assert out(view(thing), prefix) == {str(P(prefix)): 0}
    assert out(view(), prefix) == {}
    if isinstance(thing, Route):  # Babel's own way there is none
        assert out(view(replace(thing, protocol=PROTO_VIA6)), prefix) == {} or thing.table == 255


@pytest.mark.parametrize(("thing", "prefix"), NOT_REACHED)
def test_a_prefix_that_is_not_reached(thing: Any, prefix: str) -> None:
    assert out(view(thing), prefix) == {}


def test_a_sum_of_longer_prefixes() -> None:
    drop = route("10.1/16", dev=0, type="blackhole")
    assert out(view(drop, net("10.1.2.3/24", ETH1)), "10.1/16") == {"10.1.0.0/16": 0}
    assert out(view(drop, net("10.1.2.3/24", ETH1)), "static") == {}
    assert out(view(drop, net("10.1.2.3/24", ETH1), devices=links(eth1=IFF_UP)), "10.1/16") == {}
    assert out(view(drop, route("10.1.7.0/24")), "10.1/16") == {"10.1.0.0/16": 0}
    assert out(view(drop), "10.1/16", statics=map_of(route("10.1.7.0/24"))) == {"10.1.0.0/16": 0}
    assert out(view(drop, route("10.2.7.0/24")), "10.1/16") == {}
    # What is inside a route that drops is not reached.
    assert out(view(drop, route("10.1.7.0/24"), route("10/8")), "10.1.8.0/24") == {}


def test_what_leads_nowhere_hides_what_is_behind_it() -> None:
    node = view(route("10/8"), route("10.1/16", dev=ETH1), devices=links(eth1=IFF_UP))
    assert out(node, "10.1/16", "10.2/16") == {"10.2.0.0/16": 0}
    # A second route to the same prefix is another matter.
    node = view(route("10.1/16", metric=9), route("10.1/16", dev=ETH1), devices=links(eth1=IFF_UP))
    assert out(node, "10.1/16") == {"10.1.0.0/16": 0}


def test_the_first_rule_that_fits_decides() -> None:
    node = view(
        net("10.1.0.1/24", ETH1), net("10.9.1.1/24", ETH1), net("10.9.2.1/28", ETH1), net("192.168.1.1/24", ETH2)
    )
    exports = (
        {"deny": True, "within": "10.9/16", "length": "25-32"},
        {"from": "connected", "within": "10.9/16", "metric": 50},
        {"from": "connected", "within": "10/8", "length": "16-24", "metric": 7},
        {"prefix": "192.168.1.0/24", "metric": 3},
        {"prefix": "172.16/12", "metric": 3},
    )
    assert out(node, *exports) == {"10.1.0.0/24": 7, "10.9.1.0/24": 50, "192.168.1.0/24": 3}
    # A rule for connected prefixes says nothing of one that is named, and the other way round.
    assert out(node, {"from": "static", "metric": 5}, "connected", "10.1.0.0/24")["10.1.0.0/24"] == 0
    assert out(view(route("10.1/16")), {"from": "connected", "metric": 5}, "10.1/16") == {"10.1.0.0/16": 0}


def test_gateway() -> None:
    gateway = {"gateway": {"uplink": "eth[12]", "metric": 4}}
    assert out(view(route("0/0", dev=ETH1)), **gateway) == {"0.0.0.0/0": 4}
    assert out(view(route("0/0", dev=ETH0)), **gateway) == {}
    assert out(view(route("0/0", dev=ETH0)), gateway={}) == {"0.0.0.0/0": 0}
    assert out(view(route("0/0", dev=ETH1), devices=links(eth1=IFF_UP)), **gateway) == {}
    assert out(view(route("0/0", dev=ETH1, protocol=PROTO_VIA6)), **gateway) == {}
    assert out(view(), statics=map_of(route("0/0", dev=ETH2)), **gateway) == {"0.0.0.0/0": 4}
    # Where there is a gateway table, it decides.
    assert out(view(route("0/0", dev=ETH0)), "default", **gateway) == {}


def test_hosts_that_answer() -> None:
    host = {"address": "10.0.8.42", "interface": "eth1", "mac": "02:00:00:00:00:01"}
    made = config(host=[host])
    assert announced(view(), made) == {}
    assert announced(view(), made, hosts=[A("10.0.8.42")]) == {P("10.0.8.42/32"): 0}


def test_order_is_fixed() -> None:
    addresses = [net(f"10.{i}.0.1/24", ETH1) for i in range(20)]
    one = announced(view(*addresses), config("connected"))
    other = announced(view(*reversed(addresses)), config("connected"))
    assert list(one) == list(other)


# --- import --------------------------------------------------------------------------------------------------------


def taken(node: View, *texts: str, **more: Any) -> list[str]:
    made = config("connected", **more)
    policy = imported(node, made, announced(node, made))
    return [text for text in texts if policy.accepts(P(text))]


def test_by_default_what_is_sensible_is_taken() -> None:
    node = view(net("10.0.0.1/32", LO), net("10.1.0.1/24", ETH1))
    good = ["10.2/16", "10.1.0.0/16", "10.1.0.0/25", "10.1.0.7", "0/0", "100.64/10", "192.0.2.0/24", "192.0.0.0/16"]
    wrong = ["10.0.0.1", "10.1.0.0/24", "10.1.0.1", "127/8", "127.0.0.1", "169.254/16", "169.254.1.1", "192.0.0.8",
             "224/4", "240/4", "255.255.255.255", "0/8", "0.0.0.0", "2001:db8::/32", "::/0"]  # fmt: skip
    assert taken(node, *good, *wrong) == good
    six = ["2001:db8::/32", "::/0", "64:ff9b::/96"]
    assert taken(node, *six, "fe80::/64", "ff02::1", "::1", "::ffff:10.0.0.0/104", six=True) == six


def test_our_own_is_what_it_is_now() -> None:
    node = view(net("10.1.0.1/24", ETH1))
    assert taken(node, "10.1.0.0/24") == []
    node.observe(Change(replace(node.links[ETH1], flags=IFF_UP)))
    assert taken(node, "10.1.0.0/24", "10.1.0.1") == ["10.1.0.0/24"]


def test_what_we_announce_is_not_taken() -> None:
    node = view(route("10.7/16"))
    assert taken(node, "10.7/16") == ["10.7/16"]  # ours is not announced: metrics decide in the kernel
    made = config("static")
    now = Standing()
    now.follow(node, made)
    assert not now.imports.accepts(P("10.7/16"))


def test_the_address_of_the_node_is_not_taken_though_it_is_not_there_yet() -> None:
    made = config("connected", node={"address": "10.0.0.9"})
    assert not imported(view(), made, ()).accepts(P("10.0.0.9"))


@pytest.mark.parametrize("protocol", [PROTO_BOOT, PROTO_BGP])
def test_a_second_default_route(protocol: int) -> None:
    node = view(route("0/0", protocol=protocol))
    assert taken(node, "0/0") == []
    assert taken(node, "0/0", imports=["any"]) == []
    assert taken(node, "0/0", imports=["default"]) == ["0/0"]
    assert taken(node, "::/0", six=True) == ["::/0"]
    assert taken(view(route("0/0", protocol=PROTO_VIA6)), "0/0") == ["0/0"]
    assert taken(view(route("0/0"), devices=links(eth0=IFF_UP)), "0/0") == ["0/0"]


def test_rules_of_import() -> None:
    rules = [{"deny": True, "within": "10.9/16"}, {"within": "10/8", "length": "16-24"}, "172.16/12"]
    texts = ("10.9.1.0/24", "10.1/16", "10.1.2.0/25", "10/8", "172.16/12", "172.16.1.0/24", "192.168.1.0/24", "0/0")
    assert taken(view(), *texts, imports=rules) == ["10.1/16", "172.16/12"]
    assert taken(view(), *texts, imports=[]) == []
    assert taken(view(), "10.9.1.0/24", "10.1/16", "127/8", imports=[rules[0], "any"]) == ["10.1/16"]


def test_thousands_of_rules_that_name_prefixes() -> None:
    rules = [{"deny": True, "prefix": "10.0.1.0/24"}, *(f"10.{i >> 8}.{i & 255}.0/24" for i in range(2000) if i != 1)]
    policy = imported(view(), config(imports=rules), ())
    asked = [Prefix(bytes([10, i >> 8, i & 255, 0]), 24) for i in range(4000)]
    assert [policy.accepts(prefix) for prefix in asked] == [i != 1 and i < 2000 for i in range(4000)]


def test_standing_tells_what_has_changed() -> None:
    node = view(net("10.1.0.1/24", ETH1))
    made = config("connected", "static", imports=["any"])
    now = Standing()
    assert now.follow(node, made) == ({P("10.1.0.0/24"): 0}, True)
    node.observe(Change(route("10.5/16", protocol=PROTO_BGP)))
    assert now.follow(node, made) == ({}, False)
    node.observe(Change(route("10.6/16")))
    assert now.follow(node, made) == ({P("10.6/16"): 0}, False)
    assert not now.imports.accepts(P("10.6/16"))
    node.observe(Change(route("0/0", protocol=PROTO_BGP)))
    assert now.follow(node, made) == ({}, True)
    node.observe(Change(route("10.6/16"), gone=True))
    assert now.follow(node, made) == ({P("10.6/16"): None}, False)
    assert now.imports.accepts(P("10.6/16"))
    assert now.follow(node, config("connected")) == ({}, True)  # other rules of import
    node.observe(Change(replace(node.links[ETH1], flags=0)))
    assert now.follow(node, config("connected"))[0] == {P("10.1.0.0/24"): None}
    assert imported(node, Config(), ()) == Import(frozenset())


EXPORTS = (
    ("connected", "static"),
    ("static", {"prefix": "10.0.0.0/8"}, {"prefix": "10.1.0.0/16", "metric": 7}),
    ({"prefix": "10.2.0.0/16", "deny": True}, "static", "default", {"prefix": "10.3.1.0/24"}),
)
EVENTS = st.tuples(
    st.sampled_from(("10/8", "10.1/16", "10.2/16", "10.3.1/24", "0/0", "10.9.1.1/32")),
    st.sampled_from((PROTO_STATIC, PROTO_BOOT, PROTO_BGP)),
    st.sampled_from((ETH0, ETH1, ETH2)),
    st.sampled_from((0, 5)),
    st.sampled_from(("add", "add", "replace", "gone", "gone", "link", "address", "ask")),
    st.sampled_from(("unicast", "unicast", "unreachable")),
)


@given(st.sampled_from(EXPORTS), st.lists(EVENTS, max_size=25), st.sampled_from((1, 3, 1000)))
def test_what_follows_from_changes_is_what_a_fresh_look_finds(
    exports: tuple[Any, ...], events: list[Any], most: int
) -> None:
    """The prefixes that were touched alone, beside everything anew."""
    node, made, now = view(net("10.9.0.1/24", ETH2)), config(*exports), Standing()
    said: dict[Prefix, int] = {}
    for to, protocol, dev, metric, what, kind in [*events, ("", 0, 0, 0, "ask", "")]:
        if what == "link":
            node.observe(Change(replace(node.links[dev], flags=WORKS if metric else 0)))
        elif what == "address":
            node.observe(Change(net("10.3.1.7/24", dev), gone=bool(metric)))
        elif what in ("add", "replace", "gone"):
            one = route(to, dev if kind == "unicast" else 0, protocol=protocol, metric=metric, type=kind)
            node.observe(Change(one, gone=what == "gone", replaces=what == "replace"))
        else:
            before = now.imports
            changes, imports = now.follow(node, made, most=most)
            for _ in range(20):
                if now.complete:
                    break
                more, again = now.follow(node, made, most=most)
                changes, imports = changes | more, imports or again
            said |= {p: m for p, m in changes.items() if m is not None}
            said = {p: m for p, m in said.items() if changes.get(p, m) is not None}
            fresh = announced(node, made)
            assert said == now.announce == fresh
            assert now.imports == imported(node, made, fresh)
            assert imports == (before != now.imports)
            assert now.source == source(node, made, fresh)


# --- source address ------------------------------------------------------------------------------------------------


def src(where: View, *exports: Any, **more: Any) -> str | None:
    made = config(*exports, **more)
    found = source(where, made, announced(where, made))
    return ".".join(map(str, found)) if found else None


def test_source_of_our_own_packets() -> None:
    node = view(net("10.2.0.1/24", ETH2), net("10.1.0.1/24", ETH1), net("10.0.0.1/32", LO), net("2001:db8::1/64", ETH0))
    assert src(node) is None
    assert src(node, "connected") == "10.0.0.1"
    assert src(node, {"from": "connected", "length": 24}) == "10.1.0.1"
    assert src(node, "10.2.0.0/24") == "10.2.0.1"
    assert src(node, "10.2.0.1/32") == "10.2.0.1"
    assert src(node, "connected", node={"address": "10.9.9.9"}) == "10.9.9.9"
    assert src(view(route("10.7/16")), "static") is None


def test_default_route_of_either_family() -> None:
    node = view(route("::/0", dev=ETH1))
    assert has_default(node, 16)
    assert not has_default(node, 4)
    assert node.at(Prefix(bytes(16), 0))[0].family != AF_INET


# --- the view ------------------------------------------------------------------------------------------------------


def test_routes_typed_in_are_found_without_a_walk() -> None:
    by_hand = frozenset({PROTO_STATIC, PROTO_BOOT})
    node = view(route("10.1/16"), route("10.1/16", metric=5, protocol=PROTO_BGP), route("10.2/16", protocol=PROTO_BGP))

    def both() -> tuple[set[Route], set[Route]]:
        walked = {r for block in node.routes(4) for r in block if r.protocol in by_hand}
        return {r for block in node.routes(4, by_hand) for r in block}, walked

    quick, walked = both()
    assert quick == walked == {route("10.1/16")}
    node.observe(Change(route("10.3/16", dev=ETH1)))
    assert len(both()[0]) == len(both()[1]) == 2
    node.observe(Change(replace(node.links[ETH1], flags=0)))  # routes die with their link, unannounced
    assert both() == ({route("10.1/16")}, {route("10.1/16")})
    node.observe(Change(route("10.1/16", protocol=PROTO_BGP), replaces=True))
    assert both() == (set(), set())
