"""Where nothing is wrong the doctor finds nothing: many networks, many ways to set up a machine."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from doctor_support import Line, batch, told
from support import PREFIX, ROOT, Net, Nets, link_local, run, via6, wait_until
from via6.collect.probe import ping_many
from via6.lab import state
from via6.prefix import parse_address

pytestmark = pytest.mark.root


# --- labs ----------------------------------------------------------------------------------------------------------


class Up:
    """A lab that is up, every host of which reaches every other."""

    def __init__(self, file: Path, *words: str) -> None:
        code, _, err = via6("lab", "up", *words, str(file), timeout=120)
        assert code == 0, err
        self.name = file.stem
        found = state.read(self.name)
        assert found is not None
        self.nodes = {node: Net(netns.rpartition("/")[2]) for node, netns in found.nodes.items()}

    def hosts(self) -> dict[str, str]:
        """The address of each node that has one network and no neighbour on an IPv6 link."""
        found = {}
        for node, net in self.nodes.items():
            rows = net.json("-4 route show default")
            local = [a["local"] for link in net.json("-4 addr") for a in link["addr_info"] if a["scope"] == "global"]
            if rows and len(local) == 1:
                found[node] = local[0]
        return found

    def reaches_all(self) -> bool:
        hosts = self.hosts()
        for node in hosts:
            targets = [parse_address(address) for other, address in hosts.items() if other != node]
            with self.nodes[node].inside():
                if any(not ping.received for ping in ping_many(targets, timeout_s=0.3)):
                    return False
        return len(hosts) > 1

    def down(self) -> None:
        with state.lock():
            for one in state.read_all():
                if one.name == self.name:
                    state.remove(one)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    made: list[Up] = []

    def make(text: str, *words: str) -> Up:
        name = f"{PREFIX}{len(made)}h"
        file = tmp_path / f"{name}.toml"
        file.write_text(text)
        one = Up(file, *words)
        made.append(one)
        wait_until(one.reaches_all, 60, every=0.2, what="all reach all")
        return one

    yield make
    for one in made:
        one.down()


def findings(*words: str) -> list[str]:
    code, out, err = via6("doctor", "-j", *words)
    found: list[dict[str, Any]] = json.loads(out)
    assert (code == 0) == (not found), err
    return [f"{one['id']}: {one['title']}" for one in found]


def healthy(lab: Up) -> None:
    """Each node for itself, and all of them together, and on paper."""
    for net in lab.nodes.values():
        assert findings_at(net) == []
    assert findings("--lab", lab.name) == []


def findings_at(net: Net) -> list[str]:
    code, out, _ = via6("doctor", "-j", netns=net)
    assert code in (0, 3)
    return [f"{one['id']}: {one['title']}" for one in json.loads(out)]


def example(name: str) -> str:
    lines = (ROOT / "examples/labs" / f"{name}.toml").read_text().splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("name ="))


@pytest.mark.parametrize(("name", "software"), [
    ("triangle", "via6"), ("triangle", "static"), ("triangle", "babeld"), ("diamond", "via6"),
    ("diamond", "via6-static"), ("line10", "via6"), ("line10", "static"),
])  # fmt: skip
def test_labs(up: Callable[..., Up], name: str, software: str, tmp_path: Path) -> None:
    lab = up(example(name), "--software", software)
    healthy(lab)
    assert via6("snapshot", "--lab", lab.name, "-o", f"{tmp_path}/paper/")[0] == 0
    assert findings("--snapshots", f"{tmp_path}/paper") == []


def drawn(seed: int) -> str:
    """A connected graph of 4 to 8 routers: some with an island, some with an address, some with neither."""
    chance = random.Random(seed)
    names = [f"r{number}" for number in range(1, chance.randint(4, 8) + 1)]
    links = {(names[chance.randrange(at)], names[at]) for at in range(1, len(names))}
    for _ in range(chance.randint(0, len(names))):
        a, b = sorted(chance.sample(names, 2))
        links.add((a, b))
    leaves = [name for name in names if sum(name in link for link in links) == 1]
    text = "[lab]\n"
    for number, name in enumerate(names, 1):
        text += f"[router.{name}]\n"
        if name in leaves or name == "r1" or chance.random() < 0.5:
            text += f'lan = "10.{number}.0.0/24"\n'
        if chance.random() < 0.5:
            text += f'address = "10.255.0.{number}"\n'
    for a, b in sorted(links):
        text += f'[[link]]\nends = ["{a}", "{b}"]\ncost = {chance.randint(1, 3)}\n'
    return text


@pytest.mark.parametrize("seed", range(1, 7))
def test_networks_that_nobody_has_drawn(up: Callable[..., Up], seed: int) -> None:
    software = ("via6", "static", "via6,babeld", "via6-static")[seed % 4]
    healthy(up(drawn(seed), "--software", software, "--seed", str(seed)))


# --- machines ------------------------------------------------------------------------------------------------------


def through(text: str, node: str = "r1") -> Callable[[Line], None]:
    """`ip` commands at a node; WEST is r2's link-local address towards r1."""

    def work(line: Line) -> None:
        west = link_local(line["r2"], "west")
        batch(line[node], *(part.strip().replace("WEST", west) for part in text.split(";")))

    return work


def sysctl(node: str, key: str, value: int) -> Callable[[Line], None]:
    return lambda line: line[node].sysctl(key, value)


def all_of(*works: Callable[[Line], None]) -> Callable[[Line], None]:
    def work(line: Line) -> None:
        for one in works:
            one(line)

    return work


def nft(rules: str, node: str = "r2") -> Callable[[Line], None]:
    return lambda line: run("ip", "netns", "exec", line[node].name, "nft", "-f", "-", input=rules) and None


DEFAULTS = all_of(
    through("route add 0.0.0.0/0 via inet6 WEST dev east"), sysctl("r1", "net/ipv4/conf/all/rp_filter", 2)
)
STATEFUL = """table inet filter {
 chain input {
  type filter hook input priority filter; policy drop;
  ct state established,related accept
  iif lo accept
  icmp type { echo-request, destination-unreachable, time-exceeded, parameter-problem } accept
  ip6 nexthdr icmpv6 accept
  tcp dport 22 accept
  ip6 saddr fe80::/10 udp dport 6696 accept
 }
 chain forward {
  type filter hook forward priority filter; policy drop;
  ct state established,related accept
  iifname { "west", "east" } oifname { "west", "east" } accept
 }
}
"""
DOCKER = "link add docker0 type bridge; addr add 172.17.0.1/16 dev docker0; link set docker0 up"

MACHINES: dict[str, Callable[[Line], Any]] = {
    "two ways": Line.triangle,
    "a router without any IPv4 address": through("addr del 10.255.0.2/32 dev lo", "r2"),
    "the default of distributions, with a default route": DEFAULTS,
    "strict filters where ways are symmetric": all_of(
        through("route add 0.0.0.0/0 via inet6 WEST dev east"), sysctl("r1", "net/ipv4/conf/east/rp_filter", 1)),
    "a firewall with states": nft(STATEFUL),
    "a bogon filter with RFC 7600 in mind": nft(
        "table ip b {\n chain c {\n type filter hook forward priority 0;\n ip saddr 192.0.0.8 accept\n"
        " ip saddr 192.0.0.0/24 drop\n }\n}\n"),
    "containers": through(DOCKER),
    "a filter on another interface than those in use": all_of(
        through("link add wan type veth peer name naw; link set naw up; link set wan up", "r2"),
        nft("table netdev t {\n chain c {\n type filter hook ingress device wan priority 0;"
            " meta protocol ip drop\n }\n}\n"
            "table inet u {\n chain c {\n type filter hook forward priority 0; iifname wan drop\n }\n}\n")),
    "a link that is down, and one nobody uses": through(
        "link add spare type veth peer name eraps; addr add 10.77.0.1/24 dev spare;"
        "link add idle type veth peer name eldi; link set idle up mtu 1000"),
    "null routes of aggregates": through(
        "route add 0.0.0.0/0 via inet6 WEST dev east; route add blackhole 10.0.0.0/8;"
        "route add unreachable 172.16.0.0/12"),
    "policy routing": through(
        "route add unreachable default table 77; rule add from 10.66.0.0/16 lookup 77 priority 100;"
        "rule add fwmark 7 lookup 77 priority 101; rule add iif lo to 10.67.0.0/16 lookup 77 priority 102"),
    "a table of its own for the management": through(
        "route add 192.0.2.0/24 dev lan table 99; rule add from 192.0.2.0/24 lookup 99;"
        "rule add to 192.0.2.0/24 lookup 99"),
    "nexthop objects": through(
        "nexthop add id 7 via WEST dev east; route del 10.3.0.0/24; route add 10.3.0.0/24 nhid 7 proto static"),
    "floating static routes": through("route add 10.3.0.0/24 via inet6 WEST dev east proto static metric 500"),
    "a host with two networks": all_of(
        through("link add wan type veth peer name naw; link set naw up; addr add 198.51.100.2/32 dev wan;"
                "link set wan up;"
                "route add 198.51.100.1 dev wan; route add 203.0.113.0/24 via 198.51.100.1", "h1"),
        sysctl("h1", "net/ipv4/ip_forward", 0)),
    "a host with another way out": through(
        "link add wan type veth peer name naw; link set naw up; addr add 198.51.100.2/24 dev wan; link set wan up;"
        "route replace default via 198.51.100.1; route add 10.0.0.0/8 via 10.1.0.1", "h1"),
    "an IPv6 next hop that is global": all_of(
        through("addr add 2001:db8:12::2/64 dev west nodad", "r2"),
        through("addr add 2001:db8:12::1/64 dev east nodad;"
                "route replace 10.3.0.0/24 via inet6 2001:db8:12::2 dev east")),
    "IPv4 at both ends of a link": all_of(
        through("addr add 10.12.0.1/30 dev east", "r1"),
        through("addr add 10.12.0.2/30 dev west", "r2"),
    ),
    "a network of the link, routed as well": through(
        "route add 10.1.0.0/24 via inet6 WEST dev east metric 900 proto 42"
    ),
    "few ICMP errors, within reason": sysctl("r2", "net/ipv4/icmp_ratelimit", 2000),
    "IPv6 off where nobody needs it": sysctl("r1", "net/ipv6/conf/lan/disable_ipv6", 1),
    "IPv6 forwarding, and none": sysctl("r2", "net/ipv6/conf/all/forwarding", 1),
}  # fmt: skip


ALONE = ("a network of the link, routed as well",)
"""Well at its node; the whole network has no route to what is added."""


@pytest.mark.parametrize("name", MACHINES)
def test_machines(nets: Nets, name: str) -> None:
    line = Line(nets)
    MACHINES[name](line)
    assert line.ping()
    assert [told(line.look(node)) for node in line.nodes] == [[]] * len(line.nodes)
    for _ in range(2):
        line.ping("h3", "10.1.0.10")
    if name not in ALONE:
        assert told(line.look_at_all()) == []


def test_empty_namespaces_and_hosts(nets: Nets) -> None:
    assert findings_at(nets.new()) == []
    a, b = nets.pair()
    batch(a, "addr add 192.0.2.1/24 dev eth0", "route add default via 192.0.2.2")
    batch(b, "addr add 192.0.2.2/24 dev eth0")
    assert findings_at(a) == findings_at(b) == []
