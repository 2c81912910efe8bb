"""The shape of a snapshot in JSON, version 1; docs/snapshot.md says what each key means.

Keys that say nothing (0, "", null, an empty list) are left out when written and taken for that when read. An unknown
key is refused: what the reader does not know may decide the fate of a packet.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct, field

FORMAT: Final = "via6-snapshot"
VERSION: Final = 1

U8 = Annotated[int, Meta(ge=0, le=0xFF)]
U16 = Annotated[int, Meta(ge=0, le=0xFFFF)]
U32 = Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
Index = Annotated[int, Meta(ge=0, le=0x7FFFFFFF)]
Weight = Annotated[int, Meta(ge=1, le=65536)]


class Part(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What all objects of the schema share."""


class LinkPart(Part):
    ifindex: Index
    name: str
    mtu: U32 = 1500
    flags: U32 = 0
    operstate: str = "UNKNOWN"
    lladdr: str = ""
    kind: str = ""
    master: Index = 0
    peer: Index = 0


class AddressPart(Part):
    ifindex: Index
    address: str
    length: U8
    scope: U8 = 0
    flags: U32 = 0
    peer: str | None = None
    protocol: U8 = 0


class HopPart(Part):
    via: str | None = None
    ifindex: Index = 0
    weight: Weight = 1
    flags: U32 = 0


class RoutesPart(Part):
    """Routes of one table and prefix length that differ in their destinations alone, those in `to`, or for many of
    them in `packed`: their octets in hexadecimal, one destination behind the other."""

    family: Annotated[int, Meta(ge=4, le=6)]
    length: U8
    to: list[str] = field(default_factory=list)
    packed: str = ""
    next_hops: list[HopPart] = field(default_factory=list)
    type: str = "unicast"
    table: U32 = 254
    metric: U32 = 0
    protocol: U8 = 0
    scope: U8 = 0
    src: str | None = None
    nhid: U32 = 0
    metrics: list[tuple[U16, U32]] = field(default_factory=list)
    tos: U8 = 0
    flags: U32 = 0
    pref: U8 = 0
    expires: U32 = 0


class RulePart(Part):
    family: Annotated[int, Meta(ge=4, le=6)]
    priority: U32
    table: U32 = 0
    action: str = "to_tbl"
    source: str | None = None
    destination: str | None = None
    iif: str = ""
    oif: str = ""
    fwmark: U32 = 0
    fwmask: U32 = 0
    l3mdev: bool = False
    invert: bool = False


class NexthopPart(Part):
    nhid: U32
    via: str | None = None
    ifindex: Index = 0
    group: list[tuple[U32, Weight]] = field(default_factory=list)
    blackhole: bool = False
    protocol: U8 = 0
    flags: U32 = 0
    family: Annotated[int, Meta(ge=0, le=6)] = 6


class NeighbourPart(Part):
    ifindex: Index
    address: str
    lladdr: str = ""
    state: str = "NONE"
    flags: U32 = 0


class PeerPart(Part):
    key: str
    allowed: list[str] = field(default_factory=list)


class ShutPart(Part):
    packets: str
    rules: list[str] = field(default_factory=list)
    into: str = ""
    out: str = ""


class TestPart(Part):
    key: str
    values: list[str] = field(default_factory=list)
    invert: bool = False


class FilterRulePart(Part):
    """`verdicts` are pairs of a kind and the name of a chain (empty unless it jumps there)."""

    tests: list[TestPart] = field(default_factory=list)
    verdicts: list[list[str]] = field(default_factory=list)
    text: str = ""


class FilterChainPart(Part):
    table: Annotated[int, Meta(ge=0, le=65535)]
    name: str
    where: str
    hook: str = ""
    policy: str = "accept"
    devices: list[str] | None = None
    rules: list[FilterRulePart] = field(default_factory=list)


class FirewallPart(Part):
    forward4: str
    icmp4: str
    dummy4: str
    babel: str
    evidence: list[str] = field(default_factory=list)
    shut: list[ShutPart] = field(default_factory=list)
    filter: list[FilterChainPart] = field(default_factory=list)
    own4: str = "accept"


class BabelRoutePart(Part):
    prefix: str
    neighbour: str
    ifindex: Index
    router_id: str
    metric: U16
    advertised: U16
    selected: bool = False
    feasible: bool = False


class BabelNeighbourPart(Part):
    address: str
    ifindex: Index
    cost: U16
    rxcost: U16 | None = None
    txcost: U16 | None = None
    reach: str = ""
    signed: bool = False


class BabelRejectedPart(Part):
    address: str
    reason: str
    packets: int = 0
    age_s: float = 0.0


class BabelRivalPart(Part):
    prefix: str
    router_id: str
    neighbour: str


class BabelInterfacePart(Part):
    ifindex: Index
    address: str
    up: bool = True
    keys: list[str] = field(default_factory=list)
    packets_in: int = 0
    packets_out: int = 0
    rejected: list[BabelRejectedPart] = field(default_factory=list)
    rivals: list[BabelRivalPart] = field(default_factory=list)


class BabelRulePart(Part):
    prefixes: list[str] = field(default_factory=list)
    within: list[str] = field(default_factory=list)
    shortest: U8 = 0
    longest: U8 = 128
    deny: bool = False


class BabelPolicyPart(Part):
    families: list[Annotated[int, Meta(ge=4, le=6)]] = field(default_factory=lambda: [4])
    imports: list[BabelRulePart] | None = None
    transit4: bool = True
    kernel_metric: U32 = 460
    allowed: list[tuple[Index, list[str]]] = field(default_factory=list)


class BabelPart(Part):
    router_id: str
    neighbours: list[BabelNeighbourPart] = field(default_factory=list)
    routes: list[BabelRoutePart] = field(default_factory=list)
    exports: list[tuple[str, U16]] = field(default_factory=list)
    interfaces: list[BabelInterfacePart] | None = None
    policy: BabelPolicyPart | None = None


class Head(Struct):
    """What a file says of itself; read first, so that another format or version is called by its name."""

    format: str = ""
    version: int = 0
    name: str = ""


class NodePart(Part):
    """One node. `parts` names the parts of the kernel that were read: an empty list of one that is not there means
    nothing."""

    format: str = ""
    version: int = 0
    name: Annotated[str, Meta(min_length=1)] = ""
    system: str = "linux"
    release: str = ""
    parts: list[str] = field(default_factory=list)
    times: dict[str, float] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    unsteady: list[str] = field(default_factory=list)
    links: list[LinkPart] = field(default_factory=list)
    addresses: list[AddressPart] = field(default_factory=list)
    routes: list[RoutesPart] = field(default_factory=list)
    rules: list[RulePart] = field(default_factory=list)
    nexthops: list[NexthopPart] = field(default_factory=list)
    neighbours: list[NeighbourPart] = field(default_factory=list)
    sysctls: dict[str, int] = field(default_factory=dict)
    wireguard: dict[str, list[PeerPart]] = field(default_factory=dict)
    firewall: FirewallPart | None = None
    babel: BabelPart | None = None
