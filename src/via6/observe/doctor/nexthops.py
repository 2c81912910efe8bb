"""Findings about next hops: are they on the link, do they answer, does their device carry and take the packet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from via6.model import NH_DEAD, NH_LINKDOWN, NH_ONLINK, TABLE_MAIN, Link
from via6.observe.allowedips import collapse, peer_of, uncovered
from via6.observe.doctor.finding import ERROR, INFO, Case, Check, Finding, RunCommand
from via6.observe.doctor.look import (
    DAEMONS,
    NOARP,
    TUNNELS,
    Use,
    at,
    babel_devices,
    by_hop,
    counted,
    has_read,
    hop_text,
    link_local_of,
    links_of,
    prefixes,
    route_text,
    said,
    set_sysctls,
    some,
    uses,
    uses6,
)
from via6.observe.doctor.peers import Peers
from via6.observe.node import Node
from via6.observe.packet import format_lladdr
from via6.observe.verify.table import ignores_linkdown
from via6.observe.wg_babel import GROUP, LINK_LOCAL
from via6.prefix import AF_INET6, Address, Prefix, format_address, is_link_local, mask, parse_address

_SILENT: Final = frozenset({"FAILED", "INCOMPLETE"})
_WRITTEN: Final = frozenset({"PERMANENT", "NOARP"})
_SYNTHETIC: Final = {
    parse_address("169.254.0.1"): "an address that some routers invent in place of an IPv6 next hop",
    parse_address("254.128.0.0"): "fe80:: cut to four octets: a program that knows no IPv6 next hops of IPv4 wrote it",
}
_MOST: Final = 50_000  # destinations that are compared one by one
_SPELT: Final = 8  # routes whose replacement is spelt out


def askable(node: Node) -> set[tuple[int, Address]]:
    """(ifindex, address) of the IPv6 next hops that Neighbour Discovery can be asked for."""
    found = set()
    for use in uses6(node):
        link = node.kernel.by_index.get(use.hop.ifindex)
        if link is not None and link.carrier and not link.loopback and not _no_discovery(link):
            found.add((use.hop.ifindex, use.hop.via or b""))
    return found


def _no_discovery(link: Link) -> bool:
    return bool(link.flags & NOARP) or link.kind in TUNNELS


# --- the next hop --------------------------------------------------------------------------------------------------


def off_link(case: Case) -> Iterator[Finding]:
    """An IPv6 next hop that is on no prefix of its interface's link: the kernel asks there, and nobody answers."""
    node = case.node
    if not has_read(node, "routes6", "routes4", "links"):
        return
    for (ifindex, via), found in by_hop(uses6(node)).items():
        onlink = all(use.hop.flags & NH_ONLINK for use in found)
        if is_link_local(via) or onlink or (ifindex, via) in case.measured.answered:
            continue
        link = node.kernel.by_index.get(ifindex)
        if link is None or not link.up or _no_discovery(link):
            continue
        way = _way6(node, via)
        if way is not None and way.hop.ifindex == ifindex and way.hop.via is None:
            continue
        there = f"it is reached by {route_text(node, way.route)}" if way else "no IPv6 route leads to it"
        yield Finding(
            "next-hop-off-link",
            ERROR,
            f"the next hop {hop_text(node, ifindex, via)} is not on that link",
            (f"{counted(found)} via inet6 {hop_text(node, ifindex, via)}", f"{format_address(via)}: {there}"),
            f"IPv4 to {counted(found)}",
            _off_link_remedy(node, ifindex, via, found, way),
            subject=hop_text(node, ifindex, via),
            places=at(node, link.name),
        )


def _off_link_remedy(node: Node, ifindex: int, via: Address, found: Sequence[Use], way: Use | None) -> tuple[str, ...]:
    dev = node.kernel.dev(ifindex)
    if way is not None and way.hop.via is not None:
        return (
            *_replaced(node, found, way.hop.ifindex, way.hop.via),
            "# the router that is on the link instead; `via6 run` follows a next hop behind a router by itself",
        )
    network = Prefix(mask(via, 64), 64)
    return (f"ip -6 route add {network} dev {dev}   # if it is on that link, and only the prefix is missing",)


def _way6(node: Node, via: Address) -> Use | None:
    """The IPv6 route of the main table that leads to an address, with its first next hop."""
    best: Use | None = None
    for block in node.kernel.routes.blocks:
        template = block.template
        if template.family != AF_INET6 or template.table != TABLE_MAIN or template.type != "unicast":
            continue
        rank = (-template.prefix.length, template.metric)
        if best is not None and rank >= (-best.route.prefix.length, best.route.metric):
            continue
        wanted = mask(via, template.prefix.length)
        if wanted in block.destinations and template.next_hops:
            best = Use(template.next_hops[0], type(block)(template.at(wanted), (wanted,)))
    return best


def unreachable(case: Case) -> Iterator[Finding]:
    """A next hop that does not answer: asked now, or by what the kernel's table says."""
    node = case.node
    states = {(one.ifindex, one.address): one for one in node.kernel.neighbours}
    for (ifindex, via), found in by_hop(uses(node)).items():
        link = node.kernel.by_index.get(ifindex)
        if link is None or not link.carrier or _no_discovery(link) or (ifindex, via) in case.measured.answered:
            continue
        entry = states.get((ifindex, via))
        tried = case.measured.silent.get((ifindex, via))
        if tried is None and (entry is None or entry.state not in _SILENT):
            continue
        asked = "Neighbour Discovery" if len(via) == 16 else "ARP"
        seen = [f"ip neigh show dev {link.name}: {format_address(via)} {entry.state}"] if entry else []
        seen += [f"{format_address(via)} dev {link.name}: {tried}"] if tried else []
        yield Finding(
            "next-hop-unreachable",
            ERROR,
            f"the next hop {hop_text(node, ifindex, via)} does not answer {asked}",
            tuple(seen),
            f"IPv4 to {counted(found)}",
            _other_next_hop(case, ifindex, via, found),
            subject=hop_text(node, ifindex, via),
            places=_places(case, ifindex, via, link),
        )


def _places(case: Case, ifindex: int, via: Address, link: Link) -> tuple[tuple[str, str], ...]:
    """This end, and the other one if that is known: what is wrong there makes it silent here."""
    here = at(case.node, link.name)
    if not case.others:
        return here
    peers = Peers(case)
    ends = peers.segments.on((peers.at, ifindex)) or [
        one for one in peers.segments.owners.get(via, ()) if one[0] != peers.at
    ]
    if not ends:
        # The far end may have lost its address and all that tells of the link. Its routes or its MAC still say so.
        own = {one.address for one in case.node.kernel.addresses if one.ifindex == ifindex}
        ends = [
            (n, link.ifindex)
            for n, other in enumerate(peers.nodes)
            if n != peers.at
            for link in links_of(other, other.kernel.by_index)
            if link_local_of(link) == via
            or any(u.hop.ifindex == link.ifindex and u.hop.via in own for u in uses(other))
        ]
    return here + tuple((peers.nodes[n].name, peers.nodes[n].kernel.dev(i)) for n, i in ends)


def _other_next_hop(case: Case, ifindex: int, via: Address, found: Sequence[Use]) -> tuple[str, ...]:
    """Routes with the one that answers on the link in place of the one that does not; else where to look."""
    node = case.node
    dev = node.kernel.dev(ifindex)
    there = [one for one in case.measured.present.get(ifindex, ()) if one != via]
    if not there:
        entries = node.kernel.neighbours
        there = [
            n.address for n in entries
            if n.ifindex == ifindex and is_link_local(n.address) and n.state in ("REACHABLE", "PERMANENT")
            and n.address != via
        ]  # fmt: skip
    if len(there) == 1 and any(use.route.protocol not in DAEMONS for use in found):
        return _replaced(node, found, ifindex, there[0])
    words = ("ping -c 3 " + format_address(via) + (f"%{dev}" if is_link_local(via) else ""),)
    if any(use.route.protocol in DAEMONS for use in found):
        return (*words, "# the route is a routing daemon's, which leaves it when it misses its neighbour: via6 show")
    hint = f"; these answer there: {', '.join(map(format_address, there))}" if there else ""
    return (*words, f"# is that machine up, its interface too, and is this its address on {dev}?{hint}")


def _replaced(node: Node, found: Sequence[Use], ifindex: int, via: Address) -> tuple[str, ...]:
    """`via6 route replace …` for the first routes."""
    made = []
    dev = node.kernel.dev(ifindex)
    for use in found:
        route = use.route
        more = (f" metric {route.metric}" if route.metric else "") + (
            f" table {route.table}" if route.table != TABLE_MAIN else ""
        )
        way = f"via inet6 {format_address(via)} dev {dev}{more}"
        made += [f"via6 route replace {prefix} {way}" for prefix in islice(prefixes([use]), _SPELT)]
    left = sum(len(use.block) for use in found) - len(made[:_SPELT])
    return (*made[:_SPELT], *((f"# and so for {left} more",) if left else ()))


def wrong_entry(case: Case) -> Iterator[Finding]:
    """A neighbour entry that somebody wrote, and the next hop is elsewhere. One that the kernel has learnt it corrects
    by itself, by the very answer that we got."""
    node = case.node
    states = {(one.ifindex, one.address): one for one in node.kernel.neighbours}
    for (ifindex, via), found in by_hop(uses6(node)).items():
        entry = states.get((ifindex, via))
        there = case.measured.lladdrs.get((ifindex, via), ())
        if entry is None or entry.state not in _WRITTEN or not there or entry.lladdr in there:
            continue
        dev, hop, said = node.kernel.dev(ifindex), format_address(via), format_lladdr(entry.lladdr)
        command = ("ip", "neigh", "del", hop, "dev", dev)
        back = ("ip", "neigh", "replace", hop, "lladdr", said, "dev", dev, "nud", "permanent")
        yield Finding(
            "neighbour-wrong",
            ERROR,
            f"a neighbour entry that was written by hand sends packets for {hop_text(node, ifindex, via)} elsewhere",
            (
                f"ip neigh show dev {dev}: {hop} lladdr {said} {entry.state}",
                f"{hop} itself answers Neighbour Discovery from {', '.join(map(format_lladdr, there))}",
            ),
            f"IPv4 to {counted(found)}",
            (" ".join(command), "# and where it is written down, in a script or in the configuration of the interface"),
            subject=hop_text(node, ifindex, via),
            fixes=(RunCommand(command, back),) if entry.state == "PERMANENT" else (),
            places=at(node, dev),
        )


def twice(case: Case) -> Iterator[Finding]:
    """More than one machine on the link has the address of a next hop."""
    node = case.node
    for (ifindex, via), found in by_hop(uses6(node)).items():
        there = case.measured.lladdrs.get((ifindex, via), ())
        if len(there) < 2:
            continue
        dev, hop = node.kernel.dev(ifindex), format_address(via)
        names = {
            link.lladdr: f" ({other.name} {link.name})"
            for other in case.others for link in other.kernel.links if link.lladdr in there
        }  # fmt: skip
        ends = [f"{format_lladdr(one)}{names.get(one, '')}" for one in there]
        yield Finding(
            "next-hop-twice",
            ERROR,
            f"{len(there)} machines on the link of {dev} have the next hop {hop}: packets go to the one or the other",
            tuple(f"{hop} answers Neighbour Discovery from {end}" for end in ends),
            f"IPv4 to {counted(found)}",
            (
                f"# on the machine that is not meant, by its link-layer address {' or '.join(ends)}:",
                f"# ip -6 address add ANOTHER/64 dev DEV; ip -6 address del {hop}/64 dev DEV",
            ),
            subject=hop_text(node, ifindex, via),
            places=at(node, dev),
        )


def synthetic(case: Case) -> Iterator[Finding]:
    """An IPv4 next hop that stands for an IPv6 one."""
    node = case.node
    states = {(one.ifindex, one.address): one for one in node.kernel.neighbours}
    for (ifindex, via), found in by_hop(uses(node)).items():
        if via not in _SYNTHETIC:
            continue
        entry = states.get((ifindex, via))
        pinned = entry is not None and entry.state in ("PERMANENT", "NOARP")
        yield Finding(
            "synthetic-next-hop",
            INFO if pinned else ERROR,
            f"the next hop {hop_text(node, ifindex, via)} is nobody's address"
            + (", and works by a neighbour entry that somebody wrote" if pinned else ": ARP for it is not answered"),
            (f"{counted(found)} via {hop_text(node, ifindex, via)}", f"{format_address(via)} is {_SYNTHETIC[via]}"),
            "what shows or follows this next hop" if pinned else f"IPv4 to {counted(found)}",
            _synthetic_remedy(case, ifindex, found),
            subject=hop_text(node, ifindex, via),
            places=at(node, node.kernel.dev(ifindex)),
        )


def _synthetic_remedy(case: Case, ifindex: int, found: Sequence[Use]) -> tuple[str, ...]:
    node = case.node
    there = list(case.measured.present.get(ifindex, ())) or [
        n.address for n in node.kernel.neighbours
        if n.ifindex == ifindex and is_link_local(n.address) and n.state not in (*_SILENT, "NONE", "NOARP")
    ]  # fmt: skip
    if len(there) == 1:
        return _replaced(node, found, ifindex, there[0])
    dev = node.kernel.dev(ifindex)
    first = next(prefixes(found))
    return (
        f"ping -c 2 ff02::1%{dev}   # shows the link-local addresses on the link",
        f"via6 route replace {first} via inet6 ADDRESS dev {dev}",
    )


# --- its device ----------------------------------------------------------------------------------------------------


def dead(case: Case) -> Iterator[Finding]:
    """Routes over a link that does not carry, which the kernel uses all the same, or that have no other way."""
    node = case.node
    gone: dict[int, list[Use]] = {}
    alive: set[Prefix] = set()
    for use in uses(node):
        if use.hop.flags & (NH_DEAD | NH_LINKDOWN):
            gone.setdefault(use.hop.ifindex, []).append(use)
    if not gone:
        return
    for use in uses(node):
        if not use.hop.flags & (NH_DEAD | NH_LINKDOWN) and len(use.block) <= _MOST:
            alive.update(prefixes([use]))
    for ifindex, found in gone.items():
        dev = node.kernel.dev(ifindex)
        ignored = ignores_linkdown(node.sysctls, dev)
        used = [use for use in found if use.hop.flags & NH_LINKDOWN and not ignored]
        lost = [use for use in found if any(prefix not in alive for prefix in islice(prefixes([use]), _MOST))]
        if used or lost:
            yield _dead(node, dev, found, bool(used) and len(lost) < len(found))


def _dead(node: Node, dev: str, found: list[Use], others: bool) -> Finding:
    """`others`: some of the routes have another way, which would be taken if the kernel ignored this one."""
    path = f"net/ipv4/conf/{dev}/ignore_routes_with_linkdown"
    link = node.kernel.by_name.get(dev)
    remedy, fixes = set_sysctls({path: 1}) if others else ((), ())
    if link is not None and not link.up:
        remedy = (f"ip link set dev {dev} up", *remedy)
    else:
        remedy = (*remedy, f"# bring the other end of {dev} up, or look at the cable: ip link show dev {dev}")
    flags = "linkdown" if any(use.hop.flags & NH_LINKDOWN for use in found) else "dead"
    way = "and packets are still sent there" if others else "and there is no other way"
    return Finding(
        "next-hop-dead",
        ERROR,
        f"{dev} does not carry, {way}: {counted(found)}",
        (f"{counted(found)} dev {dev} {flags}", *_link_words(link), *said(node, path)),
        f"IPv4 to {counted(found)}",
        remedy,
        subject=dev,
        fixes=fixes,
        places=at(node, dev),
    )


def _link_words(link: Link | None) -> tuple[str, ...]:
    if link is None:
        return ()
    state = "set down" if not link.up else "no carrier" if not link.carrier else "carrier"
    return (f"{link.name}: {state}, {link.operstate}",)


def allowed_ips(case: Case) -> Iterator[Finding]:
    """Routes into a WireGuard device whose peer's AllowedIPs do not cover them: the device drops the packets."""
    node = case.node
    for (ifindex, via), found in _into_tunnels(node).items():
        dev = node.kernel.dev(ifindex)
        peers = node.wireguard[dev]
        peer = peer_of(peers, via or None)
        wanted = tuple(islice(prefixes(found), _MOST))
        if peer is None and via and peers:
            missing = tuple(p for p in wanted if all(uncovered(one, [p]) for one in peers))
        else:
            missing = uncovered(peer, wanted) if peer else wanted
        if not missing:
            continue
        remedy: tuple[str, ...] = (f"# give {dev} a peer: wg set {dev} peer KEY allowed-ips {some(missing)}",)
        fixes: tuple[RunCommand, ...] = ()
        if peer is not None:
            before = ",".join(map(str, peer.allowed))
            after = ",".join(map(str, (*peer.allowed, *collapse(missing))))
            remedy = (f"wg set {dev} peer {peer.key} allowed-ips {after}",
                      f"# and the same line in the file that {dev} is set up from")  # fmt: skip
            alone = all(not _overlap(one.allowed, missing) for one in peers if one is not peer)
            command = ("wg", "set", dev, "peer", peer.key, "allowed-ips")
            look = ("wg", "show", dev, "allowed-ips")
            by_babel = ifindex in babel_devices(node) and uncovered(peer, (GROUP, LINK_LOCAL))
            # What lets Babel pass lets this pass as well, and one command would undo the other.
            fixes = (RunCommand((*command, after), (*command, before), look),) if alone and not by_babel else ()
        lists = tuple(f"wg show {dev} allowed-ips: {one.key} {some(one.allowed) or '(none)'}" for one in peers[:3])
        yield Finding(
            "allowed-ips-gap",
            ERROR,
            f"the AllowedIPs of {dev}'s peer do not cover {some(missing)}: {dev} drops what is routed there",
            (f"{counted(found)} via {hop_text(node, ifindex, via or None)}", *(lists or (f"wg show {dev}: no peer",))),
            f"IPv4 to {some(missing)}",
            remedy,
            subject=f"{dev} {format_address(via)}" if via else dev,
            depends_on=(f"allowed-ips-gap:{node.name}:{dev} Babel",),
            fixes=fixes,
            places=at(node, dev),
        )


def _into_tunnels(node: Node) -> dict[tuple[int, Address], list[Use]]:
    made: dict[tuple[int, Address], list[Use]] = {}
    for use in uses(node):
        if node.kernel.dev(use.hop.ifindex) in node.wireguard:
            made.setdefault((use.hop.ifindex, use.hop.via or b""), []).append(use)
    return made


def _overlap(allowed: Sequence[Prefix], wanted: Sequence[Prefix]) -> bool:
    return any(a.covers(b) or b.covers(a) for a in allowed for b in wanted if a.family == b.family)


CHECKS: Final[tuple[Check, ...]] = (off_link, unreachable, wrong_entry, twice, synthetic, dead, allowed_ips)
