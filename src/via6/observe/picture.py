"""A network as a picture: its nodes, the links between them, and the IPv4 islands behind them. Pure.

Which interfaces are on one link is what `observe.verify.links` says. A link that joins more than a handful of nodes is
drawn as a node of its own, as a switch would be. A Babel neighbour of which there is no snapshot is drawn, too: as
unknown.

Names come from snapshots, so they may be anything. An id is made of what needs no escape in an address of the web, and
is the same every time: other octets of a name are `~` and two digits, and a name that would be long is cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2s
from typing import Any, Final

from via6.model import Link as Interface
from via6.observe.node import OPENBSD, Node
from via6.observe.show import resolved
from via6.observe.verify.links import Port, Segments
from via6.prefix import AF_INET, Prefix, format_address, is_link_local, mask

UP: Final = "up"
DOWN: Final = "down"
UNKNOWN: Final = "unknown"

ROUTER: Final = "router"
HOST: Final = "host"

_PLAIN: Final = re.compile(rb"[^A-Za-z0-9._-]")
_LONGEST: Final = 80
_MESH: Final = 4  # nodes of one link that are joined two by two
_INFINITY: Final = 65535
_DAEMONS: Final = {46: "via6", 42: "babeld", 12: "bird", 11: "frr", 186: "frr", 187: "frr", 188: "frr", 189: "frr"}
"""rtm_protocol to the program that puts such routes in, where one is known."""


@dataclass(frozen=True, slots=True)
class DrawnNode:
    """`software` is the routing program, as far as its routes tell. `islands` are prefixes."""

    id: str
    name: str
    kind: str
    software: str = ""
    state: str = UP
    islands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class End:
    """One end of a link: the ids of node and `dev` (a name)."""

    node: str
    dev: str


@dataclass(frozen=True, slots=True)
class DrawnLink:
    """`ipv4`: an end of it has an IPv4 address. `cost` is Babel's, the larger of both directions. `ports` are the
    interfaces whose carrier decides about the state, as (name of the node, ifindex)."""

    id: str
    a: End
    b: End
    state: str
    kind: str
    ipv4: bool
    cost: int | None
    ports: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Island:
    """An IPv4 prefix and the ids of the nodes that it is at."""

    id: str
    prefix: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """All of it. `ids` maps the names of nodes to their ids."""

    nodes: tuple[DrawnNode, ...] = ()
    links: tuple[DrawnLink, ...] = ()
    islands: tuple[Island, ...] = ()
    ids: Mapping[str, str] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[Any, ...]:
        """Equal for pictures that differ in the states of nodes and links alone."""
        return (
            tuple(replace(node, state="") for node in self.nodes),
            tuple(replace(link, state="") for link in self.links),
            self.islands,
        )


def id_of(name: str) -> str:
    """The id for a name; distinct for distinct names, but for those that are cut or said twice (see `_unique`)."""
    octets = name.encode(errors="surrogatepass")
    made = _PLAIN.sub(lambda found: b"~%02x" % found[0][0], octets).decode("ascii")
    if made.strip(".") == "":  # ".." means something in an address
        made = made.replace(".", "~2e") or "~"
    if len(made) > _LONGEST:
        made = made[: _LONGEST - 18] + "~~" + blake2s(octets, digest_size=8).hexdigest()
    return made


def draw(nodes: Sequence[Node], known: Picture | None = None, down: Iterable[str] = ()) -> Picture:
    """The picture. A link of `known` whose interfaces are on no link any more stays in it, as one that is down: links
    that were cut are to be seen. `down` names nodes that do not answer."""
    return _Drawer(nodes, frozenset(down)).picture(known)


class _Drawer:
    def __init__(self, nodes: Sequence[Node], down: frozenset[str]) -> None:
        self.nodes = nodes
        self.down = down
        self.segments = Segments(nodes)
        self.ids = _unique([node.name for node in nodes])
        self.strangers: dict[str, DrawnNode] = {}
        self.taken: set[str] = set()

    def picture(self, known: Picture | None) -> Picture:
        links: list[DrawnLink] = []
        for members in self.segments.members.values():
            links += self._segment(members)
        links += self._routed(links)
        links += self._cables(links)
        links += self._babel(known)
        if known is not None:
            links += self._remembered(known, links)
        islands = self._islands()
        of_node: dict[str, list[str]] = {}
        for island in islands:
            for one in island.nodes:
                of_node.setdefault(one, []).append(island.prefix)
        drawn = [self._node(node, tuple(of_node.get(self.ids[node.name], ()))) for node in self.nodes]
        links.sort(key=lambda link: link.id)
        return Picture((*drawn, *self.strangers.values()), tuple(links), tuple(islands), self.ids)

    # --- nodes -----------------------------------------------------------------------------------------------------

    def _node(self, node: Node, islands: tuple[str, ...]) -> DrawnNode:
        state = DOWN if node.name in self.down else UP
        return DrawnNode(self.ids[node.name], node.name, kind_of(node), software_of(node), state, islands)

    # --- links -----------------------------------------------------------------------------------------------------

    def _segment(self, members: Sequence[Port]) -> list[DrawnLink]:
        """The links that one segment is drawn as: its cables, and what joins the rest of it."""
        if len({at for at, _ in members}) < 2:
            return []
        found, cabled = [], set()
        ends = {pair: port for port in members if (pair := self._pair(port)) is not None}
        for (ifindex, peer), port in ends.items():
            other = ends.get((peer, ifindex))
            if other is not None and other[0] != port[0] and port < other:
                found.append(self._link(port, other))
                cabled |= {port, other}
        ports = [port for port in members if port not in cabled]
        # A bridge whose ports have been drawn is within its node, and so is a port whose bridge is drawn.
        masters = {(at, self._interface((at, ifindex)).master) for at, ifindex in cabled}
        ports = [port for port in ports if port not in masters and self._above(port) not in ports]
        if len({at for at, _ in ports}) < 2:
            return found
        if len(ports) <= _MESH:
            pairs = [(a, b) for n, a in enumerate(ports) for b in ports[n + 1 :] if a[0] != b[0]]
            return found + [self._link(a, b) for a, b in pairs]
        return found + self._shared(ports)

    def _shared(self, ports: Sequence[Port]) -> list[DrawnLink]:
        """A link of many nodes: a node of its own in the middle."""
        first = min(self._name(port) for port in ports)
        middle = DrawnNode(self._free(id_of(f"link-{first}")), f"link of {first}", UNKNOWN, "link")
        self.strangers[middle.id] = middle
        found = []
        for port in ports:
            end = self._end(port)
            there = End(middle.id, "")
            state = UP if self._interface(port).carrier else DOWN
            kind, deciding = self._interface(port).kind, ((self.nodes[port[0]].name, port[1]),)
            made = DrawnLink(self._link_id(end, there), end, there, state, kind, self._ipv4(port), None, deciding)
            found.append(made)
        return found

    def _link(self, one: Port, other: Port) -> DrawnLink:
        if self._name(other) < self._name(one):
            one, other = other, one
        a, b = self._end(one), self._end(other)
        near, far = self._interface(one), self._interface(other)
        state = UP if near.carrier and far.carrier else DOWN
        costs = [c for c in (self._cost(one, other), self._cost(other, one)) if c is not None]
        return DrawnLink(
            self._link_id(a, b), a, b, state, near.kind, self._ipv4(one) or self._ipv4(other),
            max(costs, default=None), ((self.nodes[one[0]].name, one[1]), (self.nodes[other[0]].name, other[1])),
        )  # fmt: skip

    def _routed(self, links: Sequence[DrawnLink]) -> list[DrawnLink]:
        """Links that only next hops tell of: those of interfaces that are on no link yet."""
        used = {port for link in links for port in link.ports}
        found: dict[frozenset[Port], DrawnLink] = {}
        for at, node in enumerate(self.nodes):
            objects = {one.nhid: one for one in node.kernel.nexthops}
            hops = {h for block in node.kernel.routes.blocks for h in resolved(block.template, objects).next_hops}
            for hop in sorted(hops, key=lambda hop: (hop.ifindex, hop.via or b"")):
                port = at, hop.ifindex
                if hop.via is None or (node.name, hop.ifindex) in used or hop.ifindex not in node.kernel.by_index:
                    continue
                edge = self.segments.resolve(port, hop.via)
                pair = frozenset((port, (edge.node, edge.ifindex)))
                if edge.node >= 0 and edge.node != at and pair not in found:
                    found[pair] = self._link(port, (edge.node, edge.ifindex))
        return list(found.values())

    def _cables(self, links: Sequence[DrawnLink]) -> list[DrawnLink]:
        """Pairs of veth ends that nothing speaks for but their numbers, which occur nowhere else: a link that was cut
        before anybody looked has lost its addresses with its carrier, and is to be seen. For the way of a packet that
        is not enough: see `Segments`."""
        used = {port for link in links for port in link.ports}
        ends: dict[int, list[Port]] = {}
        for at, node in enumerate(self.nodes):
            for link in node.kernel.links:
                if link.kind == "veth" and link.peer:
                    ends.setdefault(link.ifindex, []).append((at, link.ifindex))
        only = {ifindex: ports[0] for ifindex, ports in ends.items() if len(ports) == 1}
        found = []
        for ifindex, port in sorted(only.items()):
            peer = self._interface(port).peer
            other = only.get(peer)
            if other is None or other[0] == port[0] or peer <= ifindex or self._interface(other).peer != ifindex:
                continue
            free = not any(
                (self.nodes[one[0]].name, one[1]) in used or self._interface(one).master or self.segments.on(one)
                for one in (port, other)
            )
            if free:
                found.append(self._link(port, other))
        return found

    def _babel(self, known: Picture | None) -> list[DrawnLink]:
        """Links to Babel neighbours that no snapshot is of. One whose interface was on a link of `known` is not: the
        link has just been cut, and Babel has yet to notice."""
        found = []
        before = {port for link in (known.links if known else ()) if len(link.ports) == 2 for port in link.ports}
        for at, node in enumerate(self.nodes):
            for neighbour in node.babel.neighbours if node.babel is not None else ():
                port = at, neighbour.ifindex
                near = node.kernel.by_index.get(neighbour.ifindex)
                owned = [
                    owner
                    for owner in self.segments.owners.get(neighbour.address, ())
                    if owner[0] != at and owner in self._seen(port)
                ]
                if near is None or owned or (node.name, port[1]) in before:
                    continue
                text = format_address(neighbour.address)
                name = f"{text}%{near.name}" if is_link_local(neighbour.address) else text
                stranger = id_of(f"{node.name}.{name}" if is_link_local(neighbour.address) else name)
                if stranger not in self.strangers:
                    self.strangers[stranger] = DrawnNode(self._free(stranger), name, ROUTER, "", UNKNOWN)
                a, b = self._end(port), End(self.strangers[stranger].id, "")
                usable = neighbour.cost < _INFINITY
                state, cost = (UP if near.carrier and usable else DOWN), (neighbour.cost if usable else None)
                deciding = ((node.name, port[1]),)
                found.append(DrawnLink(self._link_id(a, b), a, b, state, near.kind, self._ipv4(port), cost, deciding))
        return found

    def _seen(self, port: Port) -> set[Port]:
        """The interfaces that a neighbour on this link may be: those on it, and any where nothing is known of it."""
        return set(self.segments.on(port)) or self.lonely

    @cached_property
    def lonely(self) -> set[Port]:
        """The interfaces that are known to be on a link with no other node."""
        every = (port for ports in self.segments.members.values() for port in ports)
        return {port for port in every if not self.segments.on(port)}

    def _remembered(self, known: Picture, links: Sequence[DrawnLink]) -> list[DrawnLink]:
        used = {port for link in links for port in link.ports}
        there = {self.ids[node.name] for node in self.nodes}
        have = {link.id for link in links}
        found = []
        for link in known.links:
            gone = link.id not in have and not any(port in used for port in link.ports)
            if gone and {link.a.node, link.b.node} <= there:
                found.append(replace(link, state=DOWN, cost=None))
        return found

    def _pair(self, port: Port) -> tuple[int, int] | None:
        link = self._interface(port)
        return (link.ifindex, link.peer) if link.kind == "veth" and link.peer else None

    def _above(self, port: Port) -> Port:
        return port[0], self._interface(port).master

    def _interface(self, port: Port) -> Interface:
        return self.nodes[port[0]].kernel.by_index[port[1]]

    def _name(self, port: Port) -> tuple[str, str]:
        return self.nodes[port[0]].name, self._interface(port).name

    def _end(self, port: Port) -> End:
        name, dev = self._name(port)
        return End(self.ids[name], dev)

    def _link_id(self, a: End, b: End) -> str:
        one, other = sorted(f"{end.node}.{id_of(end.dev)}" if end.dev else end.node for end in (a, b))
        return self._free(f"{one}--{other}")

    def _free(self, wanted: str) -> str:
        """An id that no other thing has."""
        made, count = wanted, 1
        while made in self.taken:
            count += 1
            made = f"{wanted}~{count}"
        self.taken.add(made)
        return made

    def _ipv4(self, port: Port) -> bool:
        held = [*self.segments.held.get(port, ()), *self.segments.held.get(self._above(port), ())]
        return any(len(one.address) == 4 for one in held)

    def _cost(self, port: Port, other: Port) -> int | None:
        state = self.nodes[port[0]].babel
        far = {one.address for one in self.segments.held.get(other, ())}
        for neighbour in state.neighbours if state is not None else ():
            if neighbour.ifindex == port[1] and neighbour.address in far and neighbour.cost < _INFINITY:
                return neighbour.cost
        return None

    # --- islands ---------------------------------------------------------------------------------------------------

    def _islands(self) -> list[Island]:
        found: dict[Prefix, set[str]] = {}
        for node in self.nodes:
            for held in node.kernel.addresses:
                link = node.kernel.by_index.get(held.ifindex)
                if len(held.address) == 4 and held.length < 32 and link is not None and not link.loopback:
                    prefix = Prefix(mask(held.address, held.length), held.length)
                    found.setdefault(prefix, set()).add(self.ids[node.name])
        loopback = {
            held.address for node in self.nodes for held in node.kernel.addresses
            if (link := node.kernel.by_index.get(held.ifindex)) is not None and link.loopback
        }  # fmt: skip
        for node in self.nodes:
            for prefix, _ in node.babel.exports if node.babel is not None else ():
                if prefix.family != AF_INET or (prefix.is_host and prefix.packed in loopback):
                    continue
                if prefix in found or not any(wider.covers(prefix) for wider in found if wider.length):
                    found.setdefault(prefix, set()).add(self.ids[node.name])
        return [
            Island(id_of(str(prefix).replace("/", "-")), str(prefix), tuple(sorted(found[prefix])))
            for prefix in sorted(found)
        ]


def _unique(names: Sequence[str]) -> dict[str, str]:
    """Ids of names, none twice."""
    taken: set[str] = set()
    found: dict[str, str] = {}
    for name in names:
        made, count = id_of(name), 1
        while made in taken:
            count += 1
            made = f"{id_of(name)}~{count}"
        taken.add(made)
        found[name] = made
    return found


def kind_of(node: Node) -> str:
    """`router` for a node that forwards IPv4 on an interface of its own, or speaks Babel."""
    if node.babel is not None:
        return ROUTER
    if node.system == OPENBSD or not node.sysctls:
        return UNKNOWN
    names = [link.name for link in node.kernel.links if not link.loopback]
    return ROUTER if any(node.sysctls.get(f"net/ipv4/conf/{name}/forwarding") for name in names) else HOST


def software_of(node: Node) -> str:
    """The routing program that put routes there; `static` where somebody did by hand; empty if nothing tells."""
    if node.babel is not None:
        return "via6"
    protocols = {block.template.protocol for block in node.kernel.routes.blocks if len(block)}
    for number, name in _DAEMONS.items():
        if number in protocols:
            return name
    foreign = any(
        block.template.protocol == 4 and block.template.family == AF_INET for block in node.kernel.routes.blocks
    )
    return "static" if foreign and kind_of(node) == ROUTER else ""


# --- JSON ----------------------------------------------------------------------------------------------------------


def node_json(node: DrawnNode) -> dict[str, Any]:
    """A node of /api/network, without what is not in the picture."""
    return {
        "id": node.id, "name": node.name, "kind": node.kind, "software": node.software, "state": node.state,
        "islands": list(node.islands),
    }  # fmt: skip


def link_json(link: DrawnLink) -> dict[str, Any]:
    """A link of /api/network."""
    return {
        "id": link.id,
        "a": {"node": link.a.node, "dev": link.a.dev},
        "b": {"node": link.b.node, "dev": link.b.dev},
        "state": link.state,
        "kind": link.kind,
        "ipv4": link.ipv4,
        "cost": link.cost,
    }


def as_json(picture: Picture) -> dict[str, Any]:
    """`nodes`, `links` and `islands` of /api/network."""
    return {
        "nodes": [node_json(node) for node in picture.nodes],
        "links": [link_json(link) for link in picture.links],
        "islands": [{"id": one.id, "prefix": one.prefix, "nodes": list(one.nodes)} for one in picture.islands],
    }
