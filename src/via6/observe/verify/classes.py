"""The classes of packets of a network.

Two addresses are of one class if every node does the same with both. A node's share in that is a random-looking number
for each of its actions; their sum over all nodes, kept as a running sum over the boundaries of all nodes, is the same
for addresses that every node treats alike. So classes cost what the boundaries cost, not boundaries times nodes. Two
sums are kept: if two classes agreed in one and differed in the other, that is seen and all is done again with other
numbers.

Each distinct treatment is a *row*; a row may have many classes, here and there in the address space.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from via6.observe.verify.table import Lookup
from via6.observe.verify.threads import at_once

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LAST: Final = 0xFFFFFFFF
_FIXED: Final = (1 << 24, 127 << 24, 128 << 24, 224 << 24, 240 << 24, _LAST)
"""Ends of what no router passes on: 0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/4, 255.255.255.255 (net/ipv4/route.c)."""
_ROOM: Final = 1 << 20  # boundaries worked on at once
_PARTS: Final = 16  # into which the sums are sorted


@dataclass(frozen=True, eq=False)
class Classes:
    """`starts` ascending; class i reaches up to the next start and is of row `row[i]`; `example[r]` is the first
    address of row r, and rows are in the order of these. Addresses that no router passes on have row -1. The classes
    of row r are `members[begins[r] : begins[r] + sizes[r]]`, ascending."""

    starts: NDArray[np.uint32]
    row: NDArray[np.int32]
    example: NDArray[np.uint32]
    members: NDArray[np.int32]
    begins: NDArray[np.int64]
    sizes: NDArray[np.int64]

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

    def members_of(self, rows: Any) -> Any:
        """The classes of some distinct rows, ascending."""
        import numpy as np

        size = self.sizes[rows]
        first = np.repeat(self.begins[rows] - (np.cumsum(size) - size), size)
        return np.sort(self.members[first + np.arange(len(first))])

    def ends(self, places: Any) -> Any:
        """The last addresses of some classes."""
        import numpy as np

        out = np.full(len(places), _LAST, np.int64)
        inner = places + 1 < len(self.starts)
        out[inner] = self.starts[places[inner] + 1].astype(np.int64) - 1
        return out


def distinct(values: Any) -> Any:
    """The distinct ones of an array, ascending: several times as fast as numpy.unique."""
    import numpy as np

    ordered = np.sort(values, kind="stable")  # mostly runs in order
    return ordered[np.concatenate((np.ones(min(1, len(ordered)), bool), ordered[1:] != ordered[:-1]))]


def scatter(values: Any) -> Any:
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
    tables = [scatter(ids + np.uint64(salt << 40 | turn << 50)) for turn in (1, 2)]
    extra = np.array(cuts, np.uint32)
    ranges = _ranges([x.starts for x in lookups])
    pieces = list(at_once(lambda one: _piece(lookups, offsets, tables, extra, *one), ranges))
    starts, one, other = (np.concatenate([piece[turn] for piece in pieces]) for turn in range(3))
    del pieces
    routed = ~_never_routed(starts)
    groups = []
    for group in at_once(lambda part: _alike(one, other, routed, part), range(_PARTS)):
        if group is None:
            return None
        groups.append(group)
    return _numbered(starts, groups)


def _never_routed(starts: Any) -> Any:
    top = starts >> 24
    return (top == 0) | (top == 127) | ((top >= 224) & (top < 240)) | (starts == _LAST)


def _alike(one: Any, other: Any, routed: Any, part: int) -> tuple[Any, Any] | None:
    """A part of the routed classes, those of one row side by side and ascending, and how many each row has. None if two
    agree in one sum and differ in the other."""
    import numpy as np

    places = np.flatnonzero(routed & (one % np.uint64(_PARTS) == part)).astype(np.int32)
    keys = one[places]
    order = keys.argsort(kind="stable")
    keys, places = keys[order], places[order]
    differs = keys[1:] != keys[:-1]
    again = other[places]
    if ((again[1:] != again[:-1]) & ~differs).any():
        return None
    begins = np.flatnonzero(np.concatenate((np.ones(min(1, len(keys)), bool), differs)))
    return places, np.diff(begins, append=len(keys))


def _numbered(starts: Any, groups: Sequence[tuple[Any, Any]]) -> Classes:
    """Rows in the order of their first address; -1 for what is never routed."""
    import numpy as np

    members = np.concatenate([places for places, _ in groups])
    sizes = np.concatenate([sizes for _, sizes in groups])
    begins = np.cumsum(sizes) - sizes
    first = members[begins]
    order = first.argsort()
    number = np.empty(len(order), np.int32)
    number[order] = np.arange(len(order), dtype=np.int32)
    row = np.full(len(starts), -1, np.int32)
    row[members] = np.repeat(number, sizes)
    return Classes(starts, row, starts[first[order]], members, begins[order], sizes[order])


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
    # Packed with its index a boundary is sorted as a plain number, which is several times as fast as argsort; and those
    # of each node are in order already, so that they need only be merged.
    packed = (place << shift) | np.arange(len(place), dtype=np.uint64)
    packed.sort(kind="stable")
    order = (packed & ((np.uint64(1) << shift) - np.uint64(1))).astype(np.int64)
    sorted_place = (packed >> shift).astype(np.uint32)
    last = np.ones(len(place), bool)
    last[:-1] = sorted_place[1:] != sorted_place[:-1]
    sums = []
    for turn in range(len(tables)):
        run = np.cumsum(np.concatenate(steps[turn])[order], dtype=np.uint64)[last] + base[turn]
        sums.append(np.concatenate((base[turn], run)))
    return np.concatenate((np.array([low], np.uint32), sorted_place[last])), sums[0], sums[1]
