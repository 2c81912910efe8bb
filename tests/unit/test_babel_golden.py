"""The Babel codec against files of octets.

`out-*.hex` is what we send: encoders and Writer give the file, and the file decodes to its values. `in-*.hex` is what
babeld 1.12.1 and BIRD 3.1.7 sent, `bad-*.hex` is written by hand; both are only decoded. `UPDATE=1 pytest` rewrites the
files (of in and bad their values); review the difference. netns/test_babel_tshark.py lets tshark read the same files.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import babelfile
from via6.babel import wire
from via6.babel.model import INFINITY
from via6.babel.wire import AE_IPV4, AE_IPV6, AE_LINK_LOCAL, AE_V4_VIA_V6, AE_WILDCARD, Writer
from via6.prefix import parse_address, parse_prefix

SOURCE = parse_address("fe80::1")
OTHER = parse_address("fe80::2")
GLOBAL = parse_address("2001:db8:1::1")
V4 = parse_address("192.0.2.1")
ROUTER = bytes.fromhex("0123456789abcdef")
ANOTHER = bytes.fromhex("02000000fe000001")


def route(writer: Writer, ae: int, prefix: str, metric: int = 96, **more: object) -> None:
    """An Update that must find room."""
    parsed = parse_prefix(prefix)
    values = {"seqno": 7, "interval_cs": 1600, "router_id": ROUTER, "next_hop": None, **more}
    assert writer.update(ae, parsed.length, parsed.packed, metric=metric, **values)  # type: ignore[arg-type]


def hello(writer: Writer) -> None:
    writer.add(wire.encode_hello(0xFFFF, 100))
    writer.add(wire.encode_hello(1, 0, unicast=True))
    writer.add(wire.encode_hello(2, 100, timestamp=0xFFFFFFFF))


def ihu(writer: Writer) -> None:
    # Not at the end: tshark 4.0 reads 4 octets beyond the second timestamp.
    writer.add(wire.encode_ihu(OTHER, INFINITY, 300, timestamps=(1, 0xFFFFFFFF)))
    for address in (OTHER, GLOBAL, V4, None):
        writer.add(wire.encode_ihu(address, 96, 300))


def acks(writer: Writer) -> None:
    writer.add(wire.encode_ack_request(0x1234, 100))
    writer.add(wire.encode_ack(0x4321))


def v4_via_v6(writer: Writer) -> None:
    for prefix in ("10.1.1.0/24", "10.1.2.0/24", "10.1.2.0/23", "10.1.2.3/32", "0.0.0.0/0", "192.0.2.128/25"):
        route(writer, AE_V4_VIA_V6, prefix)


def ipv4(writer: Writer) -> None:
    route(writer, AE_IPV4, "10.1.1.0/24", next_hop=V4)
    route(writer, AE_IPV4, "10.1.2.0/24", next_hop=V4)


def ipv6(writer: Writer) -> None:
    for prefix in ("2001:db8:1::/48", "2001:db8:1:2::/64", "2001:db8:1:2::1/128", "::/0", "2001:db8::/33"):
        route(writer, AE_IPV6, prefix)


def link_local(writer: Writer) -> None:
    route(writer, AE_LINK_LOCAL, "fe80::5/128")
    route(writer, AE_LINK_LOCAL, "fe80::/64")


def own_state(writer: Writer) -> None:
    route(writer, AE_IPV4, "10.1.1.0/24", next_hop=V4)
    route(writer, AE_V4_VIA_V6, "10.1.2.0/24")
    route(writer, AE_IPV4, "10.1.3.0/24", next_hop=V4)
    route(writer, AE_V4_VIA_V6, "10.1.4.0/24")


def next_hops(writer: Writer) -> None:
    route(writer, AE_V4_VIA_V6, "10.1.1.0/24")
    route(writer, AE_V4_VIA_V6, "10.1.2.0/24", next_hop=OTHER)
    route(writer, AE_IPV6, "2001:db8::/32", next_hop=OTHER)
    route(writer, AE_V4_VIA_V6, "10.1.3.0/24", next_hop=GLOBAL, router_id=ANOTHER)


def retractions(writer: Writer) -> None:
    route(writer, AE_V4_VIA_V6, "10.1.1.0/24", INFINITY, router_id=None)
    route(writer, AE_IPV4, "10.1.2.0/24", INFINITY, router_id=None)
    route(writer, AE_IPV6, "2001:db8::/32", INFINITY, router_id=None)
    assert writer.update(AE_WILDCARD, 0, b"", 0, INFINITY, 1600, None)


def requests(writer: Writer) -> None:
    writer.add(wire.encode_route_request(AE_WILDCARD, 0, b""))
    writer.add(wire.encode_route_request(AE_IPV4, 20, parse_address("10.1.16.0")))
    writer.add(wire.encode_route_request(AE_IPV6, 48, parse_address("2001:db8:1::")))
    writer.add(wire.encode_seqno_request(AE_IPV4, 32, V4, 8, 64, ROUTER))
    writer.add(wire.encode_seqno_request(AE_IPV6, 0, bytes(16), 0, 1, ROUTER))


def authentication(writer: Writer) -> None:
    writer.add(wire.encode_pc(0xFFFFFFFF, b"index678"))
    writer.add(wire.encode_pc(0, b""))
    writer.add(wire.encode_challenge_request(bytes(range(192))))
    writer.add(wire.encode_challenge_reply(b"nonce"))


OUT: dict[str, tuple[str, Callable[[Writer], None]]] = {
    "hello": ("Hellos: multicast, unicast and unscheduled, with a timestamp", hello),
    "ihu": ("IHUs with every address encoding, the first with timestamps", ihu),
    "ack": ("an acknowledgement wanted, one given", acks),
    "v4-via-v6": ("IPv4 routes with the packet's source for next hop (AE 4), compressed", v4_via_v6),
    "ipv4": ("IPv4 routes with an IPv4 next hop (AE 1)", ipv4),
    "ipv6": ("IPv6 routes, compressed", ipv6),
    "link-local": ("link-local routes (AE 3), never compressed", link_local),
    "own-state": ("AE 1 and AE 4 in turn: each has its own default prefix", own_state),
    "next-hops": ("the next hop and the router-id change within the packet", next_hops),
    "retractions": ("retractions need neither router-id nor next hop; the last is of everything", retractions),
    "requests": ("route and seqno requests", requests),
    "authentication": ("packet counters and challenges of RFC 8967", authentication),
}


@pytest.mark.parametrize("name", OUT)
def test_what_we_send(name: str) -> None:
    about, fill = OUT[name]
    writer = Writer(1400)
    fill(writer)
    packet = writer.take()
    decoded = wire.decode(packet, SOURCE)
    path = babelfile.FOLDER / f"out-{name}.hex"
    text = babelfile.to_text(about, SOURCE, decoded, packet)
    if os.environ.get("UPDATE"):
        path.write_text(text)
    assert path.read_text() == text
    assert babelfile.read(path) == (about, SOURCE, [repr(value) for value in decoded.tlvs], [], packet)


READ = sorted(path for path in babelfile.FOLDER.glob("*.hex") if not path.stem.startswith("out-"))


@pytest.mark.parametrize("path", READ, ids=lambda p: p.stem)
def test_what_others_send(path: Path) -> None:
    about, source, values, problems, packet = babelfile.read(path)
    decoded = wire.decode(packet, source)
    if os.environ.get("UPDATE"):
        path.write_text(babelfile.to_text(about, source, decoded, packet))
        return
    assert [repr(value) for value in decoded.tlvs] == values
    assert decoded.problems == problems
    assert bool(problems) == path.stem.startswith("bad-")


def test_every_file_is_looked_at() -> None:
    kinds = {path.stem.partition("-")[0] for path in babelfile.FOLDER.glob("*.hex")}
    assert kinds == {"out", "in", "bad"}
    assert {path.stem for path in babelfile.FOLDER.glob("out-*.hex")} == {f"out-{name}" for name in OUT}
