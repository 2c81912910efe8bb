"""The words that the speaker and those who drive it share: what goes in, what comes out. Values only.

Addresses are 4 or 16 octets, times are seconds of one clock that does not go back, `_ms` are milliseconds and `_cs` are
centiseconds, the unit of Babel's interval fields.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from via6.prefix import Address, Prefix

PORT: Final = 6696
GROUP: Final = bytes.fromhex("ff020000000000000000000000010006")
NO_ADDRESS: Final = bytes(16)
INFINITY: Final = 0xFFFF
ROUTER_ID_OCTETS: Final = 8

HELLO_INTERVAL_MS: Final = 1000
"""The RFC proposes 4 s. With 1 s a silent neighbour is left after 2.5 s at the latest; the price is one packet of some
40 octets per second and link. It is announced, so peers follow."""
UPDATE_INTERVAL_MS: Final = 16_000
COST: Final = 96


@dataclass(frozen=True, slots=True)
class Key:
    """A key of RFC 8967. `algorithm` is hmac-sha256 or blake2s128."""

    name: str
    algorithm: str
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """What is configured for an interface. `accept_all`: sign with the keys, but take packets without a good MAC, too
    (for roll-out). `split_horizon` is right on links where every neighbour hears every other, as on a wire."""

    cost: int = COST
    hello_interval_ms: int = HELLO_INTERVAL_MS
    update_interval_ms: int = UPDATE_INTERVAL_MS
    split_horizon: bool = True
    keys: tuple[Key, ...] = ()
    accept_all: bool = False
    allowed: tuple[Prefix, ...] | None = None
    """Prefixes accepted from neighbours here (a host interface: the /32s of its hosts); None: whatever the speaker's
    policy takes."""


@dataclass(frozen=True, slots=True)
class BabelLink:
    """An interface on which Babel is spoken. `address` is our link-local address there, `ipv4` an IPv4 address of ours
    on it if there is one (then AE 1 is used: RFC 9229 section 2.1). Not `up`: no carrier, or no longer ours."""

    ifindex: int
    name: str
    address: Address
    mtu: int = 1500
    ipv4: Address | None = None
    settings: LinkSettings = LinkSettings()
    up: bool = True


@dataclass(frozen=True, slots=True)
class Arrival:
    """A datagram that came in. `destination` is GROUP or our address, `hop_limit` -1 if it is not known."""

    ifindex: int
    source: Address
    data: bytes
    destination: Address = GROUP
    port: int = PORT
    hop_limit: int = 1


@dataclass(frozen=True, slots=True)
class Datagram:
    """To be sent from port 6696 of the interface's link-local address with hop limit 1."""

    ifindex: int
    destination: Address
    data: bytes


class Hop(NamedTuple):
    """Where packets go: a next hop on a link."""

    ifindex: int
    address: Address


class Way(NamedTuple):
    """What the FIB shall hold for a prefix: the next hop, and a standing backup behind it, a feasible successor. Below
    both stands `unreachable` for as long as there is a Way at all: Way(None) is a prefix that was lost and is held
    (RFC 8966 section 2.8)."""

    primary: Hop | None
    backup: Hop | None = None


@dataclass(frozen=True, slots=True)
class RouteChange:
    """All these destinations (of one length, `size` 4 or 16 octets each) have this Way now (None: forget them) and had
    that one `before`."""

    size: int
    length: int
    way: Way | None
    destinations: list[Address]
    before: Way | None = None


@dataclass(frozen=True, slots=True)
class HopLeft:
    """Nothing may be sent to this next hop any more: whatever has it for primary goes by its backup at once, one
    message for each pair. The changes route by route follow."""

    hop: Hop


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth a line in the log: `kind` is a word for counters and rate limits (neighbour-up, neighbour-down,
    bad-packet, bad-mac, …), `text` the line."""

    kind: str
    text: str
    warning: bool = False


# --- what readers see ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NeighbourInfo:
    """`reach` is the history of expected multicast Hellos, newest first, as 1 and 0 (16 at most). Costs are 65535 if
    the link does not work that way. `authenticated`: keys are used and its MAC was good. `signed`: its packets carry a
    trailer, whether it is looked at or not."""

    ifindex: int
    interface: str
    address: Address
    reach: str
    rxcost: int
    txcost: int
    cost: int
    hello_interval_ms: int
    routes: int
    authenticated: bool
    signed: bool = False


@dataclass(frozen=True, slots=True)
class Rejected:
    """The packets of one source since the last good one: why the last of them was dropped (a word of the counters), how
    many there were, and how long ago the last one came."""

    address: Address
    reason: str
    packets: int
    age_s: float


@dataclass(frozen=True, slots=True)
class Rival:
    """A prefix of our own that a neighbour announces, with another router as its origin."""

    prefix: Prefix
    router_id: bytes
    neighbour: Address


@dataclass(frozen=True, slots=True)
class InterfaceInfo:
    """`address` is NO_ADDRESS if there is none to speak from. `packets_bad` counts datagrams that were dropped whole;
    `rejected` are those sources of which none is taken, `rivals` those of our own prefixes that come from another
    router, too."""

    ifindex: int
    interface: str
    address: Address
    up: bool
    cost: int
    hello_interval_ms: int
    keys: tuple[str, ...]
    neighbours: int
    packets_in: int
    packets_out: int
    packets_bad: int
    rejected: tuple[Rejected, ...] = ()
    rivals: tuple[Rival, ...] = ()


@dataclass(frozen=True, slots=True)
class RouteInfo:
    """One route of the route table (RFC 8966 section 3.2.6), or one of our own (`neighbour` None, metric as announced).
    `state` is selected, backup, feasible, unfeasible, retracted or own."""

    prefix: Prefix
    neighbour: Address | None
    ifindex: int
    next_hop: Address | None
    router_id: bytes
    seqno: int
    metric: int
    advertised: int
    state: str
    age_s: float


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """One entry of the source table: the feasibility distance is (seqno, metric)."""

    prefix: Prefix
    router_id: bytes
    seqno: int
    metric: int
    age_s: float
