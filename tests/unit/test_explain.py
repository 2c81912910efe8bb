"""Explanations of what a kernel answered. (Against a real one: netns/test_explain.py.)"""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from via6.model import (
    IFA_F_TENTATIVE,
    IFF_LOOPBACK,
    IFF_LOWER_UP,
    IFF_UP,
    NH_LINKDOWN,
    Failure,
    InterfaceAddress,
    Link,
    Neighbour,
    NextHop,
    NexthopObject,
    Route,
    RouteTable,
    Rule,
    Snapshot,
)
from via6.observe.explain import Explanation, Facts, assumed_source, explain, first_match, sysctl_names, text
from via6.observe.names import Names
from via6.prefix import parse_address, parse_prefix

NAMES = Names({100: "blue", 254: "main", 255: "local"})
UP = IFF_UP | IFF_LOWER_UP
VIA = parse_address("fe80::22")
HOP = NextHop(VIA, 2)
ENTRY = Route(parse_prefix("10.0.0.0/8"), (HOP,), protocol=4)
ANSWER = replace(ENTRY, prefix=parse_prefix("10.1.2.3/32"), src=parse_address("10.9.0.1"), protocol=0)
ETH0 = Link(2, "eth0", flags=UP, operstate="UP", kind="veth")
ETH1 = Link(3, "eth1", flags=UP, operstate="UP", kind="veth")
SNAPSHOT = Snapshot(
    links=(Link(1, "lo", 65536, UP | IFF_LOOPBACK), ETH0, ETH1),
    addresses=(
        InterfaceAddress(2, parse_address("fe80::1"), 64, 253),
        InterfaceAddress(3, parse_address("fe80::2"), 64, 253),
        InterfaceAddress(1, parse_address("10.9.0.1"), 32),
    ),
    neighbours=(Neighbour(2, VIA, bytes.fromhex("020000000022"), "REACHABLE"),),
    rules=(
        Rule(2, 0, 255),
        Rule(2, 100, 100, source=parse_prefix("10.9.0.0/16"), fwmark=7, fwmask=0xFF),
        Rule(2, 32766, 254),
        Rule(2, 32767, 253),
        Rule(10, 32766, 254),
    ),
)
FACTS = Facts(parse_address("10.1.2.3"), ANSWER, ENTRY, SNAPSHOT)
UNREACHABLE = Failure(0, None, errno.ENETUNREACH, "Network is unreachable (ENETUNREACH)")


def explained(**changed: object) -> Explanation:
    return explain(replace(FACTS, **changed), NAMES)  # type: ignore[arg-type]


def snapshot(link: Link = ETH0, **changed: object) -> Snapshot:
    links = (SNAPSHOT.links[0], link, ETH1)
    return replace(SNAPSHOT, links=links, **changed)  # type: ignore[arg-type]


def wrong(made: Explanation) -> str:
    return "\n".join(f"{what} | {remedy}" for what, remedy in made.wrong)


def test_a_packet_that_leaves() -> None:
    made = explained()
    assert made.good
    assert text(made).splitlines() == [
        "route      10.0.0.0/8 via inet6 fe80::22 dev eth0 proto static",
        "put by     an administrator (protocol static)",
        "next hop   fe80::22 (IPv6) dev eth0",
        "neighbour  02:00:00:00:00:22 REACHABLE",
        "device     eth0 up, carrier, mtu 1500",
        "mtu        1500 (of the device)",
        "source     10.9.0.1",
        "10.1.2.3 leaves this node towards its next hop: EXITS_NETWORK",
    ]
    assert made.data["next_hop"] == {"address": "fe80::22", "family": "inet6", "dev": "eth0"}
    assert made.data["neighbour"] == {"lladdr": "02:00:00:00:00:22", "state": "REACHABLE"}
    assert (made.data["disposition"], made.data["wrong"], made.data["mtu"]) == ("EXITS_NETWORK", [], 1500)


def test_on_link_and_for_this_node() -> None:
    on_link = replace(ANSWER, next_hops=(NextHop(None, 2),))
    assert explained(answer=on_link, entry=on_link).disposition == "DELIVERED_TO_SUBNET"
    local = replace(ANSWER, type="local", table=255, next_hops=(NextHop(None, 1),))
    made = explained(answer=local, entry=local)
    assert (made.disposition, made.good) == ("ACCEPTED", True)
    assert text(made).endswith("10.1.2.3 is for this node itself: ACCEPTED")


@pytest.mark.parametrize("state", ["FAILED", "INCOMPLETE"])
def test_a_neighbour_that_does_not_answer(state: str) -> None:
    made = explained(snapshot=snapshot(neighbours=(Neighbour(2, VIA, b"", state),)))
    assert made.disposition == "NEIGHBOR_UNREACHABLE"
    assert f"next hop fe80::22 on eth0 does not answer Neighbour Discovery ({state})" in wrong(made)
    via = parse_address("192.0.2.1")
    answer = replace(ANSWER, next_hops=(NextHop(via, 2),))
    made = explained(answer=answer, snapshot=snapshot(neighbours=(Neighbour(2, via, b"", state),)))
    assert f"192.0.2.1 on eth0 does not answer ARP ({state})" in wrong(made)


def test_a_neighbour_nobody_asked_for_is_no_fault() -> None:
    made = explained(snapshot=snapshot(neighbours=()))
    assert (made.good, made.data["neighbour"]) == (True, {"state": "NONE"})


def test_a_link_without_carrier() -> None:
    down = replace(ETH0, flags=IFF_UP)
    made = explained(snapshot=snapshot(down), entry=replace(ENTRY, next_hops=(replace(HOP, flags=NH_LINKDOWN),)))
    assert made.disposition == "NEIGHBOR_UNREACHABLE"
    assert "eth0 has no carrier" in wrong(made)
    assert "sysctl -w net.ipv4.conf.eth0.ignore_routes_with_linkdown=1" in wrong(made)
    made = explained(snapshot=snapshot(down), sysctls={"net/ipv4/conf/all/ignore_routes_with_linkdown": 1})
    assert "sysctl" not in wrong(made)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"sysctls": {"net/ipv6/conf/eth0/disable_ipv6": 1}}, "IPv6 is disabled on eth0"),
        ({"snapshot": snapshot(replace(ETH0, mtu=1200))}, "mtu 1200 of eth0 is too small for IPv6"),
        ({"snapshot": snapshot(addresses=())}, "eth0 has no IPv6 address"),
        (
            {"snapshot": snapshot(addresses=(InterfaceAddress(2, VIA, 64, 253, IFA_F_TENTATIVE),))},
            "are tentative or duplicates",
        ),
        ({"drops": "wg drops it\n  wg set …"}, "wg drops it | wg set …"),
    ],
)
def test_what_keeps_a_packet_from_the_link(changed: dict[str, object], words: str) -> None:
    made = explained(**changed)
    assert made.disposition == "NEIGHBOR_UNREACHABLE"
    assert words in wrong(made)


def test_a_device_without_link_layer_addresses() -> None:
    tun = replace(ETH0, kind="tun", flags=UP | 0x90)
    made = explained(snapshot=snapshot(tun, addresses=(), neighbours=()))
    assert made.disposition == "EXITS_NETWORK"
    assert "eth0 needs no link-layer addresses" in text(made)


def test_own_packets_need_a_source() -> None:
    made = explained(answer=replace(ANSWER, src=None))
    assert (made.disposition, made.good, made.data["source"]) == ("EXITS_NETWORK", False, None)
    assert "no source address" in wrong(made)
    assert explained(answer=replace(ANSWER, src=None), iif=3).good


def test_mtu_of_the_route_and_ecmp() -> None:
    both = replace(ENTRY, next_hops=(HOP, NextHop(VIA, 3)))
    made = explained(answer=replace(ANSWER, metrics=((2, 1280),)), entry=both)
    assert made.data["mtu"] == 1280
    assert "1280 (of the route" in text(made)
    assert "one of 2 next hops" in text(made)


def test_a_nexthop_object_is_looked_up() -> None:
    entry = replace(ENTRY, next_hops=(), nhid=5, protocol=46)
    made = explained(entry=entry, snapshot=snapshot(nexthops=(NexthopObject(5, VIA, 2),)))
    assert "10.0.0.0/8 via inet6 fe80::22 dev eth0" in text(made)
    assert made.data["put_by"] == "via6 run, or via6 apply"


def test_another_table_is_named_with_its_rule() -> None:
    source = parse_address("10.9.0.1")
    made = explained(entry=replace(ENTRY, table=100), source=source, mark=7)
    assert "table      blue, by rule 100: from 10.9.0.0/16 fwmark 0x7 lookup blue" in text(made)
    made = explained(entry=replace(ENTRY, table=100))
    assert "table      blue" in text(made).splitlines()
    assert made.data["rule"] is None


# --- refusals of the kernel ----------------------------------------------------------------------------------------


def test_no_route() -> None:
    made = explained(answer=UNREACHABLE, entry=UNREACHABLE)
    assert made.disposition == "NO_ROUTE"
    assert "via6 route add 0/0 via ADDRESS dev DEV" in wrong(made)
    assert made.data["kernel"] == "Network is unreachable (ENETUNREACH)"


@pytest.mark.parametrize("kind", ["blackhole", "unreachable", "prohibit"])
def test_null_routes(kind: str) -> None:
    there = Route(parse_prefix("10.0.0.0/8"), type=kind, protocol=4, metric=5, table=100)
    made = explained(answer=UNREACHABLE, entry=UNREACHABLE, there=there)
    assert made.disposition == "NULL_ROUTED"
    assert f"via6 route del {kind} 10.0.0.0/8 metric 5 table blue" in wrong(made)
    made = explained(answer=UNREACHABLE, entry=UNREACHABLE, there=replace(there, protocol=46))
    assert "see the configuration" in wrong(made)


def test_a_route_that_linkdown_took_out() -> None:
    there = replace(ENTRY, next_hops=(replace(HOP, flags=NH_LINKDOWN),))
    made = explained(answer=UNREACHABLE, entry=UNREACHABLE, there=there)
    assert (made.disposition, "eth0 does not carry" in wrong(made)) == ("NO_ROUTE", True)


def test_a_source_that_is_not_ours() -> None:
    made = explained(answer=UNREACHABLE, entry=UNREACHABLE, source=parse_address("192.0.2.9"))
    assert "from 192.0.2.9 iif DEV" in wrong(made)


IN = {"iif": 3, "source": parse_address("192.0.2.9")}


def test_forwarding_is_off() -> None:
    refused = Failure(0, None, errno.EHOSTUNREACH, "No route to host (EHOSTUNREACH)")
    off = {"net/ipv4/conf/eth1/forwarding": 0}
    for answer in (refused, ANSWER):
        made = explained(answer=answer, sysctls=off, **IN)
        assert made.disposition == "NULL_ROUTED"
        assert "IPv4 forwarding is off on eth1, where it comes in | sysctl -w net.ipv4.conf.eth1.forwarding=1" in wrong(
            made
        )
    made = explained(sysctls={"net/ipv4/conf/eth1/forwarding": 1, "net/ipv4/conf/all/rp_filter": 2}, **IN)
    assert "comes in   eth1, forwarding on, rp_filter 2" in text(made)
    assert (made.good, made.data["rp_filter"], "source" in made.data) == (True, 2, False)


def test_ipv6_forwarding_is_one_switch() -> None:
    to = parse_address("2001:db8::1")
    answer = Route(parse_prefix("2001:db8::1"), (HOP,))
    made = explained(destination=to, answer=answer, entry=answer, iif=3, sysctls={"net/ipv6/conf/all/forwarding": 0})
    assert "IPv6 forwarding is off | sysctl -w net.ipv6.conf.all.forwarding=1" in wrong(made)


def test_the_reverse_path_filter() -> None:
    refused = Failure(0, None, errno.EXDEV, "Invalid cross-device link (EXDEV)")
    asked = IN | {"there": ENTRY}
    on = {"net/ipv4/conf/all/rp_filter": 1}
    made = explained(answer=refused, sysctls=on, back=UNREACHABLE, **asked)
    assert made.disposition == "NULL_ROUTED"
    assert "rp_filter=1 on eth1 drops packets from 192.0.2.9: there is no way back" in wrong(made)
    made = explained(answer=refused, sysctls=on, back=ANSWER, **asked)
    assert "the way back goes out of eth0" in wrong(made)
    made = explained(answer=refused, **asked)
    assert "192.0.2.9 is no source that a packet may come in with on eth1" in wrong(made)
    made = explained(answer=refused, sysctls=on, there=ENTRY, iif=3, source=parse_address("10.9.0.1"))
    assert "this node's own address" in wrong(made)


def test_a_device_that_is_down_lets_nothing_in() -> None:
    down = replace(SNAPSHOT, links=(ETH0, replace(ETH1, flags=0)))
    made = explained(answer=UNREACHABLE, snapshot=down, **IN)
    assert (made.disposition, "eth1 is down" in wrong(made)) == ("NULL_ROUTED", True)


def test_first_match_follows_the_rules() -> None:
    blue = Route(parse_prefix("10.1.0.0/16"), type="blackhole", table=100)
    throw = Route(parse_prefix("10.1.2.0/24"), type="throw", table=100)
    facts = replace(FACTS, snapshot=snapshot(routes=RouteTable.of([ENTRY, blue])))
    assert first_match(facts) == ENTRY
    marked = replace(facts, source=parse_address("10.9.0.1"), mark=7)
    assert first_match(marked) == blue
    thrown = replace(marked, snapshot=snapshot(routes=RouteTable.of([ENTRY, blue, throw])))
    assert first_match(thrown) == ENTRY
    assert first_match(replace(facts, destination=parse_address("11.0.0.1"))) is None


def test_the_sysctls_that_are_read() -> None:
    assert "net/ipv4/conf/eth1/forwarding" in sysctl_names(("eth1",))
    assert "net/ipv6/conf/all/forwarding" in sysctl_names(())


@pytest.mark.parametrize(
    ("routes", "source"),
    [
        ([], "192.0.2.1"),
        ([replace(ENTRY, prefix=parse_prefix("0.0.0.0/0"))], "192.0.2.1"),
        ([ENTRY], "10.0.0.1"),
        ([replace(ENTRY, prefix=parse_prefix("10.9.0.0/24"))], "10.9.0.2"),
        ([replace(ENTRY, prefix=parse_prefix("10.9.0.0/31"))], "10.9.0.0"),
        ([replace(ENTRY, prefix=parse_prefix("10.9.0.1/32")), ENTRY], "10.0.0.1"),
        ([replace(ENTRY, next_hops=(NextHop(VIA, 3),))], "192.0.2.1"),
    ],
)
def test_somebody_behind_a_device(routes: list[Route], source: str) -> None:
    assert assumed_source(snapshot(routes=RouteTable.of(routes)), 2) == parse_address(source)
