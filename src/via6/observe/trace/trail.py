"""What answers make of a trace: hops in their places, and whether something is still to come."""

from __future__ import annotations

from dataclasses import dataclass, field

from via6.observe.trace.model import Hop
from via6.observe.trace.node import RETURNS


@dataclass
class Trail:
    """`put` answers in any order; a later one for the same place is better informed."""

    want_back: bool = False
    _hops: dict[tuple[bool, int], Hop] = field(default_factory=dict)
    _last: dict[bool, int] = field(default_factory=dict)

    def put(self, back: bool, index: int, hop: Hop, end: bool) -> None:
        last = self._last.get(False, index)
        if not back and (index > last or (index == last and not end)):  # the way back was begun too early
            self._hops = {key: value for key, value in self._hops.items() if not key[0]}
            self._last.pop(True, None)
        self._hops[back, index] = hop
        if end:
            self._last[back] = index

    @property
    def complete(self) -> bool:
        """Both directions, as far as they are wanted and can be known, have their end."""
        if False not in self._last:
            return False
        returns = self._hops[False, self._last[False]].ends in RETURNS
        return not (self.want_back and returns) or True in self._last

    def hops(self, back: bool) -> list[Hop]:
        """In order. A hop whose answer was lost is an empty one."""
        there = [index for direction, index in self._hops if direction is back]
        last = self._last.get(back, max(there, default=-1))
        return [self._hops.get((back, index), Hop()) for index in range(last + 1)]
