"""What must change: desired against installed, as plans; a status for every route.

The Rib says what each slot should hold (`desire`), the kernel's dump, answers and notifications say what it does hold
(`synchronise`, `results`, `observe`), and `plan` yields the steps between the two. A slot's life:

    pending --plan--> sent --results--> installed --another hand--> drifted --plan--> sent …
                         \\--refused--> failed --backoff is over--> sent …

Rules:

- Nothing is overwritten that is not ours: a new slot is taken with `add`, and if it is occupied the route fails with
  the owner's protocol named, and is tried again with backoff. Only where our own route stood, and another hand
  removed or changed it, `replace` brings it back.
- Nothing is deleted before every source is complete. What an earlier run left (protocol 46) is adopted: what is as
  it should be is not touched, not a packet is lost.
- Make before break: in a plan come nexthop objects, new and changed routes, deletions, unused objects.
- A slot that is sent is left alone until its results are in; what is wanted meanwhile is remembered. So plans may
  be made while earlier ones are still being applied, as long as results come in the order of the plans.
- When the kernel's state is in doubt (errors or notifications lost), nothing is planned until a dump has been seen
  (`needs_dump`, `synchronise`).

The bookkeeping is in `lots`, nexthop objects in `carriers`, what comes from the kernel by itself in `fib_watch`.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from errno import EEXIST, EINVAL, ENOENT, ESRCH
from math import inf
from typing import Final

from via6 import fib_watch
from via6.carriers import Carrier, Carriers, Sending, backoff_s
from via6.lots import DRIFTED, FAILED, INSTALLED, LOST, NEW, OURS, PENDING, SENT, TAKEN, Held, Lot, Lots, taken_text
from via6.model import (
    TABLE_MAIN,
    Burst,
    DropNexthop,
    Failure,
    KernelEvent,
    Outcome,
    Plan,
    PutNexthop,
    Route,
    RouteBlock,
    Snapshot,
    Step,
)
from via6.prefix import AF_INET6, Address, Prefix
from via6.rib import IPV6_METRIC, Cell, Drained, Entry, Path, by_value

NEEDED_PARTS: Final = frozenset({"links", "routes4", "routes6", "nexthops"})
"""What `synchronise` wants of a dump."""

DRIFT_PAUSE_S: Final = 0.5
"""Between two repairs of one slot."""

DRIFTS_KEPT: Final = 65536  # slots whose last repair is remembered

Slot = tuple[Cell, Address]


@dataclass(frozen=True, slots=True)
class Status:
    """One slot. `phase` is pending, installed, failed, drifted, or stale: ours and to be deleted. `wanted` and `held`
    are what it should hold and what the kernel holds of ours. `text` says in the kernel's words, or ours, what is
    wrong; `retry_at` is in seconds of the caller's clock, 0 for now."""

    prefix: Prefix
    table: int
    metric: int
    phase: str
    wanted: Route | None
    held: Route | None
    errno: int = 0
    text: str = ""
    attempts: int = 0
    retry_at: float = 0.0


@dataclass(frozen=True, slots=True)
class _Shot:
    """A burst on its way. `members` are its destinations, `held` what its slots hold if it succeeds."""

    lot: Lot
    members: list[Address]
    held: Held | None


@dataclass(frozen=True, slots=True)
class _Dropping:
    carrier: Carrier


_Record = Sending | _Shot | _Dropping


class Fib:
    """Desired and installed of one kernel. With `objects` routes hang on nexthop objects (kernel 5.3); without them
    each route carries its next hops. `now` is any clock in seconds that does not go back."""

    def __init__(self, *, objects: bool = True) -> None:
        self.complete = False
        self.needs_dump = False
        self.lots = Lots()
        self.carriers = Carriers(objects)
        self.foreign: dict[Slot, int] = {}
        """Protocols of other hands' routes in slots of ours."""
        self.disturbed: set[Slot] = set()
        """Slots that another hand touched while they were sent."""
        self.repaired: dict[Slot, float] = {}
        self._held: dict[tuple[Route, Carrier | None], Held] = {}
        self._flights: deque[tuple[Plan, list[_Record]]] = deque()
        self._sweep = False

    # --- desired ---------------------------------------------------------------------------------------------------

    def desire(self, drained: Drained) -> None:
        """Takes what the Rib drained."""
        for path in drained.moved:
            if self.carriers.moved(path):
                self.rewrite(path)
        for decision in drained.decisions:
            self._want(decision.cell, decision.entry, decision.destinations)
        self.complete = drained.complete
        self._sweep = True

    def _want(self, cell: Cell, entry: Entry | None, destinations: list[Address]) -> None:
        slots = self.lots.cells.get(cell)
        groups = by_value(destinations, map(slots.get, destinations)) if slots else [(None, destinations)]
        for lot, group in groups:
            if lot is None:
                self.lots.place(None, cell, group, entry, None, PENDING)
            elif lot.want is entry:
                continue
            elif lot.phase is SENT:
                self.lots.place(lot, cell, group, entry, lot.have, SENT, claim=lot.claim)
            else:
                self.settle(lot, group, entry, lot.have, claim=lot.claim)

    def settle(
        self,
        lot: Lot,
        group: list[Address],
        want: Entry | None,
        have: Held | None,
        *,
        phase: str = PENDING,
        claim: str = NEW,
        at: float = 0.0,
        failure: Failure | None = None,
    ) -> None:
        """Slots of a lot that want and have this now: installed if the two agree, else waiting in `phase`; after a
        failure not before `at`."""
        if want is not None and have is not None and claim == OURS and self.fits(want, have):
            self.lots.place(lot, lot.cell, group, want, have, INSTALLED, claim=OURS)
        elif failure is not None:
            self.lots.place(
                lot, lot.cell, group, want, have, FAILED,
                claim=claim, attempts=lot.attempts + 1, at=at, errno=failure.errno, text=failure.text,
            )  # fmt: skip
        else:
            self.lots.place(lot, lot.cell, group, want, have, phase, claim=claim, at=at)

    def fits(self, want: Entry, have: Held) -> bool:
        """The kernel holds what is wanted. The path's next hops may have moved: that is its carrier's business."""
        return have.template == want.template and have.carrier is self.carriers.of(want.path, have.carrier)

    def hold(self, template: Route, carrier: Carrier | None) -> Held:
        """The one Held of this content."""
        found = self._held.get((template, carrier))
        if found is None:
            found = self._held[template, carrier] = Held(template, carrier)
        return found

    def rewrite(self, path: Path) -> None:
        """The path has another carrier: routes that wait or are installed must be looked at again."""
        for lot in list(self.lots.all):
            if lot.want is not None and lot.want.path is path and lot.phase is not SENT:
                self.settle(lot, self.lots.members(lot), lot.want, lot.have, claim=lot.claim)

    # --- plan ------------------------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Plans whose results are not in."""
        return len(self._flights)

    def under_way(self, carrier: Carrier) -> bool:
        """Routes on this carrier are being sent."""
        shots = (r for _, records in self._flights for r in records if isinstance(r, _Shot))
        return any(shot.held is not None and shot.held.carrier is carrier for shot in shots)

    def plan(self, now: float, limit: int | None = None) -> Plan:
        """The next steps, with at most `limit` routes; called again it goes on. Empty: nothing can be done now
        (`next_at` says when to ask again). Its results must be given back, in order."""
        if self.needs_dump:
            return Plan()
        puts: list[PutNexthop] = []
        sendings: list[Sending] = []
        for carrier in list(self.carriers.restless):
            self.carriers.ready(carrier, now, puts, sendings)
        room = limit if limit is not None else 1 << 62
        bursts: list[Step] = []
        shots: list[_Record] = []
        for deleting in (False, True) if self.complete else (False,):
            for lot in [lot for lot in self.lots.queue if lot.at <= now and (lot.want is None) is deleting]:
                if room <= 0 or (lot.count > room and shots):
                    # A lot that could go whole in the next plan is not cut. Nothing is deleted before it: what goes may
                    # be what stands in for it now.
                    room = 0
                    break
                if deleting or self._ready(lot, now, puts, sendings):
                    burst, shot = self._shoot(lot, room)
                    bursts.append(burst)
                    shots.append(shot)
                    room -= len(shot.members)
        steps: list[Step] = [*puts, *bursts]
        records: list[_Record] = [*sendings, *shots]
        if not steps and not self._flights and self._sweep and self.complete:
            for carrier in self._unused(now):
                steps.append(DropNexthop(carrier.nhid))
                records.append(_Dropping(carrier))
        if not steps:
            return Plan()
        plan = Plan(tuple(steps))
        self._flights.append((plan, records))
        return plan

    def _ready(self, lot: Lot, now: float, puts: list[PutNexthop], sendings: list[Sending]) -> bool:
        carrier = self.carriers.of(lot.want.path) if lot.want is not None else None
        return carrier is None or self.carriers.ready(carrier, now, puts, sendings)

    def _shoot(self, lot: Lot, room: int) -> tuple[Burst, _Shot]:
        op = lot.op
        lot = self.lots.take(lot, room)
        members = lot.listed or []
        held = None
        if lot.want is not None:
            held = self.hold(lot.want.template, self.carriers.of(lot.want.path))
            template = held.route
        else:
            assert lot.have is not None  # else nothing would be deleted
            template = _deletable(lot.have)
        shot = _Shot(lot, members, held)
        return Burst(op, RouteBlock(template, members)), shot

    def _unused(self, now: float) -> list[Carrier]:
        lots = self.lots.all
        paths = {lot.want.path for lot in lots if lot.want is not None}
        carriers = {lot.have.carrier for lot in lots if lot.have is not None and lot.have.carrier is not None}
        live = {lot.have for lot in lots if lot.have is not None}
        self._held = {key: held for key, held in self._held.items() if held in live}
        found = self.carriers.drops(paths, carriers, now)
        self._sweep = self.carriers.postponed(now)
        return found

    def next_at(self, now: float) -> float:
        """When `plan` may have something to do that it has not now; infinity: not before something happens."""
        waits = (lot.at for lot in self.lots.queue if lot.at > now)
        return min(min(waits, default=inf), self.carriers.next_at(now))

    # --- results ---------------------------------------------------------------------------------------------------

    def results(self, plan: Plan, outcome: Outcome, now: float) -> None:
        """What became of the oldest plan without results."""
        if not self._flights or self._flights[0][0] is not plan:
            raise ValueError("results must come once for each plan and in the order of the plans")
        _, records = self._flights.popleft()
        failures: defaultdict[int, dict[Address | None, Failure]] = defaultdict(dict)
        for failure in outcome.failures:
            failures[failure.step][failure.destination] = failure
        self.needs_dump = self.needs_dump or outcome.overrun
        self._sweep = True
        for index, record in enumerate(records):
            refused = failures.get(index, {})
            if isinstance(record, _Shot):
                self._landed(record, refused, outcome.overrun, now)
            elif isinstance(record, _Dropping):
                self._dropped(record.carrier, refused.get(None), now)
            elif outcome.overrun:
                record.carrier.sent = None
            elif not self.carriers.settle(record, refused.get(None), now):
                self.needs_dump = True

    def _dropped(self, carrier: Carrier, failure: Failure | None, now: float) -> None:
        if failure is not None and failure.errno != ENOENT:
            self.carriers.keep(carrier, failure, now)

    def _landed(self, shot: _Shot, refused: dict[Address | None, Failure], overrun: bool, now: float) -> None:
        """Results of one burst, for slots that may have got another want since."""
        cell = shot.lot.cell
        good = shot.members
        if refused:
            good = [d for d in shot.members if d not in refused]
            bad = [d for d in shot.members if d in refused]
            for failure, group in by_value(bad, (_plain(refused[d]) for d in bad)):
                self._refused(shot, cell, group, failure, now)
        if good:
            slots = self.lots.cells[cell]
            whole = shot.lot.count == len(good) and shot.lot.phase is SENT
            for lot, group in [(shot.lot, good)] if whole else by_value(good, map(slots.__getitem__, good)):
                have, claim = (lot.have, lot.claim) if overrun else (shot.held, OURS if shot.held else NEW)
                self.settle(lot, group, lot.want, have, claim=claim)
        if self.foreign and shot.held is not None and not overrun:
            for slot in self.foreign.keys() & {(cell, d) for d in good}:
                del self.foreign[slot]
        carrier = shot.held.carrier if shot.held is not None else None
        if good and carrier is not None and carrier.put is None:
            self.needs_dump = True  # the kernel took routes on an object that it has not, as we believed
        if self.disturbed:
            self._disturbed(cell, shot.members, now)

    def _disturbed(self, cell: Cell, members: list[Address], now: float) -> None:
        """Another hand touched slots while they were sent: whether before or after us, what we believe to have there
        may be gone."""
        for slot in self.disturbed.intersection((cell, d) for d in members):
            self.disturbed.discard(slot)
            lot = self.lots.find(*slot)
            if lot is not None and lot.want is not None and lot.have is not None:
                self.drift(slot, lot, now)

    def _refused(self, shot: _Shot, cell: Cell, group: list[Address], failure: Failure, now: float) -> None:
        carrier = shot.held.carrier if shot.held is not None else None
        slots = self.lots.cells[cell]
        for lot, part in by_value(group, map(slots.__getitem__, group)):
            # EINVAL: the nexthop object that we named is no more, and the routes on it died with it.
            if shot.held is None and failure.errno in (ESRCH, ENOENT, EINVAL):
                self.settle(lot, part, lot.want, None)
            elif carrier is not None and carrier.put is None:
                # The fault is the nexthop object's; it is the one that is tried again.
                self.settle(lot, part, lot.want, lot.have, claim=lot.claim)
            elif lot.want is None and lot.have is None:
                self.settle(lot, part, None, None)
            else:
                self._failed(lot, part, failure, now)

    def _failed(self, lot: Lot, group: list[Address], failure: Failure, now: float) -> None:
        at = now + backoff_s(lot.attempts + 1)
        if failure.errno != EEXIST:
            self.settle(lot, group, lot.want, lot.have, claim=lot.claim, at=at, failure=failure)
            return
        for protocol, part in by_value(group, [self.foreign.get((lot.cell, d)) for d in group]):
            # A route that came unseen, or our own that we thought had died with its link.
            self.needs_dump = self.needs_dump or protocol is None or lot.claim == LOST
            said = replace(failure, text=taken_text(protocol))
            self.settle(lot, part, lot.want, lot.have, claim=lot.claim, at=at, failure=said)

    # --- what the kernel says by itself ----------------------------------------------------------------------------

    def observe(self, event: KernelEvent, now: float) -> None:
        """One notification; of our own doings nothing follows."""
        fib_watch.observe(self, event, now)

    def synchronise(self, snapshot: Snapshot) -> None:
        """Takes a dump (`NEEDED_PARTS`) for the truth: at the start, and whenever `needs_dump`. No plan may be on its
        way. A part that the dump has not is left as believed."""
        if self._flights:
            raise ValueError("a dump is of no use while results are outstanding")
        fib_watch.synchronise(self, snapshot)
        self._sweep = True

    def drift(self, slot: Slot, lot: Lot, now: float) -> None:
        """Another hand has removed or changed our route: it comes back at once, but not twice in a short time, so
        that a fight with another program burns no processor."""
        last = self.repaired.pop(slot, -inf)
        at = last + DRIFT_PAUSE_S if now < last + DRIFT_PAUSE_S else 0.0
        self.repaired[slot] = max(now, at)
        while len(self.repaired) > DRIFTS_KEPT:
            del self.repaired[next(iter(self.repaired))]
        self.settle(lot, [slot[1]], lot.want, lot.have, phase=DRIFTED, claim=TAKEN, at=at)

    # --- readers ---------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Slots that are wanted or held."""
        return sum(lot.count for lot in self.lots.all)

    def counts(self) -> dict[str, int]:
        """Number of slots in each phase, in time that does not depend on their number."""
        found: dict[str, int] = {}
        for lot in self.lots.all:
            phase = self._phase(lot)
            found[phase] = found.get(phase, 0) + lot.count
        return found

    def status(self, prefix: Prefix, table: int = TABLE_MAIN, metric: int = 0) -> Status | None:
        """Of one slot; None if it is neither wanted nor held."""
        if prefix.family == AF_INET6:
            metric = metric or IPV6_METRIC
        lot = self.lots.find(Cell(table, metric, len(prefix.packed), prefix.length), prefix.packed)
        return self._status(lot, prefix.packed) if lot is not None else None

    def troubles(self) -> Iterator[Status]:
        """Every slot that is not as it should be."""
        for lot in list(self.lots.all):
            if lot.phase is not INSTALLED:
                for destination in self.lots.members(lot):
                    yield self._status(lot, destination)

    def _phase(self, lot: Lot) -> str:
        if lot.want is None:
            return "stale"
        if lot.phase is PENDING and self.carriers.failing(lot.want.path):
            return FAILED
        return PENDING if lot.phase is SENT else lot.phase

    def _status(self, lot: Lot, destination: Address) -> Status:
        cell = lot.cell
        said: Lot | Carrier = lot
        text = ""
        if lot.want is not None and lot.phase is PENDING:
            said = self.carriers.failing(lot.want.path) or lot
            text = self.carriers.link_fault(lot.want.path)
        return Status(
            prefix=Prefix(destination, cell.length),
            table=cell.table,
            metric=cell.metric,
            phase=self._phase(lot),
            wanted=lot.want.route.at(destination) if lot.want is not None else None,
            held=lot.have.route.at(destination) if lot.have is not None and lot.claim == OURS else None,
            errno=said.errno,
            text=said.text or text,
            attempts=said.attempts,
            retry_at=said.at,
        )


def _deletable(have: Held) -> Route:
    """What names routes to be deleted. Slot, protocol and attributes say enough, so that a way that has changed unseen
    does not save the route; but to IPv4 metric 0 means any (fib_table_delete, net/ipv4/fib_trie.c), and if the route
    is gone already the one behind it would be taken. So there the way is said, too: by nhid or by next hops, the
    kernel wants no more than one of them."""
    template, carrier = have.template, have.carrier
    if carrier is None or template.metric or template.family == AF_INET6:
        return template
    return replace(template, nhid=carrier.nhid) if carrier.nhid else replace(template, next_hops=carrier.hops)


def _plain(failure: Failure) -> Failure:
    """The same for all destinations of a step."""
    return replace(failure, step=0, destination=None)


__all__ = ["DRIFTED", "FAILED", "INSTALLED", "NEEDED_PARTS", "PENDING", "Fib", "Status"]
