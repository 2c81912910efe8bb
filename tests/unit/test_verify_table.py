"""The lookup of a node for all addresses at once, against a longest-prefix match of one address at a time."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from verify_support import RULES, network, via, with_route
from via6.model import NH_DEAD, NH_LINKDOWN, TABLE_LOCAL, NextHop, Route, RouteTable, Rule, Snapshot
from via6.observe.allowedips import Peer
from via6.observe.node import Node
from via6.observe.verify.classes import classes_of
from via6.observe.verify.table import (
    FORWARD,
    LOCAL,
    NO_PEER,
    NONE,
    NULL,
    UNKNOWN,
    Action,
    Lookup,
    Shapes,
    Way,
    lookup,
    paint,
)
from via6.prefix import AF_INET, Prefix, PrefixMap, mask, parse_address, parse_prefix

PARTS = frozenset({"routes4", "rules", "links"})


def node(*routes: Route, rules: tuple[Rule, ...] = RULES, **more: object) -> Node:
    return Node("n", Snapshot(routes=RouteTable.of(routes), rules=rules, parts=PARTS), **more)  # type: ignore[arg-type]


def route(prefix: str, ifindex: int = 1, **more: object) -> Route:
    return Route(parse_prefix(prefix), (NextHop(None, ifindex),), **more)  # type: ignore[arg-type]


def discard(prefix: str, kind: str = "blackhole", **more: object) -> Route:
    return Route(parse_prefix(prefix), (), kind, **more)  # type: ignore[arg-type]


def at(found: Node | Lookup, address: str) -> Action:
    made = lookup(found) if isinstance(found, Node) else found
    return made.action(parse_address(address))


def out(action: Action) -> list[int]:
    return [way.ifindex for way in action.ways]


@pytest.mark.parametrize("seed", range(20))
def test_random_tables_match_one_address_at_a_time(seed: int) -> None:
    chance = random.Random(seed)
    prefixes: dict[Prefix, int] = {}
    for _ in range(chance.randint(0, 300)):
        length = chance.choice((0, 1, 8, 12, 16, 23, 24, 25, 30, 31, 32))
        address = bytes([chance.choice((0, 10, 192, 255)), chance.choice((0, 1, 255)), chance.randrange(4), 0])
        prefixes[Prefix(mask(address, length), length)] = chance.randint(1, 4)
    made = lookup(node(*(Route(p, (NextHop(None, i),)) for p, i in prefixes.items())))
    plain = PrefixMap(prefixes)
    edges = {0, 0xFFFFFFFF} | {
        edge + step
        for p in prefixes
        for edge in (int.from_bytes(p.packed, "big"), int.from_bytes(p.packed, "big") + (1 << 32 - p.length))
        for step in (-1, 0)
        if 0 <= edge + step < 1 << 32
    }
    for one in edges:
        address = one.to_bytes(4, "big")
        found = plain.lookup(address)
        action = made.action(address)
        assert out(action) == ([found[1]] if found else []), address
        assert (action.kind == NONE) == (found is None)


def test_paint_of_nested_prefixes() -> None:
    keys = np.array([0 << 6 | 0, 10 << 24 << 6 | 8, 10 << 24 << 6 | 9, (10 << 24 | 5) << 6 | 32], np.uint64)
    starts, winner = paint(keys)
    seen = dict(zip(starts.tolist(), winner.tolist(), strict=True))
    assert seen == {0: 0, 10 << 24: 2, 10 << 24 | 5: 3, 10 << 24 | 6: 2, 10 << 24 | 1 << 23: 1, 11 << 24: 0}


def test_the_same_prefixes_are_painted_once() -> None:
    shapes = Shapes()
    one = lookup(node(route("10.0.0.0/8", 1)), shapes)
    other = lookup(node(route("10.0.0.0/8", 2)), shapes)
    assert len(shapes._kept) == 1
    assert (out(at(one, "10.1.1.1")), out(at(other, "10.1.1.1"))) == ([1], [2])


def test_metric_decides_within_one_prefix_and_the_dead_are_passed_over() -> None:
    first = route("10.0.0.0/8", 1, metric=5)
    second = route("10.0.0.0/8", 2, metric=9)
    wide = route("0.0.0.0/0", 3)
    assert out(at(node(second, first, wide), "10.1.1.1")) == [1]
    dead = replace(first, next_hops=(NextHop(None, 1, flags=NH_DEAD),))
    assert out(at(node(second, dead, wide), "10.1.1.1")) == [2]
    assert out(at(node(dead, wide), "10.1.1.1")) == [3]


def test_linkdown_counts_if_the_sysctl_says_so() -> None:
    down = Route(parse_prefix("10.0.0.0/8"), (NextHop(None, 1, flags=NH_LINKDOWN),))
    wide = route("0.0.0.0/0", 3)
    off = {f"net/ipv4/conf/{name}/ignore_routes_with_linkdown": 0 for name in ("all", "if1")}
    assert out(at(node(down, wide, sysctls=off), "10.1.1.1")) == [1]
    on = off | {"net/ipv4/conf/if1/ignore_routes_with_linkdown": 1}
    assert out(at(node(down, wide, sysctls=on), "10.1.1.1")) == [3]
    assert at(node(down, wide), "10.1.1.1").kind == UNKNOWN


def test_one_dead_member_leaves_the_others() -> None:
    hops = (NextHop(None, 1, flags=NH_DEAD), NextHop(None, 2), NextHop(None, 3))
    action = at(node(Route(parse_prefix("10.0.0.0/8"), hops)), "10.0.0.1")
    assert out(action) == [2, 3]
    assert action.devices == {1, 2, 3}


def test_types() -> None:
    made = node(
        route("10.0.0.1/32", type="local", table=TABLE_LOCAL), discard("10.0.0.0/8", "prohibit"),
        discard("10.1.0.0/16", "throw"), route("0.0.0.0/0", 7),
    )  # fmt: skip
    assert at(made, "10.0.0.1").kind == LOCAL
    assert at(made, "10.0.0.2") == Action(NULL, why="prohibit")
    assert at(made, "10.1.0.2").kind == NONE  # `throw` ends the search of its table
    assert at(made, "11.0.0.1").default


def test_local_and_main_are_one_trie_until_there_are_rules() -> None:
    routes = (route("10.0.0.0/8", type="local", table=TABLE_LOCAL), route("10.1.0.0/16", 2))
    assert at(node(*routes), "10.1.0.1").kind == FORWARD
    more = (*RULES, Rule(AF_INET, 100, 77))
    assert at(node(*routes, rules=more), "10.1.0.1").kind == LOCAL


def test_rules_by_destination_are_followed_and_others_are_unknown() -> None:
    routes = (route("10.0.0.0/8", 1), route("10.0.0.0/8", 2, table=77))

    def by(**how: object) -> Action:
        return at(node(*routes, rules=(*RULES, Rule(AF_INET, 100, 77, **how))), "10.3.0.1")  # type: ignore[arg-type]

    assert out(by()) == [2]
    assert out(by(destination=parse_prefix("10.3.0.0/16"))) == [2]
    assert out(by(destination=parse_prefix("10.4.0.0/16"))) == [1]
    assert out(by(destination=parse_prefix("10.4.0.0/16"), invert=True)) == [2]
    assert by(source=parse_prefix("10.9.0.0/16")).kind == UNKNOWN
    assert by(fwmark=1, fwmask=1).kind == UNKNOWN
    assert out(by(iif="gone")) == [1]
    assert by(action="to_tbl with dport").kind == UNKNOWN
    assert by(action="unreachable").kind == NULL
    assert by(action="goto 5").kind == UNKNOWN
    elsewhere = (route("10.0.0.0/8", 1), route("11.0.0.0/8", 2, table=77))
    marked = Rule(AF_INET, 100, 77, fwmark=1, fwmask=1)
    assert out(at(node(*elsewhere, rules=(*RULES, marked)), "10.3.0.1")) == [1]  # its table says nothing of this


def test_what_was_not_read_is_unknown() -> None:
    whole = node(route("10.0.0.0/8"))
    for part in ("routes4", "rules"):
        blind = replace(whole, unread={part: "not permitted"})
        assert at(blind, "10.0.0.1").kind == UNKNOWN
        assert "not permitted" in at(blind, "10.0.0.1").why
    assert at(replace(whole, kernel=replace(whole.kernel, parts=frozenset({"routes4"}))), "10.0.0.1").kind == UNKNOWN


def test_wireguard_chooses_its_peer_by_the_destination() -> None:
    nodes = network([("r1", "r2")])
    one = with_route(nodes["r1"], via(nodes["r1"], "10.8.0.0/16", "r2", "eth1"))
    peers = (Peer("A", (parse_prefix("10.8.0.0/24"),)), Peer("B", (parse_prefix("10.8.1.0/24"),)))
    one = replace(one, wireguard={"eth1": peers})
    made = lookup(one)
    assert [at(made, a).ways[0].peer for a in ("10.8.0.1", "10.8.1.1", "10.8.2.1")] == [0, 1, NO_PEER]
    assert isinstance(at(made, "10.8.2.1").ways[0], Way)


def test_classes_are_the_same_as_rows_compared_one_by_one() -> None:
    chance = random.Random(3)
    lookups = []
    for _ in range(6):
        routes = [
            route(
                f"{chance.choice((10, 11, 200))}.{chance.randrange(3)}.{chance.randrange(3)}.0/{length}",
                chance.randint(1, 3),
            )
            for length in (24,) * 10
        ]
        lookups.append(lookup(node(*{r.prefix: r for r in routes}.values())))
    classes = classes_of(lookups, [0x0A000080])
    told = {tuple(int(one.at(start)) for one in lookups) for start in classes.starts[classes.row >= 0]}
    assert len(told) == len(classes.example)
    for start, row in zip(classes.starts, classes.row, strict=True):
        if row >= 0:
            assert [one.at(start) for one in lookups] == [one.at(classes.example[row]) for one in lookups]
    assert 0x0A000080 in classes.starts
    assert classes.row_of(0x7F000001) == -1
    assert classes.row_of(0xE0000001) == -1


def test_not_in_rules() -> None:
    routes = (route("0.0.0.0/0", 1), route("0.0.0.0/0", 2, table=77))

    def with_rule(**how: object) -> Node:
        return node(*routes, rules=(*RULES, Rule(AF_INET, 100, 77, invert=True, **how)))  # type: ignore[arg-type]

    inside, outside = "10.1.0.1", "10.2.0.1"
    assert out(at(with_rule(), inside)) == [1]  # `not to 0.0.0.0/0` is never true
    there = parse_prefix("10.1.0.0/16")
    assert [out(at(with_rule(destination=there), one)) for one in (inside, outside)] == [[1], [2]]
    # Not (from here to there): also what goes there from elsewhere.
    both = with_rule(destination=there, source=parse_prefix("10.9.0.0/16"))
    assert [at(both, one).kind for one in (inside, outside)] == [UNKNOWN, UNKNOWN]
