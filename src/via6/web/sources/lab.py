"""A lab that is up: every node's namespace is watched.

Open sockets keep a namespace alive, so a lab that is taken down is let go of as soon as its names are gone from
/run/netns, and is taken up again when they come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from via6.errors import Refusal
from via6.observe.names import Names
from via6.web.changes import Entry
from via6.web.sources import Sink
from via6.web.sources.reader import FILTERS, Reader

T = TypeVar("T")

_THREADS: Final = 4
_LOOK_S: Final = 1.0
_FIRST_S: Final = 0.7
"""How long the first pages have the machine for themselves, before programs are started to read the rest."""
_TURN_S: Final = 10.0
"""All that the kernel does not tell of is read again: one node at a time, so often."""


class LabSource:
    """Made by the only thread of the process: the way into an ordinary user's lab is one for a single thread."""

    kind = "lab"
    live = True

    def __init__(self, word: str, names: Names) -> None:
        from via6.lab import state

        name = word
        if Path(word).suffix in (".toml", ".graphml"):
            from via6.lab.topology import load

            name = load(word).name
        lab = state.read(name)
        if lab is None or not lab.running:
            raise Refusal(f"the lab {name} is not up", f"`via6 lab up {word}`; `via6 lab list` names those that are")
        self.title = name
        self.state = lab
        self.places = {node: state.node_netns(f"{name}/{node}") or "" for node in sorted(lab.nodes)}
        self._names = names
        self._readers: dict[str, Reader] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._pool = ThreadPoolExecutor(_THREADS, "via6-web-node")

    def netns(self, name: str) -> str:
        """What `ip -n` takes."""
        place = self.places.get(name, "")
        return place.rpartition("/")[2] if place.startswith("/run/netns/") else f"{self.title}/{name}"

    async def start(self, sink: Sink) -> None:
        """Reads all nodes."""
        opened = await asyncio.gather(*(self._open(name, sink) for name in self.places), return_exceptions=True)
        failures = [one for one in opened if isinstance(one, BaseException)]
        if len(failures) == len(opened) and failures:
            raise failures[0]
        for name, failure in zip(self.places, opened, strict=True):
            if isinstance(failure, BaseException):
                sink.lost(name, str(failure))
        self._tasks = [asyncio.create_task(self._present(sink)), asyncio.create_task(self._rounds())]

    async def stop(self) -> None:
        """Ends all watching."""
        for task in self._tasks:
            task.cancel()
        for reader in self._readers.values():
            reader.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def look(self, name: str) -> None:
        """Reads all of a node again."""
        if name in self._readers:
            self._readers[name].want(FILTERS, delay_s=0.0)

    async def at(self, name: str, work: Callable[[], T]) -> T:
        """In the node's namespace."""
        if name not in self._readers:
            raise Refusal(f"{name} is gone", "is the lab up?")
        return await self._readers[name].at(work)

    async def _open(self, name: str, sink: Sink) -> None:
        reader = Reader(name, self.places[name], sink, self._pool, self._names)
        node = await reader.open()
        self._readers[name] = reader
        sink.put(node)

    async def _rounds(self) -> None:
        await asyncio.sleep(_FIRST_S)
        for name in self.places:
            self.look(name)
            await asyncio.sleep(0.02)
        while True:
            for name in self.places:
                await asyncio.sleep(_TURN_S)
                self.look(name)

    async def _present(self, sink: Sink) -> None:
        """Lets go of namespaces whose name has gone, and takes up new ones."""
        while True:
            await asyncio.sleep(_LOOK_S)
            for name, place in self.places.items():
                reader = self._readers.get(name)
                try:
                    inode = os.stat(place).st_ino
                except OSError:
                    inode = 0
                if reader is not None and inode != reader.inode:
                    del self._readers[name]
                    reader.close()
                    sink.lost(name, "its network namespace is gone")
                    sink.note(name, Entry("link", "the node is gone", False))
                elif reader is None and inode:
                    with contextlib.suppress(Refusal):
                        await self._open(name, sink)
                        sink.note(name, Entry("link", "the node is back", True))
                        asyncio.get_running_loop().call_later(_FIRST_S, self.look, name)
