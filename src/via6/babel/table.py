"""The route table and the source table (RFC 8966 sections 3.2.5, 3.2.6, 3.5, 3.6): which routes may be used, which is.

A *destination* is a prefix with everything known of it: a route for each neighbour that announced it, a feasibility
distance for each router-id that we announced it for, what is selected, and what stands behind it.

Feasibility keeps Babel free of loops: a route is feasible if its neighbour is nearer to the origin than we ever were
at this seqno. A *backup* is a route that will still be feasible once the selected one has been announced: then our
feasibility distance may have fallen or moved to a newer seqno. Chosen like that, the backup may stand in the kernel
while the Update leaves, provided that the kernel has forgotten the backup before it; see `speaker`.

A *guard* is put on what a crashed run left in the kernel, when its feasibility distances are lost: the old next hop
may be kept, any other needs a seqno newer than any that we may have announced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from via6.babel.model import INFINITY, Hop, Way
from via6.prefix import Address, Prefix

if TYPE_CHECKING:
    from via6.babel.link import Neighbour

SOURCE_GC_S: Final = 180.0
SOURCES_PER_DESTINATION: Final = 16
"""A neighbour that makes router-ids up must not fill the memory; beyond this a new one is not feasible."""

_HEARD: Final = 16


def newer(one: int, other: int) -> bool:
    """Seqno `one` is later than `other`, modulo 2^16 (RFC 8966 section 3.2.1)."""
    return 0 < (one - other) & 0xFFFF < 0x8000


class Source:
    """The feasibility distance of one router-id; `touched` is when it was last needed."""

    __slots__ = ("metric", "router_id", "seqno", "touched")

    def __init__(self, router_id: bytes, seqno: int, metric: int, touched: float) -> None:
        self.router_id = router_id
        self.seqno = seqno
        self.metric = metric
        self.touched = touched


class Route:
    """What one neighbour announced. `advertised` is its metric, `metric` that plus the cost of the link."""

    __slots__ = (
        "advertised", "asked", "destination", "expires", "hop", "interval_s", "metric", "neighbour", "router_id",
        "seqno", "since",
    )  # fmt: skip

    def __init__(self, destination: Destination, neighbour: Neighbour, now: float) -> None:
        self.destination = destination
        self.neighbour = neighbour
        self.router_id = b""
        self.seqno = 0
        self.advertised = INFINITY
        self.metric = INFINITY
        self.hop: Hop = neighbour.hop
        self.interval_s = 0.0
        self.expires = 0.0
        self.since = now
        self.asked = False


class Guard:
    """See the module. `hop` None: the kernel held it unreachable. `first`: a seqno of each router-id that we may have
    announced before the crash. The old next hop knows it: what it says is never older than what we had from it. Of
    the others the newest counts until it has spoken, for one of them may have been told by us and the next be behind
    (`heard`: who has spoken)."""

    __slots__ = ("first", "heard", "hop", "until")

    def __init__(self, hop: Hop | None, until: float) -> None:
        self.hop = hop
        self.until = until
        self.first: dict[bytes, int] = {}
        self.heard: tuple[Hop, ...] = ()

    def bars(self, route: Route) -> bool:
        """The route may not be used yet."""
        first = self.first.get(route.router_id)
        fresh = route.hop not in self.heard and self.hop not in self.heard
        if fresh and len(self.heard) < _HEARD:
            self.heard += (route.hop,)
        if first is None or (fresh and newer(route.seqno, first)):
            first = route.seqno
            if len(self.first) < _HEARD or route.router_id in self.first:
                self.first[route.router_id] = first
        return route.hop != self.hop and not newer(route.seqno, first)


class Destination:
    """A prefix. `own` is our metric if we originate it. `told` is (router-id, seqno, metric) as last announced, None if
    nothing finite was. `blocked`: what to announce has changed and must wait until the kernel has followed."""

    __slots__ = (
        "backup", "blocked", "guard", "held_until", "improve_at", "length", "own", "prefix", "refused",
        "routes", "selected", "size", "sources", "told", "way",
    )  # fmt: skip

    def __init__(self, prefix: Address, length: int) -> None:
        self.size = len(prefix)
        self.length = length
        self.prefix = prefix
        self.routes: list[Route] = []
        self.sources: list[Source] = []
        self.selected: Route | None = None
        self.backup: Route | None = None
        self.own: int | None = None
        self.way: Way | None = None
        self.told: tuple[bytes, int, int] | None = None
        self.blocked = False
        self.refused = False
        self.held_until = 0.0
        self.improve_at = 0.0
        self.guard: Guard | None = None

    def __str__(self) -> str:
        return str(Prefix(self.prefix, self.length))

    # --- feasibility -----------------------------------------------------------------------------------------------

    def source(self, router_id: bytes) -> Source | None:
        for source in self.sources:
            if source.router_id == router_id:
                return source
        return None

    def feasible(self, route: Route) -> bool:
        """RFC 8966 section 3.5.1, for a route with a finite metric."""
        if self.guard is not None and self.guard.bars(route):
            return False
        for source in self.sources:
            if source.router_id == route.router_id:
                if route.seqno == source.seqno:
                    return route.advertised < source.metric
                return newer(route.seqno, source.seqno)
        return len(self.sources) < SOURCES_PER_DESTINATION

    def advance(self, router_id: bytes, seqno: int, metric: int, now: float) -> None:
        """We are about to announce this (RFC 8966 section 3.7.3): the feasibility distance follows."""
        source = self.source(router_id)
        if source is None:
            self.sources.append(Source(router_id, seqno, metric, now))
            return
        source.touched = now
        if newer(seqno, source.seqno):
            source.seqno, source.metric = seqno, metric
        elif seqno == source.seqno and metric < source.metric:
            source.metric = metric

    def wanted_seqno(self, router_id: bytes) -> int:
        """What must be asked for to make this router-id's routes feasible again."""
        source = self.source(router_id)
        seqno = source.seqno if source is not None else 0
        if self.guard is not None and router_id in self.guard.first:
            first = self.guard.first[router_id]
            seqno = first if source is None or newer(first, seqno) else seqno
        return (seqno + 1) & 0xFFFF

    # --- selection -------------------------------------------------------------------------------------------------

    def select(self) -> None:
        """Chooses the best feasible route, the present one among equals, and its backup (RFC 8966 section 3.6)."""
        routes = self.routes
        present = self.selected
        if self.own is not None:
            self.selected = self.backup = None
            return
        usable = [route for route in routes if route.metric < INFINITY and self.feasible(route)]
        if len(usable) > 1:
            best: Route | None = min(usable, key=lambda route: (route.metric, route is not present, route.hop))
        else:
            best = usable[0] if usable else None
        self.selected = best
        self.backup = self._successor(best) if best is not None and len(routes) > 1 else None

    def _successor(self, best: Route) -> Route | None:
        """The best route that stays feasible when `best` is announced; on another link if there is one, because it is
        links that die."""
        source = self.source(best.router_id)
        seqno, metric = best.seqno, best.metric
        if source is not None and source.seqno == seqno:
            metric = min(metric, source.metric)
        found: Route | None = None
        for route in self.routes:
            if route is best or route.metric >= INFINITY or route.hop == best.hop:
                continue
            if route.router_id == best.router_id and not (
                newer(route.seqno, seqno) or (route.seqno == seqno and route.advertised < metric)
            ):
                continue
            if not self.feasible(route):
                continue
            if found is None or _rank(route, best) < _rank(found, best):
                found = route
        return found

    @property
    def idle(self) -> bool:
        """Nothing is left to remember."""
        kept = self.routes or self.sources or self.way or self.told or self.blocked or self.guard
        return not kept and self.own is None


def _rank(route: Route, best: Route) -> tuple[bool, int, Hop]:
    return route.hop.ifindex == best.hop.ifindex, route.metric, route.hop


class Table:
    """All destinations, by size and length."""

    def __init__(self) -> None:
        self.cells: dict[tuple[int, int], dict[Address, Destination]] = {}

    def __len__(self) -> int:
        return sum(map(len, self.cells.values()))

    def find(self, prefix: Address, length: int) -> Destination | None:
        cell = self.cells.get((len(prefix), length))
        return cell.get(prefix) if cell is not None else None

    def make(self, prefix: Address, length: int) -> Destination:
        """The destination; a new one if there is none."""
        cell = self.cells.setdefault((len(prefix), length), {})
        found = cell.get(prefix)
        if found is None:
            found = cell[prefix] = Destination(prefix, length)
        return found

    def drop(self, destination: Destination) -> None:
        """Forgets it; nothing if another one stands in its place."""
        cell = self.cells.get((destination.size, destination.length))
        if cell is not None and cell.get(destination.prefix) is destination:
            del cell[destination.prefix]
            if not cell:
                del self.cells[destination.size, destination.length]

    def all(self) -> list[Destination]:
        return [destination for cell in self.cells.values() for destination in cell.values()]
