"""The other end of a link, as far as other nodes are known: its name, its interface, what its Babel says."""

from __future__ import annotations

from collections.abc import Iterator

from via6.observe.doctor.finding import Case
from via6.observe.node import BabelInterface
from via6.observe.verify.links import Port, Segments
from via6.prefix import Address, format_address


class Peers:
    """Neighbours of the node of a case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.at = case.at
        self.nodes = case.company.nodes

    @property
    def segments(self) -> Segments:
        """Made only when there are other nodes."""
        return self.case.company.segments

    def far(self, ifindex: int, address: Address) -> Port | None:
        """The interface that has an address on a link of this node, if exactly one can be meant."""
        if not self.case.others:
            return None
        edge = self.segments.resolve((self.at, ifindex), address)
        return (edge.node, edge.ifindex) if edge.node not in (-1, self.at) else None

    def who(self, ifindex: int, address: Address) -> str:
        """`r2 (fe80::2)`, or the address alone."""
        port = self.far(ifindex, address)
        text = format_address(address)
        return f"{self.nodes[port[0]].name} ({text})" if port is not None else text

    def places(self, ifindex: int, address: Address) -> tuple[tuple[str, str], ...]:
        """Both ends, for what can be the cause of a finding about a link."""
        here = self.case.node.name, self.case.node.kernel.dev(ifindex)
        port = self.far(ifindex, address)
        if port is None:
            return (here,)
        node = self.nodes[port[0]]
        return here, (node.name, node.kernel.dev(port[1]))

    def uses_via6(self, ifindex: int, address: Address) -> bool | None:
        """Whether the far end runs via6; None: not known."""
        port = self.far(ifindex, address)
        return None if port is None else self.nodes[port[0]].babel is not None

    def speakers(self, ifindex: int) -> Iterator[tuple[Address, str, BabelInterface]]:
        """The interfaces of other nodes on a link that Babel is spoken on: their address, their node, what it says."""
        if not self.case.others:
            return
        for at, far in self.segments.on((self.at, ifindex)):
            state = self.nodes[at].babel
            for one in (state.interfaces or ()) if state is not None else ():
                if one.ifindex == far and one.up and at != self.at:
                    yield one.address, self.nodes[at].name, one

    def hears(self, there: BabelInterface, address: Address) -> bool:
        """The node that this interface is of has a neighbour of that address on it."""
        for node in self.case.others:
            state = node.babel
            if state is not None and any(one is there for one in state.interfaces or ()):
                return any(n.ifindex == there.ifindex and n.address == address for n in state.neighbours)
        return False
