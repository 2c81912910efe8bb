"""The nodes as they are after a failure: links without carrier, nodes gone, and Babel's routes chosen anew.

What is no route of Babel's stays as Linux leaves it: a route with the dead link is marked `linkdown`, one that hangs on
a nexthop object of that link is gone.

Where a routing program takes part of which there is no state (babeld, BIRD, a Babel neighbour that is in no snapshot),
nobody can compute its choice. But a failure makes no way better, so a route whose packets do not cross what failed
stays; any other one is unknown, at each node on the way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Final

from via6.model import (
    IFF_LOWER_UP,
    NH_LINKDOWN,
    PROTO_BOOT,
    PROTO_KERNEL,
    PROTO_STATIC,
    PROTO_VIA6,
    TABLE_MAIN,
    Neighbour,
    NextHop,
    Route,
    RouteBlock,
    RouteTable,
)
from via6.observe.node import Node
from via6.observe.show import resolved
from via6.observe.verify.babel import Chosen, Mesh, slots
from via6.observe.verify.fates import Walker
from via6.observe.verify.links import Port
from via6.observe.verify.network import Network
from via6.observe.verify.survey import last, number
from via6.observe.verify.table import REROUTED, Way
from via6.prefix import AF_INET, Address, Prefix

BY_HAND: Final = frozenset({0, 1, PROTO_KERNEL, PROTO_BOOT, PROTO_STATIC})
"""Protocols of routes that no routing program put in."""


class Aftermath:
    """What becomes of a network."""

    def __init__(self, nodes: Sequence[Node], network: Network) -> None:
        self.nodes = nodes
        self.network = network
        self.mesh = Mesh(nodes, network.links)
        self.routers = [at for at in range(len(nodes)) if self.forwards(at)]
        self.silent = [at for at in self.routers if nodes[at].babel is None]
        self.dynamic = [at for at in self.silent if _dynamic(nodes[at])]
        self._standing: dict[int, tuple[list[RouteBlock], list[RouteBlock]]] = {}

    @property
    def partial(self) -> bool:
        """Somebody takes part in the routing whose state is not there."""
        return bool(self.dynamic or self.mesh.lost)

    def forwards(self, at: int) -> bool:
        """A node that passes IPv4 on, at least what comes in by some interface."""
        node = self.nodes[at]
        names = [link.name for link in node.kernel.links if not link.loopback]
        return any(node.sysctls.get(f"net/ipv4/conf/{name}/forwarding") for name in names)

    # --- what fails with it ----------------------------------------------------------------------------------------

    def with_node(self, at: int) -> tuple[set[Port], set[int]]:
        """The interfaces without carrier and the nodes that are gone when a node fails. Hosts that hang on it alone go
        with it: nobody expects to reach them then."""
        links = self.network.links
        gone = {at}
        for other, node in enumerate(self.nodes):
            if node.babel is None and not self.forwards(other):
                ports = [(other, link.ifindex) for link in node.kernel.links if not link.loopback]
                far = {one[0] for port in ports for one in links.attached(port) if self.forwards(one[0])}
                if far == {at}:
                    gone.add(other)
        dead = set()
        for port in self._facing(gone):
            others = {one[0] for one in links.on(port)}
            others |= {h.neighbour[0] for h in self.mesh.hearings if h.at == port}
            if others <= gone and (links.closed(port) or not self._addressed(port)):
                dead.add(port)
        return dead, gone

    def _facing(self, gone: Collection[int]) -> Iterable[Port]:
        """The interfaces of other nodes on the links of these."""
        links = self.network.links
        for at in gone:
            for link in self.nodes[at].kernel.links:
                yield from (one for one in links.on((at, link.ifindex)) if one[0] not in gone)
        yield from (h.at for h in self.mesh.hearings if h.neighbour[0] in gone and h.at[0] not in gone)

    def _addressed(self, port: Port) -> bool:
        return any(len(a.address) == 4 for a in self.network.links.held.get(port, ()))

    # --- the nodes afterwards --------------------------------------------------------------------------------------

    def nodes_after(self, dead: Collection[Port], gone: Collection[int] = ()) -> list[Node]:
        """All nodes that are left. Routes of which nobody can say what comes in their place are of type REROUTED."""
        chosen = self.mesh.chosen(dead, gone) if not self.partial else {}
        hit = self._hit(dead, gone) if self.partial else None
        mute = self._mute(gone)
        return [
            self._after(at, {i for place, i in dead if place == at}, chosen, hit, mute)
            for at in range(len(self.nodes))
            if at not in gone
        ]

    def _mute(self, gone: Collection[int]) -> dict[Port, list[Neighbour]]:
        """Entries of neighbours that will not answer any more, on links that keep their carrier."""
        found: dict[Port, list[Neighbour]] = {}
        links = self.network.links
        for at in gone:
            for link in self.nodes[at].kernel.links:
                held = links.held.get((at, link.ifindex), ())
                for port in links.on((at, link.ifindex)):
                    found.setdefault(port, []).extend(
                        Neighbour(port[1], a.address, b"", "FAILED") for a in held if len(a.address) in (4, 16)
                    )
        return found

    def _after(
        self, at: int, dead: set[int], chosen: Chosen, hit: Any, mute: dict[Port, list[Neighbour]]
    ) -> Node:  # fmt: skip
        node, kernel = self.nodes[at], self.nodes[at].kernel
        links = tuple(
            replace(link, flags=link.flags & ~IFF_LOWER_UP, operstate="DOWN") if link.ifindex in dead else link
            for link in kernel.links
        )
        standing, moving = self._split(at)
        blocks = [after for block in standing for after in _without(block, dead)] if dead else list(standing)
        for block in moving if hit is not None else ():
            blocks += self._rerouted(at, block, hit)
        metric = self.mesh.policy(at).kernel_metric
        made: dict[tuple[int, tuple[NextHop, ...]], list[Address]] = {}
        for prefix, ways in chosen.items():
            if at in ways:
                hops = tuple(NextHop(h.via, h.at[1]) for h in ways[at])
                made.setdefault((prefix.length, hops), []).append(prefix.packed)
        for (length, hops), to in made.items():
            blocks.append(RouteBlock(Route(Prefix(bytes(4), length), hops, metric=metric), to))
        lost = {port[1]: entries for port, entries in mute.items() if port[0] == at}
        silent = {(entry.ifindex, entry.address) for entries in lost.values() for entry in entries}
        kept = (n for n in kernel.neighbours if n.ifindex not in dead and (n.ifindex, n.address) not in silent)
        neighbours = (*kept, *(entry for i, entries in lost.items() if i not in dead for entry in entries))
        table = RouteTable(tuple(blocks))
        return replace(node, kernel=replace(kernel, links=links, routes=table, neighbours=neighbours))

    def _split(self, at: int) -> tuple[list[RouteBlock], list[RouteBlock]]:
        """The routes of a node that stay as the kernel leaves them, and those that a routing program chooses."""
        if at not in self._standing:
            node = self.nodes[at]
            objects = {o.nhid: o for o in node.kernel.nexthops}
            standing: list[RouteBlock] = []
            moving: list[RouteBlock] = []
            for raw in node.kernel.routes.blocks:
                route = resolved(raw.template, objects)
                block = RouteBlock(route, raw.destinations)
                if route.type == "local" or not _programmed(node, route):
                    standing.append(block)
                elif node.babel is None or self.partial:
                    moving.append(block)
                elif route.table != TABLE_MAIN or route.protocol != PROTO_VIA6:
                    standing.append(block)
                else:
                    length = route.prefix.length
                    left = [d for d in block.destinations if Prefix(d, length) not in self.mesh.origins]
                    standing += [RouteBlock(route, left)] if left else []
            self._standing[at] = standing, moving
        return self._standing[at]

    # --- where nobody can tell -------------------------------------------------------------------------------------

    def _rerouted(self, at: int, block: RouteBlock, hit: Any) -> list[RouteBlock]:
        """A block of a routing program: what crosses the failure is unknown, the rest stays."""
        length = block.template.prefix.length
        classes = self.network.classes
        lost: list[Address] = []
        kept: list[Address] = []
        for to in block.destinations:
            prefix = Prefix(to, length)
            rows = classes.rows(number(to), last(prefix))
            (lost if len(rows) and bool(hit[rows, at].any()) else kept).append(to)
        made = [RouteBlock(block.template, kept)] if kept else []
        if lost:
            made.append(RouteBlock(replace(block.template, type=REROUTED, next_hops=(), nhid=0), lost))
        return made

    @cached_property
    def _walker(self) -> Walker:
        return Walker(self.network)

    @cached_property
    def _gids(self) -> Any:
        import numpy as np

        return self.network.gids(np.arange(len(self.network.classes.example)))

    def _hit(self, dead: Collection[Port], gone: Collection[int]) -> Any:
        """[row, node]: packets of the row from the node may cross what fails."""
        import numpy as np

        def crosses(at: int, way: Way) -> bool:
            if (at, way.ifindex) in dead:
                return True
            return not self.network.connected(way) and any(one.node in gone for one in self.network.edges(at, way))

        walker, gids = self._walker, self._gids
        both = zip(self.network.node_of, self.network.actions, strict=True)
        hit = np.array([any(crosses(at, way) for way in action.ways) for at, action in both])[gids]
        for _ in range(len(self.nodes)):
            new = hit.copy()
            for turn in range(walker.most):
                target = walker.target[gids, turn]
                new |= (target >= 0) & np.take_along_axis(hit, np.maximum(target, 0), axis=1)
            if np.array_equal(new, hit):
                break
            hit = new
        return hit


def _dynamic(node: Node) -> bool:
    """A routing program is at work on a node: it has put routes in, or speaks Babel and does not tell its state."""
    routes = (block.template for block in node.kernel.routes.blocks if len(block))
    return any(route.table == TABLE_MAIN and _programmed(node, route) for route in routes) or "babel" in node.unread


def _programmed(node: Node, route: Route) -> bool:
    """An IPv4 route that a routing program has chosen, not one that somebody declared, to via6 or to the kernel."""
    if route.family != AF_INET or route.protocol in BY_HAND:
        return False
    return route.protocol != PROTO_VIA6 or (route.protocol, route.metric) in slots(node)


def _without(block: RouteBlock, dead: set[int]) -> list[RouteBlock]:
    """Routes after the carrier of some links has gone (net/ipv4/fib_semantics.c, net/ipv4/nexthop.c). What a program
    put there that would choose anew, and nobody knows how, is REROUTED."""
    route = block.template
    if not any(hop.ifindex in dead for hop in route.next_hops) or route.type == "local":
        return [block]
    if route.protocol not in BY_HAND and route.protocol != PROTO_VIA6 and route.family == AF_INET:
        return [RouteBlock(replace(route, type=REROUTED, next_hops=(), nhid=0), block.destinations)]
    if route.nhid:
        left = tuple(hop for hop in route.next_hops if hop.ifindex not in dead)
        return [RouteBlock(replace(route, next_hops=left), block.destinations)] if left else []
    hops = tuple(replace(hop, flags=hop.flags | NH_LINKDOWN) if hop.ifindex in dead else hop for hop in route.next_hops)
    return [RouteBlock(replace(route, next_hops=hops), block.destinations)]
