"""Would a plan change the way to an address?"""

from __future__ import annotations

import pytest

from via6.model import (
    Burst,
    DropNexthop,
    NextHop,
    NexthopObject,
    Plan,
    PutNexthop,
    Route,
    RouteBlock,
    RouteTable,
    Step,
)
from via6.observe.cut import cuts
from via6.prefix import parse_address, parse_prefix

A, B = parse_address("fe80::a"), parse_address("fe80::b")
CLIENT = parse_address("198.51.100.7")
CLIENT6 = parse_address("2001:db8:f::7")


def route(prefix: str, via: bytes | None = A, **more: object) -> Route:
    hops = () if via is None else (NextHop(via, 2),)
    return Route(parse_prefix(prefix), hops, **more)  # type: ignore[arg-type]


def step(op: str, one: Route) -> Burst:
    return Burst(op, RouteBlock(one.as_template(), [one.prefix.packed]))


BEFORE = RouteTable.of(
    [
        route("0.0.0.0/0", protocol=3),
        route("198.51.100.0/24", nhid=7),
        route("::/0", metric=1024),
        route("10.0.0.0/8", B),
    ]
)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], False),
        ([step("add", route("198.51.100.7/32", B))], True),
        ([step("add", route("198.51.100.7/32", A))], False),
        ([step("add", route("198.51.100.8/32", B))], False),
        ([step("add", route("198.51.100.0/25", B))], True),
        ([step("add", route("198.51.100.0/24", B, metric=5))], False),
        ([step("add", route("198.51.100.0/24", B))], False),  # taken: the kernel will refuse
        ([step("replace", route("198.51.100.0/24", B))], True),
        ([step("replace", route("198.51.100.0/24", A))], False),
        ([step("replace", route("198.51.100.0/24", None, type="blackhole"))], True),
        ([step("delete", route("198.51.100.0/24"))], False),  # the default route goes the same way
        ([step("delete", route("198.51.100.0/24")), step("delete", route("0.0.0.0/0"))], True),
        ([step("add", route("198.51.100.7/32", B)), step("delete", route("198.51.100.7/32", B))], False),
        ([step("add", route("198.51.100.7/32", B, table=100))], False),
        ([PutNexthop(NexthopObject(7, B, 2), replace=True)], True),
        ([PutNexthop(NexthopObject(7, A, 2), replace=True)], False),
        ([PutNexthop(NexthopObject(9, B, 2)), step("add", route("198.51.100.7/32", None, nhid=9))], True),
        ([PutNexthop(NexthopObject(9, A, 2)), step("add", route("198.51.100.7/32", None, nhid=9))], False),
        ([PutNexthop(NexthopObject(8, A, 2)), PutNexthop(NexthopObject(7, group=((8, 1),)), replace=True)], False),
        ([step("add", route("2001:db8::/32", B))], False),
        ([DropNexthop(99)], False),
    ],
)  # fmt: skip
def test_the_way_to_an_ipv4_client(steps: list[Step], expected: bool) -> None:
    assert cuts(CLIENT, BEFORE, Plan(tuple(steps))) is expected


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (step("add", route("2001:db8:f::/48", B)), True),
        (step("add", route("2001:db8:e::/48", B)), False),
        (step("replace", route("::/0", B, metric=1024)), True),
        (step("add", route("::/0", B, metric=512)), True),
        (step("add", route("::/0", B, metric=2048)), False),
        (step("delete", route("::/0", metric=1024)), True),
    ],
)
def test_the_way_to_an_ipv6_client(one: Burst, expected: bool) -> None:
    assert cuts(CLIENT6, BEFORE, Plan((one,))) is expected


def test_without_any_way_before() -> None:
    nothing = RouteTable()
    assert cuts(CLIENT, nothing, Plan((step("add", route("0.0.0.0/0")),)))
    assert not cuts(CLIENT, nothing, Plan((step("add", route("10.0.0.0/8")),)))
