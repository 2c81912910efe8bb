"""The control socket: tells who asks what the daemon knows, and goes on telling what changes.

A question is a line with a JSON object: `{"show": KIND}` with KIND interface, neighbour, route, source, status or
about, and `prefix`, `how`, `family`, `dev`, `state` to ask for less; `{"monitor": true}` (or a list of kinds); or
`{"trace": {"to": ADDRESS}}`, with `from`, `proto`, `sport`, `dport` and `back`, for the way of a packet. The answer is
an object per line and `{"end": N}`; for a monitor that is the state now, and the changes follow. `client` is the other
end, `listen` says where the socket is, `monitors` how changes are found.

Nothing here may stand in the way of routing. The daemon has one thread, so tables are walked through in turns of some
milliseconds. Nothing grows with a reader that does not read: an answer waits for it and then gives up, and a monitor
that the log of changes has left behind is dropped. Nothing that a client does can raise in the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from via6 import __version__
from via6.daemon import listen
from via6.daemon.client import namespace
from via6.daemon.monitors import MONITORED, Answers, Lines, Monitor, Turns, Watch
from via6.errors import FAILED, NO_DAEMON, USAGE, Refusal
from via6.observe.babel import HOWS, KINDS, STATES, Select, chosen, longest, status_json
from via6.observe.trace.model import ICMP, TCP, UDP, Flow
from via6.prefix import AF_INET, AF_INET6, Prefix, PrefixError, parse_address, parse_prefix

if TYPE_CHECKING:
    from via6.daemon.trace import Tracer

MAX_CLIENTS: Final = 64

_REQUEST_OCTETS: Final = 4096
_BUFFER_OCTETS: Final = 256 << 10
_IDLE_S: Final = 60.0
_PATIENCE_S: Final = 30.0
_FAREWELL_S: Final = 1.0
_LOOK_S: Final = 5.0
_LEAVES: Final = ("the daemon leaves", "", NO_DAEMON)


class Traced(msgspec.Struct, forbid_unknown_fields=True):
    """The packet of a trace."""

    to: str
    from_: str | None = msgspec.field(default=None, name="from")
    proto: int | Literal["icmp", "tcp", "udp"] = "icmp"
    sport: int = 0
    dport: int = 0
    back: bool = True


class Question(msgspec.Struct, forbid_unknown_fields=True):
    """A line of a client."""

    show: str | None = None
    trace: Traced | None = None
    monitor: bool | list[str] | None = None
    prefix: str | None = None
    how: str = "exact"
    family: Literal[4, 6] | None = None
    dev: str | None = None
    state: str | None = None


class _Dropped(Refusal):
    """The conversation ends with it."""


class Server:
    """`path` None: as VIA6_SOCKET and the network namespace say (see `listen`). `subscribe` is called with True when
    the first monitor comes and with False when the last one has gone, `complain` with a line for the log."""

    def __init__(
        self,
        path: str | None,
        answers: Answers,
        *,
        subscribe: Callable[[bool], None] = lambda _watched: None,
        complain: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.tracer: Tracer | None = None
        self._path = path
        self._answers = answers
        self._complain = complain
        self._lines = Lines(answers)
        self._turns = Turns()
        self._watch = Watch(answers, self._lines, self._turns, subscribe, complain)
        self._ears: list[listen.Ear] = []
        self._servers: list[asyncio.Server] = []
        self._clients: set[asyncio.Task[None]] = set()
        self._closed = False
        self._started = time.monotonic()

    # --- for the driver --------------------------------------------------------------------------------------------

    async def start(self) -> list[str]:
        """Listens. What could not be had though the rest works, for the log. Raises Refusal when nothing can be
        listened on, or another daemon does."""
        self._ears, notes = listen.listen(self._path)
        for ear in self._ears:
            server = await asyncio.start_unix_server(self._door(ear), sock=ear.socket, limit=_REQUEST_OCTETS)
            self._servers.append(server)
        return notes

    async def close(self) -> None:
        """Tells everybody that the daemon leaves, and removes the socket's file. May be called twice."""
        self._closed = True
        for ear in self._ears:
            asyncio.get_running_loop().remove_reader(ear.socket)
        await asyncio.sleep(0)  # asyncio trips over a caller it is letting in while its server is closed
        for server in self._servers:
            server.close()
        self._servers.clear()
        for ear in self._ears:
            ear.close()
        self._ears.clear()
        self._watch.stop()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        await asyncio.sleep(0)

    @property
    def watched(self) -> bool:
        """Somebody monitors. While it is False the two functions below do nothing, and cost nothing."""
        return bool(self._watch.monitors)

    def routes_changed(self, prefixes: Iterable[Prefix]) -> None:
        """The routes of these prefixes may have changed: `answers.routes_of` is asked a moment later, and what is new
        is told. Neighbours and interfaces need no such call."""
        self._watch.routes_changed(prefixes)

    def publish(self, kind: str, action: str, info: Any) -> None:
        """Tells the monitors this change at once: `kind` is interface, neighbour or route, `action` add, change or
        remove. For a driver that knows its changes one by one; else see `routes_changed`."""
        self._watch.publish(kind, action, info)

    # --- clients ---------------------------------------------------------------------------------------------------

    def _door(self, ear: listen.Ear) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def come_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if self._closed:
                writer.write(self._error(*_LEAVES))
                writer.close()
            elif not ear.admits(writer.get_extra_info("socket")):
                remedy = "run it as root, or join the group: `usermod -aG via6 USER`"
                writer.write(self._error("not allowed to talk to the daemon", remedy, NO_DAEMON))
                writer.close()
            else:
                task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
                self._clients.add(task)
                task.add_done_callback(functools.partial(self._gone, writer))

        return come_in

    def _gone(self, writer: asyncio.StreamWriter, task: asyncio.Task[None]) -> None:
        self._clients.discard(task)
        if task.cancelled():  # before it began
            writer.write(self._error(*_LEAVES))
        writer.close()
        if writer.transport.get_write_buffer_size():
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """No fault of a client, or of ours with one, reaches the loop: the daemon would end."""
        try:
            writer.transport.set_write_buffer_limits(_BUFFER_OCTETS)
            await self._converse(reader, writer)
            writer.close()
            await asyncio.wait_for(writer.wait_closed(), _FAREWELL_S)
        except asyncio.CancelledError:
            writer.write(self._error(*_LEAVES))
        except OSError:  # gone, or does not read: TimeoutError is one
            pass
        except Exception as error:
            self._complain(f"control socket: a fault in via6, please report it: {error!r}")
            writer.write(self._error(f"a fault in via6, please report it: {error!r}", ""))

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) > MAX_CLIENTS:
            writer.write(self._error(f"{MAX_CLIENTS} others ask already", "try again"))
            return
        while True:
            try:
                line = await asyncio.wait_for(reader.readuntil(), _IDLE_S)
            except asyncio.IncompleteReadError as end:
                line = end.partial
                if not line.strip():
                    return
            except asyncio.LimitOverrunError:
                writer.write(self._error(f"a question has at most {_REQUEST_OCTETS} octets", "", USAGE))
                return
            try:
                await self._answer(line, writer)
            except Refusal as refusal:
                await self._send(writer, self._error(refusal.message, refusal.remedy, refusal.code))
                if isinstance(refusal, _Dropped):
                    return

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        try:
            asked = msgspec.json.decode(line, type=Question)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise Refusal(f"the question is not understood: {error}", 'say {"show": "route"}', USAGE) from None
        if asked.trace is not None and asked.show is None and asked.monitor is None:
            await self._trace(asked.trace, writer)
            return
        if asked.trace is not None or (asked.show is None) == (asked.monitor in (None, False)):
            raise Refusal("the question is not understood: `show` or `monitor`?", 'say {"show": "route"}', USAGE)
        if asked.show is None:
            kinds = MONITORED if asked.monitor is True else tuple(asked.monitor or ())
            if not kinds or not set(kinds) <= set(MONITORED):
                raise Refusal(f"what can be monitored: {', '.join(MONITORED)}", "", USAGE)
            await self._monitor(frozenset(kinds), writer)
        elif asked.show == "status":
            await self._send_one(writer, await self._status())
        elif asked.show == "about":
            await self._send_one(writer, self._process())
        elif asked.show in KINDS:
            _refuse_needless(asked)
            await self._show(asked.show, self._understood(asked), writer)
        else:
            raise Refusal(f"there is no {asked.show!r} to show", f"there are {', '.join(KINDS)} and status", USAGE)

    def _understood(self, asked: Question) -> Select:
        """Raises Refusal with USAGE."""
        prefix = None
        size = {4: 4, 6: 16}.get(asked.family or 0, 0)
        if asked.how not in HOWS:
            raise Refusal(f"how: {asked.how!r}", f"there are {', '.join(HOWS)}", USAGE)
        if asked.state is not None and asked.state not in STATES:
            raise Refusal(f"no route has the state {asked.state!r}", f"states: {', '.join(STATES)}", USAGE)
        if asked.prefix is not None:
            try:
                prefix = parse_prefix(asked.prefix, AF_INET6 if asked.family == 6 else AF_INET)
            except PrefixError as error:
                raise Refusal(str(error), "", USAGE) from None
        ifindex = 0
        if asked.dev is not None:
            there = {info.interface: info.ifindex for info in self._answers.interfaces()}
            ifindex = there.get(asked.dev, 0)
            if not ifindex:
                known = ", ".join(sorted(there)[:8]) or "none"
                raise Refusal(f"Babel is not spoken on {asked.dev!r}", f"interfaces: {known}", FAILED)
        return Select(prefix, asked.how, size, ifindex, asked.state or "")

    # --- answers ---------------------------------------------------------------------------------------------------

    async def _show(self, kind: str, wanted: Select, writer: asyncio.StreamWriter) -> None:
        self._lines.learn()
        count = 0
        rows = self._rows(kind, wanted)
        lines = (None if info is None else self._lines.info(kind, info) for info in rows)
        async for piece in self._turns.pieces(lines):
            count += len(piece)
            await self._send(writer, b"".join(piece))
        await self._send(writer, self._lines.of({"end": count}))

    def _rows(self, kind: str, wanted: Select) -> Iterator[Any]:
        """What is asked for; None for what was only passed over."""
        answers = self._answers
        if kind == "neighbour":
            yield from filter(wanted.admits, sorted(answers.neighbours(), key=lambda n: (n.interface, n.address)))
        elif kind == "interface":
            yield from filter(wanted.admits, sorted(answers.interfaces(), key=lambda i: i.interface))
        elif kind == "source":
            found = chosen(answers.sources(), wanted.admits)
            yield from (_longest_of(found) if wanted.how == "longest" and wanted.prefix else found)
        elif wanted.places is None:
            yield from chosen(answers.routes(), wanted.admits)
        else:
            for place in wanted.places:
                rows = list(filter(wanted.admits, answers.routes_of(place)))
                yield from rows
                if rows and wanted.how == "longest":
                    return

    async def _trace(self, asked: Traced, writer: asyncio.StreamWriter) -> None:
        if self.tracer is None:
            raise Refusal("this daemon traces nothing: its log says why", "", FAILED)
        count = 0
        async for hop in self.tracer.trace(_flow(asked), asked.back):
            count += 1
            await self._send(writer, self._lines.of(hop))
        await self._send(writer, self._lines.of({"end": count}))

    async def _status(self) -> dict[str, Any]:
        interfaces, neighbours = list(self._answers.interfaces()), list(self._answers.neighbours())
        routes: dict[str, int] = dict.fromkeys(STATES, 0)
        async for piece in self._turns.pieces(route.state for route in self._answers.routes()):
            for state in piece:
                routes[state] = routes.get(state, 0) + 1
        counted = {
            "interfaces": len(interfaces),
            "interfaces_up": sum(interface.up for interface in interfaces),
            "neighbours": len(neighbours),
            "neighbours_up": sum(neighbour.cost < 0xFFFF for neighbour in neighbours),
            "routes": routes,
        }
        status = self._answers.status()
        if self.tracer is not None:
            traced = {f"trace-{what}": count for what, count in sorted(self.tracer.responder.counters.items())}
            status = status._replace(counters={**status.counters, **traced})
        return status_json(status, self._process(), counted)

    def _process(self) -> dict[str, Any]:
        memory = 0
        with contextlib.suppress(OSError), open("/proc/self/statm") as file:
            memory = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
        return {
            "version": __version__,
            "pid": os.getpid(),
            "netns": namespace(),
            "uptime_s": round(time.monotonic() - self._started, 1),
            "memory_kib": memory,
            "clients": len(self._clients),
        }

    async def _monitor(self, kinds: frozenset[str], writer: asyncio.StreamWriter) -> None:
        one = self._watch.admit(kinds)
        try:
            count = 0
            for kind in (kind for kind in MONITORED if kind in kinds):
                async for piece in self._turns.pieces(self._watch.state(one, kind)):
                    count += len(piece)
                    await self._send(writer, b"".join(piece))
                    # What has changed meanwhile goes behind the piece: the last word on a route is the latest one.
                    while self._watch.behind(one):
                        await self._news(one, writer)
            await self._send(writer, self._lines.of({"end": count}))
            while not _hung_up(writer):
                if self._watch.behind(one):
                    await self._news(one, writer)
                else:
                    await self._watch.wait(_LOOK_S)
        finally:
            self._watch.dismiss(one)

    async def _news(self, one: Monitor, writer: asyncio.StreamWriter) -> None:
        lines = self._watch.take(one, _BUFFER_OCTETS)
        if lines is None:
            raise _Dropped("too slow: changes that you have not read yet are gone", "read faster, and begin again")
        await self._send(writer, lines)

    # --- lines -----------------------------------------------------------------------------------------------------

    def _error(self, message: str, remedy: str, code: int = FAILED) -> bytes:
        return self._lines.of({"error": message, "remedy": remedy, "code": code})

    async def _send_one(self, writer: asyncio.StreamWriter, value: dict[str, Any]) -> None:
        await self._send(writer, self._lines.of(value) + self._lines.of({"end": 1}))

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        """Waits for a reader that is behind. Raises OSError if it has gone, TimeoutError if it does not read."""
        if writer.transport.is_closing():
            raise ConnectionResetError
        writer.write(data)
        if writer.transport.get_write_buffer_size() > _BUFFER_OCTETS:
            await asyncio.wait_for(writer.drain(), _PATIENCE_S)


def _flow(asked: Traced) -> Flow:
    """Raises Refusal with USAGE."""
    try:
        to = parse_address(asked.to)
        source = parse_address(asked.from_) if asked.from_ is not None else None
    except PrefixError as error:
        raise Refusal(str(error), "", USAGE) from None
    if len(to) != 4 or (source is not None and len(source) != 4):
        raise Refusal("what is traced are IPv4 packets", "", USAGE)
    named = {"icmp": ICMP, "tcp": TCP, "udp": UDP}
    proto = named[asked.proto] if isinstance(asked.proto, str) else asked.proto
    if not (0 <= proto <= 255 and 0 <= asked.sport < 65536 and 0 <= asked.dport < 65536):
        raise Refusal("a protocol has a number up to 255, a port one up to 65535", "", USAGE)
    return Flow(to, source, proto, asked.sport, asked.dport)


def _refuse_needless(asked: Question) -> None:
    """What would restrict nothing, or leave nothing, is a misunderstanding."""
    words = {"prefix": asked.prefix, "family": asked.family, "dev": asked.dev, "state": asked.state}
    fit = {"route": set(words), "source": {"prefix", "family"}}.get(asked.show or "", {"dev"})
    for word, value in words.items():
        if value is not None and word not in fit:
            raise Refusal(f"`{word}` says nothing of {asked.show}s", "leave it out", USAGE)


def _longest_of(rows: Iterable[Any]) -> Iterator[Any]:
    found = []
    for row in rows:
        if row is not None:
            found.append(row)
        yield None
    yield from longest(found)


def _hung_up(writer: asyncio.StreamWriter) -> bool:
    """The other end is closed, not only its sending side (`echo … | socat` does that and goes on reading)."""
    if writer.transport.is_closing():
        return True
    peer: socket.socket = writer.get_extra_info("socket")
    poll = select.poll()
    poll.register(peer.fileno(), 0)
    return bool(poll.poll(0))
