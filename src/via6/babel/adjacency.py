"""What happens between neighbours: who is there, what the link to it costs, Hellos and IHUs (RFC 8966 section 3.4)."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from via6.babel.link import IHU_PER_HELLO, Link, Neighbour
from via6.babel.model import INFINITY, BabelLink, HopLeft
from via6.babel.outlet import Outlet, packed
from via6.babel.wire import encode_hello, encode_ihu
from via6.prefix import Prefix

if TYPE_CHECKING:
    from via6.babel.speaker import Speaker

UNSCHEDULED_S: Final = 300.0
"""Who said only unscheduled Hellos, and then nothing for so long, is forgotten: no timer runs for it."""


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
        # It may have been our neighbour before, and may not have heard of what we retracted meanwhile.
        gone = (d for d in speaker.table.all() if d.told is None and d.held_until > now)
        speaker.outlets[neighbour].pending.update(dict.fromkeys(gone))
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
        for other in neighbour.link.neighbours.values():  # to a hop that others announce, too, its routes come back
            kept = other.routes.values() if other is not neighbour else ()
            speaker.dirty.update({r.destination: None for r in kept if r.hop in hops and r is r.destination.selected})
    speaker.left += [HopLeft(hop) for hop in sorted(hops)]
    for key in [key for key in speaker.ways if key[0] in hops]:
        del speaker.ways[key]


def revised(speaker: Speaker, link: Link, before: BabelLink, now: float) -> None:
    """What is configured for a link has changed, or its IPv4 address."""
    given, allowed = link.given, link.given.settings.allowed
    for neighbour in link.neighbours.values():
        recost(speaker, neighbour, now)
        if given.ipv4 == before.ipv4 and allowed == before.settings.allowed:
            continue
        for route in list(neighbour.routes.values()):
            destination = route.destination
            denied = allowed is not None and Prefix(destination.prefix, destination.length) not in allowed
            if denied or (given.ipv4 is None and len(route.hop.address) == 4):
                speaker.flush(route)
        if given.ipv4 != before.ipv4 and neighbour in speaker.outlets:
            speaker.dump(speaker.outlets[neighbour], now)  # our IPv4 routes have another next hop


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
    auth = speaker.auths.get(neighbour.link.ifindex)
    if auth is not None:
        auth.forget(neighbour.address)  # RFC 8967 section 4.4
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
        elif neighbour.deadline() == inf and now - neighbour.heard_at > UNSCHEDULED_S:
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
