"""What Babel adds to the daemon: carries datagrams, links and policy to the speaker, and what it decides to the FIB.

The order of a turn is the speaker's contract. What it says of the FIB goes through the Rib and the Fib into the
kernel; only if the kernel has acknowledged all of it, deletions too, is the speaker told so and its Updates leave.
Hellos and acknowledgements do not wait for that.

After a restart the routes of the last run are still in the kernel and carry on; see `babel.adopted`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from math import inf
from typing import Final

from via6.babel import info
from via6.babel.adopted import Adopted, adopt
from via6.babel.model import NO_ADDRESS, BabelLink, InterfaceInfo, NeighbourInfo, RouteInfo, SourceInfo
from via6.babel.source import NAME, BabelSource
from via6.babel.speaker import Speaker, SpeakerSettings
from via6.collect.icmp_source import icmp_source_ok
from via6.collect.local import sysctl
from via6.collect.wireguard import babel_findings, is_wireguard
from via6.config import Config
from via6.daemon.address import NodeAddress
from via6.daemon.forwarding import Forwarding
from via6.daemon.gateway import Gateway
from via6.daemon.hosts import HostWatch, Prober
from via6.daemon.identity import Identity
from via6.daemon.links import BATCH, BabelSocket
from via6.daemon.sysctl import Sysctls
from via6.engine import Engine
from via6.errors import Refusal
from via6.kernel.linux import LinuxKernel, release
from via6.kernel.pump import pump
from via6.model import IFA_F_DADFAILED, IFA_F_TENTATIVE, KernelEvent, Link, Snapshot
from via6.observe.babel import Policy
from via6.policy import Standing
from via6.prefix import Prefix, is_link_local, mask

_REFUSALS_S: Final = 1.0
_REFUSALS: Final = 10_000
_TURN_S: Final = 0.1  # of the speaker's work, then it listens again
_DEAF_S: Final = 0.5  # a flood does not stop the clock for longer
_REVIEW_S: Final = 2.0  # sysctls are looked at again
_ADDRESS_S: Final = 5.0
_DECIDE_SHARE: Final = 3.0  # what is announced is worked out again no sooner than this many times what it took
_BURST_S: Final = 0.01  # and when nothing has changed for this long,
_BURSTS_S: Final = 0.15  # or this long after the first change

Say = Callable[[str], None]


class Babel:
    """`say` takes lines for the log. Raises Refusal when the port, the state folder or nft cannot be had."""

    def __init__(
        self, config: Config, engine: Engine, kernel: LinuxKernel, snapshot: Snapshot, sysctls: Sysctls, say: Say
    ) -> None:
        assert config.babel is not None
        now = time.monotonic()
        self._config = config
        self._engine = engine
        self._kernel = kernel
        self._say = say
        self._said: set[str] = set()
        self.socket = BabelSocket()
        self._identity = Identity()
        self._gateway = Gateway(config.gateway)
        self._address = NodeAddress()
        self._forwarding = Forwarding(sysctls)
        self._hosts = HostWatch(config.hosts, snapshot, now)
        self._prober = Prober()
        self._source = BabelSource(config.babel.kernel_metric, None)
        self._adopted: Adopted | None = adopt(snapshot, config.babel.kernel_metric, now)
        self._started_at = now
        self._deaf_at = inf
        self._links: dict[int, BabelLink] = {}
        self._seen: object = None
        self._standing = Standing()
        self._review_at = now
        self._undecided = False
        self._decide_at = now
        self._burst_until = now
        self._changed: Callable[[Iterable[Prefix]], None] | None = None
        self._bare: dict[int, float] = {}
        self._tunnels: set[int] = set()
        self._refused: frozenset[Prefix] = frozenset()
        self._refusals_at = now
        settings = SpeakerSettings(
            self._identity.router_id,
            self._identity.seqno,
            config.babel.families,
            config.node.address is not None or icmp_source_ok(release()),
        )
        self._warn_at_start(settings)
        self.speaker = Speaker(
            settings,
            random.SystemRandom(),
            distances=self._identity.load_distances(),
            adopted=self._adopted.hops,
            now=now,
        )

    def _warn_at_start(self, settings: SpeakerSettings) -> None:
        if not settings.transit_v4:
            self._say(
                "this kernel cannot send ICMPv4 errors without an IPv4 address, so IPv4 routes of others are not"
                ' announced; give the node one: [node] address = "A.B.C.D", or `via6 up --address A.B.C.D`'
            )
        for problem in self._identity.problems:
            self._say(problem)

    # --- inputs ----------------------------------------------------------------------------------------------------

    def packets(self) -> None:
        """The socket is readable."""
        now = time.monotonic()
        self._hear(now)
        self._send(now)  # acknowledgements need not wait for the kernel

    def _hear(self, now: float) -> None:
        """Reads what waits; and lets time pass for the speaker only if that was all, or else a neighbour would be lost
        whose Hello lies in the queue because this node was busy."""
        arrivals = self.socket.receive()
        for arrival in arrivals:
            self.speaker.receive(arrival, now)
        if len(arrivals) < BATCH:
            self._deaf_at = inf
        elif self._deaf_at == inf:
            self._deaf_at = now
        if self._deaf_at == inf or now - self._deaf_at > _DEAF_S:
            self.speaker.tick(now)

    def observe(self, events: list[KernelEvent], now: float) -> None:
        """Notifications of the kernel."""
        self._hosts.observe(events, now)
        if any(self._gateway.undermined(event, self._engine.view) for event in events):
            self._engine.stale = True

    def synchronise(self, snapshot: Snapshot, now: float) -> None:
        """A dump, after notifications were lost."""
        self._hosts.synchronise(snapshot, now)

    def reload(self, config: Config) -> None:
        """Another configuration. Raises Refusal, and then the old one stays in force."""
        assert config.babel is not None
        assert self._config.babel is not None
        for key in ("families", "kernel_metric"):
            if getattr(config.babel, key) != getattr(self._config.babel, key):
                raise Refusal(f"[babel] {key} cannot change while via6 runs", "restart it")
        self._gateway.reload(config.gateway)
        self._config = config
        self._hosts.reload(config.hosts, time.monotonic())
        self._seen = None
        self.follow()

    def disturbed(self) -> None:
        """Somebody changes nftables."""
        self._gateway.disturbed()

    @property
    def nft(self) -> int:
        """A descriptor to be watched for `disturbed`, or -1."""
        return self._gateway.fileno()

    # --- a turn ----------------------------------------------------------------------------------------------------

    def turn(self) -> bool:
        """Everything that follows from the inputs; False: there is more to do, call it again soon."""
        now = time.monotonic()
        self._ask_hosts(now)
        self.follow()
        self._hear(now)
        idle = False
        end = now + _TURN_S
        while now < end:
            changes = self.speaker.routing(now)
            if not changes and not self.speaker.dirty:
                idle = True
                break
            self._engine.feed(NAME, self._source.updates(changes))
            pump(self._engine.fib, self._kernel, time.monotonic)
            self._tell_watchers()
            now = time.monotonic()
            self._settle(now)
            self._send(now)
        if idle:
            self._refusals(now)
            self._complete_by(now)
            self._settle(now)
        self._send(time.monotonic())
        for event in self.speaker.events() + self._hosts.events() + self._gateway.events():
            self._say(event.text)
        return idle

    def breathe(self, now: float) -> None:
        """Hellos and acknowledgements alone, while the node is in doubt."""
        self._hear(now)
        self._send(now)

    def _settle(self, now: float) -> None:
        """Lets Updates leave if the kernel is where the speaker thinks."""
        fib = self._engine.fib
        if self._adopted is None and not fib.needs_dump and not fib.counts().get("stale"):
            self.speaker.settled(now)

    def _refusals(self, now: float) -> None:
        """Routes that the kernel will not have are not announced (a slot that another hand took, for one)."""
        fib = self._engine.fib
        if now < self._refusals_at or not (self._refused or fib.counts().get("failed")):
            return
        self._refusals_at = now + _REFUSALS_S
        assert self._config.babel is not None
        metric = self._config.babel.kernel_metric
        failed = (s.prefix for s in fib.troubles() if s.phase == "failed" and s.metric == metric)
        self._refused = frozenset(islice(failed, _REFUSALS))
        self.speaker.refuse(self._refused, now)

    def _complete_by(self, now: float) -> None:
        if self._adopted is None or self._adopted.awaited(self.speaker.table, now):
            return
        self.speaker.disown(self._adopted.lost(self.speaker.table))
        self._adopted = None
        self._review_at = now
        self._engine.complete(NAME)
        pump(self._engine.fib, self._kernel, time.monotonic)

    def _send(self, now: float) -> None:
        if self.speaker.seqno != self._identity.seqno:
            problem = self._identity.reserve(self.speaker.seqno)
            if problem:
                self._once(problem)
        for datagram in self.speaker.datagrams(now):
            self.socket.send(datagram)

    def deadline(self, now: float) -> float:
        """When the next turn is due, if nothing happens before."""
        at = min(self.speaker.deadline(now), self._hosts.deadline(), self._review_at)
        if self._undecided:
            at = min(at, max(self._decide_at, now))
        return at if self._adopted is None else min(at, self._adopted.deadline(now))

    # --- what the node is ------------------------------------------------------------------------------------------

    def follow(self) -> None:
        """Links, exports and imports as the node is now."""
        now = time.monotonic()
        view = self._engine.view
        alive = self._hosts.alive()
        seen = (view.generation, alive, id(view))
        if seen != self._seen:
            self._seen = seen
            self._engine.reload((*self._config.routes, *self._hosts.routes()))
            self._tell_all(self._address.hold(self._config.node.address))
            self._follow_links(now)
            self._seen = (view.generation, alive, id(self._engine.view))
            self._review_at = now
            if not self._undecided:
                self._undecided = True
                self._burst_until = now + _BURSTS_S
            if self._standing.decided and not view.routes_alone:
                self._decide_at = max(self._decide_at, min(now + _BURST_S, self._burst_until))
        if self._undecided and self._decide_at <= now:
            # A link that wakes up has three events; a large table is looked at in pieces.
            alone = view.routes_alone
            self._decide(alive, now)
            self._undecided = not self._standing.complete
            took = time.monotonic() - now
            self._decide_at = now + (1 if alone else 1 + _DECIDE_SHARE) * took
            self._review_at = min(self._review_at, now + _BURST_S) if alone else now
        if self._review_at <= now:
            self._review_at = now + _REVIEW_S
            self._complain_of_links(now)
            self._tell_all(self._forwarding.cover(*self._forwarders(), keep=self._adopted is not None))

    def _decide(self, alive: frozenset[Prefix], now: float) -> None:
        view, statics = self._engine.view, self._engine.statics()
        config = self._config
        if not self._gateway.settle(view, statics):
            config = replace(config, gateway=None)
        standing = self._standing
        hosts = [prefix.packed for prefix in alive]
        changes, imports = standing.follow(view, config, statics=statics, hosts=hosts)
        if changes:
            self.speaker.originate(changes, now)
        if imports:
            self.speaker.accept_now(standing.imports.accepts, now)
        elif changes:
            self.speaker.reconsider(changes, now)
        if self._source.src != standing.source:
            self._source.src = standing.source
            updates = self._source.updates(self.speaker.all_ways())
            self._engine.refeed(NAME, updates)  # type: ignore[arg-type]

    def _follow_links(self, now: float) -> None:
        view = self._engine.view
        wanted: dict[int, BabelLink] = {}
        bare: dict[int, float] = {}
        for link in view.links.values():
            settings = self._config.link(link.name) if not link.loopback else None
            if settings is None:
                continue
            if is_wireguard(link) and link.up and link.ifindex not in self._tunnels:
                self._check_tunnel(link)
            addresses = [a for a in view.inventory() if a.ifindex == link.ifindex]
            usable = [a.address for a in addresses if not a.flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED)]
            local = next((a for a in usable if is_link_local(a)), None)
            four = next((a for a in usable if len(a) == 4), None)
            if local is None:
                bare[link.ifindex] = self._bare.get(link.ifindex, now)
                continue
            wanted[link.ifindex] = BabelLink(link.ifindex, link.name, local, link.mtu, four, settings, link.carrier)
        self._bare = bare
        for ifindex in self._links.keys() - wanted.keys():
            self._say(f"{self._links.pop(ifindex).name}: Babel is not spoken there any more")
            self.socket.leave(ifindex)
            self.speaker.forget_link(ifindex, now)
        for ifindex, given in wanted.items():
            if given == self._links.get(ifindex) and ifindex in self.socket.joined:
                continue
            self._join(given, now)

    def _check_tunnel(self, link: Link) -> None:
        """What stands in Babel's way on a WireGuard link, once; with the lines that mend it."""
        assert self._config.babel is not None
        self._tunnels.add(link.ifindex)
        found, problem = babel_findings(link, self._engine.view.inventory(), self._config.babel.families)
        self._tell_all(map(str, found))
        if problem:
            self._once(problem)

    def _complain_of_links(self, now: float) -> None:
        """A link that wakes up gets its address, and duplicate address detection, within some seconds."""
        for ifindex, since in self._bare.items():
            link = self._engine.view.links.get(ifindex)
            if link is not None and link.carrier and now - since > _ADDRESS_S:
                off = f"net/ipv6/conf/{link.name}/disable_ipv6"
                remedy = (
                    f"`ip link set {link.name} addrgenmode eui64`, or `ip addr add fe80::1/64 dev {link.name}` with"
                )
                remedy += " an address of its own"
                if sysctl(off) == 1:
                    remedy = f"`sysctl -w {off}=0`"
                self._once(f"{link.name} has no link-local address, so Babel cannot be spoken there: {remedy}")
        if not self._links and not self._bare and now - self._started_at > _ADDRESS_S:
            assert self._config.babel is not None
            self._once(f"no interface fits {', '.join(self._config.babel.interfaces)} yet: Babel waits for one")

    def _join(self, given: BabelLink, now: float) -> None:
        problem = self.socket.join(given.ifindex, given.address)
        if problem:
            self._once(f"{given.name}: {problem}")
            return
        if given.ifindex not in self._links:
            keys = ", ".join(key.name for key in given.settings.keys)
            how = f"authenticated with {keys}" if keys else "WITHOUT a key: whoever is on this link can change routes"
            self._say(f"{given.name}: Babel, cost {given.settings.cost}, {how}")
            master = self._engine.view.links.get(self._engine.view.links[given.ifindex].master)
            if master is not None and master.kind == "bridge":
                self._once(f"{given.name} is a port of {master.name}, which takes its packets: speak on {master.name}")
        self._links[given.ifindex] = given
        self.speaker.link_changed(given, now)

    def _forwarders(self) -> tuple[set[int], set[int]]:
        """Links to routers, and links to hosts, that forward IPv4."""
        view = self._engine.view
        if 4 not in self.speaker.families:
            return set(), set()
        links = {i for i, given in self._links.items()}
        announced = self._standing.announce
        hosts = {
            a.ifindex
            for a in view.inventory()
            if len(a.address) == 4
            and any(Prefix(mask(a.address, length), length) in announced for length in range(1, 33))
        }
        hosts |= {hop.ifindex for hop in self._hosts.hops().values()}
        hosts |= {link.ifindex for link in view.links.values() if link.name in self._gateway.devices()}
        return links, {i for i in hosts - links if i in view.links and not view.links[i].loopback}

    def _ask_hosts(self, now: float) -> None:
        if self._hosts.deadline() <= now:
            self._prober.ask(self._hosts.tick(now))

    # --- readers ---------------------------------------------------------------------------------------------------

    def neighbours(self) -> list[NeighbourInfo]:
        return info.neighbours(self.speaker)

    def interfaces(self) -> list[InterfaceInfo]:
        """Those that are wanted and have no address to speak from, too: such a link is cut, whatever its carrier."""
        found = info.interfaces(self.speaker)
        for name, ifindex in self._bare_names():
            if (settings := self._config.link(name)) is not None:
                keys = tuple(key.name for key in settings.keys)
                hello = settings.hello_interval_ms
                found.append(InterfaceInfo(ifindex, name, NO_ADDRESS, False, settings.cost, hello, keys, 0, 0, 0, 0))
        return found

    def _bare_names(self) -> list[tuple[str, int]]:
        links = self._engine.view.links
        return [(links[ifindex].name, ifindex) for ifindex in self._bare if ifindex in links]

    def routes(self) -> Iterator[RouteInfo]:
        return info.routes(self.speaker, time.monotonic())

    def routes_of(self, prefix: Prefix) -> list[RouteInfo]:
        found = self.speaker.table.find(prefix.packed, prefix.length)
        return list(info.routes_of(self.speaker, found, time.monotonic())) if found is not None else []

    def sources(self) -> Iterator[SourceInfo]:
        return info.sources(self.speaker, time.monotonic())

    def warnings(self) -> tuple[str, ...]:
        """What is not as it should be, for `via6 status`."""
        found = [f"{given.name}: no key" for given in self._links.values() if not given.settings.keys]
        found += [f"{name}: no link-local address, so Babel is not spoken there" for name, _ in self._bare_names()]
        if not self._links:
            found.append("Babel is spoken on no interface: none that is wanted has carrier and a link-local address")
        if self.socket.drops:
            found.append(f"{self.socket.drops} datagrams were lost for want of buffer space")
        return tuple(found)

    def policy(self) -> Policy:
        """What is taken from neighbours, for `via6 status`."""
        babel = self._config.babel
        assert babel is not None
        limited = [(given.name, given.settings.allowed) for given in self._links.values()]
        return Policy(
            babel.families, babel.imports, self.speaker.transit_v4, babel.kernel_metric,
            tuple((name, allowed) for name, allowed in limited if allowed is not None),
        )  # fmt: skip

    def watch(self, changed: Callable[[Iterable[Prefix]], None] | None) -> None:
        """`changed` is told the prefixes whose routes may have changed; None: nobody wants to know."""
        self._changed = changed
        self.speaker.reviewed = [] if changed is not None else None

    def _tell_watchers(self) -> None:
        if self._changed is not None and self.speaker.reviewed:
            self._changed(self.speaker.reviewed)
            self.speaker.reviewed = []

    # --- the end ---------------------------------------------------------------------------------------------------

    def retract(self) -> None:
        """Tells the neighbours that we go; the routes stay until `leave`, for what is under way."""
        now = time.monotonic()
        problem = self._identity.save_distances(info.kept_sources(self.speaker, now))
        if problem:
            self._say(problem)
        self.speaker.leave(now)
        for datagram in self.speaker.datagrams(now):
            self.socket.send(datagram)
            self.socket.send(datagram)  # nobody will ask again

    def keep(self) -> None:
        """Leaves without a word to the neighbours: the next run goes on where this one stopped."""
        problem = self._identity.save_distances(info.kept_sources(self.speaker, time.monotonic()))
        if problem:
            self._say(problem)

    def leave(self) -> None:
        """Everything as it was but the routes, which the engine removes."""
        self._tell_all(self._forwarding.restore())
        self._tell_all(self._address.leave())
        self._gateway.close()

    def close(self) -> None:
        """Lets go of what is open."""
        self.socket.close()
        self._prober.close()
        self._identity.close()

    def _tell_all(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._once(line)

    def _once(self, line: str) -> None:
        if line not in self._said and len(self._said) < 1000:
            self._said.add(line)
            self._say(line)
