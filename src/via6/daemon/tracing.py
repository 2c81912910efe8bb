"""The part of the daemon in a trace: its name, its links, its kernel. See `trace`.

Questions are asked and answered where Babel is spoken, under Babel's keys, and on what `[trace] interfaces` names
besides. So nobody on a LAN of hosts learns anything unless it is said.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from via6.config import Config
from via6.daemon.trace import Tracer
from via6.daemon.trace_kernel import Node
from via6.engine import Engine
from via6.errors import Refusal
from via6.model import InterfaceAddress
from via6.observe.trace.node import TraceLink, links_of
from via6.prefix import Address, Prefix

if TYPE_CHECKING:
    from via6.daemon.babel import Babel


class Tracing:
    """`tracer` is None when its port could not be had; `say` was told why. Needs a running loop."""

    def __init__(self, config: Config, engine: Engine, babel: Babel | None, say: Callable[[str], None]) -> None:
        self._engine = engine
        self._babel = babel
        self._config = config
        self.tracer: Tracer | None = None
        node = Node(lambda: engine.view.links, self._addresses, self._neighbour)
        try:
            self.tracer = Tracer(self._name(), node, self._links)
        except Refusal as refusal:
            say(f"traces do not pass here: {refusal}")
            return
        self.reload(config)
        self.tracer.attach(asyncio.get_running_loop())

    def reload(self, config: Config) -> None:
        """Another configuration."""
        self._config = config
        if self.tracer is not None:
            self.tracer.responder.name = self._name()
            self.tracer.responder.answering = config.trace.answer

    def close(self) -> None:
        if self.tracer is not None:
            self.tracer.close()
            self.tracer = None

    def _addresses(self) -> Iterator[InterfaceAddress]:
        return self._engine.view.inventory()  # the view is another one after a dump

    def _neighbour(self, prefix: Prefix, ifindex: int, via: Address) -> Address | None:
        for route in self._babel.routes_of(prefix) if self._babel else ():
            if route.ifindex == ifindex and route.next_hop == via:
                return route.neighbour
        return None

    def _name(self) -> str:
        return self._config.node.name or socket.gethostname()

    def _links(self) -> dict[int, TraceLink]:
        view = self._engine.view
        there = links_of(view.links, view.inventory())
        found = {index: link for index, link in there.items() if self._config.trace.asks_on(link.name)}
        for spoken in self._babel.speaker.links.values() if self._babel is not None else ():
            given = spoken.given
            inet = there[given.ifindex].inet if given.ifindex in there else ()
            settings = given.settings
            found[given.ifindex] = TraceLink(given.name, given.address, settings.keys, settings.accept_all, inet)
        return found
