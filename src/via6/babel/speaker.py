"""The speaker: one node's Babel (RFC 8966, RFC 9229). Pure; see `Speaker` for how it is driven.

What comes in changes links, neighbours and routes at once. What follows from that for a prefix is worked out later
and once: a destination that anything happened to is *dirty*, and `routing` reviews a bounded number of dirty ones at
a time, selects, and says what the FIB must hold now. Only when the driver says that the kernel has followed
(`settled`) is the change announced. So the order that keeps standing backups free of loops cannot be broken: a backup
that the next Update would make infeasible is out of the kernel before the Update leaves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from typing import Final, Protocol

from via6.babel import adjacency, info, receive
from via6.babel.auth import LinkAuth
from via6.babel.link import HOLD_FACTOR, Link, Neighbour
from via6.babel.model import (
    GROUP,
    INFINITY,
    Arrival,
    BabelLink,
    Datagram,
    Event,
    Hop,
    HopLeft,
    InterfaceInfo,
    NeighbourInfo,
    RouteChange,
    RouteInfo,
    SourceInfo,
    Way,
)
from via6.babel.outlet import Outlet, packed
from via6.babel.requests import Ask, Requests
from via6.babel.review import review
from via6.babel.table import SOURCE_GC_S, Destination, Guard, Route, Source, Table
from via6.babel.wheel import Wheel
from via6.babel.wire import (
    AE_IPV4,
    AE_IPV6,
    AE_WILDCARD,
    Writer,
    encode_route_request,
    encode_seqno_request,
)
from via6.prefix import Address, Prefix

GUARD_S: Final = 180.0
PIECE: Final = 4096
"""Destinations reviewed in one call, so that Hellos are never late."""
HOPS: Final = 64
_NOTES: Final = 256
_NOTE_S: Final = 10.0
_ASK_EACH: Final = 64  # prefixes that are asked for one by one; for more of them the whole table is
_GC_EVERY_S: Final = 30.0
_UPDATES_PER_S: Final = 2500
_LONGEST_S: Final = 600.0


class Chance(Protocol):
    """Where jitter, first seqnos and nonces come from: seeded in the simulator."""

    def random(self) -> float: ...
    def getrandbits(self, k: int, /) -> int: ...
    def randbytes(self, n: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class SpeakerSettings:
    """`seqno` is the first that is ours to use. `families` are sizes of addresses: 4 and 16 octets. Without
    `transit_v4` IPv4 routes of others are used and not announced. `accept` says which prefixes may be learnt."""

    router_id: bytes
    seqno: int = 0
    families: frozenset[int] = frozenset({4})
    transit_v4: bool = True
    accept: Callable[[Prefix], bool] = field(default=lambda _prefix: True)
    max_routes: int = 1 << 20
    """Per neighbour; what it announces beyond that is ignored and reported."""


class Speaker:
    """Call after every input, in this order: `routing` (until it gives nothing) and let the kernel follow; `settled`;
    `datagrams` and send them. Inputs are the first five methods. `now` never goes back."""

    def __init__(
        self,
        settings: SpeakerSettings,
        chance: Chance,
        *,
        distances: Iterable[SourceInfo] = (),
        adopted: Mapping[Prefix, Hop | None] | None = None,
        now: float = 0.0,
    ) -> None:
        self.router_id = settings.router_id
        self.seqno = settings.seqno & 0xFFFF
        self.families = settings.families
        self.transit_v4 = settings.transit_v4
        self.accept = settings.accept
        self.max_routes = settings.max_routes
        self.chance = chance
        self.links: dict[int, Link] = {}
        self.auths: dict[int, LinkAuth] = {}
        self.outlets: dict[Neighbour, Outlet] = {}
        self.table = Table()
        self.requests = Requests()
        self.wheel = Wheel()
        self.dirty: dict[Destination, None] = {}
        self.counters: dict[str, int] = {}
        self.reviewed: list[Prefix] | None = None
        """Prefixes to which anything happened, for somebody who watches; None: nobody does."""
        self.left: list[HopLeft] = []
        self.unsettled: list[tuple[Destination, list[Link]]] = []
        self._ready: list[Datagram] = []
        self.ways: dict[tuple[Hop, Hop | None], Way] = {}
        self._events: list[Event] = []
        self._noted: dict[str, float] = {}
        self.held: deque[tuple[float, Destination]] = deque()
        self._gc: Iterator[Destination] = iter(())
        self._gc_at = now + _GC_EVERY_S
        self._leaving = False
        self._refused: frozenset[Prefix] = frozenset()
        self._restore(distances, adopted or {}, now)

    def _restore(self, distances: Iterable[SourceInfo], adopted: Mapping[Prefix, Hop | None], now: float) -> None:
        known = set()
        for kept in distances:
            destination = self.table.make(kept.prefix.packed, kept.prefix.length)
            destination.sources.append(Source(kept.router_id, kept.seqno, kept.metric, now - kept.age_s))
            known.add(kept.prefix)
        for prefix, hop in adopted.items():
            if prefix not in known:
                self.table.make(prefix.packed, prefix.length).guard = Guard(hop, now + GUARD_S)

    # --- inputs ----------------------------------------------------------------------------------------------------

    def link_changed(self, given: BabelLink, now: float) -> None:
        """An interface joins, changes, or has no carrier any more."""
        link = self.links.get(given.ifindex)
        if not given.up:
            if link is not None:
                adjacency.fall(self, link, now)
                link.given = given
            return
        if link is None:
            link = self.links[given.ifindex] = Link(given, self.chance.getrandbits(16), now)
        elif link.given.address != given.address:
            adjacency.fall(self, link, now)
        back, before = not link.given.up, link.given
        link.given = given
        if back:
            link.hello_at, link.burst = now, 2
        auth = self.auths.get(given.ifindex)
        if auth is None:
            index = self.chance.randbytes(8)
            self.auths[given.ifindex] = LinkAuth(given.settings.keys, index, given.settings.accept_all, self.chance)
        else:
            auth.change_keys(given.settings.keys, given.settings.accept_all)
        adjacency.revised(self, link, before, now)

    def forget_link(self, ifindex: int, now: float) -> None:
        """The interface is gone, or no longer ours."""
        link = self.links.pop(ifindex, None)
        self.auths.pop(ifindex, None)
        if link is not None:
            adjacency.fall(self, link, now)

    def receive(self, arrival: Arrival, now: float) -> None:
        """A datagram. Whatever is in it, nothing is raised."""
        link = self.links.get(arrival.ifindex)
        if link is not None and link.given.up and not self._leaving:
            receive.packet(self, link, arrival, now)

    def announce(self, own: Mapping[Prefix, int], now: float) -> None:
        """All prefixes that originate here, with the metric to begin with."""
        mine = (Prefix(d.prefix, d.length) for d in self.table.all() if d.own is not None)
        self.originate({**{prefix: None for prefix in mine if prefix not in own}, **own}, now)

    def originate(self, changes: Mapping[Prefix, int | None], now: float) -> None:
        """These prefixes originate here from now on, with the metric to begin with; None: not any more."""
        find, make, dirty = self.table.find, self.table.make, self.dirty
        for (prefix, length), metric in changes.items():
            destination = make(prefix, length) if metric is not None else find(prefix, length)
            if destination is not None and destination.own != metric:
                destination.own = metric
                dirty[destination] = None

    def accept_now(self, accept: Callable[[Prefix], bool], now: float) -> None:
        """Another import policy: what it denies is dropped, what it allows is asked for."""
        self.accept = accept
        for destination in self.table.all():
            held = destination.way is not None
            if (held or destination.routes) and not accept(Prefix(destination.prefix, destination.length)):
                self.dirty[destination] = None
                for route in list(destination.routes):
                    self.flush(route)
        for outlet in self.outlets.values():
            self.ask_everything(outlet.neighbour, now)

    def reconsider(self, prefixes: Collection[Prefix], now: float) -> None:
        """The import policy may say something else of these alone."""
        allowed = []
        for prefix in prefixes:
            destination = self.table.find(prefix.packed, prefix.length)
            if (destination is None or destination.own is None) and self.accept(prefix):
                allowed.append(prefix)
            elif destination is not None:
                for route in list(destination.routes):
                    self.flush(route)
        for outlet in self.outlets.values() if allowed else ():
            if len(allowed) > _ASK_EACH:
                self.ask_everything(outlet.neighbour, now)
            else:
                outlet.asks += [encode_route_request(_ae(len(p)), length, p) for p, length in allowed]

    def tick(self, now: float) -> None:
        """Does what is due; see `deadline`."""
        for link in self.links.values():
            adjacency.tick(self, link, now)
        for route in self.wheel.due(now):
            self._look(route, now)
        while self.held and self.held[0][0] <= now:
            _, destination = self.held.popleft()
            self.dirty[destination] = None
        for ask in self.requests.due(now):
            self._send_ask(ask, None, now)
        for outlet in self.outlets.values():
            outlet.tick(now)
            if outlet.dump_at <= now:
                if outlet.dumping:
                    outlet.dump_at = now + 1.0  # it is slow: one after the other
                else:
                    self.dump(outlet, now)
        if self._gc_at <= now:
            self._collect(now)

    def refuse(self, refused: frozenset[Prefix], now: float) -> None:
        """The kernel will not have the routes to these: they are not announced (RFC 9229 section 2.4). All of them."""
        if refused == self._refused:
            return
        for prefix in refused ^ self._refused:
            destination = self.table.find(prefix.packed, prefix.length)
            if destination is not None:
                destination.refused = prefix in refused
                self.dirty[destination] = None
        self._refused = refused

    def disown(self, prefixes: Iterable[Prefix]) -> None:
        """What a run before this one may have announced, and this one has not learnt, is retracted."""
        for prefix in prefixes:
            destination = self.table.make(prefix.packed, prefix.length)
            if destination.told is None:
                destination.told = self.router_id, 0, 0
                self.dirty[destination] = None

    def leave(self, now: float) -> None:
        """Everything is retracted; what `datagrams` gives after this is the last."""
        self._leaving = True
        goodbyes = [(link, GROUP) for link in self.links.values() if link.given.up]
        goodbyes += [(neighbour.link, neighbour.address) for neighbour in self.outlets]
        for link, to in goodbyes:
            writer = Writer(512)
            writer.update(AE_WILDCARD, 0, b"", 0, INFINITY, 1, None)
            self._ready.append(self._signed(link, to, writer.take()))
        self.outlets.clear()

    # --- outputs ---------------------------------------------------------------------------------------------------

    def deadline(self, now: float = 0.0) -> float:
        """When `tick` or `datagrams` has something to do; infinity: not before something happens."""
        if self.dirty or self.left:
            return now
        at = min(self.wheel.deadline(), self.requests.deadline(), self._gc_at)
        if self.held:
            at = min(at, self.held[0][0])
        for link in self.links.values():
            if link.given.up:
                at = min(at, link.hello_at)
                for neighbour in link.neighbours.values():
                    at = min(at, neighbour.deadline())
        for outlet in self.outlets.values():
            at = min(at, outlet.deadline(now))
        return at

    def routing(self, now: float = 0.0) -> list[RouteChange | HopLeft]:
        """What the FIB must hold now, as far as it has changed; in pieces, until there is nothing."""
        if self.left:
            left, self.left = self.left, []
            return list(left)
        found: dict[tuple[int, int, Way | None, Way | None], list[Address]] = {}
        for destination in self._piece():
            before = destination.way
            review(self, destination, now)
            if destination.way is not before:
                key = destination.size, destination.length, before, destination.way
                group = found.get(key)
                if group is None:
                    found[key] = [destination.prefix]
                else:
                    group.append(destination.prefix)
            if self.reviewed is not None:
                self.reviewed.append(Prefix(destination.prefix, destination.length))
            if destination.idle:
                self.table.drop(destination)
        return [RouteChange(size, length, way, group, before) for (size, length, before, way), group in found.items()]

    def _piece(self) -> list[Destination]:
        """The next dirty destinations."""
        if len(self.dirty) <= PIECE:
            piece, self.dirty = list(self.dirty), {}
            return piece
        piece = list(islice(self.dirty, PIECE))
        if len(self.dirty) > 16 * PIECE:  # to delete at the front of a large dict piece by piece takes ever longer
            self.dirty = dict.fromkeys(islice(self.dirty, PIECE, None))
        else:
            for destination in piece:
                del self.dirty[destination]
        return piece

    def settled(self, now: float = 0.0) -> None:
        """The kernel has acknowledged all that `routing` said: it may be announced."""
        later, self.unsettled = self.unsettled, []
        for destination, links in later:
            destination.blocked = False
            for outlet in self.outlets.values():
                if outlet.neighbour.link in links:
                    outlet.pending[destination] = None
            if destination.idle:
                self.table.drop(destination)
        for outlet in self.outlets.values():
            outlet.release()

    def datagrams(self, now: float) -> list[Datagram]:
        """What is to be sent, in this order."""
        found, self._ready = self._ready, []
        for link in self.links.values():
            if link.given.up and link.hello_at <= now and not self._leaving:
                found += [self._signed(link, GROUP, packet) for packet in adjacency.hellos(self, link, now)]
        for neighbour, outlet in self.outlets.items():
            link = neighbour.link
            room = link.room - self.auths[link.ifindex].overhead
            found += [self._signed(link, neighbour.address, packet) for packet in outlet.packets(room, now)]
        for datagram in found:
            sender = self.links.get(datagram.ifindex)
            if sender is not None:
                sender.packets_out += 1
        return found

    def events(self) -> list[Event]:
        """What is worth a line in the log."""
        found, self._events = self._events, []
        return found

    # --- what readers see (see `info`) ---

    def neighbours(self, now: float = 0.0) -> list[NeighbourInfo]:
        return info.neighbours(self)

    def interfaces(self, now: float = 0.0) -> list[InterfaceInfo]:
        return info.interfaces(self)

    def routes(self, now: float) -> Iterator[RouteInfo]:
        return info.routes(self, now)

    def sources(self, now: float) -> Iterator[SourceInfo]:
        return info.sources(self, now)

    def all_ways(self) -> list[RouteChange]:
        """All that the FIB should hold, as `routing` would say it to one that holds nothing."""
        found: dict[tuple[int, int, Way], list[Address]] = {}
        for destination in self.table.all():
            if destination.way is not None:
                key = destination.size, destination.length, destination.way
                found.setdefault(key, []).append(destination.prefix)
        return [RouteChange(size, length, way, group, None) for (size, length, way), group in found.items()]

    # --- routes ----------------------------------------------------------------------------------------------------

    def flush(self, route: Route) -> None:
        """Forgets a route altogether."""
        destination = route.destination
        destination.routes.remove(route)
        route.neighbour.routes.pop((destination.prefix, destination.length), None)
        route.expires = inf
        self.dirty[destination] = None

    def _look(self, route: Route, now: float) -> None:
        """Its turn on the wheel: asked for when it was not refreshed in time, retracted when its time is over,
        forgotten when that time is over once more (RFC 8966 section 3.5.3)."""
        if route.expires == inf:
            return  # flushed
        early = route.expires - 1.5 * route.interval_s
        if now < early:
            self.wheel.put(route, early)
        elif now < route.expires:
            if not route.asked and route.advertised < INFINITY:
                route.asked = True
                self.ask_route(route, now)
            self.wheel.put(route, route.expires)
        elif route.advertised < INFINITY:
            route.advertised = route.metric = INFINITY
            route.expires = now + HOLD_FACTOR * route.interval_s
            self.wheel.put(route, route.expires)
            self.dirty[route.destination] = None
        else:
            self.flush(route)

    def ask_route(self, route: Route, now: float) -> None:
        outlet = self.outlets.get(route.neighbour)
        if outlet is not None:
            destination = route.destination
            outlet.asks.append(encode_route_request(_ae(destination.size), destination.length, destination.prefix))

    def ask(self, ask: Ask, neighbour: Neighbour | None, now: float) -> None:
        """A seqno request of our own, unless one is waiting. Without a neighbour: to all that announce this origin."""
        if self.requests.ask(ask, now):
            self._send_ask(ask, neighbour, now)

    def _send_ask(self, ask: Ask, only: Neighbour | None, now: float) -> None:
        """To one neighbour and to the next hop in use, which is on the way to the origin for sure; again, or when
        there is no way left: to all that announce this origin (RFC 8966 section 3.8.2.1)."""
        destination = ask.destination
        for route in destination.routes:
            if route.router_id != ask.router_id or route.advertised >= INFINITY:
                continue
            if only is None or route.neighbour is only or route is destination.selected:
                self.send_request(route.neighbour, ask)

    def send_request(self, neighbour: Neighbour, ask: Ask, hops: int = HOPS) -> None:
        """One seqno request on its way."""
        outlet = self.outlets.get(neighbour)
        if outlet is not None:
            to = ask.destination
            tlv = encode_seqno_request(_ae(to.size), to.length, to.prefix, ask.seqno, hops, ask.router_id)
            outlet.asks.append(tlv)

    def raise_seqno(self) -> None:
        """By one, as a request made it necessary (RFC 8966 section 3.8.1.2)."""
        self.seqno = (self.seqno + 1) & 0xFFFF

    # --- what goes out ---------------------------------------------------------------------------------------------

    def dump(self, outlet: Outlet, now: float) -> None:
        """Everything that we announce, to one neighbour; the next time an interval later. A large table is said less
        often: every Update was acknowledged, and a neighbour that forgets asks."""
        chosen = [d for d in self.table.all() if d.told is not None]
        interval_s = min(max(outlet.neighbour.link.update_s, len(chosen) / _UPDATES_PER_S), _LONGEST_S)
        outlet.start_dump(chosen, interval_s, now, now + interval_s * (0.9 + 0.1 * self.chance.random()))

    def ask_everything(self, neighbour: Neighbour, now: float) -> None:
        """A wildcard route request (RFC 8966 section 3.8.1.1)."""
        outlet = self.outlets.get(neighbour)
        if outlet is not None:
            outlet.asks.append(encode_route_request(AE_WILDCARD, 0, b""))

    def send(self, link: Link, to: Address, body: Iterable[bytes]) -> None:
        """TLVs at once, also for somebody who is no neighbour yet."""
        room = link.room - self.auths[link.ifindex].overhead
        self._ready += [self._signed(link, to, packet) for packet in packed(list(body), room)]

    def _signed(self, link: Link, to: Address, packet: bytes) -> Datagram:
        return Datagram(link.ifindex, to, self.auths[link.ifindex].sign(packet, link.given.address, to))

    # --- housekeeping ----------------------------------------------------------------------------------------------

    def note(self, kind: str, text: str, now: float, warning: bool = False) -> None:
        """Counts; and says it, if this kind has not been said for a while."""
        self.counters[kind] = self.counters.get(kind, 0) + 1
        if warning and now - self._noted.get(kind, -inf) < _NOTE_S:
            return
        self._noted[kind] = now
        if len(self._events) < _NOTES:
            self._events.append(Event(kind, text, warning))

    def _collect(self, now: float) -> None:
        """Forgets feasibility distances that nobody needed for a while, some at a time (RFC 8966 section 3.5.5)."""
        for checked, destination in enumerate(self._gc, 1):
            sources = destination.sources
            if destination.guard is not None and destination.guard.until <= now:  # what it barred may be a backup
                self.dirty[destination] = None
            if any(source.touched < now - SOURCE_GC_S for source in sources):
                best = destination.selected
                destination.sources = [
                    s for s in sources
                    if s.touched >= now - SOURCE_GC_S or (best is not None and best.router_id == s.router_id)
                ]  # fmt: skip
                self.dirty[destination] = None
            if checked == PIECE:
                self._gc_at = now + 0.25
                return
        self._gc = iter(self.table.all())
        self._gc_at = now + _GC_EVERY_S


def _ae(size: int) -> int:
    return AE_IPV4 if size == 4 else AE_IPV6


__all__ = ["Speaker", "SpeakerSettings"]
