"""The UDP sockets of questions and answers, one for each family: all interfaces of the network namespace.

The kernel says with each datagram where it came in, for which address and with what hop limit, and takes device and
source with each that leaves. A next hop on which nobody listens says so with an ICMP error, which spares the wait for
its silence.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator
from typing import Final

from via6.errors import Refusal
from via6.observe.trace.node import Arrival, Send
from via6.observe.trace.wire import HOP_LIMIT, LONGEST
from via6.prefix import Address, format_address

BATCH: Final = 64

_BUFFER: Final = 256 << 10
_INT: Final = struct.Struct("=i")
_CONTROL: Final = socket.CMSG_SPACE(20) + 2 * socket.CMSG_SPACE(4) + socket.CMSG_SPACE(64)
_FULL: Final = (errno.EAGAIN, errno.EWOULDBLOCK)
_UNREACHED: Final = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EPROTO)
_TRIES: Final = 16

# linux/in.h, linux/in6.h; Python has no names for these.
_IP_PKTINFO: Final = 8
_IP_RECVERR: Final = 11
_IP_RECVTTL: Final = 12
_IPV6_RECVERR: Final = 25
_INFO4: Final = struct.Struct("=I4s4s")  # in_pktinfo: device, address of ours, destination of the packet
_INFO6: Final = struct.Struct("=16sI")  # in6_pktinfo


class Sockets:
    """Both, on one port; 0 is any. Where the kernel has no IPv6, IPv4 alone. Raises Refusal."""

    def __init__(self, port: int) -> None:
        self._open: dict[int, socket.socket] = {}
        for _ in range(_TRIES):  # a port that is free for one family may be taken for the other
            try:
                self._bind(port)
                return
            except OSError as error:
                self.close()
                why = error
                if port:
                    break
        raise Refusal(
            f"UDP port {port}, where traces are asked for, cannot be had: {why.strerror}",
            f"`ss -lunp sport = :{port}` names the program that has it",
        )

    def _bind(self, port: int) -> None:
        with contextlib.suppress(OSError):
            self._open[16] = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._open[4] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        for size, sock in self._open.items():
            _prepare(sock, size)
            sock.bind(("::" if size == 16 else "", port))
            port = sock.getsockname()[1]
        self.port = port

    def close(self) -> None:
        for sock in self._open.values():
            sock.close()
        self._open.clear()

    def filenos(self) -> list[int]:
        return [sock.fileno() for sock in self._open.values()]

    # --- receiving -------------------------------------------------------------------------------------------------

    def read(self) -> tuple[list[Arrival], list[tuple[int, Address]]]:
        """What has come in, and who has said that nobody listens there: (device or 0, address)."""
        arrivals: list[Arrival] = []
        refused: list[tuple[int, Address]] = []
        for size, sock in self._open.items():
            for _ in range(BATCH):
                try:
                    data, control, _flags, name = sock.recvmsg(LONGEST + 1, _CONTROL)
                except OSError as error:
                    if error.errno in _FULL:
                        break
                    refused += _errors(sock, size)
                    continue
                ifindex, hop_limit, destination = _where(control, size)
                arrivals.append(Arrival(ifindex, _packed(name[0], size), name[1], destination, hop_limit, data))
        return arrivals, refused

    # --- sending ---------------------------------------------------------------------------------------------------

    def send(self, send: Send) -> list[tuple[int, Address]]:
        """A datagram that does not leave is a lost one. Who has refused meanwhile, as `read` says it."""
        refused: list[tuple[int, Address]] = []
        sock = self._open.get(len(send.destination))
        if sock is None:
            return refused
        text = format_address(send.destination)
        to: tuple[str, int] | tuple[str, int, int, int] = (text, send.port)
        if len(send.destination) == 4:
            info = (socket.IPPROTO_IP, _IP_PKTINFO, _INFO4.pack(send.ifindex, send.source, bytes(4)))
        else:
            info = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _INFO6.pack(send.source, send.ifindex))
            to = (text, send.port, 0, send.ifindex)
        for _ in range(2):  # an ICMP error that has come meanwhile is told in place of sending
            try:
                sock.sendmsg((send.data,), (info,), 0, to)
            except OSError as error:
                if error.errno not in _UNREACHED:
                    break
                refused += _errors(sock, len(send.destination))
            else:
                break
        return refused


def _prepare(sock: socket.socket, size: int) -> None:
    sock.setblocking(False)
    level = socket.IPPROTO_IP
    options = [(_IP_PKTINFO, 1), (_IP_RECVTTL, 1), (socket.IP_TTL, HOP_LIMIT), (_IP_RECVERR, 1)]
    if size == 16:
        level = socket.IPPROTO_IPV6
        options = [
            (socket.IPV6_V6ONLY, 1), (socket.IPV6_RECVPKTINFO, 1), (socket.IPV6_RECVHOPLIMIT, 1),
            (socket.IPV6_UNICAST_HOPS, HOP_LIMIT), (_IPV6_RECVERR, 1),
        ]  # fmt: skip
    for option, value in options:
        sock.setsockopt(level, option, value)
    for kind in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, kind, _BUFFER)


def _packed(host: str, size: int) -> Address:
    return socket.inet_pton(socket.AF_INET6 if size == 16 else socket.AF_INET, host.partition("%")[0])


def _where(control: list[tuple[int, int, bytes]], size: int) -> tuple[int, int, Address]:
    """(device, hop limit, address that it was sent to)"""
    ifindex, hop_limit, destination = 0, -1, bytes(size)
    for level, kind, data in control:
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO) and len(data) == _INFO6.size:
            destination, ifindex = _INFO6.unpack(data)
        elif (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO) and len(data) == _INFO4.size:
            ifindex, _, destination = _INFO4.unpack(data)
        elif (level, kind) in ((socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT), (socket.IPPROTO_IP, socket.IP_TTL)):
            (hop_limit,) = _INT.unpack(data)
    return ifindex, hop_limit, destination


def _errors(sock: socket.socket, size: int) -> Iterator[tuple[int, Address]]:
    """What next hops have said against our questions: only that nobody listens is of interest."""
    wanted = (socket.IPPROTO_IPV6, _IPV6_RECVERR) if size == 16 else (socket.IPPROTO_IP, _IP_RECVERR)
    for _ in range(BATCH):
        try:
            _data, control, _flags, name = sock.recvmsg(LONGEST, 1024, socket.MSG_ERRQUEUE)
        except OSError:
            return
        for level, kind, data in control:
            # struct sock_extended_err: errno first.
            if (level, kind) == wanted and len(data) >= 4 and _INT.unpack_from(data)[0] == errno.ECONNREFUSED and name:
                yield (name[3] if size == 16 else 0), _packed(name[0], size)
