"""Routes as text and JSON, names of numbers, WireGuard's AllowedIPs. (Against `ip` itself: netns/test_route.py.)"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from via6.model import NextHop, NexthopObject, Route, RouteTable, Snapshot
from via6.observe import allowedips, show
from via6.observe.names import PROTOCOLS, Names, parse_names
from via6.prefix import parse_address, parse_prefix

NAMES = Names()


def dev(index: int) -> str:
    return f"eth{index}"


def address(text: str) -> bytes:
    return parse_address(text)


def route(prefix: str, via: str = "", ifindex: int = 1, **more: object) -> Route:
    hops = (NextHop(address(via) if via else None, ifindex),)
    return replace(Route(parse_prefix(prefix), hops, protocol=4), **more)  # type: ignore[arg-type]


def lines(*routes: Route, **wanted: object) -> list[str]:
    blocks = show.select(Snapshot(routes=RouteTable.of(routes)), show.Filter(**wanted))  # type: ignore[arg-type]
    return list(show.lines(blocks, NAMES, dev))


A = route("10.0.0.0/8", "fe80::1")
B = route("10.1.0.0/16", "fe80::2", 2, metric=100)
C = route("10.1.0.0/16", "192.0.2.1")
D = route("2001:db8::/32", "fe80::1", metric=1024)


def test_lines_are_in_the_order_of_ip_and_name_the_family_of_a_foreign_next_hop() -> None:
    host = route("10.0.0.0/32", "fe80::3")
    default = route("0.0.0.0/0", "192.0.2.1")
    assert lines(D, B, C, A, host, default) == [
        "default via 192.0.2.1 dev eth1 proto static",
        "10.0.0.0 via inet6 fe80::3 dev eth1 proto static",
        "10.0.0.0/8 via inet6 fe80::1 dev eth1 proto static",
        "10.1.0.0/16 via 192.0.2.1 dev eth1 proto static",
        "10.1.0.0/16 via inet6 fe80::2 dev eth2 proto static metric 100",
        "2001:db8::/32 via fe80::1 dev eth1 proto static metric 1024 pref medium",
    ]


def test_a_foreign_default_route_pastes_back_as_ipv4() -> None:
    assert lines(route("0.0.0.0/0", "fe80::1"))[0].startswith("0.0.0.0/0 via inet6 fe80::1")


def test_multipath_is_one_line() -> None:
    hops = (NextHop(address("fe80::1"), 1, 2, 0x10), NextHop(address("192.0.2.1"), 2))
    assert lines(replace(A, next_hops=hops, src=address("10.9.9.9"))) == [
        (
            "10.0.0.0/8 proto static src 10.9.9.9 "
            "nexthop via inet6 fe80::1 dev eth1 weight 2 linkdown nexthop via 192.0.2.1 dev eth2 weight 1"
        )
    ]


def test_rare_words() -> None:
    odd = replace(
        A, tos=4, table=100, protocol=3, scope=253, metrics=((1, 4), (2, 1400)), flags=5, next_hops=(NextHop(None, 1),)
    )
    assert lines(odd, table=0) == ["10.0.0.0/8 tos 0x04 dev eth1 table 100 scope link dead onlink mtu lock 1400"]
    assert lines(replace(odd, expires=30), table=0)[0].endswith("mtu lock 1400 expires 30sec")
    assert lines(Route(parse_prefix("10.0.0.0/8"), type="blackhole", metric=9)) == [
        "blackhole 10.0.0.0/8 proto 46 metric 9"
    ]
    assert show.line(B, NAMES, dev) == "10.1.0.0/16 via inet6 fe80::2 dev eth2 proto static metric 100"


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        ({}, [A, C, B, D]),
        ({"family": 2}, [A, C, B]),
        ({"family": 10}, [D]),
        ({"ifindex": 2}, [B]),
        ({"protocol": 9}, []),
        ({"type": "blackhole"}, []),
        ({"table": 99}, []),
        ({"prefix": parse_prefix("10.1.0.0/16")}, [C, B]),
        ({"prefix": parse_prefix("10.1.2.3"), "how": "longest"}, [C, B]),
        ({"prefix": parse_prefix("10.2.2.3"), "how": "longest"}, [A]),
        ({"prefix": parse_prefix("11.2.2.3"), "how": "longest"}, []),
        ({"prefix": parse_prefix("10.0.0.0/8"), "how": "root"}, [A, C, B]),
        ({"prefix": parse_prefix("10.1.0.0/16"), "how": "root"}, [C, B]),
        ({"prefix": parse_prefix("10.1.0.0/24"), "how": "match"}, [A, C, B]),
        ({"prefix": parse_prefix("2001:db8::1"), "how": "longest"}, [D]),
        ({"how": "default"}, []),
    ],
)
def test_filters(wanted: dict[str, object], shown: list[Route]) -> None:
    assert lines(A, B, C, D, **wanted) == [show.line(r, NAMES, dev) for r in shown]


def test_cached_routes_are_not_part_of_the_table() -> None:
    assert lines(replace(A, flags=show.RTM_F_CLONED)) == []


def test_a_nexthop_object_is_shown_as_what_it_stands_for() -> None:
    objects = (
        NexthopObject(1, address("fe80::1"), 1),
        NexthopObject(2, address("fe80::2"), 2),
        NexthopObject(3, group=((1, 1), (2, 4))),
        NexthopObject(4, blackhole=True),
    )
    bare = [replace(route(f"10.{n}.0.0/16"), next_hops=(), nhid=n) for n in (1, 3, 4, 5)]
    blocks = show.select(Snapshot(routes=RouteTable.of(bare), nexthops=objects), show.Filter())
    assert list(show.lines(blocks, NAMES, dev)) == [
        "10.1.0.0/16 via inet6 fe80::1 dev eth1 proto static",
        (
            "10.3.0.0/16 proto static nexthop via inet6 fe80::1 dev eth1 weight 1 "
            "nexthop via inet6 fe80::2 dev eth2 weight 4"
        ),
        "blackhole 10.4.0.0/16 proto static",
        "10.5.0.0/16 proto static",
    ]
    found = json.loads("\n".join(show.json_lines(blocks, NAMES, dev, json.dumps)))
    assert [f["nhid"] for f in found] == [1, 3, 4, 5]
    assert found[0]["via"] == {"family": "inet6", "host": "fe80::1"}


def test_brief_lines() -> None:
    blocks = show.select(Snapshot(routes=RouteTable.of([A, replace(C, type="blackhole", next_hops=())])), show.Filter())
    assert [line.split() for line in show.brief_lines(blocks, dev)] == [
        ["10.0.0.0/8", "fe80::1", "eth1"],
        ["10.1.0.0/16", "blackhole", "-"],
    ]


def test_json_is_an_array_with_one_object_per_line() -> None:
    blocks = show.select(Snapshot(routes=RouteTable.of([A, B, D])), show.Filter())
    text = "\n".join(show.json_lines(blocks, NAMES, dev, json.dumps)).splitlines()
    assert (text[0], text[-1]) == ("[", "]")
    assert [json.loads(line.rstrip(",")) for line in text[1:-1]] == json.loads("\n".join(text))
    assert json.loads(text[1].rstrip(",")) == {
        "family": "inet", "type": "unicast", "dst": "10.0.0.0/8", "via": {"family": "inet6", "host": "fe80::1"},
        "dev": "eth1", "table": "main", "protocol": "static", "scope": "global", "flags": [],
    }  # fmt: skip
    assert "".join(show.json_lines((), NAMES, dev, json.dumps)) == "[]"


def test_colours_wrap_what_they_name() -> None:
    blocks = show.select(Snapshot(routes=RouteTable.of([A])), show.Filter())
    line = next(show.lines(blocks, NAMES, dev, colour=lambda kind, text: f"<{kind}:{text}>"))
    assert line == "<inet:10.0.0.0/8> via <inet6:inet6 fe80::1> dev <dev:eth1> proto static"


@pytest.mark.parametrize(
    ("op", "said", "hit"),
    [
        ("delete", {}, "C"),
        ("delete", {"metric": 100}, "B"),
        ("delete", {"metric": 7}, None),
        ("delete", {"next_hops": (NextHop(address("fe80::2"), 0),)}, "B"),
        ("delete", {"next_hops": (NextHop(None, 1),)}, "C"),
        ("delete", {"protocol": 46}, None),
        ("delete", {"type": "blackhole"}, None),
        ("delete", {"src": address("10.0.0.1")}, None),
        ("delete", {"tos": 4}, None),
        ("replace", {"type": "unicast", "protocol": 4}, "C"),
        ("replace", {"type": "unicast", "metric": 100}, "B"),
    ],
)
def test_which_route_the_kernel_would_take(op: str, said: dict[str, object], hit: str | None) -> None:
    bare = Route(parse_prefix("10.1.0.0/16"), (), type="unspec", protocol=0)
    found = show.meant([B, C], replace(bare, **said), op)  # type: ignore[arg-type]
    assert found == {"B": B, "C": C, None: None}[hit]


def test_names_are_read_as_ip_reads_them() -> None:
    names = Names({254: "main"}, parse_names(["46 via6\n", "4 fixed # other\nx y\n300\n"], PROTOCOLS))
    assert (names.protocol(46), names.protocol(4), names.protocol(77)) == ("via6", "fixed", "77")
    assert (names.table(254), names.table(9)) == ("main", "9")
    assert (names.table_number("main"), names.table_number("0x10"), names.table_number("0")) == (254, 16, None)
    assert names.table_number("nosuch") is None
    assert names.table_number("-1") is None
    assert (names.protocol_number("via6"), names.protocol_number("999")) == (46, None)


# --- AllowedIPs ----------------------------------------------------------------------------------------------------

LISTED = "KEYA=\t10.1.0.0/16 2001:db8:1::/48\nKEYB=\t2001:db8:2::/48 bogus\nKEYC=\t(none)\n"


def test_the_peer_of_a_next_hop() -> None:
    peers = allowedips.parse(LISTED)
    assert [p.key for p in peers] == ["KEYA=", "KEYB=", "KEYC="]
    found = allowedips.peer_of(peers, address("2001:db8:2::22"))
    assert found is not None
    assert found.key == "KEYB="
    assert allowedips.peer_of(peers, address("2001:db8:3::22")) is None
    assert allowedips.peer_of(peers[2:], address("2001:db8:3::22")) == peers[2]


def test_advice_holds_the_full_list() -> None:
    peers = allowedips.parse(LISTED)
    via, wanted = address("2001:db8:1::1"), [parse_prefix("10.0.0.0/9"), parse_prefix("10.128.0.0/9")]
    assert allowedips.advice("wg0", peers, via, wanted) == (
        "AllowedIPs of the WireGuard peer do not cover 10.0.0.0/9, 10.128.0.0/9: wg0 drops what is routed there. Type\n"
        "  wg set wg0 peer KEYA= allowed-ips 10.1.0.0/16,2001:db8:1::/48,10.0.0.0/8"
    )
    assert allowedips.advice("wg0", peers, via, [parse_prefix("10.1.2.0/24")]) == ""
    assert "no peer of wg0" in allowedips.advice("wg0", peers, address("2001:db8:9::1"), wanted)
    assert "without a peer" in allowedips.advice("wg0", (), via, wanted)
    many = [parse_prefix(f"10.{n}.0.0/16") for n in range(2, 8)]
    assert "and 3 more" in allowedips.advice("wg0", peers, via, many)


def test_halves_cover_the_whole() -> None:
    peer = allowedips.Peer("K", (parse_prefix("0.0.0.0/1"), parse_prefix("128.0.0.0/1")))
    assert allowedips.uncovered(peer, [parse_prefix("0.0.0.0/0"), parse_prefix("::/0")]) == (parse_prefix("::/0"),)
