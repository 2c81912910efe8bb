"""The daemon: makes the declared routes so and keeps them so.

One event loop, three inputs: notifications of the kernel, signals, and the time at which something that failed is to
be tried again. Each ends in `_settle`, which carries the engine's plans to the kernel until there is nothing to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from via6.config import Config
from via6.daemon.lock import FibLock
from via6.daemon.sysctl import Sysctls
from via6.engine import NEEDED_PARTS, Engine
from via6.errors import FAILED, OK, Refusal
from via6.kernel.linux import LinuxKernel, release
from via6.kernel.pump import pump
from via6.prefix import format_address
from via6.static import Unmet

if TYPE_CHECKING:
    from via6.daemon.babel import Babel
    from via6.daemon.control import Server
    from via6.daemon.tracing import Tracing
    from via6.model import Snapshot

_TOLD: Final = 20
"""Lines of one kind at a time; the rest is counted."""

_GOODBYE_S: Final = 0.3
"""Between the retraction and the end of the routes."""
_QUIET_S: Final = 0.03
_STALE_S: Final = 0.5
"""After notifications were lost a dump is taken when none have come for so long, or at the latest then."""
_REPORT_S: Final = 1.0  # a busy speaker does not look for troubles after every packet

OBJECTS_FROM: Final = (5, 3)


def notify(state: str) -> None:
    """Tells systemd (sd_notify(3)); nothing where there is none."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        try:
            out.connect("\0" + path[1:] if path.startswith("@") else path)
            out.send(state.encode())
        except OSError as error:
            log(f"systemd could not be told: {error.strerror}")


def log(text: str) -> None:
    """One line for the journal, or for the terminal; if that is gone, the routes matter more."""
    with contextlib.suppress(OSError, ValueError):
        print(f"via6: {text}", file=sys.stderr, flush=True)


def describe(unmet: Unmet) -> str:
    """One line: the route, or how many, and why it cannot be followed."""
    first = unmet.specs[0]
    more = f" and {len(unmet.specs) - 1} more" if len(unmet.specs) > 1 else ""
    what = "one next hop is missing" if unmet.partial else "waits"
    return f"{first.place}: {first.to}{more} {what}: {unmet.reason.text}"


class Daemon:
    """`load` reads the configuration again, for SIGHUP; it raises Refusal and then the old one stays in force."""

    def __init__(
        self,
        config: Config,
        load: Callable[[], Config],
        lock: FibLock,
        *,
        keep: bool,
        sysctls: Sysctls | None = None,
        file: str = "",
    ) -> None:
        self._config = config
        self._load = load
        self._lock = lock
        self._keep = keep
        self._file = file
        self._sysctls = sysctls or Sysctls()
        if self._sysctls.problem:
            log(self._sysctls.problem)
        self._speaks = config.babel is not None
        self._parts = NEEDED_PARTS | ({"neighbours"} if self._speaks else frozenset())
        self._kernel = LinuxKernel()
        self._watch = self._kernel.watch(neighbours=self._speaks)
        # The watch is open before the dump: what happens in between is told twice rather than never.
        snapshot = self._kernel.dump(self._parts)
        others = ("babel",) if self._speaks else ()
        self._engine = Engine(config.routes, snapshot, objects=release() >= OBJECTS_FROM, others=others)
        self._babel = self._begin_babel(config, snapshot)
        self._server: Server | None = None
        self._tracing: Tracing | None = None
        self._report_at = 0.0
        self._event_at = self._stale_at = 0.0
        self._nft = -1
        self._timer: asyncio.TimerHandle | None = None
        self._told: set[str] = set()
        self._stopped: asyncio.Event | None = None
        self._code = OK

    def _begin_babel(self, config: Config, snapshot: Snapshot) -> Babel | None:
        if not self._speaks:
            return None
        from via6.daemon.babel import Babel

        return Babel(config, self._engine, self._kernel, snapshot, self._sysctls, log)

    def close(self) -> None:
        if self._tracing:
            self._tracing.close()
        if self._babel:
            self._babel.close()
        self._watch.close()
        self._kernel.close()

    async def run(self) -> int:
        """Until SIGTERM or SIGINT; the exit code."""
        loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopped.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        loop.set_exception_handler(self._broken)
        loop.add_reader(self._watch.fileno(), self._guarded, self._on_events)
        loop.add_reader(self._lock.fileno(), self._lock.drain)
        await self._listen()
        self._guarded(self._settle)
        self._trace()
        if not self._stopped.is_set():
            log(f"ready: {self._summary()}")
            notify(f"READY=1\nSTATUS={self._summary()}")
        gc.freeze()
        await self._stopped.wait()
        notify("STOPPING=1")
        await self._end_babel()
        loop.remove_reader(self._watch.fileno())
        loop.remove_reader(self._lock.fileno())
        if self._timer:
            self._timer.cancel()
        if self._keep:
            log("leaving; the routes stay")
        else:
            self._engine.leave()
            pump(self._engine.fib, self._kernel, time.monotonic)
            if self._babel:
                self._babel.leave()
            log("leaving; the routes are removed")
        return self._code

    def _guarded(self, work: Callable[[], None]) -> None:
        """A kernel that refuses altogether (no privilege any more, no socket) ends the daemon with its words."""
        try:
            work()
        except Refusal as refusal:
            self._give_up(str(refusal))

    def _broken(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A fault of our own: what we believe may be wrong, so a fresh start (systemd makes one) is better than to
        go on. The routes stay and are adopted then."""
        self._give_up(f"a fault in via6, please report it: {context.get('exception') or context['message']!r}")

    def _give_up(self, why: str) -> None:
        log(why)
        self._code = FAILED
        self._keep = True
        assert self._stopped is not None
        self._stopped.set()

    async def _listen(self) -> None:
        """The control socket, and Babel's own."""
        from via6.daemon.answers import AnswersOf
        from via6.daemon.control import Server

        loop = asyncio.get_running_loop()
        answers = AnswersOf(self._engine, self._babel, self._sysctls, self._file)
        self._server = Server(None, answers, subscribe=self._watched, complain=log)
        for line in await self._server.start():
            log(line)
        if self._babel:
            loop.add_reader(self._babel.socket.fileno(), self._guarded, self._on_packets)

    def _trace(self) -> None:
        """Answers questions for the way of packets: after the first Hellos, for it takes a moment to load."""
        from via6.daemon.tracing import Tracing

        self._tracing = Tracing(self._config, self._engine, self._babel, log)
        if self._server:
            self._server.tracer = self._tracing.tracer

    def _watched(self, somebody: bool) -> None:
        if self._babel and self._server:
            self._babel.watch(self._server.routes_changed if somebody else None)

    def _watch_nft(self, babel: Babel) -> None:
        """nftables is watched while there is a table of ours in it."""
        loop = asyncio.get_running_loop()
        if self._nft != -1:
            loop.remove_reader(self._nft)
        self._nft = babel.nft
        if self._nft != -1:
            loop.add_reader(self._nft, self._guarded, babel.disturbed)

    async def _end_babel(self) -> None:
        """Says good-bye; what neighbours have under way to us still gets through while they turn away."""
        if self._server:
            await self._server.close()
        if self._tracing:
            self._tracing.close()
        if self._babel:
            asyncio.get_running_loop().remove_reader(self._babel.socket.fileno())
            if self._keep:
                self._babel.keep()
            else:
                self._babel.retract()
                await asyncio.sleep(_GOODBYE_S)

    def _on_events(self) -> None:
        now = time.monotonic()
        if self._engine.stale:
            self._event_at = now
            self._watch.drain()  # the dump that is to come knows all this
            self._settle()
            return
        events, now = self._watch.read(), time.monotonic()
        self._event_at = self._stale_at = now
        self._engine.observe(events, now)
        if self._babel:
            self._babel.observe(events, now)
        self._settle()

    def _on_packets(self) -> None:
        assert self._babel is not None
        self._babel.packets()
        self._settle()

    def _settle(self) -> None:
        now = time.monotonic()
        if self._engine.stale and now - self._event_at < _QUIET_S and now - self._stale_at < _STALE_S:
            # In the middle of a burst a dump would be out of date at once.
            if self._babel:
                self._babel.breathe(now)
            self._schedule(True)
            return
        if self._engine.stale:
            self._look_again()
        pump(self._engine.fib, self._kernel, time.monotonic)
        idle = self._babel.turn() if self._babel else True
        if self._babel and self._nft != self._babel.nft:
            self._watch_nft(self._babel)
        if now >= self._report_at:
            self._report_at = now + (_REPORT_S if self._babel else 0.0)
            self._report()
        self._schedule(idle)

    def _look_again(self) -> None:
        """Takes a dump. Of a million routes each step takes half a second, and neighbours must hear of us meanwhile."""
        snapshot = self._kernel.dump(self._parts)
        if self._babel:
            self._babel.breathe(time.monotonic())
        self._engine.synchronise(snapshot)
        if self._babel:
            self._babel.synchronise(snapshot, time.monotonic())
            self._babel.breathe(time.monotonic())

    def _schedule(self, idle: bool) -> None:
        """Sets the timer for what is to come."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        now = time.monotonic()
        at = now + 1.0 if self._engine.fib.needs_dump else self._engine.fib.next_at(now)
        if self._engine.stale:
            at = self._event_at + _QUIET_S
        if self._babel:
            at = min(at, self._babel.deadline(now)) if idle else now
            if self._babel.socket.wants_write:
                self._babel.socket.flush()
                at = min(at, now + 0.005) if self._babel.socket.wants_write else at
        if at < now + 1e6:
            loop = asyncio.get_running_loop()
            least = 0.0005 if self._babel else 0.01
            self._timer = loop.call_later(max(at - now, least), self._guarded, self._settle)

    def _reload(self) -> None:
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            config = self._load()
        except Refusal as refusal:
            log(f"reload refused, the old configuration stays in force: {refusal}")
        else:
            self._take(config)
        notify(f"READY=1\nSTATUS={self._summary()}")

    def _take(self, config: Config) -> None:
        if (config.babel is not None) is not self._speaks:
            log("reload refused, the old configuration stays in force: [babel] came or went; restart via6 for that")
            return
        try:
            if self._babel:
                self._babel.reload(config)
            else:
                self._engine.reload(config.routes)
        except Refusal as refusal:
            log(f"reload refused, the old configuration stays in force: {refusal}")
            return
        if self._tracing:
            self._tracing.reload(config)
        self._guarded(self._settle)
        log(f"reloaded: {self._summary()}")

    def _summary(self) -> str:
        counts = self._engine.fib.counts()
        waiting = sum(len(u.specs) for u in self._engine.unmet if not u.partial)
        words = [f"{counts.pop('installed', 0)} routes installed"]
        words += [f"{n} {phase}" for phase, n in sorted(counts.items())]
        return ", ".join(words + ([f"{waiting} waiting for their next hop"] if waiting else []))

    def _report(self) -> None:
        """Says what is new among the things that are not as they should be, and what is over."""
        self._tell(self._troubles())

    def _troubles(self) -> Iterable[str]:
        for unmet in self._engine.unmet:
            yield describe(unmet)
        for status in self._engine.fib.troubles():
            if status.phase == "failed":
                hops = status.wanted.next_hops if status.wanted else ()
                via = f" via {format_address(hops[0].via)}" if hops and hops[0].via else ""
                yield f"{status.prefix}{via} failed: {status.text}"

    def _tell(self, troubles: Iterable[str]) -> None:
        now: set[str] = set()
        fresh = 0
        for text in troubles:
            if len(now) >= 10_000:  # what is remembered of a table of failures is bounded
                break
            if text in now:
                continue
            now.add(text)
            if text not in self._told:
                fresh += 1
                if fresh <= _TOLD:
                    log(text)
        if fresh > _TOLD:
            log(f"… and {fresh - _TOLD} more of these")
        over = self._told - now
        for text in sorted(over)[:_TOLD]:
            log(f"over: {text}")
        self._told = now


def serve(
    config: Config,
    load: Callable[[], Config],
    lock: FibLock,
    *,
    keep: bool,
    sysctls: Sysctls | None = None,
    file: str = "",
) -> int:
    """Runs the daemon in this network namespace; the exit code. `file` is for people: where the configuration is."""
    # A large table is a million small objects that stay: looking through them again and again for cycles costs more
    # than the few cycles there are.
    gc.set_threshold(50_000, 20, 100)
    daemon = Daemon(config, load, lock, keep=keep, sysctls=sysctls, file=file)
    try:
        return asyncio.run(daemon.run())
    finally:
        daemon.close()
