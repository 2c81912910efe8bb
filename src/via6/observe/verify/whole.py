"""Failures of a network in which nothing stands in the way of Babel: it finds a way wherever there is one.

Then no routes need be computed: it is enough to see what a failure cuts off. This holds if all of these do:

- all routers tell their Babel state, hear each other both ways, take and pass on whatever is announced;
- the kernels route by the usual rules, to what is announced by Babel's routes alone, besides what is connected, and no
  announced prefix lies within another (whose routes packets would follow when the longer one has gone);
- every router forwards on all its links, no packet filter drops, no reverse path filter looks at anything;
- before the failure nothing is wrong;
- what fails has no IPv4 address (else islands and exports go with it), and hosts hang on one router each;
- ways stay shorter than Babel's infinity.

Where one of them does not, `Whole` says so, and the routes after each failure are computed one by one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Final

from via6.model import PROTO_KERNEL, TABLE_LOCAL, TABLE_MAIN, Route
from via6.observe.node import OPENBSD
from via6.observe.verify import words
from via6.observe.verify.after import Aftermath
from via6.observe.verify.babel import INFINITY, slots
from via6.observe.verify.links import Port
from via6.observe.verify.problems import Problem
from via6.observe.verify.survey import Survey, somewhere
from via6.observe.verify.table import usual_rules
from via6.observe.verify.trace import Step
from via6.prefix import AF_INET, Prefix, mask

_ATTACHED: Final = frozenset({"local", "broadcast", "multicast"})
Neighbours = Mapping[int, list[tuple[int, frozenset[Port]]]]


class Whole:
    """What failures cut off. `healthy`: nothing is wrong before."""

    def __init__(self, after: Aftermath, survey: Survey, pairs: Collection[frozenset[Port]], healthy: bool) -> None:
        self.after = after
        self.mesh = after.mesh
        self.survey = survey
        self.pairs = pairs
        self.healthy = healthy

    @cached_property
    def holds(self) -> bool:
        """All of the above but what a single failure decides."""
        return self.healthy and self._hears() and self._passes() and self._takes() and self._routes()

    def _hears(self) -> bool:
        mesh = self.mesh
        hears = {(h.at, h.neighbour) for h in mesh.hearings}
        known = set(mesh.pairs())
        return (
            not self.after.silent and not mesh.lost and all((b, a) in hears for a, b in hears)
            and all(pair in known for pair in self.pairs)
        )  # fmt: skip

    def _passes(self) -> bool:
        links = self.after.network.links
        if self.after.network.walls:
            return False
        ports = {hearing.neighbour for hearing in self.mesh.hearings}
        return all(
            not links.block(port)[0] and not links.takes(port)[0] and links.rp_filter(port) == 0 for port in ports
        )

    def _takes(self) -> bool:
        mesh, routers = self.mesh, frozenset(self.after.routers)
        for prefix, origins in mesh.origins.items():
            if mesh.mute or mesh.limited(prefix) or not mesh.refusing(prefix) <= origins.keys():
                return False
            if any(Prefix(mask(prefix.packed, length), length) in mesh.origins for length in range(prefix.length)):
                return False
        return all(prefix in mesh.origins or not nodes & routers for prefix, nodes in self.survey.known.items())

    def _routes(self) -> bool:
        return all(self._usual(at) for at in self.after.routers)

    def _usual(self, at: int) -> bool:
        """The kernel of a router routes IPv4 by what is connected and by Babel's routes."""
        node = self.after.nodes[at]
        if node.system == OPENBSD or not usual_rules(node.kernel.rules):
            return False
        ours = slots(node)
        for block in node.kernel.routes.blocks:
            route = block.template
            if route.family != AF_INET or not len(block) or _attached(route):
                continue
            length = route.prefix.length
            if route.table != TABLE_MAIN or (route.protocol, route.metric) not in ours:
                return False
            if any(Prefix(to, length) not in self.mesh.origins for to in block.destinations):
                return False
        return True

    # --- one failure -----------------------------------------------------------------------------------------------

    @cached_property
    def _neighbours(self) -> Neighbours:
        found: dict[int, list[tuple[int, frozenset[Port]]]] = {}
        for pair in self.pairs:
            one, other = sorted(pair)
            found.setdefault(one[0], []).append((other[0], pair))
            found.setdefault(other[0], []).append((one[0], pair))
        return found

    @cached_property
    def _dearest(self) -> tuple[int, int]:
        """(the largest cost of a link, the largest metric that an origin begins with)."""
        costs = (hearing.cost for hearing in self.mesh.hearings)
        metrics = (metric for origins in self.mesh.origins.values() for metric in origins.values())
        return max(costs, default=0), max(metrics, default=0)

    @cached_property
    def _crowded(self) -> set[Port]:
        """Interfaces with IPv4 addresses or several neighbours: what goes with them is more than one link."""
        links = self.after.network.links
        seen: set[Port] = set()
        crowded = {port for pair in self.pairs for port in pair if self._addressed(port) or len(links.on(port)) > 1}
        for pair in self.pairs:
            crowded |= pair & seen
            seen |= pair
        return crowded

    def _addressed(self, port: Port) -> bool:
        return any(len(a.address) == 4 for a in self.after.network.links.held.get(port, ()))

    def link(self, pair: frozenset[Port]) -> list[Problem] | None:
        """What the loss of a link cuts off; None if this is not the way to tell."""
        if not self.holds or pair & self._crowded:
            return None
        (one, _), (other, _) = sorted(pair)
        side, far = self._side(one, pair, -1)
        if other in side:
            return [] if self._near(far) else None
        across, further = self._side(other, pair, -1)
        if not (self._near(far) and self._near(further)):
            return None
        return self._cut_off([(one, side), (other, across)], -1)

    def node(self, at: int) -> list[Problem] | None:
        """What the loss of a router cuts off from each other."""
        if not self.holds or self._shared or any(port in self._crowded for port in self._ports(at)):
            return None
        parts: list[tuple[int, set[int]]] = []
        for beside, _ in self._neighbours.get(at, ()):
            if beside == at or any(beside in side for _, side in parts):
                continue
            side, far = self._side(beside, frozenset(), at)
            if not self._near(far):
                return None
            parts.append((beside, side))
        return self._cut_off(parts, at) if len(parts) > 1 else []

    def _ports(self, at: int) -> list[Port]:
        return [port for _, pair in self._neighbours.get(at, ()) for port in pair]

    @cached_property
    def _shared(self) -> bool:
        """Some host hangs on more than one router."""
        after = self.after
        for at, node in enumerate(after.nodes):
            if node.babel is None and not after.forwards(at):
                ports = [(at, link.ifindex) for link in node.kernel.links if not link.loopback]
                far = {one[0] for port in ports for one in after.network.links.attached(port)}
                if len(far & set(after.routers)) > 1:
                    return True
        return False

    def _side(self, start: int, cut: frozenset[Port], gone: int) -> tuple[set[int], int]:
        """The nodes that are still connected with one, and how many links away the furthest is."""
        found, edge, far = {start}, [start], -1
        while edge:
            far += 1
            after = []
            for at in edge:
                for other, pair in self._neighbours.get(at, ()):
                    if pair != cut and other != gone and other not in found:
                        found.add(other)
                        after.append(other)
            edge = after
        return found, far

    def _near(self, far: int) -> bool:
        """No way can come near Babel's infinity: any two nodes are at most twice as far from each other."""
        cost, metric = self._dearest
        return 2 * far * cost + metric < INFINITY

    def _cut_off(self, parts: list[tuple[int, set[int]]], gone: int) -> list[Problem]:
        """What is announced in other parts alone, for each part."""
        found = []
        for at, here in parts:
            name = self.after.nodes[at].name
            source = self.survey.own_address(at)
            for prefix, origins in self.mesh.origins.items():
                left = origins.keys() - {gone}
                if left and not left & here:
                    problem = Problem(
                        words.NAMES[words.NO_ROUTE], name, prefix, source, somewhere(prefix), (Step(name),),
                        "the failure cuts it off", sources=len(here),
                    )  # fmt: skip
                    found.append(problem)
        return found


def _attached(route: Route) -> bool:
    """A route that the kernel made for an address."""
    if route.type in _ATTACHED:
        return route.protocol == PROTO_KERNEL or route.table == TABLE_LOCAL
    return route.protocol == PROTO_KERNEL and route.type == "unicast" and all(h.via is None for h in route.next_hops)
