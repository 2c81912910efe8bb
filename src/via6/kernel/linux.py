"""The Linux FIB: dump, apply, watch, close (and lookup, which asks the kernel what it would do).

Linux works through a netlink datagram before `sendmsg` returns: every refusal is in the receive buffer by then, or
lost because the buffer was full. So `apply` sends windows whose refusals, should every message be refused, fit into
the buffer, closes each with one message that asks for an acknowledgement, and reads what came before the next window
leaves. If something is lost all the same, the Outcome says `overrun` and nothing more is sent: the caller dumps.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from via6.errors import Refusal
from via6.kernel.socket import NetlinkSocket, words
from via6.kernel.watch import LinuxWatch
from via6.model import (
    PARTS,
    Burst,
    DropNexthop,
    Failure,
    Outcome,
    Plan,
    PutNexthop,
    Route,
    RouteBlock,
    RouteTable,
    Snapshot,
    Step,
)
from via6.netlink import burst, objects
from via6.netlink.route import RTM_GETROUTE, RTM_NEWROUTE, decode_route, encode_dump_filter, encode_lookup
from via6.netlink.wire import (
    HEADER,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    Ack,
    Message,
    decode_ack,
    message,
    messages,
)
from via6.prefix import AF_INET, AF_INET6, Address

T = TypeVar("T")

_WINDOW: Final = 4096  # messages between two acknowledgements
_ERROR_SPACE: Final = 2048  # octets of receive buffer that one refusal may take (measured: 832)
_FENCE: Final = 0xFFFFFFFF  # sequence number of the message that closes a window
_DUMP_TRIES: Final = 5

OLDEST: Final = (5, 2)
"""The first kernel that takes an IPv6 next hop for an IPv4 route."""


def release() -> tuple[int, int]:
    """Version of the running kernel, as (6, 18)."""
    return parse_release(os.uname().release)


def parse_release(text: str) -> tuple[int, int]:
    """`6.1.0-28-amd64` -> (6, 1); what cannot be read counts as new."""
    first, _, rest = text.partition(".")
    major, minor = (part[: len(part) - len(part.lstrip("0123456789"))] for part in (first, rest))
    return (int(major), int(minor or "0")) if major else (99, 0)


def require(found: tuple[int, int] | None = None) -> None:
    """Raises Refusal when the kernel cannot hold an IPv4 route with an IPv6 next hop."""
    major, minor = found or release()
    if (major, minor) < OLDEST:
        raise Refusal(
            f"this kernel is Linux {major}.{minor}; an IPv4 route with an IPv6 next hop needs 5.2",
            "boot a newer kernel; `via6 render` still writes the routes for other machines",
        )


class LinuxKernel:
    """The FIB of the network namespace this process is in (`kernel.netns.enter` chooses another). Implements
    `model.Kernel`. Not for two threads at once."""

    def __init__(self, *, receive_buffer: int = 8 << 20) -> None:
        self._socket = NetlinkSocket(receive_buffer)
        space = self._socket.receive_buffer // _ERROR_SPACE
        self._window = max(16, min(_WINDOW, space, self._socket.send_buffer // 256))

    def __enter__(self) -> LinuxKernel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def watch(self, *, neighbours: bool = False) -> LinuxWatch:
        """Notifications of what others do and of what happens by itself; what `apply` of this object does is not
        told. With `neighbours` those of the ARP and ND tables, too."""
        return LinuxWatch(ignore=self._socket.portid, neighbours=neighbours)

    # --- reading ---------------------------------------------------------------------------------------------------

    def dump(self, parts: frozenset[str] = PARTS, *, table: int = 0, protocol: int = 0) -> Snapshot:
        """The parts asked for; routes of one table or protocol alone where those are given (0: all)."""
        routes = []
        for part, family in (("routes4", AF_INET), ("routes6", AF_INET6)):
            if part in parts:
                routes += self._dump_routes(encode_dump_filter(family, table, protocol))
        if table or protocol:  # kernels before 4.20 do not filter
            routes = [
                b for b in routes if table in (0, b.template.table) and protocol in (0, b.template.protocol)
            ]  # fmt: skip

        def some(part: str, kind: int, ask: bytes, decode: Callable[[bytes], tuple[T | None, str]]) -> tuple[T, ...]:
            return self._dump(kind, ask, decode) if part in parts else ()

        return Snapshot(
            links=some("links", objects.RTM_GETLINK, objects.encode_link_dump(), objects.decode_link),
            addresses=some("addresses", objects.RTM_GETADDR, objects.encode_address_dump(), objects.decode_address),
            routes=RouteTable(tuple(routes)),
            rules=some("rules", objects.RTM_GETRULE, objects.encode_rule_dump(), objects.decode_rule),
            nexthops=some("nexthops", objects.RTM_GETNEXTHOP, objects.encode_nexthop_dump(), objects.decode_nexthop),
            neighbours=some(
                "neighbours", objects.RTM_GETNEIGH, objects.encode_neighbour_dump(), objects.decode_neighbour
            ),
            parts=parts,
        )

    def lookup(
        self,
        destination: Address,
        *,
        source: Address | None = None,
        iif: int = 0,
        oif: int = 0,
        mark: int = 0,
        fib_match: bool = False,
    ) -> Route | Failure:
        """What the kernel would do with a packet (RTM_GETROUTE): the resolved route, or with `fib_match` the FIB
        entry behind it; a Failure when it would refuse."""
        ask = encode_lookup(destination, source, iif, oif, mark, fib_match)
        self._socket.drain()
        self._socket.send(message(RTM_GETROUTE, NLM_F_REQUEST, ask))
        for msg in messages(self._socket.receive()):
            if msg.type == NLMSG_ERROR:
                ack = decode_ack(msg)
                return Failure(0, None, ack.errno, words(ack.errno, ack.text))
            if msg.type == RTM_NEWROUTE:
                route, problem = decode_route(msg.payload)
                return route or Failure(0, None, errno.EPROTO, problem)
        return Failure(0, None, errno.EPROTO, "the kernel's answer could not be read")

    def _dump_routes(self, ask: bytes) -> list[RouteBlock]:
        reader = burst.DumpReader()
        for _ in range(_DUMP_TRIES):
            reader = burst.DumpReader()
            self._socket.drain()
            self._socket.send(message(RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, ask))
            try:
                while not reader.done:
                    reader.feed(self._socket.receive())
            except OSError as error:
                _overrun_or_refuse(error)
                continue
            for msg in messages(reader.last):
                _raise_for(decode_ack(msg))
            if not reader.interrupted:
                break
        return list(reader.blocks())

    def _dump(self, kind: int, ask: bytes, decode: Callable[[bytes], tuple[T | None, str]]) -> tuple[T, ...]:
        found: list[T] = []
        for _ in range(_DUMP_TRIES):
            self._socket.drain()
            self._socket.send(message(kind, NLM_F_REQUEST | NLM_F_DUMP, ask))
            try:
                answer = self._answer()
            except OSError as error:
                _overrun_or_refuse(error)
                continue
            found = [value for msg in answer if (value := decode(msg.payload)[0]) is not None]
            if not any(msg.flags & NLM_F_DUMP_INTR for msg in answer):
                break
        return tuple(found)

    def _answer(self) -> list[Message]:
        found: list[Message] = []
        while True:
            for msg in messages(self._socket.receive()):
                if msg.type in (NLMSG_DONE, NLMSG_ERROR):
                    _raise_for(decode_ack(msg))
                    return found
                found.append(msg)

    # --- writing ---------------------------------------------------------------------------------------------------

    def apply(self, plan: Plan) -> Outcome:
        """Sends the steps in order. Refusals of single messages come back in the Outcome; EPERM raises Refusal."""
        window = _Window(self._socket)
        self._socket.drain()
        for index, step in enumerate(plan.steps):
            if not self._send(window, index, step):
                break
        window.flush()
        return Outcome(tuple(window.failures), window.overrun)

    def _send(self, window: _Window, index: int, step: Step) -> bool:
        if not isinstance(step, Burst):
            if window.count >= self._window:
                window.flush()
            window.add(_object_message(step, index), index)
            return not window.overrun
        head, tail = burst.split(step.op, step.block.template, index)
        destinations = step.block.destinations
        at = 0
        while at < len(destinations):
            room = self._window - window.count
            if room <= 0:
                window.flush()
                if window.overrun:
                    return False
                continue
            window.add_run(head, tail, destinations[at : at + room], index)
            at += room
        return not window.overrun


def _object_message(step: PutNexthop | DropNexthop, seq: int) -> bytes:
    if isinstance(step, DropNexthop):
        return message(objects.RTM_DELNEXTHOP, NLM_F_REQUEST, objects.encode_nexthop_id(step.nhid), seq)
    flags = NLM_F_REQUEST | NLM_F_CREATE | (NLM_F_REPLACE if step.replace else NLM_F_EXCL)
    return message(objects.RTM_NEWNEXTHOP, flags, objects.encode_nexthop(step.object), seq)


class _Window:
    """What is sent as one datagram and acknowledged by its last message."""

    def __init__(self, socket: NetlinkSocket) -> None:
        self._socket = socket
        self._parts: list[bytes] = []
        self._last_size = 0
        self._last_step = 0
        self.count = 0
        self.failures: list[Failure] = []
        self.overrun = False

    def add(self, octets: bytes, step: int) -> None:
        self._parts.append(octets)
        self._last_size = len(octets)
        self._last_step = step
        self.count += 1

    def add_run(self, head: bytes, tail: bytes, destinations: Sequence[Address], step: int) -> None:
        self._parts.append(burst.build(head, tail, destinations))
        self._last_size = len(head) + len(destinations[0]) + len(tail)
        self._last_step = step
        self.count += len(destinations)

    def flush(self) -> None:
        """Sends and reads everything the kernel has to say about it."""
        if not self.count or self.overrun:
            return
        part = self._parts[-1]
        last = part[-self._last_size :]
        self._parts[-1] = part[: -self._last_size]
        self._parts.append(burst.with_flags(last, NLM_F_ACK, _FENCE))
        parts, self._parts, self.count = self._parts, [], 0
        try:
            self._socket.send(*parts)
            while not self._read():
                pass
        except (TimeoutError, OSError) as error:
            if not isinstance(error, TimeoutError) and error.errno != errno.ENOBUFS:
                raise
            self.overrun = True
            self._socket.drain()

    def _read(self) -> bool:
        """One datagram; True when it held the acknowledgement of the last message."""
        closed = False
        for msg in messages(self._socket.receive()):
            if msg.type != NLMSG_ERROR:
                continue
            ack = decode_ack(msg)
            closed = closed or ack.seq == _FENCE
            if ack.errno in (errno.EPERM, errno.EACCES):
                self._socket.drain()
                _raise_for(ack)
            if ack.errno:
                step = self._last_step if ack.seq == _FENCE else ack.seq
                destination = _destination(ack)
                self.failures.append(Failure(step, destination, ack.errno, words(ack.errno, ack.text)))
        return closed


def _destination(ack: Ack) -> Address | None:
    if len(ack.request) < 16 or HEADER.unpack_from(ack.request)[1] >= objects.RTM_NEWNEXTHOP:
        return None
    return burst.destination_of(ack.request)


def _raise_for(ack: Ack) -> None:
    if ack.errno in (errno.EPERM, errno.EACCES):
        raise Refusal(f"the kernel refused: {words(ack.errno, ack.text)}", "run it as root, or with CAP_NET_ADMIN")
    if ack.errno and ack.errno not in (errno.ENOENT, errno.EOPNOTSUPP):
        # ENOENT: a table that does not exist yet; EOPNOTSUPP: no nexthop objects before 5.3. Both mean: none there.
        raise Refusal(f"the kernel refused a dump: {words(ack.errno, ack.text)}", "try again")


def _overrun_or_refuse(error: OSError) -> None:
    """An overrun is tried again by the caller; a silent or closed socket is not."""
    if error.errno != errno.ENOBUFS:
        raise Refusal(f"the kernel did not answer: {error.strerror or error}", "try again") from None
