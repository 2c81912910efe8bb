"""The Rib against a naive model, and what it says about its choices."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from via6.model import NH_LINKDOWN, TABLE_MAIN, NextHop, Route, RouteBlock
from via6.prefix import Prefix, parse_address, parse_prefix
from via6.rib import Cell, Entry, Move, Rib, Update, Withdrawal, by_value, canonical

A, B = parse_address("fe80::a"), parse_address("fe80::b")
TEN = parse_prefix("10.0.0.0/8")
V6 = parse_prefix("2001:db8::/32")

WAYS = [(NextHop(A, 2),), (NextHop(B, 2),), (NextHop(A, 2), NextHop(B, 3, 2))]
PREFIXES = [TEN, parse_prefix("10.1.0.0/16"), parse_prefix("10.2.0.0/16"), V6]


def block(prefix: Prefix, *hops: NextHop, metric: int = 0) -> RouteBlock:
    return RouteBlock(Route(prefix, hops, metric=metric).as_template(), [prefix.packed])


def test_the_smaller_preference_wins_then_the_metric_then_the_name() -> None:
    rib = Rib()
    rib.update("babel", 20, 5, block(TEN, WAYS[0][0]))
    rib.update("static", 10, 900, block(TEN, WAYS[1][0]))
    rib.update("bgp", 20, 5, block(TEN, WAYS[0][0]))
    assert [(r.source, r.best, r.sentence) for r in rib.why(TEN)] == [
        ("static", True, "best: preference 10 is smaller than 20 of babel"),
        ("babel", False, "preference 20 is larger than 10 of static"),
        ("bgp", False, "preference 20 is larger than 10 of static"),
    ]
    rib.withdraw("static", block(TEN))
    assert [r.sentence for r in rib.why(TEN)] == [
        "best: same preference and metric as bgp; by name babel comes before it",
        "same preference and metric as babel; by name bgp comes after it",
    ]
    rib.update("bgp", 20, 3, block(TEN, WAYS[0][0]))
    assert [r.sentence for r in rib.why(TEN)] == [
        "best: same preference as babel, and metric 3 is smaller than its 5",
        "same preference as bgp, and metric 5 is larger than its 3",
    ]
    rib.withdraw("babel", block(TEN))
    assert [r.sentence for r in rib.why(TEN)] == ["best: no other source has a route for this prefix, table and metric"]
    assert rib.why(V6) == []


def test_floating_static_routes_do_not_compete() -> None:
    rib = Rib()
    rib.update("static", 10, 0, block(TEN, WAYS[0][0], metric=100))
    rib.update("static", 10, 0, block(TEN, WAYS[1][0], metric=200))
    assert len(rib) == 2
    found = rib.lookup(parse_address("10.1.1.1"))
    assert found is not None
    assert (found.metric, found.prefix, found.next_hops) == (100, TEN, WAYS[0])
    rib.withdraw("static", block(TEN, metric=100))
    found = rib.lookup(parse_address("10.1.1.1"))
    assert found is not None
    assert found.metric == 200
    assert rib.lookup(parse_address("11.1.1.1")) is None


def test_longest_match_among_winners() -> None:
    rib = Rib()
    for prefix in PREFIXES:
        rib.update("static", 10, 0, block(prefix, WAYS[0][0]))
    found = rib.lookup(parse_address("10.2.3.4"))
    assert found is not None
    assert str(found.prefix) == "10.2.0.0/16"


def test_an_ipv6_route_without_metric_has_the_kernels() -> None:
    rib = Rib()
    rib.update("static", 10, 0, block(V6, WAYS[0][0]))
    (decision,) = rib.drain().decisions
    assert decision.cell == Cell(TABLE_MAIN, 1024, 16, 32)
    assert rib.why(V6) == rib.why(V6, metric=1024) != []


def test_drain_tells_winners_once() -> None:
    rib = Rib()
    rib.update("static", 10, 0, block(TEN, WAYS[0][0]))
    rib.update("static", 10, 0, block(TEN, WAYS[1][0]))
    (decision,) = rib.drain().decisions
    assert decision.entry is not None
    assert decision.entry.route.next_hops == WAYS[1]
    assert rib.drain().decisions == []
    rib.update("babel", 20, 0, block(TEN, WAYS[0][0]))  # loses: nothing changes
    assert rib.drain().decisions == []
    rib.withdraw("static", block(TEN))
    rib.withdraw("babel", block(TEN))
    (decision,) = rib.drain().decisions
    assert (decision.entry, decision.destinations) == (None, [TEN.packed])


def test_replace_all_withdraws_what_is_not_repeated() -> None:
    rib = Rib()
    for prefix in PREFIXES:
        rib.update("static", 10, 0, block(prefix, WAYS[0][0]))
        rib.update("babel", 20, 0, block(prefix, WAYS[1][0]))
    rib.replace_all("static", [Update(10, 0, block(TEN, WAYS[2][0]))])
    assert [r.source for r in rib.why(TEN)] == ["static", "babel"]
    assert [r.source for r in rib.why(V6)] == ["babel"]


def test_completion() -> None:
    rib = Rib(["static", "babel"])
    assert not rib.drain().complete
    rib.complete("static")
    assert not rib.all_complete
    rib.complete("babel")
    assert rib.all_complete
    assert rib.drain().complete
    rib.expect("bgp")
    assert not rib.all_complete


def test_a_unit_moves_as_one() -> None:
    rib = Rib()
    rib.update("static", 10, 0, block(TEN, WAYS[0][0]), unit="gateway")
    rib.update("static", 10, 0, block(V6, WAYS[0][0]), unit="gateway")
    rib.update("babel", 20, 0, block(TEN, WAYS[0][0]), unit="gateway")
    rib.drain()
    rib.feed("static", [Move("gateway", WAYS[1])])
    drained = rib.drain()
    assert drained.decisions == []
    assert {(p.source, p.next_hops) for p in drained.moved} == {("static", WAYS[1])}
    assert [r.route.next_hops for r in rib.why(TEN)] == [WAYS[1], WAYS[0]]
    assert not rib.move("static", "unheard of", WAYS[1])


def test_without_a_unit_the_next_hops_are_the_unit() -> None:
    rib = Rib()
    rib.feed("static", [Update(10, 0, block(TEN, WAYS[0][0])), Update(10, 0, block(V6, WAYS[1][0]))])
    assert rib.move("static", WAYS[0], WAYS[1])
    assert rib.why(TEN)[0].route.next_hops == WAYS[1]
    assert rib.move("static", WAYS[1], WAYS[0])  # the other one had that name first
    assert rib.why(V6)[0].route.next_hops == WAYS[0]
    rib.feed("static", [Withdrawal(block(TEN))])
    assert rib.why(TEN) == []


def test_a_unit_that_comes_with_other_next_hops_has_moved() -> None:
    rib = Rib()
    rib.update("static", 10, 0, block(TEN, WAYS[0][0]), unit="u")
    rib.update("static", 10, 0, block(V6, WAYS[0][0]), unit="u")
    rib.drain()
    rib.update("static", 10, 0, block(TEN, WAYS[1][0]), unit="u")
    assert [p.next_hops for p in rib.drain().moved] == [WAYS[1]]


def test_ever_changing_metrics_do_not_fill_the_memory() -> None:
    rib = Rib()
    for metric in range(20_000):
        rib.update("babel", 20, metric, block(TEN, WAYS[0][0]))
        if metric % 100 == 0:
            rib.drain()
    assert len(rib._candidates) < 10_000
    assert rib.why(TEN)[0].metric == 19_999


def test_canonical_next_hops() -> None:
    assert canonical([NextHop(B, 3), NextHop(A, 2, 5)]) == (NextHop(A, 2, 5), NextHop(B, 3))
    assert canonical([NextHop(A, 2, 5, NH_LINKDOWN)]) == (NextHop(A, 2),)
    assert canonical([NextHop(A, 2), NextHop(A, 2), NextHop(B, 2)]) == (NextHop(A, 2, 2), NextHop(B, 2))
    assert canonical([NextHop(A, 2, 256), NextHop(A, 2, 256), NextHop(B, 2)]) == (NextHop(A, 2, 256), NextHop(B, 2))
    assert canonical([]) == ()


@given(st.lists(st.tuples(st.integers(), st.integers(0, 3))))
def test_by_value(items: list[tuple[int, int]]) -> None:
    keys = [k for k, _ in items]
    groups = by_value(keys, [v for _, v in items])
    assert dict(groups) == {v: [k for k, other in items if other == v] for _, v in items}
    assert [v for v, _ in groups] == list(dict.fromkeys(v for _, v in items))


class AgainstNaive(RuleBasedStateMachine):
    """Blocks, units and interning against a dict of (source, prefix)."""

    sources = st.sampled_from(["static", "babel", "bgp"])
    groups = st.lists(st.sampled_from([bytes((10, i, 0, 0)) for i in range(6)]), max_size=8)

    def __init__(self) -> None:
        super().__init__()
        self.rib = Rib()
        self.bids: dict[tuple[bytes, str], tuple[int, int, str, str]] = {}
        self.hops: dict[tuple[str, str], tuple[NextHop, ...]] = {}
        self.heard: dict[bytes, Entry] = {}

    @rule(source=sources, group=groups, preference=st.integers(1, 2), metric=st.integers(0, 1),
          unit=st.sampled_from("xy"), way=st.sampled_from(WAYS))  # fmt: skip
    def update(
        self, source: str, group: list[bytes], preference: int, metric: int, unit: str, way: tuple[NextHop, ...]
    ) -> None:
        self.rib.update(source, preference, metric, RouteBlock(Route(Prefix(bytes(4), 16), way), group), unit)
        self.hops[source, unit] = way
        for destination in group:
            self.bids[destination, source] = (preference, metric, source, unit)

    @rule(source=sources, group=groups)
    def withdraw(self, source: str, group: list[bytes]) -> None:
        self.rib.withdraw(source, RouteBlock(Route(Prefix(bytes(4), 16)), group))
        for destination in group:
            self.bids.pop((destination, source), None)

    @rule(source=sources, group=groups)
    def replace_all(self, source: str, group: list[bytes]) -> None:
        update = Update(1, 1, RouteBlock(Route(Prefix(bytes(4), 16), WAYS[0]), group), "x")
        self.rib.replace_all(source, [update])
        self.hops[source, "x"] = WAYS[0]
        self.bids = {k: v for k, v in self.bids.items() if k[1] != source}
        for destination in group:
            self.bids[destination, source] = (1, 1, source, "x")

    @rule(source=sources, unit=st.sampled_from("xy"), way=st.sampled_from(WAYS))
    def move(self, source: str, unit: str, way: tuple[NextHop, ...]) -> None:
        if self.rib.move(source, unit, way):
            self.hops[source, unit] = way

    @rule()
    def drain(self) -> None:
        for decision in self.rib.drain().decisions:
            assert len(set(decision.destinations)) == len(decision.destinations)
            for destination in decision.destinations:
                if decision.entry is None:
                    self.heard.pop(destination, None)
                else:
                    self.heard[destination] = decision.entry
        assert {d: e.route.next_hops for d, e in self.heard.items()} == self._winners()

    def _winners(self) -> dict[bytes, tuple[NextHop, ...]]:
        best: dict[bytes, tuple[int, int, str, str]] = {}
        for (destination, _), bid in self.bids.items():
            best[destination] = min(best.get(destination, bid), bid)
        return {d: self.hops[source, unit] for d, (_, _, source, unit) in best.items()}

    @invariant()
    def winners(self) -> None:
        assert {r.prefix.packed: r.next_hops for b in self.rib.winners() for r in b} == self._winners()
        assert len(self.rib) == len(self._winners())


TestAgainstNaive = AgainstNaive.TestCase
