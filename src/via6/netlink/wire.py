"""The envelope: message headers, attributes, acknowledgements (linux/netlink.h).

Integers are in host order, addresses in network order. Nothing here trusts a length that came from outside: a
message or attribute that does not fit ends the walk and says so, it never raises and never loops.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
ATTR: Final = struct.Struct("=HH")  # length with this header, type
U16: Final = struct.Struct("=H")
U32: Final = struct.Struct("=I")

NLMSG_NOOP: Final = 1
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3

NLM_F_REQUEST: Final = 0x01
NLM_F_ACK: Final = 0x04
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_DUMP: Final = 0x300
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLM_F_CAPPED: Final = 0x100  # in an acknowledgement: the request is not repeated in full
NLM_F_ACK_TLVS: Final = 0x200

NLMSGERR_ATTR_MSG: Final = 1

NLA_TYPE_MASK: Final = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER


class Message(NamedTuple):
    """One netlink message; `payload` is what follows the header."""

    type: int
    flags: int
    seq: int
    portid: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Ack:
    """An acknowledgement (struct nlmsgerr): errno 0 is success; `text` is the extended ACK's ("" if there is none);
    `request` the octets of the refused message, header included (empty on success)."""

    seq: int
    errno: int
    text: str
    request: bytes


def align(length: int) -> int:
    """Up to the next multiple of 4."""
    return (length + 3) & ~3


def message(kind: int, flags: int, payload: bytes, seq: int = 0) -> bytes:
    """A message with its header; the payload's length must be a multiple of 4."""
    return HEADER.pack(16 + len(payload), kind, flags, seq, 0) + payload


def attribute(kind: int, payload: bytes) -> bytes:
    """An attribute, padded."""
    length = 4 + len(payload)
    return ATTR.pack(length, kind) + payload + bytes(-length & 3)


def attribute_u32(kind: int, value: int) -> bytes:
    return ATTR.pack(8, kind) + U32.pack(value)


def messages(data: bytes) -> Iterator[Message]:
    """The messages of one datagram; stops at the first that does not fit."""
    offset, end = 0, len(data)
    while offset + 16 <= end:
        length, kind, flags, seq, portid = HEADER.unpack_from(data, offset)
        if length < 16 or offset + length > end:
            return
        yield Message(kind, flags, seq, portid, data[offset + 16 : offset + length])
        offset += align(length)


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Attributes by type, the last of a type winning; an attribute that does not fit ends the walk."""
    found: dict[int, bytes] = {}
    end = len(data)
    while offset + 4 <= end:
        length, kind = ATTR.unpack_from(data, offset)
        if length < 4 or offset + length > end:
            break
        found[kind & NLA_TYPE_MASK] = data[offset + 4 : offset + length]
        offset += align(length)
    return found


def u32(attrs: dict[int, bytes], kind: int, default: int = 0) -> int:
    """A 32-bit attribute, or the default when it is missing or has another size."""
    value = attrs.get(kind)
    return int(U32.unpack(value)[0]) if value is not None and len(value) == 4 else default


def text(attrs: dict[int, bytes], kind: int) -> str:
    """A string attribute up to its NUL, hostile octets made harmless."""
    return attrs.get(kind, b"").split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def decode_ack(msg: Message) -> Ack:
    """An NLMSG_ERROR message, or the NLMSG_DONE of a dump, which carries its error in the same place."""
    payload = msg.payload
    number = -struct.unpack_from("=i", payload)[0] if len(payload) >= 4 else errno.EPROTO
    if number < 0:
        number = 0
    if msg.type == NLMSG_DONE:
        request, tail = b"", 4
    else:
        size = int(U32.unpack_from(payload, 4)[0]) if len(payload) >= 8 else 0
        request = payload[4 : 4 + size] if number and not msg.flags & NLM_F_CAPPED else b""
        tail = 4 + (align(size) if number and not msg.flags & NLM_F_CAPPED else 16)
    words = ""
    if msg.flags & NLM_F_ACK_TLVS:
        words = text(attributes(payload, tail), NLMSGERR_ATTR_MSG)
    return Ack(msg.seq, number, words, request)
