"""What the speaker knows as JSON and as text; which of it is asked for; what has changed."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from support import ROOT
from via6.babel.model import InterfaceInfo, NeighbourInfo, Rejected, RouteInfo, SourceInfo
from via6.cli import monitor, show
from via6.errors import USAGE, Refusal
from via6.observe import babel, babel_text
from via6.observe.babel import Deltas, Select, Status, as_json, status_json
from via6.prefix import Prefix, parse_address, parse_prefix

FE2 = parse_address("fe80::2")
ID = bytes.fromhex("0200aafffe000001")
NEIGHBOUR = NeighbourInfo(2, "eth1", FE2, "1111", 96, 96, 96, 1000, 12, True)
INTERFACE = InterfaceInfo(2, "eth1", parse_address("fe80::1"), True, 96, 1000, ("k1", "k2"), 1, 10, 20, 0)
ROUTE = RouteInfo(parse_prefix("10.1.0.0/16"), FE2, 2, FE2, ID, 7, 192, 96, "selected", 65.26)
OWN = RouteInfo(parse_prefix("10.9.0.1/32"), None, 0, None, ID, 7, 0, 0, "own", 1.0)
SOURCE = SourceInfo(parse_prefix("10.1.0.0/16"), ID, 7, 192, 3.0)
STATUS = Status(
    ID, 9, "/etc/via6.toml", {"installed": 3, "failed": 1}, 2, ("no key",), (("net.x", "0", "1"),), {"bad-mac": 4}
)
PROCESS = {"version": "0.2", "pid": 5, "netns": 4026531840, "uptime_s": 3.2, "memory_kib": 31_744, "clients": 1}
COUNTED = {
    "interfaces": 3, "interfaces_up": 2, "neighbours": 2, "neighbours_up": 1,
    "routes": {"own": 1, "selected": 5, "backup": 0},
}  # fmt: skip


def dev(index: int) -> str:
    return f"eth{index - 1}"


def infos() -> dict[str, object]:
    return {"neighbour": NEIGHBOUR, "interface": INTERFACE, "route": ROUTE, "source": SOURCE}


def value(kind: str, info: object) -> babel.Json:
    return as_json(kind, info, dev)  # type: ignore[arg-type]


# --- JSON ----------------------------------------------------------------------------------------------------------


def test_json_of_each_kind() -> None:
    assert value("neighbour", NEIGHBOUR) == {
        "interface": "eth1", "address": "fe80::2", "reach": "1111", "rxcost": 96, "txcost": 96, "cost": 96,
        "hello_interval_ms": 1000, "routes": 12, "authenticated": True,
        "signed": False,
    }  # fmt: skip
    assert value("route", ROUTE) == {
        "prefix": "10.1.0.0/16", "next_hop": "fe80::2", "interface": "eth1", "neighbour": "fe80::2",
        "router_id": "02:00:aa:ff:fe:00:00:01", "seqno": 7, "metric": 192, "advertised": 96, "state": "selected",
        "age_s": 65.3,
    }  # fmt: skip
    own = value("route", OWN)
    assert (own["next_hop"], own["interface"], own["neighbour"]) == (None, None, None)
    assert value("source", SOURCE) == {
        "prefix": "10.1.0.0/16", "router_id": "02:00:aa:ff:fe:00:00:01", "seqno": 7, "metric": 192, "age_s": 3.0,
    }  # fmt: skip
    assert value("interface", INTERFACE)["keys"] == ["k1", "k2"]
    assert value("interface", replace(INTERFACE, rejected=(Rejected(FE2, "bad-mac", 3, 1.25),)))["rejected"] == [
        {"address": "fe80::2", "reason": "bad-mac", "packets": 3, "age_s": 1.2}
    ]


def test_keys_are_those_of_the_man_pages() -> None:
    text = (ROOT / "docs/man/man1/via6-show.1").read_text()
    for kind, info in infos().items():
        part = text.partition(f'.SS "JSON of a{"n" if kind == "interface" else ""} {kind}"\n')[2].partition("\n.S")[0]
        assert re.findall(r"^\.TP\n\.B (\w+)", part, re.MULTILINE) == list(value(kind, info)), kind
    text = (ROOT / "docs/man/man1/via6-status.1").read_text()
    part = text.partition(".SH JSON\n")[2].partition("\n.SH")[0]
    named = [word for tag in re.findall(r"^\.TP\n\.BR? (.*)$", part, re.MULTILINE) for word in re.findall(r"\w+", tag)]
    assert named == list(status_json(STATUS, PROCESS, COUNTED))


# --- text ----------------------------------------------------------------------------------------------------------


def lines(kind: str, *infos: object, brief: bool = False) -> list[str]:
    return list(babel_text.table(kind, (value(kind, info) for info in infos), brief))


def test_text_of_each_kind() -> None:
    assert lines("neighbour", NEIGHBOUR) == [
        "fe80::2  dev eth1  reach 1111  rxcost 96  txcost 96  cost 96  hello 1000 ms  routes 12  authenticated"
    ]
    assert lines("interface", replace(INTERFACE, keys=(), up=False)) == [
        "eth1  down  fe80::1  cost 96  hello 1000 ms  neighbours 1  in 10  out 20  bad 0  no key"
    ]
    assert lines("source", SOURCE) == ["10.1.0.0/16  router-id 02:00:aa:ff:fe:00:00:01  seqno 7  metric 192  age 3s"]
    assert lines("route", ROUTE, brief=True) == ["10.1.0.0/16  fe80::2  eth1  selected  192"]
    assert lines("neighbour", replace(NEIGHBOUR, cost=65535), brief=True) == ["eth1  fe80::2  inf  1111"]


TAIL = "  router-id 02:00:aa:ff:fe:00:00:01  age 1m05s"


def test_routes_are_sorted_aligned_and_paste() -> None:
    far = replace(ROUTE, prefix=parse_prefix("10.0.0.0/8"), next_hop=parse_address("192.0.2.7"), state="backup")
    six = replace(ROUTE, prefix=parse_prefix("2001:db8::/32"), metric=65535, state="retracted")
    assert lines("route", six, OWN, replace(ROUTE, state="feasible", metric=300), ROUTE, far) == [
        "10.0.0.0/8     via 192.0.2.7      dev eth1  # backup     metric 192  advertised 96  seqno 7"
        + TAIL
        + "  from fe80::2",
        "10.1.0.0/16    via inet6 fe80::2  dev eth1  # selected   metric 192  advertised 96  seqno 7" + TAIL,
        "10.1.0.0/16    via inet6 fe80::2  dev eth1  # feasible   metric 300  advertised 96  seqno 7" + TAIL,
        "10.9.0.1/32                                 # own        metric 0                   seqno 7"
        + TAIL.replace("1m05s", "1s"),
        "2001:db8::/32  via fe80::2        dev eth1  # retracted  metric inf  advertised 96  seqno 7" + TAIL,
    ]


def test_a_large_table_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(babel_text, "ALIGNED", 3)
    read = 0

    def rows() -> object:
        nonlocal read
        for number in range(9, 0, -1):
            read += 1
            yield value("route", replace(ROUTE, prefix=Prefix(bytes((10, number, 0, 0)), 16)))

    made = babel_text.table("route", rows())  # type: ignore[arg-type]
    assert next(made).startswith("10.9.0.0/16")
    assert read == 3
    assert len(list(made)) == 8
    assert lines("route") == []


def test_colours_leave_the_columns_where_they_are() -> None:
    def paint(kind: str, text: str) -> str:
        return f"<{kind}:{text}>" if kind else text

    rows = [value("interface", INTERFACE), value("interface", replace(INTERFACE, interface="a", up=False))]
    plain = list(babel_text.table("interface", rows))
    painted = list(babel_text.table("interface", rows, False, paint))
    assert painted[0].startswith("<dev:a>     <bad:down>")
    assert [re.sub(r"<\w+:([^>]*)>", r"\1", line) for line in painted] == plain


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.9, "59s"), (65, "1m05s"), (7620, "2h07m"), (356_400, "4d03h"), (-1, "0s")]
)
def test_times(seconds: float, text: str) -> None:
    assert babel_text.time_text(seconds) == text


def test_lines_of_the_monitor() -> None:
    change = {"action": "change", "kind": "route", "route": value("route", ROUTE)}
    assert babel_text.change_line(change).startswith("~ route     10.1.0.0/16  via inet6 fe80::2  dev eth1  # selected")
    gone = {"action": "remove", "kind": "neighbour", "neighbour": value("neighbour", NEIGHBOUR)}
    assert babel_text.change_line(gone).startswith("- neighbour fe80::2  dev eth1  reach 1111")


def test_status_on_one_screen() -> None:
    assert list(babel_text.status_lines(status_json(STATUS, PROCESS, COUNTED))) == [
        "version     0.2, pid 5, up 3s, memory 31.0 MiB",
        "file        /etc/via6.toml",
        "router-id   02:00:aa:ff:fe:00:00:01, seqno 9",
        "interfaces  2 of 3 up",
        "neighbours  1 of 2 reachable",
        "routes      1 own, 5 selected",
        "fib         3 installed, 1 failed",
        "waiting     2 declared routes for their next hop",
        "sysctls     net.x was 0, is 1",
        "counted     4 bad-mac",
        "warning     no key",
    ]
    without = list(babel_text.status_lines(status_json(Status(), PROCESS, COUNTED)))
    assert without[1:] == ["babel       not spoken", "fib         nothing of ours"]


# --- which of them -------------------------------------------------------------------------------------------------


def test_select() -> None:
    ten = parse_prefix("10.0.0.0/8")
    assert Select(ten, "root").admits(ROUTE)
    assert not Select(ten, "exact").admits(ROUTE)
    assert not Select(ten, "match").admits(ROUTE)
    assert Select(parse_prefix("10.1.2.3"), "match").admits(ROUTE)
    assert not Select(size=16).admits(ROUTE)
    assert not Select(ifindex=3).admits(NEIGHBOUR)
    assert Select(ifindex=2, state="selected").admits(ROUTE)
    assert not Select(state="backup").admits(ROUTE)
    assert Select(ten, "root").places is None
    places = Select(parse_prefix("10.1.2.3"), "longest").places
    assert places is not None
    assert [str(place) for place in places[::16]] == ["10.1.2.3/32", "10.1.0.0/16", "0.0.0.0/0"]


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ("neigh", {"show": "neighbour"}),
        ("neighbors dev eth1", {"show": "neighbour", "dev": "eth1"}),
        ("r", {"show": "route"}),
        ("route 10/8", {"show": "route", "prefix": "10.0.0.0/8", "how": "exact"}),
        ("route default", {"show": "route", "prefix": "0.0.0.0/0", "how": "exact"}),
        ("route 10.1.2.3", {"show": "route", "prefix": "10.1.2.3/32", "how": "longest"}),
        ("sou root 10/8", {"show": "source", "prefix": "10.0.0.0/8", "how": "root"}),
        ("route state sel dev e", {"show": "route", "state": "selected", "dev": "e"}),
    ],
)
def test_words_of_show(words: str, asked: dict[str, str]) -> None:
    assert show.understood(words.split(), None) == [asked]


def test_show_without_words_is_an_overview() -> None:
    assert [question["show"] for question in show.understood([], None)] == ["interface", "neighbour", "route"]
    assert show.understood(["route", "default"], 6) == [
        {"family": 6, "show": "route", "prefix": "::/0", "how": "exact"}
    ]


@pytest.mark.parametrize(
    "words",
    ["rout6", "x", "route 10.0.0.1/8", "route state", "route state s x", "route 10/8 10/9", "neighbour 10/8",
     "source dev eth1", "route root", "interface state own"],
)  # fmt: skip
def test_wrong_words_of_show(words: str) -> None:
    with pytest.raises(Refusal) as refused:
        show.understood(words.split(), None)
    assert refused.value.code == USAGE
    assert refused.value.remedy


def test_words_of_monitor() -> None:
    assert monitor.question([]) == {"monitor": True}
    assert monitor.question(["routes", "neigh", "route"]) == {"monitor": ["neighbour", "route"]}
    with pytest.raises(Refusal, match="sources are not monitored"):
        monitor.question(["source"])


def test_json_is_an_array_in_lines() -> None:
    assert list(show.json_lines([])) == ["[]"]
    assert "\n".join(show.json_lines([b"1", b"2"])) == "[\n1,\n2\n]"
    parts = [("a", show.json_lines([b"1", b"2"])), ("b", show.json_lines([]))]
    assert json.loads("\n".join(show._joined(parts))) == {"a": [1, 2], "b": []}


# --- what has changed ----------------------------------------------------------------------------------------------


def test_deltas() -> None:
    deltas = Deltas()
    prefix = ROUTE.prefix
    other = replace(ROUTE, neighbour=parse_address("fe80::3"), state="backup")
    assert deltas.compare("route", prefix, [ROUTE]) == [("add", ROUTE)]
    assert deltas.compare("route", prefix, [replace(ROUTE, age_s=99.0)]) == []
    worse = replace(ROUTE, metric=500)
    assert deltas.compare("route", prefix, [worse, other]) == [("change", worse), ("add", other)]
    assert deltas.compare("route", prefix, [other]) == [("remove", worse)]
    assert len(deltas) == 1
    assert deltas.compare("route", prefix, []) == [("remove", other)]
    assert len(deltas) == 0


def test_counters_are_no_change() -> None:
    deltas = Deltas()
    deltas.compare("interface", None, [INTERFACE])
    assert deltas.compare("interface", None, [replace(INTERFACE, packets_in=11, packets_bad=3)]) == []
    down = replace(INTERFACE, up=False)
    assert deltas.compare("interface", None, [down]) == [("change", down)]


def test_what_is_met_in_passing_is_new_once() -> None:
    deltas = Deltas()
    assert deltas.meet("route", ROUTE) == ("add", ROUTE)
    assert deltas.meet("route", ROUTE) is None
    worse = replace(ROUTE, metric=500)
    assert deltas.meet("route", worse) == ("change", worse)
    assert deltas.compare("route", ROUTE.prefix, [worse]) == []
    deltas.note("route", "remove", worse)
    assert len(deltas) == 0
    deltas.note("route", "add", OWN)
    assert deltas.meet("route", OWN) is None
    deltas.forget("route")
    assert deltas.meet("route", OWN) == ("add", OWN)
