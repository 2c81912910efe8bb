"""Server-sent events: one numbered stream of events, and who listens to it.

An event is made into octets once, for all listeners. A listener has a queue of bounded size; who does not read is
dropped, and its browser comes again by itself, with the number of the last event that it saw. If what came since is
still held here it gets that, else the whole network. Numbers begin with the milliseconds of the clock, so that they
grow over a restart of the server as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import msgspec
from starlette.types import Receive, Scope, Send

HEARTBEAT_S: Final = 15.0
MOST_CLIENTS: Final = 512
_HELD_OCTETS: Final = 4 << 20  # of past events
_QUEUE_OCTETS: Final = 4 << 20  # that wait for one listener, beside the first
_QUEUE: Final = 1024
_PATIENCE_S: Final = 20.0
_RETRY: Final = b"retry: 1000\n\n"


def dumps(value: Any) -> bytes:
    """JSON. Names may hold half of a surrogate pair, which UTF-8 has no octets for: then all is in ASCII."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(value).encode("ascii")


def message(kind: str, version: int, data: bytes) -> bytes:
    """One event as it goes over the wire. JSON has no line ends of its own."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (version, kind.encode(), data)


class Client:
    """One listener; `who` it is."""

    def __init__(self, who: str = "") -> None:
        self.who = who
        self.waiting: deque[bytes] = deque()
        self.octets = 0
        self.wake = asyncio.Event()
        self.over = False

    def put(self, octets: bytes, *, first: bool = False) -> None:
        """Queues an event, or drops the listener."""
        if self.over:
            return
        self.waiting.append(octets)
        self.octets += 0 if first else len(octets)
        if self.octets > _QUEUE_OCTETS or len(self.waiting) > _QUEUE:
            self.end()
        self.wake.set()

    def end(self) -> None:
        """Nothing more comes."""
        self.over = True
        self.waiting.clear()
        self.wake.set()

    def take(self) -> bytes:
        """All that waits."""
        octets = b"".join(self.waiting)
        self.waiting.clear()
        self.octets = 0
        self.wake.clear()
        return octets


class Hub:
    """All listeners. Of one thread, that of the loop. `whole` makes the data of the event that a listener begins
    with."""

    def __init__(self, whole: Callable[[], bytes]) -> None:
        self.version = int(time.time() * 1000)
        self.clients: set[Client] = set()
        self.closed = False
        self._whole = whole
        self._past: deque[tuple[int, bytes]] = deque()
        self._past_octets = 0

    def publish(self, kind: str, data: Any) -> None:
        """Tells all. `data` is a JSON value, or octets that are one."""
        self.version += 1
        octets = message(kind, self.version, data if isinstance(data, bytes) else dumps(data))
        self._past.append((self.version, octets))
        self._past_octets += len(octets)
        while self._past and (self._past_octets > _HELD_OCTETS or len(self._past) > _QUEUE // 2):
            self._past_octets -= len(self._past.popleft()[1])
        for client in self.clients:
            client.put(octets)
        self.clients = {client for client in self.clients if not client.over}

    def join(self, last: int | None, who: str = "") -> Client:
        """A new listener, who has seen events up to `last`."""
        client = Client(who)
        known = last is not None and self._past and self._past[0][0] - 1 <= last <= self.version
        if last is not None and (known or last == self.version):
            for version, octets in self._past:
                if version > last:
                    client.put(octets, first=True)
        else:
            client.put(message("network", self.version, self._whole()), first=True)
        self.clients.add(client)
        return client

    def leave(self, client: Client) -> None:
        """Forgets a listener."""
        self.clients.discard(client)

    def close(self) -> None:
        """Ends all streams, for good."""
        self.closed = True
        for client in self.clients:
            client.end()


class EventStream:
    """The answer to GET /api/events, as an ASGI application."""

    def __init__(self, hub: Hub, last: int | None, who: str = "") -> None:
        self.hub = hub
        self.last = last
        self.who = who

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),  # a proxy that gathers would hold events back
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        client = self.hub.join(self.last, self.who)
        watcher = asyncio.create_task(_watch(receive, client))
        try:
            await _give(send, _RETRY + client.take())
            while not client.over and not self.hub.closed:
                beat = b""
                try:
                    await asyncio.wait_for(client.wake.wait(), HEARTBEAT_S)
                except TimeoutError:
                    beat = b":\n\n"
                if not client.over:
                    await _give(send, client.take() or beat)
        except TimeoutError:
            pass  # it does not read
        finally:
            self.hub.leave(client)
            watcher.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _give(send: Send, octets: bytes) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        await send({"type": "http.response.body", "body": octets, "more_body": True})


async def _watch(receive: Receive, client: Client) -> None:
    """Ends a listener that has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    client.end()
