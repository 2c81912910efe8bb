"""The demonstration as facts: six routers, two hosts, and what can be observed of IPv4 crossing them.

Nothing here prints. A story is a list of chapters; each does its part in the running network and returns its facts,
ready for JSON, and notes in `Scene.faults` what is not as it should be. `cli/demo.py` tells them.

Each router runs `via6 up` on its links and is told nothing else.

How a hop gets its name. Routers without an IPv4 address all answer a traceroute as 192.0.0.8 (RFC 7600), so ICMP does
not say who they are. We ask, from the first host on, each node's kernel where it would send this very packet
(RTM_GETROUTE with source, destination and input device: equal-cost choices count), and step over the cable that the
lab knows to be in that device (`lab.reach.trail`). Traceroute is then held against this walk: as many hops, and each
answer from an address that this router may answer from.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from via6.babel.model import PORT
from via6.collect.capture import Capture, Captured
from via6.collect.probe import DUMMY, ping_many, traceroute
from via6.kernel.linux import LinuxKernel
from via6.lab import reach
from via6.lab.cut import READY_S, Cut, cut, device_towards, heal, unicast, until_routes
from via6.lab.namespaces import Lab
from via6.lab.speakers import via6_words
from via6.lab.stream import Stream
from via6.lab.topology import HOST_DEVICE, Host, Router, Topology, cable_up, nth
from via6.model import Failure, Route
from via6.observe.packet import (
    ECHO_REQUEST,
    ETH_IPV4,
    ETH_IPV6,
    ICMP,
    IPv4,
    carried_ipv4,
    differing_octets,
    format_lladdr,
    ipv4_fields_at,
    parse_icmp,
)
from via6.prefix import Address, Prefix, format_address

Facts = dict[str, Any]

PINGS: Final = 5
_BABEL_PORTS: Final = 2 * PORT.to_bytes(2, "big")
_LINKS: Final = (("r2", "r3"), ("r1", "r2"), ("r3", "r4"), ("r1", "r5"), ("r5", "r6"), ("r6", "r4"))
_EDGES: Final = (("r1", "h1"), ("r4", "h2"))


def topology(*, desktop: bool = False) -> Topology:
    """A ring of six routers, an IPv4 island behind two of them: two ways of equal length between the islands. The
    second host has a desktop if that is wanted."""
    islands = dict(_EDGES)
    routers = []
    for number in range(1, 7):
        name = f"r{number}"
        lan = Prefix(bytes((10, number, 0, 0)), 24) if name in islands else None
        routers.append(Router(name, number, name, lan=lan, gateway=nth(lan, 1) if lan else None))
    hosts = [
        Host(islands[r.name], r.name, nth(r.lan, 10), 24, r.gateway) for r in routers if r.lan and r.gateway
    ]  # fmt: skip
    if desktop:
        hosts[-1] = replace(hosts[-1], desktop="vnc")
    return Topology(
        "demo", tuple(routers), tuple(hosts), cable_up((a, b, 1, 1500) for a, b in _LINKS), trace_on_lans=False
    )


@dataclass(frozen=True, slots=True)
class Step:
    """One node of the walk and its route: the next hop `via` (None: on its own link), which is `next`; the device."""

    node: str
    next: str
    route: str
    via: Address | None
    device: str


@dataclass
class Scene:
    """The network on stage, and what went wrong in it."""

    lab: Lab
    faults: list[str] = field(default_factory=list)
    stream: Stream | None = None
    broken: Cut | None = None

    @property
    def topology(self) -> Topology:
        return self.lab.topology

    @property
    def way(self) -> list[Step]:
        """The walk from the first host to the second, as it is now."""
        return walk(self, *self.ends)

    @property
    def ends(self) -> tuple[Host, Host]:
        first, second = self.topology.hosts
        return first, second

    def check(self, good: bool, fault: str) -> bool:
        if not good and fault not in self.faults:
            self.faults.append(fault)
        return good

    def via6(self, node: str, *words: str) -> str | None:
        """What `via6 WORDS` prints in a node; None and a fault if it fails."""
        # The daemon of that namespace is meant, wherever the user's own one is.
        environment = {**os.environ, "VIA6_SOCKET": ""}
        with self.lab.inside(node):
            done = subprocess.run(
                [sys.executable, "-P", "-m", "via6", *words], env=environment, stdin=subprocess.DEVNULL,
                capture_output=True, text=True, check=False,
            )  # fmt: skip
        said = done.stderr.strip().partition("\n")[0]
        good = self.check(done.returncode == 0, f"`via6 {' '.join(words)}` in {node}: {said}")
        return done.stdout if good else None


# --- the network and its addresses ---------------------------------------------------------------------------------


def network(scene: Scene) -> Facts:
    """Nodes and links, what was typed, and how long it took until the hosts reached each other."""
    topology = scene.topology
    ready_s = scene.lab.wait_ready(READY_S)
    routers = [{"name": r.name, "kind": "router", "link_local": format_address(r.link_local)} for r in topology.routers]
    hosts = [
        {"name": h.name, "kind": "host", "address": format_address(h.address), "router": h.router}
        for h in topology.hosts
    ]
    links = [{"a": c.a.router, "a_dev": c.a.device, "b": c.b.router, "b_dev": c.b.device} for c in topology.cables]
    typed = {r.name: " ".join(["via6", *via6_words(topology, r, Path())]) for r in topology.routers}
    return {"nodes": [*routers, *hosts], "links": links, "typed": typed, "ready_seconds": round(ready_s, 3)}


def neighbours(scene: Scene) -> Facts:
    """The neighbours of the first router on the way, as `via6 show neighbour` prints them there."""
    node, target = scene.ends[0].router, scene.ends[1].router
    # The hosts reach each other as soon as one way is found; the other one is what the story needs later.
    for router, other in ((node, target), (target, node)):
        lan = scene.topology.router[other].lan
        found = until_routes(scene, router, partial(_two_ways, lan))
        scene.check(found is not None, f"{router} has no standing second way to {lan}")
    text, data = scene.via6(node, "show", "neighbour"), scene.via6(node, "show", "neighbour", "-j")
    if text is None or data is None:
        return {"neighbours": {}, "neighbours_text": {}}
    listed = json.loads(data)
    there = {row["address"] for row in listed}
    missing = [
        port.router for _, port, _ in scene.topology.ports[node]
        if format_address(scene.topology.router[port.router].link_local) not in there
    ]  # fmt: skip
    scene.check(not missing, f"{node} does not know its neighbour {', '.join(missing)}")
    return {"neighbours": {node: listed}, "neighbours_text": {node: text.splitlines()}}


def _two_ways(lan: Prefix | None, routes: list[Route]) -> bool:
    return len(unicast(routes, lan)) > 1


def addresses(scene: Scene) -> Facts:
    """What addresses the kernel of each router has, on its links to other routers and elsewhere."""
    interfaces, others = [], []
    for router in scene.topology.routers:
        far = {device: port.router for device, port, _ in scene.topology.ports[router.name]}
        with scene.lab.inside(router.name), LinuxKernel() as kernel:
            found = kernel.dump(frozenset({"links", "addresses"}))
        for link in found.links:
            own = [a for a in found.addresses if a.ifindex == link.ifindex]
            texts = {
                family: [f"{format_address(a.address)}/{a.length}" for a in own if len(a.address) == size]
                for family, size in (("ipv4", 4), ("ipv6", 16))
            }
            if link.name in far:
                interfaces.append({"node": router.name, "dev": link.name, "to": far[link.name], **texts})
            elif not link.loopback:
                others.append({"node": router.name, "dev": link.name, **texts})
    found_ipv4 = [f"{i['node']} {i['dev']} {a}" for i in interfaces for a in i["ipv4"]]
    expected = 2 * len(scene.topology.cables)
    scene.check(len(interfaces) == expected, f"{len(interfaces)} link interfaces found, {expected} expected")
    scene.check(not found_ipv4, f"link interfaces have IPv4 addresses: {', '.join(found_ipv4)}")
    scene.check(all(i["ipv6"] for i in interfaces), "a link interface has no IPv6 address")
    with_ipv4 = {o["node"] for o in others if o["ipv4"]} | {i["node"] for i in interfaces if i["ipv4"]}
    return {
        "link_interfaces": interfaces,
        "lan_interfaces": [o for o in others if o["ipv4"]],
        "ipv4_link_addresses": found_ipv4,
        "routers_without_ipv4": [r.name for r in scene.topology.routers if r.name not in with_ipv4],
    }


# --- routes --------------------------------------------------------------------------------------------------------


def routes(scene: Scene) -> Facts:
    """The IPv4 routes of the second router on the way, as `via6 route -4` prints them there."""
    node = _middle(scene)
    text, data = scene.via6(node, "route", "-4"), scene.via6(node, "route", "-4", "-j")
    if text is None or data is None:
        return {"routes": {}, "routes_text": {}}
    listed = json.loads(data)
    there = {row.get("dst") for row in listed}
    missing = [str(r.lan) for r in scene.topology.routers if r.lan and str(r.lan) not in there]
    scene.check(not missing, f"{node} has no route to {', '.join(missing)}")
    return {"routes": {node: listed}, "routes_text": {node: text.splitlines()}}


def _middle(scene: Scene) -> str:
    """The second router on the way from the first host to the second; any that has no island if there is no way."""
    routers = [step.node for step in scene.way if step.node in scene.topology.router]
    return routers[1] if len(routers) > 1 else next(r.name for r in scene.topology.routers if not r.lan)


def walk(scene: Scene, source: Host, target: Host) -> list[Step]:
    """The nodes a packet passes and their routes, by asking each kernel; a fault if it does not arrive."""
    trail = reach.trail(scene.lab, source.name, target.name)
    scene.check(not trail.why, f"the way from {source.name} to {target.name} ends: {trail}")
    steps = []
    for number, (node, following) in enumerate(pairwise(trail.nodes)):
        before = trail.nodes[number - 1] if number else ""
        step = _ask(scene, before, node, following, source, target)
        if step is None:
            break
        steps.append(step)
    return steps


def _ask(scene: Scene, before: str, node: str, following: str, source: Host, target: Host) -> Step | None:
    """The route by which a node sends the packet on that came from the node `before` ("": its own)."""
    topology = scene.topology
    with scene.lab.inside(node), LinuxKernel() as kernel:
        links = kernel.dump(frozenset({"links"}))
        iif = links.by_name[device_towards(topology, node, before)].ifindex if before else 0
        entry = kernel.lookup(target.address, source=source.address, iif=iif, fib_match=True)
        chosen = kernel.lookup(target.address, source=source.address, iif=iif)
    if isinstance(entry, Failure) or isinstance(chosen, Failure) or not chosen.next_hops:
        scene.check(False, f"{node} has no route to {format_address(target.address)}")
        return None
    hop = chosen.next_hops[0]
    if following in topology.router and node in topology.router:
        right = hop.via == topology.router[following].link_local
        scene.check(right, f"the next hop of {node} is not the address of {following}")
    return Step(node, following, str(entry.prefix), hop.via, links.dev(hop.ifindex))


# --- pings and traceroute ------------------------------------------------------------------------------------------


def pings(scene: Scene) -> Facts:
    """Both ways between the hosts."""
    found = []
    for source, target in (scene.ends, scene.ends[::-1]):
        with scene.lab.inside(source.name):
            (ping,) = ping_many([target.address], source=source.address, count=PINGS, interval_s=0.02)
        came = f"{ping.received} of {ping.sent} came back ({ping.why or 'some lost'})"
        scene.check(ping.received == ping.sent, f"ping {source.name} to {target.name}: {came}")
        rtt_ms = None if ping.rtt_s is None else round(ping.rtt_s * 1000, 3)
        found.append(
            {
                "source": source.name, "from": format_address(source.address),
                "target": target.name, "to": format_address(target.address),
                "sent": ping.sent, "received": ping.received, "rtt_ms": rtt_ms,
            }
        )  # fmt: skip
    return {"pings": found}


def trace(scene: Scene) -> Facts:
    """The walk over the routing tables, and beside each hop what traceroute was told."""
    source, target = scene.ends
    way = scene.way
    with scene.lab.inside(source.name):
        # The first router may have spent its ration of ICMP errors on us before it had routes: it gets one a second.
        answers = traceroute(target.address, source=source.address, timeout_s=4, tries=5)
    arrived = bool(way) and way[-1].next == target.name
    passed = [*way, Step(target.name, "", "", None, "")] if arrived else way
    rows = []
    for ttl, step in enumerate(passed):
        answer = answers[ttl - 1] if 0 < ttl <= len(answers) else None
        told = answer.address if answer else None
        possible = answers_from(scene.topology, step.node)
        agrees = ttl == 0 or told in possible
        scene.check(agrees, f"hop {ttl}, {step.node}: traceroute heard {format_address(told) if told else 'nobody'}")
        rows.append(
            {
                "ttl": ttl, "node": step.node, "route": step.route or None,
                "via": format_address(step.via) if step.via else None,
                "dev": step.device or None, "next": step.next or None,
                "answered": format_address(told) if told else None,
                "rtt_ms": round(answer.rtt_s * 1000, 3) if answer and answer.rtt_s is not None else None,
                "agrees": agrees,
            }
        )  # fmt: skip
    scene.check(
        len(answers) == len(passed) - 1, f"traceroute counts {len(answers)} hops, the routing tables {len(passed) - 1}"
    )
    return {"traceroute": {"from": source.name, "to": target.name, "hops": rows}}


def answers_from(topology: Topology, node: str) -> set[Address]:
    """The addresses that ICMP errors of a node can come from (draft-ietf-intarea-v4-via-v6, section on ICMP)."""
    if node in topology.host:
        return {topology.host[node].address}
    router = topology.router[node]
    return {a for a in (router.gateway, router.address) if a} or {DUMMY}


# --- the packet ----------------------------------------------------------------------------------------------------


def capture(scene: Scene) -> Facts:
    """One ping, seen where it leaves the host and on a link between routers: the same octets but for TTL and sum."""
    source, target = scene.ends
    inner = [step for step in scene.way if step.node in scene.topology.router and step.next in scene.topology.router]
    if not scene.check(len(inner) > 1, "no way with a link in the middle to look at"):
        return {"capture": None}
    middle = inner[1]
    with scene.lab.inside(source.name):
        at_sender = Capture(HOST_DEVICE)
    with at_sender, scene.lab.inside(middle.node), Capture(middle.device) as on_link:
        with scene.lab.inside(source.name):
            ping_many([target.address], source=source.address, count=PINGS, interval_s=0.02)
        sent = at_sender.read(count=1, timeout_s=1, keep=lambda c: _is_request(c, source, target))
        seen = on_link.read(count=4 * PINGS, timeout_s=0.1)
    ours = [c for c in seen if _is_request(c, source, target)]
    if not scene.check(bool(sent and ours), f"no ping was seen on the link {middle.node} - {middle.next}"):
        return {"capture": None}
    return {"capture": _compare(scene, middle, sent[0], ours, seen)}


def _compare(scene: Scene, middle: Step, sent: Captured, ours: list[Captured], seen: list[Captured]) -> Facts:
    here, there = _ipv4(sent), _ipv4(ours[0])
    one, other = sent.frame.payload, ours[0].frame.payload
    fields = ipv4_fields_at(differing_octets(one, other))
    untouched = set(fields) == {"ttl", "checksum"}
    scene.check(untouched, f"on its way the packet changed in {', '.join(fields) or 'nothing'}")
    kinds = [c.frame.ethertype for c in seen]
    bare = sum(1 for c in seen if carried_ipv4(c.frame))
    # An IPv6 packet that carried IPv4 would be next header 4, or UDP to somewhere: neighbour discovery is ICMPv6 (58).
    strange = sum(1 for c in seen if not (carried_ipv4(c.frame) or _is_icmp6(c) or _is_babel(c)))
    scene.check(not strange, f"{strange} frames on the link are neither bare IPv4 nor Babel nor neighbour discovery")
    return {
        "node": middle.node, "dev": middle.device, "next": middle.next, "line": str(ours[0]), "sender_line": str(sent),
        "source_lladdr": format_lladdr(ours[0].frame.source),
        "destination_lladdr": format_lladdr(ours[0].frame.destination),
        "ethertype": f"0x{ours[0].frame.ethertype:04x}", "outer_header": carried_ipv4(ours[0].frame) is None,
        "source": format_address(there.source), "destination": format_address(there.destination),
        "frame_octets": len(ours[0].frame), "packet_octets": len(other),
        "ttl_sent": here.ttl, "ttl_seen": there.ttl,
        "checksum_sent": f"0x{here.checksum:04x}", "checksum_seen": f"0x{there.checksum:04x}",
        "untouched": untouched, "changed": list(fields), "octets_same": len(other) - len(differing_octets(one, other)),
        "pings_seen": len(ours), "frames_ipv4": kinds.count(ETH_IPV4), "frames_ipv6": kinds.count(ETH_IPV6),
        "frames_bare_ipv4": bare, "frames_other": strange,
    }  # fmt: skip


def _ipv4(captured: Captured) -> IPv4:
    packet = carried_ipv4(captured.frame)
    assert packet is not None  # it has passed _is_request
    return packet


def _is_request(captured: Captured, source: Host, target: Host) -> bool:
    packet = carried_ipv4(captured.frame)
    if (
        packet is None
        or packet.protocol != ICMP
        or (packet.source, packet.destination) != (source.address, target.address)
    ):
        return False
    message, _ = parse_icmp(packet.payload)
    return message is not None and message.type == ECHO_REQUEST


def _is_icmp6(captured: Captured) -> bool:
    return captured.frame.ethertype == ETH_IPV6 and captured.frame.payload[6:7] in (b"\x3a", b"\x00")


def _is_babel(captured: Captured) -> bool:
    """UDP (17) in IPv6, from port 6696 to port 6696."""
    packet = captured.frame.payload
    return captured.frame.ethertype == ETH_IPV6 and packet[6:7] == b"\x11" and packet[40:44] == _BABEL_PORTS


# --- the story -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chapter:
    """A part of the story: its key for the teller, what is being done, and the work."""

    key: str
    doing: str
    work: Callable[[Scene], Facts]


STORY: Final = (
    Chapter("network", "waiting until the hosts reach each other", network),
    Chapter("neighbours", "waiting until both ways are found", neighbours),
    Chapter("addresses", "asking every router's kernel for its addresses", addresses),
    Chapter("routes", "reading a routing table", routes),
    Chapter("pings", "pinging both ways", pings),
    Chapter("trace", "following a packet", trace),
    Chapter("capture", "listening on a link in the middle", capture),
    Chapter("cut", "cutting a link under a stream of packets", cut),
    Chapter("heal", "waiting until the link is in use again", heal),
)
