"""Golden netlink messages: text files of octets in hex, an attribute a line, with comments.

# an IPv4 route with an IPv6 next hop
# = Route(prefix=…)                        the value that it stands for, as repr writes it
44000000 18000506 00000000 00000000        header
0210000004400000                           …
08000100 0a000000                          attribute 1
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from via6.netlink import objects, wire
from via6.netlink.objects import IFADDRMSG, IFINFOMSG, NDMSG, NHMSG, RULEHDR
from via6.netlink.route import RTMSG, decode_route
from via6.netlink.wire import ATTR, HEADER, NLA_TYPE_MASK, align

DECODERS: dict[int, Callable[[bytes], tuple[Any, str]]] = {
    16: objects.decode_link,
    20: objects.decode_address,
    24: decode_route,
    28: objects.decode_neighbour,
    32: objects.decode_rule,
    104: objects.decode_nexthop,
}

FOLDER = Path(__file__).parent / "golden" / "netlink"


def body_size(kind: int) -> int:
    """Octets between the header and the first attribute, by message type (linux/rtnetlink.h)."""
    if kind < 16:
        return 0
    sizes = {
        16: IFINFOMSG.size, 20: IFADDRMSG.size, 24: RTMSG.size, 28: NDMSG.size, 32: RULEHDR.size, 104: NHMSG.size,
    }  # fmt: skip
    return sizes[kind & ~3]


def to_text(about: str, value: object, message: bytes) -> str:
    """The file for a message."""
    _length, kind, *_ = HEADER.unpack_from(message)
    body = body_size(kind)
    lines = [f"# {about}", f"# = {value!r}", f"{_hex(message[:16])}  # header, type {kind}"]
    if not body:
        lines += [_hex(message[at : at + 32]) for at in range(16, len(message), 32)]
        return "\n".join(lines) + "\n"
    lines.append(f"{_hex(message[16 : 16 + body])}  # {body} octets of its own")
    at = 16 + body
    while at + 4 <= len(message):
        length, number = ATTR.unpack_from(message, at)
        lines.append(f"{_hex(message[at : at + align(length)])}  # attribute {number & NLA_TYPE_MASK}")
        at += max(align(length), 4)
    return "\n".join(lines) + "\n"


def _hex(octets: bytes) -> str:
    return octets.hex(" ", -4)


def read(path: Path) -> tuple[str, str, bytes]:
    """(what it is about, repr of its value, the message)."""
    lines = path.read_text().splitlines()
    octets = "".join(line.partition("#")[0] for line in lines)
    return lines[0].removeprefix("# "), lines[1].removeprefix("# = "), bytes.fromhex(octets)


def value_of(message: bytes) -> Any:
    """What a message that was received stands for; None if it is not for us."""
    (one,) = wire.messages(message)
    if one.type == wire.NLMSG_ERROR:
        return wire.decode_ack(one)
    return DECODERS[one.type](one.payload)[0]
