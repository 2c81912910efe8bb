"""Findings about packet filters: what they drop of IPv4 with IPv6 next hops."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from via6.observe.doctor.finding import ERROR, WARNING, Case, Check, Finding
from via6.observe.doctor.look import babel_devices, links_of, subnets, uses6, via6_devices
from via6.observe.doctor.machine import forwards
from via6.observe.node import DROP, Node

_RULES: Final = {
    "forward4": ("meta nfproto ipv4 iifname { DEVICES } accept", ("-i DEVICE -j ACCEPT",)),
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


def _remedy(node: Node, name: str) -> tuple[str, ...]:
    """A rule at the head of each chain that is named in the evidence."""
    assert node.firewall is not None
    nft, ipt = _RULES[name]
    devices = [link.name for link in links_of(node, via6_devices(node) | subnets(node).keys())]
    nft = nft.replace("DEVICES", ", ".join(f'"{dev}"' for dev in devices))
    ipt = tuple(rule.replace("DEVICE", dev) for rule in ipt for dev in (devices if "DEVICE" in rule else [""]))
    made: dict[str, None] = {}
    for line in node.firewall.evidence:
        found = re.match(r"(nft (ip|ip6|inet|arp|bridge|netdev) (\S+) (\S+)|iptables (\S+) (\S+)):", line)
        if not found:
            continue
        if found[2]:
            made[f"nft insert rule {found[2]} {found[3]} {found[4]} '{nft}'"] = None
        else:
            program = "ip6tables" if name == "babel" else "iptables"
            made |= dict.fromkeys(f"{program} -t {found[5]} -I {found[6]} {rule}" for rule in ipt)
    if not made:
        return ()
    return (*made, "# to keep it: the same rule in /etc/nftables.conf, or where your firewall has its rules")


def _finding(node: Node, name: str, code: str, severity: str, title: str, breaks: str) -> Iterator[Finding]:
    if node.firewall is not None and getattr(node.firewall, name) == DROP:
        yield Finding(code, severity, title, node.firewall.evidence[:6], breaks, _remedy(node, name))


def in_use(node: Node) -> bool:
    """There is IPv4 with IPv6 next hops here, or Babel."""
    return bool(babel_devices(node)) or node.babel is not None or any(True for _ in uses6(node))


def forward(case: Case) -> Iterator[Finding]:
    """All forwarded IPv4 is dropped, on a node that forwards."""
    if forwards(case.node) and in_use(case.node):
        yield from _finding(
            case.node, "forward4", "firewall-forward", ERROR,
            f"the packet filter of {case.node.name} drops all IPv4 that it should forward",
            f"every IPv4 packet through {case.node.name}",
        )  # fmt: skip


def icmp(case: Case) -> Iterator[Finding]:
    """ICMP errors are dropped, on their way through or here."""
    if in_use(case.node):
        yield from _finding(
            case.node, "icmp4", "firewall-icmp", WARNING,
            f"the packet filter of {case.node.name} drops ICMP errors",
            'PMTUD ("fragmentation needed": large packets vanish where the MTU shrinks), traceroute, and the news that'
            " something is unreachable",
        )  # fmt: skip


def dummy(case: Case) -> Iterator[Finding]:
    """What routers without an IPv4 address say is dropped."""
    if in_use(case.node):
        yield from _finding(
            case.node, "dummy4", "firewall-dummy", WARNING,
            f"the packet filter of {case.node.name} drops what comes from 192.0.0.8, as routers without an IPv4"
            " address send their ICMP errors (RFC 7600)",
            'their "fragmentation needed": large packets vanish where the MTU shrinks, though pings pass; and they are'
            " no hops of a traceroute",
        )  # fmt: skip


def babel(case: Case) -> Iterator[Finding]:
    """UDP 6696 is dropped, on a node that speaks Babel."""
    node = case.node
    speaks = node.babel is not None or "6696" in node.unread.get("babel", "")
    if speaks:
        yield from _finding(
            node, "babel", "firewall-babel", ERROR,
            f"the packet filter of {node.name} drops UDP 6696: Babel does not hear its neighbours, or is not heard",
            f"every route that {node.name} learns or announces",
        )  # fmt: skip


CHECKS: Final[tuple[Check, ...]] = (forward, icmp, dummy, babel)
