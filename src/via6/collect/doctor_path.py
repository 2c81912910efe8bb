"""What packets tell about the links of this node and about the way to an address.

Echo requests, of ICMPv6 to neighbours and to Babel's multicast group, of ICMPv4 to the target. A member of the group
ff02::1:6 that answers there runs Babel, whether a packet of its Babel ever arrives or not. A next hop that answers a
small request and not one of the link's MTU is at the end of a link whose MTUs differ. All of it is asked at once, and
asked again where an answer is missing: a healthy node answers in one round trip.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from via6.babel.model import GROUP, PORT
from via6.collect import probe
from via6.collect.wireguard import is_wireguard, latest_handshakes
from via6.errors import Refusal
from via6.model import RouteTable
from via6.observe.doctor.babel import INFINITY, lacking
from via6.observe.doctor.look import babel_devices
from via6.observe.doctor.measured import Measured, Probed, Silent
from via6.observe.doctor.network import LEAST_MTU, is_container
from via6.observe.node import BabelState, Node
from via6.observe.packet import (
    ECHO_REPLY,
    ECHO_REQUEST,
    ICMP,
    TIME_EXCEEDED,
    UNREACHABLE,
    Icmp,
    build_icmp,
    icmp_name,
    parse_icmp,
    parse_ipv4,
    quoted,
)
from via6.prefix import AF_INET, Address, Prefix, format_address, is_link_local, parse_address

Hop = tuple[int, Address]
Show = Callable[[str], list[Any]]

_ECHO_REQUEST6: Final = 128
_ECHO_REPLY6: Final = 129
_ICMP6_FILTER: Final = 1  # netinet/icmp6.h
_IPV6_MTU_DISCOVER: Final = 23  # linux/in6.h
_IP_MTU_DISCOVER: Final = 10  # linux/in.h
_IP_MTU: Final = 14
_PMTUDISC_PROBE: Final = 3  # DF, whatever path MTU the kernel has learnt
_FRAG_NEEDED: Final = 4
_HEADERS6: Final = 48
_HEADERS4: Final = 28
_SMALL: Final = 64
_LARGEST: Final = 65_000
_HOPS: Final = 64  # neighbours that are asked at once
_TRIES: Final = 4
_EVERY_S: Final = 0.15
_LATER_S: Final = 1.0
_MEET_S: Final = 4.6  # the longest Hello interval of peers as they ship is 4 s
_SOURCES: Final = 8
_TRACE_PORT: Final = 33434  # where traceroute(8) begins: nobody listens there
_USUAL_PORTS: Final = (22, 80, 443)
_WAY_S: Final = 0.6
_MOST_HOPS: Final = 20


def measure(
    node: Node, target: Address | None, show: Show, routes: Callable[[], RouteTable], before: Measured | None = None
) -> Measured:
    """`before` with what was found here, from this thread's network namespace. `show` asks the daemon, as for
    `snapshot_local.read`, `routes` the kernel once more."""
    made = replace(before or Measured(), here=True, missing=_missing(node, show, routes))
    try:
        with _Echo6() as echo:
            members = _members(echo, node)
            narrow = _narrow(echo, node, set(members))
    except OSError:  # no privilege
        return made
    held = frozenset(link.ifindex for link in node.kernel.links if is_wireguard(link))
    made = replace(made, handshakes=_handshakes(node), wireguard=held, babel_links=_listening())
    unheard = _unheard(node, node.babel, members, show) if node.babel is not None else {}
    made = replace(made, unheard=unheard, narrow=narrow, babel_ports=_babel_ports(node))
    if target is not None and len(target) == 4:
        try:
            made = replace(made, probed=probed(node, target))
        except Refusal:  # no privilege, or no route at all: reading tells
            return made
    return made


# --- Babel and the kernel -------------------------------------------------------------------------------------------


def _missing(node: Node, show: Show, routes: Callable[[], RouteTable]) -> frozenset[Prefix]:
    """Of what Babel has and the kernel lacks that which is still so a little later."""
    gone = lacking(node)
    if not gone:
        return frozenset()
    time.sleep(_LATER_S)
    try:
        selected = {row["prefix"] for row in show("route") if row["state"] == "selected"}
        again = lacking(replace(node, kernel=replace(node.kernel, routes=routes())))
    except (Refusal, KeyError):
        return frozenset()
    return frozenset(route.prefix for route in again if route in gone and str(route.prefix) in selected)


def _handshakes(node: Node) -> dict[tuple[str, str], float | None]:
    """How old the last handshake is with the peers of devices that echo requests, or Hellos, have just gone into."""
    asked = {ifindex for ifindex, _ in next_hops(node)} | babel_devices(node)
    devices = {node.kernel.dev(ifindex) for ifindex in asked} & node.wireguard.keys()
    found: dict[tuple[str, str], float | None] = {}
    for dev in sorted(devices):
        text, problem = latest_handshakes(dev)
        for line in text.splitlines() if not problem else ():
            key, _, when = line.partition("\t")
            if when.isdecimal():
                found[dev, key] = max(time.time() - int(when), 0.0) if int(when) else None
    return found


def _listening() -> frozenset[int]:
    """The interfaces on which some program is in Babel's multicast group (proc(5), /proc/net/igmp6)."""
    try:
        rows = Path("/proc/thread-self/net/igmp6").read_text().split("\n")
    except OSError:
        return frozenset()
    words = [row.split() for row in rows]
    return frozenset(int(row[0]) for row in words if len(row) > 2 and row[2] == GROUP.hex())


# --- links ---------------------------------------------------------------------------------------------------------


class _Echo6:
    """ICMPv6 echo requests; an answer is known by its sequence number."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6)
        words = [0xFFFFFFFF] * 8  # a bit that is set blocks its type
        words[_ECHO_REPLY6 >> 5] &= ~(1 << (_ECHO_REPLY6 & 31)) & 0xFFFFFFFF
        self._socket.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("=8I", *words))
        self._socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._ident = os.urandom(2)
        self._next = 0

    def __enter__(self) -> _Echo6:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, hop: Hop, octets: int = _SMALL) -> int:
        """A packet of so many octets with all headers; its number, or -1 if it could not leave."""
        number = self._next = (self._next + 1) & 0xFFFF
        data = struct.pack("!BBH2sH", _ECHO_REQUEST6, 0, 0, self._ident, number) + bytes(octets - _HEADERS6)
        try:
            self._socket.sendto(data, (socket.inet_ntop(socket.AF_INET6, hop[1]), 0, 0, hop[0]))
        except OSError:
            return -1
        return number

    def heard(self, timeout_s: float) -> Iterator[tuple[int, Hop]]:
        """(number, who answered where), once something is there."""
        if not select.select([self._socket], [], [], max(timeout_s, 0))[0]:
            return
        for _ in range(4 * _HOPS):
            try:
                data, place = self._socket.recvfrom(1 << 16)
            except OSError:
                return
            if data[:1] == bytes((_ECHO_REPLY6,)) and data[4:6] == self._ident:
                source = socket.inet_pton(socket.AF_INET6, place[0].partition("%")[0])
                yield int.from_bytes(data[6:8], "big"), (place[3], source)

    def ask(self, questions: Iterable[tuple[Hop, int]], tries: int = _TRIES) -> set[tuple[Hop, int]]:
        """Those of some (hop, octets) that are answered."""
        waiting, answered, sent = list(questions), set[tuple[Hop, int]](), dict[int, tuple[Hop, int]]()
        for _ in range(tries):
            for question in waiting:
                sent[self.send(*question)] = question
            until = time.monotonic() + _EVERY_S
            while waiting and (left := until - time.monotonic()) > 0:
                answered |= {sent[number] for number, _ in self.heard(left) if number in sent}
                waiting = [question for question in waiting if question not in answered]
            if not waiting:
                break
        return answered


def _members(echo: _Echo6, node: Node) -> dict[Hop, None]:
    """Who answers as a member of Babel's group, on the links where we speak Babel."""
    state = node.babel
    if state is None:
        return {}
    links = {one.ifindex: one.address for one in state.interfaces or () if one.up}
    sent = {echo.send((ifindex, GROUP)) for ifindex in links}
    found: dict[Hop, None] = {}
    until = time.monotonic() + _EVERY_S
    while links and (left := until - time.monotonic()) > 0:
        for number, hop in echo.heard(left):
            if number in sent and is_link_local(hop[1]) and links.get(hop[0], hop[1]) != hop[1]:
                found[hop] = None
    return found


def _unheard(node: Node, state: BabelState, members: Iterable[Hop], show: Show) -> dict[Hop, str]:
    """Members of the group that are no neighbours and that nothing was heard of. Who has just come is waited for."""
    own = {one.address for one in state.interfaces or ()}
    known = {(n.ifindex, n.address) for n in state.neighbours if n.rxcost != INFINITY}
    known |= {(one.ifindex, r.address) for one in state.interfaces or () for r in one.rejected}
    left = {hop for hop in members if hop not in known and hop[1] not in own}
    until = time.monotonic() + _MEET_S
    while left and time.monotonic() < until:
        time.sleep(_EVERY_S)
        left -= _now_known(node, show)
    return {
        hop: f"{format_address(hop[1])} answers an echo request to ff02::1:6, so it runs Babel there, and no Babel"
        f" packet of it came within {_MEET_S:g} s"
        for hop in sorted(left)
    }


def _now_known(node: Node, show: Show) -> set[Hop]:
    found: set[Hop] = set()
    try:
        for row in show("interface"):
            found |= {(row["ifindex"], parse_address(one["address"])) for one in row.get("rejected", ())}
        for row in (one for one in show("neighbour") if one["rxcost"] < INFINITY):
            found.add((node.kernel.by_name[row["interface"]].ifindex, parse_address(row["address"])))
    except (Refusal, KeyError, ValueError):
        return found
    return found


def next_hops(node: Node) -> list[Hop]:
    """IPv6 next hops on links: of Babel, and of IPv4 routes."""
    hops: dict[Hop, None] = {}
    if node.babel is not None:
        hops |= {(n.ifindex, n.address): None for n in node.babel.neighbours if n.cost < INFINITY}
    for block in node.kernel.routes.blocks:
        if block.template.family == AF_INET:
            for hop in block.template.next_hops:
                if hop.via is not None and len(hop.via) == 16 and is_link_local(hop.via):
                    hops[hop.ifindex, hop.via] = None
        if len(hops) > _HOPS:
            break
    return list(hops)[:_HOPS]


def _narrow(echo: _Echo6, node: Node, members: set[Hop]) -> dict[Hop, tuple[int, int]]:
    """Next hops that answer small packets and none of the link's MTU: (the largest that is answered, the MTU)."""
    full: dict[Hop, int] = {}
    for hop in dict.fromkeys([*next_hops(node), *sorted(members)]):
        link = node.kernel.by_index.get(hop[0])
        if link is not None and link.up and not link.loopback and link.mtu > LEAST_MTU:
            full[hop] = min(link.mtu, _LARGEST)
    small = echo.ask([(hop, _SMALL) for hop in full])
    asked = [(hop, size) for hop, size in full.items() if (hop, _SMALL) in small]
    fits = echo.ask(asked)
    return {hop: (_most(lambda n, hop=hop: bool(echo.ask([(hop, n)], 2)), size), size)  # type: ignore[misc]
            for hop, size in asked if (hop, size) not in fits}  # fmt: skip


def _most(passes: Callable[[int], bool], size: int) -> int:
    """The largest packet that passes, if one of `size` does not."""
    low = LEAST_MTU if size > LEAST_MTU and passes(LEAST_MTU) else _SMALL
    high = size if low > _SMALL or size <= LEAST_MTU else LEAST_MTU
    while high - low > 1:
        middle = (low + high) // 2
        if passes(middle):
            low = middle
        else:
            high = middle
    return low


def _babel_ports(node: Node) -> dict[Hop, str]:
    """What UDP 6696 of neighbours says that do not hear us."""
    if node.babel is None:
        return {}
    near = [(n.ifindex, n.address) for n in node.babel.neighbours if n.txcost is not None and n.txcost >= INFINITY]
    return {hop: said for hop in near[:_HOPS] if (said := _asked(hop))}


def _asked(hop: Hop) -> str:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((socket.inet_ntop(socket.AF_INET6, hop[1]), PORT, 0, hop[0]))
            sock.settimeout(_EVERY_S)
            sock.send(b"")
            sock.recv(1)
        except TimeoutError:
            return "silence (it listens there, or a filter drops it)"
        except OSError as error:
            if error.errno == errno.ECONNREFUSED:
                return "port unreachable: nothing listens there, or a filter rejects it"
            if error.errno in (errno.EACCES, errno.EPERM):
                return "administratively prohibited: a filter rejects it"
            return error.strerror or str(error)
    return ""


# --- the way to an address -----------------------------------------------------------------------------------------


def probed(node: Node, target: Address) -> Probed | None:
    """Echo requests to the target from the addresses that it should answer; None if it is this node's own."""
    if any(entry.address == target for entry in node.kernel.addresses):
        return None
    answered, other, silent = [], [], []
    sources = _sources(node, target)
    if not sources:
        return None
    for source in sources:
        (ping,) = probe.ping_many([target], source=source, count=3, interval_s=0.02, timeout_s=_WAY_S)
        if ping.rtts_s:
            answered.append(source)
        elif not ping.error and not ping.refused and _answers_otherwise(target, source):
            other.append(source)
        else:
            silent.append(_how_far(target, source, ping.why if ping.error or ping.refused else ""))
    found = Probed(target, (*answered, *other), tuple(silent))
    return _large(found) if answered else found


def _answers_otherwise(target: Address, source: Address) -> bool:
    """A host that takes no pings may still say that a port is closed, or open."""
    with contextlib.ExitStack() as stack:
        poll, waiting = select.poll(), dict[int, socket.socket]()
        for kind, port in ((socket.SOCK_DGRAM, _TRACE_PORT), *((socket.SOCK_STREAM, one) for one in _USUAL_PORTS)):
            sock = stack.enter_context(socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK))
            try:
                sock.bind((format_address(source), 0))
                sock.connect((format_address(target), port))
                if kind == socket.SOCK_DGRAM:
                    sock.send(b"")
            except BlockingIOError:  # it connects
                pass
            except OSError:
                continue
            waiting[sock.fileno()] = sock
            poll.register(sock, select.POLLIN if kind == socket.SOCK_DGRAM else select.POLLOUT)
        until = time.monotonic() + _WAY_S
        while waiting and (left_s := until - time.monotonic()) > 0:
            for number, _ in poll.poll(left_s * 1000):
                sock = waiting.pop(number)
                poll.unregister(number)
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in (0, errno.ECONNREFUSED):
                    return True
    return False


def _sources(node: Node, target: Address) -> list[Address]:
    """The address that the kernel chooses, and others that are announced (or, without Babel, that are there)."""
    chosen: list[Address] = []
    own = {entry.address for entry in node.kernel.addresses}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((format_address(target), 9))
            chosen += [a for a in [socket.inet_aton(sock.getsockname()[0])] if a in own]
        except OSError:
            pass
    others = []
    for entry in node.kernel.addresses:
        link = node.kernel.by_index.get(entry.ifindex)
        if len(entry.address) != 4 or entry.scope or link is None or is_container(link.name) or not link.up:
            continue
        told = node.babel is None or any(entry.address in prefix for prefix, _ in node.babel.exports if prefix.length)
        if told and entry.address[0] != 127:
            others.append(entry.address)
    return list(dict.fromkeys([*chosen, *others]))[:_SOURCES]


def _how_far(target: Address, source: Address, why: str) -> Silent:
    try:
        hops = probe.traceroute(target, max_hops=_MOST_HOPS, timeout_s=_WAY_S, source=source)
    except Refusal:
        return Silent(source, error=why)
    told = [hop for hop in hops if hop.kind == "hop"]
    last = told[-1] if told else None
    end = next((hop for hop in hops if hop.kind == "unreachable"), None)
    said = why if end is None else str(end.error) if end.error else end.refused
    return Silent(source, last.ttl if last else 0, last.address if last else None, said)


@dataclass
class _Echo4:
    """Echo requests that must not be fragmented, from one address, and what came of each number."""

    target: Address
    sock: socket.socket
    ident: int = field(default_factory=lambda: int.from_bytes(os.urandom(2), "big"))
    sent: int = 0
    answered: set[int] = field(default_factory=set)
    told: dict[int, tuple[Address, int, int, int]] = field(default_factory=dict)
    """Number to an ICMP error: (from, type, code, the MTU that it names)."""

    def send(self, octets: int, ttl: int = 64) -> int:
        """The number of a packet of so many octets; -1: it could not leave."""
        self.sent = number = (self.sent + 1) & 0xFFFF
        message = build_icmp(Icmp(ECHO_REQUEST, 0, self.ident, number, bytes(max(octets - _HEADERS4, 0))))
        option = (socket.IPPROTO_IP, socket.IP_TTL, struct.pack("=i", ttl))
        try:
            self.sock.sendmsg([message], [option], 0, (format_address(self.target), 0))
        except OSError:
            return -1
        return number

    def wait(self, numbers: set[int], timeout_s: float) -> None:
        """Until each of these has an answer or an error."""
        until = time.monotonic() + timeout_s
        while numbers - self.answered - self.told.keys() and (left := until - time.monotonic()) > 0:
            if select.select([self.sock], [], [], left)[0]:
                self._read()

    def _read(self) -> None:
        try:
            packet, _ = parse_ipv4(self.sock.recv(1 << 16))
        except OSError:
            return
        message = parse_icmp(packet.payload)[0] if packet else None
        if packet is None or message is None:
            return
        if message.type == ECHO_REPLY and message.ident == self.ident and packet.source == self.target:
            self.answered.add(message.seq)
        elif (about := quoted(message)) and about.protocol == ICMP and about.destination == self.target:
            original, _ = parse_icmp(about.payload)
            if original and original.ident == self.ident:
                self.told[original.seq] = packet.source, message.type, message.code, message.seq

    def passes(self, octets: int, tries: int = 2) -> bool:
        """It is answered."""
        for _ in range(tries):
            number = self.send(octets)
            self.wait({number}, 2 * _EVERY_S)
            if number in self.answered:
                return True
        return False


def _large(found: Probed) -> Probed:
    """Whether packets of the size that the kernel would send get there, after ICMP errors have had their say."""
    target, source = found.target, found.answered[0]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP) as sock:
        sock.bind((format_address(source), 0))
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
        echo = _Echo4(target, sock)
        size = min(_kernel_mtu(target, source), _LARGEST)
        for _ in range(_TRIES):
            if size <= _SMALL + _HEADERS4:
                return found
            asked = set()
            for _ in range(_TRIES):
                asked.add(number := echo.send(size))
                echo.wait({number}, _EVERY_S)
                if number == -1 or asked & (echo.answered | echo.told.keys()):
                    break
            if -1 in asked or asked & echo.answered:
                return replace(found, mtu=size)
            smaller = [mtu for at in asked if at in echo.told for mtu in _asked_for(echo.told[at], size)]
            if not smaller:
                break
            size = min(smaller)
        passes = _most(echo.passes, size)
        return replace(found, mtu=size, passes=passes, large=_large_way(echo, source, size))


def _asked_for(told: tuple[Address, int, int, int], size: int) -> list[int]:
    """The MTU that a "fragmentation needed" names, if it is one and less than what was sent."""
    _, kind, code, mtu = told
    return [mtu] if kind == UNREACHABLE and code == _FRAG_NEEDED and 68 <= mtu < size else []


def _kernel_mtu(target: Address, source: Address) -> int:
    """What the kernel would send in one piece: the route's MTU, or what it has learnt."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((format_address(source), 0))
            sock.connect((format_address(target), 9))
            return int(sock.getsockopt(socket.IPPROTO_IP, _IP_MTU))
        except OSError:
            return 0


def _large_way(echo: _Echo4, source: Address, size: int) -> Silent:
    """How far a packet of this size comes, hop limit by hop limit."""
    last = Silent(source)
    for ttl in range(1, _MOST_HOPS):
        numbers = set()
        for _ in range(2):
            numbers.add(number := echo.send(size, ttl))
            echo.wait({number}, 2 * _EVERY_S)
            if numbers & echo.told.keys():
                break
        errors = [echo.told[at] for at in numbers if at in echo.told]
        if not errors:
            break
        who, kind, code, _ = errors[0]
        if kind != TIME_EXCEEDED:
            return replace(last, error=f"{icmp_name(kind, code)}, says {format_address(who)}")
        last = Silent(source, ttl, who)
    return last
