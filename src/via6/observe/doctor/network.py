"""What is wrong between nodes: ways that are missing, links whose ends differ, prefixes with two homes.

Ways are followed on paper (`verify`). Not every way that is missing is a fault: an island that nobody routes to was
perhaps never meant to be reached. So a way must be missing where another node, or the other direction, says that it
was meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from via6.model import PROTO_KERNEL, TABLE_LOCAL, Link, Route
from via6.observe.doctor.finding import ERROR, INFO, WARNING, Case, Check, Finding, RunCommand
from via6.observe.doctor.look import DAEMONS, deletion, discarding, subnets, uses
from via6.observe.doctor.machine import forwards
from via6.observe.doctor.peers import Peers
from via6.observe.node import DROP, Node
from via6.observe.verify.links import Port, Segments
from via6.prefix import AF_INET, Address, Prefix, format_address, is_link_local, mask

if TYPE_CHECKING:
    from via6.observe.verify.check import Checker
    from via6.observe.verify.problems import Problem
    from via6.observe.verify.trace import Step

INFINITY: Final = 0xFFFF
LEAST_MTU: Final = 1280
_TAG: Final = 4  # Linux takes so many octets more than the MTU, for a VLAN tag
_CONTAINERS: Final = ("docker", "br-", "virbr", "lxcbr", "lxdbr", "incusbr", "podman", "cni", "cali", "flannel", "kube")
"""Networks of containers and virtual machines, mostly behind NAT."""
_SILENT: Final = ("ACCEPTED", "DELIVERED_TO_SUBNET", "EXITS_NETWORK", "UNKNOWN")
_LEARNT: Final = frozenset({11, 12, 42, 186, 187, 188, 189, 192, 196})
"""Protocols of routes that other programs learn: zebra, bird, babel, bgp, isis, ospf, rip, eigrp, openr."""
_TRANSIT: Final = 28
"""Longer ones are links between routers and single addresses; what nobody routes to there is not missed."""
_MOST_NODES: Final = 4
_MOST_PREFIXES: Final = 3


def some(names: Iterable[str], most: int = _MOST_NODES) -> str:
    """`r1, r2 and 3 more`."""
    known = list(dict.fromkeys(names))
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return ", ".join(known[:most]) + more


def way(steps: Sequence[Step]) -> str:
    """`r1 eth1 > eth0 r2`."""
    return " > ".join(" ".join(filter(None, (step.into, step.node, step.out))) for step in steps)


def is_container(name: str) -> bool:
    """The device is of a network of containers or virtual machines."""
    return name.startswith(_CONTAINERS)


# --- ways that are missing -----------------------------------------------------------------------------------------


@dataclass
class _Group:
    """Problems of one kind at the same nodes."""

    prefixes: list[Prefix] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def ways(case: Case) -> Iterable[Finding]:
    """Destinations of the network that a node of it does not reach, once for the whole network."""
    if not case.others or any(other.name < case.node.name for other in case.others):
        return
    from via6.observe.verify.check import Checker
    from via6.observe.verify.network import Network

    checker = Checker(Network((case.node, *case.others)))
    meant = _meant(checker)
    at: dict[tuple[str, Prefix], list[Problem]] = {}
    for problem in checker.report().problems:
        if problem.disposition not in _SILENT and problem.prefix in meant and not _filtered(checker, problem):
            at.setdefault((_code(problem), problem.prefix), []).append(problem)
    groups: dict[tuple[str, tuple[str, ...]], _Group] = {}
    for (code, prefix), problems in at.items():
        group = groups.setdefault((code, tuple(sorted({p.node for p in problems}))), _Group())
        group.prefixes.append(prefix)
        group.problems += problems
    for (code, nodes), group in groups.items():
        yield _no_way(checker, code, nodes, group)


def _filtered(checker: Checker, problem: Problem) -> bool:
    """A packet filter that drops this and passes other packets was told to, as was one that lets nothing come to its
    own node."""
    if problem.disposition != "DENIED_FIREWALL" or problem.node not in checker.network.place:
        return False
    at = checker.network.place[problem.node]
    wall = checker.network.nodes[at].firewall
    return at in checker.network.walls or (wall is not None and wall.forward4 != DROP)


def _code(problem: Problem) -> str:
    if problem.disposition == "LOOP":
        return "loop"
    return "no-way-back" if problem.kind == "no way back" else "no-way"


def _meant(checker: Checker) -> frozenset[Prefix]:
    """Known destinations that are meant to be reached: somebody announces or routes to them, or they are islands of a
    node whose routes are written down (who speaks a routing protocol was told what to announce)."""
    found = set()
    nodes = checker.network.nodes
    routed = {prefix for node in nodes for prefix in _routed(node)}
    islands = checker.survey.islands
    for prefix, homes in checker.survey.known.items():
        devices = [nodes[at].kernel.dev(index) for at, index in islands.get(prefix, ())]
        if devices and all(map(is_container, devices)):
            continue
        told = prefix in checker.survey.exports or any(one.covers(prefix) for one in routed)
        behind = prefix.length <= _TRANSIT and not any(_learns(nodes[at]) for at in homes)
        if told or (behind and any(forwards(nodes[at]) or prefix in _sends_from(checker, at) for at in homes)):
            found.add(prefix)
    return frozenset(found)


def _sends_from(checker: Checker, at: int) -> Iterator[Prefix]:
    """The networks that a host is in as far as the others see it: of the addresses that it sends from to one of them. A
    host has other networks that are nobody's business, such as that of its way to the Internet."""
    node, segments = checker.network.nodes[at], checker.network.links
    for use in uses(node):
        if use.hop.via is None or not any(one[0] != at for one in segments.owners.get(use.hop.via, ())):
            continue
        own = [one for one in node.kernel.addresses if len(one.address) == 4 and one.address[0] != 127]
        here = [one for one in own if one.ifindex == use.hop.ifindex]
        chosen = [one for one in own if one.address == use.route.src] or here or own
        yield from (Prefix(mask(one.address, one.length), one.length) for one in chosen)


def _learns(node: Node) -> bool:
    """A routing protocol is spoken there."""
    if node.babel is not None or "babel" in node.unread:
        return True
    return any(block.template.protocol in _LEARNT for block in node.kernel.routes.blocks)


def _routed(node: Node) -> Iterator[Prefix]:
    for block in node.kernel.routes.blocks:
        one = block.template
        usual = one.family == AF_INET and one.type == "unicast" and one.table != TABLE_LOCAL
        if usual and one.protocol != PROTO_KERNEL and one.prefix.length and len(block) <= 1024:
            yield from (Prefix(packed, one.prefix.length) for packed in block.destinations)


_WHAT: Final = {
    "NO_ROUTE": "has no route",
    "NULL_ROUTED": "discards it (unreachable, blackhole or prohibit)",
    "NEIGHBOR_UNREACHABLE": "has a next hop that does not answer",
    "FORWARDING_OFF": "does not forward",
    "DENIED_FIREWALL": "filters it",
    "DENIED_RP_FILTER": "does not believe the source (rp_filter)",
    "DENIED_ALLOWED_IPS": "has no WireGuard peer with it in AllowedIPs",
    "LOOP": "sends it round",
}
_PLURAL: Final = {"has ": "have ", "does ": "do ", "discards ": "discard ", "filters ": "filter ", "sends ": "send "}


def _no_way(checker: Checker, code: str, nodes: tuple[str, ...], group: _Group) -> Finding:
    prefixes = some((str(p) for p in group.prefixes), _MOST_PREFIXES)
    first = group.problems[0]
    homes = some(checker.network.nodes[at].name for at in checker.survey.known.get(first.prefix, ()))
    home = f" ({homes})" if len(group.prefixes) == 1 else ""
    where = some(nodes)
    what = _WHAT.get(first.disposition, first.disposition)
    for word, many in _PLURAL.items() if len(nodes) > 1 else ():
        what = many + what.removeprefix(word) if what.startswith(word) else what
    if code == "loop":
        ring = first.path[first.path.index(first.node) :] if first.node in first.path else first.path
        title = f"packets to {prefixes} go round: {' > '.join(ring)}"
    elif code == "no-way-back":
        title = f"no way back to {prefixes}{home}: packets from there arrive, and {where} {what}"
    else:
        title = f"no way to {prefixes}{home}: {where} {what}"
    evidence = []
    for one in group.problems[:_MOST_PREFIXES]:
        source = f"{format_address(one.source)} to " if one.source is not None else ""
        evidence.append(
            f"{source}{format_address(one.destination)}: {way(one.steps)}, {one.disposition} at {one.node}"
            + (f" ({one.why})" if one.why else "")
        )
    return Finding(
        code, ERROR, title, tuple(evidence), _breaks(code, first), _remedy(checker, first),
        node=nodes[0], subject=str(first.prefix), places=tuple((name, "") for name in nodes),
    )  # fmt: skip


def _breaks(code: str, first: Problem) -> str:
    if code == "no-way-back":
        return f"whoever is in {first.prefix} sends and never gets an answer: pings, connections, everything"
    return f"packets to {first.prefix} are lost"


def _remedy(checker: Checker, first: Problem) -> tuple[str, ...]:
    """Commands for the node where the way ends."""
    node = checker.network.nodes[checker.network.place[first.node]]
    to = format_address(first.destination)
    look = f"via6 explain {to}"
    if first.disposition not in ("NO_ROUTE", "NULL_ROUTED"):
        return (f"# on {node.name}:", look)
    at = checker.network.place[first.node]
    discards = discarding(node, first.destination)
    hop = _towards(checker, at, first)
    if discards is not None and discards.protocol not in DAEMONS and (discards.prefix != first.prefix or not hop):
        return (f"# on {node.name}:", deletion(node, discards), f"# what it does then: {look}")
    homes = checker.survey.known.get(first.prefix, frozenset())
    exporters = checker.survey.exports.get(first.prefix, ())
    if node.babel is not None and not exporters:
        names = some(checker.network.nodes[at].name for at in homes)
        return (f"# on {names}: announce it: `via6 up … --export {first.prefix}`, or export in via6.toml",)
    if node.babel is not None:
        return (f"# on {node.name}:", look, f"via6 show route {first.prefix}", "via6 show neighbour")
    if _learns(node):
        return (f"# on {node.name}: why has its routing protocol none?", f"ip route get {to}")
    if hop:
        host = not forwards(node) and discards is None and not any(_defaults(node))
        return (f"# on {node.name}:", f"ip route replace {'default' if host else first.prefix} {hop}")
    return (f"# on {node.name}: a route to {first.prefix}; what it does now:", look)


def _towards(checker: Checker, at: int, first: Problem) -> str:
    """`via inet6 fe80::1 dev eth1`: a neighbour of this node that has the destination, or sends there successfully."""
    network, segments = checker.network, checker.network.links
    homes = checker.survey.known.get(first.prefix, frozenset())
    best: list[tuple[int, str]] = []
    for link in network.nodes[at].kernel.links:
        for far, index in segments.on((at, link.ifindex)) if link.up and not link.loopback else ():
            trails = checker.tracer.trails(first.destination, far, index)
            good = trails and all(t.code in (1, 2) and network.nodes[at].name not in t.nodes for t in trails)
            via = _gateway(segments, (at, link.ifindex), (far, index)) if good else ""
            if via:
                length = 0 if far in homes else max(len(t.steps) for t in trails)
                best.append((length, f"{via} dev {link.name}"))
    return min(best)[1] if best else _router_on(checker, at, first)


def _router_on(checker: Checker, at: int, first: Problem) -> str:
    """A router on an IPv4 network of this node, by the network alone: nobody has been asked for on its link lately."""
    nodes = checker.network.nodes
    for index, networks in subnets(nodes[at]).items():
        for far, other in enumerate(nodes):
            for entry in other.kernel.addresses if far != at and forwards(other) else ():
                if len(entry.address) != 4 or not any(entry.address in network for network in networks):
                    continue
                trails = checker.tracer.trails(first.destination, far, entry.ifindex)
                if trails and all(trail.code in (1, 2) for trail in trails):
                    return f"via {format_address(entry.address)} dev {nodes[at].kernel.dev(index)}"
    return ""


def _defaults(node: Node) -> Iterator[Route]:
    templates = (block.template for block in node.kernel.routes.blocks)
    yield from (one for one in templates if one.family == AF_INET and not one.prefix.length)


def _gateway(segments: Segments, here: Port, far: Port) -> str:
    """`via 10.1.0.1` where both ends are on one IPv4 network, else `via inet6 fe80::1`; empty if it has no address."""
    own = [one for one in segments.held.get(here, ()) if len(one.address) == 4 and one.length < 32]
    for entry in segments.held.get(far, ()):
        four = len(entry.address) == 4
        if four and any(mask(entry.address, one.length) == mask(one.address, one.length) for one in own):
            return f"via {format_address(entry.address)}"
    via = _link_local(segments, far)
    return f"via inet6 {format_address(via)}" if via is not None else ""


def _link_local(segments: Segments, port: Port) -> Address | None:
    held = segments.held.get(port, ())
    return next((a.address for a in held if len(a.address) == 16 and is_link_local(a.address)), None)


# --- links ---------------------------------------------------------------------------------------------------------


def mtu(case: Case) -> Iterable[Finding]:
    """The far end of a link takes less than this end sends."""
    peers = Peers(case)
    for link in case.node.kernel.links:
        if not link.up or link.loopback or not link.mtu or _enslaved(case.node, link):
            continue
        far = _least(peers, link)
        if far is not None:
            name, dev, least = far
            seen = f"{case.node.name} {link.name}: mtu {link.mtu}; {name} {dev}: mtu {least}"
            yield _mtu(case, link, least, f"{name}'s {dev} takes {least}", seen, ((name, dev),))
    told: set[int] = set()
    for (ifindex, address), (passes, full) in sorted(case.measured.narrow.items()):
        narrow = case.node.kernel.by_index.get(ifindex)
        if narrow is not None and ifindex not in told:
            told.add(ifindex)
            who = peers.who(ifindex, address)
            seen = (
                f"ICMPv6 echo to {format_address(address)} on {narrow.name}: {passes} octets are answered, {full} not"
            )
            least = passes - _TAG if passes - _TAG >= LEAST_MTU else passes
            yield _mtu(case, narrow, least, f"{passes} reach {who}", seen, peers.places(ifindex, address)[1:])


def _enslaved(node: Node, link: Link) -> bool:
    above = node.kernel.by_index.get(link.master) if link.master else None
    return above is not None and above.kind != "vrf"


def _least(peers: Peers, link: Link) -> tuple[str, str, int] | None:
    """(node, device, MTU) of the end of a link that takes least, if that is less than this end sends."""
    if not peers.case.others or link.kind in ("wireguard", "tun"):
        return None
    ends = []
    for port in peers.segments.on((peers.at, link.ifindex)):
        node, far = peers.nodes[port[0]], peers.segments.link(port)
        if far is not None and far.up and far.mtu and not _enslaved(node, far):
            ends.append((far.mtu, node.name, far.name))
    if not ends or not LEAST_MTU <= min(ends)[0] < link.mtu:
        return None
    least, name, dev = min(ends)
    return name, dev, least


def _mtu(case: Case, link: Link, least: int, far: str, seen: str, places: tuple[tuple[str, str], ...]) -> Finding:
    set_ = ("ip", "link", "set", "dev", link.name, "mtu")
    command = (*set_, str(least))
    wide = least >= LEAST_MTU
    mend = " ".join(command) if wide else f"# {link.name} or what is below it loses them: IPv6 needs {LEAST_MTU} octets"
    return Finding(
        "mtu-mismatch", WARNING, f"{link.name} sends up to {link.mtu} octets, and {far}",
        (seen,), f"packets of more than {least} octets by {link.name} vanish, and no ICMP error says so",
        (mend, "# or, if the link carries it, give the far end the larger MTU"),
        subject=link.name, fixes=(RunCommand(command, (*set_, str(link.mtu))),) if wide else (),
        places=((case.node.name, link.name), *places),
    )  # fmt: skip


# --- prefixes with two homes ---------------------------------------------------------------------------------------


def exported_twice(case: Case) -> Iterable[Finding]:
    """Two nodes announce one prefix, and it is not one link that both are on."""
    state = case.node.babel
    if state is None:
        return
    peers = Peers(case)
    known = {state.router_id}
    for at, other in enumerate(peers.nodes):
        if other.babel is None or at == peers.at:
            continue
        known.add(other.babel.router_id)
        if case.node.name < other.name:
            theirs = {prefix for prefix, _ in other.babel.exports}
            for prefix, _ in state.exports:
                if prefix.length and prefix in theirs:
                    yield from _both(peers, at, prefix)
    origins: dict[Prefix, dict[str, str]] = {}
    for route in state.routes:
        if route.metric < INFINITY and route.prefix.length:
            dev = case.node.kernel.dev(route.ifindex)
            hop = f"{format_address(route.neighbour)} dev {dev}"
            origins.setdefault(route.prefix, {}).setdefault(route.router_id, hop)
    own = {prefix for prefix, _ in state.exports}
    for link in state.interfaces or ():  # what is its own is in no route of a node
        for rival in link.rivals:
            hop = f"{format_address(rival.neighbour)} dev {case.node.kernel.dev(link.ifindex)}"
            if rival.prefix.length:
                origins.setdefault(rival.prefix, {}).setdefault(rival.router_id, hop)
    for prefix, by_id in origins.items():
        strangers = {router_id: hop for router_id, hop in by_id.items() if router_id not in known}
        if strangers and (prefix in own or len(by_id) > 1):
            yield from _heard(case, prefix, by_id, prefix in own)


def _home(node: Node, prefix: Prefix) -> Link | None:
    """The interface whose network, or on which an address, the prefix is."""
    for entry in node.kernel.addresses:
        if len(entry.address) == len(prefix.packed):
            whole = entry.length == prefix.length and mask(entry.address, entry.length) == prefix.packed
            if whole or (prefix.is_host and entry.address == prefix.packed):
                return node.kernel.by_index.get(entry.ifindex)
    return None


def _alone(node: Node, link: Link, prefix: Prefix) -> bool:
    """Nobody else can be on the link with that prefix."""
    if link.kind == "bridge":
        return not any(one.master == link.ifindex and one.carrier for one in node.kernel.links)
    return prefix.is_host or link.loopback or link.kind == "dummy"


def _both(peers: Peers, at: int, prefix: Prefix) -> Iterator[Finding]:
    here, there = peers.nodes[peers.at], peers.nodes[at]
    mine, theirs = _home(here, prefix), _home(there, prefix)
    if mine is None or theirs is None:
        return  # routes to somewhere, known to both: two gateways
    one, other = (peers.at, mine.ifindex), (at, theirs.ifindex)
    segments = peers.segments
    alone = _alone(here, mine, prefix) or _alone(there, theirs, prefix)
    if not alone and other in segments.on(one):
        return
    sure = alone or segments.closed(one) or segments.closed(other)
    seen = tuple(
        f"{node.name} announces {prefix}, which is on its {link.name}" for node, link in ((here, mine), (there, theirs))
    )
    yield _twice(
        prefix, sure, f"{here.name} and {there.name} both announce {prefix}, each its own", seen, there.name,
        ((here.name, mine.name), (there.name, theirs.name)),
    )  # fmt: skip


def _heard(case: Case, prefix: Prefix, by_id: dict[str, str], own: bool) -> Iterator[Finding]:
    """As one node hears it: router-ids, no nodes. A link that two routers are on looks the same from afar."""
    node = case.node
    home = _home(node, prefix) if own else None
    if own and home is None:
        return
    if home is not None and any(hop.endswith(f" dev {home.name}") for hop in by_id.values()):
        return  # the other is on that link, too
    sure = home is not None and _alone(node, home, prefix)
    heard = [f"router-id {router_id} by {hop}" for router_id, hop in sorted(by_id.items())]
    if home is not None:
        heard.insert(0, f"this node itself, from {home.name}")
    title = f"{prefix} is announced by {len(heard)} routers"
    yield _twice(prefix, sure, title, tuple(heard), some(sorted(by_id)), ((node.name, home.name if home else ""),))


def _twice(
    prefix: Prefix, sure: bool, title: str, seen: tuple[str, ...], other: str, places: tuple[tuple[str, str], ...]
) -> Finding:
    return Finding(
        "exported-twice", WARNING if sure else INFO,
        title if sure else f"{title}: right if both are on that link, or for anycast",
        seen, f"each router sends to the nearer one: hosts of {prefix} at the other are not reached from there",
        (
            f"# give one of them another network, or do not announce it there (on {other}, say:",
            f"# `via6 up … --export` without {prefix}). Who is who: `via6 show route {prefix}` on each",
        ),
        subject=str(prefix), places=places,
    )  # fmt: skip


CHECKS: Final[tuple[Check, ...]] = (ways, mtu, exported_twice)
