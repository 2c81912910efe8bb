"""Packet filters in snapshots, against real packets."""

from __future__ import annotations

import pytest

from snapshot_support import by_script, here
from support import Net, Nets
from via6.collect import probe
from via6.observe import snapshot
from via6.observe.node import ACCEPT, DROP, UNKNOWN
from via6.observe.snapshot.firewall import CLASSES, Packets, of_packet
from via6.prefix import AF_INET, parse_address

pytestmark = pytest.mark.root


def answered(timeout_s: float, address: str = "10.0.2.2") -> bool:
    """Does it answer a ping."""
    return probe.ping_many([parse_address(address)], timeout_s=timeout_s)[0].received == 1


GOOD, BAD, MAYBE = ACCEPT, DROP, UNKNOWN
FORWARD = "add chain inet t f { type filter hook forward priority 0; }\n"
EARLY = "add chain inet t f { type filter hook prerouting priority -300; }\n"
CLOSED = "add chain inet t f { type filter hook forward priority 0; policy drop; }\n"
INPUT = "add chain inet t i { type filter hook input priority 0; policy drop; }\n"
ERRORS = "{ destination-unreachable, time-exceeded, parameter-problem }"
BABEL = "add rule inet t i ip6 saddr fe80::/10 udp dport 6696 accept\nadd rule inet t i udp dport 6696 accept\n"

FILTERS: dict[str, tuple[str, tuple[str, str, str, str, str]]] = {
    "nothing": ("", (GOOD, GOOD, GOOD, GOOD, GOOD)),
    "policy": (CLOSED, (BAD, BAD, BAD, GOOD, GOOD)),
    "icmp": (f"{FORWARD}add rule inet t f ip protocol icmp icmp type {ERRORS} drop", (MAYBE, BAD, BAD, GOOD, GOOD)),
    "bogons": (
        f"{EARLY}add rule inet t f ip saddr {{ 192.0.0.0/24, 240.0.0.0/4 }} drop",
        (MAYBE, MAYBE, BAD, GOOD, MAYBE),
    ),
    "input": (
        f"{INPUT}add rule inet t i ip6 nexthdr icmpv6 accept\nadd rule inet t i tcp dport 22 accept",
        (GOOD, BAD, BAD, BAD, MAYBE),
    ),
    "closed": (f"{INPUT}add rule inet t i ip6 nexthdr icmpv6 accept", (GOOD, BAD, BAD, BAD, BAD)),
    "closed early": (f"{EARLY}add rule inet t f ip daddr 0.0.0.0/0 drop", (BAD, BAD, BAD, GOOD, BAD)),
    "babel": (f"{INPUT}{BABEL}add rule inet t i meta l4proto icmp accept", (GOOD, GOOD, GOOD, GOOD, MAYBE)),
    "other family": (
        f"{FORWARD}add rule inet t f meta nfproto ipv6 drop\nadd rule inet t f ip6 saddr ::/0 drop",
        (GOOD, GOOD, GOOD, GOOD, GOOD),
    ),
    "jump": (
        f"add chain inet t c\nadd rule inet t c drop\n{FORWARD}add rule inet t f meta nfproto ipv4 jump c",
        (BAD, BAD, BAD, GOOD, GOOD),
    ),
    "stateful": (f"{CLOSED}add rule inet t f ct state established,related accept", (MAYBE, MAYBE, MAYBE, GOOD, GOOD)),
    "return": (
        f"add chain inet t c\nadd rule inet t c return\nadd rule inet t c drop\n{FORWARD}add rule inet t f jump c",
        (GOOD, GOOD, GOOD, GOOD, GOOD),
    ),
    "limit": (f"{FORWARD}add rule inet t f limit rate over 1000/second drop", (MAYBE, MAYBE, MAYBE, GOOD, GOOD)),
}


def through_a_router(nets: Nets) -> tuple[Net, Net]:
    """(10.0.1.2, the router that it reaches 10.0.2.2 by, from eth0 to eth1), and the ping answers."""
    a, r = nets.pair()
    b = nets.new()
    nets.veth(r, "eth1", b, "eth0")
    r.sysctl("net.ipv4.ip_forward", 1)
    for net, own, dev in ((a, "10.0.1.2/24", "eth0"), (r, "10.0.1.1/24", "eth0"), (r, "10.0.2.1/24", "eth1"),
                          (b, "10.0.2.2/24", "eth0")):  # fmt: skip
        net.ip("addr add", own, "dev", dev)
    a.ip("route add default via 10.0.1.1")
    b.ip("route add default via 10.0.2.1")
    assert a.call(answered, 5.0)  # and ARP is done
    return a, r


def test_what_comes_to_the_node_by_one_device(nets: Nets) -> None:
    a, r = through_a_router(nets)
    opened = INPUT.replace("policy drop", "policy accept")
    r.run("nft", "-f", "-", input=f'add table inet t\n{opened}add rule inet t i iifname "eth0" drop\n')
    for node in (here(r), by_script(r)):
        node = snapshot.decode(snapshot.encode(node))
        assert node.firewall is not None
        assert node.firewall.own4 == UNKNOWN
        assert {(one.into, one.out) for one in node.firewall.shut if one.packets == "own4"} == {("eth0", "")}
    assert not a.call(answered, 0.5, "10.0.1.1")
    assert a.call(answered, 0.5)


@pytest.mark.parametrize(("rules", "words"), FILTERS.values(), ids=list(FILTERS))
def test_packet_filters(nets: Nets, rules: str, words: tuple[str, str, str, str, str]) -> None:
    """The verdict, and where it is one on all forwarded packets, a packet that proves it."""
    a, r = through_a_router(nets)
    r.run("nft", "-f", "-", input=f"add table inet t\n{rules}\n")
    wanted = dict(zip(("forward4", "icmp4", "dummy4", "babel", "own4"), words, strict=True))
    for node in (here(r), by_script(r)):
        assert node.firewall is not None
        found = {name: getattr(node.firewall, name) for name in wanted}
        assert found == wanted
        assert bool(node.firewall.evidence) == (set(words[:4]) != {ACCEPT})
    for word, address in (("forward4", "10.0.2.2"), ("own4", "10.0.1.1")):
        if wanted[word] != UNKNOWN:
            assert a.call(answered, 0.5, address) == (wanted[word] == ACCEPT)


NETDEV = "add table netdev n\nadd chain netdev n c { type filter hook %s device %s priority 0; }\nadd rule netdev n c "
ONE_PACKET: dict[str, tuple[str, str]] = {
    "destination": (f"{FORWARD}add rule inet t f ip daddr 10.0.2.0/24 drop", BAD),
    "another destination": (f"{FORWARD}add rule inet t f ip daddr 10.0.3.0/24 drop", GOOD),
    "source": (f"{FORWARD}add rule inet t f ip saddr 10.0.1.2 drop", BAD),
    "devices": (f'{FORWARD}add rule inet t f iifname "eth0" oifname "eth*" drop', BAD),
    "another device": (f'{FORWARD}add rule inet t f oifname {{ "eth2", "wg*" }} drop', GOOD),
    "a set of devices": (
        f'add set inet t s {{ type ifname; elements = {{ "eth0" }}; }}\n{FORWARD}add rule inet t f iifname @s drop',
        MAYBE,
    ),
    "ingress": (NETDEV % ("ingress", "eth0") + "ip daddr 10.0.2.2 drop", BAD),
    "ingress elsewhere": (NETDEV % ("ingress", "lo") + "ip daddr 10.0.2.2 drop", GOOD),
    "egress": (NETDEV % ("egress", "eth1") + "ip daddr 10.0.2.2 drop", BAD),
    "egress elsewhere": (NETDEV % ("egress", "lo") + "drop", GOOD),
}


@pytest.mark.parametrize(("rules", "word"), ONE_PACKET.values(), ids=list(ONE_PACKET))
def test_one_packet(nets: Nets, rules: str, word: str) -> None:
    """What the chains that are kept say of a packet, and the packet."""
    a, r = through_a_router(nets)
    r.run("nft", "-f", "-", input=f"add table inet t\n{rules}\n")
    one = Packets(
        AF_INET, CLASSES["forward4"][0].hooks, -1, parse_address("10.0.1.2"), parse_address("10.0.2.2"), "eth0", "eth1"
    )
    for node in (here(r), by_script(r)):
        node = snapshot.decode(snapshot.encode(node))
        assert node.firewall is not None
        assert node.firewall.forward4 == UNKNOWN
        assert of_packet(node.firewall.filter, one)[0] == word
    if word != UNKNOWN:
        assert a.call(answered, 0.5) == (word == ACCEPT)
