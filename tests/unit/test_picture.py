"""Nodes as a picture: what is drawn, how it is named, and that a cut link stays to be seen."""

from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from verify_support import link_local, network
from via6.model import IFF_LOWER_UP, InterfaceAddress, Link, Neighbour, NextHop, Route, RouteTable, Snapshot
from via6.observe.node import BabelNeighbour, Node
from via6.observe.picture import DOWN, HOST, ROUTER, UNKNOWN, UP, as_json, draw, id_of
from via6.prefix import parse_address, parse_prefix

TRIANGLE = [("r1", "r2"), ("r2", "r3"), ("r1", "r3")]
UP_FLAGS = 1 | IFF_LOWER_UP


def triangle() -> list[Node]:
    return list(network(TRIANGLE, babel=True).values())


def with_links(node: Node, *links: Link) -> Node:
    return replace(node, kernel=replace(node.kernel, links=links))


def without_carrier(node: Node, name: str) -> Node:
    made = (replace(k, flags=k.flags & ~IFF_LOWER_UP) if k.name == name else k for k in node.kernel.links)
    return with_links(node, *made)


def test_routers_links_and_islands() -> None:
    drawn = draw(triangle())
    assert [(n.id, n.kind, n.software, n.state, n.islands) for n in drawn.nodes] == [
        ("r1", ROUTER, "via6", UP, ("10.1.0.0/24",)),
        ("r2", ROUTER, "via6", UP, ("10.2.0.0/24",)),
        ("r3", ROUTER, "via6", UP, ("10.3.0.0/24",)),
    ]
    assert [(x.id, x.state, x.ipv4, x.cost) for x in drawn.links] == [
        ("r1.eth1--r2.eth1", UP, False, 96),
        ("r1.eth2--r3.eth2", UP, False, 96),
        ("r2.eth2--r3.eth1", UP, False, 96),
    ]
    assert next((i.id, i.prefix, i.nodes) for i in drawn.islands) == ("10.1.0.0-24", "10.1.0.0/24", ("r1",))


def test_one_end_without_carrier_is_enough() -> None:
    nodes = triangle()
    nodes[1] = without_carrier(nodes[1], "eth1")
    states = {link.id: link.state for link in draw(nodes).links}
    assert states == {"r1.eth1--r2.eth1": DOWN, "r1.eth2--r3.eth2": UP, "r2.eth2--r3.eth1": UP}


def test_shape_knows_states_from_structure() -> None:
    nodes = triangle()
    before = draw(nodes)
    assert draw(nodes, down=["r1"]).shape == before.shape
    assert draw(nodes, down=["r1"]).nodes[0].state == DOWN
    assert draw(nodes[:2]).shape != before.shape


def test_a_link_that_was_cut_stays_as_one_that_is_down() -> None:
    nodes = triangle()
    before = draw(nodes)
    nodes[0] = with_links(nodes[0], *(link for link in nodes[0].kernel.links if link.name != "eth1"))
    after = draw(nodes, before)
    assert {link.id: link.state for link in after.links}["r1.eth1--r2.eth1"] == DOWN
    assert [link.id for link in after.links] == [link.id for link in before.links]
    # And with its node it goes.
    assert {link.id for link in draw(nodes[1:], after).links} == {"r2.eth2--r3.eth1"}


def test_a_link_that_was_cut_before_anybody_looked_is_seen() -> None:
    """Setting an interface down takes its addresses, and numbers of other veth ends repeat, as those of hosts do."""
    nodes = triangle()
    for at in (0, 1):
        nodes[at] = without_carrier(nodes[at], "eth1")
        kernel = nodes[at].kernel
        ifindex = kernel.by_name["eth1"].ifindex
        left = tuple(one for one in kernel.addresses if one.ifindex != ifindex)
        routes = RouteTable(
            tuple(b for b in kernel.routes.blocks if all(h.ifindex != ifindex for h in b.template.next_hops))
        )
        babel = nodes[at].babel
        assert babel is not None
        known = tuple(one for one in babel.neighbours if one.ifindex != ifindex)
        kernel = replace(kernel, addresses=left, routes=routes)
        nodes[at] = replace(nodes[at], kernel=kernel, babel=replace(babel, neighbours=known))
        lan = Link(2, "lan", 1500, UP_FLAGS, "UP", kind="veth", peer=2)
        nodes[at] = with_links(nodes[at], *(lan if one.name == "lan" else one for one in nodes[at].kernel.links))
    states = {link.id: link.state for link in draw(nodes).links}
    assert states == {"r1.eth1--r2.eth1": DOWN, "r1.eth2--r3.eth2": UP, "r2.eth2--r3.eth1": UP}
    # Where the numbers repeat they say nothing.
    twin = with_links(nodes[2], *nodes[2].kernel.links, Link(10, "eth9", 1500, UP_FLAGS, "UP", kind="veth", peer=11))
    assert "r1.eth1--r2.eth1" not in {link.id for link in draw([*nodes[:2], twin]).links}


def test_a_host_is_found_by_its_route() -> None:
    nodes = triangle()
    gateway, own = parse_address("10.1.0.1"), parse_address("10.1.0.10")
    kernel = Snapshot(
        links=(Link(4, "eth0", flags=UP_FLAGS, lladdr=b"\2\0\0\0\0\x09"),),
        addresses=(InterfaceAddress(4, own, 24),),
        routes=RouteTable.of([Route(parse_prefix("0.0.0.0/0"), (NextHop(gateway, 4),))]),
        parts=frozenset({"links", "addresses", "routes4"}),
    )
    host = Node("h1", kernel, sysctls={"net/ipv4/conf/eth0/forwarding": 0})
    drawn = draw([*nodes, host])
    assert [n.kind for n in drawn.nodes if n.name == "h1"] == [HOST]
    assert [(x.id, x.ipv4) for x in drawn.links if x.id.startswith("h1.")] == [("h1.eth0--r1.lan", True)]
    assert drawn.islands[0].nodes == ("h1", "r1")


def test_a_switch_is_drawn_in_the_middle() -> None:
    nodes = []
    for number in range(1, 8):
        lladdr = bytes((2, 0, 0, 0, 0, number))
        others = [n for n in range(1, 8) if n != number]
        told = tuple(Neighbour(2, link_local(n), bytes((2, 0, 0, 0, 0, n)), "REACHABLE") for n in others)
        kernel = Snapshot(
            links=(Link(2, "eth0", flags=UP_FLAGS, lladdr=lladdr),),
            addresses=(InterfaceAddress(2, link_local(number), 64, 253),),
            neighbours=told,
        )
        nodes.append(Node(f"n{number}", kernel))
    drawn = draw(nodes)
    assert len(drawn.links) == 7
    middle = [n for n in drawn.nodes if n.kind == UNKNOWN and n.software == "link"]
    assert len(middle) == 1
    assert {x.a.node for x in drawn.links} | {x.b.node for x in drawn.links} == {n.id for n in drawn.nodes}


def test_a_neighbour_without_a_snapshot_is_drawn_as_unknown() -> None:
    nodes = triangle()[:1]
    drawn = draw(nodes)
    strangers = [n for n in drawn.nodes if n.state == UNKNOWN]
    assert [n.name for n in strangers] == ["fe80::2%eth1", "fe80::3%eth2"]
    assert {x.state for x in drawn.links} == {UP}
    babel = nodes[0].babel
    assert babel is not None
    mute = BabelNeighbour(babel.neighbours[0].address, babel.neighbours[0].ifindex, 65535)
    nodes[0] = replace(nodes[0], babel=replace(babel, neighbours=(mute,)))
    assert [(x.state, x.cost) for x in draw(nodes).links] == [(DOWN, None)]


def test_names_that_want_to_be_something_else() -> None:
    names = ["<script>", "..", ".", "", "a/b", "a b", "r1", "ä", "x" * 300, "r1--r2", "\ud800", "a~20b", "'\"&"]
    nodes = [Node(name, Snapshot()) for name in names]
    drawn = draw(nodes)
    made = [node.id for node in drawn.nodes]
    assert len(set(made)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9._~-]{1,90}", one) and one.strip(".") for one in made)
    assert [node.name for node in drawn.nodes] == names
    assert as_json(drawn)["links"] == []


@given(st.text(max_size=120), st.text(max_size=120))
def test_ids_need_no_escape_and_are_distinct(one: str, other: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9._~-]{1,80}", id_of(one))
    assert id_of(one) not in (".", "..")
    assert (id_of(one) == id_of(other)) == (one == other)


@given(st.permutations(range(3)))
def test_the_order_of_snapshots_does_not_matter_for_ids(order: list[int]) -> None:
    nodes = triangle()
    there = draw(nodes)
    again = draw([nodes[at] for at in order])
    assert [x.id for x in again.links] == [x.id for x in there.links]
    assert {n.id for n in again.nodes} == {n.id for n in there.nodes}
