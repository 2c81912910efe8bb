"""Requests to one simulated Linux: routes and nexthop objects put, deleted, lost with what they hang on.

What Linux says and does not say (6.18): the sender of a request is not told of it, others are. When a nexthop object
goes, the IPv4 routes on it vanish without a word, the IPv6 ones with an RTM_DELROUTE that even the sender hears; a
group that shrinks is told as a new group, the routes on it are not told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from via6.model import Change, InterfaceAddress, Link, Neighbour, NexthopObject, Route, Rule
from via6.netlink.route import SCOPE_NOWHERE
from via6.prefix import AF_INET6, PrefixMap
from via6.sim.refuse import EEXIST, EINVAL, ENOENT, Release, accept_nexthop, accept_route
from via6.sim.state import Refused, State

ESRCH: Final = 3

Tell = Callable[[Change, bool], None]
"""Takes what changed, and whether a request of our own socket did it."""


class Fib(State):
    """Requests raise Refused; what changes is told through `tell` as far as Linux tells it."""

    def __init__(self, tell: Tell, release: Release) -> None:
        super().__init__()
        self._tell = tell
        self._release = release

    def _say(
        self,
        thing: Link | InterfaceAddress | Route | Neighbour | Rule | NexthopObject,
        gone: bool = False,
        own: bool = False,
        replaces: bool = False,
    ) -> None:
        self._tell(Change(self.shown(thing) if isinstance(thing, Route) else thing, gone, replaces), own)

    # --- routes ------------------------------------------------------------------------------------------------------

    def put_route(self, route: Route, in_place: bool, own: bool) -> None:
        """RTM_NEWROUTE; `in_place` takes the slot from whoever has it."""
        # Linux makes the table before it looks at the route.
        self.tables.setdefault((route.family, route.table), PrefixMap())
        new = accept_route(self, route, self._release)
        taken = any((r.tos, r.metric) == (new.tos, new.metric) for r in self.at(new))
        if taken and not in_place:
            raise Refused(EEXIST)
        self.store(new)
        self._say(new, own=own, replaces=taken)

    def delete_route(self, asked: Route, own: bool) -> None:
        """RTM_DELROUTE: what the request does not name (metric 0, protocol 0, no next hop) matches anything."""
        if (asked.family, asked.table) not in self.tables:
            raise Refused(ESRCH, "FIB table does not exist")
        matches = _matches6 if asked.family == AF_INET6 else _matches4
        route = next((r for r in self.at(asked) if matches(asked, r)), None)
        if route is None:
            raise Refused(ESRCH)
        self.remove(route)
        named = {(h.via, h.ifindex) for h in asked.next_hops if h.via}
        if asked.family != AF_INET6 or route.nhid or not named:
            self._say(route, gone=True, own=own)
            return
        # An IPv6 request that names gateways takes these alone out of a multipath route, each told for itself.
        left = tuple(h for h in route.next_hops if (h.via, h.ifindex) not in named)
        if left:
            self.store(replace(route, next_hops=left))
        for hop in (h for h in route.next_hops if h not in left):
            self._say(replace(route, next_hops=(hop,)), gone=True, own=own)

    def lose(self, routes: Iterable[Route]) -> None:
        """Routes that die by themselves: IPv4 says nothing, IPv6 does, next hop by next hop."""
        for route in routes:
            self.remove(route)
            if route.family == AF_INET6:
                for part in [replace(route, next_hops=(h,)) for h in route.next_hops] or [route]:
                    self._say(part, gone=True)

    # --- nexthop objects ---------------------------------------------------------------------------------------------

    def put_nexthop(self, asked: NexthopObject, in_place: bool, own: bool) -> None:
        """RTM_NEWNEXTHOP. A change is told once for the object and once for each route on it."""
        new = accept_nexthop(self, asked, in_place, self._release)
        known = new.nhid in self.nexthops
        self.nexthops[new.nhid] = new
        self._say(new, own=own)
        if known:
            for nhid in (new.nhid, *self._groups_with(new.nhid)):
                for route in self.on_nexthop(nhid):
                    self._say(route, own=own)

    def drop_nexthop(self, nhid: int, own: bool) -> None:
        """RTM_DELNEXTHOP, with the routes on it and the groups that it leaves empty."""
        if not nhid:
            raise Refused(EINVAL, "Invalid nexthop id")
        if nhid not in self.nexthops:
            raise Refused(ENOENT)
        self._remove_nexthop(nhid, lambda nexthop, gone: self._say(nexthop, gone, own))

    def flush_nexthops(self, ifindex: int) -> None:
        """The objects on a link that lost its carrier or is set down: not announced."""
        for nhid in sorted(n.nhid for n in self.nexthops.values() if n.ifindex == ifindex):
            self._remove_nexthop(nhid, lambda _nexthop, _gone: None)

    def _groups_with(self, nhid: int) -> list[int]:
        return sorted(n.nhid for n in self.nexthops.values() if any(i == nhid for i, _ in n.group))

    def _remove_nexthop(self, nhid: int, say: Callable[[NexthopObject, bool], None]) -> None:
        say(self.nexthops[nhid], True)
        self.lose(self.on_nexthop(nhid))
        for group in self._groups_with(nhid):
            old = self.nexthops[group]
            new = replace(old, group=tuple(m for m in old.group if m[0] != nhid))
            if new.group:
                self.nexthops[group] = new
                say(new, False)
            else:
                say(old, True)
                self.lose(self.on_nexthop(group))
                del self.nexthops[group]
        del self.nexthops[nhid]


def _matches4(asked: Route, route: Route) -> bool:
    """fib_table_delete and fib_nh_match (net/ipv4): of several next hops Linux compares the first when one is named."""
    if (
        asked.tos != route.tos
        or asked.type not in ("unspec", route.type)
        or asked.scope not in (SCOPE_NOWHERE, route.scope)
        or asked.protocol not in (0, route.protocol)
        or asked.metric not in (0, route.metric)
        or asked.src not in (None, route.src)
        or not set(asked.metrics) <= set(route.metrics)
    ):
        return False
    if asked.nhid or route.nhid:
        return asked.nhid in (0, route.nhid) and not (route.nhid and asked.next_hops)
    if not asked.next_hops:
        return True
    named = [(h.via, h.ifindex) for h in asked.next_hops]
    have = [(h.via, h.ifindex) for h in route.next_hops]
    return named == (have[:1] if len(named) == 1 else have)


def _matches6(asked: Route, route: Route) -> bool:
    """ip6_route_del. Next hops that are named do not matter to a route on a nexthop object."""
    if asked.metric not in (0, route.metric) or asked.protocol not in (0, route.protocol):
        return False
    if route.nhid:
        return asked.nhid in (0, route.nhid)
    named = {(h.via, h.ifindex) for h in asked.next_hops}
    return named <= {(h.via, h.ifindex) for h in route.next_hops}
