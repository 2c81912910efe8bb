"""A destination that something happened to: what is selected now, and what follows from it.

Three things may follow: another Way for the FIB, a seqno request, and an Update. The Update waits, as `blocked`, until
the kernel has the new Way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from via6.babel.link import Link
from via6.babel.model import INFINITY, Hop, Way
from via6.babel.requests import Ask
from via6.babel.table import Destination, Guard, newer
from via6.prefix import Prefix

if TYPE_CHECKING:
    from via6.babel.speaker import Speaker

HOLD_S: Final = 60.0
"""How long a lost prefix stays unreachable: longer than a route that nobody refreshes lives at our peers."""

_IMPROVE_S: Final = 10.0
"""Between two questions for a better way to one prefix."""

_LOST: Final = Way(None, None)
_WAYS: Final = 1 << 16

State = tuple[bytes, int, int] | None
"""What is announced: router-id, seqno and metric; None: nothing."""


def review(speaker: Speaker, destination: Destination, now: float) -> None:
    """Selects, and finds what must be installed, asked and announced."""
    before = destination.selected
    if destination.guard is not None and destination.guard.until <= now:
        destination.guard = None
    destination.select()
    best, backup = destination.selected, destination.backup
    state: State = None
    if best is not None:
        destination.way = _way(speaker, best.hop, backup.hop if backup is not None else None)
        if (destination.size == 16 or speaker.transit_v4) and not destination.refused:
            state = best.router_id, best.seqno, best.metric
    elif destination.own is not None:
        destination.way, state = None, (speaker.router_id, speaker.seqno, destination.own)
    else:
        _without(speaker, destination, now)
    if speaker.requests and state is not None and speaker.requests.satisfied(destination, state[0], state[1]):
        destination.told = destination.told and (destination.told[0], 0, -1)  # somebody waits for it: so it differs
    if destination.routes:
        _improve(speaker, destination, now)
        if destination.guard is not None and best is not None and backup is None:
            _unbar(speaker, destination, destination.guard, now)
    here = best.neighbour.link if best is not None else None
    there = before.neighbour.link if before is not None else None
    if _differs(destination.told, state):
        # Split horizon: who is on the link that the route came by hears of it only if it had heard of another way.
        silent = here is not None and here.given.settings.split_horizon
        skip = here if silent and (destination.told is None or there is here) else None
        _tell(speaker, destination, state, [link for link in speaker.links.values() if link is not skip], now)
    elif state is not None and here is not there:
        # The same in other words to the rest, but the two links have changed their parts.
        _tell(speaker, destination, state, [link for link in (here, there) if link is not None], now)
    elif state is not None and destination.told is not None and state[1] != destination.told[1]:
        # Nobody need hear of it now. But a dump must not say it before the kernel has dropped the backup.
        _tell(speaker, destination, state, [], now)


def _tell(speaker: Speaker, destination: Destination, state: State, links: list[Link], now: float) -> None:
    if destination.told is not None and (source := destination.source(destination.told[0])) is not None:
        source.touched = now  # until now it stood for the last Update, which may be older than SOURCE_GC_S
    if state is None and destination.told is not None:
        destination.held_until = now + HOLD_S  # so long somebody who does not hear us now may have a route by us
    destination.told = state
    destination.blocked = True
    speaker.unsettled.append((destination, links))


def _differs(told: State, state: State) -> bool:
    """Worth an Update by itself. A newer seqno alone is not, unless somebody waits for it."""
    if state is None or told is None:
        return state is not told
    return state[0] != told[0] or state[2] != told[2]


def _without(speaker: Speaker, destination: Destination, now: float) -> None:
    """No route: what was reachable stays unreachable for a while, so that no shorter prefix is used instead (RFC 8966
    section 2.8). Not what our own policy refuses: another route to it may be the reason."""
    if destination.way is None:
        return
    if not speaker.accept(Prefix(destination.prefix, destination.length)):
        destination.way = None
    elif destination.way is not _LOST:
        destination.way = _LOST
        destination.held_until = now + HOLD_S
        speaker.held.append((destination.held_until, destination))
    elif destination.held_until <= now:
        destination.way = None


def _improve(speaker: Speaker, destination: Destination, now: float) -> None:
    """Asks for a newer seqno if only an infeasible route is left, or one would be better (RFC 8966 section 3.8.2).
    Only neighbours that announce such a route are asked: all of them when none is left.

    A better way is not urgent. Its neighbour may just not have heard of the seqno that we have by a quicker path; who
    asked for a newer one then would do so for ever, and so would all others. So it is asked for ours: somebody on its
    way has that, and answers, and no origin raises its seqno."""
    best = destination.selected
    limit = best.metric if best is not None else INFINITY
    if destination.own is not None or (best is not None and len(destination.routes) == 1):
        return
    if best is not None and now < destination.improve_at:
        return
    for route in destination.routes:
        if route.metric >= limit or route is best or destination.feasible(route):
            continue
        if best is not None:
            source = destination.source(route.router_id)
            destination.improve_at = now + _IMPROVE_S
            if source is not None and newer(source.seqno, route.seqno):
                speaker.send_request(route.neighbour, Ask(destination, route.router_id, source.seqno))
                continue
        seqno = destination.wanted_seqno(route.router_id)
        only = route.neighbour if best is not None else None
        speaker.ask(Ask(destination, route.router_id, seqno), only, now)


def _unbar(speaker: Speaker, destination: Destination, guard: Guard, now: float) -> None:
    """After a crash the guard bars every way but the one in use, and so its backup, until a newer seqno is heard. All
    who know a way are asked for one, so that the backup is not missing for minutes."""
    if now < destination.improve_at:
        return
    for route in destination.routes:
        if route.metric < INFINITY and guard.bars(route):
            destination.improve_at = now + _IMPROVE_S
            seqno = (guard.first.get(route.router_id, route.seqno) + 1) & 0xFFFF
            speaker.ask(Ask(destination, route.router_id, seqno), None, now)
            return


def _way(speaker: Speaker, primary: Hop, backup: Hop | None) -> Way:
    """The one Way of this content."""
    way = speaker.ways.get((primary, backup))
    if way is None:
        if len(speaker.ways) > _WAYS:
            speaker.ways.clear()
        way = speaker.ways[primary, backup] = Way(primary, backup)
    return way
