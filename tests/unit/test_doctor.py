"""The doctor's findings as values: what follows from what, how they are shown, and that every code is documented."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from support import ROOT
from verify_support import network, set_sysctl, via, with_route
from via6.model import InterfaceAddress, Link, Neighbour, NextHop, Route
from via6.observe.doctor import registry, report
from via6.observe.doctor.codes import CODES
from via6.observe.doctor.finding import ERROR, INFO, WARNING, Case, Finding, SetSysctl
from via6.observe.doctor.look import parse_release, set_sysctls, sysctl_name, uses6
from via6.observe.doctor.measured import Measured
from via6.observe.node import UNKNOWN, Firewall, Node, Shut
from via6.prefix import parse_address, parse_prefix

CHECKS = ROOT / "src/via6/observe/doctor"


def codes(*findings: Finding) -> list[str]:
    return [one.code for one in findings]


def examined(node: Node, **more: object) -> list[Finding]:
    return registry.examine(Case(node, **more))  # type: ignore[arg-type]


# --- codes ---------------------------------------------------------------------------------------------------------


def said(path: Path) -> Iterator[str]:
    """The words that look like codes where a module makes a finding."""
    for call in ast.walk(ast.parse(path.read_text())):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") in ("Finding", "_finding"):
            for word in (node for arg in call.args[:3] for node in ast.walk(arg) if isinstance(node, ast.Constant)):
                if isinstance(word.value, str) and re.fullmatch(r"[a-z]+(-[a-z0-9]+)+|loop", word.value):
                    yield word.value


def test_every_code_is_in_the_table_and_no_other() -> None:
    made = {code for path in CHECKS.glob("*.py") for code in said(path)}
    written = {
        word
        for path in CHECKS.glob("*.py")
        if path.name != "codes.py"
        for word in CODES
        if f'"{word}"' in path.read_text()
    }
    assert made <= CODES.keys()
    assert written == CODES.keys()
    named = {code for code, causes in registry.FOLLOWS.items() for code in (code, *causes)}
    assert named <= CODES.keys()


def test_the_table_in_the_documentation_is_that_of_the_program() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (.*?) \| .+ \|$", (ROOT / "docs/doctor.md").read_text(), re.MULTILINE)
    assert dict(rows) == CODES
    assert [code for code, _ in rows] == list(CODES)


# --- what follows from what ----------------------------------------------------------------------------------------


def find(code: str, node: str = "r1", severity: str = ERROR, **more: object) -> Finding:
    return Finding(code, severity, f"{code} at {node}", node=node, **more)  # type: ignore[arg-type]


def test_followers_are_folded_by_place() -> None:
    off = find("ipv6-disabled", subject="eth1", places=(("r1", "eth1"),))
    silent = find("next-hop-unreachable", subject="fe80::2", places=(("r1", "eth1"), ("r2", "eth0")))
    elsewhere = find("next-hop-unreachable", subject="fe80::3", places=(("r1", "eth2"),))
    found = registry.fold([silent, elsewhere, off])
    by_id = {one.id: one for one in found}
    assert by_id[silent.id].depends_on == (off.id,)
    assert by_id[elsewhere.id].depends_on == ()
    assert codes(*found) == ["next-hop-unreachable", "ipv6-disabled", "next-hop-unreachable"]
    at_the_far_end = replace(off, node="r2", subject="eth0", places=(("r2", "eth0"),))
    assert registry.fold([silent, at_the_far_end])[1].depends_on == (at_the_far_end.id,)


def test_each_once_and_no_rings() -> None:
    one, other = find("a", depends_on=("b:r1",)), find("b", depends_on=("a:r1",))
    found = registry.fold([one, other, one])
    assert len(found) == 2
    assert sum(not f.depends_on for f in found) == 1
    assert registry.fold([find("a", depends_on=("gone:r1", "a:r1"))])[0].depends_on == ()


def test_the_severe_come_first_and_followers_stay_with_their_cause() -> None:
    found = registry.fold([
        find("route-shadowed", severity=INFO), find("firewall-icmp", severity=WARNING), find("firewall-forward"),
    ])  # fmt: skip
    assert codes(*found) == ["firewall-forward", "firewall-icmp", "route-shadowed"]
    assert registry.troubled(found)
    assert not registry.troubled(found[2:])


# --- how it is shown -----------------------------------------------------------------------------------------------


def test_text() -> None:
    fix = SetSysctl("net/ipv4/conf/eth1/forwarding", 1)
    root = find("forwarding-off", evidence=("a = 0", "b"), breaks="all", remedy=("sysctl -w a=1",), fixes=(fix,))
    lines = list(report.lines([root, find("no-way-back", depends_on=(root.id,), breaks="x")]))
    assert lines == [
        "error forwarding-off: forwarding-off at r1",
        "    seen    a = 0",
        "            b",
        "    breaks  all",
        "    mend    sysctl -w a=1",
        "    and so:",
        "      error no-way-back: no-way-back at r1",
        "",
        "2 errors, of one cause; `via6 doctor --fix` mends 1",
    ]
    assert list(report.lines([])) == ["nothing is wrong"]
    several = list(report.lines([find("a"), find("b", "r2")]))
    assert several[0] == "r1: error a: a at r1"


@pytest.mark.parametrize(("command", "typed"), [
    ("ip link set eth1 up", "ip -n r1 link set eth1 up"),
    ("via6 route", "via6 -n r1 route"),
    ("sysctl -w a=1", "ip netns exec r1 sysctl -w a=1"),
    ("printf x > y", "ip netns exec r1 sh -c 'printf x > y'"),
    ("# look", "# look"),
])  # fmt: skip
def test_commands_for_another_namespace(command: str, typed: str) -> None:
    assert report.within(command, "r1") == typed
    assert report.within(command, "") == command


def test_names_of_sysctls() -> None:
    assert sysctl_name("net/ipv4/conf/eth1/forwarding") == "net.ipv4.conf.eth1.forwarding"
    assert sysctl_name("net/ipv4/conf/eth1.5/forwarding") == "net/ipv4/conf/eth1.5/forwarding"
    remedy, fixes = set_sysctls({"net/ipv4/conf/all/rp_filter": 0, "net/ipv4/conf/e/rp_filter": 0})
    assert remedy[0] == "sysctl -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.e.rp_filter=0"
    assert len(fixes) == 2


def test_releases() -> None:
    assert parse_release("6.1.0-40-amd64") == (6, 1, 0)
    assert parse_release("5.10.47") == (5, 10, 47)
    assert parse_release("4.19") == (4, 19, 0)
    assert parse_release("7.9") == (7, 9, 0)
    assert parse_release("") == (99, 0, 0)


# --- checks, on nodes made by hand ---------------------------------------------------------------------------------

LINE = [("r1", "r2"), ("r2", "r3")]


def test_nothing_on_a_healthy_network() -> None:
    nodes = network(LINE)
    for node in nodes.values():
        others = tuple(other for other in nodes.values() if other is not node)
        assert examined(node) == []
        assert examined(node, others=others) == []


def test_what_was_not_read_is_no_finding() -> None:
    assert examined(Node("r1", replace(network(LINE)["r2"].kernel, parts=frozenset()))) == []


def test_a_host_needs_no_forwarding_and_a_gateway_does() -> None:
    host = network([("r1", "r2")])["r1"]
    links = tuple(link for link in host.kernel.links if link.name != "lan")
    off = set_sysctl(host, eth1__forwarding=0, lan__forwarding=0, all__forwarding=0, lo__forwarding=0)
    assert codes(*examined(off)) == ["forwarding-off"]
    own = (InterfaceAddress(1, parse_address("10.1.0.1"), 32), host.kernel.addresses[1])
    single = replace(off, kernel=replace(host.kernel, links=links, addresses=own))
    assert examined(single) == []
    # Two interfaces and a gateway on each: a host with two uplinks.
    gateway = with_route(off, Route(parse_prefix("0.0.0.0/0"), (NextHop(parse_address("10.1.0.254"), 2),)))
    assert examined(gateway) == []


def test_another_nodes_route_tells_that_it_should_forward() -> None:
    nodes = network(LINE)
    off = set_sysctl(nodes["r2"], eth2__forwarding=0)
    [found] = examined(off, others=(nodes["r1"], nodes["r3"]))
    assert (found.code, found.subject) == ("forwarding-off", "eth2")
    assert found.fixes == (SetSysctl("net/ipv4/conf/eth2/forwarding", 1),)


def test_a_neighbour_that_failed_on_paper_and_one_that_answers_now() -> None:
    node = network(LINE)["r1"]
    hop = (node.kernel.by_name["eth1"].ifindex, parse_address("fe80::2"))
    failed = replace(node, kernel=replace(node.kernel, neighbours=(Neighbour(*hop, state="FAILED"),)))
    assert codes(*examined(failed)) == ["next-hop-unreachable"]
    assert examined(failed, measured=Measured(answered=frozenset({hop}))) == []
    assert codes(*examined(node, measured=Measured(silent={hop: "asked"}))) == ["next-hop-unreachable"]


def test_a_firewall_that_depends_is_not_judged() -> None:
    node = network(LINE)["r2"]
    for word, wanted in (("drop", ["firewall-forward", "firewall-icmp", "firewall-dummy"]), ("unknown", [])):
        rules = ("nft inet f c: policy drop", "nft ip f i: policy drop")
        said = Firewall(word, word, word, "accept", rules)
        found = examined(replace(node, firewall=said))
        assert sorted(codes(*found)) == sorted(wanted)
        assert [one.code for one in found if not one.depends_on] == wanted[:1]
        # Which of the rules it is was not written down: none is opened.
        assert not any(one.remedy for one in found)
        classes = ("forward4", "icmp4", "dummy4") if wanted else ()
        told = replace(said, shut=tuple(Shut(one, rules[:1]) for one in classes))
        again = examined(replace(node, firewall=told))
        assert codes(*again) == codes(*found)
        assert all("nft insert rule inet f c" in one.remedy[0] and "ip f i" not in str(one.remedy) for one in again)


def test_a_firewall_between_two_interfaces() -> None:
    node = network(LINE)["r2"]
    one, other = (node.kernel.dev(index) for index in sorted({use.hop.ifindex for use in uses6(node)}))

    def shut(*pairs: tuple[str, str], word: str = UNKNOWN, rule: str = "nft ip f c: policy drop") -> list[Finding]:
        drops = tuple(Shut("forward4", (rule,), into, out) for into, out in pairs)
        return examined(replace(node, firewall=Firewall(word, shut=drops)))

    [both] = shut((one, other), (other, one))
    assert (both.code, both.subject) == ("firewall-forward", f"from {one}, {other}")
    assert both.remedy[0] == f'nft insert rule ip f c \'iifname {{ "{one}", "{other}" }} accept\''
    [single] = shut((other, one))
    assert single.subject == f"from {other}"
    assert shut((one, "elsewhere"), ("elsewhere", other)) == []
    [netdev] = shut((one, other), rule="nft netdev t c: protocol ip drop")
    assert netdev.remedy[0] == "nft insert rule netdev t c 'meta protocol ip accept'"


def test_loose_filters_and_default_routes() -> None:
    node = set_sysctl(network(LINE)["r1"], all__rp_filter=2)
    assert codes(*examined(node)) == ["rp-filter-dummy"]
    assert examined(with_route(node, via(node, "0.0.0.0/0", "r2", "eth1"))) == []
    elsewhere = with_route(node, Route(parse_prefix("0.0.0.0/0"), (NextHop(parse_address("10.1.0.254"), 2),)))
    # eth1 has no IPv4 address: 2 is strict there, and the way to 192.0.0.8 is another.
    assert codes(*examined(elsewhere)) == ["rp-filter-dummy"]


def test_a_pinned_synthetic_next_hop_is_worth_knowing_only() -> None:
    node = network(LINE)["r1"]
    via_it = parse_address("169.254.0.1")
    eth1 = node.kernel.by_name["eth1"].ifindex
    node = with_route(node, Route(parse_prefix("10.9.0.0/24"), (NextHop(via_it, eth1),)))
    [found] = examined(node)
    assert (found.code, found.severity) == ("synthetic-next-hop", ERROR)
    pinned = replace(node, kernel=replace(node.kernel, neighbours=(Neighbour(eth1, via_it, b"\2" * 6, "PERMANENT"),)))
    assert [one.severity for one in examined(pinned)] == [INFO]


def test_links_that_nobody_uses_are_not_looked_at() -> None:
    node = network(LINE)["r1"]
    spare = Link(77, "spare", 1000, node.kernel.links[1].flags, "UP")
    idle = replace(
        node,
        kernel=replace(node.kernel, links=(*node.kernel.links, spare)),
        sysctls={**node.sysctls, "net/ipv6/conf/spare/disable_ipv6": 1, "net/ipv4/conf/spare/forwarding": 0},
    )
    assert examined(idle) == []
