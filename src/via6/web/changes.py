"""What is different between two readings of one node: lines for a timeline, and the routes that moved. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from via6.model import TABLE_MAIN, NexthopObject, Route, RouteBlock
from via6.observe import show
from via6.observe.names import Names
from via6.observe.node import Node
from via6.prefix import AF_INET, AF_INET6, Prefix, format_address, is_link_local

MOST_ROUTES: Final = 20_000  # of a node whose routes are compared one by one
MOST_TOLD: Final = 20
_INFINITY: Final = 65535
_SILENT: Final = frozenset({"FAILED", "INCOMPLETE", "NONE"})
_USUAL: Final = frozenset({"unicast", "blackhole", "unreachable", "prohibit", "throw"})


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the timeline; `good` None: neither good nor bad."""

    kind: str
    text: str
    good: bool | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """A route that changed: what was done with the prefix, and what is now (None: nothing)."""

    prefix: str
    was: str | None
    now: str | None


@dataclass(frozen=True, slots=True)
class Difference:
    """All of it. `count` routes changed; `moved` has them if they are few. `same`: nothing changed that an answer could
    tell of, only the time of the reading, and counters."""

    entries: tuple[Entry, ...] = ()
    moved: tuple[Moved, ...] = ()
    count: int = 0
    same: bool = False


NOTHING: Final = Difference()


def between(old: Node, new: Node, names: Names) -> Difference:
    """What changed from one reading to the next."""
    entries = [*_links(old, new), *_addresses(old, new), *_neighbours(old, new)]
    moved: list[Moved] = []
    count = 0
    if old.kernel.routes is not new.kernel.routes or old.kernel.nexthops != new.kernel.nexthops:
        moved, count = _routes(old, new, names)
    shown = moved if count <= MOST_TOLD else []
    for one in shown:
        was, now = one.was or "nothing", one.now or "nothing"
        entries.append(
            Entry("route", f"{one.prefix}: {was} → {now}", None if one.was and one.now else one.now is not None)
        )
    if count > MOST_TOLD or (count and not moved):
        entries.append(Entry("route", f"{count} routes changed"))
    same = not entries and not count and _alike(steady(old), steady(new))
    return Difference(tuple(entries), tuple(shown), count, same)


def steady(node: Node) -> Node:
    """The node without what changes all the time: times, counters, how sure the kernel is of its neighbours, and what
    Babel has done with."""
    told = tuple(
        sorted(
            (
                replace(n, state="FAILED" if n.state in _SILENT else "", flags=0)
                for n in node.kernel.neighbours
                if n.state != "NOARP"  # multicast, for the most part
            ),
            key=lambda n: (n.ifindex, n.address),
        )
    )
    kernel = replace(node.kernel, neighbours=told)
    babel = node.babel
    if babel is not None:
        # Retracted routes are kept for a while, and then forgotten.
        routes = tuple(one for one in babel.routes if one.metric < _INFINITY or one.selected)
        babel = replace(babel, interfaces=None, routes=routes)
    return replace(node, kernel=kernel, babel=babel, times={}, unsteady=frozenset())


def _alike(old: Node, new: Node) -> bool:
    """Nothing new. The kernel forgets neighbours that nobody asks for; that is no news, and with many namespaces it
    does so all the time."""
    if not set(new.kernel.neighbours) <= set(old.kernel.neighbours):
        return False
    return replace(old, kernel=replace(old.kernel, neighbours=new.kernel.neighbours)) == new


def carrier_word(up: bool, carrier: bool) -> str:
    """How an interface is."""
    return "up" if carrier else "without carrier" if up else "set down"


def _links(old: Node, new: Node) -> list[Entry]:
    if old.kernel.links is new.kernel.links:
        return []
    found = []
    for index, link in new.kernel.by_index.items():
        before = old.kernel.by_index.get(index)
        word = carrier_word(link.up, link.carrier)
        if before is None:
            found.append(Entry("link", f"{link.name} is new, {word}", link.carrier or None))
        elif before.carrier != link.carrier or before.up != link.up:
            found.append(Entry("link", f"{link.name} is {word}", link.carrier))
        elif before.mtu != link.mtu:
            found.append(Entry("link", f"{link.name}: MTU {before.mtu} → {link.mtu}"))
    gone = old.kernel.by_index.keys() - new.kernel.by_index.keys()
    return found + [Entry("link", f"{old.kernel.by_index[index].name} is gone", False) for index in sorted(gone)]


def _addresses(old: Node, new: Node) -> list[Entry]:
    if old.kernel.addresses == new.kernel.addresses:
        return []

    def texts(node: Node) -> dict[str, None]:
        held = node.kernel.addresses
        return {f"{format_address(a.address)}/{a.length} on {node.kernel.dev(a.ifindex)}": None for a in held}

    before, after = texts(old), texts(new)
    found = [Entry("address", f"{text} is gone", False) for text in before if text not in after]
    return [*found, *(Entry("address", f"{text} is new", True) for text in after if text not in before)][:MOST_TOLD]


def _neighbours(old: Node, new: Node) -> list[Entry]:
    if old.babel is None or new.babel is None or old.babel.neighbours == new.babel.neighbours:
        return []

    def costs(node: Node) -> dict[str, int]:
        told = node.babel.neighbours if node.babel is not None else ()
        return {f"{format_address(n.address)} dev {node.kernel.dev(n.ifindex)}": n.cost for n in told}

    before, after = costs(old), costs(new)
    found = [Entry("neighbour", f"{name} is gone", False) for name in before if name not in after]
    for name, cost in after.items():
        was = before.get(name, _INFINITY)
        if was == cost:
            continue
        if cost >= _INFINITY:
            found.append(Entry("neighbour", f"{name} cannot be used", False))
        else:
            word = f"cost {was} → {cost}" if was < _INFINITY else f"can be used, cost {cost}"
            found.append(Entry("neighbour", f"{name}: {word}", True if was >= _INFINITY else None))
    return found[:MOST_TOLD]


# --- routes --------------------------------------------------------------------------------------------------------


def _routes(old: Node, new: Node, names: Names) -> tuple[list[Moved], int]:
    if max(len(old.kernel.routes), len(new.kernel.routes)) > MOST_ROUTES:
        return [], _counted(old, new)
    before, after = _chosen(old), _chosen(new)
    prefixes = sorted(p for p in before.keys() | after.keys() if before.get(p) != after.get(p))
    told = [
        Moved(
            show.destination_text(p.packed, p.length),
            _text(before.get(p), names, old),
            _text(after.get(p), names, new),
        )
        for p in prefixes[:MOST_TOLD]
    ]
    told = [one for one in told if one.was != one.now]
    return told, len(prefixes) if len(prefixes) > MOST_TOLD else len(told)


def _chosen(node: Node) -> dict[Prefix, Route]:
    """The best route of each prefix in the main table, with next hops in place of nexthop objects."""
    objects: dict[int, NexthopObject] = {one.nhid: one for one in node.kernel.nexthops}
    found: dict[Prefix, Route] = {}
    blocks = [b for b in node.kernel.routes.blocks if b.template.table == TABLE_MAIN and b.template.type in _USUAL]
    for block in sorted(blocks, key=lambda block: block.template.metric):
        if _on_every_link(block):
            continue
        template = show.resolved(block.template, objects)
        for packed in block.destinations:
            found.setdefault(Prefix(packed, template.prefix.length), template)
    return found


def _on_every_link(block: RouteBlock) -> bool:
    """fe80::/64 and ff00::/8, which come and go with a link."""
    return block.template.family == AF_INET6 and all(one[0] == 0xFF or is_link_local(one) for one in block.destinations)


def _text(route: Route | None, names: Names, node: Node) -> str | None:
    if route is None:
        return None
    if route.type != "unicast":
        return route.type
    hops = [_hop(hop.via, node.kernel.dev(hop.ifindex)) for hop in route.next_hops]
    return ", ".join(hops) or names.protocol(route.protocol)


def _hop(via: bytes | None, dev: str) -> str:
    return f"via {format_address(via)} dev {dev}" if via is not None else f"dev {dev}"


def _counted(old: Node, new: Node) -> int:
    """How many routes differ; for tables too large to name them."""

    def sets(node: Node) -> dict[Any, set[bytes]]:
        made: dict[Any, set[bytes]] = {}
        for block in node.kernel.routes.blocks:
            made.setdefault(block.template, set()).update(block.destinations)
        return made

    before, after = sets(old), sets(new)
    nothing: set[bytes] = set()
    changed: dict[tuple[int, int], set[bytes]] = {}
    for template in before.keys() | after.keys():
        different = before.get(template, nothing) ^ after.get(template, nothing)
        changed.setdefault((template.family == AF_INET, template.prefix.length), set()).update(different)
    return sum(map(len, changed.values()))
