"""Networks nobody has drawn: random graphs, software dealt at random, and several faults at once.

INTEROP_SEEDS="7 8 9" tries these seeds instead. A seed is the network, who runs what, and all that happens to it.
"""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass, field

import pytest

from interop.network import (
    KINDS,
    Link,
    all_pairs,
    mixed,
    need_peers,
    network,
    running,
    settle,
    silence,
    speak_again,
    take_down,
    take_up,
)
from support import in_sandbox
from via6.lab.namespaces import Lab

pytestmark = pytest.mark.root

SEEDS = [int(seed) for seed in os.environ.get("INTEROP_SEEDS", "1 2 3 4").split()]
ROUNDS = 4
FAULTS = ("carrier", "silence", "heal", "heal", "blink", "stop", "kill", "start", "start", "restart")


@pytest.fixture(autouse=True, scope="module")
def _peers() -> None:
    need_peers()


def random_links(chance: random.Random) -> list[Link]:
    """A connected graph of 6 to 12 routers: a tree and some links more."""
    names = [f"r{number}" for number in range(1, chance.randint(6, 12) + 1)]
    links = [(names[chance.randrange(at)], names[at]) for at in range(1, len(names))]
    for _ in range(chance.randint(1, len(names))):
        a, b = chance.sample(names, 2)
        if (a, b) not in links and (b, a) not in links:
            links.append((a, b))
    return links


@dataclass
class Havoc:
    """What is broken in a network, and the ways to break more of it."""

    lab: Lab
    links: list[Link]
    chance: random.Random
    down: set[Link] = field(default_factory=set)
    silent: set[Link] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)

    def one(self) -> str:
        """One fault or repair, if the drawn one is possible; says which."""
        what = self.chance.choice(FAULTS)
        link, node = self.chance.choice(self.links), self.chance.choice(list(self.lab.topology.router))
        broken, runs = self.down | self.silent, node not in self.gone
        if what in ("carrier", "silence", "blink") and link not in broken:
            self.link(what, link)
            return f"{what} {link}"
        if what == "heal" and broken:
            link = self.chance.choice(sorted(broken))
            self.heal(link)
            return f"heal {link}"
        if what in ("stop", "kill", "restart") and runs:
            self.lab.stop_router(node, signal.SIGKILL if what == "kill" else signal.SIGTERM)
            self.gone.add(node)
        elif what == "start" and self.gone:
            node = self.chance.choice(sorted(self.gone))
        else:
            return ""
        if what in ("start", "restart"):
            self.start(node)
        return f"{what} {node}"

    def link(self, what: str, link: Link) -> None:
        if what == "silence":
            # Each router has one table of rules, so one of its links at a time.
            if not {*link} & {end for other in self.silent for end in other}:
                silence(self.lab, link)
                self.silent.add(link)
            return
        take_down(self.lab, link)
        self.down.add(link)
        if what == "blink":
            time.sleep(self.chance.uniform(0, 1))
            self.heal(link)

    def heal(self, link: Link) -> None:
        (take_up if link in self.down else speak_again)(self.lab, link)
        self.down.discard(link)
        self.silent.discard(link)

    def start(self, node: str) -> None:
        self.lab.start_router(node)
        self.gone.discard(node)

    def mend(self) -> None:
        """All is well again."""
        for link in sorted(self.down | self.silent):
            self.heal(link)
        for node in sorted(self.gone):
            self.start(node)

    def settle(self, what: str) -> float:
        return settle(self.lab, what, without=self.down | self.silent, gone=self.gone)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_network_not_seen_before(seed: int) -> None:
    chance = random.Random(seed)
    links = random_links(chance)
    topology = mixed(network(links, seed=seed), KINDS, seed)

    def work() -> list[tuple[float, str]]:
        took = []
        with running(topology) as lab:
            havoc = Havoc(lab, links, chance)
            took.append((havoc.settle("start"), "start"))
            for _ in range(ROUNDS):
                what = ", ".join(filter(None, [havoc.one() for _ in range(chance.randint(1, 4))]))
                took.append((havoc.settle(what), what))
            havoc.mend()
            took.append((havoc.settle("all healed"), "all healed"))
            all_pairs(lab)
            assert not lab.troubles()
        return took

    took = in_sandbox(work)
    if os.environ.get("INTEROP_TIMES"):
        print(f"seed {seed}, {len(topology.routers)} routers, {len(links)} links: ", end="")
        print("; ".join(f"{what} {seconds:.1f} s" for seconds, what in took))
