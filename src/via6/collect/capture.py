"""A capture on one device: whole Ethernet frames as the kernel hands them to the wire or takes them from it.

The socket is AF_PACKET (packet(7)) on all ethertypes, so what it shows is what there is: a tunnel or a translation
could not hide, for there is no header before the one printed. It is bound in the network namespace in which it was
opened and stays there; it can be read from anywhere.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from via6.errors import Refusal
from via6.observe.packet import Frame, describe_frame, parse_frame

_ETH_P_ALL: Final = 3  # linux/if_ether.h
_PACKET_OUTGOING: Final = 4  # linux/if_packet.h
_LONGEST: Final = 65535 + 14


@dataclass(frozen=True, slots=True)
class Captured:
    """One frame: `octets` as captured, `outgoing` if this node sent it, `at_s` monotonic seconds when it was read."""

    device: str
    frame: Frame
    octets: bytes
    outgoing: bool
    at_s: float

    def __str__(self) -> str:
        return describe_frame(self.frame, self.device)


class Capture:
    """An open capture on one device; what passes from the opening on is kept by the kernel until it is read.

    `with Capture("eth1") as capture: …; frames = capture.read(…)`. Raises Refusal for an unknown device and without
    CAP_NET_RAW."""

    def __init__(self, device: str) -> None:
        self.device = device
        try:
            self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        except PermissionError:
            raise Refusal("no privilege to capture packets", "run it as root, or with CAP_NET_RAW") from None
        try:
            # Protocol 0 above: nothing is heard before the bind, so no frame of another device slips in.
            self._sock.bind((device, _ETH_P_ALL))
        except OSError as error:
            self._sock.close()
            raise Refusal(
                f"cannot capture on {device!r}: {error.strerror}", "`ip -br link` lists the devices of this node"
            ) from None

    def __enter__(self) -> Capture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fileno(self) -> int:
        return self._sock.fileno()

    def read(
        self, *, count: int, timeout_s: float, keep: Callable[[Captured], bool] = lambda _: True
    ) -> list[Captured]:
        """Up to `count` frames that `keep` likes; returns with them, or with fewer after `timeout_s`."""
        kept: list[Captured] = []
        deadline = time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        while len(kept) < count:
            try:
                octets, (_, _, kind, _, _) = self._sock.recvfrom(_LONGEST)
            except BlockingIOError:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                poll.poll(left * 1000)
                continue
            now = time.monotonic()
            frame, _ = parse_frame(octets)
            if frame:
                seen = Captured(self.device, frame, octets, kind == _PACKET_OUTGOING, now)
                if keep(seen):
                    kept.append(seen)
            if now >= deadline:  # a busy link must not hold us
                break
        return kept

    def close(self) -> None:
        self._sock.close()
