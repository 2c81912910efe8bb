"""All checks, what can follow from what, and the findings of a network in the order of reading."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from via6.observe.doctor import (
    babel,
    ends,
    firewall,
    forwarding,
    links,
    machine,
    network,
    nexthops,
    path,
    routes,
    tunnels,
)
from via6.observe.doctor.finding import ERROR, INFO, WARNING, Case, Check, Finding

CHECKS: Final[tuple[Check, ...]] = (
    *machine.CHECKS,
    *links.CHECKS,
    *ends.CHECKS,
    *forwarding.CHECKS,
    *firewall.CHECKS,
    *nexthops.CHECKS,
    *tunnels.CHECKS,
    *routes.CHECKS,
    *babel.CHECKS,
    *network.CHECKS,
    *path.CHECKS,
)

_LINK: Final = ("ipv6-disabled", "no-link-local", "mtu-below-1280", "dad-failed", "dad-pending")
_SILENT: Final = (
    "next-hop-dead", "next-hop-off-link", "next-hop-unreachable", "neighbour-wrong", "next-hop-twice",
    "synthetic-next-hop", "wireguard-peers", "wireguard-silent",
)  # fmt: skip
_WAY: Final = (
    *_LINK, *_SILENT, "forwarding-off", "firewall-forward", "firewall-states", "allowed-ips-gap",
    "route-shadowed", "rule-shadowed", "link-down", "netmask", "no-way-back", "installed-missing", "rp-filter-strict",
    "mixed-link", "daemon-not-running", "daemon-not-answering",
)  # fmt: skip
_HEARD: Final = (
    *_LINK, "wireguard-peers", "wireguard-silent", "allowed-ips-gap", "firewall-babel",
    "babel-filtered", "babel-key", "babel-version", "babel-own-address",
    "daemon-not-answering",
)  # fmt: skip

FOLLOWS: Final[Mapping[str, tuple[str, ...]]] = {
    "no-link-local": ("ipv6-disabled",),
    "next-hop-dead": ("link-down",),
    "next-hop-off-link": ("ipv6-disabled", "no-link-local"),
    "next-hop-unreachable": (
        *_LINK,
        "next-hop-off-link",
        "synthetic-next-hop",
        "next-hop-dead",
        "mixed-link",
        "neighbour-wrong",
        "link-down",
    ),
    "allowed-ips-gap": ("synthetic-next-hop",),
    "rp-filter-dummy": ("rp-filter-strict",),
    "firewall-icmp": ("firewall-forward",),
    "firewall-dummy": ("firewall-forward", "firewall-icmp"),
    "babel-one-way": _HEARD,
    "babel-filtered": (*_LINK, "firewall-babel", "babel-own-address", "daemon-not-answering"),
    "installed-missing": ("next-hop-dead", "rule-shadowed"),
    "no-way-back": (*_WAY, *_HEARD, "babel-one-way", "exported-twice"),
    "no-way": (*_WAY, *_HEARD, "babel-one-way", "exported-twice", "no-ipv4-source"),
    "loop": ("installed-missing", "route-shadowed", "rule-shadowed", "daemon-not-running", "daemon-not-answering"),
    "pmtud-black-hole": (
        "firewall-icmp",
        "firewall-dummy",
        "rp-filter-dummy",
        "kernel-too-old",
        "icmp-rate-limit",
        "mtu-mismatch",
    ),
    "mtu-mismatch": ("mtu-below-1280",),
}
"""What can be the cause of a code, when both are about one place. A chain of them is folded under its beginning."""

_ANYWHERE: Final[Mapping[str, frozenset[str]]] = {
    **dict.fromkeys(("no-way-back", "no-way", "loop"), frozenset((*_HEARD, "babel-one-way", "exported-twice",
                    "installed-missing", "next-hop-dead", "link-down", "daemon-not-running", "daemon-not-answering"))),
    "pmtud-black-hole": frozenset(FOLLOWS["pmtud-black-hole"]),
}  # fmt: skip
"""Codes whose cause may lie at any node of the network, with the causes that reach so far: a route that is not learnt
is missing everywhere, a node that does not forward is a fault at that node."""

_ORDER: Final = {ERROR: 0, WARNING: 1, INFO: 2}


def examine(*cases: Case) -> list[Finding]:
    """What is wrong in some cases of one network, folded and in order."""
    return fold(one for case in cases for one in found(case))


def found(case: Case) -> list[Finding]:
    """What the checks say of one case, each finding with its node. `fold` makes of it what is read."""
    name = case.node.name
    return [one if one.node else replace(one, node=name) for check in CHECKS for one in check(case)]


def fold(findings: Iterable[Finding]) -> list[Finding]:
    """Findings of one or more cases: each once, with what it follows from, roots before their followers and the severe
    before the mild."""
    unique = list({one.id: one for one in reversed(list(findings))}.values())[::-1]
    known = {one.id for one in unique}
    by_code: dict[str, list[Finding]] = {}
    for one in unique:
        by_code.setdefault(one.code, []).append(one)
    made = []
    for one in unique:
        causes = [name for name in one.depends_on if name in known and name != one.id]
        for code in FOLLOWS.get(one.code, ()):
            causes += [root.id for root in by_code.get(code, ()) if root.id != one.id and _together(root, one)]
        made.append(replace(one, depends_on=tuple(dict.fromkeys(causes))))
    return _ordered(_without_rings(made))


def _places(one: Finding) -> tuple[tuple[str, str], ...]:
    return one.places or ((one.node, ""),)


def _together(root: Finding, follower: Finding) -> bool:
    """They are about one place, or the follower may have its cause anywhere."""
    if root.code in _ANYWHERE.get(follower.code, ()):
        return True
    return any(
        node == other and (dev == far or not dev or not far)
        for node, dev in _places(root)
        for other, far in _places(follower)
    )


def _without_rings(findings: Sequence[Finding]) -> list[Finding]:
    """Two that name each other have no cause: the earlier one becomes it."""
    by_id = {one.id: one for one in findings}

    def leads_to(start: str, goal: str) -> bool:
        seen, todo = set(), [start]
        while todo:
            name = todo.pop()
            if name == goal:
                return True
            if name not in seen:
                seen.add(name)
                todo += by_id[name].depends_on
        return False

    for one in findings:
        kept = tuple(cause for cause in one.depends_on if not leads_to(cause, one.id))
        by_id[one.id] = replace(one, depends_on=kept)
    return [by_id[one.id] for one in findings]


def _ordered(findings: Sequence[Finding]) -> list[Finding]:
    worst = {  # a cause weighs what follows from it
        one.id: min(_ORDER.get(each.severity, 3) for each in (one, *followers(one, findings))) for one in findings
    }
    ranked = sorted(findings, key=lambda one: (worst[one.id], _ORDER.get(one.severity, 3), one.node))
    made: list[Finding] = []
    for root in (one for one in ranked if not one.depends_on):
        made.append(root)
        made += followers(root, ranked)
    return list(dict.fromkeys([*made, *ranked]))


def followers(root: Finding, findings: Sequence[Finding]) -> list[Finding]:
    """All that follow from a finding, near or far."""
    found, todo = {root.id: root}, [root.id]
    while todo:
        name = todo.pop()
        for one in findings:
            if name in one.depends_on and one.id not in found:
                found[one.id] = one
                todo.append(one.id)
    return list(found.values())[1:]


def troubled(findings: Iterable[Finding]) -> bool:
    """An error or a warning is among them."""
    return any(one.severity in (ERROR, WARNING) for one in findings)
