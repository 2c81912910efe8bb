"""Findings about routes and rules: what shadows ours, and where the node's own packets come from."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from via6.model import TABLE_LOCAL, TABLE_MAIN, Route, Rule
from via6.observe.doctor.finding import ERROR, INFO, WARNING, Case, Check, Finding
from via6.observe.doctor.forwarding import should_forward
from via6.observe.doctor.look import (
    BY_KERNEL,
    DAEMONS,
    DISCARDS,
    Use,
    at,
    blocks4,
    counted,
    deletion,
    discarding,
    has_read,
    links_of,
    route_text,
    subnets,
    uses6,
    via6_devices,
)
from via6.observe.doctor.machine import forwards
from via6.observe.node import Node
from via6.prefix import AF_INET, Address, Prefix, mask

_MAIN_RULE: Final = 32766
_SCOPE_LINK: Final = 253
_MOST: Final = 50_000
_SAMPLES: Final = 64


# --- the node's own packets ----------------------------------------------------------------------------------------


def no_ipv4_source(case: Case) -> Iterator[Finding]:
    """A node that is no router, or that is to reach something itself, and has no IPv4 address to send from."""
    node = case.node
    if not has_read(node, "addresses", "routes4", "links"):
        return
    found = [use for use in uses6(node) if use.route.src is None and not _has_source(node, use)]
    speaks = node.babel is not None or "babel" in node.unread or any(use.route.protocol in DAEMONS for use in found)
    router = (speaks and forwards(node)) or should_forward(case)
    if not found or (case.target is None and router):
        return
    devices = [link.name for link in links_of(node, {use.hop.ifindex for use in found})]
    yield Finding(
        "no-ipv4-source",
        ERROR,
        f"{node.name} has no IPv4 address for its own packets to {counted(found)}",
        ("ip -4 address show: none but 127.0.0.0/8", f"{counted(found)} has no src"),
        f"what programs on {node.name} itself send over IPv4 (what it forwards is not affected)",
        ("ip address add ADDRESS/32 dev lo   # an IPv4 address of yours that the others have a route to",),
        places=at(node, *devices) or at(node, ""),
    )


def _has_source(node: Node, use: Use) -> bool:
    """net/ipv4/devinet.c: inet_select_addr takes one of the device, else one of another that is not of scope link."""
    return any(
        len(one.address) == 4 and one.address[0] != 127 and (one.ifindex == use.hop.ifindex or one.scope < _SCOPE_LINK)
        for one in node.kernel.addresses
    )


# --- what shadows our routes ---------------------------------------------------------------------------------------


def route_shadowed(case: Case) -> Iterator[Finding]:
    """A route of another hand in the same table that the kernel takes in place of ours: same prefix and a smaller
    metric, or a longer prefix that discards."""
    node = case.node
    ours = list({id(use.block): use for use in uses6(node)}.values())
    mine = {use.route.protocol for use in ours}
    held: dict[int, frozenset[Address]] = {}
    best: dict[str, tuple[Route, Route]] = {}
    for other in _others(node, mine) if ours else ():
        for use in ours:
            if not _may_shadow(other, use.route):
                continue
            if id(use.block) not in held:
                held[id(use.block)] = frozenset(use.block.destinations)
            wanted = mask(other.prefix.packed, use.route.prefix.length)
            if wanted in held[id(use.block)]:
                best.setdefault(f"{other.table} {other.prefix}", (other, use.route.at(wanted)))
    for other, shadowed in best.values():
        yield _shadow(node, other, shadowed.prefix, shadowed)


def _others(node: Node, mine: set[int]) -> Iterator[Route]:
    """Routes one by one that are not ours: those of the kernel too, for a network of an interface goes before ours. A
    routing daemon's full table is not looked through."""
    for block in node.kernel.routes.blocks:
        template = block.template
        if template.family != AF_INET or template.table == TABLE_LOCAL or len(block) > _MOST:
            continue
        v6 = any(hop.via is not None and len(hop.via) == 16 for hop in template.next_hops) or template.nhid
        if not (v6 and template.protocol in mine):
            yield from block


def _may_shadow(other: Route, ours: Route) -> bool:
    """As far as the prefix is not looked at."""
    if other.table != ours.table:
        return False
    length, own = other.prefix.length, ours.prefix.length
    if length == own:
        if other.type == "unicast" and _plays_second(other, ours):
            return False
        return other.metric < ours.metric and other.tos == ours.tos
    return 0 < own < length and other.type in DISCARDS and other.protocol not in DAEMONS


def _plays_second(other: Route, ours: Route) -> bool:
    """Ours is meant to stand behind the other one: of one hand; learnt of a network that this node is on, too, or of a
    gateway beside its own; or by the very link of the network."""
    learnt = ours.protocol in DAEMONS and (other.protocol == BY_KERNEL or not ours.prefix.length)
    same_link = other.protocol == BY_KERNEL and {h.ifindex for h in other.next_hops} >= {
        h.ifindex for h in ours.next_hops
    }
    return other.protocol == ours.protocol or learnt or same_link


def _shadow(node: Node, other: Route, prefix: Prefix, ours: Route) -> Finding:
    what = route_text(node, other)
    devs = [node.kernel.dev(hop.ifindex) for hop in other.next_hops if hop.ifindex]
    remedy = deletion(node, other)
    if other.protocol == BY_KERNEL:
        remedy = f"# {other.prefix} is a network of an address on {devs[0] if devs else '?'}: renumber one of the two"
    return Finding(
        "route-shadowed",
        WARNING,
        f"the route to {prefix} is not used: the kernel takes {what}",
        (what, route_text(node, ours)),
        f"IPv4 to {other.prefix} as via6 or you have routed it",
        (remedy,),
        subject=str(other.prefix),
        places=at(node, *devs) or at(node, ""),
    )


def rule_shadowed(case: Case) -> Iterator[Finding]:
    """A rule before that of the main table that takes every packet to a prefix of ours, or no rule to the main table.
    Rules that look at sources, devices or marks are somebody's policy, and not judged, unless they discard what comes
    in by an interface to IPv6 next hops or from a network behind this node."""
    node = case.node
    ours = [use for use in uses6(node) if use.route.table == TABLE_MAIN]
    if not ours or not has_read(node, "rules"):
        return
    rules = sorted((rule for rule in node.kernel.rules if rule.family == AF_INET), key=lambda rule: rule.priority)
    for rule in rules:
        if rule.table == TABLE_MAIN and rule.action == "to_tbl" and _of_all(rule):
            return
        hit, severity = _takes(node, rule, ours), WARNING
        if not hit:
            severity = _of_ours(case, rule)
            hit = _discarded(node, rule, ours) if severity else ""
        if hit:
            yield _rule_finding(node, rule, hit, severity)
    if not any(rule.table == TABLE_MAIN for rule in rules):
        yield Finding(
            "rule-shadowed",
            ERROR,
            "no rule leads to the main table: its routes are not used",
            tuple(f"ip rule: {_rule_text(rule)}" for rule in rules) or ("ip rule: none",),
            f"IPv4 to {counted(ours)}",
            (f"ip rule add priority {_MAIN_RULE} lookup main",),
            subject="main",
        )


def _of_all(rule: Rule) -> bool:
    """It looks at the destination at most."""
    plain = not (rule.source and rule.source.length) and not (rule.iif or rule.oif or rule.fwmark or rule.fwmask)
    return plain and not rule.l3mdev and not rule.invert


def _takes(node: Node, rule: Rule, ours: list[Use]) -> str:
    """What a rule does with a prefix of ours; empty if it leaves all of them alone."""
    if not _of_all(rule) or rule.table in (TABLE_MAIN, TABLE_LOCAL):
        return ""
    met = [use for use in ours if rule.destination is None or _meets(use, rule.destination)]
    if not met:
        return ""
    if rule.action in DISCARDS:
        return f"discards ({rule.action}) {rule.destination or counted(met)}"
    if rule.action != "to_tbl":
        return ""
    for block in blocks4(node):
        template = block.template
        if template.table != rule.table or template.type == "throw" or len(block) > _MOST:
            continue
        for route in block:
            if any(_meets(use, route.prefix) for use in met):
                return f"leads to {route_text(node, route)} of table {rule.table}"
    return ""


def _of_ours(case: Case, rule: Rule) -> str:
    """How bad it is if a rule for one interface or for one network discards: a warning where others send to that or by
    it, an info where it is a network of this node alone; empty if it is nobody's that we know."""
    node = case.node
    if rule.oif or rule.fwmark or rule.fwmask or rule.l3mdev or rule.invert or _of_all(rule):
        return ""
    by_dev = {node.kernel.dev(index): networks for index, networks in subnets(node).items()}
    if rule.iif in {node.kernel.dev(index) for index in via6_devices(node)}:
        return WARNING
    if rule.iif and rule.iif not in by_dev:
        return ""
    behind = by_dev[rule.iif] if rule.iif else [one for networks in by_dev.values() for one in networks]
    if rule.source is not None and rule.source.length:
        source = rule.source
        behind = [one for one in behind if one.covers(source) or source.covers(one)]
    if not behind or not forwards(node):
        return ""
    routed = (use for other in case.others for use in uses6(other))
    return WARNING if any(_meets(use, one) and use.route.prefix.length for use in routed for one in behind) else INFO


def _discarded(node: Node, rule: Rule, ours: list[Use]) -> str:
    """What a rule discards of what is routed by ours; empty if it leaves it alone."""
    met = [use for use in ours if rule.destination is None or _meets(use, rule.destination)]
    if not met or (rule.action not in DISCARDS and rule.action != "to_tbl") or rule.table == TABLE_MAIN:
        return ""
    if rule.action in DISCARDS:
        return f"discards ({rule.action}) what it fits of {counted(met)}"
    for use in met:
        for destination in islice(use.block.destinations, _SAMPLES):
            route = discarding(node, destination, rule.table)
            if route is not None:
                return f"leads to {route_text(node, route)} of table {rule.table}"
    return ""


def _meets(use: Use, prefix: Prefix) -> bool:
    """Some of the routes have an address in common with a prefix."""
    length = use.route.prefix.length
    if prefix.length <= length:
        return any(mask(d, prefix.length) == prefix.packed for d in use.block.destinations)
    return mask(prefix.packed, length) in use.block.destinations if length else True


def _rule_words(rule: Rule) -> str:
    words = f"from {rule.source}" if rule.source is not None and rule.source.length else "from all"
    words += f" to {rule.destination}" if rule.destination else ""
    words += f" iif {rule.iif}" if rule.iif else ""
    return words + (f" lookup {rule.table}" if rule.action == "to_tbl" else f" {rule.action}")


def _rule_text(rule: Rule) -> str:
    return f"{rule.priority}: {_rule_words(rule)}"


def _rule_finding(node: Node, rule: Rule, hit: str, severity: str) -> Finding:
    return Finding(
        "rule-shadowed",
        severity,
        f"the rule {rule.priority} comes before the main table and {hit}: our routes there are not used",
        (f"ip rule: {_rule_text(rule)}",),
        f"IPv4 as the main table of {node.name} routes it",
        (f"ip rule del priority {rule.priority} {_rule_words(rule)}",),
        subject=str(rule.priority),
    )


CHECKS: Final[tuple[Check, ...]] = (no_ipv4_source, route_shadowed, rule_shadowed)
