"""Declared routes: resolved once per unit, moved as one, withdrawn when they cannot be followed."""

from __future__ import annotations

from dataclasses import replace

from via6.config import RouteSpec, ViaSpec
from via6.model import IFF_LOWER_UP, IFF_UP, Change, InterfaceAddress, Link, NextHop, Route, RouteTable, Snapshot
from via6.prefix import parse_address, parse_prefix
from via6.resolve import DEVICE_DOWN, LOOP, NO_ROUTE, NO_SOURCE, UNKNOWN_DEVICE
from via6.rib import Move, Rib, Update, Withdrawal
from via6.static import NAME, PREFERENCE, StaticSource
from via6.view import View

ETH0 = Link(2, "eth0", flags=IFF_UP | IFF_LOWER_UP)
ETH1 = Link(3, "eth1", flags=IFF_UP | IFF_LOWER_UP)
FAR, A, B = parse_address("2001:db8:9::1"), parse_address("fe80::a"), parse_address("fe80::b")


def way(via: bytes, ifindex: int) -> Route:
    return Route(parse_prefix("2001:db8:9::/48"), (NextHop(via, ifindex),), protocol=3, metric=1024)


def view(*routes: Route) -> View:
    return View(Snapshot(links=(ETH0, ETH1), routes=RouteTable.of(routes)))


def spec(to: str, *vias: ViaSpec, **attributes: object) -> RouteSpec:
    return RouteSpec(parse_prefix(to), vias, **attributes)  # type: ignore[arg-type]


def test_everything_is_told_once() -> None:
    source = StaticSource(
        [spec(f"10.{i}.0.0/16", ViaSpec(A, "eth0")) for i in range(100)] + [spec("10.0.0.0/8", ViaSpec(A, "eth0"))]
    )
    node = view()
    many, one = source.refresh(node)
    assert isinstance(many, Update)
    assert isinstance(one, Update)
    assert (len(many.block), len(one.block), many.unit == one.unit) == (100, 1, True)
    assert (many.preference, many.block.template.next_hops) == (PREFERENCE, (NextHop(A, 2),))
    assert source.refresh(node) == []
    assert source.unmet == []


def test_attributes_become_those_of_the_kernel() -> None:
    source = StaticSource([
        spec("10.0.0.0/8", ViaSpec(None, "eth0"), metric=5, table=100, mtu=1400),
        spec("2001:db8:5::/48", ViaSpec(None, "eth0")),
        spec("11.0.0.0/8", type="blackhole"),
    ])  # fmt: skip
    first, second, third = [u.block.template for u in source.refresh(view()) if isinstance(u, Update)]
    assert (first.scope, first.metric, first.table, first.metrics) == (253, 5, 100, ((2, 1400),))
    assert (second.scope, second.metric) == (0, 1024)
    assert (third.type, third.scope, third.next_hops) == ("blackhole", 0, ())


def test_a_next_hop_that_moves_moves_all() -> None:
    source = StaticSource([spec(f"10.{i}.0.0/16", ViaSpec(FAR)) for i in range(50)])
    rib = Rib([NAME])
    node = view(way(A, 2))
    rib.feed(NAME, source.refresh(node))
    rib.drain()
    assert [str(r.prefix) for r in source.trail(spec("10.1.0.0/16", ViaSpec(FAR)))] == ["2001:db8:9::/48"]
    node.observe(Change(way(A, 2), gone=True))
    node.observe(Change(way(B, 3)))
    updates = source.refresh(node)
    assert [type(u) for u in updates] == [Move]
    rib.feed(NAME, updates)
    drained = rib.drain()
    assert (drained.decisions, [p.next_hops for p in drained.moved]) == ([], [(NextHop(B, 3),)])


def test_what_cannot_be_followed_is_withdrawn_and_comes_back() -> None:
    source = StaticSource([spec("10.0.0.0/8", ViaSpec(FAR)), spec("11.0.0.0/8", ViaSpec(A, "eth0"))])
    node = view(way(A, 2))
    source.refresh(node)
    node.observe(Change(way(A, 2), gone=True))
    (gone,) = source.refresh(node)
    assert isinstance(gone, Withdrawal)
    assert next(iter(gone.block)).prefix == parse_prefix("10.0.0.0/8")
    (unmet,) = source.unmet
    assert (unmet.reason.kind, unmet.partial, [str(s.to) for s in unmet.specs]) == (NO_ROUTE, False, ["10.0.0.0/8"])
    node.observe(Change(way(B, 3)))
    (back,) = source.refresh(node)
    assert isinstance(back, Update)
    assert back.block.template.next_hops == (NextHop(B, 3),)
    assert source.unmet == []


def test_of_several_next_hops_those_that_work_carry_the_route() -> None:
    source = StaticSource([spec("10.0.0.0/8", ViaSpec(A, "eth0", 2), ViaSpec(B, "eth1", 3), ViaSpec(A, "eth9"))])
    node = view()
    (update,) = source.refresh(node)
    assert isinstance(update, Update)
    assert update.block.template.next_hops == (NextHop(A, 2, 2), NextHop(B, 3, 3))
    assert [(u.reason.kind, u.partial) for u in source.unmet] == [(UNKNOWN_DEVICE, True)]
    node.observe(Change(replace(ETH0, flags=0)))
    (move,) = source.refresh(node)
    assert isinstance(move, Move)
    assert move.next_hops == (NextHop(B, 3),)
    assert [u.reason.kind for u in source.unmet] == [DEVICE_DOWN, UNKNOWN_DEVICE]


def test_next_hops_that_turn_out_to_be_one_add_their_weights() -> None:
    source = StaticSource(
        [spec("10.0.0.0/8", ViaSpec(FAR), ViaSpec(parse_address("2001:db8:9::2")), ViaSpec(B, "eth1"))]
    )
    (update,) = source.refresh(view(way(A, 2)))
    assert isinstance(update, Update)
    assert update.block.template.next_hops == (NextHop(A, 2, 2), NextHop(B, 3))


def test_a_source_address_that_the_node_has_not() -> None:
    src = parse_address("192.0.2.1")
    source = StaticSource([spec("10.0.0.0/8", ViaSpec(A, "eth0"), src=src), spec("11.0.0.0/8", ViaSpec(A, "eth0"))])
    node = view()
    (update,) = source.refresh(node)
    assert isinstance(update, Update)
    assert [u.reason.kind for u in source.unmet] == [NO_SOURCE]
    node.observe(Change(InterfaceAddress(2, src, 32)))
    (update,) = source.refresh(node)
    assert isinstance(update, Update)
    assert update.block.template.src == src


def test_a_next_hop_inside_its_own_prefix_is_asked_for_itself() -> None:
    default = Route(parse_prefix("::/0"), (NextHop(A, 2),), protocol=3, metric=1024)
    source = StaticSource([spec("2001:db8:9::/48", ViaSpec(FAR)), spec("2001:db8:8::/48", ViaSpec(FAR))])
    (update,) = source.refresh(view(default))
    assert isinstance(update, Update)
    assert [str(r.prefix) for r in update.block] == ["2001:db8:8::/48"]
    assert [u.reason.kind for u in source.unmet] == [LOOP]
