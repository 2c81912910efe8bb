"""The grammar of route words, both ways."""

from __future__ import annotations

import pytest

from via6.cli.words import Devices, ip_command, parse_route
from via6.errors import USAGE, Refusal
from via6.model import IFF_LOOPBACK, IFF_UP, NH_ONLINK, Link, NextHop, Route
from via6.observe.names import TABLES, Names, parse_names
from via6.prefix import AF_INET, AF_INET6, parse_address, parse_prefix

LINKS = {
    "lo": Link(1, "lo", flags=IFF_UP | IFF_LOOPBACK),
    "eth0": Link(2, "eth0", flags=IFF_UP),
    "eth1": Link(3, "eth1", flags=IFF_UP),
}
NAMES = Names(parse_names(["# mine\n100 blue\n0x65\tgreen # too\nnonsense\n"], TABLES))


def parse(text: str, op: str = "add", family: int = 0) -> Route:
    return parse_route(op, text.split(), NAMES, Devices(LINKS), family)


def dev(index: int) -> str:
    return next(link.name for link in LINKS.values() if link.ifindex == index)


def refusal(text: str, op: str = "add", family: int = 0) -> str:
    with pytest.raises(Refusal) as caught:
        parse(text, op, family)
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.0/8 via inet6 fe80::1 dev eth0",
        "10/8 via fe80::1%eth0",
        "to 10/8 dev eth0 via fe80::1",
        "via fe80::1 dev eth0 10.0.0.0/8",
        "unicast 10/8 gw fe80::1 oif eth0",
        "to unicast 10/8 nexthop via fe80::1 dev eth0",
        "10.0.0.0/8 via inet6 fe80::1 dev eth0 linkdown",
    ],
)
def test_one_next_hop_in_many_spellings(text: str) -> None:
    route = parse(text)
    assert route.prefix == parse_prefix("10.0.0.0/8")
    assert route.next_hops == (NextHop(parse_address("fe80::1"), 2),)
    assert (route.protocol, route.scope, route.table, route.type) == (4, 0, 254, "unicast")


def test_multipath_with_and_without_the_word_nexthop() -> None:
    plain = parse("10/8 via fe80::1 dev eth0 weight 2 via 192.0.2.1 dev eth1 onlink metric 7")
    assert plain == parse("10/8 metric 7 nexthop via fe80::1 dev eth0 weight 2 nexthop via 192.0.2.1 dev eth1 onlink")
    assert plain.next_hops == (
        NextHop(parse_address("fe80::1"), 2, 2),
        NextHop(parse_address("192.0.2.1"), 3, 1, NH_ONLINK),
    )


def test_everything_else_that_a_route_has() -> None:
    route = parse(
        "10/8 via fe80::1 dev eth0 src 10.1.0.1 metric 0x10 table blue proto 99 tos 4 mtu lock 1400 advmss 1300 rtt 2ms"
    )
    assert route.src == parse_address("10.1.0.1")
    assert (route.metric, route.table, route.protocol, route.tos) == (16, 100, 99, 4)
    assert route.metrics == ((1, 1 << 2), (2, 1400), (4, 16), (8, 1300))
    assert parse("10/8 dev eth0 table green proto via6").table == 0x65
    assert parse("10/8 dev eth0 proto via6").protocol == 46


@pytest.mark.parametrize(
    ("text", "op", "scope", "kind"),
    [
        ("10/8 dev eth0", "add", 253, "unicast"),
        ("10/8 via fe80::1 dev eth0", "add", 0, "unicast"),
        ("10/8", "delete", 255, "unspec"),
        ("blackhole 10/8", "add", 0, "blackhole"),
        ("local 10.0.0.1", "add", 254, "local"),
        ("broadcast 10.255.255.255 dev eth0", "add", 253, "broadcast"),
        ("2001:db8::/32 dev eth0", "add", 0, "unicast"),
        ("10/8 dev eth0 scope host", "add", 254, "unicast"),
    ],
)
def test_scope_and_type_as_ip_fills_them_in(text: str, op: str, scope: int, kind: str) -> None:
    route = parse(text if kind != "local" else f"{text} dev lo", op)
    assert (route.scope, route.type) == (scope, kind)


def test_a_bare_default_is_never_guessed() -> None:
    assert "either family" in refusal("default via fe80::1 dev eth0")
    assert parse("default via inet6 fe80::1 dev eth0").family == AF_INET
    assert parse("default via fe80::1 dev eth0 src 10.0.0.1").family == AF_INET
    assert parse("default via fe80::1 dev eth0", family=AF_INET6).family == AF_INET6
    assert parse("default via fe80::1 dev eth0", family=AF_INET).family == AF_INET
    assert parse("default via 192.0.2.1").family == AF_INET
    assert parse("default dev eth0").family == AF_INET
    assert parse("0/0 via fe80::1 dev eth0").prefix == parse_prefix("0.0.0.0/0")
    assert parse("::/0 via fe80::1 dev eth0").prefix == parse_prefix("::/0")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("10.0.0.1/8 via fe80::1 dev eth0", "host bits set: write 10.0.0.0/8"),
        ("10/8 via ::ffff:192.0.2.1 dev eth0", "IPv4-mapped"),
        ("10/8 via fe80::1", "dev eth0   (or dev eth1)"),
        ("10/8 via fe80::1 dev eth9", "devices: eth1, eth0"),
        ("2001:db8::/32 via 192.0.2.1", "an IPv6 route cannot have an IPv4 next hop"),
        ("10/8 via ff02::1 dev eth0", "not the address of one machine"),
        ("10/8 via :: dev eth0", "not the address of one machine"),
        ("10/8", "needs a next hop"),
        ("", "no destination"),
        ("10/8 via", "'via' lacks its value"),
        ("10/8 via inet 2001:db8::1", "of the other family"),
        ("10/8 via 300.1.1.1", "is not an IPv4 address"),
        ("10/8 via fe80::1%eth0 dev eth1", "two devices"),
        ("10/8 dev eth0 metric x", "a number from 0 to 4294967295"),
        ("10/8 dev eth0 metric 1 metric 2", "said twice"),
        ("10/8 dev eth0 weight 0", "a number from 1 to 256"),
        ("10/8 dev eth0 table nosuch", "there is no table 'nosuch'"),
        ("10/8 dev eth0 proto nosuch", "there is no protocol 'nosuch'"),
        ("10/8 dev eth0 src 2001:db8::1", "of another family"),
        ("10/8 dev eth0 mtu big", "a number is wanted"),
        ("10/8 dev eth0 frobnicate", "is not understood here"),
        ("10/8 encap mpls 16 dev eth0", "does not know 'encap'"),
        ("blackhole 10/8 via fe80::1 dev eth0", "has no next hop"),
        ("10/8 nhid 3 dev eth0", "exclude each other"),
        ("10/99 dev eth0", "from 0 to 32"),
    ],
)
def test_refusals_name_the_fault(text: str, words: str) -> None:
    assert words in refusal(text)


def test_refusals_of_form_are_usage_errors() -> None:
    with pytest.raises(Refusal) as caught:
        parse("10/8 via")
    assert caught.value.code == USAGE
    assert "is no IPv6 prefix" in refusal("10/8 dev eth0", family=AF_INET6)


@pytest.mark.parametrize(
    ("text", "op", "command"),
    [
        (
            "10/8 via fe80::1%eth0 src 10.0.0.1 mtu lock 1400",
            "add",
            "ip -4 route add 10.0.0.0/8 via inet6 fe80::1 dev eth0 proto static src 10.0.0.1 mtu lock 1400",
        ),
        (
            "10/8 via fe80::1 dev eth0 weight 2 via fe80::2 dev eth1 metric 5",
            "replace",
            (
                "ip -4 route replace 10.0.0.0/8 proto static metric 5 nexthop via inet6 fe80::1 dev eth0 weight 2"
                " nexthop via inet6 fe80::2 dev eth1 weight 1"
            ),
        ),
        ("blackhole 10/8 table blue", "add", "ip -4 route add blackhole 10.0.0.0/8 proto static table blue"),
        ("10/8", "delete", "ip -4 route del 10.0.0.0/8"),
        ("::/0 via fe80::1 dev eth0", "add", "ip -6 route add ::/0 via fe80::1 dev eth0 proto static"),
        ("10/8 dev eth0 tos 4", "add", "ip -4 route add 10.0.0.0/8 tos 0x04 dev eth0 proto static"),
        ("10/8 dev eth0 scope host", "add", "ip -4 route add 10.0.0.0/8 dev eth0 proto static scope host"),
        ("10/8 nhid 4", "add", "ip -4 route add 10.0.0.0/8 nhid 4 proto static"),
    ],
)
def test_the_ip_command_says_the_same(text: str, op: str, command: str) -> None:
    route = parse(text, op)
    assert ip_command(op, route, NAMES, dev) == command
    words = command.split()
    assert parse_route(op, words[4:], NAMES, Devices(LINKS), route.family) == route


def test_an_unknown_device_without_a_near_one() -> None:
    with pytest.raises(Refusal) as caught:
        Devices({}).index("eth0")
    assert caught.value.remedy == ""
    with pytest.raises(Refusal) as caught:
        Devices(LINKS).index("wlp59s0")
    assert caught.value.remedy == "devices: eth0, eth1"
