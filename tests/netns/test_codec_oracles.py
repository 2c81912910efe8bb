"""What we read from the kernel is what `ip -j` reads, in a namespace with one of everything; what we write, `ip` shows.

With UPDATE=1 the messages of this namespace become tests/golden/netlink/in-*.hex (see unit/test_netlink_golden.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

import hexfile
from support import Net, Nets, wait_until
from via6.kernel.linux import LinuxKernel
from via6.kernel.socket import NetlinkSocket
from via6.model import (
    NH_DEAD,
    NH_LINKDOWN,
    NH_ONLINK,
    PROTO_KERNEL,
    Burst,
    InterfaceAddress,
    Link,
    Neighbour,
    NextHop,
    NexthopObject,
    Plan,
    PutNexthop,
    Route,
    RouteBlock,
    Rule,
    Step,
)
from via6.netlink import objects, wire
from via6.netlink.route import RTM_GETROUTE, RTM_NEWROUTE, TYPES, encode_dump_filter, encode_route
from via6.prefix import AF_INET, AF_INET6, Address, format_address, parse_address, parse_prefix

pytestmark = pytest.mark.root

FURNITURE = """
    addr add 192.0.2.1/24 dev eth0
    addr add 198.51.100.1 peer 198.51.100.2/32 dev eth1
    addr add 2001:db8::1/64 dev eth0
    addr add 2001:db8:1::1 peer 2001:db8:1::2/128 dev eth1
    nexthop add id 1 via fe80::1 dev eth0 proto 46
    nexthop add id 2 via fe80::2 dev eth1 proto 46
    nexthop add id 3 via 192.0.2.9 dev eth0
    nexthop add id 7 blackhole
    nexthop add id 8 via 2001:db8:77::1 dev eth0 onlink
    nexthop add id 10 group 1/2,5 proto 46
    route add 10.1.0.0/24 nhid 1 proto 46
    route add 10.1.2.0/24 nhid 10 proto 46
    route add 10.1.3.0/24 nhid 7 proto 46
    -4 route add 10.2.0.0/24 via inet6 fe80::1 dev eth0 proto static metric 5 mtu 1400 advmss 1200 src 192.0.2.1
    route add 10.3.0.0/24 proto 46 nexthop via inet6 fe80::1 dev eth0 nexthop via 192.0.2.9 dev eth0 weight 3
    route add 10.4.0.0/24 tos 4 via 192.0.2.9 table 1000
    route add unreachable 10.5.0.0/16 metric 900
    route add 10.6.0.0/24 via inet6 2001:db8:77::1 dev eth0 onlink
    route add 10.7.0.0/24 via inet6 fe80::1 dev eth2
    -4 route add default via inet6 fe80::1 dev eth0
    -6 route add 2001:db8:a::/48 via fe80::1 dev eth0 pref high
    -6 route add 2001:db8:b::/48 nexthop via fe80::1 dev eth0 nexthop via fe80::2 dev eth1 weight 2
    -6 route add 2001:db8:c::/48 nhid 10
    -6 route add blackhole 2001:db8:d::/48
    neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev eth0
    neigh add fe80::1 lladdr 02:00:00:00:00:09 dev eth0 router
    neigh add fe80::9 dev eth1 nud failed
    rule add from 10.0.0.0/8 to 192.0.2.0/24 iif eth0 fwmark 0x10/0xff table 1000 prio 100
    rule add not from 10.0.0.0/8 oif eth1 blackhole prio 101
    -6 rule add from 2001:db8::/32 unreachable prio 102
    rule add l3mdev prio 1000
"""


@pytest.fixture
def furnished(nets: Nets) -> Iterator[tuple[Net, LinuxKernel]]:
    """A namespace with one of everything, eth2 without a carrier."""
    here, there = nets.new(), nets.new()
    for number in range(3):
        nets.veth(here, f"eth{number}", there, f"eth{number}", up=False)
        here.ip(f"link set eth{number} address 02:00:00:00:00:0{number + 1}")
        here.ip(f"link set eth{number} up")
        there.ip(f"link set eth{number} up")
    with here.inside():
        kernel = LinuxKernel()
    wait_until(lambda: all(link.operstate != "DOWN" for link in kernel.dump().links), what="links up")
    for line in FURNITURE.strip().splitlines():
        here.ip(line)
    there.ip("link set eth2 down")
    wait_until(lambda: kernel.dump().by_name["eth2"].operstate == "DOWN", what="carrier gone")
    yield here, kernel
    kernel.close()


def text(address: Address) -> str:
    return format_address(address)


def way(hop: NextHop, route: Route, names: dict[int, str]) -> dict[str, Any]:
    """A next hop in the words of `ip -j`."""
    out: dict[str, Any] = {"flags": [w for bit, w in WORDS.items() if hop.flags & bit]}
    if hop.via and len(hop.via) != len(route.prefix.packed):
        out["via"] = {"family": "inet6" if len(hop.via) == 16 else "inet", "host": text(hop.via)}
    elif hop.via:
        out["gateway"] = text(hop.via)
    if hop.ifindex:
        out["dev"] = names[hop.ifindex]
    return out


WORDS = {NH_DEAD: "dead", NH_ONLINK: "onlink", NH_LINKDOWN: "linkdown"}
METRICS = {2: "mtu", 8: "advmss"}
PREFS = {0: "medium", 1: "high", 3: "low"}


def in_words_of_ip(route: Route, names: dict[int, str]) -> dict[str, Any]:
    """A route as `ip -j -d -N route` prints it."""
    out: dict[str, Any] = {
        "type": str(TYPES.index(route.type)),
        "dst": text(route.prefix.packed) if route.prefix.is_host else str(route.prefix),
        "table": str(route.table),
        "protocol": str(route.protocol),
        "scope": str(route.scope),
        "flags": [],
    }
    if not route.prefix.length:
        out["dst"] = "default"
    if route.nhid:
        out["nhid"] = route.nhid
    if len(route.next_hops) > 1:
        out["nexthops"] = [{**way(h, route, names), "weight": h.weight} for h in route.next_hops]
    elif route.next_hops:
        out |= way(route.next_hops[0], route, names)
    if route.src:
        out["prefsrc"] = text(route.src)
    if route.metric or route.family == AF_INET6:
        out["metric"] = route.metric
    if route.metrics:
        out["metrics"] = [{METRICS[k]: v for k, v in route.metrics}]
    if route.tos:
        out["tos"] = f"0x{route.tos:02x}"
    if route.family == AF_INET6:
        out["pref"] = PREFS[route.pref]
    return out


def plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what `ip` adds of its own, in an order of our own."""
    for row in rows:
        row.pop("nh_info", None)
    return sorted(rows, key=repr_sorted)


def repr_sorted(row: dict[str, Any]) -> str:
    return repr(sorted(row.items()))


def test_routes(furnished: tuple[Net, LinuxKernel]) -> None:
    net, kernel = furnished
    snapshot = kernel.dump()
    names = {link.ifindex: link.name for link in snapshot.links}
    for family, option in ((AF_INET, "-4"), (AF_INET6, "-6")):
        ours = [in_words_of_ip(r, names) for r in snapshot.routes if r.family == family]
        theirs = net.json(option, "-d", "-N", "route", "show", "table", "all")
        assert plain(ours) == plain(theirs)
    assert any(r.next_hops[0].flags == NH_LINKDOWN for r in snapshot.routes if r.prefix == parse_prefix("10.7/24"))


def test_nexthop_objects(furnished: tuple[Net, LinuxKernel]) -> None:
    net, kernel = furnished
    snapshot = kernel.dump()
    ours = []
    for n in snapshot.nexthops:
        row: dict[str, Any] = {"id": n.nhid, **({"protocol": str(n.protocol)} if n.protocol else {})}
        row["flags"] = [w for bit, w in WORDS.items() if n.flags & bit]
        if n.group:
            row["group"] = [{"id": i, **({"weight": w} if w > 1 else {})} for i, w in n.group]
        elif n.blackhole:
            row["blackhole"] = None
        else:
            row |= {"gateway": text(n.via or b""), "dev": snapshot.dev(n.ifindex)}
        ours.append(row)
    theirs = net.json("-N", "nexthop")
    for row in theirs:
        row.pop("scope", None)
    assert plain(ours) == plain(theirs)


def test_links_and_addresses(furnished: tuple[Net, LinuxKernel]) -> None:
    net, kernel = furnished
    snapshot = kernel.dump()
    for row in net.json("-d", "addr"):
        link = snapshot.by_name[row["ifname"]]
        assert (link.ifindex, link.mtu, link.operstate) == (row["ifindex"], row["mtu"], row["operstate"])
        assert (link.lladdr.hex(":"), link.peer) == (row["address"], row.get("link_index", 0))
        assert link.kind == row.get("linkinfo", {}).get("info_kind", "")
        assert (link.up, link.carrier) == ("UP" in row["flags"], "LOWER_UP" in row["flags"] and link.up)
        assert link.loopback == ("LOOPBACK" in row["flags"])
        scopes = {0: "global", 253: "link", 254: "host"}
        ours = [
            (text(a.address), text(a.peer) if a.peer else None, a.length, scopes[a.scope])
            for a in snapshot.addresses
            if a.ifindex == link.ifindex
        ]
        theirs = [(i["local"], i.get("address"), i["prefixlen"], i["scope"]) for i in row["addr_info"]]
        assert sorted(ours, key=repr) == sorted(theirs, key=repr)


def test_neighbours(furnished: tuple[Net, LinuxKernel]) -> None:
    net, kernel = furnished
    snapshot = kernel.dump()
    ours = {
        (text(n.address), snapshot.dev(n.ifindex), n.lladdr.hex(":"), n.state, bool(n.flags & 0x80))
        for n in snapshot.neighbours
        if n.state != "NOARP"
    }
    theirs = {
        (n["dst"], n["dev"], n.get("lladdr", ""), n["state"][0], "router" in n)
        for n in net.json("neigh", "show", "nud", "all")
        if n["state"] != ["NOARP"]
    }
    assert ours == theirs
    assert ("fe80::1", "eth0", "02:00:00:00:00:09", "PERMANENT", True) in ours
    assert ("fe80::9", "eth1", "", "FAILED", False) in ours


def test_rules(furnished: tuple[Net, LinuxKernel]) -> None:
    net, kernel = furnished
    numbers = {"blackhole": "6", "unreachable": "7"}
    for family, option in ((AF_INET, "-4"), (AF_INET6, "-6")):
        ours = []
        for rule in (r for r in kernel.dump().rules if r.family == family):
            row: dict[str, Any] = {"priority": rule.priority, "src": "all"}
            if rule.source:
                row |= {"src": text(rule.source.packed), "srclen": rule.source.length}
            if rule.destination:
                row |= {"dst": text(rule.destination.packed), "dstlen": rule.destination.length}
            if rule.fwmark:
                row |= {"fwmark": hex(rule.fwmark), "fwmask": hex(rule.fwmask)}
            row |= {key: dev for key, dev in (("iif", rule.iif), ("oif", rule.oif)) if dev}
            row |= {"l3mdev": None} if rule.l3mdev else {}
            row |= {"not": None} if rule.invert else {}
            if rule.action in numbers:
                row["action"] = numbers[rule.action]
            elif not rule.l3mdev:
                row["table"] = str(rule.table)
            ours.append(row)
        assert plain(ours) == plain(net.json(option, "-N", "rule"))


def test_ip_shows_what_we_write(nets: Nets) -> None:
    here, _there = nets.pair()
    here.ip("addr add 192.0.2.1/24 dev eth0")
    here.ip("addr add 2001:db8::1/64 dev eth0")
    with here.inside(), LinuxKernel() as kernel:
        eth0 = kernel.dump().by_name["eth0"].ifindex
        names = {eth0: "eth0"}
        ll, gua, v4 = parse_address("fe80::1"), parse_address("2001:db8::9"), parse_address("192.0.2.9")
        routes = [
            Route(parse_prefix("10.1/16"), (NextHop(ll, eth0),)),
            Route(parse_prefix("10.2/16"), (NextHop(gua, eth0),), metric=5, src=parse_address("192.0.2.1")),
            Route(parse_prefix("10.3/16"), (NextHop(ll, eth0), NextHop(v4, eth0, 7), NextHop(gua, eth0, 256))),
            Route(parse_prefix("10.4/16"), (NextHop(v4, eth0),), metrics=((2, 1400), (8, 1300)), table=1000),
            Route(parse_prefix("10.5/16"), (NextHop(parse_address("2001:db8:7::1"), eth0, 1, NH_ONLINK),), tos=4),
            Route(parse_prefix("10.6/16"), type="unreachable", metric=9, protocol=4),
            Route(parse_prefix("0/0"), (NextHop(None, eth0),), scope=253),
            Route(parse_prefix("2001:db8:a::/48"), (NextHop(ll, eth0),), metric=77, pref=1),
            Route(parse_prefix("2001:db8:b::/48"), (NextHop(ll, eth0, 2), NextHop(gua, eth0)), metric=77),
        ]
        objects_ = [
            NexthopObject(1, ll, eth0),
            NexthopObject(2, gua, eth0),
            NexthopObject(9, group=((1, 3), (2, 1))),
        ]
        on_objects = [Route(parse_prefix("10.7/16"), nhid=1), Route(parse_prefix("10.8/16"), nhid=9)]
        steps: list[Step] = [
            *(PutNexthop(o) for o in objects_),
            *(Burst("add", RouteBlock(r.as_template(), [r.prefix.packed])) for r in routes + on_objects),
        ]
        assert kernel.apply(Plan(tuple(steps))).failures == ()
        shown: dict[str, Any] = {}
        for option in ("-4", "-6"):
            rows = here.json(option, "-d", "-N", "route", "show", "table", "all")
            shown |= {row["dst"]: row for row in plain(rows)}
        for route in routes:
            wanted = in_words_of_ip(route, names)
            assert shown[wanted["dst"]] == wanted
        assert shown["10.7.0.0/16"]["via"] == {"family": "inet6", "host": "fe80::1"}
        assert [h["weight"] for h in shown["10.8.0.0/16"]["nexthops"]] == [3, 1]


# --- golden files ----------------------------------------------------------------------------------------------------


def dumped(socket: NetlinkSocket, kind: int, ask: bytes) -> list[bytes]:
    socket.send(wire.message(kind, wire.NLM_F_REQUEST | wire.NLM_F_DUMP, ask))
    found: list[bytes] = []
    while True:
        for msg in wire.messages(socket.receive()):
            if msg.type == wire.NLMSG_DONE:
                return found
            # Whose question it was (sequence, port) is no matter of the codec.
            found.append(wire.message(msg.type, 0, msg.payload))


def refused(socket: NetlinkSocket, payload: bytes) -> bytes:
    flags = wire.NLM_F_REQUEST | wire.NLM_F_ACK | wire.NLM_F_CREATE | wire.NLM_F_EXCL
    socket.send(wire.message(RTM_NEWROUTE, flags, payload, 77))
    (msg,) = wire.messages(socket.receive())
    return wire.message(msg.type, msg.flags, msg.payload, 77)


def worth_keeping(value: object) -> bool:
    return not (isinstance(value, Route) and value.protocol == PROTO_KERNEL and value.prefix.length > 8)


def name_of(value: object) -> str:
    match value:
        case Route():
            name = f"route-{value.prefix}-{value.table}"
        case NexthopObject():
            name = f"nexthop-{value.nhid}"
        case Link():
            name = f"link-{value.name}"
        case InterfaceAddress():
            name = f"address-{value.ifindex}-{text(value.address)}"
        case Neighbour():
            name = f"neighbour-{value.ifindex}-{text(value.address)}"
        case Rule():
            name = f"rule-{value.family}-{value.priority}"
        case _:
            raise AssertionError(value)
    return name.replace("/", "-").replace(":", "_")


def test_golden_files_are_taken(furnished: tuple[Net, LinuxKernel]) -> None:
    """Every kind of message decodes; with UPDATE=1 they are kept."""
    net, kernel = furnished
    eth0 = kernel.dump().by_name["eth0"].ifindex
    with net.inside():
        socket = NetlinkSocket()
    asks = [
        (RTM_GETROUTE, encode_dump_filter(AF_INET)),
        (RTM_GETROUTE, encode_dump_filter(AF_INET6)),
        (objects.RTM_GETNEXTHOP, objects.encode_nexthop_dump()),
        (objects.RTM_GETLINK, objects.encode_link_dump()),
        (objects.RTM_GETADDR, objects.encode_address_dump()),
        (objects.RTM_GETNEIGH, objects.encode_neighbour_dump()),
        (objects.RTM_GETRULE, objects.encode_rule_dump()),
    ]
    taken: dict[str, bytes] = {}
    for kind, body in asks:
        for message in dumped(socket, kind, body):
            value = hexfile.value_of(message)
            # Rules of other families (multicast routing) come along with ours.
            assert value is not None or message[16] not in (AF_INET, AF_INET6)
            if value is not None and worth_keeping(value):
                taken[name_of(value)] = message
    ten = parse_prefix("10.99/16")
    for name, hop in (
        ("no-device", NextHop(parse_address("fe80::1"), 99)),
        ("own-address", NextHop(parse_address("2001:db8::1"), eth0)),
        ("not-on-link", NextHop(parse_address("2001:db8:99::1"), eth0)),
        ("good", NextHop(parse_address("fe80::1"), eth0)),
    ):
        taken[f"ack-{name}"] = refused(socket, encode_route(Route(ten, (hop,))))
    socket.close()
    if os.environ.get("UPDATE"):
        for name, message in taken.items():
            content = hexfile.to_text("sent by Linux 6.18", hexfile.value_of(message), message)
            (hexfile.FOLDER / f"in-{name}.hex").write_text(content)
