"""What stands in the way to the address that was asked for, and back: from probes, from a trace, from other nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from via6.observe.doctor.finding import ERROR, WARNING, Case, Check, Finding
from via6.observe.doctor.measured import Probed, Silent
from via6.observe.doctor.network import way
from via6.observe.node import ACCEPT
from via6.observe.trace.model import Trace
from via6.prefix import Address, Prefix, format_address, mask

_ENDS: Final = {
    "NO_ROUTE": "has no route to it",
    "NULL_ROUTED": "discards packets to it",
    "NEIGHBOR_UNREACHABLE": "has a next hop for it that does not answer",
    "LOOP": "sends them back",
    "UNKNOWN": "or the node behind it drops packets to it",
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
        found = list(_probed(case, probed))
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
        yield _no_way(case, hop.node, hop.ends, _hops(trace), hop.why, at)
        return
    at = _end(trace.back) if trace.back is not None else None
    if trace.back is not None and at is not None:
        back = network_of(case, trace.back.flow.destination)
        if back is not None:
            hop = trace.back.hops[at]
            yield _no_way_back(case, hop.node, back, _hops(trace.back), hop.why, f"hop {at} of the way back")


def _end(trace: Trace) -> int | None:
    """The place of the hop where a way ends that does not arrive, if that is known."""
    for at, hop in enumerate(trace.hops):
        if hop.ends in _ENDS and (hop.ends != "UNKNOWN" or (hop.why and trace.disposition == "UNKNOWN")):
            return at
    return None


def _hops(trace: Trace) -> str:
    """`r1 eth1 > eth0 r2: NO_ROUTE (why)`."""
    names = [" ".join(filter(None, (hop.in_device, hop.node or "?", hop.out_device))) for hop in trace.hops]
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


def _no_way(case: Case, node: str, end: str, seen: str, why: str = "", hop: int | None = None) -> Finding:
    """`hop`: its place on the way, where names alone are not sure; None: the node is one of those that are examined."""
    assert case.target is not None
    to, name = format_address(case.target), node or "a node on the way"
    here = name == case.node.name or hop == 0
    label = "this node" if here else name if hop is None else f"{name} (hop {hop})"
    what = f"{label} {_ENDS[end]}" if end in _ENDS else f"{label}: {end}"
    look = ("via6 doctor", f"via6 explain {to}")
    far = look if here or hop is None else (f"# on {label}: {'; '.join(look)}",)
    return Finding(
        "loop" if end == "LOOP" else "no-way", ERROR, f"no way to {to}: {what}" + (f": {why}" if why else ""),
        (seen,), f"packets to {to} are lost at {label}",
        (*far, f"# on the node that has {to}: is it announced? via6 show route state own"),
        node=case.node.name if here else node, subject=to, places=((case.node.name if here else node, ""),),
    )  # fmt: skip


def _no_way_back(case: Case, node: str, back: Prefix, seen: str, why: str = "", hop: str = "") -> Finding:
    assert case.target is not None
    to, state = format_address(case.target), case.node.babel
    label = f"{node} ({hop})" if node and hop else node or f"a node on the way from {to}"
    if state is not None and not any(prefix.covers(back) for prefix, _ in state.exports):
        mend = f"# this node does not announce {back}; it would with: via6 up … --export {back}"
    else:
        mend = f"# on {label}: a route to {back}; what it does now: via6 explain {format_address(back.packed)}"
    because = f": {why}" if why else ""
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
