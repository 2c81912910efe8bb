"""Where the nodes come from. A source tells a Sink of every node, of each change, and of nodes that do not answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from via6.observe.node import Node
from via6.web.changes import NOTHING, Difference, Entry

T = TypeVar("T")


class Sink(Protocol):
    """Who is told; called by the thread of the loop."""

    def put(self, node: Node, difference: Difference = NOTHING) -> None:
        """A node as it is now."""

    def lost(self, name: str, why: str) -> None:
        """A node does not answer; what was known of it stays."""

    def removed(self, name: str) -> None:
        """There is no such node any more."""

    def note(self, name: str, entry: Entry) -> None:
        """Something for the timeline of a node."""


class Source(Protocol):
    """`kind` is lab, daemon, inventory or snapshots. `netns` says how to get to a node's network namespace from here
    (empty: it is here, or is not on this machine), for the commands that the doctor proposes."""

    title: str
    kind: str
    live: bool

    async def start(self, sink: Sink) -> None:
        """Tells of all nodes before it returns, and of changes from then on. Raises Refusal."""

    async def stop(self) -> None:
        """Lets go of everything."""

    def netns(self, name: str) -> str: ...

    def look(self, name: str) -> None:
        """Reads all of a node again, soon."""

    async def at(self, name: str, work: Callable[[], T]) -> T:
        """The result of some work in a node's network namespace. Raises Refusal where nobody gets there."""
