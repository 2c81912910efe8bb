"""What verify finds in networks of values: each fault by its disposition, its node and its prefix, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from verify_support import link_local, network, set_sysctl, via, with_route, without
from via6.errors import Refusal
from via6.model import IFF_LOWER_UP, InterfaceAddress, Neighbour, NextHop, Route, RouteTable
from via6.observe.allowedips import Peer
from via6.observe.node import DROP, Firewall, Node, Shut
from via6.observe.verify import diff, expect, failure
from via6.observe.verify import report as shown
from via6.observe.verify.check import Checker
from via6.observe.verify.network import Network
from via6.observe.verify.problems import Problem, Report
from via6.observe.verify.survey import among
from via6.observe.verify.words import MEANINGS, NAMES
from via6.prefix import parse_address, parse_prefix

LINE = [("r1", "r2"), ("r2", "r3")]
RING = [("r1", "r2"), ("r2", "r3"), ("r3", "r4"), ("r4", "r1")]


def report(nodes: dict[str, Node], rules: str = "") -> Report:
    if not rules:
        return Checker(Network(list(nodes.values()))).report()
    told, wrong = expect.parse(rules, "rules", list(nodes))
    assert not wrong
    checker = Checker(Network(list(nodes.values()), among(told.prefixes())))
    made = checker.report(expect.wanted(told, checker.survey))
    expect.check(told, checker, made)
    return made


def found(nodes: dict[str, Node], rules: str = "") -> list[tuple[str, str, str]]:
    return sorted((p.disposition, p.node, str(p.prefix)) for p in report(nodes, rules).problems)


def change(node: Node, name: str, **values: object) -> Node:
    """The node with a changed interface."""
    links = tuple(replace(x, **values) if x.name == name else x for x in node.kernel.links)  # type: ignore[arg-type]
    return replace(node, kernel=replace(node.kernel, links=links))


@pytest.mark.parametrize("links", [LINE, RING, [*RING, ("r1", "r3")], [("r1", "r2"), ("r1", "r2")]])
def test_a_healthy_network_has_no_problem(links: list[tuple[str, str]]) -> None:
    made = report(network(links))
    assert not made.problems
    assert made.pairs == made.arriving > 0


def test_a_missing_route_is_no_route_there_and_no_way_back() -> None:
    nodes = network(LINE)
    nodes["r2"] = without(nodes["r2"], "10.3.0.0/24")
    (problem,) = report(nodes).problems
    assert (problem.disposition, problem.node, str(problem.prefix)) == ("NO_ROUTE", "r2", "10.3.0.0/24")
    assert problem.kind == "no way back"
    assert problem.path[-1] == "r2"
    assert problem.destination in parse_prefix("10.3.0.0/24")


def test_loop() -> None:
    nodes = network(LINE)
    nodes["r2"] = with_route(without(nodes["r2"], "10.3.0.0/24"), via(nodes["r2"], "10.3.0.0/24", "r1", "eth1"))
    (problem,) = report(nodes).problems
    assert (problem.disposition, str(problem.prefix)) == ("LOOP", "10.3.0.0/24")
    assert problem.path[-1] in problem.path[:-1]


def test_null_routed() -> None:
    nodes = network(LINE)
    nodes["r2"] = with_route(nodes["r2"], Route(parse_prefix("10.3.0.64/26"), (), "blackhole"))
    assert found(nodes) == [("NULL_ROUTED", "r2", "10.3.0.0/24")]


def test_a_default_route_into_nothing_is_no_fault_and_a_claim_is() -> None:
    nodes = network(LINE)
    nodes["r1"] = with_route(nodes["r1"], via(nodes["r1"], "0.0.0.0/0", "r2", "eth1"))
    assert not found(nodes)
    nodes["r1"] = with_route(nodes["r1"], via(nodes["r1"], "172.16.0.0/12", "r2", "eth1"))
    assert found(nodes) == [("NO_ROUTE", "r2", "172.16.0.0/12")]


def test_forwarding_off() -> None:
    nodes = network(LINE)
    nodes["r2"] = set_sysctl(nodes["r2"], eth1__forwarding=0)
    told = found(nodes)
    assert {(d, n) for d, n, _ in told} == {("FORWARDING_OFF", "r2")}
    assert {p for _, _, p in told} == {"10.3.0.0/24", "10.2.0.0/24"}  # hosts of r2's island, too


def test_firewall() -> None:
    nodes = network(LINE)
    nodes["r2"] = replace(nodes["r2"], firewall=Firewall(forward4=DROP, evidence=("chain f policy drop",)))
    assert {(d, n) for d, n, _ in found(nodes)} == {("DENIED_FIREWALL", "r2")}
    nodes["r2"] = replace(nodes["r2"], firewall=None, unread={"firewall": "not permitted"})
    assert {(d, n) for d, n, _ in found(nodes)} == {("UNKNOWN", "r2")}


def test_a_filter_of_what_comes_to_the_node_itself() -> None:
    nodes = network(LINE)
    closed = Firewall(own4=DROP, shut=(Shut("own4", ("chain i policy drop",)),))
    nodes["r2"] = replace(nodes["r2"], firewall=closed)
    told = found(nodes)
    assert {(d, n) for d, n, _ in told} == {("DENIED_FIREWALL", "r2")}
    assert {p for _, _, p in told} == {"10.2.0.0/24"}  # what it passes on arrives
    nodes["r2"] = replace(nodes["r2"], firewall=Firewall(own4="unknown", shut=(Shut("own4", (), "eth1"),)))
    assert {p.path[-2:] for p in report(nodes).problems} == {("r1", "r2")}  # r3 comes in by eth2
    nodes["r2"] = replace(nodes["r2"], firewall=Firewall(own4="unknown"))  # it depends on more than the address
    assert not found(nodes)


def test_a_filter_and_a_source_that_is_not_believed() -> None:
    nodes = network(LINE)
    strict = set_sysctl(nodes["r2"], all__rp_filter=1)
    nodes["r2"] = replace(without(strict, "10.1.0.0/24"), firewall=Firewall(forward4=DROP, own4=DROP))
    made = report(nodes)
    assert made.arriving < made.pairs
    assert any(p.source is not None and p.path[:1] == ("r1",) and p.node == "r2" for p in made.problems)


def around(nodes: dict[str, Node]) -> dict[str, Node]:
    """The ring, in which r2 and r3 send to r1 the long way round."""
    nodes = dict(nodes)
    for name, far, dev in (("r2", "r3", "eth2"), ("r3", "r4", "eth2")):
        nodes[name] = with_route(without(nodes[name], "10.1.0.0/24"), via(nodes[name], "10.1.0.0/24", far, dev))
    return nodes


@pytest.mark.parametrize("level", [1, 2])
def test_reverse_path_filter(level: int) -> None:
    """On an interface without IPv4 address loose is as strict as strict."""
    nodes = network(RING)
    nodes = around(nodes)
    assert not report(nodes).problems
    nodes["r2"] = set_sysctl(nodes["r2"], eth1__rp_filter=level)
    told = report(nodes).problems
    assert {(p.disposition, p.node) for p in told} == {("DENIED_RP_FILTER", "r2")}
    assert "10.1.0." in told[0].why
    assert told[0].kind == "no way back"
    if level == 2:
        kernel = nodes["r2"].kernel
        own = InterfaceAddress(kernel.by_name["eth1"].ifindex, parse_address("172.31.0.1"), 31)
        nodes["r2"] = replace(nodes["r2"], kernel=replace(kernel, addresses=(*kernel.addresses, own)))
        assert not [p for p in report(nodes).problems if p.disposition == "DENIED_RP_FILTER"]


def test_asymmetry_is_told_and_no_problem() -> None:
    nodes = network(RING)
    nodes = around(nodes)
    made = report(nodes)
    assert not made.problems
    assert made.asymmetric
    assert any("another way back" in line for line in shown.lines(made))


def test_neighbours_that_do_not_answer() -> None:
    nodes = network(LINE)
    kernel = nodes["r1"].kernel
    failed = Neighbour(kernel.by_name["eth1"].ifindex, link_local(2), b"", "FAILED")
    nodes["r1"] = replace(nodes["r1"], kernel=replace(kernel, neighbours=(failed,)))
    # The next packet asks again, and r2 is there; or something keeps it from answering, which no snapshot tells.
    assert {(d, n) for d, n, _ in found(nodes)} == {("UNKNOWN", "r1")}
    assert "did not answer (FAILED), and r2's eth1 has it" in next(p.why for p in report(nodes).problems)
    kept = tuple(a for a in nodes["r2"].kernel.addresses if a.address != link_local(2))
    nodes["r2"] = replace(nodes["r2"], kernel=replace(nodes["r2"].kernel, addresses=kept))
    told = {(d, n, why) for d, n, why in ((p.disposition, p.node, p.why) for p in report(nodes).problems)}
    assert ("NEIGHBOR_UNREACHABLE", "r1", "fe80::2 dev eth1 does not answer: FAILED") in told


@pytest.mark.parametrize("what", ["carrier", "address", "disabled", "nobody"])
def test_links_that_do_not_carry(what: str) -> None:
    nodes = network(LINE)
    one = nodes["r1"]
    if what == "carrier":
        nodes["r1"] = change(one, "eth1", flags=one.kernel.by_name["eth1"].flags & ~IFF_LOWER_UP)
    elif what == "address":
        kept = tuple(a for a in one.kernel.addresses if len(a.address) == 4)
        nodes["r1"] = replace(one, kernel=replace(one.kernel, addresses=kept))
    elif what == "disabled":
        nodes["r1"] = replace(one, sysctls={**one.sysctls, "net/ipv6/conf/eth1/disable_ipv6": 1})
    else:
        nodes["r1"] = with_route(without(one, "10.3.0.0/24"), via(one, "10.3.0.0/24", "r3", "eth1"))
    told = {(d, n) for d, n, _ in found(nodes)}
    assert ("NEIGHBOR_UNREACHABLE", "r1") in told


def test_what_no_snapshot_has_leaves_the_network() -> None:
    nodes = network(LINE)
    del nodes["r2"]
    assert {d for d, _, _ in found(nodes)} == {"EXITS_NETWORK"}


def test_every_member_of_a_multipath_must_be_good() -> None:
    nodes = network(RING)
    one = nodes["r1"]
    hops = tuple(
        NextHop(link_local(int(far[1])), one.kernel.by_name[dev].ifindex)
        for far, dev in (("r2", "eth1"), ("r4", "eth2"))
    )
    nodes["r1"] = with_route(without(one, "10.3.0.0/24"), Route(parse_prefix("10.3.0.0/24"), hops))
    assert not found(nodes)
    nodes["r4"] = without(nodes["r4"], "10.3.0.0/24")
    assert ("NO_ROUTE", "r4", "10.3.0.0/24") in found(nodes)


def test_loop_by_one_member_of_a_multipath() -> None:
    nodes = network(LINE)
    two = nodes["r2"]
    hops = tuple(
        NextHop(link_local(int(far[1])), two.kernel.by_name[dev].ifindex)
        for far, dev in (("r1", "eth1"), ("r3", "eth2"))
    )
    nodes["r2"] = with_route(without(two, "10.3.0.0/24"), Route(parse_prefix("10.3.0.0/24"), hops))
    assert {d for d, _, p in found(nodes) if p == "10.3.0.0/24"} == {"LOOP"}


def test_allowed_ips() -> None:
    nodes = network(LINE)
    for name, dev, far in (("r1", "eth1", "fe80::2"), ("r2", "eth1", "fe80::1")):
        allowed = (parse_prefix(f"{far}/128"), parse_prefix("10.0.0.0/8"))
        nodes[name] = replace(change(nodes[name], dev, kind="wireguard"), wireguard={dev: (Peer("K" + name, allowed),)})
    assert not found(nodes)
    narrow = (Peer("Kr1", (parse_prefix("fe80::2/128"), parse_prefix("10.2.0.0/24"))),)
    nodes["r1"] = replace(nodes["r1"], wireguard={"eth1": narrow})
    told = found(nodes)
    assert ("DENIED_ALLOWED_IPS", "r1", "10.3.0.0/24") in told
    assert all(d == "DENIED_ALLOWED_IPS" and n == "r1" for d, n, _ in told)


def test_announced_and_not_reachable() -> None:
    nodes = network(LINE, babel=True)
    three = nodes["r3"].babel
    assert three is not None
    nodes["r3"] = replace(
        nodes["r3"], babel=replace(three, exports=(*three.exports, (parse_prefix("192.168.7.0/24"), 0)))
    )
    assert ("NO_ROUTE", "r1", "192.168.7.0/24") in found(nodes)


# --- expectations --------------------------------------------------------------------------------------------------


def test_expectations_that_hold() -> None:
    rules = "reach r1 r3 via r2\nreach 10.1.0.0/24 10.3.0.0/24\nwaypoint 10.1.0.7 10.3.0.9 r2  # a comment\n\n"
    assert not found(network(LINE), rules)


def kinds(nodes: dict[str, Node], rules: str) -> list[tuple[str, str]]:
    return [(p.kind, p.disposition) for p in report(nodes, rules).problems]


def test_expectations_that_are_broken() -> None:
    nodes = network(RING)
    assert kinds(nodes, "reach r1 r3 via r9".replace("r9", "r4")) == [("line 1: reach r1 r3 via r4", "ACCEPTED")]
    assert ("line 1: isolate r1 10.3.0.0/24", "ACCEPTED") in kinds(nodes, "isolate r1 10.3.0.0/24")
    assert kinds(nodes, "# x\nwaypoint r1 r2 r4") == [("line 2: waypoint r1 r2 r4", "ACCEPTED")]
    assert kinds(nodes, "reach r1 172.16.0.1") == [("line 1: reach r1 172.16.0.1", "NO_ROUTE")]
    assert ("line 1: reach 172.16.0.1 r1", "UNKNOWN") in kinds(nodes, "reach 172.16.0.1 r1")


def test_isolation_that_holds() -> None:
    nodes = network(LINE)
    for name in nodes:
        nodes[name] = without(without(nodes[name], "10.3.0.0/24") if name == "r1" else nodes[name], "10.9.0.0/24")
    nodes["r3"] = without(nodes["r3"], "10.1.0.0/24")
    assert not kinds(nodes, "isolate 10.1.0.0/24 10.3.0.0/24")


def test_default_isolate_names_what_no_rule_allows() -> None:
    nodes = network(LINE)
    told = report(nodes, "reach 10.1.0.0/24 10.3.0.0/24\ndefault isolate").problems
    assert {p.kind for p in told} == {"default isolate"}
    assert {str(p.prefix) for p in told} == {"10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24"}
    assert report(nodes, "reach 10.1.0.0/24 10.3.0.0/24").unnamed > 0
    assert not report(nodes, "default reach").problems


def test_default_reach_leaves_out_what_is_isolated() -> None:
    nodes = network(LINE)
    nodes["r1"] = without(nodes["r1"], "10.3.0.0/24")
    assert found(nodes, "default reach")
    nodes["r3"] = without(nodes["r3"], "10.1.0.0/24")
    assert not found(nodes, "default reach\nisolate 10.1.0.0/24 10.3.0.0/24")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("reech r1 r2", "'reech' is no rule: 'reach'?"),
        ("reach r1", "write reach A B [via NODE]"),
        ("reach r1 r2 over r3", "write reach A B [via NODE]"),
        ("isolate r1 r2 r3", "write isolate A B"),
        ("waypoint r1 r2", "write waypoint A B NODE"),
        ("reach r1 r7", "there is no node 'r7'"),
        ("reach r1 10.0.0.1/8", "has host bits set"),
        ("reach r1 r2 via r8", "there is no node 'r8'"),
        ("default maybe", "write default reach|isolate"),
        ("reach 2001:db8::/32 r1", "verify is about IPv4"),
    ],
)
def test_a_wrong_line_is_named(line: str, says: str) -> None:
    rules, wrong = expect.parse(f"# rules\n{line}\n", "rules", ["r1", "r2", "r3"])
    assert not rules.rules
    assert len(wrong) == 1
    assert wrong[0].startswith("rules:2: ")
    assert says in wrong[0]


# --- failures ------------------------------------------------------------------------------------------------------


def after(nodes: dict[str, Node], *wished: tuple[str, str]) -> dict[str, list[tuple[str, str, str]]]:
    made = failure.examine(list(nodes.values()), wished, None)
    return {one.name: sorted((p.disposition, p.node, str(p.prefix)) for p in one.problems) for one in made}


def test_a_ring_survives_any_failure_and_a_line_does_not() -> None:
    assert not any(after(network(RING, babel=True), ("any-1", "")).values())
    told = after(network(LINE, babel=True), ("link", ""))
    assert told["link r1-r2"] == [
        ("NO_ROUTE", "r1", "10.2.0.0/24"), ("NO_ROUTE", "r1", "10.3.0.0/24"), ("NO_ROUTE", "r2", "10.1.0.0/24"),
    ]  # fmt: skip
    assert after(network(LINE, babel=True), ("node", "r2"))["node r2"] == [
        ("NO_ROUTE", "r1", "10.3.0.0/24"), ("NO_ROUTE", "r3", "10.1.0.0/24"),
    ]  # fmt: skip


def hit(found: failure.After) -> set[str]:
    """The prefixes that a failure hits."""
    return {str(problem.prefix) for problem in found.problems}


def test_the_quick_way_and_the_thorough_one_agree() -> None:
    for links in (LINE, RING, [*RING, ("r4", "r5")], [("r1", "r2"), ("r1", "r3"), ("r3", "r4"), ("r1", "r5")]):
        nodes = network(links, babel=True)
        quick = failure._Failures(list(nodes.values()), None)
        assert quick.whole.holds
        for name, pair in quick.links.items():
            assert quick.whole.link(pair) is not None
            assert hit(quick.link(name, [pair])) == hit(quick.link(name, [pair], thorough=True)), name
        for at in range(len(nodes)):
            assert quick.whole.node(at) is not None
            assert hit(quick.node(at)) == hit(quick.node(at, thorough=True)), at


def test_the_way_around_has_its_own_faults() -> None:
    """All is well until a failure leads packets through a node that drops them."""
    nodes = network([*RING, ("r1", "r3")], babel=True)
    nodes["r4"] = set_sysctl(nodes["r4"], eth1__forwarding=0, eth2__forwarding=0)
    before = found(nodes)
    told = after(nodes, ("node", "r2"), ("link", "r3-r1"))
    assert ("FORWARDING_OFF", "r4", "10.4.0.0/24") not in told["node r2"]
    assert all(problem not in before for problems in told.values() for problem in problems)


def test_without_babel_routes_stay_and_that_is_said() -> None:
    (one,) = failure.examine(list(network(RING).values()), [("link", "r1-r2")], None)
    assert any(p.disposition == "NEIGHBOR_UNREACHABLE" and p.node == "r1" for p in one.problems)
    assert "no Babel state of r1" in one.notes[0]


def test_a_routing_program_without_state_is_unknown_after_a_failure() -> None:
    nodes = network(RING, babel=True)
    nodes["r2"] = replace(nodes["r2"], babel=None)
    (one,) = failure.examine(list(nodes.values()), [("link", "r2-r3")], None)
    assert {(p.disposition, p.node) for p in one.problems} >= {("UNKNOWN", "r2")}
    assert "no Babel state of r2" in one.notes[0]


def test_what_was_behind_a_node_that_failed_is_not_missed() -> None:
    nodes = network(RING, babel=True)
    nodes["r2"] = replace(nodes["r2"], babel=None)
    (one,) = failure.examine(list(nodes.values()), [("node", "r2")], None)
    assert not [p for p in one.problems if str(p.prefix) == "10.2.0.0/24"]


def test_failures_that_there_cannot_be() -> None:
    nodes = list(network(RING).values())
    for kind, name in (("link", "r1-r3"), ("node", "r9")):
        with pytest.raises(Refusal):
            failure.examine(nodes, [(kind, name)], None)


def test_rules_hold_after_failures_as_well() -> None:
    nodes = list(network(RING, babel=True).values())
    rules, _ = expect.parse(
        "reach 10.1.0.0/24 10.2.0.0/24 via r1\nwaypoint 10.1.0.0/24 10.3.0.0/24 r2", "x", ["r1", "r2"]
    )
    broken = {one.name for one in failure.examine(nodes, [("link", "")], rules) if one.problems}
    assert broken == {"link r1-r2", "link r2-r3"}


# --- diff ----------------------------------------------------------------------------------------------------------


def test_diff() -> None:
    nodes = network(LINE)
    assert not diff.compare(list(nodes.values()), list(nodes.values())).changes
    changed = dict(nodes)
    changed["r2"] = without(nodes["r2"], "10.3.0.0/24")
    made = diff.compare(list(nodes.values()), list(changed.values()))
    (one,) = made.changes
    assert (str(one.prefix), one.sources, one.after) == ("10.3.0.0/24", ("r1", "r2"), ("NO_ROUTE",))
    assert one.way_before[-1] == "r3"
    assert one.way_after[-1] == "r2"
    assert any("10.3.0.0/24 from r1, r2" in line for line in made.lines())
    del changed["r1"]
    assert diff.compare(list(nodes.values()), list(changed.values())).gone == ("r1",)


# --- words ---------------------------------------------------------------------------------------------------------


def test_words() -> None:
    assert set(MEANINGS) == set(NAMES) - {""}
    nodes = network(LINE)
    nodes["r2"] = without(nodes["r2"], "10.3.0.0/24")
    made = report(nodes)
    (told,) = shown.as_json(made)["problems"]
    assert {"disposition", "node", "prefix", "packet", "path"} <= told.keys()
    assert told["packet"].keys() == {"source", "destination"}
    assert isinstance(made.problems[0], Problem)
    assert "1 problem" in list(shown.lines(made))


# --- who is on which link ------------------------------------------------------------------------------------------


def on_switch(node: Node, name: str, number: int, peer: int, lladdr: str = "") -> Node:
    """The node with another number for an interface, and another end of it, which no snapshot has."""
    old = node.kernel.by_name[name].ifindex
    links = tuple(
        replace(x, ifindex=number, peer=peer, lladdr=bytes.fromhex(lladdr)) if x.name == name else x
        for x in node.kernel.links
    )
    held = tuple(replace(a, ifindex=number) if a.ifindex == old else a for a in node.kernel.addresses)
    routes = [
        replace(r, next_hops=tuple(NextHop(h.via, number if h.ifindex == old else h.ifindex) for h in r.next_hops))
        for r in node.kernel.routes
    ]
    return replace(node, kernel=replace(node.kernel, links=links, addresses=held, routes=RouteTable.of(routes)))


def test_veth_ends_that_name_each_other_by_chance_are_no_pair() -> None:
    """Two switches in namespaces of their own: r1 and r3 have nothing to do with each other."""
    nodes = network(LINE)
    nodes["r1"] = on_switch(nodes["r1"], "eth1", 2, 3)
    nodes["r2"] = on_switch(on_switch(nodes["r2"], "eth1", 2, 4), "eth2", 3, 4)
    nodes["r3"] = on_switch(nodes["r3"], "eth1", 3, 2)
    made = report({name: on_switch(node, "lan", 9, 0) for name, node in nodes.items()})
    assert not made.problems
    assert made.pairs == made.arriving > 0


def test_a_next_hop_of_which_only_the_route_speaks_is_unknown() -> None:
    """r1 is wrong about r3, which is on another switch; nobody can see that, and nobody may call it proven."""
    nodes = network(LINE)
    nodes["r1"] = on_switch(nodes["r1"], "eth1", 2, 3)
    nodes["r2"] = on_switch(on_switch(nodes["r2"], "eth1", 2, 4), "eth2", 3, 4)
    nodes["r3"] = on_switch(nodes["r3"], "eth1", 3, 7)
    assert not found({name: on_switch(node, "lan", 9, 0) for name, node in nodes.items()})
    one = nodes["r1"]
    nodes["r1"] = with_route(without(one, "10.3.0.0/24"), via(one, "10.3.0.0/24", "r3", "eth1"))
    problems = report({name: on_switch(node, "lan", 9, 0) for name, node in nodes.items()}).problems
    assert {(p.disposition, p.node) for p in problems} == {("UNKNOWN", "r1")}
    assert "whether r3's eth1, which has the address, is on that link" in problems[0].why


def test_one_of_several_hosts_on_a_link_is_down() -> None:
    nodes = network([("r1", "r2"), ("r1", "r3")])
    for name in ("r2", "r3"):
        address = InterfaceAddress(nodes[name].kernel.by_name["eth1"].ifindex, parse_address(f"10.1.0.{name[1]}"), 24)
        local = Route(parse_prefix(f"10.1.0.{name[1]}"), (NextHop(None, address.ifindex),), "local", 255)
        held = replace(nodes[name].kernel, addresses=(*nodes[name].kernel.addresses, address))
        nodes[name] = with_route(replace(nodes[name], kernel=held), local)
    nodes = {name: on_switch(node, "eth1", 5 + int(name[1]), 0) for name, node in nodes.items()}
    nodes["r3"] = change(nodes["r3"], "eth1", flags=0)
    checker = Checker(Network(list(nodes.values())))
    ends = {to: checker.tracer.codes(parse_address(to), 0) for to in ("10.1.0.2", "10.1.0.3", "10.1.0.4")}
    assert [NAMES.index(word) for word in ("ACCEPTED", "NEIGHBOR_UNREACHABLE", "DELIVERED_TO_SUBNET")] == [
        code.bit_length() - 1 for code in ends.values()
    ]
    assert ("NEIGHBOR_UNREACHABLE", "r1", "10.1.0.3/32") in found(nodes)


def test_an_interface_with_arp_off_finds_nobody_and_answers_nobody() -> None:
    nodes = network(LINE)
    for name in nodes:
        number = nodes[name].kernel.by_name["eth1"].ifindex
        nodes[name] = on_switch(
            nodes[name], "eth1", number, nodes[name].kernel.by_name["eth1"].peer, f"02{number:010x}"
        )
    assert not found(nodes)
    noarp = nodes["r1"].kernel.by_name["eth1"].flags | 0x80
    nodes["r1"] = change(nodes["r1"], "eth1", flags=noarp)
    told = {(p.node, p.why) for p in report(nodes).problems if p.disposition == "NEIGHBOR_UNREACHABLE"}
    assert ("r1", "arp is off on eth1: it finds nobody") in told
    assert ("r2", "arp is off on r1's eth1: it answers nobody") in told


def test_an_entry_that_outlives_the_address_is_unknown() -> None:
    nodes = network(LINE)
    number, mac = nodes["r2"].kernel.by_name["eth1"].ifindex, "020000000002"
    nodes["r2"] = on_switch(nodes["r2"], "eth1", number, nodes["r2"].kernel.by_name["eth1"].peer, mac)
    kernel = nodes["r2"].kernel
    kept = tuple(a for a in kernel.addresses if (a.ifindex, a.address) != (number, link_local(2)))
    nodes["r2"] = replace(nodes["r2"], kernel=replace(kernel, addresses=kept))
    for state, fate in (("STALE", "UNKNOWN"), ("PERMANENT", "")):
        entry = Neighbour(nodes["r1"].kernel.by_name["eth1"].ifindex, link_local(2), bytes.fromhex(mac), state)
        nodes["r1"] = replace(nodes["r1"], kernel=replace(nodes["r1"].kernel, neighbours=(entry,)))
        assert {d for d, node, _ in found(nodes) if node == "r1"} == ({fate} if fate else set())
