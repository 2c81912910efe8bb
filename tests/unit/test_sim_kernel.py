"""The simulated kernel: faults and faces. That it answers as Linux does is shown by netns/test_kernel_contract."""

from __future__ import annotations

import random

import pytest

from via6.errors import Refusal
from via6.model import (
    Burst,
    Change,
    DropNexthop,
    Kernel,
    Link,
    Neighbour,
    NextHop,
    NexthopObject,
    Overrun,
    Plan,
    PutNexthop,
    Route,
    RouteBlock,
)
from via6.prefix import parse_address, parse_prefix
from via6.sim.kernel import Chances, SimKernel
from via6.sim.node import link_local_of

VIA = parse_address("fe80::1")


def node(**options: object) -> tuple[SimKernel, int]:
    kernel = SimKernel(**options)  # type: ignore[arg-type]
    eth0 = kernel.node.add_link("eth0", lladdr=bytes.fromhex("020000000001"))
    kernel.node.set_up(eth0, True)
    return kernel, eth0


def routes(count: int, ifindex: int, op: str = "add", via: bytes = VIA) -> Plan:
    template = Route(parse_prefix("0.0.0.0/24"), (NextHop(via, ifindex),))
    return Plan((Burst(op, RouteBlock(template, [bytes((10, i >> 8, i & 255, 0)) for i in range(count)])),))


def installed(kernel: SimKernel) -> int:
    return sum(1 for r in kernel.dump().routes if r.protocol == 46)


def test_it_is_a_kernel() -> None:
    kernel: Kernel = SimKernel()
    assert kernel.dump().by_name["lo"].ifindex == 1
    assert kernel.dump(frozenset({"rules"})).links == ()
    kernel.close()


def test_link_local_address_of_a_link() -> None:
    kernel, eth0 = node()
    assert link_local_of(bytes.fromhex("020000000001")) == parse_address("fe80::ff:fe00:1")
    assert any(a.address == parse_address("fe80::ff:fe00:1") and a.ifindex == eth0 for a in kernel.dump().addresses)


def test_a_burst_names_the_routes_that_failed() -> None:
    kernel, eth0 = node()
    kernel.apply(routes(2, eth0))
    outcome = kernel.apply(routes(3, eth0))
    assert [(f.step, f.destination, f.errno) for f in outcome.failures] == [
        (0, bytes((10, 0, 0, 0)), 17),
        (0, bytes((10, 0, 1, 0)), 17),
    ]
    assert installed(kernel) == 3


def test_older_kernels() -> None:
    kernel, eth0 = node(release=(4, 19))
    (failure,) = kernel.apply(routes(1, eth0)).failures
    assert (failure.errno, failure.text) == (22, "IPv4 does not support RTA_VIA attribute")
    kernel, eth0 = node(release=(5, 2))
    assert not kernel.apply(routes(1, eth0)).failures
    (failure,) = kernel.apply(Plan((PutNexthop(NexthopObject(1, VIA, eth0)),))).failures
    assert (failure.errno, failure.text) == (95, "Operation not supported (EOPNOTSUPP)")


def test_no_privilege() -> None:
    kernel = SimKernel(privileged=False)
    with pytest.raises(Refusal, match="EPERM"):
        kernel.apply(routes(1, 1))
    kernel.dump()


def test_failures_on_request() -> None:
    kernel, eth0 = node()
    kernel.fail(12, count=2)
    kernel.fail(105, "no room", when=lambda thing: isinstance(thing, Route) and thing.prefix.packed[2] == 4)
    outcome = kernel.apply(routes(6, eth0))
    assert [(f.destination, f.errno, f.text) for f in outcome.failures] == [
        (bytes((10, 0, 0, 0)), 12, "Cannot allocate memory (ENOMEM)"),
        (bytes((10, 0, 1, 0)), 12, "Cannot allocate memory (ENOMEM)"),
        (bytes((10, 0, 4, 0)), 105, "no room"),
    ]
    assert not kernel.apply(routes(6, eth0, "replace")).failures


def test_a_lost_answer_is_an_overrun() -> None:
    kernel, eth0 = node()
    kernel.lose_ack(after=3)
    assert kernel.apply(routes(10, eth0)).overrun
    assert installed(kernel) == 3
    kernel.lose_ack()
    assert kernel.apply(routes(10, eth0, "replace")).overrun
    assert installed(kernel) == 10
    assert not kernel.apply(routes(10, eth0, "replace")).overrun


def test_own_changes_are_not_told_others_are() -> None:
    kernel, eth0 = node()
    watch = kernel.watch()
    kernel.apply(routes(3, eth0))
    assert watch.read() == []
    kernel.by_hand(routes(3, eth0, "delete"))
    assert [event.gone for event in watch.read() if isinstance(event, Change)] == [True] * 3
    assert watch.fileno() == -1
    watch.close()
    kernel.by_hand(routes(3, eth0))
    assert watch.read() == []


def test_lost_notifications() -> None:
    kernel, eth0 = node()
    watch = kernel.watch()
    kernel.forget(2)
    kernel.by_hand(routes(3, eth0))
    news = watch.read()
    assert news[0] == Overrun()
    assert len(news) == 2
    small = SimKernel(watch_room=5)
    ears = small.watch()
    for number in range(9):
        small.node.add_link(f"d{number}")
    heard = ears.read()
    assert heard[0] == Overrun()
    assert [e.object.name for e in heard if isinstance(e, Change) and isinstance(e.object, Link)] == [
        "d0", "d1", "d2", "d3", "d4",
    ]  # fmt: skip
    assert ears.read() == []


def test_late_notifications() -> None:
    kernel, eth0 = node()
    watch = kernel.watch()
    kernel.hold()
    kernel.by_hand(routes(2, eth0))
    kernel.node.set_carrier(eth0, False)
    assert watch.read() == []
    kernel.release()
    kinds = [type(event.object) for event in watch.read() if isinstance(event, Change)]
    assert kinds == [Route, Route, Link]
    kernel.node.set_carrier(eth0, True)
    assert len(watch.read()) == 1


def test_neighbours_are_told_to_those_who_ask() -> None:
    kernel, eth0 = node()
    deaf, keen = kernel.watch(), kernel.watch(neighbours=True)
    kernel.node.put_neighbour(Neighbour(eth0, VIA, b"\2\0\0\0\0\t", "REACHABLE"))
    assert (len(deaf.read()), len(keen.read())) == (0, 1)
    assert kernel.dump().neighbours[0].state == "REACHABLE"
    kernel.node.delete_link(eth0)
    assert kernel.dump().neighbours == ()


def test_chances_follow_the_dice() -> None:
    def story(seed: int) -> list[object]:
        kernel, eth0 = node(rng=random.Random(seed), chances=Chances(refuse=0.3, lose_ack=0.3, forget=0.3))
        watch = kernel.watch()
        told: list[object] = []
        for _ in range(20):
            told.append(kernel.apply(routes(5, eth0, "replace")))
            kernel.by_hand(routes(5, eth0, "replace"))
            told.append(watch.read())
        return told

    assert story(1) == story(1)
    assert story(1) != story(2)
    assert any(getattr(o, "overrun", False) for o in story(1))
    assert any(getattr(o, "failures", ()) for o in story(1))


def test_nexthop_object_dies_with_the_carrier_and_nobody_is_told() -> None:
    kernel, eth0 = node()
    kernel.apply(Plan((PutNexthop(NexthopObject(1, VIA, eth0)),)))
    kernel.apply(Plan((Burst("add", RouteBlock(Route(parse_prefix("0.0.0.0/8"), nhid=1), [bytes((10, 0, 0, 0))])),)))
    assert installed(kernel) == 1
    watch = kernel.watch()
    kernel.node.set_carrier(eth0, False)
    assert [type(e.object) for e in watch.read() if isinstance(e, Change)] == [Link]
    assert kernel.dump().nexthops == ()
    assert installed(kernel) == 0
    kernel.node.set_carrier(eth0, True)
    assert installed(kernel) == 0
    (failure,) = kernel.apply(Plan((DropNexthop(1),))).failures
    assert (failure.destination, failure.errno) == (None, 2)


def test_ten_thousand_routes_are_no_burden() -> None:
    kernel, eth0 = node()
    kernel.node.add_address(eth0, parse_address("2001:db8::1"), 64)
    plan = routes(10_000, eth0, via=parse_address("2001:db8::9"))
    assert not kernel.apply(plan).failures
    assert installed(kernel) == 10_000
