"""What must hold in a simulated network: at every instant, and when it has been left in peace.

At every instant, for a prefix with one origin: the graph of all primaries **and** all backups has no circle. That is
more than "no packet circles now": it says that none will, whichever links lose their carrier in the next moment,
before any program takes notice. Feasibility gives it, because along every such edge the feasibility distance falls; so
it holds with packets lost, doubled and late, and with kernels that are slow, as long as no router forgets its
distances. After such a loss (`forgive`), and for prefixes with several origins or below a covering prefix, RFC 8966
promises less: there packets are followed, and how long they circle is measured.

After quiet: the table of every router is compared with shortest paths (networkx).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from via6.babel import info
from via6.babel.model import INFINITY, Hop, RouteInfo, Way
from via6.prefix import Prefix

if TYPE_CHECKING:
    from via6.babel.speaker import Speaker
    from via6.sim.ways import Forwarding

LOOP_BOUND_S: Final = 60.0
"""A loop that is allowed for a moment may not last longer."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that must not be: `kind` is a word, `at` is seconds of the simulated clock."""

    kind: str
    at: float
    text: str

    def __str__(self) -> str:
        return f"{self.at:9.3f} {self.kind}: {self.text}"


class Place(Protocol):
    """What is looked at of a router. `far` says which router a next hop is."""

    name: str
    own: dict[Prefix, int]
    fib: Forwarding
    far: dict[Hop, int]
    speaker: Speaker | None
    transit_v4: bool


@dataclass(slots=True)
class Loops:
    """Loops that were allowed: how many, the widest in routers, and the longest in seconds by cause: several origins,
    forgotten distances, a prefix that covers another."""

    count: int = 0
    widest: int = 0
    longest_s: dict[str, float] = field(default_factory=dict)
    open: dict[Prefix, tuple[float, str]] = field(default_factory=dict)


class Watch:
    """Follows packets. `report` hears of what must not be; `prefixes` is everything that will ever be announced."""

    def __init__(self, places: Sequence[Place], prefixes: list[Prefix], report: Callable[[str, str], None]) -> None:
        self._places = places
        self._report = report
        self._origins: dict[Prefix, list[bytes]] = {p: [] for p in prefixes}
        self._covers = {p: sorted((q for q in prefixes if q.covers(p)), key=lambda q: -q.length) for p in prefixes}
        self._below = {q: [p for p in prefixes if q in self._covers[p]] for q in prefixes}
        self._forgiven: dict[Prefix, float] = {}
        self.loops = Loops()
        self.checked = 0

    def origin(self, prefix: Prefix, router_id: bytes) -> None:
        """This router-id announces it, now or later."""
        found = self._origins[prefix]
        if router_id not in found:
            found.append(router_id)

    def forgive(self, until: float, prefixes: Iterable[Prefix] | None = None) -> None:
        """Somebody has forgotten the feasibility distances of these prefixes, or of all: loops are measured for a time,
        not forbidden. For what has no entry in the source table everything is feasible (RFC 8966 section 3.5.1)."""
        for prefix in self._origins if prefixes is None else prefixes:
            self._forgiven[prefix] = max(self._forgiven.get(prefix, until), until)

    def _lenient(self, prefix: Prefix, now: float) -> bool:
        return now <= self._forgiven.get(prefix, -1.0)

    def touched(self, router: int, prefixes: list[Prefix], now: float) -> None:
        """The table of a router has changed at these prefixes."""
        for prefix in prefixes:
            below = self._below.get(prefix)
            if below is None:
                self._report("invented", f"{self._places[router].name} routes {prefix}, which nobody announces")
                continue
            self.checked += 1
            if not self._known(router, prefix):
                continue
            strict = len(self._origins[prefix]) < 2 and not self._lenient(prefix, now)
            if strict:
                circle = self._circle(router, prefix)
                if circle:
                    self._report("loop", f"{prefix}: {self._tell(circle, prefix)}")
            for destination in below:
                if not strict or len(self._covers[destination]) > 1:
                    self._measure(router, destination, now)

    def _known(self, router: int, prefix: Prefix) -> bool:
        place = self._places[router]
        for hop in place.fib.look(prefix) or ():
            if hop is not None and hop not in place.far:
                self._report("stranger", f"{place.name} routes {prefix} to {hop}, and nobody is there")
                return False
        return True

    def _circle(self, start: int, prefix: Prefix) -> list[int]:
        """A way from `start` back to it along primaries and backups; empty if there is none."""
        came: dict[int, int] = {}
        stack = [start]
        while stack:
            router = stack.pop()
            place = self._places[router]
            way = place.fib.look(prefix)
            if way is None or prefix in place.own:
                continue
            for hop in way:
                if hop is None:
                    continue
                after = place.far[hop]
                if after == start:
                    return self._back(came, start, router)
                if after not in came:
                    came[after] = router
                    stack.append(after)
        return []

    @staticmethod
    def _back(came: dict[int, int], start: int, router: int) -> list[int]:
        path = [router]
        while path[-1] != start:
            path.append(came[path[-1]])
        return path[::-1]

    def walk(self, router: int, destination: Prefix) -> list[int]:
        """The routers that a packet to `destination` comes round to again and again; empty if it ends somewhere."""
        seen = [router]
        while True:
            after = self._step(seen[-1], destination)
            if after is None:
                return []
            if after in seen:
                return seen[seen.index(after) :]
            seen.append(after)

    def _step(self, router: int, destination: Prefix) -> int | None:
        place = self._places[router]
        for prefix in self._covers[destination]:
            if prefix in place.own:
                return None
            way = place.fib.look(prefix)
            if way is not None:
                hop = way.primary or way.backup
                return place.far[hop] if hop is not None else None
        return None

    def _measure(self, router: int, destination: Prefix, now: float) -> None:
        loops = self.loops
        if destination in loops.open:
            if any(self.walk(r, destination) for r in range(len(self._places))):
                return
            since, cause = loops.open.pop(destination)
            lasted = now - since
            loops.longest_s[cause] = max(loops.longest_s.get(cause, 0.0), lasted)
            if lasted > LOOP_BOUND_S:
                self._report("long-loop", f"packets to {destination} went in circles for {lasted:.1f} s ({cause})")
            return
        circle = self.walk(router, destination)
        if circle:
            loops.count += 1
            loops.widest = max(loops.widest, len(circle))
            several = any(len(self._origins[prefix]) > 1 for prefix in self._covers[destination])
            forgotten = any(self._lenient(prefix, now) for prefix in self._covers[destination])
            cause = "forgotten" if forgotten else "origins" if several else "covered"
            loops.open[destination] = now, cause

    def _tell(self, circle: list[int], prefix: Prefix) -> str:
        words = []
        for router, after in zip(circle, [*circle[1:], circle[0]], strict=True):
            place = self._places[router]
            way = place.fib.look(prefix) or Way(None)
            first = way.primary is not None and place.far[way.primary] == after
            words.append(f"{place.name} -{'primary' if first else 'backup'}->")
        return " ".join([*words, self._places[circle[0]].name])


# --- after quiet ------------------------------------------------------------------------------------------------------


def distances(places: Sequence[Place], edges: list[tuple[int, int, int]], prefix: Prefix) -> dict[int, int]:
    """Metric of the best path to a prefix for every router that has one, by networkx. `edges` are (from, to, cost).
    A router without transit for IPv4 announces its own prefixes alone, and who originates a prefix announces nobody
    else's path to it."""
    import networkx

    graph = networkx.DiGraph()
    graph.add_node("origin")
    for router, place in enumerate(places):
        if place.speaker is not None and prefix in place.own:
            graph.add_edge("origin", router, weight=place.own[prefix])
    for sender, receiver, cost in edges:
        place = places[receiver]
        if prefix in places[sender].own:
            continue
        if prefix in place.own or place.transit_v4 or len(prefix.packed) == 16:
            known = graph.get_edge_data(receiver, sender)
            graph.add_edge(receiver, sender, weight=min(cost, known["weight"]) if known else cost)
    found: dict[int | str, int] = networkx.single_source_dijkstra_path_length(graph, "origin", cutoff=INFINITY - 1)
    return {router: metric for router, metric in found.items() if isinstance(router, int)}


def after_quiet(
    places: Sequence[Place], edges: list[tuple[int, int, int]], prefixes: list[Prefix], now: float
) -> list[Finding]:
    """Everything that is not as it should be in a network that had time enough."""
    found: list[Finding] = []
    prices: dict[tuple[int, int], int] = {}
    for sender, receiver, cost in edges:
        prices[sender, receiver] = min(cost, prices.get((sender, receiver), INFINITY))
    for prefix in prefixes:
        best = distances(places, edges, prefix)
        for router, place in enumerate(places):
            if place.speaker is None or prefix in place.own:
                continue
            text = _complaint(places, router, prefix, best, prices)
            if text:
                found.append(Finding("path", now, f"{place.name}: {prefix}: {text}"))
    for place in places:
        found += [Finding("kernel", now, f"{place.name}: {text}") for text in place.fib.wrong()]
        if place.speaker is not None:
            found += [Finding("backup", now, f"{place.name}: {text}") for text in _backups(place.speaker, now)]
    return found


def starving(places: Sequence[Place], edges: list[tuple[int, int, int]], prefixes: list[Prefix]) -> list[str]:
    """Who has no route to what could be reached."""
    found = []
    for prefix in prefixes:
        for router in distances(places, edges, prefix):
            place = places[router]
            way = place.fib.look(prefix)
            if prefix not in place.own and (way is None or way.primary is None):
                found.append(f"{place.name}: {prefix}")
    return found


def _complaint(
    places: Sequence[Place], router: int, prefix: Prefix, best: dict[int, int], prices: dict[tuple[int, int], int]
) -> str:
    place = places[router]
    way = place.fib.look(prefix)
    hop = way.primary if way is not None else None
    if router not in best:
        if way is not None and (way.primary or way.backup):
            return f"cannot be reached, but is routed to {_name(places, place, hop)}"
        return ""
    if hop is None:
        return f"has a path of {best[router]}, but is {'held unreachable' if way else 'not routed'}"
    after = place.far[hop]
    metric = best.get(after, INFINITY) + prices.get((router, after), INFINITY)
    if metric != best[router]:
        return f"goes by {_name(places, place, hop)} with {metric}; the best is {best[router]}"
    return ""


def _name(places: Sequence[Place], place: Place, hop: Hop | None) -> str:
    return "nobody" if hop is None else places[place.far[hop]].name


def _backups(speaker: Speaker, now: float) -> list[str]:
    """Backups that are no feasible successors by the speaker's own tables (RFC 8966 section 3.5.1), and feasible
    successors that are not used as such."""
    limits = {(s.prefix, s.router_id): (s.seqno, s.metric) for s in info.sources(speaker, now)}
    routes: dict[Prefix, list[RouteInfo]] = {}
    for route in info.routes(speaker, now):
        routes.setdefault(route.prefix, []).append(route)
    found = []
    for prefix, known in routes.items():
        states = {route.state: route for route in known}
        selected, backup = states.get("selected"), states.get("backup")
        if backup is not None:
            seqno, metric = limits.get((prefix, backup.router_id), (backup.seqno, INFINITY))
            ahead = (backup.seqno - seqno) & 0xFFFF
            if not (0 < ahead < 0x8000 or (ahead == 0 and backup.advertised < metric)):
                found.append(f"{prefix}: backup has {backup.seqno}/{backup.advertised}, limit {seqno}/{metric}")
        elif selected is not None:
            for other in known:
                same = (other.router_id, other.seqno) == (selected.router_id, selected.seqno)
                if other.state == "feasible" and same and other.advertised < selected.metric:
                    found.append(f"{prefix}: a feasible successor stands idle: {other}")
    return found
