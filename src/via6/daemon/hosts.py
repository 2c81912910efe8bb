"""The router's side of hosts: their /32s are routed and announced while they answer.

A host with one IPv4 address on a link without IPv4 cannot be found by ARP, and draft-ietf-intarea-ipv6-resolved-gateway
leaves open how its router learns the way back. Here it stands in a `[[host]]` entry, by the MAC or by the link-local
address of the host, and IPv6 neighbour discovery tells whether the host is there (RFC 4861 section 7.3): its entry in
the kernel's table is put into the state PROBE every two seconds, upon which the kernel asks the host three times within
three seconds, and tells us REACHABLE or FAILED. So a host that goes is withdrawn after five seconds at the latest, at
once if its link loses the carrier.

Of a host given by its MAC the address is first guessed, from the MAC (modified EUI-64, RFC 4291 appendix A); if that
one does not answer, all nodes of the link are pinged: to answer they must solicit us, which puts them, with their MAC,
into the table.

`HostWatch` decides and is pure, `Prober` does what it asks for.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final, NamedTuple

from via6.babel.model import Event, Hop
from via6.config import RouteSpec, ViaSpec
from via6.config_babel import HostSpec
from via6.kernel.socket import NetlinkSocket
from via6.model import Change, KernelEvent, Link, Neighbour, Snapshot
from via6.netlink.objects import NDA_DST, NDMSG, RTM_NEWNEIGH
from via6.netlink.wire import NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, attribute, message
from via6.prefix import AF_INET6, Address, Prefix, format_address, is_link_local

ASK_S: Final = 2.0
"""Between two questions to a host that answers."""
AGAIN_S: Final = 5.0
"""Between two questions to one that does not; one that comes back speaks by itself, most likely, and is asked then."""
ASKS_PER_S: Final = 200
"""Of all hosts together: with more than 400 of them each is asked less often."""

_LATEST_S: Final = 4.0  # the kernel says FAILED after 3 s; should it say nothing at all, this counts
_TRIED_S: Final = 2.5
_DOUBT_S: Final = 1.0  # an entry that was flushed is asked for again before it counts as gone
_TURN_S: Final = 0.1  # questions due within this go out together

ALL_NODES: Final = bytes.fromhex("ff020000000000000000000000000001")

_GOOD: Final = frozenset({"REACHABLE", "PERMANENT", "NOARP"})
_KNOWN: Final = frozenset({"STALE", "DELAY", "PROBE"})
_IFF_NOARP: Final = 0x80  # linux/if.h
_NUD_PROBE: Final = 0x10  # linux/neighbour.h
_NTF_USE: Final = 0x01
_ICMP6_FILTER: Final = 1  # linux/icmpv6.h: types whose bit is set are not wanted
_ECHO: Final = struct.pack("!BBHHH", 128, 0, 0, 0x7669, 1)  # the kernel fills the checksum in


class Ask(NamedTuple):
    """A neighbour to be asked whether it is there. The address ALL_NODES: ping the whole link."""

    ifindex: int
    address: Address


def link_local_of(mac: bytes) -> Address:
    """fe80::/64 with the modified EUI-64 of a MAC of 6 octets (RFC 4291 appendix A)."""
    return b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]


def _prefixes(host: HostSpec) -> tuple[Prefix, ...]:
    return tuple(Prefix(address, 32) for address in host.addresses)


@dataclass(slots=True)
class _Watched:
    """One entry. `neighbour` is where the host is looked for (b"": its link is not there); `failed`: it was asked and
    did not answer; `tunnel`: the link has no neighbour discovery, whoever is at the other end is the host."""

    host: HostSpec
    ifindex: int = 0
    neighbour: Address = b""
    alive: bool = False
    failed: bool = False
    tunnel: bool = False
    ask_at: float = inf
    doubt_at: float = inf  # not alive any more if nothing is heard until then


class HostWatch:
    """Which hosts answer. Fed with dumps (links and neighbours) and notifications of a watch with neighbours."""

    def __init__(self, hosts: Sequence[HostSpec], snapshot: Snapshot, now: float) -> None:
        self._hosts: list[_Watched] = []
        self._names: dict[str, Link] = {}
        self._by_address: dict[tuple[int, Address], list[_Watched]] = {}
        self._by_mac: dict[tuple[int, bytes], list[_Watched]] = {}
        self._ping_at: dict[int, float] = {}
        self._events: list[Event] = []
        self._hosts = [_Watched(host) for host in _probed(hosts)]
        self.synchronise(snapshot, now)

    def reload(self, hosts: Sequence[HostSpec], now: float) -> None:
        """Other hosts are configured now; what is known of those that stay is kept."""
        before = {(w.host.interface, w.host.mac, w.host.via): w for w in self._hosts}
        self._hosts = []
        for host in _probed(hosts):
            kept = before.pop((host.interface, host.mac, host.via), None) or _Watched(host)
            kept.host = host
            self._hosts.append(kept)
            self._place(kept, self._names.get(host.interface), now)
        self._index()

    def synchronise(self, snapshot: Snapshot, now: float) -> None:
        """A dump of links and neighbours is the truth."""
        self._names = dict(snapshot.by_name)
        for watched in self._hosts:
            self._place(watched, self._names.get(watched.host.interface), now)
        self._index()
        seen = {(n.ifindex, n.address) for n in snapshot.neighbours}
        for neighbour in snapshot.neighbours:
            self._neighbour(neighbour, False, now)
        for watched in self._hosts:
            if watched.alive and not watched.tunnel and (watched.ifindex, watched.neighbour) not in seen:
                self._doubt(watched, now)

    def observe(self, events: Iterable[KernelEvent], now: float) -> None:
        """Notifications, in order; after an Overrun call `synchronise`."""
        for event in events:
            if not isinstance(event, Change):
                continue
            if isinstance(event.object, Neighbour):
                self._neighbour(event.object, event.gone, now)
            elif isinstance(event.object, Link):
                self._link(event.object, event.gone, now)

    def tick(self, now: float) -> list[Ask]:
        """What is to be asked now; hosts that have been silent for too long are given up."""
        asks: dict[Ask, None] = {}
        pause = max(ASK_S, len(self._hosts) / ASKS_PER_S)
        for watched in self._hosts:
            if watched.doubt_at <= now:
                watched.failed = True
                self._lost(watched, "does not answer any more")
            if watched.ask_at > now + _TURN_S:
                continue
            asks[Ask(watched.ifindex, watched.neighbour)] = None
            watched.ask_at = now + (pause if watched.alive else max(AGAIN_S, pause))
            if watched.alive:
                watched.doubt_at = min(watched.doubt_at, now + _LATEST_S)
            elif watched.host.via is None and self._ping_at.get(watched.ifindex, -inf) <= now:
                self._ping_at[watched.ifindex] = now + AGAIN_S
                asks[Ask(watched.ifindex, ALL_NODES)] = None
        return list(asks)

    def deadline(self) -> float:
        """When `tick` is to be called, inf: not before the next event."""
        return min((min(w.ask_at, w.doubt_at) for w in self._hosts), default=inf)

    # --- what is known ---------------------------------------------------------------------------------------------

    def hops(self) -> dict[Prefix, Hop]:
        """The /32s of the hosts that answer, and where. Of several entries with one address the first counts."""
        found: dict[Prefix, Hop] = {}
        for watched in self._hosts:
            if watched.alive:
                for prefix in _prefixes(watched.host):
                    found.setdefault(prefix, Hop(watched.ifindex, watched.neighbour))
        return found

    def alive(self) -> frozenset[Prefix]:
        """What is to be announced."""
        return frozenset(prefix for w in self._hosts if w.alive for prefix in _prefixes(w.host))

    def silent(self) -> frozenset[Address]:
        """Neighbours that were asked and did not answer."""
        return frozenset(w.neighbour for w in self._hosts if w.failed)

    def routes(self) -> tuple[RouteSpec, ...]:
        """The routes to the hosts that answer, in the order of the entries."""
        names = {link.ifindex: name for name, link in self._names.items()}
        return tuple(
            RouteSpec(prefix, (ViaSpec(hop.address, names.get(hop.ifindex, "")),), place=f"host {prefix}")
            for prefix, hop in self.hops().items()
        )

    def events(self) -> list[Event]:
        """What is worth a line in the log since the last call."""
        events, self._events = self._events, []
        return events

    # --- what happens ----------------------------------------------------------------------------------------------

    def _index(self) -> None:
        self._by_address.clear()
        self._by_mac.clear()
        for watched in self._hosts:
            if watched.ifindex:
                self._by_address.setdefault((watched.ifindex, watched.neighbour), []).append(watched)
                if watched.host.mac:
                    self._by_mac.setdefault((watched.ifindex, watched.host.mac), []).append(watched)

    def _place(self, watched: _Watched, link: Link | None, now: float) -> None:
        """On this link from now on, None or one without carrier: nowhere."""
        if link is None or not link.carrier:
            self._lost(watched, "is gone: its link is down")
            watched.failed = False
            watched.ifindex, watched.neighbour, watched.ask_at = 0, b"", inf
        elif watched.ifindex != link.ifindex:
            self._lost(watched, "is gone: its link is another one")
            watched.ifindex, watched.ask_at = link.ifindex, now
            watched.neighbour = watched.host.via or link_local_of(watched.host.mac or bytes(6))
            watched.tunnel = bool(link.flags & _IFF_NOARP)
            if watched.tunnel:
                self._answers(watched)
                watched.ask_at = inf

    def _link(self, link: Link, gone: bool, now: float) -> None:
        before = next((name for name, known in self._names.items() if known.ifindex == link.ifindex), None)
        if before is not None and (gone or before != link.name):
            del self._names[before]
        if not gone:
            self._names[link.name] = link
        self._ping_at.pop(link.ifindex, None)
        touched = [w for w in self._hosts if w.ifindex == link.ifindex or w.host.interface in (before, link.name)]
        for watched in touched:
            self._place(watched, self._names.get(watched.host.interface), now)
        if touched:
            self._index()

    def _neighbour(self, neighbour: Neighbour, gone: bool, now: float) -> None:
        key = neighbour.ifindex, neighbour.address
        if neighbour.lladdr and not gone and is_link_local(neighbour.address) and len(neighbour.address) == 16:
            for watched in self._by_mac.get((neighbour.ifindex, neighbour.lladdr), ()):
                if self._shows(watched, neighbour):
                    self._move(watched, neighbour.address)
                    watched.ask_at = now
        for watched in self._by_address.get(key, ()):
            if not watched.tunnel:
                self._heard(watched, neighbour, gone, now)

    def _move(self, watched: _Watched, address: Address) -> None:
        """It is looked for there from now on."""
        before = watched.ifindex, watched.neighbour
        self._by_address[before].remove(watched)
        if not self._by_address[before]:
            del self._by_address[before]
        watched.neighbour = address
        self._by_address.setdefault((watched.ifindex, address), []).append(watched)

    def _shows(self, watched: _Watched, neighbour: Neighbour) -> bool:
        """This entry tells an address of a host that was looked for elsewhere."""
        other = watched.host.via is None and watched.neighbour != neighbour.address
        return other and not watched.alive and neighbour.state in _GOOD | _KNOWN

    def _heard(self, watched: _Watched, neighbour: Neighbour, gone: bool, now: float) -> None:
        state = "gone" if gone else neighbour.state
        mac = watched.host.mac
        if mac and neighbour.lladdr and neighbour.lladdr != mac and state in _GOOD | _KNOWN:
            self._lost(watched, f"is gone: its address is held by {neighbour.lladdr.hex(':')}")
        elif state in _GOOD:
            # Of an entry that was put in by hand the kernel finds nothing out.
            watched.doubt_at = inf
            watched.ask_at = min(watched.ask_at, now + ASK_S) if state == "REACHABLE" else inf
            self._answers(watched)
        elif state in _KNOWN:
            if state == "STALE" and not watched.alive:  # it has just spoken, most likely
                watched.ask_at = min(watched.ask_at, now)
        elif state == "FAILED" and (not watched.alive or watched.doubt_at - now < _LATEST_S - _TRIED_S):
            watched.failed = True
            self._lost(watched, "does not answer any more")
        else:  # gone, INCOMPLETE, NONE; FAILED, if the kernel has not tried, is what a flush leaves
            self._doubt(watched, now)

    def _answers(self, watched: _Watched) -> None:
        watched.failed = False
        if not watched.alive:
            watched.alive = True
            self._say(watched, "host-up", f"answers at {format_address(watched.neighbour)}")

    def _doubt(self, watched: _Watched, now: float) -> None:
        if watched.alive and watched.doubt_at > now + _DOUBT_S:
            watched.ask_at, watched.doubt_at = now, now + _DOUBT_S

    def _lost(self, watched: _Watched, why: str) -> None:
        watched.doubt_at = inf
        if watched.alive:
            watched.alive = False
            self._say(watched, "host-down", why)

    def _say(self, watched: _Watched, kind: str, what: str) -> None:
        names = ", ".join(map(format_address, watched.host.addresses))
        text = f"host {names} on {watched.host.interface} {what}"
        self._events.append(Event(kind, text, kind == "host-down"))


def _probed(hosts: Iterable[HostSpec]) -> Iterator[HostSpec]:
    """Those that are to be looked after: not those that come by Babel alone."""
    return (host for host in hosts if not host.speaks)


# --- edge ----------------------------------------------------------------------------------------------------------


def encode_ask(ask: Ask) -> bytes:
    """Two netlink messages: the neighbour goes into the state PROBE, which fails if there is no such entry; and it is
    used as if there were a packet for it, which makes one but does nothing in the state PROBE."""
    use = NLM_F_CREATE | NLM_F_REPLACE
    return b"".join(
        message(
            RTM_NEWNEIGH,
            NLM_F_REQUEST | more,
            NDMSG.pack(AF_INET6, ask.ifindex, state, flags, 0) + attribute(NDA_DST, ask.address),
        )
        for state, flags, more in ((_NUD_PROBE, 0, NLM_F_REPLACE), (0, _NTF_USE, use))
    )


class Prober:
    """Asks neighbours of this network namespace. Raises Refusal when there is no netlink socket."""

    def __init__(self) -> None:
        self._netlink = NetlinkSocket(1 << 16, 1 << 16)
        self._raw: socket.socket | None = None
        with contextlib.suppress(OSError):  # without CAP_NET_RAW hosts are found by their first own packet
            kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            self._raw = socket.socket(socket.AF_INET6, kind, socket.IPPROTO_ICMPV6)
            self._raw.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, b"\xff" * 32)  # the answers say nothing
            self._raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)

    def ask(self, asks: Iterable[Ask]) -> None:
        """Never waits; a question that cannot be asked is left out, and the host will not answer."""
        messages = []
        for ask in asks:
            if ask.address != ALL_NODES:
                messages.append(encode_ask(ask))
            elif self._raw is not None:
                with contextlib.suppress(OSError):
                    self._raw.sendto(_ECHO, (format_address(ALL_NODES), 0, 0, ask.ifindex))
        for at in range(0, len(messages), 64):
            with contextlib.suppress(OSError):
                self._netlink.send(*messages[at : at + 64])
                self._netlink.drain()  # an entry that was known may be gone by now; its loss is told by the watch

    def close(self) -> None:
        self._netlink.close()
        if self._raw is not None:
            self._raw.close()


__all__ = ["AGAIN_S", "ALL_NODES", "ASKS_PER_S", "ASK_S", "Ask", "HostWatch", "Prober", "encode_ask", "link_local_of"]
