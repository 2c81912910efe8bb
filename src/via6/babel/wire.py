"""Octets to values: Babel packets (RFC 8966 section 4, RFC 8967 section 4, RFC 9229 section 4, RFC 9616 section 4).

Whatever comes in, decode() returns; what is not understood is named in `problems` and does not hurt what follows it in
the packet. The parser's state (router-id, next hop per family, default prefix per address encoding) changes even by a
TLV that is then ignored (RFC 8966 section 4.5). Where a broken TLV leaves the state in doubt, the state becomes
"unknown", so that later Updates are ignored rather than ascribed to another router.

AE 3 prefixes: `length` counts from the first bit of fe80::/64, whose 8 octets are implied, as everybody reads it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from via6.babel.model import INFINITY
from via6.babel.tlv import (
    AE_IPV4,
    AE_IPV6,
    AE_LINK_LOCAL,
    AE_V4_VIA_V6,
    AE_WILDCARD,
    BAD_ROUTER_IDS,
    FLAG_PREFIX,
    FLAG_ROUTER_ID,
    FLAG_UNICAST,
    HEADER_OCTETS,
    LINK_LOCAL,
    MAGIC,
    MAX_INDEX,
    MAX_NONCE,
    SUB_MANDATORY,
    SUB_PAD1,
    SUB_TIMESTAMP,
    TLV_ACK,
    TLV_ACK_REQUEST,
    TLV_CHALLENGE_REPLY,
    TLV_CHALLENGE_REQUEST,
    TLV_HELLO,
    TLV_IHU,
    TLV_MAC,
    TLV_NEXT_HOP,
    TLV_PAD1,
    TLV_PC,
    TLV_ROUTE_REQUEST,
    TLV_ROUTER_ID,
    TLV_SEQNO_REQUEST,
    TLV_UPDATE,
    VERSION,
    Ack,
    AckRequest,
    ChallengeReply,
    ChallengeRequest,
    Decoded,
    Hello,
    Ihu,
    Pc,
    RouteRequest,
    SeqnoRequest,
    Tlv,
    Update,
)
from via6.babel.writer import (
    UpdateEntry,
    Writer,
    encode_ack,
    encode_ack_request,
    encode_challenge_reply,
    encode_challenge_request,
    encode_hello,
    encode_ihu,
    encode_next_hop,
    encode_packet,
    encode_pc,
    encode_route_request,
    encode_router_id,
    encode_seqno_request,
)
from via6.prefix import Address, is_multicast, is_v4_mapped, mask

__all__ = [
    "AE_IPV4",
    "AE_IPV6",
    "AE_LINK_LOCAL",
    "AE_V4_VIA_V6",
    "AE_WILDCARD",
    "TLV_MAC",
    "TLV_PC",
    "Ack",
    "AckRequest",
    "ChallengeReply",
    "ChallengeRequest",
    "Decoded",
    "Hello",
    "Ihu",
    "Pc",
    "RouteRequest",
    "SeqnoRequest",
    "Tlv",
    "Update",
    "UpdateEntry",
    "Writer",
    "decode",
    "encode_ack",
    "encode_ack_request",
    "encode_challenge_reply",
    "encode_challenge_request",
    "encode_hello",
    "encode_ihu",
    "encode_next_hop",
    "encode_packet",
    "encode_pc",
    "encode_route_request",
    "encode_router_id",
    "encode_seqno_request",
]

_HEADER = struct.Struct("!BBH")
_UPDATE = struct.Struct("!BBBBBBHHH")
_FIXED: Final = 10
"""What an Update has before its prefix, its type and length not counted."""
_TOO_MANY: Final = 256

_WIDTHS = (0, 4, 16, 16, 4) + (-1,) * 251
"""Octets of an address by AE; -1: unknown."""
_ZEROS = tuple(bytes(count) for count in range(17))
_BEHIND = (0, 0x7F, 0x3F, 0x1F, 0x0F, 0x07, 0x03, 0x01)
"""The bits of a prefix's last octet that do not belong to it, by length modulo 8."""


class _MalformedError(Exception):
    """A TLV that does not hold what it must."""


class _State:
    """The parser's state of RFC 8966 section 4.5, by AE. None is unknown."""

    __slots__ = ("defaults", "hops", "router_id")

    def __init__(self, source: Address) -> None:
        self.defaults: list[bytes | None] = [None, None, None, LINK_LOCAL + bytes(8), None]
        self.hops: list[Address | None] = [None] * 5
        self.router_id: bytes | None = None
        self.set_hop(AE_IPV4 if len(source) == 4 else AE_IPV6, source)

    def set_hop(self, ae: int, address: Address | None) -> None:
        """One next hop per family: AE 2, 3 and 4 share theirs (RFC 9229 section 2.2)."""
        if ae == AE_IPV4:
            self.hops[AE_IPV4] = address
        else:
            self.hops[AE_IPV6] = self.hops[AE_LINK_LOCAL] = self.hops[AE_V4_VIA_V6] = address


def decode(data: bytes, source: Address) -> Decoded:
    """The TLVs of a whole datagram that came from `source`. Never raises.

    A packet that is not Babel's, or not whole, has no TLVs and one problem: bad-magic, bad-version or truncated. Else
    the problems are bad-NAME for a TLV that is broken or says what it must not, and truncated if the last one does not
    fit into the body. What the RFCs want ignored silently (unknown TLVs, sub-TLVs and address encodings) is not a
    problem.
    """
    if len(data) < HEADER_OCTETS:
        return Decoded([], b"", ["truncated"])
    magic, version, body = _HEADER.unpack_from(data)
    if magic != MAGIC:
        return Decoded([], b"", ["bad-magic"])
    if version != VERSION:
        return Decoded([], b"", ["bad-version"])
    end = HEADER_OCTETS + body
    if end > len(data):
        return Decoded([], b"", ["truncated"])
    tlvs: list[Tlv] = []
    problems: list[str] = []
    _decode_body(data, end, _State(source), tlvs, problems)
    return Decoded(tlvs, data[end:], problems)


def _decode_body(data: bytes, end: int, state: _State, tlvs: list[Tlv], problems: list[str]) -> None:
    at = HEADER_OCTETS
    while at < end:
        kind = data[at]
        if kind == TLV_PAD1:
            at += 1
            continue
        if at + 2 > end or (stop := at + 2 + data[at + 1]) > end:
            problems.append("truncated")
            return
        if kind == TLV_UPDATE and stop - at >= 2 + _FIXED:
            at = _read_updates(data, at, end, state, tlvs, problems)
            continue
        reader = _READERS.get(kind)
        if reader is not None:
            name, read = reader
            try:
                tlv = read(data[at + 2 : stop], state)
            except (_MalformedError, struct.error):
                problems.append(name)
            else:
                if tlv is not None:
                    tlvs.append(tlv)
        at = stop


def _read_updates(data: bytes, at: int, end: int, state: _State, tlvs: list[Tlv], problems: list[str]) -> int:
    """Reads the run of Updates that begins at `at` (RFC 8966 section 4.6.9) and says where it ended. The first is known
    to fit and to have its fixed part, so this always gets on."""
    unpack = _UPDATE.unpack_from
    new = tuple.__new__
    defaults = state.defaults
    hops = state.hops
    router_id = state.router_id
    while end - at >= 2 + _FIXED and data[at] == TLV_UPDATE:
        _, size, ae, flags, length, omitted, interval_cs, seqno, metric = unpack(data, at)
        stop = at + 2 + size
        if size < _FIXED or stop > end:
            break
        first = at + 2 + _FIXED
        at = stop
        width = _WIDTHS[ae]
        octets = (length + 7) >> 3
        if ae == AE_LINK_LOCAL:
            omitted = _TOO_MANY if omitted else min(octets, 8)
        last = first + octets - omitted
        default = defaults[ae] if omitted and width >= 0 else b""
        if octets > width or omitted > octets or last > stop or default is None:
            if width >= 0:
                problems.append("bad-update")
            if flags & FLAG_PREFIX and width > 0 and ae != AE_LINK_LOCAL:
                defaults[ae] = None
            if flags & FLAG_ROUTER_ID:
                router_id = None
            continue
        prefix = default[:omitted] + data[first:last] + _ZEROS[width - octets]
        if prefix and prefix[octets - 1] & _BEHIND[length & 7]:
            prefix = mask(prefix, length)
        if flags & FLAG_PREFIX and ae != AE_LINK_LOCAL:
            defaults[ae] = prefix
        if flags & FLAG_ROUTER_ID:
            router_id = _derived(prefix)
        if last < stop and not _clean_update(data[last:stop], problems):
            continue
        if metric == INFINITY:
            hop = None
        else:
            hop = hops[ae]
            if hop is None or router_id is None or interval_cs == 0:
                problems.append("bad-update")
                continue
        tlvs.append(new(Update, (ae, length, prefix, seqno, metric, interval_cs, router_id, hop)))
    state.router_id = router_id
    return at


def _derived(prefix: bytes) -> bytes | None:
    """The router-id that the Router-Id flag makes of a prefix: its last 8 octets, or it on the right of zeros."""
    router_id = prefix[-8:].rjust(8, b"\0")
    return None if router_id in BAD_ROUTER_IDS else router_id


def _clean_update(subs: bytes, problems: list[str]) -> bool:
    """Whether an Update with these sub-TLVs counts."""
    try:
        return _clean(subs)
    except _MalformedError:
        problems.append("bad-update")
        return False


def _sub_tlvs(octets: bytes) -> dict[int, bytes] | None:
    """What stands behind the natural end of a TLV (RFC 8966 section 4.4): bodies by type, the first of each. None: the
    TLV must be ignored. Raises _MalformedError."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(octets):
        kind = octets[at]
        if kind == SUB_PAD1:
            at += 1
            continue
        if at + 2 > len(octets) or (stop := at + 2 + octets[at + 1]) > len(octets):
            raise _MalformedError
        found.setdefault(kind, octets[at + 2 : stop])
        at = stop
    return None if any(kind >= SUB_MANDATORY for kind in found) else found


def _clean(octets: bytes) -> bool:
    """Whether sub-TLVs that all may be skipped follow. Raises _MalformedError."""
    return not octets or _sub_tlvs(octets) is not None


def _times(subs: dict[int, bytes], count: int) -> tuple[int, ...] | None:
    """The microseconds of a Timestamp sub-TLV (RFC 9616 section 4); None if there is no sound one."""
    octets = subs.get(SUB_TIMESTAMP, b"")
    return struct.unpack_from(f"!{count}I", octets) if len(octets) >= 4 * count else None


def _read_address(ae: int, body: bytes, at: int) -> tuple[Address | None, int]:
    """An address and where it ends; None for the wildcard. Raises _MalformedError."""
    start = at
    head = LINK_LOCAL if ae == AE_LINK_LOCAL else b""
    at += _WIDTHS[ae] - len(head)
    if at > len(body):
        raise _MalformedError
    return (head + body[start:at] or None), at


def _read_prefix(ae: int, length: int, body: bytes, at: int) -> tuple[bytes, int]:
    """A prefix that is not compressed, whole and masked, and where it ends. Raises _MalformedError."""
    width = _WIDTHS[ae]
    octets = (length + 7) >> 3
    implied = min(octets, 8) if ae == AE_LINK_LOCAL else 0
    last = at + octets - implied
    if octets > width or last > len(body):
        raise _MalformedError
    prefix = LINK_LOCAL[:implied] + body[at:last] + _ZEROS[width - octets]
    return (mask(prefix, length) if prefix else b""), last


def _read_ack_request(body: bytes, _state: _State) -> Tlv | None:
    """RFC 8966 section 4.6.3."""
    _reserved, opaque, interval_cs = struct.unpack_from("!HHH", body)
    if not _clean(body[6:]):
        return None
    if not interval_cs:
        raise _MalformedError
    return AckRequest(opaque, interval_cs)


def _read_ack(body: bytes, _state: _State) -> Tlv | None:
    """RFC 8966 section 4.6.4."""
    (opaque,) = struct.unpack_from("!H", body)
    return Ack(opaque) if _clean(body[2:]) else None


def _read_hello(body: bytes, _state: _State) -> Tlv | None:
    """RFC 8966 section 4.6.5."""
    flags, seqno, interval_cs = struct.unpack_from("!HHH", body)
    if (subs := _sub_tlvs(body[6:])) is None:
        return None
    times = _times(subs, 1)
    return Hello(seqno, interval_cs, bool(flags & FLAG_UNICAST), times[0] if times else None)


def _read_ihu(body: bytes, _state: _State) -> Tlv | None:
    """RFC 8966 section 4.6.6; RFC 9229 section 4.2: not with AE 4."""
    ae, _reserved, rxcost, interval_cs = struct.unpack_from("!BBHH", body)
    if ae == AE_V4_VIA_V6 or _WIDTHS[ae] < 0:
        return None
    address, end = _read_address(ae, body, 6)
    if (subs := _sub_tlvs(body[end:])) is None:
        return None
    if not interval_cs:
        raise _MalformedError
    times = _times(subs, 2)
    return Ihu(address, rxcost, interval_cs, (times[0], times[1]) if times else None)


def _read_router_id(body: bytes, state: _State) -> Tlv | None:
    """RFC 8966 section 4.6.7. Sub-TLVs cannot take the state back (section 4.5)."""
    router_id = body[2:10]
    if len(router_id) < 8 or router_id in BAD_ROUTER_IDS:
        state.router_id = None
        raise _MalformedError
    state.router_id = router_id
    _clean(body[10:])
    return None


def _read_next_hop(body: bytes, state: _State) -> Tlv | None:
    """RFC 8966 section 4.6.8; RFC 9229 section 4.2: not with AE 4. Sub-TLVs cannot take the state back."""
    ae, _reserved = struct.unpack_from("!BB", body)
    if ae == AE_V4_VIA_V6 or _WIDTHS[ae] < 0:
        return None
    if ae == AE_WILDCARD:
        raise _MalformedError
    state.set_hop(ae, None)
    address, end = _read_address(ae, body, 2)
    if address is None or not _is_hop(address):
        raise _MalformedError
    state.set_hop(ae, address)
    _clean(body[end:])
    return None


def _is_hop(address: Address) -> bool:
    """Whether packets can be sent to it at all."""
    if len(address) == 4:
        return address[0] not in (0, 127) and address[0] < 0xE0
    return not (is_multicast(address) or is_v4_mapped(address) or not any(address[:15]))


def _read_route_request(body: bytes, _state: _State) -> Tlv | None:
    """RFC 8966 section 4.6.10."""
    ae, length = struct.unpack_from("!BB", body)
    if _WIDTHS[ae] < 0:
        return None
    prefix, end = _read_prefix(ae, length, body, 2)
    return RouteRequest(ae, length, prefix) if _clean(body[end:]) else None


def _read_seqno_request(body: bytes, _state: _State) -> Tlv | None:
    """RFC 8966 section 4.6.11."""
    ae, length, seqno, hops, _reserved, router_id = struct.unpack_from("!BBHBB8s", body)
    if _WIDTHS[ae] < 0:
        return None
    prefix, end = _read_prefix(ae, length, body, 14)
    if not _clean(body[end:]):
        return None
    if ae == AE_WILDCARD or hops == 0 or router_id in BAD_ROUTER_IDS:
        raise _MalformedError
    return SeqnoRequest(ae, length, prefix, seqno, hops, router_id)


def _read_pc(body: bytes, _state: _State) -> Tlv | None:
    """RFC 8967 section 4.2. Its index is all the rest: no sub-TLVs."""
    (counter,) = struct.unpack_from("!I", body)
    if len(body) > 4 + MAX_INDEX:
        raise _MalformedError
    return Pc(counter, body[4:])


def _read_challenge_request(body: bytes, _state: _State) -> Tlv | None:
    """RFC 8967 section 4.3. No sub-TLVs."""
    if len(body) > MAX_NONCE:
        raise _MalformedError
    return ChallengeRequest(body)


def _read_challenge_reply(body: bytes, _state: _State) -> Tlv | None:
    """RFC 8967 section 4.4. No sub-TLVs."""
    if len(body) > MAX_NONCE:
        raise _MalformedError
    return ChallengeReply(body)


def _too_short(_body: bytes, _state: _State) -> Tlv | None:
    """An Update without its fixed part."""
    raise _MalformedError


_READERS: dict[int, tuple[str, Callable[[bytes, _State], Tlv | None]]] = {
    TLV_ACK_REQUEST: ("bad-ack-request", _read_ack_request),
    TLV_ACK: ("bad-ack", _read_ack),
    TLV_HELLO: ("bad-hello", _read_hello),
    TLV_IHU: ("bad-ihu", _read_ihu),
    TLV_ROUTER_ID: ("bad-router-id", _read_router_id),
    TLV_NEXT_HOP: ("bad-next-hop", _read_next_hop),
    TLV_UPDATE: ("bad-update", _too_short),
    TLV_ROUTE_REQUEST: ("bad-route-request", _read_route_request),
    TLV_SEQNO_REQUEST: ("bad-seqno-request", _read_seqno_request),
    TLV_PC: ("bad-pc", _read_pc),
    TLV_CHALLENGE_REQUEST: ("bad-challenge-request", _read_challenge_request),
    TLV_CHALLENGE_REPLY: ("bad-challenge-reply", _read_challenge_reply),
}
