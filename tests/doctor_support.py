"""A small real network for the tests of doctor, and what an operator does there: look, break, mend.

h1 -- r1 -- r2 -- r3 -- h3        between the routers IPv6 alone; rN also has 10.255.0.N on lo
"""

from __future__ import annotations

import sys
from pathlib import Path

from support import Net, Nets, link_local, run, via6
from via6.cli.doctor import _measure
from via6.cli.snapshot import here
from via6.collect import doctor
from via6.collect.probe import ping_many
from via6.observe.doctor import registry
from via6.observe.doctor.finding import Case, Finding, cases
from via6.prefix import parse_address

LINKS = (
    ("h1", "eth0", "r1", "lan"),
    ("r1", "east", "r2", "west"),
    ("r2", "east", "r3", "west"),
    ("r3", "lan", "h3", "eth0"),
    ("r1", "direct", "r3", "direct"),
)
"""`direct` stays down until `Line.triangle`."""

ADDRESSES = {
    "h1": ("10.1.0.10/24 dev eth0",),
    "h3": ("10.3.0.10/24 dev eth0",),
    "r1": ("10.1.0.1/24 dev lan", "10.255.0.1/32 dev lo"),
    "r2": ("10.255.0.2/32 dev lo",),
    "r3": ("10.3.0.1/24 dev lan", "10.255.0.3/32 dev lo"),
}
NETWORKS = {1: ("10.1.0.0/24", "10.255.0.1"), 2: ("10.255.0.2",), 3: ("10.3.0.0/24", "10.255.0.3")}


def batch(net: Net, *lines: str) -> None:
    """Many `ip` commands at the price of one."""
    run("ip", "-n", net.name, "-batch", "-", input="\n".join(lines) + "\n")


def case(net: Net, name: str = "node") -> Case:
    """A node, looked at as `via6 doctor` does."""
    with net.inside():
        dropped = doctor.dropped_by_rp_filter()
        node = here(name)
        return Case(node, _measure(node, None, dropped))


def look(net: Net) -> list[Finding]:
    """What `via6 doctor` finds there."""
    return registry.examine(case(net))


def reaches(net: Net, target: str) -> bool:
    """The target answers."""
    with net.inside():
        return ping_many([parse_address(target)], timeout_s=0.5)[0].received > 0


class Line:
    """The network, by the names of its nodes. `lls` are the link-local addresses by node and device."""

    def __init__(self, nets: Nets) -> None:
        self.nodes = {name: nets.new() for name in ADDRESSES}
        for a, dev_a, b, dev_b in LINKS:
            nets.veth(self[a], dev_a, self[b], dev_b, up=dev_a != "direct")
        for name, net in self.nodes.items():
            batch(net, *(f"addr add {address}" for address in ADDRESSES[name]))
            if name.startswith("r"):
                net.sysctl("net.ipv4.ip_forward", 1)
        batch(self["h1"], "route add default via 10.1.0.1")
        batch(self["h3"], "route add default via 10.3.0.1")
        self.route("r1", 3, "east", "r2", "west")
        self.route("r1", 2, "east", "r2", "west")
        self.route("r2", 1, "west", "r1", "east")
        self.route("r2", 3, "east", "r3", "west")
        self.route("r3", 1, "west", "r2", "east")
        self.route("r3", 2, "west", "r2", "east")

    def route(self, node: str, to: int, dev: str, far: str, far_dev: str, more: str = "") -> None:
        """Routes to all that is behind router number `to`."""
        way = f"via inet6 {link_local(self[far], far_dev)} dev {dev} proto static {more}"
        batch(self[node], *(f"route add {prefix} {way}" for prefix in NETWORKS[to]))

    def triangle(self) -> None:
        """With the link r1 - r3, by which r1 and r3 now send to each other; by r2 they could as well (metric 200)."""
        for one, other, number in (("r1", "r3", 3), ("r3", "r1", 1)):
            self[one].ip("link set direct up")
            self[other].ip("link set direct up")
            for prefix in NETWORKS[number]:
                self[one].ip(f"route del {prefix}")
            self.route(one, number, "direct", other, "direct")
            dev, far_dev = ("east", "west") if one == "r1" else ("west", "east")
            self.route(one, number, dev, "r2", far_dev, "metric 200")

    def __getitem__(self, name: str) -> Net:
        return self.nodes[name]

    def ping(self, source: str = "h1", target: str = "10.3.0.10") -> bool:
        """The target answers."""
        return reaches(self[source], target)

    def case(self, name: str) -> Case:
        """One node, looked at as `via6 doctor` does."""
        return case(self[name], name)

    def look(self, name: str) -> list[Finding]:
        """What `via6 doctor` finds at a node."""
        return registry.examine(self.case(name))

    def look_at_all(self, *names: str) -> list[Finding]:
        """What it finds when it knows several nodes (all)."""
        asked = [self.case(name) for name in names or self.nodes]
        return registry.examine(*cases([(one.node, one.measured) for one in asked]))


def roots(findings: list[Finding]) -> set[str]:
    """The codes that follow from nothing else."""
    return {one.code for one in findings if not one.depends_on}


def told(findings: list[Finding]) -> list[str]:
    """For assertions: what was found, in short."""
    return [f"{one.id}: {one.title}" for one in findings]


def type_in(net: Net, finding: Finding, **words: str) -> None:
    """Pastes the remedy into a shell of the node; `words` stand for its placeholders."""
    for line in finding.remedy:
        for name, value in words.items():
            line = line.replace(name, value)
        net.run("sh", "-ec", line.replace("via6 ", f"{sys.executable} -m via6 ", line.startswith("via6 ")))


def via6_doctor(net: Net, state: Path, *words: str) -> tuple[int, str, str]:
    """`via6 doctor …` as a user types it, with a state folder of its own."""
    return via6("doctor", *words, netns=net, env={"VIA6_STATE": str(state)})
