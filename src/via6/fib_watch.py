"""What the kernel says by itself, and what a dump says: the Fib's view of the truth.

A notification is an echo of our own doing, another hand's, or the tip of something that Linux does not tell: routes
and nexthop objects that die with their link go without a word (STANDARDS.md section 4), so the link's event stands
for all of them. Such a route is taken for lost and added again; should the kernel say that the slot is taken, a dump
decides who was right.

An echo may come late, when the slot has changed again. It then looks like drift and costs one needless `replace`,
which changes nothing; it never costs a route.
"""

from __future__ import annotations

from collections import defaultdict
from errno import EEXIST
from typing import TYPE_CHECKING, Final

from via6.lots import DRIFTED, FAILED, INSTALLED, LOST, OURS, PENDING, SENT, TAKEN, Held, Lot, taken_text
from via6.model import (
    PROTO_VIA6,
    Change,
    InterfaceAddress,
    KernelEvent,
    Link,
    NexthopObject,
    Overrun,
    Route,
    RouteBlock,
    Snapshot,
)
from via6.prefix import Address
from via6.rib import Cell, bare, by_value, canonical, cell_of

if TYPE_CHECKING:
    from via6.carriers import Carrier
    from via6.fib import Fib

WITHOUT_WAY: Final = frozenset({"blackhole", "unreachable", "prohibit", "throw"})


def observe(fib: Fib, event: KernelEvent, now: float) -> None:
    """See `Fib.observe`."""
    if isinstance(event, Overrun):
        fib.needs_dump = True
        return
    if isinstance(event.object, Route):
        _route(fib, event.object, event.gone, now)
    elif isinstance(event.object, RouteBlock):
        slots = fib.lots.cells.get(cell_of(event.object.template), ())
        for destination in event.object.destinations if slots else ():
            if destination in slots:
                _route(fib, event.object.template.at(destination), event.gone, now)
    elif isinstance(event.object, Link):
        _link(fib, event)
    elif isinstance(event.object, NexthopObject):
        for carrier in fib.carriers.changed(event.object, event.gone):
            _bereave(fib, carrier)
        fib.needs_dump = fib.needs_dump or fib.carriers.doubt
    elif isinstance(event.object, InterfaceAddress):
        _address(fib, event.object, event.gone)


# --- links, addresses, nexthop objects -----------------------------------------------------------------------------


def _link(fib: Fib, event: Change) -> None:
    assert isinstance(event.object, Link)
    dead, came = fib.carriers.link(event.object, event.gone)
    for carrier in dead:
        _bereave(fib, carrier)
    fib.needs_dump = fib.needs_dump or fib.carriers.doubt
    if came:
        index = event.object.ifindex
        for lot in _failed(fib):
            if lot.want is not None and any(hop.ifindex == index for hop in lot.want.path.next_hops):
                fib.lots.wake(lot)


def _address(fib: Fib, address: InterfaceAddress, gone: bool) -> None:
    """A new address may be the source or the link that a refused route lacked; one that goes takes the IPv4 routes
    with it that name it as their source."""
    if not gone:
        for lot in _failed(fib):
            if lot.errno != EEXIST:
                fib.lots.wake(lot)
        return
    if len(address.address) == 4 and fib.carriers.direct_on(address.ifindex):
        # With a link's last IPv4 address go, unannounced, all IPv4 routes out of it but those on nexthop objects.
        fib.needs_dump = True
    for lot in list(fib.lots.all):
        if lot.have is None or lot.claim != OURS or lot.phase is SENT:
            continue
        if lot.have.template.src == address.address:
            fib.settle(lot, fib.lots.members(lot), lot.want, lot.have, claim=LOST)


def _failed(fib: Fib) -> list[Lot]:
    return [lot for lot in fib.lots.queue if lot.phase is FAILED]


def _bereave(fib: Fib, carrier: Carrier) -> None:
    """The carrier is no more, so its routes are not; but the news may be older than the carrier. What is wanted is
    added again, never by `replace`: whoever took such a slot took an empty one."""
    fib.needs_dump = fib.needs_dump or fib.under_way(carrier)
    for lot in list(fib.lots.all):
        if lot.have is not None and lot.have.carrier is carrier and lot.claim == OURS:
            phase = SENT if lot.phase is SENT else PENDING
            fib.lots.place(lot, lot.cell, fib.lots.members(lot), lot.want, lot.have, phase, claim=LOST)


# --- routes --------------------------------------------------------------------------------------------------------


def _route(fib: Fib, route: Route, gone: bool, now: float) -> None:
    slot = cell_of(route), route.prefix.packed
    lot = fib.lots.find(*slot)
    if lot is None:
        return
    ours = route.protocol == PROTO_VIA6
    if not ours:
        if gone:
            if fib.foreign.pop(slot, None) is not None and lot.phase is FAILED:
                fib.settle(lot, [slot[1]], lot.want, lot.have, claim=lot.claim)
            return
        fib.foreign[slot] = route.protocol
    if lot.phase is SENT:
        if not ours or (gone and lot.want is not None):
            fib.disturbed.add(slot)
    elif lot.have is not None and lot.claim == OURS and (gone or not _is(route, lot.have)):
        if lot.want is None:
            fib.settle(lot, [slot[1]], None, lot.have, claim=LOST)
        else:
            fib.drift(slot, lot, now)


def _is(route: Route, held: Held) -> bool:
    """A route as notified is the one we hold; on a nexthop object the id alone counts."""
    if bare(route) != held.template:
        return False
    if held.carrier is None:
        return route.nhid == 0
    if held.carrier.nhid:
        return route.nhid == held.carrier.nhid
    return route.nhid == 0 and canonical(route.next_hops) == held.carrier.hops


# --- a dump --------------------------------------------------------------------------------------------------------


def synchronise(fib: Fib, snapshot: Snapshot) -> None:
    """See `Fib.synchronise`."""
    for path in fib.carriers.synchronise(snapshot):
        fib.rewrite(path)
    seen: defaultdict[Cell, set[Address]] = defaultdict(set)
    sizes = {size for size, part in ((4, "routes4"), (16, "routes6")) if part in snapshot.parts}
    others: list[tuple[Cell, int, list[Address]]] = []
    for block in snapshot.routes.blocks:
        cell = cell_of(block.template)
        if cell.size not in sizes:
            continue
        if block.template.protocol == PROTO_VIA6:
            unique = set(block.destinations)
            # A dump that was interrupted may show a route twice.
            group = list(block.destinations if len(unique) == len(block) else unique)
            seen[cell] = seen[cell] | unique if seen[cell] else unique
            _found(fib, cell, group, block.template)
        elif cell in fib.lots.cells:
            others.append((cell, block.template.protocol, list(block.destinations)))
    for cell, slots in list(fib.lots.cells.items()):
        if cell.size in sizes and len(slots) != len(seen[cell]):
            _missing(fib, cell, [d for d in slots if d not in seen[cell]])
    fib.foreign = {slot: protocol for slot, protocol in fib.foreign.items() if slot[0].size not in sizes}
    for cell, protocol, group in others:
        slots = fib.lots.cells[cell]
        _occupied(fib, cell, protocol, [d for d in group if d in slots])
    fib.disturbed.clear()
    fib.needs_dump = False


def _found(fib: Fib, cell: Cell, group: list[Address], template: Route) -> None:
    """Our routes, as the kernel has them."""
    carrier = None
    if template.type not in WITHOUT_WAY:
        carrier = fib.carriers.by_nhid(template.nhid, canonical(template.next_hops))
    have = fib.hold(bare(template), carrier)
    slots = fib.lots.cells.get(cell)
    for lot, part in by_value(group, map(slots.get, group)) if slots else [(None, group)]:
        if lot is None:
            fib.lots.place(None, cell, part, None, have, PENDING, claim=OURS)
        elif lot.have is have and lot.claim == OURS:
            if lot.phase is not INSTALLED and lot.want is not None and fib.fits(lot.want, have):
                fib.settle(lot, part, lot.want, have, claim=OURS)
        else:
            phase = DRIFTED if lot.phase is INSTALLED or lot.phase is DRIFTED else PENDING
            fib.settle(lot, part, lot.want, have, phase=phase, claim=OURS)


def _missing(fib: Fib, cell: Cell, group: list[Address]) -> None:
    """Slots in which the kernel has nothing of ours."""
    slots = fib.lots.cells[cell]
    for lot, part in by_value(group, [slots[d] for d in group]):
        if lot.have is None:
            continue
        if lot.phase is INSTALLED or lot.claim == TAKEN:
            fib.settle(lot, part, lot.want, None, phase=DRIFTED, claim=TAKEN)
        else:
            fib.settle(lot, part, lot.want, None)


def _occupied(fib: Fib, cell: Cell, protocol: int, group: list[Address]) -> None:
    """Another hand's routes in slots we know."""
    slots = fib.lots.cells[cell]
    fib.foreign.update(dict.fromkeys([(cell, d) for d in group], protocol))
    for lot, part in by_value(group, [slots[d] for d in group]):
        if lot.phase is FAILED and lot.errno == EEXIST:
            fib.lots.place(
                lot, cell, part, lot.want, lot.have, FAILED, claim=lot.claim,
                attempts=lot.attempts, at=lot.at, errno=EEXIST, text=taken_text(protocol),
            )  # fmt: skip
