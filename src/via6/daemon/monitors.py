"""Who wants to hear of changes, and how changes are found.

They are found by comparing. The driver names the prefixes whose routes may have changed; they are looked at a moment
later, so that a prefix that changes thrice in that moment is told once. Neighbours and interfaces are few and are
looked at four times a second. None of this happens while nobody monitors.

A change is kept once for all monitors, as the line that they get, in a log of bounded size. A monitor that reads too
slowly does not make it longer: the log goes on without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import msgspec

from via6.observe.babel import Deltas, Status, as_json
from via6.prefix import Prefix

if TYPE_CHECKING:
    from via6.babel.model import InterfaceInfo, NeighbourInfo, RouteInfo, SourceInfo

LOG_OCTETS: Final = 16 << 20
TURN_S: Final = 0.005
MONITORED: Final = ("interface", "neighbour", "route")

_POLL_S: Final = 0.25
_GATHER_S: Final = 0.02
_NAMES: Final = 4096

T = TypeVar("T")


class Answers(Protocol):
    """What the daemon knows, now. `routes` and `sources` are walked through in several turns of the loop, so they must
    bear changes of the tables in between: they go over a list of the keys and pass over what has gone."""

    def neighbours(self) -> Iterable[NeighbourInfo]: ...
    def interfaces(self) -> Iterable[InterfaceInfo]: ...
    def routes(self) -> Iterable[RouteInfo]: ...
    def routes_of(self, prefix: Prefix) -> Iterable[RouteInfo]: ...
    def sources(self) -> Iterable[SourceInfo]: ...
    def status(self) -> Status: ...


class Lines:
    """JSON lines, with names for the interfaces that a route knows by number. Names of interfaces that have gone are
    kept for a while: their last routes want one, too."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._encode = msgspec.json.Encoder().encode
        self._names: dict[int, str] = {}

    def learn(self) -> None:
        """Names as they are now."""
        if len(self._names) > _NAMES:
            self._names.clear()
        self._names.update((info.ifindex, info.interface) for info in self._answers.interfaces())

    def dev(self, ifindex: int) -> str:
        """Name of an interface; `if7` if nobody knows it."""
        if ifindex not in self._names:
            self.learn()
            self._names.setdefault(ifindex, f"if{ifindex}")
        return self._names[ifindex]

    def of(self, value: Any) -> bytes:
        """Any JSON value."""
        return self._encode(value) + b"\n"

    def info(self, kind: str, info: Any) -> bytes:
        """One info of this kind."""
        return self.of(as_json(kind, info, self.dev))

    def change(self, kind: str, action: str, info: Any) -> bytes:
        """What a monitor gets."""
        return self.of({"action": action, "kind": kind, kind: as_json(kind, info, self.dev)})


class Turns:
    """Long work in turns of TURN_S, one turn in each round of the loop, however many want one."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def pieces(self, rows: Iterable[T | None]) -> AsyncIterator[list[T]]:
        """The rows but None, as many at a time as one turn yields."""
        rest = iter(rows)
        done = False
        while not done:
            async with self._lock:
                piece, done = _for_a_turn(rest)
                await asyncio.sleep(0)
            if piece:
                yield piece


def _for_a_turn(rows: Iterator[T | None]) -> tuple[list[T], bool]:
    """(what one turn yields, whether that was all)"""
    end = time.monotonic() + TURN_S
    piece: list[T] = []
    for number, row in enumerate(rows, 1):
        if row is not None:
            piece.append(row)
        if not number & 15 and time.monotonic() > end:
            return piece, False
    return piece, True


class Log:
    """The latest changes, numbered without end. At most LOG_OCTETS of them wait for the slowest monitor."""

    def __init__(self) -> None:
        self._lines: list[tuple[str, bytes]] = []
        self._first = 0
        self._octets = 0

    @property
    def end(self) -> int:
        """The number of the next change."""
        return self._first + len(self._lines)

    def append(self, kind: str, line: bytes) -> None:
        """The oldest quarter goes when there are too many."""
        self._lines.append((kind, line))
        self._octets += len(line)
        if self._octets > LOG_OCTETS:
            self.forget(self._first + max(len(self._lines) // 4, 1))

    def forget(self, until: int) -> None:
        """Changes before this number are not needed any more."""
        if until <= self._first:
            return
        old = self._lines[: until - self._first]
        self._octets -= sum(len(line) for _, line in old)
        del self._lines[: until - self._first]
        self._first += len(old)

    def since(self, number: int, octets: int) -> tuple[list[tuple[str, bytes]], int] | None:
        """Changes from this number on, about so many octets of them, and the number behind; None: they are gone."""
        if number < self._first:
            return None
        at = number - self._first
        size = 0
        until = at
        while until < len(self._lines) and size < octets:
            size += len(self._lines[until][1])
            until += 1
        return self._lines[at:until], self._first + until


class Monitor:
    """One that is told of changes. `seen` is the number of the next change for it."""

    __slots__ = ("kinds", "seen")

    def __init__(self, kinds: frozenset[str], seen: int) -> None:
        self.kinds = kinds
        self.seen = seen


class Watch:
    """The monitors, and what they have been told. Everything that only they need is forgotten with the last of them."""

    def __init__(
        self,
        answers: Answers,
        lines: Lines,
        turns: Turns,
        subscribe: Callable[[bool], None],
        complain: Callable[[str], None],
    ) -> None:
        self._answers = answers
        self._lines = lines
        self._turns = turns
        self._subscribe = subscribe
        self._complain = complain
        self.monitors: list[Monitor] = []
        self._log = Log()
        self._deltas = Deltas()
        self._news = asyncio.Event()
        self._touched = asyncio.Event()
        self._pending: dict[Prefix, None] = {}
        self._seeded = False
        self._seeder: Monitor | None = None
        self._follower: asyncio.Task[None] | None = None
        self._freeing: set[asyncio.Task[None]] = set()
        self._polled = 0.0

    # --- monitors come and go --------------------------------------------------------------------------------------

    def admit(self, kinds: frozenset[str]) -> Monitor:
        """One more; it is to be sent `state`, and then what `take` gives."""
        first = not self.monitors
        self._poll()
        one = Monitor(kinds, self._log.end)
        self.monitors.append(one)
        if "route" in kinds and not self._seeded and self._seeder is None:
            self._seeder = one
        if first:
            self._follower = asyncio.create_task(self._follow())
            self._subscribe(True)
        return one

    def dismiss(self, one: Monitor) -> None:
        """It has gone."""
        self.monitors.remove(one)
        if self._seeder is one:
            self._seeder = None
        if not self._routes_are_monitored():
            free = asyncio.create_task(self._walk(self._deltas.forget("route")))
            self._freeing.add(free)
            free.add_done_callback(self._freeing.discard)
            self._pending.clear()
            self._seeded = False
        if not self.monitors:
            self.stop()
            self._log = Log()
            self._deltas = Deltas()
            self._subscribe(False)

    def stop(self) -> None:
        """Looks for changes no more."""
        if self._follower is not None:
            self._follower.cancel()
            self._follower = None

    async def _walk(self, rows: Iterable[None]) -> None:
        async for _ in self._turns.pieces(rows):
            pass

    def state(self, one: Monitor, kind: str) -> Iterator[bytes]:
        """Lines of all there is of this kind now, for this monitor; walked through in turns."""
        infos: Iterable[Any]
        if kind == "interface":
            infos = sorted(self._answers.interfaces(), key=lambda i: i.interface)
        elif kind == "neighbour":
            infos = sorted(self._answers.neighbours(), key=lambda n: (n.interface, n.address))
        else:
            infos = self._answers.routes()
        for info in infos:
            if kind == "route":
                # Who reads first, and alone, fills the memory of what has been told; who comes later may be the first
                # to see something new, and the others must hear of it.
                change = self._deltas.meet(kind, info)
                first = self._seeder is one and len(self.monitors) == 1
                if change is not None and not (first and change[0] == "add"):
                    self._tell(kind, *change)
            yield self._lines.change(kind, "add", info)
        if kind == "route":
            self._seeded = True

    # --- changes ---------------------------------------------------------------------------------------------------

    def publish(self, kind: str, action: str, info: Any) -> None:
        """This change, as it is."""
        if self.monitors:
            self._deltas.note(kind, action, info)
            self._tell(kind, action, info)

    def routes_changed(self, prefixes: Iterable[Prefix]) -> None:
        """To be looked at in a moment."""
        if self.monitors and self._routes_are_monitored():
            self._pending.update(dict.fromkeys(prefixes))
            self._touched.set()

    def behind(self, one: Monitor) -> bool:
        """There is something that it has not been sent."""
        return one.seen < self._log.end

    def take(self, one: Monitor, octets: int) -> bytes | None:
        """What comes next for this monitor, about so many octets of the log; None if it has waited too long."""
        found = self._log.since(one.seen, octets)
        if found is None:
            return None
        lines, one.seen = found
        self._log.forget(min(monitor.seen for monitor in self.monitors))
        return b"".join(line for kind, line in lines if kind in one.kinds)

    async def wait(self, seconds: float) -> None:
        """Until there is something new, but not longer."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), seconds)

    def _routes_are_monitored(self) -> bool:
        return any("route" in monitor.kinds for monitor in self.monitors)

    def _tell(self, kind: str, action: str, info: Any) -> None:
        self._log.append(kind, self._lines.change(kind, action, info))
        self._news.set()
        self._news = asyncio.Event()

    def _poll(self) -> None:
        """Neighbours and interfaces are few: all of them, at once."""
        self._polled = time.monotonic()
        self._lines.learn()
        for kind, infos in (("interface", self._answers.interfaces()), ("neighbour", self._answers.neighbours())):
            for action, info in self._deltas.compare(kind, None, infos):
                if self.monitors:
                    self._tell(kind, action, info)

    async def _follow(self) -> None:
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._touched.wait(), _POLL_S)
                await asyncio.sleep(_GATHER_S)
                self._touched.clear()
                if time.monotonic() - self._polled >= _POLL_S:
                    self._poll()
                pending, self._pending = self._pending, {}
                await self._walk(map(self._compare, pending))
        except Exception as error:
            self._complain(f"control socket: a fault in via6, please report it: {error!r}")

    def _compare(self, prefix: Prefix) -> None:
        for action, info in self._deltas.compare("route", prefix, self._answers.routes_of(prefix)):
            self._tell("route", action, info)
