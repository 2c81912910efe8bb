"""Faults that show between nodes: the ends of a link, a route that discards far away, a host without a gateway."""

from __future__ import annotations

import json

import pytest

from doctor_support import Line, batch, roots, told, type_in
from support import Nets, via6, wait_until

pytestmark = pytest.mark.root


@pytest.fixture
def line(nets: Nets) -> Line:
    return Line(nets)


def test_a_target_that_takes_no_pings(line: Line) -> None:
    """As many a desktop: that is no way that is missing."""
    filters = "table ip f {\n chain c {\n type filter hook input priority 0; %s drop\n }\n}\n"
    line["h3"].run("nft", "-f", "-", input=filters % "icmp type echo-request")
    assert not line.ping()
    assert via6("doctor --to 10.3.0.10", netns=line["h1"]) == (0, "nothing is wrong\n", "")
    line["h3"].run("nft", "-f", "-", input=filters % "ip protocol != 1")
    code, out, _ = via6("doctor --to 10.3.0.10", netns=line["h1"])
    assert (code, "a filter of its own may do that" in out) == (3, True)


def test_an_interface_that_is_set_down_is_named(line: Line) -> None:
    """At a router and at a host: the other end only sees that there is no carrier."""
    line["r3"].ip("link set west down")
    wait_until(lambda: "linkdown" in line["r2"].ip("route show dev east"), what="the carrier goes")
    found = line.look_at_all()
    assert roots(found) == {"link-down"}, told(found)
    assert (found[0].node, found[0].subject) == ("r3", "west")
    assert {"next-hop-dead", "no-way"} <= {one.code for one in found}
    type_in(line["r3"], found[0])
    line.route("r3", 1, "west", "r2", "east")
    line.route("r3", 2, "west", "r2", "east")
    wait_until(lambda: not line.look_at_all(), what="all is well")
    line["h3"].ip("link set eth0 down")
    wait_until(lambda: "linkdown" in line["r3"].ip("route show dev lan"), what="the carrier goes")
    found = line.look_at_all()
    assert roots(found) == {"link-down"}, told(found)
    type_in(line["h3"], found[0])
    wait_until(lambda: roots(line.look_at_all()) == {"no-way-back"}, what="the carrier comes back")
    [left] = line.look_at_all()
    assert left.remedy == ("# on h3:", "ip route replace default via 10.3.0.1 dev eth0")
    type_in(line["h3"], left)
    assert line.look_at_all() == []
    assert line.ping()


def test_two_ends_that_do_not_agree_on_their_network(line: Line) -> None:
    batch(line["h1"], "addr add 10.1.0.10/8 dev eth0", "addr del 10.1.0.10/24 dev eth0",
          "route replace default via 10.1.0.1")  # fmt: skip
    assert not line.ping()
    found = line.look_at_all()
    assert roots(found) == {"netmask"}, told(found)
    advice = next(line for line in found[0].remedy if line.startswith("# if h1 is wrong, there: "))
    line["h1"].run("sh", "-ec", advice.partition(": ")[2])
    line["h1"].ip("route replace default via 10.1.0.1")
    assert told(line.look_at_all()) == []
    assert line.ping()


def test_a_filter_that_sees_one_direction(line: Line) -> None:
    """h1 asks directly and is answered by r2, which takes the answer for nobody's."""
    line.triangle()
    line["r3"].ip("route del 10.1.0.0/24 dev direct")
    rules = (
        "table inet f {\n chain forward {\n type filter hook forward priority 0; ct state established,related accept\n"
        " ct state invalid drop\n }\n}\n"
    )
    assert line.ping()
    assert told(line.look_at_all()) == []
    line["r2"].run("nft", "-f", "-", input=rules)
    assert not line.ping()
    [found] = line.look_at_all()
    assert (found.code, found.node) == ("firewall-states", "r2")
    type_in(line["r2"], found)
    assert line.ping()
    assert told(line.look_at_all()) == []


@pytest.mark.parametrize(("node", "rule"), [
    ("r1", "from 10.1.0.0/24 prohibit"), ("r1", "iif lan lookup 77"), ("r2", "iif west unreachable"),
])  # fmt: skip
def test_a_rule_for_some_packets(line: Line, node: str, rule: str) -> None:
    batch(line[node], "route add unreachable default table 77", f"rule add {rule} priority 50")
    assert not line.ping()
    alone = line.look(node)
    assert [(one.code, one.severity) for one in alone] == [("rule-shadowed", "warning" if node == "r2" else "info")]
    [found] = line.look_at_all()
    assert (found.code, found.severity, found.node) == ("rule-shadowed", "warning", node)
    type_in(line[node], found)
    assert line.ping()
    assert told(line.look_at_all()) == []


def test_a_route_that_discards_is_named(line: Line) -> None:
    line["r3"].ip("route add blackhole 10.3.0.10/32")
    [found] = line.look_at_all()
    assert (found.code, found.node) == ("no-way-back", "r3")
    assert "ip route del blackhole 10.3.0.10/32" in found.remedy
    code, out, _ = via6("doctor --to 10.3.0.10 -j", netns=line["r3"])
    [one] = json.loads(out)
    assert (code, one["code"], one["title"]) == (3, "no-way", "no way to 10.3.0.10: this node discards packets to it")
    assert "route del blackhole 10.3.0.10/32" in one["remedy"]
    type_in(line["r3"], found)
    assert line.look_at_all() == []
    assert line.ping()


def test_the_last_hop_that_answers_is_named(line: Line) -> None:
    """Nobody but the host is asked: routers are known by the addresses that they answer from."""
    batch(line["r2"], "route del 10.3.0.0/24", "route add blackhole 10.3.0.0/24")  # which tells nobody
    code, out, _ = via6("doctor --to 10.3.0.10 -j", netns=line["h1"])
    [one] = json.loads(out)
    assert (code, one["code"]) == (3, "no-way")
    assert one["title"] == "no way to 10.3.0.10: 10.1.0.1 (hop 1) is the last one that answers"
