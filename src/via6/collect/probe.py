"""Pings, traceroutes and counted streams over IPv4, from the network namespace the caller is in.

All of them follow one scheme. Everything that is to be sent stands in a list; a socket that never blocks sends it at
an even pace; answers are read between two sendings and matched by what the probe carried (echo identifier and
sequence number), never by the order of arrival. Every wait is a poll with the time that is left until the
deadline, so a silent network costs `timeout_s` once, not once per target.

A router that has no IPv4 address answers as 192.0.0.8 (RFC 7600), and all such routers answer alike: an address in a
traceroute is what ICMP said, not a name of a router.

Raw sockets need CAP_NET_RAW in the user namespace that owns the network namespace; without it: Refusal.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from via6.errors import Refusal
from via6.observe.packet import (
    ECHO_REPLY,
    ECHO_REQUEST,
    ICMP,
    ICMP_ERRORS,
    TIME_EXCEEDED,
    Icmp,
    IPv4,
    build_icmp,
    icmp_name,
    parse_icmp,
    parse_ipv4,
    quoted,
)
from via6.prefix import Address, format_address

DUMMY: Final = bytes((192, 0, 0, 8))
"""Where ICMPv4 of a router without any IPv4 address comes from (RFC 7600)."""

STREAM_PORT: Final = 33500

_FILLER: Final = bytes(range(16, 16 + 56))  # behind the ICMP header: a packet of 84 octets, the usual ping
_MOST_PROBES: Final = 1 << 20
_RECEIVE_BUFFER: Final = 4 << 20
_SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h
_SOL_RAW: Final = 255
_ICMP_FILTER: Final = 1  # linux/icmp.h: a bit mask of the types that are NOT wanted
_UNWANTED: Final = ~((1 << ECHO_REPLY) | sum(1 << t for t in ICMP_ERRORS)) & 0xFFFFFFFF
_RETRY_S: Final = 0.002  # after a full send buffer
_TURN: Final = 256  # answers read before the next probe gets its turn


@dataclass(frozen=True, slots=True)
class IcmpError:
    """An ICMP error that came instead of an answer, and the address it came from."""

    type: int
    code: int
    source: Address

    def __str__(self) -> str:
        return f"{icmp_name(self.type, self.code)}, says {format_address(self.source)}"


@dataclass(frozen=True, slots=True)
class Ping:
    """What came of `sent` echo requests to one target. `rtts_s` has one entry per answer, in order of arrival;
    `error` is the last ICMP error, `refused` what the own kernel said when it would not even send."""

    target: Address
    sent: int
    rtts_s: tuple[float, ...] = ()
    error: IcmpError | None = None
    refused: str = ""

    @property
    def rtt_s(self) -> float | None:
        """The shortest round trip in seconds, None without an answer."""
        return min(self.rtts_s, default=None)

    @property
    def received(self) -> int:
        return len(self.rtts_s)

    @property
    def why(self) -> str:
        """Why there was no answer, in words; empty if there was one."""
        if self.rtts_s:
            return ""
        return str(self.error) if self.error else self.refused or "no answer"


@dataclass(frozen=True, slots=True)
class Hop:
    """The answer to the probes of one TTL. `kind` is `hop` (time exceeded), `reached` (the target itself),
    `unreachable` (`error` says what) or `silent`; `refused` is the own kernel's word if it would not send."""

    ttl: int
    kind: str
    address: Address | None = None
    rtt_s: float | None = None
    error: IcmpError | None = None
    refused: str = ""


@dataclass(frozen=True, slots=True)
class StreamReport:
    """What became of a stream. `longest_gap_s` is the longest time without an arrival: an outage, seen from the
    receiver; `lost` lists the runs of lost sequence numbers as (first, how many)."""

    sent: int
    received: int
    duplicates: int
    reordered: int
    lost: tuple[tuple[int, int], ...]
    longest_gap_s: float


# --- sockets -------------------------------------------------------------------------------------------------------


def _grow(sock: socket.socket) -> None:
    """The largest receive buffer we are allowed: answers of a burst arrive faster than Python reads them."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    except PermissionError:  # not CAP_NET_ADMIN in the first user namespace
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)


def _bind(sock: socket.socket, source: Address | None, port: int = 0) -> None:
    try:
        sock.bind((format_address(source) if source else "", port))
    except OSError as error:
        name = format_address(source) if source else f"port {port}"
        raise Refusal(
            f"cannot send from {name}: {error.strerror}", "`ip -4 address` lists the addresses of this node"
        ) from None


def _raw_icmp() -> socket.socket:
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP)
    except PermissionError:
        raise Refusal("no privilege to open a raw socket", "run it as root, or with CAP_NET_RAW") from None
    sock.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", _UNWANTED))
    _grow(sock)
    return sock


def _udp(source: Address | None, port: int = 0) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        _bind(sock, source, port)
        _grow(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def _drain(sock: socket.socket, limit: int = _TURN) -> Iterator[tuple[float, bytes]]:
    """What has arrived, with the time it was read at (monotonic seconds); never waits."""
    for _ in range(limit):
        try:
            data = sock.recv(65535)
        except (BlockingIOError, InterruptedError):
            return
        yield time.monotonic(), data


def _pump(
    sock: socket.socket,
    count: int,
    send: Callable[[int], None],
    receive: Callable[[float, bytes], None],
    done: Callable[[], bool],
    interval_s: float,
    timeout_s: float,
) -> None:
    """Sends probes 0 to count-1, one per `interval_s`, reads answers meanwhile and for `timeout_s` after the last.

    `send` may raise BlockingIOError (tried again, but not for longer than `timeout_s` without any success)."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    following = 0
    due = time.monotonic()
    deadline = due + timeout_s  # moves with each probe that leaves
    while True:
        now = time.monotonic()
        if following < count and now >= due:
            try:
                send(following)
            except BlockingIOError:
                due = now + _RETRY_S
            else:
                following += 1
                due += interval_s
                deadline = timeout_s + (max(now, due) if following < count else now)
        for at, data in _drain(sock):
            receive(at, data)
        if (following == count and done()) or now >= deadline:
            return
        until = min(due, deadline) if following < count else deadline
        poll.poll(max(0.0, until - time.monotonic()) * 1000)


# --- ping ----------------------------------------------------------------------------------------------------------


def ping_many(
    targets: Sequence[Address],
    *,
    source: Address | None = None,
    count: int = 1,
    timeout_s: float = 1.0,
    interval_s: float = 0.0005,
) -> list[Ping]:
    """Pings all IPv4 targets at once, `count` times each, and returns one Ping per target in their order.

    `interval_s` lies between any two packets, `timeout_s` is waited after the last one for what is missing: the call
    takes at most len(targets) * count * interval_s + timeout_s. With `count` above 1 the rounds follow each other.
    Raises Refusal without privilege or with a source that is not ours."""
    with _raw_icmp() as sock:
        if source:
            _bind(sock, source)
        pinger = _Pinger(sock, targets, count)
        _pump(sock, pinger.total, pinger.send, pinger.receive, pinger.done, interval_s, timeout_s)
    return pinger.results()


class _Pinger:
    """The book of one ping_many: probe number n is round n // targets of target n % targets."""

    def __init__(self, sock: socket.socket, targets: Sequence[Address], count: int) -> None:
        self.sock = sock
        self.targets = targets
        self.count = count
        self.total = len(targets) * count
        if self.total > _MOST_PROBES:
            raise ValueError(f"{self.total} probes are more than {_MOST_PROBES}")
        # 16 bits of sequence number are not enough for many targets: the identifier counts on above them.
        self.base = int.from_bytes(os.urandom(2), "big")
        self.sent_at = [0.0] * self.total
        self.open = set(range(self.total))
        self.rtts: list[list[float]] = [[] for _ in targets]
        self.errors: list[IcmpError | None] = [None] * len(targets)
        self.refused = [""] * len(targets)

    def send(self, number: int) -> None:
        which = number % len(self.targets)
        ident = (self.base + (number >> 16)) & 0xFFFF
        message = build_icmp(Icmp(ECHO_REQUEST, 0, ident, number & 0xFFFF, _FILLER))
        self.sent_at[number] = time.monotonic()
        try:
            self.sock.sendto(message, (format_address(self.targets[which]), 0))
        except BlockingIOError:
            raise
        except OSError as error:
            self.refused[which] = error.strerror or str(error)
            self.open.discard(number)

    def receive(self, at_s: float, data: bytes) -> None:
        packet, message = _icmp_of(data)
        if packet is None or message is None:
            return
        if message.type == ECHO_REPLY:
            number = self._number(message, packet.source)
            if number in self.open:
                self.open.discard(number)
                self.rtts[number % len(self.targets)].append(at_s - self.sent_at[number])
        elif (about := quoted(message)) and about.protocol == ICMP:
            original, _ = parse_icmp(about.payload)
            number = self._number(original, about.destination) if original else -1
            if number in self.open:
                self.open.discard(number)
                self.errors[number % len(self.targets)] = IcmpError(message.type, message.code, packet.source)

    def _number(self, message: Icmp, target: Address) -> int:
        """Which probe an answer belongs to, -1 if it is none of ours."""
        number = ((message.ident - self.base) & 0xFFFF) << 16 | message.seq
        return number if number < self.total and self.targets[number % len(self.targets)] == target else -1

    def done(self) -> bool:
        return not self.open

    def results(self) -> list[Ping]:
        return [
            Ping(target, self.count, tuple(self.rtts[i]), self.errors[i], self.refused[i])
            for i, target in enumerate(self.targets)
        ]


def _icmp_of(data: bytes) -> tuple[IPv4 | None, Icmp | None]:
    """What a raw ICMP socket read: the packet and its message."""
    packet, _ = parse_ipv4(data)
    return packet, parse_icmp(packet.payload)[0] if packet else None


# --- traceroute ----------------------------------------------------------------------------------------------------


def traceroute(
    target: Address,
    *,
    max_hops: int = 16,
    timeout_s: float = 0.4,
    source: Address | None = None,
    tries: int = 2,
) -> list[Hop]:
    """The hops to an IPv4 target, as ICMP errors tell them; ends with the target, or with `max_hops`.

    Echo requests of all TTLs leave together; what is missing after timeout_s / tries is sent again. All of them carry
    one pair of addresses and no ports, so that equal-cost paths do not mix. Echo, and not UDP, because a target
    answers any number of echo requests, while errors are rationed (net.ipv4.icmp_ratelimit: six at once to one
    source, then one a second). Takes at most about timeout_s. Raises Refusal as ping_many does."""
    with _raw_icmp() as sock:
        if source:
            _bind(sock, source)
        tracer = _Tracer(sock, target, max_hops)
        for _ in range(tries):
            tracer.plan = tracer.missing()
            _pump(sock, len(tracer.plan), tracer.send, tracer.receive, tracer.done, 0.0, timeout_s / tries)
    return tracer.results()


class _Tracer:
    """The book of one traceroute: `plan` holds the TTLs of this turn, `sent` (TTL, when) of each sequence number."""

    def __init__(self, sock: socket.socket, target: Address, max_hops: int) -> None:
        self.sock = sock
        self.target = target
        self.max_hops = max_hops
        self.ident = int.from_bytes(os.urandom(2), "big")
        self.plan: list[int] = []
        self.sent: list[tuple[int, float]] = []
        self.found: dict[int, Hop] = {}

    def last(self) -> int:
        """The TTL behind which there is nothing to look for."""
        return min((hop.ttl for hop in self.found.values() if hop.kind != "hop"), default=self.max_hops)

    def missing(self) -> list[int]:
        return [ttl for ttl in range(1, self.last() + 1) if ttl not in self.found]

    def done(self) -> bool:
        return not self.missing()

    def send(self, number: int) -> None:
        ttl = self.plan[number]
        message = build_icmp(Icmp(ECHO_REQUEST, 0, self.ident, len(self.sent), _FILLER))
        option = (socket.IPPROTO_IP, socket.IP_TTL, struct.pack("=i", ttl))
        now = time.monotonic()  # before: on a veth the answer may be there when sendmsg returns
        try:
            self.sock.sendmsg([message], [option], 0, (format_address(self.target), 0))
            self.sent.append((ttl, now))
        except BlockingIOError:
            raise
        except OSError as error:
            self.found.setdefault(ttl, Hop(ttl, "unreachable", refused=error.strerror or str(error)))

    def receive(self, at_s: float, data: bytes) -> None:
        packet, message = _icmp_of(data)
        if packet is None or message is None:
            return
        if message.type == ECHO_REPLY:
            if packet.source == self.target:
                self._note(message, "reached", at_s, packet.source, None)
        elif (about := quoted(message)) and about.protocol == ICMP and about.destination == self.target:
            original, _ = parse_icmp(about.payload)
            if original:
                kind = "hop" if message.type == TIME_EXCEEDED else "unreachable"
                error = IcmpError(message.type, message.code, packet.source)
                self._note(original, kind, at_s, packet.source, error)

    def _note(self, probe: Icmp, kind: str, at_s: float, answered: Address, error: IcmpError | None) -> None:
        if probe.ident != self.ident or probe.seq >= len(self.sent):
            return
        ttl, sent_at = self.sent[probe.seq]
        self.found.setdefault(ttl, Hop(ttl, kind, answered, at_s - sent_at, error))

    def results(self) -> list[Hop]:
        return [self.found.get(ttl) or Hop(ttl, "silent") for ttl in range(1, self.last() + 1)]


# --- stream --------------------------------------------------------------------------------------------------------

_STREAM: Final = struct.Struct("!4sQQ")  # mark, sequence number, how many were sent (0 until the end)
_MARK: Final = b"via6"
_FAREWELLS: Final = 3


def send_stream(
    target: Address,
    *,
    count: int,
    interval_s: float,
    source: Address | None = None,
    port: int = STREAM_PORT,
) -> int:
    """Sends `count` numbered UDP datagrams, one per `interval_s`, then says goodbye; returns how many left this node.

    Runs count * interval_s seconds. A datagram the own kernel refuses (no route for a moment) counts as lost, for
    its number never arrives."""
    left = 0
    host = format_address(target)
    with _udp(source) as sock:
        start = time.monotonic()
        for number in range(count + _FAREWELLS):
            time.sleep(max(0.0, start + number * interval_s - time.monotonic()))
            data = _STREAM.pack(_MARK, number, count if number >= count else 0)
            try:
                sock.sendto(data, (host, port))
                left += number < count
            except OSError:  # network unreachable, a full buffer: the receiver's report shows the gap
                continue
    return left


def receive_stream(
    *, timeout_s: float, idle_s: float = 1.0, source: Address | None = None, port: int = STREAM_PORT
) -> tuple[int, list[tuple[int, float]]]:
    """Takes a stream in: (how many the sender said it sent, or 0 if its goodbye was lost; [(number, monotonic s)]).

    Ends with the goodbye, after `timeout_s` in any case, and after `idle_s` without a datagram once one has come."""
    arrivals: list[tuple[int, float]] = []
    deadline = time.monotonic() + timeout_s
    with _udp(source, port) as sock:
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        while (now := time.monotonic()) < deadline:
            for at, data in _drain(sock):
                if len(data) != _STREAM.size or data[:4] != _MARK:
                    continue
                _, number, total = _STREAM.unpack(data)
                if total:
                    return total, arrivals
                arrivals.append((number, at))
            wait = deadline - now
            if arrivals and (wait := min(wait, arrivals[-1][1] + idle_s - now)) <= 0:
                break
            poll.poll(wait * 1000)
    return 0, arrivals


def stream_report(sent: int, arrivals: Sequence[tuple[int, float]]) -> StreamReport:
    """Counts what `receive_stream` took in; `sent` may be 0 if unknown, then the highest number that came counts."""
    numbers = [number for number, _ in arrivals]
    seen = set(numbers)
    total = sent or max(seen, default=-1) + 1
    lost: list[tuple[int, int]] = []
    for number in range(total):
        if number in seen:
            continue
        if lost and sum(lost[-1]) == number:
            lost[-1] = (lost[-1][0], lost[-1][1] + 1)
        else:
            lost.append((number, 1))
    times = [at for _, at in arrivals]
    highest, reordered = -1, 0
    for number in dict.fromkeys(numbers):
        reordered += number < highest
        highest = max(highest, number)
    gap = max((b - a for a, b in pairwise(times)), default=0.0)
    return StreamReport(total, len(seen), len(numbers) - len(seen), reordered, tuple(lost), gap)
