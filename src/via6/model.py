"""The vocabulary: what a node has and what should be done to it. Values only, all immutable.

A router with a full table holds a million routes that differ in their destination and hardly in anything else. So a
set of routes is kept as blocks: a `template` route whose prefix stands for its length alone, and the destinations'
octets. Rib, Fib, codec and Snapshot all speak of blocks; `Route` is what a reader sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final, Protocol

from via6.prefix import AF_INET, AF_INET6, Address, Prefix, PrefixMap

PROTO_KERNEL: Final = 2
PROTO_BOOT: Final = 3
PROTO_STATIC: Final = 4
PROTO_VIA6: Final = 46
"""Marks what the daemon installs (rtm_protocol, nh_protocol). The administrator's own routes are PROTO_STATIC."""

TABLE_DEFAULT: Final = 253
TABLE_MAIN: Final = 254
TABLE_LOCAL: Final = 255

NH_DEAD: Final = 1  # RTNH_F_*, linux/rtnetlink.h
NH_ONLINK: Final = 4
NH_LINKDOWN: Final = 16

IFF_UP: Final = 1  # linux/if.h
IFF_LOOPBACK: Final = 8
IFF_LOWER_UP: Final = 0x10000

IFA_F_DADFAILED: Final = 0x08  # linux/if_addr.h
IFA_F_TENTATIVE: Final = 0x40

BLANK: Final = {AF_INET: bytes(4), AF_INET6: bytes(16)}


@dataclass(frozen=True, slots=True)
class NextHop:
    """One way out: `via` is the neighbour (None: the destination is on the link itself), `weight` 1 to 256,
    `flags` are the kernel's RTNH_F_* (dead, onlink, linkdown)."""

    via: Address | None = None
    ifindex: int = 0
    weight: int = 1
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Route:
    """One route as the kernel holds it (struct rtmsg, linux/rtnetlink.h).

    `metric` is the kernel's priority: the smaller wins, and (prefix, table, metric) names the slot. `type` is the
    kernel noun (unicast, local, broadcast, anycast, multicast, blackhole, unreachable, prohibit, throw, nat).
    `nhid` is the nexthop object the route hangs on (0: none); when the kernel tells what it stands for, `next_hops`
    says that too. `metrics` are (RTAX number, value) pairs, sorted; RTAX_MTU is 2. `flags` are RTM_F_*/RTNH_F_*.
    """

    prefix: Prefix
    next_hops: tuple[NextHop, ...] = ()
    type: str = "unicast"
    table: int = TABLE_MAIN
    metric: int = 0
    protocol: int = PROTO_VIA6
    scope: int = 0
    src: Address | None = None
    nhid: int = 0
    metrics: tuple[tuple[int, int], ...] = ()
    tos: int = 0
    flags: int = 0
    pref: int = 0  # RTA_PREF, RFC 4191, IPv6 alone
    expires: int = 0  # seconds, 0: never

    @property
    def family(self) -> int:
        return self.prefix.family

    def at(self, destination: Address) -> Route:
        """This template with another destination of the same length."""
        # Spelt out: dataclasses.replace takes three times as long, and a full table is a million of these.
        return Route(
            Prefix(destination, self.prefix.length), self.next_hops, self.type, self.table, self.metric, self.protocol,
            self.scope, self.src, self.nhid, self.metrics, self.tos, self.flags, self.pref, self.expires,
        )  # fmt: skip

    def as_template(self) -> Route:
        """This route with its destination blanked: equal for all routes that differ in nothing else."""
        return replace(self, prefix=Prefix(BLANK[self.family], self.prefix.length))


@dataclass(frozen=True, slots=True)
class RouteBlock:
    """Routes that differ in their destinations only; `template.prefix` gives the length."""

    template: Route
    destinations: Sequence[Address]

    def __len__(self) -> int:
        return len(self.destinations)

    def __iter__(self) -> Iterator[Route]:
        return map(self.template.at, self.destinations)


@dataclass(frozen=True)
class RouteTable:
    """All routes of a snapshot as blocks; reads like a collection of Route."""

    blocks: tuple[RouteBlock, ...] = ()

    @staticmethod
    def of(routes: Iterable[Route]) -> RouteTable:
        found: dict[Route, list[Address]] = {}
        for route in routes:
            found.setdefault(route.as_template(), []).append(route.prefix.packed)
        return RouteTable(tuple(RouteBlock(t, d) for t, d in found.items()))

    def __len__(self) -> int:
        return sum(map(len, self.blocks))

    def __iter__(self) -> Iterator[Route]:
        for block in self.blocks:
            yield from block

    def where(self, keep: Callable[[Route], bool]) -> RouteTable:
        """The blocks whose template passes `keep` (which must not look at the destination)."""
        return RouteTable(tuple(b for b in self.blocks if keep(b.template)))

    @cached_property
    def _by_table(self) -> dict[int, PrefixMap[tuple[Route, ...]]]:
        index: dict[int, PrefixMap[tuple[Route, ...]]] = {}
        for route in sorted(self, key=lambda r: r.metric):
            cell = index.setdefault(route.table, PrefixMap())
            cell[route.prefix] = (*(cell.get(route.prefix) or ()), route)
        return index

    def lookup(self, address: Address, table: int = TABLE_MAIN) -> Route | None:
        """Longest match in one table, lowest metric first among equals; rules and `throw` are the caller's."""
        found = self._by_table.get(table, PrefixMap[tuple[Route, ...]]()).lookup(address)
        return found[1][0] if found else None

    def at(self, prefix: Prefix, table: int = TABLE_MAIN) -> tuple[Route, ...]:
        """All routes of exactly this prefix, lowest metric first."""
        return self._by_table.get(table, PrefixMap[tuple[Route, ...]]()).get(prefix) or ()


@dataclass(frozen=True, slots=True)
class Link:
    """An interface (struct ifinfomsg). `flags` are IFF_*, `operstate` as in RFC 2863 in upper case (UP, DOWN,
    LOWERLAYERDOWN, UNKNOWN …), `kind` is veth, wireguard, vrf … ('' for a physical card), `mtu` in octets."""

    ifindex: int
    name: str
    mtu: int = 1500
    flags: int = 0
    operstate: str = "UNKNOWN"
    lladdr: bytes = b""
    kind: str = ""
    master: int = 0
    peer: int = 0  # IFLA_LINK: the other end of a veth, the parent of a VLAN

    @property
    def up(self) -> bool:
        """Set up by the administrator."""
        return bool(self.flags & IFF_UP)

    @property
    def carrier(self) -> bool:
        """Up, and the layer below says it works."""
        return self.up and bool(self.flags & IFF_LOWER_UP)

    @property
    def loopback(self) -> bool:
        return bool(self.flags & IFF_LOOPBACK)


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """An address of an interface (struct ifaddrmsg). `peer` is the far end of a point-to-point pair or None."""

    ifindex: int
    address: Address
    length: int
    scope: int = 0
    flags: int = 0
    peer: Address | None = None
    protocol: int = 0


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An entry of the ARP or ND table (struct ndmsg). `state` is the kernel's word: REACHABLE, STALE, FAILED …"""

    ifindex: int
    address: Address
    lladdr: bytes = b""
    state: str = "NONE"
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Rule:
    """A routing rule (struct fib_rule_hdr). `action` is to_tbl, `goto 32766`, nop, blackhole, unreachable, prohibit.
    What the rule depends on beyond the fields here stands behind it, as in `to_tbl with dport, ipproto`: whoever
    follows rules does not know what one with such an action does."""

    family: int
    priority: int
    table: int = 0
    action: str = "to_tbl"
    source: Prefix | None = None
    destination: Prefix | None = None
    iif: str = ""
    oif: str = ""
    fwmark: int = 0
    fwmask: int = 0
    l3mdev: bool = False
    invert: bool = False


@dataclass(frozen=True, slots=True)
class NexthopObject:
    """A nexthop object (struct nhmsg, linux/nexthop.h): one next hop, a blackhole, or a group of (nhid, weight)."""

    nhid: int
    via: Address | None = None
    ifindex: int = 0
    group: tuple[tuple[int, int], ...] = ()
    blackhole: bool = False
    protocol: int = PROTO_VIA6
    flags: int = 0
    family: int = AF_INET6


@dataclass(frozen=True)
class Snapshot:
    """One node at one time. A part that was not asked for is empty and missing from `parts`."""

    links: tuple[Link, ...] = ()
    addresses: tuple[InterfaceAddress, ...] = ()
    routes: RouteTable = field(default_factory=RouteTable)
    rules: tuple[Rule, ...] = ()
    nexthops: tuple[NexthopObject, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    parts: frozenset[str] = frozenset()

    @cached_property
    def by_index(self) -> dict[int, Link]:
        return {link.ifindex: link for link in self.links}

    @cached_property
    def by_name(self) -> dict[str, Link]:
        return {link.name: link for link in self.links}

    def dev(self, ifindex: int) -> str:
        """Interface name, or `if7` for one that is gone."""
        link = self.by_index.get(ifindex)
        return link.name if link else f"if{ifindex}"


PARTS: Final = frozenset({"links", "addresses", "routes4", "routes6", "rules", "nexthops", "neighbours"})


# --- what should be done -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PutNexthop:
    """Create a nexthop object, or with `replace` change it in place: every route on it moves with this one message."""

    object: NexthopObject
    replace: bool = False


@dataclass(frozen=True, slots=True)
class DropNexthop:
    """Delete a nexthop object of ours; the kernel deletes the routes that hang on it."""

    nhid: int


@dataclass(frozen=True, slots=True)
class Burst:
    """Routes of one block to `add` (fails if the slot is taken), `replace` (takes the slot) or `delete`."""

    op: str
    block: RouteBlock


Step = PutNexthop | DropNexthop | Burst


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in the order in which they must reach the kernel."""

    steps: tuple[Step, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.steps)

    def __len__(self) -> int:
        """Number of objects and routes touched."""
        return sum(len(s.block) if isinstance(s, Burst) else 1 for s in self.steps)


@dataclass(frozen=True, slots=True)
class Failure:
    """The kernel refused one message of a plan: `step` is its index in the plan, `destination` the route's octets
    (None for a nexthop object), `errno` positive, `text` the kernel's extended ACK, else the errno's name."""

    step: int
    destination: Address | None
    errno: int
    text: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a plan. With `overrun` errors were lost (ENOBUFS, a deadline): only a dump tells the truth."""

    failures: tuple[Failure, ...] = ()
    overrun: bool = False


# --- what a watch tells --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """One notification: the object as it is now (`gone`: as it was); a block stands for as many of
    them. `replaces`: it took the place of what was in its slot (NLM_F_REPLACE); IPv6 else keeps routes of one metric
    side by side."""

    object: Link | InterfaceAddress | Route | RouteBlock | Neighbour | Rule | NexthopObject
    gone: bool = False
    replaces: bool = False


@dataclass(frozen=True, slots=True)
class Overrun:
    """Notifications were lost (ENOBUFS): dump again."""


KernelEvent = Change | Overrun


class Watch(Protocol):
    """A subscription. `read` never blocks; `fileno` can be polled."""

    def fileno(self) -> int: ...
    def read(self) -> list[KernelEvent]: ...
    def close(self) -> None: ...


class Kernel(Protocol):
    """The one way to a FIB: Linux (`kernel.linux`) and its simulated twin (`sim.kernel`).

    `dump` raises Refusal; `apply` reports refusals of single routes in the Outcome and raises Refusal only when
    nothing can be done at all (no privilege, no socket).
    """

    def dump(self, parts: frozenset[str] = PARTS) -> Snapshot: ...
    def apply(self, plan: Plan) -> Outcome: ...
    def watch(self) -> Watch: ...
    def close(self) -> None: ...
