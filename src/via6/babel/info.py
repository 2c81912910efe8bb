"""What readers see of a speaker: its tables as values (`model`), for show, monitor, status and the stored state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from via6.babel.model import INFINITY, InterfaceInfo, NeighbourInfo, Rejected, Rival, RouteInfo, SourceInfo
from via6.babel.table import Destination, Route
from via6.prefix import Prefix

if TYPE_CHECKING:
    from via6.babel.link import Link
    from via6.babel.speaker import Speaker


def neighbours(speaker: Speaker) -> list[NeighbourInfo]:
    """The neighbour table."""
    return [
        NeighbourInfo(
            link.ifindex, link.name, n.address, str(n.multicast), n.rxcost, n.txcost, n.cost,
            round(1000 * (n.multicast.interval_s or n.unicast.interval_s)), len(n.routes), n.authenticated,
            n.signed,
        )
        for link in speaker.links.values()
        for n in link.neighbours.values()
    ]  # fmt: skip


def interfaces(speaker: Speaker) -> list[InterfaceInfo]:
    """The interface table."""
    return [
        InterfaceInfo(
            link.ifindex, link.name, link.given.address, link.given.up, link.cost,
            link.given.settings.hello_interval_ms, tuple(key.name for key in link.given.settings.keys),
            len(link.neighbours), link.packets_in, link.packets_out, link.packets_bad,
            tuple(Rejected(a, reason, count, link.clock - at) for a, (reason, count, at) in link.rejected.items()),
            tuple(_rivals(speaker, link)),
        )
        for link in speaker.links.values()
    ]  # fmt: skip


def _rivals(speaker: Speaker, link: Link) -> Iterator[Rival]:
    for key, (router_id, neighbour, _) in link.rivals.items():
        destination = speaker.table.find(*key)
        if destination is not None and destination.own is not None:
            yield Rival(Prefix(*key), router_id, neighbour)


def routes(speaker: Speaker, now: float) -> Iterator[RouteInfo]:
    """The route table: of each prefix our own first, then the selected route, then the others."""
    for destination in speaker.table.all():
        yield from routes_of(speaker, destination, now)


def routes_of(speaker: Speaker, destination: Destination, now: float) -> Iterator[RouteInfo]:
    """The routes of one destination."""
    prefix = Prefix(destination.prefix, destination.length)
    own = destination.own
    if own is not None:
        yield RouteInfo(prefix, None, 0, None, speaker.router_id, speaker.seqno, own, own, "own", 0.0)
    for route in sorted(destination.routes, key=lambda r: (r is not destination.selected, r.metric, r.hop)):
        yield RouteInfo(
            prefix, route.neighbour.address, route.hop.ifindex, route.hop.address, route.router_id, route.seqno,
            route.metric, route.advertised, _state(destination, route), now - route.since,
        )  # fmt: skip


def sources(speaker: Speaker, now: float) -> Iterator[SourceInfo]:
    """The source table."""
    yield from _sources(speaker.table.all(), now)


def kept_sources(speaker: Speaker, now: float) -> Iterator[SourceInfo]:
    """What is to be stored for the next run. Not what a crash before this run has left doubtful: without a distance
    the next run guards the prefix again, and the true distance may be smaller than ours."""
    return _sources((d for d in speaker.table.all() if d.guard is None or d.guard.until <= now), now)


def _sources(destinations: Iterable[Destination], now: float) -> Iterator[SourceInfo]:
    for destination in destinations:
        prefix = Prefix(destination.prefix, destination.length)
        for source in destination.sources:
            yield SourceInfo(prefix, source.router_id, source.seqno, source.metric, now - source.touched)


def _state(destination: Destination, route: Route) -> str:
    if route is destination.selected:
        return "selected"
    if route is destination.backup:
        return "backup"
    if route.metric >= INFINITY:
        return "retracted"
    return "feasible" if destination.feasible(route) else "unfeasible"
