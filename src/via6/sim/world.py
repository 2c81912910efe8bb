"""A seeded network of speakers under a simulated clock.

    world = World(scenario, lambda name: Random(f"{seed}/{name}"))
    findings = world.run()          # empty: all that `check` asks for did hold

Everything that happens is an event in one queue, ordered by time and then by the order in which it was made. Chance
comes from `dice` alone, one generator for each purpose, so that leaving a fault out disturbs the rest as little as can
be. Nothing depends on the order of a set. So a seed gives the same history on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from heapq import heappop, heappush
from math import inf
from typing import TYPE_CHECKING, Any, Final

from via6.babel import info
from via6.babel.adopted import GRACE_S
from via6.babel.model import GROUP, PORT, Arrival, Datagram, Hop, Key, LinkSettings
from via6.prefix import Prefix
from via6.sim import malice
from via6.sim.check import Finding, Watch, after_quiet, starving
from via6.sim.network import ipv4_of, link_local
from via6.sim.router import End, Router
from via6.sim.scenario import Fault, Scenario
from via6.sim.ways import Forwarding, LightFib, text_of

if TYPE_CHECKING:
    from random import Random

UNSURE_S: Final = 200.0
FORGIVEN_S: Final = 120.0
"""How long after a loss of distances loops are measured and not forbidden."""
MOST_FINDINGS: Final = 10
PATIENCE_S: Final = 10.0
"""Besides five Hello intervals: so soon after the last fault everything that can be reached must be routed."""
KEPT_PACKETS: Final = 8
BACKUPS: Final = 2
"""So often the backup of a prefix alone may change in peace: a feasibility distance that nobody needs is forgotten
after three minutes (RFC 8966 section 3.7.3), a guard ends, and then another route may stand behind the same primary.
It takes two changes at most, out and in."""


class World:
    """`make_fib` makes the FIB of a router with so many interfaces. `tell` hears the history, line by line."""

    def __init__(
        self,
        scenario: Scenario,
        dice: Callable[[str], Random],
        *,
        make_fib: Callable[[int], Forwarding] = LightFib.of,
        history: Callable[[str], None] | None = None,
    ) -> None:
        self.scenario = scenario
        self.now = 0.0
        self.findings: list[Finding] = []
        self.prefixes = scenario.network.prefixes()
        self.healed_s = 0.0
        self.packets = 0
        self.octets = 0
        self.events = 0
        self.recorded: list[list[tuple[End, bytes]]] = [[] for _ in scenario.network.wires]
        self._history = history
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._sent_at_peace = 0
        self._peace = False
        # Per wire and direction: how many faults block it.
        self._blocked: dict[tuple[int, int, int], int] = {}
        self._loss: dict[int, list[float]] = {}
        self._double: dict[int, list[float]] = {}
        self._late: dict[int, list[float]] = {}
        self._air = dice("air")
        self._luck = dice("luck")
        network, timing = scenario.network, scenario.timing
        names = network.names or tuple(f"r{i}" for i in range(network.size))
        ends = [router for router, _, _ in network.interfaces()]
        self.routers = [
            Router(self, i, names[i], make_fib(ends.count(i)), dice(f"router {i}")) for i in range(network.size)
        ]
        self.watch = Watch(self.routers, self.prefixes, self.report)
        for router in self.routers:
            router.driver = timing.driver
            router.fib.attend(partial(self.touched, router), lambda: self.now)
            router.kernel_s = timing.kernel_s
            router.transit_v4 = router.index not in scenario.no_transit
        for number, prefix, metric in network.origins:
            self.routers[number].own[prefix] = metric
        self.wires: list[list[End]] = [[] for _ in network.wires]
        self._cable_up()
        for router in self.routers:
            self.after(self._luck.choice((0.0, 1.0)) * self._luck.random(), router.start)
        for fault in scenario.faults:
            self.at(fault.at, self._strike, fault)

    def _cable_up(self) -> None:
        network, timing = self.scenario.network, self.scenario.timing
        for router, ifindex, number in network.interfaces():
            wire = network.wires[number]
            settings = LinkSettings(
                wire.costs[wire.ends.index(router)],
                timing.hello_ms,
                timing.update_ms,
                timing.split_horizon,
                (key_of(number, 0),) if timing.keyed else (),
            )
            ipv4 = ipv4_of(number, router) if wire.ipv4 else None
            end = End(self.routers[router], ifindex, number, link_local(router), ipv4, settings)
            self.routers[router].ends[ifindex] = end
            self.wires[number].append(end)
        for ends in self.wires:
            for end in ends:
                for other in ends:
                    if other is not end:
                        for address in (other.address, other.ipv4):
                            if address is not None:
                                end.router.far[Hop(end.ifindex, address)] = other.router.index

    # --- clock -------------------------------------------------------------------------------------------------------

    def at(self, when: float, call: Callable[..., None], *arguments: Any) -> None:
        """Something will happen."""
        if when < inf:
            self._count += 1
            heappush(self._queue, (max(when, self.now), self._count, call, arguments))

    def after(self, pause: float, call: Callable[..., None], *arguments: Any) -> None:
        """Something will happen in so many seconds."""
        self.at(self.now + pause, call, *arguments)

    def run(self) -> list[Finding]:
        """All of the scenario; what did not hold. Ends early when too much is wrong."""
        timing = self.scenario.timing
        self.run_until(timing.faults_s)
        self.make_peace()
        self._await_routes()
        self.run_until(timing.faults_s + timing.quiet_s * 0.75)
        self._sent_at_peace = self.packets
        for router in self.routers:
            router.backups.clear()
        self.run_until(timing.faults_s + timing.quiet_s)
        if len(self.findings) < MOST_FINDINGS:
            self._judge()
        return self.findings

    def _await_routes(self) -> None:
        """Looks now and then whether everybody has a route again: what was lost must come back long before routes
        expire and holds end."""
        hello_s = max([end.settings.hello_interval_ms for ends in self.wires for end in ends], default=0) / 1000
        graced = any(fault.kind in ("process", "kill") for fault in self.scenario.faults)
        bound, peace = PATIENCE_S + 5 * hello_s + GRACE_S * graced, self.now
        end = peace + self.scenario.timing.quiet_s * 0.75
        step = 0.5
        while self.now < end:
            late = self.now - peace + step > bound
            self.run_until(min(peace + bound if late and self.now < peace + bound else self.now + step, end))
            step = min(2 * step, 10.0)
            without = starving(self.routers, self.usable(), self.prefixes)
            if without:
                self.healed_s = self.now - peace
                if self.healed_s >= bound:
                    self.report("slow", f"{self.healed_s:.0f} s after peace no route: {', '.join(without[:5])}")
                    return

    def run_until(self, end: float) -> None:
        """Lets the time pass."""
        queue = self._queue
        while queue and queue[0][0] <= end and len(self.findings) < MOST_FINDINGS:
            self.now, _, call, arguments = heappop(queue)
            self.events += 1
            call(*arguments)
        self.now = end

    def report(self, kind: str, text: str) -> None:
        """Something that must not be."""
        finding = Finding(kind, self.now, text)
        self.findings.append(finding)
        self.tell(f"!!! {kind}: {text}")

    def tell(self, text: str) -> None:
        """A line of history."""
        if self._history is not None:
            self._history(f"{self.now:10.4f} {text}")

    def touched(self, router: Router, prefixes: list[Prefix]) -> None:
        """The FIB of a router is another now."""
        if not prefixes:
            return
        for prefix in prefixes:
            router.note_way(prefix, self.now)
        if self._history is not None:
            for prefix in prefixes:
                names = {hop: self.routers[far].name for hop, far in router.far.items()}
                self.tell(f"{router.name}: {prefix} -> {text_of(router.fib.look(prefix), names)}")
        self.watch.touched(router.index, prefixes, self.now)

    # --- packets -----------------------------------------------------------------------------------------------------

    def send(self, router: Router, datagram: Datagram) -> None:
        """A speaker's datagram goes on the wire."""
        self.packets += 1
        self.octets += len(datagram.data)
        end = router.ends.get(datagram.ifindex)
        if end is None or not end.told:
            self.report("dead-link", f"{router.name} sends out of interface {datagram.ifindex}, which is not up")
            return
        if len(datagram.data) > max(1500 - 48, 512):
            self.report("oversized", f"{router.name}: {len(datagram.data)} octets")
        if end.downs:
            return
        if self._history is not None:
            self.tell(f"{router.name} eth{datagram.ifindex} sends {malice.words_of(datagram.data, end.address)}")
        kept = self.recorded[end.wire]
        kept.append((end, datagram.data))
        if len(kept) > KEPT_PACKETS:
            del kept[0]
        for other in self.wires[end.wire]:
            if other is not end and datagram.destination in (GROUP, other.address):
                self._carry(end, other, datagram)

    def _carry(self, end: End, other: End, datagram: Datagram) -> None:
        number = end.wire
        if self._blocked.get((number, end.router.index, other.router.index)):
            return
        wire, air = self.scenario.network.wires[number], self._air
        if any(air.random() < share for share in self._loss.get(number, ())):
            return
        copies = 1 + sum(air.random() < share for share in self._double.get(number, ()))
        arrival = Arrival(other.ifindex, end.address, datagram.data, datagram.destination)
        for _ in range(copies):
            late = sum(air.random() * most for most in self._late.get(number, ()))
            pause = wire.delay_s + wire.jitter_s * air.random() + late
            self.after(pause, self.deliver, other, arrival)

    def deliver(self, end: End, arrival: Arrival) -> None:
        """A datagram reaches an interface."""
        if not end.downs:
            end.router.arrive(arrival)

    # --- faults ------------------------------------------------------------------------------------------------------

    def make_peace(self) -> None:
        """From now on nothing goes wrong."""
        self._loss.clear()
        self._double.clear()
        self._late.clear()
        self._peace = True
        self.tell("peace")

    def _heal(self, fault: Fault, call: Callable[..., None], *arguments: Any) -> None:
        if fault.until < inf:
            self.at(min(fault.until, self.scenario.timing.faults_s), call, *arguments)

    def _strike(self, fault: Fault) -> None:
        self.tell(f"--- {fault}")
        getattr(self, f"_do_{fault.kind}")(fault)

    def _do_carrier(self, fault: Fault) -> None:
        ends = self.wires[fault.a]
        self._carrier(ends[:1] if fault.b else ends, 1, gone=0)
        self._heal(fault, self._carrier, ends[:1] if fault.b else ends, -1, 0)

    def _do_unplug(self, fault: Fault) -> None:
        end = self.wires[fault.a][fault.b % len(self.wires[fault.a])]
        self._carrier([end], 1, gone=1)
        self._heal(fault, self._carrier, [end], -1, -1)

    def _carrier(self, ends: list[End], step: int, gone: int) -> None:
        for end in ends:
            before = end.downs == 0
            end.downs += step
            end.gone += gone
            if (end.downs == 0) != before or gone:
                self.tell(f"{end.router.name} eth{end.ifindex} {'has' if end.downs == 0 else 'has lost'} its carrier")
                self.touched(end.router, end.router.fib.carrier(end.ifindex, end.downs == 0))
                end.news_at = max(end.news_at, self.now + self._luck.random() * self.scenario.timing.late_news_s)
                self.at(end.news_at, end.router.news, end, end.downs == 0, end.gone > 0, end.router.lives)

    def _block(self, directions: list[tuple[int, int, int]], step: int) -> None:
        for direction in directions:
            self._blocked[direction] = self._blocked.get(direction, 0) + step

    def _pairs(self, wire: int) -> list[tuple[int, int, int]]:
        ends = self.wires[wire]
        return [(wire, a.router.index, b.router.index) for a in ends for b in ends if a is not b]

    def _cut(self, fault: Fault, directions: list[tuple[int, int, int]]) -> None:
        self._block(directions, 1)
        self._heal(fault, self._block, directions, -1)

    def _do_silent(self, fault: Fault) -> None:
        self._cut(fault, self._pairs(fault.a))

    def _do_oneway(self, fault: Fault) -> None:
        sender = self.wires[fault.a][fault.b % len(self.wires[fault.a])].router.index
        self._cut(fault, [d for d in self._pairs(fault.a) if d[1] == sender])

    def _do_partition(self, fault: Fault) -> None:
        pairs = [d for wire in range(len(self.wires)) for d in self._pairs(wire)]
        self._cut(fault, [d for d in pairs if (fault.b >> d[1] ^ fault.b >> d[2]) & 1])

    def _do_lossy(self, fault: Fault) -> None:
        self._spoil(self._loss, fault)

    def _do_double(self, fault: Fault) -> None:
        self._spoil(self._double, fault)

    def _do_late(self, fault: Fault) -> None:
        self._spoil(self._late, fault)

    def _spoil(self, shares: dict[int, list[float]], fault: Fault) -> None:
        shares.setdefault(fault.a, []).append(fault.x)

        def end() -> None:
            if fault.x in shares.get(fault.a, ()):
                shares[fault.a].remove(fault.x)

        self._heal(fault, end)

    def _do_cost(self, fault: Fault) -> None:
        for end in self.wires[fault.a]:
            self._heal(fault, self._set_cost, end, end.settings.cost)
            self._set_cost(end, fault.b)

    def _set_cost(self, end: End, cost: int) -> None:
        end.router.change(end, replace(end.settings, cost=cost))

    def _do_rekey(self, fault: Fault) -> None:
        old, new = self.wires[fault.a][0].settings.keys[-1], key_of(fault.a, round(fault.at * 1000))
        for end in self.wires[fault.a]:
            for pause, keys in ((self._luck.random(), (old, new)), (2 + self._luck.random(), (new,))):
                self.after(pause, self._set_keys, end, keys)

    def _set_keys(self, end: End, keys: tuple[Key, ...]) -> None:
        end.router.change(end, replace(end.settings, keys=keys))

    def _die(self, fault: Fault, *, distances: bool, fib: bool, wiped: bool = False) -> None:
        router = self.routers[fault.a]
        if router.speaker is None:
            return
        self._forget(router, distances, fib)
        router.stop(distances=distances, wiped=wiped)
        if not fib:
            self.touched(router, router.fib.clear())
        self._heal(fault, router.start)

    def _forget(self, router: Router, distances: bool, fib: bool) -> None:
        """Who loses its distances and its FIB may make a loop. Who keeps the FIB has a guard on all that is in it: not
        on what had a distance and is not yet back in the FIB after a loss of power."""
        if not fib and (not distances or self.now < router.unsure_until):
            self.watch.forgive(self.now + FORGIVEN_S)
        elif not distances and router.speaker is not None:
            known = {source.prefix for source in info.sources(router.speaker, self.now)}
            bare = [p for p in self.prefixes if p in known and p not in router.own and router.fib.look(p) is None]
            self.watch.forgive(self.now + FORGIVEN_S, bare)
        if not distances:
            router.unsure_until = self.now + UNSURE_S

    def _do_process(self, fault: Fault) -> None:
        self._die(fault, distances=True, fib=True)

    def _do_kill(self, fault: Fault) -> None:
        self._die(fault, distances=False, fib=True)

    def _do_machine(self, fault: Fault) -> None:
        self._die(fault, distances=True, fib=False)

    def _do_power(self, fault: Fault) -> None:
        self._die(fault, distances=False, fib=False)

    def _do_wiped(self, fault: Fault) -> None:
        self._die(fault, distances=False, fib=False, wiped=True)

    def _do_leave(self, fault: Fault) -> None:
        router = self.routers[fault.a]
        if router.speaker is not None:
            self._forget(router, distances=True, fib=False)
            router.leave()
            self._heal(fault, router.start)

    def _do_stall(self, fault: Fault) -> None:
        router = self.routers[fault.a]

        def run_on() -> None:
            router.stalled -= 1
            router.wake()

        router.stalled += 1
        self._heal(replace(fault, until=min(fault.until, fault.at + 30)), run_on)

    def _do_slow(self, fault: Fault) -> None:
        router = self.routers[fault.a]

        def quicken() -> None:
            router.kernel_s = self.scenario.timing.kernel_s

        router.kernel_s = fault.x
        self._heal(fault, quicken)

    def _own(self, router: Router, prefix: Prefix, metric: int | None) -> None:
        if metric is None:
            router.own.pop(prefix, None)
        else:
            router.own[prefix] = metric
        self.watch.touched(router.index, [prefix], self.now)
        router.announce()

    def _do_withdraw(self, fault: Fault) -> None:
        router = self.routers[fault.a]
        if router.own:
            prefix, metric = next(iter(router.own.items()))
            self._own(router, prefix, None)
            self._heal(fault, self._own, router, prefix, metric)

    def _do_announce(self, fault: Fault) -> None:
        router, prefix = self.routers[fault.a], self.prefixes[fault.b % len(self.prefixes)]
        if prefix not in router.own:
            self._own(router, prefix, round(fault.x))
            self._heal(fault, self._own, router, prefix, None)

    def _do_metric(self, fault: Fault) -> None:
        router = self.routers[fault.a]
        if router.own:
            prefix, metric = next(iter(router.own.items()))
            self._own(router, prefix, round(fault.x))
            self._heal(fault, self._own, router, prefix, metric)

    def _do_hello(self, fault: Fault) -> None:
        self.routers[fault.a].hellos(fault.b)
        self._heal(fault, self.routers[fault.a].hellos, self.scenario.timing.hello_ms)

    def _do_garbage(self, fault: Fault) -> None:
        router = self.routers[fault.a]
        for _ in range(fault.b):
            end = self._luck.choice(list(router.ends.values()))
            kept = self.recorded[end.wire]
            arrival = malice.draw(self._luck, end.ifindex, end.address, kept, self.prefixes, end.settings.keys != ())
            self.after(self._luck.random(), self.deliver, end, arrival)

    # --- judgement ---------------------------------------------------------------------------------------------------

    def usable(self) -> list[tuple[int, int, int]]:
        """(from, to, cost) of all pairs of routers that can be neighbours now."""
        found = []
        for number, ends in enumerate(self.wires):
            for a in ends:
                for b in ends:
                    if a is b or a.downs or b.downs or a.router.speaker is None or b.router.speaker is None:
                        continue
                    there, back = (number, a.router.index, b.router.index), (number, b.router.index, a.router.index)
                    shared = not a.settings.keys or any(key in b.settings.keys for key in a.settings.keys)
                    if shared and not self._blocked.get(there) and not self._blocked.get(back):
                        found.append((a.router.index, b.router.index, b.settings.cost))
        return found

    def _judge(self) -> None:
        timing = self.scenario.timing
        for finding in after_quiet(self.routers, self.usable(), self.prefixes, self.now):
            self.findings.append(finding)
            self.tell(f"!!! {finding}")
        for prefix in self.watch.loops.open:
            self.report("long-loop", f"packets to {prefix} still go in circles")
        rest = timing.quiet_s / 4
        for router in self.routers:
            if router.changed_at > self.now - rest:
                self.report("restless", f"{router.name} has changed its table at {router.changed_at:.3f}")
            for prefix, times in router.backups.items():
                if times > BACKUPS:
                    self.report("restless", f"{router.name} has changed its backup for {prefix} {times} times")
        ends = [end for ends in self.wires for end in ends]
        fastest = min([end.settings.hello_interval_ms for end in ends], default=4000) / 1000
        fair = rest / fastest * 4 + rest / (timing.update_ms / 1000) * (6 + len(self.prefixes) / 10) + 20
        sent = self.packets - self._sent_at_peace
        if sent > len(ends) * fair:
            self.report("storm", f"{sent} packets in {rest:.0f} s of peace; {len(ends) * fair:.0f} are fair")


def key_of(wire: int, number: int) -> Key:
    """A key for a wire."""
    secret = b"simulated" + wire.to_bytes(2, "big") + number.to_bytes(4, "big")
    return Key(f"k{wire}-{number}", "blake2s128" if number % 2 else "hmac-sha256", secret)


__all__ = ["PORT", "World", "key_of"]
