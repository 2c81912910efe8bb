"""The core of a via6 that sets routes up: sources, Rib and Fib, driven by what the kernel tells. Pure.

The edge (apply, the daemon, the simulator) feeds it dumps and notifications and carries its plans to a kernel.

The next hop of a declared IPv4 route may rest on a declared IPv6 route. The kernel does not tell a program what that
program did itself, and a route of ours that another hand deletes comes back within the second. So next hops are
resolved in what others put into the kernel plus what the Rib says of our own IPv6 routes, never in what the kernel
happens to hold of ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from via6.config import RouteSpec
from via6.fib import Fib
from via6.model import PARTS, PROTO_VIA6, TABLE_MAIN, Change, KernelEvent, Overrun, Route, RouteBlock, Snapshot
from via6.prefix import AF_INET6, Address, PrefixMap
from via6.rib import Cell, Drained, Entry, Rib, RouteUpdate, Update
from via6.static import NAME, StaticSource, Unmet
from via6.view import View

NEEDED_PARTS: Final = PARTS - {"neighbours", "rules"}
"""What `Engine` wants of a dump."""

_ROUNDS: Final = 4


class Engine:
    """Keeps declared routes in one FIB. After every call `fib.plan` says what to do; `stale` asks for a dump."""

    def __init__(
        self, routes: Iterable[RouteSpec], snapshot: Snapshot, *, objects: bool = True, others: Iterable[str] = ()
    ) -> None:
        """`others` are sources that speak through `feed` and, once they know everything, `complete`."""
        self.rib = Rib([NAME, *others])
        self.fib = Fib(objects=objects)
        self.fib.synchronise(snapshot)
        self.view = View(_others(snapshot))
        self._own: dict[tuple[Cell, Address], tuple[Entry, Route]] = {}
        self._source = StaticSource(routes)
        self.stale = False
        self._refresh()
        self.rib.complete(NAME)
        self.fib.desire(self.rib.drain())

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
            elif not _is_ours(event.object):
                concerns = self.view.observe(event) or concerns
            self.fib.observe(event, now)
        if concerns and not self.stale:
            self._refresh()

    def synchronise(self, snapshot: Snapshot) -> None:
        """A dump (`NEEDED_PARTS`) is the truth."""
        self.stale = False
        self.fib.synchronise(snapshot)
        self.view = View(_others(snapshot))
        self._refresh()

    def reload(self, routes: Iterable[RouteSpec]) -> None:
        """Other routes are declared now; those that stay are not touched."""
        self._source = StaticSource(routes)
        self._show_own()
        updates = [u for u in self._source.refresh(self.view) if isinstance(u, Update)]
        self.refeed(NAME, updates)

    def feed(self, source: str, updates: Iterable[RouteUpdate]) -> None:
        """What another source says."""
        self.rib.feed(source, updates)
        self._desire()

    def refeed(self, source: str, updates: Iterable[Update]) -> None:
        """Everything that another source says; what it does not repeat is withdrawn."""
        self.rib.replace_all(source, updates)
        self._desire()

    def complete(self, source: str) -> None:
        """Another source has said everything: what nobody wants may go."""
        self.rib.complete(source)
        self._desire()

    def _desire(self) -> None:
        drained = self.rib.drain()
        self.fib.desire(drained)
        if self._adopt(drained):
            self._refresh()

    def statics(self) -> PrefixMap[Route]:
        """The declared routes of the main table that are in force, the best of each prefix."""
        found: PrefixMap[Route] = PrefixMap()
        for route in self._source.active():
            best = found.get(route.prefix)
            if route.table == TABLE_MAIN and (best is None or route.metric < best.metric):
                found[route.prefix] = route
        return found

    def leave(self) -> None:
        """Nothing is declared any more: what via6 installed goes."""
        for source in self.rib.sources:
            self.refeed(source, ())
            self.complete(source)
        self.reload(())

    def _refresh(self) -> None:
        """Our IPv6 routes never rest on our IPv6 routes (see `resolve`), so the second round is the last."""
        self._show_own()
        for _ in range(_ROUNDS):
            self.rib.feed(NAME, self._source.refresh(self.view))
            drained = self.rib.drain()
            self.fib.desire(drained)
            if not self._adopt(drained):
                break

    def _show_own(self) -> None:
        """The view forgets the routes of a link that goes down; if it is up again before anybody looked, nothing has
        changed for the Rib, and ours must be shown once more."""
        for _, route in self._own.values():
            self.view.observe(Change(route))

    def _adopt(self, drained: Drained) -> bool:
        """Shows the view our own IPv6 routes as they should be now; True if that changed anything."""
        changed = False
        moved = set(drained.moved)
        if any(path.family == AF_INET6 for path in moved):
            for slot, (entry, _) in list(self._own.items()):
                if entry.path in moved:
                    changed = self._show(slot, entry) or changed
        for decision in drained.decisions:
            if decision.cell.size == 16:
                for destination in decision.destinations:
                    changed = self._show((decision.cell, destination), decision.entry) or changed
        return changed

    def _show(self, slot: tuple[Cell, Address], entry: Entry | None) -> bool:
        _, before = self._own.pop(slot, (None, None))
        after = entry.route.at(slot[1]) if entry is not None else None
        if entry is not None and after is not None:
            self._own[slot] = entry, after
        if before == after:
            return False
        gone = before is not None and self.view.observe(Change(before, gone=True))
        return (after is not None and self.view.observe(Change(after))) or gone


def _is_ours(thing: object) -> bool:
    route = thing.template if isinstance(thing, RouteBlock) else thing
    return isinstance(route, Route) and route.protocol == PROTO_VIA6


def _others(snapshot: Snapshot) -> Snapshot:
    """Without what via6 holds."""
    return replace(snapshot, routes=snapshot.routes.where(lambda t: not _is_ours(t)))
