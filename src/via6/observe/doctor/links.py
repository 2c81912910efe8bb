"""Findings about links: what Neighbour Discovery needs on an interface, so that an IPv6 next hop can be asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from via6.model import IFA_F_DADFAILED, IFA_F_TENTATIVE, InterfaceAddress, Link
from via6.observe.doctor import addresses
from via6.observe.doctor.finding import ERROR, WARNING, Case, Check, Finding
from via6.observe.doctor.look import (
    NOARP,
    TUNNELS,
    at,
    counted,
    has_read,
    links_of,
    of_dev,
    said,
    set_sysctls,
    subnets,
    uses6,
    via6_devices,
)
from via6.observe.doctor.peers import Peers
from via6.observe.node import Node
from via6.prefix import format_address, is_link_local

_LEAST_MTU: Final = 1280  # RFC 8200, section 5
_ETHERNET_MTU: Final = 1500
_DOUBT: Final = IFA_F_TENTATIVE | IFA_F_DADFAILED
_PATIENT: Final = 3  # probes of DAD, one a second; more than these are no delay but a fault


def _used(node: Node) -> list[Link]:
    """The links in use that are up."""
    return [link for link in links_of(node, via6_devices(node)) if link.up]


def _breaks(node: Node, link: Link) -> str:
    routed = counted(use for use in uses6(node) if use.hop.ifindex == link.ifindex)
    return f"IPv4 to {routed}" if routed else f"Babel on {link.name}, and every route by it"


def ipv6_disabled(case: Case) -> Iterator[Finding]:
    """The IPv4 routes stay, and nobody can be asked for the link-layer address of their next hop."""
    node = case.node
    for link in _used(node):
        path = f"net/ipv6/conf/{link.name}/disable_ipv6"
        if not of_dev(node, 6, link.name, "disable_ipv6"):
            continue
        remedy, fixes = set_sysctls({path: 0})
        address = addresses.lost(case, link) if has_read(node, "addresses") else None
        if address is not None:
            command, fix = addresses.add(address, link.name)
            remedy, fixes = (remedy[0], command, *remedy[1:]), (*fixes, fix)
        yield Finding(
            "ipv6-disabled",
            ERROR,
            f"IPv6 is disabled on {link.name}: its IPv6 next hops cannot be asked for",
            said(node, path),
            _breaks(node, link),
            remedy,
            subject=link.name,
            fixes=fixes,
            places=at(node, link.name),
        )


def mtu_below_1280(case: Case) -> Iterator[Finding]:
    """The kernel turns IPv6 off on such a link."""
    node = case.node
    for link in _used(node):
        if link.mtu < _LEAST_MTU:
            address = addresses.lost(case, link) if has_read(node, "addresses") else None
            command = () if address is None else (addresses.add(address, link.name)[0],)
            usual = _ETHERNET_MTU if len(link.lladdr) == 6 else _LEAST_MTU
            yield Finding(
                "mtu-below-1280",
                ERROR,
                f"the MTU {link.mtu} of {link.name} is too small for IPv6: the kernel has turned IPv6 off there",
                (f"{link.name}: mtu {link.mtu}",),
                _breaks(node, link),
                (f"ip link set dev {link.name} mtu {usual}   # at both ends the same", *command),
                subject=link.name,
                places=at(node, link.name),
            )


def _own6(node: Node, link: Link) -> list[InterfaceAddress]:
    return [one for one in node.kernel.addresses if one.ifindex == link.ifindex and len(one.address) == 16]


def no_address(case: Case) -> Iterator[Finding]:
    """An interface without an IPv6 address that it may use, and why."""
    node = case.node
    if not has_read(node, "addresses"):
        return
    for link in _used(node):
        own = _own6(node, link)
        yield from _dad(node, link, own)
        if link.flags & NOARP or link.kind in TUNNELS or own or link.mtu < _LEAST_MTU:
            continue
        if of_dev(node, 6, link.name, "disable_ipv6"):
            continue  # said already
        command, fix = addresses.add(addresses.lost(case, link, nothing_comes=True) or b"", link.name)
        yield Finding(
            "no-link-local",
            ERROR,
            f"{link.name} has no IPv6 address: it cannot ask for its IPv6 next hops",
            (f"ip -6 address show dev {link.name}: nothing",),
            _breaks(node, link),
            (command,),
            subject=link.name,
            fixes=(fix,),
            places=at(node, link.name),
        )


def _dad(node: Node, link: Link, own: list[InterfaceAddress]) -> Iterator[Finding]:
    for one in own:
        text = f"{format_address(one.address)}/{one.length}"
        if one.flags & IFA_F_DADFAILED:
            new = addresses.made(node, link, one.address)
            other = f"{format_address(new)}/64" if is_link_local(one.address) else f"ANOTHER/{one.length}"
            yield Finding(
                "dad-failed",
                ERROR,
                f"{text} on {link.name} is somebody else's, too: {node.name} may not use it",
                (f"ip -6 address show dev {link.name}: {text} dadfailed",),
                f"what has {format_address(one.address)} as its next hop, and all Neighbour Discovery on {link.name}",
                (
                    f"ip -6 address del {text} dev {link.name}",
                    f"ip -6 address add {other} dev {link.name}",
                    "# or give the other machine on the link another address, and this one again",
                ),
                subject=f"{link.name} {text}",
                places=at(node, link.name),
            )
        elif one.flags & IFA_F_TENTATIVE and not any(not o.flags & _DOUBT for o in own if is_link_local(o.address)):
            yield _pending(node, link, text)


def _pending(node: Node, link: Link, text: str) -> Finding:
    path = f"net/ipv6/conf/{link.name}/dad_transmits"
    probes = node.sysctls.get(path, 1)
    remedy: tuple[str, ...] = ("sleep 3   # it takes a second or two; if it stays so, the other lines",)
    if probes > _PATIENT:
        remedy = ()
    return Finding(
        "dad-pending",
        WARNING,
        f"{text} on {link.name} waits for duplicate address detection: {node.name} may not use it yet",
        (f"ip -6 address show dev {link.name}: {text} tentative", *said(node, path)),
        _breaks(node, link),
        (
            *remedy,
            f"sysctl -w net/ipv6/conf/{link.name}/dad_transmits=1",
            f"ip -6 address del {text} dev {link.name}",
            f"ip -6 address add {text} dev {link.name} nodad",
        ),
        subject=f"{link.name} {text}",
        places=at(node, link.name),
    )


# --- ARP and Neighbour Discovery on one link -----------------------------------------------------------------------


def mixed_link(case: Case) -> Iterator[Finding]:
    """A link on which this end has an IPv4 network and the other has no IPv4 address, or the other way round."""
    node = case.node
    if not has_read(node, "links", "addresses"):
        return
    here = subnets(node)
    for link in _used(node):
        if link.flags & NOARP or link.kind in TUNNELS:
            continue
        networks = here.get(link.ifindex, [])
        seen = _other_end(case, link, bool(networks)) if case.others else _nobody_answers(case, link)
        if not networks or not seen:
            continue
        listed = ", ".join(map(str, networks))
        own = next(a for a in node.kernel.addresses if a.ifindex == link.ifindex and len(a.address) == 4)
        text = f"{format_address(own.address)}/{own.length}"
        yield Finding(
            "mixed-link",
            WARNING,
            f"only this end of {link.name} has IPv4 ({text}): some next hops there are asked by ARP, some by ND",
            (f"{link.name}: {text}, and IPv6 next hops", seen),
            f"what {node.name} sends from {format_address(own.address)} itself (the other end has no route to"
            f" {listed}), and routes with {format_address(own.address)} as their next hop",
            (
                # Never without an address in between: with its last one an interface loses its IPv4 routes.
                f"ip address add {format_address(own.address)}/32 dev {link.name}   # the address without the network",
                f"ip address del {text} dev {link.name}",
                "# or give the other end an IPv4 address of the same network",
            ),
            subject=link.name,
            places=at(node, link.name),
        )


def _other_end(case: Case, link: Link, here: bool) -> str:
    """What the other end of a link between two nodes has, if it differs; empty if it does not."""
    peers = Peers(case)
    port = (peers.at, link.ifindex)
    far = peers.segments.on(port)
    if not here or len(far) != 1 or not peers.segments.closed(port):
        return ""
    node = peers.nodes[far[0][0]]
    if not has_read(node, "addresses") or far[0][1] in subnets(node):
        return ""
    return f"{node.name}'s {node.kernel.dev(far[0][1])}, the other end: no IPv4 address"


def _nobody_answers(case: Case, link: Link) -> str:
    told = case.measured.lonely4.get(link.ifindex, "")
    answers = any(ifindex == link.ifindex for ifindex, _ in case.measured.answered)
    return told if answers else ""


CHECKS: Final[tuple[Check, ...]] = (ipv6_disabled, mtu_below_1280, no_address, mixed_link)
