"""`via6 explain` against Linux: a router between two hosts, and everything that can be wrong with it."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

import pytest

from support import Net, Nets, link_local, via6, wait_until

pytestmark = pytest.mark.root


@pytest.fixture
def router(nets: Nets) -> tuple[Net, str]:
    """(router, link-local address of its neighbour on eth1): 10.2.0.0/16 lies behind eth1, eth0 is where hosts are."""
    left, middle, right = nets.new(), nets.new(), nets.new()
    nets.veth(middle, "eth0", left, "eth0")
    nets.veth(middle, "eth1", right, "eth0")
    far = link_local(right)
    link_local(middle, "eth0")
    link_local(middle, "eth1")
    middle.ip("addr add 10.1.0.1/24 dev eth0")
    middle.ip(f"route add 10.2.0.0/16 via inet6 {far} dev eth1 proto static")
    for dev in ("all", "eth0", "eth1"):
        middle.sysctl(f"net.ipv4.conf.{dev}.rp_filter", 0)
        middle.sysctl(f"net.ipv4.conf.{dev}.forwarding", 1)
    return middle, far


def explain(net: Net, words: str, code: int) -> tuple[dict[str, Any], str]:
    """The answer as JSON, and as text, which must end in the same word."""
    got, out, err = via6(f"explain {words}", netns=net)
    assert (got, err) == (code, ""), out + err
    got, text, err = via6(f"explain {words} -j", netns=net)
    assert (got, err) == (code, "")
    made = json.loads(text)
    assert out.split()[-1] == made["disposition"]
    assert out.count("wrong: ") == len(made["wrong"])
    return made, out


def fault(net: Net, words: str, disposition: str) -> str:
    made, _ = explain(net, words, 1)
    assert made["disposition"] == disposition
    assert len(made["wrong"]) == 1
    return "{what} | {remedy}".format(**made["wrong"][0])


def poke(net: Net, address: str) -> None:
    """One packet, so that the kernel asks for the neighbour."""
    with net.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"", (address, 9))


def state(net: Net, address: str) -> str:
    found = net.json(f"-6 neigh show {address}")
    return str(found[0]["state"][0]) if found else ""


def test_a_packet_of_the_nodes_own(router: tuple[Net, str]) -> None:
    net, far = router
    poke(net, "10.2.3.4")
    wait_until(lambda: state(net, far) == "REACHABLE", what="the neighbour answers")
    made, text = explain(net, "10.2.3.4", 0)
    asked = net.json("route get 10.2.3.4")[0]
    assert made["disposition"] == "EXITS_NETWORK"
    assert made["source"] == asked["prefsrc"] == "10.1.0.1"
    assert made["next_hop"] == {"address": far, "family": "inet6", "dev": asked["dev"]}
    assert asked["via"] == {"family": "inet6", "host": far}
    assert made["route"]["dst"] == "10.2.0.0/16"
    assert made["put_by"] == "an administrator"
    assert made["neighbour"]["state"] == "REACHABLE"
    assert made["neighbour"]["lladdr"] == net.json(f"-6 neigh show {far}")[0]["lladdr"]
    assert made["device"] == {"name": "eth1", "up": True, "carrier": True, "mtu": 1500, "kind": "veth"}
    assert f"next hop   {far} (IPv6) dev eth1" in text


def test_on_link_and_local_and_forwarded(router: tuple[Net, str]) -> None:
    net, _ = router
    assert explain(net, "10.1.0.7", 0)[0]["disposition"] == "DELIVERED_TO_SUBNET"
    assert explain(net, "10.1.0.1", 0)[0]["disposition"] == "ACCEPTED"
    assert explain(net, "10.1.0.1 from 10.1.0.7 iif eth0", 0)[0]["disposition"] == "ACCEPTED"
    made, text = explain(net, "10.2.3.4 from 10.1.0.7 iif eth0", 0)
    assert made["disposition"] == "EXITS_NETWORK"
    assert (made["iif"], made["from"], made["forwarding"], made["rp_filter"]) == ("eth0", "10.1.0.7", True, 0)
    assert "comes in   eth0, forwarding on" in text


def test_forwarding_and_reverse_path(router: tuple[Net, str]) -> None:
    net, _ = router
    net.sysctl("net.ipv4.conf.eth0.forwarding", 0)
    said = fault(net, "10.2.3.4 from 10.1.0.7 iif eth0", "NULL_ROUTED")
    assert said.startswith("IPv4 forwarding is off on eth0")
    assert fault(net, "10.2.3.4 iif eth0", "NULL_ROUTED") == said
    net.sysctl("net.ipv4.conf.eth0.forwarding", 1)
    made, text = explain(net, "10.2.3.4 iif eth0", 0)
    assert (made["from"], made["from_assumed"], "from 10.1.0.2, say" in text) == ("10.1.0.2", True, True)
    assert "martian" in fault(net, "10.2.3.4 from 127.0.0.5 iif eth0", "NULL_ROUTED")
    net.sysctl("net.ipv4.conf.eth0.rp_filter", 1)
    said = fault(net, "10.2.3.4 from 198.51.100.1 iif eth0", "NULL_ROUTED")
    assert "rp_filter=1 on eth0 drops packets from 198.51.100.1: there is no way back" in said
    said = fault(net, "10.1.0.9 from 10.2.0.9 iif eth0", "NULL_ROUTED")
    assert "the way back goes out of eth1" in said
    said = fault(net, "10.2.3.4 from 10.1.0.1 iif eth0", "NULL_ROUTED")
    assert "this node's own address" in said


def test_a_neighbour_that_is_gone(router: tuple[Net, str]) -> None:
    net, _ = router
    net.ip("route replace 10.2.0.0/16 via inet6 fe80::dead dev eth1")
    poke(net, "10.2.3.4")
    assert "fe80::dead on eth1 does not answer Neighbour Discovery" in fault(net, "10.2.3.4", "NEIGHBOR_UNREACHABLE")
    wait_until(lambda: state(net, "fe80::dead") == "FAILED", timeout=10, what="the kernel gives up")
    said = fault(net, "10.2.3.4", "NEIGHBOR_UNREACHABLE")
    assert said.startswith("next hop fe80::dead on eth1 does not answer Neighbour Discovery (FAILED)")


def test_no_carrier(router: tuple[Net, str], nets: Nets) -> None:
    net, _ = router
    nets.made[-1].ip("link set eth0 down")
    wait_until(lambda: "NO-CARRIER" in net.ip("link show eth1"), what="carrier is lost")
    said = fault(net, "10.2.3.4", "NEIGHBOR_UNREACHABLE")
    assert "eth1 has no carrier, and the kernel uses the route all the same" in said
    net.sysctl("net.ipv4.conf.eth1.ignore_routes_with_linkdown", 1)
    assert "eth1 does not carry" in fault(net, "10.2.3.4", "NO_ROUTE")


@pytest.mark.parametrize("kind", ["blackhole", "unreachable", "prohibit"])
def test_null_routes(router: tuple[Net, str], kind: str) -> None:
    net, _ = router
    net.ip(f"route add {kind} 10.3.0.0/16 metric 7")
    for words in ("10.3.1.1", "10.3.1.1 from 10.1.0.7 iif eth0"):
        said = fault(net, words, "NULL_ROUTED")
        assert f"the route {kind} 10.3.0.0/16 discards it | via6 route del {kind} 10.3.0.0/16 metric 7" in said
    assert via6(f"route del {kind} 10.3.0.0/16 metric 7", netns=net)[0] == 0
    assert "via6 route add 0/0 via ADDRESS dev DEV" in fault(net, "10.3.1.1", "NO_ROUTE")


def test_no_source(router: tuple[Net, str]) -> None:
    net, _ = router
    net.ip("addr del 10.1.0.1/24 dev eth0")
    made, _ = explain(net, "10.2.3.4", 1)
    assert (made["disposition"], made["source"]) == ("EXITS_NETWORK", None)
    assert "no source address" in made["wrong"][0]["what"]
    assert "ip addr add ADDRESS/32 dev lo" in made["wrong"][0]["remedy"]
    assert "from 192.0.2.9 iif DEV" in fault(net, "10.2.3.4 from 192.0.2.9", "NO_ROUTE")


def test_ipv6_switched_off_under_an_ipv4_route(router: tuple[Net, str]) -> None:
    net, _ = router
    net.ip("-6 addr flush dev eth1")
    assert "eth1 has no IPv6 address" in fault(net, "10.2.3.4", "NEIGHBOR_UNREACHABLE")
    net.sysctl("net.ipv6.conf.eth1.disable_ipv6", 1)
    assert "IPv6 is disabled on eth1" in fault(net, "10.2.3.4", "NEIGHBOR_UNREACHABLE")


def test_rules_marks_and_ecmp(router: tuple[Net, str]) -> None:
    net, far = router
    net.ip("route add 10.2.0.0/16 via inet6 fe80::7 dev eth0 table 77")
    net.ip("rule add fwmark 0x9 lookup 77")
    made, text = explain(net, "10.2.3.4 mark 9", 0)
    assert (made["next_hop"]["address"], made["route"]["table"], made["mark"]) == ("fe80::7", "77", 9)
    assert "fwmark 0x9 lookup 77" in text
    net.ip(f"route add 10.4.0.0/16 nexthop via inet6 {far} dev eth1 nexthop via inet6 fe80::7 dev eth0")
    for host in range(1, 9):
        made, text = explain(net, f"10.4.0.{host} from 10.1.0.7 iif eth0", 0)
        asked = net.json(f"route get 10.4.0.{host} from 10.1.0.7 iif eth0")[0]
        assert made["next_hop"]["address"] == asked["via"]["host"]
        assert "one of 2 next hops" in text
    net.ip(f"nexthop add id 5 via {far} dev eth1")
    net.ip("route add 10.5.0.0/16 nhid 5 proto 46")
    made, _ = explain(net, "10.5.0.1", 0)
    assert (made["put_by"], made["next_hop"]["address"]) == ("via6 run, or via6 apply", far)


def test_path_mtu_and_ipv6(router: tuple[Net, str]) -> None:
    net, far = router
    net.ip(f"route replace 10.2.0.0/16 via inet6 {far} dev eth1 mtu 1400")
    assert explain(net, "10.2.3.4", 0)[0]["mtu"] == 1400
    made, _ = explain(net, f"{far}%eth1", 0)
    assert (made["disposition"], made["device"]["name"]) == ("DELIVERED_TO_SUBNET", "eth1")
    assert explain(net, f"{far} oif eth1", 0)[0]["disposition"] == "DELIVERED_TO_SUBNET"
    net.ip("-6 route add blackhole 2001:bad::/32")
    assert "blackhole 2001:bad::/32" in fault(net, "2001:bad::1", "NULL_ROUTED")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "an address is missing"),
        ("10.0.0.0/8", "is not an IPv4 address\n  explain takes one address"),
        ("10.0.0.1 from", "'from' lacks its value"),
        ("10.0.0.1 10.0.0.2", "is not understood"),
        ("10.0.0.1 mark x", "a number is wanted"),
        ("10.0.0.1 from 2001:db8::1", "another family"),
        ("fe80::1", "is link-local: on which link?\n  via6 explain fe80::1%eth0"),
    ],
)
def test_questions_that_are_none(router: tuple[Net, str], words: str, said: str) -> None:
    code, out, err = via6(f"explain {words}", netns=router[0])
    assert (code, out) == (2, "")
    assert said.lower() in err.lower()


def test_an_unknown_device(router: tuple[Net, str]) -> None:
    code, _, err = via6("explain 10.0.0.1 iif eth9", netns=router[0])
    assert (code, "there is no device 'eth9'" in err) == (1, True)


def test_an_ordinary_user_may_ask(router: tuple[Net, str]) -> None:
    net, _ = router

    def ask() -> int:
        os.setgroups([])
        os.setuid(65534)
        from via6.cli.main import main

        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            return main(["explain", "10.2.3.4"])

    assert net.call(ask) == 0


def test_colour_of_the_verdict(router: tuple[Net, str]) -> None:
    net, _ = router
    _, out, _ = via6("-color=always explain 10.2.3.4", netns=net)
    assert out.endswith("\033[32mEXITS_NETWORK\033[0m\n")
