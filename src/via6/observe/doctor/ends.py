"""What the two ends of a link must agree on, seen where both are known: that the link is up, and its IPv4 network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from via6.model import InterfaceAddress, Link
from via6.observe.doctor.finding import WARNING, Case, Check, Finding
from via6.observe.doctor.look import babel_devices, has_read, link_local_of, links_of, subnets, uses, uses6
from via6.observe.doctor.peers import Peers
from via6.observe.node import Node
from via6.prefix import Prefix, format_address, mask


def link_down(case: Case) -> Iterator[Finding]:
    """An interface that is set down, while the other end of its link is up and waits for it."""
    node = case.node
    if not case.others or not has_read(node, "links"):
        return
    peers = Peers(case)
    for link in links_of(node, node.kernel.by_index):
        for at, far in _other_ends(peers, link) if not link.up else ():
            name = peers.nodes[at].name
            if not far.up or far.carrier or not _used(peers.nodes[at], far):
                continue
            yield Finding(
                "link-down",
                WARNING,
                f"{node.name}'s {link.name} is set down, and {name}'s {far.name}, its other end, is up and in use",
                (f"{node.name} {link.name}: down", f"{name} {far.name}: up, no carrier"),
                f"what {name} and {node.name} send each other by this link",
                (
                    f"ip link set dev {link.name} up",
                    "# its routes went with it, unless a daemon puts them back: set them anew, then via6 doctor again",
                ),
                subject=link.name,
                places=((node.name, link.name), (name, far.name)),
            )


def _other_ends(peers: Peers, link: Link) -> list[tuple[int, Link]]:
    """(place of the node, its interface). With the carrier all neighbour entries are gone: what still tells is a route
    by the address that the interface makes itself, or the numbers of a veth pair, if no other pair can be meant."""
    if peers.segments.closed((peers.at, link.ifindex)):
        known = [(at, peers.segments.link((at, index))) for at, index in peers.segments.on((peers.at, link.ifindex))]
        return [(at, far) for at, far in known if far is not None]
    own = link_local_of(link)
    others = [
        (at, far) for at, node in enumerate(peers.nodes) if at != peers.at
        for far in node.kernel.links if not far.carrier
    ]  # fmt: skip
    named = [
        (at, far) for at, far in others
        if own and any(use.hop.via == own and use.hop.ifindex == far.ifindex for use in uses6(peers.nodes[at]))
    ]  # fmt: skip
    if named or not link.peer:
        return named

    def is_pair(far: Link) -> bool:
        return link.kind == far.kind == "veth" and (far.ifindex, far.peer) == (link.peer, link.ifindex)

    paired = [(at, far) for at, far in others if far.up and is_pair(far)]
    alike = [one for at, one in others if not one.up and (one.ifindex, one.peer) == (link.ifindex, link.peer)]
    return paired if len(paired) == 1 and not alike else []


def _used(node: Node, link: Link) -> bool:
    """Something leads there."""
    if link.ifindex in subnets(node) or link.ifindex in babel_devices(node):
        return True
    return any(use.hop.ifindex == link.ifindex for use in uses(node))


def netmask(case: Case) -> Iterator[Finding]:
    """Two ends of a link with addresses of one network, that do not agree how large it is."""
    node = case.node
    if not case.others or not has_read(node, "addresses"):
        return
    peers = Peers(case)
    here = subnets(node)
    for link in links_of(node, here):
        for at, index in peers.segments.on((peers.at, link.ifindex)):
            other = peers.nodes[at]
            there = subnets(other).get(index, [])
            if other.name < node.name or not has_read(other, "addresses"):
                continue  # said by the other one
            pair = _differ(here[link.ifindex], there)
            if pair is not None:
                ends = ((node, link.name, _of(node, link.ifindex, pair[0])),
                        (other, other.kernel.dev(index), _of(other, index, pair[1])))  # fmt: skip
                yield _netmask(ends, pair)


def _differ(here: Iterable[Prefix], there: Iterable[Prefix]) -> tuple[Prefix, Prefix] | None:
    """A network of each that overlap, where the other one has none that is the same."""
    one, other = [set(here) - set(there), set(there) - set(here)]
    return next(((a, b) for a in one for b in other if a.covers(b) or b.covers(a)), None)


def _of(node: Node, ifindex: int, network: Prefix) -> InterfaceAddress:
    """The address by which a node is on a network."""
    return next(
        one for one in node.kernel.addresses
        if one.ifindex == ifindex and one.length == network.length
        and mask(one.address, one.length) == network.packed
    )  # fmt: skip


def _netmask(ends: tuple[tuple[Node, str, InterfaceAddress], ...], pair: tuple[Prefix, Prefix]) -> Finding:
    told = [f"{node.name} {dev}: {format_address(one.address)}/{one.length}" for node, dev, one in ends]
    remedy = []
    for (node, dev, one), wanted in zip(ends, (pair[1], pair[0]), strict=True):
        own = format_address(one.address)
        remedy.append(
            f"# if {node.name} is wrong, there: ip address add {own}/{wanted.length} dev {dev};"
            f" ip address del {own}/{one.length} dev {dev}"
        )
    large, small = sorted(pair, key=lambda prefix: prefix.length)
    whose = next(node.name for (node, _, one), network in zip(ends, pair, strict=True) if network == large)
    return Finding(
        "netmask",
        WARNING,
        f"{told[0]} and {told[1]} are on one link, and do not agree how large its network is",
        tuple(told),
        f"{large} outside of {small}: {whose} asks for it on the link, where it is not; and whoever is there has no way"
        " back over the other",
        (*remedy, "# (with its last address an interface loses the routes by it: look at them afterwards)"),
        subject=ends[0][1],
        places=tuple((node.name, dev) for node, dev, _ in ends),
    )


CHECKS: Final[tuple[Check, ...]] = (link_down, netmask)
