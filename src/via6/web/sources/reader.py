"""One network namespace, read and then watched.

The first reading takes the tables and the sysctls, which is a matter of milliseconds; the packet filter, WireGuard and
the Babel daemon are asked later, for that starts programs. From then on the kernel tells what changes: links at once,
and what else it touches is read again a moment later. A node whose tables are large is read less often: no sooner than
ten times as long as it took.

Sockets belong to the namespace that they were made in, so the loop waits for all of them; only the reading itself moves
a thread (setns(2)), one of a pool that does nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final, TypeVar

from via6.collect import snapshot_local
from via6.daemon.client import ask, connect
from via6.errors import Refusal
from via6.kernel.linux import LinuxKernel
from via6.kernel.netns import setns
from via6.kernel.socket import NetlinkSocket
from via6.model import PARTS, Change, KernelEvent, Link, RouteBlock, RouteTable, Snapshot
from via6.observe.names import Names
from via6.observe.node import Node
from via6.prefix import AF_INET
from via6.web import changes
from via6.web.changes import Entry
from via6.web.sources import Sink
from via6.web.sources.follow import Follower

T = TypeVar("T")

GATHER_S: Final = 0.06
"""Changes of this time are read together."""
DAEMON_S: Final = 0.1
"""The same for what the daemon tells."""
_SHARE: Final = 10
_NETLINK_NETFILTER: Final = 12  # linux/netlink.h
_NFNLGRP_NFTABLES: Final = 7  # linux/netfilter/nfnetlink.h
_NETCONF4, _NETCONF6 = 24, 25  # RTNLGRP_IPV4_NETCONF, RTNLGRP_IPV6_NETCONF
_LATER: Final = "it has not been asked yet"
_FIELDS: Final = ("links", "addresses", "rules", "nexthops", "neighbours")
_RETRY_S: Final = 2.0

SYSCTLS: Final = "sysctls"
FILTERS: Final = "firewall"
BABEL: Final = "babel"


def over(held: Snapshot, new: Snapshot, parts: Iterable[str]) -> Snapshot:
    """`held` with these parts replaced."""
    wanted = frozenset(parts)
    fields: dict[str, Any] = {name: getattr(new, name) for name in _FIELDS if name in wanted}
    families = {family for part, family in (("routes4", True), ("routes6", False)) if part in wanted}
    if families:
        kept: list[RouteBlock] = [b for b in held.routes.blocks if (b.template.family == AF_INET) not in families]
        fields["routes"] = RouteTable((*kept, *new.routes.blocks))
    return replace(held, **fields, parts=held.parts | wanted)


def show(kind: str) -> list[Any]:
    """What the daemon of this thread's network namespace says."""
    return [json.loads(line) for lines in ask({"show": kind}) for line in lines]


class Reader:
    """A node. `place` is the path of its network namespace, empty for the one we are in. All methods but those that
    begin with `_work` are for the loop."""

    def __init__(self, name: str, place: str, sink: Sink, pool: ThreadPoolExecutor, names: Names) -> None:
        self.name = name
        self.place = place
        self.node: Node | None = None
        self.inode = 0
        self._sink = sink
        self._pool = pool
        self._names = names
        self._loop = asyncio.get_running_loop()
        self._kernel: LinuxKernel | None = None
        self._watched: list[tuple[int, Callable[[], None]]] = []
        self._closers: list[Callable[[], None]] = []
        self._wanted: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._busy = False
        self._pause_s = 0.0
        self._links: list[Change] = []  # told while a reading was under way
        self._open = False
        self._daemon = Follower(pool, self._work_dial, lambda: self.want(BABEL, delay_s=DAEMON_S), self._daemon_news)

    # --- life ------------------------------------------------------------------------------------------------------

    async def open(self) -> Node:
        """Makes the sockets and reads what is quick to read. Raises Refusal."""
        node = await self._loop.run_in_executor(self._pool, self._work_open)
        self._open = True
        for number, handler in self._watched:
            self._loop.add_reader(number, handler)
        self.node = node
        return node

    def close(self) -> None:
        """Lets go of the namespace; what is being read just now is thrown away."""
        self._open = False
        self._daemon.end()
        if self._timer is not None:
            self._timer.cancel()
        for number, _ in self._watched:
            self._loop.remove_reader(number)
        if not self._busy:
            self._work_close()

    async def at(self, work: Callable[[], T]) -> T:
        """The result of some work in this network namespace."""

        def there() -> T:
            self._work_enter()
            return work()

        return await self._loop.run_in_executor(self._pool, there)

    def want(self, *parts: str, delay_s: float = GATHER_S) -> None:
        """Reads these parts again, soon."""
        self._wanted.update(parts)
        if self._open and not self._busy and self._timer is None:
            self._timer = self._loop.call_later(max(delay_s, self._pause_s), self._start)

    def _start(self) -> None:
        self._timer = None
        if not self._open or self._busy or not self._wanted or self.node is None:
            return
        wanted, self._wanted = frozenset(self._wanted), set()
        self._busy = True
        self._links.clear()
        self._pool.submit(self._work, self.node, wanted)

    def _tell(self, node: Node, difference: changes.Difference) -> None:
        if not self._open:
            return
        for change in self._links:  # they came after the reading had begun, so they are newer
            node = patched(node, change)
        self.node = node
        self._sink.put(node, difference)
        if node.babel is not None:
            self._daemon.begin()

    def _daemon_news(self, back: bool) -> None:
        if self._open:
            self._sink.note(self.name, Entry("neighbour", f"the daemon is {'back' if back else 'gone'}", back))
            self.want(BABEL)

    def _done(self, took_s: float, failure: str) -> None:
        self._busy = False
        self._pause_s = min(took_s * _SHARE, 30.0) if took_s > GATHER_S / _SHARE else 0.0
        if not self._open:
            self._work_close()
            return
        if failure:
            self._sink.lost(self.name, failure)
            self.want(*PARTS, delay_s=_RETRY_S)
        elif self._wanted:
            self.want(*self._wanted)
        elif self._daemon.had and self.node is not None and self.node.babel is None:
            self.want(BABEL, delay_s=_RETRY_S)

    # --- what the kernel tells -------------------------------------------------------------------------------------

    def _told(self, read: Callable[[], list[KernelEvent]]) -> None:
        try:
            events = read()
        except OSError as error:
            self._sink.lost(self.name, f"its kernel does not answer: {error.strerror or error}")
            return
        node = self.node
        if node is None:
            return
        for event in events:
            self._wanted |= snapshot_local.touched(event)
            if isinstance(event, Change) and isinstance(event.object, Link):
                node = patched(node, event)
                if self._busy:
                    self._links.append(event)
        if node is not self.node and self.node is not None:
            difference = changes.between(self.node, node, self._names)
            self.node = node
            self._sink.put(node, difference)
        if self._wanted:
            self.want()

    def _told_more(self, sock: socket.socket, part: str) -> None:
        """Something of another kind has changed; what, a reading will tell."""
        for _ in range(4096):
            try:
                sock.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    break
        self.want(part, delay_s=0.2)

    # --- work of a thread of the pool ------------------------------------------------------------------------------

    def _work_enter(self) -> None:
        if not self.place:
            return
        try:
            descriptor = os.open(self.place, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise Refusal(f"{self.name}: {self.place}: {error.strerror}", "is the lab up?") from None
        try:
            inode = os.fstat(descriptor).st_ino
            if self.inode not in (0, inode):
                raise Refusal(f"{self.name} has been made anew")
            self.inode = inode
            setns(descriptor)
        except OSError as error:
            raise Refusal(f"cannot enter {self.place}: {error.strerror}", "run it as root") from None
        finally:
            os.close(descriptor)

    def _work_dial(self) -> socket.socket:
        self._work_enter()
        return connect()

    def _work_open(self) -> Node:
        self._work_enter()
        try:
            kernel = LinuxKernel(receive_buffer=4 << 20)
            self._closers.append(kernel.close)
            watch = kernel.watch()
            self._closers.append(watch.close)
            self._watched.append((watch.fileno(), lambda: self._told(watch.read)))
            self._work_listen()
            self._kernel = kernel
            now = time.time()
            snapshot = kernel.dump(PARTS)
            found = snapshot_local.sysctls()
        except BaseException:
            self._work_close()
            raise
        unread = dict.fromkeys((FILTERS, "wireguard", BABEL), _LATER)
        times = dict.fromkeys((*PARTS, SYSCTLS), now)
        return Node(self.name, snapshot, found, unread=unread, times=times, release=os.uname().release)

    def _work_listen(self) -> None:
        """Sockets that tell of sysctls and of nftables, as far as the kernel lets us."""
        with contextlib.suppress(OSError, Refusal):
            conf = NetlinkSocket(1 << 18)
            self._closers.append(conf.close)
            for group in (_NETCONF4, _NETCONF6):
                conf.join(group)
            plain = socket.socket(fileno=os.dup(conf.fileno()))
            plain.setblocking(False)
            self._closers.append(plain.close)
            self._watched.append((plain.fileno(), lambda: self._told_more(plain, SYSCTLS)))
        with contextlib.suppress(OSError):
            filters = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
            self._closers.append(filters.close)
            filters.setblocking(False)
            filters.bind((0, 1 << (_NFNLGRP_NFTABLES - 1)))
            self._watched.append((filters.fileno(), lambda: self._told_more(filters, FILTERS)))

    def _work_close(self) -> None:
        for close in reversed(self._closers):
            with contextlib.suppress(OSError):
                close()
        self._closers.clear()
        self._watched.clear()
        self._kernel = None

    def _work(self, node: Node, wanted: frozenset[str]) -> None:
        began = time.monotonic()
        failure = ""
        try:
            self._work_enter()
            self._work_read(node, wanted)
        except Refusal as refusal:
            failure = refusal.message
        except Exception as error:  # a thread has nobody to tell
            failure = f"{type(error).__name__}: {error}"
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._done, time.monotonic() - began, failure)

    def _work_read(self, node: Node, wanted: frozenset[str]) -> None:
        kernel = self._kernel
        if kernel is None:
            return
        now = time.time()
        if FILTERS in wanted:  # as `via6 snapshot` reads it
            told = snapshot_local.read(self.name, kernel, show)
            self._work_tell(node, told)
            return
        parts = wanted & PARTS
        new = node
        if parts:
            parts |= {"neighbours", "nexthops"}
            held = over(node.kernel, kernel.dump(parts), parts)
            new = replace(new, kernel=held, times={**new.times, **dict.fromkeys(parts, now)})
        if SYSCTLS in wanted or "links" in wanted:
            new = replace(new, sysctls=snapshot_local.sysctls(), times={**new.times, SYSCTLS: now})
        self._work_tell(node, new)
        if parts & {"routes4", "routes6", "links", "addresses"} or BABEL in wanted:
            babel, why = snapshot_local._babel(show, new.kernel)
            unread = {part: said for part, said in new.unread.items() if part != BABEL}
            last = replace(new, babel=babel, unread=unread | ({BABEL: why} if why else {}))
            if last.babel != new.babel or last.unread != new.unread:
                self._work_tell(new, replace(last, times={**last.times, BABEL: time.time()}))

    def _work_tell(self, old: Node, new: Node) -> None:
        difference = changes.between(old, new, self._names)
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._tell, new, difference)


def patched(node: Node, change: Change) -> Node:
    """The node with one link as a notification says."""
    link = change.object
    if not isinstance(link, Link):
        return node
    others = tuple(one for one in node.kernel.links if one.ifindex != link.ifindex)
    if change.gone:
        return replace(node, kernel=replace(node.kernel, links=others))
    before = node.kernel.by_index.get(link.ifindex)
    if before == link:
        return node
    if before is not None:  # in its place, so that nothing seems to have moved
        links = tuple(link if one.ifindex == link.ifindex else one for one in node.kernel.links)
    else:
        links = (*others, link)
    return replace(node, kernel=replace(node.kernel, links=links))
