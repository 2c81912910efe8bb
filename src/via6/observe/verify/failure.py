"""The network after a failure: a link without carrier, a node gone, and Babel's routes chosen anew.

What is no route of Babel's stays as Linux leaves it: a route with the dead link is marked `linkdown`, one that hangs on
a nexthop object of that link is gone. Problems that were there before the failure are not told again.

Of a network without anything in the way (no filter, no forwarding off, nothing but Babel's routes to the announced
prefixes) the failures of all single links need no new routes: Babel finds a way if there is one, so it is enough to
see what the failure cuts off.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from via6.errors import Refusal
from via6.model import (
    IFF_LOWER_UP,
    NH_LINKDOWN,
    PROTO_BOOT,
    PROTO_KERNEL,
    PROTO_STATIC,
    TABLE_MAIN,
    NextHop,
    Route,
    RouteBlock,
    RouteTable,
)
from via6.observe.node import Node
from via6.observe.verify import report, words
from via6.observe.verify.babel import Hearing, Mesh
from via6.observe.verify.check import Checker, Problem, among
from via6.observe.verify.expect import Expectations, check, wanted
from via6.observe.verify.links import Port
from via6.observe.verify.network import Network
from via6.observe.verify.survey import Survey
from via6.observe.verify.table import REROUTED
from via6.observe.verify.trace import Step
from via6.prefix import AF_INET, Prefix

_OTHERS: Final = frozenset({0, 1, PROTO_KERNEL, PROTO_BOOT, PROTO_STATIC})
"""Protocols of routes that no routing program put in."""
_SHOWN: Final = 10


@dataclass
class After:
    """What is wrong after one failure and was not before."""

    name: str
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """An element of `failures` in -j."""
        return {
            "failure": self.name,
            "problems": [report.problem_json(one) for one in self.problems],
            "notes": self.notes,
        }


def lines(found: Sequence[After]) -> list[str]:
    """To read."""
    out = []
    notes = dict.fromkeys(note for one in found for note in one.notes)
    out += [f"note: {note}" for note in notes]
    bad = [one for one in found if one.problems]
    for one in bad[:_SHOWN]:
        out.append(f"after {one.name} fails:")
        for problem in one.problems[:_SHOWN]:
            out += [f"  {line}" for line in report.problem_lines(problem)]
        if len(one.problems) > _SHOWN:
            out.append(f"  … and {len(one.problems) - _SHOWN} more")
    if len(bad) > _SHOWN:
        out.append(f"… and {len(bad) - _SHOWN} more failures: " + ", ".join(one.name for one in bad[_SHOWN:]))
    out.append(f"{len(found)} failures looked at, {len(bad)} of them break something")
    return out


def examine(nodes: Sequence[Node], wished: Sequence[tuple[str, str]], rules: Expectations | None) -> list[After]:
    """All failures that are wished for: (link, A-B), (node, A), (link, ""), (node, ""), (any-1, "")."""
    return _Failures(nodes, rules).all(wished)


class _Failures:
    def __init__(self, nodes: Sequence[Node], rules: Expectations | None) -> None:
        self.nodes = list(nodes)
        self.rules = rules
        self.network = Network(self.nodes)
        self.mesh = Mesh(self.nodes, self.network.links)
        self.place = self.network.place
        self.survey = Survey(self.network)
        self.before: set[tuple[str, str, Prefix, str]] | None = None
        self.notes = self._notes()

    def _notes(self) -> list[str]:
        routers = [at for at in range(len(self.nodes)) if self._forwards(at)]
        silent = [self.nodes[at].name for at in routers if self.nodes[at].babel is None]
        found = []
        if silent:
            some = ", ".join(silent[:8]) + (" …" if len(silent) > 8 else "")
            found.append(f"no Babel state of {some}: routes there stay as they are, nobody says what would be chosen")
        return found + [f"not known where a Babel neighbour is: {lost}" for lost in self.mesh.lost[:8]]

    def _forwards(self, at: int) -> bool:
        node = self.nodes[at]
        names = [link.name for link in node.kernel.links if not link.loopback]
        return any(node.sysctls.get(f"net/ipv4/conf/{name}/forwarding") for name in names)

    # --- which failures --------------------------------------------------------------------------------------------

    def all(self, wished: Sequence[tuple[str, str]]) -> list[After]:
        found: list[After] = []
        for kind, name in wished:
            if kind == "node" and name:
                found.append(self._node(self._named(name)))
            elif kind == "link" and name:
                found.append(self._link(name, self._between(name)))
            else:
                if kind in ("link", "any-1"):
                    found += self._every_link()
                if kind in ("node", "any-1"):
                    found += [self._node(at) for at in range(len(self.nodes)) if self._forwards(at)]
        return found

    def _named(self, name: str) -> int:
        if name not in self.place:
            raise Refusal(f"--fail: there is no node {name!r} in the snapshots", f"there is {', '.join(self.place)}")
        return self.place[name]

    def links(self) -> dict[str, frozenset[Port]]:
        """The links between routers by name: A-B, and A-B#2 for a second one."""
        found: dict[str, frozenset[Port]] = {}
        for pair in dict.fromkeys((*self.mesh.pairs(), *self._used())):
            one, other = sorted(pair)
            base = name = f"{self.nodes[one[0]].name}-{self.nodes[other[0]].name}"
            count = 1
            while name in found:
                count += 1
                name = f"{base}#{count}"
            found[name] = pair
        return found

    def _used(self) -> Iterator[frozenset[Port]]:
        """Links that next hops of routes cross, between nodes that forward."""
        for at in range(len(self.nodes)):
            for action in self.network.lookups[at].actions:
                for way in action.ways:
                    edges = self.network.edges(at, way)
                    if way.via is None or not self._forwards(at) or edges[0].node < 0:
                        continue
                    if self._forwards(edges[0].node):
                        yield frozenset(((at, way.ifindex), (edges[0].node, edges[0].ifindex)))

    def _between(self, name: str) -> list[frozenset[Port]]:
        """The links that A-B means: both orders; all parallel ones unless one is named A-B#2."""
        known = self.links()
        found = [pair for one, pair in known.items() if name in _spellings(one, pair, self.nodes)]
        if not found:
            near = ", ".join(list(known)[:12]) or "none"
            raise Refusal(f"--fail link {name}: there is no such link", f"links: {near}")
        return found

    # --- one failure -----------------------------------------------------------------------------------------------

    def _link(self, name: str, pairs: Sequence[frozenset[Port]]) -> After:
        cut = frozenset(pairs)
        chosen = self.mesh.chosen(without=cut)
        dead = {port for pair in pairs for port in pair}
        return self._look(f"link {name}", self._rebuilt(dead, frozenset(), chosen))

    def _node(self, at: int) -> After:
        gone = {at}
        for other in range(len(self.nodes)):
            # Hosts that hang on this node alone go with it: nobody expects to reach them then.
            if self.nodes[other].babel is None and not self._forwards(other):
                ports = [(other, link.ifindex) for link in self.nodes[other].kernel.links if not link.loopback]
                far = {one[0] for port in ports for one in self.network.links.attached(port) if self._forwards(one[0])}
                if far == {at}:
                    gone.add(other)
        chosen = self.mesh.chosen(nodes_down=frozenset(gone))
        dead = {h.at for h in self.mesh.hearings if h.neighbour[0] == at}
        dead |= {
            one
            for link in self.nodes[at].kernel.links
            for one in self.network.links.on((at, link.ifindex))
            if len(self.network.links.on(one)) == 1
        }
        found = self._look(f"node {self.nodes[at].name}", self._rebuilt(dead, frozenset(gone), chosen))
        # What was behind the node alone is gone with it, and nobody is to reach it.
        behind = [prefix for prefix, nodes in self.survey.known.items() if nodes <= gone]
        found.problems = [one for one in found.problems if not any(p.covers(one.prefix) for p in behind)]
        return found

    def _look(self, name: str, nodes: list[Node]) -> After:
        if self.before is None:
            self.before = {_key(problem) for problem in self._problems(self.nodes)}
        problems = [one for one in self._problems(nodes) if _key(one) not in self.before] if nodes else []
        return After(name, problems, self.notes)

    def _problems(self, nodes: Sequence[Node]) -> list[Problem]:
        names = {node.name for node in nodes}
        rules = self.rules
        if rules:
            kept = tuple(rule for rule in rules.rules if _sides(rule) & set(self.place) <= names)
            rules = replace(rules, rules=kept)
        checker = Checker(Network(nodes, among(rules.prefixes()) if rules else ()))
        found = checker.report(wanted(rules, checker.survey) if rules else None)
        if rules:
            check(rules, checker, found)
        return found.problems

    # --- the nodes afterwards --------------------------------------------------------------------------------------

    def _rebuilt(
        self, dead: set[Port], gone: frozenset[int], chosen: dict[Prefix, dict[int, list[Hearing]]]
    ) -> list[Node]:
        return [
            self._after(at, {i for place, i in dead if place == at}, chosen)
            for at in range(len(self.nodes))
            if at not in gone
        ]

    def _after(self, at: int, dead: set[int], chosen: dict[Prefix, dict[int, list[Hearing]]]) -> Node:
        node = self.nodes[at]
        kernel = node.kernel
        links = tuple(
            replace(link, flags=link.flags & ~IFF_LOWER_UP, operstate="DOWN") if link.ifindex in dead else link
            for link in kernel.links
        )
        blocks: list[RouteBlock] = []
        for block in kernel.routes.blocks:
            kept = self._kept(node, block, chosen)
            if kept is not None:
                template = _without(kept.template, dead, node.babel is None)
                if template is not None:
                    blocks.append(RouteBlock(template, kept.destinations))
        routes = [
            Route(prefix, tuple(NextHop(h.via, h.at[1]) for h in ways[at]), metric=460)
            for prefix, ways in chosen.items()
            if node.babel is not None and ways.get(at)
        ]
        table = RouteTable((*blocks, *RouteTable.of(routes).blocks))
        neighbours = tuple(n for n in kernel.neighbours if n.ifindex not in dead)
        return replace(node, kernel=replace(kernel, links=links, routes=table, neighbours=neighbours))

    def _kept(self, node: Node, block: RouteBlock, chosen: dict[Prefix, Any]) -> RouteBlock | None:
        """A block without the routes that Babel put there."""
        route = block.template
        if node.babel is None or route.family != AF_INET or route.table != TABLE_MAIN or route.protocol in _OTHERS:
            return block
        length = route.prefix.length
        left = [d for d in block.destinations if Prefix(d, length) not in chosen]
        return RouteBlock(route, left) if left else None

    # --- all links at once -----------------------------------------------------------------------------------------

    def _every_link(self) -> list[After]:
        links = self.links()
        if not self._plain():
            return [self._link(name, [pair]) for name, pair in links.items()]
        neighbours: dict[int, set[tuple[int, frozenset[Port]]]] = {}
        for pair in links.values():
            one, other = sorted(pair)
            neighbours.setdefault(one[0], set()).add((other[0], pair))
            neighbours.setdefault(other[0], set()).add((one[0], pair))
        return [After(f"link {name}", self._cut_off(pair, neighbours), self.notes) for name, pair in links.items()]

    def _plain(self) -> bool:
        """Nothing but Babel decides, and nothing stands in the way of any path that it may choose."""
        if self.rules or self.mesh.lost or self._problems(self.nodes):
            return False
        links = self.network.links
        for hearing in self.mesh.hearings:
            if links.block(hearing.neighbour)[0] or links.rp_filter(hearing.neighbour) != 0:
                return False
        hears = {(h.at, h.neighbour) for h in self.mesh.hearings}
        if any((b, a) not in hears for a, b in hears) or any(p not in self.mesh.pairs() for p in self._used()):
            return False
        routers = [at for at in range(len(self.nodes)) if self._forwards(at)]
        announced = self.mesh.origins
        return all(self.nodes[at].babel is not None for at in routers) and all(
            prefix in announced or not (nodes & set(routers)) for prefix, nodes in self.survey.known.items()
        )

    def _cut_off(self, pair: frozenset[Port], neighbours: dict[int, set[tuple[int, frozenset[Port]]]]) -> list[Problem]:
        """What the two sides of a failed link do not reach any more."""
        (one, _), (other, _) = sorted(pair)
        side = _side_of(one, pair, neighbours)
        if other in side:
            return []
        across = _side_of(other, pair, neighbours)
        found = []
        for here, there, at in ((side, across, one), (across, side, other)):
            for prefix, origins in self.mesh.origins.items():
                if origins.keys() <= there and origins and here:
                    name = self.nodes[at].name
                    problem = Problem(
                        words.NAMES[words.NO_ROUTE], name, prefix, None, prefix.packed, (Step(name),),
                        "the failure cuts it off", sources=len(here),
                    )  # fmt: skip
                    found.append(problem)
        return found


def _side_of(start: int, cut: frozenset[Port], neighbours: dict[int, set[tuple[int, frozenset[Port]]]]) -> set[int]:
    found, stack = {start}, [start]
    while stack:
        for other, pair in neighbours.get(stack.pop(), ()):
            if pair != cut and other not in found:
                found.add(other)
                stack.append(other)
    return found


def _spellings(name: str, pair: frozenset[Port], nodes: Sequence[Node]) -> Iterable[str]:
    """The ways to name a link."""
    one, other = (nodes[at].name for at, _ in sorted(pair))
    tail = "#" + name.partition("#")[2] if "#" in name else ""
    return {name, f"{one}-{other}", f"{other}-{one}", f"{other}-{one}{tail}"}


def _sides(rule: Any) -> set[str]:
    return {rule.a.text, rule.b.text, *rule.through}


def _key(problem: Problem) -> tuple[str, str, Prefix, str]:
    return problem.disposition, problem.node, problem.prefix, problem.kind


def _without(route: Route, dead: set[int], silent: bool) -> Route | None:
    """A route after the carrier of some links has gone (net/ipv4/fib_semantics.c, net/ipv4/nexthop.c). `silent`: the
    program that put it there would choose anew, and nobody knows how."""
    if not any(hop.ifindex in dead for hop in route.next_hops) or route.type == "local":
        return route
    if silent and route.protocol not in _OTHERS:
        return replace(route, type=REROUTED, next_hops=(), nhid=0)
    if route.nhid:
        left = tuple(hop for hop in route.next_hops if hop.ifindex not in dead)
        return replace(route, next_hops=left) if left else None
    hops = tuple(replace(hop, flags=hop.flags | NH_LINKDOWN) if hop.ifindex in dead else hop for hop in route.next_hops)
    return replace(route, next_hops=hops)
