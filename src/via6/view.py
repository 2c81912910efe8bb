"""What next hops are resolved against: links, addresses, and the main and local tables of both families.

Made from a Snapshot, kept by notifications. What Linux does not announce is inferred: IPv4 routes die with their link
without a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from via6.model import (
    PROTO_BOOT,
    PROTO_STATIC,
    PROTO_VIA6,
    TABLE_LOCAL,
    TABLE_MAIN,
    Change,
    InterfaceAddress,
    KernelEvent,
    Link,
    NextHop,
    NexthopObject,
    Route,
    RouteBlock,
    Snapshot,
)
from via6.prefix import AF_INET, AF_INET6, Address, Prefix, PrefixMap, is_link_local

_BY_HAND: Final = frozenset({PROTO_BOOT, PROTO_STATIC})

_Held = tuple[Route, ...]
"""The routes of one prefix as templates, in the kernel's order. Prefixes that came together share one tuple."""


class View:
    """One node, as far as next hops depend on it. The only thing here that changes, and by `observe` alone."""

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        self.links: dict[int, Link] = {}
        self._names: dict[str, int] = {}
        self._addresses: dict[tuple[int, Address], InterfaceAddress] = {}
        self._objects: dict[int, NexthopObject] = {}
        self._tables: dict[tuple[int, int], PrefixMap[_Held]] = {}
        self._by_hand: PrefixMap[None] = PrefixMap()
        self.generation = 0
        """Counts the changes that may concern a resolution."""
        self._touched: PrefixMap[None] | None = None
        if snapshot is not None:
            self._load(snapshot)

    def _load(self, snapshot: Snapshot) -> None:
        for link in snapshot.links:
            self.links[link.ifindex] = link
            self._names[link.name] = link.ifindex
        for address in snapshot.addresses:
            self._addresses[address.ifindex, address.address] = address
        self._objects = {o.nhid: o for o in snapshot.nexthops}
        for block in snapshot.routes.blocks:
            if _concerns(block.template):
                self._add_block(block)

    def observe(self, event: KernelEvent) -> bool:
        """Takes a notification; True if a resolution may have changed by it. An Overrun needs a new View."""
        if not isinstance(event, Change):
            return False
        changed = self._observe(event.object, event.gone, event.replaces)
        self.generation += changed
        if changed and not isinstance(event.object, Route | RouteBlock):
            self._touched = None
        return changed

    @property
    def routes_alone(self) -> bool:
        """Since `take_touched` nothing but routes has changed."""
        return self._touched is not None

    def take_touched(self) -> PrefixMap[None] | None:
        """The prefixes of the main table whose routes may have changed since the last call; None: anything may have, as
        after the first."""
        touched, self._touched = self._touched, PrefixMap()
        return touched

    def _observe(self, thing: object, gone: bool, replaces: bool) -> bool:
        if isinstance(thing, Route):
            thing = RouteBlock(thing.as_template(), (thing.prefix.packed,))
        if isinstance(thing, RouteBlock):
            return _concerns(thing.template) and self._routes(thing, gone, replaces)
        if isinstance(thing, Link):
            return self._link(thing, gone)
        if isinstance(thing, InterfaceAddress):
            key = thing.ifindex, thing.address
            before = self._addresses.get(key)
            if gone:
                self._addresses.pop(key, None)
            else:
                self._addresses[key] = thing
            return before != self._addresses.get(key)
        if isinstance(thing, NexthopObject):
            before_object = self._objects.get(thing.nhid)
            if gone:
                self._objects.pop(thing.nhid, None)
            else:
                self._objects[thing.nhid] = thing
            return thing.protocol != PROTO_VIA6 and before_object != self._objects.get(thing.nhid)
        return False

    def _routes(self, block: RouteBlock, gone: bool, replaces: bool) -> bool:
        if not gone:
            return self._add_block(block, replaces)
        changed = False
        for destination in block.destinations:
            changed = self._remove(block.template, destination) or changed
        return changed

    def _link(self, link: Link, gone: bool) -> bool:
        before = self.links.get(link.ifindex)
        if before is not None:
            self._names.pop(before.name, None)
        if gone:
            self.links.pop(link.ifindex, None)
        else:
            self.links[link.ifindex] = link
            self._names[link.name] = link.ifindex
        if gone or not link.up:
            # The kernel says nothing of the IPv4 routes that die with their link.
            self._bury(link.ifindex)
        if before is None or gone:
            return True
        return (before.up, before.carrier, before.name) != (link.up, link.carrier, link.name)

    def _bury(self, ifindex: int) -> None:
        for (_, table), routes in self._tables.items():
            if table != TABLE_MAIN:
                continue
            dead = [
                (prefix, route)
                for prefix, found in routes.items()
                for route in found
                if route.next_hops and all(hop.ifindex == ifindex for hop in route.next_hops)
            ]
            for prefix, route in dead:
                self._remove(route, prefix.packed)

    def _table(self, route: Route) -> PrefixMap[_Held]:
        return self._tables.setdefault((route.family, route.table), PrefixMap())

    def _add_block(self, block: RouteBlock, replaces: bool = False) -> bool:
        """As `_add` for each; of a full table nearly all are new, and share one tuple."""
        if not block.destinations:
            return False
        template = block.template
        prefix = template.prefix
        cell = self._table(template).cell(len(prefix.packed), prefix.length)
        fresh = dict.fromkeys(block.destinations, (template,))
        known = cell.keys() & fresh.keys()
        changed = len(known) < len(fresh)
        for destination in known:
            del fresh[destination]
        cell.update(fresh)
        if self._touched is not None and template.table == TABLE_MAIN:
            self._touched.cell(len(prefix.packed), prefix.length).update(dict.fromkeys(fresh))
        if template.table == TABLE_MAIN and template.protocol in _BY_HAND:
            self._by_hand.cell(len(prefix.packed), prefix.length).update(dict.fromkeys(fresh))
        for destination in known:
            changed = self._add(template, destination, replaces) or changed
        return changed

    def _add(self, template: Route, destination: Address, replaces: bool = False) -> bool:
        length = template.prefix.length
        cell = self._table(template).cell(len(destination), length)
        found = cell.get(destination, ())
        # IPv6 keeps several routes of one metric side by side if their gateways differ; IPv4 has one per metric.
        slot = template.metric
        others = [r for r in found if not (r.metric == slot if replaces else _same_slot(r, template))]
        new = cell[destination] = tuple(sorted([*others, template], key=_order))
        self._mark(template, destination, new)
        return new != found

    def _remove(self, route: Route, destination: Address) -> bool:
        table = self._table(route)
        prefix = Prefix(destination, route.prefix.length)
        found = table.get(prefix)
        if not found:
            return False
        left = tuple(r for r in found if not _same_slot(r, route))
        if left:
            table[prefix] = left
        else:
            del table[prefix]
        self._mark(route, destination, left)
        return left != found

    def _mark(self, route: Route, destination: Address, now: _Held) -> None:
        """Keeps the prefixes of the main table that somebody has typed in."""
        if route.table != TABLE_MAIN:
            return
        prefix = Prefix(destination, route.prefix.length)
        if self._touched is not None:
            self._touched[prefix] = None
        if any(r.protocol in _BY_HAND for r in now):
            self._by_hand[prefix] = None
        elif prefix in self._by_hand:
            del self._by_hand[prefix]

    # --- questions -------------------------------------------------------------------------------------------------

    def named(self, name: str) -> Link | None:
        """The link of this name."""
        index = self._names.get(name)
        return self.links[index] if index is not None else None

    def names(self) -> str:
        """The devices that there are, for messages."""
        return ", ".join(sorted(self._names)) or "none"

    def dev(self, ifindex: int) -> str:
        """Interface name, or `if7` for one that is gone."""
        link = self.links.get(ifindex)
        return link.name if link is not None else f"if{ifindex}"

    def addresses(self, address: Address) -> list[InterfaceAddress]:
        """Where the node has this address."""
        return [found for (_, own), found in self._addresses.items() if own == address]

    def is_own(self, address: Address, ifindex: int = 0) -> bool:
        """The node answers to this address; a link-local one on this link."""
        if any(not ifindex or not is_link_local(address) or a.ifindex == ifindex for a in self.addresses(address)):
            return True
        if is_link_local(address):
            return False
        family = AF_INET if len(address) == 4 else AF_INET6
        table = self._tables.get((family, TABLE_LOCAL))
        found = table.lookup(address) if table is not None else None
        return found is not None and found[1][0].type == "local"

    def matches(self, address: Address) -> Iterator[Route]:
        """Routes of the main table that contain the address, in the kernel's order."""
        table = self._tables.get((AF_INET if len(address) == 4 else AF_INET6, TABLE_MAIN))
        for prefix, found in table.matches(address) if table is not None else ():
            yield from _at(found, prefix.packed)

    def inventory(self) -> Iterator[InterfaceAddress]:
        """Every address of the node, in a fixed order."""
        yield from (self._addresses[key] for key in sorted(self._addresses))

    def at(self, prefix: Prefix) -> tuple[Route, ...]:
        """Routes of the main table to exactly this prefix, in the kernel's order."""
        table = self._tables.get((prefix.family, TABLE_MAIN))
        return _at((table.get(prefix) if table is not None else None) or (), prefix.packed)

    def routes(
        self, size: int, protocols: frozenset[int] | None = None, among: PrefixMap[None] | None = None
    ) -> Iterator[RouteBlock]:
        """Routes of the main table to addresses of `size` octets (4 or 16), all or those of some protocols, to all
        prefixes or to some. Asked for PROTO_BOOT and PROTO_STATIC alone, it does not walk the whole table."""
        table = self._tables.get((AF_INET if size == 4 else AF_INET6, TABLE_MAIN))
        if table is None:
            return
        few = protocols is not None and protocols <= _BY_HAND
        for length, cell in (self._by_hand if few else table).cells(size):
            full = table.cell(size, length)
            groups: dict[int, tuple[_Held, list[Address]]] = {}
            for destination in cell if among is None else cell.keys() & among.cell(size, length).keys():
                held = full[destination]
                group = groups.get(id(held))
                if group is None:
                    group = groups[id(held)] = held, []
                group[1].append(destination)
            for held, destinations in groups.values():
                for route in held:
                    if protocols is None or route.protocol in protocols:
                        yield RouteBlock(route, destinations)

    def by_hand(self) -> PrefixMap[None]:
        """The prefixes of the main table that somebody has typed in."""
        found: PrefixMap[None] = PrefixMap()
        found.absorb(self._by_hand)
        return found

    def owns(self, prefix: Prefix) -> bool:
        """The node answers to every address of the prefix."""
        if prefix.is_host and self.is_own(prefix.packed):
            return True
        table = self._tables.get((prefix.family, TABLE_LOCAL))
        found = table.matches(prefix.packed) if table is not None else iter(())
        return any(local.length <= prefix.length and routes[0].type == "local" for local, routes in found)

    def usable(self, route: Route) -> bool:
        """One of its next hops at least is on a link, other than a loopback, that works."""
        links = [self.links.get(hop.ifindex) for hop in self.hops(route)]
        return any(link is not None and link.carrier and not link.loopback for link in links)

    def hops(self, route: Route) -> tuple[NextHop, ...]:
        """The next hops of a route, also of one of which the kernel tells the nexthop object alone."""
        if route.next_hops or not route.nhid:
            return route.next_hops
        top = self._objects.get(route.nhid)
        if top is None:
            return ()
        members = top.group or ((top.nhid, 1),)
        parts = [(self._objects[nhid], weight) for nhid, weight in members if nhid in self._objects]
        return tuple(NextHop(o.via, o.ifindex, weight, o.flags) for o, weight in parts)


def _at(held: _Held, destination: Address) -> tuple[Route, ...]:
    return tuple(route.at(destination) for route in held)


def _concerns(route: Route) -> bool:
    """Routes of the tables that next hops are looked up in. What via6 itself installed for IPv4 is left out at once:
    it may be a million routes, and none may carry an IPv4 next hop."""
    return route.table in (TABLE_MAIN, TABLE_LOCAL) and not (route.family == AF_INET and route.protocol == PROTO_VIA6)


def _order(route: Route) -> tuple[int, int]:
    # RTA_PREF: 1 high, 0 medium, 3 low (RFC 4191)
    return route.metric, {1: 0, 0: 1}.get(route.pref, 2)


def _same_slot(one: Route, other: Route) -> bool:
    if (one.metric, one.tos) != (other.metric, other.tos):
        return False
    if one.family == AF_INET:
        return True
    return [(h.via, h.ifindex) for h in one.next_hops] == [(h.via, h.ifindex) for h in other.next_hops]
