"""Who is at the other end: from a next hop on a device to the node and interface that a packet comes to.

On a closed segment (`segments`) a next hop that no node on it has does not answer. On any other link a next hop leads
to an interface that has the address, if something besides the route speaks for both being on one link: a network of
addresses that both have, or that the far node's next hops or Babel neighbours there are the near one. If none has the
address, the packet leaves what the snapshots cover; if nothing speaks for it, or something speaks for several, nobody
knows.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from via6.model import IFA_F_DADFAILED, IFA_F_TENTATIVE, Link, Neighbour
from via6.observe.allowedips import peer_of
from via6.observe.node import ACCEPT, DROP, OPENBSD, Node
from via6.observe.verify import words
from via6.observe.verify.segments import SILENT, Joined
from via6.observe.verify.segments import Port as Port
from via6.prefix import Address, format_address, is_link_local, mask

_NOARP: Final = 0x80  # IFF_NOARP
_ALONE: Final = 0x80 | 0x10  # IFF_POINTOPOINT: who is at the other end is no question
_NO_ANSWER: Final = IFA_F_TENTATIVE | IFA_F_DADFAILED
_TUNNELS: Final = frozenset({"wireguard", "tun"})
_ETHERNET: Final = frozenset({"", "veth", "bridge", "bond", "team", "vlan", "macvlan"})
"""Kinds that find out link-layer addresses, unless they are told not to (`ip link set DEV arp off`)."""


@dataclass(frozen=True, slots=True)
class Edge:
    """Where a next hop leads: to `node` (its place, -1: to none) by its interface `ifindex`, or `code` and `why` it
    ends. `block` and `block_why`: what becomes of a packet that the far node would have to pass on."""

    node: int = -1
    ifindex: int = 0
    code: int = 0
    why: str = ""
    block: int = 0
    block_why: str = ""


class Segments(Joined):
    """Where next hops lead, from any interface of any node."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._attached: dict[Port, list[Port]] = {}
        super().__init__(nodes)

    # --- next hops -------------------------------------------------------------------------------------------------

    def leaves(self, port: Port, via: Address | None) -> Edge | None:
        """Why nothing can leave by an interface; None if it can."""
        link = self.link(port)
        if link is None:
            return Edge(code=words.UNKNOWN, why=f"interface {port[1]} is not in the snapshot")
        if not link.up:
            return Edge(code=words.NEIGHBOR_UNREACHABLE, why=f"{link.name} is down")
        if link.loopback:
            return Edge(code=words.UNKNOWN, why=f"the route leads over {link.name}")
        if not link.carrier:
            if via is None and link.kind == "bridge":
                return None  # a bridge without a port that carries: nobody is on it, and nothing is wrong
            return Edge(code=words.NEIGHBOR_UNREACHABLE, why=f"{link.name} has no carrier")
        if self._mute(link):
            return Edge(code=words.NEIGHBOR_UNREACHABLE, why=f"arp is off on {link.name}: it finds nobody")
        if via is None or link.flags & _ALONE or link.kind in _TUNNELS:
            return None
        entry = self._neighbours[port[0]].get((port[1], via))
        if len(via) == 16 and (entry is None or entry.state in SILENT) and not self._asks(port):
            return Edge(
                code=words.NEIGHBOR_UNREACHABLE,
                why=f"{link.name} has no usable link-local address to ask for {format_address(via)} with",
            )
        return None

    @staticmethod
    def _mute(link: Link) -> bool:
        """It sends to its own link-layer address whatever it sends (net/ipv4/arp.c: arp_constructor)."""
        return bool(link.flags & _NOARP and link.kind in _ETHERNET and len(link.lladdr) == 6)

    def _asks(self, port: Port) -> bool:
        """Neighbour discovery can be asked on an interface: IPv6 is on there, with a link-local address (ndisc.c)."""
        node = self.nodes[port[0]]
        if "addresses" in node.unread or "addresses" not in node.kernel.parts:
            return True
        name = node.kernel.dev(port[1])
        if node.sysctls.get(f"net/ipv6/conf/{name}/disable_ipv6"):
            return False
        held = self.held.get(port, ())
        return any(len(a.address) == 16 and is_link_local(a.address) and not a.flags & _NO_ANSWER for a in held)

    def resolve(self, port: Port, via: Address) -> Edge:
        """Where a next hop leads."""
        refused = self.leaves(port, via)
        if refused is not None:
            return refused
        name = f"{format_address(via)} dev {self.nodes[port[0]].kernel.dev(port[1])}"
        entry = self._neighbours[port[0]].get((port[1], via))
        known = entry if entry is not None and entry.state not in SILENT and any(entry.lladdr) else None
        told = self._known_as(port, known, name) if known is not None else None
        if told is not None:
            return told
        found, sure = self._candidates(port, via, known)
        if entry is not None and entry.state == "FAILED":
            return self._failed(port, entry, found, name)
        if not found:
            if sure:
                return Edge(code=words.NEIGHBOR_UNREACHABLE, why=f"nobody on the link has {name}")
            return Edge(code=words.EXITS_NETWORK, why=f"{name} is not in the snapshots")
        if len({at for at, _ in found}) > 1:
            some = ", ".join(sorted({self.nodes[at].name for at, _ in found})[:4])
            return Edge(code=words.UNKNOWN, why=f"{name} may be any of {some}")
        if not sure and not any(one in self.on(port) or self._speaks(port, one) for one in found):
            why = f"{name}: whether {self.name(found[0])}, which has the address, is on that link"
            return Edge(code=words.UNKNOWN, why=why)
        if len({(self.block(one)[0], self.rp_filter(one)) for one in found}) > 1:
            return Edge(code=words.UNKNOWN, why=f"{name}: at which interface of {self.nodes[found[0][0]].name}?")
        if len(found) > 1 and self.rp_filter(found[0]) != 0:
            return Edge(code=words.UNKNOWN, why=f"{name}: at which interface of {self.nodes[found[0][0]].name}?")
        return (None if known else self._silent(port, found[0], via)) or self.arrive(found[0], via)

    def _known_as(self, port: Port, entry: Neighbour, name: str) -> Edge | None:
        """What an entry of the neighbour table means that names somebody without this address: it is used as long as
        nobody asks again, and for ever if somebody has set it. None where it names who has it, or nobody known."""
        there = self._by_lladdr(entry.lladdr, entry.address)
        if len(there) == 1 and not self._answers(there[0], entry.address):
            if entry.state == "PERMANENT":
                return self.arrive(there[0])
            why = f"{name} is still known as {self.name(there[0])}, which does not have it any more"
            return Edge(code=words.UNKNOWN, why=why)
        if there or entry.state == "PERMANENT":
            return None
        having, _ = self._candidates(port, entry.address, None)
        if not having:
            return None
        why = f"{name} is known as {entry.lladdr.hex(':')}, and {self.name(having[0])}, which has it, is another one"
        return Edge(code=words.UNKNOWN, why=why)

    def _failed(self, port: Port, entry: Neighbour, found: Sequence[Port], name: str) -> Edge:
        """A next hop that did not answer when it was last asked. The next packet asks again, and who is there answers
        unless something keeps him from it."""
        there = [one for one in found if self._silent(port, one, entry.address) is None]
        if there and not self.arrive(there[0], entry.address).code:
            why = f"{name} did not answer (FAILED), and {self.name(there[0])} has it: ping it, and take a new snapshot"
            return Edge(code=words.UNKNOWN, why=why)
        return Edge(code=words.NEIGHBOR_UNREACHABLE, why=f"{name} does not answer: FAILED")

    def _silent(self, port: Port, far: Port, via: Address) -> Edge | None:
        """Why the far interface gives no answer if it is asked for its address; None if it does."""
        link = self.link(far)
        if link is not None and self._mute(link):
            return Edge(code=words.NEIGHBOR_UNREACHABLE, why=f"arp is off on {self.name(far)}: it answers nobody")
        here = self.link(port)
        if len(via) == 4 or here is None:  # ARP answers whom it hears; ND looks for him in its own table
            return None
        for own in self.held.get(port, ()):
            entry = self._neighbours[far[0]].get((far[1], own.address)) if len(own.address) == 16 else None
            if entry is not None and entry.state == "PERMANENT" and entry.lladdr != here.lladdr:
                why = f"{self.name(far)} answers to {entry.lladdr.hex(':')}, which is not {self.name(port)}: PERMANENT"
                return Edge(code=words.NEIGHBOR_UNREACHABLE, why=why)
        return None

    def arrive(self, port: Port, address: Address | None = None) -> Edge:
        """The edge that ends at an interface."""
        link = self.link(port)
        if link is None or not link.up:
            return Edge(code=words.NEIGHBOR_UNREACHABLE, why=f"the far end, {self.name(port)}, is down")
        if address is not None:
            flags = [a.flags for a in self.held.get(port, ()) if a.address == address]
            if flags and all(one & _NO_ANSWER for one in flags):
                why = f"{format_address(address)} of {self.name(port)} is not usable: duplicate address detection"
                return Edge(code=words.NEIGHBOR_UNREACHABLE, why=why)
        code, why = self.block(port)
        return Edge(port[0], port[1], block=code, block_why=why)

    def name(self, port: Port) -> str:
        """`r1's eth2`."""
        node = self.nodes[port[0]]
        return f"{node.name}'s {node.kernel.dev(port[1])}"

    def _candidates(self, port: Port, via: Address, entry: Neighbour | None) -> tuple[list[Port], bool]:
        """The interfaces that may be meant, and whether there are no others. `entry` has a link-layer address."""
        near = self._ends(port)
        closed = self.closed(port)
        if entry is not None:
            there = self._by_lladdr(entry.lladdr, via)
            if len(there) == 1 and self._answers(there[0], via):
                return (there if not closed or there[0] in near else []), True
            if not there:
                return [], closed
        having = [one for one in near if self._answers(one, via)]
        if having or closed:
            return having, closed
        # Nobody knows the link: whoever has the address, and is not known to be somewhere else.
        far = [one for one in self.owners.get(via, ()) if one[0] != port[0] and not self.closed(one)]
        return [one for one in far if self._speaks(port, one)] or far, False

    def _answers(self, port: Port, address: Address) -> bool:
        """The interface answers for an address: ND for its own, ARP for any of its node's (arp_ignore=0)."""
        owners = self.owners.get(address, ())
        return port in owners if len(address) == 16 else any(at == port[0] for at, _ in owners)

    # --- what stands in the way there ------------------------------------------------------------------------------

    def block(self, port: Port) -> tuple[int, str]:
        """(code, why) if the node does not pass on what comes in by this interface, (0, "") if it does."""
        node = self.nodes[port[0]]
        name = node.kernel.dev(port[1])
        forwarding = node.sysctls.get(f"net/ipv4/conf/{name}/forwarding")
        if forwarding is None:
            return words.UNKNOWN, f"net.ipv4.conf.{name}.forwarding of {node.name} was not read"
        if not forwarding:
            return words.FORWARDING_OFF, f"net.ipv4.conf.{name}.forwarding is 0"
        if node.firewall is None:
            said = node.unread.get("firewall", "")
            return words.UNKNOWN, f"the firewall of {node.name} was not read" + (f": {said}" if said else "")
        if node.firewall.forward4 == ACCEPT or node.firewall.filter:
            return 0, ""  # or it is up to the packet: `Network.wall`
        evidence = "; ".join(node.firewall.evidence[:2])
        if node.firewall.forward4 == DROP:
            return words.DENIED_FIREWALL, evidence or "the packet filter drops forwarded IPv4"
        return words.UNKNOWN, f"whether the packet filter passes it: {evidence or 'not known'}"

    def takes(self, port: Port) -> tuple[int, str]:
        """(code, why) if the node drops whatever comes to itself by this interface. A packet filter that passes some of
        it, as most do, is no reason."""
        node = self.nodes[port[0]]
        name = node.kernel.dev(port[1])
        wall = node.firewall
        if wall is None:
            return 0, ""
        told = [one for one in wall.shut if one.packets == "own4" and one.into in ("", name)]
        if not told and wall.own4 != DROP:
            return 0, ""
        rules = "; ".join(told[0].rules[:2]) if told else ""
        return words.DENIED_FIREWALL, rules or "the packet filter drops what comes to the node"

    def rp_filter(self, port: Port) -> int | None:
        """rp_filter as it counts there, the larger of `all` and the interface's; None if it was not read."""
        node = self.nodes[port[0]]
        both = [node.sysctls.get(f"net/ipv4/conf/{one}/rp_filter") for one in ("all", node.kernel.dev(port[1]))]
        if node.system == OPENBSD:
            return 0
        known = [value for value in both if value is not None]
        return max(known) if len(known) == 2 else None

    # --- hosts on the link -----------------------------------------------------------------------------------------

    def attached(self, port: Port) -> list[Port]:
        """The interfaces of other nodes that may answer ARP on the link of this one."""
        if port not in self._attached:
            self._attached[port] = self._ends(port) + ([] if self.closed(port) else self._in_subnets(port))
        return self._attached[port]

    def _in_subnets(self, port: Port) -> list[Port]:
        """Those with an address in a network of this one, that are not known to be elsewhere."""
        near, far = self._ends(port), set()
        for own in self.held.get(port, ()):
            if len(own.address) == 4:
                first = mask(own.address, own.length)
                last = int.from_bytes(first, "big") | (1 << 32 - own.length) - 1
                begin = bisect_left(self._open4, (first, (-1, 0)))
                end = bisect_right(self._open4, (last.to_bytes(4, "big"), (len(self.nodes), 0)))
                far |= {other for _, other in self._open4[begin:end]}
        return sorted(other for other in far if other[0] != port[0] and other not in near)

    @cached_property
    def _open4(self) -> list[tuple[Address, Port]]:
        """IPv4 addresses in their order, with their interfaces, on links of which not all ends are known."""
        return sorted(
            (entry.address, port)
            for port, held in self.held.items()
            if not self._loop(port) and not self.closed(port)
            for entry in held
            if len(entry.address) == 4
        )

    def perhaps(self, port: Port) -> frozenset[int]:
        """Nodes that may be on the link of an interface as well, though nothing says so."""
        return frozenset() if self.closed(port) else self._open - {port[0], *(at for at, _ in self.attached(port))}

    @cached_property
    def _open(self) -> frozenset[int]:
        """Nodes with an interface of which not all that is on its link is known."""
        return frozenset(
            at
            for at, node in enumerate(self.nodes)
            for link in node.kernel.links
            if link.up and not link.loopback and not self._enslaved(at, link) and not self.closed((at, link.ifindex))
        )

    def _loop(self, port: Port) -> bool:
        link = self.link(port)
        return link is None or link.loopback

    def hears(self, port: Port, far: Port) -> Edge:
        """The edge to a host on the link; it may not answer ARP."""
        silent, link = self._silent(port, far, bytes(4)), self.link(far)
        if silent is None or link is None:
            return self.arrive(far)
        for entry in self._neighbours[port[0]].values():
            if entry.ifindex == port[1] and entry.lladdr == link.lladdr and entry.state not in SILENT:
                return Edge(code=words.UNKNOWN, why=f"{silent.why}, and is still known to {self.name(port)}")
        return silent

    def notable(self, at: int) -> list[tuple[Address, int]]:
        """IPv4 addresses of nodes of which the neighbour table of one says that they did not answer, or that they are
        somebody else: (address, ifindex)."""
        found = []
        for entry in self.nodes[at].kernel.neighbours:
            owners = {one[0] for one in self.owners.get(entry.address, ())} - {at}
            known = {one[0] for one in self._lladdrs.get(entry.lladdr, ())}
            odd = entry.state == "FAILED" or (entry.state not in SILENT and any(entry.lladdr) and not known & owners)
            if len(entry.address) == 4 and owners and odd:
                found.append((entry.address, entry.ifindex))
        return found

    def by_entry(self, port: Port, host: Address) -> Edge | None:
        """What the neighbour table says of such an address; None if nobody on the link has it."""
        entry = self._neighbours[port[0]][port[1], host]
        having = [one for one in self.attached(port) if self._answers(one, host)]
        name = f"{format_address(host)} dev {self.nodes[port[0]].kernel.dev(port[1])}"
        if not having:
            return None
        if entry.state == "FAILED":
            return self._failed(port, entry, having, name)
        why = f"{name} is known as {entry.lladdr.hex(':')}, which is not {self.name(having[0])}: {entry.state}"
        return Edge(code=words.NEIGHBOR_UNREACHABLE if entry.state == "PERMANENT" else words.UNKNOWN, why=why)

    # --- WireGuard -------------------------------------------------------------------------------------------------

    def tunnel(self, port: Port) -> str:
        """The name of a WireGuard device with known peers, else empty."""
        node = self.nodes[port[0]]
        name = node.kernel.dev(port[1])
        return name if name in node.wireguard else ""

    def peer_edge(self, port: Port, peer: int) -> Edge:
        """Where a WireGuard device sends what AllowedIPs give to this peer (its place in the list; -1: none)."""
        node = self.nodes[port[0]]
        name = node.kernel.dev(port[1])
        if peer < 0:
            return Edge(code=words.DENIED_ALLOWED_IPS, why=f"no peer of {name} has it in its AllowedIPs")
        link = self.link(port)
        if link is None or not link.up:
            return Edge(code=words.NEIGHBOR_UNREACHABLE, why=f"{name} is down")
        told = node.wireguard[name][peer]
        hosts = [p.packed for p in told.allowed if p.is_host]
        ends = {one for host in hosts for one in self.owners.get(host, ()) if one[0] != port[0] and self.tunnel(one)}
        if len({at for at, _ in ends}) == 1:
            return self.arrive(min(ends))
        if not ends:
            return Edge(code=words.EXITS_NETWORK, why=f"the peer {told.key[:8]}… of {name} is not in the snapshots")
        return Edge(code=words.UNKNOWN, why=f"which node the peer {told.key[:8]}… of {name} is")

    def accepts(self, port: Port, sender: Port, source: Address) -> bool | None:
        """Whether a WireGuard device takes a packet from this source that the sender passes to it; None: not known."""
        node = self.nodes[port[0]]
        peers = node.wireguard[node.kernel.dev(port[1])]
        for held in self.held.get(sender, ()):
            peer = peer_of(peers, held.address)
            if peer is not None:
                best = peer_of(peers, source) if _covered(peers, source) else None
                return best == peer
        return None


def _covered(peers: Iterable[object], source: Address) -> bool:
    return any(source in prefix for peer in peers for prefix in peer.allowed)  # type: ignore[attr-defined]
