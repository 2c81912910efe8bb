"""Seqno requests that wait for their answer (RFC 8966 sections 3.2.7 and 3.8).

Our own are repeated after 2, 4 and 8 seconds; sooner if something happens to the prefix, but no sooner than after two
seconds. Those that we passed on for others are remembered so that copies of them are not passed on again, and so that
the answer is handed back at once; who asked repeats them. A repetition means that the way we chose led nowhere, so each
may go another way (`forward`). Both are told apart by prefix, router-id and seqno.
"""

from __future__ import annotations

from heapq import heappop, heappush
from math import inf
from typing import Final, NamedTuple

from via6.babel.table import Destination, newer

REPEAT_S: Final = 2.0
REPEATS: Final = 3
_KEPT_S: Final = 1.0
"""How long a request passed on suppresses its copies: longer than they take by other ways, and less than a peer waits
before it asks again (BIRD and we: two seconds), also when the repetition had the quicker journey."""
_ANSWER_S: Final = 20.0
"""How long an answer is handed back."""
KEPT: Final = 1 << 18
"""Requests that wait at once; more are not sent, and so cost nothing."""


class Ask(NamedTuple):
    """Somebody is to be asked for this seqno or a newer one."""

    destination: Destination
    router_id: bytes
    seqno: int


class _Pending:
    __slots__ = ("asked_at", "at", "forwarded", "forwarded_at", "own", "seqno", "tries")

    def __init__(self, seqno: int, own: bool, now: float, at: float) -> None:
        self.seqno = seqno
        self.own = own
        self.tries = 1
        self.asked_at = now if own else -inf
        self.forwarded = 0 if own else 1
        self.forwarded_at = -inf if own else now
        self.at = at


_Key = tuple[Destination, bytes]


class Requests:
    """All that wait."""

    def __init__(self) -> None:
        self._waiting: dict[_Key, _Pending] = {}
        self._heap: list[tuple[float, int, _Key]] = []
        self._count = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __len__(self) -> int:
        return len(self._waiting)

    def ask(self, ask: Ask, now: float) -> bool:
        """We need this; True: send it now, False: it is asked already, or too much is."""
        return self._enter(ask, True, now, now + REPEAT_S)

    def forward(self, ask: Ask, now: float) -> int:
        """Somebody else needs it; 0: it has been passed on a moment ago, else pass it on: it is the first time, the
        second, and so on."""
        if not self._enter(ask, False, now, now + _ANSWER_S):
            return 0
        return self._waiting[ask.destination, ask.router_id].forwarded

    def _enter(self, ask: Ask, own: bool, now: float, at: float) -> bool:
        key = ask.destination, ask.router_id
        found = self._waiting.get(key)
        if found is not None and not newer(ask.seqno, found.seqno):
            if own:
                # Something has happened since: perhaps there is somebody to ask who was not there before.
                if (soon := found.asked_at + REPEAT_S) > now:
                    if found.at > soon:
                        found.tries = 1
                        self._set(key, found, soon)
                    return False
                again = found.own
                found.own, found.tries, found.asked_at = True, 1, now
                self._set(key, found, at)
                return again or now - found.forwarded_at >= _KEPT_S
            # What we asked ourselves went elsewhere, perhaps: it stands for no copy.
            if now - found.forwarded_at < _KEPT_S:
                return False
            found.forwarded_at = now
            found.forwarded += 1
            return True
        if found is None and len(self._waiting) >= KEPT:
            return False
        fresh = self._waiting[key] = _Pending(ask.seqno, own, now, at)
        if found is not None and found.own:
            fresh.own, fresh.asked_at, at = True, max(fresh.asked_at, found.asked_at), min(at, found.at)
        self._set(key, fresh, at)
        return True

    def _set(self, key: _Key, pending: _Pending, at: float) -> None:
        pending.at = at
        self._count += 1
        heappush(self._heap, (at, self._count, key))

    def satisfied(self, destination: Destination, router_id: bytes, seqno: int) -> bool:
        """A route with this seqno was selected; True if somebody waited for it."""
        key = destination, router_id
        found = self._waiting.get(key)
        if found is None or newer(found.seqno, seqno):
            return False
        del self._waiting[key]
        return True

    def due(self, now: float) -> list[Ask]:
        """What must be asked again."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            at, _, key = heappop(self._heap)
            pending = self._waiting.get(key)
            if pending is None or pending.at != at:
                continue
            if not pending.own or pending.tries > REPEATS:
                del self._waiting[key]
                continue
            self._set(key, pending, now + REPEAT_S * 2 ** (pending.tries - 1))
            pending.tries += 1
            pending.asked_at = now
            found.append(Ask(key[0], key[1], pending.seqno))
        return found

    def deadline(self) -> float:
        return self._heap[0][0] if self._heap else inf
