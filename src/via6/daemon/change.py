"""One change of the routes that via6 holds (protocol 46), as a whole: what should be, what differs, make it so.

Pure but for `settle`, which pumps. apply and undo are both this: a mapping from slots to routes that should be there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from via6.config import RouteSpec
from via6.fib import Fib, Status
from via6.model import PROTO_VIA6, Kernel, Plan, Route, RouteTable, Snapshot
from via6.prefix import Prefix
from via6.resolve import Unresolved, on_link
from via6.rib import Rib, bare, canonical, cell_of
from via6.static import NAME, StaticSource
from via6.view import View

Slot = tuple[Prefix, int, int]
"""Prefix, table, metric: what the kernel tells routes apart by."""

_SOURCE = "apply"


@dataclass(frozen=True, slots=True)
class Refused:
    """A declared route that cannot be made so here, and why."""

    spec: RouteSpec
    message: str
    remedy: str


@dataclass(frozen=True)
class Difference:
    """What must change: new routes, (old, new) pairs, and routes that go."""

    add: tuple[Route, ...] = ()
    replace: tuple[tuple[Route, Route], ...] = ()
    delete: tuple[Route, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.add or self.replace or self.delete)


def slot(route: Route) -> Slot:
    return route.prefix, route.table, cell_of(route).metric


def plain(route: Route) -> Route:
    """Without what the kernel adds or chooses: object numbers, flags that come and go."""
    return replace(bare(route), prefix=route.prefix, next_hops=canonical(route.next_hops))


def ours(snapshot: Snapshot) -> dict[Slot, Route]:
    """What via6 holds, as plain routes."""
    return {slot(r): plain(r) for r in snapshot.routes.where(lambda t: t.protocol == PROTO_VIA6)}


def _faults(view: View, routes: Iterable[RouteSpec]) -> Iterable[tuple[RouteSpec, Unresolved]]:
    """Routes of which a next hop is not on link: nobody would follow it when IPv6 moves."""
    known: dict[object, Unresolved | None] = {}
    for spec in routes:
        key = spec.vias, spec.to.family
        if key not in known:
            answers = [on_link(view, v.address, v.dev, weight=v.weight, family=spec.to.family) for v in spec.vias]
            known[key] = next((a for a in answers if isinstance(a, Unresolved)), None)
        fault = known[key]
        if fault:
            yield spec, fault


def declared(routes: tuple[RouteSpec, ...], snapshot: Snapshot) -> tuple[dict[Slot, Route], list[Refused]]:
    """What the declared routes come to on this node, all or nothing for each. A route that is refused leaves what
    via6 holds in its slot as it is: nothing that works is lost by a mistake."""
    view = View(snapshot)
    refused = {spec: Refused(spec, fault.text, fault.remedy) for spec, fault in _faults(view, routes)}
    source = StaticSource(spec for spec in routes if spec not in refused)
    rib = Rib()
    rib.feed(NAME, source.refresh(view))
    for unmet in source.unmet:
        for spec in unmet.specs:
            refused.setdefault(spec, Refused(spec, unmet.reason.text, unmet.reason.remedy))
    unwanted = {spec.slot for spec in refused}
    wanted = {}
    for block in rib.winners():
        for route in map(plain, block):
            if (route.prefix.packed, route.prefix.length, route.table, slot(route)[2]) not in unwanted:
                wanted[slot(route)] = route
    held = ours(snapshot)
    wanted |= {k: r for k, r in held.items() if (k[0].packed, k[0].length, k[1], k[2]) in unwanted}
    return wanted, list(refused.values())


def difference(held: Mapping[Slot, Route], wanted: Mapping[Slot, Route]) -> Difference:
    """In the order of the prefixes."""

    def order(key: Slot) -> tuple[int, bytes, int, int, int]:
        return len(key[0].packed), key[0].packed, key[0].length, key[1], key[2]

    new = sorted(wanted.keys() - held.keys(), key=order)
    changed = sorted((k for k in wanted.keys() & held.keys() if wanted[k] != held[k]), key=order)
    gone = sorted(held.keys() - wanted.keys(), key=order)
    return Difference(
        tuple(wanted[k] for k in new), tuple((held[k], wanted[k]) for k in changed), tuple(held[k] for k in gone)
    )


def occupied(snapshot: Snapshot, added: Iterable[Route]) -> dict[Slot, Route]:
    """Routes of other hands in the slots of routes that are to be added: the kernel will refuse those."""
    wanted = {slot(r) for r in added}
    others = snapshot.routes.where(lambda t: t.protocol != PROTO_VIA6)
    return {slot(r): r for r in others if slot(r) in wanted}


def prepared(snapshot: Snapshot, wanted: Mapping[Slot, Route], *, objects: bool) -> Fib:
    """A Fib that holds what the dump shows and wants what is given."""
    rib = Rib([_SOURCE])
    for block in RouteTable.of(wanted.values()).blocks:
        rib.update(_SOURCE, 0, 0, block)
    rib.complete(_SOURCE)
    fib = Fib(objects=objects)
    fib.synchronise(snapshot)
    fib.desire(rib.drain())
    return fib


def steps(snapshot: Snapshot, wanted: Mapping[Slot, Route], *, objects: bool) -> Plan:
    """The plan, to be looked at."""
    return prepared(snapshot, wanted, objects=objects).plan(0.0)


def settle(kernel: Kernel, snapshot: Snapshot, wanted: Mapping[Slot, Route], *, objects: bool) -> list[Status]:
    """Makes it so, each route tried once; those that failed, with the kernel's words."""
    from via6.kernel.pump import pump

    fib = prepared(snapshot, wanted, objects=objects)
    pump(fib, kernel, time.monotonic)
    return [status for status in fib.troubles() if status.wanted or status.held]
