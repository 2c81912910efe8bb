"""The sockets of a trace: how probes of one kind are sent, and how their answers are read.

A socket that reads all ICMP needs CAP_NET_RAW. Without it the kernel's error queue of the sending socket tells the
same of UDP, and of ICMP echo where `net.ipv4.ping_group_range` lets us; TCP it cannot.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Final, Protocol

from via6.errors import Refusal
from via6.observe.trace.model import ICMP, TCP, UDP, Flow
from via6.observe.trace.probe import (
    MOST,
    NOTHING,
    REACHED,
    Heard,
    build_echo,
    build_syn,
    hear,
    heard_error,
    number_of_data,
    parse_extensions,
    udp_data,
)
from via6.prefix import format_address

UDP_PORT: Final = 33434

_BUFFER: Final = 1 << 20
_IP_PKTINFO: Final = 8  # linux/in.h
_IP_RECVERR: Final = 11
_IP_RECVERR_RFC4884: Final = 26  # from Linux 5.9
_SO_TIMESTAMPNS: Final = 35  # asm-generic/socket.h
_SOL_RAW: Final = 255
_ICMP_FILTER: Final = 1  # linux/icmp.h: the types that are NOT wanted
_WANTED: Final = (0, 3, 11, 12)
_EXTENDED_ERR: Final = struct.Struct("=IBBBBIHBB")  # sock_extended_err with ee_rfc4884
_ORIGIN_ICMP: Final = 2
_PMTUDISC_DONT: Final = 0  # a probe may be fragmented
_IP_MTU_DISCOVER: Final = 10


class Wire(Protocol):
    """How probes of one kind are sent and their answers read. `flow` has its ports, `sockets` are to be polled. `oif`
    pins them to an interface (0: to none): a raw packet has no ports for the own kernel, which might choose another of
    several next hops for it than for the flow."""

    flow: Flow
    oif: int

    def sockets(self) -> list[socket.socket]: ...
    def close(self) -> None: ...
    def send(self, number: int, ttl: int) -> None: ...
    def receive(self) -> Iterator[tuple[float, Heard]]: ...


# --- sockets -------------------------------------------------------------------------------------------------------


def _prepared(sock: socket.socket) -> socket.socket:
    sock.setblocking(False)
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    return sock


def _bind(sock: socket.socket, flow: Flow, port: int = 0) -> None:
    source = format_address(flow.source) if flow.source else ""
    try:
        sock.bind((source, port))
    except OSError as error:
        raise Refusal(
            f"cannot send from {source or 'here'}: {error.strerror}", "`ip -4 address` lists the addresses of this node"
        ) from None


def _raw(protocol: int) -> socket.socket:
    return _prepared(socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol))


def _raw_icmp() -> socket.socket:
    sock = _raw(socket.IPPROTO_ICMP)
    sock.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", ~sum(1 << kind for kind in _WANTED) & 0xFFFFFFFF))
    return sock


def _with_errors(sock: socket.socket) -> socket.socket:
    """A socket of an ordinary user, with its error queue."""
    sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
    with contextlib.suppress(OSError):  # before 5.9: no extensions
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR_RFC4884, 1)
    return _prepared(sock)


def _time_of(ancillary: list[tuple[int, int, bytes]]) -> float:
    """When the kernel got it, seconds since 1970."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS) and len(data) in (8, 16):
            seconds, nanoseconds = struct.unpack("=qq" if len(data) == 16 else "=ii", data)
            return float(seconds + nanoseconds / 1e9)
    return time.time()


def _device_of(ancillary: list[tuple[int, int, bytes]]) -> int:
    """Where it came in, its ifindex (struct in_pktinfo); 0: not known."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO) and len(data) == 12:
            return int(struct.unpack_from("=i", data)[0])
    return 0


def _heard(ancillary: list[tuple[int, int, bytes]], found: Heard) -> tuple[float, Heard]:
    """(when it came, what it says) with what the kernel says of it."""
    return _time_of(ancillary), replace(found, ifindex=_device_of(ancillary))


def _send(sock: socket.socket, data: bytes, flow: Flow, ttl: int, oif: int, port: int) -> None:
    """One packet with this TTL."""
    options: list[tuple[int, int, bytes]] = [(socket.IPPROTO_IP, socket.IP_TTL, struct.pack("=i", ttl))]
    if oif:
        options.append((socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=i4s4s", oif, flow.source or bytes(4), bytes(4))))
    where = (format_address(flow.destination), port)
    try:
        sock.sendmsg([data], options, 0, where)
    except BlockingIOError:
        raise
    except OSError:  # mostly an ICMP error that came for an earlier probe; what is of this one comes again
        sock.sendmsg([data], options, 0, where)


def _read(sock: socket.socket, flow: Flow, ident: int, base: int) -> Iterator[tuple[float, Heard]]:
    while True:
        try:
            data, ancillary, _, _ = sock.recvmsg(65535, 256)
        except (BlockingIOError, InterruptedError):
            return
        found = hear(data, flow, ident, base)
        if found is not None:
            yield _heard(ancillary, found)


def _read_errors(sock: socket.socket, flow: Flow) -> Iterator[tuple[float, Heard]]:
    while True:
        try:
            data, ancillary, _, _ = sock.recvmsg(65535, 512, socket.MSG_ERRQUEUE)
        except (BlockingIOError, InterruptedError):
            return
        found = _queued(data, ancillary, flow)
        if found is not None:
            yield _heard(ancillary, found)


def _queued(data: bytes, ancillary: list[tuple[int, int, bytes]], flow: Flow) -> Heard | None:
    number = number_of_data(data, flow)
    for level, kind, octets in ancillary:
        if (level, kind) != (socket.IPPROTO_IP, _IP_RECVERR) or len(octets) < _EXTENDED_ERR.size + 8:
            continue
        _, origin, what, code, _, info, at, flags, _ = _EXTENDED_ERR.unpack_from(octets)
        offender = octets[_EXTENDED_ERR.size :]
        if origin == _ORIGIN_ICMP and number is not None:
            extensions = parse_extensions(data[at:])[0] if at and not flags else NOTHING
            return heard_error(number, what, code, info & 0xFFFF, offender[4:8], flow, extensions)
    return None


# --- wires ---------------------------------------------------------------------------------------------------------


class _Echo:
    """ICMP echo over a raw socket."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.oif = 0
        self.ident = int.from_bytes(os.urandom(2), "big")
        self.sock = _raw_icmp()
        with _closing_on_error(self.sock):
            if flow.source:
                _bind(self.sock, flow)

    def sockets(self) -> list[socket.socket]:
        return [self.sock]

    def close(self) -> None:
        self.sock.close()

    def send(self, number: int, ttl: int) -> None:
        _send(self.sock, build_echo(self.ident, number), self.flow, ttl, self.oif, 0)

    def receive(self) -> Iterator[tuple[float, Heard]]:
        return _read(self.sock, self.flow, self.ident, 0)


class _Ping:
    """ICMP echo over a ping socket, for ordinary users: the kernel writes the identifier and the checksum."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.oif = 0
        self.sock = _with_errors(
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, socket.IPPROTO_ICMP)
        )
        with _closing_on_error(self.sock):
            _bind(self.sock, flow)

    def sockets(self) -> list[socket.socket]:
        return [self.sock]

    def close(self) -> None:
        self.sock.close()

    def send(self, number: int, ttl: int) -> None:
        _send(self.sock, build_echo(0, number), self.flow, ttl, self.oif, 0)

    def receive(self) -> Iterator[tuple[float, Heard]]:
        yield from _read_errors(self.sock, self.flow)
        while True:
            try:
                data, ancillary, _, sender = self.sock.recvmsg(2048, 256)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue  # an error that the queue told, too
            if len(data) >= 8 and data[0] == 0 and sender[0] == format_address(self.flow.destination):
                number = int.from_bytes(data[6:8], "big")
                yield _heard(ancillary, Heard(number, REACHED, self.flow.destination))


class _Udp:
    """UDP from an ordinary socket; answers come to a raw one, or into the error queue."""

    def __init__(self, flow: Flow) -> None:
        self.oif = 0
        self.sock = _with_errors(socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC))
        self.raw: socket.socket | None = None
        with _closing_on_error(self.sock):
            self.sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DONT)
            _bind(self.sock, flow, flow.sport)
            self.flow = replace(flow, sport=self.sock.getsockname()[1])
            with contextlib.suppress(PermissionError):
                self.raw = _raw_icmp()

    def sockets(self) -> list[socket.socket]:
        return [self.sock, *([self.raw] if self.raw else [])]

    def close(self) -> None:
        for sock in self.sockets():
            sock.close()

    def send(self, number: int, ttl: int) -> None:
        _send(self.sock, udp_data(number), self.flow, ttl, self.oif, self.flow.dport)

    def receive(self) -> Iterator[tuple[float, Heard]]:
        told = list(_read_errors(self.sock, self.flow))
        yield from _read(self.raw, self.flow, 0, 0) if self.raw else told
        while True:
            try:
                data, ancillary, _, sender = self.sock.recvmsg(2048, 256)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue
            # A program that listens there and answers; an echo says to which probe, anything else to the last.
            if sender == (format_address(self.flow.destination), self.flow.dport):
                number = number_of_data(data, self.flow)
                number = MOST if number is None else number
                yield _heard(ancillary, Heard(number, REACHED, self.flow.destination))


class _Tcp:
    """TCP SYN over a raw socket. A bound socket keeps the port ours; the own kernel resets what is answered."""

    def __init__(self, flow: Flow) -> None:
        self.oif = 0
        self.base = int.from_bytes(os.urandom(4), "big")
        self.raw = _raw(socket.IPPROTO_TCP)
        with _closing_on_error(self.raw):
            self.icmp = _raw_icmp()
            with _closing_on_error(self.icmp):
                self.port = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
                with _closing_on_error(self.port):
                    _bind(self.port, flow, flow.sport)
                    if flow.source:
                        _bind(self.raw, flow)
                    self.flow = replace(flow, sport=self.port.getsockname()[1])

    def sockets(self) -> list[socket.socket]:
        return [self.raw, self.icmp]

    def close(self) -> None:
        for sock in (self.raw, self.icmp, self.port):
            sock.close()

    def send(self, number: int, ttl: int) -> None:
        _send(self.raw, build_syn(self.flow, number, self.base), self.flow, ttl, self.oif, 0)

    def receive(self) -> Iterator[tuple[float, Heard]]:
        yield from _read(self.raw, self.flow, 0, self.base)
        yield from _read(self.icmp, self.flow, 0, self.base)


@contextlib.contextmanager
def _closing_on_error(sock: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        sock.close()
        raise


def wire(flow: Flow) -> tuple[Wire, list[str]]:
    """A wire for this flow, and remarks on what it cannot do. Without privilege ICMP and TCP become UDP, and a remark
    says so; the wire's flow is the one that is traced. Raises Refusal: the source is not ours."""
    try:
        if flow.proto == ICMP:
            return _Echo(flow), []
        if flow.proto == TCP:
            return _Tcp(flow), []
        made = _Udp(flow)
        return made, []
    except PermissionError:
        pass
    if flow.proto == ICMP:
        with contextlib.suppress(PermissionError):
            return _Ping(flow), []
    name = "ICMP" if flow.proto == ICMP else "TCP"
    remark = f"probes are UDP: {name} needs CAP_NET_RAW (run it as root)"
    port = flow.dport if flow.proto == TCP else UDP_PORT
    return _Udp(Flow(flow.destination, flow.source, UDP, 0, port)), [remark]
