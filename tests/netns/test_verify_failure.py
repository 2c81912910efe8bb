"""What verify says of the time after a failure, held against a real one: random networks of via6 daemons, a prediction
from snapshots, a cable cut in its middle or a router with all its cables; then the routes in the kernels and a packet
for every ordered pair of addresses, and not one disagreement.

More seeds by hand: PYTHONPATH=tests python tests/netns/test_verify_failure.py FIRST LAST
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import pytest

from support import in_sandbox
from verify_packets import pairs, send
from via6.cli.snapshot import here
from via6.kernel.linux import LinuxKernel
from via6.lab import labfile, software, speakers
from via6.lab.namespaces import Lab, ip_batch
from via6.lab.run import wait_links, wait_listening
from via6.lab.topology import Cable, Router, Topology
from via6.model import PROTO_VIA6, NexthopObject, Route
from via6.observe.node import Node
from via6.observe.show import resolved
from via6.observe.verify import words
from via6.observe.verify.after import Aftermath
from via6.observe.verify.babel import Chosen
from via6.observe.verify.network import Network
from via6.observe.verify.trace import Tracer
from via6.prefix import Address, Prefix, format_address

pytestmark = pytest.mark.root

SEEDS = range(1, 4)
FIRST = 460
SETTLED_S = 25.0
WIRES = "wires"

Hops = frozenset[tuple[Address, int]]
Routes = dict[tuple[str, Prefix], Hops]
"""Per node and prefix the next hops that Babel has put into the kernel, or may put there."""


# --- a network whose cables can be cut -----------------------------------------------------------------------------


def topology(chance: random.Random) -> Topology:
    """A tree or a ring with chords; islands behind most routers, addresses of their own on some."""
    count = chance.randint(5, 7)
    links = [(chance.randint(1, at - 1), at) for at in range(2, count + 1)]
    if chance.random() < 0.5:
        links = [(at, at + 1) for at in range(1, count)] + [(count, 1)]
    for _ in range(chance.randint(1, 3)):
        a, b = chance.sample(range(1, count + 1), 2)
        links.append((a, b))
    parts = ['[lab]\nname = "after"']
    for at in range(1, count + 1):
        lan = f'lan = "10.{at}.0.0/24"' if at < 3 or chance.random() < 0.6 else ""
        own = f'address = "10.255.0.{at}"' if not lan or chance.random() < 0.5 else ""
        parts.append(f"[router.r{at}]\n{lan}\n{own}")
    for a, b in links:
        parts.append(f'[[link]]\nends = ["r{a}", "r{b}"]\ncost = {chance.choice((1, 1, 1, 2, 3))}')
    return labfile.parse("\n".join(parts).encode(), "after", "after")


class Wired(Lab):
    """A lab whose cables have a joint in their middle, a bridge in a namespace of its own: where one is cut, both ends
    lose their carrier, as with a real cable. `rules` are import rules by router, `anycast` who has 10.99.0.1."""

    def __init__(self, topology: Topology, rules: dict[str, str], anycast: Collection[str]) -> None:
        super().__init__(topology)
        self.rules = rules
        self.anycast = anycast

    def build(self) -> None:
        super().build()
        ip_batch([f"netns add {WIRES}"])
        for number, cable in enumerate(self.topology.cables):
            self._joint(number, cable)
        for node in self.anycast:
            ip_batch(["address add 10.99.0.1/32 dev lo"], self.namespace(node))

    def _joint(self, number: int, cable: Cable) -> None:
        ip_batch([f"link delete {cable.a.device}"], self.namespace(cable.a.router))
        lines = [f"link add name j{number} type bridge mcast_snooping 0", f"link set j{number} up"]
        for end, port in zip("ab", (cable.a, cable.b), strict=True):
            space, address = self.namespace(port.router), self.topology.router[port.router].link_local
            index = 500 + 2 * number + (end == "b")
            made = f"name {port.device} index {index} netns {space} type veth peer name {end}{number} netns {WIRES}"
            ip_batch([f"link add {made}"])
            up = f"address add {format_address(address)}/64 dev {port.device} nodad"
            ip_batch([up, f"link set {port.device} up"], space)
            lines.append(f"link set {end}{number} master j{number} up")
        ip_batch(lines, WIRES)

    def cut(self, cables: Collection[int]) -> None:
        """Both ends of each lose their carrier."""
        ip_batch([f"link set {end}{number} down" for number in cables for end in "ab"], WIRES)

    def start_router(self, node: str) -> None:
        router = self.topology.router[node]
        file = self.folder / f"{node}.toml"
        text = speakers.via6_config(self.topology, router, self.folder / "none")
        file.write_text(text.replace('export = ["connected"]', f'export = ["connected"]\n{self.rules.get(node, "")}'))
        environment = {"VIA6_SOCKET": "", "VIA6_STATE": str(self.folder / f"{node}.state")}
        argv = [sys.executable, "-P", "-m", "via6", "run", str(file)]
        with self.inside(node):
            self.daemons[node] = software.spawn(argv, self.folder / f"{node}.log", environment)

    def down(self) -> None:
        super().down()
        ip_batch([f"netns delete {WIRES}"], force=True)


def rules(chance: random.Random, routers: Sequence[Router]) -> dict[str, str]:
    """Import rules for some of the routers."""
    found = {}
    for router in routers:
        if chance.random() < 0.2:
            at = chance.randint(1, len(routers))
            deny = chance.choice((f"10.{at}.0.0/24", f"10.255.0.{at}/32", "10.99.0.1/32"))
            found[router.name] = f'import = [{{ within = "{deny}", deny = true }}, "any"]'
    return found


# --- what the kernels hold -----------------------------------------------------------------------------------------


def _hops(route: Route, objects: dict[int, NexthopObject]) -> Hops:
    made = resolved(route, objects).next_hops
    return frozenset((hop.via, hop.ifindex) for hop in made if hop.via is not None)


def real_routes(lab: Lab, gone: Collection[str] = ()) -> Routes:
    """What Babel has put into the kernels of the routers."""
    found: Routes = {}
    for router in lab.topology.routers:
        if router.name in gone:
            continue
        with lab.inside(router.name), LinuxKernel(receive_buffer=1 << 18) as kernel:
            state = kernel.dump(frozenset({"routes4", "nexthops"}))
        objects = {one.nhid: one for one in state.nexthops}
        for route in state.routes:
            if route.protocol == PROTO_VIA6 and route.metric == FIRST and route.type == "unicast":
                found[router.name, route.prefix] = _hops(route, objects)
    return found


def predicted_routes(nodes: Sequence[Node], chosen: Chosen) -> Routes:
    """The same of a prediction: all that may be."""
    return {
        (nodes[at].name, prefix): frozenset((hearing.via, hearing.at[1]) for hearing in hearings)
        for prefix, ways in chosen.items()
        for at, hearings in ways.items()
    }


def differ(real: Routes, predicted: Routes) -> list[str]:
    """The routes that are not among the predicted ones."""
    return [
        f"{node} {prefix}: {_shown(real.get((node, prefix)))}, not {_shown(predicted.get((node, prefix)))}"
        for node, prefix in sorted(real.keys() | predicted.keys())
        if not _within(real.get((node, prefix)), predicted.get((node, prefix)))
    ]


def _within(real: Hops | None, predicted: Hops | None) -> bool:
    return real is predicted if real is None or predicted is None else bool(real) and real <= predicted


def _shown(hops: Hops | None) -> str:
    return "no route" if hops is None else " or ".join(f"{format_address(via)}%{i}" for via, i in sorted(hops))


def until_right(lab: Lab, predicted: Routes, gone: Collection[str], timeout_s: float) -> list[str]:
    """Waits until the kernels' routes are the predicted ones and stay so; else tells what differs in the end."""
    end = time.monotonic() + timeout_s
    good = 0
    while True:
        wrong = differ(real_routes(lab, gone), predicted)
        good = 0 if wrong else good + 1
        if good == 4 or time.monotonic() > end:
            return wrong
        time.sleep(0.25)


# --- one network ---------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """What was done to a network, and where it did otherwise than was said."""

    told: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    pairs: int = 0
    lost: int = 0
    either: int = 0
    ties: int = 0


class Trial:
    """One lab: a cable is cut, then a router is."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        top = topology(self.chance)
        some = [router.name for router in top.routers]
        anycast = self.chance.sample(some, 2) if self.chance.random() < 0.4 else []
        self.lab = Wired(top, rules(self.chance, top.routers), anycast)
        self.result = Result([f"{name}: {rule}" for name, rule in self.lab.rules.items()])
        self.cut: set[int] = set()
        self.gone: set[str] = set()

    def run(self) -> Result:
        lab = self.lab
        with lab:
            wait_links(lab)
            wait_listening(lab, 20)
            nodes = self.settled()
            if nodes:
                number = self.chance.randrange(len(lab.topology.cables))
                self.link(nodes, number)
                nodes = self.nodes()
                self.node(nodes, self.chance.choice(lab.topology.routers).name)
            self.result.wrong += [lab.troubles()] if lab.troubles() and not self.gone else []
        return self.result

    def nodes(self) -> list[Node]:
        return [self.lab.call(name, here, name) for name in self.lab.topology.nodes]

    def settled(self) -> list[Node]:
        """The snapshots, once all neighbours are there and the routes are those that Babel is said to choose now."""
        end = time.monotonic() + SETTLED_S
        wrong: list[str] = ["nothing"]
        while wrong and time.monotonic() < end:
            time.sleep(1)
            nodes = self.nodes()
            after = Aftermath(nodes, Network(nodes))
            if len(after.mesh.hearings) == 2 * len(self.lab.topology.cables):
                wrong = differ(real_routes(self.lab), predicted_routes(nodes, after.mesh.chosen()))
        self.result.wrong += [f"before any failure: {one}" for one in wrong]
        return [] if wrong else nodes

    def link(self, nodes: list[Node], number: int) -> None:
        cable = self.lab.topology.cables[number]
        self.result.told.append(f"cut {cable.a.router}-{cable.b.router}")
        place = {node.name: at for at, node in enumerate(nodes)}
        dead = {
            (place[port.router], nodes[place[port.router]].kernel.by_name[port.device].ifindex)
            for port in (cable.a, cable.b)
        }
        self.judge(nodes, Aftermath(nodes, Network(nodes)), dead, set(), {number})

    def node(self, nodes: list[Node], name: str) -> None:
        self.result.told.append(f"kill {name}")
        after = Aftermath(nodes, Network(nodes))
        dead, gone = after.with_node(next(at for at, node in enumerate(nodes) if node.name == name))
        self.gone |= {nodes[at].name for at in gone}
        every = enumerate(self.lab.topology.cables)
        self.judge(nodes, after, dead, gone, {n for n, c in every if name in (c.a.router, c.b.router)}, name)

    def judge(
        self, nodes: list[Node], after: Aftermath, dead: set[tuple[int, int]], gone: set[int], cables: set[int],
        killed: str = "",
    ) -> None:  # fmt: skip
        """Predicts, fails, waits, compares."""
        chosen = after.mesh.chosen(dead, gone)
        predicted = predicted_routes(nodes, chosen)
        left = after.nodes_after(dead, gone)
        wanted = [pair for pair in pairs(nodes) if pair[0] not in self.gone]
        tracer = Tracer(network := Network(left))
        trails = [tracer.trails(to, network.place[a], 0, source) for a, source, _, to in wanted]
        if killed:
            self.lab.daemons.pop(killed).stop(9)
        self.lab.cut(cables)
        wrong = until_right(self.lab, predicted, self.gone, SETTLED_S)
        ends = [{(trail.code, trail.node) for trail in some} for some in trails]
        sure = {n for n, pair in enumerate(wanted) if ends[n] == {(words.ACCEPTED, pair[2])}}
        arrived = send(self.lab, wanted, sure)
        for number, (a, source, b, to) in enumerate(wanted):
            if (words.ACCEPTED, b) in ends[number] and number not in sure:
                self.result.either += 1  # routes that may be chosen lead to several ends
            elif (number in sure) != (number in arrived):
                real = "arrives" if number in arrived else "does not arrive"
                ways = [" ".join(t.nodes) + " " + words.NAMES[t.code] for t in trails[number]]
                wrong.append(f"{a} {format_address(source)} > {b} {format_address(to)} {real}: {ways}")
        if any(code == words.UNKNOWN for some in ends for code, _ in some):
            wrong.append("something is unknown in a network of which all is known")
        self.result.pairs += len(wanted)
        self.result.lost += len(wanted) - len(arrived)
        self.result.ties += sum(len(hops) > 1 for hops in predicted.values())
        self.result.wrong += [f"after {self.result.told[-1]}: {one}" for one in wrong]


@pytest.mark.parametrize("seed", SEEDS)
def test_after_a_failure_every_route_and_every_packet_is_as_foretold(seed: int) -> None:
    result = in_sandbox(lambda: Trial(seed).run())
    assert not result.wrong, f"seed {seed}: {result.told}\n" + "\n".join(result.wrong[:8])
    assert result.pairs > result.either


if __name__ == "__main__":
    first, last = int(sys.argv[1]), int(sys.argv[2])
    begun = time.monotonic()
    for one in range(first, last + 1):
        done = in_sandbox(lambda one=one: Trial(one).run())  # type: ignore[misc]
        print(one, f"{time.monotonic() - begun:.0f} s", done.pairs, "pairs", done.lost, "lost", done.either, "either",
              done.ties, "ties", done.told, *done.wrong[:8], sep="\n  " if done.wrong else " ", flush=True)  # fmt: skip
