"""What an earlier run of ours has left in the kernel, and for how long it is waited for.

Those routes carry on while the neighbours tell their tables again. Nothing of it is deleted, and nothing of what was
learnt is announced, until each route has been learnt anew, and its standing backup, too, or some seconds have passed.
What is not there by then is retracted: our neighbours still believe what the last run told them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from via6.babel.model import Hop
from via6.babel.source import SLOTS
from via6.babel.table import Table
from via6.model import PROTO_VIA6, Snapshot
from via6.prefix import Prefix

GRACE_S: Final = 15.0
_BACKUPS_S: Final = 5.0  # two Hellos and a table


class Adopted:
    """`hops`: per prefix the next hop that is in use, None for what that run held unreachable. `backed` are the
    prefixes behind whose route a backup stands."""

    def __init__(self, hops: Mapping[Prefix, Hop | None], backed: Iterable[Prefix], now: float) -> None:
        self.hops = hops
        self._backed = frozenset(backed)
        self._hops_until = now + GRACE_S if any(self.hops.values()) else now
        self._backups_until = now + _BACKUPS_S if self._backed else now
        self.deadlines = (self._backups_until, self._hops_until)
        """When `awaited` may change by time alone."""

    def awaited(self, table: Table, now: float) -> bool:
        """Something is still missing that may come."""
        if now < self._hops_until and any(hop and not _is_learnt(table, p) for p, hop in self.hops.items()):
            return True
        return now < self._backups_until and any(not _is_backed(table, prefix) for prefix in self._backed)

    def lost(self, table: Table) -> list[Prefix]:
        """What is not there any more, though our neighbours may still believe that it is."""
        return [prefix for prefix in self.hops if not _is_learnt(table, prefix)]

    def deadline(self, now: float) -> float:
        """The next of them."""
        return min((at for at in self.deadlines if at > now), default=now)


def adopt(snapshot: Snapshot, metric: int, now: float) -> Adopted:
    """What the kernel has of ours in the slots from this metric on."""
    hops: dict[Prefix, Hop | None] = {}
    for slot in reversed(range(SLOTS)):
        hops.update(_in_slot(snapshot, metric + slot))
    return Adopted(hops, (prefix for prefix, hop in _in_slot(snapshot, metric + 1) if hop is not None), now)


def _is_learnt(table: Table, prefix: Prefix) -> bool:
    destination = table.find(prefix.packed, prefix.length)
    return destination is not None and (destination.selected is not None or destination.own is not None)


def _is_backed(table: Table, prefix: Prefix) -> bool:
    destination = table.find(prefix.packed, prefix.length)
    return destination is not None and destination.way is not None and destination.way.backup is not None


def _in_slot(snapshot: Snapshot, metric: int) -> Iterator[tuple[Prefix, Hop | None]]:
    for block in snapshot.routes.blocks:
        template = block.template
        if template.protocol != PROTO_VIA6 or template.metric != metric:
            continue
        hops = template.next_hops
        via = hops[0].via if len(hops) == 1 else None
        hop = Hop(hops[0].ifindex, via) if via is not None else None
        for destination in block.destinations:
            yield Prefix(destination, template.prefix.length), hop
