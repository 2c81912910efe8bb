"""Notifications: what others do to links, addresses, routes, rules, neighbours and nexthop objects."""

from __future__ import annotations

import errno
from typing import Final

from via6.kernel.socket import NetlinkSocket
from via6.model import KernelEvent, Overrun
from via6.netlink.notices import Notices

# RTNLGRP_* of linux/rtnetlink.h
LINK, NEIGH, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE, IPV6_RULE, NEXTHOP = (
    1, 3, 5, 7, 8, 9, 11, 19, 32,
)  # fmt: skip

_BUFFER: Final = 32 << 20  # of which the kernel takes what waits: 70,000 routes of another program
_TURN: Final = 4096  # datagrams read at one go, so that a flood does not starve the reader's other work


class LinuxWatch:
    """Implements `model.Watch`. After an Overrun the reader dumps: nothing else tells what was lost."""

    def __init__(self, *, ignore: int = 0, neighbours: bool = False, receive_buffer: int = _BUFFER) -> None:
        self._socket = NetlinkSocket(receive_buffer)
        self._notices = Notices()
        if ignore:
            self._socket.ignore(ignore)
        for group in (LINK, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE, IPV6_RULE, NEXTHOP):
            self._socket.join(group)
        if neighbours:
            self._socket.join(NEIGH)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> list[KernelEvent]:
        """What waits, oldest first; never blocks."""
        feed = self._notices.feed
        try:
            for datagram in self._socket.waiting(_TURN):
                feed(datagram)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            # What still waits was told before the loss. Read after the dump that must come now, it would undo
            # what the dump says of things whose last notification is among the lost ones.
            self._socket.drain()
            return [*self._notices.take(), Overrun()]
        return self._notices.take()

    def drain(self) -> None:
        """Throws away what waits: a dump will tell."""
        self._socket.drain()
