"""What a trace is: a packet, the nodes it passes, and what becomes of it.

Three witnesses speak of a hop, and each says only what it knows: a `probe` (an ICMP error for a hop limit), the
`daemon` of the node (what its kernel would do with exactly this packet), and a `table` (this node's own, or a
snapshot's). A field that no witness has filled is empty, and is shown as unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from via6.prefix import Address

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17

PROBE: Final = "probe"
DAEMON: Final = "daemon"
TABLE: Final = "table"

DISPOSITIONS: Final = (
    "ACCEPTED",
    "DELIVERED_TO_SUBNET",
    "EXITS_NETWORK",
    "NEIGHBOR_UNREACHABLE",
    "NO_ROUTE",
    "NULL_ROUTED",
    "LOOP",
    "UNKNOWN",
)
"""How a trace ends. LOOP: a node came twice. UNKNOWN: the trail is lost, and nobody said that the packet is."""
GOOD: Final = frozenset({"ACCEPTED", "DELIVERED_TO_SUBNET", "EXITS_NETWORK"})


@dataclass(frozen=True, slots=True)
class Flow:
    """An IPv4 packet, as far as routers look at it. `source` None: the first node chooses. Ports are 0 for ICMP."""

    destination: Address
    source: Address | None = None
    proto: int = ICMP
    sport: int = 0
    dport: int = 0

    def back(self) -> Flow:
        """The answer to it. Only of a flow that has a source."""
        assert self.source is not None
        return Flow(self.source, self.destination, self.proto, self.dport, self.sport)


@dataclass(frozen=True, slots=True)
class Hop:
    """One node on the way. `route` is the chosen route as `ip route` writes it, `next_hop` its next hop (of either
    family; None where the destination is on the link), `icmp_source` the address that its ICMP error came from, `seen`
    the witnesses. `ends` is the disposition where the way ends at this node, with `why` in words."""

    node: str = ""
    in_device: str = ""
    route: str = ""
    next_hop: Address | None = None
    out_device: str = ""
    rtt_ms: float | None = None
    icmp_source: Address | None = None
    mtu: int = 0
    ends: str = ""
    why: str = ""
    seen: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trace:
    """The way of a flow. `asymmetric`: the way back passes other nodes, where both are known. `remarks` are sentences
    for the whole."""

    flow: Flow
    hops: tuple[Hop, ...] = ()
    disposition: str = "UNKNOWN"
    back: Trace | None = None
    asymmetric: bool = False
    remarks: tuple[str, ...] = ()
