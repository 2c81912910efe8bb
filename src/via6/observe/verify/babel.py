"""The routes that Babel would choose: shortest paths over the links that the nodes' Babel states name.

A node hears a neighbour over a link at a cost; what an origin announces with metric m is worth m plus the costs on the
way. Babel takes the smallest sum, and keeps what it has among equals. Where it has nothing of that, any of the equals
may be taken, and all are looked at. Filters of a daemon are in no snapshot: every node is taken to pass on all it has.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from via6.observe.node import Node
from via6.observe.verify.links import Port, Segments
from via6.prefix import AF_INET, Address, Prefix

INFINITY: Final = 0xFFFF


@dataclass(frozen=True, slots=True)
class Hearing:
    """`at` hears `neighbour` (its interface) over its own interface, at a cost; `via` is the next hop that makes."""

    at: Port
    neighbour: Port
    via: Address
    cost: int

    @property
    def pair(self) -> frozenset[Port]:
        """The link, whatever the direction."""
        return frozenset((self.at, self.neighbour))


class Mesh:
    """Who hears whom, and who announces what."""

    def __init__(self, nodes: Sequence[Node], links: Segments | None = None) -> None:
        self.nodes = nodes
        links = links or Segments(nodes)
        self.hearings: list[Hearing] = []
        self.origins: dict[Prefix, dict[int, int]] = {}
        self.silent = [node.name for node in nodes if node.babel is None]
        self.lost: list[str] = []
        for at, node in enumerate(nodes):
            if node.babel is None:
                continue
            for one in node.babel.neighbours:
                if one.cost >= INFINITY:
                    continue
                edge = links.resolve((at, one.ifindex), one.address)
                if edge.node >= 0:
                    self.hearings.append(Hearing((at, one.ifindex), (edge.node, edge.ifindex), one.address, one.cost))
                else:
                    self.lost.append(f"{node.name}: {edge.why}")
            for prefix, metric in node.babel.exports:
                if prefix.family == AF_INET:
                    self.origins.setdefault(prefix, {})[at] = metric

    def pairs(self) -> list[frozenset[Port]]:
        """The links on which at least one end hears the other, in a fixed order."""
        return sorted({one.pair for one in self.hearings}, key=sorted)

    def chosen(
        self, without: frozenset[frozenset[Port]] = frozenset(), nodes_down: frozenset[int] = frozenset()
    ) -> dict[Prefix, dict[int, list[Hearing]]]:
        """Per prefix and node the next hops that Babel would take; a node that is no key has none."""
        left = [
            h for h in self.hearings
            if h.pair not in without and h.at[0] not in nodes_down and h.neighbour[0] not in nodes_down
        ]  # fmt: skip
        from_: dict[int, list[Hearing]] = {}
        to: dict[int, list[Hearing]] = {}
        for hearing in left:
            from_.setdefault(hearing.at[0], []).append(hearing)
            to.setdefault(hearing.neighbour[0], []).append(hearing)
        held = [self._held(at) for at in range(len(self.nodes))]
        trees: dict[tuple[tuple[int, int], ...], dict[int, int]] = {}
        found: dict[Prefix, dict[int, list[Hearing]]] = {}
        for prefix, origins in self.origins.items():
            start = tuple(sorted((at, m) for at, m in origins.items() if at not in nodes_down))
            distance = trees.setdefault(start, _distances(start, to)) if start not in trees else trees[start]
            found[prefix] = {
                at: _best(distance, heard, held[at].get(prefix))
                for at, heard in from_.items()
                if at not in origins and distance.get(at, INFINITY) < INFINITY
            }
        return found

    def _held(self, at: int) -> dict[Prefix, tuple[Address, int]]:
        """The next hops that a node has selected now."""
        state = self.nodes[at].babel
        routes = state.routes if state is not None else ()
        return {route.prefix: (route.neighbour, route.ifindex) for route in routes if route.selected}


def _distances(start: Iterable[tuple[int, int]], to: Mapping[int, list[Hearing]]) -> dict[int, int]:
    """Dijkstra from the origins against the direction in which packets go."""
    queue = [(metric, at) for at, metric in start]
    heapq.heapify(queue)
    found: dict[int, int] = {}
    while queue:
        metric, at = heapq.heappop(queue)
        if at in found:
            continue
        found[at] = metric
        for hearing in to.get(at, ()):
            further = metric + hearing.cost
            if hearing.at[0] not in found and further < INFINITY:
                heapq.heappush(queue, (further, hearing.at[0]))
    return found


def _best(distance: Mapping[int, int], heard: Iterable[Hearing], now: tuple[Address, int] | None) -> list[Hearing]:
    least: list[Hearing] = []
    metric = INFINITY
    for hearing in heard:
        worth = distance.get(hearing.neighbour[0], INFINITY) + hearing.cost
        if worth < metric:
            least, metric = [], worth
        if worth == metric and worth < INFINITY:
            least.append(hearing)
    kept = [h for h in least if now == (h.via, h.at[1])]
    return kept or least
