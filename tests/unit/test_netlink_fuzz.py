"""Octets from anywhere: decoders give (value, problem), never raise, never loop, never read beyond their end."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import hexfile
from via6.model import NextHop, Route, RouteTable
from via6.netlink import burst, wire
from via6.netlink.notices import Notices
from via6.netlink.route import RTM_NEWROUTE, decode_route, encode_route
from via6.prefix import Prefix, mask

GOLDEN = [hexfile.read(path)[2] for path in sorted(hexfile.FOLDER.glob("*.hex"))]
DECODERS = list(hexfile.DECODERS.values())


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A golden message, cut, with octets changed, or with another's tail."""
    message = bytearray(draw(st.sampled_from(GOLDEN)))
    for _ in range(draw(st.integers(0, 4))):
        message[draw(st.integers(0, len(message) - 1))] = draw(
            st.sampled_from([0, 1, 3, 4, 7, 8, 0x40, 0x7F, 0x80, 0xFF])
        )
    cut = draw(st.integers(0, len(message)))
    return bytes(message[:cut]) + draw(st.sampled_from([b"", draw(st.binary(max_size=40)), GOLDEN[0]]))


OCTETS = st.binary(max_size=200) | damaged()


@pytest.mark.parametrize("decode", DECODERS, ids=lambda f: f.__name__)
@given(payload=OCTETS)
def test_decoders_give_a_value_or_a_problem(decode: Callable[[bytes], tuple[Any, str]], payload: bytes) -> None:
    for octets in (payload, payload[16:]):
        value, problem = decode(octets)
        assert (value is None) == bool(problem)
        assert hash(value) is not None


@given(OCTETS)
def test_routes_that_decode_keep_the_promises_of_the_vocabulary(payload: bytes) -> None:
    route, _ = decode_route(payload[16:])
    if route is not None:
        assert 0 <= route.prefix.length <= len(route.prefix.packed) * 8
        assert all(hop.via is None or len(hop.via) in (4, 16) for hop in route.next_hops)
        assert all(1 <= hop.weight <= 256 for hop in route.next_hops)
        assert route.src is None or len(route.src) == len(route.prefix.packed)
        assert str(route.prefix)


@given(OCTETS)
@example(struct.pack("=IHHII", 0, 24, 0, 0, 0) * 3)
@example(struct.pack("=IHHII", 17, 24, 0, 0, 0) * 3)
@example(struct.pack("=IHHII", 0xFFFFFFFF, 24, 0, 0, 0))
def test_messages_end(data: bytes) -> None:
    found = list(wire.messages(data))
    assert sum(len(m.payload) + 16 for m in found) <= len(data)
    for msg in found:
        ack = wire.decode_ack(msg)
        assert ack.errno >= 0
        assert burst.destination_of(ack.request) is None or len(burst.destination_of(ack.request) or b"") in (4, 16)
    Notices().feed(data)


@given(st.binary(max_size=100))
@example(b"\0\0\1\0" * 4)
@example(b"\4\0\1\0" * 4)
def test_attributes_end(data: bytes) -> None:
    assert sum(len(v) for v in wire.attributes(data).values()) <= len(data)


@given(st.lists(OCTETS, max_size=4))
def test_a_dump_of_anything(datagrams: list[bytes]) -> None:
    reader = burst.DumpReader()
    for data in datagrams:
        reader.feed(data)
    assert all(str(route.prefix) for route in RouteTable(reader.blocks()))
    assert bool(reader.problem) == bool(reader.problems)


def addresses(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


@st.composite
def routes(draw: st.DrawFn, family: int = 0) -> Route:
    size = family or draw(st.sampled_from([4, 16]))
    length = draw(st.integers(0, size * 8))
    prefix = Prefix(mask(draw(addresses(size)), length), length)
    # An IPv6 route takes no IPv4 gateway.
    via = st.none() | addresses(16) | (addresses(4) if size == 4 else st.nothing())
    hop = st.builds(NextHop, via, st.integers(1, 2**31 - 1), st.integers(1, 256))
    hops = tuple(draw(st.lists(hop, max_size=3)))
    u32 = st.integers(0, 2**32 - 1)
    return Route(
        prefix=prefix,
        next_hops=hops,
        table=draw(st.integers(1, 2**32 - 1)),
        metric=draw(u32),
        protocol=draw(st.integers(0, 255)),
        scope=draw(st.integers(0, 255)),
        src=draw(st.none() | addresses(size)),
        nhid=0 if hops else draw(u32),
        metrics=tuple(sorted(draw(st.dictionaries(st.integers(1, 17), u32, max_size=3)).items())),
        tos=draw(st.integers(0, 255)),
    )


@given(routes())
def test_every_route_survives_the_way_out_and_back(route: Route) -> None:
    assert decode_route(encode_route(route)) == (route, "")


@st.composite
def dumped(draw: st.DrawFn) -> tuple[list[Route], list[bytes]]:
    """Routes as the kernel would dump them (RTA_TABLE first), in datagrams."""
    templates = draw(st.lists(routes(4), min_size=1, max_size=3)) + draw(st.lists(routes(16), max_size=1))
    found: list[Route] = []
    for template in templates:
        size, length = len(template.prefix.packed), template.prefix.length
        raw = draw(st.lists(addresses(size), max_size=6))
        found += [template.at(mask(a, length)) for a in raw]
    found = draw(st.permutations(found))
    octets = []
    for route in found:
        payload = encode_route(route)
        table = wire.attribute_u32(15, route.table)
        if route.table > 255:
            payload = payload.replace(table, b"", 1)
        octets.append(wire.message(RTM_NEWROUTE, 2, payload[:12] + table + payload[12:]))
    cut = draw(st.integers(0, len(octets)))
    done = wire.message(wire.NLMSG_DONE, 2, bytes(4))
    return found, [b"".join(octets[:cut]), b"".join(octets[cut:]) + done]


@given(dumped())
def test_a_dump_read_by_shape_is_the_dump_read_one_by_one(case: tuple[list[Route], list[bytes]]) -> None:
    wanted, datagrams = case
    reader = burst.DumpReader()
    for data in datagrams:
        reader.feed(data)
    assert reader.done
    assert not reader.problems
    key = repr
    assert sorted(RouteTable(reader.blocks()), key=key) == sorted(wanted, key=key)


def test_a_megabyte_of_nonsense_is_read_at_once() -> None:
    start = time.process_time()
    for data in (bytes(1 << 20), b"\xff" * (1 << 20), struct.pack("=HH", 4, 1) * (1 << 18)):
        list(wire.messages(data))
        wire.attributes(data)
        burst.DumpReader().feed(data)
        Notices().feed(data)
    assert time.process_time() - start < 5
