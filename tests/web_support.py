"""A `via6 web` for tests: its application in this process, or the program itself.

with served(tmp_path, nodes) as web: web.get("/api/network").json()
with program("--snapshots", str(tmp_path)) as address: ...
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from via6.observe import snapshot
from via6.observe.names import Names
from via6.observe.node import Node
from via6.web.app import Web, build
from via6.web.settings import Settings
from via6.web.sources.snapshots import SnapshotSource

BASE = "http://[::1]:8046"


def write(folder: Path, nodes: Iterable[Node]) -> None:
    """Snapshots of these nodes, in the place of those that were there."""
    folder.mkdir(exist_ok=True)
    names = set()
    for number, node in enumerate(nodes):
        path = folder / f"{number}.json"
        new = folder / f".{number}.new"
        new.write_bytes(snapshot.encode(node))
        new.replace(path)
        names.add(path.name)
    for path in folder.glob("*.json"):
        if path.name not in names:
            path.unlink()


@dataclass
class Served:
    """The application; each question runs the loop for as long as it takes."""

    web: Web
    app: Any
    runner: asyncio.Runner

    def request(self, method: str, path: str, client: str = "::1", **named: Any) -> httpx.Response:
        """One question."""

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False, client=(client, 1234))
            async with httpx.AsyncClient(transport=transport, base_url=BASE) as asker:
                return await asker.request(method, path, **named)

        return self.runner.run(ask())

    def get(self, path: str, **named: Any) -> httpx.Response:
        return self.request("GET", path, **named)

    def until(self, true: Callable[[], bool], seconds: float = 10.0) -> None:
        """Lets the loop run until something has come true."""

        async def wait() -> None:
            async with asyncio.timeout(seconds):
                while not true():
                    await asyncio.sleep(0.02)

        self.runner.run(wait())

    def examined(self) -> None:
        """The doctor has looked."""
        self.until(lambda: self.web.board.findings is not None)


@contextlib.contextmanager
def served(folder: Path, nodes: Iterable[Node], settings: Settings | None = None) -> Iterator[Served]:
    """An application that shows these nodes."""
    write(folder, nodes)
    web = Web(SnapshotSource([str(folder)], Names()), settings or Settings(), Names())
    with asyncio.Runner() as runner:
        runner.run(web.board.start())
        try:
            yield Served(web, build(web), runner)
        finally:
            runner.run(web.stop())


# --- the program ---------------------------------------------------------------------------------------------------


@dataclass
class Program:
    """`via6 web` in a process of its own."""

    process: subprocess.Popen[str]
    address: str

    @property
    def place(self) -> tuple[str, int]:
        """Where it listens."""
        parts = urlsplit(self.address)
        return parts.hostname or "", parts.port or 0

    def get(self, path: str, **named: Any) -> httpx.Response:
        return httpx.get(self.address.rstrip("/") + path, timeout=20, **named)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """(exit code, standard output, standard error) after a signal."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


@contextlib.contextmanager
def program(*args: str, netns: str = "") -> Iterator[Program]:
    """Starts it on a free port of [::1] and waits until it says that it listens."""
    where = ["-n", netns] if netns else []
    process = subprocess.Popen(
        [sys.executable, "-m", "via6", *where, "web", *args, "--listen", "[::1]:0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("http"), line + process.stderr.read()
        yield Program(process, line.split()[0].removesuffix("glass"))
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@dataclass
class Event:
    """One server-sent event, and when it came."""

    kind: str
    id: int
    data: Any
    at: float


def events(address: str, seconds: float, last: int | None = None, query: str = "") -> Generator[Event, None, None]:
    """Events as they come, for so long. The server knows of us when this returns."""
    headers = {"Host": "localhost", **({"Last-Event-ID": str(last)} if last is not None else {})}
    parts = urlsplit(address)
    peer = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=seconds)
    try:
        peer.request("GET", f"/api/events{query}", headers=headers)
        answer = peer.getresponse()
    except BaseException:
        peer.close()
        raise
    found = _events(peer, answer, time.monotonic() + seconds)
    next(found)  # so that closing it closes them
    return found  # type: ignore[return-value]


def _events(
    peer: http.client.HTTPConnection, answer: http.client.HTTPResponse, deadline: float
) -> Generator[Event | None, None, None]:
    fields: dict[str, str] = {}
    with contextlib.closing(peer), contextlib.closing(answer), contextlib.suppress(TimeoutError):
        yield None
        assert answer.status == 200, answer.read()
        while time.monotonic() < deadline and (octets := answer.readline()):
            line = octets.decode().rstrip("\n")
            if line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "event" in fields:
                yield Event(fields["event"], int(fields["id"]), json.loads(fields["data"]), time.monotonic())
                fields = {}


def first(found: Iterator[Event], wanted: Callable[[Event], bool]) -> Event:
    """The first event that is wanted."""
    for event in found:
        if wanted(event):
            return event
    raise AssertionError("the event did not come")


def connect(place: tuple[str, int]) -> socket.socket:
    """A bare connection."""
    return socket.create_connection(place, timeout=20)
