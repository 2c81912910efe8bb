"""Traces on snapshots: one packet through the tables of all nodes, there and back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from verify_support import link_local, network, set_sysctl, via, with_route, without
from via6.model import PROTO_STATIC, NextHop, Route
from via6.observe.node import Firewall, Node
from via6.observe.trace import paper
from via6.observe.trace.model import TABLE, TCP, Flow, Trace
from via6.prefix import parse_address, parse_prefix

LINE = [("r1", "r2"), ("r2", "r3"), ("r3", "r4")]
FAR = parse_address("10.4.0.1")


def trace(nodes: dict[str, Node], where: str = "r1", to: bytes = FAR, **more: int) -> Trace:
    start = paper.begin(tuple(nodes.values()), where, to)
    assert start is not None
    return paper.trace(tuple(nodes.values()), start, Flow(to, **more))


def names(made: Trace | None) -> list[str]:
    return [hop.node for hop in made.hops] if made is not None else []


def test_there_and_back() -> None:
    made = trace(network(LINE), proto=TCP, dport=80)
    assert names(made) == ["r1", "r2", "r3", "r4"]
    assert names(made.back) == ["r4", "r3", "r2", "r1"]
    assert made.back is not None
    assert (made.disposition, made.back.disposition, made.asymmetric) == ("ACCEPTED", "ACCEPTED", False)
    hop = made.hops[1]
    assert (hop.in_device, hop.out_device, hop.next_hop, hop.mtu) == ("eth1", "eth2", link_local(3), 1500)
    assert hop.route == "10.4.0.0/24 via inet6 fe80::3 dev eth2 proto static"
    assert hop.seen == {TABLE}
    assert made.flow == Flow(FAR, parse_address("10.1.0.1"), TCP, 0, 80)
    assert made.back.flow == made.flow.back()
    assert made.hops[-1].route.startswith("local 10.4.0.1 dev lan")


def test_from_an_address_of_a_node_and_from_a_host_behind_it() -> None:
    nodes = network(LINE)
    assert names(trace(nodes, "10.2.0.1")) == ["r2", "r3", "r4"]
    made = trace(nodes, "10.1.0.7", parse_address("10.3.0.9"))
    assert names(made) == ["r1", "r2", "r3"]
    assert made.hops[0].in_device == "lan"
    assert made.disposition == "DELIVERED_TO_SUBNET"
    assert made.back is not None
    assert names(made.back) == ["r3", "r2", "r1"]
    assert (made.back.hops[0].in_device, made.back.disposition) == ("lan", "DELIVERED_TO_SUBNET")
    assert paper.begin(tuple(nodes.values()), "192.0.2.1", FAR) is None
    assert paper.begin(tuple(nodes.values()), "r9", FAR) is None


def test_a_node_without_address() -> None:
    nodes = network(LINE)
    bare = nodes["r1"]
    nodes["r1"] = replace(bare, kernel=replace(bare.kernel, addresses=bare.kernel.addresses[1:]))
    made = trace(nodes)
    assert made.back is None
    assert "has no IPv4 address" in made.remarks[0]
    assert made.disposition == "ACCEPTED"


@pytest.mark.parametrize(
    ("fault", "ends", "node", "why"),
    [
        ("no route", "NO_ROUTE", "r3", ""),
        ("blackhole", "NULL_ROUTED", "r3", "blackhole"),
        ("forwarding", "NULL_ROUTED", "r3", "FORWARDING_OFF: net.ipv4.conf.eth1.forwarding is 0"),
        ("rp_filter", "NULL_ROUTED", "r3", "DENIED_RP_FILTER: rp_filter=1 on r3's eth1"),
        ("firewall", "NULL_ROUTED", "r3", "DENIED_FIREWALL: chain forward: drop"),
        ("neighbour", "NEIGHBOR_UNREACHABLE", "r3", "nobody on the link has fe80::77"),
        ("loop", "LOOP", "r2", "back at r2"),
    ],
)
def test_faults(fault: str, ends: str, node: str, why: str) -> None:
    nodes = network(LINE)
    r3 = nodes["r3"]
    nodes["r3"] = {
        "no route": lambda: without(r3, "10.4.0.0/24"),
        "blackhole": lambda: with_route(
            without(r3, "10.4.0.0/24"), Route(parse_prefix("10.4.0.0/24"), (), "blackhole")
        ),
        "forwarding": lambda: set_sysctl(r3, eth1__forwarding=0),
        "rp_filter": lambda: set_sysctl(without(r3, "10.1.0.0/24"), eth1__rp_filter=1),
        "firewall": lambda: replace(r3, firewall=Firewall("drop", evidence=("chain forward: drop",))),
        "neighbour": lambda: with_route(
            without(r3, "10.4.0.0/24"), Route(parse_prefix("10.4.0.0/24"), (NextHop(link_local(0x77), 14),))
        ),
        "loop": lambda: with_route(without(r3, "10.4.0.0/24"), via(r3, "10.4.0.0/24", "r2", "eth1")),
    }[fault]()
    made = trace(nodes)
    assert (made.disposition, made.hops[-1].ends, made.hops[-1].node) == (ends, ends, node)
    assert why in made.hops[-1].why
    assert names(made) == (["r1", "r2", "r3", "r2"] if fault == "loop" else ["r1", "r2", "r3"])
    assert made.back is not None
    assert names(made.back)[0] == "r4"


def test_no_way_back() -> None:
    nodes = network(LINE)
    nodes["r2"] = without(nodes["r2"], "10.1.0.0/24")
    made = trace(nodes)
    assert made.disposition == "ACCEPTED"
    assert made.back is not None
    assert (made.back.disposition, names(made.back)) == ("NO_ROUTE", ["r4", "r3", "r2"])


def test_another_way_back() -> None:
    nodes = network([("r1", "r2"), ("r2", "r3"), ("r3", "r1")])
    to = parse_address("10.3.0.1")
    assert names(trace(nodes, to=to)) == ["r1", "r3"]
    r1 = nodes["r1"]
    nodes["r1"] = with_route(without(r1, "10.3.0.0/24"), via(r1, "10.3.0.0/24", "r2", "eth1"))
    made = trace(nodes, to=to)
    assert (names(made), names(made.back)) == (["r1", "r2", "r3"], ["r3", "r1"])
    assert made.asymmetric
    assert made.remarks == ("the ways differ: r2 only there",)


def test_equal_ways_are_told_and_the_worst_is_shown() -> None:
    nodes = network([("r1", "r2"), ("r1", "r3"), ("r2", "r4"), ("r3", "r4")])
    r1 = nodes["r1"]
    both = tuple(NextHop(link_local(n), r1.kernel.by_name[dev].ifindex) for n, dev in ((2, "eth1"), (3, "eth2")))
    nodes["r1"] = with_route(
        without(r1, "10.4.0.0/24"), Route(parse_prefix("10.4.0.0/24"), both, protocol=PROTO_STATIC)
    )
    made = trace(nodes)
    assert made.disposition == "ACCEPTED"
    assert made.hops[0].notes == ("one of 2 next hops, as the packet's hash chooses",)
    assert made.remarks[0].startswith("there are 2 ways of equal cost, and this is one; the others: r1 r")
    nodes["r3"] = without(nodes["r3"], "10.4.0.0/24")
    made = trace(nodes)
    assert (made.disposition, names(made)) == ("NO_ROUTE", ["r1", "r3"])
    assert "this is one that ends worst; the others: r1 r2 r4: ACCEPTED" in made.remarks[0]


def test_what_was_not_read_is_unknown() -> None:
    nodes = network(LINE)
    nodes["r3"] = replace(nodes["r3"], firewall=None)
    made = trace(nodes)
    assert (made.disposition, made.hops[-1].node) == ("UNKNOWN", "r3")
    assert "firewall of r3 was not read" in made.hops[-1].why
