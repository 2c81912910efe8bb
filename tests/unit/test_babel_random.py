"""Random histories of speakers: what RFC 8966 says must hold after every step, whatever came before.

First one speaker among neighbours that say anything that can be written, sense or nonsense; then a small honest network
with losses, late, doubled and overtaking packets, slow kernels, and links and prefixes that come and go. The simulator
(tests/sim) is the greater judge; this is the small one that needs no driver, and blames a single speaker.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush
from typing import Any

import pytest

from speaker_support import OWN, A, B, Bench, Peer, us
from via6.babel.model import GROUP, INFINITY, Arrival, BabelLink, Datagram, Hop, HopLeft, LinkSettings, Way
from via6.babel.speaker import Speaker, SpeakerSettings
from via6.babel.table import SOURCE_GC_S, Destination, Source, newer
from via6.babel.wire import (
    AE_IPV4,
    AE_V4_VIA_V6,
    SeqnoRequest,
    Update,
    decode,
    encode_ack_request,
    encode_hello,
    encode_ihu,
    encode_route_request,
    encode_seqno_request,
)
from via6.prefix import Address, Prefix, parse_address, parse_prefix

ROOM = 1500 - 48


class Judge:
    """What must hold of one speaker. It remembers feasibility distances and the seqno."""

    def __init__(self, speaker: Speaker) -> None:
        self.speaker = speaker
        self.distances: dict[tuple[Address, int, bytes], tuple[Source, int, int]] = {}
        self.seqno = speaker.seqno

    def look(self, now: float) -> None:
        """After a turn: every destination has been reviewed."""
        speaker = self.speaker
        found: dict[tuple[Address, int, bytes], tuple[Source, int, int]] = {}
        for destination in speaker.table.all():
            assert not destination.idle
            self._selection(destination)
            for source in destination.sources:
                key = destination.prefix, destination.length, source.router_id
                assert key not in found
                found[key] = source, source.seqno, source.metric
        for key, (source, seqno, metric) in self.distances.items():
            if key in found and found[key][0] is source:
                assert not newer(seqno, source.seqno), "the seqno of a feasibility distance went back"
                assert seqno != source.seqno or source.metric <= metric, "a feasibility distance rose"
            else:
                assert source.touched < now - SOURCE_GC_S, "a feasibility distance was forgotten too early"
        self.distances = found
        assert not newer(self.seqno, speaker.seqno), "our own seqno went back"
        self.seqno = speaker.seqno

    def _selection(self, destination: Destination) -> None:
        best, backup = destination.selected, destination.backup
        for route in destination.routes:
            cost = route.neighbour.cost
            assert cost > 0
            assert route.metric == min(route.advertised + cost, INFINITY), "metrics add up and grow"
            assert route.neighbour.routes[destination.prefix, destination.length] is route
        usable = [r for r in destination.routes if r.metric < INFINITY and destination.feasible(r)]
        if destination.own is not None:
            assert (best, backup, destination.way) == (None, None, None)
            return
        assert (best is None) == (not usable), "a feasible route is used, and no other"
        if best is None:
            assert backup is None
            assert destination.way in (None, Way(None, None))
            return
        assert best in usable
        assert best.metric == min(route.metric for route in usable)
        assert destination.way == Way(best.hop, backup.hop if backup is not None else None)
        if backup is not None:
            assert backup in usable
            assert backup.hop != best.hop
            if backup.router_id == best.router_id and not newer(backup.seqno, best.seqno):
                assert backup.seqno == best.seqno
                assert backup.advertised < best.metric, "it must be feasible after the next Update, too"

    def sent(self, datagram: Datagram) -> None:
        """A packet leaves."""
        link = self.speaker.links[datagram.ifindex].given
        assert len(datagram.data) <= ROOM
        decoded = decode(datagram.data, link.address)
        assert not decoded.problems
        for tlv in decoded.tlvs:
            if isinstance(tlv, SeqnoRequest):
                assert datagram.destination != GROUP, "forwarded and asked one by one"
                assert 1 <= tlv.hops <= 254
                assert tlv.ae != AE_V4_VIA_V6  # RFC 9229 section 2.3
            elif isinstance(tlv, Update) and tlv.ae:
                assert tlv.ae != (AE_V4_VIA_V6 if link.ipv4 else AE_IPV4) or tlv.metric == INFINITY
                if tlv.metric < INFINITY:
                    self._announced(tlv)

    def _announced(self, tlv: Update) -> None:
        destination = self.speaker.table.find(tlv.prefix, tlv.length)
        assert destination is not None
        assert tlv.router_id is not None
        source = destination.source(tlv.router_id)
        assert source is not None, "an Update without a feasibility distance"
        assert not newer(tlv.seqno, source.seqno)
        assert tlv.seqno != source.seqno or tlv.metric >= source.metric, "nearer than our feasibility distance"
        if tlv.router_id == self.speaker.router_id:
            assert not newer(tlv.seqno, self.speaker.seqno)
        elif destination.backup is not None and destination.backup.router_id == tlv.router_id:
            assert destination.feasible(destination.backup), "a backup that this Update makes infeasible"


# --- one speaker, and neighbours that say anything -----------------------------------------------------------------


class Watched(Bench):
    """A bench that is looked at after every turn."""

    def __init__(self, **more: Any) -> None:
        self.judge: Judge | None = None
        super().__init__(**more)
        self.judge = Judge(self.speaker)

    def work(self) -> None:
        self.out.clear()
        super().work()
        if self.judge is None:
            return
        for datagram in self.out:
            self.judge.sent(datagram)
        self.judge.look(self.now)
        ways = {(d.prefix, d.length): d.way for d in self.speaker.table.all() if d.way is not None}
        assert {(p.packed, p.length): way for p, way in self.fib.items()} == ways
        assert self.speaker.deadline(self.now) > self.now - 1


PREFIXES = ("10.1.0.0/16", "10.1.2.0/24", "0.0.0.0/0", "10.9.9.9/32")
SEQNOS = (0, 1, 2, 3, 100, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF)
METRICS = (0, 1, 50, 96, 100, 150, 200, 192, 1000, 0xFFF0, 0xFFFE)
INTERVALS = (1, 100, 400, 1600, 6000, 0xFFFF)
FOUR = parse_address("192.0.2.1")


class Chaos:
    """Neighbours and an administrator without plan or mercy."""

    def __init__(self, seed: int) -> None:
        self.luck = random.Random(seed)
        self.bench = Watched(links=3, seqno=self.luck.choice(SEQNOS))
        self.four = [False] * 4
        self.peers = [self.bench.peer(1, 2), self.bench.peer(1, 3), self.bench.peer(2, 4), self.bench.peer(3, 5)]
        self.deeds: list[tuple[int, Callable[[Peer], None]]] = [
            (30, self.update), (8, self.hello), (8, self.retract), (6, self.ask), (4, self.wait), (1, self.wait_long),
            (2, self.own), (2, self.link), (2, self.address), (2, self.noise), (1, self.policy), (1, self.refuse),
            (2, self.kernel), (2, self.deaf), (1, self.everything),
        ]  # fmt: skip

    def step(self) -> None:
        weights = [weight for weight, _ in self.deeds]
        (deed,) = self.luck.choices([deed for _, deed in self.deeds], weights)
        deed(self.luck.choice(self.peers))

    def update(self, peer: Peer) -> None:
        pick = self.luck.choice
        hop = pick(("", "", "", "fe80::77", "192.0.2.9", "192.0.2.10"))
        router_id = pick((A, A, A, B, OWN, self.luck.randbytes(7) + b"\1"))
        metric, interval = pick(METRICS), pick(INTERVALS)
        peer.update(pick(PREFIXES), metric, pick(SEQNOS[:4]), router_id, interval_cs=interval, next_hop=hop)

    def hello(self, peer: Peer) -> None:
        pick = self.luck.choice
        peer.seqno = pick((peer.seqno, peer.seqno, peer.seqno, peer.seqno - 1, peer.seqno + 2, peer.seqno + 999))
        peer.seqno = (peer.seqno + 1) & 0xFFFF
        body = encode_hello(peer.seqno, pick((0, 5, 100, 400)), unicast=pick((False, False, True)))
        rxcost, interval = pick((0, 1, 96, 96, 96, 300, INFINITY)), pick((1, 300, 1200))
        peer.tlvs(body + encode_ihu(pick((None, us(peer.ifindex))), rxcost, interval))

    def retract(self, peer: Peer) -> None:
        peer.retract(self.luck.choice(PREFIXES))

    def everything(self, peer: Peer) -> None:
        peer.raw(bytes.fromhex("2a02000c080a0000000000000000ffff"))

    def ask(self, peer: Peer) -> None:
        pick = self.luck.choice
        to = parse_prefix(pick((*PREFIXES, "10.77.0.0/16")))
        before = self.bench.speaker.seqno
        seqno = (before + pick((0, 1, 2, 99))) & 0xFFFF if pick((False, True)) else pick(SEQNOS)
        ask = encode_seqno_request(pick((1, 4)), to.length, to.packed, seqno, pick((1, 2, 64, 255)), pick((A, B, OWN)))
        peer.tlvs(pick((ask, ask, encode_route_request(1, to.length, to.packed), encode_route_request(0, 0, b""))))
        assert self.bench.speaker.seqno in (before, (before + 1) & 0xFFFF)
        peer.tlvs(encode_ack_request(self.luck.getrandbits(16), pick(INTERVALS)))

    def wait(self, _peer: Peer) -> None:
        self.bench.run(self.luck.choice((0.004, 0.1, 1.0, 3.0)), keep=self.peers)

    def wait_long(self, _peer: Peer) -> None:
        self.bench.run(self.luck.choice((20.0, 60.0, 220.0)), keep=self.luck.choice((self.peers, self.peers[:2], ())))

    def own(self, _peer: Peer) -> None:
        self.bench.own(*self.luck.sample(PREFIXES, self.luck.choice((0, 0, 1, 2))))

    def link(self, peer: Peer) -> None:
        deed = self.luck.choice(("blink", "gone", "blink"))
        if deed == "gone":
            self.bench.speaker.forget_link(peer.ifindex, self.bench.now)
            self.bench.work()
        else:
            self.bench.link(peer.ifindex, up=False)
        self.bench.run(self.luck.choice((0.0, 0.1, 2.0)), keep=self.peers)
        self.bench.link(peer.ifindex, ipv4=FOUR if self.four[peer.ifindex] else None)
        peer.hello()

    def address(self, peer: Peer) -> None:
        self.four[peer.ifindex] = not self.four[peer.ifindex]
        allowed = self.luck.choice((None, None, (parse_prefix(PREFIXES[0]),)))
        settings = LinkSettings(allowed=allowed, split_horizon=self.luck.choice((True, True, False)))
        self.bench.link(peer.ifindex, ipv4=FOUR if self.four[peer.ifindex] else None, settings=settings)

    def noise(self, peer: Peer) -> None:
        body = bytearray(encode_hello(1, 100) + encode_ihu(us(peer.ifindex), 96, 300) + self.luck.randbytes(40))
        for _ in range(4):
            body[self.luck.randrange(len(body))] = self.luck.getrandbits(8)
        peer.raw(b"\x2a\x02" + len(body).to_bytes(2, "big") + bytes(body))

    def policy(self, _peer: Peer) -> None:
        denied = {parse_prefix(p) for p in self.luck.sample(PREFIXES, self.luck.choice((0, 1)))}
        self.bench.speaker.accept_now(lambda prefix: prefix not in denied, self.bench.now)
        self.bench.work()

    def refuse(self, _peer: Peer) -> None:
        refused = frozenset(parse_prefix(p) for p in self.luck.sample(PREFIXES, self.luck.choice((0, 0, 1))))
        self.bench.speaker.refuse(refused, self.bench.now)
        self.bench.work()

    def kernel(self, _peer: Peer) -> None:
        self.bench.hold = not self.bench.hold

    def deaf(self, peer: Peer) -> None:
        peer.acks = not peer.acks


@pytest.mark.parametrize("seed", range(24))
def test_one_speaker_among_neighbours_that_say_anything(seed: int) -> None:
    chaos = Chaos(seed)
    for _ in range(150):
        chaos.step()


# --- an honest network ---------------------------------------------------------------------------------------------


class Node:
    """A router: the speaker, a kernel that takes its time, and what it originates."""

    def __init__(self, net: Net, number: int) -> None:
        self.net = net
        self.number = number
        self.address = parse_address(f"fe80::{number + 1:x}")
        settings = SpeakerSettings(bytes((2, 0, 0, 0, 0, 0, 0, number + 1)), seqno=net.luck.choice(SEQNOS))
        self.speaker = Speaker(settings, random.Random(number), now=net.now)
        self.judge = Judge(self.speaker)
        self.fib: dict[Prefix, Way] = {}
        self.own: dict[Prefix, int] = {}
        self.far: dict[int, tuple[Node, int]] = {}
        self.todo: list[Any] = []
        self.writing = False
        self.tick_at = -1.0

    def link(self, ifindex: int, cost: int, up: bool = True) -> None:
        given = BabelLink(ifindex, f"eth{ifindex}", self.address, settings=LinkSettings(cost), up=up)
        self.speaker.link_changed(given, self.net.now)
        self.turn()

    def turn(self) -> None:
        """All that follows from an input. What the kernel is told it does a little later."""
        net, speaker = self.net, self.speaker
        while (piece := speaker.routing(net.now)) or speaker.dirty:
            self.todo += piece
        self.write()
        self.judge.look(net.now)
        self.send()

    def write(self) -> None:
        if not self.writing and (self.todo or self.speaker.unsettled):
            self.writing = True
            batch, self.todo = self.todo, []
            self.net.after(self.net.luck.choice((0.0, 0.002, 0.05)), lambda: self.written(batch))

    def written(self, changes: list[Any]) -> None:
        for change in changes:
            if isinstance(change, HopLeft):
                for prefix, way in list(self.fib.items()):
                    if way.primary == change.hop and way.backup is not None:
                        self.fib[prefix] = Way(way.backup)
                        self.net.no_circle(prefix)
                continue
            for destination in change.destinations:
                prefix = Prefix(destination, change.length)
                if change.way is None:
                    self.fib.pop(prefix, None)
                else:
                    self.fib[prefix] = change.way
                    self.net.no_circle(prefix)
        self.writing = False
        if self.todo:
            self.write()
        else:
            self.speaker.settled(self.net.now)
            self.send()

    def send(self) -> None:
        for datagram in self.speaker.datagrams(self.net.now):
            self.judge.sent(datagram)
            self.net.carry(self, datagram)
        at = max(self.speaker.deadline(self.net.now), self.net.now + 0.001)
        if self.tick_at < self.net.now or at < self.tick_at:
            self.tick_at = at
            self.net.after(at - self.net.now, lambda: self.tick(at))

    def tick(self, at: float) -> None:
        if at == self.tick_at:
            self.tick_at = -1.0
            self.speaker.tick(self.net.now)
            self.turn()

    def announce(self) -> None:
        self.speaker.announce(self.own, self.net.now)
        self.turn()


class Net:
    """Routers, wires between two each, a clock, and no justice until `peace`."""

    def __init__(self, seed: int) -> None:
        self.luck = luck = random.Random(seed)
        self.now = 100.0
        self.peace = False
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.nodes = [Node(self, number) for number in range(luck.randint(3, 6))]
        size = len(self.nodes)
        pairs = [(luck.randrange(number), number) for number in range(1, size)]
        pairs += [tuple(sorted(luck.sample(range(size), 2))) for _ in range(luck.randint(1, size))]  # type: ignore[misc]
        self.wires: list[tuple[Node, int, int, Node, int, int]] = []
        for one, two in pairs:
            here, there = self.nodes[one], self.nodes[two]
            a, b = len(here.far) + 1, len(there.far) + 1
            here.far[a], there.far[b] = (there, b), (here, a)
            self.wires.append((here, a, luck.choice((1, 96, 300)), there, b, luck.choice((1, 96, 300))))
        self.down: set[int] = set()
        for number in range(len(self.wires)):
            self.set(number, True)
        self.prefixes = [parse_prefix(f"10.{number}.0.0/16") for number in range(size)]
        for node, prefix in zip(self.nodes, self.prefixes, strict=True):
            node.own[prefix] = luck.choice((0, 0, 10))
            node.announce()

    def after(self, pause: float, deed: Callable[[], None]) -> None:
        self._count += 1
        heappush(self._queue, (self.now + pause, self._count, deed))

    def set(self, number: int, up: bool) -> None:
        here, a, cost, there, b, other = self.wires[number]
        self.down -= {number}
        if not up:
            self.down |= {number}
        here.link(a, cost, up)
        there.link(b, other, up)

    def carry(self, node: Node, datagram: Datagram) -> None:
        there, ifindex = node.far[datagram.ifindex]
        copies = 1
        if not self.peace:
            copies = self.luck.choices((0, 1, 2), (10, 85, 5))[0]
        for _ in range(copies):
            pause = self.luck.choice((0.001, 0.001, 0.002, 0.3)) if not self.peace else 0.001
            arrival = Arrival(ifindex, node.address, datagram.data, datagram.destination)
            self.after(pause, partial(self._arrive, there, arrival))

    def _arrive(self, node: Node, arrival: Arrival) -> None:
        if arrival.destination in (GROUP, node.address):
            node.speaker.receive(arrival, self.now)
            node.turn()

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            self.now, _, deed = heappop(self._queue)
            deed()
        self.now = end

    def no_circle(self, prefix: Prefix) -> None:
        """No packet to a prefix circles, whichever links die in the next instant."""
        for start in self.nodes:
            seen: set[int] = set()
            stack = self._next(start, prefix)
            while stack:
                node = stack.pop()
                assert node is not start, f"{prefix} circles by router {start.number}"
                if node.number not in seen:
                    seen.add(node.number)
                    stack += self._next(node, prefix)

    def _next(self, node: Node, prefix: Prefix) -> list[Node]:
        way = node.fib.get(prefix)
        return [node.far[hop.ifindex][0] for hop in way or () if isinstance(hop, Hop)]

    def trouble(self) -> None:
        """Something happens."""
        deed = self.luck.random()
        if deed < 0.6:
            number = self.luck.randrange(len(self.wires))
            self.set(number, number in self.down)
        elif deed < 0.8:
            node = self.luck.choice(self.nodes)
            prefix = self.prefixes[node.number]
            if node.own.pop(prefix, None) is None:
                node.own[prefix] = self.luck.choice((0, 10))
            node.announce()
        self.run(self.luck.choice((0.01, 0.3, 3.0, 8.0)))

    def shortest(self, prefix: Prefix) -> list[int]:
        """What each router should announce (Bellman and Ford)."""
        metrics = [node.own.get(prefix, INFINITY) for node in self.nodes]
        for _ in self.nodes:
            for here, _a, cost, there, _b, other in self.wires:
                metrics[here.number] = min(metrics[here.number], metrics[there.number] + other)
                metrics[there.number] = min(metrics[there.number], metrics[here.number] + cost)
        return metrics


@pytest.mark.parametrize("seed", range(12))
def test_an_honest_network_never_circles_and_finds_the_shortest_paths(seed: int) -> None:
    net = Net(seed)
    for _ in range(25):
        net.trouble()
    net.peace = True
    for number in list(net.down):
        net.set(number, True)
    net.run(90)
    for prefix in net.prefixes:
        best = net.shortest(prefix)
        for node in net.nodes:
            if prefix in node.own:
                continue
            destination = node.speaker.table.find(prefix.packed, prefix.length)
            selected = destination.selected if destination is not None else None
            assert (selected.metric if selected is not None else INFINITY) == best[node.number]
            way = node.fib.get(prefix)
            assert (way.primary if way is not None else None) == (selected.hop if selected is not None else None)
