"""Links and the neighbours on them: Hello and IHU histories, costs, timers (RFC 8966 sections 3.4 and A.1, A.2).

A link works in one direction if at most one of the last three expected Hellos was missed (2-out-of-3, section A.2.1).
A neighbour of which fewer are expected yet is judged by those: so the first Hello makes it a neighbour. Costs are
symmetric in nothing: what the neighbour announces in its IHUs is what sending to it costs.
"""

from __future__ import annotations

from math import inf
from typing import Final

from via6.babel.model import INFINITY, BabelLink, Hop
from via6.babel.table import Route
from via6.prefix import Address, format_address

_KEPT: Final = 16  # Hellos in a history
_JUDGED: Final = 3
_MISSES: Final = 1
IHU_PER_HELLO: Final = 3
HOLD_FACTOR: Final = 3.5
_REJECTED: Final = 16  # sources on one link
_REJECTED_S: Final = 60.0
_RIVALS: Final = 64


class History:
    """Hellos of one kind (multicast or unicast) of one neighbour. `bits` has the newest in bit 0."""

    __slots__ = ("bits", "deadline", "expected", "interval_s", "length")

    def __init__(self) -> None:
        self.bits = 0
        self.length = 0
        self.expected = 0
        self.interval_s = 0.0
        self.deadline = inf

    def hello(self, seqno: int, interval_s: float, now: float) -> bool:
        """One has come (RFC 8966 section A.1); an unscheduled one has interval 0. True: its sender started again."""
        again = False
        if self.length:
            ahead = (seqno - self.expected) & 0xFFFF
            if ahead <= _KEPT:
                self._shift(ahead)  # that many were missed
            elif 0x10000 - ahead <= _KEPT:
                behind = 0x10000 - ahead  # it sends less often than we thought, or the net brought it twice
                self.bits >>= behind
                self.length = max(self.length - behind, 0)
            else:
                self.bits = self.length = 0
                again = True
        self._shift(1)
        self.bits |= 1
        self.expected = (seqno + 1) & 0xFFFF
        if interval_s:
            self.interval_s = interval_s
            self.deadline = now + 1.5 * interval_s
        return again

    def tick(self, now: float) -> bool:
        """Writes down what should have come by now; True if anything was missed."""
        missed = False
        for _ in range(_KEPT):
            if self.deadline > now:
                break
            self._shift(1)
            self.expected = (self.expected + 1) & 0xFFFF
            self.deadline += self.interval_s
            missed = True
        else:
            self.deadline = now + self.interval_s
        if missed and not self.bits:
            self.deadline = inf
        return missed

    def _shift(self, count: int) -> None:
        self.bits = (self.bits << count) & 0xFFFF
        self.length = min(self.length + count, _KEPT)

    @property
    def works(self) -> bool:
        judged = min(self.length, _JUDGED)
        received = (self.bits & ((1 << judged) - 1)).bit_count()
        return received > 0 and judged - received <= _MISSES

    def __str__(self) -> str:
        """`1110`, the newest first."""
        return format(self.bits, f"0{self.length}b")[::-1] if self.length else ""


class Neighbour:
    """One neighbour on one link. `cost` is what its announced metrics grow by, INFINITY while the link does not work
    in both directions. `routes` is what it announced."""

    __slots__ = (
        "address", "authenticated", "cost", "heard_at", "hop", "ihu_deadline", "ihu_sent_at", "link", "multicast",
        "routes", "signed", "txcost", "unicast",
    )  # fmt: skip

    def __init__(self, link: Link, address: Address, now: float) -> None:
        self.link = link
        self.address = address
        self.hop = Hop(link.ifindex, address)
        self.multicast = History()
        self.unicast = History()
        self.txcost = INFINITY
        self.ihu_deadline = inf
        self.cost = INFINITY
        self.routes: dict[tuple[Address, int], Route] = {}
        self.heard_at = now
        self.ihu_sent_at = -inf
        self.authenticated = False
        self.signed = False

    def __str__(self) -> str:
        return f"{format_address(self.address)} on {self.link.name}"

    @property
    def rxcost(self) -> int:
        """What we announce in our IHUs."""
        return self.link.cost if self.multicast.works or self.unicast.works else INFINITY

    def price(self) -> int:
        """The cost as it is now (RFC 8966 section A.2.1). Never 0, whatever was heard: metrics must grow (3.5.2)."""
        return max(self.txcost, 1) if self.rxcost < INFINITY else INFINITY

    def tick(self, now: float) -> None:
        self.multicast.tick(now)
        self.unicast.tick(now)
        if self.ihu_deadline <= now:
            self.txcost, self.ihu_deadline = INFINITY, inf

    def deadline(self) -> float:
        return min(self.multicast.deadline, self.unicast.deadline, self.ihu_deadline)

    @property
    def silent(self) -> bool:
        """Nothing was heard in the whole history: it may be forgotten."""
        return not (self.multicast.bits or self.unicast.bits)


class Link:
    """Our end of a link: settings, the Hello timer, and the neighbours by address."""

    def __init__(self, given: BabelLink, seqno: int, now: float) -> None:
        self.given = given
        self.ifindex = given.ifindex
        self.neighbours: dict[Address, Neighbour] = {}
        self.seqno = seqno
        self.hello_at = now
        self.until_ihu = 0
        self.burst = 2
        self.burst_at = now
        self.packets_in = 0
        self.packets_out = 0
        self.packets_bad = 0
        self.rejected: dict[Address, tuple[str, int, float]] = {}
        """Sources of which no packet is taken: why, how many, and when the last one came."""
        self.rivals: dict[tuple[Address, int], tuple[bytes, Address, float]] = {}
        """Prefixes of our own that another router announces, too: which, who says so, and until when that holds."""
        self.clock = now

    @property
    def name(self) -> str:
        return self.given.name

    @property
    def cost(self) -> int:
        return self.given.settings.cost

    @property
    def hello_s(self) -> float:
        return self.given.settings.hello_interval_ms / 1000

    @property
    def update_s(self) -> float:
        return self.given.settings.update_interval_ms / 1000

    @property
    def room(self) -> int:
        """Octets of a packet, header and trailer included (RFC 8966 section 4)."""
        return max(self.given.mtu - 48, 512)

    def hasten(self, now: float) -> None:
        """Somebody new is there: two early Hellos, so that peers that want two of three need not wait. Not more often
        than once per interval."""
        self.hello_at = min(self.hello_at, now)
        if now - self.burst_at >= self.hello_s:
            self.burst, self.burst_at = 2, now

    def reject(self, source: Address, reason: str, now: float) -> None:
        """A packet was dropped whole. Of many sources those that spoke last are kept."""
        self.clock = now
        _, count, _ = self.rejected.pop(source, ("", 0, now))
        self.rejected[source] = reason, count + 1, now
        if len(self.rejected) > _REJECTED:
            del self.rejected[next(iter(self.rejected))]

    def rival(self, key: tuple[Address, int], router_id: bytes, neighbour: Address, until: float) -> None:
        """A neighbour announces what is our own."""
        if key in self.rivals or len(self.rivals) < _RIVALS:
            self.rivals[key] = router_id, neighbour, until

    def _forgive(self, now: float) -> None:
        """Who has fallen silent is rejected no longer, and what is not repeated is no rival."""
        self.clock = now
        for source in [s for s, (_, _, at) in self.rejected.items() if now - at > _REJECTED_S]:
            del self.rejected[source]
        for key in [k for k, (_, _, until) in self.rivals.items() if until < now]:
            del self.rivals[key]

    def hello_sent(self, now: float, jitter: float) -> None:
        """Sets the timer; `jitter` is 0 to 1. Never later than announced."""
        self._forgive(now)
        if self.burst:
            self.burst -= 1
            self.hello_at = now + min(0.05, self.hello_s / 4)
        else:
            self.hello_at = now + self.hello_s * (0.98 + 0.02 * jitter)
