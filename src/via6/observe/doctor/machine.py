"""Findings about the machine: its kernel, the limit of its ICMP, and programs that hold its interfaces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from via6.observe.doctor.finding import ERROR, WARNING, Case, Check, Finding
from via6.observe.doctor.look import (
    FROM_OUTSIDE,
    at,
    babel_devices,
    counted,
    links_of,
    of_dev,
    own4,
    parse_release,
    said,
    set_sysctls,
    uses6,
)
from via6.observe.node import LINUX, Node

_FIRST: Final = (5, 2)
_ANSWERS: Final = (5, 13)
_MENDED: Final = {(5, 12): 14, (5, 10): 47, (5, 4): 129, (4, 19): 196}
"""Stable lines that took the mend for the source of ICMP errors, and from which release on they surely have it."""

_TIME_EXCEEDED: Final = 11
_SLOW_MS: Final = 10_000  # between two ICMP errors to one address; the default is 1000
_FEW: Final = 20  # ICMP messages in a second, to all; the default is 1000, from 6.13 on 10000
_SMALL_BURST: Final = 5  # the default is 50


def forwards(node: Node) -> bool:
    """Some interface passes IPv4 on."""
    return any(of_dev(node, 4, link.name, "forwarding") for link in node.kernel.links if not link.loopback)


def kernel_too_old(case: Case) -> Iterator[Finding]:
    """Before 5.2 there are no such routes; before 5.13 a router without IPv4 address cannot send ICMP errors."""
    node = case.node
    release = parse_release(node.release)
    if node.system != LINUX or not node.release:
        return
    seen = (f"uname -r: {node.release}",)
    if release[:2] < _FIRST:
        yield Finding(
            "kernel-too-old",
            ERROR,
            f"the kernel {node.release} cannot hold an IPv4 route with an IPv6 next hop: that began with 5.2",
            seen,
            f"every route of via6 on {node.name}",
            ("# install a kernel of 5.2 or later (5.13 for routers without an IPv4 address) and boot it",),
        )
        return
    if release[:2] >= _ANSWERS or case.measured.icmp_source or own4(node) or not forwards(node):
        return
    tried = case.measured.icmp_source is not None
    if not tried and release[2] >= _MENDED.get(release[:2], 1 << 16):
        return
    how = ("a TTL that ran out in a network namespace of its own was answered from no usable address",) if tried else ()
    yield Finding(
        "kernel-too-old",
        ERROR if tried else WARNING,
        f"the kernel {node.release} sends ICMP errors from 0.0.0.0 where there is no IPv4 address: nobody gets them",
        (*seen, *how, "no IPv4 address but those of 127.0.0.0/8"),
        f'"fragmentation needed" and traceroute through {node.name}: large packets vanish where the MTU shrinks',
        ("ip address add ADDRESS/32 dev lo   # any IPv4 address of your own", "# or boot a kernel of 5.13 or later"),
    )


def icmp_rate_limit(case: Case) -> Iterator[Finding]:
    """So few ICMP errors that a traceroute misses hops. The kernel's defaults are well."""
    node = case.node
    if not forwards(node):
        return
    values: dict[str, int] = {}
    limit = node.sysctls.get("net/ipv4/icmp_ratelimit", 0)
    mask = node.sysctls.get("net/ipv4/icmp_ratemask", 0)
    if limit > _SLOW_MS and mask >> _TIME_EXCEEDED & 1:
        values["net/ipv4/icmp_ratelimit"] = 1000
    if node.sysctls.get("net/ipv4/icmp_msgs_per_sec", _FEW) < _FEW and mask >> _TIME_EXCEEDED & 1:
        values["net/ipv4/icmp_msgs_per_sec"] = 1000
    if node.sysctls.get("net/ipv4/icmp_msgs_burst", _SMALL_BURST) < _SMALL_BURST and mask >> _TIME_EXCEEDED & 1:
        values["net/ipv4/icmp_msgs_burst"] = 50
    if not values:
        return
    remedy, fixes = set_sysctls(values)
    yield Finding(
        "icmp-rate-limit",
        WARNING,
        f"{node.name} sends so few ICMP errors that a traceroute or trace does not see it",
        said(node, *values, "net/ipv4/icmp_ratemask"),
        f'{node.name} as a hop of traceroute, and some "fragmentation needed" that it has to send',
        remedy,
        fixes=fixes,
    )


def foreign_manager(case: Case) -> Iterator[Finding]:
    """A network manager that removes routes that it did not make, on an interface that has some."""
    node = case.node
    for link in links_of(node, {use.hop.ifindex for use in uses6(node)} | babel_devices(node)):
        told = case.measured.managers.get(link.name)
        here = [
            use for use in uses6(node) if use.hop.ifindex == link.ifindex and use.route.protocol not in FROM_OUTSIDE
        ]
        if not told or not (here or link.ifindex in babel_devices(node)):
            continue
        program, _, how = told.partition(": ")
        yield Finding(
            "foreign-manager",
            WARNING,
            f"{program} manages {link.name} and will remove the routes there that it did not make",
            (how, *((f"routes of others on {link.name}: {counted(here)}",) if here else ())),
            f"IPv4 by {link.name}, the next time that {program} starts or configures {link.name}",
            _MANAGER_REMEDIES[program](link.name) if program in _MANAGER_REMEDIES else (),
            subject=link.name,
            places=at(node, link.name),
        )


def _networkd(_dev: str) -> tuple[str, ...]:
    return (
        "mkdir -p /etc/systemd/networkd.conf.d",
        "printf '[Network]\\nManageForeignRoutes=no\\n' > /etc/systemd/networkd.conf.d/90-via6.conf",
        "# then, when routes may be lost for a moment: systemctl restart systemd-networkd",
    )


def _network_manager(dev: str) -> tuple[str, ...]:
    return (
        f"nmcli device set {dev} managed no",
        f"# to keep it: printf '[keyfile]\\nunmanaged-devices=interface-name:{dev}\\n'{_KEPT}",
    )


_KEPT: Final = " > /etc/NetworkManager/conf.d/90-via6.conf"
_MANAGER_REMEDIES: Final = {"systemd-networkd": _networkd, "NetworkManager": _network_manager}

CHECKS: Final[tuple[Check, ...]] = (kernel_too_old, icmp_rate_limit, foreign_manager)
