"""What Babel is said to choose: import rules, what is a node's own, ties, several origins, what nobody tells."""

from __future__ import annotations

from dataclasses import replace

import pytest

from verify_support import link_local, network, with_route
from via6.config_babel import Rule
from via6.model import IFF_LOOPBACK, PROTO_KERNEL, InterfaceAddress, NextHop, Route, RouteTable
from via6.observe.babel import Policy, policy_json
from via6.observe.node import BabelPolicy, BabelRoute, BabelState, Node
from via6.observe.snapshot import babel as snapshot_babel
from via6.observe.snapshot.decode import decode
from via6.observe.snapshot.encode import encode
from via6.observe.verify import failure
from via6.observe.verify.after import Aftermath
from via6.observe.verify.babel import Mesh, announces
from via6.observe.verify.network import Network
from via6.prefix import parse_address, parse_prefix

LINE = [("r1", "r2"), ("r2", "r3")]
RING = [("r1", "r2"), ("r2", "r3"), ("r3", "r4"), ("r4", "r1")]
ONE = "10.1.0.0/24"


def babel(node: Node, **values: object) -> Node:
    """The node with another Babel state."""
    assert node.babel is not None
    return replace(node, babel=replace(node.babel, **values))  # type: ignore[arg-type]


def ways(nodes: dict[str, Node], prefix: str = ONE, dead: tuple[str, str] | None = None) -> dict[str, set[str]]:
    """Per node the nodes that are its next hops."""
    names = list(nodes)
    mesh = Mesh(list(nodes.values()))
    cut = [
        port for pair in mesh.pairs() for port in pair
        if dead is not None and {names[at] for at, _ in pair} == set(dead)
    ]  # fmt: skip
    chosen = mesh.chosen(cut)[parse_prefix(prefix)]
    return {names[at]: {names[hearing.neighbour[0]] for hearing in found} for at, found in chosen.items()}


def test_shortest_ways_and_all_equals() -> None:
    nodes = network(RING, babel=True)
    assert ways(nodes) == {"r2": {"r1"}, "r4": {"r1"}, "r3": {"r2", "r4"}}
    assert ways(nodes, dead=("r1", "r2")) == {"r2": {"r3"}, "r3": {"r4"}, "r4": {"r1"}}


def selected(node: Node, far: str, ifindex: int) -> Node:
    route = BabelRoute(parse_prefix(ONE), link_local(int(far[1])), ifindex, "::1", 192, 96, True, True)
    return babel(node, routes=(route,))


def test_of_equals_what_is_selected_stays_if_all_on_its_way_keep_theirs() -> None:
    nodes = network(RING, babel=True)
    nodes["r4"] = selected(nodes["r4"], "r1", 16)
    nodes["r3"] = selected(nodes["r3"], "r4", 14)
    assert ways(nodes)["r3"] == {"r4"}
    nodes["r4"] = babel(nodes["r4"], routes=())  # nothing is known of r4's choice, so nothing of what becomes of r3's
    assert ways(nodes)["r3"] == {"r4", "r2"}


def test_who_refuses_a_prefix_neither_uses_it_nor_passes_it_on() -> None:
    nodes = network(RING, babel=True)
    rules = (Rule(within=(parse_prefix("10.1.0.0/16"),), deny=True), Rule())
    nodes["r2"] = babel(nodes["r2"], policy=BabelPolicy(imports=rules))
    assert ways(nodes) == {"r4": {"r1"}, "r3": {"r4"}}
    assert ways(nodes, "10.3.0.0/24") == {"r2": {"r3"}, "r4": {"r3"}, "r1": {"r2", "r4"}}
    assert ways(nodes, dead=("r3", "r4")) == {"r4": {"r1"}}


@pytest.mark.parametrize("policy", [BabelPolicy(families=frozenset({16})), BabelPolicy(imports=())])
def test_who_takes_no_ipv4_is_a_wall(policy: BabelPolicy) -> None:
    nodes = network(LINE, babel=True)
    nodes["r2"] = babel(nodes["r2"], policy=policy)
    assert ways(nodes) == {}


def test_a_node_without_transit_uses_and_does_not_pass_on() -> None:
    nodes = network(LINE, babel=True)
    nodes["r2"] = babel(nodes["r2"], policy=BabelPolicy(transit4=False))
    assert ways(nodes) == {"r2": {"r1"}}
    assert ways(nodes, "10.2.0.0/24") == {"r1": {"r2"}, "r3": {"r2"}}


def test_on_a_link_of_hosts_only_theirs_is_taken() -> None:
    nodes = network(LINE, babel=True)
    ifindex = nodes["r2"].kernel.by_name["eth1"].ifindex
    nodes["r2"] = babel(nodes["r2"], policy=BabelPolicy(allowed=((ifindex, (parse_prefix("10.1.0.7"),)),)))
    assert ways(nodes) == {}
    assert ways(nodes, "10.3.0.0/24") == {"r2": {"r3"}, "r1": {"r2"}}


def test_what_is_connected_is_not_learnt() -> None:
    nodes = network(LINE, babel=True)
    own = InterfaceAddress(2, parse_address("10.1.0.2"), 24)
    two = nodes["r2"].kernel
    nodes["r2"] = replace(nodes["r2"], kernel=replace(two, addresses=(*two.addresses, own)))
    assert ways(nodes) == {}


def test_an_origin_says_its_own_metric() -> None:
    nodes = network(LINE, babel=True)
    nodes["r2"] = babel(nodes["r2"], exports=((parse_prefix(ONE), 500),))
    assert ways(nodes) == {"r3": {"r2"}}
    chosen = Mesh(list(nodes.values())).chosen(gone={0})
    assert set(chosen[parse_prefix(ONE)]) == {2}


def test_a_second_default_is_not_taken() -> None:
    nodes = network(LINE, babel=True)
    default = parse_prefix("0.0.0.0/0")
    nodes["r1"] = babel(nodes["r1"], exports=((default, 0),))
    assert set(ways(nodes, "0.0.0.0/0")) == {"r2", "r3"}
    nodes["r2"] = with_route(nodes["r2"], Route(default, (NextHop(parse_address("10.2.0.9"), 2),), protocol=3))
    assert ways(nodes, "0.0.0.0/0") == {}
    nodes["r2"] = babel(nodes["r2"], policy=BabelPolicy(imports=(Rule(prefixes=(default,)),)))
    assert set(ways(nodes, "0.0.0.0/0")) == {"r2", "r3"}


def test_an_export_goes_with_the_link_that_it_is_reached_by() -> None:
    node = network(LINE, babel=True)["r2"]
    island, static = parse_prefix("10.2.0.0/24"), parse_prefix("172.16.0.0/16")
    assert announces(node, island, {10})
    assert not announces(node, island, {2})
    assert announces(node, static, {2})  # nobody knows by what
    node = with_route(node, Route(static, (NextHop(link_local(1), 11),), protocol=4))
    assert announces(node, static, {12})
    assert not announces(node, static, {11})
    address = InterfaceAddress(1, parse_address("10.255.0.2"), 32)
    assert node.kernel.by_index[1].flags & IFF_LOOPBACK
    node = replace(node, kernel=replace(node.kernel, addresses=(*node.kernel.addresses, address)))
    assert announces(node, parse_prefix("10.255.0.2"), {2, 11, 12})


# --- what nobody tells ---------------------------------------------------------------------------------------------


def test_with_a_silent_speaker_only_what_crosses_the_failure_is_unknown() -> None:
    nodes = network([*RING, ("r4", "r5")], babel=True)
    nodes["r5"] = replace(nodes["r5"], babel=None)  # at the end of a tail: it can take part in any way
    every = list(nodes.values())
    after = Aftermath(every, Network(every))
    assert after.partial
    (one,) = failure.examine(every, [("link", "r1-r2")], None)
    assert {p.disposition for p in one.problems} == {"UNKNOWN"}
    hit = {(p.node, str(p.prefix)) for p in one.problems}
    assert ("r1", "10.2.0.0/24") in hit
    assert not {prefix for node, prefix in hit if node == "r3"} & {"10.4.0.0/24", "10.5.0.0/24"}
    assert any("no Babel state of r5" in note for note in one.notes)
    assert any("UNKNOWN" in note for note in one.notes)


def test_a_node_of_static_routes_is_no_silent_speaker() -> None:
    every = list(network(RING).values())
    after = Aftermath(every, Network(every))
    assert after.silent == [0, 1, 2, 3]
    assert not after.partial


def test_rules_that_are_not_told_are_named() -> None:
    every = list(network(RING, babel=True).values())
    (one,) = failure.examine(every, [("link", "r1-r2")], None)
    assert any("import rules of r1, r2, r3, r4 are not in the snapshot" in note for note in one.notes)
    told = [babel(node, policy=BabelPolicy()) for node in every]
    assert not failure.examine(told, [("link", "r1-r2")], None)[0].notes


def test_routes_typed_in_forbid_the_short_way() -> None:
    nodes = network(RING, babel=True)
    assert failure._Failures(list(nodes.values()), None).whole.holds
    typed = Route(parse_prefix("10.9.0.0/24"), (NextHop(link_local(2), 10),), protocol=4)
    for change in (
        with_route(nodes["r1"], typed),
        with_route(nodes["r1"], Route(parse_prefix("10.8.0.0/16"), (), "blackhole", protocol=4)),
        babel(nodes["r1"], exports=((parse_prefix(ONE), 0), (parse_prefix("10.0.0.0/8"), 0))),
        babel(nodes["r1"], policy=BabelPolicy(imports=(Rule(longest=8),))),
    ):
        changed = {**nodes, "r1": change}
        assert not failure._Failures(list(changed.values()), None).whole.holds


def test_on_a_shared_link_only_the_node_that_fails_is_gone() -> None:
    """Three routers on one switch that is in no snapshot: the others still hear each other."""
    nodes = []
    for number in (1, 2, 3):
        base = network([("r1", "r2")], babel=True)["r1"]
        lladdr = bytes((2, 0, 0, 0, 0, number))
        links = tuple(
            replace(one, kind="", peer=0, lladdr=lladdr, ifindex=20 + number) if one.name == "eth1" else one
            for one in base.kernel.links
        )
        island = parse_prefix(f"10.{number}.0.0/24")
        routes = RouteTable.of([Route(island, (NextHop(None, 2),), protocol=PROTO_KERNEL)])
        own = island.packed[:3] + b"\1"
        addresses = (InterfaceAddress(2, own, 24), InterfaceAddress(20 + number, link_local(number), 64, scope=253))
        others = [far for far in (1, 2, 3) if far != number]
        state = BabelState(
            f"::{number}",
            tuple(replace(base.babel.neighbours[0], address=link_local(far), ifindex=20 + number) for far in others),  # type: ignore[union-attr]
            exports=((island, 0),),
        )
        kernel = replace(base.kernel, links=links, addresses=addresses, routes=routes)
        nodes.append(replace(base, name=f"r{number}", kernel=kernel, babel=state))
    after = Aftermath(nodes, Network(nodes))
    dead, gone = after.with_node(0)
    assert gone == {0}
    assert not dead
    left = after.mesh.chosen(dead, gone)
    assert set(left[parse_prefix("10.2.0.0/24")]) == {2}


def test_the_rules_of_a_daemon_come_into_a_snapshot_and_out_of_it() -> None:
    told = Policy(
        frozenset({4, 16}), (Rule(within=(parse_prefix(ONE),), shortest=16, longest=24, deny=True), Rule()), False, 500,
        (("eth1", (parse_prefix("10.1.0.7"),)),),
    )  # fmt: skip
    status = {"router_id": "::1", "policy": policy_json(told)}
    state = snapshot_babel.state(status, (), (), lambda name: {"eth1": 10}[name])
    assert state is not None
    rules = (Rule("any", (), (parse_prefix(ONE),), 16, 24, deny=True), Rule())
    allowed = ((10, (parse_prefix("10.1.0.7"),)),)
    assert state.policy == BabelPolicy(frozenset({4, 16}), rules, False, 500, allowed)
    node = replace(network(LINE, babel=True)["r1"], babel=state)
    assert decode(encode(node)) == node
    older = {"router_id": "::1"}
    untold = snapshot_babel.state(older, (), (), lambda _: 0)
    assert untold is not None
    assert untold.policy is None
