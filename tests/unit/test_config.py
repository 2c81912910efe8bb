"""Configuration: each mistake with its place, its line and a remedy; all of them at once; bounded in time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import ROOT
from via6.config import Config, Problem, RouteSpec, ViaSpec, parse
from via6.config_text import MAX_OCTETS
from via6.prefix import Prefix, parse_address, parse_prefix


def good(text: str) -> tuple[RouteSpec, ...]:
    config, problems = parse(text.encode(), "t.toml")
    assert config is not None, problems
    assert not problems
    return config.routes


def bad(text: str | bytes) -> list[Problem]:
    config, problems = parse(text if isinstance(text, bytes) else text.encode(), "t.toml")
    assert config is None
    assert problems
    return problems


def one(body: str, head: str = "to = '10/8'\n") -> Problem:
    """The only problem of a file with one route, whose keys begin in line 2."""
    (problem,) = bad(f"[[route]]\n{head}{body}\n")
    assert problem.remedy
    assert problem.severity == "error"
    return problem


VIA = "via = 'fe80::1%eth1'\n"


# --- what is good --------------------------------------------------------------------------------------------------


def test_a_route() -> None:
    (route,) = good(
        "# first\n\n[[route]]\nto = '10.0.0.0/8'\nvia = 'fe80::1%eth1'\n"
        "src = '10.0.8.42'\nmetric = 7\ntable = 100\nmtu = 1400\n"
    )
    hop = ViaSpec(parse_address("fe80::1"), "eth1", 1)
    src = parse_address("10.0.8.42")
    assert route == RouteSpec(parse_prefix("10/8"), (hop,), "unicast", src, 7, 100, 1400, "t.toml:3: route[0]")
    assert str(hop) == "fe80::1 dev eth1"


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("default", "0.0.0.0/0"),
        ("0/0", "0.0.0.0/0"),
        ("10/8", "10.0.0.0/8"),
        ("::/0", "::/0"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("2001:db8::/32", "2001:db8::/32"),
    ],
)
def test_ways_to_write_a_destination(text: str, prefix: str) -> None:
    (route,) = good(f"[[route]]\nto = '{text}'\n{VIA}")
    assert str(route.to) == prefix


def test_several_destinations_share_a_way() -> None:
    first, second = good(f"[[route]]\nto = ['10/8', '2001:db8::/32']\n{VIA}")
    assert first.vias == second.vias
    assert (first.place, second.place) == ("t.toml:1: route[0].to[0]", "t.toml:1: route[0].to[1]")


def test_forms_of_next_hops() -> None:
    body = "via = ['fe80::1%a', 'fe80::2', {via='2001:db8::1', weight=256}, {dev='wg0'}, {via='fe80::9', dev='b'}]"
    (route,) = good(f"[[route]]\nto='10/8'\ndev='d'\n{body}\n".replace("'fe80::2'", "{via='fe80::2', weight=3}")
                    .replace("'fe80::1%a'", "{via='fe80::1', dev='a'}"))  # fmt: skip
    assert [(v.dev, v.weight) for v in route.vias] == [("a", 1), ("d", 3), ("d", 256), ("wg0", 1), ("b", 1)]
    assert good("[[route]]\nto='10/8'\nvia={via='fe80::1',dev='a'}\n")[0].vias[0].dev == "a"
    assert good("[[route]]\nto='10/8'\ndev='a'\n")[0].vias == (ViaSpec(None, "a"),)
    assert good("[[route]]\nto='10/8'\nvia='2001:db8::1'\n")[0].vias[0].dev == ""


def test_types_and_tables() -> None:
    for kind in ("blackhole", "unreachable", "prohibit"):
        (route,) = good(f"[[route]]\nto='10/8'\ntype='{kind}'\n")
        assert (route.type, route.vias) == (kind, ())
    assert good(f"[[route]]\nto='10/8'\ntable='main'\n{VIA}")[0].table == 254
    assert good(f"[[route]]\nto='10/8'\ntable='default'\n{VIA}")[0].table == 253
    assert good(f"[[route]]\nto='10/8'\ntable=4294967295\nmetric=4294967295\n{VIA}")[0].metric == 4294967295


@pytest.mark.parametrize("name", ["routes.toml", "default.toml"])
def test_examples_are_good(name: str) -> None:
    assert good((ROOT / "examples" / name).read_text())


def test_inline_tables_have_no_lines_but_are_read() -> None:
    config, problems = parse(b"route = [{to = '10/8', via = 'fe80::1'}]\n", "t.toml")
    assert config is None
    assert (problems[0].place, problems[0].line) == ("route[0].via", 0)


# --- one mistake each ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "place", "message", "remedy"),
    [
        ("via = '::ffff:10.0.0.1'", "via", "IPv4-mapped", "10.0.0.1"),
        ("via = 'fe80::1'", "via", "link-local", "fe80::1%eth1"),
        ("via = 'ff02::1%e'", "via", "multicast", "its own address"),
        ("via = '224.0.0.1'", "via", "multicast", "its own address"),
        ("via = '::'", "via", "unspecified", "leave `via` out"),
        ("via = '0.0.0.0'", "via", "unspecified", "leave `via` out"),
        ("via = '::1'", "via", "this node itself", "neighbour"),
        ("via = '127.0.0.1'", "via", "this node itself", "neighbour"),
        ("via = ''", "via", "not an IPv4 address", "fe80::1%eth1"),
        ("via = ['']", "via[0]", "not an IPv4 address", "fe80::1%eth1"),
        ("via = 'host.example'", "via", "not an IPv4 address", "fe80::1%eth1"),
        ("via = '2001:db8::1/64'", "via", "not an IPv6 address", "2001:db8::1"),
        ("via = 'fe80::1%'", "via", "no device after", "fe80::1%eth1"),
        ("via = 'fe80::1%a/b'", "via", "no device name", "ip -br link"),
        ("via = 'fe80::1%a'\ndev = 'b'", "via", "dev says", "keep one"),
        ("via = []", "via", "empty list", "fe80::1%eth1"),
        ("via = 7", "via", "is a number", "in quotes"),
        ("via = ['fe80::1%a', 7]", "via[1]", "is a number", "in quotes"),
        ("via = [{via='fe80::1', wieght=2}]", "via[0].wieght", "unknown key", "'weight'"),
        ("via = [{via='fe80::1%a', weight='2'}]", "via[0].weight", "is a text", "without quotes"),
        ("via = [{via='fe80::1%a', weight=0}]", "via[0].weight", "out of range", "1 to 256"),
        ("via = [{via='fe80::1%a', weight=257}]", "via[0].weight", "out of range", "1 to 256"),
        ("via = [{weight=2}]", "via[0]", "neither", "dev"),
        ("via = ['fe80::1%a', 'fe80::1%a']", "via[1]", "stands twice", "weight"),
        ("", "", "neither `via` nor `dev`", "blackhole"),
        ("dev = ''", "dev", "empty", "ip -br link"),
        ("dev = 'sixteen-octets-x'", "dev", "longer than 15", "ip -br link"),
        ("dev = 'a b'", "dev", "no device name", "ip -br link"),
        ("dev = 'a/b'", "dev", "no device name", "ip -br link"),
        ("dev = '..'", "dev", "no device name", "ip -br link"),
        ('dev = "a\\u001b[2J"', "dev", "no device name", "ip -br link"),
        ("dev = 1", "dev", "is a number", "in quotes"),
        (VIA + "metric = -1", "metric", "out of range", "0 to 4294967295"),
        (VIA + "metric = 4294967296", "metric", "out of range", "0 to 4294967295"),
        (VIA + "metric = '5'", "metric", "is a text", "without quotes"),
        (VIA + "metric = true", "metric", "is true or false", "without quotes"),
        (VIA + "metric = 1.5", "metric", "is a decimal number", "without quotes"),
        (VIA + "metric = 2020-01-01", "metric", "is a date", "without quotes"),
        (VIA + "metric = " + "9" * 4000, "metric", "out of range", "4294967295"),
        (VIA + "metric = 0x" + "f" * 9999, "metric", "out of range", "4294967295"),
        ("via = [{via='fe80::1%a', weight=0x" + "f" * 9999 + "}]", "via[0].weight", "out of range", "1 to 256"),
        (VIA + "table = 0", "table", "out of range", "leave it out"),
        (VIA + "table = 4294967296", "table", "out of range", "4294967295"),
        (VIA + "table = 'vpn'", "table", "unknown table", "rt_tables"),
        (VIA + "mtu = 67", "mtu", "out of range", "68 to 65535"),
        (VIA + "mtu = 65536", "mtu", "out of range", "68 to 65535"),
        (VIA + "mtu = 0", "mtu", "out of range", "68 to 65535"),
        (VIA + "type = 'blackhol'", "type", "unknown type", "blackhole"),
        (VIA + "type = 'blackhole'", "via", "drops its packets", "leave out"),
        ("type = 'prohibit'\ndev = 'a'", "dev", "drops its packets", "leave out"),
        ("type = 'prohibit'\nsrc = '10.0.0.1'", "src", "drops its packets", "leave out"),
        (VIA + "src = '10.0.0.1/32'", "src", "not an IPv4 address", "10.0.0.1"),
        (VIA + "src = 'nobody'", "src", "not an IPv4 address", "address"),
        (VIA + "src = '0.0.0.0'", "src", "cannot be the source", "address"),
        (VIA + "src = '224.0.0.1'", "src", "cannot be the source", "address"),
        (VIA + "src = 'fe80::1%eth1'", "src", "has no device", "fe80::1"),
        (VIA + "src = '2001:db8::1'", "src", "other family", "IPv4"),
        (VIA + "gateway = 'fe80::1'", "gateway", "unknown key", "'via'"),
        (VIA + "metrik = 5", "metrik", "unknown key", "'metric'"),
        (VIA + "colour = 5", "colour", "unknown key", "known keys"),
        (VIA + "weight = 5", "weight", "unknown key", "one of several next hops"),
    ],
)
def test_each_mistake_of_a_route(body: str, place: str, message: str, remedy: str) -> None:
    problem = one(body)
    assert problem.place == (f"route[0].{place}" if place else "route[0]")
    assert message in problem.message
    assert remedy in problem.remedy
    key = place.partition("[")[0].partition(".")[0]
    lines = ["", "[[route]]", "to = '10/8'", *body.splitlines()]
    assert lines[problem.line].startswith(key or "[[route]]")
    assert str(problem).startswith(f"t.toml:{problem.line}: route[0]")


@pytest.mark.parametrize(
    ("to", "message", "remedy"),
    [
        ("'10.0.0.1/8'", "host bits", "10.0.0.0/8"),
        ("'2001:db8::1/32'", "host bits", "2001:db8::/32"),
        ("'10.0.0.0/33'", "from 0 to 32", "10.0.0.0/8"),
        ("'010.0.0.0/8'", "not an IPv4 address", "10.0.0.0/8"),
        ("''", "not an IPv4 address", "10.0.0.0/8"),
        ("'::ffff:10.0.0.0/104'", "IPv4-mapped", "10.0.0.0/8"),
        ("[]", "empty list", "10.0.0.0/8"),
        ("8", "is a number", "in quotes"),
    ],
)
def test_each_mistake_of_a_destination(to: str, message: str, remedy: str) -> None:
    problem = one(VIA, head=f"to = {to}\n")
    assert (problem.place, problem.line) == ("route[0].to", 2)
    assert message in problem.message
    assert remedy in problem.remedy


def test_missing_destination() -> None:
    problem = one(VIA, head="")
    assert (problem.place, problem.line) == ("route[0]", 1)
    assert "has no `to`" in problem.message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("via = '192.0.2.1'", "cannot go via 192.0.2.1"),
        ("via = '2001:db8::1'\nto = '2001:db8::1/128'", "the destination itself"),
        ("via = ['fe80::1%a', {dev = 'b'}]", "IPv4 alone"),
        (VIA + "mtu = 1279", "out of range"),
        (VIA + "src = '10.0.0.1'", "other family"),
    ],
)
def test_each_mistake_of_an_ipv6_route(body: str, message: str) -> None:
    assert message in one(body, head="" if "to =" in body else "to = '2001:db8::/32'\n").message


# --- the file as a whole -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "message", "remedy"),
    [
        (b"[[route]]\nto = 10/8\n", 2, "TOML", "quotes"),
        (b"[[route]]\nto = \n", 2, "TOML: Invalid value (column 6)", "quotes"),
        (b"[[route]]\nto = '10/8'\nto = '11/8'\n", 3, "overwrite", "stands twice"),
        (b"[[route]]\nto = '10/8\n", 2, "TOML", "header"),
        (b"[[route]]\nto = ['10/8'\n", 2, "TOML", "header"),
        (b"to = '\xff'\n", 1, "not UTF-8: octet 0xff at offset 6", "iconv"),
        (b"#\n#\n\xe4\n", 3, "not UTF-8", "iconv"),
        ("[[route]]".encode("utf-16"), 1, "UTF-16", "iconv"),
        (b"\xef\xbb\xbf[[route]]\n", 1, "byte order mark", "BOM"),
        (b"[[route]]\nmetric = " + b"9" * 5000, 1, "TOML", "header"),
        (b"[[route]]\nto = " + b"[" * 100000, 1, "nested too deep", "one level"),
        (b"[[route]]\nto = " + b"{a=" * 100000, 1, "nested too deep", "one level"),
        (b"[[route]]\n\n" + b"a." * 100000 + b"a = 1\n", 3, "dotted key", "one part"),
        (b"#" + b"x" * MAX_OCTETS, 0, "larger than 64 MB", "split"),
        (b"\0", 1, "TOML", "header"),
    ],
)
def test_text_that_cannot_be_read(text: bytes, line: int, message: str, remedy: str) -> None:
    (problem,) = bad(text)
    assert problem.line == line
    assert message in problem.message
    assert remedy in problem.remedy


@pytest.mark.parametrize(
    ("text", "place", "line", "remedy"),
    [
        ("[[routes]]\nto='10/8'\n", "routes", 1, "[[route]]"),
        ("\n[nodes]\nid = 1\n", "nodes", 2, "[node]"),
        ("[bgp]\n", "bgp", 1, "[[route]], [node], [babel]"),
        ("to = '10/8'\n", "to", 1, "did you mean [[route]]"),
        ("\n[route]\nto='10/8'\n", "route", 2, "two brackets"),
        ("route = 1\n", "route", 1, "two brackets"),
    ],
)
def test_unknown_tables(text: str, place: str, line: int, remedy: str) -> None:
    (problem,) = bad(text)
    assert (problem.place, problem.line) == (place, line)
    assert remedy in problem.remedy


def test_route_that_is_no_table() -> None:
    (problem,) = bad("route = [1]\n")
    assert (problem.place, problem.message) == ("route[0]", "is a number, not a table")


def test_a_table_twice_is_told_though_each_piece_is_good() -> None:
    (problem,) = [p for p in bad(f"[node]\n[[route]]\nto='10/8'\n{VIA}[node]\n") if "TOML" in p.message]
    assert problem.line == 5


def test_no_routes_is_a_warning() -> None:
    for text in (b"", b"# nothing\n"):
        config, (problem,) = parse(text, "t.toml")
        assert config == Config()
        assert problem.severity == "warning"
        assert "no routes" in problem.message


def test_every_mistake_at_once_with_its_line() -> None:
    problems = bad(f"""\
[[route]]
to = "10.0.0.1/8"
via = "::ffff:10.0.0.1"
metric = "x"

[[route]]
to = 0/0

[[route]]
to = "11/8"
gateway = 1
via = ["fe80::1", 3, {{ via = "fe80::2%a", weight = 300 }}]

[vrrp]

[[route]]
to = "12/8"
{VIA}""")
    assert [(p.line, p.place) for p in problems] == [
        (2, "route[0].to"), (3, "route[0].via"), (4, "route[0].metric"), (7, ""), (11, "route[2].gateway"),
        (12, "route[2].via[1]"), (12, "route[2].via[0]"), (12, "route[2].via[2].weight"), (14, "vrrp"),
    ]  # fmt: skip


# --- routes against each other -------------------------------------------------------------------------------------


def test_contradiction_names_both_places() -> None:
    (problem,) = bad(f"[[route]]\nto='10/8'\n{VIA}[[route]]\nto=['11/8','10/8']\nvia='fe80::2%eth1'\n")
    assert (problem.place, problem.line) == ("route[1].to[1]", 5)
    assert "contradicts t.toml:1: route[0]" in problem.message
    assert "metric" in problem.remedy
    # The kernel makes metric 1024 of none for IPv6.
    bad(f"[[route]]\nto='::/0'\n{VIA}[[route]]\nto='::/0'\nmetric=1024\nvia='fe80::2%eth1'\n")


def test_same_destination_with_another_metric_or_table_is_fine() -> None:
    rest = "".join(f"[[route]]\nto='10/8'\nvia='fe80::2%eth1'\n{key}=9\n" for key in ("metric", "table"))
    assert len(good(f"[[route]]\nto='10/8'\n{VIA}{rest}")) == 3


def test_repetition_is_a_warning_and_kept_once() -> None:
    config, (problem,) = parse(f"[[route]]\nto='10/8'\n{VIA}[[route]]\nto='10/8'\n{VIA}".encode(), "t.toml")
    assert config is not None
    assert len(config.routes) == 1
    assert (problem.severity, problem.line) == ("warning", 5)


def test_next_hop_inside_its_own_destination() -> None:
    config, (problem,) = parse(b"[[route]]\nto='2001:db8::/32'\nvia='2001:db8::1'\n", "t.toml")
    assert config is not None
    assert (problem.severity, problem.place, problem.line) == ("warning", "route[0].via", 3)
    assert "inside" in problem.message
    # A device, a longer declared prefix, the default route, IPv4 (where a connected prefix is the rule): no warning.
    good("[[route]]\nto='2001:db8::/32'\nvia='2001:db8::1'\ndev='a'\n")
    good("[[route]]\nto='2001:db8::/32'\nvia='2001:db8::1'\n[[route]]\nto='2001:db8::/64'\ndev='a'\n")
    good("[[route]]\nto='::/0'\nvia='2001:db8::1'\n")
    good("[[route]]\nto='10/8'\nvia='10.0.0.1'\n")


# --- bounds --------------------------------------------------------------------------------------------------------


def big(line: str) -> bytes:
    """10 MB in 100,000 tables."""
    table = f'[[route]]\nto = "10.%d.%d.%d/32"\n{line}\nmetric = 100\n# {"x" * 24}\n'
    return "".join(table % (i >> 16, i >> 8 & 255, i & 255) for i in range(100_000)).encode()


def test_ten_megabytes() -> None:
    data = big('via = "fe80::1"\ndev = "eth1"')
    assert len(data) > 9_500_000
    start = time.process_time()
    config, problems = parse(data, "big.toml")
    took = time.process_time() - start
    assert config is not None
    assert not problems
    assert len(config.routes) == 100_000
    assert config.routes[-1].to == Prefix(bytes([10, 1, 134, 159]), 32)
    assert took < 30, f"{took:.1f} s"  # 4 s on an idle machine


def test_ten_megabytes_of_mistakes() -> None:
    # Each piece of the first has a syntax error, each route of the second a semantic one.
    for line in ("via = fe80::1", 'via = "fe80::1"'):
        start = time.process_time()
        problems = bad(big(line))
        took = time.process_time() - start
        assert len(problems) == 100_000
        assert problems[-1].line > 500_000 - 10
        assert took < 60, f"{took:.1f} s"


@given(st.binary(max_size=300))
def test_octets_never_raise(data: bytes) -> None:
    parse(data, "t")


_KEYS = ("to", "via", "dev", "src", "metric", "table", "type", "mtu", "weight", "x")
_VALUES = (
    "'10/8'", "'::/0'", "''", "'fe80::1%a'", "1", "-1", "1.5", "true", "[]", "[1]", "['10/8', '::1', []]", "{}",
    "[{via='fe80::1', dev=''}]", "{via=1}", "1979-05-27", "[[1]]", "'blackhole'", '"\\u0000"', "[{}, {x=1}]",
)  # fmt: skip


@given(st.lists(st.dictionaries(st.sampled_from(_KEYS), st.sampled_from(_VALUES), max_size=6), max_size=4))
def test_any_table_is_answered(tables: list[dict[str, str]]) -> None:
    text = "".join("[[route]]\n" + "".join(f"{k} = {v}\n" for k, v in table.items()) for table in tables)
    config, problems = parse(text.encode(), "t")
    assert (config is None) == any(p.severity == "error" for p in problems)
    for problem in problems:
        assert problem.message
        assert problem.remedy
        assert problem.line or not tables
