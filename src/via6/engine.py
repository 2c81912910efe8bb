"""The core of a via6 that sets routes up: sources, Rib and Fib, driven by what the kernel tells. Pure.

The edge (apply, the daemon, the simulator) feeds it dumps and notifications and carries its plans to a kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from via6.config import RouteSpec
from via6.fib import Fib
from via6.model import PARTS, KernelEvent, Overrun, Snapshot
from via6.rib import Rib, Update
from via6.static import NAME, StaticSource, Unmet
from via6.view import View

NEEDED_PARTS: Final = PARTS - {"neighbours", "rules"}
"""What `Engine` wants of a dump."""


class Engine:
    """Keeps declared routes in one FIB. After every call `fib.plan` says what to do; `stale` asks for a dump."""

    def __init__(self, routes: Iterable[RouteSpec], snapshot: Snapshot, *, objects: bool = True) -> None:
        self.rib = Rib([NAME])
        self.fib = Fib(objects=objects)
        self.fib.synchronise(snapshot)
        self._view = View(snapshot)
        self._source = StaticSource(routes)
        self.rib.feed(NAME, self._source.refresh(self._view))
        self.rib.complete(NAME)
        self.fib.desire(self.rib.drain())
        self.stale = False

    @property
    def unmet(self) -> list[Unmet]:
        """Declared routes that cannot be followed now, and why."""
        return self._source.unmet

    def observe(self, events: Iterable[KernelEvent], now: float) -> None:
        """Notifications, in order."""
        concerns = False
        for event in events:
            if isinstance(event, Overrun):
                self.stale = True
            concerns = self._view.observe(event) or concerns
            self.fib.observe(event, now)
        if concerns and not self.stale:
            self._refresh()

    def synchronise(self, snapshot: Snapshot) -> None:
        """A dump (`NEEDED_PARTS`) is the truth."""
        self.stale = False
        self.fib.synchronise(snapshot)
        self._view = View(snapshot)
        self._refresh()

    def reload(self, routes: Iterable[RouteSpec]) -> None:
        """Other routes are declared now; those that stay are not touched."""
        self._source = StaticSource(routes)
        updates = [u for u in self._source.refresh(self._view) if isinstance(u, Update)]
        self.rib.replace_all(NAME, updates)
        self.fib.desire(self.rib.drain())

    def leave(self) -> None:
        """Nothing is declared any more: what via6 installed goes."""
        self.reload(())

    def _refresh(self) -> None:
        self.rib.feed(NAME, self._source.refresh(self._view))
        self.fib.desire(self.rib.drain())
