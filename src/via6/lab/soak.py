"""`python -m via6.lab.soak`: simulated networks of speakers, seed after seed, for as long as told.

    python -m via6.lab.soak --seconds 600            # fresh seeds; a failing one is printed and the run goes on
    python -m via6.lab.soak --seed 4711 --verbose    # one seed again, with its whole history
    python -m via6.lab.soak --seed 4711 --shrink     # which of its faults are needed for the failure
    python -m via6.lab.soak --graphml FILE           # a real topology: seconds and memory

Everything comes from the seed (`sim.world`). The exit code is 1 if anything did not hold.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from random import Random, SystemRandom

from via6.errors import Refusal
from via6.lab.topology import load
from via6.sim.chain import ChainFib
from via6.sim.check import Finding
from via6.sim.network import KINDS, of_pairs
from via6.sim.scenario import Fault, Scenario, Timing, draw_scenario, overlapping_deaths
from via6.sim.ways import LightFib
from via6.sim.world import World


def dice_of(seed: int) -> Callable[[str], Random]:
    """Generators by purpose, all from one seed."""
    return lambda purpose: Random(f"{seed}/{purpose}")


def scenario_of(seed: int, kind: str = "", most: int = 9) -> Scenario:
    """The scenario of a seed."""
    scenario = draw_scenario(dice_of(seed)("scenario"), kind, most)
    return replace(scenario, faults=overlapping_deaths(scenario.faults))


def run_seed(
    seed: int,
    *,
    kind: str = "",
    most: int = 9,
    keep: frozenset[int] | None = None,
    chain: bool = False,
    history: Callable[[str], None] | None = None,
) -> World:
    """Runs a seed to its end; `findings` of the world is empty if all did hold. `keep` are numbers of faults;
    with `chain` every router has the whole chain of the daemon, down to a simulated kernel."""
    scenario = scenario_of(seed, kind, most)
    if keep is not None:
        scenario = replace(scenario, faults=tuple(f for i, f in enumerate(scenario.faults) if i in keep))
    if chain:
        # The simulated kernel has no IPv4 addresses on links.
        wires = tuple(replace(wire, ipv4=False) for wire in scenario.network.wires)
        scenario = replace(scenario, network=replace(scenario.network, wires=wires))
    world = World(scenario, dice_of(seed), make_fib=ChainFib if chain else LightFib.of, history=history)
    world.run()
    return world


def shrink(seed: int, fails: Callable[[frozenset[int]], list[Finding]], number: int) -> frozenset[int]:
    """The faults without which the failure of this seed is another or none. Tries to leave out halves, then single
    ones."""
    keep = frozenset(range(number))
    found = fails(keep)
    kinds = {found[0].kind} if found else set()
    size = max(1, number // 2)
    while kinds:
        for start in range(0, number, size):
            part = keep - frozenset(range(start, start + size))
            if part != keep and any(f.kind in kinds for f in fails(part)):
                keep = part
        if size == 1:
            break
        size //= 2
    return keep


@dataclass(slots=True)
class Sum:
    """What a run of many seeds came to."""

    seeds: int = 0
    failed: list[int] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    loops: int = 0
    longest_s: dict[str, float] = field(default_factory=dict)
    widest: int = 0
    checked: int = 0
    simulated_s: float = 0.0
    healed_s: float = 0.0

    def add(self, seed: int, world: World) -> None:
        self.seeds += 1
        loops = world.watch.loops
        self.loops += loops.count
        for cause, lasted_s in loops.longest_s.items():
            self.longest_s[cause] = max(self.longest_s.get(cause, 0.0), lasted_s)
        self.widest = max(self.widest, loops.widest)
        self.checked += world.watch.checked
        self.simulated_s += world.now
        self.healed_s = max(self.healed_s, world.healed_s)
        if world.findings:
            self.failed.append(seed)
            self.kinds.update({finding.kind for finding in world.findings})

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {n}" for kind, n in self.kinds.most_common())
        longest = ", ".join(f"{cause} {lasted_s:.1f} s" for cause, lasted_s in sorted(self.longest_s.items()))
        return (
            f"{self.seeds} seeds, {len(self.failed)} failed{': ' + kinds if kinds else ''}; "
            f"{self.simulated_s / 3600:.1f} h simulated, {self.checked} changes of tables checked; loops that are "
            f"allowed: {self.loops}, the longest by cause: {longest or '-'}, the widest {self.widest} routers; "
            f"all routes back {self.healed_s:.0f} s after the last fault at the latest"
        )


def _describe(seed: int, world: World, say: Callable[[str], None]) -> None:
    network, timing = world.scenario.network, world.scenario.timing
    say(f"seed {seed}: {network.kind}, {network.size} routers, {len(network.wires)} wires, {timing}")
    for index, fault in enumerate(world.scenario.faults):
        say(f"  fault {index}: {fault}")
    for finding in world.findings[:5]:
        say(f"  {finding}")
    say(f"  again: python -m via6.lab.soak --seed {seed} --verbose")


def many(given: argparse.Namespace, seeds: Iterator[int], say: Callable[[str], None]) -> Sum:
    """Seeds until the time is over."""
    total, end = Sum(), time.monotonic() + given.seconds
    for seed in seeds:
        world = run_seed(seed, kind=given.kind, most=given.routers, chain=given.chain)
        total.add(seed, world)
        if world.findings:
            _describe(seed, world, say)
        if time.monotonic() > end:
            break
    return total


def real(path: str, cut: bool, say: Callable[[str], None]) -> World:
    """A topology from a lab file, all routers started within a second; with `cut` its first wire breaks later. Says
    seconds and memory."""
    lab = load(path)
    number = {router.name: index for index, router in enumerate(lab.routers)}
    pairs = [(number[cable.a.router], number[cable.b.router]) for cable in lab.cables]
    network = of_pairs(lab.name, pairs, len(number), {i: name for name, i in number.items()})
    timing = Timing(1000, 16_000, faults_s=60, quiet_s=120)
    faults = (Fault(40, "carrier", 0),) if cut else ()
    world = World(Scenario(network, timing, faults), dice_of(1))
    start = time.monotonic()
    while world.now < timing.faults_s and _missing(world):
        world.run_until(world.now + 0.1)
    say(f"all pairs after {world.now:.1f} s of simulated time, {time.monotonic() - start:.1f} s of ours")
    world.run()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    say(
        f"{lab.name}: {network.size} routers, {len(pairs)} wires, {world.now:.0f} s simulated in"
        f" {time.monotonic() - start:.1f} s, {world.packets} packets of {world.octets >> 20} MB,"
        f" {memory:.0f} MB memory, {len(world.findings)} findings"
    )
    return world


def _missing(world: World) -> bool:
    """A router does not yet route to every other."""
    for router in world.routers:
        for prefix in world.prefixes:
            if prefix not in router.own:
                way = router.fib.look(prefix)
                if way is None or way.primary is None:
                    return True
    return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m via6.lab.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="how long (default 60)")
    parser.add_argument("--seed", type=int, help="this seed alone")
    parser.add_argument("--from", type=int, dest="first", metavar="SEED", help="seeds from this one on (default: any)")
    parser.add_argument("--count", type=int, help="so many seeds at most")
    parser.add_argument("--kind", choices=KINDS, default="", help="networks of this shape alone")
    parser.add_argument("--routers", type=int, default=9, help="of a network at most (default 9)")
    parser.add_argument("--chain", action="store_true", help="with Rib, Fib and simulated kernel behind each speaker")
    parser.add_argument("--verbose", action="store_true", help="with --seed: the whole history")
    parser.add_argument("--shrink", action="store_true", help="with --seed: leave out the faults that do not matter")
    parser.add_argument("--keep", metavar="N,N…", help="with --seed: these of its faults alone (- for none)")
    parser.add_argument("--graphml", metavar="FILE", help="a topology of the Topology Zoo, or a lab file")
    parser.add_argument("--cut", action="store_true", help="with --graphml: the first wire breaks")
    return parser


def _one(given: argparse.Namespace) -> int:
    seed: int = given.seed
    keep = frozenset(int(n) for n in given.keep.split(",") if n != "-") if given.keep else None
    if given.shrink:

        def fails(part: frozenset[int]) -> list[Finding]:
            return run_seed(seed, kind=given.kind, most=given.routers, keep=part, chain=given.chain).findings

        keep = shrink(seed, fails, len(scenario_of(seed, given.kind, given.routers).faults))
        print(f"needed: --keep {','.join(map(str, sorted(keep))) or '-'}")
    history = print if given.verbose else None
    world = run_seed(seed, kind=given.kind, most=given.routers, keep=keep, chain=given.chain, history=history)
    _describe(seed, world, print)
    print(f"{len(world.findings)} findings, {world.events} events, {world.packets} packets, {world.watch.loops}")
    return 1 if world.findings else 0


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 1 if anything did not hold."""
    given = _parser().parse_args(arguments)
    if given.graphml:
        try:
            world = real(given.graphml, given.cut, print)
        except Refusal as refusal:
            print(refusal, file=sys.stderr)
            return 2
        for finding in world.findings:
            print(finding)
        return 1 if world.findings else 0
    if given.seed is not None:
        return _one(given)
    first = given.first if given.first is not None else SystemRandom().randrange(10**9)
    seeds = iter(range(first, first + given.count)) if given.count else count(first)
    print(f"seeds from {first}")
    total = many(given, seeds, lambda line: print(line, flush=True))
    print(total)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
