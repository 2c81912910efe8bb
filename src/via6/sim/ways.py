"""The FIB of a simulated router, the light one: for each prefix a primary, a standing backup and the floor below both.

What the kernel does by itself is all that matters here. When a link loses its carrier, every next hop on it is gone in
that instant, and packets take the backup, or fall to the floor (`unreachable`); when the carrier returns, nothing comes
back before the driver puts it there. Changes are made one small operation after the other, because packets travel
between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Protocol

from via6.babel.model import Hop, HopLeft, RouteChange, Way
from via6.prefix import Prefix

Change = RouteChange | HopLeft


@dataclass(frozen=True, slots=True)
class Operation:
    """One request to the kernel. `slot` is primary, backup, whole (both in one) or drop, for one prefix; left, for a
    next hop; repair, after a link has changed; complete, when what an earlier run left may go; or chain, a step of the
    other FIB (`chain`)."""

    slot: str
    prefix: Prefix | None = None
    way: Way | None = None
    hop: Hop | None = None
    changes: tuple[Change, ...] = ()


class Forwarding(Protocol):
    """What the world wants of a FIB. Methods that change something return the prefixes that they touched."""

    def attend(self, seen: Callable[[list[Prefix]], None], clock: Callable[[], float]) -> None:
        """`seen` is told what a single message has touched, where one operation is several."""

    def look(self, prefix: Prefix) -> Way | None:
        """The Way of exactly this prefix: None if the kernel has nothing, Way(None) if only the floor is left."""

    def carrier(self, ifindex: int, up: bool) -> list[Prefix]:
        """The kernel sees the carrier come or go, long before any program does."""

    def operations(self, changes: Iterable[Change], order: int) -> list[Operation]:
        """What the driver will ask of the kernel, in order. `order` (0 to 3) is how a Way is replaced by another: at
        once, primary first, backup first, or backup out, primary, backup in."""

    def perform(self, operation: Operation) -> list[Prefix]:
        """The kernel does it."""

    def clear(self) -> list[Prefix]:
        """Everything is gone: the machine has started again, or the program has tidied up."""

    def restart(self) -> dict[Prefix, Hop | None]:
        """A program starts and finds what an earlier run left: prefix and next hop in use, None for the floor alone.
        All of it stays until the operation `complete`, but for what is overwritten."""

    def due(self) -> float:
        """When the operation `repair` is to be done by itself."""

    def wrong(self) -> list[str]:
        """Where the kernel does not hold what was asked for (next hops on links without carrier apart)."""


class LightFib:
    """`wanted` is what was asked for, `real` what packets meet. A link without carrier takes no next hop."""

    def __init__(self) -> None:
        self.wanted: dict[Prefix, Way] = {}
        self.real: dict[Prefix, Way] = {}
        self.dark: dict[int, bool] = {}
        self._complete = True

    @staticmethod
    def of(interfaces: int) -> LightFib:
        """For a router with so many interfaces."""
        return LightFib()

    def attend(self, seen: Callable[[list[Prefix]], None], clock: Callable[[], float]) -> None:
        """Every operation is a single message."""

    def due(self) -> float:
        return inf

    def look(self, prefix: Prefix) -> Way | None:
        return self.real.get(prefix)

    def carrier(self, ifindex: int, up: bool) -> list[Prefix]:
        self.dark[ifindex] = not up
        if up:
            return []
        hit = [p for p, way in self.real.items() if _uses(way, ifindex)]
        for prefix in hit:
            self.real[prefix] = self._possible(self.real[prefix])
        return hit

    def operations(self, changes: Iterable[Change], order: int) -> list[Operation]:
        found: list[Operation] = []
        for change in changes:
            if isinstance(change, HopLeft):
                found.append(Operation("left", hop=change.hop))
                continue
            for destination in change.destinations:
                prefix, way = Prefix(destination, change.length), change.way
                if way is None:
                    found.append(Operation("drop", prefix))
                elif order == 0:
                    found.append(Operation("whole", prefix, way))
                elif order == 1:
                    found += (Operation("primary", prefix, way), Operation("backup", prefix, way))
                elif order == 2:
                    found += (Operation("backup", prefix, way), Operation("primary", prefix, way))
                else:
                    out = Operation("backup", prefix, Way(way.primary))
                    found += (out, Operation("primary", prefix, way), Operation("backup", prefix, way))
        return found

    def perform(self, operation: Operation) -> list[Prefix]:
        if operation.slot == "left" and operation.hop is not None:
            return self._leave(operation.hop)
        if operation.slot in ("repair", "complete"):
            self._complete = self._complete or operation.slot == "complete"
            return self._repair()
        prefix, way = operation.prefix, operation.way
        assert prefix is not None
        if way is None:
            self.wanted.pop(prefix, None)
            if self._complete:
                self.real.pop(prefix, None)
            return [prefix]
        before = self.wanted.get(prefix, Way(None))
        if operation.slot == "primary":
            way = Way(way.primary, before.backup)
        elif operation.slot == "backup":
            way = Way(before.primary, way.backup)
        self.wanted[prefix] = way
        real = self.real.get(prefix, Way(None))
        possible = self._possible(way)
        primary = real.primary if operation.slot == "backup" else self._slot(possible.primary, real.primary)
        backup = real.backup if operation.slot == "primary" else self._slot(possible.backup, real.backup)
        self.real[prefix] = Way(primary, backup)
        return [prefix]

    def clear(self) -> list[Prefix]:
        gone = list(self.real)
        self.real.clear()
        self.wanted.clear()
        return gone

    def restart(self) -> dict[Prefix, Hop | None]:
        self.wanted.clear()
        self._complete = False
        return {prefix: way.primary or way.backup for prefix, way in self.real.items()}

    def wrong(self) -> list[str]:
        found = []
        for prefix in sorted(self.wanted.keys() | self.real.keys()):
            wanted, real = self.wanted.get(prefix), self.real.get(prefix)
            if wanted is None or real != self._possible(wanted):
                found.append(f"{prefix}: the kernel has {real}, asked for was {wanted}")
        return found

    def _slot(self, new: Hop | None, old: Hop | None) -> Hop | None:
        """Nothing is deleted before the sources are complete."""
        return new if new is not None or self._complete else old

    def _possible(self, way: Way) -> Way:
        primary, backup = way
        if primary is not None and self.dark.get(primary.ifindex):
            primary = None
        if backup is not None and self.dark.get(backup.ifindex):
            backup = None
        return Way(primary, backup)

    def _leave(self, hop: Hop) -> list[Prefix]:
        """The nexthop objects of all pairs with this primary become their backups. Who has none waits for its
        change."""
        hit: dict[Prefix, None] = {}
        for prefix in [p for p, way in self.wanted.items() if way.primary == hop and way.backup is not None]:
            way = self.wanted[prefix] = Way(self.wanted[prefix].backup, self.wanted[prefix].backup)
            if prefix in self.real:
                self.real[prefix] = Way(self._possible(way).primary, self.real[prefix].backup)
            hit[prefix] = None
        return list(hit)

    def _repair(self) -> list[Prefix]:
        """What is wanted and possible is there; once the sources are complete, nothing else is."""
        hit = []
        for prefix in [*self.wanted, *(p for p in self.real if p not in self.wanted)]:
            real, wanted = self.real.get(prefix), self.wanted.get(prefix)
            if wanted is None and not self._complete:
                continue
            old, possible = real or Way(None), self._possible(wanted or Way(None))
            new = Way(self._slot(possible.primary, old.primary), self._slot(possible.backup, old.backup))
            if wanted is None:
                del self.real[prefix]
            elif new == real:
                continue
            else:
                self.real[prefix] = new
            hit.append(prefix)
        return hit


def _uses(way: Way, ifindex: int) -> bool:
    return any(hop is not None and hop.ifindex == ifindex for hop in way)


def text_of(way: Way | None, name: Mapping[Hop, str]) -> str:
    """`r3 (r4)`: primary and backup by the routers' names."""
    if way is None:
        return "nothing"
    if way.primary is None and way.backup is None:
        return "unreachable"
    words = [name.get(hop, str(hop)) if hop is not None else "-" for hop in way]
    return words[0] if way.backup is None else f"{words[0]} ({words[1]})"
