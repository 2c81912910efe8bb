"""One speaker on a bench: its neighbours are made of packets, its kernel does what it is told unless it is held."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from via6.babel.model import GROUP, Arrival, BabelLink, Datagram, HopLeft, LinkSettings, RouteChange, Way
from via6.babel.speaker import Speaker, SpeakerSettings
from via6.babel.wire import (
    AE_V4_VIA_V6,
    AckRequest,
    Hello,
    Ihu,
    SeqnoRequest,
    Tlv,
    Update,
    Writer,
    decode,
    encode_ack,
    encode_hello,
    encode_ihu,
    encode_packet,
)
from via6.prefix import Address, Prefix, format_address, parse_address, parse_prefix

OWN = bytes.fromhex("0200000000000001")
A, B, C = (bytes.fromhex(f"02000000000000{n:02x}") for n in (0x0A, 0x0B, 0x0C))
P = "10.1.0.0/16"


def us(ifindex: int) -> Address:
    return parse_address(f"fe80::1:{ifindex}")


class Peer:
    """A neighbour of the speaker, on a link."""

    def __init__(self, bench: Bench, ifindex: int, number: int) -> None:
        self.bench = bench
        self.ifindex = ifindex
        self.address = parse_address(f"fe80::{number:x}:{ifindex}")
        self.seqno = 100
        self.sent: list[Tlv] = []
        self.acks = True

    def hello(self, interval_cs: int = 400, rxcost: int = 96, ihu: bool = True) -> None:
        """A Hello with an IHU: what makes it a neighbour, and keeps it one."""
        self.seqno += 1
        body = encode_hello(self.seqno & 0xFFFF, interval_cs)
        if ihu:
            body += encode_ihu(us(self.ifindex), rxcost, 3 * interval_cs)
        self.tlvs(body)

    def tlvs(self, *tlvs: bytes, **more: Any) -> None:
        writer = Writer(1400)
        for tlv in tlvs:
            assert writer.add(tlv)
        self.raw(writer.take(), **more)

    def raw(self, data: bytes, **more: Any) -> None:
        arrival = Arrival(self.ifindex, more.pop("source", self.address), data, more.pop("destination", GROUP), **more)
        self.bench.speaker.receive(arrival, self.bench.now)
        self.bench.work()

    def update(
        self,
        prefix: str = P,
        metric: int = 100,
        seqno: int = 1,
        router_id: bytes | None = A,
        *,
        interval_cs: int = 1600,
        next_hop: str = "",
    ) -> None:
        to = parse_prefix(prefix)
        hop = parse_address(next_hop) if next_hop else None
        ae = 2 if len(to.packed) == 16 else 1 if hop is not None and len(hop) == 4 else AE_V4_VIA_V6
        writer = Writer(1400)
        assert writer.update(ae, to.length, to.packed, seqno, metric, interval_cs, router_id, hop)
        self.raw(writer.take())

    def retract(self, prefix: str = P) -> None:
        self.update(prefix, 0xFFFF, 0, None)

    def heard(self, kind: type[Tlv]) -> list[Any]:
        """What it was sent of one kind since it was last asked."""
        found = [tlv for tlv in self.sent if type(tlv) is kind]
        self.sent = [tlv for tlv in self.sent if type(tlv) is not kind]
        return found


class Bench:
    """A speaker with links 1, 2, 3 … `fib` is what a kernel that follows at once holds; `hold` stops it."""

    def __init__(self, links: int = 2, settings: LinkSettings | None = None, **more: Any) -> None:
        self.now = 1000.0
        self.fib: dict[Prefix, Way] = {}
        self.log: list[RouteChange | HopLeft] = []
        self.out: list[Datagram] = []
        self.hold = False
        self.peers: list[Peer] = []
        kept = {key: more.pop(key) for key in ("distances", "adopted") if key in more}
        self.speaker = Speaker(SpeakerSettings(OWN, **more), random.Random(1), now=self.now, **kept)
        self.settings = settings or LinkSettings()
        for ifindex in range(1, links + 1):
            self.link(ifindex)

    def link(self, ifindex: int, **more: Any) -> None:
        given = BabelLink(ifindex, f"eth{ifindex}", us(ifindex), settings=more.pop("settings", self.settings), **more)
        self.speaker.link_changed(given, self.now)
        self.work()

    def peer(self, ifindex: int = 1, number: int = 2) -> Peer:
        """A neighbour that is there."""
        peer = Peer(self, ifindex, number)
        self.peers.append(peer)
        peer.hello()
        peer.sent.clear()
        return peer

    def own(self, *prefixes: str) -> None:
        self.speaker.announce({parse_prefix(p): 0 for p in prefixes}, self.now)
        self.work()

    def work(self) -> None:
        """A turn of the driver."""
        for _ in range(1000):
            changes = self.speaker.routing(self.now)
            if not changes and not self.speaker.dirty:
                break
            self.log += changes
            for change in changes:
                if isinstance(change, RouteChange):
                    for destination in change.destinations:
                        prefix = Prefix(destination, change.length)
                        if change.way is None:
                            self.fib.pop(prefix, None)
                        else:
                            self.fib[prefix] = change.way
        if not self.hold:
            self.speaker.settled(self.now)
        for datagram in self.speaker.datagrams(self.now):
            self.out.append(datagram)
            for peer in self.peers:
                if datagram.ifindex == peer.ifindex and datagram.destination in (GROUP, peer.address):
                    decoded = decode(datagram.data, us(datagram.ifindex))
                    assert not decoded.problems
                    peer.sent += decoded.tlvs
                    if peer.acks:
                        self._acknowledge(peer, decoded.tlvs)

    def _acknowledge(self, peer: Peer, tlvs: list[Tlv]) -> None:
        asked = [tlv.opaque for tlv in tlvs if isinstance(tlv, AckRequest)]
        if asked:
            data = encode_packet(b"".join(map(encode_ack, asked)))
            self.speaker.receive(Arrival(peer.ifindex, peer.address, data, us(peer.ifindex)), self.now)

    def run(self, seconds: float, keep: Iterable[Peer] | None = None) -> None:
        """Time passes; the peers in `keep` (all) say Hello every second."""
        end = self.now + seconds
        hello_at = self.now + 1.0
        while self.now < end:
            self.now = min(max(self.speaker.deadline(self.now), self.now + 0.001), hello_at, end)
            if self.now >= hello_at:
                hello_at += 1.0
                for peer in self.peers if keep is None else keep:
                    peer.hello()
            self.speaker.tick(self.now)
            self.work()

    def way(self, prefix: str = P) -> str:
        """`fe80::2:1 / fe80::2:2` of primary and backup; `unreachable`, or nothing."""
        way = self.fib.get(parse_prefix(prefix))
        if way is None:
            return ""
        if way.primary is None:
            return "unreachable"
        text = format_address(way.primary.address)
        return f"{text} / {format_address(way.backup.address)}" if way.backup is not None else text

    def state(self, prefix: str = P) -> list[tuple[str, int]]:
        """(state, metric) of each route."""
        return [(r.state, r.metric) for r in self.speaker.routes(self.now) if str(r.prefix) == prefix]


__all__ = ["OWN", "A", "B", "Bench", "C", "Hello", "Ihu", "P", "Peer", "SeqnoRequest", "Update", "us"]
