"""Does a packet of the network come in at an interface that its answer would not leave by? Where other nodes are known
that is followed from node to node, else nobody can say."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from via6.model import Link
from via6.observe.doctor.finding import Case
from via6.observe.doctor.look import has_read, own4
from via6.observe.verify.table import FORWARD
from via6.prefix import Address, format_address

_PAIRS: Final = 4096  # of source and destination, that are followed at most
_HOPS: Final = 64


def comes_in(case: Case, link: Link) -> str:
    """`packets from 10.1.0.1 (r1) to 10.3.0.1 come in there, and …`, or empty."""
    nodes = case.company.nodes
    if not case.others or not all(has_read(node, "routes4", "rules", "addresses", "links") for node in nodes):
        return ""
    segments, table = case.company.segments, case.company.table
    for at, source, destination in islice(_pairs(case), _PAIRS):
        back = table(case.at).action(source)
        if back.kind != FORWARD or link.ifindex in back.devices:
            continue
        for _ in range(_HOPS):
            action = table(at).action(destination)
            if action.kind != FORWARD:
                break
            way = action.ways[0]
            edge = segments.resolve((at, way.ifindex), way.via or destination)
            if edge.node == case.at and edge.ifindex == link.ifindex:
                out = ", ".join(sorted(case.node.kernel.dev(index) for index in back.devices))
                flow = f"{format_address(source)} to {format_address(destination)}"
                return f"packets from {flow} come in by {link.name}, and their answers leave by {out}"
            if edge.node < 0:
                break
            at = edge.node
    return ""


def one_direction(case: Case) -> tuple[str, str] | None:
    """(a flow, its way) that passes this node, while its answers do not; None if there is none, or nobody can say."""
    nodes = case.company.nodes
    if not case.others or not all(has_read(node, "routes4", "rules", "addresses", "links") for node in nodes):
        return None
    segments, table = case.company.segments, case.company.table
    place = {address: at for at, node in enumerate(nodes) for address in own4(node)}

    def passed(at: int, destination: Address) -> list[int]:
        """The nodes on the way, to its end; empty if it does not get there, or by several ways."""
        way = [at]
        for _ in range(_HOPS):
            action = table(at).action(destination)
            if action.kind != FORWARD:
                return way if place.get(destination) == at else []
            if len(action.ways) != 1:
                return []
            edge = segments.resolve((at, action.ways[0].ifindex), action.ways[0].via or destination)
            if edge.node < 0:
                return []
            at = edge.node
            way.append(at)
        return []

    for at, source, destination in islice(_pairs(case), _PAIRS):
        far = place[destination]
        if case.at not in (at, far):
            there, back = passed(at, destination), passed(far, source)
            if there and back and case.at in there and case.at not in back:
                flow = (
                    f"{format_address(source)} ({nodes[at].name}) to {format_address(destination)} ({nodes[far].name})"
                )
                ways = (" > ".join(nodes[one].name for one in way) for way in (there, back))
                return flow, "{}, and back {}".format(*ways)
    return None


def _pairs(case: Case) -> Iterator[tuple[int, Address, Address]]:
    """(place of the first node, an address of it, an address of another node)."""
    held = [sorted(own4(node)) for node in case.company.nodes]
    for at, sources in enumerate(held):
        for source in sources if at != case.at else ():
            for far, destinations in enumerate(held):
                yield from ((at, source, destination) for destination in destinations if far != at)
