"""What Linux refuses, with its errno and its words; where it accepts, what it makes of a request.

The order of the checks is the kernel's, because it decides which of two faults a user is told. Sources:
fib_create_info and fib_check_nh (net/ipv4/fib_semantics.c), fib6_nh_init and ip6_validate_gw (net/ipv6/route.c),
rtm_to_nh_config and nh_check_attr_group (net/ipv4/nexthop.c).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from via6.model import NH_LINKDOWN, NH_ONLINK, Link, NextHop, NexthopObject, Route
from via6.prefix import AF_INET, AF_INET6, Address, is_link_local, is_multicast
from via6.sim.state import LO, Refused, State

ENOENT: Final = 2
EEXIST: Final = 17
ENODEV: Final = 19
EINVAL: Final = 22
EOPNOTSUPP: Final = 95
ENETDOWN: Final = 100
ENETUNREACH: Final = 101
EHOSTUNREACH: Final = 113

REJECTS: Final = ("blackhole", "unreachable", "prohibit", "throw")
METRIC6: Final = 1024
"""IP6_RT_PRIO_USER: what an IPv6 route gets that asks for no metric."""

Release = tuple[int, int]


def accept_route(state: State, route: Route, release: Release) -> Route:
    """The route as Linux would store it. Raises Refused."""
    if route.family == AF_INET6:
        return _accept6(state, route)
    hops: tuple[NextHop, ...] = ()
    if route.nhid:
        _need_nexthop(state, route)
    elif route.type in REJECTS:
        if route.next_hops:
            raise Refused(EINVAL, "Gateway, device and multipath can not be specified for this route type")
    elif not route.next_hops:
        raise Refused(ENODEV)
    else:
        hops = tuple(_hop4(state, hop, release) for hop in route.next_hops)
    if route.src and not state.is_own(route.src):
        raise Refused(EINVAL, "Invalid prefsrc address")
    return replace(route, next_hops=hops, flags=0)


def _accept6(state: State, route: Route) -> Route:
    hops: tuple[NextHop, ...] = ()
    if route.nhid:
        _need_nexthop(state, route)
    elif route.type in REJECTS:
        hops = (NextHop(None, LO),)
    elif not route.next_hops:
        raise Refused(ENODEV)
    else:
        hops = tuple(_hop6(state, hop) for hop in route.next_hops)
    if route.src and not state.is_own(route.src):
        raise Refused(EINVAL, "Invalid source address")
    return replace(route, next_hops=hops, flags=0, metric=route.metric or METRIC6)


def _need_nexthop(state: State, route: Route) -> None:
    nexthop = state.nexthops.get(route.nhid)
    if nexthop is None:
        raise Refused(EINVAL, "Nexthop id does not exist")
    if route.family == AF_INET6:
        _refuse_v4_under_v6(state, nexthop)


def _refuse_v4_under_v6(state: State, nexthop: NexthopObject) -> None:
    members = [state.nexthops[i] for i, _ in nexthop.group] or [nexthop]
    if any(n.family == AF_INET and not n.blackhole for n in members):
        raise Refused(EINVAL, "IPv6 routes can not use an IPv4 nexthop")


# --- next hops -------------------------------------------------------------------------------------------------------


def _hop4(state: State, hop: NextHop, release: Release) -> NextHop:
    """A next hop of an IPv4 route."""
    if hop.via is None:
        link = state.links.get(hop.ifindex)
        if link is None:
            raise Refused(ENODEV)
        if not link.up:
            raise Refused(ENETDOWN, "Device for nexthop is not up")
        return _flag(hop, link)
    if len(hop.via) == 4:
        return _gateway4(state, hop, hop.via)
    if release < (5, 2):
        raise Refused(EINVAL, "IPv4 does not support RTA_VIA attribute")
    # fib_check_nh takes the device over from the IPv6 side, but not its linkdown flag.
    return replace(_hop6(state, hop), flags=hop.flags & NH_ONLINK)


def _gateway4(state: State, hop: NextHop, via: Address) -> NextHop:
    if hop.flags & NH_ONLINK:
        link = state.links.get(hop.ifindex)
        if link is None:
            raise Refused(ENODEV)
        if link.up and state.is_own(via):
            raise Refused(EINVAL, "Nexthop has invalid gateway")
    else:
        found = state.on_link(via, hop.ifindex)
        if found is None:
            raise Refused(ENETUNREACH, "Nexthop has invalid gateway")
        link = state.links[found.ifindex]
    if not link.up:
        raise Refused(ENETDOWN, "Nexthop device is not up")
    return _flag(replace(hop, ifindex=link.ifindex), link)


def _hop6(state: State, hop: NextHop) -> NextHop:
    """A next hop of an IPv6 route, an IPv6 next hop of any route."""
    link = state.links.get(hop.ifindex)
    if hop.ifindex and link is None:
        raise Refused(ENODEV)
    if hop.flags & NH_ONLINK and (link is None or not link.up):
        raise Refused(ENETDOWN, "Nexthop device is not up") if link else Refused(ENODEV)
    if hop.via is not None:
        link = _gateway6(state, hop, hop.via, link)
    if link is None:
        raise Refused(ENODEV)
    if not link.up:
        raise Refused(ENETDOWN, "Nexthop device is not up")
    return _flag(replace(hop, ifindex=link.ifindex), link)


def _gateway6(state: State, hop: NextHop, via: Address, link: Link | None) -> Link:
    """ip6_validate_gw: the link that leads to the gateway."""
    asked = link
    if asked and state.is_own(via, asked.ifindex):
        raise Refused(EINVAL, "Gateway can not be a local address")
    if not is_link_local(via):
        if is_multicast(via) or not any(via):
            raise Refused(EINVAL, "Invalid gateway address")
        if hop.flags & NH_ONLINK:
            # Onlink says "believe me", but not against a route of the table main that says otherwise.
            known = state.longest6(via)
            if known and known.prefix.length and not any(h.ifindex == hop.ifindex for h in known.next_hops[:1]):
                raise Refused(EINVAL, "Nexthop has invalid gateway or device mismatch")
        else:
            # Longest match among the routes of the device asked for: a gateway behind a gateway is refused, Linux
            # does not resolve recursively. An IPv4-mapped address is refused here, because no route covers it.
            found = state.on_link(via, hop.ifindex)
            if found is None:
                raise Refused(EHOSTUNREACH)
            link = state.links[found.ifindex]
    if link is None:
        raise Refused(EINVAL, "Egress device not specified")
    if link.loopback:
        raise Refused(EINVAL, "Egress device can not be loopback device for this route")
    if asked is None and state.is_own(via, link.ifindex):
        raise Refused(EINVAL, "Gateway can not be a local address")
    return link


def _flag(hop: NextHop, link: Link) -> NextHop:
    return replace(hop, flags=hop.flags & NH_ONLINK | (0 if link.carrier else NH_LINKDOWN))


# --- nexthop objects -------------------------------------------------------------------------------------------------


def accept_nexthop(state: State, asked: NexthopObject, in_place: bool, release: Release) -> NexthopObject:
    """The object as Linux would store it; `in_place` when it may take the place of another. Raises Refused."""
    if release < (5, 3):
        raise Refused(EOPNOTSUPP)
    if asked.group:
        new = _accept_group(state, asked)
    elif asked.blackhole:
        new = replace(asked, via=None, ifindex=0, flags=0)
    else:
        new = _accept_single(state, asked)
    old = state.nexthops.get(asked.nhid)
    if old is not None:
        if not in_place:
            raise Refused(EEXIST)
        _accept_change(state, old, new)
    return new


def _accept_single(state: State, asked: NexthopObject) -> NexthopObject:
    link = state.links.get(asked.ifindex)
    if link is None:
        raise Refused(EINVAL, "Invalid device index")
    if not link.up:
        raise Refused(ENETDOWN, "Nexthop device is not up")
    if not link.carrier:
        raise Refused(ENETDOWN, "Carrier for nexthop device is down")
    hop = NextHop(asked.via, asked.ifindex, 1, asked.flags)
    if asked.family == AF_INET6:
        _hop6(state, hop)
    elif asked.via:
        _gateway4(state, hop, asked.via)
    return replace(asked, flags=asked.flags & NH_ONLINK)


def _accept_group(state: State, asked: NexthopObject) -> NexthopObject:
    ids = [i for i, _ in asked.group]
    if len(set(ids)) < len(ids):
        raise Refused(EINVAL, "Nexthop id can not be used twice in a group")
    for nhid in ids:
        member = state.nexthops.get(nhid)
        if member is None:
            raise Refused(EINVAL, "Invalid nexthop id")
        if member.group:
            raise Refused(EINVAL, "Hash-threshold group can not be a nexthop within a group")
        if member.blackhole and len(ids) > 1:
            raise Refused(EINVAL, "Blackhole nexthop can not be used in a group with more than 1 path")
    return replace(asked, family=0, via=None, ifindex=0, flags=0)


def _accept_change(state: State, old: NexthopObject, new: NexthopObject) -> None:
    if new.group and not old.group:
        raise Refused(EINVAL, "Can not replace a nexthop with a nexthop group.")
    if old.group and not new.group:
        raise Refused(EINVAL, "Can not replace a nexthop group with a nexthop.")
    groups = [n for n in state.nexthops.values() if any(i == old.nhid for i, _ in n.group)]
    if new.blackhole and any(len(g.group) > 1 for g in groups):
        raise Refused(EINVAL, "Blackhole nexthop can not be a member of a group with more than one path")
    if any(r.family == AF_INET6 for n in (old, *groups) for r in state.on_nexthop(n.nhid)):
        _refuse_v4_under_v6(state, new)
