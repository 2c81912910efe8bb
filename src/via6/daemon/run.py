"""The daemon: makes the declared routes so and keeps them so.

One event loop, three inputs: notifications of the kernel, signals, and the time at which something that failed is to
be tried again. Each ends in `_settle`, which carries the engine's plans to the kernel until there is nothing to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from via6.config import Config
from via6.daemon.lock import FibLock
from via6.engine import NEEDED_PARTS, Engine
from via6.errors import FAILED, OK, Refusal
from via6.kernel.linux import LinuxKernel, release
from via6.kernel.pump import pump
from via6.prefix import format_address
from via6.static import Unmet

_TOLD: Final = 20
"""Lines of one kind at a time; the rest is counted."""

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

    def __init__(self, config: Config, load: Callable[[], Config], lock: FibLock, *, keep: bool) -> None:
        self._load = load
        self._lock = lock
        self._keep = keep
        self._kernel = LinuxKernel()
        self._watch = self._kernel.watch()
        # The watch is open before the dump: what happens in between is told twice rather than never.
        self._engine = Engine(config.routes, self._kernel.dump(NEEDED_PARTS), objects=release() >= OBJECTS_FROM)
        self._timer: asyncio.TimerHandle | None = None
        self._told: set[str] = set()
        self._stopped: asyncio.Event | None = None
        self._code = OK

    def close(self) -> None:
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
        self._guarded(self._settle)
        if not self._stopped.is_set():
            log(f"ready: {self._summary()}")
            notify(f"READY=1\nSTATUS={self._summary()}")
        await self._stopped.wait()
        notify("STOPPING=1")
        loop.remove_reader(self._watch.fileno())
        loop.remove_reader(self._lock.fileno())
        if self._timer:
            self._timer.cancel()
        if self._keep:
            log("leaving; the routes stay")
        else:
            self._engine.leave()
            pump(self._engine.fib, self._kernel, time.monotonic)
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

    def _on_events(self) -> None:
        self._engine.observe(self._watch.read(), time.monotonic())
        self._settle()

    def _settle(self) -> None:
        if self._engine.stale:
            self._engine.synchronise(self._kernel.dump(NEEDED_PARTS))
        pump(self._engine.fib, self._kernel, time.monotonic)
        self._report()
        if self._timer:
            self._timer.cancel()
            self._timer = None
        now = time.monotonic()
        at = now + 1.0 if self._engine.fib.needs_dump else self._engine.fib.next_at(now)
        if at < now + 1e6:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(at - now, 0.01), self._guarded, self._settle)

    def _reload(self) -> None:
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            config = self._load()
        except Refusal as refusal:
            log(f"reload refused, the old configuration stays in force: {refusal}")
        else:
            self._engine.reload(config.routes)
            self._guarded(self._settle)
            log(f"reloaded: {self._summary()}")
        notify(f"READY=1\nSTATUS={self._summary()}")

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


def serve(config: Config, load: Callable[[], Config], lock: FibLock, *, keep: bool) -> int:
    """Runs the daemon in this network namespace; the exit code."""
    daemon = Daemon(config, load, lock, keep=keep)
    try:
        return asyncio.run(daemon.run())
    finally:
        daemon.close()
