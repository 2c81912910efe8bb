"""What a datagram does to a speaker: RFC 8966 section 3, TLV by TLV. Nothing here raises, whatever comes in.

Every table that a neighbour can fill has a bound: neighbours of a link, routes of a neighbour, router-ids of a prefix
(`table`), requests that wait (`requests`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from via6.babel import adjacency
from via6.babel.link import HOLD_FACTOR, Link, Neighbour
from via6.babel.model import INFINITY, PORT, Arrival, Hop
from via6.babel.requests import Ask
from via6.babel.table import Destination, Route, newer
from via6.babel.wire import (
    Ack,
    AckRequest,
    Hello,
    Ihu,
    RouteRequest,
    SeqnoRequest,
    Tlv,
    Update,
    decode,
    encode_ack,
)
from via6.prefix import Prefix, format_address, is_link_local

if TYPE_CHECKING:
    from via6.babel.speaker import Speaker

NEIGHBOURS: Final = 256
"""Of one link; more are not neighbours."""
_DUMP_PAUSE_S: Final = 1.0
_ASKS: Final = 1 << 16  # requests and denials that wait for one neighbour


def packet(speaker: Speaker, link: Link, arrival: Arrival, now: float) -> None:
    """One datagram on a link of ours."""
    link.packets_in += 1
    source = arrival.source
    if source == link.given.address:
        # Ours, by a loop of the link below; or another node's, and then neither hears the other.
        where = f"{format_address(source)} on {link.name}"
        speaker.note("own-address", f"packets come from our own address {where}: duplicate?", now, warning=True)
        link.reject(source, "own-address", now)
        return
    problem = _header(arrival)
    if problem:
        _bad(speaker, link, arrival, problem, now)
        return
    auth = speaker.auths[link.ifindex]
    verdict = auth.check(arrival, now)
    if verdict.proven:
        link.hasten(now)  # the first Hellos of both sides were dropped while they proved that they are there
    for answer in verdict.reply:
        speaker.send(link, answer.destination, [answer.body])
    if verdict.problem and verdict.problem != "challenged":
        _bad(speaker, link, arrival, verdict.problem, now, dropped=not verdict.accepted)
    if not verdict.accepted:
        if verdict.problem == "challenged":
            link.reject(source, "challenged", now)
        return
    decoded = decode(arrival.data, source)
    for word in decoded.problems:
        _bad(speaker, link, arrival, word, now, dropped=not decoded.tlvs)
    if link.rejected and (decoded.tlvs or not decoded.problems):
        link.rejected.pop(source, None)
    neighbour = link.neighbours.get(source)
    if neighbour is None:
        if not any(type(tlv) is Hello for tlv in decoded.tlvs):
            return
        if len(link.neighbours) >= NEIGHBOURS:
            speaker.note("too-many-neighbours", f"more than {NEIGHBOURS} neighbours on {link.name}", now, True)
            return
        neighbour = link.neighbours[source] = Neighbour(link, source, now)
        link.hasten(now)
    neighbour.heard_at = now
    neighbour.authenticated = verdict.authenticated
    neighbour.signed = bool(decoded.trailer)
    _tlvs(speaker, neighbour, decoded.tlvs, now)


def _header(arrival: Arrival) -> str:
    if arrival.port != PORT:
        return "bad-port"
    if not is_link_local(arrival.source):
        return "bad-source"
    if arrival.hop_limit not in (-1, 1):
        return "bad-hop-limit"
    return ""


def _bad(speaker: Speaker, link: Link, arrival: Arrival, word: str, now: float, dropped: bool = True) -> None:
    if dropped:
        link.packets_bad += 1
        link.reject(arrival.source, word, now)
    who = format_address(arrival.source)
    speaker.note(word, f"{word.replace('-', ' ')} in a packet from {who} on {link.name}", now, True)


def _tlvs(speaker: Speaker, neighbour: Neighbour, tlvs: list[Tlv], now: float) -> None:
    for tlv in tlvs:
        kind = type(tlv)
        if kind is Update:
            assert isinstance(tlv, Update)
            if tlv.metric >= INFINITY:
                _retraction(speaker, neighbour, tlv)
            else:
                _update(speaker, neighbour, tlv, now)
        elif isinstance(tlv, Hello):
            _hello(speaker, neighbour, tlv, now)
        elif isinstance(tlv, Ihu):
            _ihu(speaker, neighbour, tlv, now)
        elif isinstance(tlv, AckRequest):
            outlet = speaker.outlets.get(neighbour)
            if outlet is not None:
                outlet.replies.append(encode_ack(tlv.opaque))
            else:
                speaker.send(neighbour.link, neighbour.address, [encode_ack(tlv.opaque)])
        elif isinstance(tlv, Ack):
            outlet = speaker.outlets.get(neighbour)
            if outlet is not None:
                outlet.acknowledged(tlv.opaque, now)
        elif isinstance(tlv, RouteRequest):
            _route_request(speaker, neighbour, tlv, now)
        elif isinstance(tlv, SeqnoRequest):
            _seqno_request(speaker, neighbour, tlv, now)


# --- links ---------------------------------------------------------------------------------------------------------


def _hello(speaker: Speaker, neighbour: Neighbour, tlv: Hello, now: float) -> None:
    history = neighbour.unicast if tlv.unicast else neighbour.multicast
    worked = neighbour.rxcost
    outlet = speaker.outlets.get(neighbour)
    if history.hello(tlv.seqno, tlv.interval_cs / 100, now) and outlet is not None:
        # It has forgotten what it was told; its own request may come while we still tell its former life.
        outlet.dump_at = min(outlet.dump_at, max(outlet.dumped_at + _DUMP_PAUSE_S, now))
    if neighbour.rxcost != worked and neighbour.link.hello_at <= now:
        neighbour.link.until_ihu = 0  # in one packet with the Hello: who does not know us yet ignores an IHU alone
    elif neighbour.rxcost != worked:
        # It waits for our IHU to know that it is heard, or that it is not.
        speaker.send(neighbour.link, neighbour.address, [adjacency.ihu(neighbour, now)])
    adjacency.recost(speaker, neighbour, now)


def _ihu(speaker: Speaker, neighbour: Neighbour, tlv: Ihu, now: float) -> None:
    if tlv.address is not None and tlv.address != neighbour.link.given.address:
        return
    neighbour.txcost = tlv.rxcost
    neighbour.ihu_deadline = now + HOLD_FACTOR * max(tlv.interval_cs, 1) / 100
    adjacency.recost(speaker, neighbour, now)


# --- routes --------------------------------------------------------------------------------------------------------


def _retraction(speaker: Speaker, neighbour: Neighbour, tlv: Update) -> None:
    rivals = neighbour.link.rivals
    if tlv.ae == 0:
        routes = list(neighbour.routes.values())
        rivals.clear()
    else:
        if rivals:
            rivals.pop((tlv.prefix, tlv.length), None)
        route = neighbour.routes.get((tlv.prefix, tlv.length))
        routes = [route] if route is not None else []
    for route in routes:
        if route.advertised < INFINITY:
            route.advertised = route.metric = INFINITY
            speaker.dirty[route.destination] = None


def _update(speaker: Speaker, neighbour: Neighbour, tlv: Update, now: float) -> None:
    """RFC 8966 section 3.5.3."""
    _, length, prefix, seqno, advertised, interval_cs, router_id, next_hop = tlv
    key = prefix, length
    route = neighbour.routes.get(key)
    if router_id is None or next_hop is None or router_id == speaker.router_id:
        if route is not None or key in neighbour.link.rivals:
            _retraction(speaker, neighbour, tlv)
        return
    if route is None:
        route = _fresh(speaker, neighbour, tlv, now)
        if route is None:
            return
        destination = route.destination
    else:
        destination = route.destination
        same = route.router_id == router_id
        if same and route.seqno == seqno and route.advertised == advertised and route.hop.address == next_hop:
            # The commonest: nothing but a refreshment. What cannot be used, and should be, is asked for once more.
            route.interval_s = interval_s = max(interval_cs, 1) / 100
            route.expires = now + HOLD_FACTOR * interval_s
            route.asked = False
            best = destination.selected
            if best is not route and (best is None or route.metric < best.metric):
                speaker.dirty[destination] = None
            return
        if same and route is destination.selected and _ignored(speaker, destination, route, tlv, now):
            return
    hop = neighbour.hop
    if next_hop != hop.address:
        hop = Hop(neighbour.link.ifindex, next_hop)
        if len(next_hop) == 4 and neighbour.link.given.ipv4 is None:
            speaker.note("no-ipv4", f"an IPv4 next hop on {neighbour.link.name}, which has no IPv4 address", now, True)
            _retraction(speaker, neighbour, tlv)
            return
    route.router_id = router_id
    route.seqno = seqno
    route.advertised = advertised
    route.metric = min(advertised + neighbour.cost, INFINITY)
    if route.hop != hop:
        route.hop = hop
    route.interval_s = interval_s = max(interval_cs, 1) / 100
    route.expires = now + HOLD_FACTOR * interval_s
    route.asked = False
    speaker.dirty[destination] = None


def _fresh(speaker: Speaker, neighbour: Neighbour, tlv: Update, now: float) -> Route | None:
    """A new route, if there is room and the policy takes it."""
    prefix, length = tlv.prefix, tlv.length
    if len(prefix) not in speaker.families:
        return None
    shown = Prefix(prefix, length)
    allowed = neighbour.link.given.settings.allowed
    if (allowed is not None and shown not in allowed) or not speaker.accept(shown):
        known = speaker.table.find(prefix, length)
        if known is not None and known.own is not None and tlv.router_id is not None:
            until = now + HOLD_FACTOR * max(tlv.interval_cs, 1) / 100
            neighbour.link.rival((prefix, length), tlv.router_id, neighbour.address, until)
        return None
    if len(neighbour.routes) >= speaker.max_routes:
        text = f"{neighbour} announces more than {speaker.max_routes} prefixes; the rest is ignored"
        speaker.note("too-many-routes", text, now, True)
        return None
    destination = speaker.table.make(prefix, length)
    route = Route(destination, neighbour, now)
    destination.routes.append(route)
    neighbour.routes[prefix, length] = route
    interval_s = max(tlv.interval_cs, 1) / 100
    speaker.wheel.put(route, now + (HOLD_FACTOR - 1.5) * interval_s)
    return route


def _ignored(speaker: Speaker, destination: Destination, route: Route, tlv: Update, now: float) -> bool:
    """An infeasible update for the selected route, from the same origin, may be ignored (section 3.5.3): it is as long
    as there is no other way, because the old one still is free of loops. A newer seqno is asked for."""
    assert tlv.router_id is not None
    source = destination.source(tlv.router_id)
    if source is None or newer(tlv.seqno, source.seqno):
        return False
    if tlv.seqno == source.seqno and tlv.metric < source.metric:
        return False
    speaker.ask(Ask(destination, tlv.router_id, destination.wanted_seqno(tlv.router_id)), route.neighbour, now)
    others = (r for r in destination.routes if r is not route and r.metric < INFINITY)
    return not any(destination.feasible(other) for other in others)


# --- requests ------------------------------------------------------------------------------------------------------


def _route_request(speaker: Speaker, neighbour: Neighbour, tlv: RouteRequest, now: float) -> None:
    """RFC 8966 section 3.8.1.1."""
    outlet = speaker.outlets.get(neighbour)
    if outlet is None:
        return
    if tlv.ae == 0:
        if not outlet.dumping and now - outlet.dumped_at >= _DUMP_PAUSE_S:
            speaker.dump(outlet, now)
        elif outlet.asked:  # not for the first time: it may have lost us, and with us the beginning
            outlet.dump_at = min(outlet.dump_at, max(outlet.dumped_at + _DUMP_PAUSE_S, now))
        outlet.asked = True
        return
    destination = speaker.table.find(tlv.prefix, tlv.length)
    if destination is not None:
        outlet.pending[destination] = None
    elif len(outlet.asks) < _ASKS:
        outlet.deny(tlv.prefix, tlv.length)


def _seqno_request(speaker: Speaker, neighbour: Neighbour, tlv: SeqnoRequest, now: float) -> None:
    """RFC 8966 section 3.8.1.2."""
    destination = speaker.table.find(tlv.prefix, tlv.length)
    outlet = speaker.outlets.get(neighbour)
    if destination is None or outlet is None:
        return
    if destination.own is not None:
        if tlv.router_id == speaker.router_id and newer(tlv.seqno, speaker.seqno):
            speaker.raise_seqno()
        outlet.pending[destination] = None
        return
    best = destination.selected
    if best is None:
        return
    if best.router_id != tlv.router_id or not newer(tlv.seqno, best.seqno):
        outlet.pending[destination] = None
        return
    if tlv.hops < 2 or len(outlet.asks) >= _ASKS:
        return
    ways = _forward_to(destination, neighbour)
    if ways:
        ask = Ask(destination, tlv.router_id, tlv.seqno)
        turn = speaker.requests.forward(ask, now)
        if turn:
            speaker.send_request(ways[(turn - 1) % len(ways)].neighbour, ask, tlv.hops - 1)


def _forward_to(destination: Destination, asker: Neighbour) -> list[Route]:
    """Routes to whose neighbours a request may be passed on, the first of them first: never back, and to a feasible
    one if there is any. The selected one comes before others as good: it is its seqno that we announce, and an answer
    by another way would leave it, and who asked, as it was until the next periodic update."""
    there = [route for route in destination.routes if route.neighbour is not asker and route.metric < INFINITY]
    ways = [route for route in there if destination.feasible(route)] or there
    return sorted(ways, key=lambda route: (route is not destination.selected, route.metric, route.hop))
