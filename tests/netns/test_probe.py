"""Pings, traceroutes, streams and captures over a chain whose links have IPv6 alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

import pytest

import support
from via6.collect.capture import Capture, Captured
from via6.collect.probe import DUMMY, ping_many, receive_stream, send_stream, stream_report, traceroute
from via6.errors import Refusal
from via6.observe.packet import ECHO_REQUEST, ICMP, carried_ipv4, differing_octets, ipv4_fields_at, parse_icmp
from via6.prefix import format_address, parse_address

pytestmark = pytest.mark.root

T = TypeVar("T")
H1, H2 = parse_address("10.1.0.10"), parse_address("10.3.0.10")
CHAIN = ("h1", "r1", "r2", "r3", "h2")


class Chain:
    """h1 - r1 - r2 - r3 - h2; node number n (from 1) is fe80::n on both its devices, `left` and `right`."""

    def __init__(self, nets: support.Nets) -> None:
        self.node = {name: nets.new() for name in CHAIN}
        for left, right in pairwise(CHAIN):
            nets.veth(self.node[left], "right", self.node[right], "left")
        for number, name in enumerate(CHAIN, start=1):
            net = self.node[name]
            for device, far in (("left", number - 1), ("right", number + 1)):
                if 1 <= far <= len(CHAIN):
                    prefix = "10.1.0.0/24" if device == "left" else "10.3.0.0/24"
                    net.ip(f"address add fe80::{number}/64 dev {device} nodad")
                    net.ip(f"route add {prefix} via inet6 fe80::{far} dev {device}")
            if name.startswith("r"):
                net.sysctl("net/ipv4/ip_forward", 1)
        for address in ("10.1.0.10", "10.1.0.11"):
            self.node["h1"].ip(f"address add {address}/32 dev lo")
        self.node["h2"].ip("address add 10.3.0.10/32 dev lo")
        # Which r1 has no route for.
        self.node["h1"].ip("route add 10.9.0.0/24 via inet6 fe80::2 dev right")

    def start(self, node: str, work: Callable[[], T]) -> Future[T]:
        """`work` in a thread of its own that lives in a node."""

        def inside() -> T:
            with self.node[node].inside():
                return work()

        pool = ThreadPoolExecutor(1)
        future = pool.submit(inside)
        pool.shutdown(wait=False)
        return future

    def run(self, node: str, work: Callable[[], T]) -> T:
        with self.node[node].inside():
            return work()


@pytest.fixture(scope="module")
def net() -> Iterator[Chain]:
    nets = support.Nets()
    try:
        yield Chain(nets)
    finally:
        nets.close()


def test_ping_answers_and_silence(net: Chain) -> None:
    nobody = parse_address("10.3.0.99")
    good, bad, none, local = net.run(
        "h1",
        lambda: ping_many([H2, parse_address("10.9.0.1"), nobody, parse_address("10.8.0.1")], source=H1, timeout_s=0.3),
    )
    assert good.target == H2
    assert good.received == good.sent == 1
    assert good.rtt_s is not None
    assert 0 < good.rtt_s < 0.3
    assert good.why == ""
    # r1 has no route for it and no IPv4 address to say so from.
    assert bad.error is not None
    assert (bad.error.type, bad.error.code, bad.error.source) == (3, 0, DUMMY)
    assert bad.why == "network unreachable, says 192.0.0.8"
    assert none.received == 0
    assert local.refused == "Network is unreachable"


def test_many_pings_wait_once_for_all_the_silent(net: Chain) -> None:
    silent = [bytes((10, 3, 0, n)) for n in range(100, 200)]
    began = time.monotonic()
    results = net.run("h1", lambda: ping_many([*silent, H2], source=H1, count=3, timeout_s=0.2))
    assert time.monotonic() - began < 1.5
    assert results[-1].received == 3
    assert not any(r.received for r in results[:-1])


def test_ping_from_an_address_that_is_not_ours(net: Chain) -> None:
    with pytest.raises(Refusal, match=r"cannot send from 10\.7\.7\.7"):
        net.run("h1", lambda: ping_many([H2], source=parse_address("10.7.7.7"), timeout_s=0.1))


def test_traceroute_shows_the_dummy_address(net: Chain) -> None:
    began = time.monotonic()
    hops = net.run("h1", lambda: traceroute(H2, source=H1))
    assert time.monotonic() - began < 0.5
    assert [(h.ttl, h.kind, h.address) for h in hops] == [
        (1, "hop", DUMMY), (2, "hop", DUMMY), (3, "hop", DUMMY), (4, "reached", H2),
    ]  # fmt: skip
    assert all(h.rtt_s is not None and h.rtt_s < 0.4 for h in hops)


def test_traceroute_tells_a_router_by_its_address(net: Chain) -> None:
    net.node["r2"].ip("address add 10.255.0.2/32 dev lo")
    try:
        hops = net.run("h2", lambda: traceroute(H1, source=H2))
    finally:
        net.node["r2"].ip("address delete 10.255.0.2/32 dev lo")
    assert [format_address(h.address or b"") for h in hops[:3]] == ["192.0.0.8", "10.255.0.2", "192.0.0.8"]


def test_traceroute_ends_where_there_is_no_route(net: Chain) -> None:
    # Errors are rationed per source address: one that no other test has used up.
    source = parse_address("10.1.0.11")
    hops = net.run("h1", lambda: traceroute(parse_address("10.9.0.1"), source=source))
    assert [h.kind for h in hops] == ["unreachable"]
    assert str(hops[0].error) == "network unreachable, says 192.0.0.8"
    local = net.run("h2", lambda: traceroute(parse_address("10.9.0.1"), source=H2))
    assert [(h.kind, h.refused) for h in local] == [("unreachable", "Network is unreachable")]


def test_capture_of_a_bare_packet_and_what_a_hop_changes(net: Chain) -> None:
    def request(seen: Captured) -> bool:
        packet = carried_ipv4(seen.frame)
        message = parse_icmp(packet.payload)[0] if packet and packet.protocol == ICMP else None
        return bool(message and message.type == ECHO_REQUEST)

    with (
        net.run("h1", lambda: Capture("right")) as at_sender,
        net.run("r2", lambda: Capture("right")) as on_link,
    ):
        net.run("h1", lambda: ping_many([H2], source=H1))
        (sent,) = at_sender.read(count=1, timeout_s=1, keep=request)
        (seen,) = on_link.read(count=1, timeout_s=1, keep=request)
        began = time.monotonic()
        assert on_link.read(count=1, timeout_s=0.1, keep=request) == []
        assert time.monotonic() - began < 0.5
    assert sent.outgoing
    assert "ethertype 0x0800  IPv4 10.1.0.10 > 10.3.0.10  ICMP echo request  (98 octets, no outer header)" in str(seen)
    changed = differing_octets(sent.frame.payload, seen.frame.payload)
    assert ipv4_fields_at(changed) == ("ttl", "checksum")


def test_capture_on_no_device(net: Chain) -> None:
    with pytest.raises(Refusal, match="cannot capture on 'nodev'"):
        net.run("h1", lambda: Capture("nodev"))


def test_stream_counts_what_a_cut_link_swallows(net: Chain) -> None:
    receiver = net.start("h2", lambda: receive_stream(timeout_s=5, source=H2))
    time.sleep(0.1)
    sender = net.start("h1", lambda: send_stream(H2, count=200, interval_s=0.002, source=H1))
    time.sleep(0.1)
    net.node["r2"].ip("route replace blackhole 10.3.0.0/24")
    time.sleep(0.1)
    net.node["r2"].ip("route replace 10.3.0.0/24 via inet6 fe80::4 dev right")
    left = sender.result(5)
    sent, arrivals = receiver.result(10)
    report = stream_report(sent, arrivals)
    assert left == sent == 200
    assert report.received + sum(n for _, n in report.lost) == 200
    assert 20 <= 200 - report.received <= 100
    assert 0.05 < report.longest_gap_s < 0.3


def test_stream_that_never_comes(net: Chain) -> None:
    began = time.monotonic()
    assert net.run("h2", lambda: receive_stream(timeout_s=0.2)) == (0, [])
    assert time.monotonic() - began < 0.5
