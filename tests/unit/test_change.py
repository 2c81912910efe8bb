"""One change as a whole, on the simulated kernel: what should be, what differs, make it so."""

from __future__ import annotations

import pytest

from via6.config import RouteSpec, ViaSpec
from via6.daemon.change import declared, difference, occupied, ours, settle, slot, steps
from via6.engine import NEEDED_PARTS
from via6.model import Burst, NextHop, Plan, Route, RouteBlock
from via6.prefix import parse_address, parse_prefix
from via6.sim.kernel import SimKernel

A, B = parse_address("fe80::a"), parse_address("fe80::b")


@pytest.fixture
def kernel() -> SimKernel:
    made = SimKernel()
    for name, lladdr in (("eth0", "020000000001"), ("eth1", "020000000002")):
        made.node.set_up(made.node.add_link(name, lladdr=bytes.fromhex(lladdr)), True)
    return made


def spec(to: str, *vias: str, **more: object) -> RouteSpec:
    pairs = (via.split("%") for via in vias)
    return RouteSpec(parse_prefix(to), tuple(ViaSpec(parse_address(a), d) for a, d in pairs), **more)  # type: ignore[arg-type]


def make(kernel: SimKernel, *specs: RouteSpec, objects: bool = True) -> list[str]:
    """Applies; the prefixes that were refused or failed."""
    snapshot = kernel.dump(NEEDED_PARTS)
    wanted, refused = declared(specs, snapshot)
    failed = settle(kernel, snapshot, wanted, objects=objects)
    return [str(r.spec.to) for r in refused] + [str(s.prefix) for s in failed]


def held(kernel: SimKernel) -> set[str]:
    return {str(r.prefix) for r in ours(kernel.dump(NEEDED_PARTS)).values()}


@pytest.mark.parametrize("objects", [True, False])
def test_makes_it_so_and_back(kernel: SimKernel, objects: bool) -> None:
    first = spec("10.0.0.0/8", "fe80::a%eth0"), spec("10.1.0.0/16", "fe80::a%eth0", "fe80::b%eth1")
    assert make(kernel, *first, objects=objects) == []
    before = ours(kernel.dump(NEEDED_PARTS))
    second = spec("10.0.0.0/8", "fe80::b%eth1"), spec("10.2.0.0/16", type="blackhole")
    assert make(kernel, *second, objects=objects) == []
    after = ours(kernel.dump(NEEDED_PARTS))
    found = difference(before, after)
    assert [str(r.prefix) for r in found.add] == ["10.2.0.0/16"]
    assert [(old.next_hops[0].via, new.next_hops[0].via) for old, new in found.replace] == [(A, B)]
    assert [str(r.prefix) for r in found.delete] == ["10.1.0.0/16"]
    assert settle(kernel, kernel.dump(NEEDED_PARTS), before, objects=objects) == []
    assert ours(kernel.dump(NEEDED_PARTS)) == before
    assert not difference(before, ours(kernel.dump(NEEDED_PARTS)))
    assert settle(kernel, kernel.dump(NEEDED_PARTS), {}, objects=objects) == []
    assert not kernel.dump().nexthops
    assert held(kernel) == set()


def test_a_refused_route_keeps_its_slot(kernel: SimKernel) -> None:
    assert make(kernel, spec("10.0.0.0/8", "fe80::a%eth0")) == []
    assert make(kernel, spec("10.0.0.0/8", "fe80::a%nix"), spec("10.1.0.0/16", "fe80::a%eth0")) == ["10.0.0.0/8"]
    assert held(kernel) == {"10.0.0.0/8", "10.1.0.0/16"}
    assert make(kernel, spec("10.1.0.0/16", "fe80::a%eth0", "fe80::b%nix"), spec("10.0.0.0/8", "fe80::b%eth0")) == [
        "10.1.0.0/16"
    ]
    assert held(kernel) == {"10.0.0.0/8", "10.1.0.0/16"}


def test_a_metric_that_the_kernel_gives_is_the_slot(kernel: SimKernel) -> None:
    assert make(kernel, spec("2001:db8::/32", "fe80::a%eth0")) == []
    assert make(kernel, spec("2001:db8::/32", "fe80::a%nix", metric=1024)) == ["2001:db8::/32"]
    assert held(kernel) == {"2001:db8::/32"}


def test_a_kernel_that_refuses_one(kernel: SimKernel) -> None:
    other = Route(parse_prefix("10.0.0.0/8"), (NextHop(B, 2),), protocol=4)
    assert not kernel.by_hand(Plan((Burst("add", RouteBlock(other.as_template(), [other.prefix.packed])),))).failures
    snapshot = kernel.dump(NEEDED_PARTS)
    wanted, _ = declared((spec("10.0.0.0/8", "fe80::a%eth0"), spec("10.1.0.0/16", "fe80::a%eth0")), snapshot)
    assert [r.protocol for r in occupied(snapshot, wanted.values()).values()] == [4]
    (failed,) = settle(kernel, snapshot, wanted, objects=True)
    assert str(failed.prefix) == "10.0.0.0/8"
    assert "another hand's route (protocol 4)" in failed.text
    assert held(kernel) == {"10.1.0.0/16"}


def test_lost_answers_are_no_answers(kernel: SimKernel) -> None:
    kernel.lose_ack(after=2)
    assert make(kernel, *[spec(f"10.{i}.0.0/16", "fe80::a%eth0") for i in range(20)]) == []
    assert len(held(kernel)) == 20


def test_the_plan_is_what_settle_does(kernel: SimKernel) -> None:
    snapshot = kernel.dump(NEEDED_PARTS)
    wanted, _ = declared((spec("10.0.0.0/8", "fe80::a%eth0"),), snapshot)
    plan = steps(snapshot, wanted, objects=True)
    assert [type(s).__name__ for s in plan.steps] == ["PutNexthop", "Burst"]
    assert not kernel.apply(plan).failures
    assert not steps(kernel.dump(NEEDED_PARTS), wanted, objects=True)
    assert {slot(r) for r in wanted.values()} == {(parse_prefix("10.0.0.0/8"), 254, 0)}
