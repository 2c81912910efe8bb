"""The routes that Babel would choose: shortest paths over the links that the nodes' Babel states name.

A node hears a neighbour over a link at a cost; what an origin announces with metric m is worth m plus the costs on the
way. Babel takes the smallest sum. Among equals a node keeps what it has, if nothing has happened on that way; else any
of them may be taken, and all are looked at: a neighbour that must ask for a newer seqno is without a route for a
moment, and who left it then does not return for an equal one.

What a node takes is `policy.Import`: its rules, and never what is its own (RFC 8966 section 3.5 calls a filtered route
one of infinite metric, so it is not passed on either). What it announces as an origin it announces while it can reach
it without Babel. Where a snapshot does not tell the rules, the node is taken to have none.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from via6.model import IFA_F_DADFAILED, IFA_F_TENTATIVE, PROTO_VIA6, TABLE_MAIN, InterfaceAddress, Route
from via6.observe.node import BabelPolicy, Node
from via6.observe.verify.links import Port, Segments
from via6.policy import Import
from via6.prefix import AF_INET, Address, Prefix, mask

INFINITY: Final = 0xFFFF
DEFAULT: Final = Prefix(bytes(4), 0)
_NO_ANSWER: Final = IFA_F_TENTATIVE | IFA_F_DADFAILED
_NONE: Final[frozenset[int]] = frozenset()
_UNTOLD: Final = BabelPolicy()


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


Chosen = dict[Prefix, dict[int, list[Hearing]]]
"""Per prefix and node the next hops that Babel would take; a node that is no key has none."""


@dataclass(frozen=True, slots=True)
class _Bounds:
    """Where the routes to a prefix do not go: nodes that do not take it, interfaces on which it is not taken."""

    refusing: frozenset[int]
    ports: frozenset[Port]


class Mesh:
    """Who hears whom, who announces what, and who takes it."""

    def __init__(self, nodes: Sequence[Node], links: Segments | None = None) -> None:
        self.nodes = nodes
        links = links or Segments(nodes)
        self.hearings: list[Hearing] = []
        self.origins: dict[Prefix, dict[int, int]] = {}
        self.silent = [node.name for node in nodes if node.babel is None]
        self.untold = [node.name for node in nodes if node.babel is not None and node.babel.policy is None]
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
        self._policies = [(node.babel.policy if node.babel else None) or _UNTOLD for node in nodes]
        self.mute = frozenset(at for at, policy in enumerate(self._policies) if not policy.transit4)
        self._limits = {
            (at, ifindex): frozenset(only)
            for at, policy in enumerate(self._policies)
            for ifindex, only in policy.allowed
        }
        self._imports = [self._import(at, _NONE) for at in range(len(nodes))]
        self._held = [_selected(node) for node in nodes]
        self._refusing: dict[Prefix, frozenset[int]] = {}

    def pairs(self) -> list[frozenset[Port]]:
        """The links on which at least one end hears the other, in a fixed order."""
        return sorted({one.pair for one in self.hearings}, key=sorted)

    def policy(self, at: int) -> BabelPolicy:
        """What a node takes, as far as that is told."""
        return self._policies[at]

    def refusing(self, prefix: Prefix) -> frozenset[int]:
        """The nodes that do not take a prefix from neighbours, as they are now."""
        if prefix not in self._refusing:
            takes = enumerate(self._imports)
            self._refusing[prefix] = frozenset(at for at, one in takes if one and not one.accepts(prefix))
        return self._refusing[prefix]

    def limited(self, prefix: Prefix) -> frozenset[Port]:
        """The interfaces on which a prefix is not taken."""
        return frozenset(port for port, only in self._limits.items() if prefix not in only)

    def chosen(self, dead: Collection[Port] = (), gone: Collection[int] = ()) -> Chosen:
        """The next hops that Babel would take without some interfaces and some nodes."""
        cut, down = frozenset(dead), frozenset(gone)
        left = [
            h for h in self.hearings
            if h.at not in cut and h.neighbour not in cut and h.at[0] not in down and h.neighbour[0] not in down
        ]  # fmt: skip
        from_: dict[int, list[Hearing]] = {}
        to: dict[int, list[Hearing]] = {}
        for hearing in left:
            from_.setdefault(hearing.at[0], []).append(hearing)
            to.setdefault(hearing.neighbour[0], []).append(hearing)
        hurt = {at: frozenset(i for place, i in cut if place == at) for at, _ in cut}
        changed = {at: self._import(at, ports) for at, ports in hurt.items()}
        trees: dict[tuple[object, ...], dict[int, int]] = {}
        found: Chosen = {}
        for prefix, announced in self.origins.items():
            origins = {
                at: metric for at, metric in announced.items()
                if at not in down and (at not in hurt or announces(self.nodes[at], prefix, hurt[at]))
            }  # fmt: skip
            bounds = _Bounds(self._bounds(prefix, changed), self.limited(prefix) if self._limits else frozenset())
            key = tuple(sorted(origins.items())), bounds
            if key not in trees:
                trees[key] = _distances(origins, to, bounds, self.mute)
            distance = trees[key]
            found[prefix] = ways = {
                at: best
                for at, heard in from_.items()
                if at in distance and at not in origins
                if (best := self._best(distance, heard, origins, bounds))
            }
            self._keep(prefix, ways, origins)
        return found

    def _keep(self, prefix: Prefix, ways: dict[int, list[Hearing]], origins: Mapping[int, int]) -> None:
        """Leaves of equals what a node has selected now, where all nodes on that way keep theirs."""
        kept: dict[int, Hearing | None] = {}
        for start in ways:
            way, at = [], start
            while at in ways and at not in kept:
                now = self._held[at].get(prefix)
                kept[at] = next((h for h in ways[at] if now == (h.via, h.at[1])), None)
                way.append(at)
                at = one.neighbour[0] if (one := kept[at]) is not None else -1
            if at not in origins and kept.get(at) is None:
                kept.update(dict.fromkeys(way))
        for at, hearing in kept.items():
            if hearing is not None:
                ways[at] = [hearing]

    def _bounds(self, prefix: Prefix, changed: Mapping[int, Import | None]) -> frozenset[int]:
        refusing = self.refusing(prefix)
        if changed:
            no = {at for at, one in changed.items() if one is not None and not one.accepts(prefix)}
            refusing = frozenset((refusing - changed.keys()) | no)
        return refusing

    def _import(self, at: int, dead: frozenset[int]) -> Import | None:
        """What a node takes when some of its interfaces have no carrier; None for one without Babel."""
        node, policy = self.nodes[at], self._policies[at]
        if node.babel is None:
            return None
        own = {Prefix(a.address, 32) for a in node.kernel.addresses if len(a.address) == 4}
        own |= {one for a in node.kernel.addresses if len(a.address) == 4 for one in connected(node, a, dead)}
        second = frozenset({4} if any(_alive(node, route, dead) for route in _foreign(node, DEFAULT)) else ())
        return Import(policy.families, policy.imports, frozenset(own), second)

    def _best(
        self, distance: Mapping[int, int], heard: Iterable[Hearing], origins: Mapping[int, int], bounds: _Bounds
    ) -> list[Hearing]:
        least: list[Hearing] = []
        metric = INFINITY
        for hearing in heard:
            far = hearing.neighbour[0]
            if hearing.at in bounds.ports or (far in self.mute and far not in origins):
                continue
            worth = distance.get(far, INFINITY) + hearing.cost
            if worth < metric:
                least, metric = [], worth
            if worth == metric and worth < INFINITY:
                least.append(hearing)
        return least


def _selected(node: Node) -> dict[Prefix, tuple[Address, int]]:
    """The next hops that a node has selected now."""
    routes = node.babel.routes if node.babel is not None else ()
    return {route.prefix: (route.neighbour, route.ifindex) for route in routes if route.selected}


def _distances(
    origins: Mapping[int, int], to: Mapping[int, list[Hearing]], bounds: _Bounds, mute: frozenset[int]
) -> dict[int, int]:
    """Dijkstra from the origins against the direction in which packets go. An origin says its own metric, whatever it
    hears."""
    queue = [(metric, at) for at, metric in origins.items()]
    heapq.heapify(queue)
    found: dict[int, int] = {}
    while queue:
        metric, at = heapq.heappop(queue)
        if at in found:
            continue
        found[at] = metric
        if at in mute and at not in origins:
            continue
        for hearing in to.get(at, ()):
            far, further = hearing.at[0], metric + hearing.cost
            if far in found or far in origins or far in bounds.refusing or hearing.at in bounds.ports:
                continue
            if further < INFINITY:
                heapq.heappush(queue, (further, far))
    return found


# --- what a node has without Babel ---------------------------------------------------------------------------------


def connected(node: Node, own: InterfaceAddress, dead: Collection[int] = ()) -> tuple[Prefix, ...]:
    """The prefixes that an address of a node stands for (`policy.connected`), if its link works."""
    link = node.kernel.by_index.get(own.ifindex)
    if link is None or not link.carrier or own.ifindex in dead or own.flags & _NO_ANSWER:
        return ()
    itself = Prefix(own.address, len(own.address) * 8)
    if link.loopback:
        return (itself,)
    if own.peer is not None and own.peer != own.address:
        return itself, Prefix(mask(own.peer, own.length), own.length)
    return (Prefix(mask(own.address, own.length), own.length),)


def _foreign(node: Node, prefix: Prefix) -> list[Route]:
    """The routes of the main table to a prefix that are not via6's."""
    return [
        block.template
        for block in node.kernel.routes.blocks
        if block.template.family == prefix.family and block.template.table == TABLE_MAIN
        and block.template.prefix.length == prefix.length and block.template.protocol != PROTO_VIA6
        and prefix.packed in block.destinations
    ]  # fmt: skip


def _alive(node: Node, route: Route, dead: Collection[int]) -> bool:
    """A route leads out by a link with carrier."""
    out = [node.kernel.by_index.get(hop.ifindex) for hop in route.next_hops if hop.ifindex not in dead]
    return route.type == "unicast" and any(link is not None and link.carrier and not link.loopback for link in out)


def announces(node: Node, prefix: Prefix, dead: Collection[int]) -> bool:
    """A node goes on announcing a prefix as its origin without some interfaces: something else than these is left of
    what it reaches it by. What that is the snapshot need not tell; then it goes on."""
    ours = slots(node)
    hurt = False
    for own in node.kernel.addresses:
        if any(one.covers(prefix) for one in connected(node, own)):
            if own.ifindex not in dead:
                return True
            hurt = True
    for block in node.kernel.routes.blocks:
        route = block.template
        if route.family != AF_INET or route.table != TABLE_MAIN or (route.protocol, route.metric) in ours:
            continue
        if route.prefix.length > prefix.length or (not route.prefix.length and prefix.length):
            continue
        if mask(prefix.packed, route.prefix.length) not in block.destinations:
            continue
        if _alive(node, route, dead) or route.type in ("blackhole", "unreachable", "prohibit"):
            return True
        hurt = True
    return not hurt


def slots(node: Node) -> frozenset[tuple[int, int]]:
    """(protocol, metric) of the routes that Babel puts into the kernel of a node."""
    policy = node.babel.policy if node.babel is not None else None
    first = (policy or _UNTOLD).kernel_metric
    return frozenset((PROTO_VIA6, first + turn) for turn in range(3))
