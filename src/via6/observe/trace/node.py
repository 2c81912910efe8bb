"""A node that is asked where a packet goes, and asks on: what is under way, who may ask, how often. Pure.

The driver hands in datagrams and time, takes out what is to be sent, and does the lookups: `Lookup` (what does the
kernel do with this packet?) and `Glance` (does this neighbour answer?). It may take its time; nothing here waits.

A question makes a *leg* at each node that it passes. The node answers for itself at once and passes the question on
to the next hop that its kernel has chosen; what comes back from there returns to the asker. So the hops before a silent
one are never lost, no node need know the way, and a question passes each node once: who is asked twice ends it as a
loop. The last node of the way there begins the way back, if that is wanted: its own kernel is asked where the answer to
the packet would go, and the question goes on from hop to hop like the first, perhaps another way.

A direction ends where the packet arrives, where it is discarded, or where it leaves for somebody who is not asked (a
LAN, an uplink) or does not answer (a router without via6). From there the way back begins, too, as if the answer came
in where the packet went out. What lies behind a next hop that does not answer nobody knows; nothing is made up.

Loss: a question to which nothing comes back is repeated once, and is the same question (nonce, asker, index), so it is
answered again and not taken for a loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Final, NamedTuple

from via6.babel.model import Key
from via6.model import IFA_F_DADFAILED, IFA_F_TENTATIVE, InterfaceAddress, Link
from via6.observe.trace.model import DAEMON, Flow, Hop
from via6.observe.trace.wire import HOP_LIMIT, MAX_INDEX, PORT, Answer, Ends, Question, decode, encode, sign, signed
from via6.prefix import Address, Prefix, format_address, is_link_local, is_multicast, mask

MAX_LEGS: Final = 1024
LEG_S: Final = 2.0
"""With the rates below one neighbour has 200 legs at most, and one interface 400: others find room."""
MAX_RELAYS: Final = 512
"""Answers that one question may bring back: 64 nodes each way, each of which says a thing or two."""
AGAIN_S: Final = 0.12
SILENT_S: Final = 0.3
LOOKS_S: Final = (0.01, 0.03, 0.08, 0.15, 0.25)
"""After a neighbour was asked for its link-layer address, its state is looked at this much later."""
RATE, BURST = 50.0, 100.0
"""Questions a second of one neighbour,"""
LINK_RATE, LINK_BURST = 100.0, 200.0
"""and of all neighbours of an interface."""
MAX_BUCKETS: Final = 256

ARRIVES: Final = frozenset({"ACCEPTED", "DELIVERED_TO_SUBNET", "EXITS_NETWORK"})
RETURNS: Final = ARRIVES | {"UNKNOWN"}
"""After which end of the way there the way back is looked at."""
NOBODY: Final = "no via6 runs at next hop"
DOUBTFUL: Final = frozenset({"", "NONE", "INCOMPLETE", "FAILED"})
"""States of a neighbour of which nobody knows whether it answers: it was never asked, or it did not answer then."""


@dataclass(frozen=True, slots=True)
class TraceLink:
    """An interface on which questions are asked and answered. `address` is our link-local one (empty: there is none),
    `inet` are our IPv4 addresses there, each with its prefix: who has no IPv6, an IPv4 host, is within one of these."""

    name: str
    address: Address
    keys: tuple[Key, ...] = ()
    accept_all: bool = False
    inet: tuple[tuple[Address, Prefix], ...] = ()

    def source_for(self, address: Address) -> Address | None:
        """The address of ours from which this neighbour is asked."""
        if len(address) == 16:
            return self.address or None
        return next((own for own, prefix in self.inet if address in prefix and address != own), None)

    def is_ours(self, arrival: Arrival) -> bool:
        """A datagram from a neighbour: hop limit 255 says so, and where IPv4 is spoken that both ends are on link."""
        if arrival.hop_limit != HOP_LIMIT or is_multicast(arrival.destination):
            return False
        if len(arrival.source) == 16:
            return True
        return any(own == arrival.destination and arrival.source in prefix for own, prefix in self.inet)


def links_of(links: Mapping[int, Link], addresses: Iterable[InterfaceAddress]) -> dict[int, TraceLink]:
    """All interfaces that have an address to ask from, but the loopback."""
    local: dict[int, Address] = {}
    inet: dict[int, list[tuple[Address, Prefix]]] = {}
    for held in addresses:
        link = links.get(held.ifindex)
        if link is None or link.loopback or held.flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED):
            continue
        if len(held.address) == 4:
            prefix = Prefix(mask(held.address, held.length), held.length)
            inet.setdefault(held.ifindex, []).append((held.address, prefix))
        elif is_link_local(held.address):
            local.setdefault(held.ifindex, held.address)
    return {
        index: TraceLink(links[index].name, local.get(index, b""), inet=tuple(inet.get(index, ())))
        for index in sorted(local.keys() | inet.keys())
    }


class Arrival(NamedTuple):
    """A datagram that came in; `destination` is the address of ours that it was sent to."""

    ifindex: int
    source: Address
    port: int
    destination: Address
    hop_limit: int
    data: bytes


class Send(NamedTuple):
    """To be sent from our port of `source` with hop limit 255."""

    ifindex: int
    source: Address
    destination: Address
    port: int
    data: bytes


class Lookup(NamedTuple):
    """What does this node's kernel do with the packet, coming in on `iif` (0: it is our own)?"""

    nonce: bytes
    back: bool
    flow: Flow
    iif: int


class Glance(NamedTuple):
    """What is the state of this neighbour? `poke`: it is to be asked for its link-layer address first."""

    nonce: bytes
    back: bool
    ifindex: int
    address: Address
    poke: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to a Lookup. `hop` without a name; its `ends` says what becomes of the packet at this node, be it
    EXITS_NETWORK. It leaves by `out`. `ask` is where the next hop is asked, its IPv6 address if that is known. The
    packet is handed to `neighbour`, whose state is `state`: None where nobody is asked for a link-layer address."""

    hop: Hop
    out: int = 0
    ask: Address | None = None
    neighbour: Address | None = None
    state: str = ""


@dataclass(slots=True)
class _Bucket:
    """Tokens, so many a second."""

    tokens: float
    at: float

    def take(self, now: float, rate: float, burst: float) -> bool:
        self.tokens = min(burst, self.tokens + max(0.0, now - self.at) * rate)
        self.at = now
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True


@dataclass(slots=True)
class _Leg:
    """One question under way. `asker`: who sent it to which address of ours; None: this node began it, the way there
    for somebody here, the way back for the leg of the way there, whose nonce is `there`."""

    question: Question
    iif: int
    until: float
    asker: Arrival | None = None
    said: Answer | None = None
    verdict: Verdict | None = None
    asked: tuple[int, Address] | None = None
    again_at: float = inf
    silent_at: float = inf
    looks: list[float] = field(default_factory=list)
    relays: int = 0
    refused: bool = False
    there: bytes = b""


def presumed(asked: Question) -> bytes:
    """The nonce of a way back that is begun because the next hop is silent. It is not the trace's: if that one was
    only busy, the last node begins another way back, which must not look like a loop to the nodes of this one."""
    return bytes(one ^ other for one, other in zip(asked.nonce, b"presume" + bytes([asked.index + 1]), strict=True))


class Responder:
    """`links` and `answering` may be changed at any time. After each call take what is in `sends`, `lookups` and
    `found` (answers to questions that began here) by `take`."""

    def __init__(self, name: str, *, port: int = PORT, answering: bool = True) -> None:
        self.name = name
        self.answering = answering
        self.links: dict[int, TraceLink] = {}
        self.counters: dict[str, int] = {}
        self._port = port
        self._next = inf
        self._legs: dict[tuple[bytes, bool], _Leg] = {}
        self._buckets: dict[tuple[int, Address], _Bucket] = {}
        self._sends: list[Send] = []
        self._lookups: list[Lookup | Glance] = []
        self._found: list[Answer] = []

    def take(self) -> tuple[list[Send], list[Lookup | Glance], list[Answer]]:
        """What is to be done now, and what was found; each once."""
        out = self._sends, self._lookups, self._found
        self._sends, self._lookups, self._found = [], [], []
        return out

    def _count(self, what: str) -> None:
        self.counters[what] = self.counters.get(what, 0) + 1

    # --- inputs ----------------------------------------------------------------------------------------------------

    def start(self, nonce: bytes, flow: Flow, want_back: bool, now: float, iif: int = 0) -> bool:
        """A question of this node itself; False: too many are under way. The flow has a source."""
        if len(self._legs) >= MAX_LEGS:
            return False
        question = Question(nonce, flow, 0, False, want_back)
        self._begin(_Leg(question, iif, now + LEG_S))
        return True

    def receive(self, arrival: Arrival, now: float) -> None:
        """A datagram, whoever sent it. Never raises."""
        link = self.links.get(arrival.ifindex)
        if link is None:
            return self._count("foreign")
        if not link.is_ours(arrival):
            return self._count("not-from-the-link")
        ends = Ends(arrival.source, arrival.port, arrival.destination, self._port)
        if link.keys and not signed(arrival.data, ends, link.keys):
            self._count("bad-mac")
            if not link.accept_all:
                return None
        said, problem = decode(arrival.data)
        if said is None:
            return self._count(problem)
        if isinstance(said, Question):
            return self._question(arrival, said, now)
        return self._answer(arrival, said)

    def answered(self, lookup: Lookup, verdict: Verdict, now: float) -> None:
        """The kernel has spoken."""
        leg = self._legs.get((lookup.nonce, lookup.back))
        if leg is None or leg.verdict is not None:
            return
        leg.verdict = verdict
        hop = replace(verdict.hop, node=self.name, seen=frozenset({DAEMON}))
        leg.said = Answer(lookup.nonce, replace(hop, ends=""), leg.question.index, lookup.back)
        link = self.links.get(verdict.out)
        passes = hop.ends == "EXITS_NETWORK" and link is not None
        doubt = verdict.neighbour is not None and verdict.state in DOUBTFUL
        if passes and link is not None and (verdict.ask is not None or not doubt):
            self._pass_on(leg, verdict, link, now)
        elif hop.ends in ARRIVES and doubt and verdict.neighbour is not None:
            self._say(leg)
            leg.looks = [now + s for s in reversed(LOOKS_S)]
            self._next = min(self._next, leg.looks[-1])
            self._glance(leg, verdict.out, verdict.neighbour, True)
        else:
            self._arrive(leg, verdict, now)

    def seen(self, glance: Glance, state: str, now: float) -> None:
        """The state of a neighbour ("": nothing is known of it)."""
        leg = self._legs.get((glance.nonce, glance.back))
        verdict = leg.verdict if leg is not None else None
        if leg is None or verdict is None or leg.said is None or leg.said.end:
            return
        doubtful = state in DOUBTFUL
        if leg.asked is not None:
            if leg.silent_at == inf and not leg.relays:
                self._silent(leg, state, now)
        elif not doubtful:
            leg.looks = []
            self._arrive(leg, verdict, now)
        elif not leg.looks:
            asked = _resolver(glance.address)
            who = "destination" if verdict.hop.next_hop is None else "next hop"
            where = f"{format_address(glance.address)} on {verdict.hop.out_device}"
            self._end(leg, "NEIGHBOR_UNREACHABLE", f"{who} {where} does not answer {asked}", now)

    def refused(self, ifindex: int, address: Address) -> None:
        """A next hop has said that nobody listens there (ICMPv6 port unreachable): it need not be waited for."""
        for leg in self._legs.values():
            if leg.asked == (ifindex, address) and not leg.relays and leg.silent_at != inf:
                leg.again_at, leg.silent_at, leg.refused = inf, -inf, True
                self._next = -inf

    def tick(self, now: float) -> None:
        """Lets time pass."""
        if now < self._next:
            return
        for key, leg in list(self._legs.items()):
            if now >= leg.until:
                del self._legs[key]
                continue
            if leg.asked is not None and now >= leg.silent_at:
                leg.again_at = leg.silent_at = inf
                self._glance(leg, *leg.asked, False)
            elif leg.asked is not None and now >= leg.again_at:
                leg.again_at = inf
                self._ask(leg, *leg.asked)
            if leg.looks and now >= leg.looks[-1]:
                assert leg.verdict is not None
                assert leg.verdict.neighbour is not None
                while leg.looks and now >= leg.looks[-1]:
                    leg.looks.pop()
                self._glance(leg, leg.verdict.out, leg.verdict.neighbour, False)
        self._next = min(
            (min(leg.until, leg.again_at, leg.silent_at, *leg.looks[-1:]) for leg in self._legs.values()), default=inf
        )

    def deadline(self) -> float:
        """When `tick` is due, or sooner; infinity if nothing is under way."""
        return self._next

    # --- questions -------------------------------------------------------------------------------------------------

    def _question(self, arrival: Arrival, question: Question, now: float) -> None:
        if not self.answering:
            return self._count("off")
        if len(arrival.source) == 16 and not is_link_local(arrival.source):
            return self._count("not-from-the-link")
        if not self._admits(arrival, now):
            return self._count("too-many")
        self._count("questions")
        leg = self._legs.get((question.nonce, question.back))
        if leg is not None:
            asker = leg.asker
            if asker is not None and asker[:4] == arrival[:4] and leg.question == question:
                self._say(leg)
                return None
            why = "the packet was here before: it goes round in a loop"
            hop = Hop(self.name, self.links[arrival.ifindex].name, ends="LOOP", why=why)
            answer = Answer(question.nonce, hop, question.index, question.back, question.back, True)
            return self._reply(arrival, answer)
        if len(self._legs) >= MAX_LEGS:
            return self._count("full")
        return self._begin(_Leg(question, arrival.ifindex, now + LEG_S, arrival))

    def _admits(self, arrival: Arrival, now: float) -> bool:
        """Whether the neighbour and its link have asked less than they may."""
        for key, rate, burst in (
            ((arrival.ifindex, arrival.source), RATE, BURST),
            ((arrival.ifindex, b""), LINK_RATE, LINK_BURST),
        ):
            bucket = self._buckets.pop(key, None)
            if bucket is None:
                if len(self._buckets) >= MAX_BUCKETS:  # the one that was used longest ago makes room
                    del self._buckets[next(iter(self._buckets))]
                bucket = _Bucket(burst, now)
            self._buckets[key] = bucket
            if not bucket.take(now, rate, burst):
                return False
        return True

    def _begin(self, leg: _Leg) -> None:
        asked = leg.question
        self._legs[asked.nonce, asked.back] = leg
        self._next = min(self._next, leg.until)
        self._lookups.append(Lookup(asked.nonce, asked.back, asked.flow, leg.iif))

    def _pass_on(self, leg: _Leg, verdict: Verdict, link: TraceLink, now: float) -> None:
        """The question goes to the next hop, and the asker hears of this one."""
        via = verdict.hop.next_hop
        if verdict.ask is None or link.source_for(verdict.ask) is None:
            shown = format_address(via) if via else "the next hop"
            self._end(leg, "UNKNOWN", f"{shown} cannot be asked: no address of it on {link.name} is within reach", now)
        elif leg.question.index >= MAX_INDEX:
            self._end(leg, "UNKNOWN", f"more than {MAX_INDEX + 1} nodes", now)
        else:
            self._say(leg)
            leg.asked = verdict.out, verdict.ask
            leg.again_at, leg.silent_at = now + AGAIN_S, now + SILENT_S
            self._next = min(self._next, leg.again_at)
            self._ask(leg, *leg.asked)

    def _ask(self, leg: _Leg, ifindex: int, address: Address) -> None:
        link = self.links.get(ifindex)
        source = link.source_for(address) if link is not None else None
        if link is None or source is None:
            return
        asked = leg.question
        data = encode(replace(asked, index=asked.index + 1))
        data = sign(data, Ends(source, self._port, address, PORT), link.keys)
        self._sends.append(Send(ifindex, source, address, PORT, data))

    def _glance(self, leg: _Leg, ifindex: int, address: Address, poke: bool) -> None:
        self._lookups.append(Glance(leg.question.nonce, leg.question.back, ifindex, address, poke))

    # --- answers ---------------------------------------------------------------------------------------------------

    def _answer(self, arrival: Arrival, answer: Answer) -> None:
        """What the next hop says, of itself or of those behind it, goes to the asker."""
        leg = self._legs.get((answer.nonce, answer.leg_back))
        if leg is None or arrival.port != PORT or leg.asked != (arrival.ifindex, arrival.source):
            return self._count("unasked")
        asked = leg.question
        ahead = answer.index > asked.index if answer.back == asked.back else asked.want_back and answer.back
        if not ahead or leg.relays >= MAX_RELAYS:
            return self._count("unasked")
        leg.relays += 1
        leg.again_at = leg.silent_at = inf
        return self._carry(leg, answer)

    def _say(self, leg: _Leg) -> None:
        """What this node has said of itself, again if need be."""
        if leg.said is not None:
            self._carry(leg, leg.said)

    def _carry(self, leg: _Leg, answer: Answer) -> None:
        """To whoever asked."""
        if leg.asker is not None:
            return self._reply(leg.asker, replace(answer, leg_back=leg.question.back))
        if leg.question.back:
            there = self._legs.get((leg.there, False))
            if there is None or (there.relays and leg.there != answer.nonce):  # it was busy, not silent
                return None
            return self._carry(there, replace(answer, nonce=leg.there))
        return self._found.append(answer)

    def _reply(self, asker: Arrival, answer: Answer) -> None:
        link = self.links.get(asker.ifindex)
        if link is None:
            return
        data = sign(encode(answer), Ends(asker.destination, self._port, asker.source, asker.port), link.keys)
        self._sends.append(Send(asker.ifindex, asker.destination, asker.source, asker.port, data))

    # --- the end of a direction ------------------------------------------------------------------------------------

    def _arrive(self, leg: _Leg, verdict: Verdict, now: float) -> None:
        why = verdict.hop.why
        if verdict.hop.ends == "EXITS_NETWORK" and not why:
            why = f"via6 asks nobody on {verdict.hop.out_device}"
        self._end(leg, verdict.hop.ends, why, now)

    def _silent(self, leg: _Leg, state: str, now: float) -> None:
        assert leg.asked is not None
        assert leg.verdict is not None
        where = f"{format_address(leg.asked[1])} on {leg.verdict.hop.out_device}"
        if leg.verdict.neighbour == leg.asked[1] and state in ("INCOMPLETE", "FAILED"):
            self._end(leg, "NEIGHBOR_UNREACHABLE", f"next hop {where} does not answer {_resolver(leg.asked[1])}", now)
        else:
            why = "none runs there, or it may not, has other keys, or is filtered (UDP 8046)"
            why = f"next hop {where} does not answer via6: {why}"
            self._end(leg, "UNKNOWN", f"{NOBODY} {where}" if leg.refused else why, now)

    def _end(self, leg: _Leg, ends: str, why: str, now: float) -> None:
        """This direction ends here."""
        assert leg.said is not None
        asked = leg.question
        returns = ends in RETURNS and asked.want_back and not asked.back and (asked.nonce, True) not in self._legs
        if returns and ends == "EXITS_NETWORK":
            why += "; the way back is taken as if the answer came in there"
        leg.said = replace(leg.said, hop=replace(leg.said.hop, ends=ends, why=why), end=True)
        self._say(leg)
        if returns:
            assert leg.verdict is not None
            iif = 0 if ends == "ACCEPTED" else leg.verdict.out
            nonce = asked.nonce if ends in ARRIVES else presumed(asked)
            self._begin(_Leg(Question(nonce, asked.flow.back(), 0, True), iif, now + LEG_S, there=asked.nonce))


def _resolver(address: Address) -> str:
    return "ARP" if len(address) == 4 else "Neighbour Discovery"
