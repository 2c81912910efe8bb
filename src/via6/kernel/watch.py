"""Notifications: what others do to links, addresses, routes, rules, neighbours and nexthop objects."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, Final

from via6.kernel.socket import NetlinkSocket
from via6.model import Change, KernelEvent, Overrun
from via6.netlink import objects
from via6.netlink.route import RTM_DELROUTE, RTM_NEWROUTE, decode_route
from via6.netlink.wire import NLM_F_REPLACE, messages

# RTNLGRP_* of linux/rtnetlink.h
LINK, NEIGH, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE, IPV6_RULE, NEXTHOP = (
    1, 3, 5, 7, 8, 9, 11, 19, 32,
)  # fmt: skip

_TURN: Final = 1024  # datagrams read at one go, so that a flood does not starve the reader's other work

_DECODERS: Final[dict[int, tuple[Callable[[bytes], tuple[Any, str]], bool]]] = {
    RTM_NEWROUTE: (decode_route, False),
    RTM_DELROUTE: (decode_route, True),
    objects.RTM_NEWLINK: (objects.decode_link, False),
    objects.RTM_DELLINK: (objects.decode_link, True),
    objects.RTM_NEWADDR: (objects.decode_address, False),
    objects.RTM_DELADDR: (objects.decode_address, True),
    objects.RTM_NEWNEIGH: (objects.decode_neighbour, False),
    objects.RTM_DELNEIGH: (objects.decode_neighbour, True),
    objects.RTM_NEWRULE: (objects.decode_rule, False),
    objects.RTM_DELRULE: (objects.decode_rule, True),
    objects.RTM_NEWNEXTHOP: (objects.decode_nexthop, False),
    objects.RTM_DELNEXTHOP: (objects.decode_nexthop, True),
}


def decode_notification(data: bytes) -> list[KernelEvent]:
    """The changes told by one datagram; what cannot be decoded is passed over."""
    found: list[KernelEvent] = []
    for msg in messages(data):
        decoder, gone = _DECODERS.get(msg.type, (None, False))
        value = decoder(msg.payload)[0] if decoder else None
        if value is not None:
            found.append(Change(value, gone, bool(msg.flags & NLM_F_REPLACE)))
    return found


class LinuxWatch:
    """Implements `model.Watch`. After an Overrun the reader dumps: nothing else tells what was lost."""

    def __init__(self, *, ignore: int = 0, neighbours: bool = False, receive_buffer: int = 8 << 20) -> None:
        self._socket = NetlinkSocket(receive_buffer)
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
        found: list[KernelEvent] = []
        for _ in range(_TURN):
            try:
                found += decode_notification(self._socket.receive(0))
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                # What still waits was told before the loss. Read after the dump that must come now, it would undo
                # what the dump says of things whose last notification is among the lost ones.
                self._socket.drain()
                found.append(Overrun())
                break
        return found
