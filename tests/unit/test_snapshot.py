"""Snapshots as JSON: there and back for any node, every mistake with its place, files and folders."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from via6.errors import Refusal
from via6.model import (
    PARTS,
    InterfaceAddress,
    Link,
    Neighbour,
    NextHop,
    NexthopObject,
    Route,
    RouteBlock,
    RouteTable,
    Rule,
    Snapshot,
)
from via6.netlink.route import TYPES
from via6.observe import snapshot
from via6.observe.allowedips import Peer
from via6.observe.node import (
    NODE_PARTS,
    BabelNeighbour,
    BabelRoute,
    BabelState,
    Firewall,
    Node,
    Shut,
)
from via6.observe.snapshot import firewall
from via6.prefix import AF_INET, AF_INET6, Prefix, mask

v4, v6 = st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)
addresses = v4 | v6
u8, u32, index = st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**31 - 1)
words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
octets = st.binary(max_size=20)


@st.composite
def prefixes(draw: st.DrawFn, of: st.SearchStrategy[bytes] = addresses) -> Prefix:
    packed = draw(of)
    length = draw(st.integers(0, len(packed) * 8))
    return Prefix(mask(packed, length), length)


hops = st.builds(NextHop, st.none() | addresses, index, st.integers(1, 65536), u32)


@st.composite
def blocks(draw: st.DrawFn) -> RouteBlock:
    of = draw(st.sampled_from([v4, v6]))
    length = draw(st.integers(0, 32))
    made = draw(st.lists(of.map(lambda packed: mask(packed, length)), min_size=1, max_size=5, unique=True))
    template = Route(
        Prefix(bytes(len(made[0])), length), tuple(draw(st.lists(hops, max_size=3))), draw(st.sampled_from(TYPES)),
        draw(u32), draw(u32), draw(u8), draw(u8), draw(st.none() | of), draw(u32),
        tuple(sorted(draw(st.dictionaries(st.integers(1, 17), u32, max_size=3)).items())), draw(u8), draw(u32),
        draw(u8), draw(u32),
    )  # fmt: skip
    return RouteBlock(template, made)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    of, family = draw(st.sampled_from([(v4, AF_INET), (v6, AF_INET6)]))
    of = prefixes(of)
    return Rule(
        family, draw(u32), draw(u32), draw(words), draw(st.none() | of), draw(st.none() | of), draw(words), draw(words),
        draw(u32), draw(u32), draw(st.booleans()), draw(st.booleans()),
    )  # fmt: skip


nexthops = st.builds(
    NexthopObject, u32, st.none() | addresses, index,
    st.lists(st.tuples(u32, st.integers(1, 65536)), max_size=3).map(tuple), st.booleans(), u8, u32,
    st.sampled_from([0, AF_INET, AF_INET6]),
)  # fmt: skip


@st.composite
def interface_addresses(draw: st.DrawFn) -> InterfaceAddress:
    of = draw(st.sampled_from([v4, v6]))
    own = draw(of)
    length = draw(st.integers(0, len(own) * 8))
    return InterfaceAddress(draw(index), own, length, draw(u8), draw(u32), draw(st.none() | of), draw(u8))


links = st.builds(Link, index, words, u32, u32, words, octets, words, index, index)
neighbours = st.builds(Neighbour, index, addresses, octets, words, u32)
babel = st.builds(
    BabelState, words,
    st.lists(st.builds(BabelNeighbour, addresses, index, st.integers(0, 65535)), max_size=2).map(tuple),
    st.lists(st.builds(BabelRoute, prefixes(), addresses, index, words, st.integers(0, 65535), st.integers(0, 65535),
                       st.booleans(), st.booleans()), max_size=2).map(tuple),
    st.lists(st.tuples(prefixes(), st.integers(0, 65535)), max_size=2).map(tuple),
)  # fmt: skip
verdict = st.sampled_from(["accept", "drop", "unknown"])
asked = st.builds(
    firewall.Test, st.sampled_from(["saddr", "daddr"]), st.lists(prefixes(), max_size=2).map(tuple), st.booleans()
) | st.builds(
    firewall.Test, st.sampled_from(["iif", "oif", "?"]), st.lists(words, max_size=2).map(tuple), st.booleans()
)  # fmt: skip
rule_lines = st.builds(
    firewall.RuleLine, st.lists(asked, max_size=2).map(tuple),
    st.lists(
        st.builds(
            firewall.Verdict, st.sampled_from(["accept", "drop", "fall", "return", "jump", "goto", "any"]), words
        ),
        min_size=1, max_size=2,
    ).map(tuple),
    words,
)  # fmt: skip
chains = st.builds(
    firewall.Chain, words, st.sampled_from(["", *firewall.CLASSES["forward4"][0].hooks]), st.just(0),
    st.sampled_from(["accept", "drop"]), st.none() | st.lists(words, max_size=2).map(tuple),
    st.lists(rule_lines, max_size=2),
)  # fmt: skip
nodes = st.builds(
    Node,
    name=words,
    kernel=st.builds(
        Snapshot,
        links=st.lists(links, max_size=3, unique_by=(lambda x: x.ifindex, lambda x: x.name)).map(tuple),
        addresses=st.lists(interface_addresses(), max_size=3).map(tuple),
        routes=st.lists(blocks(), max_size=4).map(lambda made: RouteTable(tuple(made))),
        rules=st.lists(rules(), max_size=3).map(tuple),
        nexthops=st.lists(nexthops, max_size=3).map(tuple),
        neighbours=st.lists(neighbours, max_size=3).map(tuple),
        parts=st.just(PARTS),
    ),
    sysctls=st.dictionaries(words, st.integers(-(2**31), 2**32), max_size=3),
    wireguard=st.dictionaries(
        words, st.lists(st.builds(Peer, words, st.lists(prefixes(), max_size=3).map(tuple)), max_size=2).map(tuple),
        max_size=2,
    ),
    firewall=st.none()
    | st.builds(
        Firewall, verdict, verdict, verdict, verdict, st.lists(words, max_size=2).map(tuple),
        st.lists(
            st.builds(
                Shut, st.sampled_from(["forward4", "babel"]), st.lists(words, max_size=2).map(tuple), words, words
            ),
            max_size=2,
        ).map(tuple),
        st.lists(st.dictionaries(words, chains, min_size=1, max_size=2), max_size=2).map(tuple),
    ),
    babel=st.none() | babel,
    unread=st.dictionaries(st.sampled_from(sorted(NODE_PARTS - PARTS)), words, max_size=3),
    times=st.dictionaries(st.sampled_from(sorted(NODE_PARTS)), st.floats(0, 2**33), max_size=3),
    system=st.sampled_from(["linux", "openbsd"]),
    release=words,
    unsteady=st.frozensets(st.sampled_from(sorted(PARTS))),
)  # fmt: skip


@given(nodes)
@settings(max_examples=150)
def test_there_and_back(node: Node) -> None:
    line = snapshot.encode(node)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert snapshot.decode(line) == node


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_octets_that_are_none_are_refused(data: bytes) -> None:
    with pytest.raises(Refusal):
        snapshot.decode(data)


@given(st.data())
@settings(max_examples=200)
def test_a_torn_or_bent_file_is_refused_or_read_never_a_crash(data: st.DataObject) -> None:
    line = snapshot.encode(SMALL)
    at = data.draw(st.integers(0, len(line) - 1))
    bent = line[:at] + bytes([data.draw(u8)]) + line[at + data.draw(st.integers(0, 2)) :]
    with contextlib.suppress(Refusal):
        snapshot.decode(bent)


SMALL = Node(
    "r1",
    Snapshot(
        links=(Link(1, "lo", 65536, 9), Link(2, "eth1", lladdr=bytes(6))),
        addresses=(InterfaceAddress(2, bytes([10, 0, 0, 1]), 24),),
        routes=RouteTable.of([
            Route(Prefix(bytes([10, n, 0, 0]), 16), (NextHop(b"\xfe\x80" + bytes(13) + b"\1", 2),)) for n in range(3)
        ]),
        rules=(Rule(AF_INET, 0, 255),),
        parts=PARTS,
    ),
    sysctls={"net/ipv4/ip_forward": 1},
    firewall=Firewall(),
    unread={"wireguard": "wg is not there"},
)  # fmt: skip


def small() -> dict[str, Any]:
    return json.loads(snapshot.encode(SMALL))  # type: ignore[no-any-return]


def bend(path: str, value: Any) -> bytes:
    """SMALL with one place changed; a value of ... is taken away."""
    whole: Any = small()
    place: Any = whole
    *steps, last = [int(step) if step.isdecimal() else step for step in path.split(".")]
    for step in steps:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(whole).encode()


BAD = [
    ("links.0.mtu", "1500", "links[0].mtu: expected int, got str"),
    ("links.0.mtu", -1, "links[0].mtu: "),
    ("links.1.ifindex", 1, "links[1]: the ifindex 1 is there twice"),
    ("links.1.name", "lo", "links[1]: the name lo is there twice"),
    ("links.1.name", "", "links[1].name: an interface has a name"),
    ("links.1.lladdr", "00:0", "links[1].lladdr: '00:0' are no octets"),
    ("links.1.lladr", "", "links[1]: object contains unknown field lladr"),
    ("links.1.ifindex", ..., "links[1]: object missing required field ifindex"),
    ("addresses.0.address", "10.0.0.256", "addresses[0].address: '10.0.0.256' is not an IPv4 address"),
    ("addresses.0.address", "fe80::1%eth1", "addresses[0].address: 'fe80::1%eth1': a device does not belong here"),
    ("addresses.0.length", 33, "addresses[0].length: 33 is more than 32"),
    ("addresses.0.peer", "fe80::1", "addresses[0].peer: 'fe80::1' is not of the family that is wanted here"),
    ("routes.0.to.1", "10.1.2.0", "routes[0].to[1]: host bits are set behind /16"),
    ("routes.0.to.1", "10.1.0", "routes[0].to[1]: '10.1.0' is not an IPv4 address"),
    ("routes.0.to.1", "10.300.0.0", "routes[0].to[1]: '10.300.0.0' is not an IPv4 address"),
    ("routes.0.to.2", "2001:db8::", "routes[0].to[2]: '2001:db8::' is not of the family"),
    ("routes.0.to", [], "routes[0].to: routes without a destination"),
    ("routes.0.packed", "0a0000", "routes[0].packed: it does not hold whole addresses of 4 octets"),
    ("routes.0.packed", "0a00000g", "routes[0].packed: it is not hexadecimal"),
    ("routes.0.packed", "0a000000", "routes[0].packed: the destinations stand in `to` or in `packed`, not in both"),
    ("routes.0.family", 5, "routes[0].family: 5 is neither 4 nor 6"),
    ("routes.0.length", 40, "routes[0].length: 40 is more than 32"),
    ("routes.0.type", "unicorn", "routes[0].type: 'unicorn' is none of "),
    ("routes.0.next_hops.0.via", "fe80", "routes[0].next_hops[0].via: 'fe80' is not an IPv4 address"),
    ("routes.0.next_hops.0.weight", 0, "routes[0].next_hops[0].weight: "),
    ("rules.0.source", "10.0.0.1", "rules[0].source: '10.0.0.1' is no prefix"),
    ("rules.0.source", "10.0.0.1/8", "rules[0].source: '10.0.0.1/8' has host bits set"),
    ("rules.0.source", "fe80::/10", "rules[0].source: 'fe80::' is not of the family"),
    ("parts.0", "paths", "parts[0]: 'paths' is none of "),
    ("parts", ["links"], "addresses: there are some, but `parts` does not name addresses"),
    ("unread.links", "gone", "unread.links: links is among `parts` as well"),
    ("unread.moods", "bad", "unread: 'moods' is none of "),
    ("unsteady", ["x"], "unsteady[0]: 'x' is none of "),
    ("firewall.icmp4", "maybe", "firewall.icmp4: 'maybe' is none of accept, drop, unknown"),
    ("system", "plan9", "system: 'plan9' is none of linux, openbsd"),
    ("sysctls.net/ipv4/ip_forward", "1", "sysctls[...]: expected int, got str"),
    ("name", "", "name: "),
    ("wireguard", {"wg0": [{"key": "k", "allowed": ["10/8"]}]}, "wireguard.wg0[0].allowed[0]: '10' is not an IPv4"),
    ("babel", {"router_id": "x", "exports": [["10.0.0.0", 0]]}, "babel.exports[0]: '10.0.0.0' is no prefix"),
    ("version", 2, "version 2; this via6 reads version 1"),
    ("version", ..., "version 0; this via6 reads version 1"),
    ("format", "batfish", 'is no snapshot: its format is "batfish", not "via6-snapshot"'),
    ("format", ..., 'is no snapshot: it has no format, not "via6-snapshot"'),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "said"), BAD, ids=[f"{path}={value!r:.12}" for path, value, _ in BAD])
def test_a_mistake_is_told_with_its_place_and_a_remedy(path: str, value: Any, said: str) -> None:
    with pytest.raises(Refusal) as caught:
        snapshot.decode(bend(path, value), "r1.json")
    assert str(caught.value).startswith("r1.json")
    assert said in caught.value.message
    assert caught.value.remedy


def test_a_newer_snapshot_wants_a_newer_via6() -> None:
    for path, value in (("version", 2), ("links.0.colour", "red")):
        with pytest.raises(Refusal) as caught:
            snapshot.decode(bend(path, value))
        assert "newer" in caught.value.remedy


def test_parts_that_were_read_in_part_may_be_there() -> None:
    """`route get` answers: some routes, and the table unread."""
    whole = small()
    whole["parts"].remove("routes4")
    whole["unread"]["routes4"] = "only some"
    assert len(snapshot.decode(json.dumps(whole).encode()).kernel.routes) == 3


def test_many_destinations_are_packed() -> None:
    block = RouteBlock(
        Route(Prefix(bytes(4), 24), (NextHop(None, 2),)), [bytes([10, n >> 8, n & 255, 0]) for n in range(5000)]
    )
    node = Node("r", Snapshot(routes=RouteTable((block,)), parts=frozenset({"routes4"})))
    data = snapshot.encode(node)
    assert len(data) < 5000 * 8 + 500
    assert snapshot.decode(data) == node


# --- files ---------------------------------------------------------------------------------------------------------


def named(name: str) -> bytes:
    whole = small()
    whole["name"] = name
    return json.dumps(whole).encode()


def names(paths: list[Path]) -> list[str]:
    return [node.name for node in snapshot.load(paths)]


def test_files_and_folders(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "b.json").write_bytes(named("b"))
    (folder / "a.json").write_bytes(json.dumps(json.loads(named("a")), indent=2).encode())  # as jq prints it
    (folder / "notes.md").write_text("not read")
    (tmp_path / "two.jsonl").write_bytes(named("c") + b"\n\n" + named("d") + b"\n")
    (tmp_path / "list.json").write_bytes(b"[" + named("e") + b"," + named("f") + b"]")
    assert names([folder, tmp_path / "two.jsonl", tmp_path / "list.json"]) == ["a", "b", "c", "d", "e", "f"]


def test_what_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    (tmp_path / "two.jsonl").write_bytes(named("c") + b"\n" + bend("links.0.mtu", "x"))
    with pytest.raises(Refusal, match=r"two\.jsonl:2: links\[0\]\.mtu: expected int"):
        snapshot.load([tmp_path / "two.jsonl"])
    (tmp_path / "list.json").write_bytes(b"[" + named("e") + b",{}]")
    with pytest.raises(Refusal, match=r"list\.json\[1\] is no snapshot"):
        snapshot.load([tmp_path / "list.json"])
    (tmp_path / "torn.json").write_bytes(named("e")[:-9])
    with pytest.raises(Refusal, match=r"torn\.json: "):
        snapshot.load([tmp_path / "torn.json"])
    for name, text, said in (
        ("empty.json", "", "is empty"), ("x.toml", "[lab]", "not JSON"), ("x.txt", "hello", "is neither a snapshot"),
    ):  # fmt: skip
        (tmp_path / name).write_text(text)
        with pytest.raises(Refusal, match=said):
            snapshot.load([tmp_path / name])
    with pytest.raises(Refusal, match=r"cannot read .*nowhere"):
        snapshot.load([tmp_path / "nowhere"])
    (tmp_path / "none").mkdir()
    with pytest.raises(Refusal, match="holds no snapshot"):
        snapshot.load([tmp_path / "none"])
    with pytest.raises(Refusal, match="no snapshot was named"):
        snapshot.load([])


def test_two_nodes_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_bytes(named("r1"))
    with pytest.raises(Refusal, match=r"two snapshots are of a node 'r1': .*a\.json and .*b\.json"):
        snapshot.load([tmp_path])


@pytest.mark.parametrize("name", [{}, {"name": ""}])
def test_a_node_has_a_name(name: dict[str, str]) -> None:
    value = {"format": "via6-snapshot", "version": 1} | name
    with pytest.raises(Refusal, match="file: name: "):
        snapshot.decode(json.dumps(value).encode(), "file")
