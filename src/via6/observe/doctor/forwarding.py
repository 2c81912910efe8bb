"""Findings about forwarding and the reverse path filter of a node that passes IPv4 on for others.

That a node should forward has to be seen: a host with one link and a default route is none that should. Seen it is by
Babel, by routes with IPv6 next hops out of different interfaces, by a network behind it that has no other gateway, or
by another node's route that leads here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from via6.model import TABLE_MAIN, Link
from via6.observe.doctor.finding import ERROR, WARNING, Case, Check, Finding
from via6.observe.doctor.look import (
    Use,
    at,
    babel_devices,
    has_read,
    is_strict,
    links_of,
    of_dev,
    own4,
    rp_filter,
    said,
    set_sysctls,
    subnets,
    uses,
    uses6,
    via6_devices,
)
from via6.observe.doctor.machine import forwards
from via6.observe.doctor.peers import Peers
from via6.observe.doctor.reverse import comes_in
from via6.observe.node import LINUX, Node
from via6.prefix import Address, Prefix, format_address, mask

DUMMY: Final = bytes((192, 0, 0, 8))
_MANY: Final = 200_000  # prefixes that are compared one by one


# --- forwarding ----------------------------------------------------------------------------------------------------


def forwarding_off(case: Case) -> Iterator[Finding]:
    """Interfaces at which packets come in that are to go on, and that do not forward."""
    node = case.node
    if not has_read(node, "sysctls", "routes4", "links", "addresses") or node.system != LINUX:
        return
    should = {link.name: why for link, why in should_forward(case) if link.up}
    off = [dev for dev in should if of_dev(node, 4, dev, "forwarding") == 0]
    if not off:
        return
    if len(off) == len(should) and not forwards(node):
        path = "net/ipv4/ip_forward"
        paths = [f"net/ipv4/conf/{dev}/forwarding" for dev in off]
        yield Finding(
            "forwarding-off",
            ERROR,
            f"{node.name} does not forward IPv4: what comes in for others is dropped",
            (*said(node, path, *paths), *dict.fromkeys(should.values())),
            f"all IPv4 that should pass {node.name}",
            set_sysctls({path: 1})[0],
            fixes=set_sysctls(dict.fromkeys(paths, 1))[1],
            places=at(node, "", *off),
        )
        return
    for dev in off:
        path = f"net/ipv4/conf/{dev}/forwarding"
        remedy, fixes = set_sysctls({path: 1})
        yield Finding(
            "forwarding-off",
            ERROR,
            f"{dev} does not forward IPv4: what comes in there for others is dropped",
            (*said(node, path), should[dev]),
            f"all IPv4 that should pass {node.name} from {dev}",
            remedy,
            subject=dev,
            fixes=fixes,
            places=at(node, dev),
        )


def should_forward(case: Case) -> list[tuple[Link, str]]:
    """The interfaces at which packets for others come in, with what tells so; none of a node that is no router."""
    node = case.node
    told = {index: f"routes with IPv6 next hops leave by {node.kernel.dev(index)}" for index in via6_devices(node)}
    told |= {index: f"Babel is spoken on {node.kernel.dev(index)}" for index in babel_devices(node)}
    asked = _next_hop_of_others(case)
    lans = {index: f"{networks[0]} is behind {node.kernel.dev(index)}" for index, networks in _stubs(node).items()}
    in_use = links_of(node, told.keys() | lans.keys() | asked.keys())
    if len(in_use) < 2 and not asked:
        return []
    if not asked and not forwards(node) and not _is_router(node, told.keys(), lans.keys()):
        return []
    merged = lans | told | asked
    return [(link, merged[link.ifindex]) for link in in_use]


def _is_router(node: Node, uplinks: Iterable[int], lans: Iterable[int]) -> bool:
    """Routes say so: a network behind one interface and IPv6 next hops behind another, or IPv6 next hops of different
    prefixes behind two."""
    links = links_of(node, uplinks)
    if links and any(link not in links for link in links_of(node, lans)):
        return True
    if len(babel_devices(node)) > 1:
        return True
    sets: dict[int, set[Prefix]] = {}
    for use in uses6(node):
        if len(use.block) > _MANY:
            continue
        here = sets.setdefault(use.hop.ifindex, set())
        here |= {Prefix(d, use.route.prefix.length) for d in use.block.destinations}
    found = list(sets.values())
    return any(a - b and b - a for at_a, a in enumerate(found) for b in found[at_a + 1 :])


def _stubs(node: Node) -> dict[int, list[Prefix]]:
    """IPv4 networks that have this node for their gateway: no route leads to another router there, and where Babel
    is spoken they are announced."""
    gateways = {use.hop.ifindex for use in uses(node) if use.hop.via is not None}
    found = {index: networks for index, networks in subnets(node).items() if index not in gateways}
    if node.babel is None:
        return found
    exported = {prefix for prefix, _ in node.babel.exports}
    kept = {i: [n for n in networks if any(e.covers(n) for e in exported)] for i, networks in found.items()}
    return {index: networks for index, networks in kept.items() if networks}


def _next_hop_of_others(case: Case) -> dict[int, str]:
    """Interfaces that another node's route leads to, for an address that is not this node's own."""
    if not case.others:
        return {}
    node = case.node
    held: dict[Address, list[int]] = {}
    for one in node.kernel.addresses:
        held.setdefault(one.address, []).append(one.ifindex)
    own = own4(node)
    segments = Peers(case).segments
    near = {index: segments.on((case.at, index)) for indexes in held.values() for index in indexes}
    found: dict[int, str] = {}
    for at_other in sorted({place for ports in near.values() for place, _ in ports}):
        other = case.company.nodes[at_other]
        for use in uses(other):
            for index in held.get(use.hop.via or b"", ()):
                if index in found or (at_other, use.hop.ifindex) not in near[index]:
                    continue
                foreign = (d for d in use.block.destinations if use.route.prefix.length < 32 or d not in own)
                destination = next(foreign, None)
                if destination is not None:
                    prefix = Prefix(destination, use.route.prefix.length)
                    found[index] = f"{other.name} sends {prefix} to {format_address(use.hop.via or b'')} there"
    return found


# --- rp_filter -----------------------------------------------------------------------------------------------------


def rp_filter_strict(case: Case) -> Iterator[Finding]:
    """A strict filter where packets may come in by another interface than the way back leaves by."""
    node = case.node
    if not has_read(node, "sysctls", "routes4"):
        return
    strict = list(_strict(case))
    for link, lost, seen in strict:
        paths = [f"net/ipv4/conf/{dev}/rp_filter" for dev in ("all", link.name)]
        level = rp_filter(node, link.name)
        remedy, fixes = set_sysctls(_lifted(node, [link.name], [one.name for one, _, _ in strict]))
        loose = () if level == 1 else (f"{link.name} has no IPv4 address: 2 is as strict as 1 there",)
        yield Finding(
            "rp-filter-strict",
            ERROR if lost else WARNING,
            f"rp_filter={level} drops what comes in by {link.name} when the way back leaves by another interface",
            (*said(node, *paths), *loose, seen),
            f"packets on an asymmetric way through {link.name}",
            remedy,
            subject=link.name,
            fixes=fixes,
            places=at(node, link.name),
        )


def _strict(case: Case) -> Iterator[tuple[Link, str, str]]:
    """(an interface with a strict filter, what tells that packets are dropped there now, that or that they may be)."""
    node = case.node
    for link in links_of(node, via6_devices(node) | subnets(node).keys()):
        if link.up and is_strict(node, link):
            lost = _lost(case, link)
            seen = lost or _may_come_by(case, link)
            if seen:
                yield link, lost, seen


def _lifted(node: Node, devices: Iterable[str], lifted: Iterable[str]) -> dict[str, int]:
    """The values that take the filter off these interfaces and leave it as it is on all but those that lose it too
    (`lifted`, and those to IPv6 next hops): one that hung on `all` is set on the interface, such as the one to the
    Internet."""
    level = of_dev(node, 4, "all", "rp_filter") or 0
    paths = [f"net/ipv4/conf/{dev}/rp_filter" for dev in ("all", *devices)]
    values = {path: 0 for path in paths if node.sysctls.get(path)}
    others = {*devices, *lifted, *(link.name for link in links_of(node, via6_devices(node)))}
    for link in node.kernel.links if level else ():
        own = of_dev(node, 4, link.name, "rp_filter")
        above = node.kernel.by_index.get(link.master) if link.master else None
        port = above is not None and above.kind != "vrf"  # what comes in there has come in by the bridge
        if not link.loopback and not port and link.name not in others and own is not None and own < level:
            values[f"net/ipv4/conf/{link.name}/rp_filter"] = level
    return values


def _lost(case: Case, link: Link) -> str:
    """What tells that packets are dropped now; empty if nothing does."""
    if case.measured.rpf_drops:
        return f"TcpExt IPReversePathFilter grew by {case.measured.rpf_drops} while we looked"
    return comes_in(case, link)


def _may_come_by(case: Case, link: Link) -> str:
    """What tells that packets may come in by an interface that their answers do not leave by; empty if nothing does."""
    node = case.node
    by_babel = _two_ways_in_babel(node, link)
    if by_babel:
        return by_babel
    best: dict[Prefix, tuple[int, set[int]]] = {}
    worse: list[tuple[Prefix, int]] = []
    for use in uses(node):
        if use.route.table != TABLE_MAIN or len(use.block) > _MANY:
            continue
        for destination in use.block.destinations:
            prefix = Prefix(destination, use.route.prefix.length)
            metric, devices = best.get(prefix, (1 << 32, set()))
            if use.route.metric < metric:
                best[prefix] = (use.route.metric, {use.hop.ifindex})
            elif use.route.metric == metric:
                devices.add(use.hop.ifindex)
            if use.hop.ifindex == link.ifindex:
                worse.append((prefix, use.route.metric))
    for prefix, metric in worse:
        first, devices = best[prefix]
        if metric > first and link.ifindex not in devices:
            out = ", ".join(sorted(node.kernel.dev(index) for index in devices))
            return f"{prefix} is behind {link.name} as well (metric {metric}), but answers leave by {out}"
    return ""


def _two_ways_in_babel(node: Node, link: Link) -> str:
    """A prefix that is announced on this interface and on another one, by which it is routed."""
    routes = node.babel.routes if node.babel is not None else ()
    chosen = {route.prefix: route for route in routes if route.selected}
    for route in routes:
        best = chosen.get(route.prefix)
        if best and route.ifindex == link.ifindex != best.ifindex and route.metric < 0xFFFF and len(
            route.prefix.packed
        ) == 4:  # fmt: skip
            out = node.kernel.dev(best.ifindex)
            return f"Babel announces {route.prefix} on {link.name} as well, but answers leave by {out}"
    return ""


def rp_filter_dummy(case: Case) -> Iterator[Finding]:
    """A filter that drops what comes from 192.0.0.8: there is no route to it."""
    node = case.node
    if not has_read(node, "sysctls", "routes4", "rules") or _all_have_addresses(case):
        return
    devices: list[str] = []
    evidence: list[str] = []
    for link in links_of(node, via6_devices(node)):
        level = rp_filter(node, link.name)
        if not link.up or not level or _route_to_dummy(node, link):
            continue
        paths = [f"net/ipv4/conf/{dev}/rp_filter" for dev in ("all", link.name)]
        devices.append(link.name)
        evidence += said(node, *paths)
    if not devices:
        return
    remedy, fixes = set_sysctls(_lifted(node, devices, [one.name for one, _, _ in _strict(case)]))
    listed = ", ".join(devices)
    yield Finding(
        "rp-filter-dummy",
        WARNING,
        f"rp_filter drops ICMP errors of routers without an IPv4 address on {listed}: there is no route to 192.0.0.8",
        (*dict.fromkeys(evidence), "ip route get 192.0.0.8: no route back by the interface that it comes in by"),
        '"fragmentation needed" of such routers (RFC 7600): large packets vanish where the MTU shrinks, pings pass',
        remedy,
        subject=listed,
        fixes=fixes,
        places=at(node, *devices),
    )


def _all_have_addresses(case: Case) -> bool:
    """Every other node is known, and none sends from 192.0.0.8."""
    return bool(case.others) and all(has_read(one, "addresses") and own4(one) for one in case.others)


def _route_to_dummy(node: Node, link: Link) -> bool:
    """The filter finds a route to 192.0.0.8: with a strict one by this interface. Any rule's table is good enough."""
    tables = {rule.table for rule in node.kernel.rules if rule.table} or {TABLE_MAIN}
    routes = [use for use in uses(node) if use.route.table in tables and _covers(use, DUMMY)]
    if not routes:
        return False
    best = min((-use.route.prefix.length, use.route.metric) for use in routes)
    found = [use for use in routes if (-use.route.prefix.length, use.route.metric) == best]
    return not is_strict(node, link) or any(use.hop.ifindex == link.ifindex for use in found)


def _covers(use: Use, address: Address) -> bool:
    return mask(address, use.route.prefix.length) in use.block.destinations


CHECKS: Final[tuple[Check, ...]] = (forwarding_off, rp_filter_strict, rp_filter_dummy)
