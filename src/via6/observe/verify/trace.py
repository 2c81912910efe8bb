"""One packet's way on paper, with all of its branches: the witness of what `fates` says of whole classes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from via6.observe.verify import words
from via6.observe.verify.links import Edge, Port
from via6.observe.verify.network import Network
from via6.observe.verify.source import Sources
from via6.observe.verify.table import BROADCAST, LOCAL, UNKNOWN, Action, Way
from via6.prefix import Address, format_address


@dataclass(frozen=True, slots=True)
class Step:
    """A node on the way: in by `into` ("" at the start), out by `out` to `via` ("" where it ends; `via` is empty if the
    destination is on the link)."""

    node: str
    into: str = ""
    out: str = ""
    via: str = ""


@dataclass(frozen=True, slots=True)
class Trail:
    """One branch. `node` is where the fate is decided: the node that drops, or that could not send."""

    steps: tuple[Step, ...]
    code: int
    node: str
    why: str = ""

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names on the way."""
        return tuple(step.node for step in self.steps)


class Tracer:
    """Follows packets through a network. `source` None: nobody asks whether it is believed."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.sources = Sources(network)

    def trails(self, destination: Address, node: int, into: int = 0, source: Address | None = None) -> list[Trail]:
        """All ways of a packet that `node` sends itself, or that comes in there by the interface `into`. Branches that
        meet again are followed once."""
        walk = _Walk(self, destination, source)
        walk.enter((), (node, into), None)
        return walk.found

    def codes(self, destination: Address, node: int, into: int = 0, source: Address | None = None) -> int:
        """The set of fates, as bits."""
        fates = 0
        for trail in self.trails(destination, node, into, source):
            fates |= 1 << trail.code
        return fates


class _Walk:
    def __init__(self, tracer: Tracer, destination: Address, source: Address | None) -> None:
        self.network = tracer.network
        self.sources = tracer.sources
        self.destination = destination
        self.source = source
        self.found: list[Trail] = []
        self._seen: dict[Port, bool] = {}  # True while it is on the branch that is being followed

    def enter(self, before: tuple[Step, ...], port: Port, sender: Port | None) -> None:
        """A packet comes to a node; ifindex 0: it begins there."""
        at, ifindex = port
        node = self.network.nodes[at]
        step = Step(node.name, node.kernel.dev(ifindex) if ifindex else "")
        steps = (*before, step)
        if port in self._seen:
            if self._seen[port]:
                self.end(steps, words.LOOP, node.name, f"back at {node.name}")
            return
        action = self.network.lookups[at].action(self.destination)
        if ifindex:
            code, why = self._comes_in(port, sender, action)
            if code:
                self.end(steps, code, node.name, why)
                return
        self._seen[port] = True
        stop = self.network.stop(action)
        if stop:
            self.end(steps, stop, node.name, action.why)
        for way in action.ways:
            self._leave(steps, port, way)
        self._seen[port] = False

    def _comes_in(self, port: Port, sender: Port | None, action: Action) -> tuple[int, str]:
        """(code, why) if the node does not take what comes in by an interface, in the kernel's order."""
        if action.kind in (LOCAL, BROADCAST):
            code, why = self.network.links.takes(port)
            return (code, why) if code else self._refused(port, sender)
        code, why = self.network.links.block(port)
        if code == words.FORWARDING_OFF:
            return code, why
        if self.network.stop(action):
            return 0, ""  # which is what becomes of it
        refused = self._refused(port, sender)
        if refused[0] or code:
            return refused if refused[0] else (code, why)
        return self.network.wall(port, action, self.source)

    def _refused(self, port: Port, sender: Port | None) -> tuple[int, str]:
        return (0, "") if self.source is None else self.sources.refuses(port, sender, self.source)

    def _leave(self, steps: tuple[Step, ...], port: Port, way: Way) -> None:
        node = self.network.nodes[port[0]]
        out = node.kernel.dev(way.ifindex)
        via = format_address(way.via) if way.via is not None else ""
        steps = (*steps[:-1], replace(steps[-1], out=out, via=via))
        for edge in self._edges(port[0], way):
            if edge.code:
                self.end(steps, edge.code, node.name, edge.why)
            else:
                self.enter(steps, (edge.node, edge.ifindex), (port[0], way.ifindex))

    def _edges(self, at: int, way: Way) -> list[Edge]:
        edges = self.network.edges(at, way)
        if not self.network.on_link(at, way):
            return list(edges)
        where = f"{format_address(self.destination)} on {self.network.links.name((at, way.ifindex))}"
        lookups = self.network.lookups
        kind = [(edge, lookups[edge.node].action(self.destination).kind) for edge in edges]
        having = [edge for edge, what in kind if what == LOCAL and not edge.code]
        if len({edge.node for edge in having}) > 1:
            some = ", ".join(sorted({self.network.nodes[edge.node].name for edge in having}))
            return [Edge(code=words.UNKNOWN, why=f"{where} may be any of {some}")]
        having += [edge for edge, what in kind if what == UNKNOWN and not edge.code]
        having += [edge for edge, what in kind if what == LOCAL and edge.code]
        if having:
            return having[:1]
        for other in sorted(self.network.links.perhaps((at, way.ifindex))):
            if lookups[other].action(self.destination).kind == LOCAL:
                why = f"whether {self.network.nodes[other].name}, which has {where}, is on that link"
                return [Edge(code=words.UNKNOWN, why=why)]
        return [Edge(code=words.DELIVERED_TO_SUBNET, why=f"no snapshot has {where}")]

    def end(self, steps: tuple[Step, ...], code: int, node: str, why: str) -> None:
        """Notes a branch that is whole."""
        self.found.append(Trail(steps, code, node, why))
