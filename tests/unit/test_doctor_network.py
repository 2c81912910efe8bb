"""Checks between nodes, on paper: each fault is seen as just this finding, and a healthy network has none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from verify_support import UP, link_local, network, set_sysctl, via, with_route, without
from via6.model import InterfaceAddress, Link, NextHop, Route, RouteTable
from via6.observe import snapshot
from via6.observe.doctor import babel as babel_checks
from via6.observe.doctor import network as network_checks
from via6.observe.doctor import path as path_checks
from via6.observe.doctor.finding import Case, Finding, cases
from via6.observe.doctor.measured import Measured, Probed, Silent
from via6.observe.doctor.registry import fold
from via6.observe.node import (
    BabelInterface,
    BabelNeighbour,
    BabelRejected,
    BabelRival,
    BabelRoute,
    BabelState,
    Firewall,
    Node,
)
from via6.observe.snapshot.firewall import Chain, RuleLine, Verdict
from via6.observe.snapshot.firewall import Test as Asked
from via6.observe.trace.model import Flow, Hop, Trace
from via6.prefix import parse_address, parse_prefix

LINE = [("r1", "r2"), ("r2", "r3")]
RING = [*LINE, ("r3", "r1")]
FE2, FE9 = link_local(2), parse_address("fe80::9")


def findings(nodes: Iterable[Node], measured: Mapping[str, Measured] | None = None, **more: Any) -> list[Finding]:
    """What the checks of this part say of all nodes together: the same whether the cases share what is dear or not."""
    every = [(node, (measured or {}).get(node.name, Measured())) for node in nodes]
    alone = [
        Case(node, seen, tuple(other for other, _ in every if other is not node), **more) for node, seen in every
    ]  # fmt: skip
    found = _examined(cases(every, **more))
    assert {one.id: one for one in found} == {one.id: one for one in _examined(alone)}
    return found


def _examined(asked: Iterable[Case]) -> list[Finding]:
    checks = (*babel_checks.CHECKS, *network_checks.CHECKS, *path_checks.CHECKS)
    return fold(
        one if one.node else replace(one, node=case.node.name)
        for case in asked for check in checks for one in check(case)
    )  # fmt: skip


def codes(found: Iterable[Finding]) -> set[str]:
    return {one.code for one in found if not one.depends_on}


def speaking(nodes: dict[str, Node]) -> dict[str, Node]:
    """Each says what a via6 daemon says that is well: its interfaces, its neighbours, its routes."""
    made = {}
    for name, node in nodes.items():
        state = node.babel
        assert state is not None
        near = tuple(replace(n, rxcost=96, txcost=96, reach="1111111") for n in state.neighbours)
        own = link_local(int(name[1:]))
        links = tuple(BabelInterface(n.ifindex, own, packets_in=50, packets_out=50) for n in near)
        routes = tuple(
            BabelRoute(route.prefix, hop.via or b"", hop.ifindex, "::9", 96, 0, True, True)
            for route in node.kernel.routes
            for hop in route.next_hops
            if route.protocol == 46
        )
        made[name] = replace(node, babel=replace(state, neighbours=near, interfaces=links, routes=routes))
    return made


def changed(node: Node, **more: Any) -> Node:
    assert node.babel is not None
    return replace(node, babel=replace(node.babel, **more))


def rejects(node: Node, reason: str, packets: int = 9, age_s: float = 1.0) -> Node:
    """Its first Babel interface hears nobody but drops packets of fe80::2."""
    assert node.babel is not None
    first = node.babel.interfaces[0]  # type: ignore[index]
    link = replace(first, rejected=(BabelRejected(FE2, reason, packets, age_s),))
    near = tuple(n for n in node.babel.neighbours if n.ifindex != first.ifindex)
    return changed(node, interfaces=(link, *node.babel.interfaces[1:]), neighbours=near)  # type: ignore[index]


# --- healthy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("links", [LINE, RING, [("r1", f"r{n}") for n in range(2, 7)]])
@pytest.mark.parametrize("babel", [False, True])
def test_nothing_is_found_where_all_is_well(links: list[tuple[str, str]], babel: bool) -> None:
    nodes = network(links, babel=babel)
    if babel:
        nodes = speaking(nodes)
    assert findings(nodes.values()) == []
    assert findings(nodes.values(), target=parse_address("10.2.0.1")) == []
    for node in nodes.values():
        assert findings([node]) == []


def test_an_island_that_nobody_was_to_reach_is_no_fault() -> None:
    nodes = speaking(network(LINE, babel=True))
    quiet = nodes["r1"]
    kernel = quiet.kernel
    docker = Link(77, "docker0", 1500, UP, "UP", kind="bridge")
    lan = Link(78, "lan2", 1500, UP, "UP")
    more = (InterfaceAddress(77, parse_address("172.17.0.1"), 16), InterfaceAddress(78, parse_address("10.77.0.1"), 24))
    kernel = replace(kernel, links=(*kernel.links, docker, lan), addresses=(*kernel.addresses, *more))
    nodes["r1"] = replace(quiet, kernel=kernel)
    assert findings(nodes.values()) == []


# --- ways ----------------------------------------------------------------------------------------------------------


def test_no_way_back_names_node_and_prefix() -> None:
    nodes = network(LINE)
    nodes["r3"] = without(nodes["r3"], "10.1.0.0/24")
    (one,) = findings(nodes.values())
    assert (one.code, one.node, one.subject) == ("no-way-back", "r3", "10.1.0.0/24")
    assert one.title == "no way back to 10.1.0.0/24 (r1): packets from there arrive, and r3 has no route"
    assert one.remedy == ("# on r3:", "ip route replace 10.1.0.0/24 via inet6 fe80::2 dev eth1")
    nodes["r3"] = with_route(nodes["r3"], via(nodes["r3"], "10.1.0.0/24", "r2", "eth1"))
    assert findings(nodes.values()) == []


def test_no_way_back_to_the_target_alone() -> None:
    nodes = network(LINE)
    nodes["r3"] = without(nodes["r3"], "10.1.0.0/24")
    found = findings([nodes["r1"], nodes["r2"], nodes["r3"]], target=parse_address("10.3.0.1"))
    assert codes(found) == {"no-way-back"}
    assert {one.node for one in found} == {"r3"}


def test_a_loop_and_a_discarding_node() -> None:
    nodes = network(LINE)
    nodes["r2"] = without(nodes["r2"], "10.3.0.0/24")
    nodes["r2"] = with_route(nodes["r2"], via(nodes["r2"], "10.3.0.0/24", "r1", "eth1"))
    (one,) = [f for f in findings(nodes.values()) if not f.depends_on]
    assert (one.code, one.subject) == ("loop", "10.3.0.0/24")
    assert "go round" in one.title
    nodes["r2"] = without(nodes["r2"], "10.3.0.0/24")
    nodes["r2"] = with_route(nodes["r2"], Route(parse_prefix("10.3.0.0/24"), (), "blackhole"))
    (one,) = findings(nodes.values())
    assert (one.code, one.node) == ("no-way-back", "r2")
    assert "discards it" in one.title


def test_what_another_finding_explains_is_folded_under_it() -> None:
    nodes = network(LINE)
    nodes["r2"] = set_sysctl(nodes["r2"], eth1__forwarding=0)
    found = findings(nodes.values())
    assert codes(found) == {"no-way-back"}
    root = Finding("forwarding-off", "error", "…", node="r2", subject="eth1", places=(("r2", "eth1"),))
    assert codes(fold([*found, root])) == {"forwarding-off"}


def test_many_prefixes_of_one_cause_are_one_finding() -> None:
    nodes = network([("r1", f"r{n}") for n in range(2, 9)])
    nodes["r1"] = replace(nodes["r1"], kernel=replace(nodes["r1"].kernel, routes=RouteTable.of(
        [r for r in nodes["r1"].kernel.routes if r.protocol == 2]
    )))  # fmt: skip
    found = findings(nodes.values())
    assert {one.node for one in found} == {"r1"}
    assert len(found) <= 2


# --- links ---------------------------------------------------------------------------------------------------------


def test_the_two_ends_of_a_link_have_one_mtu() -> None:
    nodes = network(LINE)
    kernel = nodes["r2"].kernel
    small = tuple(replace(link, mtu=1400) if link.name == "eth1" else link for link in kernel.links)
    nodes["r2"] = replace(nodes["r2"], kernel=replace(kernel, links=small))
    (one,) = findings(nodes.values())
    assert (one.code, one.node, one.subject, one.fixable) == ("mtu-mismatch", "r1", "eth1", True)
    assert one.remedy[0] == "ip link set dev eth1 mtu 1400"
    both = tuple(replace(link, mtu=1400) if link.name == "eth1" else link for link in nodes["r1"].kernel.links)
    nodes["r1"] = replace(nodes["r1"], kernel=replace(nodes["r1"].kernel, links=both))
    assert findings(nodes.values()) == []


def test_a_narrow_link_is_found_from_one_end() -> None:
    node = network(LINE)["r1"]
    index = node.kernel.by_name["eth1"].ifindex
    (one,) = findings([node], {"r1": Measured(narrow={(index, FE2): (1400, 1500)})})
    assert (one.code, one.subject) == ("mtu-mismatch", "eth1")
    assert "1400 octets are answered, 1500 not" in one.evidence[0]


# --- prefixes with two homes ---------------------------------------------------------------------------------------


def test_two_nodes_with_one_network() -> None:
    nodes = speaking(network(LINE, babel=True))
    twin = parse_prefix("10.1.0.0/24")
    extra = InterfaceAddress(nodes["r3"].kernel.by_name["lan"].ifindex, parse_address("10.1.0.9"), 24)
    kernel = nodes["r3"].kernel
    index = kernel.by_name["lan"].ifindex
    links = tuple(replace(link, kind="dummy") if link.ifindex == index else link for link in kernel.links)
    routes = RouteTable.of(
        [r for r in kernel.routes if r.prefix != twin] + [Route(twin, (NextHop(None, index),), protocol=2)]
    )
    node = replace(
        nodes["r3"], kernel=replace(kernel, addresses=(*kernel.addresses, extra), links=links, routes=routes)
    )
    assert node.babel is not None
    nodes["r3"] = changed(
        node,
        exports=(*node.babel.exports, (twin, 0)),
        routes=tuple(r for r in node.babel.routes if r.prefix != twin),
    )
    found = [one for one in findings(nodes.values()) if one.code == "exported-twice"]
    assert [(one.node, one.subject, one.severity) for one in found] == [("r1", "10.1.0.0/24", "warning")]
    assert "r1 and r3 both announce 10.1.0.0/24" in found[0].title


def test_two_routers_of_one_lan_may_both_announce_it() -> None:
    nodes = speaking(network(LINE, babel=True))
    for name, dev in (("r1", "eth1"), ("r2", "eth1")):
        kernel = nodes[name].kernel
        held = InterfaceAddress(kernel.by_name[dev].ifindex, parse_address(f"10.99.0.{name[1]}"), 24)
        lan = parse_prefix("10.99.0.0/24")
        state = nodes[name].babel
        assert state is not None
        node = replace(nodes[name], kernel=replace(kernel, addresses=(*kernel.addresses, held)))
        nodes[name] = changed(node, exports=(*state.exports, (lan, 0)))
    assert [one for one in findings(nodes.values()) if one.code == "exported-twice"] == []


def test_one_node_hears_two_origins() -> None:
    """It cannot tell two routers of one LAN from two LANs: worth knowing, no trouble. An address of its own it can."""
    node = speaking(network(LINE, babel=True))["r2"]
    assert node.babel is not None
    first = node.babel.routes[0]
    heard = changed(node, routes=(first, replace(first, router_id="::8", selected=False)))
    (one,) = findings([heard])
    assert (one.code, one.severity, one.subject) == ("exported-twice", "info", str(first.prefix))
    own = parse_prefix("10.2.0.1/32")
    link = node.babel.interfaces[0]  # type: ignore[index]
    rival = BabelRival(own, "::8", FE2)
    mine = changed(node, exports=((own, 0),), interfaces=(replace(link, rivals=(rival,)),))
    (one,) = findings([mine])
    assert (one.code, one.severity) == ("exported-twice", "warning")
    every = parse_prefix("0.0.0.0/0")
    default = changed(node, routes=tuple(replace(first, prefix=every, router_id=i) for i in "ab"))
    assert [f for f in findings([default]) if f.code == "exported-twice"] == []


# --- Babel ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("bad-mac", "babel-key"), ("no-mac", "babel-key"), ("no-counter", "babel-key"),
        ("bad-version", "babel-version"), ("bad-magic", "babel-version"),
        ("own-address", "babel-own-address"), ("challenged", "babel-one-way"),
    ],
)  # fmt: skip
def test_dropped_packets(reason: str, code: str) -> None:
    node = speaking(network(LINE, babel=True))["r1"]
    (one,) = findings([rejects(node, reason)])
    assert one.code == code
    assert "fe80::" in one.title
    assert findings([rejects(node, reason, packets=1)]) == []
    assert findings([rejects(node, reason, age_s=45)]) == []


def test_a_neighbour_that_signs_while_we_have_no_key() -> None:
    node = speaking(network(LINE, babel=True))["r1"]
    assert node.babel is not None
    deaf = replace(node.babel.neighbours[0], txcost=65535, cost=65535, signed=True)
    (one,) = findings([changed(node, neighbours=(deaf,), routes=())])
    assert one.code == "babel-key"
    (one,) = findings([changed(node, neighbours=(replace(deaf, signed=False),), routes=())])
    assert one.code == "babel-one-way"
    new = replace(deaf, signed=False, reach="11")
    assert findings([changed(node, neighbours=(new,), routes=())]) == []


def test_one_way_follows_from_the_firewall_of_the_far_end() -> None:
    nodes = speaking(network(LINE, babel=True))
    state = nodes["r1"].babel
    assert state is not None
    deaf = replace(state.neighbours[0], txcost=65535, cost=65535)
    nodes["r1"] = changed(nodes["r1"], neighbours=(deaf,))
    found = [one for one in findings(nodes.values()) if one.code == "babel-one-way"]
    assert [one.places for one in found] == [(("r1", "eth1"), ("r2", "eth1"))]
    root = Finding("firewall-babel", "error", "…", node="r2", places=(("r2", ""),))
    assert codes(fold([*found, root])) == {"firewall-babel"}


def test_filtered_between_two_that_both_speak() -> None:
    nodes = speaking(network(LINE, babel=True))
    for name in ("r1", "r2"):
        state, link = nodes[name].babel, nodes[name].kernel.by_name["eth1"].ifindex
        assert state is not None
        nodes[name] = changed(nodes[name], neighbours=tuple(n for n in state.neighbours if n.ifindex != link))
    found = findings(nodes.values())
    assert codes(found) == {"babel-filtered"}
    assert {one.node for one in found} == {"r1", "r2"}


def test_filtered_as_one_node_finds_it() -> None:
    node = speaking(network(LINE, babel=True))["r1"]
    index = node.kernel.by_name["eth1"].ifindex
    (one,) = findings([node], {"r1": Measured(unheard={(index, FE9): "fe80::9 answers an echo request to ff02::1:6"})})
    assert (one.code, one.subject) == ("babel-filtered", "eth1 fe80::9")


# --- Babel and the kernel ------------------------------------------------------------------------------------------


def test_selected_and_not_in_the_kernel() -> None:
    node = speaking(network(LINE, babel=True))["r1"]
    (one,) = findings([without(node, "10.2.0.0/24")])
    assert (one.code, one.subject) == ("installed-missing", "10.2.0.0/24")
    assert one.remedy[0] == "ip route replace 10.2.0.0/24 via inet6 fe80::2 dev eth1 metric 460 proto 46"
    moving = replace(without(node, "10.2.0.0/24"), unsteady=frozenset({"routes4"}))
    assert findings([moving]) == []
    taken = with_route(without(node, "10.2.0.0/24"), via(node, "10.2.0.0/24", "r2", "eth1", metric=460, protocol=4))
    assert findings([taken]) == []


def test_slots_of_a_daemon_that_is_gone() -> None:
    node = network(LINE, babel=True)["r1"]
    applied = replace(node, babel=None)
    assert findings([applied]) == []
    left = [replace(via(node, p, "r2", "eth1"), metric=460, protocol=46) for p in ("10.2.0.0/24", "10.3.0.0/24")]
    left += [Route(r.prefix, (), "unreachable", metric=462, protocol=46) for r in left]
    gone = with_route(applied, *left)
    (one,) = findings([gone])
    assert (one.code, one.severity) == ("daemon-not-running", "warning")
    assert findings([replace(gone, unread={"babel": "another program than via6 holds UDP 6696"})]) == []


def test_a_daemon_that_does_not_answer() -> None:
    node = replace(network(LINE)["r1"], unread={"babel": "via6: the daemon does not answer within 30 s"})
    assert findings([node]) == []
    (one,) = findings([node], {"r1": Measured(here=True)})
    assert one.code == "daemon-not-answering"


# --- the way to an address -----------------------------------------------------------------------------------------

TO, OWN, LAN = parse_address("10.3.0.1"), parse_address("10.1.0.1"), parse_address("192.0.2.1")


def probed(**more: Any) -> dict[str, Measured]:
    return {"r1": Measured(probed=Probed(TO, **more))}


def test_probes_tell_no_way_from_no_way_back() -> None:
    node = network(LINE)["r1"]
    lost = Silent(OWN, 1, LAN)
    (one,) = findings([node], probed(silent=(lost,)), target=TO)
    assert (one.code, one.subject) == ("no-way", "10.3.0.1")
    assert "hop 1 (192.0.2.1) is the last one" in one.title
    (one,) = findings([node], probed(answered=(LAN,), silent=(lost,)), target=TO)
    assert (one.code, one.subject) == ("no-way-back", "10.1.0.0/24")
    assert findings([node], probed(answered=(LAN, OWN)), target=TO) == []


def test_a_trace_names_the_node() -> None:
    node = network(LINE)["r1"]
    hops = (Hop("r1", out_device="eth1"), Hop("r2", in_device="eth1", ends="NO_ROUTE", why="no route"))
    trace = Trace(Flow(TO, OWN), hops, "NO_ROUTE")
    (one,) = findings([node], probed(silent=(Silent(OWN),)), target=TO, trace=trace)
    assert (one.code, one.node) == ("no-way", "r2")
    back = Trace(Flow(OWN, TO), (Hop("r3", ends="NO_ROUTE"),), "NO_ROUTE")
    trace = Trace(Flow(TO, OWN), (Hop("r1"), Hop("r3", ends="ACCEPTED")), "ACCEPTED", back)
    (one,) = findings([node], probed(silent=(Silent(OWN),)), target=TO, trace=trace)
    assert (one.code, one.node, one.subject) == ("no-way-back", "r3", "10.1.0.0/24")


def test_large_packets_that_vanish() -> None:
    node = network(LINE)["r1"]
    (one,) = findings([node], probed(answered=(OWN,), mtu=1500, passes=1400, large=Silent(OWN, 1, LAN)), target=TO)
    assert one.code == "pmtud-black-hole"
    assert one.remedy[-1] == "ip route replace 10.3.0.1/32 via inet6 fe80::2 dev eth1 mtu lock 1400"
    assert "behind hop 1 (192.0.2.1)" in one.title


# --- in a snapshot -------------------------------------------------------------------------------------------------


def test_a_snapshot_keeps_what_babel_says_of_its_links() -> None:
    node = speaking(network(LINE, babel=True))["r1"]
    state = node.babel
    assert state is not None
    near = BabelNeighbour(FE2, 10, 65535, 96, 65535, "1101", True)
    keyed = BabelInterface(10, link_local(1), False, ("k1",), 5, 6, (BabelRejected(FE9, "bad-mac", 7, 1.5),))
    keyed = replace(keyed, rivals=(BabelRival(parse_prefix("10.1.0.0/24"), "02:00:00:ff:fe:00:00:02", FE2),))
    for interfaces in ((keyed, BabelInterface(12, FE9)), (), None):
        whole = replace(node, babel=BabelState("02:00:00:ff:fe:00:00:01", (near,), interfaces=interfaces))
        assert snapshot.decode(snapshot.encode(whole)) == whole


def test_a_filter_for_some_packets_was_meant() -> None:
    nodes = network(LINE)
    drop = RuleLine((Asked("daddr", (parse_prefix("10.3.0.0/24"),)),), (Verdict("drop"),), "ip daddr 10.3.0.0/24 drop")
    chains = {"f": Chain("nft inet t f", "forward", rules=[drop])}
    nodes["r2"] = replace(nodes["r2"], firewall=Firewall(forward4="unknown", filter=(chains,)))
    assert not codes(findings(nodes.values()))
    # Asked for an address behind it, the doctor tells.
    asked = findings([nodes[name] for name in ("r1", "r2", "r3")], target=parse_address("10.3.0.1"))
    assert asked


def test_a_filter_of_what_comes_to_its_own_node_was_told_to() -> None:
    nodes = network(LINE)
    nodes["r2"] = replace(nodes["r2"], firewall=Firewall(own4="drop"))
    assert not findings(nodes.values())
    nodes["r2"] = replace(nodes["r2"], firewall=Firewall(forward4="drop"))
    assert codes(findings(nodes.values())) == {"no-way-back"}
