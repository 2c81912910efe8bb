"""Files of `via6 snapshot`, read again when they change."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from via6.errors import Refusal
from via6.observe import snapshot
from via6.observe.names import Names
from via6.observe.node import Node
from via6.web import changes
from via6.web.changes import Entry
from via6.web.sources import Sink

T = TypeVar("T")

_LOOK_S: Final = 1.0


class SnapshotSource:
    """`paths` are files and folders. A change that cannot be read leaves what was there."""

    kind = "snapshots"
    live = False

    def __init__(self, paths: Sequence[str], names: Names) -> None:
        self.title = ", ".join(Path(path).resolve().name for path in paths[:3])
        self._paths = list(paths)
        self._names = names
        self._stamp: object = None
        self._held: dict[str, Node] = {}
        self._task: asyncio.Task[None] | None = None

    def netns(self, name: str) -> str:
        """Nobody is there."""
        return ""

    def look(self, name: str) -> None:
        """It is looked at in its turn."""

    async def at(self, name: str, work: Callable[[], T]) -> T:
        """Nobody gets there."""
        raise Refusal(f"{name}: on paper nothing can be changed")

    async def start(self, sink: Sink) -> None:
        """Reads all files."""
        self._stamp = stamp(self._paths)
        self._take(await asyncio.to_thread(snapshot.load, self._paths), sink)
        if "-" not in self._paths:
            self._task = asyncio.create_task(self._rounds(sink))

    async def stop(self) -> None:
        """Ends looking."""
        if self._task is not None:
            self._task.cancel()

    async def _rounds(self, sink: Sink) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            now = stamp(self._paths)
            if now == self._stamp:
                continue
            await asyncio.sleep(0.2)  # whoever writes them may not be done
            self._stamp = now
            try:
                nodes = await asyncio.to_thread(snapshot.load, self._paths)
            except Refusal as refusal:
                for name in self._held:
                    sink.note(name, Entry("link", f"snapshots could not be read again: {refusal.message}", False))
                continue
            self._take(nodes, sink)

    def _take(self, nodes: Sequence[Node], sink: Sink) -> None:
        new = {node.name: node for node in nodes}
        for name in self._held.keys() - new.keys():
            sink.removed(name)
        for name, node in new.items():
            old = self._held.get(name)
            sink.put(node, changes.between(old, node, self._names) if old is not None else changes.Difference())
        self._held = new


def stamp(paths: Sequence[str]) -> object:
    """Differs when a file has been written, added or taken away."""
    found = []
    for path in paths:
        try:
            entries = [path, *(entry.path for entry in os.scandir(path))] if os.path.isdir(path) else [path]
            for one in sorted(entries):
                told = os.stat(one)
                found.append((one, told.st_mtime_ns, told.st_size, told.st_ino))
        except OSError:
            found.append((path, 0, 0, 0))
    return found
