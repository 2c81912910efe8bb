"""Who is on one link with whom. Snapshots hold no cables.

What tells of them: the two ends of a veth pair name each other's number; an entry of the ARP or ND table holds the
link-layer address of the far interface; ports of a bridge are one link. Interfaces that are known to be on one link
make a *segment*. A segment of which every end is known is closed.

Numbers of veth ends repeat from machine to machine, and the other end may be in no snapshot (a switch in a namespace of
its own): so they count where something else speaks for the pair too, or where no number occurs twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Final

from via6.model import InterfaceAddress, Link
from via6.observe.node import Node
from via6.observe.show import resolved
from via6.prefix import Address, Prefix, is_link_local, mask

Port = tuple[int, int]
"""(place of the node, ifindex)."""

SILENT: Final = frozenset({"FAILED", "INCOMPLETE", "NONE", "NOARP"})  # NOARP: multicast groups, mostly


class Joined:
    """All interfaces of all nodes, and which of them are on one link."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes
        self._above: dict[Port, Port] = {}
        self._paired: set[Port] = set()
        self._closed: dict[Port, bool] = {}
        self._known: dict[Port, tuple[set[Address], set[Prefix], set[Address]]] = {}
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
        pairs = self._pairs()
        # Once more: between links of which all ends are known a table may know what a bridge passed that is down now.
        self._above.clear()
        self._join_bridges()
        for one, other in pairs:
            self._paired |= {one, other}
            self._join(one, other)
        whole = frozenset(one for ports in self.members.values() for one in ports if self.closed(one))
        del self.members
        self._closed.clear()
        self._join_neighbours(whole)

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
        """A bridge that is down passes nothing from port to port, nor a port that is down."""
        for at, node in enumerate(self.nodes):
            for link in node.kernel.links:
                if self._enslaved(at, link) and link.up and node.kernel.by_index[link.master].up:
                    self._join((at, link.ifindex), (at, link.master))

    def _join_neighbours(self, whole: frozenset[Port] = frozenset()) -> None:
        """Whoever is in a table is on the link, but for two interfaces on links that are `whole` without that."""
        for at, node in enumerate(self.nodes):
            for entry in node.kernel.neighbours:
                found = self._by_lladdr(entry.lladdr, entry.address)
                if entry.state in SILENT or len(found) != 1 or found[0][0] == at:
                    continue
                if not {(at, entry.ifindex), found[0]} <= whole:
                    self._join((at, entry.ifindex), found[0])

    def _by_lladdr(self, lladdr: bytes, address: Address) -> list[Port]:
        """The interfaces with this link-layer address; of several those that have the address, too."""
        found = self._lladdrs.get(lladdr, []) if any(lladdr) else []
        if len(found) > 1:
            found = [port for port in found if port in self.owners.get(address, ())]
        return found

    def _pairs(self) -> list[tuple[Port, Port]]:
        """veth: both ends name each other's number. Numbers repeat from node to node, so the partner is the one with
        which the neighbour tables have joined it already, or else the only likely one."""
        ends: dict[tuple[int, int], list[Port]] = {}
        for at, node in enumerate(self.nodes):
            for link in node.kernel.links:
                if link.kind == "veth" and link.peer:
                    ends.setdefault((link.ifindex, link.peer), []).append((at, link.ifindex))
        chosen: dict[Port, Port] = {}
        for (ifindex, peer), ports in ends.items():
            far = ends.get((peer, ifindex), [])
            near: dict[Port, list[Port]] = {}
            for other in far:
                near.setdefault(self._find(other), []).append(other)
            for port in ports:
                joined = [other for other in near.get(self._find(port), ()) if other != port]
                alone = len(far) - (ifindex == peer) == 1
                pick = joined or [one for one in far if one != port and self._likely(port, one, alone)]
                if len(pick) == 1:
                    chosen[port] = pick[0]
        return [(port, other) for port, other in chosen.items() if chosen.get(other) == port]

    def _likely(self, port: Port, other: Port, alone: bool) -> bool:
        """Two veth ends that name each other's numbers, `alone` or with others, are a pair, and not by chance."""
        told = (alone and self._all_differ) or self._speaks(port, other) or self._speaks(other, port)
        return told and not self._contradicted(port, other)

    @cached_property
    def _all_differ(self) -> bool:
        """No number of a veth end occurs twice: whoever made them took care, and they say who belongs together."""
        numbers = [link.ifindex for node in self.nodes for link in node.kernel.links if link.kind == "veth"]
        return len(numbers) == len(set(numbers))

    @cached_property
    def _meant(self) -> dict[Port, set[Address]]:
        """Per interface the next hops of the node's routes there, and its Babel neighbours."""
        found: dict[Port, set[Address]] = {}
        for at, node in enumerate(self.nodes):
            objects = {one.nhid: one for one in node.kernel.nexthops}
            for block in node.kernel.routes.blocks:
                for hop in resolved(block.template, objects).next_hops:
                    if hop.via is not None:
                        found.setdefault((at, hop.ifindex), set()).add(hop.via)
            for one in node.babel.neighbours if node.babel is not None else ():
                found.setdefault((at, one.ifindex), set()).add(one.address)
        return found

    def _speaks(self, port: Port, other: Port) -> bool:
        """What the node of `other` says speaks for the two being on one link."""
        (held, networks, _), (_, theirs, meant) = self._said(port), self._said(other)
        return not (held.isdisjoint(meant) and networks.isdisjoint(theirs))

    def _said(self, port: Port) -> tuple[set[Address], set[Prefix], set[Address]]:
        """Of an interface, or the bridge that it is a port of: (its addresses, its networks, whom its node means)."""
        if port not in self._known:
            link = self.link(port)
            above = (port[0], link.master) if link is not None and self._enslaved(port[0], link) else port
            held = self.held.get(above, ())
            networks = {
                Prefix(mask(a.address, a.length), a.length)
                for a in held
                if a.length < len(a.address) * 8 and not is_link_local(a.address) and a.peer is None
            }
            self._known[port] = {a.address for a in held}, networks, self._meant.get(above, set())
        return self._known[port]

    def _contradicted(self, port: Port, other: Port) -> bool:
        """The neighbour table of one end knows somebody who is not at the other."""
        for here, there in ((port, other), (other, port)):
            root = self._find(there)
            for entry in self.nodes[here[0]].kernel.neighbours:
                if entry.ifindex == here[1] and entry.state not in SILENT and any(entry.lladdr):
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

    def _ends(self, port: Port) -> list[Port]:
        """Those of them that speak IP: not the ports of a bridge, which does it for them."""
        return [(at, i) for at, i in self.on(port) if not self._enslaved(at, self.nodes[at].kernel.by_index[i])]

    def closed(self, port: Port) -> bool:
        """Every end of the link is in the snapshots."""
        root = self._find(port)
        if root not in self._closed:
            self._closed[root] = all(map(self._known_end, self.members.get(root, ())))
        return self._closed[root]

    def _known_end(self, port: Port) -> bool:
        link = self.link(port)
        return port in self._paired or (link is not None and link.kind in ("bridge", "bond", "team"))
