"""Declared routes as a source: resolves their next hops on this node, and again whenever the node changes.

Routes declared with the same `via` have the same fate. They form a *unit*, which is resolved once, be it for a
hundred thousand routes, and moved with one message when IPv6 moves. Within a unit a *bundle* is what makes one block
for the Rib: everything equal but the destination.

A route of which no next hop can be found, or whose source address the node does not have, is withdrawn and named with
the reason; of several next hops those that are found carry the route, and the others are named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from via6.config import RouteSpec, ViaSpec
from via6.model import BLANK, NextHop, Route, RouteBlock
from via6.prefix import AF_INET6, Address, Prefix
from via6.resolve import Resolved, Unresolved, resolve, source_fault
from via6.rib import IPV6_METRIC, Move, RouteUpdate, Update, Withdrawal, canonical
from via6.view import View

NAME: Final = "static"
PREFERENCE: Final = 10
"""Before every protocol's: what somebody wrote down is meant."""

_RTAX_MTU: Final = 2
_SCOPE_LINK: Final = 253

Unit = tuple[tuple[ViaSpec, ...], int, Prefix | None]
"""Next hops, family of the destinations, and the destination itself if a next hop lies in it."""


@dataclass(frozen=True, slots=True)
class Unmet:
    """Declared routes that could not be followed, and why. `partial`: only some of their next hops are missing."""

    reason: Unresolved
    specs: tuple[RouteSpec, ...]
    partial: bool = False


@dataclass(slots=True)
class _Bundle:
    unit: Unit
    template: Route
    specs: list[RouteSpec] = field(default_factory=list)
    active: bool = False

    def block(self, hops: tuple[NextHop, ...]) -> RouteBlock:
        return RouteBlock(replace(self.template, next_hops=hops), [spec.to.packed for spec in self.specs])


class StaticSource:
    """`refresh` tells the Rib what changed since the last time; the first time, everything."""

    def __init__(self, routes: Iterable[RouteSpec], *, preference: int = PREFERENCE) -> None:
        self._preference = preference
        self._bundles: dict[tuple[object, ...], _Bundle] = {}
        self._hops: dict[Unit, tuple[NextHop, ...]] = {}
        self._trails: dict[Unit, tuple[Route, ...]] = {}
        self.unmet: list[Unmet] = []
        """As of the last refresh, in the order of declaration."""
        for spec in routes:
            self._declare(spec)

    def _declare(self, spec: RouteSpec) -> None:
        to = spec.to
        inside = None
        for via in spec.vias:
            if via.address is not None and len(via.address) == len(to.packed) and via.address in to:
                inside = to
        key = (spec.vias, len(to.packed), to.length, inside, spec.type, spec.table, spec.metric, spec.src, spec.mtu)
        bundle = self._bundles.get(key)
        if bundle is None:
            bundle = self._bundles[key] = _Bundle((spec.vias, to.family, inside), _template(spec))
        bundle.specs.append(spec)

    def refresh(self, view: View) -> list[RouteUpdate]:
        """Resolves every unit in the node as it is now; what the Rib must hear, moves first."""
        faults: dict[Unit, list[Unresolved]] = {}
        updates: list[RouteUpdate] = []
        for unit in dict.fromkeys(bundle.unit for bundle in self._bundles.values()):
            hops, faults[unit], self._trails[unit] = _resolved(view, unit)
            before = self._hops.get(unit)
            if hops and before and hops != before:
                updates.append(Move(unit, hops))
            self._hops[unit] = hops
        self.unmet = []
        for bundle in self._bundles.values():
            updates += self._review(view, bundle, faults[bundle.unit])
        return updates

    def _review(self, view: View, bundle: _Bundle, faults: list[Unresolved]) -> list[RouteUpdate]:
        hops = self._hops[bundle.unit]
        wanted = bool(hops) or bundle.template.type != "unicast"
        self.unmet += [Unmet(fault, tuple(bundle.specs), wanted) for fault in faults]
        src = bundle.template.src
        fault = source_fault(view, src) if src is not None else None
        if fault is not None:
            self.unmet.append(Unmet(fault, tuple(bundle.specs)))
            wanted = False
        if wanted == bundle.active:
            return []
        bundle.active = wanted
        block = bundle.block(hops)
        return [Update(self._preference, 0, block, bundle.unit) if wanted else Withdrawal(block)]

    def active(self) -> Iterator[Route]:
        """The routes that are in force, as of the last refresh."""
        for bundle in self._bundles.values():
            if bundle.active:
                yield from bundle.block(self._hops[bundle.unit])

    def trail(self, spec: RouteSpec) -> tuple[Route, ...]:
        """The routes that the next hops of a declared route rest on, as of the last refresh."""
        for unit, trail in self._trails.items():
            if unit[0] == spec.vias and unit[1] == spec.to.family and unit[2] in (None, spec.to):
                return trail
        return ()


def _template(spec: RouteSpec) -> Route:
    """All of a declared route but destination and next hops."""
    v6 = spec.to.family == AF_INET6
    on_device = bool(spec.vias) and all(via.address is None for via in spec.vias)
    return Route(
        Prefix(BLANK[spec.to.family], spec.to.length),
        type=spec.type,
        table=spec.table,
        metric=spec.metric or (IPV6_METRIC if v6 else 0),
        scope=_SCOPE_LINK if on_device and not v6 else 0,
        src=spec.src,
        metrics=((_RTAX_MTU, spec.mtu),) if spec.mtu else (),
    )


def _resolved(view: View, unit: Unit) -> tuple[tuple[NextHop, ...], list[Unresolved], tuple[Route, ...]]:
    vias, family, inside = unit
    hops: list[NextHop] = []
    trail: dict[Route, None] = {}
    faults = []
    for via in vias:
        address: Address | None = via.address
        answer = resolve(view, address, via.dev, weight=via.weight, family=family, inside=inside)
        if isinstance(answer, Resolved):
            hops += answer.next_hops
            trail.update(dict.fromkeys(answer.trail))
        else:
            faults.append(answer)
    return canonical(hops), faults, tuple(trail)


__all__ = ["NAME", "PREFERENCE", "StaticSource", "Unmet"]
