"""The wire of the Babel speaker: one UDP socket for all its interfaces (RFC 8966 section 4).

Babel's packets go between link-local addresses, from port 6696 to port 6696, with hop limit 1, to ff02::1:6 or to one
neighbour. One socket serves every link: the kernel says with each datagram where it came in and for which address
(IPV6_PKTINFO), and takes the same for one that leaves, so that the source is the very address that the MAC of
RFC 8967 is computed over, even where an interface has several.

What the network does to us is no exception here but a number: a link that is gone, a full queue, a firewall. Babel
repeats itself and mends a loss. A full send buffer is another matter, for it empties: what did not fit waits, in
order and bounded, until the socket is writable.

The receive buffer is raised to what a neighbour with a full table sends in one go: 100,000 prefixes are some 2 MB of
packets. A privileged process may pass the system's limit (socket(7), SO_RCVBUFFORCE), so nothing must be configured.
What the kernel still has to drop, it counts (SO_RXQ_OVFL).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections import deque
from pathlib import Path
from typing import Final

from via6.babel.model import GROUP, PORT, Arrival, Datagram
from via6.errors import Refusal
from via6.prefix import Address

RECEIVE_BUFFER: Final = 16 << 20
SEND_BUFFER: Final = 4 << 20
"""Shared by all links. A datagram for a neighbour that does not answer ND takes its room for three seconds."""
QUEUE: Final = 4096
BATCH: Final = 64

_SO_RXQ_OVFL: Final = 40  # asm-generic/socket.h
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
_CS6: Final = 0xC0  # network control, RFC 2474
_PRIORITY: Final = 6  # the first band of pfifo_fast; 7 would need a privilege
_PKTINFO: Final = struct.Struct("=16sI")  # struct in6_pktinfo
_GROUP_REQUEST: Final = struct.Struct("=16sI")  # struct ipv6_mreq
_WORD: Final = struct.Struct("=I")
_INT: Final = struct.Struct("=i")
_CONTROL: Final = socket.CMSG_SPACE(20) + 2 * socket.CMSG_SPACE(4)
_LARGEST: Final = 65536
_UNSPECIFIED: Final = bytes(16)
_FULL: Final = (errno.EAGAIN, errno.EWOULDBLOCK)
_GROUP_TEXT: Final = GROUP.hex()  # as /proc/net/igmp6 writes it


class BabelSocket:
    """UDP `port` of every interface of this network namespace. Raises Refusal when another program has it.

    `drops` counts datagrams that the kernel dropped because the receive buffer was full, `foreign` those that came in
    on an interface that is not joined, `counters` what failed, by the name of the errno (and queue-full).
    `wants_write`: call `flush` when the socket is writable.
    """

    def __init__(self, port: int = PORT) -> None:
        self._port = port
        self.drops = 0
        self.foreign = 0
        self.counters: dict[str, int] = {}
        self._sources: dict[int, Address] = {}
        self._memberships: dict[int, socket.socket] = {}
        self._helpers: list[socket.socket] = []
        self._queue: deque[Datagram] = deque()
        self._buffer = memoryview(bytearray(_LARGEST))
        self._socket = _open()
        try:
            self._socket.bind(("::", port))
        except OSError as error:
            self._socket.close()
            if error.errno == errno.EADDRINUSE:
                raise _taken(port) from None
            raise Refusal(f"UDP port {port}: {error.strerror}", "run it as root") from None

    def __enter__(self) -> BabelSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._queue.clear()
        for sock in (self._socket, *self._helpers):
            sock.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def receive_buffer(self) -> int:
        """In octets, as the kernel counts them (twice what was asked for, socket(7))."""
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

    @property
    def wants_write(self) -> bool:
        return bool(self._queue)

    @property
    def joined(self) -> frozenset[int]:
        """The interfaces that are listened on, by ifindex."""
        return frozenset(self._sources)

    # --- links -----------------------------------------------------------------------------------------------------

    def join(self, ifindex: int, source: Address | None = None) -> str:
        """Listens on an interface, and sends from `source` there (None: the kernel chooses). "" or what stands in the
        way. To be called again whenever the link changes: it costs little, and a membership that the kernel has
        dropped meanwhile (an MTU below 1280 takes IPv6 from an interface) is made anew."""
        if ifindex in self._memberships:
            if _is_member(ifindex):
                self._sources[ifindex] = source or _UNSPECIFIED
                return ""
            self._drop(ifindex)
        problem = self._add(ifindex)
        if problem:
            self.leave(ifindex)
        else:
            self._sources[ifindex] = source or _UNSPECIFIED
        return problem

    def leave(self, ifindex: int) -> None:
        """Listens there no longer; what waits to be sent there is dropped. Also for an interface that is gone."""
        self._sources.pop(ifindex, None)
        self._drop(ifindex)
        if any(d.ifindex == ifindex for d in self._queue):
            self._queue = deque(d for d in self._queue if d.ifindex != ifindex)

    def _add(self, ifindex: int) -> str:
        # The kernel bounds the memberships of a socket (net.core.optmem_max: some 300 by default before 6.7). One
        # more socket may hold more: a group that the host has joined is heard by every socket bound to the port.
        request = _GROUP_REQUEST.pack(GROUP, ifindex)
        number = 0
        for helper in (self._socket, *self._helpers, None):
            if helper is None:
                helper = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                self._helpers.append(helper)
            try:
                helper.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
            except OSError as error:
                number = error.errno or errno.EIO
                if number in (errno.ENOBUFS, errno.ENOMEM):
                    continue
                return os.strerror(number)
            self._memberships[ifindex] = helper
            return ""
        return os.strerror(number)

    def _drop(self, ifindex: int) -> None:
        helper = self._memberships.pop(ifindex, None)
        if helper is not None:
            with contextlib.suppress(OSError):  # the interface is gone
                helper.setsockopt(
                    socket.IPPROTO_IPV6, socket.IPV6_LEAVE_GROUP, _GROUP_REQUEST.pack(GROUP, ifindex)
                )  # fmt: skip

    # --- receiving -------------------------------------------------------------------------------------------------

    def receive(self, limit: int = BATCH) -> list[Arrival]:
        """What waits, at most `limit` datagrams, from joined interfaces; never blocks, never raises. Fewer than
        `limit` does not mean that nothing is left: a poll tells."""
        found: list[Arrival] = []
        for _ in range(limit):
            try:
                size, control, _flags, (host, port, _, _) = self._socket.recvmsg_into((self._buffer,), _CONTROL)
            except OSError as error:
                if error.errno not in _FULL:
                    self._count(error)
                break
            ifindex, hop_limit, destination = 0, -1, _UNSPECIFIED
            for level, kind, data in control:
                if level == socket.SOL_SOCKET:
                    if kind == _SO_RXQ_OVFL:
                        (self.drops,) = _WORD.unpack(data)
                elif kind == socket.IPV6_PKTINFO:
                    destination, ifindex = _PKTINFO.unpack(data)
                elif kind == socket.IPV6_HOPLIMIT:
                    (hop_limit,) = _INT.unpack(data)
            if ifindex not in self._sources:
                self.foreign += 1
                continue
            source = socket.inet_pton(socket.AF_INET6, host)
            found.append(Arrival(ifindex, source, bytes(self._buffer[:size]), destination, port, hop_limit))
        return found

    # --- sending ---------------------------------------------------------------------------------------------------

    def send(self, datagram: Datagram) -> bool:
        """True: it is sent, or waits until the socket is writable. False: it is lost, and `counters` knows why."""
        if not self._queue and (sent := self._try(datagram)) is not None:
            return sent
        if len(self._queue) >= QUEUE:
            self.counters["queue-full"] = self.counters.get("queue-full", 0) + 1
            return False
        self._queue.append(datagram)
        return True

    def flush(self) -> None:
        """Sends what waits, as far as the send buffer takes it."""
        while self._queue and self._try(self._queue[0]) is not None:
            self._queue.popleft()

    def _try(self, datagram: Datagram) -> bool | None:
        """None: not now."""
        source = self._sources.get(datagram.ifindex, _UNSPECIFIED)
        control = (
            (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _PKTINFO.pack(source, datagram.ifindex)),
        )  # fmt: skip
        to = (socket.inet_ntop(socket.AF_INET6, datagram.destination), self._port, 0, datagram.ifindex)
        try:
            self._socket.sendmsg((datagram.data,), control, 0, to)
        except OSError as error:
            if error.errno in _FULL:
                return None
            self._count(error)
            return False
        return True

    def _count(self, error: OSError) -> None:
        name = errno.errorcode.get(error.errno or 0, str(error.errno))
        self.counters[name] = self.counters.get(name, 0) + 1


def _open() -> socket.socket:
    try:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    except OSError as error:
        raise Refusal(f"no IPv6 socket: {error.strerror}", "boot without ipv6.disable=1") from None
    for option, value in (
        (socket.IPV6_V6ONLY, 1),
        (socket.IPV6_RECVPKTINFO, 1),
        (socket.IPV6_RECVHOPLIMIT, 1),
        (socket.IPV6_UNICAST_HOPS, 1),
        (socket.IPV6_MULTICAST_HOPS, 1),
        (socket.IPV6_MULTICAST_LOOP, 0),
        (socket.IPV6_TCLASS, _CS6),
    ):
        sock.setsockopt(socket.IPPROTO_IPV6, option, value)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, _PRIORITY)
    for force, plain, size in (
        (_SO_RCVBUFFORCE, socket.SO_RCVBUF, RECEIVE_BUFFER),
        (_SO_SNDBUFFORCE, socket.SO_SNDBUF, SEND_BUFFER),
    ):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, size)
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, plain, size)  # up to net.core.rmem_max, wmem_max
    return sock


def _is_member(ifindex: int) -> bool:
    """Whether the kernel hears the group there, as /proc/net/igmp6 tells (index, name, group, …)."""
    try:
        lines = Path("/proc/thread-self/net/igmp6").read_text().splitlines()
    except OSError:
        return True
    return any(words[:1] == [str(ifindex)] and words[2:3] == [_GROUP_TEXT] for words in map(str.split, lines))


# --- who has the port ----------------------------------------------------------------------------------------------


def _taken(port: int) -> Refusal:
    holder = _holder(port)
    if holder is None:
        return Refusal(
            f"another program has UDP port {port} here, which Babel needs", f"`ss -lunp sport = :{port}` names it"
        )
    pid, name = holder
    unit = _unit(pid)
    how = f"systemctl stop {unit}" if unit else f"kill {pid}"
    return Refusal(
        f"{name} (pid {pid}) has UDP port {port} here: there is one Babel speaker per network namespace",
        f"stop it first (`{how}`), or run via6 in another namespace (-n)",
    )


def _unit(pid: int) -> str:
    """The systemd service a process belongs to, or ''."""
    with contextlib.suppress(OSError):
        last = Path(f"/proc/{pid}/cgroup").read_text().strip().rpartition("/")[2]
        return last if last.endswith(".service") and not last.startswith("user@") else ""
    return ""


def _holder(port: int) -> tuple[int, str] | None:
    """Pid and name of the process with a UDP socket on an IPv6 port, as far as /proc may be read."""
    inodes = set()
    with contextlib.suppress(OSError):
        for line in Path("/proc/thread-self/net/udp6").read_text().splitlines()[1:]:
            words = line.split()
            if len(words) > 9 and words[1].endswith(f":{port:04X}"):
                inodes.add(f"socket:[{words[9]}]")
    for entry in Path("/proc").iterdir() if inodes else ():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if any(os.readlink(fd) in inodes for fd in (entry / "fd").iterdir()):
                    return int(entry.name), (entry / "comm").read_text().strip()
    return None
