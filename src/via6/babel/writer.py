"""Values to octets: Babel TLVs (RFC 8966 section 4.6, RFC 8967 section 4, RFC 9229) and packets filled with them.

An Update says only what differs from the one before: router-id, next hop and the leading octets of the prefix are
state of the receiver's parser. Writer keeps the same state. Each Update sets the default prefix of its AE, so that
sorted prefixes shrink best; AE 1 and AE 4 have separate defaults (RFC 9229 section 4).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from via6.babel.model import INFINITY
from via6.babel.tlv import (
    AE_IPV4,
    AE_IPV6,
    AE_LINK_LOCAL,
    AE_WILDCARD,
    BAD_ROUTER_IDS,
    FLAG_PREFIX,
    FLAG_UNICAST,
    HEADER_OCTETS,
    LINK_LOCAL,
    MAGIC,
    MAX_BODY,
    MAX_INDEX,
    MAX_NONCE,
    SUB_TIMESTAMP,
    TLV_ACK,
    TLV_ACK_REQUEST,
    TLV_CHALLENGE_REPLY,
    TLV_CHALLENGE_REQUEST,
    TLV_HELLO,
    TLV_IHU,
    TLV_NEXT_HOP,
    TLV_PC,
    TLV_ROUTE_REQUEST,
    TLV_ROUTER_ID,
    TLV_SEQNO_REQUEST,
    TLV_UPDATE,
    VERSION,
)
from via6.prefix import Address

_HEADER = struct.Struct("!BBH")
_UPDATE = struct.Struct("!BBBBBBHHH")
_OWN_STATE = 5
"""Address encodings that we write, each with its own default prefix."""


def encode_packet(body: bytes) -> bytes:
    """Header and body (RFC 8966 section 4.2)."""
    return _HEADER.pack(MAGIC, VERSION, len(body)) + body


def encode_ack_request(opaque: int, interval_cs: int) -> bytes:
    """`interval_cs` is not 0 (RFC 8966 section 4.6.3)."""
    return struct.pack("!BBHHH", TLV_ACK_REQUEST, 6, 0, opaque, interval_cs)


def encode_ack(opaque: int) -> bytes:
    """To be sent unicast (RFC 8966 section 4.6.4)."""
    return struct.pack("!BBH", TLV_ACK, 2, opaque)


def encode_hello(seqno: int, interval_cs: int, unicast: bool = False, timestamp: int | None = None) -> bytes:
    """RFC 8966 section 4.6.5. `timestamp`: microseconds modulo 2^32 (RFC 9616)."""
    subs = b"" if timestamp is None else struct.pack("!BBI", SUB_TIMESTAMP, 4, timestamp)
    return struct.pack("!BBHHH", TLV_HELLO, 6 + len(subs), FLAG_UNICAST * unicast, seqno, interval_cs) + subs


def encode_ihu(
    address: Address | None, rxcost: int, interval_cs: int, timestamps: tuple[int, int] | None = None
) -> bytes:
    """RFC 8966 section 4.6.6. Without an address (AE 0) only for unicast. `interval_cs` is not 0."""
    ae, octets = (AE_WILDCARD, b"") if address is None else _address(address)
    subs = b"" if timestamps is None else struct.pack("!BBII", SUB_TIMESTAMP, 8, *timestamps)
    size = 6 + len(octets) + len(subs)
    return struct.pack("!BBBBHH", TLV_IHU, size, ae, 0, rxcost, interval_cs) + octets + subs


def encode_router_id(router_id: bytes) -> bytes:
    """8 octets, neither all zeros nor all ones (RFC 8966 section 4.6.7). Raises ValueError."""
    if len(router_id) != 8 or router_id in BAD_ROUTER_IDS:
        raise ValueError(f"{router_id.hex()} is no router-id")
    return struct.pack("!BBH", TLV_ROUTER_ID, 10, 0) + router_id


def encode_next_hop(address: Address) -> bytes:
    """RFC 8966 section 4.6.8; never AE 4 (RFC 9229)."""
    ae, octets = _address(address)
    return struct.pack("!BBBB", TLV_NEXT_HOP, 2 + len(octets), ae, 0) + octets


def encode_route_request(ae: int, length: int, prefix: bytes) -> bytes:
    """RFC 8966 section 4.6.10. AE 0, length 0 and no prefix: everything."""
    octets = _whole_prefix(ae, length, prefix)
    return struct.pack("!BBBB", TLV_ROUTE_REQUEST, 2 + len(octets), ae, length) + octets


def encode_seqno_request(ae: int, length: int, prefix: bytes, seqno: int, hops: int, router_id: bytes) -> bytes:
    """RFC 8966 section 4.6.11. `hops` is not 0."""
    octets = _whole_prefix(ae, length, prefix)
    size = 14 + len(octets)
    return struct.pack("!BBBBHBB8s", TLV_SEQNO_REQUEST, size, ae, length, seqno, hops, 0, router_id) + octets


def encode_pc(counter: int, index: bytes) -> bytes:
    """RFC 8967 section 4.2: a counter of 32 bits and up to 32 octets. Raises ValueError."""
    if len(index) > MAX_INDEX:
        raise ValueError(f"an index of {len(index)} octets")
    return struct.pack("!BBI", TLV_PC, 4 + len(index), counter) + index


def encode_challenge_request(nonce: bytes) -> bytes:
    """RFC 8967 section 4.3: up to 192 octets. Raises ValueError."""
    return _nonce(TLV_CHALLENGE_REQUEST, nonce)


def encode_challenge_reply(nonce: bytes) -> bytes:
    """RFC 8967 section 4.4: the nonce of the request. Raises ValueError."""
    return _nonce(TLV_CHALLENGE_REPLY, nonce)


def _nonce(kind: int, nonce: bytes) -> bytes:
    if len(nonce) > MAX_NONCE:
        raise ValueError(f"a nonce of {len(nonce)} octets")
    return bytes((kind, len(nonce))) + nonce


def _address(address: Address) -> tuple[int, bytes]:
    """The shortest encoding of an address that may not be compressed."""
    if len(address) == 4:
        return AE_IPV4, address
    if address[:8] == LINK_LOCAL:
        return AE_LINK_LOCAL, address[8:]
    return AE_IPV6, address


def _whole_prefix(ae: int, length: int, prefix: bytes) -> bytes:
    """A prefix where nothing may be omitted but what AE 3 implies."""
    return prefix[8 if ae == AE_LINK_LOCAL else 0 : (length + 7) >> 3]


class Writer:
    """Fills a packet of at most `limit` octets, header included. Every method that adds takes all or nothing: False is
    no room (take the packet and begin another), and the state is as before."""

    __slots__ = ("_body", "_defaults", "_hop4", "_hop6", "_room", "_router_id")

    def __init__(self, limit: int) -> None:
        self._room = min(limit - HEADER_OCTETS, MAX_BODY)
        self._reset()

    def _reset(self) -> None:
        self._body = bytearray()
        self._defaults: list[bytes | None] = [None] * _OWN_STATE
        self._router_id: bytes | None = b""  # equal to no router-id, nor to None
        self._hop4: Address | None = None
        self._hop6: Address | None = None

    @property
    def empty(self) -> bool:
        """Nothing in it yet."""
        return not self._body

    @property
    def size(self) -> int:
        """Octets that take() would give now."""
        return HEADER_OCTETS + len(self._body)

    def take(self) -> bytes:
        """The packet, header and body. The writer is then as new."""
        packet = encode_packet(bytes(self._body))
        self._reset()
        return packet

    def add(self, tlv: bytes) -> bool:
        """Any TLVs but Router-Id, Next Hop and Update, whose state is kept here."""
        if len(self._body) + len(tlv) > self._room:
            return False
        self._body += tlv
        return True

    def update(
        self,
        ae: int,
        length: int,
        prefix: bytes,
        seqno: int,
        metric: int,
        interval_cs: int,
        router_id: bytes | None,
        next_hop: Address | None = None,
    ) -> bool:
        """An Update (RFC 8966 section 4.6.9), and before it a Router-Id or Next Hop TLV where it needs one. `prefix` is
        whole and masked. Without `next_hop` it is the packet's source, which AE 1 cannot have; retractions need neither
        next hop nor router-id and get none. Also False if another next hop was written before into this packet and
        this one is to have the source's. Raises ValueError for a finite metric without router-id or next hop."""
        lead = b""
        if metric != INFINITY and (router_id != self._router_id or next_hop != self._hop6 or ae <= AE_IPV4):
            missing = self._lead(ae, router_id, next_hop)
            if missing is None:
                return False
            lead = missing
        octets = (length + 7) >> 3
        omitted = flags = 0
        if ae == AE_LINK_LOCAL:
            rest = prefix[8:octets]
        else:
            default = self._defaults[ae]
            if default is not None:
                bits = (int.from_bytes(prefix, "big") ^ int.from_bytes(default, "big")).bit_length()
                omitted = min(len(prefix) - ((bits + 7) >> 3), octets)
            rest = prefix[omitted:octets]
            flags = FLAG_PREFIX if ae else 0
        body = self._body
        if len(body) + len(lead) + 12 + len(rest) > self._room:
            return False
        head = _UPDATE.pack(TLV_UPDATE, 10 + len(rest), ae, flags, length, omitted, interval_cs, seqno, metric)
        body += lead + head + rest
        if flags:
            self._defaults[ae] = prefix
        if lead:
            self._router_id = router_id
            if ae == AE_IPV4:
                self._hop4 = next_hop
            else:
                self._hop6 = next_hop
        return True

    def updates(self, entries: Sequence[UpdateEntry], start: int = 0) -> int:
        """As many of `entries[start:]` (the arguments of update()) as there is room for; the index of the first that
        is left."""
        update = self.update
        for at in range(start, len(entries)):
            if not update(*entries[at]):
                return at
        return len(entries)

    def _lead(self, ae: int, router_id: bytes | None, next_hop: Address | None) -> bytes | None:
        """The TLVs that must stand before a finite Update; None: this packet cannot hold it any more."""
        if router_id is None or ae == AE_WILDCARD or (ae == AE_IPV4 and next_hop is None):
            raise ValueError("an Update with a finite metric needs a prefix, a router-id and a next hop")
        lead = encode_router_id(router_id) if router_id != self._router_id else b""
        if next_hop == (self._hop4 if ae == AE_IPV4 else self._hop6):
            return lead
        return None if next_hop is None else lead + encode_next_hop(next_hop)


UpdateEntry = tuple[int, int, bytes, int, int, int, bytes | None, Address | None]
