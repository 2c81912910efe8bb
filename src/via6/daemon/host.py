"""The host's side: an IPv4-only program on a machine whose link has IPv6 alone.

The machine has one IPv4 address, a /32, and `default via inet6 ROUTER` with that address as source. The router is the
one that IPv6 uses: an IPv6 default route with a link-local next hop, which router advertisements make (RFC 4861 section
6.3.4), be it by the kernel or by a network manager. Where nobody listens to them (accept_ra=0, or a kernel that
forwards IPv6) via6 does so itself; where none come it asks for them. Of several routers the kernel's order decides
(metric, RFC 4191 preference), one that does not answer comes last.

The address stands on lo: it is the machine's and not the link's, it stays while the link is away, no manager of the
link removes it, and a Babel speaker does not take the link for one with IPv4 (RFC 9229 section 2.1).

As a stub the host also speaks Babel on that link, announces its address and nothing else, learns nothing and touches
no forwarding: nobody can send through it.

Another hand's IPv4 default route is never pushed aside: while there is one that would come behind ours, ours waits.

`HostRouter` decides and is pure; `HostDaemon` is the daemon of `via6 run` with one route that moves.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import inf
from typing import Final

from via6.babel.model import Event
from via6.config import Config, RouteSpec, ViaSpec
from via6.config_babel import BabelSpec, HostSpec, NodeSpec, Rule
from via6.daemon.address import NodeAddress
from via6.daemon.babel import Babel
from via6.daemon.hosts import Ask, HostWatch, Prober
from via6.daemon.lock import FibLock
from via6.daemon.run import Daemon, log
from via6.engine import NEEDED_PARTS
from via6.errors import Refusal
from via6.kernel.linux import LinuxKernel
from via6.model import PROTO_VIA6, TABLE_MAIN, Change, InterfaceAddress, KernelEvent, Link, Route, RouteBlock, Snapshot
from via6.prefix import Address, Prefix, format_address, is_link_local
from via6.view import View

DEFAULT4: Final = Prefix(bytes(4), 0)
DEFAULT6: Final = Prefix(bytes(16), 0)
ALL_ROUTERS: Final = bytes.fromhex("ff020000000000000000000000000002")
PARTS: Final = NEEDED_PARTS | {"neighbours"}

_HEARD_METRIC: Final = 1025  # the kernel's own RA routes have 1024, and count first
_MOST: Final = 8  # routers heard of on one link
_SOLICIT_S: Final = 4.0  # RTR_SOLICITATION_INTERVAL, RFC 4861 section 10; then backing off as in RFC 7559
_SOLICIT_MOST_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Settings:
    """`router` None: found by router advertisements. `metric` is that of the IPv4 default route. `stub`: how Babel is
    spoken, its key files read; None: not at all."""

    interface: str
    address: Address
    router: Address | None = None
    metric: int = 0
    stub: BabelSpec | None = None

    def config(self, routes: tuple[RouteSpec, ...]) -> Config:
        """What a daemon is to do with these routes."""
        if self.stub is None:
            return Config(routes)
        own = Rule("prefix", (Prefix(self.address, 32),))
        babel = replace(self.stub, interfaces=(self.interface,), exports=(own,), imports=(Rule(deny=True),))
        return Config(routes, NodeSpec(address=self.address), babel)


@dataclass(frozen=True, slots=True)
class Advertisement:
    """What is read of a router advertisement: seconds for which it is a default router, 0: it is none (any more);
    `preference` 1 high, 0 medium, 3 low (RFC 4191 section 2.2)."""

    lifetime_s: int
    preference: int = 0


def decode_advertisement(data: bytes, source: Address, hop_limit: int) -> Advertisement | None:
    """An ICMPv6 message with its header, or None if it is no valid advertisement (RFC 4861 section 6.1.2; the kernel
    has seen to the checksum)."""
    if len(data) < 16 or data[:2] != b"\x86\x00" or hop_limit != 255 or not is_link_local(source):
        return None
    (lifetime,) = struct.unpack_from("!H", data, 6)
    preference = data[5] >> 3 & 3
    return Advertisement(lifetime, 0 if preference == 2 else preference)


class HostRouter:
    """Which router this host uses, and the route to it. Fed with dumps (`PARTS`) and notifications of a watch with
    neighbours."""

    def __init__(self, settings: Settings, snapshot: Snapshot, now: float) -> None:
        self._settings = settings
        self._view = View(_defaults(snapshot))
        self._watch = HostWatch((), snapshot, now)
        self._heard: dict[Address, tuple[Advertisement, float]] = {}
        self._router: Address | None = None
        self._blocked: Route | None = None
        self._solicit_at = now
        self._solicit_s = _SOLICIT_S
        self._told = ""
        self._events: list[Event] = []
        self._review(now)

    @property
    def settings(self) -> Settings:
        return self._settings

    @property
    def router(self) -> Address | None:
        """The next hop of the IPv4 default route, None: there is none."""
        return self._router

    @property
    def blocked(self) -> Route | None:
        """The IPv4 default route of another hand for which ours waits."""
        return self._blocked

    def change(self, settings: Settings, now: float) -> None:
        """Other settings hold."""
        self._settings = settings
        self._review(now)

    def synchronise(self, snapshot: Snapshot, now: float) -> None:
        """A dump is the truth."""
        self._view = View(_defaults(snapshot))
        self._watch.synchronise(snapshot, now)
        self._review(now)

    def observe(self, events: Iterable[KernelEvent], now: float) -> None:
        """Notifications, in order; after an Overrun call `synchronise`."""
        seen = list(events)
        for event in seen:
            if isinstance(event, Change) and _concerns(event.object):
                self._view.observe(event)
                link = event.object
                if isinstance(link, Link) and link.name == self._settings.interface and link.carrier:
                    self._solicit_at, self._solicit_s = min(self._solicit_at, now + 1), _SOLICIT_S
        self._watch.observe(seen, now)
        self._review(now)

    def heard(self, ifindex: int, source: Address, found: Advertisement, now: float) -> None:
        """An advertisement came in on a link."""
        link = self._view.named(self._settings.interface)
        if link is None or link.ifindex != ifindex:
            return
        if found.lifetime_s and (source in self._heard or len(self._heard) < _MOST):
            self._heard[source] = found, now + found.lifetime_s
        else:
            self._heard.pop(source, None)
        self._review(now)

    def tick(self, now: float) -> list[Ask]:
        """What is to be asked now: routers whether they are there, ALL_ROUTERS for an advertisement."""
        asks = self._watch.tick(now)
        self._review(now)
        link = self._view.named(self._settings.interface)
        if self._solicits() and link is not None and link.carrier and self._solicit_at <= now:
            self._solicit_at = now + self._solicit_s
            self._solicit_s = min(self._solicit_s * 2, _SOLICIT_MOST_S)
            asks.append(Ask(link.ifindex, ALL_ROUTERS))
        return asks

    def deadline(self) -> float:
        """When `tick` is to be called, inf: not before the next event."""
        link = self._view.named(self._settings.interface)
        solicit = self._solicit_at if self._solicits() and link is not None and link.carrier else inf
        return min(solicit, self._watch.deadline(), *(until for _, until in self._heard.values()), inf)

    def routes(self) -> tuple[RouteSpec, ...]:
        """The default route, or nothing."""
        at = self._settings
        if self._router is None or self._blocked is not None:
            return ()
        via = ViaSpec(self._router, at.interface)
        return (RouteSpec(DEFAULT4, (via,), src=at.address, metric=at.metric, place="via6 host"),)

    def events(self) -> list[Event]:
        """What is worth a line in the log since the last call."""
        self._watch.events()  # of hosts they would speak
        events, self._events = self._events, []
        return events

    # --- the choice ------------------------------------------------------------------------------------------------

    def _solicits(self) -> bool:
        return self._settings.router is None and (self._router is None or self._router in self._watch.silent())

    def _candidates(self, now: float) -> dict[Address, tuple[int, int]]:
        """Routers and how they rank, the smaller the better."""
        fixed = self._settings.router
        if fixed is not None:
            return {fixed: (0, 0)}
        link = self._view.named(self._settings.interface)
        found: dict[Address, tuple[int, int]] = {}
        if link is None:
            return found
        for route in self._view.at(DEFAULT6):
            for hop in self._view.hops(route):
                ours = route.protocol == PROTO_VIA6 or route.type != "unicast"
                if hop.ifindex == link.ifindex and hop.via is not None and is_link_local(hop.via) and not ours:
                    found.setdefault(hop.via, (route.metric, {1: 0, 0: 1}.get(route.pref, 2)))
        for source, (advertisement, until) in list(self._heard.items()):
            if until <= now:
                del self._heard[source]
            else:
                found.setdefault(source, (_HEARD_METRIC, {1: 0, 0: 1}.get(advertisement.preference, 2)))
        return found

    def _review(self, now: float) -> None:
        candidates = self._candidates(now)
        interface = self._settings.interface
        self._watch.reload([HostSpec((), interface, via=address) for address in candidates], now)
        silent = self._watch.silent()

        def rank(address: Address) -> tuple[bool, tuple[int, int], bool, Address]:
            return address in silent, candidates[address], address != self._router, address

        before, self._router = self._router, min(candidates, key=rank, default=None)
        if self._router is None and before is not None:
            self._solicit_at, self._solicit_s = now, _SOLICIT_S
        self._blocked = next(
            (r for r in self._view.at(DEFAULT4) if r.metric >= self._settings.metric and r.protocol != PROTO_VIA6), None
        )
        self._tell(silent)

    def _tell(self, silent: frozenset[Address]) -> None:
        interface = self._settings.interface
        if self._view.named(interface) is None:
            text = f"there is no device {interface!r} yet; devices here: {self._view.names()}"
        elif self._blocked is not None:
            text = f"another IPv4 default route is there, ours waits: {describe(self._blocked, self._view)}"
        elif self._router is None:
            text = f"no router on {interface} yet: asking for router advertisements"
        else:
            text = f"the router on {interface} is {format_address(self._router)}"
            if self._router in silent:
                text += ", which does not answer"
        if text != self._told:
            self._told = text
            self._events.append(Event("host", text, not self.routes() or self._router in silent))


def describe(route: Route, view: View) -> str:
    """An IPv4 default route in short."""
    hops = view.hops(route)
    words = ["default"]
    if len(hops) == 1:
        words += ["via", format_address(hops[0].via)] if hops[0].via else []
        words += ["dev", view.dev(hops[0].ifindex)]
    return " ".join(words + (["metric", str(route.metric)] if route.metric else []))


def _concerns(thing: object) -> bool:
    route = thing.template if isinstance(thing, RouteBlock) else thing
    return not isinstance(route, Route) or (route.table == TABLE_MAIN and not route.prefix.length)


def _defaults(snapshot: Snapshot) -> Snapshot:
    """Of all the routes the default routes of the main table alone."""
    return replace(snapshot, routes=snapshot.routes.where(_concerns))


# --- edge ----------------------------------------------------------------------------------------------------------

_ICMP6_FILTER: Final = 1  # linux/icmpv6.h: types whose bit is set are not wanted
_ADVERTISEMENT: Final = 134
_SOLICITATION: Final = struct.pack("!BBHI", 133, 0, 0, 0)  # the kernel fills the checksum in
_TURN: Final = 64


class Advertisements:
    """A raw socket for router advertisements and solicitations. Raises OSError without CAP_NET_RAW."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_INET6, kind, socket.IPPROTO_ICMPV6)
        wanted = [0xFFFFFFFF] * 8
        wanted[_ADVERTISEMENT // 32] &= ~(1 << _ADVERTISEMENT % 32)
        self._socket.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("=8I", *wanted))
        self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)

    def fileno(self) -> int:
        return self._socket.fileno()

    def solicit(self, ifindex: int) -> None:
        """Asks the routers of a link; a link that cannot send now is asked again later."""
        with contextlib.suppress(OSError):
            self._socket.sendto(_SOLICITATION, (format_address(ALL_ROUTERS), 0, 0, ifindex))

    def read(self) -> list[tuple[int, Address, Advertisement]]:
        """(ifindex, source, advertisement) of what waits; never blocks."""
        found = []
        for _ in range(_TURN):
            try:
                data, ancillary, _, (text, _, _, ifindex) = self._socket.recvmsg(1500, 64)
            except OSError:
                break
            hops = [struct.unpack("=i", value)[0] for _, kind, value in ancillary if kind == socket.IPV6_HOPLIMIT]
            source = socket.inet_pton(socket.AF_INET6, text.partition("%")[0])
            advertisement = decode_advertisement(data, source, hops[0] if hops else -1)
            if advertisement is not None:
                found.append((ifindex, source, advertisement))
        return found

    def close(self) -> None:
        self._socket.close()


class _Stub(Babel):
    """Babel of a node that never forwards."""

    def _forwarders(self) -> tuple[set[int], set[int]]:
        return set(), set()


class HostDaemon(Daemon):
    """`again` gives the settings anew, for SIGHUP; it raises Refusal and then the old ones stay in force."""

    def __init__(self, router: HostRouter, address: NodeAddress, again: Callable[[], Settings], lock: FibLock) -> None:
        self._router = router
        self._address = address
        self._again = again
        self._routes = router.routes()
        super().__init__(router.settings.config(self._routes), self._reread, lock, keep=False)
        if not self._speaks:
            self._watch.close()
            self._watch = self._kernel.watch(neighbours=True)
            self._engine.stale = True  # what happened in between was told to nobody
        self._prober = Prober()
        self._advertisements: Advertisements | None = None
        try:
            self._advertisements = Advertisements()
        except OSError as error:
            log(f"router advertisements are left to the kernel: no raw socket ({error.strerror})")
        self._next: asyncio.TimerHandle | None = None

    def _begin_babel(self, config: Config, snapshot: Snapshot) -> Babel | None:
        return _Stub(config, self._engine, self._kernel, snapshot, self._sysctls, log) if self._speaks else None

    @property
    def keeps(self) -> bool:
        """The route stays, so the address must."""
        return self._keep

    def close(self) -> None:
        super().close()
        self._prober.close()
        if self._advertisements is not None:
            self._advertisements.close()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        socket_ = self._advertisements
        if socket_ is not None:
            loop.add_reader(socket_.fileno(), self._guarded, self._on_advertisements)
        try:
            return await super().run()
        finally:
            if socket_ is not None:
                loop.remove_reader(socket_.fileno())
            if self._next:
                self._next.cancel()

    def _reread(self) -> Config:
        settings = self._again()
        for problem in self._address.hold(settings.address):
            raise Refusal(problem)
        self._router.change(settings, time.monotonic())
        self._routes = self._router.routes()
        return settings.config(self._routes)

    def _on_events(self) -> None:
        events, now = self._watch.read(), time.monotonic()
        if any(isinstance(e, Change) and e.gone and isinstance(e.object, InterfaceAddress) for e in events):
            for problem in self._address.hold(self._router.settings.address):
                log(problem)
        self._engine.observe(events, now)
        self._router.observe(events, now)
        if self._babel:
            self._babel.observe(events, now)
        self._settle()

    def _on_advertisements(self) -> None:
        assert self._advertisements is not None
        for ifindex, source, advertisement in self._advertisements.read():
            self._router.heard(ifindex, source, advertisement, time.monotonic())
        self._settle()

    def _settle(self) -> None:
        now = time.monotonic()
        if self._engine.stale:
            snapshot = self._kernel.dump(PARTS)
            self._engine.synchronise(snapshot)
            self._router.synchronise(snapshot, now)
            if self._babel:
                self._babel.synchronise(snapshot, now)
        asks = self._router.tick(now)
        self._prober.ask(ask for ask in asks if ask.address != ALL_ROUTERS)
        for ask in asks:
            if ask.address == ALL_ROUTERS and self._advertisements is not None:
                self._advertisements.solicit(ask.ifindex)
        for event in self._router.events():
            log(event.text)
        routes = self._router.routes()
        if routes != self._routes:
            self._routes = routes
            if self._babel:
                self._babel.reload(self._router.settings.config(routes))
            else:
                self._engine.reload(routes)
        super()._settle()
        if self._next:
            self._next.cancel()
            self._next = None
        at = self._router.deadline()
        if at < inf:
            loop = asyncio.get_running_loop()
            self._next = loop.call_later(max(at - time.monotonic(), 0.01), self._guarded, self._settle)


def serve(settings: Settings, again: Callable[[], Settings], lock: FibLock) -> int:
    """Runs the host's daemon in this network namespace; the exit code. Raises Refusal before it has begun."""
    with LinuxKernel() as kernel:
        before = kernel.dump(PARTS)
    link = before.by_name.get(settings.interface)
    if link is not None and link.loopback:
        raise Refusal(f"{link.name} is a loopback interface", "name the interface that leads to the router")
    blocked = HostRouter(settings, before, time.monotonic()).blocked
    if blocked is not None:
        remedy = f"remove it (ip -4 route del default), or stand behind it: --metric {blocked.metric + 1}"
        raise Refusal(f"there is an IPv4 default route already: {describe(blocked, View(before))}", remedy)
    address = NodeAddress()
    for problem in address.hold(settings.address):
        raise Refusal(problem, "run it as root")
    daemon: HostDaemon | None = None
    try:
        with LinuxKernel() as kernel:
            # With the address: a route that an earlier run left is taken over, and no packet lost.
            router = HostRouter(settings, kernel.dump(PARTS), time.monotonic())
        daemon = HostDaemon(router, address, again, lock)
        return asyncio.run(daemon.run())
    finally:
        if daemon is not None:
            daemon.close()
        for problem in [] if daemon is not None and daemon.keeps else address.leave():
            log(problem)
