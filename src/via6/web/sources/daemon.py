"""This network namespace and what its daemon says of its neighbours."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from via6.errors import Refusal
from via6.observe.names import Names
from via6.web.sources import Sink
from via6.web.sources.reader import BABEL, FILTERS, Reader

T = TypeVar("T")

_RETRY_S: Final = 2.0
_ROUND_S: Final = 30.0


class DaemonSource:
    """`name` is the node's. The daemon may come and go: what the kernel says stands without it."""

    kind = "daemon"
    live = True

    def __init__(self, name: str, names: Names) -> None:
        self.title = name
        self.name = name
        self._names = names
        self._reader: Reader | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._pool = ThreadPoolExecutor(1, "via6-web-node")

    def netns(self, name: str) -> str:
        """We are there."""
        return ""

    async def start(self, sink: Sink) -> None:
        """Reads the node."""
        self._reader = Reader(self.name, "", sink, self._pool, self._names)
        sink.put(await self._reader.open())
        self._reader.want(FILTERS, delay_s=0.0)
        self._tasks = [asyncio.create_task(self._rounds())]

    async def stop(self) -> None:
        """Ends all watching."""
        for task in self._tasks:
            task.cancel()
        if self._reader is not None:
            self._reader.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def look(self, name: str) -> None:
        """Reads all of it again."""
        if self._reader is not None:
            self._reader.want(FILTERS, delay_s=0.0)

    async def at(self, name: str, work: Callable[[], T]) -> T:
        """Here."""
        if self._reader is None or name != self.name:
            raise Refusal(f"{name} is another machine", f"via6 web on {name}")
        return await self._reader.at(work)

    async def _rounds(self) -> None:
        while True:
            for _ in range(round(_ROUND_S / _RETRY_S)):
                await asyncio.sleep(_RETRY_S)
                node = self._reader.node if self._reader is not None else None
                if self._reader is not None and node is not None and node.babel is None:
                    self._reader.want(BABEL)  # whether a daemon has come
            self.look(self.name)


def own_name(netns: str | None) -> str:
    """What the node of this network namespace is called."""
    return (netns or "").rstrip("/").rpartition("/")[2] or os.uname().nodename
