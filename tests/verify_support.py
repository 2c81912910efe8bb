"""Nodes made by hand for the tests of verify: routers in a line or ring, each with an island 10.N.0.0/24 on `lan`.

nodes = network([("r1", "r2"), ("r2", "r3")])      # shortest paths as static routes with IPv6 next hops
nodes["r2"] = without(nodes["r2"], "10.3.0.0/24")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import networkx

from via6.model import (
    IFF_LOOPBACK,
    IFF_LOWER_UP,
    IFF_UP,
    PARTS,
    PROTO_KERNEL,
    PROTO_STATIC,
    PROTO_VIA6,
    TABLE_LOCAL,
    InterfaceAddress,
    Link,
    NextHop,
    Route,
    RouteTable,
    Rule,
    Snapshot,
)
from via6.observe.node import BabelNeighbour, BabelState, Firewall, Node
from via6.prefix import AF_INET, Address, parse_address, parse_prefix

UP = IFF_UP | IFF_LOWER_UP
RULES = (Rule(AF_INET, 0, 255), Rule(AF_INET, 32766, 254), Rule(AF_INET, 32767, 253))


def link_local(number: int) -> Address:
    return parse_address(f"fe80::{number:x}")


def number_of(name: str) -> int:
    return int(name[1:])


def network(links: Sequence[tuple[str, str]], *, babel: bool = False) -> dict[str, Node]:
    """Routers r1, r2 …; interface numbers are unique in the network, eth1, eth2 … are named in the order of links."""
    graph = networkx.Graph(links)
    ports: dict[str, list[tuple[str, int, int]]] = {name: [] for name in sorted(graph, key=number_of)}
    for at, (a, b) in enumerate(links):
        ports[a].append((b, 10 + 2 * at, 11 + 2 * at))
        ports[b].append((a, 11 + 2 * at, 10 + 2 * at))
    return {name: _router(name, ports[name], graph, babel) for name in ports}


def _router(name: str, ports: Sequence[tuple[str, int, int]], graph: networkx.Graph, babel: bool) -> Node:
    number = number_of(name)
    own = parse_address(f"10.{number}.0.1")
    island = parse_prefix(f"10.{number}.0.0/24")
    links = [Link(1, "lo", 65536, UP | IFF_LOOPBACK), Link(2, "lan", 1500, UP, "UP")]
    addresses = [InterfaceAddress(2, own, 24)]
    lan = (NextHop(None, 2),)
    routes = [
        Route(island, lan, protocol=PROTO_KERNEL),
        Route(parse_prefix(f"10.{number}.0.1"), lan, "local", TABLE_LOCAL, protocol=PROTO_KERNEL),
    ]
    by_far: dict[str, NextHop] = {}
    for at, (far, ifindex, peer) in enumerate(ports, 1):
        links.append(Link(ifindex, f"eth{at}", 1500, UP, "UP", kind="veth", peer=peer))
        addresses.append(InterfaceAddress(ifindex, link_local(number), 64, scope=253))
        by_far.setdefault(far, NextHop(link_local(number_of(far)), ifindex))
    for other in graph:
        if other != name and networkx.has_path(graph, name, other):
            step = networkx.shortest_path(graph, name, other)[1]
            prefix = parse_prefix(f"10.{number_of(other)}.0.0/24")
            slot = {"protocol": PROTO_VIA6, "metric": 460} if babel else {"protocol": PROTO_STATIC}
            routes.append(Route(prefix, (by_far[step],), **slot))
    names = ["all", *(link.name for link in links)]
    usual = (("forwarding", 1), ("rp_filter", 0), ("ignore_routes_with_linkdown", 0))
    sysctls = {f"net/ipv4/conf/{one}/{what}": value for one in names for what, value in usual}
    state = None
    if babel:
        heard = tuple(BabelNeighbour(link_local(number_of(far)), ifindex, 96) for far, ifindex, _ in ports)
        state = BabelState(f"::{number}", heard, exports=((island, 0),))
    kernel = Snapshot(tuple(links), tuple(addresses), RouteTable.of(routes), RULES, parts=PARTS)
    return Node(name, kernel, sysctls, firewall=Firewall(), babel=state)


def without(node: Node, prefix: str) -> Node:
    """The node without its routes to a prefix."""
    return _routes(node, [r for r in node.kernel.routes if r.prefix != parse_prefix(prefix)])


def with_route(node: Node, *added: Route) -> Node:
    """The node with more routes."""
    return _routes(node, [*node.kernel.routes, *added])


def via(node: Node, prefix: str, far: str, ifname: str, **more: object) -> Route:
    """A route to a prefix over a neighbour."""
    hop = NextHop(link_local(number_of(far)), node.kernel.by_name[ifname].ifindex)
    return Route(parse_prefix(prefix), (hop,), **more)  # type: ignore[arg-type]


def _routes(node: Node, routes: Sequence[Route]) -> Node:
    return replace(node, kernel=replace(node.kernel, routes=RouteTable.of(routes)))


def set_sysctl(node: Node, **values: int) -> Node:
    """`set_sysctl(node, eth1__rp_filter=1)`: of the interface before the two underscores."""
    named: Mapping[str, int] = {f"net/ipv4/conf/{k.replace('__', '/')}": v for k, v in values.items()}
    return replace(node, sysctls={**node.sysctls, **named})
