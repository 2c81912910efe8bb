"""Ethernet, IPv4, ICMPv4 and UDP headers: octets to values and back.

What the probes send and what a capture shows. RFC 791 (IPv4), RFC 792 (ICMP), RFC 768 (UDP), RFC 1071 (checksum).
A parser takes any octets and never raises: it returns (value or None, problems). A value may come with problems, for
an ICMP error quotes the packet it speaks of and often cuts it short: that quotation is still worth reading.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from via6.prefix import Address, format_address

ETH_IPV4: Final = 0x0800
ETH_ARP: Final = 0x0806
ETH_IPV6: Final = 0x86DD
ETHERTYPES: Final = {ETH_IPV4: "IPv4", ETH_ARP: "ARP", ETH_IPV6: "IPv6"}

ICMP: Final = 1
IPIP: Final = 4
UDP: Final = 17

ECHO_REPLY: Final = 0
UNREACHABLE: Final = 3
ECHO_REQUEST: Final = 8
TIME_EXCEEDED: Final = 11

PORT_UNREACHABLE: Final = 3

ICMP_TYPES: Final = {
    ECHO_REPLY: "echo reply",
    UNREACHABLE: "destination unreachable",
    4: "source quench",
    5: "redirect",
    ECHO_REQUEST: "echo request",
    TIME_EXCEEDED: "time exceeded",
    12: "parameter problem",
    13: "timestamp request",
    14: "timestamp reply",
}
ICMP_ERRORS: Final = frozenset({UNREACHABLE, 4, TIME_EXCEEDED, 12})
"""The types that quote the packet which caused them (RFC 1122 3.2.2)."""

UNREACHABLE_CODES: Final = {
    0: "network unreachable",
    1: "host unreachable",
    2: "protocol unreachable",
    3: "port unreachable",
    4: "fragmentation needed",
    5: "source route failed",
    6: "network unknown",
    7: "host unknown",
    9: "network prohibited",
    10: "host prohibited",
    13: "administratively prohibited",
}

_ETHERNET: Final = struct.Struct("!6s6sH")
_IPV4: Final = struct.Struct("!BBHHHBBH4s4s")
_IPV6: Final = struct.Struct("!IHBB16s16s")
_ICMP: Final = struct.Struct("!BBHHH")
_UDP: Final = struct.Struct("!HHHH")

Problems = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """An Ethernet frame without its check sequence; the addresses are 6 octets each."""

    destination: bytes
    source: bytes
    ethertype: int
    payload: bytes

    def __len__(self) -> int:
        return _ETHERNET.size + len(self.payload)


@dataclass(frozen=True, slots=True)
class IPv4:
    """An IPv4 packet. `fragment` holds flags and offset as on the wire; `length` and `checksum` are what a parsed
    header said and play no part in building one."""

    source: Address
    destination: Address
    protocol: int
    payload: bytes
    ttl: int = 64
    ident: int = 0
    fragment: int = 0
    tos: int = 0
    options: bytes = b""
    length: int = 0
    checksum: int = 0


@dataclass(frozen=True, slots=True)
class Icmp:
    """An ICMPv4 message: `ident` and `seq` are the second 32-bit word, whatever the type makes of it."""

    type: int
    code: int = 0
    ident: int = 0
    seq: int = 0
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class Udp:
    """A UDP datagram; `length` is the header's word, which stays true where an ICMP error has cut the payload."""

    source_port: int
    destination_port: int
    payload: bytes = b""
    length: int = 0


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071): 0 for octets that already hold a right one."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


# --- build ---------------------------------------------------------------------------------------------------------


def build_icmp(message: Icmp) -> bytes:
    """Octets of an ICMP message, checksum set."""
    blank = _ICMP.pack(message.type, message.code, 0, message.ident, message.seq) + message.payload
    return blank[:2] + checksum(blank).to_bytes(2, "big") + blank[4:]


def build_udp(datagram: Udp, source: Address, destination: Address) -> bytes:
    """Octets of a UDP datagram between two IPv4 addresses, checksum set (0 is sent as 0xffff, RFC 768)."""
    size = _UDP.size + len(datagram.payload)
    blank = _UDP.pack(datagram.source_port, datagram.destination_port, size, 0) + datagram.payload
    summed = checksum(source + destination + struct.pack("!BBH", 0, UDP, size) + blank) or 0xFFFF
    return blank[:6] + summed.to_bytes(2, "big") + blank[8:]


def build_ipv4(packet: IPv4) -> bytes:
    """Octets of an IPv4 packet; length, header length and checksum are computed. Options are padded to words."""
    options = packet.options + bytes(-len(packet.options) % 4)
    size = _IPV4.size + len(options)
    blank = (
        _IPV4.pack(
            0x40 | size // 4, packet.tos, size + len(packet.payload), packet.ident, packet.fragment,
            packet.ttl, packet.protocol, 0, packet.source, packet.destination,
        )
        + options
    )  # fmt: skip
    return blank[:10] + checksum(blank).to_bytes(2, "big") + blank[12:] + packet.payload


def build_frame(frame: Frame) -> bytes:
    """Octets of an Ethernet frame; no padding to 60 octets, a driver does that."""
    return _ETHERNET.pack(frame.destination, frame.source, frame.ethertype) + frame.payload


# --- parse ---------------------------------------------------------------------------------------------------------


def parse_frame(data: bytes) -> tuple[Frame | None, Problems]:
    """An Ethernet II frame (untagged, or with the tag left in the payload)."""
    if len(data) < _ETHERNET.size:
        return None, (f"frame of {len(data)} octets is shorter than an Ethernet header",)
    destination, source, ethertype = _ETHERNET.unpack_from(data)
    return Frame(destination, source, ethertype, data[_ETHERNET.size :]), ()


def parse_ipv4(data: bytes) -> tuple[IPv4 | None, Problems]:
    """An IPv4 packet; octets behind its own length (Ethernet padding) are dropped."""
    if len(data) < _IPV4.size:
        return None, (f"{len(data)} octets are too few for an IPv4 header",)
    first, tos, length, ident, fragment, ttl, protocol, summed, source, destination = _IPV4.unpack_from(data)
    header = (first & 15) * 4
    if first >> 4 != 4:
        return None, (f"IP version {first >> 4}, not 4",)
    if header < _IPV4.size or header > len(data):
        return None, (f"IPv4 header length {header} does not fit",)
    problems = []
    if checksum(data[:header]):
        problems.append("IPv4 header checksum is wrong")
    if length < header:
        return None, (*problems, f"IPv4 length {length} is shorter than its header")
    if length > len(data):
        problems.append(f"IPv4 packet cut: {len(data)} of {length} octets")
    packet = IPv4(
        source, destination, protocol, data[header:length], ttl, ident, fragment, tos,
        data[_IPV4.size : header], length, summed,
    )  # fmt: skip
    return packet, tuple(problems)


def parse_icmp(data: bytes) -> tuple[Icmp | None, Problems]:
    """An ICMPv4 message. A wrong checksum is a problem, not a refusal: a quoted message is mostly cut."""
    if len(data) < _ICMP.size:
        return None, (f"{len(data)} octets are too few for an ICMP header",)
    kind, code, _, ident, seq = _ICMP.unpack_from(data)
    problems = ("ICMP checksum is wrong",) if checksum(data) else ()
    return Icmp(kind, code, ident, seq, data[_ICMP.size :]), problems


def parse_udp(data: bytes) -> tuple[Udp | None, Problems]:
    """A UDP datagram. Its checksum needs the addresses and is left alone (a local one may not be filled in yet)."""
    if len(data) < _UDP.size:
        return None, (f"{len(data)} octets are too few for a UDP header",)
    source_port, destination_port, length, _ = _UDP.unpack_from(data)
    if length < _UDP.size:
        return None, (f"UDP length {length} is shorter than its header",)
    problems = (f"UDP datagram cut: {len(data)} of {length} octets",) if length > len(data) else ()
    return Udp(source_port, destination_port, data[_UDP.size : length], length), problems


def quoted(message: Icmp) -> IPv4 | None:
    """The packet that an ICMP error speaks of, as far as it was quoted; None if this is no error."""
    return parse_ipv4(message.payload)[0] if message.type in ICMP_ERRORS else None


# --- words ---------------------------------------------------------------------------------------------------------


def icmp_name(kind: int, code: int = 0) -> str:
    """`echo request`, `host unreachable`, `ICMP type 40 code 2`."""
    if kind == UNREACHABLE:
        return UNREACHABLE_CODES.get(code, f"destination unreachable, code {code}")
    return ICMP_TYPES.get(kind, f"ICMP type {kind} code {code}")


def format_lladdr(address: bytes) -> str:
    """`02:00:00:00:00:01`."""
    return address.hex(":")


def describe_ipv4(packet: IPv4) -> str:
    """`IPv4 10.1.0.10 > 10.3.0.10  ICMP echo request`."""
    ends = f"IPv4 {format_address(packet.source)} > {format_address(packet.destination)}"
    if packet.protocol == ICMP:
        message, _ = parse_icmp(packet.payload)
        return f"{ends}  ICMP {icmp_name(message.type, message.code)}" if message else f"{ends}  ICMP, cut"
    if packet.protocol == UDP:
        datagram, _ = parse_udp(packet.payload)
        return f"{ends}  UDP {datagram.source_port} > {datagram.destination_port}" if datagram else f"{ends}  UDP, cut"
    return f"{ends}  protocol {packet.protocol}"


def carried_ipv4(frame: Frame) -> IPv4 | None:
    """The IPv4 packet that is the frame's payload as such. One wrapped in an IPv6 or IPv4 header is not meant."""
    if frame.ethertype != ETH_IPV4:
        return None
    packet, _ = parse_ipv4(frame.payload)
    return packet if packet and packet.protocol != IPIP else None


def describe_frame(frame: Frame, device: str) -> str:
    """One line, as tcpdump would: device, addresses, ethertype, what is in it, its length, and whether the IPv4
    packet lies bare in the frame."""
    head = (
        f"{device}  {format_lladdr(frame.source)} > {format_lladdr(frame.destination)}"
        f"  ethertype 0x{frame.ethertype:04x}"
    )
    packet = parse_ipv4(frame.payload)[0] if frame.ethertype == ETH_IPV4 else None
    if packet and packet.protocol != IPIP:
        return f"{head}  {describe_ipv4(packet)}  ({len(frame)} octets, no outer header)"
    if packet:
        return f"{head}  {describe_ipv4(packet)}  ({len(frame)} octets, an outer IPv4 header)"
    if frame.ethertype == ETH_IPV6 and len(frame.payload) >= _IPV6.size:
        _, _, following, _, source, destination = _IPV6.unpack_from(frame.payload)
        ends = f"IPv6 {format_address(source)} > {format_address(destination)}"
        wrapped = ", an outer IPv6 header" if following == IPIP else ""
        return f"{head}  {ends}  next header {following}  ({len(frame)} octets{wrapped})"
    return f"{head}  {ETHERTYPES.get(frame.ethertype, 'unknown')}  ({len(frame)} octets)"


def differing_octets(one: bytes, other: bytes) -> tuple[int, ...]:
    """Offsets at which two packets differ; those that only the longer one has count too."""
    size = max(len(one), len(other))
    return tuple(i for i in range(size) if one[i : i + 1] != other[i : i + 1])


def ipv4_fields_at(offsets: tuple[int, ...]) -> tuple[str, ...]:
    """Names of the fields of an option-less IPv4 header in which these offsets lie, in the order of the wire."""
    names = (
        (1, "version"), (2, "tos"), (4, "length"), (6, "ident"), (8, "fragment"), (9, "ttl"), (10, "protocol"),
        (12, "checksum"), (16, "source"), (20, "destination"),
    )  # fmt: skip
    found = dict.fromkeys(next((name for end, name in names if at < end), "payload") for at in offsets)
    return tuple(found)
