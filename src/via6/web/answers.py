"""What the API answers, as JSON values, from what the board holds. Nothing here sends a packet.

What takes long is done by a few threads, and once for all who ask the same about the same state of the network.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Final

from via6.errors import Refusal
from via6.model import TABLE_LOCAL, TABLE_MAIN, Route, RouteBlock
from via6.observe import show
from via6.observe.names import Names
from via6.observe.node import Node
from via6.observe.picture import ROUTER, DrawnLink, Picture
from via6.observe.trace.model import ICMP, TCP, UDP, Flow
from via6.prefix import AF_INET, AF_INET6, Address, PrefixError, format_address, is_multicast, mask, parse_address
from via6.web.board import KEPT, Board

MOST_ROUTES: Final = 500
MOST_OFFSET: Final = 1 << 31
_THREADS: Final = 2
_MOST_WAITING: Final = 64
_KEPT: Final = 128
PROTOCOLS: Final = {"icmp": ICMP, "udp": UDP, "tcp": TCP}
_PORTS: Final = {"icmp": 0, "udp": 33434, "tcp": 80}
_LONGEST_WORD: Final = 300


class Bad(Exception):  # noqa: N818 - it is an answer
    """A question that is refused."""

    def __init__(self, status: int, error: str, remedy: str = "") -> None:
        super().__init__(error)
        self.status, self.error, self.remedy = status, error, remedy


class Desk:
    """Answers, and keeps them for as long as they hold."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self._pool = ThreadPoolExecutor(_THREADS, "via6-web-answer")
        self._kept: OrderedDict[Any, asyncio.Future[Any]] = OrderedDict()
        self._running: set[asyncio.Future[Any]] = set()

    def close(self) -> None:
        """Waits for nothing."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def work(self, key: Any, function: Callable[..., Any], *args: Any) -> Any:
        """function(*args) by another thread; asked again with this key before anything has changed, the same."""
        whole = self.board.edition, key
        found = self._kept.get(whole)
        if found is None:
            if len(self._running) >= _MOST_WAITING:
                raise Bad(503, "too many questions at a time", "ask again in a moment")
            found = asyncio.get_running_loop().run_in_executor(self._pool, function, *args)
            self._running.add(found)
            found.add_done_callback(self._ended)
            self._kept[whole] = found
            while len(self._kept) > _KEPT or next(iter(self._kept))[0] < self.board.edition - 8:
                self._kept.popitem(last=False)
        try:
            return await asyncio.shield(found)
        except Refusal as refusal:
            raise Bad(400, refusal.message, refusal.remedy) from None

    def _ended(self, future: asyncio.Future[Any]) -> None:
        self._running.discard(future)
        if not future.cancelled():
            future.exception()  # looked at, so that nobody complains when the asker has gone

    # --- nodes -----------------------------------------------------------------------------------------------------

    def name_of(self, wanted: str) -> str:
        """The name of the node with this id."""
        for name, one in self.board.picture.ids.items():
            if one == wanted and name in self.board.nodes:
                return name
        if any(node.id == wanted for node in self.board.picture.nodes):
            raise Bad(404, "there is no snapshot of this node", "only its neighbours know of it")
        raise Bad(404, "there is no such node", "/api/network lists the nodes with their ids")

    def state_of(self, wanted: str) -> str:
        """The state of the node with this id."""
        return next((node.state for node in self.board.picture.nodes if node.id == wanted), "unknown")

    def node(self, wanted: str) -> dict[str, Any]:
        """/api/nodes/{id}."""
        node = self.board.nodes[self.name_of(wanted)]
        unread = dict(node.unread)
        if node.name in self.board.down:
            unread["node"] = self.board.down[node.name]
        return {
            "id": wanted,
            "name": node.name,
            "system": node.system,
            "release": node.release,
            "interfaces": list(_interfaces(node)),
            "neighbours": list(_neighbours(node)),
            "counts": {"routes4": _count(node, AF_INET), "routes6": _count(node, AF_INET6)},
            "unread": unread,
            "time": round(max(node.times.values(), default=0.0), 3),
        }

    async def routes(self, wanted: str, family: str, match: str, offset: str, limit: str) -> dict[str, Any]:
        """/api/nodes/{id}/routes."""
        node = self.board.nodes[self.name_of(wanted)]
        if family not in ("", "4", "6"):
            raise Bad(400, "family is 4 or 6")
        first = number("offset", offset, 0, 0, MOST_OFFSET)
        most = number("limit", limit, 100, 1, MOST_ROUTES)
        if not match:
            size = AF_INET6 if family == "6" else AF_INET
            return await self._routes(("routes", wanted, size, first, most), listed, node, size, first, most)
        address = address_of("match", match)
        if family and (family == "4") != (len(address) == 4):
            raise Bad(400, f"{format_address(address)} is of the other family", f"family={6 if family == '4' else 4}")
        return await self._routes(("match", wanted, address, first, most), matched, node, address, first, most)

    async def _routes(self, key: Any, function: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
        found: dict[str, Any] = await self.work(key, function, *args, self.board.names)
        return found

    def findings(self, wanted: str) -> list[dict[str, Any]]:
        """/api/nodes/{id}/findings."""
        from via6.observe.doctor import report

        name = self.name_of(wanted)
        if self.board.findings is None:
            raise Bad(503, "the doctor has not looked yet", "ask again in a moment")
        return report.as_json(self.board.findings.get(name, []))

    def changes(self, wanted: str, limit: str) -> list[dict[str, Any]]:
        """/api/nodes/{id}/changes."""
        return self.board.changes(self.name_of(wanted), number("limit", limit, 50, 1, KEPT))

    # --- the whole -------------------------------------------------------------------------------------------------

    def failures(self) -> list[dict[str, str]]:
        """/api/failures: links between routers, and routers."""
        routers = {n.id for n in self.board.picture.nodes if n.kind == ROUTER}
        known = set(self.board.picture.ids.values())
        found = []
        names: dict[str, int] = {}
        for link in self.board.picture.links:
            if {link.a.node, link.b.node} <= routers and len(link.ports) == 2:
                name = "-".join(name for name, _ in link.ports)
                names[name] = names.get(name, 0) + 1
                told = name if names[name] == 1 else f"{name}#{names[name]}"
                found.append({"id": link.id, "kind": "link", "name": told})
        nodes = (node for node in self.board.picture.nodes if node.kind == ROUTER and node.id in known)
        return found + [{"id": node.id, "kind": "node", "name": node.name} for node in nodes]

    def living(self) -> list[Node]:
        """The nodes whose tables count. One of a lab that is gone passes nothing on; a machine that ssh did not get
        to may."""
        nodes = self.board.snapshots()
        return [n for n in nodes if n.name not in self.board.down] if self.board.source.kind == "lab" else nodes

    async def verify(self) -> dict[str, Any]:
        """/api/verify."""
        found: dict[str, Any] = await self.work("verify", verified, self.living())
        return found

    async def trace(self, query: dict[str, str]) -> dict[str, Any]:
        """/api/trace: `from`, `to`, `proto`, `port`, `fail`."""
        where, to = query.get("from", ""), query.get("to", "")
        if not where or not to:
            raise Bad(400, "from where, and to which address?", "/api/trace?from=NODE&to=ADDRESS")
        if len(where) > _LONGEST_WORD:
            raise Bad(400, "from is too long")
        flow = flow_of(to, query.get("proto", ""), query.get("port", ""))
        fail = query.get("fail", "")
        nodes, drawn = self.living(), self.board.picture
        where = next((name for name, one in drawn.ids.items() if one == where and name in self.board.nodes), where)
        cut = failure_of(drawn, fail) if fail else None
        key = "trace", where, flow, fail
        made: dict[str, Any] = await self.work(key, traced, nodes, drawn, where, flow, cut, self.board.names)
        return made


# --- words ---------------------------------------------------------------------------------------------------------


def number(name: str, text: str, default: int, least: int, most: int) -> int:
    """A number of a query."""
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 12) or not least <= int(text) <= most:
        raise Bad(400, f"{name} is a number from {least} to {most}")
    return int(text)


def address_of(name: str, text: str) -> Address:
    """An address of a query."""
    try:
        return parse_address(text.strip()) if len(text) <= 64 else parse_address("")
    except PrefixError:
        raise Bad(400, f"{name} is no address", "an address is like 10.0.3.10 or 2001:db8::1") from None


def flow_of(to: str, proto: str, port: str) -> Flow:
    """The packet that is meant."""
    destination = address_of("to", to)
    if len(destination) != 4:
        raise Bad(400, "to is IPv6; a trace follows IPv4", "to=10.0.3.10")
    if is_multicast(destination) or destination in (bytes(4), b"\xff" * 4):
        raise Bad(400, "to is no address of one machine", "to=10.0.3.10")
    proto = proto or ("tcp" if port else "icmp")
    if proto not in PROTOCOLS:
        raise Bad(400, "proto is icmp, udp or tcp")
    if port and proto == "icmp":
        raise Bad(400, "ICMP has no ports", "proto=tcp or proto=udp")
    return Flow(destination, None, PROTOCOLS[proto], 0, number("port", port, _PORTS[proto], 1, 65535))


Ends = dict[tuple[str, int], list[DrawnLink]]
"""The links of each interface."""

Cut = tuple[tuple[tuple[str, int], ...], str]
"""A failure: the ports of a link (name, ifindex), or the name of a node."""


def failure_of(drawn: Picture, wanted: str) -> Cut:
    """What an id of /api/failures (or of any link or node) stands for."""
    for link in drawn.links:
        if link.id == wanted:
            return link.ports, ""
    for name, one in drawn.ids.items():
        if one == wanted:
            return (), name
    raise Bad(404, "fail is no id of a link or node", "/api/failures lists them")


# --- routes --------------------------------------------------------------------------------------------------------


def _blocks(node: Node, family: int, local: bool = False) -> list[RouteBlock]:
    found = (b for b in node.kernel.routes.blocks if b.template.family == family)
    kept = (b for b in found if local or b.template.table != TABLE_LOCAL)
    return [b for b in kept if b.template.type not in ("broadcast", "multicast", "anycast")]


def _count(node: Node, family: int) -> int:
    return sum(map(len, _blocks(node, family)))


def listed(node: Node, family: int, offset: int, limit: int, names: Names) -> dict[str, Any]:
    """Routes in order; tables but `local`."""
    objects = {o.nhid: o for o in node.kernel.nexthops}
    blocks = _blocks(node, family)
    total = sum(map(len, blocks))
    rows = islice(show.ordered(blocks), offset, offset + limit) if offset < total else ()
    routes = [show.resolved(block.template.at(destination), objects) for destination, block in rows]
    return _answer(node, names, routes, total, offset, None)


def matched(node: Node, address: Address, offset: int, limit: int, names: Names) -> dict[str, Any]:
    """The routes that an address could take, the longest first."""
    objects = {o.nhid: o for o in node.kernel.nexthops}
    found: list[Route] = []
    family = AF_INET if len(address) == 4 else AF_INET6
    for block in _blocks(node, family, local=True):
        packed = mask(address, block.template.prefix.length)
        if packed in block.destinations:
            found.append(show.resolved(block.template.at(packed), objects))
    order = {TABLE_LOCAL: 0, TABLE_MAIN: 1}
    found.sort(key=lambda r: (-r.prefix.length, order.get(r.table, 2), r.table, r.metric))
    longest = prefix_text(found[0]) if found else None
    return _answer(node, names, found[offset : offset + limit], len(found), offset, longest)


def prefix_text(route: Route) -> str:
    """A destination as the API writes it: always with its length but for one address; never `default`."""
    return show.destination_text(route.prefix.packed, route.prefix.length, foreign=True)


def _answer(
    node: Node, names: Names, routes: Sequence[Route], total: int, offset: int, longest: str | None
) -> dict[str, Any]:  # fmt: skip
    dev = node.kernel.dev
    return {
        "total": total,
        "offset": offset,
        "longest": longest,
        "routes": [
            {
                "prefix": prefix_text(route),
                "text": show.line(route, names, dev),
                "type": route.type,
                "next_hops": [
                    {"via": format_address(h.via) if h.via else None, "dev": dev(h.ifindex) if h.ifindex else None}
                    for h in route.next_hops
                ],
                "protocol": names.protocol(route.protocol),
                "metric": route.metric,
                "table": names.table(route.table),
                "src": format_address(route.src) if route.src else None,
            }
            for route in routes
        ],
    }


# --- a node --------------------------------------------------------------------------------------------------------


def _interfaces(node: Node) -> Iterator[dict[str, Any]]:
    for link in node.kernel.links:
        held = (a for a in node.kernel.addresses if a.ifindex == link.ifindex)
        yield {
            "name": link.name,
            "state": "up" if link.carrier else "down",
            "mtu": link.mtu,
            "addresses": [f"{format_address(a.address)}/{a.length}" for a in held],
            "kind": link.kind,
        }


def _neighbours(node: Node) -> Iterator[dict[str, Any]]:
    for one in node.babel.neighbours if node.babel is not None else ():
        yield {
            "address": format_address(one.address), "interface": node.kernel.dev(one.ifindex), "cost": one.cost,
            "rxcost": one.rxcost, "txcost": one.txcost, "reach": one.reach, "signed": one.signed,
        }  # fmt: skip


# --- on paper ------------------------------------------------------------------------------------------------------


def verified(nodes: Sequence[Node]) -> dict[str, Any]:
    """As `via6 verify -j`."""
    from via6.observe.verify import report
    from via6.observe.verify.check import Checker
    from via6.observe.verify.network import Network

    found: dict[str, Any] = report.as_json(Checker(Network(nodes)).report())
    return found


def traced(
    nodes: Sequence[Node], drawn: Picture, where: str, flow: Flow, cut: Cut | None, names: Names
) -> dict[str, Any]:  # fmt: skip
    """As `via6 trace -j`, with ids of the picture."""
    from via6.observe.trace import paper, report

    whole = nodes
    if cut is not None:
        nodes = _failed(nodes, cut)
    start = paper.begin(nodes, where, flow.destination)
    if start is None:
        what = "is no node, and nobody has that address"
        if cut is not None and paper.begin(whole, where, flow.destination) is not None:
            what = "has failed" if cut[1] == where else f"hangs on {cut[1]} alone, and is gone with it"
        raise Bad(400, f"from: {where[:80]!r} {what}", "from=NODE, or an address on a link of one")
    made: dict[str, Any] = report.as_json(paper.trace(nodes, start, flow, names))
    places = {node.name: node for node in nodes}
    ends: Ends = {}
    for link in drawn.links:
        for port in link.ports:
            ends.setdefault(port, []).append(link)
    _place(made, drawn, places, ends)
    return made


def _place(way: dict[str, Any], drawn: Picture, places: dict[str, Node], ends: Ends) -> None:
    hops = way["hops"]
    for at, hop in enumerate(hops):
        hop["node_id"] = drawn.ids.get(hop["node"] or "")
        after = hops[at + 1]["node"] if at + 1 < len(hops) else None
        hop["link_id"] = _link(hop["node"], hop["out"], after, places, ends)
    if way.get("back"):
        _place(way["back"], drawn, places, ends)


def _link(
    name: str | None, dev: str | None, after: str | None, places: dict[str, Node], ends: Ends
) -> str | None:  # fmt: skip
    """The link of the picture that a hop leaves by: over a bridge the one to the next node."""
    node = places.get(name or "")
    link = node.kernel.by_name.get(dev or "") if node is not None else None
    if node is None or link is None:
        return None
    ports = [link.ifindex, *(one.ifindex for one in node.kernel.links if one.master == link.ifindex)]
    found = [one for port in ports for one in ends.get((node.name, port), ())]
    if after is not None:
        near = [one for one in found if any(other == after for other, _ in one.ports)]
        found = near or [one for one in found if len(one.ports) < 2]
    return found[0].id if len(found) == 1 or (found and after is not None) else None


def _failed(nodes: Sequence[Node], cut: Cut) -> list[Node]:
    """The nodes after a failure."""
    from via6.observe.verify.after import Aftermath
    from via6.observe.verify.network import Network

    network = Network(nodes)
    after = Aftermath(nodes, network)
    ports, name = cut
    if name:
        if name not in network.place:
            return list(nodes)
        dead, gone = after.with_node(network.place[name])
        return after.nodes_after(dead, gone)
    return after.nodes_after({(network.place[one], ifindex) for one, ifindex in ports if one in network.place})
