"""Every IPv4 lookup of one node at once: the address space cut into intervals, each with what the node does there.

A lookup is a function from 2^32 addresses to few actions, constant between the boundaries of the node's prefixes. It
is kept as two arrays, `starts` (ascending, the first is 0) and `actions`. It is painted as a wall is: prefixes of each
length over those of the shorter ones, so that the longest wins. Within one prefix the kernel takes the smallest
metric whose next hops live; if none does, the shorter prefix (net/ipv4/fib_trie.c: fib_table_lookup). So what cannot
be used is left out before painting.

Rules: with the three that every namespace begins with, Linux holds `local` and `main` as one trie (fib_unmerge). Other
rules are met in their order. One that looks at more than the destination may match a packet or not: where its table
would say something, the answer is `unknown`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from via6.model import NH_DEAD, NH_LINKDOWN, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN, Route, RouteBlock, Rule
from via6.observe.allowedips import Peer
from via6.observe.node import OPENBSD, Node
from via6.observe.show import RTM_F_CLONED, resolved
from via6.prefix import AF_INET, Address, Prefix

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Starts = NDArray[np.uint32]
    Numbers = NDArray[np.int32]
    Cuts = tuple[Starts, Numbers]

NONE: Final = "none"  # no route matches
LOCAL: Final = "local"
BROADCAST: Final = "broadcast"
NULL: Final = "null"  # blackhole, unreachable, prohibit
FORWARD: Final = "forward"
UNKNOWN: Final = "unknown"

REROUTED: Final = "rerouted"
"""The type of a route of which nobody can say what comes in its place (`failure`)."""

NO_TUNNEL: Final = -2
NO_PEER: Final = -1

_DISCARDS: Final = frozenset({"blackhole", "unreachable", "prohibit"})
_USUAL: Final = ((0, TABLE_LOCAL), (32766, TABLE_MAIN), (32767, TABLE_DEFAULT))
_LAST: Final = 0xFFFFFFFF
_FEW: Final = 64
_THROUGH: Final = -1  # this table says nothing: on to the next rule


@dataclass(frozen=True, slots=True)
class Way:
    """One of the next hops that a packet may take; `via` None: the destination itself is looked for on the link.
    `peer` is the WireGuard peer whose AllowedIPs have the destination: its place, NO_PEER, or NO_TUNNEL. `entry` is the
    destination, where the neighbour table has more to say of it than that it is there."""

    via: Address | None
    ifindex: int
    peer: int = NO_TUNNEL
    entry: Address | None = None


@dataclass(frozen=True, slots=True)
class Action:
    """What a node does with a packet. `ways` are the next hops that live, `devices` those of the route's dead ones as
    well (the reverse path filter counts them), `default` says that it is a default route's, `why` says more: the type
    of route that discards, or what is unknown. `wall` is the part of the addresses that a packet filter treats alike
    (`wall.Parts`)."""

    kind: str
    ways: tuple[Way, ...] = ()
    devices: frozenset[int] = frozenset()
    why: str = ""
    default: bool = False
    wall: int = 0


NO_ROUTE: Final = Action(NONE)


@dataclass(frozen=True, eq=False)
class Lookup:
    """The answer of a node for every address: `numbers[i]` is an index into `actions`, and holds from `starts[i]` up to
    the next start."""

    starts: Starts
    numbers: Numbers
    actions: tuple[Action, ...]

    def at(self, addresses: Any) -> Any:
        """The numbers of the actions for an array of addresses."""
        return self.numbers[self.starts.searchsorted(addresses, side="right") - 1]

    def at_rising(self, addresses: Any) -> Any:
        """As `at`, of addresses in their order. Only the part of the arrays between the first and the last of them is
        looked at, and the fewer are looked for among the more."""
        import numpy as np

        if len(addresses) < _FEW:
            return self.at(addresses)
        low, high = self.starts.searchsorted(addresses[[0, -1]], side="right").tolist()
        starts, numbers = self.starts[low:high], self.numbers[low - 1 : high]
        if len(starts) >= len(addresses):
            return numbers[starts.searchsorted(addresses, side="right")]
        ends = addresses.searchsorted(starts)
        return np.repeat(numbers, np.diff(ends, prepend=0, append=len(addresses)))

    def action(self, address: Address) -> Action:
        """What is done with one address."""
        import numpy as np

        return self.actions[int(self.at(np.array([int.from_bytes(address, "big")], np.uint32))[0])]


@dataclass
class Shapes:
    """Painted sets of prefixes: nodes that hold the same prefixes share the work. At most `most` are kept."""

    most: int = 8
    _kept: dict[bytes, tuple[Starts, Numbers]] = field(default_factory=dict)

    def paint(self, keys: Any) -> tuple[Starts, Numbers]:
        """As `paint`, of sorted keys START << 6 | LENGTH."""
        from hashlib import blake2b

        name = blake2b(keys.tobytes(), digest_size=16).digest()
        found = self._kept.get(name)
        if found is None:
            found = paint(keys)
            while len(self._kept) >= self.most:
                self._kept.pop(next(iter(self._kept)), None)
            self._kept[name] = found
        return found


def paint(keys: Any) -> tuple[Starts, Numbers]:
    """(starts, index of the longest key there or -1) of distinct sorted keys START << 6 | LENGTH."""
    import numpy as np

    begin = (keys >> np.uint64(6)).astype(np.int64)
    length = (keys & np.uint64(63)).astype(np.int64)
    end = begin + (np.int64(1) << (32 - length))
    cuts = np.concatenate((np.zeros(1, np.int64), begin, end))
    cuts.sort(kind="stable")  # two runs in order, nearly: they are merged, which is much faster than sorting
    keep = np.ones(len(cuts), bool)
    keep[1:] = cuts[1:] != cuts[:-1]
    cuts = cuts[keep]
    cuts = cuts[: int(cuts.searchsorted(1 << 32))]
    low = cuts.searchsorted(begin)
    high = cuts.searchsorted(end)
    winner = np.full(len(cuts), -1, np.int32)
    for one in range(33):
        chosen = np.flatnonzero(length == one)
        if not len(chosen):
            continue
        at, size = low[chosen], high[chosen] - low[chosen]
        if int(size.max()) > 1:
            # Each range as a run of positions: its first one, then steps of one.
            first = np.repeat(at - (np.cumsum(size) - size), size)
            at = first + np.arange(len(first))
            chosen = np.repeat(chosen, size)
        winner[at] = chosen
    return cuts.astype(np.uint32), winner


def destinations(block: RouteBlock) -> Any:
    """The destinations of a block of IPv4 routes as an array of numbers."""
    import numpy as np

    held = getattr(block.destinations, "octets", None)  # a sequence that has them in one piece anyway
    octets = held if held is not None else b"".join(block.destinations)
    return np.frombuffer(octets, ">u4").astype(np.uint64)


def lookup(
    node: Node, shapes: Shapes | None = None, told: Iterable[tuple[Address, int]] = (), cuts: Cuts | None = None
) -> Lookup:
    """The whole lookup of a node. `told` are IPv4 addresses on interfaces that get a Way with `entry`; `cuts` are where
    the parts of `Action.wall` begin, and which part it is there."""
    return _Lookups(node, shapes or Shapes(), told, cuts).whole()


class _Lookups:
    """The tables of one node, on their way to one Lookup. Numbers are those of `actions`; 0 is NO_ROUTE."""

    def __init__(
        self, node: Node, shapes: Shapes, told: Iterable[tuple[Address, int]], cuts: Cuts | None
    ) -> None:  # fmt: skip
        self.node = node
        self.shapes = shapes
        self.told = told
        self.cuts = cuts
        self.actions: dict[Action, int] = {NO_ROUTE: 0}
        self.objects = {o.nhid: o for o in node.kernel.nexthops}

    def number(self, action: Action) -> int:
        return self.actions.setdefault(action, len(self.actions))

    def whole(self) -> Lookup:
        """The tables by the rules, and then the tunnels' own."""
        import numpy as np

        missing = [part for part in ("routes4", "rules") if self._unread(part)]
        if missing:
            said = self.node.unread.get(missing[0], "")
            what = "routes" if missing[0] == "routes4" else "rules"
            why = f"the {what} were not read" + (f": {said}" if said else "")
            number = self.number(Action(UNKNOWN, why=why))
            return self._made(np.zeros(1, np.uint32), np.full(1, number, np.int32))
        starts, numbers = self._by_rules()
        numbers = np.where(numbers == _THROUGH, np.int32(0), numbers)
        for name, peers in self.node.wireguard.items():
            link = self.node.kernel.by_name.get(name)
            if link is not None:
                starts, numbers = self._by_peers(starts, numbers, link.ifindex, peers)
        return self._made(*self._by_wall(*self._by_entries(starts, numbers)))

    def _by_wall(self, starts: Any, numbers: Any) -> tuple[Any, Any]:
        """What is sent on, by the parts that the packet filter tells apart."""
        import numpy as np

        if self.cuts is None:
            return starts, numbers
        cuts, part = self.cuts
        both = np.union1d(starts, cuts)
        there = numbers[starts.searchsorted(both, side="right") - 1].copy()
        part = part[cuts.searchsorted(both, side="right") - 1]
        sent = [(action, number) for action, number in list(self.actions.items()) if action.ways]
        for one in np.unique(part).tolist():
            for action, number in sent if one else ():
                chosen = (there == number) & (part == one)
                if chosen.any():
                    there[chosen] = self.number(replace(action, wall=one))
        return both, there

    def _by_entries(self, starts: Any, numbers: Any) -> tuple[Any, Any]:
        """Destinations on a link of which the neighbour table says more than that they are there."""
        import numpy as np

        told: dict[int, set[int]] = {}
        for one, ifindex in self.told:
            told.setdefault(int.from_bytes(one, "big"), set()).add(ifindex)
        if not told:
            return starts, numbers
        alone = np.array(sorted(told), np.int64)
        ends = alone + 1
        cuts = np.union1d(starts, np.concatenate((alone, ends[ends <= _LAST])).astype(np.uint32))
        there = numbers[starts.searchsorted(cuts, side="right") - 1].copy()
        actions = list(self.actions)
        for at, number in zip(cuts.searchsorted(alone.astype(np.uint32)).tolist(), sorted(told), strict=True):
            action = actions[int(there[at])]
            address = number.to_bytes(4, "big")
            if any(way.via is None and way.ifindex in told[number] for way in action.ways):
                ways = (replace(w, entry=address) if w.via is None and w.ifindex in told[number] else w
                        for w in action.ways)  # fmt: skip
                there[at] = self.number(replace(action, ways=tuple(ways)))
        return cuts, there

    def _by_peers(self, starts: Any, numbers: Any, ifindex: int, peers: Sequence[Peer]) -> tuple[Any, Any]:
        """Behind the routing table WireGuard has one of its own: the peer whose AllowedIPs match longest."""
        import numpy as np

        found = {
            int.from_bytes(prefix.packed, "big") << 6 | prefix.length: place
            for place, peer in enumerate(peers)
            for prefix in peer.allowed
            if prefix.family == AF_INET
        }
        cuts: Any = np.zeros(1, np.uint32)
        peer_of: Any = np.full(1, NO_PEER)
        if found:
            cuts, winner = paint(np.array(sorted(found), np.uint64))
            places = np.array([found[key] for key in sorted(found)] + [NO_PEER])
            peer_of = places[winner]
        both = np.union1d(starts, cuts)
        there = numbers[starts.searchsorted(both, side="right") - 1].copy()
        peer_of = peer_of[cuts.searchsorted(both, side="right") - 1]
        for action, number in list(self.actions.items()):
            if not any(way.ifindex == ifindex for way in action.ways):
                continue
            for place in range(NO_PEER, len(peers)):
                ways = tuple(replace(w, peer=place) if w.ifindex == ifindex else w for w in action.ways)
                chosen = (there == number) & (peer_of == place)
                if chosen.any():
                    there[chosen] = self.number(replace(action, ways=ways))
        return both, there

    def _unread(self, part: str) -> bool:
        if part == "rules" and self.node.system == OPENBSD:
            return False
        return part in self.node.unread or part not in self.node.kernel.parts

    def _made(self, starts: Any, numbers: Any) -> Lookup:
        import numpy as np

        keep = np.ones(len(starts), bool)
        keep[1:] = numbers[1:] != numbers[:-1]
        return Lookup(starts[keep], numbers[keep].astype(np.int32), tuple(self.actions))

    # --- rules -----------------------------------------------------------------------------------------------------

    def _by_rules(self) -> tuple[Any, Any]:
        rules = [rule for rule in self.node.kernel.rules if rule.family == AF_INET]
        rules.sort(key=lambda rule: rule.priority)
        if self.node.system == OPENBSD or usual_rules(rules):
            return self._then(self._table(TABLE_LOCAL, TABLE_MAIN), self._table(TABLE_DEFAULT))
        found: tuple[Any, Any] = self._blank(_THROUGH)
        for rule in rules:
            if not self._never(rule):
                found = self._then(found, self._rule(rule))
        return found

    def _never(self, rule: Rule) -> bool:
        """No packet from elsewhere can meet the rule: it speaks of a device that is not there, or of VRFs, and there
        is none. `not` without anything behind it is never true."""
        if rule.invert:
            return _by_destination(rule) and rule.destination is None and " with " not in rule.action
        links = self.node.kernel.links
        names = {link.name for link in links}
        if any(device and device not in names for device in (rule.iif, rule.oif)):
            return True
        return rule.l3mdev and not any(link.kind == "vrf" for link in links)

    def _rule(self, rule: Rule) -> tuple[Any, Any]:
        """What a rule alone says; _THROUGH where it says nothing."""
        told = rule.action.partition(" with ")  # what a rule needs that Rule has no place for
        if told[0] == "to_tbl" and not rule.l3mdev:
            starts, numbers = self._table(rule.table)
        elif rule.action in _DISCARDS:
            starts, numbers = self._blank(self.number(Action(NULL, why=f"rule {rule.priority}: {rule.action}")))
        elif rule.action == "nop":
            return self._blank(_THROUGH)
        else:
            what = "l3mdev" if rule.l3mdev else rule.action
            starts, numbers = self._blank(self.number(Action(UNKNOWN, why=f"rule {rule.priority}: {what}")))
        import numpy as np

        whole = _by_destination(rule) and not told[2]
        if not whole:
            unknown = self.number(Action(UNKNOWN, why=f"rule {rule.priority} looks at more than the destination"))
            numbers = np.where(numbers == _THROUGH, numbers, np.int32(unknown))
        if rule.destination is not None and (whole or not rule.invert):
            return self._within(starts, numbers, rule.destination, rule.invert)
        return starts, numbers

    def _within(self, starts: Any, numbers: Any, prefix: Prefix, invert: bool) -> tuple[Any, Any]:
        """Says nothing outside the prefix (`invert`: inside)."""
        import numpy as np

        inside = self._blank(0)
        first = int.from_bytes(prefix.packed, "big")
        key = np.array([first << 6 | prefix.length], np.uint64)
        inside = paint(key)
        cuts = np.union1d(starts, inside[0])
        member = inside[1][inside[0].searchsorted(cuts, side="right") - 1] >= 0
        there = numbers[starts.searchsorted(cuts, side="right") - 1]
        return cuts, np.where(member != invert, there, np.int32(_THROUGH))

    @staticmethod
    def _blank(number: int) -> tuple[Any, Any]:
        import numpy as np

        return np.zeros(1, np.uint32), np.full(1, number, np.int32)

    @staticmethod
    def _then(first: tuple[Any, Any], second: tuple[Any, Any]) -> tuple[Any, Any]:
        """The first, and where it says nothing the second."""
        import numpy as np

        if not (first[1] == _THROUGH).any() or (len(second[1]) == 1 and int(second[1][0]) == _THROUGH):
            return first
        cuts = np.union1d(first[0], second[0])
        one = first[1][first[0].searchsorted(cuts, side="right") - 1]
        other = second[1][second[0].searchsorted(cuts, side="right") - 1]
        return cuts, np.where(one == _THROUGH, other, one)

    # --- one table -------------------------------------------------------------------------------------------------

    def _table(self, *tables: int) -> tuple[Any, Any]:
        """A table, or several that make one trie; _THROUGH where no route matches, and under `throw`."""
        import numpy as np

        parts = sorted(self._blocks(tables), key=lambda part: part[0])
        if not parts:
            return self._blank(_THROUGH)
        count = sum(len(keys) for _, keys, _ in parts)
        room = max(1, count.bit_length())
        order: Any
        keys: Any = np.concatenate([keys for _, keys, _ in parts])
        numbers = np.concatenate([np.full(len(keys), number, np.int32) for _, keys, number in parts])
        if room + 38 <= 64:
            # What wins within a prefix stands first in `parts`, so its place decides among equal keys.
            packed = (keys << np.uint64(room)) | np.arange(count, dtype=np.uint64)
            packed.sort(kind="stable")  # a kernel tells the routes of each block in order
            keys, order = packed >> np.uint64(room), packed & np.uint64((1 << room) - 1)
        else:
            order = keys.argsort(kind="stable")
            keys = keys[order]
        keep = np.ones(count, bool)
        keep[1:] = keys[1:] != keys[:-1]
        starts, winner = self.shapes.paint(keys[keep])
        of_prefix = numbers[order[keep].astype(np.int64)]
        return starts, np.where(winner < 0, np.int32(_THROUGH), of_prefix[winner])

    def _blocks(self, tables: Sequence[int]) -> Iterator[tuple[tuple[int, int, int], Any, int]]:
        """(what wins first, keys, number of the action) of each block that counts."""
        import numpy as np

        for order, block in enumerate(self.node.kernel.routes.blocks):
            route = block.template
            if route.family != AF_INET or route.table not in tables or route.tos or route.flags & RTM_F_CLONED:
                continue
            if not len(block):
                continue
            action = action_of(resolved(route, self.objects), self.node.sysctls, self.node.kernel.dev)
            if action is None:
                continue
            number = _THROUGH if route.type == "throw" else self.number(action)
            keys = destinations(block) << np.uint64(6) | np.uint64(route.prefix.length)
            yield (tables.index(route.table), route.metric, order), keys, number


def usual_rules(rules: Iterable[Rule]) -> bool:
    """The IPv4 rules are the three that every namespace begins with."""
    four = sorted((rule for rule in rules if rule.family == AF_INET), key=lambda rule: rule.priority)
    return tuple((r.priority, r.table) for r in four) == _USUAL and all(_plain(r) for r in four)


def _by_destination(rule: Rule) -> bool:
    """The rule looks at the destination alone, or at nothing."""
    return not (rule.source or rule.iif or rule.oif or rule.fwmark or rule.fwmask or rule.l3mdev)


def _plain(rule: Rule) -> bool:
    """A rule that sends every packet to a table."""
    return _by_destination(rule) and not rule.destination and not rule.invert and rule.action == "to_tbl"


def action_of(route: Route, sysctls: Mapping[str, int], dev: Any) -> Action | None:
    """What a route makes of a packet; None if the kernel passes it over, because all of its next hops are dead."""
    if route.type == "local":
        return Action(LOCAL, devices=frozenset(h.ifindex for h in route.next_hops))
    if route.type == "broadcast":
        return Action(BROADCAST)
    if route.type in _DISCARDS:
        return Action(NULL, why=route.type)
    if route.type == "throw":
        return NO_ROUTE
    if route.type == REROUTED:
        return Action(UNKNOWN, why="what comes instead depends on routing programs whose state is in no snapshot")
    if route.type != "unicast":
        return Action(UNKNOWN, why=f"a route of type {route.type}")
    if not route.next_hops:
        what = f"nexthop object {route.nhid}" if route.nhid else "its next hop"
        return Action(UNKNOWN, why=f"{what} was not read")
    living = []
    for hop in route.next_hops:
        if hop.flags & NH_DEAD:
            continue
        if hop.flags & NH_LINKDOWN:
            ignored = ignores_linkdown(sysctls, dev(hop.ifindex))
            if ignored is None:
                return Action(UNKNOWN, why=f"ignore_routes_with_linkdown of {dev(hop.ifindex)} was not read")
            if ignored:
                continue
        living.append(Way(hop.via, hop.ifindex))
    if not living:
        return None
    ways = tuple(sorted(set(living), key=lambda way: (way.ifindex, way.via or b"")))
    return Action(FORWARD, ways, frozenset(h.ifindex for h in route.next_hops), default=not route.prefix.length)


def ignores_linkdown(sysctls: Mapping[str, int], dev: str) -> bool | None:
    """Whether the node passes over routes on a link without carrier; None if that was not read."""
    found = [sysctls.get(f"net/ipv4/conf/{name}/ignore_routes_with_linkdown") for name in ("all", dev)]
    if any(found):
        return True
    return None if None in found else False
