"""Which route wins: every source's candidates for every slot, the best of them first.

A slot is what the kernel tells routes apart by: table, metric (the kernel's priority) and prefix. Two static routes
that differ in the metric are two slots and do not compete: the kernel itself falls from one to the other. Within a
slot each source has at most one candidate, and the smaller preference wins, then the smaller protocol metric, then
the name of the source, so that the answer never depends on the order of arrival.

A million routes are cheap because they are alike. Slots of one table, metric, family and length form a cell, a dict
from the destination's octets (exactly those the kernel message needs) to a tuple of candidates; equal tuples are one
object, so a route costs one dict entry. Whatever is done to many destinations is done by the dict in C: the groups
that share an old value are found first (`by_value`), then each group is moved in one call.

Next hops stand behind one more reference, the Path, which all routes of one *unit* share: the routes that always
move together, for a static source all routes declared with the same `via`, for a routing protocol those of one
neighbour. When the unit's next hop changes, one assignment moves all of them (`Rib.move`), and the Fib replaces one
nexthop object. Paths are never shared between sources or units: else the move of one would drag the other along.

`drain` hands out what changed since the last time, as blocks with the winner. It says nothing about what the kernel
holds; that is the Fib's half of the work.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final, NamedTuple, TypeVar

from via6.model import BLANK, NH_ONLINK, TABLE_MAIN, NextHop, Route, RouteBlock
from via6.prefix import AF_INET6, Address, Prefix, mask

IPV6_METRIC: Final = 1024
"""IP6_RT_PRIO_USER, net/ipv6_route.h: what the kernel makes of an IPv6 route's metric 0."""

_PRUNE_FLOOR: Final = 4096  # interned values below which nobody looks for dead ones

K = TypeVar("K")
V = TypeVar("V")


class Cell(NamedTuple):
    """Names the slots that share everything but the destination. `size` is 4 or 16 octets."""

    table: int
    metric: int
    size: int
    length: int


def by_value(keys: list[K], values: Iterable[V]) -> list[tuple[V, list[K]]]:
    """Keys grouped by their value, in order of first appearance. If all are alike, at the speed of `list.count`."""
    found = list(values)
    if not found:
        return []
    first = found[0]
    if found.count(first) == len(found):
        return [(first, keys)]
    groups: defaultdict[V, list[K]] = defaultdict(list)
    for key, value in zip(keys, found, strict=True):
        groups[value].append(key)
    return list(groups.items())


def remove_keys(slots: dict[K, V], keys: Sequence[K]) -> None:
    """Deletes keys that are all there."""
    if len(keys) == len(slots):
        slots.clear()
    else:
        deque(map(slots.__delitem__, keys), maxlen=0)


def canonical(next_hops: Iterable[NextHop]) -> tuple[NextHop, ...]:
    """Sorted, equal ones merged by adding their weights, a lone one of weight 1, no flags but `onlink`: equal for
    all spellings of the same way. The kernel's bound of 256 is kept by scaling."""
    weights: dict[tuple[Address, int, int], int] = {}
    for hop in next_hops:
        key = (hop.via or b"", hop.ifindex, hop.flags & NH_ONLINK)
        weights[key] = weights.get(key, 0) + hop.weight
    most = max(weights.values(), default=1)
    if len(weights) == 1:
        weights = dict.fromkeys(weights, 1)
    elif most > 256:
        weights = {key: max(1, weight * 256 // most) for key, weight in weights.items()}
    return tuple(
        NextHop(via or None, ifindex, weights[via, ifindex, flags], flags) for via, ifindex, flags in sorted(weights)
    )


def bare(route: Route) -> Route:
    """What remains of a route without destination and way, as the kernel would show it."""
    v6 = route.family == AF_INET6
    return replace(
        route,
        prefix=Prefix(BLANK[route.family], route.prefix.length),
        next_hops=(), nhid=0, flags=0, pref=0, expires=0,
        scope=0 if v6 else route.scope,
        metric=route.metric or (IPV6_METRIC if v6 else 0),
    )  # fmt: skip


def cell_of(template: Route) -> Cell:
    """The cell that routes of this template live in."""
    metric = template.metric or (IPV6_METRIC if template.family == AF_INET6 else 0)
    return Cell(template.table, metric, len(template.prefix.packed), template.prefix.length)


class Path:
    """The next hops of one unit of one source, for destinations of one family. Shared by all its routes and the only
    thing here that changes in place."""

    __slots__ = ("family", "next_hops", "source", "unit")

    def __init__(self, source: str, unit: Hashable, family: int, next_hops: tuple[NextHop, ...]) -> None:
        self.source = source
        self.unit = unit
        self.family = family
        self.next_hops = next_hops


class Entry:
    """What a slot should hold: a template without next hops, and the path. Equal ones are one object in a Rib."""

    __slots__ = ("path", "template")

    def __init__(self, template: Route, path: Path) -> None:
        self.template = template
        self.path = path

    @property
    def route(self) -> Route:
        """The template with the next hops of now."""
        return replace(self.template, next_hops=self.path.next_hops)


class Candidate:
    """One source's bid for slots. The smaller `preference` wins, then the smaller `metric`."""

    __slots__ = ("entry", "metric", "preference", "source")

    def __init__(self, source: str, preference: int, metric: int, entry: Entry) -> None:
        self.source = source
        self.preference = preference
        self.metric = metric
        self.entry = entry

    @property
    def rank(self) -> tuple[int, int, str]:
        """The best has the smallest."""
        return self.preference, self.metric, self.source


@dataclass(frozen=True, slots=True)
class Update:
    """A source's bid for all destinations of a block. `unit` names the routes that move together; without one the
    next hops themselves do."""

    preference: int
    metric: int
    block: RouteBlock
    unit: Hashable = None


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A source no longer bids for these; of the template only table, metric and prefix length count."""

    block: RouteBlock


@dataclass(frozen=True, slots=True)
class Move:
    """All routes of a unit have new next hops."""

    unit: Hashable
    next_hops: tuple[NextHop, ...]


RouteUpdate = Update | Withdrawal | Move


@dataclass(frozen=True, slots=True)
class Decision:
    """Slots of one cell and what they should hold now; None: nobody wants them any more."""

    cell: Cell
    entry: Entry | None
    destinations: list[Address]


@dataclass(frozen=True, slots=True)
class Drained:
    """What changed since the last time. `complete`: every source has said everything, so deletion may begin."""

    decisions: list[Decision]
    moved: list[Path]
    complete: bool


@dataclass(frozen=True, slots=True)
class Reason:
    """One candidate of a slot and, in a sentence, why it is where it is."""

    source: str
    preference: int
    metric: int
    route: Route
    best: bool
    sentence: str


class Rib:
    """Candidates of all sources. `sources` are those that must say `complete` before anything is deleted."""

    def __init__(self, sources: Iterable[str] = ()) -> None:
        self._cells: dict[Cell, dict[Address, tuple[Candidate, ...]]] = {}
        self._paths: dict[tuple[str, Hashable, int], Path] = {}
        self._entries: dict[tuple[Route, Path], Entry] = {}
        self._candidates: dict[tuple[str, int, int, Entry], Candidate] = {}
        self._tuples: dict[tuple[Candidate, ...], tuple[Candidate, ...]] = {}
        # For each cell one list per merge since the last drain; the groups of one merge have no slot in common.
        self._dirty: defaultdict[Cell, list[list[tuple[Entry | None, list[Address]]]]] = defaultdict(list)
        self._moved: dict[Path, None] = {}
        self.sources = tuple(sources)
        self._incomplete = set(self.sources)
        self._prune_at = _PRUNE_FLOOR

    def __len__(self) -> int:
        """Number of slots that have a candidate."""
        return sum(map(len, self._cells.values()))

    # --- what sources say ------------------------------------------------------------------------------------------

    def update(self, source: str, preference: int, metric: int, block: RouteBlock, unit: Hashable = None) -> None:
        """`source` bids for all destinations of the block, instead of what it bid before.

        A unit that comes with other next hops than before has moved, with all its routes.
        """
        self._merge(
            cell_of(block.template),
            source,
            self._candidate(source, preference, metric, block.template, unit),
            block.destinations,
        )

    def withdraw(self, source: str, block: RouteBlock) -> None:
        """`source` no longer bids; of the template only table, metric and prefix length count."""
        self._merge(cell_of(block.template), source, None, block.destinations)

    def move(self, source: str, unit: Hashable, next_hops: Iterable[NextHop]) -> bool:
        """All routes of `source` in the unit get these next hops, in time that does not depend on their number.
        Routes given without a unit have their canonical next hops for a unit. False: there is no such unit."""
        hops = canonical(next_hops)
        found = False
        for family in BLANK:
            path = self._paths.get((source, unit, family))
            if path is not None:
                found = True
                self._turn(path, hops)
        return found

    def feed(self, source: str, updates: Iterable[RouteUpdate]) -> None:
        """Takes a source's messages in order."""
        for message in updates:
            if isinstance(message, Update):
                self.update(source, message.preference, message.metric, message.block, message.unit)
            elif isinstance(message, Withdrawal):
                self.withdraw(source, message.block)
            else:
                self.move(source, message.unit, message.next_hops)

    def replace_all(self, source: str, updates: Iterable[Update]) -> None:
        """These are all bids of `source`: whatever is not repeated is withdrawn."""
        kept: defaultdict[Cell, set[Address]] = defaultdict(set)
        for message in updates:
            kept[cell_of(message.block.template)].update(message.block.destinations)
            self.update(source, message.preference, message.metric, message.block, message.unit)
        for cell, slots in self._cells.items():
            owned = {t for t in set(slots.values()) if any(c.source == source for c in t)}
            if owned:
                keep = kept[cell]
                self._merge(cell, source, None, [k for k, t in slots.items() if t in owned and k not in keep])

    def expect(self, source: str) -> None:
        """Nothing may be deleted from now on before `source` has said complete."""
        self._incomplete.add(source)

    def complete(self, source: str) -> None:
        """`source` has said everything it knows."""
        self._incomplete.discard(source)

    @property
    def all_complete(self) -> bool:
        return not self._incomplete

    # --- what the Fib hears ----------------------------------------------------------------------------------------

    def drain(self) -> Drained:
        """What changed since the last call; a slot stands in it once, with its winner of now."""
        decisions = []
        for cell, merges in self._dirty.items():
            groups = merges[0] if len(merges) == 1 else self._winners_of(cell, merges)
            joined: dict[Entry | None, list[Address]] = {}
            for entry, members in groups:
                joined[entry] = joined[entry] + members if entry in joined else members
            decisions += [Decision(cell, entry, members) for entry, members in joined.items()]
        self._dirty.clear()
        moved = list(self._moved)
        self._moved.clear()
        self._prune()
        return Drained(decisions, moved, self.all_complete)

    # --- what readers ask ------------------------------------------------------------------------------------------

    def why(self, prefix: Prefix, table: int = TABLE_MAIN, metric: int = 0) -> list[Reason]:
        """All candidates of a slot, the best first, each with the reason for its place."""
        bids = self._bids(prefix, table, metric)
        reasons = []
        for bid in bids:
            route = bid.entry.route.at(prefix.packed)
            sentence = _sentence(bid, bids)
            reasons.append(Reason(bid.source, bid.preference, bid.metric, route, bid is bids[0], sentence))
        return reasons

    def lookup(self, address: Address, table: int = TABLE_MAIN) -> Route | None:
        """Longest match among the winners, the lowest kernel metric first among equals."""
        size = len(address)
        cells = [c for c in self._cells if c.table == table and c.size == size]
        for cell in sorted(cells, key=lambda c: (-c.length, c.metric)):
            packed = mask(address, cell.length)
            bids = self._cells[cell].get(packed)
            if bids:
                return bids[0].entry.route.at(packed)
        return None

    def winners(self) -> Iterator[RouteBlock]:
        """The best of every slot, as blocks."""
        for slots in self._cells.values():
            keys = list(slots)
            for bids, members in by_value(keys, slots.values()):
                yield RouteBlock(bids[0].entry.route, members)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _winners_of(
        self, cell: Cell, merges: list[list[tuple[Entry | None, list[Address]]]]
    ) -> list[tuple[Entry | None, list[Address]]]:
        """The slots of all merges, once each, with the winner of now."""
        keys = list(dict.fromkeys(chain.from_iterable(members for groups in merges for _, members in groups)))
        groups = by_value(keys, map(self._cells[cell].get, keys))
        return [(bids[0].entry if bids else None, members) for bids, members in groups]

    def _bids(self, prefix: Prefix, table: int, metric: int) -> tuple[Candidate, ...]:
        if prefix.family == AF_INET6:
            metric = metric or IPV6_METRIC
        cell = Cell(table, metric, len(prefix.packed), prefix.length)
        return self._cells.get(cell, {}).get(prefix.packed, ())

    def _candidate(self, source: str, preference: int, metric: int, template: Route, unit: Hashable) -> Candidate:
        hops = canonical(template.next_hops)
        key = (source, hops if unit is None else unit, template.family)
        path = self._paths.get(key)
        if path is None:
            path = self._paths[key] = Path(*key, hops)
        elif path.next_hops != hops:
            self._turn(path, hops)
        stem = bare(template)
        entry = self._entries.get((stem, path))
        if entry is None:
            entry = self._entries[stem, path] = Entry(stem, path)
        found = self._candidates.get((source, preference, metric, entry))
        if found is None:
            found = Candidate(source, preference, metric, entry)
            self._candidates[source, preference, metric, entry] = found
        return found

    def _turn(self, path: Path, hops: tuple[NextHop, ...]) -> None:
        if path.next_hops == hops:
            return
        if path.unit == path.next_hops:
            # Known by its next hops: it must be found under the new ones. Another path may have that name already;
            # then both live on, and nothing but a second nexthop object is lost.
            del self._paths[path.source, path.unit, path.family]
            path.unit = hops
            self._paths.setdefault((path.source, hops, path.family), path)
        path.next_hops = hops
        self._moved[path] = None

    def _merge(self, cell: Cell, source: str, bid: Candidate | None, destinations: Sequence[Address]) -> None:
        """Puts `bid` in the place of what `source` bid before (None: withdraws it)."""
        if not destinations:
            return
        slots = self._cells.get(cell)
        if not slots:
            if bid is not None:
                fresh = dict.fromkeys(destinations, self._interned((bid,)))
                self._cells[cell] = fresh
                members = list(destinations if len(fresh) == len(destinations) else fresh)
                self._dirty[cell].append([(bid.entry, members)])
            return
        keys = list(dict.fromkeys(destinations))
        changed: list[tuple[Entry | None, list[Address]]] = []
        for old, members in by_value(keys, map(slots.get, keys)):
            others = [c for c in old or () if c.source != source]
            new = tuple(sorted([*others, bid] if bid else others, key=lambda c: c.rank))
            if new == (old or ()):
                continue
            if new:
                slots.update(dict.fromkeys(members, self._interned(new)))
            else:
                remove_keys(slots, members)
            if not (old and new and old[0].entry is new[0].entry):
                changed.append((new[0].entry if new else None, members))
        if changed:
            self._dirty[cell].append(changed)

    def _interned(self, bids: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
        return self._tuples.setdefault(bids, bids)

    def _prune(self) -> None:
        """Forgets what no slot refers to any more, so that ever-changing metrics do not fill the memory."""
        if len(self._tuples) + len(self._candidates) + len(self._paths) < self._prune_at:
            return
        live = {bids for slots in self._cells.values() for bids in set(slots.values())}
        self._tuples = {bids: bids for bids in self._tuples if bids in live}
        candidates = {c for bids in live for c in bids}
        self._candidates = {k: c for k, c in self._candidates.items() if c in candidates}
        entries = {c.entry for c in candidates}
        self._entries = {k: e for k, e in self._entries.items() if e in entries}
        paths = {e.path for e in entries}
        self._paths = {k: p for k, p in self._paths.items() if p in paths}
        self._prune_at = max(_PRUNE_FLOOR, 2 * (len(self._tuples) + len(self._candidates) + len(self._paths)))


def _sentence(bid: Candidate, bids: tuple[Candidate, ...]) -> str:
    best = bids[0]
    if bid is not best:
        return _comparison(bid, best, "larger than", "after")
    if len(bids) == 1:
        return "best: no other source has a route for this prefix, table and metric"
    return "best: " + _comparison(bid, bids[1], "smaller than", "before")


def _comparison(bid: Candidate, other: Candidate, word: str, place: str) -> str:
    if bid.preference != other.preference:
        return f"preference {bid.preference} is {word} {other.preference} of {other.source}"
    if bid.metric != other.metric:
        return f"same preference as {other.source}, and metric {bid.metric} is {word} its {other.metric}"
    return f"same preference and metric as {other.source}; by name {bid.source} comes {place} it"
