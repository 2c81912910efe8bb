"""What stands between this node's Babel and its neighbours, and between Babel and the kernel.

A neighbour that is not heard leaves no trace in the neighbour table. What tells of it: packets that are dropped for
their MAC or version (the daemon keeps their sources), a member of Babel's multicast group that is never heard, or the
snapshot of the other end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from via6.babel.source import METRIC
from via6.model import PROTO_VIA6, RouteBlock
from via6.observe.doctor.finding import ERROR, WARNING, Case, Check, Finding
from via6.observe.doctor.peers import Peers
from via6.observe.node import BabelInterface, BabelNeighbour, BabelRejected, BabelRoute, BabelState, Node
from via6.prefix import AF_INET, Address, Prefix, format_address

INFINITY: Final = 0xFFFF
RECENT_S: Final = 30.0
"""A source that was rejected longer ago is not there any more: Hellos come every 4 s at the latest, as peers ship."""
_HELLOS: Final = 4  # before that a neighbour is still being met
_CHALLENGES: Final = 5
_OWN_S: Final = 10.0
_KEY_REASONS: Final = {
    "no-mac": "they carry no MAC",
    "bad-mac": "their MAC fits none of our keys",
    "no-counter": "they carry a MAC, but no packet counter",
}
_OTHER_PROTOCOL: Final = {
    "bad-version": "another version of Babel than 2",
    "bad-magic": "not Babel, though on its port",
}
_MOST_TOLD: Final = 8


def _interfaces(case: Case) -> Iterator[tuple[BabelState, BabelInterface, str]]:
    state = case.node.babel
    for one in (state.interfaces or ()) if state is not None else ():
        yield state, one, case.node.kernel.dev(one.ifindex)  # type: ignore[misc]


def _rejected(one: BabelInterface) -> Iterator[BabelRejected]:
    yield from (r for r in one.rejected if r.age_s <= RECENT_S and r.packets > 1)


# --- packets that are dropped --------------------------------------------------------------------------------------


def key(case: Case) -> Iterable[Finding]:
    """A neighbour signs with another key, or not at all; or signs while we have no key."""
    peers = Peers(case)
    for state, link, dev in _interfaces(case):
        for one in _rejected(link):
            if one.reason not in _KEY_REASONS:
                continue
            who = peers.who(link.ifindex, one.address)
            yield Finding(
                "babel-key", ERROR, f"Babel packets from {who} on {dev} are rejected: {_KEY_REASONS[one.reason]}",
                (
                    (f"{one.packets} packets from {format_address(one.address)} dropped as {one.reason}, the last one"
                    f" {one.age_s:.0f} s ago; keys of {dev}: {', '.join(link.keys) or 'none'}"),
                ),
                f"no routes are learnt from {who}",
                _key_remedy(dev, who, peers.uses_via6(link.ifindex, one.address)),
                subject=f"{dev} {format_address(one.address)}",
                places=peers.places(link.ifindex, one.address),
            )  # fmt: skip
        for near in state.neighbours:
            if near.ifindex == link.ifindex and not link.keys and near.signed and _deaf(near):
                who = peers.who(link.ifindex, near.address)
                yield Finding(
                    "babel-key", ERROR, f"{who} on {dev} signs its Babel packets and ours carry no MAC: it drops them",
                    (
                        f"packets of {format_address(near.address)} carry a MAC, and {dev} has no key",
                        f"no IHU says that it hears us: txcost {near.txcost}",
                    ),
                    f"{who} learns no routes from this node, and this node uses none of its routes",
                    _key_remedy(dev, who, peers.uses_via6(link.ifindex, near.address)),
                    subject=f"{dev} {format_address(near.address)}",
                    places=peers.places(link.ifindex, near.address),
                )  # fmt: skip


def _key_remedy(dev: str, who: str, via6: bool | None) -> tuple[str, ...]:
    far = "that" if via6 is None else "the --key file" if via6 else "the key in the configuration"
    return (
        (
            f"# give both ends one key: copy {far} of {who} into the file of `via6 up … --key FILE`"
            " (or [babel] key in via6.toml), then:"
        ),
        "systemctl reload via6",
        f"via6 show interface dev {dev}",
    )


def version(case: Case) -> Iterable[Finding]:
    """Something else speaks on Babel's port."""
    peers = Peers(case)
    for _, link, dev in _interfaces(case):
        for one in _rejected(link):
            if one.reason in _OTHER_PROTOCOL:
                address = format_address(one.address)
                who = peers.who(link.ifindex, one.address)
                yield Finding(
                    "babel-version", ERROR, f"{who} on {dev} sends what is {_OTHER_PROTOCOL[one.reason]}",
                    (f"{one.packets} packets dropped as {one.reason}, the last one {one.age_s:.0f} s ago",),
                    f"no routes are learnt from {who}",
                    (
                        f"# on {who}: run a Babel of RFC 8966 (babeld 1.8 or newer, BIRD 2, via6). What it sends:",
                        f"tcpdump -c 1 -Xni {dev} 'udp port 6696 and src host {address}'",
                    ),
                    subject=f"{dev} {address}",
                    places=peers.places(link.ifindex, one.address),
                )  # fmt: skip


def own_address(case: Case) -> Iterable[Finding]:
    """Another node of the link has our link-local address: neither hears the other."""
    for _, link, dev in _interfaces(case):
        for one in _rejected(link):
            if one.reason == "own-address" and one.age_s <= _OWN_S:  # no good packet will ever come from it
                mine = format_address(one.address)
                yield Finding(
                    "babel-own-address", ERROR, f"another node on {dev} has our own address {mine}",
                    (f"{one.packets} Babel packets from {mine} came in on {dev}, the last one {one.age_s:.0f} s ago",),
                    f"neither hears the other, and a next hop {mine} on {dev} is either of them",
                    (
                        "# on one of the two (or, if this link brings our own packets back, end the loop):",
                        f"ip addr add {_another(one.address)}/64 dev {dev}",
                        f"ip addr del {mine}/64 dev {dev}",
                    ),
                    subject=dev, places=((case.node.name, dev),),
                )  # fmt: skip


def _another(address: Address) -> str:
    """An address beside one that is taken."""
    return format_address(address[:8] + bytes((address[8] ^ 0x40,)) + address[9:])


# --- who does not hear whom ----------------------------------------------------------------------------------------


def _deaf(near: BabelNeighbour) -> bool:
    """We hear it, and it does not hear us."""
    hears = near.txcost is not None and near.txcost < INFINITY
    met = len(near.reach) >= _HELLOS and "1" in near.reach[:3]
    return near.txcost is not None and not hears and near.rxcost != INFINITY and met


def one_way(case: Case) -> Iterable[Finding]:
    """A neighbour is heard and does not hear this node."""
    peers = Peers(case)
    for state, link, dev in _interfaces(case):
        for near in state.neighbours:
            if near.ifindex == link.ifindex and _deaf(near) and not (near.signed and not link.keys):
                seen = (
                    f"Hellos of {format_address(near.address)} on {dev}: {near.reach} (newest first), but no IHU for us"
                )
                yield _one_way(case, peers, link, dev, near.address, seen)
        for one in _rejected(link):
            if one.reason == "challenged" and one.packets >= _CHALLENGES:
                seen = (
                    f"{one.packets} signed packets from {format_address(one.address)}, and no answer to our challenges"
                )
                yield _one_way(case, peers, link, dev, one.address, seen)


def _one_way(case: Case, peers: Peers, link: BabelInterface, dev: str, address: Address, seen: str) -> Finding:
    who = peers.who(link.ifindex, address)
    evidence = [seen, f"{link.packets_out} packets sent on {dev}"]
    tried = case.measured.babel_ports.get((link.ifindex, address), "")
    if tried:
        evidence.append(f"UDP 6696 of {format_address(address)}, asked by unicast: {tried}")
    return Finding(
        "babel-one-way", ERROR, f"the Babel neighbour {who} on {dev} is heard but does not hear this node",
        tuple(evidence), f"routes of {who} are not used, and it learns none from this node",
        (
            f"# on {who}: let Babel in, with the firewall that is used there, for example:",
            "# nft insert rule inet filter input meta l4proto udp udp dport 6696 accept",
            f"# on {who}: watch whether our packets arrive: tcpdump -ni IFACE udp port 6696",
        ),
        subject=f"{dev} {format_address(address)}", places=peers.places(link.ifindex, address),
    )  # fmt: skip


def filtered(case: Case) -> Iterable[Finding]:
    """A Babel router is on the link, and nothing of it is heard."""
    peers = Peers(case)
    for state, link, dev in _interfaces(case):
        known = {n.address for n in state.neighbours if n.ifindex == link.ifindex and n.rxcost != INFINITY}
        known |= {r.address for r in link.rejected} | {link.address}
        told: dict[Address, str] = {
            address: why for (ifindex, address), why in case.measured.unheard.items()
            if ifindex == link.ifindex and address not in known
        }  # fmt: skip
        if link.up and link.packets_out > 2:
            for far, name, there in peers.speakers(link.ifindex):
                if far not in known and far not in told and there.packets_out > 2 and not _knows(peers, there, link):
                    told[far] = f"{name} speaks Babel on this link ({there.packets_out} packets sent) and hears nothing"
        for address, why in told.items():
            yield _filtered(peers, link, dev, address, why)


def _knows(peers: Peers, there: BabelInterface, here: BabelInterface) -> bool:
    """The far end hears or rejects us: then it is one-way, or the key, and found there."""
    return here.address in {r.address for r in there.rejected} or peers.hears(there, here.address)


def _filtered(peers: Peers, link: BabelInterface, dev: str, address: Address, why: str) -> Finding:
    who = peers.who(link.ifindex, address)
    return Finding(
        "babel-filtered",
        ERROR,
        f"{who} speaks Babel on {dev}, and nothing of it arrives: UDP 6696 is filtered, or it hangs",
        (why, f"{link.packets_in} Babel packets came in on {dev}, none of them from {format_address(address)}"),
        f"this node and {who} learn no routes from each other",
        (
            (
                f"# on {who}, and on what lies between (switch, bridge, hypervisor): let UDP 6696 to ff02::1:6 and to"
                " fe80::/10 pass, both ways; what it does with them:"
            ),
            "# nft list ruleset | grep -n 6696",
            f"tcpdump -ni {dev} 'udp port 6696 and src host {format_address(address)}'",
        ),
        subject=f"{dev} {format_address(address)}",
        places=peers.places(link.ifindex, address),
    )


# --- Babel and the kernel ------------------------------------------------------------------------------------------


def _ours(node: Node) -> Iterator[RouteBlock]:
    yield from (block for block in node.kernel.routes.blocks if block.template.protocol == PROTO_VIA6)


def lacking(node: Node) -> list[BabelRoute]:
    """Routes that Babel has selected and that the kernel does not hold."""
    state = node.babel
    if state is None or not state.routes:
        return []
    unsure = node.unsteady | node.unread.keys()
    read = [f for f, part in ((4, "routes4"), (16, "routes6")) if part in node.kernel.parts and part not in unsure]
    held: dict[int, set[Address]] = {}
    for block in node.kernel.routes.blocks:
        # Another's route in a slot of ours keeps it out: that is told as what shadows it.
        ours = block.template.protocol == PROTO_VIA6 and block.template.type == "unicast"
        if ours or (block.template.protocol != PROTO_VIA6 and block.template.metric == METRIC):
            size = len(block.destinations[0]) if len(block) else 0
            held.setdefault(size << 8 | block.template.prefix.length, set()).update(block.destinations)
    return [
        r for r in state.routes
        if r.selected and len(r.prefix.packed) in read
        and r.prefix.packed not in held.get(len(r.prefix.packed) << 8 | r.prefix.length, ())
    ]  # fmt: skip


def installed_missing(case: Case) -> Iterable[Finding]:
    """Babel has selected a route, and the kernel has none of ours to its destination."""
    node = case.node
    missing = lacking(node)
    if case.measured.here:  # the two were not read at one time: what came or went meanwhile is no fault
        missing = [r for r in missing if r.prefix in case.measured.missing]
    if not missing:
        return
    first = missing[0]
    dev = node.kernel.dev(first.ifindex)
    some = ", ".join(str(r.prefix) for r in missing[:_MOST_TOLD]) + (" …" if len(missing) > _MOST_TOLD else "")
    yield Finding(
        "installed-missing", ERROR,
        f"the daemon has a route to {first.prefix} by {dev}, and the kernel has none"
        + (f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""),
        (
            (f"`via6 show route` says selected: {first.prefix} by {format_address(first.neighbour)} dev {dev}, metric"
            f" {first.metric}"),
            f"no route of protocol {PROTO_VIA6} in the kernel to: {some}",
        ),
        "packets to it take another route or none, while neighbours are told that this node leads there",
        (
            *(_put_back(r, dev_of) for r in missing[:_MOST_TOLD] for dev_of in (node.kernel.dev(r.ifindex),)),
            *(("# … and so on; or all at once: systemctl restart via6",) if len(missing) > _MOST_TOLD else ()),
            "# if it goes again: who deletes it is seen with `ip monitor route`; a restart of via6 reads all anew",
        ),
        subject=str(first.prefix),
        places=tuple(dict.fromkeys((node.name, node.kernel.dev(r.ifindex)) for r in missing)),
    )  # fmt: skip


def _put_back(route: BabelRoute, dev: str) -> str:
    hop = format_address(route.neighbour)
    six = route.prefix.family != AF_INET
    via = f"via {hop}" if six else f"via inet6 {hop}"
    return f"ip {'-6 ' if six else ''}route replace {route.prefix} {via} dev {dev} metric {METRIC} proto {PROTO_VIA6}"


def not_running(case: Case) -> Iterable[Finding]:
    """Routes of a Babel daemon stand in the kernel, and no daemon is there. `via6 apply` leaves routes too, but never
    the three slots of Babel, the last of which is `unreachable`."""
    node = case.node
    if node.babel is not None or "babel" in node.unread or node.unread.keys() & {"routes4", "routes6"}:
        return
    last = [block for block in _ours(node) if block.template.type == "unreachable"]
    above = {(block.template.metric, block.template.prefix.length) for block in _ours(node)}
    slots = [b for b in last if any((b.template.metric - n, b.template.prefix.length) in above for n in (1, 2))]
    if not slots:
        return
    count = sum(len(block) for block in slots)
    example = Prefix(slots[0].destinations[0], slots[0].template.prefix.length)
    yield Finding(
        "daemon-not-running", WARNING, f"{count} routes of a via6 daemon are in the kernel, and no daemon runs",
        (
            f"protocol {PROTO_VIA6}: {example} and others, with the three slots that only a running Babel makes",
            "no control socket answers in this network namespace, and UDP 6696 is not open",
        ),
        "the routes stay as they are whatever happens to the network: no neighbour is left, none is found",
        (
            "# start it again; it adopts the routes that are there (as a service, or with your words: via6 up …):",
            "systemctl start via6",
            f"# or take its routes away: ip route flush proto {PROTO_VIA6}; ip nexthop flush proto {PROTO_VIA6}",
        ),
        places=((node.name, ""),),
    )  # fmt: skip


def not_answering(case: Case) -> Iterable[Finding]:
    """The daemon is there and does not answer."""
    why = case.node.unread.get("babel", "")
    if why.startswith("via6: ") and case.measured.here:
        yield Finding(
            "daemon-not-answering", WARNING, f"the via6 daemon does not answer: {why.removeprefix('via6: ')}",
            (f"`via6 status`: {why.removeprefix('via6: ')}",),
            "its neighbours hear no Hellos and take their routes back; its own routes are not followed any more",
            (
                "# what it does: stopped (T; `kill -CONT PID` lets it go on), waiting (D) or busy (R)?",
                "ps -o pid,stat,time,args -C via6",
                "systemctl restart via6",
            ),
            places=((case.node.name, ""),),
        )  # fmt: skip


CHECKS: Final[tuple[Check, ...]] = (
    key, version, own_address, one_way, filtered, installed_missing, not_running, not_answering,
)  # fmt: skip
