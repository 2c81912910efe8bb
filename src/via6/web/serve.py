"""Listening, and ending: uvicorn in this process, with its loop and without its words."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from via6.errors import Refusal
from via6.web.app import Web, build
from via6.web.desktop import MAX_MESSAGE

_SILENT_S: Final = 20.0  # a connection on which nothing is asked
_STUCK_MS: Final = 30_000  # octets that nobody takes
_MOST_CONNECTIONS: Final = 1200
_END_S: Final = 3
_SWITCH_S: Final = 0.001  # Python's 5 ms are long for a page that asks while the doctor thinks


def listener(host: str, port: int) -> socket.socket:
    """The listening socket; raises Refusal."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    shown = f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise Refusal(f"cannot listen on {shown}: {error.strerror}", "--listen 127.0.0.1:8046") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # connections inherit it: who does not read for long is cut off
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _STUCK_MS)
        sock.bind((host, port))
        sock.listen(256)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            other = f"--listen {shown.rpartition(':')[0]}:{port + 1 if port < 65535 else 8046}"
            raise Refusal(f"{shown} is taken, perhaps by another via6 web", other) from None
        if error.errno == errno.EADDRNOTAVAIL:
            hint = "--listen 127.0.0.1:8046" if host == "::1" else "`ip address` shows the addresses of this machine"
            raise Refusal(f"this machine has no address {host}", hint) from None
        if error.errno == errno.EACCES:
            raise Refusal(f"not allowed to listen on {shown}", "choose a port from 1024 up") from None
        raise Refusal(f"cannot listen on {shown}: {error.strerror}") from None
    return sock


def address_of(sock: socket.socket) -> str:
    """What to open, as `http://[::1]:8046/`."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class _Protocol(H11Protocol):
    """Ends connections on which nothing is ever asked."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._silent = self.loop.call_later(_SILENT_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._silent.cancel()  # it would hold all of a connection that has gone

    def _look(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.abort()


class _Server(uvicorn.Server):
    """uvicorn raises the signal that ended it again; we end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(web: Web, sock: socket.socket, ready: Callable[[str], None]) -> None:
    """Serves until SIGINT or SIGTERM. `ready` is told the address. Raises Refusal."""
    sys.setswitchinterval(_SWITCH_S)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(web, sock, ready))


async def _serve(web: Web, sock: socket.socket, ready: Callable[[str], None]) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_quiet)
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    starting = asyncio.create_task(web.board.start())
    stopping = asyncio.create_task(ended.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if not starting.done():
            starting.cancel()
            return
        starting.result()
        config = uvicorn.Config(
            build(web), lifespan="off", log_config=None, log_level="critical", access_log=False, http=_Protocol,
            ws="websockets-sansio", ws_max_size=MAX_MESSAGE, server_header=False, proxy_headers=False,
            timeout_keep_alive=20, timeout_graceful_shutdown=_END_S, h11_max_incomplete_event_size=16 << 10,
            limit_concurrency=_MOST_CONNECTIONS,
        )  # fmt: skip
        server = _Server(config)
        serving = asyncio.create_task(server.serve([sock]))
        ready(address_of(sock))
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        web.board.hub.close()  # streams end, so that the server can
        server.should_exit = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(serving, _END_S + 2)
    finally:
        stopping.cancel()
        await web.stop()


def _quiet(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """One line for what nobody caught: connections that break are no news."""
    error = context.get("exception")
    if error is None or isinstance(error, (OSError, asyncio.CancelledError)):
        return
    print(f"via6: {context.get('message', 'a fault')}: {type(error).__name__}: {error}", file=sys.stderr)
