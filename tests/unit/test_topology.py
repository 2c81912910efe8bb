"""Lab files, TOML and GraphML, and the shortest paths through them."""
# ruff: noqa: E501 - a row of a table stays one line

from __future__ import annotations

import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from via6.errors import Refusal
from via6.lab import graphml, labfile
from via6.lab.routes import as_config, as_ip_batch, static_routes
from via6.lab.topology import SOFTWARE, Topology, load, slug, unique
from via6.prefix import format_address, parse_prefix

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests/golden/tiny.graphml"
ZOO = ROOT.parent / "shared/topologies"


def toml(text: str) -> Topology:
    return labfile.parse(text.encode(), "x.toml", "x")


def faults(text: str) -> list[str]:
    with pytest.raises(Refusal) as caught:
        toml(text)
    lines = caught.value.message.split("\n")
    assert all(line.startswith("x.toml: ") for line in lines)
    return [line.removeprefix("x.toml: ") for line in lines]


def xml(body: str, head: str = "") -> Topology:
    return graphml.parse(f'<?xml version="1.0"?>{head}<graphml>{body}</graphml>'.encode(), "x.graphml", "x")


# --- GraphML -------------------------------------------------------------------------------------------------------


def test_tiny_graphml() -> None:
    lab = load(str(TINY))
    assert lab.name == "tiny"
    assert [r.name for r in lab.routers] == ["zurich-eth", "lodz", "2", "wien", "paris", "paris-2", "6"]
    assert [r.label for r in lab.routers] == ["Zürich (ETH)", "Łódź", "2", "Wien", "Paris", "PARIS", "東京"]
    assert str(lab.routers[2].lan) == "10.0.3.0/24"
    assert [h.name for h in lab.hosts][:2] == ["zurich-eth-h", "lodz-h"]
    assert format_address(lab.hosts[2].address) == "10.0.3.10"
    assert format_address(lab.hosts[2].gateway) == "10.0.3.1"
    assert len(lab.cables) == 8, "parallel edges are two links"
    assert len(lab.notes) == 1
    assert "6 to itself" in lab.notes[0]
    assert [d for d, _, _ in lab.ports["zurich-eth"]] == ["eth1", "eth2", "eth3"]


def test_parallel_edges_become_a_multipath_route() -> None:
    lab = load(str(TINY))
    route = static_routes(lab)["zurich-eth"][0]
    assert route.origin == "lodz"
    assert [str(way) for way in route.ways] == ["fe80::2%eth1", "fe80::2%eth2"]


@pytest.mark.skipif(not ZOO.is_dir(), reason="the Topology Zoo files are not here")
@pytest.mark.parametrize(
    ("file", "nodes", "links", "first"),
    [("Abilene", 11, 14, "seattle"), ("Geant2012", 40, 62, "is"), ("Cogentco", 197, 245, "helsinki"), ("Kdl", 754, 899, "fargo")],
)  # fmt: skip
def test_topology_zoo(file: str, nodes: int, links: int, first: str) -> None:
    lab = load(str(ZOO / f"{file}.graphml"))
    assert (len(lab.routers), len(lab.cables), lab.routers[0].name) == (nodes, links, first)
    assert len(set(lab.nodes)) == 2 * nodes
    assert all(name.isascii() for name in lab.nodes)
    lans = sorted(r.lan for r in lab.routers if r.lan)
    assert not any(a.covers(b) for a, b in pairwise(lans))


def test_disconnected_parts_get_no_routes_to_each_other() -> None:
    nodes = "".join(f'<node id="{n}"/>' for n in "abcd")
    lab = xml(f'<graph>{nodes}<edge source="a" target="b"/><edge source="c" target="d"/></graph>')
    assert lab.component == {"a": 0, "b": 0, "c": 1, "d": 1}
    assert [r.origin for r in static_routes(lab)["a"]] == ["b"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "x.graphml:1: not XML: no element found"),
        ("<graphml><graph>", "not XML: no element found"),
        ("<graphml>\n<graph>\n</graphml>", "x.graphml:3: not XML: mismatched tag"),
        ("<html/>", "x.graphml:1: this is <html>, not GraphML"),
        ("<graphml/>", "no node in it"),
        ("<graphml><graph><node/></graph></graphml>", "a node without id"),
        ('<graphml><graph><node id="a"/>\n<node id="a"/></graph></graphml>', "x.graphml:2: a second node with the id 'a'"),
        ('<graphml><graph><node id="a"/><edge source="a"/></graph></graphml>', "an edge without source or target"),
        ('<graphml><graph><node id="a"/>\n<edge source="a" target="b"/></graph></graphml>', "x.graphml:2: an edge to the node 'b'"),
        ('<!DOCTYPE graphml [<!ENTITY a "b">]><graphml>&a;</graphml>', "a document type (<!DOCTYPE>) is not taken"),
        ('<?xml version="1.0" encoding="no-such"?><graphml/>', "not XML"),
        ('<?xml version="1.0" encoding="utf-7"?><graphml/>', "not XML"),
    ],
)  # fmt: skip
def test_bad_graphml(text: str, fault: str) -> None:
    with pytest.raises(Refusal) as caught:
        graphml.parse(text.encode(), "x.graphml", "x")
    assert fault in caught.value.message


def test_entity_bomb_costs_nothing() -> None:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "x" * 100}">' for n in range(12))
    with pytest.raises(Refusal, match="DOCTYPE"):
        xml('<graph><node id="&e11;"/></graph>', f"<!DOCTYPE graphml [{entities}]>")


def test_deep_nesting_and_many_nodes() -> None:
    with pytest.raises(Refusal, match="no node in it"):
        xml("<a>" * 50_000 + "</a>" * 50_000)
    with pytest.raises(Refusal, match="more than 1024 nodes"):
        xml("".join(f'<node id="{n}"/>' for n in range(1025)))


@given(st.binary(max_size=300))
def test_hostile_graphml(data: bytes) -> None:
    for text in (data, b"<graphml><graph>" + data + b"</graph></graphml>", TINY.read_bytes()[:1500] + data):
        with pytest.raises(Refusal):
            graphml.parse(text, "x", "x")


def test_slug_and_unique() -> None:
    assert slug("São Paulo, BR") == "sao-paulo-br"
    assert slug("Ærø/Weiß") == "aero-weiss"
    assert slug("東京 ") == ""
    assert len(slug("x" * 99)) == 32
    taken = {"a"}
    assert [unique("a", taken), unique("a", taken), unique("b", taken)] == ["a-2", "a-3", "b"]


@given(st.lists(st.text(max_size=60), min_size=1, max_size=20))
def test_names_are_good_whatever_the_labels(labels: list[str]) -> None:
    taken: set[str] = set()
    names = [unique(slug(label) or "n", taken) for label in labels]
    assert len(set(names)) == len(labels)
    assert all(name.isascii() and 0 < len(name) <= 40 and "/" not in name and "." not in name for name in names)


# --- TOML ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", sorted((ROOT / "examples/labs").glob("*.toml")), ids=lambda file: file.stem)
def test_examples(file: Path) -> None:
    lab = load(str(file))
    assert lab.routers
    assert lab.cables
    assert len(lab.hosts) > 1
    assert set(lab.component.values()) == {0}


def test_toml() -> None:
    lab = toml("""
        [lab]
        name = "small"
        software = "static"
        [router.r1]
        lan = "10.1.0.0/16"
        address = "10.255.0.1"
        [router.r2]
        lan = "10.2.0.0/29"
        software = "none"
        [router.r3]
        [host.h1]
        router = "r1"
        [host.h2]
        router = "r1"
        address = "10.1.7.7/16"
        [[link]]
        ends = ["r1", "r3"]
        cost = 5
        mtu = 1400
        [[link]]
        ends = ["r3", "r2"]
    """)
    assert lab.name == "small"
    assert [(r.name, r.software) for r in lab.routers] == [("r1", "static"), ("r2", "none"), ("r3", "static")]
    assert [(h.name, h.router, format_address(h.address)) for h in lab.hosts] == [
        ("h1", "r1", "10.1.0.10"),
        ("h2", "r1", "10.1.7.7"),
        ("r2-h", "r2", "10.2.0.6"),
    ]
    assert lab.cables[0].mtu == 1400
    routes = static_routes(lab)["r2"]
    assert [(str(r.prefix), r.origin, [str(w) for w in r.ways]) for r in routes] == [
        ("10.1.0.0/16", "r1", ["fe80::3%eth1"]),
        ("10.255.0.1/32", "r1", ["fe80::3%eth1"]),
    ]


def test_a_gateway_of_its_own() -> None:
    lab = toml('[router.a]\nlan = "10.1.0.0/24"\n[host.h]\nrouter = "a"\ngateway = "10.1.0.254"\naddress = "10.1.0.1"')
    assert format_address(lab.hosts[0].gateway) == "10.1.0.254"
    assert lab.routers[0].gateway == lab.hosts[0].gateway


def test_costs_choose_the_path_and_equal_costs_share_it() -> None:
    square = """
        [router.a]
        lan = "10.1.0.0/24"
        [router.b]
        [router.c]
        [router.d]
        lan = "10.4.0.0/24"
        [[link]]
        ends = ["a", "b"]
        [[link]]
        ends = ["b", "d"]
        [[link]]
        ends = ["a", "c"]
        [[link]]
        ends = ["c", "d"]
        cost = COST
    """
    equal = static_routes(toml(square.replace("COST", "1")))["a"][0]
    assert [str(w) for w in equal.ways] == ["fe80::2%eth1", "fe80::3%eth2"]
    assert as_config((equal,), "a").endswith('to = "10.4.0.0/24"  # d\nvia = ["fe80::2%eth1", "fe80::3%eth2"]\n')
    assert as_ip_batch((equal,)) == (
        "route add 10.4.0.0/24 proto static nexthop via inet6 fe80::2 dev eth1 nexthop via inet6 fe80::3 dev eth2\n"
    )
    dear = static_routes(toml(square.replace("COST", "2")))["a"][0]
    assert [str(w) for w in dear.ways] == ["fe80::2%eth1"]


def test_config_is_toml() -> None:
    lab = load(str(TINY))
    for routes in static_routes(lab).values():
        tables = tomllib.loads(as_config(routes, "x"))["route"]
        assert [parse_prefix(t["to"]) for t in tables] == [r.prefix for r in routes]


def test_every_mistake_at_once() -> None:
    found = faults("""
        colour = "red"
        [lab]
        name = "a.b"
        speed = 3
        [router.r1]
        lan = "10.1.0.1/24"
        [router.r2]
        lan = "10.2.0.0/24"
        software = "babled"
        [router.r3]
        lan = 7
        [router.r4]
        lan = "10.4.0.0/24"
        adress = "10.255.0.4"
        [router.r5]
        lan = "fe80::/64"
        [router.r6]
        lan = "224.0.0.0/24"
        address = "::1"
        [router."räuter"]
        [host.h1]
        router = "r9"
        [host.h2]
        [[link]]
        ends = ["r1", "r8"]
        [[link]]
        ends = ["r1"]
        [[link]]
        ends = ["r1", "r1"]
        mtu = 1000
    """)
    text = "\n".join(found)
    for expected in (
        "colour: unknown key",
        "lab: object contains unknown field `speed`",
        "router.r1.lan: '10.1.0.1/24' has host bits set: write 10.1.0.0/24",
        "router.r2.software: unknown software 'babled'; there is " + ", ".join(SOFTWARE),
        "router.r3.lan: expected `str`, got `int`",
        "router.r4: object contains unknown field `adress`",
        "router.r5.lan: fe80::/64 is no IPv4 network",
        "router.r6.lan: not a unicast IPv4 address",
        "router.r6.address: ::1 is not an IPv4 address",
        "router.räuter: the name 'räuter' must be",
        "host.h1.router: there is no router 'r9'",
        "host.h2: object missing required field `router`",
        "link[0].ends: there is no router 'r8'",
        "link[1].ends: expected `array` of length 2, got 1",
        "link[2].mtu: expected `int` >= 1280",
    ):
        assert expected in text, expected
    assert "there is no router 'r1'" not in text, "a faulty router is not an unknown one"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "router: no router in this lab"),
        ("router = 3", "router: write [router.NAME], a table for each"),
        ("[router.a]\n[link]\nx = 1", "link: write [[link]], with two pairs of brackets"),
        ("[router.a]\n[[link]]\nends = ['a', 'a']", "link[0].ends: from a to itself"),
        ("[router.a]\n[host.a]\nrouter = 'a'", "host.a: a router is named a, too"),
        ("[router.a]\n[host.h]\nrouter = 'a'", "host.h.router: router a has no lan"),
        ("[lab]\nname = 'a/b'\n[router.a]", "lab.name: the name 'a/b' must be 1 to 40 of"),
        ("[lab]\nsoftware = 'frr'\n[router.a]", "lab.software: unknown software 'frr'; there is via6, babeld, babeld-13, bird,"),
        (f"[router.{'a' * 41}]", f"router.{'a' * 41}: the name"),
        ("[router.a]\nlan='10.0.0.0/8'\n[router.b]\nlan='10.1.0.0/24'", "router.b.lan: 10.1.0.0/24 overlaps router.a.lan (10.0.0.0/8)"),
        ("[router.a]\naddress='10.0.0.1'\n[router.b]\naddress='10.0.0.1'", "router.b.address: 10.0.0.1/32 overlaps router.a.address"),
        ("[router.a]\nlan='10.0.0.0/24'\n[host.h]\nrouter='a'\naddress='10.0.1.9'", "host.h.address: 10.0.1.9 is no address for a host in 10.0.0.0/24"),
        ("[router.a]\nlan='10.0.0.0/24'\n[host.h]\nrouter='a'\naddress='10.0.0.1'", "host.h.address: 10.0.0.1 is taken"),
        ("[router.a]\nlan='10.0.0.0/24'\n[host.h]\nrouter='a'\naddress='10.0.0.9/25'", "host.h.address: the length of the lan is /24"),
        ("[router.a]\nlan='10.0.0.0/24'\n[host.h]\nrouter='a'\n[[link]]\nends=['a','h']", "link[0].ends: h is a host; it is linked by its key `router`"),
        ("[router.a]\nlan='10.0.0.0/30'\n[host.h]\nrouter='a'\n[host.i]\nrouter='a'", "host.i.address: no address is left in 10.0.0.0/30"),
        ("[router.a]\nlan='10.0.0.0/24'\n[host.h]\nrouter='a'\ngateway='10.0.1.1'", "host.h.gateway: the gateway in 10.0.0.0/24 is the router's"),
    ],
)  # fmt: skip
def test_bad_toml(text: str, fault: str) -> None:
    assert any(line.startswith(fault) for line in faults(text)), faults(text)


@pytest.mark.parametrize("data", [b"[router.a", b"\xff", b"a = " + b"[" * 5000, b"[router.a]\n[router.a]"])
def test_no_toml(data: bytes) -> None:
    with pytest.raises(Refusal, match=r"x\.toml: not (TOML|UTF-8)"):
        labfile.parse(data, "x.toml", "x")


def test_many_faults_are_cut() -> None:
    with pytest.raises(Refusal) as caught:
        toml("[router.a]\n" + "[[link]]\nends = ['a', 'a']\n" * 500)
    lines = caught.value.message.split("\n")
    assert len(lines) == 51
    assert lines[-1] == "and 450 more"


def test_load_refuses_what_is_no_lab(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="No such file"):
        load(str(tmp_path / "none.toml"))
    other = tmp_path / "lab.yaml"
    other.write_text("")
    with pytest.raises(Refusal, match=r"a lab file ends in \.toml or \.graphml"):
        load(str(other))
    large = tmp_path / "large.toml"
    with large.open("wb") as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(Refusal, match="larger than 16 MB"):
        load(str(large))
