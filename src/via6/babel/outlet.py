"""What goes to one neighbour: Updates, requests and answers, at the pace that it takes them.

Babel leaves it open how an Update reaches everybody. Peers multicast a full table as fast as they can; past some 90
packets the default socket buffer of the receiver is full, the rest is lost, and waits for the next full update. So
here every packet of Updates goes to one neighbour and asks for an acknowledgement (RFC 8966 section 3.3). No more than
a window is unacknowledged, what was not acknowledged in time is said again as it is *then*, and a neighbour that
acknowledges nothing at all is sent to slowly instead.

What is to be said is a set of destinations, not of messages: a route that changes ten times while it waits is said
once. A destination whose change the kernel has not followed yet (`blocked`), or that has not been reviewed since it
changed (`dirty`), is passed over until then (`release`): what is said here fixes our feasibility distance.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from math import inf
from typing import Final, NamedTuple, Protocol

from via6.babel.link import Neighbour
from via6.babel.model import INFINITY
from via6.babel.table import Destination
from via6.babel.tlv import HEADER_OCTETS
from via6.babel.wire import AE_IPV4, AE_IPV6, AE_V4_VIA_V6, Writer, encode_ack_request
from via6.prefix import Address

WINDOW: Final = 24
"""Packets without acknowledgement, to begin with. A socket of default size holds some 90, and has more than one
neighbour; so the window grows while all are acknowledged, and halves when one is not."""
_WINDOWS: Final = (4, 72)
SPACING_S: Final = 0.004
"""Between two bursts of urgent Updates, so that changes that come together leave together. The first goes at once, and
requests do not wait: somebody is without a route."""
_FULL: Final = 128  # Updates that fill a packet: they need not wait either
_ACK_CS: Final = 20
_TIMEOUT_S: Final = (0.2, 2.0)
_DEAF_AFTER: Final = 6
_DEAF_S: Final = 60.0
_SLOW_PACKETS: Final = 8
_SLOW_S: Final = 0.02


class Origin(Protocol):
    """What an outlet must know of the speaker."""

    router_id: bytes
    seqno: int
    transit_v4: bool
    dirty: dict[Destination, None]


class _Flight(NamedTuple):
    destinations: list[Destination]
    asks: list[bytes]
    sent_at: float
    deadline: float


class Outlet:
    """To one neighbour. `pending` and `asks` are urgent, a dump (all that we announce) goes when nothing is."""

    def __init__(self, origin: Origin, neighbour: Neighbour, opaque: int) -> None:
        self._origin = origin
        self.neighbour = neighbour
        self.asks: deque[bytes] = deque()
        self.replies: list[bytes] = []
        """Acknowledgements and IHUs: said at once, and never again."""
        self.pending: dict[Destination, None] = {}
        self._later: dict[Destination, None] = {}
        self._interval_cs = min(round(100 * neighbour.link.update_s), INFINITY)
        self.dump_at = inf
        self._dump: Iterator[Destination] | None = None
        self._flights: dict[int, _Flight] = {}
        self._opaque = opaque
        self._window = float(WINDOW)
        self._rtt_s = 0.1
        self._unheard = 0
        self._lost_at = -inf
        self._deaf_until = -inf
        self._not_before = -inf
        self.dumped_at = -inf
        self.asked = False
        """It has asked for everything. The first time that is what it is told anyway, as a new neighbour."""

    def start_dump(self, destinations: list[Destination], interval_s: float, now: float, next_at: float) -> None:
        """Everything, from the beginning; Updates announce this interval from now on."""
        self._dump = iter(destinations)
        self._interval_cs = min(round(100 * interval_s), INFINITY)
        self.dumped_at = now
        self.dump_at = next_at

    def deny(self, prefix: Address, length: int) -> None:
        """A prefix was asked for that we know nothing of."""
        writer = Writer(512)
        writer.update(AE_V4_VIA_V6 if len(prefix) == 4 else AE_IPV6, length, prefix, 0, INFINITY, 1, None)
        self.asks.append(writer.take()[HEADER_OCTETS:])

    def release(self) -> None:
        """The kernel has followed: what was passed over may be said, unless it has changed again."""
        if self._later:
            self.pending.update(self._later)
            self._later.clear()

    @property
    def dumping(self) -> bool:
        return self._dump is not None

    def acknowledged(self, opaque: int, now: float) -> None:
        flight = self._flights.pop(opaque, None)
        if flight is not None:
            self._unheard = 0
            self._deaf_until = -inf
            self._window = min(self._window + 0.5, _WINDOWS[1])
            self._rtt_s += (now - flight.sent_at - self._rtt_s) / 8

    def tick(self, now: float) -> None:
        """What was not acknowledged in time is to be said again."""
        for opaque, flight in list(self._flights.items()):
            if flight.deadline > now:
                break
            del self._flights[opaque]
            if flight.sent_at >= self._lost_at:  # what was under way together was lost together, and counts once
                self._lost_at = now
                self._unheard += 1
            self._window = max(self._window / 2, _WINDOWS[0])
            self._rtt_s = min(2 * self._rtt_s, 0.5)
            self._again(flight)
        if self._unheard >= _DEAF_AFTER and self._lost_at == now:
            self._deaf_until = now + _DEAF_S
            for flight in self._flights.values():
                self._again(flight)
            self._flights.clear()

    def _again(self, flight: _Flight) -> None:
        """A retraction is in no dump: what was not acknowledged must never be forgotten."""
        self.pending.update(dict.fromkeys(flight.destinations))
        self.asks.extend(flight.asks)

    def deadline(self, now: float) -> float:
        """When `tick` or `packets` has something to do."""
        if self.replies:
            return now
        at = min(self.dump_at, next(iter(self._flights.values())).deadline if self._flights else inf)
        if (self.asks or self.pending or self._dump is not None) and len(self._flights) < int(self._window):
            at = min(at, now if self._pressing and now >= self._deaf_until else max(self._not_before, now))
        return at

    @property
    def _pressing(self) -> bool:
        return bool(self.asks) or len(self.pending) >= _FULL

    # --- packets ---------------------------------------------------------------------------------------------------

    def packets(self, room: int, now: float) -> list[bytes]:
        """What may leave now, each with at most `room` octets."""
        found = []
        if self.replies:
            found += packed(self.replies, room)
            self.replies = []
        deaf = now < self._deaf_until
        if now < self._not_before and (deaf or not self._pressing):
            return found
        if not (self.asks or self.pending or self._dump is not None):
            return found
        for _ in range(_SLOW_PACKETS if deaf else int(self._window) - len(self._flights)):
            packet = self._packet(room, now, deaf)
            if packet is None:
                break
            found.append(packet)
        self._not_before = now + (_SLOW_S if deaf else SPACING_S if not self.dumping else 0.0)
        return found

    def _packet(self, room: int, now: float, deaf: bool) -> bytes | None:
        writer = Writer(room)
        if not deaf:
            self._opaque = (self._opaque + 1) & 0xFFFF
            writer.add(encode_ack_request(self._opaque, _ACK_CS))
        header = writer.size
        asks: list[bytes] = []
        while self.asks and writer.add(self.asks[0]):
            asks.append(self.asks.popleft())
        said = self._urgent(writer, now) if not self.asks else []
        if not self.pending and not self.asks:
            said += self._more(writer, now)
        if writer.size == header:
            return None
        if not deaf:
            timeout = min(max(4 * self._rtt_s, _TIMEOUT_S[0]), _TIMEOUT_S[1])
            self._flights[self._opaque] = _Flight(said, asks, now, now + timeout)
        return writer.take()

    def _urgent(self, writer: Writer, now: float) -> list[Destination]:
        """Changed destinations, as many as fit."""
        said = []
        done = 0
        for destination in self.pending:
            if destination.blocked or destination in self._origin.dirty:
                self._later[destination] = None
            elif self._write(writer, destination, now, True) is False:
                break
            else:
                said.append(destination)
            done += 1
        if done == len(self.pending):
            self.pending = {}
        else:
            for destination in list(islice(self.pending, done)):
                del self.pending[destination]
        return said

    def _more(self, writer: Writer, now: float) -> list[Destination]:
        """The dump goes on."""
        said: list[Destination] = []
        dump = self._dump
        while dump is not None:
            for destination in dump:
                if destination.blocked or destination in self._origin.dirty:
                    self._later[destination] = None
                    continue
                written = self._write(writer, destination, now, False)
                if written is False:
                    self.pending[destination] = None  # it did not fit: the first of the next packet
                    return said
                if written:
                    said.append(destination)
            self._dump = dump = None
        return said

    def _write(self, writer: Writer, destination: Destination, now: float, urgent: bool) -> bool | None:
        """One Update; False if it does not fit, None if there is nothing to say."""
        link = self.neighbour.link
        origin = self._origin
        best = destination.selected
        if destination.own is not None:
            router_id, seqno, metric = origin.router_id, origin.seqno, destination.own
        elif best is not None and (destination.size == 16 or origin.transit_v4) and not destination.refused:
            if best.neighbour.link is link and link.given.settings.split_horizon:
                best = None
            else:
                router_id, seqno, metric = best.router_id, best.seqno, best.metric
        else:
            best = None
        next_hop = None
        if destination.size == 16:
            ae = AE_IPV6
        else:
            next_hop = link.given.ipv4
            ae = AE_V4_VIA_V6 if next_hop is None else AE_IPV4
        cs = self._interval_cs
        if destination.own is None and best is None:
            if not urgent:
                return None
            return writer.update(ae, destination.length, destination.prefix, 0, INFINITY, cs, None)
        if not writer.update(ae, destination.length, destination.prefix, seqno, metric, cs, router_id, next_hop):
            return False
        destination.advance(router_id, seqno, metric, now)
        return True


def packed(tlvs: list[bytes], room: int) -> list[bytes]:
    """TLVs in as few packets as hold them, in order."""
    found = []
    writer = Writer(room)
    for tlv in tlvs:
        if not writer.add(tlv):
            found.append(writer.take())
            writer.add(tlv)
    if not writer.empty:
        found.append(writer.take())
    return found
