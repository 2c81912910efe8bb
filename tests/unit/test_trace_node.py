"""Nodes that ask each other, without a kernel: a small network in which every datagram and every moment is ours."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from via6.babel.model import Key
from via6.observe.trace import node as trace_node
from via6.observe.trace.model import Flow, Hop
from via6.observe.trace.node import Arrival, Glance, Lookup, Responder, Send, TraceLink, Verdict
from via6.observe.trace.trail import Trail
from via6.observe.trace.wire import PORT, Answer, Question, decode, encode
from via6.prefix import Address, parse_address

NONCE = b"noncenon"
TO, FROM = parse_address("10.0.9.1"), parse_address("10.0.1.1")


def address(number: int, port: int = 0) -> Address:
    """The link-local address of node `number` on its link to node `port`."""
    return parse_address(f"fe80::{number}:{port}")


class World:
    """Nodes 1, 2, … whose link to node M has the ifindex M. `ways` says where (node, destination) leads: another node,
    0 for itself, None for nowhere, a text for an interface on which nobody is asked."""

    def __init__(self, ways: dict[tuple[int, Address], int | str | None], keys: tuple[Key, ...] = ()) -> None:
        self.ways = ways
        self.now = 0.0
        self.states: dict[Address, str] = {}
        self.poked: list[Address] = []
        self.lose: Callable[[int, int, bytes], bool] = lambda _from, _to, _data: False
        self.silent: set[int] = set()
        self.found: list[Answer] = []
        self.carried = 0
        numbers = {n for n, _ in ways} | {far for far in ways.values() if isinstance(far, int) and far}
        self.nodes = {n: Responder(f"r{n}") for n in sorted(numbers)}
        for one, responder in self.nodes.items():
            for other in numbers - {one}:
                responder.links[other] = TraceLink(f"eth{other}", address(one, other), keys)

    def trace(self, back: bool = True, start: int = 1, seconds: float = 1.0) -> Trail:
        trail = Trail(back)
        assert self.nodes[start].start(NONCE, Flow(TO, FROM), back, self.now)
        self.run(self.now + seconds)
        for answer in self.found:
            trail.put(answer.back, answer.index, answer.hop, answer.end)
        return trail

    def run(self, until: float) -> None:
        """All that happens up to then."""
        while True:
            while sum(self._turn(number) for number in self.nodes):
                pass
            at = min(responder.deadline() for responder in self.nodes.values())
            if at > until:
                self.now = until
                return
            self.now = max(self.now, at)
            for responder in self.nodes.values():
                responder.tick(self.now)

    def _turn(self, number: int) -> bool:
        responder = self.nodes[number]
        sends, lookups, found = responder.take()
        self.found += found
        for lookup in lookups:
            if isinstance(lookup, Lookup):
                responder.answered(lookup, self._look(number, lookup), self.now)
            else:
                self.poked += [lookup.address] if lookup.poke else []
                responder.seen(lookup, self.states.get(lookup.address, ""), self.now)
        for send in sends:
            self._carry(number, send)
        return bool(sends or lookups or found)

    def _look(self, number: int, lookup: Lookup) -> Verdict:
        way = self.ways.get((number, lookup.flow.destination))
        came = f"eth{lookup.iif}" if lookup.iif else ""
        if way is None:
            return Verdict(Hop(in_device=came, ends="NO_ROUTE", why="no route"))
        if way == 0:
            return Verdict(Hop(in_device=came, ends="ACCEPTED"))
        if isinstance(way, str):
            ends, _, dev = way.partition(" ")
            hop = Hop(in_device=came, out_device=dev, ends=ends)
            return Verdict(hop, 1000, None, lookup.flow.destination, self.states.get(lookup.flow.destination, ""))
        via = address(way, number)
        hop = Hop(in_device=came, next_hop=via, out_device=f"eth{way}", ends="EXITS_NETWORK")
        return Verdict(hop, way, via, via, "REACHABLE")

    def _carry(self, number: int, send: Send) -> None:
        self.carried += 1
        far = self.nodes.get(send.ifindex)
        if far is None or send.ifindex in self.silent or self.lose(number, send.ifindex, send.data):
            return
        assert send.destination == address(send.ifindex, number)
        far.receive(Arrival(number, send.source, PORT, send.destination, 255, send.data), self.now)


def line(length: int) -> dict[tuple[int, Address], int | str | None]:
    """TO is the last one's, FROM the first one's."""
    ways: dict[tuple[int, Address], int | str | None] = {}
    for number in range(1, length + 1):
        ways[number, TO] = number + 1 if number < length else 0
        ways[number, FROM] = number - 1
    return ways


def names(trail: Trail, back: bool = False) -> list[tuple[str, str]]:
    return [(hop.node, hop.ends) for hop in trail.hops(back)]


# --- good ways -----------------------------------------------------------------------------------------------------


def test_a_line() -> None:
    world = World(line(5))
    trail = world.trace()
    assert names(trail) == [("r1", ""), ("r2", ""), ("r3", ""), ("r4", ""), ("r5", "ACCEPTED")]
    assert names(trail, True) == [("r5", ""), ("r4", ""), ("r3", ""), ("r2", ""), ("r1", "ACCEPTED")]
    assert [hop.in_device for hop in trail.hops(False)] == ["", "eth1", "eth2", "eth3", "eth4"]
    assert [hop.in_device for hop in trail.hops(True)] == ["", "eth5", "eth4", "eth3", "eth2"]
    assert trail.complete
    assert len(world.found) == 10, "nothing is told twice"
    world.run(10)
    assert all(responder.deadline() == inf for responder in world.nodes.values()), "nothing is left"


def test_only_there() -> None:
    trail = World(line(3)).trace(back=False)
    assert names(trail)[-1] == ("r3", "ACCEPTED")
    assert trail.hops(True) == []
    assert trail.complete


def test_another_way_back() -> None:
    ways = line(4) | {(4, FROM): 5, (5, FROM): 1}
    trail = World(ways).trace()
    assert [name for name, _ in names(trail, True)] == ["r4", "r5", "r1"]


def test_to_itself() -> None:
    trail = World({(1, TO): 0, (1, FROM): 0, (2, TO): 1}).trace()
    assert names(trail) == names(trail, True) == [("r1", "ACCEPTED")]


def test_keys_on_all_links() -> None:
    key = Key("k", "hmac-sha256", b"secret")
    world = World(line(4), (key,))
    assert names(world.trace(), True)[-1] == ("r1", "ACCEPTED")
    # One with another key hears nothing, and is not heard.
    world = World(line(4), (key,))
    other = Key("k", "hmac-sha256", b"other")
    for ifindex, link in world.nodes[3].links.items():
        world.nodes[3].links[ifindex] = TraceLink(link.name, link.address, (other,))
    assert names(world.trace()) == [("r1", ""), ("r2", "UNKNOWN")]
    assert world.nodes[3].counters == {"bad-mac": 2}, "the question, and once more"
    # Both take all: each signs with its own.
    for number in (2, 3, 4):
        for ifindex, link in world.nodes[number].links.items():
            world.nodes[number].links[ifindex] = TraceLink(link.name, link.address, link.keys, accept_all=True)
    world.run(10)
    world.found.clear()
    assert names(world.trace(seconds=20), True)[-1] == ("r1", "ACCEPTED")


# --- ways that end -------------------------------------------------------------------------------------------------


def test_no_way_back_from_a_loss() -> None:
    trail = World(line(4) | {(3, TO): None}).trace()
    assert names(trail) == [("r1", ""), ("r2", ""), ("r3", "NO_ROUTE")]
    assert trail.hops(False)[-1].why == "no route"
    assert trail.hops(True) == []
    assert trail.complete


def test_a_loss_on_the_way_back() -> None:
    trail = World(line(4) | {(2, FROM): None}).trace()
    assert names(trail)[-1] == ("r4", "ACCEPTED")
    assert names(trail, True) == [("r4", ""), ("r3", ""), ("r2", "NO_ROUTE")]
    assert trail.complete


def test_loops() -> None:
    trail = World(line(4) | {(4, TO): 2}).trace()
    assert names(trail) == [("r1", ""), ("r2", ""), ("r3", ""), ("r4", ""), ("r2", "LOOP")]
    assert trail.complete
    trail = World(line(4) | {(3, TO): 2}).trace()
    assert names(trail) == [("r1", ""), ("r2", ""), ("r3", ""), ("r2", "LOOP")]
    trail = World(line(4) | {(2, FROM): 3}).trace()
    assert names(trail, True) == [("r4", ""), ("r3", ""), ("r2", ""), ("r3", "LOOP")]
    assert trail.complete


def test_a_line_that_is_too_long() -> None:
    world = World(line(70))
    trail = world.trace()
    assert len(trail.hops(False)) == 64
    assert names(trail)[-1] == ("r64", "UNKNOWN")
    assert world.carried < 2 * 64 * 64


def test_a_silent_one() -> None:
    world = World(line(5))
    world.silent.add(3)
    trail = world.trace()
    assert names(trail) == [("r1", ""), ("r2", "UNKNOWN")]
    assert trail.hops(False)[1].next_hop == address(3, 2)
    assert "fe80::3:2 on eth3 does not answer" in trail.hops(False)[1].why
    assert trail.complete
    # What becomes of an answer that comes back to the last node that speaks.
    assert names(trail, True) == [("r2", ""), ("r1", "ACCEPTED")]
    assert (trail.hops(True)[0].in_device, trail.hops(True)[0].out_device) == ("eth3", "eth1")
    alone = World(line(5))
    alone.silent.add(3)
    assert alone.trace(back=False).hops(True) == []


def test_one_that_nobody_reaches() -> None:
    world = World(line(3))
    world.silent.add(3)
    world.states[address(3, 2)] = "INCOMPLETE"
    assert names(world.trace()) == [("r1", ""), ("r2", "NEIGHBOR_UNREACHABLE")]


def test_one_that_says_that_nobody_listens() -> None:
    world = World(line(3))
    world.silent.add(3)
    world.nodes[1].start(NONCE, Flow(TO, FROM), True, 0.0)
    world.run(0.001)
    world.nodes[2].refused(3, address(3, 2))
    world.run(0.002)
    there = [answer for answer in world.found if not answer.back]
    assert there[-1].hop.ends == "UNKNOWN"
    assert there[-1].end
    assert there[-1].hop.why == "no via6 runs at next hop fe80::3:2 on eth3"


def test_a_late_answer_is_better_than_silence() -> None:
    """The daemon there was busy. The trace that ended there goes on for whoever still listens, and the way back that
    was begun too early is no loop for the one that the last node begins."""
    world = World(line(3))
    held: list[bytes] = []
    world.lose = lambda _from, to, data: to == 3 and not held.append(data)
    world.nodes[1].start(NONCE, Flow(TO, FROM), True, 0.0)
    world.run(0.5)
    trail = Trail(want_back=True)
    for answer in world.found:
        trail.put(answer.back, answer.index, answer.hop, answer.end)
    assert trail.complete
    assert names(trail) == [("r1", ""), ("r2", "UNKNOWN")]
    assert names(trail, True) == [("r2", ""), ("r1", "ACCEPTED")]
    early = len(world.found)
    world.lose = lambda _from, _to, _data: False
    world.nodes[3].receive(Arrival(2, address(2, 3), PORT, address(3, 2), 255, held[0]), world.now)
    world.run(1.0)
    assert [a.hop.node for a in world.found[early:] if a.hop.ends == "ACCEPTED"] == ["r3", "r1"]
    for answer in world.found[early:]:
        trail.put(answer.back, answer.index, answer.hop, answer.end)
    assert names(trail) == [("r1", ""), ("r2", "UNKNOWN"), ("r3", "ACCEPTED")]
    assert names(trail, True) == [("r3", ""), ("r2", ""), ("r1", "ACCEPTED")]


def test_any_one_datagram_may_be_lost() -> None:
    """A question is asked again. An answer that is lost leaves a gap, or an open end, and nothing that is wrong."""
    whole = World(line(4))
    right = {back: names(whole.trace(), back) for back in (False, True)}
    for lost in range(whole.carried):
        world = World(line(4))
        count = [0]

        def lose(_from: int, _to: int, data: bytes, count: list[int] = count, lost: int = lost) -> bool:
            count[0] += 1
            return count[0] == lost + 1

        world.lose = lose
        trail = world.trace()
        for back in (False, True):
            for index, found in enumerate(names(trail, back)):
                assert found in (right[back][index], ("", "")), (lost, back, index)
        gaps = sum(hop == Hop() for back in (False, True) for hop in trail.hops(back))
        missing = sum(len(right[back]) - len(trail.hops(back)) for back in (False, True))
        assert gaps + missing <= 1, lost


# --- neighbours in doubt -------------------------------------------------------------------------------------------


def test_a_host_on_a_link() -> None:
    world = World(line(2) | {(2, TO): "DELIVERED_TO_SUBNET lan0"})
    world.states[TO] = "STALE"
    trail = world.trace()
    assert names(trail) == [("r1", ""), ("r2", "DELIVERED_TO_SUBNET")]
    assert trail.hops(True)[0].in_device == "eth1000"
    assert names(trail, True)[-1] == ("r1", "ACCEPTED")
    assert world.poked == []


def test_a_host_that_must_be_asked_for() -> None:
    world = World(line(2) | {(2, TO): "DELIVERED_TO_SUBNET lan0"})
    world.states[TO] = "FAILED"
    world.nodes[1].start(NONCE, Flow(TO, FROM), True, 0.0)
    world.run(0.05)
    assert world.poked == [TO]
    assert [(a.hop.node, a.hop.ends) for a in world.found] == [("r1", ""), ("r2", "")], "what is known is told at once"
    world.states[TO] = "REACHABLE"
    world.run(0.1)
    assert [(a.hop.node, a.hop.ends) for a in world.found[2:]] == [
        ("r2", "DELIVERED_TO_SUBNET"), ("r2", ""), ("r1", "ACCEPTED")
    ]  # fmt: skip


def test_a_host_that_is_not_there() -> None:
    world = World(line(2) | {(2, TO): "DELIVERED_TO_SUBNET lan0"})
    world.states[TO] = "INCOMPLETE"
    trail = world.trace()
    assert names(trail) == [("r1", ""), ("r2", "NEIGHBOR_UNREACHABLE")]
    assert trail.hops(False)[1].why == "destination 10.0.9.1 on lan0 does not answer ARP"
    assert trail.hops(True) == []


def test_out_of_the_network() -> None:
    world = World(line(2) | {(2, TO): "EXITS_NETWORK uplink"})
    world.states[TO] = "REACHABLE"
    trail = world.trace()
    assert names(trail) == [("r1", ""), ("r2", "EXITS_NETWORK")]
    why = trail.hops(False)[1].why
    assert why == "via6 asks nobody on uplink; the way back is taken as if the answer came in there"
    assert names(trail, True) == [("r2", ""), ("r1", "ACCEPTED")]


# --- strangers -----------------------------------------------------------------------------------------------------


def question(nonce: bytes = NONCE, back: bool = False) -> bytes:
    return encode(Question(nonce, Flow(TO, FROM), 5, back))


ASKER, ASKED = address(1, 2), address(2, 1)


def asked(
    responder: Responder, data: bytes, *, ifindex: int = 1, source: Address = ASKER, port: int = PORT,
    destination: Address = ASKED, hop_limit: int = 255, now: float = 0.0,
) -> int:  # fmt: skip
    """How many lookups it is worth."""
    responder.receive(Arrival(ifindex, source, port, destination, hop_limit, data), now)
    sends, lookups, found = responder.take()
    assert not found
    return len(lookups) + len(sends)


def fresh() -> Responder:
    return World(line(3)).nodes[2]


def test_who_is_not_answered() -> None:
    for why, wrong in {
        "not-from-the-link": {"hop_limit": 254}, "foreign": {"ifindex": 77},
    }.items():  # fmt: skip
        responder = fresh()
        assert asked(responder, question(), **wrong) == 0  # type: ignore[arg-type]
        assert responder.counters == {why: 1}
    responder = fresh()
    assert asked(responder, question(), source=parse_address("2001:db8::1")) == 0
    assert asked(responder, question(), destination=parse_address("ff02::1")) == 0
    assert asked(responder, question(), hop_limit=-1) == 0
    assert responder.counters == {"not-from-the-link": 3}
    responder.answering = False
    assert asked(responder, question()) == 0
    responder.answering = True
    assert asked(responder, question()[:-1]) == 0
    assert asked(responder, question()) == 1
    assert responder.counters == {"not-from-the-link": 3, "off": 1, "malformed": 1, "questions": 1}


def test_answers_that_nobody_asked_for() -> None:
    world = World(line(3))
    world.silent.add(3)
    world.nodes[1].start(NONCE, Flow(TO, FROM), True, 0.0)
    world.run(0.01)
    two = world.nodes[2]
    good = Answer(NONCE, Hop("liar", ends="ACCEPTED"), 2, end=True)

    def heard(answer: Answer, **how: object) -> int:
        return asked(two, encode(answer), **{"ifindex": 3, "source": address(3, 2), **how})  # type: ignore[arg-type]

    assert heard(good, ifindex=1) == 0, "from elsewhere"
    assert heard(good, source=address(4, 2)) == 0, "from somebody else"
    assert heard(good, port=8047) == 0
    assert heard(Answer(b"anothern", Hop(), 2)) == 0
    assert heard(Answer(NONCE, Hop(), 2, leg_back=True)) == 0
    assert heard(Answer(NONCE, Hop(), 1)) == 0, "of the asker itself"
    assert two.counters["unasked"] == 6
    assert heard(good) == 1
    assert sum(heard(good) for _ in range(1000)) == trace_node.MAX_RELAYS - 1


def test_a_repeated_question_is_answered_again_and_not_passed_on() -> None:
    world = World(line(3))
    two = world.nodes[2]
    asked(two, question())
    two.answered(Lookup(NONCE, False, Flow(TO, FROM), 1), world._look(2, Lookup(NONCE, False, Flow(TO, FROM), 1)), 0.0)
    sends, _, _ = two.take()
    assert [send.ifindex for send in sends] == [1, 3]
    two.receive(Arrival(1, address(1, 2), PORT, address(2, 1), 255, question()), 0.1)
    sends, lookups, _ = two.take()
    assert [send.ifindex for send in sends] == [1]
    assert not lookups
    # From somebody else, or further on its way, it is a loop.
    for source, data in ((address(7, 2), question()), (address(1, 2), encode(Question(NONCE, Flow(TO, FROM), 7)))):
        two.receive(Arrival(1, source, PORT, address(2, 1), 255, data), 0.1)
        (send,), lookups, _ = two.take()
        answer, _ = decode(send.data)
        assert isinstance(answer, Answer)
        assert answer.hop.ends == "LOOP"
        assert not lookups


def test_a_flood_is_bounded() -> None:
    responder = fresh()
    looked = sum(asked(responder, question(n.to_bytes(8, "big")), now=n / 1000) for n in range(1000))
    assert 100 <= looked <= 150
    assert responder.counters["too-many"] + responder.counters["questions"] == 1000
    assert asked(responder, question(), source=address(9, 2), now=1.0) == 1, "another neighbour may"
    # Of strangers without number on one link, too; other links do not suffer, and what is remembered is bounded.
    responder = fresh()
    count = 0
    for n in range(5000):
        source = parse_address(f"fe80::{n:x}")
        count += asked(responder, question(n.to_bytes(8, "big")), source=source, now=n / 1000)
        responder.tick(n / 1000)
    assert 200 <= count <= 700
    assert len(responder._buckets) <= trace_node.MAX_BUCKETS
    assert len(responder._legs) <= 400
    assert asked(responder, question(), ifindex=3, source=address(3, 2), destination=address(2, 3), now=5.0) == 1
    responder.tick(10.0)
    assert responder.deadline() == inf
    assert asked(responder, question(), source=address(9, 2), now=11.0) == 1


def test_glances_that_come_too_late_do_nothing() -> None:
    responder = fresh()
    responder.seen(Glance(NONCE, False, 1, TO, False), "REACHABLE", 0.0)
    responder.answered(Lookup(NONCE, False, Flow(TO, FROM), 1), Verdict(Hop(ends="ACCEPTED")), 0.0)
    assert responder.take() == ([], [], [])


# --- what is made of it --------------------------------------------------------------------------------------------


def test_a_trail() -> None:
    trail = Trail(want_back=True)
    assert (trail.complete, trail.hops(False), trail.hops(True)) == (False, [], [])
    trail.put(False, 2, Hop("r3", ends="UNKNOWN"), True)
    trail.put(False, 0, Hop("r1"), False)
    assert [hop.node for hop in trail.hops(False)] == ["r1", "", "r3"]
    assert not trail.complete, "the way back is taken from there"
    trail.put(True, 0, Hop("r3"), False)
    trail.put(True, 1, Hop("r1", ends="ACCEPTED"), True)
    assert trail.complete
    # It was busy, not silent: the direction ends elsewhere, and the way back with it.
    trail.put(False, 2, Hop("r3"), False)
    assert trail.hops(True) == []
    trail.put(False, 3, Hop("r4", ends="ACCEPTED"), True)
    assert not trail.complete
    assert [hop.node for hop in trail.hops(False)] == ["r1", "", "r3", "r4"]
    trail.put(True, 0, Hop("r4", ends="NO_ROUTE"), True)
    assert trail.complete
