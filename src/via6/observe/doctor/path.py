"""What stands in the way to the address that was asked for, and back: from probes, from a trace, from other nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from via6.observe.doctor.finding import ERROR, WARNING, Case, Check, Finding
from via6.observe.doctor.forwarding import DUMMY
from via6.observe.doctor.look import deletion, discarding, subnets
from via6.observe.doctor.measured import Probed, Silent
from via6.observe.doctor.network import way
from via6.observe.node import ACCEPT, Node
from via6.observe.trace.model import Hop, Trace
from via6.prefix import AF_INET, Address, Prefix, format_address, mask

_ENDS: Final = {
    "NO_ROUTE": "has no route to it",
    "NULL_ROUTED": "discards packets to it",
    "NEIGHBOR_UNREACHABLE": "has a next hop for it that does not answer",
    "LOOP": "sends them back",
    "UNKNOWN": "is the last one that answers",
}


def missing(case: Case) -> Iterable[Finding]:
    """The target does not answer: where its packets, or those back, end."""
    if case.target is None:
        return
    probed = case.measured.probed
    if probed is not None and probed.answered and not probed.silent:
        return  # whatever else is said
    found = [*_on_paper(case), *_traced(case)]
    if not found and probed is not None:
        doubts = (*_doubts(case), *_on_link(case))
        found = [replace(one, evidence=(*one.evidence, *doubts)) for one in _probed(case, probed)]
    yield from found


def network_of(case: Case, source: Address | None) -> Prefix | None:
    """The network of an own address, for a route back."""
    for entry in case.node.kernel.addresses:
        if entry.address == source:
            return Prefix(mask(entry.address, entry.length), entry.length)
    return Prefix(source, 32) if source is not None else None


# --- by other nodes ------------------------------------------------------------------------------------------------


def _on_paper(case: Case) -> Iterator[Finding]:
    """What the tables of all nodes do with packets to the target, and with those back."""
    assert case.target is not None
    if not case.others:
        return
    from via6.observe.verify import words
    from via6.observe.verify.network import Network
    from via6.observe.verify.survey import Survey
    from via6.observe.verify.trace import Tracer, Trail

    network = Network((case.node, *case.others))
    tracer, survey = Tracer(network), Survey(network)

    def lost(trail: Trail) -> bool:
        return trail.code not in (words.ACCEPTED, words.DELIVERED_TO_SUBNET, words.EXITS_NETWORK, words.UNKNOWN)

    source = survey.own_address(0)
    there = tracer.trails(case.target, 0, 0, source)
    for trail in there:
        if lost(trail):
            end = words.NAMES[trail.code]
            yield _no_way(case, trail.node, end, f"{way(trail.steps)}: {end} at {trail.node}", trail.why)
            return
    back = network_of(case, source)
    if source is None or back is None:
        return
    for at in {network.place[trail.steps[-1].node] for trail in there if trail.code == words.ACCEPTED} - {0}:
        for trail in tracer.trails(source, at, 0, case.target):
            if lost(trail):
                text = f"{way(trail.steps)}: {words.NAMES[trail.code]} at {trail.node}"
                yield _no_way_back(case, trail.node, back, text, trail.why)
                return


def _doubts(case: Case) -> Iterator[str]:
    """Where the tables of all nodes do not say what becomes of packets to the target."""
    assert case.target is not None
    if not case.others:
        return
    from via6.observe.verify import words
    from via6.observe.verify.network import Network
    from via6.observe.verify.survey import Survey
    from via6.observe.verify.trace import Tracer

    network = Network((case.node, *case.others))
    tracer, source = Tracer(network), Survey(network).own_address(0)
    ways = [("there", case.node.name, tracer.trails(case.target, 0, 0, source))]
    ends = {network.place[t.steps[-1].node] for t in ways[0][2] if t.code == words.ACCEPTED} - {0}
    if source is not None:
        ways += [("back", network.nodes[at].name, tracer.trails(source, at, 0, case.target)) for at in sorted(ends)]
    for word, start, trails in ways:
        for trail in trails:
            if trail.code == words.UNKNOWN:
                yield f"the way {word} from {start}, {way(trail.steps)}, is not known at {trail.node}: {trail.why}"


def _on_link(case: Case) -> Iterator[str]:
    """The target is taken for a neighbour: then no router is asked, only the link."""
    assert case.target is not None
    for ifindex, networks in subnets(case.node).items():
        dev = case.node.kernel.dev(ifindex)
        for one in networks:
            if case.target in one:
                yield (
                    f"{format_address(case.target)} is in {one}, the network of {dev}: it is asked for there by ARP,"
                    f" and no router is. If it is behind one, the netmask is wrong: ip -4 address show dev {dev}"
                )


# --- by a trace ----------------------------------------------------------------------------------------------------


def _traced(case: Case) -> Iterator[Finding]:
    trace = case.trace
    if trace is None or trace.flow.destination != case.target:
        return
    at = _end(trace)
    probed = case.measured.probed
    if at is not None and trace.hops[at].ends == "UNKNOWN" and probed is not None and probed.answered:
        at = None  # it answers another address of ours, so the way there is good
    if at is not None:
        hop = trace.hops[at]
        yield _no_way(case, hop.node, hop.ends, _hops(trace), hop.why, (at, _called(trace, at), _next_of(case, hop)))
        return
    at = _end(trace.back) if trace.back is not None else None
    if trace.back is not None and at is not None:
        back = network_of(case, trace.back.flow.destination)
        if back is not None:
            hop = trace.back.hops[at]
            place = f"hop {at} of the way back" if at else "which has it"
            yield _no_way_back(case, _called(trace.back, at), back, _hops(trace.back), hop.why, place)


def _next_of(case: Case, hop: Hop) -> str:
    """`fe80::2 dev eth1`: what is behind a hop, if that is known."""
    to = hop.next_hop if hop.next_hop is not None else case.target
    return f"{format_address(to)} dev {hop.out_device}" if to is not None and hop.out_device else ""


def _end(trace: Trace) -> int | None:
    """The place of the hop where a way ends that does not arrive, if that is known."""
    for at, hop in enumerate(trace.hops):
        if hop.ends in _ENDS and (hop.ends != "UNKNOWN" or (hop.why and trace.disposition == "UNKNOWN")):
            return at
    return None


def _called(trace: Trace, at: int) -> str:
    """The name of a hop, or the address that it answers from; 192.0.0.8 is everybody's, so then what leads to it."""
    hop = trace.hops[at]
    if hop.node or hop.icmp_source is None:
        return hop.node
    before = trace.hops[at - 1] if at else None
    if hop.icmp_source == DUMMY and before is not None and before.next_hop is not None:
        return f"{format_address(before.next_hop)}{f' dev {before.out_device}' if before.out_device else ''}"
    return "a router without an IPv4 address" if hop.icmp_source == DUMMY else format_address(hop.icmp_source)


def _from(hop: Hop) -> str:
    return format_address(hop.icmp_source) if hop.icmp_source is not None else "?"


def _hops(trace: Trace) -> str:
    """`r1 eth1 > eth0 r2: NO_ROUTE (why)`."""
    called = [_called(trace, at) if hop.node else _from(hop) for at, hop in enumerate(trace.hops)]
    names = [
        " ".join(filter(None, (h.in_device, name, h.out_device))) for h, name in zip(trace.hops, called, strict=True)
    ]
    return f"{' > '.join(names)}: {trace.disposition}"


# --- by probes -----------------------------------------------------------------------------------------------------


def _probed(case: Case, probed: Probed) -> Iterator[Finding]:
    to = format_address(probed.target)
    if not probed.answered and probed.silent:
        one = probed.silent[0]
        yield Finding(
            "no-way", ERROR, f"{to} does not answer: {_how_far(one)}", (_seen(one, to),),
            f"nothing of this node reaches {to}, or nothing comes back",
            (
                f"via6 trace {to}",
                f"# and on the node behind the last one that is heard: via6 doctor; via6 explain {to}",
            ),
            subject=to,
        )  # fmt: skip
        return
    good = ", ".join(map(format_address, probed.answered))
    for one in probed.silent:
        back = network_of(case, one.source)
        if back is not None:
            mine = format_address(one.source)
            seen = f"{to} answers {good}, and not {mine}: the way there is good; {_seen(one, to)}"
            yield _no_way_back(case, "", back, seen)


def _how_far(one: Silent) -> str:
    if one.error:
        return one.error
    if not one.end:
        return "no router on the way answers either"
    last = format_address(one.last) if one.last is not None else "?"
    return f"hop {one.end} ({last}) is the last one that is heard"


def _seen(one: Silent, to: str) -> str:
    return f"echo requests from {format_address(one.source)} to {to}: {_how_far(one)}"


def _no_way(
    case: Case, node: str, end: str, seen: str, why: str = "", hop: tuple[int, str, str] | None = None
) -> Finding:
    """`hop`: its place on the way, how it is called, its next hop, where names alone are not sure; None: the node is
    one of those that are examined."""
    assert case.target is not None
    place, name, behind = hop or (-1, node, "")
    to = format_address(case.target)
    here = node == case.node.name or place == 0
    label = "this node" if here else f"{name or 'a node on the way'}{f' (hop {place})' if hop else ''}"
    what = f"{label} {_ENDS[end]}" if end in _ENDS else f"{label}: {end}"
    # Of the last one that answers the reason is that nothing does behind it; of no route, that there is none.
    because = f": {why.removesuffix('.')}" if why and end not in ("UNKNOWN", "NO_ROUTE", "NULL_ROUTED") else ""
    lost = f"at {label}" if end != "UNKNOWN" else f"at {label} or behind it"
    evidence = (seen, *((why,) if why and not because and end != "UNKNOWN" else ()))
    if end == "UNKNOWN":
        evidence += tuple(_on_link(case)) if here else ()
        if case.measured.probed is not None:
            evidence += (f"{to} answers neither pings nor UDP or TCP to usual ports; a filter of its own may do that",)
    examined = here or hop is None
    known = next((one for one in (case.node, *case.others) if one.name == (case.node.name if here else node)), None)
    return Finding(
        "loop" if end == "LOOP" else "no-way", ERROR, f"no way to {to}: {what}{because}",
        evidence, f"packets to {to} are lost {lost}",
        _look_there(case, known if examined else None, label, end, here, behind),
        node=case.node.name if here else node, subject=to,
        places=((case.node.name if here else node, ""),),
    )  # fmt: skip


def _look_there(case: Case, node: Node | None, label: str, end: str, here: bool, behind: str) -> tuple[str, ...]:
    """What to do at the node where the way ends. `node`: as far as it was read."""
    assert case.target is not None
    to = format_address(case.target)
    explain = f"via6 explain {to}"
    remote = () if here else (f"# on {label}:",)
    if node is not None and end == "NULL_ROUTED":
        discards = discarding(node, case.target)
        if discards is not None:
            return (*remote, deletion(node, discards), f"# what it does then: {explain}")
    if node is not None and end == "NO_ROUTE":
        speaks = node.babel is not None
        learn = ("# on the node that has it: is it announced? via6 show route state own",) if speaks else ()
        return (*remote, *learn, *(_route_to(node, to) if not speaks else ()), f"{'' if here else '# '}{explain}")
    if end == "UNKNOWN":
        far = f"# on the node behind {label}{f', {behind}' if behind else ''}: via6 doctor; {explain}"
        return (explain, far) if here else (f"# on {label}: via6 doctor; {explain}", far)
    return (explain,) if here else (f"# on {label}: via6 doctor; {explain}",)


def _route_to(node: Node, to: str) -> tuple[str, ...]:
    """The router that IPv6 leaves by can carry IPv4 as well, where it is one of the network."""
    for block in node.kernel.routes.blocks:
        one = block.template
        if one.family != AF_INET and not one.prefix.length and one.type == "unicast":
            for hop in one.next_hops:
                if hop.via is not None:
                    by = f"via inet6 {format_address(hop.via)} dev {node.kernel.dev(hop.ifindex)}"
                    return (f"ip route add default {by}   # if your IPv6 router is one of the network",)
    return (f"# a route, by a router that leads there: ip route add {to}/32 via [inet6] ADDRESS dev DEV",)


def _no_way_back(case: Case, node: str, back: Prefix, seen: str, why: str = "", hop: str = "") -> Finding:
    assert case.target is not None
    to, state = format_address(case.target), case.node.babel
    label = f"{node} ({hop})" if node and hop else node or f"a node on the way from {to}"
    if state is not None and not any(prefix.covers(back) for prefix, _ in state.exports):
        mend = f"# this node does not announce {back}; it would with: via6 up … --export {back}"
    else:
        look = f"via6 doctor; via6 explain {format_address(back.packed)}"
        mend = f"# on {label}: it needs a way to {back}. What it does now: {look}"
    because = f": {why.removesuffix('.')}" if why else ""
    return Finding(
        "no-way-back", ERROR, f"no way back from {to} to {back}: {label} does not lead there{because}",
        (seen,), f"packets from {back} arrive at {to}, and its answers are lost", (mend,),
        node=node, subject=str(back), places=((node or case.node.name, ""),),
    )  # fmt: skip


# --- large packets -------------------------------------------------------------------------------------------------


def black_hole(case: Case) -> Iterable[Finding]:
    """Large packets that must not be fragmented vanish on the way, and nobody says so."""
    probed = case.measured.probed
    if probed is None or probed.large is None or not probed.answered:
        return
    to, large = format_address(probed.target), probed.large
    last = format_address(large.last) if large.last is not None else ""
    node = _where(case, probed)
    where = f"at {node}" if node else f"behind hop {large.end} ({last})" if large.end else "at the first hop"
    evidence = [
        f"echo requests to {to} with DF: {probed.passes} octets are answered; {probed.mtu} are not, and no error comes",
        f"with a growing hop limit those of {probed.mtu} octets are seen by {large.end} hops"
        + (f", the last one {last}" if last else ""),
    ]
    evidence += _suspects(case)
    if node and node != case.node.name:
        remedy = (
            f"# on {node}: what keeps its ICMP errors back? It must be able to send them, and nothing may drop them:",
            "via6 doctor",
            "nft list ruleset",
        )
    else:
        remedy = (
            f"# the cause is {where}: that node must be able to send ICMP errors, and nothing may drop them.",
            "# Until then this node can be told:",
            _lock(case, probed),
        )
    yield Finding(
        "pmtud-black-hole", WARNING,
        f'packets of more than {probed.passes} octets to {to} vanish {where}, and no "fragmentation needed" comes',
        tuple(evidence), "connections open and then hang: SSH after the login, TLS in its handshake, large answers",
        remedy, node=node, subject=to, places=((node or case.node.name, ""),),
    )  # fmt: skip


def _where(case: Case, probed: Probed) -> str:
    """The node behind which a large packet vanished, where the way is known."""
    assert probed.large is not None
    if case.others:
        from via6.observe.verify.network import Network
        from via6.observe.verify.trace import Tracer

        trails = Tracer(Network((case.node, *case.others))).trails(probed.target, 0)
        names = list(trails[0].nodes) if len({trail.nodes for trail in trails}) == 1 else []
    else:
        names = [hop.node for hop in case.trace.hops] if case.trace is not None else []
    return names[probed.large.end] if probed.large.end < len(names) else ""


def _suspects(case: Case) -> Iterator[str]:
    """Packet filters that do something with ICMP errors."""
    for node in (case.node, *case.others):
        if node.firewall is not None and node.firewall.icmp4 != ACCEPT:
            yield f"{node.name} filters: {'; '.join(node.firewall.evidence[:2])}"


def _lock(case: Case, probed: Probed) -> str:
    """A host route with the same next hop and a locked MTU."""
    from via6.observe.verify.table import lookup

    ways = lookup(case.node).action(probed.target).ways
    hop = " ".join(_next_hop(case, one.via, one.ifindex) for one in ways[:1])
    return f"ip route replace {format_address(probed.target)}/32 {hop} mtu lock {probed.passes}"


def _next_hop(case: Case, via: Address | None, ifindex: int) -> str:
    family = "inet6 " if via is not None and len(via) == 16 else ""
    return (f"via {family}{format_address(via)} " if via is not None else "") + f"dev {case.node.kernel.dev(ifindex)}"


CHECKS: Final[tuple[Check, ...]] = (missing, black_hole)
