"""Who is at the other end: from a next hop on a device to the node and interface that a packet comes to.

Snapshots hold no cables. What tells of them: the two ends of a veth pair name each other's number; an entry of the ARP
or ND table holds the link-layer address of the far interface; ports of a bridge are one link. Interfaces that are known
to be on one link make a *segment*. A segment of which every end is known is closed: a next hop that no node on it has
does not answer. On any other link a next hop that just one interface in all snapshots has is taken to be that one;
if none has it, the packet leaves what the snapshots cover; if several have it, nobody knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from via6.model import IFA_F_DADFAILED, IFA_F_TENTATIVE, InterfaceAddress, Link
from via6.observe.allowedips import peer_of
from via6.observe.node import ACCEPT, DROP, OPENBSD, Node
from via6.observe.verify import words
from via6.prefix import Address, Prefix, format_address, is_link_local, mask

Port = tuple[int, int]
"""(place of the node, ifindex)."""

_SILENT: Final = frozenset({"FAILED", "INCOMPLETE", "NONE", "NOARP"})  # NOARP: multicast groups, mostly
_NOARP: Final = 0x80 | 0x10  # IFF_NOARP, IFF_POINTOPOINT
_NO_ANSWER: Final = IFA_F_TENTATIVE | IFA_F_DADFAILED
_TUNNELS: Final = frozenset({"wireguard", "tun"})


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


class Segments:
    """All interfaces of all nodes, and which of them are on one link."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes
        self._above: dict[Port, Port] = {}
        self._paired: set[Port] = set()
        self.owners: dict[Address, list[Port]] = {}
        self.held: dict[Port, list[InterfaceAddress]] = {}
        self._neighbours = [{(n.ifindex, n.address): n for n in node.kernel.neighbours} for node in nodes]
        self._lladdrs: dict[bytes, list[Port]] = {}
        for at, node in enumerate(nodes):
            for entry in node.kernel.addresses:
                self.owners.setdefault(entry.address, []).append((at, entry.ifindex))
                self.held.setdefault((at, entry.ifindex), []).append(entry)
            for link in node.kernel.links:
                if any(link.lladdr) and not self._enslaved(at, link):
                    self._lladdrs.setdefault(link.lladdr, []).append((at, link.ifindex))
        self._join_bridges()
        self._join_neighbours()
        self._join_pairs()

    # --- making segments -------------------------------------------------------------------------------------------

    def link(self, port: Port) -> Link | None:
        """The interface itself."""
        return self.nodes[port[0]].kernel.by_index.get(port[1])

    def _enslaved(self, at: int, link: Link) -> bool:
        above = self.nodes[at].kernel.by_index.get(link.master) if link.master else None
        return above is not None and above.kind != "vrf"

    def _find(self, port: Port) -> Port:
        while (above := self._above.get(port, port)) != port:
            self._above[port] = self._above.get(above, above)
            port = above
        return port

    def _join(self, one: Port, other: Port) -> None:
        self._above[self._find(one)] = self._find(other)

    def _join_bridges(self) -> None:
        for at, node in enumerate(self.nodes):
            for link in node.kernel.links:
                if self._enslaved(at, link):
                    self._join((at, link.ifindex), (at, link.master))

    def _join_neighbours(self) -> None:
        for at, node in enumerate(self.nodes):
            for entry in node.kernel.neighbours:
                found = self._by_lladdr(entry.lladdr, entry.address)
                if entry.state not in _SILENT and len(found) == 1 and found[0][0] != at:
                    self._join((at, entry.ifindex), found[0])

    def _by_lladdr(self, lladdr: bytes, address: Address) -> list[Port]:
        """The interfaces with this link-layer address; of several those that have the address, too."""
        found = self._lladdrs.get(lladdr, []) if any(lladdr) else []
        if len(found) > 1:
            found = [port for port in found if port in self.owners.get(address, ())]
        return found

    def _join_pairs(self) -> None:
        """veth: both ends name each other's number. Numbers repeat from node to node, so only one possible partner is
        taken for it, or the one with which the neighbour tables have joined it already."""
        ends: dict[tuple[int, int], list[Port]] = {}
        for at, node in enumerate(self.nodes):
            for link in node.kernel.links:
                if link.kind == "veth" and link.peer:
                    ends.setdefault((link.ifindex, link.peer), []).append((at, link.ifindex))
        chosen: dict[Port, Port] = {}
        for (ifindex, peer), ports in ends.items():
            for port in ports:
                far = [other for other in ends.get((peer, ifindex), ()) if other != port]
                near = [other for other in far if self._find(other) == self._find(port)]
                pick = near if near else far
                if len(pick) == 1 and not (pick is far and self._contradicted(port, far[0])):
                    chosen[port] = pick[0]
        for port, other in chosen.items():
            if chosen.get(other) == port:
                self._paired |= {port, other}
                self._join(port, other)

    def _contradicted(self, port: Port, other: Port) -> bool:
        """The neighbour table of one end knows somebody who is not at the other."""
        for here, there in ((port, other), (other, port)):
            root = self._find(there)
            for entry in self.nodes[here[0]].kernel.neighbours:
                if entry.ifindex == here[1] and entry.state not in _SILENT and any(entry.lladdr):
                    known = self._lladdrs.get(entry.lladdr, [])
                    link = self.link(there)
                    own = link is not None and link.lladdr == entry.lladdr
                    if not own and not any(self._find(one) == root for one in known):
                        return True
        return False

    @cached_property
    def members(self) -> dict[Port, list[Port]]:
        """Per segment (by its first interface) all interfaces of it."""
        found: dict[Port, list[Port]] = {}
        for at, node in enumerate(self.nodes):
            for link in node.kernel.links:
                found.setdefault(self._find((at, link.ifindex)), []).append((at, link.ifindex))
        return found

    def on(self, port: Port) -> list[Port]:
        """The interfaces of other nodes that are known to be on the link of this one."""
        return [other for other in self.members.get(self._find(port), ()) if other[0] != port[0]]

    def closed(self, port: Port) -> bool:
        """Every end of the link is in the snapshots."""
        for one in self.members.get(self._find(port), ()):
            link = self.link(one)
            if one not in self._paired and not (link is not None and link.kind in ("bridge", "bond", "team")):
                return False
        return True

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
        if via is None or link.flags & _NOARP or link.kind in _TUNNELS:
            return None
        entry = self._neighbours[port[0]].get((port[1], via))
        if entry is not None and entry.state == "FAILED":
            return Edge(
                code=words.NEIGHBOR_UNREACHABLE, why=f"{format_address(via)} dev {link.name} does not answer: FAILED"
            )
        if len(via) == 16 and (entry is None or entry.state in _SILENT) and not self._asks(port):
            return Edge(
                code=words.NEIGHBOR_UNREACHABLE,
                why=f"{link.name} has no usable link-local address to ask for {format_address(via)} with",
            )
        return None

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
        found, sure = self._candidates(port, via)
        name = f"{format_address(via)} dev {self.nodes[port[0]].kernel.dev(port[1])}"
        if not found:
            if sure:
                return Edge(code=words.NEIGHBOR_UNREACHABLE, why=f"nobody on the link has {name}")
            return Edge(code=words.EXITS_NETWORK, why=f"{name} is not in the snapshots")
        if len({at for at, _ in found}) > 1:
            some = ", ".join(sorted({self.nodes[at].name for at, _ in found})[:4])
            return Edge(code=words.UNKNOWN, why=f"{name} may be any of {some}")
        if len({(self.block(one)[0], self.rp_filter(one)) for one in found}) > 1:
            return Edge(code=words.UNKNOWN, why=f"{name}: at which interface of {self.nodes[found[0][0]].name}?")
        if len(found) > 1 and self.rp_filter(found[0]) != 0:
            return Edge(code=words.UNKNOWN, why=f"{name}: at which interface of {self.nodes[found[0][0]].name}?")
        return self.arrive(found[0], via)

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

    def _candidates(self, port: Port, via: Address) -> tuple[list[Port], bool]:
        """The interfaces that may be meant, and whether there are no others."""
        entry = self._neighbours[port[0]].get((port[1], via))
        known = entry.lladdr if entry is not None and entry.state not in _SILENT else b""
        near = self.on(port)
        closed = self.closed(port)
        if any(known):
            there = self._by_lladdr(known, via)
            if len(there) == 1 and self._answers(there[0], via):
                return there, True
            if not there:
                return [], closed
        having = [one for one in near if self._answers(one, via)]
        if having or closed:
            return having, closed
        # Nobody knows the link: whoever has the address, and is not known to be somewhere else.
        far = [one for one in self.owners.get(via, ()) if one[0] != port[0] and not self.closed(one)]
        babel = self._by_babel(port, far)
        return babel or far, False

    def _answers(self, port: Port, address: Address) -> bool:
        """The interface answers for an address: ND for its own, ARP for any of its node's (arp_ignore=0)."""
        owners = self.owners.get(address, ())
        return port in owners if len(address) == 16 else any(at == port[0] for at, _ in owners)

    def _by_babel(self, port: Port, found: Sequence[Port]) -> list[Port]:
        """Of several those that hear the asking interface as a Babel neighbour."""
        if len(found) < 2:
            return []
        mine = {a.address for a in self.held.get(port, ())}
        hears = []
        for one in found:
            state = self.nodes[one[0]].babel
            if state is not None and any(n.ifindex == one[1] and n.address in mine for n in state.neighbours):
                hears.append(one)
        return hears

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
        if node.firewall.forward4 == ACCEPT:
            return 0, ""
        evidence = "; ".join(node.firewall.evidence[:2])
        if node.firewall.forward4 == DROP:
            return words.DENIED_FIREWALL, evidence or "the packet filter drops forwarded IPv4"
        return words.UNKNOWN, f"whether the packet filter passes it: {evidence or 'not known'}"

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
        near = self.on(port)
        if self.closed(port):
            return near
        subnets = {Prefix(mask(a.address, a.length), a.length) for a in self.held.get(port, ()) if len(a.address) == 4}
        far = [
            other
            for other, held in self.held.items()
            if other[0] != port[0] and other not in near and not self.closed(other) and not self._loop(other)
            for a in held
            if len(a.address) == 4 and any(a.address in subnet for subnet in subnets)
        ]
        return near + list(dict.fromkeys(far))

    def _loop(self, port: Port) -> bool:
        link = self.link(port)
        return link is None or link.loopback

    def failed4(self, port: Port) -> list[int]:
        """IPv4 addresses on the link that do not answer ARP."""
        entries = self._neighbours[port[0]].values()
        return [
            int.from_bytes(n.address, "big")
            for n in entries
            if n.ifindex == port[1] and len(n.address) == 4 and n.state == "FAILED"
        ]

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
