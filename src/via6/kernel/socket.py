"""A netlink socket: who sent it, how large its buffers are, and never a wait without a deadline."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
import time
from collections.abc import Iterator
from typing import Final

from via6.errors import Refusal

SOL_NETLINK: Final = 270
NETLINK_ADD_MEMBERSHIP: Final = 1
NETLINK_EXT_ACK: Final = 11
NETLINK_GET_STRICT_CHK: Final = 12
SO_ATTACH_FILTER: Final = 26
SO_SNDBUFFORCE: Final = 32
SO_RCVBUFFORCE: Final = 33

DATAGRAM: Final = 96 << 10
"""The kernel's dumps use at most 32 KiB; the longest attribute of a single reply has 64 KiB. From 128 KiB on malloc
maps and unmaps a buffer for each call, which takes ten times as long as to receive a notification."""
DEADLINE_S: Final = 10.0


class NetlinkSocket:
    """NETLINK_ROUTE. `receive` raises OSError(ENOBUFS) after an overrun and TimeoutError at its deadline."""

    def __init__(self, receive_buffer: int = 8 << 20, send_buffer: int = 1 << 20) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        except OSError as error:
            raise Refusal(f"no netlink socket: {error.strerror}", "this system forbids AF_NETLINK here") from None
        for option in (NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
            with contextlib.suppress(OSError):  # from 4.12 and 4.20; without them texts and filters are coarser
                self._socket.setsockopt(SOL_NETLINK, option, 1)
        for force, plain, size in (
            (SO_RCVBUFFORCE, socket.SO_RCVBUF, receive_buffer),
            (SO_SNDBUFFORCE, socket.SO_SNDBUF, send_buffer),
        ):
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, force, size)
            except OSError:
                self._socket.setsockopt(socket.SOL_SOCKET, plain, size)
        self._socket.bind((0, 0))
        self.portid: int = self._socket.getsockname()[0]

    @property
    def receive_buffer(self) -> int:
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

    @property
    def send_buffer(self) -> int:
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def join(self, group: int) -> None:
        """Subscribes to a multicast group; a group that this kernel does not know is left out."""
        with contextlib.suppress(OSError):
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)

    def ignore(self, portid: int) -> None:
        """Lets the kernel drop notifications of what the socket `portid` did itself: a burst of a million routes
        must not come back as a million notifications. Classic BPF on nlmsg_pid at offset 12 (linux/filter.h)."""
        seen = int.from_bytes(struct.pack("=I", portid), "big")  # BPF loads in network order
        code = b"".join(
            struct.pack("=HBBI", *row)
            for row in ((0x20, 0, 0, 12), (0x15, 0, 1, seen), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
        )
        program = ctypes.create_string_buffer(code)
        filter_ = struct.pack("@HP", 4, ctypes.addressof(program))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_)

    def send(self, *parts: bytes) -> None:
        """One datagram; the kernel has worked through it when this returns."""
        # More than UIO_MAXIOV (linux/uio.h) pieces are refused with EMSGSIZE.
        self._socket.sendmsg(parts if len(parts) <= 1024 else (b"".join(parts),))

    def receive(self, deadline_s: float = DEADLINE_S) -> bytes:
        """One datagram of the kernel's; those of other processes are passed over. A deadline of 0 does not wait
        (BlockingIOError; `waiting` is faster)."""
        until = time.monotonic() + deadline_s
        while True:
            self._socket.settimeout(max(until - time.monotonic(), 1e-3) if deadline_s else 0)
            data, (portid, _groups) = self._socket.recvfrom(DATAGRAM)
            if portid == 0:
                return data
            if deadline_s and time.monotonic() > until:  # somebody floods us
                raise TimeoutError

    def waiting(self, most: int) -> Iterator[bytes]:
        """The kernel's datagrams that are there, at most so many."""
        self._socket.settimeout(0)
        receive = self._socket.recvfrom
        for _ in range(most):
            try:
                data, (portid, _groups) = receive(DATAGRAM)
            except BlockingIOError:
                return
            if portid == 0:
                yield data

    def drain(self) -> None:
        """Throws away what waits, so that the next answer is an answer to the next question. Bounded."""
        for _ in range(1 << 16):
            try:
                for _ in self.waiting(1 << 16):
                    pass
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise


def words(number: int, text: str = "") -> str:
    """The kernel's own words where it gave some, else the C library's and the errno's name."""
    return text or f"{os.strerror(number)} ({errno.errorcode.get(number, number)})"
