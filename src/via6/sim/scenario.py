"""What happens to a simulated network: a list of faults with their times, drawn by chance. Values only.

A fault is healed at `until`; with infinity it stays, and the network must find the best of what is left. Kinds:

    carrier     a wire loses its carrier at both ends; `b` 1: at the first end alone, as behind a switch
    silent      a wire carries nothing, and nobody is told
    oneway      a wire carries nothing from its end number `b`
    lossy       a wire loses the share `x` of packets
    double      a wire delivers the share `x` of packets twice
    late        packets of a wire take up to `x` seconds more, so that they overtake each other
    partition   all wires between the routers with a bit in `b` and the others are silent
    process     the daemon is killed and started again: the kernel forwards on; seqno and distances are known
    kill        the same, with the distances lost
    machine     the router loses power: its FIB is empty when it comes back; seqno and distances are known
    power       the same, with the distances lost: RFC 8966 allows a loop now
    wiped       everything is lost, and the router-id is a new one
    leave       SIGTERM, and started again later
    stall       the daemon is not scheduled for a while; what arrives waits
    slow        the kernel takes up to `x` seconds for each batch of routes
    withdraw    the first prefix of a router is no longer announced
    announce    a prefix (number `b`) is announced by a router, with metric `x`, also by one that never had it
    metric      the first prefix of a router is announced with metric `x`
    cost        the cost of a wire is `b` at all its ends
    unplug      an interface is deleted and made again
    rekey       all ends of a wire change their key, one after the other, by way of having both
    hello       a router says Hello every `b` ms
    garbage     `b` malicious packets arrive on an interface: noise, truncated, from wrong ports, hop limits or places
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Final

from via6.sim.network import Network, draw

if TYPE_CHECKING:
    from random import Random


@dataclass(frozen=True, slots=True)
class Fault:
    """`a` is a wire or a router, by kind; `b` and `x` are as the module says."""

    at: float
    kind: str
    a: int
    until: float = inf
    b: int = 0
    x: float = 0.0

    def __str__(self) -> str:
        until = "for good" if self.until == inf else f"until {self.until:.3f}"
        return f"{self.at:8.3f} {self.kind} {self.a} b={self.b} x={self.x:g} {until}"


@dataclass(frozen=True, slots=True)
class Timing:
    """How the routers are set up. `faults_s`: how long faults come; `quiet_s`: how long there is peace before the
    network is judged. `driver`: see `router`."""

    hello_ms: int = 4000
    update_ms: int = 16_000
    faults_s: float = 60.0
    quiet_s: float = 240.0
    keyed: bool = False
    driver: str = "eager"
    split_horizon: bool = True
    kernel_s: float = 0.005
    late_news_s: float = 0.1
    """How late a daemon hears from its kernel that a carrier has come or gone, at most."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """All that a run needs besides its dice."""

    network: Network
    timing: Timing
    faults: tuple[Fault, ...]
    no_transit: tuple[int, ...] = ()
    """Routers that cannot send ICMPv4."""


TOUGH: Final = ("power", "wiped")
"""After these RFC 8966 promises no freedom from loops."""

_ON_WIRES: Final = ("carrier", "silent", "oneway", "lossy", "double", "late", "cost", "unplug", "rekey")
_ON_ROUTERS: Final = (
    "process", "kill", "machine", "power", "wiped", "leave", "stall", "slow", "withdraw", "announce", "metric",
    "hello", "garbage",
)  # fmt: skip
KINDS: Final = (*_ON_WIRES, "partition", *_ON_ROUTERS)
_FOR_GOOD: Final = ("carrier", "silent", "oneway", "cost", "partition", "withdraw", "announce", "metric", "hello")
_DEATHS: Final = ("process", "kill", "machine", "power", "wiped", "leave")


def draw_fault(network: Network, kind: str, at: float, chance: Random) -> Fault:
    """One fault of a kind, at a time."""
    until = at + chance.choice((0.02, 0.5, 3.0, 20.0, 60.0)) * chance.uniform(0.5, 1.5)
    if kind in _FOR_GOOD and chance.random() < 0.3:
        until = inf
    a = chance.randrange(len(network.wires) if kind in _ON_WIRES else network.size)
    numbers: dict[str, Callable[[], int]] = {
        "oneway": lambda: chance.randrange(len(network.wires[a].ends)),
        "unplug": lambda: chance.randrange(len(network.wires[a].ends)),
        "carrier": lambda: int(chance.random() < 0.2),
        "partition": lambda: chance.getrandbits(network.size),
        "announce": lambda: chance.randrange(len(network.prefixes())),
        "cost": lambda: chance.choice((1, 50, 300, 5000)),
        "hello": lambda: chance.choice((200, 1000, 4000, 8000)),
        "garbage": lambda: chance.randint(1, 30),
    }
    sizes: dict[str, Callable[[], float]] = {
        "lossy": lambda: chance.choice((0.05, 0.3, 0.6, 0.9)),
        "double": lambda: chance.choice((0.2, 1.0)),
        "late": lambda: chance.choice((0.05, 0.5, 3.0)),
        "slow": lambda: chance.choice((0.05, 0.5, 2.0)),
        "announce": lambda: chance.choice((0, 96, 1000)),
        "metric": lambda: chance.choice((0, 10, 96, 2000)),
    }
    b = numbers.get(kind, lambda: 0)()
    x = sizes.get(kind, lambda: 0.0)()
    return Fault(round(at, 3), kind, a, round(until, 3), b, float(x))


def draw_timing(chance: Random) -> Timing:
    """Settings by chance. The quiet is long enough for routes to expire and for distances to be forgotten."""
    driver = chance.choice(("eager", "eager", "blocking", "overlapped"))
    hello_ms, update_ms = chance.choice(((4000, 16_000), (4000, 16_000), (1000, 16_000), (1000, 4000), (200, 2000)))
    return Timing(
        hello_ms,
        update_ms,
        faults_s=chance.choice((20.0, 60.0, 150.0)) * (0.3 if hello_ms < 1000 else 1),
        quiet_s=60 + 4 * update_ms / 1000 + 8 * hello_ms / 1000,
        keyed=chance.random() < 0.12,
        driver=driver,
        split_horizon=chance.random() < 0.8,
        # Who is deaf for longer than its Hellos last cannot be helped.
        kernel_s=chance.choice((0.0, 0.0005, 0.02, 0.3 if driver == "overlapped" else 0.02)),
        late_news_s=chance.choice((0.001, 0.05, 0.5)),
    )


def draw_scenario(chance: Random, kind: str = "", most: int = 9) -> Scenario:
    """A network and its history by chance. Faults of one run are often of few kinds, so that each meets itself."""
    timing = draw_timing(chance)
    network = draw(chance, kind, most)
    # Where packets come much earlier and later than the one before, Hellos are missed, and nothing is ever quiet.
    wires = tuple(replace(w, jitter_s=min(w.jitter_s, timing.hello_ms / 8000)) for w in network.wires)
    network = replace(network, wires=wires)
    kinds = [k for k in KINDS if k not in TOUGH and (k != "rekey" or timing.keyed)]
    if chance.random() < 0.15:
        kinds += TOUGH
    if chance.random() < 0.5:
        kinds = chance.sample(kinds, chance.randint(1, 4))
    # The network comes up, sometimes undisturbed, sometimes not.
    start = chance.choice((0.0, 5.0, timing.faults_s / 2))
    faults = [
        draw_fault(network, chance.choice(kinds), chance.uniform(start, timing.faults_s), chance)
        for _ in range(chance.choice((0, 1, 3, 8, 20)))
    ]
    faults.sort(key=lambda f: f.at)
    no_transit = tuple(i for i in range(network.size) if chance.random() < 0.3) if chance.random() < 0.1 else ()
    return Scenario(network, timing, tuple(faults), no_transit)


def overlapping_deaths(faults: tuple[Fault, ...]) -> tuple[Fault, ...]:
    """Without the deaths of a router that is dead already: they would bring it back too early."""
    kept: list[Fault] = []
    dead: dict[int, float] = {}
    for fault in faults:
        if fault.kind in _DEATHS:
            if fault.at <= dead.get(fault.a, -1.0):
                continue
            dead[fault.a] = fault.until
        kept.append(fault)
    return tuple(kept)
