"""Sends the probes of a trace and gathers what answers.

All hop limits are under way at once, within a window: a trace over ten hops takes about as long as its slowest answer.
The first probe has a large hop limit and tells whether the destination is reached at all, so the end is known early.
What stays silent is asked again, with pauses; for routers ration their ICMP errors (net.ipv4.icmp_ratelimit: six at
once to one address, then one a second), so one behind which others answer is waited for longest.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from via6.collect.trace_wire import Wire
from via6.observe.trace.model import UDP
from via6.observe.trace.probe import HOP, MOST, REACHED, Answer

FAR: Final = 64
"""The hop limit of the probe that is to arrive."""

MAX_HOPS: Final = 30
WAIT_S: Final = 0.9
NEVER: Final = -1

_WINDOW: Final = 8
_WINDOW_UDP: Final = 3  # a destination gives six port unreachables at once; let the next trace have some, too
_GAP: Final = 8  # silent hops behind the last one that answered, after which nobody is expected
_STALL_S: Final = 0.05  # a probe that is silent for so long no longer holds up the others
_AGAIN_S: Final = (0.08, 0.25, 0.75)  # pauses before the second, third and fourth try
_FIRST_AGAIN_S: Final = 0.2  # before the second, while nobody has answered and the way may be long
_TRIES: Final = 3  # of those behind which nobody answers
_LAST_WAIT_S: Final = 0.1  # after the last try, for those behind which others answer
_LONGEST_S: Final = 0.5  # so much longer than `wait_s` may it take
_ENOUGH_S: Final = 0.15
_RETRY_S: Final = 0.002  # after a full send buffer


@dataclass
class _Hop:
    """The probes of one TTL: when they left, and what came."""

    sent: list[float] = field(default_factory=list)
    answer: Answer | None = None
    refused: str = ""


class Prober:
    """One trace. Clock times are seconds since 1970, as the kernel stamps packets. `wait_s` is how long the silence
    behind the last answer is listened to. `enough` is NEVER, or others have told the way, and no answer is missed
    behind so many hops: when these have answered, or the destination has, nobody else is waited for."""

    def __init__(
        self, wire: Wire, max_hops: int = MAX_HOPS, wait_s: float = WAIT_S, enough: Callable[[], int] = lambda: NEVER
    ) -> None:
        self.wire = wire
        self.enough = enough
        self.max_hops = max_hops
        self.wait_s = wait_s
        self.hops: dict[int, _Hop] = {}
        self.sent: list[tuple[int, float]] = []  # (TTL, when) by number
        self.window = _WINDOW_UDP if wire.flow.proto == UDP else _WINDOW
        self.slowest_s = 0.0
        self.full = 0.0

    def run(self) -> list[Answer]:
        """Sends, waits, and returns the answers by TTL, from 1 on up to the end; that of FAR last. Takes little
        longer than `wait_s`."""
        poll = select.poll()
        for sock in self.wire.sockets():
            poll.register(sock, select.POLLIN)
        start = time.time()
        end = start + self.wait_s + _LONGEST_S
        try:
            while True:
                now = time.time()
                if now >= end:
                    break
                while (ttl := self._due(now)) and self._send(ttl):
                    self._receive()
                    now = time.time()
                self._receive()
                if self._done(time.time()) or (now - start > _ENOUGH_S and self._is_enough()):
                    break
                wait = min(self._next(now), end) - time.time()
                poll.poll(max(0.0, min(wait, 0.05)) * 1000 + 0.5)
        finally:
            self.wire.close()
        return self._answers()

    # --- what to send ----------------------------------------------------------------------------------------------

    def last(self) -> int:
        """The TTL behind which there is nothing to look for."""
        ends = [ttl for ttl, hop in self.hops.items() if ttl != FAR and hop.answer and hop.answer.kind != HOP]
        if ends:
            return min(ends)
        far = self._far()
        if far is not None and far.kind == REACHED:
            return self.max_hops
        answered = max((ttl for ttl, hop in self.hops.items() if ttl != FAR and hop.answer), default=0)
        if far is not None and far.kind == HOP:  # even FAR hops were not enough: it goes round
            return min(self.max_hops, max(answered, _GAP))
        return min(self.max_hops, answered + _GAP)

    def _far(self) -> Answer | None:
        hop = self.hops.get(FAR)
        return hop.answer if hop else None

    def _patience(self, tries: int) -> float:
        """How long a probe may be silent before the next try."""
        first = _AGAIN_S[0] if self.slowest_s else _FIRST_AGAIN_S
        return max(first if tries == 1 else _AGAIN_S[tries - 1], 2 * self.slowest_s)

    def _tries(self, ttl: int) -> int:
        return len(_AGAIN_S) + 1 if self._behind(ttl) else _TRIES

    def _behind(self, ttl: int) -> bool:
        return any(other > ttl and hop.answer for other, hop in self.hops.items())

    def _until(self, ttl: int, hop: _Hop) -> float:
        """When a hop is to be asked again or to be given up."""
        tries = len(hop.sent)
        if tries < self._tries(ttl):
            return hop.sent[-1] + self._patience(tries)
        if self._behind(ttl):
            return hop.sent[-1] + max(_LAST_WAIT_S, 2 * self.slowest_s)
        return max(hop.sent[0] + self.wait_s, hop.sent[-1] + 2 * self.slowest_s)

    def _due(self, now: float) -> int:
        """The TTL that is to be sent next; 0: none now."""
        if now < self.full or len(self.sent) >= MOST:
            return 0
        if FAR not in self.hops:
            return FAR
        last = self.last()
        stall = max(_STALL_S, 2 * self.slowest_s)
        waiting = [hop for ttl, hop in self.hops.items() if self._open(ttl, hop, last)]
        under_way = sum(1 for hop in waiting if now - hop.sent[-1] < stall)
        if under_way >= self.window:
            return 0
        fresh = next((ttl for ttl in range(1, last + 1) if ttl not in self.hops), 0)
        if fresh:
            return fresh
        for ttl, hop in sorted(self.hops.items()):
            tries = len(hop.sent)
            if self._open(ttl, hop, last) and tries < self._tries(ttl) and now >= self._until(ttl, hop):
                return ttl
        return 0

    def _open(self, ttl: int, hop: _Hop, last: int) -> bool:
        """Still waited for. The far probe is not once a nearer one has ended the way."""
        if hop.answer is not None or hop.refused:
            return False
        if ttl == FAR:
            return not any(o.answer and o.answer.kind != HOP for o in self.hops.values())
        return ttl <= last

    def _done(self, now: float) -> bool:
        last = self.last()
        if any(ttl not in self.hops for ttl in range(1, last + 1)) and not self._refused_all():
            return False
        for ttl, hop in self.hops.items():
            if not self._open(ttl, hop, last):
                continue
            if len(hop.sent) < self._tries(ttl) or now < self._until(ttl, hop):
                return False
        return True

    def _is_enough(self) -> bool:
        hops = self.enough()
        if hops == NEVER:
            return False
        answered = {ttl for ttl, hop in self.hops.items() if hop.answer}
        arrived = any(hop.answer and hop.answer.kind == REACHED for hop in self.hops.values())
        return arrived or answered.issuperset(range(1, hops + 1))

    def _refused_all(self) -> bool:
        return len(self.hops) > 1 and all(hop.refused for hop in self.hops.values())

    def _next(self, now: float) -> float:
        """When something is to be done again, at the latest."""
        last = self.last()
        due = [self._until(ttl, hop) for ttl, hop in self.hops.items() if self._open(ttl, hop, last)]
        return min([*due, now + _STALL_S])

    def _send(self, ttl: int) -> bool:
        number = len(self.sent)
        now = time.time()  # before: on a veth the answer may be there when sendmsg returns
        try:
            self.wire.send(number, ttl)
        except BlockingIOError:
            self.full = now + _RETRY_S
            return False
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                self.full = now + _RETRY_S
                return False
            self.hops.setdefault(ttl, _Hop()).refused = error.strerror or str(error)
            return not self._refused_all()
        self.sent.append((ttl, now))
        self.hops.setdefault(ttl, _Hop()).sent.append(now)
        return True

    # --- what came -------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        for at, heard in self.wire.receive():
            number = len(self.sent) - 1 if heard.number == MOST else heard.number
            if not 0 <= number < len(self.sent):
                continue
            ttl, sent = self.sent[number]
            hop = self.hops[ttl]
            if hop.answer is None:
                rtt = max(0.0, at - sent)
                self.slowest_s = max(self.slowest_s, min(rtt, 1.0))
                hop.answer = Answer(
                    ttl, heard.kind, heard.source, rtt * 1000, heard.type, heard.code, heard.mtu, heard.ttl,
                    heard.extensions, device=_name(heard.ifindex),
                )  # fmt: skip
                if heard.kind == REACHED and 0 < heard.left < ttl:
                    self._arrived_after(ttl - heard.left + 1, hop.answer)

    def _arrived_after(self, hops: int, answer: Answer) -> None:
        """A destination that quotes the probe says with its TTL how far away it is: no need to ask it again."""
        hop = self.hops.setdefault(hops, _Hop())
        if hop.answer is None and hops <= self.max_hops:
            hop.answer = replace(answer, ttl=hops)

    def _answers(self) -> list[Answer]:
        last = self.last()
        refused = self.hops[FAR].refused if FAR in self.hops and self._refused_all() else ""
        found = []
        for ttl in (*range(1, last + 1), FAR):
            hop = self.hops.get(ttl, _Hop(refused=refused))
            found.append(hop.answer or Answer(ttl, refused=hop.refused))
        return found


def _name(ifindex: int) -> str:
    with contextlib.suppress(OSError):  # it may be gone
        return socket.if_indextoname(ifindex) if ifindex else ""
    return ""
