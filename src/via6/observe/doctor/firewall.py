"""Findings about packet filters: what they drop of IPv4 with IPv6 next hops."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from via6.observe.doctor.finding import ERROR, INFO, WARNING, Case, Check, Finding
from via6.observe.doctor.forwarding import should_forward
from via6.observe.doctor.look import at, babel_devices, links_of, subnets, uses6, via6_devices
from via6.observe.doctor.machine import forwards
from via6.observe.doctor.network import is_container
from via6.observe.doctor.reverse import one_direction
from via6.observe.node import DROP, Node, Shut

_RULES: Final = {
    "forward4": ("iifname { DEVICES } accept", ("-i DEVICE -j ACCEPT",)),
    "stray4": ("iifname { DEVICES } ct state invalid accept", ("-i DEVICE -m conntrack --ctstate INVALID -j ACCEPT",)),
    "icmp4": (
        "icmp type { destination-unreachable, time-exceeded, parameter-problem } accept",
        tuple(f"-p icmp --icmp-type {kind} -j ACCEPT"
              for kind in ("destination-unreachable", "time-exceeded", "parameter-problem")),
    ),
    "dummy4": ("ip saddr 192.0.0.8 icmp type { destination-unreachable, time-exceeded, parameter-problem } accept",
               ("-s 192.0.0.8 -p icmp -j ACCEPT",)),
    "babel": ("ip6 saddr fe80::/10 udp sport 6696 udp dport 6696 accept",
              ("-s fe80::/10 -p udp --sport 6696 --dport 6696 -j ACCEPT",)),
}  # fmt: skip
"""What lets a class pass, as an nft rule and as iptables rules. DEVICES are those in use: not all the world."""
_IPV4: Final = {"inet": "meta nfproto ipv4 "}
"""What makes a rule one of IPv4 alone, by the family of its table: in `ip` all are, and nft takes no such word."""
_MOST_RULES: Final = 6


def _remedy(name: str, rules: Iterable[str], devices: Sequence[str]) -> tuple[str, ...]:
    """A rule at the head of each chain that drops the class."""
    nft, ipt = _RULES[name]
    nft = nft.replace("DEVICES", ", ".join(f'"{dev}"' for dev in devices))
    ipt = tuple(rule.replace("DEVICE", dev) for rule in ipt for dev in (devices if "DEVICE" in rule else [""]))
    made: dict[str, None] = {}
    for line in rules:
        found = re.match(r"(nft (ip|ip6|inet|netdev) (\S+) (\S+)|iptables (\S+) (\S+)):", line)
        if not found:
            continue
        if found[2]:
            words = nft
            if name == "stray4":
                words = _IPV4.get(found[2], "") + nft
            elif name == "forward4":  # a netdev chain is on its interfaces already, and where they leave knows no other
                words = "meta protocol ip accept" if found[2] == "netdev" else _IPV4.get(found[2], "") + nft
            made[f"nft insert rule {found[2]} {found[3]} {found[4]} '{words}'"] = None
        else:
            program = "ip6tables" if name == "babel" else "iptables"
            made |= dict.fromkeys(f"{program} -t {found[5]} -I {found[6]} {rule}" for rule in ipt)
    if not made:
        return ()
    return (*made, "# to keep it: the same rule in /etc/nftables.conf, or where your firewall has its rules")


def _shut(node: Node, name: str) -> list[Shut]:
    if node.firewall is None:
        return []
    found = [one for one in node.firewall.shut if one.packets == name]
    if name == "stray4":
        return found
    if not found and getattr(node.firewall, name) == DROP:  # a snapshot that does not say by which of its rules
        found = [Shut(name, tuple(f"one of these: {rule}" for rule in node.firewall.evidence))]
    return found


def _rules(found: Iterable[Shut]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(rule for one in found for rule in one.rules))


def _used(node: Node) -> list[str]:
    return [link.name for link in links_of(node, via6_devices(node) | subnets(node).keys())]


def _finding(
    node: Node, name: str, code: str, severity: str, title: str, breaks: str,
    found: Sequence[Shut], devices: Sequence[str] = (),
) -> Finding:  # fmt: skip
    rules = _rules(found)
    return Finding(
        code, severity, title, rules[:_MOST_RULES], breaks, _remedy(name, rules, devices or _used(node)),
        subject=", ".join(devices), places=at(node, *devices),
    )  # fmt: skip


def in_use(node: Node) -> bool:
    """There is IPv4 with IPv6 next hops here, or Babel."""
    return bool(babel_devices(node)) or node.babel is not None or any(True for _ in uses6(node))


# --- what is forwarded ---------------------------------------------------------------------------------------------


def forward(case: Case) -> Iterator[Finding]:
    """All forwarded IPv4 is dropped, on a node that forwards; or all that comes in by an interface in use, or leaves
    by one."""
    node = case.node
    found = _shut(node, "forward4")
    if not found or not forwards(node) or not in_use(node):
        return
    whole = [one for one in found if not one.into and not one.out]
    if whole:
        yield _finding(
            node, "forward4", "firewall-forward", ERROR,
            f"the packet filter of {node.name} drops all IPv4 that it should forward",
            f"every IPv4 packet through {node.name}", whole,
        )  # fmt: skip
        return
    core, sure = _meant(case)
    lans = _lans(case)
    told: set[str] = set()
    for severity, devices in ((ERROR, sure), (INFO, lans)):
        for one in _by_device(node, found, core, lans, [dev for dev in devices if dev not in told], severity):
            told.update(dev for _, dev in one.places)
            yield one


def _meant(case: Case) -> tuple[list[str], list[str]]:
    """(interfaces to IPv6 next hops, those and the ones of networks that are known to be meant for the others)."""
    node = case.node
    core = [link.name for link in links_of(node, via6_devices(node)) if link.up]
    asked = {link.name for link, why in should_forward(case) if case.others or node.babel is not None if why}
    return core, [*core, *(dev for dev in _lans(case) if dev in asked)]


def _lans(case: Case) -> list[str]:
    node = case.node
    links = links_of(node, subnets(node).keys() - via6_devices(node))
    return [link.name for link in links if link.up and not is_container(link.name)]


def _by_device(
    node: Node, found: Sequence[Shut], core: Sequence[str], lans: Sequence[str], devices: Sequence[str], severity: str
) -> Iterator[Finding]:
    """Those of `devices` by which nothing comes in to go on to any of `core`, or leaves that has come in by one. Of the
    only one in `core`: nothing for any of `lans`."""
    closed = {(one.into, one.out): one for one in found}
    into: dict[str, list[Shut]] = {}
    out: dict[str, list[Shut]] = {}
    for dev in devices:
        far = [one for one in core if one != dev] or [one for one in lans if one != dev]
        if far and all((dev, one) in closed for one in far):
            into[dev] = [closed[dev, one] for one in far]
        if far and all((one, dev) in closed for one in far):
            out[dev] = [closed[one, dev] for one in far]
    if all(one.into in into for pairs in out.values() for one in pairs):
        out = {}  # said by where it comes in
    for kind, word, verb in ((into, "comes in by", "from"), (out, "is to leave by", "to")):
        if kind:
            listed = ", ".join(kind)
            used = list(dict.fromkeys(one.into for pairs in kind.values() for one in pairs))
            one = _finding(
                node, "forward4", "firewall-forward", severity,
                f"the packet filter of {node.name} drops all IPv4 that {word} {listed}, instead of forwarding it",
                f"every IPv4 packet {verb} {listed} through {node.name}",
                [shut for pairs in kind.values() for shut in pairs], used,
            )  # fmt: skip
            ends = dict.fromkeys(end for pairs in kind.values() for shut in pairs for end in (shut.into, shut.out))
            if severity == INFO:
                one = replace(one, remedy=("# only if it is meant to be forwarded:", *one.remedy))
            yield replace(one, subject=f"{verb} {listed}", places=at(node, *ends))


# --- single kinds of packets ---------------------------------------------------------------------------------------


def _of_kind(
    node: Node, name: str, code: str, severity: str, what: str, breaks: str, devices: Iterable[str]
) -> Iterator[Finding]:
    """A class that is dropped altogether, or where it comes in by some of these interfaces, or leaves."""
    found = _shut(node, name)
    whole = [one for one in found if not one.into and not one.out]
    if whole:
        yield _finding(node, name, code, severity, f"the packet filter of {node.name} drops {what}", breaks, whole)
        return
    used = set(devices)
    some = [one for one in found if one.into in used or one.out in used]
    if some:
        ways = dict.fromkeys(f"that come in by {one.into}" if one.into else f"that leave by {one.out}" for one in some)
        named = list(dict.fromkeys(one.into or one.out for one in some))
        title = f"the packet filter of {node.name} drops {what} {', and those '.join(ways)}"
        yield _finding(node, name, code, severity, title, breaks, some, named)


def icmp(case: Case) -> Iterator[Finding]:
    """ICMP errors are dropped, on their way through or here."""
    node = case.node
    if in_use(node):
        yield from _of_kind(
            node, "icmp4", "firewall-icmp", WARNING, "ICMP errors",
            'PMTUD ("fragmentation needed": large packets vanish where the MTU shrinks), traceroute, and the news that'
            " something is unreachable", _meant(case)[1],
        )  # fmt: skip


def dummy(case: Case) -> Iterator[Finding]:
    """What routers without an IPv4 address say is dropped."""
    node = case.node
    if in_use(node):
        yield from _of_kind(
            node, "dummy4", "firewall-dummy", WARNING,
            "the ICMP errors of routers without an IPv4 address (from 192.0.0.8, RFC 7600)",
            'their "fragmentation needed": large packets vanish where the MTU shrinks, though pings pass; and they are'
            " no hops of a traceroute", _meant(case)[0],
        )  # fmt: skip


def babel(case: Case) -> Iterator[Finding]:
    """UDP 6696 is dropped, on a node that speaks Babel."""
    node = case.node
    speaks = node.babel is not None or "6696" in node.unread.get("babel", "")
    if speaks:
        yield from _of_kind(
            node, "babel", "firewall-babel", ERROR, "UDP 6696, the packets of Babel",
            f"every route that {node.name} learns or announces: it does not hear its neighbours there, or is not heard",
            [node.kernel.dev(index) for index in babel_devices(node) | case.measured.babel_links] or _used(node),
        )  # fmt: skip


def states(case: Case) -> Iterator[Finding]:
    """A filter that wants to see both directions, on a way that only one of them takes."""
    node = case.node
    found = _shut(node, "stray4")
    seen = one_direction(case) if found and in_use(node) else None
    if seen is None:
        return
    one = _finding(
        node, "stray4", "firewall-states", ERROR,
        f"the packet filter of {node.name} drops what is of no connection that it knows, and it sees one direction only"
        f" of packets from {seen[0]}",
        f"connections whose other direction does not pass {node.name}: their answers are dropped there", found,
    )  # fmt: skip
    ways = (f"the way there: {seen[1]}",)
    advice = "# or one way there and back: the metrics of the routes, or the costs of the links"
    yield replace(one, evidence=(*one.evidence, *ways), remedy=(*one.remedy, advice))


CHECKS: Final[tuple[Check, ...]] = (forward, icmp, dummy, babel, states)
