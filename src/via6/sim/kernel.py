"""The simulated kernel: `model.Kernel` with the answers of Linux, and faults on request.

    kernel = SimKernel()
    eth0 = kernel.node.add_link("eth0", lladdr=bytes.fromhex("020000000001"))
    kernel.node.set_up(eth0, True)
    kernel.apply(plan)                       # what Linux would refuse is refused with its errno and words
    kernel.by_hand(plan)                     # the same by another process: the watches hear of it
    kernel.node.set_carrier(eth0, False)     # …and lose what Linux loses, unannounced

Faults: `fail` refuses messages to come, `lose_ack` loses the answer to a plan, `forget` loses notifications,
`hold` and `release` delay them; `Chances` does the first three at random with the dice of the simulation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from via6.errors import Refusal
from via6.model import (
    PARTS,
    Burst,
    Change,
    DropNexthop,
    Failure,
    KernelEvent,
    Neighbour,
    NexthopObject,
    Outcome,
    Overrun,
    Plan,
    PutNexthop,
    Route,
    RouteTable,
    Snapshot,
    Step,
)
from via6.prefix import AF_INET, AF_INET6, Address
from via6.sim.node import Node
from via6.sim.refuse import Release
from via6.sim.state import Refused

ENOMEM: Final = 12
WATCH_ROOM: Final = 4096
"""Notifications that wait for a reader; more are lost, as in a receive buffer that is full."""


class Dice(Protocol):
    """What is wanted of a random generator: random() in [0, 1), as random.Random has it."""

    def random(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Chances:
    """Probabilities from 0 to 1: of a message to be refused (ENOMEM), of an answer and of a notification to be lost."""

    refuse: float = 0
    lose_ack: float = 0
    forget: float = 0


@dataclass(slots=True)
class _Fault:
    errno: int
    text: str
    count: int
    when: Callable[[Route | NexthopObject], bool]


class SimWatch:
    """Implements `model.Watch`; there is no file descriptor to poll (-1): a simulation knows when to read."""

    def __init__(self, neighbours: bool, room: int) -> None:
        self._neighbours = neighbours
        self._room = room
        self._waiting: list[KernelEvent] = []
        self._lost = False
        self.closed = False

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        self.closed = True

    def read(self) -> list[KernelEvent]:
        """What waits, oldest first; the news of a loss comes before it, as ENOBUFS does."""
        found: list[KernelEvent] = [Overrun()] if self._lost else []
        found += self._waiting
        self._waiting, self._lost = [], False
        return found

    def take(self, change: Change) -> None:
        """The kernel's side: a notification arrives."""
        if isinstance(change.object, Neighbour) and not self._neighbours:
            return
        if len(self._waiting) < self._room:
            self._waiting.append(change)
        else:
            self._lost = True

    def miss(self) -> None:
        """The kernel's side: a notification did not fit."""
        self._lost = True


class SimKernel:
    """Implements `model.Kernel`. `node` is where things happen to it (links, addresses); `release` is the version it
    pretends to be; without `privileged` it refuses to change anything."""

    def __init__(
        self,
        *,
        release: Release = (6, 18),
        privileged: bool = True,
        rng: Dice | None = None,
        chances: Chances = Chances(),
        watch_room: int = WATCH_ROOM,
    ) -> None:
        self._privileged = privileged
        self._rng = rng
        self._chances = chances
        self._watch_room = watch_room
        self._watches: list[SimWatch] = []
        self._faults: list[_Fault] = []
        self._held: list[Change] | None = None
        self._forget = 0
        self._lose_ack: list[int | None] = []
        self.node = Node(self._notify, release)

    # --- model.Kernel ------------------------------------------------------------------------------------------------

    def dump(self, parts: frozenset[str] = PARTS) -> Snapshot:
        """Sorted, so that equal states give equal snapshots."""
        node = self.node
        families = {f for part, f in (("routes4", AF_INET), ("routes6", AF_INET6)) if part in parts}
        routes = [node.shown(r) for r in node.every_route() if r.family in families]
        routes.sort(key=lambda r: (r.family, r.table, r.prefix, r.tos, r.metric))
        return Snapshot(
            links=tuple(node.links[i] for i in sorted(node.links)) if "links" in parts else (),
            addresses=tuple(node.addresses[k] for k in sorted(node.addresses)) if "addresses" in parts else (),
            routes=RouteTable.of(routes),
            rules=tuple(node.rules) if "rules" in parts else (),
            nexthops=tuple(node.nexthops[i] for i in sorted(node.nexthops)) if "nexthops" in parts else (),
            neighbours=tuple(node.neighbours[k] for k in sorted(node.neighbours)) if "neighbours" in parts else (),
            parts=parts,
        )

    def apply(self, plan: Plan) -> Outcome:
        """Works through the plan; our own watches are not told what it does, as with Linux."""
        if not self._privileged:
            raise Refusal(
                "the kernel refused: Operation not permitted (EPERM)", "run it as root, or with CAP_NET_ADMIN"
            )
        left: int | None = None
        overrun = False
        if self._lose_ack:
            overrun, left = True, self._lose_ack.pop(0)
        elif self._roll(self._chances.lose_ack):
            overrun = True
        failures: list[Failure] = []
        for index, step in enumerate(plan.steps):
            for thing in _things(step):
                if left == 0:
                    return Outcome(tuple(failures), True)
                left = None if left is None else left - 1
                failure = self._message(index, step, thing, own=True)
                if failure is not None:
                    failures.append(failure)
        return Outcome(tuple(failures), overrun)

    def watch(self, *, neighbours: bool = False) -> SimWatch:
        """Notifications of what others do and of what happens by itself."""
        watch = SimWatch(neighbours, self._watch_room)
        self._watches.append(watch)
        return watch

    def close(self) -> None:
        for watch in self._watches:
            watch.close()

    # --- what others do, what goes wrong -----------------------------------------------------------------------------

    def by_hand(self, plan: Plan) -> Outcome:
        """Another process does this: no faults, and all watches are told."""
        found = [
            self._message(index, step, thing, own=False)
            for index, step in enumerate(plan.steps)
            for thing in _things(step)
        ]
        return Outcome(tuple(f for f in found if f))

    def fail(
        self,
        errno: int,
        text: str = "",
        count: int = 1,
        when: Callable[[Route | NexthopObject], bool] = lambda _: True,
    ) -> None:
        """Refuses the next `count` messages of ours that `when` says yes to (the route, or the nexthop object)."""
        self._faults.append(_Fault(errno, Refused(errno, text).text, count, when))

    def lose_ack(self, after: int | None = None) -> None:
        """The answer to the next plan is lost: its Outcome is an overrun. With `after` only that many messages were
        worked through, else all of them: the answer came too late."""
        self._lose_ack.append(after)

    def forget(self, count: int = 1) -> None:
        """The next `count` notifications are lost; the watches read an Overrun."""
        self._forget += count

    def hold(self) -> None:
        """Notifications wait until `release`."""
        self._held = self._held or []

    def release(self) -> None:
        """What was held back arrives, in order; from now on nothing waits."""
        held, self._held = self._held or [], None
        for change in held:
            self._notify(change, own=False)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _message(self, index: int, step: Step, thing: Route | NexthopObject, own: bool) -> Failure | None:
        destination: Address | None = thing.prefix.packed if isinstance(thing, Route) else None
        try:
            if own:
                self._misfortune(thing)
            self._do(step, thing, own)
        except Refused as refused:
            return Failure(index, destination, refused.errno, refused.text)
        return None

    def _misfortune(self, thing: Route | NexthopObject) -> None:
        for fault in self._faults:
            if fault.when(thing):
                fault.count -= 1
                self._faults = [f for f in self._faults if f.count > 0]
                raise Refused(fault.errno, fault.text)
        if self._roll(self._chances.refuse):
            raise Refused(ENOMEM)

    def _do(self, step: Step, thing: Route | NexthopObject, own: bool) -> None:
        if isinstance(thing, Route):
            op = step.op if isinstance(step, Burst) else "add"
            if op == "delete":
                self.node.delete_route(thing, own)
            else:
                self.node.put_route(thing, op == "replace", own)
        elif isinstance(step, PutNexthop):
            self.node.put_nexthop(thing, step.replace, own)
        else:
            self.node.drop_nexthop(thing.nhid, own)

    def _roll(self, chance: float) -> bool:
        return bool(chance and self._rng) and self._rng is not None and self._rng.random() < chance

    def _notify(self, change: Change, own: bool) -> None:
        if own:
            return
        if self._held is not None:
            self._held.append(change)
            return
        lost = self._forget > 0 or self._roll(self._chances.forget)
        self._forget = max(0, self._forget - 1)
        for watch in self._watches:
            if not watch.closed:
                watch.miss() if lost else watch.take(change)


def _things(step: Step) -> list[Route | NexthopObject]:
    """The objects of a step's messages; for a deletion by id the id alone counts."""
    if isinstance(step, Burst):
        return list(step.block)
    return [NexthopObject(step.nhid)] if isinstance(step, DropNexthop) else [step.object]
