"""The vocabulary: blocks read like the routes they stand for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from via6.model import (
    IFF_LOWER_UP,
    IFF_UP,
    TABLE_LOCAL,
    Burst,
    DropNexthop,
    Link,
    NextHop,
    NexthopObject,
    Plan,
    PutNexthop,
    Route,
    RouteBlock,
    RouteTable,
    Snapshot,
)
from via6.prefix import Prefix, mask, parse_address, parse_prefix

VIA = parse_address("fe80::1")

routes = st.builds(
    lambda packed, bits, metric, link: Route(Prefix(mask(packed, bits), bits), (NextHop(VIA, link),), metric=metric),
    st.binary(min_size=4, max_size=4), st.integers(0, 32), st.integers(0, 2), st.integers(1, 2),
)  # fmt: skip


@given(st.lists(routes))
def test_a_table_holds_what_it_was_made_of(given_routes: list[Route]) -> None:
    table = RouteTable.of(given_routes)
    assert len(table) == len(given_routes)
    assert sorted(table, key=repr) == sorted(given_routes, key=repr)
    assert len(table.blocks) == len({r.as_template() for r in given_routes})
    for route in given_routes:
        at = table.at(route.prefix)
        assert route in at
        assert [r.metric for r in at] == sorted(r.metric for r in at)
        found = table.lookup(route.prefix.packed)
        assert found is not None
        assert found.prefix.length >= route.prefix.length
    assert sorted(table.where(lambda t: t.metric == 0), key=repr) == sorted(
        (r for r in given_routes if r.metric == 0), key=repr
    )


def test_a_template_forgets_its_destination_alone() -> None:
    route = Route(parse_prefix("10.0.0.0/8"), (NextHop(VIA, 2),), metric=5)
    assert route.as_template() == Route(parse_prefix("0.0.0.0/8"), (NextHop(VIA, 2),), metric=5)
    assert route.as_template().at(route.prefix.packed) == route
    block = RouteBlock(route.as_template(), [route.prefix.packed])
    assert (len(block), list(block)) == (1, [route])


def test_other_tables_are_other_tables() -> None:
    table = RouteTable.of([Route(parse_prefix("10.0.0.0/8"), table=TABLE_LOCAL)])
    address = parse_address("10.1.1.1")
    assert table.lookup(address) is None
    assert table.lookup(address, TABLE_LOCAL) is not None
    assert table.at(parse_prefix("10.0.0.0/8")) == ()


def test_links() -> None:
    down, dark, lit = (Link(i, f"eth{i}", flags=f) for i, f in ((1, 0), (2, IFF_UP), (3, IFF_UP | IFF_LOWER_UP)))
    assert [link.up for link in (down, dark, lit)] == [False, True, True]
    assert [link.carrier for link in (down, dark, lit)] == [False, False, True]
    snapshot = Snapshot(links=(down, dark, lit))
    assert (snapshot.dev(2), snapshot.dev(9)) == ("eth2", "if9")
    assert snapshot.by_name["eth3"] is lit


def test_the_length_of_a_plan_counts_routes() -> None:
    block = RouteBlock(Route(parse_prefix("0.0.0.0/24")), [bytes((10, 0, i, 0)) for i in range(5)])
    plan = Plan((PutNexthop(NexthopObject(1)), Burst("add", block), DropNexthop(2)))
    assert len(plan) == 7
    assert plan
    assert not Plan()
