"""What happens between neighbours: who is there, what the link to it costs, Hellos and IHUs (RFC 8966 section 3.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from via6.babel.link import IHU_PER_HELLO, Link, Neighbour
from via6.babel.model import INFINITY, HopLeft
from via6.babel.outlet import Outlet, packed
from via6.babel.wire import encode_hello, encode_ihu

if TYPE_CHECKING:
    from via6.babel.speaker import Speaker


def recost(speaker: Speaker, neighbour: Neighbour, now: float) -> None:
    """The cost of the link to a neighbour may have changed."""
    cost = neighbour.price()
    before = neighbour.cost
    if cost == before:
        return
    neighbour.cost = cost
    if cost >= INFINITY:
        _leave_hops(speaker, neighbour)
        speaker.outlets.pop(neighbour, None)
        speaker.note("neighbour-down", f"neighbour {neighbour} is lost", now)
    elif before >= INFINITY:
        speaker.outlets[neighbour] = Outlet(speaker, neighbour, speaker.chance.getrandbits(16))
        speaker.note("neighbour-up", f"neighbour {neighbour} is there, cost {cost}", now)
        speaker.dump(speaker.outlets[neighbour], now)
        speaker.ask_everything(neighbour, now)
    for route in neighbour.routes.values():
        route.metric = min(route.advertised + cost, INFINITY)
        speaker.dirty[route.destination] = None


def _leave_hops(speaker: Speaker, neighbour: Neighbour) -> None:
    """Whatever goes to this neighbour goes by its backup from now on. So a Way with this primary is no more what the
    FIB has: should the neighbour be back before the review, it is a new one."""
    hops = {neighbour.hop}
    if neighbour.link.given.ipv4 is not None:
        hops |= {route.hop for route in neighbour.routes.values()}
    speaker.left += [HopLeft(hop) for hop in sorted(hops)]
    for key in [key for key in speaker.ways if key[0] in hops]:
        del speaker.ways[key]


def fall(speaker: Speaker, link: Link, now: float) -> None:
    """Nothing goes over this link any more."""
    for neighbour in list(link.neighbours.values()):
        drop(speaker, neighbour, now)


def drop(speaker: Speaker, neighbour: Neighbour, now: float) -> None:
    """Forgets a neighbour and all that it announced."""
    if neighbour.cost < INFINITY:
        _leave_hops(speaker, neighbour)
        speaker.note("neighbour-down", f"neighbour {neighbour} is lost", now)
    neighbour.link.neighbours.pop(neighbour.address, None)
    speaker.outlets.pop(neighbour, None)
    for route in list(neighbour.routes.values()):
        route.metric = route.advertised = INFINITY
        speaker.flush(route)


def tick(speaker: Speaker, link: Link, now: float) -> None:
    """Hellos and IHUs that should have come."""
    for neighbour in list(link.neighbours.values()):
        if neighbour.deadline() <= now:
            neighbour.tick(now)
            recost(speaker, neighbour, now)
            if neighbour.silent:
                drop(speaker, neighbour, now)


def hellos(speaker: Speaker, link: Link, now: float) -> list[bytes]:
    """A Hello to all, and every third time, or when somebody waits for it, what we hear of them: packets."""
    link.seqno = (link.seqno + 1) & 0xFFFF
    tlvs = [encode_hello(link.seqno, max(link.given.settings.hello_interval_ms // 10, 1))]
    link.until_ihu -= 1
    if link.until_ihu <= 0 or link.burst:
        link.until_ihu = IHU_PER_HELLO
        due = (n for n in link.neighbours.values() if n.ihu_sent_at + link.hello_s / 2 < now or not link.burst)
        tlvs += [ihu(neighbour, now) for neighbour in due]
    link.hello_sent(now, speaker.chance.random())
    return packed(tlvs, link.room - speaker.auths[link.ifindex].overhead)


def ihu(neighbour: Neighbour, now: float) -> bytes:
    """What we hear of a neighbour."""
    neighbour.ihu_sent_at = now
    cs = min(max(neighbour.link.given.settings.hello_interval_ms * IHU_PER_HELLO // 10, 1), INFINITY)
    return encode_ihu(neighbour.address, neighbour.rxcost, cs)
