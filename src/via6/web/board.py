"""What is known now, and who is told of it: nodes, the picture of them, the last changes, what the doctor finds (if
`doctor`).

All of it belongs to the thread of the loop; what takes long (drawing, examining) is done by another thread on values
that nobody changes. Changes of links and routes are told at once. The picture is drawn again a moment later, and told
whole only when more than the state of nodes and links has changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final

from via6.observe import picture
from via6.observe.doctor.finding import ERROR, WARNING, Finding, cases
from via6.observe.doctor.measured import Measured
from via6.observe.names import Names
from via6.observe.node import Node
from via6.observe.picture import DrawnLink, DrawnNode, Picture
from via6.web.changes import NOTHING, Difference, Entry
from via6.web.sources import Source
from via6.web.stream import Hub, dumps

KEPT: Final = 200  # changes of one node
_GATHER_S: Final = 0.05
_PAUSE_S: Final = 0.15
_EXAMINE_S: Final = 0.5
_SHARE: Final = 10
_BURST: Final = 40  # route events of one node in a second
_ALIKE_S: Final = 2.0


class Board:
    """Implements `sources.Sink`. `desktops` are those of the configuration, by the id of their node."""

    def __init__(self, source: Source, names: Names, doctor: bool = True) -> None:
        self.source = source
        self._doctor = doctor
        self.names = names
        self.nodes: dict[str, Node] = {}
        self.down: dict[str, str] = {}
        self.picture = Picture()
        self.findings: dict[str, list[Finding]] | None = None
        self.desktops: Mapping[str, str] = {}
        self.hub = Hub(lambda: self.network_json)
        self.shown: Callable[[Any], Any] = lambda value: value
        self.edition = 0
        """Counts what can change an answer: two equal numbers mean equal answers."""
        self._changes: dict[str, deque[tuple[float, Entry]]] = {}
        self._links_of: dict[str, list[int]] = {}
        self._spent: dict[str, tuple[int, int]] = {}
        self._network: bytes | None = None
        self._dirty = asyncio.Event()
        self._unexamined = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._pool = ThreadPoolExecutor(1, "via6-web-draw")

    # --- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Reads everything once; from then on it is kept up to date. Raises Refusal."""
        await self.source.start(self)
        loop = asyncio.get_running_loop()
        self._set(await loop.run_in_executor(self._pool, picture.draw, self.snapshots(), None, tuple(self.down)))
        self._dirty.clear()
        self._tasks = [asyncio.create_task(self._drawing())]
        if self._doctor:
            self._tasks.append(asyncio.create_task(self._examining()))

    async def stop(self) -> None:
        """Ends everything."""
        self.hub.close()
        for task in self._tasks:
            task.cancel()
        await self.source.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def snapshots(self) -> list[Node]:
        """The newest of each node, those that are down included: that is how they were last seen."""
        return [self.nodes[name] for name in sorted(self.nodes)]

    # --- told by the source ----------------------------------------------------------------------------------------

    def put(self, node: Node, difference: Difference = NOTHING) -> None:
        """A node as it is now."""
        new = node.name not in self.nodes
        self.nodes[node.name] = node
        if difference.same and node.name not in self.down:
            return
        self._changed()
        if self.down.pop(node.name, None) is not None:
            self._node_state(node.name, picture.UP)
        for entry in difference.entries:
            self.note(node.name, entry)
        if not new:
            self._link_states(node.name)
            self._route_events(node.name, difference)

    def lost(self, name: str, why: str) -> None:
        """A node does not answer."""
        if name not in self.nodes:
            from via6.model import Snapshot

            self.nodes[name] = Node(name, Snapshot(), unread={"links": why})
        if name not in self.down:
            self._node_state(name, picture.DOWN)
        self.down[name] = why
        self._changed()

    def removed(self, name: str) -> None:
        """There is no such node any more."""
        self.nodes.pop(name, None)
        self.down.pop(name, None)
        self._changes.pop(name, None)
        self._changed()

    def note(self, name: str, entry: Entry) -> None:
        """A line of a node's timeline."""
        lines = self._changes.setdefault(name, deque(maxlen=KEPT))
        now = time.time()
        if not any(line == entry and now - told < _ALIKE_S for told, line in list(lines)[-8:]):
            lines.append((now, entry))

    def _changed(self) -> None:
        self.edition += 1
        self._dirty.set()
        self._unexamined.set()

    # --- events ----------------------------------------------------------------------------------------------------

    def _node_state(self, name: str, state: str) -> None:
        wanted = self.picture.ids.get(name)
        for at, node in enumerate(self.picture.nodes):
            if node.id == wanted and node.state != state:
                nodes = list(self.picture.nodes)
                nodes[at] = replace(node, state=state)
                self.picture = replace(self.picture, nodes=tuple(nodes))
                self._network = None
                self.hub.publish("node", {"id": node.id, "state": state})

    def _link_states(self, name: str) -> None:
        links = None
        for at in self._links_of.get(name, ()):
            link = self.picture.links[at]
            state = self._state_of(link)
            if state == link.state:
                continue
            links = links if links is not None else list(self.picture.links)
            links[at] = replace(link, state=state)
            self.hub.publish("link", {"id": link.id, "state": state})
        if links is not None:
            self.picture = replace(self.picture, links=tuple(links))
            self._network = None

    def _state_of(self, link: picture.DrawnLink) -> str:
        """From the carriers of its ends. What else may be wrong with it only a new picture says."""
        ends = [(self.nodes.get(name), ifindex) for name, ifindex in link.ports]
        found = [node.kernel.by_index.get(ifindex) if node is not None else None for node, ifindex in ends]
        if not all(one is not None and one.carrier for one in found):
            return picture.DOWN
        lonely = len(link.ports) < 2 and link.cost is None
        return link.state if lonely else picture.UP

    def _route_events(self, name: str, difference: Difference) -> None:
        if not difference.count:
            return
        node = self.picture.ids.get(name, "")
        second, spent = int(time.monotonic()), 0
        if self._spent.get(name, (0, 0))[0] == second:
            spent = self._spent[name][1]
        if difference.moved and spent + len(difference.moved) <= _BURST:
            for one in difference.moved:
                event = {"node": node, "prefix": one.prefix, "was": one.was, "now": one.now}
                self.hub.publish("route", self.shown(event))
            spent += len(difference.moved)
        else:
            self.hub.publish("route", {"node": node, "count": difference.count})
        self._spent[name] = second, spent

    # --- drawing ---------------------------------------------------------------------------------------------------

    async def _drawing(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._dirty.wait()
            await asyncio.sleep(_GATHER_S)
            self._dirty.clear()
            began = time.monotonic()
            known = self.picture if self.source.live else None
            with contextlib.suppress(Exception):  # the picture of before stays
                drawn = await loop.run_in_executor(
                    self._pool, picture.draw, self.snapshots(), known, tuple(self.down)
                )  # fmt: skip
                self._take(drawn)
            await asyncio.sleep(min(max((time.monotonic() - began) * _SHARE, _PAUSE_S), 10.0))

    def _take(self, drawn: Picture) -> None:
        before = self.picture
        self._set(drawn)
        now = self.picture  # with what has changed while it was drawn
        if drawn.shape != before.shape:
            self.hub.publish("network", self.network_json)
            return
        pairs: list[tuple[str, DrawnNode | DrawnLink, DrawnNode | DrawnLink]]
        pairs = [("node", old, new) for old, new in zip(before.nodes, now.nodes, strict=True)]
        pairs += [("link", old, new) for old, new in zip(before.links, now.links, strict=True)]
        for kind, old, new in pairs:
            if old.state != new.state:
                self.hub.publish(kind, {"id": new.id, "state": new.state})

    def _set(self, drawn: Picture) -> None:
        self.picture = drawn
        self._network = None
        self._links_of = {}
        for at, link in enumerate(drawn.links):
            for name in dict.fromkeys(name for name, _ in link.ports):
                self._links_of.setdefault(name, []).append(at)
        for name in self.nodes:
            self._link_states(name)  # a link may have changed while it was drawn

    # --- the doctor ------------------------------------------------------------------------------------------------

    async def _examining(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._unexamined.wait()
            await asyncio.sleep(_EXAMINE_S)
            self._unexamined.clear()
            began = time.monotonic()
            with contextlib.suppress(Exception):  # what was found before stays
                self._found(await loop.run_in_executor(self._pool, examine, self.snapshots(), self.source))
            await asyncio.sleep(min((time.monotonic() - began) * _SHARE, 30.0))

    def _found(self, found: dict[str, list[Finding]]) -> None:
        before, self.findings = self.findings, found
        self._network = None
        self.edition += 1
        for name in self.nodes:
            new = counts(found.get(name, []))
            old = counts(before.get(name, [])) if before is not None else None
            if new != old:
                self.hub.publish("findings", {"node": self.picture.ids.get(name, ""), **new})
            if before is not None:
                self._note_findings(name, before.get(name, []), found.get(name, []))

    def _note_findings(self, name: str, old: list[Finding], new: list[Finding]) -> None:
        was, now = ({one.id: one.title for one in findings} for findings in (old, new))
        for key, title in now.items():
            if key not in was:
                self.note(name, Entry("finding", title, False))
        for key, title in was.items():
            if key not in now:
                self.note(name, Entry("finding", f"no more: {title}", True))

    # --- answers ---------------------------------------------------------------------------------------------------

    @property
    def network_json(self) -> bytes:
        """/api/network."""
        if self._network is None:
            self._network = dumps(self.shown(self.network()))
        return self._network

    def network(self) -> dict[str, Any]:
        """/api/network as a value."""
        drawn = picture.as_json(self.picture)
        by_id = {one: name for name, one in self.picture.ids.items()}
        for node in drawn["nodes"]:
            name = by_id.get(node["id"], "")
            known = self.findings is not None and name in self.nodes
            node["findings"] = counts((self.findings or {}).get(name, [])) if known else None
            node["desktop"] = self.desktops.get(name) or None
        return {
            "title": self.source.title,
            "source": self.source.kind,
            "live": self.source.live,
            "time": round(time.time(), 3),
            "version": self.hub.version,
            **drawn,
        }

    def changes(self, name: str, limit: int) -> list[dict[str, Any]]:
        """The last changes of a node, the newest first."""
        lines = list(self._changes.get(name, ()))[::-1][:limit]
        return [{"time": round(at, 3), "kind": e.kind, "text": e.text, "good": e.good} for at, e in lines]


def counts(findings: list[Finding]) -> dict[str, int]:
    """How many errors and warnings."""
    return {word: sum(one.severity == word for one in findings) for word in (ERROR, WARNING)}


def examine(nodes: list[Node], source: Source) -> dict[str, list[Finding]]:
    """What the doctor finds on paper, by node. Commands are those to type here."""
    from via6.observe.doctor import registry, report

    made: dict[str, list[Finding]] = {}
    for one in registry.examine(*cases([(node, Measured()) for node in nodes])):
        netns = source.netns(one.node)
        remedy = tuple(report.within(line, netns) for line in one.remedy)
        made.setdefault(one.node, []).append(replace(one, remedy=remedy))
    return made
