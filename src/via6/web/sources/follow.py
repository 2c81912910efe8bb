"""The daemon's own stream of changes: what neighbours say is not in the kernel until it is used, so the kernel does not
tell of it.

The daemon of a node may come and go. Whether there is one a reading tells; then it is followed until it goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from via6.errors import Refusal

_KINDS: Final = ("interface", "neighbour", "route")
_LINE: Final = 1 << 20


class Follower:
    """`dial` connects to the daemon, in a thread of the pool; `changed` is called for every change; `news` with True
    when a daemon is back, with False when it has gone."""

    def __init__(
        self, pool: ThreadPoolExecutor, dial: Callable[[], socket.socket], changed: Callable[[], None],
        news: Callable[[bool], None],
    ) -> None:  # fmt: skip
        self._pool = pool
        self._dial = dial
        self._changed = changed
        self._news = news
        self._task: asyncio.Task[None] | None = None
        self.had = False
        """There was a daemon once."""

    def begin(self) -> None:
        """A daemon is there."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._follow())

    def end(self) -> None:
        """For good."""
        if self._task is not None:
            self._task.cancel()

    async def _follow(self) -> None:
        with contextlib.suppress(Refusal, OSError, ValueError):
            loop = asyncio.get_running_loop()
            with await loop.run_in_executor(self._pool, self._dial) as peer:
                peer.setblocking(False)
                reader, writer = await asyncio.open_unix_connection(sock=peer, limit=_LINE)
                try:
                    writer.write(json.dumps({"monitor": _KINDS}).encode() + b"\n")
                    if self.had:
                        self._news(True)
                    self.had = True
                    while await reader.readline():
                        self._changed()
                finally:
                    writer.close()
            self._news(False)
