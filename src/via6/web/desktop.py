"""Desktops in the browser: a WebSocket of the page on one side, a TCP connection to a VNC server on the other.

    browser ──WebSocket──> via6 web ──TCP, made in the near host's namespace──> routers (IPv6 only) ──> desktop

Only what is listed can be reached, and by those alone whom the wall before all routes lets in (guard.py). A page asks
for /desktops/NAME/socket; no address or port is ever taken from it. The connections are opened by a helper process
without privileges (dial.py), one for each namespace from which desktops are looked at; it has the list, and takes names
only. Octets are pumped here and are never looked into.

Bounds. A message of a browser is at most MAX_MESSAGE octets, one at a time: the next is read when the kernel has taken
the last. From the desktop CHUNK octets at a time are read, and the next when the browser's connection has taken them.
So a slow end slows the other one down and costs no memory; one that takes nothing for STALL_S is let go, and so is a
session in which nothing passed for IDLE_S. There are at most MAX_SESSIONS, and MAX_EACH of one desktop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from via6.errors import Refusal
from via6.lab.state import LabState
from via6.web.dial import CONNECT_S, MAX_WORDS

VNC_PORT: Final = 5900
MAX_DESKTOPS: Final = 256
MAX_MESSAGE: Final = 1 << 20
"""For uvicorn's ws_max_size as well: what a clipboard holds comes as one message."""
CHUNK: Final = 1 << 16
MAX_SESSIONS: Final = 32
MAX_EACH: Final = 8
IDLE_S: Final = 1800.0
STALL_S: Final = 60.0
_SUBPROTOCOL: Final = "binary"  # what older noVNC asks for; the newer asks for none
_START_S: Final = 10.0
_REASON_OCTETS: Final = 120  # RFC 6455 allows 123

# RFC 6455 section 7.4.1, and the registry of IANA for the last two.
_GOING_AWAY: Final = 1001
_NOT_BINARY: Final = 1003
_TOO_BIG: Final = 1009
_TRY_LATER: Final = 1013
_BAD_GATEWAY: Final = 1014


@dataclass(frozen=True, slots=True)
class Desktop:
    """A desktop that may be shown: `node` is its node in the picture (empty: none), `near` the network namespace from
    which it is looked at, as `via6 -n` takes it (empty: that of the server)."""

    name: str
    host: str
    port: int = VNC_PORT
    kind: str = "vnc"
    node: str = ""
    near: str = ""

    def as_json(self) -> dict[str, str | None]:
        """Its entry in /api/desktops. Where it is and how it is reached is nobody's business there."""
        return {"name": self.name, "kind": self.kind, "node": self.node or None, "path": f"/desktops/{self.name}"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a bridge bears."""

    sessions: int = MAX_SESSIONS
    each: int = MAX_EACH
    idle_s: float = IDLE_S
    stall_s: float = STALL_S


def desktops_of_lab(lab: LabState) -> tuple[Desktop, ...]:
    """The desktops of a running lab. One with RDP has the same screen by VNC, and that is what a browser shows."""
    return tuple(
        Desktop(one["name"], one["address"], node=one["name"], near=f"{lab.name}/{one['near']}")
        for one in lab.desktops
    )  # fmt: skip


def desktop_routes(desktops: Iterable[Desktop]) -> list[BaseRoute]:
    """The WebSocket of each of these desktops. Starts the helpers: call it while this process may still enter the
    namespaces. Raises Refusal."""
    return Bridge(desktops).routes


class Bridge:
    """All sessions of one server."""

    def __init__(self, desktops: Iterable[Desktop], limits: Limits = Limits()) -> None:
        self.desktops = {desktop.name: desktop for desktop in desktops}
        self.limits = limits
        self.open: Counter[str] = Counter()
        """Sessions by the name of their desktop."""
        near: dict[str, list[Desktop]] = {}
        for desktop in self.desktops.values():
            near.setdefault(desktop.near, []).append(desktop)
        self._dialers: dict[str, _Dialer] = {}
        try:
            for place, there in near.items():
                self._dialers[place] = _Dialer(place, there)
        except BaseException:
            self.close()
            raise

    @property
    def routes(self) -> list[BaseRoute]:
        return [WebSocketRoute("/desktops/{name}/socket", self.serve, name="desktop_socket")]

    def close(self) -> None:
        """Ends the helpers."""
        for dialer in self._dialers.values():
            dialer.close()

    async def serve(self, websocket: WebSocket) -> None:
        """One WebSocket from its request to its end."""
        desktop = self.desktops.get(websocket.path_params["name"])
        if desktop is None:
            await websocket.close()  # before it is accepted: the answer is 403
            return
        offered = websocket.scope.get("subprotocols", ())
        await websocket.accept(_SUBPROTOCOL if _SUBPROTOCOL in offered else None)
        if self.open.total() >= self.limits.sessions or self.open[desktop.name] >= self.limits.each:
            why = f"{self.open[desktop.name]} sessions of {desktop.name} are open, {self.open.total()} in all"
            await _close(websocket, _TRY_LATER, f"{why}; close one")
            return
        self.open[desktop.name] += 1
        try:
            await self._session(websocket, desktop)
        finally:
            self.open[desktop.name] -= 1

    async def _session(self, websocket: WebSocket, desktop: Desktop) -> None:
        dialled = await self._dialers[desktop.near].dial(desktop.name)
        if isinstance(dialled, str):
            await _close(websocket, _BAD_GATEWAY, f"{desktop.name} cannot be reached: {dialled}")
            return
        with dialled as sock:
            end = await _Session(websocket, sock, desktop.name, self.limits).run()
        if end is not None:
            await _close(websocket, *end)


# --- one session -----------------------------------------------------------------------------------------------------

_End = tuple[int, str] | None
"""How to close the WebSocket; None: it is closed already."""


class _Session:
    def __init__(self, websocket: WebSocket, sock: socket.socket, name: str, limits: Limits) -> None:
        self.websocket = websocket
        self.sock = sock
        self.name = name
        self.limits = limits
        self.loop = asyncio.get_running_loop()
        self.last_s = time.monotonic()

    async def run(self) -> _End:
        """Pumps both ways until one of the ends, or patience, is at an end."""
        pumps = [asyncio.create_task(work()) for work in (self._to_desktop, self._to_browser, self._idle)]
        try:
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            # Where the browser has gone there is nobody left to be told anything.
            ends = [pump.result() for pump in done]
            return None if None in ends else ends[0]
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _to_desktop(self) -> _End:
        while True:
            message = await self.websocket.receive()
            if message["type"] == "websocket.disconnect":
                return None
            data = message.get("bytes")
            if data is None:
                return _NOT_BINARY, "a desktop takes binary messages"
            if len(data) > MAX_MESSAGE:
                return _TOO_BIG, f"a message of more than {MAX_MESSAGE >> 20} MB"
            try:
                await asyncio.wait_for(self.loop.sock_sendall(self.sock, data), self.limits.stall_s)
            except TimeoutError:
                return _GOING_AWAY, f"{self.name} takes nothing any more"
            except OSError:
                return self._lost()
            self.last_s = time.monotonic()

    async def _to_browser(self) -> _End:
        while True:
            try:
                data = await self.loop.sock_recv(self.sock, CHUNK)
            except OSError:
                return self._lost()
            if not data:
                return _GOING_AWAY, f"{self.name} has ended the connection"
            try:
                await asyncio.wait_for(self.websocket.send_bytes(data), self.limits.stall_s)
            except TimeoutError:
                return _GOING_AWAY, "the browser takes nothing any more"
            except (WebSocketDisconnect, RuntimeError, OSError):  # it has gone while we sent
                return None
            self.last_s = time.monotonic()

    async def _idle(self) -> _End:
        while (left := self.last_s + self.limits.idle_s - time.monotonic()) > 0:
            await asyncio.sleep(left)
        return _GOING_AWAY, f"nothing passed for {self.limits.idle_s / 60:g} minutes"

    def _lost(self) -> _End:
        return _GOING_AWAY, f"the connection to {self.name} is lost"


async def _close(websocket: WebSocket, code: int, reason: str) -> None:
    short = reason.encode()[:_REASON_OCTETS].decode(errors="ignore")
    if websocket.application_state == WebSocketState.CONNECTED:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):
            # A browser that takes nothing would not take this either.
            await asyncio.wait_for(websocket.close(code, short), 5)


# --- the helper's other end ------------------------------------------------------------------------------------------


class _Dialer:
    """A helper process for the desktops that are looked at from one namespace."""

    def __init__(self, near: str, desktops: Sequence[Desktop]) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._waiting: dict[int, asyncio.Future[socket.socket | str]] = {}
        self._count = 0
        self._pid = 0
        try:
            with theirs:
                os.set_inheritable(theirs.fileno(), True)
                argv = [sys.executable, "-P", "-m", "via6.web.dial", str(theirs.fileno())]
                self._pid = os.posix_spawn(sys.executable, argv, os.environ, setsid=True)
            places = {desktop.name: (desktop.host, desktop.port) for desktop in desktops}
            self._channel.send(json.dumps({"near": near, "desktops": places}).encode())
            self._channel.settimeout(_START_S)
            answer = json.loads(self._channel.recv(MAX_WORDS) or "{}")
        except OSError as error:
            self.close()
            raise Refusal(f"the helper of desktops does not start: {error.strerror or error}") from None
        if not answer.get("ready"):
            self.close()
            raise Refusal(*answer.get("refusal", ["the helper of desktops ended at once"]))
        self._channel.setblocking(False)

    async def dial(self, name: str) -> socket.socket | str:
        """A connected socket, or why there is none."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            with contextlib.suppress(ValueError):  # closed
                loop.add_reader(self._channel.fileno(), self._read)
        self._count += 1
        number = self._count
        answer = self._waiting[number] = loop.create_future()
        try:
            self._channel.send(json.dumps({"id": number, "name": name}).encode())
            return await asyncio.wait_for(answer, CONNECT_S + 2)
        except TimeoutError:
            return "no answer"
        except OSError:
            return "the helper of desktops has ended; start via6 web again"
        finally:
            del self._waiting[number]
            if not self._waiting:
                with contextlib.suppress(ValueError):
                    loop.remove_reader(self._channel.fileno())

    def _read(self) -> None:
        try:
            words, descriptors, _, _ = socket.recv_fds(self._channel, MAX_WORDS, 1)
        except BlockingIOError:
            return
        except OSError:
            words, descriptors = b"", []
        if not words:
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_result("the helper of desktops has ended; start via6 web again")
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            return
        found: dict[str, Any] = json.loads(words)
        socks = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        waiting = self._waiting.get(found["id"])
        if waiting is None or waiting.done():  # who asked has gone
            for sock in socks:
                sock.close()
        elif socks:
            socks[0].setblocking(False)
            waiting.set_result(socks[0])
        else:
            waiting.set_result(str(found.get("why", "no answer")))

    def close(self) -> None:
        """Ends the helper: it does so when its channel is closed."""
        self._channel.close()
        if self._pid:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
            self._pid = 0
