"""What the API and the pages say of snapshots: compared with what the tools say, with hostile names, and as OpenAPI."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from verify_support import network, set_sysctl
from via6.model import InterfaceAddress, Route, RouteTable
from via6.observe.node import Node
from via6.prefix import parse_address, parse_prefix
from via6.web.glass import Veil
from via6.web.openapi import description
from via6.web.settings import Settings
from web_support import Served, served, write

TRIANGLE = [("r1", "r2"), ("r2", "r3"), ("r1", "r3")]
HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=y>"


def triangle() -> dict[str, Node]:
    return network(TRIANGLE, babel=True)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "net", triangle().values()) as found:
        yield found


def test_network(web: Served) -> None:
    told = web.get("/api/network").json()
    assert (told["title"], told["source"], told["live"]) == ("net", "snapshots", False)
    assert [n["id"] for n in told["nodes"]] == ["r1", "r2", "r3"]
    assert told["nodes"][0]["findings"] is None  # not looked yet
    web.examined()
    assert web.get("/api/network").json()["nodes"][0]["findings"] == {"error": 0, "warning": 0}
    assert [x["id"] for x in told["links"]] == ["r1.eth1--r2.eth1", "r1.eth2--r3.eth2", "r2.eth2--r3.eth1"]


def test_node_and_routes(web: Served) -> None:
    told = web.get("/api/nodes/r1").json()
    assert told["counts"] == {"routes4": 3, "routes6": 0}
    assert [i["name"] for i in told["interfaces"]] == ["lo", "lan", "eth1", "eth2"]
    assert [(n["address"], n["interface"]) for n in told["neighbours"]] == [("fe80::2", "eth1"), ("fe80::3", "eth2")]
    routes = web.get("/api/nodes/r1/routes?family=4").json()
    assert [r["prefix"] for r in routes["routes"]] == ["10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24"]
    assert routes["routes"][1]["next_hops"] == [{"via": "fe80::2", "dev": "eth1"}]
    assert routes["routes"][1]["text"].startswith("10.2.0.0/24 via inet6 fe80::2 dev eth1")
    page = web.get("/api/nodes/r1/routes?offset=1&limit=1").json()
    assert (page["total"], page["offset"], [r["prefix"] for r in page["routes"]]) == (3, 1, ["10.2.0.0/24"])
    assert web.get("/api/nodes/r1/routes?offset=99").json()["routes"] == []


def test_longest_match(tmp_path: Path) -> None:
    nodes = triangle()
    hop = next(iter(nodes["r1"].kernel.routes)).next_hops
    more = [Route(parse_prefix(p), hop) for p in ("0.0.0.0/0", "10.0.0.0/8", "10.2.0.0/16", "2001:db8::/32", "::/0")]
    kernel = replace(nodes["r1"].kernel, routes=RouteTable.of([*nodes["r1"].kernel.routes, *more]))
    nodes["r1"] = replace(nodes["r1"], kernel=kernel)
    with served(tmp_path / "net", nodes.values()) as web:
        found = web.get("/api/nodes/r1/routes?match=10.2.0.5").json()
        wanted = ["10.2.0.0/24", "10.2.0.0/16", "10.0.0.0/8", "0.0.0.0/0"]
        assert [r["prefix"] for r in found["routes"]] == wanted
        assert found["longest"] == "10.2.0.0/24"
        assert web.get("/api/nodes/r1/routes?match=192.0.2.1").json()["longest"] == "0.0.0.0/0"
        assert web.get("/api/nodes/r1/routes?match=10.1.0.1").json()["longest"] == "10.1.0.1"
        six = web.get("/api/nodes/r1/routes?match=2001:db8::1").json()
        assert [r["prefix"] for r in six["routes"]] == ["2001:db8::/32", "::/0"]
        assert web.get("/api/nodes/r2/routes?match=192.0.2.1").json() == {
            "total": 0, "offset": 0, "longest": None, "routes": [],
        }  # fmt: skip


def test_a_million_routes_are_paged(tmp_path: Path) -> None:
    nodes = triangle()
    template = next(r for r in nodes["r1"].kernel.routes if r.next_hops and r.next_hops[0].via)
    many = [template.at((n << 8).to_bytes(4, "big")) for n in range(1 << 16, (1 << 16) + 200_000)]
    kernel = replace(nodes["r1"].kernel, routes=RouteTable.of(many))
    with served(tmp_path / "net", [replace(nodes["r1"], kernel=kernel)]) as web:
        found = web.get("/api/nodes/r1/routes?offset=199999&limit=500").json()
        assert (found["total"], len(found["routes"])) == (200_000, 1)
        assert web.get("/api/nodes/r1/routes?match=1.0.5.9").json()["longest"] == "1.0.5.0/24"


def test_trace_there_and_back_and_after_a_failure(web: Served) -> None:
    told = web.get("/api/trace?from=r1&to=10.2.0.1").json()
    assert [(h["node_id"], h["link_id"]) for h in told["hops"]] == [("r1", "r1.eth1--r2.eth1"), ("r2", None)]
    assert [(h["node_id"], h["link_id"]) for h in told["back"]["hops"]] == [("r2", "r1.eth1--r2.eth1"), ("r1", None)]
    assert told["disposition"] == "ACCEPTED"
    cut = web.get("/api/trace?from=r1&to=10.2.0.1&fail=r1.eth1--r2.eth1").json()
    assert [h["node"] for h in cut["hops"]] == ["r1", "r3", "r2"]
    gone = web.get("/api/trace?from=r1&to=10.2.0.1&fail=r2").json()
    assert gone["disposition"] != "ACCEPTED"
    assert web.get("/api/trace?from=10.3.0.9&to=10.2.0.1&proto=udp&port=53").json()["flow"]["dport"] == 53


@pytest.mark.parametrize(
    ("query", "status", "word"),
    [
        ("", 400, "from where"), ("from=r1", 400, "from where"), ("from=r1&to=x", 400, "no address"),
        ("from=r1&to=2001:db8::1", 400, "IPv6"), ("from=r9&to=10.2.0.1", 400, "no node"),
        ("from=r1&to=224.0.0.1", 400, "one machine"), ("from=r1&to=10.2.0.1&proto=gre", 400, "proto is"),
        ("from=r1&to=10.2.0.1&port=0", 400, "port is"), ("from=r1&to=10.2.0.1&proto=icmp&port=1", 400, "no ports"),
        ("from=r1&to=10.2.0.1&fail=x", 404, "no id"), ("from=r1&to=10.2.0.1&fail=r1", 400, "has failed"),
        ("from=r1&from=r2&to=10.2.0.1", 400, "twice"), ("from=r1&to=10.2.0.1&colour=red", 400, "no parameter"),
        ("from=r%00&to=10.2.0.1", 400, "NUL"), ("from=r1&to=" + "1" * 100, 400, "no address"),
        ("from=" + "x" * 400 + "&to=10.2.0.1", 400, "too long"), ("from=r1&to=10.2.0.1&port=٣", 400, "port is"),
    ],
)  # fmt: skip
def test_questions_that_make_no_sense(web: Served, query: str, status: int, word: str) -> None:
    answer = web.get(f"/api/trace?{query}")
    assert answer.status_code == status
    assert word in answer.json()["error"]


@pytest.mark.parametrize(
    "path",
    ["/api/nodes/r9", "/api/nodes/r9/routes", "/api/nodes/r9/findings", "/api/nodes/r9/changes", "/nodes/r9",
     "/desktops/x", "/api/nodes/R1", "/api/nodes/%ff"],
)  # fmt: skip
def test_what_is_not_there(web: Served, path: str) -> None:
    assert web.get(path).status_code == 404


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=501", "limit=-1", "limit=x", "offset=-1", "offset=1e3", "family=5", "match=10.0.0.0/8",
     "match=x", "family=6&match=10.0.0.1", "limit=1&limit=2"],
)  # fmt: skip
def test_numbers_and_words_are_looked_at(web: Served, query: str) -> None:
    assert web.get(f"/api/nodes/r1/routes?{query}").status_code == 400


def test_failures_and_verify_and_findings(tmp_path: Path) -> None:
    nodes = triangle()
    nodes["r2"] = set_sysctl(nodes["r2"], eth1__forwarding=0)
    with served(tmp_path / "net", nodes.values()) as web:
        kinds = [(f["kind"], f["name"]) for f in web.get("/api/failures").json()]
        assert kinds == [("link", "r1-r2"), ("link", "r1-r3"), ("link", "r2-r3"), *(("node", n) for n in nodes)]
        verify = web.get("/api/verify").json()
        assert {p["disposition"] for p in verify["problems"]} == {"FORWARDING_OFF"}
        web.examined()
        found = web.get("/api/nodes/r2/findings").json()
        assert "forwarding-off" in [one["code"] for one in found if one["severity"] == "error"]
        assert found[0]["remedy"]
        network = web.get("/api/network").json()
        assert network["nodes"][1]["findings"]["error"] == sum(one["severity"] == "error" for one in found)


def test_files_that_change_are_read_again(tmp_path: Path) -> None:
    nodes = triangle()
    with served(tmp_path / "net", nodes.values()) as web:
        before = web.get("/api/network").json()
        less = [r for r in nodes["r1"].kernel.routes if str(r.prefix) != "10.2.0.0/24"]
        nodes["r1"] = replace(nodes["r1"], kernel=replace(nodes["r1"].kernel, routes=RouteTable.of(less)))
        del nodes["r3"]
        write(tmp_path / "net", nodes.values())
        web.until(lambda: len(web.web.board.picture.ids) == 2)
        after = web.get("/api/network").json()
        assert after["version"] > before["version"]
        assert [n["id"] for n in after["nodes"] if n["state"] == "up"] == ["r1", "r2"]
        assert web.get("/api/nodes/r3").status_code == 404
        changes = web.get("/api/nodes/r1/changes").json()
        assert changes[0] == {
            "time": changes[0]["time"], "kind": "route", "text": "10.2.0.0/24: via fe80::2 dev eth1 → nothing",
            "good": False,
        }  # fmt: skip
        (tmp_path / "net" / "0.json").write_text("{")
        web.until(lambda: "could not be read" in str(web.web.board.changes("r1", 9)))
        assert web.get("/api/nodes/r1").status_code == 200


class _Tags(HTMLParser):
    """Finds scripts that are not ours, and attributes that run or style something."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        held = dict(attrs)
        if tag == "script" and not re.fullmatch(r"/static/js/\w+\.js", held.get("src") or ""):
            self.found.append(f"script {held}")
        self.found += [f"{tag} {name}" for name in held if name.startswith("on") or name == "style"]
        for name in ("src", "href", "action"):
            value = held.get(name) or "/"
            self.found += [] if value.startswith(("/", "?", "#")) and value[1:2] != "/" else [f"{tag} {name}={value}"]
        self.found += [tag] if tag in ("style", "iframe", "object", "embed", "base") else []

    @classmethod
    def faults(cls, text: str) -> list[str]:
        parser = cls()
        parser.feed(text)
        return parser.found


# --- hostile names ---------------------------------------------------------------------------------------------------


def hostile() -> list[Node]:
    nodes = triangle()
    r1 = nodes["r1"]
    links = tuple(replace(k, name="<b>'\"") if k.name == "eth1" else k for k in r1.kernel.links)
    nodes["r1"] = replace(
        r1, name=HOSTILE, kernel=replace(r1.kernel, links=links), release="<u>", unread={"wireguard": "<i>"}
    )
    nodes["r2"] = replace(nodes["r2"], name="../../etc/passwd")
    nodes["r3"] = replace(nodes["r3"], name="\u202e\u0007\n\r\0data: x\n\nevent: network")
    return list(nodes.values())


def test_hostile_names_are_escaped_everywhere(tmp_path: Path) -> None:
    with served(tmp_path / "net", hostile()) as web:
        web.examined()
        ids = {n["name"]: n["id"] for n in web.get("/api/network").json()["nodes"]}
        assert set(ids) == {node.name for node in hostile()}
        asked = ids[HOSTILE]
        pages = ["/", "/glass", f"/nodes/{asked}", f"/?from={asked}&to=10.2.0.1",
                 f"/glass?node={asked}&match=10.2.0.1", "/?from=<script>&to=<script>",
                 "/?fail=%22%3E%3Cscript%3E&from=r1&to=10.2.0.1",
                 f"/nodes/{asked}?match=<script>", "/nodes/<script>",
                 *(f"/nodes/{one}" for one in ids.values())]  # fmt: skip
        for page in pages:
            answer = web.get(page, headers={"accept": "text/html"})
            assert answer.headers["content-type"].startswith("text/html")
            for bad in ("<script>alert", "<img src=x", "<b>'", "<u>", "<i>", '"><script'):
                assert bad not in answer.text, (page, bad)
            assert _Tags.faults(answer.text) == [], page
        trace = web.get(f"/api/trace?from={asked}&to=10.2.0.1").json()
        assert trace["hops"][0]["node"] == HOSTILE
        assert trace["hops"][0]["node_id"] == asked
        for path in (
            "/metrics",
            "/api/verify",
            "/api/failures",
            *(f"/api/nodes/{one}/findings" for one in ids.values()),
        ):
            assert web.get(path).status_code == 200
        assert all(re.fullmatch(r"[\w.~-]+", one) for one in ids.values())


def test_events_hold_no_line_of_a_name(tmp_path: Path) -> None:
    with served(tmp_path / "net", hostile()) as web:
        octets = web.web.board.hub.join(None).take()
        lines = octets.split(b"\n")
        assert [line.split(b":")[0] for line in lines] == [b"id", b"event", b"data", b"", b""]
        assert json.loads(lines[2][6:])["source"] == "snapshots"


def test_half_a_surrogate_pair_has_octets(tmp_path: Path) -> None:
    with served(tmp_path / "net", triangle().values()) as web:
        node = replace(web.web.board.nodes["r1"], name="r\ud800")
        web.web.board.put(node)
        web.until(lambda: len(web.web.board.picture.ids) == 4)
        for path in ("/api/network", "/", "/metrics", "/api/failures", "/api/nodes/r~ed~a0~80", "/nodes/r~ed~a0~80"):
            assert web.get(path).status_code == 200, path


# --- metrics, description --------------------------------------------------------------------------------------------


def test_metrics(web: Served) -> None:
    web.examined()
    text = web.get("/metrics").text
    assert 'via6_link_up{link="r1.eth1--r2.eth1"} 1.0' in text
    assert 'via6_routes{family="4",node="r1"} 4.0' in text
    assert 'via6_babel_neighbour_cost{interface="eth1",neighbour="fe80::2",node="r1"} 96.0' in text
    assert 'via6_findings{node="r1",severity="error"} 0.0' in text
    assert web.get("/healthz").json() == {"nodes": 3, "down": 0}


def _check(value: Any, schema: dict[str, Any], where: str) -> None:
    """A JSON value against the part of JSON Schema that the description uses."""
    if "$ref" in schema:
        schema = description()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        if value is not None:
            _check(value, schema["anyOf"][0], where)
        return
    types = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}
    wanted = schema.get("type", "object")
    names = wanted if isinstance(wanted, list) else [wanted]
    assert (value is None and "null" in names) or any(isinstance(value, types[n]) for n in names if n != "null"), where
    if "enum" in schema:
        assert value in schema["enum"], where
    if isinstance(value, dict):
        assert set(schema.get("required", ())) <= value.keys(), where
        known = schema.get("properties", {})
        if schema.get("additionalProperties") is False:
            assert value.keys() <= known.keys(), (where, value.keys() - known.keys())
        for key, one in value.items():
            _check(
                one,
                known.get(key, {"type": ["object", "array", "string", "number", "boolean", "null"]}),
                f"{where}.{key}",
            )
    if isinstance(value, list):
        for one in value:
            _check(
                one,
                schema.get("items", {"type": ["object", "array", "string", "number", "boolean", "null"]}),
                f"{where}[]",
            )


@pytest.mark.parametrize("glass", [False, True])
def test_answers_are_as_described(tmp_path: Path, glass: bool) -> None:
    nodes = triangle()
    nodes["r2"] = set_sysctl(nodes["r2"], eth1__forwarding=0)
    with served(tmp_path / "net", nodes.values(), Settings(glass=glass)) as web:
        if not glass:
            web.examined()
        for path, item in description()["paths"].items():
            if "get" not in item:  # deeds.py
                continue
            schema = item["get"]["responses"]["200"]["content"].get("application/json", {}).get("schema")
            if schema is None:
                continue
            for query in ("?from=r1&to=10.2.0.1", "?from=r2&to=10.9.9.9&fail=r3") if path == "/api/trace" else ("",):
                answer = web.get(path.replace("{id}", "r2") + query)
                if answer.status_code == 403:
                    assert glass
                    schema = {"$ref": "Error"}
                _check(answer.json(), schema, path)


def test_every_path_of_the_api_is_described(web: Served) -> None:
    from via6.web.api import Api

    told = {(path, method.upper()) for path, item in description()["paths"].items() for method in item}
    there = {(route.path, method) for route in Api(web.web).routes() for method in route.methods or ()}
    assert there - {(path, "HEAD") for path, _ in told} == told


# --- the looking glass -----------------------------------------------------------------------------------------------


def managed() -> list[Node]:
    nodes = triangle()
    r1 = nodes["r1"]
    lo = r1.kernel.by_name["lo"].ifindex
    hop = next(r.next_hops for r in r1.kernel.routes if r.next_hops and r.next_hops[0].via)
    held = (
        *r1.kernel.addresses,
        InterfaceAddress(lo, parse_address("10.255.0.1"), 32),
        InterfaceAddress(lo, parse_address("2001:db8:ffff::1"), 128),
    )
    host = Route(parse_prefix("2001:db8:ffff::1"), (), "local", 255)
    more = Route(parse_prefix("2001:db8:5::/48"), hop, src=parse_address("2001:db8:ffff::1"))
    routes = RouteTable.of([*r1.kernel.routes, host, more])
    nodes["r1"] = replace(r1, kernel=replace(r1.kernel, addresses=held, routes=routes), release="6.1.0-secret")
    return list(nodes.values())


def test_a_glass_hides_what_routers_are_managed_by(tmp_path: Path) -> None:
    with served(tmp_path / "net", managed(), Settings(glass=True)) as web:
        for path in ("/glass", "/nodes/r1", "/api/network", "/api/nodes/r1", "/api/nodes/r1/routes?family=6",
                     "/api/nodes/r1/routes", "/api/trace?from=r1&to=10.2.0.1",
                     "/api/nodes/r1/changes", "/glass?node=r1&match=2001:db8:5::1"):  # fmt: skip
            answer = web.get(path)
            assert answer.status_code == 200, path
            for secret in ("2001:db8:ffff::1", "10.255.0.1", "6.1.0-secret"):
                assert secret not in answer.text.replace('value="10.255.0.1"', ""), (path, secret)
        assert "fe80::2" in web.get("/api/nodes/r1/routes").text
        for path in ("/metrics", "/api/verify", "/api/nodes/r1/findings"):
            assert web.get(path).status_code == 403
        assert web.get("/").headers["location"] == "/glass"
        assert web.get("/api/desktops").json() == []
        assert web.get("/api/network").json()["nodes"][0]["findings"] is None


def test_a_glass_hides_what_it_is_told_to(tmp_path: Path) -> None:
    hide = (parse_prefix("10.3.0.0/16"), parse_prefix("fe80::/10"))
    with served(tmp_path / "net", managed(), Settings(glass=True, hide=hide)) as web:
        told = web.get("/api/nodes/r1/routes").text
        assert "10.3.0.0" not in told
        assert "hidden/24 via inet6 hidden dev eth2" in told
        assert "2001:db8:ffff::1" in web.get("/api/nodes/r1").text


def test_the_page_for_strangers_hides_also_without_glass(tmp_path: Path) -> None:
    with served(tmp_path / "net", managed()) as web:
        assert "2001:db8:ffff::1" in web.get("/nodes/r1").text
        assert "2001:db8:ffff::1" not in web.get("/glass?from=r1&to=10.2.0.1").text


@pytest.mark.parametrize(
    "path",
    ["/api/trace?from=r2&to=10.255.0.1", "/api/trace?from=10.255.0.1&to=10.2.0.1", "/glass?from=r2&to=10.255.0.1",
     "/api/nodes/r2/routes?match=2001:db8:ffff::1", "/api/nodes/r2/routes?match=10.255.0.1",
     "/nodes/r2?match=2001:db8:ffff:0:0:0:0:1", "/glass?node=r2&match=10.255.0.1"],
)  # fmt: skip
def test_a_glass_does_not_tell_whose_an_address_is(tmp_path: Path, path: str) -> None:
    with served(tmp_path / "net", managed(), Settings(glass=True)) as web:
        answer = web.get(path)
        assert answer.status_code == 403
        assert "10.255.0.1" not in answer.text
    with served(tmp_path / "net2", managed()) as web:
        assert web.get(path).status_code == (403 if path.startswith("/glass") else 200)


@pytest.mark.parametrize(
    "text",
    ["10.255.0.1", "at 10.255.0.1.", "10.255.0.1:8046", "[2001:db8:ffff::1]:80", "address:2001:db8:ffff::1",
     "2001:DB8:FFFF:0::1/128", "(2001:db8:ffff::1)", "10.255.0.1/32 via x", "2001:db8:ffff::1:"],
)  # fmt: skip
def test_an_address_is_hidden_however_it_stands_in_a_text(text: str) -> None:
    shown = Veil(None, managed()).text(text)
    assert "10.255.0.1" not in shown
    assert "ffff" not in shown.lower()
    assert "hidden" in shown


def test_a_filter_is_not_quoted_to_strangers(tmp_path: Path) -> None:
    nodes = triangle()
    firewall = nodes["r2"].firewall
    assert firewall is not None
    nodes["r2"] = replace(nodes["r2"], firewall=replace(firewall, forward4="drop", evidence=("secret rule",)))
    with served(tmp_path / "net", nodes.values(), Settings(glass=True)) as web:
        answer = web.get("/api/trace?from=r1&to=10.2.0.9")
        assert "secret rule" not in answer.text
    with served(tmp_path / "net2", nodes.values()) as web:
        assert web.get("/api/trace?from=10.1.0.9&to=10.3.0.9").status_code == 200
