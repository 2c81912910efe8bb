"""Notifications of rtnetlink, octets to changes.

Another program that installs a full table makes a notification for each route, and they differ in four octets. So each
shape is decoded once (see `burst`), and routes of one shape that follow each other come out as one block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from via6.model import Change, KernelEvent, Route, RouteBlock
from via6.netlink import objects
from via6.netlink.burst import DST_HEADER, DUMP_DST_AT
from via6.netlink.route import RTM_DELROUTE, RTM_NEWROUTE, decode_route
from via6.netlink.wire import HEADER, NLM_F_REPLACE, messages
from via6.prefix import AF_INET, Address

_SHAPES: Final = 1024  # kept at most
_BEHIND: Final = DUMP_DST_AT + 4

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

_Shape = tuple[Route, bool, bool]  # template, gone, replaces


class Notices:
    """Feeds on datagrams, in their order; `take` gives the changes told since the last time. What cannot be decoded is
    passed over."""

    def __init__(self) -> None:
        # Sequence number and port are the writer's and say nothing of the route.
        self._shapes: dict[tuple[bytes, bytes, bytes], _Shape] = {}
        self._found: list[KernelEvent] = []
        self._shape: _Shape | None = None
        self._run: list[Address] = []

    def feed(self, data: bytes) -> None:
        """One datagram."""
        shape = self._shapes.get((data[:8], data[16:DUMP_DST_AT], data[_BEHIND:])) or self._learn(data)
        if shape is None:
            self._end_run()
            self._found += _decode(data)
            return
        if shape is not self._shape:
            self._end_run()
            self._shape = shape
        self._run.append(data[DUMP_DST_AT:_BEHIND])

    def take(self) -> list[KernelEvent]:
        """The changes, oldest first."""
        self._end_run()
        found, self._found = self._found, []
        return found

    def _learn(self, data: bytes) -> _Shape | None:
        """The shape of a datagram that is one IPv4 route with its destination in the usual place."""
        if len(data) < _BEHIND or data[DUMP_DST_AT - 4 : DUMP_DST_AT] != DST_HEADER or data[16] != AF_INET:
            return None
        length, kind, flags, _seq, _portid = HEADER.unpack_from(data)
        if length != len(data) or kind not in (RTM_NEWROUTE, RTM_DELROUTE):
            return None
        route, _problem = decode_route(data[16:])
        if route is None:
            return None
        if len(self._shapes) >= _SHAPES:
            self._shapes.clear()
        shape = route.as_template(), kind == RTM_DELROUTE, bool(flags & NLM_F_REPLACE)
        return self._shapes.setdefault((data[:8], data[16:DUMP_DST_AT], data[_BEHIND:]), shape)

    def _end_run(self) -> None:
        if self._shape is None:
            return
        template, gone, replaces = self._shape
        one = len(self._run) == 1
        self._found.append(
            Change(template.at(self._run[0]) if one else RouteBlock(template, self._run), gone, replaces)
        )
        self._run, self._shape = [], None


def _decode(data: bytes) -> list[KernelEvent]:
    found: list[KernelEvent] = []
    for msg in messages(data):
        decoder, gone = _DECODERS.get(msg.type, (None, False))
        value = decoder(msg.payload)[0] if decoder else None
        if value is not None:
            found.append(Change(value, gone, bool(msg.flags & NLM_F_REPLACE)))
    return found
