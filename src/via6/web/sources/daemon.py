"""This network namespace and what its daemon says of its neighbours."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from via6.daemon import client
from via6.errors import Refusal
from via6.observe.names import Names
from via6.web.changes import Entry
from via6.web.sources import Sink
from via6.web.sources.reader import BABEL, FILTERS, Reader

_RETRY_S: Final = 2.0
_ROUND_S: Final = 30.0
_LINE: Final = 1 << 20


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
        self._tasks = [asyncio.create_task(self._follow(sink)), asyncio.create_task(self._rounds())]

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

    async def _rounds(self) -> None:
        while True:
            await asyncio.sleep(_ROUND_S)
            self.look(self.name)

    async def _follow(self, sink: Sink) -> None:
        """The daemon's own stream of changes, again and again."""
        there: bool | None = None
        while True:
            with contextlib.suppress(Refusal, OSError, ValueError):
                peer = await asyncio.to_thread(client.connect)
                if there is False:
                    sink.note(self.name, Entry("neighbour", "the daemon is back", True))
                there = True
                peer.setblocking(False)
                reader, writer = await asyncio.open_unix_connection(sock=peer, limit=_LINE)
                try:
                    writer.write(json.dumps({"monitor": ["interface", "neighbour", "route"]}).encode() + b"\n")
                    while await reader.readline():
                        if self._reader is not None:
                            self._reader.want(BABEL, delay_s=0.1)
                finally:
                    writer.close()
            if there:
                sink.note(self.name, Entry("neighbour", "the daemon is gone", False))
                there = False
            if self._reader is not None:
                self._reader.want(BABEL)
            await asyncio.sleep(_RETRY_S)


def own_name(netns: str | None) -> str:
    """What the node of this network namespace is called."""
    return (netns or "").rstrip("/").rpartition("/")[2] or os.uname().nodename
