"""What verify says of packets, held against kernels: random networks with random faults, a UDP packet for every pair of
addresses, and not one disagreement.

More seeds by hand: PYTHONPATH=tests python tests/netns/test_verify_kernel.py FIRST LAST
"""

from __future__ import annotations

import contextlib
import random
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass, field

import pytest

from support import in_sandbox
from verify_packets import Pair, pairs, send
from via6.collect import local
from via6.errors import Refusal
from via6.kernel.linux import LinuxKernel
from via6.lab import labfile
from via6.lab.namespaces import Lab, ip_batch
from via6.lab.topology import Topology
from via6.observe.node import ACCEPT, DROP, Firewall, Node
from via6.observe.verify import words
from via6.observe.verify.fates import Walker
from via6.observe.verify.network import Network
from via6.observe.verify.trace import Tracer
from via6.prefix import format_address

SEEDS = range(1, 13)


# --- a random network ----------------------------------------------------------------------------------------------


def topology(chance: random.Random) -> Topology:
    """A ring with chords, or a tree; islands behind all routers, addresses of their own on some."""
    count = chance.randint(3, 7)
    links = [(at, at + 1) for at in range(1, count)] if chance.random() < 0.7 else [
        (chance.randint(1, at - 1), at) for at in range(2, count + 1)
    ]  # fmt: skip
    if chance.random() < 0.7:
        links.append((count, 1))
    for _ in range(chance.randint(0, 2)):
        a, b = chance.sample(range(1, count + 1), 2)
        links += [(a, b)]
    parts = ['[lab]\nname = "verify"\nsoftware = "static"']
    for at in range(1, count + 1):
        own = f'address = "10.255.0.{at}"' if chance.random() < 0.5 else ""
        parts.append(f'[router.r{at}]\nlan = "10.{at}.0.0/24"\n{own}')
    for a, b in links:
        parts.append(f'[[link]]\nends = ["r{a}", "r{b}"]\ncost = {chance.randint(1, 3)}')
    return labfile.parse("\n".join(parts).encode(), "verify", "verify")


@dataclass
class Faults:
    """Breaks a lab, and remembers what it did."""

    lab: Lab
    chance: random.Random
    told: list[str] = field(default_factory=list)
    walls: dict[str, set[str]] = field(default_factory=dict)
    quiet: bool = True
    """Nobody has sent anything yet, so no neighbour table knows an answer that would not be given any more."""

    def ip(self, node: str, line: str) -> None:
        ip_batch([line], self.lab.namespace(node), force=True)

    def sysctl(self, node: str, name: str, value: int) -> None:
        self.told.append(f"{node}: {name}={value}")
        with self.lab.inside(node), open(f"/proc/sys/net/{name}", "w") as file:
            file.write(str(value))

    def router(self) -> str:
        return self.chance.choice(self.lab.topology.routers).name

    def device(self, node: str) -> str:
        return self.chance.choice([device for device, _, _ in self.lab.topology.ports[node]] + ["lan"])

    def prefix(self) -> str:
        at = self.chance.randint(1, len(self.lab.topology.routers))
        own = (f"10.{at}.0.0/24", f"10.{at}.0.0/25", f"10.{at}.0.10/32", f"10.255.0.{at}/32")
        return self.chance.choices((*own, "10.0.0.0/8", "0.0.0.0/0"), (8, 1, 1, 2, 1, 1))[0]

    def hop(self, node: str) -> str:
        """A next hop: mostly a neighbour on its link, now and then somebody who is not on this link."""
        device, far, _ = self.chance.choice(self.lab.topology.ports[node])
        router = far.router if self.chance.random() < 0.8 else self.router()
        return f"via inet6 {format_address(self.lab.topology.router[router].link_local)} dev {device}"

    def forwarding(self) -> None:
        node = self.router()
        scope = self.chance.choice(("all", "device"))
        name = "ipv4/ip_forward" if scope == "all" else f"ipv4/conf/{self.device(node)}/forwarding"
        self.sysctl(node, name, 0)

    def filter(self) -> None:
        node = self.router() if self.chance.random() < 0.8 else self.chance.choice(self.lab.topology.hosts).name
        device = "eth0" if node in self.lab.topology.host else self.device(node)
        scope = self.chance.choice(("all", device))
        self.sysctl(node, f"ipv4/conf/{scope}/rp_filter", self.chance.choice((1, 1, 2)))

    def lose(self) -> None:
        for _ in range(self.chance.randint(1, 3)):
            self.route("del", self.router(), self.prefix())

    def turn(self) -> None:
        for _ in range(self.chance.randint(1, 3)):
            node = self.router()
            self.route("replace", node, f"{self.prefix()} {self.hop(node)}")

    def fan(self) -> None:
        node = self.router()
        hops = " ".join(f"nexthop {self.hop(node)}" for _ in range(2))
        self.route("replace", node, f"{self.prefix()} {hops}")

    def discard(self) -> None:
        kind = self.chance.choice(("blackhole", "unreachable", "prohibit", "throw"))
        self.route("replace", self.router(), f"{kind} {self.prefix()}")

    def second(self) -> None:
        """A further route of the same prefix, with another metric."""
        node = self.router()
        self.route("append", node, f"{self.prefix()} {self.hop(node)} metric {self.chance.choice((0, 5, 50))}")

    def any_ip(self) -> None:
        self.route("add", self.router(), f"local {self.prefix()} dev lo table local")

    def rule(self) -> None:
        node = self.router()
        self.route("replace", node, f"{self.prefix()} {self.hop(node)} table 77")
        selector = self.chance.choice(
            (f"to {self.prefix()}", f"not to {self.prefix()}", "", "iif nowhere", f"from {self.prefix()}")
        )
        self.told.append(f"{node}: rule {selector} lookup 77")
        with contextlib.suppress(Refusal):
            self.ip(node, f"rule add priority {self.chance.choice((0, 50, 40000))} {selector} lookup 77")

    def wall(self) -> None:
        node, hook = self.router(), self.chance.choice(("forward", "input"))
        self.told.append(f"{node}: nft {hook} drop")
        self.walls.setdefault(node, set()).add(hook)
        passing = "meta nfproto ipv6 accept;" if hook == "input" else ""  # ND comes in there, too
        text = f"table inet v {{ chain {hook} {{ type filter hook {hook} priority 0; policy drop; {passing} }}; }}"
        done = self.lab.exec(node, ["nft", "-f", "-"], text=text)
        assert not done.returncode, done.stderr

    def cut(self) -> None:
        node = self.router()
        device, far, _ = self.chance.choice(self.lab.topology.ports[node])
        if self.chance.random() < 0.5:
            scope = self.chance.choice(("all", far.device))
            self.sysctl(far.router, f"ipv4/conf/{scope}/ignore_routes_with_linkdown", 1)
        self.told.append(f"{node}: {device} down")
        self.ip(node, f"link set {device} down")
        end = time.monotonic() + 3
        while self.carrier(far.router, far.device) and time.monotonic() < end:
            time.sleep(0.02)

    def carrier(self, node: str, device: str) -> bool:
        with self.lab.inside(node), LinuxKernel(receive_buffer=1 << 18) as kernel:
            return kernel.dump(frozenset({"links"})).by_name[device].carrier

    def mute(self) -> None:
        """A neighbour that does not answer any more."""
        if self.quiet:
            node = self.router()
            device, _, _ = self.chance.choice(self.lab.topology.ports[node])
            if self.chance.random() < 0.5:
                self.sysctl(node, f"ipv6/conf/{device}/disable_ipv6", 1)
            else:
                own = format_address(self.lab.topology.router[node].link_local)
                self.told.append(f"{node}: no {own} on {device}")
                with contextlib.suppress(Refusal):
                    self.ip(node, f"address del {own}/64 dev {device}")

    def route(self, how: str, node: str, words: str) -> None:
        try:
            self.ip(node, f"route {how} {words}")
        except Refusal:
            return  # a route that is not there to be deleted, or there already
        self.told.append(f"{node}: route {how} {words}")

    def some(self) -> None:
        kinds = (
            self.forwarding, self.filter, self.filter, self.lose, self.turn, self.turn, self.discard, self.second,
            self.any_ip, self.rule, self.wall, self.cut, self.mute, self.fan,
        )  # fmt: skip
        for _ in range(self.chance.randint(0, 5)):
            self.chance.choice(kinds)()


# --- predicted and real --------------------------------------------------------------------------------------------


def snapshot(lab: Lab, name: str, walls: Collection[str]) -> Node:
    with lab.inside(name):
        with LinuxKernel(receive_buffer=1 << 20) as kernel:
            state = kernel.dump()
        devices = ("all", *(link.name for link in state.links))
        four = ("forwarding", "rp_filter", "ignore_routes_with_linkdown")
        names = [f"net/ipv4/conf/{device}/{one}" for device in devices for one in four]
        names += [f"net/ipv6/conf/{device}/disable_ipv6" for device in devices]
        sysctls = local.sysctls(names)
    forward4, own4 = (DROP if hook in walls else ACCEPT for hook in ("forward", "input"))
    return Node(name, state, sysctls, firewall=Firewall(forward4, own4=own4))


@dataclass
class Result:
    seed: int
    told: list[str]
    wrong: list[str]
    pairs: int
    arrived: int
    either: int
    unknown: int
    fates: dict[str, int]


def examine(seed: int) -> Result:
    """One network: break it, predict, send."""
    chance = random.Random(seed)
    lab = Lab(topology(chance))
    with lab:
        faults = Faults(lab, chance)
        if chance.random() < 0.4:
            faults.quiet = False
            with contextlib.suppress(Refusal):
                lab.wait_ready(5)
        faults.some()
        time.sleep(0.05)
        nodes = [snapshot(lab, name, faults.walls.get(name, ())) for name in lab.topology.nodes]
        wanted = pairs(nodes)
        network = Network(nodes)
        tracer = Tracer(network)
        codes = [tracer.codes(to, network.place[a], 0, source) for a, source, _, to in wanted]
        sure = {i for i, code in enumerate(codes) if code == 1 << words.ACCEPTED}
        arrived = send(lab, wanted, sure)
    return judge(seed, faults, network, tracer, wanted, codes, arrived)


def judge(
    seed: int, faults: Faults, network: Network, tracer: Tracer, wanted: list[Pair], codes: list[int], arrived: set[int]
) -> Result:
    result = Result(seed, faults.told, [], len(wanted), len(arrived), 0, 0, {})
    good = 1 << words.ACCEPTED
    for number, (a, source, b, to) in enumerate(wanted):
        code = codes[number]
        name = "|".join(words.names(code))
        result.fates[name] = result.fates.get(name, 0) + 1
        ends = {t.node for t in tracer.trails(to, network.place[a], 0, source) if t.code == words.ACCEPTED}
        if code >> words.UNKNOWN & 1:
            result.unknown += 1
        elif (code & good and code != good) or (b in ends and ends != {b}):
            result.either += 1  # several ways: it depends on the hash
        elif (code == good and ends == {b}) != (number in arrived):
            trails = tracer.trails(to, network.place[a], 0, source)
            real = "arrives" if number in arrived else "does not arrive"
            result.wrong.append(f"{a} {format_address(source)} > {b} {format_address(to)} {real}, not {name}: {trails}")
    result.wrong += consistent(network, tracer, wanted)
    return result


def consistent(network: Network, tracer: Tracer, wanted: list[Pair]) -> list[str]:
    """What the walk of all classes says against the single packet without a source: they must agree."""
    import numpy as np

    rows = np.arange(len(network.classes.example))
    fates = Walker(network).walk(rows).fates
    wrong = []
    for a, _, _, to in wanted:
        row = network.classes.row_of(int.from_bytes(to, "big"))
        one, all_ = tracer.codes(to, network.place[a]), int(fates[row, network.place[a]])
        if one != all_:
            wrong.append(f"{a} > {format_address(to)}: {words.names(all_)} for the class, {words.names(one)} alone")
    return wrong


@pytest.mark.parametrize("seed", SEEDS)
def test_every_packet_does_what_was_foretold(seed: int) -> None:
    result = in_sandbox(lambda: examine(seed))
    assert not result.wrong, f"seed {seed}: {result.told}\n" + "\n".join(result.wrong[:5])
    assert result.unknown + result.either < result.pairs or "rule from" in str(result.told)


if __name__ == "__main__":
    first, last = int(sys.argv[1]), int(sys.argv[2])
    total: dict[str, int] = {}
    for number in range(first, last + 1):
        done = in_sandbox(lambda number=number: examine(number))  # type: ignore[misc]
        for fate, count in done.fates.items():
            total[fate] = total.get(fate, 0) + count
        if done.wrong:
            print(f"seed {number}: {done.told}", *done.wrong[:5], sep="\n  ", flush=True)
    print(total)
