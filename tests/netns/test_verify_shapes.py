"""What verify says of packets, held against kernels, on networks of other shapes than the lab's: switches with several
routers and hosts on them, bridges, IPv4 and IPv6 next hops side by side, interfaces numbered alike everywhere, several
addresses on each, nexthop objects, policy routing, packet filters, and faults in all of them. Snapshots are whole ones,
as `via6 snapshot` makes them; a UDP packet is sent for every pair of addresses.

More seeds by hand: PYTHONPATH=tests python tests/netns/test_verify_shapes.py FIRST LAST
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support import in_sandbox, wait_until
from verify_packets import pairs, send
from via6.cli.snapshot import here
from via6.kernel.netns import setns
from via6.observe import snapshot
from via6.observe.node import Node
from via6.observe.verify import words
from via6.observe.verify.check import Checker
from via6.observe.verify.fates import Walker
from via6.observe.verify.network import Network
from via6.observe.verify.pairs import Pairs
from via6.observe.verify.trace import Tracer
from via6.prefix import format_address

pytestmark = pytest.mark.root

SEEDS = range(1, 9)


def ip(node: str, line: str, check: bool = False) -> bool:
    done = subprocess.run(["ip", "-n", node, *line.split()], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"ip -n {node} {line}: {done.stderr}")
    return not done.returncode


@dataclass
class Port:
    """An end of a link: `addresses` are its IPv4 ones, ADDRESS/LENGTH."""

    node: str
    device: str
    link_local: str = ""
    addresses: list[str] = field(default_factory=list)


@dataclass
class Segment:
    """A wire between two, or a switch; `subnet` is empty where nobody has an IPv4 address."""

    ports: list[Port]
    subnet: str = ""


class World:
    """A random network in namespaces. Made like what `verify_packets.send` takes for a lab."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.routers = [f"r{n}" for n in range(1, chance.randint(3, 6) + 1)]
        self.hosts: list[str] = []
        self.segments: list[Segment] = []
        self.islands: dict[str, str] = {}
        """Prefix to the router behind which it is."""
        self.count: dict[str, int] = {}
        self.told: list[str] = []
        self.topology = SimpleNamespace(nodes=[])

    @contextlib.contextmanager
    def inside(self, node: str) -> Iterator[None]:
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{node}") as there:
            setns(there.fileno())
            try:
                yield
            finally:
                setns(home.fileno())

    def sysctl(self, node: str, name: str, value: int) -> None:
        with self.inside(node), contextlib.suppress(OSError):
            Path(f"/proc/sys/net/{name}").write_text(str(value))

    # --- building ----------------------------------------------------------------------------------------------------

    def space(self, name: str, forwards: bool) -> None:
        subprocess.run(["ip", "netns", "add", name], check=True)
        for scope in ("all", "default"):
            self.sysctl(name, f"ipv6/conf/{scope}/accept_dad", 0)
        ip(name, "link set lo up", True)
        self.sysctl(name, "ipv4/ip_forward", int(forwards))
        for family in ("ipv4", "ipv6"):
            self.sysctl(name, f"{family}/neigh/default/retrans_time_ms", 100)
        self.topology.nodes.append(name)

    def device(self, node: str) -> str:
        self.count[node] = self.count.get(node, -1) + 1
        return f"eth{self.count[node]}"

    def wire(self, a: str, b: str) -> Segment:
        one, other = Port(a, self.device(a)), Port(b, self.device(b))
        line = f"link add {one.device} type veth peer name {other.device} netns {b}"
        ip(a, line, True)
        return self._up([one, other])

    def switch(self, nodes: list[str]) -> Segment:
        """A bridge: in a namespace that no snapshot has."""
        name = f"sw{len(self.segments)}"
        subprocess.run(["ip", "netns", "add", name], check=True)
        ip(name, "link add sw type bridge mcast_snooping 0", True)
        ip(name, "link set sw up", True)
        ports = []
        for number, node in enumerate(nodes):
            ports.append(Port(node, self.device(node)))
            ip(name, f"link add p{number} type veth peer name {ports[-1].device} netns {node}", True)
            ip(name, f"link set p{number} master sw up", True)
        return self._up(ports)

    def _up(self, ports: list[Port]) -> Segment:
        for port in ports:
            ip(port.node, f"link set {port.device} up", True)
        self.segments.append(Segment(ports))
        return self.segments[-1]

    def number(self, segment: Segment, subnet: str, hosts: list[int]) -> None:
        """Gives all ends an IPv4 address: subnet is `10.1.0.`, with a /24 behind it."""
        segment.subnet = f"{subnet}0/24"
        for port, host in zip(segment.ports, hosts, strict=False):
            self.address(port, f"{subnet}{host}/24")

    def address(self, port: Port, address: str) -> None:
        ip(port.node, f"address add {address} dev {port.device}", True)
        port.addresses.append(address)

    def island(self, number: int, router: str) -> None:
        """Hosts behind a router: on a wire, on a switch, or on a bridge of the router's own."""
        hosts = [f"h{number}{letter}" for letter in "ab"[: self.chance.randint(1, 2)]]
        for host in hosts:
            self.space(host, False)
        self.hosts += hosts
        kind = self.chance.choice(("wire", "switch", "bridge"))
        if kind == "wire":
            segments = [self.wire(router, host) for host in hosts[:1]]
            self.number(segments[0], f"10.{number}.0.", [1, 10])
            hosts = hosts[:1]
        elif kind == "switch":
            self.number(self.switch([router, *hosts]), f"10.{number}.0.", [1, 10, 11])
        else:
            ip(router, "link add br0 type bridge mcast_snooping 0", True)
            ip(router, "link set br0 up", True)
            ports = [Port(router, "br0")]
            for host in hosts:
                segment = self.wire(router, host)
                ip(router, f"link set {segment.ports[0].device} master br0", True)
                self.segments.remove(segment)
                ports.append(segment.ports[1])
            self.segments.append(Segment(ports))
            self.number(self.segments[-1], f"10.{number}.0.", [1, 10, 11])
        self.islands[f"10.{number}.0.0/24"] = router
        for host in hosts:
            ip(host, f"route add default via 10.{number}.0.1", True)

    def build(self) -> None:
        for router in self.routers:
            self.space(router, True)
        if self.chance.random() < 0.5:
            ip("r1", "link add spare type veth peer name spare2", True)  # so that not all numbers are alike
        backbone: list[Segment] = []
        rest = self.routers[1:]
        linked = ["r1"]
        while rest:
            size = self.chance.choice((1, 1, 1, 2))
            some, rest = rest[:size], rest[size:]
            near = self.chance.choice(linked)
            made = self.wire(near, some[0]) if len(some) == 1 else self.switch([near, *some])
            backbone.append(made)
            linked += some
        for _ in range(self.chance.randint(1, 2)):
            a, b = self.chance.sample(self.routers, 2)
            backbone.append(self.wire(a, b) if self.chance.random() < 0.7 else self.switch([a, b]))
        for number, segment in enumerate(backbone):
            if self.chance.random() < 0.4:
                self.number(segment, f"172.16.{number}.", [1, 2, 3])
        for number, router in enumerate(self.routers, 1):
            if number < 3 or self.chance.random() < 0.7:
                self.island(number, router)
            if self.chance.random() < 0.4:
                ip(router, f"address add 10.255.0.{number}/32 dev lo", True)
                self.islands[f"10.255.0.{number}/32"] = router
        for segment in self.segments:
            for port in segment.ports:
                port.link_local = self._link_local(port)
        for segment in self.chance.sample(self.segments, 2):
            port = self.chance.choice(segment.ports)
            self.address(port, f"192.168.{self.chance.randint(1, 3)}.{self.chance.randint(1, 200)}/32")
        self._routes()

    def _link_local(self, port: Port) -> str:
        def usable() -> str:
            with self.inside(port.node):
                told = Path("/proc/thread-self/net/if_inet6").read_text()
            for octets, _, _, scope, flags, device in map(str.split, told.splitlines()):
                if device == port.device and scope == "20" and not int(flags, 16) & 0x40:
                    return ":".join(octets[at : at + 4] for at in range(0, 32, 4))
            return ""

        return str(wait_until(usable, what=f"a link-local address of {port}"))

    def neighbours(self, router: str) -> list[tuple[str, Port, Port]]:
        """(router there, own end, its end)."""
        return [
            (far.node, near, far)
            for segment in self.segments
            for near in segment.ports
            for far in segment.ports
            if near.node == router and far.node != router and far.node in self.routers
        ]

    def hop(self, near: Port, far: Port) -> str:
        """The words for a next hop: IPv4 where there is one, or IPv6."""
        shared = [a.partition("/")[0] for a in far.addresses if not a.startswith("192.168")]
        if shared and near.addresses and self.chance.random() < 0.5:
            return f"via {shared[0]} dev {near.device}"
        return f"via inet6 {far.link_local} dev {near.device}"

    def _routes(self) -> None:
        prefixes = dict(self.islands)
        for segment in self.segments:
            if segment.subnet.startswith("172"):
                prefixes[segment.subnet] = segment.ports[0].node
        objects: dict[str, int] = {}
        for router in self.routers:
            first = {router: ""}
            queue = deque([router])
            while queue:
                at = queue.popleft()
                near = self.neighbours(at)
                self.chance.shuffle(near)
                for there, own, its in near:
                    if there not in first:
                        first[there] = first[at] or self.hop(own, its)
                        queue.append(there)
            for prefix, where in prefixes.items():
                if not first.get(where):
                    continue
                hop = first[where]
                if self.chance.random() < 0.3:
                    key = f"{router} {hop}"
                    if key not in objects:
                        objects[key] = len(objects) + 1
                        ip(router, f"nexthop add id {objects[key]} {hop.replace('inet6 ', '')}", True)
                    ip(router, f"route add {prefix} nhid {objects[key]}")
                else:
                    ip(router, f"-4 route add {prefix} {hop}")

    # --- breaking ----------------------------------------------------------------------------------------------------

    def any_port(self) -> tuple[Segment, Port]:
        segment = self.chance.choice(self.segments)
        return segment, self.chance.choice(segment.ports)

    def some_prefix(self) -> str:
        chosen = self.chance.choice(list(self.islands))
        head = chosen.rpartition(".")[0]
        return self.chance.choice((chosen, chosen, chosen, f"{head}.0/25", f"{head}.10/32", "10.0.0.0/8", "0.0.0.0/0"))

    def some_hop(self, router: str) -> str:
        near = self.neighbours(router)
        if not near:
            return "dev lo"
        _, own, its = self.chance.choice(near)
        roll = self.chance.random()
        if roll < 0.1:
            return f"dev {own.device}"
        if roll < 0.2:
            return f"via inet6 fe80::dead dev {own.device}"
        if roll < 0.3:
            _, its = self.any_port()  # somebody who is perhaps on another link
            return f"via inet6 {its.link_local} dev {own.device}"
        if roll < 0.35:
            return f"via 172.16.0.77 dev {own.device} onlink"
        return self.hop(own, its)

    def do(self, node: str, line: str) -> None:
        if ip(node, line):
            self.told.append(f"{node}: ip {line}")

    def set(self, node: str, name: str, value: int) -> None:
        self.told.append(f"{node}: {name}={value}")
        self.sysctl(node, name, value)

    def some_device(self, node: str) -> str:
        return self.chance.choice([p.device for s in self.segments for p in s.ports if p.node == node] + ["all"])

    def break_route(self) -> None:
        router = self.chance.choice(self.routers)
        prefix = self.some_prefix()
        kind = self.chance.choice(("del", "replace", "discard", "multi", "metric", "local", "group", "tos", "default"))
        if kind == "del":
            self.do(router, f"route del {prefix}")
        elif kind == "replace":
            self.do(router, f"-4 route replace {prefix} {self.some_hop(router)}")
        elif kind == "discard":
            word = self.chance.choice(("blackhole", "unreachable", "prohibit", "throw"))
            self.do(router, f"route replace {word} {prefix}")
        elif kind == "multi":
            hops = " ".join(f"nexthop {self.some_hop(router)}" for _ in range(self.chance.randint(2, 3)))
            self.do(router, f"-4 route replace {prefix} {hops}")
        elif kind == "metric":
            self.do(router, f"-4 route append {prefix} {self.some_hop(router)} metric {self.chance.choice((0, 5))}")
        elif kind == "local":
            self.do(router, f"route add local {prefix} dev lo table {self.chance.choice(('local', 'main'))}")
        elif kind == "tos":
            self.do(router, f"-4 route add {prefix} {self.some_hop(router)} tos 0x10")
        elif kind == "default":
            self.do(router, f"-4 route add {prefix} {self.some_hop(router)} table default")
        else:
            for number in (101, 102):
                self.do(router, f"nexthop add id {number} {self.some_hop(router).replace('inet6 ', '')}")
            self.do(router, "nexthop add id 103 blackhole")
            self.do(router, f"nexthop add id 110 group 101{self.chance.choice(('', '/102'))}")
            self.do(router, f"route replace {prefix} nhid {self.chance.choice((110, 101, 103))}")

    def break_rule(self) -> None:
        router = self.chance.choice(self.routers)
        self.do(router, f"-4 route add {self.some_prefix()} {self.some_hop(router)} table 77")
        if self.chance.random() < 0.3:
            self.do(router, f"route add throw {self.some_prefix()} table 77")
        selector = self.chance.choice((
            f"to {self.some_prefix()}", f"not to {self.some_prefix()}", f"from {self.some_prefix()}", "all",
            f"iif {self.some_device(router)}", f"oif {self.some_device(router)}", "fwmark 1", "fwmark 0x0/0xff",
            "iif lo", "ipproto tcp", "tos 0x10", "iif nowhere", f"from {self.some_prefix()} to {self.some_prefix()}",
        ))  # fmt: skip
        what = self.chance.choice((
            "lookup 77", "lookup 77", "lookup 77", "lookup 77 suppress_prefixlength 0", "blackhole", "prohibit",
            "unreachable", "goto 32766", "lookup 78", "nop",
        ))  # fmt: skip
        priority = self.chance.choice((0, 10, 100, 32766, 32767, 40000))
        self.do(router, f"rule add priority {priority} {selector} {what}")
        if self.chance.random() < 0.15:
            self.do(router, "rule add priority 200 lookup local")
            self.do(router, "rule del priority 0 lookup local")

    def break_filter(self) -> None:
        node = self.chance.choice(self.routers)
        device = self.some_device(node).replace("all", "eth0")
        one, other = self.some_prefix(), self.some_prefix()
        tests = self.chance.choice((
            "", f"ip daddr {one}", f"ip saddr {one}", f"ip saddr {one} ip daddr {other}", f'iifname "{device}"',
            f'oifname "{device}"', f'iifname "{device}" ip daddr {one}', "ip protocol udp", "udp dport 33600",
            "tcp dport 22", "ct state invalid", "meta nfproto ipv4", "ip6 daddr fe80::/10", f"ip daddr != {one}",
            "icmp type echo-request", "meta l4proto { tcp, udp }", f"ip daddr {{ {one}, 10.99.0.0/16 }}",
        ))  # fmt: skip
        verdict = self.chance.choice(("drop", "drop", "accept", "reject", "counter drop", "jump more"))
        policy = self.chance.choice(("accept", "accept", "accept", "drop"))
        hook = self.chance.choice(("forward", "forward", "forward", "postrouting", "prerouting"))
        family = self.chance.choice(("inet", "ip"))
        if (family == "ip" and "ip6" in tests) or (hook != "forward" and (verdict == "reject" or "oifname" in tests)):
            return
        if hook == "prerouting":
            policy = "accept"
        text = (
            f"table {family} t{len(self.told)} {{ chain more {{ ip daddr {one} drop; }} "
            f"chain f {{ type filter hook {hook} priority {self.chance.randint(0, 1)}; policy {policy}; "
            f"{tests} {verdict}; }} }}"
        )
        with self.inside(node):
            done = subprocess.run(["nft", "-f", "-"], input=text, text=True, capture_output=True, check=False)
        if not done.returncode:
            self.told.append(f"{node}: nft {text}")

    def break_link(self) -> None:
        segment, port = self.any_port()
        kind = self.chance.choice(("down", "down", "ignore", "ipv6", "address", "four", "mtu", "noarp", "other"))
        if kind in ("down", "ignore"):
            if kind == "ignore":
                for one in segment.ports:
                    if self.chance.random() < 0.5:
                        self.set(one.node, f"ipv4/conf/{one.device}/ignore_routes_with_linkdown", 1)
            self.do(port.node, f"link set {port.device} down")
            time.sleep(0.2)
        elif kind == "ipv6":
            self.set(port.node, f"ipv6/conf/{port.device}/disable_ipv6", 1)
        elif kind == "address":
            self.do(port.node, f"address del {port.link_local}/64 dev {port.device}")
        elif kind == "four" and port.addresses:
            self.do(port.node, f"address del {port.addresses[0]} dev {port.device}")
        elif kind == "other" and port.addresses:
            moved = port.addresses[0].rpartition(".")[0]
            self.do(port.node, f"address add {moved}.{self.chance.randint(20, 99)}/{self.chance.choice((24, 25, 32))}"
                               f" dev {port.device}")  # fmt: skip
        elif kind == "mtu":
            self.do(port.node, f"link set {port.device} mtu {self.chance.choice((1200, 1400))}")
        elif kind == "noarp":
            self.do(port.node, f"link set {port.device} arp off")

    def break_neighbour(self) -> None:
        segment, port = self.any_port()
        far = self.chance.choice(segment.ports)
        if far is port:
            return
        address = self.chance.choice([far.link_local, *(a.partition("/")[0] for a in far.addresses)])
        how = self.chance.choice(("lladdr 02:00:00:00:00:99 nud permanent", "lladdr 02:00:00:00:00:99 nud stale",
                                  "nud failed"))  # fmt: skip
        self.do(port.node, f"neighbour replace {address} dev {port.device} {how}")

    def break_sysctl(self) -> None:
        node = self.chance.choice((*self.routers, *self.routers, *self.hosts))
        name = self.chance.choice(("forwarding", "forwarding", "rp_filter", "rp_filter", "rp_filter", "accept_local"))
        value = self.chance.choice((1, 1, 2)) if name == "rp_filter" else int(name == "accept_local")
        self.set(node, f"ipv4/conf/{self.some_device(node)}/{name}", value)

    def breaks(self) -> None:
        kinds = (self.break_route,) * 5 + (self.break_rule,) * 2 + (self.break_filter,) * 2 + (self.break_link,) * 2
        every = (*kinds, self.break_neighbour, self.break_sysctl, self.break_sysctl)
        for _ in range(self.chance.randint(0, 5)):
            self.chance.choice(every)()


# --- predicted and real ----------------------------------------------------------------------------------------------


@dataclass
class Result:
    told: list[str]
    wrong: list[str] = field(default_factory=list)
    fates: dict[str, int] = field(default_factory=dict)
    whys: dict[str, int] = field(default_factory=dict)
    pairs: int = 0
    either: int = 0


def read(world: World, name: str) -> Node:
    """As a file would hold it."""
    with world.inside(name):
        return snapshot.decode(snapshot.encode(here(name)))


def examine(seed: int) -> Result:
    chance = random.Random(seed)
    world = World(chance)
    world.build()
    if chance.random() < 0.3:
        some = [read(world, name) for name in world.topology.nodes]
        send(world, pairs(some), set(range(len(pairs(some)))))  # type: ignore[arg-type]
        world.told.append("first all packets are sent once")
    world.breaks()
    time.sleep(0.3)
    nodes = [read(world, name) for name in world.topology.nodes]
    wanted = pairs(nodes)
    network = Network(nodes)
    tracer = Tracer(network)
    trails = [tracer.trails(to, network.place[a], 0, source) for a, source, _, to in wanted]
    ends = [{(trail.code, trail.node) for trail in some} for some in trails]
    sure = {n for n, pair in enumerate(wanted) if ends[n] == {(words.ACCEPTED, pair[2])}}
    arrived = send(world, wanted, sure)  # type: ignore[arg-type]
    result = Result(world.told, pairs=len(wanted))
    for number, (a, source, b, to) in enumerate(wanted):
        name = "|".join(sorted({words.NAMES[code] for code, _ in ends[number]}))
        result.fates[name] = result.fates.get(name, 0) + 1
        for trail in trails[number]:
            if trail.code == words.UNKNOWN:
                result.whys[trail.why] = result.whys.get(trail.why, 0) + 1
        if any(code == words.UNKNOWN for code, _ in ends[number]):
            continue
        if (words.ACCEPTED, b) in ends[number] and number not in sure:
            result.either += 1
        elif (number in sure) != (number in arrived):
            real = "arrives" if number in arrived else "does not arrive"
            ways = [f"{' '.join(t.nodes)} {words.NAMES[t.code]} {t.why}" for t in trails[number]]
            result.wrong.append(f"{a} {format_address(source)} > {b} {format_address(to)} {real}: {ways}")
    result.wrong += consistent(network, tracer, wanted)
    return result


def consistent(network: Network, tracer: Tracer, wanted: list[Any]) -> list[str]:
    """What the walk of all classes says, and that of all pairs of islands, against the single packet."""
    import numpy as np

    rows = np.arange(len(network.classes.example))
    fates = Walker(network).walk(rows).fates
    wrong = []
    for a, _, _, to in wanted:
        row = network.classes.row_of(int.from_bytes(to, "big"))
        one, all_ = tracer.codes(to, network.place[a]), int(fates[row, network.place[a]])
        if one != all_:
            wrong.append(f"{a} > {format_address(to)}: {words.names(all_)} for the class, {words.names(one)} alone")
    islands = Pairs(Checker(network))
    bits = islands.fates(rows, list(range(len(islands.endpoints))))
    for turn, end in enumerate(islands.endpoints):
        for row, number in enumerate(network.classes.example.tolist()):
            one = tracer.codes(number.to_bytes(4, "big"), end.node, end.ifindex, end.address)
            if one != int(bits[row, turn]) and not (one | int(bits[row, turn])) >> words.LOOP & 1:
                to = format_address(number.to_bytes(4, "big"))
                said = words.names(int(bits[row, turn])), words.names(one)
                wrong.append(f"{end} > {to}: {said[0]} of all pairs, {said[1]} alone")
    return wrong


@pytest.mark.parametrize("seed", SEEDS)
def test_every_packet_does_what_was_foretold(seed: int) -> None:
    result = in_sandbox(lambda: examine(seed))
    assert not result.wrong, f"seed {seed}: {result.told}\n" + "\n".join(result.wrong[:5])


if __name__ == "__main__":
    first, last = int(sys.argv[1]), int(sys.argv[2])
    fates: dict[str, int] = {}
    whys: dict[str, int] = {}
    for number in range(first, last + 1):
        done = in_sandbox(lambda number=number: examine(number))  # type: ignore[misc]
        for into, these in ((fates, done.fates), (whys, done.whys)):
            for key, count in these.items():
                into[key] = into.get(key, 0) + count
        if done.wrong:
            print(f"seed {number}: {len(done.wrong)} wrong", *done.told, *done.wrong[:4], sep="\n  ", flush=True)
    print(fates)
    for why, count in sorted(whys.items(), key=lambda one: -one[1])[:25]:
        print(count, why)
