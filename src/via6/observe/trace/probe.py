"""The octets of a trace: probes that differ in nothing that a router hashes, and what comes back for them.

A router chooses among equal ways by addresses, protocol and ports. So all probes of a trace have the same (that is
what Paris traceroute found out), and each says its number where no router looks and every ICMP error quotes it, within
the eight octets behind the IPv4 header that RFC 792 demands:

    ICMP echo   the sequence number; the first two octets of data undo it, so that the checksum stays
    UDP         the length of the datagram
    TCP SYN     the sequence number

ICMP errors may carry extensions behind the quoted packet (RFC 4884): the interface (RFC 5837, class 2) and the node
(draft-ietf-intarea-extended-icmp-nodeid, class 5) that speaks. In a network of routers without IPv4 addresses, which
all answer as 192.0.0.8, they are what tells one from another. Nothing here raises, whatever the octets.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Final

from via6.observe.packet import (
    ECHO_REPLY,
    ECHO_REQUEST,
    ICMP_ERRORS,
    PORT_UNREACHABLE,
    TIME_EXCEEDED,
    UNREACHABLE,
    Icmp,
    IPv4,
    Problems,
    build_icmp,
    checksum,
    icmp_name,
    parse_ipv4,
)
from via6.observe.trace.model import ICMP, TCP, UDP, Flow
from via6.prefix import Address

DUMMY: Final = bytes((192, 0, 0, 8))
"""Where ICMPv4 of a router without any IPv4 address comes from (RFC 7600)."""

MOST: Final = 1 << 10
"""So many probes a trace may have: the longest UDP probe stays below the smallest MTU of IPv6 links."""

# What became of a probe.
HOP: Final = "hop"
REACHED: Final = "reached"
UNREACHABLE_KIND: Final = "unreachable"
SILENT: Final = "silent"

_SYN: Final = 0x02
RST: Final = 0x04
_ACK: Final = 0x10
_SHORTEST: Final = 12  # octets of a UDP probe's data
_FRAGMENTATION_NEEDED: Final = 4
_PROTOCOL_UNREACHABLE: Final = 2
_FILLER: Final = b"via6 trace".ljust(22)

_CLASS_INTERFACE: Final = 2
_CLASS_NODE: Final = 5
_HAS_IFINDEX: Final = 0x08  # C-Type, the bits of RFC 5837 4.1
_HAS_ADDRESS: Final = 0x04
_HAS_NAME: Final = 0x02
_HAS_MTU: Final = 0x01
_LEAST_QUOTE: Final = 128  # RFC 4884 4.2: behind so much of the packet, or more, extensions begin
_SIZES: Final = {1: 4, 2: 16}  # octets of an address by AFI
_LONGEST_NAME: Final = 64

ROLE_IN: Final = 0  # the interface by which the packet came in
ROLE_SUB: Final = 1  # the link of an aggregate by which it came in
ROLE_OUT: Final = 2  # the interface by which it would have left
ROLE_NEXT_HOP: Final = 3  # the next hop to which it would have gone


@dataclass(frozen=True, slots=True)
class Interface:
    """What an ICMP error tells of an interface; 0, None and "" are what it does not tell."""

    role: int
    ifindex: int = 0
    address: Address | None = None
    name: str = ""
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class Extensions:
    """The objects behind a quoted packet that we know."""

    interfaces: tuple[Interface, ...] = ()
    node_name: str = ""
    node_address: Address | None = None

    def interface(self, role: int) -> Interface | None:
        """The first of a role."""
        return next((one for one in self.interfaces if one.role == role), None)

    def __bool__(self) -> bool:
        return bool(self.interfaces or self.node_name or self.node_address)


NOTHING: Final = Extensions()


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer to probe `number`: what `kind` of one, from where, and its TTL on arrival (0: not known). `left` is
    the TTL that the probe still had where an error speaks of it, `ifindex` where the answer came in (0: not known)."""

    number: int
    kind: str
    source: Address
    type: int = 0
    code: int = 0
    mtu: int = 0
    ttl: int = 0
    extensions: Extensions = NOTHING
    left: int = 0
    ifindex: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of the probes with one TTL. `refused` is what the own kernel said when it would not send, `device`
    where the answer came in."""

    ttl: int
    kind: str = SILENT
    source: Address | None = None
    rtt_ms: float | None = None
    type: int = 0
    code: int = 0
    mtu: int = 0
    ttl_back: int = 0
    extensions: Extensions = NOTHING
    refused: str = ""
    device: str = ""

    @property
    def words(self) -> str:
        """What an ICMP error says, `fragmentation needed, MTU 1400`; empty for what is none."""
        if self.kind != UNREACHABLE_KIND:
            return ""
        name = icmp_name(self.type, self.code)
        return f"{name}, MTU {self.mtu}" if self.mtu else name


# --- build ---------------------------------------------------------------------------------------------------------


def build_echo(ident: int, number: int) -> bytes:
    """An ICMP echo request; `ident` and checksum are the same for all numbers."""
    undo = 0xFFFF - (number & 0xFFFF)  # the two add up to 0xffff, which is zero in ones' complement
    return build_icmp(Icmp(ECHO_REQUEST, 0, ident, number & 0xFFFF, undo.to_bytes(2, "big") + _FILLER))


def udp_data(number: int) -> bytes:
    """The data of UDP probe `number`: it says the number, and its length does, too."""
    return (struct.pack("!4sH", b"via6", number) + _FILLER * 50)[: _SHORTEST + number]


def build_syn(flow: Flow, number: int, base: int) -> bytes:
    """A TCP SYN with the sequence number `base` + `number`. The flow has a source."""
    assert flow.source is not None
    seq = (base + number) & 0xFFFFFFFF
    blank = struct.pack("!HHIIBBHHH", flow.sport, flow.dport, seq, 0, 6 << 4, _SYN, 0xFFFF, 0, 0) + b"\2\4\5\xb4"
    pseudo = flow.source + flow.destination + struct.pack("!BBH", 0, TCP, len(blank))
    return blank[:16] + checksum(pseudo + blank).to_bytes(2, "big") + blank[18:]


# --- parse ---------------------------------------------------------------------------------------------------------


def hear(packet: bytes, flow: Flow, ident: int = 0, base: int = 0) -> Heard | None:
    """What a raw socket has read, if it answers a probe of this flow. `ident` is that of the echo requests, `base`
    that of `build_syn`."""
    found = parse_ipv4(packet)[0]
    if found is None:
        return None
    if found.protocol == ICMP:
        return _hear_icmp(found, flow, ident, base)
    if found.protocol == TCP == flow.proto:
        return _hear_tcp(found, flow, base)
    return None


def _hear_icmp(packet: IPv4, flow: Flow, ident: int, base: int) -> Heard | None:
    data = packet.payload
    if len(data) < 8 or checksum(data):
        return None
    kind, code, _, word, seq = struct.unpack_from("!BBHHH", data)
    if kind == ECHO_REPLY:
        if flow.proto != ICMP or word != ident or packet.source != flow.destination:
            return None
        return Heard(seq, REACHED, packet.source, kind, code, ttl=packet.ttl)
    if kind not in ICMP_ERRORS:
        return None
    quote, extensions = split_error(data)
    inner = parse_ipv4(quote)[0]
    if inner is None or inner.protocol != flow.proto or inner.destination != flow.destination:
        return None
    if flow.source is not None and inner.source != flow.source:
        return None
    number = _number(inner.payload, flow, ident, base)
    if number is None:
        return None
    found = heard_error(number, kind, code, seq, packet.source, flow, extensions)
    return replace(found, ttl=packet.ttl, left=inner.ttl)


def heard_error(
    number: int, kind: int, code: int, mtu: int, source: Address, flow: Flow, extensions: Extensions
) -> Heard:
    """What an ICMP error about a probe means. A port or protocol that is closed is an answer of the destination; if
    another says it, a packet filter does."""
    what = HOP if kind == TIME_EXCEEDED and code == 0 else UNREACHABLE_KIND
    if kind == UNREACHABLE and code in (PORT_UNREACHABLE, _PROTOCOL_UNREACHABLE) and source == flow.destination:
        what = REACHED
    mtu = mtu if kind == UNREACHABLE and code == _FRAGMENTATION_NEEDED else 0
    return Heard(number, what, source, kind, code, mtu, 0, extensions)


def _number(quoted: bytes, flow: Flow, ident: int, base: int) -> int | None:
    """The number of the probe whose first octets (behind the IPv4 header) an error quotes."""
    if len(quoted) < 8:
        return None
    if flow.proto == ICMP:
        kind, code, _, word, seq = struct.unpack_from("!BBHHH", quoted)
        return int(seq) if (kind, code, word) == (ECHO_REQUEST, 0, ident) else None
    sport, dport = struct.unpack_from("!HH", quoted)
    if (sport, dport) != (flow.sport, flow.dport):
        return None
    if flow.proto == UDP:
        number = int.from_bytes(quoted[4:6], "big") - 8 - _SHORTEST
        return number if number >= 0 else None
    return _offset(int.from_bytes(quoted[4:8], "big"), base)


def number_of_data(data: bytes, flow: Flow) -> int | None:
    """The number of a probe from the octets behind its UDP header, or (ICMP) from its ICMP header on: what the error
    queue of a socket gives. None where the error quoted too little."""
    if flow.proto == UDP:
        return int(struct.unpack_from("!H", data, 4)[0]) if len(data) >= 6 and data[:4] == b"via6" else None
    return int.from_bytes(data[6:8], "big") if len(data) >= 8 and data[0] == ECHO_REQUEST else None


def _hear_tcp(packet: IPv4, flow: Flow, base: int) -> Heard | None:
    data = packet.payload
    if packet.source != flow.destination or len(data) < 20:
        return None
    sport, dport, _, ack, _, flags = struct.unpack_from("!HHIIBB", data)
    if (sport, dport) != (flow.dport, flow.sport) or not flags & (_SYN | RST) or not flags & _ACK:
        return None
    number = _offset((ack - 1) & 0xFFFFFFFF, base)
    return None if number is None else Heard(number, REACHED, packet.source, TCP, flags, ttl=packet.ttl)


def _offset(value: int, base: int) -> int | None:
    number = (value - base) & 0xFFFFFFFF
    return number if number < MOST else None


def split_error(data: bytes) -> tuple[bytes, Extensions]:
    """(the quoted packet, the extensions) of an ICMP error, given from its header on. Where the length is 0, as
    before RFC 4884, extensions count behind 128 octets if their checksum is right (its section 5.5)."""
    payload = data[8:]
    length = data[5] * 4 if len(data) > 5 else 0
    if length >= _LEAST_QUOTE and length < len(payload):
        return payload[:length], parse_extensions(payload[length:])[0]
    rest = payload[_LEAST_QUOTE:]
    if not length and len(rest) >= 4 and rest[2:4] != b"\0\0":
        found, problems = parse_extensions(rest)
        if found and not problems:
            return payload[:_LEAST_QUOTE], found
    return payload, NOTHING


def parse_extensions(data: bytes) -> tuple[Extensions, Problems]:
    """An extension structure (RFC 4884 7): a header and objects. Behind an object of wrong size nothing is read, and in
    an object nothing behind a value that cannot be read."""
    if len(data) < 4:
        return NOTHING, (f"{len(data)} octets are too few for an extension header",)
    if data[0] >> 4 != 2:
        return NOTHING, (f"extension version {data[0] >> 4}, not 2",)
    if data[2:4] != b"\0\0" and checksum(data):  # 0: none was sent
        return NOTHING, ("checksum of the extensions is wrong",)
    interfaces: list[Interface] = []
    name, address = "", None
    at = 4
    problems: list[str] = []
    while at < len(data):
        length, kind, ctype = struct.unpack_from("!HBB", data, at) if len(data) - at >= 4 else (0, 0, 0)
        if length < 4 or at + length > len(data):
            problems.append(f"extension object at octet {at} does not fit")
            break
        body = data[at + 4 : at + length]
        if kind == _CLASS_INTERFACE:
            one, whole = _interface(ctype, body)
            interfaces += [one] if whole or one != Interface(one.role) else []
        elif kind == _CLASS_NODE:
            told, whole = _node(ctype, body)
            address, name = told[0] or address, told[1] or name
        else:
            whole = True
        if not whole:
            problems.append(f"{'interface' if kind == _CLASS_INTERFACE else 'node'} object cannot be read to its end")
        at += length
    return Extensions(tuple(interfaces), name, address), tuple(problems)


class _Short(Exception):  # noqa: N818
    """The octets end before the value does."""


class _Body:
    """Reads the values of an object one behind the other."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, size: int) -> bytes:
        if len(self.data) < size:
            raise _Short
        head, self.data = self.data[:size], self.data[size:]
        return head

    def number(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def address(self) -> Address:
        size = _SIZES.get(int.from_bytes(self.take(4)[:2], "big"))
        if size is None:
            raise _Short
        return self.take(size)

    def name(self) -> str:
        """A length octet that counts itself, then UTF-8, padded to words with zeros; what would upset a terminal is
        taken out. One that is longer than allowed is passed over."""
        size = self.data[0] if self.data else 0
        if not size:
            raise _Short
        text = self.take(size)[1:].rstrip(b"\0").decode("utf-8", "replace")
        self.data = self.data[-size % 4 :]
        return "".join(letter if letter.isprintable() else "?" for letter in text) if size <= _LONGEST_NAME else ""


def _interface(ctype: int, body: bytes) -> tuple[Interface, bool]:
    """(what is said before something that cannot be read, whether that was all)"""
    rest, found = _Body(body), Interface(ctype >> 6)
    try:
        if ctype & _HAS_IFINDEX:
            found = replace(found, ifindex=rest.number())
        if ctype & _HAS_ADDRESS:
            found = replace(found, address=rest.address())
        if ctype & _HAS_NAME:
            found = replace(found, name=rest.name())
        if ctype & _HAS_MTU:
            found = replace(found, mtu=rest.number())
    except _Short:
        return found, False
    return found, True


def _node(ctype: int, body: bytes) -> tuple[tuple[Address | None, str], bool]:
    """(address and name as far as they can be read, whether that was all)"""
    rest, address, name = _Body(body), None, ""
    try:
        if ctype & _HAS_ADDRESS:
            address = rest.address()
        if ctype & _HAS_NAME:
            name = rest.name()
    except _Short:
        return (address, name), False
    return (address, name), True
