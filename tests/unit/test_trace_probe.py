"""Probes of a trace and what comes back for them, octet by octet."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from via6.observe.packet import Icmp, IPv4, Udp, build_icmp, build_ipv4, build_udp, checksum, parse_icmp
from via6.observe.trace import probe
from via6.observe.trace.model import ICMP, TCP, UDP, Flow
from via6.observe.trace.probe import DUMMY, MOST, Extensions, Interface, hear, parse_extensions
from via6.prefix import parse_address

SOURCE = parse_address("10.9.0.1")
TARGET = parse_address("10.9.7.1")
ROUTER = DUMMY
IDENT = 0x4711
BASE = 0xFFFFFFF0
FLOWS = {
    ICMP: Flow(TARGET, SOURCE),
    UDP: Flow(TARGET, SOURCE, UDP, 40000, 33434),
    TCP: Flow(TARGET, SOURCE, TCP, 40000, 80),
}
NUMBERS = st.integers(0, MOST - 1)


def sent(flow: Flow, number: int) -> bytes:
    """The IPv4 packet of a probe."""
    if flow.proto == ICMP:
        payload = probe.build_echo(IDENT, number)
    elif flow.proto == UDP:
        payload = build_udp(Udp(flow.sport, flow.dport, probe.udp_data(number)), SOURCE, TARGET)
    else:
        payload = probe.build_syn(flow, number, BASE)
    return build_ipv4(IPv4(SOURCE, TARGET, flow.proto, payload, ttl=1, ident=number))


def error(
    about: bytes,
    kind: int = 11,
    code: int = 0,
    *,
    source: bytes = ROUTER,
    rest: bytes = b"",
    words: int = 0,
    mtu: int = 0,
) -> bytes:
    """The ICMP error of a router; `words` is the length of RFC 4884, `rest` what follows the quote."""
    if rest:
        about = about[:128].ljust(128, b"\0")
    message = build_icmp(Icmp(kind, code, words, mtu, about + rest))
    return build_ipv4(IPv4(source, SOURCE, ICMP, message, ttl=60))


def extension(*objects: bytes) -> bytes:
    """An extension structure of these objects."""
    blank = b"\x20\0\0\0" + b"".join(objects)
    return blank[:2] + checksum(blank).to_bytes(2, "big") + blank[4:]


def thing(kind: int, ctype: int, body: bytes) -> bytes:
    return struct.pack("!HBB", 4 + len(body), kind, ctype) + body


# --- probes --------------------------------------------------------------------------------------------------------


@given(NUMBERS, NUMBERS)
def test_no_octet_that_is_hashed_differs(one: int, other: int) -> None:
    echo, echo2 = probe.build_echo(IDENT, one), probe.build_echo(IDENT, other)
    assert echo[:6] == echo2[:6]
    assert checksum(echo) == 0
    assert len(echo) == len(echo2)
    for proto in (UDP, TCP):
        first, second = sent(FLOWS[proto], one), sent(FLOWS[proto], other)
        assert first[20:24] == second[20:24] == struct.pack("!HH", 40000, FLOWS[proto].dport)


def test_the_longest_udp_probe_fits_the_smallest_link() -> None:
    assert len(sent(FLOWS[UDP], MOST - 1)) <= 1280


def test_a_syn_has_a_right_checksum() -> None:
    syn = probe.build_syn(FLOWS[TCP], 3, BASE)
    assert checksum(SOURCE + TARGET + struct.pack("!BBH", 0, TCP, len(syn)) + syn) == 0
    assert syn[13] == 0x02


# --- what comes back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proto", FLOWS)
@given(number=NUMBERS, quoted=st.sampled_from((28, 40, 548)))
def test_an_error_says_which_probe_even_if_it_quotes_eight_octets(proto: int, number: int, quoted: int) -> None:
    flow = FLOWS[proto]
    found = hear(error(sent(flow, number)[:quoted]), flow, IDENT, BASE)
    assert found is not None
    assert (found.number, found.kind, found.source, found.ttl) == (number, "hop", ROUTER, 60)


@pytest.mark.parametrize("proto", FLOWS)
def test_errors_of_others_are_not_ours(proto: int) -> None:
    flow = FLOWS[proto]
    for other in (
        Flow(TARGET, SOURCE, proto, 40001 if proto != ICMP else 0, flow.dport),
        Flow(ROUTER, SOURCE, proto, flow.sport, flow.dport),
        Flow(TARGET, ROUTER, proto, flow.sport, flow.dport),
    ):
        if other != flow:
            assert hear(error(sent(flow, 1)), other, IDENT, BASE) is None
    assert hear(error(sent(flow, 1)), flow, IDENT ^ 1, BASE ^ 0x55555555) is None or proto == UDP
    damaged = bytearray(error(sent(flow, 1)))
    damaged[-1] ^= 1
    assert hear(bytes(damaged), flow, IDENT, BASE) is None


def test_what_arrives() -> None:
    flow = FLOWS[ICMP]
    reply = build_icmp(Icmp(0, 0, IDENT, 7, b"x"))
    found = hear(build_ipv4(IPv4(TARGET, SOURCE, ICMP, reply, ttl=55)), flow, IDENT)
    assert found is not None
    assert (found.number, found.kind, found.ttl) == (7, "reached", 55)
    assert hear(build_ipv4(IPv4(ROUTER, SOURCE, ICMP, reply)), flow, IDENT) is None
    closed = hear(error(sent(FLOWS[UDP], 3), 3, 3, source=TARGET), FLOWS[UDP])
    assert closed is not None
    assert closed.kind == "reached"
    rejected = hear(error(sent(FLOWS[UDP], 3), 3, 3), FLOWS[UDP])
    assert rejected is not None
    assert rejected.kind == "unreachable"


@pytest.mark.parametrize(("flags", "good"), [(0x12, True), (0x14, True), (0x10, False), (0x04, False)])
def test_tcp_answers(flags: int, good: bool) -> None:
    flow = FLOWS[TCP]
    ack = (BASE + 5 + 1) & 0xFFFFFFFF
    segment = struct.pack("!HHIIBBHHH", flow.dport, flow.sport, 1, ack, 5 << 4, flags, 0, 0, 0)
    found = hear(build_ipv4(IPv4(TARGET, SOURCE, TCP, segment)), flow, 0, BASE)
    assert (found is not None) == good
    assert found is None or (found.number, found.kind) == (5, "reached")


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "network unreachable"), (1, "host unreachable"), (4, "fragmentation needed, MTU 1400"),
     (10, "host prohibited"), (13, "administratively prohibited")],
)  # fmt: skip
def test_unreachable_in_words(code: int, words: str) -> None:
    found = hear(error(sent(FLOWS[ICMP], 2), 3, code, mtu=1400), FLOWS[ICMP], IDENT)
    assert found is not None
    assert found.kind == "unreachable"
    assert found.mtu == (1400 if code == 4 else 0)
    answer = probe.Answer(2, found.kind, found.source, 0.1, found.type, found.code, found.mtu)
    assert answer.words == words


# --- extensions ----------------------------------------------------------------------------------------------------


def test_golden_interface_object() -> None:
    data = bytes.fromhex(
        "20000000"  # version 2; no checksum
        "001c020f"  # 28 octets, class 2, role 0 (it came in there) with all four values
        "00000003"  # ifIndex 3
        "000100000a000001"  # AFI 1, 10.0.0.1
        "0865746831000000"  # 8 octets, "eth1", padding
        "000005dc"  # MTU 1500
    )  # fmt: skip
    found, problems = parse_extensions(data)
    assert problems == ()
    assert found.interfaces == (Interface(0, 3, parse_address("10.0.0.1"), "eth1", 1500),)
    assert found.interface(0) == found.interfaces[0]
    assert found.interface(2) is None


def test_golden_node_object() -> None:
    name = bytes.fromhex("0872312d62000000")  # "r1-b"
    data = extension(
        thing(5, 0x06, bytes.fromhex("00020000") + parse_address("2001:db8::1") + name),
        thing(2, 0x82, b"\x08wan0\0\0\0"),
        thing(1, 1, bytes(4)),  # MPLS: not of interest
    )
    found, problems = parse_extensions(data)
    assert problems == ()
    assert (found.node_name, found.node_address) == ("r1-b", parse_address("2001:db8::1"))
    assert found.interfaces == (Interface(2, name="wan0"),)


def test_the_next_hop_and_what_cannot_be_read() -> None:
    """RFC 5837 and the draft on nodes: a name of more than 64 octets is ignored, not what is beside it. Unknown bits
    and octets behind the last value are, too. Of an address of an unknown family nobody knows the length."""
    long = bytes([68]) + b"x" * 67
    data = extension(
        thing(2, 0xC4, bytes.fromhex("00020000") + parse_address("fe80::2")),  # role 3, an address alone
        thing(2, 0x0B, b"\0\0\0\4" + long + b"\0\0\5\xdc"),  # ifIndex, name, MTU
        thing(5, 0xF9 | 0x06, bytes.fromhex("00010000 0a000009") + b"\x04r9\0" + b"more"),
        thing(5, 0, b""),
    )
    found, problems = parse_extensions(data)
    assert problems == ()
    assert found.interfaces == (Interface(3, address=parse_address("fe80::2")), Interface(0, 4, None, "", 1500))
    assert (found.node_name, found.node_address) == ("r9", parse_address("10.0.0.9"))
    data = extension(thing(5, 0x06, bytes.fromhex("00010000 0a000009") + long))
    assert parse_extensions(data) == (Extensions(node_address=parse_address("10.0.0.9")), ())
    data = extension(
        thing(2, 0x0E, b"\0\0\0\4" + bytes.fromhex("00070000 0a000009") + b"\x04r9\0"), thing(5, 2, b"\x04r8\0")
    )
    found, problems = parse_extensions(data)
    assert (found.interfaces, found.node_name) == ((Interface(0, 4),), "r8")
    assert any("interface object" in problem for problem in problems)


@pytest.mark.parametrize("words", [32, 0])
def test_extensions_behind_a_quote(words: int) -> None:
    """With the length of RFC 4884, and as older routers send them, without."""
    data = extension(thing(5, 0x02, b"\x04r17"))
    about = sent(FLOWS[UDP], 500)
    found = hear(error(about, rest=data, words=words), FLOWS[UDP])
    assert found is not None
    assert found.number == 500
    assert found.extensions.node_name == "r17"
    plain = hear(error(about[:128] + b"\x20\0\0\0"), FLOWS[UDP])
    assert plain is not None
    assert not plain.extensions


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"", "too few"), (b"\x10\0\0\0", "version"), (b"\x20\0\x12\x34\0\4\2\0", "checksum"),
     (extension(b"\0\3\2\0"), "does not fit"), (extension(b"\0\x08\2\0"), "does not fit"),
     (extension(thing(2, 0x08, b"")), "interface object"), (extension(thing(5, 0x02, b"\xff")), "node object"),
     (extension(thing(5, 0x04, b"\0\7\0\0abcd")), "node object"), (extension(b"\0"), "does not fit")],
)  # fmt: skip
def test_damaged_extensions(data: bytes, said: str) -> None:
    found, problems = parse_extensions(data)
    assert not found
    assert any(said in problem for problem in problems), problems


def test_a_name_cannot_steer_the_terminal() -> None:
    name = b"a\x1b[2Jb"
    data = extension(thing(5, 0x02, bytes([1 + len(name)]) + name + bytes(-(1 + len(name)) % 4)))
    assert parse_extensions(data)[0].node_name == "a?[2Jb"


@settings(max_examples=400)
@given(st.binary(max_size=200), st.sampled_from(sorted(FLOWS)))
def test_nothing_raises(data: bytes, proto: int) -> None:
    parse_extensions(data)
    parse_extensions(b"\x20\0\0\0" + data)
    probe.split_error(data)
    hear(data, FLOWS[proto], IDENT, BASE)
    whole = sent(FLOWS[proto], 1)
    message = build_icmp(Icmp(11, 0, data[0] if data else 0, 0, whole.ljust(128, b"\0") + data))
    hear(build_ipv4(IPv4(ROUTER, SOURCE, ICMP, message)), FLOWS[proto], IDENT, BASE)
    probe.number_of_data(data, FLOWS[proto])
    assert parse_icmp(message)[1] == ()


@given(st.lists(st.tuples(st.sampled_from((1, 2, 5)), st.integers(0, 255), st.binary(max_size=40)), max_size=4))
def test_objects_are_read_or_complained_of(objects: list[tuple[int, int, bytes]]) -> None:
    data = extension(*(thing(*one) for one in objects))
    found, problems = parse_extensions(data)
    assert isinstance(found, Extensions)
    known = sum(kind == 2 for kind, _, _ in objects)
    assert known - sum("interface" in problem for problem in problems) <= len(found.interfaces) <= known
