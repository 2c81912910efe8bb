"""The FIB of a simulated router, the whole chain as in the daemon: BabelSource, Rib, Fib, and the simulated kernel.

Slower than `ways.LightFib`, and nothing is assumed: nexthop objects, slots by metric, what Linux loses without a word,
refusals and their repetition. Packets are followed after every single message to the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Final

from via6.babel.model import Hop, Way
from via6.babel.source import METRIC, NAME, SLOTS, BabelSource
from via6.engine import NEEDED_PARTS, Engine
from via6.model import PROTO_VIA6, TABLE_MAIN, Burst, Failure, Outcome, Plan, Route, RouteBlock, Step
from via6.prefix import Prefix
from via6.sim.kernel import SimKernel
from via6.sim.network import FIRST_IFINDEX
from via6.sim.ways import Change, Operation

_ROUNDS: Final = 200


class ChainFib:
    """Implements `ways.Forwarding`."""

    def __init__(self, interfaces: int) -> None:
        self._interfaces = interfaces
        self._dark: dict[int, bool] = {}
        self._seen: Callable[[list[Prefix]], None] = lambda _: None
        self._clock: Callable[[], float] = lambda: 0.0
        self._boot()

    def _boot(self) -> None:
        self._kernel = SimKernel()
        node = self._kernel.node
        for number in range(self._interfaces):
            ifindex = node.add_link(f"eth{FIRST_IFINDEX + number}", lladdr=b"\x02\0\0\0\0" + bytes((number + 1,)))
            node.set_up(ifindex, True)
            node.set_carrier(ifindex, not self._dark.get(ifindex))
        self._begin()

    def _begin(self) -> None:
        self._watch = self._kernel.watch()
        self._source = BabelSource()
        self._engine = Engine((), self._kernel.dump(NEEDED_PARTS), others=(NAME,))

    def attend(self, seen: Callable[[list[Prefix]], None], clock: Callable[[], float]) -> None:
        self._seen, self._clock = seen, clock

    def look(self, prefix: Prefix) -> Way | None:
        slots = {r.metric - METRIC: r for r in self._ours(prefix)}
        if not slots:
            return None
        return Way(self._hop(slots.get(0)), self._hop(slots.get(1)))

    def _ours(self, prefix: Prefix) -> Iterator[Route]:
        table = self._kernel.node.tables[prefix.family, TABLE_MAIN]
        for route in table.get(prefix) or ():
            if route.protocol == PROTO_VIA6 and METRIC <= route.metric < METRIC + SLOTS:
                yield route

    def _hop(self, route: Route | None) -> Hop | None:
        if route is None or route.type != "unicast":
            return None
        hop = self._kernel.node.shown(route).next_hops[0]
        return Hop(hop.ifindex, hop.via) if hop.via is not None else None

    def _all(self) -> list[Prefix]:
        routes = self._kernel.node.every_route()
        return sorted({r.prefix for r in routes if r.protocol == PROTO_VIA6})

    def carrier(self, ifindex: int, up: bool) -> list[Prefix]:
        hit = self._all()
        self._dark[ifindex] = not up
        self._kernel.node.set_carrier(ifindex, up)
        return [] if up else hit

    def operations(self, changes: Iterable[Change], order: int) -> list[Operation]:
        together = tuple(changes)
        return [Operation("chain", changes=together)] if together else []

    def perform(self, operation: Operation) -> list[Prefix]:
        if operation.slot == "chain":
            self._engine.feed(NAME, self._source.updates(operation.changes))
        elif operation.slot == "complete":
            self._engine.complete(NAME)
        self._engine.observe(self._watch.read(), self._clock())
        if self._engine.stale:
            self._engine.synchronise(self._kernel.dump(NEEDED_PARTS))
        self._pump()
        return []

    def due(self) -> float:
        now = self._clock()
        return max(self._engine.fib.next_at(now), now + 0.01)

    def clear(self) -> list[Prefix]:
        gone = self._all()
        self._boot()
        return gone

    def restart(self) -> dict[Prefix, Hop | None]:
        self._watch.close()
        self._begin()
        found = {}
        for prefix in self._all():
            way = self.look(prefix) or Way(None)
            found[prefix] = way.primary or way.backup
        return found

    def wrong(self) -> list[str]:
        found = [f"{s.prefix} metric {s.metric}: {s.phase} {s.text}" for s in self._engine.fib.troubles()]
        for prefix in self._all():
            metrics = [r.metric for r in self._ours(prefix)]
            if METRIC + SLOTS - 1 not in metrics:
                found.append(f"{prefix}: no floor below {metrics}")
        return found

    def _pump(self) -> None:
        fib, now = self._engine.fib, self._clock()
        for _ in range(_ROUNDS):
            if fib.needs_dump:
                fib.synchronise(self._kernel.dump(NEEDED_PARTS))
            plan = fib.plan(now)
            if not plan:
                return
            failures: list[Failure] = []
            for index, step in enumerate(plan.steps):
                for piece in _pieces(step):
                    hit = self._all()
                    outcome = self._kernel.apply(Plan((piece,)))
                    failures += [replace(failure, step=index) for failure in outcome.failures]
                    if isinstance(piece, Burst):
                        hit = [route.prefix for route in piece.block]
                    self._seen(hit)
            fib.results(plan, Outcome(tuple(failures)), now)
        raise RuntimeError("plans without end")


def _pieces(step: Step) -> list[Step]:
    """One message each."""
    if not isinstance(step, Burst):
        return [step]
    return [Burst(step.op, RouteBlock(step.block.template, [d])) for d in step.block.destinations]
