"""Bookkeeping of the Fib: which slots are in the same situation.

A *lot* is a set of slots of one cell that want the same, have the same and wait for the same. `cells` maps each
destination to its lot. Two things make a million routes quick:

- What happens to a whole lot (sent, installed, refused) is one assignment to the lot; no destination is touched.
- Where only some of a lot are concerned, they go to another lot by one dict.update.

Large lots live on their own. Small ones would pile up, one per event, so slots that arrive in small numbers share the
one open lot of their situation (`_open`).

A lot keeps its members in a list, so that a burst can be built from it as it is (a small one that waits for nothing
has none: its members are found by search, if ever). Slots that leave are not searched for in that list: each leaves it
one longer than `count`, so a difference between the two says that the list must be sifted first (`Lots.members`).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, repeat
from typing import Final

from via6.carriers import Carrier
from via6.model import Route
from via6.prefix import Address
from via6.rib import Cell, Entry, remove_keys

PENDING: Final = "pending"
SENT: Final = "sent"
INSTALLED: Final = "installed"
FAILED: Final = "failed"
DRIFTED: Final = "drifted"

WAITING: Final = frozenset({PENDING, FAILED, DRIFTED})

NEW: Final = "new"
"""Nothing of ours is known to stand here: `add`, so that nothing of another hand is overwritten."""
OURS: Final = "ours"
"""What the slot has stands there: `replace`, if anything."""
LOST: Final = "lost"
"""What the slot has has probably died with its link or nexthop object, unannounced: `add`."""
TAKEN: Final = "taken"
"""Another hand has removed or changed what the slot has: `replace`."""

# In a slot LOST or TAKEN the news may be older than our last change, so what it has is not forgotten: if nobody wants
# it any more it is deleted all the same, and the kernel's answer is the truth.

BATCH: Final = 1 << 14
"""Routes in a lot that waits to be written: the grain in which a plan is cut without touching the dict."""

_SMALL: Final = 1024


class Held:
    """What the kernel holds in a slot of ours: a template without next hops, and what carries it (None for a route
    that needs none, as blackhole). Equal ones are one object."""

    __slots__ = ("carrier", "template")

    def __init__(self, template: Route, carrier: Carrier | None) -> None:
        self.template = template
        self.carrier = carrier

    @property
    def route(self) -> Route:
        """As the kernel shows it."""
        return dress(self.template, self.carrier)


def dress(template: Route, carrier: Carrier | None) -> Route:
    """A template with its way; on a nexthop object it says both the nhid and what that stands for."""
    if carrier is None:
        return template
    return replace(template, nhid=carrier.nhid, next_hops=carrier.hops)


def taken_text(protocol: int | None) -> str:
    """Why a slot cannot be had."""
    known = f" (protocol {protocol})" if protocol is not None else ""
    return f"another hand's route{known} holds this slot"


class Lot:
    """Slots of `cell` in one situation; `at` is when they may be tried (again), in seconds of the caller's clock."""

    __slots__ = (
        "at", "attempts", "cell", "claim", "count", "errno", "have", "key", "listed", "phase", "text", "want",
    )  # fmt: skip

    def __init__(self, cell: Cell, want: Entry | None, have: Held | None) -> None:
        self.cell = cell
        self.want = want
        self.have = have
        self.phase = PENDING
        self.claim = NEW
        self.attempts = 0
        self.at = 0.0
        self.errno = 0
        self.text = ""
        self.count = 0
        self.listed: list[Address] | None = None
        self.key: Situation | None = None

    @property
    def op(self) -> str:
        """What must be done to the slots of a lot that waits."""
        if self.want is None:
            return "delete"
        return "replace" if self.claim in (OURS, TAKEN) else "add"


# want, have, phase, claim, attempts, at, errno, text
Situation = tuple[Cell, Entry | None, Held | None, str, str, int, float, int, str]


class Lots:
    """All slots that are wanted or held."""

    def __init__(self) -> None:
        self.cells: dict[Cell, dict[Address, Lot]] = {}
        self.all: dict[Lot, None] = {}
        self.queue: dict[Lot, None] = {}
        self._open: dict[Situation, Lot] = {}

    def find(self, cell: Cell, destination: Address) -> Lot | None:
        slots = self.cells.get(cell)
        return slots.get(destination) if slots else None

    def members(self, lot: Lot) -> list[Address]:
        """The destinations in the lot; in the order of arrival if it waits."""
        slots = self.cells[lot.cell]
        if lot.listed is not None:
            if len(lot.listed) != lot.count:
                lot.listed = [d for d in dict.fromkeys(lot.listed) if slots.get(d) is lot]
            return lot.listed
        if lot.count == len(slots):
            return list(slots)
        return [d for d, other in slots.items() if other is lot]

    def place(
        self,
        old: Lot | None,
        cell: Cell,
        group: list[Address],
        want: Entry | None,
        have: Held | None,
        phase: str,
        *,
        claim: str = NEW,
        attempts: int = 0,
        at: float = 0.0,
        errno: int = 0,
        text: str = "",
    ) -> None:
        """Brings `group`, some or all slots of `old` (None: new ones), into a situation. Without want and have the
        slots are forgotten."""
        if not group:
            return
        if want is None and have is None and phase is not SENT:
            if old is not None:
                self._leave(old, len(group))
                remove_keys(self.cells[cell], group)
            return
        if len(group) < _SMALL:
            target = self._opened((cell, want, have, phase, claim, attempts, at, errno, text))
            if target is not old:
                if old is not None:
                    self._leave(old, len(group))
                self._enter(target, group)
            return
        if old is not None and len(group) == old.count:
            self._close(old)
            old.want, old.have = want, have
            fresh = [old]
        else:
            if old is not None:
                self._leave(old, len(group))
            fresh = self._made(cell, group, want, have, phase in WAITING and want is not None)
        for lot in fresh:
            lot.phase, lot.claim, lot.attempts, lot.at, lot.errno, lot.text = phase, claim, attempts, at, errno, text
            if lot is old:
                lot.listed = group
            if phase in WAITING:
                self.queue[lot] = None
            else:
                self.queue.pop(lot, None)

    def take(self, lot: Lot, room: int) -> Lot:
        """Takes up to `room` slots off a waiting lot; returns them as a lot that is sent, `listed` in order."""
        members = self.members(lot)
        if len(members) > room:
            lot.listed = members[room:]
            lot.count -= room
            taken = Lot(lot.cell, lot.want, lot.have)
            taken.phase, taken.claim, taken.attempts = SENT, lot.claim, lot.attempts
            taken.listed = []
            self._enter(taken, members[:room])
        else:
            self._close(lot)
            self.queue.pop(lot, None)
            taken = lot
        taken.phase = SENT
        return taken

    def wake(self, lot: Lot) -> None:
        """A lot that waits for its time may be tried at once."""
        self._close(lot)
        lot.at = 0.0

    # --- inside ----------------------------------------------------------------------------------------------------

    def _made(
        self, cell: Cell, group: list[Address], want: Entry | None, have: Held | None, batched: bool
    ) -> list[Lot]:
        """New lots for a large group; those that will be written are cut into batches."""
        size = BATCH if batched else len(group)
        lots = []
        for at in range(0, len(group), size):
            lot = Lot(cell, want, have)
            lot.listed = group[at : at + size]
            lot.count = len(lot.listed)
            lots.append(lot)
            self.all[lot] = None
        owners = chain.from_iterable(repeat(lot, lot.count) for lot in lots)
        self.cells.setdefault(cell, {}).update(zip(group, owners, strict=True))
        return lots

    def _opened(self, situation: Situation) -> Lot:
        lot = self._open.get(situation)
        if lot is None:
            lot = self._open[situation] = Lot(*situation[:3])
            lot.key = situation
            _, _, _, lot.phase, lot.claim, lot.attempts, lot.at, lot.errno, lot.text = situation
            if lot.phase in WAITING:
                lot.listed = []
        return lot

    def _close(self, lot: Lot) -> None:
        """Nothing more may enter the lot."""
        if lot.key is not None:
            del self._open[lot.key]
            lot.key = None

    def _enter(self, lot: Lot, group: list[Address]) -> None:
        self.cells.setdefault(lot.cell, {}).update(dict.fromkeys(group, lot))
        lot.count += len(group)
        self.all[lot] = None
        if lot.listed is not None:
            lot.listed += group
            if lot.phase in WAITING:
                self.queue[lot] = None

    def _leave(self, lot: Lot, count: int) -> None:
        lot.count -= count
        if not lot.count:
            self._close(lot)
            del self.all[lot]
            self.queue.pop(lot, None)
