"""The Fib against the simulated kernel: scenes, and random histories that must end well."""

from __future__ import annotations

from collections.abc import Iterator
from errno import EEXIST, ENOMEM
from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from via6.carriers import FIRST_NHID, backoff_s
from via6.fib import NEEDED_PARTS, Fib
from via6.lots import BATCH
from via6.model import (
    Burst,
    DropNexthop,
    NextHop,
    NexthopObject,
    Outcome,
    Plan,
    PutNexthop,
    Route,
    RouteBlock,
)
from via6.prefix import AF_INET, Prefix, parse_address, parse_prefix
from via6.rib import Rib, canonical
from via6.sim.kernel import SimKernel, SimWatch

A, B, C = (parse_address(f"fe80::{name}") for name in "abc")
TEN = parse_prefix("10.0.0.0/8")
LIMIT = 20


class Bench:
    """A Rib, a Fib and a simulated kernel with the links eth0 (2) and eth1 (3)."""

    def __init__(self, *, objects: bool = True, sources: tuple[str, ...] = ("static",)) -> None:
        self.kernel = SimKernel()
        for name, lladdr in (("eth0", "020000000001"), ("eth1", "020000000002")):
            index = self.kernel.node.add_link(name, lladdr=bytes.fromhex(lladdr))
            self.kernel.node.set_up(index, True)
        self.watch: SimWatch = self.kernel.watch()
        self.rib = Rib(sources)
        self.fib = Fib(objects=objects)
        self.now = 100.0
        self.plans: list[Plan] = []

    def want(self, prefix: Prefix, *hops: NextHop, unit: object = None, **attributes: object) -> None:
        route = Route(prefix, hops, **attributes)  # type: ignore[arg-type]
        self.rib.update("static", 10, 0, RouteBlock(route.as_template(), [prefix.packed]), unit)

    def unwant(self, prefix: Prefix) -> None:
        self.rib.withdraw("static", RouteBlock(Route(prefix), [prefix.packed]))

    def hand(self, op: str, prefix: Prefix, *hops: NextHop, **attributes: object) -> Outcome:
        """Another program does something to the route."""
        route = Route(prefix, hops, **{"protocol": 4, **attributes})  # type: ignore[arg-type]
        return self.kernel.by_hand(Plan((Burst(op, RouteBlock(route, [prefix.packed])),)))

    def events(self) -> None:
        for event in self.watch.read():
            self.fib.observe(event, self.now)

    def run(self, limit: int | None = None) -> list[Plan]:
        """Until nothing is left to do now."""
        done = []
        for _ in range(LIMIT):
            self.events()
            self.fib.desire(self.rib.drain())
            if self.fib.needs_dump:
                self.fib.synchronise(self.kernel.dump(NEEDED_PARTS))
            plan = self.fib.plan(self.now, limit)
            if not plan:
                return done
            done.append(plan)
            self.fib.results(plan, self.kernel.apply(plan), self.now)
        raise AssertionError("never done")

    def routes(self) -> dict[Prefix, Route]:
        """Ours in the kernel."""
        return {r.prefix: r for r in self.kernel.dump().routes if r.protocol == 46}

    def objects(self) -> dict[int, NexthopObject]:
        return {o.nhid: o for o in self.kernel.dump().nexthops if o.protocol == 46}

    def phase(self, prefix: Prefix = TEN) -> str:
        status = self.fib.status(prefix)
        return status.phase if status else ""

    def restart(self) -> None:
        """The program ends and comes again; the kernel stays."""
        self.rib = Rib(("static",))
        self.fib = Fib()
        self.watch.read()
        self.fib.synchronise(self.kernel.dump(NEEDED_PARTS))


def steps(plans: list[Plan]) -> list[str]:
    return [s.op if isinstance(s, Burst) else type(s).__name__ for plan in plans for s in plan.steps]


def hop(via: bytes, ifindex: int = 2, weight: int = 1) -> NextHop:
    return NextHop(via, ifindex, weight)


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- install, move, delete -----------------------------------------------------------------------------------------


def test_a_route_comes_and_goes(bench: Bench) -> None:
    bench.rib.complete("static")
    bench.want(TEN, hop(A))
    assert steps(bench.run()) == ["PutNexthop", "add"]
    assert bench.routes()[TEN].next_hops == (hop(A),)
    assert bench.objects()[FIRST_NHID].via == A
    assert bench.phase() == "installed"
    bench.unwant(TEN)
    assert steps(bench.run()) == ["delete", "DropNexthop"]
    assert (bench.routes(), bench.objects(), len(bench.fib), bench.phase()) == ({}, {}, 0, "")


def test_without_nexthop_objects() -> None:
    bench = Bench(objects=False)
    bench.rib.complete("static")
    bench.want(TEN, hop(A), hop(B, 3, 4))
    assert steps(bench.run()) == ["add"]
    assert bench.routes()[TEN].nhid == 0
    bench.want(TEN, hop(C))
    assert steps(bench.run()) == ["replace"]
    assert bench.routes()[TEN].next_hops == (hop(C),)
    bench.unwant(TEN)
    assert steps(bench.run()) == ["delete"]


def test_blackhole_needs_no_nexthop(bench: Bench) -> None:
    bench.want(TEN, type="blackhole")
    bench.want(parse_prefix("2001:db8::/32"), type="unreachable")
    assert steps(bench.run()) == ["add", "add"]
    assert bench.fib.counts() == {"installed": 2}
    bench.restart()
    bench.want(TEN, type="blackhole")
    bench.want(parse_prefix("2001:db8::/32"), type="unreachable")
    assert not bench.run()


def test_moving_all_routes_is_one_message(bench: Bench) -> None:
    block = RouteBlock(Route(parse_prefix("0.0.0.0/24"), (hop(A),)), [bytes((10, 0, i, 0)) for i in range(200)])
    bench.rib.update("static", 10, 0, block, unit="gateway")
    bench.run()
    assert bench.rib.move("static", "gateway", [hop(B, 3)])
    (plan,) = bench.run()
    assert plan.steps == (PutNexthop(NexthopObject(FIRST_NHID, B, 3), replace=True),)
    assert {r.next_hops for r in bench.routes().values()} == {(hop(B, 3),)}


def test_units_with_equal_next_hops_move_apart(bench: Bench) -> None:
    other = parse_prefix("11.0.0.0/8")
    bench.want(TEN, hop(A), unit="one")
    bench.want(other, hop(A), unit="two")
    bench.run()
    bench.rib.move("static", "one", [hop(B)])
    bench.run()
    assert bench.routes()[TEN].next_hops == (hop(B),)
    assert bench.routes()[other].next_hops == (hop(A),)


def test_multipath_is_a_group_whose_members_nobody_replaces(bench: Bench) -> None:
    bench.rib.complete("static")
    other = parse_prefix("11.0.0.0/8")
    bench.want(TEN, hop(A, 2, 3), hop(B, 3), unit="both")
    bench.want(other, hop(A), unit="one")
    bench.run()
    assert bench.routes()[TEN].next_hops == (hop(A, 2, 3), hop(B, 3))
    assert len(bench.objects()) == 4  # two members, the group, and the other unit's own
    bench.rib.move("static", "one", [hop(C)])
    bench.rib.move("static", "both", [hop(A), hop(C, 3)])
    plans = bench.run()
    assert "replace" not in steps(plans)
    assert bench.routes()[TEN].next_hops == (hop(A), hop(C, 3))
    assert bench.routes()[other].next_hops == (hop(C),)
    assert len(bench.objects()) == 4


def test_single_to_group_and_back_rewrites_the_routes(bench: Bench) -> None:
    bench.rib.complete("static")
    bench.want(TEN, hop(A), unit="u")
    bench.run()
    bench.rib.move("static", "u", [hop(A), hop(B)])
    assert steps(bench.run()) == ["PutNexthop", "PutNexthop", "PutNexthop", "replace", "DropNexthop"]
    assert bench.routes()[TEN].next_hops == (hop(A), hop(B))
    bench.rib.move("static", "u", [hop(B)])
    assert steps(bench.run()) == ["PutNexthop", "replace", "DropNexthop", "DropNexthop", "DropNexthop"]
    assert bench.routes()[TEN].next_hops == (hop(B),)


def test_plans_are_bounded_and_go_on(bench: Bench) -> None:
    block = RouteBlock(Route(parse_prefix("0.0.0.0/24"), (hop(A),)), [bytes((10, 0, i, 0)) for i in range(100)])
    bench.rib.update("static", 10, 0, block)
    bench.fib.desire(bench.rib.drain())
    plans = []
    while plan := bench.fib.plan(0.0, 30):  # before any result is in
        plans.append(plan)
    assert [sum(len(s.block) for s in p.steps if isinstance(s, Burst)) for p in plans] == [30, 30, 30, 10]
    assert bench.fib.in_flight == 4
    for plan in plans:
        bench.fib.results(plan, bench.kernel.apply(plan), 0.0)
    assert bench.fib.counts() == {"installed": 100}
    assert len(bench.routes()) == 100


def test_many_routes_are_cut_into_batches(bench: Bench) -> None:
    count = 2 * BATCH + 5
    destinations = [i.to_bytes(4, "big") for i in range(count)]
    bench.rib.update("static", 10, 0, RouteBlock(Route(parse_prefix("0.0.0.0/32"), (hop(A),)), destinations))
    bench.fib.desire(bench.rib.drain())
    plan = bench.fib.plan(0.0)
    assert [len(s.block) for s in plan.steps if isinstance(s, Burst)] == [BATCH, BATCH, 5]
    bench.fib.results(plan, Outcome(), 0.0)
    assert bench.fib.counts() == {"installed": count}


def test_results_come_in_order(bench: Bench) -> None:
    bench.want(TEN, hop(A))
    bench.fib.desire(bench.rib.drain())
    bench.fib.plan(0.0)
    with pytest.raises(ValueError, match="order"):
        bench.fib.results(Plan(), Outcome(), 0.0)
    with pytest.raises(ValueError, match="outstanding"):
        bench.fib.synchronise(bench.kernel.dump())


def test_a_wish_that_changes_while_the_plan_is_under_way(bench: Bench) -> None:
    bench.rib.complete("static")
    bench.want(TEN, hop(A))
    bench.fib.desire(bench.rib.drain())
    plan = bench.fib.plan(bench.now)
    bench.unwant(TEN)
    bench.fib.desire(bench.rib.drain())
    assert not bench.fib.plan(bench.now)
    bench.fib.results(plan, bench.kernel.apply(plan), bench.now)
    assert steps(bench.run()) == ["delete", "DropNexthop"]
    assert not bench.routes()


# --- failures ------------------------------------------------------------------------------------------------------


def test_a_refused_route_says_why_and_is_tried_again(bench: Bench) -> None:
    bench.kernel.fail(ENOMEM, "no room", count=2, when=lambda thing: isinstance(thing, Route))
    bench.want(TEN, hop(A))
    bench.run()
    status = bench.fib.status(TEN)
    assert status is not None
    assert (status.phase, status.errno, status.text, status.attempts) == ("failed", ENOMEM, "no room", 1)
    assert status.retry_at == bench.fib.next_at(bench.now) == bench.now + 1
    assert [s.prefix for s in bench.fib.troubles()] == [TEN]
    bench.now += 1
    bench.run()
    assert bench.fib.next_at(bench.now) == bench.now + 2
    bench.now += 2
    bench.run()
    assert bench.phase() == "installed"
    assert bench.fib.next_at(bench.now) == inf


def test_backoff_doubles_up_to_a_minute() -> None:
    assert [backoff_s(n) for n in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert backoff_s(10_000) == 60


def test_a_refused_nexthop_object_is_tried_once_for_all_routes(bench: Bench) -> None:
    bench.kernel.fail(ENOMEM, "no room", when=lambda thing: isinstance(thing, NexthopObject))
    block = RouteBlock(Route(parse_prefix("0.0.0.0/24"), (hop(A),)), [bytes((10, 0, i, 0)) for i in range(50)])
    bench.rib.update("static", 10, 0, block)
    bench.run()
    assert bench.fib.counts() == {"failed": 50}
    status = bench.fib.status(parse_prefix("10.0.1.0/24"))
    assert status is not None
    assert (status.text, status.attempts) == ("no room", 1)
    bench.now += 1
    assert steps(bench.run()) == ["PutNexthop", "add"]
    assert bench.fib.counts() == {"installed": 50}


def test_another_hands_route_is_not_overwritten(bench: Bench) -> None:
    bench.hand("add", TEN, hop(B, 3))
    bench.watch.read()
    bench.want(TEN, hop(A))
    bench.run()
    status = bench.fib.status(TEN)
    assert status is not None
    assert (status.phase, status.errno) == ("failed", EEXIST)
    assert status.text == "another hand's route (protocol 4) holds this slot"
    assert bench.kernel.dump().routes.at(TEN)[0].protocol == 4
    bench.hand("delete", TEN, hop(B, 3))
    bench.run()
    assert bench.phase() == "installed"


def test_a_failed_member_leaves_the_group_with_the_others(bench: Bench) -> None:
    bench.kernel.fail(ENOMEM, count=1, when=lambda thing: isinstance(thing, NexthopObject) and thing.via == B)
    bench.want(TEN, hop(A), hop(B, 3))
    bench.run()
    assert bench.routes()[TEN].next_hops == (hop(A),)
    bench.now += 1
    bench.run()
    assert bench.routes()[TEN].next_hops == (hop(A), hop(B, 3))


def test_lost_errors_are_found_by_a_dump(bench: Bench) -> None:
    block = RouteBlock(Route(parse_prefix("0.0.0.0/24"), (hop(A),)), [bytes((10, 0, i, 0)) for i in range(50)])
    bench.rib.update("static", 10, 0, block)
    bench.kernel.lose_ack(after=20)
    bench.fib.desire(bench.rib.drain())
    plan = bench.fib.plan(bench.now)
    bench.fib.results(plan, bench.kernel.apply(plan), bench.now)
    assert bench.fib.needs_dump
    assert not bench.fib.plan(bench.now)
    bench.fib.synchronise(bench.kernel.dump(NEEDED_PARTS))
    assert bench.fib.counts() == {"installed": 19, "pending": 31}
    bench.run()
    assert len(bench.routes()) == 50


def test_an_id_that_is_taken_is_left_alone(bench: Bench) -> None:
    theirs = NexthopObject(FIRST_NHID, C, 3, protocol=4)
    bench.kernel.by_hand(Plan((PutNexthop(theirs),)))
    bench.watch.read()
    bench.want(TEN, hop(A))
    for _ in range(3):
        bench.run()
        bench.now += 1
    assert bench.routes()[TEN].next_hops == (hop(A),)
    assert theirs in bench.kernel.dump().nexthops


# --- start ---------------------------------------------------------------------------------------------------------


def test_what_an_earlier_run_left_is_adopted(bench: Bench) -> None:
    old = parse_prefix("11.0.0.0/8")
    bench.want(TEN, hop(A))
    bench.want(old, hop(B, 3), hop(A))
    bench.run()
    before = bench.kernel.dump()
    bench.restart()
    bench.want(TEN, hop(A))
    assert not bench.run()  # nothing to do, and nothing may be deleted yet
    assert bench.kernel.dump() == before
    assert bench.fib.counts() == {"installed": 1, "stale": 1}
    bench.rib.complete("static")
    assert steps(bench.run()) == ["delete", "DropNexthop", "DropNexthop", "DropNexthop"]
    assert list(bench.routes()) == [TEN]
    assert len(bench.objects()) == 1


def test_the_id_of_an_object_that_goes_is_not_given_to_another(bench: Bench) -> None:
    bench.rib.complete("static")
    bench.kernel.apply(Plan((PutNexthop(NexthopObject(FIRST_NHID + 1, A, 2)),)))  # an earlier run's
    bench.restart()
    bench.rib.complete("static")
    bench.kernel.fail(ENOMEM)
    bench.fib.desire(bench.rib.drain())
    plan = bench.fib.plan(bench.now)
    assert plan.steps == (DropNexthop(FIRST_NHID + 1),)
    bench.want(TEN, hop(A), hop(B, 3))
    bench.fib.desire(bench.rib.drain())
    other = bench.fib.plan(bench.now)
    for sent in (plan, other):
        bench.fib.results(sent, bench.kernel.apply(sent), bench.now)
    bench.now += 1
    bench.run()
    assert bench.routes()[TEN].next_hops == (hop(A), hop(B, 3))
    assert FIRST_NHID + 1 not in bench.objects()


def test_wishes_may_come_before_the_dump(bench: Bench) -> None:
    bench.want(TEN, hop(A), hop(B, 3))
    bench.run()
    bench.rib, bench.fib = Rib(("static",)), Fib()
    bench.want(TEN, hop(A), hop(B, 3))
    bench.fib.desire(bench.rib.drain())
    bench.fib.synchronise(bench.kernel.dump(NEEDED_PARTS))
    assert bench.phase() == "installed"
    assert not bench.run()


def test_new_next_hops_at_start_replace_in_place(bench: Bench) -> None:
    bench.want(TEN, hop(A))
    bench.run()
    bench.restart()
    bench.want(TEN, hop(B, 3))
    assert steps(bench.run()) == ["PutNexthop", "replace"]  # the old object stays until all is complete
    assert bench.routes()[TEN].next_hops == (hop(B, 3),)


# --- drift and death -----------------------------------------------------------------------------------------------


def test_a_deleted_route_comes_back(bench: Bench) -> None:
    bench.want(TEN, hop(A))
    bench.run()
    bench.hand("delete", TEN, protocol=46)
    bench.events()
    assert bench.phase() == "drifted"
    assert steps(bench.run()) == ["replace"]
    assert bench.phase() == "installed"


def test_a_changed_route_comes_back(bench: Bench) -> None:
    bench.want(TEN, hop(A))
    bench.run()
    bench.hand("replace", TEN, hop(B, 3))
    bench.run()
    assert bench.routes()[TEN].next_hops == (hop(A),)


def test_a_fight_is_not_fought_at_full_speed(bench: Bench) -> None:
    bench.want(TEN, hop(A))
    bench.run()
    for _ in range(2):
        bench.hand("delete", TEN, protocol=46)
        bench.run()
    assert bench.phase() == "drifted"
    assert bench.fib.next_at(bench.now) == bench.now + 0.5
    bench.now += 0.5
    bench.run()
    assert bench.phase() == "installed"


@pytest.mark.parametrize("objects", [True, False])
@pytest.mark.parametrize("how", ["carrier", "down", "nexthop"])
def test_routes_that_die_in_silence_come_back(objects: bool, how: str) -> None:
    bench = Bench(objects=objects)
    other = parse_prefix("11.0.0.0/8")
    bench.want(TEN, hop(A))
    bench.want(other, hop(A), hop(B, 3))
    bench.run()
    if how == "carrier":
        bench.kernel.node.set_carrier(2, False)
        bench.events()
        assert bench.phase() == ("pending" if objects else "installed")
    elif how == "down":
        bench.kernel.node.set_up(2, False)
        bench.events()
        status = bench.fib.status(TEN)
        assert status is not None
        assert (status.phase, status.text) == ("pending", "eth0 is down")
    else:
        for nhid in sorted(bench.objects()):
            bench.kernel.by_hand(Plan((DropNexthop(nhid),)))
    bench.run()
    bench.kernel.node.set_carrier(2, True)
    bench.kernel.node.set_up(2, True)
    bench.run()
    assert {p: canonical(r.next_hops) for p, r in bench.routes().items()} == {
        TEN: (hop(A),),
        other: (hop(A), hop(B, 3)),
    }
    assert bench.fib.counts() == {"installed": 2}


def test_a_changed_nexthop_object_is_put_right(bench: Bench) -> None:
    bench.want(TEN, hop(A))
    bench.run()
    bench.kernel.by_hand(Plan((PutNexthop(NexthopObject(FIRST_NHID, C, 3, protocol=46), replace=True),)))
    assert steps(bench.run()) == ["PutNexthop"]
    assert bench.routes()[TEN].next_hops == (hop(A),)


def test_a_source_address_that_goes_takes_the_route_with_it(bench: Bench) -> None:
    src = parse_address("192.0.2.1")
    bench.kernel.node.add_address(1, src, 32)
    bench.want(TEN, hop(A), src=src)
    bench.run()
    bench.kernel.node.delete_address(1, src)
    bench.run()
    assert bench.phase() == "failed"
    bench.kernel.node.add_address(1, src, 32)
    bench.run()
    assert bench.phase() == "installed"


def test_lost_notifications_are_made_good_by_a_dump(bench: Bench) -> None:
    bench.want(TEN, hop(A))
    bench.run()
    bench.kernel.forget()
    bench.hand("replace", TEN, hop(B, 3))
    bench.run()
    assert bench.routes()[TEN].next_hops == (hop(A),)


# --- random histories ----------------------------------------------------------------------------------------------

PREFIXES = ["10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16", "2001:db8:9::/48"]
OCCUPIED = ["10.9.0.0/16", "2001:db8:8::/48"]
EARLIER = ["10.1.0.0/16", "10.7.0.0/16"]
WAYS = {
    "a": (hop(A),),
    "b": (hop(B, 3),),
    "c": (hop(C),),
    "ab": (hop(A), hop(B, 3)),
    "bca": (hop(B), hop(C), hop(A, 3, 2)),
    "bc": (hop(B, 3), hop(C, 3)),
}
UNITS = ["u", "v", None]

prefixes = st.sampled_from(PREFIXES + OCCUPIED)
ways = st.sampled_from(list(WAYS))
sources = st.sampled_from(["static", "babel"])


class Histories(RuleBasedStateMachine):
    """Two sources, another hand, links that go, a kernel that refuses and forgets. Whatever happens: nothing of
    another hand is touched, nothing is deleted too early, and in the end all is as it should be."""

    @initialize(objects=st.booleans())
    def start(self, objects: bool) -> None:
        self.bench = Bench(objects=objects, sources=("static", "babel"))
        self.flights: list[tuple[Plan, Outcome]] = []
        kernel = self.bench.kernel
        earlier = NexthopObject(FIRST_NHID + 1, A, 2)
        kernel.apply(Plan((PutNexthop(earlier),)))
        for prefix in map(parse_prefix, EARLIER):
            block = RouteBlock(Route(prefix, nhid=earlier.nhid), [prefix.packed])
            kernel.apply(Plan((Burst("add", block),)))
        self.theirs = set(map(parse_prefix, OCCUPIED))
        for prefix in map(parse_prefix, OCCUPIED):
            self.bench.hand("add", prefix, hop(C), metric=1024 if prefix.family != AF_INET else 0)
        self.bench.watch.read()
        self.bench.fib.synchronise(kernel.dump(NEEDED_PARTS))

    @rule(source=sources, prefix=prefixes, way=ways, unit=st.sampled_from(UNITS), preference=st.integers(1, 3))
    def announce(self, source: str, prefix: str, way: str, unit: str | None, preference: int) -> None:
        to = parse_prefix(prefix)
        self.bench.rib.update(source, preference, 0, RouteBlock(Route(to, WAYS[way]), [to.packed]), unit)

    @rule(source=sources, prefix=prefixes)
    def withdraw(self, source: str, prefix: str) -> None:
        to = parse_prefix(prefix)
        self.bench.rib.withdraw(source, RouteBlock(Route(to), [to.packed]))

    @rule(source=sources, unit=st.sampled_from(["u", "v", *WAYS]), way=ways)
    def move(self, source: str, unit: str, way: str) -> None:
        self.bench.rib.move(source, canonical(WAYS[unit]) if unit in WAYS else unit, WAYS[way])

    @rule(source=sources)
    def complete(self, source: str) -> None:
        self.bench.rib.complete(source)

    @rule(prefix=st.sampled_from(PREFIXES))
    def delete_by_hand(self, prefix: str) -> None:
        self.bench.hand("delete", parse_prefix(prefix), protocol=46)

    @rule(prefix=st.sampled_from(PREFIXES), way=ways)
    def replace_by_hand(self, prefix: str, way: str) -> None:
        ours = self.bench.routes().get(parse_prefix(prefix))
        if ours is not None:
            self.bench.hand("replace", ours.prefix, *WAYS[way], metric=ours.metric)

    @rule(prefix=st.sampled_from(OCCUPIED))
    def vacate(self, prefix: str) -> None:
        if parse_prefix(prefix) in self.theirs:
            self.theirs.discard(parse_prefix(prefix))
            self.bench.hand("delete", parse_prefix(prefix))

    @rule(data=st.data())
    def drop_object_by_hand(self, data: st.DataObject) -> None:
        objects = sorted(self.bench.objects())
        if objects:
            self.bench.kernel.by_hand(Plan((DropNexthop(data.draw(st.sampled_from(objects))),)))

    @rule(ifindex=st.sampled_from([2, 3]), carrier=st.booleans())
    def carrier(self, ifindex: int, carrier: bool) -> None:
        self.bench.kernel.node.set_carrier(ifindex, carrier)

    @rule(ifindex=st.sampled_from([2, 3]), up=st.booleans())
    def link(self, ifindex: int, up: bool) -> None:
        self.bench.kernel.node.set_up(ifindex, up)
        self.theirs = {p for p in self.theirs if self.bench.kernel.dump().routes.at(p)}

    @rule(count=st.integers(1, 3))
    def refuse(self, count: int) -> None:
        self.bench.kernel.fail(ENOMEM, count=count)

    @rule(after=st.none() | st.integers(0, 3))
    def lose_ack(self, after: int | None) -> None:
        self.bench.kernel.lose_ack(after)

    @rule()
    def forget(self) -> None:
        self.bench.kernel.forget()

    @rule(seconds=st.sampled_from([0.1, 1.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.bench.now += seconds

    @rule()
    def hear(self) -> None:
        self.bench.events()

    @rule(limit=st.none() | st.integers(1, 3))
    def plan(self, limit: int | None) -> None:
        fib = self.bench.fib
        fib.desire(self.bench.rib.drain())
        if fib.needs_dump and not self.flights:
            fib.synchronise(self.bench.kernel.dump(NEEDED_PARTS))
        plan = fib.plan(self.bench.now, limit)
        if plan:
            self._check(plan)
            self.flights.append((plan, self.bench.kernel.apply(plan)))
            self.nothing_of_others_is_touched()

    @precondition(lambda self: self.flights)
    @rule()
    def results(self) -> None:
        plan, outcome = self.flights.pop(0)
        self.bench.fib.results(plan, outcome, self.bench.now)

    def _check(self, plan: Plan) -> None:
        kinds = [s.op if isinstance(s, Burst) else type(s).__name__ for s in plan.steps]
        if not self.bench.rib.all_complete:
            assert "delete" not in kinds
            assert "DropNexthop" not in kinds
        order = ["PutNexthop", "add", "replace", "delete", "DropNexthop"]
        ranks = [order.index("add" if k == "replace" else k) for k in kinds]
        assert ranks == sorted(ranks)

    def nothing_of_others_is_touched(self) -> None:
        table = self.bench.kernel.dump().routes
        for prefix in self.theirs:
            assert [r.protocol for r in table.at(prefix)] == [4], prefix

    def teardown(self) -> None:
        if not hasattr(self, "bench"):
            return
        bench = self.bench
        while self.flights:
            self.results()
        for source in ("static", "babel"):
            bench.rib.complete(source)
        for ifindex in (2, 3):
            bench.kernel.node.set_carrier(ifindex, True)
            bench.kernel.node.set_up(ifindex, True)
        self.theirs = {p for p in self.theirs if bench.kernel.dump().routes.at(p)}
        for _ in range(30):  # more than there can be refusals in store
            bench.run()
            bench.now += 61
        self.nothing_of_others_is_touched()
        wanted = {r.prefix: canonical(r.next_hops) for block in bench.rib.winners() for r in block}
        # A slot that another hand took when ours was not known to stand there stays with the other hand.
        table = bench.kernel.dump().routes
        wanted = {p: hops for p, hops in wanted.items() if not any(r.protocol == 4 for r in table.at(p))}
        assert {p: canonical(r.next_hops) for p, r in bench.routes().items()} == wanted
        counts = bench.fib.counts()
        assert counts.pop("installed", 0) == len(wanted)
        assert set(counts) <= {"failed"}
        if not counts:
            used = {r.nhid for r in bench.routes().values()}
            assert {o.nhid for o in self._needless(used)} == set()

    def _needless(self, used: set[int]) -> Iterator[NexthopObject]:
        objects = self.bench.objects()
        members = {nhid for o in objects.values() if o.nhid in used for nhid, _ in o.group}
        yield from (o for o in objects.values() if o.nhid not in used | members)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, database=None)
