"""One router of a simulated network: the speaker, and the driver between it and its kernel.

The driver does what the daemon does, in the order that the speaker asks for: after every input `routing` goes to the
kernel, and when all of it is acknowledged `settled` is called; datagrams leave at once, the speaker itself holds back
what must wait. The kernel takes its time for each operation. A `blocking` driver reads nothing meanwhile; an
`overlapped` one listens on, and hands the kernel more; an `eager` one, as the daemon is, answers every packet at once
and follows it up a moment later.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from traceback import format_exc
from typing import TYPE_CHECKING, Final

from via6.babel import info
from via6.babel.adopted import Adopted
from via6.babel.model import Arrival, BabelLink, Hop, LinkSettings, SourceInfo, Way
from via6.babel.speaker import Speaker, SpeakerSettings
from via6.prefix import Address, Prefix
from via6.sim.ways import Change, Forwarding, Operation

if TYPE_CHECKING:
    from random import Random

    from via6.sim.world import World

SPIN: Final = 100
"""So many ticks in one instant mean that the speaker's deadline stands still."""
TURN_S: Final = 0.003
INBOX: Final = 200
"""Inputs that wait for a driver that is busy; more packets are lost, as in a receive buffer."""


@dataclass(slots=True)
class End:
    """One end of a wire. `downs` counts the reasons why there is no carrier, `told` is what the daemon was told."""

    router: Router
    ifindex: int
    wire: int
    address: Address
    ipv4: Address | None
    settings: LinkSettings
    downs: int = 0
    gone: int = 0
    told: bool = False
    news_at: float = 0.0

    def link(self) -> BabelLink:
        """As the daemon would describe it now."""
        up = self.downs == 0
        return BabelLink(
            self.ifindex, f"eth{self.ifindex}", self.address, ipv4=self.ipv4, settings=self.settings, up=up
        )


@dataclass(frozen=True, slots=True)
class Stored:
    """What survives a restart: the next seqno, and the feasibility distances if they were saved."""

    router_id: bytes
    seqno: int
    distances: tuple[SourceInfo, ...] = ()


class Router:
    """`own` is what it announces, `far` which router a next hop is. `speaker` is None while the daemon is not there."""

    def __init__(self, world: World, index: int, name: str, fib: Forwarding, dice: Random) -> None:
        self.world = world
        self.index = index
        self.name = name
        self.fib = fib
        self.dice = dice
        self.ends: dict[int, End] = {}
        self.own: dict[Prefix, int] = {}
        self.far: dict[Hop, int] = {}
        self.transit_v4 = True
        self.driver = "blocking"
        self.kernel_s = 0.0
        self.stalled = 0
        self.speaker: Speaker | None = None
        self.stored = Stored(dice.randbytes(8), dice.getrandbits(16))
        self.lives = 0
        self.unsure_until = 0.0
        """So long it may not know all feasibility distances, whatever it has stored since."""
        self.changed_at = 0.0
        self.backups: Counter[Prefix] = Counter()
        """How often the backup of a prefix has changed, and nothing else."""
        self._ways: dict[Prefix, Way | None] = {}
        self._queue: deque[Operation] = deque()
        self._inbox: deque[tuple[Callable[[Speaker], None], bool]] = deque()
        self._extra: list[Operation] = []
        self._alarm = inf
        self._spin = (0.0, 0)
        self._turning = False
        self._adopted: Adopted | None = None

    def note_way(self, prefix: Prefix, now: float) -> None:
        """The FIB may have another Way for a prefix now."""
        before, way = self._ways.get(prefix), self.fib.look(prefix)
        self._ways[prefix] = way
        if way is None or way == before:
            return  # what is forgotten in the end may be forgotten late
        if before is not None and way.primary is not None and way.primary == before.primary:
            self.backups[prefix] += 1
        else:
            self.changed_at = now

    # --- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The daemon starts with what was stored and what it finds in the kernel."""
        now = self.world.now
        hops = self.fib.restart()
        ways = ((prefix, self.fib.look(prefix)) for prefix in hops)
        self._adopted = Adopted(hops, (p for p, way in ways if way and way.primary and way.backup), now)
        for at in self._adopted.deadlines:
            self.world.at(at, self._late, self.lives)
        stored, families = self.stored, frozenset({len(p.packed) for p in self.world.prefixes} | {4})
        settings = SpeakerSettings(stored.router_id, stored.seqno, families, self.transit_v4)
        try:
            speaker = Speaker(settings, self.dice, distances=stored.distances, adopted=hops, now=now)
            self.speaker = speaker
            for end in self.ends.values():
                end.told = end.downs == 0
                if not end.gone:
                    speaker.link_changed(end.link(), now)
        except Exception:
            self.world.report("exception", f"{self.name}: {format_exc()}")
            return
        self.announce()

    def _late(self, life: int) -> None:
        if life == self.lives:
            self.input(lambda speaker: None)

    def stop(self, *, distances: bool, wiped: bool = False) -> None:
        """The daemon is gone from one moment to the next."""
        speaker = self.speaker
        if speaker is None:
            return
        seqno = (speaker.seqno + self.dice.randint(1, 50)) & 0xFFFF
        known = tuple(info.kept_sources(speaker, self.world.now)) if distances else ()
        self.stored = Stored(self.stored.router_id, seqno, known)
        if wiped:
            self.stored = Stored(self.dice.randbytes(8), self.dice.getrandbits(16))
        self.speaker = None
        self.lives += 1
        self._queue.clear()
        self._extra.clear()
        self._inbox.clear()
        self._turning = False
        self._alarm = inf

    def leave(self) -> None:
        """SIGTERM: says goodbye, waits for the kernel, tidies up."""
        speaker = self.speaker
        if speaker is None:
            return
        try:
            speaker.leave(self.world.now)
            for operation in [*self._queue, *self.fib.operations(self._changes(speaker), 0)]:
                self.world.touched(self, self.fib.perform(operation))
            self._queue.clear()
            speaker.settled(self.world.now)
        except Exception:
            self.world.report("exception", f"{self.name}: {format_exc()}")
        self._transmit()
        self.stop(distances=True)
        self.world.touched(self, self.fib.clear())

    # --- inputs ------------------------------------------------------------------------------------------------------

    def announce(self) -> None:
        """What `own` says."""
        for prefix in self.own:
            self.world.watch.origin(prefix, self.stored.router_id)
        self.input(lambda speaker: speaker.announce(dict(self.own), self.world.now))

    def arrive(self, arrival: Arrival) -> None:
        """A datagram for the daemon."""
        self.input(lambda speaker: speaker.receive(arrival, self.world.now), packet=True)

    def news(self, end: End, up: bool, gone: bool, life: int) -> None:
        """The daemon hears from its kernel how a link was a moment ago. `life` says which daemon was meant to."""
        if life != self.lives:
            return
        link = replace(end.link(), up=up)

        def tell(speaker: Speaker) -> None:
            self._extra.append(Operation("repair"))
            end.told = up
            if gone:
                speaker.forget_link(link.ifindex, self.world.now)
            else:
                speaker.link_changed(link, self.world.now)

        self.input(tell)

    def change(self, end: End, settings: LinkSettings) -> None:
        """The link has other settings from now on."""
        end.settings = settings
        if end.told:
            self.news(end, True, False, self.lives)

    def hellos(self, interval_ms: int) -> None:
        """Says Hello so often from now on."""
        for end in self.ends.values():
            self.change(end, replace(end.settings, hello_interval_ms=interval_ms))

    def input(self, call: Callable[[Speaker], None], packet: bool = False) -> None:
        """Something for the speaker: now, or when the driver has time."""
        if self.speaker is None:
            return
        if self.busy:
            if not packet or len(self._inbox) < INBOX:
                self._inbox.append((call, packet))
            return
        self._feed(call)

    @property
    def busy(self) -> bool:
        """The driver does not look at its inputs now."""
        return self.stalled > 0 or (self.driver != "overlapped" and bool(self._queue))

    def wake(self) -> None:
        """The driver has time again."""
        while self._inbox and not self.busy:
            self._feed(self._inbox.popleft()[0])
        if self.speaker is not None:
            self._set_alarm()

    def _feed(self, call: Callable[[Speaker], None]) -> None:
        speaker = self.speaker
        if speaker is None:
            return
        try:
            call(speaker)
            if self.driver == "eager":
                self._transmit()
                if not self._turning:
                    self._turning = True
                    self.world.after(self.dice.random() * TURN_S, self._turn, self.lives)
            else:
                self._pump(speaker)
        except Exception:
            self.world.report("exception", f"{self.name}: {format_exc()}")

    def _turn(self, life: int) -> None:
        """The daemon has read what there was, and now follows it up."""
        speaker = self.speaker
        if life != self.lives or speaker is None:
            return
        self._turning = False
        if self.busy:
            self._inbox.append((lambda _: None, False))
            return
        try:
            speaker.tick(self.world.now)
            self._pump(speaker)
        except Exception:
            self.world.report("exception", f"{self.name}: {format_exc()}")

    # --- outputs -----------------------------------------------------------------------------------------------------

    def _pump(self, speaker: Speaker) -> None:
        working = bool(self._queue)
        self._queue.extend(self._extra)
        self._extra.clear()
        self._queue.extend(self.fib.operations(self._changes(speaker), self.dice.randrange(4)))
        if not self._queue:
            self._tidy(speaker)
        if not self.kernel_s:
            while self._queue:
                self._operate()
        if self._queue:
            if not working:
                self._next()
        elif self._adopted is None:
            speaker.settled(self.world.now)
        self._transmit()
        for event in speaker.events():
            self.world.tell(f"{self.name}: {event.kind}: {event.text}")
        self._set_alarm()

    def _tidy(self, speaker: Speaker) -> None:
        """Once all that was adopted is known again, or nobody waits for it any more, the rest is deleted."""
        if self._adopted is None or self._adopted.awaited(speaker.table, self.world.now):
            return
        speaker.disown(self._adopted.lost(speaker.table))
        self._adopted = None
        self._queue.append(Operation("complete"))

    def _next(self) -> None:
        pause = self.dice.random() * self.kernel_s / len(self._queue)
        self.world.after(pause, self._perform, self.lives)

    def _changes(self, speaker: Speaker) -> list[Change]:
        found: list[Change] = []
        while piece := speaker.routing(self.world.now):
            found += piece
        return found

    def _operate(self) -> None:
        operation = self._queue[0]
        touched = self.fib.perform(operation)
        self._queue.popleft()
        self.world.touched(self, touched)
        self.world.at(self.fib.due(), self._repair, self.lives)

    def _repair(self, life: int) -> None:
        if life == self.lives and self.speaker is not None:
            self._extra.append(Operation("repair"))
            self.input(lambda _: None)

    def _perform(self, life: int) -> None:
        """The kernel has done the next operation."""
        speaker = self.speaker
        if life != self.lives or speaker is None or not self._queue:
            return
        self._operate()
        if self._queue:
            self._next()
            return
        try:
            self._pump(speaker)
        except Exception:
            self.world.report("exception", f"{self.name}: {format_exc()}")
        self.wake()

    def _transmit(self) -> None:
        if self.speaker is not None:
            for datagram in self.speaker.datagrams(self.world.now):
                self.world.send(self, datagram)

    def _set_alarm(self) -> None:
        if self.speaker is None or self.busy:
            return
        deadline = self.speaker.deadline(self.world.now)
        if deadline < self._alarm:
            self._alarm = deadline
            self.world.at(deadline, self._ring, deadline, self.lives)

    def _ring(self, deadline: float, life: int) -> None:
        if life != self.lives or deadline != self._alarm:
            return
        self._alarm = inf
        now = self.world.now
        when, count = self._spin
        self._spin = (now, count + 1 if when == now else 0)
        if count > SPIN:
            self.world.report("spin", f"{self.name}: the deadline stands still at {deadline}")
            return
        self.input(lambda speaker: speaker.tick(self.world.now))
