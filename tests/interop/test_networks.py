"""via6, babeld and BIRD as equal partners: every mix learns, adds up, leaves what fails, and heals."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection

import pytest

from interop.network import (
    KINDS,
    PEERS,
    Link,
    all_pairs,
    grid,
    line,
    mixed,
    need_peers,
    network,
    ring,
    running,
    settle,
    silence,
    speak_again,
    take_down,
    take_up,
)
from support import in_sandbox
from via6.lab.topology import Topology

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True, scope="module")
def _peers() -> None:
    need_peers()


BOTH = (signal.SIGTERM, signal.SIGKILL)


def through_it_all(topology: Topology, link: Link, ends: Collection[signal.Signals] = BOTH) -> dict[str, float]:
    """What each change took to settle. The whole life of a network: start, a link that fails with and without a word,
    and a router of each kind that is ended by these signals and comes back."""
    took: dict[str, float] = {}
    with running(topology) as lab:
        took["start"] = settle(lab, "start")
        all_pairs(lab)
        for name, cut, heal in (("carrier", take_down, take_up), ("silence", silence, speak_again)):
            cut(lab, link)
            took[name] = settle(lab, f"{name} lost on {link}", without=[link])
            heal(lab, link)
            took[f"{name} back"] = settle(lab, f"{name} back on {link}")
        all_pairs(lab)
        for kind, node in one_of_each(topology).items():
            for number in ends:
                what = f"{kind} {number.name}"
                lab.stop_router(node, number)
                took[what] = settle(lab, what, gone=[node])
                lab.start_router(node)
                took[f"{what} back"] = settle(lab, f"{what} back")
        all_pairs(lab)
        assert not lab.troubles()
    return took


def one_of_each(topology: Topology) -> dict[str, str]:
    """A router of each kind that is there, an inner one where there is one."""
    busy = sorted(topology.router.values(), key=lambda router: len(topology.ports[router.name]))
    return {router.software: router.name for router in busy}


def tell(took: dict[str, float]) -> None:
    if os.environ.get("INTEROP_TIMES"):
        print("  ".join(f"{what} {seconds:.1f}" for what, seconds in took.items()))


@pytest.mark.parametrize(("shape", "kinds", "seed"), [("line", KINDS, 1), ("ring", KINDS, 2), ("grid", KINDS, 3)])
def test_a_mixed_network_through_all_that_happens(shape: str, kinds: Collection[str], seed: int) -> None:
    links = {"line": line(5), "ring": ring(5), "grid": grid(3)}[shape]
    topology = mixed(network(links, seed=seed), kinds, seed)
    # How each of them leaves with a word, the pairs show.
    tell(in_sandbox(lambda: through_it_all(topology, links[len(links) // 2], [signal.SIGKILL])))


@pytest.mark.parametrize("peer", PEERS)
def test_a_pair(peer: str) -> None:
    """Nobody else is there to help: via6 - peer - via6 - peer."""
    topology = mixed(network(line(4), seed=5), ("via6", peer), 0)
    tell(in_sandbox(lambda: through_it_all(topology, ("r2", "r3"))))


MIXES = (("via6", "babeld"), ("via6", "bird"), ("via6", "babeld", "bird"), ("via6", "babeld-13", "bird3"))


@pytest.mark.parametrize("kinds", MIXES, ids="+".join)
@pytest.mark.parametrize("shape", ["line", "ring", "grid"])
def test_every_mix_on_every_shape(shape: str, kinds: Collection[str]) -> None:
    """It starts, a link fails and heals. What else may happen to it, the other tests have."""
    links = {"line": line(4), "ring": ring(5), "grid": grid(3)}[shape]
    topology = mixed(network(links, seed=len(links)), kinds, len(kinds))
    link = links[len(links) // 2]

    def work() -> None:
        with running(topology) as lab:
            settle(lab, "start")
            take_down(lab, link)
            settle(lab, f"{link} down", without=[link])
            take_up(lab, link)
            settle(lab, f"{link} up")
            all_pairs(lab)
            assert not lab.troubles()

    in_sandbox(work)
