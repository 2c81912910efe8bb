"""Machines that are asked by ssh, again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from via6.collect import snapshot_ssh
from via6.errors import Refusal
from via6.observe.names import Names
from via6.observe.node import Node
from via6.web import changes
from via6.web.sources import Sink

T = TypeVar("T")

_PARALLEL: Final = 16


class InventorySource:
    """Each host is asked every `interval_s` seconds, all of them at once."""

    kind = "inventory"
    live = True

    def __init__(
        self, title: str, hosts: Sequence[snapshot_ssh.Host], names: Names, interval_s: float, config: str = ""
    ) -> None:
        self.title = title
        self._hosts = list(hosts)
        self._names = names
        self._interval_s = interval_s
        self._config = config
        self._held: dict[str, Node] = {}
        self._task: asyncio.Task[None] | None = None
        self._pool = ThreadPoolExecutor(min(_PARALLEL, max(1, len(self._hosts))), "via6-web-ssh")

    def netns(self, name: str) -> str:
        """It is on another machine."""
        return ""

    def look(self, name: str) -> None:
        """It is looked at in its turn."""

    async def at(self, name: str, work: Callable[[], T]) -> T:
        """Nobody gets there."""
        raise Refusal(f"{name}: it is another machine")

    async def start(self, sink: Sink) -> None:
        """Asks all; one that does not answer is down."""
        await self._ask_all(sink)
        if not self._held:
            raise Refusal("no machine of the inventory answered", "does `via6 snapshot --inventory FILE` work?")
        self._task = asyncio.create_task(self._rounds(sink))

    async def stop(self) -> None:
        """Ends asking; ssh that is under way ends by itself."""
        if self._task is not None:
            self._task.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _rounds(self, sink: Sink) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self._ask_all(sink)

    async def _ask_all(self, sink: Sink) -> None:
        await asyncio.gather(*(self._ask(host, sink) for host in self._hosts))

    async def _ask(self, host: snapshot_ssh.Host, sink: Sink) -> None:
        loop = asyncio.get_running_loop()
        try:
            node = await loop.run_in_executor(self._pool, lambda: snapshot_ssh.read(host, config=self._config))
        except (Refusal, OSError) as error:
            sink.lost(host.name, error.message if isinstance(error, Refusal) else str(error))
            return
        old = self._held.get(host.name)
        self._held[host.name] = node
        sink.put(node, changes.between(old, node, self._names) if old is not None else changes.Difference())
