"""What this node's kernel does with a packet, for a trace: the same question as `via6 explain`, at a price that a
daemon can pay at any time. A few single questions to the kernel and a few sysctls; no table is dumped, however large.

The kernel itself chooses among several next hops: it is told addresses, protocol and ports, so it computes the very
hash that it would compute for the packet (fib_multipath_hash_policy 0 or 1; 2 and 3, which may look at what else is in
the packet, only as far as that goes).

WireGuard drops what no AllowedIPs cover, by source where it comes in and by destination where it leaves, and only `wg`
tells those. It is a program, which takes a while, so whoever looks runs it (`wants`, `learn`) and looks again. The
firewall is not looked at.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Final

from via6.collect import local
from via6.collect.wireguard import is_wireguard
from via6.kernel.socket import NetlinkSocket, words
from via6.model import Failure, InterfaceAddress, Link, Neighbour, NexthopObject, Route, Snapshot
from via6.netlink import objects
from via6.netlink.route import (
    RTA_DPORT,
    RTA_IP_PROTO,
    RTA_SPORT,
    RTM_GETROUTE,
    RTM_NEWROUTE,
    decode_route,
    encode_lookup,
)
from via6.netlink.wire import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    Message,
    attribute,
    attribute_u32,
    decode_ack,
    message,
    messages,
)
from via6.observe import allowedips
from via6.observe.explain import Explanation, Facts, explain, sysctl_names
from via6.observe.names import Names
from via6.observe.trace.model import ICMP, TCP, UDP, Flow, Hop
from via6.observe.trace.node import Glance, Lookup, Verdict
from via6.prefix import Address, Prefix, family_of, format_address, is_link_local

_NOARP: Final = 0x80 | 0x10  # IFF_NOARP, IFF_POINTOPOINT
_NDA_DST: Final = 1
_NDA_IFINDEX: Final = 8
_NTF_USE: Final = 0x01
_MEMBERS: Final = 32  # of a nexthop group, for the text
_NOT_ASKED: Final = "UNASKED"
_ALLOWED_S: Final = 5.0  # AllowedIPs are believed for so long
_DEVICES: Final = 256

_DISCARDS: Final = {errno.EINVAL: "blackhole", errno.EHOSTUNREACH: "unreachable", errno.EACCES: "prohibit"}
"""The error with which a route of this type answers (net/ipv4/fib_semantics.c, fib_props)."""


@dataclass(frozen=True, slots=True)
class Node:
    """Where links and addresses are looked up: the daemon knows them, others have dumped them."""

    links: Callable[[], Mapping[int, Link]]
    addresses: Callable[[], Iterable[InterfaceAddress]]
    neighbour: Callable[[Prefix, int, Address], Address | None] = lambda _prefix, _ifindex, _via: None
    """The IPv6 address of a router that a routing protocol has an IPv4 next hop of."""

    def is_own(self, address: Address) -> bool:
        return any(a.address == address for a in self.addresses())


class Oracle:
    """Asks the kernel of the network namespace in which it was made. Not for two threads at once."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._allowed: dict[str, tuple[float, str]] = {}
        self._socket = NetlinkSocket(receive_buffer=1 << 20, send_buffer=1 << 16)

    def close(self) -> None:
        self._socket.close()

    @cached_property
    def _names(self) -> Names:
        return local.names()

    # --- the two questions -----------------------------------------------------------------------------------------

    def look(self, lookup: Lookup) -> Verdict:
        """What becomes of the packet at this node."""
        flow, iif = lookup.flow, lookup.iif
        if denied := self._not_taken(iif, flow.source):
            came_in = _name(self.node.links(), iif)
            return Verdict(Hop(in_device=came_in, ends="NEIGHBOR_UNREACHABLE", why=denied))
        answer = self.route(flow, iif)
        out = answer.next_hops[0].ifindex if isinstance(answer, Route) and answer.next_hops else 0
        made, entry = self._explained(flow, iif, answer, out)
        links = self.node.links()
        route = next((text for label, text in made.rows if label == "route"), "")
        if isinstance(answer, Failure):
            route, why = self._discarded(made, entry, route)
        else:
            why = made.wrong[0][0] if made.wrong else ""
        local_ = made.disposition == "ACCEPTED"
        hop = answer.next_hops[0] if isinstance(answer, Route) and answer.next_hops and not local_ else None
        found = Hop(
            in_device=_name(links, iif), route=route, next_hop=hop.via if hop else None,
            out_device=_name(links, out) if hop else "", mtu=int(made.data.get("mtu", 0)), ends=made.disposition,
            why=why,
        )  # fmt: skip
        link = links.get(out)
        if hop is None or made.disposition not in ("DELIVERED_TO_SUBNET", "EXITS_NETWORK") or link is None:
            return Verdict(found, out)
        prefix = entry.prefix if isinstance(entry, Route) else Prefix(flow.destination, 32)
        ask = self._ask_at(hop.via, out, prefix) if hop.via else None
        if link.flags & _NOARP or link.loopback:
            return Verdict(found, out, ask)
        neighbour = hop.via or flow.destination
        return Verdict(found, out, ask, neighbour, self._state(out, neighbour))

    def wants(self, lookup: Lookup, verdict: Verdict, now: float) -> str:
        """The WireGuard device whose AllowedIPs must be known for this verdict to be right; empty: it is."""
        for index in (lookup.iif, verdict.out):
            link = self.node.links().get(index)
            if link is not None and is_wireguard(link):
                known_at, _ = self._allowed.get(link.name, (-inf, ""))
                if now - known_at > _ALLOWED_S:
                    return link.name
        return ""

    def learn(self, device: str, listed: str, now: float) -> None:
        """What `wg show DEVICE allowed-ips` has printed; empty if it could not be had."""
        if len(self._allowed) > _DEVICES:
            self._allowed.clear()
        self._allowed[device] = now, listed

    def _drops(self, link: Link | None, via: Address | None, destination: Address) -> str:
        """Why a WireGuard device drops the packet, as far as it is known."""
        if link is None or not self._allowed or not is_wireguard(link):
            return ""
        peers = allowedips.parse(self._allowed.get(link.name, (0.0, ""))[1])
        if not peers:
            return ""
        advice = allowedips.advice(link.name, peers, via, [Prefix(destination, 32)])
        return advice.partition("\n")[0].removesuffix(" Type")

    def _not_taken(self, iif: int, source: Address | None) -> str:
        """Why a WireGuard device does not let in what comes from there, as far as it is known."""
        link = self.node.links().get(iif)
        if link is None or source is None or not self._allowed or not is_wireguard(link):
            return ""
        peers = allowedips.parse(self._allowed.get(link.name, (0.0, ""))[1])
        if not peers or any(source in prefix for peer in peers for prefix in peer.allowed):
            return ""
        return f"no WireGuard peer of {link.name} has {format_address(source)} in its AllowedIPs: it is dropped there"

    def glance(self, glance: Glance) -> str:
        """The state of a neighbour; if it is to be poked and may not be, a word that says nothing against it."""
        if glance.poke:
            ask = objects.NDMSG.pack(family_of(glance.address), glance.ifindex, 0, _NTF_USE, 0)
            ask += attribute(_NDA_DST, glance.address)
            answer = self._request(objects.RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_ACK, ask)
            if answer is None or (answer.type == NLMSG_ERROR and decode_ack(answer).errno):
                return _NOT_ASKED
        return self._state(glance.ifindex, glance.address)

    def source_for(self, flow: Flow) -> Address | None:
        """The source address that the kernel would give the packet, if it has one."""
        answer = self.route(flow, 0)
        return answer.src if isinstance(answer, Route) and answer.src and any(answer.src) else None

    def comes_in(self, source: Address) -> int:
        """Where packets of a stranger come in: where packets to it go out. 0: nobody knows."""
        answer = self.route(Flow(source), 0)
        hops = answer.next_hops if isinstance(answer, Route) and answer.type == "unicast" else ()
        return hops[0].ifindex if hops else 0

    # --- the kernel ------------------------------------------------------------------------------------------------

    def route(self, flow: Flow, iif: int, fib_match: bool = False) -> Route | Failure:
        """RTM_GETROUTE: the resolved route, or the entry of the FIB behind it."""
        ask = encode_lookup(flow.destination, flow.source, iif, fib_match=fib_match)
        if flow.proto in (ICMP, TCP, UDP):
            ask += attribute(RTA_IP_PROTO, bytes([flow.proto]))
        if flow.proto in (TCP, UDP):
            ask += attribute(RTA_SPORT, flow.sport.to_bytes(2, "big"))
            ask += attribute(RTA_DPORT, flow.dport.to_bytes(2, "big"))
        msg = self._request(RTM_GETROUTE, 0, ask)
        if msg is not None and msg.type == NLMSG_ERROR:
            ack = decode_ack(msg)
            return Failure(0, None, ack.errno, words(ack.errno, ack.text))
        if msg is not None and msg.type == RTM_NEWROUTE:
            route, problem = decode_route(msg.payload)
            return route or Failure(0, None, errno.EPROTO, problem)
        return Failure(0, None, errno.EPROTO, "the kernel's answer could not be read")

    def _explained(
        self, flow: Flow, iif: int, answer: Route | Failure, out: int
    ) -> tuple[Explanation, Route | Failure]:
        links = self.node.links()
        entry = self.route(flow, iif, True)
        there: Route | None = None
        if isinstance(answer, Failure):
            # Of the tables alone, without the checks of what comes in.
            plain = self.route(Flow(flow.destination, None, flow.proto, flow.sport, flow.dport), 0, True)
            there = plain if isinstance(plain, Route) else self._typed(plain, flow)
        shown = [hop.ifindex for r in (entry, there) if isinstance(r, Route) for hop in r.next_hops]
        involved = {index: links[index] for index in (out, iif, *shown) if index in links}
        snapshot = Snapshot(
            links=tuple(involved.values()),
            addresses=tuple(self.node.addresses()),
            nexthops=self._objects(next((r for r in (entry, there) if isinstance(r, Route)), None)),
        )
        via = answer.next_hops[0].via if isinstance(answer, Route) and answer.next_hops else None
        unicast = isinstance(answer, Route) and answer.type == "unicast"
        facts = Facts(
            drops=self._drops(links.get(out), via, flow.destination) if unicast else "",
            destination=flow.destination,
            answer=answer,
            entry=entry,
            snapshot=snapshot,
            source=flow.source,
            iif=iif,
            there=there,
            back=self.route(Flow(flow.source), 0) if there is not None and flow.source and iif else None,
            sysctls=local.sysctls(sysctl_names(tuple(links[index].name for index in (out, iif) if index in links))),
        )
        return explain(facts, self._names), there or entry

    @staticmethod
    def _typed(refused: Failure, flow: Flow) -> Route | None:
        """Which type of route discards it: all that the kernel tells."""
        kind = _DISCARDS.get(refused.errno)
        return Route(Prefix(flow.destination, 32), type=kind) if kind else None

    @staticmethod
    def _discarded(made: Explanation, there: Route | Failure, route: str) -> tuple[str, str]:
        """(route, why) of a packet that is not routed. Which prefix a blackhole has, the kernel does not tell."""
        why = made.wrong[0][0] if made.wrong else made.data.get("kernel", "")
        if isinstance(there, Route) and there.type in _DISCARDS.values():
            if made.wrong and "the route" in why:
                why = f"a route of type {there.type} discards it"
            return there.type, why
        return route, why

    def _objects(self, route: Route | None) -> tuple[NexthopObject, ...]:
        """The nexthop object of a route, and the members of a group, where the kernel shows the number alone."""
        if route is None or not route.nhid or route.next_hops:
            return ()
        top = self._object(route.nhid)
        members = [self._object(nhid) for nhid, _ in top.group[:_MEMBERS]] if top else []
        return tuple(o for o in (top, *members) if o is not None)

    def _object(self, nhid: int) -> NexthopObject | None:
        msg = self._request(objects.RTM_GETNEXTHOP, 0, objects.encode_nexthop_id(nhid))
        return objects.decode_nexthop(msg.payload)[0] if msg is not None and msg.type != NLMSG_ERROR else None

    def _neighbour(self, ifindex: int, address: Address) -> Neighbour | None:
        ask = objects.NDMSG.pack(family_of(address), ifindex, 0, 0, 0) + attribute(_NDA_DST, address)
        msg = self._request(objects.RTM_GETNEIGH, 0, ask)
        return objects.decode_neighbour(msg.payload)[0] if msg is not None and msg.type != NLMSG_ERROR else None

    def _state(self, ifindex: int, address: Address) -> str:
        found = self._neighbour(ifindex, address)
        return found.state if found is not None else ""

    def _ask_at(self, via: Address, ifindex: int, prefix: Prefix) -> Address:
        """Where a next hop is asked. If it has an IPv4 address, its IPv6 address is looked for: what Babel says, or who
        has the same link-layer address. If nobody knows one, the IPv4 address it is."""
        if len(via) == 16:
            return via
        if spoken := self.node.neighbour(prefix, ifindex, via):
            return spoken
        known = self._neighbour(ifindex, via)
        if known is None or not known.lladdr:
            return via
        ask = objects.NDMSG.pack(0, 0, 0, 0, 0) + attribute_u32(_NDA_IFINDEX, ifindex)
        for msg in self._dump(objects.RTM_GETNEIGH, ask):
            found = objects.decode_neighbour(msg.payload)[0]
            if found is None or (found.ifindex, found.lladdr) != (ifindex, known.lladdr):
                continue
            if len(found.address) == 16 and is_link_local(found.address):
                return found.address
        return via

    def _request(self, kind: int, flags: int, payload: bytes) -> Message | None:
        """One message, and the first of its answer."""
        try:
            self._socket.drain()
            self._socket.send(message(kind, NLM_F_REQUEST | flags, payload))
            return next(messages(self._socket.receive()), None)
        except OSError:
            return None

    def _dump(self, kind: int, payload: bytes) -> list[Message]:
        found: list[Message] = []
        try:
            self._socket.drain()
            self._socket.send(message(kind, NLM_F_REQUEST | NLM_F_DUMP, payload))
            while True:
                for msg in messages(self._socket.receive()):
                    if msg.type in (NLMSG_DONE, NLMSG_ERROR):
                        return found
                    found.append(msg)
        except OSError:
            return found


def _name(links: Mapping[int, Link], ifindex: int) -> str:
    if not ifindex:
        return ""
    link = links.get(ifindex)
    return link.name if link is not None else f"if{ifindex}"
