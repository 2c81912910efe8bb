"""When routes are to be looked at again: one slot per tenth of a second, a route in one slot at a time.

A route that is refreshed a thousand times is not moved a thousand times: it is looked at when its slot comes, and put
into another if it still has time.
"""

from __future__ import annotations

from heapq import heappop, heappush
from math import inf
from typing import Final

from via6.babel.table import Route

_PER_S: Final = 10


class Wheel:
    """`due` gives each route once; who is not done with it puts it back."""

    def __init__(self) -> None:
        self._slots: dict[int, list[Route]] = {}
        self._order: list[int] = []

    def put(self, route: Route, at: float) -> None:
        """To be given at this time, or a little later."""
        slot = int(at * _PER_S) + 1
        found = self._slots.get(slot)
        if found is None:
            found = self._slots[slot] = []
            heappush(self._order, slot)
        found.append(route)

    def due(self, now: float) -> list[Route]:
        found: list[Route] = []
        while self._order and self._order[0] <= now * _PER_S:
            found += self._slots.pop(heappop(self._order))
        return found

    def deadline(self) -> float:
        return self._order[0] / _PER_S if self._order else inf
