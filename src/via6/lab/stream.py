"""A stream of numbered packets between two hosts of a lab, watched while it runs.

What a failure costs is seen by who uses the network: one UDP packet each millisecond, and which of them arrived. Two
child processes do that, one in each host. The book they keep is memory shared with us: when each packet left (the
monotonic clock is the same in all namespaces), and whether it came. So it can be read at any time without asking
anybody, and a child that is killed has lost nothing.

An outage is told by the sender's clock: from the first lost packet to the first behind the last lost one that came. The
receiver's own pauses, on a machine that is busy elsewhere, are no outage.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import struct
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from via6.errors import FAILED, OK, Refusal
from via6.lab.libc import die_with_parent
from via6.lab.process import fork, interruptible
from via6.prefix import format_address

if TYPE_CHECKING:
    from via6.lab.namespaces import Lab
    from via6.lab.topology import Host

RATE_HZ: Final = 1000
_MOST: Final = 180 * RATE_HZ  # a stream ends by itself after three minutes
_PORT: Final = 6464
_NUMBER: Final = struct.Struct("!I")
_LATE_S: Final = 0.05
_STRAGGLERS_S: Final = 0.2
_POLL_S: Final = 0.005
_SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h
_RECEIVE_BUFFER: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Passage:
    """What became of the packets that left in some time. `outage_s` is 0 if none was lost."""

    sent: int
    lost: int
    outage_s: float


class Stream:
    """RATE_HZ packets a second from one host to another, from its making until `stop`, which may be called again.

    Raises Refusal if the hosts' sockets cannot be made."""

    def __init__(self, lab: Lab, source: Host, target: Host) -> None:
        book = memoryview(mmap.mmap(-1, 9 * _MOST + 1))
        self._left = book[: 8 * _MOST].cast("d")
        self._came = book[8 * _MOST : 9 * _MOST]
        self._stop = book[9 * _MOST :]
        self._children: list[int] = []
        to = (format_address(target.address), _PORT)
        try:
            with lab.inside(target.name), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                _grow(sock)
                sock.bind(to)
                self._fork(lambda: _receive(sock, self._came))
            with lab.inside(source.name), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind((format_address(source.address), 0))
                self._fork(lambda: _send(sock, to, self._left, self._stop))
        except OSError as error:
            self.stop()
            raise Refusal(f"no stream from {source.name} to {target.name}: {error.strerror}") from None

    def _fork(self, work: Callable[[], None]) -> None:
        pid = fork()
        if pid:
            self._children.append(pid)
            return
        code = FAILED
        try:
            interruptible(signal.SIG_DFL)
            die_with_parent(signal.SIGKILL)
            with contextlib.suppress(OSError, AttributeError):  # an ordinary user may not
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))  # its clock counts, and it works little
            work()
            code = OK
        except KeyboardInterrupt:  # before SIGINT was ours: no fault
            pass
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def flows(self, timeout_s: float) -> bool:
        """True as soon as a packet has arrived; False if none has in this time."""
        deadline = time.monotonic() + timeout_s
        while not any(self._came[:_MOST]):
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def passage(self, since_s: float = 0.0) -> Passage:
        """Of the packets that left from then (monotonic seconds) until now. Those on their way are waited for, for a
        moment."""
        now = time.monotonic()
        numbers = [number for number, at in enumerate(takewhile(bool, self._left)) if since_s <= at <= now]
        while (lost := [n for n in numbers if not self._came[n]]) and time.monotonic() < now + _STRAGGLERS_S:
            time.sleep(_POLL_S)
        if not lost:
            return Passage(len(numbers), 0, 0.0)
        left = list(takewhile(bool, self._left))
        back = next((at for n, at in enumerate(left) if n > lost[-1] and self._came[n]), left[-1])
        return Passage(len(numbers), len(lost), back - left[lost[0]])

    def stop(self) -> None:
        """Ends both processes. What was sent and came can still be read."""
        self._stop[0] = 1
        for pid in reversed(self._children):  # the sender ends by itself; then the receiver, which only waits
            if pid == self._children[0]:
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self._children.clear()


def _grow(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    except PermissionError:  # an ordinary user; the system's limit holds some hundred packets
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)


def _send(sock: socket.socket, to: tuple[str, int], left: memoryview[float], stop: memoryview) -> None:
    """The socket is not connected: an ICMP error would cost the next packet as well."""
    due = time.monotonic()
    for number in range(_MOST):
        due += 1 / RATE_HZ
        pause = due - time.monotonic()
        if pause > 0:
            time.sleep(pause)
        elif pause < -_LATE_S:  # the machine was busy elsewhere: no burst afterwards
            due = time.monotonic()
        if stop[0]:
            return
        left[number] = time.monotonic()
        with contextlib.suppress(OSError):  # no route for a moment, a full buffer: it does not arrive
            sock.sendto(_NUMBER.pack(number), to)


def _receive(sock: socket.socket, came: memoryview) -> None:
    while True:
        data = sock.recv(_NUMBER.size + 1)
        if len(data) == _NUMBER.size and (number := _NUMBER.unpack(data)[0]) < _MOST:
            came[number] = 1
