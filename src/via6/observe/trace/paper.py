"""A trace on snapshots: one packet followed through the tables of all nodes, there and back. No packet is sent.

`observe.verify` follows packets with all of their branches; here one of them is shown. Where equal-cost ways end
differently it is one that ends worst, and the others are told. Which one the kernel's hash takes no snapshot says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from via6.model import TABLE_LOCAL, TABLE_MAIN, Route, RouteBlock, RouteTable
from via6.observe import show
from via6.observe.names import Names
from via6.observe.node import Node
from via6.observe.trace.back import differing
from via6.observe.trace.merge import no_address
from via6.observe.trace.model import TABLE, Flow, Hop, Trace
from via6.observe.verify import words
from via6.observe.verify.network import Network
from via6.observe.verify.trace import Step, Tracer, Trail
from via6.prefix import AF_INET, Address, Prefix, mask, parse_address

_DISPOSITIONS: Final[Mapping[int, str]] = {
    words.FORWARDING_OFF: "NULL_ROUTED",
    words.DENIED_FIREWALL: "NULL_ROUTED",
    words.DENIED_RP_FILTER: "NULL_ROUTED",
    words.DENIED_ALLOWED_IPS: "NEIGHBOR_UNREACHABLE",
}
"""Of the words of verify those that a trace says in another way; the hop says why."""
_WORST_LAST: Final = (
    words.ACCEPTED, words.DELIVERED_TO_SUBNET, words.EXITS_NETWORK, words.UNKNOWN, words.NO_ROUTE, words.NULL_ROUTED,
    words.FORWARDING_OFF, words.DENIED_FIREWALL, words.DENIED_RP_FILTER, words.DENIED_ALLOWED_IPS,
    words.NEIGHBOR_UNREACHABLE, words.LOOP,
)  # fmt: skip
_MOST_TOLD: Final = 4
_RTN_ORDER: Final = {TABLE_LOCAL: 0, TABLE_MAIN: 1}


@dataclass(frozen=True, slots=True)
class Begin:
    """Where a packet begins: at a node (its place), as its own, or coming in by an interface from a host on its link;
    `source` None: the node has no address that could be one."""

    node: int
    ifindex: int = 0
    source: Address | None = None


def begin(nodes: Sequence[Node], where: str, destination: Address) -> Begin | None:
    """The beginning that a node's name or an IPv4 address names; None if nobody has it."""
    for at, node in enumerate(nodes):
        if node.name == where:
            return Begin(at, 0, _source(node, destination))
    try:
        address = parse_address(where)
    except ValueError:
        return None
    return owner(nodes, address) if len(address) == 4 else None


def owner(nodes: Sequence[Node], address: Address) -> Begin | None:
    """The node that has an address, else one that has it on a link."""
    best: tuple[int, Begin] | None = None
    for at, node in enumerate(nodes):
        for held in node.kernel.addresses:
            if held.address == address:
                return Begin(at, 0, address)
            inside = len(held.address) == 4 and address in Prefix(mask(held.address, held.length), held.length)
            if inside and (best is None or held.length > best[0]):
                best = held.length, Begin(at, held.ifindex, address)
    return best[1] if best else None


def trace(nodes: Sequence[Node], start: Begin, flow: Flow, names: Names | None = None) -> Trace:
    """The way of a flow from there, and the way back. The flow's source is the beginning's."""
    flow = replace(flow, source=start.source)
    wanted = [address for address in (flow.destination, flow.source) if address]
    network = Network([_narrowed(node, wanted) for node in nodes])
    paper = _Paper(network, names or Names())
    made, trail = paper.way(flow, start.node, start.ifindex)
    if flow.source is None:
        node = network.nodes[start.node].name
        return replace(made, remarks=(*made.remarks, no_address(node)))
    end = _end(network, trail, flow.destination)
    if end is None:
        return made
    back, _ = paper.way(flow.back(), *end)
    there_nodes, back_nodes = list(dict.fromkeys(trail.nodes)), [hop.node for hop in back.hops]
    asymmetric = made.disposition in _ARRIVED and back.disposition in _ARRIVED and set(there_nodes) != set(back_nodes)
    remarks = list(made.remarks)
    if asymmetric:
        only_there = [name for name in there_nodes if name not in back_nodes]
        remarks.append(differing(only_there, [name for name in back_nodes if name not in there_nodes]))
    return replace(made, back=back, asymmetric=asymmetric, remarks=tuple(remarks))


_ARRIVED: Final = frozenset({"ACCEPTED", "DELIVERED_TO_SUBNET"})


def _end(network: Network, trail: Trail, destination: Address) -> tuple[int, int] | None:
    """Where an answer begins: the last node if it has the address, or its link if a host there has it. When the packet
    is lost on the way the way back is still looked at, from who would have the address."""
    last = trail.steps[-1]
    at = network.place[last.node]
    if trail.code == words.ACCEPTED:
        return at, 0
    if trail.code == words.DELIVERED_TO_SUBNET and last.out:
        return at, network.nodes[at].kernel.by_name[last.out].ifindex
    found = owner(network.nodes, destination)
    return (found.node, found.ifindex) if found else None


def _source(node: Node, destination: Address) -> Address | None:
    """The address that the node would send from (net/ipv4/devinet.c: inet_select_addr): what the route says, else one
    of the out-device, else any."""
    route = _route(node, destination, 0, None)
    if route is not None and route.src is not None:
        return route.src
    out = route.next_hops[0].ifindex if route is not None and route.next_hops else 0
    held = [a for a in node.kernel.addresses if len(a.address) == 4 and a.scope < 254]
    return next((a.address for a in held if a.ifindex == out), next((a.address for a in held), None))


def _narrowed(node: Node, wanted: Sequence[Address]) -> Node:
    """The node with those routes alone that may decide about these addresses: full tables need no second."""
    blocks = []
    for block in node.kernel.routes.blocks:
        template = block.template
        if template.family != AF_INET:
            continue
        keys = {mask(address, template.prefix.length) for address in wanted}
        kept = [address for address in block.destinations if address in keys] if len(keys) else []
        if kept:
            blocks.append(RouteBlock(template, kept))
    return replace(node, kernel=replace(node.kernel, routes=RouteTable(tuple(blocks))))


def _route(node: Node, destination: Address, ifindex: int, via: Address | None) -> Route | None:
    """The route that says so: the longest prefix with the smallest metric; with `ifindex` one over this next hop."""
    objects = {o.nhid: o for o in node.kernel.nexthops}
    found: list[tuple[int, int, int, Route]] = []
    for block in node.kernel.routes.blocks:
        length = block.template.prefix.length
        if block.template.family != AF_INET or block.template.type in ("broadcast", "multicast"):
            continue
        packed = mask(destination, length)
        if packed not in block.destinations:
            continue
        route = show.resolved(block.template.at(packed), objects)
        if ifindex and not any(h.ifindex == ifindex and h.via == via for h in route.next_hops):
            continue
        found.append((-length, _RTN_ORDER.get(route.table, 2), route.metric, route))
    return min(found, key=lambda one: one[:3])[3] if found else None


class _Paper:
    def __init__(self, network: Network, names: Names) -> None:
        self.network = network
        self.names = names
        self.tracer = Tracer(network)

    def way(self, flow: Flow, node: int, ifindex: int) -> tuple[Trace, Trail]:
        """One way of a flow, and the trail that it was made of."""
        trails = self.tracer.trails(flow.destination, node, ifindex, flow.source)
        chosen = max(trails, key=lambda trail: _WORST_LAST.index(trail.code))
        others = _others(trails, chosen)
        if chosen.code == words.LOOP:  # verify goes on to the same interface, here the same node is enough
            seen = [step.node for step in chosen.steps]
            again = next((n for n, node in enumerate(seen) if node in seen[:n]), len(seen) - 1)
            steps = (*chosen.steps[:again], replace(chosen.steps[again], out="", via=""))
            chosen = replace(chosen, steps=steps, node=seen[again], why=f"back at {seen[again]}")
        hops = [self._hop(step, flow.destination) for step in chosen.steps]
        disposition = _disposition(chosen.code)
        word = words.NAMES[chosen.code]
        why = ": ".join(part for part in (word if word != disposition else "", chosen.why) if part)
        at = max(n for n, step in enumerate(chosen.steps) if step.node == chosen.node or n == 0)
        hops[at] = replace(hops[at], ends=disposition, why=why)
        return Trace(flow, tuple(hops), disposition, remarks=tuple(others)), chosen

    def _hop(self, step: Step, destination: Address) -> Hop:
        node = self.network.nodes[self.network.place[step.node]]
        kernel = node.kernel
        via = parse_address(step.via) if step.via else None
        link = kernel.by_name.get(step.out) if step.out else None
        route = _route(node, destination, link.ifindex if link else 0, via)
        notes = []
        action = self.network.lookups[self.network.place[step.node]].action(destination)
        if len(action.ways) > 1:
            notes.append(f"one of {len(action.ways)} next hops, as the packet's hash chooses")
        return Hop(
            node=node.name, in_device=step.into, route=show.line(route, self.names, kernel.dev) if route else "",
            next_hop=via, out_device=step.out, mtu=link.mtu if link else 0, seen=frozenset({TABLE}), notes=tuple(notes),
        )  # fmt: skip


def _disposition(code: int) -> str:
    return _DISPOSITIONS.get(code, words.NAMES[code])


def _others(trails: Sequence[Trail], chosen: Trail) -> list[str]:
    """The other branches in words."""
    others = [trail for trail in trails if trail is not chosen]
    if not others:
        return []
    told = [f"{' '.join(trail.nodes)}: {words.NAMES[trail.code]}" for trail in others[:_MOST_TOLD]]
    if len(others) > _MOST_TOLD:
        told.append(f"and {len(others) - _MOST_TOLD} more")
    count = len(trails)
    worst = "one that ends worst" if len({trail.code for trail in trails}) > 1 else "one"
    return [f"there are {count} ways of equal cost, and this is {worst}; the others: {'; '.join(told)}"]
