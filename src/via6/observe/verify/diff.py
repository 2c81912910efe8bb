"""Two sets of snapshots: which packets from which nodes changed their fate.

The classes of both networks cut the address space together; where the pair of rows is the same, the comparison is the
same, so each pair of rows is compared once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from via6.observe.node import Node
from via6.observe.verify import words
from via6.observe.verify.fates import Walker
from via6.observe.verify.network import Network
from via6.observe.verify.survey import Survey, merged, number, octets, summary
from via6.observe.verify.trace import Tracer, Trail
from via6.prefix import Prefix, PrefixMap, format_address

_SHOWN: Final = 40
_MOST: Final = 1000


@dataclass(frozen=True, slots=True)
class Change:
    """Packets to `prefix` from `sources`: what they did before and do now, with one way of each."""

    prefix: Prefix
    sources: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    destination: str
    way_before: tuple[str, ...]
    way_after: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """All changes; `gone` and `new` are nodes that only one side has; `paths` counts the classes whose fate is the same
    and whose way is not."""

    changes: tuple[Change, ...]
    gone: tuple[str, ...] = ()
    new: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The keys of `via6 verify diff -j`."""
        return {
            "gone": list(self.gone),
            "new": list(self.new),
            "changes": [
                {
                    "prefix": str(c.prefix), "sources": list(c.sources), "before": list(c.before),
                    "after": list(c.after), "destination": c.destination, "path_before": list(c.way_before),
                    "path_after": list(c.way_after),
                }
                for c in self.changes
            ],
        }  # fmt: skip

    def lines(self) -> Iterator[str]:
        """To read."""
        for name in self.gone:
            yield f"{name}: in the snapshots before, not after"
        for name in self.new:
            yield f"{name}: in the snapshots after, not before"
        for c in self.changes[:_SHOWN]:
            who = ", ".join(c.sources[:5]) + (f" and {len(c.sources) - 5} more" if len(c.sources) > 5 else "")
            yield f"{c.prefix} from {who}: {'|'.join(c.before)}, now {'|'.join(c.after)}"
            yield f"  packet > {c.destination}: {' > '.join(c.way_before)}; now {' > '.join(c.way_after)}"
        if len(self.changes) > _SHOWN:
            yield f"… and {len(self.changes) - _SHOWN} more (-j lists all)"
        count = len(self.changes)
        yield f"{count} changes" if count else "no packet has changed its fate"


def compare(before: Sequence[Node], after: Sequence[Node]) -> Difference:
    """What changed between two sets of snapshots, for the nodes that both have."""
    import numpy as np

    one, other = Network(before), Network(after)
    names = [name for name in one.place if name in other.place]
    cuts = np.union1d(one.classes.starts, other.classes.starts)
    rows = [net.classes.row[net.classes.starts.searchsorted(cuts, side="right") - 1] for net in (one, other)]
    routed = rows[0] >= 0
    key = rows[0].astype(np.int64) << 32 | rows[1]
    pairs, back = np.unique(key[routed], return_inverse=True)
    places = [np.array([net.place[name] for name in names], np.int64) for net in (one, other)]
    ends = np.append(cuts[1:].astype(np.int64), 1 << 32) - 1
    found: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    walkers = Walker(one), Walker(other)
    room = min(walker.room for walker in walkers)
    for begin in range(0, len(pairs) if names else 0, room):
        part = pairs[begin : begin + room]
        now = walkers[0].walk(part >> 32), walkers[1].walk(part & 0xFFFFFFFF)
        bits = [fates.fates[:, place] for fates, place in zip(now, places, strict=True)]
        for at in np.flatnonzero((bits[0] != bits[1]).any(axis=1)):
            fate = tuple(bits[0][at].tolist()), tuple(bits[1][at].tolist())
            found.setdefault(fate, []).append(begin + int(at))
    changes: list[Change] = []
    for (was, is_), which in found.items():
        chosen = np.isin(back, which)
        first, last = merged(cuts[routed][chosen].astype(np.int64), ends[routed][chosen])
        for prefix in summary(first[: _MOST + 1], last[: _MOST + 1], _MOST + 1):
            changes += _told(one, other, names, prefix, was, is_)
    return Difference(
        tuple(
            sorted(_folded(changes, [*Survey(one).known, *Survey(other).known]), key=lambda c: (c.prefix, c.sources))
        ),
        tuple(name for name in one.place if name not in other.place),
        tuple(name for name in other.place if name not in one.place),
    )


def _folded(changes: list[Change], known: list[Prefix]) -> Iterator[Change]:
    """Changes within one known destination as one, if they are the same to its user."""
    wide = PrefixMap({prefix: prefix for prefix in known})
    groups: dict[tuple[Prefix, tuple[str, ...], tuple[str, ...]], list[Change]] = {}
    for change in changes:
        found = wide.lookup(change.prefix.packed)
        home = found[1] if found and found[1].covers(change.prefix) else change.prefix
        groups.setdefault((home, change.sources, change.after), []).append(change)
    for (home, _, _), group in groups.items():
        plain = max(group, key=lambda c: "ACCEPTED" in c.before + c.after)
        before = tuple(sorted({word for change in group for word in change.before}))
        yield replace(plain, prefix=home, before=before) if len(group) > 1 else plain


def _told(
    one: Network, other: Network, names: list[str], prefix: Prefix, was: tuple[int, ...], is_: tuple[int, ...]
) -> Iterator[Change]:
    kinds: dict[tuple[int, int], list[str]] = {}
    for name, old, new in zip(names, was, is_, strict=True):
        if old != new:
            kinds.setdefault((old, new), []).append(name)
    to = octets(number(prefix.packed))
    for (old, new), sources in kinds.items():
        ways = [_way(Tracer(net).trails(to, net.place[sources[0]]), fates) for net, fates in ((one, old), (other, new))]
        yield Change(
            prefix, tuple(sources), tuple(words.names(old)), tuple(words.names(new)), format_address(to), *ways
        )


def _way(trails: list[Trail], fates: int) -> tuple[str, ...]:
    return next((t.nodes for t in trails if fates >> t.code & 1), ())
