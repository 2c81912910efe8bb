"""What one simulated Linux holds, and how a packet or a next hop finds its way through it.

Kernel facts that shape this file (each compared with Linux by tests/netns/test_kernel_contract.py):
- A route on a nexthop object has no next hops of its own: what the object stands for is looked up when it is shown.
- Flags of next hops (dead, linkdown) are state, not a view: an IPv4 route with an IPv6 next hop that is added while
  the carrier is away is not flagged, one that was there when it went is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from via6.model import (
    NH_LINKDOWN,
    TABLE_LOCAL,
    TABLE_MAIN,
    InterfaceAddress,
    Link,
    Neighbour,
    NextHop,
    NexthopObject,
    Route,
    Rule,
)
from via6.prefix import AF_INET, AF_INET6, Address, PrefixMap, is_link_local

LO: Final = 1

STRERROR: Final = {
    1: "Operation not permitted (EPERM)",
    2: "No such file or directory (ENOENT)",
    3: "No such process (ESRCH)",
    12: "Cannot allocate memory (ENOMEM)",
    17: "File exists (EEXIST)",
    19: "No such device (ENODEV)",
    22: "Invalid argument (EINVAL)",
    95: "Operation not supported (EOPNOTSUPP)",
    105: "No buffer space available (ENOBUFS)",
    113: "No route to host (EHOSTUNREACH)",
}
"""What a reader sees when the kernel gives no extended ACK."""


class Refused(Exception):  # noqa: N818 - the kernel's answer, not an accident of ours
    """The kernel says no to one message: a positive errno and the text of the extended ACK ("" if there is none)."""

    def __init__(self, errno: int, text: str = "") -> None:
        super().__init__(errno, text)
        self.errno = errno
        self.text = text or STRERROR.get(errno, f"Error {errno}")


class State:
    """Tables and how they are read; `sim.node` changes them."""

    def __init__(self) -> None:
        self.links: dict[int, Link] = {}
        self.addresses: dict[tuple[int, Address], InterfaceAddress] = {}
        self.tables: dict[tuple[int, int], PrefixMap[list[Route]]] = {
            (family, table): PrefixMap() for family in (AF_INET, AF_INET6) for table in (TABLE_LOCAL, TABLE_MAIN)
        }
        self.nexthops: dict[int, NexthopObject] = {}
        self.neighbours: dict[tuple[int, Address], Neighbour] = {}
        self.rules: list[Rule] = []

    # --- routes ----------------------------------------------------------------------------------------------------

    def every_route(self) -> Iterator[Route]:
        """As stored; those of one prefix by metric, otherwise in no order that means anything."""
        for table in self.tables.values():
            for item in table.items():
                yield from item[1]

    def at(self, route: Route) -> list[Route]:
        """All routes of this route's table and prefix, by metric."""
        table = self.tables.get((route.family, route.table))
        return (table.get(route.prefix) if table else None) or []

    def on_nexthop(self, nhid: int) -> list[Route]:
        """Routes that hang on one nexthop object, IPv4 first (as Linux notifies them)."""
        return sorted((r for r in self.every_route() if r.nhid == nhid), key=lambda r: (r.family, r.prefix))

    def store(self, route: Route, beside: bool = False) -> None:
        """Puts a route into its slot (prefix, table, tos, metric) in place of who was there, or `beside` them."""
        others = [r for r in self.at(route) if beside or (r.tos, r.metric) != (route.tos, route.metric)]
        cell = sorted([*others, route], key=lambda r: (r.tos, r.metric))
        self.tables.setdefault((route.family, route.table), PrefixMap())[route.prefix] = cell

    def remove(self, route: Route) -> None:
        table = self.tables[route.family, route.table]
        cell = [r for r in self.at(route) if r != route]
        if cell:
            table[route.prefix] = cell
        else:
            del table[route.prefix]

    def shown(self, route: Route) -> Route:
        """A route as a dump or a notification tells it."""
        if route.nhid and route.nhid in self.nexthops:
            hops = self._hops_of(route)
            blackhole = any(self.nexthops[i].blackhole for i in self._members(route.nhid))
            return replace(route, next_hops=hops, type="blackhole" if blackhole else route.type)
        return replace(route, flags=_route_flags(route))

    def _members(self, nhid: int) -> tuple[int, ...]:
        group = self.nexthops[nhid].group
        return tuple(i for i, _ in group) or (nhid,)

    def _hops_of(self, route: Route) -> tuple[NextHop, ...]:
        group = self.nexthops[route.nhid].group or ((route.nhid, 1),)
        # struct rtnexthop carries the weight; an IPv4 route with one next hop is told without it.
        told = len(group) > 1 or route.family == AF_INET6
        return tuple(
            NextHop(n.via, LO if n.blackhole else n.ifindex, weight if told else 1, n.flags)
            for n, weight in ((self.nexthops[i], w) for i, w in group)
        )

    # --- finding ---------------------------------------------------------------------------------------------------

    def on_link(self, address: Address, oif: int = 0) -> NextHop | None:
        """The next hop of the longest match in the tables local and main, among routes out of `oif` alone if given;
        None when there is none, or when it leads to a gateway or refuses: not on link."""
        family = AF_INET if len(address) == 4 else AF_INET6
        for table in (TABLE_LOCAL, TABLE_MAIN):
            for _, cell in self.tables[family, table].matches(address):
                for route in cell:
                    for hop in self.shown(route).next_hops:
                        if not oif or hop.ifindex == oif:
                            return None if hop.via or route.type not in ("unicast", "local") else hop
        return None

    def longest6(self, address: Address) -> Route | None:
        """The route of the IPv6 table main that an address falls under, unless that one refuses."""
        for _, cell in self.tables[AF_INET6, TABLE_MAIN].matches(address):
            return self.shown(cell[0]) if cell[0].type == "unicast" else None
        return None

    def is_own(self, address: Address, ifindex: int = 0) -> bool:
        """An address of this node; a link-local one counts on its own link alone, if one is given."""
        return any(
            a == address and (not ifindex or i == ifindex or not is_link_local(address)) for i, a in self.addresses
        )


def _route_flags(route: Route) -> int:
    hops = route.next_hops
    if len(hops) == 1:
        return hops[0].flags
    # Linux keeps a flag for all hops of an IPv4 route, none for those of an IPv6 route.
    all_down = bool(hops) and all(h.flags & NH_LINKDOWN for h in hops)
    return NH_LINKDOWN if route.family == AF_INET and all_down else 0
