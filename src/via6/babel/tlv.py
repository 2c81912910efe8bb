"""What a Babel packet says, as values: one tuple per TLV, with the numbers that the RFCs gave them.

Router-Id, Next Hop and the compression of prefixes are not here: they are state of the parser (RFC 8966 section 4.5)
and show in the Updates that follow them. Named tuples, because a packet of Updates holds a hundred of them.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from via6.prefix import Address

MAGIC: Final = 42
VERSION: Final = 2
HEADER_OCTETS: Final = 4
MAX_BODY: Final = 0xFFFF

TLV_PAD1: Final = 0
TLV_PADN: Final = 1
TLV_ACK_REQUEST: Final = 2
TLV_ACK: Final = 3
TLV_HELLO: Final = 4
TLV_IHU: Final = 5
TLV_ROUTER_ID: Final = 6
TLV_NEXT_HOP: Final = 7
TLV_UPDATE: Final = 8
TLV_ROUTE_REQUEST: Final = 9
TLV_SEQNO_REQUEST: Final = 10
TLV_MAC: Final = 16
TLV_PC: Final = 17
TLV_CHALLENGE_REQUEST: Final = 18
TLV_CHALLENGE_REPLY: Final = 19

SUB_PAD1: Final = 0
SUB_PADN: Final = 1
SUB_TIMESTAMP: Final = 3
SUB_MANDATORY: Final = 0x80
"""Sub-TLVs from here on spoil the whole TLV for whoever does not know them. We know none (128 is Source Prefix)."""

AE_WILDCARD: Final = 0
AE_IPV4: Final = 1
AE_IPV6: Final = 2
AE_LINK_LOCAL: Final = 3
AE_V4_VIA_V6: Final = 4

FLAG_PREFIX: Final = 0x80
FLAG_ROUTER_ID: Final = 0x40
FLAG_UNICAST: Final = 0x8000

LINK_LOCAL: Final = bytes.fromhex("fe80000000000000")
"""The 64 bits that AE 3 implies."""
BAD_ROUTER_IDS: Final = (bytes(8), b"\xff" * 8)
"""RFC 8966 section 4.1.3: a router-id is neither all zeros nor all ones."""

MAX_INDEX: Final = 32
MAX_NONCE: Final = 192


class Hello(NamedTuple):
    """`interval_cs` 0: an unscheduled one, which says nothing of the next. `timestamp`: microseconds (RFC 9616)."""

    seqno: int
    interval_cs: int
    unicast: bool = False
    timestamp: int | None = None


class Ihu(NamedTuple):
    """`address`: whom it is for; None: whoever receives it. `timestamps`: origin and receive (RFC 9616)."""

    address: Address | None
    rxcost: int
    interval_cs: int
    timestamps: tuple[int, int] | None = None


class AckRequest(NamedTuple):
    """An Ack with this `opaque` is due within the interval, unicast to the sender."""

    opaque: int
    interval_cs: int


class Ack(NamedTuple):
    """The answer to an AckRequest."""

    opaque: int


class Update(NamedTuple):
    """A route, or its retraction (metric 65535; `next_hop` is None then, and `router_id` may be).

    `prefix` has 4 or 16 octets, masked to `length`; AE 0 (all routes of the sender, retractions only) has none. AE 4 is
    an IPv4 prefix with an IPv6 next hop (RFC 9229)."""

    ae: int
    length: int
    prefix: bytes
    seqno: int
    metric: int
    interval_cs: int
    router_id: bytes | None
    next_hop: Address | None


class RouteRequest(NamedTuple):
    """An Update for this prefix is wanted; AE 0: for all."""

    ae: int
    length: int
    prefix: bytes


class SeqnoRequest(NamedTuple):
    """An Update with this seqno or a later one, or of another router-id, is wanted; to be forwarded while `hops` lasts,
    which is never 0."""

    ae: int
    length: int
    prefix: bytes
    seqno: int
    hops: int
    router_id: bytes


class Pc(NamedTuple):
    """The packet counter of RFC 8967; `index` has up to 32 octets."""

    counter: int
    index: bytes  # type: ignore[assignment]  # hides tuple.index


class ChallengeRequest(NamedTuple):
    """Up to 192 octets, to be sent back (RFC 8967)."""

    nonce: bytes


class ChallengeReply(NamedTuple):
    """The nonce of a ChallengeRequest."""

    nonce: bytes


Tlv = Hello | Ihu | AckRequest | Ack | Update | RouteRequest | SeqnoRequest | Pc | ChallengeRequest | ChallengeReply


class Decoded(NamedTuple):
    """`trailer`: the octets behind the body, undecoded. `problems`: a word per TLV that was not understood though it
    should have been, or one for the whole packet, which then has no TLVs."""

    tlvs: list[Tlv]
    trailer: bytes
    problems: list[str]
