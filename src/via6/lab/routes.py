"""Shortest paths as static routes: the answer that a routing protocol would come to.

From each router to each island: all neighbours that lie on a shortest path (the sum of link costs) become next hops,
several of them a multipath route. Every next hop is the neighbour's IPv6 link-local address. Routers of different
connected parts get no route to each other.
"""

from __future__ import annotations

from dataclasses import dataclass

from via6.lab.topology import Router, Topology
from via6.prefix import Address, Prefix, format_address


@dataclass(frozen=True, slots=True)
class Way:
    """A next hop: the neighbour `via` at `device`, and which router that is."""

    via: Address
    device: str
    router: str

    def __str__(self) -> str:
        return f"{format_address(self.via)}%{self.device}"


@dataclass(frozen=True, slots=True)
class StaticRoute:
    """To `prefix`, which belongs to the router `origin`, over any of `ways`."""

    prefix: Prefix
    origin: str
    ways: tuple[Way, ...]


def shortest_paths(topology: Topology) -> dict[str, dict[str, tuple[Way, ...]]]:
    """Per router and reachable other router: the equal-cost next hops, in order of the devices."""
    import networkx

    graph = networkx.Graph()
    graph.add_nodes_from(topology.router)
    for cable in topology.cables:  # of parallel cables the cheapest decides the distance
        known = graph.get_edge_data(cable.a.router, cable.b.router, {"cost": cable.cost})
        graph.add_edge(cable.a.router, cable.b.router, cost=min(cable.cost, known["cost"]))
    distances = dict(networkx.all_pairs_dijkstra_path_length(graph, weight="cost"))
    found: dict[str, dict[str, tuple[Way, ...]]] = {name: {} for name in topology.router}
    for name, ports in topology.ports.items():
        for target, distance in distances[name].items():
            if target != name:
                found[name][target] = tuple(
                    Way(topology.router[far.router].link_local, device, far.router)
                    for device, far, cable in ports
                    if cable.cost + distances[far.router][target] == distance
                )
    return found


def islands(router: Router) -> list[Prefix]:
    """What a router is the way to: its LAN, and its own address."""
    own = [Prefix(router.address, 32)] if router.address else []
    return ([router.lan] if router.lan else []) + own


def static_routes(topology: Topology) -> dict[str, tuple[StaticRoute, ...]]:
    """The routes of each router, in the order of the file."""
    paths = shortest_paths(topology)
    return {
        name: tuple(
            StaticRoute(prefix, target.name, paths[name][target.name])
            for target in topology.routers
            if target.name in paths[name]
            for prefix in islands(target)
        )
        for name in topology.router
    }


def as_config(routes: tuple[StaticRoute, ...], heading: str) -> str:
    """The file that `via6 run` reads."""
    lines = [f"# {heading}"]
    for route in routes:
        ways = ", ".join(f'"{way}"' for way in route.ways)
        via = ways if len(route.ways) == 1 else f"[{ways}]"
        lines += ["", "[[route]]", f'to = "{route.prefix}"  # {route.origin}', f"via = {via}"]
    return "\n".join(lines) + "\n"


def as_ip_batch(routes: tuple[StaticRoute, ...]) -> str:
    """The same for `ip -batch`."""
    lines = []
    for route in routes:
        hops = [f"via inet6 {format_address(way.via)} dev {way.device}" for way in route.ways]
        how = hops[0] if len(hops) == 1 else " ".join(f"nexthop {hop}" for hop in hops)
        lines.append(f"route add {route.prefix} proto static {how}\n")
    return "".join(lines)
