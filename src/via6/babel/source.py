"""The speaker as a source of the Rib: what it says of the FIB, in slots of the kernel.

A prefix takes up to three slots, told apart by the kernel's metric: the route, behind it the standing backup, and at
the bottom `unreachable`. When a link loses its carrier the kernel deletes the nexthop objects on it and with them the
routes, and the next slot is there already.

Routes with the same pair of primary and backup are one unit with one nexthop object of its own. So when a neighbour
falls silent while its link is up, all its routes are moved to their backups with one message for each pair.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from via6.babel.model import Hop, HopLeft, RouteChange, Way
from via6.model import BLANK, NextHop, Route, RouteBlock
from via6.prefix import Address, Prefix
from via6.rib import Move, RouteUpdate, Update, Withdrawal

NAME: Final = "babel"
PREFERENCE: Final = 100
METRIC: Final = 460
"""The kernel's metric of the first of the three slots: behind what the kernel makes of an address (IPv6: 256) and what
people write without thinking, before what routers advertise (1024)."""
SLOTS: Final = 3

_Unit = tuple[Hop | None, Hop | None]


class BabelSource:
    """Translates; `src` is the source address for the node's own IPv4 packets."""

    def __init__(self, metric: int = METRIC, src: Address | None = None) -> None:
        self.metric = metric
        self.src = src
        self._units: defaultdict[Hop, dict[_Unit, None]] = defaultdict(dict)

    def updates(self, changes: Iterable[RouteChange | HopLeft]) -> list[RouteUpdate]:
        """What the Rib must hear."""
        found: list[RouteUpdate] = []
        for change in changes:
            if isinstance(change, HopLeft):
                found += self._left(change.hop)
            else:
                found += self._changed(change)
        return found

    def _left(self, hop: Hop) -> list[RouteUpdate]:
        units = self._units.pop(hop, {})
        return [Move((NAME, *unit), (_next(backup),)) for unit in units if (backup := unit[1]) is not None]

    def _changed(self, change: RouteChange) -> list[RouteUpdate]:
        now, before = change.way or _NOTHING, change.before or _NOTHING
        found: list[RouteUpdate] = []
        if now.primary is not None:
            # Also if it says the same as before: then the unit was moved away (`_left`) and comes back.
            self._units[now.primary][now] = None
            found.append(self._update(change, 0, now.primary, (NAME, *now)))
        elif before.primary is not None:
            found.append(self._withdrawal(change, 0))
        if now.backup is not None:
            if now.backup != before.backup:
                found.append(self._update(change, 1, now.backup, (NAME, now.backup)))
        elif before.backup is not None:
            found.append(self._withdrawal(change, 1))
        if change.way is None:
            found.append(self._withdrawal(change, 2))
        elif change.before is None:
            found.append(self._update(change, 2, None, (NAME, None)))
        return found

    def _update(self, change: RouteChange, slot: int, hop: Hop | None, unit: object) -> Update:
        route = Route(
            Prefix(BLANK[_FAMILY[change.size]], change.length),
            (_next(hop),) if hop is not None else (),
            type="unicast" if hop is not None else "unreachable",
            metric=self.metric + slot,
            src=self.src if hop is not None and change.size == 4 else None,
        )
        return Update(PREFERENCE, 0, RouteBlock(route, change.destinations), unit)

    def _withdrawal(self, change: RouteChange, slot: int) -> Withdrawal:
        route = Route(Prefix(BLANK[_FAMILY[change.size]], change.length), metric=self.metric + slot)
        return Withdrawal(RouteBlock(route, change.destinations))


_NOTHING: Final = Way(None, None)
_FAMILY: Final = {4: 2, 16: 10}


def _next(hop: Hop) -> NextHop:
    return NextHop(hop.address, hop.ifindex)
