"""Whole networks: how long from the moment the last daemon listens until every router reaches every other.

One process per router, all started at once. The clock begins when the last of them listens, for how long a program
takes to start is another matter (`listen_s` in the row). It stops when the kernels' tables, followed hop by hop, lead
from each router to the island of each other. No packet of the bench disturbs the speakers meanwhile. Afterwards all
hosts ping all others: what the tables promise has to be true.

A network of the Topology Zoo runs live in the same way, or in the simulator, where its seconds are simulated ones.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final

from babel_lab import OURS, Paths, cpu_s, extra, memory_mb, ping_pairs, start_all, stop_all, title, topology
from common import Row
from via6.lab import soak
from via6.lab.namespaces import Lab
from via6.lab.topology import Topology, load

SHAPES: Final = ("line", "ring", "grid")


@dataclass(frozen=True)
class Case:
    """`shape` is one of SHAPES, of `size` routers (a grid: a square number), or else a file that a lab is made of."""

    kind: str
    shape: str
    size: int = 10
    limit_s: float = 60.0


def network(case: Case) -> Topology:
    """The lab of a case."""
    if case.shape not in SHAPES:
        made = load(case.shape)
        return replace(made, routers=tuple(replace(router, software=case.kind) for router in made.routers))
    names = [f"r{number}" for number in range(1, case.size + 1)]
    if case.shape == "grid":
        side = int(case.size**0.5)
        across = [(names[i], names[i + 1]) for i in range(side * side) if (i + 1) % side]
        links = across + [(names[i], names[i + side]) for i in range(side * (side - 1))]
    else:
        links = list(pairwise(names))
        links += [(names[-1], names[0])] if case.shape == "ring" else []
    return topology(names, links, lans=True, kind=case.kind)


def measure(case: Case) -> list[Row]:
    """In a sandbox: one network, one start."""
    made = network(case)
    lab = Lab(made)
    lab.build()
    paths = Paths(lab)
    began = time.monotonic()
    listening = start_all(lab)
    whole, short = paths.wait(case.limit_s)
    unanswered = ping_pairs(lab)
    more = extra(
        short=short, unanswered=unanswered, listen_s=listening - began, links=len(made.cables),
        all_cpu_s=sum(cpu_s(daemon) for daemon in lab.daemons.values()),
        all_mb=sum(memory_mb(daemon) for daemon in lab.daemons.values()),
    )  # fmt: skip
    largest = max(memory_mb(daemon) for daemon in lab.daemons.values())
    if troubles := lab.troubles():
        raise SystemExit(f"{case.kind}: {troubles}")
    stop_all(lab)
    name = case.shape if case.shape in SHAPES else Path(case.shape).stem.lower()
    return [Row(name, title(case.kind), len(made.routers), whole - listening, largest, more)]


def simulate(path: str) -> list[Row]:
    """The same network in the simulator: seconds of ours for the whole run, which checks all that must hold."""
    said: list[str] = []
    start = time.monotonic()
    world = soak.real(path, cut=False, say=said.append)
    seconds = time.monotonic() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    network = world.scenario.network
    more = extra(short=len(world.findings), links=len(network.wires), simulated_s=world.now, said=said)
    return [Row(f"sim-{Path(path).stem.lower()}", OURS, network.size, seconds, memory, more)]
