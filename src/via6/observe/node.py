"""A node as a snapshot keeps it: what its kernel holds, and what else decides the fate of a packet there.

One immutable value, from whatever it was read: netlink of this machine, `ip -j` of another, an OpenBSD's `route`.
What could not be read is named in `unread`, never guessed; an observer that needs it answers UNKNOWN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from via6.config_babel import IPV4, KERNEL_METRIC, Rule
from via6.model import PARTS, Snapshot
from via6.observe.allowedips import Peer
from via6.prefix import Address, Prefix

if TYPE_CHECKING:
    from via6.observe.snapshot.firewall import Ruleset

LINUX: Final = "linux"
OPENBSD: Final = "openbsd"

ACCEPT: Final = "accept"
DROP: Final = "drop"
UNKNOWN: Final = "unknown"

NODE_PARTS: Final = PARTS | {"sysctls", "wireguard", "firewall", "babel"}
"""What can be unread, and has a time."""


@dataclass(frozen=True, slots=True)
class Shut:
    """Packets of a class (a key of `Firewall`; or `stray4`: forwarded, of connections that the node has not seen the
    beginning of) that the filter surely drops, with the rules or policies that do it:
    those that come in by the interface `into` and leave by `out` ("" stands for any)."""

    packets: str
    rules: tuple[str, ...] = ()
    into: str = ""
    out: str = ""


@dataclass(frozen=True, slots=True)
class Firewall:
    """What a packet filter does with packets, as far as that can be said without running it: `accept`, `drop` or
    `unknown` for all forwarded IPv4 (`forward4`), ICMP errors (`icmp4`), what comes from 192.0.0.8 (`dummy4`), UDP 6696
    to the node (`babel`), and all IPv4 to the node itself (`own4`). `evidence` are the rules or policies this was read
    from. `shut` is what is surely dropped: a whole class, or of one that is `unknown` the packets of single interfaces.
    Where `forward4` is unknown `filter` has the chains that forwarded IPv4 passes (snapshot/firewall.py), to be asked
    about one packet; if it is empty they are not told."""

    forward4: str = ACCEPT
    icmp4: str = ACCEPT
    dummy4: str = ACCEPT
    babel: str = ACCEPT
    evidence: tuple[str, ...] = ()
    shut: tuple[Shut, ...] = ()
    filter: tuple[Ruleset, ...] = ()
    own4: str = ACCEPT


@dataclass(frozen=True, slots=True)
class BabelRoute:
    """A route that a neighbour announces (as `via6 show route -j` prints it); `metric` with the link's cost."""

    prefix: Prefix
    neighbour: Address
    ifindex: int
    router_id: str
    metric: int
    advertised: int
    selected: bool
    feasible: bool


@dataclass(frozen=True, slots=True)
class BabelNeighbour:
    """A Babel neighbour; `cost` 65535: it cannot be used. `rxcost` and `txcost` are 65535 where we do not hear it and
    where it does not hear us (None: not told). `reach` are the Hellos that were due, the newest first, 1 for each that
    came. `signed`: its packets carry a MAC."""

    address: Address
    ifindex: int
    cost: int
    rxcost: int | None = None
    txcost: int | None = None
    reach: str = ""
    signed: bool = False


@dataclass(frozen=True, slots=True)
class BabelRejected:
    """A source of Babel packets of which none is taken: why, how many were dropped, and how long ago the last one."""

    address: Address
    reason: str
    packets: int = 0
    age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class BabelRival:
    """A prefix that the node announces as its origin, and that a neighbour announces from another one."""

    prefix: Prefix
    router_id: str
    neighbour: Address


@dataclass(frozen=True, slots=True)
class BabelInterface:
    """An interface that Babel is spoken on, from `address`. `keys` are names."""

    ifindex: int
    address: Address
    up: bool = True
    keys: tuple[str, ...] = ()
    packets_in: int = 0
    packets_out: int = 0
    rejected: tuple[BabelRejected, ...] = ()
    rivals: tuple[BabelRival, ...] = ()


@dataclass(frozen=True, slots=True)
class BabelPolicy:
    """What the daemon takes from its neighbours. `families` are sizes of addresses (4, 16); `imports` its rules (None:
    all but its own); `allowed` the only prefixes that are taken on an interface, by its number. `transit4`: IPv4 routes
    of others are announced. `kernel_metric` is that of its routes in the kernel, the backups have the next."""

    families: frozenset[int] = IPV4
    imports: tuple[Rule, ...] | None = None
    transit4: bool = True
    kernel_metric: int = KERNEL_METRIC
    allowed: tuple[tuple[int, tuple[Prefix, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class BabelState:
    """What the daemon of the node says: `exports` are the prefixes that it announces as their origin, with the metric
    to begin with. `interfaces` and `policy` None: not told."""

    router_id: str
    neighbours: tuple[BabelNeighbour, ...] = ()
    routes: tuple[BabelRoute, ...] = ()
    exports: tuple[tuple[Prefix, int], ...] = ()
    interfaces: tuple[BabelInterface, ...] | None = None
    policy: BabelPolicy | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """`sysctls` are numbers by name (`net/ipv4/conf/eth1/rp_filter`), those that matter to routing. `wireguard` has
    the peers of each device by its name. `unread` says why a part is missing: its name (a part of `model.PARTS`,
    `sysctls`, `wireguard`, `firewall`, `babel`) to a sentence. `times` are seconds since 1970 per part. `release` is
    that of the kernel (`6.1.0-40-amd64`). `unsteady` names parts that changed during each of several readings: the last
    one is here, and its pieces may be of different times."""

    name: str
    kernel: Snapshot
    sysctls: Mapping[str, int] = field(default_factory=dict)
    wireguard: Mapping[str, tuple[Peer, ...]] = field(default_factory=dict)
    firewall: Firewall | None = None
    babel: BabelState | None = None
    unread: Mapping[str, str] = field(default_factory=dict)
    times: Mapping[str, float] = field(default_factory=dict)
    system: str = LINUX
    release: str = ""
    unsteady: frozenset[str] = frozenset()
