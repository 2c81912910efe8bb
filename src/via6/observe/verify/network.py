"""Nodes as one machine: where each node sends the packets of each class.

`Network.gids` gives rows (`classes`) as arrays: for every node the number of its action. What an action means, its
edges, stands in tables beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Final

from via6.observe.node import Node
from via6.observe.verify import words
from via6.observe.verify.classes import classes_of
from via6.observe.verify.links import Edge, Port, Segments
from via6.observe.verify.table import (
    BROADCAST,
    FORWARD,
    LOCAL,
    NO_TUNNEL,
    NONE,
    NULL,
    Action,
    Lookup,
    Shapes,
    Way,
    lookup,
)
from via6.observe.verify.threads import at_once
from via6.observe.verify.wall import Wall
from via6.prefix import AF_INET, Address, Prefix, mask

_STOPS: Final = {
    NONE: words.NO_ROUTE, LOCAL: words.ACCEPTED, BROADCAST: words.DELIVERED_TO_SUBNET, NULL: words.NULL_ROUTED,
    FORWARD: 0,
}  # fmt: skip
CONNECTED: Final = -2  # a target that depends on who has the address


def _named(nodes: Iterable[Node]) -> Iterator[int]:
    """Ends of the networks of interfaces and of what Babel announces, whether there is a route or not."""
    for node in nodes:
        prefixes = [Prefix(mask(a.address, a.length), a.length) for a in node.kernel.addresses]
        prefixes += [prefix for prefix, _ in node.babel.exports] if node.babel is not None else []
        for prefix in prefixes:
            if prefix.family == AF_INET:
                first = int.from_bytes(prefix.packed, "big")
                yield from (first, first + (1 << (32 - prefix.length)))


class Network:
    """All nodes of a set of snapshots, their lookups and links. Immutable once made."""

    def __init__(self, nodes: Sequence[Node], cuts: Iterable[int] = ()) -> None:
        self.nodes = tuple(nodes)
        self.place = {node.name: at for at, node in enumerate(self.nodes)}
        self.links = Segments(self.nodes)
        shapes = Shapes()
        self.walls = {
            at: Wall.of(node.firewall, node.kernel.links)
            for at, node in enumerate(self.nodes)
            if node.firewall is not None and node.firewall.filter
        }
        self.lookups = list(at_once(lambda at: self._lookup(at, shapes), range(len(self.nodes))))
        self.classes = classes_of(self.lookups, {*cuts, *_named(self.nodes)})
        self.offsets = [0]
        for one in self.lookups:
            self.offsets.append(self.offsets[-1] + len(one.actions))
        self._edges: dict[tuple[int, Way], tuple[Edge, ...]] = {}

    def _lookup(self, at: int, shapes: Shapes) -> Lookup:
        wall = self.walls.get(at)
        cuts = (wall.parts.starts, wall.parts.part) if wall is not None else None
        return lookup(self.nodes[at], shapes, self.links.notable(at), cuts)

    def wall(self, port: Port, action: Action, source: Address | None = None) -> tuple[int, str]:
        """(code, why) if the packet filter of a node does not pass what comes in by an interface, for an action; for
        nodes in `walls`. (0, "") if it does, and for what is not sent on."""
        wall = self.walls.get(port[0])
        return wall.judge(action, port[1], source) if wall is not None and action.ways else (0, "")

    @cached_property
    def actions(self) -> list[Action]:
        """All actions of all nodes by their number in the network."""
        return [action for one in self.lookups for action in one.actions]

    @cached_property
    def node_of(self) -> list[int]:
        """Per action the place of its node."""
        return [at for at, one in enumerate(self.lookups) for _ in one.actions]

    def gids(self, rows: Any) -> Any:
        """[row, node] -> number of the action in the network."""
        import numpy as np

        examples = self.classes.example[rows]
        if not len(examples):
            return np.empty((0, len(self.nodes)), np.int32)
        rising = bool((examples[1:] >= examples[:-1]).all())
        order = slice(None) if rising else examples.argsort(kind="stable")
        asked = examples[order]
        by_node = np.empty((len(self.nodes), len(examples)), np.int32)
        for at, one in enumerate(self.lookups):
            by_node[at, order] = one.at_rising(asked) + np.int32(self.offsets[at])
        return np.ascontiguousarray(by_node.T)

    def edges(self, node: int, way: Way) -> tuple[Edge, ...]:
        """Where a way leads: one edge; for a connected way one per interface that may have the destination, also where
        nothing comes in any more (`code` and `node`), or one without a node if nothing can leave."""
        key = node, way
        if key not in self._edges:
            self._edges[key] = self._resolve(node, way)
        return self._edges[key]

    def _resolve(self, node: int, way: Way) -> tuple[Edge, ...]:
        port = node, way.ifindex
        if way.peer != NO_TUNNEL:
            return (self.links.peer_edge(port, way.peer),)
        if way.via is not None:
            return (self.links.resolve(port, way.via),)
        refused = self.links.leaves(port, None)
        if refused is not None:
            return (refused,)
        if way.entry is not None:
            told = self.links.by_entry(port, way.entry)
            if told is not None:
                return (told,)
        ends = ((one, self.links.hears(port, one)) for one in self.links.attached(port))
        return tuple(replace(edge, node=one[0], ifindex=one[1]) for one, edge in ends)

    @staticmethod
    def connected(way: Way) -> bool:
        """The destination itself is looked for on the link."""
        return way.via is None and way.peer == NO_TUNNEL

    def on_link(self, node: int, way: Way) -> bool:
        """The destination is looked for on the link, and can be."""
        edges = self.edges(node, way) if self.connected(way) else ()
        return self.connected(way) and not (edges and edges[0].node < 0)

    def stop(self, action: Action) -> int:
        """The fate that an action is by itself; 0 for one that sends on."""
        return _STOPS.get(action.kind, words.UNKNOWN)

    @cached_property
    def ports(self) -> dict[Port, int]:
        """A number for each interface of each node; 0 for none."""
        ports = [(at, link.ifindex) for at, node in enumerate(self.nodes) for link in node.kernel.links]
        return {port: number for number, port in enumerate(ports, 1)}
