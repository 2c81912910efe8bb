"""Packet headers: built, parsed back, and read from octets that mean no good."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from via6.observe import packet as p
from via6.observe.packet import Frame, Icmp, IPv4, Udp
from via6.prefix import parse_address

A, B = parse_address("10.1.0.10"), parse_address("10.3.0.10")
# The example of RFC 1071 section 3.
RFC1071 = bytes.fromhex("0001f203f4f5f6f7")


def echo(payload: bytes = b"x" * 56) -> IPv4:
    return IPv4(A, B, p.ICMP, p.build_icmp(Icmp(p.ECHO_REQUEST, 0, 7, 1, payload)))


def framed(packet: IPv4) -> Frame:
    return Frame(bytes(5) + b"\2", bytes(5) + b"\1", p.ETH_IPV4, p.build_ipv4(packet))


def test_checksum() -> None:
    assert p.checksum(RFC1071) == 0x220D
    assert p.checksum(b"") == 0xFFFF
    assert p.checksum(b"\1") == 0xFEFF
    header = bytes.fromhex("45000073000040004011b861c0a80001c0a800c7")
    assert p.checksum(header) == 0


def test_header_of_the_textbook_is_built_and_read() -> None:
    header = bytes.fromhex("45000073000040004011b861c0a80001c0a800c7")
    packet, problems = p.parse_ipv4(header + bytes(0x73 - 20))
    assert problems == ()
    assert packet is not None
    assert (packet.ttl, packet.protocol, packet.fragment, packet.checksum) == (64, p.UDP, 0x4000, 0xB861)
    assert p.build_ipv4(packet)[:20] == header


def test_padding_of_a_short_frame_is_dropped() -> None:
    packet, problems = p.parse_ipv4(p.build_ipv4(IPv4(A, B, 99, b"abc")) + bytes(23))
    assert packet is not None
    assert (packet.payload, problems) == (b"abc", ())


def test_options_are_kept_and_padded() -> None:
    packet, problems = p.parse_ipv4(p.build_ipv4(IPv4(A, B, 99, b"abc", options=b"\x07\x03\x04")))
    assert packet is not None
    assert (packet.options, packet.payload, problems) == (b"\x07\x03\x04\0", b"abc", ())


def test_an_error_quotes_a_packet_that_was_cut() -> None:
    original = p.build_ipv4(IPv4(A, B, p.UDP, p.build_udp(Udp(4000, 33434, bytes(17)), A, B), ttl=1))
    error = Icmp(p.TIME_EXCEEDED, 0, payload=original[:28])
    about = p.quoted(error)
    assert about is not None
    assert (about.source, about.destination) == (A, B)
    datagram, problems = p.parse_udp(about.payload)
    assert datagram is not None
    assert (datagram.source_port, datagram.destination_port, datagram.length) == (4000, 33434, 25)
    assert problems == ("UDP datagram cut: 8 of 25 octets",)
    assert p.quoted(Icmp(p.ECHO_REPLY, payload=original)) is None


def test_udp_checksum_covers_the_addresses() -> None:
    datagram = p.build_udp(Udp(1, 2, b"odd"), A, B)
    pseudo = A + B + bytes((0, p.UDP)) + len(datagram).to_bytes(2, "big")
    assert p.checksum(pseudo + datagram) == 0


def test_what_is_wrong_is_said() -> None:
    good = p.build_ipv4(echo())
    assert p.parse_frame(bytes(13)) == (None, ("frame of 13 octets is shorter than an Ethernet header",))
    assert p.parse_ipv4(good[:19])[1] == ("19 octets are too few for an IPv4 header",)
    assert p.parse_ipv4(b"\x60" + good[1:])[1] == ("IP version 6, not 4",)
    assert p.parse_ipv4(b"\x44" + good[1:])[1] == ("IPv4 header length 16 does not fit",)
    assert p.parse_ipv4(good[:8] + b"\x01" + good[9:])[1] == ("IPv4 header checksum is wrong",)
    assert p.parse_ipv4(good[:40])[1] == ("IPv4 packet cut: 40 of 84 octets",)
    assert p.parse_icmp(good[20:] + b"\1")[1] == ("ICMP checksum is wrong",)
    assert p.parse_icmp(bytes(7))[0] is None
    assert p.parse_udp(bytes(8))[1] == ("UDP length 0 is shorter than its header",)


def test_the_line_that_shows_a_bare_packet() -> None:
    assert p.describe_frame(framed(echo()), "eth1") == (
        "eth1  00:00:00:00:00:01 > 00:00:00:00:00:02  ethertype 0x0800"
        "  IPv4 10.1.0.10 > 10.3.0.10  ICMP echo request  (98 octets, no outer header)"
    )


def test_tunnels_are_called_so() -> None:
    inner = p.build_ipv4(echo())
    six = bytes.fromhex("600000000054") + bytes((p.IPIP, 64)) + bytes(15) + b"\1" + bytes(15) + b"\2" + inner
    wrapped = Frame(bytes(6), bytes(6), p.ETH_IPV6, six)
    assert "IPv6 ::1 > ::2  next header 4  (138 octets, an outer IPv6 header)" in p.describe_frame(wrapped, "eth0")
    assert p.carried_ipv4(wrapped) is None
    ipip = framed(IPv4(B, A, p.IPIP, inner))
    assert p.describe_frame(ipip, "eth0").endswith(
        "IPv4 10.3.0.10 > 10.1.0.10  protocol 4  (118 octets, an outer IPv4 header)"
    )
    assert p.carried_ipv4(ipip) is None
    carried = p.carried_ipv4(framed(echo()))
    assert carried is not None
    assert carried.destination == B


def test_other_frames_have_a_line_too() -> None:
    assert p.describe_frame(Frame(bytes(6), bytes(6), p.ETH_ARP, bytes(28)), "e").endswith("0x0806  ARP  (42 octets)")
    assert p.describe_frame(Frame(bytes(6), bytes(6), 0x88CC, b""), "e").endswith("0x88cc  unknown  (14 octets)")
    assert p.describe_ipv4(IPv4(A, B, p.ICMP, b"")).endswith("ICMP, cut")
    assert p.describe_ipv4(IPv4(A, B, p.UDP, b"")).endswith("UDP, cut")
    assert p.describe_ipv4(IPv4(A, B, p.UDP, p.build_udp(Udp(9, 53), A, B))).endswith("UDP 9 > 53")


def test_names() -> None:
    assert p.icmp_name(3, 1) == "host unreachable"
    assert p.icmp_name(3, 77) == "destination unreachable, code 77"
    assert p.icmp_name(40, 2) == "ICMP type 40 code 2"


def test_a_hop_changes_ttl_and_checksum_alone() -> None:
    one, other = p.build_ipv4(echo()), p.build_ipv4(IPv4(A, B, p.ICMP, echo().payload, ttl=62))
    changed = p.differing_octets(one, other)
    assert changed[0] == 8
    assert p.ipv4_fields_at(changed) == ("ttl", "checksum")
    assert p.differing_octets(b"ab", b"abc") == (2,)
    assert p.ipv4_fields_at((12, 13, 19, 20, 80)) == ("source", "destination", "payload")
    assert p.ipv4_fields_at(p.differing_octets(one, one)) == ()


@given(st.binary(max_size=120))
def test_parsers_never_raise(data: bytes) -> None:
    for parse in (p.parse_ipv4, p.parse_icmp, p.parse_udp, p.parse_frame):
        value, problems = parse(data)
        assert value is not None or problems
    for ethertype in (p.ETH_IPV4, p.ETH_IPV6, p.ETH_ARP):
        assert p.describe_frame(Frame(bytes(6), bytes(6), ethertype, data), "eth0")
    p.quoted(Icmp(p.UNREACHABLE, payload=data))


@given(st.binary(max_size=100), st.integers(0, 255), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_built_is_read_back(payload: bytes, ttl: int, ident: int, seq: int) -> None:
    message = Icmp(p.ECHO_REQUEST, 0, ident, seq, payload)
    data = p.build_frame(framed(IPv4(A, B, p.ICMP, p.build_icmp(message), ttl, ident)))
    frame, problems = p.parse_frame(data)
    assert frame is not None
    assert len(frame) == len(data)
    packet, more = p.parse_ipv4(frame.payload)
    assert packet is not None
    assert (packet.ttl, packet.ident) == (ttl, ident)
    assert p.parse_icmp(packet.payload) == (message, ())
    assert problems + more == ()
