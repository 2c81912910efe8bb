"""Nodes as one machine: the classes of packets, and where each node sends them.

Two addresses are of one class if every node does the same with both. A node's share in that is a random-looking number
for each of its actions; their sum over all nodes, kept as a running sum over the boundaries of all nodes, is the same
for addresses of one class. So classes cost what the boundaries cost, not boundaries times nodes. Two sums are kept: if
two classes agreed in one and differed in the other, that is seen and all is done again with other numbers.

Each distinct class is a *row*: for every node the number of its action. `Network.gids` gives rows as arrays; what an
action means, its edges, stands in tables beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar

from via6.observe.node import Node
from via6.observe.verify import words
from via6.observe.verify.links import Edge, Port, Segments
from via6.observe.verify.table import (
    BROADCAST,
    FORWARD,
    LOCAL,
    NO_TUNNEL,
    NONE,
    NULL,
    Action,
    Lookup,
    Shapes,
    Way,
    lookup,
)
from via6.observe.verify.wall import Wall
from via6.prefix import AF_INET, Address, Prefix, mask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")
R = TypeVar("R")

_THREADS: Final = 2
_STOPS: Final = {
    NONE: words.NO_ROUTE, LOCAL: words.ACCEPTED, BROADCAST: words.DELIVERED_TO_SUBNET, NULL: words.NULL_ROUTED,
    FORWARD: 0,
}  # fmt: skip
_LAST: Final = 0xFFFFFFFF
_FIXED: Final = (1 << 24, 127 << 24, 128 << 24, 224 << 24, 240 << 24, _LAST)
"""Ends of what no router passes on: 0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/4, 255.255.255.255 (net/ipv4/route.c)."""
_ROOM: Final = 1 << 20  # boundaries worked on at once
CONNECTED: Final = -2  # a target that depends on who has the address


@dataclass(frozen=True, eq=False)
class Classes:
    """`starts` ascending; class i reaches up to the next start and is of row `row[i]`; `example[r]` is an address of
    row r. Addresses that no router passes on have row -1."""

    starts: NDArray[np.uint32]
    row: NDArray[np.int32]
    example: NDArray[np.uint32]

    def rows(self, first: int, last: int) -> Any:
        """The rows that occur from one address to another, both included."""
        import numpy as np

        low, high = self.span(first, last)
        found = np.unique(self.row[low:high])
        return found[found >= 0]

    def row_of(self, address: int) -> int:
        """The row of one address, -1 for one that is never routed."""
        return int(self.row[self.span(address, address)[0]])

    def span(self, first: int, last: int) -> tuple[int, int]:
        """The places of the classes from one address to another: first, and behind the last."""
        import numpy as np

        # As numbers of the array's own type: else numpy converts the whole array, every time.
        ends = np.array([first, last], self.starts.dtype)
        low, high = self.starts.searchsorted(ends, side="right").tolist()
        return low - 1, high


def at_once(work: Callable[[T], R], things: Iterable[T]) -> Iterator[R]:
    """work(thing) of all things in their order, several at once: numpy lets other threads run while it counts."""
    from concurrent.futures import ThreadPoolExecutor

    todo = list(things)
    if len(todo) < 2:
        yield from map(work, todo)
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        ahead = [pool.submit(work, thing) for thing in todo[:_THREADS]]
        for thing in todo[_THREADS:]:  # no more results wait than there are threads
            yield ahead.pop(0).result()
            ahead.append(pool.submit(work, thing))
        for one in ahead:
            yield one.result()


def _scatter(values: Any) -> Any:
    """splitmix64: numbers without any order from numbers in order."""
    import numpy as np

    z = values.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def classes_of(lookups: Sequence[Lookup], cuts: Iterable[int] = ()) -> Classes:
    """The classes of all nodes; `cuts` are boundaries wanted besides."""
    for salt in range(1, 5):
        found = _classes(lookups, sorted({*_FIXED, *(c for c in cuts if 0 < c <= _LAST)}), salt)
        if found is not None:
            return found
    raise ArithmeticError("four sums of 128 bits agreed where they should not")


def _classes(lookups: Sequence[Lookup], cuts: Sequence[int], salt: int) -> Classes | None:
    import numpy as np

    offsets = np.cumsum([0, *(len(one.actions) for one in lookups)])
    ids = np.arange(int(offsets[-1]), dtype=np.uint64)
    tables = [_scatter(ids + np.uint64(salt << 40 | turn << 50)) for turn in (1, 2)]
    extra = np.array(cuts, np.uint32)
    ranges = _ranges([x.starts for x in lookups])
    pieces = list(at_once(lambda one: _piece(lookups, offsets, tables, extra, *one), ranges))
    starts = np.concatenate([piece[0] for piece in pieces])
    one = np.concatenate([piece[1] for piece in pieces])
    other = np.concatenate([piece[2] for piece in pieces])
    del pieces
    order = np.argsort(one, kind="stable")
    first = np.ones(len(one), bool)
    sorted_one = one[order]
    first[1:] = sorted_one[1:] != sorted_one[:-1]
    row = np.empty(len(one), np.int32)
    row[order] = np.cumsum(first, dtype=np.int32) - 1
    del sorted_one
    example = order[first]
    if not np.array_equal(other, other[example][row]):
        return None
    never = _never_routed(starts)
    return _numbered(starts, row, never)


def _never_routed(starts: Any) -> Any:
    top = starts >> 24
    return (top == 0) | (top == 127) | ((top >= 224) & (top < 240)) | (starts == _LAST)


def _numbered(starts: Any, row: Any, never: Any) -> Classes:
    """Rows in the order of their first routed address; -1 for what is never routed."""
    import numpy as np

    row = np.where(never, np.int32(-1), row)
    routed = np.flatnonzero(~never)
    count = int(row.max()) + 1
    first = np.full(count, len(row), np.int64)
    np.minimum.at(first, row[routed], routed)
    used = np.flatnonzero(first < len(row))
    used = used[np.argsort(first[used], kind="stable")]
    number = np.full(count + 1, -1, np.int32)  # the last one for -1
    number[used] = np.arange(len(used), dtype=np.int32)
    return Classes(starts, number[row], starts[first[used]])


def _ranges(starts: Sequence[Any]) -> list[tuple[int, int]]:
    """Pieces of the address space with not too many boundaries each: (first, end)."""
    import numpy as np

    counts = np.zeros(1 << 16, np.int64)
    for one in starts:
        counts += np.bincount(one >> 16, minlength=1 << 16)
    total = np.cumsum(counts)
    ends = []
    done = 0
    for at in range(1, int(total[-1]) // _ROOM + 1):
        end = int(total.searchsorted(at * _ROOM)) + 1
        if done < end < 1 << 16:
            ends.append(end << 16)
            done = end
    return list(zip([0, *ends], [*ends, 1 << 32], strict=True))


def _piece(lookups: Sequence[Lookup], offsets: Any, tables: Any, extra: Any, low: int, high: int) -> tuple[Any, ...]:
    """(starts, one sum, the other sum) of the classes of a piece of the address space."""
    import numpy as np

    base = [np.zeros(1, np.uint64), np.zeros(1, np.uint64)]
    places: list[Any] = [extra[(extra > low) & (extra < high)]]
    steps: list[list[Any]] = [[np.zeros(len(places[0]), np.uint64)] for _ in tables]
    for node, one in enumerate(lookups):
        begin, end = one.starts.searchsorted(np.array([low, high - 1], np.uint32), side="right").tolist()
        begin -= 1
        gids = one.numbers[begin:end].astype(np.int64) + int(offsets[node])
        places.append(one.starts[begin + 1 : end])
        for turn, table in enumerate(tables):
            held = table[gids]
            base[turn] += held[0]
            steps[turn].append(held[1:] - held[:-1])
    place = np.concatenate(places).astype(np.uint64)
    shift = np.uint64(max(1, len(place).bit_length()))
    # Packed with its index a boundary is sorted as a plain number, which is several times as fast as argsort.
    packed = (place << shift) | np.arange(len(place), dtype=np.uint64)
    packed.sort()
    order = (packed & ((np.uint64(1) << shift) - np.uint64(1))).astype(np.int64)
    sorted_place = (packed >> shift).astype(np.uint32)
    last = np.ones(len(place), bool)
    last[:-1] = sorted_place[1:] != sorted_place[:-1]
    sums = []
    for turn in range(len(tables)):
        run = np.cumsum(np.concatenate(steps[turn])[order], dtype=np.uint64)[last] + base[turn]
        sums.append(np.concatenate((base[turn], run)))
    return np.concatenate((np.array([low], np.uint32), sorted_place[last])), sums[0], sums[1]


def _named(nodes: Iterable[Node]) -> Iterator[int]:
    """Ends of the networks of interfaces and of what Babel announces, whether there is a route or not."""
    for node in nodes:
        prefixes = [Prefix(mask(a.address, a.length), a.length) for a in node.kernel.addresses]
        prefixes += [prefix for prefix, _ in node.babel.exports] if node.babel is not None else []
        for prefix in prefixes:
            if prefix.family == AF_INET:
                first = int.from_bytes(prefix.packed, "big")
                yield from (first, first + (1 << (32 - prefix.length)))


class Network:
    """All nodes of a set of snapshots, their lookups and links. Immutable once made."""

    def __init__(self, nodes: Sequence[Node], cuts: Iterable[int] = ()) -> None:
        self.nodes = tuple(nodes)
        self.place = {node.name: at for at, node in enumerate(self.nodes)}
        self.links = Segments(self.nodes)
        shapes = Shapes()
        self.walls = {
            at: Wall.of(node.firewall, node.kernel.links)
            for at, node in enumerate(self.nodes)
            if node.firewall is not None and node.firewall.filter
        }
        self.lookups = list(at_once(lambda at: self._lookup(at, shapes), range(len(self.nodes))))
        self.classes = classes_of(self.lookups, {*cuts, *_named(self.nodes)})
        self.offsets = [0]
        for one in self.lookups:
            self.offsets.append(self.offsets[-1] + len(one.actions))
        self._edges: dict[tuple[int, Way], tuple[Edge, ...]] = {}

    def _lookup(self, at: int, shapes: Shapes) -> Lookup:
        wall = self.walls.get(at)
        cuts = (wall.parts.starts, wall.parts.part) if wall is not None else None
        return lookup(self.nodes[at], shapes, self.links.notable(at), cuts)

    def wall(self, port: Port, action: Action, source: Address | None = None) -> tuple[int, str]:
        """(code, why) if the packet filter of a node does not pass what comes in by an interface, for an action; for
        nodes in `walls`. (0, "") if it does, and for what is not sent on."""
        wall = self.walls.get(port[0])
        return wall.judge(action, port[1], source) if wall is not None and action.ways else (0, "")

    @cached_property
    def actions(self) -> list[Action]:
        """All actions of all nodes by their number in the network."""
        return [action for one in self.lookups for action in one.actions]

    @cached_property
    def node_of(self) -> list[int]:
        """Per action the place of its node."""
        return [at for at, one in enumerate(self.lookups) for _ in one.actions]

    def gids(self, rows: Any) -> Any:
        """[row, node] -> number of the action in the network."""
        import numpy as np

        examples = self.classes.example[rows]
        if not len(examples):
            return np.empty((0, len(self.nodes)), np.int32)
        order = np.argsort(examples, kind="stable")
        sorted_examples = examples[order]
        out = np.empty((len(examples), len(self.nodes)), np.int32)
        for at, one in enumerate(self.lookups):
            out[order, at] = one.at_rising(sorted_examples) + np.int32(self.offsets[at])
        return out

    def edges(self, node: int, way: Way) -> tuple[Edge, ...]:
        """Where a way leads: one edge; for a connected way one per interface that may have the destination, also where
        nothing comes in any more (`code` and `node`), or one without a node if nothing can leave."""
        key = node, way
        if key not in self._edges:
            self._edges[key] = self._resolve(node, way)
        return self._edges[key]

    def _resolve(self, node: int, way: Way) -> tuple[Edge, ...]:
        port = node, way.ifindex
        if way.peer != NO_TUNNEL:
            return (self.links.peer_edge(port, way.peer),)
        if way.via is not None:
            return (self.links.resolve(port, way.via),)
        refused = self.links.leaves(port, None)
        if refused is not None:
            return (refused,)
        if way.entry is not None:
            told = self.links.by_entry(port, way.entry)
            if told is not None:
                return (told,)
        ends = ((one, self.links.hears(port, one)) for one in self.links.attached(port))
        return tuple(replace(edge, node=one[0], ifindex=one[1]) for one, edge in ends)

    @staticmethod
    def connected(way: Way) -> bool:
        """The destination itself is looked for on the link."""
        return way.via is None and way.peer == NO_TUNNEL

    def on_link(self, node: int, way: Way) -> bool:
        """The destination is looked for on the link, and can be."""
        edges = self.edges(node, way) if self.connected(way) else ()
        return self.connected(way) and not (edges and edges[0].node < 0)

    def stop(self, action: Action) -> int:
        """The fate that an action is by itself; 0 for one that sends on."""
        return _STOPS.get(action.kind, words.UNKNOWN)

    @cached_property
    def ports(self) -> dict[Port, int]:
        """A number for each interface of each node; 0 for none."""
        ports = [(at, link.ifindex) for at, node in enumerate(self.nodes) for link in node.kernel.links]
        return {port: number for number, port in enumerate(ports, 1)}
