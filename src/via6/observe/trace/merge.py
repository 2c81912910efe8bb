"""What the witnesses say of a packet's way, as one trace: probes, daemons, and this node's own table.

The daemon's hop number k is the router that answers the probe with hop limit k; hop 0 is this node. A daemon says what
its kernel would do, a probe what was done: where they differ the probe is right, and the trace says that they differ.
Probes see no way back. That an answer came at all proves that there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

from via6.observe.packet import TIME_EXCEEDED, UNREACHABLE
from via6.observe.trace.back import Seen, compare, distance, ends_of, way_back
from via6.observe.trace.model import GOOD, PROBE, TCP, UDP, Flow, Hop, Trace
from via6.observe.trace.node import NOBODY
from via6.observe.trace.probe import (
    DUMMY,
    HOP,
    REACHED,
    ROLE_IN,
    ROLE_NEXT_HOP,
    ROLE_OUT,
    RST,
    SILENT,
    UNREACHABLE_KIND,
    Answer,
)
from via6.prefix import Address, format_address

_BY_CODE: Final = {0: "NO_ROUTE", 6: "NO_ROUTE", 7: "NO_ROUTE", 1: "NEIGHBOR_UNREACHABLE"}
"""Destination unreachable; the codes that are not here say that a node discards it."""
_NOT_PERMITTED: Final = "Operation not permitted"
_NO_ANSWER: Final = "no answer to the probes: lost, filtered, or rationed"
_NOT_THERE: Final = "the packet does not come here: its tables would send it on"
_NEAR: Final = 8
_ROUNDS: Final = 3


def no_address(node: str) -> str:
    """Why a node cannot be answered, and the remedy."""
    return (
        f"{node} has no IPv4 address to send from, so nobody can answer it. `[node] address` in via6.toml gives it one;"
        " `--from ADDRESS` follows another's packets through it"
    )


def merge(
    flow: Flow, first: Hop, answers: Sequence[Answer], there: Sequence[Hop], back: Sequence[Hop],
    remarks: Sequence[str] = (),
) -> Trace:  # fmt: skip
    """The trace. `first` is hop 0 by the own table, `answers` those to the probes (empty: none were sent), the last
    one to the probe that was to arrive; `there` and `back` are what daemons say, this node the first of `there`."""
    return _Merge(flow, first, answers, there, back, remarks).trace()


class _Merge:
    def __init__(
        self, flow: Flow, first: Hop, answers: Sequence[Answer], there: Sequence[Hop], back: Sequence[Hop],
        remarks: Sequence[str],
    ) -> None:  # fmt: skip
        self.flow = flow
        self.answers = {answer.ttl: answer for answer in answers[:-1]}
        self.far = answers[-1] if answers else None
        self.there = list(there)
        # A way back that is this node alone was made up for a packet that left for nobody who is asked.
        self.back = list(back) if len(back) > 1 or len(there) != 1 else []
        self.remarks = list(remarks)
        self.reached = self._reached()
        self._nearer()
        self.stopped = self._stopped()
        self.stop_hop = self._stop_hop()
        self.answered = max((a.ttl for a in self.answers.values() if a.kind != SILENT), default=0)
        if self.there and self.there[0].node:  # as the daemon here calls it, and the others
            first = replace(first, node=self.there[0].node)
        self.hops = [_both(first, self.there[0] if self.there else None)]
        for number in range(1, self._count()):
            self.hops.append(self._hop(number))

    def trace(self) -> Trace:
        disposition = self._disposition()
        self.hops = _without_ends(self.hops, disposition)
        self._beyond(disposition)
        partly = bool(self.there) and self.there[-1].ends == "UNKNOWN"
        counted = self.reached is not None and self.reached.ttl in self.answers
        seen = Seen(self.flow, self.hops, self.back, self.reached, counted, partly, disposition)
        back = way_back(seen)
        self._narrow("there", self.hops)
        self._narrow("back", back.hops if back is not None else ())
        asymmetric, said = compare(seen, back)
        self.remarks += said
        return Trace(self.flow, tuple(self.hops), disposition, back, asymmetric, tuple(dict.fromkeys(self.remarks)))

    # --- hops ------------------------------------------------------------------------------------------------------

    def _reached(self) -> Answer | None:
        near = next((a for a in self.answers.values() if a.kind == REACHED), None)
        return near or (self.far if self.far is not None and self.far.kind == REACHED else None)

    def _nearer(self) -> None:
        """A destination that rations its answers may have left those to the first probes that came to it unsaid: a
        daemon that is it, and behind which nobody answers, has the place."""
        number = len(self.there) - 1
        end = self.reached.ttl if self.reached is not None else 0
        if number < 1 or end not in self.answers or end <= number or self.there[number].ends != "ACCEPTED":
            return
        if all(self.answers[ttl].kind == SILENT for ttl in range(number, end) if ttl in self.answers):
            assert self.reached is not None
            self.reached = replace(self.reached, ttl=number)
            self.answers = {ttl: answer for ttl, answer in self.answers.items() if ttl < number}
            self.answers[number] = self.reached

    def _stopped(self) -> Answer | None:
        """The first answer that says that the packet goes no further."""
        found = [a for a in (*self.answers.values(), self.far) if a is not None and a.kind == UNREACHABLE_KIND]
        return found[0] if found else None

    def _stop_hop(self) -> int:
        """Which hop it is that refuses: the one with the probe's hop limit if it does so before it looks at that; a
        packet filter looks later, and then the error is of the router that answered one probe earlier."""
        if self.stopped is None or self.stopped.ttl not in self.answers:
            return -1
        number = self.stopped.ttl
        before = self.answers.get(number - 1)
        if before is None or before.kind != HOP:
            return number
        if before.source == self.stopped.source != DUMMY or 0 < before.ttl_back == self.stopped.ttl_back:
            self.answers = {ttl: answer for ttl, answer in self.answers.items() if ttl < number}
            return number - 1
        return number

    def _count(self) -> int:
        """How many hops there are to show: those that somebody knows, and one that is silent if the way is lost."""
        known = max(len(self.there), self.answered + 1)
        lost = self.reached is None and self.stopped is None and not self._told_end()
        return known + 1 if lost and self.answers and known <= max(self.answers) else known

    def _told_end(self) -> bool:
        last = self.there[-1] if self.there else self.hops[0] if hasattr(self, "hops") else None
        return last is not None and bool(last.ends) and last.ends != "UNKNOWN"

    def _hop(self, number: int) -> Hop:
        hop = self.there[number] if number < len(self.there) else Hop(notes=self._of_the_silent(number))
        answer = self.answers.get(number)
        return hop if answer is None else _with_answer(hop, answer)

    def _of_the_silent(self, number: int) -> tuple[str, ...]:
        """What the hop before knows of one that has no via6."""
        before = self.hops[number - 1]
        answer = self.answers.get(number)
        if not before.next_hop or not before.out_device or (answer is not None and answer.kind == REACHED):
            return ()
        whose = f" of {before.node}" if before.node else ""
        who = f"it is {format_address(before.next_hop)} dev {before.out_device}{whose}"
        return (f"{who}, no via6 {'runs' if before.why.startswith(NOBODY) else 'answers'} there",)

    def _note(self, number: int, note: str) -> None:
        self.hops[number] = replace(self.hops[number], notes=(*self.hops[number].notes, note))

    def _name(self, number: int) -> str:
        """A hop in a sentence. 192.0.0.8 tells nobody apart."""
        hop = self.hops[number]
        known = format_address(hop.icmp_source) if hop.icmp_source and hop.icmp_source != DUMMY else ""
        return hop.node or (f"hop {number} ({known})" if known else f"hop {number}")

    def _beyond(self, disposition: str) -> None:
        """Nodes where the packet would have come by the tables, had it not been discarded before."""
        if disposition not in ("NO_ROUTE", "NULL_ROUTED", "NEIGHBOR_UNREACHABLE"):
            return
        end = next((number for number, hop in enumerate(self.hops) if hop.ends), len(self.hops))
        for number in range(end + 1, len(self.hops)):
            notes = (note for note in self.hops[number].notes if note != _NO_ANSWER)
            self.hops[number] = replace(self.hops[number], notes=(*notes, _NOT_THERE))

    def _narrow(self, way: str, hops: Sequence[Hop]) -> None:
        """Where a link carries less than the first one: large packets need PMTUD from there on."""
        known = [hop for hop in hops if hop.mtu and hop.out_device]
        least = min(known, key=lambda hop: hop.mtu, default=None)
        if least is not None and least.mtu < known[0].mtu:
            where = f"{least.node or 'a hop'} {least.out_device}"
            self.remarks.append(f"the MTU on the way {way} falls from {known[0].mtu} to {least.mtu} at {where}")

    # --- the end ---------------------------------------------------------------------------------------------------

    def _claim(self) -> tuple[int, Hop] | None:
        """The last word of tables and daemons: which hop, and what it says."""
        number = len(self.there) - 1 if self.there else 0
        if self.hops[0].ends not in ("", "UNKNOWN", *GOOD):  # it does not leave this node
            number = 0
        hop = self.hops[number]
        return (number, hop) if hop.ends else None

    def _disposition(self) -> str:
        claim = self._claim()
        if self.reached is not None:
            return self._arrived(claim)
        refused = [one.refused for one in (*self.answers.values(), self.far) if one is not None]
        if refused and all(refused) and (claim is None or claim[1].ends in (*GOOD, "UNKNOWN")):
            del self.hops[1:]
            why = f"this node does not send it: {refused[0]}"
            return self._end(0, "NULL_ROUTED", why + " (a packet filter on output?)" * (refused[0] == _NOT_PERMITTED))
        if self.stopped is not None and not (claim and claim[1].ends in GOOD and claim[0] == 0):
            return self._refused(self.stopped, claim)
        if claim is not None and claim[1].ends not in GOOD and claim[1].ends != "UNKNOWN":
            return self._claimed_bad(*claim)
        if again := self._again():
            first, number = again
            del self.hops[number + 1 :]
            return self._end(number, "LOOP", f"it is hop {first} again: the packet goes round")
        if self.far is not None and self.far.kind == HOP and self.far.type == TIME_EXCEEDED:
            self.remarks.append(f"the probe with hop limit {self.far.ttl} used it up: it goes round")
            return self._end(len(self.hops) - 1, "LOOP", "it goes round until its hop limit is used up")
        if claim is not None and claim[1].ends in GOOD:
            return self._silent(*claim)
        if self.far is None:
            return claim[1].ends if claim else "UNKNOWN"
        if ends_of(self.back) not in ("", "UNKNOWN", *GOOD):
            self.remarks.append("whether it arrives or not, an answer is lost on its way: see the way back")
        last = min(max(self.answered, len(self.there) - 1), len(self.hops) - 1)
        why = f"nothing answers behind {self._name(last)}"
        if claim is not None and claim[0] == last and claim[1].why:
            why = f"{why}; {claim[1].why}"
        return self._end(last, "UNKNOWN", why)

    def _again(self) -> tuple[int, int] | None:
        """The first two hops of a router that has answered three times or more: a packet that goes round comes by again
        and again. Not one behind the other: so does a NAT that puts its own address for all behind it."""
        seen: dict[Address, list[int]] = {}
        for ttl, answer in self.answers.items():
            if answer.kind == HOP and answer.source and answer.source != DUMMY:
                seen.setdefault(answer.source, []).append(ttl)
        for ttls in seen.values():
            if len(ttls) >= _ROUNDS and all(later - one > 1 for one, later in pairwise(ttls)):
                return ttls[0], ttls[1]
        return None

    def _arrived(self, claim: tuple[int, Hop] | None) -> str:
        assert self.reached is not None
        if claim is not None and claim[1].ends not in GOOD and claim[1].ends != "UNKNOWN":
            number, hop = claim
            words = f"{hop.ends}" + (f" ({hop.why})" if hop.why else "")
            name = self._name(number)
            self.remarks.append(f"{name} says {words}, yet the destination answers: it changed, or another way is used")
            self._note(number, f"contradicted by the probes: it says {words}")
        last = self.reached.ttl if self.reached.ttl in self.answers else self._place_of_far(claim, self.reached)
        if claim is not None and claim[1].ends == "ACCEPTED" and last not in (claim[0], len(self.hops) - 1):
            self.remarks.append(f"the probes arrive after {last} hops, the daemons say {claim[0]}")
            self._note(min(last, len(self.hops) - 1), "the probes have arrived here")
        self._doubt()
        return self._end(min(last, len(self.hops) - 1), "ACCEPTED", "")

    def _place_of_far(self, claim: tuple[int, Hop] | None, reached: Answer) -> int:
        """The hop of a destination that has answered the far probe alone."""
        told = claim[1].ends if claim is not None and claim[0] == len(self.hops) - 1 else ""
        if told != "ACCEPTED":
            self.hops.append(Hop())
        last = len(self.hops) - 1
        self._heard_late(last, reached)
        if told not in ("ACCEPTED", "DELIVERED_TO_SUBNET"):
            self.remarks.append(f"the destination answers; which hops lie behind {self._name(last - 1)} is not known")
        return last

    def _heard_late(self, number: int, answer: Answer) -> None:
        """It was silent to the probes with its own hop limit, but not to a later one."""
        hop = self.hops[number]
        self.hops[number] = _with_answer(replace(hop, notes=tuple(n for n in hop.notes if n != _NO_ANSWER)), answer)

    def _doubt(self) -> None:
        """A packet filter can refuse a TCP connection in another's name; the TTL of the answer betrays where it is."""
        told = self.reached
        before = self.answers.get(told.ttl - 1) if told is not None else None
        if told is None or before is None or before.kind != HOP or self.flow.proto != TCP or not told.code & RST:
            return
        way = self.back if self.there and self.there[-1].ends == "ACCEPTED" and ends_of(self.back) == "ACCEPTED" else ()
        near = 0 < told.ttl_back == before.ttl_back and told.device == before.device
        if distance(told.ttl_back) < len(way) - 1 if way else near:
            name = self._name(before.ttl)
            self.remarks.append(
                f"the refusal comes from as far away as {name} by its TTL: a packet filter there in the name of"
                f" {format_address(self.flow.destination)}?"
            )

    def _refused(self, stopped: Answer, claim: tuple[int, Hop] | None) -> str:
        """A router says that it does not pass the packet on."""
        number = self._place_of_stop(claim) if self.stop_hop < 0 else min(self.stop_hop, len(self.hops) - 1)
        if stopped.source == self.flow.source:  # this very node: it could not hand the packet over
            number = 0
            del self.hops[1:]
        hop = self.hops[number]
        source = format_address(stopped.source) if stopped.source else "somebody"
        said = f"{stopped.words}, says {source}"
        if claim is not None and claim[0] == number and hop.ends not in GOOD and hop.ends != "UNKNOWN":
            return self._end(number, hop.ends, f"{hop.why}; {said}" if hop.why else said)
        if claim is not None and (number < claim[0] or hop.ends in GOOD):
            self.remarks.append(f"{self._name(number)} would pass it on by its tables, yet {said}: a packet filter?")
        if stopped.type == UNREACHABLE and stopped.source == self.flow.destination:
            self.remarks.append("the destination itself refuses it")
        word = _BY_CODE.get(stopped.code, "NULL_ROUTED") if stopped.type == UNREACHABLE else "NULL_ROUTED"
        return self._end(number, word, said)

    def _place_of_stop(self, claim: tuple[int, Hop] | None) -> int:
        """The hop that has refused the far probe alone, for it rations such errors: by what its tables say, else by
        how far away it is, compared with the last one that has answered."""
        assert self.stopped is not None
        if claim is not None and claim[1].ends not in (*GOOD, "UNKNOWN") and claim[0] >= self.answered:
            number = claim[0]
        else:
            last = self.answers.get(self.answered)
            near, far = distance(last.ttl_back if last else 64), distance(self.stopped.ttl_back)
            same = last is not None and last.source == self.stopped.source != DUMMY
            number = self.answered + (far - near if 0 <= far - near <= _NEAR and near and far else 0 if same else 1)
        while len(self.hops) <= number:
            self.hops.append(self._hop(len(self.hops)))
        if number > self.answered:
            self._heard_late(number, self.stopped)
        return number

    def _claimed_bad(self, number: int, hop: Hop) -> str:
        """A daemon or the own table says that the packet ends there, and no probe denies it."""
        if hop.ends == "LOOP":  # what answers behind it has answered before
            del self.hops[number + 1 :]
            return hop.ends
        if self.answered > number:
            self.remarks.append(
                f"{self._name(number)} says {hop.ends}, yet {self._name(self.answered)} behind it answers probes"
            )
            self._note(number, f"contradicted by the probes: it says {hop.ends}")
            return self._end(len(self.hops) - 1, "UNKNOWN", f"nothing answers behind {self._name(self.answered)}")
        return hop.ends

    def _silent(self, number: int, hop: Hop) -> str:
        """It should arrive, by what daemons and tables say; no answer came back."""
        if self.far is None:
            return hop.ends
        if ends_of(self.back) not in ("", "UNKNOWN", *GOOD):
            self.remarks.append(
                "the destination does not answer, for its answer does not come back: see the way back. That the packet"
                " arrives is what the tables say"
            )
            return hop.ends
        if self.answered >= number and hop.ends != "ACCEPTED":
            last = len(self.hops) - 1
            if last > number:
                self._note(last, "the destination, if it is there")
            who = format_address(self.flow.destination)
            self.remarks.append(f"{who} does not answer: is it there, does it filter, has it a way back?")
            return hop.ends
        if self.flow.proto == UDP and hop.ends == "ACCEPTED" and self.answered == number - 1:
            why = f"no answer: an open UDP port gives none, nor does a packet filter at {self._name(self.answered)} or"
            return self._end(number, "UNKNOWN", f"{why} {hop.node or 'there'}")
        reach = self._name(self.answered) if self.answered else "this node"
        why = f"by the tables of all nodes it arrives, yet nothing answers behind {reach}"
        where = f"at {reach} or at {self._name(min(self.answered + 1, number))}"
        other = "" if ends_of(self.back) in GOOD else ", or something on the way back, which is not known"
        self.remarks.append(f"{why}: a packet filter {where}{other}?")
        return self._end(min(self.answered, len(self.hops) - 1), "UNKNOWN", why)

    def _end(self, number: int, disposition: str, why: str) -> str:
        self.hops[number] = replace(self.hops[number], ends=disposition, why=why)
        return disposition


def _both(table: Hop, daemon: Hop | None) -> Hop:
    """Hop 0: this node's kernel was asked just now, the daemon fills what is missing."""
    if daemon is None:
        return table
    return replace(
        table,
        node=table.node or daemon.node,
        in_device=table.in_device or daemon.in_device,
        route=table.route or daemon.route,
        next_hop=table.next_hop or (daemon.next_hop if not table.out_device else None),
        out_device=table.out_device or daemon.out_device,
        mtu=table.mtu or daemon.mtu,
        ends=table.ends or (daemon.ends if daemon.ends in GOOD else ""),
        why=table.why,
        seen=table.seen | daemon.seen,
        notes=(*table.notes, *daemon.notes),
    )


def _with_answer(hop: Hop, answer: Answer) -> Hop:
    if answer.kind == SILENT:
        said = (answer.refused,) if answer.refused else (_NO_ANSWER,)
        return replace(hop, notes=(*hop.notes, *said))
    told = answer.extensions
    into, out, following = (told.interface(role) for role in (ROLE_IN, ROLE_OUT, ROLE_NEXT_HOP))
    notes = list(hop.notes)
    if told.node_name and hop.node and told.node_name != hop.node:
        notes.append(f"it calls itself {told.node_name} in ICMP")
    if told.node_address:
        notes.append(f"its address is {format_address(told.node_address)}")
    if into and into.address and into.address != answer.source:
        notes.append(f"it came in at {format_address(into.address)}")
    device = into.name or (f"if{into.ifindex}" if into.ifindex else "") if into else ""
    leaves = out.name or (f"if{out.ifindex}" if out.ifindex else "") if out else ""
    return replace(
        hop, node=hop.node or told.node_name, in_device=hop.in_device or device,
        out_device=hop.out_device or leaves, rtt_ms=answer.rtt_ms, icmp_source=answer.source,
        next_hop=hop.next_hop or (following.address if following else None),
        mtu=answer.mtu or hop.mtu or (out.mtu if out else 0), seen=hop.seen | {PROBE}, notes=tuple(notes),
    )  # fmt: skip


def _without_ends(hops: Sequence[Hop], disposition: str) -> list[Hop]:
    """Only the hop with which the trace ends says so."""
    keep = max((number for number, hop in enumerate(hops) if hop.ends == disposition), default=-1)
    return [hop if n == keep or not hop.ends else replace(hop, ends="", why="") for n, hop in enumerate(hops)]
