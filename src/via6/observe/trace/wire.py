"""Questions and answers of a trace as octets, and their MACs. docs/trace-protocol.md has the picture.

Everything here is bounded: a datagram fits into the smallest IPv6 packet that every link carries, a text has one octet
for its length. What comes in is not believed: a decoder returns (value, problem) and never raises, numbers without a
meaning become UNKNOWN, and texts lose whatever could steer a terminal.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from via6.babel.auth import mac_of
from via6.babel.model import Key
from via6.observe.trace.model import DAEMON, DISPOSITIONS, Flow, Hop
from via6.prefix import Address

PORT: Final = 8046
HOP_LIMIT: Final = 255
"""Sent, and required: no router has passed the datagram on (RFC 5082)."""
LONGEST: Final = 1232
"""1280 less the headers of IPv6 and UDP."""
MAX_INDEX: Final = 63
"""A direction has at most 64 nodes."""
NONCE_OCTETS: Final = 8
NAME_OCTETS: Final = 64
TEXT_OCTETS: Final = 255
MAX_MACS: Final = 16

_MAGIC: Final = b"v6"
_VERSION: Final = 1
_QUESTION: Final = 1
_ANSWER: Final = 2
_HEADER: Final = struct.Struct("!2sBBH2x8s")  # magic, version, type, octets of the body, reserved, nonce
_ASKED: Final = struct.Struct("!BBBxHH4s4s")  # flags, index, protocol, reserved, ports, source, destination
_SAID: Final = struct.Struct("!BBBxI")  # flags, index, disposition, reserved, MTU

_BACK: Final = 0x01
_WANT_BACK: Final = 0x02
_LEG_BACK: Final = 0x02
_END: Final = 0x04
_MAC: Final = 16


@dataclass(frozen=True, slots=True)
class Question:
    """What becomes of this packet? `index` is the number of the asked node in its direction, `back` the direction.
    `want_back`: the last node is to begin the way back. The flow is always that of the direction asked about."""

    nonce: bytes
    flow: Flow
    index: int = 0
    back: bool = False
    want_back: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What one node says. `leg_back` names the question that it answers, hop by hop: what is said of the way back
    returns to who asked for the way there. `back` and `index` say where in the trace the hop is; a later answer for the
    same place takes the place of the earlier one. `end`: this direction ends with it."""

    nonce: bytes
    hop: Hop
    index: int = 0
    back: bool = False
    leg_back: bool = False
    end: bool = False


# --- writing -------------------------------------------------------------------------------------------------------


def _text(text: str, most: int = TEXT_OCTETS) -> bytes:
    data = text.encode("utf-8", "replace")
    if len(data) > most:
        data = data[: most - 3].decode("utf-8", "ignore").encode() + "…".encode()
    return bytes([len(data)]) + data


def encode(said: Question | Answer) -> bytes:
    """Header and body. Of a question the flow must be IPv4 and have its source."""
    if isinstance(said, Question):
        flow = said.flow
        assert flow.source is not None
        flags = said.back * _BACK | said.want_back * _WANT_BACK
        body = _ASKED.pack(
            flags, said.index, flow.proto & 0xFF, flow.sport & 0xFFFF, flow.dport & 0xFFFF, flow.source,
            flow.destination,
        )  # fmt: skip
        return _HEADER.pack(_MAGIC, _VERSION, _QUESTION, len(body), said.nonce) + body
    hop = said.hop
    flags = said.back * _BACK | said.leg_back * _LEG_BACK | said.end * _END
    ends = DISPOSITIONS.index(hop.ends) + 1 if hop.ends in DISPOSITIONS else 0
    via = hop.next_hop or b""
    body = _SAID.pack(flags, said.index, ends, min(hop.mtu, 0xFFFFFFFF)) + bytes([len(via)]) + via
    body += _text(hop.node, NAME_OCTETS) + _text(hop.in_device, NAME_OCTETS) + _text(hop.out_device, NAME_OCTETS)
    body += _text(hop.route) + _text(hop.why)
    return _HEADER.pack(_MAGIC, _VERSION, _ANSWER, len(body), said.nonce) + body


# --- reading -------------------------------------------------------------------------------------------------------


def _clean(data: bytes) -> str:
    return "".join(c if c.isprintable() else "�" for c in data.decode("utf-8", "replace"))


def body_end(data: bytes) -> int:
    """Where the body ends and the MACs begin; 0 for what is no datagram of ours."""
    if not _HEADER.size <= len(data) <= LONGEST:
        return 0
    magic, version, _kind, size, _nonce = _HEADER.unpack_from(data)
    end = _HEADER.size + size
    return end if magic == _MAGIC and version == _VERSION and end <= len(data) else 0


def decode(data: bytes) -> tuple[Question | Answer | None, str]:
    """(what it says, "") or (None, a word for the counters)."""
    end = body_end(data)
    if not end:
        return None, "malformed"
    _magic, _version, kind, _size, nonce = _HEADER.unpack_from(data)
    body = data[_HEADER.size : end]
    if kind == _QUESTION:
        return _question(nonce, body)
    return _answer(nonce, body) if kind == _ANSWER else (None, "malformed")


def _question(nonce: bytes, body: bytes) -> tuple[Question | None, str]:
    if len(body) < _ASKED.size:
        return None, "malformed"
    flags, index, proto, sport, dport, source, destination = _ASKED.unpack_from(body)
    if index > MAX_INDEX:
        return None, "too-far"
    flow = Flow(destination, source, proto, sport, dport)
    return Question(nonce, flow, index, bool(flags & _BACK), bool(flags & _WANT_BACK)), ""


def _answer(nonce: bytes, body: bytes) -> tuple[Answer | None, str]:
    if len(body) < _SAID.size:
        return None, "malformed"
    flags, index, ends, mtu = _SAID.unpack_from(body)
    parts: list[bytes] = []
    at = _SAID.size
    for _ in range(6):
        if at >= len(body) or at + 1 + body[at] > len(body):
            return None, "malformed"
        parts.append(body[at + 1 : at + 1 + body[at]])
        at += 1 + body[at]
    via, node, came_in, out, route, why = parts
    if index > MAX_INDEX or len(via) not in (0, 4, 16) or max(map(len, (node, came_in, out))) > NAME_OCTETS:
        return None, "malformed"
    word = "" if not ends else DISPOSITIONS[ends - 1] if ends <= len(DISPOSITIONS) else "UNKNOWN"
    hop = Hop(
        node=_clean(node), in_device=_clean(came_in), route=_clean(route), next_hop=via or None, out_device=_clean(out),
        mtu=mtu, ends=word, why=_clean(why), seen=frozenset({DAEMON}),
    )  # fmt: skip
    return Answer(nonce, hop, index, bool(flags & _BACK), bool(flags & _LEG_BACK), bool(flags & _END)), ""


# --- who may speak -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ends:
    """The addresses and ports of a datagram: what a MAC covers besides its octets."""

    source: Address
    sport: int
    destination: Address
    dport: int


def _covered(data: bytes, ends: Ends) -> bytes:
    ports = struct.pack("!HH", ends.sport & 0xFFFF, ends.dport & 0xFFFF)
    return ends.source + ends.destination + ports + data


def sign(data: bytes, ends: Ends, keys: Iterable[Key]) -> bytes:
    """The datagram with a MAC for each of Babel's keys behind its body."""
    covered = _covered(data, ends)
    macs = [mac_of(key, covered) for key in keys]
    return data + b"".join(bytes((_MAC, len(mac))) + mac for mac in macs)


def signed(data: bytes, ends: Ends, keys: Iterable[Key]) -> bool:
    """One good MAC under one of the keys is enough."""
    end = body_end(data)
    if not end:
        return False
    macs: list[bytes] = []
    at = end
    while at + 2 <= len(data) and len(macs) < MAX_MACS:
        kind, size = data[at], data[at + 1]
        if kind == _MAC and at + 2 + size <= len(data):
            macs.append(data[at + 2 : at + 2 + size])
        at += 2 + size
    covered = _covered(data[:end], ends)
    return any(hmac.compare_digest(good, mac) for key in keys for good in [mac_of(key, covered)] for mac in macs)
