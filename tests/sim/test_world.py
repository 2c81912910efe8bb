"""The simulator: networks of speakers by seed, and proof that its checks would see what they look for."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from math import inf

import pytest

from via6.babel.model import Hop, HopLeft, RouteChange, Way
from via6.lab.soak import dice_of, run_seed, scenario_of, shrink
from via6.sim.chain import ChainFib
from via6.sim.check import Finding, distances
from via6.sim.network import Network, Wire, island, link_local, of_pairs
from via6.sim.scenario import KINDS, Fault, Scenario, Timing
from via6.sim.ways import LightFib, Operation
from via6.sim.world import World

SEEDS = 200
CHUNKS = 20
ROUTERS = 5  # the soak draws larger networks
RING = of_pairs("ring", [(0, 1), (1, 2), (2, 3), (0, 3)], 4)
QUICK = Timing(hello_ms=1000, update_ms=4000, faults_s=20, quiet_s=60, kernel_s=0.0)


def run(*faults: Fault, network: Network = RING, timing: Timing = QUICK) -> World:
    world = World(Scenario(network, timing, faults), dice_of(1))
    world.run()
    return world


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_seeds(chunk: int) -> None:
    failed = []
    for seed in range(chunk * SEEDS // CHUNKS, (chunk + 1) * SEEDS // CHUNKS):
        world = run_seed(seed, most=ROUTERS)
        failed += [
            f"{finding}\n  again: python -m via6.lab.soak --seed {seed} --routers {ROUTERS} --verbose"
            for finding in world.findings[:3]
        ]
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("chunk", range(4))
def test_seeds_with_the_whole_chain_down_to_a_simulated_kernel(chunk: int) -> None:
    for seed in range(1000 + 3 * chunk, 1003 + 3 * chunk):
        world = run_seed(seed, most=4, chain=True)
        assert not world.findings, f"python -m via6.lab.soak --seed {seed} --routers 4 --chain --verbose"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_fault_happens_and_heals(kind: str) -> None:
    faults = [Fault(5.0, kind, 1, 9.0, b=300 if kind in ("cost", "hello") else 1, x=0.5)]
    world = run(*faults, timing=replace(QUICK, keyed=kind == "rekey"))
    assert not world.findings
    assert len(world.prefixes) == 4


def test_a_history_is_the_same_whatever_the_hashes_of_the_process() -> None:
    told = []
    for hashes in ("1", "2"):
        arguments = [sys.executable, "-m", "via6.lab.soak", "--seed", "7", "--routers", "5", "--verbose"]
        done = subprocess.run(
            arguments, capture_output=True, env={**os.environ, "PYTHONHASHSEED": hashes}, check=True, timeout=120
        )
        told.append(done.stdout)
    assert told[0] == told[1]
    assert told[0].count(b"\n") > 100


# --- the checks see what they look for --------------------------------------------------------------------------------


def plant(world: World, router: int, to: int, backup: int | None = None) -> None:
    """A route to the island of router 0, past the speaker."""
    fib = world.routers[router].fib
    assert isinstance(fib, LightFib)
    hops = {far: hop for hop, far in world.routers[router].far.items()}
    way = Way(hops[to], hops[backup] if backup is not None else None)
    touched = fib.perform(Operation("whole", island(0), way))
    world.touched(world.routers[router], touched)


def test_a_loop_is_seen_also_one_of_backups_alone() -> None:
    world = World(Scenario(RING, QUICK, ()), dice_of(1))
    world.run_until(10)
    assert not world.findings
    plant(world, 2, 1, backup=3)
    assert not world.findings  # both of them go to router 0
    plant(world, 3, 0, backup=2)
    assert [f.kind for f in world.findings] == ["loop"]
    assert "backup" in world.findings[0].text


def test_a_loop_is_measured_where_it_is_allowed() -> None:
    world = World(Scenario(RING, QUICK, ()), dice_of(1))
    world.run_until(10)
    world.watch.forgive(100)
    plant(world, 2, 1)
    plant(world, 1, 2)
    assert not world.findings
    assert world.watch.loops.count == 1
    world.now += 7
    plant(world, 1, 0)
    assert world.watch.loops.longest_s == {"forgotten": 7}
    assert world.watch.loops.widest == 2


def test_a_wrong_path_a_missing_and_a_superfluous_route_are_seen() -> None:
    world = World(Scenario(RING, QUICK, ()), dice_of(1))
    world.run_until(30)
    plant(world, 1, 2)
    fib = world.routers[3].fib
    world.touched(world.routers[3], fib.perform(Operation("drop", island(0))))
    world.watch.forgive(inf)
    world._judge()
    texts = "\n".join(f.text for f in world.findings if f.kind == "path")
    assert "r1: 10.0.0.0/24: goes by r2" in texts
    assert "r3: 10.0.0.0/24: has a path of 96, but is not routed" in texts
    world.findings.clear()
    world.routers[0].own.clear()
    world._judge()
    assert any("cannot be reached, but is routed" in f.text for f in world.findings)


def test_a_route_to_nobody_and_one_for_an_unknown_prefix_are_seen() -> None:
    world = World(Scenario(RING, QUICK, ()), dice_of(1))
    fib = world.routers[1].fib
    world.touched(world.routers[1], fib.perform(Operation("whole", island(0), Way(Hop(2, link_local(99))))))
    world.touched(world.routers[1], fib.perform(Operation("whole", island(77), Way(None))))
    assert [f.kind for f in world.findings] == ["stranger", "invented"]


def test_an_exception_and_a_deadline_that_stands_still_are_seen() -> None:
    world = World(Scenario(RING, QUICK, ()), dice_of(1))
    world.run_until(5)
    speaker = world.routers[0].speaker
    assert speaker is not None
    world.routers[0].input(lambda _: 1 // 0)  # type: ignore[arg-type]
    assert [f.kind for f in world.findings] == ["exception"]
    assert "ZeroDivisionError" in world.findings[0].text


def test_the_oracle_adds_costs_towards_the_origin_and_honours_who_does_not_forward() -> None:
    wires = (Wire((0, 1), (10, 1)), Wire((1, 2), (100, 1)), Wire((0, 2), (5000, 5000)))
    network = Network("triangle", 3, wires, ((0, island(0), 7),))
    world = World(Scenario(network, QUICK, ()), dice_of(1))
    world.run_until(5)
    assert distances(world.routers, world.usable(), island(0)) == {0: 7, 1: 17, 2: 117}
    world.routers[1].transit_v4 = False
    assert distances(world.routers, world.usable(), island(0)) == {0: 7, 1: 17, 2: 5007}


# --- the simulated FIB ------------------------------------------------------------------------------------------------


def test_the_kernel_falls_back_by_itself_and_brings_nothing_back() -> None:
    one, two = Hop(2, link_local(1)), Hop(3, link_local(2))
    for order in range(4):
        fib = LightFib()
        for operation in fib.operations([RouteChange(4, 24, Way(one, two), [island(0).packed])], order):
            fib.perform(operation)
        assert fib.look(island(0)) == Way(one, two)
        assert fib.carrier(2, False) == [island(0)]
        assert fib.look(island(0)) == Way(None, two)
        assert fib.carrier(2, True) == []
        assert fib.look(island(0)) == Way(None, two)
        assert fib.wrong()
        fib.perform(Operation("repair"))
        assert fib.look(island(0)) == Way(one, two)
        assert not fib.wrong()


def test_both_fibs_do_the_same() -> None:
    one, two = Hop(2, link_local(1)), Hop(3, link_local(2))
    packed = [island(0).packed]
    light, chain = LightFib(), ChainFib(2)
    for fib in (light, chain):
        shown = [fib.restart()]
        steps: list[tuple[RouteChange | HopLeft, ...]] = [
            (RouteChange(4, 24, Way(one, two), packed),),
            (HopLeft(one), RouteChange(4, 24, Way(two), packed, Way(one, two))),
            (RouteChange(4, 24, Way(None), packed, Way(two)),),
            (RouteChange(4, 24, None, packed, Way(None)),),
        ]
        looks = []
        fib.perform(Operation("complete"))
        for step in steps:
            for operation in fib.operations(step, 0):
                fib.perform(operation)
            looks.append(fib.look(island(0)))
        assert shown == [{}]
        assert looks == [Way(one, two), Way(two), Way(None), None]
        assert not fib.wrong()
        for operation in fib.operations(steps[0], 0):
            fib.perform(operation)
        fib.carrier(2, False)
        assert fib.look(island(0)) == Way(None, two)
        fib.carrier(2, True)
        fib.perform(Operation("repair"))
        assert fib.look(island(0)) == Way(one, two)
        assert fib.restart() == {island(0): one}


def test_what_an_earlier_run_left_stays_until_the_next_is_complete() -> None:
    one, two = Hop(2, link_local(1)), Hop(3, link_local(2))
    fib = LightFib()
    fib.perform(Operation("whole", island(0), Way(one, two)))
    fib.perform(Operation("whole", island(1), Way(one, two)))
    assert fib.restart() == {island(0): one, island(1): one}
    fib.perform(Operation("whole", island(0), Way(two)))
    assert fib.look(island(0)) == Way(two, two)
    assert fib.look(island(1)) == Way(one, two)
    fib.perform(Operation("complete"))
    assert fib.look(island(0)) == Way(two)
    assert fib.look(island(1)) is None


# --- what is around it ------------------------------------------------------------------------------------------------


def test_only_the_faults_that_matter_are_kept() -> None:
    def fails(part: frozenset[int]) -> list[Finding]:
        return [Finding("loop", 1.0, "")] if {2, 5} <= part else []

    assert shrink(1, fails, 8) == {2, 5}


def test_a_seed_draws_the_same_scenario_again() -> None:
    assert scenario_of(5) == scenario_of(5)
    assert scenario_of(5) != scenario_of(6)


def test_partition_and_heal_in_a_line() -> None:
    line = of_pairs("line", [(0, 1), (1, 2), (2, 3)], 4)
    world = World(Scenario(line, replace(QUICK, faults_s=60), (Fault(10, "partition", 0, 50, b=0b0011),)), dice_of(1))
    world.run_until(9)
    assert world.routers[3].fib.look(island(0)) is not None
    world.run_until(45)
    lost = world.routers[3].fib.look(island(0))
    assert lost is None or lost.primary is None
    assert not world.run()
